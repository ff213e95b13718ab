//! A float network's graph in eight bits.
//!
//! Weights have a scale for each output channel and no zero point; biases are 32-bit, with the product of their layer's
//! scales; activations have a scale and a zero point each, and what only moves or averages them keeps its input's. What is
//! concatenated has one scale: the layers that make the parts take it over, or the parts are brought to it by a QUANTIZE.
//! Softmax and the logistic function give 1/256ths, tanh 1/128ths, as TFLite wants it. Rounding a channel's weights moves the mean of its outputs; that is measured on the examples,
//! float inputs and all, and taken from the bias (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization
//! and Bias Correction", section 4.2, by measuring).

use edgeward_perceive::graph::{
    Activation, Constant, ElementType, Node, Op, Quantization, Tensor, TensorId, Unary,
};
use edgeward_perceive::{Error, Graph};

use super::statistics::{Method, Statistics};
use super::{answer, is_of_shapes, network};

/// How a network is brought to eight bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How ranges of activations are found.
    pub method: Method,
    /// What inputs can be, where that is known better than from examples: black and white of an image.
    pub input_range: Option<(f32, f32)>,
    /// Whether biases make good what rounding does to mean outputs.
    pub corrects_bias: bool,
}

/// Weights use -127 to 127, so that they are symmetric.
pub(super) const WEIGHT_STEPS: f32 = 127.0;
/// The largest bias in a layer's own steps: sums on top of it stay in 32 bits.
const MAX_BIAS: f64 = (1i64 << 30) as f64;

/// What the parts of a layer become.
struct Layer {
    node: usize,
    weights: TensorId,
    bias: Option<TensorId>,
    /// Of the weights.
    axis: usize,
    /// For each output channel.
    scales: Vec<f32>,
    /// `[..]` as the weights are.
    bytes: Vec<i8>,
    /// The bias, corrected.
    floats: Vec<f32>,
}

/// The dimension of a layer's weights along which scales differ, its output channels; `None` for what has no weights.
pub(super) fn weights_axis(op: &Op) -> Option<usize> {
    match op {
        Op::Conv2d { .. } | Op::FullyConnected { .. } => Some(0),
        Op::DepthwiseConv2d { .. } => Some(3),
        _ => None,
    }
}

/// Scale and zero point of each activation of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales(Vec<Option<Quantization>>);

impl Scales {
    /// What `statistics`, of the same network, suggest.
    ///
    /// # Errors
    /// If an operator has no eight-bit form here, it is refused by name.
    pub fn choose(graph: &Graph, statistics: &Statistics, options: &Options) -> Result<Scales, Error> {
        activation_scales(graph, statistics, options).map(Scales)
    }

    /// For each tensor; `None` for what is no activation.
    pub fn by_tensor(&self) -> &[Option<Quantization>] {
        &self.0
    }
}

/// The graph in eight bits. `examples` are what biases are corrected on; `statistics` are of the same network.
///
/// # Errors
/// If an operator has no eight-bit form here, it is refused by name.
pub fn quantize(
    graph: &Graph,
    statistics: &Statistics,
    examples: &[Vec<Vec<f32>>],
    options: &Options,
) -> Result<Graph, Error> {
    let scales = Scales::choose(graph, statistics, options)?;
    quantize_with(graph, &scales, options.corrects_bias.then_some(examples))
}

/// The graph in eight bits with these scales of activations; biases are corrected on examples, if there are any.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_with(
    graph: &Graph,
    scales: &Scales,
    examples: Option<&[Vec<Vec<f32>>]>,
) -> Result<Graph, Error> {
    let activations = scales.by_tensor();
    let mut layers = Vec::new();
    for (idx, node) in graph.nodes.iter().enumerate() {
        if let Some(layer) = layer(graph, idx, node, activations)? {
            layers.push(layer);
        }
    }
    if let Some(examples) = examples {
        correct(graph, &mut layers, examples)?;
    }
    let mut result = graph.clone();
    for (tensor, scale) in result.tensors.iter_mut().zip(activations) {
        if let Some(scale) = scale {
            tensor.element_type = ElementType::I8;
            tensor.quantization = Some(scale.clone());
        }
    }
    for layer in layers {
        let input = graph.nodes[layer.node].inputs[0].and_then(|id| activations[id].as_ref());
        let from = input.expect("a layer's input has a scale").scales[0];
        let n = layer.scales.len();
        let steps = |(bias, scale): (&f32, &f32)| {
            (f64::from(*bias) / (f64::from(from) * f64::from(*scale))).round().clamp(-MAX_BIAS, MAX_BIAS)
                as i32
        };
        let bias: Vec<i32> = layer.floats.iter().zip(&layer.scales).map(steps).collect();
        let bias_scales: Vec<f32> = layer.scales.iter().map(|scale| from * scale).collect();
        let bytes = layer.bytes.iter().map(|byte| *byte as u8).collect();
        let name = &graph.tensors[layer.weights].name;
        let weights = Tensor {
            name: name.clone(),
            element_type: ElementType::I8,
            shape: graph.tensors[layer.weights].shape.clone(),
            quantization: Some(Quantization { zeros: vec![0; n], scales: layer.scales, axis: layer.axis }),
            constant: Some(Constant::of_bytes(bytes)),
        };
        let bias = Tensor {
            name: layer.bias.map_or_else(|| format!("{name}/bias"), |id| graph.tensors[id].name.clone()),
            element_type: ElementType::I32,
            shape: vec![n],
            quantization: Some(Quantization { zeros: vec![0; n], scales: bias_scales, axis: 0 }),
            constant: Some(Constant::of_i32s(&bias)),
        };
        // New tensors: two layers may share weights, and their biases' scales differ.
        result.tensors.extend([weights, bias]);
        let n_tensors = result.tensors.len();
        let inputs = &mut result.nodes[layer.node].inputs;
        inputs.truncate(1);
        inputs.extend([Some(n_tensors - 2), Some(n_tensors - 1)]);
    }
    requantize_parts(&mut result);
    Ok(without_unused(&result))
}

/// Brings what is concatenated to the scale of the whole, where it has another.
fn requantize_parts(graph: &mut Graph) {
    for node in std::mem::take(&mut graph.nodes) {
        let mut node = node;
        if matches!(node.op, Op::Concat { .. }) {
            let whole = graph.tensors[node.outputs[0]].quantization.clone();
            for input in &mut node.inputs {
                let Some(id) = input.filter(|id| graph.tensors[*id].quantization != whole) else { continue };
                let part = &graph.tensors[id];
                let name = format!("{}/requantized", part.name);
                graph.tensors.push(Tensor { name, quantization: whole.clone(), ..part.clone() });
                let part = graph.tensors.len() - 1;
                graph.nodes.push(Node { op: Op::Quantize, inputs: vec![Some(id)], outputs: vec![part] });
                *input = Some(part);
            }
        }
        graph.nodes.push(node);
    }
}

/// Scale and zero point of each activation.
fn activation_scales(
    graph: &Graph,
    statistics: &Statistics,
    options: &Options,
) -> Result<Vec<Option<Quantization>>, Error> {
    let mut scales: Vec<Option<Quantization>> = vec![None; graph.tensors.len()];
    let producers = Producers::new(graph);
    for id in &graph.inputs {
        if graph.tensors[*id].element_type != ElementType::F32 {
            return Err(unsupported(graph, *id, "an input that is no float"));
        }
        // What comes from outside is not cut off.
        let range = options.input_range.or_else(|| statistics.range(*id, Method::MinMax));
        scales[*id] =
            Some(affine(range.ok_or_else(|| unsupported(graph, *id, "an input that was not seen"))?));
    }
    for (idx, node) in graph.nodes.iter().enumerate() {
        let place = || format!("operator {idx} ({})", node.op.name());
        let output = node.outputs[0];
        let refused = |what: &str| Error::Unsupported { place: place(), what: what.to_owned() };
        let input = || -> Result<&Quantization, Error> {
            let scale = node.inputs[0].and_then(|id| scales[id].as_ref());
            scale.ok_or_else(|| refused("an input that has no eight bits"))
        };
        let seen = || -> Result<Quantization, Error> {
            let range = statistics
                .range(output, options.method)
                .ok_or_else(|| refused("a result that was not seen"))?;
            Ok(affine(range))
        };
        scales[output] = match &node.op {
            op if keeps_scale(op) => Some(input()?.clone()),
            op if has_free_scale(op) => {
                input()?;
                Some(seen()?)
            }
            Op::Softmax { .. } | Op::Unary(Unary::Sigmoid) => {
                input()?;
                Some(Quantization { scales: vec![1.0 / 256.0], zeros: vec![-128], axis: 0 })
            }
            Op::Unary(Unary::Tanh) => {
                input()?;
                Some(Quantization { scales: vec![1.0 / 128.0], zeros: vec![0], axis: 0 })
            }
            Op::Concat { .. } => {
                let whole = seen()?;
                for part in &node.inputs {
                    let part = part.filter(|id| scales[*id].is_some());
                    let part = part.ok_or_else(|| refused("an input that has no eight bits"))?;
                    for id in producers.path(graph, part) {
                        scales[id] = Some(whole.clone());
                    }
                }
                Some(whole)
            }
            op if is_of_shapes(op) => None,
            _ => return Err(refused("an operator that has no eight-bit form here")),
        };
    }
    Ok(scales)
}

/// Whether results have the scale of the first input: nothing is computed but means and maxima.
fn keeps_scale(op: &Op) -> bool {
    matches!(
        op,
        Op::AveragePool2d { .. } | Op::MaxPool2d { .. } | Op::Pad | Op::Reshape { .. } | Op::Transpose { .. }
    )
}

/// Whether results may have any scale.
fn has_free_scale(op: &Op) -> bool {
    match op {
        Op::Conv2d { .. }
        | Op::DepthwiseConv2d { .. }
        | Op::FullyConnected { .. }
        | Op::Add { .. }
        | Op::Mean { .. }
        | Op::Unary(Unary::RELU | Unary::RELU6 | Unary::RELU_N1_TO_1 | Unary::HardSwish | Unary::Gelu) => {
            true
        }
        Op::Unary(Unary::LeakyRelu { alpha }) => *alpha >= 0.0,
        _ => false,
    }
}

/// Who makes each tensor, and how many use it.
struct Producers {
    nodes: Vec<Option<usize>>,
    n_uses: Vec<usize>,
}

impl Producers {
    fn new(graph: &Graph) -> Producers {
        let mut nodes = vec![None; graph.tensors.len()];
        for (idx, node) in graph.nodes.iter().enumerate() {
            node.outputs.iter().for_each(|id| nodes[*id] = Some(idx));
        }
        Producers { nodes, n_uses: graph.n_uses() }
    }

    /// The tensors from `id` back to one whose scale is free, if all of them are for one reader alone; otherwise none.
    fn path(&self, graph: &Graph, mut id: TensorId) -> Vec<TensorId> {
        let mut path = Vec::new();
        while let Some(node) = self.nodes[id].filter(|_| self.n_uses[id] == 1).map(|idx| &graph.nodes[idx]) {
            path.push(id);
            match node.inputs[0] {
                _ if has_free_scale(&node.op) => return path,
                Some(input) if keeps_scale(&node.op) => id = input,
                _ => break,
            }
        }
        Vec::new()
    }
}

fn unsupported(graph: &Graph, id: TensorId, what: &str) -> Error {
    Error::Unsupported { place: format!("tensor {}", graph.tensors[id].name), what: what.to_owned() }
}

/// Scale and zero point for a range; zero is one of the values.
fn affine((low, high): (f32, f32)) -> Quantization {
    let (low, high) = (f64::from(low.min(0.0)), f64::from(high.max(0.0)));
    let scale = (high - low) / 255.0;
    // Nothing but zeros was seen: any scale will do.
    let scale = if scale >= f64::from(f32::MIN_POSITIVE) { scale } else { 1.0 };
    let zero = (-128.0 - low / scale).round().clamp(-128.0, 127.0) as i32;
    Quantization { scales: vec![scale as f32], zeros: vec![zero], axis: 0 }
}

/// The weights of a layer, rounded; `None` for what has none.
fn layer(
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
fn correct(graph: &Graph, layers: &mut [Layer], examples: &[Vec<Vec<f32>>]) -> Result<(), Error> {
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

/// The graph without tensors that nobody uses.
pub(super) fn without_unused(graph: &Graph) -> Graph {
    let mut is_used = vec![false; graph.tensors.len()];
    let used = graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten().chain(&node.outputs));
    for id in used.chain(&graph.inputs).chain(&graph.outputs) {
        is_used[*id] = true;
    }
    let mut new_ids = Vec::with_capacity(is_used.len());
    let mut n = 0;
    for used in &is_used {
        new_ids.push(n);
        n += usize::from(*used);
    }
    let moved = |id: &TensorId| new_ids[*id];
    Graph {
        tensors: graph
            .tensors
            .iter()
            .zip(&is_used)
            .filter(|(_, used)| **used)
            .map(|(tensor, _)| tensor.clone())
            .collect(),
        nodes: graph
            .nodes
            .iter()
            .map(|node| Node {
                op: node.op.clone(),
                inputs: node.inputs.iter().map(|id| id.as_ref().map(moved)).collect(),
                outputs: node.outputs.iter().map(moved).collect(),
            })
            .collect(),
        inputs: graph.inputs.iter().map(moved).collect(),
        outputs: graph.outputs.iter().map(moved).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_a_value() {
        for range in [(0.0, 6.0), (-1.0, 3.0), (2.0, 5.0), (-4.0, -1.0), (0.0, 0.0), (0.0, 255.0)] {
            let affine = affine(range);
            let (scale, zero) = (affine.scales[0], affine.zeros[0]);
            assert!((-128..=127).contains(&zero), "{range:?}");
            let (low, high) = (scale * (-128 - zero) as f32, scale * (127 - zero) as f32);
            let slack = scale * 0.51;
            assert!(
                low <= range.0.min(0.0) + slack && high >= range.1.max(0.0) - slack,
                "{range:?}: {low} {high}"
            );
        }
        assert_eq!(affine((0.0, 255.0)), Quantization { scales: vec![1.0], zeros: vec![-128], axis: 0 });
    }
}
