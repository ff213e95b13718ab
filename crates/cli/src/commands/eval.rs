//! `edgeward eval`: how good a model is, and how far from the one that it was made of.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_compress::certificate::{self, Certificate, Check};
use edgeward_compress::compress::Step;
use edgeward_compress::eval::{
    DivergenceSummary, PassageScores, Teacher, TextScores, Windows, passages, score_window,
};
use edgeward_compress::tasks::{Task, TaskScores, TaskSummary};
use edgeward_engine::{CancelToken, Engine};
use edgeward_model::Model;
use edgeward_model::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::engine_args::{self, EngineArgs};
use crate::output::{self, Align, Table, print_line};
use crate::resume::{Resume, fingerprint};
use crate::store::{self, Progress, Verbosity};

/// Measure how good a model is: perplexity, distance from its teacher, and scores of tasks
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward eval small.gguf --vs teacher.gguf --text wiki.test.txt
  edgeward eval smollm2-135m --text wiki.test.txt --limit 60000 --json
  edgeward eval small.gguf --verify --vs teacher.gguf --text wiki.valid.txt
  edgeward eval smollm2-135m --tasks piqa/valid.jsonl,arc_easy.jsonl --examples 500

A task is a file of JSON lines with the keys goal, sol1, sol2 and label (PIQA; labels may be in FILE-labels.lst beside
FILE.jsonl), query, choices and gold (ARC, OpenBookQA), context_options, continuation and gold (WSC), or text (LAMBADA).
Stopped by Ctrl-C or otherwise, the same command goes on from where it was.")]
pub struct Args {
    /// Names, hf:org/repo[/file.gguf] or paths; of one teacher, if several
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// The model that it was made of: name or path
    #[arg(long, value_name = "TEACHER", requires = "text")]
    vs: Option<String>,
    /// A text to predict
    #[arg(long, value_name = "FILE", required_unless_present = "tasks")]
    text: Option<PathBuf>,
    /// Measure again what the model's certificate says, with the teacher and the calibration text that it names
    #[arg(long, requires = "vs", conflicts_with_all = ["limit", "tasks"])]
    verify: bool,
    /// Only the first so many bytes of the text
    #[arg(long, value_name = "BYTES", requires = "text")]
    limit: Option<usize>,
    /// Tokens that are read at once; the second half is scored
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    window: u32,
    /// Files of questions
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    tasks: Vec<PathBuf>,
    /// Only the first so many questions of each task
    #[arg(long, value_name = "N", requires = "tasks", value_parser = clap::value_parser!(u32).range(1..))]
    examples: Option<u32>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What has been measured so far of one model.
#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    text: TextScores,
    passages: PassageScores,
    tasks: BTreeMap<String, TaskScores>,
}

#[derive(Serialize)]
struct Report {
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    perplexity: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    perplexity_stderr: Option<f64>,
    /// Mean over the scored positions, natural logarithms.
    #[serde(skip_serializing_if = "Option::is_none")]
    kl_divergence: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kl_divergence_stderr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kl_divergence_percentiles: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top1_agreement: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top1_agreement_stderr: Option<f64>,
    /// Beside a teacher with more tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    by_text: Option<ByText>,
    n_scored: usize,
    tasks: BTreeMap<String, TaskSummary>,
}

/// What the same passages cost the model and a teacher that cuts them into other tokens.
#[derive(Serialize)]
struct ByText {
    n_bytes: usize,
    bits_per_byte: f64,
    bits_per_byte_teacher: f64,
    word_perplexity: f64,
    word_perplexity_teacher: f64,
    /// By which share the perplexity by token of the teacher is larger.
    perplexity_increase: f64,
    perplexity_increase_stderr: f64,
}

#[derive(Serialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let mut progress = Progress::new(verbosity);
    // Whatever can be wrong with the input is told before the long work.
    let text = args.text.as_deref().map(|path| read_text(path, args.limit)).transpose()?;
    let tasks = load_tasks(&args.tasks)?;
    let open = |name: &String, progress: &mut Progress| engine_args::open(name, progress);
    let models = args.models.iter().map(|name| open(name, &mut progress)).collect::<Result<Vec<_>, _>>()?;
    let teacher = args.vs.as_ref().map(|name| open(name, &mut progress)).transpose()?;
    if let (true, Some(teacher), Some(text), Some(path)) = (args.verify, &teacher, &text, &args.text) {
        for model in &models {
            verify(args, model, teacher, text, path, &mut progress)?;
        }
        return Ok(());
    }
    // Models of one teacher have its tokenizer.
    let tokenizer = models[0].tokenizer()?;
    let windows =
        text.as_ref().map(|text| Windows::new(&tokenizer, text, args.window as usize)).transpose()?;

    let mut parts = vec![format!("{:?} {:?} {:?}", args.engine.kv, args.window, args.engine.context)];
    parts.extend(models.iter().map(|model| fingerprint(model.path())));
    parts.extend(teacher.as_ref().map(|teacher| format!("vs {}", fingerprint(teacher.path()))));
    parts.extend(text.iter().cloned());
    parts.extend(args.tasks.iter().map(|path| fingerprint(path)));
    let mut resume = Resume::new("eval", &parts)?;
    let mut states: Vec<State> = resume.load().unwrap_or_default();
    states.resize(models.len(), State::default());

    let cancel = CancelToken::new();
    let on_signal = cancel.clone();
    ctrlc::set_handler(move || on_signal.cancel())?;
    let engine = |model| args.engine.engine(model, &progress);
    let mut engines = models.iter().map(engine).collect::<Result<Vec<_>, _>>()?;
    let mut teacher =
        teacher.as_ref().map(|model| beside(engine(model)?, model, &models[0], &tokenizer)).transpose()?;
    let outcome = measure(
        &mut Measurement {
            engines: &mut engines,
            tokenizer: &tokenizer,
            cancel: &cancel,
            progress: &mut progress,
        },
        (text.as_deref(), windows.as_ref(), teacher.as_mut()),
        (&tasks, args.examples),
        &mut states,
        &mut |states| resume.save_now_and_then(&states),
    );
    progress.finish();
    if let Err(error) = outcome {
        if cancel.is_cancelled() {
            resume.save(&states)?;
            return Err("interrupted; the same command goes on from here".into());
        }
        return Err(error);
    }
    let mut reports: Vec<Report> =
        args.models.iter().zip(&states).map(|(name, state)| report(name, state)).collect();
    resume.remove()?;
    if args.json {
        return if reports.len() == 1 {
            output::print_json(&reports.remove(0))
        } else {
            output::print_json(&reports)
        };
    }
    print(&reports)?;
    Ok(())
}

/// A teacher and its tokenizer.
type Beside = (Teacher, Tokenizer);

/// A teacher beside students that are like `student`.
fn beside(
    engine: Engine,
    teacher: &Model,
    student: &Model,
    tokenizer: &Tokenizer,
) -> Result<Beside, Box<dyn std::error::Error>> {
    let own = teacher.tokenizer()?;
    Ok((Teacher::new(engine, &own, tokenizer, student.config().vocab_size)?, own))
}

#[derive(Serialize)]
struct Verification {
    holds: bool,
    claimed: Check,
    measured: Check,
}

/// Measures what the certificate says anew, and says whether it holds.
fn verify(
    args: &Args,
    model: &Arc<Model>,
    teacher: &Arc<Model>,
    text: &str,
    text_path: &Path,
    progress: &mut Progress,
) -> Outcome {
    let shown = model.path().display();
    let certificate = model.gguf().and_then(Certificate::of).ok_or_else(|| {
        format!("{shown} has no certificate that can be read: only files of `edgeward compress` have one")
    })?;
    for (what, path, claimed) in
        [("teacher", teacher.path(), &certificate.teacher), ("text", text_path, &certificate.calibration)]
    {
        let (sha256, _) = File::open(path)
            .and_then(store::sha256)
            .map_err(|error| format!("could not read {}: {error}", path.display()))?;
        if sha256.to_hex() != claimed.sha256 {
            return Err(format!(
                "{} is not the {what} of the certificate, {} with SHA-256 {}: give that one",
                path.display(),
                claimed.name,
                claimed.sha256
            )
            .into());
        }
    }
    if certificate.window_len < 4 {
        return Err(
            format!("the certificate of {shown} is damaged: it tells of windows too short to score").into()
        );
    }
    let tokenizer = model.tokenizer()?;
    let windows = Windows::new(&tokenizer, text, certificate.window_len)?;
    let (_, windows, is_held_out) = certificate::split(&windows, certificate.n_calibration_windows);
    let mut result = args.engine.engine(model, progress)?;
    let (mut teacher, _) = beside(args.engine.engine(teacher, progress)?, teacher, model, &tokenizer)?;
    progress.start_steps("measuring again", 0, windows.len());
    let mut watch = |step: Step| progress.set(step.n_done);
    let measured =
        Check::measure(&mut result, &mut teacher, (&windows, is_held_out), &CancelToken::new(), &mut watch)?;
    progress.finish();
    let claimed = certificate.check;
    let holds = measured.confirms(&claimed);
    if args.json {
        output::print_json(&Verification { holds, claimed, measured })?;
    } else {
        print_line(&format!(
            "KL divergence {:.4}, claimed {:.4}; perplexity {:.3}, claimed {:.3}: {}",
            measured.kl_divergence,
            claimed.kl_divergence,
            measured.perplexity,
            claimed.perplexity,
            if holds { "the certificate holds" } else { "the certificate does not hold" }
        ))?;
    }
    if holds {
        Ok(())
    } else {
        Err(format!("the certificate of {shown} does not hold: do not trust the file").into())
    }
}

/// The file as text, or its first `limit` bytes, less what is left of a character cut in two.
fn read_text(path: &Path, limit: Option<usize>) -> Result<String, String> {
    let mut bytes = fs::read(path).map_err(|error| format!("could not read {}: {error}", path.display()))?;
    if let Some(limit) = limit.filter(|limit| *limit < bytes.len()) {
        let is_start = |byte: u8| byte & 0xc0 != 0x80;
        let end = (0..=limit).rev().find(|&end| is_start(bytes[end])).unwrap_or(0);
        bytes.truncate(end);
    }
    String::from_utf8(bytes).map_err(|_| format!("{} is no text in UTF-8: give a text file", path.display()))
}

/// The tasks and their names: that of the file, and of its folder where that alone says nothing.
pub fn load_tasks(paths: &[PathBuf]) -> Result<Vec<(String, Task)>, Box<dyn std::error::Error>> {
    let mut tasks = Vec::new();
    for path in paths {
        let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut name = stem(path);
        if ["valid", "test", "dev", "train", "validation"].contains(&&name[..]) {
            name = path.canonicalize().ok().and_then(|path| path.parent().map(stem)).unwrap_or(name);
        }
        if tasks.iter().any(|(other, _)| *other == name) {
            return Err(format!("two tasks are called {name}: rename one of the files").into());
        }
        tasks.push((name, Task::load(path)?));
    }
    Ok(tasks)
}

struct Measurement<'a> {
    engines: &'a mut [Engine],
    tokenizer: &'a Tokenizer,
    cancel: &'a CancelToken,
    progress: &'a mut Progress,
}

fn measure(
    m: &mut Measurement,
    (text, windows, mut teacher): (Option<&str>, Option<&Windows>, Option<&mut Beside>),
    (tasks, n_examples): (&[(String, Task)], Option<u32>),
    states: &mut [State],
    save: &mut dyn FnMut(&[State]) -> std::io::Result<()>,
) -> Outcome {
    if let Some(windows) = windows {
        let n_done = states[0].text.n_windows;
        m.progress.start_steps("text", n_done, windows.len());
        for idx in n_done..windows.len() {
            let scores = states.iter_mut().map(|state| &mut state.text);
            let mut students: Vec<_> = m.engines.iter_mut().zip(scores).collect();
            let teacher = teacher.as_deref_mut().map(|(teacher, _)| teacher);
            score_window(windows, idx, &mut students, teacher, m.cancel, &mut |_| {})?;
            m.progress.advance(1);
            save(states)?;
        }
    }
    if let (Some(text), Some((teacher, own))) =
        (text, teacher.filter(|(teacher, _)| teacher.has_more_tokens()))
    {
        let passages = passages(text);
        for i in 0..states.len() {
            let n_done = states[i].passages.n_passages;
            m.progress.start_steps("passages", n_done, passages.len());
            for passage in &passages[n_done..] {
                let (student, teacher) = ((&mut m.engines[i], m.tokenizer), (&mut teacher.engine, &*own));
                states[i].passages.read(passage, student, teacher, m.cancel)?;
                m.progress.advance(1);
                save(states)?;
            }
        }
    }
    for (name, task) in tasks {
        let n = n_examples.map_or(task.len(), |n| task.len().min(n as usize));
        for i in 0..states.len() {
            let n_done = states[i].tasks.entry(name.clone()).or_default().n;
            m.progress.start_steps(name, n_done, n);
            for idx in n_done..n {
                let scores = states[i].tasks.entry(name.clone()).or_default();
                task.ask(idx, &mut m.engines[i], m.tokenizer, m.cancel, scores)?;
                m.progress.advance(1);
                save(states)?;
            }
        }
    }
    Ok(())
}

fn report(name: &str, state: &State) -> Report {
    let perplexity = Some(&state.text.perplexity).filter(|perplexity| perplexity.n() > 0);
    let divergence = state.text.divergence.summary();
    let figure = |f: fn(&DivergenceSummary) -> f64| divergence.as_ref().map(f);
    Report {
        model: name.to_owned(),
        perplexity: perplexity.map(|p| p.value()),
        perplexity_stderr: perplexity.map(|p| p.standard_error()),
        kl_divergence: figure(|d| d.mean),
        kl_divergence_stderr: figure(|d| d.standard_error),
        kl_divergence_percentiles: divergence.as_ref().map(|d| Percentiles {
            p50: d.median,
            p90: d.p90,
            p95: d.p95,
            p99: d.p99,
            max: d.max,
        }),
        top1_agreement: figure(|d| d.top1_agreement),
        top1_agreement_stderr: figure(|d| d.top1_standard_error),
        by_text: Some(&state.passages).filter(|passages| passages.n_passages > 0).map(|passages| {
            let [bits_per_byte, bits_per_byte_teacher] = passages.bits_per_byte();
            let [word_perplexity, word_perplexity_teacher] = passages.word_perplexity();
            let (perplexity_increase, perplexity_increase_stderr) = passages.perplexity_increase();
            ByText {
                n_bytes: passages.n_bytes,
                bits_per_byte,
                bits_per_byte_teacher,
                word_perplexity,
                word_perplexity_teacher,
                perplexity_increase,
                perplexity_increase_stderr,
            }
        }),
        n_scored: state.text.perplexity.n(),
        tasks: state.tasks.iter().map(|(name, scores)| (name.clone(), scores.summary())).collect(),
    }
}

fn print(reports: &[Report]) -> std::io::Result<()> {
    for (i, report) in reports.iter().enumerate() {
        if reports.len() > 1 {
            print_line(&format!("{}{}", if i > 0 { "\n" } else { "" }, report.model))?;
        }
        print_one(report)?;
    }
    Ok(())
}

fn print_one(report: &Report) -> std::io::Result<()> {
    let mut table = Table::new(&[
        ("MEASURE", Align::Left),
        ("VALUE", Align::Right),
        ("+/-", Align::Right),
        ("OVER", Align::Right),
    ]);
    let mut row = |name: &str, value: Option<f64>, error: Option<f64>, n: usize| {
        if let Some(value) = value {
            let error = error.map_or(String::new(), |error| format!("{error:.4}"));
            table.row(vec![name.to_owned(), format!("{value:.4}"), error, n.to_string()]);
        }
    };
    let n = report.n_scored;
    row("perplexity", report.perplexity, report.perplexity_stderr, n);
    row("KL divergence", report.kl_divergence, report.kl_divergence_stderr, n);
    row("same top-1", report.top1_agreement, report.top1_agreement_stderr, n);
    for (name, task) in &report.tasks {
        row(&format!("{name} acc"), Some(task.acc), Some(task.acc_stderr), task.n);
        row(&format!("{name} acc_norm"), task.acc_norm, task.acc_norm_stderr, task.n);
        row(&format!("{name} perplexity"), task.perplexity, None, task.n);
    }
    table.print()?;
    if let Some(p) = &report.kl_divergence_percentiles {
        print_line(&format!(
            "KL divergence: half below {:.4}, 90 % below {:.4}, 95 % below {:.4}, 99 % below {:.4}, largest {:.2}",
            p.p50, p.p90, p.p95, p.p99, p.max
        ))?;
    }
    if let Some(t) = &report.by_text {
        print_line(&format!(
            "The teacher has more tokens, and cuts the text differently: {:.4} bits by byte, the teacher {:.4}; \
             perplexity {:+.2} +/- {:.2} %",
            t.bits_per_byte,
            t.bits_per_byte_teacher,
            t.perplexity_increase * 100.0,
            t.perplexity_increase_stderr * 100.0
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_cuts_no_character() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        fs::write(&path, "a你b").unwrap();
        let read = |limit| read_text(&path, limit).unwrap();
        assert_eq!(read(None), "a你b");
        assert_eq!([0, 1, 2, 3, 4, 5, 9].map(|n| read(Some(n))), ["", "a", "a", "a", "a你", "a你b", "a你b"]);
        fs::write(&path, [0xff, 0xfe, 0]).unwrap();
        assert!(read_text(&path, None).unwrap_err().contains("no text in UTF-8"));
    }
}
