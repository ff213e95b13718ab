//! Sums, means and extremes over some dimensions, of floats.

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::{Isa, Pool};

use super::elementwise::only_floats;
use crate::error::Error;
use crate::graph::{ElementType, Node, Reduction};
use crate::network::Step;
use crate::network::lower::Lowering;
use crate::network::memory::{Memory, ValueId};
use crate::network::walk::{Walk, dense_strides};

/// Reduces the dimensions `axes`.
pub fn reduce(
    lowering: &mut Lowering<'_>,
    node: &Node,
    place: &str,
    (reduction, axes, keeps_dims): (Reduction, &[usize], bool),
) -> Result<(), Error> {
    let input = lowering.any_operand(node, 0, place)?;
    only_floats(input.tensor.element_type, place)?;
    let shape = &input.tensor.shape;
    if axes.iter().any(|axis| *axis >= shape.len()) {
        return Err(Error::malformed(place, format!("dimensions {axes:?} of {}", shape.len())));
    }
    let is_reduced = |axis: &usize| axes.contains(axis);
    let kept: Vec<usize> = (0..shape.len()).filter(|axis| !is_reduced(axis)).collect();
    let gone: Vec<usize> = (0..shape.len()).filter(is_reduced).collect();
    let to: Vec<usize> = if keeps_dims {
        (0..shape.len()).map(|axis| if is_reduced(&axis) { 1 } else { shape[axis] }).collect()
    } else {
        kept.iter().map(|axis| shape[*axis]).collect()
    };
    let strides = dense_strides(shape);
    let walk = |axes: &[usize]| {
        let dims: Vec<usize> = axes.iter().map(|axis| shape[*axis]).collect();
        Walk::new(&dims, &[axes.iter().map(|axis| strides[*axis]).collect()])
    };
    let output = lowering.output(node, &to, ElementType::F32, place)?;
    let n: usize = gone.iter().map(|axis| shape[*axis]).product();
    let (outer, inner) = (walk(&kept), walk(&gone));
    let step = ReduceStep { reduction, n, outer, inner, input: input.value, output: output.value };
    lowering.push(step, &[input.value, output.value]);
    Ok(())
}

struct ReduceStep {
    reduction: Reduction,
    /// Elements that become one.
    n: usize,
    outer: Walk<1>,
    inner: Walk<1>,
    input: ValueId,
    output: ValueId,
}

impl Step for ReduceStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, _: Isa) {
        let ([input, _], output) = memory.three([self.input; 2], self.output);
        let (input, mut output) = (floats(input), floats_mut(output).iter_mut());
        let [outer_stride] = self.outer.row_strides();
        self.outer.rows(|[at]| {
            for i in 0..self.outer.row_len() {
                let result = self.one(&input[at + i * outer_stride..]);
                *output.next().expect("as many as the output has") = result;
            }
        });
    }
}

impl ReduceStep {
    /// Of the elements that begin here. Sums are kept in double precision.
    fn one(&self, input: &[f32]) -> f32 {
        let sum = |f: &dyn Fn(f64) -> f64| self.fold(input, 0.0, |sum, x| sum + f(f64::from(x)));
        match self.reduction {
            Reduction::Sum => sum(&|x| x) as f32,
            Reduction::Mean => (sum(&|x| x) / self.n as f64) as f32,
            Reduction::SumSquare => sum(&|x| x * x) as f32,
            Reduction::L1 => sum(&f64::abs) as f32,
            Reduction::L2 => sum(&|x| x * x).sqrt() as f32,
            Reduction::Prod => self.fold(input, 1.0, |product, x| product * f64::from(x)) as f32,
            Reduction::Max => self.fold(input, f64::NEG_INFINITY, |max, x| max.max(f64::from(x))) as f32,
            Reduction::Min => self.fold(input, f64::INFINITY, |min, x| min.min(f64::from(x))) as f32,
        }
    }

    #[inline]
    fn fold(&self, input: &[f32], start: f64, f: impl Fn(f64, f32) -> f64) -> f64 {
        let (mut sum, n, [stride]) = (start, self.inner.row_len(), self.inner.row_strides());
        self.inner.rows(|[at]| {
            for i in 0..n {
                sum = f(sum, input[at + i * stride]);
            }
        });
        sum
    }
}
