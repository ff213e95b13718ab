//! A read-only memory map of a file: the only `unsafe` of this crate.
//!
//! Weights are used where the page cache already holds them; nothing is read or copied before it is needed, and what
//! has been repacked elsewhere can be given back page by page (POSIX `mmap`, `madvise`).
//!
//! Invariant that the operating system cannot check for us: **the file does not change while it is mapped**. Whoever
//! shortens it under us gets this process killed by `SIGBUS`; whoever rewrites it in place changes the weights.
//! Edgeward itself only ever replaces model files by renaming a finished one over them, which leaves maps intact.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::{fmt, io};

/// The bytes of a file, or of a buffer in memory that stands for one.
pub struct Map(Inner);

enum Inner {
    File(memmap2::Mmap),
    Memory(Vec<u8>),
}

impl Map {
    /// Maps the file at `path`, privately and read-only.
    ///
    /// # Errors
    /// Those of opening and mapping; `InvalidInput` when `path` is not a regular file (opening a pipe would hang).
    pub fn open(path: &Path) -> io::Result<Map> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        // SAFETY: the map is private and never written; that nobody shortens or rewrites the file meanwhile is this
        // module's stated assumption.
        let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file)? };
        Ok(Map(Inner::File(map)))
    }

    /// Wraps bytes that are in memory already.
    pub fn from_vec(bytes: Vec<u8>) -> Map {
        Map(Inner::Memory(bytes))
    }

    /// Tells the system that the bytes of `range` (cut to the map) are not needed for now. Only pages that lie wholly
    /// inside are dropped; reading them again brings them back from the file. Does nothing where unsupported.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Inner::File(map) = &self.0
            && let Some(pages) = whole_pages(range, map.len(), page_bytes())
        {
            // SAFETY: dropping clean pages of a private map of an unchanging file alters no byte that anyone can
            // read: the next access faults the same content in again.
            let dropped = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, pages.start, pages.len())
            };
            // Advice refused costs memory, nothing else.
            let _ = dropped;
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Asks the system to read the bytes of `range` (cut to the map) ahead. Does nothing where unsupported.
    pub fn will_need(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Inner::File(map) = &self.0 {
            let end = range.end.min(map.len());
            if range.start < end {
                // Advice refused costs time, nothing else.
                let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, end - range.start);
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::File(map) => map,
            Inner::Memory(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({} bytes)", self.len())
    }
}

/// The pages that lie wholly inside `range`, in bytes from the start of a map of `len` bytes. The file's last page
/// counts as whole when `range` reaches the end of the file: nothing else lives on it.
#[cfg(unix)]
fn whole_pages(range: Range<usize>, len: usize, page_bytes: usize) -> Option<Range<usize>> {
    let end = if range.end >= len { len } else { range.end / page_bytes * page_bytes };
    let start = range.start.checked_next_multiple_of(page_bytes)?;
    (start < end).then_some(start..end)
}

#[cfg(unix)]
fn page_bytes() -> usize {
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let n = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // No page is larger than 64 KiB where sysconf could fail to answer; too large only drops fewer pages.
    usize::try_from(n).ok().filter(|n| n.is_power_of_two()).unwrap_or(64 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn released_pages_read_the_same_again() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i / 7) as u8).collect();
        let file = file_of(&bytes);
        let map = Map::open(file.path()).unwrap();
        assert_eq!(&map[..], &bytes[..]);
        map.release(1..150_000);
        map.release(0..usize::MAX);
        map.will_need(5_000..usize::MAX);
        assert_eq!(&map[..], &bytes[..]);
    }

    #[test]
    fn ranges_outside_the_map_are_harmless() {
        let file = file_of(b"short");
        let map = Map::open(file.path()).unwrap();
        map.release(9_000..20_000);
        map.will_need(9_000..20_000);
        #[expect(clippy::reversed_empty_ranges)]
        map.release(4..2);
        assert_eq!(&map[..], b"short");
    }

    #[cfg(unix)]
    #[test]
    fn only_whole_pages_are_dropped() {
        assert_eq!(whole_pages(1..8192, 100_000, 4096), Some(4096..8192));
        assert_eq!(whole_pages(0..8191, 100_000, 4096), Some(0..4096));
        assert_eq!(whole_pages(1..4097, 100_000, 4096), None);
        assert_eq!(whole_pages(4096..9_000, 9_000, 4096), Some(4096..9_000));
        assert_eq!(whole_pages(usize::MAX..usize::MAX, 9_000, 4096), None);
    }

    #[test]
    fn what_is_not_a_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Map::open(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let missing = Map::open(&folder.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_empty_file_is_an_empty_map() {
        assert!(Map::open(file_of(b"").path()).unwrap().is_empty());
        assert!(Map::from_vec(Vec::new()).is_empty());
    }
}
