//! The one binary: parse, call a library, print.
//!
//! Answers go to standard output, everything else to standard error; an error ends the program with status 1 and one
//! sentence that says what to do, followed by its causes. What each command does is in `commands`, one file each.
#![forbid(unsafe_code)]

mod commands;
mod output;
mod store;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{completions, models, pull, rm};
use store::Verbosity;

/// What a command gives: nothing, or an error that is shown with its causes.
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Bring large language models down from the cloud, and run them on this device.
#[derive(Parser)]
#[command(
    name = "edgeward",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  edgeward pull smollm2-135m                 fetch a model; from then on no network is needed
  edgeward models                            what is here

A MODEL is a name (see `edgeward models --all`), hf:org/repo, hf:org/repo/file.gguf, or a path.
Models are kept in $EDGEWARD_HOME, or else in ~/.local/share/edgeward."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say nothing on standard error but errors
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Pull(pull::Args),
    Models(models::Args),
    Rm(rm::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let verbosity = if cli.quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let outcome = match cli.command {
        Command::Pull(args) => pull::run(&args, verbosity),
        Command::Models(args) => models::run(&args),
        Command::Rm(args) => rm::run(&args, verbosity),
        Command::Completions(args) => completions::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output (`| head`) has seen enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", output::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// clap checks its definitions only when they are used, in debug builds.
    #[test]
    fn the_command_line_is_well_defined() {
        super::Cli::command().debug_assert();
    }
}
