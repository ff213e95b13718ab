//! `POST /v1/messages` and `/v1/messages/count_tokens`, as <https://docs.anthropic.com/en/api/messages> describes them.

use std::sync::Arc;

use axum::extract::{Request, State};
use edgeward_model::chat::Message;
use serde_json::{Value, json};

use super::{Encoder, Reply, blocking, json, new_id, read, sampling, stream};
use crate::Server;
use crate::conversation::{Conversation, MAX_MESSAGES, texts};
use crate::error::{ApiError, Dialect};
use crate::fields::{Fields, TextOrParts};
use crate::model::Answers;
use crate::scheduler::{Event, FinishReason};
use crate::tools::{Tool, ToolCall, ToolChoice, ToolStream, Toolbox};

/// Answers a conversation.
pub async fn messages(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = server.generator(fields.string("model")?.as_deref())?;
    let conversation = conversation(&mut fields)?;
    let max_tokens = fields.count("max_tokens", 1..=usize::MAX)?;
    let max_tokens = fields.required("max_tokens", max_tokens)?;
    let stop_strings = fields.strings("stop_sequences", sampling::MAX_STOPS)?.unwrap_or_default();
    let wants_stream = fields.bool("stream")?.unwrap_or(false);
    // What is left are the fields that all have in common.
    let request = sampling::request(&mut fields, &server, &call)?;
    let request = crate::scheduler::Request { max_tokens, stop_strings, ..request };

    let text_model = Arc::clone(&model);
    let (request, tools) = blocking(move || conversation.prepare(&text_model.text, request)).await?;
    let mut answers = model.submit(request, &call.tally).await?;
    let id = new_id("msg_");
    if wants_stream {
        return Ok(stream(answers, MessageStream { id, tools, block: None, n_blocks: 0, stop: Value::Null }));
    }
    let answer = answers.collect().await?.remove(0);
    let mut tools = tools;
    let text = tools.push(&answer.text);
    let (rest, calls) = tools.finish();
    let text = text + &rest;
    let mut content = Vec::new();
    if !text.is_empty() || calls.is_empty() {
        content.push(json!({ "type": "text", "text": text }));
    }
    content.extend(calls.iter().map(|call| tool_use(call, call.arguments.clone())));
    let reason = answer.reason.unwrap_or(FinishReason::Stop);
    Ok(json(&json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model.info.name,
        "content": content,
        "stop_reason": stop_reason(reason, answer.stop_string.as_deref(), &calls),
        "stop_sequence": answer.stop_string,
        "usage": usage(&answers, answer.n_generated),
    })))
}

/// Counts the tokens of a conversation.
pub async fn count_tokens(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, _) = read(&server, request).await?;
    let model = server.generator(fields.string("model")?.as_deref())?;
    let conversation = conversation(&mut fields)?;
    let n_tokens = blocking(move || conversation.count(&model.text)).await?;
    Ok(json(&json!({ "input_tokens": n_tokens })))
}

fn conversation(fields: &mut Fields) -> Result<Conversation, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = texts(fields, "system")? {
        messages.push(Message::new("system", system));
    }
    let list = fields.objects("messages")?;
    let list = fields.required("messages", list)?;
    if list.is_empty() || list.len() > MAX_MESSAGES {
        return Err(fields.error("messages", format!("this must be 1 to {MAX_MESSAGES} messages")));
    }
    for message in list {
        read_message(message, &mut messages)?;
    }
    let tools = fields.objects("tools")?.unwrap_or_default();
    let tools = tools.into_iter().map(|mut tool| Tool::read(&mut tool, "input_schema"));
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    let choice = match fields.object("tool_choice")? {
        None => ToolChoice::Auto,
        Some(mut choice) => {
            let kinds = [("auto", 0), ("any", 1), ("tool", 2), ("none", 3)];
            let kind = choice.choice("type", &kinds)?;
            match choice.required("type", kind)? {
                0 => ToolChoice::Auto,
                1 => ToolChoice::Required,
                2 => {
                    let name = choice.string("name")?;
                    ToolChoice::Named(choice.required("name", name)?)
                }
                _ => ToolChoice::None,
            }
        }
    };
    Ok(Conversation { messages, toolbox: Toolbox::new(tools, choice)?, ..Conversation::default() })
}

/// A message becomes one or, if it has results of tools in it, several.
fn read_message(mut fields: Fields, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let role =
        fields.choice("role", &[("user", "user"), ("assistant", "assistant"), ("system", "system")])?;
    let role = fields.required("role", role)?;
    let content = fields.text_or_parts("content")?;
    let parts = match fields.required("content", content)? {
        TextOrParts::Text(text) => {
            messages.push(Message::new(role, text));
            return Ok(());
        }
        TextOrParts::Parts(parts) => parts,
    };
    let mut text = String::new();
    let mut calls = Vec::new();
    let mut thoughts = String::new();
    for mut part in parts {
        let kinds =
            [("text", 0), ("tool_use", 1), ("tool_result", 2), ("thinking", 3), ("redacted_thinking", 4)];
        let kind = part.choice("type", &kinds)?;
        match part.required("type", kind)? {
            0 => {
                let piece = part.string("text")?;
                text.push_str(&part.required("text", piece)?);
            }
            1 => {
                let id = part.string("id")?.unwrap_or_default();
                let name = part.string("name")?;
                let name = part.required("name", name)?;
                let input = part.value("input").unwrap_or(json!({}));
                calls.push(json!({
                    "id": id, "type": "function", "function": { "name": name, "arguments": input }
                }));
            }
            3 => {
                let piece = part.string("thinking")?;
                thoughts.push_str(&part.required("thinking", piece)?);
            }
            // Only who encrypted it can read it.
            4 => {}
            _ => {
                let mut result = Message::new("tool", texts(&mut part, "content")?.unwrap_or_default());
                if let Some(id) = part.string("tool_use_id")? {
                    result.extra.insert("tool_call_id".to_owned(), id.into());
                }
                messages.push(result);
            }
        }
    }
    if !text.is_empty() || !calls.is_empty() || !thoughts.is_empty() {
        let mut message = Message::new(role, text);
        if !thoughts.is_empty() {
            // By this name templates look for it.
            message.extra.insert("reasoning_content".to_owned(), thoughts.into());
        }
        if !calls.is_empty() {
            message.extra.insert("tool_calls".to_owned(), calls.into());
        }
        messages.push(message);
    }
    Ok(())
}

fn tool_use(call: &ToolCall, input: Value) -> Value {
    json!({ "type": "tool_use", "id": new_id("toolu_"), "name": call.name, "input": input })
}

fn stop_reason(reason: FinishReason, stop_string: Option<&str>, calls: &[ToolCall]) -> &'static str {
    match reason {
        FinishReason::Length => "max_tokens",
        FinishReason::Stop if !calls.is_empty() => "tool_use",
        FinishReason::Stop if stop_string.is_some() => "stop_sequence",
        FinishReason::Stop => "end_turn",
    }
}

fn usage(answers: &Answers, n_generated: usize) -> Value {
    json!({
        "input_tokens": answers.n_prompt - answers.n_cached,
        "cache_read_input_tokens": answers.n_cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": n_generated,
    })
}

struct MessageStream {
    id: String,
    tools: ToolStream,
    /// The text block that is open.
    block: Option<usize>,
    n_blocks: usize,
    /// What the message ended by; told last.
    stop: Value,
}

fn named(value: &Value) -> String {
    format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or_default())
}

impl MessageStream {
    fn open(&mut self, block: Value) -> (usize, String) {
        let idx = self.n_blocks;
        self.n_blocks += 1;
        (idx, named(&json!({ "type": "content_block_start", "index": idx, "content_block": block })))
    }

    fn delta(idx: usize, delta: Value) -> String {
        named(&json!({ "type": "content_block_delta", "index": idx, "delta": delta }))
    }

    fn close(idx: usize) -> String {
        named(&json!({ "type": "content_block_stop", "index": idx }))
    }

    fn say(&mut self, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        let (idx, opening) = match self.block {
            Some(idx) => (idx, String::new()),
            None => self.open(json!({ "type": "text", "text": "" })),
        };
        self.block = Some(idx);
        opening + &Self::delta(idx, json!({ "type": "text_delta", "text": text }))
    }
}

impl Encoder for MessageStream {
    fn begin(&mut self, answers: &Answers) -> String {
        named(&json!({
            "type": "message_start",
            "message": {
                "id": self.id, "type": "message", "role": "assistant", "model": answers.model().info.name,
                "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage(answers, 0),
            },
        }))
    }

    fn event(&mut self, answers: &Answers, event: Event) -> String {
        match event {
            Event::Token { text, .. } => {
                let text = self.tools.push(&text);
                self.say(&text)
            }
            Event::Finished { text, reason, stop_string, n_generated, .. } => {
                let text = self.tools.push(&text);
                let (rest, calls) = self.tools.finish();
                let mut out = self.say(&(text + &rest));
                out.extend(self.block.take().map(Self::close));
                for call in &calls {
                    let (idx, opening) = self.open(tool_use(call, json!({})));
                    let arguments =
                        json!({ "type": "input_json_delta", "partial_json": call.arguments.to_string() });
                    out += &(opening + &Self::delta(idx, arguments) + &Self::close(idx));
                }
                self.stop = json!({
                    "type": "message_delta",
                    "delta": {
                        "stop_reason": stop_reason(reason, stop_string.as_deref(), &calls),
                        "stop_sequence": stop_string,
                    },
                    "usage": usage(answers, n_generated),
                });
                out
            }
            Event::Started { .. } | Event::Progress { .. } | Event::Embedded(_) | Event::Failed(_) => {
                String::new()
            }
        }
    }

    fn end(&mut self, _: &Answers) -> String {
        named(&self.stop) + &named(&json!({ "type": "message_stop" }))
    }

    fn failed(&mut self, error: ApiError) -> String {
        named(&error.body(Dialect::Anthropic))
    }
}
