//! `edgeward perplexity`: how well a model predicts a text.
//!
//! The protocol is that of llama-perplexity, so that figures compare: the text is cut into windows of equal length,
//! each is read afresh, and the tokens of its second half but the first are scored, given all before them in the
//! window. A model with a beginning token sees it in place of the first token of every window. What remains after the
//! last whole window is left out. Perplexity is e to the mean of the negative log-probabilities.

use std::fs;
use std::path::PathBuf;
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
    /// Only the first so many windows
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_windows: Option<u32>,
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
    let n_windows = (tokens.len() / window_len).min(args.max_windows.map_or(usize::MAX, |n| n as usize));
    if n_windows == 0 {
        let n_tokens = tokens.len();
        return Err(format!(
            "the text has {n_tokens} tokens and a window {window_len}: give a longer text or a smaller --window"
        )
        .into());
    }
    let mut engine = args.engine.engine(&model, &progress)?;
    let cancel = CancelToken::new();
    let mut scores = Scores::default();
    let start = Instant::now();
    for (window_idx, window) in tokens.chunks_exact_mut(window_len).take(n_windows).enumerate() {
        if let Some(bos) = bos {
            window[0] = bos;
        }
        // The logits at a position are those of the next token; the last position has none to score.
        let first = window_len / 2;
        let mut sequence = engine.new_sequence();
        engine.score(&mut sequence, &window[..window_len - 1], first, &cancel, |idx, logits| {
            scores.push(-log_probability(logits, window[idx + 1]));
        })?;
        if window_idx % 16 == 15 {
            progress.note(&format!("{} of {n_windows} windows: {:.4}", window_idx + 1, scores.perplexity()));
        }
    }
    let report = Report {
        perplexity: scores.perplexity(),
        standard_error: scores.perplexity_error(),
        n_scored: scores.n,
        n_windows,
        window_len,
        tokens_per_s: (n_windows * window_len) as f64 / start.elapsed().as_secs_f64(),
    };
    if args.json {
        return output::print_json(&report);
    }
    output::print_line(&format!(
        "perplexity {:.4} +/- {:.4} over {} tokens in {n_windows} windows of {window_len} ({:.0} tokens/s)",
        report.perplexity, report.standard_error, report.n_scored, report.tokens_per_s
    ))?;
    Ok(())
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
