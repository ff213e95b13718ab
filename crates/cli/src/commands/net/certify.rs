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

/// `result` as whoever reads its file has it. ONNX may say it in other operators, which round elsewhere: what is certified is
/// what the file holds.
pub(super) fn as_written(result: &Graph, format: Format) -> Result<Graph, Error> {
    match format {
        Format::Tflite => Ok(result.clone()),
        Format::Onnx => format.read(format.write(result)?),
    }
}

/// Writes `result` to `output` with its certificate in it, and that one beside it as JSON and as a page; bytes of the file
/// without it.
pub(super) fn write(
    (output, format): (&Path, Format),
    result: &Graph,
    [mut before, mut after]: [Figures; 2],
    making: &Making<'_>,
) -> Result<u64, Box<dyn std::error::Error>> {
    let named = |error: Error| FileError::new(output, error);
    after.size_bytes = format.write(result).map_err(named)?.len() as u64;
    let teacher = file_id(making.teacher).map_err(|error| FileError::new(making.teacher, error))?;
    before.size_bytes = teacher.size_bytes;
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
    let size_bytes = after.size_bytes;
    let certificate = Certificate::new(origin, [before, after], making.agreement, result);
    super::write(output, &certificate.seal(result, format).map_err(named)?)?;
    let beside = |extension: &str| -> PathBuf { output.with_extension(extension) };
    super::write(&beside("certificate.json"), certificate.to_json().as_bytes())?;
    super::write(&beside("certificate.html"), certificate.to_html().as_bytes())?;
    Ok(size_bytes)
}

/// Of a network, but for the size of its file.
pub(super) fn figures(multiplications: u64, us_per_run: Option<f64>, accuracy: Option<f64>) -> Figures {
    Figures { size_bytes: 0, multiplications, us_per_run, accuracy }
}
