//! What the forward pass must know about a model, in the field's words, whatever file it came from.
//!
//! Every number of a loaded model's configuration is within [`Config::check`]'s bounds and has been compared with the
//! tensors' shapes ([`crate::Model::load`]).

use serde::Serialize;

use crate::error::ConfigError;

/// The model families whose forward pass the engine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Llama 2 and 3.x, Mistral, SmolLM2, TinyLlama (Touvron et al. 2023, arXiv:2302.13971).
    Llama,
    /// Qwen2 and Qwen2.5: as llama, with biases on q, k and v.
    Qwen2,
    /// Qwen3: as llama, with RMS norm on each head of q and k.
    Qwen3,
    /// Gemma 3, text part: sliding-window layers, q/k norm, post-norms, scaled embeddings.
    Gemma3,
}

/// Which pairs of a head's coordinates one rotary frequency turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeLayout {
    /// (0, 1), (2, 3), ...: the paper's; GGUF files of the llama family are stored so.
    Interleaved,
    /// (0, n/2), (1, n/2 + 1), ...: Hugging Face's `rotate_half`, "NeoX".
    Halves,
}

/// How rotary frequencies are stretched to contexts longer than trained on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// Frequencies unchanged.
    None,
    /// All positions divided by `factor`.
    Linear {
        /// Stretch, at least 1.
        factor: f32,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// Stretch of the long wavelengths.
        factor: f32,
        /// Wavelengths above `original_context_len / low_freq_factor` are stretched fully.
        low_freq_factor: f32,
        /// Wavelengths below `original_context_len / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// The context the model was first trained on, tokens.
        original_context_len: u32,
    },
    /// One divisor per frequency, `rotary_dim / 2` of them (GGUF's `rope_freqs.weight`).
    PerFrequency(Vec<f32>),
}

/// Rotary position embedding (Su et al. 2021, arXiv:2104.09864).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub theta: f32,
    /// Base in sliding-window layers (Gemma 3: 10,000); equal to `theta` elsewhere.
    pub theta_local: f32,
    /// Coordinates of each head that are turned, even, at most `head_dim`.
    pub rotary_dim: usize,
    /// Which coordinates are paired.
    pub layout: RopeLayout,
    /// Stretching, of the global layers only.
    pub scaling: RopeScaling,
}

/// Sliding-window attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlidingWindow {
    /// A position attends to itself and the `window_len - 1` before it, in windowed layers.
    pub window_len: usize,
    /// For each layer, whether it is windowed. `n_layers` entries.
    pub layer_is_windowed: Vec<bool>,
}

/// The gate's activation function in the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// GELU by its tanh approximation (Hendrycks and Gimpel 2016).
    GeluTanh,
}

/// Hyperparameters of a decoder-only transformer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Which forward pass.
    pub family: Family,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub hidden_dim: usize,
    /// Width of the feed-forward network.
    pub ffn_dim: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Coordinates per head, even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence the model was made for, tokens.
    pub context_len: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f32,
    /// Added to every RMS norm weight: 1 for Gemma in Hugging Face files (GGUF stores the sum), else 0.
    pub norm_weight_offset: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Multiplies q . k; 1 / sqrt(head_dim) unless the file says otherwise.
    pub attn_scale: f32,
    /// Multiplies the embedding row; sqrt(hidden_dim) for Gemma, else 1.
    pub embed_scale: f32,
    /// Windowed layers, if any.
    pub sliding_window: Option<SlidingWindow>,
    /// Gate activation.
    pub activation: Activation,
}

/// No model has more layers; a bound on what is allocated per layer.
const MAX_LAYERS: usize = 4096;

/// No model is wider, in any dimension but that of the vocabulary; far from overflow in products of two.
const MAX_DIM: usize = 1 << 20;

/// No vocabulary is larger.
const MAX_VOCAB: usize = 1 << 24;

/// No context is longer, tokens.
const MAX_CONTEXT: usize = 1 << 27;

impl Config {
    /// Whether layer `layer_idx` attends only to a window.
    pub fn is_windowed(&self, layer_idx: usize) -> bool {
        self.sliding_window.as_ref().is_some_and(|w| w.layer_is_windowed[layer_idx])
    }

    /// Checks every number against what the fields promise and against bounds that no real model exceeds.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], [`ConfigError::Unsupported`] for a combination that the contract does not cover.
    pub fn check(&self) -> Result<(), ConfigError> {
        let invalid = |key: &str, expected| Err(ConfigError::Invalid { key: key.into(), expected });
        if !(1..=MAX_LAYERS).contains(&self.n_layers) {
            return invalid("the number of layers", "from 1 to 4096");
        }
        for (key, dim) in [
            ("the hidden dimension", self.hidden_dim),
            ("the feed-forward dimension", self.ffn_dim),
            ("the number of heads", self.n_heads),
            ("the number of key-value heads", self.n_kv_heads),
            ("the dimension of a head", self.head_dim),
            ("the dimension of all heads", self.n_heads.saturating_mul(self.head_dim)),
        ] {
            if !(1..=MAX_DIM).contains(&dim) {
                return invalid(key, "from 1 to 1048576");
            }
        }
        if !(1..=MAX_VOCAB).contains(&self.vocab_size) {
            return invalid("the size of the vocabulary", "from 1 to 16777216");
        }
        if !(1..=MAX_CONTEXT).contains(&self.context_len) {
            return invalid("the context length", "from 1 to 134217728");
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return invalid("the number of key-value heads", "a divisor of the number of heads");
        }
        if !self.head_dim.is_multiple_of(2) {
            return invalid("the dimension of a head", "even");
        }
        for (key, value) in [
            ("the epsilon of the RMS norm", self.rms_norm_eps),
            ("the base of the rotary frequencies", self.rope.theta),
            ("the base of the local rotary frequencies", self.rope.theta_local),
            ("the scale of attention", self.attn_scale),
            ("the scale of the embedding", self.embed_scale),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return invalid(key, "a positive number");
            }
        }
        self.rope.check(self.head_dim)?;
        if let Some(window) = &self.sliding_window {
            if window.window_len == 0 {
                return invalid("the length of the sliding window", "at least 1");
            }
            if window.layer_is_windowed.len() != self.n_layers {
                return invalid("the sliding window's pattern", "one truth value for each layer");
            }
            // Gemma 3 scales its global layers only, as the contract says; the other families would scale all.
            if self.family != Family::Gemma3 && self.rope.scaling != RopeScaling::None {
                return Err(ConfigError::Unsupported {
                    what: "rope scaling together with a sliding window".into(),
                });
            }
        }
        Ok(())
    }
}

impl Rope {
    fn check(&self, head_dim: usize) -> Result<(), ConfigError> {
        let invalid = |key: &str, expected| Err(ConfigError::Invalid { key: key.into(), expected });
        if !(2..=head_dim).contains(&self.rotary_dim) || !self.rotary_dim.is_multiple_of(2) {
            return invalid("the rotary dimension", "even and at most that of a head");
        }
        let is_stretch = |factor: f32| factor.is_finite() && factor >= 1.0;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } if is_stretch(*factor) => Ok(()),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_len }
                if is_stretch(*factor)
                    && *low_freq_factor > 0.0
                    && low_freq_factor < high_freq_factor
                    && high_freq_factor.is_finite()
                    && *original_context_len > 0 =>
            {
                Ok(())
            }
            RopeScaling::PerFrequency(divisors)
                if divisors.len() == self.rotary_dim / 2
                    && divisors.iter().all(|d| d.is_finite() && *d > 0.0) =>
            {
                Ok(())
            }
            _ => invalid("the rope scaling", "factors of at least 1 that fit the rotary dimension"),
        }
    }
}

impl SlidingWindow {
    /// Every `period`-th layer global and the others windowed, as Gemma 3 has them; all windowed when `period` is 0.
    pub(crate) fn pattern(n_layers: usize, period: usize) -> Vec<bool> {
        // Not more than the bound that `Config::check` sets, whatever a hostile file claims.
        (1..=n_layers.min(MAX_LAYERS)).map(|nth| period == 0 || !nth.is_multiple_of(period)).collect()
    }
}
