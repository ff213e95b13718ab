//! Element types, quantised blocks, arithmetic on them (scalar and SIMD) and the thread pool.
//!
//! This crate knows neither files nor models. It is the only crate with SIMD `unsafe`.
//!
//! - [`DType`] names the element types; [`dequantize`] widens them.
//! - [`PackedMatrix`] lays quantised weights out for the register tile, [`linear`] multiplies them with
//!   [`Activations`], on the threads of a [`Pool`].
//! - [`Isa`] is the instruction set to use, chosen at run time; results do not depend on it.

// An array of registers is indexed: with an iterator in between, the compiler may fail to keep it in registers.
#![allow(clippy::needless_range_loop)]

pub mod acts;
pub mod attention;
pub mod block;
pub mod dtype;
pub mod isa;
pub mod kv;
pub mod linear;
pub mod math;
pub mod memory;
pub mod net;
pub mod packed;
pub mod pool;
pub mod probe;

pub use acts::Form;
pub use block::dequantize;
pub use dtype::DType;
pub use isa::{Isa, Vectorized};
pub use linear::{Activations, FloatMatrix, Linear, Matrix, Mode, SharedBytes, gated_linear, linear};
pub use memory::Buffer;
pub use packed::{PackError, PackedMatrix};
pub use pool::Pool;
