//! Recordings: which files, and how they are opened. `hear` and `fit` take the same.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use edgeward_perceive::sound::{Clip, SoundReader};

use super::net::FileError;

/// Names of recordings end so.
pub(super) const EXTENSIONS: [&str; 3] = ["wav", "flac", "mp3"];
/// Samples that are read at once.
const CHUNK_LEN: usize = 1 << 16;

/// The sound at `path`, `-` for standard input.
pub(super) fn open(path: &Path) -> Result<SoundReader, FileError> {
    let reader = if path.as_os_str() == "-" {
        SoundReader::new(io::stdin())
    } else {
        let file = File::open(path).map_err(|error| FileError::new(path, error))?;
        SoundReader::new(BufReader::new(file))
    };
    reader.map_err(|error| FileError::new(path, error))
}

/// A whole recording that is short enough for a learner, and samples per second.
pub(super) fn load(path: &Path) -> Result<(u32, Vec<f32>), FileError> {
    let mut reader = open(path)?;
    let rate = reader.sample_rate();
    let most = rate as usize * Clip::MAX_SECONDS as usize;
    let (mut all, mut samples) = (Vec::new(), Vec::new());
    loop {
        reader.read(&mut samples, CHUNK_LEN).map_err(|error| FileError::new(path, error))?;
        if samples.is_empty() {
            return Ok((rate, all));
        }
        all.extend_from_slice(&samples);
        if all.len() > most {
            let what = format!("it is longer than {} s: cut it into pieces first", Clip::MAX_SECONDS);
            return Err(FileError::new(path, what));
        }
    }
}

/// What makes numbers of recordings with `rate` samples a second.
pub(super) fn clip(path: &Path, rate: u32) -> Result<Clip, FileError> {
    Clip::new(rate).ok_or_else(|| {
        let least = Clip::MIN_SAMPLE_RATE;
        FileError::new(path, format!("{rate} samples a second are too few: record with {least} or more"))
    })
}

/// Numbers of a whole recording, `-` for standard input.
pub(super) fn features(path: &Path) -> Result<Vec<f64>, FileError> {
    let (rate, samples) = load(path)?;
    Ok(clip(path, rate)?.features(&samples).to_vec())
}
