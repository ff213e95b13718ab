//! Where time goes, for who collects it: a span of each request, by OpenTelemetry's protocol (OTLP over HTTP, Protocol
//! Buffers). Off unless asked for.
//!
//! A span has what the audit line has, never a word of what was said: method, path, status, the key's name, counts of
//! tokens. Below it, for each prompt, are one span of its computation and one of the answer's. A request that comes with a
//! `traceparent` (W3C Trace Context) belongs to that trace.
//!
//! Spans are made when a request has ended, and sent in batches by a thread of their own: no request waits for a collector,
//! and one that is gone costs spans and nothing else.

use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use axum::http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Status, TraceContextExt, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

/// For a collector to take a batch, and for what is left at the end.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of a collector's answer, which is a few bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// Of a path: that of an unknown one is whatever somebody sends.
const MAX_PATH_CHARS: usize = 256;
/// Where collectors take spans, below the endpoint that is given (OTLP specification).
const SPANS_PATH: &str = "/v1/traces";

/// See the [module's text](self).
pub struct Telemetry {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

/// The computation of one prompt and its answers.
#[derive(Clone, Debug)]
pub struct Work {
    /// Name of the model.
    pub model: String,
    /// When it came, and when it began.
    pub submitted: Instant,
    /// See above.
    pub started: Instant,
    /// When the first token and the last were known, if any.
    pub tokens: Option<(Instant, Instant)>,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Of these, known from before.
    pub n_cached: usize,
    /// Tokens of the answers.
    pub n_generated: usize,
}

/// A request that has ended.
pub struct Ended<'a> {
    /// Of its span.
    pub parent: &'a Context,
    /// HTTP's.
    pub method: &'a str,
    /// HTTP's.
    pub path: &'a str,
    /// HTTP's.
    pub status: u16,
    /// Name of the key.
    pub key: Option<&'a str>,
    /// When it came.
    pub started: Instant,
    /// What was computed for it.
    pub works: &'a [Work],
}

/// From one clock to the other.
struct Clock {
    instant: Instant,
    time: SystemTime,
}

impl Clock {
    fn time_of(&self, instant: Instant) -> SystemTime {
        self.time - self.instant.saturating_duration_since(instant)
    }
}

impl Telemetry {
    /// Sends spans to the collector at `endpoint`, `http://HOST:4318` as a rule; headers and the like come from the
    /// variables of the specification (`OTEL_EXPORTER_OTLP_HEADERS`).
    ///
    /// # Errors
    /// If that is no address.
    pub fn new(endpoint: &str) -> Result<Telemetry, Box<dyn std::error::Error>> {
        let is_http = ["http://", "https://"].iter().any(|scheme| {
            endpoint.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        });
        if !is_http {
            return Err(format!("{endpoint:?} is no address of a collector: write http://HOST:4318").into());
        }
        let endpoint = endpoint.trim_end_matches('/');
        let url = match endpoint.ends_with(SPANS_PATH) {
            true => endpoint.to_owned(),
            false => format!("{endpoint}{SPANS_PATH}"),
        };
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client(agent.build().into()))
            .with_endpoint(url)
            .with_timeout(TIMEOUT)
            .build()?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("edgeward").with_attribute(version).build();
        let provider =
            SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
        let tracer = provider.tracer("edgeward");
        Ok(Telemetry { provider, tracer, propagator: TraceContextPropagator::new() })
    }

    /// The trace that a request belongs to, if it says.
    pub fn parent(&self, headers: &HeaderMap) -> Context {
        // Nothing of this thread: a server's requests have nothing to do with each other.
        self.propagator.extract_with_context(&Context::new(), &HeaderExtractor(headers))
    }

    /// Notes a request.
    pub fn note(&self, ended: &Ended) {
        let clock = Clock { instant: Instant::now(), time: SystemTime::now() };
        // What nobody knows has no name of its own, lest there be as many names as guesses.
        let name = match ended.status {
            404 | 405 => ended.method.to_owned(),
            _ => format!("{} {}", ended.method, shown(ended.path)),
        };
        let sum = |count: fn(&Work) -> usize| ended.works.iter().map(count).sum::<usize>() as i64;
        let mut attributes = vec![
            KeyValue::new("http.request.method", ended.method.to_owned()),
            KeyValue::new("url.path", shown(ended.path)),
            KeyValue::new("http.response.status_code", i64::from(ended.status)),
        ];
        if let Some(key) = ended.key {
            attributes.push(KeyValue::new("edgeward.key", key.to_owned()));
        }
        if let Some(work) = ended.works.first() {
            attributes.extend([
                KeyValue::new("gen_ai.request.model", work.model.clone()),
                KeyValue::new("gen_ai.usage.input_tokens", sum(|work| work.n_prompt)),
                KeyValue::new("gen_ai.usage.output_tokens", sum(|work| work.n_generated)),
            ]);
        }
        let mut span = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Server)
            .with_start_time(clock.time_of(ended.started))
            .with_attributes(attributes)
            .start_with_context(&self.tracer, ended.parent);
        if ended.status >= 500 {
            span.set_status(Status::error(""));
        }
        let within = Context::new().with_remote_span_context(span.span_context().clone());
        for work in ended.works {
            self.note_work(work, &within, &clock);
        }
        span.end_with_timestamp(clock.time);
    }

    fn note_work(&self, work: &Work, within: &Context, clock: &Clock) {
        let model = || KeyValue::new("gen_ai.request.model", work.model.clone());
        let count = |name: &'static str, count: usize| KeyValue::new(name, count as i64);
        let waited = work.started.saturating_duration_since(work.submitted);
        // One that was given up early has no token; it ended when the request did.
        let (first, last) = work.tokens.unwrap_or((clock.instant, clock.instant));
        let spans = [
            (
                "prefill",
                work.started..first,
                vec![
                    model(),
                    count("gen_ai.usage.input_tokens", work.n_prompt),
                    count("edgeward.cached_tokens", work.n_cached),
                    KeyValue::new("edgeward.queue_ms", waited.as_secs_f64() * 1e3),
                ],
            ),
            ("decode", first..last, vec![model(), count("gen_ai.usage.output_tokens", work.n_generated)]),
        ];
        for (name, times, attributes) in spans {
            let mut span = SpanBuilder::from_name(name)
                .with_kind(SpanKind::Internal)
                .with_start_time(clock.time_of(times.start))
                .with_attributes(attributes)
                .start_with_context(&self.tracer, within);
            span.end_with_timestamp(clock.time_of(times.end));
        }
    }

    /// Sends what is left.
    pub fn stop(&self) {
        // A collector that is gone is nobody's concern here.
        let _ = self.provider.shutdown_with_timeout(TIMEOUT);
    }
}

fn shown(path: &str) -> String {
    path.chars().take(MAX_PATH_CHARS).collect()
}

/// The way to the collector: the program's own HTTP client, on the thread that sends.
#[derive(Debug)]
struct Client(ureq::Agent);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let response = self.0.run(Request::from_parts(head, body.to_vec()))?;
        let (head, body) = response.into_parts();
        let bytes = body.into_with_config().limit(MAX_ANSWER_BYTES).read_to_vec()?;
        Ok(Response::from_parts(head, bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["http://127.0.0.1:4318", "https://collector.example/", "http://c/otlp/v1/traces"] {
            assert!(Telemetry::new(good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:4318", "grpc://c:4317", "http://", "http:///v1/traces"] {
            assert!(Telemetry::new(bad).is_err(), "{bad}");
        }
    }
}
