//! The forward pass: token ids in, token ids out. This crate knows neither text nor HTTP.
//!
//! - [`Engine`] holds a model's weights, ready to compute, and the threads.
//! - A [`Sequence`] is what has been computed for one run of tokens; sequences with the same beginning share it.
//! - [`Engine::restore_page`] appends keys and values that were computed before and kept elsewhere.
//! - [`Engine::prefill`] appends many tokens to one sequence, [`Engine::decode`] one token to each of many,
//!   [`Engine::score`] gives the logits of every position, [`Engine::step`] mixes them all in one pass.
//! - [`Engine::embed`], [`Engine::run_layer`] and [`Engine::logits`] are the same pass layer by layer, for whoever
//!   watches the inputs of matrices or changes weights in between.
//! - An [`Adapter`] changes what a model computes for the sequences that [ask for it](Engine::new_adapted_sequence).
//! - An [`Encoder`] is the pass of another kind of network, which makes one vector of each text.
//! - A [`Sampler`] chooses tokens from logits; a [`Generator`] does all of it until a stop.
//!
//! Logits depend on a sequence's tokens alone: neither on how they were cut into calls, nor on the other sequences
//! of a batch, nor on the number of threads or the instruction set.
#![forbid(unsafe_code)]

mod adapter;
mod encoder;
mod engine;
mod error;
mod generator;
mod rope;
mod sampler;
mod sequence;
mod weights;

pub use edgeward_kernels::Isa;
pub use edgeward_kernels::kv::{KvPage, KvType, PAGE_LEN};

pub use adapter::{Adapter, Adapters};
pub use encoder::Encoder;
pub use engine::{CancelToken, Engine, EngineOptions, Logits, MatrixInput, Precision, StepPart};
pub use error::Error;
pub use generator::{Generator, GeneratorOptions, StopReason};
pub use sampler::{Sampled, Sampler, SamplerOptions, log_probability, top_log_probabilities};
pub use sequence::Sequence;
