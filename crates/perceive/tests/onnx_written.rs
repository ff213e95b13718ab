//! ONNX files that are written: what they answer when they are read again, beside what the graph answered.
//!
//! `testdata/onnx/agree.py` holds the same files to onnxruntime.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_perceive::graph::{
    Activation, Binary, Constant, ElementType, Node, Op, Padding, Pick, Quantization, Reduction, Sliding,
    Tensor, Unary,
};
use edgeward_perceive::onnx::{self, Settings};
use edgeward_perceive::{Graph, Network, Options, tflite};

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/onnx").join(name)
}

fn count(graph: &Graph, operator: &str) -> usize {
    graph.nodes.iter().filter(|node| node.op.name() == operator).count()
}

/// Pseudo-random inputs of a network, and its answers; each as one after the other lies in files.
fn answers(graph: &Graph, seed: u64) -> [Vec<u8>; 2] {
    let mut network = Network::new(graph, &Options::default()).unwrap();
    let mut state = seed;
    let mut share = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let [mut given, mut found] = [vec![], vec![]];
    for port in 0..network.inputs().len() {
        let n = network.inputs()[port].n_elements();
        if network.inputs()[port].element_type == ElementType::I8 {
            let bytes: Vec<i8> = (0..n).map(|_| (share() * 256.0 - 128.0).floor() as i8).collect();
            network.set_input_bytes(port, &bytes).unwrap();
            given.extend(bytes.iter().map(|byte| *byte as u8));
        } else {
            let floats: Vec<f32> = (0..n).map(|_| share() * 4.0 - 2.0).collect();
            network.set_input(port, &floats).unwrap();
            given.extend(floats.iter().flat_map(|x| x.to_le_bytes()));
        }
    }
    network.run();
    for port in 0..network.outputs().len() {
        let n = network.outputs()[port].n_elements();
        if network.outputs()[port].element_type == ElementType::I8 {
            let mut bytes = vec![0; n];
            network.output_bytes(port, &mut bytes).unwrap();
            found.extend(bytes.iter().map(|byte| *byte as u8));
        } else {
            let mut floats = vec![0.0; n];
            network.output(port, &mut floats).unwrap();
            found.extend(floats.iter().flat_map(|x| x.to_le_bytes()));
        }
    }
    [given, found]
}

/// Names, types and shapes of inputs or outputs.
fn ports(graph: &Graph, ids: &[usize]) -> Vec<(String, ElementType, Vec<usize>)> {
    let tensors = ids.iter().map(|id| &graph.tensors[*id]);
    tensors.map(|tensor| (tensor.name.clone(), tensor.element_type, tensor.shape.clone())).collect()
}

/// How many of the answers of a network differ, and by how much at most: bytes in units, floats in parts of the largest.
fn apart(graph: &Graph, [expected, found]: [&[u8]; 2]) -> (usize, f32) {
    let (mut n_different, mut most, mut at) = (0, 0f32, 0);
    for id in &graph.outputs {
        let tensor = &graph.tensors[*id];
        let len = tensor.n_elements() * tensor.element_type.size_bytes();
        let [expected, found] = [expected, found].map(|bytes| -> Vec<f32> {
            let bytes = &bytes[at..at + len];
            match tensor.element_type {
                ElementType::I8 => bytes.iter().map(|byte| f32::from(*byte as i8)).collect(),
                _ => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            }
        });
        at += len;
        let unit = match tensor.element_type {
            ElementType::I8 => 1.0,
            _ => expected.iter().fold(1e-3, |largest: f32, x| largest.max(x.abs())),
        };
        for (a, b) in expected.iter().zip(&found) {
            n_different += usize::from(a != b);
            most = most.max((a - b).abs() / unit);
        }
    }
    (n_different, most)
}

/// Writes a graph and reads it again: the same inputs and outputs, and answers so near. With `EDGEWARD_TEST_WRITTEN`, the
/// file stays in that folder, with inputs and answers beside it, for `agree.py`.
fn written(name: &str, graph: &Graph) -> (Graph, usize, f32) {
    let file = onnx::write(graph).unwrap();
    let again = onnx::read(&file.clone().into(), &Settings::default()).unwrap();
    assert_eq!(ports(&again, &again.inputs), ports(graph, &graph.inputs), "{name}");
    assert_eq!(ports(&again, &again.outputs), ports(graph, &graph.outputs), "{name}");
    let (mut n_different, mut most) = (0, 0f32);
    let [mut inputs, mut outputs] = [vec![], vec![]];
    for seed in 1..=8 {
        let ([given, expected], [_, found]) = (answers(graph, seed), answers(&again, seed));
        let (n, largest) = apart(graph, [&expected, &found]);
        n_different += n;
        most = most.max(largest);
        inputs.extend(given);
        outputs.extend(expected);
    }
    if let Some(folder) = std::env::var_os("EDGEWARD_TEST_WRITTEN") {
        for (kind, content) in [("onnx", file), ("inputs", inputs), ("outputs", outputs)] {
            std::fs::write(Path::new(&folder).join(format!("{name}.{kind}")), content).unwrap();
        }
    }
    println!("{name}: {n_different} differ, by {most:.1e} at most");
    (again, n_different, most)
}

#[test]
fn what_is_written_answers_as_before() {
    let models = testdata("../networks/models");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(models).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 10);
    for path in paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let graph = tflite::read(std::fs::read(&path).unwrap().into()).unwrap();
        let (again, _, most) = written(&name, &graph);
        let tolerance = match name.as_str() {
            // Its layers round what comes in, image by image; ONNX's do not.
            "kws_ref_model_float32" => 1e-2,
            _ if graph.tensors[graph.outputs[0]].element_type == ElementType::I8 => 1.0,
            _ => 1e-5,
        };
        assert!(most <= tolerance, "{name}: {most}");
        // Into channels first and back is nothing, but for one where an image becomes a row.
        assert!(count(&again, "TRANSPOSE") <= 2, "{name}: {:?}", again.nodes);
    }
    for name in
        ["image", "image_qdq", "image_qlinear", "normalised", "joined", "attention", "recurrent", "sentence"]
    {
        let mut settings = Settings::default();
        settings.inputs.insert("rate".into(), vec![16000.0]);
        let file: Arc<[u8]> = std::fs::read(testdata(&format!("{name}.onnx"))).unwrap().into();
        let graph = onnx::read(&file, &settings).unwrap();
        // Numbers of words that there are not.
        if name == "sentence" {
            assert!(!onnx::write(&graph).unwrap().is_empty());
            continue;
        }
        let (_, _, most) = written(&format!("onnx_{name}"), &graph);
        assert!(most <= 1e-5, "{name}: {most}");
    }
}

/// A tensor of floats, or of bytes.
fn tensor(shape: &[usize], element_type: ElementType, constant: Option<Constant>) -> Tensor {
    let is_bytes = element_type == ElementType::I8;
    let quantization = is_bytes.then(|| Quantization { scales: vec![0.02], zeros: vec![-5], axis: 0 });
    Tensor { name: String::new(), element_type, shape: shape.to_vec(), quantization, constant }
}

/// A network of an image `[1, 4, 5, 6]`, a pool that leaves it as it is but for its layout, and a node.
fn one(op: Op, others: Vec<Tensor>, shape: &[usize], element_type: ElementType) -> Graph {
    let image = tensor(&[1, 4, 5, 6], element_type, None);
    let sliding = Sliding { padding: Padding::Valid, stride: [1, 1], dilation: [1, 1] };
    let pool = Op::MaxPool2d { size: [1, 1], sliding, activation: Activation::None };
    let inputs: Vec<Option<usize>> = (1..others.len() + 2).map(Some).collect();
    let mut tensors = vec![image.clone(), image];
    tensors.extend(others);
    tensors.push(tensor(shape, element_type, None));
    for (idx, tensor) in tensors.iter_mut().enumerate() {
        tensor.name = format!("tensor {idx}");
    }
    let output = tensors.len() - 1;
    let nodes = vec![
        Node { op: pool, inputs: vec![Some(0)], outputs: vec![1] },
        Node { op, inputs, outputs: vec![output] },
    ];
    Graph { tensors, nodes, inputs: vec![0], outputs: vec![output] }
}

#[test]
fn every_operator_is_written() {
    let image: &[usize] = &[1, 4, 5, 6];
    let floats = |shape: &[usize]| {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| (i * 7 % 11) as f32 / 4.0 - 1.1).collect();
        tensor(shape, ElementType::F32, Some(Constant::of_f32s(&values)))
    };
    let ints =
        |shape: &[usize], values: &[i32]| tensor(shape, ElementType::I32, Some(Constant::of_i32s(values)));
    let mut cases: Vec<(Op, Vec<Tensor>, Vec<usize>)> = Vec::new();
    for function in [
        Unary::Abs,
        Unary::Neg,
        Unary::Sign,
        Unary::Square,
        Unary::Floor,
        Unary::Ceil,
        Unary::Trunc,
        Unary::Round,
        Unary::Exp,
        Unary::Sin,
        Unary::Cos,
        Unary::Tanh,
        Unary::Erf,
        Unary::Gelu,
        Unary::Sigmoid,
        Unary::Softplus,
        Unary::Softsign,
        Unary::RELU,
        Unary::RELU6,
        Unary::Clip { low: f32::NEG_INFINITY, high: 0.5 },
        Unary::LeakyRelu { alpha: 0.1 },
        Unary::Elu { alpha: 0.7 },
        Unary::HardSigmoid { alpha: 0.3, beta: 0.4 },
        Unary::HardSwish,
    ] {
        cases.push((Op::Unary(function), vec![], image.to_vec()));
    }
    for function in [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Min,
        Binary::Max,
        Binary::PRelu,
        Binary::Equal,
        Binary::NotEqual,
        Binary::Less,
        Binary::LessOrEqual,
        Binary::Greater,
        Binary::GreaterOrEqual,
    ] {
        for shape in [&[6][..], &[], &[5, 1], &[1, 4, 5, 6]] {
            cases.push((Op::Binary(function), vec![floats(shape)], image.to_vec()));
        }
    }
    for reduction in [
        Reduction::Sum,
        Reduction::Mean,
        Reduction::Max,
        Reduction::Min,
        Reduction::Prod,
        Reduction::SumSquare,
        Reduction::L1,
        Reduction::L2,
    ] {
        let op = |axes: &[usize], keeps_dims| Op::Reduce { reduction, axes: axes.to_vec(), keeps_dims };
        cases.push((op(&[1, 2], true), vec![], vec![1, 1, 1, 6]));
        cases.push((op(&[1, 2], false), vec![], vec![1, 6]));
        cases.push((op(&[3], true), vec![], vec![1, 4, 5, 1]));
        cases.push((op(&[0, 3], false), vec![], vec![4, 5]));
    }
    let these = |indices: &[i64]| Pick::These(indices.iter().map(|idx| usize::try_from(*idx).ok()).collect());
    for (rows, n) in [
        (these(&[1, 2, 3]), 3),
        (these(&[3, 1]), 2),
        (these(&[2, 1, 0]), 3),
        (these(&[-1, 0, 1, 2, 3, -1, -1]), 7),
        (these(&[2, 2, 0, 3]), 4),
        (these(&[1, -1, 0]), 3),
    ] {
        for fill in [0.0, 1.5] {
            let op = |picks: [Pick; 4]| Op::Take { picks: picks.to_vec(), fill };
            let all = || Pick::All;
            cases.push((op([all(), rows.clone(), all(), all()]), vec![], vec![1, n, 5, 6]));
            cases.push((op([all(), these(&[0, 2]), rows.clone(), rows.clone()]), vec![], vec![1, 2, n, n]));
        }
    }
    for perm in [[0, 3, 1, 2], [0, 2, 3, 1], [0, 1, 3, 2], [3, 2, 1, 0]] {
        cases.push((Op::Transpose { perm: perm.to_vec() }, vec![], perm.map(|axis| image[axis]).to_vec()));
    }
    cases.push((Op::Pad, vec![ints(&[4, 2], &[0, 1, 1, 0, 2, 2, 0, 3])], vec![2, 5, 9, 9]));
    cases.push((Op::Softmax { beta: 2.0 }, vec![], image.to_vec()));
    cases.push((Op::Reshape { shape: Some(vec![6, -1]) }, vec![], vec![6, 20]));
    cases.push((Op::Concat { axis: -1 }, vec![floats(&[1, 4, 5, 2])], vec![1, 4, 5, 8]));
    cases.push((Op::Concat { axis: 1 }, vec![floats(&[1, 2, 5, 6])], vec![1, 6, 5, 6]));
    cases.push((Op::MatMul, vec![floats(&[6, 3])], vec![1, 4, 5, 3]));
    cases.push((Op::Select, vec![floats(&[6]), floats(&[5, 6])], image.to_vec()));
    let keeps = |keeps_dims| Op::FullyConnected { keeps_dims, activation: Activation::Relu6 };
    cases.push((keeps(true), vec![floats(&[3, 6]), floats(&[3])], vec![1, 4, 5, 3]));
    cases.push((keeps(false), vec![floats(&[3, 30])], vec![4, 3]));
    cases.push((Op::Mean { keeps_dims: true }, vec![ints(&[2], &[1, 2])], vec![1, 1, 1, 6]));
    let sliding = Sliding { padding: Padding::Same, stride: [2, 1], dilation: [1, 2] };
    let activation = Activation::ReluN1To1;
    cases.push((Op::Conv2d { sliding, activation }, vec![floats(&[7, 3, 3, 6])], vec![1, 2, 5, 7]));
    let op = Op::DepthwiseConv2d { sliding, activation, multiplier: 2 };
    cases.push((op, vec![floats(&[1, 3, 2, 12]), floats(&[12])], vec![1, 2, 5, 12]));
    let sliding = Sliding { dilation: [1, 1], ..sliding };
    cases.push((Op::AveragePool2d { size: [3, 2], sliding, activation }, vec![], vec![1, 2, 5, 6]));

    for (idx, (op, others, shape)) in cases.into_iter().enumerate() {
        let name = format!("{idx:03} {}", op.name());
        let (_, _, most) = written(&name, &one(op, others, &shape, ElementType::F32));
        assert!(most <= 1e-5, "{name}: {most}");
    }
    // Numbers of rows, as floats.
    let graph = one(Op::Gather { axis: 1 }, vec![floats(&[2, 2])], &[1, 2, 2, 5, 6], ElementType::F32);
    assert!(!onnx::write(&graph).unwrap().is_empty());
    // What only moves bytes leaves them as they are.
    let picks = vec![Pick::All, these(&[3, 1]), these(&[-1, 0, 1, 2, 3, 4]), Pick::All];
    for (op, shape) in [
        (Op::Take { picks, fill: 0.0 }, vec![1, 2, 6, 6]),
        (Op::Transpose { perm: vec![3, 0, 1, 2] }, vec![6, 1, 4, 5]),
        (Op::Reshape { shape: Some(vec![-1]) }, vec![120]),
        (Op::Unary(Unary::RELU), vec![1, 4, 5, 6]),
    ] {
        let name = format!("int8 {}", op.name());
        assert_eq!(written(&name, &one(op, vec![], &shape, ElementType::I8)).1, 0, "{name}");
    }
}

#[test]
fn the_largest_of_bytes_is_found_among_bytes() {
    let sliding = Sliding { padding: Padding::Same, stride: [2, 2], dilation: [1, 1] };
    for (activation, n_conversions) in [(Activation::None, 0), (Activation::Relu, 1)] {
        let pool = Op::MaxPool2d { size: [3, 3], sliding, activation };
        let graph = one(pool, vec![], &[1, 2, 3, 6], ElementType::I8);
        let (again, n_different, _) = written("largest", &graph);
        assert_eq!(n_different, 0);
        assert_eq!(count(&again, "MAX_POOL_2D"), 2);
        // max(x, 0) is one of floats.
        let found = [count(&again, "DEQUANTIZE"), count(&again, "QUANTIZE")];
        assert_eq!(found, [n_conversions; 2], "{:?}", again.nodes);
    }
}

#[test]
fn what_onnx_has_not_is_refused() {
    let graph = one(Op::Shape, vec![], &[4], ElementType::F32);
    let refusal = onnx::write(&graph).unwrap_err().to_string();
    assert!(refusal.contains("as numbers"), "{refusal}");
    let weights = tensor(&[3, 6], ElementType::F32, None);
    let op = Op::FullyConnected { keeps_dims: true, activation: Activation::None };
    let mut graph = one(op, vec![weights], &[1, 4, 5, 3], ElementType::F32);
    graph.inputs.push(2);
    let refusal = onnx::write(&graph).unwrap_err().to_string();
    assert!(refusal.contains("(FULLY_CONNECTED)") && refusal.contains("while it runs"), "{refusal}");
}

#[test]
fn texts_are_kept_beside_an_onnx_network() {
    let graph = one(Op::Unary(Unary::Abs), vec![], &[1, 4, 5, 6], ElementType::F32);
    let file = onnx::write_with_metadata(&graph, &[("a", "one"), ("b", "zwei, drei")]).unwrap();
    let text = |name| onnx::metadata(&file, name).unwrap();
    assert_eq!((text("a"), text("b"), text("c")), (Some("one".into()), Some("zwei, drei".into()), None));
    let size_bytes = onnx::write(&graph).unwrap().len() as u64;
    assert_eq!(onnx::size_without_metadata(&file).unwrap(), size_bytes);
    assert!(onnx::metadata(&file[..file.len() - 1], "b").is_err());
}
