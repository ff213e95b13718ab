//! `edgeward fit`: learn from a few examples, on this device.

mod augment;
mod folder;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use edgeward_perceive::learner::{
    Answer, Fitted, Fold, Input, Kind, Learner, MAX_WINDOW, Samples, Target, TreesOptions, by_group,
    stratified,
};
use serde::Serialize;

use self::augment::{Augmentation, Plan};
use super::net::FileError;
use super::sensors::SensorArgs;
use crate::Outcome;
use crate::output::print_line;
use crate::store::{Progress, Verbosity};

pub(super) use tables::{Reader, ReadyExample};

/// Bytes of the largest file of what was learnt.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Numbers among a column's values beyond which it is a quantity, and not names of classes.
const MAX_CLASSES: usize = 20;

/// Learn classes of images, of short recordings or of rows of a table, or a number, from examples
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward fit leaves/ --folds 5 -o leaves.json              a folder for each class
  edgeward fit recordings/ --folds 5 -o digits.json          or names such as 7_jackson_3.wav
  edgeward fit training.csv --target Occupancy --test test.csv -o room.json
  edgeward fit leaves/ --folds 5 --augment=flip,crop         learn from changed copies too
  edgeward fit raw.csv --target Occupancy --every 5min --hampel 3 --unit Temperature=degF:degC -o room.json
  edgeward fit engines.csv --target remaining --series engine --window 30 --learner trees -o engines.json
then
  edgeward see leaf.jpg --model leaves.json
  edgeward hear word.wav --model digits.json
  edgeward watch room.csv --model room.json

Images become histograms of colours and patterns of texture, recordings of up to a minute the course of
their timbre, rows of a table their numbers; with --window what the last rows were and where they are going.
A row without a target is no example, but part of the rows before the next. Raw measurements are brought to
units and to even steps of time, and wild values replaced, as `edgeward watch` does: how is kept in what was learnt,
so nobody has to say it again. On even steps a row that lacks a number is a gap, and what is learnt is told by the row
nearest to each step.")]
pub struct Args {
    /// A folder of images or of recordings (WAV, FLAC, MP3), or tables (CSV, columns separated by spaces, JSON lines)
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// Where to write what was learnt
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Other examples, to say how well it was learnt
    #[arg(long)]
    test: Vec<PathBuf>,
    /// Say how well examples are judged by what was learnt from the others: parts of which one at a time is left out
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=1000))]
    folds: Option<u16>,
    /// Leave out all examples of one group at a time: the part of file names, between `_` and from 1, that tells it
    #[arg(long, conflicts_with = "folds", value_parser = clap::value_parser!(u8).range(1..=20))]
    group: Option<u8>,
    /// What learns
    #[arg(long, value_enum, default_value = "linear")]
    learner: LearnerArg,
    /// Of tables: the column to be told
    #[arg(long)]
    target: Option<String>,
    /// Of tables: what the target is [default: classes, but a number if it has more than 20 values]
    #[arg(long = "as", value_enum, value_name = "KIND")]
    kind: Option<KindArg>,
    /// Of tables: columns that are not looked at
    #[arg(long, value_delimiter = ',')]
    ignore: Vec<String>,
    /// Of tables: the column that says to which series a row belongs
    #[arg(long)]
    series: Option<String>,
    /// Of tables: rows that are looked at together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_WINDOW as i64))]
    window: u32,
    #[command(flatten)]
    sensors: SensorArgs,
    /// Learn from changed copies of the examples too, which are still what they were: of what suits them, or of what is
    /// named, as in --augment=crop,noise. Check that it is true of yours: a mirrored letter is no letter
    #[arg(long, value_enum, value_name = "KINDS", value_delimiter = ',', num_args = 0.., require_equals = true, default_missing_value = "auto")]
    augment: Vec<Augmentation>,
    /// Copies of each example
    #[arg(long, default_value_t = 4, requires = "augment", value_parser = clap::value_parser!(u16).range(1..=1000))]
    copies: u16,
    /// Chance of copies, and of parts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print a line of JSON for each figure
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LearnerArg {
    /// Linear discriminant analysis, least squares: for few examples
    Linear,
    /// Boosted trees: for tables with thousands of rows
    Trees,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindArg {
    Class,
    Number,
}

/// What was read.
struct Examples {
    input: Input,
    samples: Samples,
    /// Of each example.
    targets: Vec<String>,
    /// Of each example, by [`Args::group`].
    groups: Vec<String>,
    /// Name of the target.
    name: String,
    /// Changed copies, and the examples that they are of.
    copies: Samples,
    copy_of: Vec<usize>,
}

impl Examples {
    fn new(input: Input, name: &str) -> Examples {
        let n_features = input.n_features();
        Examples {
            input,
            samples: Samples::new(n_features),
            targets: Vec::new(),
            groups: Vec::new(),
            name: name.to_owned(),
            copies: Samples::new(n_features),
            copy_of: Vec::new(),
        }
    }

    /// What is learnt from if it is from these examples: their copies too.
    fn training(&self, plan: Option<&Plan>, target: &Target, train: &[usize]) -> (Samples, Target) {
        let mut is_in = vec![false; self.samples.len()];
        train.iter().for_each(|i| is_in[*i] = true);
        let mut samples = self.samples.select(train);
        let mut of = train.to_vec();
        for (copy, example) in self.copies.rows().zip(&self.copy_of).filter(|(_, example)| is_in[**example]) {
            samples.push(copy);
            of.push(*example);
        }
        let mut target = target.select(&of);
        if let Some(plan) = plan {
            plan.mix(&mut samples, &mut target, train.len());
        }
        (samples, target)
    }
}

/// How well something was told.
#[derive(Serialize)]
struct Report<'a> {
    of: &'a str,
    n: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    n_right: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rmse: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_absolute_error: Option<f64>,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let progress = Progress::new(verbosity);
    let (examples, plan) = read(args, &args.data, None, &progress)?;
    let answer = answer(args, &examples)?;
    let target = target(&answer, &examples.targets)?;
    let kind = match args.learner {
        LearnerArg::Linear => Kind::Linear,
        LearnerArg::Trees => Kind::Trees(TreesOptions::default()),
    };
    let folds = folds(args, &examples, &target)?;
    if !folds.is_empty() {
        let mut judged = Judged::default();
        for (i, Fold { train, test }) in folds.iter().enumerate() {
            progress.note(&format!("Leaving out part {} of {}", i + 1, folds.len()));
            let (samples, target_of_train) = examples.training(plan.as_ref(), &target, train);
            let learner = Learner::fit(kind, &samples, &target_of_train)?;
            judged.add(&learner, &examples.samples.select(test), &target.select(test));
        }
        let of = match args.group {
            Some(_) => format!("{} groups, each judged by what the others teach", folds.len()),
            None => format!("{} parts, each judged by what the others teach", folds.len()),
        };
        judged.report(&of, args.json)?;
    }
    let all: Vec<usize> = (0..examples.samples.len()).collect();
    let (samples, target_of_all) = examples.training(plan.as_ref(), &target, &all);
    progress.note(&format!("Learning from {} examples", samples.len()));
    let learner = Learner::fit(kind, &samples, &target_of_all)?;
    for path in &args.test {
        let (test, _) = read(args, std::slice::from_ref(path), Some(&examples.input), &progress)?;
        let mut judged = Judged::default();
        judged.add(&learner, &test.samples, &self::target(&answer, &test.targets)?);
        judged.report(&path.display().to_string(), args.json)?;
    }
    if let Some(output) = &args.output {
        let fitted = Fitted::new(examples.input, answer, learner);
        fs::write(output, fitted.to_json()).map_err(|error| FileError::new(output, error))?;
    }
    Ok(())
}

/// Reads examples, with copies if they are to be learnt from; `like` is what others of them were made of.
fn read(
    args: &Args,
    data: &[PathBuf],
    like: Option<&Input>,
    progress: &Progress,
) -> Result<(Examples, Option<Plan>), Box<dyn std::error::Error>> {
    let plan = |input: &Input| match like {
        None if !args.augment.is_empty() => {
            Plan::new(&args.augment, args.copies.into(), args.seed, input).map(Some)
        }
        _ => Ok(None),
    };
    let preparation = args.sensors.preparation();
    if let [folder] = data
        && folder.is_dir()
    {
        if !preparation.is_none() {
            return Err("units, steps of time, filters and features are for tables of measurements".into());
        }
        return folder::read(folder, args.group, like, plan, progress);
    }
    let Some(target) = &args.target else {
        return Err("say with --target which column of the table is to be told".into());
    };
    let wanted = tables::Wanted {
        target,
        ignore: &args.ignore,
        series: args.series.as_deref(),
        window: args.window as usize,
        preparation,
    };
    tables::read(data, &wanted, like, plan)
}

fn answer(args: &Args, examples: &Examples) -> Result<Answer, Box<dyn std::error::Error>> {
    let mut names: Vec<String> = examples.targets.clone();
    names.sort();
    names.dedup();
    let are_numbers = || names.iter().all(|name| name.parse().is_ok_and(f64::is_finite));
    let kind = match args.kind {
        Some(kind) => kind,
        None if matches!(examples.input, Input::Table { .. })
            && names.len() > MAX_CLASSES
            && are_numbers() =>
        {
            KindArg::Number
        }
        None => KindArg::Class,
    };
    match kind {
        KindArg::Number => Ok(Answer::Number(examples.name.clone())),
        KindArg::Class if names.len() < 2 => {
            Err(format!("all examples are {}: examples of another class are missing", names.concat()).into())
        }
        KindArg::Class => Ok(Answer::Class(names)),
    }
}

fn target(answer: &Answer, targets: &[String]) -> Result<Target, Box<dyn std::error::Error>> {
    match answer {
        Answer::Class(names) => {
            let class = |target: &String| {
                names
                    .binary_search(target)
                    .map_err(|_| format!("there is no example of {target} to learn from"))
            };
            Ok(Target::Classes {
                of: targets.iter().map(class).collect::<Result<_, _>>()?,
                n_classes: names.len(),
            })
        }
        Answer::Number(name) => {
            let number = |target: &String| match target.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(number),
                _ => Err(format!("{target:?} is no number for {name}: or are they classes? (--as class)")),
            };
            Ok(Target::Numbers(targets.iter().map(number).collect::<Result<_, _>>()?))
        }
    }
}

fn folds(args: &Args, examples: &Examples, target: &Target) -> Result<Vec<Fold>, Box<dyn std::error::Error>> {
    if args.group.is_some() {
        let mut names = examples.groups.clone();
        names.sort();
        names.dedup();
        if names.len() < 2 {
            return Err("all examples are of one group: no other is there to learn from".into());
        }
        let groups: Vec<usize> =
            examples.groups.iter().map(|group| names.partition_point(|name| name < group)).collect();
        return Ok(by_group(&groups));
    }
    let Some(n) = args.folds else { return Ok(Vec::new()) };
    let none = vec![0; examples.targets.len()];
    let classes = match target {
        Target::Classes { of, .. } => of,
        Target::Numbers(_) => &none,
    };
    Ok(stratified(classes, n.into(), args.seed))
}

/// What came of judging.
#[derive(Default)]
struct Judged {
    n: usize,
    n_right: Option<usize>,
    squares: f64,
    errors: f64,
}

impl Judged {
    fn add(&mut self, learner: &Learner, samples: &Samples, target: &Target) {
        self.n += samples.len();
        match target {
            Target::Classes { of, .. } => {
                let right =
                    samples.rows().zip(of).filter(|(row, class)| learner.class(row) == **class).count();
                *self.n_right.get_or_insert(0) += right;
            }
            Target::Numbers(of) => {
                for (row, number) in samples.rows().zip(of) {
                    let error = learner.number(row) - number;
                    self.squares += error * error;
                    self.errors += error.abs();
                }
            }
        }
    }

    fn report(&self, of: &str, json: bool) -> Outcome {
        let n = self.n as f64;
        let accuracy = self.n_right.map(|right| right as f64 / n);
        let is_number = self.n_right.is_none();
        let report = Report {
            of,
            n: self.n,
            n_right: self.n_right,
            accuracy,
            rmse: is_number.then(|| (self.squares / n).sqrt()),
            mean_absolute_error: is_number.then(|| self.errors / n),
        };
        if json {
            return print_line(&serde_json::to_string(&report)?).map_err(Into::into);
        }
        let figures = match (report.n_right, report.accuracy, report.rmse, report.mean_absolute_error) {
            (Some(right), Some(accuracy), ..) => {
                format!("{right} of {} right ({:.2} %)", self.n, accuracy * 100.0)
            }
            (.., Some(rmse), Some(mean)) => {
                format!("{} examples, root mean square error {rmse:.3}, mean error {mean:.3}", self.n)
            }
            _ => unreachable!("classes or numbers were judged"),
        };
        print_line(&format!("{of}: {figures}")).map_err(Into::into)
    }
}

/// Whether a model is what `fit` writes, and not a network.
pub(super) fn is_fitted(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

/// Reads what was learnt.
pub(super) fn open(path: &Path) -> Result<Fitted, FileError> {
    let read = || -> Result<Fitted, Box<dyn std::error::Error>> {
        let size_bytes = fs::metadata(path)?.len();
        if size_bytes > MAX_FILE_BYTES {
            return Err(format!("it has {size_bytes} bytes, and {MAX_FILE_BYTES} are the most").into());
        }
        Ok(Fitted::from_json(&fs::read(path)?)?)
    };
    read().map_err(|source| FileError::new(path, source))
}

/// The likeliest classes of an example, by name.
pub(super) fn classes<'a>(
    fitted: &'a Fitted,
    features: &[f64],
    n: usize,
) -> Option<Vec<(usize, &'a str, f64)>> {
    let Answer::Class(names) = &fitted.answer else { return None };
    let mut classes: Vec<(usize, &str, f64)> = fitted
        .learner
        .probabilities(features)
        .into_iter()
        .enumerate()
        .map(|(class, probability)| (class, names[class].as_str(), probability))
        .collect();
    classes.sort_by(|a, b| b.2.total_cmp(&a.2));
    classes.truncate(n);
    Some(classes)
}
