//! Examples from a folder: images, or short recordings.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use edgeward_perceive::learner::{Input, Samples};
use edgeward_perceive::sound::{Clip, WavReader};
use edgeward_perceive::vision::features;

use super::Examples;
use crate::commands::net::FileError;
use crate::commands::pictures::{EXTENSIONS, files, load};
use crate::store::Progress;

/// Names of recordings end so.
const SOUNDS: [&str; 1] = ["wav"];
/// Parts of a name are separated so.
const SEPARATOR: char = '_';
/// Samples that are read at once.
const CHUNK_LEN: usize = 1 << 16;

/// The class of a file is the folder it lies in, if there are several; else its name up to the first `_`.
pub(super) fn read(
    folder: &Path,
    group: Option<u8>,
    like: Option<&Input>,
    progress: &Progress,
) -> Result<Examples, Box<dyn std::error::Error>> {
    let (images, sounds) = (files(folder, &EXTENSIONS)?, files(folder, &SOUNDS)?);
    let (paths, input) = match (images.is_empty(), sounds.is_empty()) {
        (false, true) => (images, Input::Image),
        (true, false) => (sounds, Input::Sound),
        (true, true) => {
            let kinds = [&EXTENSIONS[..], &SOUNDS].concat().join(", ");
            return Err(
                FileError::new(folder, format!("there are no images and no recordings ({kinds})")).into()
            );
        }
        (false, false) => {
            return Err(FileError::new(folder, "images and recordings are mixed: keep them apart").into());
        }
    };
    if like.is_some_and(|like| *like != input) {
        return Err(FileError::new(folder, "these are other things than those that were learnt from").into());
    }
    let folder_of = |path: &PathBuf| path.parent().and_then(Path::file_name).map(|name| name.to_os_string());
    let are_sorted = paths.iter().any(|path| folder_of(path) != folder_of(&paths[0]));
    let mut examples = Examples {
        samples: Samples::new(input.n_features()),
        input,
        targets: Vec::new(),
        groups: Vec::new(),
        name: "class".to_owned(),
    };
    for (i, path) in paths.iter().enumerate() {
        if i % 100 == 0 {
            progress.note(&format!("Reading file {} of {}", i + 1, paths.len()));
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut parts = stem.split(SEPARATOR);
        examples.targets.push(match folder_of(path) {
            Some(name) if are_sorted => name.to_string_lossy().into_owned(),
            _ => parts.clone().next().unwrap_or_default().to_owned(),
        });
        if let Some(group) = group {
            let name = parts.nth(usize::from(group) - 1);
            examples.groups.push(name.ok_or_else(|| no_part(path, group))?.to_owned());
        }
        match &examples.input {
            Input::Image => examples.samples.push(&features(&load(path)?)),
            _ => examples.samples.push(&recording(path)?),
        }
    }
    Ok(examples)
}

fn no_part(path: &Path, group: u8) -> FileError {
    FileError::new(path, format!("its name has no part {group} between {SEPARATOR}"))
}

/// Numbers of a whole recording, `-` for standard input.
pub(in crate::commands) fn recording(path: &Path) -> Result<Vec<f64>, FileError> {
    let read = || -> Result<Vec<f64>, Box<dyn std::error::Error>> {
        let source: Box<dyn Read> = if path.as_os_str() == "-" {
            Box::new(io::stdin().lock())
        } else {
            Box::new(BufReader::new(File::open(path)?))
        };
        let mut reader = WavReader::new(source)?;
        let rate = reader.sample_rate();
        let Some(mut clip) = Clip::new(rate) else {
            return Err(format!(
                "{rate} samples a second are too few: record with {} or more",
                Clip::MIN_SAMPLE_RATE
            )
            .into());
        };
        let most = rate as usize * Clip::MAX_SECONDS as usize;
        let (mut all, mut samples) = (Vec::new(), Vec::new());
        loop {
            reader.read(&mut samples, CHUNK_LEN)?;
            if samples.is_empty() {
                return Ok(clip.features(&all).to_vec());
            }
            all.extend_from_slice(&samples);
            if all.len() > most {
                return Err(
                    format!("it is longer than {} s: cut it into pieces first", Clip::MAX_SECONDS).into()
                );
            }
        }
    };
    read().map_err(|source| FileError::new(path, source))
}
