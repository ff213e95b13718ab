//! Functions of one number and of two, element by element, on floats of any shape; on bytes those of one are tables
//! ([`super::table`]).
//!
//! Exponentials and their kin come from the crate `libm`: the same bits on every system.

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::{Isa, Pool, Vectorized};

use super::table;
use crate::error::Error;
use crate::graph::{Binary, ElementType, Node, Unary};
use crate::network::Step;
use crate::network::lower::Lowering;
use crate::network::memory::{Memory, ValueId};
use crate::network::walk::{Walk, broadcast, broadcast_strides};

/// A function of one number.
pub fn unary(lowering: &mut Lowering<'_>, node: &Node, place: &str, function: Unary) -> Result<(), Error> {
    let input = lowering.any_operand(node, 0, place)?;
    if input.tensor.element_type == ElementType::I8
        && let Some(function) = table::on_bytes(function)
    {
        return table::function(lowering, node, place, function);
    }
    only_floats(input.tensor.element_type, place)?;
    let output = lowering.output(node, &input.tensor.shape, ElementType::F32, place)?;
    let step = UnaryStep { function, input: input.value, output: output.value };
    lowering.push(step, &[input.value, output.value]);
    Ok(())
}

/// A function of two.
pub fn binary(lowering: &mut Lowering<'_>, node: &Node, place: &str, function: Binary) -> Result<(), Error> {
    let [a, b] = [lowering.any_operand(node, 0, place)?, lowering.any_operand(node, 1, place)?];
    only_floats(a.tensor.element_type, place)?;
    only_floats(b.tensor.element_type, place)?;
    let shape = broadcast(&a.tensor.shape, &b.tensor.shape).ok_or_else(|| {
        Error::malformed(place, format!("shapes {:?} and {:?} do not fit", a.tensor.shape, b.tensor.shape))
    })?;
    let output = lowering.output(node, &shape, ElementType::F32, place)?;
    let walk = Walk::new(
        &shape,
        &[broadcast_strides(&a.tensor.shape, &shape), broadcast_strides(&b.tensor.shape, &shape)],
    );
    let step = BinaryStep { function, walk, inputs: [a.value, b.value], output: output.value };
    lowering.push(step, &[a.value, b.value, output.value]);
    Ok(())
}

/// # Errors
/// If elements are others.
pub fn only_floats(element_type: ElementType, place: &str) -> Result<(), Error> {
    match element_type {
        ElementType::F32 => Ok(()),
        other => Err(Error::unsupported(place, format!("elements of type {other}"))),
    }
}

impl Unary {
    /// Calls `run` with the function: each gets loops of its own.
    #[inline(always)]
    fn with(self, mut run: impl Loop) {
        match self {
            Unary::Abs => run.each(f32::abs),
            Unary::Neg => run.each(|x| -x),
            Unary::Sign => run.each(|x| {
                if x > 0.0 {
                    1.0
                } else if x < 0.0 {
                    -1.0
                } else {
                    x
                }
            }),
            Unary::Reciprocal => run.each(|x| 1.0 / x),
            Unary::Sqrt => run.each(f32::sqrt),
            Unary::Square => run.each(|x| x * x),
            Unary::Floor => run.each(f32::floor),
            Unary::Ceil => run.each(f32::ceil),
            Unary::Trunc => run.each(f32::trunc),
            Unary::Round => run.each(f32::round_ties_even),
            Unary::Exp => run.each(libm::expf),
            Unary::Log => run.each(libm::logf),
            Unary::Sin => run.each(libm::sinf),
            Unary::Cos => run.each(libm::cosf),
            Unary::Tanh => run.each(libm::tanhf),
            Unary::Erf => run.each(libm::erff),
            Unary::Gelu => {
                run.each(|x| 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)));
            }
            Unary::Sigmoid => run.each(sigmoid),
            // log(1 + e^x), without overflow.
            Unary::Softplus => run.each(|x| x.max(0.0) + libm::log1pf(libm::expf(-x.abs()))),
            Unary::Softsign => run.each(|x| x / (1.0 + x.abs())),
            Unary::Clip { low, high } => run.each(|x| x.max(low).min(high)),
            Unary::LeakyRelu { alpha } => run.each(|x| if x < 0.0 { alpha * x } else { x }),
            Unary::Elu { alpha } => run.each(|x| if x < 0.0 { alpha * libm::expm1f(x) } else { x }),
            Unary::HardSigmoid { alpha, beta } => run.each(|x| (alpha * x + beta).clamp(0.0, 1.0)),
            Unary::HardSwish => run.each(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        }
    }
}

/// 1 or 0.
#[inline]
fn truth(is_true: bool) -> f32 {
    if is_true { 1.0 } else { 0.0 }
}

/// 1 / (1 + e^-x).
#[inline]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-x))
}

/// A loop that takes a function.
trait Loop {
    fn each(&mut self, f: impl Fn(f32) -> f32);
}

struct UnaryLoop<'a> {
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Loop for UnaryLoop<'_> {
    #[inline(always)]
    fn each(&mut self, f: impl Fn(f32) -> f32) {
        for (y, x) in self.output.iter_mut().zip(self.input) {
            *y = f(*x);
        }
    }
}

struct UnaryTask<'a> {
    function: Unary,
    run: UnaryLoop<'a>,
}

impl Vectorized for UnaryTask<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        self.function.with(self.run);
    }
}

struct UnaryStep {
    function: Unary,
    input: ValueId,
    output: ValueId,
}

impl Step for UnaryStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, isa: Isa) {
        let ([input, _], output) = memory.three([self.input; 2], self.output);
        let run = UnaryLoop { input: floats(input), output: floats_mut(output) };
        isa.vectorize(UnaryTask { function: self.function, run });
    }
}

struct BinaryStep {
    function: Binary,
    walk: Walk<2>,
    inputs: [ValueId; 2],
    output: ValueId,
}

impl Step for BinaryStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, isa: Isa) {
        let ([a, b], output) = memory.three(self.inputs, self.output);
        let (a, b, output) = (floats(a), floats(b), floats_mut(output));
        isa.vectorize(BinaryTask { function: self.function, walk: &self.walk, a, b, output });
    }
}

struct BinaryTask<'a> {
    function: Binary,
    walk: &'a Walk<2>,
    a: &'a [f32],
    b: &'a [f32],
    output: &'a mut [f32],
}

impl Vectorized for BinaryTask<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        match self.function {
            Binary::Add => self.each(|a, b| a + b),
            Binary::Sub => self.each(|a, b| a - b),
            Binary::Mul => self.each(|a, b| a * b),
            Binary::Div => self.each(|a, b| a / b),
            Binary::Pow => self.each(|a, b| if b == 2.0 { a * a } else { libm::powf(a, b) }),
            Binary::Min => self.each(|a, b| if a < b || a.is_nan() { a } else { b }),
            Binary::Max => self.each(|a, b| if a > b || a.is_nan() { a } else { b }),
            Binary::PRelu => self.each(|x, slope| if x < 0.0 { slope * x } else { x }),
            Binary::Equal => self.each(|a, b| truth(a == b)),
            Binary::NotEqual => self.each(|a, b| truth(a != b)),
            Binary::Less => self.each(|a, b| truth(a < b)),
            Binary::LessOrEqual => self.each(|a, b| truth(a <= b)),
            Binary::Greater => self.each(|a, b| truth(a > b)),
            Binary::GreaterOrEqual => self.each(|a, b| truth(a >= b)),
        }
    }
}

impl BinaryTask<'_> {
    #[inline(always)]
    fn each(self, f: impl Fn(f32, f32) -> f32) {
        let BinaryTask { walk, a, b, output, .. } = self;
        let n = walk.row_len();
        let strides = walk.row_strides();
        let mut rows = output.chunks_exact_mut(n);
        walk.rows(|[at_a, at_b]| {
            let row = rows.next().expect("as many rows as the output has");
            match strides {
                [1, 1] => {
                    for ((y, a), b) in row.iter_mut().zip(&a[at_a..][..n]).zip(&b[at_b..][..n]) {
                        *y = f(*a, *b);
                    }
                }
                [1, 0] => {
                    let b = b[at_b];
                    for (y, a) in row.iter_mut().zip(&a[at_a..][..n]) {
                        *y = f(*a, b);
                    }
                }
                [0, 1] => {
                    let a = a[at_a];
                    for (y, b) in row.iter_mut().zip(&b[at_b..][..n]) {
                        *y = f(a, *b);
                    }
                }
                [by_a, by_b] => {
                    for (i, y) in row.iter_mut().enumerate() {
                        *y = f(a[at_a + i * by_a], b[at_b + i * by_b]);
                    }
                }
            }
        });
    }
}
