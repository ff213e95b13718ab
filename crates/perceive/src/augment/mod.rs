//! More examples from few: what is changed a little is still what it was.
//!
//! [`Images`] flips, cuts, recolours and adds noise; [`Sounds`] moves a recording in time, adds noise and hides parts of its
//! spectrum (SpecAugment, Park et al. 2019); [`series`] jitters measurements and warps their time; [`mix`] blends two
//! examples and their answers (mix-up, Zhang et al. 2018). Everything follows from a seed. Where an answer is a place or a
//! time, it is told where that has gone; tests hold each kind to it.

mod images;
pub mod series;
mod sounds;

pub use images::{Images, Moved};
pub use sounds::{Hidden, Masks, Sounds, mask, shift};

use crate::learner::folds::split_mix;

/// Numbers that look like chance, the same for the same seed on every machine.
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// Of a seed.
    pub fn new(seed: u64) -> Chance {
        Chance { state: seed }
    }

    /// Other chances, for example `n` of many, whichever were asked for before.
    pub fn of_example(seed: u64, n: u64) -> Chance {
        let mut state = seed ^ n.wrapping_mul(0xd1b5_4a32_d192_ed03);
        Chance { state: split_mix(&mut state) }
    }

    /// 0 to 1, without 1.
    pub fn unit(&mut self) -> f64 {
        (split_mix(&mut self.state) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From `low` to `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// 0 to `n`, without `n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "there is something to choose from");
        ((self.unit() * n as f64) as usize).min(n - 1)
    }

    /// Normally distributed, with a standard deviation of 1 (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Of the beta distribution with both parameters `alpha`: 0 to 1, for small ones mostly near the ends.
    ///
    /// # Panics
    /// If `alpha` is not above 0.
    pub fn beta(&mut self, alpha: f64) -> f64 {
        assert!(alpha > 0.0);
        let (a, b) = (self.gamma(alpha), self.gamma(alpha));
        if a + b > 0.0 { a / (a + b) } else { 0.5 }
    }

    /// Marsaglia and Tsang 2000; below 1 by way of the next higher one.
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            return self.gamma(shape + 1.0) * (1.0 - self.unit()).powf(1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        // Nineteen of twenty are taken at once.
        for _ in 0..100 {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.unit()).ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
                return d * v;
            }
        }
        shape
    }
}

/// `share` of `a` and the rest of `b`; answers are mixed by the same share.
///
/// # Panics
/// If they have different lengths.
pub fn mix(a: &[f64], b: &[f64], share: f64) -> Vec<f64> {
    assert_eq!(a.len(), b.len(), "what is mixed is of one kind");
    a.iter().zip(b).map(|(a, b)| share * a + (1.0 - share) * b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_again_and_chances_are_as_they_should_be() {
        let of = |seed| (0..9).map(|_| Chance::new(seed).unit()).collect::<Vec<_>>();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let of_example = |n| Chance::of_example(1, n).unit();
        assert!(of_example(0) != of_example(1) && of_example(5) == of_example(5));
        let mut chance = Chance::new(3);
        let moments = |values: Vec<f64>| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64)
        };
        let (mean, variance) = moments((0..20_000).map(|_| chance.normal()).collect());
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean}, {variance}");
        for alpha in [0.4, 1.0, 3.0] {
            let (mean, variance) = moments((0..20_000).map(|_| chance.beta(alpha)).collect());
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.01 && (variance - expected).abs() < 0.005, "{alpha}: {variance}");
        }
    }

    #[test]
    fn the_answer_of_a_mixture_is_the_mixture_of_the_answers() {
        let mut chance = Chance::new(4);
        for _ in 0..200 {
            let (share, n) = (chance.beta(0.4), 1 + chance.below(9));
            let mut numbers = || (0..n).map(|_| chance.between(-5.0, 5.0)).collect::<Vec<_>>();
            let (a, b, weights) = (numbers(), numbers(), numbers());
            // Any answer that weighs and adds, and shares of classes.
            let answer = |x: &[f64]| x.iter().zip(&weights).map(|(x, weight)| x * weight).sum::<f64>();
            let mixed = share * answer(&a) + (1.0 - share) * answer(&b);
            assert!((answer(&mix(&a, &b, share)) - mixed).abs() < 1e-9);
            let classes = mix(&[1.0, 0.0], &[0.0, 1.0], share);
            assert!((classes.iter().sum::<f64>() - 1.0).abs() < 1e-12 && classes[0] == share);
            // Two of one class are of that class.
            assert_eq!(mix(&[0.0, 1.0], &[0.0, 1.0], 0.25), [0.0, 1.0]);
        }
    }
}
