//! `edgeward inspect`: what is in a model file, and what running it will take.

use std::io;
use std::path::PathBuf;

use edgeward_compress::certificate::Certificate;
use edgeward_model::Config;
use edgeward_model::gguf::Gguf;
use edgeward_model::inspect::{Format, Inspection, MemoryEstimate, TensorInfo, Verdict, inspect};
use serde::Serialize;

use crate::Outcome;
use crate::commands::compress::vocabulary_sentence;
use crate::engine_args::{self, KvArg};
use crate::output::{self, Align, Table, print_line};
use crate::store::{Progress, Store, Verbosity, human_bytes};

/// Longer values of the metadata are cut in the table, characters.
const MAX_SHOWN_CHARS: usize = 70;

/// Show what is in a model: metadata, tensors, bytes per type, and the memory that it needs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward inspect smollm2-135m
  edgeward inspect ./model.gguf --tensors
  edgeward inspect smollm2-135m --context 2048 --kv q8_0
  edgeward inspect smollm2-135m --json")]
pub struct Args {
    /// Name, hf:org/repo[/file.gguf] or path
    model: String,
    /// List every tensor, instead of one line for all layers
    #[arg(long)]
    tensors: bool,
    /// Longest conversation to estimate memory for, tokens [default: what the model was made for]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// How keys and values are kept [default: as the file says, else f16]
    #[arg(long, value_enum)]
    kv: Option<KvArg>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    path: PathBuf,
    #[serde(flatten)]
    inspection: Inspection,
    /// Of a file of `edgeward compress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Certificate>,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let path = Store::open()?.resolve(&args.model, &mut Progress::new(verbosity))?;
    let context_len = args.context.map(|len| len as usize);
    // What is no GGUF file, or a damaged one, is inspect's to judge.
    let gguf = Gguf::open(&path).ok();
    let kv_type = engine_args::kv_type(args.kv, gguf.as_ref());
    let inspection = inspect(&path, &engine_args::budget(context_len, kv_type))?;
    let certificate = gguf.as_ref().and_then(Certificate::of);
    let report = Report { path, inspection, certificate };
    if args.json {
        return output::print_json(&report);
    }
    print(&report, args.tensors)?;
    Ok(())
}

fn print(report: &Report, all_tensors: bool) -> io::Result<()> {
    let Report { path, inspection, certificate } = report;
    let format = match inspection.format {
        Format::Gguf { version } => format!("GGUF version {version}"),
        Format::Safetensors { n_files } => format!("safetensors in {n_files} file(s)"),
    };
    print_line(&path.display().to_string())?;
    let n_millions = inspection.n_params as f64 / 1e6;
    print_line(&format!(
        "{format}, {}, {n_millions:.1} million weights\n",
        human_bytes(inspection.file_bytes)
    ))?;
    print_types(inspection)?;
    print_line("")?;
    print_tensors(&inspection.tensors, all_tensors)?;
    print_line("")?;
    print_metadata(inspection)?;
    print_line("")?;
    if let Some(certificate) = certificate {
        print_certificate(certificate)?;
        print_line("")?;
    }
    match &inspection.verdict {
        Verdict::Runs { config, memory } => {
            print_config(config)?;
            print_line("")?;
            print_memory(memory)
        }
        Verdict::Refused { reason } => print_line(&format!("This model cannot be run: {reason}")),
    }
}

fn print_certificate(certificate: &Certificate) -> io::Result<()> {
    let Certificate { made_by, command, teacher, calibration, check, .. } = certificate;
    print_line(&format!("Made by {made_by}: {command}"))?;
    print_line(&format!("of {} (SHA-256 {})", teacher.name, teacher.sha256))?;
    print_line(&format!("calibrated on {} (SHA-256 {})", calibration.name, calibration.sha256))?;
    print_line(&format!(
        "KL divergence {:.4} +/- {:.4}, same top-1 {:.1} %, perplexity {:.3} +/- {:.3}; `edgeward eval --verify` measures again",
        check.kl_divergence,
        check.kl_divergence_stderr,
        check.top1_agreement * 100.0,
        check.perplexity,
        check.perplexity_stderr
    ))?;
    if let Some(pruning) = &certificate.pruning {
        print_line(&format!("Pruned: {}", pruning.sentence()))?;
    }
    certificate.vocabulary.as_ref().map_or(Ok(()), |record| {
        print_line(&format!("Vocabulary of {}: {}", record.corpus.name, vocabulary_sentence(record)))
    })
}

fn print_types(inspection: &Inspection) -> io::Result<()> {
    let mut table = Table::new(&[
        ("TYPE", Align::Left),
        ("TENSORS", Align::Right),
        ("WEIGHTS", Align::Right),
        ("BYTES", Align::Right),
        ("BITS PER WEIGHT", Align::Right),
    ]);
    for total in &inspection.types {
        table.row(vec![
            total.dtype.to_owned(),
            total.n_tensors.to_string(),
            total.n_params.to_string(),
            total.size_bytes.to_string(),
            format!("{:.2}", total.size_bytes as f64 * 8.0 / total.n_params as f64),
        ]);
    }
    table.print()
}

fn print_tensors(tensors: &[TensorInfo], all: bool) -> io::Result<()> {
    // One line for tensors that differ only in the number of their layer.
    let mut groups: Vec<(String, &TensorInfo, u64)> = Vec::new();
    for tensor in tensors {
        let pattern = if all { tensor.name.clone() } else { without_numbers(&tensor.name) };
        let same = groups.iter_mut().find(|(known, first, _)| {
            *known == pattern && first.dtype == tensor.dtype && first.shape == tensor.shape
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
        ("SHAPE", Align::Right),
        ("BYTES", Align::Right),
    ]);
    for (pattern, first, count) in groups {
        let shape: Vec<String> = first.shape.iter().map(usize::to_string).collect();
        table.row(vec![
            pattern,
            count.to_string(),
            first.dtype.to_owned(),
            shape.join(" x "),
            (first.size_bytes * count).to_string(),
        ]);
    }
    table.print()
}

fn print_metadata(inspection: &Inspection) -> io::Result<()> {
    let mut table = Table::new(&[("KEY", Align::Left), ("TYPE", Align::Left), ("VALUE", Align::Left)]);
    for entry in &inspection.metadata {
        let value = match &entry.value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let value = match entry.n_elements {
            Some(n) => format!("{n}: {value}"),
            None => value,
        };
        table.row(vec![entry.key.clone(), entry.value_type.clone(), shorten(&value)]);
    }
    table.print()
}

fn print_config(config: &Config) -> io::Result<()> {
    let mut table = Table::new(&[("HYPERPARAMETER", Align::Left), ("VALUE", Align::Right)]);
    let numbers = [
        ("n_layers", config.n_layers),
        ("hidden_dim", config.hidden_dim),
        ("ffn_dim", config.ffn_dim),
        ("n_heads", config.n_heads),
        ("n_kv_heads", config.n_kv_heads),
        ("head_dim", config.head_dim),
        ("vocab_size", config.vocab_size),
        ("context_len", config.context_len),
    ];
    table.row(vec!["family".into(), format!("{:?}", config.family).to_lowercase()]);
    for (name, number) in numbers {
        table.row(vec![name.into(), number.to_string()]);
    }
    table.row(vec!["rope_theta".into(), config.rope.theta.to_string()]);
    if let Some(window) = &config.sliding_window {
        let n_windowed = window.layer_is_windowed.iter().filter(|is_windowed| **is_windowed).count();
        table.row(vec!["window_len".into(), format!("{} in {n_windowed} layers", window.window_len)]);
    }
    table.print()
}

fn print_memory(memory: &MemoryEstimate) -> io::Result<()> {
    let mut table = Table::new(&[("MEMORY TO RUN", Align::Left), ("", Align::Right)]);
    let keys = format!("keys and values of {} tokens, {}", memory.context_len, memory.kv_dtype);
    for (what, bytes) in [
        ("weights".to_owned(), memory.weights_bytes),
        (keys, memory.kv_cache_bytes),
        ("activations".to_owned(), memory.activation_bytes),
        ("together".to_owned(), memory.total_bytes),
    ] {
        table.row(vec![what, human_bytes(bytes)]);
    }
    if let Some(available_bytes) = memory.available_bytes {
        table.row(vec!["free now".into(), human_bytes(available_bytes)]);
    }
    table.print()?;
    match (memory.fits, memory.longest_context_len) {
        (Some(true), _) => print_line("It fits."),
        (Some(false), Some(0)) => {
            print_line("It will not fit: close other programs, or take a smaller model.")
        }
        (Some(false), Some(longest)) => {
            print_line(&format!("It will not fit: at most {longest} tokens will (--context {longest})."))
        }
        _ => Ok(()),
    }
}

/// `blk.17.attn_q.weight` -> `blk.N.attn_q.weight`.
fn without_numbers(name: &str) -> String {
    let is_number = |step: &str| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
    let steps: Vec<&str> = name.split('.').map(|step| if is_number(step) { "N" } else { step }).collect();
    steps.join(".")
}

/// The beginning of `text` on one line.
fn shorten(text: &str) -> String {
    let line: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    let ending = if line.len() < text.len() { "..." } else { "" };
    line.replace('\n', "\\n").replace('\t', "\\t") + ending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_for_a_table() {
        assert_eq!(without_numbers("blk.17.attn_q.weight"), "blk.N.attn_q.weight");
        assert_eq!(without_numbers("output.weight"), "output.weight");
        assert_eq!(shorten("a\n[\"b\"\t"), "a\\n[\"b\"\\t");
        assert_eq!(shorten(&"é".repeat(MAX_SHOWN_CHARS)), "é".repeat(MAX_SHOWN_CHARS));
        assert_eq!(shorten(&"é".repeat(MAX_SHOWN_CHARS + 1)), format!("{}...", "é".repeat(MAX_SHOWN_CHARS)));
    }
}
