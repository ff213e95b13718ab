//! What `edgeward compress --prune` is compared with, as files of the same form:
//!
//! - `cosine.gguf`: layers left out all at once, those whose outputs are most like their inputs (Men et al. 2024,
//!   arXiv:2403.03853, "ShortGPT": one minus the mean cosine);
//! - `magnitude.gguf`: in each layer the neurons of the smallest weights left out, nothing solved anew.
//!
//! `prune_baselines MODEL.gguf TEXT SHARE FOLDER`, with a share such as 0.15 of all weights.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use edgeward_compress::eval::Windows;
use edgeward_compress::prune::{Pruned, Shape, Units};
use edgeward_engine::{Engine, EngineOptions};
use edgeward_kernels::dequantize;
use edgeward_model::Model;
use edgeward_model::tensor::{LayerSlot, Slot};

/// Calibration text, as `compress` takes it by default.
const N_WINDOWS: usize = 32;
/// Tokens of a window.
const WINDOW_LEN: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, share, folder] = &args[..] else {
        return Err("usage: prune_baselines MODEL.gguf TEXT SHARE FOLDER".into());
    };
    let model = Arc::new(Model::load(Path::new(model))?);
    let n_params = Shape::of(model.config()).n_params(&model) as f64;
    let max_params = ((1.0 - share.parse::<f64>()?) * n_params) as u64;
    let text = std::fs::read_to_string(text)?;
    for (name, pruned) in
        [("cosine", by_cosine(&model, &text, max_params)?), ("magnitude", by_magnitude(&model, max_params))]
    {
        println!("{name}: {:?}, {} weights", pruned.shape, pruned.shape.n_params(&model));
        pruned.write(&model, &Path::new(folder).join(format!("{name}.gguf")))?;
    }
    Ok(())
}

fn by_cosine(model: &Arc<Model>, text: &str, max_params: u64) -> Result<Pruned, Box<dyn Error>> {
    let config = model.config();
    let windows = Windows::new(&model.tokenizer()?, text, WINDOW_LEN)?.part(N_WINDOWS);
    let mut engine = Engine::new(model, EngineOptions::default())?;
    let mut influence = vec![0.0f64; config.n_layers];
    for idx in 0..windows.len() {
        let mut stream = engine.embed(&windows.window(idx))?;
        for (layer_idx, influence) in influence.iter_mut().enumerate() {
            let before = stream.clone();
            engine.run_layer(layer_idx, &mut stream, &mut |_, _| {})?;
            for (x, y) in before.chunks_exact(config.hidden_dim).zip(stream.chunks_exact(config.hidden_dim)) {
                let dot = |a: &[f32], b: &[f32]| -> f64 {
                    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                };
                *influence += 1.0 - dot(x, y) / (dot(x, x) * dot(y, y)).sqrt();
            }
        }
    }
    let mut order: Vec<usize> = (0..config.n_layers).collect();
    order.sort_by(|a, b| influence[*a].total_cmp(&influence[*b]));
    let mut shape = Shape::of(config);
    while shape.n_params(model) > max_params {
        shape.dropped_layers.push(order[shape.dropped_layers.len()]);
    }
    Ok(pruned(model, shape, |_| Units::all(config)))
}

fn by_magnitude(model: &Arc<Model>, max_params: u64) -> Pruned {
    let config = model.config();
    let mut shape = Shape::of(config);
    while shape.n_params(model) > max_params {
        shape.ffn_dim -= 32;
    }
    let n_left = shape.ffn_dim;
    pruned(model, shape, |layer_idx| {
        let mut squares = vec![0.0f64; config.ffn_dim];
        for slot in [LayerSlot::Gate, LayerSlot::Up, LayerSlot::Down] {
            let tensor = model.tensor(Slot::Layer(layer_idx, slot)).expect("every layer has it");
            let mut weights = vec![0.0; tensor.n_rows * tensor.n_cols];
            dequantize(tensor.dtype, tensor.data, &mut weights);
            for (i, w) in weights.iter().enumerate() {
                let (row, col) = (i / tensor.n_cols, i % tensor.n_cols);
                squares[if slot == LayerSlot::Down { col } else { row }] += f64::from(w * w);
            }
        }
        let mut order: Vec<usize> = (0..config.ffn_dim).collect();
        order.sort_by(|a, b| squares[*b].total_cmp(&squares[*a]));
        order.truncate(n_left);
        order.sort_unstable();
        Units { neurons: order, ..Units::all(config) }
    })
}

fn pruned(model: &Model, shape: Shape, units: impl Fn(usize) -> Units) -> Pruned {
    let left = (0..model.config().n_layers).filter(|layer_idx| !shape.dropped_layers.contains(layer_idx));
    let units: BTreeMap<usize, Units> = left.map(|layer_idx| (layer_idx, units(layer_idx))).collect();
    Pruned { shape, units, folder: None, trials: Vec::new() }
}
