//! SOFTMAX over the last dimension.

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::net::{Softmax8, softmax32};
use edgeward_kernels::{Isa, Pool};

use crate::error::Error;
use crate::graph::{ElementType, Node};
use crate::network::Step;
use crate::network::lower::{Affine, Lowering};
use crate::network::memory::{Memory, ValueId};

/// SOFTMAX.
pub fn softmax(lowering: &mut Lowering<'_>, node: &Node, place: &str, beta: f32) -> Result<(), Error> {
    let input = lowering.operand(node, 0, place)?;
    let output = lowering.output(node, &input.tensor.shape, input.tensor.element_type, place)?;
    let kernel = match input.tensor.element_type {
        ElementType::I8 => {
            let expected = Affine { scale: 1.0 / Softmax8::STEPS, zero: 0 };
            if lowering.affine(output.tensor, place)? != expected {
                return Err(Error::unsupported(
                    place,
                    "an output scale other than 1/256, or zero point than -128",
                ));
            }
            Softmax::Bytes(Softmax8::new(lowering.affine(input.tensor, place)?.scale, beta))
        }
        _ => Softmax::Floats { beta },
    };
    let row_len = input.tensor.shape.last().copied().unwrap_or(1);
    let step = SoftmaxStep { kernel, row_len, input: input.value, output: output.value };
    lowering.push(step, &[input.value, output.value]);
    Ok(())
}

enum Softmax {
    Bytes(Softmax8),
    Floats { beta: f32 },
}

struct SoftmaxStep {
    kernel: Softmax,
    row_len: usize,
    input: ValueId,
    output: ValueId,
}

impl Step for SoftmaxStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, isa: Isa) {
        let ([input, _], output) = memory.three([self.input; 2], self.output);
        match &self.kernel {
            Softmax::Bytes(kernel) => {
                let rows = input.chunks_exact(self.row_len).zip(output.chunks_exact_mut(self.row_len));
                rows.for_each(|(row, output)| kernel.run(isa, row, output));
            }
            Softmax::Floats { beta } => {
                let rows = floats(input).chunks_exact(self.row_len);
                for (row, output) in rows.zip(floats_mut(output).chunks_exact_mut(self.row_len)) {
                    softmax32(isa, row, *beta, output);
                }
            }
        }
    }
}
