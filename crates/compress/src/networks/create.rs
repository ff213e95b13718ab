//! A network from nothing: the small image classifier that every course begins with.

use edgeward_perceive::graph::{
    Activation, Constant, ElementType, Node, Op, Padding, Sliding, Tensor, TensorId,
};
use edgeward_perceive::{Error, Graph};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Rows and columns of each convolution's windows, and of each pooling's.
const WINDOW: usize = 3;
const POOL: usize = 2;
/// The most filters of a layer, and classes.
const MAX_CHANNELS: usize = 4096;

/// Convolutions with ReLU, each followed by the largest of two by two, and a dense layer with a softmax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classifier {
    /// Rows, columns and channels of its images.
    pub input: [usize; 3],
    /// Of each convolution: 32 and 64 make the usual one.
    pub filters: Vec<usize>,
    /// Its outputs, which are their probabilities.
    pub n_classes: usize,
}

impl Classifier {
    /// The graph with weights from this seed: uniform, of the variance that keeps signals of one size (He et al. 2015,
    /// "Delving Deep into Rectifiers"; Glorot and Bengio 2010 for the last layer). Train it before it is of any use.
    ///
    /// # Errors
    /// If an image is too small for so many convolutions, or there are none.
    pub fn graph(&self, seed: u64) -> Result<Graph, Error> {
        let refused = |what: String| Error::Unsupported { place: "a new network".into(), what };
        let [mut rows, mut columns, mut channels] = self.input;
        let all = self.filters.iter().chain([&self.n_classes, &channels]);
        if self.filters.is_empty() || all.into_iter().any(|n| !(1..=MAX_CHANNELS).contains(n)) {
            return Err(refused(format!("filters, channels and classes must be 1 to {MAX_CHANNELS}")));
        }
        let mut parts = Parts { graph: empty(), rng: ChaCha8Rng::seed_from_u64(seed) };
        let mut last = parts.tensor("image".into(), &[1, rows, columns, channels], None);
        parts.graph.inputs.push(last);
        for (i, n) in self.filters.iter().copied().enumerate() {
            if rows.min(columns) < WINDOW + POOL - 1 {
                let what = format!("images of {:?} are too small for {} convolutions", self.input, i + 1);
                return Err(refused(what));
            }
            let fan_in = WINDOW * WINDOW * channels;
            let name = format!("conv_{}", i + 1);
            let bound = (6.0 / fan_in as f64).sqrt();
            let weights = parts.weights(&name, &[n, WINDOW, WINDOW, channels], bound);
            let op = Op::Conv2d { sliding: sliding(1), activation: Activation::Relu };
            (rows, columns, channels) = (rows - WINDOW + 1, columns - WINDOW + 1, n);
            last = parts.node(op, &name, last, &weights, &[1, rows, columns, n]);
            (rows, columns) = (rows / POOL, columns / POOL);
            let op = Op::MaxPool2d { size: [POOL; 2], sliding: sliding(POOL), activation: Activation::None };
            last = parts.node(op, &format!("pool_{}", i + 1), last, &[], &[1, rows, columns, n]);
        }
        let n_features = rows * columns * channels;
        let shape = parts.tensor("shape".into(), &[2], Some(Constant::of_i32s(&[1, n_features as i32])));
        parts.graph.tensors[shape].element_type = ElementType::I32;
        let flat = Op::Reshape { shape: Some(vec![1, n_features as i32]) };
        last = parts.node(flat, "flat", last, &[shape], &[1, n_features]);
        let bound = (6.0 / (n_features + self.n_classes) as f64).sqrt();
        let weights = parts.weights("dense", &[self.n_classes, n_features], bound);
        let op = Op::FullyConnected { keeps_dims: false, activation: Activation::None };
        last = parts.node(op, "dense", last, &weights, &[1, self.n_classes]);
        last = parts.node(Op::Softmax { beta: 1.0 }, "probabilities", last, &[], &[1, self.n_classes]);
        parts.graph.outputs.push(last);
        Ok(parts.graph)
    }
}

fn empty() -> Graph {
    Graph { tensors: vec![], nodes: vec![], inputs: vec![], outputs: vec![] }
}

fn sliding(stride: usize) -> Sliding {
    Sliding { padding: Padding::Valid, stride: [stride; 2], dilation: [1; 2] }
}

struct Parts {
    graph: Graph,
    rng: ChaCha8Rng,
}

impl Parts {
    fn tensor(&mut self, name: String, shape: &[usize], constant: Option<Constant>) -> TensorId {
        let shape = shape.to_vec();
        let tensor = Tensor { name, element_type: ElementType::F32, shape, quantization: None, constant };
        self.graph.tensors.push(tensor);
        self.graph.tensors.len() - 1
    }

    /// Weights within `bound` of 0, and a bias of zeros.
    fn weights(&mut self, layer: &str, shape: &[usize], bound: f64) -> [TensorId; 2] {
        let number = |bits: u32| ((f64::from(bits) / f64::from(1u32 << 31) - 1.0) * bound) as f32;
        let numbers: Vec<f32> =
            (0..shape.iter().product::<usize>()).map(|_| number(self.rng.next_u32())).collect();
        let weights = self.tensor(format!("{layer}/weights"), shape, Some(Constant::of_f32s(&numbers)));
        let zeros = Constant::of_f32s(&vec![0.0; shape[0]]);
        [weights, self.tensor(format!("{layer}/bias"), &[shape[0]], Some(zeros))]
    }

    fn node(
        &mut self,
        op: Op,
        name: &str,
        input: TensorId,
        constants: &[TensorId],
        shape: &[usize],
    ) -> TensorId {
        let output = self.tensor(name.to_owned(), shape, None);
        let inputs = std::iter::once(&input).chain(constants).map(|id| Some(*id)).collect();
        self.graph.nodes.push(Node { op, inputs, outputs: vec![output] });
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeward_perceive::{Network, Options, tflite};

    #[test]
    fn networks_from_nothing() {
        for (input, n_features) in [([28, 28, 1], 5 * 5 * 64), ([32, 32, 3], 6 * 6 * 64)] {
            let wanted = Classifier { input, filters: vec![32, 64], n_classes: 10 };
            let graph = wanted.graph(7).unwrap();
            assert_eq!(graph.nodes.len(), 7);
            // As TFLite and back.
            let graph = tflite::read(tflite::write(&graph).unwrap().into()).unwrap();
            let mut network = Network::new(&graph, &Options::default()).unwrap();
            network.set_input(0, &vec![0.5; input.iter().product()]).unwrap();
            network.run();
            let mut output = [0.0; 10];
            network.output(0, &mut output).unwrap();
            assert!((output.iter().sum::<f32>() - 1.0).abs() < 1e-5 && output.iter().all(|p| *p > 0.001));
            let n_weights: usize =
                graph.tensors.iter().filter(|t| t.name.contains('/')).map(|t| t.n_elements()).sum();
            assert_eq!(n_weights, (9 * input[2] + 1) * 32 + (288 + 1) * 64 + (n_features + 1) * 10);
            let bytes = |seed| tflite::write(&wanted.graph(seed).unwrap()).unwrap();
            assert!(bytes(7) == bytes(7) && bytes(7) != bytes(8));
        }
        let small = Classifier { input: [9, 9, 1], filters: vec![4, 4], n_classes: 2 };
        assert!(small.graph(0).unwrap_err().to_string().contains("too small for 2"));
        let none = Classifier { input: [9, 9, 1], filters: vec![], n_classes: 2 };
        assert!(none.graph(0).is_err());
    }
}
