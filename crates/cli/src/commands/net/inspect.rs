//! `edgeward net inspect`: what a network is made of, and what running it takes.

use std::path::PathBuf;

use edgeward_perceive::network::Port;
use edgeward_perceive::{Graph, Network};
use serde::Serialize;

use super::NetworkArgs;
use crate::Outcome;
use crate::output::{self, Align, Table, print_line};
use crate::store::human_bytes;

/// Show what a network is made of: inputs, outputs, operators, and the memory that it needs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward net inspect keyword.tflite
  edgeward net inspect keyword.tflite --json")]
pub struct Args {
    /// A TFLite or ONNX file
    file: PathBuf,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Serialize)]
struct Report {
    inputs: Vec<PortReport>,
    outputs: Vec<PortReport>,
    operators: Vec<OperatorReport>,
    /// Numbers in constants.
    n_parameters: usize,
    weight_bytes: u64,
    arena_bytes: u64,
    /// Multiply-adds of one run.
    macs: u64,
}

#[derive(Serialize)]
struct PortReport {
    name: String,
    r#type: &'static str,
    shape: Vec<usize>,
    scale: Option<f32>,
    zero_point: Option<i32>,
}

#[derive(Serialize)]
struct OperatorReport {
    operator: &'static str,
    /// Of the first input.
    input: String,
    output: String,
    /// Numbers in its constants.
    n_parameters: usize,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let graph = super::read(&args.file, &args.network)?;
    let network = Network::new(&graph, &args.network.options(1))
        .map_err(|error| super::FileError { path: args.file.clone(), source: error.into() })?;
    let report = report(&graph, &network);
    if args.json {
        return output::print_json(&report);
    }
    for (title, ports) in [("input", network.inputs()), ("output", network.outputs())] {
        for port in ports {
            print_line(&format!("{title:<12} {}  {}", super::describe(port), port.name))?;
        }
    }
    print_line(&format!("parameters   {}", report.n_parameters))?;
    print_line(&format!("weights      {}, laid out for the kernels", human_bytes(report.weight_bytes)))?;
    print_line(&format!("arena        {} ({} bytes)", human_bytes(report.arena_bytes), report.arena_bytes))?;
    print_line(&format!("work         {:.2} million multiply-adds", report.macs as f64 / 1e6))?;
    print_line("")?;
    let columns = [
        ("OPERATOR", Align::Left),
        ("INPUT", Align::Left),
        ("OUTPUT", Align::Left),
        ("PARAMETERS", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for row in report.operators {
        table.row(vec![row.operator.to_owned(), row.input, row.output, row.n_parameters.to_string()]);
    }
    table.print()?;
    Ok(())
}

fn report(graph: &Graph, network: &Network) -> Report {
    let ports = |ports: &[Port]| ports.iter().map(port).collect();
    let n_elements =
        |id: usize| graph.tensors[id].constant.as_ref().map_or(0, |_| graph.tensors[id].n_elements());
    let kind = |id: usize| format!("{}{:?}", graph.tensors[id].element_type, graph.tensors[id].shape);
    let operators = graph.nodes.iter().map(|node| OperatorReport {
        operator: node.op.name(),
        input: node.inputs.iter().flatten().next().map_or_else(String::new, |id| kind(*id)),
        output: node.outputs.first().map_or_else(String::new, |id| kind(*id)),
        n_parameters: node.inputs.iter().flatten().map(|id| n_elements(*id)).sum(),
    });
    let cost = network.cost();
    Report {
        inputs: ports(network.inputs()),
        outputs: ports(network.outputs()),
        operators: operators.collect(),
        n_parameters: (0..graph.tensors.len()).map(n_elements).sum(),
        weight_bytes: cost.weight_bytes,
        arena_bytes: cost.arena_bytes,
        macs: cost.macs,
    }
}

fn port(port: &Port) -> PortReport {
    PortReport {
        name: port.name.clone(),
        r#type: port.element_type.name(),
        shape: port.shape.clone(),
        scale: port.quantization.map(|(scale, _)| scale),
        zero_point: port.quantization.map(|(_, zero)| zero),
    }
}
