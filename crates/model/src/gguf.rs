//! GGUF model files, versions 2 and 3, little-endian: read through a memory map, written as a stream.
//!
//! A file is a header (magic, version, counts), metadata (typed keys and values), tensor descriptions, and from the
//! next multiple of the alignment on the tensors' bytes (`docs/gguf.md` of the ggml project). [`Gguf::open`] walks all
//! but the last once, without copying: a vocabulary of 262,144 strings stays where it is until it is read.
//!
//! ```no_run
//! # fn main() -> Result<(), edgeward_model::gguf::GgufError> {
//! let file = edgeward_model::gguf::Gguf::open("model.gguf".as_ref())?;
//! let tokens = file.get("tokenizer.ggml.tokens").and_then(|v| v.as_array());
//! for token in tokens.iter().flat_map(|array| array.strings()).flatten() {
//!     println!("{}", token?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Invariants of an open file, whatever its bytes were:
//! - every key and tensor name is unique UTF-8, every value well-formed (but see [`Array`] on strings in arrays);
//! - every tensor has 1 to 4 dimensions, none zero, rows of whole blocks, a type the kernels know;
//! - every tensor's bytes are aligned, inside the file and its own;
//! - what was allocated is at most a few times the size of what describes it in the file.
//!
//! Bytes that belong to no tensor (padding, a signature after the end) are left alone.

mod config;
mod error;
mod read;
#[cfg(test)]
mod tests;
mod value;
mod write;

pub(crate) use config::{check_vocabulary, config_of, family_of, is_in_config};
pub use error::GgufError;
pub use read::{Gguf, GgufTensor};
pub use value::{Array, ArrayBuf, MAX_ARRAY_DEPTH, Value, ValueType};
pub use write::GgufWriter;

use edgeward_kernels::DType;

const MAGIC: [u8; 4] = *b"GGUF";

/// The version written.
const VERSION: u32 = 3;

/// Of the data and every tensor in it, bytes, unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: usize = 32;

/// The key that changes the alignment.
const ALIGNMENT_KEY: &str = "general.alignment";

/// More metadata keys than this are refused; files in use have a hundred.
const MAX_KEYS: usize = 1 << 16;

/// More tensors than this are refused; the largest files in use have thousands.
const MAX_TENSORS: usize = 1 << 16;

/// The format's own limit on a key, bytes.
const MAX_KEY_BYTES: usize = (1 << 16) - 1;

/// The format's own limit on a tensor's name, bytes.
const MAX_TENSOR_NAME_BYTES: usize = 64;

/// The format's own limit.
const MAX_DIMS: usize = 4;

/// The number by which the format calls an element type (`enum ggml_type` in `ggml.h`).
const fn type_id(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q4_1 => 3,
        DType::Q5_0 => 6,
        DType::Q5_1 => 7,
        DType::Q8_0 => 8,
        DType::Q2_K => 10,
        DType::Q3_K => 11,
        DType::Q4_K => 12,
        DType::Q5_K => 13,
        DType::Q6_K => 14,
        DType::IQ4_NL => 20,
        DType::IQ4_XS => 23,
        DType::BF16 => 30,
        DType::EW2 => OWN_TYPES + 2,
        DType::EW3 => OWN_TYPES + 3,
        DType::EW4 => OWN_TYPES + 4,
        DType::EW5 => OWN_TYPES + 5,
        DType::EW6 => OWN_TYPES + 6,
    }
}

/// Where the numbers of Edgeward's own types begin ("EW" in ASCII, shifted up): far from any that ggml gives, so that
/// other programs say that they do not know the type instead of misreading it.
const OWN_TYPES: u32 = 0x4557_0000;

/// The element types that ggml knows, or once knew, and we do not.
const UNSUPPORTED_TYPES: [(u32, &str); 27] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];
