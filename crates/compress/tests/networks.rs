//! Real float networks in eight bits, against the eight-bit files that their makers ship.

use std::path::PathBuf;

use edgeward_compress::networks::{Agreement, Method, Options, calibrate, quantize};
use edgeward_perceive::graph::{ElementType, Op, Unary};
use edgeward_perceive::vision::{Fit, Limits, Preparation, decode};
use edgeward_perceive::{Error, Graph, Network, onnx, tflite};

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn graph(name: &str) -> Graph {
    tflite::read(std::fs::read(testdata("networks/models").join(name)).unwrap().into()).unwrap()
}

/// Parts of the images in `testdata/vision`, in several sizes, black and white as `range` says.
fn examples(graph: &Graph, range: (f32, f32)) -> Vec<Vec<Vec<f32>>> {
    let network = Network::new(graph, &edgeward_perceive::Options::default()).unwrap();
    let preparation = Preparation { fit: Fit::Crop, range: Some(range), ..Preparation::default() };
    let mut examples = Vec::new();
    for name in ["person.png", "no_person.bmp", "noise.png", "upright_1.jpg"] {
        let image =
            decode(&std::fs::read(testdata("vision").join(name)).unwrap(), &Limits::default()).unwrap();
        for size in [16, 24, 28] {
            for y in (0..=image.height() - size).step_by(9) {
                for x in (0..=image.width() - size).step_by(11) {
                    let part = image.crop(x, y, size, size);
                    examples.push(vec![preparation.prepare(&part, &network.inputs()[0]).unwrap().0]);
                }
            }
        }
    }
    examples
}

#[test]
fn our_eight_bits_are_nearer_than_those_that_are_shipped() {
    let (float, shipped) = (graph("pretrainedResnet.tflite"), graph("pretrainedResnet_quant.tflite"));
    let examples = examples(&float, (0.0, 255.0));
    assert!(examples.len() > 200, "{}", examples.len());
    let (seen, kept): (Vec<_>, Vec<_>) = examples.into_iter().enumerate().partition(|(i, _)| i % 3 != 0);
    let [seen, kept] =
        [seen, kept].map(|part| part.into_iter().map(|(_, example)| example).collect::<Vec<_>>());
    let statistics = calibrate(&float, &seen).unwrap();
    let theirs = Agreement::measure(&float, &shipped, &kept).unwrap();
    let mut made = Vec::new();
    for corrects_bias in [false, true] {
        for method in [Method::MinMax, Method::Percentile { outside: 1e-4 }, Method::LeastSquares] {
            let options = Options { method, input_range: Some((0.0, 255.0)), corrects_bias, floats: vec![] };
            let graph = quantize(&float, &statistics, &seen, &options).unwrap();
            // Through the file, as a device gets it.
            let graph = tflite::read(tflite::write(&graph).unwrap().into()).unwrap();
            assert_eq!(graph.tensors[graph.inputs[0]].element_type, ElementType::I8);
            assert_eq!(graph.nodes.len(), float.nodes.len());
            let ours = Agreement::measure(&float, &graph, &kept).unwrap();
            println!("{method:?}, biases corrected: {corrects_bias}: {ours:?}");
            made.push((corrects_bias, ours));
        }
    }
    println!("theirs: {theirs:?}");
    // Correcting biases brings every method nearer.
    let (plain, corrected) = made.split_at(3);
    for ((_, plain), (_, corrected)) in plain.iter().zip(corrected) {
        assert!(corrected.squared_error < plain.squared_error, "{corrected:?} and {plain:?}");
    }
    // How often the largest output is the same is left to `docs/benchmarks`, on 2000 inputs: of the 146 here, parts of four
    // images, so many lie between two classes that one more or less is chance.
    let best = corrected.iter().map(|(_, ours)| *ours);
    let best = best.min_by(|a, b| a.squared_error.total_cmp(&b.squared_error)).unwrap();
    assert!(best.squared_error < 0.5 * theirs.squared_error, "{best:?} and {theirs:?}");
    assert!(best.kl_divergence < theirs.kl_divergence, "{best:?} and {theirs:?}");
}

/// Parts of a concatenation have the scale of the whole: from the layers that make them, or by a QUANTIZE. And layers take
/// their activations in, but those that TFLite has no bounds for.
#[test]
fn what_is_joined_has_one_scale() {
    let joined = std::fs::read(testdata("onnx/joined.onnx")).unwrap();
    let joined = onnx::read(&joined.into(), &onnx::Settings::default()).unwrap();
    let faces = graph("face_detection_short_range.tflite");
    // Of `joined` what a logistic function, a tanh and a maximum that has two readers give.
    // The detector's positions are hundreds of pixels on top of small differences: eight bits cost it more.
    for (name, float, n_requantized, least_db) in [("joined", joined, 3, 35.0), ("faces", faces, 0, 13.0)] {
        let float = tflite::adapt(&float).unwrap();
        let examples: Vec<_> = examples(&float, (-1.0, 1.0)).into_iter().step_by(12).collect();
        let statistics = calibrate(&float, &examples).unwrap();
        let options = Options {
            method: Method::MinMax,
            input_range: Some((-1.0, 1.0)),
            corrects_bias: true,
            floats: vec![],
        };
        let made = quantize(&float, &statistics, &examples, &options).unwrap();
        let made = tflite::read(tflite::write(&made).unwrap().into()).unwrap();
        let count = |is: &dyn Fn(&Op) -> bool| made.nodes.iter().filter(|node| is(&node.op)).count();
        assert_eq!(count(&|op| matches!(op, Op::Quantize)), n_requantized, "{name}");
        assert_eq!(count(&|op| matches!(op, Op::Unary(Unary::Clip { .. }))), 0, "{name}");
        for node in made.nodes.iter().filter(|node| matches!(node.op, Op::Concat { .. })) {
            let scale = |id: usize| made.tensors[id].quantization.clone();
            assert!(node.inputs.iter().all(|id| scale(id.unwrap()) == scale(node.outputs[0])), "{name}");
        }
        let agreement = Agreement::measure(&float, &made, &examples).unwrap();
        println!("{name}: {agreement:?}");
        assert!(agreement.sqnr_db > least_db, "{name}: {agreement:?}");
    }
}

#[test]
fn what_cannot_be_brought_to_eight_bits_is_named() {
    let options = Options { method: Method::MinMax, input_range: None, corrects_bias: true, floats: vec![] };
    for (name, expected) in [
        ("pretrainedResnet_quant.tflite", "no float"),
        ("kws_ref_model_float32.tflite", "give the float network"),
    ] {
        let graph = graph(name);
        let network = Network::new(&graph, &edgeward_perceive::Options::default()).unwrap();
        let example = network.inputs().iter().map(|port| vec![0.5; port.n_elements()]).collect::<Vec<_>>();
        let statistics = calibrate(&graph, std::slice::from_ref(&example)).unwrap();
        let error = quantize(&graph, &statistics, &[example], &options).unwrap_err();
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
    let float = graph("mnist_valid_f.tflite");
    assert!(matches!(calibrate(&float, &[]), Err(Error::Mismatch { .. })));
    assert!(matches!(calibrate(&float, &[vec![vec![0.0; 3]]]), Err(Error::Mismatch { .. })));
}
