//! `edgeward serve`: let other programs talk to models, by the APIs that they already speak.
//!
//! The address goes to standard output when requests are answered, so that a script can wait for it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgeward_engine::{Adapter, Encoder, Isa, PAGE_LEN};
use edgeward_model::chat::ChatTemplate;
use edgeward_model::encoder::EncoderSlot;
use edgeward_model::inspect::MemoryEstimate;
use edgeward_model::{EncoderModel, Model};
use edgeward_serve::keys::{KeyFile, KeyRing};
use edgeward_serve::scheduler::Limits;
use edgeward_serve::scheduler::disk::{self, DiskCache};
use edgeward_serve::telemetry::Telemetry;
use edgeward_serve::{
    AdapterLoader, BoundServer, LoadFailure, Loader, ModelInfo, ModelKind, ModelText, Part, ServedModel,
    ServerConfig, ServerOptions, tls,
};
use serde_json::{Map, Value};

use crate::Outcome;
use crate::device;
use crate::engine_args::{self, EngineArgs, LoraArg};
use crate::output;
use crate::store::{Progress, Store, Verbosity, human_bytes};

/// Shares of the memory that is free at the start: for keys and values of requests under way, and of those to come.
const KV_SHARE: u64 = 4;
const CACHE_SHARE: u64 = 16;

/// Serve models over HTTP, by the APIs that other programs speak
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward serve smollm2-135m
  edgeward serve smollm2-135m gemma3-270m --port 9000
  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}]}'
  edgeward keys add phone && edgeward serve smollm2-135m --host 0.0.0.0 --tls-name kitchen.lan

Endpoints: OpenAI's /v1/chat/completions, /v1/completions,
/v1/responses, /v1/embeddings and /v1/models; Anthropic's /v1/messages; Ollama's /api/chat, /api/generate, /api/embed
and /api/tags; llama.cpp's /completion, /embedding and others; /v1/rerank, /tokenize, /detokenize, /health, /ready,
/metrics; and for people, / in a browser. Ctrl-C lets answers under way finish; a second one does not.
Only this machine is served, unless --host says otherwise; others then need a key, and TLS.
Options may also come from the environment, as EDGEWARD_SERVE_PORT, or from a file: see --config.")]
pub struct Args {
    /// Names, hf:org/repo[/file.gguf] or paths; pulled first if they are not here. The first is the default. A folder of
    /// a BERT encoder, as sentence-transformers saves it, serves embeddings, or ranking if it is a cross-encoder
    models: Vec<String>,
    /// Take options that are not given here from this TOML file, by the same names: `port = 9000`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen at (may be given several times, as 127.0.0.1 and ::1)
    #[arg(long, value_name = "ADDRESS", default_values_t = [IpAddr::V4(Ipv4Addr::LOCALHOST)])]
    host: Vec<IpAddr>,
    /// Port to listen at; 0 for any that is free
    #[arg(long, short, default_value_t = 8080)]
    port: u16,
    /// Answers computed at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=Limits::MAX_ACTIVE as i64))]
    parallel: u16,
    /// Requests that may wait beyond those; more are told to come back later
    #[arg(long, default_value_t = 64)]
    queue: usize,
    /// Memory for keys and values of requests under way, MiB [default: a quarter of what is free]
    #[arg(long, value_name = "MIB")]
    kv_memory: Option<u64>,
    /// Memory for keys and values of prompts that may come again, MiB [default: a sixteenth of what is free]
    #[arg(long, value_name = "MIB")]
    cache_memory: Option<u64>,
    /// Keep computed prompts in this folder, encrypted, so that they need not be computed again after a restart; a page of 64
    /// tokens is a file, so mind what it writes [default: nowhere]
    #[arg(long, value_name = "DIR")]
    disk_cache: Option<PathBuf>,
    /// Size of these files, for each model, at most, MiB
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    disk_cache_size: u32,
    /// Tokens of an answer where the request does not say
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Seconds for an answer, at most
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Size of a request, at most, KiB
    #[arg(long, default_value_t = 8192, value_name = "KIB", value_parser = clap::value_parser!(u32).range(1..))]
    max_body: u32,
    /// How conversations are written for the models: chatml, llama3, gemma, mistral, or a file with a template
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Variables of the chat template where a request has no others, as '{"enable_thinking": false}' for models that would think
    /// before each answer
    #[arg(long, value_name = "JSON", value_parser = json_object, default_value = "{}", hide_default_value = true)]
    chat_template_kwargs: Map<String, Value>,
    /// Serve without this (may be given several times)
    #[arg(long, value_name = "PART")]
    without: Vec<PartArg>,
    /// Ask for a key even on this machine; see `edgeward keys`
    #[arg(long)]
    require_keys: bool,
    /// Serve the network without encryption, and without keys if there are none
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_name"])]
    insecure: bool,
    /// Encrypt with this certificate, a file in PEM format
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Encrypt with a certificate of this machine's own authority, also for this name (may be given several times)
    #[arg(long, value_name = "NAME", conflicts_with = "tls_cert")]
    tls_name: Vec<String>,
    /// Add this LoRA adapter to the first model, a GGUF file or a folder of peft's, perhaps not at its full strength (may be
    /// given several times); a request may ask for others of them, or for none, with `lora`
    #[arg(long, value_name = "FILE[=SCALE]")]
    lora: Vec<LoraArg>,
    /// Let requests load, swap and unload models and adapters (/admin/models/load, swap, unload; /admin/adapters/load, unload),
    /// with a key of the scope admin where keys are asked for
    #[arg(long)]
    allow_load: bool,
    /// Keep whole answers for requests that ask the same again, where nothing is left to chance (temperature 0, or a seed):
    /// so many MiB for each model [default: none]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "MIB")]
    response_cache: u32,
    /// Answer requests for models that are not here by the first that can, and not by an error
    #[arg(long)]
    any_model_name: bool,
    /// Let pages of another site use the server, such as https://app.example, or localhost for pages from this machine (may
    /// be given several times)
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    allow_origin: Vec<String>,
    /// Temperature where a request does not say
    #[arg(long, value_name = "T", value_parser = temperature)]
    temperature: Option<f32>,
    /// Seed where a request does not say; the same question then has the same answer [default: chance]
    #[arg(long)]
    seed: Option<u64>,
    /// Append a line for each request to this file: who, what, how much; never what was said
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Send a span of each request to this OpenTelemetry collector, as http://127.0.0.1:4318: who, what, how much, how long;
    /// never what was said
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What a server can be without.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PartArg {
    /// The page for people
    Page,
    /// What Prometheus reads, /metrics
    Metrics,
    /// The list of places for answers, /slots
    Slots,
}

impl From<PartArg> for Part {
    fn from(part: PartArg) -> Part {
        match part {
            PartArg::Page => Part::Page,
            PartArg::Metrics => Part::Metrics,
            PartArg::Slots => Part::Slots,
        }
    }
}

/// Runs the command.
pub fn run(args: Args, verbosity: Verbosity) -> Outcome {
    let args = Arc::new(args);
    let mut progress = Progress::new(verbosity);
    if args.models.is_empty() {
        return Err("name a model to serve: `edgeward models --all` lists some".into());
    }
    // What is wrong with the arguments is said before a model is fetched.
    let keys = keys(&args)?;
    let tls = tls(&args, &progress)?;
    let template = args.chat_template.as_deref().map(template_source).transpose()?;
    let audit = args.audit.as_deref().map(open_audit).transpose()?;
    let telemetry = args.otlp_endpoint.as_deref().map(Telemetry::new).transpose()?;
    let mut models: Vec<Arc<ServedModel>> = Vec::new();
    for name in &args.models {
        let model = start_model(&args, name, template.as_deref(), &mut progress)?;
        if models.iter().any(|other| other.info.name == model.info.name) {
            return Err(format!("two models would be called {}: serve one of them", model.info.name).into());
        }
        models.push(Arc::new(model));
    }
    if let Some(first) = models.first() {
        add_adapters(&args.lora, first)?;
    }
    let options = ServerOptions {
        keys,
        audit,
        max_body_bytes: (args.max_body as usize) << 10,
        max_duration: Duration::from_secs(args.timeout),
        default_max_tokens: args.max_tokens as usize,
        loader: args.allow_load.then(|| loader(&args, template, verbosity)),
        adapter_loader: args.allow_load.then(adapter_loader),
        telemetry,
        without: args.without.iter().map(|part| Part::from(*part)).collect(),
        any_model_name: args.any_model_name,
        allowed_origins: args.allow_origin.clone(),
        default_temperature: args.temperature,
        default_seed: args.seed,
        ..ServerOptions::default()
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let server = BoundServer::bind(&args.host, args.port, models, options, tls)
        .map_err(|error| format!("cannot listen at {error}; choose another port with --port"))?;
    let stop = server.stop_handle();
    let mut is_second = false;
    ctrlc::set_handler(move || {
        if std::mem::replace(&mut is_second, true) {
            std::process::exit(130);
        }
        stop.stop();
    })?;
    for address in server.addresses()? {
        output::print_line(&format!("{scheme}://{address}"))?;
    }
    progress.note("Serving; Ctrl-C ends.");
    server.run()?;
    Ok(())
}

/// An origin as browsers write it.
fn origin(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or(text.strip_prefix("https://"));
    let is_plain =
        |authority: &str| !authority.is_empty() && !authority.contains(['/', '*', ' ', '?', '#', '@']);
    match text == "localhost" || rest.is_some_and(is_plain) {
        true => Ok(text.to_ascii_lowercase()),
        false => {
            Err("an origin is http:// or https://, a host and perhaps a port, or the word localhost".into())
        }
    }
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("this must be a JSON object: {error}"))
}

fn temperature(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "this must be a number from 0 to 100".into())
}

/// Whether only this machine can reach the server.
fn is_loopback(args: &Args) -> bool {
    args.host.iter().all(IpAddr::is_loopback)
}

/// The keys that requests must have, if they must: always where others can reach the server.
fn keys(args: &Args) -> Result<Option<KeyRing>, Box<dyn std::error::Error>> {
    let ring = KeyRing::open(KeyFile::new(Store::open()?.keys_path()))?;
    let is_open = is_loopback(args) && !args.require_keys;
    if is_open || (args.insecure && ring.is_empty() && !args.require_keys) {
        return Ok(None);
    }
    if ring.is_empty() {
        return Err("there is no key yet: make one with `edgeward keys add NAME`".into());
    }
    Ok(Some(ring))
}

/// Encryption, if it is asked for, and always where others can reach the server.
fn tls(args: &Args, progress: &Progress) -> Result<Option<Arc<ServerConfig>>, Box<dyn std::error::Error>> {
    if let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) {
        return Ok(Some(tls::given(certificate, key)?));
    }
    if args.insecure || (is_loopback(args) && args.tls_name.is_empty()) {
        return Ok(None);
    }
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(args.host.iter().filter(|host| !host.is_unspecified()).map(IpAddr::to_string));
    names.extend(args.tls_name.iter().cloned());
    let (config, authority) = tls::own(&Store::open()?.tls_dir(), &names)?;
    progress.note(&format!("Clients must trust the authority in {}", authority.display()));
    Ok(Some(config))
}

/// The text of a template of our own, or of a file.
fn template_source(name: &str) -> Result<String, Box<dyn std::error::Error>> {
    if ChatTemplate::BUILTIN_NAMES.contains(&name) {
        return Ok(name.to_owned());
    }
    let source = std::fs::read_to_string(name).map_err(|error| {
        let known = ChatTemplate::BUILTIN_NAMES.join(", ");
        format!("could not read the chat template {name}: {error}; those with names are {known}")
    })?;
    ChatTemplate::new(&source)?;
    Ok(source)
}

fn template(source: &str) -> Result<ChatTemplate, Box<dyn std::error::Error>> {
    Ok(match ChatTemplate::builtin(source) {
        Some(template) => template,
        None => ChatTemplate::new(source)?,
    })
}

fn open_audit(path: &Path) -> Result<Box<dyn Write + Send>, Box<dyn std::error::Error>> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    Ok(Box::new(file.map_err(|error| format!("could not write to {}: {error}", path.display()))?))
}

/// Gives a model the adapters of the command line, whose ids are their places there.
fn add_adapters(args: &[LoraArg], model: &ServedModel) -> Outcome {
    for arg in args {
        let config =
            model.config().ok_or("a model that makes vectors takes no adapters: leave out --lora")?;
        let file = edgeward_model::Adapter::load(&arg.path, config)?;
        let name = arg.path.file_name().unwrap_or(arg.path.as_os_str()).to_string_lossy().into_owned();
        let adapter = Arc::new(Adapter::new(&file));
        model.adapters.add(name, arg.scale, adapter).ok_or("a model has at most 64 adapters: name fewer")?;
    }
    Ok(())
}

/// Reads adapters on request.
fn adapter_loader() -> AdapterLoader {
    Box::new(|reference, config| {
        edgeward_model::Adapter::load(Path::new(reference), config).map_err(|error| refused(error.into()))
    })
}

/// Why something was not loaded, with its causes.
fn refused(error: Box<dyn std::error::Error>) -> LoadFailure {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    LoadFailure::Refused(text)
}

/// Loads models on request, if there is memory for their weights.
fn loader(args: &Arc<Args>, template: Option<String>, verbosity: Verbosity) -> Loader {
    let args = Arc::clone(args);
    Box::new(move |name| {
        let mut progress = Progress::new(verbosity);
        let path = Store::open().and_then(|store| store.resolve(name, &mut progress));
        let path = path.map_err(|error| refused(error.into()))?;
        // An encoder's weights stay in their file.
        if EncoderModel::is_at(&path) {
            return start_encoder(&args, name, &path).map_err(refused);
        }
        let model = Arc::new(Model::load(&path).map_err(|error| refused(error.into()))?);
        let kv_type = engine_args::kv_type(args.engine.kv, model.gguf());
        let budget = engine_args::budget(Some(PAGE_LEN), kv_type);
        let estimate = MemoryEstimate::new(model.config(), model.file_bytes(), &budget);
        if let (Some(false), Some(free_bytes)) = (estimate.fits, estimate.available_bytes) {
            return Err(LoadFailure::NoRoom(format!(
                "the model needs {} of memory and {} are free: unload another, or let `make_room` do it",
                human_bytes(estimate.total_bytes),
                human_bytes(free_bytes)
            )));
        }
        start_generator(&args, name, &model, template.as_deref(), &mut progress).map_err(refused)
    })
}

fn start_model(
    args: &Args,
    name: &str,
    template_source: Option<&str>,
    progress: &mut Progress,
) -> Result<ServedModel, Box<dyn std::error::Error>> {
    let path = Store::open()?.resolve(name, progress)?;
    if EncoderModel::is_at(&path) {
        return start_encoder(args, name, &path);
    }
    start_generator(args, name, &Arc::new(Model::load(&path)?), template_source, progress)
}

/// A model that answers.
fn start_generator(
    args: &Args,
    name: &str,
    model: &Arc<Model>,
    template_source: Option<&str>,
    progress: &mut Progress,
) -> Result<ServedModel, Box<dyn std::error::Error>> {
    let text = ModelText::new(model, template_source.map(template).transpose()?)?
        .with_variables(args.chat_template_kwargs.clone());
    let engine = args.engine.engine(model, progress)?;
    let config = model.config();
    let (n_params, quantization) = weights(model);
    let info = ModelInfo {
        name: public_name(name),
        file_name: file_name(model.path()),
        n_params,
        quantization,
        context_len: engine.context_len(),
        vocab_size: config.vocab_size,
        hidden_dim: config.hidden_dim,
        file_bytes: model.file_bytes(),
        family: format!("{:?}", config.family).to_lowercase(),
        kind: ModelKind::Generator,
        loaded_s: now_s(),
    };
    let share = |mib: Option<u64>, share: u64| {
        let free_bytes = device::memory().map_or(1 << 30, |memory| memory.available_bytes);
        let bytes = mib.map_or(free_bytes / share / args.models.len() as u64, |mib| mib << 20);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    };
    let limits = Limits {
        max_active: usize::from(args.parallel),
        max_waiting: args.queue,
        kv_bytes: share(args.kv_memory, KV_SHARE),
        cache_bytes: share(args.cache_memory, CACHE_SHARE),
        reply_bytes: (args.response_cache as usize) << 20,
    };
    let disk = match &args.disk_cache {
        None => None,
        Some(dir) => {
            let page_bytes = engine.kv_bytes(1);
            let room = (page_bytes, limits.cache_bytes / page_bytes);
            let max_bytes = u64::from(args.disk_cache_size) << 20;
            let key_path = Store::open()?.cache_key_path();
            Some(DiskCache::open(dir, &key_path, disk::model_id(model, &engine), max_bytes, room)?)
        }
    };
    Ok(ServedModel::start(info, text, engine, limits, disk)?)
}

/// A model that makes vectors of texts.
fn start_encoder(args: &Args, name: &str, path: &Path) -> Result<ServedModel, Box<dyn std::error::Error>> {
    let model = Arc::new(EncoderModel::load(path)?);
    let text = ModelText::of_encoder(&model)?;
    let encoder = Encoder::new(
        &model,
        args.engine.threads.map_or_else(device::n_logical_cores, usize::from),
        Isa::best(),
    )?;
    let config = encoder.config();
    let (n_params, quantization) = match model.tensor(EncoderSlot::TokenEmbedding) {
        // All are of one type, and the files are made of little else.
        Some(tensor) => {
            let bytes_each = tensor.data.len() / (tensor.n_rows * tensor.n_cols);
            (model.file_bytes() / bytes_each as u64, tensor.dtype.name().to_owned())
        }
        None => (0, String::new()),
    };
    let info = ModelInfo {
        name: public_name(name),
        file_name: file_name(path),
        n_params,
        quantization,
        context_len: config.max_tokens,
        vocab_size: config.vocab_size,
        hidden_dim: config.hidden_dim,
        file_bytes: model.file_bytes(),
        family: "bert".to_owned(),
        kind: if config.score.is_some() { ModelKind::Ranker } else { ModelKind::Encoder },
        loaded_s: now_s(),
    };
    Ok(ServedModel::start_encoder(info, text, encoder, args.queue)?)
}

/// How many numbers a model is made of, and the type that most bytes of them have.
fn weights(model: &Model) -> (u64, String) {
    let mut n_params = 0;
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, tensor) in model.tensors() {
        n_params += (tensor.n_rows * tensor.n_cols) as u64;
        *bytes.entry(tensor.dtype.name()).or_default() += tensor.data.len();
    }
    let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes);
    (n_params, most.map_or_else(String::new, |(name, _)| name.to_owned()))
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// What clients call a model: a path is nobody's business, but its last part is a name.
fn public_name(reference: &str) -> String {
    if reference.starts_with("hf:") {
        return reference.to_owned();
    }
    let path = Path::new(reference);
    let name = match path.extension() {
        Some(extension) if extension == "gguf" => path.file_stem(),
        _ => path.file_name(),
    };
    name.map_or(reference.to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_clients() {
        for (reference, name) in [
            ("smollm2-135m", "smollm2-135m"),
            ("hf:org/repo", "hf:org/repo"),
            ("/models/a.b.gguf", "a.b"),
            ("./folder/", "folder"),
            ("qwen2.5-0.5b", "qwen2.5-0.5b"),
        ] {
            assert_eq!(public_name(reference), name);
        }
    }
}
