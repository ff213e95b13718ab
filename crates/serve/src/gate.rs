//! What every request passes first: is it not from another site's page, has it a key, may the key do this, has it
//! tokens left. And what every answer passes last: headers, the audit line, the account of tokens.
//!
//! - A server on loopback can be reached by every page that a browser on this machine shows. Such a page cannot read
//!   answers, as nothing allows it to (no CORS headers), and cannot send JSON without being asked first, as requests must
//!   say that they are JSON. What remains is a name of its own that it lets point to 127.0.0.1 (DNS rebinding): so
//!   `Host` must be this machine's. Requests whose `Origin` is another than `Host` are refused wherever they come from.
//!   Origins that the server was told to allow get the headers that let a browser through (CORS).
//! - The audit line has who, what and how much: never a word of what was said.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION,
    CACHE_CONTROL, HOST, HeaderValue, ORIGIN, VARY,
};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::{ApiError, Dialect};
use crate::keys::{Refusal, Scope};
use crate::model::{Tally, lock};
use crate::routes::page;
use crate::telemetry::Ended;
use crate::{Part, Server};

/// What pages of allowed origins may send along. `*` would not cover `Authorization` (Fetch standard).
const ALLOWED_HEADERS: &str = "authorization, content-type, x-api-key";

/// What a caller may do, and what it has cost so far.
#[derive(Clone, Debug)]
pub struct Call {
    /// Whether it may go before others.
    pub is_admin: bool,
    /// Its tokens.
    pub tally: Arc<Tally>,
}

/// The middleware around everything.
pub async fn gate(State(server): State<Arc<Server>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let works = server.telemetry.as_ref().map(|_| Mutex::default());
    let tally = Arc::new(Tally { works, ..Tally::default() });
    let parent = server.telemetry.as_ref().map(|telemetry| telemetry.parent(request.headers()));
    let origin = request.headers().get(ORIGIN).cloned();
    let is_preflight = method == Method::OPTIONS && origin.is_some();
    let origin = origin
        .filter(|origin| origin.to_str().is_ok_and(|origin| is_allowed(&server.allowed_origins, origin)));
    let (key_name, response) = match admit(&server, &method, &path, request.headers(), origin.is_some()) {
        // A browser asks before it sends anything, without a key. That nothing is allowed is an answer, too.
        _ if is_preflight => (None, Response::new(Body::empty())),
        Ok((key_name, is_admin)) => {
            let call = Call { is_admin, tally: Arc::clone(&tally) };
            request.extensions_mut().insert(call);
            (key_name, next.run(request).await)
        }
        Err(error) => (None, error.into_response()),
    };
    let mut response = match response.extensions().get::<ApiError>() {
        Some(error) => error.response(Dialect::of_path(&path)),
        None => response,
    };
    let headers = response.headers_mut();
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
    if is_preflight && headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
    }
    server.counters.count(response.status().as_u16());
    let status = response.status().as_u16();
    let entry = Entry { server, started, method, path, status, key_name, tally, parent };
    response.map(|body| Body::new(Accounted { body, _entry: entry }))
}

/// The key's name, if there is one, and whether it is an administrator's.
fn admit(
    server: &Server,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    has_allowed_origin: bool,
) -> Result<(Option<String>, bool), ApiError> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(HOST).unwrap_or_default();
    if server.is_loopback && !is_this_machine(host) {
        let message = "this server answers to localhost only: ask it by that name";
        return Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, message));
    }
    if let Some(origin) = text(ORIGIN) {
        let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority);
        if authority != host && !has_allowed_origin {
            let message = "pages of other sites may not use this server";
            return Err(ApiError::new(StatusCode::FORBIDDEN, message));
        }
    }
    if let Some(part) = part_of(path).filter(|part| server.without.contains(part)) {
        let status = if part == Part::Page { StatusCode::NOT_FOUND } else { StatusCode::NOT_IMPLEMENTED };
        return Err(ApiError::new(status, "this server was started without this"));
    }
    let (Some(ring), Some(scope)) = (&server.keys, scope_of(method, path)) else {
        // Without keys, whoever is on this machine may do all.
        return Ok((None, server.keys.is_none()));
    };
    let bearer = text(AUTHORIZATION).and_then(|value| {
        let (scheme, secret) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
    });
    // Anthropic's clients have a header of their own.
    let secret = bearer.or(text("x-api-key".parse().expect("a plain name"))).unwrap_or_default();
    let key = ring.check(secret, Instant::now()).map_err(|refusal| match refusal {
        Refusal::Unknown => {
            let message = "this server needs a key: send it as `Authorization: Bearer KEY`; `edgeward keys add` \
                           makes one";
            ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key")
        }
        Refusal::Expired => {
            ApiError::new(StatusCode::UNAUTHORIZED, "this key has expired").code("expired_api_key")
        }
        Refusal::TooManyRequests(seconds) => {
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "this key has made its requests for this minute")
                .code("rate_limit_exceeded")
                .retry_after(seconds)
        }
        Refusal::TooManyTokens(seconds) => {
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "this key has used its tokens for today")
                .code("insufficient_quota")
                .retry_after(seconds)
        }
    })?;
    let is_admin = key.scopes.contains(&Scope::Admin);
    let may = match scope {
        Need::Any => true,
        Need::Scope(scope) => key.scopes.contains(&scope),
    };
    if !may {
        return Err(
            ApiError::new(StatusCode::FORBIDDEN, "this key is not good for this").code("missing_scope")
        );
    }
    Ok((Some(key.name), is_admin))
}

/// Which part a path belongs to, of those that a server can be without.
fn part_of(path: &str) -> Option<Part> {
    match path {
        "/metrics" => Some(Part::Metrics),
        "/slots" => Some(Part::Slots),
        _ if page::is_page(path) => Some(Part::Page),
        _ => None,
    }
}

/// What a request must be allowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Any key will do.
    Any,
    /// Only one with this scope.
    Scope(Scope),
}

/// What a request needs; `None` for what everybody may see: whether the server is there, and the page.
fn scope_of(method: &Method, path: &str) -> Option<Need> {
    match path {
        "/health" | "/ready" => None,
        "/metrics" => Some(Need::Scope(Scope::Admin)),
        "/v1/embeddings" | "/v1/rerank" | "/api/embed" | "/api/embeddings" => Some(Need::Scope(Scope::Embed)),
        "/embedding" | "/embeddings" | "/rerank" | "/reranking" | "/v1/reranking" => {
            Some(Need::Scope(Scope::Embed))
        }
        "/models" | "/props" => Some(Need::Any),
        // Whoever may ask may see what to ask for; but strengths change the answers of all.
        "/lora-adapters" if method == Method::GET => Some(Need::Any),
        "/slots" | "/lora-adapters" => Some(Need::Scope(Scope::Admin)),
        "/v1/models" | "/openapi.json" | "/tokenize" | "/detokenize" | "/api/tags" | "/api/show"
        | "/api/ps" | "/api/version" => Some(Need::Any),
        _ if path.starts_with("/admin/") => Some(Need::Scope(Scope::Admin)),
        _ if path.starts_with("/v1/models/") => Some(Need::Any),
        _ if page::is_page(path) => None,
        _ => Some(Need::Scope(Scope::Chat)),
    }
}

/// Whether pages of this origin may use the server. The word `localhost` stands for pages from this machine, of any port.
fn is_allowed(allowed: &[String], origin: &str) -> bool {
    let is_local = || {
        let authority = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
        authority.is_some_and(is_this_machine)
    };
    allowed.iter().any(|known| if known == "localhost" { is_local() } else { known == origin })
}

/// Whether a `Host` header means this machine.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What is written down of a request when its answer has gone out, or its client has.
struct Entry {
    server: Arc<Server>,
    started: Instant,
    method: Method,
    path: String,
    status: u16,
    key_name: Option<String>,
    tally: Arc<Tally>,
    /// The trace that it belongs to, where that is told.
    parent: Option<opentelemetry::Context>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let n_prompt = self.tally.n_prompt.load(Ordering::Relaxed);
        let n_generated = self.tally.n_generated.load(Ordering::Relaxed);
        if let (Some(ring), Some(name)) = (&self.server.keys, &self.key_name) {
            ring.charge(name, n_prompt + n_generated, Instant::now());
        }
        if let (Some(telemetry), Some(parent)) = (&self.server.telemetry, &self.parent) {
            telemetry.note(&Ended {
                parent,
                method: self.method.as_str(),
                path: &self.path,
                status: self.status,
                key: self.key_name.as_deref(),
                started: self.started,
                works: &self
                    .tally
                    .works
                    .as_ref()
                    .map(|works| std::mem::take(&mut *lock(works)))
                    .unwrap_or_default(),
            });
        }
        let time_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        // JSON escapes whatever a path may hold.
        self.server.audit(&json!({
            "time_s": (time_s * 1000.0).round() / 1000.0,
            "key": self.key_name,
            "method": self.method.as_str(),
            "path": self.path,
            "status": self.status,
            "duration_ms": self.started.elapsed().as_millis() as u64,
            "n_prompt_tokens": n_prompt,
            "n_generated_tokens": n_generated,
        }));
    }
}

/// A body whose end, however it comes, closes the account.
struct Accounted {
    body: Body,
    _entry: Entry,
}

impl HttpBody for Accounted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.1.2.3", "[::1]:8080", "[::1]"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in
            ["", "example.org", "localhost.example.org", "127.0.0.1.example.org:80", "10.0.0.1", "::2"]
        {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn origins() {
        let allowed = ["https://app.example".to_owned(), "localhost".to_owned()];
        for origin in ["https://app.example", "http://localhost", "http://127.0.0.1:3000", "https://[::1]:1"]
        {
            assert!(is_allowed(&allowed, origin), "{origin}");
        }
        for origin in [
            "http://app.example",
            "https://app.example:444",
            "https://app.example.evil.example",
            "http://localhost.evil.example",
            "localhost",
            "null",
            "file://localhost",
            "",
        ] {
            assert!(!is_allowed(&allowed, origin), "{origin}");
        }
        assert!(!is_allowed(&[], "http://localhost"));
    }

    #[test]
    fn everything_unknown_needs_a_key() {
        for path in [
            "/v1/chat/completions",
            "/anything",
            "/health/",
            "//health",
            "/v1/../health",
            "/metricsx",
            "//",
            "/page/",
        ] {
            assert_eq!(scope_of(&Method::GET, path), Some(Need::Scope(Scope::Chat)), "{path}");
        }
        assert_eq!(scope_of(&Method::GET, "/metrics"), Some(Need::Scope(Scope::Admin)));
        assert_eq!(scope_of(&Method::GET, "/admin/models/load"), Some(Need::Scope(Scope::Admin)));
        assert_eq!(scope_of(&Method::GET, "/lora-adapters"), Some(Need::Any));
        for method in [Method::POST, Method::PUT, Method::HEAD] {
            assert_eq!(scope_of(&method, "/lora-adapters"), Some(Need::Scope(Scope::Admin)));
        }
        assert_eq!(scope_of(&Method::GET, "/health"), None);
        assert_eq!(scope_of(&Method::GET, "/page/main.js"), None);
    }
}
