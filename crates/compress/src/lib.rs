//! Model in, smaller model and report out. This crate knows neither devices nor keys.
//!
//! - [`eval`] measures: perplexity, and how far a model has moved from its teacher; [`tasks`] scores questions.
//! - [`teacher`] makes a float model to test with, of a quantised one.
#![forbid(unsafe_code)]

mod error;
pub mod hessian;
pub mod rounding;
pub mod eval;
pub mod tasks;
pub mod teacher;

pub use error::Error;
