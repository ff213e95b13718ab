//! What OpenAI's two completion endpoints say around their choices, whole or piece by piece.

use serde_json::{Value, json};

use super::{data, new_id, now_s};
use crate::model::{Answers, ServedModel};

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

    /// What comes after the last answer's end.
    pub fn end(&self, answers: &Answers) -> String {
        let mut out = String::new();
        if self.wants_usage {
            let usage = usage(answers.n_prompt, answers.n_cached, self.n_generated);
            out = data(&self.envelope.around(self.object, json!([]), Some(usage)));
        }
        out + "data: [DONE]\n\n"
    }
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
