//! Choices that are made while the network runs: rows of a table by their indices, one of two elements by a truth value.
//!
//! Indices and truth values are floats here, as all that is computed; whole numbers up to 2^24 are exact.

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::{Isa, Pool};

use super::elementwise::only_floats;
use crate::error::Error;
use crate::graph::{Constant, ElementType, Node};
use crate::network::Step;
use crate::network::lower::Lowering;
use crate::network::memory::{Memory, ValueId};
use crate::network::walk::{Walk, broadcast, broadcast_strides};

/// GATHER. A constant table is read where the file has it: of a vocabulary's vectors a run wants a few.
pub fn gather(lowering: &mut Lowering<'_>, node: &Node, place: &str, axis: usize) -> Result<(), Error> {
    let indices = lowering.any_operand(node, 1, place)?;
    only_floats(indices.tensor.element_type, place)?;
    let (tensor, table) = match lowering.constant(node, 0, place) {
        Ok(Some((tensor, constant))) => {
            lowering.reserve(Some(constant.bytes().len()))?;
            (tensor, Table::Constant(constant.clone()))
        }
        _ => {
            let operand = lowering.operand(node, 0, place)?;
            (operand.tensor, Table::Value(operand.value))
        }
    };
    only_floats(tensor.element_type, place)?;
    let (Some(outer), Some(len)) = (tensor.shape.get(..axis), tensor.shape.get(axis)) else {
        let what = format!("there is no dimension {axis} of {}", tensor.shape.len());
        return Err(Error::malformed(place, what));
    };
    let inner = &tensor.shape[axis + 1..];
    let shape = [outer, &indices.tensor.shape, inner].concat();
    let output = lowering.output(node, &shape, ElementType::F32, place)?;
    let step = GatherStep {
        len: *len,
        n_inner: inner.iter().product(),
        indices: indices.value,
        output: output.value,
        table,
    };
    let mut values = vec![step.indices, step.output];
    if let Table::Value(value) = step.table {
        values.push(value);
    }
    lowering.push(step, &values);
    Ok(())
}

/// What is chosen from.
enum Table {
    Value(ValueId),
    Constant(Constant),
}

struct GatherStep {
    table: Table,
    /// Of the dimension that indices are of.
    len: usize,
    /// Elements of what an index chooses.
    n_inner: usize,
    indices: ValueId,
    output: ValueId,
}

impl GatherStep {
    /// Calls `copy` for each part of the output, with where it begins in the table, elements.
    fn each(&self, indices: &[f32], output: &mut [f32], copy: impl Fn(usize, &mut [f32])) {
        let per_outer = indices.len() * self.n_inner;
        for (outer, output) in output.chunks_exact_mut(per_outer).enumerate() {
            for (index, output) in indices.iter().zip(output.chunks_exact_mut(self.n_inner)) {
                let from_end = if *index < 0.0 { *index + self.len as f32 } else { *index };
                if from_end >= 0.0 && from_end < self.len as f32 {
                    copy((outer * self.len + from_end as usize) * self.n_inner, output);
                } else {
                    output.fill(f32::NAN);
                }
            }
        }
    }
}

impl Step for GatherStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, _: Isa) {
        match &self.table {
            Table::Value(table) => {
                let ([table, indices], output) = memory.three([*table, self.indices], self.output);
                let table = floats(table);
                self.each(floats(indices), floats_mut(output), |at, to| {
                    to.copy_from_slice(&table[at..][..to.len()]);
                });
            }
            Table::Constant(constant) => {
                let ([indices, _], output) = memory.three([self.indices; 2], self.output);
                let table = constant.bytes().as_chunks().0;
                self.each(floats(indices), floats_mut(output), |at, to| {
                    for (y, bytes) in to.iter_mut().zip(&table[at..]) {
                        *y = f32::from_le_bytes(*bytes);
                    }
                });
            }
        }
    }
}

/// SELECT_V2: what is true is taken from the second input, what is not from the third.
pub fn select(lowering: &mut Lowering<'_>, node: &Node, place: &str) -> Result<(), Error> {
    let mut operands = Vec::new();
    for idx in 0..3 {
        let operand = lowering.any_operand(node, idx, place)?;
        only_floats(operand.tensor.element_type, place)?;
        operands.push(operand);
    }
    let [condition, yes, no] = operands.as_slice() else { unreachable!("three were asked for") };
    let shapes = [condition, yes, no].map(|operand| operand.tensor.shape.as_slice());
    let shape = broadcast(shapes[0], shapes[1]).and_then(|shape| broadcast(&shape, shapes[2]));
    let shape = shape.ok_or_else(|| Error::malformed(place, format!("shapes {shapes:?} do not fit")))?;
    let output = lowering.output(node, &shape, ElementType::F32, place)?;
    // One after the other: a step sees two values and writes one.
    for (from, is_wanted) in [(yes, true), (no, false)] {
        let strides = [condition, from].map(|operand| broadcast_strides(&operand.tensor.shape, &shape));
        let step = SelectStep {
            walk: Walk::new(&shape, &strides),
            is_wanted,
            inputs: [condition.value, from.value],
            output: output.value,
        };
        lowering.push(step, &[condition.value, from.value, output.value]);
    }
    Ok(())
}

/// Writes the elements whose condition is as wanted.
struct SelectStep {
    /// Over the condition and what is taken.
    walk: Walk<2>,
    is_wanted: bool,
    inputs: [ValueId; 2],
    output: ValueId,
}

impl Step for SelectStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, _: Isa) {
        let ([condition, from], output) = memory.three(self.inputs, self.output);
        let (condition, from) = (floats(condition), floats(from));
        let mut rows = floats_mut(output).chunks_exact_mut(self.walk.row_len());
        let [by_condition, by_from] = self.walk.row_strides();
        self.walk.rows(|[at_condition, at_from]| {
            let row = rows.next().expect("as many rows as the output has");
            for (i, y) in row.iter_mut().enumerate() {
                if (condition[at_condition + i * by_condition] != 0.0) == self.is_wanted {
                    *y = from[at_from + i * by_from];
                }
            }
        });
    }
}
