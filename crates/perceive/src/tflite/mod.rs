//! TFLite files: FlatBuffers with one graph, its weights beside it.
//!
//! Source: TensorFlow's `tensorflow/compiler/mlir/lite/schema/schema.fbs`, version 3; fields below are named by their
//! numbers there. What this crate cannot compute is refused by name while reading; what is not a TFLite file, or a
//! damaged one, gives an error that says where. Nothing is allocated beyond what the file's own length justifies.

mod adapt;
mod flatbuffer;
mod operators;
#[cfg(test)]
mod tests;
mod write;

pub use adapt::adapt;
pub use write::{write, write_with_metadata};

use std::sync::Arc;

use crate::error::Error;
use crate::graph::{
    Activation, Binary, Constant, ElementType, Graph, MAX_DIMS, Node, Op, Padding, Quantization, Sliding,
    Tensor, Unary, checked_size,
};
use flatbuffer::{Reader, Table};

/// Reads a network.
pub fn read(file: Arc<[u8]>) -> Result<Graph, Error> {
    let reader = Reader::new(&file);
    let at = |place: &'static str| move |damage: String| Error::malformed(place, damage);
    let model = reader.root(b"TFL3").map_err(at("file"))?;
    let version = model.u32(0, 0).map_err(at("file"))?;
    if version != 3 {
        return Err(Error::unsupported(
            "file",
            format!("version {version} of the format; this reads version 3"),
        ));
    }
    let codes = model.vector::<4>(1).and_then(|codes| codes.tables()).map_err(at("operator codes"))?;
    let graphs = model.vector::<4>(2).map_err(at("subgraphs"))?;
    if graphs.len() != 1 {
        let what = format!("{} graphs; there must be one, without control flow", graphs.len());
        return Err(Error::unsupported("subgraphs", what));
    }
    let graph = graphs.tables().map_err(at("subgraphs"))?[0];
    let buffers = model.vector::<4>(4).and_then(|buffers| buffers.tables()).map_err(at("buffers"))?;

    let mut tensors = Vec::new();
    for (idx, table) in
        graph.vector::<4>(0).and_then(|v| v.tables()).map_err(at("tensors"))?.iter().enumerate()
    {
        tensors.push(tensor(&file, table, &buffers, idx)?);
    }
    let ids = |ids: Vec<i32>, place: &str| -> Result<Vec<usize>, Error> {
        let id = |id: i32| usize::try_from(id).ok().filter(|id| *id < tensors.len());
        let all = ids
            .iter()
            .map(|i| id(*i).ok_or_else(|| Error::malformed(place, format!("there is no tensor {i}"))));
        all.collect()
    };
    let inputs = ids(graph.vector(1).and_then(|v| v.i32s()).map_err(at("inputs"))?, "inputs")?;
    let outputs = ids(graph.vector(2).and_then(|v| v.i32s()).map_err(at("outputs"))?, "outputs")?;
    let mut nodes = Vec::new();
    for (idx, table) in
        graph.vector::<4>(3).and_then(|v| v.tables()).map_err(at("operators"))?.iter().enumerate()
    {
        nodes.push(node(table, &codes, idx, tensors.len())?);
    }
    for (idx, node) in nodes.iter_mut().enumerate() {
        if let Op::Transpose { perm } = &mut node.op {
            *perm = order(&tensors, node.inputs[1], &format!("operator {idx} (TRANSPOSE)"))?;
        }
    }
    let mut graph = Graph { tensors, nodes, inputs, outputs };
    graph.check_order()?;
    // Weights of half precision are made floats while reading; the operators that say so have nothing left to do.
    let Graph { tensors, nodes, .. } = &mut graph;
    nodes.retain(|node| {
        let Some(from) = node.inputs[0].filter(|_| node.op == Op::Dequantize) else { return true };
        let to = &tensors[node.outputs[0]];
        let is_done = tensors[from].constant.is_some()
            && tensors[from].element_type == ElementType::F32
            && (to.element_type, &to.shape) == (ElementType::F32, &tensors[from].shape);
        if is_done {
            tensors[node.outputs[0]].constant = tensors[from].constant.clone();
        }
        !is_done
    });
    Ok(graph)
}

/// Dimensions in the order that a constant says.
fn order(tensors: &[Tensor], id: Option<usize>, place: &str) -> Result<Vec<usize>, Error> {
    let tensor = id.map(|id| &tensors[id]).filter(|tensor| tensor.element_type == ElementType::I32);
    let constant = tensor.and_then(|tensor| tensor.constant.as_ref());
    let constant = constant.ok_or_else(|| Error::unsupported(place, "an order computed while it runs"))?;
    let order: Option<Vec<usize>> = constant.i32s().map(|axis| usize::try_from(axis).ok()).collect();
    let order = order.filter(|order| order.len() <= MAX_DIMS);
    order.ok_or_else(|| Error::malformed(place, "its order is none of dimensions"))
}

/// The text that the file keeps under `name` in its metadata; `None` if there is none.
///
/// # Errors
/// If the file is damaged, or it is no text.
pub fn metadata(file: &[u8], name: &str) -> Result<Option<String>, Error> {
    let at = |damage: String| Error::malformed("metadata", damage);
    let reader = Reader::new(file);
    let model = reader.root(b"TFL3").map_err(at)?;
    let buffers = model.vector::<4>(4).and_then(|buffers| buffers.tables()).map_err(at)?;
    for entry in model.vector::<4>(6).and_then(|entries| entries.tables()).map_err(at)? {
        if entry.string(0).map_err(at)? != name {
            continue;
        }
        let buffer = entry.u32(1, 0).map_err(at)? as usize;
        let buffer = buffers.get(buffer).ok_or_else(|| at(format!("there is no buffer {buffer}")))?;
        let bytes = buffer.vector::<1>(0).and_then(|data| data.spent()).map_err(at)?;
        let text = str::from_utf8(bytes).map_err(|_| at(format!("{name} is no text")))?;
        return Ok(Some(text.to_owned()));
    }
    Ok(None)
}

fn tensor(file: &Arc<[u8]>, table: &Table<'_>, buffers: &[Table<'_>], idx: usize) -> Result<Tensor, Error> {
    let place = || format!("tensor {idx}");
    let damaged = |damage: String| Error::malformed(place(), damage);
    let name = table.string(3).map_err(damaged)?;
    let dims = table.vector::<4>(0).map_err(damaged)?;
    if dims.len() > MAX_DIMS {
        return Err(Error::unsupported(
            place(),
            format!("{} dimensions; {MAX_DIMS} are the most", dims.len()),
        ));
    }
    let shape: Option<Vec<usize>> =
        dims.i32s().map_err(damaged)?.into_iter().map(|dim| usize::try_from(dim).ok()).collect();
    let shape = shape.ok_or_else(|| damaged("a dimension is negative".into()))?;
    let kind = table.u8(1, 0).map_err(damaged)?;
    let element_type = match kind {
        // Half precision: of weights, made floats below.
        0 | 1 => ElementType::F32,
        2 => ElementType::I32,
        9 => ElementType::I8,
        other => return Err(Error::unsupported(place(), format!("elements of type {}", type_name(other)))),
    };
    if table.bool(5).map_err(damaged)? {
        return Err(Error::unsupported(place(), "a variable, which keeps its value from run to run"));
    }
    if table.has(6).map_err(damaged)? {
        return Err(Error::unsupported(place(), "sparse weights"));
    }
    let size_bytes = checked_size(&shape, element_type)
        .ok_or_else(|| damaged(format!("its shape {shape:?} is beyond any memory")))?;
    let quantization = match table.table(4).map_err(damaged)? {
        Some(table) => quantization(&table, &shape, &place())?,
        None => None,
    };
    let buffer = table.u32(2, 0).map_err(damaged)? as usize;
    let buffer = buffers.get(buffer).ok_or_else(|| damaged(format!("there is no buffer {buffer}")))?;
    let data = buffer.vector::<1>(0).map_err(damaged)?;
    // Files above 2 GiB keep data behind the FlatBuffer; small networks do not.
    if buffer.u64(1, 0).map_err(damaged)? > 1 {
        return Err(Error::unsupported(place(), "data outside of its buffer"));
    }
    let constant = if kind == 1 {
        if data.len() == 0 {
            return Err(Error::unsupported(place(), "activations of type float16"));
        }
        if data.len() != size_bytes / 2 {
            return Err(damaged(format!("its shape {shape:?} does not fit its {} bytes", data.len())));
        }
        // Counts, as many tensors may share these bytes.
        let halves = data.spent().map_err(damaged)?.as_chunks().0;
        let floats: Vec<f32> = halves.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect();
        Some(Constant::of_f32s(&floats))
    } else if data.len() == 0 {
        None
    } else if data.len() == size_bytes {
        Constant::new(Arc::clone(file), data.range())
    } else {
        let what = format!("its shape {shape:?} takes {size_bytes} bytes and its data has {}", data.len());
        return Err(damaged(what));
    };
    Ok(Tensor { name, element_type, shape, quantization, constant })
}

fn quantization(table: &Table<'_>, shape: &[usize], place: &str) -> Result<Option<Quantization>, Error> {
    let damaged = |damage: String| Error::malformed(place, damage);
    let (scales, zeros) = (table.vector::<4>(2).map_err(damaged)?, table.vector::<8>(3).map_err(damaged)?);
    if scales.len() == 0 {
        return Ok(None);
    }
    if table.u8(4, 0).map_err(damaged)? != 0 {
        return Err(Error::unsupported(place, "quantisation other than by scale and zero point"));
    }
    let axis = table.i32(6, 0).map_err(damaged)?;
    // Some converters leave the axis of the weights in biases, which have but one dimension.
    let axis = usize::try_from(axis).unwrap_or(usize::MAX).min(shape.len().saturating_sub(1));
    if scales.len() != 1 && shape.get(axis) != Some(&scales.len()) {
        return Err(damaged(format!("{} scales for shape {shape:?}, along dimension {axis}", scales.len())));
    }
    let n_scales = scales.len();
    let scales = scales.f32s().map_err(damaged)?;
    if !scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
        return Err(damaged("a scale is not a number above zero".into()));
    }
    let mut zeros: Vec<i32> = zeros
        .elements()
        .map_err(damaged)?
        .into_iter()
        .map(i64::from_le_bytes)
        .map(|zero| i32::try_from(zero).map_err(|_| damaged(format!("zero point {zero}"))))
        .collect::<Result<_, _>>()?;
    if zeros.is_empty() {
        zeros.resize(n_scales, 0);
    }
    if zeros.len() == 1 {
        zeros.resize(n_scales, zeros[0]);
    }
    if zeros.len() != n_scales {
        return Err(damaged(format!("{n_scales} scales and {} zero points", zeros.len())));
    }
    Ok(Some(Quantization { scales, zeros, axis }))
}

fn node(table: &Table<'_>, codes: &[Table<'_>], idx: usize, n_tensors: usize) -> Result<Node, Error> {
    let place = || format!("operator {idx}");
    let damaged = |damage: String| Error::malformed(place(), damage);
    let code = table.u32(0, 0).map_err(damaged)? as usize;
    let code = codes.get(code).ok_or_else(|| damaged(format!("there is no operator code {code}")))?;
    // Numbers up to 127 were bytes once, and writers keep both.
    let old = i32::from(code.u8(0, 0).map_err(damaged)? as i8);
    let number = code.i32(3, 0).map_err(damaged)?.max(old);
    let name = match usize::try_from(number).ok().and_then(operators::name) {
        Some("CUSTOM") => {
            return Err(Error::unsupported(
                place(),
                format!("custom operator {}", code.string(1).map_err(damaged)?),
            ));
        }
        Some(name) => name,
        None => return Err(Error::unsupported(place(), format!("operator number {number}"))),
    };
    let place = || format!("operator {idx} ({name})");
    let damaged = |damage: String| Error::malformed(place(), damage);
    let ids = |number: usize| table.vector::<4>(number).and_then(|ids| ids.i32s()).map_err(damaged);
    let id = |id: i32| match usize::try_from(id) {
        Ok(id) if id < n_tensors => Ok(Some(id)),
        Err(_) if id == -1 => Ok(None),
        _ => Err(damaged(format!("there is no tensor {id}"))),
    };
    let inputs: Vec<Option<usize>> = ids(1)?.into_iter().map(id).collect::<Result<_, _>>()?;
    let outputs: Option<Vec<usize>> = ids(2)?.into_iter().map(id).collect::<Result<_, _>>()?;
    let outputs = outputs.ok_or_else(|| damaged("an output is left out".into()))?;
    let options = Options { table: table.table(4).map_err(damaged)?, place: place() };
    let op = op(name, &options)?;
    let (least, most) = match op {
        Op::Conv2d { .. } | Op::DepthwiseConv2d { .. } | Op::FullyConnected { .. } => (2, 3),
        Op::Add { .. } | Op::Mean { .. } | Op::Pad => (2, 2),
        Op::AveragePool2d { .. } | Op::Softmax { .. } | Op::Shape => (1, 1),
        Op::Reshape { .. } => (1, 2),
        Op::StridedSlice { .. } => (4, 4),
        Op::Pack { .. } | Op::Concat { .. } => (1, usize::MAX),
        Op::MaxPool2d { .. } | Op::Unary(_) | Op::Dequantize | Op::Quantize => (1, 1),
        Op::Binary(_) | Op::MatMul | Op::Transpose { .. } => (2, 2),
        // Only readers of other formats make these.
        Op::Take { .. } | Op::Reduce { .. } | Op::Lstm => (1, 1),
        Op::Gather { .. } => (2, 2),
        Op::Select => (3, 3),
    };
    // Only a last input may be left out, and none of those that must be there.
    let n_given = inputs.iter().take_while(|input| input.is_some()).count();
    if n_given < least || inputs.len() > most || n_given + 1 < inputs.len() || outputs.len() != 1 {
        return Err(damaged(format!("{} inputs and {} outputs", inputs.len(), outputs.len())));
    }
    Ok(Node { op, inputs, outputs })
}

fn op(name: &str, options: &Options<'_>) -> Result<Op, Error> {
    Ok(match name {
        "CONV_2D" => Op::Conv2d {
            sliding: options.sliding((0, 1, 2), Some((4, 5)))?,
            activation: options.activation(3)?,
        },
        "DEPTHWISE_CONV_2D" => Op::DepthwiseConv2d {
            sliding: options.sliding((0, 1, 2), Some((5, 6)))?,
            multiplier: options.positive(3, 0)?,
            activation: options.activation(4)?,
        },
        "FULLY_CONNECTED" => {
            if options.u8(1)? != 0 {
                return Err(Error::unsupported(&options.place, "shuffled weights"));
            }
            Op::FullyConnected { keeps_dims: options.u8(2)? != 0, activation: options.activation(0)? }
        }
        "ADD" => Op::Add { activation: options.activation(0)? },
        "AVERAGE_POOL_2D" => Op::AveragePool2d {
            size: [options.positive(4, 0)?, options.positive(3, 0)?],
            sliding: options.sliding((0, 1, 2), None)?,
            activation: options.activation(5)?,
        },
        "MAX_POOL_2D" => Op::MaxPool2d {
            size: [options.positive(4, 0)?, options.positive(3, 0)?],
            sliding: options.sliding((0, 1, 2), None)?,
            activation: options.activation(5)?,
        },
        "CONCATENATION" => {
            if options.activation(1)? != Activation::None {
                return Err(Error::unsupported(&options.place, "a fused activation"));
            }
            Op::Concat { axis: options.i32(0, 0)? }
        }
        "RELU" => Op::Unary(Unary::RELU),
        "RELU6" => Op::Unary(Unary::RELU6),
        "RELU_N1_TO_1" => Op::Unary(Unary::RELU_N1_TO_1),
        "LOGISTIC" => Op::Unary(Unary::Sigmoid),
        "TANH" => Op::Unary(Unary::Tanh),
        "HARD_SWISH" => Op::Unary(Unary::HardSwish),
        "LEAKY_RELU" => {
            let alpha = options.f32(0, 0.0)?;
            if !alpha.is_finite() {
                return Err(Error::malformed(&options.place, format!("alpha is {alpha}")));
            }
            Op::Unary(Unary::LeakyRelu { alpha })
        }
        "GELU" => match options.u8(0)? {
            0 => Op::Unary(Unary::Gelu),
            _ => return Err(Error::unsupported(&options.place, "the approximation by tanh")),
        },
        "SUB" => options.plain(Binary::Sub)?,
        "MUL" => options.plain(Binary::Mul)?,
        "DIV" => options.plain(Binary::Div)?,
        "QUANTIZE" => Op::Quantize,
        // Its order is an input, and filled in once there are tensors.
        "TRANSPOSE" => Op::Transpose { perm: vec![] },
        "DEQUANTIZE" => Op::Dequantize,
        "MEAN" => Op::Mean { keeps_dims: options.u8(0)? != 0 },
        "PAD" => Op::Pad,
        "RESHAPE" => Op::Reshape { shape: options.numbers(0)? },
        "SOFTMAX" => {
            let beta = options.f32(0, 1.0)?;
            if !(beta.is_finite() && beta > 0.0) {
                return Err(Error::malformed(&options.place, format!("beta is {beta}")));
            }
            Op::Softmax { beta }
        }
        "SHAPE" => match options.u8(0)? {
            // The default is absent.
            0 | 2 => Op::Shape,
            other => {
                return Err(Error::unsupported(
                    &options.place,
                    format!("a result of type {}", type_name(other)),
                ));
            }
        },
        "STRIDED_SLICE" => {
            for (number, what) in [(2, "an ellipsis"), (3, "new dimensions"), (5, "offsets for ends")] {
                if options.i32(number, 0)? & 0xff != 0 {
                    return Err(Error::unsupported(&options.place, what));
                }
            }
            Op::StridedSlice {
                begin_mask: options.i32(0, 0)? as u32,
                end_mask: options.i32(1, 0)? as u32,
                shrink_mask: options.i32(4, 0)? as u32,
            }
        }
        "PACK" => Op::Pack { axis: options.i32(1, 0)? },
        name => {
            let function = operators::FUNCTIONS.iter().find(|function| function.name() == name);
            function.cloned().ok_or_else(|| Error::unsupported(&options.place, "this operator"))?
        }
    })
}

/// An operator's own table; absent, all fields have their defaults.
struct Options<'a> {
    table: Option<Table<'a>>,
    place: String,
}

impl Options<'_> {
    /// A function of two numbers, with no activation behind it.
    fn plain(&self, function: Binary) -> Result<Op, Error> {
        match self.activation(0)? {
            Activation::None => Ok(Op::Binary(function)),
            _ => Err(Error::unsupported(&self.place, "a fused activation")),
        }
    }

    fn damaged(&self, damage: String) -> Error {
        Error::malformed(&self.place, damage)
    }

    fn u8(&self, number: usize) -> Result<u8, Error> {
        self.table.map_or(Ok(0), |table| table.u8(number, 0)).map_err(|damage| self.damaged(damage))
    }

    fn i32(&self, number: usize, default: i32) -> Result<i32, Error> {
        self.table
            .map_or(Ok(default), |table| table.i32(number, default))
            .map_err(|damage| self.damaged(damage))
    }

    fn f32(&self, number: usize, default: f32) -> Result<f32, Error> {
        self.table
            .map_or(Ok(default), |table| table.f32(number, default))
            .map_err(|damage| self.damaged(damage))
    }

    fn positive(&self, number: usize, default: i32) -> Result<usize, Error> {
        let value = self.i32(number, default)?;
        match usize::try_from(value) {
            Ok(value) if value > 0 => Ok(value),
            _ => Err(self.damaged(format!("field {number} is {value} and must be above 0"))),
        }
    }

    fn numbers(&self, number: usize) -> Result<Option<Vec<i32>>, Error> {
        let Some(table) = self.table else { return Ok(None) };
        let numbers =
            table.vector(number).and_then(|v| if v.len() > 0 { v.i32s().map(Some) } else { Ok(None) });
        numbers.map_err(|damage| self.damaged(damage))
    }

    fn activation(&self, number: usize) -> Result<Activation, Error> {
        match self.u8(number)? {
            0 => Ok(Activation::None),
            1 => Ok(Activation::Relu),
            2 => Ok(Activation::ReluN1To1),
            3 => Ok(Activation::Relu6),
            4 => Err(Error::unsupported(&self.place, "fused activation TANH")),
            5 => Err(Error::unsupported(&self.place, "fused activation SIGN_BIT")),
            other => Err(self.damaged(format!("fused activation {other}"))),
        }
    }

    /// Fields of padding, horizontal and vertical stride; of horizontal and vertical dilation.
    fn sliding(
        &self,
        fields: (usize, usize, usize),
        dilation: Option<(usize, usize)>,
    ) -> Result<Sliding, Error> {
        let padding = match self.u8(fields.0)? {
            0 => Padding::Same,
            1 => Padding::Valid,
            other => return Err(self.damaged(format!("padding {other}"))),
        };
        let stride = [self.positive(fields.2, 0)?, self.positive(fields.1, 0)?];
        let dilation = match dilation {
            Some((across, down)) => [self.positive(down, 1)?, self.positive(across, 1)?],
            None => [1, 1],
        };
        Ok(Sliding { padding, stride, dilation })
    }
}

/// Names of the format's element types.
fn type_name(number: u8) -> String {
    const NAMES: [&str; 16] = [
        "float32",
        "float16",
        "int32",
        "uint8",
        "int64",
        "string",
        "bool",
        "int16",
        "complex64",
        "int8",
        "float64",
        "complex128",
        "uint64",
        "resource",
        "variant",
        "uint32",
    ];
    NAMES.get(usize::from(number)).map_or_else(|| format!("number {number}"), |name| (*name).to_owned())
}
