//! `edgeward net cascade`: what it costs and gains to ask a larger network only where a smaller one is not sure.

use std::path::PathBuf;
use std::time::Duration;

use edgeward_perceive::Network;
use edgeward_perceive::ensemble::{Ensemble, sureness};
use edgeward_perceive::vision::top;
use serde::Serialize;

use super::examples::QuestionArgs;
use super::{FileError, NetworkArgs, bench};
use crate::Outcome;
use crate::output::{self, Align, Table};

/// For how long each network's speed is measured.
const MEASURED: Duration = Duration::from_millis(300);
/// How sure the small network must be; at 0 it is asked alone. The large one alone comes last.
const THRESHOLDS: [f32; 9] = [0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999];

/// Ask a larger network only where a smaller one is not sure: what that costs and gains
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward net cascade small.tflite large.tflite --inputs photographs/
  edgeward net cascade small.tflite large.tflite --inputs features.f32 --targets classes.txt --json
  edgeward net run small.tflite --then large.tflite --sure 0.9 features.f32

Each line is a threshold: how often the large network is asked, how often the answer is the large one's, how often
it is right where that is known, and how long an answer takes on average. The threshold that you choose is --sure
of `edgeward net run`. Networks must end with probabilities.")]
pub struct Args {
    /// The network that is always asked: a TFLite or ONNX file
    small: PathBuf,
    /// The one that is asked where the first is not sure
    large: PathBuf,
    #[command(flatten)]
    questions: QuestionArgs,
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Serialize)]
struct Row {
    /// `None`: the large network alone.
    threshold: Option<f32>,
    /// Share of inputs for which the large network is asked.
    large_asked: f64,
    /// Share of inputs whose largest output is the large network's.
    same_top_1: f64,
    /// Share of inputs whose largest output is the right class.
    accuracy: Option<f64>,
    /// On one thread, on average.
    us_per_answer: f64,
}

/// What one network says of all inputs.
struct Answers {
    sure: Vec<f32>,
    classes: Vec<usize>,
    us_per_run: f64,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let small = super::open(&args.small, &args.network, 1)?;
    let examples = args.questions.read(&small)?;
    let n_classes = small.outputs().first().map_or(0, edgeward_perceive::network::Port::n_elements);
    let right = args.questions.right_classes(&examples, n_classes)?;
    let answers = |path: &PathBuf, network: Network| {
        answers(network, &examples.values).map_err(|error| FileError::new(path, error))
    };
    let small = answers(&args.small, small)?;
    let large = answers(&args.large, super::open(&args.large, &args.network, 1)?)?;
    let n = examples.values.len().max(1) as f64;
    let row = |threshold: Option<f32>| {
        let is_sure = |i: usize| threshold.is_some_and(|threshold| small.sure[i] >= threshold);
        let class = |i: usize| if is_sure(i) { small.classes[i] } else { large.classes[i] };
        let share =
            |test: &dyn Fn(usize) -> bool| (0..small.sure.len()).filter(|i| test(*i)).count() as f64 / n;
        let large_asked = share(&|i| !is_sure(i));
        let always = if threshold.is_some() { small.us_per_run } else { 0.0 };
        Row {
            threshold,
            large_asked,
            same_top_1: share(&|i| class(i) == large.classes[i]),
            accuracy: right.as_ref().map(|right| share(&|i| class(i) == right[i])),
            us_per_answer: always + large_asked * large.us_per_run,
        }
    };
    let rows: Vec<Row> = THRESHOLDS.into_iter().map(Some).chain([None]).map(row).collect();
    if args.json {
        return output::print_json(&rows);
    }
    let mut table = Table::new(&[
        ("SURE", Align::Right),
        ("LARGE ASKED", Align::Right),
        ("SAME CLASS", Align::Right),
        ("RIGHT", Align::Right),
        ("US/ANSWER", Align::Right),
    ]);
    let share = |share: f64| format!("{:.2} %", share * 100.0);
    for row in rows {
        table.row(vec![
            row.threshold.map_or_else(|| "large alone".into(), |threshold| threshold.to_string()),
            share(row.large_asked),
            share(row.same_top_1),
            row.accuracy.map_or_else(String::new, share),
            format!("{:.1}", row.us_per_answer),
        ]);
    }
    table.print()?;
    Ok(())
}

fn answers(mut network: Network, examples: &[Vec<Vec<f32>>]) -> Result<Answers, edgeward_perceive::Error> {
    let times = bench::measure(&mut network, MEASURED)?;
    let mut ensemble = Ensemble::new(vec![network])?;
    let (mut sure, mut classes) = (Vec::new(), Vec::new());
    for example in examples {
        let inputs: Vec<&[f32]> = example.iter().map(Vec::as_slice).collect();
        let probabilities = ensemble.ask(&inputs)?;
        sure.push(sureness(probabilities));
        // Of a single probability, whether it is more likely than not.
        classes.push(match probabilities {
            [p] => usize::from(*p > 0.5),
            all => top(all, 1)[0].0,
        });
    }
    Ok(Answers { sure, classes, us_per_run: times[times.len() / 2].as_secs_f64() * 1e6 })
}
