//! Element types, quantised blocks, arithmetic on them (scalar and SIMD) and the thread pool.
//!
//! This crate knows neither files nor models. It is the only crate with SIMD `unsafe`.

pub mod dtype;

pub use dtype::DType;
