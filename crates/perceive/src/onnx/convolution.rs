//! Convolutions and pooling: channels come first in ONNX and last here.

use super::builder::{Builder, Data, Item, Scope};
use super::model::NodeProto;
use crate::error::Error;
use crate::graph::{Activation, Constant, ElementType, Op, Padding, Quantization, Sliding, TensorId};

/// How a window moves; a row of pixels is an image of one row.
pub struct Windows {
    /// Rows and columns.
    pub size: [usize; 2],
    pub sliding: Sliding,
}

impl Windows {
    /// What `node` says of a window of `size` on images of `[rows, columns]`.
    pub fn new(
        node: &NodeProto<'_>,
        n_dims: usize,
        size: [usize; 2],
        image: [usize; 2],
        place: &str,
    ) -> Result<Windows, Error> {
        let n = n_dims - 2;
        // For one dimension, the one across.
        let pair = |values: Option<&[i64]>, usual: i64| -> Result<[usize; 2], Error> {
            let values = match (values, n) {
                (None, _) => [usual; 2],
                (Some([across]), 1) => [usual, *across],
                (Some([down, across]), 2) => [*down, *across],
                (Some(values), _) => {
                    return Err(Error::malformed(place, format!("{values:?} for {n} dimensions")));
                }
            };
            let values = values.map(|value| usize::try_from(value).ok().filter(|value| *value < 1 << 24));
            match values {
                [Some(down), Some(across)] => Ok([down, across]),
                _ => Err(Error::malformed(place, "a negative or huge number")),
            }
        };
        let stride = pair(node.ints("strides"), 1)?;
        let dilation = pair(node.ints("dilations"), 1)?;
        if stride.contains(&0) || dilation.contains(&0) {
            return Err(Error::malformed(place, "a stride or dilation of 0"));
        }
        if image.contains(&0) {
            return Err(Error::malformed(place, "an image without pixels"));
        }
        let pads = node.ints("pads").unwrap_or(&[]);
        let (mut before, mut after) = match pads {
            [] => ([0; 2], [0; 2]),
            pads if pads.len() == 2 * n => (pair(Some(&pads[..n]), 0)?, pair(Some(&pads[n..]), 0)?),
            pads => return Err(Error::malformed(place, format!("pads {pads:?}"))),
        };
        let extent =
            [0, 1].map(|axis| (size[axis].max(1) - 1).saturating_mul(dilation[axis]).saturating_add(1));
        let how = node.text("auto_pad").unwrap_or("NOTSET");
        match how {
            "NOTSET" | "" => {}
            "VALID" => (before, after) = ([0; 2], [0; 2]),
            "SAME_UPPER" | "SAME_LOWER" => {
                for axis in 0..2 {
                    let positions = image[axis].div_ceil(stride[axis]).max(1);
                    let needed = ((positions - 1) * stride[axis]).saturating_add(extent[axis]);
                    let total = needed.saturating_sub(image[axis]);
                    let half = if how == "SAME_UPPER" { total / 2 } else { total.div_ceil(2) };
                    (before[axis], after[axis]) = (half, total - half);
                }
            }
            other => return Err(Error::unsupported(place, format!("padding {other}"))),
        }
        if node.int("ceil_mode", 0) != 0 {
            // As many positions as begin within the image or before it.
            for axis in 0..2 {
                let until_end = image[axis].saturating_add(before[axis]);
                let padded = until_end.saturating_add(after[axis]);
                let mut steps = padded.saturating_sub(extent[axis]).div_ceil(stride[axis]);
                if steps > 0 && steps.saturating_mul(stride[axis]) >= until_end {
                    steps -= 1;
                }
                let needed = steps.saturating_mul(stride[axis]).saturating_add(extent[axis]);
                after[axis] = after[axis].saturating_add(needed.saturating_sub(padded));
            }
        }
        let padding = Padding::Explicit { before, after };
        Ok(Windows { size, sliding: Sliding { padding, stride, dilation } })
    }

    /// Positions in an image.
    pub fn positions(&self, image: [usize; 2], place: &str) -> Result<[usize; 2], Error> {
        let Padding::Explicit { before, after } = self.sliding.padding else { unreachable!("made so") };
        let mut positions = [0; 2];
        for axis in 0..2 {
            let extent = (self.size[axis] - 1).saturating_mul(self.sliding.dilation[axis]).saturating_add(1);
            let padded = image[axis].saturating_add(before[axis]).saturating_add(after[axis]);
            let room = padded.checked_sub(extent);
            let room = room.ok_or_else(|| Error::malformed(place, "its window is larger than the image"))?;
            positions[axis] = room / self.sliding.stride[axis] + 1;
        }
        Ok(positions)
    }
}

/// Weights of a convolution, `[n_out, n_in / groups, rows, columns]`, rearranged.
pub struct Kernels<T> {
    pub values: Vec<T>,
    pub shape: Vec<usize>,
    /// Whether each input channel has outputs of its own, and how many.
    pub multiplier: Option<usize>,
}

/// As the graph has them: `[n_out, rows, columns, n_in]`, or `[1, rows, columns, n_out]` where each channel stands alone;
/// other groups get zeros for what they do not see.
pub fn kernels<T: Copy + Default>(
    values: &[T],
    shape: [usize; 4],
    n_in: usize,
    groups: usize,
    place: &str,
) -> Result<Kernels<T>, Error> {
    let [n_out, per_group, rows, columns] = shape;
    let misfit = || {
        Error::malformed(place, format!("weights of shape {shape:?} for {n_in} channels in {groups} groups"))
    };
    let is_whole = groups > 0
        && n_out > 0
        && n_out.is_multiple_of(groups)
        && per_group.checked_mul(groups) == Some(n_in);
    if !is_whole || rows == 0 || columns == 0 || per_group == 0 {
        return Err(misfit());
    }
    let at = |out: usize, i: usize, row: usize, column: usize| {
        values[((out * per_group + i) * rows + row) * columns + column]
    };
    if per_group == 1 && groups > 1 {
        let values =
            (0..rows * columns * n_out).map(|k| at(k % n_out, 0, k / n_out / columns, k / n_out % columns));
        return Ok(Kernels {
            values: values.collect(),
            shape: vec![1, rows, columns, n_out],
            multiplier: Some(n_out / groups),
        });
    }
    let n = n_out
        .checked_mul(rows)
        .and_then(|n| n.checked_mul(columns)?.checked_mul(n_in))
        .filter(|n| *n < 1 << 24);
    let mut dense = vec![T::default(); n.ok_or_else(misfit)?];
    for out in 0..n_out {
        let first = out / (n_out / groups) * per_group;
        for (i, row, column) in
            (0..per_group * rows * columns).map(|k| (k / (rows * columns), k / columns % rows, k % columns))
        {
            dense[((out * rows + row) * columns + column) * n_in + first + i] = at(out, i, row, column);
        }
    }
    Ok(Kernels { values: dense, shape: vec![n_out, rows, columns, n_in], multiplier: None })
}

/// `[n_out, n_in, rows, columns]` of weights for images of one or two dimensions.
pub fn weight_shape(shape: &[usize], place: &str) -> Result<[usize; 4], Error> {
    match *shape {
        [n_out, n_in, columns] => Ok([n_out, n_in, 1, columns]),
        [n_out, n_in, rows, columns] => Ok([n_out, n_in, rows, columns]),
        _ => Err(Error::unsupported(place, format!("weights of shape {shape:?}"))),
    }
}

impl Builder<'_> {
    pub fn conv(
        &mut self,
        scope: &mut Scope<'_>,
        idx: usize,
        inputs: &[Option<Item>],
        place: &str,
    ) -> Result<Vec<Item>, Error> {
        if let Some(result) = self.quantized(scope, idx, inputs, place)? {
            return Ok(vec![result]);
        }
        Ok(vec![self.float_conv(&scope.nodes[idx], inputs, place)?])
    }

    /// A convolution of floats.
    pub fn float_conv(
        &mut self,
        node: &NodeProto<'_>,
        inputs: &[Option<Item>],
        place: &str,
    ) -> Result<Item, Error> {
        let [Some(image), Some(weights), ..] = inputs else {
            return Err(Error::malformed(place, "an input is left out"));
        };
        let Data::Floats(values) = &weights.data else {
            return Err(Error::unsupported(place, "weights computed while it runs"));
        };
        let bias = match inputs.get(2) {
            Some(Some(Item { data: Data::Floats(bias), .. })) => Some(bias.to_vec()),
            Some(Some(_)) => return Err(Error::unsupported(place, "a bias computed while it runs")),
            _ => None,
        };
        let n_dims = image.shape.len();
        let (input, last) = self.channels_last(image, place)?;
        let shape = weight_shape(&weights.shape, place)?;
        let windows = Windows::new(node, n_dims, [shape[2], shape[3]], [last[1], last[2]], place)?;
        let groups = usize::try_from(node.int("group", 1)).unwrap_or(0);
        let kernels = kernels(values, shape, last[3], groups, place)?;
        let weights =
            self.constant(kernels.shape.clone(), ElementType::F32, Constant::of_f32s(&kernels.values), None);
        let n_out = shape[0];
        let bias = match bias {
            Some(bias) if bias.len() == n_out => {
                Some(self.constant(vec![n_out], ElementType::F32, Constant::of_f32s(&bias), None))
            }
            Some(bias) => return Err(Error::malformed(place, format!("{} biases of {n_out}", bias.len()))),
            None => None,
        };
        let id =
            self.convolve(input, last, weights, bias, (&windows, kernels.multiplier, n_out), None, place)?;
        self.channels_first(id, n_dims, place)
    }

    /// The layer, on an image with channels last; of bytes where it has a scale.
    #[expect(clippy::too_many_arguments, reason = "a convolution is told that much")]
    pub fn convolve(
        &mut self,
        input: TensorId,
        last: [usize; 4],
        weights: TensorId,
        bias: Option<TensorId>,
        (windows, multiplier, n_out): (&Windows, Option<usize>, usize),
        quantization: Option<Quantization>,
        place: &str,
    ) -> Result<TensorId, Error> {
        let [rows, columns] = windows.positions([last[1], last[2]], place)?;
        let (sliding, activation) = (windows.sliding, Activation::None);
        let op = match multiplier {
            Some(multiplier) => Op::DepthwiseConv2d { sliding, multiplier, activation },
            None => Op::Conv2d { sliding, activation },
        };
        let element_type = if quantization.is_some() { ElementType::I8 } else { ElementType::F32 };
        let id = self.tensor(String::new(), vec![last[0], rows, columns, n_out], element_type, place)?;
        if let Some(quantization) = quantization {
            self.quantize(id, quantization);
        }
        let inputs = [Some(input), Some(weights)].into_iter().chain(bias.map(Some)).collect();
        self.push(op, inputs, vec![id]);
        Ok(id)
    }

    pub fn pool(&mut self, node: &NodeProto<'_>, image: &Item, place: &str) -> Result<Item, Error> {
        let n_dims = image.shape.len();
        let (mut input, mut last) = self.channels_last(image, place)?;
        let size = match node.ints("kernel_shape") {
            Some(&[columns]) if n_dims == 3 => [1, columns],
            Some(&[rows, columns]) if n_dims == 4 => [rows, columns],
            other => return Err(Error::malformed(place, format!("a window of {other:?}"))),
        };
        let size = size.map(|n| usize::try_from(n).unwrap_or(0));
        if size.contains(&0) {
            return Err(Error::malformed(place, "an empty window"));
        }
        let mut windows = Windows::new(node, n_dims, size, [last[1], last[2]], place)?;
        if windows.sliding.dilation != [1, 1] {
            return Err(Error::unsupported(place, "dilated windows"));
        }
        if node.int("storage_order", 0) != 0 {
            return Err(Error::unsupported(place, "another order"));
        }
        let [rows, columns] = windows.positions([last[1], last[2]], place)?;
        let (sliding, activation) = (windows.sliding, Activation::None);
        let op = if node.op == "MaxPool" {
            Op::MaxPool2d { size, sliding, activation }
        } else {
            if node.int("count_include_pad", 0) != 0 {
                if node.int("ceil_mode", 0) != 0 {
                    return Err(Error::unsupported(place, "counted padding with rounding up"));
                }
                // Zeros that count are zeros of the image.
                (input, last) = self.padded(input, last, &windows, place)?;
                windows.sliding.padding = Padding::Valid;
            }
            Op::AveragePool2d { size, sliding: windows.sliding, activation }
        };
        let id = self.emit(op, &[input], vec![last[0], rows, columns, last[3]], place)?;
        self.channels_first(id, n_dims, place)
    }

    fn padded(
        &mut self,
        input: TensorId,
        last: [usize; 4],
        windows: &Windows,
        place: &str,
    ) -> Result<(TensorId, [usize; 4]), Error> {
        use crate::graph::Pick;
        let Padding::Explicit { before, after } = windows.sliding.padding else { return Ok((input, last)) };
        if [before, after] == [[0; 2]; 2] {
            return Ok((input, last));
        }
        let pick = |axis: usize| {
            let nothing = |n: usize| std::iter::repeat_n(None, n);
            Pick::These(
                nothing(before[axis])
                    .chain((0..last[axis + 1]).map(Some))
                    .chain(nothing(after[axis]))
                    .collect(),
            )
        };
        let to = [last[0], last[1] + before[0] + after[0], last[2] + before[1] + after[1], last[3]];
        self.make(to[1].checked_add(to[2]), place)?;
        let picks = vec![Pick::All, pick(0), pick(1), Pick::All];
        let id = self.emit(Op::Take { picks, fill: 0.0 }, &[input], to.to_vec(), place)?;
        Ok((id, to))
    }
}
