//! Model in, smaller model and report out. This crate knows neither devices nor keys.
//!
//! - [`compress`] rounds a model's matrices to chosen types with the care that [`rounding`] takes, on calibration text
//!   whose second moments [`hessian`] holds.
//! - [`search`] measures what each type costs at each matrix and solves for a budget ([`knapsack`]).
//! - [`correct`] finds out on a result what the sum of measured losses missed, for a second search.
//! - [`prune`] leaves layers, neurons and heads out, and solves what remains anew.
//! - [`vocabulary`] keeps the tokens that a language or a domain needs, and drops the others' rows.
//! - A [`certificate`] says in the file what was done and what was lost.
//! - [`eval`] measures: perplexity, and how far a model has moved from its teacher; [`tasks`] scores questions.
//! - [`networks`] brings small networks for images, sounds and sensors to eight bits.
//! - [`teacher`] makes a float model to test with, of a quantised one.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod compress;
pub mod correct;
mod equalize;
mod error;
pub mod eval;
pub mod hessian;
pub mod knapsack;
pub mod networks;
pub mod prune;
pub mod rounding;
pub mod search;
pub mod tasks;
pub mod teacher;
pub mod vocabulary;

pub use error::Error;
