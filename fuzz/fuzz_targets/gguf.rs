//! Any bytes as a GGUF file: read or refused, never a panic.
#![no_main]

#[path = "../../crates/model/tests/reading/mod.rs"]
#[allow(dead_code)] // The other reader's half.
mod reading;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reading::read_gguf(bytes.to_vec()));
