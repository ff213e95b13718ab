//! What was done to a model, and what it lost: in the file's own metadata, and beside it as JSON and as a page.
//!
//! A certificate names its teacher and its calibration text by their SHA-256, and the text that the loss was measured
//! on by how it is cut out of the calibration text, so that anyone who has both can measure again.

use std::fmt::Write;

use edgeward_engine::{CancelToken, Engine};
use edgeward_model::gguf::Gguf;
use serde::{Deserialize, Serialize};

use crate::compress::Step;
use crate::error::Error;
use crate::eval::{PassageScores, Teacher, TextScores, Windows, score_window};
use crate::prune::{Shape, Trial};
use crate::tasks::TaskSummary;
use crate::vocabulary::Kept;

/// Where the certificate is in a GGUF file's metadata, as JSON.
pub const KEY: &str = "edgeward.certificate";
/// Where a file says how keys and values are to be kept: "f16" or "q8_0". Other programs do not know it.
pub const KV_KEY: &str = "edgeward.kv_type";
/// The only version there is.
pub const VERSION: u32 = 1;
/// Windows that a result is checked on at most: some thousand positions tell a divergence to a few parts in a hundred.
const MAX_CHECK_WINDOWS: usize = 8;
/// A divergence measured again may differ by this part: other versions of the program may add in another order.
const TOLERANCE: f64 = 0.02;
/// Longer ones are not looked at, bytes: those of large models take some hundred kilobytes.
const MAX_BYTES: usize = 16 << 20;

/// A file that took part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileId {
    /// Its name, without folders.
    pub name: String,
    /// Of its bytes, in hexadecimal.
    pub sha256: String,
    /// Its length.
    pub size_bytes: u64,
}

/// One matrix of the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorRecord {
    /// Its name in the file.
    pub name: String,
    /// Its type.
    pub dtype: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Divergence that it was expected to cost, nats; none if types were not searched for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expected_kl: Option<f64>,
}

/// What was left out of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PruningRecord {
    /// Weights of the teacher.
    pub n_params_before: u64,
    /// Weights left.
    pub n_params: u64,
    /// The teacher's layers.
    pub before: Shape,
    /// What is left of them.
    pub shape: Shape,
    /// What was tried, in order.
    pub trials: Vec<Trial>,
}

/// A vocabulary of which only a part was kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VocabularyRecord {
    /// The text that decided.
    pub corpus: FileId,
    /// Tokens of the teacher.
    pub n_tokens_before: usize,
    /// Tokens kept.
    pub n_tokens: usize,
    /// Tokens that the corpus makes.
    pub n_seen: usize,
    /// Expected share of the tokens of such a text that are not among those kept.
    pub missing_share: f64,
    /// Whether the passages below did not decide which tokens were kept.
    pub is_held_out: bool,
    /// Bytes of these passages.
    pub n_bytes: usize,
    /// What they cost the result, bits by byte.
    pub bits_per_byte: f64,
    /// What they cost the teacher.
    pub bits_per_byte_before: f64,
    /// By which share the perplexity by token of the teacher has grown.
    pub perplexity_increase: f64,
    /// Of that share.
    pub perplexity_increase_stderr: f64,
}

impl PruningRecord {
    /// What is left, in a few words.
    pub fn sentence(&self) -> String {
        let Shape { dropped_layers, ffn_dim, n_kv_heads } = &self.shape;
        let mut sentence = format!(
            "{:.1} of {:.1} million weights left",
            self.n_params as f64 / 1e6,
            self.n_params_before as f64 / 1e6
        );
        if !dropped_layers.is_empty() {
            let mut layers: Vec<usize> = dropped_layers.clone();
            layers.sort_unstable();
            let layers: Vec<String> = layers.iter().map(usize::to_string).collect();
            let _ = write!(sentence, "; without the layers {}", layers.join(", "));
        }
        if *ffn_dim < self.before.ffn_dim {
            let _ = write!(sentence, "; {ffn_dim} of {} neurons in each layer", self.before.ffn_dim);
        }
        if *n_kv_heads < self.before.n_kv_heads {
            let _ = write!(
                sentence,
                "; {n_kv_heads} of {} groups of heads in each layer",
                self.before.n_kv_heads
            );
        }
        sentence
    }
}

impl VocabularyRecord {
    /// With what was measured on passages of the corpus.
    pub fn new(
        corpus: FileId,
        n_tokens_before: usize,
        kept: &Kept,
        is_held_out: bool,
        scores: &PassageScores,
    ) -> VocabularyRecord {
        let [bits_per_byte, bits_per_byte_before] = scores.bits_per_byte();
        let (perplexity_increase, perplexity_increase_stderr) = scores.perplexity_increase();
        VocabularyRecord {
            corpus,
            n_tokens_before,
            n_tokens: kept.ids.len(),
            n_seen: kept.n_seen,
            missing_share: kept.missing_share,
            is_held_out,
            n_bytes: scores.n_bytes,
            bits_per_byte,
            bits_per_byte_before,
            perplexity_increase,
            perplexity_increase_stderr,
        }
    }
}

/// What was measured on the result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Windows of the calibration text that were scored.
    pub n_windows: usize,
    /// Whether none of them took part in the calibration.
    pub is_held_out: bool,
    /// Mean divergence from the teacher, nats.
    pub kl_divergence: f64,
    /// Of that mean.
    pub kl_divergence_stderr: f64,
    /// Share of positions at which both find the same token likeliest.
    pub top1_agreement: f64,
    /// Of the result.
    pub perplexity: f64,
    /// Of that.
    pub perplexity_stderr: f64,
}

/// One search: what was expected of its choice, and what was measured on the file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Sum of the matrices' expected divergences, nats.
    pub expected_kl: f64,
    /// Mean divergence from the teacher, nats.
    pub kl_divergence: f64,
}

/// What running the result takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// The processor's name, if the system tells.
    pub cpu: Option<String>,
    /// Processor family.
    pub arch: String,
    /// The instruction set that the kernels used.
    pub isa: String,
    /// Threads.
    pub n_threads: usize,
    /// Tokens that were there when memory was measured.
    pub context_len: usize,
    /// How keys and values are kept.
    pub kv_type: String,
    /// Milliseconds for a token at the beginning of an answer.
    pub ms_per_token: f64,
    /// Memory at most; unknown where the system does not tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_bytes: Option<u64>,
    /// Whether this was reckoned from the profile of another device, not measured.
    pub is_predicted: bool,
    /// What was allowed, milliseconds for a token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub budget_ms_per_token: Option<f64>,
    /// What was allowed, bytes of memory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub budget_memory_bytes: Option<u64>,
}

/// A task, before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// What it is called.
    pub name: String,
    /// The teacher's scores.
    pub before: TaskSummary,
    /// The result's.
    pub after: TaskSummary,
}

/// A prompt, and what is answered: always the likeliest token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What was asked.
    pub prompt: String,
    /// The teacher's answer.
    pub before: String,
    /// The result's.
    pub after: String,
}

/// The windows of a calibration text that calibrate, those that the result is checked on, and whether the latter are
/// none of the former. The same text and numbers always give the same.
pub fn split(windows: &Windows, n_calibration_windows: usize) -> (Windows, Windows, bool) {
    let calibration = windows.part(n_calibration_windows);
    match windows.rest(n_calibration_windows) {
        Some(rest) => (calibration, rest.part(MAX_CHECK_WINDOWS), true),
        None => (calibration.clone(), calibration.part(MAX_CHECK_WINDOWS), false),
    }
}

impl Check {
    /// Measures a result beside its teacher.
    ///
    /// # Errors
    /// Those of the engines.
    pub fn measure(
        result: &mut Engine,
        teacher: &mut Teacher,
        (windows, is_held_out): (&Windows, bool),
        cancel: &CancelToken,
        watch: &mut dyn FnMut(Step),
    ) -> Result<Check, Error> {
        let mut scores = TextScores::default();
        for idx in 0..windows.len() {
            watch(Step { what: "checking the result", n_done: idx, n_all: windows.len() });
            score_window(windows, idx, &mut [(result, &mut scores)], Some(teacher), cancel, &mut |_| {})?;
        }
        watch(Step { what: "checking the result", n_done: windows.len(), n_all: windows.len() });
        let divergence = scores.divergence.summary().expect("a text has a window at least");
        Ok(Check {
            n_windows: windows.len(),
            is_held_out,
            kl_divergence: divergence.mean,
            kl_divergence_stderr: divergence.standard_error,
            top1_agreement: divergence.top1_agreement,
            perplexity: scores.perplexity.value(),
            perplexity_stderr: scores.perplexity.standard_error(),
        })
    }

    /// Whether this measurement bears `claimed` out.
    pub fn confirms(&self, claimed: &Check) -> bool {
        let is_near = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * b.abs() + 1e-6;
        self.n_windows == claimed.n_windows
            && is_near(self.kl_divergence, claimed.kl_divergence)
            && is_near(self.perplexity, claimed.perplexity)
    }
}

/// A size, and the divergence that was expected of the best model of that size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Of the file.
    pub size_bytes: u64,
    /// Sum of what was expected to be lost, nats.
    pub expected_kl: f64,
    /// What would have been left out for it; none if nothing but what the whole curve goes without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
}

/// What a search may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Layers that go.
    pub n_layers: usize,
    /// Tokens that stay; none if that was not searched for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_tokens_kept: Option<usize>,
}

/// What was done to a model, and what it lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// [`VERSION`].
    pub version: u32,
    /// The program and its version.
    pub made_by: String,
    /// The command, with its options.
    pub command: String,
    /// The model that it was made of.
    pub teacher: FileId,
    /// The text whose activations decided.
    pub calibration: FileId,
    /// Tokens of a window.
    pub window_len: usize,
    /// Windows that calibrated.
    pub n_calibration_windows: usize,
    /// Bytes of the file without this certificate.
    pub size_bytes: u64,
    /// The budget that was solved for, bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub budget_bytes: Option<u64>,
    /// Sum of the matrices' expected divergences, nats.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expected_kl: Option<f64>,
    /// Searches, if one was not enough: the last is that of the file.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rounds: Vec<Round>,
    /// Measured on the result.
    pub check: Check,
    /// What running it takes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device: Option<DeviceRecord>,
    /// Tasks that both were given.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tasks: Vec<TaskRecord>,
    /// What both say.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub answers: Vec<Answer>,
    /// What was left out, if the model was pruned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pruning: Option<PruningRecord>,
    /// What became of the vocabulary, if it was trimmed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vocabulary: Option<VocabularyRecord>,
    /// The matrices.
    pub tensors: Vec<TensorRecord>,
    /// Sizes that were solved for, smallest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub candidates: Vec<Candidate>,
}

impl Certificate {
    /// The certificate in a file's metadata, if there is one that can be read.
    pub fn of(gguf: &Gguf) -> Option<Certificate> {
        let text = gguf.get(KEY)?.as_str().filter(|text| text.len() <= MAX_BYTES)?;
        let certificate: Certificate = serde_json::from_str(text).ok()?;
        (certificate.version == VERSION).then_some(certificate)
    }

    /// As JSON, on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a certificate has nothing that JSON has not")
    }

    /// As a page for people that needs nothing else, scripts included.
    pub fn to_html(&self) -> String {
        let mut page = String::from(HEAD);
        let mut row = |name: &str, value: String| {
            let _ = writeln!(page, "<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(&value));
        };
        let c = &self.check;
        row("Made by", self.made_by.clone());
        row("Command", self.command.clone());
        row(
            "Teacher",
            format!(
                "{} ({}), SHA-256 {}",
                self.teacher.name,
                megabytes(self.teacher.size_bytes),
                self.teacher.sha256
            ),
        );
        row("Calibration text", format!("{}, SHA-256 {}", self.calibration.name, self.calibration.sha256));
        row("Calibrated on", format!("{} windows of {} tokens", self.n_calibration_windows, self.window_len));
        row("Size", megabytes(self.size_bytes));
        if let Some(budget) = self.budget_bytes {
            row("Budget", megabytes(budget));
        }
        if let Some(kl) = self.expected_kl {
            row("Divergence expected", format!("{kl:.4} nats"));
        }
        for round in self.rounds.iter().rev().skip(1).rev() {
            row(
                "Misjudged before",
                format!("{:.4} nats expected, {:.4} measured", round.expected_kl, round.kl_divergence),
            );
        }
        row("Divergence measured", format!("{:.4} ± {:.4} nats", c.kl_divergence, c.kl_divergence_stderr));
        row("Same likeliest token", format!("{:.1} %", c.top1_agreement * 100.0));
        row("Perplexity", format!("{:.3} ± {:.3}", c.perplexity, c.perplexity_stderr));
        let held_out = if c.is_held_out { "none of which calibrated" } else { "which calibrated too" };
        row("Measured on", format!("{} windows, {held_out}", c.n_windows));
        if let Some(d) = &self.device {
            for (name, value) in d.rows() {
                row(name, value);
            }
        }
        if let Some(p) = &self.pruning {
            row("Pruned", p.sentence());
        }
        if let Some(v) = &self.vocabulary {
            row("Vocabulary", format!("{} of {} tokens", v.n_tokens, v.n_tokens_before));
            row("Taken from", format!("{}, SHA-256 {}", v.corpus.name, v.corpus.sha256));
            row("Tokens missing in such a text", format!("{:.2} % expected", v.missing_share * 100.0));
            row(
                "Bits by byte",
                format!(
                    "{:.4}, the teacher {:.4}; perplexity {:+.2} ± {:.2} %",
                    v.bits_per_byte,
                    v.bits_per_byte_before,
                    v.perplexity_increase * 100.0,
                    v.perplexity_increase_stderr * 100.0
                ),
            );
            row("Divergence above", "from the teacher given that one of the kept tokens comes".to_owned());
        }
        page.push_str("</table>\n");
        if !self.tasks.is_empty() {
            page.push_str(
                "<h2>Tasks</h2>\n<table><tr><th>Task</th><th>Teacher</th><th>This file</th></tr>\n",
            );
            for task in &self.tasks {
                let cells = [&task.before, &task.after].map(|scores| escaped(&accuracy(scores)));
                let name = escaped(&task.name);
                let _ = writeln!(page, "<tr><td>{name}</td><td>{}</td><td>{}</td></tr>", cells[0], cells[1]);
            }
            page.push_str("</table>\n");
        }
        if !self.answers.is_empty() {
            page.push_str("<h2>Answers before and after</h2>\n<table><tr><th>Prompt</th><th>Teacher</th><th>This file</th></tr>\n");
            for answer in &self.answers {
                let cells = [&answer.prompt, &answer.before, &answer.after].map(|text| escaped(text));
                let [prompt, before, after] = cells;
                let _ = writeln!(page, "<tr><td>{prompt}</td><td>{before}</td><td>{after}</td></tr>");
            }
            page.push_str("</table>\n");
        }
        if self.candidates.len() > 1 {
            page.push_str("<h2>Size against divergence</h2>\n");
            self.plot_candidates(&mut page);
        }
        page.push_str("<h2>Where the bytes went</h2>\n");
        let mut kinds: Vec<(String, f64)> = Vec::new();
        for tensor in &self.tensors {
            let kind = format!("{} {}", kind(&tensor.name), tensor.dtype);
            match kinds.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, bytes)) => *bytes += tensor.size_bytes as f64,
                None => kinds.push((kind, tensor.size_bytes as f64)),
            }
        }
        kinds.sort_by(|a, b| b.1.total_cmp(&a.1));
        bars(&mut page, &kinds, |bytes| megabytes(bytes as u64));
        if self.tensors.iter().any(|tensor| tensor.expected_kl.is_some()) {
            page.push_str("<h2>What each matrix was expected to cost, nats</h2>\n");
            let mut losses: Vec<(String, f64)> = self
                .tensors
                .iter()
                .map(|t| (format!("{} {}", t.name, t.dtype), t.expected_kl.unwrap_or(0.0)))
                .collect();
            losses.sort_by(|a, b| b.1.total_cmp(&a.1));
            bars(&mut page, &losses, |loss| format!("{loss:.6}"));
        }
        page.push_str("</body></html>\n");
        page
    }

    /// Expected divergences over sizes, on a logarithmic scale, and the measured one.
    fn plot_candidates(&self, page: &mut String) {
        let (width, height, margin) = (640.0, 320.0, 60.0);
        let sizes = self.candidates.iter().map(|c| c.size_bytes as f64 / 1e6);
        let (low, high) = sizes.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        let losses = || self.candidates.iter().map(|c| c.expected_kl).chain([self.check.kl_divergence]);
        let positive = || losses().filter(|loss| *loss > 0.0).map(f64::log10);
        let (bottom, top) =
            (positive().fold(f64::MAX, f64::min).floor(), positive().fold(f64::MIN, f64::max).ceil());
        let x = |size: f64| margin + (size - low) / (high - low).max(1e-9) * (width - 2.0 * margin);
        let y = |loss: f64| {
            let share = (loss.max(1e-12).log10() - bottom) / (top - bottom).max(1e-9);
            height - margin / 2.0 - share * (height - margin)
        };
        let _ = writeln!(page, "<svg viewBox=\"0 0 {width} {height}\" role=\"img\">");
        let n_decades = (top - bottom).clamp(0.0, 12.0) as i32;
        for decade in 0..=n_decades {
            let value = 10f64.powi(bottom as i32 + decade);
            let at = y(value);
            let _ = writeln!(
                page,
                "<line x1=\"{margin}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" class=\"grid\"/>\
                 <text x=\"4\" y=\"{:.1}\">{value}</text>",
                width - margin,
                at + 4.0
            );
        }
        let points: Vec<String> = self
            .candidates
            .iter()
            .map(|c| format!("{:.1},{:.1}", x(c.size_bytes as f64 / 1e6), y(c.expected_kl)))
            .collect();
        let _ = writeln!(page, "<polyline points=\"{}\" class=\"line\"/>", points.join(" "));
        for c in &self.candidates {
            let (size, loss) = (c.size_bytes as f64 / 1e6, c.expected_kl);
            let _ = writeln!(
                page,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{size:.1} MB: {loss:.4} expected</title></circle>",
                x(size),
                y(loss)
            );
        }
        let (size, loss) = (self.size_bytes as f64 / 1e6, self.check.kl_divergence);
        let _ = writeln!(
            page,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"6\" class=\"mark\"><title>{size:.1} MB: {loss:.4} measured</title></circle>",
            x(size.clamp(low, high)),
            y(loss)
        );
        let _ = writeln!(
            page,
            "<text x=\"{margin}\" y=\"{}\">{low:.0} MB</text><text x=\"{}\" y=\"{}\">{high:.0} MB</text></svg>",
            height - 4.0,
            width - margin,
            height - 4.0
        );
        page.push_str(
            "<p>Line: expected of the best model of each size. Large dot: this file, measured.</p>\n",
        );
    }
}

impl DeviceRecord {
    /// What a page says of it, with names.
    fn rows(&self) -> Vec<(&'static str, String)> {
        let cpu = self.cpu.as_deref().unwrap_or("unknown processor");
        let how = if self.is_predicted { "reckoned from the profile of" } else { "measured on" };
        let mut rows = vec![(
            "Running",
            format!("{how} {cpu} ({}, {}), {} thread(s)", self.arch, self.isa, self.n_threads),
        )];
        let allowed = |budget: Option<String>| budget.map_or(String::new(), |b| format!(", {b} allowed"));
        let budget = self.budget_ms_per_token.map(|ms| format!("{ms:.2}"));
        rows.push(("Milliseconds a token", format!("{:.2}{}", self.ms_per_token, allowed(budget))));
        if let Some(bytes) = self.memory_bytes {
            let budget = self.budget_memory_bytes.map(megabytes);
            let (memory, kv) = (megabytes(bytes), &self.kv_type);
            rows.push((
                "Memory",
                format!(
                    "{memory} with {} tokens, keys and values in {kv}{}",
                    self.context_len,
                    allowed(budget)
                ),
            ));
        }
        rows
    }
}

/// The figure that is quoted of a task.
fn accuracy(scores: &TaskSummary) -> String {
    let normed = scores.acc_norm.zip(scores.acc_norm_stderr);
    let mut text = format!("{:.3} ± {:.3}", scores.acc, scores.acc_stderr);
    if let Some((acc, stderr)) = normed {
        let _ = write!(text, "; by length {acc:.3} ± {stderr:.3}");
    }
    let _ = write!(text, " of {}", scores.n);
    text
}

pub(crate) const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Certificate of compression</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
th { text-align: left; padding-right: 1em; vertical-align: top; font-weight: 600 }
td { overflow-wrap: anywhere }
svg { width: 100%; font-size: 11px } .grid { stroke: #ddd } .line { fill: none; stroke: #36c; stroke-width: 2 }
circle { fill: #36c } .mark { fill: #c33 }
.bar { background: #36c; height: 0.9em; display: inline-block; vertical-align: middle }
.bars td { white-space: nowrap; font-size: 13px }
</style></head><body>
<h1>Certificate of compression</h1>
<table>
";

pub(crate) fn bars(page: &mut String, values: &[(String, f64)], show: impl Fn(f64) -> String) {
    let largest = values.iter().fold(f64::MIN_POSITIVE, |max, (_, x)| max.max(*x));
    page.push_str("<table class=\"bars\">\n");
    for (name, value) in values {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td style=\"width:50%\"><span class=\"bar\" style=\"width:{:.1}%\"></span></td></tr>",
            escaped(name),
            escaped(&show(*value)),
            value / largest * 100.0
        );
    }
    page.push_str("</table>\n");
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// `blk.7.attn_q.weight` -> `attn_q`.
fn kind(name: &str) -> &str {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    name.rsplit('.').next().unwrap_or(name)
}

/// Names come from files of others.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeward_model::gguf::{GgufWriter, Value};

    fn certificate() -> Certificate {
        let file =
            |name: &str| FileId { name: name.to_owned(), sha256: "ab".repeat(32), size_bytes: 270_000_000 };
        Certificate {
            version: VERSION,
            made_by: "edgeward 0.1.0".to_owned(),
            command: "edgeward compress --size 92MB".to_owned(),
            teacher: file("<script>alert(1)</script>.gguf"),
            calibration: file("text"),
            window_len: 512,
            n_calibration_windows: 16,
            size_bytes: 91_900_000,
            budget_bytes: Some(92_000_000),
            expected_kl: Some(0.05),
            check: Check {
                n_windows: 8,
                is_held_out: true,
                kl_divergence: 0.0625,
                kl_divergence_stderr: 0.001,
                top1_agreement: 0.875,
                perplexity: 20.5,
                perplexity_stderr: 0.5,
            },
            rounds: [(0.04, 0.09), (0.05, 0.0625)]
                .map(|(expected_kl, kl_divergence)| Round { expected_kl, kl_divergence })
                .to_vec(),
            device: Some(DeviceRecord {
                cpu: Some("Some & Co.".to_owned()),
                arch: "x86_64".to_owned(),
                isa: "avx2".to_owned(),
                n_threads: 2,
                context_len: 1024,
                kv_type: "q8_0".to_owned(),
                ms_per_token: 2.345,
                memory_bytes: Some(123_400_000),
                is_predicted: false,
                budget_ms_per_token: Some(2.5),
                budget_memory_bytes: Some(128_000_000),
            }),
            tasks: vec![TaskRecord { name: "piqa".to_owned(), before: task(0.65), after: task(0.64) }],
            answers: vec![Answer {
                prompt: "2 < 3?".to_owned(),
                before: "Yes.".to_owned(),
                after: "<b>No".to_owned(),
            }],
            pruning: None,
            vocabulary: None,
            tensors: vec![TensorRecord {
                name: "blk.0.attn_q.weight".to_owned(),
                dtype: "Q5_0".to_owned(),
                size_bytes: 1000,
                expected_kl: Some(0.001),
            }],
            candidates: [(80_000_000, 0.1), (92_000_000, 0.05), (105_000_000, 0.01)]
                .map(|(size_bytes, expected_kl)| Candidate { size_bytes, expected_kl, left_out: None })
                .to_vec(),
        }
    }

    fn task(acc: f64) -> TaskSummary {
        TaskSummary { n: 100, acc, acc_stderr: 0.05, acc_norm: None, acc_norm_stderr: None, perplexity: None }
    }

    fn file(value: Value) -> Gguf {
        let mut bytes = Vec::new();
        let mut writer = GgufWriter::new();
        writer.key(KEY, value).unwrap();
        writer.write_to(&mut bytes, |_, _| Ok(())).unwrap();
        Gguf::from_bytes(bytes).unwrap()
    }

    #[test]
    fn a_file_gives_back_what_was_put_in() {
        let certificate = certificate();
        assert_eq!(Certificate::of(&file(Value::String(&certificate.to_json()))), Some(certificate.clone()));
        let other = Certificate { version: 2, ..certificate };
        assert_eq!(Certificate::of(&file(Value::String(&other.to_json()))), None);
        assert_eq!(Certificate::of(&file(Value::String("{}"))), None);
        assert_eq!(Certificate::of(&file(Value::U32(1))), None);
    }

    #[test]
    fn a_check_confirms_what_is_as_it_said() {
        let claimed = certificate().check;
        assert!(claimed.confirms(&claimed));
        assert!(Check { kl_divergence: 0.0630, ..claimed }.confirms(&claimed));
        assert!(!Check { kl_divergence: 0.07, ..claimed }.confirms(&claimed));
        assert!(!Check { perplexity: 25.0, ..claimed }.confirms(&claimed));
        assert!(!Check { kl_divergence: f64::NAN, ..claimed }.confirms(&claimed));
    }

    #[test]
    fn the_page_says_it_all_and_runs_nothing() {
        let page = certificate().to_html();
        for needed in [
            "0.0625",
            "87.5 %",
            "20.500",
            "attn_q Q5_0",
            "92.0 MB",
            "<svg",
            "none of which calibrated",
            "2.35, 2.50 allowed",
            "123.4 MB with 1024 tokens",
            "128.0 MB allowed",
            "0.0900 measured",
            "0.650 ± 0.050 of 100",
            "&lt;b&gt;No",
            "Some &amp; Co.",
        ] {
            assert!(page.contains(needed), "{needed} in {page}");
        }
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
