//! The one binary: parse, call a library, print.
//!
//! Answers go to standard output, everything else to standard error; an error ends the program with status 1 and one
//! sentence that says what to do, followed by its causes. What each command does is in `commands`, one file each.
#![forbid(unsafe_code)]

mod commands;
mod conversation;
mod device;
mod engine_args;
mod layers;
mod output;
mod resume;
mod speed_limit;
mod store;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use commands::{
    bench, completions, compress, eval, fit, hear, inspect, keys, models, net, perplexity, probe, pull, rm,
    run, see, serve, tokenize, watch,
};
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
  edgeward run smollm2-135m \"Why is the sky blue?\"   fetches the model the first time
  edgeward run smollm2-135m                           a chat
  edgeward serve smollm2-135m                         an API at http://127.0.0.1:8080/v1
  edgeward models --all                               what is here, and what could be
  edgeward bench smollm2-135m                         how fast, and how near to this device's limit

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
    Run(run::Args),
    Serve(serve::Args),
    Keys(keys::Args),
    Pull(pull::Args),
    Models(models::Args),
    Rm(rm::Args),
    Inspect(inspect::Args),
    Tokenize(tokenize::Args),
    Perplexity(perplexity::Args),
    Eval(eval::Args),
    Compress(compress::Args),
    Bench(bench::Args),
    Probe(probe::Args),
    Net(net::Args),
    Fit(fit::Args),
    See(see::Args),
    Hear(hear::Args),
    Watch(watch::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    let args = std::env::args_os().collect();
    let cli = match layers::arguments(args, &Cli::command(), |name| std::env::var_os(name)) {
        Ok(args) => Cli::parse_from(args),
        Err(message) => {
            eprintln!("{}", output::error_chain(&*Box::<dyn std::error::Error>::from(message)));
            return ExitCode::FAILURE;
        }
    };
    let verbosity = if cli.quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args, verbosity),
        Command::Serve(args) => serve::run(args, verbosity),
        Command::Keys(args) => keys::run(&args, verbosity),
        Command::Pull(args) => pull::run(&args, verbosity),
        Command::Models(args) => models::run(&args),
        Command::Rm(args) => rm::run(&args, verbosity),
        Command::Inspect(args) => inspect::run(&args, verbosity),
        Command::Tokenize(args) => tokenize::run(&args, verbosity),
        Command::Perplexity(args) => perplexity::run(&args, verbosity),
        Command::Eval(args) => eval::run(&args, verbosity),
        Command::Compress(args) => compress::run(&args, verbosity),
        Command::Bench(args) => bench::run(&args, verbosity),
        Command::Probe(args) => probe::run(&args, verbosity),
        Command::Net(args) => net::run(&args, verbosity),
        Command::Fit(args) => fit::run(&args, verbosity),
        Command::See(args) => see::run(&args, verbosity),
        Command::Hear(args) => hear::run(&args, verbosity),
        Command::Watch(args) => watch::run(&args),
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
    use super::*;

    /// clap checks its definitions only when they are used, in debug builds.
    #[test]
    fn the_command_line_is_well_defined() {
        Cli::command().debug_assert();
    }
}
