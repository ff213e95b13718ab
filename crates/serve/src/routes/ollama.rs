//! `/api/chat`, `/api/generate`, `/api/embed`, `/api/embeddings`, `/api/tags`, `/api/ps`, `/api/show` and `/api/version`, as
//! <https://github.com/ollama/ollama/blob/main/docs/api.md> describes them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use edgeward_model::chat::{Message, rfc3339};
use edgeward_model::tokenizer::AddSpecial;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::chat::MAX_TOP_LOGPROBS;
use super::embeddings::{MAX_INPUTS, Overlong, embed_texts};
use super::prompts::token_id;
use super::sampling::{self, ResponseFormat};
use super::{Encoder, Reply, blocking, json, now_s, read, stream};
use crate::Server;
use crate::conversation::Conversation;
use crate::error::{ApiError, Dialect};
use crate::fields::Fields;
use crate::gate::Call;
use crate::model::{Answers, ModelInfo, ModelKind, ServedModel};
use crate::scheduler::{self, Event, FinishReason, TokenLogprob};
use crate::tools::{Tool, ToolCall, ToolChoice, ToolStream, Toolbox};

/// `POST /api/chat`
pub async fn chat(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = find_generator(&server, &mut fields)?;
    let list = fields.objects("messages")?.unwrap_or_default();
    if list.is_empty() {
        return Ok(json(&loaded(&model, Shape::Chat)));
    }
    let messages = list.into_iter().map(message).collect::<Result<Vec<_>, _>>()?;
    let tools = fields.objects("tools")?.unwrap_or_default().into_iter().map(|mut tool| {
        let function = tool.object("function")?;
        Tool::read(&mut tool.required("function", function)?, "parameters")
    });
    let toolbox = Toolbox::new(tools.collect::<Result<Vec<_>, _>>()?, ToolChoice::Auto)?;
    let format = format(&mut fields)?;
    let variables = thinking(&mut fields)?;
    let conversation = Conversation { messages, toolbox, format, variables, ..Conversation::default() };
    let wants_stream = fields.bool("stream")?.unwrap_or(true);
    let request = options(&mut fields, &server, &call)?;
    let text_model = Arc::clone(&model);
    let (request, tools) = blocking(move || conversation.prepare(&text_model.text, request)).await?;
    answer(model, request, tools, Shape::Chat, wants_stream, &call).await
}

/// `POST /api/generate`
pub async fn generate(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = find_generator(&server, &mut fields)?;
    let prompt = fields.string("prompt")?.unwrap_or_default();
    if prompt.is_empty() {
        return Ok(json(&loaded(&model, Shape::Generate)));
    }
    let system = fields.string("system")?;
    let is_raw = fields.bool("raw")?.unwrap_or(false);
    let format = format(&mut fields)?;
    let variables = thinking(&mut fields)?;
    let wants_stream = fields.bool("stream")?.unwrap_or(true);
    fields.refuse(&["suffix", "images", "template"])?;
    let context = context(&mut fields)?;
    let mut request = options(&mut fields, &server, &call)?;
    let text_model = Arc::clone(&model);
    let (request, tools) = blocking(move || {
        if is_raw {
            request.prompt = text_model.text.encode(&prompt, AddSpecial::Yes)?;
            request.grammar = format.grammar(&text_model.text)?;
            return Ok((request, ToolStream::default()));
        }
        let system = system.map(|system| Message::new("system", system));
        let messages = system.into_iter().chain([Message::new("user", prompt)]).collect();
        let conversation = Conversation { messages, format, variables, ..Conversation::default() };
        let (mut request, tools) = conversation.prepare(&text_model.text, request)?;
        request.prompt.splice(0..0, context);
        Ok((request, tools))
    })
    .await?;
    answer(model, request, tools, Shape::Generate, wants_stream, &call).await
}

/// `POST /api/embed`
pub async fn embed(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = find(&server, &mut fields)?;
    let texts = fields.strings("input", MAX_INPUTS)?;
    let texts = fields.required("input", texts)?;
    let overlong = if fields.bool("truncate")? == Some(false) { Overlong::Refused } else { Overlong::Cut };
    let options = fields.object("options")?;
    let max_len = options.map(|mut options| options.count("num_ctx", 0..=usize::MAX)).transpose()?.flatten();
    let (embeddings, n_tokens) = embed_texts(&server, &model, texts, overlong, max_len, &call).await?;
    Ok(json(&json!({ "model": model.info.name, "embeddings": embeddings, "prompt_eval_count": n_tokens })))
}

/// `POST /api/embeddings`: what `/api/embed` has replaced, of one text.
pub async fn embedding(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, call) = read(&server, request).await?;
    let model = find(&server, &mut fields)?;
    let text = fields.string("prompt")?;
    let text = fields.required("prompt", text)?;
    let (vectors, _) = embed_texts(&server, &model, vec![text], Overlong::Cut, None, &call).await?;
    Ok(json(&json!({ "embedding": vectors[0] })))
}

/// `GET /api/tags`
pub async fn tags(State(server): State<Arc<Server>>) -> Response {
    listing(&server, |info| json!({ "modified_at": timestamp(info.loaded_s) }))
}

/// `GET /api/ps`: the models in memory, which here are all.
pub async fn running(State(server): State<Arc<Server>>) -> Response {
    listing(&server, |info| {
        json!({
            // Models stay until they are told to go.
            "expires_at": "9999-12-31T23:59:59Z",
            "size_vram": 0,
            "context_length": info.context_len,
        })
    })
}

/// All models, with what one list says of each besides.
fn listing(server: &Server, more: impl Fn(&ModelInfo) -> Value) -> Response {
    let describe = |model: &Arc<ServedModel>| {
        let info = &model.info;
        let mut described = json!({
            "name": info.name,
            "model": info.name,
            "size": info.file_bytes,
            "digest": digest(info),
            "details": details(info),
        });
        if let (Value::Object(described), Value::Object(more)) = (&mut described, more(info)) {
            described.extend(more);
        }
        described
    };
    json(&json!({ "models": server.models().iter().map(describe).collect::<Vec<_>>() }))
}

/// `POST /api/show`
pub async fn show(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, _) = read(&server, request).await?;
    let model = find(&server, &mut fields)?;
    let info = &model.info;
    let capabilities: &[&str] = match info.kind {
        ModelKind::Generator => &["completion", "tools", "embedding"],
        ModelKind::Encoder => &["embedding"],
        ModelKind::Ranker => &[],
    };
    let mut model_info = Map::new();
    model_info.insert("general.architecture".to_owned(), info.family.clone().into());
    model_info.insert(format!("{}.context_length", info.family), info.context_len.into());
    model_info.insert(format!("{}.embedding_length", info.family), info.hidden_dim.into());
    Ok(json(&json!({
        "modified_at": timestamp(info.loaded_s),
        "details": details(info),
        "template": model.text.template_source().unwrap_or_default(),
        "model_info": model_info,
        "capabilities": capabilities,
    })))
}

/// `GET /api/version`
pub async fn version() -> Response {
    json(&json!({ "version": env!("CARGO_PKG_VERSION") }))
}

fn details(info: &ModelInfo) -> Value {
    let parameter_size = match info.n_params {
        n @ ..1_000_000_000 => format!("{:.2}M", n as f64 / 1e6),
        n => format!("{:.1}B", n as f64 / 1e9),
    };
    json!({
        "format": "gguf",
        "family": info.family,
        "families": [info.family],
        "parameter_size": parameter_size,
        "quantization_level": info.quantization,
    })
}

/// Names a model as it is, for clients that tell versions apart by it; not of the file's bytes, which would take too long.
fn digest(info: &ModelInfo) -> String {
    let described =
        format!("{:?}", (&info.name, &info.family, info.file_bytes, info.n_params, &info.quantization));
    Sha256::digest(described).iter().fold(String::new(), |digest, byte| digest + &format!("{byte:02x}"))
}

/// Names may have a tag, of which there is only `latest` here.
fn find(server: &Server, fields: &mut Fields) -> Result<Arc<ServedModel>, ApiError> {
    // Older clients say `name`, and some of the newer say both, one of them empty.
    let older = fields.string("name")?;
    let name = fields.string("model")?.filter(|name| !name.is_empty()).or(older);
    let name = fields.required("model", name)?;
    server.model(Some(name.strip_suffix(":latest").unwrap_or(&name)))
}

fn find_generator(server: &Server, fields: &mut Fields) -> Result<Arc<ServedModel>, ApiError> {
    let model = find(server, fields)?;
    match model.info.kind {
        ModelKind::Generator => Ok(model),
        ModelKind::Encoder | ModelKind::Ranker => Err(model.only_encodes()),
    }
}

fn message(mut fields: Fields) -> Result<Message, ApiError> {
    let roles = ["system", "user", "assistant", "tool"].map(|role| (role, role));
    let role = fields.choice("role", &roles)?;
    let role = fields.required("role", role)?;
    fields.refuse(&["images"])?;
    let mut message = Message::new(role, fields.string("content")?.unwrap_or_default());
    if let Some(calls) = fields.value("tool_calls") {
        message.extra.insert("tool_calls".to_owned(), calls);
    }
    if let Some(name) = fields.string("tool_name")? {
        message.extra.insert("name".to_owned(), name.into());
    }
    Ok(message)
}

/// `format`: "json", or a schema.
fn format(fields: &mut Fields) -> Result<ResponseFormat, ApiError> {
    match fields.value("format") {
        None => Ok(ResponseFormat::Text),
        Some(Value::String(word)) if word.is_empty() => Ok(ResponseFormat::Text),
        Some(Value::String(word)) if word == "json" => Ok(ResponseFormat::JsonObject),
        Some(schema @ Value::Object(_)) => Ok(ResponseFormat::JsonSchema(schema, "format".to_owned())),
        Some(_) => Err(fields.error("format", "this must be \"json\" or a JSON schema")),
    }
}

/// `think`: whether the model is to think before it answers, for its template.
fn thinking(fields: &mut Fields) -> Result<Option<Map<String, Value>>, ApiError> {
    let thinks = match fields.value("think") {
        None => return Ok(None),
        Some(Value::Bool(thinks)) => thinks,
        // How much is for other models.
        Some(Value::String(_)) => true,
        Some(_) => return Err(fields.error("think", "this must be true or false")),
    };
    Ok(Some(Map::from_iter([("enable_thinking".to_owned(), thinks.into())])))
}

/// `context`: the tokens of what has been said before, as the last answer told them.
fn context(fields: &mut Fields) -> Result<Vec<u32>, ApiError> {
    let Some(context) = fields.value("context") else { return Ok(Vec::new()) };
    let tokens = context.as_array().and_then(|list| list.iter().map(token_id).collect());
    tokens.ok_or_else(|| fields.error("context", "this must be a list of token ids"))
}

/// `logprobs` and `top_logprobs`.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wants = fields.bool("logprobs")?.unwrap_or(false);
    let n_top = fields.count("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    Ok(wants.then(|| n_top.unwrap_or(0)))
}

/// What is asked for besides the words, and `options` in the words of the others.
fn options(fields: &mut Fields, server: &Server, call: &Call) -> Result<scheduler::Request, ApiError> {
    let n_logprobs = logprobs(fields)?;
    let Some(mut options) = fields.object("options")? else {
        return Ok(scheduler::Request { n_logprobs, ..sampling::request(fields, server, call)? });
    };
    options.rename("repeat_penalty", "repetition_penalty");
    // -1 and -2: as many as there is room for.
    let limit = options.integer("num_predict", -2..=i64::MAX)?;
    options.refuse(&["mirostat", "typical_p", "tfs_z"])?;
    let mut request = sampling::request(&mut options, server, call)?;
    match limit {
        None => {}
        Some(limit) => request.max_tokens = usize::try_from(limit).unwrap_or(usize::MAX).max(1),
    }
    Ok(scheduler::Request { n_logprobs, ..request })
}

/// Which of the two endpoints answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Chat,
    Generate,
}

impl Shape {
    fn say(self, text: &str, calls: &[ToolCall]) -> (&'static str, Value) {
        match self {
            Shape::Generate => ("response", text.into()),
            Shape::Chat => {
                let mut message = json!({ "role": "assistant", "content": text });
                if !calls.is_empty() {
                    let call = |call: &ToolCall| json!({ "function": { "name": call.name, "arguments": call.arguments } });
                    message["tool_calls"] = calls.iter().map(call).collect();
                }
                ("message", message)
            }
        }
    }
}

/// What a request without words is answered with: the model is here.
fn loaded(model: &ServedModel, shape: Shape) -> Value {
    let (name, value) = shape.say("", &[]);
    let mut value = json!({
        "model": model.info.name, "created_at": timestamp(now_s()), name: value, "done": true, "done_reason": "load",
    });
    value["total_duration"] = 0.into();
    value
}

async fn answer(
    model: Arc<ServedModel>,
    request: scheduler::Request,
    tools: ToolStream,
    shape: Shape,
    wants_stream: bool,
    call: &Call,
) -> Reply {
    // Of a generated text, so that the next request can go on from it.
    let context = (shape == Shape::Generate).then(|| request.prompt.clone());
    let mut answers = model.submit(request, &call.tally).await?;
    let mut lines = Lines { model, tools, shape, context, begun: None };
    if wants_stream {
        return Ok(stream(answers, lines));
    }
    let mut text = String::new();
    let mut logprobs = Vec::new();
    loop {
        match answers.next().await {
            Some(Event::Failed(failure)) => return Err(failure.into()),
            Some(Event::Token { text: piece, token, logprob, .. }) => {
                lines.take(&answers, token);
                logprobs.extend(logprob);
                text.push_str(&lines.tools.push(&piece));
            }
            Some(Event::Finished { text: piece, reason, n_generated, .. }) => {
                text.push_str(&lines.tools.push(&piece));
                let (rest, calls) = lines.tools.finish();
                let mut last = lines.last(&answers, &(text + &rest), &calls, reason, n_generated);
                lines.add_logprobs(&mut last, &logprobs);
                return Ok(json(&last));
            }
            Some(Event::Started { .. } | Event::Progress { .. } | Event::Embedded(_)) | None => {}
        }
    }
}

/// A JSON object on each line.
struct Lines {
    model: Arc<ServedModel>,
    tools: ToolStream,
    shape: Shape,
    /// The prompt and its answer, where that is to be told.
    context: Option<Vec<u32>>,
    /// Time until the first token.
    begun: Option<Duration>,
}

impl Lines {
    /// Notes a token.
    fn take(&mut self, answers: &Answers, token: u32) {
        self.begun.get_or_insert(answers.elapsed());
        self.context.iter_mut().for_each(|context| context.push(token));
    }

    fn add_logprobs(&self, line: &mut Value, logprobs: &[TokenLogprob]) {
        let entry = |token: u32, logprob: f64| {
            let text = &self.model.text;
            json!({ "token": text.token_text(token), "logprob": logprob, "bytes": text.token_bytes(token) })
        };
        let describe = |logprob: &TokenLogprob| {
            let mut value = entry(logprob.token, logprob.logprob);
            if !logprob.top.is_empty() {
                value["top_logprobs"] =
                    logprob.top.iter().map(|(token, logprob)| entry(*token, *logprob)).collect();
            }
            value
        };
        if !logprobs.is_empty() {
            line["logprobs"] = logprobs.iter().map(describe).collect();
        }
    }

    fn piece(&self, answers: &Answers, text: &str, calls: &[ToolCall]) -> Value {
        let (name, value) = self.shape.say(text, calls);
        json!({
            "model": answers.model().info.name, "created_at": timestamp(now_s()), name: value, "done": false,
        })
    }

    fn last(
        &self,
        answers: &Answers,
        text: &str,
        calls: &[ToolCall],
        reason: FinishReason,
        n_generated: usize,
    ) -> Value {
        let total = answers.elapsed();
        let begun = self.begun.unwrap_or(total);
        let mut value = self.piece(answers, text, calls);
        let more = json!({
            "done": true,
            "done_reason": super::chat::finish_reason(reason),
            "total_duration": total.as_nanos() as u64,
            // The model is here; what there was to wait for were others.
            "load_duration": answers.waited().as_nanos() as u64,
            "prompt_eval_count": answers.n_prompt,
            "prompt_eval_duration": begun.saturating_sub(answers.waited()).as_nanos() as u64,
            "eval_count": n_generated,
            "eval_duration": (total - begun).as_nanos() as u64,
        });
        if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
            value.extend(more);
        }
        if let Some(context) = &self.context {
            value["context"] = context.as_slice().into();
        }
        value
    }
}

impl Encoder for Lines {
    const CONTENT_TYPE: &'static str = "application/x-ndjson";

    fn begin(&mut self, _: &Answers) -> String {
        String::new()
    }

    fn event(&mut self, answers: &Answers, event: Event) -> String {
        match event {
            Event::Token { text, token, logprob, .. } => {
                self.take(answers, token);
                let text = self.tools.push(&text);
                if text.is_empty() && logprob.is_none() {
                    return String::new();
                }
                let mut line = self.piece(answers, &text, &[]);
                self.add_logprobs(&mut line, logprob.as_slice());
                format!("{line}\n")
            }
            Event::Finished { text, reason, n_generated, .. } => {
                let text = self.tools.push(&text);
                let (rest, calls) = self.tools.finish();
                let text = text + &rest;
                let mut out = String::new();
                if !text.is_empty() || !calls.is_empty() {
                    out = format!("{}\n", self.piece(answers, &text, &calls));
                }
                out + &format!("{}\n", self.last(answers, "", &[], reason, n_generated))
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
        format!("{}\n", error.body(Dialect::Ollama))
    }
}

fn timestamp(time_s: u64) -> String {
    rfc3339(time_s as i64)
}
