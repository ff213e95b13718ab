//! Chores of the repository, so that there are no loose shell scripts: `cargo xtask CHORE`.
//!
//! - `check`: formatting, clippy, the arrows between our crates, where `unsafe` is, the dependencies' licences.
//! - `make-teacher`: runs the example of that name in `crates/compress`.
//! - `test`: `check`, then the models that tests need, then all tests. The README's test command, and CI's.
#![forbid(unsafe_code)]

mod arrows;
mod licences;
mod metadata;
mod unsafety;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use metadata::Metadata;

const USAGE: &str = "\
usage: cargo xtask CHORE

  check   rustfmt, clippy, arrows between crates, places of `unsafe`, licences of dependencies
  test    check, fetch the models that tests need, and run all tests
  make-teacher MODEL.gguf OUT.gguf
          a float model to test compression with, of a quantised one";

/// Models that tests run on. Each test finds its model's path in `EDGEWARD_TEST_<NAME>`, see CONTRIBUTING.md.
const TEST_MODELS: [&str; 2] = ["smollm2-135m", "gemma3-270m"];

type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] => check(),
        ["test"] => test(),
        ["make-teacher", source, path] => make_teacher(source, path),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Outcome {
    run(cargo(&["fmt", "--all", "--check"]))
        .map_err(|error| format!("{error}; `cargo fmt --all` formats the code"))?;
    run(cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;

    let metadata = Metadata::load(cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    // All are looked at, so that one run shows everything that is wrong.
    let findings: Vec<String> =
        [arrows::findings(&metadata), licences::findings(&metadata), unsafety::findings(&root())?].concat();
    if findings.is_empty() {
        println!("check: format, clippy, arrows, unsafe and licences are in order");
        Ok(())
    } else {
        Err(format!("{}\n{} finding(s)", findings.join("\n"), findings.len()))
    }
}

fn test() -> Outcome {
    check()?;
    let mut tests = cargo(&["test", "--workspace"]);
    for model in TEST_MODELS {
        let mut pull = cargo(&["run", "--quiet", "--package", "edgeward", "--", "pull", model]);
        let output = pull
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("cargo could not be started: {error}"))?;
        if !output.status.success() {
            return Err(format!("tests need the model {model}, and it could not be pulled"));
        }
        let path = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        tests.env(test_variable(model), path);
    }
    run(tests)
}

/// Paths are meant from where the chore was called.
fn make_teacher(source: &str, path: &str) -> Outcome {
    let here =
        std::env::current_dir().map_err(|error| format!("the current folder is not to be found: {error}"))?;
    let paths = [source, path].map(|path| here.join(path).display().to_string());
    let run_example =
        ["run", "--release", "--package", "edgeward-compress", "--example", "make_teacher", "--"];
    let mut command = cargo(&run_example);
    command.args(paths);
    run(command)
}

/// `smollm2-135m` -> `EDGEWARD_TEST_SMOLLM2_135M`.
fn test_variable(model: &str) -> String {
    format!("EDGEWARD_TEST_{}", model.to_uppercase().replace(['-', '.'], "_"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository").to_path_buf()
}

fn cargo(args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args).current_dir(root());
    command
}

fn run(mut command: Command) -> Outcome {
    let words: Vec<String> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let status = command.status().map_err(|error| format!("cargo could not be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`cargo {}` failed", words.join(" "))) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_test_variables() {
        assert_eq!(super::test_variable("smollm2-135m"), "EDGEWARD_TEST_SMOLLM2_135M");
    }
}
