//! From an open model to what turns text into its tokens and a conversation into text, wherever its files keep it.
//!
//! A GGUF file has the vocabulary in its metadata (`tokenizer.ggml.*`, see `docs/gguf.md` of the ggml project). A
//! Hugging Face folder has `tokenizer.json`, the ids of special tokens in `generation_config.json` and `config.json`,
//! and the chat template in `chat_template.jinja` or, in older ones, in `tokenizer_config.json`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::{error, fmt};

use serde_json::Value as Json;

use crate::chat::{ChatError, ChatTemplate};
use crate::gguf::{Array, Gguf, GgufError};
use crate::model::{Model, Source};
use crate::tokenizer::{GgufVocab, JsonSpecials, Tokenizer, TokenizerError};

/// The longest `tokenizer.json` that is read, bytes; the longest published ones have 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// The longest configuration file that is read, bytes; published ones have some kilobytes.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

impl Model {
    /// The model's tokenizer. Building it takes a while and some memory, so keep it.
    ///
    /// # Errors
    /// If the model's files lack a vocabulary, or it is damaged or of a kind that is not known.
    pub fn tokenizer(&self) -> Result<Tokenizer, TextError> {
        match self.source() {
            Source::Gguf(gguf) => gguf_tokenizer(gguf),
            Source::Folder(folder) => folder_tokenizer(folder),
        }
    }

    /// The template by which the model was taught to chat; `None` if its files have none, as of models that only
    /// continue text.
    ///
    /// # Errors
    /// If the template cannot be read or compiled.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, TextError> {
        let source = match self.source() {
            Source::Gguf(gguf) => gguf_chat_template(gguf)?,
            Source::Folder(folder) => folder_chat_template(folder)?,
        };
        source.map(|source| ChatTemplate::new(&source).map_err(TextError::Chat)).transpose()
    }
}

fn gguf_chat_template(gguf: &Gguf) -> Result<Option<String>, TextError> {
    const KEY: &str = "tokenizer.chat_template";
    match gguf.get(KEY) {
        None => Ok(None),
        Some(value) => match value.as_str() {
            Some(source) => Ok(Some(source.to_owned())),
            None => Err(TextError::Invalid { what: KEY.to_owned(), expected: "a string" }),
        },
    }
}

/// From `chat_template.jinja`, else from `tokenizer_config.json`: one template, or several with names, of which the
/// one called "default" is for chatting.
fn folder_chat_template(folder: &Path) -> Result<Option<String>, TextError> {
    let path = folder.join("chat_template.jinja");
    if let Some(bytes) = read(&path, MAX_CONFIG_BYTES)? {
        let what = path.display().to_string();
        return String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| TextError::Invalid { what, expected: "text in UTF-8" });
    }
    let path = folder.join("tokenizer_config.json");
    let Some(config) = read_json(&path)? else { return Ok(None) };
    let template = match config.get("chat_template") {
        Some(Json::Array(named)) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Json::as_str) == Some("default"))
            .and_then(|entry| entry.get("template")),
        other => other,
    };
    match template {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(source)) => Ok(Some(source.clone())),
        Some(_) => {
            let what = format!("chat_template in {}", path.display());
            Err(TextError::Invalid { what, expected: "a string" })
        }
    }
}

fn gguf_tokenizer(gguf: &Gguf) -> Result<Tokenizer, TextError> {
    let model = optional(gguf, "model", "a string", |value| value.as_str())?;
    let model = model.ok_or_else(|| TextError::Missing { what: key("model") })?;
    let array = |name| optional(gguf, name, "an array", |value| value.as_array());
    let tokens = array("tokens")?.ok_or_else(|| TextError::Missing { what: key("tokens") })?;
    let tokens = strings(tokens, "tokens")?;
    let merges = match array("merges")? {
        Some(merges) => strings(merges, "merges")?,
        None => Vec::new(),
    };
    let scores: Vec<f32> = match array("scores")? {
        Some(scores) => {
            scores.floats().ok_or_else(|| wrong("scores", "an array of floats"))?.map(|x| x as f32).collect()
        }
        None => Vec::new(),
    };
    let token_types: Vec<i32> = match array("token_type")? {
        Some(types) => types
            .integers()
            .ok_or_else(|| wrong("token_type", "an array of integers"))?
            // What does not fit is no type, and refused as such.
            .map(|id| i32::try_from(id).unwrap_or(-1))
            .collect(),
        None => Vec::new(),
    };
    let id = |name| {
        optional(gguf, name, "a token id", |value| value.as_u64().and_then(|id| u32::try_from(id).ok()))
    };
    let flag = |name| optional(gguf, name, "true or false", |value| value.as_bool());
    let vocab = GgufVocab {
        model,
        pre: optional(gguf, "pre", "a string", |value| value.as_str())?,
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

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

fn wrong(name: &str, expected: &'static str) -> TextError {
    TextError::Invalid { what: key(name), expected }
}

fn optional<'a, T>(
    gguf: &'a Gguf,
    name: &str,
    expected: &'static str,
    read: impl Fn(&crate::gguf::Value<'a>) -> Option<T>,
) -> Result<Option<T>, TextError> {
    match gguf.get(&key(name)) {
        None => Ok(None),
        Some(value) => read(&value).map(Some).ok_or_else(|| wrong(name, expected)),
    }
}

fn strings<'a>(array: Array<'a>, name: &str) -> Result<Vec<&'a str>, TextError> {
    let strings = array.strings().ok_or_else(|| wrong(name, "an array of strings"))?;
    // The array's length has been checked against the file's.
    let mut all = Vec::with_capacity(array.len());
    for string in strings {
        all.push(string.map_err(|source| TextError::Gguf { what: key(name), source })?);
    }
    Ok(all)
}

/// The tokenizer of a folder's `tokenizer.json`.
pub(crate) fn folder_tokenizer(folder: &Path) -> Result<Tokenizer, TextError> {
    let path = folder.join("tokenizer.json");
    let json = read(&path, MAX_TOKENIZER_BYTES)?
        .ok_or_else(|| TextError::Missing { what: path.display().to_string() })?;
    let mut specials = JsonSpecials::default();
    // Where both speak, `generation_config.json` knows better; it lists all ids that end an answer.
    for file in ["generation_config.json", "config.json"] {
        let path = folder.join(file);
        let Some(bytes) = read(&path, MAX_CONFIG_BYTES)? else { continue };
        let config: Json = serde_json::from_slice(&bytes)
            .map_err(|source| TextError::Json { path: path.clone(), source })?;
        let ids = |name: &str| ids(&config, name, &path);
        specials.bos = specials.bos.or(ids("bos_token_id")?.first().copied());
        specials.pad = specials.pad.or(ids("pad_token_id")?.first().copied());
        for eos in ids("eos_token_id")? {
            if !specials.eos.contains(&eos) {
                specials.eos.push(eos);
            }
        }
    }
    Tokenizer::from_json(&json, &specials).map_err(TextError::Tokenizer)
}

/// The id or list of ids under `name`; none if it is absent or null.
fn ids(config: &Json, name: &str, path: &Path) -> Result<Vec<u32>, TextError> {
    let invalid = || TextError::Invalid {
        what: format!("{name} in {}", path.display()),
        expected: "a token id or several",
    };
    let id = |value: &Json| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(invalid);
    match config.get(name) {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Array(several)) => several.iter().map(id).collect(),
        Some(one) => Ok(vec![id(one)?]),
    }
}

fn read_json(path: &Path) -> Result<Option<Json>, TextError> {
    let Some(bytes) = read(path, MAX_CONFIG_BYTES)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map_err(|source| TextError::Json { path: path.to_owned(), source })
}

/// The file's bytes; `None` if there is no such file.
fn read(path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, TextError> {
    let failed = |source| TextError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max_bytes {
        return Err(TextError::TooLong { path: path.to_owned(), max_bytes });
    }
    Ok(Some(bytes))
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
    /// A file is longer than any honest one.
    TooLong {
        /// Which.
        path: PathBuf,
        /// The limit.
        max_bytes: u64,
    },
    /// A key or file is not there.
    Missing {
        /// Which.
        what: String,
    },
    /// A value is of the wrong type or out of range.
    Invalid {
        /// Whose.
        what: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// A string of the vocabulary is none.
    Gguf {
        /// The key it is under.
        what: String,
        /// Why.
        source: GgufError,
    },
    /// A configuration file is no JSON.
    Json {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The vocabulary is damaged or not supported.
    Tokenizer(TokenizerError),
    /// The chat template is damaged or not supported.
    Chat(ChatError),
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextError::Io { path, .. } => write!(f, "could not read {}", path.display()),
            TextError::TooLong { path, max_bytes } => {
                write!(f, "{} is longer than {max_bytes} bytes: get the model again", path.display())
            }
            TextError::Missing { what } => {
                write!(f, "{what} is missing, so the model has no tokenizer: get it again or convert it anew")
            }
            TextError::Invalid { what, expected } => {
                write!(f, "{what} must be {expected}: get the model again or convert it anew")
            }
            TextError::Gguf { what, .. } => write!(f, "{what} is damaged: get the model again"),
            TextError::Json { path, .. } => write!(f, "{} is no JSON: get the model again", path.display()),
            TextError::Tokenizer(_) => f.write_str("the model's tokenizer cannot be used"),
            TextError::Chat(_) => f.write_str("the model's chat template cannot be used"),
        }
    }
}

impl error::Error for TextError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            TextError::Io { source, .. } => Some(source),
            TextError::Gguf { source, .. } => Some(source),
            TextError::Json { source, .. } => Some(source),
            TextError::Tokenizer(source) => Some(source),
            TextError::Chat(source) => Some(source),
            TextError::TooLong { .. } | TextError::Missing { .. } | TextError::Invalid { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_configuration() {
        let config = serde_json::json!({ "one": 2, "many": [1, 2], "null": null, "bad": "x", "negative": -1, "huge": 1u64 << 32 });
        let ids = |name| ids(&config, name, Path::new("config.json"));
        assert_eq!(ids("one").unwrap(), [2]);
        assert_eq!(ids("many").unwrap(), [1, 2]);
        assert!(ids("null").unwrap().is_empty());
        assert!(ids("absent").unwrap().is_empty());
        for bad in ["bad", "negative", "huge"] {
            assert!(matches!(ids(bad), Err(TextError::Invalid { .. })), "{bad}");
        }
    }

    #[test]
    fn files_beyond_the_limit_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(read(&path, 3).unwrap().is_none());
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(read(&path, 3).unwrap().unwrap(), b"abc");
        assert!(matches!(read(&path, 2), Err(TextError::TooLong { .. })));
    }

    #[test]
    fn chat_templates_of_folders() {
        let dir = tempfile::tempdir().unwrap();
        let source = || folder_chat_template(dir.path());
        assert_eq!(source().unwrap(), None);
        for (config, template) in [
            (r#"{}"#, None),
            (r#"{"chat_template": null}"#, None),
            (r#"{"chat_template": "a"}"#, Some("a")),
            (
                r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}"#,
                Some("d"),
            ),
            (r#"{"chat_template": [{"name": "rag", "template": "r"}]}"#, None),
        ] {
            std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
            assert_eq!(source().unwrap().as_deref(), template, "{config}");
        }
        std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"chat_template": 1}"#).unwrap();
        assert!(matches!(source(), Err(TextError::Invalid { .. })));
        std::fs::write(dir.path().join("chat_template.jinja"), "j").unwrap();
        assert_eq!(source().unwrap().as_deref(), Some("j"));
    }

    #[test]
    fn a_folder_without_a_vocabulary_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = folder_tokenizer(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json is missing"), "{error}");
    }
}
