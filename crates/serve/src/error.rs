//! What clients are told when something is wrong: a status, and a sentence in the shape of their API.
//!
//! Text for clients names what they sent and what to do about it; it holds no path and nothing of other requests.

use std::fmt;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::json;

use crate::routes::llama_cpp;
use crate::scheduler::{Failure, Rejection};

/// Whose shape of errors a client expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error": {"message", "type", "param", "code"}}`
    #[default]
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`
    Anthropic,
    /// `{"error": message}`
    Ollama,
    /// `{"error": {"code", "message", "type"}}`, `code` being the status
    LlamaCpp,
}

impl Dialect {
    /// By the path that was asked for.
    pub fn of_path(path: &str) -> Dialect {
        match path {
            "/v1/messages" | "/v1/messages/count_tokens" => Dialect::Anthropic,
            _ if path.starts_with("/api/") => Dialect::Ollama,
            _ if llama_cpp::is_own(path) => Dialect::LlamaCpp,
            _ => Dialect::OpenAi,
        }
    }
}

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// What is wrong, and what to do.
    pub message: String,
    /// The field it is about.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// When to try again, seconds.
    pub retry_after_s: Option<u64>,
    /// Tokens of the prompt and of the context, where the first is too long for the second.
    pub overlong: Option<(usize, usize)>,
}

impl ApiError {
    /// An error with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError {
            status,
            message: message.into(),
            param: None,
            code: None,
            retry_after_s: None,
            overlong: None,
        }
    }

    /// The request is wrong in this field.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::new(StatusCode::BAD_REQUEST, message) }
    }

    /// With a word for programs.
    pub fn code(self, code: &'static str) -> ApiError {
        ApiError { code: Some(code), ..self }
    }

    /// With a time after which to try again.
    pub fn retry_after(self, seconds: u64) -> ApiError {
        ApiError { retry_after_s: Some(seconds), ..self }
    }

    /// The kind of error in OpenAI's and Anthropic's words, which agree as far as they go.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            504 => "timeout_error",
            400..=499 => "invalid_request_error",
            _ => "api_error",
        }
    }

    /// The body, in that shape.
    pub fn body(&self, dialect: Dialect) -> serde_json::Value {
        let kind = self.kind();
        match dialect {
            Dialect::OpenAi => json!({
                "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code }
            }),
            Dialect::Anthropic => json!({
                "type": "error", "error": { "type": kind, "message": self.message }
            }),
            Dialect::Ollama => json!({ "error": self.message }),
            Dialect::LlamaCpp => {
                let kind = if self.overlong.is_some() { "exceed_context_size_error" } else { kind };
                let mut error =
                    json!({ "code": self.status.as_u16(), "message": self.message, "type": kind });
                if let Some((n_prompt, context_len)) = self.overlong {
                    error["n_prompt_tokens"] = n_prompt.into();
                    error["n_ctx"] = context_len.into();
                }
                json!({ "error": error })
            }
        }
    }

    /// The whole answer, in that shape.
    pub fn response(&self, dialect: Dialect) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body(dialect).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, "application/json".parse().expect("a plain value"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl IntoResponse for ApiError {
    /// In OpenAI's shape, and the error itself beside it for who knows the client's shape.
    fn into_response(self) -> Response<Body> {
        let mut response = self.response(Dialect::OpenAi);
        response.extensions_mut().insert(self);
        response
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> ApiError {
        let message = rejection.to_string();
        match rejection {
            Rejection::QueueFull => {
                ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full").retry_after(1)
            }
            Rejection::PromptTooLong { n_prompt, context_len } => ApiError {
                overlong: Some((n_prompt, context_len)),
                ..ApiError::field("messages", message).code("context_length_exceeded")
            },
            Rejection::TooLarge { .. } => ApiError::field("max_tokens", message),
            Rejection::TooManyChoices { .. } => ApiError::field("n", message),
            Rejection::BadOption(_) => ApiError::new(StatusCode::BAD_REQUEST, message),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> ApiError {
        let message = failure.to_string();
        match failure {
            Failure::TimedOut => ApiError::new(StatusCode::GATEWAY_TIMEOUT, message).code("timeout"),
            Failure::Broken(_) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}
