//! Images for networks: which files, and how they are prepared. `see`, `net compress` and `net eval` take the same.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use edgeward_perceive::vision::boxes::Detector;
use edgeward_perceive::vision::{Filter, Fit, Image, Limits, Preparation, Resizing, decode};

use super::net::FileError;
use crate::Outcome;

/// Bytes of the largest image file.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Files of a folder.
const MAX_IMAGES: usize = 1_000_000;
/// Names of images end so.
pub(super) const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "bmp"];

/// How images become a network's input.
#[derive(clap::Args)]
pub(super) struct PictureArgs {
    /// What becomes of an image whose proportions are not the network's
    /// [default: stretch; pad for detectors]
    #[arg(long, value_enum)]
    fit: Option<FitArg>,
    /// Whose resizing, and which
    #[arg(long, value_enum, default_value = "bilinear")]
    resize: ResizeArg,
    /// What black and white are to the network [default: all that an eight-bit input can hold; 0,1 for floats]
    #[arg(long, value_name = "LOW,HIGH", value_parser = range, allow_hyphen_values = true)]
    pub(super) range: Option<(f32, f32)>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FitArg {
    /// Stretch it
    Stretch,
    /// Take the largest part in its middle that has the right ones
    Crop,
    /// Fill it up with grey
    Pad,
}

/// Names without a prefix are Pillow's.
#[derive(Clone, Copy, ValueEnum)]
enum ResizeArg {
    Nearest,
    Box,
    Bilinear,
    Hamming,
    Bicubic,
    Lanczos,
    TfNearest,
    TfBilinear,
    /// With antialias=True
    TfAntialias,
}

impl PictureArgs {
    /// How images become inputs; detectors have ways of their own.
    pub(super) fn preparation(&self, detector: Option<Detector>) -> Preparation {
        let usual = if detector.is_some() { FitArg::Pad } else { FitArg::Stretch };
        let fit = match self.fit.unwrap_or(usual) {
            FitArg::Stretch => Fit::Stretch,
            FitArg::Crop => Fit::Crop,
            FitArg::Pad => Fit::Pad,
        };
        let resizing = match self.resize {
            ResizeArg::Nearest => Resizing::Pillow(Filter::Nearest),
            ResizeArg::Box => Resizing::Pillow(Filter::Box),
            ResizeArg::Bilinear => Resizing::Pillow(Filter::Bilinear),
            ResizeArg::Hamming => Resizing::Pillow(Filter::Hamming),
            ResizeArg::Bicubic => Resizing::Pillow(Filter::Bicubic),
            ResizeArg::Lanczos => Resizing::Pillow(Filter::Lanczos),
            ResizeArg::TfNearest => Resizing::TensorFlowNearest,
            ResizeArg::TfBilinear => Resizing::TensorFlowBilinear,
            ResizeArg::TfAntialias => Resizing::TensorFlowAntialias,
        };
        Preparation { fit, resizing, range: self.range.or_else(|| detector.map(Detector::range)) }
    }
}

fn range(text: &str) -> Result<(f32, f32), String> {
    let numbers: Option<Vec<f32>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some([low, high]) if low.is_finite() && high.is_finite() && low != high => Ok((*low, *high)),
        _ => Err("give two numbers, as in -1,1".to_owned()),
    }
}

/// What was given, with folders opened: their images in the order of their names, folders within folders too.
pub(super) fn paths(given: &[PathBuf]) -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
    let mut paths = Vec::new();
    for path in given {
        if path.is_dir() {
            let before = paths.len();
            collect(path, &EXTENSIONS, &mut paths)?;
            if paths.len() == before {
                return Err(
                    format!("{}: there are no images ({})", path.display(), EXTENSIONS.join(", ")).into()
                );
            }
        } else {
            paths.push(path.clone());
        }
    }
    Ok(paths)
}

/// Files of `folder` whose names end in one of `extensions`, those of folders within it too, in the order of their names.
pub(super) fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, Box<dyn std::error::Error>> {
    let mut paths = Vec::new();
    collect(folder, extensions, &mut paths)?;
    Ok(paths)
}

/// Whether a file's name ends in one of `extensions`.
pub(super) fn ends_in(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|e| extensions.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

fn collect(folder: &Path, extensions: &[&str], paths: &mut Vec<PathBuf>) -> Outcome {
    let named = |error: io::Error| FileError::new(folder, error);
    let mut entries: Vec<fs::DirEntry> =
        fs::read_dir(folder).map_err(named)?.collect::<Result<_, _>>().map_err(named)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Links to folders are not followed: they may lead in circles.
        if entry.file_type().map_err(named)?.is_dir() {
            collect(&path, extensions, paths)?;
        } else if ends_in(&path, extensions) {
            paths.push(path);
        }
        if paths.len() > MAX_IMAGES {
            return Err(format!("more than {MAX_IMAGES} files: give parts of the folder").into());
        }
    }
    Ok(())
}

/// The image at `path`.
pub(super) fn load(path: &Path) -> Result<Image, FileError> {
    let read = || -> Result<Image, Box<dyn std::error::Error>> {
        let mut bytes = Vec::new();
        let mut bytes_of = |source: &mut dyn Read| source.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
        if path.as_os_str() == "-" {
            bytes_of(&mut io::stdin())?
        } else {
            bytes_of(&mut fs::File::open(path)?)?
        };
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("it has more than {MAX_FILE_BYTES} bytes").into());
        }
        Ok(decode(&bytes, &Limits::default())?)
    };
    read().map_err(|source| FileError::new(path, source))
}
