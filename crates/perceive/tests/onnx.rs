//! Operators against the cases that come with ONNX: the few in `testdata/onnx`, and, where Debian's `libonnx-testdata` is
//! installed (`EDGEWARD_TEST_ONNX` names its folder), every case of every operator that is claimed.
//!
//! A case is a model of one operator, its inputs and its outputs. Inputs that a shape depends on, and all that are not
//! floats, are given beforehand, as reading wants them; outputs that are integers are folded while reading and compared
//! there. What is refused must be refused by name, and is counted: [`N_PASSED`] may only grow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_perceive::graph::ElementType;
use edgeward_perceive::onnx::{self, Settings};
use edgeward_perceive::{Error, Network, Options};

/// Cases of `libonnx-testdata` 1.12 that pass.
const N_PASSED: usize = 452;

/// A tensor of a `.pb` file.
#[derive(Debug)]
struct Tensor {
    kind: u64,
    shape: Vec<usize>,
    values: Vec<f64>,
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

/// Number, integer, bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let (value, content) = match key & 7 {
            0 => (varint(&mut bytes), &[][..]),
            kind => {
                let len = match kind {
                    1 => 8,
                    5 => 4,
                    _ => varint(&mut bytes) as usize,
                };
                let (content, rest) = bytes.split_at(len);
                bytes = rest;
                (0, content)
            }
        };
        fields.push((key >> 3, value, content));
    }
    fields
}

/// `None` where elements are of a type that this does not read.
fn tensor(bytes: &[u8]) -> Option<Tensor> {
    let (mut kind, mut shape, mut values) = (0, vec![], vec![]);
    let all = fields(bytes);
    for (number, value, content) in &all {
        match number {
            1 if content.is_empty() => shape.push(*value as usize),
            1 => {
                let mut rest = *content;
                while !rest.is_empty() {
                    shape.push(varint(&mut rest) as usize);
                }
            }
            2 => kind = *value,
            _ => {}
        }
    }
    for (number, value, content) in all {
        match (number, kind) {
            (9, 1) => values.extend(content.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)))),
            (9, 2 | 9) => values.extend(content.iter().map(|b| f64::from(*b))),
            (9, 3) => values.extend(content.iter().map(|b| f64::from(*b as i8))),
            (9, 6) => values.extend(content.as_chunks().0.iter().map(|b| f64::from(i32::from_le_bytes(*b)))),
            (9, 7) => values.extend(content.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64)),
            (4, 1) => values.extend(content.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)))),
            (5 | 7, _) if content.is_empty() => values.push(value as i64 as f64),
            (5 | 7, _) => {
                let mut rest = content;
                while !rest.is_empty() {
                    values.push(varint(&mut rest) as i64 as f64);
                }
            }
            _ => {}
        }
    }
    (shape.iter().product::<usize>() == values.len() && matches!(kind, 1 | 2 | 3 | 6 | 7 | 9))
        .then_some(Tensor { kind, shape, values })
}

/// Which inputs are given beforehand.
type Way<'a> = &'a dyn Fn(usize, &Tensor) -> bool;

/// What became of a case.
#[derive(Debug)]
enum Outcome {
    Passed,
    /// Refused by name, or of types that are not computed.
    Refused(String),
}

/// Names and types of the operators, inputs and outputs of a model.
fn names(model: &[u8]) -> (Vec<String>, Vec<String>, Vec<String>) {
    let (mut operators, mut inputs, mut outputs) = (vec![], vec![], vec![]);
    let text = |content: &[u8]| String::from_utf8_lossy(content).into_owned();
    for (_, _, graph) in fields(model).into_iter().filter(|field| field.0 == 7) {
        for (number, _, content) in fields(graph) {
            let part = |wanted: u64| {
                fields(content).into_iter().find(|field| field.0 == wanted).map(|field| text(field.2))
            };
            match number {
                1 => operators.extend(part(4)),
                11 => inputs.extend(part(1)),
                12 => outputs.extend(part(1)),
                _ => {}
            }
        }
    }
    (operators, inputs, outputs)
}

/// Runs the model of a folder on each of its data sets. `Err` is a wrong result.
fn run(folder: &Path) -> Result<Outcome, String> {
    let model: Arc<[u8]> = std::fs::read(folder.join("model.onnx")).unwrap().into();
    let (_, input_names, output_names) = names(&model);
    for set in (0..).map(|i| folder.join(format!("test_data_set_{i}"))).take_while(|set| set.is_dir()) {
        let read = |kind: &str, n: usize| -> Option<Vec<Tensor>> {
            (0..n).map(|i| tensor(&std::fs::read(set.join(format!("{kind}_{i}.pb"))).ok()?)).collect()
        };
        let (Some(inputs), Some(outputs)) =
            (read("input", input_names.len()), read("output", output_names.len()))
        else {
            return Ok(Outcome::Refused("types that are not computed, or inputs left out".into()));
        };
        // Weights, scales and lists are known beforehand; try with as little as will do.
        let attempt = |is_fixed: Way<'_>| {
            let fixed = inputs.iter().enumerate().filter(|(i, input)| is_fixed(*i, input));
            let given = fixed.map(|(i, input)| (input_names[i].clone(), input.values.clone())).collect();
            let graph = onnx::read(&model, &Settings { inputs: given, ..Settings::default() })?;
            Network::new(&graph, &Options::default())
        };
        let is_whole = |kind: u64| matches!(kind, 6 | 7 | 9);
        let ways: [Way<'_>; 4] = [
            &|_, _| false,
            &|_, input| is_whole(input.kind),
            &|i, input| is_whole(input.kind) || i > 0,
            &|_, _| true,
        ];
        let mut network = None;
        let mut refusal = String::new();
        for way in ways {
            match attempt(way) {
                Ok(made) => {
                    let fixed = inputs.iter().enumerate().map(|(i, input)| way(i, input)).collect::<Vec<_>>();
                    network = Some((made, fixed));
                    break;
                }
                Err(Error::Unsupported { place, what }) => refusal = format!("{place}: {what}"),
                Err(other) => return Err(format!("{other}")),
            }
        }
        let Some((mut network, fixed)) = network else { return Ok(Outcome::Refused(refusal)) };
        let open = inputs.iter().enumerate().filter(|(i, _)| !fixed[*i]);
        for (port, (i, input)) in open.enumerate() {
            let ports: Vec<&str> = network.inputs().iter().map(|port| port.name.as_str()).collect();
            if ports.get(port) != Some(&input_names[i].as_str()) {
                return Err(format!("inputs {ports:?}, and not {}", input_names[i]));
            }
            if network.inputs()[port].element_type == ElementType::I8 {
                let shift = if input.kind == 2 { 128.0 } else { 0.0 };
                let bytes: Vec<i8> = input.values.iter().map(|value| (value - shift) as i8).collect();
                network.set_input_bytes(port, &bytes).map_err(|error| error.to_string())?;
            } else {
                let floats: Vec<f32> = input.values.iter().map(|value| *value as f32).collect();
                if floats.iter().any(|x| x.is_nan()) {
                    return Ok(Outcome::Refused("inputs that are no numbers".into()));
                }
                network.set_input(port, &floats).map_err(|error| error.to_string())?;
            }
        }
        network.run();
        for (i, expected) in outputs.iter().enumerate() {
            let port = &network.outputs()[i];
            if port.shape != expected.shape {
                return Err(format!("output {i} has shape {:?} and not {:?}", port.shape, expected.shape));
            }
            let n = port.n_elements();
            let is_bytes = port.element_type == ElementType::I8;
            let (mut floats, mut bytes) = (vec![0.0; n], vec![0; n]);
            if is_bytes {
                network.output_bytes(i, &mut bytes).unwrap();
                let shift = if expected.kind == 2 { 128.0 } else { 0.0 };
                floats = bytes.iter().map(|byte| f32::from(*byte) + shift).collect();
            } else {
                network.output(i, &mut floats).unwrap();
            }
            for (a, b) in floats.iter().zip(&expected.values) {
                // ONNX's own tolerances; bytes are equal.
                let tolerance = if is_bytes { 0.0 } else { 1e-7 + 1e-3 * b.abs() };
                let are_equal = (f64::from(*a) - b).abs() <= tolerance
                    || f64::from(*a) == *b
                    || (a.is_nan() && b.is_nan());
                if !are_equal {
                    return Err(format!("output {i}: {a} and not {b}"));
                }
            }
        }
    }
    Ok(Outcome::Passed)
}

fn folders(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/onnx").join(name)
}

/// Runs a network of `testdata/onnx` on its inputs; outputs are as near as `tolerance`.
fn compare(name: &str, tolerance: f32) -> edgeward_perceive::Graph {
    let model: Arc<[u8]> = std::fs::read(testdata(&format!("{name}.onnx"))).unwrap().into();
    let mut settings = Settings::default();
    settings.inputs.insert("rate".into(), vec![16000.0]);
    let graph = onnx::read(&model, &settings).unwrap();
    let runs: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(testdata(&format!("{name}.json"))).unwrap()).unwrap();
    let floats = |value: &serde_json::Value| -> Vec<f32> {
        value["values"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    };
    for isa in edgeward_kernels::Isa::available() {
        let mut network = Network::new(&graph, &Options { isa, ..Options::default() }).unwrap();
        for run in &runs {
            for port in 0..network.inputs().len() {
                let values = floats(&run["inputs"][&network.inputs()[port].name]);
                network.set_input(port, &values).unwrap();
            }
            network.run();
            for (port, output) in network.outputs().iter().enumerate() {
                let expected = floats(&run["outputs"][&output.name]);
                let mut values = vec![0.0; expected.len()];
                network.output(port, &mut values).unwrap();
                let largest = values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(largest <= tolerance, "{name}, {} on {}: {largest}", output.name, isa.name());
            }
        }
    }
    graph
}

fn count(graph: &edgeward_perceive::Graph, operator: &str) -> usize {
    graph.nodes.iter().filter(|node| node.op.name() == operator).count()
}

#[test]
fn networks_answer_as_onnxruntime() {
    let image = compare("image", 1e-5);
    // Channels go last once, and first again when there is one pixel left.
    assert_eq!(count(&image, "TRANSPOSE"), 2, "{:?}", image.nodes);
    assert_eq!(count(&image, "RELU") + count(&image, "MUL"), 0, "normalisation is part of its layer");
    let normalised = compare("normalised", 1e-5);
    // Factors and shifts are part of layers; those before zeros are one of their own.
    for operator in ["MUL", "ADD", "SUB", "DIV"] {
        assert_eq!(count(&normalised, operator), 0, "{operator}: {:?}", normalised.nodes);
    }
    assert_eq!([count(&normalised, "CONV_2D"), count(&normalised, "DEPTHWISE_CONV_2D")], [2, 3]);
    assert_eq!(count(&normalised, "FULLY_CONNECTED"), 2);
    compare("recurrent", 1e-5);
    compare("attention", 2e-5);
    compare("sentence", 1e-5);
}

#[test]
fn eight_bits_answer_as_onnxruntime() {
    // Each byte is the same: one unit of the last layer would be some hundredths.
    let qdq = compare("image_qdq", 1e-6);
    let types: Vec<bool> = qdq
        .nodes
        .iter()
        .filter(|node| matches!(node.op.name(), "CONV_2D" | "DEPTHWISE_CONV_2D" | "FULLY_CONNECTED"))
        .map(|node| qdq.tensors[node.outputs[0]].element_type == ElementType::I8)
        .collect();
    // What the file normalises in floats, between bytes, is a layer of its own.
    assert_eq!(types, [true, false, true, true, true, true], "each other layer works on bytes");
    compare("image_qlinear", 1e-6);
}

#[test]
fn a_few_cases_that_come_with_onnx() {
    let cases = folders(&testdata("cases"));
    assert!(cases.len() > 30);
    for case in cases {
        match run(&case) {
            Ok(Outcome::Passed) => {}
            other => panic!("{}: {other:?}", case.display()),
        }
    }
}

#[test]
fn every_case_of_every_operator_that_is_claimed() {
    let Some(root) = std::env::var_os("EDGEWARD_TEST_ONNX") else {
        eprintln!("EDGEWARD_TEST_ONNX is not set: cases of libonnx-testdata are NOT tested");
        return;
    };
    let (mut n_passed, mut failures, mut refused) = (0, vec![], BTreeMap::<String, Vec<String>>::new());
    for folder in folders(&Path::new(&root).join("data/node")) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let model = std::fs::read(folder.join("model.onnx")).unwrap();
        let (operators, ..) = names(&model);
        if !operators.iter().all(|operator| onnx::OPERATORS.contains(&operator.as_str())) {
            continue;
        }
        match run(&folder) {
            Ok(Outcome::Passed) => n_passed += 1,
            Ok(Outcome::Refused(why)) => refused.entry(why).or_default().push(name),
            Err(what) => failures.push(format!("{name}: {what}")),
        }
    }
    let n_refused: usize = refused.values().map(Vec::len).sum();
    println!("{n_passed} cases pass, {n_refused} are refused:");
    for (why, names) in &refused {
        println!("  {why}: {}", names.join(", "));
    }
    assert!(failures.is_empty(), "{} wrong:\n{}", failures.len(), failures.join("\n"));
    assert!(n_passed >= N_PASSED, "{n_passed} cases pass");
}
