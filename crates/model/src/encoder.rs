//! Encoders of the BERT family (Devlin et al. 2019, arXiv:1810.04805), which make one vector of a text, or say of two how
//! well they go together: a folder as Hugging Face's `transformers` and `sentence-transformers` save it.
//!
//! | file | what is read |
//! |---|---|
//! | `config.json` | the network; its `model_type` is `bert` |
//! | `model.safetensors` | the weights; the pooler's and the heads of other tasks are passed over, unless `config.json` says that the model scores pairs (`BertForSequenceClassification` with one label) |
//! | `tokenizer.json` | the vocabulary |
//! | `modules.json` | what happens to the states: pooling, and perhaps normalisation; anything else is refused |
//! | `1_Pooling/config.json` | which pooling |
//! | `sentence_bert_config.json` | how many tokens of a text it was made for |
//!
//! Without `modules.json` states are pooled by their mean and not normalised, as `sentence-transformers` does it.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map as Object, Value};

use crate::error::{ConfigError, LoadError};
use crate::huggingface::Fields;
use crate::safetensors::{Shards, read_limited};
use crate::tensor::Tensor;
use crate::text::{TextError, folder_tokenizer};
use crate::tokenizer::Tokenizer;

/// Configuration files in use have a few kilobytes.
const MAX_CONFIG_BYTES: usize = 1 << 24;
/// Against sizes that no file could back: layers, and the width of anything.
const MAX_LAYERS: usize = 1 << 10;
const MAX_DIM: usize = 1 << 20;

/// Settings that change the computation, which no file in use sets, each with what switches it off.
const REFUSED_UNLESS_FALSE: [&str; 2] = ["is_decoder", "add_cross_attention"];

/// Tensors that make no part of a text's vector: positions that are counted anyway, and heads of other tasks.
const PASSED_OVER: [&str; 3] = ["embeddings.position_ids", "pooler.", "cls."];

/// The same where the pooler and a head make the answer.
const PASSED_OVER_BY_SCORERS: [&str; 2] = ["embeddings.position_ids", "cls."];

/// The hyperparameters of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Transformer blocks.
    pub n_layers: usize,
    /// Width of the states, and of a text's vector.
    pub hidden_dim: usize,
    /// Width between the two feed-forward maps.
    pub ffn_dim: usize,
    /// Attention heads, each of `hidden_dim / n_heads` coordinates.
    pub n_heads: usize,
    /// Ids of the vocabulary.
    pub vocab_size: usize,
    /// Positions that have an embedding.
    pub n_positions: usize,
    /// Kinds of tokens that have an embedding; a text alone is all of the first kind.
    pub n_types: usize,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f32,
    /// Between the two feed-forward maps.
    pub activation: EncoderActivation,
    /// How states become one vector.
    pub pooling: Pooling,
    /// Whether this vector is brought to length 1.
    pub normalizes: bool,
    /// Tokens of the longest text, those around it included.
    pub max_tokens: usize,
    /// Whether texts are lower-cased before the tokenizer sees them.
    pub lowercases: bool,
    /// What becomes of the number that a head makes of two texts; none of models without such a head, which make vectors.
    pub score: Option<Score>,
}

/// What becomes of a head's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// It is the score.
    Logit,
    /// 1 / (1 + e^-x).
    Sigmoid,
}

/// Activation functions of encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderActivation {
    /// x / 2 * (1 + erf(x / sqrt(2))).
    Gelu,
    /// The same by its tanh approximation.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

/// How the states of a text's tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// In each coordinate the largest.
    Max,
}

/// A tensor's place in an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EncoderSlot {
    /// `[vocab_size, hidden_dim]`.
    TokenEmbedding,
    /// `[n_positions, hidden_dim]`.
    PositionEmbedding,
    /// `[n_types, hidden_dim]`.
    TypeEmbedding,
    /// Layer norm of the embeddings' sum, `[hidden_dim]`.
    EmbeddingNorm(EncoderPart),
    /// A part of block `.0`.
    Layer(usize, EncoderLayerSlot, EncoderPart),
    /// Of a model with a head: from the first token's state to what the head sees, `[hidden_dim, hidden_dim]`.
    Pooler(EncoderPart),
    /// The head, `[1, hidden_dim]`.
    Head(EncoderPart),
}

/// A map or norm of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EncoderLayerSlot {
    /// Queries, `[hidden_dim, hidden_dim]`.
    Q,
    /// Keys, `[hidden_dim, hidden_dim]`.
    K,
    /// Values, `[hidden_dim, hidden_dim]`.
    V,
    /// Attention's output, `[hidden_dim, hidden_dim]`.
    O,
    /// Layer norm after attention, `[hidden_dim]`.
    AttnNorm,
    /// First feed-forward map, `[ffn_dim, hidden_dim]`.
    Up,
    /// Second feed-forward map, `[hidden_dim, ffn_dim]`.
    Down,
    /// Layer norm after the feed-forward maps, `[hidden_dim]`.
    FfnNorm,
}

/// What a map or norm consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EncoderPart {
    /// The matrix, or the norm's factors.
    Weight,
    /// What is added, as long as the output.
    Bias,
}

impl EncoderLayerSlot {
    /// All of them.
    pub const ALL: [EncoderLayerSlot; 8] = [
        EncoderLayerSlot::Q,
        EncoderLayerSlot::K,
        EncoderLayerSlot::V,
        EncoderLayerSlot::O,
        EncoderLayerSlot::AttnNorm,
        EncoderLayerSlot::Up,
        EncoderLayerSlot::Down,
        EncoderLayerSlot::FfnNorm,
    ];

    fn name(self) -> &'static str {
        match self {
            EncoderLayerSlot::Q => "attention.self.query",
            EncoderLayerSlot::K => "attention.self.key",
            EncoderLayerSlot::V => "attention.self.value",
            EncoderLayerSlot::O => "attention.output.dense",
            EncoderLayerSlot::AttnNorm => "attention.output.LayerNorm",
            EncoderLayerSlot::Up => "intermediate.dense",
            EncoderLayerSlot::Down => "output.dense",
            EncoderLayerSlot::FfnNorm => "output.LayerNorm",
        }
    }
}

impl EncoderPart {
    const ALL: [EncoderPart; 2] = [EncoderPart::Weight, EncoderPart::Bias];

    fn name(self) -> &'static str {
        match self {
            EncoderPart::Weight => "weight",
            EncoderPart::Bias => "bias",
        }
    }
}

impl EncoderSlot {
    fn all(config: &EncoderConfig) -> impl Iterator<Item = EncoderSlot> {
        let layers = (0..config.n_layers).flat_map(|i| {
            EncoderLayerSlot::ALL
                .into_iter()
                .flat_map(move |slot| EncoderPart::ALL.map(|part| EncoderSlot::Layer(i, slot, part)))
        });
        [EncoderSlot::TokenEmbedding, EncoderSlot::PositionEmbedding, EncoderSlot::TypeEmbedding]
            .into_iter()
            .chain(EncoderPart::ALL.map(EncoderSlot::EmbeddingNorm))
            .chain(layers)
            .chain(config.score.iter().flat_map(|_| EncoderPart::ALL.map(EncoderSlot::Pooler)))
            .chain(config.score.iter().flat_map(|_| EncoderPart::ALL.map(EncoderSlot::Head)))
    }

    /// As the file spells it.
    fn name(self) -> String {
        match self {
            EncoderSlot::TokenEmbedding => "embeddings.word_embeddings.weight".into(),
            EncoderSlot::PositionEmbedding => "embeddings.position_embeddings.weight".into(),
            EncoderSlot::TypeEmbedding => "embeddings.token_type_embeddings.weight".into(),
            EncoderSlot::EmbeddingNorm(part) => format!("embeddings.LayerNorm.{}", part.name()),
            EncoderSlot::Layer(i, slot, part) => format!("encoder.layer.{i}.{}.{}", slot.name(), part.name()),
            EncoderSlot::Pooler(part) => format!("pooler.dense.{}", part.name()),
            EncoderSlot::Head(part) => format!("classifier.{}", part.name()),
        }
    }

    /// Rows and columns.
    fn shape(self, config: &EncoderConfig) -> (usize, usize) {
        use EncoderLayerSlot::{AttnNorm, Down, FfnNorm, K, O, Q, Up, V};
        let EncoderConfig { hidden_dim, ffn_dim, .. } = *config;
        match self {
            EncoderSlot::TokenEmbedding => (config.vocab_size, hidden_dim),
            EncoderSlot::PositionEmbedding => (config.n_positions, hidden_dim),
            EncoderSlot::TypeEmbedding => (config.n_types, hidden_dim),
            EncoderSlot::EmbeddingNorm(_) | EncoderSlot::Layer(_, AttnNorm | FfnNorm, _) => (1, hidden_dim),
            EncoderSlot::Layer(_, Q | K | V | O, EncoderPart::Weight) => (hidden_dim, hidden_dim),
            EncoderSlot::Layer(_, Up, EncoderPart::Weight) => (ffn_dim, hidden_dim),
            EncoderSlot::Layer(_, Down, EncoderPart::Weight) => (hidden_dim, ffn_dim),
            EncoderSlot::Layer(_, Up, EncoderPart::Bias) => (1, ffn_dim),
            EncoderSlot::Layer(_, Q | K | V | O | Down, EncoderPart::Bias) => (1, hidden_dim),
            EncoderSlot::Pooler(EncoderPart::Weight) => (hidden_dim, hidden_dim),
            EncoderSlot::Pooler(EncoderPart::Bias) | EncoderSlot::Head(EncoderPart::Weight) => {
                (1, hidden_dim)
            }
            EncoderSlot::Head(EncoderPart::Bias) => (1, 1),
        }
    }
}

/// An open encoder. Its files must not change while it is open (see [`crate::mmap`]).
///
/// Every tensor is there, of the shape that the hyperparameters imply, and there is no other that would count.
#[derive(Debug)]
pub struct EncoderModel {
    path: PathBuf,
    config: EncoderConfig,
    shards: Shards,
    places: BTreeMap<EncoderSlot, usize>,
}

/// The bytes of an encoder's tensor, which keep the model open.
#[derive(Debug)]
pub struct EncoderBytes {
    model: Arc<EncoderModel>,
    slot: EncoderSlot,
}

impl EncoderBytes {
    /// Of that slot's tensor.
    pub fn new(model: &Arc<EncoderModel>, slot: EncoderSlot) -> EncoderBytes {
        EncoderBytes { model: Arc::clone(model), slot }
    }
}

impl AsRef<[u8]> for EncoderBytes {
    fn as_ref(&self) -> &[u8] {
        self.model.tensor(self.slot).map_or(&[], |tensor| tensor.data)
    }
}

impl EncoderModel {
    /// Whether `path` is a folder whose config.json says that it is of this kind. What cannot be read is not; whoever
    /// then opens it as something else is told why.
    pub fn is_at(path: &Path) -> bool {
        let bytes = read_limited(&path.join("config.json"), MAX_CONFIG_BYTES).unwrap_or_default();
        let json = serde_json::from_slice::<Value>(&bytes).unwrap_or_default();
        path.is_dir() && json["model_type"] == "bert"
    }

    /// Opens the folder at `path`.
    ///
    /// # Errors
    /// Whatever is wrong with the files, the hyperparameters or the tensors.
    pub fn load(path: &Path) -> Result<EncoderModel, LoadError> {
        let config = config(path)?;
        let shards = Shards::open_folder(path)?;
        let slots: BTreeMap<String, EncoderSlot> =
            EncoderSlot::all(&config).map(|slot| (slot.name(), slot)).collect();
        let mut places = BTreeMap::new();
        for (idx, tensor) in shards.tensors().enumerate() {
            let tensor = tensor.as_matrix();
            // Models with a head keep the encoder under its name.
            let name = tensor.name.strip_prefix("bert.").unwrap_or(tensor.name);
            let passed_over = match config.score {
                None => &PASSED_OVER[..],
                Some(_) => &PASSED_OVER_BY_SCORERS[..],
            };
            if passed_over.iter().any(|other| name.starts_with(other)) {
                continue;
            }
            let slot =
                *slots.get(name).ok_or_else(|| LoadError::UnknownTensor { name: tensor.name.to_owned() })?;
            let (expected, found) = (slot.shape(&config), (tensor.n_rows, tensor.n_cols));
            if found != expected {
                return Err(LoadError::WrongShape { name: tensor.name.to_owned(), expected, found });
            }
            places.insert(slot, idx);
        }
        if let Some((name, _)) = slots.into_iter().find(|(_, slot)| !places.contains_key(slot)) {
            return Err(LoadError::MissingTensor { name });
        }
        Ok(EncoderModel { path: path.to_owned(), config, shards, places })
    }

    /// The hyperparameters.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The tensor of that slot; none beyond the last layer.
    pub fn tensor(&self, slot: EncoderSlot) -> Option<Tensor<'_>> {
        self.places.get(&slot).map(|idx| self.shards.tensor_at(*idx).as_matrix())
    }

    /// The tokenizer. Building it takes a while and some memory, so keep it.
    ///
    /// # Errors
    /// If the folder lacks a vocabulary, or it is damaged or of a kind that is not known.
    pub fn tokenizer(&self) -> Result<Tokenizer, TextError> {
        folder_tokenizer(&self.path)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of all files that are mapped.
    pub fn file_bytes(&self) -> u64 {
        self.shards.files().iter().map(|file| file.map().len() as u64).sum()
    }
}

/// What the folder's configuration files say together.
fn config(folder: &Path) -> Result<EncoderConfig, LoadError> {
    let path = folder.join("config.json");
    let json: Object<String, Value> = read_json(&path)?;
    let mut config = network(&Fields::of_file(&json)).map_err(|source| LoadError::Config { path, source })?;
    let path = folder.join("modules.json");
    if path.exists() {
        let modules: Vec<Value> = read_json(&path)?;
        let at = |source| LoadError::Config { path: path.clone(), source };
        let (pooling_dir, normalizes) = modules_of(&modules).map_err(at)?;
        config.normalizes = normalizes;
        let path = folder.join(pooling_dir).join("config.json");
        let json: Object<String, Value> = read_json(&path)?;
        config.pooling =
            pooling(&Fields::of_file(&json)).map_err(|source| LoadError::Config { path, source })?;
    }
    let path = folder.join("sentence_bert_config.json");
    if path.exists() {
        let json: Object<String, Value> = read_json(&path)?;
        limits(&Fields::of_file(&json), &mut config).map_err(|source| LoadError::Config { path, source })?;
    }
    let path = folder.join("config_sentence_transformers.json");
    if path.exists() {
        let json: Object<String, Value> = read_json(&path)?;
        if Fields::of_file(&json).get("default_prompt_name").is_some() {
            let source = ConfigError::Unsupported { what: "the setting default_prompt_name".into() };
            return Err(LoadError::Config { path, source });
        }
    }
    Ok(config)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let bytes = read_limited(path, MAX_CONFIG_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|source| LoadError::Json { path: path.to_owned(), source })
}

fn unsupported<T>(what: String) -> Result<T, ConfigError> {
    Err(ConfigError::Unsupported { what })
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

/// config.json.
fn network(fields: &Fields<'_>) -> Result<EncoderConfig, ConfigError> {
    match fields.text("model_type")? {
        Some("bert") => {}
        other => return Err(ConfigError::UnknownArchitecture { found: short(other.unwrap_or_default()) }),
    }
    let mut score = None;
    if let Some(Value::Array(names)) = fields.get("architectures") {
        for name in names.iter().filter_map(Value::as_str) {
            // Others have weights of their own that make their answer.
            if name == "BertForSequenceClassification" {
                score = Some(scoring(fields)?);
            } else if !matches!(name, "BertModel" | "BertForMaskedLM" | "BertForPreTraining") {
                return unsupported(format!("the head of {:?}", short(name)));
            }
        }
    }
    for key in REFUSED_UNLESS_FALSE {
        if fields.truth(key)? == Some(true) {
            return unsupported(format!("the setting {key}"));
        }
    }
    match fields.text("position_embedding_type")? {
        None | Some("absolute") => {}
        Some(other) => return unsupported(format!("the kind of positions {:?}", short(other))),
    }
    let activation = match fields.text("hidden_act")? {
        Some("gelu") => EncoderActivation::Gelu,
        Some("gelu_new" | "gelu_pytorch_tanh") => EncoderActivation::GeluTanh,
        Some("relu") => EncoderActivation::Relu,
        Some(other) => return unsupported(format!("the activation function {:?}", short(other))),
        None => return Err(fields.missing("hidden_act")),
    };
    let within = |key: &'static str, most: usize, expected| match fields.count(key)? {
        n if (1..=most).contains(&n) => Ok(n),
        _ => Err(fields.invalid(key, expected)),
    };
    let dim = |key| within(key, MAX_DIM, "from 1 to 1048576");
    let hidden_dim = dim("hidden_size")?;
    let n_heads = dim("num_attention_heads")?;
    if !hidden_dim.is_multiple_of(n_heads) {
        return Err(fields.invalid("num_attention_heads", "a divisor of hidden_size"));
    }
    let layer_norm_eps = fields.float("layer_norm_eps")?;
    if !(layer_norm_eps.is_finite() && layer_norm_eps > 0.0) {
        return Err(fields.invalid("layer_norm_eps", "a positive number"));
    }
    let n_positions = dim("max_position_embeddings")?;
    Ok(EncoderConfig {
        n_layers: within("num_hidden_layers", MAX_LAYERS, "from 1 to 1024")?,
        hidden_dim,
        ffn_dim: dim("intermediate_size")?,
        n_heads,
        vocab_size: within("vocab_size", 1 << 24, "from 1 to 16777216")?,
        n_positions,
        n_types: dim("type_vocab_size")?,
        layer_norm_eps,
        activation,
        pooling: Pooling::Mean,
        normalizes: false,
        max_tokens: n_positions,
        lowercases: false,
        score,
    })
}

/// What a model with a head for sentences makes of its number, if it is one number: as sentence-transformers'
/// `CrossEncoder` does it.
fn scoring(fields: &Fields<'_>) -> Result<Score, ConfigError> {
    let n_labels = match fields.get("id2label") {
        Some(Value::Object(labels)) => labels.len(),
        // As transformers has it.
        _ => fields.optional_count("num_labels")?.unwrap_or(2),
    };
    if n_labels != 1 {
        return unsupported(format!("a head with {n_labels} labels (one is a score)"));
    }
    if fields.count("type_vocab_size")? < 2 {
        return Err(fields.invalid("type_vocab_size", "at least 2, as the model sees two texts"));
    }
    let nested = fields.get("sentence_transformers").and_then(|value| value.get("activation_fn"));
    let name = match nested {
        Some(value) => value.as_str().ok_or_else(|| fields.invalid("activation_fn", "a string"))?,
        // So it was called before version 4.
        None => match fields.text("sbert_ce_default_activation_function")? {
            Some(name) => name,
            None => return Ok(Score::Sigmoid),
        },
    };
    match name.rsplit('.').next() {
        Some("Identity") => Ok(Score::Logit),
        Some("Sigmoid") => Ok(Score::Sigmoid),
        _ => unsupported(format!("the activation function {:?} of the score", short(name))),
    }
}

/// modules.json: the folder of the pooling's configuration, and whether its result is normalised.
fn modules_of(modules: &[Value]) -> Result<(PathBuf, bool), ConfigError> {
    let kind = |module: &Value| {
        let name = module["type"].as_str().unwrap_or_default();
        short(name.rsplit('.').next().unwrap_or_default())
    };
    let kinds: Vec<String> = modules.iter().map(kind).collect();
    let normalizes = match kinds.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["Transformer", "Pooling"] => false,
        ["Transformer", "Pooling", "Normalize"] => true,
        _ => return unsupported(format!("the chain of modules {}", kinds.join(", "))),
    };
    let folder = PathBuf::from(modules[1]["path"].as_str().unwrap_or_default());
    // Within the model's own folder, whatever the file says.
    match folder.components().all(|part| matches!(part, Component::Normal(_))) {
        true => Ok((folder, normalizes)),
        false => Err(ConfigError::Invalid { key: "path".into(), expected: "a folder of the model" }),
    }
}

/// 1_Pooling/config.json: a truth value for each kind, or, in newer files, one name.
fn pooling(fields: &Fields<'_>) -> Result<Pooling, ConfigError> {
    const PREFIX: &str = "pooling_mode_";
    let mut chosen = Vec::new();
    if let Some(name) = fields.text("pooling_mode")? {
        chosen.push(name);
    }
    for key in fields.keys().filter(|key| key.starts_with(PREFIX)) {
        if fields.truth(key)? == Some(true) {
            chosen.push(&key[PREFIX.len()..]);
        }
    }
    match chosen.as_slice() {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        ["max_tokens" | "max"] => Ok(Pooling::Max),
        others => unsupported(format!("pooling by {:?}", short(&others.join(" and ")))),
    }
}

/// sentence_bert_config.json.
fn limits(fields: &Fields<'_>, config: &mut EncoderConfig) -> Result<(), ConfigError> {
    if let Some(max_tokens) = fields.optional_count("max_seq_length")? {
        // The beginning, one token and the end.
        if max_tokens < 3 {
            return Err(fields.invalid("max_seq_length", "at least 3"));
        }
        config.max_tokens = config.max_tokens.min(max_tokens);
    }
    config.lowercases = fields.truth("do_lower_case")?.unwrap_or(false);
    Ok(())
}

#[cfg(test)]
mod tests;
