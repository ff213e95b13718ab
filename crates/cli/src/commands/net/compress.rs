//! `edgeward net compress`: a float network in eight bits.

use std::fs;
use std::path::PathBuf;

use clap::ValueEnum;
use edgeward_compress::networks::{Agreement, Method, Options, calibrate, multiplications, quantize};
use edgeward_perceive::{Graph, Network};
use serde::Serialize;

use super::{FileError, NetworkArgs, certify, examples};
use crate::Outcome;
use crate::commands::pictures::PictureArgs;
use crate::output::{self, print_line};
use crate::store::{Progress, Verbosity, human_bytes};

/// Bring a float network to eight bits
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward net compress float.tflite --calibration photographs/ -o int8.tflite
  edgeward net compress float.tflite --calibration photographs/ --range 0,255 -o int8.tflite
  edgeward net compress keyword.tflite --calibration features.f32 --method min-max -o int8.tflite
  edgeward net compress float.onnx --calibration photographs/ -o int8.onnx

Calibration shows what the network's activations are like: some hundred inputs of the kind that it will see.
Images are prepared as `edgeward see` does; other files hold float32 numbers, one input after the other. A
quarter of them is kept to compare the two networks on. What was lost is written into the file, and beside it as
a certificate, for programs (.certificate.json) and for people (.certificate.html). The output is TFLite or ONNX,
as its name says, whichever the input was. What is made of an ONNX file takes inputs as that does, channels first
if need be.")]
pub struct Args {
    /// A TFLite or ONNX file of floats
    file: PathBuf,
    /// Images, folders of images, or files of numbers
    #[arg(long, short, required = true, num_args = 1..)]
    calibration: Vec<PathBuf>,
    /// The file to write: its name ends in .tflite or .onnx
    #[arg(long, short)]
    output: PathBuf,
    /// How the ranges of activations are found
    #[arg(long, value_enum, default_value = "best")]
    method: MethodArg,
    /// What percentile leaves out of the values, a share
    #[arg(long, default_value_t = 1e-4, value_parser = share)]
    outside: f64,
    /// Leave biases as they are, though rounding moves mean outputs
    #[arg(long)]
    no_bias_correction: bool,
    /// Most examples to use
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..))]
    examples: u32,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pictures: PictureArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MethodArg {
    /// From the smallest to the largest value
    MinMax,
    /// Without the outermost values
    Percentile,
    /// With the least squared error
    LeastSquares,
    /// Whichever of these is nearest to the float network on the examples that were kept
    Best,
}

impl MethodArg {
    fn name(self) -> &'static str {
        match self {
            MethodArg::MinMax => "min-max",
            MethodArg::Percentile => "percentile",
            MethodArg::LeastSquares => "least-squares",
            MethodArg::Best => "best",
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..0.5).contains(&share) => Ok(share),
        _ => Err("give a number from 0 to less than 0.5".to_owned()),
    }
}

#[derive(Serialize)]
struct Report {
    method: &'static str,
    n_calibration: usize,
    n_compared: usize,
    bytes_before: u64,
    bytes_after: u64,
    /// Share of compared inputs with the same largest output.
    same_top_1: f64,
    sqnr_db: f64,
    kl_divergence: Option<f64>,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let progress = Progress::new(verbosity);
    let format = super::format(&args.output)?;
    let graph = super::read_writable(&args.file, &args.network)?;
    let named = |error: edgeward_perceive::Error| FileError::new(&args.file, error);
    let network = Network::new(&graph, &args.network.options(1)).map_err(named)?;
    let examples = examples::read(&args.calibration, &network, &args.pictures, args.examples as usize)?;
    let (seen, kept) = examples.split();
    let pick = |part: Vec<usize>| -> Vec<Vec<Vec<f32>>> {
        part.into_iter().map(|i| examples.values[i].clone()).collect()
    };
    let (seen, kept) = (pick(seen), pick(kept));
    progress.note(&format!("Calibrating on {} inputs, comparing on {}", seen.len(), kept.len()));
    let statistics = calibrate(&graph, &seen).map_err(named)?;
    let input_range = examples.input_range(&args.pictures);
    let methods = match args.method {
        MethodArg::Best => vec![MethodArg::MinMax, MethodArg::Percentile, MethodArg::LeastSquares],
        one => vec![one],
    };
    let mut best: Option<(MethodArg, Graph, Agreement)> = None;
    for name in methods {
        let method = match name {
            MethodArg::MinMax => Method::MinMax,
            MethodArg::Percentile => Method::Percentile { outside: args.outside },
            MethodArg::LeastSquares | MethodArg::Best => Method::LeastSquares,
        };
        let options = Options { method, input_range, corrects_bias: !args.no_bias_correction };
        let made = quantize(&graph, &statistics, &seen, &options).map_err(named)?;
        let written = certify::as_written(&made, format).map_err(named)?;
        let agreement = Agreement::measure(&graph, &written, &kept).map_err(named)?;
        if best.as_ref().is_none_or(|(_, _, other)| agreement.squared_error < other.squared_error) {
            best = Some((name, made, agreement));
        }
    }
    let (method, made, agreement) = best.expect("at least one method was tried");
    let name = args.file.file_name().unwrap_or_default().to_string_lossy();
    let making = certify::Making {
        command: format!(
            "edgeward net compress {name} --method {}{}",
            method.name(),
            if args.no_bias_correction { " --no-bias-correction" } else { "" }
        ),
        teacher: &args.file,
        examples: &examples,
        agreement: &agreement,
        isa: args.network.options(1).isa.name(),
    };
    let written = certify::as_written(&made, format).map_err(named)?;
    let figures = [&graph, &written].map(|graph| certify::figures(multiplications(graph), None, None));
    certify::write((&args.output, format), &made, figures, &making)?;
    let report = Report {
        method: method.name(),
        n_calibration: seen.len(),
        n_compared: kept.len(),
        bytes_before: fs::metadata(&args.file)?.len(),
        bytes_after: fs::metadata(&args.output)?.len(),
        same_top_1: agreement.top_1,
        sqnr_db: agreement.sqnr_db,
        kl_divergence: agreement.kl_divergence,
    };
    if args.json {
        return output::print_json(&report);
    }
    print_line(&format!(
        "{}: {}, of {}, ranges by {}",
        args.output.display(),
        human_bytes(report.bytes_after),
        human_bytes(report.bytes_before),
        report.method
    ))?;
    print_line(&format!(
        "the same largest output on {:.1} % of {} inputs, {:.1} dB",
        report.same_top_1 * 100.0,
        report.n_compared,
        report.sqnr_db
    ))?;
    Ok(())
}
