//! A float network's graph in eight bits, all of it or a part.
//!
//! Weights have a scale for each output channel and no zero point; biases are 32-bit, with the product of their layer's
//! scales; activations have a scale and a zero point each, and what only moves or averages them keeps its input's. What is
//! concatenated has one scale: the layers that make the parts take it over, or the parts are brought to it by a QUANTIZE.
//! Softmax and the logistic function give 1/256ths, tanh 1/128ths, as TFLite wants it.
//!
//! Operators that have no eight-bit form stay in floats, and so may others; between the two kinds numbers are brought from one
//! form to the other by QUANTIZE and DEQUANTIZE.
//!
//! Rounding a channel's weights moves the mean of its outputs; that is measured on the examples, float inputs and all, and
//! taken from the bias (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
//! section 4.2, by measuring).

mod layers;
mod scales;

use std::collections::HashMap;

use edgeward_perceive::graph::{Constant, ElementType, Node, Op, Quantization, Tensor, TensorId};
use edgeward_perceive::{Error, Graph};

use self::layers::{Layer, MAX_BIAS, correct, layer};
use super::statistics::{Method, Statistics};
use super::{activation_inputs, is_of_shapes};

pub(super) use self::layers::WEIGHT_STEPS;
pub use self::scales::Scales;
pub(super) use self::scales::only_moves;

/// How a network is brought to eight bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How ranges of activations are found.
    pub method: Method,
    /// What inputs can be, where that is known better than from examples: black and white of an image.
    pub input_range: Option<(f32, f32)>,
    /// Whether biases make good what rounding does to mean outputs.
    pub corrects_bias: bool,
    /// Operators that stay in floats, by their index in the graph, besides those that have no eight-bit form.
    pub floats: Vec<usize>,
}

/// The dimension of a layer's weights along which scales differ, its output channels; `None` for what has no weights.
pub(super) fn weights_axis(op: &Op) -> Option<usize> {
    match op {
        Op::Conv2d { .. } | Op::FullyConnected { .. } => Some(0),
        Op::DepthwiseConv2d { .. } => Some(3),
        _ => None,
    }
}

/// The graph in eight bits. `examples` are what biases are corrected on; `statistics` are of the same network.
///
/// # Errors
/// If no operator has an eight-bit form here, or one has weights that are no floats.
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
    let mut layers = Vec::new();
    for (idx, node) in graph.nodes.iter().enumerate().filter(|(idx, _)| !scales.is_float()[*idx]) {
        if let Some(layer) = layer(graph, idx, node, scales.by_tensor())? {
            layers.push(layer);
        }
    }
    if let Some(examples) = examples {
        correct(graph, &mut layers, examples)?;
    }
    let mut result = graph.clone();
    for layer in layers {
        insert(&mut result, layer, scales.by_tensor());
    }
    convert(&mut result, scales);
    requantize_parts(&mut result);
    Ok(without_unused(&result))
}

/// Gives a node the rounded weights and biases of its layer.
fn insert(graph: &mut Graph, layer: Layer, activations: &[Option<Quantization>]) {
    let input = graph.nodes[layer.node].inputs[0].and_then(|id| activations[id].as_ref());
    let from = input.expect("a layer's input has a scale").scales[0];
    let n = layer.scales.len();
    let steps = |(bias, scale): (&f32, &f32)| {
        (f64::from(*bias) / (f64::from(from) * f64::from(*scale))).round().clamp(-MAX_BIAS, MAX_BIAS) as i32
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
    graph.tensors.extend([weights, bias]);
    let n_tensors = graph.tensors.len();
    let inputs = &mut graph.nodes[layer.node].inputs;
    inputs.truncate(1);
    inputs.extend([Some(n_tensors - 2), Some(n_tensors - 1)]);
}

/// Makes the activations of operators in eight bits bytes, and gives each operator the form that it works on.
fn convert(graph: &mut Graph, scales: &Scales) {
    let nodes = std::mem::take(&mut graph.nodes);
    let mut has_bytes = vec![false; graph.tensors.len()];
    // An input comes as bytes where nobody wants floats.
    let is_read_as_floats = |id: &TensorId| {
        let mut readers = nodes.iter().zip(scales.is_float()).filter(|(_, is_float)| **is_float);
        readers.any(|(node, _)| node.inputs.contains(&Some(*id)))
    };
    for id in &graph.inputs {
        has_bytes[*id] = !is_read_as_floats(id);
    }
    for (node, is_float) in nodes.iter().zip(scales.is_float()) {
        if !is_float && !is_of_shapes(graph, node) {
            has_bytes[node.outputs[0]] = true;
        }
    }
    let mut others: HashMap<TensorId, TensorId> = HashMap::new();
    for (mut node, is_float) in nodes.into_iter().zip(scales.is_float()) {
        let strangers: Vec<(usize, TensorId)> = match is_of_shapes(graph, &node) {
            true => Vec::new(),
            false => activation_inputs(graph, &node).filter(|(_, id)| has_bytes[*id] == *is_float).collect(),
        };
        for (place, id) in strangers {
            let other = *others.entry(id).or_insert_with(|| {
                let tensor = &graph.tensors[id];
                let (op, form) = if *is_float { (Op::Dequantize, "float") } else { (Op::Quantize, "int8") };
                let mut other = Tensor { name: format!("{}/{form}", tensor.name), ..tensor.clone() };
                if !is_float {
                    to_bytes(&mut other, &scales.by_tensor()[id]);
                }
                graph.tensors.push(other);
                let other = graph.tensors.len() - 1;
                graph.nodes.push(Node { op, inputs: vec![Some(id)], outputs: vec![other] });
                other
            });
            node.inputs[place] = Some(other);
        }
        graph.nodes.push(node);
    }
    for (id, has_bytes) in has_bytes.into_iter().enumerate() {
        if has_bytes {
            to_bytes(&mut graph.tensors[id], &scales.by_tensor()[id]);
        }
    }
}

fn to_bytes(tensor: &mut Tensor, scale: &Option<Quantization>) {
    tensor.element_type = ElementType::I8;
    tensor.quantization.clone_from(scale);
}

/// Brings what is concatenated to the scale of the whole, where it has another.
fn requantize_parts(graph: &mut Graph) {
    for mut node in std::mem::take(&mut graph.nodes) {
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
    use edgeward_perceive::graph::{Binary, Unary};
    use edgeward_perceive::tflite;

    use super::*;
    use crate::networks::testing::{chain, examples};
    use crate::networks::{Agreement, calibrate};

    /// Replaces the chain's pooling by a function that has no eight-bit form here, and its second convolution's output by
    /// products.
    fn stubborn() -> Graph {
        let mut graph = chain();
        let pooling = graph.nodes.iter().position(|node| matches!(node.op, Op::MaxPool2d { .. })).unwrap();
        let before = graph.nodes[pooling].inputs[0].unwrap();
        let tensor = graph.tensors[before].clone();
        graph.tensors.extend([Tensor { name: "elu".into(), ..tensor.clone() }, tensor]);
        let (elu, product) = (graph.tensors.len() - 2, graph.tensors.len() - 1);
        let node = |op, inputs: &[TensorId], output| Node {
            op,
            inputs: inputs.iter().map(|id| Some(*id)).collect(),
            outputs: vec![output],
        };
        graph.nodes[pooling].inputs[0] = Some(product);
        let new = [
            node(Op::Unary(Unary::Elu { alpha: 1.0 }), &[before], elu),
            node(Op::Binary(Binary::Mul), &[elu, before], product),
        ];
        graph.nodes.splice(pooling..pooling, new);
        graph
    }

    #[test]
    fn what_has_no_eight_bits_stays_in_floats() {
        let graph = stubborn();
        let examples = examples(&graph, 30);
        let statistics = calibrate(&graph, &examples).unwrap();
        let options =
            Options { method: Method::MinMax, input_range: None, corrects_bias: true, floats: vec![] };
        let made = quantize(&graph, &statistics, &examples, &options).unwrap();
        let names: Vec<&str> = made.nodes.iter().map(|node| node.op.name()).collect();
        // What is read twice is brought to floats once; pooling goes with what it is given.
        let expected = [
            "CONV_2D",
            "PAD",
            "DEPTHWISE_CONV_2D",
            "CONV_2D",
            "DEQUANTIZE",
            "ELU",
            "MUL",
            "MAX_POOL_2D",
            "QUANTIZE",
            "MEAN",
            "FULLY_CONNECTED",
        ];
        assert_eq!(names, expected);
        let agreement = Agreement::measure(&graph, &made, &examples).unwrap();
        assert!(agreement.sqnr_db > 20.0, "{agreement:?}");

        // In a file it is the same.
        let read = tflite::read(tflite::write(&made).unwrap().into()).unwrap();
        assert_eq!(Agreement::measure(&made, &read, &examples).unwrap().squared_error, 0.0);

        // An input that operators of both kinds read comes in floats, an output that floats make goes so.
        let last = graph.nodes.len() - 1;
        let options = Options { floats: vec![0, last], ..options };
        let made = quantize(&graph, &statistics, &examples, &options).unwrap();
        for id in [made.inputs[0], made.outputs[0]] {
            assert_eq!(made.tensors[id].element_type, ElementType::F32);
        }
    }

    #[test]
    fn a_network_without_eight_bits_is_refused() {
        let mut graph = stubborn();
        let elu = graph.nodes.iter().position(|node| matches!(node.op, Op::Unary(_))).unwrap();
        graph.nodes = vec![graph.nodes[elu].clone()];
        graph.inputs = vec![graph.nodes[0].inputs[0].unwrap()];
        graph.outputs = graph.nodes[0].outputs.clone();
        let examples = examples(&graph, 2);
        let statistics = calibrate(&graph, &examples).unwrap();
        let options =
            Options { method: Method::MinMax, input_range: None, corrects_bias: false, floats: vec![] };
        let refused = quantize(&graph, &statistics, &examples, &options).unwrap_err();
        assert!(refused.to_string().contains("operator 0 (ELU)"), "{refused}");
    }
}
