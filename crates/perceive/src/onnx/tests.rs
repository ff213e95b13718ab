//! One test for each way in which a file can lie.

use std::sync::Arc;

use super::model::kind;
use super::{Settings, read};
use crate::error::Error;
use crate::graph::Graph;
use crate::network::{Network, Options};

fn file(name: &str) -> Vec<u8> {
    let path = format!("{}/../../testdata/onnx/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

fn read_bytes(bytes: &[u8]) -> Result<Graph, Error> {
    let mut settings = Settings::default();
    settings.inputs.insert("rate".into(), vec![16000.0]);
    read(&Arc::from(bytes), &settings)
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field of bytes.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn int(number: u64, value: i64) -> Vec<u8> {
    [varint(number << 3), varint(value as u64)].concat()
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs = inputs.iter().flat_map(|input| field(1, input.as_bytes()));
    let attributes = attributes.iter().flat_map(|attribute| field(5, attribute));
    let rest = [field(2, output.as_bytes()), field(4, op.as_bytes())].concat();
    field(1, &inputs.chain(rest).chain(attributes).collect::<Vec<u8>>())
}

/// An input or output of floats.
fn value(number: u64, name: &str, shape: &[i64]) -> Vec<u8> {
    typed(number, name, shape, kind::FLOAT)
}

/// An input or output.
fn typed(number: u64, name: &str, shape: &[i64], kind: i64) -> Vec<u8> {
    let dims: Vec<u8> = shape.iter().flat_map(|dim| field(1, &int(1, *dim))).collect();
    let kind = field(1, &[int(1, kind), field(2, &dims)].concat());
    field(number, &[field(1, name.as_bytes()), field(2, &kind)].concat())
}

/// A tensor among the weights.
fn tensor(name: &str, kind: i64, dims: &[i64], raw: &[u8]) -> Vec<u8> {
    let dims = dims.iter().flat_map(|dim| int(1, *dim)).collect();
    field(5, &[dims, int(2, kind), field(8, name.as_bytes()), field(9, raw)].concat())
}

/// A list of integers among the weights.
fn weights(name: &str, values: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, kind::INT64, &[values.len() as i64], &raw)
}

/// A single number among the weights.
fn number(name: &str, kind: i64, raw: &[u8]) -> Vec<u8> {
    tensor(name, kind, &[], raw)
}

fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    [field(8, &int(2, 13)), field(7, &graph.concat())].concat()
}

#[track_caller]
fn refused(graph: &[Vec<u8>], expected: &str) {
    let error = read_bytes(&model(graph)).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_file_that_is_right() {
    let (x, y) = (value(11, "x", &[2, 3]), value(12, "y", &[2, 3]));
    let graph = read_bytes(&model(&[x, y, node("Relu", &["x"], "y", &[])])).unwrap();
    assert_eq!(graph.nodes.len(), 1);
    assert_eq!(graph.tensors[graph.outputs[0]].name, "y");
}

#[test]
fn another_file() {
    for bytes in [&b""[..], b"GGUF\x03\0\0\0", b"nothing of the kind"] {
        assert!(matches!(read_bytes(bytes), Err(Error::Malformed { .. })));
    }
    let error = read_bytes(&[field(8, &int(2, 99)), field(7, &[])].concat()).unwrap_err();
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[test]
fn damage_anywhere_is_an_error_or_another_network() {
    for name in ["image.onnx", "image_qdq.onnx", "recurrent.onnx", "attention.onnx", "sentence.onnx"] {
        let whole = file(name);
        for n in (0..whole.len()).step_by(5) {
            let _ = read_bytes(&whole[..n]);
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[n] ^= flip;
                if let Ok(graph) = read_bytes(&damaged) {
                    let options = Options { limit_bytes: 1 << 20, ..Options::default() };
                    if let Ok(mut network) = Network::new(&graph, &options)
                        && network.cost().macs < 1 << 20
                    {
                        network.run();
                    }
                }
            }
        }
    }
}

#[test]
fn names_that_lead_nowhere_or_in_circles() {
    let (x, y) = (value(11, "x", &[2]), value(12, "y", &[2]));
    refused(&[x.clone(), y.clone(), node("Relu", &["z"], "y", &[])], "used before it is computed");
    let circle = [node("Relu", &["b"], "a", &[]), node("Relu", &["a"], "b", &[])].concat();
    refused(&[x.clone(), value(12, "a", &[2]), circle], "used before it is computed");
    refused(&[x, y], "never computed");
}

#[test]
fn what_cannot_be_computed_is_named() {
    let (x, y) = (value(11, "x", &[2, 2]), value(12, "y", &[2, 2]));
    refused(&[x.clone(), y.clone(), node("Det", &["x"], "y", &[])], "Det");
    refused(&[x.clone(), y.clone(), node("Relu", &[], "y", &[])], "left out");
    let wrong = node("MatMul", &["x", "w"], "y", &[]);
    refused(&[x, value(11, "w", &[3, 2]), y, wrong], "do not fit");
}

#[test]
fn huge_things_in_few_bytes() {
    let (x, y) = (value(11, "x", &[2]), value(12, "y", &[2]));
    let big = i64::MAX / 2;
    for (op, inputs, list) in [
        ("ConstantOfShape", &["n"][..], &[big, big][..]),
        ("Expand", &["x", "n"], &[big, 2]),
        ("Tile", &["x", "n"], &[big]),
        ("Pad", &["x", "n"], &[big, big]),
        ("Reshape", &["x", "n"], &[big, big]),
    ] {
        let graph = [x.clone(), y.clone(), weights("n", list), node(op, inputs, "y", &[])];
        let error = read_bytes(&model(&graph)).unwrap_err().to_string();
        assert!(
            ["beyond any memory", "cannot become", "do not fit"].iter().any(|w| error.contains(w)),
            "{op}: {error}"
        );
    }
    refused(&[value(11, "x", &[big, big]), y.clone(), node("Relu", &["x"], "y", &[])], "beyond any memory");
    // Doubled again and again.
    let mut graph = vec![x, y, weights("n", &[2])];
    for i in 0..60 {
        let (from, to) = (if i == 0 { "x".into() } else { format!("t{i}") }, format!("t{}", i + 1));
        graph.push(node("Tile", &[&from, "n"], &to, &[]));
    }
    refused(&graph, "elements of constants are made");
}

#[test]
fn windows_without_an_image() {
    let attribute = |name: &str, value: Vec<u8>| [field(1, name.as_bytes()), value].concat();
    let ints = |name: &str, values: [i64; 2]| attribute(name, values.map(|value| int(8, value)).concat());
    let pool = |width, stride| {
        let attributes =
            [ints("kernel_shape", [3, 3]), ints("strides", [2, stride]), attribute("ceil_mode", int(3, 1))];
        let image = [1, 1, 4, width];
        model(&[
            node("AveragePool", &["x"], "y", &attributes),
            value(11, "x", &image),
            value(12, "y", &image),
        ])
    };
    assert!(read_bytes(&pool(4, 2)).is_ok());
    assert!(read_bytes(&pool(4, 100)).is_ok());
    let error = read_bytes(&pool(0, 2)).unwrap_err().to_string();
    assert!(error.contains("without pixels"), "{error}");
}

#[test]
fn graphs_within_graphs_without_end() {
    let mut graph = node("Identity", &["x"], "y", &[]);
    for _ in 0..20 {
        let branch = [field(1, b"then_branch"), field(6, &graph)].concat();
        graph = node("If", &["c"], "y", &[branch]);
    }
    refused(&[graph], "deep");
}

/// Zero points of the graph's activations of bytes.
fn zeros(graph: &[Vec<u8>]) -> Vec<i32> {
    let graph = read_bytes(&model(graph)).unwrap();
    let computed = graph.tensors.iter().filter(|tensor| tensor.constant.is_none());
    computed.filter_map(|tensor| Some(tensor.quantization.as_ref()?.zeros[0])).collect()
}

#[test]
fn types_say_whether_bytes_are_signed() {
    let (x, y, scale) = (value(11, "x", &[2]), value(12, "y", &[2]), number("s", 1, &0.5f32.to_le_bytes()));
    let there_and_back = [
        node("QuantizeLinear", &["x", "s", "z"], "q", &[]),
        node("DequantizeLinear", &["q", "s", "z"], "y", &[]),
    ]
    .concat();
    for (kind, zero) in [(kind::INT8, 5), (kind::UINT8, 5 - 128)] {
        let point = number("z", kind, &[5]);
        assert_eq!(zeros(&[x.clone(), y.clone(), scale.clone(), point, there_and_back.clone()]), [zero]);
        // However the zero point came by its name.
        let point = [number("first", kind, &[5]), node("Identity", &["first"], "z", &[])].concat();
        assert_eq!(zeros(&[x.clone(), y.clone(), scale.clone(), point, there_and_back.clone()]), [zero]);
    }
    // Without a zero point, the bytes' own type.
    let back = node("DequantizeLinear", &["b", "s"], "y", &[]);
    for (kind, zero) in [(kind::INT8, 0), (kind::UINT8, -128)] {
        let bytes = typed(11, "b", &[2], kind);
        assert_eq!(zeros(&[bytes, y.clone(), scale.clone(), back.clone()]), [zero]);
    }
    let there = [node("QuantizeLinear", &["x", "s"], "b", &[]), back].concat();
    assert_eq!(zeros(&[x, y, scale, there]), [-128], "unsigned where nothing says otherwise");
}

#[test]
fn as_many_scales_as_channels() {
    let halves = |n: usize| 0.5f32.to_le_bytes().repeat(n);
    // With bytes that have a zero point, and so become floats, and without.
    let convolution = |n: usize, zero: u8| {
        let (scales, zeros) = (
            tensor("ws", kind::FLOAT, &[n as i64], &halves(n)),
            tensor("wz", kind::INT8, &[n as i64], &vec![zero; n]),
        );
        let inputs = ["x", "s", "z", "w", "ws", "wz", "s", "z"];
        vec![
            typed(11, "x", &[1, 1, 2, 2], kind::INT8),
            typed(12, "y", &[1, 3, 2, 2], kind::INT8),
            number("s", kind::FLOAT, &halves(1)),
            number("z", kind::INT8, &[0]),
            tensor("w", kind::INT8, &[3, 1, 1, 1], &[128, 2, 3]),
            scales,
            zeros,
            node("QLinearConv", &inputs, "y", &[]),
        ]
    };
    for zero in [0, 1] {
        for n in [1, 3] {
            read_bytes(&model(&convolution(n, zero))).unwrap();
        }
        // What the fuzzer found: an index beyond the zero points.
        refused(&convolution(2, zero), "2 scales for weights of shape [3, 1, 1, 1]");
    }
}

#[test]
fn whole_numbers_while_it_runs() {
    let (words, table) = (typed(11, "words", &[4], kind::INT64), value(11, "table", &[3, 2]));
    let gather = node("Gather", &["table", "words"], "y", &[]);
    let graph = read_bytes(&model(&[words.clone(), table, value(12, "y", &[4, 2]), gather])).unwrap();
    let mut network = Network::new(&graph, &Options::default()).unwrap();
    network.set_input(0, &[2.0, -3.0, 3.0, -4.0]).unwrap();
    network.set_input(1, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    network.run();
    let mut rows = [0.0; 8];
    network.output(0, &mut rows).unwrap();
    assert_eq!(rows[..4], [4.0, 5.0, 0.0, 1.0]);
    assert!(rows[4..].iter().all(|x| x.is_nan()), "indices beyond the table: {rows:?}");
    // What a shape follows from must be known.
    let y = typed(12, "y", &[1], kind::FLOAT);
    refused(&[words.clone(), y.clone(), node("ConstantOfShape", &["words"], "y", &[])], "beforehand");
    // Floats have every whole number up to 2^24 only.
    let sum = node("Add", &["words", "n"], "y", &[]);
    refused(&[words, y, weights("n", &[(1 << 24) + 1]), sum], "beyond 2^24");
}

#[test]
fn every_operator_is_listed_once_and_in_order() {
    assert!(super::OPERATORS.is_sorted_by(|a, b| a < b));
}
