//! Activations quantised to eight bits, as the integer matrix kernels read them.
//!
//! Thirty-two consecutive values of a row share one scale, `max |x| / 127`; codes are rounded to nearest, ties to
//! even. (A scale for each 32, and the form `q = round(x / d)`, are those of ggml's Q8_1.)
//!
//! Where more is asked for ([`Form::Int16`]), a value has a second byte for what the first leaves: fifteen bits,
//! `round(x * 127 * 128 / max |x|) = 128 * first + second`. It costs a second dot product.
//!
//! Rows (tokens) are grouped in panels of [`PANEL`]; within a panel all tokens' codes of one block of 32 columns
//! lie together, so that the kernel, which holds a block of weights in registers and goes through the tokens,
//! reads memory in order: `codes[panel][block][token][byte][32]`, `metas[panel][block][token]`. The last panel holds
//! only as many tokens as there are.

use crate::isa::{LANES, Simd};

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

/// In which form a map wants its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// As it is.
    #[default]
    Float,
    /// Eight bits and a scale for each 32 values.
    Int8,
    /// Fifteen bits and a scale for each 32 values: 128 times finer, at up to twice the work.
    Int16,
}

impl Form {
    /// Bytes of a value's code.
    pub(crate) fn n_bytes(self) -> usize {
        match self {
            Form::Float => 0,
            Form::Int8 => 1,
            Form::Int16 => 2,
        }
    }
}

/// `n_tokens` rows of `n_cols` quantised values. See the module for the layout.
#[derive(Clone, Debug, Default)]
pub struct Acts {
    n_tokens: usize,
    n_cols: usize,
    form: Form,
    codes: Vec<i8>,
    metas: Vec<Meta>,
}

impl Acts {
    /// Makes room for `n_tokens` rows of `n_cols` values; what was there is lost.
    ///
    /// # Panics
    /// If `n_cols` is no multiple of 32, or the form has no codes.
    pub fn resize(&mut self, n_tokens: usize, n_cols: usize, form: Form) {
        assert!(n_cols.is_multiple_of(BLOCK), "a row is a whole number of blocks of 32");
        assert!(form != Form::Float);
        (self.n_tokens, self.n_cols, self.form) = (n_tokens, n_cols, form);
        self.codes.resize(n_tokens * n_cols * form.n_bytes(), 0);
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

    /// Whether values have a second byte.
    pub fn form(&self) -> Form {
        self.form
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

    /// The values that the codes stand for, row by row: for tests and for exactness checks.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut rows = Vec::with_capacity(self.n_tokens * self.n_cols);
        for token in 0..self.n_tokens {
            for block in 0..self.n_cols / BLOCK {
                let idx = self.block_idx(token, block);
                let codes = &self.codes[idx * BLOCK * self.form.n_bytes()..];
                let d = self.metas[idx].d;
                rows.extend((0..BLOCK).map(|i| match self.form {
                    Form::Int16 => d * (128.0 * f32::from(codes[i]) + f32::from(codes[BLOCK + i])),
                    _ => d * f32::from(codes[i]),
                }));
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
        let is_wide = self.acts.form == Form::Int16;
        let largest_code = if is_wide { 127.0 * 128.0 } else { 127.0 };
        // SAFETY: 32 values are readable; the block is in range and ours.
        unsafe {
            let codes = self.codes.add(idx * BLOCK * self.acts.form.n_bytes());
            let (low, high) = (s.load(values), s.load(values.add(LANES)));
            let amax = s.reduce_max(s.max(s.abs(low), s.abs(high)));
            let (inverse, d) = if amax <= 1e-30 {
                // Too small to have a reciprocal: zeros.
                (0.0, 0.0)
            } else if amax <= f32::MAX {
                (largest_code / amax, amax / largest_code)
            } else {
                // Infinity or NaN: the result shall be NaN too, not a plausible number.
                (0.0, f32::NAN)
            };
            let inverse = s.splat(inverse);
            let (low, high) = (s.round(s.mul(low, inverse)), s.round(s.mul(high, inverse)));
            let (sum_low, sum_high);
            if is_wide {
                sum_low = write_wide(s, codes, low);
                sum_high = write_wide(s, codes.add(LANES), high);
            } else {
                s.store_i8(codes, low);
                s.store_i8(codes.add(LANES), high);
                (sum_low, sum_high) = (s.reduce_add_i(low), s.reduce_add_i(high));
            }
            let sum = sum_low + sum_high;
            *self.metas.add(idx) = Meta { d, sum: d * sum as f32, neg_codes: -sum, neg_codes_low: -sum_low };
        }
    }
}

/// Splits sixteen codes q into `128 * first + second`, the second at most 64 in magnitude; the sum of all q.
///
/// # Safety
/// Sixteen bytes are writable at `codes` and at a block after it.
#[inline(always)]
unsafe fn write_wide<S: Simd>(s: S, codes: *mut i8, q: S::I) -> i32 {
    let q = s.to_f(q);
    let first = s.round(s.mul(q, s.splat(1.0 / 128.0)));
    let second = s.round(s.fma(s.to_f(first), s.splat(-128.0), q));
    // SAFETY: the caller's.
    unsafe {
        s.store_i8(codes, first);
        s.store_i8(codes.add(BLOCK), second);
    }
    128 * s.reduce_add_i(first) + s.reduce_add_i(second)
}
