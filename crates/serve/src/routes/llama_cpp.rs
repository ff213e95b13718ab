//! What clients of llama.cpp's `llama-server` ask for, at its paths and in its words, as its `tools/server/README.md` tells
//! them. Where it has a path of OpenAI's without `/v1`, the router sends it to the same handler; here is the rest.
//!
//! What has no meaning here is passed over: `id_slot` and `cache_prompt` (there are no slots, and the cache changes no
//! answer), `n_keep`, `samplers`. Samplers that would change the answer and are not here are refused.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use edgeward_model::tokenizer::{AddSpecial, ControlTokens, ParseSpecial};
use serde_json::{Map, Value, json};

use super::chat;
use super::embeddings;
use super::envelope::{prompt_progress, timings};
use super::prompts::{Prompt, token_id};
use super::sampling::{self, MAX_BIASES, ResponseFormat};
use super::{Encoder, Reply, blocking, data, json, read, stream};
use crate::Server;
use crate::error::{ApiError, Dialect};
use crate::fields::Fields;
use crate::model::{Answer, Answers, ServedModel, Timings};
use crate::scheduler::{self, Event, FinishReason, LogprobsOf, TokenLogprob};
use crate::text::ModelText;

/// Prompts of a request, at most.
const MAX_PROMPTS: usize = 64;
/// Likely tokens shown for each, at most.
const MAX_PROBS: usize = 20;
/// Fields of an answer that are picked, at most.
const MAX_FIELDS: usize = 64;
/// For texts and tokens that must not come.
const NEVER: f32 = f32::NEG_INFINITY;

/// Samplers that are not here. All are off at 0.
const UNSUPPORTED: [&str; 5] =
    ["mirostat", "dynatemp_range", "xtc_probability", "dry_multiplier", "t_max_predict_ms"];

/// Whether it is one of llama.cpp's own paths, whose errors have its shape.
pub fn is_own(path: &str) -> bool {
    matches!(
        path,
        "/completion"
            | "/completions"
            | "/chat/completions"
            | "/responses"
            | "/embedding"
            | "/embeddings"
            | "/rerank"
            | "/reranking"
            | "/v1/reranking"
            | "/apply-template"
            | "/chat/completions/input_tokens"
            | "/props"
            | "/slots"
            | "/lora-adapters"
            | "/models"
    )
}

/// `POST /completion`: goes on with a text, or with several.
pub async fn completion(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = server.generator(fields.string("model")?.as_deref())?;
    refuse_samplers(&mut fields)?;
    fields.rename("repeat_penalty", "repetition_penalty");
    // There, -1 is a seed by chance, as is none.
    fields.drop_if("seed", &json!(-1));
    let n_predict = fields.integer("n_predict", -1..=i64::MAX)?;
    let biases = biases(&mut fields)?;
    let mut request = sampling::request(&mut fields, &server, &call)?;
    match n_predict {
        Some(0) => return Err(fields.error("n_predict", "this must be at least 1, or -1 for no limit")),
        Some(n_predict) => request.max_tokens = usize::try_from(n_predict).unwrap_or(usize::MAX),
        None => {}
    }
    request.n_logprobs = fields.count("n_probs", 0..=MAX_PROBS)?.filter(|n| *n > 0);
    if fields.bool("post_sampling_probs")? == Some(true) {
        request.logprobs_of = LogprobsOf::Sampler;
    }
    let format = ResponseFormat::read(&mut fields)?;
    let prompts = Prompt::read_all(&mut fields, "prompt", MAX_PROMPTS)?;
    let wants_stream = fields.bool("stream")?.unwrap_or(false);
    let shows_tokens = fields.bool("return_tokens")?.unwrap_or(false);
    let shows_timings = fields.bool("timings_per_token")?.unwrap_or(false);
    let picked = fields.strings("response_fields", MAX_FIELDS)?.unwrap_or_default();
    if wants_stream && prompts.len() > 1 {
        return Err(fields.error("prompt", "only one prompt can be streamed"));
    }
    let text_model = Arc::clone(&model);
    let requests = blocking(move || {
        let text = &text_model.text;
        request.grammar = format.grammar(text)?;
        for (of, bias) in biases {
            let tokens = of.tokens(text, AddSpecial::No, ParseSpecial::No)?;
            request.sampling.logit_bias.extend(tokens.into_iter().map(|token| (token, bias)));
        }
        prompts
            .iter()
            .map(|prompt| {
                let prompt = prompt.tokens(text, AddSpecial::Yes, ParseSpecial::Yes)?;
                let request = scheduler::Request { prompt, ..request.clone() };
                Ok((Completion::new(&text_model, &request, wants_stream, shows_tokens, &picked), request))
            })
            .collect::<Result<Vec<_>, ApiError>>()
    })
    .await?;
    let mut replies = Vec::new();
    for (reply, request) in requests {
        replies.push((reply, model.submit(request, &call.tally).await?));
    }
    if wants_stream {
        let (reply, answers) = replies.pop().expect("one prompt");
        return Ok(stream(
            answers,
            CompletionStream { reply, shows_timings, tokens: Vec::new(), has_new_line: false },
        ));
    }
    let mut bodies = Vec::new();
    for (idx, (reply, answers)) in replies.iter_mut().enumerate() {
        let answer = answers.collect().await?.pop().expect("one answer was asked for");
        bodies.push(reply.whole(idx, answers, &answer));
    }
    Ok(json(&if bodies.len() == 1 { bodies.remove(0) } else { bodies.into() }))
}

fn refuse_samplers(fields: &mut Fields) -> Result<(), ApiError> {
    fields.refuse(&UNSUPPORTED)?;
    // These are off at other numbers.
    for (field, off) in [("typical_p", 1.0..=f64::MAX), ("top_n_sigma", f64::MIN..=0.0)] {
        if fields.value(field).is_some_and(|value| value.as_f64().is_none_or(|number| !off.contains(&number)))
        {
            return Err(fields.error(field, "this is not supported; leave it out").code("unsupported"));
        }
    }
    fields.count("n", 1..=1).map(|_| ())
}

/// `logit_bias`: `{TOKEN: BIAS}` or `[[TOKEN, BIAS]]`, where a token may be a text, of which every token is biased, and a
/// bias `false`, which is never.
fn biases(fields: &mut Fields) -> Result<Vec<(Prompt, f32)>, ApiError> {
    let wrong = fields.error("logit_bias", "this must be pairs of a token, as id or text, and a bias");
    let pairs: Vec<(Value, Value)> = match fields.value("logit_bias") {
        None => return Ok(Vec::new()),
        // Only texts can be names.
        Some(Value::Object(map)) => map
            .into_iter()
            .map(|(of, bias)| (of.parse::<u32>().map_or(Value::from(of), Value::from), bias))
            .collect(),
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|pair| match <[Value; 2]>::try_from(pair.as_array().cloned().unwrap_or_default()) {
                Ok([of, bias]) => Ok((of, bias)),
                Err(_) => Err(wrong.clone()),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(wrong),
    };
    if pairs.len() > MAX_BIASES {
        return Err(fields.error("logit_bias", format!("at most {MAX_BIASES} can be biased")));
    }
    pairs
        .into_iter()
        .map(|(of, bias)| {
            let bias = match &bias {
                Value::Bool(false) => Some(NEVER),
                bias => {
                    bias.as_f64().filter(|bias| bias.is_finite()).map(|bias| bias.clamp(-1e6, 1e6) as f32)
                }
            };
            let of = match &of {
                Value::String(text) => Some(Prompt::of_text(text)),
                id => token_id(id).map(Prompt::of_token),
            };
            of.zip(bias).ok_or_else(|| wrong.clone())
        })
        .collect()
}

/// How answers are described, in llama.cpp's words.
pub struct Completion {
    model: Arc<ServedModel>,
    /// Text of the prompt.
    prompt: String,
    settings: Value,
    logprobs_of: LogprobsOf,
    shows_tokens: bool,
    /// Fields that the answer is to have; all if there are none.
    picked: Vec<String>,
}

impl Completion {
    /// Of answers to this request.
    pub fn new(
        model: &Arc<ServedModel>,
        request: &scheduler::Request,
        is_stream: bool,
        shows_tokens: bool,
        picked: &[String],
    ) -> Completion {
        let decoded = model.text.tokenizer().decode(&request.prompt, ControlTokens::Show);
        Completion {
            model: Arc::clone(model),
            prompt: decoded.unwrap_or_default(),
            settings: settings(model, request, is_stream),
            logprobs_of: request.logprobs_of,
            shows_tokens,
            picked: picked.to_vec(),
        }
    }

    /// The answer, or the last piece of it; whether all of it has several lines.
    fn last(&self, idx: usize, answers: &Answers, answer: &Answer, has_new_line: bool) -> Value {
        let is_full = answers.n_prompt + answer.n_generated >= self.model.info.context_len;
        let stop_type = match (answer.reason, &answer.stop_string) {
            (Some(FinishReason::Stop), Some(_)) => "word",
            (Some(FinishReason::Stop), None) => "eos",
            (Some(FinishReason::Length), _) => "limit",
            (None, _) => "none",
        };
        json!({
            "index": idx,
            "content": answer.text,
            "tokens": if self.shows_tokens { answer.tokens.as_slice() } else { &[] },
            "id_slot": 0,
            "stop": true,
            "model": self.model.info.name,
            "tokens_predicted": answer.n_generated,
            "tokens_evaluated": answers.n_prompt,
            "generation_settings": self.settings,
            "prompt": self.prompt,
            "has_new_line": has_new_line,
            "truncated": is_full,
            "stop_type": stop_type,
            "stopping_word": answer.stop_string.as_deref().unwrap_or_default(),
            "tokens_cached": answers.n_prompt + answer.n_generated,
            "timings": timings(&answers.timings()),
        })
    }

    /// A whole answer.
    pub fn whole(&self, idx: usize, answers: &Answers, answer: &Answer) -> Value {
        let mut body = self.last(idx, answers, answer, answer.text.contains('\n'));
        if !answer.logprobs.is_empty() {
            body["completion_probabilities"] = self.probabilities(&answer.logprobs);
        }
        if self.picked.is_empty() {
            return body;
        }
        let field = |path: &String| Some((path.clone(), body.pointer(&format!("/{path}"))?.clone()));
        self.picked.iter().filter_map(field).collect::<Map<String, Value>>().into()
    }

    fn probabilities(&self, logprobs: &[TokenLogprob]) -> Value {
        let text = &self.model.text;
        let of_sampler = self.logprobs_of == LogprobsOf::Sampler;
        let entry = |token: u32, logprob: f64| {
            let mut entry = json!({
                "id": token, "token": text.token_text(token), "bytes": text.token_bytes(token)
            });
            match of_sampler {
                true => entry["prob"] = logprob.exp().min(1.0).into(),
                false => entry["logprob"] = logprob.into(),
            }
            entry
        };
        let describe = |logprob: &TokenLogprob| {
            let mut value = entry(logprob.token, logprob.logprob);
            value[if of_sampler { "top_probs" } else { "top_logprobs" }] =
                logprob.top.iter().map(|(token, logprob)| entry(*token, *logprob)).collect();
            value
        };
        logprobs.iter().map(describe).collect()
    }
}

/// How an answer is made.
fn settings(model: &ServedModel, request: &scheduler::Request, is_stream: bool) -> Value {
    let sampling = &request.sampling;
    let mut biases: Vec<Value> = sampling
        .logit_bias
        .iter()
        .map(|(token, bias)| json!({ "token": token, "bias": bias.is_finite().then_some(*bias) }))
        .collect();
    if request.ignores_end {
        biases.extend(model.text.tokenizer().end_ids().iter().map(|id| json!({ "token": id, "bias": null })));
    }
    json!({
        "n_predict": i64::try_from(request.max_tokens).unwrap_or(-1),
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_last_n": sampling.penalty_window,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": request.stop_strings,
        "ignore_eos": request.ignores_end,
        "n_probs": request.n_logprobs.unwrap_or(0),
        "post_sampling_probs": request.logprobs_of == LogprobsOf::Sampler,
        "logit_bias": biases,
        "stream": is_stream,
    })
}

struct CompletionStream {
    reply: Completion,
    shows_timings: bool,
    /// Since the last piece.
    tokens: Vec<u32>,
    has_new_line: bool,
}

impl Encoder for CompletionStream {
    fn begin(&mut self, _: &Answers) -> String {
        String::new()
    }

    fn event(&mut self, answers: &Answers, event: Event) -> String {
        if let Some(progress) = answers.progress(&event) {
            let mut piece = json!({
                "index": 0,
                "content": "",
                "tokens": [],
                "stop": false,
                "id_slot": 0,
                "tokens_predicted": 0,
                "tokens_evaluated": answers.n_prompt,
                "prompt_progress": prompt_progress(&progress),
            });
            if self.shows_timings {
                piece["timings"] = timings(&Timings {
                    n_cached: progress.n_cached,
                    n_prompt: progress.n_processed - progress.n_cached,
                    prompt: progress.time,
                    ..Timings::default()
                });
            }
            return data(&piece);
        }
        match event {
            Event::Token { text, token, logprob, .. } => {
                self.tokens.push(token);
                if text.is_empty() && logprob.is_none() {
                    return String::new();
                }
                self.has_new_line |= text.contains('\n');
                let mut piece = json!({
                    "index": 0,
                    "content": text,
                    "tokens": std::mem::take(&mut self.tokens),
                    "stop": false,
                    "id_slot": 0,
                    "tokens_predicted": answers.timings().n_generated,
                    "tokens_evaluated": answers.n_prompt,
                });
                if let Some(logprob) = logprob {
                    piece["completion_probabilities"] = self.reply.probabilities(&[logprob]);
                }
                if self.shows_timings {
                    piece["timings"] = timings(&answers.timings());
                }
                data(&piece)
            }
            Event::Finished { text, reason, stop_string, n_generated, .. } => {
                self.has_new_line |= text.contains('\n');
                let answer =
                    Answer { text, reason: Some(reason), stop_string, n_generated, ..Answer::default() };
                data(&self.reply.last(0, answers, &answer, self.has_new_line))
            }
            Event::Started { .. } | Event::Progress { .. } | Event::Embedded(_) | Event::Failed(_) => {
                String::new()
            }
        }
    }

    fn end(&mut self, _: &Answers) -> String {
        String::new()
    }

    fn failed(&mut self, error: ApiError) -> String {
        data(&error.body(Dialect::LlamaCpp))
    }
}

/// `POST /embedding`: vectors in llama.cpp's own shape.
pub async fn embedding(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = server.embedder(fields.string("model")?.as_deref())?;
    // 2 is the length that vectors have here: 1, by the sum of squares.
    if fields.integer("embd_normalize", i64::MIN..=i64::MAX)?.is_some_and(|kind| kind != 2) {
        return Err(fields.error("embd_normalize", "vectors have the length 1 here: leave it out, or say 2"));
    }
    fields.rename("content", "input");
    let inputs = embeddings::inputs(&mut fields, &model).await?;
    let (vectors, _) = embeddings::embed(&server, &model, inputs, &call).await?;
    let describe = |(idx, vector): (usize, &Vec<f32>)| json!({ "index": idx, "embedding": [vector] });
    Ok(json(&vectors.iter().enumerate().map(describe).collect()))
}

/// `POST /apply-template`: a conversation as the model's template writes it.
pub async fn apply_template(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, _) = read(&server, request).await?;
    let model = server.generator(fields.string("model")?.as_deref())?;
    let conversation = chat::conversation(&mut fields)?;
    let prompt = blocking(move || conversation.written(&model.text)).await?;
    Ok(json(&json!({ "prompt": prompt })))
}

/// `POST /chat/completions/input_tokens`: how many tokens a conversation has.
pub async fn count_tokens(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, _) = read(&server, request).await?;
    let model = server.generator(fields.string("model")?.as_deref())?;
    let conversation = chat::conversation(&mut fields)?;
    let n_tokens = blocking(move || conversation.count(&model.text)).await?;
    Ok(json(&json!({ "object": "response.input_tokens", "input_tokens": n_tokens })))
}

/// `GET /props`: what the first model can do, and how it answers unless told otherwise.
pub async fn props(State(server): State<Arc<Server>>) -> Reply {
    let model = server.generator(None)?;
    let text: &ModelText = &model.text;
    let request = scheduler::Request {
        sampling: sampling::defaults(&server),
        max_tokens: server.default_max_tokens,
        ..scheduler::Request::default()
    };
    Ok(json(&json!({
        "default_generation_settings": {
            "id": 0,
            "n_ctx": model.info.context_len,
            "is_processing": false,
            "params": settings(&model, &request, false),
        },
        "total_slots": model.n_places(),
        "model_alias": model.info.name,
        // Where it is is nobody's business.
        "model_path": model.info.file_name,
        "chat_template": text.template_source().unwrap_or_default(),
        "bos_token": text.tokenizer().text_of(text.tokenizer().bos()),
        "eos_token": text.tokenizer().text_of(text.tokenizer().eos()),
        "modalities": { "vision": false, "audio": false },
        "is_sleeping": false,
        "build_info": concat!("edgeward ", env!("CARGO_PKG_VERSION")),
    })))
}

/// `GET /slots`: places for answers, as if they were slots: those under way take the first.
pub async fn slots(State(server): State<Arc<Server>>) -> Result<Response, ApiError> {
    let model = server.generator(None)?;
    let n_active = model.snapshot().n_active;
    let slot = |id: usize| json!({ "id": id, "n_ctx": model.info.context_len, "speculative": false, "is_processing": id < n_active });
    Ok(json(&(0..model.n_places()).map(slot).collect()))
}
