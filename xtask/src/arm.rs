//! The 64-bit Arm kernels, tested on another machine by emulation: `cargo xtask test-arm`.
//!
//! The whole program is built for `aarch64-unknown-linux-gnu`. Then, on each of [`CPUS`], the kernels' tests, the engine's
//! on tiny models and those of small networks run, and the program answers a question, which must be what it answers here:
//! all instruction sets give the same bits. That each CPU has just the instructions it is there for is checked, so that
//! an emulator without one of them fails instead of testing less.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::{Outcome, cargo, output, pull, root, run};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Debian's folder of libraries for it.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";
/// How the emulator finds libraries: its own sysroot, and there alone. Cargo's path leads to libraries of this machine, and
/// where Debian's arm64 packages are installed too, the linker would take the C library from them, which may be of another
/// version than the sysroot's and hangs then in the first thread that is made.
const EMULATION: [&str; 4] = ["-L", SYSROOT, "-E", "LD_LIBRARY_PATH=/usr/aarch64-linux-gnu/lib"];
const LINKER: &str = "aarch64-linux-gnu-gcc";
/// The second is what Debian calls the one that needs no libraries of its own.
const EMULATORS: [&str; 2] = ["qemu-aarch64", "qemu-aarch64-static"];
/// What the emulator calls a CPU, and the best of our instruction sets on it.
const CPUS: [(&str, &str); 3] =
    [("max", "neon_i8mm"), ("neoverse-n1", "neon_dotprod"), ("cortex-a72", "neon")];
const MODEL: &str = "smollm2-135m";
const QUESTION: [&str; 5] = ["What is the capital of France?", "--temperature", "0", "--max-tokens", "8"];

/// All at once: cargo resolves features for the packages that are named together, and would compile the kernels anew for
/// each other set.
const PACKAGES: [&str; 4] = ["-pedgeward", "-pedgeward-kernels", "-pedgeward-engine", "-pedgeward-perceive"];
/// Of these, unit tests and the integration tests of these names.
const TESTS: [&str; 10] = [
    "--lib",
    "--test=blocks",
    "--test=tiny_models",
    "--test=litert",
    "--test=memory",
    "--test=nab",
    "--test=onnx",
    "--test=onnx_written",
    "--test=sound",
    "--test=vision",
];

/// See the module.
pub fn test() -> Outcome {
    let tools = Tools::find()?;
    run(&mut tools.cargo(&[&["build"], &PACKAGES[..]].concat()))?;

    let model = pull(MODEL)?;
    let expected =
        output(cargo(&["run", "--quiet", "--package", "edgeward", "--", "run", &model]).args(QUESTION))?;
    for (cpu, isa) in CPUS {
        println!("test-arm: {cpu}, which has {isa}");
        let found = tools.best_isa(cpu)?;
        if found != isa {
            return Err(format!(
                "{cpu} of {} has {found}, not {isa}: a newer qemu is needed",
                tools.emulator
            ));
        }
        run(tools.cargo(&[&["test"], &PACKAGES[..], &TESTS[..]].concat()).env("QEMU_CPU", cpu))?;
        let answer = output(tools.edgeward(cpu).args(["run", &model]).args(QUESTION))?;
        if answer != expected {
            return Err(format!("on {cpu} the answer is {answer:?}, and {expected:?} here"));
        }
        println!("test-arm: {cpu} answers as this machine does: {}", answer.trim_end());
    }
    Ok(())
}

/// What building and running for another processor takes.
struct Tools {
    cargo: PathBuf,
    rustc: PathBuf,
    emulator: &'static str,
}

impl Tools {
    /// All that is missing is named at once.
    fn find() -> Result<Tools, String> {
        let mut missing = Vec::new();
        if !answers(Command::new(LINKER)) {
            missing.push(format!("{LINKER}: apt-get install gcc-aarch64-linux-gnu"));
        }
        if !Path::new(SYSROOT).join("lib/libc.so.6").exists() {
            missing.push(format!("{SYSROOT}/lib/libc.so.6: apt-get install libc6-dev-arm64-cross"));
        }
        let emulator = EMULATORS.into_iter().find(|emulator| answers(Command::new(emulator)));
        if emulator.is_none() {
            missing.push(format!("{}: apt-get install qemu-user-static", EMULATORS.join(" or ")));
        }
        let toolchain = toolchain();
        if toolchain.is_none() {
            missing.push(format!("Rust's library for {TARGET}: rustup target add {TARGET}"));
        }
        if let (Some((cargo, rustc)), Some(emulator), true) = (toolchain, emulator, missing.is_empty()) {
            return Ok(Tools { cargo, rustc, emulator });
        }
        let hint = "CONTRIBUTING.md, \"Another processor\", tells how to get them";
        Err(format!("test-arm lacks tools:\n  {}\n{hint}", missing.join("\n  ")))
    }

    /// A cargo that builds for the target, and runs what it built in the emulator.
    fn cargo(&self, args: &[&str]) -> Command {
        let variable = TARGET.to_uppercase().replace('-', "_");
        let runner = format!("{} {}", self.emulator, EMULATION.join(" "));
        let mut command = Command::new(&self.cargo);
        command
            .args(args)
            .args(["--target", TARGET])
            .env("RUSTC", &self.rustc)
            .env("CARGO_TARGET_DIR", target_dir())
            .env(format!("CARGO_TARGET_{variable}_LINKER"), LINKER)
            .env(format!("CARGO_TARGET_{variable}_RUNNER"), runner)
            .env_remove("LD_LIBRARY_PATH")
            .current_dir(root());
        command
    }

    /// The program that [`Tools::cargo`] built, on a CPU.
    fn edgeward(&self, cpu: &str) -> Command {
        let mut command = Command::new(self.emulator);
        command
            .args(EMULATION)
            .arg(target_dir().join(TARGET).join("debug/edgeward"))
            .env("QEMU_CPU", cpu)
            .env_remove("LD_LIBRARY_PATH");
        command
    }

    fn best_isa(&self, cpu: &str) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Profile {
            isa: String,
        }
        // What is measured here describes no device: it is kept where nobody looks.
        let home = target_dir().join("edgeward-home");
        let mut probe = self.edgeward(cpu);
        let profile = output(probe.args(["probe", "--json", "--threads", "1"]).env("EDGEWARD_HOME", home))?;
        let profile: Profile = serde_json::from_str(&profile)
            .map_err(|error| format!("what `edgeward probe` printed on {cpu} is not understood: {error}"))?;
        Ok(profile.isa)
    }
}

/// Apart from what is built for this machine, perhaps by another version of Rust.
fn target_dir() -> PathBuf {
    root().join("target/arm")
}

/// Whether a program is here and tells its version.
fn answers(mut program: Command) -> bool {
    let quiet = program.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// The cargo and rustc that can build for the target: those of this run, or the system's own (Debian's, beside rustup's).
fn toolchain() -> Option<(PathBuf, PathBuf)> {
    let ours = |variable: &str, name: &str| std::env::var_os(variable).map_or(name.into(), PathBuf::from);
    let candidates = [
        (ours("CARGO", "cargo"), ours("RUSTC", "rustc")),
        ("/usr/bin/cargo".into(), "/usr/bin/rustc".into()),
    ];
    candidates.into_iter().find(|(_, rustc)| {
        let mut libdir = Command::new(rustc);
        output(libdir.args(["--print", "target-libdir", "--target", TARGET]))
            .is_ok_and(|libdir| Path::new(libdir.trim_end()).is_dir())
    })
}
