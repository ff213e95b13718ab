//! Gradients against differences, the forward pass against the executor, and a network that learns.

use std::ops::ControlFlow;

use edgeward_perceive::graph::{Constant, ElementType};
use edgeward_perceive::{Graph, tflite};

use super::model::{Model, logits_of};
use super::*;
use crate::networks::testing::{Builder, everything, examples};
use crate::networks::{Method, calibrate, quantize_with};

fn go_on(_: Step) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// All examples' outputs as the executor computes them, and as training does.
fn both_ways(graph: &Graph, examples: &[Vec<Vec<f32>>]) -> (Vec<f32>, Vec<f32>) {
    let executed = Answers::of(graph, examples).unwrap().outputs.concat();
    let model = Model::new(graph, None).unwrap();
    let inputs = (0..graph.inputs.len())
        .map(|port| examples.iter().flat_map(|example| example[port].clone()).collect())
        .collect();
    let trained = model.run(examples.len(), inputs, graph.outputs[0]).unwrap();
    (executed, trained.flatten_all().unwrap().to_vec1().unwrap())
}

#[test]
fn the_forward_pass_is_the_executors() {
    let model = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/networks/models/");
        tflite::read(std::fs::read(format!("{folder}{name}.tflite")).unwrap().into()).unwrap()
    };
    for graph in [everything(), model("pretrainedResnet"), model("mnist_valid_f")] {
        let (executed, trained) = both_ways(&graph, &examples(&graph, 5));
        assert_eq!(executed.len(), trained.len());
        for (a, b) in executed.iter().zip(&trained) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

#[test]
fn gradients_are_slopes() {
    let graph = everything();
    let examples = examples(&graph, 3);
    let labels = [2, 0, 4];
    let mut teacher = graph.clone();
    for tensor in &mut teacher.tensors {
        if let Some(constant) = tensor.constant.as_ref().filter(|_| tensor.element_type == ElementType::F32) {
            let moved: Vec<f32> = constant.f32s().map(|x| x * 0.8 + 0.1).collect();
            tensor.constant = Some(Constant::of_f32s(&moved));
        }
    }
    let answers = Answers::of(&teacher, &examples).unwrap();
    let lesson = Lesson { examples: &examples, labels: Some(&labels), answers: Some(&answers) };
    let mix = Loss { squared: 0.6, kl: 0.5, hard: 0.3, temperature: 2.0 };
    for loss in [Loss::SQUARED, Loss::KL, Loss::HARD, mix] {
        let model = Model::new(&graph, None).unwrap();
        let at = |model: &Model<'_>| batch_loss(model, &lesson, &[0, 1, 2], &loss).unwrap();
        let gradients = at(&model).backward().unwrap();
        let mut rng = Builder::new(&[1]);
        for variable in model.variables() {
            let gradient: Vec<f32> =
                gradients.get(variable).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let values: Vec<f32> = variable.flatten_all().unwrap().to_vec1().unwrap();
            // Along the gradient, and along any direction.
            let size = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
            let random = rng.numbers(values.len());
            for direction in [gradient.iter().map(|g| g / size).collect::<Vec<f32>>(), random] {
                const STEP: f32 = 2e-3;
                let moved = |by: f32| {
                    let moved = values.iter().zip(&direction).map(|(x, d)| x + by * d).collect::<Vec<f32>>();
                    let moved =
                        candle_core::Tensor::from_vec(moved, variable.shape(), variable.device()).unwrap();
                    variable.set(&moved).unwrap();
                    f64::from(at(&model).to_scalar::<f32>().unwrap())
                };
                let slope = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
                moved(0.0);
                let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
                assert!(
                    (slope - expected).abs() < 0.02 * f64::from(size) + 3e-4,
                    "{loss:?}, {:?}: {slope}, not {expected}",
                    variable.shape()
                );
            }
        }
    }
}

#[test]
fn the_articles_numbers() {
    let (teacher, student) = ([0.5, 0.3, 0.2], [0.6, 0.3, 0.1]);
    let squares = squared_errors(&student, &teacher);
    for (square, expected) in squares.iter().zip([0.01, 0.0, 0.01]) {
        assert!((square - expected).abs() < 1e-7, "{squares:?}");
    }
    // The same through the loss, whose student gives logits.
    let logits: Vec<f32> = student.iter().map(|p: &f32| p.ln()).collect();
    let logits = candle_core::Tensor::from_vec(logits, (1, 3), &candle_core::Device::Cpu).unwrap();
    let targets = Targets { logits: None, outputs: Some(vec![&teacher]), labels: Some(vec![0]) };
    let value = |loss: Loss| loss.of(&logits, true, &targets).unwrap().to_scalar::<f32>().unwrap();
    assert!((value(Loss::SQUARED) - 0.02).abs() < 1e-6);
    assert!((value(Loss::HARD) + 0.6f32.ln()).abs() < 1e-6);
}

#[test]
fn a_seed_says_what_is_learnt() {
    let graph = everything();
    let examples = examples(&graph, 24);
    // Something that can be learnt: which of five stripes is brightest.
    let stripe = |example: &Vec<Vec<f32>>| {
        let sums: Vec<f32> = example[0].chunks(29).map(|stripe| stripe.iter().sum()).collect();
        (0..5).fold(0, |best, i| if sums[i] > sums[best] { i } else { best })
    };
    let labels: Vec<usize> = examples.iter().map(stripe).collect();
    let lesson = Lesson { examples: &examples, labels: Some(&labels), answers: None };
    let options = Options { n_epochs: 40, batch_size: 8, learning_rate: 0.02, ..Options::new(Loss::HARD) };
    let mut losses = Vec::new();
    let mut note = |step: Step| {
        losses.push(step.loss);
        ControlFlow::Continue(())
    };
    let trained = train(&graph, &lesson, &options, None, &mut note).unwrap();
    assert_eq!(losses.len(), options.n_steps(24));
    assert!(losses[losses.len() - 1] < 0.3 * losses[0], "{} {}", losses[0], losses[losses.len() - 1]);
    let outputs = |graph: &Graph| Answers::of(graph, &examples).unwrap().outputs;
    let again = train(&graph, &lesson, &options, None, &mut go_on).unwrap();
    assert_eq!(outputs(&trained), outputs(&again));
    let other = Options { seed: 1, ..options };
    assert_ne!(outputs(&trained), outputs(&train(&graph, &lesson, &other, None, &mut go_on).unwrap()));
}

#[test]
fn rounded_training_is_the_eight_bit_network() {
    let mut graph = everything();
    // Without what has no eight-bit form with these weights: the rounded means, and the softmax's own rounding.
    graph.outputs = vec![logits_of(&graph).unwrap().0];
    graph.nodes.pop();
    let examples = examples(&graph, 20);
    let statistics = calibrate(&graph, &examples).unwrap();
    let options = crate::networks::Options {
        method: Method::MinMax,
        input_range: None,
        corrects_bias: false,
        floats: Vec::new(),
    };
    let scales = Scales::choose(&graph, &statistics, &options).unwrap();
    let eight = quantize_with(&graph, &scales, None).unwrap();
    let name = |id: &usize| graph.tensors[*id].name.clone();
    let model = Model::new(&graph, Some(scales.by_tensor())).unwrap();
    for node in &graph.nodes {
        let id = node.outputs[0];
        let inputs = vec![examples.iter().flat_map(|example| example[0].clone()).collect()];
        let rounded: Vec<f32> =
            model.run(examples.len(), inputs, id).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let with_output = |graph: &Graph| {
            let id = graph.tensors.iter().position(|tensor| tensor.name == name(&node.outputs[0])).unwrap();
            let graph = Graph { outputs: vec![id], ..graph.clone() };
            Answers::of(&graph, &examples).unwrap().outputs.concat()
        };
        let unit = scales.by_tensor()[id].as_ref().unwrap().scales[0];
        let (executed, float) = (with_output(&eight), with_output(&graph));
        let distance = |to: &[f32]| {
            let sum: f32 = executed.iter().zip(to).map(|(a, b)| (a - b).abs() / unit).sum();
            sum / executed.len() as f32
        };
        let (distance, without) = (distance(&rounded), distance(&float));
        // A few sums lie so near to a half that biases in whole steps decide, and layers that follow see them.
        assert!(distance < 0.15 && distance < 0.2 * without, "{}: {distance} {without}", node.op.name());
    }
}

#[test]
fn what_cannot_be_taught_is_said() {
    let graph = everything();
    let examples = examples(&graph, 2);
    let fails = |lesson: Lesson<'_>, options: Options, expected: &str| {
        let error = train(&graph, &lesson, &options, None, &mut go_on).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    let lesson = Lesson { examples: &examples, labels: None, answers: None };
    fails(lesson, Options::new(Loss::HARD), "right class");
    fails(lesson, Options::new(Loss::KL), "teacher's answers");
    fails(Lesson { labels: Some(&[0, 5]), ..lesson }, Options::new(Loss::HARD), "class 5 is not one");
    fails(Lesson { examples: &[], ..lesson }, Options::new(Loss::HARD), "give examples");
    fails(Lesson { examples: &[vec![vec![0.0]], vec![]], ..lesson }, Options::new(Loss::HARD), "example 0");
    let steep = Options { learning_rate: 1e30, n_epochs: 50, ..Options::new(Loss::HARD) };
    fails(Lesson { labels: Some(&[0, 1]), ..lesson }, steep, "diverged");
    let mut stop = |_| ControlFlow::Break(());
    let lesson = Lesson { labels: Some(&[0, 1]), ..lesson };
    let stopped = train(&graph, &lesson, &Options::new(Loss::HARD), None, &mut stop);
    assert!(matches!(stopped, Err(Error::Stopped)));
}
