//! Small networks made smaller: pruning, distillation, eight bits, and how far the result is from what it was made of.
//!
//! - [`Classifier`] is a network from nothing, [`train`] teaches one, [`distill()`] makes a small one of a large one: it leaves
//!   out channels ([`prune()`]), teaches what is left, and lets it learn to bear eight bits.
//! - [`calibrate`] runs the float network on examples and keeps what each activation was like ([`Statistics`]).
//! - [`quantize`] makes the eight-bit graph: weights by output channel, activations by the ranges that a [`Method`]
//!   takes from the statistics, biases corrected for what rounding the weights does to a layer's mean output. What has no
//!   eight-bit form stays in floats. [`equalize()`] makes a layer's channels equally large before that, and [`mix`] leaves so
//!   much in floats that the answers stay as near as is asked.
//! - [`Agreement`] compares two networks on the same inputs.
//!
//! Scales and zero points are as TFLite's specification of eight-bit quantisation wants them
//! (ai.google.dev/edge/litert/models/quantization_spec), so that any runtime takes the file.

mod agreement;
pub mod certificate;
mod channels;
mod create;
mod distill;
mod equalize;
mod mixed;
mod prune;
mod quantize;
mod statistics;
#[cfg(test)]
mod testing;
pub mod train;

pub use agreement::Agreement;
pub use create::Classifier;
pub use distill::{Distilled, Phase, Plan, accuracy, distill};
pub use equalize::{Equalization, equalize};
pub use mixed::{Mixed, mix};
pub use prune::{Options as PruneOptions, multiplications, prune};
pub use quantize::{Options, Scales, quantize, quantize_with};
pub use statistics::{Method, Statistics, calibrate};

use edgeward_perceive::graph::{ElementType, Node, TensorId};
use edgeward_perceive::{Error, Graph, Network};

/// All inputs of a network for one run, `[n_inputs][n_elements]`.
pub type Example = Vec<Vec<f32>>;

/// Whether a node computes shapes, which are known, and integers.
fn is_of_shapes(graph: &Graph, node: &Node) -> bool {
    graph.tensors[node.outputs[0]].element_type == ElementType::I32
}

/// What a node is given of the numbers that a network works on, by their places among its inputs: no constants, no shapes.
fn activation_inputs<'a>(graph: &'a Graph, node: &'a Node) -> impl Iterator<Item = (usize, TensorId)> + 'a {
    let given = node.inputs.iter().enumerate().filter_map(|(place, id)| Some((place, (*id)?)));
    given.filter(|(_, id)| {
        graph.tensors[*id].constant.is_none() && graph.tensors[*id].element_type != ElementType::I32
    })
}

/// `graph`, run with the best instructions of this processor.
fn network(graph: &Graph) -> Result<Network, Error> {
    Network::new(graph, &edgeward_perceive::Options::default())
}

/// A network's answer to one example: all outputs, as numbers.
fn answer(network: &mut Network, example: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, Error> {
    if example.len() != network.inputs().len() {
        let what = format!("the network takes {} inputs, not {}", network.inputs().len(), example.len());
        return Err(Error::Mismatch { what });
    }
    for (port, values) in example.iter().enumerate() {
        network.set_input(port, values)?;
    }
    network.run();
    (0..network.outputs().len())
        .map(|port| {
            let mut values = vec![0.0; network.outputs()[port].n_elements()];
            network.output(port, &mut values)?;
            Ok(values)
        })
        .collect()
}
