//! Whole files read, and one test for each way in which a file can lie.

use std::sync::Arc;

use super::read;
use crate::error::Error;
use crate::graph::{Graph, Op};
use crate::network::{Network, Options};

/// A real file, with one operator of nearly each kind.
fn file(name: &str) -> Vec<u8> {
    let path = format!("{}/../../testdata/networks/models/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

fn read_bytes(bytes: &[u8]) -> Result<Graph, Error> {
    read(Arc::from(bytes))
}

/// Position of the only place where `pattern` is.
#[track_caller]
fn find(bytes: &[u8], pattern: &[u8]) -> usize {
    let found: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(pattern)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

#[track_caller]
fn malformed(bytes: &[u8], expected: &str) {
    match read_bytes(bytes) {
        Err(Error::Malformed { place, what }) => {
            assert!(format!("{place}: {what}").contains(expected), "{place}: {what}");
        }
        other => panic!("{other:?}"),
    }
}

/// A little-endian vector as FlatBuffers keep it: its length, then the elements.
fn vector(elements: &[i32]) -> Vec<u8> {
    [elements.len() as i32].iter().chain(elements).flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn a_file_is_read() {
    let graph = read_bytes(&file("kws_ref_model.tflite")).unwrap();
    let names: Vec<&str> = graph.nodes.iter().map(|node| node.op.name()).collect();
    assert_eq!(names.len(), 13);
    assert_eq!(names[..3], ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]);
    assert_eq!(names[9..], ["AVERAGE_POOL_2D", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"]);
    let input = &graph.tensors[graph.inputs[0]];
    assert_eq!(input.shape, [1, 49, 10, 1]);
    let quantization = input.quantization.as_ref().unwrap();
    assert_eq!((quantization.scales.len(), quantization.zeros.as_slice()), (1, &[83][..]));
    let Op::Conv2d { sliding, .. } = &graph.nodes[0].op else { panic!() };
    assert_eq!(sliding.stride, [2, 2]);
    let weights = &graph.tensors[graph.nodes[0].inputs[1].unwrap()];
    assert_eq!(weights.shape, [64, 10, 4, 1]);
    assert_eq!(weights.quantization.as_ref().unwrap().scales.len(), 64);
    assert_eq!(weights.constant.as_ref().unwrap().bytes().len(), 64 * 40);
}

#[test]
fn what_is_written_is_read_again() {
    let names =
        ["kws_ref_model", "pretrainedResnet_quant", "mbnet128_0_25_q", "mnist_valid_f", "str_ww_ref_model"];
    for name in names {
        let graph = read_bytes(&file(&format!("{name}.tflite"))).unwrap();
        let written = super::write(&graph).unwrap();
        let again = read_bytes(&written).unwrap();
        assert_eq!((again.inputs, again.outputs), (graph.inputs, graph.outputs), "{name}");
        assert_eq!(again.nodes.len(), graph.nodes.len());
        for (a, b) in again.nodes.iter().zip(&graph.nodes) {
            assert_eq!((&a.op, &a.inputs, &a.outputs), (&b.op, &b.inputs, &b.outputs), "{name}");
        }
        for (a, b) in again.tensors.iter().zip(&graph.tensors) {
            assert_eq!((&a.name, a.element_type, &a.shape), (&b.name, b.element_type, &b.shape), "{name}");
            assert_eq!(a.quantization, b.quantization, "{name}");
            let bytes = |tensor: &crate::graph::Tensor| tensor.constant.as_ref().map(|c| c.bytes().to_vec());
            assert_eq!(bytes(a), bytes(b), "{name}");
        }
    }
}

#[test]
fn texts_are_kept_beside_a_network() {
    let graph = read_bytes(&file("mnist_valid_q.tflite")).unwrap();
    let written = super::write_with_metadata(&graph, &[("a", "one"), ("b", "zwei, drei")]).unwrap();
    assert_eq!(read_bytes(&written).unwrap().nodes.len(), graph.nodes.len());
    let text = |name| super::metadata(&written, name).unwrap();
    assert_eq!((text("a"), text("b")), (Some("one".into()), Some("zwei, drei".into())));
    assert_eq!(text("c"), None);
    assert_eq!(super::metadata(&file("mnist_valid_q.tflite"), "a").unwrap(), None);
    // Half a text, and a root that is not there.
    let at = find(&written, b"zwei");
    assert!(super::metadata(&written[..at + 4], "b").is_err());
    let mut wrong = written.clone();
    wrong[..4].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    assert!(super::metadata(&wrong, "b").is_err());
}

#[test]
fn the_largest_of_bytes() {
    use crate::graph::{Activation, Padding, Quantization, Sliding};
    let tensor = |shape: &[usize]| crate::graph::Tensor {
        name: "image".into(),
        element_type: crate::graph::ElementType::I8,
        shape: shape.to_vec(),
        quantization: Some(Quantization { scales: vec![0.5], zeros: vec![3], axis: 0 }),
        constant: None,
    };
    let op = Op::MaxPool2d {
        size: [2, 2],
        sliding: Sliding { padding: Padding::Same, stride: [2, 2], dilation: [1, 1] },
        activation: Activation::Relu6,
    };
    let node = crate::graph::Node { op, inputs: vec![Some(0)], outputs: vec![1] };
    let graph = Graph {
        tensors: vec![tensor(&[1, 3, 3, 2]), tensor(&[1, 2, 2, 2])],
        nodes: vec![node],
        inputs: vec![0],
        outputs: vec![1],
    };
    // Through a file.
    let graph = read_bytes(&super::write(&graph).unwrap()).unwrap();
    for isa in edgeward_kernels::Isa::available() {
        let mut network = Network::new(&graph, &Options { isa, ..Options::default() }).unwrap();
        let rows = [[1, -9, 5, -8, 2, -7], [9, 4, 100, -128, 7, 3], [0, 1, 2, 127, 14, 15]];
        network.set_input_bytes(0, &rows.concat()).unwrap();
        network.run();
        let mut output = [0; 8];
        network.output_bytes(0, &mut output).unwrap();
        // Zero is 3 and six is 15: nothing is below or above.
        assert_eq!(output, [15, 4, 7, 3, 3, 15, 14, 15], "{}", isa.name());
    }
    let mut other = graph;
    other.tensors[1].quantization = Some(Quantization { scales: vec![0.25], zeros: vec![3], axis: 0 });
    let error = Network::new(&other, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("another scale"), "{error}");
}

#[test]
fn another_file() {
    malformed(b"", "begin");
    malformed(b"GGUF\x03\0\0\0\0\0\0\0", "begin");
    malformed(b"\x08\0\0\0TFL3", "out of the file");
}

#[test]
fn a_file_that_ends_early() {
    let whole = file("mnist_valid_q.tflite");
    for n in (0..whole.len()).step_by(7) {
        // The metadata at the end is not looked at.
        if let Ok(graph) = read_bytes(&whole[..n]) {
            assert_eq!(graph.nodes.len(), 6);
        }
    }
    malformed(&whole[..2000], "");
}

#[test]
fn an_offset_out_of_the_file() {
    let mut bytes = file("mnist_valid_q.tflite");
    bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    malformed(&bytes, "leads out of the file");
}

#[test]
fn a_table_with_a_vtable_outside() {
    let mut bytes = file("mnist_valid_q.tflite");
    let root = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    for back in [i32::MIN, i32::MAX, -(bytes.len() as i32), root as i32 + 1] {
        bytes[root..root + 4].copy_from_slice(&back.to_le_bytes());
        malformed(&bytes, "");
    }
}

#[test]
fn a_field_outside_its_table() {
    let mut bytes = file("mnist_valid_q.tflite");
    let root = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let vtable = root - i32::from_le_bytes(bytes[root..root + 4].try_into().unwrap()) as usize;
    bytes[vtable + 6..vtable + 8].copy_from_slice(&u16::MAX.to_le_bytes());
    malformed(&bytes, "lies outside it");
}

#[test]
fn a_vector_longer_than_the_file() {
    let mut bytes = file("mnist_valid_q.tflite");
    // The only vector of these numbers: the input's shape and its like.
    let shape = find(&bytes, &vector(&[10, 16]));
    bytes[shape..shape + 4].copy_from_slice(&0x4000_0000u32.to_le_bytes());
    malformed(&bytes, "longer than the file");
}

#[test]
fn huge_dimensions() {
    let mut bytes = file("mnist_valid_q.tflite");
    let shape = find(&bytes, &vector(&[4, 3, 3, 1])) + 4;
    for at in [shape, shape + 4, shape + 8] {
        bytes[at..at + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    }
    malformed(&bytes, "beyond any memory");
}

#[test]
fn a_negative_dimension() {
    let mut bytes = file("mnist_valid_q.tflite");
    let shape = find(&bytes, &vector(&[4, 3, 3, 1])) + 4;
    bytes[shape..shape + 4].copy_from_slice(&(-4i32).to_le_bytes());
    malformed(&bytes, "negative");
}

#[test]
fn data_that_is_not_its_shape() {
    let mut bytes = file("mnist_valid_q.tflite");
    let shape = find(&bytes, &vector(&[4, 3, 3, 1])) + 4;
    bytes[shape + 4..shape + 8].copy_from_slice(&2i32.to_le_bytes());
    malformed(&bytes, "its data has 36");
}

#[test]
fn a_tensor_that_is_not_there() {
    let graph = read_bytes(&file("mnist_valid_q.tflite")).unwrap();
    let inputs: Vec<i32> = graph.nodes[0].inputs.iter().map(|id| id.unwrap() as i32).collect();
    for id in [graph.tensors.len() as i32, i32::MAX, -2] {
        let mut bytes = file("mnist_valid_q.tflite");
        let at = find(&bytes, &vector(&inputs)) + 8;
        bytes[at..at + 4].copy_from_slice(&id.to_le_bytes());
        malformed(&bytes, "there is no tensor");
    }
}

#[test]
fn a_graph_with_a_cycle() {
    let graph = read_bytes(&file("mnist_valid_q.tflite")).unwrap();
    let inputs: Vec<i32> = graph.nodes[1].inputs.iter().map(|id| id.unwrap() as i32).collect();
    let mut bytes = file("mnist_valid_q.tflite");
    let at = find(&bytes, &vector(&inputs)) + 4;
    // The second operator gets the third's output.
    bytes[at..at + 4].copy_from_slice(&(graph.nodes[2].outputs[0] as i32).to_le_bytes());
    malformed(&bytes, "used before it is computed");
}

#[test]
fn a_tensor_computed_twice() {
    let mut graph = read_bytes(&file("mnist_valid_q.tflite")).unwrap();
    graph.nodes[1].outputs = graph.nodes[0].outputs.clone();
    let error = graph.check_order().unwrap_err();
    assert!(error.to_string().contains("computed twice"), "{error}");
}

#[test]
fn a_scale_that_is_no_number() {
    let graph = read_bytes(&file("mnist_valid_q.tflite")).unwrap();
    let scale = graph.tensors[graph.inputs[0]].quantization.as_ref().unwrap().scales[0];
    for bad in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        let mut bytes = file("mnist_valid_q.tflite");
        let at = find(&bytes, &[&1u32.to_le_bytes()[..], &scale.to_le_bytes()].concat()) + 4;
        bytes[at..at + 4].copy_from_slice(&bad.to_le_bytes());
        malformed(&bytes, "a scale is not a number above zero");
    }
}

#[test]
fn an_operator_that_is_not_supported_is_named() {
    // MEAN is 40, and SQUEEZE 43; one of the numbers 40 in the file is the operator's.
    let whole = file("mnist_valid_q.tflite");
    let named = (0..whole.len()).filter(|at| whole[*at..].starts_with(&40i32.to_le_bytes())).filter(|at| {
        let mut bytes = whole.clone();
        bytes[*at..*at + 4].copy_from_slice(&43i32.to_le_bytes());
        matches!(read_bytes(&bytes), Err(Error::Unsupported { place, .. }) if place == "operator 3 (SQUEEZE)")
    });
    assert_eq!(named.count(), 1);
}

#[test]
fn parts_shared_so_often_that_reading_would_not_end() {
    // The root's list of operator codes: many offsets to one table.
    let mut bytes = file("mnist_valid_q.tflite");
    let n = 200_000u32;
    let root = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let vtable = root - i32::from_le_bytes(bytes[root..root + 4].try_into().unwrap()) as usize;
    let field = root + usize::from(u16::from_le_bytes([bytes[vtable + 6], bytes[vtable + 7]]));
    let codes = field + u32::from_le_bytes(bytes[field..field + 4].try_into().unwrap()) as usize;
    let first = codes + 4 + u32::from_le_bytes(bytes[codes + 4..codes + 8].try_into().unwrap()) as usize;
    // Offsets lead forward, so the table is copied behind the list.
    let list = bytes.len();
    bytes.extend(n.to_le_bytes());
    let table = list + 4 + 4 * n as usize + 64;
    bytes.extend((0..n as usize).flat_map(|i| ((table - (list + 4 + 4 * i)) as u32).to_le_bytes()));
    // Its vtable right before it, as long as it can be.
    bytes.resize(table - 64, 0);
    let vtable_len = 64u16;
    bytes.extend(vtable_len.to_le_bytes());
    bytes.extend(4u16.to_le_bytes());
    bytes.resize(table, 0);
    bytes.extend(64i32.to_le_bytes());
    bytes[field..field + 4].copy_from_slice(&((list - field) as u32).to_le_bytes());
    assert!(first < bytes.len());
    malformed(&bytes, "shared so often");
}

/// Reads, and makes ready what could be read; both may refuse.
fn try_all(bytes: &[u8]) {
    if let Ok(graph) = read_bytes(bytes) {
        let options = Options { limit_bytes: 16 << 20, ..Options::default() };
        if let Ok(network) = Network::new(&graph, &options) {
            let cost = network.cost();
            assert!(cost.arena_bytes + cost.weight_bytes <= 16 << 20);
        }
    }
}

#[test]
fn any_damaged_byte_is_read_or_refused() {
    let whole = file("mnist_valid_q.tflite");
    for at in 0..whole.len() {
        for change in [0xff, 0x01, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            try_all(&bytes);
        }
    }
}

#[test]
fn random_damage_is_read_or_refused() {
    let mut state = 5u64;
    let mut next = |n: usize| {
        // Knuth's MMIX generator.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for name in ["mnist_resnet_q.tflite", "kws_ref_model_float32.tflite", "micro_speech_quantized.tflite"] {
        let whole = file(name);
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..=next(4) {
                let at = next(bytes.len() / 4) * 4;
                let word =
                    [0u32, 1, 0x7fff_ffff, 0xffff_ffff, next(1 << 20) as u32, next(64) as u32][next(6)];
                let len = bytes.len().min(at + 4) - at;
                bytes[at..at + len].copy_from_slice(&word.to_le_bytes()[..len]);
            }
            try_all(&bytes);
        }
    }
}
