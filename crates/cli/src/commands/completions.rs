//! `edgeward completions`: teach a shell the command line.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{Cli, Outcome};

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward completions bash > ~/.local/share/bash-completion/completions/edgeward
  edgeward completions zsh > ~/.zfunc/_edgeward
  edgeward completions fish > ~/.config/fish/completions/edgeward.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    // Into memory first: the generator panics when its output is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "edgeward", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(())
}
