//! The commands that open models, through the real binary, on the tiny random models of `testdata/tiny` and, where
//! sense is asked for, on a real one.

#![cfg(unix)]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use support::terminal::Terminal;
use support::{Ran, Sandbox};

const FAMILIES: [&str; 6] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma3"];

fn tiny(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny").join(name);
    path.canonicalize().unwrap().display().to_string()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The path of SmolLM2-135M: where `cargo xtask test` says, else where `edgeward pull smollm2-135m` puts it.
fn smollm2() -> PathBuf {
    if let Some(path) = std::env::var_os("EDGEWARD_TEST_SMOLLM2_135M") {
        return path.into();
    }
    let mut pull = Command::new(env!("CARGO_BIN_EXE_edgeward"));
    let path =
        Ran::from(pull.args(["pull", "smollm2-135m"]).stdin(Stdio::null()).output().unwrap()).success();
    path.trim_end().into()
}

/// Gives `input` to the program's standard input.
fn run_with_input(sandbox: &Sandbox, args: &[&str], input: &str) -> Ran {
    let mut child = sandbox.command(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn inspects_files_and_folders_alike() {
    let sandbox = Sandbox::new();
    for family in FAMILIES {
        let file = json(&sandbox.run(&["inspect", &tiny(&format!("{family}.gguf")), "--json"]).success());
        let folder = json(&sandbox.run(&["inspect", &tiny(family), "--json"]).success());
        assert_eq!(file["format"]["gguf"]["version"], 3, "{family}");
        assert!(folder["format"]["safetensors"]["n_files"].as_u64().unwrap() >= 1, "{family}");
        let runs = |report: &Value| report["verdict"]["runs"].clone();
        assert_eq!(runs(&file)["config"]["vocab_size"], runs(&folder)["config"]["vocab_size"], "{family}");
        assert_eq!(runs(&file)["memory"]["fits"], true, "{family}");

        let text = sandbox.run(&["inspect", &tiny(&format!("{family}.gguf"))]).success();
        for needed in
            ["GGUF version 3", "blk.N.attn_q.weight", "general.architecture", "n_kv_heads", "It fits."]
        {
            assert!(text.contains(needed), "{family}: {needed} in {text}");
        }
        let all = sandbox.run(&["inspect", &tiny(&format!("{family}.gguf")), "--tensors"]).success();
        assert!(all.contains("blk.0.attn_q.weight") && !all.contains("blk.N."), "{family}");
    }
}

#[test]
fn says_before_loading_that_a_model_will_not_fit() {
    let sandbox = Sandbox::new();
    let text = sandbox.run(&["inspect", &tiny("llama.gguf"), "--context", "4000000000"]).success();
    assert!(text.contains("It will not fit: at most ") && text.contains("--context "), "{text}");
}

#[test]
fn damaged_files_are_errors_in_every_command() {
    let sandbox = Sandbox::new();
    let sound = fs::read(tiny("llama.gguf")).unwrap();
    let path = sandbox.path("home/damaged.gguf");
    for damaged in [&b""[..], b"no model at all", &sound[..sound.len() / 2], &sound[..100]] {
        fs::write(&path, damaged).unwrap();
        for args in [
            &["inspect", "damaged.gguf"][..],
            &["tokenize", "damaged.gguf", "x"],
            &["run", "damaged.gguf", "x"],
            &["perplexity", "damaged.gguf", "../catalogue.toml"],
            &["bench", "damaged.gguf"],
        ] {
            let error = sandbox.run(args).failure();
            assert!(error.contains("damaged.gguf"), "{args:?}: {error}");
        }
    }
}

#[test]
fn tokenize_gives_back_the_text() {
    let sandbox = Sandbox::new();
    let text = "Hello, world! 1234 naïve 你好 🦀\n";
    for model in [tiny("llama.gguf"), tiny("llama"), tiny("gemma3.gguf")] {
        let rows = json(&sandbox.run(&["tokenize", &model, text, "--no-bos", "--json"]).success());
        let ids: Vec<String> = rows.as_array().unwrap().iter().map(|row| row["id"].to_string()).collect();
        let listed = sandbox.run(&["tokenize", &model, text, "--no-bos", "--ids"]).success();
        assert_eq!(listed.trim_end(), ids.join(" "), "{model}");
        let piped = run_with_input(&sandbox, &["tokenize", &model, "--no-bos", "--ids"], text).success();
        assert_eq!(piped, listed, "{model}");
        fs::write(sandbox.path("home/text"), text).unwrap();
        let read = sandbox.run(&["tokenize", &model, "--no-bos", "--ids", "--file", "text"]).success();
        assert_eq!(read, listed, "{model}");
        let table = sandbox.run(&["tokenize", &model, text, "--no-bos"]).success();
        assert_eq!(table.lines().count(), ids.len(), "{model}");
    }
    // Text from outside cannot forge a control token unless that is asked for.
    let count = |args: &[&str]| sandbox.run(args).success().split_whitespace().count();
    let forged = ["tokenize", &tiny("llama.gguf"), "<|im_end|>", "--no-bos", "--ids"];
    assert!(count(&forged) > 1);
    assert_eq!(count(&[&forged[..], &["--special"]].concat()), 1);

    fs::write(sandbox.path("home/binary"), [0xFF, 0xFE]).unwrap();
    let error = sandbox.run(&["tokenize", &tiny("llama.gguf"), "--file", "binary"]).failure();
    assert!(error.contains("as text"), "{error}");
}

#[test]
fn answers_are_the_same_for_a_seed_at_any_number_of_threads() {
    let sandbox = Sandbox::new();
    for family in FAMILIES {
        let answer = |model: &str, seed: &str, threads: &str| {
            let args =
                ["run", model, "Hello", "-n", "24", "--temperature", "1.5", "--seed", seed, "-t", threads];
            sandbox.run(&args).success()
        };
        let file = tiny(&format!("{family}.gguf"));
        let first = answer(&file, "7", "1");
        assert!(first.ends_with('\n') && first.len() > 1, "{family}: {first:?}");
        assert_eq!(answer(&file, "7", "2"), first, "{family}");
        assert_ne!(answer(&file, "8", "1"), first, "{family}");
    }
}

#[test]
fn the_answer_alone_is_on_standard_output() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    let ran = sandbox.run(&["run", &model, "Hello", "-n", "8", "--seed", "1"]);
    assert!(ran.stderr.contains("tokens of prompt at") && ran.stderr.contains("tokens/s"), "{}", ran.stderr);
    let answer = ran.success();
    let quiet = sandbox.run(&["run", &model, "Hello", "-n", "8", "--seed", "1", "--quiet"]);
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.success(), answer);
    // Piped in, the same prompt gives the same answer.
    let piped = run_with_input(&sandbox, &["run", &model, "-n", "8", "--seed", "1"], "Hello").success();
    assert_eq!(piped, answer);
    // A stop text ends the answer and is no part of it.
    let stop: String = answer.chars().skip(3).take(2).collect();
    let args = ["run", &model, "Hello", "-n", "8", "--seed", "1", "--stop", &stop];
    let stopped = sandbox.run(&args).success();
    assert_eq!(stopped.trim_end_matches('\n'), answer.split(&stop).next().unwrap());
}

#[test]
fn a_bias_decides() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    let ids = sandbox.run(&["tokenize", &model, "a", "--no-bos", "--ids"]).success();
    let bias = format!("{}=1000", ids.trim_end());
    let args = ["run", &model, "Hello", "-n", "3", "--logit-bias", &bias, "--repetition-penalty", "1"];
    assert_eq!(sandbox.run(&args).success(), "aaa\n");
}

#[test]
fn wrong_questions_are_errors() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    let error = run_with_input(&sandbox, &["run", &model], " \n").failure();
    assert!(error.contains("the prompt is empty"), "{error}");
    for (option, value, word) in [
        ("--temperature", "-1", "temperature"),
        ("--temperature", "NaN", "temperature"),
        ("--top-p", "0", "top-p"),
        ("--min-p", "2", "min-p"),
        ("--repetition-penalty", "0", "repetition"),
    ] {
        let option = format!("{option}={value}");
        let error = sandbox.run(&["run", "no-such-model", "x", &option]).failure();
        assert!(error.contains(word), "said before a model is looked for: {error}");
    }
    let long = "word ".repeat(3000);
    let error = sandbox.run(&["run", &model, &long]).failure();
    assert!(error.contains("shorten the prompt"), "{error}");
    let error = sandbox.run(&["run", "no-such-model", "x"]).failure();
    assert!(error.contains("no model or file"), "{error}");
}

#[test]
fn ctrl_c_stops_the_answer() {
    let sandbox = Sandbox::new();
    let args = endless_answer(&sandbox);
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["Hello"]).collect();
    let mut child = sandbox.command(&args).spawn().unwrap();
    // The first piece of the answer shows that it has begun.
    let mut piece = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut piece).unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert!(ran.stderr.contains(", stopped"), "{}", ran.stderr);
    assert!(ran.stdout.ends_with("a\n"), "what has been said stands, and its line is ended");
}

#[test]
fn a_listener_who_leaves_ends_the_answer() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.command(&["run", &tiny("llama.gguf"), "Hello", "-n", "0"]).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn chats_on_a_terminal() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    let mut chat = Terminal::start(&sandbox, &["run", &model, "-n", "5", "--temperature", "0"]);
    for (typed, shown) in [
        ("/help", "/system TEXT"),
        ("/stats", "nothing has been said yet"),
        ("Hello", "tokens of prompt at"),
        ("Hello \\", "... "),
        ("again", " kept) at"),
        ("/stats", "positions of the context in use"),
        ("/frob", "There is no command /frob"),
        ("/reset", "Forgotten."),
        ("/system Be brief.", "Begun anew."),
    ] {
        if typed != "again" {
            chat.expect("> ");
        }
        chat.type_keys(&format!("{typed}\r"));
        chat.expect(shown);
    }
    // Ctrl-C throws away what was typed, Ctrl-D ends the chat.
    chat.expect("> ");
    chat.type_keys("never sent\x03");
    chat.expect("> ");
    chat.type_keys("\x04");
    assert_eq!(chat.end(), Some(0));
    // What was typed is remembered for the next time.
    let history = fs::read_to_string(sandbox.store("history.txt")).unwrap();
    assert!(history.contains("/system Be brief.") && !history.contains("never sent"), "{history}");
}

/// Arguments by which a tiny model says "a", and will for minutes.
fn endless_answer(sandbox: &Sandbox) -> Vec<String> {
    let model = tiny("llama.gguf");
    let id = sandbox.run(&["tokenize", &model, "a", "--no-bos", "--ids"]).success();
    let bias = format!("--logit-bias={}=1000", id.trim_end());
    let rest = ["-n", "0", "--context", "1000000", "--repetition-penalty", "1"];
    [&["run", &model, &bias], &rest[..]].concat().iter().map(|arg| (*arg).to_owned()).collect()
}

#[test]
fn ctrl_c_in_a_chat_stops_the_answer_and_not_the_program() {
    let sandbox = Sandbox::new();
    let args = endless_answer(&sandbox);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut chat = Terminal::start(&sandbox, &args);
    for _ in 0..2 {
        chat.expect("> ");
        chat.type_keys("Hello\r");
        chat.expect("aaaaaaaaaaaaaaaa");
        chat.type_keys("\x03");
        chat.expect(", stopped]");
    }
    chat.expect("> ");
    chat.type_keys("/quit\r");
    assert_eq!(chat.end(), Some(0));
}

#[test]
fn bench_prints_what_the_comparison_script_reads() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    let bench = |args: &[&str]| {
        let args = [&["bench", &model, "--threads", "2", "--repeat", "1", "--json"], args].concat();
        let rows = json(&sandbox.run(&args).success());
        let number = |row: &Value, name: &str| row[name].as_u64().unwrap();
        let rows = rows.as_array().unwrap().clone();
        for row in &rows {
            assert_eq!(number(row, "threads"), 2);
            assert!(row["tokens_per_s"].as_f64().unwrap() > 0.0);
            assert!(row["percent_of_limit"].as_f64().unwrap() > 0.0);
        }
        rows.iter()
            .map(|row| (number(row, "n_prompt"), number(row, "n_gen"), number(row, "n_depth")))
            .collect::<Vec<_>>()
    };
    assert_eq!(bench(&["--prompt", "64", "--gen", "0", "--depth", "0"]), [(64, 0, 0)]);
    assert_eq!(bench(&["--prompt", "0", "--gen", "8", "--depth", "32"]), [(0, 8, 32)]);
    assert_eq!(
        bench(&["--prompt", "16,32", "--gen", "8", "--depth", "0,32"]),
        [(16, 0, 0), (32, 0, 0), (0, 8, 0), (0, 8, 32)]
    );
    // What was measured of the device is kept for the next time.
    let profile = json(&fs::read_to_string(sandbox.store("device.json")).unwrap());
    assert_eq!(profile["limits"][0]["n_threads"], 2);

    let table = sandbox.run(&["bench", &model, "-t", "2", "-p", "16", "-n", "0", "-r", "3"]).success();
    assert!(table.starts_with("THREADS  PART") && table.contains("prefill"), "{table}");
    let error = sandbox.run(&["bench", &model, "--prompt", "0", "--gen", "0"]).failure();
    assert!(error.contains("nothing to measure"), "{error}");
}

#[test]
fn probe_keeps_a_profile() {
    let sandbox = Sandbox::new();
    let printed = json(&sandbox.run(&["probe", "--threads", "1", "--json"]).success());
    let kept = json(&fs::read_to_string(sandbox.store("device.json")).unwrap());
    assert_eq!(printed, kept);
    assert!(printed["limits"][0]["read_bytes_per_s"].as_f64().unwrap() > 1e8);
    assert!(printed["n_logical_cores"].as_u64().unwrap() >= 1);
    let table = sandbox.run(&["probe", "--threads", "1"]).success();
    assert!(table.contains("READ GB/S") && table.contains("instruction sets"), "{table}");
}

#[test]
fn perplexity_of_a_text() {
    let sandbox = Sandbox::new();
    let model = tiny("llama.gguf");
    fs::write(sandbox.path("home/text"), "All happy families are alike. ".repeat(100)).unwrap();
    let args = ["perplexity", &model, "text", "--window", "32", "--windows", "5", "--json"];
    let report = json(&sandbox.run(&args).success());
    assert_eq!((&report["n_windows"], &report["n_scored"]), (&5.into(), &(5 * 15).into()));
    // Random weights know nothing: about as uncertain as a guess among the whole vocabulary, and finite.
    let perplexity = report["perplexity"].as_f64().unwrap();
    assert!(perplexity > 2.0 && perplexity < 1e6, "{perplexity}");

    let dump = [&args[..], &["--dump-logits", "logits"]].concat();
    assert_eq!(json(&sandbox.run(&dump).success())["perplexity"], report["perplexity"]);
    let logits = fs::read(sandbox.path("home/logits")).unwrap();
    let number = |at: usize| u32::from_le_bytes(logits[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(number(0), 5 * 15);
    assert_eq!(logits.len(), 8 + number(0) * number(4) * 4);

    fs::write(sandbox.path("home/short"), "short").unwrap();
    let error = sandbox.run(&["perplexity", &model, "short"]).failure();
    assert!(error.contains("smaller --window"), "{error}");
    let error = sandbox.run(&["perplexity", &model, "absent"]).failure();
    assert!(error.contains("absent"), "{error}");
}

#[test]
fn a_name_of_the_catalogue_is_pulled_by_the_first_use() {
    let model = fs::read(tiny("llama.gguf")).unwrap();
    let served = model.clone();
    let server =
        support::server::Server::start(move |request, _| support::server::Reply::file(request, &served));
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&model);
    let ran = sandbox.run(&["run", "tiny", "Hello", "-n", "4"]);
    assert!(ran.stderr.contains("Pulling tiny"), "{}", ran.stderr);
    ran.success();
    sandbox.run(&["tokenize", "tiny", "Hello"]).success();
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_real_model_makes_sense() {
    let sandbox = Sandbox::new();
    let model = smollm2().display().to_string();
    let ask =
        |prompt: &str| sandbox.run(&["run", &model, prompt, "--temperature", "0", "-n", "60"]).success();
    let answer = ask("Why is the sky blue?");
    assert!(answer.to_lowercase().contains("scatter") || answer.contains("light"), "{answer}");
    let raw = ["run", &model, "The capital of France is", "--raw", "--temperature", "0", "-n", "5"];
    let answer = sandbox.run(&raw).success();
    assert!(answer.contains("Paris"), "{answer}");
}
