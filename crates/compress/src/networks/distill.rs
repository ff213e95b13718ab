//! From a teacher to a small student in eight bits.
//!
//! The student is the teacher without those of its channels that matter least, or a network that is given. It is taught
//! the teacher's answers; then its activations' scales are fixed, and it is taught a little longer with all values rounded as
//! eight bits will round them, so that the weights find places that bear it. Biases need no correction then: what rounding
//! does to them has been learnt.

use std::ops::ControlFlow;

use edgeward_perceive::{Graph, tflite};

use super::train::{self, Answers, Error, Lesson, Loss, Step, train};
use super::{Agreement, Method, Options, PruneOptions, Scales, calibrate, prune, quantize_with};

/// The share of a plan's epochs that each round of pruning is followed by, and that eight bits are learnt in.
const REPAIR_SHARE: f64 = 0.25;
/// The share of the rate when eight bits are learnt: weights are near their places.
const ROUNDED_RATE: f64 = 0.1;
/// Rounds of pruning.
const N_ROUNDS: usize = 4;
/// Examples that scales are chosen on at most.
const MAX_CALIBRATION: usize = 500;
/// Examples that eight bits are tried on before the work begins.
const N_TRIED: usize = 4;
/// What percentile leaves out.
const OUTSIDE: f64 = 1e-4;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Share of the student's multiplications that is to be left, 0 to 1; 1 leaves out nothing.
    pub prune_to: f64,
    /// How the student is taught.
    pub training: train::Options,
    /// Whether it becomes eight bits.
    pub eight_bits: bool,
    /// What inputs can be, where that is known: black and white of an image.
    pub input_range: Option<(f32, f32)>,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Channels are measured; the round, of so many.
    Measuring(usize, usize),
    /// What a round of pruning left is taught.
    Repairing(usize, usize),
    /// The student is taught.
    Teaching,
    /// It learns to bear eight bits.
    Rounding,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Distilled {
    /// The student in floats, as it was taught.
    pub float: Graph,
    /// In eight bits, if the plan says so.
    pub eight_bits: Option<Graph>,
}

/// Makes a student of `student`, or of the teacher itself. `labels` are the right classes of `examples`, for a loss that wants
/// them. `progress` is told what is being done, and may break it off.
///
/// # Errors
/// If a network cannot run, be trained, pruned so far or have eight bits; if examples, labels and loss do not fit together;
/// or if `progress` breaks.
pub fn distill(
    teacher: &Graph,
    student: Option<&Graph>,
    (examples, labels): (&[Vec<Vec<f32>>], Option<&[usize]>),
    plan: &Plan,
    progress: &mut dyn FnMut(Phase, Step) -> ControlFlow<()>,
) -> Result<Distilled, Error> {
    let answers = Answers::of(teacher, examples)?;
    let lesson = Lesson { examples, labels, answers: Some(&answers) };
    let mut float = student.unwrap_or(teacher).clone();
    if plan.eight_bits {
        // Whatever has no eight bits is refused now, and not after all the teaching.
        let few = &examples[..examples.len().min(N_TRIED)];
        tflite::write(&quantize_with(&float, &scales(&float, few, plan.input_range)?, None)?)?;
    }
    if plan.prune_to < 1.0 {
        let options = PruneOptions { share: plan.prune_to, n_rounds: N_ROUNDS };
        let repairing = train::Options { n_epochs: part(plan.training.n_epochs), ..plan.training };
        let measuring = |round| Phase::Measuring(round, N_ROUNDS);
        let none = Step { step: 0, n_steps: 0, loss: 0.0 };
        stop(progress(measuring(1), none))?;
        float = prune(&float, &options, examples, &answers, &mut |graph, round| {
            // After the last round the whole teaching follows.
            if round == N_ROUNDS {
                return Ok(graph);
            }
            let mut report = |step| progress(Phase::Repairing(round, N_ROUNDS), step);
            let graph = train(&graph, &lesson, &repairing, None, &mut report)?;
            stop(progress(measuring(round + 1), none))?;
            Ok(graph)
        })?;
    }
    float = train(&float, &lesson, &plan.training, None, &mut |step| progress(Phase::Teaching, step))?;
    if !plan.eight_bits {
        return Ok(Distilled { float, eight_bits: None });
    }
    let scales = scales(&float, examples, plan.input_range)?;
    let rounded = train::Options {
        n_epochs: part(plan.training.n_epochs),
        learning_rate: plan.training.learning_rate * ROUNDED_RATE,
        ..plan.training
    };
    let learnt =
        train(&float, &lesson, &rounded, Some(&scales), &mut |step| progress(Phase::Rounding, step))?;
    let eight_bits = quantize_with(&learnt, &scales, None)?;
    Ok(Distilled { float, eight_bits: Some(eight_bits) })
}

fn stop(flow: ControlFlow<()>) -> Result<(), Error> {
    if flow.is_break() { Err(Error::Stopped) } else { Ok(()) }
}

fn part(n_epochs: usize) -> usize {
    ((n_epochs as f64 * REPAIR_SHARE).round() as usize).max(1)
}

/// The scales with which rounding the network as it is changes its answers least.
fn scales(
    graph: &Graph,
    examples: &[Vec<Vec<f32>>],
    input_range: Option<(f32, f32)>,
) -> Result<Scales, Error> {
    let step = examples.len().div_ceil(MAX_CALIBRATION).max(1);
    let some: Vec<Vec<Vec<f32>>> = examples.iter().step_by(step).cloned().collect();
    let statistics = calibrate(graph, &some)?;
    let mut best: Option<(f64, Scales)> = None;
    for method in Method::all(OUTSIDE) {
        let options = Options { method, input_range, corrects_bias: false, floats: Vec::new() };
        let scales = Scales::choose(graph, &statistics, &options)?;
        let rounded = quantize_with(graph, &scales, None)?;
        let error = Agreement::measure(graph, &rounded, &some)?.squared_error;
        if best.as_ref().is_none_or(|(least, _)| error < *least) {
            best = Some((error, scales));
        }
    }
    Ok(best.expect("several methods were tried").1)
}

/// Share of examples whose largest output is the right one.
///
/// # Errors
/// If the network cannot run, or an example does not fit.
pub fn accuracy(
    graph: &Graph,
    examples: &[Vec<Vec<f32>>],
    labels: &[usize],
) -> Result<f64, edgeward_perceive::Error> {
    let answers = Answers::of(graph, examples)?;
    let is_right = |(answer, label): (&Vec<f32>, &usize)| super::agreement::largest(answer) == *label;
    let n_right = answers.outputs.iter().zip(labels).filter(|pair| is_right((pair.0, pair.1))).count();
    Ok(n_right as f64 / examples.len().max(1) as f64)
}

impl Plan {
    /// Taught by `loss` alone, to this share of the multiplications, in eight bits.
    pub fn new(prune_to: f64, loss: Loss) -> Plan {
        Plan { prune_to, training: train::Options::new(loss), eight_bits: true, input_range: None }
    }
}
