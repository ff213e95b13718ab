//! LSTM (Hochreiter and Schmidhuber 1997, with forget gates), as ONNX defines it: forward, gates in the order input,
//! output, forget, cell, without peepholes.

use edgeward_kernels::memory::{floats, floats_mut};
use edgeward_kernels::{Isa, Pool, Vectorized};

use super::elementwise::{only_floats, sigmoid};
use crate::error::Error;
use crate::graph::{ElementType, Node};
use crate::network::Step;
use crate::network::lower::Lowering;
use crate::network::memory::{Memory, ValueId};

/// Input `[steps, batch, n_in]`, weights `[1, 4 * n, n_in]`, recurrent weights `[1, 4 * n, n]`, perhaps biases `[1, 8 * n]`,
/// perhaps hidden and cell states `[1, batch, n]` to begin with; outputs `[steps, 1, batch, n]` and both last states.
pub fn lstm(lowering: &mut Lowering<'_>, node: &Node, place: &str) -> Result<(), Error> {
    let input = lowering.any_operand(node, 0, place)?;
    only_floats(input.tensor.element_type, place)?;
    let &[n_steps, batch, n_in] = input.tensor.shape.as_slice() else {
        return Err(Error::malformed(place, format!("an input of shape {:?}", input.tensor.shape)));
    };
    let constant = |idx: usize, shape: &[usize]| -> Result<Option<Vec<f32>>, Error> {
        match lowering.constant(node, idx, place)? {
            None => Ok(None),
            Some((tensor, data)) if tensor.shape == shape && tensor.element_type == ElementType::F32 => {
                Ok(Some(data.f32s().collect()))
            }
            Some((tensor, _)) => Err(Error::malformed(
                place,
                format!("input {idx} of shape {:?}, not {shape:?}", tensor.shape),
            )),
        }
    };
    let n = match lowering.constant(node, 2, place)? {
        Some((tensor, _)) if tensor.shape.len() == 3 && tensor.shape[0] == 1 => tensor.shape[2],
        _ => return Err(Error::unsupported(place, "recurrent weights in other than one direction")),
    };
    let gates = n.checked_mul(4).filter(|gates| *gates > 0);
    let gates = gates.ok_or_else(|| Error::malformed(place, "no hidden units"))?;
    let left_out = || Error::malformed(place, "its weights are left out");
    let weights = constant(1, &[1, gates, n_in])?.ok_or_else(left_out)?;
    let recurrent = constant(2, &[1, gates, n])?.ok_or_else(left_out)?;
    let bias = constant(3, &[1, 2 * gates])?.unwrap_or_else(|| vec![0.0; 2 * gates]);
    let bias: Vec<f32> = bias[..gates].iter().zip(&bias[gates..]).map(|(a, b)| a + b).collect();
    let state = |lowering: &mut Lowering<'_>, idx: usize| -> Result<Option<ValueId>, Error> {
        if node.inputs.get(idx).copied().flatten().is_none() {
            return Ok(None);
        }
        let state = lowering.any_operand(node, idx, place)?;
        if state.tensor.shape != [1, batch, n] {
            return Err(Error::malformed(place, format!("a state of shape {:?}", state.tensor.shape)));
        }
        Ok(Some(state.value))
    };
    let initial = [state(lowering, 4)?, state(lowering, 5)?];
    lowering.reserve((weights.len() + recurrent.len()).checked_mul(4))?;
    lowering.count_macs((n_steps * batch) as u64 * (gates * (n + n_in)) as u64);
    let shapes = [vec![n_steps, 1, batch, n], vec![1, batch, n], vec![1, batch, n]];
    let mut outputs = [0; 3];
    for (idx, shape) in shapes.iter().enumerate() {
        outputs[idx] = if idx < node.outputs.len() {
            lowering.output_at(node, idx, shape, ElementType::F32, place)?.value
        } else {
            lowering.new_value(shape, ElementType::F32, place)?
        };
    }
    let sums = lowering.new_value(&[gates], ElementType::F32, place)?;
    let touched: Vec<ValueId> =
        [input.value, sums].into_iter().chain(outputs).chain(initial.into_iter().flatten()).collect();
    let (weights, recurrent) = (by_input(&weights, n_in), by_input(&recurrent, n));
    let (input, dims) = (input.value, [n_steps, batch, n_in, n]);
    lowering.push(LstmStep { weights, recurrent, bias, dims, input, initial, outputs, sums }, &touched);
    Ok(())
}

/// `[n_out, n_in]` as `[n_in, n_out]`: one input at a time goes to all gates.
fn by_input(weights: &[f32], n_in: usize) -> Vec<f32> {
    let n_out = weights.len() / n_in;
    (0..weights.len()).map(|i| weights[i % n_out * n_in + i / n_out]).collect()
}

struct LstmStep {
    /// `[n_in, 4 * n]`.
    weights: Vec<f32>,
    /// `[n, 4 * n]`.
    recurrent: Vec<f32>,
    /// `[4 * n]`.
    bias: Vec<f32>,
    /// Steps, batch, inputs, hidden units.
    dims: [usize; 4],
    input: ValueId,
    /// Hidden and cell; zeros if `None`.
    initial: [Option<ValueId>; 2],
    /// All hidden states, the last, the last cell state.
    outputs: [ValueId; 3],
    /// Of the gates.
    sums: ValueId,
}

impl Step for LstmStep {
    fn run(&self, memory: &mut Memory, _: &mut Pool, isa: Isa) {
        let [n_steps, batch, n_in, n] = self.dims;
        let [all, hidden, cell] = self.outputs;
        for (initial, state) in self.initial.iter().zip([hidden, cell]) {
            match initial {
                Some(initial) => {
                    let ([from, _], to) = memory.three([*initial; 2], state);
                    to.copy_from_slice(from);
                }
                None => floats_mut(memory.get_mut(state)).fill(0.0),
            }
        }
        for step in 0..n_steps {
            for item in 0..batch {
                let at = step * batch + item;
                floats_mut(memory.get_mut(self.sums)).copy_from_slice(&self.bias);
                let ([input, hidden_state], sums) = memory.three([self.input, hidden], self.sums);
                let x = &floats(input)[at * n_in..][..n_in];
                let h = &floats(hidden_state)[item * n..][..n];
                isa.vectorize(Gates { x, weights: &self.weights, sums: floats_mut(sums) });
                isa.vectorize(Gates { x: h, weights: &self.recurrent, sums: floats_mut(sums) });
                let ([sums, _], cells) = memory.three([self.sums; 2], cell);
                let (sums, cells) = (floats(sums), &mut floats_mut(cells)[item * n..][..n]);
                for (i, cell) in cells.iter_mut().enumerate() {
                    let [input, forget, new] = [sums[i], sums[2 * n + i], sums[3 * n + i]];
                    *cell = sigmoid(forget) * *cell + sigmoid(input) * libm::tanhf(new);
                }
                let ([sums, cells], hidden_state) = memory.three([self.sums, cell], hidden);
                let (sums, cells) = (floats(sums), &floats(cells)[item * n..][..n]);
                let hidden_state = &mut floats_mut(hidden_state)[item * n..][..n];
                for (i, (h, cell)) in hidden_state.iter_mut().zip(cells).enumerate() {
                    *h = sigmoid(sums[n + i]) * libm::tanhf(*cell);
                }
                let ([hidden_state, _], all) = memory.three([hidden; 2], all);
                floats_mut(all)[at * n..][..n].copy_from_slice(&floats(hidden_state)[item * n..][..n]);
            }
        }
    }
}

/// Adds the inputs' share to the gates' sums.
struct Gates<'a> {
    x: &'a [f32],
    weights: &'a [f32],
    sums: &'a mut [f32],
}

impl Vectorized for Gates<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let n = self.sums.len();
        for (x, weights) in self.x.iter().zip(self.weights.chunks_exact(n)) {
            for (sum, weight) in self.sums.iter_mut().zip(weights) {
                *sum = x.mul_add(*weight, *sum);
            }
        }
    }
}
