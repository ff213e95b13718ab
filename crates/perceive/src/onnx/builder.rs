//! A graph in the making: names and what they stand for, and the moves that work on anything.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::Settings;
use super::model::{Dim, GraphProto, NodeProto, TensorProto, kind};
use crate::error::Error;
use crate::graph::{
    Activation, Binary, Constant, ElementType, Graph, MAX_DIMS, Node, Op, Pick, Quantization, Tensor,
    TensorId, Unary, checked_size,
};
use crate::network::walk::{Walk, broadcast, broadcast_strides, dense_strides};

/// Elements of all constants and lists of indices that a file makes beside those that it holds.
const MAX_MADE: usize = 1 << 21;
/// Operators in all, branches that are chosen included.
const MAX_NODES: usize = 1 << 16;

/// What a name stands for.
#[derive(Clone, Debug)]
pub struct Item {
    pub shape: Vec<usize>,
    pub data: Data,
    /// ONNX's type of its elements ([`kind`]): data keeps all that are computed as floats or bytes.
    pub kind: i64,
    /// Where it was bytes just before.
    pub bytes: Option<Rc<Bytes>>,
}

/// Its elements.
#[derive(Clone, Debug)]
pub enum Data {
    /// Computed while the network runs: floats, which may stand for integers and truth values, or bytes.
    Active(TensorId),
    /// Known floats.
    Floats(Rc<[f32]>),
    /// Known integers or truth values.
    Ints(Rc<[i64]>),
}

/// What became floats by `DequantizeLinear`.
#[derive(Clone, Debug)]
pub struct Bytes {
    pub item: Item,
    pub quantization: Quantization,
}

impl Item {
    pub fn active(id: TensorId, shape: Vec<usize>) -> Item {
        Item { shape, data: Data::Active(id), kind: kind::FLOAT, bytes: None }
    }

    pub fn floats(shape: Vec<usize>, values: Vec<f32>) -> Item {
        Item { shape, data: Data::Floats(values.into()), kind: kind::FLOAT, bytes: None }
    }

    pub fn ints(shape: Vec<usize>, values: Vec<i64>) -> Item {
        Item { shape, data: Data::Ints(values.into()), kind: kind::INT64, bytes: None }
    }

    /// The same elements, of another type.
    pub fn of_kind(self, kind: i64) -> Item {
        Item { kind, ..self }
    }

    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The nodes of a graph or branch, and who uses what.
pub struct Scope<'p> {
    pub nodes: &'p [NodeProto<'p>],
    consumers: HashMap<&'p str, Vec<usize>>,
    results: HashSet<&'p str>,
    /// Nodes that an earlier one has taken into itself.
    pub done: HashSet<usize>,
}

impl<'p> Scope<'p> {
    fn new(graph: &'p GraphProto<'p>) -> Scope<'p> {
        let mut consumers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (idx, node) in graph.nodes.iter().enumerate() {
            for input in &node.inputs {
                consumers.entry(input).or_default().push(idx);
            }
        }
        let results = graph.outputs.iter().map(|output| output.name.as_str()).collect();
        Scope { nodes: &graph.nodes, consumers, results, done: HashSet::new() }
    }

    /// The one node that uses `name`, if there is but one and it is no result.
    pub fn only_consumer(&self, name: &str) -> Option<usize> {
        match self.consumers.get(name).map(Vec::as_slice) {
            Some([idx]) if !self.results.contains(name) => Some(*idx),
            _ => None,
        }
    }
}

/// A graph in the making.
pub struct Builder<'s> {
    pub opset: i64,
    settings: &'s Settings,
    graph: Graph,
    pub names: HashMap<String, Item>,
    /// For each tensor as the file means it, channels first, the one with channels last that it was made from.
    twins: HashMap<TensorId, TensorId>,
    /// For each tensor of bytes whose scale is not known yet, the one that it was moved from.
    moved: HashMap<TensorId, TensorId>,
    n_made: usize,
    n_nodes: usize,
}

impl<'s> Builder<'s> {
    pub fn new(opset: i64, settings: &'s Settings) -> Builder<'s> {
        let graph = Graph { tensors: Vec::new(), nodes: Vec::new(), inputs: Vec::new(), outputs: Vec::new() };
        Builder {
            opset,
            settings,
            graph,
            names: HashMap::new(),
            twins: HashMap::new(),
            moved: HashMap::new(),
            n_made: 0,
            n_nodes: 0,
        }
    }

    /// The whole graph.
    pub fn build(mut self, proto: &GraphProto<'_>) -> Result<Graph, Error> {
        if !(1..=21).contains(&self.opset) {
            let what = format!("operators of version {}; versions 1 to 21 are read", self.opset);
            return Err(Error::unsupported("file", what));
        }
        self.initializers(proto)?;
        for input in &proto.inputs {
            let place = format!("input {}", input.name);
            if self.names.contains_key(&input.name) {
                // Older files list their weights among their inputs.
                continue;
            }
            let dims =
                input.shape.as_ref().ok_or_else(|| Error::unsupported(&place, "a tensor of any shape"))?;
            let shape: Vec<usize> = dims
                .iter()
                .map(|dim| match dim {
                    Dim::Known(n) => usize::try_from(*n).ok(),
                    Dim::Named(name) => Some(self.settings.dims.get(name).copied().unwrap_or(1)),
                })
                .collect::<Option<_>>()
                .ok_or_else(|| Error::malformed(&place, "a dimension is negative"))?;
            if let Some(values) = self.settings.inputs.get(&input.name) {
                let item = self.given(&shape, values, input.kind, &place)?;
                self.names.insert(input.name.clone(), item.of_kind(input.kind));
                continue;
            }
            let element_type = match input.kind {
                // Whole numbers are given as floats.
                kind::FLOAT | kind::INT64 | kind::INT32 | kind::BOOL => ElementType::F32,
                kind::UINT8 | kind::INT8 => ElementType::I8,
                other => {
                    let what = format!("elements of type {}; give its value beforehand", kind::name(other));
                    return Err(Error::unsupported(&place, what));
                }
            };
            let id = self.tensor(input.name.clone(), shape.clone(), element_type, &place)?;
            self.graph.inputs.push(id);
            self.names.insert(input.name.clone(), Item::active(id, shape).of_kind(input.kind));
        }
        self.run(proto)?;
        for output in &proto.outputs {
            let place = format!("output {}", output.name);
            let item = self.names.get(&output.name).cloned();
            let item = item.ok_or_else(|| Error::malformed(&place, "it is never computed"))?;
            let mut id = self.tensor_of(&item, &place)?;
            if self.graph.inputs.contains(&id) || self.graph.outputs.contains(&id) {
                // A reshaping to the same shape gives it a tensor of its own.
                let shape = item.shape.iter().map(|dim| *dim as i32).collect();
                id = self.emit(Op::Reshape { shape: Some(shape) }, &[id], item.shape.clone(), &place)?;
            }
            self.graph.tensors[id].name.clone_from(&output.name);
            self.graph.outputs.push(id);
        }
        self.tidy();
        self.graph.check_order()?;
        Ok(self.graph)
    }

    fn given(&self, shape: &[usize], values: &[f64], kind: i64, place: &str) -> Result<Item, Error> {
        let mut shape = shape.to_vec();
        if checked_size(&shape, ElementType::I8) != Some(values.len()) {
            // A list whose length the file leaves open.
            if shape.len() != 1 {
                let what = format!("{} values given for shape {shape:?}", values.len());
                return Err(Error::malformed(place, what));
            }
            shape = vec![values.len()];
        }
        Ok(match kind {
            kind::FLOAT => Item::floats(shape, values.iter().map(|value| *value as f32).collect()),
            _ => Item::ints(shape, values.iter().map(|value| *value as i64).collect()),
        })
    }

    fn initializers(&mut self, proto: &GraphProto<'_>) -> Result<(), Error> {
        for tensor in &proto.initializers {
            let item = constant(tensor, &format!("initializer {}", tensor.name))?;
            self.names.insert(tensor.name.clone(), item);
        }
        Ok(())
    }

    fn run(&mut self, proto: &GraphProto<'_>) -> Result<(), Error> {
        let mut scope = Scope::new(proto);
        for (idx, node) in proto.nodes.iter().enumerate() {
            self.n_nodes += 1;
            if self.n_nodes > MAX_NODES {
                return Err(Error::unsupported("graph", format!("more than {MAX_NODES} operators")));
            }
            if scope.done.contains(&idx) {
                continue;
            }
            let name = if node.name.is_empty() { format!("operator {idx}") } else { node.name.clone() };
            let place = format!("{name} ({})", node.op);
            if !(node.domain.is_empty() || node.domain == "ai.onnx") {
                return Err(Error::unsupported(place, format!("an operator of {}", node.domain)));
            }
            let results = self.node(&mut scope, idx, &place)?;
            for (output, item) in node.outputs.iter().zip(results) {
                if !output.is_empty() {
                    self.names.insert(output.clone(), item);
                }
            }
        }
        Ok(())
    }

    /// A branch of `If`, whose names are the graph's; its results.
    pub fn branch(&mut self, proto: &GraphProto<'_>, place: &str) -> Result<Vec<Item>, Error> {
        let outer = self.names.clone();
        self.initializers(proto)?;
        self.run(proto)?;
        let results = proto.outputs.iter().map(|output| self.names.get(&output.name).cloned());
        let results: Option<Vec<Item>> = results.collect();
        self.names = outer;
        results.ok_or_else(|| Error::malformed(place, "a result of its branch is never computed"))
    }

    /// Counts elements that a file makes.
    pub fn make(&mut self, n: Option<usize>, place: &str) -> Result<usize, Error> {
        let n = n
            .filter(|n| *n <= MAX_MADE)
            .ok_or_else(|| Error::malformed(place, "its result is beyond any memory"))?;
        self.n_made += n;
        if self.n_made > MAX_MADE {
            return Err(Error::unsupported(
                place,
                format!("more than {MAX_MADE} elements of constants are made"),
            ));
        }
        Ok(n)
    }

    pub fn tensor(
        &mut self,
        name: String,
        shape: Vec<usize>,
        element_type: ElementType,
        place: &str,
    ) -> Result<TensorId, Error> {
        if shape.len() > MAX_DIMS {
            let what = format!("{} dimensions; {MAX_DIMS} are the most", shape.len());
            return Err(Error::unsupported(place, what));
        }
        if checked_size(&shape, element_type).is_none() {
            return Err(Error::malformed(place, format!("the shape {shape:?} is beyond any memory")));
        }
        self.graph.tensors.push(Tensor { name, element_type, shape, quantization: None, constant: None });
        Ok(self.graph.tensors.len() - 1)
    }

    /// A constant as a tensor of the graph.
    pub fn constant(
        &mut self,
        shape: Vec<usize>,
        element_type: ElementType,
        constant: Constant,
        quantization: Option<Quantization>,
    ) -> TensorId {
        self.graph.tensors.push(Tensor {
            name: String::new(),
            element_type,
            shape,
            quantization,
            constant: Some(constant),
        });
        self.graph.tensors.len() - 1
    }

    /// An item as a tensor of the graph; integers become floats, if floats have them.
    pub fn tensor_of(&mut self, item: &Item, place: &str) -> Result<TensorId, Error> {
        if item.shape.len() > MAX_DIMS {
            return Err(Error::unsupported(place, format!("{} dimensions", item.shape.len())));
        }
        let constant = match &item.data {
            Data::Active(id) => return Ok(*id),
            Data::Floats(values) => Constant::of_f32s(values),
            Data::Ints(values) => {
                let floats: Vec<f32> = values.iter().map(|value| *value as f32).collect();
                if floats.iter().zip(values.iter()).any(|(float, value)| *float as i64 != *value) {
                    return Err(Error::unsupported(place, "integers beyond 2^24 while the network runs"));
                }
                Constant::of_f32s(&floats)
            }
        };
        Ok(self.constant(item.shape.clone(), ElementType::F32, constant, None))
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    pub fn element_type(&self, id: TensorId) -> ElementType {
        self.graph.tensors[id].element_type
    }

    pub fn quantize(&mut self, id: TensorId, quantization: Quantization) {
        self.graph.tensors[id].quantization = Some(quantization);
    }

    /// Gives bytes whose scale is not known yet this one, and what they were moved from.
    pub fn settle(&mut self, id: TensorId, quantization: &Quantization) {
        let mut next = Some(id);
        while let Some(id) = next.filter(|id| self.graph.tensors[*id].quantization.is_none()) {
            self.quantize(id, quantization.clone());
            next = self.moved.get(&id).copied();
        }
    }

    /// A node with one result, of floats or of its first input's bytes.
    pub fn emit(
        &mut self,
        op: Op,
        inputs: &[TensorId],
        shape: Vec<usize>,
        place: &str,
    ) -> Result<TensorId, Error> {
        let keeps = matches!(
            op,
            Op::Transpose { .. }
                | Op::Take { .. }
                | Op::Reshape { .. }
                | Op::Concat { .. }
                | Op::MaxPool2d { .. }
        );
        let first = &self.graph.tensors[inputs[0]];
        let quantization = first.quantization.clone().filter(|_| keeps);
        let element_type = if keeps { first.element_type } else { ElementType::F32 };
        let id = self.tensor(String::new(), shape, element_type, place)?;
        if element_type == ElementType::I8 && quantization.is_none() {
            self.moved.insert(id, inputs[0]);
        }
        self.graph.tensors[id].quantization = quantization;
        self.push(op, inputs.iter().copied().map(Some).collect(), vec![id]);
        Ok(id)
    }

    /// Gives the fully connected layer that was made last, and gave `id`, a bias; false if there is none.
    pub fn give_bias(&mut self, id: TensorId, bias: &Item, place: &str) -> Result<bool, Error> {
        let is_it = |node: &Node| {
            matches!(node.op, Op::FullyConnected { .. }) && node.outputs == [id] && node.inputs.len() == 2
        };
        if !self.graph.nodes.last().is_some_and(is_it) {
            return Ok(false);
        }
        let bias = Item { shape: vec![bias.n_elements()], ..bias.clone() };
        let bias = self.tensor_of(&bias, place)?;
        self.graph.nodes.last_mut().expect("there is one").inputs.push(Some(bias));
        Ok(true)
    }

    /// Gives the layer that was made last an activation.
    pub fn activate(&mut self, fused: Activation) {
        let last = self.graph.nodes.last_mut().and_then(|node| node.op.activation_mut());
        *last.expect("a layer was made last") = fused;
    }

    pub fn push(&mut self, op: Op, inputs: Vec<Option<TensorId>>, outputs: Vec<TensorId>) {
        self.graph.nodes.push(Node { op, inputs, outputs });
    }

    /// The same elements in another shape.
    pub fn reshape(&mut self, item: &Item, shape: Vec<usize>, place: &str) -> Result<Item, Error> {
        if checked_size(&shape, ElementType::I8) != Some(item.n_elements()) {
            let what = format!("shape {:?} cannot become {shape:?}", item.shape);
            return Err(Error::malformed(place, what));
        }
        if shape == item.shape {
            return Ok(item.clone());
        }
        let Data::Active(id) = item.data else { return Ok(Item { shape, ..item.clone() }) };
        let dims = shape.iter().map(|dim| *dim as i32).collect();
        let id = self.emit(Op::Reshape { shape: Some(dims) }, &[id], shape.clone(), place)?;
        Ok(Item::active(id, shape))
    }

    /// Dimension i of the result is dimension `perm[i]`.
    pub fn transpose(&mut self, item: &Item, perm: &[usize], place: &str) -> Result<Item, Error> {
        let shape: Vec<usize> = perm.iter().map(|axis| item.shape[*axis]).collect();
        let strides = dense_strides(&item.shape);
        let walk = Walk::new(&shape, &[perm.iter().map(|axis| strides[*axis]).collect()]);
        Ok(match &item.data {
            Data::Active(id) => {
                if let (Some(twin), [0, 2, 3, 1]) = (self.twins.get(id), perm) {
                    return Ok(Item::active(*twin, shape));
                }
                let moved = self.emit(Op::Transpose { perm: perm.to_vec() }, &[*id], shape.clone(), place)?;
                if perm == [0, 3, 1, 2] {
                    self.twins.insert(moved, *id);
                }
                Item::active(moved, shape)
            }
            Data::Floats(values) => Item::floats(shape, walked(&walk, values)),
            Data::Ints(values) => Item::ints(shape, walked(&walk, values)),
        })
    }

    /// What is picked of each dimension.
    pub fn take(&mut self, item: &Item, picks: Vec<Pick>, fill: f32, place: &str) -> Result<Item, Error> {
        let shape: Vec<usize> = picks.iter().zip(&item.shape).map(|(pick, len)| pick.n_taken(*len)).collect();
        if picks.iter().all(|pick| *pick == Pick::All) {
            return Ok(item.clone());
        }
        if let Data::Active(id) = item.data {
            if let (Some(twin), [n, channels, rows, columns]) = (self.twin(item), picks.as_slice()) {
                let picks = [n, rows, columns, channels].map(Pick::clone).to_vec();
                let last = [shape[0], shape[2], shape[3], shape[1]].to_vec();
                let id = self.emit(Op::Take { picks, fill }, &[twin], last, place)?;
                return self.channels_first(id, 4, place);
            }
            let id = self.emit(Op::Take { picks, fill }, &[id], shape.clone(), place)?;
            return Ok(Item::active(id, shape));
        }
        self.make(checked_size(&shape, ElementType::I8), place)?;
        let offsets = offsets(&picks, &item.shape, &shape);
        Ok(match &item.data {
            Data::Floats(values) => {
                Item::floats(shape, offsets.into_iter().map(|at| at.map_or(fill, |at| values[at])).collect())
            }
            Data::Ints(values) => {
                let fill = fill as i64;
                Item::ints(shape, offsets.into_iter().map(|at| at.map_or(fill, |at| values[at])).collect())
            }
            Data::Active(_) => unreachable!("handled above"),
        })
    }

    /// Side by side along `axis`.
    pub fn concat(&mut self, items: &[Item], axis: usize, place: &str) -> Result<Item, Error> {
        let first = items.first().ok_or_else(|| Error::malformed(place, "there are no inputs"))?;
        let fits = |item: &Item| {
            item.shape.len() == first.shape.len()
                && (0..first.shape.len()).all(|i| i == axis || item.shape[i] == first.shape[i])
        };
        if axis >= first.shape.len() || !items.iter().all(fits) {
            let shapes: Vec<&[usize]> = items.iter().map(|item| item.shape.as_slice()).collect();
            return Err(Error::malformed(place, format!("shapes {shapes:?} along dimension {axis}")));
        }
        let mut shape = first.shape.clone();
        shape[axis] = items.iter().fold(0usize, |sum, item| sum.saturating_add(item.shape[axis]));
        let ints = items.iter().map(|item| match &item.data {
            Data::Ints(values) => Some(&values[..]),
            _ => None,
        });
        if let Some(parts) = ints.collect::<Option<Vec<_>>>() {
            self.make(checked_size(&shape, ElementType::I8), place)?;
            return Ok(Item::ints(shape.clone(), side_by_side(&parts, items, axis)));
        }
        let floats = items.iter().map(|item| match &item.data {
            Data::Floats(values) => Some(&values[..]),
            _ => None,
        });
        if let Some(parts) = floats.collect::<Option<Vec<_>>>() {
            self.make(checked_size(&shape, ElementType::I8), place)?;
            return Ok(Item::floats(shape.clone(), side_by_side(&parts, items, axis)));
        }
        // Nothing of no elements is computed.
        let items: Vec<&Item> = items.iter().filter(|item| item.n_elements() > 0).collect();
        if let [item] = items.as_slice() {
            return Ok((*item).clone());
        }
        let twins: Option<Vec<TensorId>> = items.iter().map(|item| self.twin(item)).collect();
        if let (Some(twins), 4, 1) = (twins, shape.len(), axis) {
            let last = vec![shape[0], shape[2], shape[3], shape[1]];
            let id = self.emit(Op::Concat { axis: 3 }, &twins, last, place)?;
            return self.channels_first(id, 4, place);
        }
        let ids: Vec<TensorId> =
            items.iter().map(|item| self.tensor_of(item, place)).collect::<Result<_, _>>()?;
        let id = self.emit(Op::Concat { axis: axis as i32 }, &ids, shape.clone(), place)?;
        Ok(Item::active(id, shape))
    }

    /// A function of each element.
    pub fn unary(&mut self, item: &Item, function: Unary, place: &str) -> Result<Item, Error> {
        self.each(Op::Unary(function), item, place)
    }

    /// A node that gives floats for each element; on the twin, if there is one.
    pub fn each(&mut self, op: Op, item: &Item, place: &str) -> Result<Item, Error> {
        if let Some(twin) = self.twin(item) {
            let shape = self.graph.tensors[twin].shape.clone();
            let id = self.emit(op, &[twin], shape, place)?;
            return self.channels_first(id, item.shape.len(), place);
        }
        let id = self.tensor_of(item, place)?;
        let id = self.emit(op, &[id], item.shape.clone(), place)?;
        Ok(Item::active(id, item.shape.clone()))
    }

    /// A function of the elements of two.
    pub fn binary(&mut self, a: &Item, b: &Item, function: Binary, place: &str) -> Result<Item, Error> {
        let shape = broadcast(&a.shape, &b.shape).ok_or_else(|| {
            Error::malformed(place, format!("shapes {:?} and {:?} do not fit", a.shape, b.shape))
        })?;
        if let (Data::Ints(x), Data::Ints(y)) = (&a.data, &b.data) {
            self.make(checked_size(&shape, ElementType::I8), place)?;
            let walk = Walk::new(
                &shape,
                &[broadcast_strides(&a.shape, &shape), broadcast_strides(&b.shape, &shape)],
            );
            let mut values = Vec::new();
            let [by_a, by_b] = walk.row_strides();
            let mut failed = false;
            walk.rows(|[at_a, at_b]| {
                for i in 0..walk.row_len() {
                    let value = whole(function, x[at_a + i * by_a], y[at_b + i * by_b]);
                    failed |= value.is_none();
                    values.push(value.unwrap_or(0));
                }
            });
            if failed {
                return Err(Error::malformed(place, "integers that it cannot compute"));
            }
            return Ok(Item::ints(shape, values));
        }
        let pair = match (self.twin(a), self.twin(b)) {
            (Some(x), Some(y)) if a.shape == b.shape => Some((x, y, a.shape.len())),
            (Some(x), _) if a.shape == shape => {
                self.beside_channels(b, &shape, place)?.map(|y| (x, y, shape.len()))
            }
            (_, Some(y)) if b.shape == shape => {
                self.beside_channels(a, &shape, place)?.map(|x| (x, y, shape.len()))
            }
            _ => None,
        };
        let (x, y) = match pair {
            Some((x, y, _)) => (x, y),
            None => (self.tensor_of(a, place)?, self.tensor_of(b, place)?),
        };
        let is_active = |id: TensorId| self.graph.tensors[id].constant.is_none();
        let shapes = [x, y].map(|id| self.graph.tensors[id].shape.clone());
        let is_plain = function == Binary::Add && shapes[0] == shapes[1] && is_active(x) && is_active(y);
        let op = if is_plain { Op::Add { activation: Activation::None } } else { Op::Binary(function) };
        match pair {
            Some((_, _, n_dims)) => {
                let [x_shape, y_shape] = shapes;
                let to = broadcast(&x_shape, &y_shape).expect("one of them is a number, or they are alike");
                let id = self.emit(op, &[x, y], to, place)?;
                self.channels_first(id, n_dims, place)
            }
            None => {
                let id = self.emit(op, &[x, y], shape.clone(), place)?;
                Ok(Item::active(id, shape))
            }
        }
    }

    /// A constant that is one number, or one for each channel of an image of shape `image`, as it meets the image with its
    /// channels last; `None` if it is neither.
    fn beside_channels(
        &mut self,
        item: &Item,
        image: &[usize],
        place: &str,
    ) -> Result<Option<TensorId>, Error> {
        if matches!(item.data, Data::Active(_)) {
            return Ok(None);
        }
        let n = item.n_elements();
        let missing = image.len() - item.shape.len();
        let is_of_channels = n == image[1]
            && item.shape.iter().enumerate().all(|(axis, dim)| *dim == 1 || axis + missing == 1);
        let shape = match n {
            1 => vec![],
            n if is_of_channels => vec![n],
            _ => return Ok(None),
        };
        self.tensor_of(&Item { shape, ..item.clone() }, place).map(Some)
    }

    /// The tensor with channels last that an item was made from.
    pub fn twin(&self, item: &Item) -> Option<TensorId> {
        match item.data {
            Data::Active(id) => self.twins.get(&id).copied(),
            _ => None,
        }
    }

    /// An image `[n, channels, rows, columns]`, or a row of it, with its channels last: `[n, rows, columns, channels]`.
    pub fn channels_last(&mut self, item: &Item, place: &str) -> Result<(TensorId, [usize; 4]), Error> {
        let dims = match *item.shape.as_slice() {
            [n, channels, columns] => [n, channels, 1, columns],
            [n, channels, rows, columns] => [n, channels, rows, columns],
            _ => {
                let what =
                    format!("an image of shape {:?}; one or two dimensions are what is computed", item.shape);
                return Err(Error::unsupported(place, what));
            }
        };
        let [n, channels, rows, columns] = dims;
        let last = [n, rows, columns, channels];
        if let Some(twin) = self.twin(item) {
            return Ok((twin, last));
        }
        let id = self.tensor_of(item, place)?;
        let image = self.reshape(&Item::active(id, item.shape.clone()), dims.to_vec(), place)?;
        let moved = self.transpose(&image, &[0, 2, 3, 1], place)?;
        let id = self.tensor_of(&moved, place)?;
        if let Data::Active(first) = item.data {
            self.twins.insert(first, id);
        }
        Ok((id, last))
    }

    /// The item of `n_dims` dimensions that `id`, an image with channels last, stands for.
    pub fn channels_first(&mut self, id: TensorId, n_dims: usize, place: &str) -> Result<Item, Error> {
        let shape = self.graph.tensors[id].shape.clone();
        let mut item = self.transpose(&Item::active(id, shape), &[0, 3, 1, 2], place)?;
        if n_dims == 3 {
            let shape = vec![item.shape[0], item.shape[1], item.shape[3]];
            // In any case a tensor of its own.
            let ids = self.tensor_of(&item, place)?;
            let dims = shape.iter().map(|dim| *dim as i32).collect();
            let id = self.emit(Op::Reshape { shape: Some(dims) }, &[ids], shape.clone(), place)?;
            item = Item::active(id, shape);
        }
        if let Data::Active(first) = item.data {
            self.twins.insert(first, id);
        }
        Ok(item)
    }

    /// Drops nodes whose results nobody uses, makes factors and shifts of channels part of the layers beside them, and gives
    /// each activation to the layer before it.
    fn tidy(&mut self) {
        self.drop_unused();
        super::fold::fold(&mut self.graph);
        self.drop_unused();
        self.graph.fuse_activations();
    }

    /// Drops nodes whose results nobody uses.
    fn drop_unused(&mut self) {
        let Graph { tensors, nodes, outputs, .. } = &mut self.graph;
        let mut n_uses = vec![0usize; tensors.len()];
        for id in outputs.iter() {
            n_uses[*id] += 1;
        }
        // From the end: what a dropped node used is used once less.
        let mut kept = Vec::new();
        for node in nodes.drain(..).rev() {
            if node.outputs.iter().any(|id| n_uses[*id] > 0) {
                for id in node.inputs.iter().flatten() {
                    n_uses[*id] += 1;
                }
                kept.push(node);
            }
        }
        kept.reverse();
        *nodes = kept;
    }
}

/// Elements in the order in which `walk` visits them.
pub fn walked<T: Copy>(walk: &Walk<1>, values: &[T]) -> Vec<T> {
    let mut out = Vec::with_capacity(values.len());
    if values.is_empty() {
        return out;
    }
    let [stride] = walk.row_strides();
    walk.rows(|[at]| out.extend((0..walk.row_len()).map(|i| values[at + i * stride])));
    out
}

/// Elements of known items along `axis`, one item after the other.
fn side_by_side<T: Copy>(parts: &[&[T]], items: &[Item], axis: usize) -> Vec<T> {
    let shape = &items[0].shape;
    let inner: usize = shape[axis + 1..].iter().product();
    let n_outer: usize = shape[..axis].iter().product();
    let mut values = Vec::new();
    for outer in 0..n_outer {
        for (part, item) in parts.iter().zip(items) {
            let len = item.shape[axis] * inner;
            values.extend_from_slice(&part[outer * len..][..len]);
        }
    }
    values
}

/// Where each element of what is picked lies.
fn offsets(picks: &[Pick], from: &[usize], to: &[usize]) -> Vec<Option<usize>> {
    let strides = dense_strides(from);
    let mut offsets = vec![Some(0usize)];
    if to.contains(&0) {
        return Vec::new();
    }
    for ((pick, len), stride) in picks.iter().zip(from).zip(&strides) {
        let indices = pick.indices(*len);
        let next = |at: &Option<usize>| {
            let at = *at;
            indices.iter().map(move |idx| Some(at? + (*idx)? * stride)).collect::<Vec<_>>()
        };
        offsets = offsets.iter().flat_map(next).collect();
    }
    offsets
}

/// A function of two integers.
fn whole(function: Binary, a: i64, b: i64) -> Option<i64> {
    match function {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        // Towards zero, as C.
        Binary::Div => a.checked_div(b),
        Binary::Min => Some(a.min(b)),
        Binary::Max => Some(a.max(b)),
        Binary::Pow => a.checked_pow(u32::try_from(b).ok()?),
        Binary::Equal => Some(i64::from(a == b)),
        Binary::NotEqual => Some(i64::from(a != b)),
        Binary::Less => Some(i64::from(a < b)),
        Binary::LessOrEqual => Some(i64::from(a <= b)),
        Binary::Greater => Some(i64::from(a > b)),
        Binary::GreaterOrEqual => Some(i64::from(a >= b)),
        Binary::PRelu => None,
    }
}

/// A tensor of the file.
pub fn constant(tensor: &TensorProto<'_>, place: &str) -> Result<Item, Error> {
    if tensor.is_external {
        return Err(Error::unsupported(place, "weights in another file"));
    }
    let shape: Option<Vec<usize>> = tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
    let shape = shape.ok_or_else(|| Error::malformed(place, "a dimension is negative"))?;
    let n = checked_size(&shape, ElementType::F32).map(|bytes| bytes / 4);
    let n = n.ok_or_else(|| Error::malformed(place, format!("the shape {shape:?} is beyond any memory")))?;
    let misfit = |found: usize| Error::malformed(place, format!("{found} elements for shape {shape:?}"));
    let raw = |size: usize| -> Result<Option<&[u8]>, Error> {
        match tensor.raw {
            Some(raw) if Some(raw.len()) != n.checked_mul(size) => Err(misfit(raw.len() / size)),
            raw => Ok(raw),
        }
    };
    if matches!(tensor.kind, kind::FLOAT | kind::FLOAT16) {
        let half = |bits: u16| half::f16::from_bits(bits).to_f32();
        let floats: Vec<f32> = match (tensor.kind, raw(if tensor.kind == kind::FLOAT { 4 } else { 2 })?) {
            (kind::FLOAT, Some(raw)) => {
                raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
            (kind::FLOAT, None) => tensor.floats.clone(),
            (_, Some(raw)) => {
                raw.as_chunks().0.iter().map(|bytes| half(u16::from_le_bytes(*bytes))).collect()
            }
            (_, None) => tensor.ints.iter().map(|bits| half(*bits as u16)).collect(),
        };
        if floats.len() != n {
            return Err(misfit(floats.len()));
        }
        return Ok(Item::floats(shape, floats));
    }
    let size = match tensor.kind {
        kind::UINT8 | kind::INT8 | kind::BOOL => 1,
        kind::INT32 => 4,
        kind::INT64 => 8,
        other => return Err(Error::unsupported(place, format!("elements of type {}", kind::name(other)))),
    };
    let ints: Vec<i64> = match (raw(size)?, tensor.kind) {
        (None, _) => tensor.ints.clone(),
        (Some(raw), kind::INT64) => {
            raw.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
        }
        (Some(raw), kind::INT32) => {
            raw.as_chunks().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect()
        }
        (Some(raw), kind::INT8) => raw.iter().map(|byte| i64::from(*byte as i8)).collect(),
        (Some(raw), _) => raw.iter().map(|byte| i64::from(*byte)).collect(),
    };
    if ints.len() != n {
        return Err(misfit(ints.len()));
    }
    Ok(Item::ints(shape, ints).of_kind(tensor.kind))
}
