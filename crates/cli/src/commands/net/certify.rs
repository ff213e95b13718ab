//! The certificate of a network that `net compress` or `net distill` has made.

use std::path::{Path, PathBuf};

use edgeward_compress::networks::Agreement;
use edgeward_compress::networks::certificate::{Certificate, Figures, InputsRecord, Origin};
use edgeward_perceive::{Error, Format, Graph};

use super::FileError;
use super::examples::Examples;
use crate::commands::file_id;

/// What a certificate says about its making.
pub(super) struct Making<'a> {
    /// The command's name and options, without files.
    pub(super) command: String,
    /// The file it was made of.
    pub(super) teacher: &'a Path,
    /// All that it was shown or compared on.
    pub(super) examples: &'a Examples,
    /// Of the comparison.
    pub(super) agreement: &'a Agreement,
    /// Instructions of this processor.
    pub(super) isa: &'static str,
}

/// A network as whoever reads its file has it.
pub(super) struct AsWritten {
    pub(super) graph: Graph,
    /// Of the file, without a certificate.
    pub(super) size_bytes: u64,
}

/// `result` as it is in a file. ONNX may say it in other operators, which round elsewhere: what is certified is what the file
/// holds.
pub(super) fn as_written(result: &Graph, format: Format) -> Result<AsWritten, Error> {
    let file = format.write(result)?;
    let size_bytes = file.len() as u64;
    let graph = match format {
        Format::Tflite => result.clone(),
        Format::Onnx => format.read(file)?,
    };
    Ok(AsWritten { graph, size_bytes })
}

/// Writes `result` to `output` with its certificate in it, and that one beside it as JSON and as a page. The figures are the
/// teacher's and the result's.
pub(super) fn write(
    (output, format): (&Path, Format),
    result: &Graph,
    figures: [Figures; 2],
    making: &Making<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let named = |error: Error| FileError::new(output, error);
    let teacher = file_id(making.teacher).map_err(|error| FileError::new(making.teacher, error))?;
    let (seen, kept) = making.examples.split();
    let origin = Origin {
        command: making.command.clone(),
        teacher,
        inputs: InputsRecord {
            sha256: making.examples.sha256()?,
            n_seen: seen.len(),
            n_compared: kept.len(),
            is_held_out: seen.len() + kept.len() == making.examples.values.len(),
        },
        isa: making.isa.to_owned(),
    };
    let certificate = Certificate::new(origin, figures, making.agreement, result);
    super::write(output, &certificate.seal(result, format).map_err(named)?)?;
    let beside = |extension: &str| -> PathBuf { output.with_extension(extension) };
    super::write(&beside("certificate.json"), certificate.to_json().as_bytes())?;
    super::write(&beside("certificate.html"), certificate.to_html().as_bytes())?;
    Ok(())
}
