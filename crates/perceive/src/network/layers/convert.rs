//! From floats to bytes and back, and from bytes of one scale to those of another.

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::net::Function8;
use edgeward_kernels::{Isa, Pool};

use super::elementwise::only_floats;
use super::table;
use crate::error::Error;
use crate::graph::{ElementType, Node};
use crate::network::Step;
use crate::network::lower::{Affine, Lowering};
use crate::network::memory::{Memory, ValueId};

/// Floats as the output's bytes, ties to even; or bytes, for another scale.
pub fn quantize(lowering: &mut Lowering<'_>, node: &Node, place: &str) -> Result<(), Error> {
    let input = lowering.any_operand(node, 0, place)?;
    if input.tensor.element_type == ElementType::I8 {
        return table::function(lowering, node, place, Function8::Rescale);
    }
    only_floats(input.tensor.element_type, place)?;
    let output = lowering.output(node, &input.tensor.shape, ElementType::I8, place)?;
    let affine = lowering.affine(output.tensor, place)?;
    lowering.push(
        QuantizeStep { affine, input: input.value, output: output.value },
        &[input.value, output.value],
    );
    Ok(())
}

/// Bytes as floats.
pub fn dequantize(lowering: &mut Lowering<'_>, node: &Node, place: &str) -> Result<(), Error> {
    let input = lowering.operand(node, 0, place)?;
    if input.tensor.element_type != ElementType::I8 {
        return Err(Error::unsupported(place, format!("elements of type {}", input.tensor.element_type)));
    }
    let affine = lowering.affine(input.tensor, place)?;
    let output = lowering.output(node, &input.tensor.shape, ElementType::F32, place)?;
    lowering.push(
        DequantizeStep { affine, input: input.value, output: output.value },
        &[input.value, output.value],
    );
    Ok(())
}

struct QuantizeStep {
    affine: Affine,
    input: ValueId,
    output: ValueId,
}

impl Step for QuantizeStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, _: Isa) {
        let ([input, _], output) = memory.three([self.input; 2], self.output);
        let Affine { scale, zero } = self.affine;
        for (byte, x) in output.iter_mut().zip(floats(input)) {
            *byte = ((x / scale).round_ties_even() + f32::from(zero)).clamp(0.0, 255.0) as u8;
        }
    }
}

struct DequantizeStep {
    affine: Affine,
    input: ValueId,
    output: ValueId,
}

impl Step for DequantizeStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, _: Isa) {
        let ([input, _], output) = memory.three([self.input; 2], self.output);
        let Affine { scale, zero } = self.affine;
        for (x, byte) in floats_mut(output).iter_mut().zip(input) {
            *x = scale * (f32::from(*byte) - f32::from(zero));
        }
    }
}
