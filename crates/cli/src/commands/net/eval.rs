//! `edgeward net eval`: how near networks are to another one, and how often they are right.

use std::path::PathBuf;

use edgeward_compress::networks::Agreement;
use edgeward_perceive::Network;
use edgeward_perceive::vision::top;
use serde::Serialize;

use super::{FileError, NetworkArgs, examples};
use crate::Outcome;
use crate::commands::pictures::PictureArgs;
use crate::commands::see::labels;
use crate::output::{self, Align, Table};

/// Compare networks on the same inputs: how often they agree with the first, and are right
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward net eval float.tflite int8.tflite --inputs photographs/
  edgeward net eval float.tflite a.tflite b.tflite --inputs inputs.f32 --json
  edgeward net eval int8.tflite --inputs leaves/ --labels scab,rot,rust,healthy

With --labels, an image's right class is the name of the folder in which it lies.")]
pub struct Args {
    /// The network to compare with, and those to compare: TFLite or ONNX files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Images, folders of images, or files of float32 numbers, one input after the other
    #[arg(long, short, required = true, num_args = 1..)]
    inputs: Vec<PathBuf>,
    /// Names of the classes, in order, as `edgeward see` takes them
    #[arg(long, short)]
    labels: Option<String>,
    /// Most inputs to use
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    examples: u32,
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pictures: PictureArgs,
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
    /// Share of images whose likeliest class is the name of their folder.
    accuracy: Option<f64>,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let graphs =
        args.files.iter().map(|path| super::read(path, &args.network)).collect::<Result<Vec<_>, _>>()?;
    let mut rows = Vec::new();
    let mut first = None;
    for (path, graph) in args.files.iter().zip(&graphs) {
        let named = |error: edgeward_perceive::Error| FileError::new(path, error);
        let mut network = Network::new(graph, &args.network.options(1)).map_err(named)?;
        // Prepared once, for the first: all must see the same.
        if first.is_none() {
            first = Some(examples::read(&args.inputs, &network, &args.pictures, args.examples as usize)?);
        }
        let examples = first.as_ref().expect("read above");
        let agreement = Agreement::measure(&graphs[0], graph, &examples.values).map_err(named)?;
        let accuracy = match &args.labels {
            None => None,
            Some(given) => Some(accuracy(given, examples, &mut network)?),
        };
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

fn accuracy(
    given: &str,
    examples: &examples::Examples,
    network: &mut Network,
) -> Result<f64, Box<dyn std::error::Error>> {
    let labels = labels(Some(given), network.outputs()[0].n_elements())?;
    let classes = examples.classes(&labels)?;
    let mut n_right = 0;
    let mut scores = vec![0.0; labels.len()];
    for (example, class) in examples.values.iter().zip(&classes) {
        network.set_input(0, &example[0])?;
        network.run();
        network.output(0, &mut scores)?;
        n_right += usize::from(top(&scores, 1)[0].0 == *class);
    }
    Ok(n_right as f64 / classes.len() as f64)
}
