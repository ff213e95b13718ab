//! safetensors files: plain float weights, in one file or in several with an index; read through memory maps.
//!
//! A file is the length of its header (u64, little-endian), the header (a JSON object: tensor name -> element type,
//! shape, range of bytes) and the tensors' bytes (`docs/source/index.mdx` of the safetensors project). Several files
//! are listed in `model.safetensors.index.json` (tensor name -> file name).
//!
//! Invariants of an open file, whatever its bytes were:
//! - every tensor name is unique, every tensor is F32, F16 or BF16, of at most 8 dimensions, none zero. Files of BERT also
//!   hold the numbers 0, 1, 2 ... as `position_ids`, I64: these are checked in the same way, and not shown;
//! - the tensors' ranges have the size that type and shape imply, and together cover the data exactly: no byte belongs
//!   to two, and none to nobody (so nothing can hide in a file);
//! - a file that an index names lies in the index's own folder.
//!
//! The format promises no alignment: a tensor's bytes may start anywhere.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::{fmt, io};

use edgeward_kernels::DType;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::error::LoadError;
use crate::mmap::Map;
use crate::tensor::Tensor;

/// The format's own limit on the header, bytes.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// The header's length takes this many bytes.
const LENGTH_BYTES: usize = 8;

/// More tensors than this are refused; the largest models in use have thousands.
const MAX_TENSORS: usize = 1 << 16;

/// More files than this are refused; the largest models in use have hundreds.
const MAX_SHARDS: usize = 1 << 12;

/// More dimensions than this are refused; convolutions in use have five.
const MAX_DIMS: usize = 8;

/// Why a safetensors file, or an index of them, was refused.
#[derive(Debug)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant's sentence is its Display, below.
pub enum SafetensorsError {
    Io(io::Error),
    Truncated { file_bytes: usize },
    HeaderTooLong { len: u64 },
    HeaderPastEnd { len: u64, file_bytes: usize },
    HeaderNotJson(serde_json::Error),
    TooManyTensors { found: usize },
    DuplicateTensor { name: String },
    TooManyDims { name: String, n_dims: usize },
    ZeroDim { name: String },
    TensorOverflow { name: String },
    UnsupportedDType { name: String, dtype: String },
    ReversedOffsets { name: String, start: u64, end: u64 },
    TensorPastEnd { name: String, end: u64, data_bytes: usize },
    WrongSize { name: String, expected: usize, found: u64 },
    OverlappingTensors { first: String, second: String },
    Hole { start: usize, end: usize },
    IndexNotJson(serde_json::Error),
    TooManyShards { found: usize },
    BadShardName { name: String },
    DuplicateInIndex { name: String },
    NotInShard { name: String, shard: String },
    NotInIndex { name: String, shard: String },
}

impl fmt::Display for SafetensorsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use SafetensorsError as E;
        match self {
            E::Io(_) => f.write_str("the file cannot be read"),
            E::Truncated { file_bytes } => {
                write!(f, "the file has only {file_bytes} bytes: download it again")
            }
            E::HeaderTooLong { len } => {
                write!(
                    f,
                    "the header claims {len} bytes and {MAX_HEADER_BYTES} are allowed: give a safetensors file"
                )
            }
            E::HeaderPastEnd { len, file_bytes } => write!(
                f,
                "the header claims {len} bytes but the file has only {file_bytes}: download it again"
            ),
            E::HeaderNotJson(_) => {
                f.write_str("the header is not as the format wants it: download the file again")
            }
            E::TooManyTensors { found } => {
                write!(f, "there are {found} tensors and {MAX_TENSORS} are allowed: the file is damaged")
            }
            E::DuplicateTensor { name } => write!(f, "the tensor name {name:?} occurs twice: rename one"),
            E::TooManyDims { name, n_dims } => {
                write!(
                    f,
                    "tensor {name:?} has {n_dims} dimensions and {MAX_DIMS} are allowed: the file is damaged"
                )
            }
            E::ZeroDim { name } => write!(f, "tensor {name:?} has a dimension of zero: leave it out"),
            E::TensorOverflow { name } => {
                write!(f, "tensor {name:?} has more elements than can be counted: the file is damaged")
            }
            E::UnsupportedDType { name, dtype } => write!(
                f,
                "tensor {name:?} is of type {dtype:?}, which is not supported: get the model in BF16, F16 or F32"
            ),
            E::ReversedOffsets { name, start, end } => {
                write!(f, "tensor {name:?} starts at {start} and ends at {end}: the file is damaged")
            }
            E::TensorPastEnd { name, end, data_bytes } => write!(
                f,
                "tensor {name:?} ends at {end} of the data, of which there are {data_bytes} bytes: download it again"
            ),
            E::WrongSize { name, expected, found } => {
                write!(f, "tensor {name:?} takes {expected} bytes and is given {found}: the file is damaged")
            }
            E::OverlappingTensors { first, second } => {
                write!(f, "tensors {first:?} and {second:?} share bytes: the file is damaged")
            }
            E::Hole { start, end } => {
                write!(f, "bytes {start} to {end} of the data belong to no tensor: the file is damaged")
            }
            E::IndexNotJson(_) => f.write_str("the index is not as the format wants it: download it again"),
            E::TooManyShards { found } => {
                write!(f, "the index names {found} files and {MAX_SHARDS} are allowed: it is damaged")
            }
            E::BadShardName { name } => write!(
                f,
                "the index names the file {name:?}, which is not the plain name of a .safetensors file beside it: \
                 do not use this model"
            ),
            E::DuplicateInIndex { name } => {
                write!(f, "the index lists tensor {name:?} twice: download it again")
            }
            E::NotInShard { name, shard } => {
                write!(
                    f,
                    "the index says that tensor {name:?} is in {shard}, where it is not: download both again"
                )
            }
            E::NotInIndex { name, shard } => {
                write!(f, "tensor {name:?} of {shard} is not in the index: download both again")
            }
        }
    }
}

impl std::error::Error for SafetensorsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SafetensorsError::Io(source) => Some(source),
            SafetensorsError::HeaderNotJson(source) | SafetensorsError::IndexNotJson(source) => Some(source),
            _ => None,
        }
    }
}

/// An open safetensors file.
#[derive(Debug)]
pub struct Safetensors {
    map: Map,
    metadata: Vec<(String, String)>,
    /// Ascending by name.
    tensors: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    shape: Vec<usize>,
    /// None of positions, which nobody reads.
    dtype: Option<DType>,
    /// In the file.
    data: Range<usize>,
}

/// A tensor of an open file: a view.
#[derive(Clone, Copy, Debug)]
pub struct SafeTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// At most 8 sizes, **the slowest-varying first** (a matrix is `[n_rows, n_cols]`); none for a single number.
    pub shape: &'a [usize],
    /// Element type.
    pub dtype: DType,
    /// Its bytes, at any alignment.
    pub data: &'a [u8],
}

impl<'a> SafeTensor<'a> {
    /// The same as a matrix: all dimensions but the fastest count as rows.
    pub fn as_matrix(&self) -> Tensor<'a> {
        let (n_cols, rows) = self.shape.split_last().unwrap_or((&1, &[]));
        Tensor {
            name: self.name,
            dtype: self.dtype,
            n_rows: rows.iter().product(),
            n_cols: *n_cols,
            data: self.data,
        }
    }
}

impl Safetensors {
    /// Maps and checks the file at `path`. It must not change while it is open (see [`crate::mmap`]).
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn open(path: &Path) -> Result<Safetensors, SafetensorsError> {
        Safetensors::from_map(Map::open(path).map_err(SafetensorsError::Io)?)
    }

    /// Checks a file that is in memory already.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Safetensors, SafetensorsError> {
        Safetensors::from_map(Map::from_vec(bytes))
    }

    fn from_map(map: Map) -> Result<Safetensors, SafetensorsError> {
        let (length, rest) =
            map.split_first_chunk().ok_or(SafetensorsError::Truncated { file_bytes: map.len() })?;
        let len = u64::from_le_bytes(*length);
        let header_len = usize::try_from(len)
            .ok()
            .filter(|&n| n <= MAX_HEADER_BYTES)
            .ok_or(SafetensorsError::HeaderTooLong { len })?;
        let (header, data) = rest
            .split_at_checked(header_len)
            .ok_or(SafetensorsError::HeaderPastEnd { len, file_bytes: map.len() })?;
        let header: Header = serde_json::from_slice(header).map_err(SafetensorsError::HeaderNotJson)?;
        if header.tensors.len() > MAX_TENSORS {
            return Err(SafetensorsError::TooManyTensors { found: header.tensors.len() });
        }

        let data_start = LENGTH_BYTES + header_len;
        let mut tensors = Vec::new();
        for (name, described) in header.tensors {
            tensors.push(described.check(name, data.len(), data_start)?);
        }
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(SafetensorsError::DuplicateTensor { name: pair[0].name.clone() });
        }
        check_covered(&tensors, data_start..map.len())?;
        tensors.retain(|tensor| tensor.dtype.is_some());
        Ok(Safetensors { metadata: header.metadata, tensors, map })
    }

    /// The whole file.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// The header's free notes, in its order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Every tensor, ascending by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = SafeTensor<'_>> {
        self.tensors.iter().map(|tensor| self.view(tensor))
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<SafeTensor<'_>> {
        self.position(name).map(|idx| self.view(&self.tensors[idx]))
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()
    }

    fn view<'a>(&'a self, tensor: &'a Entry) -> SafeTensor<'a> {
        SafeTensor {
            name: &tensor.name,
            shape: &tensor.shape,
            dtype: tensor.dtype.expect("the others have been left out"),
            data: &self.map[tensor.data.clone()],
        }
    }
}

/// The tensors of one model, from one file or several.
#[derive(Debug)]
pub struct Shards {
    files: Vec<Safetensors>,
    /// File and position in it of every tensor, file by file.
    tensors: Vec<(usize, usize)>,
}

impl Shards {
    /// Opens the weights in the folder at `path`: `model.safetensors`, or the files that its index names.
    ///
    /// # Errors
    /// [`LoadError::NoWeights`] when neither is there; else those of [`open_file`](Shards::open_file) and
    /// [`open_index`](Shards::open_index).
    pub fn open_folder(path: &Path) -> Result<Shards, LoadError> {
        let (one, index) = (path.join("model.safetensors"), path.join("model.safetensors.index.json"));
        if one.exists() {
            Shards::open_file(&one)
        } else if index.exists() {
            Shards::open_index(&index)
        } else {
            Err(LoadError::NoWeights { path: path.to_owned() })
        }
    }

    /// Opens the one file at `path`.
    ///
    /// # Errors
    /// [`LoadError::Safetensors`], whatever is wrong with the file.
    pub fn open_file(path: &Path) -> Result<Shards, LoadError> {
        let file = Safetensors::open(path)
            .map_err(|source| LoadError::Safetensors { path: path.to_owned(), source })?;
        Ok(Shards::new(vec![file]))
    }

    /// Opens all files that the index at `path` names, each beside it.
    ///
    /// # Errors
    /// [`LoadError::Safetensors`] when the index is wrong, a file is, or they do not agree on the tensors there are;
    /// [`LoadError::Io`] when the index cannot be read.
    pub fn open_index(path: &Path) -> Result<Shards, LoadError> {
        let in_index = |source| LoadError::Safetensors { path: path.to_owned(), source };
        let text = read_limited(path, MAX_HEADER_BYTES)?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|source| in_index(SafetensorsError::IndexNotJson(source)))?;
        let shard_of = index.check().map_err(in_index)?;

        let mut names: Vec<&str> = shard_of.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() > MAX_SHARDS {
            return Err(in_index(SafetensorsError::TooManyShards { found: names.len() }));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut files = Vec::new();
        for &shard in &names {
            if !is_plain_name(shard) {
                return Err(in_index(SafetensorsError::BadShardName {
                    name: shard.chars().take(64).collect(),
                }));
            }
            let path = folder.join(shard);
            let file = Safetensors::open(&path).map_err(|source| LoadError::Safetensors { path, source })?;
            // With every tensor of every file in its place in the index, no name can be in two files.
            if let Some(stray) =
                file.tensors.iter().find(|t| shard_of.get(&t.name).is_none_or(|s| s != shard))
            {
                let (name, shard) = (stray.name.clone(), shard.to_owned());
                return Err(in_index(SafetensorsError::NotInIndex { name, shard }));
            }
            files.push(file);
        }
        for (name, shard) in &shard_of {
            let file = names.binary_search(&shard.as_str()).map(|idx| &files[idx]);
            if file.is_ok_and(|file| file.position(name).is_none()) {
                let (name, shard) = (name.clone(), shard.clone());
                return Err(in_index(SafetensorsError::NotInShard { name, shard }));
            }
        }
        Ok(Shards::new(files))
    }

    fn new(files: Vec<Safetensors>) -> Shards {
        let tensors =
            files.iter().enumerate().flat_map(|(i, file)| (0..file.tensors.len()).map(move |j| (i, j)));
        Shards { tensors: tensors.collect(), files }
    }

    /// The files, ascending by name.
    pub fn files(&self) -> &[Safetensors] {
        &self.files
    }

    /// Every tensor, file by file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = SafeTensor<'_>> {
        (0..self.tensors.len()).map(|idx| self.tensor_at(idx))
    }

    /// The `idx`-th tensor in the order of [`Shards::tensors`].
    ///
    /// # Panics
    /// When there are not that many.
    pub fn tensor_at(&self, idx: usize) -> SafeTensor<'_> {
        let (file_idx, tensor_idx) = self.tensors[idx];
        let file = &self.files[file_idx];
        file.view(&file.tensors[tensor_idx])
    }
}

/// The bytes of a small file.
///
/// # Errors
/// [`LoadError::Io`], of kind `FileTooLarge` when there are more than `max_bytes`.
pub(crate) fn read_limited(path: &Path, max_bytes: usize) -> Result<Vec<u8>, LoadError> {
    let at = |source| LoadError::Io { path: path.to_owned(), source };
    // A map, because opening it refuses what is not a regular file and its length cannot lie.
    let map = Map::open(path).map_err(at)?;
    if map.len() > max_bytes {
        let message = format!("it has {} bytes and {max_bytes} are allowed", map.len());
        return Err(at(io::Error::new(io::ErrorKind::FileTooLarge, message)));
    }
    Ok(map.to_vec())
}

/// Whether `name` is the name of a .safetensors file and no path that leads anywhere else.
fn is_plain_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.ends_with(".safetensors") && !name.starts_with('.') && name.chars().all(is_plain)
}

/// A tensor as the header describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Described {
    fn check(self, name: String, data_bytes: usize, data_start: usize) -> Result<Entry, SafetensorsError> {
        let (dtype, element_bytes) = match self.dtype.as_str() {
            "F32" => (Some(DType::F32), 4),
            "F16" => (Some(DType::F16), 2),
            "BF16" => (Some(DType::BF16), 2),
            "I64" if name.ends_with("embeddings.position_ids") => (None, 8),
            other => {
                let dtype = other.chars().take(64).collect();
                return Err(SafetensorsError::UnsupportedDType { name, dtype });
            }
        };
        if self.shape.len() > MAX_DIMS {
            return Err(SafetensorsError::TooManyDims { name, n_dims: self.shape.len() });
        }
        if self.shape.contains(&0) {
            return Err(SafetensorsError::ZeroDim { name });
        }
        let shape: Option<Vec<usize>> = self.shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let counted = shape.and_then(|shape| {
            let n_elements = shape.iter().try_fold(1, |n: usize, &dim| n.checked_mul(dim))?;
            Some((n_elements.checked_mul(element_bytes)?, shape))
        });
        let Some((expected, shape)) = counted else {
            return Err(SafetensorsError::TensorOverflow { name });
        };
        let [start, end] = self.data_offsets;
        let found = match end.checked_sub(start) {
            Some(found) => found,
            None => return Err(SafetensorsError::ReversedOffsets { name, start, end }),
        };
        if end > data_bytes as u64 {
            return Err(SafetensorsError::TensorPastEnd { name, end, data_bytes });
        }
        if found != expected as u64 {
            return Err(SafetensorsError::WrongSize { name, expected, found });
        }
        // At most the file's length, a usize.
        let start = data_start + start as usize;
        Ok(Entry { name, shape, dtype, data: start..start + expected })
    }
}

/// Checks that the tensors share nothing and leave nothing of `data` out.
fn check_covered(tensors: &[Entry], data: Range<usize>) -> Result<(), SafetensorsError> {
    let mut order: Vec<&Entry> = tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| tensor.data.start);
    if let Some(pair) = order.windows(2).find(|pair| pair[0].data.end > pair[1].data.start) {
        return Err(SafetensorsError::OverlappingTensors {
            first: pair[0].name.clone(),
            second: pair[1].name.clone(),
        });
    }
    let starts = order.iter().map(|tensor| tensor.data.start).chain([data.end]);
    let ends = [data.start].into_iter().chain(order.iter().map(|tensor| tensor.data.end));
    match ends.zip(starts).find(|(end, start)| end != start) {
        Some((end, start)) => {
            Err(SafetensorsError::Hole { start: end - data.start, end: start - data.start })
        }
        None => Ok(()),
    }
}

/// The header: tensors in its order, a name that occurs twice still twice.
struct Header {
    metadata: Vec<(String, String)>,
    tensors: Vec<(String, Described)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { metadata: Vec::new(), tensors: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.metadata.extend(map.next_value::<Pairs>()?.0);
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// An object of strings, a key that occurs twice still twice.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}

/// The index: which file has which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: Pairs,
}

impl Index {
    /// File by tensor.
    fn check(self) -> Result<BTreeMap<String, String>, SafetensorsError> {
        let mut shard_of = BTreeMap::new();
        for (name, shard) in self.weight_map.0 {
            if shard_of.insert(name.clone(), shard).is_some() {
                return Err(SafetensorsError::DuplicateInIndex { name });
            }
        }
        Ok(shard_of)
    }
}

#[cfg(test)]
mod tests;
