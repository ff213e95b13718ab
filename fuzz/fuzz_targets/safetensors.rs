//! Any bytes as a safetensors file: read or refused, never a panic.
#![no_main]

#[path = "../../crates/model/tests/reading/mod.rs"]
#[allow(dead_code)] // The other reader's half.
mod reading;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reading::read_safetensors(bytes.to_vec()));
