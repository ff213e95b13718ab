//! The model's tensors, brought into the form that the kernels want.
//!
//! Quantised matrices are repacked into one block of memory, in the order in which a token needs them, and the pages
//! of the file that they came from are given back as they are done. Float matrices stay in the file.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use edgeward_kernels::{Buffer, DType, FloatMatrix, Linear, Matrix, PackedMatrix, Pool, dequantize};
use edgeward_model::tensor::{LayerSlot, Slot, Tensor};
use edgeward_model::{Model, TensorBytes};

use crate::error::Error;

/// Weights of one transformer block.
pub(crate) struct Layer {
    pub attn_norm: Vec<f32>,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    /// RMS norm weights of query and key heads.
    pub qk_norms: Option<(Vec<f32>, Vec<f32>)>,
    pub o: Linear,
    pub post_attn_norm: Option<Vec<f32>>,
    pub ffn_norm: Vec<f32>,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
    pub post_ffn_norm: Option<Vec<f32>>,
}

/// All weights.
pub(crate) struct Weights {
    pub embedding: Matrix,
    pub layers: Vec<Layer>,
    pub output_norm: Vec<f32>,
    /// Shares the embedding's memory where the two are tied.
    pub output: Linear,
    is_tied: bool,
}

/// Tiles that one piece of work packs: some hundred kilobytes.
const TILES_PER_JOB: usize = 32;

/// One piece of packing.
struct Job<'a> {
    tensor: Tensor<'a>,
    tiles: Range<usize>,
    dst: &'a mut [u8],
}

impl Weights {
    pub fn load(model: &Arc<Model>, pool: &mut Pool) -> Result<Weights, Error> {
        let packed = Packed::new(model, pool)?;
        let loader = Loader { model, packed };
        let embedding = loader.matrix(Slot::TokenEmbedding)?;
        let output = match model.tensor(Slot::Output) {
            Some(_) => loader.matrix(Slot::Output)?,
            None => embedding.clone(),
        };
        Ok(Weights {
            embedding,
            layers: (0..model.config().n_layers).map(|i| loader.layer(i)).collect::<Result<_, _>>()?,
            output_norm: loader.norm(Slot::OutputNorm)?,
            output: Linear { matrix: output, bias: None },
            is_tied: model.tensor(Slot::Output).is_none(),
        })
    }

    /// The matrix of that slot; the embedding stands for the output where the two are tied.
    pub fn matrix(&self, slot: Slot) -> Option<&Matrix> {
        use LayerSlot::{Down, Gate, K, O, Q, Up, V};
        let (layer_idx, slot) = match slot {
            Slot::TokenEmbedding => return Some(&self.embedding),
            Slot::Output => return (!self.is_tied).then_some(&self.output.matrix),
            Slot::OutputNorm => return None,
            Slot::Layer(layer_idx, slot) => (layer_idx, slot),
        };
        let layer = self.layers.get(layer_idx)?;
        let map = match slot {
            Q => &layer.q,
            K => &layer.k,
            V => &layer.v,
            O => &layer.o,
            Gate => &layer.gate,
            Up => &layer.up,
            Down => &layer.down,
            _ => return None,
        };
        Some(&map.matrix)
    }

    /// Of the norm before a layer's attention or its feed-forward network.
    pub fn norm(&self, slot: Slot) -> Option<&[f32]> {
        match slot {
            Slot::Layer(layer_idx, LayerSlot::AttnNorm) => Some(&self.layers[layer_idx].attn_norm),
            Slot::Layer(layer_idx, LayerSlot::FfnNorm) => Some(&self.layers[layer_idx].ffn_norm),
            _ => None,
        }
    }

    /// Puts others in the place of those that [`Weights::norm`] finds.
    pub fn set_norm(&mut self, slot: Slot, weights: Vec<f32>) {
        match slot {
            Slot::Layer(layer_idx, LayerSlot::AttnNorm) => self.layers[layer_idx].attn_norm = weights,
            Slot::Layer(layer_idx, LayerSlot::FfnNorm) => self.layers[layer_idx].ffn_norm = weights,
            _ => {}
        }
    }

    /// Puts another matrix in the place of one that [`Weights::matrix`] finds.
    pub fn set_matrix(&mut self, slot: Slot, matrix: Matrix) {
        use LayerSlot::{Down, Gate, K, O, Q, Up, V};
        match slot {
            Slot::TokenEmbedding => {
                if self.is_tied {
                    self.output.matrix = matrix.clone();
                }
                self.embedding = matrix;
            }
            Slot::Output => self.output.matrix = matrix,
            Slot::OutputNorm => {}
            Slot::Layer(layer_idx, slot) => {
                let layer = &mut self.layers[layer_idx];
                let map = match slot {
                    Q => &mut layer.q,
                    K => &mut layer.k,
                    V => &mut layer.v,
                    O => &mut layer.o,
                    Gate => &mut layer.gate,
                    Up => &mut layer.up,
                    Down => &mut layer.down,
                    _ => return,
                };
                map.matrix = matrix;
            }
        }
    }
}

/// Matrices in the order in which a token needs them.
fn matrix_slots(model: &Model) -> impl Iterator<Item = Slot> {
    use LayerSlot::{Down, Gate, K, O, Q, Up, V};
    let layers = (0..model.config().n_layers)
        .flat_map(|i| [Q, K, V, O, Gate, Up, Down].map(|slot| Slot::Layer(i, slot)));
    layers.chain([Slot::Output, Slot::TokenEmbedding])
}

/// The packed matrices.
struct Packed {
    buffer: Arc<Buffer>,
    offsets: Vec<(Slot, usize)>,
}

impl Packed {
    fn new(model: &Model, pool: &mut Pool) -> Result<Packed, Error> {
        let mut offsets = Vec::new();
        let mut tensors = Vec::new();
        let mut len = 0usize;
        for slot in matrix_slots(model) {
            let Some(tensor) = model.tensor(slot).filter(|tensor| tensor.dtype.is_quantized()) else {
                continue;
            };
            let size = PackedMatrix::size_bytes(tensor.dtype, tensor.n_rows, tensor.n_cols)
                .and_then(|size| size.checked_next_multiple_of(64))
                .ok_or_else(|| bad(&tensor, "its rows are not a whole number of blocks"))?;
            offsets.push((slot, len));
            tensors.push((tensor, size));
            len = len.checked_add(size).ok_or_else(|| bad(&tensor, "the model is too large"))?;
        }
        let mut buffer = Buffer::zeroed(len);
        let mut jobs = Vec::new();
        let mut rest = buffer.as_mut_slice();
        for (tensor, size) in tensors {
            let (mut dst, later) = rest.split_at_mut(size);
            rest = later;
            let n_tiles = tensor.n_rows.div_ceil(16);
            let tile_bytes = size / n_tiles.max(1);
            for first in (0..n_tiles).step_by(TILES_PER_JOB) {
                let tiles = first..n_tiles.min(first + TILES_PER_JOB);
                let (now, later) = dst.split_at_mut(tiles.len() * tile_bytes);
                dst = later;
                jobs.push(Mutex::new(Job { tensor, tiles, dst: now }));
            }
        }
        let failure = Mutex::new(None);
        pool.run(jobs.len(), |_, i| {
            let Ok(mut job) = jobs[i].lock() else { return };
            let Job { tensor, tiles, dst } = &mut *job;
            let Tensor { dtype, n_rows, n_cols, data, .. } = *tensor;
            if let Err(error) = PackedMatrix::pack_tiles(dtype, n_rows, n_cols, data, tiles.clone(), dst)
                && let Ok(mut failure) = failure.lock()
            {
                *failure = Some(bad(tensor, &error.to_string()));
            }
            let row_bytes = data.len() / n_rows;
            let rows = tiles.start * 16 * row_bytes..n_rows.min(tiles.end * 16) * row_bytes;
            model.release(&Tensor { data: &data[rows], ..*tensor });
        });
        drop(jobs);
        match failure.into_inner() {
            Ok(Some(error)) => Err(error),
            _ => Ok(Packed { buffer: Arc::new(buffer), offsets }),
        }
    }
}

struct Loader<'a> {
    model: &'a Arc<Model>,
    packed: Packed,
}

impl Loader<'_> {
    fn layer(&self, i: usize) -> Result<Layer, Error> {
        let slot = |slot| Slot::Layer(i, slot);
        let linear = |matrix, bias: Option<LayerSlot>| {
            let bias = bias.map_or(Ok(None), |bias| self.vector(slot(bias)))?;
            Ok::<_, Error>(Linear { matrix: self.matrix(slot(matrix))?, bias })
        };
        let q_norm = self.optional_norm(slot(LayerSlot::QNorm))?;
        let k_norm = self.optional_norm(slot(LayerSlot::KNorm))?;
        Ok(Layer {
            attn_norm: self.norm(slot(LayerSlot::AttnNorm))?,
            q: linear(LayerSlot::Q, Some(LayerSlot::QBias))?,
            k: linear(LayerSlot::K, Some(LayerSlot::KBias))?,
            v: linear(LayerSlot::V, Some(LayerSlot::VBias))?,
            qk_norms: q_norm.zip(k_norm),
            o: linear(LayerSlot::O, None)?,
            post_attn_norm: self.optional_norm(slot(LayerSlot::PostAttnNorm))?,
            ffn_norm: self.norm(slot(LayerSlot::FfnNorm))?,
            gate: linear(LayerSlot::Gate, None)?,
            up: linear(LayerSlot::Up, None)?,
            down: linear(LayerSlot::Down, None)?,
            post_ffn_norm: self.optional_norm(slot(LayerSlot::PostFfnNorm))?,
        })
    }

    fn matrix(&self, slot: Slot) -> Result<Matrix, Error> {
        let tensor = self.model.tensor(slot).ok_or(Error::MissingTensor(slot))?;
        let Tensor { dtype, n_rows, n_cols, .. } = tensor;
        if let Some((_, offset)) = self.packed.offsets.iter().find(|(s, _)| *s == slot) {
            let buffer = Arc::clone(&self.packed.buffer);
            return Ok(Matrix::Packed(PackedMatrix::new(dtype, n_rows, n_cols, buffer, *offset)));
        }
        if !all_finite(dtype, tensor.data) {
            return Err(bad(&tensor, "it holds a value that is not a finite number"));
        }
        let bytes = TensorBytes::new(self.model, slot);
        let matrix = FloatMatrix::new(dtype, n_rows, n_cols, Arc::new(bytes));
        matrix.map(Matrix::Float).ok_or_else(|| bad(&tensor, "its bytes do not match its shape"))
    }

    fn norm(&self, slot: Slot) -> Result<Vec<f32>, Error> {
        self.optional_norm(slot)?.ok_or(Error::MissingTensor(slot))
    }

    fn optional_norm(&self, slot: Slot) -> Result<Option<Vec<f32>>, Error> {
        let mut weights = self.vector(slot)?;
        let offset = self.model.config().norm_weight_offset;
        weights.iter_mut().flatten().for_each(|w| *w += offset);
        Ok(weights)
    }

    fn vector(&self, slot: Slot) -> Result<Option<Vec<f32>>, Error> {
        let Some(tensor) = self.model.tensor(slot) else { return Ok(None) };
        let mut weights = vec![0.0; tensor.n_rows * tensor.n_cols];
        dequantize(tensor.dtype, tensor.data, &mut weights);
        if weights.iter().any(|w| !w.is_finite()) {
            return Err(bad(&tensor, "it holds a value that is not a finite number"));
        }
        Ok(Some(weights))
    }
}

fn bad(tensor: &Tensor, reason: &str) -> Error {
    Error::BadTensor { name: tensor.name.to_owned(), reason: reason.to_owned() }
}

/// Whether no float is infinite or NaN: those have all bits of the exponent set.
pub(crate) fn all_finite(dtype: DType, bytes: &[u8]) -> bool {
    let exponent = match dtype {
        DType::F32 => {
            return bytes.as_chunks().0.iter().all(|b| f32::from_le_bytes(*b).is_finite());
        }
        DType::F16 => 0x7c00,
        _ => 0x7f80,
    };
    bytes.as_chunks().0.iter().all(|b| u16::from_le_bytes(*b) & exponent != exponent)
}
