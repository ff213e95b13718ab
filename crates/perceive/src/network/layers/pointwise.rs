//! ADD and PAD.

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::net::{Add8, add32, pad as pad_image};
use edgeward_kernels::{Isa, Pool};

use crate::error::Error;
use crate::graph::{Activation, Binary, ElementType, Node, Pick, checked_size};
use crate::network::Step;
use crate::network::lower::{Images, Lowering};
use crate::network::memory::{Memory, ValueId};

/// ADD of two tensors of one shape.
pub fn add(
    lowering: &mut Lowering<'_>,
    node: &Node,
    place: &str,
    activation: Activation,
) -> Result<(), Error> {
    let [a, b] = [lowering.any_operand(node, 0, place)?, lowering.any_operand(node, 1, place)?];
    let are_floats = [a, b].iter().all(|operand| operand.tensor.element_type == ElementType::F32);
    if are_floats && a.tensor.shape != b.tensor.shape && activation == Activation::None {
        return super::elementwise::binary(lowering, node, place, Binary::Add);
    }
    if a.tensor.shape != b.tensor.shape || a.tensor.element_type != b.tensor.element_type {
        let what = format!("shapes {:?} and {:?}, or different types", a.tensor.shape, b.tensor.shape);
        return Err(Error::unsupported(place, what));
    }
    let output = lowering.output(node, &a.tensor.shape, a.tensor.element_type, place)?;
    let (inputs, output_value) = ([a.value, b.value], output.value);
    if a.tensor.element_type == ElementType::I8 {
        let [a, b] = [lowering.affine(a.tensor, place)?, lowering.affine(b.tensor, place)?];
        let to = lowering.affine(output.tensor, place)?;
        let (scales, zeros) = ([a.scale, b.scale, to.scale], [a.zero, b.zero, to.zero]);
        let kernel = Add8::new(lowering.rounding(), scales, zeros, to.range(activation))
            .ok_or_else(|| Error::unsupported(place, format!("scales {scales:?}")))?;
        lowering
            .push(AddStep8 { kernel, inputs, output: output_value }, &[inputs[0], inputs[1], output_value]);
    } else {
        let step = AddStep32 { range: activation.range(), inputs, output: output_value };
        lowering.push(step, &[inputs[0], inputs[1], output_value]);
    }
    Ok(())
}

/// PAD of images with zeros.
pub fn pad(lowering: &mut Lowering<'_>, node: &Node, place: &str) -> Result<(), Error> {
    let input = lowering.operand(node, 0, place)?;
    let paddings = node.inputs[1].and_then(|id| lowering.known(id));
    let paddings = paddings.ok_or_else(|| Error::unsupported(place, "paddings computed while it runs"))?;
    let &[0, 0, top, bottom, left, right, 0, 0] = paddings.values.as_slice() else {
        return pad_any(lowering, node, place, &paddings.values);
    };
    let from = Images::of(input.tensor, place)?;
    let sides = [top, bottom, left, right].map(|n| usize::try_from(n).ok());
    let [Some(top), Some(bottom), Some(left), Some(right)] = sides else {
        return Err(Error::malformed(place, format!("paddings {:?}", paddings.values)));
    };
    let [n, height, width, channels] = from.shape();
    let shape = [n, height.saturating_add(top + bottom), width.saturating_add(left + right), channels];
    if checked_size(&shape, input.tensor.element_type).is_none() {
        return Err(Error::malformed(place, "its result is beyond any memory"));
    }
    let output = lowering.output(node, &shape, input.tensor.element_type, place)?;
    let filling = match input.tensor.element_type {
        ElementType::I8 => {
            let affine = lowering.affine(input.tensor, place)?;
            if affine != lowering.affine(output.tensor, place)? {
                return Err(Error::unsupported(place, "another scale or zero point for its output"));
            }
            Filling::Byte(affine.zero)
        }
        _ => Filling::Float,
    };
    let to = Images::of(output.tensor, place)?;
    let step = PadStep { input: input.value, from, output: output.value, to, before: [top, left], filling };
    lowering.push(step, &[input.value, output.value]);
    Ok(())
}

/// PAD of any dimensions.
fn pad_any(lowering: &mut Lowering<'_>, node: &Node, place: &str, paddings: &[i32]) -> Result<(), Error> {
    let shape = &lowering.operand(node, 0, place)?.tensor.shape;
    let (pairs, rest) = paddings.as_chunks::<2>();
    if pairs.len() != shape.len() || !rest.is_empty() {
        return Err(Error::malformed(place, format!("paddings {paddings:?} for shape {shape:?}")));
    }
    let mut to = shape.clone();
    let mut sides = Vec::new();
    for ([before, after], dim) in pairs.iter().zip(&mut to) {
        let (Ok(before), Ok(after)) = (usize::try_from(*before), usize::try_from(*after)) else {
            return Err(Error::malformed(place, format!("paddings {paddings:?}")));
        };
        *dim = dim.saturating_add(before).saturating_add(after);
        sides.push((before, after));
    }
    // Before anything of that length is made.
    if checked_size(&to, ElementType::F32).is_none_or(|bytes| bytes as u64 > lowering.limit_bytes()) {
        return Err(Error::malformed(place, "its result is beyond any memory"));
    }
    let pick = |((before, after), len): (&(usize, usize), &usize)| {
        let nothing = |n: &usize| std::iter::repeat_n(None, *n);
        Pick::These(nothing(before).chain((0..*len).map(Some)).chain(nothing(after)).collect())
    };
    let picks: Vec<Pick> = sides.iter().zip(shape).map(pick).collect();
    super::rearrange::take(lowering, node, place, &picks, 0.0)
}

/// Zero, as elements have it.
#[derive(Clone, Copy)]
pub enum Filling {
    /// A zero point.
    Byte(u8),
    /// 0.0.
    Float,
}

/// Puts images into larger ones.
pub struct PadStep {
    pub input: ValueId,
    pub from: Images,
    pub output: ValueId,
    pub to: Images,
    /// Rows above, columns to the left.
    pub before: [usize; 2],
    pub filling: Filling,
}

impl PadStep {
    fn each<T: Copy>(&self, input: &[T], filling: T, output: &mut [T]) {
        let (from, to) = (self.from.plane, self.to.plane);
        for (input, output) in input.chunks_exact(from.len()).zip(output.chunks_exact_mut(to.len())) {
            pad_image((input, from), filling, (self.before[0], self.before[1]), (output, to));
        }
    }
}

impl Step for PadStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, _: Isa) {
        let (input, output) = memory.pair(self.input, self.output);
        match self.filling {
            Filling::Byte(zero) => self.each(input, zero, output),
            Filling::Float => self.each(floats(input), 0.0, floats_mut(output)),
        }
    }
}

struct AddStep8 {
    kernel: Add8,
    inputs: [ValueId; 2],
    output: ValueId,
}

impl Step for AddStep8 {
    fn run(&self, memory: &mut Memory, _: &mut Pool, isa: Isa) {
        let ([a, b], output) = memory.three(self.inputs, self.output);
        self.kernel.run(isa, a, b, output);
    }
}

struct AddStep32 {
    range: (f32, f32),
    inputs: [ValueId; 2],
    output: ValueId,
}

impl Step for AddStep32 {
    fn run(&self, memory: &mut Memory, _: &mut Pool, isa: Isa) {
        let ([a, b], output) = memory.three(self.inputs, self.output);
        add32(isa, floats(a), floats(b), self.range, floats_mut(output));
    }
}
