//! What of a network is in eight bits, and with which scales.

use edgeward_perceive::graph::{ElementType, Node, Op, Quantization, Tensor, TensorId, Unary};
use edgeward_perceive::{Error, Graph};

use super::{Options, weights_axis};
use crate::networks::statistics::{Method, Statistics};
use crate::networks::{activation_inputs, is_of_shapes};

/// Which operators work in eight bits, and scale and zero point of each activation that they are given or give.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    by_tensor: Vec<Option<Quantization>>,
    is_float: Vec<bool>,
}

impl Scales {
    /// What `statistics`, of the same network, suggest.
    ///
    /// # Errors
    /// If no operator has an eight-bit form here, or an input is no float.
    pub fn choose(graph: &Graph, statistics: &Statistics, options: &Options) -> Result<Scales, Error> {
        let is_float = |id: &TensorId| graph.tensors[*id].element_type == ElementType::F32;
        if let Some(id) = graph.inputs.iter().find(|id| !is_float(id)) {
            return Err(unsupported(graph, *id, "an input that is no float"));
        }
        let scales =
            Scales { by_tensor: vec![None; graph.tensors.len()], is_float: floats(graph, &options.floats)? };
        Choice { graph, statistics, options, producers: Producers::new(graph), scales }.make()
    }

    /// For each tensor; `None` for what is no activation, or in floats alone.
    pub fn by_tensor(&self) -> &[Option<Quantization>] {
        &self.by_tensor
    }

    /// For each operator, whether it stays in floats; those on shapes, which are integers, do not count.
    pub fn is_float(&self) -> &[bool] {
        &self.is_float
    }
}

/// For each operator, whether it stays in floats: if it is `listed`, if it has no eight-bit form, or if it only moves what
/// comes in floats.
fn floats(graph: &Graph, listed: &[usize]) -> Result<Vec<bool>, Error> {
    let mut is_made_in_floats = vec![false; graph.tensors.len()];
    let mut is_float = vec![false; graph.nodes.len()];
    let mut without_form = None;
    let mut have_form = false;
    for (idx, node) in graph.nodes.iter().enumerate().filter(|(_, node)| !is_of_shapes(graph, node)) {
        if has_eight_bits(graph, node) {
            have_form = true;
            let goes_along =
                only_moves(&node.op) && activation_inputs(graph, node).any(|(_, id)| is_made_in_floats[id]);
            is_float[idx] = goes_along || listed.contains(&idx);
        } else {
            without_form.get_or_insert(idx);
            is_float[idx] = true;
        }
        node.outputs.iter().for_each(|id| is_made_in_floats[*id] = is_float[idx]);
    }
    match without_form {
        Some(idx) if !have_form => Err(Error::Unsupported {
            place: format!("operator {idx} ({})", graph.nodes[idx].op.name()),
            what: "it has no eight-bit form here, and neither has any other".to_owned(),
        }),
        _ => Ok(is_float),
    }
}

/// Scales in the making.
struct Choice<'a> {
    graph: &'a Graph,
    statistics: &'a Statistics,
    options: &'a Options,
    producers: Producers,
    scales: Scales,
}

impl Choice<'_> {
    fn make(mut self) -> Result<Scales, Error> {
        let graph = self.graph;
        for id in &graph.inputs {
            // What comes from outside is not cut off.
            let range = self.options.input_range.or_else(|| self.statistics.range(*id, Method::MinMax));
            let range = range.ok_or_else(|| unsupported(graph, *id, "an input that was not seen"))?;
            self.scales.by_tensor[*id] = Some(affine(range));
        }
        for (idx, node) in graph.nodes.iter().enumerate() {
            if self.scales.is_float[idx] || is_of_shapes(graph, node) {
                continue;
            }
            for (_, id) in activation_inputs(graph, node) {
                // Made in floats, and brought to eight bits for this operator.
                if self.scales.by_tensor[id].is_none() {
                    self.scales.by_tensor[id] = Some(self.seen(id)?);
                }
            }
            let output = node.outputs[0];
            self.scales.by_tensor[output] = Some(match &node.op {
                op if keeps_scale(op) => {
                    let input = node.inputs[0].and_then(|id| self.scales.by_tensor[id].clone());
                    input.ok_or_else(|| unsupported(graph, output, "a result of nothing"))?
                }
                Op::Softmax { .. } | Op::Unary(Unary::Sigmoid) => fixed(1.0 / 256.0, -128),
                Op::Unary(Unary::Tanh) => fixed(1.0 / 128.0, 0),
                Op::Concat { .. } => {
                    let whole = self.seen(output)?;
                    self.join(node, &whole);
                    whole
                }
                _ => self.seen(output)?,
            });
        }
        Ok(self.scales)
    }

    /// For what `id` was like.
    fn seen(&self, id: TensorId) -> Result<Quantization, Error> {
        let range = self.statistics.range(id, self.options.method);
        range.map(affine).ok_or_else(|| unsupported(self.graph, id, "a result that was not seen"))
    }

    /// Gives the parts that `node` joins the scale of the whole, where they are for nothing else.
    fn join(&mut self, node: &Node, whole: &Quantization) {
        for (_, part) in activation_inputs(self.graph, node) {
            for id in self.producers.path(self.graph, &self.scales.is_float, part) {
                self.scales.by_tensor[id] = Some(whole.clone());
            }
        }
    }
}

/// Whether an operator on floats can work in eight bits.
fn has_eight_bits(graph: &Graph, node: &Node) -> bool {
    let inputs: Vec<&Tensor> = node.inputs.iter().flatten().map(|id| &graph.tensors[*id]).collect();
    let is_float = |tensor: &Tensor| tensor.element_type == ElementType::F32;
    let has_form = if weights_axis(&node.op).is_some() {
        inputs.iter().skip(1).all(|tensor| tensor.constant.is_some())
    } else {
        // A constant has no scale.
        has_form(&node.op) && inputs.iter().all(|tensor| !is_float(tensor) || tensor.constant.is_none())
    };
    has_form && is_float(&graph.tensors[node.outputs[0]])
}

fn has_form(op: &Op) -> bool {
    let has_fixed_scale = matches!(op, Op::Softmax { .. } | Op::Unary(Unary::Sigmoid | Unary::Tanh));
    has_fixed_scale || has_free_scale(op) || keeps_scale(op) || matches!(op, Op::Concat { .. })
}

/// Whether results are the inputs' elements, elsewhere.
pub fn only_moves(op: &Op) -> bool {
    matches!(
        op,
        Op::Pad | Op::Reshape { .. } | Op::Transpose { .. } | Op::Concat { .. } | Op::MaxPool2d { .. }
    )
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
    fn path(&self, graph: &Graph, is_float: &[bool], mut id: TensorId) -> Vec<TensorId> {
        let mut path = Vec::new();
        while let Some(idx) = self.nodes[id].filter(|_| self.n_uses[id] == 1) {
            let node = &graph.nodes[idx];
            path.push(id);
            match node.inputs[0] {
                _ if is_float[idx] || has_free_scale(&node.op) => return path,
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

fn fixed(scale: f32, zero: i32) -> Quantization {
    Quantization { scales: vec![scale], zeros: vec![zero], axis: 0 }
}

/// Scale and zero point for a range; zero is one of the values.
fn affine((low, high): (f32, f32)) -> Quantization {
    let (low, high) = (f64::from(low.min(0.0)), f64::from(high.max(0.0)));
    let scale = (high - low) / 255.0;
    // Nothing but zeros was seen: any scale will do.
    let scale = if scale >= f64::from(f32::MIN_POSITIVE) { scale } else { 1.0 };
    let zero = (-128.0 - low / scale).round().clamp(-128.0, 127.0) as i32;
    fixed(scale as f32, zero)
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
        assert_eq!(affine((0.0, 255.0)), fixed(1.0, -128));
    }
}
