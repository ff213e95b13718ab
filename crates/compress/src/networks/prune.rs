//! Channels left out, until a network needs a given share of its multiplications.
//!
//! What a channel is worth is measured: the network runs without it, and its answers are compared with the teacher's. The
//! channels that cost least for what they save go first, a part of the way at a time; in between, what is left may be
//! taught, and is measured anew, because what one channel does depends on the others. The result is an ordinary, dense
//! network with narrower layers.

use edgeward_perceive::Graph;
use edgeward_perceive::graph::Op;

use super::channels::Channels;
use super::train::{Answers, Error, divergence};

/// A space keeps at least this part of the channels that it had: narrower, a layer is a bottleneck that no teaching opens.
const LEAST_SHARE: f64 = 0.125;
/// Multiplications that may be spent on measuring a round: some ten seconds.
const MEASURING: u64 = 50_000_000_000;
/// Examples that channels are measured on, at least and at most.
const N_EXAMPLES: (u64, u64) = (16, 512);

/// How far a network is pruned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Share of the multiplications that is to be left, 0 to 1.
    pub share: f64,
    /// In how many rounds.
    pub n_rounds: usize,
}

/// Multiplications of weights that one run takes; those of other operators do not count.
pub fn multiplications(graph: &Graph) -> u64 {
    let of_node = |node: &edgeward_perceive::graph::Node| {
        let weights = node.inputs.get(1).copied().flatten().map(|id| &graph.tensors[id].shape);
        let (n_out, weights) = (graph.tensors[node.outputs[0]].n_elements() as u64, weights?);
        Some(match node.op {
            Op::Conv2d { .. } | Op::FullyConnected { .. } => {
                n_out * weights[1..].iter().map(|dim| *dim as u64).product::<u64>()
            }
            Op::DepthwiseConv2d { .. } => n_out * (weights[1] * weights[2]) as u64,
            _ => return None,
        })
    };
    graph.nodes.iter().filter_map(of_node).sum()
}

/// Prunes `graph`, which answers to `examples` as `answers` say, or should. `repair` is given the network after each round,
/// which is counted from 1, and gives it back, taught or as it is.
///
/// # Errors
/// If it cannot be pruned so far: what can go is named.
pub fn prune(
    graph: &Graph,
    options: &Options,
    examples: &[Vec<Vec<f32>>],
    answers: &Answers,
    repair: &mut dyn FnMut(Graph, usize) -> Result<Graph, Error>,
) -> Result<Graph, Error> {
    let n_before = multiplications(graph);
    let channels = Channels::of(graph);
    let n_channels: usize = channels.free().iter().map(|(_, n)| n).sum();
    if n_channels == 0 {
        return Err(Error::Unsupported("it has no channels that could be left out".into()));
    }
    let n = (MEASURING / (n_before.max(1) * n_channels as u64)).clamp(N_EXAMPLES.0, N_EXAMPLES.1) as usize;
    // Spread over all, as they may be in order of their classes.
    let step = examples.len().div_ceil(n).max(1);
    let some: Vec<Vec<Vec<f32>>> = examples.iter().step_by(step).cloned().collect();
    let pick = |all: &[Vec<f32>]| all.iter().step_by(step).cloned().collect();
    let answers = Answers { logits: pick(&answers.logits), outputs: pick(&answers.outputs) };
    let floors: Vec<usize> =
        channels.free().iter().map(|(_, n)| ((*n as f64 * LEAST_SHARE).ceil() as usize).max(1)).collect();
    let mut graph = graph.clone();
    for round in 1..=options.n_rounds.max(1) {
        let part = round as f64 / options.n_rounds.max(1) as f64;
        let most = (n_before as f64 * options.share.powf(part)) as u64;
        graph = narrower(&graph, most, &floors, &some, &answers)?;
        graph = repair(graph, round)?;
    }
    Ok(graph)
}

/// What it costs to leave out a channel, for each multiplication that this saves.
struct Candidate {
    space_idx: usize,
    channel: usize,
    cost: f64,
}

/// `graph` with at most `most` multiplications.
fn narrower(
    graph: &Graph,
    most: u64,
    floors: &[usize],
    examples: &[Vec<Vec<f32>>],
    answers: &Answers,
) -> Result<Graph, Error> {
    // Spaces are found in the same order in the narrower graph, and none becomes fixed.
    let channels = Channels::of(graph);
    let spaces = channels.free();
    let n_now = multiplications(graph);
    let now = divergence(graph, examples, answers)?;
    let mut candidates = Vec::new();
    for (space_idx, (space, n)) in spaces.iter().enumerate() {
        for channel in (0..*n).filter(|_| *n > 1) {
            let keeps: Vec<bool> = (0..*n).map(|i| i != channel).collect();
            let without = channels.keep(graph, *space, &keeps);
            let saved = n_now.saturating_sub(multiplications(&without)).max(1);
            let cost = (divergence(&without, examples, answers)? - now) / saved as f64;
            candidates.push(Candidate { space_idx, channel, cost });
        }
    }
    candidates.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    let mut kept: Vec<Vec<bool>> = spaces.iter().map(|(_, n)| vec![true; *n]).collect();
    let n_kept = |keeps: &[bool]| keeps.iter().filter(|kept| **kept).count();
    let applied = |kept: &[Vec<bool>]| {
        // Each step numbers tensors anew, but finds the spaces in the same order.
        let mut result = graph.clone();
        for (idx, keeps) in kept.iter().enumerate().filter(|(_, keeps)| keeps.contains(&false)) {
            let channels = Channels::of(&result);
            let space = channels.free()[idx].0;
            result = channels.keep(&result, space, keeps);
        }
        result
    };
    let mut result = graph.clone();
    for candidate in &candidates {
        if multiplications(&result) <= most {
            break;
        }
        let keeps = &mut kept[candidate.space_idx];
        if n_kept(keeps) > floors[candidate.space_idx] {
            keeps[candidate.channel] = false;
            result = applied(&kept);
        }
    }
    if multiplications(&result) > most {
        let share = |n: u64| n as f64 / n_now as f64;
        return Err(Error::Unsupported(format!(
            "no more than {:.0} % of its multiplications can be left out, its layers would become too narrow: ask for less",
            (1.0 - share(multiplications(&result))) * 100.0
        )));
    }
    Ok(result)
}
