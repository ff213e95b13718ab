//! Real networks against LiteRT's answers (`testdata/networks/make.py`), on every instruction set of this CPU, with one
//! thread and two: bytes are equal, floats near. And functions of single bytes against LiteRT's (`bytes.py` there).

use std::path::PathBuf;

use edgeward_kernels::Isa;
use edgeward_perceive::graph::{ElementType, Node, Op, Quantization, Tensor, Unary};
use edgeward_perceive::{Arithmetic, Graph, Network, Options, tflite};

/// As `make.py` has it.
const N_INPUTS: usize = 4;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/networks")
}

fn graph(name: &str) -> Graph {
    let bytes = std::fs::read(folder().join("models").join(format!("{name}.tflite"))).unwrap();
    tflite::read(bytes.into()).unwrap()
}

/// The upper 24 bits of each state of Knuth's MMIX generator.
fn generate(n: usize) -> Vec<u32> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u32
    };
    (0..n).map(next).collect()
}

/// Runs the network on all inputs; its outputs as bytes of its own type.
fn answers(network: &mut Network) -> Vec<u8> {
    let (n_in, n_out) = (network.inputs()[0].n_elements(), network.outputs()[0].n_elements());
    let is_bytes = network.inputs()[0].element_type == ElementType::I8;
    let bits = generate(N_INPUTS * n_in);
    let mut answers = Vec::new();
    for bits in bits.chunks_exact(n_in) {
        if is_bytes {
            let input: Vec<i8> = bits.iter().map(|bits| ((bits >> 16) as i32 - 128) as i8).collect();
            network.set_input_bytes(0, &input).unwrap();
            network.run();
            let mut output = vec![0; n_out];
            network.output_bytes(0, &mut output).unwrap();
            answers.extend(output.iter().map(|value| *value as u8));
        } else {
            let input: Vec<f32> = bits.iter().map(|bits| *bits as f32 / (1 << 23) as f32 - 1.0).collect();
            network.set_input(0, &input).unwrap();
            network.run();
            let mut output = vec![0.0; n_out];
            network.output(0, &mut output).unwrap();
            answers.extend(output.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    answers
}

/// Compares all answers of a network; floats may be `tolerance` apart.
fn compare(name: &str, arithmetic: Arithmetic, tolerance: f32) {
    let graph = graph(name);
    let suffix = match arithmetic {
        Arithmetic::Xnnpack => "xnnpack",
        Arithmetic::Reference => "reference",
    };
    let expected = std::fs::read(folder().join(format!("{name}.{suffix}"))).unwrap();
    let mut first: Option<Vec<u8>> = None;
    for isa in Isa::available() {
        for n_threads in [1, 2] {
            let options = Options { n_threads, isa, arithmetic, ..Options::default() };
            let mut network = Network::new(&graph, &options).unwrap();
            let answers = answers(&mut network);
            let first = first.get_or_insert_with(|| answers.clone());
            assert!(*first == answers, "{name}: other answers on {} with {n_threads} threads", isa.name());
        }
    }
    let answers = first.unwrap();
    assert_eq!(answers.len(), expected.len(), "{name}");
    if network_is_bytes(&graph) {
        let n_different = answers.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert_eq!(n_different, 0, "{name}, {suffix}: of {}", expected.len());
    } else {
        let float = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
        for (a, b) in answers.as_chunks().0.iter().zip(expected.as_chunks().0) {
            let (a, b) = (float(a), float(b));
            assert!((a - b).abs() <= tolerance, "{name}, {suffix}: {a} and not {b}");
        }
    }
}

fn network_is_bytes(graph: &Graph) -> bool {
    graph.tensors[graph.outputs[0]].element_type == ElementType::I8
}

macro_rules! networks {
    ($($name:ident, $as_xnnpack:literal, $as_reference:literal;)*) => {
        mod as_xnnpack {
            $(#[test]
            #[allow(non_snake_case)]
            fn $name() {
                super::compare(stringify!($name), super::Arithmetic::Xnnpack, $as_xnnpack);
            })*
        }
        mod as_reference {
            $(#[test]
            #[allow(non_snake_case)]
            fn $name() {
                super::compare(stringify!($name), super::Arithmetic::Reference, $as_reference);
            })*
        }
        /// Whoever adds a file adds a line above.
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

networks! {
    // As XNNPACK, as the reference kernels: how far floats may be apart; 0 where all are bytes.
    ad01_int8, 0.0, 0.0;
    cifar10_q, 0.0, 0.0;
    // Outputs reach 300 and more: this is 1e-6 of them.
    face_detection_short_range, 5e-4, 5e-4;
    // Made by `net compress` of `onnx/joined.onnx`: concatenation, and functions of bytes.
    joined_q, 0.0, 0.0;
    kws_ref_model, 0.0, 0.0;
    // Weights in bytes, inputs brought to bytes layer by layer: where a depthwise layer's floats lie between two bytes,
    // their last bit decides, and no two orders of summation agree on all. LiteRT's own reference and optimised kernels
    // are more than 1e-5 apart on 5 of 200 inputs, by 3.5e-4 at most (`compare.py`).
    kws_ref_model_float32, 1e-5, 4e-4;
    mbnet128_0_25_q, 0.0, 0.0;
    micro_speech_quantized, 0.0, 0.0;
    mnist_resnet_q, 0.0, 0.0;
    mnist_valid_f, 1e-5, 1e-5;
    mnist_valid_q, 0.0, 0.0;
    person_detect, 0.0, 0.0;
    pretrainedResnet, 1e-5, 1e-5;
    pretrainedResnet_quant, 0.0, 0.0;
    str_ww_ref_model, 0.0, 0.0;
}

#[test]
fn every_network_is_compared() {
    let files = std::fs::read_dir(folder().join("models")).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "tflite"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, NAMES);
}

/// What LiteRT gives for all bytes.
#[derive(serde::Deserialize)]
struct OfBytes {
    function: String,
    alpha: Option<f32>,
    from: (f32, i32),
    to: (f32, i32),
    xnnpack: Vec<i8>,
    reference: Vec<i8>,
}

#[test]
fn functions_of_bytes() {
    let cases: Vec<OfBytes> =
        serde_json::from_slice(&std::fs::read(folder().join("bytes.json")).unwrap()).unwrap();
    assert!(cases.len() >= 40);
    for case in cases {
        let op = match (case.function.as_str(), case.alpha) {
            ("LOGISTIC", _) => Op::Unary(Unary::Sigmoid),
            ("TANH", _) => Op::Unary(Unary::Tanh),
            ("LEAKY_RELU", Some(alpha)) => Op::Unary(Unary::LeakyRelu { alpha }),
            ("HARD_SWISH", _) => Op::Unary(Unary::HardSwish),
            ("GELU", _) => Op::Unary(Unary::Gelu),
            ("RELU", _) => Op::Unary(Unary::RELU),
            ("RELU6", _) => Op::Unary(Unary::RELU6),
            ("QUANTIZE", _) => Op::Quantize,
            other => panic!("{other:?}"),
        };
        assert_eq!(op.name(), case.function);
        let tensor = |name: &str, (scale, zero): (f32, i32)| Tensor {
            name: name.into(),
            element_type: ElementType::I8,
            shape: vec![1, 256],
            quantization: Some(Quantization { scales: vec![scale], zeros: vec![zero], axis: 0 }),
            constant: None,
        };
        let graph = Graph {
            tensors: vec![tensor("x", case.from), tensor("y", case.to)],
            nodes: vec![Node { op, inputs: vec![Some(0)], outputs: vec![1] }],
            inputs: vec![0],
            outputs: vec![1],
        };
        // As it is, and as it is written and read.
        let written = tflite::read(tflite::write(&graph).unwrap().into()).unwrap();
        assert_eq!(written.nodes[0].op, graph.nodes[0].op);
        for graph in [graph, written] {
            for (arithmetic, expected) in
                [(Arithmetic::Xnnpack, &case.xnnpack), (Arithmetic::Reference, &case.reference)]
            {
                let options = Options { arithmetic, ..Options::default() };
                let mut network = Network::new(&graph, &options).unwrap();
                let all: Vec<i8> = (-128..=127).collect();
                network.set_input_bytes(0, &all).unwrap();
                network.run();
                let mut output = [0; 256];
                network.output_bytes(0, &mut output).unwrap();
                assert_eq!(output, expected[..], "{}, {:?} to {:?}", case.function, case.from, case.to);
            }
        }
    }
}
