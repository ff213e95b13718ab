//! Small learners on features: what a hundred examples teach in a second, on the device itself.
//!
//! A network needs thousands of examples. With few, numbers that people have thought out ([`crate::vision::features`],
//! [`crate::sound::Clip`], [`crate::table::Window`]) and a plain learner on them do better, and their file has kilobytes.
//!
//! - [`Linear`] weighs and adds: linear discriminant analysis for classes, least squares for a number. It needs the
//!   fewest examples, and is the default.
//! - [`Trees`] ask one question after another: gradient boosting, for tables with thousands of rows, where a thing follows
//!   from several columns in ways that do not add up.
//!
//! What was learnt is a [`Learner`]; [`folds`] says how well, on examples that it has not seen. Everything is
//! deterministic.

mod fitted;
pub(crate) mod folds;
mod linear;
mod trees;

pub use fitted::{Answer, FileError, Fitted, Input, MAX_WINDOW};
pub use folds::{Fold, by_group, stratified};
pub use linear::Linear;
pub use trees::{Trees, TreesOptions};

use std::fmt;

use serde::{Deserialize, Serialize};

/// Examples: vectors of numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    n_features: usize,
    /// `[n, n_features]`.
    values: Vec<f64>,
}

impl Samples {
    /// None yet, of vectors of `n_features`.
    ///
    /// # Panics
    /// If `n_features` is 0.
    pub fn new(n_features: usize) -> Samples {
        assert!(n_features > 0, "an example is at least one number");
        Samples { n_features, values: Vec::new() }
    }

    /// Adds an example.
    ///
    /// # Panics
    /// If it has another length, or is not finite.
    pub fn push(&mut self, features: &[f64]) {
        assert_eq!(features.len(), self.n_features, "examples are of one length");
        assert!(features.iter().all(|x| x.is_finite()), "features are finite numbers");
        self.values.extend_from_slice(features);
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.values.len() / self.n_features.max(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Numbers of an example.
    pub fn n_features(&self) -> usize {
        self.n_features
    }

    /// Examples in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.values.chunks_exact(self.n_features.max(1))
    }

    /// Example `i`.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.n_features..][..self.n_features]
    }

    /// These examples only.
    pub fn select(&self, which: &[usize]) -> Samples {
        let values = which.iter().flat_map(|i| self.row(*i)).copied().collect();
        Samples { n_features: self.n_features, values }
    }
}

/// What is to be learnt of each example.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// One of `n_classes` classes.
    Classes {
        /// Of each example.
        of: Vec<usize>,
        /// Classes in all.
        n_classes: usize,
    },
    /// A number.
    Numbers(Vec<f64>),
}

impl Target {
    /// Of these examples only.
    pub fn select(&self, which: &[usize]) -> Target {
        match self {
            Target::Classes { of, n_classes } => {
                Target::Classes { of: which.iter().map(|i| of[*i]).collect(), n_classes: *n_classes }
            }
            Target::Numbers(of) => Target::Numbers(which.iter().map(|i| of[*i]).collect()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Target::Classes { of, .. } => of.len(),
            Target::Numbers(of) => of.len(),
        }
    }

    /// Numbers that a learner gives for an example.
    fn n_outputs(&self) -> usize {
        match self {
            Target::Classes { n_classes, .. } => *n_classes,
            Target::Numbers(_) => 1,
        }
    }

    fn check(&self, samples: &Samples) -> Result<(), FitError> {
        assert_eq!(samples.len(), self.len(), "each example has a target");
        let too_few = |what: &str| Err(FitError { what: what.to_owned() });
        match self {
            _ if samples.len() < 2 => too_few("there are fewer than two examples"),
            Target::Numbers(of) => {
                assert!(of.iter().all(|y| y.is_finite()), "targets are finite numbers");
                Ok(())
            }
            Target::Classes { n_classes: 0 | 1, .. } => {
                too_few("there is one class alone: give examples of another")
            }
            Target::Classes { of, n_classes } => match (0..*n_classes).find(|class| !of.contains(class)) {
                Some(class) => too_few(&format!("there is no example of class {class}")),
                None => Ok(()),
            },
        }
    }
}

/// Why nothing could be learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FitError {
    what: String,
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing can be learnt from these examples: {}", self.what)
    }
}

impl std::error::Error for FitError {}

/// What was learnt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Learner {
    /// Weights and sums.
    Linear(Linear),
    /// Boosted trees.
    Trees(Trees),
}

/// Which learner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// [`Linear`].
    Linear,
    /// [`Trees`].
    Trees(TreesOptions),
}

impl Learner {
    /// Learns from examples.
    ///
    /// # Errors
    /// If there are fewer than two examples, or a class without any.
    ///
    /// # Panics
    /// If there are more targets than examples, or fewer.
    pub fn fit(kind: Kind, samples: &Samples, target: &Target) -> Result<Learner, FitError> {
        target.check(samples)?;
        Ok(match kind {
            Kind::Linear => Learner::Linear(Linear::fit(samples, target)),
            Kind::Trees(options) => Learner::Trees(Trees::fit(samples, target, &options)),
        })
    }

    /// Numbers of an example.
    pub fn n_features(&self) -> usize {
        match self {
            Learner::Linear(linear) => linear.n_features(),
            Learner::Trees(trees) => trees.n_features(),
        }
    }

    /// One for each class, or one.
    pub fn n_outputs(&self) -> usize {
        match self {
            Learner::Linear(linear) => linear.n_outputs(),
            Learner::Trees(trees) => trees.n_outputs(),
        }
    }

    /// The number that was learnt to be told, of an example.
    ///
    /// # Panics
    /// If it learnt classes, or the example has another length.
    pub fn number(&self, features: &[f64]) -> f64 {
        let outputs = self.outputs(features);
        assert_eq!(outputs.len(), 1, "this learner tells classes");
        outputs[0]
    }

    /// Probabilities of the classes, of an example.
    ///
    /// # Panics
    /// If it learnt a number, or the example has another length.
    pub fn probabilities(&self, features: &[f64]) -> Vec<f64> {
        let mut outputs = self.outputs(features);
        assert!(outputs.len() > 1, "this learner tells a number");
        softmax(&mut outputs);
        outputs
    }

    /// The likeliest class.
    ///
    /// # Panics
    /// As [`Learner::probabilities`].
    pub fn class(&self, features: &[f64]) -> usize {
        let probabilities = self.probabilities(features);
        // Of equal ones the first.
        let best =
            |best: usize, class: usize| if probabilities[class] > probabilities[best] { class } else { best };
        (0..probabilities.len()).fold(0, best)
    }

    fn outputs(&self, features: &[f64]) -> Vec<f64> {
        assert_eq!(features.len(), self.n_features(), "examples are of one length");
        match self {
            Learner::Linear(linear) => linear.outputs(features),
            Learner::Trees(trees) => trees.outputs(features),
        }
    }

    /// Whether a file's numbers belong together, so that using them cannot panic.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Learner::Linear(linear) => linear.check(),
            Learner::Trees(trees) => trees.check(),
        }
    }
}

fn softmax(outputs: &mut [f64]) {
    let largest = outputs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    outputs.iter_mut().for_each(|x| *x = (*x - largest).exp());
    let sum: f64 = outputs.iter().sum();
    outputs.iter_mut().for_each(|x| *x /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look like chance, -1 to 1.
    fn noise(n: usize) -> impl Iterator<Item = f64> {
        let mut state = 0x9e37_79b9_u32;
        (0..n).map(move |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 23) - 1.0
        })
    }

    #[test]
    fn both_learners_tell_classes() {
        let mut samples = Samples::new(3);
        let mut of = Vec::new();
        let mut chance = noise(3000);
        for i in 0..900 {
            let class = i % 3;
            let mut next = || chance.next().unwrap();
            // The third number tells nothing, and is large.
            samples.push(&[
                class as f64 + 0.45 * next(),
                (class == 1) as u8 as f64 + 0.45 * next(),
                1000.0 * next(),
            ]);
            of.push(class);
        }
        let target = Target::Classes { of: of.clone(), n_classes: 3 };
        for kind in [Kind::Linear, Kind::Trees(TreesOptions { n_rounds: 30, ..TreesOptions::default() })] {
            let learner = Learner::fit(kind, &samples, &target).unwrap();
            let right = samples.rows().zip(&of).filter(|(row, class)| learner.class(row) == **class).count();
            assert!(right > 890, "{kind:?}: {right}");
            let probabilities = learner.probabilities(samples.row(1));
            assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let text = serde_json::to_string(&learner).unwrap();
            let again: Learner = serde_json::from_str(&text).unwrap();
            again.check().unwrap();
            assert_eq!(again.class(samples.row(7)), learner.class(samples.row(7)));
        }
    }

    #[test]
    fn both_learners_tell_numbers() {
        let mut samples = Samples::new(2);
        let (mut line, mut step) = (Vec::new(), Vec::new());
        let mut chance = noise(4000);
        for _ in 0..2000 {
            let (a, b) = (chance.next().unwrap(), chance.next().unwrap());
            samples.push(&[a, b]);
            line.push(3.0 * a - 2.0 * b + 5.0);
            step.push(if a > 0.2 && b < 0.0 { 10.0 } else { -1.0 });
        }
        let linear = Learner::fit(Kind::Linear, &samples, &Target::Numbers(line)).unwrap();
        assert!((linear.number(&[0.5, 0.25]) - 6.0).abs() < 0.02, "{}", linear.number(&[0.5, 0.25]));
        let trees = Kind::Trees(TreesOptions::default());
        let trees = Learner::fit(trees, &samples, &Target::Numbers(step)).unwrap();
        for (at, expected) in [([0.5, -0.5], 10.0), ([0.5, 0.5], -1.0), ([-0.5, -0.5], -1.0)] {
            assert!((trees.number(&at) - expected).abs() < 0.1, "{at:?}: {}", trees.number(&at));
        }
    }

    #[test]
    fn what_teaches_nothing_is_refused() {
        let mut samples = Samples::new(1);
        assert!(Learner::fit(Kind::Linear, &samples, &Target::Numbers(vec![])).is_err());
        samples.push(&[1.0]);
        samples.push(&[1.0]);
        for (of, n_classes) in [(vec![0, 0], 1), (vec![0, 0], 2)] {
            let target = Target::Classes { of, n_classes };
            assert!(Learner::fit(Kind::Linear, &samples, &target).is_err());
        }
        // The same example in two classes: neither is likelier, and nothing is divided by zero.
        let target = Target::Classes { of: vec![0, 1], n_classes: 2 };
        for kind in [Kind::Linear, Kind::Trees(TreesOptions::default())] {
            let learner = Learner::fit(kind, &samples, &target).unwrap();
            assert!((learner.probabilities(&[1.0])[0] - 0.5).abs() < 1e-9);
        }
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        for text in [
            r#"{"linear":{"n_features":2,"weights":[1.0,2.0,3.0],"offsets":[0.0]}}"#,
            r#"{"linear":{"n_features":0,"weights":[],"offsets":[0.0]}}"#,
            r#"{"linear":{"n_features":1,"weights":[],"offsets":[]}}"#,
            r#"{"trees":{"n_features":1,"offsets":[0.0],"trees":[{"features":[0],"numbers":[1.0],"children":[0]}]}}"#,
            r#"{"trees":{"n_features":1,"offsets":[0.0],"trees":[{"features":[0,-1],"numbers":[1.0,2.0],"children":[1,0]}]}}"#,
            r#"{"trees":{"n_features":1,"offsets":[0.0],"trees":[{"features":[5,-1,-1],"numbers":[1.0,2.0,3.0],"children":[1,0,0]}]}}"#,
            r#"{"trees":{"n_features":1,"offsets":[0.0,0.0],"trees":[{"features":[-1],"numbers":[1.0],"children":[0]}]}}"#,
            r#"{"trees":{"n_features":1,"offsets":[0.0],"trees":[{"features":[],"numbers":[],"children":[]}]}}"#,
        ] {
            let learner: Learner = serde_json::from_str(text).unwrap();
            assert!(learner.check().is_err(), "{text}");
        }
    }
}
