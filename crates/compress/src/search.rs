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
use edgeward_kernels::block::shape;
use edgeward_kernels::kv::{KvShape, KvType, PAGE_LEN};
use edgeward_kernels::{DType, PackedMatrix};
use edgeward_model::tensor::Slot;
use edgeward_model::{Config, Model};
use serde::{Deserialize, Serialize};

use crate::compress::{
    Assignment, Compressor, DAMPING, LAYER_MATRICES, embed_all, factor_of, is_matrix, layer_matrices, matrix,
};
use crate::error::Error;
use crate::eval::{Divergence, compare_rows};
use crate::hessian::{Factor, Hessian};
use crate::knapsack::{self, Item, Limit, Table};
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

/// What keys and values are called among the tensors.
pub const KV_CACHE: &str = "kv_cache";

/// One way to store one tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The type's name.
    pub dtype: String,
    /// Bytes of the tensor in the file; keys and values take none.
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

/// Less of a model, which may be better than all of it in fewer bits: what is searched in before it is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variant {
    /// Layers that are left out, by their numbers.
    pub dropped_layers: Vec<usize>,
    /// Tokens of the vocabulary; none for all.
    pub n_tokens: Option<usize>,
    /// What that alone was measured to cost, nats.
    pub loss: f64,
}

impl Variant {
    /// Rows that a tensor of `model` has here; none if it is left out.
    fn n_rows(&self, model: &Model, slot: Slot) -> usize {
        match slot {
            Slot::Layer(layer_idx, _) if self.dropped_layers.contains(&layer_idx) => 0,
            Slot::TokenEmbedding | Slot::Output if self.n_tokens.is_some() => self.n_tokens.unwrap_or(0),
            _ => model.tensor(slot).map_or(0, |tensor| tensor.n_rows),
        }
    }
}

/// A solved budget.
#[derive(Clone, Debug)]
pub struct Solution {
    /// The type of each matrix.
    pub assignment: Assignment,
    /// How keys and values are to be kept; none if that was not asked.
    pub kv_type: Option<KvType>,
    /// What each choice was measured to cost, by the tensors' names.
    pub losses: BTreeMap<String, f64>,
    /// What was lost before, by leaving something out.
    pub lost_before: f64,
}

impl Solution {
    /// The sum of what was measured to be lost, nats.
    pub fn loss(&self) -> f64 {
        self.lost_before + self.losses.values().sum::<f64>()
    }
}

/// What a model may take; what is not limited is free.
#[derive(Clone, Debug, Default)]
pub struct Limits<'a> {
    /// Bytes of all matrices in the file.
    pub size_bytes: Option<u64>,
    /// Bytes of all matrices as they lie in memory, and of keys and values of so many positions.
    pub memory: Option<(f64, usize)>,
    /// Nanoseconds that a token spends with matrices, and what a weight of each type takes of that.
    pub latency: Option<(f64, &'a BTreeMap<DType, f64>)>,
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

/// What each layer of `model` loses in its coarsest types: less than without it.
pub fn coarsest_losses(model: &Model, measured: &[Measured]) -> Vec<f64> {
    let mut losses = vec![0.0; model.config().n_layers];
    for (slot, tensor) in model.tensors() {
        let Slot::Layer(layer_idx, _) = slot else { continue };
        let choices = measured.iter().filter(|of| of.tensor == tensor.name).flat_map(|of| &of.choices);
        losses[layer_idx] += choices.fold(0.0, |largest: f64, choice| largest.max(choice.loss));
    }
    losses
}

/// What has been measured of a model, ready to be solved.
pub struct Search<'a> {
    model: &'a Model,
    variant: &'a Variant,
    groups: Vec<Group<'a>>,
    by_size: Vec<Vec<Item>>,
}

/// A matrix, or keys and values, of which one choice is taken.
struct Group<'a> {
    measured: &'a Measured,
    /// None for keys and values.
    slot: Option<Slot>,
    /// Rows here, and in the whole model.
    n_rows: [usize; 2],
}

impl Group<'_> {
    fn size_bytes(&self, choice: &Choice) -> u64 {
        let [here, whole] = self.n_rows.map(|n| n as u64);
        choice.size_bytes.checked_div(whole).map_or(choice.size_bytes, |row_bytes| row_bytes * here)
    }
}

impl<'a> Search<'a> {
    /// Among the choices of `measured`, of what `variant` leaves of `model`; `None` if they were measured of another model.
    pub fn new(model: &'a Model, measured: &'a [Measured], variant: &'a Variant) -> Option<Search<'a>> {
        let slots: BTreeMap<&str, Slot> = model.tensors().map(|(slot, tensor)| (tensor.name, slot)).collect();
        let group = |measured: &'a Measured| -> Option<Group<'a>> {
            if measured.tensor == KV_CACHE {
                return Some(Group { measured, slot: None, n_rows: [0, 0] });
            }
            let slot = *slots.get(&measured.tensor[..])?;
            let n_rows = [variant.n_rows(model, slot), model.tensor(slot)?.n_rows];
            Some(Group { measured, slot: Some(slot), n_rows })
        };
        let is_left = |group: &Group| group.slot.is_none() || group.n_rows[0] > 0;
        let mut groups = measured.iter().map(group).collect::<Option<Vec<_>>>()?;
        groups.retain(is_left);
        let items = |group: &Group| {
            let item = |choice: &Choice| Item { size_bytes: group.size_bytes(choice), loss: choice.loss };
            group.measured.choices.iter().map(item).collect()
        };
        let by_size = groups.iter().map(items).collect();
        Some(Search { model, variant, groups, by_size })
    }

    /// Of the whole model.
    pub fn config(&self) -> &Config {
        self.model.config()
    }

    /// Bytes of every matrix in its smallest type.
    pub fn smallest_bytes(&self) -> u64 {
        self.by_size.iter().filter_map(|items| items.iter().map(|item| item.size_bytes).min()).sum()
    }

    /// Bytes of every matrix in its largest type.
    pub fn largest_bytes(&self) -> u64 {
        self.by_size.iter().filter_map(|items| items.iter().map(|item| item.size_bytes).max()).sum()
    }

    /// For each budget the choice of least loss whose matrices take no more bytes of the file; `None` where there is
    /// none.
    pub fn solve_sizes(&self, budgets: &[u64]) -> Vec<Option<Solution>> {
        let table = Table::new(&self.by_size, budgets.iter().copied().max().unwrap_or(0));
        let solve = |budget: &u64| self.solution(&table.as_ref()?.choose(*budget)?);
        budgets.iter().map(solve).collect()
    }

    /// The choice of fewest bytes that loses no more than `loss`; `None` if all lose more.
    pub fn solve_loss(&self, loss: f64) -> Option<Solution> {
        let table = Table::new(&self.by_size, self.largest_bytes())?;
        self.solution(&table.choose(table.smallest_within(loss - self.variant.loss)?)?)
    }

    /// The choice of least loss within all limits; `None` if there is none.
    pub fn solve(&self, limits: &Limits) -> Option<Solution> {
        let mut all = Vec::new();
        let mut add = |at_most: f64, cost: &dyn Fn(&Group, &Choice) -> f64| {
            let of_one =
                |group: &Group| group.measured.choices.iter().map(|choice| cost(group, choice)).collect();
            all.push(Limit { costs: self.groups.iter().map(of_one).collect(), at_most });
        };
        if let Some(bytes) = limits.size_bytes {
            add(bytes as f64, &|group, choice| group.size_bytes(choice) as f64);
        }
        if let Some((bytes, n_positions)) = limits.memory {
            add(bytes, &|group, choice| self.memory_bytes(group, choice, n_positions));
        }
        if let Some((nanoseconds, speeds)) = limits.latency {
            add(nanoseconds, &|group, choice| self.nanoseconds(group, choice, speeds));
        }
        if all.iter().any(|limit| limit.at_most <= 0.0) {
            return None;
        }
        let losses: Vec<Vec<f64>> =
            self.by_size.iter().map(|items| items.iter().map(|item| item.loss).collect()).collect();
        self.solution(&knapsack::solve_all(&losses, &all)?)
    }

    /// Bytes of a solution's matrices in the file.
    pub fn size_of(&self, solution: &Solution) -> u64 {
        self.taken(solution).map(|(group, choice)| group.size_bytes(choice)).sum()
    }

    /// Bytes of a solution's matrices in memory, and of keys and values of so many positions.
    pub fn memory_of(&self, solution: &Solution, n_positions: usize) -> f64 {
        self.taken(solution).map(|(group, choice)| self.memory_bytes(group, choice, n_positions)).sum()
    }

    /// Nanoseconds that a token spends with a solution's matrices.
    pub fn latency_of(&self, solution: &Solution, speeds: &BTreeMap<DType, f64>) -> f64 {
        self.taken(solution).map(|(group, choice)| self.nanoseconds(group, choice, speeds)).sum()
    }

    /// What a solution chooses.
    fn taken(&self, solution: &Solution) -> impl Iterator<Item = (&Group<'a>, &'a Choice)> {
        self.groups.iter().filter_map(|group| {
            let is_taken = |choice: &&Choice| match group.slot {
                Some(slot) => solution.assignment.0.get(&slot).is_some_and(|t| t.name() == choice.dtype),
                None => solution.kv_type == Some(kv_type_of(&choice.dtype)),
            };
            Some((group, group.measured.choices.iter().find(is_taken)?))
        })
    }

    /// As kernels want them: with wider scales than a file has, and rows in tiles.
    fn memory_bytes(&self, group: &Group, choice: &Choice, n_positions: usize) -> f64 {
        let Some(slot) = group.slot else { return self.kv_bytes(choice) * n_positions as f64 };
        let packed = || {
            let n_cols = self.model.tensor(slot)?.n_cols;
            PackedMatrix::size_bytes(dtype_of(&choice.dtype)?, group.n_rows[0], n_cols)
        };
        packed().map_or(group.size_bytes(choice) as f64, |bytes| bytes as f64)
    }

    /// Of one position.
    fn kv_bytes(&self, choice: &Choice) -> f64 {
        let config = self.model.config();
        let shape = KvShape {
            n_layers: config.n_layers - self.variant.dropped_layers.len(),
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            kv_type: kv_type_of(&choice.dtype),
        };
        shape.page_bytes() as f64 / PAGE_LEN as f64
    }

    /// An embedding that does not serve as output too is only looked up.
    fn nanoseconds(&self, group: &Group, choice: &Choice, speeds: &BTreeMap<DType, f64>) -> f64 {
        let time = || {
            let slot = group.slot?;
            let is_read_only = slot == Slot::TokenEmbedding && self.model.tensor(Slot::Output).is_some();
            let tensor = self.model.tensor(slot).filter(|_| !is_read_only)?;
            // A type whose speed is not known is no choice where time counts.
            let speed = speeds.get(&dtype_of(&choice.dtype)?).copied().unwrap_or(f64::MAX / 1e30);
            Some(speed * (group.n_rows[0] * tensor.n_cols) as f64)
        };
        time().unwrap_or(0.0)
    }

    fn solution(&self, taken: &[usize]) -> Option<Solution> {
        let mut solution = Solution {
            assignment: Assignment::default(),
            kv_type: None,
            losses: BTreeMap::new(),
            lost_before: self.variant.loss,
        };
        for (group, idx) in self.groups.iter().zip(taken) {
            let choice = &group.measured.choices[*idx];
            match group.slot {
                Some(slot) => {
                    solution.assignment.0.insert(slot, dtype_of(&choice.dtype)?);
                }
                None => solution.kv_type = Some(kv_type_of(&choice.dtype)),
            }
            solution.losses.insert(group.measured.tensor.clone(), choice.loss);
        }
        Some(solution)
    }
}

fn dtype_of(name: &str) -> Option<DType> {
    DType::ALL.into_iter().find(|dtype| dtype.name() == name)
}

/// Of keys and values that are kept in elements of the type that `name` says.
fn kv_type_of(name: &str) -> KvType {
    KvType::ALL.into_iter().find(|kv_type| kv_type.dtype().name() == name).unwrap_or_default()
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
        let mut matrices = self.teacher.tensors().filter(|(slot, _)| is_matrix(*slot));
        if matrices.all(|(_, tensor)| has(&measured, tensor.name)) {
            return Ok(measured);
        }
        let mut engine = self.eight_bit_engine()?;
        let n_layers = self.teacher.config().n_layers;
        let mut streams = Vec::new();
        for idx in 0..self.windows.len() {
            streams.push(engine.embed(&self.windows.window(idx))?);
        }
        let mut probes = self.probes(&mut engine)?;

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

    /// Measures what keeping keys and values in eight bits costs: as another tensor.
    ///
    /// # Errors
    /// Those of reading and computing.
    pub fn measure_kv(&mut self) -> Result<Measured, Error> {
        let mut engine = self.exact_engine()?;
        let probes = self.probes(&mut engine)?;
        drop(engine);
        let choice = |dtype: DType, loss| Choice { dtype: dtype.name().to_owned(), size_bytes: 0, loss };
        let mut choices = vec![choice(DType::F16, 0.0)];
        if self.teacher.config().head_dim.is_multiple_of(DType::Q8_0.block_len()) {
            let mut engine = self.exact_engine_with(KvType::Q8_0)?;
            let logits = self.probe_logits(&mut engine, probes.streams.clone(), 0)?;
            choices.push(choice(DType::Q8_0, mean_divergence(&mut engine, &probes.logits, &logits)));
        }
        Ok(Measured { tensor: KV_CACHE.to_owned(), choices })
    }

    /// Windows of the calibration text, and what the engine, whose weights they are, predicts there.
    fn probes(&mut self, engine: &mut Engine) -> Result<Probes, Error> {
        let windows = self.windows.spread(N_PROBES).into_iter().map(|idx| self.windows.window(idx));
        let tokens: Vec<Vec<u32>> = windows
            .map(|mut window| {
                window.truncate(PROBE_LEN);
                window
            })
            .collect();
        let streams = embed_all(engine, &tokens)?;
        let logits = self.probe_logits(engine, streams.clone(), 0)?;
        Ok(Probes { tokens, streams, logits })
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
        let weights = self.weights(slot)?;
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
        let loss = mean_divergence(engine, &probes.logits, &logits?);
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
        streams: Vec<Vec<f32>>,
        layer_idx: usize,
    ) -> Result<Vec<f32>, Error> {
        let last = self.last_rows(engine, streams, layer_idx..self.teacher.config().n_layers)?;
        Ok(engine.logits(&last)?.into_vec())
    }

    /// Residual streams, taken through `layers`, at the positions that are compared.
    pub(crate) fn last_rows(
        &mut self,
        engine: &mut Engine,
        streams: Vec<Vec<f32>>,
        layers: impl Iterator<Item = usize> + Clone,
    ) -> Result<Vec<f32>, Error> {
        let config = self.teacher.config();
        let mut last = Vec::new();
        for mut stream in streams {
            for layer_idx in layers.clone() {
                self.check()?;
                engine.run_layer(layer_idx, &mut stream, &mut |_, _| {})?;
            }
            let rows = stream.chunks_exact(config.hidden_dim).skip(PROBE_STRIDE - 1).step_by(PROBE_STRIDE);
            last.extend(rows.flatten());
        }
        Ok(last)
    }
}

/// Mean divergence of predictions from those of the model as it is, nats.
pub(crate) fn mean_divergence(engine: &mut Engine, teacher: &[f32], logits: &[f32]) -> f64 {
    let mut divergence = Divergence::default();
    let vocab_size = engine.config().vocab_size;
    compare_rows(engine.pool(), Isa::best(), teacher, logits, vocab_size, &mut divergence);
    divergence.mean()
}

fn has(measured: &[Measured], name: &str) -> bool {
    measured.iter().any(|tensor| tensor.tensor == name)
}
