//! A graph in TFLite's own words, where what another format says in its way can be said so: the same results, and an
//! operator that [`write()`](super::write()) can write and eight bits have.
//!
//! Padding by numbers becomes "same", where it is that, or a step of its own; a transposition that moves nothing but
//! dimensions of 1 becomes another shape; sums over an image become means and pooling; an activation goes to the layer
//! before it. What has no such form stays as it is, to be refused by name when it is written.

use crate::error::Error;
use crate::graph::{
    Activation, Constant, ElementType, Graph, Node, Op, Padding, Pick, Reduction, Sliding, Tensor, TensorId,
    Unary,
};

/// `graph` as TFLite would say it.
///
/// # Errors
/// If a window of pooling is padded in a way that TFLite cannot say.
pub fn adapt(graph: &Graph) -> Result<Graph, Error> {
    let mut adapting = Adapting {
        graph: Graph {
            tensors: graph.tensors.clone(),
            nodes: Vec::new(),
            inputs: graph.inputs.clone(),
            outputs: graph.outputs.clone(),
        },
        is_positive: vec![false; graph.tensors.len()],
    };
    for (idx, node) in graph.nodes.iter().enumerate() {
        adapting.node(node, &format!("operator {idx} ({})", node.op.name()))?;
    }
    let mut graph = adapting.graph;
    join_reshapes(&mut graph);
    graph.fuse_activations();
    Ok(graph)
}

struct Adapting {
    graph: Graph,
    /// For each tensor, whether nothing in it can be below 0.
    is_positive: Vec<bool>,
}

impl Adapting {
    fn tensor(&mut self, tensor: Tensor) -> TensorId {
        self.graph.tensors.push(tensor);
        self.is_positive.push(false);
        self.graph.tensors.len() - 1
    }

    /// A list of integers that an operator is given.
    fn list(&mut self, name: &str, shape: Vec<usize>, values: &[i32]) -> Option<TensorId> {
        Some(self.tensor(Tensor {
            name: name.to_owned(),
            element_type: ElementType::I32,
            shape,
            quantization: None,
            constant: Some(Constant::of_i32s(values)),
        }))
    }

    fn shape(&self, id: TensorId) -> &[usize] {
        &self.graph.tensors[id].shape
    }

    fn push(&mut self, op: Op, inputs: Vec<Option<TensorId>>, output: TensorId) {
        let from = inputs[0].is_some_and(|id| self.is_positive[id]);
        self.is_positive[output] = match &op {
            Op::Conv2d { activation, .. }
            | Op::DepthwiseConv2d { activation, .. }
            | Op::FullyConnected { activation, .. }
            | Op::Add { activation } => matches!(activation, Activation::Relu | Activation::Relu6),
            Op::Unary(Unary::Clip { low, .. }) => *low >= 0.0,
            Op::Unary(Unary::Sigmoid) | Op::Softmax { .. } => true,
            Op::MaxPool2d { .. } | Op::AveragePool2d { .. } | Op::Mean { .. } | Op::Pad => from,
            Op::Reshape { .. } | Op::Transpose { .. } => from,
            _ => false,
        };
        self.graph.nodes.push(Node { op, inputs, outputs: vec![output] });
    }

    fn reshape(&mut self, input: Option<TensorId>, output: TensorId) {
        let shape: Vec<i32> = self.shape(output).iter().map(|dim| *dim as i32).collect();
        let list = self.list("shape", vec![shape.len()], &shape);
        self.push(Op::Reshape { shape: Some(shape) }, vec![input, list], output);
    }

    /// Zeros around an image `[n, rows, columns, channels]`.
    fn pad(&mut self, input: TensorId, before: [usize; 2], after: [usize; 2]) -> TensorId {
        let mut tensor = self.graph.tensors[input].clone();
        tensor.name.push_str("/padded");
        for axis in 0..2 {
            tensor.shape[axis + 1] += before[axis] + after[axis];
        }
        let output = self.tensor(tensor);
        self.pad_to(input, before, after, output);
        output
    }

    fn pad_to(&mut self, input: TensorId, before: [usize; 2], after: [usize; 2], output: TensorId) {
        let [[top, left], [bottom, right]] = [before, after].map(|pair| pair.map(|n| n as i32));
        let list = self.list("paddings", vec![4, 2], &[0, 0, top, bottom, left, right, 0, 0]);
        self.push(Op::Pad, vec![Some(input), list], output);
    }

    fn node(&mut self, node: &Node, place: &str) -> Result<(), Error> {
        let (input, output) = (node.inputs.first().copied().flatten(), node.outputs[0]);
        let (Some(id), [_]) = (input, node.outputs.as_slice()) else {
            self.graph.nodes.push(node.clone());
            return Ok(());
        };
        let mut inputs = node.inputs.clone();
        let mut op = node.op.clone();
        match &mut op {
            Op::Conv2d { sliding, .. } | Op::DepthwiseConv2d { sliding, .. } => {
                if let (Some(weights), Padding::Explicit { before, after }) = (inputs[1], sliding.padding)
                    && let &[_, rows, columns, _] = self.shape(weights)
                {
                    match said(sliding, [rows, columns], self.shape(id)) {
                        Some(padding) => sliding.padding = padding,
                        None => {
                            sliding.padding = Padding::Valid;
                            inputs[0] = Some(self.pad(id, before, after));
                        }
                    }
                }
            }
            Op::MaxPool2d { size, sliding, .. } | Op::AveragePool2d { size, sliding, .. } => {
                let (size, is_max) = (*size, matches!(node.op, Op::MaxPool2d { .. }));
                if let Padding::Explicit { before, after } = sliding.padding {
                    match said(sliding, size, self.shape(id)) {
                        Some(padding) => sliding.padding = padding,
                        // Zeros are no larger than what is there anyway.
                        None if is_max && self.is_positive[id] => {
                            sliding.padding = Padding::Valid;
                            inputs[0] = Some(self.pad(id, before, after));
                        }
                        None => {
                            let what = format!(
                                "padding of {before:?} and {after:?}, which TFLite's pooling has not"
                            );
                            return Err(Error::unsupported(place, what));
                        }
                    }
                }
            }
            // What a file of TFLite says stays as it is.
            Op::Transpose { perm } if inputs.len() == 1 => {
                let shape = self.shape(id);
                let moved: Vec<usize> = perm.iter().copied().filter(|axis| shape[*axis] != 1).collect();
                if moved.is_sorted() {
                    self.reshape(input, output);
                    return Ok(());
                }
                let order: Vec<i32> = perm.iter().map(|axis| *axis as i32).collect();
                inputs = vec![input, self.list("order", vec![order.len()], &order)];
            }
            Op::Reshape { .. } if inputs.len() == 1 => {
                self.reshape(input, output);
                return Ok(());
            }
            Op::Reduce { reduction, axes, keeps_dims } if self.shape(id).len() == 4 && *axes == [1, 2] => {
                match reduction {
                    Reduction::Mean => {
                        op = Op::Mean { keeps_dims: *keeps_dims };
                        inputs = vec![input, self.list("axes", vec![2], &[1, 2])];
                    }
                    Reduction::Max if *keeps_dims => {
                        let size = [self.shape(id)[1], self.shape(id)[2]];
                        let sliding = Sliding { padding: Padding::Valid, stride: size, dilation: [1, 1] };
                        op = Op::MaxPool2d { size, sliding, activation: Activation::None };
                    }
                    _ => {}
                }
            }
            Op::Take { picks, fill: 0.0 } => {
                if let [Pick::All, rows, columns, Pick::All] = picks.as_slice()
                    && let (Some(rows), Some(columns)) =
                        (zeros(rows, self.shape(id)[1]), zeros(columns, self.shape(id)[2]))
                {
                    self.pad_to(id, [rows.0, columns.0], [rows.1, columns.1], output);
                    return Ok(());
                }
            }
            _ => {}
        }
        self.push(op, inputs, output);
        Ok(())
    }
}

/// TFLite's word for padding by numbers, if there is one.
fn said(sliding: &Sliding, size: [usize; 2], image: &[usize]) -> Option<Padding> {
    let Padding::Explicit { before, after } = sliding.padding else { return Some(sliding.padding) };
    if [before, after] == [[0; 2]; 2] {
        return Some(Padding::Valid);
    }
    let is_same = (0..2).all(|axis| {
        let (len, stride) = (image[axis + 1], sliding.stride[axis]);
        let extent = (size[axis] - 1) * sliding.dilation[axis] + 1;
        let total = ((len.div_ceil(stride).max(1) - 1) * stride + extent).saturating_sub(len);
        (before[axis], after[axis]) == (total / 2, total - total / 2)
    });
    is_same.then_some(Padding::Same)
}

/// How many zeros are before and after all `len` of a dimension, if that is what is picked.
fn zeros(pick: &Pick, len: usize) -> Option<(usize, usize)> {
    let Pick::These(indices) = pick else { return Some((0, 0)) };
    let before = indices.iter().take_while(|idx| idx.is_none()).count();
    let after = indices.len().checked_sub(before + len)?;
    let is_all = indices[before..before + len].iter().enumerate().all(|(i, idx)| *idx == Some(i));
    (is_all && indices[before + len..].iter().all(Option::is_none)).then_some((before, after))
}

/// Of several shapes one after the other, the last will do.
fn join_reshapes(graph: &mut Graph) {
    let mut source: Vec<Option<TensorId>> = vec![None; graph.tensors.len()];
    let is_bytes = |graph: &Graph, id: TensorId| graph.tensors[id].element_type == ElementType::I8;
    for idx in 0..graph.nodes.len() {
        if !matches!(graph.nodes[idx].op, Op::Reshape { .. }) {
            continue;
        }
        let (Some(input), output) = (graph.nodes[idx].inputs[0], graph.nodes[idx].outputs[0]) else {
            continue;
        };
        let first = source[input].filter(|_| !is_bytes(graph, input)).unwrap_or(input);
        source[output] = Some(first);
        graph.nodes[idx].inputs[0] = Some(first);
    }
    let mut is_used = vec![false; graph.tensors.len()];
    graph.outputs.iter().for_each(|id| is_used[*id] = true);
    for idx in (0..graph.nodes.len()).rev() {
        let node = &graph.nodes[idx];
        if node.outputs.iter().any(|id| is_used[*id]) {
            node.inputs.iter().flatten().for_each(|id| is_used[*id] = true);
        } else {
            graph.nodes.remove(idx);
        }
    }
}
