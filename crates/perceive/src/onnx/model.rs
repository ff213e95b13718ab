//! The messages of ONNX files that matter here: model, graph, node, attribute, tensor.
//!
//! Source: `onnx/onnx.proto3` of the ONNX repository; fields are named by their numbers there. Weights stay in the file's
//! bytes until they are used.

use super::protobuf::{Damage, MAX_DEPTH, Message, Value, fields};
use crate::error::Error;

/// ONNX's numbers of element types, as far as they are read.
pub mod kind {
    pub const FLOAT: i64 = 1;
    pub const UINT8: i64 = 2;
    pub const INT8: i64 = 3;
    pub const INT32: i64 = 6;
    pub const INT64: i64 = 7;
    pub const BOOL: i64 = 9;
    pub const FLOAT16: i64 = 10;

    /// Its name.
    pub fn name(kind: i64) -> String {
        const NAMES: [&str; 17] = [
            "undefined",
            "float32",
            "uint8",
            "int8",
            "uint16",
            "int16",
            "int32",
            "int64",
            "string",
            "bool",
            "float16",
            "float64",
            "uint32",
            "uint64",
            "complex64",
            "complex128",
            "bfloat16",
        ];
        let name = usize::try_from(kind).ok().and_then(|kind| NAMES.get(kind));
        name.map_or_else(|| format!("number {kind}"), |name| (*name).to_owned())
    }
}

/// A tensor of the file.
#[derive(Clone, Debug, Default)]
pub struct TensorProto<'a> {
    pub name: String,
    pub dims: Vec<i64>,
    pub kind: i64,
    pub raw: Option<&'a [u8]>,
    pub floats: Vec<f32>,
    pub ints: Vec<i64>,
    pub is_external: bool,
}

impl<'a> TensorProto<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<TensorProto<'a>, Damage> {
        let mut tensor = TensorProto::default();
        for (number, value) in fields(bytes)? {
            match number {
                1 => value.ints_into(&mut tensor.dims)?,
                2 => tensor.kind = value.int()?,
                4 => value.floats_into(&mut tensor.floats)?,
                5 | 7 => value.ints_into(&mut tensor.ints)?,
                8 => tensor.name = value.text()?,
                9 => tensor.raw = Some(value.bytes()?),
                14 => tensor.is_external = value.int()? != 0,
                _ => {}
            }
        }
        Ok(tensor)
    }
}

/// What an operator is told beside its inputs.
#[derive(Clone, Debug, Default)]
pub struct Attribute<'a> {
    pub name: String,
    pub float: f32,
    pub int: i64,
    pub text: String,
    pub tensor: Option<TensorProto<'a>>,
    pub graph: Option<GraphProto<'a>>,
    pub floats: Vec<f32>,
    pub ints: Vec<i64>,
}

impl<'a> Attribute<'a> {
    fn read(bytes: &'a [u8], depth: usize) -> Result<Attribute<'a>, Damage> {
        let mut attribute = Attribute::default();
        for (number, value) in fields(bytes)? {
            match number {
                1 => attribute.name = value.text()?,
                2 => attribute.float = value.float()?,
                3 => attribute.int = value.int()?,
                4 => attribute.text = value.text()?,
                5 => attribute.tensor = Some(TensorProto::read(value.bytes()?)?),
                6 => attribute.graph = Some(GraphProto::read(value.bytes()?, depth + 1)?),
                7 => value.floats_into(&mut attribute.floats)?,
                8 => value.ints_into(&mut attribute.ints)?,
                _ => {}
            }
        }
        Ok(attribute)
    }
}

/// An operator.
#[derive(Clone, Debug, Default)]
pub struct NodeProto<'a> {
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub name: String,
    pub op: String,
    pub domain: String,
    pub attributes: Vec<Attribute<'a>>,
}

impl<'a> NodeProto<'a> {
    fn read(bytes: &'a [u8], depth: usize) -> Result<NodeProto<'a>, Damage> {
        let mut node = NodeProto::default();
        for (number, value) in fields(bytes)? {
            match number {
                1 => node.inputs.push(value.text()?),
                2 => node.outputs.push(value.text()?),
                3 => node.name = value.text()?,
                4 => node.op = value.text()?,
                5 => node.attributes.push(Attribute::read(value.bytes()?, depth)?),
                7 => node.domain = value.text()?,
                _ => {}
            }
        }
        Ok(node)
    }

    /// An attribute, if it is there.
    pub fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.int)
    }

    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |attribute| attribute.float)
    }

    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.attribute(name).map(|attribute| attribute.text.as_str())
    }
}

/// A dimension, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    Known(i64),
    Named(String),
}

/// An input or output: `None` as shape is any.
#[derive(Clone, Debug, Default)]
pub struct ValueInfo {
    pub name: String,
    pub kind: i64,
    pub shape: Option<Vec<Dim>>,
}

impl ValueInfo {
    fn read(bytes: &[u8]) -> Result<ValueInfo, Damage> {
        let mut info = ValueInfo::default();
        for (number, value) in fields(bytes)? {
            match number {
                1 => info.name = value.text()?,
                2 => {
                    for (number, value) in fields(value.bytes()?)? {
                        if number == 1 {
                            info.read_tensor(value)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(info)
    }

    fn read_tensor(&mut self, value: Value<'_>) -> Result<(), Damage> {
        for (number, value) in fields(value.bytes()?)? {
            match number {
                1 => self.kind = value.int()?,
                2 => {
                    let shape = self.shape.insert(Vec::new());
                    for (_, dim) in fields(value.bytes()?)?.into_iter().filter(|(number, _)| *number == 1) {
                        // Neither is there where a dimension is anything.
                        let mut read = Dim::Named(String::new());
                        for (number, value) in fields(dim.bytes()?)? {
                            match number {
                                1 => read = Dim::Known(value.int()?),
                                2 => read = Dim::Named(value.text()?),
                                _ => {}
                            }
                        }
                        shape.push(read);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A graph.
#[derive(Clone, Debug, Default)]
pub struct GraphProto<'a> {
    pub nodes: Vec<NodeProto<'a>>,
    pub initializers: Vec<TensorProto<'a>>,
    pub inputs: Vec<ValueInfo>,
    pub outputs: Vec<ValueInfo>,
}

impl<'a> GraphProto<'a> {
    fn read(bytes: &'a [u8], depth: usize) -> Result<GraphProto<'a>, Damage> {
        if depth > MAX_DEPTH {
            return Err(format!("graphs within graphs, more than {MAX_DEPTH} deep"));
        }
        let mut graph = GraphProto::default();
        for (number, value) in fields(bytes)? {
            match number {
                1 => graph.nodes.push(NodeProto::read(value.bytes()?, depth)?),
                5 => graph.initializers.push(TensorProto::read(value.bytes()?)?),
                11 => graph.inputs.push(ValueInfo::read(value.bytes()?)?),
                12 => graph.outputs.push(ValueInfo::read(value.bytes()?)?),
                15 => return Err("sparse weights".into()),
                _ => {}
            }
        }
        Ok(graph)
    }
}

/// A file: its graph, and the version of ONNX's own operators that it means.
pub fn read(bytes: &[u8]) -> Result<(GraphProto<'_>, i64), Error> {
    let damaged = |damage: String| Error::malformed("file", damage);
    let (mut graph, mut opset) = (None, None);
    for (number, value) in fields(bytes).map_err(damaged)? {
        match number {
            7 => graph = Some(GraphProto::read(value.bytes().map_err(damaged)?, 0).map_err(damaged)?),
            8 => {
                let (mut domain, mut version) = (String::new(), 0);
                for (number, value) in fields(value.bytes().map_err(damaged)?).map_err(damaged)? {
                    match number {
                        1 => domain = value.text().map_err(damaged)?,
                        2 => version = value.int().map_err(damaged)?,
                        _ => {}
                    }
                }
                if domain.is_empty() || domain == "ai.onnx" {
                    opset = Some(version);
                }
            }
            _ => {}
        }
    }
    let graph = graph.ok_or_else(|| damaged("there is no graph: this is no ONNX file".into()))?;
    let opset = opset.ok_or_else(|| damaged("it does not say which operators it means".into()))?;
    Ok((graph, opset))
}

/// The number of the field that is an entry of a file's metadata.
pub const METADATA: u32 = 14;

/// A file's metadata: names and texts.
pub fn metadata(bytes: &[u8]) -> Result<Vec<(String, String)>, Damage> {
    let mut entries = Vec::new();
    for (_, entry) in fields(bytes)?.into_iter().filter(|(number, _)| *number == METADATA) {
        let (mut name, mut text) = (String::new(), String::new());
        for (number, value) in fields(entry.bytes()?)? {
            match number {
                1 => name = value.text()?,
                2 => text = value.text()?,
                _ => {}
            }
        }
        entries.push((name, text));
    }
    Ok(entries)
}

/// Bytes of a file without its metadata.
pub fn size_without_metadata(bytes: &[u8]) -> Result<u64, Damage> {
    let mut size_bytes = bytes.len() as u64;
    for (_, entry) in fields(bytes)?.into_iter().filter(|(number, _)| *number == METADATA) {
        size_bytes -= Message::default().bytes(METADATA, entry.bytes()?).into_bytes().len() as u64;
    }
    Ok(size_bytes)
}
