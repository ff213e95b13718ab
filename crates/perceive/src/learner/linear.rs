//! Linear discriminant analysis, and least squares, with a shrunken covariance.
//!
//! Fisher's discriminants for classes that are normally distributed about their means with one covariance (Hastie,
//! Tibshirani and Friedman, "The Elements of Statistical Learning", section 4.3). With more features than examples the
//! covariance cannot be inverted, and with few more its inverse is mostly noise: so it is drawn towards its diagonal's
//! mean by the share that Ledoit and Wolf 2004 ("A well-conditioned estimator for large-dimensional covariance
//! matrices") derive from the examples themselves. Nothing is to be tuned. For a number, the same covariance gives
//! the weights of least squares.

use serde::{Deserialize, Serialize};

use super::{Samples, Target};

/// Weights and sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    n_features: usize,
    /// `[n_outputs, n_features]`.
    weights: Vec<f64>,
    /// `[n_outputs]`.
    offsets: Vec<f64>,
}

/// A standard deviation below it is none: the feature is the same for all.
const MIN_DEVIATION: f64 = 1e-9;

impl Linear {
    pub(super) fn fit(samples: &Samples, target: &Target) -> Linear {
        let n_features = samples.n_features();
        match target {
            Target::Classes { of, n_classes } => {
                let means = means(samples, of, *n_classes);
                let centred = Centred::new(samples, |i| &means[of[i]]);
                let covariance = centred.shrunken_covariance();
                let mut linear = Linear { n_features, weights: Vec::new(), offsets: Vec::new() };
                for (class, mean) in means.iter().enumerate() {
                    let scaled: Vec<f64> = mean.iter().zip(&centred.deviations).map(|(x, d)| x / d).collect();
                    let weights = covariance.solve(&scaled);
                    let n = of.iter().filter(|other| **other == class).count();
                    let prior = (n as f64 / of.len() as f64).ln();
                    linear.offsets.push(prior - 0.5 * dot(&weights, &scaled));
                    linear.weights.extend(weights.iter().zip(&centred.deviations).map(|(w, d)| w / d));
                }
                linear
            }
            Target::Numbers(of) => {
                let mean = &means(samples, &vec![0; of.len()], 1)[0];
                let centred = Centred::new(samples, |_| mean);
                let mean_of = of.iter().sum::<f64>() / of.len() as f64;
                let mut products = vec![0.0; n_features];
                for (row, y) in centred.rows.chunks_exact(n_features).zip(of) {
                    let y = (y - mean_of) / of.len() as f64;
                    products.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * y);
                }
                let weights = centred.shrunken_covariance().solve(&products);
                let weights: Vec<f64> = weights.iter().zip(&centred.deviations).map(|(w, d)| w / d).collect();
                Linear { n_features, offsets: vec![mean_of - dot(&weights, mean)], weights }
            }
        }
    }

    pub(super) fn n_features(&self) -> usize {
        self.n_features
    }

    pub(super) fn n_outputs(&self) -> usize {
        self.offsets.len()
    }

    pub(super) fn outputs(&self, features: &[f64]) -> Vec<f64> {
        let weights = self.weights.chunks_exact(self.n_features);
        weights.zip(&self.offsets).map(|(weights, offset)| offset + dot(weights, features)).collect()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let Linear { n_features, weights, offsets } = self;
        if *n_features == 0
            || offsets.is_empty()
            || Some(weights.len()) != n_features.checked_mul(offsets.len())
        {
            return Err(format!("{} weights for {n_features} features", weights.len()));
        }
        if weights.iter().chain(offsets).all(|x| x.is_finite()) {
            Ok(())
        } else {
            Err("a weight is no number".to_owned())
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Of each class.
fn means(samples: &Samples, of: &[usize], n_classes: usize) -> Vec<Vec<f64>> {
    let mut means = vec![vec![0.0; samples.n_features()]; n_classes];
    let mut counts = vec![0.0; n_classes];
    for (row, class) in samples.rows().zip(of) {
        counts[*class] += 1.0;
        means[*class].iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
    }
    for (mean, count) in means.iter_mut().zip(counts) {
        mean.iter_mut().for_each(|mean| *mean /= count);
    }
    means
}

/// Examples less their means, divided by standard deviations.
struct Centred {
    n_features: usize,
    /// `[n, n_features]`.
    rows: Vec<f64>,
    /// `[n_features]`.
    deviations: Vec<f64>,
}

impl Centred {
    fn new<'a>(samples: &Samples, mean: impl Fn(usize) -> &'a Vec<f64>) -> Centred {
        let n_features = samples.n_features();
        let mut rows: Vec<f64> = Vec::with_capacity(samples.len() * n_features);
        for (i, row) in samples.rows().enumerate() {
            rows.extend(row.iter().zip(mean(i)).map(|(x, mean)| x - mean));
        }
        let mut deviations = vec![0.0; n_features];
        for row in rows.chunks_exact(n_features) {
            deviations.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
        }
        for deviation in &mut deviations {
            *deviation = (*deviation / samples.len() as f64).sqrt();
            if *deviation < MIN_DEVIATION {
                *deviation = 1.0;
            }
        }
        for row in rows.chunks_exact_mut(n_features) {
            row.iter_mut().zip(&deviations).for_each(|(x, deviation)| *x /= deviation);
        }
        Centred { n_features, rows, deviations }
    }

    fn shrunken_covariance(&self) -> Cholesky {
        let p = self.n_features;
        let n = (self.rows.len() / p) as f64;
        let mut covariance = vec![0.0; p * p];
        let mut fourth = 0.0;
        for row in self.rows.chunks_exact(p) {
            for (i, x) in row.iter().enumerate() {
                // The lower triangle is enough.
                covariance[i * p..][..=i].iter_mut().zip(row).for_each(|(sum, y)| *sum += x * y / n);
            }
            fourth += dot(row, row).powi(2);
        }
        let at = |i: usize, j: usize| covariance[i.max(j) * p + i.min(j)];
        let mean = (0..p).map(|i| at(i, i)).sum::<f64>() / p as f64;
        let squares: f64 =
            (0..p).flat_map(|i| (0..p).map(move |j| (i, j))).map(|(i, j)| at(i, j).powi(2)).sum();
        // Ledoit and Wolf's names: how far the covariance is from its target, and how far by chance.
        let delta = (squares - p as f64 * mean * mean) / p as f64;
        let beta = ((fourth / n - squares) / (p as f64 * n)).clamp(0.0, delta.max(0.0));
        let shrinkage = if delta > 0.0 { beta / delta } else { 1.0 };
        for i in 0..p {
            covariance[i * p..][..i].iter_mut().for_each(|x| *x *= 1.0 - shrinkage);
            let diagonal = &mut covariance[i * p + i];
            *diagonal = *diagonal * (1.0 - shrinkage) + mean * shrinkage;
        }
        Cholesky::new(covariance, p)
    }
}

/// A positive matrix as the product of a lower triangle and its transpose.
struct Cholesky {
    /// `[n, n]`.
    lower: Vec<f64>,
    n: usize,
}

/// Of a pivot that is 0 but for rounding, where features follow from each other exactly: the direction is left out.
const MIN_PIVOT: f64 = 1e-10;

impl Cholesky {
    fn new(mut a: Vec<f64>, n: usize) -> Cholesky {
        for i in 0..n {
            for j in 0..=i {
                let sum = a[i * n + j] - dot(&a[i * n..][..j], &a[j * n..][..j]);
                a[i * n + j] = if i != j {
                    sum / a[j * n + j]
                } else if sum > MIN_PIVOT {
                    sum.sqrt()
                } else {
                    // An infinite pivot: its weight becomes 0.
                    f64::INFINITY
                };
            }
        }
        Cholesky { lower: a, n }
    }

    fn solve(&self, b: &[f64]) -> Vec<f64> {
        let Cholesky { lower, n } = self;
        let mut x = b.to_vec();
        for i in 0..*n {
            x[i] = (x[i] - dot(&lower[i * n..][..i], &x[..i])) / lower[i * n + i];
        }
        for i in (0..*n).rev() {
            let sum: f64 = (i + 1..*n).map(|k| lower[k * n + i] * x[k]).sum();
            x[i] = (x[i] - sum) / lower[i * n + i];
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_solved() {
        let a = [4.0, 0.0, 0.0, 2.0, 5.0, 0.0, 1.0, 3.0, 6.0];
        let x = Cholesky::new(a.to_vec(), 3).solve(&[4.0 - 2.0 + 3.0, 2.0 - 5.0 + 9.0, 1.0 - 3.0 + 18.0]);
        for (x, expected) in x.iter().zip([1.0, -1.0, 3.0]) {
            assert!((x - expected).abs() < 1e-12, "{x}");
        }
        // The second row follows from the first.
        assert_eq!(Cholesky::new(vec![1.0, 0.0, 1.0, 1.0], 2).solve(&[2.0, 2.0]), [2.0, 0.0]);
    }

    #[test]
    fn shrinkage_is_ledoit_and_wolfs() {
        let mut samples = Samples::new(2);
        [[1.0, 0.5], [-1.0, 0.25], [2.0, -1.5], [-2.0, 0.75]].iter().for_each(|row| samples.push(row));
        let centred = Centred { n_features: 2, rows: samples.values.clone(), deviations: vec![1.0; 2] };
        let Cholesky { lower, .. } = centred.shrunken_covariance();
        // scikit-learn 1.9: ledoit_wolf([[1, .5], [-1, .25], [2, -1.5], [-2, .75]], assume_centered=True)
        let covariance =
            [lower[0] * lower[0], lower[2] * lower[0], lower[2] * lower[2] + lower[3] * lower[3]];
        for (ours, theirs) in
            covariance.iter().zip([2.124690523271016, -0.5984810105896196, 1.1565594767289842])
        {
            assert!((ours - theirs).abs() < 1e-12, "{ours} and not {theirs}");
        }
    }
}
