//! Columns of more even inputs, for nothing: scales that cancel out between a matrix and what stands before it.
//!
//! A block's scale serves columns whose inputs differ in size by much, and an error weighs as its input. So columns of
//! large inputs are scaled up before rounding, and their inputs down as much: in the weights of the norm before the matrix,
//! or, for the down projection, in the rows of the up projection, in whose outputs it is linear. The model computes what
//! it did, and nothing more than it did (Lin et al. 2023, arXiv:2306.00978, "AWQ", section 3.2).
//!
//! The output projection of attention is left alone: there it was measured to be worth nothing
//! (`examples/equalization.rs`). So are quantised teachers, whose weights are on a grid already.

use edgeward_engine::{Engine, MatrixInput};
use edgeward_kernels::memory::give_back_freed;
use edgeward_model::tensor::{LayerSlot, Slot};

use crate::compress::{Compressor, embed_all, is_matrix};
use crate::error::Error;

/// A column's scale is the root mean square of its input to the power of this; measured to be the best, and flat there.
const EXPONENT: f64 = 0.1875;
/// Part of the mean square of all columns that is added to each: some inputs are never there.
const DAMPING: f64 = 0.01;

/// By what the columns of a model's matrices are multiplied; those of no layer where nothing is scaled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scales(Vec<LayerScales>);

#[derive(Clone, Debug, Default)]
struct LayerScales {
    /// `[hidden_dim]`
    qkv: Vec<f32>,
    /// `[hidden_dim]`
    gate_up: Vec<f32>,
    /// `[ffn_dim]`
    down: Vec<f32>,
}

impl Scales {
    /// Whether anything is scaled.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Scales a matrix, row after row.
    pub fn scale(&self, slot: Slot, n_cols: usize, weights: &mut [f32]) {
        let Slot::Layer(layer_idx, slot) = slot else { return };
        let Some(scales) = self.0.get(layer_idx) else { return };
        let columns = match slot {
            LayerSlot::Q | LayerSlot::K | LayerSlot::V => &scales.qkv,
            LayerSlot::Gate | LayerSlot::Up => &scales.gate_up,
            LayerSlot::Down => &scales.down,
            _ => return,
        };
        for row in weights.chunks_exact_mut(n_cols) {
            row.iter_mut().zip(columns).for_each(|(w, scale)| *w *= scale);
        }
        if slot == LayerSlot::Up {
            for (row, scale) in weights.chunks_exact_mut(n_cols).zip(&scales.down) {
                row.iter_mut().for_each(|w| *w /= scale);
            }
        }
    }

    /// By what the weights of a norm are divided, if they are.
    pub fn of_norm(&self, slot: Slot) -> Option<&[f32]> {
        let Slot::Layer(layer_idx, slot) = slot else { return None };
        let scales = self.0.get(layer_idx)?;
        match slot {
            LayerSlot::AttnNorm => Some(&scales.qkv),
            LayerSlot::FfnNorm => Some(&scales.gate_up),
            _ => None,
        }
    }
}

impl Compressor<'_> {
    /// Finds scales for all that is rounded from here on, from the activations on the calibration text.
    ///
    /// # Errors
    /// Those of reading and computing.
    pub fn equalize(&mut self) -> Result<(), Error> {
        let mut matrices = self.teacher.tensors().filter(|(slot, _)| is_matrix(*slot));
        if !self.scales.is_empty() || matrices.any(|(_, tensor)| tensor.dtype.is_quantized()) {
            return Ok(());
        }
        let n_layers = self.teacher.config().n_layers;
        let mut engine = self.eight_bit_engine()?;
        let windows: Vec<Vec<u32>> = (0..self.windows.len()).map(|i| self.windows.window(i)).collect();
        let mut streams = embed_all(&engine, &windows)?;
        let mut layers = Vec::new();
        for layer_idx in 0..n_layers {
            self.tell("measuring activations", layer_idx, n_layers)?;
            layers.push(self.layer_scales(&mut engine, layer_idx, &mut streams)?);
        }
        self.tell("measuring activations", n_layers, n_layers)?;
        drop((engine, streams));
        give_back_freed();
        self.scales = Scales(layers);
        Ok(())
    }

    /// Of a layer that the streams go through.
    fn layer_scales(
        &self,
        engine: &mut Engine,
        layer_idx: usize,
        streams: &mut [Vec<f32>],
    ) -> Result<LayerScales, Error> {
        let (hidden_dim, ffn_dim) = (self.teacher.config().hidden_dim, self.teacher.config().ffn_dim);
        let mut squares = [vec![0.0; hidden_dim], vec![0.0; hidden_dim], vec![0.0; ffn_dim]];
        for stream in streams {
            self.check()?;
            engine.run_layer(layer_idx, stream, &mut |input, x| {
                let squares: &mut Vec<f64> = match input {
                    MatrixInput::Qkv => &mut squares[0],
                    MatrixInput::GateUp => &mut squares[1],
                    MatrixInput::Down => &mut squares[2],
                    MatrixInput::O => return,
                };
                for row in x.chunks_exact(squares.len()) {
                    squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x * x));
                }
            })?;
        }
        let [qkv, gate_up, down] = squares.map(|squares| scales(&squares));
        Ok(LayerScales { qkv, gate_up, down })
    }
}

/// Of columns whose inputs' squares have these sums; their geometric mean is one.
fn scales(squares: &[f64]) -> Vec<f32> {
    let n = squares.len() as f64;
    let mean = squares.iter().sum::<f64>() / n;
    if mean <= 0.0 || !mean.is_finite() {
        return vec![1.0; squares.len()];
    }
    let logs = || squares.iter().map(|square| (square / mean + DAMPING).ln() * EXPONENT / 2.0);
    let middle = logs().sum::<f64>() / n;
    logs().map(|log| (log - middle).exp() as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::Arc;

    use edgeward_engine::{CancelToken, EngineOptions, KvType};
    use edgeward_kernels::DType;
    use edgeward_model::Model;
    use edgeward_model::tensor::LayerSlot::{AttnNorm, Down, FfnNorm, Gate, K, O, Q, Up, V};

    use crate::compress::{Assignment, Options, widened};
    use crate::eval::Windows;
    use crate::rounding::Effort;

    #[test]
    fn a_large_input_gets_a_large_scale_and_all_together_none() {
        let found = scales(&[1.0, 16.0, 0.0, 1e6]);
        assert!(found[3] > found[1] && found[1] > found[0] && found[0] > found[2], "{found:?}");
        assert!((found.iter().product::<f32>() - 1.0).abs() < 1e-5, "{found:?}");
        for silent in [vec![0.0; 3], vec![f64::NAN, 1.0, 1.0], vec![f64::INFINITY; 3]] {
            assert_eq!(scales(&silent), [1.0; 3]);
        }
    }

    /// In floats, nothing but the last digits of what a model computes depends on the scales.
    #[test]
    fn an_equalized_model_computes_what_it_did() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny");
        let text = std::fs::read_to_string(folder.join("../../LICENSE-APACHE")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for name in ["llama", "qwen2", "qwen3", "gemma3"] {
            let model = Arc::new(Model::load(&folder.join(format!("{name}.gguf"))).unwrap());
            let windows = Windows::new(&model.tokenizer().unwrap(), &text, 64).unwrap().part(8);
            let (options, cancel) = (Options { n_threads: 1, effort: Effort::QUICK }, CancelToken::new());
            let mut watch = |_| {};
            let mut compressor = Compressor::new(&model, &windows, options, &cancel, &mut watch).unwrap();
            compressor.equalize().unwrap();
            let path = dir.path().join(name);
            compressor.write(&Assignment::uniform(&model, DType::F32), &path, "").unwrap();

            let scaled = Arc::new(Model::load(&path).unwrap());
            let of = |model: &Model, slot| widened(&model.tensor(Slot::Layer(0, slot)).unwrap());
            for slot in [AttnNorm, Q, K, V, FfnNorm, Gate, Up, Down] {
                assert_ne!(of(&model, slot), of(&scaled, slot), "{name} {slot:?}");
            }
            assert_eq!(of(&model, O), of(&scaled, O));
            let logits = |model: &Arc<Model>| {
                let options = EngineOptions { kv_type: KvType::F32, ..EngineOptions::default() };
                let mut engine = Engine::new(model, options).unwrap();
                let mut stream = engine.embed(&windows.window(0)).unwrap();
                for layer_idx in 0..model.config().n_layers {
                    engine.run_layer(layer_idx, &mut stream, &mut |_, _| {}).unwrap();
                }
                engine.logits(&stream).unwrap().into_vec()
            };
            for (a, b) in logits(&model).iter().zip(&logits(&scaled)) {
                assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{name}: {a} and {b}");
            }
        }
    }
}
