//! The HTTP interface: clients of OpenAI's API, and of others, talk to models on this machine.
//!
//! A thin shell of sockets around a plain core. Each model has one thread that owns its engine and a [`Scheduler`](
//! scheduler::Scheduler), a state machine that knows neither sockets nor clocks. A request passes
//!
//! ```text
//! listener     connections, TLS, limits of time and size
//! gate         Host, Origin, key, scope, quota; the audit line
//! routes       fields of each API -> scheduler::Request; events -> each API's words
//! model        the thread: submissions in, events out
//! scheduler    who computes what next                                  -> engine
//! ```
//!
//! This crate knows no disks but the files of keys, certificates and kept prompts, and no terminal: models are handed in open, and
//! what happens is told by what functions return.
#![forbid(unsafe_code)]

pub mod adapters;
mod conversation;
mod encoder;
mod error;
mod fields;
mod gate;
mod gbnf;
pub mod grammar;
pub mod keys;
mod listener;
pub mod metrics;
mod model;
mod replies;
mod routes;
pub mod scheduler;
pub mod telemetry;
mod text;
pub mod tls;
mod tools;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::watch;

pub use crate::error::{ApiError, Dialect};
pub use crate::model::{ModelInfo, ModelKind, ServedModel};
pub use crate::text::ModelText;
pub use rustls::ServerConfig;

use crate::keys::KeyRing;
use crate::metrics::Counters;

/// Opens a model by what a request calls it, which may take long. See [`ServerOptions::loader`].
pub type Loader = Box<dyn Fn(&str) -> Result<ServedModel, LoadFailure> + Send + Sync>;

/// Reads an adapter by what a request calls it, for a model of these hyperparameters. See [`ServerOptions::adapter_loader`].
pub type AdapterLoader =
    Box<dyn Fn(&str, &edgeward_model::Config) -> Result<edgeward_model::Adapter, LoadFailure> + Send + Sync>;

/// Why a model or an adapter was not loaded; the texts are for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadFailure {
    /// There is not memory enough, as things are.
    NoRoom(String),
    /// It would not be loaded at any time.
    Refused(String),
}

/// What a server can be without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The page for people.
    Page,
    /// What Prometheus reads.
    Metrics,
    /// The list of places for answers, in llama.cpp's words.
    Slots,
}

/// How a server is set up.
pub struct ServerOptions {
    /// Keys, one of which every request must have; `None` to ask for none.
    pub keys: Option<KeyRing>,
    /// Where audit lines go, one JSON object for each request.
    pub audit: Option<Box<dyn Write + Send>>,
    /// Bytes of a request, at most.
    pub max_body_bytes: usize,
    /// For an answer, from its request to its end.
    pub max_duration: Duration,
    /// Tokens of an answer where the request does not say.
    pub default_max_tokens: usize,
    /// For answers under way when the server is told to stop.
    pub grace: Duration,
    /// How other models are loaded while the server runs; `None` to load none.
    pub loader: Option<Loader>,
    /// The same of adapters.
    pub adapter_loader: Option<AdapterLoader>,
    /// Whether a request for a model that is not here is answered by the first that can.
    pub any_model_name: bool,
    /// Origins of other sites whose pages may use the server: `https://app.example`, or `localhost` for pages from this
    /// machine.
    pub allowed_origins: Vec<String>,
    /// Where spans of requests go; `None` for nowhere.
    pub telemetry: Option<telemetry::Telemetry>,
    /// What it is to be without.
    pub without: Vec<Part>,
    /// Where the request does not say; `None` for a usual one.
    pub default_temperature: Option<f32>,
    /// Where the request does not say; `None` for one by chance.
    pub default_seed: Option<u64>,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            keys: None,
            audit: None,
            max_body_bytes: 8 << 20,
            max_duration: Duration::from_secs(600),
            default_max_tokens: 2048,
            grace: Duration::from_secs(30),
            loader: None,
            adapter_loader: None,
            any_model_name: false,
            allowed_origins: Vec::new(),
            telemetry: None,
            without: Vec::new(),
            default_temperature: None,
            default_seed: None,
        }
    }
}

/// A server and its models.
pub struct Server {
    models: RwLock<Vec<Arc<ServedModel>>>,
    loader: Option<Loader>,
    adapter_loader: Option<AdapterLoader>,
    /// Held by whoever loads a model.
    loading: tokio::sync::Mutex<()>,
    keys: Option<KeyRing>,
    audit: Option<Mutex<Box<dyn Write + Send>>>,
    max_body_bytes: usize,
    max_duration: Duration,
    default_max_tokens: usize,
    grace: Duration,
    any_model_name: bool,
    allowed_origins: Vec<String>,
    telemetry: Option<telemetry::Telemetry>,
    without: Vec<Part>,
    default_temperature: Option<f32>,
    default_seed: Option<u64>,
    is_loopback: bool,
    /// Seconds since 1970.
    started_s: u64,
    is_stopping: AtomicBool,
    counters: Counters,
}

impl Server {
    /// The model of that name; the first if none is asked for.
    fn model(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        self.find(name, |_| true)
    }

    /// The model of that name, for answers; the first that answers if none is asked for.
    fn generator(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        let model = self.find(name, |model| model.info.kind == ModelKind::Generator)?;
        match model.info.kind {
            ModelKind::Generator => Ok(model),
            ModelKind::Encoder | ModelKind::Ranker => Err(model.only_encodes()),
        }
    }

    /// The model of that name, for embeddings; if none is asked for, the first that was made for them, else the first.
    fn embedder(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        let model = self.find(name, |model| model.info.kind == ModelKind::Encoder)?;
        match model.info.kind {
            ModelKind::Generator | ModelKind::Encoder => Ok(model),
            ModelKind::Ranker => Err(model.only_encodes()),
        }
    }

    /// The model of that name, for ranking; if none is asked for, the first that was made for it, else the first that was
    /// made for embeddings, else the first.
    fn ranker(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        let has_ranker = self.models().iter().any(|model| model.info.kind == ModelKind::Ranker);
        let preferred = if has_ranker { ModelKind::Ranker } else { ModelKind::Encoder };
        self.find(name, |model| model.info.kind == preferred)
    }

    /// The model of that name; if none is asked for, the first that is preferred, else the first.
    fn find(
        &self,
        name: Option<&str>,
        is_preferred: impl Fn(&ServedModel) -> bool,
    ) -> Result<Arc<ServedModel>, ApiError> {
        let models = self.models();
        let named = name.and_then(|name| models.iter().find(|model| model.info.name == name));
        let found = match name {
            Some(_) if named.is_some() || !self.any_model_name => named,
            _ => models.iter().find(|model| is_preferred(model)).or(models.first()),
        };
        found.cloned().ok_or_else(|| {
            let known: Vec<&str> = models.iter().map(|model| model.info.name.as_str()).collect();
            let message = match known.is_empty() {
                true => "there is no model here now".to_owned(),
                false => format!("there is no such model here; there is {}", known.join(", ")),
            };
            let error = ApiError { status: StatusCode::NOT_FOUND, ..ApiError::field("model", message) };
            error.code("model_not_found")
        })
    }

    /// The models, as they are now.
    fn models(&self) -> Vec<Arc<ServedModel>> {
        self.models.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Arc<ServedModel>>) -> T) -> T {
        change(&mut self.models.write().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Puts a model at the end of the list, unless there is one of its name.
    fn add(&self, model: Arc<ServedModel>) -> Result<(), ()> {
        self.change(|models| {
            if models.iter().any(|other| other.info.name == model.info.name) {
                return Err(());
            }
            models.push(model);
            Ok(())
        })
    }

    /// Takes a model off the list. It ends by itself when nobody has it any more.
    fn remove(&self, model: &Arc<ServedModel>) {
        self.change(|models| models.retain(|other| !Arc::ptr_eq(other, model)));
    }

    /// Puts a model in the place of another, if that is still there.
    fn replace(&self, old: &Arc<ServedModel>, new: Arc<ServedModel>) -> Result<(), ()> {
        self.change(|models| {
            let place = models.iter_mut().find(|model| Arc::ptr_eq(model, old)).ok_or(())?;
            *place = new;
            Ok(())
        })
    }

    /// Takes the model off the list that was unused longest, of those that have nothing to do.
    fn take_idle(&self) -> Option<Arc<ServedModel>> {
        self.change(|models| {
            let idle = models.iter().enumerate().filter(|(_, model)| model.is_idle());
            let (idx, _) = idle.min_by_key(|(_, model)| model.last_used())?;
            Some(models.remove(idx))
        })
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    fn audit(&self, entry: &serde_json::Value) {
        if let Some(audit) = &self.audit {
            let mut audit = audit.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            // A full disk must not end the service; who watches the file sees that it no longer grows.
            let _ = writeln!(audit, "{entry}").and_then(|()| audit.flush());
        }
    }
}

/// Stops a running server.
#[derive(Clone, Debug)]
pub struct StopHandle(watch::Sender<bool>);

impl StopHandle {
    /// Takes no more connections, lets answers finish, and ends.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// A server that listens, and does not answer yet.
pub struct BoundServer {
    /// At least one.
    listeners: Vec<std::net::TcpListener>,
    server: Arc<Server>,
    tls: Option<Arc<ServerConfig>>,
    stop: watch::Sender<bool>,
}

impl BoundServer {
    /// Listens at `hosts`, all at the same port (the first one's, if that is 0 and any will do), in TLS if there is a
    /// configuration for it.
    ///
    /// # Errors
    /// If an address cannot be had.
    ///
    /// # Panics
    /// If there are no hosts.
    pub fn bind(
        hosts: &[IpAddr],
        mut port: u16,
        models: Vec<Arc<ServedModel>>,
        options: ServerOptions,
        tls: Option<Arc<ServerConfig>>,
    ) -> std::io::Result<BoundServer> {
        assert!(!hosts.is_empty());
        let mut listeners = Vec::new();
        for host in hosts {
            let listener = std::net::TcpListener::bind(SocketAddr::new(*host, port)).map_err(|error| {
                std::io::Error::new(error.kind(), format!("{}: {error}", SocketAddr::new(*host, port)))
            })?;
            listener.set_nonblocking(true)?;
            port = listener.local_addr()?.port();
            listeners.push(listener);
        }
        let server = Server {
            models: RwLock::new(models),
            loader: options.loader,
            adapter_loader: options.adapter_loader,
            loading: tokio::sync::Mutex::new(()),
            keys: options.keys,
            audit: options.audit.map(Mutex::new),
            max_body_bytes: options.max_body_bytes,
            max_duration: options.max_duration,
            default_max_tokens: options.default_max_tokens,
            grace: options.grace,
            any_model_name: options.any_model_name,
            allowed_origins: options.allowed_origins,
            telemetry: options.telemetry,
            without: options.without,
            default_temperature: options.default_temperature,
            default_seed: options.default_seed,
            is_loopback: hosts.iter().all(IpAddr::is_loopback),
            started_s: routes::now_s(),
            is_stopping: AtomicBool::new(false),
            counters: Counters::default(),
        };
        Ok(BoundServer { listeners, server: Arc::new(server), tls, stop: watch::Sender::new(false) })
    }

    /// Where it listens, in the order of its hosts.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(std::net::TcpListener::local_addr).collect()
    }

    /// Stops it, from anywhere, at any time.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(self.stop.clone())
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    /// If the system gives no threads or no sockets.
    pub fn run(self) -> std::io::Result<()> {
        // The models' threads do the work; two are enough to carry words.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let server = Arc::clone(&self.server);
        runtime.block_on(async move {
            let listeners = self.listeners.into_iter().map(tokio::net::TcpListener::from_std);
            let listeners = listeners.collect::<std::io::Result<Vec<_>>>()?;
            let router = routes::router(Arc::clone(&self.server));
            let tls = self.tls.map(tokio_rustls::TlsAcceptor::from);
            let mut stop = self.stop.subscribe();
            let flag = Arc::clone(&self.server);
            tokio::spawn(async move {
                if stop.wait_for(|stop| *stop).await.is_ok() {
                    flag.is_stopping.store(true, Ordering::Relaxed);
                }
            });
            listener::serve(listeners, router, tls, self.stop.subscribe(), self.server.grace).await;
            std::io::Result::Ok(())
        })?;
        // What is still open is cut off, and cancels its requests; so the models come to an end.
        runtime.shutdown_timeout(Duration::from_secs(1));
        server.models().iter().for_each(|model| model.stop());
        if let Some(telemetry) = &server.telemetry {
            telemetry.stop();
        }
        Ok(())
    }
}
