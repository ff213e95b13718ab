//! Elements in other places: transposed, cut out, repeated, filled up, put side by side. Nothing is computed.

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::{Isa, Pool};

use crate::error::Error;
use crate::graph::{ElementType, MAX_DIMS, Node, Pick};
use crate::network::Step;
use crate::network::lower::{Lowering, Operand};
use crate::network::memory::{Memory, ValueId};
use crate::network::walk::{Walk, dense_strides};

/// TRANSPOSE.
pub fn transpose(lowering: &mut Lowering<'_>, node: &Node, place: &str, perm: &[usize]) -> Result<(), Error> {
    let input = lowering.any_operand(node, 0, place)?;
    let shape = &input.tensor.shape;
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if sorted != (0..shape.len()).collect::<Vec<_>>() {
        return Err(Error::malformed(place, format!("dimensions {perm:?} of {}", shape.len())));
    }
    let strides = dense_strides(shape);
    let to: Vec<usize> = perm.iter().map(|axis| shape[*axis]).collect();
    let output = moved(lowering, node, &to, input, place)?;
    let walk = Walk::new(&to, &[perm.iter().map(|axis| strides[*axis]).collect()]);
    let element_type = input.tensor.element_type;
    lowering.push(
        TransposeStep { walk, element_type, input: input.value, output: output.value },
        &[input.value, output.value],
    );
    Ok(())
}

/// The output of a node that changes places only: of its input's type, scale and zero point.
fn moved<'g>(
    lowering: &mut Lowering<'g>,
    node: &Node,
    shape: &[usize],
    input: Operand<'g>,
    place: &str,
) -> Result<Operand<'g>, Error> {
    let output = lowering.output(node, shape, input.tensor.element_type, place)?;
    lowering.same_scale(input.tensor, output.tensor, place)?;
    Ok(output)
}

struct TransposeStep {
    walk: Walk<1>,
    element_type: ElementType,
    input: ValueId,
    output: ValueId,
}

impl TransposeStep {
    fn copy<T: Copy>(&self, input: &[T], output: &mut [T]) {
        let n = self.walk.row_len();
        let [stride] = self.walk.row_strides();
        let mut rows = output.chunks_exact_mut(n);
        self.walk.rows(|[at]| {
            let row = rows.next().expect("as many rows as the output has");
            if stride == 1 {
                row.copy_from_slice(&input[at..][..n]);
            } else {
                for (i, y) in row.iter_mut().enumerate() {
                    *y = input[at + i * stride];
                }
            }
        });
    }
}

impl Step for TransposeStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, _: Isa) {
        let ([input, _], output) = memory.three([self.input; 2], self.output);
        match self.element_type {
            ElementType::I8 => self.copy(input, output),
            _ => self.copy(floats(input), floats_mut(output)),
        }
    }
}

/// Indices along each dimension, or what stands there instead.
pub fn take(
    lowering: &mut Lowering<'_>,
    node: &Node,
    place: &str,
    picks: &[Pick],
    fill: f32,
) -> Result<(), Error> {
    let input = lowering.any_operand(node, 0, place)?;
    let shape = &input.tensor.shape;
    if picks.len() != shape.len() || shape.is_empty() {
        return Err(Error::malformed(place, format!("{} dimensions of {}", picks.len(), shape.len())));
    }
    let strides = dense_strides(shape);
    let mut to = Vec::new();
    let mut tables = Vec::new();
    for ((pick, len), stride) in picks.iter().zip(shape).zip(&strides) {
        let indices = pick.indices(*len);
        if indices.iter().flatten().any(|idx| idx >= len) {
            return Err(Error::malformed(place, format!("an index beyond its dimension of {len}")));
        }
        to.push(indices.len());
        lowering.reserve(indices.len().checked_mul(size_of::<usize>()))?;
        tables.push(indices.iter().map(|idx| idx.map_or(FILL, |idx| idx * stride)).collect::<Vec<_>>());
    }
    let output = moved(lowering, node, &to, input, place)?;
    let filling = match input.tensor.element_type {
        ElementType::I8 => {
            let affine = lowering.affine(input.tensor, place)?;
            (f32::from(affine.zero) + (fill / affine.scale).round()).clamp(0.0, 255.0)
        }
        _ => fill,
    };
    let element_type = input.tensor.element_type;
    lowering.push(
        TakeStep { tables, filling, element_type, input: input.value, output: output.value },
        &[input.value, output.value],
    );
    Ok(())
}

/// In a table of offsets: nothing of the input.
const FILL: usize = usize::MAX;

struct TakeStep {
    /// For each dimension of the output, where in the input each of its indices leads.
    tables: Vec<Vec<usize>>,
    /// As the type has it.
    filling: f32,
    element_type: ElementType,
    input: ValueId,
    output: ValueId,
}

impl TakeStep {
    fn copy<T: Copy>(&self, input: &[T], filling: T, output: &mut [T]) {
        let (last, outer) = self.tables.split_last().expect("at least one dimension");
        let is_run = last.iter().zip(&last[1..]).all(|(a, b)| *a != FILL && a + 1 == *b);
        let mut at = [0usize; MAX_DIMS];
        for row in output.chunks_exact_mut(last.len()) {
            let offset = outer.iter().zip(&at).try_fold(0usize, |sum, (table, i)| match table[*i] {
                FILL => None,
                offset => Some(sum + offset),
            });
            match offset {
                None => row.fill(filling),
                Some(offset) if is_run && last[0] != FILL => {
                    row.copy_from_slice(&input[offset + last[0]..][..last.len()]);
                }
                Some(offset) => {
                    for (y, i) in row.iter_mut().zip(last) {
                        *y = if *i == FILL { filling } else { input[offset + i] };
                    }
                }
            }
            for (axis, table) in outer.iter().enumerate().rev() {
                at[axis] += 1;
                if at[axis] < table.len() {
                    break;
                }
                at[axis] = 0;
            }
        }
    }
}

impl Step for TakeStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, _: Isa) {
        let ([input, _], output) = memory.three([self.input; 2], self.output);
        match self.element_type {
            ElementType::I8 => self.copy(input, self.filling as u8, output),
            _ => self.copy(floats(input), self.filling, floats_mut(output)),
        }
    }
}

/// CONCATENATION.
pub fn concat(lowering: &mut Lowering<'_>, node: &Node, place: &str, axis: i32) -> Result<(), Error> {
    let inputs: Vec<Operand<'_>> =
        (0..node.inputs.len()).map(|idx| lowering.any_operand(node, idx, place)).collect::<Result<_, _>>()?;
    let first = inputs[0].tensor;
    let n_dims = first.shape.len();
    let axis = if axis < 0 { n_dims.checked_sub(axis.unsigned_abs() as usize) } else { Some(axis as usize) };
    let axis = axis.filter(|axis| *axis < n_dims);
    let axis =
        axis.ok_or_else(|| Error::malformed(place, format!("there is no such dimension in {n_dims}")))?;
    let fits = |shape: &[usize]| {
        let same = |i: usize| i == axis || shape[i] == first.shape[i];
        shape.len() == first.shape.len() && (0..shape.len()).all(same)
    };
    if !inputs.iter().all(|input| fits(&input.tensor.shape)) {
        let shapes: Vec<&[usize]> = inputs.iter().map(|input| input.tensor.shape.as_slice()).collect();
        return Err(Error::malformed(place, format!("shapes {shapes:?} along dimension {axis}")));
    }
    let mut shape = first.shape.clone();
    shape[axis] = inputs.iter().fold(0usize, |sum, input| sum.saturating_add(input.tensor.shape[axis]));
    let output = lowering.output(node, &shape, first.element_type, place)?;
    inputs.iter().try_for_each(|input| lowering.same_scale(input.tensor, output.tensor, place))?;
    let inner: usize = shape[axis + 1..].iter().product::<usize>() * first.element_type.size_bytes();
    let row_bytes = shape[axis] * inner;
    let mut at = 0;
    let parts = inputs.iter().map(|input| {
        let part = (input.value, at, input.tensor.shape[axis] * inner);
        at += part.2;
        part
    });
    let step = ConcatStep { parts: parts.collect(), row_bytes, output: output.value };
    let values: Vec<ValueId> = inputs.iter().map(|input| input.value).chain([output.value]).collect();
    lowering.push(step, &values);
    Ok(())
}

struct ConcatStep {
    /// Of each input: its value, and its place and length in each of the output's rows, bytes.
    parts: Vec<(ValueId, usize, usize)>,
    row_bytes: usize,
    output: ValueId,
}

impl Step for ConcatStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, _: Isa) {
        for (value, at, len) in &self.parts {
            if *len == 0 {
                continue;
            }
            let ([input, _], output) = memory.three([*value; 2], self.output);
            for (row, part) in output.chunks_exact_mut(self.row_bytes).zip(input.chunks_exact(*len)) {
                row[*at..][..*len].copy_from_slice(part);
            }
        }
    }
}
