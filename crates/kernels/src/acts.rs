//! Activations quantised to eight bits, as the integer matrix kernels read them.
//!
//! Thirty-two consecutive values of a row share one scale, `max |x| / 127`; codes are rounded to nearest, ties to
//! even. (A scale for each 32, and the form `q = round(x / d)`, are those of ggml's Q8_1.)
//!
//! Rows (tokens) are grouped in panels of [`PANEL`]; within a panel all tokens' codes of one block of 32 columns
//! lie together, so that the kernel, which holds a block of weights in registers and goes through the tokens,
//! reads memory in order: `codes[panel][block][token][32]`, `metas[panel][block][token]`. The last panel holds
//! only as many tokens as there are.

use crate::isa::{Isa, Kernel, LANES, Simd};

/// Tokens per panel.
pub const PANEL: usize = 16;
/// Values that share a scale.
pub(crate) const BLOCK: usize = 32;

/// What a kernel needs to know of 32 quantised values besides their codes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct Meta {
    /// Scale: value = d * code.
    pub d: f32,
    /// d * (sum of the codes), for weights with a minimum.
    pub sum: f32,
    /// Minus the sum of the codes, for weights with a zero point.
    pub neg_codes: i32,
    /// The same over the first sixteen codes, for weights with a scale for each 16.
    pub neg_codes_low: i32,
}

/// `n_tokens` rows of `n_cols` quantised values. See the module for the layout.
#[derive(Clone, Debug, Default)]
pub struct Acts {
    n_tokens: usize,
    n_cols: usize,
    codes: Vec<i8>,
    metas: Vec<Meta>,
}

impl Acts {
    /// Makes room for `n_tokens` rows of `n_cols` values; what was there is lost.
    ///
    /// # Panics
    /// If `n_cols` is no multiple of 32.
    pub fn resize(&mut self, n_tokens: usize, n_cols: usize) {
        assert!(n_cols.is_multiple_of(BLOCK), "a row is a whole number of blocks of 32");
        (self.n_tokens, self.n_cols) = (n_tokens, n_cols);
        self.codes.resize(n_tokens * n_cols, 0);
        self.metas.resize(n_tokens * n_cols / BLOCK, Meta::default());
    }

    /// Rows.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Values per row.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Tokens of the panel that holds `token`.
    #[inline(always)]
    pub(crate) fn panel_len(&self, token: usize) -> usize {
        (self.n_tokens - token / PANEL * PANEL).min(PANEL)
    }

    /// Index, in blocks, of block `block` of `token`. The next block of the same token is `panel_len` further.
    #[inline(always)]
    pub(crate) fn block_idx(&self, token: usize, block: usize) -> usize {
        let panel = token / PANEL * PANEL;
        panel * (self.n_cols / BLOCK) + block * self.panel_len(token) + (token - panel)
    }

    pub(crate) fn codes(&self) -> &[i8] {
        &self.codes
    }

    pub(crate) fn metas(&self) -> &[Meta] {
        &self.metas
    }

    /// A handle through which threads write disjoint blocks.
    pub(crate) fn writer(&mut self) -> ActsWriter<'_> {
        ActsWriter { codes: self.codes.as_mut_ptr(), metas: self.metas.as_mut_ptr(), acts: self }
    }

    /// Quantises one row.
    pub fn quantize_row(&mut self, isa: Isa, token: usize, row: &[f32]) {
        assert!(token < self.n_tokens && row.len() == self.n_cols);
        isa.run(QuantizeRow { writer: &self.writer(), token, row });
    }

    /// The values that the codes stand for, row by row: for tests and for exactness checks.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut rows = Vec::with_capacity(self.n_tokens * self.n_cols);
        for token in 0..self.n_tokens {
            for block in 0..self.n_cols / BLOCK {
                let idx = self.block_idx(token, block);
                let codes = &self.codes[idx * BLOCK..][..BLOCK];
                rows.extend(codes.iter().map(|&q| self.metas[idx].d * f32::from(q)));
            }
        }
        rows
    }
}

/// Writes blocks of [`Acts`] from several threads.
pub(crate) struct ActsWriter<'a> {
    codes: *mut i8,
    metas: *mut Meta,
    acts: &'a Acts,
}

// SAFETY: a block is written by one thread alone, as `write_block` demands.
unsafe impl Sync for ActsWriter<'_> {}

impl ActsWriter<'_> {
    /// Quantises the 32 values at `values` into a block.
    ///
    /// # Safety
    /// `token` and `block` are in range, nobody else writes or reads this block meanwhile.
    #[inline(always)]
    pub unsafe fn write_block<S: Simd>(&self, s: S, token: usize, block: usize, values: *const f32) {
        let idx = self.acts.block_idx(token, block);
        // SAFETY: 32 values are readable; the block is in range and ours.
        unsafe {
            let (codes, meta) = (self.codes.add(idx * BLOCK), self.metas.add(idx));
            let (low, high) = (s.load(values), s.load(values.add(LANES)));
            let amax = s.reduce_max(s.max(s.abs(low), s.abs(high)));
            let (inverse, d) = if amax <= 1e-30 {
                // Too small to have a reciprocal: zeros.
                (0.0, 0.0)
            } else if amax <= f32::MAX {
                (127.0 / amax, amax / 127.0)
            } else {
                // Infinity or NaN: the result shall be NaN too, not a plausible number.
                (0.0, f32::NAN)
            };
            let inverse = s.splat(inverse);
            let (low, high) = (s.round(s.mul(low, inverse)), s.round(s.mul(high, inverse)));
            s.store_i8(codes, low);
            s.store_i8(codes.add(LANES), high);
            let sum_low = s.reduce_add_i(low);
            let sum = sum_low + s.reduce_add_i(high);
            *meta = Meta { d, sum: d * sum as f32, neg_codes: -sum, neg_codes_low: -sum_low };
        }
    }
}

struct QuantizeRow<'a> {
    writer: &'a ActsWriter<'a>,
    token: usize,
    row: &'a [f32],
}

impl Kernel for QuantizeRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (block, values) in self.row.chunks_exact(BLOCK).enumerate() {
            // SAFETY: the caller checked the token and the row's length, and holds the activations exclusively.
            unsafe { self.writer.write_block(s, self.token, block, values.as_ptr()) };
        }
    }
}
