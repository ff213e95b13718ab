//! What scaling the columns of matrices would be worth, if the scales' inverses went into the norm or the matrix before:
//! equalisation across layers costs nothing at run time (Lin et al. 2023, arXiv:2306.00978, "AWQ").
//!
//! A column's scale is the root mean square of its input to the power of an exponent; with zero nothing is scaled.
//! Printed is the error of the rounded matrices' outputs by that without scales, for some layers and types.
//!
//! `equalization MODEL.gguf TEXT [TYPE...]`

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use edgeward_compress::eval::Windows;
use edgeward_compress::hessian::{Factor, Hessian};
use edgeward_compress::rounding::{Effort, FORMATS, round};
use edgeward_engine::{Engine, EngineOptions, Isa, MatrixInput};
use edgeward_kernels::{DType, dequantize};
use edgeward_model::Model;
use edgeward_model::tensor::{LayerSlot, Slot};

const N_WINDOWS: usize = 16;
const WINDOW_LEN: usize = 512;
/// Every so many layers one is looked at.
const LAYER_STEP: usize = 6;
const DAMPING: f64 = 0.01;
const EXPONENTS: [f64; 5] = [0.0, 0.125, 0.25, 0.375, 0.5];
const MATRICES: [(MatrixInput, &[LayerSlot]); 4] = [
    (MatrixInput::Qkv, &[LayerSlot::Q, LayerSlot::K, LayerSlot::V]),
    (MatrixInput::O, &[LayerSlot::O]),
    (MatrixInput::GateUp, &[LayerSlot::Gate, LayerSlot::Up]),
    (MatrixInput::Down, &[LayerSlot::Down]),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, types @ ..] = &args[..] else {
        return Err("usage: equalization MODEL.gguf TEXT [TYPE...]".into());
    };
    let named = |name: &String| {
        FORMATS.into_iter().find(|dtype| dtype.name() == name).ok_or(format!("{name} is no type"))
    };
    let types: Vec<DType> = types.iter().map(named).collect::<Result<_, _>>()?;
    let types = if types.is_empty() { vec![DType::EW2, DType::EW3, DType::IQ4_NL] } else { types };
    let model = Arc::new(Model::load(Path::new(model))?);
    let windows = Windows::new(&model.tokenizer()?, &std::fs::read_to_string(text)?, WINDOW_LEN)?;
    let mut engine = Engine::new(&model, EngineOptions::default())?;
    let windows = windows.part(N_WINDOWS);
    let mut streams: Vec<Vec<f32>> =
        (0..windows.len()).map(|i| engine.embed(&windows.window(i))).collect::<Result<_, _>>()?;

    println!("layer input type  {EXPONENTS:?}");
    let mut sums: BTreeMap<(usize, &str), Vec<f64>> = BTreeMap::new();
    for layer_idx in 0..model.config().n_layers {
        let is_looked_at = layer_idx % LAYER_STEP == LAYER_STEP / 2;
        let mut hessians: BTreeMap<MatrixInput, Hessian> = BTreeMap::new();
        for stream in &mut streams {
            let n_tokens = stream.len() / model.config().hidden_dim;
            let mut inputs = Vec::new();
            engine.run_layer(layer_idx, stream, &mut |input, x| {
                if is_looked_at {
                    inputs.push((input, x.to_vec()));
                }
            })?;
            for (input, x) in inputs {
                let hessian = hessians.entry(input).or_insert_with(|| Hessian::new(x.len() / n_tokens));
                hessian.add(engine.pool(), Isa::best(), &x);
            }
        }
        for (i, (input, slots)) in MATRICES.into_iter().enumerate() {
            let Some(hessian) = hessians.get(&input) else { continue };
            let hessian_of = hessian.damped(DAMPING);
            for dtype in &types {
                let mut losses = Vec::new();
                for exponent in EXPONENTS {
                    let scales = scales(&hessian_of, hessian.n_cols(), exponent);
                    let mut loss = 0.0;
                    for slot in slots {
                        let slot = Slot::Layer(layer_idx, *slot);
                        loss += loss_of(&mut engine, &model, slot, *dtype, &hessian_of, &scales)?;
                    }
                    losses.push(loss);
                }
                let ratios: Vec<f64> = losses.iter().map(|loss| loss / losses[0]).collect();
                println!("{layer_idx:5} {input:?} {dtype}  {ratios:.3?}");
                let sum = sums.entry((i, dtype.name())).or_insert_with(|| vec![0.0; EXPONENTS.len()]);
                sum.iter_mut().zip(&ratios).for_each(|(sum, ratio)| *sum += ratio.ln());
            }
        }
    }
    println!("geometric means");
    let n_layers = (0..model.config().n_layers).filter(|i| i % LAYER_STEP == LAYER_STEP / 2).count() as f64;
    for ((input, dtype), sum) in sums {
        let means: Vec<f64> = sum.iter().map(|sum| (sum / n_layers).exp()).collect();
        println!("{:?} {dtype}  {means:.3?}", MATRICES[input].0);
    }
    Ok(())
}

/// Of each column, with a geometric mean of one.
fn scales(hessian: &[f64], n_cols: usize, exponent: f64) -> Vec<f64> {
    let logs: Vec<f64> = (0..n_cols).map(|j| hessian[j * (n_cols + 1)].ln() / 2.0 * exponent).collect();
    let mean = logs.iter().sum::<f64>() / n_cols as f64;
    logs.iter().map(|log| (log - mean).exp()).collect()
}

/// Error of a matrix's outputs when its columns are rounded scaled.
fn loss_of(
    engine: &mut Engine,
    model: &Model,
    slot: Slot,
    dtype: DType,
    hessian: &[f64],
    scales: &[f64],
) -> Result<f64, Box<dyn Error>> {
    let tensor = model.tensor(slot).ok_or("the model lacks a matrix")?;
    let n_cols = tensor.n_cols;
    let mut weights = vec![0.0; tensor.n_rows * n_cols];
    dequantize(tensor.dtype, tensor.data, &mut weights);
    for row in weights.chunks_exact_mut(n_cols) {
        row.iter_mut().zip(scales).for_each(|(w, scale)| *w *= *scale as f32);
    }
    let scaled = |i: usize| hessian[i] / (scales[i / n_cols] * scales[i % n_cols]);
    let hessian: Vec<f64> = (0..hessian.len()).map(scaled).collect();
    let factor = Factor::new(engine.pool(), Isa::best(), &hessian, n_cols).ok_or("not positive definite")?;
    Ok(round(engine.pool(), Isa::best(), dtype, &weights, &factor, Effort::QUICK).loss)
}
