//! Networks for tests.

use edgeward_perceive::Graph;
use edgeward_perceive::graph::{Activation, Constant, ElementType, Node, Op, Padding, Sliding, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A graph in the making, of random weights.
pub struct Builder {
    graph: Graph,
    rng: ChaCha8Rng,
}

impl Builder {
    pub fn new(shape: &[usize]) -> Builder {
        let graph = Graph { tensors: vec![], nodes: vec![], inputs: vec![0], outputs: vec![] };
        let mut builder = Builder { graph, rng: ChaCha8Rng::seed_from_u64(1) };
        builder.tensor(shape, None);
        builder
    }

    fn tensor(&mut self, shape: &[usize], constant: Option<Constant>) -> usize {
        let name = format!("tensor {}", self.graph.tensors.len());
        let element_type = ElementType::F32;
        self.graph.tensors.push(Tensor {
            name,
            element_type,
            shape: shape.to_vec(),
            quantization: None,
            constant,
        });
        self.graph.tensors.len() - 1
    }

    /// Numbers from -1 to 1.
    pub fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    fn weights(&mut self, shape: &[usize]) -> usize {
        let numbers = self.numbers(shape.iter().product());
        self.tensor(shape, Some(Constant::of_f32s(&numbers)))
    }

    fn axes(&mut self) -> usize {
        let id = self.tensor(&[2], Some(Constant::of_i32s(&[1, 2])));
        self.graph.tensors[id].element_type = ElementType::I32;
        id
    }

    /// A node of these inputs after the first.
    fn node(&mut self, op: Op, input: usize, others: &[usize], shape: &[usize]) -> usize {
        let output = self.tensor(shape, None);
        let inputs = std::iter::once(&input).chain(others).map(|id| Some(*id)).collect();
        self.graph.nodes.push(Node { op, inputs, outputs: vec![output] });
        output
    }

    fn finish(mut self, output: usize) -> Graph {
        self.graph.outputs = vec![output];
        self.graph
    }
}

fn sliding(padding: Padding, stride: usize, dilation: usize) -> Sliding {
    Sliding { padding, stride: [stride; 2], dilation: [dilation; 2] }
}

/// One of each operator that can be trained.
pub fn everything() -> Graph {
    let mut b = Builder::new(&[1, 9, 8, 2]);
    let (same, valid) = (Padding::Same, Padding::Valid);
    let others = [b.weights(&[6, 3, 3, 2]), b.weights(&[6])];
    let op = Op::Conv2d { sliding: sliding(same, 2, 1), activation: Activation::Relu6 };
    let a = b.node(op, 0, &others, &[1, 5, 4, 6]);
    let others = [b.weights(&[1, 3, 3, 6]), b.weights(&[6])];
    let op =
        Op::DepthwiseConv2d { sliding: sliding(same, 1, 1), multiplier: 1, activation: Activation::None };
    let c = b.node(op, a, &others, &[1, 5, 4, 6]);
    let sum = b.node(Op::Add { activation: Activation::Relu }, a, &[c], &[1, 5, 4, 6]);
    let others = [b.weights(&[4, 2, 2, 6])];
    let op = Op::Conv2d { sliding: sliding(valid, 1, 2), activation: Activation::None };
    let dilated = b.node(op, sum, &others, &[1, 3, 2, 4]);
    let op = Op::MaxPool2d { size: [2, 2], sliding: sliding(same, 2, 1), activation: Activation::None };
    let largest = b.node(op, dilated, &[], &[1, 2, 1, 4]);
    let others = [b.weights(&[1, 2, 1, 8])];
    let op =
        Op::DepthwiseConv2d { sliding: sliding(same, 1, 1), multiplier: 2, activation: Activation::None };
    let wide = b.node(op, largest, &others, &[1, 2, 1, 8]);
    let op = Op::AveragePool2d { size: [3, 3], sliding: sliding(same, 1, 1), activation: Activation::None };
    let mean = b.node(op, wide, &[], &[1, 2, 1, 8]);
    let flat = b.node(Op::Reshape { shape: Some(vec![-1, 16]) }, mean, &[], &[1, 16]);
    let others = [b.weights(&[5, 16]), b.weights(&[5])];
    let op = Op::FullyConnected { keeps_dims: false, activation: Activation::None };
    let dense = b.node(op, flat, &others, &[1, 5]);
    let axes = b.axes();
    let middle = b.node(Op::Mean { keeps_dims: false }, sum, &[axes], &[1, 6]);
    let others = [b.weights(&[5, 6])];
    let op = Op::FullyConnected { keeps_dims: false, activation: Activation::None };
    let side = b.node(op, middle, &others, &[1, 5]);
    let both = b.node(Op::Add { activation: Activation::None }, dense, &[side], &[1, 5]);
    let output = b.node(Op::Softmax { beta: 0.7 }, both, &[], &[1, 5]);
    b.finish(output)
}

/// A convolution, a depthwise one behind padding, another convolution, pooling, a mean and a dense layer, each with ReLU, and
/// channels of very different magnitudes.
pub fn chain() -> Graph {
    let mut b = Builder::new(&[1, 8, 8, 3]);
    let relu = Activation::Relu;
    let (same, valid) = (sliding(Padding::Same, 1, 1), sliding(Padding::Valid, 1, 1));
    let mut uneven = b.numbers(6 * 3 * 3 * 3);
    uneven.iter_mut().enumerate().for_each(|(i, x)| *x *= 3f32.powi((i / 27) as i32 - 3));
    let others = [b.tensor(&[6, 3, 3, 3], Some(Constant::of_f32s(&uneven))), b.weights(&[6])];
    let a = b.node(Op::Conv2d { sliding: same, activation: relu }, 0, &others, &[1, 8, 8, 6]);
    let around = b.tensor(&[4, 2], Some(Constant::of_i32s(&[0, 0, 1, 1, 1, 1, 0, 0])));
    b.graph.tensors[around].element_type = ElementType::I32;
    let padded = b.node(Op::Pad, a, &[around], &[1, 10, 10, 6]);
    let others = [b.weights(&[1, 3, 3, 6]), b.weights(&[6])];
    let op = Op::DepthwiseConv2d { sliding: valid, multiplier: 1, activation: relu };
    let c = b.node(op, padded, &others, &[1, 8, 8, 6]);
    let others = [b.weights(&[5, 1, 1, 6])];
    let d = b.node(Op::Conv2d { sliding: same, activation: relu }, c, &others, &[1, 8, 8, 5]);
    let op =
        Op::MaxPool2d { size: [2, 2], sliding: sliding(Padding::Valid, 2, 1), activation: Activation::None };
    let pooled = b.node(op, d, &[], &[1, 4, 4, 5]);
    let axes = b.axes();
    let mean = b.node(Op::Mean { keeps_dims: true }, pooled, &[axes], &[1, 1, 1, 5]);
    let others = [b.weights(&[4, 5]), b.weights(&[4])];
    let op = Op::FullyConnected { keeps_dims: false, activation: Activation::None };
    let output = b.node(op, mean, &others, &[1, 4]);
    b.finish(output)
}

/// Inputs of random numbers.
pub fn examples(graph: &Graph, n: usize) -> Vec<Vec<Vec<f32>>> {
    let mut b = Builder::new(&[1]);
    let len = graph.tensors[graph.inputs[0]].n_elements();
    (0..n).map(|_| vec![b.numbers(len)]).collect()
}
