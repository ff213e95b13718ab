//! Element by element: sums of two images, padding, quantising. Plain loops, which the compiler turns into vectors of
//! whatever instruction set they are compiled for.

use super::requant::FixedPoint;
use super::{Plane, Rounding};
use crate::isa::{Isa, Kernel, Simd};

/// Elements that are brought along at once: as many as make whole vectors on every instruction set.
const CHUNK: usize = 64;

/// How two eight-bit tensors are added: each is rescaled to the output's scale, and rounded once (as XNNPACK) or three
/// times (as TFLite's reference kernels).
#[derive(Clone, Copy, Debug)]
pub struct Add8 {
    way: Way,
    zeros: [i32; 2],
    zero: i32,
    min: i32,
    max: i32,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    /// `(bias + a * multipliers[0] + b * multipliers[1]) >> shift`.
    Once { multipliers: [i32; 2], bias: i32, shift: u32 },
    /// Each shifted up by [`HEADROOM`] bits, rescaled, added, rescaled.
    Thrice { inputs: [FixedPoint; 2], output: FixedPoint },
}

/// Bits that inputs are shifted up before they are rescaled, in TFLite's reference kernel.
const HEADROOM: u32 = 20;

impl Add8 {
    /// `scales` and `zeros` are the inputs', then the output's; results stay in `range`. `None` if the inputs' scales
    /// are out of proportion to the output's: below 2^-10 of it, or 2^8 times it and more.
    pub fn new(rounding: Rounding, scales: [f32; 3], zeros: [u8; 3], range: (u8, u8)) -> Option<Add8> {
        let zeros = zeros.map(i32::from);
        let [a, b] = [scales[0] / scales[2], scales[1] / scales[2]];
        if ![a, b].iter().all(|ratio| (2f32.powi(-10)..2f32.powi(8)).contains(ratio)) {
            return None;
        }
        let way = match rounding {
            Rounding::Float => {
                // The larger multiplier is given 21 bits: products with bytes and their sum fit 31.
                let exponent = (a.max(b).to_bits() >> 23) as i32 - 127;
                let shift = (20 - exponent) as u32;
                let multipliers =
                    [a, b].map(|ratio| (ratio * 2f32.powi(shift as i32)).round_ties_even() as i32);
                let bias = (1 << (shift - 1)) - multipliers[0] * zeros[0] - multipliers[1] * zeros[1];
                Way::Once { multipliers, bias, shift }
            }
            Rounding::FixedPoint | Rounding::FixedPointOnce => {
                let [a, b, output] = scales.map(f64::from);
                let twice = 2.0 * a.max(b);
                Way::Thrice {
                    inputs: [a, b].map(|scale| FixedPoint::new(scale / twice)),
                    output: FixedPoint::new(twice / (f64::from(1 << HEADROOM) * output)),
                }
            }
        };
        let (min, max) = (i32::from(range.0), i32::from(range.1));
        Some(Add8 { way, zeros: [zeros[0], zeros[1]], zero: zeros[2], min, max })
    }

    /// Plain code for one pair.
    #[inline(always)]
    pub fn apply_ref(&self, a: u8, b: u8) -> u8 {
        let (a, b) = (i32::from(a), i32::from(b));
        let value = match self.way {
            Way::Once { multipliers, bias, shift } => {
                (bias + a * multipliers[0] + b * multipliers[1]) >> shift
            }
            Way::Thrice { inputs, output } => {
                let a = inputs[0].apply((a - self.zeros[0]) << HEADROOM);
                let b = inputs[1].apply((b - self.zeros[1]) << HEADROOM);
                output.apply(a + b)
            }
        };
        (value + self.zero).clamp(self.min, self.max) as u8
    }

    /// `out = a + b`.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn run(&self, isa: Isa, a: &[u8], b: &[u8], out: &mut [u8]) {
        assert!(a.len() == out.len() && b.len() == out.len());
        isa.run(AddKernel { add: self, a, b, out });
    }
}

struct AddKernel<'a> {
    add: &'a Add8,
    a: &'a [u8],
    b: &'a [u8],
    out: &'a mut [u8],
}

impl Kernel for AddKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let AddKernel { add, a, b, out } = self;
        if let Way::Once { multipliers: [m_a, m_b], bias, shift } = add.way {
            let (zero, min, max) = (add.zero, add.min, add.max);
            let (a_chunks, a_rest) = a.as_chunks::<CHUNK>();
            let (b_chunks, b_rest) = b.as_chunks::<CHUNK>();
            let (out_chunks, out_rest) = out.as_chunks_mut::<CHUNK>();
            for ((a, b), out) in a_chunks.iter().zip(b_chunks).zip(out_chunks) {
                for i in 0..CHUNK {
                    let sum =
                        i32::from(a[i]).wrapping_mul(m_a).wrapping_add(i32::from(b[i]).wrapping_mul(m_b));
                    let value = bias.wrapping_add(sum).wrapping_shr(shift).wrapping_add(zero);
                    // Not `clamp`, whose assertion would keep this from becoming vectors.
                    out[i] = value.max(min).min(max) as u8;
                }
            }
            for ((a, b), out) in a_rest.iter().zip(b_rest).zip(out_rest) {
                *out = add.apply_ref(*a, *b);
            }
        } else {
            for ((a, b), out) in a.iter().zip(b).zip(out) {
                *out = add.apply_ref(*a, *b);
            }
        }
    }
}

/// `out = clamp(a + b)`, element by element.
///
/// # Panics
/// If lengths differ.
pub fn add32(isa: Isa, a: &[f32], b: &[f32], range: (f32, f32), out: &mut [f32]) {
    struct Add<'a>(&'a [f32], &'a [f32], (f32, f32), &'a mut [f32]);
    impl Kernel for Add<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            let Add(a, b, (low, high), out) = self;
            for ((a, b), out) in a.iter().zip(b).zip(out) {
                *out = (a + b).max(low).min(high);
            }
        }
    }
    assert!(a.len() == out.len() && b.len() == out.len());
    isa.run(Add(a, b, range, out));
}

/// Puts `image` into a larger one, at `(top, left)`, and fills the rest with `value`.
///
/// # Panics
/// If it does not fit there.
pub fn pad<T: Copy>(image: (&[T], Plane), value: T, (top, left): (usize, usize), output: (&mut [T], Plane)) {
    let ((image, from), (output, to)) = (image, output);
    assert!(from.channels == to.channels && from.row_stride == from.width * from.channels);
    assert!(top + from.height <= to.height && left + from.width <= to.width && output.len() >= to.len());
    let rows = output.chunks_mut(to.row_stride.max(1)).take(to.height);
    for (y, row) in rows.enumerate() {
        let row = &mut row[..to.width * to.channels];
        if (top..top + from.height).contains(&y) {
            let source = &image[(y - top) * from.row_stride..][..from.row_stride];
            let (before, rest) = row.split_at_mut(left * to.channels);
            let (middle, after) = rest.split_at_mut(source.len());
            before.fill(value);
            middle.copy_from_slice(source);
            after.fill(value);
        } else {
            row.fill(value);
        }
    }
}

/// Brings floats to eight bits, `round(x * scale) + zero`, ties to even, cut to 0..=255; what is not a number becomes
/// `zero`.
///
/// # Panics
/// If lengths differ.
pub fn quantize(isa: Isa, values: &[f32], scale: f32, zero: u8, out: &mut [u8]) {
    struct Quantize<'a>(&'a [f32], f32, f32, &'a mut [u8]);
    impl Kernel for Quantize<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            let Quantize(values, scale, zero, out) = self;
            for (value, out) in values.iter().zip(out) {
                let value = value * scale;
                let value = if value.is_nan() { 0.0 } else { value.max(-zero).min(255.0 - zero) };
                *out = (value.round_ties_even() + zero) as u8;
            }
        }
    }
    assert_eq!(values.len(), out.len());
    isa.run(Quantize(values, scale, f32::from(zero), out));
}
