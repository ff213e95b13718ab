//! Cross-layer equalisation: channels that one layer gives and the next one takes are scaled so that no channel is lost in
//! steps that are made for a larger one (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
//! Correction", section 4.1).
//!
//! Dividing output channel i of a layer by s_i and multiplying what the next layer multiplies it with by s_i changes nothing
//! in floats, if all that lies between is such that f(s x) = s f(x) for s above 0. Weights have a scale for each output
//! channel here, so for the first layer, and for a depthwise second one, that is free: s_i makes all channels of the
//! activation equally large. Any other second layer mixes its inputs under one scale for each output; there channel and
//! weights meet in the middle, s_i = sqrt(activation_i / weights_i), at equal magnitudes.

use edgeward_perceive::graph::{Activation, Constant, ElementType, Node, Op, TensorId, Unary};
use edgeward_perceive::{Error, Graph};

use super::quantize::weights_axis;
use super::{answer, network};

/// Which layers may have to give something for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equalization {
    /// Those before depthwise layers, where it is free.
    Depthwise,
    /// All that can be.
    All,
}

/// The most by which a channel is scaled, up or down: beyond that it is noise.
const MOST: f32 = 64.0;

/// Two layers, the second of which takes alone, perhaps by way of pooling and the like, what the first gives.
struct Pair {
    first: usize,
    second: usize,
    /// What the first gives.
    activation: TensorId,
    n_channels: usize,
}

/// `graph`, whose answers stay the same, with channels of equal magnitude as far as `equalization` says, or `None` if no layers
/// are such that it can be; `examples` show how large channels are.
///
/// # Errors
/// If it cannot run, or an example does not fit.
pub fn equalize(
    graph: &Graph,
    equalization: Equalization,
    examples: &[Vec<Vec<f32>>],
) -> Result<Option<Graph>, Error> {
    let mut pairs = pairs(graph);
    if equalization == Equalization::Depthwise {
        pairs.retain(|pair| is_depthwise(&graph.nodes[pair.second].op));
    }
    if pairs.is_empty() {
        return Ok(None);
    }
    let mut result = graph.clone();
    let magnitudes = magnitudes(graph, &pairs, examples)?;
    for (pair, magnitudes) in pairs.iter().zip(magnitudes) {
        let scales = scales(&result, pair, &magnitudes);
        let Node { op, inputs, .. } = &graph.nodes[pair.first];
        let axis = weights_axis(op).expect("a pair is of layers");
        multiply(&mut result, inputs[1], axis, |i| 1.0 / scales[i]);
        multiply(&mut result, inputs.get(2).copied().flatten(), 0, |i| 1.0 / scales[i]);
        multiply(&mut result, graph.nodes[pair.second].inputs[1], 3, |i| scales[i]);
    }
    Ok(Some(result))
}

fn is_depthwise(op: &Op) -> bool {
    matches!(op, Op::DepthwiseConv2d { .. })
}

/// All pairs, in the order in which the first ones run.
fn pairs(graph: &Graph) -> Vec<Pair> {
    let n_uses = graph.n_uses();
    // The weights and the bias of a layer that may be scaled.
    let is_own = |id: &TensorId| {
        let tensor = &graph.tensors[*id];
        tensor.constant.is_some() && tensor.element_type == ElementType::F32 && n_uses[*id] == 1
    };
    let is_layer =
        |node: &Node| weights_axis(&node.op).is_some() && node.inputs.iter().skip(1).flatten().all(is_own);
    let only_reader = |id: TensorId| {
        let mut readers = graph.nodes.iter().enumerate();
        readers.find(|(_, node)| n_uses[id] == 1 && node.inputs.first() == Some(&Some(id)))
    };
    let pair = |(first, node): (usize, &Node)| {
        let activation = node.outputs[0];
        let n_channels = *graph.tensors[activation].shape.last()?;
        if !is_layer(node) || !is_homogeneous(&node.op) {
            return None;
        }
        let mut reader = only_reader(activation)?;
        while !is_layer(reader.1) {
            let output = reader.1.outputs[0];
            if !keeps_channels(&reader.1.op) || graph.tensors[output].shape.last() != Some(&n_channels) {
                return None;
            }
            reader = only_reader(output)?;
        }
        let (second, node) = reader;
        let n_taken = graph.tensors[node.inputs[1]?].shape.last().copied();
        let is_plain = !matches!(node.op, Op::DepthwiseConv2d { multiplier, .. } if multiplier > 1);
        (is_plain && n_taken == Some(n_channels)).then_some(Pair { first, second, activation, n_channels })
    };
    graph.nodes.iter().enumerate().filter_map(pair).collect()
}

/// Whether f(s x) = s f(x) for s above 0, for the activation that follows a layer's sums.
fn is_homogeneous(op: &Op) -> bool {
    match op {
        Op::Conv2d { activation, .. }
        | Op::DepthwiseConv2d { activation, .. }
        | Op::FullyConnected { activation, .. }
        | Op::AveragePool2d { activation, .. }
        | Op::MaxPool2d { activation, .. } => matches!(activation, Activation::None | Activation::Relu),
        _ => false,
    }
}

/// Whether an operator does the same with each channel of its input, and is homogeneous.
fn keeps_channels(op: &Op) -> bool {
    match op {
        Op::AveragePool2d { .. } | Op::MaxPool2d { .. } => is_homogeneous(op),
        // Whether channels are what is averaged, the shapes say.
        Op::Pad | Op::Mean { keeps_dims: true } | Op::Unary(Unary::RELU) => true,
        Op::Unary(Unary::LeakyRelu { alpha }) => *alpha >= 0.0,
        _ => false,
    }
}

/// For each pair, the largest magnitude of each channel on the examples.
fn magnitudes(graph: &Graph, pairs: &[Pair], examples: &[Vec<Vec<f32>>]) -> Result<Vec<Vec<f32>>, Error> {
    let outputs = pairs.iter().map(|pair| pair.activation).collect();
    let mut network = network(&Graph { outputs, ..graph.clone() })?;
    let mut magnitudes: Vec<Vec<f32>> = pairs.iter().map(|pair| vec![0.0; pair.n_channels]).collect();
    for example in examples {
        for (largest, values) in magnitudes.iter_mut().zip(answer(&mut network, example)?) {
            for pixel in values.chunks_exact(largest.len()) {
                largest.iter_mut().zip(pixel).for_each(|(largest, x)| *largest = largest.max(x.abs()));
            }
        }
    }
    Ok(magnitudes)
}

/// What each channel is to be divided by: 1 in the geometric mean, and for channels that are nothing.
fn scales(graph: &Graph, pair: &Pair, magnitudes: &[f32]) -> Vec<f32> {
    let node = &graph.nodes[pair.second];
    let wanted: Vec<f32> = if is_depthwise(&node.op) {
        magnitudes.to_vec()
    } else {
        let weights = node.inputs[1].and_then(|id| graph.tensors[id].constant.as_ref());
        let mut largest = vec![0f32; pair.n_channels];
        for (i, x) in weights.into_iter().flat_map(Constant::f32s).enumerate() {
            let largest = &mut largest[i % pair.n_channels];
            *largest = largest.max(x.abs());
        }
        magnitudes.iter().zip(largest).map(|(a, w)| (a / w).sqrt()).collect()
    };
    let is_alive = |x: &&f32| x.is_normal();
    let n_alive = wanted.iter().filter(is_alive).count().max(1);
    let mean = (wanted.iter().filter(is_alive).map(|x| x.ln()).sum::<f32>() / n_alive as f32).exp();
    let scale = |x: &f32| if x.is_normal() { (x / mean).clamp(1.0 / MOST, MOST) } else { 1.0 };
    wanted.iter().map(scale).collect()
}

/// Multiplies each element of a constant by what `factor` says of its index along `axis`, or along the last dimension if there
/// are not so many.
fn multiply(graph: &mut Graph, id: Option<TensorId>, axis: usize, factor: impl Fn(usize) -> f32) {
    let Some(tensor) = id.map(|id| &mut graph.tensors[id]) else { return };
    let axis = axis.min(tensor.shape.len().saturating_sub(1));
    let n_inner: usize = tensor.shape[axis + 1..].iter().product();
    let (n, Some(constant)) = (tensor.shape[axis], &tensor.constant) else { return };
    let values: Vec<f32> =
        constant.f32s().enumerate().map(|(i, x)| x * factor(i / n_inner.max(1) % n)).collect();
    tensor.constant = Some(Constant::of_f32s(&values));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::Agreement;
    use crate::networks::testing::{chain, examples};

    #[test]
    fn answers_stay_and_channels_become_equal() {
        let graph = chain();
        let examples = examples(&graph, 20);
        for (equalization, n_layers) in [(Equalization::Depthwise, 2), (Equalization::All, 4)] {
            let equal = equalize(&graph, equalization, &examples).unwrap().unwrap();
            let agreement = Agreement::measure(&graph, &equal, &examples).unwrap();
            assert!(agreement.sqnr_db > 100.0, "{equalization:?}: {agreement:?}");
            let n_changed = graph.nodes.iter().filter(|node| {
                let weights = |graph: &Graph| {
                    node.inputs.get(1).copied().flatten().map(|id| graph.tensors[id].constant.clone())
                };
                let bytes = |graph| weights(graph).flatten().map(|constant| constant.bytes().to_vec());
                bytes(&graph) != bytes(&equal)
            });
            assert_eq!(n_changed.count(), n_layers, "{equalization:?}");
        }
        let equal = equalize(&graph, Equalization::Depthwise, &examples).unwrap().unwrap();
        let pairs: Vec<Pair> =
            pairs(&equal).into_iter().filter(|pair| is_depthwise(&equal.nodes[pair.second].op)).collect();
        let magnitudes = magnitudes(&equal, &pairs, &examples).unwrap().remove(0);
        let alive: Vec<f32> = magnitudes.into_iter().filter(|x| *x > 0.0).collect();
        assert!(alive.iter().all(|x| (x / alive[0] - 1.0).abs() < 1e-4), "{alive:?}");
    }
}
