//! What is told of a finished file, in it and beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_compress::certificate::{
    self, Certificate, KV_KEY, PruningRecord, TensorRecord, VocabularyRecord,
};
use edgeward_compress::compress::{Step, add_metadata};
use edgeward_engine::KvType;
use edgeward_model::Model;
use edgeward_model::gguf::Value;
use serde::Serialize;

use super::samples::Asked;
use super::shaped::Shaped;
use super::work::{Made, result_engine};
use super::{Job, Outcome, running, vocabulary};

/// What is told of a file.
#[derive(Serialize)]
pub struct Report {
    pub output: PathBuf,
    pub size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_kl: Option<f64>,
    pub kl_divergence: f64,
    pub kl_divergence_stderr: f64,
    pub top1_agreement: f64,
    pub perplexity: f64,
    /// Milliseconds.
    pub ms_per_token: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruning: Option<PruningRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<VocabularyRecord>,
}

/// Puts the certificate into the file that was asked for, and beside it.
pub fn certify(job: &Job, shaped: &Shaped, made: Made, watch: &mut dyn FnMut(Step)) -> Outcome<Report> {
    let Job { args, cancel, n_threads, .. } = *job;
    let Made { request, solution, check, rounds, predicted, candidates, .. } = made;
    let path = &request.output;
    if let Some(kv_type) = solution.kv_type {
        add_metadata(path, &[(KV_KEY, Value::String(kv_type.name()))])?;
    }
    let vocabulary = match (&job.trimming, &shaped.kept) {
        (Some(trimming), Some(kept)) => {
            let mut result = result_engine(path, solution.kv_type, n_threads)?;
            let mut teacher = vocabulary::engine(job.teacher, n_threads)?;
            let result = (&mut result, &shaped.tokenizer);
            let teacher = (&mut teacher, job.tokenizer);
            Some(trimming.certify(kept, result, teacher, cancel, watch)?)
        }
        _ => None,
    };
    let model = Arc::new(Model::load(path)?);
    let asked = |model, tokenizer, kv_type: Option<KvType>| Asked {
        model,
        tokenizer,
        kv_type: kv_type.unwrap_or_default(),
    };
    let (tasks, answers) = job.samples.ask(
        &asked(job.teacher, job.tokenizer, None),
        &asked(&model, &shaped.tokenizer, solution.kv_type),
        cancel,
        watch,
    )?;
    drop(model);
    let figures = match predicted {
        Some(figures) => figures,
        None => running::measure(path, job.device_threads, args.context as usize)?,
    };
    let device = job.wish().record(solution.kv_type, figures);
    let tensors = solution.assignment.0.iter().filter_map(|(slot, dtype)| {
        let tensor = shaped.model.tensor(*slot)?;
        Some(TensorRecord {
            name: tensor.name.to_owned(),
            dtype: dtype.name().to_owned(),
            size_bytes: (dtype.row_bytes(tensor.n_cols)? * tensor.n_rows) as u64,
            expected_kl: solution.losses.get(tensor.name).copied(),
        })
    });
    let budget_bytes = request.size.map(|size| size.bytes);
    let expected_kl = (!solution.losses.is_empty()).then(|| solution.loss());
    let certificate = Certificate {
        version: certificate::VERSION,
        made_by: format!("edgeward {}", env!("CARGO_PKG_VERSION")),
        command: job.command(budget_bytes, path),
        teacher: job.ids.0.clone(),
        calibration: job.ids.1.clone(),
        window_len: shaped.windows.window_len(),
        n_calibration_windows: shaped.windows.len(),
        size_bytes: fs::metadata(path)?.len(),
        budget_bytes,
        expected_kl,
        rounds,
        check,
        device: Some(device),
        tasks,
        answers,
        pruning: shaped.pruned.clone(),
        vocabulary: vocabulary.clone(),
        tensors: tensors.collect(),
        candidates,
    };
    let json = certificate.to_json();
    add_metadata(path, &[(certificate::KEY, Value::String(&json))])?;
    write(&path.with_extension("certificate.json"), &json)?;
    write(&path.with_extension("certificate.html"), &certificate.to_html())?;
    Ok(Report {
        output: path.clone(),
        size_bytes: fs::metadata(path)?.len(),
        budget_bytes,
        expected_kl,
        kl_divergence: check.kl_divergence,
        kl_divergence_stderr: check.kl_divergence_stderr,
        top1_agreement: check.top1_agreement,
        perplexity: check.perplexity,
        ms_per_token: figures.ns_per_token / 1e6,
        memory_bytes: figures.memory_bytes,
        pruning: shaped.pruned.clone(),
        vocabulary,
    })
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("could not write {}: {error}", path.display()))
}
