//! Any bytes as a request to a server with a tiny model: an answer or an error that names what is wrong, never a panic, and
//! never "500".
//!
//! The first byte chooses an endpoint, whose JSON the rest is; the highest ones, that the rest is sent as it is, head and all.
#![no_main]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use edgeward_engine::{Encoder, Engine, EngineOptions, Isa};
use edgeward_model::{EncoderModel, Model};
use edgeward_serve::scheduler::Limits;
use edgeward_serve::{BoundServer, ModelInfo, ModelKind, ModelText, ServedModel, ServerOptions};

const PATHS: [&str; 18] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/show",
    "/tokenize",
    "/detokenize",
    "/completion",
    "/embedding",
    "/rerank",
    "/apply-template",
    "/chat/completions/input_tokens",
];
/// First bytes from here on: the rest is the whole request.
const RAW: u8 = 240;
/// Short, so that an answer is soon at its end.
const CONTEXT_LEN: usize = 96;

fn info(name: &str, kind: ModelKind, vocab_size: usize, hidden_dim: usize) -> ModelInfo {
    ModelInfo {
        name: name.into(),
        context_len: CONTEXT_LEN,
        vocab_size,
        hidden_dim,
        kind,
        ..ModelInfo::default()
    }
}

fn start() -> SocketAddr {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata");
    let model = Arc::new(Model::load(&testdata.join("tiny/llama.gguf")).unwrap());
    let options = EngineOptions { n_threads: 1, context_len: CONTEXT_LEN, ..EngineOptions::default() };
    let engine = Engine::new(&model, options).unwrap();
    let config = model.config();
    let llama = ServedModel::start(
        info("llama", ModelKind::Generator, config.vocab_size, config.hidden_dim),
        ModelText::new(&model, None).unwrap(),
        engine,
        Limits::default(),
        None,
    );
    let model = Arc::new(EncoderModel::load(&testdata.join("encoder/mean")).unwrap());
    let encoder = Encoder::new(&model, 1, Isa::best()).unwrap();
    let config = model.config();
    let bert = ServedModel::start_encoder(
        info("bert", ModelKind::Encoder, config.vocab_size, config.hidden_dim),
        ModelText::of_encoder(&model).unwrap(),
        encoder,
        64,
    );
    let models = vec![Arc::new(llama.unwrap()), Arc::new(bert.unwrap())];
    let options = ServerOptions::default();
    let server = BoundServer::bind(&[Ipv4Addr::LOCALHOST.into()], 0, models, options, None).unwrap();
    let address = server.addresses().unwrap()[0];
    std::thread::spawn(move || server.run());
    address
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    let address = *SERVER.get_or_init(start);
    let Some((&choice, rest)) = bytes.split_first() else { return };
    let mut request = Vec::new();
    if choice < RAW {
        let path = PATHS[usize::from(choice) % PATHS.len()];
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            rest.len()
        );
        request.extend_from_slice(head.as_bytes());
    }
    request.extend_from_slice(rest);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server may close before it has read all.
    let _ = stream.write_all(&request);
    if choice >= RAW {
        // So that it need not wait for more. A whole request is not closed: who closes before the answer wants none.
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(error.kind() == std::io::ErrorKind::ConnectionReset, "no end: {error}");
    }
    let head = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
    if choice < RAW {
        assert!(head.starts_with("HTTP/1.1 "), "no answer: {head:?}");
    }
    assert!(!head.starts_with("HTTP/1.1 5") || head.ends_with("503"), "{}", String::from_utf8_lossy(&answer));
});
