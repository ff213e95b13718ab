//! How fast a model could be on this machine if nothing but the machine held it back.
//!
//! - Decode reads every weight once per token, and the keys and values of the positions before it. It is limited by
//!   memory bandwidth: `read_bytes_per_s / bytes per token`. Of a separate embedding only one row is read.
//! - Prefill multiplies every token by every weight matrix of the layers: two operations per weight, in 8 bits for
//!   quantised matrices and 32-bit floating point for others. The output matrix is needed for the last token only, and
//!   weights must be read at least once. Attention is not counted: the limit is an upper bound, and percentages of it
//!   are lower bounds.

use edgeward_kernels::kv::{KvShape, KvType, PAGE_LEN};
use edgeward_model::{Model, Slot};

use crate::device::MeasuredLimits;

/// What a model asks of a machine.
pub struct Demand {
    /// Weights that every token needs, bytes.
    weight_bytes: f64,
    /// 8-bit operations per token in the layers.
    int8_ops: f64,
    /// 32-bit floating-point operations per token in the layers.
    f32_ops: f64,
    /// For each layer: bytes of one position's keys and values, and how far back it looks at most.
    layers: Vec<(f64, usize)>,
}

impl Demand {
    /// Of `model` with keys and values kept as `kv_type`.
    pub fn new(model: &Model, kv_type: KvType) -> Demand {
        let config = model.config();
        let has_output = model.tensor(Slot::Output).is_some();
        let mut demand = Demand { weight_bytes: 0.0, int8_ops: 0.0, f32_ops: 0.0, layers: Vec::new() };
        for (slot, tensor) in model.tensors() {
            if slot == Slot::TokenEmbedding && has_output {
                continue;
            }
            demand.weight_bytes += tensor.data.len() as f64;
            if matches!(slot, Slot::Layer(..)) && tensor.n_rows > 1 {
                let ops = 2.0 * tensor.n_rows as f64 * tensor.n_cols as f64;
                if tensor.dtype.is_quantized() {
                    demand.int8_ops += ops;
                } else {
                    demand.f32_ops += ops;
                }
            }
        }
        let layer = KvShape { n_layers: 1, n_kv_heads: config.n_kv_heads, head_dim: config.head_dim, kv_type };
        let position_bytes = layer.page_bytes() as f64 / PAGE_LEN as f64;
        for layer_idx in 0..config.n_layers {
            let window = config.sliding_window.as_ref().filter(|_| config.is_windowed(layer_idx));
            demand.layers.push((position_bytes, window.map_or(usize::MAX, |window| window.window_len)));
        }
        demand
    }

    /// Tokens per second of the prefill of `n_prompt` tokens.
    pub fn prefill_tokens_per_s(&self, limits: &MeasuredLimits, n_prompt: usize) -> f64 {
        let per_token_s = self.int8_ops / limits.int8_ops_per_s + self.f32_ops / limits.f32_ops_per_s;
        let read_s = self.weight_bytes / limits.read_bytes_per_s;
        n_prompt as f64 / (per_token_s * n_prompt as f64).max(read_s)
    }

    /// Tokens per second when `n_gen` tokens are appended one by one to `n_depth`.
    pub fn decode_tokens_per_s(&self, limits: &MeasuredLimits, n_depth: usize, n_gen: usize) -> f64 {
        let kv_bytes: f64 = (0..n_gen).map(|i| self.kv_bytes(n_depth + i)).sum::<f64>() / n_gen as f64;
        limits.read_bytes_per_s / (self.weight_bytes + kv_bytes)
    }

    /// Keys and values read for a token with `n_before` tokens before it.
    fn kv_bytes(&self, n_before: usize) -> f64 {
        self.layers.iter().map(|(bytes, window_len)| bytes * n_before.min(*window_len) as f64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MeasuredLimits =
        MeasuredLimits { n_threads: 1, read_bytes_per_s: 1000.0, int8_ops_per_s: 100.0, f32_ops_per_s: 10.0 };

    #[test]
    fn limits_follow_from_bytes_and_operations() {
        let demand =
            Demand { weight_bytes: 90.0, int8_ops: 20.0, f32_ops: 1.0, layers: vec![(1.0, usize::MAX), (1.0, 4)] };
        // 0.3 s of arithmetic for a token; the weights take 0.09 s.
        assert!((demand.prefill_tokens_per_s(&LIMITS, 8) - 1.0 / 0.3).abs() < 1e-9);
        // Positions before: 6 and 7 in the first layer, 4 and 4 in the windowed one.
        assert!((demand.decode_tokens_per_s(&LIMITS, 6, 2) - 1000.0 / (90.0 + 10.5)).abs() < 1e-9);
        assert!((demand.decode_tokens_per_s(&LIMITS, 0, 1) - 1000.0 / 90.0).abs() < 1e-9);

        // So little arithmetic that reading the weights is what takes time.
        let demand = Demand { int8_ops: 0.1, f32_ops: 0.0, ..demand };
        assert!((demand.prefill_tokens_per_s(&LIMITS, 1) - 1.0 / 0.09).abs() < 1e-9);
    }
}
