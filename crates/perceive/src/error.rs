//! What can be wrong with a network's file, or with what it is given.

use std::fmt;

/// Why a network could not be read, planned or given its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file is damaged, or not what it says it is.
    Malformed {
        /// Part of the file: "tensor 3", "operator 2 (CONV_2D)".
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// The network needs something that is not there: an operator, a type, an option.
    Unsupported {
        /// The operator or part of the file.
        place: String,
        /// What it asks for.
        what: String,
    },
    /// The network would need more memory than is allowed.
    TooLarge {
        /// Bytes of weights and activations.
        needed_bytes: u64,
        /// Bytes that are allowed.
        limit_bytes: u64,
    },
    /// An input or output does not exist, or has another length or type.
    Mismatch {
        /// What was expected, and what was given.
        what: String,
    },
}

impl Error {
    pub(crate) fn malformed(place: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Malformed { place: place.into(), what: what.into() }
    }

    pub(crate) fn unsupported(place: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Unsupported { place: place.into(), what: what.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Malformed { place, what } => {
                write!(f, "the network's file is damaged, get it anew: {place}: {what}")
            }
            Error::Unsupported { place, what } => {
                write!(f, "the network cannot run here, export it without this: {place}: {what}")
            }
            Error::TooLarge { needed_bytes, limit_bytes } => write!(
                f,
                "the network needs {needed_bytes} bytes and {limit_bytes} are allowed: raise the limit, or make it \
                 smaller"
            ),
            Error::Mismatch { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}
