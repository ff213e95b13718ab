//! What a network takes is what it said, and a run takes nothing more.

use std::path::PathBuf;

use edgeward_perceive::{Arithmetic, Error, Graph, Network, Options, tflite};

fn graph(name: &str) -> Graph {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/networks/models");
    tflite::read(std::fs::read(models.join(name)).unwrap().into()).unwrap()
}

#[test]
fn a_run_allocates_nothing() {
    for name in ["pretrainedResnet_quant.tflite", "mnist_valid_f.tflite", "kws_ref_model_float32.tflite"] {
        for arithmetic in [Arithmetic::Xnnpack, Arithmetic::Reference] {
            let mut network =
                Network::new(&graph(name), &Options { arithmetic, ..Options::default() }).unwrap();
            let input = vec![0.25; network.inputs()[0].n_elements()];
            let mut output = vec![0.0; network.outputs()[0].n_elements()];
            let counted = allocation_counter::measure(|| {
                for _ in 0..3 {
                    network.set_input(0, &input).unwrap();
                    network.run();
                    network.output(0, &mut output).unwrap();
                }
            });
            assert_eq!(counted.count_total, 0, "{name}");
            assert!((output.iter().sum::<f32>() - 1.0).abs() < 0.02, "{name}: probabilities {output:?}");
        }
    }
}

#[test]
fn memory_is_stated_before_it_is_taken() {
    let graph = graph("pretrainedResnet_quant.tflite");
    let cost = Network::new(&graph, &Options::default()).unwrap().cost();
    // Two images of 32 x 32 x 16 and a padded one, and slack.
    assert!((3 * 16384..4 * 18496 + 1024).contains(&cost.arena_bytes), "{cost:?}");
    // Of the convolutions and the dense layer, and the additions of an average over 8 x 8 pixels of 64 channels.
    assert_eq!(cost.macs, 12_501_632 + 8 * 8 * 64);
    let needed_bytes = cost.arena_bytes + cost.weight_bytes;
    let options = |limit_bytes| Options { limit_bytes, ..Options::default() };
    assert!(Network::new(&graph, &options(needed_bytes)).is_ok());
    let error = Network::new(&graph, &options(needed_bytes - 1)).unwrap_err();
    assert_eq!(error, Error::TooLarge { needed_bytes, limit_bytes: needed_bytes - 1 });
    // Weights beyond the limit are refused before they are laid out.
    assert!(matches!(Network::new(&graph, &options(1000)), Err(Error::TooLarge { .. })));
}

#[test]
fn inputs_and_outputs_are_checked() {
    let mut network = Network::new(&graph("mnist_valid_q.tflite"), &Options::default()).unwrap();
    let errors = [
        network.set_input(0, &[0.0; 3]).unwrap_err(),
        network.set_input(1, &[]).unwrap_err(),
        network.set_input_bytes(0, &[0; 785]).unwrap_err(),
        network.set_input(0, &[f32::NAN; 784]).unwrap_err(),
        network.output(0, &mut [0.0; 9]).unwrap_err(),
        network.output(1, &mut [0.0; 10]).unwrap_err(),
    ];
    let texts = errors.map(|error| error.to_string());
    for (text, expected) in
        texts.iter().zip(["784", "no number 1", "784", "not a number", "10", "no number 1"])
    {
        assert!(text.contains(expected), "{text}");
    }
    let mut floats = Network::new(&graph("mnist_valid_f.tflite"), &Options::default()).unwrap();
    let error = floats.set_input_bytes(0, &[0; 784]).unwrap_err().to_string();
    assert!(error.contains("float32"), "{error}");
    // Beyond the range of bytes, the ends of it; ties go away from zero.
    network.set_input(0, &[1e9; 784]).unwrap();
    network.run();
    let mut output = [0; 10];
    network.output_bytes(0, &mut output).unwrap();
    let mut again = [0; 10];
    network.set_input_bytes(0, &[127; 784]).unwrap();
    network.run();
    network.output_bytes(0, &mut again).unwrap();
    assert_eq!(output, again);
}
