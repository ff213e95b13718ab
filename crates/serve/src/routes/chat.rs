//! `POST /v1/chat/completions`, as <https://platform.openai.com/docs/api-reference/chat> describes it.

use std::sync::Arc;

use axum::extract::{Request, State};
use edgeward_model::chat::Message;
use serde_json::{Map, Value, json};

use super::envelope::{Envelope, Pieces, timings, usage};
use super::llama_cpp::Completion;
use super::sampling::{self, ResponseFormat};
use super::{Encoder, Reply, blocking, data, json, new_id, read, stream};
use crate::Server;
use crate::conversation::{Conversation, Ending, MAX_MESSAGES, content, is_only_said};
use crate::error::{ApiError, Dialect};
use crate::fields::Fields;
use crate::model::{Answer, Answers, ServedModel};
use crate::scheduler::{Event, FinishReason, TokenLogprob};
use crate::tools::{Tool, ToolCall, ToolChoice, ToolStream, Toolbox};

/// Likely tokens shown for each, at most.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// Answers a conversation.
pub async fn completions(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = server.generator(fields.string("model")?.as_deref())?;
    let mut request = sampling::request(&mut fields, &server, &call)?;
    request.n_logprobs = logprobs(&mut fields)?;
    let format = ResponseFormat::read(&mut fields)?;
    let conversation = Conversation { format, ..conversation(&mut fields)? };
    let wants_stream = fields.bool("stream")?.unwrap_or(false);
    let wants_usage = stream_usage(&mut fields)?;
    let is_verbose = fields.bool("verbose")?.unwrap_or(false);
    fields.refuse(&["functions", "function_call"])?;

    let text_model = Arc::clone(&model);
    let (request, tools) = blocking(move || conversation.prepare(&text_model.text, request)).await?;
    let completion = is_verbose.then(|| Completion::new(&model, &request, wants_stream, false, &[]));
    let mut answers = model.submit(request, &call.tally).await?;
    let envelope = Envelope::new("chatcmpl-", &model);
    let reply = ChatReply { model, tools };
    if wants_stream {
        let tools = vec![reply.tools.clone(); answers.n_choices()];
        let pieces = Pieces { envelope, object: "chat.completion.chunk", wants_usage, n_generated: 0 };
        return Ok(stream(answers, ChatStream { reply, pieces, tools }));
    }
    let whole = answers.collect().await?;
    let choices = whole.iter().enumerate().map(|(idx, answer)| reply.choice(idx, answer)).collect();
    let n_generated = whole.iter().map(|answer| answer.n_generated).sum();
    let usage = usage(answers.n_prompt, answers.n_cached, n_generated);
    let mut body = envelope.around("chat.completion", choices, Some(usage));
    body["timings"] = timings(&answers.timings());
    if let Some(completion) = completion {
        body["__verbose"] = completion.whole(0, &answers, &whole[0]);
    }
    Ok(json(&body))
}

/// `logprobs` and `top_logprobs`.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wants = fields.bool("logprobs")?.unwrap_or(false);
    let n_top = fields.count("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    if n_top.is_some_and(|n| n > 0) && !wants {
        return Err(fields.error("top_logprobs", "this needs `logprobs` to be true"));
    }
    Ok(wants.then(|| n_top.unwrap_or(0)))
}

/// Whether a stream is to end with the tokens used.
pub fn stream_usage(fields: &mut Fields) -> Result<bool, ApiError> {
    match fields.object("stream_options")? {
        Some(mut options) => Ok(options.bool("include_usage")?.unwrap_or(false)),
        None => Ok(false),
    }
}

/// Who said what, with which tools at hand.
pub fn conversation(fields: &mut Fields) -> Result<Conversation, ApiError> {
    let messages = messages(fields)?;
    let ending = ending(fields, &messages)?;
    Ok(Conversation {
        messages,
        ending,
        toolbox: toolbox(fields)?,
        variables: fields.object("chat_template_kwargs")?.map(Fields::into_map),
        ..Conversation::default()
    })
}

/// `add_generation_prompt` and `continue_final_message`, as vLLM has them.
fn ending(fields: &mut Fields, messages: &[Message]) -> Result<Ending, ApiError> {
    let adds = fields.bool("add_generation_prompt")?;
    let continues = fields.bool("continue_final_message")?;
    match (adds, continues) {
        (Some(true), Some(true)) => {
            let message = "the last message cannot be gone on with and be followed by another";
            Err(fields.error("continue_final_message", message))
        }
        (_, Some(true)) if !messages.last().is_some_and(is_only_said) => {
            let message = "the last message must be the assistant's, and words only, to be gone on with";
            Err(fields.error("continue_final_message", message))
        }
        (None, None) | (_, Some(true)) => Ok(Ending::Open),
        (Some(true), _) | (None, Some(false)) => Ok(Ending::NewTurn),
        (Some(false), _) => Ok(Ending::Closed),
    }
}

/// The conversation.
fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let list = fields.objects("messages")?;
    let list = fields.required("messages", list)?;
    if list.is_empty() || list.len() > MAX_MESSAGES {
        return Err(fields.error("messages", format!("this must be 1 to {MAX_MESSAGES} messages")));
    }
    let messages = list.into_iter().map(message).collect::<Result<Vec<_>, _>>()?;
    if let [.., before, last] = &messages[..]
        && is_only_said(before)
        && is_only_said(last)
    {
        return Err(fields.error("messages", "two answers at the end: which of them is to be gone on with?"));
    }
    Ok(messages)
}

fn message(mut fields: Fields) -> Result<Message, ApiError> {
    let roles = ["system", "developer", "user", "assistant", "tool"].map(|role| (role, role));
    let role = fields.choice("role", &roles)?;
    let role = match fields.required("role", role)? {
        // The newer name of the same; templates know the older.
        "developer" => "system",
        role => role,
    };
    let content = content(&mut fields)?;
    let calls = tool_calls(&mut fields)?;
    let content = match content {
        Some(content) => content,
        None if role == "assistant" => String::new(),
        None => fields.required("content", None)?,
    };
    let mut extra = Map::new();
    if !calls.is_empty() {
        extra.insert("tool_calls".to_owned(), calls.into());
    }
    // By this name templates look for thoughts.
    for name in ["name", "tool_call_id", "reasoning_content"] {
        if let Some(text) = fields.string(name)? {
            extra.insert(name.to_owned(), text.into());
        }
    }
    Ok(Message { extra, ..Message::new(role, content) })
}

/// Calls that the model has made, with their arguments as templates expect them: as JSON, not as a string of it.
fn tool_calls(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let calls = fields.objects("tool_calls")?.unwrap_or_default();
    let call = |mut call: Fields| {
        let id = call.string("id")?;
        let function = call.object("function")?;
        let mut function = call.required("function", function)?;
        let name = function.string("name")?;
        let name = function.required("name", name)?;
        let arguments = function.string("arguments")?.unwrap_or_else(|| "{}".to_owned());
        let arguments: Value = serde_json::from_str(&arguments)
            .map_err(|error| function.error("arguments", format!("this is no JSON: {error}")))?;
        Ok(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }))
    };
    calls.into_iter().map(call).collect()
}

/// `tools` and `tool_choice`.
fn toolbox(fields: &mut Fields) -> Result<Toolbox, ApiError> {
    let tools = fields.objects("tools")?.unwrap_or_default().into_iter().map(|mut tool| {
        let kind = tool.choice("type", &[("function", ())])?;
        tool.required("type", kind)?;
        let function = tool.object("function")?;
        Tool::read(&mut tool.required("function", function)?, "parameters")
    });
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    Toolbox::new(tools, tool_choice(fields)?.0)
}

/// `tool_choice`, and as it came.
pub fn tool_choice(fields: &mut Fields) -> Result<(ToolChoice, Value), ApiError> {
    let Some(value) = fields.value("tool_choice") else { return Ok((ToolChoice::Auto, "auto".into())) };
    // The function's name is one level higher in /v1/responses.
    let name = value["function"]["name"].as_str().or(value["name"].as_str());
    let choice = match (value.as_str(), name) {
        (Some("auto"), _) => ToolChoice::Auto,
        (Some("none"), _) => ToolChoice::None,
        (Some("required"), _) => ToolChoice::Required,
        (None, Some(name)) if value["type"] == "function" => ToolChoice::Named(name.to_owned()),
        _ => {
            let message = "this must be \"auto\", \"none\", \"required\", or a function";
            return Err(fields.error("tool_choice", message));
        }
    };
    Ok((choice, value))
}

/// How answers become messages.
struct ChatReply {
    model: Arc<ServedModel>,
    /// At the beginning of an answer.
    tools: ToolStream,
}

impl ChatReply {
    fn choice(&self, idx: usize, answer: &Answer) -> Value {
        let logprobs: Vec<Value> = answer.logprobs.iter().map(|logprob| self.logprob(logprob)).collect();
        let mut tools = self.tools.clone();
        let text = tools.push(&answer.text);
        let (rest, calls) = tools.finish();
        let text = text + &rest;
        let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() };
        let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
        if !calls.is_empty() {
            message["tool_calls"] = describe_calls(&calls, false);
        }
        json!({
            "index": idx,
            "message": message,
            "logprobs": (!logprobs.is_empty()).then(|| json!({ "content": logprobs, "refusal": null })),
            "finish_reason": answer.reason.map(|reason| finish_reason_with(reason, &calls)),
        })
    }

    fn logprob(&self, logprob: &TokenLogprob) -> Value {
        let entry = |token: u32, logprob: f64| {
            let text = &self.model.text;
            json!({ "token": text.token_text(token), "logprob": logprob, "bytes": text.token_bytes(token) })
        };
        let mut value = entry(logprob.token, logprob.logprob);
        value["top_logprobs"] = logprob.top.iter().map(|(token, logprob)| entry(*token, *logprob)).collect();
        value
    }
}

/// OpenAI's word for it.
pub fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

fn finish_reason_with(reason: FinishReason, calls: &[ToolCall]) -> &'static str {
    match reason {
        FinishReason::Stop if !calls.is_empty() => "tool_calls",
        reason => finish_reason(reason),
    }
}

fn describe_calls(calls: &[ToolCall], is_delta: bool) -> Value {
    let describe = |(idx, call): (usize, &ToolCall)| {
        let function = json!({ "name": call.name, "arguments": call.arguments.to_string() });
        let mut value = json!({ "id": new_id("call_"), "type": "function", "function": function });
        if is_delta {
            value["index"] = idx.into();
        }
        value
    };
    calls.iter().enumerate().map(describe).collect()
}

/// `chat.completion.chunk`s.
struct ChatStream {
    reply: ChatReply,
    pieces: Pieces,
    /// Of each answer.
    tools: Vec<ToolStream>,
}

impl ChatStream {
    fn delta(&self, idx: usize, delta: Value, logprobs: Option<Value>, reason: Option<&str>) -> String {
        self.pieces
            .piece(json!({ "index": idx, "delta": delta, "logprobs": logprobs, "finish_reason": reason }))
    }
}

impl Encoder for ChatStream {
    fn begin(&mut self, answers: &Answers) -> String {
        // No `content` at all: there are clients that add pieces up, and stumble over `null`.
        let opening = |idx| self.delta(idx, json!({ "role": "assistant" }), None, None);
        (0..answers.n_choices()).map(opening).collect()
    }

    fn event(&mut self, answers: &Answers, event: Event) -> String {
        if let Some(progress) = answers.progress(&event) {
            let choice = json!({ "index": 0, "delta": {}, "logprobs": null, "finish_reason": null });
            return self.pieces.progress(choice, &progress);
        }
        match event {
            Event::Token { choice_idx, text, logprob, .. } => {
                let text = self.tools[choice_idx].push(&text);
                let logprobs = logprob.map(|logprob| json!({ "content": [self.reply.logprob(&logprob)] }));
                if text.is_empty() && logprobs.is_none() {
                    return String::new();
                }
                self.delta(choice_idx, json!({ "content": text }), logprobs, None)
            }
            Event::Finished { choice_idx, text, reason, n_generated, .. } => {
                self.pieces.n_generated += n_generated;
                let text = self.tools[choice_idx].push(&text);
                let (rest, calls) = self.tools[choice_idx].finish();
                let text = text + &rest;
                let mut out = String::new();
                if !text.is_empty() {
                    out += &self.delta(choice_idx, json!({ "content": text }), None, None);
                }
                if !calls.is_empty() {
                    let calls_delta = json!({ "tool_calls": describe_calls(&calls, true) });
                    out += &self.delta(choice_idx, calls_delta, None, None);
                }
                out + &self.delta(choice_idx, json!({}), None, Some(finish_reason_with(reason, &calls)))
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
