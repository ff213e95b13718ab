//! What multiplies and shifts channels as part of the layer before or behind it: batch normalisation above all.
//!
//! A layer is linear, so a factor and a shift for each of its output channels are its weights' and its bias'. Before a layer a
//! factor is its weights', too; a shift is only its bias' where no zeros are put around the image, as those would have to
//! be shifted as well. What can be part of no layer becomes one of its own, with a window of one pixel.

use crate::graph::{
    Activation, Binary, Constant, ElementType, Graph, Op, Padding, Sliding, Tensor, TensorId,
};

/// Weights that may be computed anew, numbers: a file whose layers are followed by endless factors must end all the same.
const MOST_NUMBERS: usize = 1 << 28;

/// `factor * x + shift`, for each channel or, of one number each, for all.
struct Affine {
    factor: Vec<f32>,
    shift: Vec<f32>,
}

impl Affine {
    fn at(&self, channel: usize) -> (f32, f32) {
        let i = if self.factor.len() == 1 { 0 } else { channel };
        (self.factor[i], self.shift[i])
    }
}

/// Folds all that can be.
pub fn fold(graph: &mut Graph) {
    let mut folding = Folding { n_uses: graph.n_uses(), graph, n_left: MOST_NUMBERS };
    folding.behind();
    folding.before();
    if folding.alone() {
        // A shift behind a factor joins it.
        folding.behind();
    }
}

struct Folding<'g> {
    graph: &'g mut Graph,
    n_uses: Vec<usize>,
    n_left: usize,
}

impl Folding<'_> {
    /// What follows a layer, from the first layer to the last.
    fn behind(&mut self) {
        let mut makers: Vec<Option<usize>> = vec![None; self.graph.tensors.len()];
        let mut is_gone = vec![false; self.graph.nodes.len()];
        for (idx, is_gone) in is_gone.iter_mut().enumerate() {
            let output = self.graph.nodes[idx].outputs[0];
            makers[output] = Some(idx);
            let Some((input, affine)) = self.affine(idx) else { continue };
            let Some(layer) = makers[input].filter(|_| self.n_uses[input] == 1) else { continue };
            let Some(parts) = self.layer(layer) else { continue };
            let channel = |i: usize| parts.output_channel(i);
            let weights: Vec<f32> =
                parts.weights.iter().enumerate().map(|(i, w)| w * affine.at(channel(i)).0).collect();
            let bias: Vec<f32> = parts
                .bias
                .iter()
                .enumerate()
                .map(|(i, b)| {
                    let (factor, shift) = affine.at(i);
                    b * factor + shift
                })
                .collect();
            if self.replace(layer, &weights, &bias) {
                self.graph.nodes[layer].outputs[0] = output;
                makers[output] = Some(layer);
                *is_gone = true;
            }
        }
        self.remove(&is_gone);
    }

    /// What comes before a layer, from the last layer to the first.
    fn before(&mut self) {
        let mut readers: Vec<Option<usize>> = vec![None; self.graph.tensors.len()];
        let mut is_gone = vec![false; self.graph.nodes.len()];
        for idx in (0..self.graph.nodes.len()).rev() {
            if let Some(input) = self.graph.nodes[idx].inputs.first().copied().flatten() {
                readers[input] = Some(idx);
            }
            let output = self.graph.nodes[idx].outputs[0];
            let Some((input, affine)) = self.affine(idx) else { continue };
            let Some(layer) = readers[output].filter(|_| self.n_uses[output] == 1) else { continue };
            let Some(parts) = self.layer_of_any_activation(layer) else { continue };
            if parts.is_padded && affine.shift.iter().any(|shift| *shift != 0.0) {
                continue;
            }
            let mut bias = parts.bias.clone();
            let mut weights = parts.weights.clone();
            for (i, weight) in weights.iter_mut().enumerate() {
                let (factor, shift) = affine.at(parts.input_channel(i));
                bias[parts.output_channel(i)] += *weight * shift;
                *weight *= factor;
            }
            if self.replace(layer, &weights, &bias) {
                self.graph.nodes[layer].inputs[0] = Some(input);
                readers[input] = Some(layer);
                is_gone[idx] = true;
            }
        }
        self.remove(&is_gone);
    }

    /// What is left, of images: depthwise layers. Whether there was any. What follows one can join it, and is left.
    fn alone(&mut self) -> bool {
        let mut is_any = false;
        let mut is_made = vec![false; self.graph.tensors.len()];
        for idx in 0..self.graph.nodes.len() {
            let Some((input, affine)) = self.affine(idx) else { continue };
            let &[_, _, _, n] = self.graph.tensors[input].shape.as_slice() else { continue };
            if affine.factor.len() != n || (is_made[input] && self.n_uses[input] == 1) {
                continue;
            }
            is_made[self.graph.nodes[idx].outputs[0]] = true;
            let parts = [(vec![1, 1, 1, n], &affine.factor), (vec![n], &affine.shift)];
            let ids = parts.map(|(shape, values)| {
                self.graph.tensors.push(Tensor {
                    name: String::new(),
                    element_type: ElementType::F32,
                    shape,
                    quantization: None,
                    constant: Some(Constant::of_f32s(values)),
                });
                self.n_uses.push(1);
                Some(self.graph.tensors.len() - 1)
            });
            let sliding = Sliding { padding: Padding::Valid, stride: [1; 2], dilation: [1; 2] };
            let node = &mut self.graph.nodes[idx];
            node.op = Op::DepthwiseConv2d { sliding, multiplier: 1, activation: Activation::None };
            node.inputs = [&[Some(input)][..], &ids].concat();
            is_any = true;
        }
        is_any
    }

    fn remove(&mut self, is_gone: &[bool]) {
        let mut is_gone = is_gone.iter();
        self.graph.nodes.retain(|_| !is_gone.next().copied().unwrap_or(false));
    }

    /// The input of node `idx` and what becomes of it, if that is a factor and a shift of its last dimension.
    fn affine(&self, idx: usize) -> Option<(TensorId, Affine)> {
        let node = &self.graph.nodes[idx];
        let Op::Binary(function) = node.op else { return None };
        let [a, b] = [node.inputs[0]?, node.inputs[1]?];
        let constant = |id: TensorId| {
            let tensor = &self.graph.tensors[id];
            tensor.constant.as_ref().filter(|_| tensor.element_type == ElementType::F32)
        };
        let (input, number, is_first) = match (constant(a), constant(b)) {
            (None, Some(_)) => (a, b, true),
            (Some(_), None) => (b, a, false),
            _ => return None,
        };
        let shape = &self.graph.tensors[input].shape;
        let (tensor, n) = (&self.graph.tensors[number], *shape.last()?);
        let len = tensor.n_elements();
        if self.graph.tensors[node.outputs[0]].shape != *shape
            || !(len == 1 || (len == n && tensor.shape.last() == Some(&n)))
        {
            return None;
        }
        let values: Vec<f32> = constant(number)?.f32s().collect();
        let same = |value: f32| vec![value; values.len()];
        let (factor, shift) = match (function, is_first) {
            (Binary::Add, _) => (same(1.0), values),
            (Binary::Sub, true) => (same(1.0), values.iter().map(|x| -x).collect()),
            (Binary::Sub, false) => (same(-1.0), values),
            (Binary::Mul, _) => (values.clone(), same(0.0)),
            (Binary::Div, true) => (values.iter().map(|x| 1.0 / x).collect(), same(0.0)),
            _ => return None,
        };
        Some((input, Affine { factor, shift }))
    }

    /// The parts of node `idx`, if it is a layer on floats without an activation.
    fn layer(&self, idx: usize) -> Option<Parts> {
        let (Op::Conv2d { activation, .. }
        | Op::DepthwiseConv2d { activation, .. }
        | Op::FullyConnected { activation, .. }) = self.graph.nodes[idx].op
        else {
            return None;
        };
        self.layer_of_any_activation(idx).filter(|_| activation == Activation::None)
    }

    fn layer_of_any_activation(&self, idx: usize) -> Option<Parts> {
        let node = &self.graph.nodes[idx];
        let padded = |padding: Padding| {
            !matches!(padding, Padding::Valid | Padding::Explicit { before: [0, 0], after: [0, 0] })
        };
        let (multiplier, is_padded) = match &node.op {
            Op::Conv2d { sliding, .. } => (None, padded(sliding.padding)),
            Op::DepthwiseConv2d { sliding, multiplier, .. } => (Some(*multiplier), padded(sliding.padding)),
            Op::FullyConnected { .. } => (None, false),
            _ => return None,
        };
        let floats = |id: TensorId| -> Option<Vec<f32>> {
            let tensor = &self.graph.tensors[id];
            (tensor.element_type == ElementType::F32).then_some(())?;
            Some(tensor.constant.as_ref()?.f32s().collect())
        };
        let id = node.inputs[1]?;
        let weights = floats(id)?;
        let shape = &self.graph.tensors[id].shape;
        let (first, last) = (*shape.first()?, *shape.last()?);
        let n_out = if multiplier.is_some() { last } else { first };
        let bias = match node.inputs.get(2).copied().flatten() {
            Some(id) => floats(id)?,
            None => vec![0.0; n_out],
        };
        let is_whole = n_out > 0 && last > 0 && bias.len() == n_out && weights.len() >= n_out;
        is_whole.then(|| Parts { n_inner: weights.len() / first, weights, bias, last, multiplier, is_padded })
    }

    /// Gives layer `idx` these weights; false if they are no numbers, or too many have been made.
    fn replace(&mut self, idx: usize, weights: &[f32], bias: &[f32]) -> bool {
        let is_good = weights.iter().chain(bias).all(|x| x.is_finite());
        let Some(left) = self.n_left.checked_sub(weights.len()).filter(|_| is_good) else { return false };
        self.n_left = left;
        let node = &self.graph.nodes[idx];
        let id = node.inputs[1].expect("a layer has weights");
        let shape = self.graph.tensors[id].shape.clone();
        let old = [Some(id), node.inputs.get(2).copied().flatten()];
        let mut ids = vec![node.inputs[0]];
        for (old, shape, values) in [(old[0], shape, weights), (old[1], vec![bias.len()], bias)] {
            let tensor = Tensor {
                name: old.map_or_else(String::new, |id| self.graph.tensors[id].name.clone()),
                element_type: ElementType::F32,
                shape,
                quantization: None,
                constant: Some(Constant::of_f32s(values)),
            };
            // Others may share the old ones.
            ids.push(Some(match old.filter(|id| self.n_uses[*id] == 1) {
                Some(id) => {
                    self.graph.tensors[id] = tensor;
                    id
                }
                None => {
                    self.graph.tensors.push(tensor);
                    self.n_uses.push(1);
                    self.graph.tensors.len() - 1
                }
            }));
        }
        self.graph.nodes[idx].inputs = ids;
        true
    }
}

/// Of a layer.
struct Parts {
    weights: Vec<f32>,
    bias: Vec<f32>,
    /// Weights of one index of the first dimension.
    n_inner: usize,
    /// The last dimension.
    last: usize,
    /// Of a depthwise layer.
    multiplier: Option<usize>,
    is_padded: bool,
}

impl Parts {
    /// The output channel that weight `i` belongs to.
    fn output_channel(&self, i: usize) -> usize {
        if self.multiplier.is_some() { i % self.last } else { i / self.n_inner }
    }

    /// The input channel that weight `i` is multiplied by.
    fn input_channel(&self, i: usize) -> usize {
        i % self.last / self.multiplier.unwrap_or(1).max(1)
    }
}
