//! Model in, smaller model and report out. This crate knows neither devices nor keys.
//!
//! - [`compress`] rounds a model's matrices to chosen types with the care that [`rounding`] takes, on calibration text
//!   whose second moments [`hessian`] holds.
//! - [`eval`] measures: perplexity, and how far a model has moved from its teacher; [`tasks`] scores questions.
//! - [`teacher`] makes a float model to test with, of a quantised one.
#![forbid(unsafe_code)]

pub mod compress;
mod error;
pub mod eval;
pub mod hessian;
pub mod rounding;
pub mod tasks;
pub mod teacher;

pub use error::Error;
