//! Names of tensors in the file, as floats and as bytes, with channels last and first.

use super::super::builder::walked;
use super::super::model::kind;
use super::Writer;
use super::file::Attribute;
use crate::error::Error;
use crate::graph::{ElementType, Quantization, TensorId};
use crate::network::walk::{Walk, dense_strides};

/// The order of a tensor's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As the graph has them; an image has its channels last.
    Last,
    /// Of an image: its channels before its rows and columns.
    First,
}

impl Layout {
    /// Dimension i of a tensor of `n_dims` is dimension `order[i]` of the graph's.
    pub fn order(self, n_dims: usize) -> Vec<usize> {
        match self {
            Layout::Last => (0..n_dims).collect(),
            Layout::First => vec![0, 3, 1, 2],
        }
    }

    /// Where dimension `axis` of the graph's tensor is.
    pub fn axis(self, axis: usize) -> usize {
        match (self, axis) {
            (Layout::First, 1..=3) => axis % 3 + 1,
            _ => axis,
        }
    }

    /// One for each dimension, in this order.
    pub fn arranged<T: Clone>(self, of_dims: &[T]) -> Vec<T> {
        self.order(of_dims.len()).into_iter().map(|axis| of_dims[axis].clone()).collect()
    }
}

/// What a tensor of the graph is called.
#[derive(Clone, Debug, Default)]
pub struct Value {
    /// With elements of its own type, by layout.
    own: [Option<String>; 2],
    /// Of bytes: as floats.
    floats: [Option<String>; 2],
    /// Zeros around another tensor, as long as nobody wants them as a tensor of their own.
    pub padded: Option<Padded>,
}

/// A tensor, and for each of its dimensions the zeros before and after it.
#[derive(Clone, Debug)]
pub struct Padded {
    pub of: TensorId,
    pub pads: Vec<[usize; 2]>,
}

impl Value {
    pub fn set(&mut self, layout: Layout, name: String) {
        self.own[layout as usize] = Some(name);
    }

    /// Whether it has a name in this layout.
    pub fn has(&self, layout: Layout) -> bool {
        self.own[layout as usize].is_some()
    }
}

impl<'g> Writer<'g> {
    /// The name of tensor `id`, with elements of its own type.
    pub fn own(&mut self, id: TensorId, layout: Layout) -> Result<String, Error> {
        let tensor = self.tensor(id);
        let n_dims = tensor.shape.len();
        if layout == Layout::First && n_dims != 4 {
            return Err(self.malformed(format!("an image of shape {:?}", tensor.shape)));
        }
        if let Some(padded) = self.values[id].padded.take() {
            self.pad_now(id, &padded)?;
        }
        if let Some(name) = &self.values[id].own[layout as usize] {
            return Ok(name.clone());
        }
        let name = if tensor.constant.is_some() {
            self.constant(id, &tensor.shape, &layout.order(n_dims))?
        } else {
            let (other, order) = match layout {
                Layout::First => (Layout::Last, [0, 3, 1, 2]),
                Layout::Last => (Layout::First, [0, 2, 3, 1]),
            };
            let Some(from) = self.values[id].own[other as usize].clone() else {
                return Err(self.unsupported("the shape of a tensor as numbers, or one that nothing gives"));
            };
            let order = Attribute::sizes("perm", &order);
            self.file.node("Transpose", &[&from], vec![order], &format!("{}/transposed", tensor.name))
        };
        self.values[id].set(layout, name.clone());
        Ok(name)
    }

    /// The name of tensor `id` as floats.
    pub fn floats(&mut self, id: TensorId, layout: Layout) -> Result<String, Error> {
        let tensor = self.tensor(id);
        if tensor.element_type == ElementType::F32 {
            return self.own(id, layout);
        }
        let own = self.own(id, layout)?;
        if let Some(name) = &self.values[id].floats[layout as usize] {
            return Ok(name.clone());
        }
        let quantization = self.quantization(id)?;
        let name = self.dequantize(&own, quantization, layout.axis(quantization.axis), &tensor.name)?;
        self.values[id].floats[layout as usize] = Some(name.clone());
        Ok(name)
    }

    /// Lets tensor `id` be what `floats` are; bytes are made of them where it has such.
    pub fn give(&mut self, id: TensorId, layout: Layout, floats: String) -> Result<(), Error> {
        let name = self.given(id, floats)?;
        self.values[id].set(layout, name);
        Ok(())
    }

    /// Floats as elements of the type of tensor `id`.
    pub fn given(&mut self, id: TensorId, floats: String) -> Result<String, Error> {
        let tensor = self.tensor(id);
        match tensor.element_type {
            ElementType::F32 => Ok(floats),
            ElementType::I8 => {
                let [scale, zero] = self.scale(self.quantization(id)?, &tensor.name)?;
                Ok(self.file.node("QuantizeLinear", &[&floats, &scale, &zero], vec![], &tensor.name))
            }
            ElementType::I32 => Err(self.unsupported("a result of integers")),
        }
    }

    /// How the bytes of tensor `id` are meant.
    pub fn quantization(&self, id: TensorId) -> Result<&'g Quantization, Error> {
        let tensor = &self.graph.tensors[id];
        match (&tensor.quantization, tensor.element_type) {
            (Some(quantization), ElementType::I8) => Ok(quantization),
            (_, ElementType::I8) => Err(self.unsupported("bytes without a scale")),
            _ => Err(self.unsupported(format!("elements of type {}", tensor.element_type))),
        }
    }

    /// Bytes as floats; where they have several scales, those of dimension `axis`.
    pub fn dequantize(
        &mut self,
        bytes: &str,
        quantization: &Quantization,
        axis: usize,
        wanted: &str,
    ) -> Result<String, Error> {
        let [scale, zero] = self.scale(quantization, wanted)?;
        let axis = (quantization.scales.len() > 1).then_some(Attribute::Int("axis", axis as i64));
        let inputs = [bytes, &scale, &zero];
        let axis = axis.into_iter().collect();
        Ok(self.file.node("DequantizeLinear", &inputs, axis, &format!("{wanted}/floats")))
    }

    /// Names of scales and zero points of bytes.
    fn scale(&mut self, quantization: &Quantization, wanted: &str) -> Result<[String; 2], Error> {
        let Quantization { scales, zeros, .. } = quantization;
        let bytes: Result<Vec<u8>, _> =
            zeros.iter().map(|zero| i8::try_from(*zero).map(|zero| zero as u8)).collect();
        let bytes = bytes.ok().filter(|bytes| bytes.len() == scales.len() && !bytes.is_empty());
        let bytes = bytes.ok_or_else(|| self.malformed(format!("zero points {zeros:?}")))?;
        let zero = format!("{wanted}/zero");
        let scale = self.scales(scales, wanted);
        Ok([scale, self.file.constant(kind::INT8, one_or_row(&[bytes.len()]), &bytes, &zero)])
    }

    /// The name of scales, one or a row of them.
    pub fn scales(&mut self, scales: &[f32], wanted: &str) -> String {
        let bytes: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        self.file.constant(kind::FLOAT, one_or_row(&[scales.len()]), &bytes, &format!("{wanted}/scale"))
    }

    /// The name of a constant as a tensor of `dims`, in the order that `order` says.
    pub fn constant(&mut self, id: TensorId, dims: &[usize], order: &[usize]) -> Result<String, Error> {
        let tensor = self.tensor(id);
        let Some(constant) = &tensor.constant else {
            return Err(self.unsupported("weights computed while it runs"));
        };
        let key = (id, dims.to_vec(), order.to_vec());
        if let Some(name) = self.constants.get(&key) {
            return Ok(name.clone());
        }
        let strides = dense_strides(dims);
        let shape: Vec<usize> = order.iter().map(|axis| dims[*axis]).collect();
        let walk = Walk::new(&shape, &[order.iter().map(|axis| strides[*axis]).collect()]);
        let bytes = constant.bytes();
        let (kind, elements) = match tensor.element_type {
            ElementType::I8 => (kind::INT8, walked(&walk, bytes)),
            ElementType::F32 => (kind::FLOAT, walked(&walk, bytes.as_chunks::<4>().0).concat()),
            ElementType::I32 => (kind::INT32, walked(&walk, bytes.as_chunks::<4>().0).concat()),
        };
        let name = self.file.constant(kind, &shape, &elements, &tensor.name);
        self.constants.insert(key, name.clone());
        Ok(name)
    }

    /// The elements of tensor `id` in their order, in whichever layout they are in it.
    pub fn in_order(&mut self, id: TensorId) -> Result<String, Error> {
        // Nothing is moved where there is one pixel, or one channel.
        let is_flat = matches!(self.tensor(id).shape.as_slice(), [_, 1, 1, _] | [_, _, _, 1]);
        let layout = if is_flat { self.layout(&[id]) } else { Layout::Last };
        self.own(id, layout)
    }

    /// What has the name `name`, with as many elements, as a tensor of this shape.
    pub fn reshaped(&mut self, name: &str, shape: &[usize], wanted: &str) -> Result<String, Error> {
        if shape.contains(&0) {
            return Err(self.unsupported(format!("nothing, of shape {shape:?}")));
        }
        let dims: Vec<i64> = shape.iter().map(|dim| *dim as i64).collect();
        let list = self.file.list(&dims, "shape");
        Ok(self.file.node("Reshape", &[name, &list], vec![], wanted))
    }

    /// In which layout what works element by element on `ids` finds most of them; channels first where that is the same.
    pub fn layout(&self, ids: &[TensorId]) -> Layout {
        let images = ids.iter().filter(|id| {
            let tensor = self.tensor(**id);
            tensor.shape.len() == 4 && tensor.constant.is_none()
        });
        let values = images.map(|id| match &self.values[*id].padded {
            Some(padded) => &self.values[padded.of],
            None => &self.values[*id],
        });
        let n_missing = |layout| values.clone().filter(|value| !value.has(layout)).count();
        let is_any = values.clone().next().is_some();
        if is_any && n_missing(Layout::First) <= n_missing(Layout::Last) {
            Layout::First
        } else {
            Layout::Last
        }
    }
}

/// The shape of scales: one of them has no dimensions.
fn one_or_row(len: &[usize; 1]) -> &[usize] {
    if *len == [1] { &[] } else { len }
}
