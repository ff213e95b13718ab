//! The device's senses: small networks for images, sounds and sensors.
//!
//! - [`tflite::read`] and [`onnx::read`] turn a file into a [`Graph`]: typed, checked, whatever the file was;
//!   [`tflite::write`] and [`onnx::write`] turn it into a file again, and [`Format`] chooses between them.
//! - [`Network`] is a graph made ready to run: weights laid out for the registers, memory planned, so that a run
//!   allocates nothing.
//! - [`queue`] asks a network without waiting, and many inputs at a time.
//! - [`ensemble`] asks several networks: all of them, or a larger one where a smaller one is not sure.
//! - [`sound`] is WAV files, what networks hear of them, and a network that listens.
//! - [`vision`] is image files, what networks see of them, and what they say drawn into them.
//! - [`table`] reads measurements, [`sensor`] makes them ready, [`anomaly`] says which are unusual.
//! - [`text`] is normalised and cut into sentences and words, English and Chinese.
//! - [`learner`] learns from a few examples, on features of images, clips and tables; [`augment`] makes more of them.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use edgeward_perceive::{Network, Options, tflite};
//!
//! let graph = tflite::read(std::fs::read("keyword.tflite")?.into())?;
//! let mut network = Network::new(&graph, &Options::default())?;
//! network.set_input(0, &vec![0.0; network.inputs()[0].n_elements()])?;
//! network.run();
//! let mut probabilities = vec![0.0; network.outputs()[0].n_elements()];
//! network.output(0, &mut probabilities)?;
//! # Ok(())
//! # }
//! ```
//!
//! This crate computes on the kernels of `edgeward-kernels` and knows no language models.
#![forbid(unsafe_code)]

pub mod anomaly;
pub mod augment;
pub mod ensemble;
pub mod error;
pub mod format;
pub mod graph;
pub mod learner;
pub mod network;
pub mod onnx;
pub mod queue;
pub mod sensor;
pub mod sound;
pub mod table;
pub mod text;
pub mod tflite;
pub mod vision;

pub use error::Error;
pub use format::Format;
pub use graph::Graph;
pub use network::{Arithmetic, Network, Options};
