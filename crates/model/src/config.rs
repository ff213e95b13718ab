//! What the forward pass must know about a model, in the field's words, whatever file it came from.
//!
//! Every number here has been checked against the tensors' shapes by whoever built it (`gguf`, `huggingface`).

/// The model families whose forward pass the engine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// (0, 1), (2, 3), ...: the paper's; GGUF files of the llama family are stored so.
    Interleaved,
    /// (0, n/2), (1, n/2 + 1), ...: Hugging Face's `rotate_half`, "NeoX".
    Halves,
}

/// How rotary frequencies are stretched to contexts longer than trained on.
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    /// A position attends to itself and the `window_len - 1` before it, in windowed layers.
    pub window_len: usize,
    /// For each layer, whether it is windowed. `n_layers` entries.
    pub layer_is_windowed: Vec<bool>,
}

/// The gate's activation function in the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// GELU by its tanh approximation (Hendrycks and Gimpel 2016).
    GeluTanh,
}

/// Hyperparameters of a decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
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

impl Config {
    /// Whether layer `layer_idx` attends only to a window.
    pub fn is_windowed(&self, layer_idx: usize) -> bool {
        self.sliding_window.as_ref().is_some_and(|w| w.layer_is_windowed[layer_idx])
    }
}
