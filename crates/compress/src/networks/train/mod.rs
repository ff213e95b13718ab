//! Training small networks on their own graph, through candle's autodiff.
//!
//! - [`train`] teaches a graph what a [`Lesson`] holds: right classes, a teacher's [`Answers`], or both, weighed by a
//!   [`Loss`]. With scales of eight bits it learns to bear their rounding.
//! - `model` runs the graph on candle's tensors; `windows` and `rounding` are operators that candle lacks.
//!
//! The same seed on the same machine gives the same weights. Adam: Kingma and Ba 2015; the rate falls along a cosine after a
//! short rise: Loshchilov and Hutter 2017.

mod loss;
mod model;
mod rounding;
#[cfg(test)]
mod tests;
mod windows;

use std::fmt;
use std::ops::ControlFlow;

use candle_core::Var;
use candle_core::backprop::GradStore;
use edgeward_perceive::Graph;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::quantize::Scales;
use super::{answer, network};
use loss::Targets;
use model::{Model, logits_of};

pub use loss::{Loss, squared_errors};

/// Why a network could not be trained.
#[derive(Debug)]
pub enum Error {
    /// It cannot run, or examples do not fit.
    Network(edgeward_perceive::Error),
    /// It has something that cannot be trained: place and what.
    Unsupported(String),
    /// The lesson lacks something that the loss needs, or is empty.
    Lesson(String),
    /// The loss became infinite or no number.
    Diverged {
        /// Steps until then.
        step: usize,
    },
    /// The caller wanted no more.
    Stopped,
    /// The library that computes gradients refused: a mistake of ours.
    Gradients(candle_core::Error),
}

impl Error {
    fn untrainable(place: &str) -> Error {
        Error::Unsupported(format!("{place}: an operator that cannot be trained here"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Network(error) => error.fmt(f),
            Error::Unsupported(what) => write!(f, "the network cannot be trained: {what}"),
            Error::Lesson(what) => f.write_str(what),
            Error::Diverged { step } => {
                write!(f, "training diverged at step {step}: take a lower rate, or larger batches")
            }
            Error::Stopped => f.write_str("stopped"),
            Error::Gradients(error) => write!(f, "gradients could not be computed: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Network(error) => std::error::Error::source(error),
            Error::Gradients(error) => Some(error),
            _ => None,
        }
    }
}

impl From<edgeward_perceive::Error> for Error {
    fn from(error: edgeward_perceive::Error) -> Error {
        Error::Network(error)
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Error {
        Error::Gradients(error)
    }
}

/// What a teacher says to examples, in order.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Before the last softmax, times that one's factor; without a softmax, the outputs.
    pub logits: Vec<Vec<f32>>,
    /// Probabilities, or whatever it gives.
    pub outputs: Vec<Vec<f32>>,
}

impl Answers {
    /// Runs `teacher`, of which the first output counts.
    ///
    /// # Errors
    /// If it cannot run, or an example does not fit.
    pub fn of(teacher: &Graph, examples: &[Vec<Vec<f32>>]) -> Result<Answers, edgeward_perceive::Error> {
        let logits = logits_of(teacher);
        let mut both = teacher.clone();
        both.outputs.truncate(1);
        both.outputs.extend(logits.map(|(id, _)| id));
        let mut network = network(&both)?;
        let mut answers = Answers { logits: Vec::new(), outputs: Vec::new() };
        for example in examples {
            let mut all = answer(&mut network, example)?;
            let mut last = all.pop().expect("a network has an output");
            last.iter_mut().for_each(|x| *x *= logits.map_or(1.0, |(_, beta)| beta));
            answers.outputs.push(all.pop().unwrap_or_else(|| last.clone()));
            answers.logits.push(last);
        }
        Ok(answers)
    }
}

/// How far a network's answers are from a teacher's: the mean Kullback-Leibler divergence of its probabilities, in nats,
/// without rounding anything away; of a network without a softmax, the mean squared difference.
///
/// # Errors
/// If the network cannot run, an example does not fit, or it has another number of outputs.
pub fn divergence(
    graph: &Graph,
    examples: &[Vec<Vec<f32>>],
    teacher: &Answers,
) -> Result<f64, edgeward_perceive::Error> {
    let answers = Answers::of(graph, examples)?;
    let are_probabilities = logits_of(graph).is_some();
    let of_one = |(student, teacher): (&Vec<f32>, &Vec<f32>)| -> f64 {
        if are_probabilities {
            let (q, p) = (log_probabilities(student), log_probabilities(teacher));
            p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
        } else {
            squared_errors(student, teacher).iter().map(|x| f64::from(*x)).sum()
        }
    };
    if answers.logits.iter().zip(&teacher.logits).any(|(a, b)| a.len() != b.len()) {
        let what = "teacher and student must have as many outputs: give another".into();
        return Err(edgeward_perceive::Error::Mismatch { what });
    }
    let sum: f64 = answers.logits.iter().zip(&teacher.logits).map(of_one).sum();
    Ok(sum / examples.len().max(1) as f64)
}

fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - largest).exp()).sum();
    logits.iter().map(|x| f64::from(*x) - largest - sum.ln()).collect()
}

/// What is taught.
#[derive(Clone, Copy)]
pub struct Lesson<'a> {
    /// Each a list of inputs.
    pub examples: &'a [Vec<Vec<f32>>],
    /// The right class of each.
    pub labels: Option<&'a [usize]>,
    /// What the teacher says to each.
    pub answers: Option<&'a Answers>,
}

/// How it is taught.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// What is to become small.
    pub loss: Loss,
    /// Times that all examples are gone through.
    pub n_epochs: usize,
    /// Examples of a step.
    pub batch_size: usize,
    /// Adam's, at its highest.
    pub learning_rate: f64,
    /// Of the order of examples.
    pub seed: u64,
}

impl Options {
    /// Eight times through, in batches of 32, at a rate of 0.002, which suits small networks.
    pub fn new(loss: Loss) -> Options {
        Options { loss, n_epochs: 8, batch_size: 32, learning_rate: 2e-3, seed: 0 }
    }

    /// Steps for so many examples.
    pub fn n_steps(&self, n_examples: usize) -> usize {
        self.n_epochs * n_examples.div_ceil(self.batch_size.max(1))
    }
}

/// Where training is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Steps done.
    pub step: usize,
    /// Of so many.
    pub n_steps: usize,
    /// Mean loss of the steps of about one epoch, the last ones counting more.
    pub loss: f64,
}

/// Adam's factors for the means of gradients and of their squares, and what keeps it from dividing by nothing.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;
/// The share of steps in which the rate rises.
const RISE: f64 = 0.05;

/// Teaches `graph` a lesson; what it has become. With `scales` its activations and weights are rounded as these say while it
/// learns. `progress` is called after each step.
///
/// # Errors
/// If the graph has an operator that cannot be trained or more than one output, the lesson does not fit it or the loss, the
/// loss becomes infinite, or `progress` breaks.
pub fn train(
    graph: &Graph,
    lesson: &Lesson<'_>,
    options: &Options,
    scales: Option<&Scales>,
    progress: &mut dyn FnMut(Step) -> ControlFlow<()>,
) -> Result<Graph, Error> {
    check(graph, lesson, options)?;
    let model = Model::new(graph, scales.map(Scales::by_tensor))?;
    let mut adam = Adam::new(&model)?;
    let n_steps = options.n_steps(lesson.examples.len());
    let per_epoch = lesson.examples.len().div_ceil(options.batch_size) as f64;
    let mut order: Vec<usize> = (0..lesson.examples.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let (mut step, mut mean_loss) = (0, None::<f64>);
    for _ in 0..options.n_epochs {
        shuffle(&mut order, &mut rng);
        for batch in order.chunks(options.batch_size) {
            let loss = batch_loss(&model, lesson, batch, &options.loss)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(Error::Diverged { step });
            }
            adam.step(&loss.backward()?, options.learning_rate * rate(step, n_steps))?;
            step += 1;
            let mean = mean_loss.map_or(value, |mean| mean + (value - mean) / per_epoch.min(step as f64));
            mean_loss = Some(mean);
            if progress(Step { step, n_steps, loss: mean }).is_break() {
                return Err(Error::Stopped);
            }
        }
    }
    model.graph()
}

fn check(graph: &Graph, lesson: &Lesson<'_>, options: &Options) -> Result<(), Error> {
    let n = lesson.examples.len();
    if n == 0 || options.batch_size == 0 {
        return Err(Error::Lesson("there is nothing to learn from: give examples".into()));
    }
    let &[output] = graph.outputs.as_slice() else {
        return Err(Error::Unsupported(format!("it has {} outputs, and one is needed", graph.outputs.len())));
    };
    let n_outputs = graph.tensors[output].n_elements();
    let lens: Vec<usize> = graph.inputs.iter().map(|id| graph.tensors[*id].n_elements()).collect();
    let fits = |example: &Vec<Vec<f32>>| example.iter().map(Vec::len).eq(lens.iter().copied());
    if let Some(at) = lesson.examples.iter().position(|example| !fits(example)) {
        return Err(Error::Lesson(format!("example {at} does not have the inputs that the network takes")));
    }
    if options.loss.needs_teacher() {
        let answers =
            lesson.answers.filter(|answers| answers.outputs.len() == n && answers.logits.len() == n);
        let answers =
            answers.ok_or_else(|| Error::Lesson("the loss needs a teacher's answers to all".into()))?;
        if !answers.outputs.iter().chain(&answers.logits).all(|answer| answer.len() == n_outputs) {
            return Err(Error::Lesson("teacher and student must have as many outputs: give another".into()));
        }
    }
    if options.loss.needs_labels() {
        let labels = lesson.labels.filter(|labels| labels.len() == n);
        let labels = labels.ok_or_else(|| Error::Lesson("the loss needs the right class of each".into()))?;
        if let Some(label) = labels.iter().find(|label| **label >= n_outputs) {
            return Err(Error::Lesson(format!("class {label} is not one of the network's {n_outputs}")));
        }
    }
    Ok(())
}

/// Fisher and Yates.
fn shuffle(order: &mut [usize], rng: &mut ChaCha8Rng) {
    for i in (1..order.len()).rev() {
        order.swap(i, (rng.next_u64() % (i as u64 + 1)) as usize);
    }
}

/// The rate of a step, as a share of the highest.
fn rate(step: usize, n_steps: usize) -> f64 {
    let (at, rise) = ((step + 1) as f64, (n_steps as f64 * RISE).max(1.0));
    if at < rise {
        return at / rise;
    }
    let part = (at - rise) / (n_steps as f64 - rise).max(1.0);
    // Not to nothing, so that the last steps count as well.
    0.01 + 0.99 * 0.5 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos())
}

/// The mean loss of some examples.
fn batch_loss(
    model: &Model<'_>,
    lesson: &Lesson<'_>,
    batch: &[usize],
    loss: &Loss,
) -> Result<candle_core::Tensor, Error> {
    let graph = model.source();
    let inputs = (0..graph.inputs.len())
        .map(|port| batch.iter().flat_map(|i| lesson.examples[*i][port].iter().copied()).collect())
        .collect();
    let (wanted, beta) = logits_of(graph).unwrap_or((graph.outputs[0], 1.0));
    let logits = model.run(batch.len(), inputs, wanted)?.reshape((batch.len(), ()))?;
    let logits = (logits * f64::from(beta))?;
    let of = |rows: fn(&Answers) -> &Vec<Vec<f32>>| {
        lesson.answers.map(|answers| batch.iter().map(|i| rows(answers)[*i].as_slice()).collect())
    };
    let targets = Targets {
        logits: of(|answers| &answers.logits),
        outputs: of(|answers| &answers.outputs),
        labels: lesson.labels.map(|labels| batch.iter().map(|i| labels[*i]).collect()),
    };
    loss.of(&logits, wanted != graph.outputs[0], &targets)
}

/// Adam, without decay of weights.
struct Adam {
    variables: Vec<Var>,
    /// Of each variable's gradients, and of their squares.
    means: Vec<(Vec<f32>, Vec<f32>)>,
    n_steps: i32,
}

impl Adam {
    fn new(model: &Model<'_>) -> Result<Adam, Error> {
        let variables: Vec<Var> = model.variables().cloned().collect();
        let zeros = |variable: &Var| (vec![0f32; variable.elem_count()], vec![0f32; variable.elem_count()]);
        let means = variables.iter().map(zeros).collect();
        Ok(Adam { variables, means, n_steps: 0 })
    }

    fn step(&mut self, gradients: &GradStore, rate: f64) -> Result<(), Error> {
        self.n_steps += 1;
        let unbiased = |beta: f64| 1.0 - beta.powi(self.n_steps);
        let (first, second) = (unbiased(BETAS.0), unbiased(BETAS.1));
        let (beta_1, beta_2) = (BETAS.0 as f32, BETAS.1 as f32);
        for (variable, (mean, square)) in self.variables.iter().zip(&mut self.means) {
            // What does not reach the output has no gradient.
            let Some(gradient) = gradients.get(variable) else { continue };
            let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
            let mut values = variable.flatten_all()?.to_vec1::<f32>()?;
            let (rate, second) = ((rate / first) as f32, second as f32);
            for (i, g) in gradient.into_iter().enumerate() {
                mean[i] = beta_1 * mean[i] + (1.0 - beta_1) * g;
                square[i] = beta_2 * square[i] + (1.0 - beta_2) * g * g;
                values[i] -= rate * mean[i] / ((square[i] / second).sqrt() + EPSILON as f32);
            }
            variable.set(&candle_core::Tensor::from_vec(values, variable.shape(), variable.device())?)?;
        }
        Ok(())
    }
}
