//! Model files: GGUF and safetensors in and out, configuration, tokenizer, chat template.
//!
//! This crate does not know how a model is computed.
#![deny(unsafe_code)]

pub mod chat;
pub mod config;
pub mod tensor;
pub mod tokenizer;
