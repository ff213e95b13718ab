//! `edgeward net distill`: a small network taught by a large one.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edgeward_compress::networks::certificate::Figures;
use edgeward_compress::networks::train::{Loss, Options, Step};
use edgeward_compress::networks::{Agreement, Phase, Plan, accuracy, distill, multiplications};
use edgeward_perceive::Network;
use serde::Serialize;

use super::certify::{self, AsWritten};
use super::{FileError, NetworkArgs, bench, examples};
use crate::Outcome;
use crate::commands::pictures::PictureArgs;
use crate::output::{self, Align, Table};
use crate::store::{Progress, Verbosity};

/// For how long each network's speed is measured.
const MEASURED: Duration = Duration::from_millis(300);

/// Teach a small network what a large one knows, and bring it to eight bits
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward net distill teacher.tflite --prune-to 0.33 --inputs photographs/ -o student.tflite
  edgeward net distill teacher.onnx --student thin.tflite --inputs photographs/ -o student.tflite
  edgeward net distill teacher.tflite --prune-to 0.5 --inputs leaves/ --labels scab,rot,rust,healthy \\
      --loss kl,hard=0.5 -o student.tflite
  edgeward net distill teacher.tflite --inputs features.f32 --targets classes.txt --loss squared,hard -o student.tflite

The student is the teacher without those channels that matter least (--prune-to), a network of your own
(--student), or the teacher itself, which then only learns to bear eight bits. It needs inputs of the kind that
it will see, some hundreds at least, but no right answers: the teacher's are what it learns. Where the right
classes are known (--labels or --targets), --loss hard uses them too. A quarter of the inputs is kept to compare
the networks on. The file, TFLite or ONNX as its name says, appears when all is done, with its certificate beside
it; Ctrl-C leaves nothing behind.")]
pub struct Args {
    /// The teacher: a TFLite or ONNX file of floats
    file: PathBuf,
    /// Share of the multiplications that is to be left, above 0 and below 1
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with = "student")]
    prune_to: Option<f64>,
    /// A network of floats to teach, with the teacher's inputs and outputs
    #[arg(long, value_name = "FILE")]
    student: Option<PathBuf>,
    /// Images, folders of images, or files of float32 numbers, one input after the other
    #[arg(long, short, required = true, num_args = 1..)]
    inputs: Vec<PathBuf>,
    /// Names of the classes, in order, as `edgeward see` takes them; an image's right class is the name of its folder
    #[arg(long, short)]
    labels: Option<String>,
    /// A text file with the number of each input's right class, from 0, one on a line
    #[arg(long, value_name = "FILE", conflicts_with = "labels")]
    targets: Option<PathBuf>,
    /// What is to become small, each with a weight if wanted: squared (differences of probabilities), kl (divergence
    /// from the teacher), hard (right classes)
    #[arg(long, value_name = "NAME[=WEIGHT],...", default_value = "kl", value_parser = loss)]
    loss: Loss,
    /// By which the logits are divided in kl: above 1, small probabilities count more
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    temperature: f64,
    /// How often all inputs are gone through
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Inputs of a step
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// The highest rate of learning
    #[arg(long, default_value_t = 2e-3, value_parser = positive)]
    rate: f64,
    /// Of the order of inputs: the same seed gives the same student
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Leave the student in floats
    #[arg(long)]
    float: bool,
    /// The file to write: its name ends in .tflite or .onnx
    #[arg(long, short)]
    output: PathBuf,
    /// Most inputs to use
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(2..))]
    examples: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pictures: PictureArgs,
    #[command(flatten)]
    network: NetworkArgs,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| "give a number above 0 and below 1, as in 0.33".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "give a number above 0".to_owned())
}

/// `kl=0.7,hard`.
fn loss(text: &str) -> Result<Loss, String> {
    let mut loss = Loss { squared: 0.0, kl: 0.0, hard: 0.0, temperature: 1.0 };
    for part in text.split(',') {
        let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
        let weight = positive(weight).map_err(|_| format!("{part}: a weight is a number above 0"))?;
        match name.trim() {
            "squared" => loss.squared = weight,
            "kl" => loss.kl = weight,
            "hard" => loss.hard = weight,
            other => return Err(format!("{other} is none of squared, kl and hard")),
        }
    }
    Ok(loss)
}

impl Args {
    /// For the certificate: what made the student, without folders.
    fn command(&self) -> String {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = format!("edgeward net distill {}", name(&self.file));
        let mut add = |option: &str, value: String| command.push_str(&format!(" --{option} {value}"));
        if let Some(share) = self.prune_to {
            add("prune-to", share.to_string());
        }
        if let Some(student) = &self.student {
            add("student", name(student));
        }
        let Loss { squared, kl, hard, .. } = self.loss;
        let parts = [("squared", squared), ("kl", kl), ("hard", hard)];
        let parts = parts.iter().filter(|(_, weight)| *weight > 0.0);
        add("loss", parts.map(|(name, weight)| format!("{name}={weight}")).collect::<Vec<_>>().join(","));
        add("temperature", self.temperature.to_string());
        add("epochs", self.epochs.to_string());
        add("batch", self.batch.to_string());
        add("rate", self.rate.to_string());
        add("seed", self.seed.to_string());
        if self.float {
            command.push_str(" --float");
        }
        command
    }
}

#[derive(Serialize)]
struct Row {
    /// "teacher", "student" or "eight bits".
    network: &'static str,
    /// Of its file.
    bytes: u64,
    multiplications: u64,
    /// On one thread.
    us_per_run: f64,
    /// Share of inputs whose largest output is the teacher's.
    same_top_1: f64,
    kl_divergence: Option<f64>,
    /// Share of inputs whose largest output is the right class.
    accuracy: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    output: PathBuf,
    n_taught: usize,
    n_compared: usize,
    networks: Vec<Row>,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let format = super::format(&args.output)?;
    let teacher = super::read_writable(&args.file, &args.network)?;
    let given = args.student.as_ref().map(|path| super::read_writable(path, &args.network)).transpose()?;
    let named = |error: edgeward_perceive::Error| FileError::new(&args.file, error);
    let network = Network::new(&teacher, &args.network.options(1)).map_err(named)?;
    let all = examples::read(&args.inputs, &network, &args.pictures, args.examples as usize)?;
    let n_classes = network.outputs()[0].n_elements();
    let classes = all.right_classes(args.labels.as_deref(), args.targets.as_deref(), n_classes)?;
    if args.loss.needs_labels() && classes.is_none() {
        return Err("--loss hard needs the right classes: give --labels or --targets".into());
    }
    let (seen, kept) = all.split();
    let pick = |part: &[usize]| -> (Vec<Vec<Vec<f32>>>, Option<Vec<usize>>) {
        let examples = part.iter().map(|i| all.values[*i].clone()).collect();
        (examples, classes.as_ref().map(|classes| part.iter().map(|i| classes[*i]).collect()))
    };
    let ((seen, seen_classes), (kept, kept_classes)) = (pick(&seen), pick(&kept));

    let is_stopped = Arc::new(AtomicBool::new(false));
    let on_signal = Arc::clone(&is_stopped);
    ctrlc::set_handler(move || on_signal.store(true, Ordering::Relaxed))?;
    let mut progress = Progress::new(verbosity);
    progress.note(&format!("Teaching on {} inputs, comparing on {}", seen.len(), kept.len()));
    let plan = Plan {
        prune_to: args.prune_to.unwrap_or(1.0),
        training: Options {
            loss: Loss { temperature: args.temperature, ..args.loss },
            n_epochs: args.epochs as usize,
            batch_size: args.batch as usize,
            learning_rate: args.rate,
            seed: args.seed,
        },
        eight_bits: !args.float,
        input_range: all.input_range(&args.pictures),
    };
    let mut shown = None;
    let mut watch = |phase: Phase, step: Step| {
        if shown != Some(phase) {
            shown = Some(phase);
            progress.start_steps(&describe(phase), step.step, step.n_steps);
            if !progress.is_visible() {
                progress.note(&describe(phase));
            }
        }
        progress.set(step.step);
        if is_stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let made = distill(&teacher, given.as_ref(), (&seen, seen_classes.as_deref()), &plan, &mut watch);
    progress.finish();
    let made = made.map_err(|error| FileError::new(&args.file, error))?;

    let result = made.eight_bits.as_ref().unwrap_or(&made.float);
    let as_written = |graph| certify::as_written(graph, format).map_err(named);
    let size_bytes = fs::metadata(&args.file)?.len();
    let mut networks = vec![
        ("teacher", AsWritten { graph: teacher.clone(), size_bytes }),
        ("student", as_written(&made.float)?),
    ];
    if let Some(graph) = &made.eight_bits {
        networks.push(("eight bits", as_written(graph)?));
    }
    let (mut rows, mut agreements) = (Vec::new(), Vec::new());
    for (name, written) in networks {
        let agreement = Agreement::measure(&teacher, &written.graph, &kept).map_err(named)?;
        let row = measure(name, &written, &agreement, (&kept, kept_classes.as_deref()), args);
        rows.push(row.map_err(named)?);
        agreements.push(agreement);
    }
    let making = certify::Making {
        command: args.command(),
        teacher: &args.file,
        examples: &all,
        agreement: agreements.last().expect("one for each network"),
        isa: args.network.options(1).isa.name(),
    };
    let figures = [&rows[0], &rows[rows.len() - 1]].map(|row| Figures {
        size_bytes: row.bytes,
        multiplications: row.multiplications,
        us_per_run: Some(row.us_per_run),
        accuracy: row.accuracy,
    });
    certify::write((&args.output, format), result, figures, &making)?;
    let report =
        Report { output: args.output.clone(), n_taught: seen.len(), n_compared: kept.len(), networks: rows };
    if args.json { output::print_json(&report) } else { print(&report) }
}

fn describe(phase: Phase) -> String {
    match phase {
        Phase::Measuring(round, n) => format!("Measuring channels, round {round} of {n}"),
        Phase::Repairing(round, n) => format!("Teaching what is left, round {round} of {n}"),
        Phase::Teaching => "Teaching".to_owned(),
        Phase::Rounding => "Learning to bear eight bits".to_owned(),
    }
}

/// A network that agrees with its teacher so far.
fn measure(
    name: &'static str,
    AsWritten { graph, size_bytes }: &AsWritten,
    agreement: &Agreement,
    (kept, classes): (&[Vec<Vec<f32>>], Option<&[usize]>),
    args: &Args,
) -> Result<Row, edgeward_perceive::Error> {
    let mut network = Network::new(graph, &args.network.options(1))?;
    let times = bench::measure(&mut network, MEASURED)?;
    Ok(Row {
        network: name,
        bytes: *size_bytes,
        multiplications: multiplications(graph),
        us_per_run: times[times.len() / 2].as_secs_f64() * 1e6,
        same_top_1: agreement.top_1,
        kl_divergence: agreement.kl_divergence,
        accuracy: classes.map(|classes| accuracy(graph, kept, classes)).transpose()?,
    })
}

fn print(report: &Report) -> Outcome {
    let mut table = Table::new(&[
        ("NETWORK", Align::Left),
        ("BYTES", Align::Right),
        ("MULTIPLICATIONS", Align::Right),
        ("US/RUN", Align::Right),
        ("SAME CLASS", Align::Right),
        ("KL NATS", Align::Right),
        ("RIGHT", Align::Right),
    ]);
    let share = |share: f64| format!("{:.2} %", share * 100.0);
    for row in &report.networks {
        table.row(vec![
            row.network.to_owned(),
            row.bytes.to_string(),
            row.multiplications.to_string(),
            format!("{:.1}", row.us_per_run),
            share(row.same_top_1),
            row.kl_divergence.map_or_else(String::new, |kl| format!("{kl:.5}")),
            row.accuracy.map_or_else(String::new, share),
        ]);
    }
    table.print()?;
    output::print_line(&format!("{}: written", report.output.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses() {
        let mix = loss("kl=0.7, hard").unwrap();
        assert_eq!((mix.squared, mix.kl, mix.hard), (0.0, 0.7, 1.0));
        assert!(loss("kl=0").unwrap_err().contains("a weight"));
        assert!(loss("soft").unwrap_err().contains("none of squared, kl and hard"));
    }
}
