//! What has weights or windows: convolutions, dense layers, pools, means, products of matrices, recurrent layers.

use super::super::operators::axis;
use super::Writer;
use super::file::Attribute;
use super::values::Layout;
use crate::error::Error;
use crate::graph::{
    Activation, ElementType, Node, Op, Padding, Quantization, Reduction, Sliding, TensorId, same_padding,
};

impl Writer<'_> {
    /// A convolution; of each channel alone where it has a `multiplier`.
    pub fn convolution(
        &mut self,
        node: &Node,
        sliding: &Sliding,
        multiplier: Option<usize>,
        activation: Activation,
    ) -> Result<(), Error> {
        let (mut input, output) = (self.input(node, 0)?, node.outputs[0]);
        let image = self.image(input)?;
        let weights = self.input(node, 1)?;
        let [n_out, rows, columns, n_in] = self.image(weights)?;
        let mut pads = pads(sliding, [rows, columns], image);
        if let Some(padded) = &self.values[input].padded
            && let [[0, 0], down, across, [0, 0]] = padded.pads[..]
        {
            for (axis, outer) in [down, across].into_iter().enumerate() {
                pads[axis] += outer[0];
                pads[axis + 2] += outer[1];
            }
            input = padded.of;
        }
        // ONNX has the output channel first, then what it sees of the input.
        let (order, n_seen) = if multiplier.is_some() { ([3, 0, 1, 2], n_out) } else { ([0, 3, 1, 2], n_in) };
        if n_seen == 0 || !image[3].is_multiple_of(n_seen) {
            let what = format!("weights for {n_seen} channels, and images of {}", image[3]);
            return Err(self.malformed(what));
        }
        let attributes = vec![
            Attribute::Int("group", (image[3] / n_seen) as i64),
            Attribute::sizes("kernel_shape", &[rows, columns]),
            Attribute::sizes("strides", &sliding.stride),
            Attribute::sizes("dilations", &sliding.dilation),
            Attribute::sizes("pads", &pads),
        ];
        let image = self.floats(input, Layout::First)?;
        let weight_names = self.weights(weights, &order)?;
        let bias = self.bias(node)?;
        let inputs = [Some(&*image), Some(&*weight_names), bias.as_deref()];
        let inputs: Vec<&str> = inputs.into_iter().flatten().collect();
        let sums = self.step("Conv", &inputs, attributes);
        let result = self.activated(sums, activation, output);
        self.give(output, Layout::First, result)
    }

    /// Weights as floats, with their dimensions in this order.
    fn weights(&mut self, id: TensorId, order: &[usize]) -> Result<String, Error> {
        let tensor = self.tensor(id);
        let name = self.constant(id, &tensor.shape, order)?;
        if tensor.element_type == ElementType::F32 {
            return Ok(name);
        }
        let quantization = self.quantization(id)?;
        let axis = order.iter().position(|axis| *axis == quantization.axis).unwrap_or(0);
        self.dequantize(&name, quantization, axis, &tensor.name)
    }

    /// The bias of a layer as floats, if it has one. Whole ones count in products of the units of its input and its weights.
    fn bias(&mut self, node: &Node) -> Result<Option<String>, Error> {
        let Some(id) = node.inputs.get(2).copied().flatten() else { return Ok(None) };
        let tensor = self.tensor(id);
        let name = self.constant(id, &tensor.shape, &(0..tensor.shape.len()).collect::<Vec<_>>())?;
        if tensor.element_type == ElementType::F32 {
            return Ok(Some(name));
        }
        let input = self.quantization(self.input(node, 0)?)?;
        let weights = self.quantization(self.input(node, 1)?)?;
        let &[unit] = input.scales.as_slice() else {
            return Err(self.unsupported("activations with several scales"));
        };
        let scales: Vec<f32> = weights.scales.iter().map(|scale| scale * unit).collect();
        if tensor.element_type != ElementType::I32 || (scales.len() > 1 && tensor.shape != [scales.len()]) {
            return Err(self.malformed(format!("a bias of {}{:?}", tensor.element_type, tensor.shape)));
        }
        let axis = (scales.len() > 1).then_some(Attribute::Int("axis", 0)).into_iter().collect();
        let scales = self.scales(&scales, &tensor.name);
        let wanted = format!("{}/floats", tensor.name);
        Ok(Some(self.file.node("DequantizeLinear", &[&name, &scales], axis, &wanted)))
    }

    /// What is left of `sums` in the bounds of an activation. Of bytes, whose own bounds may do that anyway.
    pub fn activated(&mut self, sums: String, activation: Activation, output: TensorId) -> String {
        let (low, high) = activation.range();
        if let (ElementType::I8, Ok(quantization)) =
            (self.tensor(output).element_type, self.quantization(output))
            && let ([scale], [zero]) = (quantization.scales.as_slice(), quantization.zeros.as_slice())
            && low / scale + *zero as f32 <= -128.0
            && high / scale + *zero as f32 >= 127.0
        {
            return sums;
        }
        match activation {
            Activation::None => sums,
            Activation::Relu => self.step("Relu", &[&sums], vec![]),
            Activation::Relu6 | Activation::ReluN1To1 => {
                let bounds = [low, high].map(|bound| self.number(bound));
                self.step("Clip", &[&sums, &bounds[0], &bounds[1]], vec![])
            }
        }
    }

    /// A dense layer: rows times weights `[out, in]`.
    pub fn fully_connected(&mut self, node: &Node, activation: Activation) -> Result<(), Error> {
        let (input, output) = (self.input(node, 0)?, node.outputs[0]);
        let (from, to) = (self.tensor(input), self.tensor(output));
        let weights = self.input(node, 1)?;
        let &[n_out, n_in] = self.tensor(weights).shape.as_slice() else {
            return Err(self.malformed(format!("weights of shape {:?}", self.tensor(weights).shape)));
        };
        let n_rows = from.n_elements().checked_div(n_in).filter(|rows| rows * n_in == from.n_elements());
        let n_rows = n_rows.ok_or_else(|| self.malformed(format!("rows of {n_in} from {:?}", from.shape)))?;
        if n_rows.checked_mul(n_out) != Some(to.n_elements()) {
            return Err(self.malformed(format!("{n_rows} rows of {n_out} as {:?}", to.shape)));
        }
        let rows = if from.shape == [n_rows, n_in] {
            self.floats(input, Layout::Last)?
        } else {
            let elements = self.in_order(input)?;
            let rows = self.reshaped(&elements, &[n_rows, n_in], &format!("{}/rows", from.name))?;
            match from.element_type {
                ElementType::F32 => rows,
                _ => self.dequantize(&rows, self.quantization(input)?, 0, &from.name)?,
            }
        };
        let weights = self.weights(weights, &[0, 1])?;
        let bias = self.bias(node)?;
        let inputs = [Some(&*rows), Some(&*weights), bias.as_deref()];
        let inputs: Vec<&str> = inputs.into_iter().flatten().collect();
        let sums = self.step("Gemm", &inputs, vec![Attribute::Int("transB", 1)]);
        let result = self.activated(sums, activation, output);
        let mut name = self.given(output, result)?;
        if to.shape != [n_rows, n_out] {
            name = self.reshaped(&name, &to.shape, &to.name)?;
        }
        self.values[output].set(Layout::Last, name);
        Ok(())
    }

    /// The mean or the largest of each window.
    pub fn pool(
        &mut self,
        node: &Node,
        size: [usize; 2],
        sliding: &Sliding,
        activation: Activation,
    ) -> Result<(), Error> {
        let (input, output) = (self.input(node, 0)?, node.outputs[0]);
        let pads = pads(sliding, size, self.image(input)?);
        let mut attributes = vec![
            Attribute::sizes("kernel_shape", &size),
            Attribute::sizes("strides", &sliding.stride),
            Attribute::sizes("pads", &pads),
        ];
        let op = match node.op {
            Op::MaxPool2d { .. } => {
                attributes.push(Attribute::sizes("dilations", &sliding.dilation));
                "MaxPool"
            }
            _ => "AveragePool",
        };
        let image = self.floats(input, Layout::First)?;
        let mut pooled = self.step(op, &[&image], attributes);
        let n_elements = size[0].saturating_mul(size[1]);
        if op == "AveragePool" && self.tensor(input).element_type == ElementType::I8 && n_elements > 1 {
            pooled = self.halves_from_zero(pooled, self.quantization(input)?, n_elements)?;
        }
        let result = self.activated(pooled, activation, output);
        self.give(output, Layout::First, result)
    }

    /// Means of up to `n_elements` bytes, so little further from byte 0 that of those in the middle between two bytes ONNX makes
    /// the further one, as TFLite does, and not the even one. No other mean is so near to a middle.
    fn halves_from_zero(
        &mut self,
        means: String,
        quantization: &Quantization,
        n_elements: usize,
    ) -> Result<String, Error> {
        let ([scale], [zero]) = (quantization.scales.as_slice(), quantization.zeros.as_slice()) else {
            return Err(self.unsupported("activations with several scales"));
        };
        let zero = self.number(*zero as f32 * scale);
        let bytes = self.step("Add", &[&means, &zero], vec![]);
        let side = self.step("Sign", &[&bytes], vec![]);
        // Means are multiples of 1 / n, so half of that from a middle, or in it.
        let little = self.number(scale / (4.0 * n_elements as f32));
        let little = self.step("Mul", &[&side, &little], vec![]);
        Ok(self.step("Add", &[&means, &little], vec![]))
    }

    /// Means over dimensions that an input says.
    pub fn mean(&mut self, node: &Node, keeps_dims: bool) -> Result<(), Error> {
        let n_dims = self.tensor(self.input(node, 0)?).shape.len();
        let axes = self.known_ints(node, 1)?;
        let axes = axes.iter().map(|at| axis((*at).into(), n_dims, &self.place));
        let axes = axes.collect::<Result<Vec<usize>, Error>>()?;
        self.reduce(node, Reduction::Mean, &axes, keeps_dims)
    }

    /// All elements along some dimensions as one.
    pub fn reduce(
        &mut self,
        node: &Node,
        reduction: Reduction,
        axes: &[usize],
        keeps_dims: bool,
    ) -> Result<(), Error> {
        let (input, output) = (self.input(node, 0)?, node.outputs[0]);
        let (from, to) = (self.tensor(input), self.tensor(output));
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        let of_pixels = match reduction {
            Reduction::Mean => Some("GlobalAveragePool"),
            Reduction::Max => Some("GlobalMaxPool"),
            _ => None,
        };
        if let (&[n, _, _, channels], [1, 2], Some(op)) = (from.shape.as_slice(), &sorted[..], of_pixels) {
            let image = self.floats(input, Layout::First)?;
            let pooled = self.step(op, &[&image], vec![]);
            let name = self.given(output, pooled)?;
            if keeps_dims {
                self.values[output].set(Layout::First, name);
            } else {
                let flat = self.reshaped(&name, &[n, channels], &to.name)?;
                self.values[output].set(Layout::Last, flat);
            }
            return Ok(());
        }
        let layout = if keeps_dims { self.layout(&[input]) } else { Layout::Last };
        let axes: Vec<i64> = sorted.iter().map(|axis| layout.axis(*axis) as i64).collect();
        let values = self.floats(input, layout)?;
        let keeps = Attribute::Int("keepdims", i64::from(keeps_dims));
        let result = if reduction == Reduction::Sum {
            let axes = self.file.list(&axes, "axes");
            self.step("ReduceSum", &[&values, &axes], vec![keeps])
        } else {
            let op = match reduction {
                Reduction::Mean => "ReduceMean",
                Reduction::Max => "ReduceMax",
                Reduction::Min => "ReduceMin",
                Reduction::Prod => "ReduceProd",
                Reduction::SumSquare => "ReduceSumSquare",
                Reduction::L1 => "ReduceL1",
                Reduction::L2 | Reduction::Sum => "ReduceL2",
            };
            self.step(op, &[&values], vec![Attribute::Ints("axes", axes), keeps])
        };
        self.give(output, layout, result)
    }

    /// Products of matrices.
    pub fn matmul(&mut self, node: &Node) -> Result<(), Error> {
        let a = self.floats(self.input(node, 0)?, Layout::Last)?;
        let b = self.floats(self.input(node, 1)?, Layout::Last)?;
        let product = self.step("MatMul", &[&a, &b], vec![]);
        self.give(node.outputs[0], Layout::Last, product)
    }

    /// Long short-term memory, whose inputs are ONNX's but for the lengths of sequences.
    pub fn lstm(&mut self, node: &Node) -> Result<(), Error> {
        let mut inputs = Vec::new();
        for idx in 0..6 {
            inputs.push(match node.inputs.get(idx).copied().flatten() {
                Some(id) => self.floats(id, Layout::Last)?,
                None => String::new(),
            });
        }
        inputs.insert(4, String::new());
        let &[_, _, n_hidden] = self.tensor(self.input(node, 2)?).shape.as_slice() else {
            return Err(self.malformed("recurrent weights of another shape"));
        };
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let outputs: Vec<String> =
            node.outputs.iter().map(|id| self.file.name(&self.graph.tensors[*id].name)).collect();
        let hidden = Attribute::Int("hidden_size", n_hidden as i64);
        self.file.node_with("LSTM", &inputs, vec![hidden], outputs.clone());
        node.outputs.iter().zip(outputs).try_for_each(|(id, name)| self.give(*id, Layout::Last, name))
    }
}

/// Zeros above, to the left, below and to the right of an image.
fn pads(sliding: &Sliding, size: [usize; 2], image: [usize; 4]) -> [usize; 4] {
    match sliding.padding {
        Padding::Valid => [0; 4],
        Padding::Explicit { before: [top, left], after: [bottom, right] } => [top, left, bottom, right],
        Padding::Same => {
            let mut pads = [0; 4];
            for axis in 0..2 {
                let extent = size[axis].saturating_sub(1).saturating_mul(sliding.dilation[axis]);
                let extent = extent.saturating_add(1);
                let (total, before) = same_padding(image[axis + 1], extent, sliding.stride[axis].max(1));
                (pads[axis], pads[axis + 2]) = (before, total - before);
            }
            pads
        }
    }
}
