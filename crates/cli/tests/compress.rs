//! `eval` and `compress`, through the real binary, on the tiny random models of `testdata/tiny`.

#![cfg(unix)]

mod support;

use std::fs;
use std::path::Path;

use edgeward_model::gguf::{Gguf, GgufWriter, Value as GgufValue};
use serde_json::Value;

use support::Sandbox;

fn tiny(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny").join(name);
    path.canonicalize().unwrap().display().to_string()
}

/// Some pages of English.
fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../LICENSE-APACHE");
    path.canonicalize().unwrap().display().to_string()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// All that a file says and holds, but what running it took: that is never the same twice.
#[derive(PartialEq)]
struct Made {
    certificate: Value,
    metadata: Vec<(String, String)>,
    tensors: Vec<(String, Vec<u8>)>,
}

fn made(sandbox: &Sandbox, name: &str) -> Made {
    let gguf = Gguf::open(&sandbox.path("home").join(name)).unwrap();
    let mut certificate = json(gguf.get("edgeward.certificate").unwrap().as_str().unwrap());
    assert!(certificate["device"].take()["ms_per_token"].as_f64().unwrap() > 0.0);
    let metadata = gguf.metadata().filter(|(key, _)| *key != "edgeward.certificate");
    Made {
        certificate,
        metadata: metadata.map(|(key, value)| (key.to_owned(), format!("{value:?}"))).collect(),
        tensors: gguf.tensors().map(|tensor| (tensor.name.to_owned(), tensor.data.to_vec())).collect(),
    }
}

/// Files in the sandbox's working folder.
fn files(sandbox: &Sandbox) -> Vec<String> {
    let entries = fs::read_dir(sandbox.path("home")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_model_is_no_distance_from_itself() {
    let sandbox = Sandbox::new();
    for family in ["llama", "gemma3"] {
        let model = tiny(&format!("{family}.gguf"));
        let args = [
            "eval",
            &model,
            "--vs",
            &model,
            "--text",
            &text(),
            "--limit",
            "4000",
            "--window",
            "64",
            "--json",
        ];
        let report = json(&sandbox.run(&args).success());
        assert_eq!(report["kl_divergence"], 0.0, "{family}");
        assert_eq!(report["top1_agreement"], 1.0, "{family}");
        // A random model knows nothing of its 320 tokens, and may be sure of what is wrong.
        let perplexity = report["perplexity"].as_f64().unwrap();
        assert!((100.0..10_000.0).contains(&perplexity), "{family}: {perplexity}");
        assert!(report["n_scored"].as_u64().unwrap() > 100);
    }
}

#[test]
fn perplexity_and_eval_agree() {
    let sandbox = Sandbox::new();
    let (model, text) = (tiny("qwen3.gguf"), text());
    let old = json(&sandbox.run(&["perplexity", &model, &text, "--window", "64", "--json"]).success());
    let new = json(&sandbox.run(&["eval", &model, "--text", &text, "--window", "64", "--json"]).success());
    assert_eq!(old["perplexity"], new["perplexity"]);
    assert_eq!(old["standard_error"], new["perplexity_stderr"]);
    assert!(new.get("kl_divergence").is_none() && new["tasks"].as_object().unwrap().is_empty());
}

#[test]
fn tasks_are_scored() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("home").join("choice.jsonl");
    let line = |gold: u32| {
        format!("{{\"query\":\"Question: what?\",\"choices\":[\"this\",\"that one\"],\"gold\":{gold}}}\n")
    };
    fs::write(&file, line(0) + &line(1) + &line(1)).unwrap();
    let file = file.display().to_string();
    let model = tiny("llama.gguf");
    let report = json(&sandbox.run(&["eval", &model, "--tasks", &file, "--json"]).success());
    let task = &report["tasks"]["choice"];
    assert_eq!(task["n"], 3);
    // The question is always the same, and so is the answer.
    let acc = task["acc"].as_f64().unwrap();
    assert!([1.0 / 3.0, 2.0 / 3.0].iter().any(|share| (acc - share).abs() < 1e-9), "{acc}");
    assert!((task["acc_stderr"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-9);
    let first =
        json(&sandbox.run(&["eval", &model, "--tasks", &file, "--examples", "1", "--json"]).success());
    assert_eq!(first["tasks"]["choice"]["n"], 1);
}

#[test]
fn several_models_share_a_teacher() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    for dtype in ["Q4_0", "Q8_0"] {
        let output = format!("{dtype}.gguf");
        sandbox
            .run(&["compress", &model, "--type", dtype, "--calibration", &text(), "-o", &output])
            .success();
    }
    let args = ["Q4_0.gguf", "Q8_0.gguf", "--vs", &model, "--text", &text(), "--window", "64", "--json"];
    let reports = json(&sandbox.run(&[&["eval"], &args[..]].concat()).success());
    let kl = |i: usize| reports[i]["kl_divergence"].as_f64().unwrap();
    assert!(kl(1) > 0.0 && kl(0) > 20.0 * kl(1), "{} and {}", kl(0), kl(1));
    let alone = json(&sandbox.run(&[&["eval"], &args[1..]].concat()).success());
    assert_eq!(alone["kl_divergence"], reports[1]["kl_divergence"]);
    let table = sandbox.run(&[&["eval"], &args[..8]].concat()).success();
    assert!(table.contains("Q4_0.gguf\n") && table.contains("KL divergence"), "{table}");
}

#[test]
fn every_family_and_type_can_be_compressed_and_run() {
    let sandbox = Sandbox::new();
    for family in ["llama", "qwen2", "qwen3", "gemma3"] {
        for dtype in ["Q4_1", "iq4_nl"] {
            let (model, output) = (tiny(&format!("{family}.gguf")), "small.gguf");
            let args =
                ["compress", &model, "--type", dtype, "--calibration", &text(), "-o", output, "--json"];
            let report = json(&sandbox.run(&args).success());
            let size = report[0]["size_bytes"].as_u64().unwrap();
            assert!(size * 2 < fs::metadata(&model).unwrap().len(), "{family} {dtype}: {size}");
            assert_eq!(size, fs::metadata(sandbox.path("home").join(output)).unwrap().len());
            let inspected = json(&sandbox.run(&["inspect", "./small.gguf", "--json"]).success());
            let types: Vec<&str> =
                inspected["types"].as_array().unwrap().iter().map(|t| t["dtype"].as_str().unwrap()).collect();
            assert!(types.contains(&&*dtype.to_uppercase()), "{types:?}");
            sandbox.run(&["run", "./small.gguf", "hello", "--max-tokens", "2"]).success();
        }
    }
    // Nothing is left lying about.
    assert_eq!(files(&sandbox), ["small.certificate.html", "small.certificate.json", "small.gguf"]);
}

#[test]
fn the_same_command_gives_the_same_file() {
    let sandbox = Sandbox::new();
    let model = tiny("gemma3.gguf");
    for (output, threads) in [("a.gguf", "1"), ("b.gguf", "3")] {
        let args =
            ["compress", &model, "--type", "Q4_0", "--calibration", &text(), "-t", threads, "-o", output];
        sandbox.run(&args).success();
    }
    assert!(made(&sandbox, "a.gguf").tensors == made(&sandbox, "b.gguf").tensors);
}

#[test]
fn the_smallest_file_of_a_loss_is_found_and_its_certificate_tells_what_it_says() {
    let sandbox = Sandbox::new();
    let (model, text) = (tiny("llama.gguf"), text());
    let questions = sandbox.path("home").join("questions.jsonl");
    fs::write(&questions, "{\"goal\": \"a\", \"sol1\": \"b\", \"sol2\": \"c\", \"label\": 0}\n".repeat(3))
        .unwrap();
    let compress = |more: &[&str]| {
        let args = [&["compress", &model, "--calibration", &text, "-o", "x.gguf", "--json"], more].concat();
        json(&sandbox.run(&args).success())
    };
    let coarse = compress(&["--preset", "tiny", "--sample", "hello?", "--tasks", "questions.jsonl"]);
    let certificate = made(&sandbox, "x.gguf").certificate;
    assert_eq!(certificate["answers"][0]["prompt"], "hello?");
    assert!(
        certificate["answers"][0]["before"].is_string()
            && certificate["answers"].as_array().unwrap().len() == 1
    );
    assert_eq!(
        (&certificate["tasks"][0]["name"], &certificate["tasks"][0]["after"]["n"]),
        (&"questions".into(), &3.into())
    );
    let fine = compress(&["--max-kl", "0.05"]);
    let field = |report: &Value, name: &str| report[0][name].as_f64().unwrap();
    assert!(field(&coarse, "expected_kl") <= 0.25 && field(&fine, "expected_kl") <= 0.05);
    assert!(field(&coarse, "size_bytes") < field(&fine, "size_bytes"));
    assert!(field(&coarse, "kl_divergence") > field(&fine, "kl_divergence"));
}

#[test]
fn memory_and_time_of_a_device_are_kept() {
    let sandbox = Sandbox::new();
    let (model, text) = (tiny("llama.gguf"), text());
    let compress = |more: &[&str]| {
        let args = ["compress", &model, "--calibration", &text, "-o", "x.gguf", "--context", "128", "--json"];
        sandbox.run(&[&args[..], more].concat())
    };
    // Neither is tight: everything may be as good as can be.
    let report = json(&compress(&["--ram", "1GB", "--latency", "1s/token"]).success());
    assert!(
        report[0]["memory_bytes"].as_f64().unwrap() < 1e9
            && report[0]["ms_per_token"].as_f64().unwrap() < 1000.0
    );
    let device =
        json(&fs::read_to_string(sandbox.path("home").join("x.certificate.json")).unwrap())["device"].clone();
    assert_eq!((&device["is_predicted"], &device["budget_ms_per_token"]), (&false.into(), &1000.0.into()));
    for (more, said) in [
        (&["--ram", "1MB"][..], "go for other things than matrices"),
        (&["--latency", "1us/token"], "no choice of types keeps within --latency 0.001ms"),
        (&["--latency", "soon"], "is no time such as 4ms/token"),
        (&["--ram", "1GB", "--size", "80KB,90KB"], "give one --size at most"),
        (&["--latency", "1ms", "--device", "none.json"], "none.json"),
        (&["--size", "80KB", "--device", "none.json"], "give one of them"),
    ] {
        let ran = compress(more);
        assert!(ran.code != Some(0) && ran.stderr.contains(said), "{more:?}: {}", ran.stderr);
    }

    // Another device: on it, EW3 and EW5 take a nanosecond for a weight, all else takes a thousand.
    let mut profile = json(&sandbox.run(&["probe", "--threads", "1", "--json"]).success());
    profile["cpu"] = "A gateway".into();
    let speed =
        |dtype: &str, ns: f64| serde_json::json!({"n_threads": 2, "dtype": dtype, "ns_per_weight": ns});
    let types =
        ["EW2", "EW4", "EW6", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0"].map(|dtype| speed(dtype, 1000.0));
    profile["types"] = types.into_iter().chain(["EW3", "EW5"].map(|dtype| speed(dtype, 1.0))).collect();
    fs::write(sandbox.path("home").join("gateway.json"), profile.to_string()).unwrap();
    let of_gateway = ["--device", "gateway.json", "--threads", "2", "--latency", "200us/token"];
    compress(&of_gateway).success();
    let certificate = made(&sandbox, "x.gguf").certificate;
    // An embedding that is only looked up takes no time, in whatever type.
    let tensors = certificate["tensors"].as_array().unwrap();
    for tensor in tensors.iter().filter(|tensor| tensor["name"] != "token_embd.weight") {
        assert!(["EW3", "EW5"].contains(&tensor["dtype"].as_str().unwrap()), "{tensor}");
    }
    let device =
        json(&fs::read_to_string(sandbox.path("home").join("x.certificate.json")).unwrap())["device"].clone();
    assert_eq!((&device["cpu"], &device["is_predicted"]), (&"A gateway".into(), &true.into()));
}

#[test]
fn sizes_are_kept_and_share_measurements() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    let compress = |sizes: &str| {
        sandbox.run(&[
            "compress",
            &model,
            "--size",
            sizes,
            "--calibration",
            &text(),
            "-o",
            "x.gguf",
            "--json",
        ])
    };
    let reports = json(&compress("80KB,95000").success());
    let field = |i: usize, name: &str| reports[i][name].as_f64().unwrap();
    for (i, budget, name) in [(0, 80_000.0, "x-80KB.gguf"), (1, 95_000.0, "x-95000.gguf")] {
        let size = fs::metadata(sandbox.path("home").join(name)).unwrap().len() as f64;
        assert_eq!(size, field(i, "size_bytes"));
        assert!(size <= budget && size > 0.7 * budget, "{name}: {size}");
    }
    for figure in ["kl_divergence", "expected_kl"] {
        assert!(field(0, figure) > field(1, figure) && field(1, figure) > 0.0, "{figure}: {reports}");
    }
    // Measured before: only the rounding is left to do.
    let again = compress("95000");
    assert_eq!(json(&again.success())[0]["kl_divergence"], reports[1]["kl_divergence"]);
    let refused = compress("50KB");
    assert!(
        refused.stderr.contains("no choice of types fits into 50KB: the smallest takes"),
        "{}",
        refused.stderr
    );
}

/// The tiny model of `testdata`, and behind its layers others like them that do next to nothing.
fn write_with_idle_layers(path: &Path, n_idle: u32) {
    let gguf = Gguf::open(Path::new(&tiny("llama.gguf"))).unwrap();
    let n_layers = gguf.get("llama.block_count").unwrap().as_i64().unwrap() as u32;
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata().filter(|(key, _)| *key != "general.alignment") {
        let is_count = key == "llama.block_count";
        writer.key(key, if is_count { GgufValue::U32(n_layers + n_idle) } else { value }).unwrap();
    }
    // The name, whose data they are, and by what these are multiplied.
    let mut tensors: Vec<(String, String, f32)> = Vec::new();
    for tensor in gguf.tensors() {
        tensors.push((tensor.name.to_owned(), tensor.name.to_owned(), 1.0));
        if let Some(rest) = tensor.name.strip_prefix("blk.0.") {
            let is_last = rest.starts_with("attn_output") || rest.starts_with("ffn_down");
            for layer_idx in n_layers..n_layers + n_idle {
                let name = format!("blk.{layer_idx}.{rest}");
                tensors.push((name, tensor.name.to_owned(), if is_last { 1e-3 } else { 1.0 }));
            }
        }
    }
    for (name, of, _) in &tensors {
        let tensor = gguf.tensor(of).unwrap();
        writer.tensor(name, tensor.dims, tensor.dtype).unwrap();
    }
    let write = |name: &str, out: &mut dyn std::io::Write| {
        let (_, of, scale) = tensors.iter().find(|(own, ..)| own == name).unwrap();
        let tensor = gguf.tensor(of).unwrap();
        assert_eq!(tensor.dtype, edgeward_kernels::DType::F32);
        let floats = tensor.data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        floats.map(|x| x * scale).try_for_each(|x| out.write_all(&x.to_le_bytes()))
    };
    writer.write_file(path, write).unwrap();
}

#[test]
fn layers_that_do_less_than_their_bytes_go() {
    let sandbox = Sandbox::new();
    write_with_idle_layers(&sandbox.path("home").join("deep.gguf"), 4);
    let compress = |size: &str| {
        let base = ["compress", "./deep.gguf", "--calibration", &text(), "-o", "x.gguf", "--json"];
        sandbox.run(&[&base[..], &["--size", size]].concat())
    };
    // With room for everything, nothing is left out.
    let roomy = json(&compress("1MB").success());
    assert!(roomy[0].get("pruning").is_none(), "{roomy}");
    // One in three layers may go: two of the idle ones do, and the others have their bytes.
    let tight = &json(&compress("150KB").success())[0];
    let dropped = tight["pruning"]["shape"]["dropped_layers"].as_array().unwrap();
    assert!(dropped.len() == 2 && dropped.iter().all(|idx| idx.as_u64().unwrap() >= 2), "{tight}");
    assert!(tight["size_bytes"].as_u64().unwrap() <= 150_000);
    let (expected, measured) = (&tight["expected_kl"], &tight["kl_divergence"]);
    assert!(measured.as_f64().unwrap() < 2.0 * expected.as_f64().unwrap() + 0.01, "{tight}");
    let gguf = Gguf::open(&sandbox.path("home").join("x.gguf")).unwrap();
    assert_eq!(gguf.get("llama.block_count").unwrap().as_i64(), Some(4));
    // What was thought of is told.
    let certificate = made(&sandbox, "x.gguf").certificate;
    let candidates = certificate["candidates"].as_array().unwrap();
    let with_all = candidates.iter().find(|candidate| candidate["left_out"]["n_layers"] == 0).unwrap();
    assert!(with_all["expected_kl"].as_f64().unwrap() > expected.as_f64().unwrap(), "{with_all}");
    assert_eq!(files(&sandbox), ["deep.gguf", "x.certificate.html", "x.certificate.json", "x.gguf"]);
    assert!(compress("60KB").stderr.contains("no choice of types fits into 60KB"));
    // Whoever wants all layers keeps them.
    let all = ["compress", "./deep.gguf", "--calibration", &text(), "-o", "y.gguf", "--drop-layers", "0"];
    let kept = json(&sandbox.run(&[&all[..], &["--size", "150KB", "--json"]].concat()).success());
    assert!(kept[0].get("pruning").is_none() && kept[0]["kl_divergence"].as_f64() > measured.as_f64());
    assert!(sandbox.run(&all).failure().contains("nothing is to be left out or rounded"));
}

#[test]
fn the_search_chooses_how_many_tokens_stay() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("home").join("corpus"), "A short text of some words.\n".repeat(300)).unwrap();
    let model = tiny("gemma3.gguf");
    let compress = |size: &str| {
        let base = ["compress", &model, "--vocab-from", "corpus", "--size", size, "-o", "x.gguf", "--json"];
        json(&sandbox.run(&base).success())[0].clone()
    };
    let n_tokens = |report: &Value| report["vocabulary"]["n_tokens"].as_u64().unwrap();
    let (roomy, tight) = (compress("1MB"), compress("100KB"));
    assert!(n_tokens(&tight) <= n_tokens(&roomy), "{tight} {roomy}");
    assert!(tight["size_bytes"].as_u64().unwrap() <= 100_000);
    let certificate = made(&sandbox, "x.gguf").certificate;
    let kept = |candidate: &Value| candidate["left_out"]["n_tokens_kept"].as_u64();
    let tried: Vec<u64> = certificate["candidates"].as_array().unwrap().iter().filter_map(kept).collect();
    assert!(tried.contains(&n_tokens(&tight)), "{tried:?}");
    assert_eq!(files(&sandbox), ["corpus", "x.certificate.html", "x.certificate.json", "x.gguf"]);
}

#[test]
fn a_certificate_is_shown_and_can_be_verified() {
    let sandbox = Sandbox::new();
    let model = tiny("qwen2.gguf");
    sandbox.run(&["compress", &model, "--type", "Q4_1", "--calibration", &text(), "-o", "x.gguf"]).success();
    let inspected = json(&sandbox.run(&["inspect", "./x.gguf", "--json"]).success());
    let certificate = &inspected["certificate"];
    assert_eq!(certificate["teacher"]["name"], "qwen2.gguf");
    let beside = fs::read_to_string(sandbox.path("home").join("x.certificate.json")).unwrap();
    for (key, value) in json(&beside).as_object().unwrap() {
        // A random model's answers have control characters, which are not printed.
        assert!(key == "answers" || certificate[key] == *value, "{key}");
    }
    let shown = sandbox.run(&["inspect", "./x.gguf"]).success();
    assert!(shown.contains("calibrated on LICENSE-APACHE"), "{shown}");

    let verify = |teacher: &str, text: &str| {
        sandbox.run(&["eval", "./x.gguf", "--verify", "--vs", teacher, "--text", text, "--json"])
    };
    let verified = json(&verify(&model, &text()).success());
    assert_eq!((&verified["holds"], &verified["claimed"]), (&Value::Bool(true), &verified["measured"]));
    let other = verify(&tiny("llama.gguf"), &text());
    assert!(other.stderr.contains("is not the teacher of the certificate"), "{}", other.stderr);
    // The same file, with a claim that is a lie.
    let path = sandbox.path("home").join("x.gguf");
    let mut forged = fs::read(&path).unwrap();
    let claim = b"\"kl_divergence\":0";
    let at = forged.windows(claim.len()).position(|part| part == claim).unwrap();
    forged[at + claim.len() - 1] = b'7';
    fs::write(&path, &forged).unwrap();
    let ran = verify(&model, &text());
    assert!(ran.code == Some(1) && ran.stderr.contains("does not hold"), "{}", ran.stderr);
    let without = sandbox.run(&["eval", &model, "--verify", "--vs", &model, "--text", &text()]);
    assert!(without.stderr.contains("has no certificate"), "{}", without.stderr);
}

#[test]
fn what_is_no_calibration_text_is_refused_and_leaves_no_file() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    for (content, said) in [
        (&b""[..], "where 128 are needed"),
        (b"One line.", "where 128 are needed"),
        (b"\x7fELF\x02\x01\x00\xff\xfe\x00\x80", "as text"),
    ] {
        fs::write(sandbox.path("home").join("text"), content).unwrap();
        let ran =
            sandbox.run(&["compress", &model, "--type", "Q4_0", "--calibration", "text", "-o", "x.gguf"]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
        assert_eq!(files(&sandbox), ["text"]);
    }
    let folder = tiny("llama");
    let ran = sandbox.run(&["compress", &folder, "--type", "Q4_0", "--calibration", &text(), "-o", "x.gguf"]);
    assert!(ran.stderr.contains("is not a GGUF file"), "{}", ran.stderr);
}

#[test]
fn what_a_stopped_job_has_done_is_used_and_of_another_job_is_not() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    let compress = |dtype: &str| {
        let args = ["compress", &model, "--type", dtype, "--calibration", &text(), "-o", "x.gguf"];
        sandbox.run(&args).success();
        made(&sandbox, "x.gguf")
    };
    let (four, five) = (compress("Q4_0"), compress("Q5_0"));
    // A folder that a killed job of another kind has left: half of a matrix, under a name that is in use.
    let work = sandbox.path("home").join("x.gguf.work");
    fs::create_dir(&work).unwrap();
    fs::write(work.join("job"), "another").unwrap();
    fs::write(work.join("0-Q"), "half").unwrap();
    assert!(compress("Q4_0") == four);
    assert!(four != five);
    assert_eq!(files(&sandbox), ["x.certificate.html", "x.certificate.json", "x.gguf"]);
}

#[test]
fn a_vocabulary_can_be_trimmed_alone_or_on_the_way() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("home").join("corpus"), "A short text of some words.\n".repeat(300)).unwrap();
    for family in ["llama", "qwen2", "gemma3"] {
        let model = tiny(&format!("{family}.gguf"));
        let compress = |args: &[&str]| {
            let base = [
                "compress",
                &model,
                "--vocab-from",
                "corpus",
                "--vocab-size",
                "300",
                "-o",
                "x.gguf",
                "--json",
            ];
            json(&sandbox.run(&[&base, args].concat()).success())
        };
        let trimmed = &compress(&[])[0];
        let vocabulary = &trimmed["vocabulary"];
        let n_tokens = vocabulary["n_tokens"].as_u64().unwrap();
        assert!((280..=300).contains(&n_tokens) && vocabulary["n_tokens_before"] == 320, "{vocabulary}");
        // Its rows are copied: given that a kept token comes, nothing has changed.
        assert_eq!((&trimmed["kl_divergence"], &trimmed["top1_agreement"]), (&0.0.into(), &1.0.into()));
        let size = trimmed["size_bytes"].as_u64().unwrap();
        let verify = ["eval", "./x.gguf", "--verify", "--vs", &model, "--text", "corpus", "--json"];
        assert_eq!(json(&sandbox.run(&verify).success())["holds"], true);
        // The teacher can still be compared with, in its own tokens too.
        let eval = ["eval", "./x.gguf", "--vs", &model, "--text", &text(), "--window", "64"];
        let report = json(&sandbox.run(&[&eval[..], &["--limit", "3000", "--json"]].concat()).success());
        assert_eq!(report["kl_divergence"], 0.0);
        assert!(report["by_text"]["bits_per_byte"].as_f64().unwrap() > 0.0, "{report}");
        let answer = sandbox.run(&["run", "./x.gguf", "你好 😀", "--max-tokens", "2"]).success();
        assert!(!answer.is_empty());

        let both = &compress(&["--type", "Q4_0"])[0];
        assert_eq!(both["vocabulary"]["n_tokens"], n_tokens);
        assert!(both["size_bytes"].as_u64().unwrap() < size && both["kl_divergence"].as_f64().unwrap() > 0.0);
        let inspected = sandbox.run(&["inspect", "./x.gguf"]).success();
        assert!(inspected.contains(&format!("{n_tokens} of ")), "{inspected}");
        let page = fs::read_to_string(sandbox.path("home").join("x.certificate.html")).unwrap();
        assert!(page.contains("Bits by byte"));
        assert_eq!(files(&sandbox), ["corpus", "x.certificate.html", "x.certificate.json", "x.gguf"]);
    }
    let model = tiny("llama.gguf");
    let base =
        ["compress", &model, "--vocab-from", "corpus", "--vocab-size", "300", "-o", "x.gguf", "--json"];
    let sizes = json(&sandbox.run(&[&base[..], &["--size", "80KB"]].concat()).success());
    assert!(sizes[0]["size_bytes"].as_u64().unwrap() <= 80_000);
    assert!(sizes[0]["vocabulary"]["n_tokens"].as_u64().unwrap() < 320);
}

#[test]
fn what_is_no_corpus_or_no_size_of_a_vocabulary_is_refused() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    let home = sandbox.path("home");
    fs::write(home.join("empty"), "").unwrap();
    fs::write(home.join("line"), "One line.").unwrap();
    fs::write(home.join("binary"), b"\x7fELF\x02\x01\x00\xff\xfe\x00\x80").unwrap();
    let text = text();
    for (corpus, more, said) in [
        ("empty", &[][..], "where 128 are needed"),
        ("line", &[], "where 128 are needed"),
        ("binary", &[], "as text"),
        ("missing", &[], "could not read missing"),
        (&text, &["--vocab-size", "100"], "a vocabulary of 100 tokens is too small"),
    ] {
        let ran =
            sandbox.run(&[&["compress", &model, "--vocab-from", corpus, "-o", "x.gguf"], more].concat());
        assert!(ran.failure().contains(said), "{corpus}");
        assert_eq!(files(&sandbox), ["binary", "empty", "line"]);
    }
}

#[test]
fn a_model_can_be_pruned() {
    let sandbox = Sandbox::new();
    for family in ["llama", "qwen2", "gemma3"] {
        let model = tiny(&format!("{family}.gguf"));
        let compress = |args: &[&str]| {
            let base = [
                "compress",
                &model,
                "--calibration",
                &text(),
                "--calibration-tokens",
                "4096",
                "-o",
                "x.gguf",
            ];
            sandbox.run(&[&base, args, &["--json"]].concat())
        };
        let pruned = &json(&compress(&["--prune", "10"]).success())[0];
        let n_params = |name: &str| pruned["pruning"][name].as_u64().unwrap() as f64;
        let left = n_params("n_params") / n_params("n_params_before");
        assert!((0.6..=0.9).contains(&left), "{family}: {left}");
        assert!(pruned["kl_divergence"].as_f64().unwrap() > 0.0);
        let inspected = json(&sandbox.run(&["inspect", "./x.gguf", "--json"]).success());
        assert_eq!(inspected["n_params"], pruned["pruning"]["n_params"]);
        // The search has kept the best of what it tried.
        let trials = pruned["pruning"]["trials"].as_array().unwrap();
        let kl = |trial: &Value| trial["kl_divergence"].as_f64().unwrap();
        let chosen = trials.iter().find(|trial| trial["shape"] == pruned["pruning"]["shape"]).unwrap();
        assert!(trials.iter().all(|trial| kl(chosen) <= kl(trial) + 1e-6), "{trials:?}");
        sandbox.run(&["run", "./x.gguf", "hello", "--max-tokens", "2"]).success();
        assert!(sandbox.run(&["inspect", "./x.gguf"]).success().contains("million weights left"));
        let all = json(&compress(&["--prune", "10", "--vocab-from", &text(), "--type", "Q8_0"]).success());
        assert!(all[0]["size_bytes"].as_u64().unwrap() < pruned["size_bytes"].as_u64().unwrap());
        let layers = compress(&["--drop-layers", "1"]);
        if family == "gemma3" {
            assert!(layers.failure().contains("attend to a window"));
        } else {
            let layers = &json(&layers.success())[0]["pruning"];
            assert_eq!(layers["shape"]["dropped_layers"].as_array().unwrap().len(), 1);
            assert!(compress(&["--drop-layers", "99"]).failure().contains("keeps one layer"));
        }
        assert!(compress(&["--prune", "90"]).failure().contains("no shape is as small"));
        assert_eq!(files(&sandbox), ["x.certificate.html", "x.certificate.json", "x.gguf"]);
        sandbox
            .run(&["compress", &model, "--type", "Q4_0", "--calibration", &text(), "-o", "q.gguf"])
            .success();
        let quantised = ["compress", "./q.gguf", "--prune", "10", "--calibration", &text(), "-o", "y.gguf"];
        assert!(sandbox.run(&quantised).failure().contains("quantised"));
        fs::remove_file(sandbox.path("home").join("q.gguf")).unwrap();
        for name in ["q.certificate.html", "q.certificate.json"] {
            fs::remove_file(sandbox.path("home").join(name)).unwrap();
        }
    }
}

/// The program where no file may grow beyond `n_blocks` of 512 bytes: what a full disk does to it.
fn on_a_full_disk(sandbox: &Sandbox, n_blocks: u32, args: &[&str]) -> support::Ran {
    let script = format!("trap '' XFSZ; ulimit -f {n_blocks}; exec \"$0\" \"$@\"");
    let program = env!("CARGO_BIN_EXE_edgeward");
    let args = [&["-c", &script[..], program], args].concat();
    sandbox.around(Path::new("/bin/sh"), &args).output().unwrap().into()
}

#[test]
fn a_full_disk_leaves_no_broken_file_and_the_job_goes_on_later() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    let text = text();
    for (more, n_blocks) in [
        (&["--type", "Q4_0"][..], &[4, 40, 100][..]),
        (&["--vocab-from", &text], &[4, 40, 400]),
        (&["--prune", "20"], &[4, 100]),
    ] {
        let args = [&["compress", &model, "--calibration", &text, "-o", "x.gguf"], more].concat();
        for n_blocks in n_blocks {
            let error = on_a_full_disk(&sandbox, *n_blocks, &args).failure();
            assert!(error.contains("x.gguf"), "{n_blocks}: {error}");
            // It is not there, or whole and only without its certificate.
            if sandbox.path("home").join("x.gguf").exists() {
                sandbox.run(&["run", "./x.gguf", "hello", "--max-tokens", "1"]).success();
                fs::remove_file(sandbox.path("home").join("x.gguf")).unwrap();
            }
            assert!(!files(&sandbox).iter().any(|name| name.ends_with(".partial")), "{:?}", files(&sandbox));
        }
        sandbox.run(&args).success();
        sandbox.run(&["run", "./x.gguf", "hello", "--max-tokens", "1"]).success();
        let after = made(&sandbox, "x.gguf");
        for name in files(&sandbox) {
            fs::remove_file(sandbox.path("home").join(name)).unwrap();
        }
        sandbox.run(&args).success();
        assert!(after == made(&sandbox, "x.gguf"), "a job that was never stopped gives the same");
        for name in files(&sandbox) {
            fs::remove_file(sandbox.path("home").join(name)).unwrap();
        }
    }
}

#[test]
fn a_killed_job_goes_on() {
    let sandbox = Sandbox::new();
    let model = tiny("gemma3.gguf");
    let text = text();
    let args = ["compress", &model, "--type", "Q5_0", "--calibration", &text, "-o", "x.gguf"];
    let file = sandbox.path("home").join("x.gguf");
    sandbox.run(&args).success();
    let whole = made(&sandbox, "x.gguf");
    fs::remove_file(&file).unwrap();
    for n_done in [1, 5, 20] {
        let mut child = sandbox.command(&args).spawn().unwrap();
        let n_files = || fs::read_dir(sandbox.path("home").join("x.gguf.work")).map_or(0, Iterator::count);
        while child.try_wait().unwrap().is_none() && n_files() < n_done {
            std::thread::yield_now();
        }
        // SIGKILL: nothing of the program runs any more.
        child.kill().unwrap();
        child.wait().unwrap();
        if file.exists() {
            sandbox.run(&["run", "./x.gguf", "hello", "--max-tokens", "1"]).success();
            fs::remove_file(&file).unwrap();
        }
    }
    sandbox.run(&args).success();
    assert!(made(&sandbox, "x.gguf") == whole, "a job that was never stopped gives the same");
}

#[test]
fn calibration_text_of_another_language_will_do() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("home").join("chinese"), "人人生而自由，在尊严和权利上一律平等。".repeat(200))
        .unwrap();
    let model = tiny("llama.gguf");
    let args = ["compress", &model, "--type", "Q4_0", "--calibration", "chinese", "-o", "x.gguf"];
    sandbox.run(&args).success();
    sandbox.run(&["run", "./x.gguf", "hello", "--max-tokens", "2"]).success();
}
