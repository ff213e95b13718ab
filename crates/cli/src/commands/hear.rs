//! `edgeward hear`: what a network hears in a recording or a stream, with times.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edgeward_perceive::learner::Input;
use edgeward_perceive::sound::{Heard, Listener, Smoothing};
use serde::Serialize;

use super::net::{FileError, NetworkArgs, open};
use super::{fit, sounds};
use crate::Outcome;
use crate::output::print_line;
use crate::store::Verbosity;

/// Samples that are read at once, at 16,000 a second a sixteenth of one: what is heard is said that soon.
const CHUNK_LEN: usize = 1000;
/// A class of this name is not reported.
const SILENT: &str = "-";

/// Listen for words and sounds: a line for each, as soon as it is heard
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward hear recording.wav --model wakeword.tflite --labels marvin,-,-
  arecord -t wav -r 16000 -f S16_LE | edgeward hear - --model wakeword.tflite --labels marvin,-,- --json

Sound is WAV, FLAC or MP3; channels are averaged, other rates brought to the network's. It is turned
into what the network's input says: 30 frames of 40 log energies as MLPerf Tiny's streaming wake word has them, 49 frames of
10 cepstral coefficients as its keyword spotting, or 49 frames of 40 as TensorFlow Lite Micro's
micro_speech. A recording that is too short for an average is judged as a whole at its end.")]
pub struct Args {
    /// WAV, FLAC or MP3 files, `-` for standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// A TFLite or ONNX file; or what `edgeward fit` has learnt, for one answer for each whole recording
    #[arg(long, short)]
    model: PathBuf,
    /// Names of its classes, in order; a class named `-` is not reported [default: their numbers]
    #[arg(long, short, value_delimiter = ',', allow_hyphen_values = true)]
    labels: Vec<String>,
    /// Mean probability at which a class is heard
    #[arg(long, short, default_value_t = Smoothing::default().on, value_parser = probability)]
    threshold: f32,
    /// Answers of the network that are averaged
    #[arg(long, default_value_t = Smoothing::default().n_answers as u16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    average: u16,
    /// Print a line of JSON for each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

pub(super) fn probability(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(probability) if probability > 0.0 && probability <= 1.0 => Ok(probability),
        _ => Err("give a number above 0, and at most 1".to_owned()),
    }
}

/// What was heard.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    /// Since its beginning.
    time_s: f64,
    class: usize,
    label: &'a str,
    probability: f32,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    if fit::is_fitted(&args.model) {
        return whole(args);
    }
    for path in &args.files {
        hear(args, path, verbosity)?;
    }
    Ok(())
}

fn hear(args: &Args, path: &Path, verbosity: Verbosity) -> Outcome {
    let on = args.threshold;
    let smoothing = Smoothing { n_answers: args.average.into(), on, off: Smoothing::default().off.min(on) };
    let network = open(&args.model, &args.network, 1)?;
    let mut listener =
        Listener::new(network, smoothing).map_err(|error| FileError::new(&args.model, error))?;
    let labels = labels(&args.labels, listener.n_classes())?;
    let rate = listener.recipe().sample_rate();
    let mut reader = sounds::open(path)?.at(rate);
    let file = path.display().to_string();
    let (mut samples, mut heard) = (Vec::new(), Vec::new());
    let (mut n_samples, mut computing) = (0, Duration::ZERO);
    let mut is_over = false;
    while !is_over {
        reader.read(&mut samples, CHUNK_LEN).map_err(|error| FileError::new(path, error))?;
        n_samples += samples.len();
        is_over = samples.is_empty();
        let start = Instant::now();
        if is_over {
            listener.finish(|event| heard.push(event))?;
        } else {
            listener.push(&samples, |event| heard.push(event))?;
        }
        computing += start.elapsed();
        for event in heard.drain(..).filter(|event| labels[event.class] != SILENT) {
            report(args, &file, event, &labels[event.class])?;
        }
    }
    if verbosity == Verbosity::Normal {
        let seconds = n_samples as f64 / f64::from(rate);
        let share = computing.as_secs_f64() / seconds.max(f64::MIN_POSITIVE);
        eprintln!("{file}: {seconds:.1} s, computed in {:.2} % of that", share * 100.0);
    }
    Ok(())
}

fn report(args: &Args, file: &str, event: Heard, label: &str) -> Outcome {
    let Heard { time_s, class, probability } = event;
    if args.json {
        print_line(&serde_json::to_string(&Report { file, time_s, class, label, probability })?)?;
    } else {
        print_line(&format!("{file}, {time_s:.2} s: {label} ({probability:.2})"))?;
    }
    Ok(())
}

/// What was learnt of whole recordings.
fn whole(args: &Args) -> Outcome {
    let fitted = fit::open(&args.model)?;
    if fitted.input != Input::Sound {
        return Err(FileError::new(&args.model, "it was not learnt from recordings").into());
    }
    for path in &args.files {
        let features = sounds::features(path)?;
        let classes = fit::classes(&fitted, &features, 1);
        let Some([(class, label, probability)]) = classes.as_deref() else {
            return Err(FileError::new(&args.model, "it tells a number").into());
        };
        let file = path.display().to_string();
        if args.json {
            let (class, label, probability) = (*class, *label, *probability as f32);
            print_line(&serde_json::to_string(&WholeReport { file: &file, class, label, probability })?)?;
        } else {
            print_line(&format!("{file}: {label} ({probability:.2})"))?;
        }
    }
    Ok(())
}

/// What a whole recording is.
#[derive(Serialize)]
struct WholeReport<'a> {
    file: &'a str,
    class: usize,
    label: &'a str,
    probability: f32,
}

/// A name for each class.
fn labels(given: &[String], n_classes: usize) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    if given.is_empty() {
        return Ok((0..n_classes).map(|class| format!("class {class}")).collect());
    }
    if given.len() != n_classes {
        return Err(format!("{} labels for {n_classes} classes: name each once", given.len()).into());
    }
    Ok(given.to_vec())
}
