//! `edgeward hear`: the real binary on a real recording.

#![cfg(unix)]

mod support;

use std::path::PathBuf;

use serde_json::Value;
use support::Sandbox;

fn testdata(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name);
    path.to_str().unwrap().to_owned()
}

#[test]
fn wake_words_with_their_times() {
    let sandbox = Sandbox::new();
    let (file, model) =
        (testdata("sound/short_wav_easy10s.wav"), testdata("networks/models/str_ww_ref_model.tflite"));
    let args = ["hear", &file, "--model", &model, "--labels", "marvin,-,-"];
    let lines = sandbox.run(&[&args[..], &["--json"]].concat()).success();
    let heard: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(heard.len(), 3, "{lines}");
    for (event, begin) in heard.iter().zip([1.0, 4.0, 7.0]) {
        assert_eq!(event["label"], "marvin");
        assert!((begin..begin + 1.2).contains(&event["time_s"].as_f64().unwrap()), "{lines}");
    }
    let lines = sandbox.run(&args).success();
    assert_eq!(lines.matches("s: marvin (0.").count(), 3, "{lines}");
}

#[test]
fn yes_and_no_but_nothing_in_noise_and_silence() {
    let sandbox = Sandbox::new();
    let model = testdata("networks/models/micro_speech_quantized.tflite");
    for (clip, expected) in [
        ("yes_1000ms.wav", "yes"),
        ("no_1000ms.wav", "no"),
        ("noise_1000ms.wav", ""),
        ("silence_1000ms.wav", ""),
        ("yes_44100_stereo.flac", "yes"),
        ("yes_22050.mp3", "yes"),
    ] {
        let file = testdata(&format!("sound/{clip}"));
        let args = ["hear", &file, "--model", &model, "--labels", "-,unknown,yes,no", "--json"];
        let lines = sandbox.run(&args).success();
        let heard: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let labels: Vec<&str> = heard.iter().map(|event| event["label"].as_str().unwrap()).collect();
        assert_eq!(labels.concat(), expected, "{clip}: {lines}");
    }
}

#[test]
fn what_cannot_be_heard_is_refused() {
    let sandbox = Sandbox::new();
    let (file, model) =
        (testdata("sound/yes_1000ms.wav"), testdata("networks/models/str_ww_ref_model.tflite"));
    let error = sandbox.run(&["hear", &file, "--model", &model, "--labels", "a,b"]).failure();
    assert!(error.contains("2 labels for 3 classes"), "{error}");
    let error = sandbox.run(&["hear", &model, "--model", &model]).failure();
    assert!(error.contains("WAV"), "{error}");
    let flac = std::fs::read(testdata("sound/yes_16000.flac")).unwrap();
    let cut = sandbox.path("cut.flac");
    std::fs::write(&cut, &flac[..flac.len() / 2]).unwrap();
    let error = sandbox.run(&["hear", cut.to_str().unwrap(), "--model", &model]).failure();
    assert!(error.contains("cut.flac") && error.contains("it ends"), "{error}");
    let other = testdata("networks/models/ad01_int8.tflite");
    assert!(sandbox.run(&["hear", &file, "--model", &other]).failure().contains("[1, 640]"));
}
