//! `edgeward perplexity`: how well a model predicts a text. The protocol is `edgeward_compress::eval`'s.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use edgeward_compress::eval::{TextScores, Windows, score_window};
use edgeward_engine::CancelToken;
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
    let windows = Windows::new(&model.tokenizer()?, &text, args.window as usize)?;
    let chosen = windows.spread(args.windows.map_or(windows.len(), |n| n as usize));
    let mut dump = match &args.dump_logits {
        Some(path) => {
            Some(Dump::create(path, chosen.len() * windows.scored().len(), model.config().vocab_size)?)
        }
        None => None,
    };
    let mut engine = args.engine.engine(&model, &progress)?;
    let cancel = CancelToken::new();
    let mut scores = TextScores::default();
    let start = Instant::now();
    for &idx in &chosen {
        score_window(&windows, idx, &mut [(&mut engine, &mut scores)], None, &cancel, &mut |logits| {
            if let Some(dump) = &mut dump {
                dump.row(logits);
            }
        })?;
        if scores.n_windows % 16 == 0 {
            let (n_done, perplexity) = (scores.n_windows, scores.perplexity.value());
            progress.note(&format!("{n_done} of {} windows: {perplexity:.4}", chosen.len()));
        }
    }
    let report = Report {
        perplexity: scores.perplexity.value(),
        standard_error: scores.perplexity.standard_error(),
        n_scored: scores.perplexity.n(),
        n_windows: chosen.len(),
        window_len: windows.window_len(),
        tokens_per_s: (chosen.len() * windows.window_len()) as f64 / start.elapsed().as_secs_f64(),
    };
    if let Some(dump) = dump {
        dump.finish()?;
    }
    if args.json {
        return output::print_json(&report);
    }
    output::print_line(&format!(
        "perplexity {:.4} +/- {:.4} over {} tokens in {} windows of {} ({:.0} tokens/s)",
        report.perplexity,
        report.standard_error,
        report.n_scored,
        report.n_windows,
        report.window_len,
        report.tokens_per_s
    ))?;
    Ok(())
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
