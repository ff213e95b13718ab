//! `edgeward net run`: a network's answer to inputs as plain numbers.
//!
//! Inputs and outputs are raw little-endian elements of the network's own types, as `numpy.tofile` writes and
//! `numpy.fromfile` reads them: what other programs prepare needs no format of ours.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use edgeward_perceive::Network;
use edgeward_perceive::ensemble::{Cascade, Ensemble};
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
  edgeward net run small.tflite --then large.tflite --sure 0.9 features.f32
  edgeward net run a.tflite --with b.tflite,c.tflite features.f32 --json

An input is the network's elements (int8 or float32, little-endian), and nothing else; what an ONNX file
wants as integers is given as float32, too. A network with
several inputs takes them one after the other. A file may hold many: each is answered in turn.

Several networks (--with, --then) take all inputs as float32, and give the probabilities of classes;
`edgeward net cascade` shows what --sure costs and gains.")]
pub struct Args {
    /// A TFLite or ONNX file
    file: PathBuf,
    /// Files of inputs, `-` for standard input
    #[arg(required = true)]
    inputs: Vec<PathBuf>,
    /// Networks whose probabilities are averaged with the first's
    #[arg(long, value_name = "FILE,...", value_delimiter = ',')]
    with: Vec<PathBuf>,
    /// Larger networks, each asked only where those before it are not sure
    #[arg(long, value_name = "FILE,...", value_delimiter = ',')]
    then: Vec<PathBuf>,
    /// How sure is sure enough not to ask the next: the largest probability, 0 to 1
    #[arg(long, default_value_t = 0.9, value_parser = share)]
    sure: f32,
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

fn share(text: &str) -> Result<f32, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "give a number from 0 to 1".to_owned())
}

#[derive(Serialize)]
struct Answer<'a> {
    input: &'a str,
    /// Of several networks, which was asked last, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<usize>,
    /// From 0, within its file.
    idx: usize,
    outputs: &'a [Vec<f32>],
}

/// Who answers.
enum Who {
    One(Box<Network>),
    /// All stages have the inputs of the first network.
    Several(Cascade),
}

impl Who {
    fn new(args: &Args) -> Result<Who, Box<dyn std::error::Error>> {
        let open = |path: &PathBuf| super::open(path, &args.network, usize::from(args.threads));
        let first = open(&args.file)?;
        if args.with.is_empty() && args.then.is_empty() {
            return Ok(Who::One(Box::new(first)));
        }
        let mut members = vec![first];
        for path in &args.with {
            members.push(open(path)?);
        }
        let mut stages = vec![Ensemble::new(members)?];
        for path in &args.then {
            stages.push(Ensemble::new(vec![open(path)?])?);
        }
        Ok(Who::Several(Cascade::new(stages, args.sure)?))
    }

    fn inputs(&self) -> &[Port] {
        match self {
            Who::One(network) => network.inputs(),
            Who::Several(cascade) => cascade.stages()[0].members()[0].inputs(),
        }
    }

    /// Bytes of each input.
    fn input_sizes(&self) -> Vec<usize> {
        let size_of = |port: &Port| match self {
            Who::One(_) => port.n_elements() * port.element_type.size_bytes(),
            Who::Several(_) => port.n_elements() * size_of::<f32>(),
        };
        self.inputs().iter().map(size_of).collect()
    }

    fn outputs(&self) -> &[Port] {
        match self {
            Who::One(network) => network.outputs(),
            Who::Several(cascade) => &cascade.stages()[0].members()[0].outputs()[..1],
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let mut who = Who::new(args)?;
    let sink = args.output.as_deref().map(|path| File::create(path).map(BufWriter::new));
    let mut sink = sink.transpose().map_err(|error| named(args.output.as_deref(), error))?;
    for path in &args.inputs {
        let source: Box<dyn Read> = if path.as_os_str() == "-" {
            Box::new(io::stdin().lock())
        } else {
            Box::new(BufReader::new(File::open(path).map_err(|error| named(Some(path), error))?))
        };
        answer_all(&mut who, path, source, args, sink.as_mut())?;
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
    who: &mut Who,
    path: &Path,
    mut source: impl Read,
    args: &Args,
    mut sink: Option<&mut BufWriter<File>>,
) -> Outcome {
    let sizes = who.input_sizes();
    let mut bytes = vec![0; sizes.iter().sum()];
    let mut outputs: Vec<Vec<f32>> = who.outputs().iter().map(|port| vec![0.0; port.n_elements()]).collect();
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
        let inputs = sizes.iter().map(|size| {
            let (input, others) = rest.split_at(*size);
            rest = others;
            input
        });
        let stage = match who {
            Who::One(network) => {
                for (port, input) in inputs.enumerate() {
                    give(network, port, input)?;
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
                None
            }
            Who::Several(cascade) => {
                let inputs: Vec<Vec<f32>> = inputs.map(floats).collect();
                let answer = cascade.ask(&inputs.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
                if let Some(sink) = sink.as_mut() {
                    for p in answer.probabilities {
                        sink.write_all(&p.to_le_bytes())?;
                    }
                    continue;
                }
                outputs[0].copy_from_slice(answer.probabilities);
                Some(answer.stage)
            }
        };
        if args.json {
            print_line(&serde_json::to_string(&Answer { input: &shown, stage, idx, outputs: &outputs })?)?;
        } else {
            let of_stage = stage.map_or_else(String::new, |stage| format!(", answered by stage {stage}"));
            print_answer(who.outputs(), &format!("{shown}, input {idx}{of_stage}"), &outputs)?;
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
    network.set_input(port, &floats(bytes))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
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
fn print_answer(ports: &[Port], title: &str, outputs: &[Vec<f32>]) -> Outcome {
    print_line(title)?;
    for (port, values) in ports.iter().zip(outputs) {
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
