//! Activations quantised to eight bits, as the integer matrix kernels read them.
//!
//! Thirty-two consecutive values of a row share one scale, `max |x| / 127`; codes are rounded to nearest, ties to
//! even. (A scale for each 32, and the form `q = round(x / d)`, are those of ggml's Q8_1.)
//!
//! Where more is asked for ([`Form::Int16`]), a value has a second byte for what the first leaves: fifteen bits,
//! `round(x * 127 * 128 / max |x|) = 128 * first + second`. It costs a second dot product.
//!
//! Transformers carry a few huge values in fixed places of the residual stream (Sun et al. 2024, arXiv:2402.17762), and
//! rounding the block that holds the hugest costs more than rounding all others together. [`Form::Peak`] gives this
//! block alone its second bytes, kept apart: nearly all the exactness of fifteen bits, for one more block in a row.
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

impl Meta {
    /// Of codes of value `d`, from the sum of all and of the first sixteen.
    #[inline(always)]
    fn new(d: f32, sum: i32, sum_low: i32) -> Meta {
        Meta { d, sum: d * sum as f32, neg_codes: -sum, neg_codes_low: -sum_low }
    }
}

/// In which form a map wants its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// As it is.
    #[default]
    Float,
    /// Eight bits and a scale for each 32 values.
    Int8,
    /// The same, and fifteen bits in the one block of a row that holds its largest value. For whole rows only.
    Peak,
    /// Fifteen bits and a scale for each 32 values: 128 times finer, at up to twice the work.
    Int16,
}

impl Form {
    /// Bytes of a value's code.
    pub(crate) fn n_bytes(self) -> usize {
        match self {
            Form::Float => 0,
            Form::Int8 | Form::Peak => 1,
            Form::Int16 => 2,
        }
    }
}

/// The second bytes of the block of a row that holds its largest value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Peak {
    /// Which block it is.
    pub block: usize,
    /// As of a block of its own.
    pub meta: Meta,
    pub codes: [i8; BLOCK],
}

/// `n_tokens` rows of `n_cols` quantised values. See the module for the layout.
#[derive(Clone, Debug, Default)]
pub struct Acts {
    n_tokens: usize,
    n_cols: usize,
    form: Form,
    codes: Vec<i8>,
    metas: Vec<Meta>,
    /// Of each token, in [`Form::Peak`].
    peaks: Vec<Peak>,
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
        self.peaks.resize(if form == Form::Peak { n_tokens } else { 0 }, Peak::default());
    }

    /// Rows.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Values per row.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// What codes its values have.
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

    /// Of each token, in [`Form::Peak`]; else none.
    pub(crate) fn peaks(&self) -> &[Peak] {
        &self.peaks
    }

    /// A handle through which threads write disjoint blocks.
    pub(crate) fn writer(&mut self) -> ActsWriter<'_> {
        ActsWriter {
            codes: self.codes.as_mut_ptr(),
            metas: self.metas.as_mut_ptr(),
            peaks: self.peaks.as_mut_ptr(),
            acts: self,
        }
    }

    /// The values that the codes stand for, row by row: for tests and for exactness checks.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut rows = Vec::with_capacity(self.n_tokens * self.n_cols);
        for token in 0..self.n_tokens {
            for block in 0..self.n_cols / BLOCK {
                let idx = self.block_idx(token, block);
                let codes = &self.codes[idx * BLOCK * self.form.n_bytes()..];
                let d = self.metas[idx].d;
                let peak = self.peaks.get(token).filter(|peak| peak.block == block);
                rows.extend((0..BLOCK).map(|i| match (self.form, peak) {
                    (Form::Int16, _) => d * (128.0 * f32::from(codes[i]) + f32::from(codes[BLOCK + i])),
                    (_, Some(peak)) => d * f32::from(codes[i]) + peak.meta.d * f32::from(peak.codes[i]),
                    _ => d * f32::from(codes[i]),
                }));
            }
        }
        rows
    }
}

/// Writes rows of [`Acts`] from several threads.
pub(crate) struct ActsWriter<'a> {
    codes: *mut i8,
    metas: *mut Meta,
    peaks: *mut Peak,
    acts: &'a Acts,
}

// SAFETY: a block is written by one thread alone, as `write` demands.
unsafe impl Sync for ActsWriter<'_> {}

impl ActsWriter<'_> {
    /// Quantises `values`, whole blocks, into the blocks of `token` from `first_block` on: all of them in
    /// [`Form::Peak`].
    ///
    /// # Safety
    /// `token` and the blocks are in range, and nobody else writes or reads them meanwhile.
    #[inline(always)]
    pub unsafe fn write<S: Simd>(&self, s: S, token: usize, first_block: usize, values: &[f32]) {
        let is_peak = self.acts.form == Form::Peak;
        debug_assert!(!is_peak || values.len() == self.acts.n_cols);
        let mut largest = if is_peak { largest(s, values) } else { f32::NAN };
        for (i, values) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
            let block = first_block + i;
            let idx = self.acts.block_idx(token, block);
            // SAFETY: the caller's.
            unsafe {
                let codes = self.codes.add(idx * BLOCK * self.acts.form.n_bytes());
                let (low, high) = (s.load(values.as_ptr()), s.load(values.as_ptr().add(LANES)));
                let amax = s.reduce_max(s.max(s.abs(low), s.abs(high)));
                let scaled = Scaled { low, high, amax };
                *self.metas.add(idx) = if self.acts.form == Form::Int16 {
                    let (first, second) = scaled.write_wide(s, codes, codes.add(BLOCK));
                    let (sum, sum_low) = (128 * first.sum + second.sum, 128 * first.low + second.low);
                    Meta::new(second.d, sum, sum_low)
                } else if amax == largest {
                    // Only the first of several.
                    largest = f32::NAN;
                    let peak = &mut *self.peaks.add(token);
                    let (first, second) = scaled.write_wide(s, codes, peak.codes.as_mut_ptr());
                    peak.block = block;
                    peak.meta = Meta::new(second.d, second.sum, second.low);
                    Meta::new(first.d, first.sum, first.low)
                } else {
                    let codes = scaled.write(s, codes);
                    Meta::new(codes.d, codes.sum, codes.low)
                };
            }
        }
    }
}

/// The largest magnitude, which is no NaN.
#[inline(always)]
fn largest<S: Simd>(s: S, values: &[f32]) -> f32 {
    let mut max = s.splat(0.0);
    for values in values.as_chunks::<LANES>().0 {
        // SAFETY: sixteen values are readable.
        max = s.max(s.abs(unsafe { s.load(values.as_ptr()) }), max);
    }
    s.reduce_max(max)
}

/// A block of values, and the largest magnitude among them.
struct Scaled<F> {
    low: F,
    high: F,
    amax: f32,
}

/// What is to be known of 32 codes.
struct Written {
    /// Value of a code.
    d: f32,
    /// Of all codes, and of the first sixteen.
    sum: i32,
    low: i32,
}

impl<F: Copy> Scaled<F> {
    /// The factor that brings the values to codes of at most `largest_code`, and the value of a code.
    #[inline(always)]
    fn scales(&self, largest_code: f32) -> (f32, f32) {
        if self.amax <= 1e-30 {
            // Too small to have a reciprocal: zeros.
            (0.0, 0.0)
        } else if self.amax <= f32::MAX {
            (largest_code / self.amax, self.amax / largest_code)
        } else {
            // Infinity or NaN: the result shall be NaN too, not a plausible number.
            (0.0, f32::NAN)
        }
    }

    /// One byte for each value.
    ///
    /// # Safety
    /// A block of bytes is writable at `codes`.
    #[inline(always)]
    unsafe fn write<S: Simd<F = F>>(&self, s: S, codes: *mut i8) -> Written {
        let (inverse, d) = self.scales(127.0);
        let inverse = s.splat(inverse);
        let (low, high) = (s.round(s.mul(self.low, inverse)), s.round(s.mul(self.high, inverse)));
        // SAFETY: the caller's.
        unsafe {
            s.store_i8(codes, low);
            s.store_i8(codes.add(LANES), high);
        }
        let (low, high) = (s.reduce_add_i(low), s.reduce_add_i(high));
        Written { d, sum: low + high, low }
    }

    /// Fifteen bits for each value, `128 * first + second`, the second at most 64 in magnitude.
    ///
    /// # Safety
    /// A block of bytes is writable at `first` and at `second`.
    #[inline(always)]
    unsafe fn write_wide<S: Simd<F = F>>(&self, s: S, first: *mut i8, second: *mut i8) -> (Written, Written) {
        let (inverse, d) = self.scales(127.0 * 128.0);
        let inverse = s.splat(inverse);
        // SAFETY: the caller's.
        let (low, high) = unsafe {
            (
                split(s, s.mul(self.low, inverse), first, second),
                split(s, s.mul(self.high, inverse), first.add(LANES), second.add(LANES)),
            )
        };
        (
            Written { d: 128.0 * d, sum: low.0 + high.0, low: low.0 },
            Written { d, sum: low.1 + high.1, low: low.1 },
        )
    }
}

/// Rounds sixteen values to `128 * first + second`; the sums of the firsts and of the seconds.
///
/// # Safety
/// Sixteen bytes are writable at `first` and at `second`.
#[inline(always)]
unsafe fn split<S: Simd>(s: S, x: S::F, first: *mut i8, second: *mut i8) -> (i32, i32) {
    let q = s.to_f(s.round(x));
    let high = s.round(s.mul(q, s.splat(1.0 / 128.0)));
    let low = s.round(s.fma(s.to_f(high), s.splat(-128.0), q));
    // SAFETY: the caller's.
    unsafe {
        s.store_i8(first, high);
        s.store_i8(second, low);
    }
    (s.reduce_add_i(high), s.reduce_add_i(low))
}
