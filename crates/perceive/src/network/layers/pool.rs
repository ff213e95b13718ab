//! AVERAGE_POOL_2D, MAX_POOL_2D, and MEAN over an image's rows and columns.

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::net::{Mean8, Pooling, Requant, mean8, mean32};
use edgeward_kernels::{Isa, Pool, Vectorized};

use crate::error::Error;
use crate::graph::{Activation, ElementType, Node, Padding, Sliding, same_padding};
use crate::network::Step;
use crate::network::lower::{Affine, Images, Lowering};
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
    let (over, affine) = over(lowering, node, place, size, sliding)?;
    let mean = match affine {
        Some(affine) => Mean::Rounded { range: affine.range(activation) },
        None => Mean::Floats { range: activation.range() },
    };
    lowering.push(MeanStep { over, mean }, &[over.input, over.output]);
    Ok(())
}

/// Windows of images, and where what becomes of them goes.
#[derive(Clone, Copy)]
struct Over {
    input: ValueId,
    from: Images,
    output: ValueId,
    to: Images,
    pooling: Pooling,
}

/// The windows of a node that slides over images; of bytes also their scale and zero point, which the output has too.
fn over(
    lowering: &mut Lowering<'_>,
    node: &Node,
    place: &str,
    size: [usize; 2],
    sliding: Sliding,
) -> Result<(Over, Option<Affine>), Error> {
    let input = lowering.operand(node, 0, place)?;
    let from = Images::of(input.tensor, place)?;
    let (before, positions) = windows(from, size, sliding, place)?;
    let shape = [from.n, positions[0], positions[1], from.plane.channels];
    let output = lowering.output(node, &shape, input.tensor.element_type, place)?;
    let affine = match input.tensor.element_type {
        ElementType::I8 => Some(lowering.affine(input.tensor, place)?),
        _ => None,
    };
    if let Some(affine) = affine
        && affine != lowering.affine(output.tensor, place)?
    {
        return Err(Error::unsupported(place, "another scale or zero point for its output"));
    }
    lowering.count_macs(shape.iter().chain(&size).fold(1u64, |product, n| product.saturating_mul(*n as u64)));
    let pooling = Pooling { size, stride: sliding.stride, before };
    let to = Images::of(output.tensor, place)?;
    Ok((Over { input: input.value, from, output: output.value, to, pooling }, affine))
}

/// Where windows begin, and how many there are.
fn windows(
    from: Images,
    size: [usize; 2],
    sliding: Sliding,
    place: &str,
) -> Result<([usize; 2], [usize; 2]), Error> {
    let (lens, mut first, mut positions) = ([from.plane.height, from.plane.width], [0; 2], [0; 2]);
    for axis in 0..2 {
        let (len, stride) = (lens[axis], sliding.stride[axis]);
        let padded = match sliding.padding {
            Padding::Same => {
                first[axis] = same_padding(len, size[axis], stride).1;
                positions[axis] = len.div_ceil(stride);
                continue;
            }
            Padding::Valid => len,
            Padding::Explicit { before, after } => {
                if before[axis] >= size[axis] || after[axis] >= size[axis] {
                    return Err(Error::malformed(place, "a window may lie wholly in what is padded"));
                }
                first[axis] = before[axis];
                len.saturating_add(before[axis]).saturating_add(after[axis])
            }
        };
        let room = padded.checked_sub(size[axis]);
        let room = room.ok_or_else(|| Error::malformed(place, "its window is larger than the image"))?;
        positions[axis] = room / stride + 1;
    }
    Ok((first, positions))
}

/// MAX_POOL_2D. Of bytes the largest is that of the numbers they stand for, so scale and zero point stay.
pub fn max(
    lowering: &mut Lowering<'_>,
    node: &Node,
    place: &str,
    size: [usize; 2],
    sliding: Sliding,
    activation: Activation,
) -> Result<(), Error> {
    if sliding.dilation != [1, 1] {
        return Err(Error::unsupported(place, "dilated windows"));
    }
    let (over, affine) = over(lowering, node, place, size, sliding)?;
    let range = match affine {
        Some(affine) => MaxRange::Bytes(affine.range(activation)),
        None => MaxRange::Floats(activation.range()),
    };
    lowering.push(MaxStep { over, range }, &[over.input, over.output]);
    Ok(())
}

/// Between which results are kept.
#[derive(Clone, Copy)]
enum MaxRange {
    Bytes((u8, u8)),
    Floats((f32, f32)),
}

struct MaxStep {
    over: Over,
    range: MaxRange,
}

impl Step for MaxStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, isa: Isa) {
        let ([input, _], output) = memory.three([self.over.input; 2], self.over.output);
        match self.range {
            MaxRange::Bytes(range) => self.images(input, output, isa, (u8::MIN, range), u8::max),
            MaxRange::Floats(range) => {
                // What is no number stays none.
                let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
                self.images(floats(input), floats_mut(output), isa, (f32::NEG_INFINITY, range), larger);
            }
        }
    }
}

impl MaxStep {
    /// `least` is what nothing is below.
    fn images<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        isa: Isa,
        (least, range): (T, (T, T)),
        larger: impl Fn(T, T) -> T + Copy,
    ) {
        let images = input.chunks_exact(self.over.from.plane.len());
        for (image, output) in images.zip(output.chunks_exact_mut(self.over.to.plane.len())) {
            isa.vectorize(MaxTask { over: self.over, image, output, least, range, larger });
        }
    }
}

/// Channels that are looked at side by side. Small networks have few: longer vectors would leave most to be done one by one.
const LANES: usize = 16;

/// What has a largest.
trait Element: Copy {
    fn kept_in(self, range: (Self, Self)) -> Self;
}

impl Element for u8 {
    #[inline(always)]
    fn kept_in(self, (low, high): (u8, u8)) -> u8 {
        self.clamp(low, high)
    }
}

impl Element for f32 {
    #[inline(always)]
    fn kept_in(self, (low, high): (f32, f32)) -> f32 {
        self.clamp(low, high)
    }
}

struct MaxTask<'a, T, F> {
    over: Over,
    image: &'a [T],
    output: &'a mut [T],
    least: T,
    range: (T, T),
    larger: F,
}

impl<T: Element, F: Fn(T, T) -> T> Vectorized for MaxTask<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Over { from, to, pooling, .. } = self.over;
        let (from, channels) = (from.plane, from.plane.channels);
        let span = |axis: usize, position: usize, len: usize| {
            let start = position * pooling.stride[axis];
            let end = (start + pooling.size[axis]).saturating_sub(pooling.before[axis]).min(len);
            start.saturating_sub(pooling.before[axis])..end
        };
        let rows = self.output.chunks_exact_mut(to.plane.width * channels).enumerate();
        for (row, output) in rows {
            let ys = span(0, row, from.height);
            for (column, pixel) in output.chunks_exact_mut(channels).enumerate() {
                let xs = span(1, column, from.width);
                // Whole lanes first; the last ones overlap what is done, and find the same again.
                let mut channel = 0;
                while channels >= LANES && channel < channels {
                    let start = channel.min(channels - LANES);
                    let mut largest = [self.least; LANES];
                    for y in ys.clone() {
                        for x in xs.clone() {
                            let at = (y * from.width + x) * channels + start;
                            let other: &[T; LANES] =
                                self.image[at..].first_chunk().expect("inside the image");
                            for (largest, other) in largest.iter_mut().zip(other) {
                                *largest = (self.larger)(*largest, *other);
                            }
                        }
                    }
                    let largest = largest.map(|x| x.kept_in(self.range));
                    pixel[start..start + LANES].copy_from_slice(&largest);
                    channel += LANES;
                }
                for (channel, pixel) in pixel.iter_mut().enumerate().skip(channel) {
                    let all = ys.clone().flat_map(|y| xs.clone().map(move |x| y * from.width + x));
                    let largest = all.fold(self.least, |largest, at| {
                        (self.larger)(largest, self.image[at * channels + channel])
                    });
                    *pixel = largest.kept_in(self.range);
                }
            }
        }
    }
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
    let over = Over { input: input.value, from, output: output.value, to, pooling };
    lowering.push(MeanStep { over, mean }, &[over.input, over.output]);
    Ok(())
}

enum Mean {
    Rounded { range: (u8, u8) },
    Requantised { zero: u8, requant: Requant },
    Floats { range: (f32, f32) },
}

struct MeanStep {
    over: Over,
    mean: Mean,
}

impl Step for MeanStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, isa: Isa) {
        let (from, to) = (self.over.from.plane, self.over.to.plane);
        let ([input, _], output) = memory.three([self.over.input; 2], self.over.output);
        let mean = match &self.mean {
            Mean::Rounded { range } => Mean8::Rounded { range: *range },
            Mean::Requantised { zero, requant } => Mean8::Requantised { zero: *zero, requant },
            Mean::Floats { range } => {
                let images = floats(input).chunks_exact(from.len());
                for (image, output) in images.zip(floats_mut(output).chunks_exact_mut(to.len())) {
                    mean32(isa, (image, from), self.over.pooling, *range, (output, to));
                }
                return;
            }
        };
        for (image, output) in input.chunks_exact(from.len()).zip(output.chunks_exact_mut(to.len())) {
            mean8(isa, (image, from), self.over.pooling, mean, (output, to));
        }
    }
}
