//! Model files: GGUF and safetensors in and out, configuration, tokenizer, chat template.
//!
//! [`Model::load`] opens a model, whatever its format: a [`Config`] in the field's words and [`Tensor`]s by their
//! [`Slot`] in the network, viewed where the file is mapped. [`gguf`] and [`safetensors`] read (and the first writes)
//! the formats themselves, [`inspect`] describes a model without running it, and [`Model::source`] leads to what the
//! tokenizer and the chat template are made from. [`encoder`] opens models that make one vector of a text, [`adapter`]
//! what is to be added to a model's matrices. This crate does not know how a model is computed.
#![deny(unsafe_code)]

pub mod adapter;
pub mod chat;
pub mod config;
pub mod encoder;
mod error;
#[cfg(test)]
mod fixture;
pub mod gguf;
mod huggingface;
pub mod inspect;
pub mod layout;
pub mod mmap;
mod model;
pub mod safetensors;
pub mod tensor;
mod text;
pub mod tokenizer;

pub use adapter::{Adapter, AdapterError};
pub use config::Config;
pub use encoder::{EncoderConfig, EncoderModel};
pub use error::{ConfigError, LoadError};
pub use model::{Model, Source, TensorBytes};
pub use tensor::{LayerSlot, Slot, Tensor};
pub use text::TextError;
