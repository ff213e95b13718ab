//! Small networks made smaller: pruning, distillation, eight bits, and how far the result is from what it was made of.
//!
//! - [`Classifier`] is a network from nothing, [`train`] teaches one, [`distill()`] makes a small one of a large one: it leaves
//!   out channels ([`prune()`]), teaches what is left, and lets it learn to bear eight bits.
//! - [`calibrate`] runs the float network on examples and keeps what each activation was like ([`Statistics`]).
//! - [`quantize`] makes the eight-bit graph: weights by output channel, activations by the ranges that a [`Method`]
//!   takes from the statistics, biases corrected for what rounding the weights does to a layer's mean output.
//! - [`Agreement`] compares two networks on the same inputs.
//!
//! Scales and zero points are as TFLite's specification of eight-bit quantisation wants them
//! (ai.google.dev/edge/litert/models/quantization_spec), so that any runtime takes the file.

mod agreement;
pub mod certificate;
mod channels;
mod create;
mod distill;
mod prune;
mod quantize;
mod statistics;
#[cfg(test)]
mod testing;
pub mod train;

pub use agreement::Agreement;
pub use create::Classifier;
pub use distill::{Distilled, Phase, Plan, accuracy, distill};
pub use prune::{Options as PruneOptions, multiplications, prune};
pub use quantize::{Options, Scales, quantize, quantize_with};
pub use statistics::{Method, Statistics, calibrate};

use edgeward_perceive::graph::Op;
use edgeward_perceive::{Error, Graph, Network};

/// Runs `graph` with the best instructions of this processor.
/// Whether an operator only computes shapes, which are known.
fn is_of_shapes(op: &Op) -> bool {
    matches!(op, Op::Shape | Op::StridedSlice { .. } | Op::Pack { .. })
}

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
