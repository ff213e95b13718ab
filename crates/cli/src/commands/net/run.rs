//! `edgeward net run`: a network's answer to inputs as plain numbers.
//!
//! Inputs and outputs are raw little-endian elements of the network's own types, as `numpy.tofile` writes and
//! `numpy.fromfile` reads them: what other programs prepare needs no format of ours.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use edgeward_perceive::Network;
use edgeward_perceive::graph::ElementType;
use edgeward_perceive::network::Port;
use serde::Serialize;

use super::NetworkArgs;
use crate::Outcome;
use crate::output::{Align, Table, print_line};

/// Largest values of an output that people are shown.
const N_SHOWN: usize = 5;

/// Run a network on inputs as plain numbers
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward net run keyword.tflite features.bin
  edgeward net run keyword.tflite many.bin --json
  edgeward net run keyword.tflite - --output answers.bin < many.bin

An input is the network's elements (int8 or float32, little-endian), and nothing else; what an ONNX file
wants as integers is given as float32, too. A network with
several inputs takes them one after the other. A file may hold many: each is answered in turn.")]
pub struct Args {
    /// A TFLite or ONNX file
    file: PathBuf,
    /// Files of inputs, `-` for standard input
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    /// Write the outputs to a file, as raw elements of the network's own types
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Print a line of JSON for each input: its outputs as numbers
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Threads
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Serialize)]
struct Answer<'a> {
    input: &'a str,
    /// From 0, within its file.
    idx: usize,
    outputs: &'a [Vec<f32>],
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let mut network = super::open(&args.file, &args.network, usize::from(args.threads))?;
    let sink = args.output.as_deref().map(|path| File::create(path).map(BufWriter::new));
    let mut sink = sink.transpose().map_err(|error| named(args.output.as_deref(), error))?;
    for path in &args.inputs {
        let source: Box<dyn Read> = if path.as_os_str() == "-" {
            Box::new(io::stdin().lock())
        } else {
            Box::new(BufReader::new(File::open(path).map_err(|error| named(Some(path), error))?))
        };
        answer_all(&mut network, path, source, args, sink.as_mut())?;
    }
    if let Some(mut sink) = sink {
        sink.flush().map_err(|error| named(args.output.as_deref(), error))?;
    }
    Ok(())
}

fn named(path: Option<&Path>, error: io::Error) -> io::Error {
    let path = path.map_or_else(String::new, |path| path.display().to_string());
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

fn answer_all(
    network: &mut Network,
    path: &Path,
    mut source: impl Read,
    args: &Args,
    mut sink: Option<&mut BufWriter<File>>,
) -> Outcome {
    let size_of = |port: &Port| port.n_elements() * port.element_type.size_bytes();
    let sizes: Vec<usize> = network.inputs().iter().map(size_of).collect();
    let mut bytes = vec![0; sizes.iter().sum()];
    let mut outputs: Vec<Vec<f32>> =
        network.outputs().iter().map(|port| vec![0.0; port.n_elements()]).collect();
    let shown = path.display().to_string();
    for idx in 0.. {
        match fill(&mut source, &mut bytes).map_err(|error| named(Some(path), error))? {
            0 if idx > 0 => break,
            n if n < bytes.len() => {
                let what = "an input has {} bytes, and this one ends after";
                return Err(format!("{shown}: {} {n}", what.replace("{}", &bytes.len().to_string())).into());
            }
            _ => {}
        }
        let mut rest = bytes.as_slice();
        for (port, size) in sizes.iter().enumerate() {
            let (input, others) = rest.split_at(*size);
            give(network, port, input)?;
            rest = others;
        }
        network.run();
        if let Some(sink) = sink.as_mut() {
            for port in 0..network.outputs().len() {
                take(network, port, *sink)?;
            }
            continue;
        }
        for (port, values) in outputs.iter_mut().enumerate() {
            network.output(port, values)?;
        }
        if args.json {
            print_line(&serde_json::to_string(&Answer { input: &shown, idx, outputs: &outputs })?)?;
        } else {
            print_answer(network, &shown, idx, &outputs)?;
        }
    }
    Ok(())
}

/// Reads until `bytes` is full or the source ends; how many it read.
fn fill(source: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < bytes.len() {
        match source.read(&mut bytes[n..]) {
            Ok(0) => break,
            Ok(read) => n += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}

fn give(network: &mut Network, port: usize, bytes: &[u8]) -> Result<(), edgeward_perceive::Error> {
    if network.inputs()[port].element_type == ElementType::I8 {
        let values: Vec<i8> = bytes.iter().map(|byte| *byte as i8).collect();
        return network.set_input_bytes(port, &values);
    }
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    network.set_input(port, &values)
}

fn take(network: &Network, port: usize, sink: &mut impl Write) -> Outcome {
    let n_elements = network.outputs()[port].n_elements();
    if network.outputs()[port].element_type == ElementType::I8 {
        let mut values = vec![0; n_elements];
        network.output_bytes(port, &mut values)?;
        sink.write_all(&values.iter().map(|value| *value as u8).collect::<Vec<u8>>())?;
    } else {
        let mut values = vec![0.0; n_elements];
        network.output(port, &mut values)?;
        sink.write_all(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    Ok(())
}

/// The largest values of each output.
fn print_answer(network: &Network, input: &str, idx: usize, outputs: &[Vec<f32>]) -> Outcome {
    print_line(&format!("{input}, input {idx}"))?;
    for (port, values) in network.outputs().iter().zip(outputs) {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
        let mut table = Table::new(&[("IDX", Align::Right), ("VALUE", Align::Right), ("OF", Align::Left)]);
        for at in order.into_iter().take(N_SHOWN) {
            table.row(vec![at.to_string(), format!("{:.4}", values[at]), port.name.clone()]);
        }
        table.print()?;
    }
    Ok(())
}
