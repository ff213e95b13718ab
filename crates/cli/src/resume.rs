//! Where a long job keeps what it has done, so that the same command goes on after a stop.
//!
//! A state is one JSON file in the store's folder `resume`, named after everything that the result depends on: a job
//! that differs in anything starts afresh. It is replaced by a rename, so that a crash leaves the old one or the new
//! one, and removed when the job is done. A state that cannot be read counts as none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::store::Store;

/// How often the state goes to the disk at most.
const INTERVAL: Duration = Duration::from_secs(5);

/// The state file of one job.
pub struct Resume {
    path: PathBuf,
    last_saved: Instant,
}

impl Resume {
    /// The state file of the job that `parts` describe entirely.
    pub fn new(kind: &str, parts: &[String]) -> Result<Resume, Box<dyn std::error::Error>> {
        let mut sha256 = Sha256::new();
        for part in parts {
            sha256.update((part.len() as u64).to_le_bytes());
            sha256.update(part);
        }
        let name: String = sha256.finalize()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = Store::open()?.resume_folder().join(format!("{kind}-{name}.json"));
        Ok(Resume { path, last_saved: Instant::now() })
    }

    /// What was kept, if anything.
    pub fn load<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&fs::read(&self.path).ok()?).ok()
    }

    /// Keeps `state`, unless that was done a moment ago.
    pub fn save_now_and_then(&mut self, state: &impl Serialize) -> io::Result<()> {
        if self.last_saved.elapsed() < INTERVAL { Ok(()) } else { self.save(state) }
    }

    /// Keeps `state`.
    pub fn save(&mut self, state: &impl Serialize) -> io::Result<()> {
        let partial = self.path.with_extension("partial");
        fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")))?;
        fs::write(&partial, serde_json::to_vec(state)?)?;
        fs::rename(&partial, &self.path)?;
        self.last_saved = Instant::now();
        Ok(())
    }

    /// Forgets the state: the job is done.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A file as it is now: its path, size and time of change.
pub fn fingerprint(path: &Path) -> String {
    let metadata = fs::metadata(path).ok();
    let n_bytes = metadata.as_ref().map_or(0, fs::Metadata::len);
    let changed = metadata.and_then(|m| m.modified().ok()).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    format!("{} {n_bytes} {:?}", path.display(), changed.unwrap_or_default())
}
