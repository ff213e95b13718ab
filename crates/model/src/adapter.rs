//! LoRA adapters (Hu et al. 2021, arXiv:2106.09685): for some matrices W of a model two thin ones, A and B, by which it
//! computes `W x + scale * B (A x)`.
//!
//! Two forms are read: a GGUF file as llama.cpp's `convert_lora_to_gguf.py` writes it (`general.type` adapter,
//! `adapter.type` lora, tensors `NAME.lora_a` and `NAME.lora_b`), and a folder as `peft` saves it (`adapter_config.json`
//! and `adapter_model.safetensors`). An adapter is small, so it is read whole, and its files may go afterwards.
//!
//! Invariants of an open adapter, whatever its bytes were: every pair belongs to a matrix of the model whose
//! hyperparameters were given, and fits it; no place has two; all numbers are finite; there is at least one pair. What would
//! change the answers and is not done here is refused by name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use edgeward_kernels::{DType, dequantize};
use serde_json::{Map as Object, Value};

use crate::config::{Config, Family, RopeLayout};
use crate::error::{ConfigError, LoadError};
use crate::gguf::{self, Gguf, GgufError};
use crate::huggingface::Fields;
use crate::layout::{self, Naming};
use crate::safetensors::{Safetensors, SafetensorsError, read_limited};
use crate::tensor::{LayerSlot, Slot, Tensor};

/// adapter_config.json in use has a few kilobytes.
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Settings of peft that change what is computed. Each is off where it is absent, null, false or empty.
const REFUSED: [&str; 14] = [
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

/// Why an adapter was refused.
#[derive(Debug)]
pub struct AdapterError {
    path: PathBuf,
    reason: Box<Reason>,
}

#[derive(Debug)]
enum Reason {
    Gguf(GgufError),
    Safetensors(SafetensorsError),
    Load(LoadError),
    Config(ConfigError),
    NotAnAdapter(&'static str),
    OtherFamily { found: Family, expected: Family },
    NoPlace { name: String },
    Unpaired { name: String },
    Twice { name: String },
    WrongShape { name: String, expected: String, found: (usize, usize) },
    NotFinite { name: String },
    BadScale,
    Empty,
}

impl fmt::Display for AdapterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the adapter {} cannot be used", self.path.display())?;
        match &*self.reason {
            Reason::Gguf(_) | Reason::Safetensors(_) | Reason::Load(_) | Reason::Config(_) => Ok(()),
            Reason::NotAnAdapter(what) => write!(
                f,
                ": {what}; give a GGUF file made by convert_lora_to_gguf.py, or a folder that peft has saved"
            ),
            Reason::OtherFamily { found, expected } => {
                write!(
                    f,
                    ": it was made for a model of the family {found:?}, and this is one of {expected:?}"
                )
            }
            Reason::NoPlace { name } => write!(
                f,
                ": the model has no matrix for its tensor {name:?}, and ignoring it would change the answers; take \
                 the model that it was made for, or an adapter of linear layers alone"
            ),
            Reason::Unpaired { name } => {
                write!(
                    f,
                    ": {name} has only one of its two matrices; get the adapter again or convert it anew"
                )
            }
            Reason::Twice { name } => write!(f, ": {name} occurs twice; convert it anew"),
            Reason::WrongShape { name, expected, found: (rows, cols) } => write!(
                f,
                ": its tensor {name:?} is {rows} x {cols} where the model wants {expected}; take the model that it was \
                 made for"
            ),
            Reason::NotFinite { name } => {
                write!(f, ": its tensor {name:?} holds a value that is not a finite number; get it again")
            }
            Reason::BadScale => {
                f.write_str(": the strength that it states is not a finite number; convert it anew")
            }
            Reason::Empty => f.write_str(": it has no tensors; get it again"),
        }
    }
}

impl std::error::Error for AdapterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.reason {
            Reason::Gguf(source) => Some(source),
            Reason::Safetensors(source) => Some(source),
            Reason::Load(source) => Some(source),
            Reason::Config(source) => Some(source),
            _ => None,
        }
    }
}

impl From<ConfigError> for Reason {
    fn from(source: ConfigError) -> Reason {
        Reason::Config(source)
    }
}

/// A thin matrix of floats, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// F32, F16 or BF16.
    pub dtype: DType,
    /// Rows.
    pub n_rows: usize,
    /// Columns.
    pub n_cols: usize,
    /// `n_rows * n_cols` elements.
    pub data: Vec<u8>,
}

/// What is added to one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Which matrix.
    pub slot: Slot,
    /// `[rank, n_in]`; of the embedding `[vocab_size, rank]`, a row for each token.
    pub a: Factor,
    /// `[n_out, rank]`; rows of queries and keys lie as the model's do.
    pub b: Factor,
    /// What the product is multiplied by.
    pub scale: f32,
}

/// A LoRA adapter for one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pairs: Vec<Pair>,
    config: Config,
}

impl Adapter {
    /// Reads the adapter at `path` for a model with these hyperparameters: a GGUF file, a folder of peft's, or the
    /// safetensors file in one.
    ///
    /// # Errors
    /// Whatever is wrong with it, or that it was made for another model.
    pub fn load(path: &Path, config: &Config) -> Result<Adapter, AdapterError> {
        let pairs = if crate::model::is_folder_of_safetensors(path) {
            let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
            let weights = match path.is_dir() {
                true => folder.join("adapter_model.safetensors"),
                false => path.to_owned(),
            };
            of_folder(folder, &weights, config)
        } else {
            Gguf::open(path).map_err(Reason::Gguf).and_then(|gguf| of_gguf(&gguf, config))
        };
        let pairs =
            pairs.map_err(|reason| AdapterError { path: path.to_owned(), reason: Box::new(reason) })?;
        Ok(Adapter { pairs, config: config.clone() })
    }

    /// Reads an adapter from an open GGUF file; `path` is its name in errors.
    ///
    /// # Errors
    /// As [`Adapter::load`].
    pub fn from_gguf(gguf: &Gguf, path: &Path, config: &Config) -> Result<Adapter, AdapterError> {
        let pairs = of_gguf(gguf, config)
            .map_err(|reason| AdapterError { path: path.to_owned(), reason: Box::new(reason) })?;
        Ok(Adapter { pairs, config: config.clone() })
    }

    /// What is added to which matrix, ascending by slot.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Of the model that it is for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes of its matrices.
    pub fn n_bytes(&self) -> usize {
        self.pairs.iter().map(|pair| pair.a.data.len() + pair.b.data.len()).sum()
    }
}

/// Which of the two matrices a tensor is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    A,
    B,
}

/// The pairs as they are found.
struct Pairs<'a> {
    config: &'a Config,
    /// How rows of queries and keys lie in the file.
    layout: RopeLayout,
    found: BTreeMap<Slot, (Option<Factor>, Option<Factor>, String)>,
}

impl<'a> Pairs<'a> {
    fn new(config: &'a Config, layout: RopeLayout) -> Pairs<'a> {
        Pairs { config, layout, found: BTreeMap::new() }
    }

    /// A tensor for the matrix that the model's files call `name` in that naming.
    fn add(&mut self, naming: Naming, name: &str, part: Part, tensor: &Tensor<'_>) -> Result<(), Reason> {
        let no_place = || Reason::NoPlace { name: shown(tensor.name) };
        let slot = naming.slot_of(self.config.family, name).filter(|slot| is_matrix(*slot, self.config));
        let slot = slot.ok_or_else(no_place)?;
        let (n_out, n_in) = layout::shape(self.config, slot);
        let wrong = |expected: String| Reason::WrongShape {
            name: shown(tensor.name),
            expected,
            found: (tensor.n_rows, tensor.n_cols),
        };
        let factor = match (slot, part) {
            // Here A is looked up by tokens, so it needs a row for each; peft's has a column.
            (Slot::TokenEmbedding, Part::A) if naming == Naming::HuggingFace => {
                if tensor.n_cols != n_out {
                    return Err(wrong(format!("a rank by {n_out}")));
                }
                Factor::read(tensor)?.transposed()
            }
            (Slot::TokenEmbedding, Part::A) if tensor.n_rows != n_out => {
                return Err(wrong(format!("{n_out} by a rank")));
            }
            (Slot::TokenEmbedding, Part::B) if tensor.n_rows != n_in => {
                return Err(wrong(format!("{n_in} by a rank")));
            }
            (Slot::TokenEmbedding, _) => Factor::read(tensor)?,
            (_, Part::A) if tensor.n_cols != n_in => return Err(wrong(format!("a rank by {n_in}"))),
            (_, Part::B) if tensor.n_rows != n_out => return Err(wrong(format!("{n_out} by a rank"))),
            _ => Factor::read(tensor)?,
        };
        let is_rotated = matches!(slot, Slot::Layer(_, LayerSlot::Q | LayerSlot::K));
        let entry = self.found.entry(slot).or_insert_with(|| (None, None, name.to_owned()));
        let (place, factor) = match part {
            Part::A => (&mut entry.0, factor),
            Part::B if is_rotated => (&mut entry.1, factor.laid_out(self.layout, self.config)),
            Part::B => (&mut entry.1, factor),
        };
        if place.replace(factor).is_some() {
            return Err(Reason::Twice { name: shown(name) });
        }
        Ok(())
    }

    /// All of them, with the strength that `scale` tells of each from its name and rank.
    fn finish(self, scale: impl Fn(&str, usize) -> Result<f64, Reason>) -> Result<Vec<Pair>, Reason> {
        let pair = |(slot, (a, b, name)): (Slot, (Option<Factor>, Option<Factor>, String))| {
            let (Some(a), Some(b)) = (a, b) else { return Err(Reason::Unpaired { name: shown(&name) }) };
            let rank = if slot == Slot::TokenEmbedding { a.n_cols } else { a.n_rows };
            if b.n_cols != rank {
                let expected = format!("{} x {rank}, as A has the rank {rank}", b.n_rows);
                return Err(Reason::WrongShape { name: shown(&name), expected, found: (b.n_rows, b.n_cols) });
            }
            let scale = scale(&name, rank)? as f32;
            if !scale.is_finite() {
                return Err(Reason::BadScale);
            }
            Ok(Pair { slot, a, b, scale })
        };
        let pairs = self.found.into_iter().map(pair).collect::<Result<Vec<_>, _>>()?;
        if pairs.is_empty() { Err(Reason::Empty) } else { Ok(pairs) }
    }
}

/// Cut, because a hostile file may name a tensor at any length.
fn shown(name: &str) -> String {
    name.chars().take(128).collect()
}

fn is_matrix(slot: Slot, config: &Config) -> bool {
    use LayerSlot::{Down, Gate, K, O, Q, Up, V};
    match slot {
        Slot::TokenEmbedding | Slot::Output => true,
        Slot::OutputNorm => false,
        Slot::Layer(layer_idx, slot) => {
            layer_idx < config.n_layers && matches!(slot, Q | K | V | O | Gate | Up | Down)
        }
    }
}

impl Factor {
    /// Floats stay what they are; quantised ones are widened, as they are few.
    fn read(tensor: &Tensor<'_>) -> Result<Factor, Reason> {
        let Tensor { dtype, n_rows, n_cols, data, .. } = *tensor;
        let mut values = vec![0.0; n_rows * n_cols];
        dequantize(dtype, data, &mut values);
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Reason::NotFinite { name: shown(tensor.name) });
        }
        let (dtype, data) = match dtype.is_quantized() {
            true => (DType::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            false => (dtype, data.to_vec()),
        };
        Ok(Factor { dtype, n_rows, n_cols, data })
    }

    fn element_bytes(&self) -> usize {
        self.data.len() / (self.n_rows * self.n_cols)
    }

    fn transposed(&self) -> Factor {
        let width = self.element_bytes();
        let mut data = Vec::with_capacity(self.data.len());
        for col in 0..self.n_cols {
            for row in 0..self.n_rows {
                data.extend_from_slice(&self.data[(row * self.n_cols + col) * width..][..width]);
            }
        }
        Factor { data, n_rows: self.n_cols, n_cols: self.n_rows, dtype: self.dtype }
    }

    /// Its rows, which are those of heads that lie as `layout` says, as the model's lie.
    fn laid_out(self, layout: RopeLayout, config: &Config) -> Factor {
        if layout == config.rope.layout {
            return self;
        }
        let (head_dim, row_bytes) = (config.head_dim, self.n_cols * self.element_bytes());
        let half = head_dim / 2;
        let mut data = Vec::with_capacity(self.data.len());
        for row in 0..self.n_rows {
            let (head, at) = (row / head_dim * head_dim, row % head_dim);
            // Pairs are neighbours in one layout, and half a head apart in the other.
            let from = match config.rope.layout {
                RopeLayout::Interleaved => at % 2 * half + at / 2,
                RopeLayout::Halves => at % half * 2 + at / half,
            };
            data.extend_from_slice(&self.data[(head + from) * row_bytes..][..row_bytes]);
        }
        Factor { data, ..self }
    }
}

fn of_gguf(gguf: &Gguf, config: &Config) -> Result<Vec<Pair>, Reason> {
    let text = |key| gguf.get(key).and_then(|value| value.as_str());
    if text("general.type") != Some("adapter") {
        return Err(Reason::NotAnAdapter("the file is not said to be one (`general.type` is not `adapter`)"));
    }
    if text("adapter.type") != Some("lora") {
        return Err(Reason::NotAnAdapter("it is of another kind than LoRA (`adapter.type`)"));
    }
    if gguf.get("adapter.alora.invocation_tokens").is_some() {
        let what = "an adapter that begins at certain tokens (aLoRA)".to_owned();
        return Err(Reason::Config(ConfigError::Unsupported { what }));
    }
    let found = gguf::family_of(gguf)?;
    if found != config.family {
        return Err(Reason::OtherFamily { found, expected: config.family });
    }
    let alpha = match gguf.get("adapter.lora.alpha") {
        None => 0.0,
        Some(value) => value.as_f64().ok_or(Reason::BadScale)?,
    };
    let layout = match config.family {
        Family::Llama => RopeLayout::Interleaved,
        Family::Qwen2 | Family::Qwen3 | Family::Gemma3 => RopeLayout::Halves,
    };
    let mut pairs = Pairs::new(config, layout);
    for tensor in gguf.tensors() {
        let (name, part) = match (tensor.name.strip_suffix(".lora_a"), tensor.name.strip_suffix(".lora_b")) {
            (Some(name), _) => (name, Part::A),
            (_, Some(name)) => (name, Part::B),
            _ => return Err(Reason::NoPlace { name: shown(tensor.name) }),
        };
        pairs.add(Naming::Gguf, name, part, &tensor.as_matrix())?;
    }
    // Without an alpha, llama.cpp takes the product as it is.
    pairs.finish(|_, rank| Ok(if alpha == 0.0 { 1.0 } else { alpha / rank as f64 }))
}

fn of_folder(folder: &Path, weights: &Path, config: &Config) -> Result<Vec<Pair>, Reason> {
    let path = folder.join("adapter_config.json");
    if !path.exists() {
        return Err(Reason::NotAnAdapter("there is no adapter_config.json"));
    }
    let text = read_limited(&path, MAX_CONFIG_BYTES).map_err(Reason::Load)?;
    let json: Object<String, Value> =
        serde_json::from_slice(&text).map_err(|source| Reason::Load(LoadError::Json { path, source }))?;
    let settings = Settings::read(&json)?;
    let file = Safetensors::open(weights).map_err(Reason::Safetensors)?;
    let mut pairs = Pairs::new(config, RopeLayout::Halves);
    for tensor in file.tensors() {
        let no_place = || Reason::NoPlace { name: shown(tensor.name) };
        let inner = tensor.name.strip_prefix("base_model.model.").ok_or_else(no_place)?;
        let parts = [
            (".lora_A.weight", Part::A),
            (".lora_B.weight", Part::B),
            (".lora_embedding_A", Part::A),
            (".lora_embedding_B", Part::B),
        ];
        let found = parts.iter().find_map(|(suffix, part)| Some((inner.strip_suffix(suffix)?, *part)));
        let (module, part) = found.ok_or_else(no_place)?;
        if tensor.shape.len() != 2 {
            return Err(no_place());
        }
        pairs.add(Naming::HuggingFace, &format!("{module}.weight"), part, &tensor.as_matrix())?;
    }
    pairs.finish(|name, rank| settings.scale(name.strip_suffix(".weight").unwrap_or(name), rank))
}

/// What of adapter_config.json changes what is computed. Ranks are those of the tensors.
struct Settings<'a> {
    alpha: f64,
    /// By modules' names, or their ends.
    alpha_pattern: Vec<(&'a str, f64)>,
    /// Whether the strength goes by the rank's root (Kalajdzievski 2023, arXiv:2312.03732).
    is_by_root: bool,
}

impl<'a> Settings<'a> {
    fn read(json: &'a Object<String, Value>) -> Result<Settings<'a>, Reason> {
        let fields = Fields::of_file(json);
        match fields.text("peft_type")? {
            Some("LORA") => {}
            Some(_) => return Err(Reason::NotAnAdapter("it is of another kind than LoRA (`peft_type`)")),
            None => {
                return Err(Reason::NotAnAdapter(
                    "adapter_config.json does not say what it is (`peft_type`)",
                ));
            }
        }
        let unsupported = |what: String| Reason::Config(ConfigError::Unsupported { what });
        for key in REFUSED {
            let is_off = match fields.get(key) {
                None | Some(Value::Bool(false)) => true,
                Some(Value::Array(list)) => list.is_empty(),
                Some(Value::Object(object)) => object.is_empty(),
                Some(_) => false,
            };
            if !is_off {
                return Err(unsupported(format!("the setting {key}")));
            }
        }
        if fields.text("bias")?.is_some_and(|bias| bias != "none") {
            return Err(unsupported("the setting bias".to_owned()));
        }
        let pattern = match fields.get("alpha_pattern") {
            None => Vec::new(),
            Some(Value::Object(pattern)) => pattern
                .iter()
                .map(|(name, alpha)| {
                    // peft takes names as regular expressions, where a dot stands for itself often enough.
                    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
                    match (is_plain, alpha.as_f64()) {
                        (true, Some(alpha)) => Ok((name.as_str(), alpha)),
                        (true, None) => Err(fields.invalid("alpha_pattern", "an object of numbers").into()),
                        (false, _) => {
                            Err(unsupported("a pattern that is no plain name (alpha_pattern)".into()))
                        }
                    }
                })
                .collect::<Result<_, Reason>>()?,
            Some(_) => return Err(fields.invalid("alpha_pattern", "an object").into()),
        };
        Ok(Settings {
            alpha: fields.float("lora_alpha")?.into(),
            alpha_pattern: pattern,
            is_by_root: fields.truth("use_rslora")?.unwrap_or(false),
        })
    }

    fn scale(&self, module: &str, rank: usize) -> Result<f64, Reason> {
        let is_end =
            |name: &str| module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let own = self.alpha_pattern.iter().find(|(name, _)| is_end(name));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = rank as f64;
        Ok(alpha / if self.is_by_root { rank.sqrt() } else { rank })
    }
}

#[cfg(test)]
mod tests;
