//! `edgeward net bench`: how long one run takes.
//!
//! Runs are timed one by one, after some that are not counted, for a given time; the median is what counts, as other
//! work on the machine only ever makes a run longer. Inputs are pseudo-random and the same for the same network.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use edgeward_perceive::Network;
use serde::Serialize;

use super::NetworkArgs;
use crate::Outcome;
use crate::output::{self, Align, Table};
use crate::store::{Progress, Verbosity, human_bytes};

/// Samples are kept to find their median; beyond this many, measuring ends early.
const MAX_RUNS: usize = 1 << 20;

/// Measure how long a network takes
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward net bench keyword.tflite
  edgeward net bench *.tflite --threads 1,2 --seconds 3
  edgeward net bench keyword.tflite --threads 1 --json")]
pub struct Args {
    /// TFLite or ONNX files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Numbers of threads
    #[arg(long, short, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Vec<u16>,
    /// How long to measure each
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.001..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds from 0.001 to 3600".to_owned()),
    }
}

#[derive(Serialize)]
struct Row {
    file: PathBuf,
    threads: u16,
    isa: &'static str,
    /// Median.
    us_per_run: f64,
    us_fastest: f64,
    /// One in ten runs took longer.
    us_p90: f64,
    n_runs: usize,
    arena_bytes: u64,
    weight_bytes: u64,
    macs: u64,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let progress = Progress::new(verbosity);
    let mut rows = Vec::new();
    for file in &args.files {
        for threads in &args.threads {
            let options = args.network.options(usize::from(*threads));
            let mut network = super::open(file, &args.network, usize::from(*threads))?;
            progress.note(&format!("Measuring {} with {threads} thread(s)", file.display()));
            let samples = measure(&mut network, Duration::from_secs_f64(args.seconds))?;
            let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
            let cost = network.cost();
            rows.push(Row {
                file: file.clone(),
                threads: *threads,
                isa: options.isa.name(),
                us_per_run: at(0.5),
                us_fastest: at(0.0),
                us_p90: at(0.9),
                n_runs: samples.len(),
                arena_bytes: cost.arena_bytes,
                weight_bytes: cost.weight_bytes,
                macs: cost.macs,
            });
        }
    }
    if args.json {
        return output::print_json(&rows);
    }
    let mut table = Table::new(&[
        ("FILE", Align::Left),
        ("THREADS", Align::Right),
        ("US/RUN", Align::Right),
        ("FASTEST", Align::Right),
        ("P90", Align::Right),
        ("GMAC/S", Align::Right),
        ("ARENA", Align::Right),
        ("WEIGHTS", Align::Right),
    ]);
    for row in rows {
        table.row(vec![
            row.file.display().to_string(),
            row.threads.to_string(),
            format!("{:.1}", row.us_per_run),
            format!("{:.1}", row.us_fastest),
            format!("{:.1}", row.us_p90),
            format!("{:.1}", row.macs as f64 / row.us_per_run / 1e3),
            human_bytes(row.arena_bytes),
            human_bytes(row.weight_bytes),
        ]);
    }
    table.print()?;
    Ok(())
}

/// Times of single runs, sorted. At least one.
pub(super) fn measure(
    network: &mut Network,
    duration: Duration,
) -> Result<Vec<Duration>, edgeward_perceive::Error> {
    let mut state = 1u64;
    for port in 0..network.inputs().len() {
        // In the range of the quantised type, or like the standard normal distribution's bulk.
        let (low, high) = match network.inputs()[port].quantization {
            Some((scale, zero)) => (scale * (-128 - zero) as f32, scale * (127 - zero) as f32),
            None => (-1.0, 1.0),
        };
        let values: Vec<f32> = (0..network.inputs()[port].n_elements())
            .map(|_| {
                // Knuth's MMIX generator.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                low + (high - low) * ((state >> 40) as f32 / (1 << 24) as f32)
            })
            .collect();
        network.set_input(port, &values)?;
    }
    let warm_up = Instant::now();
    while warm_up.elapsed() < duration / 5 {
        network.run();
    }
    let mut samples = Vec::with_capacity(MAX_RUNS);
    let start = Instant::now();
    while samples.is_empty() || samples.len() < MAX_RUNS && start.elapsed() < duration {
        let start = Instant::now();
        network.run();
        samples.push(start.elapsed());
    }
    samples.sort_unstable();
    Ok(samples)
}
