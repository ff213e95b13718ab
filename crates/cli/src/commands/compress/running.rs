//! What running a file takes on this device: another process of this program runs it and tells.
//!
//! Memory can be told apart from what compressing itself takes only in a process of its own.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

/// Tokens whose time counts.
const N_TIMED: usize = 48;
/// How often they are timed: the median counts.
const N_REPEAT: usize = 7;

/// What running a file takes.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// For a token at the beginning of an answer.
    pub ns_per_token: f64,
    /// At most, when a conversation has come to its length.
    pub memory_bytes: Option<u64>,
}

/// A line of `edgeward bench --json`.
#[derive(Deserialize)]
struct Row {
    n_depth: usize,
    tokens_per_s: f64,
    peak_memory_bytes: Option<u64>,
}

/// Runs the file at `path` here, in a conversation of `context_len` tokens.
pub fn measure(path: &Path, n_threads: usize, context_len: usize) -> Result<Figures, String> {
    let time = run(path, n_threads, 0, N_TIMED, N_REPEAT)?;
    let n_generated = context_len.min(8);
    let memory = run(path, n_threads, context_len - n_generated, n_generated, 1)?;
    Ok(Figures { ns_per_token: 1e9 / time.tokens_per_s, memory_bytes: memory.peak_memory_bytes })
}

fn run(path: &Path, n_threads: usize, depth: usize, n: usize, n_repeat: usize) -> Result<Row, String> {
    let failed = |what: String| format!("could not run the result to measure it: {what}");
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let numbers =
        [("--threads", n_threads), ("--prompt", 0), ("--depth", depth), ("--gen", n), ("--repeat", n_repeat)];
    let mut command = Command::new(program);
    command.arg("--quiet").arg("bench").arg(path).arg("--json");
    command.args(numbers.iter().flat_map(|(option, n)| [(*option).to_owned(), n.to_string()]));
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()));
    }
    let rows: Vec<Row> = serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
    rows.into_iter().find(|row| row.n_depth == depth).ok_or_else(|| failed("it told nothing".to_owned()))
}
