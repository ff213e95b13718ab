//! `edgeward net`: the real binary on real networks.

#![cfg(unix)]

mod support;

use std::path::PathBuf;

use serde_json::Value;
use support::Sandbox;

fn model(name: &str) -> String {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/networks/models");
    models.join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_network_is_shown() {
    let sandbox = Sandbox::new();
    let shown = sandbox.run(&["net", "inspect", &model("kws_ref_model.tflite")]).success();
    assert!(shown.contains("int8[1, 49, 10, 1], scale 0.5847"), "{shown}");
    assert!(shown.contains("2.66 million multiply-adds"), "{shown}");
    assert_eq!(shown.matches("DEPTHWISE_CONV_2D").count(), 4, "{shown}");

    let json = sandbox.run(&["net", "inspect", &model("kws_ref_model.tflite"), "--json"]).success();
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["operators"].as_array().unwrap().len(), 13);
    assert_eq!(report["outputs"][0]["shape"], serde_json::json!([1, 12]));
    assert_eq!(report["inputs"][0]["zero_point"], 83);
    assert!(report["arena_bytes"].as_u64().unwrap() < 40_000);
}

#[test]
fn a_network_runs() {
    let sandbox = Sandbox::new();
    let input = sandbox.path("inputs");
    std::fs::write(&input, [[3u8; 784], [250; 784]].concat()).unwrap();
    let (model, input) = (model("mnist_valid_q.tflite"), input.to_str().unwrap());
    let lines = sandbox.run(&["net", "run", &model, input, "--json"]).success();
    let answers: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    let probabilities: Vec<f64> =
        answers[1]["outputs"][0].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    assert_eq!(probabilities.len(), 10);

    let output = sandbox.path("outputs");
    let raw =
        ["net", "run", &model, input, "--output", output.to_str().unwrap(), "--arithmetic", "reference"];
    assert_eq!(sandbox.run(&raw).success(), "");
    let bytes = std::fs::read(&output).unwrap();
    assert_eq!(bytes.len(), 20);
    // The output's scale is 1/256 and its zero point -128.
    let sum: f64 = bytes[10..].iter().map(|byte| (f64::from(*byte as i8) + 128.0) / 256.0).sum();
    assert!((sum - probabilities.iter().sum::<f64>()).abs() < 0.05);

    let table = sandbox.run(&["net", "run", &model, input]).success();
    assert_eq!(table.matches("VALUE").count(), 2, "{table}");
}

#[test]
fn an_onnx_network_runs() {
    let sandbox = Sandbox::new();
    let onnx = |name: &str| model(&format!("../../onnx/{name}"));
    let shown = sandbox.run(&["net", "inspect", &onnx("image_qdq.onnx")]).success();
    assert!(shown.contains("float32[1, 3, 20, 17]") && shown.contains("int8[1, 10, 9, 8]"), "{shown}");

    let golden: Value = serde_json::from_slice(&std::fs::read(onnx("recurrent.json")).unwrap()).unwrap();
    let numbers = |value: &Value| -> Vec<f32> {
        value["values"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    };
    let input = sandbox.path("inputs");
    let given = ["sound", "state", "cell"].map(|name| numbers(&golden[0]["inputs"][name])).concat();
    std::fs::write(&input, given.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let args = ["net", "run", &onnx("recurrent.onnx"), input.to_str().unwrap(), "--json"];
    let refused = sandbox.run(&args).failure();
    assert!(refused.contains("(If)") && refused.contains("beforehand"), "{refused}");
    let line = sandbox.run(&[&args[..], &["--set", "rate=16000"]].concat()).success();
    let answer: Value = serde_json::from_str(&line).unwrap();
    let (speech, expected) = (&answer["outputs"][0][0], numbers(&golden[0]["outputs"]["speech"])[0]);
    assert!((speech.as_f64().unwrap() as f32 - expected).abs() < 1e-5, "{line}");
}

#[test]
fn speed_is_measured() {
    let sandbox = Sandbox::new();
    let model = model("mnist_valid_q.tflite");
    let json =
        sandbox.run(&["net", "bench", &model, "--threads", "1,2", "--seconds", "0.01", "--json"]).success();
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(rows.iter().map(|row| row["threads"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for row in &rows {
        let (median, fastest) = (row["us_per_run"].as_f64().unwrap(), row["us_fastest"].as_f64().unwrap());
        assert!(0.0 < fastest && fastest <= median);
        assert!(row["arena_bytes"].as_u64().unwrap() > 784);
    }
}

#[test]
fn a_float_network_becomes_eight_bits() {
    let sandbox = Sandbox::new();
    let float = model("mnist_valid_f.tflite");
    // Strokes of a pen, more or less: bright bars in all places.
    let bars = (0..60).flat_map(|i: usize| {
        (0..784).map(move |at: usize| {
            let (row, column) = (at / 28, at % 28);
            let is_ink = column.abs_diff(4 + i % 20) < 2 && (4..4 + i % 19).contains(&row)
                || row.abs_diff(6 + i / 3) < 2 && (6..22).contains(&column);
            if is_ink { 1f32 } else { 0.0 }
        })
    });
    let inputs = sandbox.path("inputs.f32");
    std::fs::write(&inputs, bars.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let output = sandbox.path("int8.tflite");
    let [inputs, output] = [&inputs, &output].map(|path| path.to_str().unwrap());
    let args = ["net", "compress", &float, "--calibration", inputs, "-o", output, "--json"];
    let report: Value = serde_json::from_str(&sandbox.run(&args).success()).unwrap();
    assert_eq!((report["n_calibration"].as_u64(), report["n_compared"].as_u64()), (Some(45), Some(15)));
    assert!(report["bytes_after"].as_u64().unwrap() < report["bytes_before"].as_u64().unwrap());
    assert!(report["same_top_1"].as_f64().unwrap() > 0.9, "{report}");

    let shown = sandbox.run(&["net", "inspect", output]).success();
    assert!(shown.contains("int8[1, 28, 28, 1], scale 0.0039"), "{shown}");
    let verify = ["net", "eval", &float, output, "--verify", "--inputs", inputs];
    let held = sandbox.run(&verify).success();
    assert!(held.contains("the certificate holds") && held.contains("squared_error"), "{held}");
    // Another teacher, other inputs, no certificate, and one that says what is not so.
    let other = model("pretrainedResnet.tflite");
    let refused = sandbox.run(&["net", "eval", &other, output, "--verify", "--inputs", inputs]).failure();
    assert!(refused.contains("is not the teacher"), "{refused}");
    let fewer = sandbox.path("fewer.f32");
    std::fs::write(&fewer, &std::fs::read(inputs).unwrap()[..784 * 4 * 59]).unwrap();
    let refused = sandbox.run(&[&verify[..6], &[fewer.to_str().unwrap()]].concat()).failure();
    assert!(refused.contains("not the inputs"), "{refused}");
    let plain = model("mnist_valid_q.tflite");
    let refused = sandbox.run(&["net", "eval", &float, &plain, "--verify", "--inputs", inputs]).failure();
    assert!(refused.contains("no certificate"), "{refused}");
    let mut bytes = std::fs::read(output).unwrap();
    let claim = b"\"same_top_1\":";
    let at = bytes.windows(claim.len()).position(|window| window == claim).unwrap() + claim.len();
    // Whatever share it was: it becomes 0.
    let end = at + bytes[at..].iter().position(|byte| *byte == b',').unwrap();
    bytes[at..end].fill(b' ');
    bytes[at] = b'0';
    let lying = sandbox.path("lying.tflite");
    std::fs::write(&lying, bytes).unwrap();
    let lying = ["net", "eval", &float, lying.to_str().unwrap(), "--verify", "--inputs", inputs, "--json"];
    let caught = sandbox.run(&lying);
    assert_eq!(caught.code, Some(1), "{}", caught.stdout);
    let found: Value = serde_json::from_str(&caught.stdout).unwrap();
    let bad: Vec<&Value> =
        found[0]["claims"].as_array().unwrap().iter().filter(|claim| claim["holds"] == false).collect();
    assert_eq!((bad.len(), bad[0]["name"].as_str()), (1, Some("same_top_1")), "{found}");
    let args = ["net", "eval", &float, output, &model("mnist_valid_q.tflite"), "--inputs", inputs, "--json"];
    let rows: Vec<Value> = serde_json::from_str(&sandbox.run(&args).success()).unwrap();
    assert_eq!((rows.len(), rows[0]["same_top_1"].as_f64()), (3, Some(1.0)));
    assert!(
        rows[1]["sqnr_db"].as_f64() > rows[2]["sqnr_db"].as_f64(),
        "ours is nearer than theirs: {rows:?}"
    );

    let quantised = model("mnist_valid_q.tflite");
    let args = ["net", "compress", &quantised, "--calibration", inputs, "-o", output];
    assert!(sandbox.run(&args).failure().contains("an input that is no float"));
}

#[test]
fn eight_bits_in_onnx_answer_as_onnxruntime() {
    let sandbox = Sandbox::new();
    let float = model("mnist_valid_f.tflite");
    let [inputs, _] = shapes(&sandbox, 40);
    let [output, given, answers] =
        ["onnx", "inputs", "outputs"].map(|kind| sandbox.path(&format!("shapes.{kind}")));
    let [output, given, answers] = [&output, &given, &answers].map(|path| path.to_str().unwrap());
    let compress = ["net", "compress", &float, "--calibration", &inputs, "-o"];
    let refused = sandbox.run(&[&compress[..], &["shapes.h5"]].concat()).failure();
    assert!(refused.contains("ends in .tflite or .onnx"), "{refused}");
    sandbox.run(&[&compress[..], &[output]].concat()).success();
    let shown = sandbox.run(&["net", "inspect", output]).success();
    assert!(shown.contains("int8[1, 28, 28, 1], scale 0.0039"), "{shown}");
    let verify = ["net", "eval", &float, output, "--verify", "--inputs", &inputs];
    let held = sandbox.run(&verify).success();
    assert!(held.contains("the certificate holds"), "{held}");

    let bytes = |x: &[u8; 4]| (f32::from_le_bytes(*x) * 255.0 - 128.0) as i8 as u8;
    let floats = std::fs::read(&inputs).unwrap();
    std::fs::write(given, floats.as_chunks().0.iter().map(bytes).collect::<Vec<u8>>()).unwrap();
    sandbox.run(&["net", "run", output, given, "--output", answers]).success();
    let agree = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/onnx/agree.py");
    let compared = std::process::Command::new("python3")
        .arg(agree)
        .arg(sandbox.path(""))
        .env("PYTHONPATH", support::python_packages("onnx-requirements.txt"))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&compared.stdout);
    assert!(compared.status.success(), "{text}{}", String::from_utf8_lossy(&compared.stderr));
    assert!(text.starts_with("shapes, 400 answers"), "{text}");
}

#[test]
fn several_networks_answer_one_question() {
    let sandbox = Sandbox::new();
    let [small, large] = ["mnist_valid_q.tflite", "mnist_valid_f.tflite"].map(model);
    let [inputs, targets] = shapes(&sandbox, 40);
    let table = ["net", "cascade", &small, &large, "--inputs", &inputs, "--targets", &targets, "--json"];
    let rows: Vec<Value> = serde_json::from_str(&sandbox.run(&table).success()).unwrap();
    let column = |name: &str| -> Vec<f64> { rows.iter().map(|row| row[name].as_f64().unwrap()).collect() };
    let (asked, same) = (column("large_asked"), column("same_top_1"));
    assert_eq!((asked[0], *asked.last().unwrap(), *same.last().unwrap()), (0.0, 1.0, 1.0), "{rows:?}");
    assert!(asked.is_sorted() && rows.len() == 10, "{rows:?}");
    assert!(column("us_per_answer").iter().all(|us| *us > 0.0));

    // The same by running them.
    let lines = |args: &[&str]| -> Vec<Value> {
        let lines =
            sandbox.run(&[&["net", "run", &small][..], args, &[&inputs, "--json"]].concat()).success();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let threshold = rows.iter().position(|row| row["large_asked"].as_f64() > Some(0.0)).unwrap();
    let sure = rows[threshold]["threshold"].as_f64().map_or("1".to_owned(), |sure| sure.to_string());
    let answers = lines(&["--then", &large, "--sure", &sure]);
    let n_asked = answers.iter().filter(|answer| answer["stage"] == 1).count();
    assert_eq!(n_asked as f64 / 40.0, asked[threshold], "{sure}");
    let p = |answers: &[Value], i: usize| answers[i]["outputs"][0][4].as_f64().unwrap();
    let (both, one) = (lines(&["--with", &large]), lines(&["--then", &large, "--sure", "0"]));
    let other = sandbox.run(&["net", "run", &large, &inputs, "--json"]).success();
    let other: Vec<Value> = other.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for i in 0..40 {
        assert!((p(&both, i) - (p(&one, i) + p(&other, i)) / 2.0).abs() < 1e-6);
        assert_eq!(one[i]["stage"], 0);
    }
    let refused = sandbox.run(&["net", "run", &small, "--then", &model("pretrainedResnet.tflite"), &inputs]);
    assert!(refused.failure().contains("take and give the same"));
}

#[test]
fn channels_first_becomes_eight_bits() {
    let sandbox = Sandbox::new();
    // Noise, as the networks' answers were made on: sums of twelve equal shares are near enough to normal.
    let mut state = 1u64;
    let mut share = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let noise = (0..80 * 3 * 20 * 17).map(|_| (0..12).map(|_| share()).sum::<f32>() - 6.0);
    let inputs = sandbox.path("noise.f32");
    std::fs::write(&inputs, noise.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let (output, given) = (sandbox.path("int8.tflite"), sandbox.path("given.i8"));
    let [inputs, output, given] = [&inputs, &output, &given].map(|path| path.to_str().unwrap());
    for (name, least_db) in [("image", 25.0), ("normalised", 25.0)] {
        let float = model(&format!("../../onnx/{name}.onnx"));
        let args = ["net", "compress", &float, "--calibration", inputs, "-o", output, "--json"];
        let report: Value = serde_json::from_str(&sandbox.run(&args).success()).unwrap();
        assert!(report["sqnr_db"].as_f64().unwrap() > least_db, "{name}: {report}");
        let shown = sandbox.run(&["net", "inspect", output, "--json"]).success();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["inputs"][0]["shape"], serde_json::json!([1, 3, 20, 17]));
        let (scale, zero) = (&shown["inputs"][0]["scale"], &shown["inputs"][0]["zero_point"]);
        let (scale, zero) = (scale.as_f64().unwrap(), zero.as_f64().unwrap());

        let verify = ["net", "eval", &float, output, "--verify", "--inputs", inputs];
        assert!(sandbox.run(&verify).success().contains("the certificate holds"));

        // Beside what onnxruntime answers.
        let golden = std::fs::read(model(&format!("../../onnx/{name}.json"))).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        for run in golden.as_array().unwrap() {
            let numbers = |side: &str, name: &str| -> Vec<f64> {
                let values = run[side][name]["values"].as_array().unwrap();
                values.iter().map(|x| x.as_f64().unwrap()).collect()
            };
            let byte = |x: &f64| ((x / scale).round() + zero).clamp(-128.0, 127.0) as i8 as u8;
            std::fs::write(given, numbers("inputs", "image").iter().map(byte).collect::<Vec<u8>>()).unwrap();
            let line = sandbox.run(&["net", "run", output, given, "--json"]).success();
            let answer: Value = serde_json::from_str(&line).unwrap();
            let answer = answer["outputs"][0].as_array().unwrap().iter().map(|x| x.as_f64().unwrap());
            for (found, expected) in answer.zip(numbers("outputs", "classes")) {
                assert!((found - expected).abs() < 0.03, "{name}: {found} and not {expected}");
            }
        }
    }
    let refused = model("../../onnx/attention.onnx");
    let args = ["net", "compress", &refused, "--calibration", inputs, "-o", output];
    assert!(sandbox.run(&args).failure().contains("float32 each"), "other inputs");
}

#[test]
fn as_much_as_is_asked_for_stays_in_floats() {
    let sandbox = Sandbox::new();
    let [inputs, _] = shapes(&sandbox, 60);
    let float = model("mnist_valid_f.tflite");
    let (all, mixed) = (sandbox.path("all.tflite"), sandbox.path("mixed.tflite"));
    let [all, mixed] = [&all, &mixed].map(|path| path.to_str().unwrap());
    let compress = |output: &str, args: &[&str]| -> Value {
        let command = ["net", "compress", &float, "--calibration", &inputs, "-o", output, "--json"];
        serde_json::from_str(&sandbox.run(&[&command[..], args].concat()).success()).unwrap()
    };
    let every_way = compress(all, &[]);
    let [sqnr, more] = [0.0, 1.0].map(|more| every_way["sqnr_db"].as_f64().unwrap() + more);
    assert_eq!(every_way["float_operators"], serde_json::json!([]), "{every_way}");
    for (method, equalization) in [("kl", "all"), ("min-max", "none")] {
        let one = compress(mixed, &["--method", method, "--equalization", equalization]);
        assert_eq!((&one["method"], &one["equalization"]), (&method.into(), &equalization.into()));
        assert!(one["sqnr_db"].as_f64() <= Some(sqnr), "the nearest was chosen: {one}");
    }
    let report = compress(mixed, &["--least-sqnr", &more.to_string()]);
    assert!(report["sqnr_db"].as_f64() >= Some(more), "{report}");
    let floats = report["float_operators"].as_array().unwrap();
    assert!(
        !floats.is_empty() && floats.len() < report["n_operators"].as_u64().unwrap() as usize,
        "{report}"
    );
    assert!(report["bytes_after"].as_u64() > every_way["bytes_after"].as_u64(), "{report}");
    let shown = sandbox.run(&["net", "inspect", mixed]).success();
    assert!(shown.contains("QUANTIZE"), "{shown}");
    let verify = ["net", "eval", &float, mixed, "--verify", "--inputs", &inputs];
    assert!(sandbox.run(&verify).success().contains("the certificate holds"));
}

#[test]
fn many_inputs_are_answered_in_order() {
    let sandbox = Sandbox::new();
    let [inputs, _] = shapes(&sandbox, 40);
    let network = model("mnist_valid_f.tflite");
    let one = sandbox.run(&["net", "run", &network, &inputs, "--json"]).success();
    let three = sandbox.run(&["net", "run", &network, &inputs, "--json", "--parallel", "3"]).success();
    assert!(one == three && one.lines().count() == 40, "{three}");
    // What was asked before the input that is too short is answered.
    let mut bytes = std::fs::read(&inputs).unwrap();
    bytes.truncate(bytes.len() - 4);
    std::fs::write(&inputs, bytes).unwrap();
    let cut = sandbox.run(&["net", "run", &network, &inputs, "--json", "--parallel", "3"]);
    assert_eq!(cut.stdout, one.lines().take(39).map(|line| format!("{line}\n")).collect::<String>());
    assert!(cut.code == Some(1) && cut.stderr.contains("ends after 3132"), "{}", cut.stderr);
}

#[test]
fn what_is_no_network_is_refused() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("file.tflite");
    let path = file.to_str().unwrap();
    std::fs::write(&file, b"nothing of the kind").unwrap();
    assert!(sandbox.run(&["net", "inspect", path]).failure().contains("is damaged"));
    let whole = std::fs::read(model("mnist_valid_q.tflite")).unwrap();
    std::fs::write(&file, &whole[..3000]).unwrap();
    assert!(sandbox.run(&["net", "bench", path]).failure().contains("is damaged"));
    assert!(sandbox.run(&["net", "run", "missing.tflite", path]).failure().contains("missing.tflite"));
    // An input that is too short, and a limit that is too low.
    let model = model("mnist_valid_q.tflite");
    std::fs::write(&file, [0; 1000]).unwrap();
    assert!(
        sandbox
            .run(&["net", "run", &model, path, "--output", "/dev/null"])
            .failure()
            .contains("ends after 216")
    );
}

/// Crosses and rings of many sizes in all places, as a file of numbers, and which each is.
fn shapes(sandbox: &Sandbox, n: usize) -> [String; 2] {
    let mut numbers = Vec::new();
    for i in 0..n {
        let (middle_row, middle_column, size) = (9 + i * 7 % 10, 9 + i * 5 % 10, 4 + i * 3 % 5);
        for at in 0..784usize {
            let down = (at / 28).abs_diff(middle_row) as f32;
            let across = (at % 28).abs_diff(middle_column) as f32;
            let is_ink = if i % 2 == 0 {
                down.min(across) < 1.0 && down.max(across) <= size as f32
            } else {
                (down.hypot(across) - size as f32).abs() < 0.8
            };
            numbers.extend(if is_ink { 1f32 } else { 0.0 }.to_le_bytes());
        }
    }
    let (inputs, targets) = (sandbox.path("shapes.f32"), sandbox.path("shapes.txt"));
    std::fs::write(&inputs, numbers).unwrap();
    let classes: String = (0..n).map(|i| if i % 2 == 0 { "4\n" } else { "0\n" }).collect();
    std::fs::write(&targets, classes).unwrap();
    [inputs, targets].map(|path| path.to_str().unwrap().to_owned())
}

#[test]
fn a_network_teaches_a_smaller_one() {
    let sandbox = Sandbox::new();
    let teacher = model("mnist_valid_f.tflite");
    let [inputs, targets] = shapes(&sandbox, 160);
    let output = sandbox.path("student.tflite");
    let output = output.to_str().unwrap();
    let args = ["net", "distill", &teacher, "--inputs", &inputs, "-o", output];
    let training = ["--targets", &targets, "--loss", "kl=0.01,hard", "--epochs", "30", "--rate", "0.01"];
    let more = [&training[..], &["--prune-to", "0.5", "--json"]].concat();
    let report: Value = serde_json::from_str(&sandbox.run(&[&args[..], &more].concat()).success()).unwrap();
    assert_eq!((report["n_taught"].as_u64(), report["n_compared"].as_u64()), (Some(120), Some(40)));
    let networks = report["networks"].as_array().unwrap();
    assert_eq!(networks.len(), 3);
    let number = |i: usize, name: &str| networks[i][name].as_f64().unwrap();
    assert!(number(1, "multiplications") <= 0.5 * number(0, "multiplications"), "{report}");
    assert!(number(2, "bytes") < number(1, "bytes") && number(1, "bytes") < number(0, "bytes"), "{report}");
    // Shapes and not digits: the student learns what they are called.
    assert!(number(2, "accuracy") > 0.9 && number(2, "us_per_run") > 0.0, "{report}");
    let shown = sandbox.run(&["net", "inspect", output]).success();
    assert!(shown.contains("int8[1, 28, 28, 1]"), "{shown}");

    let certificate: Value =
        serde_json::from_slice(&std::fs::read(sandbox.path("student.certificate.json")).unwrap()).unwrap();
    assert_eq!(certificate["teacher"]["size_bytes"], std::fs::metadata(&teacher).unwrap().len());
    assert_eq!(certificate["after"]["accuracy"], networks[2]["accuracy"]);
    assert!(certificate["command"].as_str().unwrap().contains("--prune-to 0.5 --loss kl=0.01,hard=1"));
    assert!(
        std::fs::read_to_string(sandbox.path("student.certificate.html")).unwrap().contains("Same class")
    );

    let verify = ["net", "eval", &teacher, output, "--verify", "--inputs", &inputs, "--targets", &targets];
    let held = sandbox.run(&verify).success();
    assert!(held.contains("after.accuracy") && held.contains("the certificate holds"), "{held}");

    // A student that is given: this one again, which has eight bits and cannot be taught.
    let refused = sandbox.run(&[&args[..], &["--student", output]].concat()).failure();
    assert!(refused.contains("no float"), "{refused}");
    for (wrong, expected) in [
        (&["--loss", "hard"][..], "needs the right classes"),
        (&["--prune-to", "0.001"], "too narrow"),
        (&["--targets", &inputs], "shapes.f32"),
    ] {
        let refused = sandbox.run(&[&args[..], wrong].concat()).failure();
        assert!(refused.contains(expected), "{refused}");
    }
    let refused = sandbox.run(&[&args[..], &["--prune-to", "1.5"]].concat());
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("above 0 and below 1"), "{}", refused.stderr);
}
