//! `edgeward net`: small networks, from TFLite and ONNX files.

mod bench;
mod cascade;
mod certify;
mod compress;
mod distill;
mod eval;
mod examples;
mod inspect;
mod run;

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use edgeward_perceive::network::Port;
use edgeward_perceive::onnx::{self, Settings};
use edgeward_perceive::{Arithmetic, Format, Graph, Network, Options, tflite};

use crate::Outcome;
use crate::store::Verbosity;

/// Files beyond this are no small networks, bytes.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Look into, run, measure and compress small networks for images, sounds and sensors
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  edgeward net inspect keyword.tflite
  edgeward net run keyword.tflite features.bin --json
  edgeward net bench keyword.tflite --threads 1,2
  edgeward net compress float.tflite --calibration photographs/ -o int8.tflite
  edgeward net distill float.tflite --prune-to 0.33 --inputs photographs/ -o student.tflite"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Run(run::Args),
    Bench(bench::Args),
    Eval(eval::Args),
    Cascade(cascade::Args),
    Compress(compress::Args),
    Distill(distill::Args),
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    match &args.command {
        Command::Inspect(args) => inspect::run(args),
        Command::Run(args) => run::run(args),
        Command::Bench(args) => bench::run(args, verbosity),
        Command::Eval(args) => eval::run(args),
        Command::Cascade(args) => cascade::run(args),
        Command::Compress(args) => compress::run(args, verbosity),
        Command::Distill(args) => distill::run(args, verbosity),
    }
}

/// How a network is made ready.
#[derive(clap::Args)]
pub(super) struct NetworkArgs {
    /// Whose arithmetic eight-bit layers follow, to the last bit: XNNPACK's (TFLite's default), or that of TFLite's
    /// reference kernels, which is slower
    #[arg(long, value_enum, default_value = "xnnpack")]
    arithmetic: ArithmeticArg,
    /// Bytes that weights and activations may take, MiB
    #[arg(long, default_value_t = 1024, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// What an ONNX file leaves open: the size of a named dimension, or the value of an
    /// input that is always the same, such as a sample rate
    #[arg(long = "set", value_name = "NAME=NUMBER,...", value_parser = setting)]
    settings: Vec<(String, Vec<f64>)>,
}

fn setting(text: &str) -> Result<(String, Vec<f64>), String> {
    let parsed = text.split_once('=').and_then(|(name, numbers)| {
        let numbers: Option<Vec<f64>> = numbers.split(',').map(|number| number.trim().parse().ok()).collect();
        Some((name.to_owned(), numbers?))
    });
    parsed.ok_or_else(|| "give a name and numbers, as in batch=1".to_owned())
}

#[derive(Clone, Copy, ValueEnum)]
enum ArithmeticArg {
    Xnnpack,
    Reference,
}

impl NetworkArgs {
    fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        for (name, numbers) in &self.settings {
            if let [size] = numbers.as_slice() {
                settings.dims.insert(name.clone(), *size as usize);
            }
            settings.inputs.insert(name.clone(), numbers.clone());
        }
        settings
    }

    pub(super) fn options(&self, n_threads: usize) -> Options {
        let arithmetic = match self.arithmetic {
            ArithmeticArg::Xnnpack => Arithmetic::Xnnpack,
            ArithmeticArg::Reference => Arithmetic::Reference,
        };
        Options { n_threads, arithmetic, limit_bytes: u64::from(self.limit) << 20, ..Options::default() }
    }
}

/// Why a file cannot be used.
#[derive(Debug)]
pub(super) struct FileError {
    path: PathBuf,
    source: Box<dyn std::error::Error>,
}

impl FileError {
    pub(super) fn new(path: &Path, source: impl Into<Box<dyn std::error::Error>>) -> FileError {
        FileError { path: path.to_owned(), source: source.into() }
    }
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not use {}", self.path.display())
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// Reads the network at `path`: ONNX by its name, as its files have no mark, else TFLite.
pub(super) fn read(path: &Path, args: &NetworkArgs) -> Result<Graph, FileError> {
    let read = || -> Result<Graph, Box<dyn std::error::Error>> {
        let size_bytes = std::fs::metadata(path)?.len();
        if size_bytes > MAX_FILE_BYTES {
            return Err(format!("it has {size_bytes} bytes, and {MAX_FILE_BYTES} are the most").into());
        }
        let bytes = std::fs::read(path)?;
        if Format::of_path(path) == Some(Format::Onnx) && Format::of_content(&bytes) == Format::Onnx {
            return Ok(onnx::read(&bytes.into(), &args.settings())?);
        }
        Ok(tflite::read(bytes.into())?)
    };
    read().map_err(|source| FileError::new(path, source))
}

/// The format of a file that is to be written, by its name.
pub(super) fn format(output: &Path) -> Result<Format, FileError> {
    Format::of_path(output).ok_or_else(|| {
        FileError::new(output, "its name says no format to write: give it one that ends in .tflite or .onnx")
    })
}

/// Reads the network at `path` as one that can be written as TFLite.
pub(super) fn read_writable(path: &Path, args: &NetworkArgs) -> Result<Graph, FileError> {
    tflite::adapt(&read(path, args)?).map_err(|error| FileError::new(path, error))
}

/// Writes a file whole, or not at all.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}-{}.partial", std::process::id()));
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|error| {
        // Whether it was made or not, nothing of it is to stay.
        let _ = std::fs::remove_file(&partial);
        FileError::new(path, error)
    })
}

/// Makes the network at `path` ready.
pub(super) fn open(path: &Path, args: &NetworkArgs, n_threads: usize) -> Result<Network, FileError> {
    let graph = read(path, args)?;
    Network::new(&graph, &args.options(n_threads)).map_err(|error| FileError::new(path, error))
}

/// `int8[1, 49, 10, 1], scale 0.58, zero point 83`.
fn describe(port: &Port) -> String {
    let kind = format!("{}{:?}", port.element_type, port.shape);
    match port.quantization {
        Some((scale, zero)) => format!("{kind}, scale {scale}, zero point {zero}"),
        None => kind,
    }
}
