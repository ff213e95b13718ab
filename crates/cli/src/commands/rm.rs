//! `edgeward rm`: remove models from the store.

use crate::Outcome;
use crate::store::{self, ModelName, Progress, Store, Verbosity};

/// Remove models, and what interrupted pulls left of them
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward rm smollm2-135m")]
pub struct Args {
    /// Names, as `edgeward models` lists them
    #[arg(required = true)]
    names: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let store = Store::open()?;
    let progress = Progress::new(verbosity);
    // All are checked before the first is removed.
    let names = args.names.iter().map(|name| ModelName::new(name)).collect::<Result<Vec<_>, _>>()?;
    for name in names {
        let freed_bytes = store.remove(&name, &progress)?;
        progress.note(&format!("Removed {name}, {} freed", store::human_bytes(freed_bytes)));
    }
    Ok(())
}
