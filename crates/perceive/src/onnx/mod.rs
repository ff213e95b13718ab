//! ONNX files into the same graph as TFLite's, and back.
//!
//! Source: the operators' definitions of ONNX (onnx.ai/onnx/operators), versions 1 to 21. Shapes are fixed while reading:
//! whatever a shape is computed from must be known then, by the file or by [`Settings`]. Integers and truth values that are
//! known are computed while reading, so branches (`If`) are chosen there, too; while the network runs there are floats, and
//! bytes where it is quantised. Integers that are given then are floats, and truth values 1 and 0: whole numbers up to 2^24
//! are exact, beyond that nothing is promised. What each is in the file, its [`Item`](builder::Item) remembers.
//!
//! ONNX has channels before rows and columns, the kernels have them last. Each convolution is put between two
//! transpositions, and the tensor with channels last is remembered as the [`twin`](builder::Builder) of the one that the
//! file means: what follows element by element works on the twin, and transpositions that nobody needs are dropped.
//!
//! Quantised networks come in two forms. `QLinearConv` and its like are eight-bit layers. `DequantizeLinear`, a layer on
//! floats, `QuantizeLinear` mean the same where the layer is a convolution, a product or a sum, and become one; elsewhere
//! they are computed as they stand. ONNX's uint8 is kept as int8, 128 less.

mod builder;
mod convolution;
mod fold;
mod model;
mod operators;
mod protobuf;
mod quantized;
#[cfg(test)]
mod tests;
mod write;

pub use write::{write, write_with_metadata};

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Error;
use crate::graph::Graph;

/// What a file leaves open.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Sizes of dimensions that have a name only; others that are unknown are 1.
    pub dims: HashMap<String, usize>,
    /// Values of inputs that are no inputs of the graph, but known beforehand: a sample rate, a shape.
    pub inputs: HashMap<String, Vec<f64>>,
}

/// Operators that are read, by ONNX's names.
pub use operators::OPERATORS;

/// Reads a network.
///
/// # Errors
/// What is no ONNX file, or a damaged one, is malformed; what cannot be computed is refused by name.
pub fn read(file: &Arc<[u8]>, settings: &Settings) -> Result<Graph, Error> {
    let (graph, opset) = model::read(file)?;
    builder::Builder::new(opset, settings).build(&graph)
}

/// The text that the file keeps under `name` in its metadata; `None` if there is none.
///
/// # Errors
/// If the file is damaged.
pub fn metadata(file: &[u8], name: &str) -> Result<Option<String>, Error> {
    let damaged = |damage: String| Error::malformed("metadata", damage);
    let entries = model::metadata(file).map_err(damaged)?;
    Ok(entries.into_iter().find_map(|(key, text)| (key == name).then_some(text)))
}

/// Bytes of the file without its metadata.
///
/// # Errors
/// If the file is damaged.
pub fn size_without_metadata(file: &[u8]) -> Result<u64, Error> {
    let size_bytes = model::size_without_metadata(file);
    size_bytes.map_err(|damage| Error::malformed("file", damage))
}
