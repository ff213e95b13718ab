//! Fewer weights: whole layers, feed-forward neurons, groups of attention heads.
//!
//! **Layers** go one at a time: the one without which the model's predictions on calibration text move the least, measured
//! again after each. **Neurons and heads** go from all layers alike, because GGUF's readers want layers of one shape; a
//! group is the query heads of one key-value head. How much of each is found by measuring too ([`Compressor::prune`]).
//!
//! Which neurons: with H the second moments of the down projection's inputs and w its columns, leaving column j out costs
//! |w_j|^2 / (H^-1)_jj once the other columns have done what they can for it (the surgeon's rule of Hassibi and Stork 1993;
//! for columns as in Kurtic et al. 2023, arXiv:2302.04089). Some go, the others are solved anew, and so on.
//!
//! **Repair.** What is left is solved for by least squares: first so that the matrix's output is as it was; then the down
//! projection once more, so that the residual stream after the layer is what the teacher's is there. That makes good what
//! earlier layers, and those that are gone, have done wrong. Where a norm stands behind the projection (Gemma 3), only the
//! first is done.
//!
//! The result is a plain smaller file: rows of the other matrices are copied.

mod problem;
mod units;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use edgeward_engine::{Engine, Isa, MatrixInput};
use edgeward_kernels::Vectorized;
use edgeward_kernels::memory::give_back_freed;
use edgeward_model::tensor::{LayerSlot, Slot, Tensor};
use edgeward_model::{Config, Model};
use serde::{Deserialize, Serialize};

use crate::compress::{Compressor, DAMPING, embed_all, floats, in_eight_bits};
use crate::equalize::Scales;
use crate::error::Error;
use crate::hessian::Hessian;
use crate::search::mean_divergence;

use problem::Problem;
pub use units::Units;
use units::{HeadKind, Part, head_lines};
pub use write::Pruned;
use write::{file_name, solved_type};

/// Windows on which candidates are compared; they take no part in the repair, unless there are few.
const N_PROBES: usize = 6;
/// Tokens of such a window at most.
const PROBE_LEN: usize = 192;
/// One in so many probes tells which layers are worth trying on all, and so many of these are.
const PROBES_BY_ROUGH: usize = 3;
const N_FINALISTS: usize = 5;
/// Widths of the feed-forward network are multiples of this, the block of most types.
const WIDTH_STEP: usize = 32;
/// Rows of a matrix that are computed at a time: what they have in common is read once for all.
const ROWS_AT_ONCE: usize = 8;
/// Mixtures that are tried at most.
const MAX_TRIALS: usize = 10;

/// How much shall go.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// So many layers.
    Layers(usize),
    /// These layers.
    These(Vec<usize>),
    /// At least this share of all weights, of whatever costs the least.
    Share(f64),
}

/// What is left of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Layers that are gone, by their old numbers, in the order in which they went.
    pub dropped_layers: Vec<usize>,
    /// Neurons of each layer.
    pub ffn_dim: usize,
    /// Key-value heads of each layer, with their query heads.
    pub n_kv_heads: usize,
}

/// A mixture that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// It.
    pub shape: Shape,
    /// Mean divergence of its predictions from the teacher's, nats.
    pub kl_divergence: f64,
}

/// What a model loses with fewer and fewer layers, what is left being repaired.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Depth {
    /// Layers by their numbers, the one that is missed the least first, then the next of what is left, and so on.
    pub layers: Vec<usize>,
    /// Mean divergence from the teacher without the first of them, without the first two, and so on, nats.
    pub losses: Vec<f64>,
}

impl Shape {
    /// Of a model as it is.
    pub fn of(config: &Config) -> Shape {
        Shape { dropped_layers: Vec::new(), ffn_dim: config.ffn_dim, n_kv_heads: config.n_kv_heads }
    }

    /// Weights of `model` in this shape.
    pub fn n_params(&self, model: &Model) -> u64 {
        let config = model.config();
        let left = |(slot, tensor): (Slot, Tensor)| {
            let (left, of) = match slot {
                Slot::Layer(layer_idx, _) if self.dropped_layers.contains(&layer_idx) => (0, 1),
                Slot::Layer(_, slot) => match Part::of(slot) {
                    Part::Neurons(_) => (self.ffn_dim, config.ffn_dim),
                    Part::Heads(..) => (self.n_kv_heads, config.n_kv_heads),
                    Part::Whole => (1, 1),
                },
                _ => (1, 1),
            };
            (tensor.n_rows * tensor.n_cols / of * left) as u64
        };
        model.tensors().map(left).sum()
    }

    /// This shape with the widest feed-forward network that leaves at most `max_params`; `None` if there is none of a
    /// quarter of the width.
    fn fitted(mut self, model: &Model, max_params: u64) -> Option<Shape> {
        let widest = model.config().ffn_dim;
        loop {
            if self.n_params(model) <= max_params {
                return Some(self);
            }
            self.ffn_dim = (self.ffn_dim - 1) / WIDTH_STEP * WIDTH_STEP;
            if self.ffn_dim < widest / 4 || self.ffn_dim == 0 {
                return None;
            }
        }
    }
}

/// The engine, whose matrices are the teacher's, in eight bits, until a trial puts others in their places.
struct Bench {
    engine: Engine,
    /// The teacher's residual streams after the last layer at the places that are compared, `[n, hidden_dim]`: its logits,
    /// which are made of them where they are needed, are a hundred times as large.
    last_rows: Vec<f32>,
    probes: Vec<Vec<u32>>,
    /// That the repair sees.
    windows: Vec<Vec<u32>>,
}

impl Compressor<'_> {
    /// Chooses what goes, and solves what is left anew into files of `folder`.
    ///
    /// For a share, the search begins with neurons alone, and goes on as long as giving up one more layer, or one more group
    /// of heads, for wider feed-forward networks makes the predictions better.
    ///
    /// # Errors
    /// If the goal is out of reach; those of reading, computing and writing.
    pub fn prune(&mut self, goal: Goal, folder: &Path) -> Result<Pruned, Error> {
        // The matrices that are not solved anew are copied as they are.
        self.scales = Scales::default();
        let config = self.teacher.config().clone();
        let whole = Shape::of(&config);
        let mut bench = self.bench()?;
        let mut trials = Vec::new();
        let shape = match goal {
            Goal::Layers(n) => {
                self.refuse_layers(n)?;
                let mut shape = whole;
                for _ in 0..n {
                    let layer_idx = self.next_layer(&mut bench, &shape.dropped_layers)?;
                    shape.dropped_layers.push(layer_idx);
                }
                shape
            }
            Goal::These(layers) => {
                self.refuse_layers(layers.len())?;
                Shape { dropped_layers: layers, ..whole }
            }
            Goal::Share(share) => self.search(&mut bench, share, &mut trials)?,
        };
        let units = self.narrow(&mut bench, &shape, Some(folder))?;
        let kl_divergence = self.divergence_of(&mut bench, &shape.dropped_layers)?;
        if trials.last().is_none_or(|trial: &Trial| trial.shape != shape) {
            trials.push(Trial { shape: shape.clone(), kl_divergence });
        }
        Ok(Pruned { shape, units, folder: Some(folder.to_owned()), trials })
    }

    /// Finds the layer that is missed the least besides those of `depth`, adds it, and measures what the model loses then.
    ///
    /// # Errors
    /// If no more layers can be left out; those of reading and computing.
    pub fn deepen(&mut self, depth: &mut Depth) -> Result<(), Error> {
        self.refuse_layers(depth.layers.len() + 1)?;
        let mut bench = self.bench()?;
        let layer_idx = self.next_layer(&mut bench, &depth.layers)?;
        // Logits of many trials.
        give_back_freed();
        let layers = [&depth.layers[..], &[layer_idx]].concat();
        let shape = Shape { dropped_layers: layers.clone(), ..Shape::of(self.teacher.config()) };
        self.narrow(&mut bench, &shape, None)?;
        depth.losses.push(self.divergence_of(&mut bench, &layers)?);
        drop(bench);
        give_back_freed();
        depth.layers = layers;
        Ok(())
    }

    /// Whether so many layers can be left out.
    pub fn can_drop(&self, n: usize) -> bool {
        self.refuse_layers(n).is_ok()
    }

    fn search(&mut self, bench: &mut Bench, share: f64, trials: &mut Vec<Trial>) -> Result<Shape, Error> {
        let config = self.teacher.config().clone();
        let whole = Shape::of(&config);
        let max_params = ((1.0 - share) * whole.n_params(self.teacher) as f64) as u64;
        let can_drop = self.can_drop(1);
        let mut order: Vec<usize> = Vec::new();
        let mut best: Option<Trial> = None;
        // By layers and groups that are gone.
        let (mut at, mut next) = ((0, 0), vec![(0, 0)]);
        while trials.len() < MAX_TRIALS {
            let mut found = None;
            for &(n_layers, n_groups) in &next {
                if n_groups >= config.n_kv_heads || n_layers >= config.n_layers || (n_layers > 0 && !can_drop)
                {
                    continue;
                }
                if order.len() < n_layers {
                    self.restore(bench)?;
                    order.push(self.next_layer(bench, &order)?);
                }
                let mut shape = whole.clone();
                shape.dropped_layers = order[..n_layers].to_vec();
                shape.n_kv_heads -= n_groups;
                let Some(shape) = shape.fitted(self.teacher, max_params) else { continue };
                self.narrow(bench, &shape, None)?;
                let kl_divergence = self.divergence_of(bench, &shape.dropped_layers)?;
                let trial = Trial { shape, kl_divergence };
                trials.push(trial.clone());
                if best.as_ref().is_none_or(|best| kl_divergence < best.kl_divergence) {
                    best = Some(trial);
                    found = Some((n_layers, n_groups));
                }
            }
            // Where nothing fits yet, more must go.
            at = match (found, &best) {
                (Some(found), _) => found,
                (None, None) if can_drop && at.0 + 1 < config.n_layers => (at.0 + 1, 0),
                _ => break,
            };
            next = if best.is_some() { vec![(at.0 + 1, at.1), (at.0, at.1 + 1)] } else { vec![at] };
        }
        best.map(|best| best.shape).ok_or(Error::CannotPrune { reason: "no shape is as small" })
    }

    fn refuse_layers(&self, n: usize) -> Result<(), Error> {
        let config = self.teacher.config();
        if n >= config.n_layers {
            return Err(Error::CannotPrune { reason: "a model keeps one layer at least" });
        }
        if n > 0 && config.sliding_window.is_some() {
            let reason = "readers count which layers attend to a window, so none can be left out";
            return Err(Error::CannotPrune { reason });
        }
        Ok(())
    }

    fn bench(&mut self) -> Result<Bench, Error> {
        let engine = self.eight_bit_engine()?;
        let all: Vec<Vec<u32>> = (0..self.windows.len()).map(|i| self.windows.window(i)).collect();
        let chosen = self.windows.spread(N_PROBES);
        let mut probes: Vec<Vec<u32>> = chosen.iter().map(|i| all[*i].clone()).collect();
        probes.iter_mut().for_each(|probe| probe.truncate(PROBE_LEN));
        let is_scarce = all.len() < 2 * N_PROBES;
        let windows = all.into_iter().enumerate().filter(|(i, _)| is_scarce || !chosen.contains(i));
        let windows = windows.map(|(_, window)| window).collect();
        let mut bench = Bench { engine, last_rows: Vec::new(), probes, windows };
        let streams = embed_all(&bench.engine, &bench.probes)?;
        bench.last_rows = self.rows_from(&mut bench, streams, 0, &[])?;
        Ok(bench)
    }

    /// Puts the teacher's matrices back that a trial has replaced.
    fn restore(&mut self, bench: &mut Bench) -> Result<(), Error> {
        for layer_idx in 0..self.teacher.config().n_layers {
            for slot in [LayerSlot::O, LayerSlot::Down] {
                self.place_weights(bench, Slot::Layer(layer_idx, slot), None)?;
            }
        }
        Ok(())
    }

    /// Puts weights into the place of a matrix, in eight bits; the teacher's if there are none.
    fn place_weights(&self, bench: &mut Bench, slot: Slot, weights: Option<&[f32]>) -> Result<(), Error> {
        let tensor = self.tensor(slot)?;
        let own = if weights.is_none() { self.weights(slot)? } else { Vec::new() };
        Ok(bench.engine.set_matrix(slot, in_eight_bits(&tensor, weights.unwrap_or(&own))?)?)
    }

    /// What streams that have come to layer `first` are after the last one, without some layers, at the places that are
    /// compared.
    fn rows_from(
        &mut self,
        bench: &mut Bench,
        streams: Vec<Vec<f32>>,
        first: usize,
        dropped: &[usize],
    ) -> Result<Vec<f32>, Error> {
        let layers = (first..self.teacher.config().n_layers).filter(|layer_idx| !dropped.contains(layer_idx));
        self.last_rows(&mut bench.engine, streams, layers)
    }

    /// Of the model as it is in the engine, without some layers.
    fn divergence_of(&mut self, bench: &mut Bench, dropped: &[usize]) -> Result<f64, Error> {
        let streams = embed_all(&bench.engine, &bench.probes)?;
        let rows = self.rows_from(bench, streams, 0, dropped)?;
        let engine = &mut bench.engine;
        let teacher = engine.logits(&bench.last_rows)?.into_vec();
        let logits = engine.logits(&rows)?.into_vec();
        Ok(mean_divergence(engine, &teacher, &logits))
    }

    /// The layer whose loss, after those that are gone, moves the predictions the least: of all on some of the probes, then
    /// of the best of these on all.
    fn next_layer(&mut self, bench: &mut Bench, dropped: &[usize]) -> Result<usize, Error> {
        let n_layers = self.teacher.config().n_layers;
        let all: Vec<usize> = (0..n_layers).filter(|layer_idx| !dropped.contains(layer_idx)).collect();
        let n_probes = bench.probes.len();
        let mut ranked = self.without_each(bench, dropped, &all, n_probes.div_ceil(PROBES_BY_ROUGH))?;
        ranked.truncate(N_FINALISTS);
        let mut finalists: Vec<usize> = ranked.into_iter().map(|(layer_idx, _)| layer_idx).collect();
        finalists.sort_unstable();
        let ranked = self.without_each(bench, dropped, &finalists, n_probes)?;
        ranked
            .first()
            .map(|(layer_idx, _)| *layer_idx)
            .ok_or(Error::CannotPrune { reason: "no layer is left" })
    }

    /// Layers, and what the loss of each, besides `dropped`, costs on the first `n_probes` probes, the cheapest first.
    fn without_each(
        &mut self,
        bench: &mut Bench,
        dropped: &[usize],
        layers: &[usize],
        n_probes: usize,
    ) -> Result<Vec<(usize, f64)>, Error> {
        let n_layers = self.teacher.config().n_layers;
        let mut streams = embed_all(&bench.engine, &bench.probes[..n_probes])?;
        let teacher = bench.engine.logits(&bench.last_rows)?.into_vec();
        let mut losses = Vec::new();
        for layer_idx in 0..n_layers {
            self.tell("leaving layers out", layer_idx, n_layers)?;
            if dropped.contains(&layer_idx) {
                continue;
            }
            if layers.contains(&layer_idx) {
                let rows = self.rows_from(bench, streams.clone(), layer_idx + 1, dropped)?;
                let logits = bench.engine.logits(&rows)?.into_vec();
                let loss = mean_divergence(&mut bench.engine, &teacher[..logits.len()], &logits);
                losses.push((layer_idx, loss));
            }
            for stream in &mut streams {
                bench.engine.run_layer(layer_idx, stream, &mut |_, _| {})?;
            }
        }
        self.tell("leaving layers out", n_layers, n_layers)?;
        losses.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        Ok(losses)
    }

    /// Gives all layers that stay the shape, and solves what is left anew: in the engine, columns that are gone being zero,
    /// and into `folder`.
    fn narrow(
        &mut self,
        bench: &mut Bench,
        shape: &Shape,
        folder: Option<&Path>,
    ) -> Result<BTreeMap<usize, Units>, Error> {
        self.restore(bench)?;
        let config = self.teacher.config().clone();
        let mut teacher = embed_all(&bench.engine, &bench.windows)?;
        let mut student = teacher.clone();
        let mut all_units = BTreeMap::new();
        // Where only layers go, nothing is to be made good before the first of them.
        let is_narrower = Shape { dropped_layers: Vec::new(), ..shape.clone() } != Shape::of(&config);
        let first_change = if is_narrower {
            0
        } else {
            shape.dropped_layers.iter().copied().min().unwrap_or(config.n_layers)
        };
        for layer_idx in 0..config.n_layers {
            self.tell("narrowing layers", layer_idx, config.n_layers)?;
            for stream in &mut teacher {
                self.check()?;
                bench.engine.run_layer(layer_idx, stream, &mut |_, _| {})?;
            }
            if shape.dropped_layers.contains(&layer_idx) {
                continue;
            }
            let mut units = Units::all(&config);
            if layer_idx < first_change {
                student.clone_from(&teacher);
                all_units.insert(layer_idx, units);
                continue;
            }
            if shape.n_kv_heads < config.n_kv_heads {
                let slot = Slot::Layer(layer_idx, LayerSlot::O);
                let mut problem = self.problem(bench, slot, MatrixInput::O, &student)?;
                let lines = |heads: &[usize]| head_lines(&config, HeadKind::Query, heads);
                problem.drop_groups(bench.engine.pool(), &mut units.kv_heads, shape.n_kv_heads, &lines)?;
                self.put(bench, slot, &problem, folder)?;
            }
            let slot = Slot::Layer(layer_idx, LayerSlot::Down);
            let mut problem = self.problem(bench, slot, MatrixInput::Down, &student)?;
            problem.drop_columns(bench.engine.pool(), shape.ffn_dim)?;
            self.put(bench, slot, &problem, folder)?;
            let has_norm_behind =
                self.teacher.tensor(Slot::Layer(layer_idx, LayerSlot::PostFfnNorm)).is_some();
            if !has_norm_behind {
                self.repair(bench, layer_idx, &mut problem, &student, &teacher)?;
                self.put(bench, slot, &problem, folder)?;
            }
            units.neurons.clone_from(&problem.kept);
            for stream in &mut student {
                self.check()?;
                bench.engine.run_layer(layer_idx, stream, &mut |_, _| {})?;
            }
            all_units.insert(layer_idx, units);
        }
        self.tell("narrowing layers", config.n_layers, config.n_layers)?;
        Ok(all_units)
    }

    /// A matrix of a layer and the second moments of its inputs, as the student's streams give them.
    fn problem(
        &mut self,
        bench: &mut Bench,
        slot: Slot,
        input: MatrixInput,
        streams: &[Vec<f32>],
    ) -> Result<Problem, Error> {
        let Slot::Layer(layer_idx, _) = slot else { unreachable!("only layers are narrowed") };
        let tensor = self.tensor(slot)?;
        let mut hessian = Hessian::new(tensor.n_cols);
        for stream in streams {
            self.check()?;
            let mut inputs = Vec::new();
            bench.engine.run_layer(layer_idx, &mut stream.clone(), &mut |seen, x| {
                if seen == input {
                    inputs.extend_from_slice(x);
                }
            })?;
            hessian.add(bench.engine.pool(), Isa::best(), &inputs);
        }
        let weights: Vec<f64> = self.weights(slot)?.into_iter().map(f64::from).collect();
        Ok(Problem::new(bench.engine.pool(), hessian.damped(DAMPING), weights, tensor.n_cols))
    }

    /// Moves a down projection so that the student's stream after the layer is nearest to the teacher's.
    fn repair(
        &mut self,
        bench: &mut Bench,
        layer_idx: usize,
        problem: &mut Problem,
        student: &[Vec<f32>],
        teacher: &[Vec<f32>],
    ) -> Result<(), Error> {
        let hidden_dim = self.teacher.config().hidden_dim;
        let n_kept = problem.kept.len();
        let mut moments = vec![0.0f32; hidden_dim * n_kept];
        let mut n_tokens = 0;
        for (before, wanted) in student.iter().zip(teacher) {
            self.check()?;
            let mut stream = before.clone();
            let mut inputs = Vec::new();
            bench.engine.run_layer(layer_idx, &mut stream, &mut |seen, x| {
                if seen == MatrixInput::Down {
                    inputs.extend_from_slice(x);
                }
            })?;
            let n_cols = problem.n_cols;
            let kept: Vec<f32> = inputs
                .chunks_exact(n_cols)
                .flat_map(|row| problem.kept.iter().map(|col| row[*col]))
                .collect();
            let errors: Vec<f32> = wanted.iter().zip(&stream).map(|(wanted, is)| wanted - is).collect();
            n_tokens += errors.len() / hidden_dim;
            let isa = Isa::best();
            bench.engine.pool().run_chunks(&mut moments, ROWS_AT_ONCE * n_kept, |i, rows| {
                let first_row = i * ROWS_AT_ONCE;
                isa.vectorize(AddMoments {
                    errors: &errors,
                    first_row,
                    hidden_dim,
                    inputs: &kept,
                    n_kept,
                    rows,
                });
            });
        }
        let mut change: Vec<f64> = moments.iter().map(|sum| f64::from(*sum) / n_tokens as f64).collect();
        let factor = problem.factor(bench.engine.pool())?;
        factor.solve(bench.engine.pool(), Isa::best(), &mut change);
        problem.weights.iter_mut().zip(change).for_each(|(w, change)| *w += change);
        Ok(())
    }

    /// Puts a solved matrix into the engine and the folder.
    fn put(
        &self,
        bench: &mut Bench,
        slot: Slot,
        problem: &Problem,
        folder: Option<&Path>,
    ) -> Result<(), Error> {
        let tensor = self.tensor(slot)?;
        let mut wide = vec![0.0f32; tensor.n_rows * tensor.n_cols];
        let rows = problem.weights.chunks_exact(problem.kept.len());
        for (wide, row) in wide.chunks_exact_mut(tensor.n_cols).zip(rows) {
            for (col, w) in problem.kept.iter().zip(row) {
                wide[*col] = *w as f32;
            }
        }
        self.place_weights(bench, slot, Some(&wide))?;
        if let Some(folder) = folder {
            let narrow: Vec<f32> = problem.weights.iter().map(|w| *w as f32).collect();
            let path = folder.join(file_name(slot));
            fs::write(&path, floats(solved_type(&tensor), &narrow))
                .map_err(|source| Error::Io { path, source })?;
        }
        Ok(())
    }
}

/// Some rows of the second moments of errors and inputs.
struct AddMoments<'a> {
    /// `[n, hidden_dim]`
    errors: &'a [f32],
    first_row: usize,
    hidden_dim: usize,
    /// `[n, n_kept]`
    inputs: &'a [f32],
    n_kept: usize,
    rows: &'a mut [f32],
}

impl Vectorized for AddMoments<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let AddMoments { errors, first_row, hidden_dim, inputs, n_kept, rows } = self;
        for (errors, inputs) in errors.chunks_exact(hidden_dim).zip(inputs.chunks_exact(n_kept)) {
            for (row, error) in rows.chunks_exact_mut(n_kept).zip(&errors[first_row..]) {
                row.iter_mut().zip(inputs).for_each(|(sum, x)| *sum = error.mul_add(*x, *sum));
            }
        }
    }
}
