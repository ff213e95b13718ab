//! Sound: files and pipes in, decisions with times out.
//!
//! [`SoundReader`] gives samples as they come, of WAV, FLAC and MP3, at the rate that is wanted. [`Features`] turns them into what a network was trained on, by a
//! [`Recipe`], and a [`Listener`] runs the network on a window that slides over them. A short recording as a whole is a
//! [`Clip`], for learners.

mod clip;
mod features;
mod fft;
mod listener;
mod micro;
mod reader;
mod resample;
mod wav;

pub use clip::Clip;
pub use features::{Features, Recipe};
pub(crate) use fft::Fft;
pub use listener::{Heard, Listener, Smoothing};
pub use reader::SoundReader;
pub use resample::Resampler;
pub use wav::WavReader;

use std::{fmt, io};

/// Why a sound could not be read.
#[derive(Debug)]
pub enum Error {
    /// Reading failed.
    Io(io::Error),
    /// The file is damaged, or of no kind that is known.
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// The file is of a kind that is not read here.
    Unsupported {
        /// What it is.
        what: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(_) => f.write_str("the sound cannot be read"),
            Error::Malformed { what } => {
                write!(f, "this is no whole WAV, FLAC or MP3 file, get it anew: {what}")
            }
            Error::Unsupported { what } => {
                write!(f, "convert the sound to a WAV file of 16-bit PCM first: {what}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}
