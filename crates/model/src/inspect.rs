//! What is in a model file, and what running it takes: pure data, to be printed or serialised by whoever asks.
//!
//! A file that is well-formed but cannot be run (an architecture that is not supported, a tensor that is missing) is
//! described all the same, with the reason.

use std::collections::BTreeMap;
use std::path::Path;

use edgeward_kernels::DType;
use serde::Serialize;
use serde_json::Value as Json;

use crate::config::Config;
use crate::error::LoadError;
use crate::gguf::{Array, Gguf, Value};
use crate::huggingface::Folder;
use crate::model::{Model, is_folder_of_safetensors};

/// Elements of a metadata array that are shown; the rest is only counted.
const SHOWN_ELEMENTS: usize = 8;

/// How a model is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Tokens that the KV cache has room for; `None` for as many as the model was made for.
    pub context_len: Option<usize>,
    /// Element type of the KV cache.
    pub kv_dtype: DType,
    /// Tokens that go through the network at once, in prefill.
    pub n_batch: usize,
    /// Memory that may be used, bytes, if that is known.
    pub available_bytes: Option<u64>,
}

/// What is in a model file.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Which format.
    pub format: Format,
    /// Bytes of all its files.
    pub file_bytes: u64,
    /// In the file's order.
    pub metadata: Vec<Metadata>,
    /// In the file's order (GGUF), or by name.
    pub tensors: Vec<TensorInfo>,
    /// One entry for each element type that occurs, the largest first.
    pub types: Vec<TypeTotal>,
    /// Weights of all tensors.
    pub n_params: u64,
    /// Whether it can be run.
    pub verdict: Verdict,
}

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One GGUF file.
    Gguf {
        /// Of the format.
        version: u32,
    },
    /// A folder with config.json and safetensors.
    Safetensors {
        /// How many.
        n_files: usize,
    },
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metadata {
    /// As the file spells it.
    pub key: String,
    /// Such as `u32` or `array of string`.
    pub value_type: String,
    /// The value; of an array its first elements.
    pub value: Json,
    /// How many elements an array has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_elements: Option<usize>,
}

/// A tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorInfo {
    /// As the file spells it.
    pub name: String,
    /// Element type.
    pub dtype: &'static str,
    /// The slowest-varying size first: `[n_rows, n_cols]`.
    pub shape: Vec<usize>,
    /// Bytes it takes.
    pub size_bytes: u64,
}

/// All tensors of one element type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeTotal {
    /// Element type.
    pub dtype: &'static str,
    /// How many tensors.
    pub n_tensors: usize,
    /// Their weights.
    pub n_params: u64,
    /// Their bytes.
    pub size_bytes: u64,
}

/// Whether a model can be run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It can.
    Runs {
        /// Its hyperparameters.
        config: Box<Config>,
        /// What that takes.
        memory: MemoryEstimate,
    },
    /// It cannot.
    Refused {
        /// Why, and what to do: the error that loading gives, with its causes.
        reason: String,
    },
}

/// The memory that running a model takes, bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    /// Tokens that the KV cache has room for.
    pub context_len: usize,
    /// Element type of the KV cache.
    pub kv_dtype: &'static str,
    /// Of all weights, in the map or repacked.
    pub weights_bytes: u64,
    /// Of keys and values of one sequence of `context_len` tokens.
    pub kv_cache_bytes: u64,
    /// Of what passes between the layers, and the logits.
    pub activation_bytes: u64,
    /// The sum.
    pub total_bytes: u64,
    /// What there is, if that is known.
    pub available_bytes: Option<u64>,
    /// Whether the sum is within that.
    pub fits: Option<bool>,
    /// The longest context that would be, tokens; 0 when the weights alone are too much.
    pub longest_context_len: Option<u64>,
}

impl MemoryEstimate {
    /// Estimates what running a model takes whose tensors have `weights_bytes`. Sums saturate.
    ///
    /// Keys and values: `2 * n_layers * n_kv_heads` rows of `head_dim` for each token, as the windowed layers of a
    /// model keep the whole context too. Activations: f32, for each token in flight the residual stream, its norm and
    /// what is added to it, queries, keys, values, attention's output, gate and up; then one row of logits.
    pub fn new(config: &Config, weights_bytes: u64, budget: &Budget) -> MemoryEstimate {
        let context_len = budget.context_len.unwrap_or(config.context_len);
        let dtype = budget.kv_dtype;
        let row_bytes = config.head_dim.div_ceil(dtype.block_len()) * dtype.block_bytes();
        let token_bytes = product([2, config.n_layers, config.n_kv_heads, row_bytes]);
        let kv_cache_bytes = token_bytes.saturating_mul(context_len as u64);

        let (q_dim, kv_dim) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        let token_len = 3 * config.hidden_dim + 2 * q_dim + 2 * kv_dim + 2 * config.ffn_dim;
        let activation_bytes =
            product([token_len, budget.n_batch, 4]).saturating_add(product([config.vocab_size, 4]));

        let besides = weights_bytes.saturating_add(activation_bytes);
        let total_bytes = besides.saturating_add(kv_cache_bytes);
        MemoryEstimate {
            context_len,
            kv_dtype: dtype.name(),
            weights_bytes,
            kv_cache_bytes,
            activation_bytes,
            total_bytes,
            available_bytes: budget.available_bytes,
            fits: budget.available_bytes.map(|available| total_bytes <= available),
            longest_context_len: budget
                .available_bytes
                .map(|available| available.saturating_sub(besides) / token_bytes.max(1)),
        }
    }
}

/// Describes the model at `path` (whatever [`Model::load`] takes) and what running it by `budget` takes.
///
/// # Errors
/// When the files themselves are damaged, or of a type that is not read. A model that only cannot be run is described.
pub fn inspect(path: &Path, budget: &Budget) -> Result<Inspection, LoadError> {
    if is_folder_of_safetensors(path) {
        let folder = Folder::open(path)?;
        let described = describe_folder(&folder);
        return Ok(described.judge(Model::from_folder(folder), budget));
    }
    let gguf = Gguf::open(path).map_err(|source| LoadError::Gguf { path: path.to_owned(), source })?;
    let described = describe_gguf(&gguf);
    Ok(described.judge(Model::from_gguf(gguf, path), budget))
}

/// An [`Inspection`] without totals and verdict.
struct Described {
    format: Format,
    metadata: Vec<Metadata>,
    tensors: Vec<TensorInfo>,
    file_bytes: u64,
}

fn describe_gguf(gguf: &Gguf) -> Described {
    Described {
        format: Format::Gguf { version: gguf.version() },
        metadata: gguf.metadata().map(|(key, value)| describe_value(key, value)).collect(),
        tensors: gguf
            .tensors()
            .map(|tensor| TensorInfo {
                name: tensor.name.to_owned(),
                dtype: tensor.dtype.name(),
                shape: tensor.dims.iter().rev().copied().collect(),
                size_bytes: tensor.data.len() as u64,
            })
            .collect(),
        file_bytes: gguf.map().len() as u64,
    }
}

fn describe_folder(folder: &Folder) -> Described {
    let files = folder.shards.files();
    let of_config = folder.json.iter().map(|(key, value)| Metadata {
        key: format!("config.{key}"),
        value_type: json_type(value).to_owned(),
        value: value.clone(),
        n_elements: value.as_array().map(Vec::len),
    });
    let of_files = files.iter().flat_map(|file| file.metadata()).map(|(key, value)| Metadata {
        key: format!("safetensors.{key}"),
        value_type: "string".into(),
        value: value.into(),
        n_elements: None,
    });
    Described {
        format: Format::Safetensors { n_files: files.len() },
        metadata: of_config.chain(of_files).collect(),
        tensors: folder
            .shards
            .tensors()
            .map(|tensor| TensorInfo {
                name: tensor.name.to_owned(),
                dtype: tensor.dtype.name(),
                shape: tensor.shape.to_vec(),
                size_bytes: tensor.data.len() as u64,
            })
            .collect(),
        file_bytes: files.iter().map(|file| file.map().len() as u64).sum(),
    }
}

impl Described {
    fn judge(self, model: Result<Model, LoadError>, budget: &Budget) -> Inspection {
        let mut types: BTreeMap<&'static str, TypeTotal> = BTreeMap::new();
        for tensor in &self.tensors {
            let dtype = tensor.dtype;
            let total =
                types.entry(dtype).or_insert(TypeTotal { dtype, n_tensors: 0, n_params: 0, size_bytes: 0 });
            total.n_tensors += 1;
            total.n_params += product(tensor.shape.iter().copied());
            total.size_bytes += tensor.size_bytes;
        }
        let mut types: Vec<TypeTotal> = types.into_values().collect();
        types.sort_by_key(|total| std::cmp::Reverse(total.size_bytes));
        let verdict = match model {
            Ok(model) => {
                let weights_bytes = model.tensors().map(|(_, tensor)| tensor.data.len() as u64).sum();
                let memory = MemoryEstimate::new(model.config(), weights_bytes, budget);
                Verdict::Runs { config: Box::new(model.config().clone()), memory }
            }
            Err(error) => Verdict::Refused { reason: with_causes(&error) },
        };
        Inspection {
            format: self.format,
            file_bytes: self.file_bytes,
            metadata: self.metadata,
            n_params: types.iter().map(|total| total.n_params).sum(),
            tensors: self.tensors,
            types,
            verdict,
        }
    }
}

fn describe_value(key: &str, value: Value<'_>) -> Metadata {
    let array = value.as_array();
    Metadata {
        key: key.to_owned(),
        value_type: match array {
            Some(array) => format!("array of {}", array.element_type().name()),
            None => value.value_type().name().to_owned(),
        },
        value: to_json(value),
        n_elements: array.map(|array| array.len()),
    }
}

fn to_json(value: Value<'_>) -> Json {
    match value {
        Value::String(text) => text.into(),
        Value::Bool(truth) => truth.into(),
        // By its shortest decimal form: 0.00001, not the 9.999999747378752e-6 of its widening.
        Value::F32(v) => v.to_string().parse::<f64>().unwrap_or(f64::NAN).into(),
        Value::F64(v) => v.into(),
        Value::Array(array) => first_elements(array),
        integer => match integer.as_u64() {
            Some(v) => v.into(),
            None => integer.as_i64().into(),
        },
    }
}

/// A string that is not UTF-8 becomes null.
fn first_elements(array: Array<'_>) -> Json {
    array.values().take(SHOWN_ELEMENTS).map(|value| value.map_or(Json::Null, to_json)).collect()
}

fn json_type(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// The error and its causes, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

fn product(factors: impl IntoIterator<Item = usize>) -> u64 {
    factors.into_iter().fold(1, |n: u64, factor| n.saturating_mul(factor as u64))
}

#[cfg(test)]
mod tests;
