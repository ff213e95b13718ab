//! From exact 32-bit sums back to eight bits, rounded as TFLite rounds.
//!
//! - [`Rounding::Float`]: the sum becomes a float, is multiplied by `scale` and rounded to nearest, ties to even. This
//!   is how XNNPACK computes, and with it TFLite's interpreter wherever XNNPACK is switched on, as it is by default.
//! - [`Rounding::FixedPoint`]: a 31-bit multiplier and a shift, each with a rounding of its own (Jacob et al. 2018,
//!   "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", section 2.2):
//!   TFLite's reference kernels, and what microcontrollers run. Fully connected layers round once
//!   ([`Rounding::FixedPointOnce`]).
//!
//! They differ where a value lies near the middle between two bytes.

use crate::isa::{LANES, Simd};

/// How a sum is brought back to eight bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// By a float: as XNNPACK.
    #[default]
    Float,
    /// By a multiplier and a shift, each with a rounding of its own: as TFLite's reference kernels.
    FixedPoint,
    /// By a multiplier and a shift, with one rounding: as its reference kernel of fully connected layers.
    FixedPointOnce,
}

/// A positive factor as `multiplier * 2^(shift - 31)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FixedPoint {
    /// In 2^30..2^31, or 0.
    multiplier: i32,
    /// To the left if positive.
    shift: i32,
}

impl FixedPoint {
    /// The nearest to `factor`; below 2^-32 it is 0, and above 2^30 it is cut to that.
    pub fn new(factor: f64) -> FixedPoint {
        if factor.is_nan() || factor <= 0.0 {
            return FixedPoint::default();
        }
        let factor = factor.min(f64::from(1u32 << 31));
        // factor = mantissa * 2^exponent with the mantissa in 0.5..1.
        let mut exponent = factor.log2().floor() as i32 + 1;
        let mut mantissa = factor * 2f64.powi(-exponent);
        // The logarithm is rounded, so it may be off by one near a power of two.
        if mantissa >= 1.0 {
            (mantissa, exponent) = (mantissa / 2.0, exponent + 1);
        } else if mantissa < 0.5 {
            (mantissa, exponent) = (mantissa * 2.0, exponent - 1);
        }
        let mut multiplier = (mantissa * 2f64.powi(31)).round() as i64;
        if multiplier == 1 << 31 {
            (multiplier, exponent) = (1 << 30, exponent + 1);
        }
        match exponent {
            ..-31 => FixedPoint::default(),
            31.. => FixedPoint { multiplier: i32::MAX, shift: 30 },
            _ => FixedPoint { multiplier: multiplier as i32, shift: exponent },
        }
    }

    /// The nearest multiplier of 16 bits, `multiplier * 2^(shift - 15)`, and its shift.
    pub fn short(self) -> (i16, i32) {
        let rounded = (i64::from(self.multiplier) + (1 << 15)) >> 16;
        (rounded.min(i16::MAX.into()) as i16, self.shift)
    }

    /// `x` times the factor: a product of which the upper half is kept, rounded to nearest, ties up; then a shift,
    /// rounded to nearest, ties away from zero. A factor of 1 and above shifts up first, and what no longer fits wraps.
    #[inline(always)]
    pub fn apply(self, x: i32) -> i32 {
        let product = i64::from(x.wrapping_shl(self.shift.max(0) as u32)) * i64::from(self.multiplier);
        let nudge = if product >= 0 { 1 << 30 } else { 1 - (1 << 30) };
        let high = ((product + nudge) / (1 << 31)) as i32;
        let right = (-self.shift).max(0);
        let mask = ((1i64 << right) - 1) as i32;
        let remainder = high & mask;
        let threshold = (mask >> 1) + i32::from(high < 0);
        (high >> right.min(31)) + i32::from(remainder > threshold)
    }

    /// `x` times the factor, rounded to nearest once, ties up.
    #[inline(always)]
    pub fn apply_once(self, x: i32) -> i32 {
        let shift = 31 - self.shift;
        let product = i64::from(x) * i64::from(self.multiplier) + (1 << (shift - 1));
        // At most 62 - 1 + 1 bits, and all of them stay where the factor is large.
        (product >> shift).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
    }
}

/// The way back to eight bits, for each channel: `clamp(round(sum * factor) + zero, min, max)`.
#[derive(Clone, Debug)]
pub struct Requant {
    n_channels: usize,
    rounding: Rounding,
    /// `[n_channels]` and zeros up to a whole vector.
    scales: Vec<f32>,
    /// The same factors, where they are asked for.
    fixed: Vec<FixedPoint>,
    zero: i32,
    min: i32,
    max: i32,
}

impl Requant {
    /// `factors` for each channel, `f32` as XNNPACK computes them and `f64` as TFLite does; `zero` is the output's zero
    /// point, and results stay in `min..=max`.
    ///
    /// # Panics
    /// If there are not as many factors of both kinds.
    pub fn new(rounding: Rounding, factors: (&[f32], &[f64]), zero: u8, range: (u8, u8)) -> Requant {
        assert_eq!(factors.0.len(), factors.1.len());
        let n_channels = factors.0.len();
        let padded = n_channels.next_multiple_of(LANES);
        let mut scales = factors.0.to_vec();
        scales.resize(padded, 0.0);
        let mut fixed: Vec<FixedPoint> = factors.1.iter().map(|factor| FixedPoint::new(*factor)).collect();
        fixed.resize(padded, FixedPoint::default());
        let (zero, min, max) = (i32::from(zero), i32::from(range.0), i32::from(range.1));
        Requant { n_channels, rounding, scales, fixed, zero, min, max }
    }

    /// Channels that it has factors for.
    pub fn n_channels(&self) -> usize {
        self.n_channels
    }

    /// The same, with channels in the order `order`; `None` is nobody's channel.
    pub(super) fn reordered(&self, order: &[Option<usize>]) -> Requant {
        let mut requant = self.clone();
        requant.scales = order.iter().map(|from| from.map_or(0.0, |from| self.scales[from])).collect();
        requant.fixed =
            order.iter().map(|from| from.map_or_else(FixedPoint::default, |i| self.fixed[i])).collect();
        requant
    }

    /// Plain code for one sum of channel `channel`.
    pub fn apply_ref(&self, channel: usize, sum: i32) -> u8 {
        let value = match self.rounding {
            Rounding::Float => {
                let value = sum as f32 * self.scales[channel];
                let (low, high) = ((self.min - self.zero) as f32, (self.max - self.zero) as f32);
                value.max(low).min(high).round_ties_even() as i32
            }
            Rounding::FixedPoint => self.fixed[channel].apply(sum),
            Rounding::FixedPointOnce => self.fixed[channel].apply_once(sum),
        };
        value.saturating_add(self.zero).clamp(self.min, self.max) as u8
    }

    /// The constants of the fast way, in registers; `None` if rounding is another.
    #[inline(always)]
    pub(super) fn registers<S: Simd>(&self, s: S) -> Option<Registers<S>> {
        (self.rounding == Rounding::Float).then(|| Registers {
            low: s.splat((self.min - self.zero) as f32),
            high: s.splat((self.max - self.zero) as f32),
            zero: s.splat_i(self.zero),
        })
    }

    /// Factors of channels `at..at + 16`, for [`Registers::apply`].
    #[inline(always)]
    pub(super) fn scales<S: Simd>(&self, s: S, at: usize) -> S::F {
        // SAFETY: sixteen elements are readable.
        unsafe { s.load(self.scales[at..][..LANES].as_ptr()) }
    }
}

/// What [`Rounding::Float`] needs beside the factors.
#[derive(Clone, Copy)]
pub(super) struct Registers<S: Simd> {
    low: S::F,
    high: S::F,
    zero: S::I,
}

impl<S: Simd> Registers<S> {
    /// Sums as values in 0..=255.
    #[inline(always)]
    pub fn apply(&self, s: S, sums: S::I, scales: S::F) -> S::I {
        let value = s.mul(s.to_f(sums), scales);
        s.add_i(s.round(s.min(s.max(value, self.low), self.high)), self.zero)
    }

    /// Four vectors of sums as bytes, in the order of [`Simd::pack_bytes`].
    #[inline(always)]
    pub fn pack(&self, s: S, sums: [S::I; 4], scales: [S::F; 4]) -> S::B {
        let value = |v: usize| self.apply(s, sums[v], scales[v]);
        s.pack_bytes([value(0), value(1), value(2), value(3)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_become_multipliers() {
        assert_eq!(FixedPoint::new(1.0), FixedPoint { multiplier: 1 << 30, shift: 1 });
        assert_eq!(FixedPoint::new(0.5), FixedPoint { multiplier: 1 << 30, shift: 0 });
        assert_eq!(FixedPoint::new(0.75), FixedPoint { multiplier: 3 << 29, shift: 0 });
        // Rounds up to the next power of two.
        assert_eq!(FixedPoint::new(1.0 - 2f64.powi(-40)), FixedPoint { multiplier: 1 << 30, shift: 1 });
        assert_eq!(FixedPoint::new(2f64.powi(-33)), FixedPoint::default());
        assert_eq!(FixedPoint::new(f64::NAN), FixedPoint::default());
        assert_eq!(FixedPoint::new(1e12), FixedPoint { multiplier: i32::MAX, shift: 30 });
    }

    #[test]
    fn fixed_point_rounds_twice() {
        // First to halves, ties up, then to whole numbers, ties away from zero: 1 * 0.25 becomes 1.
        let quarter = FixedPoint::new(0.25);
        let products = [-7, -6, -5, -2, -1, 0, 1, 2, 5, 6, 7].map(|x| quarter.apply(x));
        assert_eq!(products, [-2, -2, -1, -1, 0, 0, 1, 1, 2, 2, 2]);
        assert_eq!(FixedPoint::new(1.0).apply(-(1 << 30)), -(1 << 30));
        assert_eq!(FixedPoint::new(4.0).apply(-3), -12);
        let products = [-7, -6, -5, -2, -1, 0, 1, 2, 5, 6, 7].map(|x| quarter.apply_once(x));
        assert_eq!(products, [-2, -1, -1, 0, 0, 0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn the_range_holds() {
        for rounding in [Rounding::Float, Rounding::FixedPoint, Rounding::FixedPointOnce] {
            let requant = Requant::new(rounding, (&[0.5], &[0.5]), 10, (3, 200));
            let results =
                [i32::MIN, -100, -14, 0, 5, 380, 1000, i32::MAX].map(|sum| requant.apply_ref(0, sum));
            let half = if rounding == Rounding::Float { 12 } else { 13 };
            assert_eq!(results, [3, 3, 3, 10, half, 200, 200, 200], "{rounding:?}");
        }
    }
}
