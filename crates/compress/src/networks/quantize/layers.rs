//! Layers in eight bits: rounded weights, corrected biases.

use edgeward_perceive::graph::{Activation, Constant, ElementType, Node, Op, Quantization, Tensor, TensorId};
use edgeward_perceive::{Error, Graph};

use super::weights_axis;
use crate::networks::{answer, network};

/// Weights use -127 to 127, so that they are symmetric.
pub const WEIGHT_STEPS: f32 = 127.0;
/// The largest bias in a layer's own steps: sums on top of it stay in 32 bits.
pub const MAX_BIAS: f64 = (1i64 << 30) as f64;

/// What the parts of a layer become.
pub struct Layer {
    pub node: usize,
    pub weights: TensorId,
    pub bias: Option<TensorId>,
    /// Of the weights.
    pub axis: usize,
    /// For each output channel.
    pub scales: Vec<f32>,
    /// `[..]` as the weights are.
    pub bytes: Vec<i8>,
    /// The bias, corrected.
    pub floats: Vec<f32>,
}

/// The weights of a layer, rounded; `None` for what has none.
pub fn layer(
    graph: &Graph,
    idx: usize,
    node: &Node,
    activations: &[Option<Quantization>],
) -> Result<Option<Layer>, Error> {
    let Some(axis) = weights_axis(&node.op) else { return Ok(None) };
    let refused = |what: &str| Error::Unsupported {
        place: format!("operator {idx} ({})", node.op.name()),
        what: what.to_owned(),
    };
    let weights = node.inputs.get(1).copied().flatten().ok_or_else(|| refused("no weights"))?;
    let tensor = &graph.tensors[weights];
    let constant = tensor.constant.as_ref().filter(|_| tensor.element_type == ElementType::F32);
    let constant = constant.ok_or_else(|| refused("weights that are no floats: give the float network"))?;
    let values: Vec<f32> = constant.f32s().collect();
    let n = *tensor.shape.get(axis).ok_or_else(|| refused("weights of other dimensions"))?;
    let n_inner: usize = tensor.shape[axis + 1..].iter().product();
    let channel = |i: usize| i / n_inner.max(1) % n;
    let bias = node.inputs.get(2).copied().flatten();
    let floats: Vec<f32> = match bias.map(|id| graph.tensors[id].constant.as_ref()) {
        None => vec![0.0; n],
        Some(Some(constant)) => constant.f32s().collect(),
        Some(None) => return Err(refused("a bias that is computed")),
    };
    if n == 0 || floats.len() != n || !values.iter().chain(&floats).all(|x| x.is_finite()) {
        return Err(refused("weights or biases that are no numbers, or not as many as there are channels"));
    }
    let from =
        node.inputs[0].and_then(|id| activations[id].as_ref()).ok_or_else(|| refused("no input"))?.scales[0];
    let mut largest = vec![0f32; n];
    for (i, value) in values.iter().enumerate() {
        largest[channel(i)] = largest[channel(i)].max(value.abs());
    }
    let scale = |(largest, bias): (&f32, &f32)| {
        // A bias far above its channel's weights must fit as well.
        let for_bias = (f64::from(bias.abs()) / f64::from(from) / MAX_BIAS) as f32;
        let scale = (largest / WEIGHT_STEPS).max(for_bias);
        if scale >= f32::MIN_POSITIVE { scale } else { 1.0 }
    };
    let scales: Vec<f32> = largest.iter().zip(&floats).map(scale).collect();
    let round = |(i, value): (usize, &f32)| {
        (value / scales[channel(i)]).round().clamp(-WEIGHT_STEPS, WEIGHT_STEPS) as i8
    };
    let bytes = values.iter().enumerate().map(round).collect();
    Ok(Some(Layer { node: idx, weights, bias, axis, scales, bytes, floats }))
}

/// Takes from each bias what rounding the weights adds to the mean output of its channel.
///
/// One graph computes every layer twice from the float network's own activations, with its weights and with the rounded
/// ones, neither with an activation behind.
pub fn correct(graph: &Graph, layers: &mut [Layer], examples: &[Vec<Vec<f32>>]) -> Result<(), Error> {
    let mut twice = graph.clone();
    twice.outputs.clear();
    let mut nodes = Vec::new();
    for (idx, node) in graph.nodes.iter().enumerate() {
        nodes.push(node.clone());
        let Some(layer) = layers.iter().find(|layer| layer.node == idx) else { continue };
        let tensor = &graph.tensors[layer.weights];
        let n_inner: usize = tensor.shape[layer.axis + 1..].iter().product();
        let n = layer.scales.len();
        let rounded: Vec<f32> = layer
            .bytes
            .iter()
            .enumerate()
            .map(|(i, byte)| f32::from(*byte) * layer.scales[i / n_inner.max(1) % n])
            .collect();
        twice.tensors.push(Tensor { constant: Some(Constant::of_f32s(&rounded)), ..tensor.clone() });
        let rounded = twice.tensors.len() - 1;
        for weights in [layer.weights, rounded] {
            let output = graph.tensors[node.outputs[0]].clone();
            twice.tensors.push(output);
            let mut inputs = node.inputs.clone();
            inputs[1] = Some(weights);
            let mut op = node.op.clone();
            if let Op::Conv2d { activation, .. }
            | Op::DepthwiseConv2d { activation, .. }
            | Op::FullyConnected { activation, .. } = &mut op
            {
                *activation = Activation::None;
            }
            let output = twice.tensors.len() - 1;
            nodes.push(Node { op, inputs, outputs: vec![output] });
            twice.outputs.push(output);
        }
    }
    twice.nodes = nodes;
    let mut network = network(&twice)?;
    let mut sums: Vec<Vec<f64>> = layers.iter().map(|layer| vec![0.0; layer.scales.len()]).collect();
    let mut counts = vec![0usize; layers.len()];
    for example in examples {
        let answers = answer(&mut network, example)?;
        for (i, pair) in answers.chunks_exact(2).enumerate() {
            let n = sums[i].len();
            counts[i] += pair[0].len() / n;
            for (pixel, rounded) in pair[0].chunks_exact(n).zip(pair[1].chunks_exact(n)) {
                for ((sum, exact), rounded) in sums[i].iter_mut().zip(pixel).zip(rounded) {
                    *sum += f64::from(exact - rounded);
                }
            }
        }
    }
    for ((layer, sums), count) in layers.iter_mut().zip(sums).zip(counts) {
        for (bias, sum) in layer.floats.iter_mut().zip(sums) {
            *bias += (sum / count.max(1) as f64) as f32;
        }
    }
    Ok(())
}
