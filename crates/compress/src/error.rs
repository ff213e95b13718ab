//! What can go wrong when a model is measured or compressed.

use std::error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use edgeward_model::gguf::GgufError;
use edgeward_model::tokenizer::TokenizerError;
use edgeward_model::{LoadError, TextError};

/// Why a model could not be measured or compressed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The engine could not compute.
    Engine(edgeward_engine::Error),
    /// A model could not be opened.
    Load(LoadError),
    /// A model file could not be read or written.
    Gguf(GgufError),
    /// A text could not be cut into tokens.
    Tokenizer(TokenizerError),
    /// The model has no usable tokenizer.
    Text(TextError),
    /// A file could not be read or written.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A text is too short to measure anything on.
    TextTooShort {
        /// Tokens that it has.
        n_tokens: usize,
        /// Tokens that are needed.
        needed: usize,
    },
    /// Teacher and student do not give probabilities of the same tokens.
    VocabularyMismatch {
        /// Of the student.
        student: usize,
        /// Of the teacher.
        teacher: usize,
    },
    /// A line of a task's file cannot be used.
    BadExample {
        /// The file.
        path: PathBuf,
        /// The line, counted from one; 0 for the file as a whole.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The model comes in a format that cannot be compressed.
    NotGguf {
        /// Where it is.
        path: PathBuf,
    },
    /// The calibration text is of no use.
    BadCalibration {
        /// Why.
        reason: &'static str,
    },
    /// The corpus that a vocabulary shall be taken from is of no use.
    BadCorpus {
        /// Why.
        reason: &'static str,
    },
    /// A model cannot be pruned as asked.
    CannotPrune {
        /// Why.
        reason: &'static str,
    },
    /// More tokens must stay than may.
    VocabularyTooSmall {
        /// How many may.
        wanted: usize,
        /// How many must.
        needed: usize,
    },
    /// The caller cancelled.
    Cancelled,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Engine(_) => f.write_str("the model could not be computed"),
            Error::Load(_) => f.write_str("the model could not be opened"),
            Error::Gguf(_) => f.write_str("a model file could not be read or written"),
            Error::Tokenizer(_) => f.write_str("the text could not be cut into tokens"),
            Error::Text(_) => f.write_str("the model's tokenizer cannot be used"),
            Error::Io { path, .. } => write!(f, "could not use {}", path.display()),
            Error::TextTooShort { n_tokens, needed } => {
                write!(
                    f,
                    "the text has {n_tokens} tokens where {needed} are needed: give a longer one, or take a smaller --window"
                )
            }
            Error::VocabularyMismatch { student, teacher } => write!(
                f,
                "the model has {student} tokens and the teacher {teacher}: compare a model with the one it was made of"
            ),
            Error::BadExample { path, line: 0, reason } => write!(f, "{}: {reason}", path.display()),
            Error::BadExample { path, line, reason } => {
                write!(f, "{}, line {line}: {reason}", path.display())
            }
            Error::NotGguf { path } => {
                write!(f, "{} is not a GGUF file: convert the model to one first", path.display())
            }
            Error::BadCalibration { reason } => {
                write!(f, "the calibration text cannot be used: {reason}; give some pages of ordinary text")
            }
            Error::BadCorpus { reason } => {
                write!(
                    f,
                    "no vocabulary can be taken from the corpus: {reason}; give some pages of ordinary text"
                )
            }
            Error::CannotPrune { reason } => {
                write!(f, "the model cannot be pruned so: {reason}; ask for less")
            }
            Error::VocabularyTooSmall { wanted, needed } => write!(
                f,
                "a vocabulary of {wanted} tokens is too small: bytes and control tokens alone are {needed}; ask for more"
            ),
            Error::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Error::Engine(source) => Some(source),
            Error::Load(source) => Some(source),
            Error::Gguf(source) => Some(source),
            Error::Tokenizer(source) => Some(source),
            Error::Text(source) => Some(source),
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<edgeward_engine::Error> for Error {
    fn from(error: edgeward_engine::Error) -> Error {
        match error {
            edgeward_engine::Error::Cancelled => Error::Cancelled,
            error => Error::Engine(error),
        }
    }
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Error {
        Error::Load(error)
    }
}

impl From<GgufError> for Error {
    fn from(error: GgufError) -> Error {
        Error::Gguf(error)
    }
}

impl From<TokenizerError> for Error {
    fn from(error: TokenizerError) -> Error {
        Error::Tokenizer(error)
    }
}

impl From<TextError> for Error {
    fn from(error: TextError) -> Error {
        Error::Text(error)
    }
}
