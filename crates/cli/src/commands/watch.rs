//! `edgeward watch`: anomalies in a stream of measurements, as they come.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use edgeward_perceive::anomaly::{Alarm, Change, Detector, Ewma, Peaks, RobustZ, Settled, WindowedGaussian};
use edgeward_perceive::learner::{Answer, Fitted, Input};
use edgeward_perceive::sensor::{
    Conversion, Feature, Features, Gaps, Grid, Hampel, Pipeline, Point, parse_duration,
};
use edgeward_perceive::table::{Records, Rows};
use serde::Serialize;

use super::fit;
use super::net::FileError;
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
    /// The unit of the values and the one to judge in, as in degF:degC
    #[arg(long, value_name = "FROM:TO", value_parser = conversion)]
    unit: Option<Conversion>,
    /// Bring the values to even steps of time, as in 500ms, 5min; times are in the first column (in JSON lines
    /// `timestamp`, `time` or `ts`), as seconds or as 2026-11-28 10:15:30
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    every: Option<f64>,
    /// Refuse longer gaps in time [default: a line leads over all]
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "every")]
    max_gap: Option<f64>,
    /// Replace single wild values by the median of as many values on either side; alarms come as many values later
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    hampel: Option<u16>,
    /// Watch a feature of the last values instead of the values
    #[arg(long, value_enum)]
    feature: Option<FeatureArg>,
    /// Values that a feature is of
    #[arg(long, default_value_t = 64, requires = "feature", value_parser = clap::value_parser!(u32).range(2..=65536))]
    over: u32,
    /// What `edgeward fit` has learnt: tell what each row is, and not what is unusual; a class is said when it changes
    #[arg(long, short, conflicts_with_all = ["detector", "column", "threshold", "unit", "every", "hampel", "feature"])]
    model: Option<PathBuf>,
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

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FeatureArg {
    Mean,
    /// Standard deviation
    Deviation,
    /// Effective value
    Rms,
    /// Largest less smallest
    Range,
    /// Change from value to value
    Slope,
    /// Largest distance from the mean, in standard deviations
    Crest,
    /// 3 for a normal distribution, more where there are knocks
    Kurtosis,
    /// How often it goes through its mean, 0 to 1
    Crossings,
    /// Strongest frequency: in hertz with --every, else in cycles from value to value
    Frequency,
}

impl From<FeatureArg> for Feature {
    fn from(feature: FeatureArg) -> Feature {
        match feature {
            FeatureArg::Mean => Feature::Mean,
            FeatureArg::Deviation => Feature::Deviation,
            FeatureArg::Rms => Feature::Rms,
            FeatureArg::Range => Feature::Range,
            FeatureArg::Slope => Feature::Slope,
            FeatureArg::Crest => Feature::Crest,
            FeatureArg::Kurtosis => Feature::Kurtosis,
            FeatureArg::Crossings => Feature::Crossings,
            FeatureArg::Frequency => Feature::Frequency,
        }
    }
}

fn conversion(text: &str) -> Result<Conversion, String> {
    let (from, to) = text.split_once(':').ok_or("give two units, as in degF:degC")?;
    Conversion::between(from, to).map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<f64, String> {
    parse_duration(text).ok_or_else(|| "give a number and us, ms, s, min, h or d".to_owned())
}

/// Outliers are as many standard deviations from the median.
const HAMPEL_THRESHOLD: f64 = 3.0;

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

    fn pipeline(&self) -> Pipeline {
        let gaps = self.max_gap.map_or(Gaps::Fill, Gaps::Refuse);
        Pipeline::new(
            self.unit,
            self.every.map(|step_s| Grid::new(step_s, gaps)),
            self.hampel.map(|half| Hampel::new(half.into(), HAMPEL_THRESHOLD)),
            self.feature.map(|feature| {
                let rate = self.every.map(|step_s| 1.0 / step_s);
                (feature.into(), Features::new(self.over as usize, rate))
            }),
        )
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
    for record in records {
        let record = record?;
        let features = reader.features(&record)?;
        let mut told = Told { file: &file, line: record.line, label: None, probability: None, number: None };
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
            print_line(&format!("{file}, line {}: {text}", record.line))?;
        }
    }
    Ok(())
}

fn watch(args: &Args, path: &Path, source: impl BufRead) -> Outcome {
    let mut detector = Peaks::new(args.detector(), args.hold as usize);
    let threshold = args.threshold();
    let mut alarm = Alarm::new(threshold, threshold, args.hold as usize);
    let file = path.display().to_string();
    let mut pipeline = args.pipeline();
    let mut ready = Vec::new();
    let mut judge = |ready: &mut Vec<Point>| -> Outcome {
        for Point { line, label, value } in ready.drain(..) {
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
