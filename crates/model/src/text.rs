//! From a model file to its tokenizer and chat template: in GGUF metadata, or in JSON files of a folder.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use serde_json::Value as Json;

use crate::chat::{ChatError, ChatTemplate};
use crate::error::ConfigError;
use crate::gguf::{Array, Gguf, GgufError, Value};
use crate::model::{Model, Source};
use crate::tokenizer::{GgufVocab, JsonSpecials, Tokenizer, TokenizerError};

impl Model {
    /// Builds the model's tokenizer.
    ///
    /// # Errors
    /// If the file has none, or one that is damaged or not supported.
    pub fn tokenizer(&self) -> Result<Tokenizer, TextError> {
        match self.source() {
            Source::Gguf(gguf) => gguf_tokenizer(gguf),
            Source::Folder(folder) => folder_tokenizer(folder),
        }
    }

    /// Compiles the model's chat template. Base models have none: their prompt is the text itself.
    ///
    /// # Errors
    /// If the template is damaged or not supported.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, TextError> {
        let source = match self.source() {
            Source::Gguf(gguf) => {
                optional(gguf, "tokenizer.chat_template", "a string", |v| v.as_str())?.map(String::from)
            }
            Source::Folder(folder) => folder_template(folder)?,
        };
        source.map(|source| ChatTemplate::new(&source).map_err(TextError::Chat)).transpose()
    }
}

fn gguf_tokenizer(gguf: &Gguf) -> Result<Tokenizer, TextError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let string = |name: &str| optional(gguf, &key(name), "a string", |v| v.as_str());
    let flag = |name: &str| optional(gguf, &key(name), "true or false", |v| v.as_bool());
    let id = |name: &str| {
        optional(gguf, &key(name), "a token id", |v| v.as_u64().and_then(|id| u32::try_from(id).ok()))
    };
    let array = |name: &str, expected| optional(gguf, &key(name), expected, |v| v.as_array());

    let missing = |name| ConfigError::Missing { key: key(name) };
    let tokens = array("tokens", STRINGS)?.ok_or_else(|| missing("tokens"))?;
    let tokens = strings(tokens, || key("tokens"))?;
    let merges = match array("merges", STRINGS)? {
        Some(merges) => strings(merges, || key("merges"))?,
        None => Vec::new(),
    };
    let scores: Vec<f32> = match array("scores", FLOATS)? {
        Some(scores) => {
            scores.floats().ok_or_else(|| invalid(key("scores"), FLOATS))?.map(|s| s as f32).collect()
        }
        None => Vec::new(),
    };
    let token_types: Vec<i32> = match array("token_type", INTEGERS)? {
        // A type beyond 32 bits is as unknown as -1.
        Some(types) => types
            .integers()
            .ok_or_else(|| invalid(key("token_type"), INTEGERS))?
            .map(|token_type| i32::try_from(token_type).unwrap_or(-1))
            .collect(),
        None => Vec::new(),
    };
    let vocab = GgufVocab {
        model: string("model")?.ok_or_else(|| missing("model"))?,
        pre: string("pre")?,
        tokens: &tokens,
        scores: &scores,
        token_types: &token_types,
        merges: &merges,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        unk: id("unknown_token_id")?,
        pad: id("padding_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
    };
    Tokenizer::from_gguf(&vocab).map_err(TextError::Tokenizer)
}

const STRINGS: &str = "an array of strings";
const FLOATS: &str = "an array of floats";
const INTEGERS: &str = "an array of integers";

fn invalid(key: String, expected: &'static str) -> TextError {
    TextError::Key(ConfigError::Invalid { key, expected })
}

/// The value of `key`, which must be what `read` reads if it is there.
fn optional<'a, T>(
    gguf: &'a Gguf,
    key: &str,
    expected: &'static str,
    read: impl Fn(&Value<'a>) -> Option<T>,
) -> Result<Option<T>, TextError> {
    let Some(value) = gguf.get(key) else { return Ok(None) };
    read(&value).map(Some).ok_or_else(|| invalid(key.to_owned(), expected))
}

fn strings<'a>(array: Array<'a>, key: impl Fn() -> String) -> Result<Vec<&'a str>, TextError> {
    let strings = array.strings().ok_or_else(|| invalid(key(), STRINGS))?;
    strings.collect::<Result<_, _>>().map_err(TextError::Gguf)
}

fn folder_tokenizer(folder: &Path) -> Result<Tokenizer, TextError> {
    let path = folder.join("tokenizer.json");
    let tokenizer = read(&path)?.ok_or(TextError::NoTokenizer { path })?;
    let mut specials = JsonSpecials::default();
    // Both files may name the end: the model's own settings first, then what generation ends with.
    for name in ["config.json", "generation_config.json"] {
        let path = folder.join(name);
        let Some(config) = read_json(&path)? else { continue };
        let ids = |key| ids(&config, key).map_err(|source| TextError::Config { path: path.clone(), source });
        specials.eos.extend(ids("eos_token_id")?);
        specials.bos = specials.bos.or(ids("bos_token_id")?.first().copied());
        specials.pad = specials.pad.or(ids("pad_token_id")?.first().copied());
    }
    Tokenizer::from_json(&tokenizer, &specials).map_err(TextError::Tokenizer)
}

/// The ids at `key`: one number, or an array of them; none if the key is absent or null.
fn ids(config: &Json, key: &str) -> Result<Vec<u32>, ConfigError> {
    let id = |value: &Json| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match &config[key] {
        Json::Null => Some(Vec::new()),
        Json::Array(values) => values.iter().map(id).collect(),
        value => id(value).map(|id| vec![id]),
    };
    ids.ok_or_else(|| ConfigError::Invalid {
        key: key.to_owned(),
        expected: "a token id or an array of them",
    })
}

/// The template's text: in a file of its own, as newer folders have it, or in `tokenizer_config.json`, alone or as
/// the one named "default".
fn folder_template(folder: &Path) -> Result<Option<String>, TextError> {
    let path = folder.join("chat_template.jinja");
    if let Some(bytes) = read(&path)? {
        let source = String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
        return source.map(Some).map_err(|source| TextError::Io { path, source });
    }
    let path = folder.join("tokenizer_config.json");
    let Some(config) = read_json(&path)? else { return Ok(None) };
    let template = match &config["chat_template"] {
        Json::Null => return Ok(None),
        Json::Array(named) => named
            .iter()
            .find(|template| template["name"] == "default")
            .and_then(|template| template["template"].as_str()),
        template => template.as_str(),
    };
    let expected = "a template, or an array with one named \"default\"";
    let invalid = || ConfigError::Invalid { key: "chat_template".to_owned(), expected };
    match template {
        Some(template) => Ok(Some(template.to_owned())),
        None => Err(TextError::Config { path, source: invalid() }),
    }
}

/// The file's bytes, if there is one.
fn read(path: &Path) -> Result<Option<Vec<u8>>, TextError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Io { path: path.to_owned(), source }),
    }
}

fn read_json(path: &Path) -> Result<Option<Json>, TextError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| TextError::Json { path: path.to_owned(), source })
}

/// Why a model's tokenizer or chat template could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum TextError {
    /// A file could not be read.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no JSON.
    Json {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A folder has no `tokenizer.json`.
    NoTokenizer {
        /// Where it would be.
        path: PathBuf,
    },
    /// A key of a JSON file is wrong.
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// A key of the GGUF file is missing or wrong.
    Key(ConfigError),
    /// A string of the GGUF file is no UTF-8.
    Gguf(GgufError),
    /// The vocabulary is damaged or not supported.
    Tokenizer(TokenizerError),
    /// The chat template is damaged or not supported.
    Chat(ChatError),
}

impl From<ConfigError> for TextError {
    fn from(error: ConfigError) -> TextError {
        TextError::Key(error)
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextError::Io { path, .. } => write!(f, "cannot read {}", path.display()),
            TextError::Json { path, .. } => {
                write!(f, "{} is not JSON: get the model again", path.display())
            }
            TextError::NoTokenizer { path } => write!(
                f,
                "there is no {}: get the model again with its tokenizer.json, or as a GGUF file",
                path.display()
            ),
            TextError::Config { path, .. } => write!(f, "cannot use {}", path.display()),
            TextError::Key(_) | TextError::Gguf(_) | TextError::Tokenizer(_) => {
                write!(f, "cannot use the model's tokenizer")
            }
            TextError::Chat(_) => write!(f, "cannot use the model's chat template"),
        }
    }
}

impl std::error::Error for TextError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TextError::Io { source, .. } => Some(source),
            TextError::Json { source, .. } => Some(source),
            TextError::NoTokenizer { .. } => None,
            TextError::Config { source, .. } | TextError::Key(source) => Some(source),
            TextError::Gguf(source) => Some(source),
            TextError::Tokenizer(source) => Some(source),
            TextError::Chat(source) => Some(source),
        }
    }
}
