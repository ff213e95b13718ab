//! Products of matrices that are both computed while the network runs, or have more than two dimensions.
//!
//! Products with a constant matrix are fully connected layers, whose weights are laid out beforehand (`conv.rs`).

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::{Isa, Pool, Vectorized};

use super::elementwise::only_floats;
use crate::error::Error;
use crate::graph::{ElementType, Node};
use crate::network::Step;
use crate::network::lower::Lowering;
use crate::network::memory::{Memory, ValueId};
use crate::network::walk::{Walk, broadcast, broadcast_strides};

/// `[.., m, k]` by `[.., k, n]`; the dimensions before are broadcast.
pub fn matmul(lowering: &mut Lowering<'_>, node: &Node, place: &str) -> Result<(), Error> {
    let [a, b] = [lowering.any_operand(node, 0, place)?, lowering.any_operand(node, 1, place)?];
    only_floats(a.tensor.element_type, place)?;
    only_floats(b.tensor.element_type, place)?;
    let misfit = || {
        Error::malformed(place, format!("shapes {:?} and {:?} do not fit", a.tensor.shape, b.tensor.shape))
    };
    let (Some((a_batch, [m, k])), Some((b_batch, [rows, n]))) =
        (a.tensor.shape.split_last_chunk::<2>(), b.tensor.shape.split_last_chunk::<2>())
    else {
        return Err(misfit());
    };
    if rows != k {
        return Err(misfit());
    }
    let batch = broadcast(a_batch, b_batch).ok_or_else(misfit)?;
    let shape = [&batch[..], &[*m, *n]].concat();
    let output = lowering.output(node, &shape, ElementType::F32, place)?;
    let scaled = |from: &[usize], by: usize| -> Vec<usize> {
        broadcast_strides(from, &batch).iter().map(|stride| stride * by).collect()
    };
    let walk = Walk::new(&batch, &[scaled(a_batch, m * k), scaled(b_batch, k * n)]);
    let macs = shape.iter().fold(*k as u64, |product, dim| product.saturating_mul(*dim as u64));
    lowering.count_macs(macs);
    let step = MatMulStep { walk, dims: [*m, *k, *n], inputs: [a.value, b.value], output: output.value };
    lowering.push(step, &[a.value, b.value, output.value]);
    Ok(())
}

struct MatMulStep {
    /// Over the matrices.
    walk: Walk<2>,
    dims: [usize; 3],
    inputs: [ValueId; 2],
    output: ValueId,
}

impl Step for MatMulStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, isa: Isa) {
        let ([a, b], output) = memory.three(self.inputs, self.output);
        let (a, b) = (floats(a), floats(b));
        let [m, k, n] = self.dims;
        let mut outputs = floats_mut(output).chunks_exact_mut(m * n);
        let [by_a, by_b] = self.walk.row_strides();
        self.walk.rows(|[at_a, at_b]| {
            for i in 0..self.walk.row_len() {
                let (a, b) = (&a[at_a + i * by_a..][..m * k], &b[at_b + i * by_b..][..k * n]);
                let output = outputs.next().expect("as many as the output has");
                isa.vectorize(Product { a, b, output, k, n });
            }
        });
    }
}

struct Product<'a> {
    a: &'a [f32],
    b: &'a [f32],
    output: &'a mut [f32],
    k: usize,
    n: usize,
}

impl Vectorized for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Product { a, b, output, k, n } = self;
        for (a, output) in a.chunks_exact(k).zip(output.chunks_exact_mut(n)) {
            output.fill(0.0);
            for (a, b) in a.iter().zip(b.chunks_exact(n)) {
                for (y, b) in output.iter_mut().zip(b) {
                    *y = a.mul_add(*b, *y);
                }
            }
        }
    }
}
