//! What was done to a small network, and what it lost: in the file's own metadata, beside it as JSON, and as a page.
//!
//! Teacher and inputs are named by their SHA-256, and which inputs were kept to compare on follows from their number, so that
//! anyone who has both can measure again.

use std::fmt::Write;

use edgeward_perceive::graph::Graph;
use edgeward_perceive::{Error, Format};
use serde::{Deserialize, Serialize};

use super::{Agreement, accuracy, multiplications};
use crate::certificate::{FileId, HEAD, bars, escaped};

/// Where the certificate is in a file's metadata, as JSON.
pub const KEY: &str = "edgeward.certificate";
/// The only version there is.
const VERSION: u32 = 1;

/// What a network was shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputsRecord {
    /// Of the numbers that the network was given, little-endian, one input after the other, in hexadecimal.
    pub sha256: String,
    /// Inputs that it was calibrated or taught on.
    pub n_seen: usize,
    /// Inputs that it was compared on: every fourth.
    pub n_compared: usize,
    /// Whether none of the latter were among the former.
    pub is_held_out: bool,
}

impl InputsRecord {
    /// Inputs in all.
    pub fn n_given(&self) -> usize {
        self.n_seen + if self.is_held_out { self.n_compared } else { 0 }
    }
}

/// Of one network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Of its file, without a certificate.
    pub size_bytes: u64,
    /// Multiplications by weights in a run.
    pub multiplications: u64,
    /// Microseconds on one thread.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub us_per_run: Option<f64>,
    /// Share of compared inputs that it names right, where the right classes are known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accuracy: Option<f64>,
}

/// One tensor of weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Its name in the file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its type.
    pub dtype: String,
    /// Bytes.
    pub size_bytes: u64,
}

/// What was done to a network, and what it lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// 1.
    pub version: u32,
    /// The program and its version.
    pub made_by: String,
    /// The command, with its options.
    pub command: String,
    /// The network that it was made of, or taught by.
    pub teacher: FileId,
    /// What it was shown.
    pub inputs: InputsRecord,
    /// Instructions that times were measured with.
    pub isa: String,
    /// Of the teacher.
    pub before: Figures,
    /// Of the result.
    pub after: Figures,
    /// Share of compared inputs whose largest output is the teacher's.
    pub same_top_1: f64,
    /// Mean squared difference of outputs.
    pub squared_error: f64,
    /// Mean divergence from the teacher, nats, where outputs are probabilities.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kl_divergence: Option<f64>,
    /// The result's weights; left out in the file itself, where they are anyway.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub layers: Vec<LayerRecord>,
}

/// Something that a certificate says, and what was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// As the certificate's JSON calls it.
    pub name: &'static str,
    /// What it says.
    pub claimed: f64,
    /// What was measured; `None` where it could not be.
    pub measured: Option<f64>,
    /// Whether that is near enough; what was not measured is not doubted.
    pub holds: bool,
}

/// Measured shares and divergences may be off by this part of what was claimed, as sums of floats differ between machines.
const TOLERANCE: f64 = 0.01;

/// What the caller of [`Certificate::new`] knows.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The command, with its options.
    pub command: String,
    /// The network that it was made of.
    pub teacher: FileId,
    /// What it was shown.
    pub inputs: InputsRecord,
    /// Instructions that times were measured with.
    pub isa: String,
}

impl Certificate {
    /// For `result`, which agrees with its teacher so far.
    pub fn new(
        origin: Origin,
        [before, after]: [Figures; 2],
        agreement: &Agreement,
        result: &Graph,
    ) -> Certificate {
        let layers = result.tensors.iter().filter_map(|tensor| {
            let constant = tensor.constant.as_ref()?;
            Some(LayerRecord {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                dtype: tensor.element_type.name().to_owned(),
                size_bytes: constant.bytes().len() as u64,
            })
        });
        Certificate {
            version: VERSION,
            made_by: concat!("edgeward ", env!("CARGO_PKG_VERSION")).to_owned(),
            command: origin.command,
            teacher: origin.teacher,
            inputs: origin.inputs,
            isa: origin.isa,
            before,
            after,
            same_top_1: agreement.top_1,
            squared_error: agreement.squared_error,
            kl_divergence: agreement.kl_divergence,
            layers: layers.collect(),
        }
    }

    /// The certificate in a TFLite or ONNX file, if there is one that can be read.
    pub fn of(file: &[u8]) -> Option<Certificate> {
        let text = Format::of_content(file).metadata(file, KEY).ok()??;
        let certificate: Certificate = serde_json::from_str(&text).ok()?;
        (certificate.version == VERSION).then_some(certificate)
    }

    /// `result` as a file with this in it.
    ///
    /// # Errors
    /// If the format has no operator for something in it.
    pub fn seal(&self, result: &Graph, format: Format) -> Result<Vec<u8>, Error> {
        let short = Certificate { layers: Vec::new(), ..self.clone() };
        format.write_with_metadata(result, &[(KEY, &short.to_json())])
    }

    /// Measures again what this says of a teacher and a result, which was read from `file`, on `kept`, the inputs that they
    /// were compared on, and their right `classes`, if they are known. Times are another machine's, and not measured.
    ///
    /// # Errors
    /// If one cannot run or be written, or an example does not fit.
    pub fn verify(
        &self,
        [teacher, result]: [&Graph; 2],
        file: &[u8],
        kept: &[Vec<Vec<f32>>],
        classes: Option<&[usize]>,
    ) -> Result<Vec<Claim>, Error> {
        let size_bytes = Format::of_content(file).size_without_metadata(file, result)?;
        let agreement = Agreement::measure(teacher, result, kept)?;
        let exact = |name, claimed: u64, measured: u64| Claim {
            name,
            claimed: claimed as f64,
            measured: Some(measured as f64),
            holds: claimed == measured,
        };
        let near = |name, claimed: f64, measured: Option<f64>| Claim {
            name,
            claimed,
            measured,
            holds: measured.is_none_or(|found| (found - claimed).abs() <= TOLERANCE * claimed.abs() + 1e-9),
        };
        let mut claims = vec![
            exact("inputs.n_compared", self.inputs.n_compared as u64, agreement.n as u64),
            exact("before.multiplications", self.before.multiplications, multiplications(teacher)),
            exact("after.multiplications", self.after.multiplications, multiplications(result)),
            exact("after.size_bytes", self.after.size_bytes, size_bytes),
            near("same_top_1", self.same_top_1, Some(agreement.top_1)),
            near("squared_error", self.squared_error, Some(agreement.squared_error)),
        ];
        claims.extend(self.kl_divergence.map(|kl| near("kl_divergence", kl, agreement.kl_divergence)));
        for (name, figures, graph) in
            [("before.accuracy", &self.before, teacher), ("after.accuracy", &self.after, result)]
        {
            let Some(claimed) = figures.accuracy else { continue };
            let measured = classes.map(|classes| accuracy(graph, kept, classes)).transpose()?;
            claims.push(near(name, claimed, measured));
        }
        Ok(claims)
    }

    /// As JSON, on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a certificate has nothing that JSON has not")
    }

    /// As a page for people that needs nothing else.
    pub fn to_html(&self) -> String {
        let mut page = String::from(HEAD);
        let mut row = |name: &str, value: String| {
            let _ = writeln!(page, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value));
        };
        row("Made by", self.made_by.clone());
        row("Command", self.command.clone());
        row("Teacher", format!("{}, SHA-256 {}", self.teacher.name, self.teacher.sha256));
        let held_out = if self.inputs.is_held_out { "others" } else { "the same" };
        row(
            "Inputs",
            format!(
                "{} seen, compared on {} {held_out}; SHA-256 of all {}",
                self.inputs.n_seen, self.inputs.n_compared, self.inputs.sha256
            ),
        );
        let mut pair = |name: &str, show: &dyn Fn(&Figures) -> Option<String>| {
            if let (Some(before), Some(after)) = (show(&self.before), show(&self.after)) {
                row(name, format!("{after}, the teacher {before}"));
            }
        };
        pair("Size", &|f| Some(format!("{} bytes", f.size_bytes)));
        pair("Multiplications", &|f| Some(f.multiplications.to_string()));
        pair("Microseconds", &|f| Some(format!("{:.1}", f.us_per_run?)));
        pair("Right", &|f| Some(format!("{:.2} %", f.accuracy? * 100.0)));
        row("Measured with", self.isa.clone());
        row("Same class as the teacher", format!("{:.2} %", self.same_top_1 * 100.0));
        row("Mean squared difference", format!("{:.3e}", self.squared_error));
        if let Some(kl) = self.kl_divergence {
            row("Divergence", format!("{kl:.5} nats"));
        }
        page.push_str("</table>\n<h2>Where the bytes are</h2>\n");
        let sizes: Vec<(String, f64)> = self
            .layers
            .iter()
            .map(|layer| {
                (format!("{} {}{:?}", layer.name, layer.dtype, layer.shape), layer.size_bytes as f64)
            })
            .collect();
        bars(&mut page, &sizes, |bytes| format!("{bytes} bytes"));
        page.push_str("</body></html>\n");
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::testing::everything;

    #[test]
    fn a_certificate_is_in_its_file() {
        let graph = everything();
        let figures =
            |size_bytes| Figures { size_bytes, multiplications: 7, us_per_run: Some(1.5), accuracy: None };
        let origin = Origin {
            command: "edgeward net distill <b>.tflite".into(),
            teacher: FileId { name: "a.tflite".into(), sha256: "ab".into(), size_bytes: 9 },
            inputs: InputsRecord { sha256: "cd".into(), n_seen: 3, n_compared: 1, is_held_out: true },
            isa: "scalar".into(),
        };
        let agreement =
            Agreement { n: 1, top_1: 1.0, squared_error: 0.25, sqnr_db: 20.0, kl_divergence: Some(0.5) };
        let certificate = Certificate::new(origin, [figures(100), figures(50)], &agreement, &graph);
        for format in [Format::Tflite, Format::Onnx] {
            let file = certificate.seal(&graph, format).unwrap();
            assert_eq!(Certificate::of(&file), Some(Certificate { layers: vec![], ..certificate.clone() }));
            let bare = format.write(&graph).unwrap();
            let size_bytes = format.size_without_metadata(&file, &graph).unwrap();
            assert_eq!((size_bytes, Certificate::of(&bare)), (bare.len() as u64, None));
            assert!(!format.read(file).unwrap().nodes.is_empty());
        }
        let page = certificate.to_html();
        assert!(page.contains("50 bytes, the teacher 100 bytes") && page.contains("0.50000 nats"), "{page}");
        assert!(page.contains("&lt;b&gt;") && !page.contains("Right"), "{page}");
    }
}
