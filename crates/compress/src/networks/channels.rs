//! Which channels of a graph's tensors are one, so that they can only go together.
//!
//! A convolution makes channels; what follows hands them on (pooling, activations, depthwise convolutions), adds them to
//! others channel by channel, which ties both, or lays them flat, so that a dense layer finds channel `i % n` at place i.
//! A *space* is a set of tensors with the same channels. Channels of inputs and outputs, and those that an operator uses in
//! a way that is not known here, are fixed.

use edgeward_perceive::Graph;
use edgeward_perceive::graph::{Constant, ElementType, Node, Op, Tensor, TensorId};

use super::quantize::without_unused;

/// Of one space.
#[derive(Clone, Debug)]
struct Space {
    n: usize,
    is_fixed: bool,
    /// The space that this one has become part of.
    joined: Option<usize>,
}

/// The spaces of a graph's tensors.
#[derive(Clone, Debug)]
pub struct Channels {
    spaces: Vec<Space>,
    /// For each tensor that is computed.
    of: Vec<Option<usize>>,
}

impl Channels {
    /// Follows the channels through `graph`.
    pub fn of(graph: &Graph) -> Channels {
        let mut channels = Channels { spaces: Vec::new(), of: vec![None; graph.tensors.len()] };
        for id in &graph.inputs {
            channels.of[*id] = Some(channels.fixed(last_dim(&graph.tensors[*id])));
        }
        for node in &graph.nodes {
            if graph.tensors[node.outputs[0]].element_type != ElementType::I32 {
                channels.follow(graph, node);
            }
        }
        for id in &graph.outputs {
            channels.fix(*id);
        }
        channels
    }

    fn new_space(&mut self, n: usize, is_fixed: bool) -> usize {
        self.spaces.push(Space { n, is_fixed, joined: None });
        self.spaces.len() - 1
    }

    fn fixed(&mut self, n: usize) -> usize {
        self.new_space(n, true)
    }

    /// The space that `space` is part of.
    fn root(&self, mut space: usize) -> usize {
        while let Some(other) = self.spaces[space].joined {
            space = other;
        }
        space
    }

    /// The space of a tensor, and its channels.
    fn space(&self, id: TensorId) -> Option<(usize, usize)> {
        let root = self.root(self.of[id]?);
        Some((root, self.spaces[root].n))
    }

    fn fix(&mut self, id: TensorId) {
        if let Some((root, _)) = self.space(id) {
            self.spaces[root].is_fixed = true;
        }
    }

    fn follow(&mut self, graph: &Graph, node: &Node) {
        let (input, output) = (node.inputs[0].filter(|id| self.of[*id].is_some()), node.outputs[0]);
        let n_out = last_dim(&graph.tensors[output]);
        let Some((input, (space, n))) = input.and_then(|id| Some((id, self.space(id)?))) else {
            // Of nothing that is followed.
            self.of[output] = Some(self.fixed(n_out));
            return;
        };
        let weights = node.inputs.get(1).copied().flatten().map(|id| &graph.tensors[id]);
        let are_own = || {
            node.inputs[1..].iter().flatten().all(|id| {
                let tensor = &graph.tensors[*id];
                let users =
                    graph.nodes.iter().flat_map(|node| &node.inputs).filter(|other| **other == Some(*id));
                tensor.constant.is_some() && tensor.element_type == ElementType::F32 && users.count() == 1
            })
        };
        self.of[output] = Some(match &node.op {
            Op::Conv2d { .. } | Op::FullyConnected { .. } => {
                let n_read = weights.map_or(0, last_dim);
                let fits = match node.op {
                    Op::Conv2d { .. } => n_read == n,
                    _ => n_read > 0 && n_read.is_multiple_of(n) && last_dim(&graph.tensors[input]) == n_read,
                };
                if !fits || !are_own() {
                    self.fix(input);
                }
                self.new_space(n_out, !are_own())
            }
            Op::DepthwiseConv2d { multiplier: 1, .. } if are_own() => space,
            Op::AveragePool2d { .. } | Op::MaxPool2d { .. } | Op::Mean { .. } | Op::Unary(_)
                if n_out == last_dim(&graph.tensors[input]) =>
            {
                space
            }
            Op::Pad if n_out == n => space,
            Op::Reshape { .. } if n_out.is_multiple_of(n) => space,
            Op::Add { .. } => self.add(graph, node, input, n_out),
            _ => {
                node.inputs.iter().flatten().for_each(|id| self.fix(*id));
                self.fixed(n_out)
            }
        });
    }

    /// Channels that are added become one space.
    fn add(&mut self, graph: &Graph, node: &Node, input: TensorId, n_out: usize) -> usize {
        let other = node.inputs.get(1).copied().flatten();
        let alike = other.filter(|id| graph.tensors[*id].shape == graph.tensors[input].shape);
        match (self.space(input), alike.and_then(|id| self.space(id))) {
            (Some((a, n)), Some((b, m))) if n == m => {
                if a != b {
                    self.spaces[a].is_fixed |= self.spaces[b].is_fixed;
                    self.spaces[b].joined = Some(a);
                }
                a
            }
            _ => {
                node.inputs.iter().flatten().for_each(|id| self.fix(*id));
                self.fixed(n_out)
            }
        }
    }

    /// Spaces of which channels can go, with how many they have; in the order of the layers, also once some have gone.
    pub fn free(&self) -> Vec<(usize, usize)> {
        let spaces = self.spaces.iter().enumerate();
        let free = spaces.filter(|(_, space)| !space.is_fixed && space.joined.is_none());
        free.map(|(id, space)| (id, space.n)).collect()
    }

    /// `graph` with only those channels of `space` for which `keeps` is true: a smaller network of the same layers.
    pub fn keep(&self, graph: &Graph, space: usize, keeps: &[bool]) -> Graph {
        let is_in = |id: TensorId| self.space(id).is_some_and(|(root, _)| root == space);
        let kept = |i: usize| keeps[i % keeps.len()];
        let mut result = graph.clone();
        for node in &graph.nodes {
            let output = is_in(node.outputs[0]);
            let input = node.inputs[0].is_some_and(is_in);
            let (first, last) = match node.op {
                Op::Conv2d { .. } | Op::FullyConnected { .. } => (output, input),
                Op::DepthwiseConv2d { .. } => (false, output),
                _ => continue,
            };
            if let Some(id) = node.inputs[1] {
                let rank = graph.tensors[id].shape.len();
                for axis in [(0, first), (rank - 1, last)].iter().filter(|(_, wanted)| *wanted).map(|x| x.0) {
                    slice(&mut result.tensors[id], axis, kept);
                }
            }
            if let Some(id) = node.inputs.get(2).copied().flatten().filter(|_| output) {
                slice(&mut result.tensors[id], 0, kept);
            }
        }
        for id in (0..graph.tensors.len()).filter(|id| is_in(*id)) {
            let shape = &mut result.tensors[id].shape;
            let n_kept = keeps.iter().filter(|kept| **kept).count();
            let last = shape.len() - 1;
            shape[last] = shape[last] / keeps.len() * n_kept;
        }
        reshape_again(&mut result);
        without_unused(&result)
    }
}

fn last_dim(tensor: &Tensor) -> usize {
    tensor.shape.last().copied().unwrap_or(1)
}

/// Keeps some indices of one dimension of a constant.
fn slice(tensor: &mut Tensor, axis: usize, keeps: impl Fn(usize) -> bool) {
    let constant = tensor.constant.as_ref().expect("weights are constants, or their space is fixed");
    let (n, n_inner) = (tensor.shape[axis], tensor.shape[axis + 1..].iter().product::<usize>());
    let values = constant.f32s().enumerate().filter(|(i, _)| keeps(i / n_inner % n)).map(|(_, value)| value);
    tensor.constant = Some(Constant::of_f32s(&values.collect::<Vec<f32>>()));
    tensor.shape[axis] = (0..n).filter(|i| keeps(*i)).count();
}

/// Gives each reshape the shape that its output has now, and leaves out what computed the old one.
fn reshape_again(graph: &mut Graph) {
    for idx in 0..graph.nodes.len() {
        if !matches!(graph.nodes[idx].op, Op::Reshape { .. }) {
            continue;
        }
        let shape: Vec<i32> =
            graph.tensors[graph.nodes[idx].outputs[0]].shape.iter().map(|dim| *dim as i32).collect();
        graph.tensors.push(Tensor {
            name: "shape".into(),
            element_type: ElementType::I32,
            shape: vec![shape.len()],
            quantization: None,
            constant: Some(Constant::of_i32s(&shape)),
        });
        let id = graph.tensors.len() - 1;
        let node = &mut graph.nodes[idx];
        node.inputs.truncate(1);
        node.inputs.push(Some(id));
        node.op = Op::Reshape { shape: Some(shape) };
    }
    // From the end, so that whole chains go.
    let mut is_used = vec![false; graph.tensors.len()];
    graph.outputs.iter().for_each(|id| is_used[*id] = true);
    let mut nodes = Vec::new();
    for node in graph.nodes.drain(..).rev() {
        if node.outputs.iter().any(|id| is_used[*id]) {
            node.inputs.iter().flatten().for_each(|id| is_used[*id] = true);
            nodes.push(node);
        }
    }
    nodes.reverse();
    graph.nodes = nodes;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::testing::{everything, examples};
    use crate::networks::train::Answers;

    /// Makes channel `dead` of a layer's output 0, whatever comes in.
    fn kill(graph: &mut Graph, node: usize, dead: usize) {
        let is_depthwise = matches!(graph.nodes[node].op, Op::DepthwiseConv2d { .. });
        for id in graph.nodes[node].inputs[1..].iter().copied().flatten() {
            let tensor = &mut graph.tensors[id];
            let (n, n_inner) = if is_depthwise {
                (last_dim(tensor), 1)
            } else {
                (tensor.shape[0], tensor.shape[1..].iter().product())
            };
            let values = tensor.constant.as_ref().unwrap().f32s().enumerate();
            let values = values.map(|(i, x)| if i / n_inner % n == dead { 0.0 } else { x });
            tensor.constant = Some(Constant::of_f32s(&values.collect::<Vec<f32>>()));
        }
    }

    #[test]
    fn what_does_nothing_can_go() {
        let mut graph = everything();
        let channels = Channels::of(&graph);
        // The convolution, the depthwise layer on it, and their sum are one; what is before a depthwise layer with two
        // outputs for each input, or the softmax, is fixed.
        let free = channels.free();
        assert_eq!(free.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [6]);
        for dead in [1, 4] {
            kill(&mut graph, 0, dead);
            kill(&mut graph, 1, dead);
        }
        let examples = examples(&graph, 3);
        let before = Answers::of(&graph, &examples).unwrap().outputs.concat();
        let narrow = channels.keep(&graph, free[0].0, &[true, false, true, true, false, true]);
        let after = Answers::of(&narrow, &examples).unwrap().outputs.concat();
        for (a, b) in before.iter().zip(&after) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
        let n_weights = |graph: &Graph| -> usize {
            graph.tensors.iter().filter(|t| t.constant.is_some()).map(Tensor::n_elements).sum()
        };
        // Each channel: 18 weights and a bias, 9 and a bias, 16 of the next, 5 of the dense layer.
        assert_eq!(n_weights(&graph) + 2 - n_weights(&narrow), 2 * (19 + 10 + 16 + 5));
        assert_eq!(Channels::of(&narrow).free()[0].1, 4);
        // One that does something makes a difference.
        let other = channels.keep(&graph, free[0].0, &[false, true, true, true, true, true]);
        assert_ne!(Answers::of(&other, &examples).unwrap().outputs.concat(), before);
    }
}
