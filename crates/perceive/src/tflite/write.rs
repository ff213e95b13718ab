//! A graph as a TFLite file.
//!
//! FlatBuffers are written front to back here: a table first, with gaps where its parts will be, then its parts, whose
//! distances fill the gaps. So nothing is built twice, and offsets lead forwards, as the format wants it
//! ("FlatBuffer Internals", flatbuffers.dev/internals; numbers of fields and options from TensorFlow's `schema.fbs`).
//!
//! What TFLite has no operator or option for is refused by name: graphs that were read from ONNX may have such.

use super::operators;
use crate::error::Error;
use crate::graph::{Activation, Binary, ElementType, Graph, Node, Op, Padding, Quantization, Sliding, Unary};

/// TFLite reads the bytes of tensors where they lie, at multiples of this.
const DATA_ALIGNMENT: usize = 16;
/// Bytes of the offset and the mark that a file begins with.
const HEAD_BYTES: usize = 8;

/// A field of a table.
enum Field {
    /// Not there: the reader takes the default.
    Absent,
    U8(u8),
    I32(i32),
    F32(f32),
    Part(Part),
}

/// What a table refers to.
enum Part {
    Table(Vec<Field>),
    Tables(Vec<Vec<Field>>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    I64s(Vec<i64>),
    Bytes(Vec<u8>),
    Text(String),
}

impl From<Part> for Field {
    fn from(part: Part) -> Field {
        Field::Part(part)
    }
}

/// Writes `graph`.
///
/// # Errors
/// If TFLite has no operator for a node, or it would be larger than FlatBuffers can be (2 GiB).
pub fn write(graph: &Graph) -> Result<Vec<u8>, Error> {
    write_with_metadata(graph, &[])
}

/// Writes `graph`, and texts that a reader finds by their names ([`super::metadata`]); runtimes pass over them.
///
/// # Errors
/// As [`write()`].
pub fn write_with_metadata(graph: &Graph, metadata: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let mut codes: Vec<(usize, i32)> = Vec::new();
    let mut nodes = Vec::new();
    for (idx, node) in graph.nodes.iter().enumerate() {
        let place = format!("operator {idx} ({})", node.op.name());
        let (options_kind, options) = options(node, graph, &place)?;
        let number = operators::number(node.op.name())
            .ok_or_else(|| Error::unsupported(&place, "an operator that TFLite does not have"))?;
        let code = (number, version(&node.op));
        let code_idx = codes.iter().position(|other| *other == code).unwrap_or_else(|| {
            codes.push(code);
            codes.len() - 1
        });
        let ids = |ids: Vec<Option<usize>>| {
            Part::I32s(ids.iter().map(|id| id.map_or(-1, |id| id as i32)).collect())
        };
        nodes.push(vec![
            Field::I32(code_idx as i32),
            ids(node.inputs.clone()).into(),
            ids(node.outputs.iter().copied().map(Some).collect()).into(),
            if options_kind == 0 { Field::Absent } else { Field::U8(options_kind) },
            if options_kind == 0 { Field::Absent } else { Part::Table(options).into() },
        ]);
    }
    // The first buffer is empty, and stands for no data.
    let mut buffers = vec![vec![]];
    let mut tensors = Vec::new();
    for tensor in &graph.tensors {
        let buffer = match &tensor.constant {
            None => 0,
            Some(constant) => {
                buffers.push(vec![Part::Bytes(constant.bytes().to_vec()).into()]);
                buffers.len() - 1
            }
        };
        let kind = match tensor.element_type {
            ElementType::F32 => 0,
            ElementType::I32 => 2,
            ElementType::I8 => 9,
        };
        tensors.push(vec![
            Part::I32s(tensor.shape.iter().map(|dim| *dim as i32).collect()).into(),
            Field::U8(kind),
            Field::I32(buffer as i32),
            Part::Text(tensor.name.clone()).into(),
            tensor.quantization.as_ref().map_or(Field::Absent, |q| Part::Table(quantization(q)).into()),
        ]);
    }
    let metadata = metadata.iter().map(|(name, text)| {
        buffers.push(vec![Part::Bytes(text.as_bytes().to_vec()).into()]);
        vec![Part::Text((*name).to_owned()).into(), Field::I32(buffers.len() as i32 - 1)]
    });
    let metadata: Vec<Vec<Field>> = metadata.collect();
    let ids = |ids: &[usize]| Part::I32s(ids.iter().map(|id| *id as i32).collect());
    let subgraph = vec![
        Part::Tables(tensors).into(),
        ids(&graph.inputs).into(),
        ids(&graph.outputs).into(),
        Part::Tables(nodes).into(),
        Part::Text("main".into()).into(),
    ];
    let codes = codes.iter().map(|(number, version)| {
        // Numbers up to 127 were bytes once, and readers look there first.
        vec![
            Field::U8((*number).min(127) as u8),
            Field::Absent,
            Field::I32(*version),
            Field::I32(*number as i32),
        ]
    });
    let model = vec![
        Field::I32(3),
        Part::Tables(codes.collect()).into(),
        Part::Tables(vec![subgraph]).into(),
        Part::Text("edgeward".into()).into(),
        Part::Tables(buffers).into(),
        Field::Absent,
        if metadata.is_empty() { Field::Absent } else { Part::Tables(metadata).into() },
    ];
    let mut writer = Writer { bytes: vec![0; HEAD_BYTES] };
    writer.bytes[4..8].copy_from_slice(b"TFL3");
    let root = writer.table(&model);
    writer.bytes[..4].copy_from_slice(&(root as u32).to_le_bytes());
    if writer.bytes.len() > i32::MAX as usize {
        return Err(Error::TooLarge {
            needed_bytes: writer.bytes.len() as u64,
            limit_bytes: i32::MAX as u64,
        });
    }
    Ok(writer.bytes)
}

fn quantization(quantization: &Quantization) -> Vec<Field> {
    let zeros = quantization.zeros.iter().map(|zero| i64::from(*zero)).collect();
    vec![
        Field::Absent,
        Field::Absent,
        Part::F32s(quantization.scales.clone()).into(),
        Part::I64s(zeros).into(),
        Field::Absent,
        Field::Absent,
        Field::I32(quantization.axis as i32),
    ]
}

/// The least version of an operator that has eight bits.
fn version(op: &Op) -> i32 {
    match op {
        Op::Conv2d { .. } | Op::DepthwiseConv2d { .. } => 3,
        Op::FullyConnected { .. } => 4,
        Op::Add { .. } | Op::AveragePool2d { .. } | Op::Mean { .. } | Op::Pad | Op::Softmax { .. } => 2,
        Op::Transpose { .. } => 2,
        Op::Unary(Unary::HardSwish | Unary::RELU_N1_TO_1) => 1,
        op if operators::FUNCTIONS.contains(op) => 1,
        Op::MaxPool2d { .. } | Op::Concat { .. } | Op::Dequantize | Op::Quantize | Op::Unary(_) => 2,
        _ => 1,
    }
}

/// The kind of an operator's options, and those.
fn options(node: &Node, graph: &Graph, place: &str) -> Result<(u8, Vec<Field>), Error> {
    let fused = |activation: Activation| {
        Field::U8(match activation {
            Activation::None => 0,
            Activation::Relu => 1,
            Activation::ReluN1To1 => 2,
            Activation::Relu6 => 3,
        })
    };
    let int = |value: usize| Field::I32(value as i32);
    let padding = |sliding: &Sliding| match sliding.padding {
        Padding::Same => Ok(Field::U8(0)),
        Padding::Valid | Padding::Explicit { before: [0, 0], after: [0, 0] } => Ok(Field::U8(1)),
        Padding::Explicit { .. } => Err(Error::unsupported(place, "padding by numbers")),
    };
    Ok(match &node.op {
        Op::Conv2d { sliding, activation } => {
            let [down, across] = sliding.stride;
            let [dilated_down, dilated_across] = sliding.dilation;
            let strides = [padding(sliding)?, int(across), int(down), fused(*activation)];
            (1, strides.into_iter().chain([int(dilated_across), int(dilated_down)]).collect())
        }
        Op::DepthwiseConv2d { sliding, multiplier, activation } => {
            let [down, across] = sliding.stride;
            let [dilated_down, dilated_across] = sliding.dilation;
            let strides = [padding(sliding)?, int(across), int(down), int(*multiplier), fused(*activation)];
            (2, strides.into_iter().chain([int(dilated_across), int(dilated_down)]).collect())
        }
        Op::AveragePool2d { size: [rows, columns], sliding, activation }
        | Op::MaxPool2d { size: [rows, columns], sliding, activation } => {
            let [down, across] = sliding.stride;
            let strides = [padding(sliding)?, int(across), int(down)];
            (5, strides.into_iter().chain([int(*columns), int(*rows), fused(*activation)]).collect())
        }
        Op::FullyConnected { keeps_dims, activation } => {
            (8, vec![fused(*activation), Field::Absent, Field::U8(u8::from(*keeps_dims))])
        }
        Op::Softmax { beta } => (9, vec![Field::F32(*beta)]),
        Op::Concat { axis } => (10, vec![Field::I32(*axis)]),
        Op::Add { activation } => (11, vec![fused(*activation)]),
        Op::Reshape { shape } => {
            let given = shape.clone().map_or(Field::Absent, |shape| Part::I32s(shape).into());
            (17, vec![given])
        }
        Op::Binary(Binary::Mul) => (21, vec![fused(Activation::None)]),
        Op::Binary(Binary::Sub) => (28, vec![fused(Activation::None)]),
        Op::Binary(Binary::Div) => (29, vec![fused(Activation::None)]),
        Op::Pad => (22, vec![]),
        Op::Transpose { .. } if node.inputs.len() == 2 => (26, vec![]),
        Op::Mean { keeps_dims } => (27, vec![Field::U8(u8::from(*keeps_dims))]),
        Op::StridedSlice { begin_mask, end_mask, shrink_mask } => {
            let mask = |mask: u32| Field::I32(mask as i32);
            (32, vec![mask(*begin_mask), mask(*end_mask), Field::Absent, Field::Absent, mask(*shrink_mask)])
        }
        Op::Shape => (55, vec![Field::U8(2)]),
        Op::Pack { axis } => (59, vec![int(node.inputs.len()), Field::I32(*axis)]),
        Op::Unary(Unary::LeakyRelu { alpha }) => (75, vec![Field::F32(*alpha)]),
        Op::Unary(Unary::Gelu) => (116, vec![]),
        Op::Unary(
            Unary::RELU
            | Unary::RELU6
            | Unary::RELU_N1_TO_1
            | Unary::Sigmoid
            | Unary::Tanh
            | Unary::HardSwish,
        )
        | Op::Dequantize => (0, vec![]),
        Op::Quantize if graph.tensors[node.outputs[0]].element_type == ElementType::I8 => (0, vec![]),
        op if operators::FUNCTIONS.contains(op) => (0, vec![]),
        _ => return Err(Error::unsupported(place, "an operator that cannot be written as TFLite")),
    })
}

/// Bytes, front to back.
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Fills up so that `ahead` bytes from here is a multiple of `alignment`.
    fn align(&mut self, ahead: usize, alignment: usize) {
        while !(self.bytes.len() + ahead).is_multiple_of(alignment) {
            self.bytes.push(0);
        }
    }

    /// Writes a table and its parts; where it is.
    fn table(&mut self, fields: &[Field]) -> usize {
        // Fields of four bytes first, then single ones; the vtable says where each is.
        let mut places = vec![0u16; fields.len()];
        let mut len = 4u16;
        for is_byte in [false, true] {
            for (place, field) in places.iter_mut().zip(fields) {
                if matches!(field, Field::Absent) || matches!(field, Field::U8(_)) != is_byte {
                    continue;
                }
                *place = len;
                len += if is_byte { 1 } else { 4 };
            }
        }
        let vtable_len = 4 + 2 * fields.len();
        self.align(vtable_len, 4);
        let vtable = self.bytes.len();
        self.bytes.extend((vtable_len as u16).to_le_bytes());
        self.bytes.extend(len.to_le_bytes());
        for place in &places {
            self.bytes.extend(place.to_le_bytes());
        }
        let table = self.bytes.len();
        self.bytes.extend(((table - vtable) as i32).to_le_bytes());
        self.bytes.resize(table + usize::from(len), 0);
        for (place, field) in places.iter().zip(fields) {
            let at = table + usize::from(*place);
            match field {
                Field::Absent => {}
                Field::U8(value) => self.bytes[at] = *value,
                Field::I32(value) => self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                Field::F32(value) => self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                Field::Part(part) => {
                    let to = self.part(part);
                    self.point(at, to);
                }
            }
        }
        table
    }

    /// Lets the offset at `at` lead to `to`.
    fn point(&mut self, at: usize, to: usize) {
        self.bytes[at..at + 4].copy_from_slice(&((to - at) as u32).to_le_bytes());
    }

    fn part(&mut self, part: &Part) -> usize {
        match part {
            Part::Table(fields) => self.table(fields),
            Part::Tables(tables) => {
                let start = self.vector(&vec![0; 4 * tables.len()], tables.len(), 4);
                for (i, fields) in tables.iter().enumerate() {
                    let to = self.table(fields);
                    self.point(start + 4 + 4 * i, to);
                }
                start
            }
            Part::I32s(values) => {
                self.vector(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>(), values.len(), 4)
            }
            Part::F32s(values) => {
                self.vector(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>(), values.len(), 4)
            }
            Part::I64s(values) => {
                self.vector(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>(), values.len(), 8)
            }
            Part::Bytes(bytes) => self.vector(bytes, bytes.len(), DATA_ALIGNMENT),
            Part::Text(text) => {
                let start = self.vector(text.as_bytes(), text.len(), 4);
                // Text ends with a zero that does not count.
                self.bytes.push(0);
                start
            }
        }
    }

    /// A length, then elements, which begin at a multiple of `alignment`.
    fn vector(&mut self, elements: &[u8], len: usize, alignment: usize) -> usize {
        self.align(4, alignment);
        let start = self.bytes.len();
        self.bytes.extend((len as u32).to_le_bytes());
        self.bytes.extend(elements);
        start
    }
}
