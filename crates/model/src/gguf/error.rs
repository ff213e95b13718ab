//! What can be wrong with a GGUF file: one kind for each attack.

use std::path::{Path, PathBuf};
use std::{fmt, io};

/// Why a GGUF file was refused. Offsets count bytes from the start of the file, unless said otherwise.
#[derive(Debug)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant's sentence is its Display, below.
pub enum GgufError {
    Io { path: PathBuf, source: io::Error },
    WrongMagic { found: [u8; 4] },
    BigEndian,
    UnsupportedVersion { version: u32 },
    Truncated { offset: usize, what: &'static str },
    TooManyKeys { found: u64, max: usize },
    TooManyTensors { found: u64, max: usize },
    StringTooLong { offset: usize, len: u64, what: &'static str },
    ArrayTooLong { offset: usize, len: u64 },
    NestedTooDeep { offset: usize },
    NameTooLong { offset: usize, len: usize, max: usize, what: &'static str },
    EmptyName { offset: usize, what: &'static str },
    InvalidUtf8 { offset: usize, what: &'static str },
    InvalidBool { offset: usize, found: u8 },
    UnknownValueType { offset: usize, id: u32 },
    DuplicateKey { key: String },
    DuplicateTensor { name: String },
    BadAlignment { found: String },
    BadDimCount { name: String, n_dims: u32 },
    ZeroDim { name: String },
    TensorOverflow { name: String },
    PartialBlock { name: String, n_cols: usize, dtype: edgeward_kernels::DType },
    UnsupportedTensorType { name: String, type_name: &'static str },
    UnknownTensorType { name: String, id: u32 },
    MisalignedTensor { name: String, offset: u64, alignment: usize },
    TensorPastEnd { name: String, end: u128, file_bytes: usize },
    OverlappingTensors { first: String, second: String },
    ReservedKey { key: String },
    WrongTensorBytes { name: String, expected: usize, written: usize },
}

impl GgufError {
    /// The same, naming the file where it names none.
    pub(super) fn at(self, file: &Path) -> GgufError {
        match self {
            GgufError::Io { path, source } if path.as_os_str().is_empty() => {
                GgufError::Io { path: file.to_owned(), source }
            }
            other => other,
        }
    }
}

impl fmt::Display for GgufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use GgufError as E;
        match self {
            E::Io { path, .. } => write!(f, "cannot read or write {}", path.display()),
            E::WrongMagic { found } => {
                write!(
                    f,
                    "the file starts with \"{}\" and not with \"GGUF\": give a GGUF file",
                    found.escape_ascii()
                )
            }
            E::BigEndian => f.write_str("the file is big-endian: convert it for little-endian machines"),
            E::UnsupportedVersion { version } => {
                write!(
                    f,
                    "GGUF version {version} is not supported: convert the file to version 3 (2 is read too)"
                )
            }
            E::Truncated { offset, what } => {
                write!(f, "the file ends within {what} at byte {offset}: download it again")
            }
            E::TooManyKeys { found, max } => {
                write!(
                    f,
                    "the file claims {found} metadata keys but at most {max} are possible: it is damaged"
                )
            }
            E::TooManyTensors { found, max } => {
                write!(f, "the file claims {found} tensors but at most {max} are possible: it is damaged")
            }
            E::StringTooLong { offset, len, what } => {
                write!(f, "{what} at byte {offset} claims {len} bytes, more than the file has: it is damaged")
            }
            E::ArrayTooLong { offset, len } => {
                write!(
                    f,
                    "the array at byte {offset} claims {len} elements, more than the file has: it is damaged"
                )
            }
            E::NestedTooDeep { offset } => {
                let max = super::value::MAX_ARRAY_DEPTH;
                write!(f, "arrays are nested more than {max} deep at byte {offset}: remove that metadata")
            }
            E::NameTooLong { offset, len, max, what } => {
                write!(f, "{what} at byte {offset} is {len} bytes long: shorten it to {max}")
            }
            E::EmptyName { offset, what } => write!(f, "{what} at byte {offset} is empty: give it a name"),
            E::InvalidUtf8 { offset, what } => {
                write!(f, "{what} at byte {offset} is not UTF-8: the file is damaged")
            }
            E::InvalidBool { offset, found } => {
                write!(f, "the truth value at byte {offset} is {found}, not 0 or 1: the file is damaged")
            }
            E::UnknownValueType { offset, id } => {
                write!(
                    f,
                    "the value type at byte {offset} is {id} and only 0 to 12 exist: the file is damaged"
                )
            }
            E::DuplicateKey { key } => write!(f, "the metadata key {key:?} occurs twice: remove one"),
            E::DuplicateTensor { name } => write!(f, "the tensor name {name:?} occurs twice: rename one"),
            E::BadAlignment { found } => {
                write!(
                    f,
                    "general.alignment is {found}: make it a u32 that is a power of two from 8 to 65536"
                )
            }
            E::BadDimCount { name, n_dims } => {
                write!(
                    f,
                    "tensor {name:?} claims {n_dims} dimensions and 1 to 4 are possible: the file is damaged"
                )
            }
            E::ZeroDim { name } => write!(f, "tensor {name:?} has a dimension of zero: leave it out"),
            E::TensorOverflow { name } => {
                write!(f, "tensor {name:?} has more elements than can be counted: the file is damaged")
            }
            E::PartialBlock { name, n_cols, dtype } => write!(
                f,
                "tensor {name:?} has rows of {n_cols}, no whole number of {dtype} blocks of {}: \
                 store it as another type",
                dtype.block_len()
            ),
            E::UnsupportedTensorType { name, type_name } => write!(
                f,
                "tensor {name:?} is of type {type_name}, which is not supported: \
                 get the model in another quantisation, such as Q4_K_M or Q8_0"
            ),
            E::UnknownTensorType { name, id } => write!(
                f,
                "tensor {name:?} is of type number {id}, which is unknown: \
                 get the model in another quantisation, such as Q4_K_M or Q8_0"
            ),
            E::MisalignedTensor { name, offset, alignment } => write!(
                f,
                "tensor {name:?} starts at {offset} of the data, no multiple of {alignment}: the file is damaged"
            ),
            E::TensorPastEnd { name, end, file_bytes } => write!(
                f,
                "tensor {name:?} ends at byte {end} but the file has only {file_bytes} bytes: download it again"
            ),
            E::OverlappingTensors { first, second } => {
                write!(f, "tensors {first:?} and {second:?} share bytes: the file is damaged")
            }
            E::ReservedKey { key } => write!(f, "the writer sets {key} itself: leave it out"),
            E::WrongTensorBytes { name, expected, written } => {
                write!(
                    f,
                    "tensor {name:?} takes {expected} bytes but {written} were written: write all of it once"
                )
            }
        }
    }
}

impl std::error::Error for GgufError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            GgufError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
