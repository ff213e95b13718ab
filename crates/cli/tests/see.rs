//! `edgeward see`: the real binary on real images.

#![cfg(unix)]

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::Sandbox;

fn testdata(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name);
    path.to_str().unwrap().to_owned()
}

fn is_png(path: &Path) -> bool {
    std::fs::read(path).unwrap().starts_with(b"\x89PNG")
}

#[test]
fn a_folder_of_images() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("images");
    std::fs::create_dir_all(folder.join("b")).unwrap();
    std::fs::copy(testdata("vision/person.png"), folder.join("b/person.PNG")).unwrap();
    std::fs::copy(testdata("vision/no_person.bmp"), folder.join("a.bmp")).unwrap();
    std::fs::write(folder.join("notes.txt"), "no image").unwrap();
    let labels = sandbox.path("labels.txt");
    std::fs::write(&labels, "nobody\nperson\n").unwrap();
    let (model, drawn) = (testdata("networks/models/person_detect.tflite"), sandbox.path("drawn"));
    let [folder, labels, drawn_path] = [&folder, &labels, &drawn].map(|path| path.to_str().unwrap());
    let args = ["see", folder, "--model", &model, "--labels", labels, "--json", "-o", drawn_path];
    let lines = sandbox.run(&args).success();
    let seen: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(seen.len(), 2, "{lines}");
    let best: Vec<&Value> = seen.iter().map(|seen| &seen["classes"][0]["label"]).collect();
    assert_eq!(best, ["nobody", "person"]);
    assert_eq!((seen[1]["width"].as_u64(), seen[1]["height"].as_u64()), (Some(96), Some(96)));
    assert!(is_png(&drawn.join("000000-a.png")) && is_png(&drawn.join("000001-person.png")));
}

#[test]
fn one_image_for_people() {
    let sandbox = Sandbox::new();
    let (image, model) = (testdata("vision/person.png"), testdata("networks/models/person_detect.tflite"));
    let drawn = sandbox.path("drawn.png");
    let args = ["see", &image, "--model", &model, "--labels", "nobody,person", "--top", "1"];
    let line = sandbox.run(&[&args[..], &["-o", drawn.to_str().unwrap()]].concat()).success();
    assert!(line.starts_with(&format!("{image}: person (0.9")), "{line}");
    assert!(is_png(&drawn));
}

#[test]
fn a_face_in_a_box() {
    let sandbox = Sandbox::new();
    let [image, nobody] = ["vision/person.png", "vision/no_person.bmp"].map(testdata);
    let model = testdata("networks/models/face_detection_short_range.tflite");
    let lines = sandbox.run(&["see", &image, &nobody, "--model", &model, "--json"]).success();
    let seen: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [face] = seen[0]["boxes"].as_array().unwrap().as_slice() else { panic!("{lines}") };
    assert_eq!(face["label"], "face");
    assert!(face["left"].as_f64().unwrap() < 52.0 && 52.0 < face["right"].as_f64().unwrap(), "{lines}");
    assert_eq!(seen[1]["boxes"].as_array().unwrap().len(), 0);
    let drawn = sandbox.path("drawn.png");
    let args = ["see", &image, "--model", &model, "-o", drawn.to_str().unwrap()];
    assert!(sandbox.run(&args).success().contains("person.png: face (0."));
    assert!(is_png(&drawn));
}

#[test]
fn what_cannot_be_seen_is_refused() {
    let sandbox = Sandbox::new();
    let model = testdata("networks/models/person_detect.tflite");
    let image = testdata("vision/person.png");
    let broken = sandbox.path("broken.png");
    std::fs::write(&broken, &std::fs::read(&image).unwrap()[..100]).unwrap();
    let empty = sandbox.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let [broken, empty] = [&broken, &empty].map(|path| path.to_str().unwrap());
    let wake_word = testdata("networks/models/str_ww_ref_model.tflite");
    for (args, expected) in [
        (vec![broken, "--model", &model], "no whole PNG"),
        (vec![empty, "--model", &model], "there are no images"),
        (vec!["missing.png", "--model", &model], "missing.png"),
        (vec![&image, "--model", &model, "--labels", "one"], "1 labels in one for 2 classes"),
        (vec![&image, "--model", &wake_word], "takes"),
    ] {
        let said = sandbox.run(&[&["see"], &args[..]].concat()).failure();
        assert!(said.contains(expected), "{said}");
    }
}
