//! Whether the server is there, whether it can answer, and how it does.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::{Reply, json, with_type};
use crate::Server;
use crate::error::ApiError;
use crate::metrics;

/// `GET /health`: the process is there.
pub async fn health() -> Response {
    json(&json!({ "status": "ok" }))
}

/// `GET /ready`: requests are answered, as the first models are loaded before the server listens, until it stops.
pub async fn ready(State(server): State<Arc<Server>>) -> Reply {
    if server.is_stopping() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"));
    }
    Ok(json(&json!({ "status": "ready" })))
}

/// `GET /metrics`: for Prometheus.
pub async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let models = server.models();
    let text = metrics::render(models.iter().map(|model| &**model), &server.counters);
    let mut response = with_type(Body::from(text), "text/plain; version=0.0.4; charset=utf-8");
    // As llama.cpp tells when counters began.
    response.headers_mut().insert("process-start-time-unix", server.started_s.into());
    response
}
