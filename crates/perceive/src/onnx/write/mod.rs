//! A graph as an ONNX file.
//!
//! Images are `[n, rows, columns, channels]` in the graph, and channels first in ONNX's convolutions and pools. So a tensor of
//! four dimensions has up to two [layouts](Layout) in the file: the second is made, by a transposition, when a node first
//! wants it. What works element by element takes the layout that is there, so that an ordinary network is transposed once, at
//! its beginning. Inputs and outputs have the graph's names, types and shapes.
//!
//! Eight bits are written as `QuantizeLinear` and `DequantizeLinear` around operators on floats, which runtimes take together
//! as operators on bytes; what only changes places works on bytes themselves. Layers of floats with weights of bytes are
//! layers of floats whose weights are dequantised: the rounding of their inputs, image by image, ONNX cannot say.
//!
//! What ONNX has no operator for is refused by name.

mod elements;
mod file;
mod layers;
mod places;
mod values;

use std::collections::HashMap;

use self::file::{Attribute, File, Port};
use self::values::{Layout, Value};
use super::model::kind;
use crate::error::Error;
use crate::graph::{ElementType, Graph, Node, Op, Tensor, TensorId};

/// Writes `graph`.
///
/// # Errors
/// If ONNX has no operator for a node, or it would be larger than Protocol Buffers can be (2 GiB).
pub fn write(graph: &Graph) -> Result<Vec<u8>, Error> {
    write_with_metadata(graph, &[])
}

/// Writes `graph`, and texts that a reader finds by their names ([`super::metadata`]); runtimes pass over them.
///
/// # Errors
/// As [`write()`].
pub fn write_with_metadata(graph: &Graph, metadata: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let mut writer = Writer {
        graph,
        file: File::default(),
        values: vec![Value::default(); graph.tensors.len()],
        constants: HashMap::new(),
        place: String::new(),
        wanted: String::new(),
    };
    let inputs = writer.ports(&graph.inputs);
    for (id, port) in graph.inputs.iter().zip(&inputs) {
        writer.values[*id].set(Layout::Last, port.name.clone());
    }
    // Before anything else takes their names.
    let outputs = writer.ports(&graph.outputs);
    for (idx, node) in graph.nodes.iter().enumerate() {
        writer.place = format!("operator {idx} ({})", node.op.name());
        writer.node(node)?;
    }
    writer.outputs(&outputs)?;
    writer.file.finish([&inputs, &outputs], metadata)
}

/// A file in the making, and what is in it of the graph.
struct Writer<'g> {
    graph: &'g Graph,
    file: File,
    /// For each tensor of the graph, its names.
    values: Vec<Value>,
    /// Names of constants, by tensor, dimensions and their order.
    constants: HashMap<(TensorId, Vec<usize>, Vec<usize>), String>,
    /// The node at hand, for errors.
    place: String,
    /// The name for what it computes.
    wanted: String,
}

impl<'g> Writer<'g> {
    fn tensor(&self, id: TensorId) -> &'g Tensor {
        &self.graph.tensors[id]
    }

    fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::unsupported(&self.place, what)
    }

    fn malformed(&self, what: impl Into<String>) -> Error {
        Error::malformed(&self.place, what)
    }

    /// Inputs or outputs.
    fn ports(&mut self, ids: &[TensorId]) -> Vec<Port> {
        let port = |id: &TensorId| {
            let tensor = self.tensor(*id);
            let kind = match tensor.element_type {
                ElementType::F32 => kind::FLOAT,
                ElementType::I8 => kind::INT8,
                ElementType::I32 => kind::INT32,
            };
            Port { name: self.file.name(&tensor.name), kind, shape: tensor.shape.clone() }
        };
        ids.iter().map(port).collect()
    }

    /// Lets what was computed have the names of the outputs.
    fn outputs(&mut self, ports: &[Port]) -> Result<(), Error> {
        let mut names = HashMap::new();
        for (id, port) in self.graph.outputs.iter().zip(ports) {
            self.place = format!("output {}", port.name);
            let name = self.own(*id, Layout::Last)?;
            if self.file.is_computed(&name) && !names.contains_key(&name) {
                names.insert(name, port.name.clone());
            } else {
                // An input, a constant, or another output.
                self.file.node_with("Identity", &[&name], vec![], vec![port.name.clone()]);
            }
        }
        self.file.rename(&names);
        Ok(())
    }

    fn node(&mut self, node: &Node) -> Result<(), Error> {
        let &[output] = node.outputs.as_slice() else {
            return if node.op == Op::Lstm {
                self.lstm(node)
            } else {
                Err(self.malformed("several results"))
            };
        };
        let tensor = self.tensor(output);
        self.wanted.clone_from(&tensor.name);
        if tensor.element_type == ElementType::I8 {
            self.wanted.push_str("/floats");
        }
        match &node.op {
            Op::Conv2d { sliding, activation } => self.convolution(node, sliding, None, *activation),
            Op::DepthwiseConv2d { sliding, multiplier, activation } => {
                self.convolution(node, sliding, Some(*multiplier), *activation)
            }
            Op::FullyConnected { activation, .. } => self.fully_connected(node, *activation),
            Op::AveragePool2d { size, sliding, activation } | Op::MaxPool2d { size, sliding, activation } => {
                self.pool(node, *size, sliding, *activation)
            }
            Op::Mean { keeps_dims } => self.mean(node, *keeps_dims),
            Op::Reduce { reduction, axes, keeps_dims } => self.reduce(node, *reduction, axes, *keeps_dims),
            Op::MatMul => self.matmul(node),
            Op::Lstm => self.lstm(node),
            Op::Add { activation } => self.add(node, *activation),
            Op::Unary(function) => self.unary(node, *function),
            Op::Binary(function) => self.binary(node, *function),
            Op::Select => self.select(node),
            Op::Softmax { beta } => self.softmax(node, *beta),
            Op::Quantize | Op::Dequantize => self.convert(node),
            Op::Pad => self.pad(node),
            Op::Take { picks, fill } => self.take(node, picks, *fill),
            Op::Gather { axis } => self.gather(node, *axis),
            Op::Reshape { .. } => self.reshape(node),
            Op::Transpose { perm } => self.transpose(node, perm),
            Op::Concat { axis } => self.concat(node, *axis),
            // Of shapes, which the tensors that they lead to know; where one is wanted as numbers, that is refused.
            Op::Shape | Op::StridedSlice { .. } | Op::Pack { .. } => Ok(()),
        }
    }

    /// Input `idx` of `node`.
    fn input(&self, node: &Node, idx: usize) -> Result<TensorId, Error> {
        let id = node.inputs.get(idx).copied().flatten();
        id.ok_or_else(|| self.malformed(format!("input {idx} is left out")))
    }

    /// Integers of a constant, input `idx` of `node`.
    fn known_ints(&self, node: &Node, idx: usize) -> Result<Vec<i32>, Error> {
        let tensor = self.tensor(self.input(node, idx)?);
        match &tensor.constant {
            Some(constant) if tensor.element_type == ElementType::I32 => Ok(constant.i32s().collect()),
            _ => Err(self.unsupported(format!("input {idx} computed while it runs"))),
        }
    }

    /// The four dimensions of an image.
    fn image(&self, id: TensorId) -> Result<[usize; 4], Error> {
        let shape = &self.tensor(id).shape;
        let image = <[usize; 4]>::try_from(shape.as_slice());
        image.map_err(|_| self.malformed(format!("an image of shape {shape:?}")))
    }

    /// A node on what has these names.
    fn step(&mut self, op: &'static str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        self.file.node(op, inputs, attributes, &self.wanted)
    }

    /// One number, as a name.
    fn number(&mut self, value: f32) -> String {
        self.file.number(value, "number")
    }
}
