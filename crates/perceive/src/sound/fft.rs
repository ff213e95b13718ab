//! The discrete Fourier transform of real samples: Cooley and Tukey's, radix two, in place.

use std::f64::consts::TAU;

/// A transform of one length.
#[derive(Clone, Debug)]
pub struct Fft {
    /// `[len / 2]`: cosine and sine of -2 pi i / len.
    twiddles: Vec<(f64, f64)>,
    /// `[len]`: real and imaginary parts.
    values: Vec<(f64, f64)>,
}

impl Fft {
    /// Of `len` samples, a power of two.
    pub fn new(len: usize) -> Fft {
        assert!(len.is_power_of_two() && len >= 2, "a transform is of a power of two");
        let twiddle = |i: usize| {
            let (sin, cos) = (-TAU * i as f64 / len as f64).sin_cos();
            (cos, sin)
        };
        Fft { twiddles: (0..len / 2).map(twiddle).collect(), values: vec![(0.0, 0.0); len] }
    }

    /// Squared magnitudes of `samples`, and zeros up to the length: bins 0 to len / 2 inclusive.
    pub fn power(&mut self, samples: impl Iterator<Item = f64>) -> impl Iterator<Item = f64> {
        let len = self.values.len();
        let n_bits = len.trailing_zeros();
        let mut samples = samples.fuse();
        for i in 0..len {
            // Samples go where bits of their number, read backwards, say.
            self.values[i.reverse_bits() >> (usize::BITS - n_bits)] = (samples.next().unwrap_or(0.0), 0.0);
        }
        let mut half = 1;
        while half < len {
            let step = len / 2 / half;
            for pair in self.values.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                let twiddles = self.twiddles.iter().step_by(step);
                for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(twiddles) {
                    let turned = (b.0 * cos - b.1 * sin, b.0 * sin + b.1 * cos);
                    *b = (a.0 - turned.0, a.1 - turned.1);
                    *a = (a.0 + turned.0, a.1 + turned.1);
                }
            }
            half *= 2;
        }
        self.values[..=len / 2].iter().map(|(re, im)| re * re + im * im)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_sum_that_defines_it() {
        for len in [2, 4, 8, 64] {
            let samples: Vec<f64> = (0..len).map(|i| ((i * i * 7 + i) % 11) as f64 - 5.0).collect();
            let power: Vec<f64> = Fft::new(len).power(samples.iter().copied()).collect();
            assert_eq!(power.len(), len / 2 + 1);
            for (bin, power) in power.iter().enumerate() {
                let angle = |i: usize| -TAU * (bin * i % len) as f64 / len as f64;
                let part = |f: fn(f64) -> f64| -> f64 {
                    samples.iter().enumerate().map(|(i, x)| x * f(angle(i))).sum()
                };
                let expected = part(f64::cos).powi(2) + part(f64::sin).powi(2);
                assert!((power - expected).abs() < 1e-9, "{len}, {bin}: {power} and not {expected}");
            }
        }
    }
}
