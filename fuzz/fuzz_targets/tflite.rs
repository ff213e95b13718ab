//! Any bytes as a TFLite file: read or refused, and what can be made ready runs and is written, never with a panic.
#![no_main]

use edgeward_perceive::{Arithmetic, Network, Options, onnx, tflite};

/// Work of one run that does not slow the fuzzer down.
const MAX_MACS: u64 = 1 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(graph) = tflite::read(bytes.into()) else { return };
    for arithmetic in [Arithmetic::Xnnpack, Arithmetic::Reference] {
        let options = Options { arithmetic, limit_bytes: 4 << 20, ..Options::default() };
        if let Ok(mut network) = Network::new(&graph, &options)
            && network.cost().macs < MAX_MACS
        {
            network.run();
        }
    }
    let _ = onnx::write(&graph);
});
