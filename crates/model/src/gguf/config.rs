//! From GGUF metadata to [`Config`].
//!
//! Keys are those that the ggml project's converter writes. A key of the architecture that is not in the table below
//! is refused: it asks for something, and we do not know what.

use edgeward_kernels::DType;

use super::{Gguf, Value};
use crate::config::{Activation, Config, Family, Rope, RopeLayout, RopeScaling, SlidingWindow};
use crate::error::ConfigError;
use crate::layout::Naming;
use crate::tensor::Slot;

/// Divisors of the rotary frequencies, `[rotary_dim / 2]`, in files of Llama 3.1 and later.
const ROPE_FREQS: &str = "rope_freqs.weight";

/// Layers of Gemma 3 27B, the only one that scales attention by something else than its heads' size.
const GEMMA3_27B_N_LAYERS: usize = 62;

/// Every sixth layer of Gemma 3 is global (Gemma 3 technical report, arXiv:2503.19786, section 2).
const GEMMA3_PATTERN: usize = 6;

/// Base of the rotary frequencies in Gemma 3's windowed layers (same section); files need not state it.
const GEMMA3_LOCAL_THETA: f32 = 10_000.0;

/// Base of the rotary frequencies where a llama file states none (Su et al. 2021).
const LLAMA_THETA: f32 = 10_000.0;

/// Keys that are read below.
const KNOWN_KEYS: [&str; 17] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scaling.factor",
    "rope.scaling.type",
    "vocab_size",
];

/// Keys that change nothing: notes of the converter.
const HARMLESS_KEYS: [&str; 3] =
    ["rope.scaling.finetuned", "rope.scaling.original_context_length", "tensor_data_layout"];

/// Keys that change nothing while they have this value, which means "off".
const NEUTRAL_KEYS: [(&str, f64); 8] = [
    ("attention.causal", 1.0),
    ("attn_logit_softcapping", 0.0),
    ("expert_count", 0.0),
    ("expert_used_count", 0.0),
    ("final_logit_softcapping", 0.0),
    ("pooling_type", 0.0),
    ("rope.scale_linear", 1.0),
    ("rope.scaling.attn_factor", 1.0),
];

/// The family that the file names.
pub(crate) fn family_of(gguf: &Gguf) -> Result<Family, ConfigError> {
    const KEY: &str = "general.architecture";
    let found = gguf.get(KEY).ok_or_else(|| ConfigError::Missing { key: KEY.into() })?;
    let found =
        found.as_str().ok_or_else(|| ConfigError::Invalid { key: KEY.into(), expected: "a string" })?;
    match found {
        "llama" => Ok(Family::Llama),
        "qwen2" => Ok(Family::Qwen2),
        "qwen3" => Ok(Family::Qwen3),
        "gemma3" => Ok(Family::Gemma3),
        // Cut, because a hostile file may name itself at any length.
        _ => Err(ConfigError::UnknownArchitecture { found: found.chars().take(64).collect() }),
    }
}

/// The hyperparameters of an open file. Not yet compared with the tensors' shapes.
pub(crate) fn config_of(gguf: &Gguf) -> Result<Config, ConfigError> {
    let family = family_of(gguf)?;
    let keys = Keys { gguf, arch: arch_name(family) };
    keys.refuse_unknown()?;

    let n_layers = keys.count("block_count")?;
    let hidden_dim = keys.count("embedding_length")?;
    let n_heads = keys.count("attention.head_count")?;
    let n_kv_heads = keys.optional_count("attention.head_count_kv")?.unwrap_or(n_heads);
    let head_dim = match keys.optional_count("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if n_heads > 0 && hidden_dim.is_multiple_of(n_heads) => hidden_dim / n_heads,
        None => return Err(keys.missing("attention.key_length")),
    };
    if keys.optional_count("attention.value_length")?.is_some_and(|value_len| value_len != head_dim) {
        return Err(ConfigError::Unsupported {
            what: "a value length that differs from the key length".into(),
        });
    }
    let vocab_size = match keys.optional_count("vocab_size")? {
        Some(vocab_size) => vocab_size,
        None => {
            let name = Naming::Gguf.name_of(family, Slot::TokenEmbedding);
            gguf.tensor(&name).ok_or_else(|| keys.missing("vocab_size"))?.as_matrix().n_rows
        }
    };
    let windowed = keys.sliding_window(family, n_layers)?;
    let theta = match keys.optional_float("rope.freq_base")? {
        Some(theta) => theta,
        None if family == Family::Llama => LLAMA_THETA,
        None => return Err(keys.missing("rope.freq_base")),
    };
    let theta_local = match keys.optional_float("rope.freq_base_swa")? {
        Some(theta_local) => theta_local,
        None if family == Family::Gemma3 => GEMMA3_LOCAL_THETA,
        None => theta,
    };
    let scale_dim = match family {
        Family::Gemma3 if n_layers == GEMMA3_27B_N_LAYERS && n_heads > 0 => hidden_dim / n_heads,
        _ => head_dim,
    };

    let config = Config {
        family,
        n_layers,
        hidden_dim,
        ffn_dim: keys.count("feed_forward_length")?,
        n_heads,
        n_kv_heads,
        head_dim,
        vocab_size,
        context_len: keys.count("context_length")?,
        rms_norm_eps: keys.float("attention.layer_norm_rms_epsilon")?,
        norm_weight_offset: 0.0,
        rope: Rope {
            theta,
            theta_local,
            rotary_dim: keys.optional_count("rope.dimension_count")?.unwrap_or(head_dim),
            layout: match family {
                Family::Llama => RopeLayout::Interleaved,
                Family::Qwen2 | Family::Qwen3 | Family::Gemma3 => RopeLayout::Halves,
            },
            scaling: keys.rope_scaling(family)?,
        },
        attn_scale: (scale_dim as f32).sqrt().recip(),
        embed_scale: if family == Family::Gemma3 { (hidden_dim as f32).sqrt() } else { 1.0 },
        sliding_window: windowed,
        activation: if family == Family::Gemma3 { Activation::GeluTanh } else { Activation::Silu },
    };
    config.check()?;
    Ok(config)
}

/// Whether a tensor of that name has been read into [`Config`] and so has no place of its own.
pub(crate) fn is_in_config(family: Family, name: &str) -> bool {
    family == Family::Llama && name == ROPE_FREQS
}

/// A vocabulary larger than the embedding would let the tokenizer make ids that have no row.
pub(crate) fn check_vocabulary(gguf: &Gguf, config: &Config) -> Result<(), ConfigError> {
    const KEY: &str = "tokenizer.ggml.tokens";
    match gguf.get(KEY) {
        None => Ok(()),
        Some(Value::Array(tokens)) if tokens.len() <= config.vocab_size => Ok(()),
        Some(_) => Err(ConfigError::Invalid {
            key: KEY.into(),
            expected: "at most one string per row of the embedding",
        }),
    }
}

const fn arch_name(family: Family) -> &'static str {
    match family {
        Family::Llama => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Gemma3 => "gemma3",
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    gguf: &'a Gguf,
    arch: &'static str,
}

impl<'a> Keys<'a> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn get(&self, key: &str) -> Option<Value<'a>> {
        debug_assert!(KNOWN_KEYS.contains(&key));
        self.gguf.get(&self.full(key))
    }

    fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { key: self.full(key) }
    }

    fn invalid(&self, key: &str, expected: &'static str) -> ConfigError {
        ConfigError::Invalid { key: self.full(key), expected }
    }

    fn optional_count(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        if matches!(value, Value::Array(_)) {
            return Err(ConfigError::Unsupported {
                what: format!("{} that differs by layer", self.full(key)),
            });
        }
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.invalid(key, "a whole number")),
        }
    }

    fn count(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_count(key)?.ok_or_else(|| self.missing(key))
    }

    fn optional_float(&self, key: &str) -> Result<Option<f32>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(|v| Some(v as f32)).ok_or_else(|| self.invalid(key, "a number"))
    }

    fn float(&self, key: &str) -> Result<f32, ConfigError> {
        self.optional_float(key)?.ok_or_else(|| self.missing(key))
    }

    fn refuse_unknown(&self) -> Result<(), ConfigError> {
        for (key, value) in self.gguf.metadata() {
            let Some(key) = key.strip_prefix(self.arch).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            if KNOWN_KEYS.contains(&key) || HARMLESS_KEYS.contains(&key) {
                continue;
            }
            let number = value.as_f64().or(value.as_bool().map(|b| b.into()));
            if NEUTRAL_KEYS.iter().any(|&(neutral, off)| neutral == key && number == Some(off)) {
                continue;
            }
            let key: String = key.chars().take(64).collect();
            return Err(ConfigError::Unsupported { what: format!("the setting {}", self.full(&key)) });
        }
        Ok(())
    }

    fn rope_scaling(&self, family: Family) -> Result<RopeScaling, ConfigError> {
        let kind = match self.get("rope.scaling.type") {
            None => None,
            Some(Value::String(kind)) => Some(kind),
            Some(_) => return Err(self.invalid("rope.scaling.type", "a string")),
        };
        let factor = self.optional_float("rope.scaling.factor")?;
        let stretched = match (kind, factor) {
            (Some("none"), _) | (None, None) => RopeScaling::None,
            (Some("linear") | None, Some(factor)) => RopeScaling::Linear { factor },
            (Some("linear"), None) => return Err(self.missing("rope.scaling.factor")),
            (Some(kind), _) => {
                let kind: String = kind.chars().take(64).collect();
                return Err(ConfigError::Unsupported { what: format!("rope scaling of the type {kind:?}") });
            }
        };
        let Some(freqs) = self.gguf.tensor(ROPE_FREQS).filter(|_| is_in_config(family, ROPE_FREQS)) else {
            return Ok(stretched);
        };
        if stretched != RopeScaling::None {
            return Err(ConfigError::Unsupported {
                what: format!("{ROPE_FREQS} together with linear rope scaling"),
            });
        }
        if freqs.dtype != DType::F32 || freqs.dims.len() != 1 {
            return Err(ConfigError::Invalid { key: ROPE_FREQS.into(), expected: "a vector of F32" });
        }
        let (divisors, _) = freqs.data.as_chunks::<4>();
        Ok(RopeScaling::PerFrequency(divisors.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
    }

    fn sliding_window(&self, family: Family, n_layers: usize) -> Result<Option<SlidingWindow>, ConfigError> {
        const PATTERN: &str = "attention.sliding_window_pattern";
        // Zero is how the converter says that there is none.
        let Some(window_len) = self.optional_count("attention.sliding_window")?.filter(|&n| n > 0) else {
            return Ok(None);
        };
        let layer_is_windowed = match self.get(PATTERN) {
            Some(Value::Array(pattern)) if pattern.len() == n_layers => {
                let layers = pattern.values().map(|value| value.ok().and_then(|value| value.as_bool()));
                layers.collect::<Option<Vec<bool>>>().ok_or_else(|| self.invalid(PATTERN, "truth values"))?
            }
            Some(Value::Array(_)) => return Err(self.invalid(PATTERN, "one truth value for each layer")),
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(period) => SlidingWindow::pattern(n_layers, period),
                None => return Err(self.invalid(PATTERN, "a whole number or truth values")),
            },
            None if family == Family::Gemma3 => SlidingWindow::pattern(n_layers, GEMMA3_PATTERN),
            None => SlidingWindow::pattern(n_layers, 0),
        };
        Ok(Some(SlidingWindow { window_len, layer_is_windowed }))
    }
}
