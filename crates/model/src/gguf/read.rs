//! The reader: one walk over the header, metadata and tensor descriptions, checking as it goes.

use std::ops::Range;
use std::path::Path;

use edgeward_kernels::DType;

use super::value::Cursor;
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgufError, MAGIC, MAX_DIMS, MAX_KEY_BYTES, MAX_KEYS,
    MAX_TENSOR_NAME_BYTES, MAX_TENSORS, UNSUPPORTED_TYPES, Value, ValueType, type_id,
};
use crate::mmap::Map;
use crate::tensor::Tensor;

/// Fewest bytes that describe a key: its length, one byte of it, the value's type, one byte of value.
const MIN_KEY_BYTES: usize = 8 + 1 + 4 + 1;

/// Fewest bytes that describe a tensor: length and one byte of its name, count of dimensions, one of them, type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 1 + 4 + 8 + 4 + 8;

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    map: Map,
    version: u32,
    alignment: usize,
    /// In the file's order.
    entries: Vec<Entry>,
    /// Indices into `entries`, ascending by key.
    entries_by_key: Vec<u32>,
    /// In the file's order.
    tensors: Vec<TensorEntry>,
    /// Indices into `tensors`, ascending by name.
    tensors_by_name: Vec<u32>,
}

/// Where a key and its value lie in the file.
#[derive(Debug)]
struct Entry {
    key: Range<usize>,
    value_type: ValueType,
    value: Range<usize>,
}

/// Where a tensor's name and bytes lie in the file.
#[derive(Debug)]
struct TensorEntry {
    name: Range<usize>,
    dims: [usize; MAX_DIMS],
    n_dims: usize,
    dtype: DType,
    data: Range<usize>,
}

/// A tensor of an open file: a view.
#[derive(Clone, Copy, Debug)]
pub struct GgufTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// 1 to 4 sizes, **the fastest-varying first** (a matrix is `[n_cols, n_rows]`), none zero.
    pub dims: &'a [usize],
    /// Element type.
    pub dtype: DType,
    /// Its bytes.
    pub data: &'a [u8],
    /// Where `data` starts in the file.
    pub offset: usize,
}

impl<'a> GgufTensor<'a> {
    /// The same as a matrix: all dimensions but the fastest count as rows.
    pub fn as_matrix(&self) -> Tensor<'a> {
        Tensor {
            name: self.name,
            dtype: self.dtype,
            n_rows: self.dims[1..].iter().product(),
            n_cols: self.dims[0],
            data: self.data,
        }
    }
}

impl Gguf {
    /// Maps and checks the file at `path`. It must not change while it is open (see [`crate::mmap`]).
    ///
    /// # Errors
    /// [`GgufError::Io`] when it cannot be mapped, else whatever is wrong with it.
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        let map = Map::open(path).map_err(|source| GgufError::Io { path: path.to_owned(), source })?;
        Gguf::from_map(map)
    }

    /// Checks a file that is in memory already.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
        Gguf::from_map(Map::from_vec(bytes))
    }

    fn from_map(map: Map) -> Result<Gguf, GgufError> {
        let mut cursor = Cursor::new(&map);
        let (version, n_tensors, n_keys) = read_header(&mut cursor)?;

        let max_keys = MAX_KEYS.min(cursor.remaining() / MIN_KEY_BYTES);
        let n_keys =
            bounded(n_keys, max_keys).ok_or(GgufError::TooManyKeys { found: n_keys, max: max_keys })?;
        // Grown as entries are found, not by the count that the file claims.
        let mut entries = Vec::new();
        for _ in 0..n_keys {
            entries.push(read_entry(&mut cursor)?);
        }
        let entries_by_key = order_by_name(&map, &entries, |entry| &entry.key)
            .map_err(|key| GgufError::DuplicateKey { key: key.to_owned() })?;
        let alignment = read_alignment(&map, &entries, &entries_by_key)?;

        let max_tensors = MAX_TENSORS.min(cursor.remaining() / MIN_TENSOR_BYTES);
        let n_tensors = bounded(n_tensors, max_tensors)
            .ok_or(GgufError::TooManyTensors { found: n_tensors, max: max_tensors })?;
        let mut described = Vec::new();
        for _ in 0..n_tensors {
            described.push(read_description(&mut cursor, alignment)?);
        }
        let data_start = cursor.pos().next_multiple_of(alignment);
        let mut tensors = Vec::new();
        for (mut tensor, offset) in described {
            let start = data_start as u128 + u128::from(offset);
            let end = start + tensor.data.len() as u128;
            if end > map.len() as u128 {
                let name = text(&map, &tensor.name).to_owned();
                return Err(GgufError::TensorPastEnd { name, end, file_bytes: map.len() });
            }
            // Both are at most the map's length, a usize.
            tensor.data = start as usize..end as usize;
            tensors.push(tensor);
        }
        let tensors_by_name = order_by_name(&map, &tensors, |tensor| &tensor.name)
            .map_err(|name| GgufError::DuplicateTensor { name: name.to_owned() })?;
        check_disjoint(&map, &tensors)?;

        Ok(Gguf { version, alignment, entries, entries_by_key, tensors, tensors_by_name, map })
    }

    /// The format version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Of the data and every tensor in it, bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// The whole file.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        find(&self.map, &self.entries, &self.entries_by_key, key).map(|entry| self.value(entry))
    }

    /// Every key and value, in the file's order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, Value<'_>)> {
        self.entries.iter().map(|entry| (text(&self.map, &entry.key), self.value(entry)))
    }

    /// Every tensor, in the file's order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = GgufTensor<'_>> {
        self.tensors.iter().map(|tensor| self.view(tensor))
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<GgufTensor<'_>> {
        let order = &self.tensors_by_name;
        let at =
            order.binary_search_by(|&i| text(&self.map, &self.tensors[i as usize].name).cmp(name)).ok()?;
        Some(self.tensor_at(order[at] as usize))
    }

    /// The `idx`-th tensor in the file's order.
    ///
    /// # Panics
    /// When there are not that many.
    pub fn tensor_at(&self, idx: usize) -> GgufTensor<'_> {
        self.view(&self.tensors[idx])
    }

    fn value(&self, entry: &Entry) -> Value<'_> {
        Value::decode_checked(entry.value_type, &self.map[entry.value.clone()])
    }

    fn view<'a>(&'a self, tensor: &'a TensorEntry) -> GgufTensor<'a> {
        GgufTensor {
            name: text(&self.map, &tensor.name),
            dims: &tensor.dims[..tensor.n_dims],
            dtype: tensor.dtype,
            data: &self.map[tensor.data.clone()],
            offset: tensor.data.start,
        }
    }
}

/// Version, number of tensors, number of keys.
fn read_header(cursor: &mut Cursor<'_>) -> Result<(u32, u64, u64), GgufError> {
    const WHAT: &str = "the header";
    let found = cursor.u32(WHAT)?.to_le_bytes();
    if found != MAGIC {
        return Err(GgufError::WrongMagic { found });
    }
    let version = cursor.u32(WHAT)?;
    if !(2..=3).contains(&version) {
        let swapped = version.swap_bytes();
        return Err(if (1..=3).contains(&swapped) {
            GgufError::BigEndian
        } else {
            GgufError::UnsupportedVersion { version }
        });
    }
    Ok((version, cursor.u64(WHAT)?, cursor.u64(WHAT)?))
}

fn read_entry(cursor: &mut Cursor<'_>) -> Result<Entry, GgufError> {
    let (_, key) = read_name(cursor, "a metadata key", MAX_KEY_BYTES)?;
    let value_type = cursor.value_type()?;
    let start = cursor.pos();
    cursor.value(value_type, 0)?;
    Ok(Entry { key, value_type, value: start..cursor.pos() })
}

/// A tensor whose `data` has the right length but starts at zero, and the offset that the file gives it.
fn read_description(cursor: &mut Cursor<'_>, alignment: usize) -> Result<(TensorEntry, u64), GgufError> {
    const WHAT: &str = "a tensor's description";
    let (name, name_at) = read_name(cursor, "a tensor's name", MAX_TENSOR_NAME_BYTES)?;
    let n_dims = cursor.u32(WHAT)?;
    let n_dims = match usize::try_from(n_dims) {
        Ok(n) if (1..=MAX_DIMS).contains(&n) => n,
        _ => return Err(GgufError::BadDimCount { name: name.to_owned(), n_dims }),
    };
    let mut dims = [1; MAX_DIMS];
    for dim in &mut dims[..n_dims] {
        *dim = usize::try_from(cursor.u64(WHAT)?)
            .map_err(|_| GgufError::TensorOverflow { name: name.to_owned() })?;
    }
    let id = cursor.u32(WHAT)?;
    let Some(dtype) = DType::ALL.into_iter().find(|&dtype| type_id(dtype) == id) else {
        let name = name.to_owned();
        return Err(match UNSUPPORTED_TYPES.iter().find(|(unsupported, _)| *unsupported == id) {
            Some(&(_, type_name)) => GgufError::UnsupportedTensorType { name, type_name },
            None => GgufError::UnknownTensorType { name, id },
        });
    };
    let n_bytes = tensor_bytes(name, &dims[..n_dims], dtype)?;
    let offset = cursor.u64(WHAT)?;
    if !offset.is_multiple_of(alignment as u64) {
        return Err(GgufError::MisalignedTensor { name: name.to_owned(), offset, alignment });
    }
    Ok((TensorEntry { name: name_at, dims, n_dims, dtype, data: 0..n_bytes }, offset))
}

/// Bytes that a tensor of these dimensions takes, the fastest-varying first.
pub(super) fn tensor_bytes(name: &str, dims: &[usize], dtype: DType) -> Result<usize, GgufError> {
    if dims.contains(&0) {
        return Err(GgufError::ZeroDim { name: name.to_owned() });
    }
    let n_cols = dims[0];
    if !n_cols.is_multiple_of(dtype.block_len()) {
        return Err(GgufError::PartialBlock { name: name.to_owned(), n_cols, dtype });
    }
    // Elements are counted too: a consumer that multiplies the dimensions must not overflow either.
    let n_elements = dims.iter().try_fold(1, |n: usize, &dim| n.checked_mul(dim));
    let row_bytes = dtype.row_bytes(n_cols);
    let n_bytes = row_bytes.and_then(|row| dims[1..].iter().try_fold(row, |n, &dim| n.checked_mul(dim)));
    // More than half the address space cannot be, and leaves room to round up to the alignment.
    let n_bytes = n_bytes.filter(|&n| isize::try_from(n).is_ok());
    n_elements.and(n_bytes).ok_or_else(|| GgufError::TensorOverflow { name: name.to_owned() })
}

/// A name of 1 to `max` bytes, and where it lies.
fn read_name<'a>(
    cursor: &mut Cursor<'a>,
    what: &'static str,
    max: usize,
) -> Result<(&'a str, Range<usize>), GgufError> {
    let offset = cursor.pos();
    let name = cursor.string(what)?;
    if name.is_empty() {
        return Err(GgufError::EmptyName { offset, what });
    }
    if name.len() > max {
        return Err(GgufError::NameTooLong { offset, len: name.len(), max, what });
    }
    Ok((name, cursor.pos() - name.len()..cursor.pos()))
}

fn read_alignment(map: &Map, entries: &[Entry], by_key: &[u32]) -> Result<usize, GgufError> {
    let Some(entry) = find(map, entries, by_key, ALIGNMENT_KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    match Value::decode_checked(entry.value_type, &map[entry.value.clone()]) {
        // At least 8 by the format; more than the largest page in use would only make holes.
        Value::U32(n) if n.is_power_of_two() && (8..=1 << 16).contains(&n) => Ok(n as usize),
        found => Err(GgufError::BadAlignment {
            found: match found.as_i64() {
                Some(n) => format!("the {} {n}", found.value_type().name()),
                None => format!("of type {}", found.value_type().name()),
            },
        }),
    }
}

/// The count that the file claims, if it is at most `max`.
fn bounded(claimed: u64, max: usize) -> Option<usize> {
    usize::try_from(claimed).ok().filter(|&n| n <= max)
}

/// A name that has been checked when the file was opened.
fn text<'a>(map: &'a Map, at: &Range<usize>) -> &'a str {
    std::str::from_utf8(&map[at.clone()]).expect("names are checked when the file is opened")
}

/// Indices of `items`, ascending by name, or the name that occurs twice.
fn order_by_name<'a, T>(
    map: &'a Map,
    items: &[T],
    name: impl Fn(&T) -> &Range<usize>,
) -> Result<Vec<u32>, &'a str> {
    // Both limits on counts are far below 2^32.
    let mut order: Vec<u32> = (0..items.len() as u32).collect();
    let bytes_of = |&i: &u32| &map[name(&items[i as usize]).clone()];
    order.sort_unstable_by_key(bytes_of);
    match order.windows(2).find(|pair| bytes_of(&pair[0]) == bytes_of(&pair[1])) {
        Some(pair) => Err(text(map, name(&items[pair[0] as usize]))),
        None => Ok(order),
    }
}

fn find<'a>(map: &Map, entries: &'a [Entry], by_key: &[u32], key: &str) -> Option<&'a Entry> {
    let entry = |&i: &u32| &entries[i as usize];
    let at = by_key.binary_search_by(|i| map[entry(i).key.clone()].cmp(key.as_bytes())).ok()?;
    Some(entry(&by_key[at]))
}

fn check_disjoint(map: &Map, tensors: &[TensorEntry]) -> Result<(), GgufError> {
    let mut order: Vec<&TensorEntry> = tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| tensor.data.start);
    match order.windows(2).find(|pair| pair[0].data.end > pair[1].data.start) {
        Some(pair) => Err(GgufError::OverlappingTensors {
            first: text(map, &pair[0].name).to_owned(),
            second: text(map, &pair[1].name).to_owned(),
        }),
        None => Ok(()),
    }
}
