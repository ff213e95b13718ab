//! What a file consists of, in the making: nodes and constants, and a name for each value.

use std::collections::HashMap;

use super::super::model::{METADATA, kind};
use super::super::protobuf::Message;
use crate::error::Error;

/// The version of ONNX's operators that nodes mean: that of 2022, which runtimes have long had.
const OPSET: i64 = 17;
/// The version of the format that came with it.
const IR_VERSION: i64 = 8;
/// What Protocol Buffers can hold, bytes.
const MAX_BYTES: u64 = i32::MAX as u64;

/// What an operator is told beside its inputs.
pub enum Attribute {
    Int(&'static str, i64),
    Ints(&'static str, Vec<i64>),
    Float(&'static str, f32),
}

impl Attribute {
    /// An array of sizes or of dimensions.
    pub fn sizes(name: &'static str, values: &[usize]) -> Attribute {
        Attribute::Ints(name, values.iter().map(|value| *value as i64).collect())
    }

    fn message(&self) -> Message {
        let of = |name: &str, kind: i64| Message::default().bytes(1, name).int(20, kind);
        match self {
            Attribute::Float(name, value) => of(name, 1).float(2, *value),
            Attribute::Int(name, value) => of(name, 2).int(3, *value),
            Attribute::Ints(name, values) => {
                values.iter().fold(of(name, 7), |message, value| message.int(8, *value))
            }
        }
    }
}

struct Node {
    op: &'static str,
    inputs: Vec<String>,
    outputs: Vec<String>,
    attributes: Vec<Attribute>,
}

impl Node {
    fn message(&self, idx: usize) -> Message {
        let mut message = Message::default();
        for input in &self.inputs {
            message = message.bytes(1, input);
        }
        for output in &self.outputs {
            message = message.bytes(2, output);
        }
        message = message.bytes(3, format!("{}_{idx}", self.op)).bytes(4, self.op);
        self.attributes.iter().fold(message, |message, attribute| message.message(5, &attribute.message()))
    }
}

/// An input or an output.
pub struct Port {
    pub name: String,
    /// ONNX's number of its element type.
    pub kind: i64,
    pub shape: Vec<usize>,
}

impl Port {
    fn message(&self) -> Message {
        let dim = |dim: &usize| Message::default().int(1, *dim as i64);
        let shape = self.shape.iter().fold(Message::default(), |shape, size| shape.message(1, &dim(size)));
        let tensor = Message::default().int(1, self.kind).message(2, &shape);
        Message::default().bytes(1, &self.name).message(2, &Message::default().message(1, &tensor))
    }
}

/// A file in the making.
#[derive(Default)]
pub struct File {
    nodes: Vec<Node>,
    constants: Vec<Message>,
    /// Names that are taken, and how often each was wanted.
    names: HashMap<String, usize>,
}

impl File {
    /// A name that nothing has: `wanted`, or one made from it.
    pub fn name(&mut self, wanted: &str) -> String {
        let wanted = if wanted.is_empty() { "value" } else { wanted };
        let mut name = wanted.to_owned();
        while self.names.contains_key(&name) {
            let n = self.names.entry(wanted.to_owned()).or_default();
            *n += 1;
            name = format!("{wanted}_{n}");
        }
        self.names.insert(name.clone(), 0);
        name
    }

    /// A node with one result, whose name is `wanted` or made from it; that name.
    pub fn node(
        &mut self,
        op: &'static str,
        inputs: &[&str],
        attributes: Vec<Attribute>,
        wanted: &str,
    ) -> String {
        let output = self.name(wanted);
        self.node_with(op, inputs, attributes, vec![output.clone()]);
        output
    }

    /// A node with these results.
    pub fn node_with(
        &mut self,
        op: &'static str,
        inputs: &[&str],
        attributes: Vec<Attribute>,
        outputs: Vec<String>,
    ) {
        let inputs = inputs.iter().map(|input| (*input).to_owned()).collect();
        self.nodes.push(Node { op, inputs, outputs, attributes });
    }

    /// A constant of elements that lie as ONNX has them.
    pub fn constant(&mut self, kind: i64, dims: &[usize], elements: &[u8], wanted: &str) -> String {
        let name = self.name(wanted);
        let dims: Vec<i64> = dims.iter().map(|dim| *dim as i64).collect();
        let message = Message::default().ints(1, &dims).int(2, kind).bytes(8, &name).bytes(9, elements);
        self.constants.push(message);
        name
    }

    /// A list of integers: a shape, dimensions, indices.
    pub fn list(&mut self, values: &[i64], wanted: &str) -> String {
        let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(kind::INT64, &[values.len()], &elements, wanted)
    }

    /// One number.
    pub fn number(&mut self, value: f32, wanted: &str) -> String {
        self.constant(kind::FLOAT, &[], &value.to_le_bytes(), wanted)
    }

    /// Gives a node's result another name.
    pub fn rename(&mut self, names: &HashMap<String, String>) {
        let all = self.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut().chain(&mut node.outputs));
        for name in all {
            if let Some(new) = names.get(name) {
                name.clone_from(new);
            }
        }
    }

    /// Whether a node gives `name`.
    pub fn is_computed(&self, name: &str) -> bool {
        self.nodes.iter().any(|node| node.outputs.iter().any(|output| output == name))
    }

    /// The file's bytes.
    pub fn finish(
        self,
        [inputs, outputs]: [&[Port]; 2],
        metadata: &[(&str, &str)],
    ) -> Result<Vec<u8>, Error> {
        let mut graph = Message::default();
        for (idx, node) in self.nodes.iter().enumerate() {
            graph = graph.message(1, &node.message(idx));
        }
        graph = graph.bytes(2, "main");
        for (number, parts) in [(11, inputs), (12, outputs)] {
            graph = parts.iter().fold(graph, |graph, port| graph.message(number, &port.message()));
        }
        for constant in self.constants {
            graph = graph.message(5, &constant);
        }
        let opset = Message::default().bytes(1, "").int(2, OPSET);
        let model =
            Message::default().int(1, IR_VERSION).bytes(2, "edgeward").message(7, &graph).message(8, &opset);
        let model = metadata.iter().fold(model, |model, (key, text)| {
            model.message(METADATA, &Message::default().bytes(1, key).bytes(2, text))
        });
        let bytes = model.into_bytes();
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::TooLarge { needed_bytes: bytes.len() as u64, limit_bytes: MAX_BYTES });
        }
        Ok(bytes)
    }
}
