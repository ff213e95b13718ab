//! `edgeward compress`: a smaller file of a model.

use std::fs;
use std::path::PathBuf;

use clap::ValueEnum;
use edgeward_compress::compress::{Assignment, Compressor, Options};
use edgeward_compress::eval::Windows;
use edgeward_compress::rounding::Effort;
use edgeward_engine::CancelToken;
use edgeward_kernels::DType;
use serde::Serialize;

use crate::Outcome;
use crate::device;
use crate::engine_args;
use crate::output::{self, print_line};
use crate::resume::fingerprint;
use crate::store::{Progress, Verbosity, human_bytes};

/// Tokens of a window of calibration text: long enough that most positions see much before them.
const WINDOW_LEN: usize = 512;

/// Make a smaller file of a model
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward compress teacher.gguf --type Q4_0 --calibration wiki.valid.txt -o small.gguf

The calibration text should look like what the model will read: its activations on that text decide which errors matter.
Some hundred kilobytes are enough. Stopped by Ctrl-C or otherwise, the same command goes on from where it was.")]
pub struct Args {
    /// Name, hf:org/repo/file.gguf or path of a GGUF file, best with float weights
    model: String,
    /// One type for all matrices
    #[arg(long = "type", value_name = "TYPE", value_enum, ignore_case = true)]
    dtype: TypeArg,
    /// A text of the kind that the model will read
    #[arg(long, value_name = "FILE")]
    calibration: PathBuf,
    /// Only so many tokens of the text, evenly spread
    #[arg(long, value_name = "TOKENS", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(512..))]
    calibration_tokens: u32,
    /// The file to write
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// Threads [default: as many as can run at once]
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
        }
    }
}

#[derive(Serialize)]
struct Report {
    output: PathBuf,
    size_bytes: u64,
    teacher_bytes: u64,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let mut progress = Progress::new(verbosity);
    let text = fs::read_to_string(&args.calibration).map_err(|error| {
        format!(
            "could not read {} as text: {error}; give some pages of ordinary text",
            args.calibration.display()
        )
    })?;
    let model = engine_args::open(&args.model, &mut progress)?;
    let window_len = WINDOW_LEN.min(model.config().context_len).max(4);
    let windows = Windows::new(&model.tokenizer()?, &text, window_len)?;
    let windows = windows.part((args.calibration_tokens as usize / window_len).max(1));

    let cancel = CancelToken::new();
    let on_signal = cancel.clone();
    ctrlc::set_handler(move || on_signal.cancel())?;
    let n_threads = args.threads.map_or_else(device::n_logical_cores, usize::from);
    let mut shown = "";
    let mut watch = |step: edgeward_compress::compress::Step| {
        if step.what != shown {
            progress.start_steps(step.what, step.n_done, step.n_all);
            if !progress.is_visible() {
                progress.note(step.what);
            }
            shown = step.what;
        }
        progress.set(step.n_done);
    };
    let options = Options { n_threads, effort: Effort::default() };
    let job = format!("{} {} {}", fingerprint(model.path()), fingerprint(&args.calibration), windows.len());
    let assignment = Assignment::uniform(&model, args.dtype.into());
    let outcome = Compressor::new(&model, &windows, options, &cancel, &mut watch)
        .and_then(|mut compressor| compressor.write(&assignment, &[], &args.output, &job));
    progress.finish();
    if let Err(error) = outcome {
        if cancel.is_cancelled() {
            return Err("interrupted; the same command goes on from here".into());
        }
        return Err(error.into());
    }
    let report = Report {
        output: args.output.clone(),
        size_bytes: fs::metadata(&args.output)?.len(),
        teacher_bytes: model.file_bytes(),
    };
    if args.json {
        return output::print_json(&report);
    }
    print_line(&format!(
        "{}: {}, of {}",
        report.output.display(),
        human_bytes(report.size_bytes),
        human_bytes(report.teacher_bytes)
    ))?;
    Ok(())
}
