//! What can go wrong in the engine.

use std::fmt;

use edgeward_model::tensor::Slot;

/// Why the engine could not do what was asked. Nothing has changed in the sequences concerned.
#[derive(Debug)]
pub enum Error {
    /// The model lacks a tensor.
    MissingTensor(Slot),
    /// A tensor cannot be used.
    BadTensor {
        /// Its name in the file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A token id beyond the vocabulary.
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// Ids are below this.
        vocab_size: usize,
    },
    /// More positions than the context has.
    ContextFull {
        /// Positions that would be needed.
        needed: usize,
        /// Positions that there are.
        context_len: usize,
    },
    /// A text longer than an encoder can take.
    TextTooLong {
        /// Its tokens, those around it included.
        n_tokens: usize,
        /// As many as the model was made for.
        max_tokens: usize,
    },
    /// Nothing to compute.
    NoTokens,
    /// An option is out of its range.
    BadOption(String),
    /// The caller cancelled.
    Cancelled,
    /// The model gave numbers that are none.
    NotFinite,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::MissingTensor(slot) => {
                write!(f, "the model file has no tensor for {slot:?}: download it again, or convert it anew")
            }
            Error::BadTensor { name, reason } => write!(f, "tensor {name} cannot be used: {reason}"),
            Error::TokenOutOfRange { token, vocab_size } => {
                write!(f, "token id {token} is beyond the model's vocabulary of {vocab_size}")
            }
            Error::ContextFull { needed, context_len } => write!(
                f,
                "{needed} tokens are needed where the context holds {context_len}: shorten the prompt or raise the \
                 context length"
            ),
            Error::TextTooLong { n_tokens, max_tokens } => {
                write!(
                    f,
                    "the text has {n_tokens} tokens where the model takes {max_tokens}: shorten it, or cut it up"
                )
            }
            Error::NoTokens => {
                f.write_str("there is no token to compute: give a prompt of at least one token")
            }
            Error::BadOption(what) => f.write_str(what),
            Error::Cancelled => f.write_str("cancelled"),
            Error::NotFinite => {
                f.write_str("the model computed a value that is not a number: its weights are damaged")
            }
        }
    }
}

impl std::error::Error for Error {}
