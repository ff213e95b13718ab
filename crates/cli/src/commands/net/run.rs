//! `edgeward net run`: a network's answer to inputs as plain numbers.
//!
//! Inputs and outputs are raw little-endian elements of the network's own types, as `numpy.tofile` writes and
//! `numpy.fromfile` reads them: what other programs prepare needs no format of ours.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_perceive::Network;
use edgeward_perceive::ensemble::{Cascade, Ensemble};
use edgeward_perceive::graph::ElementType;
use edgeward_perceive::network::Port;
use edgeward_perceive::queue::{Pending, Queue};
use serde::Serialize;

use super::{FileError, NetworkArgs};
use crate::Outcome;
use crate::output::{Align, Table, print_line};

/// Largest values of an output that people are shown.
const N_SHOWN: usize = 5;

/// Run a network on inputs as plain numbers
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward net run keyword.tflite features.bin
  edgeward net run keyword.tflite many.bin --json --parallel 4
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
    /// Threads that work on one input together
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Inputs that are worked on at the same time, each by a network of its own: the fastest for many inputs
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with_all = ["with", "then"], value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
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
    /// The same network for several inputs at the same time.
    Same(Queue),
    /// All stages have the inputs of the first network.
    Several(Cascade),
}

impl Who {
    fn new(args: &Args) -> Result<Who, Box<dyn std::error::Error>> {
        let n_threads = usize::from(args.threads);
        if args.with.is_empty() && args.then.is_empty() {
            if args.parallel == 1 {
                return Ok(Who::One(Box::new(super::open(&args.file, &args.network, n_threads)?)));
            }
            let graph = super::read(&args.file, &args.network)?;
            let queue = Queue::new(&graph, &args.network.options(n_threads), usize::from(args.parallel));
            return Ok(Who::Same(queue.map_err(|error| FileError::new(&args.file, error))?));
        }
        let open = |path: &PathBuf| super::open(path, &args.network, n_threads);
        let mut members = vec![open(&args.file)?];
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
            Who::Same(queue) => queue.inputs(),
            Who::Several(cascade) => cascade.stages()[0].members()[0].inputs(),
        }
    }

    /// Bytes of each input.
    fn input_sizes(&self) -> Vec<usize> {
        let size_of = |port: &Port| match self {
            Who::Several(_) => port.n_elements() * size_of::<f32>(),
            _ => port.n_elements() * port.element_type.size_bytes(),
        };
        self.inputs().iter().map(size_of).collect()
    }

    fn outputs(&self) -> &[Port] {
        match self {
            Who::One(network) => network.outputs(),
            Who::Same(queue) => queue.outputs(),
            Who::Several(cascade) => &cascade.stages()[0].members()[0].outputs()[..1],
        }
    }
}

/// What a network gave.
enum Outputs {
    /// Of each output.
    Numbers(Vec<Vec<f32>>),
    /// As they are, one output after the other.
    Raw(Vec<u8>),
}

/// Where answers go.
struct Sink<'a> {
    file: Option<(&'a Path, BufWriter<File>)>,
    is_json: bool,
    ports: Vec<Port>,
}

impl Sink<'_> {
    /// Takes the answer to input `idx` of `input`, and from which stage of several it is.
    fn put(&mut self, (input, idx): (&str, usize), stage: Option<usize>, outputs: &Outputs) -> Outcome {
        match (outputs, &mut self.file) {
            (Outputs::Raw(bytes), Some((path, file))) => {
                Ok(file.write_all(bytes).map_err(|error| named(Some(path), error))?)
            }
            (Outputs::Numbers(outputs), Some((path, file))) => {
                let bytes: Vec<u8> = outputs.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
                Ok(file.write_all(&bytes).map_err(|error| named(Some(path), error))?)
            }
            (Outputs::Numbers(outputs), None) if self.is_json => {
                print_line(&serde_json::to_string(&Answer { input, stage, idx, outputs })?)
                    .map_err(Into::into)
            }
            (Outputs::Numbers(outputs), None) => {
                let of_stage = stage.map_or_else(String::new, |stage| format!(", answered by stage {stage}"));
                print_answer(&self.ports, &format!("{input}, input {idx}{of_stage}"), outputs)
            }
            (Outputs::Raw(_), None) => unreachable!("raw outputs are for files"),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let mut who = Who::new(args)?;
    let file = args.output.as_deref().map(|path| -> io::Result<_> {
        let file = File::create(path).map_err(|error| named(Some(path), error))?;
        Ok((path, BufWriter::new(file)))
    });
    let mut sink = Sink { file: file.transpose()?, is_json: args.json, ports: who.outputs().to_vec() };
    for path in &args.inputs {
        let source: Box<dyn Read> = if path.as_os_str() == "-" {
            Box::new(io::stdin().lock())
        } else {
            Box::new(BufReader::new(File::open(path).map_err(|error| named(Some(path), error))?))
        };
        answer_all(&mut who, path, source, usize::from(args.parallel), &mut sink)?;
    }
    if let Some((path, mut file)) = sink.file {
        file.flush().map_err(|error| named(Some(path), error))?;
    }
    Ok(())
}

fn named(path: Option<&Path>, error: io::Error) -> io::Error {
    let path = path.map_or_else(String::new, |path| path.display().to_string());
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// Answers all inputs of a source, in order, `n_parallel` of them at the same time.
fn answer_all(
    who: &mut Who,
    path: &Path,
    mut source: impl Read,
    n_parallel: usize,
    sink: &mut Sink<'_>,
) -> Outcome {
    let sizes = who.input_sizes();
    let shown = path.display().to_string();
    let is_raw = sink.file.is_some();
    match who {
        Who::One(network) => {
            let mut idx = 0;
            each_input(path, &mut source, sizes.iter().sum(), |bytes| {
                sink.put((&shown, idx), None, &ask(network, &sizes, bytes, is_raw)?)?;
                idx += 1;
                Ok(())
            })
        }
        Who::Same(queue) => {
            let sizes: Arc<[usize]> = sizes.into();
            let mut pending = VecDeque::new();
            let mut n_answered = 0;
            let mut put_first = |pending: &mut VecDeque<Pending<_>>| -> Outcome {
                let Some(first) = pending.pop_front() else { return Ok(()) };
                let outputs: Result<Outputs, edgeward_perceive::Error> = first.wait();
                sink.put((&shown, n_answered), None, &outputs?)?;
                n_answered += 1;
                Ok(())
            };
            let all_read = each_input(path, &mut source, sizes.iter().sum(), |bytes| {
                let (sizes, bytes) = (Arc::clone(&sizes), bytes.to_vec());
                pending.push_back(queue.submit(move |network| ask(network, &sizes, &bytes, is_raw)));
                // So many wait that no worker has to.
                if pending.len() >= 2 * n_parallel { put_first(&mut pending) } else { Ok(()) }
            });
            while !pending.is_empty() {
                put_first(&mut pending)?;
            }
            all_read
        }
        Who::Several(cascade) => {
            let mut idx = 0;
            each_input(path, &mut source, sizes.iter().sum(), |bytes| {
                let inputs: Vec<Vec<f32>> = parts(bytes, &sizes).map(floats).collect();
                let answer = cascade.ask(&inputs.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
                let outputs = Outputs::Numbers(vec![answer.probabilities.to_vec()]);
                sink.put((&shown, idx), Some(answer.stage), &outputs)?;
                idx += 1;
                Ok(())
            })
        }
    }
}

/// Gives `take` each of the inputs of `size_bytes` in `source`, of which there is one at least.
fn each_input(
    path: &Path,
    source: &mut impl Read,
    size_bytes: usize,
    mut take: impl FnMut(&[u8]) -> Outcome,
) -> Outcome {
    let mut bytes = vec![0; size_bytes];
    for idx in 0.. {
        match fill(source, &mut bytes).map_err(|error| named(Some(path), error))? {
            0 if idx > 0 => break,
            n if n < size_bytes => {
                let path = path.display();
                return Err(
                    format!("{path}: an input has {size_bytes} bytes, and this one ends after {n}").into()
                );
            }
            _ => take(&bytes)?,
        }
    }
    Ok(())
}

/// `bytes` in parts of these sizes.
fn parts<'a>(bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    sizes.iter().map(move |size| {
        let (part, others) = rest.split_at(*size);
        rest = others;
        part
    })
}

/// The answer to all inputs, one after the other in `bytes`.
fn ask(
    network: &mut Network,
    sizes: &[usize],
    bytes: &[u8],
    is_raw: bool,
) -> Result<Outputs, edgeward_perceive::Error> {
    for (port, input) in parts(bytes, sizes).enumerate() {
        give(network, port, input)?;
    }
    network.run();
    let n_outputs = network.outputs().len();
    if is_raw {
        let mut bytes = Vec::new();
        for port in 0..n_outputs {
            take(network, port, &mut bytes)?;
        }
        return Ok(Outputs::Raw(bytes));
    }
    let numbers = (0..n_outputs).map(|port| {
        let mut values = vec![0.0; network.outputs()[port].n_elements()];
        network.output(port, &mut values)?;
        Ok(values)
    });
    Ok(Outputs::Numbers(numbers.collect::<Result<_, edgeward_perceive::Error>>()?))
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

/// Appends an output as it is.
fn take(network: &Network, port: usize, bytes: &mut Vec<u8>) -> Result<(), edgeward_perceive::Error> {
    let n_elements = network.outputs()[port].n_elements();
    if network.outputs()[port].element_type == ElementType::I8 {
        let mut values = vec![0; n_elements];
        network.output_bytes(port, &mut values)?;
        bytes.extend(values.iter().map(|value| *value as u8));
    } else {
        let mut values = vec![0.0; n_elements];
        network.output(port, &mut values)?;
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
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
