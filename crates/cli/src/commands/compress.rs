//! `edgeward compress`: a smaller file of a model.

mod budget;
mod certify;
mod plan;
mod running;
mod samples;
mod shaped;
mod temporary;
mod vocabulary;
mod work;

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use edgeward_compress::certificate::FileId;
use edgeward_compress::compress::Step;
use edgeward_compress::eval::Windows;
use edgeward_compress::prune::Goal;
use edgeward_compress::vocabulary::{Limit, MISSING_SHARE};
use edgeward_engine::CancelToken;
use edgeward_kernels::DType;
use edgeward_model::Model;
use edgeward_model::tokenizer::Tokenizer;

use crate::commands::eval::load_tasks;
use crate::device::{self, DeviceProfile};
use crate::engine_args;
use crate::output::{self, Align, Table};
use crate::store::{Progress, Verbosity, human_bytes};
use budget::{Preset, Wish};
use certify::Report;
use samples::{PROMPTS, Samples};
use shaped::Shaped;
use vocabulary::Trimming;
pub use vocabulary::sentence as vocabulary_sentence;
use work::Work;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Tokens of a window of calibration text: long enough that most positions see much before them.
const WINDOW_LEN: usize = 512;

/// Make a smaller file of a model
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward compress teacher.gguf --size 92MB --calibration wiki.valid.txt -o small.gguf
  edgeward compress teacher.gguf --size 105MB,92MB,85MB --calibration wiki.valid.txt -o small.gguf
  edgeward compress teacher.gguf --preset balanced --calibration wiki.valid.txt -o small.gguf
  edgeward compress teacher.gguf --ram 128MB --context 1024 --calibration wiki.valid.txt -o small.gguf
  edgeward compress teacher.gguf --latency 2ms/token --calibration wiki.valid.txt -o small.gguf
  edgeward compress teacher.gguf --latency 20ms/token --device gateway.json --calibration wiki.valid.txt -o small.gguf
  edgeward compress teacher.gguf --type Q4_0 --calibration wiki.valid.txt -o small.gguf
  edgeward compress gemma3-270m --vocab-from corpus.txt -o small.gguf
  edgeward compress teacher.gguf --prune 15 --calibration wiki.valid.txt -o small.gguf
  edgeward compress teacher.gguf --vocab-from corpus.txt --vocab-size 20000 --size 60MB -o small.gguf

The calibration text should look like what the model will read: its activations on that text decide which errors matter.
Some hundred kilobytes are enough. Stopped by Ctrl-C or otherwise, the same command goes on from where it was.")]
pub struct Args {
    /// Name, hf:org/repo/file.gguf or path of a GGUF file, best with float weights
    model: String,
    /// Bytes of the file at most, such as 92MB or 88MiB: the best type for each matrix is searched for, and which layers are
    /// not worth their bytes. Several sizes share the measurements, and their names get the size: small-92MB.gguf
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = parse_size,
        required_unless_present_any =
            ["ram", "latency", "preset", "max_kl", "dtype", "vocab_from", "prune", "drop_layers"])]
    size: Vec<Size>,
    /// Memory that running the model may take on this device, in a conversation of --context tokens
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "dtype")]
    ram: Option<Size>,
    /// Time that a token at the beginning of an answer may take on this device, such as 4ms/token
    #[arg(long, value_name = "TIME", value_parser = budget::parse_latency, conflicts_with = "dtype")]
    latency: Option<f64>,
    /// Profile of the device that --ram and --latency are for, made there by `edgeward probe --types --json`: then they are
    /// reckoned, not measured [default: this device]
    #[arg(long, value_name = "FILE")]
    device: Option<PathBuf>,
    /// Tokens of the conversation that --ram must have room for
    #[arg(long, value_name = "TOKENS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..))]
    context: u32,
    /// The smallest file that loses no more than this
    #[arg(long, value_enum, conflicts_with_all = ["size", "ram", "latency", "dtype"])]
    preset: Option<Preset>,
    /// The smallest file whose mean divergence from the model is expected to be no more than this, nats
    #[arg(long, value_name = "NATS", value_parser = parse_kl,
        conflicts_with_all = ["size", "ram", "latency", "dtype", "preset"])]
    max_kl: Option<f64>,
    /// Only types that llama.cpp and other readers of GGUF files know; without it, the EW types of 2.25 to 6.25 bits,
    /// which lose less at the same size, are chosen from too
    #[arg(long, conflicts_with = "dtype")]
    compatible: bool,
    /// One type for all matrices. Those called EW are Edgeward's own
    #[arg(long = "type", value_name = "TYPE", value_enum, ignore_case = true, conflicts_with = "size")]
    dtype: Option<TypeArg>,
    /// Keep only the tokens that texts like this one need; every text can still be encoded. A search for types chooses how
    /// many too. Without --size, --ram, --latency, --preset, --max-kl or --type nothing else is changed
    #[arg(long, value_name = "FILE")]
    vocab_from: Option<PathBuf>,
    /// Tokens to keep at most [default: what the search finds best; without one, as it takes to miss one in a thousand of such
    /// a text]
    #[arg(long, value_name = "N", requires = "vocab_from", value_parser = clap::value_parser!(u32).range(1..))]
    vocab_size: Option<u32>,
    /// Leave out at least so many percent of the weights: layers, neurons and heads, of each as many as costs the least.
    /// What is left is adjusted. Needs float weights, unless --size, --preset or --type rounds the result
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent, conflicts_with = "drop_layers")]
    prune: Option<f64>,
    /// Leave out so many whole layers, one after the other those that are missed the least; 0 keeps all. As --prune
    #[arg(long, value_name = "N")]
    drop_layers: Option<u16>,
    /// A text of the kind that the model will read [default: that of --vocab-from]
    #[arg(long, value_name = "FILE", required_unless_present = "vocab_from")]
    calibration: Option<PathBuf>,
    /// Only so many tokens of the text, evenly spread
    #[arg(long, value_name = "TOKENS", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(512..))]
    calibration_tokens: u32,
    /// Files of questions, as those of `edgeward eval`, that the model and the result are given for the certificate
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    tasks: Vec<PathBuf>,
    /// Only the first so many questions of each task
    #[arg(long, value_name = "N", requires = "tasks", value_parser = clap::value_parser!(u32).range(1..))]
    examples: Option<u32>,
    /// A prompt whose answers before and after are put into the certificate; may be given several times [default: three]
    #[arg(long = "sample", value_name = "PROMPT")]
    samples: Vec<String>,
    /// The file to write
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// Threads, of this and of running the result [default: as many as can run at once]
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Print JSON instead of a sentence
    #[arg(long)]
    json: bool,
}

/// Types that matrices can be rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, non_camel_case_types)]
pub enum TypeArg {
    #[value(name = "Q4_0")]
    Q4_0,
    #[value(name = "IQ4_NL")]
    IQ4_NL,
    #[value(name = "Q4_1")]
    Q4_1,
    #[value(name = "Q5_0")]
    Q5_0,
    #[value(name = "Q5_1")]
    Q5_1,
    #[value(name = "Q8_0")]
    Q8_0,
    #[value(name = "EW2")]
    EW2,
    #[value(name = "EW3")]
    EW3,
    #[value(name = "EW4")]
    EW4,
    #[value(name = "EW5")]
    EW5,
    #[value(name = "EW6")]
    EW6,
}

impl From<TypeArg> for DType {
    fn from(arg: TypeArg) -> DType {
        match arg {
            TypeArg::Q4_0 => DType::Q4_0,
            TypeArg::IQ4_NL => DType::IQ4_NL,
            TypeArg::Q4_1 => DType::Q4_1,
            TypeArg::Q5_0 => DType::Q5_0,
            TypeArg::Q5_1 => DType::Q5_1,
            TypeArg::Q8_0 => DType::Q8_0,
            TypeArg::EW2 => DType::EW2,
            TypeArg::EW3 => DType::EW3,
            TypeArg::EW4 => DType::EW4,
            TypeArg::EW5 => DType::EW5,
            TypeArg::EW6 => DType::EW6,
        }
    }
}

impl Args {
    /// What may be lost, nats, if that was asked for.
    fn max_kl(&self) -> Option<f64> {
        self.max_kl.or(self.preset.map(Preset::max_kl))
    }

    /// Whether matrices are rounded, and not only left out.
    fn rounds(&self) -> bool {
        let is_searched = !self.size.is_empty() || self.ram.is_some() || self.latency.is_some();
        is_searched || self.preset.is_some() || self.max_kl.is_some() || self.dtype.is_some()
    }
}

/// A size, and how it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Size {
    text: String,
    bytes: u64,
}

/// `92MB`, `88MiB`, `1.5GB` or bytes.
fn parse_size(text: &str) -> Result<Size, String> {
    let wrong = || format!("{text:?} is no size such as 92MB, 88MiB or 92000000");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1.0,
        "KB" | "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024f64.powi(2),
        "GiB" => 1024f64.powi(3),
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * unit;
    if !(1.0..=1e15).contains(&bytes) {
        return Err(wrong());
    }
    Ok(Size { text: text.to_owned(), bytes: bytes as u64 })
}

fn parse_kl(text: &str) -> Result<f64, String> {
    let kl = text.parse().ok().filter(|kl| (1e-6..=10.0).contains(kl));
    kl.ok_or_else(|| format!("{text:?} is no divergence from 0.000001 to 10 nats"))
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.trim_end_matches('%').parse().ok().filter(|percent| (0.1..=90.0).contains(percent));
    percent.ok_or_else(|| format!("{text:?} is no percentage from 0.1 to 90"))
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> crate::Outcome {
    let mut progress = Progress::new(verbosity);
    // Whatever can be wrong with the input is told before the long work.
    let path = args.calibration.as_ref().or(args.vocab_from.as_ref()).ok_or("give a --calibration text")?;
    let text = read_text(path)?;
    let corpus: Option<Result<_, String>> =
        args.vocab_from.as_ref().map(|path| Ok((read_text(path)?, file_id(path)?)));
    let corpus = corpus.transpose()?;
    let teacher = engine_args::open(&args.model, &mut progress)?;
    if teacher.gguf().is_none() {
        return Err(format!(
            "{} is not a GGUF file: convert the model to one first",
            teacher.path().display()
        )
        .into());
    }
    let window_len = WINDOW_LEN.min(teacher.config().context_len).max(4);
    let n_wanted = (args.calibration_tokens as usize / window_len).max(1);
    let tokenizer = teacher.tokenizer()?;
    Windows::new(&tokenizer, &text, window_len)?;
    let ids = (file_id(teacher.path())?, file_id(path)?);
    if args.size.len() > 1 && (args.ram.is_some() || args.latency.is_some()) {
        return Err("--ram and --latency are for one file: give one --size at most".into());
    }
    // What is measured here would bear that device's name.
    if args.device.is_some() && args.ram.is_none() && args.latency.is_none() {
        return Err("--device says which device --ram or --latency are for: give one of them".into());
    }
    let profile = args.device.as_deref().map(DeviceProfile::of_another).transpose()?;
    let tasks = load_tasks(&args.tasks)?;
    let prompts: Vec<String> = PROMPTS.iter().map(|prompt| (*prompt).to_owned()).collect();

    let cancel = CancelToken::new();
    let on_signal = cancel.clone();
    ctrlc::set_handler(move || on_signal.cancel())?;
    let n_threads = args.threads.map_or_else(device::n_logical_cores, usize::from);
    let mut shown = "";
    let mut watch = |step: Step| {
        if step.what != shown {
            progress.start_steps(step.what, step.n_done, step.n_all);
            if !progress.is_visible() {
                progress.note(step.what);
            }
            shown = step.what;
        }
        progress.set(step.n_done);
    };
    let trimming = corpus.as_ref().map(|(text, id)| Trimming {
        text,
        id: id.clone(),
        window_len,
        n_windows: n_wanted,
        demand: OnceCell::new(),
    });
    let job = Job {
        args,
        teacher: &teacher,
        tokenizer: &tokenizer,
        trimming,
        text: &text,
        window_len,
        n_windows: n_wanted,
        ids: (&ids.0, &ids.1),
        cancel: &cancel,
        n_threads,
        device_threads: budget::n_threads(args.threads, profile.as_ref()),
        profile: profile.as_ref(),
        samples: Samples {
            tasks: &tasks,
            n_examples: args.examples,
            prompts: if args.samples.is_empty() { &prompts } else { &args.samples },
            n_threads,
            before: OnceCell::new(),
        },
    };
    let outcome = job.make_all(&mut watch);
    progress.finish();
    let reports = match outcome {
        Err(_) if cancel.is_cancelled() => {
            let message = if job.goal().is_some() {
                "interrupted; the same command prunes again, and takes up what was measured and rounded after that"
            } else {
                "interrupted; the same command goes on from here"
            };
            return Err(message.into());
        }
        outcome => outcome?,
    };
    if args.json {
        return output::print_json(&reports);
    }
    let columns = ["SIZE", "KL DIVERGENCE", "SAME TOP-1", "PERPLEXITY", "MS/TOKEN", "MEMORY"]
        .map(|title| (title, Align::Right));
    let mut table = Table::new(&[&[("FILE", Align::Left)], &columns[..]].concat());
    for report in &reports {
        table.row(vec![
            report.output.display().to_string(),
            human_bytes(report.size_bytes),
            format!("{:.4} +/- {:.4}", report.kl_divergence, report.kl_divergence_stderr),
            format!("{:.1} %", report.top1_agreement * 100.0),
            format!("{:.3}", report.perplexity),
            format!("{:.2}", report.ms_per_token),
            report.memory_bytes.map_or(String::new(), human_bytes),
        ]);
    }
    table.print()?;
    for report in &reports {
        if let Some(pruning) = &report.pruning {
            output::print_line(&pruning.sentence())?;
        }
        if let Some(vocabulary) = &report.vocabulary {
            output::print_line(&vocabulary_sentence(vocabulary))?;
        }
    }
    Ok(())
}

/// What all files of one command have in common.
struct Job<'a> {
    args: &'a Args,
    teacher: &'a Arc<Model>,
    /// The teacher's.
    tokenizer: &'a Tokenizer,
    trimming: Option<Trimming<'a>>,
    /// That calibrates.
    text: &'a str,
    window_len: usize,
    n_windows: usize,
    /// Of teacher and calibration text.
    ids: (&'a FileId, &'a FileId),
    cancel: &'a CancelToken,
    n_threads: usize,
    /// Of the device that the result is for, and its profile if it is not this one.
    device_threads: usize,
    profile: Option<&'a DeviceProfile>,
    samples: Samples<'a>,
}

impl Job<'_> {
    fn make_all(&self, watch: &mut dyn FnMut(Step)) -> Outcome<Vec<Report>> {
        let args = self.args;
        let shaped = Shaped::new(self, self.goal(), self.vocabulary_limit(), watch)?;
        if !args.rounds() {
            if !shaped.is_made() {
                return Err("nothing is to be left out or rounded: add --size, --preset or --type".into());
            }
            return Ok(vec![Work::new(self, &shaped, watch)?.take_as_it_is()?]);
        }
        match args.dtype {
            Some(dtype) => Ok(vec![Work::new(self, &shaped, watch)?.make_uniform(dtype.into())?]),
            None => plan::make_all(self, &shaped, watch),
        }
    }

    /// What shall go, as far as that was said.
    fn goal(&self) -> Option<Goal> {
        let layers = self.args.drop_layers.filter(|n| *n > 0).map(|n| Goal::Layers(n.into()));
        layers.or(self.args.prune.map(|percent| Goal::Share(percent / 100.0)))
    }

    /// How many tokens stay unless another number is better.
    fn vocabulary_limit(&self) -> Option<Limit> {
        self.trimming.as_ref()?;
        let n_tokens = self.args.vocab_size.map(|n_tokens| Limit::Tokens(n_tokens as usize));
        Some(n_tokens.unwrap_or(Limit::MissingShare(MISSING_SHARE)))
    }

    /// What is asked of a device.
    pub fn wish(&self) -> Wish<'_> {
        let args = self.args;
        Wish {
            size: args.size.first(),
            ram: args.ram.as_ref(),
            latency_ns: args.latency,
            context_len: args.context as usize,
            n_threads: self.device_threads,
            profile: self.profile,
        }
    }

    /// The command that makes this file alone, without folders: those are nobody's business.
    fn command(&self, budget_bytes: Option<u64>, output: &Path) -> String {
        let args = self.args;
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = format!("edgeward compress {}", name(self.teacher.path()));
        let mut add = |option: &str, value: String| {
            command.push_str(&format!(" {option}"));
            if !value.is_empty() {
                command.push_str(&format!(" {value}"));
            }
        };
        if let Some(percent) = args.prune {
            add("--prune", percent.to_string());
        }
        if let Some(n_layers) = args.drop_layers {
            add("--drop-layers", n_layers.to_string());
        }
        if let Some(corpus) = &args.vocab_from {
            add("--vocab-from", name(corpus));
        }
        if let Some(n_tokens) = args.vocab_size {
            add("--vocab-size", n_tokens.to_string());
        }
        if let Some(budget) = budget_bytes {
            add("--size", budget.to_string());
        }
        if let Some(ram) = &args.ram {
            add("--ram", ram.bytes.to_string());
            add("--context", args.context.to_string());
        }
        if let Some(ns) = args.latency {
            add("--latency", format!("{}ms/token", ns / 1e6));
        }
        if let Some(profile) = &args.device {
            add("--device", name(profile));
        }
        if let Some(max_kl) = args.max_kl() {
            add("--max-kl", max_kl.to_string());
        }
        if args.compatible {
            add("--compatible", String::new());
        }
        if let Some(dtype) = args.dtype {
            add("--type", DType::from(dtype).to_string());
        }
        if let Some(calibration) = &args.calibration {
            add("--calibration", name(calibration));
        }
        add("--calibration-tokens", args.calibration_tokens.to_string());
        add("-o", name(output));
        command
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| {
        format!("could not read {} as text: {error}; give some pages of ordinary text", path.display())
    })
}

fn file_id(path: &Path) -> Result<FileId, String> {
    super::file_id(path).map_err(|error| format!("could not read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("92MB", 92_000_000),
            ("1.5GB", 1_500_000_000),
            ("88MiB", 88 << 20),
            ("512KiB", 512 << 10),
            ("7", 7),
        ] {
            assert_eq!(parse_size(text).unwrap().bytes, bytes, "{text}");
        }
        for text in ["", "MB", "-1MB", "0", "1TB", "1e300MB", "NaNMB", "9 MB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
