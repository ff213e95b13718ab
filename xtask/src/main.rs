//! Chores of the repository, so that there are no loose shell scripts: `cargo xtask CHORE`.
//!
//! - `check`: formatting, clippy, the arrows between our crates, where `unsafe` is, the dependencies' licences.
//! - `make-teacher`: runs the example of that name in `crates/compress`.
//! - `test`: `check`, then the models and the browser that tests need, then all tests. The README's test command, and CI's.
//! - `test-arm`: what runs on 64-bit Arm, in an emulator; see `arm.rs`.
#![forbid(unsafe_code)]

mod arm;
mod arrows;
mod browser;
mod licences;
mod metadata;
mod operators;
mod unsafety;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use metadata::Metadata;

const USAGE: &str = "\
usage: cargo xtask CHORE

  check      rustfmt, clippy, arrows between crates, places of `unsafe`, licences of dependencies
  test       check, fetch the models and the browser that tests need, and run all tests
  test-arm   build for 64-bit Arm; test kernels and engine, and ask a question, on three emulated processors
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
        ["test-arm"] => arm::test(),
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
    run(&mut cargo(&["fmt", "--all", "--check"]))
        .map_err(|error| format!("{error}; `cargo fmt --all` formats the code"))?;
    run(&mut cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;

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
        tests.env(test_variable(model), pull(model)?);
    }
    if let Some(chromium) = browser::chromium() {
        tests.env("EDGEWARD_TEST_CHROMIUM", chromium);
    }
    if let Some(cases) = operators::cases() {
        tests.env("EDGEWARD_TEST_ONNX", cases);
    }
    run(&mut tests)
}

/// Fetches a model into the ordinary store if it is not there; the path of its file.
fn pull(model: &str) -> Result<String, String> {
    let path = output(&mut cargo(&["run", "--quiet", "--package", "edgeward", "--", "pull", model]))
        .map_err(|error| format!("tests need the model {model}, and it could not be pulled: {error}"))?;
    Ok(path.trim_end().to_owned())
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
    run(&mut command)
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

fn run(command: &mut Command) -> Outcome {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if status.success() { Ok(()) } else { Err(failed(command)) }
}

/// What a command prints on standard output.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| cannot_start(command, &error))?;
    if !output.status.success() {
        return Err(failed(command));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    format!("{} could not be started: {error}", command.get_program().display())
}

fn failed(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> =
        std::iter::once(program).chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    format!("`{}` failed", words.join(" "))
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_test_variables() {
        assert_eq!(super::test_variable("smollm2-135m"), "EDGEWARD_TEST_SMOLLM2_135M");
    }
}
