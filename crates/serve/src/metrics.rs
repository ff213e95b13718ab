//! Counters for whoever watches, in Prometheus' text format (version 0.0.4).

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::model::ServedModel;
use crate::replies::ReplyCache;
use crate::scheduler::Snapshot;

/// Upper bounds of the buckets, seconds: from one fast token to a minute.
const BOUNDS_S: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// How many times were how long.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The last counts what is beyond all bounds.
    counts: [AtomicU64; BOUNDS_S.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts a time.
    pub fn observe(&self, time: Duration) {
        let time_s = time.as_secs_f64();
        let bucket = BOUNDS_S.iter().position(|bound| time_s <= *bound).unwrap_or(BOUNDS_S.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// All times together, seconds.
    fn sum_s(&self) -> f64 {
        self.sum_us.load(Ordering::Relaxed) as f64 / 1e6
    }

    fn write(&self, name: &str, model: &str, out: &mut String) {
        let mut total = 0;
        for (bound, count) in BOUNDS_S.iter().map(f64::to_string).chain(["+Inf".to_owned()]).zip(&self.counts)
        {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(out, "edgeward_{name}_bucket{{model=\"{model}\",le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(out, "edgeward_{name}_sum{{model=\"{model}\"}} {}", self.sum_s());
        let _ = writeln!(out, "edgeward_{name}_count{{model=\"{model}\"}} {total}");
    }
}

/// Times of a model's answers.
#[derive(Debug, Default)]
pub struct Histograms {
    /// From a request to its first token.
    pub ttft: Histogram,
    /// From when its computation began to its first token.
    pub prompt: Histogram,
    /// From a token to the next of the same request.
    pub inter_token: Histogram,
}

/// Counters of the whole server.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answers by the first digit of their status: 2xx, 3xx, 4xx, 5xx.
    pub by_class: [AtomicU64; 4],
}

impl Counters {
    /// Counts an answer.
    pub fn count(&self, status: u16) {
        if let Some(counter) = usize::from(status / 100).checked_sub(2).and_then(|idx| self.by_class.get(idx))
        {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// All of it as text.
pub fn render<'a>(models: impl Iterator<Item = &'a ServedModel> + Clone, counters: &Counters) -> String {
    let mut out = String::new();
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        let _ = writeln!(out, "# HELP edgeward_{name} {help}\n# TYPE edgeward_{name} {kind}");
    };
    head(&mut out, "responses_total", "counter", "Answers by class of status.");
    for (class, count) in (2..).zip(&counters.by_class) {
        let count = count.load(Ordering::Relaxed);
        let _ = writeln!(out, "edgeward_responses_total{{class=\"{class}xx\"}} {count}");
    }
    if let Some(bytes) = resident_bytes() {
        head(&mut out, "resident_bytes", "gauge", "Memory of the process.");
        let _ = writeln!(out, "edgeward_resident_bytes {bytes}");
    }
    if let Some(celsius) = temperature() {
        head(&mut out, "temperature_celsius", "gauge", "The hottest sensor that the system tells of.");
        let _ = writeln!(out, "edgeward_temperature_celsius {celsius}");
    }
    type Read = fn(&Snapshot) -> u64;
    let series: [(&str, &str, &str, Read); 11] = [
        ("requests_waiting", "gauge", "Requests in the queue.", |s| s.n_waiting as u64),
        ("requests_active", "gauge", "Requests under way.", |s| s.n_active as u64),
        ("kv_reserved_bytes", "gauge", "Keys and values promised to requests.", |s| {
            s.kv_reserved_bytes as u64
        }),
        ("cache_bytes", "gauge", "Keys and values kept for requests to come.", |s| s.cache_bytes as u64),
        ("disk_cache_bytes", "gauge", "Keys and values kept on the disk.", |s| s.disk_bytes),
        ("prompt_tokens_total", "counter", "Tokens of prompts computed.", |s| s.n_prompt_tokens),
        ("cached_tokens_total", "counter", "Tokens of prompts found in the cache.", |s| s.n_cached_tokens),
        ("generated_tokens_total", "counter", "Tokens of answers.", |s| s.n_generated_tokens),
        ("drafted_tokens_total", "counter", "Tokens guessed ahead.", |s| s.n_drafted_tokens),
        ("accepted_tokens_total", "counter", "Tokens guessed ahead that came true.", |s| s.n_accepted_tokens),
        ("steps_total", "counter", "Passes of the model.", |s| s.n_steps),
    ];
    for (name, kind, help, read) in series {
        head(&mut out, name, kind, help);
        for model in models.clone() {
            let _ =
                writeln!(out, "edgeward_{name}{{model=\"{}\"}} {}", escape(model), read(&model.snapshot()));
        }
    }
    type ReadReplies = fn(&ReplyCache) -> u64;
    let series: [(&str, &str, &str, ReadReplies); 2] = [
        ("reply_cache_bytes", "gauge", "Whole answers kept.", |replies| replies.size_bytes() as u64),
        ("reply_cache_hits_total", "counter", "Requests answered from these.", |replies| replies.n_hits()),
    ];
    for (name, kind, help, read) in series {
        let kept = || models.clone().filter_map(|model| Some((model, model.replies()?)));
        if kept().next().is_some() {
            head(&mut out, name, kind, help);
        }
        for (model, replies) in kept() {
            let _ = writeln!(out, "edgeward_{name}{{model=\"{}\"}} {}", escape(model), read(replies));
        }
    }
    head(&mut out, "ttft_seconds", "histogram", "From a request to its first token.");
    for model in models.clone() {
        model.histograms.ttft.write("ttft_seconds", &escape(model), &mut out);
    }
    head(
        &mut out,
        "prompt_seconds",
        "histogram",
        "From when a request's computation began to its first token.",
    );
    for model in models.clone() {
        model.histograms.prompt.write("prompt_seconds", &escape(model), &mut out);
    }
    head(&mut out, "inter_token_seconds", "histogram", "From a token to the next.");
    for model in models.clone() {
        model.histograms.inter_token.write("inter_token_seconds", &escape(model), &mut out);
    }
    write_llama_cpp(models, &mut out);
    out
}

/// The same by the names of llama.cpp's server, for who watches by these: of all models together.
fn write_llama_cpp<'a>(models: impl Iterator<Item = &'a ServedModel> + Clone, out: &mut String) {
    let snapshots: Vec<Snapshot> = models.clone().map(ServedModel::snapshot).collect();
    let sum = |read: fn(&Snapshot) -> u64| snapshots.iter().map(read).sum::<u64>() as f64;
    let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    let n_prompt = sum(|s| s.n_prompt_tokens);
    let n_generated = sum(|s| s.n_generated_tokens);
    let n_steps = sum(|s| s.n_steps);
    let n_accepted = sum(|s| s.n_accepted_tokens);
    let longest = snapshots.iter().map(|s| s.longest).max().unwrap_or(0) as f64;
    let prompt_s: f64 = models.clone().map(|model| model.histograms.prompt.sum_s()).sum();
    let generated_s: f64 = models.map(|model| model.histograms.inter_token.sum_s()).sum();
    let counters = [
        ("prompt_tokens_total", "Tokens of prompts computed.", n_prompt),
        ("prompt_tokens_cached_total", "Tokens of prompts found in the cache.", sum(|s| s.n_cached_tokens)),
        ("prompt_seconds_total", "Time for prompts.", prompt_s),
        ("tokens_predicted_total", "Tokens of answers.", n_generated),
        ("tokens_predicted_seconds_total", "Time for answers.", generated_s),
        ("n_decode_total", "Passes of the models.", n_steps),
        ("n_tokens_max", "The most tokens that a prompt had with its answer.", longest),
        ("spec_decode_num_drafts_total", "Guesses at tokens ahead.", sum(|s| s.n_drafts)),
        ("spec_decode_num_draft_tokens_total", "Tokens guessed ahead.", sum(|s| s.n_drafted_tokens)),
        ("spec_decode_num_accepted_tokens_total", "Tokens guessed ahead that came true.", n_accepted),
    ];
    let gauges = [
        ("prompt_tokens_seconds", "Tokens of prompts per second.", ratio(n_prompt, prompt_s)),
        ("predicted_tokens_seconds", "Tokens of answers per second.", ratio(n_generated, generated_s)),
        ("requests_processing", "Requests under way.", sum(|s| s.n_active as u64)),
        ("requests_deferred", "Requests in the queue.", sum(|s| s.n_waiting as u64)),
        ("n_busy_slots_per_decode", "Answers in a pass.", ratio(n_generated - n_accepted, n_steps)),
    ];
    for (kind, series) in [("counter", &counters[..]), ("gauge", &gauges[..])] {
        for (name, help, value) in series {
            let _ = writeln!(out, "# HELP llamacpp:{name} {help}\n# TYPE llamacpp:{name} {kind}");
            let _ = writeln!(out, "llamacpp:{name} {value}");
        }
    }
}

fn escape(model: &ServedModel) -> String {
    model.info.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The highest temperature of the machine's thermal zones, where the system tells them.
fn temperature() -> Option<f64> {
    let zones = std::fs::read_dir("/sys/class/thermal").ok()?;
    let milli = |zone: std::fs::DirEntry| {
        std::fs::read_to_string(zone.path().join("temp")).ok()?.trim().parse::<i64>().ok()
    };
    zones.flatten().filter_map(milli).max().map(|milli| milli as f64 / 1000.0)
}

/// Memory of this process, where the system tells it.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
