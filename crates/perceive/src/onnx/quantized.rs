//! Eight-bit layers: `QLinearConv` and its like, and floats between `DequantizeLinear` and `QuantizeLinear`.
//!
//! ONNX's bytes are signed or not; here they are signed, and an unsigned one is kept 128 less, zero point and all. Weights
//! have no zero point here, so theirs is subtracted, where the result is still a byte.

use std::rc::Rc;

use super::builder::{Builder, Bytes, Data, Item, Scope};
use super::convolution::{Windows, kernels, weight_shape};
use super::model::{NodeProto, kind};
use super::operators::axis;
use crate::error::Error;
use crate::graph::{Activation, Constant, ElementType, Op, Quantization, TensorId};

/// Scales and zero points of a tensor, from two inputs of a node.
struct Affine {
    scales: Vec<f32>,
    zeros: Vec<i64>,
    /// What the zero point's type says of the bytes; `None` where it is left out.
    is_signed: Option<bool>,
}

fn affine(scale: Option<&Item>, zero: Option<&Item>, place: &str) -> Result<Affine, Error> {
    let Some(Item { data: Data::Floats(scales), .. }) = scale else {
        return Err(Error::unsupported(place, "a scale computed while it runs"));
    };
    let zeros = match zero.map(|item| &item.data) {
        None => vec![0; scales.len()],
        Some(Data::Ints(zeros)) => zeros.to_vec(),
        Some(_) => return Err(Error::unsupported(place, "a zero point computed while it runs")),
    };
    let is_good = |scale: &f32| scale.is_finite() && *scale > 0.0;
    if scales.is_empty() || zeros.len() != scales.len() || !scales.iter().all(is_good) {
        return Err(Error::malformed(
            place,
            format!("{} scales and {} zero points", scales.len(), zeros.len()),
        ));
    }
    let is_signed = zero.map(|zero| zero.kind == kind::INT8);
    Ok(Affine { scales: scales.to_vec(), zeros, is_signed })
}

impl Affine {
    /// Of an activation, `usual` being its bytes' type where there is no zero point to tell.
    fn activation(&self, usual: i64, place: &str) -> Result<Quantization, Error> {
        let ([scale], [zero]) = (self.scales.as_slice(), self.zeros.as_slice()) else {
            return Err(Error::unsupported(place, "activations with several scales"));
        };
        let is_signed = self.is_signed.unwrap_or(usual == kind::INT8);
        let zero = if is_signed { *zero } else { zero.saturating_sub(128) };
        let zero = i8::try_from(zero).map_err(|_| Error::malformed(place, format!("zero point {zero}")))?;
        Ok(Quantization { scales: vec![*scale], zeros: vec![zero.into()], axis: 0 })
    }
}

/// Floats on their way to bytes: what follows the node that gives them.
struct Rounding<'n> {
    /// The nodes that are part of it.
    nodes: Vec<usize>,
    activation: Activation,
    /// How the bytes are meant, and their type.
    to: Quantization,
    kind: i64,
    /// Their name.
    name: &'n str,
}

/// Weights as signed bytes without a zero point, or `None` where they are none, or have too few zero points.
fn signed(values: &[i64], zeros: &[i64], channel: impl Fn(usize) -> usize) -> Option<Vec<i8>> {
    let zero = |i: usize| if zeros.len() == 1 { zeros.first() } else { zeros.get(channel(i)) };
    values.iter().enumerate().map(|(i, value)| i8::try_from(value.checked_sub(*zero(i)?)?).ok()).collect()
}

impl Builder<'_> {
    /// `QuantizeLinear` and `DequantizeLinear`.
    pub fn convert(
        &mut self,
        node: &NodeProto<'_>,
        inputs: &[Option<Item>],
        place: &str,
    ) -> Result<Item, Error> {
        let get = |idx: usize| inputs.get(idx).and_then(Option::as_ref);
        let item = get(0).ok_or_else(|| Error::malformed(place, "its input is left out"))?;
        let affine = affine(get(1), get(2), place)?;
        if node.int("block_size", 0) != 0 {
            return Err(Error::unsupported(place, "scales for blocks"));
        }
        if node.op == "QuantizeLinear" {
            let to = affine.activation(kind::UINT8, place)?;
            return self.bytes_of(item, to, place);
        }
        match &item.data {
            Data::Active(id) => {
                self.settle_as(*id, &affine, item.kind, place)?;
                let quantization = self.graph().tensors[*id].quantization.clone();
                let mut floats = self.each(Op::Dequantize, item, place)?;
                floats.bytes =
                    quantization.map(|quantization| Rc::new(Bytes { item: item.clone(), quantization }));
                Ok(floats)
            }
            Data::Ints(values) => {
                let at = if affine.scales.len() == 1 {
                    0
                } else {
                    axis(node.int("axis", 1), item.shape.len(), place)?
                };
                let n_inner: usize = item.shape.get(at + 1..).unwrap_or(&[]).iter().product();
                let n = affine.scales.len();
                if n > 1 && item.shape[at] != n {
                    return Err(Error::malformed(place, format!("{n} scales for shape {:?}", item.shape)));
                }
                let channel = |i: usize| if n == 1 { 0 } else { i / n_inner.max(1) % n };
                let float = |(i, value): (usize, &i64)| {
                    affine.scales[channel(i)] * (value - affine.zeros[channel(i)]) as f32
                };
                let mut floats =
                    Item::floats(item.shape.clone(), values.iter().enumerate().map(float).collect());
                let zeros: Option<Vec<i32>> =
                    affine.zeros.iter().map(|zero| i32::try_from(*zero).ok()).collect();
                let zeros = zeros.ok_or_else(|| Error::malformed(place, "a zero point is no byte"))?;
                let quantization = Quantization { scales: affine.scales, zeros, axis: at };
                floats.bytes = Some(Rc::new(Bytes { item: item.clone(), quantization }));
                Ok(floats)
            }
            Data::Floats(_) => Err(Error::malformed(place, "floats where bytes should be")),
        }
    }

    /// Gives an input of bytes the scale with which it is used, which is the same wherever it is.
    fn settle_as(&mut self, id: TensorId, affine: &Affine, kind: i64, place: &str) -> Result<(), Error> {
        if self.element_type(id) != ElementType::I8 {
            return Err(Error::malformed(place, "floats where bytes should be"));
        }
        let meant = affine.activation(kind, place)?;
        match &self.graph().tensors[id].quantization {
            None => self.settle(id, &meant),
            Some(known) if *known == meant => {}
            Some(_) => return Err(Error::unsupported(place, "bytes that are given another scale here")),
        }
        Ok(())
    }

    /// What follows node `idx`, if that is perhaps max(x, 0), then a rounding to bytes, and nothing else.
    fn rounding<'n>(&self, scope: &Scope<'n>, idx: usize, place: &str) -> Option<Rounding<'n>> {
        let nodes = scope.nodes;
        let mut given = nodes[idx].outputs.first()?;
        let mut next = scope.only_consumer(given)?;
        let mut taken = vec![next];
        let mut activation = Activation::None;
        if nodes[next].op == "Relu" {
            activation = Activation::Relu;
            given = nodes[next].outputs.first()?;
            next = scope.only_consumer(given)?;
            taken.push(next);
        }
        let last = &nodes[next];
        if last.op != "QuantizeLinear" || last.inputs.first() != Some(given) {
            return None;
        }
        let known = |idx: usize| last.inputs.get(idx).and_then(|name| self.names.get(name));
        let to = affine(known(1), known(2), place).ok()?;
        let kind = if to.is_signed == Some(true) { kind::INT8 } else { kind::UINT8 };
        let to = to.activation(kind::UINT8, place).ok()?;
        Some(Rounding { nodes: taken, activation, to, kind, name: last.outputs.first()? })
    }

    /// Lets the bytes be `result`, and the nodes that would round be done.
    fn rounded(&mut self, scope: &mut Scope<'_>, rounding: &Rounding<'_>, result: Item) -> Item {
        let result = result.of_kind(rounding.kind);
        self.names.insert(rounding.name.to_owned(), result.clone());
        scope.done.extend(&rounding.nodes);
        result
    }

    /// The largest of each window, of bytes that have just become floats and are rounded to the same bytes at once; `None` if
    /// it is no such node.
    pub fn quantized_pool(
        &mut self,
        scope: &mut Scope<'_>,
        idx: usize,
        input: &Item,
        place: &str,
    ) -> Result<Option<Item>, Error> {
        let Some(bytes) = &input.bytes else { return Ok(None) };
        let Some(rounding) = self.rounding(scope, idx, place) else { return Ok(None) };
        let is_active = matches!(bytes.item.data, Data::Active(_));
        if !is_active || rounding.to != bytes.quantization || rounding.activation != Activation::None {
            return Ok(None);
        }
        let pooled = self.pool(&scope.nodes[idx], &bytes.item, place)?;
        Ok(Some(self.rounded(scope, &rounding, pooled)))
    }

    /// A layer whose inputs have just become floats and whose result becomes bytes at once, as one on bytes; `None` if
    /// it is no such layer.
    pub fn quantized(
        &mut self,
        scope: &mut Scope<'_>,
        idx: usize,
        inputs: &[Option<Item>],
        place: &str,
    ) -> Result<Option<Item>, Error> {
        let node = &scope.nodes[idx];
        let (Some(Some(a)), Some(Some(b))) = (inputs.first(), inputs.get(1)) else { return Ok(None) };
        let (Some(a_bytes), Some(b_bytes)) = (&a.bytes, &b.bytes) else { return Ok(None) };
        let Data::Active(input) = a_bytes.item.data else { return Ok(None) };
        let Some(rounding) = self.rounding(scope, idx, place) else { return Ok(None) };
        let (to, activation) = (rounding.to.clone(), rounding.activation);
        let from = a_bytes.quantization.clone();
        let bias = match inputs.get(2) {
            Some(Some(Item { data: Data::Floats(bias), .. })) => Some(bias.to_vec()),
            Some(Some(_)) => return Ok(None),
            _ => None,
        };
        let result = match (node.op.as_str(), &b_bytes.item.data) {
            ("Add", Data::Active(other)) if a.shape == b.shape => {
                let twins = self.twin(&a_bytes.item).zip(self.twin(&b_bytes.item));
                let (x, y) = twins.unwrap_or((input, *other));
                let shape = self.graph().tensors[x].shape.clone();
                let id = self.tensor(String::new(), shape.clone(), ElementType::I8, place)?;
                self.quantize(id, to);
                self.push(Op::Add { activation }, vec![Some(x), Some(y)], vec![id]);
                match twins {
                    Some(_) => self.channels_first(id, a.shape.len(), place)?,
                    None => Item::active(id, shape),
                }
            }
            ("Conv", Data::Ints(values)) => {
                let quantization = &b_bytes.quantization;
                let n = quantization.scales.len();
                if n > 1 && quantization.axis != 0 {
                    return Ok(None);
                }
                let per_channel = values.len() / b.shape[0].max(1);
                let zeros: Vec<i64> = quantization.zeros.iter().map(|zero| i64::from(*zero)).collect();
                let Some(weights) = signed(values, &zeros, |i| i / per_channel.max(1)) else {
                    return Ok(None);
                };
                let layer = (weights, b.shape.clone(), quantization.scales.clone());
                let bias = Bias::Floats(bias);
                self.byte_conv(node, &a_bytes.item, layer, bias, (from, to, activation), place)?
            }
            ("Gemm" | "MatMul", Data::Ints(values)) if b.shape.len() == 2 => {
                let is_plain = node.int("transA", 0) == 0
                    && node.float("alpha", 1.0) == 1.0
                    && node.float("beta", 1.0) == 1.0;
                let quantization = &b_bytes.quantization;
                let is_transposed = node.op == "Gemm" && node.int("transB", 0) != 0;
                let out_axis = if is_transposed { 0 } else { 1 };
                if !is_plain || (quantization.scales.len() > 1 && quantization.axis != out_axis) {
                    return Ok(None);
                }
                let n = b.shape[1].max(1);
                let channel = |i: usize| if is_transposed { i / n } else { i % n };
                let zeros: Vec<i64> = quantization.zeros.iter().map(|zero| i64::from(*zero)).collect();
                let Some(weights) = signed(values, &zeros, channel) else { return Ok(None) };
                let layer = (weights, [b.shape[0], b.shape[1]], quantization.scales.clone(), is_transposed);
                self.byte_matmul(&a_bytes.item, layer, Bias::Floats(bias), (from, to, activation), place)?
            }
            _ => return Ok(None),
        };
        Ok(Some(self.rounded(scope, &rounding, result)))
    }

    /// A convolution of bytes; the result is of the image's dimensions.
    fn byte_conv(
        &mut self,
        node: &NodeProto<'_>,
        image: &Item,
        (weights, weights_dims, scales): (Vec<i8>, Vec<usize>, Vec<f32>),
        bias: Bias,
        (from, to, activation): (Quantization, Quantization, Activation),
        place: &str,
    ) -> Result<Item, Error> {
        let n_dims = image.shape.len();
        let (input, last) = self.channels_last(image, place)?;
        let shape = weight_shape(&weights_dims, place)?;
        let windows = Windows::new(node, n_dims, [shape[2], shape[3]], [last[1], last[2]], place)?;
        let groups = usize::try_from(node.int("group", 1)).unwrap_or(0);
        let kernels = kernels(&weights, shape, last[3], groups, place)?;
        let n_out = shape[0];
        let axis = if kernels.multiplier.is_some() { 3 } else { 0 };
        let bias = self.byte_bias(bias, &from, &scales, n_out, place)?;
        let weights = self.byte_weights(kernels.values, kernels.shape, scales, axis, place)?;
        let layer = (&windows, kernels.multiplier, n_out);
        let id = self.convolve(input, last, weights, bias, layer, Some(to), place)?;
        self.activate(activation);
        self.channels_first(id, n_dims, place)
    }

    /// A product of rows of bytes with a matrix, `[k, n]` or, transposed, `[n, k]`.
    fn byte_matmul(
        &mut self,
        rows: &Item,
        (weights, dims, scales, is_transposed): (Vec<i8>, [usize; 2], Vec<f32>, bool),
        bias: Bias,
        (from, to, activation): (Quantization, Quantization, Activation),
        place: &str,
    ) -> Result<Item, Error> {
        let [k, n] = if is_transposed { [dims[1], dims[0]] } else { dims };
        let misfit = || Error::malformed(place, format!("shapes {:?} and {dims:?} do not fit", rows.shape));
        let (last, outer) = rows.shape.split_last().ok_or_else(misfit)?;
        if *last != k {
            return Err(misfit());
        }
        let by_out =
            if is_transposed { weights } else { (0..n * k).map(|i| weights[i % k * n + i / k]).collect() };
        let bias = self.byte_bias(bias, &from, &scales, n, place)?;
        let weights = self.byte_weights(by_out, vec![n, k], scales, 0, place)?;
        let shape = [outer, &[n]].concat();
        let input = self.tensor_of(rows, place)?;
        let id = self.tensor(String::new(), shape.clone(), ElementType::I8, place)?;
        self.quantize(id, to);
        let inputs = [Some(input), Some(weights)].into_iter().chain(bias.map(Some)).collect();
        self.push(Op::FullyConnected { keeps_dims: true, activation }, inputs, vec![id]);
        Ok(Item::active(id, shape))
    }

    fn byte_weights(
        &mut self,
        values: Vec<i8>,
        shape: Vec<usize>,
        scales: Vec<f32>,
        axis: usize,
        place: &str,
    ) -> Result<TensorId, Error> {
        if scales.len() != 1 && shape.get(axis) != Some(&scales.len()) {
            return Err(Error::malformed(
                place,
                format!("{} scales for weights of shape {shape:?}", scales.len()),
            ));
        }
        let quantization = Quantization { zeros: vec![0; scales.len()], scales, axis };
        let bytes = values.into_iter().map(|value| value as u8).collect();
        Ok(self.constant(shape, ElementType::I8, Constant::of_bytes(bytes), Some(quantization)))
    }

    fn byte_bias(
        &mut self,
        bias: Bias,
        from: &Quantization,
        scales: &[f32],
        n: usize,
        place: &str,
    ) -> Result<Option<TensorId>, Error> {
        let values: Vec<i32> = match bias {
            Bias::Floats(None) => return Ok(None),
            Bias::Floats(Some(values)) => {
                let scale = |i: usize| {
                    from.scales[0] * scales[if scales.len() == 1 { 0 } else { i.min(scales.len() - 1) }]
                };
                values
                    .iter()
                    .enumerate()
                    .map(|(i, value)| (value / scale(i)).round_ties_even() as i32)
                    .collect()
            }
            Bias::Ints(values) => values,
        };
        if values.len() != n {
            return Err(Error::malformed(place, format!("{} biases of {n}", values.len())));
        }
        Ok(Some(self.constant(vec![n], ElementType::I32, Constant::of_i32s(&values), None)))
    }

    pub fn qlinear_conv(
        &mut self,
        node: &NodeProto<'_>,
        inputs: &[Option<Item>],
        place: &str,
    ) -> Result<Item, Error> {
        let refusals = ["a constant image", "weights computed while it runs"];
        let (image, bytes, dims, scales, [from, to]) = match self.qlinear(node, inputs, refusals, place)? {
            Qlinear::Floats([image, weights, bias], to) => {
                let result = self.float_conv(node, &[Some(image), Some(weights), Some(bias)], place)?;
                return self.bytes_of(&result, to, place);
            }
            Qlinear::Bytes { input, bytes, dims, scales, ends } => (input, bytes, dims, scales, ends),
        };
        let bias = match inputs.get(8).and_then(Option::as_ref).map(|item| &item.data) {
            None => Bias::Floats(None),
            Some(Data::Ints(values)) => Bias::Ints(values.iter().map(|value| *value as i32).collect()),
            Some(_) => return Err(Error::unsupported(place, "a bias computed while it runs")),
        };
        let layer = (bytes, dims.to_vec(), scales);
        self.byte_conv(node, image, layer, bias, (from, to, Activation::None), place)
    }

    pub fn qlinear_matmul(
        &mut self,
        node: &NodeProto<'_>,
        inputs: &[Option<Item>],
        place: &str,
    ) -> Result<Item, Error> {
        let refusals = ["constant rows", "a matrix computed while it runs"];
        let (rows, bytes, dims, scales, [from, to]) = match self.qlinear(node, inputs, refusals, place)? {
            Qlinear::Floats([rows, weights, _], to) => {
                let result = self.matmul(&rows, &weights, place)?;
                return self.bytes_of(&result, to, place);
            }
            Qlinear::Bytes { input, bytes, dims, scales, ends } => (input, bytes, dims, scales, ends),
        };
        let layer = (bytes, [dims[0], dims[1]], scales, false);
        self.byte_matmul(rows, layer, Bias::Floats(None), (from, to, Activation::None), place)
    }

    /// What the two have in common: input, weights and output with a scale and a zero point each. `refusals` name an input that
    /// is constant, and weights that are not.
    fn qlinear<'i>(
        &mut self,
        node: &NodeProto<'_>,
        inputs: &'i [Option<Item>],
        refusals: [&str; 2],
        place: &str,
    ) -> Result<Qlinear<'i>, Error> {
        let get = |idx: usize| inputs.get(idx).and_then(Option::as_ref);
        let (Some(input), Some(weights)) = (get(0), get(3)) else {
            return Err(Error::malformed(place, "an input is left out"));
        };
        let (from, by, to) =
            (affine(get(1), get(2), place)?, affine(get(4), get(5), place)?, affine(get(6), get(7), place)?);
        let Data::Active(id) = input.data else { return Err(Error::unsupported(place, refusals[0])) };
        let Data::Ints(values) = &weights.data else { return Err(Error::unsupported(place, refusals[1])) };
        // Scales are those of output channels: the first dimension of a convolution's weights, the last of a matrix.
        let is_conv = node.op == "QLinearConv";
        let dims = weights.shape.as_slice();
        let n_channels = if is_conv { dims.first() } else { dims.last() }.copied().unwrap_or(1).max(1);
        let n_scales = by.scales.len();
        if n_scales != 1 && n_scales != n_channels {
            return Err(Error::malformed(place, format!("{n_scales} scales for weights of shape {dims:?}")));
        }
        let channel = |i: usize| {
            let channel = if is_conv { i / (values.len() / n_channels).max(1) } else { i % n_channels };
            channel.min(n_scales - 1)
        };
        self.settle_as(id, &from, input.kind, place)?;
        let to = to.activation(input.kind, place)?;
        let is_layer = is_conv || dims.len() == 2;
        if let Some(bytes) = signed(values, &by.zeros, channel).filter(|_| is_layer) {
            let ends = [from.activation(input.kind, place)?, to];
            return Ok(Qlinear::Bytes { input, bytes, dims, scales: by.scales, ends });
        }
        let rows = self.emit(Op::Dequantize, &[id], input.shape.clone(), place)?;
        let float = |(i, value): (usize, &i64)| by.scales[channel(i)] * (value - by.zeros[channel(i)]) as f32;
        let floats = values.iter().enumerate().map(float).collect();
        let bias: Vec<f32> = match get(8).map(|item| &item.data) {
            Some(Data::Ints(bias)) => {
                let scale = |i: usize| from.scales[0] * by.scales[i % n_scales];
                bias.iter().enumerate().map(|(i, value)| *value as f32 * scale(i)).collect()
            }
            _ => vec![0.0; dims.first().copied().unwrap_or(0)],
        };
        let bias = Item::floats(vec![bias.len()], bias);
        let items = [Item::active(rows, input.shape.clone()), Item::floats(dims.to_vec(), floats), bias];
        Ok(Qlinear::Floats(items, to))
    }

    /// Floats as bytes.
    fn bytes_of(&mut self, item: &Item, to: Quantization, place: &str) -> Result<Item, Error> {
        let twin = self.twin(item);
        let id = match twin {
            Some(twin) => twin,
            None => self.tensor_of(item, place)?,
        };
        let shape = self.graph().tensors[id].shape.clone();
        let result = self.tensor(String::new(), shape.clone(), ElementType::I8, place)?;
        self.quantize(result, to);
        self.push(Op::Quantize, vec![Some(id)], vec![result]);
        match twin {
            Some(_) => self.channels_first(result, item.shape.len(), place),
            None => Ok(Item::active(result, shape)),
        }
    }
}

/// A layer that is given as bytes, as it can be computed.
enum Qlinear<'a> {
    /// Image or rows, weights and bias, where the weights are not signed bytes without a zero point, or no matrix; and what the
    /// result is to be rounded to.
    Floats([Item; 3], Quantization),
    /// Weights with their dimensions and scales; how the input's and the output's bytes are meant.
    Bytes { input: &'a Item, bytes: Vec<i8>, dims: &'a [usize], scales: Vec<f32>, ends: [Quantization; 2] },
}

/// A bias as the file has it.
enum Bias {
    Floats(Option<Vec<f32>>),
    Ints(Vec<i32>),
}
