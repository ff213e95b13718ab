//! Why a model could not be loaded.

use std::path::PathBuf;
use std::{fmt, io};

use crate::gguf::GgufError;

/// What is wrong with a model's hyperparameters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The model is of a family that the engine does not know.
    UnknownArchitecture {
        /// What the file calls it.
        found: String,
    },
    /// A key is not there.
    Missing {
        /// As the file spells it.
        key: String,
    },
    /// A key's value is of the wrong type or out of range.
    Invalid {
        /// As the file spells it.
        key: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// The file asks for something that would change the result and that the engine does not do.
    Unsupported {
        /// What, by name.
        what: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::UnknownArchitecture { found } => write!(
                f,
                "the architecture {found:?} is not supported: get a model of one of the families \
                 llama (Llama 2 and 3, Mistral, SmolLM2, TinyLlama), qwen2, qwen3, gemma3"
            ),
            ConfigError::Missing { key } => {
                write!(f, "{key} is missing: get the model again or convert it anew")
            }
            ConfigError::Invalid { key, expected } => {
                write!(f, "{key} must be {expected}: get the model again or convert it anew")
            }
            ConfigError::Unsupported { what } => {
                write!(
                    f,
                    "{what} is not supported, and ignoring it would change the answers: get another model"
                )
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Why a model could not be loaded.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// A file could not be read.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The GGUF file is damaged or not supported.
    Gguf {
        /// Which.
        path: PathBuf,
        /// Why.
        source: GgufError,
    },
    /// The hyperparameters are wrong or not supported.
    Config {
        /// The file that states them.
        path: PathBuf,
        /// Why.
        source: ConfigError,
    },
    /// One of several GGUF files that only together are a model.
    SplitGguf {
        /// Which.
        path: PathBuf,
    },
    /// A tensor that the family needs is not there.
    MissingTensor {
        /// As the file would spell it.
        name: String,
    },
    /// A tensor that the family has no place for; ignoring it would change the answers.
    UnknownTensor {
        /// As the file spells it.
        name: String,
    },
    /// A tensor does not fit the hyperparameters.
    WrongShape {
        /// As the file spells it.
        name: String,
        /// Rows and columns by the hyperparameters.
        expected: (usize, usize),
        /// Rows and columns in the file.
        found: (usize, usize),
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Io { path, .. } => write!(f, "cannot read {}", path.display()),
            LoadError::Gguf { path, .. } | LoadError::Config { path, .. } => {
                write!(f, "cannot load the model {}", path.display())
            }
            LoadError::SplitGguf { path } => write!(
                f,
                "{} is one part of a split model: merge the parts into one file (llama-gguf-split --merge)",
                path.display()
            ),
            LoadError::MissingTensor { name } => {
                write!(f, "the tensor {name:?} is missing: get the model again or convert it anew")
            }
            LoadError::UnknownTensor { name } => write!(
                f,
                "the tensor {name:?} has no place in this family, and ignoring it would change the answers: \
                 get another model"
            ),
            LoadError::WrongShape { name, expected: (rows, cols), found } => write!(
                f,
                "the tensor {name:?} is {} x {} but {rows} x {cols} by the hyperparameters: \
                 get the model again or convert it anew",
                found.0, found.1
            ),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::Io { source, .. } => Some(source),
            LoadError::Gguf { source, .. } => Some(source),
            LoadError::Config { source, .. } => Some(source),
            _ => None,
        }
    }
}
