//! From a model's name to an engine, the same way for every command that computes.

use std::sync::Arc;

use clap::ValueEnum;
use edgeward_engine::{Engine, EngineOptions};
use edgeward_kernels::kv::{KvShape, KvType, PAGE_LEN};
use edgeward_model::Model;

use crate::device;
use crate::store::{Progress, Store, human_bytes};

/// Tokens computed at once during prefill, for the estimate of working memory.
const BATCH_TOKENS: usize = 256;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvArg {
    /// Half floats
    F16,
    /// Bytes with a scale for each 32: half the memory
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<KvArg> for KvType {
    fn from(arg: KvArg) -> KvType {
        match arg {
            KvArg::F16 => KvType::F16,
            KvArg::Q8_0 => KvType::Q8_0,
        }
    }
}

/// Arguments of every command that computes.
#[derive(clap::Args)]
pub struct EngineArgs {
    /// Threads [default: as many as can run at once]
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Longest conversation, tokens [default: what the model was made for]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// How keys and values are kept
    #[arg(long, value_enum, default_value = "f16")]
    pub kv: KvArg,
}

impl EngineArgs {
    /// Makes an engine of an open model.
    pub fn engine(&self, model: &Arc<Model>, progress: &Progress) -> Result<Engine, edgeward_engine::Error> {
        let n_threads = self.threads.map_or_else(device::n_logical_cores, usize::from);
        engine(model, n_threads, self.kv.into(), self.context.unwrap_or(0) as usize, progress)
    }
}

/// Makes an engine, and says so beforehand if memory will not do.
pub fn engine(
    model: &Arc<Model>,
    n_threads: usize,
    kv_type: KvType,
    context_len: usize,
    progress: &Progress,
) -> Result<Engine, edgeward_engine::Error> {
    let need = MemoryNeed::new(model, kv_type);
    // Room for one page of keys and values is the least; what a longer conversation takes comes as it grows.
    let needed_bytes = need.total_bytes(PAGE_LEN);
    if let Some(memory) = device::memory().filter(|memory| memory.available_bytes < needed_bytes) {
        progress.note(&format!(
            "This model needs {} of memory and {} are free: close other programs, or take a smaller model.",
            human_bytes(needed_bytes),
            human_bytes(memory.available_bytes)
        ));
    }
    Engine::new(model, EngineOptions { n_threads, kv_type, context_len, ..EngineOptions::default() })
}

/// Opens the model that `name` stands for, after pulling it if need be.
pub fn open(name: &str, progress: &mut Progress) -> Result<Arc<Model>, Box<dyn std::error::Error>> {
    let path = Store::open()?.resolve(name, progress)?;
    Ok(Arc::new(Model::load(&path)?))
}

/// What running a model takes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Weights: the file, since what is repacked replaces its pages.
    pub weight_bytes: u64,
    /// Activations and logits.
    pub work_bytes: u64,
    /// Keys and values of [`PAGE_LEN`] tokens.
    page_bytes: u64,
}

impl MemoryNeed {
    /// Of `model`, with keys and values kept as `kv_type`.
    pub fn new(model: &Model, kv_type: KvType) -> MemoryNeed {
        let config = model.config();
        let head_dims = (config.n_heads * 2 + config.n_kv_heads * 2) * config.head_dim;
        let per_token = 3 * config.hidden_dim + 2 * config.ffn_dim + head_dims;
        let floats = BATCH_TOKENS * per_token + 2 * config.vocab_size;
        let shape = KvShape {
            n_layers: config.n_layers,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            kv_type,
        };
        MemoryNeed {
            weight_bytes: model.file_bytes(),
            work_bytes: (floats * size_of::<f32>()) as u64,
            page_bytes: shape.page_bytes() as u64,
        }
    }

    /// Keys and values of `n_tokens`.
    pub fn kv_bytes(&self, n_tokens: usize) -> u64 {
        self.page_bytes.saturating_mul(n_tokens.div_ceil(PAGE_LEN) as u64)
    }

    /// Everything, for a conversation of `n_tokens`.
    pub fn total_bytes(&self, n_tokens: usize) -> u64 {
        self.weight_bytes.saturating_add(self.work_bytes).saturating_add(self.kv_bytes(n_tokens))
    }
}
