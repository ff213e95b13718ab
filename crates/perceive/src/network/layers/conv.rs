//! Convolutions, depthwise ones, and fully connected layers, which are convolutions of single pixels.
//!
//! Three kinds of arithmetic: all floats; all bytes; and floats with weights in bytes ("dynamic range"), where each
//! image is brought to bytes with a scale of its own, multiplied exactly, and brought back.

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::net::{
    Conv8, Conv32, Depthwise8, Depthwise32, Output8, Plane, Requant, Rounding, Window, pad, quantize,
};
use edgeward_kernels::{Isa, Pool};

use super::pointwise::{Filling, PadStep};
use crate::error::Error;
use crate::graph::{
    Activation, Constant, ElementType, Node, Padding, Sliding, Tensor, checked_size, same_padding,
};
use crate::network::lower::{Affine, Images, Lowering, Operand};
use crate::network::memory::{Memory, ValueId};
use crate::network::{Arithmetic, Step};

/// CONV_2D.
pub fn conv2d(
    lowering: &mut Lowering<'_>,
    node: &Node,
    place: &str,
    sliding: Sliding,
    activation: Activation,
) -> Result<(), Error> {
    let input = lowering.operand(node, 0, place)?;
    let from = Images::of(input.tensor, place)?;
    let weights = Weights::new(lowering, node, place)?;
    let [n_out, rows, columns, n_in] = weights.dims(place)?;
    if n_in != from.plane.channels {
        let what = format!("weights for {n_in} channels, and images of {}", from.plane.channels);
        return Err(Error::unsupported(place, what));
    }
    let geometry = Geometry::new(from, [rows, columns], n_out, sliding, place)?;
    let (channel_axis, rounding) = (0, lowering.rounding());
    let layer = Layer { n_in, n_out, activation, channel_axis, rounding };
    convolution(lowering, node, place, input, geometry, &weights, layer)
}

/// FULLY_CONNECTED.
pub fn fully_connected(
    lowering: &mut Lowering<'_>,
    node: &Node,
    place: &str,
    keeps_dims: bool,
    activation: Activation,
) -> Result<(), Error> {
    let input = lowering.operand(node, 0, place)?;
    let weights = Weights::new(lowering, node, place)?;
    let [n_out, n_in] = *weights.tensor.shape.as_slice() else {
        return Err(Error::malformed(place, format!("weights of shape {:?}", weights.tensor.shape)));
    };
    let n_elements = input.tensor.n_elements();
    if n_in == 0 || n_out == 0 || !n_elements.is_multiple_of(n_in) {
        return Err(Error::malformed(
            place,
            format!("rows of {n_in} from an input of {n_elements} elements"),
        ));
    }
    let n_rows = n_elements / n_in;
    let shape = match input.tensor.shape.split_last() {
        Some((last, dims)) if keeps_dims && *last == n_in => [dims, &[n_out]].concat(),
        _ if keeps_dims => {
            return Err(Error::malformed(place, "its input's last dimension is not that of its weights"));
        }
        _ => vec![n_rows, n_out],
    };
    // Rows with scales of their own are images of one pixel; otherwise all rows are pixels of one.
    let is_dynamic =
        input.tensor.element_type == ElementType::F32 && weights.tensor.element_type == ElementType::I8;
    let (n, width) = if is_dynamic { (n_rows, 1) } else { (1, n_rows) };
    let images = |channels| Images { n, plane: Plane::dense(1, width, channels) };
    let geometry =
        Geometry { window: Window::POINT, from: images(n_in), padded: None, to: images(n_out), shape };
    let rounding = match lowering.rounding() {
        Rounding::FixedPoint => Rounding::FixedPointOnce,
        other => other,
    };
    let layer = Layer { n_in, n_out, activation, channel_axis: 0, rounding };
    convolution(lowering, node, place, input, geometry, &weights, layer)
}

/// DEPTHWISE_CONV_2D.
pub fn depthwise(
    lowering: &mut Lowering<'_>,
    node: &Node,
    place: &str,
    sliding: Sliding,
    multiplier: usize,
    activation: Activation,
) -> Result<(), Error> {
    let input = lowering.operand(node, 0, place)?;
    let from = Images::of(input.tensor, place)?;
    let n_in = from.plane.channels;
    let weights = Weights::new(lowering, node, place)?;
    let [1, rows, columns, n_out] = weights.dims(place)? else {
        return Err(Error::malformed(place, format!("weights of shape {:?}", weights.tensor.shape)));
    };
    if n_in.checked_mul(multiplier) != Some(n_out) {
        let what = format!("{n_out} channels out of {n_in} with {multiplier} for each");
        return Err(Error::malformed(place, what));
    }
    let geometry = Geometry::new(from, [rows, columns], n_out, sliding, place)?;
    if multiplier > 1 || weights.tensor.element_type != input.tensor.element_type {
        // One input channel with many outputs is an ordinary convolution. Several are one with zeros for the others'
        // channels: slower than it could be, and rare.
        let (channel_axis, rounding) = (3, lowering.rounding());
        let layer = Layer { n_in, n_out, activation, channel_axis, rounding };
        return convolution(lowering, node, place, input, geometry, &weights, layer);
    }
    let (window, n) = (geometry.window, n_out);
    let output = lowering.output(node, &geometry.shape, input.tensor.element_type, place)?;
    lowering.count_macs(macs(&geometry, 1));
    match input.tensor.element_type {
        ElementType::I8 => {
            let (from, to) = (lowering.affine(input.tensor, place)?, lowering.affine(output.tensor, place)?);
            lowering.reserve(Some(Depthwise8::weight_bytes(window, n)))?;
            let requant = weights.requant(lowering.rounding(), (from, to), activation, (n, 3), place)?;
            let bias = weights.bias_i32(n, place)?;
            let kernel = Depthwise8::new(window, n, &weights.i8s(place)?, &bias, &requant);
            let io = geometry.pad(lowering, input, Filling::Byte(from.zero), output, place)?;
            lowering.push(DepthwiseStep8 { kernel, zero: from.zero, io }, &[io.input, io.output]);
        }
        _ => {
            lowering.reserve(Some(Depthwise32::weight_bytes(window, n)))?;
            let bias = weights.bias_f32(n, place)?;
            let kernel = Depthwise32::new(window, n, &weights.f32s(place)?, &bias, activation.range());
            let io = geometry.pad(lowering, input, Filling::Float, output, place)?;
            lowering.push(DepthwiseStep32 { kernel, io }, &[io.input, io.output]);
        }
    }
    Ok(())
}

/// What the three operators have in common.
struct Layer {
    n_in: usize,
    n_out: usize,
    activation: Activation,
    /// Of the weights: 0, or 3 for depthwise ones.
    channel_axis: usize,
    rounding: Rounding,
}

fn convolution(
    lowering: &mut Lowering<'_>,
    node: &Node,
    place: &str,
    input: Operand<'_>,
    geometry: Geometry,
    weights: &Weights<'_>,
    layer: Layer,
) -> Result<(), Error> {
    let Layer { n_in, n_out, activation, channel_axis, rounding } = layer;
    let window = geometry.window;
    let output = lowering.output(node, &geometry.shape, input.tensor.element_type, place)?;
    lowering.count_macs(macs(&geometry, if channel_axis == 3 { 1 } else { n_in }));
    let n_dense =
        window.size[0].checked_mul(window.size[1]).and_then(|n| n.checked_mul(n_in)?.checked_mul(n_out));
    let too_many = || Error::malformed(place, "its weights are beyond any memory");
    let n_dense = n_dense.filter(|n| *n <= isize::MAX as usize / 64).ok_or_else(too_many)?;
    // Padding every tile to 16 channels and every run to four inputs makes it 64 times as much at most.
    match (input.tensor.element_type, weights.tensor.element_type) {
        (ElementType::I8, ElementType::I8) => {
            let (from, to) = (lowering.affine(input.tensor, place)?, lowering.affine(output.tensor, place)?);
            lowering.reserve(Some(Conv8::weight_bytes(window, n_in, n_out).max(n_dense)))?;
            let requant = weights.requant(rounding, (from, to), activation, (n_out, channel_axis), place)?;
            let values = dense(weights.i8s(place)?, window, n_in, n_out, channel_axis);
            let kernel = Conv8::new(window, n_in, n_out, &values, &weights.bias_i32(n_out, place)?);
            let io = geometry.pad(lowering, input, Filling::Byte(from.zero), output, place)?;
            lowering.push(ConvStep8 { kernel, requant, zero: from.zero, io }, &[io.input, io.output]);
        }
        (ElementType::F32, ElementType::F32) => {
            lowering.reserve(Some(Conv32::weight_bytes(window, n_in, n_out).max(n_dense * 4)))?;
            let values = dense(weights.f32s(place)?, window, n_in, n_out, channel_axis);
            let bias = weights.bias_f32(n_out, place)?;
            let kernel = Conv32::new(window, n_in, n_out, &values, &bias, activation.range());
            let io = geometry.pad(lowering, input, Filling::Float, output, place)?;
            lowering.push(ConvStep32 { kernel, io }, &[io.input, io.output]);
        }
        (ElementType::F32, ElementType::I8) => {
            lowering.reserve(Some(Conv8::weight_bytes(window, n_in, n_out).max(n_dense)))?;
            let values = dense(weights.i8s(place)?, window, n_in, n_out, channel_axis);
            let kernel = Conv8::new(window, n_in, n_out, &values, &vec![0; n_out]);
            let mut scales = weights.scales(n_out, channel_axis, place)?;
            let mut bias = weights.bias_f32(n_out, place)?;
            // Whole tiles.
            scales.resize(n_out.next_multiple_of(16), 0.0);
            bias.resize(scales.len(), 0.0);
            // XNNPACK's convolutions of single pixels take each pixel for an image.
            let is_point = window == Window::POINT && lowering.arithmetic == Arithmetic::Xnnpack;
            let geometry = if is_point { geometry.by_pixel() } else { geometry };
            let (padded, before) = geometry.padded.unwrap_or((geometry.from, [0, 0]));
            let one = |images: Images| Images { n: 1, ..images }.shape();
            let dense_value = lowering.new_value(&one(geometry.from), ElementType::I8, place)?;
            let bytes = match geometry.padded {
                Some(_) => lowering.new_value(&one(padded), ElementType::I8, place)?,
                None => dense_value,
            };
            let step = DynamicStep {
                kernel,
                scales,
                bias,
                range: activation.range(),
                is_symmetric: lowering.arithmetic == Arithmetic::Reference,
                input: input.value,
                dense: dense_value,
                bytes,
                from: geometry.from.plane,
                padded: padded.plane,
                before,
                output: output.value,
                to: geometry.to.plane,
            };
            lowering.push(step, &[input.value, dense_value, bytes, output.value]);
        }
        (from, weights) => {
            return Err(Error::unsupported(
                place,
                format!("an input of type {from} and weights of type {weights}"),
            ));
        }
    }
    Ok(())
}

fn macs(geometry: &Geometry, n_in: usize) -> u64 {
    let [n, height, width, channels] = geometry.to.shape();
    let factors = [n, height, width, channels, geometry.window.size[0], geometry.window.size[1], n_in];
    factors.iter().fold(1u64, |product, factor| product.saturating_mul(*factor as u64))
}

/// Where a window slides.
struct Geometry {
    window: Window,
    from: Images,
    /// If padding is needed, the padded images and where in them the image begins.
    padded: Option<(Images, [usize; 2])>,
    to: Images,
    /// Of the output.
    shape: Vec<usize>,
}

impl Geometry {
    fn new(
        from: Images,
        size: [usize; 2],
        n_out: usize,
        sliding: Sliding,
        place: &str,
    ) -> Result<Geometry, Error> {
        let window = Window { size, stride: sliding.stride, dilation: sliding.dilation };
        let (mut padded, mut before) = ([from.plane.height, from.plane.width], [0; 2]);
        for axis in 0..2 {
            let extent =
                size[axis].checked_sub(1).and_then(|n| n.checked_mul(sliding.dilation[axis])?.checked_add(1));
            let extent = extent.ok_or_else(|| Error::malformed(place, format!("a window of {size:?}")))?;
            let (first, total) = match sliding.padding {
                Padding::Same => {
                    let (total, first) = same_padding(padded[axis], extent, sliding.stride[axis]);
                    (first, total)
                }
                Padding::Valid => (0, 0),
                Padding::Explicit { before, after } => {
                    (before[axis], before[axis].saturating_add(after[axis]))
                }
            };
            before[axis] = first;
            padded[axis] = padded[axis].saturating_add(total);
            if padded[axis] < extent {
                return Err(Error::malformed(
                    place,
                    format!("a window of {size:?} is larger than its image"),
                ));
            }
        }
        let [n, _, _, n_in] = from.shape();
        let [rows, columns] = window.positions(padded);
        let shapes = [[n, padded[0], padded[1], n_in], [n, rows, columns, n_out]];
        if shapes.iter().any(|shape| checked_size(shape, ElementType::F32).is_none()) {
            return Err(Error::malformed(place, "its result is beyond any memory"));
        }
        let [padded, to] = shapes
            .map(|[n, height, width, channels]| Images { n, plane: Plane::dense(height, width, channels) });
        let is_padded = padded.plane != from.plane;
        let shape = to.shape().to_vec();
        Ok(Geometry { window, from, padded: is_padded.then_some((padded, before)), to, shape })
    }

    /// The same with every pixel an image of its own; the window is a point, so nothing is padded.
    fn by_pixel(self) -> Geometry {
        let images = |images: Images| {
            let [n, height, width, channels] = images.shape();
            Images { n: n * height * width, plane: Plane::dense(1, 1, channels) }
        };
        Geometry { from: images(self.from), to: images(self.to), ..self }
    }

    /// Adds the step that pads, where that is needed, and says what the layer's step reads and writes.
    fn pad(
        &self,
        lowering: &mut Lowering<'_>,
        input: Operand<'_>,
        filling: Filling,
        output: Operand<'_>,
        place: &str,
    ) -> Result<Io, Error> {
        let mut io = Io { input: input.value, from: self.from, output: output.value, to: self.to };
        if let Some((padded, before)) = self.padded {
            let value = lowering.new_value(&padded.shape(), input.tensor.element_type, place)?;
            let step =
                PadStep { input: input.value, from: self.from, output: value, to: padded, before, filling };
            lowering.push(step, &[input.value, value]);
            (io.input, io.from) = (value, padded);
        }
        Ok(io)
    }
}

/// The constants of a layer.
struct Weights<'g> {
    tensor: &'g Tensor,
    data: &'g Constant,
    bias: Option<(&'g Tensor, &'g Constant)>,
}

impl<'g> Weights<'g> {
    fn new(lowering: &Lowering<'g>, node: &Node, place: &str) -> Result<Weights<'g>, Error> {
        let weights = lowering.constant(node, 1, place)?;
        let (tensor, data) = weights.ok_or_else(|| Error::malformed(place, "its weights are left out"))?;
        Ok(Weights { tensor, data, bias: lowering.constant(node, 2, place)? })
    }

    fn dims(&self, place: &str) -> Result<[usize; 4], Error> {
        let shape = self.tensor.shape.as_slice();
        match <[usize; 4]>::try_from(shape) {
            Ok(dims) if dims.iter().all(|dim| *dim > 0) => Ok(dims),
            _ => Err(Error::malformed(place, format!("weights of shape {shape:?}"))),
        }
    }

    fn i8s(&self, place: &str) -> Result<Vec<i8>, Error> {
        let zeros = self.tensor.quantization.as_ref().map_or(&[][..], |quantization| &quantization.zeros);
        if zeros.iter().any(|zero| *zero != 0) {
            return Err(Error::unsupported(place, "weights with a zero point"));
        }
        Ok(self.data.bytes().iter().map(|byte| *byte as i8).collect())
    }

    fn f32s(&self, place: &str) -> Result<Vec<f32>, Error> {
        match self.tensor.element_type {
            ElementType::F32 => Ok(self.data.f32s().collect()),
            other => {
                Err(Error::unsupported(place, format!("an input of floats and weights of type {other}")))
            }
        }
    }

    /// As many as there are output channels.
    fn scales(&self, n_out: usize, axis: usize, place: &str) -> Result<Vec<f32>, Error> {
        let quantization = self.tensor.quantization.as_ref();
        let quantization =
            quantization.ok_or_else(|| Error::unsupported(place, "weights without a scale"))?;
        match quantization.scales.as_slice() {
            [scale] => Ok(vec![*scale; n_out]),
            scales if scales.len() == n_out && quantization.axis == axis => Ok(scales.to_vec()),
            scales => Err(Error::malformed(place, format!("{} scales for {n_out} channels", scales.len()))),
        }
    }

    fn requant(
        &self,
        rounding: Rounding,
        (from, to): (Affine, Affine),
        activation: Activation,
        (n_out, axis): (usize, usize),
        place: &str,
    ) -> Result<Requant, Error> {
        let scales = self.scales(n_out, axis, place)?;
        let single: Vec<f32> = scales.iter().map(|scale| from.scale * scale / to.scale).collect();
        let double =
            scales.iter().map(|scale| f64::from(from.scale) * f64::from(*scale) / f64::from(to.scale));
        let double: Vec<f64> = double.collect();
        Ok(Requant::new(rounding, (&single, &double), to.zero, to.range(activation)))
    }

    fn bias(
        &self,
        n_out: usize,
        element_type: ElementType,
        place: &str,
    ) -> Result<Option<&'g Constant>, Error> {
        match self.bias {
            None => Ok(None),
            Some((tensor, _)) if tensor.element_type != element_type => {
                Err(Error::unsupported(place, format!("a bias of type {}", tensor.element_type)))
            }
            Some((tensor, _)) if tensor.n_elements() != n_out => Err(Error::malformed(
                place,
                format!("a bias of shape {:?} for {n_out} channels", tensor.shape),
            )),
            Some((_, constant)) => Ok(Some(constant)),
        }
    }

    fn bias_i32(&self, n_out: usize, place: &str) -> Result<Vec<i32>, Error> {
        let bias = self.bias(n_out, ElementType::I32, place)?;
        Ok(bias.map_or_else(|| vec![0; n_out], |bias| bias.i32s().collect()))
    }

    fn bias_f32(&self, n_out: usize, place: &str) -> Result<Vec<f32>, Error> {
        let bias = self.bias(n_out, ElementType::F32, place)?;
        Ok(bias.map_or_else(|| vec![0.0; n_out], |bias| bias.f32s().collect()))
    }
}

/// Weights as an ordinary convolution has them, `[n_out, rows, columns, n_in]`. Depthwise ones, `[rows, columns,
/// n_out]`, get zeros for the channels that an output does not see.
fn dense<T: Copy + Default>(
    weights: Vec<T>,
    window: Window,
    n_in: usize,
    n_out: usize,
    axis: usize,
) -> Vec<T> {
    if axis == 0 {
        return weights;
    }
    let n_positions = window.size[0] * window.size[1];
    let mut dense = vec![T::default(); n_out * n_positions * n_in];
    for (i, weight) in weights.into_iter().enumerate() {
        let (position, out) = (i / n_out, i % n_out);
        dense[(out * n_positions + position) * n_in + out / (n_out / n_in)] = weight;
    }
    dense
}

/// What a layer's step reads and writes.
#[derive(Clone, Copy)]
struct Io {
    input: ValueId,
    from: Images,
    output: ValueId,
    to: Images,
}

impl Io {
    /// Calls `f` with each image, and the slack or the other images behind it, and with its output.
    fn each<T>(self, input: &[T], output: &mut [T], mut f: impl FnMut((&[T], Plane), (&mut [T], Plane))) {
        let (from_len, to_len) = (self.from.plane.len(), self.to.plane.len());
        for (i, output) in output.chunks_exact_mut(to_len).enumerate() {
            f((&input[i * from_len..], self.from.plane), (output, self.to.plane));
        }
    }
}

struct ConvStep8 {
    kernel: Conv8,
    requant: Requant,
    zero: u8,
    io: Io,
}

impl Step for ConvStep8 {
    fn run(&self, memory: &mut Memory, pool: &mut Pool, isa: Isa) {
        let (input, output) = memory.pair(self.io.input, self.io.output);
        self.io.each(input, output, |image, (data, plane)| {
            let output = Output8::Bytes { data, plane, requant: &self.requant };
            self.kernel.run(pool, isa, image, self.zero, output);
        });
    }
}

struct ConvStep32 {
    kernel: Conv32,
    io: Io,
}

impl Step for ConvStep32 {
    fn run(&self, memory: &mut Memory, pool: &mut Pool, isa: Isa) {
        let (input, output) = memory.pair(self.io.input, self.io.output);
        self.io.each(floats(input), floats_mut(output), |image, output| {
            self.kernel.run(pool, isa, image, output)
        });
    }
}

struct DepthwiseStep8 {
    kernel: Depthwise8,
    zero: u8,
    io: Io,
}

impl Step for DepthwiseStep8 {
    fn run(&self, memory: &mut Memory, pool: &mut Pool, isa: Isa) {
        let (input, output) = memory.pair(self.io.input, self.io.output);
        self.io.each(input, output, |image, output| self.kernel.run(pool, isa, image, self.zero, output));
    }
}

struct DepthwiseStep32 {
    kernel: Depthwise32,
    io: Io,
}

impl Step for DepthwiseStep32 {
    fn run(&self, memory: &mut Memory, pool: &mut Pool, isa: Isa) {
        let (input, output) = memory.pair(self.io.input, self.io.output);
        self.io.each(floats(input), floats_mut(output), |image, output| {
            self.kernel.run(pool, isa, image, output)
        });
    }
}

/// Floats by weights in bytes.
struct DynamicStep {
    kernel: Conv8,
    /// `[n_out]` and zeros up to a whole tile.
    scales: Vec<f32>,
    /// As `scales`.
    bias: Vec<f32>,
    range: (f32, f32),
    /// Whether bytes are symmetric around 128, as TFLite's reference kernels have them, or use all of the range of an
    /// image, as XNNPACK's.
    is_symmetric: bool,
    input: ValueId,
    /// One image in bytes.
    dense: ValueId,
    /// The same, padded; the same value where there is no padding.
    bytes: ValueId,
    from: Plane,
    padded: Plane,
    /// Where the image begins in the padded one.
    before: [usize; 2],
    output: ValueId,
    to: Plane,
}

impl DynamicStep {
    /// How an image is brought to bytes: steps for each unit, and the zero point.
    fn affine(&self, image: &[f32]) -> (f32, u8) {
        let (low, high) = image.iter().fold((0f32, 0f32), |(low, high), x| (low.min(*x), high.max(*x)));
        let spread = if self.is_symmetric { high.max(-low) } else { high - low };
        if spread == 0.0 || !spread.is_finite() {
            return (1.0, 128);
        }
        if self.is_symmetric {
            return (127.0 / spread, 128);
        }
        let steps = 255.0 / spread;
        // Zero is a byte: from the end that is nearer to a whole number of steps.
        let (from_low, from_high) = (-128.0 + low * steps, 127.0 + high * steps);
        let zero = if from_low + from_high > 0.0 { -128.0 - low * steps } else { 127.0 - high * steps };
        (steps, (zero.clamp(-128.0, 127.0).round_ties_even() + 128.0) as u8)
    }
}

impl Step for DynamicStep {
    fn run(&self, memory: &mut Memory, pool: &mut Pool, isa: Isa) {
        let (from_len, to_len) = (self.from.len(), self.to.len());
        let n_images = memory.get(self.output).len() / size_of::<f32>() / to_len;
        for i in 0..n_images {
            let (input, dense) = memory.pair(self.input, self.dense);
            let image = &floats(input)[i * from_len..][..from_len];
            let (steps, zero) = self.affine(image);
            quantize(isa, image, steps, zero, dense);
            if self.bytes != self.dense {
                let (dense, bytes) = memory.pair(self.dense, self.bytes);
                let before = (self.before[0], self.before[1]);
                pad((dense, self.from), zero, before, (bytes, self.padded));
            }
            let (bytes, output) = memory.pair(self.bytes, self.output);
            let output = Output8::Floats {
                data: &mut floats_mut(output)[i * to_len..][..to_len],
                plane: self.to,
                scale: 1.0 / steps,
                scales: &self.scales,
                bias: &self.bias,
                range: self.range,
            };
            self.kernel.run(pool, isa, (bytes, self.padded), zero, output);
        }
    }
}
