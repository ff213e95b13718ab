//! Where a tensor belongs in the network, whatever its file calls it.

use edgeward_kernels::DType;

/// A tensor's place within one transformer block. Matrices are `[out, in]`, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerSlot {
    /// RMS norm before attention, `[hidden_dim]`.
    AttnNorm,
    /// Query projection, `[n_heads * head_dim, hidden_dim]`.
    Q,
    /// Key projection, `[n_kv_heads * head_dim, hidden_dim]`.
    K,
    /// Value projection, `[n_kv_heads * head_dim, hidden_dim]`.
    V,
    /// Query bias, `[n_heads * head_dim]` (Qwen2).
    QBias,
    /// Key bias, `[n_kv_heads * head_dim]` (Qwen2).
    KBias,
    /// Value bias, `[n_kv_heads * head_dim]` (Qwen2).
    VBias,
    /// RMS norm of each query head, `[head_dim]` (Qwen3, Gemma 3).
    QNorm,
    /// RMS norm of each key head, `[head_dim]` (Qwen3, Gemma 3).
    KNorm,
    /// Attention's output projection, `[hidden_dim, n_heads * head_dim]`.
    O,
    /// RMS norm of attention's output before it is added (Gemma 3), `[hidden_dim]`.
    PostAttnNorm,
    /// RMS norm before the feed-forward network, `[hidden_dim]`.
    FfnNorm,
    /// Gate projection, `[ffn_dim, hidden_dim]`.
    Gate,
    /// Up projection, `[ffn_dim, hidden_dim]`.
    Up,
    /// Down projection, `[hidden_dim, ffn_dim]`.
    Down,
    /// RMS norm of the feed-forward output before it is added (Gemma 3), `[hidden_dim]`.
    PostFfnNorm,
}

/// A tensor's place in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// `[vocab_size, hidden_dim]`.
    TokenEmbedding,
    /// RMS norm before the output, `[hidden_dim]`.
    OutputNorm,
    /// `[vocab_size, hidden_dim]`; absent when tied to the embedding.
    Output,
    /// A tensor of block `.0`.
    Layer(usize, LayerSlot),
}

/// A tensor of an open model file: a view, nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// The name the file gives it.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Rows (1 for a vector).
    pub n_rows: usize,
    /// Weights per row, the fastest-varying dimension.
    pub n_cols: usize,
    /// `n_rows * dtype.row_bytes(n_cols)` bytes, row after row.
    pub data: &'a [u8],
}
