//! A network as a typed graph: tensors, and operators in the order in which they run.
//!
//! This is what readers give and what [`crate::Network`] is made from. It means the same whichever file it came from:
//! activations are NHWC, weights of convolutions `[out, rows, columns, in]`, of depthwise ones `[rows, columns, out]`.
//!
//! Invariants, which readers establish: every index is in range; a constant has exactly the bytes of its shape; each
//! tensor is a constant, an input, or the output of one node, which comes before all that use it.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::Error;

/// Dimensions of the largest tensor.
pub const MAX_DIMS: usize = 8;

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// IEEE single precision.
    F32,
    /// Signed byte, with a scale and a zero point where it is quantised.
    I8,
    /// Signed 32-bit integer: shapes, axes, biases.
    I32,
}

impl ElementType {
    /// Bytes of one.
    pub fn size_bytes(self) -> usize {
        match self {
            ElementType::F32 | ElementType::I32 => 4,
            ElementType::I8 => 1,
        }
    }

    /// "float32", "int8", "int32".
    pub fn name(self) -> &'static str {
        match self {
            ElementType::F32 => "float32",
            ElementType::I8 => "int8",
            ElementType::I32 => "int32",
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How numbers are meant: `scale * (q - zero)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    /// One for the whole tensor, or one for each index of `axis`; finite and above 0.
    pub scales: Vec<f32>,
    /// As many as scales.
    pub zeros: Vec<i32>,
    /// The dimension along which they differ.
    pub axis: usize,
}

/// Bytes of a file, shared.
#[derive(Clone)]
pub struct Constant {
    file: Arc<[u8]>,
    range: Range<usize>,
}

impl Constant {
    /// The part `range` of `file`; `None` if it is not in it.
    pub fn new(file: Arc<[u8]>, range: Range<usize>) -> Option<Constant> {
        (range.start <= range.end && range.end <= file.len()).then_some(Constant { file, range })
    }

    /// The bytes, little-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }

    /// A constant of these bytes.
    pub fn of_bytes(bytes: Vec<u8>) -> Constant {
        let range = 0..bytes.len();
        Constant { file: bytes.into(), range }
    }

    /// A constant of these floats.
    pub fn of_f32s(values: &[f32]) -> Constant {
        Constant::of_bytes(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// A constant of these integers.
    pub fn of_i32s(values: &[i32]) -> Constant {
        Constant::of_bytes(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// The bytes as 32-bit integers.
    pub fn i32s(&self) -> impl ExactSizeIterator<Item = i32> {
        self.bytes().as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes))
    }

    /// The bytes as floats.
    pub fn f32s(&self) -> impl ExactSizeIterator<Item = f32> {
        self.bytes().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
    }
}

impl fmt::Debug for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Constant({} bytes)", self.range.len())
    }
}

/// A tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// For people.
    pub name: String,
    /// Of its elements.
    pub element_type: ElementType,
    /// At most [`MAX_DIMS`]; no dimensions is a single number.
    pub shape: Vec<usize>,
    /// Where elements are quantised.
    pub quantization: Option<Quantization>,
    /// Where it is known beforehand.
    pub constant: Option<Constant>,
}

impl Tensor {
    /// Elements. Readers have checked that the product fits.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Elements of a tensor of this shape, and bytes; `None` if that is beyond any memory.
pub(crate) fn checked_size(shape: &[usize], element_type: ElementType) -> Option<usize> {
    let n_elements = shape.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim))?;
    // A dimension of zero must not hide a product that overflows elsewhere.
    shape.iter().try_fold(1usize, |n, dim| n.checked_mul((*dim).max(1)))?;
    n_elements.checked_mul(element_type.size_bytes()).filter(|bytes| *bytes <= isize::MAX as usize / 4)
}

/// Index of a tensor in [`Graph::tensors`].
pub type TensorId = usize;

/// What is applied to an operator's result on the spot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// max(x, 0).
    Relu,
    /// x kept in -1..=1.
    ReluN1To1,
    /// x kept in 0..=6.
    Relu6,
}

impl Activation {
    /// Bounds of results.
    pub fn range(self) -> (f32, f32) {
        match self {
            Activation::None => (f32::NEG_INFINITY, f32::INFINITY),
            Activation::Relu => (0.0, f32::INFINITY),
            Activation::ReluN1To1 => (-1.0, 1.0),
            Activation::Relu6 => (0.0, 6.0),
        }
    }
}

/// What lies beyond an image's edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Zeros, so many that there are `ceil(size / stride)` positions; the odd one after the image.
    Same,
    /// Nothing: windows stay inside.
    Valid,
    /// As many zeros as are said: above, left; below, right.
    Explicit {
        /// Above and to the left.
        before: [usize; 2],
        /// Below and to the right.
        after: [usize; 2],
    },
}

/// What [`Padding::Same`] adds in all, and before; `stride` is at least 1.
pub(crate) fn same_padding(len: usize, extent: usize, stride: usize) -> (usize, usize) {
    let total = ((len.div_ceil(stride).max(1) - 1) * stride).saturating_add(extent).saturating_sub(len);
    (total, total / 2)
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "functions that everybody knows by these names")]
pub enum Unary {
    Abs,
    Neg,
    Sign,
    Reciprocal,
    Sqrt,
    Square,
    Floor,
    Ceil,
    /// To the next whole number towards zero.
    Trunc,
    /// To the nearest whole number, ties to even.
    Round,
    Exp,
    Log,
    Sin,
    Cos,
    Tanh,
    Erf,
    /// x times the share of the normal distribution below x.
    Gelu,
    Sigmoid,
    /// log(1 + e^x).
    Softplus,
    /// x / (1 + |x|).
    Softsign,
    /// x kept in `low..=high`.
    Clip {
        low: f32,
        high: f32,
    },
    /// x, below zero `alpha * x`.
    LeakyRelu {
        alpha: f32,
    },
    /// x, below zero `alpha * (e^x - 1)`.
    Elu {
        alpha: f32,
    },
    /// `alpha * x + beta` kept in 0..=1.
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    /// x times x / 6 + 1 / 2 kept in 0..=1.
    HardSwish,
}

impl Unary {
    /// max(x, 0).
    pub const RELU: Unary = Unary::Clip { low: 0.0, high: f32::INFINITY };
    /// x kept in 0..=6.
    pub const RELU6: Unary = Unary::Clip { low: 0.0, high: 6.0 };
    /// x kept in -1..=1.
    pub const RELU_N1_TO_1: Unary = Unary::Clip { low: -1.0, high: 1.0 };
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "functions that everybody knows by these names")]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Min,
    Max,
    /// The first, below zero multiplied by the second.
    PRelu,
    // Truth values are 1 and 0.
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// How many numbers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "functions that everybody knows by these names")]
pub enum Reduction {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    SumSquare,
    L1,
    L2,
}

/// Which indices of a dimension are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// All, in order.
    All,
    /// These, in this order; `None` is none of them, but what stands in.
    These(Vec<Option<usize>>),
}

impl Pick {
    /// How many indices are taken of a dimension of `len`.
    pub fn n_taken(&self, len: usize) -> usize {
        match self {
            Pick::All => len,
            Pick::These(indices) => indices.len(),
        }
    }

    /// Those that are taken of a dimension of `len`.
    pub fn indices(&self, len: usize) -> Vec<Option<usize>> {
        match self {
            Pick::All => (0..len).map(Some).collect(),
            Pick::These(indices) => indices.clone(),
        }
    }
}

/// A sliding window; each pair is vertical, horizontal. All numbers are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sliding {
    /// What lies beyond the edge.
    pub padding: Padding,
    /// Steps.
    pub stride: [usize; 2],
    /// Distance of neighbours in the window.
    pub dilation: [usize; 2],
}

/// What a node computes.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Image, weights, perhaps a bias.
    Conv2d {
        /// How the window moves.
        sliding: Sliding,
        /// What follows.
        activation: Activation,
    },
    /// Image, weights, perhaps a bias; output channel `c * multiplier + m` sees input channel `c`.
    DepthwiseConv2d {
        /// How the window moves.
        sliding: Sliding,
        /// Output channels for each input channel.
        multiplier: usize,
        /// What follows.
        activation: Activation,
    },
    /// Rows, weights `[out, in]`, perhaps a bias.
    FullyConnected {
        /// Whether the output has as many dimensions as the input, and not two.
        keeps_dims: bool,
        /// What follows.
        activation: Activation,
    },
    /// Two tensors of one shape.
    Add {
        /// What follows.
        activation: Activation,
    },
    /// The mean of each window; what is padded does not count.
    AveragePool2d {
        /// Rows and columns of the window.
        size: [usize; 2],
        /// How it moves; not dilated.
        sliding: Sliding,
        /// What follows.
        activation: Activation,
    },
    /// Tensor and axes.
    Mean {
        /// Whether reduced dimensions stay, as 1.
        keeps_dims: bool,
    },
    /// Tensor and, for each dimension, elements before and after.
    Pad,
    /// Tensor and, perhaps, the new shape; -1 is whatever is left.
    Reshape {
        /// Where the shape is not a tensor.
        shape: Option<Vec<i32>>,
    },
    /// Over the last dimension.
    Softmax {
        /// Factor of the exponents.
        beta: f32,
    },
    /// The shape of a tensor.
    Shape,
    /// Tensor, begin, end, strides.
    StridedSlice {
        /// Bit i: the beginning of dimension i is open.
        begin_mask: u32,
        /// Bit i: the end of dimension i is open.
        end_mask: u32,
        /// Bit i: dimension i has one index, and goes.
        shrink_mask: u32,
    },
    /// Tensors of one shape, side by side along a new dimension.
    Pack {
        /// Where the new dimension is.
        axis: i32,
    },
    /// A function of each element.
    Unary(Unary),
    /// A function of the elements of two tensors, broadcast; on floats.
    Binary(Binary),
    /// Products of matrices, the last two dimensions; those before are broadcast.
    MatMul,
    /// Dimension i of the output is dimension `perm[i]` of the input.
    Transpose {
        /// Each dimension once.
        perm: Vec<usize>,
    },
    /// What is taken of each dimension.
    Take {
        /// One for each dimension.
        picks: Vec<Pick>,
        /// What stands where nothing is taken.
        fill: f32,
    },
    /// Tensor and, as floats, indices of its dimension `axis`, in whose place their dimensions come. Negative ones count
    /// from the end; what an index beyond it gives is not a number.
    Gather {
        /// Which dimension.
        axis: usize,
    },
    /// Truth values, and two tensors: of the first where it is true (not 0), else of the second; all are broadcast.
    Select,
    /// Tensors side by side along a dimension that they have.
    Concat {
        /// Which; negative is from the end.
        axis: i32,
    },
    /// All elements along some dimensions as one.
    Reduce {
        /// How.
        reduction: Reduction,
        /// Which dimensions.
        axes: Vec<usize>,
        /// Whether they stay, as 1.
        keeps_dims: bool,
    },
    /// The largest of each window; what is padded does not count.
    MaxPool2d {
        /// Rows and columns of the window.
        size: [usize; 2],
        /// How it moves.
        sliding: Sliding,
        /// What follows.
        activation: Activation,
    },
    /// Long short-term memory, forward, as ONNX lays out its inputs: sequence, weights, recurrent weights, biases, hidden
    /// and cell state.
    Lstm,
    /// Floats as bytes with the output's scale.
    Quantize,
    /// Bytes as floats.
    Dequantize,
}

impl Op {
    /// What follows a layer on the spot; `None` for operators that nothing can follow so.
    pub fn activation_mut(&mut self) -> Option<&mut Activation> {
        match self {
            Op::Conv2d { activation, .. }
            | Op::DepthwiseConv2d { activation, .. }
            | Op::FullyConnected { activation, .. }
            | Op::Add { activation } => Some(activation),
            _ => None,
        }
    }

    /// TFLite's name, or ours for what it lacks.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv2d { .. } => "CONV_2D",
            Op::DepthwiseConv2d { .. } => "DEPTHWISE_CONV_2D",
            Op::FullyConnected { .. } => "FULLY_CONNECTED",
            Op::Add { .. } => "ADD",
            Op::AveragePool2d { .. } => "AVERAGE_POOL_2D",
            Op::Mean { .. } => "MEAN",
            Op::Pad => "PAD",
            Op::Reshape { .. } => "RESHAPE",
            Op::Softmax { .. } => "SOFTMAX",
            Op::Shape => "SHAPE",
            Op::StridedSlice { .. } => "STRIDED_SLICE",
            Op::Pack { .. } => "PACK",
            Op::Unary(function) => function.name(),
            Op::Binary(function) => function.name(),
            Op::MatMul => "BATCH_MATMUL",
            Op::Transpose { .. } => "TRANSPOSE",
            Op::Take { .. } => "TAKE",
            Op::Gather { .. } => "GATHER",
            Op::Select => "SELECT_V2",
            Op::Concat { .. } => "CONCATENATION",
            Op::Reduce { .. } => "REDUCE",
            Op::MaxPool2d { .. } => "MAX_POOL_2D",
            Op::Lstm => "LSTM",
            Op::Quantize => "QUANTIZE",
            Op::Dequantize => "DEQUANTIZE",
        }
    }
}

impl Unary {
    fn name(self) -> &'static str {
        match self {
            Unary::Abs => "ABS",
            Unary::Neg => "NEG",
            Unary::Sign => "SIGN",
            Unary::Reciprocal => "RECIPROCAL",
            Unary::Sqrt => "SQRT",
            Unary::Square => "SQUARE",
            Unary::Floor => "FLOOR",
            Unary::Ceil => "CEIL",
            Unary::Trunc => "TRUNC",
            Unary::Round => "ROUND",
            Unary::Exp => "EXP",
            Unary::Log => "LOG",
            Unary::Sin => "SIN",
            Unary::Cos => "COS",
            Unary::Tanh => "TANH",
            Unary::Erf => "ERF",
            Unary::Gelu => "GELU",
            Unary::Sigmoid => "LOGISTIC",
            Unary::Softplus => "SOFTPLUS",
            Unary::Softsign => "SOFTSIGN",
            Unary::RELU => "RELU",
            Unary::RELU6 => "RELU6",
            Unary::RELU_N1_TO_1 => "RELU_N1_TO_1",
            Unary::Clip { .. } => "CLIP",
            Unary::LeakyRelu { .. } => "LEAKY_RELU",
            Unary::Elu { .. } => "ELU",
            Unary::HardSigmoid { .. } => "HARD_SIGMOID",
            Unary::HardSwish => "HARD_SWISH",
        }
    }
}

impl Binary {
    fn name(self) -> &'static str {
        match self {
            Binary::Add => "ADD",
            Binary::Sub => "SUB",
            Binary::Mul => "MUL",
            Binary::Div => "DIV",
            Binary::Pow => "POW",
            Binary::Min => "MINIMUM",
            Binary::Max => "MAXIMUM",
            Binary::PRelu => "PRELU",
            Binary::Equal => "EQUAL",
            Binary::NotEqual => "NOT_EQUAL",
            Binary::Less => "LESS",
            Binary::LessOrEqual => "LESS_EQUAL",
            Binary::Greater => "GREATER",
            Binary::GreaterOrEqual => "GREATER_EQUAL",
        }
    }
}

/// An operator, what it is given and what it gives.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// In the order that the operator names; `None` is left out.
    pub inputs: Vec<Option<TensorId>>,
    /// One for each result.
    pub outputs: Vec<TensorId>,
}

/// A network.
#[derive(Clone, Debug)]
pub struct Graph {
    /// All tensors.
    pub tensors: Vec<Tensor>,
    /// In the order in which they run.
    pub nodes: Vec<Node>,
    /// What the caller gives.
    pub inputs: Vec<TensorId>,
    /// What the caller gets.
    pub outputs: Vec<TensorId>,
}

impl Graph {
    /// How often each tensor is used, by operators and as an output.
    pub fn n_uses(&self) -> Vec<usize> {
        let mut n_uses = vec![0; self.tensors.len()];
        for id in self.nodes.iter().flat_map(|node| node.inputs.iter().flatten()).chain(&self.outputs) {
            n_uses[*id] += 1;
        }
        n_uses
    }

    /// Gives each activation on floats to the layer before it, where nobody else wants what that gives.
    pub(crate) fn fuse_activations(&mut self) {
        let n_uses = self.n_uses();
        let mut makers: HashMap<TensorId, usize> = HashMap::new();
        let mut kept: Vec<Node> = Vec::new();
        for node in std::mem::take(&mut self.nodes) {
            let fused = match node.op {
                Op::Unary(Unary::RELU) => Some(Activation::Relu),
                Op::Unary(Unary::RELU6) => Some(Activation::Relu6),
                _ => None,
            };
            let input = node.inputs.first().copied().flatten().filter(|id| n_uses[*id] == 1);
            if let (Some(fused), Some(maker)) = (fused, input.and_then(|id| makers.get(&id)))
                && self.tensors[node.outputs[0]].element_type == ElementType::F32
                && self.is_shape_kept(&kept[*maker])
                && let Some(activation) = kept[*maker].op.activation_mut()
                && *activation == Activation::None
            {
                *activation = fused;
                kept[*maker].outputs[0] = node.outputs[0];
                makers.insert(node.outputs[0], *maker);
                continue;
            }
            makers.extend(node.outputs.iter().map(|id| (*id, kept.len())));
            kept.push(node);
        }
        self.nodes = kept;
    }

    /// Whether a node is no sum of tensors of different shapes: those have no activation behind them.
    fn is_shape_kept(&self, node: &Node) -> bool {
        let shape = |id: &Option<TensorId>| id.map(|id| &self.tensors[id].shape);
        !matches!(node.op, Op::Add { .. }) || node.inputs.iter().all(|id| shape(id) == shape(&node.inputs[0]))
    }

    /// Checks what the invariants say about the order of nodes: whatever is used is there before, and made once.
    pub(crate) fn check_order(&self) -> Result<(), Error> {
        let mut is_known: Vec<bool> = self.tensors.iter().map(|tensor| tensor.constant.is_some()).collect();
        for id in &self.inputs {
            if std::mem::replace(&mut is_known[*id], true) {
                return Err(Error::malformed(
                    "inputs",
                    format!("tensor {id} is an input twice, or a constant"),
                ));
            }
        }
        for (idx, node) in self.nodes.iter().enumerate() {
            let place = || format!("operator {idx} ({})", node.op.name());
            if let Some(id) = node.inputs.iter().flatten().find(|id| !is_known[**id]) {
                return Err(Error::malformed(place(), format!("tensor {id} is used before it is computed")));
            }
            for id in &node.outputs {
                if std::mem::replace(&mut is_known[*id], true) {
                    return Err(Error::malformed(place(), format!("tensor {id} is computed twice")));
                }
            }
        }
        match self.outputs.iter().find(|id| !is_known[**id]) {
            Some(id) => Err(Error::malformed("outputs", format!("tensor {id} is never computed"))),
            None => Ok(()),
        }
    }
}
