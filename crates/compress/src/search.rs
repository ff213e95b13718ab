//! Which type for which matrix: losses measured, then solved for a budget.
//!
//! The calibration text goes once through the model, all of whose matrices are in eight bits. At each matrix its
//! second moments are known, so it can be rounded to every type; one rounding is put in its place, and the divergence
//! of the whole model's predictions from what they were is the loss of that choice, in nats. The other types' losses
//! are that times the ratio of their squared output errors, measured on some of the rows: divergence grows with the
//! square of a small error. Losses of different matrices add up, as errors that know nothing of each other do.
//!
//! Measurements depend on the model and the text alone, so any number of budgets share them ([`crate::knapsack`]).

use std::collections::BTreeMap;

use edgeward_engine::{Engine, Isa, MatrixInput};
use edgeward_kernels::DType;
use edgeward_kernels::block::shape;
use edgeward_model::Model;
use edgeward_model::tensor::Slot;
use serde::{Deserialize, Serialize};

use crate::compress::{
    Assignment, Compressor, DAMPING, LAYER_MATRICES, factor_of, is_matrix, layer_matrices, matrix, widened,
};
use crate::error::Error;
use crate::eval::{Divergence, compare_rows};
use crate::hessian::{Factor, Hessian};
use crate::knapsack::{self, Item};
use crate::rounding::{self, Effort};

/// The types that a matrix may become.
pub const TYPES: [DType; 10] = [
    DType::EW2,
    DType::EW3,
    DType::EW4,
    DType::EW5,
    DType::EW6,
    DType::IQ4_NL,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
];
/// The type whose effect on predictions is measured, among the first of [`TYPES`]: coarse enough for the effect to be
/// clear, fine enough for it to grow with the square of the error.
const ANCHOR: DType = DType::EW3;
/// Rows of a matrix on which types are compared.
const SAMPLE_ROWS: usize = 64;
/// Windows whose predictions are watched.
const N_PROBES: usize = 4;
/// Tokens of such a window.
const PROBE_LEN: usize = 160;
/// Every so manyeth position's prediction is compared: neighbours tell much the same.
const PROBE_STRIDE: usize = 4;

/// One way to store one tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The type's name.
    pub dtype: String,
    /// Bytes of the tensor.
    pub size_bytes: u64,
    /// Mean divergence of the model's predictions that it costs, nats.
    pub loss: f64,
}

/// A tensor, and what it may become.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Its name in the file.
    pub tensor: String,
    /// The choices.
    pub choices: Vec<Choice>,
}

/// A solved budget.
#[derive(Clone, Debug)]
pub struct Solution {
    /// The type of each matrix.
    pub assignment: Assignment,
    /// What each choice was measured to cost, by the tensors' names.
    pub losses: BTreeMap<String, f64>,
}

/// The same without the types that other programs do not know.
pub fn compatible(measured: Vec<Measured>) -> Vec<Measured> {
    let is_known = |choice: &Choice| !dtype_of(&choice.dtype).is_some_and(DType::is_own);
    measured
        .into_iter()
        .map(|Measured { tensor, choices }| Measured {
            tensor,
            choices: choices.into_iter().filter(is_known).collect(),
        })
        .collect()
}

/// Every matrix in its smallest type.
pub fn smallest(model: &Model, measured: &[Measured]) -> Assignment {
    let bytes = measured.iter().filter_map(|t| t.choices.iter().map(|choice| choice.size_bytes).min()).sum();
    solve(model, measured, bytes).map(|solution| solution.assignment).unwrap_or_default()
}

/// Bytes of every matrix in its largest type.
pub fn largest_bytes(measured: &[Measured]) -> u64 {
    measured.iter().filter_map(|t| t.choices.iter().map(|choice| choice.size_bytes).max()).sum()
}

/// The assignment of least loss whose matrices take at most `budget_bytes`; `None` if there is none, or `measured` is of
/// another model.
pub fn solve(model: &Model, measured: &[Measured], budget_bytes: u64) -> Option<Solution> {
    let groups: Vec<Vec<Item>> = measured
        .iter()
        .map(|tensor| {
            let item = |choice: &Choice| Item { size_bytes: choice.size_bytes, loss: choice.loss };
            tensor.choices.iter().map(item).collect()
        })
        .collect();
    let taken = knapsack::solve(&groups, budget_bytes)?;
    let slots: BTreeMap<&str, Slot> = model.tensors().map(|(slot, tensor)| (tensor.name, slot)).collect();
    let mut solution = Solution { assignment: Assignment::default(), losses: BTreeMap::new() };
    for (tensor, idx) in measured.iter().zip(taken) {
        let choice = &tensor.choices[idx];
        solution.assignment.0.insert(*slots.get(&tensor.tensor[..])?, dtype_of(&choice.dtype)?);
        solution.losses.insert(tensor.tensor.clone(), choice.loss);
    }
    Some(solution)
}

fn dtype_of(name: &str) -> Option<DType> {
    DType::ALL.into_iter().find(|dtype| dtype.name() == name)
}

/// The windows whose predictions are watched, at the layer that is being measured.
struct Probes {
    tokens: Vec<Vec<u32>>,
    /// Residual streams before the layer.
    streams: Vec<Vec<f32>>,
    /// Logits of the model as it is, of the positions that are compared.
    logits: Vec<f32>,
}

impl Compressor<'_> {
    /// Measures every matrix; `measured` are those that are done already, and `save` is told after each layer.
    ///
    /// # Errors
    /// Those of reading and computing.
    pub fn measure(
        &mut self,
        mut measured: Vec<Measured>,
        save: &mut dyn FnMut(&[Measured]),
    ) -> Result<Vec<Measured>, Error> {
        let mut engine = self.exact_engine()?;
        let n_layers = self.teacher.config().n_layers;
        let all: Vec<Slot> =
            self.teacher.tensors().map(|(slot, _)| slot).filter(|slot| is_matrix(*slot)).collect();
        for &slot in &all {
            self.place_teacher(&mut engine, slot)?;
            self.teacher.release(&self.tensor(slot)?);
        }
        let mut streams = Vec::new();
        for idx in 0..self.windows.len() {
            streams.push(engine.embed(&self.windows.window(idx))?);
        }
        let probe_tokens: Vec<Vec<u32>> = self
            .windows
            .spread(N_PROBES)
            .into_iter()
            .map(|idx| self.windows.window(idx))
            .map(|mut window| {
                window.truncate(PROBE_LEN);
                window
            })
            .collect();
        let embedded = embed_all(&engine, &probe_tokens)?;
        let logits = self.probe_logits(&mut engine, embedded.clone(), 0)?;
        let mut probes = Probes { tokens: probe_tokens, streams: embedded, logits };

        for layer_idx in 0..n_layers {
            self.tell("measuring layers", layer_idx, n_layers)?;
            let is_done = layer_matrices(layer_idx)
                .all(|slot| self.teacher.tensor(slot).is_some_and(|t| has(&measured, t.name)));
            let mut hessians: BTreeMap<MatrixInput, Hessian> = BTreeMap::new();
            for stream in &mut streams {
                self.check()?;
                let mut rows = Vec::new();
                engine.run_layer(layer_idx, stream, &mut |input, x| {
                    if !is_done {
                        rows.push((input, x.to_vec()));
                    }
                })?;
                self.add_inputs(&mut engine, &mut hessians, stream, rows);
            }
            for (input, of_input) in LAYER_MATRICES {
                let Some(hessian) = hessians.remove(&input) else { continue };
                let factor = factor_of(&mut engine, &hessian, DAMPING)?;
                for slot in of_input.iter().map(|slot| Slot::Layer(layer_idx, *slot)) {
                    self.check()?;
                    let tensor = self.tensor(slot)?;
                    if !has(&measured, tensor.name) {
                        measured.push(self.measure_one(&mut engine, slot, &factor, &probes, layer_idx)?);
                    }
                }
            }
            for stream in &mut probes.streams {
                engine.run_layer(layer_idx, stream, &mut |_, _| {})?;
            }
            save(&measured);
        }
        self.tell("measuring layers", n_layers, n_layers)?;
        let mut hessian = Hessian::new(self.teacher.config().hidden_dim);
        for stream in &streams {
            let inputs = engine.output_input(stream);
            hessian.add(engine.pool(), Isa::best(), &inputs);
        }
        drop(streams);
        let factor = factor_of(&mut engine, &hessian, DAMPING)?;
        for slot in [Slot::Output, Slot::TokenEmbedding] {
            if self.teacher.tensor(slot).is_none_or(|tensor| has(&measured, tensor.name)) {
                continue;
            }
            let factor = self.factor_of_end(&mut engine, slot, &factor);
            let layer_idx = if slot == Slot::Output { n_layers } else { 0 };
            measured.push(self.measure_one(&mut engine, slot, &factor, &probes, layer_idx)?);
        }
        save(&measured);
        Ok(measured)
    }

    /// Rounds one matrix to all types and measures what the anchor does to the predictions, from `layer_idx` on.
    fn measure_one(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        factor: &Factor,
        probes: &Probes,
        layer_idx: usize,
    ) -> Result<Measured, Error> {
        let tensor = self.tensor(slot)?;
        let (name, n_rows, n_cols) = (tensor.name.to_owned(), tensor.n_rows, tensor.n_cols);
        let size = |dtype: DType| (dtype.row_bytes(n_cols).unwrap_or(0) * n_rows) as u64;
        if !n_cols.is_multiple_of(ANCHOR.block_len()) {
            let choice =
                Choice { dtype: DType::F16.name().to_owned(), size_bytes: size(DType::F16), loss: 0.0 };
            return Ok(Measured { tensor: name, choices: vec![choice] });
        }
        let weights = widened(&tensor);
        self.teacher.release(&tensor);
        let largest = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        let sample: Vec<f32> = (0..n_rows.min(SAMPLE_ROWS))
            .map(|i| i * n_rows / n_rows.min(SAMPLE_ROWS))
            .flat_map(|row| weights[row * n_cols..(row + 1) * n_cols].iter().copied())
            .collect();
        let mut error =
            |dtype| rounding::round(engine.pool(), Isa::best(), dtype, &sample, factor, Effort::QUICK).loss;
        let errors = TYPES.map(&mut error);
        let of_anchor = error(ANCHOR);

        let rounded = rounding::round(engine.pool(), Isa::best(), ANCHOR, &weights, factor, Effort::QUICK);
        drop(weights);
        let old =
            engine.matrix(slot).ok_or(Error::Engine(edgeward_engine::Error::MissingTensor(slot)))?.clone();
        engine.set_matrix(slot, matrix(&tensor, ANCHOR, rounded.bytes)?)?;
        let streams = if slot == Slot::TokenEmbedding {
            embed_all(engine, &probes.tokens)?
        } else {
            probes.streams.clone()
        };
        let logits = self.probe_logits(engine, streams, layer_idx);
        engine.set_matrix(slot, old)?;
        let loss = self.divergence(engine, probes, &logits?);
        let choice = |(dtype, error): (DType, f64)| Choice {
            dtype: dtype.name().to_owned(),
            size_bytes: size(dtype),
            loss: if of_anchor > 0.0 { loss * error / of_anchor } else { 0.0 },
        };
        // The rows that types are compared on may lack the one with an outlier that a type would cut off.
        let holds_all = |(dtype, _): &(DType, f64)| shape(*dtype).reach() >= largest;
        let choices = TYPES.into_iter().zip(errors).filter(holds_all).map(choice).collect();
        Ok(Measured { tensor: name, choices })
    }

    /// Logits of the positions that are compared, of streams before layer `layer_idx`.
    fn probe_logits(
        &mut self,
        engine: &mut Engine,
        mut streams: Vec<Vec<f32>>,
        layer_idx: usize,
    ) -> Result<Vec<f32>, Error> {
        let hidden_dim = self.teacher.config().hidden_dim;
        let mut last = Vec::new();
        for stream in &mut streams {
            self.check()?;
            for layer_idx in layer_idx..self.teacher.config().n_layers {
                engine.run_layer(layer_idx, stream, &mut |_, _| {})?;
            }
            let rows = stream.chunks_exact(hidden_dim).skip(PROBE_STRIDE - 1).step_by(PROBE_STRIDE);
            last.extend(rows.flatten());
        }
        Ok(engine.logits(&last)?.into_vec())
    }

    fn divergence(&self, engine: &mut Engine, probes: &Probes, logits: &[f32]) -> f64 {
        let mut divergence = Divergence::default();
        let vocab_size = self.teacher.config().vocab_size;
        compare_rows(engine.pool(), Isa::best(), &probes.logits, logits, vocab_size, &mut divergence);
        divergence.mean()
    }
}

fn embed_all(engine: &Engine, windows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
    Ok(windows.iter().map(|tokens| engine.embed(tokens)).collect::<Result<_, _>>()?)
}

fn has(measured: &[Measured], name: &str) -> bool {
    measured.iter().any(|tensor| tensor.tensor == name)
}
