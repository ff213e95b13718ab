//! A pruned model as a plain smaller file: rows of its matrices are copied, or come from those that were solved anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use edgeward_kernels::DType;
use edgeward_model::gguf::{GgufWriter, Value};
use edgeward_model::tensor::{Slot, Tensor};
use edgeward_model::{Model, Source};

use crate::error::Error;

use super::units::Side;
use super::{Shape, Trial, Units};

/// A pruned model, ready to be written.
#[derive(Debug)]
pub struct Pruned {
    /// What is left.
    pub shape: Shape,
    /// Of each layer that is left.
    pub units: BTreeMap<usize, Units>,
    /// Matrices that were solved anew, row after row with the columns that are left: files of this folder, half floats or as
    /// the teacher's.
    pub folder: Option<PathBuf>,
    /// What was tried, in order.
    pub trials: Vec<Trial>,
}

/// The type in which a matrix that was solved anew is stored.
pub(super) fn solved_type(tensor: &Tensor) -> DType {
    if tensor.dtype.is_quantized() { DType::F16 } else { tensor.dtype }
}

pub(super) fn file_name(slot: Slot) -> String {
    format!("{slot:?}").replace(['(', ')', ',', ' '], "-")
}

impl Pruned {
    /// Writes what is left of `model` to `path`: a plain smaller file. Nothing is at `path` on an error that was not there
    /// before.
    ///
    /// # Errors
    /// If the model is no GGUF file; those of reading and writing.
    pub fn write(&self, model: &Model, path: &Path) -> Result<(), Error> {
        let Source::Gguf(gguf) = model.source() else {
            return Err(Error::NotGguf { path: model.path().to_owned() });
        };
        let config = model.config();
        let slots: BTreeMap<&str, Slot> = model.tensors().map(|(slot, tensor)| (tensor.name, slot)).collect();
        let mut writer = GgufWriter::new();
        self.write_metadata(model, &mut writer)?;
        // What becomes of each tensor that stays, in the file's order.
        let mut plan = Vec::new();
        for tensor in gguf.tensors() {
            let slot = slots.get(tensor.name).copied();
            let (mut dims, mut name, mut dtype) =
                (tensor.dims.to_vec(), tensor.name.to_owned(), tensor.dtype);
            let mut lines = None;
            if let Some(slot @ Slot::Layer(layer_idx, layer_slot)) = slot {
                let Some(units) = self.units.get(&layer_idx) else { continue };
                let new_idx = self.units.range(..layer_idx).count();
                name = name.replacen(&format!(".{layer_idx}."), &format!(".{new_idx}."), 1);
                lines = units.lines(config, layer_slot);
                match &lines {
                    Some((Side::Rows, rows)) => dims[1] = rows.len(),
                    Some((Side::Cols, cols)) => dims[0] = cols.len(),
                    None => {}
                }
                if self.solved(slot).is_some() {
                    dtype = solved_type(&tensor.as_matrix());
                } else if matches!(lines, Some((Side::Cols, _))) && dtype.is_quantized() {
                    return Err(Error::CannotPrune { reason: "columns of blocks cannot be cut" });
                }
            }
            writer.tensor(&name, &dims, dtype)?;
            plan.push((tensor, slot, lines));
        }
        let mut plan = plan.into_iter();
        writer.write_file(path, |_, out| {
            let (tensor, slot, lines) =
                plan.next().expect("tensors are asked for in the order in which they were added");
            if let Some(path) = slot.and_then(|slot| self.solved(slot)) {
                return out.write_all(&fs::read(path)?);
            }
            let Some((side, lines)) = lines else { return out.write_all(tensor.data) };
            let n_rows = tensor.as_matrix().n_rows;
            let row_bytes = tensor.data.len() / n_rows;
            match side {
                Side::Rows => lines
                    .iter()
                    .try_for_each(|row| out.write_all(&tensor.data[row * row_bytes..][..row_bytes])),
                // Vectors, and float matrices that were not solved anew: an element is whole bytes.
                Side::Cols => {
                    let n_bytes = row_bytes / tensor.as_matrix().n_cols;
                    tensor.data.chunks_exact(row_bytes).try_for_each(|row| {
                        lines.iter().try_for_each(|col| out.write_all(&row[col * n_bytes..][..n_bytes]))
                    })
                }
            }
        })?;
        Ok(())
    }

    /// The file of a matrix that was solved anew.
    fn solved(&self, slot: Slot) -> Option<PathBuf> {
        let path = self.folder.as_ref()?.join(file_name(slot));
        path.is_file().then_some(path)
    }

    fn write_metadata(&self, model: &Model, writer: &mut GgufWriter) -> Result<(), Error> {
        let Source::Gguf(gguf) = model.source() else { return Ok(()) };
        let config = model.config();
        let arch = gguf.get("general.architecture").and_then(|v| v.as_str()).unwrap_or_default();
        let n_heads = config.n_heads / config.n_kv_heads * self.shape.n_kv_heads;
        let count = |n: usize| Value::U32(n as u32);
        let new = [
            ("block_count", count(self.units.len())),
            ("feed_forward_length", count(self.shape.ffn_dim)),
            ("attention.head_count", count(n_heads)),
            ("attention.head_count_kv", count(self.shape.n_kv_heads)),
            // Else readers take it for the width by the number of heads.
            ("attention.key_length", count(config.head_dim)),
            ("attention.value_length", count(config.head_dim)),
        ];
        for (key, value) in gguf.metadata() {
            let name = key.strip_prefix(arch).and_then(|key| key.strip_prefix('.'));
            if key != "general.alignment" && !new.iter().any(|(new, _)| Some(*new) == name) {
                writer.key(key, value)?;
            }
        }
        for (name, value) in new {
            writer.key(&format!("{arch}.{name}"), value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use edgeward_engine::{Engine, EngineOptions};
    use edgeward_model::tensor::LayerSlot;

    use super::*;
    use crate::compress::{floats, matrix, widened};
    use crate::prune::units::{HeadKind, head_lines};

    /// A file with parts left out computes what the whole model does when these parts are silent.
    #[test]
    fn a_written_file_is_the_model_without_what_is_gone() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny");
        let dir = tempfile::tempdir().unwrap();
        for (name, dropped) in [("llama", vec![1]), ("qwen2", vec![0]), ("qwen3", vec![]), ("gemma3", vec![])]
        {
            let model = Arc::new(Model::load(&folder.join(format!("{name}.gguf"))).unwrap());
            let config = model.config().clone();
            let left = (0..config.n_layers).filter(|layer_idx| !dropped.contains(layer_idx));
            let units: BTreeMap<usize, Units> = left
                .map(|i| {
                    let neurons = (0..config.ffn_dim).filter(|n| (n + i) % 3 > 0).collect::<Vec<_>>();
                    (
                        i,
                        Units {
                            neurons: neurons[..config.ffn_dim / 2].to_vec(),
                            kv_heads: vec![i % config.n_kv_heads],
                        },
                    )
                })
                .collect();
            let shape = Shape { dropped_layers: dropped, ffn_dim: config.ffn_dim / 2, n_kv_heads: 1 };
            let pruned = Pruned { shape, units, folder: None, trials: Vec::new() };
            let path = dir.path().join(name);
            pruned.write(&model, &path).unwrap();
            let small = Arc::new(Model::load(&path).unwrap());
            let n_params: usize = small.tensors().map(|(_, tensor)| tensor.n_rows * tensor.n_cols).sum();
            assert_eq!(n_params as u64, pruned.shape.n_params(&model), "{name}");

            let options = EngineOptions { kv_type: edgeward_engine::KvType::F32, ..EngineOptions::default() };
            let (mut old, mut new) =
                (Engine::new(&model, options.clone()).unwrap(), Engine::new(&small, options).unwrap());
            let tokens: Vec<u32> = (0..24).map(|i| i * 7 % 300).collect();
            let (mut a, mut b) = (old.embed(&tokens).unwrap(), new.embed(&tokens).unwrap());
            for (new_idx, (&layer_idx, units)) in pruned.units.iter().enumerate() {
                for (slot, lines) in [
                    (LayerSlot::Down, units.neurons.clone()),
                    (LayerSlot::O, head_lines(&config, HeadKind::Query, &units.kv_heads)),
                ] {
                    let slot = Slot::Layer(layer_idx, slot);
                    let tensor = model.tensor(slot).unwrap();
                    let mut weights = widened(&tensor);
                    for (i, w) in weights.iter_mut().enumerate() {
                        if !lines.contains(&(i % tensor.n_cols)) {
                            *w = 0.0;
                        }
                    }
                    let silent = matrix(&tensor, DType::F32, floats(DType::F32, &weights)).unwrap();
                    old.set_matrix(slot, silent).unwrap();
                }
                old.run_layer(layer_idx, &mut a, &mut |_, _| {}).unwrap();
                new.run_layer(new_idx, &mut b, &mut |_, _| {}).unwrap();
            }
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{name}: {a} and {b}");
            }
        }
    }
}
