//! Tiny models for the tests: the right keys, tensors of the right names and shapes, then whatever a test breaks.

use std::path::Path;

use edgeward_kernels::DType;
use serde_json::{Value as Json, json};

use crate::config::{Activation, Config, Family, Rope, RopeLayout, RopeScaling, SlidingWindow};
use crate::gguf::{ArrayBuf, Gguf, GgufWriter, Value};
use crate::layout::{self, Naming};
use crate::tensor::Slot;

pub(crate) const FAMILIES: [Family; 4] = [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Gemma3];

/// Enough for one global layer of Gemma 3.
const N_LAYERS: usize = 7;

/// What the tiny files of a family say, as GGUF.
pub(crate) fn config(family: Family) -> Config {
    let is_gemma = family == Family::Gemma3;
    Config {
        family,
        n_layers: N_LAYERS,
        hidden_dim: 32,
        ffn_dim: 48,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        vocab_size: 24,
        context_len: 128,
        rms_norm_eps: 1e-6,
        norm_weight_offset: 0.0,
        rope: Rope {
            theta: 1e6,
            theta_local: if is_gemma { 1e4 } else { 1e6 },
            rotary_dim: 16,
            layout: if family == Family::Llama { RopeLayout::Interleaved } else { RopeLayout::Halves },
            scaling: RopeScaling::None,
        },
        attn_scale: 0.25,
        embed_scale: if is_gemma { 32f32.sqrt() } else { 1.0 },
        sliding_window: is_gemma.then(|| SlidingWindow {
            window_len: 8,
            layer_is_windowed: vec![true, true, true, true, true, false, true],
        }),
        activation: if is_gemma { Activation::GeluTanh } else { Activation::Silu },
    }
}

/// A metadata value that owns what it holds.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Array(ArrayBuf),
}

/// A tensor of zeros.
#[derive(Clone)]
pub(crate) struct Zeros {
    pub(crate) name: String,
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
}

/// A GGUF file in the making.
pub(crate) struct GgufParts {
    pub(crate) arch: &'static str,
    pub(crate) keys: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<Zeros>,
    /// The divisors of rope_freqs.weight, if it is to be there.
    pub(crate) rope_freqs: Vec<f32>,
}

impl GgufParts {
    pub(crate) fn of(family: Family) -> GgufParts {
        let arch = match family {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Gemma3 => "gemma3",
        };
        let mut parts = GgufParts {
            arch,
            keys: Vec::new(),
            tensors: tensors(Naming::Gguf, &config(family), false),
            rope_freqs: Vec::new(),
        };
        parts.keys.push(("general.architecture".into(), Meta::Text(arch.into())));
        for (key, n) in [
            ("block_count", N_LAYERS as u32),
            ("context_length", 128),
            ("embedding_length", 32),
            ("feed_forward_length", 48),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 16),
            ("attention.value_length", 16),
        ] {
            parts.set(key, Meta::U32(n));
        }
        parts.set("attention.layer_norm_rms_epsilon", Meta::F32(1e-6));
        parts.set("rope.freq_base", Meta::F32(1e6));
        if family == Family::Gemma3 {
            parts.set("attention.sliding_window", Meta::U32(8));
        }
        parts
    }

    /// Sets a key of the architecture.
    pub(crate) fn set(&mut self, key: &str, value: Meta) {
        let key = format!("{}.{key}", self.arch);
        self.keys.retain(|(other, _)| *other != key);
        self.keys.push((key, value));
    }

    /// Removes a key of the architecture.
    pub(crate) fn unset(&mut self, key: &str) {
        let key = format!("{}.{key}", self.arch);
        let before = self.keys.len();
        self.keys.retain(|(other, _)| *other != key);
        assert!(self.keys.len() < before, "{key} was not there");
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.keys {
            let value = match value {
                Meta::U32(n) => Value::U32(*n),
                Meta::F32(x) => Value::F32(*x),
                Meta::Bool(b) => Value::Bool(*b),
                Meta::Text(text) => Value::String(text),
                Meta::Array(array) => array.value(),
            };
            writer.key(key, value).unwrap();
        }
        if !self.rope_freqs.is_empty() {
            writer.tensor("rope_freqs.weight", &[self.rope_freqs.len()], DType::F32).unwrap();
        }
        for tensor in &self.tensors {
            let dims = [tensor.n_cols, tensor.n_rows];
            writer.tensor(&tensor.name, &dims[..1 + usize::from(tensor.n_rows > 1)], DType::F32).unwrap();
        }
        let mut bytes = Vec::new();
        let fill = |name: &str, out: &mut dyn std::io::Write| {
            if name == "rope_freqs.weight" {
                return self.rope_freqs.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()));
            }
            let tensor = self.tensors.iter().find(|tensor| tensor.name == name).unwrap();
            out.write_all(&vec![0; 4 * tensor.n_rows * tensor.n_cols])
        };
        writer.write_to(&mut bytes, fill).unwrap();
        bytes
    }

    pub(crate) fn gguf(&self) -> Gguf {
        Gguf::from_bytes(self.bytes()).unwrap()
    }
}

/// Every tensor that the configuration asks for.
pub(crate) fn tensors(naming: Naming, config: &Config, with_head: bool) -> Vec<Zeros> {
    let globals =
        [Slot::TokenEmbedding, Slot::OutputNorm].into_iter().chain(with_head.then_some(Slot::Output));
    let layers = (0..config.n_layers)
        .flat_map(|i| layout::layer_slots(config.family).iter().map(move |&slot| Slot::Layer(i, slot)));
    let zeros = |slot| {
        let (n_rows, n_cols) = layout::shape(config, slot);
        Zeros { name: naming.name_of(config.family, slot), n_rows, n_cols }
    };
    globals.chain(layers).map(zeros).collect()
}

/// config.json as `transformers` 4 writes it.
pub(crate) fn config_json(class: &str) -> Json {
    let mut json = json!({
        "architectures": [class],
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 24,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": null,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "sliding_window": null,
        "torch_dtype": "bfloat16",
    });
    if class == "Gemma3ForCausalLM" {
        json["hidden_activation"] = "gelu_pytorch_tanh".into();
        json["query_pre_attn_scalar"] = 16.into();
        json["rope_local_base_freq"] = 10000.into();
        json["sliding_window"] = 8.into();
        json["sliding_window_pattern"] = 6.into();
    }
    json
}

/// Writes config.json and model.safetensors of F32 zeros.
pub(crate) fn write_folder(folder: &Path, config_json: &Json, tensors: &[Zeros]) {
    std::fs::write(folder.join("config.json"), config_json.to_string()).unwrap();
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += 4 * tensor.n_rows * tensor.n_cols;
        let shape = [tensor.n_rows, tensor.n_cols];
        let shape = &shape[usize::from(tensor.n_rows == 1)..];
        header.insert(
            tensor.name.clone(),
            json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }),
        );
    }
    let header = Json::from(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end, 0);
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
}
