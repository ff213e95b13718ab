//! `edgeward bench`: how fast a model runs here, and how fast it could.
//!
//! As in llama-bench, so that figures compare: prefill is timed from an empty sequence to the logits of its last
//! token; decode appends tokens one by one to a sequence of the given depth, whose own computation is not timed. Each
//! figure is the median over the repetitions, after one that is not counted. Tokens are pseudo-random: which they are
//! does not matter for speed.

use std::time::Instant;

use edgeward_engine::{Adapters, CancelToken, Engine, EngineOptions};
use serde::Serialize;

use crate::Outcome;
use crate::device::DeviceProfile;
use crate::engine_args::{self, KvArg, LoraArg, PrecisionArg};
use crate::output::{self, Align, Table};
use crate::speed_limit::Demand;
use crate::store::{Progress, Store, Verbosity};

/// Decode steps before those that count.
const N_WARM_UP: usize = 4;

/// Measure the speed of a model, in tokens per second and as a share of what this device could do
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward bench smollm2-135m
  edgeward bench smollm2-135m --threads 1,2 --prompt 512 --gen 0
  edgeward bench smollm2-135m --prompt 0 --depth 0,2048 --repeat 10 --json

0 leaves a part out: `--prompt 0` measures only decode, `--gen 0` only prefill.")]
pub struct Args {
    /// Name, hf:org/repo[/file.gguf] or path
    model: String,
    /// Numbers of threads [default: as many as can run at once]
    #[arg(long, short, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    threads: Vec<u16>,
    /// Lengths of prompts, tokens
    #[arg(long, short, value_delimiter = ',', default_value = "128,512,2048")]
    prompt: Vec<u32>,
    /// Tokens to generate
    #[arg(long, short = 'n', value_delimiter = ',', default_value = "128")]
    r#gen: Vec<u32>,
    /// Tokens that are there before those generated
    #[arg(long, short, value_delimiter = ',', default_value = "0,2048")]
    depth: Vec<u32>,
    /// Repetitions of each measurement
    #[arg(long, short, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// How keys and values are kept [default: as the file says, else f16]
    #[arg(long, value_enum)]
    kv: Option<KvArg>,
    /// How finely the inputs of quantised matrices are rounded
    #[arg(long, value_enum, default_value = "balanced")]
    precision: PrecisionArg,
    /// Add this LoRA adapter (may be given several times); the limit does not count it
    #[arg(long, value_name = "FILE[=SCALE]")]
    lora: Vec<LoraArg>,
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
}

/// One figure.
#[derive(Serialize)]
struct Row {
    threads: usize,
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    /// Median of the samples.
    tokens_per_s: f64,
    percent_of_limit: f64,
    /// What the device's limits allow.
    limit_tokens_per_s: f64,
    /// Every repetition.
    samples_tokens_per_s: Vec<f64>,
    /// The most memory that this process has had up to here; unknown where the system does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
}

/// What is measured: prefill has no `n_gen`, decode no `n_prompt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Prefill { n_prompt: usize },
    Decode { n_gen: usize, n_depth: usize },
}

impl Case {
    /// Positions that it needs.
    fn n_positions(self) -> usize {
        match self {
            Case::Prefill { n_prompt } => n_prompt,
            Case::Decode { n_gen, n_depth } => n_depth + n_gen.max(N_WARM_UP),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let mut progress = Progress::new(verbosity);
    let cases = cases(&args.prompt, &args.r#gen, &args.depth);
    if cases.is_empty() {
        return Err("there is nothing to measure: give --prompt or --gen a number above 0".into());
    }
    let profile_path = Store::open()?.profile_path();
    let model = engine_args::open(&args.model, &mut progress)?;
    let kv_type = engine_args::kv_type(args.kv, model.gguf());
    let adapters = engine_args::adapters(&args.lora, &model)?;
    let demand = Demand::new(&model, kv_type);
    let context_len = cases.iter().map(|case| case.n_positions()).max().unwrap_or(1);
    if context_len > model.config().context_len {
        progress.note(&format!("The model was made for {} tokens at most.", model.config().context_len));
    }
    let mut thread_counts: Vec<usize> = args.threads.iter().map(|n| usize::from(*n)).collect();
    if thread_counts.is_empty() {
        thread_counts.push(crate::device::n_logical_cores());
    }

    let mut profile = DeviceProfile::load(&profile_path);
    let mut rows = Vec::new();
    for threads in thread_counts {
        let options = EngineOptions {
            n_threads: threads,
            kv_type,
            context_len,
            precision: args.precision.into(),
            ..EngineOptions::default()
        };
        let mut engine = engine_args::engine(&model, options, &progress)?;
        let limits = match profile.limits_at(threads) {
            Some(limits) => limits,
            None => {
                progress.note(&format!("Measuring what this device can do with {threads} thread(s)"));
                let limits = profile.measure(threads);
                profile.save(&profile_path)?;
                limits
            }
        };
        for &case in &cases {
            let samples = measure(&mut engine, &adapters, case, args.repeat as usize)?;
            let (n_prompt, n_gen, n_depth, limit) = match case {
                Case::Prefill { n_prompt } => {
                    (n_prompt, 0, 0, demand.prefill_tokens_per_s(&limits, n_prompt))
                }
                Case::Decode { n_gen, n_depth } => {
                    (0, n_gen, n_depth, demand.decode_tokens_per_s(&limits, n_depth, n_gen))
                }
            };
            let tokens_per_s = median(&samples);
            rows.push(Row {
                threads,
                n_prompt,
                n_gen,
                n_depth,
                tokens_per_s,
                percent_of_limit: 100.0 * tokens_per_s / limit,
                limit_tokens_per_s: limit,
                samples_tokens_per_s: samples,
                peak_memory_bytes: crate::device::peak_memory_bytes(),
            });
        }
    }
    if args.json {
        return output::print_json(&rows);
    }
    print(&rows)?;
    Ok(())
}

/// Prefill for each length, then decode for each count at each depth; what is 0 is left out.
fn cases(prompts: &[u32], gens: &[u32], depths: &[u32]) -> Vec<Case> {
    let above_zero =
        |list: &[u32]| -> Vec<usize> { list.iter().filter(|n| **n > 0).map(|n| *n as usize).collect() };
    let mut cases: Vec<Case> =
        above_zero(prompts).into_iter().map(|n_prompt| Case::Prefill { n_prompt }).collect();
    for n_gen in above_zero(gens) {
        cases.extend(depths.iter().map(|n_depth| Case::Decode { n_gen, n_depth: *n_depth as usize }));
    }
    cases
}

/// Tokens per second of each repetition.
fn measure(
    engine: &mut Engine,
    adapters: &Adapters,
    case: Case,
    n_repeat: usize,
) -> Result<Vec<f64>, edgeward_engine::Error> {
    let vocab_size = engine.config().vocab_size;
    let cancel = CancelToken::new();
    let mut samples = Vec::with_capacity(n_repeat);
    match case {
        Case::Prefill { n_prompt } => {
            let tokens = pseudo_random_tokens(n_prompt, vocab_size);
            for repetition in 0..=n_repeat {
                let mut sequence = engine.new_adapted_sequence(adapters)?;
                let start = Instant::now();
                engine.prefill(&mut sequence, &tokens, &cancel)?;
                if repetition > 0 {
                    samples.push(n_prompt as f64 / start.elapsed().as_secs_f64());
                }
            }
        }
        Case::Decode { n_gen, n_depth } => {
            let tokens = pseudo_random_tokens(n_depth + n_gen.max(N_WARM_UP), vocab_size);
            let mut sequence = engine.new_adapted_sequence(adapters)?;
            if n_depth > 0 {
                engine.prefill(&mut sequence, &tokens[..n_depth], &cancel)?;
            }
            for repetition in 0..=n_repeat {
                let n_steps = if repetition == 0 { N_WARM_UP } else { n_gen };
                let start = Instant::now();
                for token in &tokens[n_depth..n_depth + n_steps] {
                    engine.decode(&mut [(&mut sequence, *token)])?;
                }
                if repetition > 0 {
                    samples.push(n_gen as f64 / start.elapsed().as_secs_f64());
                }
                sequence.truncate(n_depth);
            }
        }
    }
    Ok(samples)
}

/// The same for the same numbers, by a linear congruential generator (Knuth, MMIX).
fn pseudo_random_tokens(n: usize, vocab_size: usize) -> Vec<u32> {
    let mut state = 1u64;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as usize % vocab_size) as u32
        })
        .collect()
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    (low + high) / 2.0
}

fn print(rows: &[Row]) -> std::io::Result<()> {
    let mut table = Table::new(&[
        ("THREADS", Align::Right),
        ("PART", Align::Left),
        ("TOKENS", Align::Right),
        ("DEPTH", Align::Right),
        ("TOKENS/S", Align::Right),
        ("MIN", Align::Right),
        ("MAX", Align::Right),
        ("% OF LIMIT", Align::Right),
    ]);
    for row in rows {
        let (part, n_tokens) =
            if row.n_prompt > 0 { ("prefill", row.n_prompt) } else { ("decode", row.n_gen) };
        let samples = &row.samples_tokens_per_s;
        table.row(vec![
            row.threads.to_string(),
            part.to_owned(),
            n_tokens.to_string(),
            row.n_depth.to_string(),
            format!("{:.1}", row.tokens_per_s),
            format!("{:.1}", samples.iter().copied().fold(f64::INFINITY, f64::min)),
            format!("{:.1}", samples.iter().copied().fold(0.0, f64::max)),
            format!("{:.1}", row.percent_of_limit),
        ]);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_leaves_a_part_out() {
        let prefill = |n_prompt| Case::Prefill { n_prompt };
        let decode = |n_gen, n_depth| Case::Decode { n_gen, n_depth };
        assert_eq!(
            cases(&[128, 512], &[64], &[0, 2048]),
            [prefill(128), prefill(512), decode(64, 0), decode(64, 2048)]
        );
        assert_eq!(cases(&[512], &[0], &[0]), [prefill(512)]);
        assert_eq!(cases(&[0], &[128], &[2048]), [decode(128, 2048)]);
        assert!(cases(&[0], &[0], &[0]).is_empty());
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
