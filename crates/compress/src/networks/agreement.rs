//! How far one network's answers are from another's.

use edgeward_perceive::{Error, Graph};

use super::{answer, network};

/// Two networks on the same examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Examples.
    pub n: usize,
    /// Share of examples whose largest output is the same, of all outputs.
    pub top_1: f64,
    /// Mean squared difference of outputs.
    pub squared_error: f64,
    /// That by the mean square of the first network's outputs, as a ratio in decibels: more is nearer.
    pub sqnr_db: f64,
    /// Mean Kullback-Leibler divergence where outputs are probabilities, in nats.
    pub kl_divergence: Option<f64>,
}

/// Probabilities add up to 1 but for what eight bits leave of them.
const SUM_TOLERANCE: f32 = 0.05;
/// Half a unit of a probability in eight bits: what is below is not told from 0.
const LEAST_PROBABILITY: f64 = 1.0 / 512.0;

impl Agreement {
    /// Runs both on `examples`, each a list of inputs.
    ///
    /// # Errors
    /// If one cannot run, an example does not fit, or there is none.
    pub fn measure(first: &Graph, second: &Graph, examples: &[Vec<Vec<f32>>]) -> Result<Agreement, Error> {
        let (mut a, mut b) = (network(first)?, network(second)?);
        let (mut n_outputs, mut n_same, mut n_values) = (0usize, 0usize, 0usize);
        let (mut squared, mut power, mut kl) = (0f64, 0f64, Some(0f64));
        for example in examples {
            for (x, y) in answer(&mut a, example)?.iter().zip(answer(&mut b, example)?) {
                if x.len() != y.len() {
                    return Err(Error::Mismatch { what: "the networks' outputs are not alike".into() });
                }
                n_outputs += 1;
                n_same += usize::from(largest(x) == largest(&y));
                n_values += x.len();
                for (x, y) in x.iter().zip(&y) {
                    squared += f64::from(x - y).powi(2);
                    power += f64::from(*x).powi(2);
                }
                let are_probabilities = [x, &y].iter().all(|p| {
                    p.len() > 1
                        && p.iter().all(|p| *p >= 0.0)
                        && (p.iter().sum::<f32>() - 1.0).abs() < SUM_TOLERANCE
                });
                kl = kl.filter(|_| are_probabilities).map(|kl| kl + divergence(x, &y));
            }
        }
        if n_outputs == 0 {
            return Err(Error::Mismatch { what: "there are no examples to compare on: give some".into() });
        }
        let squared_error = squared / n_values.max(1) as f64;
        Ok(Agreement {
            n: examples.len(),
            top_1: n_same as f64 / n_outputs as f64,
            squared_error,
            sqnr_db: 10.0 * (power / squared).log10(),
            kl_divergence: kl.map(|kl| (kl / n_outputs as f64).max(0.0)),
        })
    }
}

/// Index of the largest, the first of equals.
pub(super) fn largest(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// Of `q` from `p`, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let sum = |values: &[f32]| values.iter().map(|x| f64::from(*x).max(LEAST_PROBABILITY)).sum::<f64>();
    let (p_sum, q_sum) = (sum(p), sum(q));
    p.iter()
        .zip(q)
        .map(|(p, q)| {
            let p = f64::from(*p).max(LEAST_PROBABILITY) / p_sum;
            let q = f64::from(*q).max(LEAST_PROBABILITY) / q_sum;
            p * (p / q).ln()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences() {
        assert_eq!(divergence(&[0.5, 0.5], &[0.5, 0.5]), 0.0);
        let kl = divergence(&[0.5, 0.5], &[0.25, 0.75]);
        assert!((kl - (0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln())).abs() < 1e-9, "{kl}");
        assert!(divergence(&[1.0, 0.0], &[0.0, 1.0]).is_finite());
        assert_eq!(largest(&[1.0, 3.0, 3.0, 2.0]), 1);
    }
}
