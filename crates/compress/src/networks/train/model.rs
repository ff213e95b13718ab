//! A float graph whose weights can be trained: its operators on candle's tensors, many examples at a time.
//!
//! The graph is made for one example; here its first dimension becomes the batch. Weights and biases of convolutions and
//! dense layers are variables, all other constants stay. Outputs are those of [`edgeward_perceive::Network`] but for the
//! order of sums.

use candle_core::{D, Device, Tensor, Var};
use edgeward_perceive::Graph;
use edgeward_perceive::graph::{
    Activation, Binary, Constant, ElementType, Node, Op, Padding, Quantization, Sliding, TensorId, Unary,
};

use super::Error;
use super::rounding::{Finish, RoundActivations, RoundWeights};
use super::windows::{Depthwise, Patches, Pooled, Pooling, Windows};
use crate::networks::is_of_shapes;
use crate::networks::quantize::{WEIGHT_STEPS, weights_axis};

/// The largest number of elements of a batch's windows: what does not fit is to be trained in smaller batches.
const MAX_ELEMENTS: usize = 1 << 28;

/// A network on its way through training.
pub struct Model<'g> {
    graph: &'g Graph,
    /// For each tensor, its variable.
    variables: Vec<Option<Var>>,
    /// Where values are rounded as eight bits will round them.
    scales: Option<&'g [Option<Quantization>]>,
}

/// The values of a network's tensors for some examples.
struct Values<'m, 'g> {
    model: &'m Model<'g>,
    n: usize,
    values: Vec<Option<Tensor>>,
}

/// The tensor before the last softmax, and that one's factor; `None` if the network does not end with one.
pub fn logits_of(graph: &Graph) -> Option<(TensorId, f32)> {
    let last = graph.nodes.iter().find(|node| node.outputs.contains(&graph.outputs[0]))?;
    let Op::Softmax { beta } = last.op else { return None };
    Some((last.inputs[0]?, beta))
}

impl<'g> Model<'g> {
    /// With the weights of `graph`; `scales` are those of its tensors in eight bits, if it is to learn to bear them.
    ///
    /// # Errors
    /// If the graph has no weights, or an operator that cannot be trained, which is named when it runs.
    pub fn new(graph: &'g Graph, scales: Option<&'g [Option<Quantization>]>) -> Result<Model<'g>, Error> {
        let mut variables: Vec<Option<Var>> = graph.tensors.iter().map(|_| None).collect();
        for node in &graph.nodes {
            if weights_axis(&node.op).is_none() {
                continue;
            }
            for id in node.inputs.iter().skip(1).flatten() {
                let tensor = &graph.tensors[*id];
                let Some(constant) = &tensor.constant else { continue };
                if tensor.element_type == ElementType::F32 && variables[*id].is_none() {
                    let values: Vec<f32> = constant.f32s().collect();
                    variables[*id] = Some(Var::from_vec(values, tensor.shape.as_slice(), &Device::Cpu)?);
                }
            }
        }
        if variables.iter().all(Option::is_none) {
            return Err(Error::Unsupported("it has no float weights: give the float network".into()));
        }
        Ok(Model { graph, variables, scales })
    }

    /// What it was made of.
    pub fn source(&self) -> &Graph {
        self.graph
    }

    /// What is trained.
    pub fn variables(&self) -> impl Iterator<Item = &Var> {
        self.variables.iter().flatten()
    }

    /// The graph with the weights as they are now.
    pub fn graph(&self) -> Result<Graph, Error> {
        let mut graph = self.graph.clone();
        for (tensor, variable) in graph.tensors.iter_mut().zip(&self.variables) {
            if let Some(variable) = variable {
                let values = variable.flatten_all()?.to_vec1::<f32>()?;
                tensor.constant = Some(Constant::of_f32s(&values));
            }
        }
        Ok(graph)
    }

    /// Tensor `output` for `n` examples, given all values of each input, one example after the other.
    pub fn run(&self, n: usize, inputs: Vec<Vec<f32>>, output: TensorId) -> Result<Tensor, Error> {
        let mut values = Values { model: self, n, values: vec![None; self.graph.tensors.len()] };
        for (id, input) in self.graph.inputs.iter().zip(inputs) {
            let shape = values.shape(*id, "input")?;
            let tensor = Tensor::from_vec(input, shape, &Device::Cpu)?;
            values.values[*id] = Some(values.rounded(*id, tensor)?);
        }
        for (idx, node) in self.graph.nodes.iter().enumerate() {
            if let Some(done) = &values.values[output] {
                return Ok(done.clone());
            }
            if !is_of_shapes(self.graph, node) {
                let place = format!("operator {idx} ({})", node.op.name());
                let result = values.node(node, &place)?;
                values.values[node.outputs[0]] = Some(result);
            }
        }
        let computed = values.values[output].take();
        computed.ok_or_else(|| Error::Unsupported("its output is known beforehand".into()))
    }
}

impl Values<'_, '_> {
    /// The shape of tensor `id` for all examples.
    fn shape(&self, id: TensorId, place: &str) -> Result<Vec<usize>, Error> {
        let mut shape = self.model.graph.tensors[id].shape.clone();
        match shape.first_mut() {
            Some(first) if *first == 1 => *first = self.n,
            _ => {
                let what = format!("{place}: shape {shape:?}, whose first dimension is not one example");
                return Err(Error::Unsupported(what));
            }
        }
        if shape.iter().product::<usize>() > MAX_ELEMENTS {
            return Err(Error::Unsupported(format!("{place}: {shape:?} is too large: make batches smaller")));
        }
        Ok(shape)
    }

    /// As eight bits will hold it, if they are to be learnt.
    fn rounded(&self, id: TensorId, tensor: Tensor) -> Result<Tensor, Error> {
        match self.model.scales.and_then(|scales| scales[id].as_ref()) {
            Some(q) => {
                let round = RoundActivations { scale: q.scales[0], zero: q.zeros[0] };
                Ok(tensor.contiguous()?.apply_op1(round)?)
            }
            None => Ok(tensor),
        }
    }

    /// Input `idx` of a node: computed, trained, or a constant.
    fn input(&self, node: &Node, idx: usize, place: &str) -> Result<Tensor, Error> {
        let missing = || Error::Unsupported(format!("{place}: input {idx} is not there"));
        let id = node.inputs.get(idx).copied().flatten().ok_or_else(missing)?;
        if let Some(value) = &self.values[id] {
            return Ok(value.clone());
        }
        if let Some(variable) = &self.model.variables[id] {
            return Ok(variable.as_tensor().clone());
        }
        let tensor = &self.model.graph.tensors[id];
        let constant = tensor
            .constant
            .as_ref()
            .filter(|_| tensor.element_type == ElementType::F32)
            .ok_or_else(missing)?;
        Ok(Tensor::from_vec(constant.f32s().collect(), tensor.shape.as_slice(), &Device::Cpu)?)
    }

    /// The weights of a layer, `[in, out]` or as they are; rounded if eight bits are to be learnt.
    fn weights(&self, node: &Node, place: &str) -> Result<Tensor, Error> {
        let weights = self.input(node, 1, place)?;
        let axis = weights_axis(&node.op).expect("a layer with weights");
        if self.model.scales.is_none() || axis >= weights.rank() {
            return Ok(weights);
        }
        let n_inner = weights.dims()[axis + 1..].iter().product();
        let round = RoundWeights { n_inner, n: weights.dims()[axis], steps: WEIGHT_STEPS };
        Ok(weights.contiguous()?.apply_op1(round)?)
    }

    /// Sums with their bias and activation, in the shape of the node's output.
    fn finish(
        &self,
        node: &Node,
        sums: &Tensor,
        activation: Activation,
        place: &str,
    ) -> Result<Tensor, Error> {
        let n = sums.dim(D::Minus1)?;
        let bias = match node.inputs.get(2) {
            Some(Some(_)) => self.input(node, 2, place)?,
            _ => Tensor::zeros(n, candle_core::DType::F32, &Device::Cpu)?,
        };
        if bias.dims() != [n] {
            return Err(Error::Unsupported(format!("{place}: a bias of other dimensions")));
        }
        let finished = sums.apply_op2(&bias, Finish { range: activation.range() })?;
        self.rounded(node.outputs[0], finished.reshape(self.shape(node.outputs[0], place)?)?)
    }

    /// Windows of `size` over input 0 of a node.
    fn windows(
        &self,
        node: &Node,
        size: [usize; 2],
        sliding: Sliding,
        place: &str,
    ) -> Result<Windows, Error> {
        let input = self.input(node, 0, place)?;
        let output = self.shape(node.outputs[0], place)?;
        let (&[n, rows, columns, channels], &[_, down, across, _]) = (input.dims(), output.as_slice()) else {
            return Err(Error::Unsupported(format!("{place}: images of other than four dimensions")));
        };
        let (image, positions) = ([rows, columns], [down, across]);
        let mut windows = Windows {
            n,
            image,
            channels,
            size,
            stride: sliding.stride,
            dilation: sliding.dilation,
            before: [0, 0],
            positions,
        };
        for axis in 0..2 {
            windows.before[axis] = match sliding.padding {
                Padding::Valid => 0,
                Padding::Explicit { before, .. } => before[axis],
                Padding::Same => {
                    let reach = (positions[axis] - 1) * sliding.stride[axis]
                        + (size[axis] - 1) * sliding.dilation[axis]
                        + 1;
                    reach.saturating_sub(image[axis]) / 2
                }
            };
        }
        if n * down * across * windows.len() * channels > MAX_ELEMENTS {
            return Err(Error::Unsupported(format!(
                "{place}: its windows are too large: make batches smaller"
            )));
        }
        Ok(windows)
    }

    fn node(&self, node: &Node, place: &str) -> Result<Tensor, Error> {
        let input = || -> Result<Tensor, Error> { Ok(self.input(node, 0, place)?.contiguous()?) };
        let output = node.outputs[0];
        Ok(match &node.op {
            Op::Conv2d { sliding, activation } => {
                let weights = self.weights(node, place)?;
                let &[n_out, rows, columns, n_in] = weights.dims() else {
                    return Err(Error::Unsupported(format!("{place}: weights of other dimensions")));
                };
                let windows = self.windows(node, [rows, columns], *sliding, place)?;
                if windows.channels != n_in {
                    return Err(Error::Unsupported(format!("{place}: groups of channels")));
                }
                let patches = input()?.apply_op1(Patches(windows))?;
                let sums = patches.matmul(&weights.reshape((n_out, rows * columns * n_in))?.t()?)?;
                self.finish(node, &sums, *activation, place)?
            }
            Op::DepthwiseConv2d { sliding, multiplier, activation } => {
                let weights = self.weights(node, place)?;
                let &[1, rows, columns, _] = weights.dims() else {
                    return Err(Error::Unsupported(format!("{place}: weights of other dimensions")));
                };
                let windows = self.windows(node, [rows, columns], *sliding, place)?;
                let depthwise = Depthwise { windows, multiplier: *multiplier };
                let sums = input()?.apply_op2(&weights.contiguous()?, depthwise)?;
                self.finish(node, &sums, *activation, place)?
            }
            Op::FullyConnected { activation, .. } => {
                let weights = self.weights(node, place)?;
                let rows = input()?.reshape(((), weights.dim(1)?))?;
                self.finish(node, &rows.matmul(&weights.t()?)?, *activation, place)?
            }
            Op::Add { activation } => {
                let sum = input()?.broadcast_add(&self.input(node, 1, place)?)?;
                self.rounded(output, activated(&sum, *activation)?)?
            }
            Op::AveragePool2d { size, sliding, activation } => {
                let windows = self.windows(node, *size, *sliding, place)?;
                let mean = input()?.apply_op1(Pooled { windows, pooling: Pooling::Mean })?;
                self.rounded(output, activated(&mean, *activation)?)?
            }
            Op::MaxPool2d { size, sliding, activation } => {
                let windows = self.windows(node, *size, *sliding, place)?;
                activated(&input()?.apply_op1(Pooled { windows, pooling: Pooling::Max })?, *activation)?
            }
            Op::Mean { .. } => {
                let input = input()?;
                let n_means = self.shape(output, place)?.iter().product::<usize>();
                let &[n, rows, columns, channels] = input.dims() else {
                    return Err(Error::Unsupported(format!("{place}: means of other than images")));
                };
                // The executor has refused all but the mean of rows and columns.
                if n_means != n * channels {
                    return Err(Error::Unsupported(format!("{place}: means of other than images")));
                }
                let windows = Windows {
                    n,
                    image: [rows, columns],
                    channels,
                    size: [rows, columns],
                    stride: [1, 1],
                    dilation: [1, 1],
                    before: [0, 0],
                    positions: [1, 1],
                };
                let mean = input.apply_op1(Pooled { windows, pooling: Pooling::Mean })?;
                self.rounded(output, mean.reshape(self.shape(output, place)?)?)?
            }
            Op::Pad => {
                let id = node.inputs.get(1).copied().flatten();
                let constant = id.and_then(|id| self.model.graph.tensors[id].constant.as_ref());
                let sizes =
                    constant.ok_or_else(|| Error::Unsupported(format!("{place}: a computed size")))?;
                let sizes: Vec<i32> = sizes.i32s().collect();
                let mut padded = input()?;
                for (axis, pair) in sizes.as_chunks::<2>().0.iter().enumerate() {
                    let [before, after] = pair.map(|size| size.max(0) as usize);
                    padded = padded.pad_with_zeros(axis, before, after)?;
                }
                padded
            }
            Op::Reshape { .. } => input()?.reshape(self.shape(output, place)?)?,
            Op::Softmax { beta } => log_softmax(&(input()? * f64::from(*beta))?)?.exp()?,
            Op::Unary(function) => self.unary(&input()?, *function, place)?,
            Op::Binary(function) => {
                let (a, b) = (input()?, self.input(node, 1, place)?);
                match function {
                    Binary::Add => a.broadcast_add(&b)?,
                    Binary::Sub => a.broadcast_sub(&b)?,
                    Binary::Mul => a.broadcast_mul(&b)?,
                    Binary::Div => a.broadcast_div(&b)?,
                    Binary::Min => a.broadcast_minimum(&b)?,
                    Binary::Max => a.broadcast_maximum(&b)?,
                    // What is left has no derivative, or none that was needed.
                    _ => return Err(Error::untrainable(place)),
                }
            }
            Op::Transpose { perm } if perm.first() == Some(&0) => input()?.permute(perm.as_slice())?,
            Op::Concat { axis } => {
                let parts = (0..node.inputs.len()).map(|idx| self.input(node, idx, place));
                let parts = parts.collect::<Result<Vec<Tensor>, Error>>()?;
                let rank = parts[0].rank() as i32;
                let axis = if *axis < 0 { axis + rank } else { *axis };
                Tensor::cat(&parts, axis as usize)?
            }
            _ => return Err(Error::untrainable(place)),
        })
    }

    fn unary(&self, x: &Tensor, function: Unary, place: &str) -> Result<Tensor, Error> {
        Ok(match function {
            Unary::Clip { low, high } => clamped(x, (low, high))?,
            Unary::Neg => x.neg()?,
            Unary::Abs => x.abs()?,
            Unary::Exp => x.exp()?,
            Unary::Log => x.log()?,
            Unary::Sqrt => x.sqrt()?,
            Unary::Square => x.sqr()?,
            Unary::Tanh => x.tanh()?,
            Unary::Sigmoid => ((x.neg()?.exp()? + 1.0)?).recip()?,
            Unary::LeakyRelu { alpha } => {
                (clamped(x, (0.0, f32::INFINITY))?
                    + (clamped(x, (f32::NEG_INFINITY, 0.0))? * f64::from(alpha))?)?
            }
            _ => return Err(Error::untrainable(place)),
        })
    }
}

/// Kept between two bounds; gradients pass inside of them.
fn clamped(x: &Tensor, range: (f32, f32)) -> Result<Tensor, Error> {
    if range == (f32::NEG_INFINITY, f32::INFINITY) {
        return Ok(x.clone());
    }
    let no_bias = Tensor::zeros(x.dim(D::Minus1)?, candle_core::DType::F32, &Device::Cpu)?;
    Ok(x.contiguous()?.apply_op2(&no_bias, Finish { range })?)
}

fn activated(x: &Tensor, activation: Activation) -> Result<Tensor, Error> {
    clamped(x, activation.range())
}

/// Over the last dimension.
pub fn log_softmax(logits: &Tensor) -> Result<Tensor, Error> {
    let above = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    Ok(above.broadcast_sub(&above.exp()?.sum_keepdim(D::Minus1)?.log()?)?)
}
