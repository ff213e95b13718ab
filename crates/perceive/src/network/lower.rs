//! From a graph to steps: shapes are computed and compared with the file's, layers choose their kernels.

use edgeward_kernels::net::{Plane, Rounding};

use super::fold::{self, Known};
use super::layers;
use super::memory::{Value, ValueId};
use super::{Arithmetic, Port, Step};
use crate::error::Error;
use crate::graph::{Activation, Constant, ElementType, Graph, Node, Op, Tensor, TensorId, checked_size};

/// Nodes of the largest network. Placing values takes time by the square of their number.
const MAX_NODES: usize = 4096;

/// What lowering gives.
pub struct Plan {
    pub steps: Vec<Box<dyn Step>>,
    pub values: Vec<Value>,
    /// Values that are there before the first run, and never written.
    pub constants: Vec<(ValueId, Constant)>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub weight_bytes: u64,
    pub macs: u64,
}

/// Lowers `graph`; weights beyond `limit_bytes` are refused before they are laid out.
pub fn lower(graph: &Graph, arithmetic: Arithmetic, limit_bytes: u64) -> Result<Plan, Error> {
    if graph.nodes.len() > MAX_NODES {
        return Err(Error::unsupported(
            "graph",
            format!("{} operators; {MAX_NODES} are the most", graph.nodes.len()),
        ));
    }
    let n_tensors = graph.tensors.len();
    let mut lowering = Lowering {
        graph,
        arithmetic,
        limit_bytes,
        plan: Plan {
            steps: Vec::new(),
            values: Vec::new(),
            constants: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            weight_bytes: 0,
            macs: 0,
        },
        active: vec![None; n_tensors],
        known: vec![None; n_tensors],
        materialised: vec![None; n_tensors],
    };
    for id in &graph.inputs {
        let tensor = &graph.tensors[*id];
        let place = format!("input tensor {id}");
        if !matches!(tensor.element_type, ElementType::F32 | ElementType::I8) {
            return Err(Error::unsupported(place, format!("elements of type {}", tensor.element_type)));
        }
        let value = lowering.new_value(&tensor.shape, tensor.element_type, &place)?;
        lowering.active[*id] = Some(value);
        // Written before the first step.
        lowering.plan.values[value].touch(0);
        let port = lowering.port(*id, value)?;
        lowering.plan.inputs.push(port);
    }
    for (idx, node) in graph.nodes.iter().enumerate() {
        let place = format!("operator {idx} ({})", node.op.name());
        lowering.node(node, &place)?;
    }
    for id in &graph.outputs {
        let constant = lowering.materialise(*id, "outputs")?;
        let Some(value) = lowering.active[*id].or(constant) else {
            return Err(Error::unsupported(
                format!("output tensor {id}"),
                "a result that is known beforehand",
            ));
        };
        // Read after the last step.
        let end = lowering.plan.steps.len();
        lowering.plan.values[value].touch(end);
        let port = lowering.port(*id, value)?;
        lowering.plan.outputs.push(port);
    }
    Ok(lowering.plan)
}

/// A graph on its way to steps.
pub struct Lowering<'g> {
    graph: &'g Graph,
    pub arithmetic: Arithmetic,
    limit_bytes: u64,
    plan: Plan,
    /// For each tensor that is computed while it runs, its value.
    active: Vec<Option<ValueId>>,
    /// For each tensor of integers that were computed beforehand, those.
    known: Vec<Option<Known>>,
    /// For each constant that operators meet element by element, its value.
    materialised: Vec<Option<ValueId>>,
}

/// An operand that is computed while the network runs.
#[derive(Clone, Copy)]
pub struct Operand<'g> {
    pub tensor: &'g Tensor,
    pub value: ValueId,
}

/// Scale and zero point of an eight-bit tensor, the latter of unsigned bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    pub scale: f32,
    pub zero: u8,
}

impl Affine {
    /// Bounds of bytes after an activation.
    pub fn range(self, activation: Activation) -> (u8, u8) {
        let (low, high) = activation.range();
        let byte = |x: f32| (f32::from(self.zero) + (x / self.scale).round()).clamp(0.0, 255.0) as u8;
        (byte(low), byte(high))
    }
}

impl<'g> Lowering<'g> {
    fn node(&mut self, node: &Node, place: &str) -> Result<(), Error> {
        match &node.op {
            Op::Conv2d { sliding, activation } => {
                layers::conv::conv2d(self, node, place, *sliding, *activation)
            }
            Op::DepthwiseConv2d { sliding, multiplier, activation } => {
                layers::conv::depthwise(self, node, place, *sliding, *multiplier, *activation)
            }
            Op::FullyConnected { keeps_dims, activation } => {
                layers::conv::fully_connected(self, node, place, *keeps_dims, *activation)
            }
            Op::Add { activation } => layers::pointwise::add(self, node, place, *activation),
            Op::AveragePool2d { size, sliding, activation } => {
                layers::pool::average(self, node, place, *size, *sliding, *activation)
            }
            Op::Mean { keeps_dims } => layers::pool::mean(self, node, place, *keeps_dims),
            Op::Pad => layers::pointwise::pad(self, node, place),
            Op::Reshape { shape } => self.reshape(node, place, shape.as_deref()),
            Op::Unary(function) => layers::elementwise::unary(self, node, place, *function),
            Op::Binary(function) => layers::elementwise::binary(self, node, place, *function),
            Op::MatMul => layers::matmul::matmul(self, node, place),
            Op::Transpose { perm } => layers::rearrange::transpose(self, node, place, perm),
            Op::Take { picks, fill } => layers::rearrange::take(self, node, place, picks, *fill),
            Op::Gather { axis } => layers::choose::gather(self, node, place, *axis),
            Op::Select => layers::choose::select(self, node, place),
            Op::Concat { axis } => layers::rearrange::concat(self, node, place, *axis),
            Op::Reduce { reduction, axes, keeps_dims } => {
                layers::reduce::reduce(self, node, place, (*reduction, axes, *keeps_dims))
            }
            Op::MaxPool2d { size, sliding, activation } => {
                layers::pool::max(self, node, place, *size, *sliding, *activation)
            }
            Op::Lstm => layers::recurrent::lstm(self, node, place),
            Op::Quantize => layers::convert::quantize(self, node, place),
            Op::Dequantize => layers::convert::dequantize(self, node, place),
            Op::Softmax { beta } => layers::softmax::softmax(self, node, place, *beta),
            Op::Shape | Op::StridedSlice { .. } | Op::Pack { .. } => {
                let known = fold::fold(self, node, place)?;
                self.known[node.outputs[0]] = Some(known);
                Ok(())
            }
        }
    }

    /// The same elements in another shape: no step at all.
    fn reshape(&mut self, node: &Node, place: &str, option: Option<&[i32]>) -> Result<(), Error> {
        let input = self.operand(node, 0, place)?;
        let known = node.inputs.get(1).copied().flatten().map(|id| {
            self.known(id).ok_or_else(|| Error::unsupported(place, "a shape computed while it runs"))
        });
        let wanted = match (known.transpose()?, option) {
            (Some(known), _) => known.values,
            (None, Some(shape)) => shape.to_vec(),
            (None, None) => return Err(Error::malformed(place, "the new shape is left out")),
        };
        let n_elements = input.tensor.n_elements();
        let given: Option<usize> = wanted
            .iter()
            .filter(|dim| **dim != -1)
            .try_fold(1usize, |n, dim| n.checked_mul(usize::try_from(*dim).ok()?));
        let mut n_open = 0;
        let mut shape = Vec::new();
        for dim in &wanted {
            shape.push(match (usize::try_from(*dim), given) {
                (Ok(dim), _) => dim,
                (Err(_), Some(given)) if *dim == -1 && given > 0 => {
                    n_open += 1;
                    n_elements / given
                }
                _ => return Err(Error::malformed(place, format!("the new shape is {wanted:?}"))),
            });
        }
        if n_open > 1 || checked_size(&shape, ElementType::I8) != Some(n_elements) {
            return Err(Error::malformed(
                place,
                format!("{n_elements} elements cannot have the shape {wanted:?}"),
            ));
        }
        let id = node.outputs[0];
        let tensor = &self.graph.tensors[id];
        self.check(tensor, &shape, input.tensor.element_type, place)?;
        self.same_scale(input.tensor, tensor, place)?;
        self.active[id] = Some(input.value);
        Ok(())
    }

    /// Input `idx` of `node`, computed while the network runs. It has elements, at most four dimensions.
    pub fn operand(&self, node: &Node, idx: usize, place: &str) -> Result<Operand<'g>, Error> {
        let id =
            node.inputs[idx].ok_or_else(|| Error::malformed(place, format!("input {idx} is left out")))?;
        match self.active[id] {
            Some(value) => Ok(Operand { tensor: &self.graph.tensors[id], value }),
            None => Err(Error::unsupported(place, format!("a constant as input {idx}"))),
        }
    }

    /// Input `idx` of `node`, computed while the network runs or a constant of floats, which is then kept in memory as
    /// activations are.
    pub fn any_operand(&mut self, node: &Node, idx: usize, place: &str) -> Result<Operand<'g>, Error> {
        let id =
            node.inputs[idx].ok_or_else(|| Error::malformed(place, format!("input {idx} is left out")))?;
        match self.materialise(id, place)? {
            Some(value) => Ok(Operand { tensor: &self.graph.tensors[id], value }),
            None => self.operand(node, idx, place),
        }
    }

    /// The value of a constant of floats; `None` if it is none.
    fn materialise(&mut self, id: TensorId, place: &str) -> Result<Option<ValueId>, Error> {
        let tensor = &self.graph.tensors[id];
        let Some(constant) = tensor.constant.as_ref().filter(|_| tensor.element_type == ElementType::F32)
        else {
            return Ok(None);
        };
        if let Some(value) = self.materialised[id] {
            return Ok(Some(value));
        }
        let value = self.new_value(&tensor.shape, ElementType::F32, place)?;
        // For ever: nothing else may lie there.
        self.plan.values[value].life = Some(0..=usize::MAX);
        self.plan.constants.push((value, constant.clone()));
        self.materialised[id] = Some(value);
        Ok(Some(value))
    }

    /// Input `idx` of `node`, a constant; `None` if it is left out.
    pub fn constant(
        &self,
        node: &Node,
        idx: usize,
        place: &str,
    ) -> Result<Option<(&'g Tensor, &'g Constant)>, Error> {
        let Some(id) = node.inputs.get(idx).copied().flatten() else { return Ok(None) };
        let tensor = &self.graph.tensors[id];
        match &tensor.constant {
            Some(constant) => Ok(Some((tensor, constant))),
            None => Err(Error::unsupported(place, format!("input {idx} that is not a constant"))),
        }
    }

    /// Integers that are known beforehand.
    pub fn known(&self, id: TensorId) -> Option<Known> {
        let tensor = &self.graph.tensors[id];
        match &tensor.constant {
            Some(constant) if tensor.element_type == ElementType::I32 => {
                fold::constant(&tensor.shape, constant.i32s())
            }
            _ => self.known[id].clone(),
        }
    }

    /// The shape of a tensor that is computed while it runs, as this has computed it.
    pub fn shape(&self, id: TensorId, place: &str) -> Result<&'g [usize], Error> {
        let tensor = &self.graph.tensors[id];
        match (self.active[id], &tensor.constant) {
            (None, None) => Err(Error::unsupported(place, "the shape of a shape")),
            _ => Ok(&tensor.shape),
        }
    }

    /// The output of `node`, for which `shape` was computed: a new value.
    pub fn output(
        &mut self,
        node: &Node,
        shape: &[usize],
        element_type: ElementType,
        place: &str,
    ) -> Result<Operand<'g>, Error> {
        self.output_at(node, 0, shape, element_type, place)
    }

    /// The same for output `idx`.
    pub fn output_at(
        &mut self,
        node: &Node,
        idx: usize,
        shape: &[usize],
        element_type: ElementType,
        place: &str,
    ) -> Result<Operand<'g>, Error> {
        let id = node.outputs[idx];
        let tensor = &self.graph.tensors[id];
        self.check(tensor, shape, element_type, place)?;
        let value = self.new_value(shape, element_type, place)?;
        self.active[id] = Some(value);
        Ok(Operand { tensor, value })
    }

    fn check(
        &self,
        tensor: &Tensor,
        shape: &[usize],
        element_type: ElementType,
        place: &str,
    ) -> Result<(), Error> {
        if tensor.shape != shape || tensor.constant.is_some() {
            let what = format!("its output has shape {shape:?}, and the file says {:?}", tensor.shape);
            return Err(Error::malformed(place, what));
        }
        if tensor.element_type != element_type {
            let what =
                format!("an output of type {} from an input of type {element_type}", tensor.element_type);
            return Err(Error::unsupported(place, what));
        }
        Ok(())
    }

    /// A value that no tensor stands for, or an output's.
    pub fn new_value(
        &mut self,
        shape: &[usize],
        element_type: ElementType,
        place: &str,
    ) -> Result<ValueId, Error> {
        let size_bytes = checked_size(shape, element_type)
            .ok_or_else(|| Error::malformed(place, format!("the shape {shape:?} is beyond any memory")))?;
        if size_bytes == 0 {
            return Err(Error::unsupported(place, format!("nothing, of shape {shape:?}")));
        }
        // Above the limit by itself: the plan's sums stay far from overflowing.
        if size_bytes as u64 > self.limit_bytes {
            return Err(Error::TooLarge { needed_bytes: size_bytes as u64, limit_bytes: self.limit_bytes });
        }
        let element_bytes = element_type.size_bytes();
        self.plan.values.push(Value { size_bytes, element_bytes, life: None });
        Ok(self.plan.values.len() - 1)
    }

    /// Counts `bytes` of weights, before they are laid out; `None` is more than any number.
    pub fn reserve(&mut self, bytes: Option<usize>) -> Result<(), Error> {
        let bytes = bytes.map_or(u64::MAX, |bytes| bytes as u64);
        let needed_bytes = self.plan.weight_bytes.saturating_add(bytes);
        if needed_bytes > self.limit_bytes {
            return Err(Error::TooLarge { needed_bytes, limit_bytes: self.limit_bytes });
        }
        self.plan.weight_bytes = needed_bytes;
        Ok(())
    }

    /// Bytes that a network may take.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// How sums come back to eight bits.
    pub fn rounding(&self) -> Rounding {
        match self.arithmetic {
            Arithmetic::Xnnpack => Rounding::Float,
            Arithmetic::Reference => Rounding::FixedPoint,
        }
    }

    /// Counts multiply-adds.
    pub fn count_macs(&mut self, macs: u64) {
        self.plan.macs = self.plan.macs.saturating_add(macs);
    }

    /// Adds a step, which touches `values` and no others.
    pub fn push(&mut self, step: impl Step + 'static, values: &[ValueId]) {
        let idx = self.plan.steps.len();
        for value in values {
            self.plan.values[*value].touch(idx);
        }
        self.plan.steps.push(Box::new(step));
    }

    /// How the bytes of an activation are meant.
    pub fn affine(&self, tensor: &Tensor, place: &str) -> Result<Affine, Error> {
        let quantization = tensor.quantization.as_ref();
        let quantization = quantization.ok_or_else(|| Error::unsupported(place, "bytes without a scale"))?;
        match (quantization.scales.as_slice(), quantization.zeros.as_slice()) {
            ([scale], [zero @ -128..=127]) => Ok(Affine { scale: *scale, zero: (zero + 128) as u8 }),
            ([_], [zero]) => Err(Error::malformed(place, format!("zero point {zero} is not a byte"))),
            _ => Err(Error::unsupported(place, "activations with several scales")),
        }
    }

    /// # Errors
    /// If bytes are not meant alike in what a node is given and what it gives, though it only moves them.
    pub fn same_scale(&self, input: &Tensor, output: &Tensor, place: &str) -> Result<(), Error> {
        let is_bytes = input.element_type == ElementType::I8;
        if is_bytes && self.affine(input, place)? != self.affine(output, place)? {
            return Err(Error::unsupported(place, "another scale or zero point for its output"));
        }
        Ok(())
    }

    fn port(&self, id: TensorId, value: ValueId) -> Result<Port, Error> {
        let tensor = &self.graph.tensors[id];
        let quantization = match tensor.element_type {
            ElementType::I8 => {
                let affine = self.affine(tensor, &format!("tensor {id}"))?;
                Some((affine.scale, i32::from(affine.zero) - 128))
            }
            _ => None,
        };
        Ok(Port {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            element_type: tensor.element_type,
            quantization,
            value,
        })
    }
}

/// An activation as images.
#[derive(Clone, Copy, Debug)]
pub struct Images {
    pub n: usize,
    pub plane: Plane,
}

impl Images {
    /// `[n, height, width, channels]`.
    pub fn of(tensor: &Tensor, place: &str) -> Result<Images, Error> {
        match tensor.shape.as_slice() {
            [n, height, width, channels] => {
                Ok(Images { n: *n, plane: Plane::dense(*height, *width, *channels) })
            }
            other => {
                Err(Error::malformed(place, format!("{} dimensions, and an image has four", other.len())))
            }
        }
    }

    pub fn shape(&self) -> [usize; 4] {
        [self.n, self.plane.height, self.plane.width, self.plane.channels]
    }
}
