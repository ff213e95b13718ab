//! The commands, one file each: its arguments, and the call of the library that does the work.

pub mod bench;
pub mod completions;
pub mod compress;
pub mod eval;
pub mod fit;
pub mod hear;
pub mod inspect;
pub mod keys;
pub mod models;
pub mod net;
pub mod perplexity;
mod pictures;
pub mod probe;
pub mod pull;
pub mod rm;
pub mod run;
pub mod see;
mod sensors;
pub mod serve;
mod sounds;
pub mod tokenize;
pub mod watch;

use std::fs::File;
use std::io;
use std::path::Path;

use edgeward_compress::certificate::FileId;

use crate::store;

/// What certificates call a file.
fn file_id(path: &Path) -> io::Result<FileId> {
    let (sha256, size_bytes) = store::sha256(File::open(path)?)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(FileId { name, sha256: sha256.to_hex(), size_bytes })
}
