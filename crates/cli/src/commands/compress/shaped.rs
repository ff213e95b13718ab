//! What is left of a model before its matrices are rounded: some layers, neurons and heads, some tokens.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use edgeward_compress::certificate::{self, PruningRecord};
use edgeward_compress::compress::{Compressor, Options, Step};
use edgeward_compress::eval::Windows;
use edgeward_compress::prune::{Goal, Shape};
use edgeward_compress::rounding::Effort;
use edgeward_compress::search::{Measured, Search, Variant};
use edgeward_compress::vocabulary::{Kept, Limit};
use edgeward_kernels::memory::give_back_freed;
use edgeward_model::Model;
use edgeward_model::tokenizer::Tokenizer;

use super::temporary::Temporary;
use super::{Job, Outcome};

/// A model of the shape that files will have, and the texts in its tokens.
pub struct Shaped {
    pub model: Arc<Model>,
    pub tokenizer: Tokenizer,
    pub pruned: Option<PruningRecord>,
    pub kept: Option<Kept>,
    /// That calibrate.
    pub windows: Windows,
    /// That results are checked on, and whether they are none of those that calibrate.
    pub check: (Windows, bool),
    /// What measurements and rounded matrices depend on.
    pub key: String,
    /// Of the model, unless it is the teacher itself.
    file: Option<Temporary>,
}

impl Shaped {
    /// The teacher of `job` with what `goal` and `limit` leave of it.
    pub fn new(
        job: &Job,
        goal: Option<Goal>,
        limit: Option<Limit>,
        watch: &mut dyn FnMut(Step),
    ) -> Outcome<Shaped> {
        let shape = format!("{goal:?} {limit:?}");
        let beside = |what: &str| Temporary::beside(&job.args.output, &format!("{what}-{}", mark(&shape)));
        let (mut model, mut file) = (Arc::clone(job.teacher), None);
        let pruned = match goal {
            None => None,
            Some(goal) => {
                let path = beside("pruned");
                let record = prune(job, goal, &path.0, watch)?;
                model = Arc::new(Model::load(&path.0)?);
                file = Some(path);
                Some(record)
            }
        };
        let kept = match (&job.trimming, limit) {
            (Some(trimming), Some(limit)) => {
                let path = beside("trimmed");
                let kept = trimming.trim(job, limit, &model, &path.0, watch)?;
                model = Arc::new(Model::load(&path.0)?);
                file = Some(path);
                Some(kept)
            }
            _ => None,
        };
        // Writing a part has brought in the whole.
        job.teacher.release_all();
        give_back_freed();
        let tokenizer = model.tokenizer()?;
        let windows = Windows::new(&tokenizer, job.text, job.window_len)?;
        let (windows, check_windows, is_held_out) = certificate::split(&windows, job.n_windows);
        let trimming = job.trimming.as_ref().map(|trimming| trimming.describe());
        let (teacher, text) = (&job.ids.0.sha256, &job.ids.1.sha256);
        let key = format!("{teacher} {text} {} {} {shape} {trimming:?}", job.window_len, windows.len());
        Ok(Shaped { model, tokenizer, pruned, kept, windows, check: (check_windows, is_held_out), key, file })
    }

    /// Whether it is another model than the teacher.
    pub fn is_made(&self) -> bool {
        self.file.is_some()
    }

    /// What leaving layers, neurons and heads out was measured to cost, nats.
    pub fn pruning_loss(&self) -> f64 {
        let trial = self.pruned.as_ref().and_then(|record| record.trials.last());
        trial.map_or(0.0, |trial| trial.kl_divergence)
    }

    /// Among what was measured of it, in what `variant` leaves.
    pub fn search<'s>(&'s self, measured: &'s [Measured], variant: &'s Variant) -> Outcome<Search<'s>> {
        Search::new(&self.model, measured, variant)
            .ok_or_else(|| "the measurements that were kept are of another model: remove them".into())
    }

    /// Makes its file the one at `path`.
    pub fn rename(&self, path: &Path) -> Outcome<()> {
        Ok(self.file.as_ref().ok_or("nothing is left out of this model")?.rename(path)?)
    }
}

/// Prunes the teacher into the file `path`.
fn prune(job: &Job, goal: Goal, path: &Path, watch: &mut dyn FnMut(Step)) -> Outcome<PruningRecord> {
    let Job { args, teacher, n_threads, cancel, .. } = *job;
    let is_quantized = teacher.tensors().any(|(_, tensor)| tensor.dtype.is_quantized());
    if is_quantized && !args.rounds() {
        return Err("pruning changes matrices, and those of this model are quantised: \
                    add --size, --preset or --type, or give a model with float weights"
            .into());
    }
    let windows = Windows::new(job.tokenizer, job.text, job.window_len)?;
    let (windows, _, _) = certificate::split(&windows, job.n_windows);
    let folder = Temporary::beside(&args.output, "solved");
    fs::create_dir_all(&folder.0)
        .map_err(|error| format!("could not write {}: {error}", folder.0.display()))?;
    let options = Options { n_threads, effort: Effort::default() };
    let pruned = Compressor::new(teacher, &windows, options, cancel, watch)?.prune(goal, &folder.0)?;
    pruned.write(teacher, path)?;
    let before = Shape::of(teacher.config());
    Ok(PruningRecord {
        n_params_before: before.n_params(teacher),
        n_params: pruned.shape.n_params(teacher),
        before,
        shape: pruned.shape,
        trials: pruned.trials,
    })
}

/// A text as part of a file's name.
fn mark(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).collect()
}
