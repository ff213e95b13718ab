//! Any bytes as an ONNX file: read or refused, and what can be made ready runs and is written, never with a panic.
#![no_main]

use edgeward_perceive::onnx::{self, Settings};
use edgeward_perceive::{Network, Options};

/// Work of one run that does not slow the fuzzer down.
const MAX_MACS: u64 = 1 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut settings = Settings::default();
    settings.inputs.insert("rate".into(), vec![16000.0]);
    let Ok(graph) = onnx::read(&bytes.into(), &settings) else { return };
    let options = Options { limit_bytes: 4 << 20, ..Options::default() };
    if let Ok(mut network) = Network::new(&graph, &options)
        && network.cost().macs < MAX_MACS
    {
        network.run();
    }
    let _ = onnx::write(&graph);
});
