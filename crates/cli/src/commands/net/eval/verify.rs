//! `edgeward net eval --verify`: what a network's certificate says, measured again.

use std::path::Path;

use edgeward_compress::networks::certificate::{Certificate, Claim};
use edgeward_perceive::{Graph, Network};
use serde::Serialize;

use super::super::{FileError, read, read_writable};
use super::Args;
use crate::Outcome;
use crate::commands::file_id;
use crate::output::{self, Align, Table};

#[derive(Serialize)]
struct Verification<'a> {
    file: &'a Path,
    holds: bool,
    claims: Vec<Claim>,
}

/// Verifies every file but the first, the teacher.
pub fn run(args: &Args) -> Outcome {
    let [teacher, results @ ..] = args.files.as_slice() else { return Ok(()) };
    if results.is_empty() {
        return Err("give the teacher first, then the networks whose certificates are to be verified".into());
    }
    let graph = read_writable(teacher, &args.network)?;
    let mut verifications = Vec::new();
    for path in results {
        let claims = verify(args, (teacher, &graph), path)?;
        verifications.push(Verification {
            file: path,
            holds: claims.iter().all(|claim| claim.holds),
            claims,
        });
    }
    if args.json {
        output::print_json(&verifications)?;
    } else {
        print(&verifications)?;
    }
    match verifications.iter().find(|verification| !verification.holds) {
        None => Ok(()),
        Some(bad) => {
            let what =
                format!("the certificate of {} does not hold: do not trust the file", bad.file.display());
            Err(what.into())
        }
    }
}

fn verify(
    args: &Args,
    (teacher, teacher_graph): (&Path, &Graph),
    path: &Path,
) -> Result<Vec<Claim>, Box<dyn std::error::Error>> {
    let bytes = std::fs::read(path).map_err(|error| FileError::new(path, error))?;
    let certificate = Certificate::of(&bytes).ok_or_else(|| {
        let what =
            "it has no certificate that can be read: only files of `net compress` and `net distill` have one";
        FileError::new(path, what)
    })?;
    let found = file_id(teacher).map_err(|error| FileError::new(teacher, error))?;
    if found.sha256 != certificate.teacher.sha256 {
        let what = format!(
            "it is not the teacher of {}, {} with SHA-256 {}: give that one",
            path.display(),
            certificate.teacher.name,
            certificate.teacher.sha256
        );
        return Err(FileError::new(teacher, what).into());
    }
    let named = |error: edgeward_perceive::Error| FileError::new(path, error);
    let network = Network::new(teacher_graph, &args.network.options(1)).map_err(named)?;
    let examples = args.questions.read_at_most(&network, certificate.inputs.n_given())?;
    let sha256 = examples.sha256()?;
    if sha256 != certificate.inputs.sha256 {
        let what = format!(
            "these are not the inputs that it was made with: their SHA-256 is {sha256}, and not {}; give the same, \
             with the same options for images",
            certificate.inputs.sha256
        );
        return Err(FileError::new(path, what).into());
    }
    let n_classes = network.outputs()[0].n_elements();
    let classes = args.questions.right_classes(&examples, n_classes)?;
    let (_, kept) = examples.split();
    let classes: Option<Vec<usize>> = classes.map(|classes| kept.iter().map(|i| classes[*i]).collect());
    let kept: Vec<Vec<Vec<f32>>> = kept.iter().map(|i| examples.values[*i].clone()).collect();
    let result = read(path, &args.network)?;
    Ok(certificate.verify([teacher_graph, &result], &bytes, &kept, classes.as_deref()).map_err(named)?)
}

fn print(verifications: &[Verification<'_>]) -> Outcome {
    for verification in verifications {
        let mut table = Table::new(&[
            ("CLAIM", Align::Left),
            ("CLAIMED", Align::Right),
            ("MEASURED", Align::Right),
            ("", Align::Left),
        ]);
        for claim in &verification.claims {
            table.row(vec![
                claim.name.to_owned(),
                format!("{:.6}", claim.claimed),
                claim.measured.map_or_else(|| "not measured".to_owned(), |measured| format!("{measured:.6}")),
                if claim.holds { String::new() } else { "does not hold".to_owned() },
            ]);
        }
        table.print()?;
        let holds = if verification.holds { "holds" } else { "does not hold" };
        output::print_line(&format!("{}: the certificate {holds}", verification.file.display()))?;
    }
    Ok(())
}
