//! `POST /v1/completions`: text that goes on, without turns; as
//! <https://platform.openai.com/docs/api-reference/completions> describes it.

use std::sync::Arc;

use axum::extract::{Request, State};
use edgeward_model::tokenizer::{AddSpecial, ParseSpecial};
use serde_json::{Value, json};

use super::chat::{finish_reason, stream_usage};
use super::envelope::{Envelope, Pieces, usage};
use super::prompts::Prompt;
use super::sampling::{self, ResponseFormat};
use super::{Encoder, Reply, blocking, data, json, read, stream};
use crate::Server;
use crate::error::{ApiError, Dialect};
use crate::model::{Answer, Answers, ServedModel};
use crate::scheduler::{Event, TokenLogprob};

/// What a reply is called, and each of its pieces.
const OBJECT: &str = "text_completion";
/// Prompts of a request, at most.
const MAX_PROMPTS: usize = 64;
/// Likely tokens shown for each, at most.
const MAX_LOGPROBS: usize = 20;

/// Continues one text or several.
pub async fn completions(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = server.generator(fields.string("model")?.as_deref())?;
    let mut request = sampling::request(&mut fields, &server, &call)?;
    request.n_logprobs = fields.count("logprobs", 0..=MAX_LOGPROBS)?;
    let format = ResponseFormat::read(&mut fields)?;
    let prompts = Prompt::read_all(&mut fields, "prompt", MAX_PROMPTS)?;
    let echo = fields.bool("echo")?.unwrap_or(false);
    let wants_stream = fields.bool("stream")?.unwrap_or(false);
    let wants_usage = stream_usage(&mut fields)?;
    let best_of = fields.count("best_of", 1..=sampling::MAX_CHOICES)?;
    if best_of.is_some_and(|best_of| best_of != request.n_choices) {
        return Err(fields.error("best_of", "this must be equal to n").code("unsupported"));
    }
    fields.refuse(&["suffix"])?;
    if echo && request.n_logprobs.is_some() {
        return Err(fields.error("logprobs", "there are none of a prompt's tokens: leave out `echo`"));
    }
    if wants_stream && prompts.len() > 1 {
        return Err(fields.error("prompt", "only one prompt can be streamed"));
    }

    let text_model = Arc::clone(&model);
    let (requests, echoes) = blocking(move || {
        let text = &text_model.text;
        request.grammar = format.grammar(text)?;
        let mut requests = Vec::new();
        let mut echoes = Vec::new();
        for prompt in &prompts {
            requests.push(crate::scheduler::Request {
                prompt: prompt.tokens(text, AddSpecial::Yes, ParseSpecial::No)?,
                ..request.clone()
            });
            echoes.push(if echo { prompt.text(text)? } else { String::new() });
        }
        Ok((requests, echoes))
    })
    .await?;
    let n_choices = requests.first().map_or(1, |request| request.n_choices);
    let mut all = Vec::new();
    for request in requests {
        all.push(model.submit(request, &call.tally).await?);
    }
    let envelope = Envelope::new("cmpl-", &model);
    let mut reply = Completion { model, echoes, offsets: Vec::new(), n_choices };
    if wants_stream {
        let answers = all.pop().expect("one prompt");
        let pieces = Pieces { envelope, object: OBJECT, wants_usage, n_generated: 0 };
        return Ok(stream(answers, CompletionStream { reply, pieces }));
    }
    let (mut choices, mut n_prompt, mut n_generated, mut n_cached) = (Vec::new(), 0, 0, 0);
    for answers in &mut all {
        for answer in answers.collect().await? {
            n_generated += answer.n_generated;
            let choice = reply.choice(choices.len(), &answer);
            choices.push(choice);
        }
        n_prompt += answers.n_prompt;
        n_cached += answers.n_cached;
    }
    let usage = usage(n_prompt, n_cached, n_generated);
    Ok(json(&envelope.around(OBJECT, choices.into(), Some(usage))))
}

/// How answers become choices.
struct Completion {
    model: Arc<ServedModel>,
    /// Text before the answer, of each prompt.
    echoes: Vec<String>,
    /// Bytes of text so far, of each choice of a stream.
    offsets: Vec<usize>,
    n_choices: usize,
}

impl Completion {
    fn choice(&mut self, idx: usize, answer: &Answer) -> Value {
        let echo = &self.echoes[idx / self.n_choices];
        let logprobs = self.logprobs(&answer.logprobs, 0);
        json!({
            "index": idx,
            "text": format!("{echo}{}", answer.text),
            "logprobs": logprobs,
            "finish_reason": answer.reason.map(finish_reason),
        })
    }

    /// Of some tokens, the first of which begins at byte `offset` of the answer.
    fn logprobs(&self, logprobs: &[TokenLogprob], mut offset: usize) -> Option<Value> {
        if logprobs.is_empty() {
            return None;
        }
        let text = &self.model.text;
        let mut offsets = Vec::new();
        for logprob in logprobs {
            offsets.push(offset);
            offset += text.token_bytes(logprob.token).len();
        }
        let top = |logprob: &TokenLogprob| -> Value {
            logprob
                .top
                .iter()
                .map(|(token, logprob)| (text.token_text(*token), Value::from(*logprob)))
                .collect()
        };
        Some(json!({
            "tokens": logprobs.iter().map(|logprob| text.token_text(logprob.token)).collect::<Vec<_>>(),
            "token_logprobs": logprobs.iter().map(|logprob| logprob.logprob).collect::<Vec<_>>(),
            "top_logprobs": logprobs.iter().map(top).collect::<Vec<_>>(),
            "text_offset": offsets,
        }))
    }
}

struct CompletionStream {
    reply: Completion,
    pieces: Pieces,
}

impl CompletionStream {
    fn piece(&self, idx: usize, text: &str, logprobs: Option<Value>, reason: Option<&str>) -> String {
        self.pieces
            .piece(json!({ "index": idx, "text": text, "logprobs": logprobs, "finish_reason": reason }))
    }
}

impl Encoder for CompletionStream {
    fn begin(&mut self, answers: &Answers) -> String {
        self.reply.offsets = vec![0; answers.n_choices()];
        let echo = &self.reply.echoes[0];
        if echo.is_empty() {
            return String::new();
        }
        (0..answers.n_choices()).map(|idx| self.piece(idx, echo, None, None)).collect()
    }

    fn event(&mut self, answers: &Answers, event: Event) -> String {
        if let Some(progress) = answers.progress(&event) {
            let choice = json!({ "index": 0, "text": "", "logprobs": null, "finish_reason": null });
            return self.pieces.progress(choice, &progress);
        }
        match event {
            Event::Token { choice_idx, text, logprob, token } => {
                let offset = &mut self.reply.offsets[choice_idx];
                let start = *offset;
                *offset += self.reply.model.text.token_bytes(token).len();
                let logprobs = self.reply.logprobs(logprob.as_slice(), start);
                if text.is_empty() && logprobs.is_none() {
                    return String::new();
                }
                self.piece(choice_idx, &text, logprobs, None)
            }
            Event::Finished { choice_idx, text, reason, n_generated, .. } => {
                self.pieces.n_generated += n_generated;
                self.piece(choice_idx, &text, None, Some(finish_reason(reason)))
            }
            Event::Started { .. } | Event::Progress { .. } | Event::Embedded(_) | Event::Failed(_) => {
                String::new()
            }
        }
    }

    fn end(&mut self, answers: &Answers) -> String {
        self.pieces.end(answers)
    }

    fn failed(&mut self, error: ApiError) -> String {
        data(&error.body(Dialect::OpenAi))
    }
}
