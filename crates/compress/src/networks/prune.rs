//! Channels left out, until a network needs a given share of its multiplications.
//!
//! What a channel is worth is measured: the network runs without it, and its answers are compared with the teacher's. The
//! channels that cost least for what they save go first, a part of the way at a time; in between, what is left may be
//! taught, and is measured anew, because what one channel does depends on the others. The result is an ordinary, dense
//! network with narrower layers.
//!
//! Processors compute sixteen channels or so side by side, and a layer of 20 takes as long as one of 32. So channels of
//! wide layers go in groups, after which a multiple of sixteen is left; those of narrower ones in smaller groups.

use edgeward_perceive::Graph;
use edgeward_perceive::graph::{Node, Op};

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
    graph.nodes.iter().filter_map(|node| multiplications_of(graph, node)).sum()
}

/// Multiplications of weights that a node takes; `None` for what has no weights.
pub(super) fn multiplications_of(graph: &Graph, node: &Node) -> Option<u64> {
    let weights = &graph.tensors[node.inputs.get(1).copied().flatten()?].shape;
    let n_out = graph.tensors[node.outputs[0]].n_elements() as u64;
    match node.op {
        Op::Conv2d { .. } | Op::FullyConnected { .. } => {
            Some(n_out * weights[1..].iter().map(|dim| *dim as u64).product::<u64>())
        }
        Op::DepthwiseConv2d { .. } => Some(n_out * (weights[1] * weights[2]) as u64),
        _ => None,
    }
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
    let limits: Vec<Limit> = channels.free().iter().map(|(_, n)| Limit::of(*n)).collect();
    let mut graph = graph.clone();
    for round in 1..=options.n_rounds.max(1) {
        let part = round as f64 / options.n_rounds.max(1) as f64;
        let most = (n_before as f64 * options.share.powf(part)) as u64;
        graph = narrower(&graph, most, &limits, &some, &answers)?;
        graph = repair(graph, round)?;
    }
    Ok(graph)
}

/// How narrow a space may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    /// Channels that stay.
    least: usize,
    /// What their number is a multiple of.
    grain: usize,
}

impl Limit {
    /// For a space that began with `n` channels.
    fn of(n: usize) -> Limit {
        let grain = match n {
            32.. => 16,
            16.. => 8,
            8.. => 4,
            _ => 1,
        };
        let least = ((n as f64 * LEAST_SHARE).ceil() as usize).max(1);
        Limit { least: least.next_multiple_of(grain), grain }
    }

    /// How many go next of `n`; `None` if no more can.
    fn next(self, n: usize) -> Option<usize> {
        let left = (n - 1) / self.grain * self.grain;
        (left >= self.least).then(|| n - left)
    }
}

/// `graph` with at most `most` multiplications.
fn narrower(
    graph: &Graph,
    most: u64,
    limits: &[Limit],
    examples: &[Vec<Vec<f32>>],
    answers: &Answers,
) -> Result<Graph, Error> {
    if multiplications(graph) <= most {
        return Ok(graph.clone());
    }
    // Spaces are found in the same order in the narrower graph, and none becomes fixed.
    let channels = Channels::of(graph);
    let spaces = channels.free();
    let now = divergence(graph, examples, answers)?;
    // Of each space, what leaving out a channel costs, the dearest first.
    let mut costs: Vec<Vec<(f64, usize)>> = Vec::new();
    for (space, n) in &spaces {
        let mut of_space = Vec::new();
        for channel in (0..*n).filter(|_| *n > 1) {
            let keeps: Vec<bool> = (0..*n).map(|i| i != channel).collect();
            let without = channels.keep(graph, *space, &keeps);
            of_space.push((divergence(&without, examples, answers)? - now, channel));
        }
        of_space.sort_by(|a, b| b.0.total_cmp(&a.0));
        costs.push(of_space);
    }
    // Of each space the channels that are left, in order.
    let mut left: Vec<Vec<usize>> = spaces.iter().map(|(_, n)| (0..*n).collect()).collect();
    let mut result = graph.clone();
    loop {
        let n_now = multiplications(&result);
        if n_now <= most {
            return Ok(result);
        }
        let channels = Channels::of(&result);
        let mut best: Option<(f64, usize, usize, Graph)> = None;
        for (idx, (space, _)) in channels.free().into_iter().enumerate() {
            let of_space = &costs[idx];
            let Some(n) = limits[idx].next(of_space.len().max(1)) else { continue };
            let group = &of_space[of_space.len() - n..];
            let goes = |channel: &usize| group.iter().any(|(_, other)| other == channel);
            let keeps: Vec<bool> = left[idx].iter().map(|channel| !goes(channel)).collect();
            let without = channels.keep(&result, space, &keeps);
            let saved = n_now.saturating_sub(multiplications(&without)).max(1);
            let cost = group.iter().map(|(cost, _)| cost).sum::<f64>() / saved as f64;
            if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                best = Some((cost, idx, n, without));
            }
        }
        let Some((_, idx, n, without)) = best else {
            let share = n_now as f64 / multiplications(graph) as f64;
            return Err(Error::Unsupported(format!(
                "no more than {:.0} % of its multiplications can be left out, its layers would become too narrow: ask for \
                 less",
                (1.0 - share) * 100.0
            )));
        };
        let n_left = costs[idx].len() - n;
        for (_, channel) in costs[idx].drain(n_left..) {
            left[idx].retain(|other| *other != channel);
        }
        result = without;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups() {
        let limit = Limit::of(64);
        assert_eq!(
            (limit.least, limit.next(64), limit.next(48), limit.next(16)),
            (16, Some(16), Some(16), None)
        );
        let limit = Limit::of(20);
        assert_eq!((limit.least, limit.next(20), limit.next(16), limit.next(8)), (8, Some(4), Some(8), None));
        assert_eq!((Limit::of(5).next(5), Limit::of(5).next(1)), (Some(1), None));
    }
}
