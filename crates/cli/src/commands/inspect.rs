//! `edgeward inspect`: what is in a model file, and what running it will take.

use std::collections::BTreeMap;
use std::sync::Arc;

use edgeward_kernels::kv::KvType;
use edgeward_model::gguf::Value;
use edgeward_model::{Model, Source};
use serde::Serialize;

use crate::Outcome;
use crate::device;
use crate::engine_args::{self, MemoryNeed};
use crate::output::{self, Align, Table, print_line};
use crate::store::{Progress, Verbosity, human_bytes};

/// Longer strings of the metadata are cut in the table, characters.
const MAX_SHOWN_CHARS: usize = 70;
/// Conversation lengths for which the memory is stated, besides the model's own.
const CONTEXT_LENS: [usize; 2] = [2048, 8192];

/// Show what is in a model: metadata, tensors, bytes per type, and the memory that it needs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward inspect smollm2-135m
  edgeward inspect ./model.gguf --tensors
  edgeward inspect smollm2-135m --json")]
pub struct Args {
    /// Name, hf:org/repo[/file.gguf] or path
    model: String,
    /// List every tensor, instead of one line for all layers
    #[arg(long)]
    tensors: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    path: String,
    format: String,
    size_bytes: u64,
    n_weights: u64,
    config: Vec<(&'static str, String)>,
    types: Vec<TypeRow>,
    memory: MemoryReport,
    metadata: Vec<(String, serde_json::Value)>,
    tensors: Vec<TensorRow>,
}

#[derive(Serialize)]
struct TypeRow {
    dtype: String,
    n_tensors: usize,
    n_weights: u64,
    size_bytes: u64,
}

#[derive(Serialize)]
struct TensorRow {
    name: String,
    dtype: String,
    n_rows: usize,
    n_cols: usize,
    size_bytes: u64,
}

#[derive(Serialize)]
struct MemoryReport {
    weight_bytes: u64,
    work_bytes: u64,
    /// For each length of conversation and type of keys and values.
    needs: Vec<NeedRow>,
    available_bytes: Option<u64>,
}

#[derive(Serialize)]
struct NeedRow {
    context_len: usize,
    kv_type: &'static str,
    kv_bytes: u64,
    total_bytes: u64,
    /// Unknown where the system does not tell how much memory is free.
    fits: Option<bool>,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let model = engine_args::open(&args.model, &mut Progress::new(verbosity))?;
    let report = report(&model);
    if args.json {
        return output::print_json(&report);
    }
    print(&report, args.tensors)?;
    Ok(())
}

fn report(model: &Arc<Model>) -> Report {
    let mut types: BTreeMap<_, TypeRow> = BTreeMap::new();
    let mut tensors = Vec::new();
    for (_, tensor) in model.tensors() {
        let n_weights = tensor.n_rows as u64 * tensor.n_cols as u64;
        let size_bytes = tensor.data.len() as u64;
        let dtype = tensor.dtype.name().to_owned();
        let row = types.entry(tensor.dtype).or_insert(TypeRow {
            dtype: dtype.clone(),
            n_tensors: 0,
            n_weights: 0,
            size_bytes: 0,
        });
        row.n_tensors += 1;
        row.n_weights += n_weights;
        row.size_bytes += size_bytes;
        let (n_rows, n_cols) = (tensor.n_rows, tensor.n_cols);
        tensors.push(TensorRow { name: tensor.name.to_owned(), dtype, n_rows, n_cols, size_bytes });
    }
    let metadata = match model.source() {
        Source::Gguf(gguf) => gguf.metadata().map(|(key, value)| (key.to_owned(), json(value))).collect(),
        Source::Folder(_) => Vec::new(),
    };
    let format = match model.gguf() {
        Some(gguf) => format!("GGUF version {}", gguf.version()),
        None => "safetensors".to_owned(),
    };
    Report {
        path: model.path().display().to_string(),
        format,
        size_bytes: model.file_bytes(),
        n_weights: types.values().map(|row| row.n_weights).sum(),
        config: config_rows(model),
        types: types.into_values().collect(),
        memory: memory_report(model),
        metadata,
        tensors,
    }
}

fn config_rows(model: &Model) -> Vec<(&'static str, String)> {
    let config = model.config();
    let mut rows = vec![
        ("family", format!("{:?}", config.family).to_lowercase()),
        ("n_layers", config.n_layers.to_string()),
        ("hidden_dim", config.hidden_dim.to_string()),
        ("ffn_dim", config.ffn_dim.to_string()),
        ("n_heads", config.n_heads.to_string()),
        ("n_kv_heads", config.n_kv_heads.to_string()),
        ("head_dim", config.head_dim.to_string()),
        ("vocab_size", config.vocab_size.to_string()),
        ("context_len", config.context_len.to_string()),
        ("rope_theta", config.rope.theta.to_string()),
    ];
    if let Some(window) = &config.sliding_window {
        let n_windowed = window.layer_is_windowed.iter().filter(|is_windowed| **is_windowed).count();
        rows.push(("sliding_window", format!("{} in {n_windowed} layers", window.window_len)));
    }
    rows
}

fn memory_report(model: &Model) -> MemoryReport {
    let available_bytes = device::memory().map(|memory| memory.available_bytes);
    let own = model.config().context_len;
    let lens = CONTEXT_LENS.into_iter().filter(|len| *len < own).chain([own]);
    let mut needs = Vec::new();
    for context_len in lens {
        for (kv_type, name) in [(KvType::F16, "f16"), (KvType::Q8_0, "q8_0")] {
            // The engine refuses what cannot be cut into groups of 32.
            if kv_type == KvType::Q8_0 && !model.config().head_dim.is_multiple_of(32) {
                continue;
            }
            let need = MemoryNeed::new(model, kv_type);
            let total_bytes = need.total_bytes(context_len);
            needs.push(NeedRow {
                context_len,
                kv_type: name,
                kv_bytes: need.kv_bytes(context_len),
                total_bytes,
                fits: available_bytes.map(|available| total_bytes <= available),
            });
        }
    }
    let need = MemoryNeed::new(model, KvType::F16);
    MemoryReport { weight_bytes: need.weight_bytes, work_bytes: need.work_bytes, needs, available_bytes }
}

/// A metadata value; of an array only what it is, for vocabularies have hundreds of thousands of entries.
fn json(value: Value) -> serde_json::Value {
    if let Some(array) = value.as_array() {
        return format!("{} x {}", array.len(), array.element_type().name()).into();
    }
    match value {
        Value::String(text) => text.into(),
        Value::Bool(flag) => flag.into(),
        Value::F32(_) | Value::F64(_) => value.as_f64().into(),
        _ => value.as_i64().map(Into::into).or(value.as_u64().map(Into::into)).unwrap_or_default(),
    }
}

fn print(report: &Report, all_tensors: bool) -> std::io::Result<()> {
    print_line(&format!(
        "{}\n{}, {}, {:.1} million weights\n",
        report.path,
        report.format,
        human_bytes(report.size_bytes),
        report.n_weights as f64 / 1e6
    ))?;
    let mut table = Table::new(&[("HYPERPARAMETER", Align::Left), ("VALUE", Align::Right)]);
    for (name, value) in &report.config {
        table.row(vec![(*name).to_owned(), value.clone()]);
    }
    table.print()?;

    print_line("")?;
    let mut table = Table::new(&[
        ("TYPE", Align::Left),
        ("TENSORS", Align::Right),
        ("WEIGHTS", Align::Right),
        ("BYTES", Align::Right),
        ("BITS PER WEIGHT", Align::Right),
    ]);
    for row in &report.types {
        table.row(vec![
            row.dtype.clone(),
            row.n_tensors.to_string(),
            row.n_weights.to_string(),
            row.size_bytes.to_string(),
            format!("{:.2}", row.size_bytes as f64 * 8.0 / row.n_weights as f64),
        ]);
    }
    table.print()?;

    print_line("")?;
    print_tensors(&report.tensors, all_tensors)?;

    if !report.metadata.is_empty() {
        print_line("")?;
        let mut table = Table::new(&[("KEY", Align::Left), ("VALUE", Align::Left)]);
        for (key, value) in &report.metadata {
            let value = match value {
                serde_json::Value::String(text) => shorten(text),
                other => other.to_string(),
            };
            table.row(vec![key.clone(), value]);
        }
        table.print()?;
    }

    print_line("")?;
    print_memory(&report.memory)
}

fn print_tensors(tensors: &[TensorRow], all: bool) -> std::io::Result<()> {
    // One line for tensors that differ only in the number of their layer.
    let mut groups: Vec<(String, &TensorRow, usize)> = Vec::new();
    for tensor in tensors {
        let pattern = if all { tensor.name.clone() } else { without_numbers(&tensor.name) };
        let same = groups.iter_mut().find(|(known, first, _)| {
            *known == pattern
                && (&first.dtype, first.n_rows, first.n_cols) == (&tensor.dtype, tensor.n_rows, tensor.n_cols)
        });
        match same {
            Some((_, _, count)) => *count += 1,
            None => groups.push((pattern, tensor, 1)),
        }
    }
    let mut table = Table::new(&[
        ("TENSOR", Align::Left),
        ("COUNT", Align::Right),
        ("TYPE", Align::Left),
        ("ROWS", Align::Right),
        ("COLUMNS", Align::Right),
        ("BYTES", Align::Right),
    ]);
    for (pattern, first, count) in groups {
        table.row(vec![
            pattern,
            count.to_string(),
            first.dtype.clone(),
            first.n_rows.to_string(),
            first.n_cols.to_string(),
            (first.size_bytes * count as u64).to_string(),
        ]);
    }
    table.print()
}

fn print_memory(memory: &MemoryReport) -> std::io::Result<()> {
    let mut table = Table::new(&[
        ("CONVERSATION", Align::Right),
        ("KEYS AND VALUES", Align::Left),
        ("THEIR SIZE", Align::Right),
        ("MEMORY TO RUN", Align::Right),
        ("", Align::Left),
    ]);
    for need in &memory.needs {
        table.row(vec![
            format!("{} tokens", need.context_len),
            need.kv_type.to_owned(),
            human_bytes(need.kv_bytes),
            human_bytes(need.total_bytes),
            match need.fits {
                Some(true) => "fits".to_owned(),
                Some(false) => "does not fit".to_owned(),
                None => String::new(),
            },
        ]);
    }
    table.print()?;
    if let Some(available_bytes) = memory.available_bytes {
        print_line(&format!("{} of memory are free now.", human_bytes(available_bytes)))?;
        if memory.needs.iter().all(|need| need.fits == Some(false)) {
            print_line("This model will not fit: close other programs, or take a smaller model.")?;
        }
    }
    Ok(())
}

/// `blk.17.attn_q.weight` -> `blk.N.attn_q.weight`.
fn without_numbers(name: &str) -> String {
    let steps: Vec<&str> = name
        .split('.')
        .map(
            |step| {
                if !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()) { "N" } else { step }
            },
        )
        .collect();
    steps.join(".")
}

/// The beginning of `text` on one line.
fn shorten(text: &str) -> String {
    let line: String = text.chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().count() > MAX_SHOWN_CHARS { format!("{line}...") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_for_a_table() {
        assert_eq!(without_numbers("blk.17.attn_q.weight"), "blk.N.attn_q.weight");
        assert_eq!(without_numbers("output.weight"), "output.weight");
        assert_eq!(shorten("a\nb"), "a\\nb");
        assert_eq!(shorten(&"é".repeat(MAX_SHOWN_CHARS + 1)), format!("{}...", "é".repeat(MAX_SHOWN_CHARS)));
    }
}
