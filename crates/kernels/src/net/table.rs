//! Functions of one byte: every answer is computed beforehand, and looked up.
//!
//! TFLite looks up smooth functions too, so these are the nearest bytes to the exact results. The others have arithmetic of
//! their own there, in whole numbers, and are held to it for all 256 bytes (`testdata/networks/bytes.py`).

use super::requant::{FixedPoint, Rounding};

/// A function of a number, as TFLite computes it on bytes.
#[derive(Clone, Copy, Debug)]
pub enum Function8 {
    /// Given for exact numbers.
    Smooth(fn(f64) -> f64),
    /// The number itself, kept in a range; only its scale changes.
    Clip {
        /// The least result.
        low: f32,
        /// The largest.
        high: f32,
    },
    /// The number itself, for another scale: TFLite's QUANTIZE.
    Rescale,
    /// x, below zero `alpha * x`.
    LeakyRelu {
        /// The slope below zero, not negative.
        alpha: f32,
    },
    /// x times x / 6 + 1 / 2 kept in 0..=1.
    HardSwish,
}

/// A function of one byte.
#[derive(Clone, Debug)]
pub struct Table8(Box<[u8; 256]>);

/// Bits of a fraction in XNNPACK's factors.
const FRACTION_BITS: u32 = 8;

impl Table8 {
    /// Of bytes with the scale and zero point `from`, to bytes with those of `to`. `None` if TFLite's arithmetic has no room
    /// for it: a negative slope, or [`Function8::HardSwish`] where the output's scale is below 1/128 of the input's.
    pub fn new(function: Function8, rounding: Rounding, from: (f32, u8), to: (f32, u8)) -> Option<Table8> {
        let ratio = from.0 / to.0;
        let (zero, to_zero) = (i32::from(from.1), i32::from(to.1));
        let range = |low: f32, high: f32| {
            [low, high].map(|x| (to_zero as f32 + (x / to.0).round()).clamp(0.0, 255.0) as i32)
        };
        let table = |f: &dyn Fn(i32) -> i32, [low, high]: [i32; 2]| {
            let byte = |byte| f(byte as i32 - zero).saturating_add(to_zero).clamp(low, high) as u8;
            Some(Table8(Box::new(std::array::from_fn(byte))))
        };
        match function {
            Function8::Smooth(f) => {
                let steps = |x: i32| f(f64::from(from.0 * x as f32)) / f64::from(to.0);
                table(&|x| steps(x).round() as i32, [0, 255])
            }
            Function8::Clip { low, high } => {
                let factor = FixedPoint::new(f64::from(ratio));
                table(&|x| factor.apply(x), range(low, high))
            }
            Function8::Rescale => {
                // The quotient of doubles, and not of floats.
                let exact = f64::from(from.0) / f64::from(to.0);
                let factor = Factor::new(rounding, ratio, (ratio, exact));
                table(&|x| factor.apply(x), [0, 255])
            }
            Function8::LeakyRelu { alpha } if alpha < 0.0 => None,
            Function8::LeakyRelu { alpha } => {
                let above = Factor::new(rounding, ratio, (ratio, f64::from(ratio)));
                let exact = f64::from(from.0 * alpha / to.0);
                let below = Factor::new(rounding, ratio, (ratio * alpha, exact));
                table(&|x| if x < 0 { below.apply(x) } else { above.apply(x) }, [0, 255])
            }
            Function8::HardSwish => {
                let hard_swish = HardSwish::new(from.0, to.0)?;
                table(&|x| hard_swish.apply(x as i16), [0, 255])
            }
        }
    }

    /// `out[i]` is the function of `input[i]`.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn run(&self, input: &[u8], out: &mut [u8]) {
        assert_eq!(input.len(), out.len());
        for (out, byte) in out.iter_mut().zip(input) {
            *out = self.0[usize::from(*byte)];
        }
    }
}

/// How a byte is brought to another scale.
enum Factor {
    /// As XNNPACK: a factor with [`FRACTION_BITS`], rounded to nearest, ties up.
    Short(i32),
    /// As TFLite's reference kernels.
    Fixed(FixedPoint),
}

impl Factor {
    /// `ratio` is that of the input's scale to the output's; XNNPACK leaves ratios beyond 2^-8..=2^7 to TFLite's own kernels.
    fn new(rounding: Rounding, ratio: f32, (single, double): (f32, f64)) -> Factor {
        if rounding == Rounding::Float && (2f32.powi(-8)..=2f32.powi(7)).contains(&ratio) {
            return Factor::Short((single * (1 << FRACTION_BITS) as f32).round_ties_even() as i32);
        }
        Factor::Fixed(FixedPoint::new(double))
    }

    fn apply(&self, x: i32) -> i32 {
        match self {
            Factor::Short(factor) => (x * factor + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS,
            Factor::Fixed(factor) => factor.apply(x),
        }
    }
}

/// Hard swish in 16-bit fixed point, by TFLite's reference kernel (`hard_swish.h`): the number on the output's scale times
/// x / 6 + 1 / 2 kept in 0..=1, whose errors of rounding are made to cancel.
struct HardSwish {
    /// From the input's scale by 2^-7 to the output's: a 15-bit fraction and how far to shift the result to the right.
    output: (i16, u32),
    /// From the same to where 3 is 2^15; the shift is to the left.
    relu: (i16, i32),
}

/// Bits that bytes are shifted up by: as many as 16 bits have room for.
const HEADROOM_BITS: u32 = 7;

impl HardSwish {
    fn new(from: f32, to: f32) -> Option<HardSwish> {
        let fine = from / (1 << HEADROOM_BITS) as f32;
        let (output, output_shift) = FixedPoint::new(f64::from(fine / to)).short();
        let (relu, relu_shift) = FixedPoint::new(f64::from(fine / (3.0 / 32768.0))).short();
        let output_shift = u32::try_from(-output_shift).ok()?;
        Some(HardSwish { output: (output, output_shift), relu: (relu, relu_shift) })
    }

    fn apply(&self, x: i16) -> i32 {
        let fine = x << HEADROOM_BITS;
        let scaled = high_rounded(fine, self.output.0);
        let (factor, shift) = self.relu;
        let up = |x: i16, by: i32| {
            let wide = i64::from(x) << by.clamp(0, 32);
            wide.clamp(i16::MIN.into(), i16::MAX.into()) as i16
        };
        // The last bit of a shift up comes after the product: what it cuts off is beyond 3 either way.
        let mut relu = high_rounded(up(fine, shift - 1), factor);
        if shift > 0 {
            relu = up(relu, 1);
        }
        let relu = divide_rounded(relu.into(), (-shift).max(0) as u32);
        // From -1..=1 to 0..=1.
        let relu = (relu + (1 << 15)) >> 1;
        // Truncated, where the products before were rounded.
        let product = relu * i32::from(scaled) / (1 << 15);
        divide_rounded(product, self.output.1)
    }
}

/// The upper half of twice the product, rounded to nearest, ties away from zero.
fn high_rounded(a: i16, b: i16) -> i16 {
    let product = i32::from(a) * i32::from(b);
    let nudge = if product >= 0 { 1 << 14 } else { 1 - (1 << 14) };
    ((product + nudge) / (1 << 15)).min(i16::MAX.into()) as i16
}

/// `x / 2^bits`, rounded to nearest, ties away from zero.
fn divide_rounded(x: i32, bits: u32) -> i32 {
    if bits > 30 {
        return 0;
    }
    let mask = (1 << bits) - 1;
    let threshold = (mask >> 1) + i32::from(x < 0);
    (x >> bits) + i32::from((x & mask) > threshold)
}
