//! `edgeward net eval`: how near networks are to another one, and how often they are right.

mod verify;

use std::path::PathBuf;

use edgeward_compress::networks::{Agreement, accuracy};
use edgeward_perceive::Network;
use serde::Serialize;

use super::examples::QuestionArgs;
use super::{FileError, NetworkArgs};
use crate::Outcome;
use crate::output::{self, Align, Table};

/// Compare networks on the same inputs: how often they agree with the first, and are right
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward net eval float.tflite int8.tflite --inputs photographs/
  edgeward net eval float.tflite a.tflite b.tflite --inputs inputs.f32 --json
  edgeward net eval int8.tflite --inputs leaves/ --labels scab,rot,rust,healthy
  edgeward net eval float.tflite int8.tflite --verify --inputs photographs/

With --labels, an image's right class is the name of the folder in which it lies. With --verify, what the
certificate in a file of `net compress` or `net distill` says is measured again: give its teacher first, and the
inputs that it was made with.")]
pub struct Args {
    /// The network to compare with, and those to compare: TFLite or ONNX files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    questions: QuestionArgs,
    /// Measure again what the networks' certificates say, and end with an error where one does not hold
    #[arg(long)]
    verify: bool,
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Serialize)]
struct Row {
    file: PathBuf,
    bytes: u64,
    n: usize,
    /// Share of inputs whose largest output is the first network's.
    same_top_1: f64,
    squared_error: f64,
    /// `None` where they do not differ.
    sqnr_db: Option<f64>,
    kl_divergence: Option<f64>,
    /// Share of inputs whose largest output is the right class.
    accuracy: Option<f64>,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    if args.verify {
        return verify::run(args);
    }
    let graphs =
        args.files.iter().map(|path| super::read(path, &args.network)).collect::<Result<Vec<_>, _>>()?;
    let mut rows = Vec::new();
    let mut first = None;
    for (path, graph) in args.files.iter().zip(&graphs) {
        let named = |error: edgeward_perceive::Error| FileError::new(path, error);
        let network = Network::new(graph, &args.network.options(1)).map_err(named)?;
        // Prepared once, for the first: all must see the same.
        if first.is_none() {
            first = Some(args.questions.read(&network)?);
        }
        let examples = first.as_ref().expect("read above");
        let agreement = Agreement::measure(&graphs[0], graph, &examples.values).map_err(named)?;
        let n_classes = network.outputs()[0].n_elements();
        let classes = args.questions.right_classes(examples, n_classes)?;
        let accuracy =
            classes.map(|classes| accuracy(graph, &examples.values, &classes)).transpose().map_err(named)?;
        rows.push(Row {
            file: path.clone(),
            bytes: std::fs::metadata(path)?.len(),
            n: agreement.n,
            same_top_1: agreement.top_1,
            squared_error: agreement.squared_error,
            sqnr_db: Some(agreement.sqnr_db).filter(|db| db.is_finite()),
            kl_divergence: agreement.kl_divergence,
            accuracy,
        });
    }
    if args.json {
        return output::print_json(&rows);
    }
    let mut table = Table::new(&[
        ("FILE", Align::Left),
        ("BYTES", Align::Right),
        ("INPUTS", Align::Right),
        ("SAME CLASS", Align::Right),
        ("SQNR DB", Align::Right),
        ("KL NATS", Align::Right),
        ("RIGHT", Align::Right),
    ]);
    for row in rows {
        let share = |share: f64| format!("{:.2} %", share * 100.0);
        table.row(vec![
            row.file.display().to_string(),
            row.bytes.to_string(),
            row.n.to_string(),
            share(row.same_top_1),
            row.sqnr_db.map_or_else(|| "equal".into(), |db| format!("{db:.1}")),
            row.kl_divergence.map_or_else(String::new, |kl| format!("{kl:.5}")),
            row.accuracy.map_or_else(String::new, share),
        ]);
    }
    table.print()?;
    Ok(())
}
