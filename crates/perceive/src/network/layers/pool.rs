//! AVERAGE_POOL_2D, and MEAN over an image's rows and columns.

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::net::{Mean8, Pooling, Requant, mean8, mean32};
use edgeward_kernels::{Isa, Pool};

use super::conv::same_padding;
use crate::error::Error;
use crate::graph::{Activation, ElementType, Node, Padding, Sliding};
use crate::network::Step;
use crate::network::lower::{Images, Lowering};
use crate::network::memory::{Memory, ValueId};

/// AVERAGE_POOL_2D.
pub fn average(
    lowering: &mut Lowering<'_>,
    node: &Node,
    place: &str,
    size: [usize; 2],
    sliding: Sliding,
    activation: Activation,
) -> Result<(), Error> {
    let input = lowering.operand(node, 0, place)?;
    let from = Images::of(input.tensor, place)?;
    let (lens, mut before, mut positions) = ([from.plane.height, from.plane.width], [0; 2], [0; 2]);
    for axis in 0..2 {
        let (len, stride) = (lens[axis], sliding.stride[axis]);
        if sliding.padding == Padding::Same {
            before[axis] = same_padding(len, size[axis], stride).1;
            positions[axis] = len.div_ceil(stride);
        } else {
            let room = len.checked_sub(size[axis]);
            let room = room.ok_or_else(|| Error::malformed(place, "its window is larger than the image"))?;
            positions[axis] = room / stride + 1;
        }
    }
    let shape = [from.n, positions[0], positions[1], from.plane.channels];
    let output = lowering.output(node, &shape, input.tensor.element_type, place)?;
    let mean = match input.tensor.element_type {
        ElementType::I8 => {
            let affine = lowering.affine(input.tensor, place)?;
            if affine != lowering.affine(output.tensor, place)? {
                return Err(Error::unsupported(place, "another scale or zero point for its output"));
            }
            Mean::Rounded { range: affine.range(activation) }
        }
        _ => Mean::Floats { range: activation.range() },
    };
    lowering.count_macs(shape.iter().chain(&size).fold(1u64, |product, n| product.saturating_mul(*n as u64)));
    let pooling = Pooling { size, stride: sliding.stride, before };
    let to = Images::of(output.tensor, place)?;
    let step = MeanStep { input: input.value, from, output: output.value, to, pooling, mean };
    lowering.push(step, &[input.value, output.value]);
    Ok(())
}

/// MEAN.
pub fn mean(lowering: &mut Lowering<'_>, node: &Node, place: &str, keeps_dims: bool) -> Result<(), Error> {
    let input = lowering.operand(node, 0, place)?;
    let axes = node.inputs[1].and_then(|id| lowering.known(id));
    let axes = axes.ok_or_else(|| Error::unsupported(place, "axes computed while it runs"))?;
    let mut axes: Vec<i32> =
        axes.values.iter().map(|axis| if *axis < 0 { axis + 4 } else { *axis }).collect();
    axes.sort_unstable();
    if axes != [1, 2] || input.tensor.shape.len() != 4 {
        return Err(Error::unsupported(place, "other than the mean over an image's rows and columns"));
    }
    let from = Images::of(input.tensor, place)?;
    let channels = from.plane.channels;
    let shape = if keeps_dims { vec![from.n, 1, 1, channels] } else { vec![from.n, channels] };
    let output = lowering.output(node, &shape, input.tensor.element_type, place)?;
    let size = [from.plane.height, from.plane.width];
    let mean = match input.tensor.element_type {
        ElementType::I8 => {
            let (affine, to) =
                (lowering.affine(input.tensor, place)?, lowering.affine(output.tensor, place)?);
            let n = size[0] * size[1];
            let single = affine.scale / to.scale / n as f32;
            let double = f64::from(affine.scale) / f64::from(to.scale) / n as f64;
            lowering.reserve(channels.checked_mul(16))?;
            let factors = (&vec![single; channels][..], &vec![double; channels][..]);
            let requant = Requant::new(lowering.rounding(), factors, to.zero, (0, 255));
            Mean::Requantised { zero: affine.zero, requant }
        }
        _ => Mean::Floats { range: Activation::None.range() },
    };
    let pooling = Pooling { size, stride: size, before: [0, 0] };
    let to = Images { n: from.n, plane: edgeward_kernels::net::Plane::dense(1, 1, channels) };
    let step = MeanStep { input: input.value, from, output: output.value, to, pooling, mean };
    lowering.push(step, &[input.value, output.value]);
    Ok(())
}

enum Mean {
    Rounded { range: (u8, u8) },
    Requantised { zero: u8, requant: Requant },
    Floats { range: (f32, f32) },
}

struct MeanStep {
    input: ValueId,
    from: Images,
    output: ValueId,
    to: Images,
    pooling: Pooling,
    mean: Mean,
}

impl Step for MeanStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, isa: Isa) {
        let (from, to) = (self.from.plane, self.to.plane);
        let ([input, _], output) = memory.three([self.input; 2], self.output);
        let mean = match &self.mean {
            Mean::Rounded { range } => Mean8::Rounded { range: *range },
            Mean::Requantised { zero, requant } => Mean8::Requantised { zero: *zero, requant },
            Mean::Floats { range } => {
                let images = floats(input).chunks_exact(from.len());
                for (image, output) in images.zip(floats_mut(output).chunks_exact_mut(to.len())) {
                    mean32(isa, (image, from), self.pooling, *range, (output, to));
                }
                return;
            }
        };
        for (image, output) in input.chunks_exact(from.len()).zip(output.chunks_exact_mut(to.len())) {
            mean8(isa, (image, from), self.pooling, mean, (output, to));
        }
    }
}
