//! `make_teacher MODEL.gguf OUT.gguf`: see `edgeward_compress::teacher`. Run by `cargo xtask make-teacher`.

use std::path::Path;
use std::process::ExitCode;

/// Any will do; this one is in every published figure.
const SEED: u64 = 20_261_124;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, path] = args.as_slice() else {
        eprintln!("usage: cargo xtask make-teacher MODEL.gguf OUT.gguf");
        return ExitCode::FAILURE;
    };
    match edgeward_compress::teacher::make_teacher(Path::new(source), Path::new(path), SEED) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("error: {error}{cause}");
            ExitCode::FAILURE
        }
    }
}
