//! `POST /v1/responses`, for text and functions, as <https://platform.openai.com/docs/api-reference/responses>
//! describes it. Nothing is stored, so a response cannot be referred to later.

use std::sync::Arc;

use axum::extract::{Request, State};
use edgeward_model::chat::Message;
use serde_json::{Value, json};

use super::chat::tool_choice;
use super::envelope::prompt_progress;
use super::sampling::{self, ResponseFormat};
use super::{Encoder, Reply, blocking, json, new_id, now_s, read, stream};
use crate::Server;
use crate::conversation::{Conversation, MAX_MESSAGES, content, texts};
use crate::error::{ApiError, Dialect};
use crate::fields::{Fields, TextOrParts};
use crate::model::Answers;
use crate::scheduler::{Event, FinishReason};
use crate::tools::{Tool, ToolCall, ToolStream, Toolbox};

/// Answers an input.
pub async fn responses(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = server.generator(fields.string("model")?.as_deref())?;
    fields.refuse(&["previous_response_id", "background", "conversation", "prompt"])?;
    let instructions = fields.string("instructions")?;
    let system = instructions.clone().map(|text| Message::new("system", text));
    let messages = system.into_iter().chain(input(&mut fields)?).collect();
    let tools = fields.objects("tools")?.unwrap_or_default();
    let described: Value = tools.iter().map(|tool| Value::Object(tool.clone().into_map())).collect();
    let tools = tools.into_iter().map(|mut tool| {
        let kind = tool.choice("type", &[("function", ())])?;
        tool.required("type", kind)?;
        Tool::read(&mut tool, "parameters")
    });
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    let (choice, choice_value) = tool_choice(&mut fields)?;
    let (format, format_value) = format(&mut fields)?;
    let conversation =
        Conversation { messages, toolbox: Toolbox::new(tools, choice)?, format, ..Conversation::default() };
    let limit = fields.count("max_output_tokens", 1..=usize::MAX)?;
    let wants_stream = fields.bool("stream")?.unwrap_or(false);
    let mut request = sampling::request(&mut fields, &server, &call)?;
    if let Some(limit) = limit {
        request.max_tokens = limit;
    }
    let frame = json!({
        "id": new_id("resp_"),
        "object": "response",
        "created_at": now_s(),
        "status": "in_progress",
        "error": null,
        "incomplete_details": null,
        "instructions": instructions,
        "max_output_tokens": limit,
        "metadata": {},
        "model": model.info.name,
        "output": [],
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "reasoning": { "effort": null, "summary": null },
        "store": false,
        "temperature": request.sampling.temperature,
        "text": { "format": format_value },
        "tool_choice": choice_value,
        "tools": described,
        "top_p": request.sampling.top_p,
        "truncation": "disabled",
        "usage": null,
    });

    let text_model = Arc::clone(&model);
    let (request, mut tools) = blocking(move || conversation.prepare(&text_model.text, request)).await?;
    let mut answers = model.submit(request, &call.tally).await?;
    if wants_stream {
        return Ok(stream(answers, ResponseStream { frame, tools, message: None, n_events: 0 }));
    }
    let answer = answers.collect().await?.remove(0);
    let text = tools.push(&answer.text);
    let (rest, calls) = tools.finish();
    let text = text + &rest;
    let mut output = Vec::new();
    if !text.is_empty() || calls.is_empty() {
        output.push(message_item(&new_id("msg_"), "completed", Some(&text)));
    }
    output.extend(calls.iter().map(|call| call_item(&new_id("fc_"), &new_id("call_"), call, true)));
    let reason = answer.reason.unwrap_or(FinishReason::Stop);
    Ok(json(&finished(frame, output, reason, &answers, answer.n_generated)))
}

/// A text, or what has been said and done so far.
fn input(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let input = fields.text_or_parts("input")?;
    let items = match fields.required("input", input)? {
        TextOrParts::Text(text) => return Ok(vec![Message::new("user", text)]),
        TextOrParts::Parts(items) => items,
    };
    if items.is_empty() || items.len() > MAX_MESSAGES {
        return Err(fields.error("input", format!("this must be a text, or 1 to {MAX_MESSAGES} items")));
    }
    items.into_iter().map(item).collect()
}

fn item(mut fields: Fields) -> Result<Message, ApiError> {
    let kinds = [("message", 0), ("function_call", 1), ("function_call_output", 2)];
    match fields.choice("type", &kinds)?.unwrap_or(0) {
        0 => {
            let roles =
                [("system", "system"), ("developer", "system"), ("user", "user"), ("assistant", "assistant")];
            let role = fields.choice("role", &roles)?;
            let role = fields.required("role", role)?;
            let content = content(&mut fields)?;
            Ok(Message::new(role, fields.required("content", content)?))
        }
        1 => {
            let name = fields.string("name")?;
            let name = fields.required("name", name)?;
            let arguments = fields.string("arguments")?.unwrap_or_default();
            let arguments: Value = serde_json::from_str(&arguments)
                .map_err(|error| fields.error("arguments", format!("this is no JSON: {error}")))?;
            let mut message = Message::new("assistant", "");
            let call = json!({
                "id": fields.string("call_id")?, "type": "function",
                "function": { "name": name, "arguments": arguments },
            });
            message.extra.insert("tool_calls".to_owned(), json!([call]));
            Ok(message)
        }
        _ => {
            let output = texts(&mut fields, "output")?;
            let mut message = Message::new("tool", fields.required("output", output)?);
            if let Some(id) = fields.string("call_id")? {
                message.extra.insert("tool_call_id".to_owned(), id.into());
            }
            Ok(message)
        }
    }
}

/// `text.format`, and as it came.
fn format(fields: &mut Fields) -> Result<(ResponseFormat, Value), ApiError> {
    let plain = || (ResponseFormat::Text, json!({ "type": "text" }));
    let Some(mut text) = fields.object("text")? else { return Ok(plain()) };
    let Some(mut format) = text.object("format")? else { return Ok(plain()) };
    let value = Value::Object(format.clone().into_map());
    let kinds = [("text", 0), ("json_object", 1), ("json_schema", 2)];
    let kind = format.choice("type", &kinds)?;
    let format = match format.required("type", kind)? {
        0 => ResponseFormat::Text,
        1 => ResponseFormat::JsonObject,
        _ => {
            let schema = format.value("schema");
            ResponseFormat::JsonSchema(format.required("schema", schema)?, format.name("schema"))
        }
    };
    Ok((format, value))
}

fn message_item(id: &str, status: &str, text: Option<&str>) -> Value {
    let content: Vec<Value> = text.map(text_part).into_iter().collect();
    json!({ "type": "message", "id": id, "status": status, "role": "assistant", "content": content })
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

fn call_item(id: &str, call_id: &str, call: &ToolCall, is_done: bool) -> Value {
    let arguments = if is_done { call.arguments.to_string() } else { String::new() };
    let status = if is_done { "completed" } else { "in_progress" };
    json!({
        "type": "function_call", "id": id, "call_id": call_id, "name": call.name, "arguments": arguments,
        "status": status,
    })
}

fn finished(
    mut frame: Value,
    output: Vec<Value>,
    reason: FinishReason,
    answers: &Answers,
    n_generated: usize,
) -> Value {
    match reason {
        FinishReason::Stop => frame["status"] = "completed".into(),
        FinishReason::Length => {
            frame["status"] = "incomplete".into();
            frame["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
    }
    frame["output"] = output.into();
    frame["usage"] = json!({
        "input_tokens": answers.n_prompt,
        "input_tokens_details": { "cached_tokens": answers.n_cached },
        "output_tokens": n_generated,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": answers.n_prompt + n_generated,
    });
    frame
}

struct ResponseStream {
    frame: Value,
    tools: ToolStream,
    /// Id and text of the message that is being said.
    message: Option<(String, String)>,
    n_events: usize,
}

impl ResponseStream {
    fn named(&mut self, kind: &str, mut value: Value) -> String {
        value["type"] = kind.into();
        value["sequence_number"] = self.n_events.into();
        self.n_events += 1;
        format!("event: {kind}\ndata: {value}\n\n")
    }

    fn say(&mut self, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        let mut out = String::new();
        if self.message.is_none() {
            let id = new_id("msg_");
            let item = message_item(&id, "in_progress", None);
            out += &self.named("response.output_item.added", json!({ "output_index": 0, "item": item }));
            let part = json!({ "item_id": id, "output_index": 0, "content_index": 0, "part": text_part("") });
            out += &self.named("response.content_part.added", part);
            self.message = Some((id, String::new()));
        }
        let Some((id, said)) = &mut self.message else { return out };
        said.push_str(text);
        let delta =
            json!({ "item_id": id, "output_index": 0, "content_index": 0, "delta": text, "logprobs": [] });
        out + &self.named("response.output_text.delta", delta)
    }

    /// Ends the message, if one was begun, and puts it into `output`.
    fn close(&mut self, output: &mut Vec<Value>) -> String {
        let Some((id, text)) = self.message.take() else { return String::new() };
        let at = json!({ "item_id": id, "output_index": 0, "content_index": 0 });
        let with = |name: &str, value: Value| {
            let mut at = at.clone();
            at[name] = value;
            at
        };
        let mut done = with("text", text.as_str().into());
        done["logprobs"] = json!([]);
        let mut out = self.named("response.output_text.done", done);
        out += &self.named("response.content_part.done", with("part", text_part(&text)));
        let item = message_item(&id, "completed", Some(&text));
        output.push(item.clone());
        out + &self.named("response.output_item.done", json!({ "output_index": 0, "item": item }))
    }

    fn call(&mut self, call: &ToolCall, output: &mut Vec<Value>) -> String {
        let (id, call_id, idx) = (new_id("fc_"), new_id("call_"), output.len());
        let begun = call_item(&id, &call_id, call, false);
        let done = call_item(&id, &call_id, call, true);
        let arguments = call.arguments.to_string();
        output.push(done.clone());
        let at = |name: &str, value: Value| json!({ "item_id": id, "output_index": idx, name: value });
        let mut out = self.named("response.output_item.added", json!({ "output_index": idx, "item": begun }));
        let delta = at("delta", arguments.as_str().into());
        out += &self.named("response.function_call_arguments.delta", delta);
        let mut whole = at("arguments", arguments.into());
        whole["name"] = call.name.as_str().into();
        out += &self.named("response.function_call_arguments.done", whole);
        out + &self.named("response.output_item.done", json!({ "output_index": idx, "item": done }))
    }
}

impl Encoder for ResponseStream {
    fn begin(&mut self, _: &Answers) -> String {
        let frame = self.frame.clone();
        let created = self.named("response.created", json!({ "response": frame }));
        created + &self.named("response.in_progress", json!({ "response": frame }))
    }

    fn event(&mut self, answers: &Answers, event: Event) -> String {
        if let Some(progress) = answers.progress(&event) {
            let frame = self.frame.clone();
            let more = json!({ "response": frame, "prompt_progress": prompt_progress(&progress) });
            return self.named("response.in_progress", more);
        }
        match event {
            Event::Token { text, .. } => {
                let text = self.tools.push(&text);
                self.say(&text)
            }
            Event::Finished { text, reason, n_generated, .. } => {
                let text = self.tools.push(&text);
                let (rest, calls) = self.tools.finish();
                let mut out = self.say(&(text + &rest));
                let mut output = Vec::new();
                out += &self.close(&mut output);
                for call in &calls {
                    out += &self.call(call, &mut output);
                }
                let kind = match reason {
                    FinishReason::Stop => "response.completed",
                    FinishReason::Length => "response.incomplete",
                };
                let response = finished(self.frame.clone(), output, reason, answers, n_generated);
                out + &self.named(kind, json!({ "response": response }))
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
        let body = error.body(Dialect::OpenAi);
        let mut frame = self.frame.clone();
        frame["status"] = "failed".into();
        frame["error"] = json!({ "code": "server_error", "message": body["error"]["message"] });
        self.named("response.failed", json!({ "response": frame }))
    }
}
