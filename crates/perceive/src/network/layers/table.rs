//! Functions of bytes, element by element: tables.

use edgeward_kernels::net::{Function8, Table8};
use edgeward_kernels::{Isa, Pool};

use crate::error::Error;
use crate::graph::{ElementType, Node, Unary};
use crate::network::Step;
use crate::network::lower::Lowering;
use crate::network::memory::{Memory, ValueId};

/// What a function is on bytes, where TFLite has it.
pub fn on_bytes(function: Unary) -> Option<Function8> {
    Some(match function {
        Unary::Clip { low, high } => Function8::Clip { low, high },
        Unary::Sigmoid => Function8::Smooth(|x| 1.0 / (1.0 + libm::exp(-x))),
        Unary::Tanh => Function8::Smooth(libm::tanh),
        Unary::Gelu => {
            Function8::Smooth(|x| 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)))
        }
        Unary::LeakyRelu { alpha } => Function8::LeakyRelu { alpha },
        Unary::HardSwish => Function8::HardSwish,
        _ => return None,
    })
}

/// A function of bytes that are computed while the network runs.
pub fn function(
    lowering: &mut Lowering<'_>,
    node: &Node,
    place: &str,
    function: Function8,
) -> Result<(), Error> {
    let input = lowering.operand(node, 0, place)?;
    let output = lowering.output(node, &input.tensor.shape, ElementType::I8, place)?;
    let (from, to) = (lowering.affine(input.tensor, place)?, lowering.affine(output.tensor, place)?);
    let table = Table8::new(function, lowering.rounding(), (from.scale, from.zero), (to.scale, to.zero));
    let table = table.ok_or_else(|| {
        Error::unsupported(place, format!("{function:?} from scale {} to {}", from.scale, to.scale))
    })?;
    let step = TableStep { table, input: input.value, output: output.value };
    lowering.push(step, &[input.value, output.value]);
    Ok(())
}

struct TableStep {
    table: Table8,
    input: ValueId,
    output: ValueId,
}

impl Step for TableStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, _: Isa) {
        let ([input, _], output) = memory.three([self.input; 2], self.output);
        self.table.run(input, output);
    }
}
