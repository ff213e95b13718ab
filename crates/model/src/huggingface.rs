//! A folder as Hugging Face's `transformers` saves it: `config.json` and safetensors beside it.
//!
//! Both spellings are read: that of versions up to 4 (`rope_theta`, `rope_scaling`, `rope_local_base_freq`) and that
//! of version 5 (`rope_parameters`, for Gemma 3 by kind of layer). What a missing key means is what the `transformers`
//! class of the family takes it to mean; a setting that would change the answers and is not supported is refused.

use std::path::{Path, PathBuf};

use serde_json::{Map as Object, Value};

use crate::config::{Activation, Config, Family, Rope, RopeLayout, RopeScaling, SlidingWindow};
use crate::error::{ConfigError, LoadError};
use crate::safetensors::{Shards, read_limited};

/// config.json in use has a few kilobytes.
const MAX_CONFIG_BYTES: usize = 1 << 24;

/// Settings that change the computation, each with the value that switches it off (null and absence always do).
const REFUSED_UNLESS: [(&str, Off); 11] = [
    ("attention_bias", Off::False),
    ("attn_logit_softcapping", Off::Absent),
    ("final_logit_softcapping", Off::Absent),
    ("mlp_bias", Off::False),
    ("num_experts", Off::Number(0.0)),
    ("num_local_experts", Off::Number(0.0)),
    ("partial_rotary_factor", Off::Number(1.0)),
    ("quantization_config", Off::Absent),
    ("rope_interleaved", Off::False),
    ("use_bidirectional_attention", Off::False),
    ("use_mrope", Off::False),
];

/// The value that means that a setting is off.
#[derive(Clone, Copy)]
enum Off {
    Absent,
    False,
    Number(f64),
}

/// Where the logits come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputHead {
    /// From the embedding's own matrix.
    Tied,
    /// From `lm_head.weight`.
    Own,
}

/// An open folder.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// config.json, for `inspect`.
    pub(crate) json: Object<String, Value>,
    pub(crate) config: Config,
    pub(crate) output_head: OutputHead,
    pub(crate) shards: Shards,
}

impl Folder {
    /// Opens `path`: a folder, or one safetensors file in it.
    pub(crate) fn open(path: &Path) -> Result<Folder, LoadError> {
        let (folder, shards) = if path.is_dir() {
            (path, Shards::open_folder(path)?)
        } else {
            (path.parent().unwrap_or(Path::new("")), Shards::open_file(path)?)
        };
        let config_path = folder.join("config.json");
        let text = read_limited(&config_path, MAX_CONFIG_BYTES)?;
        let json: Object<String, Value> = serde_json::from_slice(&text)
            .map_err(|source| LoadError::Json { path: config_path.clone(), source })?;
        let (config, output_head) =
            config_of(&json).map_err(|source| LoadError::Config { path: config_path, source })?;
        Ok(Folder { path: folder.to_owned(), json, config, output_head, shards })
    }
}

/// Whether a tensor of that name follows from the hyperparameters: old files of Llama store the rotary frequencies.
pub(crate) fn is_in_config(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

/// The family that config.json names.
fn family_of(fields: &Fields<'_>) -> Result<(Family, Class), ConfigError> {
    let names = match fields.get("architectures") {
        Some(Value::Array(names)) => names,
        _ => return Err(fields.missing("architectures")),
    };
    match names.as_slice() {
        [Value::String(name)] => match name.as_str() {
            "LlamaForCausalLM" => Ok((Family::Llama, Class::Llama)),
            "MistralForCausalLM" => Ok((Family::Llama, Class::Mistral)),
            "Qwen2ForCausalLM" => Ok((Family::Qwen2, Class::Qwen2)),
            "Qwen3ForCausalLM" => Ok((Family::Qwen3, Class::Qwen3)),
            "Gemma3ForCausalLM" => Ok((Family::Gemma3, Class::Gemma3)),
            other => Err(ConfigError::UnknownArchitecture { found: other.chars().take(64).collect() }),
        },
        _ => Err(fields.invalid("architectures", "a list of one name")),
    }
}

/// The classes of `transformers`, whose defaults differ where their families do not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma3,
}

/// The hyperparameters that config.json states. Not yet compared with the tensors' shapes.
pub(crate) fn config_of(json: &Object<String, Value>) -> Result<(Config, OutputHead), ConfigError> {
    let fields = Fields::of_file(json);
    let (family, class) = family_of(&fields)?;
    fields.refuse_unsupported()?;

    let n_layers = fields.count("num_hidden_layers")?;
    let hidden_dim = fields.count("hidden_size")?;
    let n_heads = fields.count("num_attention_heads")?;
    let n_kv_heads = match fields.optional_count("num_key_value_heads")? {
        Some(n_kv_heads) => n_kv_heads,
        None if class == Class::Llama => n_heads,
        None => return Err(fields.missing("num_key_value_heads")),
    };
    let head_dim = match fields.optional_count("head_dim")? {
        Some(head_dim) => head_dim,
        // In these two it does not follow from the other sizes.
        None if matches!(class, Class::Qwen3 | Class::Gemma3) => return Err(fields.missing("head_dim")),
        None if n_heads > 0 && hidden_dim.is_multiple_of(n_heads) => hidden_dim / n_heads,
        None => return Err(fields.invalid("num_attention_heads", "a divisor of hidden_size")),
    };
    let (activation, key, name) = match class {
        Class::Gemma3 => (Activation::GeluTanh, "hidden_activation", "gelu_pytorch_tanh"),
        _ => (Activation::Silu, "hidden_act", "silu"),
    };
    match fields.text(key)? {
        Some(found) if found == name => {}
        Some(found) => {
            let found: String = found.chars().take(64).collect();
            return Err(ConfigError::Unsupported { what: format!("the activation function {found:?}") });
        }
        None => return Err(fields.missing(key)),
    }
    let context_len = fields.count("max_position_embeddings")?;
    let scale_dim = match class {
        Class::Gemma3 => fields.float("query_pre_attn_scalar")?,
        _ => head_dim as f32,
    };
    let is_tied = fields.truth("tie_word_embeddings")?.unwrap_or(class == Class::Gemma3);

    let config = Config {
        family,
        n_layers,
        hidden_dim,
        ffn_dim: fields.count("intermediate_size")?,
        n_heads,
        n_kv_heads,
        head_dim,
        vocab_size: fields.count("vocab_size")?,
        context_len,
        rms_norm_eps: fields.float("rms_norm_eps")?,
        norm_weight_offset: if class == Class::Gemma3 { 1.0 } else { 0.0 },
        rope: rope(&fields, class, head_dim, context_len)?,
        attn_scale: scale_dim.sqrt().recip(),
        embed_scale: if class == Class::Gemma3 { (hidden_dim as f32).sqrt() } else { 1.0 },
        sliding_window: sliding_window(&fields, class, n_layers)?,
        activation,
    };
    config.check()?;
    Ok((config, if is_tied { OutputHead::Tied } else { OutputHead::Own }))
}

fn rope(fields: &Fields<'_>, class: Class, head_dim: usize, context_len: usize) -> Result<Rope, ConfigError> {
    let parameters = fields.object("rope_parameters")?;
    let by_layer = match &parameters {
        Some(parameters) => parameters.object("full_attention")?.map(|global| (global, parameters)),
        None => None,
    };
    let (theta, theta_local, scaling) = if let Some((global, parameters)) = by_layer {
        let local = parameters.object("sliding_attention")?;
        if let Some(local) = &local
            && scaling_of(local, context_len)? != RopeScaling::None
        {
            return Err(ConfigError::Unsupported { what: "rope scaling of windowed layers".into() });
        }
        let theta_local = local.map_or(Ok(None), |local| local.optional_float("rope_theta"))?;
        (global.optional_float("rope_theta")?, theta_local, scaling_of(&global, context_len)?)
    } else {
        // Version 5 has one object for base and scaling, version 4 a key for the base and an object for scaling.
        let scaling = match (&parameters, fields.object("rope_scaling")?) {
            (Some(parameters), _) => scaling_of(parameters, context_len)?,
            (None, Some(scaling)) => scaling_of(&scaling, context_len)?,
            (None, None) => RopeScaling::None,
        };
        let theta = parameters.map_or(Ok(None), |parameters| parameters.optional_float("rope_theta"))?;
        let theta = theta.map_or_else(|| fields.optional_float("rope_theta"), |theta| Ok(Some(theta)))?;
        (theta, fields.optional_float("rope_local_base_freq")?, scaling)
    };
    let theta = match theta {
        Some(theta) => theta,
        // Files of the first Llama do not state it.
        None if matches!(class, Class::Llama | Class::Mistral) => 10_000.0,
        None => return Err(fields.missing("rope_theta")),
    };
    let theta_local = match (theta_local, class) {
        (Some(theta_local), _) => theta_local,
        (None, Class::Gemma3) => 10_000.0,
        (None, _) => theta,
    };
    Ok(Rope { theta, theta_local, rotary_dim: head_dim, layout: RopeLayout::Halves, scaling })
}

fn scaling_of(fields: &Fields<'_>, context_len: usize) -> Result<RopeScaling, ConfigError> {
    let kind = match fields.text("rope_type")? {
        Some(kind) => Some(kind),
        // So it was called before version 4.43.
        None => fields.text("type")?,
    };
    match kind {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: fields.float("factor")? }),
        Some("llama3") => {
            let original = fields.optional_count("original_max_position_embeddings")?.unwrap_or(context_len);
            Ok(RopeScaling::Llama3 {
                factor: fields.float("factor")?,
                low_freq_factor: fields.float("low_freq_factor")?,
                high_freq_factor: fields.float("high_freq_factor")?,
                original_context_len: u32::try_from(original)
                    .map_err(|_| fields.invalid("original_max_position_embeddings", "below 2^32"))?,
            })
        }
        Some(kind) => {
            let kind: String = kind.chars().take(64).collect();
            Err(ConfigError::Unsupported { what: format!("rope scaling of the type {kind:?}") })
        }
    }
}

fn sliding_window(
    fields: &Fields<'_>,
    class: Class,
    n_layers: usize,
) -> Result<Option<SlidingWindow>, ConfigError> {
    const KEY: &str = "sliding_window";
    let window_len = fields.optional_count(KEY)?;
    let (window_len, unlisted) = match class {
        Class::Llama => return Ok(None),
        // The class's default where the key is absent; null means none.
        Class::Mistral if !fields.object.contains_key(KEY) => {
            (Some(4096), SlidingWindow::pattern(n_layers, 0))
        }
        Class::Mistral => (window_len, SlidingWindow::pattern(n_layers, 0)),
        Class::Qwen2 | Class::Qwen3 => {
            if !fields.truth("use_sliding_window")?.unwrap_or(false) {
                return Ok(None);
            }
            let first = fields.optional_count("max_window_layers")?.unwrap_or(28);
            let mut layers = SlidingWindow::pattern(n_layers, 0);
            layers.iter_mut().take(first).for_each(|is_windowed| *is_windowed = false);
            (window_len, layers)
        }
        Class::Gemma3 => {
            let period = match fields.optional_count("sliding_window_pattern")? {
                Some(period) => Some(period),
                None => fields.optional_count("_sliding_window_pattern")?,
            };
            let window_len = window_len.ok_or_else(|| fields.missing(KEY))?;
            (Some(window_len), SlidingWindow::pattern(n_layers, period.unwrap_or(6)))
        }
    };
    let Some(window_len) = window_len else { return Ok(None) };
    let layer_is_windowed = match fields.get("layer_types") {
        None => unlisted,
        Some(Value::Array(kinds)) => {
            let kind = |kind: &Value| match kind.as_str() {
                Some("full_attention") => Ok(false),
                Some("sliding_attention") => Ok(true),
                _ => Err(fields.invalid("layer_types", "a list of full_attention and sliding_attention")),
            };
            kinds.iter().map(kind).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(fields.invalid("layer_types", "a list")),
    };
    Ok(Some(SlidingWindow { window_len, layer_is_windowed }))
}

/// The keys of one object of config.json. A null counts as absent.
pub(crate) struct Fields<'a> {
    object: &'a Object<String, Value>,
    /// The key that the object is under, for errors; empty for the whole file.
    within: &'static str,
}

impl<'a> Fields<'a> {
    /// Of a whole file.
    pub(crate) fn of_file(object: &'a Object<String, Value>) -> Fields<'a> {
        Fields { object, within: "" }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.object.keys().map(String::as_str)
    }

    fn full(&self, key: &str) -> String {
        if self.within.is_empty() { key.to_owned() } else { format!("{}.{key}", self.within) }
    }

    pub(crate) fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { key: self.full(key) }
    }

    pub(crate) fn invalid(&self, key: &str, expected: &'static str) -> ConfigError {
        ConfigError::Invalid { key: self.full(key), expected }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn object(&self, key: &'static str) -> Result<Option<Fields<'a>>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields { object, within: key })),
            Some(_) => Err(self.invalid(key, "an object")),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.get(key).map(|value| value.as_str().ok_or_else(|| self.invalid(key, "a string"))).transpose()
    }

    pub(crate) fn truth(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.get(key)
            .map(|value| value.as_bool().ok_or_else(|| self.invalid(key, "true or false")))
            .transpose()
    }

    pub(crate) fn optional_count(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let count = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
        self.get(key).map(|value| count(value).ok_or_else(|| self.invalid(key, "a whole number"))).transpose()
    }

    pub(crate) fn count(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_count(key)?.ok_or_else(|| self.missing(key))
    }

    fn optional_float(&self, key: &str) -> Result<Option<f32>, ConfigError> {
        let float = |value: &Value| value.as_f64().map(|v| v as f32);
        self.get(key).map(|value| float(value).ok_or_else(|| self.invalid(key, "a number"))).transpose()
    }

    pub(crate) fn float(&self, key: &str) -> Result<f32, ConfigError> {
        self.optional_float(key)?.ok_or_else(|| self.missing(key))
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        for (key, off) in REFUSED_UNLESS {
            let Some(value) = self.get(key) else { continue };
            let is_off = match off {
                Off::Absent => false,
                Off::False => value.as_bool() == Some(false),
                Off::Number(n) => value.as_f64() == Some(n),
            };
            if !is_off {
                return Err(ConfigError::Unsupported { what: format!("the setting {}", self.full(key)) });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
