//! Quantised weights, laid out for the register tile.
//!
//! Sixteen rows make a tile, one row to a vector lane. Within a tile, for each block of 32 columns, the codes lie as
//! planes of 64 bytes, in which lane `r` holds four consecutive columns of row `r`: one instruction multiplies them
//! with the same four activations, broadcast. Four-bit codes share a plane in pairs, two-bit codes in fours, and a
//! fifth or third bit is a mask of 64 bits:
//!
//! | bits | planes of one block (bytes) |
//! |---|---|
//! | 2 | quarters (128) |
//! | 3 | quarters (128), bits (64) |
//! | 4 | halves (256) |
//! | 5 | halves (256), bits (64) |
//! | 6 | halves (256), quarters (128) |
//! | 8 | whole (512) |
//!
//! A tile is its scales, padded to a cache line, then its planes; so planes are aligned to cache lines. The scales
//! of a block are `d[16]` (and `m[16]`) in half precision; for types with a second level, each 256 columns begin
//! with these and each 32 columns have `scales[groups][16]` (and `mins[groups][16]`) in bytes, except that the 4-bit
//! scales and minima of Q2_K share a byte. Nothing is rounded: a packed matrix holds exactly its source's numbers.
//!
//! Rows beyond the last are zeros.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use crate::block::{Block, Shape, shape};
use crate::dtype::DType;
use crate::isa::{LANES, Simd};
use crate::memory::Buffer;

/// Columns of a block of planes.
pub(crate) const BLOCK_COLS: usize = 32;
/// Blocks of 32 columns that share the first-level scales of a type with two levels.
const SUPER_BLOCKS: usize = 8;
const CACHE_LINE: usize = 64;

/// What went wrong in packing a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackError {
    /// The type is a plain float.
    NotQuantized(DType),
    /// The bytes are not `n_rows` rows of `n_cols` weights.
    WrongSize {
        /// Bytes that the shape needs, if it makes sense at all.
        expected: Option<usize>,
        /// Bytes that were given.
        actual: usize,
    },
    /// A scale is infinite or not a number.
    NotFinite {
        /// The row it scales.
        row: usize,
    },
}

impl std::fmt::Display for PackError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PackError::NotQuantized(dtype) => write!(f, "{dtype} is not a quantised type"),
            PackError::WrongSize { expected: Some(expected), actual } => {
                write!(f, "the tensor has {actual} bytes where its shape needs {expected}")
            }
            PackError::WrongSize { expected: None, .. } => {
                f.write_str("the tensor's rows are not a whole number of blocks")
            }
            PackError::NotFinite { row } => write!(f, "row {row} has a scale that is not a finite number"),
        }
    }
}

impl std::error::Error for PackError {}

/// Byte counts and offsets within a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// First-level scales: of each block for plain types, of each 256 columns else.
    pub head_bytes: usize,
    /// Second-level scales and minima of each block; 0 for plain types.
    pub group_bytes: usize,
    /// Planes of each block.
    pub plane_bytes: usize,
}

impl Layout {
    pub const fn of(shape: Shape) -> Layout {
        let head_bytes = 2 * LANES * (1 + shape.has_min as usize);
        let group_bytes = match shape.group_len {
            0 => 0,
            len => {
                let has_min_bytes = shape.has_min && !shares_byte(shape);
                BLOCK_COLS / len * LANES * (1 + has_min_bytes as usize)
            }
        };
        Layout { head_bytes, group_bytes, plane_bytes: shape.bits as usize * 64 }
    }

    /// Offset of the first-level scales of `block`.
    #[inline(always)]
    pub const fn head_at(self, block: usize) -> usize {
        if self.group_bytes == 0 {
            block * self.head_bytes
        } else {
            block / SUPER_BLOCKS * (self.head_bytes + SUPER_BLOCKS * self.group_bytes)
        }
    }

    /// Offset of the second-level scales of `block`.
    #[inline(always)]
    pub const fn groups_at(self, block: usize) -> usize {
        self.head_at(block) + self.head_bytes + block % SUPER_BLOCKS * self.group_bytes
    }

    /// Bytes of a tile's scales, padded.
    #[inline(always)]
    pub const fn scale_bytes(self, n_blocks: usize) -> usize {
        // A type with two levels has a whole number of super-blocks, so this is the end of the last one.
        self.head_at(n_blocks).next_multiple_of(CACHE_LINE)
    }

    /// Bytes of a tile.
    pub const fn tile_bytes(self, n_blocks: usize) -> usize {
        self.scale_bytes(n_blocks) + n_blocks * self.plane_bytes
    }
}

/// Whether scale and minimum of a group are two halves of one byte (Q2_K: four bits each).
const fn shares_byte(shape: Shape) -> bool {
    shape.bits == 2 && shape.group_len == 16
}

/// A quantised matrix in tiles.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    dtype: DType,
    n_rows: usize,
    n_cols: usize,
    tile_bytes: usize,
    buffer: Arc<Buffer>,
    offset: usize,
}

impl PackedMatrix {
    /// Bytes that a packed matrix takes; `None` if the type is a float, the rows are no whole number of blocks, or
    /// the size overflows.
    pub fn size_bytes(dtype: DType, n_rows: usize, n_cols: usize) -> Option<usize> {
        if !dtype.is_quantized() {
            return None;
        }
        dtype.row_bytes(n_cols)?;
        Layout::of(shape(dtype)).tile_bytes(n_cols / BLOCK_COLS).checked_mul(n_rows.div_ceil(LANES))
    }

    /// Lays out the tiles `tiles` of a matrix; `dst` is exactly these tiles' bytes, `src` the whole matrix's.
    /// Threads may pack different tiles at once.
    pub fn pack_tiles(
        dtype: DType,
        n_rows: usize,
        n_cols: usize,
        src: &[u8],
        tiles: Range<usize>,
        dst: &mut [u8],
    ) -> Result<(), PackError> {
        if !dtype.is_quantized() {
            return Err(PackError::NotQuantized(dtype));
        }
        let expected = dtype.row_bytes(n_cols).and_then(|bytes| bytes.checked_mul(n_rows));
        if expected != Some(src.len()) {
            return Err(PackError::WrongSize { expected, actual: src.len() });
        }
        let row_bytes = src.len() / n_rows;
        let tile_bytes = Layout::of(shape(dtype)).tile_bytes(n_cols / BLOCK_COLS);
        for (tile, dst) in tiles.zip(dst.chunks_exact_mut(tile_bytes)) {
            let rows = tile * LANES..n_rows.min((tile + 1) * LANES);
            if rows.len() < LANES {
                dst.fill(0);
            }
            for (lane, row) in rows.enumerate() {
                let src = &src[row * row_bytes..][..row_bytes];
                pack_row(dtype, src, lane, dst).ok_or(PackError::NotFinite { row })?;
            }
        }
        Ok(())
    }

    /// A matrix over tiles that [`PackedMatrix::pack_tiles`] has laid out at `offset` of `buffer`.
    ///
    /// # Panics
    /// If the buffer is too short, or `offset` not a multiple of 64.
    pub fn new(
        dtype: DType,
        n_rows: usize,
        n_cols: usize,
        buffer: Arc<Buffer>,
        offset: usize,
    ) -> PackedMatrix {
        let size = PackedMatrix::size_bytes(dtype, n_rows, n_cols).expect("the shape was packed before");
        assert!(offset.is_multiple_of(CACHE_LINE) && buffer.as_slice().len() - offset >= size);
        let tile_bytes = Layout::of(shape(dtype)).tile_bytes(n_cols / BLOCK_COLS);
        PackedMatrix { dtype, n_rows, n_cols, tile_bytes, buffer, offset }
    }

    /// Packs a whole matrix into memory of its own.
    pub fn pack(dtype: DType, n_rows: usize, n_cols: usize, src: &[u8]) -> Result<PackedMatrix, PackError> {
        let size = PackedMatrix::size_bytes(dtype, n_rows, n_cols)
            .ok_or(PackError::WrongSize { expected: None, actual: src.len() })?;
        let mut buffer = Buffer::zeroed(size);
        let tiles = 0..n_rows.div_ceil(LANES);
        PackedMatrix::pack_tiles(dtype, n_rows, n_cols, src, tiles, buffer.as_mut_slice())?;
        Ok(PackedMatrix::new(dtype, n_rows, n_cols, Arc::new(buffer), 0))
    }

    /// The weights' type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows: outputs.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Columns: inputs.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Tiles of sixteen rows.
    pub fn n_tiles(&self) -> usize {
        self.n_rows.div_ceil(LANES)
    }

    #[inline(always)]
    pub(crate) fn tile(&self, tile: usize) -> &[u8] {
        &self.buffer.as_slice()[self.offset + tile * self.tile_bytes..][..self.tile_bytes]
    }

    /// Row `row`, widened to `f32`, exactly as [`crate::dequantize`] gives it from the source.
    ///
    /// # Panics
    /// If `row` is out of range or `dst` is not `n_cols` long.
    pub fn dequantize_row(&self, row: usize, dst: &mut [f32]) {
        assert!(row < self.n_rows && dst.len() == self.n_cols);
        let shape = shape(self.dtype);
        let layout = Layout::of(shape);
        let (tile, lane) = (self.tile(row / LANES), row % LANES);
        let planes = &tile[layout.scale_bytes(self.n_cols / BLOCK_COLS)..];
        let half = |at: usize| f16::from_le_bytes([tile[at], tile[at + 1]]).to_f32();
        for (block, dst) in dst.chunks_exact_mut(BLOCK_COLS).enumerate() {
            let head = layout.head_at(block);
            let d = half(head + 2 * lane);
            let m = if shape.has_min { half(head + 2 * (LANES + lane)) } else { 0.0 };
            let words = read_planes(shape, &planes[block * layout.plane_bytes..], lane);
            for (i, w) in dst.iter_mut().enumerate() {
                let code = words[i / 4].to_le_bytes()[i % 4];
                let value = shape.level(code);
                *w = match i.checked_div(shape.group_len) {
                    None => d * value + m,
                    Some(group) => {
                        let at = layout.groups_at(block) + group * LANES + lane;
                        let (scale, min) = if shares_byte(shape) {
                            (f32::from(tile[at] & 15), f32::from(tile[at] >> 4))
                        } else {
                            let n_groups = BLOCK_COLS / shape.group_len;
                            let min = if shape.has_min { tile[at + n_groups * LANES] } else { 0 };
                            (f32::from(tile[at] as i8), f32::from(min))
                        };
                        d * scale * value - m * min
                    }
                };
            }
        }
    }
}

/// Expands the macro `$then` with the names of all quantised types.
macro_rules! with_quantized_types {
    ($then:ident) => {
        $then! { Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS EW2 EW3 EW4 EW5 EW6 }
    };
}
pub(crate) use with_quantized_types;

/// Lays out one row in lane `lane` of `tile`; `None` if a scale is not finite.
fn pack_row(dtype: DType, src: &[u8], lane: usize, tile: &mut [u8]) -> Option<()> {
    // One copy of the loop for each type, so that the type is a constant in it: loading a model is mostly this.
    macro_rules! each {
        ($($name:ident)*) => {
            match dtype {
                $(DType::$name => pack_row_as(DType::$name, src, lane, tile),)*
                DType::F32 | DType::F16 | DType::BF16 => unreachable!("checked by the caller"),
            }
        };
    }
    with_quantized_types!(each)
}

#[inline(always)]
fn pack_row_as(dtype: DType, src: &[u8], lane: usize, tile: &mut [u8]) -> Option<()> {
    let shape = shape(dtype);
    let layout = Layout::of(shape);
    let n_sub_blocks = dtype.block_len() / BLOCK_COLS;
    let n_blocks = src.len() / dtype.block_bytes() * n_sub_blocks;
    let (scales, planes) = tile.split_at_mut(layout.scale_bytes(n_blocks));
    let mut is_finite = true;
    for (i, bytes) in src.chunks_exact(dtype.block_bytes()).enumerate() {
        let parsed = Block::parse(dtype, bytes);
        is_finite &= f16::from_bits(parsed.d).is_finite() && f16::from_bits(parsed.m).is_finite();
        let head = &mut scales[layout.head_at(i * n_sub_blocks)..][..layout.head_bytes];
        head[2 * lane..][..2].copy_from_slice(&parsed.d.to_le_bytes());
        if shape.has_min {
            head[2 * (LANES + lane)..][..2].copy_from_slice(&parsed.m.to_le_bytes());
        }
        for sub_block in 0..n_sub_blocks {
            let block = i * n_sub_blocks + sub_block;
            let planes = &mut planes[block * layout.plane_bytes..][..layout.plane_bytes];
            write_planes(shape, &parsed.codes[sub_block], lane, planes);
            if let Some(n_groups) = BLOCK_COLS.checked_div(shape.group_len) {
                let groups = &mut scales[layout.groups_at(block)..][..layout.group_bytes];
                for group in 0..n_groups {
                    let scale = parsed.scales[sub_block * n_groups + group] as u8;
                    let min = parsed.mins[sub_block * n_groups + group];
                    if shares_byte(shape) {
                        groups[group * LANES + lane] = scale | min << 4;
                    } else {
                        groups[group * LANES + lane] = scale;
                        if shape.has_min {
                            groups[(n_groups + group) * LANES + lane] = min;
                        }
                    }
                }
            }
        }
    }
    is_finite.then_some(())
}

/// The planes of a block, in the order of the module's table. Word `g` holds the codes of columns `4g..4g+4`.
#[inline(always)]
fn write_planes(shape: Shape, words: &[u32; 8], lane: usize, planes: &mut [u8]) {
    let mut put = |plane: usize, word: u32| {
        planes[plane * 64 + 4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
    };
    match shape.bits {
        8 => (0..8).for_each(|g| put(g, words[g])),
        4..=6 => {
            const LOW: u32 = 0x0f0f_0f0f;
            (0..4).for_each(|g| put(g, words[g] & LOW | (words[g + 4] & LOW) << 4));
            if shape.bits == 6 {
                let high = |g: usize| words[g] >> 4 & 0x0303_0303;
                for i in 0..2 {
                    let g = 4 * i;
                    put(4 + i, high(g) | high(g + 1) << 2 | high(g + 2) << 4 | high(g + 3) << 6);
                }
            }
        }
        _ => {
            const LOW: u32 = 0x0303_0303;
            let low = |g: usize| words[g] & LOW;
            for i in 0..2 {
                let g = 4 * i;
                put(i, low(g) | low(g + 1) << 2 | low(g + 2) << 4 | low(g + 3) << 6);
            }
        }
    }
    if let Some((at, shift)) = bit_plane(shape) {
        for (g, &word) in words.iter().enumerate() {
            // Bit 0 of each byte, gathered into four bits by a multiplication that lands them at 24..28.
            let bits = ((word >> shift & 0x0101_0101).wrapping_mul(0x0102_0408) >> 24 & 15) as u8;
            let byte = &mut planes[at + 8 * g + lane / 2];
            // The even lane comes first, and clears what was there.
            *byte = if lane.is_multiple_of(2) { bits } else { *byte | bits << 4 };
        }
    }
}

/// Offset of the mask plane, and the bit of a code that it holds.
#[inline(always)]
const fn bit_plane(shape: Shape) -> Option<(usize, u32)> {
    match shape.bits {
        3 => Some((128, 2)),
        5 => Some((256, 4)),
        _ => None,
    }
}

/// The inverse of [`write_planes`].
fn read_planes(shape: Shape, planes: &[u8], lane: usize) -> [u32; 8] {
    let get = |plane: usize| {
        let at = plane * 64 + 4 * lane;
        u32::from_le_bytes([planes[at], planes[at + 1], planes[at + 2], planes[at + 3]])
    };
    let quarter = |plane: usize, g: usize| get(plane + g / 4) >> (2 * (g % 4)) & 0x0303_0303;
    std::array::from_fn(|g| {
        let mut word = match shape.bits {
            8 => get(g),
            4..=6 => get(g % 4) >> (4 * (g / 4)) & 0x0f0f_0f0f,
            _ => quarter(0, g),
        };
        if shape.bits == 6 {
            word |= quarter(4, g) << 4;
        }
        if let Some((at, shift)) = bit_plane(shape) {
            let bits = u32::from(planes[at + 8 * g + lane / 2] >> (4 * (lane % 2)) & 15);
            word |= (bits.wrapping_mul(0x0020_4081) & 0x0101_0101) << shift;
        }
        word
    })
}

/// A quantised type as the kernels see it: everything about it is a constant.
pub(crate) trait Format {
    const SHAPE: Shape;
    const LAYOUT: Layout = Layout::of(Self::SHAPE);
    /// The levels of the shape's table plus their zero point, sixteen and sixteen.
    const TABLE: [[u8; 16]; 2] = {
        let mut table = [[0; 16]; 2];
        let mut i = 0;
        while i < Self::SHAPE.table.len() {
            table[i / 16][i % 16] = (Self::SHAPE.table[i] as i16 + 128) as u8;
            i += 1;
        }
        table
    };
}

macro_rules! formats {
    ($($name:ident)*) => {
        /// One type for each quantised [`DType`].
        #[allow(non_camel_case_types)]
        pub(crate) mod formats {
            $(pub(crate) struct $name;)*
        }
        $(impl Format for formats::$name {
            const SHAPE: Shape = shape(DType::$name);
        })*
    };
}
with_quantized_types!(formats);

/// The codes of one block in registers: element `g` holds columns `4g..4g+4` of all sixteen rows.
///
/// # Safety
/// `planes` points to the block's planes.
#[inline(always)]
pub(crate) unsafe fn load_codes<S: Simd, F: Format>(s: S, planes: *const u8) -> [S::B; 8] {
    // Loops, not closures: a closure that is not inlined would lose the instruction set.
    // SAFETY: every offset is below `plane_bytes`.
    unsafe {
        let first = s.load_bytes(planes);
        let mut codes = [first; 8];
        match const { F::SHAPE.bits } {
            8 => {
                for g in 1..8 {
                    codes[g] = s.load_bytes(planes.add(64 * g));
                }
            }
            4..=6 => {
                for g in 0..4 {
                    let both = s.load_bytes(planes.add(64 * g));
                    codes[g] = s.low_nibbles(both);
                    codes[g + 4] = s.high_nibbles(both);
                }
            }
            _ => codes = load_quarters(s, planes),
        }
        if const { F::SHAPE.bits == 6 } {
            let high = load_quarters(s, planes.add(256));
            for g in 0..8 {
                codes[g] = s.add_shl4(codes[g], high[g]);
            }
        }
        for g in 0..8 {
            codes[g] = match const { (bit_plane(F::SHAPE), F::SHAPE.table.len()) } {
                (None, 0) => codes[g],
                (Some((at, shift)), 0) => s.add_where(codes[g], planes.add(at + 8 * g), 1 << shift),
                (None, _) => s.lookup(codes[g], &F::TABLE[0]),
                (Some((at, _)), 32) => {
                    let low = s.lookup(codes[g], &F::TABLE[0]);
                    s.lookup_where(low, planes.add(at + 8 * g), codes[g], &F::TABLE[1])
                }
                (Some((at, shift)), _) => {
                    s.lookup(s.add_where(codes[g], planes.add(at + 8 * g), 1 << shift), &F::TABLE[0])
                }
            };
        }
        codes
    }
}

/// # Safety
/// 128 bytes are readable.
#[inline(always)]
unsafe fn load_quarters<S: Simd>(s: S, planes: *const u8) -> [S::B; 8] {
    // SAFETY: the caller's.
    let (a, b) = unsafe { (s.load_bytes(planes), s.load_bytes(planes.add(64))) };
    [
        s.crumbs::<0>(a),
        s.crumbs::<1>(a),
        s.crumbs::<2>(a),
        s.crumbs::<3>(a),
        s.crumbs::<0>(b),
        s.crumbs::<1>(b),
        s.crumbs::<2>(b),
        s.crumbs::<3>(b),
    ]
}

/// Scales and minima of one block, for each group of 16 columns; equal where a group is longer.
pub(crate) struct Scales<F> {
    /// weight = d * (code - zero) + m
    pub d: [F; 2],
    /// See `d`; zero where the type has no minimum.
    pub m: [F; 2],
}

/// # Safety
/// `tile` points to a tile that has block `block`.
#[inline(always)]
pub(crate) unsafe fn load_scales<S: Simd, F: Format>(s: S, tile: *const u8, block: usize) -> Scales<S::F> {
    let (shape, layout) = (F::SHAPE, F::LAYOUT);
    // SAFETY: the offsets are those of the layout.
    unsafe {
        let head = tile.add(layout.head_at(block)).cast::<u16>();
        let d = s.load_f16(head);
        let m = if shape.has_min { s.load_f16(head.add(LANES)) } else { s.splat(0.0) };
        if shape.group_len == 0 {
            return Scales { d: [d; 2], m: [m; 2] };
        }
        let groups = tile.add(layout.groups_at(block));
        let minus_m = s.sub(s.splat(0.0), m);
        let first = load_group::<S, F>(s, groups, d, minus_m);
        let second =
            if shape.group_len == 16 { load_group::<S, F>(s, groups.add(LANES), d, minus_m) } else { first };
        Scales { d: [first.0, second.0], m: [first.1, second.1] }
    }
}

/// Scale and minimum of the group whose scales are at `at`.
///
/// # Safety
/// As [`load_scales`].
#[inline(always)]
unsafe fn load_group<S: Simd, F: Format>(s: S, at: *const u8, d: S::F, minus_m: S::F) -> (S::F, S::F) {
    // SAFETY: the caller's.
    unsafe {
        if shares_byte(F::SHAPE) {
            // The byte is scale + 16 * minimum: split it in exact arithmetic.
            let both = s.load_u8(at);
            let min = s.to_f(s.round(s.fma(both, s.splat(1.0 / 16.0), s.splat(-15.0 / 32.0))));
            let scale = s.fma(min, s.splat(-16.0), both);
            return (s.mul(d, scale), s.mul(minus_m, min));
        }
        let scale = s.mul(d, s.load_i8(at.cast()));
        if !F::SHAPE.has_min {
            return (scale, minus_m);
        }
        let n_groups = BLOCK_COLS / F::SHAPE.group_len;
        (scale, s.mul(minus_m, s.load_u8(at.add(n_groups * LANES))))
    }
}
