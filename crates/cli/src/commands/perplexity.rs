//! `edgeward perplexity`: how well a model predicts a text.
//!
//! The protocol is that of llama-perplexity, so that figures compare: the text is cut into windows of equal length,
//! each is read afresh, and the tokens of its second half but the first are scored, given all before them in the
//! window. A model with a beginning token sees it in place of the first token of every window. What remains after the
//! last whole window is left out. Perplexity is e to the mean of the negative log-probabilities.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use edgeward_engine::{CancelToken, log_probability};
use edgeward_model::tokenizer::{AddSpecial, ParseSpecial};
use serde::Serialize;

use crate::Outcome;
use crate::engine_args::{self, EngineArgs};
use crate::output;
use crate::store::{Progress, Verbosity};

/// Measure how well a model predicts a text
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward perplexity smollm2-135m wiki.test.txt
  edgeward perplexity smollm2-135m wiki.test.txt --window 1024 --kv q8_0 --json")]
pub struct Args {
    /// Name, hf:org/repo[/file.gguf] or path
    model: String,
    /// A text file
    file: PathBuf,
    /// Tokens that are read at once; the second half is scored
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    window: u32,
    /// Only so many windows, evenly spread over the text
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    windows: Option<u32>,
    /// Write the logits of the scored positions to this file: little-endian u32 number of rows, u32 vocabulary size,
    /// then the rows as f32
    #[arg(long, value_name = "PATH")]
    dump_logits: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print JSON instead of a sentence
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    perplexity: f64,
    /// Of the perplexity, by first-order propagation from that of the mean.
    standard_error: f64,
    n_scored: usize,
    n_windows: usize,
    window_len: usize,
    tokens_per_s: f64,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let mut progress = Progress::new(verbosity);
    let text = fs::read_to_string(&args.file)
        .map_err(|error| format!("could not read {} as text: {error}", args.file.display()))?;
    let model = engine_args::open(&args.model, &mut progress)?;
    let tokenizer = model.tokenizer()?;
    let mut tokens = tokenizer.encode(&text, AddSpecial::Yes, ParseSpecial::No)?;
    // Whether the model wants a beginning token shows in what it was given.
    let bos = tokenizer.bos().filter(|bos| tokens.first() == Some(bos));

    let window_len = args.window as usize;
    let n_all = tokens.len() / window_len;
    if n_all == 0 {
        let n_tokens = tokens.len();
        return Err(format!(
            "the text has {n_tokens} tokens and a window {window_len}: give a longer text or a smaller --window"
        )
        .into());
    }
    let chosen = spread(n_all, args.windows.map_or(n_all, |n| n as usize));
    // The logits at a position are those of the next token; the last position has none to score.
    let scored = window_len / 2..window_len - 1;
    let mut dump = match &args.dump_logits {
        Some(path) => Some(Dump::create(path, chosen.len() * scored.len(), model.config().vocab_size)?),
        None => None,
    };
    let mut engine = args.engine.engine(&model, &progress)?;
    let cancel = CancelToken::new();
    let mut scores = Scores::default();
    let start = Instant::now();
    for (n_done, window_idx) in chosen.iter().enumerate() {
        let window = &mut tokens[window_idx * window_len..][..window_len];
        if let Some(bos) = bos {
            window[0] = bos;
        }
        let mut sequence = engine.new_sequence();
        engine.score(&mut sequence, &window[..scored.end], scored.start, &cancel, |idx, logits| {
            scores.push(-log_probability(logits, window[idx + 1]));
            if let Some(dump) = &mut dump {
                dump.row(logits);
            }
        })?;
        if n_done % 16 == 15 {
            progress.note(&format!("{} of {} windows: {:.4}", n_done + 1, chosen.len(), scores.perplexity()));
        }
    }
    let report = Report {
        perplexity: scores.perplexity(),
        standard_error: scores.perplexity_error(),
        n_scored: scores.n,
        n_windows: chosen.len(),
        window_len,
        tokens_per_s: (chosen.len() * window_len) as f64 / start.elapsed().as_secs_f64(),
    };
    if let Some(dump) = dump {
        dump.finish()?;
    }
    if args.json {
        return output::print_json(&report);
    }
    output::print_line(&format!(
        "perplexity {:.4} +/- {:.4} over {} tokens in {} windows of {window_len} ({:.0} tokens/s)",
        report.perplexity, report.standard_error, report.n_scored, report.n_windows, report.tokens_per_s
    ))?;
    Ok(())
}

/// `n_wanted` of the indices below `n_all`, evenly spread, the first and the last among them; all if there are fewer.
fn spread(n_all: usize, n_wanted: usize) -> Vec<usize> {
    match n_wanted {
        1 => vec![0],
        _ if n_wanted >= n_all => (0..n_all).collect(),
        _ => {
            let step = (n_all - 1) as f64 / (n_wanted - 1) as f64;
            (0..n_wanted).map(|i| (i as f64 * step).round_ties_even() as usize).collect()
        }
    }
}

/// A file of logits. Errors are kept until the end: the engine's callback cannot return them.
struct Dump {
    path: PathBuf,
    out: BufWriter<File>,
    outcome: io::Result<()>,
}

impl Dump {
    fn create(path: &Path, n_rows: usize, vocab_size: usize) -> Result<Dump, String> {
        let header = [n_rows, vocab_size].map(|n| u32::try_from(n).map(u32::to_le_bytes));
        let [Ok(n_rows), Ok(vocab_size)] = header else {
            return Err(format!("{n_rows} rows are too many for one file: choose fewer --windows"));
        };
        let file =
            File::create(path).map_err(|error| format!("could not create {}: {error}", path.display()))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let outcome = out.write_all(&n_rows).and_then(|()| out.write_all(&vocab_size));
        Ok(Dump { path: path.to_owned(), out, outcome })
    }

    fn row(&mut self, logits: &[f32]) {
        if self.outcome.is_ok() {
            self.outcome = logits.iter().try_for_each(|logit| self.out.write_all(&logit.to_le_bytes()));
        }
    }

    fn finish(mut self) -> Result<(), String> {
        self.outcome
            .and_then(|()| self.out.flush())
            .map_err(|error| format!("could not write {}: {error}", self.path.display()))
    }
}

/// Negative log-probabilities, summed.
#[derive(Default)]
struct Scores {
    n: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Scores {
    fn push(&mut self, nll: f64) {
        self.n += 1;
        self.sum += nll;
        self.sum_of_squares += nll * nll;
    }

    fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }

    fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    fn perplexity_error(&self) -> f64 {
        let variance = (self.sum_of_squares / self.n as f64 - self.mean().powi(2)).max(0.0);
        self.perplexity() * (variance / (self.n.max(2) - 1) as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_evenly_spread() {
        assert_eq!(spread(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(spread(3, 9), [0, 1, 2]);
        assert_eq!(spread(10, 4), [0, 3, 6, 9]);
        assert_eq!(spread(10, 1), [0]);
        assert_eq!(spread(117, 30).last(), Some(&116));
    }

    #[test]
    fn perplexity_of_known_probabilities() {
        let mut scores = Scores::default();
        for probability in [0.5f64, 0.125] {
            scores.push(-probability.ln());
        }
        assert!((scores.perplexity() - 4.0).abs() < 1e-12);
        // Deviations of ln 2 from the mean of ln 4, on both sides.
        assert!((scores.perplexity_error() - 4.0 * 2f64.ln()).abs() < 1e-12);
    }
}
