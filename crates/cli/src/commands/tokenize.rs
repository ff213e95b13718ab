//! `edgeward tokenize`: the tokens of a text.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;

use edgeward_model::tokenizer::{AddSpecial, ParseSpecial, Tokenizer};
use serde::Serialize;

use crate::Outcome;
use crate::engine_args;
use crate::output;
use crate::store::{Progress, Verbosity};

/// Show the tokens of a text
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward tokenize smollm2-135m \"Hello, world\"
  edgeward tokenize smollm2-135m --file README.md --ids
  echo \"<|im_start|>user\" | edgeward tokenize smollm2-135m --special --json")]
pub struct Args {
    /// Name, hf:org/repo[/file.gguf] or path
    model: String,
    /// The text; standard input if neither this nor --file is given
    #[arg(conflicts_with = "file")]
    text: Option<String>,
    /// Read the text from this file
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// Read control tokens such as <|im_end|> in the text as such
    #[arg(long)]
    special: bool,
    /// Leave the model's own beginning and end tokens out
    #[arg(long)]
    no_bos: bool,
    /// Print just the ids, on one line
    #[arg(long, conflicts_with = "json")]
    ids: bool,
    /// Print a JSON array of objects with "id" and "text"
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    id: u32,
    /// Bytes that are no UTF-8 on their own are shown as U+FFFD.
    text: String,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let mut progress = Progress::new(verbosity);
    let text = match (&args.text, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => fs::read_to_string(path)
            .map_err(|error| format!("could not read {} as text: {error}", path.display()))?,
        (None, None) => read_standard_input(&progress)?,
    };
    let tokenizer = engine_args::open(&args.model, &mut progress)?.tokenizer()?;
    let add_special = if args.no_bos { AddSpecial::No } else { AddSpecial::Yes };
    let parse_special = if args.special { ParseSpecial::Yes } else { ParseSpecial::No };
    let ids = tokenizer.encode(&text, add_special, parse_special)?;
    if args.ids {
        let words: Vec<String> = ids.iter().map(u32::to_string).collect();
        output::print_line(&words.join(" "))?;
    } else {
        let rows = ids.iter().map(|&id| row(&tokenizer, id)).collect::<Result<Vec<_>, _>>()?;
        if args.json {
            output::print_json(&rows)?;
        } else {
            let mut out = io::BufWriter::new(io::stdout().lock());
            for Row { id, text } in rows {
                writeln!(out, "{id:>8}  {text:?}")?;
            }
            out.flush()?;
        }
    }
    progress.note(&format!("{} tokens, {} bytes", ids.len(), text.len()));
    Ok(())
}

fn row(tokenizer: &Tokenizer, id: u32) -> Result<Row, Box<dyn std::error::Error>> {
    let text = String::from_utf8_lossy(tokenizer.token_bytes(id)?).into_owned();
    Ok(Row { id, text })
}

/// All of standard input, which must be text.
pub fn read_standard_input(progress: &Progress) -> Result<String, Box<dyn std::error::Error>> {
    if io::stdin().is_terminal() {
        progress.note("Reading the text from the terminal; end it with Ctrl-D.");
    }
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| format!("could not read standard input as text: {error}"))?;
    Ok(text)
}
