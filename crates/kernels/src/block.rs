//! What the bytes of a quantised block mean.
//!
//! Layouts are ggml's (`ggml-common.h`: `block_q4_0` ... `block_iq4_xs`; `dequantize_row_*` in `ggml-quants.c`), and
//! for the EW types our own. All come down to one form, [`Block`]: unsigned codes, a scale, perhaps a minimum, perhaps a
//! second level of scales over sub-blocks. Dequantising and repacking both start from it, so that each layout is told
//! once.
//!
//! # The EW types
//! A block is 32 weights, since rows of small models are rarely whole multiples of more. A half-float scale for so few
//! costs half a bit for each weight, and its eleven bits of precision buy nothing: the error of rounding is flat around
//! the best scale. Eight bits (E4M3 of "OCP 8-bit Floating Point Specification", Open Compute Project 2023: sign, four
//! bits of exponent, three of mantissa; here times 2^-12, so that levels up to 127 reach weights up to 14, and for EW6,
//! whose levels end at 32, times 2^-10) cost a quarter. Levels are uneven, denser in the middle: they minimise the squared error of normally distributed weights
//! under the best scale of each block (Lloyd's iteration, scale and levels in turn). They are lopsided, and the scale
//! has a sign: the block's largest magnitude goes to the far end, whichever its sign.
//!
//! Bytes: the scale; then, where a code has four bits or more, sixteen of their low halves (of weights 0..16, and in the
//! upper halves of 16..32), else eight of their low quarters (word `i` of two holds weights `4 i + 8 j ..+4` in bits
//! `2 j ..+2` of its bytes); then what is left of a code: quarters of six-bit codes likewise, or 32 bits, one of each
//! weight.

use half::{bf16, f16};

use crate::dtype::DType;

/// The sixteen values of the IQ4 types, ascending.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The values of EW2, ascending.
pub const EW2_VALUES: [i8; 4] = [-127, -44, 18, 90];
/// The values of EW3, ascending.
pub const EW3_VALUES: [i8; 8] = [-127, -76, -44, -18, 8, 34, 64, 106];
/// The values of EW4, ascending.
pub const EW4_VALUES: [i8; 16] = [-127, -93, -73, -56, -42, -29, -17, -6, 5, 17, 29, 41, 55, 71, 89, 112];
/// The values of EW5, ascending.
pub const EW5_VALUES: [i8; 32] = [
    -127, -106, -89, -78, -69, -62, -55, -48, -42, -36, -31, -25, -20, -14, -9, -4, 2, 7, 13, 19, 25, 31, 37,
    43, 50, 56, 64, 72, 81, 90, 101, 113,
];

/// Sub-blocks of 32 weights in the longest block.
const MAX_SUB_BLOCKS: usize = 8;

/// One quantised block, taken apart.
///
/// Weight `i` of sub-block `s` (of 32 weights) is
/// - plain types: `d * (code - zero) + m`,
/// - types with a second level: `d * scales[j] * (code - zero) - m * mins[j]`, where `j` counts the scale groups
///   of 16 or 32 weights within the block,
///
/// with `code` the `i % 4`th byte of `codes[s][i / 4]`; [`Shape::table`]`[code]`, if there is one, stands for
/// `code - zero`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// For each sub-block, 32 codes, four to a little-endian word.
    pub codes: [[u32; 8]; MAX_SUB_BLOCKS],
    /// Scale, IEEE half.
    pub d: u16,
    /// Minimum (plain types) or scale of the minima, IEEE half; zero where the type has none.
    pub m: u16,
    /// Scale of each group.
    pub scales: [i8; 16],
    /// Minimum of each group.
    pub mins: [u8; 16],
}

/// The fixed properties of a quantised type in terms of [`Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bits of a code.
    pub bits: u32,
    /// Subtracted from a code: 0, or a power of two.
    pub zero: i32,
    /// What codes stand for, ascending; empty where they stand for themselves.
    pub table: &'static [i8],
    /// There are minima.
    pub has_min: bool,
    /// Weights per second-level scale; 0 where there is only one level.
    pub group_len: usize,
    /// Of an EW type: the first-level scale is a number of eight bits (E4M3) times 2^-`n`. Else it is a half float.
    pub e4m3_shift: Option<u32>,
}

/// The shape of a quantised type.
///
/// # Panics
/// For a plain float type.
pub const fn shape(dtype: DType) -> Shape {
    const fn new(bits: u32, zero: i32, has_min: bool, group_len: usize) -> Shape {
        Shape { bits, zero, table: &[], has_min, group_len, e4m3_shift: None }
    }
    const fn of_table(bits: u32, table: &'static [i8], group_len: usize) -> Shape {
        Shape { table, ..new(bits, 128, false, group_len) }
    }
    const fn own(shape: Shape, e4m3_shift: u32) -> Shape {
        Shape { e4m3_shift: Some(e4m3_shift), ..shape }
    }
    match dtype {
        DType::Q4_0 => new(4, 8, false, 0),
        DType::Q4_1 => new(4, 0, true, 0),
        DType::Q5_0 => new(5, 16, false, 0),
        DType::Q5_1 => new(5, 0, true, 0),
        DType::Q8_0 => new(8, 128, false, 0),
        DType::Q2_K => new(2, 0, true, 16),
        DType::Q3_K => new(3, 4, false, 16),
        DType::Q4_K => new(4, 0, true, 32),
        DType::Q5_K => new(5, 0, true, 32),
        DType::Q6_K => new(6, 32, false, 16),
        DType::IQ4_NL => of_table(4, &IQ4_VALUES, 0),
        DType::IQ4_XS => of_table(4, &IQ4_VALUES, 32),
        DType::EW2 => own(of_table(2, &EW2_VALUES, 0), 12),
        DType::EW3 => own(of_table(3, &EW3_VALUES, 0), 12),
        DType::EW4 => own(of_table(4, &EW4_VALUES, 0), 12),
        DType::EW5 => own(of_table(5, &EW5_VALUES, 0), 12),
        DType::EW6 => own(new(6, 32, false, 0), 10),
        DType::F32 | DType::F16 | DType::BF16 => panic!("a float type has no blocks"),
    }
}

impl Shape {
    /// What a code stands for, before scale and minimum.
    #[inline(always)]
    pub fn level(self, code: u8) -> f32 {
        match self.table.is_empty() {
            true => (i32::from(code) - self.zero) as f32,
            false => f32::from(self.table[usize::from(code)]),
        }
    }

    /// The first-level scale that is nearest to `d`, of those that a block can hold.
    #[inline(always)]
    pub fn nearest_scale(self, d: f32) -> f32 {
        match self.e4m3_shift {
            Some(shift) => nearest_e4m3_scale(d, shift),
            None => f16::from_f32(d.clamp(-65_504.0, 65_504.0)).to_f32(),
        }
    }

    /// The largest magnitude that a weight can have under the largest scale, if there is no second level of scales.
    pub fn reach(self) -> f32 {
        let last = ((1u16 << self.bits) - 1) as u8;
        self.nearest_scale(f32::MAX) * self.level(0).abs().max(self.level(last).abs())
    }

    /// The code of a level that [`Shape::level`] gives; `None` of any other.
    pub fn code(self, level: f32) -> Option<u8> {
        (0..1u16 << self.bits).map(|code| code as u8).find(|code| self.level(*code) == level)
    }
}

/// 2^-`shift` times a number of eight bits (E4M3), in half precision: exact for 9 to 12.
const fn e4m3_to_half(bits: u8, shift: u32) -> u16 {
    let (sign, exponent, mantissa) = ((bits as u16 >> 7) << 15, bits as u32 >> 3 & 15, bits as u16 & 7);
    // The exponent's bias is 7 there and 15 here.
    let (first_normal, change) = (shift - 7, shift - 8);
    match (exponent, mantissa) {
        (15, 7) => sign | 0x7e00,
        // What half precision has below its normal numbers are multiples of 2^-24.
        (0, _) => sign | mantissa << (15 - shift),
        (exponent, _) if exponent < first_normal => sign | (8 | mantissa) << (exponent + 14 - shift),
        _ => sign | ((exponent - change) << 10) as u16 | mantissa << 7,
    }
}

/// The scale of an EW block that is nearest to `d`.
fn nearest_e4m3_scale(d: f32, shift: u32) -> f32 {
    let largest = f16::from_bits(e4m3_to_half(0x7e, shift)).to_f32();
    let magnitude = d.abs().min(largest);
    // Steps are an eighth of the power of two below, and of 2^-6 times 2^-shift at least.
    let exponent = (magnitude.to_bits() >> 23).max(127 - 6 - shift);
    let step = f32::from_bits((exponent - 3) << 23);
    ((magnitude / step).round_ties_even() * step).copysign(d)
}

/// The inverse of [`e4m3_to_half`]; bits that E4M3 has no room for are lost.
fn half_to_e4m3(d: u16, shift: u32) -> u8 {
    let value = f16::from_bits(d & 0x7fff).to_f32() * (1 << shift) as f32;
    let exponent = (value.to_bits() >> 23).saturating_sub(127 - 7);
    let magnitude = match exponent {
        0 => (value * 512.0) as u8,
        16.. => 0x7f,
        _ => (exponent << 3 | value.to_bits() >> 20 & 7) as u8,
    };
    (d >> 8) as u8 & 0x80 | magnitude
}

const LOW_4: u32 = 0x0f0f_0f0f;
const LOW_2: u32 = 0x0303_0303;
const LOW_1: u32 = 0x0101_0101;

#[inline(always)]
fn word(bytes: &[u8], idx: usize) -> u32 {
    u32::from_le_bytes([bytes[4 * idx], bytes[4 * idx + 1], bytes[4 * idx + 2], bytes[4 * idx + 3]])
}

#[inline(always)]
fn half_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// 16 bytes: the low nibbles are weights 0..16, the high ones 16..32.
#[inline(always)]
fn split_nibbles(qs: &[u8]) -> [u32; 8] {
    std::array::from_fn(|i| if i < 4 { word(qs, i) & LOW_4 } else { word(qs, i - 4) >> 4 & LOW_4 })
}

/// Bits 0..4 of `bits` to bit 0 of the four bytes.
#[inline(always)]
fn spread_bits(bits: u32) -> u32 {
    ((bits & 15) * 0x0020_4081) & LOW_1
}

/// The eight 6-bit scales and minima of Q4_K and Q5_K.
fn unpack_scales_mins(packed: &[u8], scales: &mut [i8; 16], mins: &mut [u8; 16]) {
    for i in 0..4 {
        scales[i] = (packed[i] & 63) as i8;
        mins[i] = packed[i + 4] & 63;
        scales[i + 4] = (packed[i + 8] & 15 | packed[i] >> 6 << 4) as i8;
        mins[i + 4] = packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4;
    }
}

/// 8 bytes: two bits of 32 codes.
#[inline(always)]
fn split_quarters(qs: &[u8]) -> [u32; 8] {
    std::array::from_fn(|i| word(qs, i % 2) >> (2 * (i / 2)) & LOW_2)
}

/// Inverse of [`split_quarters`].
fn join_quarters(codes: &[u32; 8], qs: &mut [u8]) {
    for (i, word) in codes.iter().enumerate() {
        or_word(qs, i % 2, (word & LOW_2) << (2 * (i / 2)));
    }
}

/// Inverse of [`split_nibbles`].
fn join_nibbles(codes: &[u32; 8], qs: &mut [u8]) {
    for i in 0..4 {
        let word = codes[i] & LOW_4 | (codes[i + 4] & LOW_4) << 4;
        qs[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
    }
}

/// Bit `bit` of each of the 32 codes.
fn gather_bits(codes: &[u32; 8], bit: u32) -> u32 {
    let mut bits = 0;
    for (i, word) in codes.iter().enumerate() {
        for (j, code) in word.to_le_bytes().into_iter().enumerate() {
            bits |= u32::from(code >> bit & 1) << (4 * i + j);
        }
    }
    bits
}

/// Ors `word`, shifted, into the `idx`th word of `bytes`.
fn or_word(bytes: &mut [u8], idx: usize, word: u32) {
    for (byte, more) in bytes[4 * idx..4 * idx + 4].iter_mut().zip(word.to_le_bytes()) {
        *byte |= more;
    }
}

/// Inverse of [`unpack_scales_mins`].
fn pack_scales_mins(scales: &[i8; 16], mins: &[u8; 16], packed: &mut [u8]) {
    for i in 0..4 {
        let (scale, min) = (scales[i + 4] as u8, mins[i + 4]);
        packed[i] = scales[i] as u8 & 63 | scale >> 4 << 6;
        packed[i + 4] = mins[i] & 63 | min >> 4 << 6;
        packed[i + 8] = scale & 15 | min << 4;
    }
}

impl Block {
    /// A block of zeros.
    pub const ZERO: Block = Block { codes: [[0; 8]; 8], d: 0, m: 0, scales: [0; 16], mins: [0; 16] };

    /// Code of weight `i` of the block.
    pub fn code(&self, i: usize) -> u8 {
        self.codes[i / 32][i % 32 / 4].to_le_bytes()[i % 4]
    }

    /// Sets the code of weight `i`, which must be zero so far.
    pub fn put_code(&mut self, i: usize, code: u8) {
        self.codes[i / 32][i % 32 / 4] |= u32::from(code) << (8 * (i % 4));
    }

    /// Puts a block of `dtype` together: the inverse of [`Block::parse`]. Bits that the type has no room for are lost.
    ///
    /// # Panics
    /// If `out` is not `block_bytes` long, or the type is a plain float.
    pub fn write(&self, dtype: DType, out: &mut [u8]) {
        assert_eq!(out.len(), dtype.block_bytes(), "the bytes of one block");
        out.fill(0);
        let (d, m) = (self.d.to_le_bytes(), self.m.to_le_bytes());
        match dtype {
            DType::Q4_0 | DType::IQ4_NL => {
                out[..2].copy_from_slice(&d);
                join_nibbles(&self.codes[0], &mut out[2..]);
            }
            DType::Q4_1 => {
                out[..2].copy_from_slice(&d);
                out[2..4].copy_from_slice(&m);
                join_nibbles(&self.codes[0], &mut out[4..]);
            }
            DType::Q5_0 | DType::Q5_1 => {
                out[..2].copy_from_slice(&d);
                let at = if dtype == DType::Q5_0 { 2 } else { 4 };
                if dtype == DType::Q5_1 {
                    out[2..4].copy_from_slice(&m);
                }
                out[at..at + 4].copy_from_slice(&gather_bits(&self.codes[0], 4).to_le_bytes());
                join_nibbles(&self.codes[0], &mut out[at + 4..]);
            }
            DType::Q8_0 => {
                out[..2].copy_from_slice(&d);
                for i in 0..8 {
                    or_word(&mut out[2..], i, self.codes[0][i] ^ 0x8080_8080);
                }
            }
            DType::Q2_K => {
                out[80..82].copy_from_slice(&d);
                out[82..84].copy_from_slice(&m);
                for i in 0..16 {
                    out[i] = self.scales[i] as u8 & 15 | self.mins[i] << 4;
                }
                for s in 0..8 {
                    for i in 0..8 {
                        let low = (self.codes[s][i] & LOW_2) << (2 * (s % 4));
                        or_word(&mut out[16 + 32 * (s / 4)..], i, low);
                    }
                }
            }
            DType::Q3_K => {
                out[108..110].copy_from_slice(&d);
                for i in 0..16 {
                    let scale = (self.scales[i] + 32) as u8;
                    out[96 + i % 8] |= (scale & 15) << (4 * (i / 8));
                    out[104 + i % 4] |= (scale >> 4 & 3) << (2 * (i / 4));
                }
                for s in 0..8 {
                    for i in 0..8 {
                        let low = (self.codes[s][i] & LOW_2) << (2 * (s % 4));
                        or_word(&mut out[32 + 32 * (s / 4)..], i, low);
                        or_word(out, i, (self.codes[s][i] >> 2 & LOW_1) << s);
                    }
                }
            }
            DType::Q4_K | DType::Q5_K => {
                out[..2].copy_from_slice(&d);
                out[2..4].copy_from_slice(&m);
                pack_scales_mins(&self.scales, &self.mins, &mut out[4..16]);
                let at = if dtype == DType::Q4_K { 16 } else { 48 };
                for s in 0..8 {
                    for i in 0..8 {
                        let low = (self.codes[s][i] & LOW_4) << (4 * (s % 2));
                        or_word(&mut out[at + 32 * (s / 2)..], i, low);
                        if dtype == DType::Q5_K {
                            or_word(&mut out[16..], i, (self.codes[s][i] >> 4 & LOW_1) << s);
                        }
                    }
                }
            }
            DType::Q6_K => {
                out[208..210].copy_from_slice(&d);
                for i in 0..16 {
                    out[192 + i] = self.scales[i] as u8;
                }
                for s in 0..8 {
                    for i in 0..8 {
                        let code = self.codes[s][i];
                        let low = (code & LOW_4) << (4 * (s % 4 / 2));
                        or_word(&mut out[64 * (s / 4) + 32 * (s % 2)..], i, low);
                        let high = (code >> 4 & LOW_2) << (2 * (s % 4));
                        or_word(&mut out[128 + 32 * (s / 4)..], i, high);
                    }
                }
            }
            DType::IQ4_XS => {
                out[..2].copy_from_slice(&d);
                let mut high = 0u16;
                for s in 0..8 {
                    let scale = (self.scales[s] + 32) as u8;
                    out[4 + s / 2] |= (scale & 15) << (4 * (s % 2));
                    high |= u16::from(scale >> 4 & 3) << (2 * s);
                    join_nibbles(&self.codes[s], &mut out[8 + 16 * s..24 + 16 * s]);
                }
                out[2..4].copy_from_slice(&high.to_le_bytes());
            }
            DType::EW2 | DType::EW3 | DType::EW4 | DType::EW5 | DType::EW6 => {
                let (codes, shape) = (&self.codes[0], shape(dtype));
                out[0] = half_to_e4m3(self.d, shape.e4m3_shift.expect("our own types have such a scale"));
                match shape.bits {
                    2 | 3 => join_quarters(codes, &mut out[1..9]),
                    _ => join_nibbles(codes, &mut out[1..17]),
                }
                match dtype {
                    DType::EW3 => out[9..].copy_from_slice(&gather_bits(codes, 2).to_le_bytes()),
                    DType::EW5 => out[17..].copy_from_slice(&gather_bits(codes, 4).to_le_bytes()),
                    DType::EW6 => join_quarters(&codes.map(|word| word >> 4), &mut out[17..]),
                    _ => {}
                }
            }
            DType::F32 | DType::F16 | DType::BF16 => panic!("a float type has no blocks"),
        }
    }

    /// Takes one block of `dtype` apart; `bytes` are its `block_bytes`.
    #[inline(always)]
    pub fn parse(dtype: DType, bytes: &[u8]) -> Block {
        let bytes = &bytes[..dtype.block_bytes()];
        let mut b = Block::ZERO;
        match dtype {
            DType::Q4_0 | DType::IQ4_NL => {
                b.d = half_at(bytes, 0);
                b.codes[0] = split_nibbles(&bytes[2..]);
            }
            DType::Q4_1 => {
                (b.d, b.m) = (half_at(bytes, 0), half_at(bytes, 2));
                b.codes[0] = split_nibbles(&bytes[4..]);
            }
            DType::Q5_0 | DType::Q5_1 => {
                b.d = half_at(bytes, 0);
                let at = if dtype == DType::Q5_0 { 2 } else { 4 };
                if dtype == DType::Q5_1 {
                    b.m = half_at(bytes, 2);
                }
                let high = word(&bytes[at..], 0);
                b.codes[0] = split_nibbles(&bytes[at + 4..]);
                for i in 0..8 {
                    b.codes[0][i] |= spread_bits(high >> (4 * i)) << 4;
                }
            }
            DType::Q8_0 => {
                b.d = half_at(bytes, 0);
                b.codes[0] = std::array::from_fn(|i| word(&bytes[2..], i) ^ 0x8080_8080);
            }
            DType::Q2_K => {
                (b.d, b.m) = (half_at(bytes, 80), half_at(bytes, 82));
                for i in 0..16 {
                    b.scales[i] = (bytes[i] & 15) as i8;
                    b.mins[i] = bytes[i] >> 4;
                }
                for s in 0..8 {
                    let qs = &bytes[16 + 32 * (s / 4)..];
                    b.codes[s] = std::array::from_fn(|i| word(qs, i) >> (2 * (s % 4)) & LOW_2);
                }
            }
            DType::Q3_K => {
                b.d = half_at(bytes, 108);
                let packed = &bytes[96..108];
                for i in 0..16 {
                    let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
                    let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
                    b.scales[i] = (low | high << 4) as i8 - 32;
                }
                for s in 0..8 {
                    let qs = &bytes[32 + 32 * (s / 4)..];
                    b.codes[s] = std::array::from_fn(|i| {
                        word(qs, i) >> (2 * (s % 4)) & LOW_2 | (word(bytes, i) >> s & LOW_1) << 2
                    });
                }
            }
            DType::Q4_K | DType::Q5_K => {
                (b.d, b.m) = (half_at(bytes, 0), half_at(bytes, 2));
                unpack_scales_mins(&bytes[4..16], &mut b.scales, &mut b.mins);
                let at = if dtype == DType::Q4_K { 16 } else { 48 };
                for s in 0..8 {
                    let qs = &bytes[at + 32 * (s / 2)..];
                    b.codes[s] = std::array::from_fn(|i| word(qs, i) >> (4 * (s % 2)) & LOW_4);
                    if dtype == DType::Q5_K {
                        for i in 0..8 {
                            b.codes[s][i] |= (word(&bytes[16..], i) >> s & LOW_1) << 4;
                        }
                    }
                }
            }
            DType::Q6_K => {
                b.d = half_at(bytes, 208);
                for i in 0..16 {
                    b.scales[i] = bytes[192 + i] as i8;
                }
                for s in 0..8 {
                    let low = &bytes[64 * (s / 4) + 32 * (s % 2)..];
                    let high = &bytes[128 + 32 * (s / 4)..];
                    b.codes[s] = std::array::from_fn(|i| {
                        word(low, i) >> (4 * (s % 4 / 2)) & LOW_4
                            | (word(high, i) >> (2 * (s % 4)) & LOW_2) << 4
                    });
                }
            }
            DType::IQ4_XS => {
                b.d = half_at(bytes, 0);
                let high = half_at(bytes, 2);
                for s in 0..8 {
                    let low = bytes[4 + s / 2] >> (4 * (s % 2)) & 15;
                    b.scales[s] = (low | ((high >> (2 * s) & 3) as u8) << 4) as i8 - 32;
                    b.codes[s] = split_nibbles(&bytes[8 + 16 * s..]);
                }
            }
            DType::EW2 | DType::EW3 | DType::EW4 | DType::EW5 | DType::EW6 => {
                let shape = shape(dtype);
                b.d = e4m3_to_half(bytes[0], shape.e4m3_shift.expect("our own types have such a scale"));
                b.codes[0] = match shape.bits {
                    2 | 3 => split_quarters(&bytes[1..]),
                    _ => split_nibbles(&bytes[1..]),
                };
                if let DType::EW3 | DType::EW5 = dtype {
                    let (at, shift) = if dtype == DType::EW3 { (9, 2) } else { (17, 4) };
                    let bits = word(&bytes[at..], 0);
                    for i in 0..8 {
                        b.codes[0][i] |= spread_bits(bits >> (4 * i)) << shift;
                    }
                }
                if dtype == DType::EW6 {
                    let high = split_quarters(&bytes[17..]);
                    for i in 0..8 {
                        b.codes[0][i] |= high[i] << 4;
                    }
                }
            }
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("a float type has no blocks"),
        }
        b
    }
}

/// Widens a row, or several, to `f32`; exact but for one rounding of each product and sum.
///
/// # Panics
/// If `src` is not exactly the bytes of `dst.len()` weights in whole blocks.
pub fn dequantize(dtype: DType, src: &[u8], dst: &mut [f32]) {
    assert_eq!(Some(src.len()), dtype.row_bytes(dst.len()), "bytes do not match the weights' number");
    match dtype {
        DType::F32 => {
            for (x, bytes) in dst.iter_mut().zip(src.as_chunks().0) {
                *x = f32::from_le_bytes(*bytes);
            }
        }
        DType::F16 => {
            for (x, bytes) in dst.iter_mut().zip(src.as_chunks().0) {
                *x = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        DType::BF16 => {
            for (x, bytes) in dst.iter_mut().zip(src.as_chunks().0) {
                *x = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        _ => {
            let blocks = src.chunks_exact(dtype.block_bytes());
            for (out, bytes) in dst.chunks_exact_mut(dtype.block_len()).zip(blocks) {
                dequantize_block(dtype, bytes, out);
            }
        }
    }
}

/// The distance from each weight of a row, or several, to the next value that its block could hold: its local
/// quantisation step. Zero for plain floats. For uneven values, the mean of both distances.
///
/// # Panics
/// As [`dequantize`].
pub fn steps(dtype: DType, src: &[u8], dst: &mut [f32]) {
    assert_eq!(Some(src.len()), dtype.row_bytes(dst.len()), "bytes do not match the weights' number");
    if !dtype.is_quantized() {
        return dst.fill(0.0);
    }
    let shape = shape(dtype);
    let blocks = src.chunks_exact(dtype.block_bytes());
    for (out, bytes) in dst.chunks_exact_mut(dtype.block_len()).zip(blocks) {
        let block = Block::parse(dtype, bytes);
        let d = f16::from_bits(block.d).to_f32();
        for (i, step) in out.iter_mut().enumerate() {
            let scale = i.checked_div(shape.group_len).map_or(1.0, |j| f32::from(block.scales[j]));
            *step = (d * scale * level_step(shape, block.code(i))).abs();
        }
    }
}

/// Mean distance of a code's level to its neighbours.
fn level_step(shape: Shape, code: u8) -> f32 {
    let (low, high) = (code.saturating_sub(1), code.saturating_add(1).min(((1u16 << shape.bits) - 1) as u8));
    (shape.level(high) - shape.level(low)) / f32::from(high - low)
}

fn dequantize_block(dtype: DType, bytes: &[u8], dst: &mut [f32]) {
    let shape = shape(dtype);
    let block = Block::parse(dtype, bytes);
    let d = f16::from_bits(block.d).to_f32();
    let m = f16::from_bits(block.m).to_f32();
    for (i, w) in dst.iter_mut().enumerate() {
        let value = shape.level(block.code(i));
        *w = match i.checked_div(shape.group_len) {
            None => d * value + m,
            Some(j) => d * f32::from(block.scales[j]) * value - m * f32::from(block.mins[j]),
        };
    }
}
