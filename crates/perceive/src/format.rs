//! The formats that networks are written in.

use std::path::Path;

use crate::error::Error;
use crate::graph::Graph;
use crate::onnx::{self, Settings};
use crate::tflite;

/// What a file with a network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TensorFlow Lite, `.tflite`.
    Tflite,
    /// ONNX, `.onnx`.
    Onnx,
}

impl Format {
    /// By a file's name; `None` where it ends otherwise.
    pub fn of_path(path: &Path) -> Option<Format> {
        let extension = path.extension()?;
        if extension.eq_ignore_ascii_case("tflite") {
            return Some(Format::Tflite);
        }
        extension.eq_ignore_ascii_case("onnx").then_some(Format::Onnx)
    }

    /// By a file's content, where it is a network's: ONNX has no mark, TFLite has.
    pub fn of_content(file: &[u8]) -> Format {
        if file.get(4..8) == Some(b"TFL3") { Format::Tflite } else { Format::Onnx }
    }

    /// `graph` as a file of this format.
    ///
    /// # Errors
    /// If the format has no operator for something in it, or it would be too large.
    pub fn write(self, graph: &Graph) -> Result<Vec<u8>, Error> {
        self.write_with_metadata(graph, &[])
    }

    /// `graph` as a file, and texts that [`metadata`](Self::metadata) finds by their names.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_with_metadata(self, graph: &Graph, metadata: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
        match self {
            Format::Tflite => tflite::write_with_metadata(graph, metadata),
            Format::Onnx => onnx::write_with_metadata(graph, metadata),
        }
    }

    /// The graph that a file holds; of what ONNX leaves open, dimensions are 1.
    ///
    /// # Errors
    /// If it is damaged, or has something that cannot be computed.
    pub fn read(self, file: Vec<u8>) -> Result<Graph, Error> {
        match self {
            Format::Tflite => tflite::read(file.into()),
            Format::Onnx => onnx::read(&file.into(), &Settings::default()),
        }
    }

    /// The text that a file keeps under `name`; `None` if there is none.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn metadata(self, file: &[u8], name: &str) -> Result<Option<String>, Error> {
        match self {
            Format::Tflite => tflite::metadata(file, name),
            Format::Onnx => onnx::metadata(file, name),
        }
    }

    /// Bytes of a file that holds `graph`, without the texts in it.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn size_without_metadata(self, file: &[u8], graph: &Graph) -> Result<u64, Error> {
        match self {
            Format::Tflite => Ok(tflite::write(graph)?.len() as u64),
            Format::Onnx => onnx::size_without_metadata(file),
        }
    }
}
