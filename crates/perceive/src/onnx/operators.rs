//! Each operator of ONNX, in terms of the graph's.

use super::builder::{Builder, Data, Item, Scope, constant};
use super::model::{NodeProto, kind};
use crate::error::Error;
use crate::graph::{Activation, Binary, Constant, ElementType, Op, Pick, Reduction, Unary};
use crate::network::walk::broadcast;

/// Operators that are read.
pub const OPERATORS: [&str; 98] = [
    "Abs",
    "Add",
    "And",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "Cos",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "If",
    "InstanceNormalization",
    "IsNaN",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Round",
    "Selu",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
    "Size",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
    "Xor",
];

/// The end of anything, as exporters write it.
const FAR: i64 = i64::MAX / 4;

/// A node's inputs, by place.
struct Inputs<'a> {
    items: Vec<Option<Item>>,
    place: &'a str,
}

impl Inputs<'_> {
    fn get(&self, idx: usize) -> Option<&Item> {
        self.items.get(idx).and_then(Option::as_ref)
    }

    fn need(&self, idx: usize) -> Result<&Item, Error> {
        self.get(idx).ok_or_else(|| Error::malformed(self.place, format!("input {idx} is left out")))
    }

    /// Known integers; `None` if there is no such input.
    fn ints(&self, idx: usize) -> Result<Option<Vec<i64>>, Error> {
        match self.get(idx).map(|item| &item.data) {
            None => Ok(None),
            Some(Data::Ints(values)) => Ok(Some(values.to_vec())),
            Some(_) => Err(self.computed(idx)),
        }
    }

    /// An input must be known, and is not.
    fn computed(&self, idx: usize) -> Error {
        let what =
            format!("input {idx} computed while it runs; give the integers that it follows from beforehand");
        Error::unsupported(self.place, what)
    }

    fn need_ints(&self, idx: usize) -> Result<Vec<i64>, Error> {
        self.ints(idx)?.ok_or_else(|| Error::malformed(self.place, format!("input {idx} is left out")))
    }

    /// Known integers that are an input in newer versions, and were an attribute before.
    fn ints_or(&self, idx: usize, node: &NodeProto<'_>, name: &str) -> Result<Option<Vec<i64>>, Error> {
        Ok(self.ints(idx)?.or_else(|| node.ints(name).map(<[i64]>::to_vec)))
    }

    /// Known floats of one or more elements.
    fn floats(&self, idx: usize) -> Result<Option<Vec<f32>>, Error> {
        match self.get(idx).map(|item| &item.data) {
            None => Ok(None),
            Some(Data::Floats(values)) => Ok(Some(values.to_vec())),
            Some(Data::Ints(values)) => Ok(Some(values.iter().map(|value| *value as f32).collect())),
            Some(Data::Active(_)) => Err(self.computed(idx)),
        }
    }
}

impl Builder<'_> {
    /// The results of node `idx`.
    pub fn node(&mut self, scope: &mut Scope<'_>, idx: usize, place: &str) -> Result<Vec<Item>, Error> {
        let kind = {
            let node = &scope.nodes[idx];
            let input = |idx: usize| node.inputs.get(idx).and_then(|name| self.names.get(name));
            result_kind(node, |idx| input(idx).map(|item| item.kind))
        };
        let results = self.results(scope, idx, place)?;
        Ok(results
            .into_iter()
            .map(|item| match kind {
                Some(kind) => item.of_kind(kind),
                None => item,
            })
            .collect())
    }

    fn results(&mut self, scope: &mut Scope<'_>, idx: usize, place: &str) -> Result<Vec<Item>, Error> {
        let node = &scope.nodes[idx];
        let find = |name: &String| match name.as_str() {
            "" => Ok(None),
            name => match self.names.get(name) {
                Some(item) => Ok(Some(item.clone())),
                None => Err(Error::malformed(place, format!("{name} is used before it is computed"))),
            },
        };
        let items = node.inputs.iter().map(find).collect::<Result<_, _>>()?;
        let inputs = Inputs { items, place };
        match node.op.as_str() {
            "Conv" => return self.conv(scope, idx, &inputs.items, place),
            "Gemm" | "MatMul" | "Add" => {
                if let Some(result) = self.quantized(scope, idx, &inputs.items, place)? {
                    return Ok(vec![result]);
                }
            }
            "Split" => return self.split(node, &inputs),
            "LSTM" => return self.lstm(node, &inputs),
            "If" => return self.choose(node, &inputs),
            "LayerNormalization" => return self.layer_norm(node, &inputs),
            "Dropout" | "MaxPool" | "BatchNormalization"
                if node.outputs.iter().skip(1).any(|name| !name.is_empty()) =>
            {
                return Err(Error::unsupported(place, "more than its first result"));
            }
            "MaxPool" => {
                if let Some(result) = self.quantized_pool(scope, idx, inputs.need(0)?, place)? {
                    return Ok(vec![result]);
                }
            }
            _ => {}
        }
        Ok(vec![self.single(node, &inputs)?])
    }

    /// The one result of a node.
    fn single(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let place = inputs.place;
        if let Some(function) = unary(node) {
            let item = inputs.need(0)?;
            if let (Data::Ints(values), Unary::Neg) = (&item.data, function) {
                return Ok(Item::ints(item.shape.clone(), values.iter().map(|x| x.wrapping_neg()).collect()));
            }
            return self.unary(item, function, place);
        }
        if let Some(function) = binary(&node.op) {
            if node.attribute("broadcast").is_some() || node.attribute("axis").is_some() {
                return Err(Error::unsupported(place, "broadcasting as it was before version 7"));
            }
            let mut result = inputs.need(0)?.clone();
            if inputs.items.len() == 1 {
                return Ok(result);
            }
            for idx in 1..inputs.items.len() {
                result = self.binary(&result, inputs.need(idx)?, function, place)?;
            }
            if node.op == "Div" && is_whole(inputs.need(0)?.kind) && matches!(result.data, Data::Active(_)) {
                // Exact as long as the numbers are: a quotient of floats is rounded up to a whole number only from nearer
                // than numbers below 2^24 come.
                result = self.unary(&result, Unary::Trunc, place)?;
            }
            if node.op == "Mean" {
                let share = Item::floats(vec![], vec![1.0 / inputs.items.len() as f32]);
                result = self.binary(&result, &share, Binary::Mul, place)?;
            }
            return Ok(result);
        }
        match node.op.as_str() {
            "Identity" | "Dropout" => {
                // Before version 12 there is no such input.
                if inputs.ints(2)?.is_some_and(|training| training != [0]) {
                    return Err(Error::unsupported(place, "training"));
                }
                Ok(inputs.need(0)?.clone())
            }
            "Constant" => self.constant_node(node, place),
            "Cast" => self.cast(node, inputs),
            "Shape" => {
                let shape = &inputs.need(0)?.shape;
                let len = shape.len() as i64;
                let bound = |at: i64| (if at < 0 { at + len } else { at }).clamp(0, len) as usize;
                let (start, end) = (bound(node.int("start", 0)), bound(node.int("end", FAR)));
                let dims: Vec<i64> = shape.iter().map(|dim| *dim as i64).collect();
                let dims = dims.get(start..end.max(start)).unwrap_or(&[]).to_vec();
                Ok(Item::ints(vec![dims.len()], dims))
            }
            "Size" => Ok(Item::ints(vec![], vec![inputs.need(0)?.n_elements() as i64])),
            "ConstantOfShape" => {
                let shape = sizes(&inputs.need_ints(0)?, place)?;
                let n = self.make(crate::graph::checked_size(&shape, ElementType::I8), place)?;
                let value = node.attribute("value").and_then(|attribute| attribute.tensor.as_ref());
                let value = value.map(|tensor| constant(tensor, place)).transpose()?;
                match value.as_ref().map(|item| &item.data) {
                    Some(Data::Ints(values)) if values.len() == 1 => {
                        Ok(Item::ints(shape, vec![values[0]; n]))
                    }
                    Some(Data::Floats(values)) if values.len() == 1 => {
                        Ok(Item::floats(shape, vec![values[0]; n]))
                    }
                    None => Ok(Item::floats(shape, vec![0.0; n])),
                    _ => Err(Error::malformed(place, "its value is not one element")),
                }
            }
            "Range" => {
                let (start, limit, step) = (inputs.need_ints(0)?, inputs.need_ints(1)?, inputs.need_ints(2)?);
                let (&[start], &[limit], &[step]) = (start.as_slice(), limit.as_slice(), step.as_slice())
                else {
                    return Err(Error::malformed(place, "its inputs are not single numbers"));
                };
                if step == 0 {
                    return Err(Error::malformed(place, "a step of 0"));
                }
                let n = (limit as i128 - start as i128)
                    .max(0)
                    .unsigned_abs()
                    .div_ceil(step.unsigned_abs().into());
                let n = if step > 0 {
                    n
                } else {
                    (start as i128 - limit as i128).max(0).unsigned_abs().div_ceil(step.unsigned_abs().into())
                };
                let n = self.make(usize::try_from(n).ok(), place)?;
                Ok(Item::ints(vec![n], (0..n as i64).map(|i| start + i * step).collect()))
            }
            "Mod" => self.modulo(node, inputs),
            "Not" => self.binary(inputs.need(0)?, &Item::ints(vec![], vec![0]), Binary::Equal, place),
            // What is not equal to itself.
            "IsNaN" => self.binary(inputs.need(0)?, inputs.need(0)?, Binary::NotEqual, place),
            "Gelu" => self.gelu(node, inputs),
            "Where" => self.choose_elements(inputs),
            "Reshape" => self.reshape_node(node, inputs),
            "Flatten" => {
                let item = inputs.need(0)?;
                let n_dims = item.shape.len();
                let at = node.int("axis", 1);
                let at = if at < 0 { at + n_dims as i64 } else { at };
                let at = usize::try_from(at).ok().filter(|at| *at <= n_dims);
                let at = at.ok_or_else(|| Error::malformed(place, "there is no such dimension"))?;
                let shape = vec![item.shape[..at].iter().product(), item.shape[at..].iter().product()];
                self.reshape(item, shape, place)
            }
            "Squeeze" | "Unsqueeze" => self.squeeze(node, inputs),
            "Transpose" => {
                let item = inputs.need(0)?;
                let n_dims = item.shape.len();
                let perm = match node.ints("perm") {
                    Some(perm) => {
                        perm.iter().map(|at| axis(*at, n_dims, place)).collect::<Result<Vec<_>, _>>()?
                    }
                    None => (0..n_dims).rev().collect(),
                };
                let mut sorted = perm.clone();
                sorted.sort_unstable();
                if sorted != (0..n_dims).collect::<Vec<_>>() {
                    return Err(Error::malformed(place, format!("dimensions {perm:?} of {n_dims}")));
                }
                self.transpose(item, &perm, place)
            }
            "Concat" => {
                let items: Vec<Item> =
                    (0..inputs.items.len()).map(|i| inputs.need(i).cloned()).collect::<Result<_, _>>()?;
                let at = axis(node.int("axis", 0), inputs.need(0)?.shape.len(), place)?;
                self.concat(&items, at, place)
            }
            "Slice" => self.slice(node, inputs),
            "GatherND" => self.gather_nd(node, inputs),
            "Gather" => {
                let item = inputs.need(0)?;
                let at = axis(node.int("axis", 0), item.shape.len(), place)?;
                if matches!(inputs.need(1)?.data, Data::Active(_)) {
                    let ids = [self.tensor_of(item, place)?, self.tensor_of(inputs.need(1)?, place)?];
                    let shape = [&item.shape[..at], &inputs.need(1)?.shape, &item.shape[at + 1..]].concat();
                    let id = self.emit(Op::Gather { axis: at }, &ids, shape.clone(), place)?;
                    return Ok(Item::active(id, shape));
                }
                let indices = indices(&inputs.need_ints(1)?, item.shape[at], place)?;
                let mut shape = item.shape[..at].to_vec();
                shape.extend(&inputs.need(1)?.shape);
                shape.extend(&item.shape[at + 1..]);
                let picked = self.pick(item, at, indices.into_iter().map(Some).collect(), place)?;
                self.reshape(&picked, shape, place)
            }
            "Expand" => {
                let item = inputs.need(0)?;
                let wanted = sizes(&inputs.need_ints(1)?, place)?;
                let shape = broadcast(&item.shape, &wanted);
                let shape = shape.ok_or_else(|| {
                    Error::malformed(place, format!("shape {:?} to {wanted:?}", item.shape))
                })?;
                let padded = [&vec![1; shape.len() - item.shape.len()][..], &item.shape].concat();
                let mut item = self.reshape(item, padded, place)?;
                for (at, dim) in shape.iter().enumerate() {
                    if item.shape[at] != *dim {
                        let n = self.make(Some(*dim), place)?;
                        item = self.pick(&item, at, vec![Some(0); n], place)?;
                    }
                }
                Ok(item)
            }
            "Tile" => {
                let mut item = inputs.need(0)?.clone();
                let times = sizes(&inputs.need_ints(1)?, place)?;
                if times.len() != item.shape.len() {
                    return Err(Error::malformed(
                        place,
                        format!("{} repeats of {} dimensions", times.len(), item.shape.len()),
                    ));
                }
                for (at, times) in times.iter().enumerate().filter(|(_, times)| **times != 1) {
                    let len = item.shape[at];
                    let n = self.make(len.checked_mul(*times), place)?;
                    item = self.pick(&item, at, (0..n).map(|i| Some(i % len)).collect(), place)?;
                }
                Ok(item)
            }
            "Pad" => self.pad(node, inputs),
            "DepthToSpace" | "SpaceToDepth" => self.depth_and_space(node, inputs),
            "MatMul" => self.matmul(inputs.need(0)?, inputs.need(1)?, place),
            "Gemm" => self.gemm(node, inputs),
            "MaxPool" | "AveragePool" => self.pool(node, inputs.need(0)?, place),
            "GlobalAveragePool" | "GlobalMaxPool" => {
                let item = inputs.need(0)?;
                let reduction = if node.op == "GlobalMaxPool" { Reduction::Max } else { Reduction::Mean };
                if item.shape.len() < 3 {
                    return Err(Error::malformed(place, format!("an image of shape {:?}", item.shape)));
                }
                if let Some(twin) = self.twin(item).filter(|_| item.shape.len() == 4) {
                    let shape = vec![item.shape[0], 1, 1, item.shape[1]];
                    let op = Op::Reduce { reduction, axes: vec![1, 2], keeps_dims: true };
                    let id = self.emit(op, &[twin], shape, place)?;
                    return self.channels_first(id, 4, place);
                }
                self.reduce(item, reduction, (2..item.shape.len()).collect(), true, place)
            }
            "BatchNormalization" => self.batch_norm(node, inputs),
            "InstanceNormalization" => {
                let item = inputs.need(0)?;
                let axes: Vec<usize> = (2..item.shape.len()).collect();
                let [normal, ..] = self.standardise(item, &axes, node.float("epsilon", 1e-5), place)?;
                let [scale, shift] = [self.per_channel(inputs, 1)?, self.per_channel(inputs, 2)?];
                let scaled = self.binary(&normal, &scale, Binary::Mul, place)?;
                self.binary(&scaled, &shift, Binary::Add, place)
            }
            "Softmax" | "LogSoftmax" => self.softmax(node, inputs.need(0)?, place),
            "Selu" => {
                let gamma = node.float("gamma", 1.050_701);
                let elu = self.unary(
                    inputs.need(0)?,
                    Unary::Elu { alpha: node.float("alpha", 1.673_263_2) },
                    place,
                )?;
                self.binary(&elu, &Item::floats(vec![], vec![gamma]), Binary::Mul, place)
            }
            "Clip" => {
                let low = inputs.floats(1)?.or_else(|| node.attribute("min").map(|a| vec![a.float]));
                let high = inputs.floats(2)?.or_else(|| node.attribute("max").map(|a| vec![a.float]));
                let bound = |bound: Option<Vec<f32>>, open: f32| match bound.as_deref() {
                    None => Ok(open),
                    Some([bound]) if !bound.is_nan() => Ok(*bound),
                    Some(_) => Err(Error::malformed(place, "a bound that is not one number")),
                };
                let (low, high) = (bound(low, f32::NEG_INFINITY)?, bound(high, f32::INFINITY)?);
                self.unary(inputs.need(0)?, Unary::Clip { low, high }, place)
            }
            "QuantizeLinear" | "DequantizeLinear" => self.convert(node, &inputs.items, place),
            "QLinearConv" => self.qlinear_conv(node, &inputs.items, place),
            "QLinearMatMul" => self.qlinear_matmul(node, &inputs.items, place),
            name if name.starts_with("Reduce") => self.reduce_node(node, inputs),
            _ => Err(Error::unsupported(place, "this operator")),
        }
    }

    fn constant_node(&mut self, node: &NodeProto<'_>, place: &str) -> Result<Item, Error> {
        let attribute = node.attributes.first().ok_or_else(|| Error::malformed(place, "it has no value"))?;
        match (attribute.name.as_str(), &attribute.tensor) {
            ("value", Some(tensor)) => constant(tensor, place),
            ("value_int", _) => Ok(Item::ints(vec![], vec![attribute.int])),
            ("value_ints", _) => Ok(Item::ints(vec![attribute.ints.len()], attribute.ints.clone())),
            ("value_float", _) => Ok(Item::floats(vec![], vec![attribute.float])),
            ("value_floats", _) => Ok(Item::floats(vec![attribute.floats.len()], attribute.floats.clone())),
            (other, _) => Err(Error::unsupported(place, format!("a value given as {other}"))),
        }
    }

    /// Truth values as 1 and 0, or integers with the remainder's sign of the divisor, as Python has it.
    fn modulo(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let (a, b, place) = (inputs.need(0)?, inputs.need(1)?, inputs.place);
        if node.int("fmod", 0) != 0 || !is_whole(a.kind) {
            return Err(Error::unsupported(place, "remainders of floats"));
        }
        if let (Data::Ints(_), Data::Ints(divisors)) = (&a.data, &b.data)
            && divisors.iter().all(|divisor| *divisor > 0)
        {
            // Towards zero first, then one more where that left a negative remainder.
            let remainder = |builder: &mut Self, a: &Item| -> Result<Item, Error> {
                let quotient = builder.binary(a, b, Binary::Div, place)?;
                let whole = builder.binary(&quotient, b, Binary::Mul, place)?;
                builder.binary(a, &whole, Binary::Sub, place)
            };
            let first = remainder(self, a)?;
            let positive = self.binary(&first, b, Binary::Add, place)?;
            return remainder(self, &positive);
        }
        let quotient = self.binary(a, b, Binary::Div, place)?;
        let Data::Active(_) = quotient.data else {
            return Err(Error::unsupported(place, "a divisor that is not positive"));
        };
        let floor = self.unary(&quotient, Unary::Floor, place)?;
        let whole = self.binary(&floor, b, Binary::Mul, place)?;
        self.binary(a, &whole, Binary::Sub, place)
    }

    fn gelu(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let (item, place) = (inputs.need(0)?, inputs.place);
        match node.text("approximate").unwrap_or("none") {
            "none" | "" => self.unary(item, Unary::Gelu, place),
            "tanh" => {
                // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))).
                let number = |value: f32| Item::floats(vec![], vec![value]);
                let squared = self.unary(item, Unary::Square, place)?;
                let scaled = self.binary(&squared, &number(0.044_715), Binary::Mul, place)?;
                let factor = self.binary(&scaled, &number(1.0), Binary::Add, place)?;
                let inner = self.binary(item, &factor, Binary::Mul, place)?;
                let inner = self.binary(&inner, &number(0.797_884_6), Binary::Mul, place)?;
                let tanh = self.unary(&inner, Unary::Tanh, place)?;
                let share = self.binary(&tanh, &number(1.0), Binary::Add, place)?;
                let half = self.binary(item, &number(0.5), Binary::Mul, place)?;
                self.binary(&half, &share, Binary::Mul, place)
            }
            other => Err(Error::unsupported(place, format!("the approximation {other}"))),
        }
    }

    /// Elements or parts by known tuples of indices of the first dimensions.
    fn gather_nd(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let (item, tuples, place) = (inputs.need(0)?, inputs.need(1)?, inputs.place);
        if node.int("batch_dims", 0) != 0 {
            return Err(Error::unsupported(place, "batches"));
        }
        let values = inputs.need_ints(1)?;
        let Some((n, outer)) = tuples.shape.split_last().filter(|(n, _)| (1..=item.shape.len()).contains(*n))
        else {
            return Err(Error::malformed(place, format!("indices of shape {:?}", tuples.shape)));
        };
        let (first, rest) = item.shape.split_at(*n);
        let mut picked = Vec::new();
        for tuple in values.chunks_exact(*n) {
            let mut at = 0;
            for (idx, len) in tuple.iter().zip(first) {
                at = at * len + axis(*idx, *len, place)?;
            }
            picked.push(Some(at));
        }
        self.make(Some(picked.len()), place)?;
        let flat = self.reshape(item, [&[first.iter().product()], rest].concat(), place)?;
        let parts = self.pick(&flat, 0, picked, place)?;
        self.reshape(&parts, [outer, rest].concat(), place)
    }

    fn cast(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let (item, place) = (inputs.need(0)?, inputs.place);
        let to = node.int("to", 0);
        let values = |values: &[i64], f: &dyn Fn(i64) -> i64| {
            Item::ints(item.shape.clone(), values.iter().map(|value| f(*value)).collect())
        };
        Ok(match (&item.data, to) {
            (Data::Ints(values), kind::FLOAT) => {
                Item::floats(item.shape.clone(), values.iter().map(|value| *value as f32).collect())
            }
            (Data::Ints(ints), kind::BOOL) => values(ints, &|value| i64::from(value != 0)),
            (Data::Ints(_), kind::INT64 | kind::INT32) | (Data::Floats(_), kind::FLOAT) => item.clone(),
            (Data::Floats(values), kind::INT64 | kind::INT32) => {
                Item::ints(item.shape.clone(), values.iter().map(|value| *value as i64).collect())
            }
            (Data::Active(_), _) if !(is_whole(item.kind) || item.kind == kind::FLOAT) => {
                return Err(Error::unsupported(place, format!("from {}", kind::name(item.kind))));
            }
            (Data::Active(_), kind::FLOAT) => item.clone(),
            (Data::Active(_), kind::INT64 | kind::INT32) if is_whole(item.kind) => item.clone(),
            (Data::Active(_), kind::INT64 | kind::INT32) => self.unary(item, Unary::Trunc, place)?,
            (Data::Active(_), kind::BOOL) if item.kind == kind::BOOL => item.clone(),
            (Data::Active(_), kind::BOOL) => {
                self.binary(item, &Item::floats(vec![], vec![0.0]), Binary::NotEqual, place)?
            }
            _ => return Err(Error::unsupported(place, format!("to {}", kind::name(to)))),
        })
    }

    /// `Where`; with a known condition, what it says.
    fn choose_elements(&mut self, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let place = inputs.place;
        let (condition, a, b) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        let shape = broadcast(&a.shape, &b.shape).and_then(|shape| broadcast(&shape, &condition.shape));
        let shape = shape.ok_or_else(|| Error::malformed(place, "shapes do not fit"))?;
        if let Data::Ints(truths) = &condition.data {
            let truths =
                Item::ints(condition.shape.clone(), truths.iter().map(|x| i64::from(*x != 0)).collect());
            if let (Data::Ints(_), Data::Ints(_)) = (&a.data, &b.data) {
                // One of the two is 0.
                let falses = self.binary(&truths, &Item::ints(vec![], vec![0]), Binary::Equal, place)?;
                let chosen = self.binary(a, &truths, Binary::Mul, place)?;
                let other = self.binary(b, &falses, Binary::Mul, place)?;
                return self.binary(&chosen, &other, Binary::Add, place);
            }
            let Data::Ints(values) = &truths.data else { unreachable!("made of integers") };
            let all = match (values.iter().all(|x| *x != 0), values.iter().all(|x| *x == 0)) {
                (true, _) => Some(a),
                (_, true) => Some(b),
                _ => None,
            };
            if let Some(all) = all.filter(|all| all.shape == shape) {
                return Ok(all.clone());
            }
        }
        let mut ids = Vec::new();
        for item in [condition, a, b] {
            ids.push(self.tensor_of(item, place)?);
        }
        let id = self.emit(Op::Select, &ids, shape.clone(), place)?;
        Ok(Item::active(id, shape))
    }

    /// `If`: the branch that is taken.
    fn choose(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Vec<Item>, Error> {
        let condition = inputs.need_ints(0)?;
        let name = match condition.as_slice() {
            [0] => "else_branch",
            [_] => "then_branch",
            _ => return Err(Error::malformed(inputs.place, "its condition is not one truth value")),
        };
        let graph = node.attribute(name).and_then(|attribute| attribute.graph.as_ref());
        let graph = graph.ok_or_else(|| Error::malformed(inputs.place, format!("it has no {name}")))?;
        self.branch(graph, inputs.place)
    }

    fn reshape_node(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let (item, wanted, place) = (inputs.need(0)?, inputs.need_ints(1)?, inputs.place);
        let keeps_zero = node.int("allowzero", 0) != 0;
        let mut shape = Vec::new();
        let mut open = None;
        for (at, dim) in wanted.iter().enumerate() {
            shape.push(match *dim {
                0 if !keeps_zero => *item
                    .shape
                    .get(at)
                    .ok_or_else(|| Error::malformed(place, "a 0 beyond its input's dimensions"))?,
                -1 if open.is_none() => {
                    open = Some(at);
                    1
                }
                dim => usize::try_from(dim)
                    .map_err(|_| Error::malformed(place, format!("the new shape is {wanted:?}")))?,
            });
        }
        if let Some(at) = open {
            let others = shape.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim));
            shape[at] = others.and_then(|n| item.n_elements().checked_div(n)).unwrap_or(0);
        }
        self.reshape(item, shape, place)
    }

    fn squeeze(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let (item, place) = (inputs.need(0)?, inputs.place);
        let axes = inputs.ints_or(1, node, "axes")?;
        let shape: Vec<usize> = if node.op == "Squeeze" {
            let gone = match axes {
                Some(axes) => {
                    axes.iter().map(|at| axis(*at, item.shape.len(), place)).collect::<Result<Vec<_>, _>>()?
                }
                None => (0..item.shape.len()).filter(|at| item.shape[*at] == 1).collect(),
            };
            (0..item.shape.len()).filter(|at| !gone.contains(at)).map(|at| item.shape[at]).collect()
        } else {
            let axes = axes.ok_or_else(|| Error::malformed(place, "it has no dimensions"))?;
            let n_dims = item.shape.len() + axes.len();
            let new = axes.iter().map(|at| axis(*at, n_dims, place)).collect::<Result<Vec<_>, _>>()?;
            let mut old = item.shape.iter();
            (0..n_dims).map(|at| if new.contains(&at) { 1 } else { *old.next().unwrap_or(&1) }).collect()
        };
        self.reshape(item, shape, place)
    }

    /// Picks indices along one dimension.
    fn pick(
        &mut self,
        item: &Item,
        at: usize,
        indices: Vec<Option<usize>>,
        place: &str,
    ) -> Result<Item, Error> {
        let mut picks = vec![Pick::All; item.shape.len()];
        picks[at] = Pick::These(indices);
        self.take(item, picks, 0.0, place)
    }

    fn slice(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let (item, place) = (inputs.need(0)?, inputs.place);
        let n_dims = item.shape.len();
        let (Some(starts), Some(ends)) =
            (inputs.ints_or(1, node, "starts")?, inputs.ints_or(2, node, "ends")?)
        else {
            return Err(Error::malformed(place, "it has no starts or ends"));
        };
        let axes = inputs.ints_or(3, node, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = inputs.ints(4)?.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return Err(Error::malformed(place, "starts, ends, axes and steps are not as many"));
        }
        let mut picks = vec![Pick::All; n_dims];
        for i in 0..starts.len() {
            let at = axis(axes[i], n_dims, place)?;
            let (len, step) = (item.shape[at] as i64, steps[i]);
            if step == 0 {
                return Err(Error::malformed(place, "a step of 0"));
            }
            let from_end = |at: i64| if at < 0 { at.saturating_add(len) } else { at };
            // Going down, the end may be before the first.
            let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
            let start = from_end(starts[i]).clamp(low.max(0), high.max(0));
            let end = from_end(ends[i]).clamp(low, high.max(low));
            let mut indices = Vec::new();
            let mut here = start;
            while (step > 0 && here < end) || (step < 0 && here > end && here < len) {
                indices.push(Some(here as usize));
                here = here.saturating_add(step);
            }
            if indices.len() as i64 == len && step == 1 {
                continue;
            }
            self.make(Some(indices.len()), place)?;
            picks[at] = Pick::These(indices);
        }
        self.take(item, picks, 0.0, place)
    }

    fn split(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Vec<Item>, Error> {
        let (item, place) = (inputs.need(0)?, inputs.place);
        let at = axis(node.int("axis", 0), item.shape.len(), place)?;
        let len = item.shape[at];
        let given = inputs.ints_or(1, node, "split")?;
        let lens = match given {
            Some(lens) => sizes(&lens, place)?,
            None => {
                // The last may be shorter.
                let n = node.outputs.len().max(1);
                let each = len.div_ceil(n);
                (0..n).map(|i| each.min(len - (i * each).min(len))).collect()
            }
        };
        if lens.iter().try_fold(0usize, |sum, len| sum.checked_add(*len)) != Some(len) {
            return Err(Error::malformed(place, format!("parts of {lens:?} of {len}")));
        }
        let mut start = 0;
        let mut parts = Vec::new();
        for len in lens {
            parts.push(self.pick(item, at, (start..start + len).map(Some).collect(), place)?);
            start += len;
        }
        Ok(parts)
    }

    fn pad(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let (item, place) = (inputs.need(0)?, inputs.place);
        let n_dims = item.shape.len();
        let pads = inputs.ints_or(1, node, "pads")?;
        let pads = pads.ok_or_else(|| Error::malformed(place, "it has no pads"))?;
        let axes: Vec<usize> = match inputs.ints(3)? {
            Some(axes) => axes.iter().map(|at| axis(*at, n_dims, place)).collect::<Result<_, _>>()?,
            None => (0..n_dims).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return Err(Error::malformed(
                place,
                format!("{} pads for {} dimensions", pads.len(), axes.len()),
            ));
        }
        let fill = match inputs.floats(2)?.as_deref() {
            None => node.float("value", 0.0),
            Some([fill]) => *fill,
            Some(_) => return Err(Error::malformed(place, "its value is not one number")),
        };
        let mode = node.text("mode").unwrap_or("constant").to_owned();
        let mut picks = vec![Pick::All; n_dims];
        for (i, at) in axes.iter().enumerate() {
            let (before, after, len) = (pads[i], pads[i + axes.len()], item.shape[*at] as i64);
            if before == 0 && after == 0 {
                continue;
            }
            let n = i128::from(before) + i128::from(after) + i128::from(len);
            let n = self.make(usize::try_from(n).ok(), place)? as i64;
            let index = |i: i64| {
                let at = i - before;
                let inside = match mode.as_str() {
                    "constant" => at,
                    "edge" => at.clamp(0, len - 1),
                    // Mirrored at the first and the last.
                    "reflect" => {
                        let at = at.abs();
                        if at >= len { 2 * (len - 1) - at } else { at }
                    }
                    _ => at.rem_euclid(len.max(1)),
                };
                usize::try_from(inside).ok().filter(|inside| (*inside as i64) < len)
            };
            let indices: Vec<Option<usize>> = (0..n).map(index).collect();
            if !matches!(mode.as_str(), "constant" | "edge" | "reflect" | "wrap")
                || (mode != "constant" && indices.contains(&None))
            {
                return Err(Error::unsupported(place, format!("padding of {before} and {after} by {mode}")));
            }
            picks[*at] = Pick::These(indices);
        }
        self.take(item, picks, fill, place)
    }

    fn depth_and_space(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let (item, place) = (inputs.need(0)?, inputs.place);
        let side = usize::try_from(node.int("blocksize", 0)).ok().filter(|side| (1..1 << 16).contains(side));
        let (&[n, channels, rows, columns], Some(side)) = (item.shape.as_slice(), side) else {
            return Err(Error::malformed(place, format!("blocks of an image of shape {:?}", item.shape)));
        };
        let misfit = || Error::malformed(place, format!("blocks of {side} in shape {:?}", item.shape));
        if node.op == "SpaceToDepth" {
            if !rows.is_multiple_of(side) || !columns.is_multiple_of(side) {
                return Err(misfit());
            }
            let blocks =
                self.reshape(item, vec![n, channels, rows / side, side, columns / side, side], place)?;
            let moved = self.transpose(&blocks, &[0, 3, 5, 1, 2, 4], place)?;
            return self.reshape(&moved, vec![n, channels * side * side, rows / side, columns / side], place);
        }
        if !channels.is_multiple_of(side * side) {
            return Err(misfit());
        }
        let depth = channels / (side * side);
        let is_columns_first = node.text("mode").unwrap_or("DCR") == "DCR";
        let (dims, perm) = if is_columns_first {
            (vec![n, side, side, depth, rows, columns], [0, 3, 4, 1, 5, 2])
        } else {
            (vec![n, depth, side, side, rows, columns], [0, 1, 4, 2, 5, 3])
        };
        let blocks = self.reshape(item, dims, place)?;
        let moved = self.transpose(&blocks, &perm, place)?;
        self.reshape(&moved, vec![n, depth, rows * side, columns * side], place)
    }

    /// A product of matrices, or of rows of vectors.
    pub fn matmul(&mut self, a: &Item, b: &Item, place: &str) -> Result<Item, Error> {
        let misfit = || Error::malformed(place, format!("shapes {:?} and {:?} do not fit", a.shape, b.shape));
        if a.shape.is_empty() || b.shape.is_empty() {
            return Err(misfit());
        }
        // Vectors are matrices of one row or column, which then goes.
        let row = if a.shape.len() == 1 { self.reshape(a, vec![1, a.shape[0]], place)? } else { a.clone() };
        let column =
            if b.shape.len() == 1 { self.reshape(b, vec![b.shape[0], 1], place)? } else { b.clone() };
        let (Some((a_batch, [m, k])), Some((b_batch, [rows, n]))) =
            (row.shape.split_last_chunk::<2>(), column.shape.split_last_chunk::<2>())
        else {
            return Err(misfit());
        };
        let (m, k, n) = (*m, *k, *n);
        if k != *rows {
            return Err(misfit());
        }
        let mut shape = broadcast(a_batch, b_batch).ok_or_else(misfit)?;
        shape.extend([m, n]);
        let product = match (&row.data, &column.data) {
            (Data::Active(id), Data::Floats(_)) if column.shape.len() == 2 => {
                let weights = self.transpose(&column, &[1, 0], place)?;
                let weights = self.tensor_of(&weights, place)?;
                let op = Op::FullyConnected { keeps_dims: true, activation: Activation::None };
                self.emit(op, &[*id, weights], shape.clone(), place)?
            }
            _ => {
                let ids = [self.tensor_of(&row, place)?, self.tensor_of(&column, place)?];
                self.emit(Op::MatMul, &ids, shape.clone(), place)?
            }
        };
        let product = Item::active(product, shape.clone());
        let mut kept = shape;
        if b.shape.len() == 1 {
            kept.pop();
        }
        if a.shape.len() == 1 {
            kept.remove(kept.len() - usize::from(b.shape.len() > 1) - 1);
        }
        self.reshape(&product, kept, place)
    }

    fn gemm(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let place = inputs.place;
        let [mut a, mut b] = [inputs.need(0)?.clone(), inputs.need(1)?.clone()];
        for (item, name) in [(&mut a, "transA"), (&mut b, "transB")] {
            if item.shape.len() != 2 {
                return Err(Error::malformed(place, format!("a matrix of shape {:?}", item.shape)));
            }
            if node.int(name, 0) != 0 {
                *item = self.transpose(item, &[1, 0], place)?;
            }
        }
        let (alpha, beta) = (node.float("alpha", 1.0), node.float("beta", 1.0));
        if alpha != 1.0 {
            b = match &b.data {
                Data::Floats(values) => {
                    Item::floats(b.shape.clone(), values.iter().map(|x| x * alpha).collect())
                }
                _ => self.binary(&b, &Item::floats(vec![], vec![alpha]), Binary::Mul, place)?,
            };
        }
        let mut product = self.matmul(&a, &b, place)?;
        if let Some(c) = inputs.get(2) {
            let c = if beta == 1.0 {
                c.clone()
            } else {
                self.binary(c, &Item::floats(vec![], vec![beta]), Binary::Mul, place)?
            };
            let n = b.shape[1];
            let is_row =
                matches!(c.data, Data::Floats(_)) && c.n_elements() == n && c.shape.last() == Some(&n);
            match product.data {
                // A bias of the layer that it just became.
                Data::Active(id) if is_row && self.give_bias(id, &c, place)? => {}
                _ => product = self.binary(&product, &c, Binary::Add, place)?,
            }
        }
        Ok(product)
    }

    fn softmax(&mut self, node: &NodeProto<'_>, item: &Item, place: &str) -> Result<Item, Error> {
        let n_dims = item.shape.len();
        let at = axis(node.int("axis", if self.opset < 13 { 1 } else { -1 }), n_dims, place)?;
        // Before version 13, over all dimensions from the given one on.
        let rows = if self.opset < 13 {
            let shape = vec![item.shape[..at].iter().product(), item.shape[at..].iter().product()];
            self.reshape(item, shape, place)?
        } else {
            item.clone()
        };
        let last = rows.shape.len() - 1;
        let at = if self.opset < 13 { last } else { at };
        let result = if node.op == "LogSoftmax" {
            let largest = self.reduce(&rows, Reduction::Max, vec![at], true, place)?;
            let shifted = self.binary(&rows, &largest, Binary::Sub, place)?;
            let exp = self.unary(&shifted, Unary::Exp, place)?;
            let sum = self.reduce(&exp, Reduction::Sum, vec![at], true, place)?;
            let log = self.unary(&sum, Unary::Log, place)?;
            self.binary(&shifted, &log, Binary::Sub, place)?
        } else {
            let mut perm: Vec<usize> = (0..=last).collect();
            perm.swap(at, last);
            let moved = if at == last { rows.clone() } else { self.transpose(&rows, &perm, place)? };
            let id = self.tensor_of(&moved, place)?;
            let id = self.emit(Op::Softmax { beta: 1.0 }, &[id], moved.shape.clone(), place)?;
            let result = Item::active(id, moved.shape);
            if at == last { result } else { self.transpose(&result, &perm, place)? }
        };
        self.reshape(&result, item.shape.clone(), place)
    }

    pub fn reduce(
        &mut self,
        item: &Item,
        reduction: Reduction,
        axes: Vec<usize>,
        keeps_dims: bool,
        place: &str,
    ) -> Result<Item, Error> {
        let dims = item.shape.iter().enumerate();
        let shape: Vec<usize> = if keeps_dims {
            dims.map(|(at, dim)| if axes.contains(&at) { 1 } else { *dim }).collect()
        } else {
            dims.filter(|(at, _)| !axes.contains(at)).map(|(_, dim)| *dim).collect()
        };
        if let Data::Ints(values) = &item.data {
            let all = axes.len() == item.shape.len();
            let result = match reduction {
                Reduction::Prod if all => values.iter().try_fold(1i64, |product, x| product.checked_mul(*x)),
                Reduction::Sum if all => values.iter().try_fold(0i64, |sum, x| sum.checked_add(*x)),
                Reduction::Max if all => values.iter().max().copied(),
                Reduction::Min if all => values.iter().min().copied(),
                _ => None,
            };
            let result = result.ok_or_else(|| Error::unsupported(place, "this of integers"))?;
            return Ok(Item::ints(shape, vec![result]));
        }
        let id = self.tensor_of(item, place)?;
        let id = self.emit(Op::Reduce { reduction, axes, keeps_dims }, &[id], shape.clone(), place)?;
        Ok(Item::active(id, shape))
    }

    fn reduce_node(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let (item, place) = (inputs.need(0)?, inputs.place);
        let n_dims = item.shape.len();
        let axes = inputs.ints_or(1, node, "axes")?.unwrap_or_default();
        if axes.is_empty() && node.int("noop_with_empty_axes", 0) != 0 {
            return Ok(item.clone());
        }
        let axes: Vec<usize> = if axes.is_empty() {
            (0..n_dims).collect()
        } else {
            axes.iter().map(|at| axis(*at, n_dims, place)).collect::<Result<_, _>>()?
        };
        let keeps_dims = node.int("keepdims", 1) != 0;
        let (reduction, before, after) = match node.op.as_str() {
            "ReduceSum" => (Reduction::Sum, None, None),
            "ReduceMean" if is_whole(item.kind) => {
                return Err(Error::unsupported(place, "means of integers"));
            }
            "ReduceMean" => (Reduction::Mean, None, None),
            "ReduceMax" => (Reduction::Max, None, None),
            "ReduceMin" => (Reduction::Min, None, None),
            "ReduceProd" => (Reduction::Prod, None, None),
            "ReduceL1" => (Reduction::L1, None, None),
            "ReduceL2" => (Reduction::L2, None, None),
            "ReduceSumSquare" => (Reduction::SumSquare, None, None),
            "ReduceLogSum" => (Reduction::Sum, None, Some(Unary::Log)),
            "ReduceLogSumExp" => (Reduction::Sum, Some(Unary::Exp), Some(Unary::Log)),
            _ => return Err(Error::unsupported(place, "this operator")),
        };
        let mut item = item.clone();
        if let Some(before) = before {
            item = self.unary(&item, before, place)?;
        }
        let mut result = self.reduce(&item, reduction, axes, keeps_dims, place)?;
        if let Some(after) = after {
            result = self.unary(&result, after, place)?;
        }
        Ok(result)
    }

    /// Less its mean, by its standard deviation, over `axes`; the mean; and one by the deviation.
    fn standardise(
        &mut self,
        item: &Item,
        axes: &[usize],
        epsilon: f32,
        place: &str,
    ) -> Result<[Item; 3], Error> {
        let mean = self.reduce(item, Reduction::Mean, axes.to_vec(), true, place)?;
        let centred = self.binary(item, &mean, Binary::Sub, place)?;
        let squared = self.unary(&centred, Unary::Square, place)?;
        let variance = self.reduce(&squared, Reduction::Mean, axes.to_vec(), true, place)?;
        let shifted = self.binary(&variance, &Item::floats(vec![], vec![epsilon]), Binary::Add, place)?;
        let deviation = self.unary(&shifted, Unary::Sqrt, place)?;
        let inverse = self.unary(&deviation, Unary::Reciprocal, place)?;
        Ok([self.binary(&centred, &inverse, Binary::Mul, place)?, mean, inverse])
    }

    fn layer_norm(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Vec<Item>, Error> {
        let (item, place) = (inputs.need(0)?, inputs.place);
        let first = axis(node.int("axis", -1), item.shape.len(), place)?;
        let axes: Vec<usize> = (first..item.shape.len()).collect();
        let [normal, mean, inverse] = self.standardise(item, &axes, node.float("epsilon", 1e-5), place)?;
        let mut result = self.binary(&normal, inputs.need(1)?, Binary::Mul, place)?;
        if let Some(bias) = inputs.get(2) {
            result = self.binary(&result, bias, Binary::Add, place)?;
        }
        Ok(vec![result, mean, inverse])
    }

    /// A constant for each channel, the second dimension of input 0.
    fn per_channel(&mut self, inputs: &Inputs<'_>, idx: usize) -> Result<Item, Error> {
        let n_dims = inputs.need(0)?.shape.len();
        let values = inputs.floats(idx)?;
        let values =
            values.ok_or_else(|| Error::malformed(inputs.place, format!("input {idx} is left out")))?;
        if n_dims < 2 || inputs.need(0)?.shape[1] != values.len() {
            return Err(Error::malformed(inputs.place, format!("{} numbers for its channels", values.len())));
        }
        let mut shape = vec![1; n_dims - 1];
        shape[0] = values.len();
        Ok(Item::floats(shape, values))
    }

    fn batch_norm(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Item, Error> {
        let (item, place) = (inputs.need(0)?, inputs.place);
        if node.int("training_mode", 0) != 0 {
            return Err(Error::unsupported(place, "training"));
        }
        let epsilon = node.float("epsilon", 1e-5);
        let mut numbers = Vec::new();
        for idx in 1..5 {
            let channel = self.per_channel(inputs, idx)?;
            let Data::Floats(values) = channel.data else { unreachable!("made of floats") };
            numbers.push(values);
        }
        let [scale, bias, mean, variance] = numbers.as_slice() else { unreachable!("four of them") };
        let factors: Vec<f32> =
            scale.iter().zip(variance.iter()).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let shifts: Vec<f32> =
            bias.iter().zip(mean.iter()).zip(&factors).map(|((b, m), factor)| b - m * factor).collect();
        if matches!(item.shape.len(), 3 | 4) {
            // Beside what convolves, where it becomes part of that.
            let (twin, _) = self.channels_last(item, place)?;
            let shape = self.graph().tensors[twin].shape.clone();
            let n = factors.len();
            let factors = self.constant(vec![n], ElementType::F32, Constant::of_f32s(&factors), None);
            let shifts = self.constant(vec![n], ElementType::F32, Constant::of_f32s(&shifts), None);
            let scaled = self.emit(Op::Binary(Binary::Mul), &[twin, factors], shape.clone(), place)?;
            let id = self.emit(Op::Binary(Binary::Add), &[scaled, shifts], shape, place)?;
            return self.channels_first(id, item.shape.len(), place);
        }
        let mut shape = vec![1; item.shape.len() - 1];
        shape[0] = factors.len();
        let scaled = self.binary(item, &Item::floats(shape.clone(), factors), Binary::Mul, place)?;
        self.binary(&scaled, &Item::floats(shape, shifts), Binary::Add, place)
    }

    fn lstm(&mut self, node: &NodeProto<'_>, inputs: &Inputs<'_>) -> Result<Vec<Item>, Error> {
        let place = inputs.place;
        for (name, usual) in [("direction", "forward")] {
            if node.text(name).is_some_and(|text| text != usual) {
                return Err(Error::unsupported(place, format!("{name} {}", node.text(name).unwrap_or(""))));
            }
        }
        for name in ["activations", "clip", "activation_alpha", "activation_beta"] {
            if node.attribute(name).is_some() {
                return Err(Error::unsupported(place, format!("{name} of its own")));
            }
        }
        if node.int("layout", 0) != 0 || node.int("input_forget", 0) != 0 || inputs.get(7).is_some() {
            return Err(Error::unsupported(place, "another layout, coupled gates or peepholes"));
        }
        let &[n_steps, batch, _] = inputs.need(0)?.shape.as_slice() else {
            return Err(Error::malformed(place, format!("an input of shape {:?}", inputs.need(0)?.shape)));
        };
        if inputs.ints(4)?.is_some_and(|lens| lens.iter().any(|len| *len != n_steps as i64)) {
            return Err(Error::unsupported(place, "sequences of several lengths"));
        }
        let n = *inputs.need(2)?.shape.last().unwrap_or(&0);
        let mut given = Vec::new();
        for idx in [0, 1, 2, 3, 5, 6] {
            given.push(match inputs.get(idx) {
                Some(item) => Some(self.tensor_of(item, place)?),
                None => None,
            });
        }
        let shapes = [vec![n_steps, 1, batch, n], vec![1, batch, n], vec![1, batch, n]];
        let mut ids = Vec::new();
        for shape in &shapes {
            ids.push(self.tensor(String::new(), shape.clone(), ElementType::F32, place)?);
        }
        self.push(Op::Lstm, given, ids.clone());
        Ok(ids.into_iter().zip(shapes).map(|(id, shape)| Item::active(id, shape)).collect())
    }
}

/// Functions of one number that are no more than that.
fn unary(node: &NodeProto<'_>) -> Option<Unary> {
    Some(match node.op.as_str() {
        "Abs" => Unary::Abs,
        "Neg" => Unary::Neg,
        "Sign" => Unary::Sign,
        "Reciprocal" => Unary::Reciprocal,
        "Sqrt" => Unary::Sqrt,
        "Floor" => Unary::Floor,
        "Ceil" => Unary::Ceil,
        "Round" => Unary::Round,
        "Exp" => Unary::Exp,
        "Log" => Unary::Log,
        "Sin" => Unary::Sin,
        "Cos" => Unary::Cos,
        "Tanh" => Unary::Tanh,
        "Erf" => Unary::Erf,
        "Sigmoid" => Unary::Sigmoid,
        "Softplus" => Unary::Softplus,
        "Softsign" => Unary::Softsign,
        "Relu" => Unary::RELU,
        "LeakyRelu" => Unary::LeakyRelu { alpha: node.float("alpha", 0.01) },
        "Elu" => Unary::Elu { alpha: node.float("alpha", 1.0) },
        "HardSigmoid" => {
            Unary::HardSigmoid { alpha: node.float("alpha", 0.2), beta: node.float("beta", 0.5) }
        }
        "HardSwish" => Unary::HardSwish,
        _ => return None,
    })
}

/// Functions of two, and of any number of them one after the other.
fn binary(op: &str) -> Option<Binary> {
    Some(match op {
        "Add" | "Sum" | "Mean" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Pow" => Binary::Pow,
        "Min" => Binary::Min,
        "Max" => Binary::Max,
        "PRelu" => Binary::PRelu,
        "Equal" => Binary::Equal,
        "Less" => Binary::Less,
        "LessOrEqual" => Binary::LessOrEqual,
        "Greater" => Binary::Greater,
        "GreaterOrEqual" => Binary::GreaterOrEqual,
        // Of truth values.
        "And" => Binary::Mul,
        "Or" => Binary::Max,
        "Xor" => Binary::NotEqual,
        _ => return None,
    })
}

/// Whether elements of this type are integers or truth values.
fn is_whole(kind: i64) -> bool {
    matches!(kind, kind::INT64 | kind::INT32 | kind::BOOL)
}

/// The type of a node's results, as ONNX defines it, where that is not the type of what was computed; `input` gives the type
/// of an input.
fn result_kind(node: &NodeProto<'_>, input: impl Fn(usize) -> Option<i64>) -> Option<i64> {
    match node.op.as_str() {
        "Cast" => Some(node.int("to", kind::FLOAT)),
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or" | "Xor" | "Not"
        | "IsNaN" => Some(kind::BOOL),
        "Where" => input(1),
        "QuantizeLinear" => Some(input(2).unwrap_or(kind::UINT8)),
        "QLinearConv" | "QLinearMatMul" => input(7).or(input(0)),
        "ConstantOfShape" => {
            node.attribute("value").and_then(|attribute| attribute.tensor.as_ref()).map(|tensor| tensor.kind)
        }
        // Made of nothing, or of shapes; branches know their own.
        "Constant" | "Shape" | "Size" | "If" | "DequantizeLinear" => None,
        _ => input(0),
    }
}

/// A dimension, counted from the end where it is negative.
pub fn axis(at: i64, n_dims: usize, place: &str) -> Result<usize, Error> {
    let from_end = if at < 0 { at.saturating_add(n_dims as i64) } else { at };
    usize::try_from(from_end)
        .ok()
        .filter(|at| *at < n_dims)
        .ok_or_else(|| Error::malformed(place, format!("there is no dimension {at} of {n_dims}")))
}

/// Sizes, none negative.
fn sizes(values: &[i64], place: &str) -> Result<Vec<usize>, Error> {
    let sizes: Option<Vec<usize>> = values.iter().map(|value| usize::try_from(*value).ok()).collect();
    sizes.ok_or_else(|| Error::malformed(place, format!("sizes {values:?}")))
}

fn indices(values: &[i64], len: usize, place: &str) -> Result<Vec<usize>, Error> {
    values.iter().map(|at| axis(*at, len, place)).collect()
}
