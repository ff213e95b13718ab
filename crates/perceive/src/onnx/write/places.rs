//! Elements in other places: padded, cut out, repeated, in another order or shape, side by side.

use super::super::{model::kind, operators};
use super::Writer;
use super::file::Attribute;
use super::values::{Layout, Padded};
use crate::error::Error;
use crate::graph::{ElementType, Node, Pick, TensorId};

impl Writer<'_> {
    /// Zeros around a tensor, if anyone but a convolution wants them, which has its own.
    pub fn pad(&mut self, node: &Node) -> Result<(), Error> {
        let of = self.input(node, 0)?;
        let pads = self.known_ints(node, 1)?;
        let (pairs, rest) = pads.as_chunks::<2>();
        let pairs = pairs.iter().map(|pair| match pair.map(usize::try_from) {
            [Ok(before), Ok(after)] => Some([before, after]),
            _ => None,
        });
        let pads: Option<Vec<[usize; 2]>> = pairs.collect();
        let pads = pads.filter(|pads| rest.is_empty() && pads.len() == self.tensor(of).shape.len());
        let pads = pads.ok_or_else(|| self.malformed("other paddings than its dimensions'"))?;
        self.put_off(node.outputs[0], Padded { of, pads })
    }

    /// Lets `output` be zeros around a tensor; zeros around zeros are written, so that never more than one is put off.
    fn put_off(&mut self, output: TensorId, padded: Padded) -> Result<(), Error> {
        if self.values[padded.of].padded.is_some() {
            self.own(padded.of, self.layout(&[padded.of]))?;
        }
        self.values[output].padded = Some(padded);
        Ok(())
    }

    /// Writes the node that was put off.
    pub fn pad_now(&mut self, id: TensorId, padded: &Padded) -> Result<(), Error> {
        let layout = self.layout(&[padded.of]);
        let name = self.floats(padded.of, layout)?;
        let wanted = self.tensor(id).name.clone() + "/padded";
        let result = self.filled(&name, &layout.arranged(&padded.pads), 0.0, &wanted);
        self.give(id, layout, result)
    }

    /// Floats with `fill` before and after each dimension.
    fn filled(&mut self, name: &str, pads: &[[usize; 2]], fill: f32, wanted: &str) -> String {
        let sides = [0, 1].map(|side| pads.iter().map(|pair| pair[side] as i64).collect::<Vec<_>>());
        let pads = self.file.list(&sides.concat(), "pads");
        let fill = self.number(fill);
        self.file.node("Pad", &[name, &pads, &fill], vec![], wanted)
    }

    /// What is taken of each dimension: cut out, filled up, or by indices.
    pub fn take(&mut self, node: &Node, picks: &[Pick], fill: f32) -> Result<(), Error> {
        let (input, output) = (self.input(node, 0)?, node.outputs[0]);
        let shape = &self.tensor(input).shape;
        if picks.len() != shape.len() || self.tensor(output).n_elements() == 0 {
            return Err(self.unsupported(format!("this of shape {shape:?}")));
        }
        let taken: Option<Vec<Taken>> =
            picks.iter().zip(shape).map(|(pick, len)| Taken::of(pick, *len)).collect();
        let taken = taken.ok_or_else(|| self.malformed("an index beyond its dimension"))?;
        let pads: Vec<[usize; 2]> = taken.iter().map(Taken::pads).collect();
        let is_filled = pads.iter().any(|pair| *pair != [0, 0]);
        if fill == 0.0 && taken.iter().all(|taken| matches!(taken, Taken::Filled(_))) {
            return self.put_off(output, Padded { of: input, pads });
        }
        let layout = self.layout(&[input]);
        // Bytes can be moved as they are; what fills them up is a float.
        let is_moved = !is_filled && self.moves_only(&[input], output);
        let mut name = self.own_or_floats(input, layout, is_moved)?;
        let cuts: Vec<(i64, [i64; 3])> = taken
            .iter()
            .enumerate()
            .filter_map(|(axis, taken)| match taken {
                Taken::Every(cut) => Some((layout.axis(axis) as i64, *cut)),
                _ => None,
            })
            .collect();
        if !cuts.is_empty() {
            let list = |part: usize| cuts.iter().map(|(_, cut)| cut[part]).collect::<Vec<_>>();
            let axes: Vec<i64> = cuts.iter().map(|(axis, _)| *axis).collect();
            let lists = [list(0), list(1), axes, list(2)];
            let [starts, ends, axes, steps] = lists.map(|list| self.file.list(&list, "slice"));
            name = self.step("Slice", &[&name, &starts, &ends, &axes, &steps], vec![]);
        }
        if is_filled {
            let wanted = self.wanted.clone();
            name = self.filled(&name, &layout.arranged(&pads), fill, &wanted);
        }
        for (axis, taken) in taken.iter().enumerate() {
            if let Taken::Any { indices, .. } = taken {
                let indices = self.file.list(indices, "indices");
                let axis = Attribute::Int("axis", layout.axis(axis) as i64);
                name = self.step("Gather", &[&name, &indices], vec![axis]);
            }
        }
        self.set_or_give(output, layout, name, is_moved)
    }

    /// Whether the elements of `ids` are those of `output` without any change.
    fn moves_only(&self, ids: &[TensorId], output: TensorId) -> bool {
        let to = self.tensor(output);
        ids.iter().all(|id| {
            let from = self.tensor(*id);
            from.element_type == to.element_type
                && (to.element_type == ElementType::F32 || from.quantization == to.quantization)
        })
    }

    /// Parts by indices that are computed, as floats.
    pub fn gather(&mut self, node: &Node, axis: usize) -> Result<(), Error> {
        let (input, output) = (self.input(node, 0)?, node.outputs[0]);
        let values = self.floats(input, Layout::Last)?;
        let indices = self.floats(self.input(node, 1)?, Layout::Last)?;
        let indices = self.cast(&indices, kind::INT64);
        let result = self.step("Gather", &[&values, &indices], vec![Attribute::Int("axis", axis as i64)]);
        self.give(output, Layout::Last, result)
    }

    /// The same elements in another shape.
    pub fn reshape(&mut self, node: &Node) -> Result<(), Error> {
        let (input, output) = (self.input(node, 0)?, node.outputs[0]);
        let (from, to) = (self.tensor(input), self.tensor(output));
        if from.n_elements() != to.n_elements() {
            return Err(self.malformed(format!("shape {:?} as {:?}", from.shape, to.shape)));
        }
        let is_moved = self.moves_only(&[input], output);
        let elements = self.in_order(input)?;
        let mut name = self.reshaped(&elements, &to.shape, &to.name)?;
        if !is_moved && from.element_type != ElementType::F32 {
            name = self.dequantize(&name, self.quantization(input)?, 0, &from.name)?;
        }
        self.set_or_give(output, Layout::Last, name, is_moved)
    }

    /// Dimensions in another order; where that is only another layout, no node at all.
    pub fn transpose(&mut self, node: &Node, order: &[usize]) -> Result<(), Error> {
        let (input, output) = (self.input(node, 0)?, node.outputs[0]);
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if sorted != (0..self.tensor(input).shape.len()).collect::<Vec<_>>() {
            return Err(self.malformed(format!("dimensions {order:?}")));
        }
        if !self.moves_only(&[input], output) {
            return Err(self.unsupported("another scale or zero point for its output"));
        }
        let (from, to) = match order {
            [0, 3, 1, 2] => (Layout::First, Layout::Last),
            [0, 2, 3, 1] => (Layout::Last, Layout::First),
            _ => {
                let elements = self.own(input, Layout::Last)?;
                let name = self.step("Transpose", &[&elements], vec![Attribute::sizes("perm", order)]);
                self.values[output].set(Layout::Last, name);
                return Ok(());
            }
        };
        let name = self.own(input, from)?;
        self.values[output].set(to, name);
        Ok(())
    }

    /// Tensors side by side.
    pub fn concat(&mut self, node: &Node, axis: i32) -> Result<(), Error> {
        let output = node.outputs[0];
        let ids: Vec<TensorId> =
            (0..node.inputs.len()).map(|idx| self.input(node, idx)).collect::<Result<_, _>>()?;
        let n_dims = self.tensor(output).shape.len();
        let at = operators::axis(axis.into(), n_dims, &self.place)?;
        let layout = if n_dims == 4 { self.layout(&ids) } else { Layout::Last };
        let is_moved = self.moves_only(&ids, output);
        let mut names = Vec::new();
        for id in ids {
            names.push(self.own_or_floats(id, layout, is_moved)?);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let result = self.step("Concat", &names, vec![Attribute::Int("axis", layout.axis(at) as i64)]);
        self.set_or_give(output, layout, result, is_moved)
    }

    /// What a node that moves elements is given: the tensor's own where they do not change, else floats.
    fn own_or_floats(&mut self, id: TensorId, layout: Layout, is_moved: bool) -> Result<String, Error> {
        if is_moved { self.own(id, layout) } else { self.floats(id, layout) }
    }

    /// Lets tensor `id` be what such a node gives.
    fn set_or_give(
        &mut self,
        id: TensorId,
        layout: Layout,
        name: String,
        is_moved: bool,
    ) -> Result<(), Error> {
        if is_moved {
            self.values[id].set(layout, name);
            return Ok(());
        }
        self.give(id, layout, name)
    }
}

/// What is taken of a dimension, as ONNX has operators for it.
enum Taken {
    /// All, with so much before and after it.
    Filled([usize; 2]),
    /// From a start to before an end, in steps.
    Every([i64; 3]),
    /// By indices; where something is filled in, by that of one more at the end.
    Any { indices: Vec<i64>, is_filled: bool },
}

impl Taken {
    /// `None` if an index is beyond `len`.
    fn of(pick: &Pick, len: usize) -> Option<Taken> {
        let Pick::These(indices) = pick else { return Some(Taken::Filled([0, 0])) };
        if indices.iter().flatten().any(|idx| *idx >= len) {
            return None;
        }
        let before = indices.iter().take_while(|idx| idx.is_none()).count();
        let after = indices[before..].iter().rev().take_while(|idx| idx.is_none()).count();
        let inner = &indices[before..indices.len() - after];
        if inner.iter().copied().eq((0..len).map(Some)) {
            return Some(Taken::Filled([before, after]));
        }
        let known: Option<Vec<i64>> = indices.iter().map(|idx| idx.map(|idx| idx as i64)).collect();
        if let Some(known) = known {
            let step = match known.as_slice() {
                [first, second, ..] => second - first,
                _ => 1,
            };
            if let (Some(first), Some(last)) = (known.first(), known.last())
                && step != 0
                && known.is_sorted_by(|a, b| b - a == step)
            {
                // Before the first is as far from the end as there is anything, and one more.
                let end = if last + step < 0 { -(len as i64) - 1 } else { last + step };
                return Some(Taken::Every([*first, end, step]));
            }
            return Some(Taken::Any { indices: known, is_filled: false });
        }
        let indices = indices.iter().map(|idx| idx.unwrap_or(len) as i64).collect();
        Some(Taken::Any { indices, is_filled: true })
    }

    /// How much is filled in before and after.
    fn pads(&self) -> [usize; 2] {
        match self {
            Taken::Filled(pads) => *pads,
            Taken::Every(_) => [0, 0],
            Taken::Any { is_filled, .. } => [0, usize::from(*is_filled)],
        }
    }
}
