//! Which models there are, and what they make of a text.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use edgeward_model::tokenizer::{AddSpecial, ControlTokens, ParseSpecial};
use serde_json::{Value, json};

use super::prompts::token_id;
use super::{Reply, json, read};
use crate::Server;
use crate::error::ApiError;
use crate::model::{ModelInfo, ModelKind};

/// `GET /v1/models`
pub async fn list(State(server): State<Arc<Server>>) -> Response {
    let models: Vec<Value> = server.models().iter().map(|model| describe(&model.info)).collect();
    json(&json!({ "object": "list", "data": models }))
}

/// `GET /v1/models/NAME`
pub async fn one(State(server): State<Arc<Server>>, Path(name): Path<String>) -> Reply {
    Ok(json(&describe(&server.model(Some(&name))?.info)))
}

fn describe(info: &ModelInfo) -> Value {
    json!({
        "id": info.name,
        "object": "model",
        "created": info.loaded_s,
        "owned_by": "edgeward",
        "meta": {
            "family": info.family,
            "kind": match info.kind {
                ModelKind::Generator => "generator",
                ModelKind::Encoder => "encoder",
                ModelKind::Ranker => "ranker",
            },
            "n_ctx": info.context_len,
            "n_vocab": info.vocab_size,
            "n_embd": info.hidden_dim,
            "size": info.file_bytes,
        },
    })
}

/// `POST /tokenize`: `content` to `tokens`, with `with_pieces` their texts besides.
pub async fn tokenize(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, _) = read(&server, request).await?;
    let model = server.model(fields.string("model")?.as_deref())?;
    let content = fields.string("content")?;
    let content = fields.required("content", content)?;
    let add_special =
        if fields.bool("add_special")? == Some(true) { AddSpecial::Yes } else { AddSpecial::No };
    let parse_special =
        if fields.bool("parse_special")? == Some(false) { ParseSpecial::No } else { ParseSpecial::Yes };
    let tokens = model.text.encode_with(&content, add_special, parse_special)?;
    let tokens: Vec<Value> = match fields.bool("with_pieces")? {
        Some(true) => {
            let piece = |id: &u32| match std::str::from_utf8(model.text.token_bytes(*id)) {
                Ok(text) => json!({ "id": id, "piece": text }),
                // Part of a character.
                Err(_) => json!({ "id": id, "piece": model.text.token_bytes(*id) }),
            };
            tokens.iter().map(piece).collect()
        }
        _ => tokens.into_iter().map(Value::from).collect(),
    };
    Ok(json(&json!({ "tokens": tokens })))
}

/// `POST /detokenize`: `tokens` to `content`.
pub async fn detokenize(State(server): State<Arc<Server>>, request: Request) -> Reply {
    let (mut fields, _) = read(&server, request).await?;
    let model = server.model(fields.string("model")?.as_deref())?;
    let tokens = fields.value("tokens");
    let tokens = fields.required("tokens", tokens)?;
    let tokens: Option<Vec<u32>> = tokens.as_array().and_then(|list| list.iter().map(token_id).collect());
    let tokens = tokens.ok_or_else(|| fields.error("tokens", "this must be a list of token ids"))?;
    let content = model
        .text
        .tokenizer()
        .decode(&tokens, ControlTokens::Show)
        .map_err(|error| ApiError { status: StatusCode::BAD_REQUEST, ..fields.error("tokens", error) })?;
    Ok(json(&json!({ "content": content })))
}
