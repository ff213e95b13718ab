//! Keys and values of past tokens, in pages.
//!
//! A page holds [`PAGE_LEN`] positions of every layer of one sequence. Pages are reference-counted by whoever keeps
//! sequences, so that sequences with the same beginning share it.
//!
//! Within a page, for each layer and key-value head:
//! - keys: `[PAGE_LEN / 16][head_dim][16]`, sixteen positions to a vector, so that a query's products with sixteen
//!   keys need no sum across lanes;
//! - values: `[PAGE_LEN][head_dim padded to 16]`, sixteen coordinates to a vector.
//!
//! Elements are floats, half floats, or bytes with one half-float scale for each 32 coordinates of a position (ggml's Q8_0):
//! keys' scales `[PAGE_LEN / 16][head_dim / 32][16]`, values' `[PAGE_LEN][head_dim / 32]`.

use half::f16;

use crate::dtype::DType;
use crate::isa::{Isa, Kernel, LANES, Simd};
use crate::math::load_part;
use crate::memory::{Buffer, BufferPart};

/// Positions per page.
pub const PAGE_LEN: usize = 64;
/// Coordinates that share a scale.
const GROUP: usize = 32;

/// Element type of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KvType {
    /// Half floats.
    #[default]
    F16,
    /// Bytes with one scale for each 32.
    Q8_0,
    /// Floats as they were computed: for exactness, at twice the memory of half floats.
    F32,
}

impl KvType {
    /// Every type.
    pub const ALL: [KvType; 3] = [KvType::F16, KvType::Q8_0, KvType::F32];

    /// As files and options say it: `f16`, `q8_0` or `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
            KvType::F32 => "f32",
        }
    }

    /// The type of that name.
    pub fn by_name(name: &str) -> Option<KvType> {
        KvType::ALL.into_iter().find(|kv_type| kv_type.name() == name)
    }

    /// The type of its elements.
    pub const fn dtype(self) -> DType {
        match self {
            KvType::F16 => DType::F16,
            KvType::Q8_0 => DType::Q8_0,
            KvType::F32 => DType::F32,
        }
    }
}

/// What a page has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub n_layers: usize,
    /// Key-value heads of each layer.
    pub n_kv_heads: usize,
    /// Coordinates of each head; a multiple of 32 for Q8_0.
    pub head_dim: usize,
    /// Element type.
    pub kv_type: KvType,
}

impl KvShape {
    /// Coordinates of a value, padded to whole vectors.
    fn padded_dim(self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }
    fn k_code_bytes(self) -> usize {
        PAGE_LEN * self.head_dim * self.element_bytes()
    }
    fn k_scale_bytes(self) -> usize {
        match self.kv_type {
            KvType::F16 | KvType::F32 => 0,
            KvType::Q8_0 => PAGE_LEN * (self.head_dim / GROUP) * 2,
        }
    }
    fn v_code_bytes(self) -> usize {
        PAGE_LEN * self.padded_dim() * self.element_bytes()
    }
    fn element_bytes(self) -> usize {
        match self.kv_type {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8_0 => 1,
        }
    }
    /// Keys and values of one layer and head.
    fn head_bytes(self) -> usize {
        let bytes = self.k_code_bytes() + self.v_code_bytes() + 2 * self.k_scale_bytes();
        bytes.next_multiple_of(64)
    }
    /// Bytes of a page.
    pub fn page_bytes(self) -> usize {
        self.n_layers * self.n_kv_heads * self.head_bytes()
    }
}

/// Keys and values of [`PAGE_LEN`] positions. Unwritten positions are zeros.
#[derive(Debug)]
pub struct KvPage {
    shape: KvShape,
    data: BufferPart,
}

impl Clone for KvPage {
    fn clone(&self) -> KvPage {
        let mut page = KvPage::new(self.shape);
        page.data.as_mut_slice().copy_from_slice(self.data.as_slice());
        page
    }
}

/// Makes pages, several in one allocation: only so do pages of one or two megabytes lie on huge pages, which makes
/// reading far back a fifth faster. An allocation is given back with the last of its pages.
#[derive(Debug)]
pub struct KvPages {
    shape: KvShape,
    /// Made, and not yet asked for.
    spare: Vec<KvPage>,
}

impl KvPages {
    /// Bytes of an allocation, if not a single page takes more. Memory that no page uses is never touched, so it costs
    /// nothing but its addresses.
    const ALLOCATION_BYTES: usize = 8 << 20;

    /// A source of pages of this shape.
    pub fn new(shape: KvShape) -> KvPages {
        KvPages { shape, spare: Vec::new() }
    }

    /// An empty page.
    pub fn page(&mut self) -> KvPage {
        if self.spare.is_empty() {
            self.spare = KvPage::several(self.shape, KvPages::ALLOCATION_BYTES / self.shape.page_bytes());
            // The first in memory is handed out first.
            self.spare.reverse();
        }
        self.spare.pop().expect("at least one page was made")
    }
}

impl KvPage {
    /// An empty page.
    ///
    /// # Panics
    /// If the head's dimension does not suit the element type.
    pub fn new(shape: KvShape) -> KvPage {
        KvPage::several(shape, 1).pop().expect("one page was made")
    }

    /// At least one page, at best `n_pages`, in one allocation.
    fn several(shape: KvShape, n_pages: usize) -> Vec<KvPage> {
        assert!(shape.kv_type != KvType::Q8_0 || shape.head_dim.is_multiple_of(GROUP));
        let buffer = Buffer::zeroed(n_pages.max(1) * shape.page_bytes());
        buffer.into_parts(shape.page_bytes()).map(|data| KvPage { shape, data }).collect()
    }

    /// What it has room for.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// All of it, to be kept elsewhere.
    pub fn bytes(&self) -> &[u8] {
        self.data.as_slice()
    }

    /// Room for what [`KvPage::bytes`] of a page of the same shape gave.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.data.as_mut_slice()
    }

    fn head_at(&self, layer: usize, head: usize) -> usize {
        assert!(layer < self.shape.n_layers && head < self.shape.n_kv_heads);
        (layer * self.shape.n_kv_heads + head) * self.shape.head_bytes()
    }

    /// Stores one position's key and value, each `head_dim` long, in slot `slot`.
    pub fn store(
        &mut self,
        isa: Isa,
        (layer, head): (usize, usize),
        slot: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let shape = self.shape;
        let dim = shape.head_dim;
        assert!(slot < PAGE_LEN && key.len() == dim && value.len() == dim);
        let at = self.head_at(layer, head);
        let data = &mut self.data.as_mut_slice()[at..][..shape.head_bytes()];
        let (keys, data) = data.split_at_mut(shape.k_code_bytes());
        let (values, data) = data.split_at_mut(shape.v_code_bytes());
        let (block, lane) = (slot / LANES, slot % LANES);
        match shape.kv_type {
            KvType::F32 => {
                let keys = keys[block * dim * LANES * 4..].chunks_exact_mut(4).skip(lane).step_by(LANES);
                keys.zip(key).for_each(|(out, x)| out.copy_from_slice(&x.to_le_bytes()));
                let values = values[slot * shape.padded_dim() * 4..].chunks_exact_mut(4);
                values.zip(value).for_each(|(out, x)| out.copy_from_slice(&x.to_le_bytes()));
            }
            KvType::F16 => {
                let put = |row: &[f32], out: &mut dyn Iterator<Item = &mut [u8]>| {
                    for part in row.chunks(LANES) {
                        let halves = isa.run(ToHalf(part));
                        // The halves first: at its end, a zip has already taken one more of what comes first.
                        let both = halves[..part.len()].iter().zip(&mut *out);
                        both.for_each(|(x, out)| out.copy_from_slice(&x.to_le_bytes()));
                    }
                };
                let keys = keys[block * dim * LANES * 2..].chunks_exact_mut(2).skip(lane).step_by(LANES);
                put(key, &mut { keys });
                put(value, &mut values[slot * shape.padded_dim() * 2..].chunks_exact_mut(2));
            }
            KvType::Q8_0 => {
                let (key_scales, data) = data.split_at_mut(shape.k_scale_bytes());
                let value_scales = &mut data[..shape.k_scale_bytes()];
                let n_groups = dim / GROUP;
                let keys = keys[block * dim * LANES..].iter_mut().skip(lane).step_by(LANES);
                let key_scales = key_scales[block * n_groups * LANES * 2..].chunks_exact_mut(2);
                quantize(key, keys, key_scales.skip(lane).step_by(LANES));
                let values = values[slot * shape.padded_dim()..].iter_mut();
                quantize(value, values, value_scales[slot * n_groups * 2..].chunks_exact_mut(2));
            }
        }
    }

    /// The keys and values of one layer and head.
    pub(crate) fn head(&self, layer: usize, head: usize) -> KvHead<'_> {
        let shape = self.shape;
        let data = &self.data.as_slice()[self.head_at(layer, head)..][..shape.head_bytes()];
        let (keys, data) = data.split_at(shape.k_code_bytes());
        let (values, data) = data.split_at(shape.v_code_bytes());
        let (key_scales, data) = data.split_at(shape.k_scale_bytes());
        KvHead { shape, keys, values, key_scales, value_scales: &data[..shape.k_scale_bytes()] }
    }
}

/// At most sixteen values in half precision; zeros after them.
struct ToHalf<'a>(&'a [f32]);

impl Kernel for ToHalf<'_> {
    type Output = [u16; LANES];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [u16; LANES] {
        let mut halves = [0; LANES];
        // SAFETY: sixteen elements are writable.
        unsafe { s.store_f16(halves.as_mut_ptr(), load_part(s, self.0, 0)) };
        halves
    }
}

/// One byte for each value, one half-float scale for each 32: d = max |x| / 127 rounded to half precision.
fn quantize<'a>(
    x: &[f32],
    mut codes: impl Iterator<Item = &'a mut u8>,
    mut scales: impl Iterator<Item = &'a mut [u8]>,
) {
    for x in x.chunks_exact(GROUP) {
        let d = f16::from_f32(x.iter().fold(0.0, |max: f32, x| max.max(x.abs())) / 127.0);
        let inverse = if d.to_f32() > 0.0 { 1.0 / d.to_f32() } else { 0.0 };
        if let Some(scale) = scales.next() {
            scale.copy_from_slice(&d.to_le_bytes());
        }
        for (x, code) in x.iter().zip(codes.by_ref()) {
            // Rounding of the scale may push the largest value past 127: the cast saturates.
            *code = (x * inverse).round_ties_even() as i8 as u8;
        }
    }
}

/// Keys and values of a page, of one layer and head.
pub(crate) struct KvHead<'a> {
    pub shape: KvShape,
    keys: &'a [u8],
    values: &'a [u8],
    key_scales: &'a [u8],
    value_scales: &'a [u8],
}

/// Where vectors of keys and values come from: a page, or a copy of it widened to `f32`.
pub(crate) trait KvSource: Copy {
    /// Whether it lies in memory that nobody has read lately, so that it pays to ask for it ahead of time.
    const IS_COLD: bool;
    /// Bytes of an element.
    const ELEMENT_BYTES: usize;

    /// Where the values begin.
    fn values(self) -> *const u8;

    /// Coordinate `dim` of the keys at the sixteen positions of block `block`.
    ///
    /// # Safety
    /// Both are in range.
    unsafe fn key<S: Simd>(self, s: S, block: usize, dim: usize) -> S::F;
    /// Coordinates `16 * part..` of the value at position `pos`.
    ///
    /// # Safety
    /// Both are in range.
    unsafe fn value<S: Simd>(self, s: S, pos: usize, part: usize) -> S::F;
}

/// A page of half floats.
#[derive(Clone, Copy)]
pub(crate) struct HalfSource {
    keys: *const u16,
    values: *const u16,
    dim: usize,
    padded_dim: usize,
}

impl KvSource for HalfSource {
    const IS_COLD: bool = true;
    const ELEMENT_BYTES: usize = 2;

    #[inline(always)]
    fn values(self) -> *const u8 {
        self.values.cast()
    }
    #[inline(always)]
    unsafe fn key<S: Simd>(self, s: S, block: usize, dim: usize) -> S::F {
        // SAFETY: the caller's.
        unsafe { s.load_f16(self.keys.add((block * self.dim + dim) * LANES)) }
    }
    #[inline(always)]
    unsafe fn value<S: Simd>(self, s: S, pos: usize, part: usize) -> S::F {
        // SAFETY: the caller's.
        unsafe { s.load_f16(self.values.add(pos * self.padded_dim + part * LANES)) }
    }
}

/// A page of bytes with scales.
#[derive(Clone, Copy)]
pub(crate) struct ByteSource {
    keys: *const i8,
    values: *const i8,
    key_scales: *const u16,
    value_scales: *const u16,
    dim: usize,
}

impl KvSource for ByteSource {
    const IS_COLD: bool = true;
    const ELEMENT_BYTES: usize = 1;

    #[inline(always)]
    fn values(self) -> *const u8 {
        self.values.cast()
    }
    #[inline(always)]
    unsafe fn key<S: Simd>(self, s: S, block: usize, dim: usize) -> S::F {
        // SAFETY: the caller's.
        unsafe {
            let scale = s.load_f16(self.key_scales.add((block * (self.dim / GROUP) + dim / GROUP) * LANES));
            s.mul(s.load_i8(self.keys.add((block * self.dim + dim) * LANES)), scale)
        }
    }
    #[inline(always)]
    unsafe fn value<S: Simd>(self, s: S, pos: usize, part: usize) -> S::F {
        // SAFETY: the caller's.
        unsafe {
            let scale = *self.value_scales.add(pos * (self.dim / GROUP) + part * LANES / GROUP);
            let scale = s.splat(f16::from_bits(scale).to_f32());
            s.mul(s.load_i8(self.values.add(pos * self.dim + part * LANES)), scale)
        }
    }
}

/// A page of floats, or one widened to them, in the layout of a page of half floats.
#[derive(Clone, Copy)]
pub(crate) struct FloatSource {
    keys: *const f32,
    values: *const f32,
    dim: usize,
    padded_dim: usize,
}

impl KvSource for FloatSource {
    const IS_COLD: bool = false;
    const ELEMENT_BYTES: usize = 4;

    #[inline(always)]
    fn values(self) -> *const u8 {
        self.values.cast()
    }
    #[inline(always)]
    unsafe fn key<S: Simd>(self, s: S, block: usize, dim: usize) -> S::F {
        // SAFETY: the caller's.
        unsafe { s.load(self.keys.add((block * self.dim + dim) * LANES)) }
    }
    #[inline(always)]
    unsafe fn value<S: Simd>(self, s: S, pos: usize, part: usize) -> S::F {
        // SAFETY: the caller's.
        unsafe { s.load(self.values.add(pos * self.padded_dim + part * LANES)) }
    }
}

impl KvHead<'_> {
    /// Where the keys begin.
    pub fn keys(&self) -> *const u8 {
        self.keys.as_ptr()
    }

    pub fn half_source(&self) -> HalfSource {
        HalfSource {
            keys: self.keys.as_ptr().cast(),
            values: self.values.as_ptr().cast(),
            dim: self.shape.head_dim,
            padded_dim: self.shape.padded_dim(),
        }
    }

    pub fn float_source(&self) -> FloatSource {
        FloatSource {
            keys: self.keys.as_ptr().cast(),
            values: self.values.as_ptr().cast(),
            dim: self.shape.head_dim,
            padded_dim: self.shape.padded_dim(),
        }
    }

    pub fn byte_source(&self) -> ByteSource {
        ByteSource {
            keys: self.keys.as_ptr().cast(),
            values: self.values.as_ptr().cast(),
            key_scales: self.key_scales.as_ptr().cast(),
            value_scales: self.value_scales.as_ptr().cast(),
            dim: self.shape.head_dim,
        }
    }
}

/// Room for a page widened to `f32`.
#[derive(Default)]
pub(crate) struct WidePage {
    data: Vec<f32>,
}

impl WidePage {
    /// Widens the first `n_blocks` blocks of sixteen positions.
    ///
    /// # Safety
    /// `source` is of this shape.
    #[inline(always)]
    pub unsafe fn widen<S: Simd>(
        &mut self,
        s: S,
        source: impl KvSource,
        shape: KvShape,
        n_blocks: usize,
    ) -> FloatSource {
        let (dim, padded_dim) = (shape.head_dim, shape.padded_dim());
        self.data.resize(PAGE_LEN * (dim + padded_dim), 0.0);
        let keys = self.data.as_mut_ptr();
        // SAFETY: the offsets are those of the layout, within what was just resized.
        unsafe {
            let values = keys.add(PAGE_LEN * dim);
            for block in 0..n_blocks {
                for d in 0..dim {
                    s.store(keys.add((block * dim + d) * LANES), source.key(s, block, d));
                }
            }
            for pos in 0..n_blocks * LANES {
                for part in 0..padded_dim / LANES {
                    s.store(values.add(pos * padded_dim + part * LANES), source.value(s, pos, part));
                }
            }
            FloatSource { keys, values, dim, padded_dim }
        }
    }
}
