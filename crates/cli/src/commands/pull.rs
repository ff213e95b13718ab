//! `edgeward pull`: bring a model into the store.

use crate::Outcome;
use crate::output;
use crate::store::{ModelName, Progress, Reference, Store, Verbosity};

/// Fetch a model and verify it; prints where it is
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward pull smollm2-135m
  edgeward pull hf:HuggingFaceTB/SmolLM2-135M-Instruct
  edgeward pull hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_0.gguf
  edgeward pull ./my-model.gguf --name mine

An interrupted pull goes on where it stopped. The catalogue's sources are tried in order, and a
file is used only if its checksum is right.
Environment: EDGEWARD_HOME (where models are kept), EDGEWARD_CATALOGUE (another catalogue),
HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HTTPS_PROXY.")]
pub struct Args {
    /// Catalogue name, hf:org/repo, hf:org/repo/file.gguf, or a path
    model: String,
    /// Name to give it here
    #[arg(long)]
    name: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let store = Store::open()?;
    let reference = Reference::parse(&args.model)?;
    let name = args.name.as_deref().map(ModelName::new).transpose()?;
    let mut progress = Progress::new(verbosity);
    let pulled = store.pull(&reference, name, &mut progress)?;
    let record = &pulled.model.record;
    if pulled.was_here {
        progress.note(&format!("{} is here already", record.name));
    } else {
        progress.note(&format!("{} is here, from {}", record.name, record.source));
    }
    output::print_line(&pulled.model.path.display().to_string())?;
    Ok(())
}
