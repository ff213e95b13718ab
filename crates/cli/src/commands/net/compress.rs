//! `edgeward net compress`: a float network in eight bits.

use std::fs;
use std::path::PathBuf;

use clap::ValueEnum;
use edgeward_compress::networks::certificate::Figures;
use edgeward_compress::networks::{
    Agreement, Equalization, Example, Method, Mixed, Options, Scales, Statistics, calibrate, equalize, mix,
    multiplications, quantize,
};
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
  edgeward net compress detector.tflite --calibration photographs/ --least-sqnr 30 -o mixed.tflite
  edgeward net compress float.onnx --calibration photographs/ -o int8.onnx

Calibration shows what the network's activations are like: some hundred inputs of the kind that it will see.
Images are prepared as `edgeward see` does; other files hold float32 numbers, one input after the other. A
quarter of them is kept to compare the two networks on. What was lost is written into the file, and beside it as
a certificate, for programs (.certificate.json) and for people (.certificate.html). The output is TFLite or ONNX,
as its name says, whichever the input was. What is made of an ONNX file takes inputs as that does, channels first
if need be. Operators that have no eight-bit form stay in floats; with --least-sqnr as many others do as make the
answers that near.")]
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
    /// Scale neighbouring layers so that no channel is much smaller than the others (cross-layer equalization)
    #[arg(long, value_enum, default_value = "best")]
    equalization: EqualizationArg,
    /// Leave operators in floats, those first that harm most in eight bits, until the ratio of the answers' squares to their
    /// errors' is at least this on the examples that were kept, in dB
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    least_sqnr: Option<f64>,
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
    /// With the least Kullback-Leibler divergence of the rounded values' distribution
    Kl,
    /// Whichever of these is nearest to the float network on the examples that were kept
    Best,
}

impl MethodArg {
    /// Those that are tried.
    fn tried(self, outside: f64) -> Vec<Method> {
        match self {
            MethodArg::MinMax => vec![Method::MinMax],
            MethodArg::Percentile => vec![Method::Percentile { outside }],
            MethodArg::LeastSquares => vec![Method::LeastSquares],
            MethodArg::Kl => vec![Method::Divergence],
            MethodArg::Best => Method::all(outside).to_vec(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EqualizationArg {
    /// Layers stay as they are
    None,
    /// Before depthwise layers, where it costs nothing
    Depthwise,
    /// Wherever it can be done
    All,
    /// Whichever of these is nearest to the float network on the examples that were kept
    Best,
}

impl EqualizationArg {
    fn tried(self) -> Vec<(&'static str, Option<Equalization>)> {
        let (depthwise, all) =
            (("depthwise", Some(Equalization::Depthwise)), ("all", Some(Equalization::All)));
        match self {
            EqualizationArg::None => vec![("none", None)],
            EqualizationArg::Depthwise => vec![depthwise],
            EqualizationArg::All => vec![all],
            EqualizationArg::Best => vec![("none", None), depthwise, all],
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
    equalization: &'static str,
    /// What stays in floats.
    float_operators: Vec<FloatOperator>,
    n_operators: usize,
    n_calibration: usize,
    n_compared: usize,
    bytes_before: u64,
    bytes_after: u64,
    /// Share of compared inputs with the same largest output.
    same_top_1: f64,
    sqnr_db: f64,
    kl_divergence: Option<f64>,
}

/// An operator that stays in floats.
#[derive(Serialize)]
struct FloatOperator {
    /// Place in the float network.
    operator: usize,
    name: &'static str,
    /// What it gives.
    output: String,
}

/// A way to eight bits, and what came of it.
struct Candidate {
    equalization: &'static str,
    /// The float network, equalised.
    base: Graph,
    statistics: Statistics,
    made: Mixed,
}

impl Candidate {
    fn float_operators(&self) -> Result<Vec<FloatOperator>, edgeward_perceive::Error> {
        let scales = Scales::choose(&self.base, &self.statistics, &self.made.options)?;
        let operators = self.base.nodes.iter().zip(scales.is_float()).enumerate();
        let in_floats = operators.filter(|(_, (_, is_float))| **is_float).map(|(operator, (node, _))| {
            let output = self.base.tensors[node.outputs[0]].name.clone();
            FloatOperator { operator, name: node.op.name(), output }
        });
        Ok(in_floats.collect())
    }
}

/// Tries all ways that are asked for; the one whose answers to `kept` are nearest to the float network's.
fn nearest(
    args: &Args,
    graph: &Graph,
    (seen, kept): (&[Example], &[Example]),
    input_range: Option<(f32, f32)>,
) -> Result<Candidate, edgeward_perceive::Error> {
    let mut best: Option<Candidate> = None;
    for (equalization, how) in args.equalization.tried() {
        let base = match how {
            Some(how) => equalize(graph, how, seen)?,
            None => Some(graph.clone()),
        };
        // Where nothing can be equalised there is nothing to try, unless it is all that was asked for.
        let base = match base {
            None if args.equalization == EqualizationArg::Best => continue,
            base => base.unwrap_or_else(|| graph.clone()),
        };
        let statistics = calibrate(&base, seen)?;
        for method in args.method.tried(args.outside) {
            let corrects_bias = !args.no_bias_correction;
            let options = Options { method, input_range, corrects_bias, floats: Vec::new() };
            let made = quantize(&base, &statistics, seen, &options)?;
            let agreement = Agreement::measure(graph, &made, kept)?;
            let is_nearer = |other: &Candidate| agreement.squared_error < other.made.agreement.squared_error;
            if best.as_ref().is_none_or(is_nearer) {
                let made = Mixed { graph: made, options, agreement };
                let (base, statistics) = (base.clone(), statistics.clone());
                best = Some(Candidate { equalization, base, statistics, made });
            }
        }
    }
    Ok(best.expect("at least one way was tried"))
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let mut progress = Progress::new(verbosity);
    let format = super::format(&args.output)?;
    let graph = super::read_writable(&args.file, &args.network)?;
    let named = |error: edgeward_perceive::Error| FileError::new(&args.file, error);
    let network = Network::new(&graph, &args.network.options(1)).map_err(named)?;
    let examples = examples::read(&args.calibration, &network, &args.pictures, args.examples as usize)?;
    let (seen, kept) = examples.split();
    let pick =
        |part: Vec<usize>| -> Vec<Example> { part.into_iter().map(|i| examples.values[i].clone()).collect() };
    let (seen, kept) = (pick(seen), pick(kept));
    progress.note(&format!("Calibrating on {} inputs, comparing on {}", seen.len(), kept.len()));
    let input_range = examples.input_range(&args.pictures);
    let mut nearest = nearest(args, &graph, (&seen, &kept), input_range).map_err(named)?;
    if let Some(least_sqnr_db) = args.least_sqnr {
        nearest.made = mix(
            &nearest.base,
            &nearest.statistics,
            (&seen, &kept),
            nearest.made,
            least_sqnr_db,
            &mut |i, n| {
                if i == 0 {
                    progress.start_steps("Measuring the harm of each operator", 0, n);
                }
                progress.set(i);
            },
        )
        .map_err(named)?;
        progress.finish();
    }
    let float_operators = nearest.float_operators().map_err(named)?;
    let Candidate { equalization, made: Mixed { graph: made, options, .. }, .. } = nearest;
    let method = options.method.name();
    let written = certify::as_written(&made, format).map_err(named)?;
    let agreement = Agreement::measure(&graph, &written.graph, &kept).map_err(named)?;
    let name = args.file.file_name().unwrap_or_default().to_string_lossy();
    let making = certify::Making {
        command: format!(
            "edgeward net compress {name} --method {method} --equalization {equalization}{}{}",
            args.least_sqnr.map_or_else(String::new, |least| format!(" --least-sqnr {least}")),
            if args.no_bias_correction { " --no-bias-correction" } else { "" }
        ),
        teacher: &args.file,
        examples: &examples,
        agreement: &agreement,
        isa: args.network.options(1).isa.name(),
    };
    let bytes_before = fs::metadata(&args.file)?.len();
    let figures = [(bytes_before, &graph), (written.size_bytes, &written.graph)];
    let figures = figures.map(|(size_bytes, graph)| Figures {
        size_bytes,
        multiplications: multiplications(graph),
        us_per_run: None,
        accuracy: None,
    });
    certify::write((&args.output, format), &made, figures, &making)?;
    let report = Report {
        method,
        equalization,
        float_operators,
        n_operators: graph.nodes.len(),
        n_calibration: seen.len(),
        n_compared: kept.len(),
        bytes_before,
        bytes_after: fs::metadata(&args.output)?.len(),
        same_top_1: agreement.top_1,
        sqnr_db: agreement.sqnr_db,
        kl_divergence: agreement.kl_divergence,
    };
    if args.json {
        return output::print_json(&report);
    }
    print_line(&format!(
        "{}: {}, of {}, ranges by {}, equalization {}",
        args.output.display(),
        human_bytes(report.bytes_after),
        human_bytes(report.bytes_before),
        report.method,
        report.equalization
    ))?;
    print_line(&format!(
        "the same largest output on {:.1} % of {} inputs, {:.1} dB",
        report.same_top_1 * 100.0,
        report.n_compared,
        report.sqnr_db
    ))?;
    let floats = report.float_operators;
    if !floats.is_empty() {
        let mut names: Vec<&str> = floats.iter().map(|operator| operator.name).collect();
        names.sort_unstable();
        names.dedup();
        print_line(&format!(
            "{} of {} operators in floats: {}",
            floats.len(),
            report.n_operators,
            names.join(", ")
        ))?;
    }
    Ok(())
}
