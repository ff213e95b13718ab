//! A file on its way into the store: bytes arrive from wherever, are hashed as they arrive, and become the file only
//! when size and checksum are right.
//!
//! Invariants: the part's name carries its digest, so bytes of two different files never mix; `hasher` has taken in
//! exactly the `len` bytes on the disk; `len <= size_bytes`. A part survives a crash or Ctrl-C and goes on from there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::digest::{Digest, Hasher};
use super::error::StoreError;
use super::progress::Progress;

/// What is read at once, bytes: large enough that system calls do not count, small enough for a small device.
const CHUNK_BYTES: usize = 128 * 1024;

/// A file as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name in the model's folder, without any folder.
    pub file: String,
    /// Its length.
    pub size_bytes: u64,
    /// Its checksum.
    pub digest: Digest,
}

impl Wanted {
    /// Whether `path` is this file, read from beginning to end.
    pub fn verify(&self, path: &Path) -> Result<(), StoreError> {
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        let len = file.metadata().map_err(StoreError::io("read", path))?.len();
        if len != self.size_bytes {
            return Err(self.wrong_size(len.to_string()));
        }
        // One byte more than promised is enough to see that the file grew meanwhile.
        let (hasher, len) = hash(file.take(self.size_bytes + 1), Hasher::new(self.digest, self.size_bytes))
            .map_err(StoreError::io("read", path))?;
        if len != self.size_bytes {
            return Err(self.wrong_size(len.to_string()));
        }
        self.check(hasher)
    }

    fn check(&self, hasher: Hasher) -> Result<(), StoreError> {
        let got = hasher.finish();
        if got == self.digest {
            return Ok(());
        }
        Err(StoreError::WrongDigest {
            file: self.file.clone(),
            expected: self.digest.to_string(),
            got: got.to_string(),
        })
    }

    /// The error for content of another length.
    pub fn wrong_size(&self, got: String) -> StoreError {
        StoreError::WrongSize { file: self.file.clone(), expected_bytes: self.size_bytes, got }
    }
}

/// SHA-256 of all of `reader`, and its length.
pub fn sha256(reader: impl Read) -> io::Result<(Digest, u64)> {
    let (hasher, len) = hash(reader, Hasher::Sha256(Box::default()))?;
    Ok((hasher.finish(), len))
}

/// Hashes all of `reader`; also its length.
pub fn hash(mut reader: impl Read, mut hasher: Hasher) -> io::Result<(Hasher, u64)> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut len = 0;
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok((hasher, len)),
            Ok(n) => {
                hasher.update(&chunk[..n]);
                len += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// An unfinished file.
pub struct PartFile<'a> {
    wanted: &'a Wanted,
    path: PathBuf,
    finished_path: PathBuf,
    file: File,
    hasher: Hasher,
    len: u64,
    /// Bytes that were here already, from an earlier run or another source; 0 once thrown away.
    inherited_bytes: u64,
}

/// How reading a source to its end went.
pub enum Copied {
    /// The source ended.
    All,
    /// The source failed; what came before is kept.
    SourceFailed(io::Error),
}

impl<'a> PartFile<'a> {
    /// Opens the part of `wanted` in `dir`, with what an earlier run left of it.
    pub fn open(dir: &Path, wanted: &'a Wanted) -> Result<PartFile<'a>, StoreError> {
        let hex = wanted.digest.to_hex();
        let path = dir.join(format!("{}.{}.part", wanted.file, &hex[..16]));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        let (hasher, len) =
            hash((&file).take(wanted.size_bytes + 1), Hasher::new(wanted.digest, wanted.size_bytes))
                .map_err(StoreError::io("read", &path))?;
        let finished_path = dir.join(&wanted.file);
        let mut part = PartFile { wanted, path, finished_path, file, hasher, len, inherited_bytes: len };
        if len > wanted.size_bytes {
            part.restart()?;
        }
        Ok(part)
    }

    /// The file as it must become.
    pub fn wanted(&self) -> &'a Wanted {
        self.wanted
    }

    /// Bytes here so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Throws away what is here.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(StoreError::io("write", &self.path))?;
        self.hasher = Hasher::new(self.wanted.digest, self.wanted.size_bytes);
        self.len = 0;
        self.inherited_bytes = 0;
        Ok(())
    }

    /// Appends all that `source` gives. More than the wanted size is an error, and nothing beyond it is written.
    pub fn append_all(
        &mut self,
        source: &mut dyn Read,
        progress: &mut Progress,
    ) -> Result<Copied, StoreError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let n = match source.read(&mut chunk) {
                Ok(0) => return Ok(Copied::All),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Copied::SourceFailed(error)),
            };
            if n as u64 > self.wanted.size_bytes - self.len {
                let got = format!("at least {}", self.len + n as u64);
                return Err(self.wanted.wrong_size(got));
            }
            self.file.write_all(&chunk[..n]).map_err(StoreError::io("write", &self.path))?;
            self.hasher.update(&chunk[..n]);
            self.len += n as u64;
            progress.advance(n as u64);
        }
    }

    /// Checks size and checksum, and makes the part the file.
    ///
    /// A wrong checksum throws the part away, for no continuation can mend it; the returned flag says whether it
    /// contained inherited bytes, so that starting afresh may help.
    pub fn finish(self) -> Result<(), (StoreError, bool)> {
        let inherited = self.inherited_bytes > 0;
        if self.len != self.wanted.size_bytes {
            return Err((self.wanted.wrong_size(self.len.to_string()), false));
        }
        if let Err(error) = self.wanted.check(self.hasher) {
            return match fs::remove_file(&self.path) {
                Ok(()) => Err((error, inherited)),
                Err(source) => Err((StoreError::io("remove", &self.path)(source), false)),
            };
        }
        // The name must not become visible before the bytes are on the disk: a power cut may come between.
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, &self.finished_path))
            .map_err(|source| (StoreError::io("write", &self.path)(source), false))
    }
}
