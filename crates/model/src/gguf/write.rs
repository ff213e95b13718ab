//! The writer: metadata and descriptions first, then each tensor's bytes as they come.
//!
//! The same calls give the same file, byte for byte. Nothing of a tensor is kept in memory: a model is quantised into
//! its file one piece at a time.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use edgeward_kernels::DType;

use super::read::tensor_bytes;
use super::value::Cursor;
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgufError, MAGIC, MAX_DIMS, MAX_KEY_BYTES, MAX_KEYS,
    MAX_TENSOR_NAME_BYTES, MAX_TENSORS, VERSION, Value, type_id,
};

/// Describes a file: keys and tensors in the order they shall have, then [`GgufWriter::write_file`].
///
/// What the reader refuses is refused here, when it is added.
#[derive(Debug, Default)]
pub struct GgufWriter {
    keys: BTreeSet<String>,
    /// Encoded keys and values.
    metadata: Vec<u8>,
    names: BTreeSet<String>,
    tensors: Vec<Described>,
    /// Of all tensors so far, padded.
    data_bytes: u64,
}

#[derive(Debug)]
struct Described {
    name: String,
    dims: Vec<usize>,
    dtype: DType,
    n_bytes: usize,
    /// From the start of the data.
    offset: u64,
}

impl GgufWriter {
    /// A file of nothing.
    pub fn new() -> GgufWriter {
        GgufWriter::default()
    }

    /// Adds a key. Any value will do, one made here or one viewed in an open file.
    ///
    /// # Errors
    /// [`GgufError::DuplicateKey`], [`GgufError::ReservedKey`] for `general.alignment` (which is always 32), an empty
    /// or too long key, too many of them, [`GgufError::NestedTooDeep`].
    pub fn key(&mut self, key: &str, value: Value<'_>) -> Result<&mut Self, GgufError> {
        check_name(key, "a metadata key", MAX_KEY_BYTES)?;
        if key == ALIGNMENT_KEY {
            return Err(GgufError::ReservedKey { key: key.to_owned() });
        }
        if self.keys.len() == MAX_KEYS {
            return Err(GgufError::TooManyKeys { found: MAX_KEYS as u64 + 1, max: MAX_KEYS });
        }
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        Cursor::new(&encoded).value(value.value_type(), 0)?;
        if !self.keys.insert(key.to_owned()) {
            return Err(GgufError::DuplicateKey { key: key.to_owned() });
        }
        Value::String(key).encode(&mut self.metadata);
        self.metadata.extend((value.value_type() as u32).to_le_bytes());
        self.metadata.extend(encoded);
        Ok(self)
    }

    /// Adds a tensor of 1 to 4 dimensions, **the fastest-varying first** (a matrix is `[n_cols, n_rows]`).
    ///
    /// # Errors
    /// [`GgufError::DuplicateTensor`], an empty or too long name, dimensions that the reader would refuse.
    pub fn tensor(&mut self, name: &str, dims: &[usize], dtype: DType) -> Result<&mut Self, GgufError> {
        check_name(name, "a tensor's name", MAX_TENSOR_NAME_BYTES)?;
        if !(1..=MAX_DIMS).contains(&dims.len()) {
            let n_dims = u32::try_from(dims.len()).unwrap_or(u32::MAX);
            return Err(GgufError::BadDimCount { name: name.to_owned(), n_dims });
        }
        let n_bytes = tensor_bytes(name, dims, dtype)?;
        if self.tensors.len() == MAX_TENSORS {
            return Err(GgufError::TooManyTensors { found: MAX_TENSORS as u64 + 1, max: MAX_TENSORS });
        }
        if !self.names.insert(name.to_owned()) {
            return Err(GgufError::DuplicateTensor { name: name.to_owned() });
        }
        let offset = self.data_bytes;
        self.data_bytes = (n_bytes as u64)
            .checked_next_multiple_of(DEFAULT_ALIGNMENT as u64)
            .and_then(|n_bytes| n_bytes.checked_add(offset))
            .ok_or_else(|| GgufError::TensorOverflow { name: name.to_owned() })?;
        self.tensors.push(Described { name: name.to_owned(), dims: dims.to_vec(), dtype, n_bytes, offset });
        Ok(self)
    }

    /// Bytes of the file as it is described so far.
    pub fn file_bytes(&self) -> u64 {
        let head = self.head().len() as u64;
        head.next_multiple_of(DEFAULT_ALIGNMENT as u64) + self.data_bytes
    }

    /// Writes the file at `path`: `fill` is called for each tensor in the order they were added and writes its bytes,
    /// row after row. The file appears under its name only once all of it is on the disk; on any error there is
    /// nothing new.
    ///
    /// # Errors
    /// [`GgufError::Io`] (those of `fill` too), [`GgufError::WrongTensorBytes`] when `fill` wrote too few or too many.
    pub fn write_file(
        &self,
        path: &Path,
        fill: impl FnMut(&str, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), GgufError> {
        let at = |source| GgufError::Io { path: path.to_owned(), source };
        // In the same folder, because a rename is atomic only within a file system.
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            // As any new file, less the umask: temporary files are private by default.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.prefix(".edgeward-").suffix(".partial").tempfile_in(folder).map_err(at)?;

        let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file());
        self.write_to(&mut out, fill).map_err(|error| error.at(path))?;
        out.flush().map_err(at)?;
        drop(out);
        temporary.as_file().sync_all().map_err(at)?;
        temporary.persist(path).map_err(|error| at(error.error))?;
        // The rename is on the disk once the folder is; only Unix can open a folder.
        #[cfg(unix)]
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at)?;
        Ok(())
    }

    /// Writes the file into `out`, as [`GgufWriter::write_file`] does.
    ///
    /// # Errors
    /// As there; the path of [`GgufError::Io`] is empty.
    pub fn write_to(
        &self,
        out: &mut dyn Write,
        mut fill: impl FnMut(&str, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), GgufError> {
        let at = |source| GgufError::Io { path: Default::default(), source };
        let head = self.head();
        out.write_all(&head).map_err(at)?;
        pad(out, head.len()).map_err(at)?;
        for tensor in &self.tensors {
            let mut counted = Counted { out: &mut *out, expected: tensor.n_bytes, written: 0 };
            let filled = fill(&tensor.name, &mut counted);
            let written = counted.written;
            if written > tensor.n_bytes || (filled.is_ok() && written < tensor.n_bytes) {
                let name = tensor.name.clone();
                return Err(GgufError::WrongTensorBytes { name, expected: tensor.n_bytes, written });
            }
            filled.map_err(at)?;
            pad(out, tensor.n_bytes).map_err(at)?;
        }
        Ok(())
    }

    /// Everything before the data, unpadded.
    fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(self.metadata.len() + 24);
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.keys.len() as u64).to_le_bytes());
        head.extend(&self.metadata);
        for tensor in &self.tensors {
            Value::String(&tensor.name).encode(&mut head);
            head.extend((tensor.dims.len() as u32).to_le_bytes());
            for &dim in &tensor.dims {
                head.extend((dim as u64).to_le_bytes());
            }
            head.extend(type_id(tensor.dtype).to_le_bytes());
            head.extend(tensor.offset.to_le_bytes());
        }
        head
    }
}

fn check_name(name: &str, what: &'static str, max: usize) -> Result<(), GgufError> {
    match name.len() {
        0 => Err(GgufError::EmptyName { offset: 0, what }),
        len if len > max => Err(GgufError::NameTooLong { offset: 0, len, max, what }),
        _ => Ok(()),
    }
}

/// Zeros after `n_bytes` up to the alignment.
fn pad(out: &mut dyn Write, n_bytes: usize) -> io::Result<()> {
    out.write_all(&[0; DEFAULT_ALIGNMENT][..n_bytes.next_multiple_of(DEFAULT_ALIGNMENT) - n_bytes])
}

/// Counts what is written and lets at most `expected` bytes through.
struct Counted<'a> {
    out: &'a mut dyn Write,
    expected: usize,
    /// Bytes that were offered: more than `expected` once too many were.
    written: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.expected.saturating_sub(self.written) {
            self.written = self.written.saturating_add(bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more bytes than the tensor takes"));
        }
        let n = self.out.write(bytes)?;
        self.written += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
