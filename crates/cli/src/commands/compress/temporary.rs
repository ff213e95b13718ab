//! What a job needs on the disk beside its output, and what is gone when it is through.

use std::fs;
use std::path::{Path, PathBuf};

/// A file or folder that goes away when it is dropped.
pub struct Temporary(pub PathBuf);

impl Temporary {
    /// Of a name of its own, in the folder of `output`, so that a file can become the output by a rename.
    pub fn beside(output: &Path, what: &str) -> Temporary {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        Temporary(output.with_file_name(format!(".{name}-{}.{what}.partial", std::process::id())))
    }

    /// Of the same name whenever the same job is run: one that was stopped finds its work folder again.
    pub fn again_beside(output: &Path, what: &str) -> Temporary {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        Temporary(output.with_file_name(format!("{name}.{what}")))
    }

    /// Makes it the file at `path`.
    pub fn rename(&self, path: &Path) -> Result<(), String> {
        fs::rename(&self.0, path).map_err(|error| format!("could not write {}: {error}", path.display()))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing is to be done if it fails: perhaps it was never made, or has become the output.
        let _ = if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
    }
}
