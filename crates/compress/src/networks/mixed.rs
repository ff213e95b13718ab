//! Eight bits where they do little harm, floats where they do much.

use edgeward_perceive::graph::{ElementType, Node, TensorId};
use edgeward_perceive::{Error, Graph};

use super::prune::multiplications_of;
use super::quantize::only_moves;
use super::{Agreement, Example, Options, Scales, Statistics, is_of_shapes, quantize, quantize_with};

/// Examples on which the harm of each operator is measured.
const N_PROBES: usize = 32;

/// How many multiplications of a layer an element costs that is converted or written: a layer's run sixteen at a time.
const ELEMENT_COST: u64 = 16;

/// A network in eight bits but for some operators.
#[derive(Clone, Debug)]
pub struct Mixed {
    /// The network.
    pub graph: Graph,
    /// How it was made: with the operators that stay in floats.
    pub options: Options,
    /// How near it is to the float network, on the examples kept for that.
    pub agreement: Agreement,
}

/// As much of `graph` in eight bits as leaves its answers to `kept` within `least_sqnr_db` decibels: `made`, if that is near
/// enough, which [`quantize`] has made of it; else some more in floats. `seen` are the examples of its `statistics`.
///
/// As few operators as suffice stay in floats, taken in one of three orders: by the harm that each does if it is brought to
/// eight bits alone, from the network's beginning, or from its end; the order after which floats cost least wins. A lone
/// operator in floats gains little, as its neighbours' bytes are all it is given and asked for; the two ends are the regions
/// with the fewest conversions. `progress` is told how many of how many operators are measured.
///
/// # Errors
/// As [`quantize`].
pub fn mix(
    graph: &Graph,
    statistics: &Statistics,
    (seen, kept): (&[Example], &[Example]),
    made: Mixed,
    least_sqnr_db: f64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Mixed, Error> {
    let suffices = |mixed: &Mixed| mixed.agreement.sqnr_db >= least_sqnr_db;
    if suffices(&made) {
        return Ok(made);
    }
    let options = &made.options;
    let attempt = |floats: &[usize]| -> Result<Mixed, Error> {
        let floats = floats.iter().chain(&options.floats).copied().collect();
        let options = Options { floats, ..options.clone() };
        let made = quantize(graph, statistics, seen, &options)?;
        let agreement = Agreement::measure(graph, &made, kept)?;
        Ok(Mixed { graph: made, options, agreement })
    };
    let by_harm = by_harm(graph, statistics, &seen[..seen.len().min(N_PROBES)], options, progress)?;
    let mut from_beginning = by_harm.clone();
    from_beginning.sort_unstable();
    let from_end = from_beginning.iter().rev().copied().collect();
    // All in floats is always enough.
    let mut best = attempt(&by_harm)?;
    for order in [by_harm, from_beginning, from_end] {
        // With the first `too_few` it is not enough, with the first `enough` it is.
        let (mut too_few, mut enough) = (0, order.len());
        while enough - too_few > 1 {
            let n = too_few.midpoint(enough);
            let mixed = attempt(&order[..n])?;
            if !suffices(&mixed) {
                too_few = n;
                continue;
            }
            enough = n;
            if cost(&mixed.graph) < cost(&best.graph) {
                best = mixed;
            }
        }
    }
    Ok(best)
}

/// What floats cost, in multiplications: those of the operators that work on them, and the elements that these, conversions
/// among them, give.
fn cost(graph: &Graph) -> u64 {
    let is_float = |id: &TensorId| graph.tensors[*id].element_type == ElementType::F32;
    let has_floats = |node: &&Node| node.inputs.iter().flatten().chain(&node.outputs).any(is_float);
    let work = |node: &Node| {
        let n_elements = graph.tensors[node.outputs[0]].n_elements() as u64;
        multiplications_of(graph, node).unwrap_or(0) + ELEMENT_COST * n_elements
    };
    graph.nodes.iter().filter(has_floats).map(work).sum()
}

/// The operators that may be in eight bits or not, those that harm most first.
fn by_harm(
    graph: &Graph,
    statistics: &Statistics,
    probes: &[Example],
    options: &Options,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<usize>, Error> {
    let scales = Scales::choose(graph, statistics, options)?;
    // What only moves numbers goes with those that make them.
    let is_open = |(idx, node): &(usize, &Node)| {
        !scales.is_float()[*idx] && !only_moves(&node.op) && !is_of_shapes(graph, node)
    };
    let open: Vec<usize> = graph.nodes.iter().enumerate().filter(is_open).map(|(idx, _)| idx).collect();
    let mut harms = Vec::with_capacity(open.len());
    for (i, idx) in open.iter().enumerate() {
        progress(i, open.len());
        let floats = open.iter().copied().filter(|other| other != idx).chain(options.floats.iter().copied());
        let options = Options { floats: floats.collect(), ..options.clone() };
        let alone = quantize_with(graph, &Scales::choose(graph, statistics, &options)?, None)?;
        let error = Agreement::measure(graph, &alone, probes)?.squared_error;
        harms.push((*idx, error));
    }
    harms.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(harms.into_iter().map(|(idx, _)| idx).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::testing::{chain, everything, examples};
    use crate::networks::{Method, calibrate};

    #[test]
    fn as_much_as_is_asked_for_stays_in_floats() {
        for graph in [chain(), everything()] {
            let examples = examples(&graph, 40);
            let (seen, kept) = examples.split_at(30);
            let statistics = calibrate(&graph, seen).unwrap();
            let options =
                Options { method: Method::MinMax, input_range: None, corrects_bias: true, floats: vec![] };
            let made = quantize(&graph, &statistics, seen, &options).unwrap();
            let agreement = Agreement::measure(&graph, &made, kept).unwrap();
            let made = Mixed { graph: made, options, agreement };
            let all = made.agreement.sqnr_db;
            let mut before = 0;
            for least in [all - 1.0, all + 2.0, all + 10.0, 200.0] {
                let made = made.clone();
                let mixed = mix(&graph, &statistics, (seen, kept), made, least, &mut |_, _| ()).unwrap();
                assert!(mixed.agreement.sqnr_db >= least, "{least}: {:?}", mixed.agreement);
                let n_floats = mixed.options.floats.len();
                assert!((n_floats == 0) == (least < all) && n_floats >= before, "{least}: {n_floats}");
                before = n_floats;
            }
        }
    }
}
