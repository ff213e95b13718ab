//! What OpenAI's two completion endpoints say around their choices, whole or piece by piece.

use serde_json::{Value, json};

use super::{data, new_id, now_s};
use crate::model::{Answers, Progress, ServedModel, Timings};

/// What made an answer: with another version, the same seed may give another.
const FINGERPRINT: &str = concat!("b", env!("CARGO_PKG_VERSION"));

/// What a reply and all its pieces have in common.
pub struct Envelope {
    id: String,
    created: u64,
    model: String,
}

impl Envelope {
    /// Of a new reply.
    pub fn new(id_prefix: &str, model: &ServedModel) -> Envelope {
        Envelope { id: new_id(id_prefix), created: now_s(), model: model.info.name.clone() }
    }

    /// The reply, or a piece of it, around its choices.
    pub fn around(&self, object: &str, choices: Value, usage: Option<Value>) -> Value {
        let mut body = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        });
        if let Some(usage) = usage {
            body["usage"] = usage;
        }
        body
    }
}

/// A reply as server-sent events.
pub struct Pieces {
    /// Around each piece.
    pub envelope: Envelope,
    /// What a piece is called.
    pub object: &'static str,
    /// Whether the last is to tell the tokens used; then all others have a place for it.
    pub wants_usage: bool,
    /// Tokens of the answers that have ended.
    pub n_generated: usize,
}

impl Pieces {
    /// A piece with one choice.
    pub fn piece(&self, choice: Value) -> String {
        let usage = self.wants_usage.then_some(Value::Null);
        data(&self.envelope.around(self.object, json!([choice]), usage))
    }

    /// A piece with nothing but how far the prompt is, in an empty choice, for clients that expect one.
    pub fn progress(&self, choice: Value, progress: &Progress) -> String {
        let usage = self.wants_usage.then_some(Value::Null);
        let mut piece = self.envelope.around(self.object, json!([choice]), usage);
        piece["prompt_progress"] = prompt_progress(progress);
        data(&piece)
    }

    /// What comes after the last answer's end.
    pub fn end(&self, answers: &Answers) -> String {
        let mut out = String::new();
        if self.wants_usage {
            let usage = usage(answers.n_prompt, answers.n_cached, self.n_generated);
            let mut last = self.envelope.around(self.object, json!([]), Some(usage));
            last["timings"] = timings(&answers.timings());
            out = data(&last);
        }
        out + "data: [DONE]\n\n"
    }
}

/// Where the time went, in llama.cpp's words, which its clients show.
pub fn timings(timings: &Timings) -> Value {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let per_token = |time: std::time::Duration, n: usize| if n > 0 { ms(time) / n as f64 } else { 0.0 };
    let per_second = |time: std::time::Duration, n: usize| {
        if n > 0 { n as f64 / time.as_secs_f64().max(1e-9) } else { 0.0 }
    };
    // The first token of an answer comes with the prompt's last pass.
    let n_passes = timings.n_generated.saturating_sub(1);
    json!({
        "cache_n": timings.n_cached,
        "prompt_n": timings.n_prompt,
        "prompt_ms": ms(timings.prompt),
        "prompt_per_token_ms": per_token(timings.prompt, timings.n_prompt),
        "prompt_per_second": per_second(timings.prompt, timings.n_prompt),
        "predicted_n": timings.n_generated,
        "predicted_ms": ms(timings.generation),
        "predicted_per_token_ms": per_token(timings.generation, n_passes),
        "predicted_per_second": per_second(timings.generation, n_passes),
    })
}

/// How far the prompt is, in llama.cpp's words.
pub fn prompt_progress(progress: &Progress) -> Value {
    json!({
        "total": progress.n_prompt,
        "cache": progress.n_cached,
        "processed": progress.n_processed,
        "time_ms": progress.time.as_secs_f64() * 1e3,
    })
}

/// Tokens used.
pub fn usage(n_prompt: usize, n_cached: usize, n_generated: usize) -> Value {
    json!({
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
        "prompt_tokens_details": { "cached_tokens": n_cached },
    })
}
