//! The endpoints, one file for each family, and what they have in common: reading a request, and answering at once or
//! piece by piece.

pub mod adapters;
mod admin;
mod anthropic;
mod chat;
mod completions;
mod embeddings;
mod envelope;
pub mod llama_cpp;
mod models;
mod ollama;
mod openapi;
pub mod page;
mod prompts;
mod responses;
pub mod sampling;
mod status;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use crate::Server;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::gate::{Call, gate};
use crate::model::Answers;
use crate::scheduler::Event;
use openapi::Endpoint;

/// For a whole request to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

type Reply = Result<Response, ApiError>;

/// All endpoints, and what is said of them.
fn endpoints() -> Vec<(Endpoint, MethodRouter<Arc<Server>>)> {
    let mut endpoints = vec![
        (openapi::CHAT, post(chat::completions)),
        (openapi::COMPLETIONS, post(completions::completions)),
        (openapi::RESPONSES, post(responses::responses)),
        (openapi::EMBEDDINGS, post(embeddings::embeddings)),
        (openapi::RERANK, post(embeddings::rerank)),
        (openapi::MESSAGES, post(anthropic::messages)),
        (openapi::COUNT_TOKENS, post(anthropic::count_tokens)),
        (openapi::OLLAMA_CHAT, post(ollama::chat)),
        (openapi::OLLAMA_GENERATE, post(ollama::generate)),
        (openapi::OLLAMA_EMBED, post(ollama::embed)),
        (openapi::OLLAMA_EMBEDDINGS, post(ollama::embedding)),
        (openapi::OLLAMA_TAGS, get(ollama::tags)),
        (openapi::OLLAMA_PS, get(ollama::running)),
        (openapi::OLLAMA_SHOW, post(ollama::show)),
        (openapi::OLLAMA_VERSION, get(ollama::version)),
        (openapi::MODELS, get(models::list)),
        (openapi::MODEL_NAMED, get(models::one)),
        (openapi::TOKENIZE, post(models::tokenize)),
        (openapi::DETOKENIZE, post(models::detokenize)),
        (openapi::HEALTH, get(status::health)),
        (openapi::READY, get(status::ready)),
        (openapi::METRICS, get(status::metrics)),
        (openapi::LOAD, post(admin::load)),
        (openapi::UNLOAD, post(admin::unload)),
        (openapi::SWAP, post(admin::swap)),
        (openapi::LOAD_ADAPTER, post(adapters::load)),
        (openapi::UNLOAD_ADAPTER, post(adapters::unload)),
        (openapi::OPENAPI, get(openapi::document)),
        (openapi::LLAMA_COMPLETION, post(llama_cpp::completion)),
        (openapi::LLAMA_EMBEDDING, post(llama_cpp::embedding)),
        (openapi::APPLY_TEMPLATE, post(llama_cpp::apply_template)),
        (openapi::INPUT_TOKENS, post(llama_cpp::count_tokens)),
        (openapi::PROPS, get(llama_cpp::props)),
        (openapi::SLOTS, get(llama_cpp::slots)),
        (openapi::ADAPTERS, get(adapters::list)),
        (openapi::SET_ADAPTERS, post(adapters::set)),
        // The same under other paths.
        (openapi::LLAMA_COMPLETION.at("/completions"), post(llama_cpp::completion)),
        (openapi::LLAMA_EMBEDDING.at("/embeddings"), post(llama_cpp::embedding)),
        (openapi::CHAT.at("/chat/completions"), post(chat::completions)),
        (openapi::RESPONSES.at("/responses"), post(responses::responses)),
        (openapi::RERANK.at("/rerank"), post(embeddings::rerank)),
        (openapi::RERANK.at("/reranking"), post(embeddings::rerank)),
        (openapi::RERANK.at("/v1/reranking"), post(embeddings::rerank)),
        (openapi::MODELS.at("/models"), get(models::list)),
    ];
    endpoints.extend(page::paths().map(|path| (openapi::page(path), get(page::file))));
    endpoints
}

/// All endpoints, behind the gate.
pub fn router(server: Arc<Server>) -> Router {
    let endpoints = endpoints().into_iter();
    endpoints
        .fold(Router::new(), |router, (endpoint, handler)| router.route(endpoint.path, handler))
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path has another method")
        })
        .layer(from_fn_with_state(Arc::clone(&server), gate))
        .with_state(server)
}

/// Reads the JSON object that a request carries, and who sent it.
async fn read(server: &Server, request: Request) -> Result<(Fields, Call), ApiError> {
    let (value, call) = read_json(server, request).await?;
    Ok((Fields::of_request(value)?, call))
}

/// The same of any JSON.
async fn read_json(server: &Server, request: Request) -> Result<(Value, Call), ApiError> {
    let (head, body) = request.into_parts();
    let call = head.extensions.get::<Call>().cloned().expect("the gate puts it there");
    let header = |name| head.headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let content_type = header(CONTENT_TYPE).unwrap_or_default();
    // A browser lets any page send a form or plain text; for JSON it asks first, and is answered no.
    if !content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let message = "the request must have `Content-Type: application/json`";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    if header(CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        let message = "requests may not be compressed";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let max_bytes = server.max_body_bytes;
    let too_large = || {
        let message = format!("the request has more than the {max_bytes} bytes that are allowed");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    // Known before anything is read, for honest clients.
    if axum::body::HttpBody::size_hint(&body).lower() > max_bytes as u64 {
        return Err(too_large());
    }
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, max_bytes).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => return Err(ApiError::new(StatusCode::BAD_REQUEST, "the request has ended too early")),
        Err(_) => {
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time"));
        }
    };
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {error}")))?;
    Ok((value, call))
}

/// Runs what takes a while, as templates and grammars do, on a thread for such things: others' events must not wait
/// for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// An answer in JSON.
fn json(value: &Value) -> Response {
    with_type(Body::from(value.to_string()), "application/json")
}

fn with_type(body: Body, content_type: &'static str) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// How a kind of client wants its pieces.
trait Encoder: Send + 'static {
    /// The stream's type.
    const CONTENT_TYPE: &'static str = "text/event-stream";
    /// What comes before everything.
    fn begin(&mut self, answers: &Answers) -> String;
    /// What an event makes; perhaps nothing.
    fn event(&mut self, answers: &Answers, event: Event) -> String;
    /// What comes after the last answer's end.
    fn end(&mut self, answers: &Answers) -> String;
    /// What comes instead, if it goes wrong.
    fn failed(&mut self, error: ApiError) -> String;
}

/// Answers as they come.
fn stream<E: Encoder>(answers: Answers, encoder: E) -> Response {
    enum Stage {
        Begin,
        Events,
        Done,
    }
    let pieces = futures_util::stream::unfold(
        (answers, encoder, Stage::Begin),
        async |(mut answers, mut encoder, mut stage)| {
            loop {
                let piece = match stage {
                    Stage::Done => return None,
                    Stage::Begin => {
                        stage = Stage::Events;
                        encoder.begin(&answers)
                    }
                    Stage::Events => match answers.next().await {
                        Some(Event::Failed(failure)) => {
                            stage = Stage::Done;
                            encoder.failed(failure.into())
                        }
                        Some(event) => encoder.event(&answers, event),
                        None => {
                            stage = Stage::Done;
                            encoder.end(&answers)
                        }
                    },
                };
                if !piece.is_empty() {
                    return Some((Ok::<Bytes, Infallible>(piece.into()), (answers, encoder, stage)));
                }
            }
        },
    );
    with_type(Body::from_stream(pieces), E::CONTENT_TYPE)
}

/// A server-sent event without a name.
fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// `prefix` and 96 bits of chance.
fn new_id(prefix: &str) -> String {
    let mut bytes = [0; 12];
    // An id is for telling answers apart, not a secret: without chance, all are alike.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().fold(prefix.to_owned(), |id, byte| id + &format!("{byte:02x}"))
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |time| time.as_secs())
}
