//! Several networks for one question: an ensemble, whose probabilities are averaged, and a cascade, in which a larger network
//! is asked only where the smaller one is not sure.
//!
//! How sure a network is, is its largest probability (Hendrycks and Gimpel 2017, "A Baseline for Detecting Misclassified and
//! Out-of-Distribution Examples", section 2). Averages of probabilities are at least as good as their members are on the
//! whole: by Jensen's inequality the mean's logarithmic loss is no larger than the mean of theirs.
//!
//! Asking allocates nothing.

use crate::error::Error;
use crate::network::Network;

/// Probabilities add up to 1 but for what eight bits leave of them.
const SUM_TOLERANCE: f32 = 0.05;

/// Networks of the same inputs whose first outputs are probabilities of the same classes.
#[derive(Debug)]
pub struct Ensemble {
    members: Vec<Network>,
    /// Of the member that was asked last.
    one: Vec<f32>,
    mean: Vec<f32>,
}

impl Ensemble {
    /// An ensemble of these; one is an ensemble, too.
    ///
    /// # Errors
    /// If there is none, or they take or give different numbers of elements.
    pub fn new(members: Vec<Network>) -> Result<Ensemble, Error> {
        let Some(first) = members.first() else {
            return Err(Error::Mismatch { what: "an ensemble has no networks: give some".into() });
        };
        let n_classes = n_classes(first)?;
        let mut this =
            Ensemble { members: Vec::new(), one: vec![0.0; n_classes], mean: vec![0.0; n_classes] };
        for member in members {
            this.check(&member)?;
            this.members.push(member);
        }
        Ok(this)
    }

    /// # Errors
    /// If `other` takes or gives other numbers of elements.
    fn check(&self, other: &Network) -> Result<(), Error> {
        let lens = |network: &Network| -> Vec<usize> {
            network.inputs().iter().map(super::network::Port::n_elements).collect()
        };
        let Some(first) = self.members.first() else { return Ok(()) };
        if lens(first) != lens(other) || n_classes(other)? != self.mean.len() {
            let what = format!(
                "networks that are asked together take and give the same: {:?} elements and {} classes, not {:?} and {}",
                lens(first),
                self.mean.len(),
                lens(other),
                n_classes(other)?
            );
            return Err(Error::Mismatch { what });
        }
        Ok(())
    }

    /// Its networks.
    pub fn members(&self) -> &[Network] {
        &self.members
    }

    /// The mean of the members' probabilities, `[n_classes]`; a single one is that of something being there.
    ///
    /// # Errors
    /// If the inputs do not fit, or a member's output is no probabilities.
    pub fn ask(&mut self, inputs: &[&[f32]]) -> Result<&[f32], Error> {
        self.mean.fill(0.0);
        let share = 1.0 / self.members.len() as f32;
        for member in &mut self.members {
            if inputs.len() != member.inputs().len() {
                let what = format!("there are {} inputs, not {}", member.inputs().len(), inputs.len());
                return Err(Error::Mismatch { what });
            }
            for (port, values) in inputs.iter().enumerate() {
                member.set_input(port, values)?;
            }
            member.run();
            member.output(0, &mut self.one)?;
            let sum: f32 = self.one.iter().sum();
            let is_whole = self.one.len() == 1 || (sum - 1.0).abs() < SUM_TOLERANCE;
            if !is_whole || self.one.iter().any(|p| !(0.0..=1.0 + SUM_TOLERANCE).contains(p)) {
                let what = format!(
                    "{} is no probabilities, and cannot be averaged or trusted: end the network with a softmax",
                    member.outputs()[0].name
                );
                return Err(Error::Mismatch { what });
            }
            self.mean.iter_mut().zip(&self.one).for_each(|(mean, one)| *mean += share * one);
        }
        Ok(&self.mean)
    }
}

fn n_classes(network: &Network) -> Result<usize, Error> {
    let port = network.outputs().first();
    let port = port.ok_or_else(|| Error::Mismatch { what: "a network without outputs".into() })?;
    Ok(port.n_elements())
}

/// How sure probabilities are, 0 to 1.
pub fn sureness(probabilities: &[f32]) -> f32 {
    match probabilities {
        // That of the one class that there is, or of its absence.
        [p] => p.max(1.0 - p),
        all => all.iter().copied().fold(0.0, f32::max),
    }
}

/// What a cascade says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer<'a> {
    /// `[n_classes]`, of the stage that was asked last.
    pub probabilities: &'a [f32],
    /// Which that was, from 0.
    pub stage: usize,
}

/// Stages, of which each is asked only if the one before was not sure.
#[derive(Debug)]
pub struct Cascade {
    stages: Vec<Ensemble>,
    threshold: f32,
    n_asked: Vec<u64>,
}

impl Cascade {
    /// A cascade of `stages`, the smallest first; whoever is as sure as `threshold`, 0 to 1, has the last word.
    ///
    /// # Errors
    /// If there is none, they do not fit together, or the threshold is none.
    pub fn new(stages: Vec<Ensemble>, threshold: f32) -> Result<Cascade, Error> {
        let Some(first) = stages.first() else {
            return Err(Error::Mismatch { what: "a cascade has no stages: give some".into() });
        };
        if !(0.0..=1.0).contains(&threshold) {
            return Err(Error::Mismatch { what: format!("{threshold} is no share: give one from 0 to 1") });
        }
        stages.iter().flat_map(|stage| &stage.members).try_for_each(|member| first.check(member))?;
        Ok(Cascade { n_asked: vec![0; stages.len()], stages, threshold })
    }

    /// Asks as many stages as are needed.
    ///
    /// # Errors
    /// As [`Ensemble::ask`].
    pub fn ask(&mut self, inputs: &[&[f32]]) -> Result<Answer<'_>, Error> {
        let last = self.stages.len() - 1;
        let mut stage = 0;
        loop {
            self.n_asked[stage] += 1;
            let sure = sureness(self.stages[stage].ask(inputs)?);
            if sure >= self.threshold || stage == last {
                return Ok(Answer { probabilities: &self.stages[stage].mean, stage });
            }
            stage += 1;
        }
    }

    /// Its stages.
    pub fn stages(&self) -> &[Ensemble] {
        &self.stages
    }

    /// How often each stage was asked.
    pub fn n_asked(&self) -> &[u64] {
        &self.n_asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Constant, ElementType, Graph, Node, Op, Tensor};
    use crate::network::Options;

    /// A softmax of two numbers times `factor`.
    fn network(factor: f32, n: usize, is_probability: bool) -> Network {
        let tensor = |shape: &[usize], constant| Tensor {
            name: "scores".into(),
            element_type: ElementType::F32,
            shape: shape.to_vec(),
            quantization: None,
            constant,
        };
        let weights: Vec<f32> = (0..n * n).map(|i| if i / n == i % n { factor } else { 0.0 }).collect();
        let tensors = vec![
            tensor(&[1, n], None),
            tensor(&[n, n], Some(Constant::of_f32s(&weights))),
            tensor(&[1, n], None),
            tensor(&[1, n], None),
        ];
        let dense = Op::FullyConnected { keeps_dims: false, activation: crate::graph::Activation::None };
        let mut nodes = vec![
            Node { op: dense, inputs: vec![Some(0), Some(1)], outputs: vec![2] },
            Node { op: Op::Softmax { beta: 1.0 }, inputs: vec![Some(2)], outputs: vec![3] },
        ];
        let output = if is_probability { 3 } else { 2 };
        nodes.truncate(output - 1);
        let graph = Graph { tensors, nodes, inputs: vec![0], outputs: vec![output] };
        Network::new(&graph, &Options::default()).unwrap()
    }

    fn softmax(a: f32, b: f32) -> f32 {
        1.0 / (1.0 + (b - a).exp())
    }

    #[test]
    fn probabilities_are_averaged() {
        let mut ensemble =
            Ensemble::new(vec![network(1.0, 2, true), network(4.0, 2, true), network(-1.0, 2, true)])
                .unwrap();
        let mean = ensemble.ask(&[&[1.0, 0.5]]).unwrap();
        let expected = (softmax(1.0, 0.5) + softmax(4.0, 2.0) + softmax(-1.0, -0.5)) / 3.0;
        assert!((mean[0] - expected).abs() < 1e-6 && (mean[0] + mean[1] - 1.0).abs() < 1e-6, "{mean:?}");
        assert_eq!(ensemble.members().len(), 3);
    }

    #[test]
    fn the_larger_is_asked_where_the_smaller_is_not_sure() {
        let stage = |factor| Ensemble::new(vec![network(factor, 2, true)]).unwrap();
        let mut cascade = Cascade::new(vec![stage(1.0), stage(-9.0)], 0.8).unwrap();
        // Sure of the first class; then hardly, and the second stage says the contrary.
        let answer = cascade.ask(&[&[3.0, 0.0]]).unwrap();
        assert_eq!((answer.stage, answer.probabilities[0] > 0.9), (0, true));
        let answer = cascade.ask(&[&[1.0, 0.0]]).unwrap();
        assert_eq!((answer.stage, answer.probabilities[1] > 0.9), (1, true));
        assert_eq!(cascade.n_asked(), [2, 1]);
        // The last has the last word however sure it is.
        let answer = cascade.ask(&[&[0.1, 0.1]]).unwrap();
        assert_eq!((answer.stage, answer.probabilities), (1, &[0.5, 0.5][..]));
        assert_eq!([sureness(&[0.1]), sureness(&[0.75]), sureness(&[0.2, 0.5, 0.3])], [0.9, 0.75, 0.5]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |result: Result<(), Error>, expected: &str| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(Ensemble::new(vec![]).map(drop), "no networks");
        refused(Ensemble::new(vec![network(1.0, 2, true), network(1.0, 3, true)]).map(drop), "the same");
        let stage = |n| Ensemble::new(vec![network(1.0, n, true)]).unwrap();
        refused(Cascade::new(vec![stage(2), stage(3)], 0.5).map(drop), "the same");
        refused(Cascade::new(vec![stage(2)], f32::NAN).map(drop), "no share");
        refused(Cascade::new(vec![], 0.5).map(drop), "no stages");
        let mut scores = Ensemble::new(vec![network(1.0, 2, false)]).unwrap();
        refused(scores.ask(&[&[3.0, 0.0]]).map(drop), "softmax");
        refused(stage(2).ask(&[]).map(drop), "1 inputs, not 0");
    }
}
