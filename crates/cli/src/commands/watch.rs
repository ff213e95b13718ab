//! `edgeward watch`: anomalies in a stream of measurements, as they come.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use edgeward_perceive::anomaly::{Alarm, Change, Detector, Ewma, Peaks, RobustZ, Settled, WindowedGaussian};
use edgeward_perceive::learner::{Answer, Fitted, Input};
use edgeward_perceive::sensor::Point;
use edgeward_perceive::table::{Records, Rows};
use serde::Serialize;

use super::fit;
use super::net::FileError;
use super::sensors::SensorArgs;
use crate::Outcome;
use crate::output::print_line;

/// Values before the first alarm; no window is smaller.
const MIN_SEEN: usize = 100;

/// Watch measurements for anomalies: a line for each alarm, as soon as it is raised
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward watch temperature.csv
  read-sensor | edgeward watch - --detector robust-z --threshold 8
  edgeward watch log.jsonl --column vibration --json
  edgeward watch engine.csv --unit degF:degC --every 1min --max-gap 1h --hampel 3
  edgeward watch vibration.csv --every 1ms --feature rms --over 256
  edgeward watch room.csv --model room.json

Measurements are CSV (with or without a header) or JSON lines. Scores of all detectors but `gaussian` are
in standard deviations; those of `gaussian` are probabilities.")]
pub struct Args {
    /// Files of measurements, `-` for standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Name or number (from 1) of the column to watch [default: the last, in JSON lines `value`]
    #[arg(long, short)]
    column: Option<String>,
    /// What is unusual
    #[arg(long, value_enum, default_value = "jump")]
    detector: DetectorArg,
    /// Values of the past to judge by
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    window: u32,
    /// Score that raises an alarm [default: 6, of `gaussian` 0.999999]
    #[arg(long, short, value_parser = score)]
    threshold: Option<f64>,
    /// Values without a larger score, before an alarm and, after one, until the next
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    hold: u32,
    /// What `edgeward fit` has learnt: tell what each row is, and not what is unusual; a class is said when it changes.
    /// Measurements are made ready as they were for learning
    #[arg(long, short, conflicts_with_all = ["detector", "column", "threshold", "unit", "every", "hampel", "feature"])]
    model: Option<PathBuf>,
    #[command(flatten)]
    sensors: SensorArgs,
    /// Print a line of JSON for each alarm
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DetectorArg {
    /// A change from one value to the next that is large beside those before
    Jump,
    /// A value far from a moving average, beside how far values were before
    Ewma,
    /// A value far from the median of those before
    RobustZ,
    /// A value that is improbable under a normal distribution of those before
    Gaussian,
}

fn score(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(score) if score > 0.0 && f64::is_finite(score) => Ok(score),
        _ => Err("give a number above 0".to_owned()),
    }
}

impl Args {
    fn detector(&self) -> Box<dyn Detector> {
        let window = self.window as usize;
        match self.detector {
            DetectorArg::Jump => Box::new(Ewma::new(1.0, window)),
            DetectorArg::Ewma => Box::new(Ewma::new(0.2, window)),
            DetectorArg::RobustZ => Box::new(RobustZ::new(window)),
            // Moved as a whole only once in a while, as it is fitted anew then. The others wait by themselves.
            DetectorArg::Gaussian => {
                Box::new(Settled::new(WindowedGaussian::new(window, window.div_ceil(64)), MIN_SEEN))
            }
        }
    }

    fn threshold(&self) -> f64 {
        let default = if self.detector == DetectorArg::Gaussian { 0.999_999 } else { 6.0 };
        self.threshold.unwrap_or(default)
    }
}

/// An alarm.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a str>,
    value: f64,
    score: f64,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let fitted = args.model.as_deref().map(fit::open).transpose()?;
    if let (Some(Fitted { input, .. }), Some(path)) = (&fitted, &args.model)
        && !matches!(input, Input::Table { .. })
    {
        return Err(FileError::new(path, "it was not learnt from tables").into());
    }
    for path in &args.files {
        let source: Box<dyn BufRead> = if path.as_os_str() == "-" {
            Box::new(io::stdin().lock())
        } else {
            let file = File::open(path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            Box::new(BufReader::new(file))
        };
        match &fitted {
            Some(fitted) => tell(args, fitted, path, source)?,
            None => watch(args, path, source)?,
        }
    }
    Ok(())
}

/// What a row was told to be.
#[derive(Serialize)]
struct Told<'a> {
    file: &'a str,
    line: u64,
    /// Of a row on an even grid of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<f64>,
}

fn tell(args: &Args, fitted: &Fitted, path: &Path, source: impl BufRead) -> Outcome {
    let records = Records::new(source)?;
    let mut reader = fit::Reader::new(&records, &fitted.input)?;
    let file = path.display().to_string();
    let mut before = None;
    let mut ready = Vec::new();
    let mut tell_ready = |ready: &mut Vec<fit::ReadyExample>| -> Outcome {
        for fit::ReadyExample { row, features, .. } in ready.drain(..) {
            let (line, time) = (row.point.line, row.point.label.as_deref());
            let mut told = Told { file: &file, line, time, label: None, probability: None, number: None };
            let text = match &fitted.answer {
                Answer::Number(name) => {
                    let number = fitted.learner.number(&features);
                    told.number = Some(number);
                    format!("{name} {number:.3}")
                }
                Answer::Class(_) => {
                    let likeliest = fit::classes(fitted, &features, 1).expect("classes were learnt");
                    let (class, label, probability) = likeliest[0];
                    if before.replace(class) == Some(class) {
                        continue;
                    }
                    (told.label, told.probability) = (Some(label), Some(probability));
                    format!("{label} ({probability:.2})")
                }
            };
            if args.json {
                print_line(&serde_json::to_string(&told)?)?;
            } else {
                let time = time.map_or_else(String::new, |time| format!(", {time}"));
                print_line(&format!("{file}, line {line}{time}: {text}"))?;
            }
        }
        Ok(())
    };
    for record in records {
        reader.push(&record?, &mut ready)?;
        tell_ready(&mut ready)?;
    }
    reader.finish(&mut ready);
    tell_ready(&mut ready)
}

fn watch(args: &Args, path: &Path, source: impl BufRead) -> Outcome {
    let mut detector = Peaks::new(args.detector(), args.hold as usize);
    let threshold = args.threshold();
    let mut alarm = Alarm::new(threshold, threshold, args.hold as usize);
    let file = path.display().to_string();
    let (preparation, column) = (args.sensors.preparation(), args.column.clone().unwrap_or_default());
    preparation.check(std::slice::from_ref(&column))?;
    let mut pipeline = preparation.pipeline(&column)?;
    let mut ready = Vec::new();
    let mut judge = |ready: &mut Vec<Point>| -> Outcome {
        for Point { line, label, value, .. } in ready.drain(..) {
            let score = detector.score(value);
            if alarm.update(score) != Change::Raised {
                continue;
            }
            let report = Report { file: &file, line, time: label.as_deref(), value, score };
            if args.json {
                print_line(&serde_json::to_string(&report)?)?;
            } else {
                let time = report.time.map_or_else(String::new, |time| format!(", {time}"));
                print_line(&format!("{file}, line {line}{time}: {value} (score {score:.1})"))?;
            }
        }
        Ok(())
    };
    for row in Rows::new(source, args.column.as_deref()) {
        let row = row?;
        pipeline
            .push(&row, |point| ready.push(point))
            .map_err(|error| format!("{file}, line {}: {error}", row.line))?;
        judge(&mut ready)?;
    }
    pipeline.finish(|point| ready.push(point));
    judge(&mut ready)
}
