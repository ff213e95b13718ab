//! `edgeward models`: what is here.

use serde::Serialize;

use crate::Outcome;
use crate::output::{self, Align, Table};
use crate::store::{self, State, Store};

/// List the models that are here
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward models
  edgeward models --all
  edgeward models --json")]
pub struct Args {
    /// Also those of the catalogue that are not here
    #[arg(long)]
    all: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// One line of the list.
#[derive(Serialize)]
struct Row {
    name: String,
    state: &'static str,
    size_bytes: Option<u64>,
    licence: Option<String>,
    /// Where a stored model is.
    path: Option<String>,
    /// Where a stored model came from, what an available one is, or what is wrong.
    about: String,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let rows: Vec<Row> = Store::open()?
        .list(args.all)?
        .into_iter()
        .map(|(name, state)| {
            let name = name.to_string();
            match state {
                State::Ready(model) => Row {
                    name,
                    state: "ready",
                    size_bytes: Some(model.size_bytes()),
                    licence: model.record.licence,
                    path: Some(model.path.display().to_string()),
                    about: model.record.source,
                },
                State::Damaged(error) => Row {
                    name,
                    state: "damaged",
                    size_bytes: None,
                    licence: None,
                    path: None,
                    about: error.to_string(),
                },
                State::Unfinished { size_bytes } => Row {
                    about: format!("`edgeward pull {name}` goes on, `edgeward rm {name}` gives up"),
                    name,
                    state: "unfinished",
                    size_bytes: Some(size_bytes),
                    licence: None,
                    path: None,
                },
                State::Available { size_bytes, licence, description } => Row {
                    name,
                    state: "available",
                    size_bytes: Some(size_bytes),
                    licence: Some(licence),
                    path: None,
                    about: description,
                },
            }
        })
        .collect();
    if args.json {
        return output::print_json(&rows);
    }
    if rows.is_empty() {
        eprintln!("No models are here yet; `edgeward models --all` lists those that `edgeward pull` knows.");
        return Ok(());
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("SIZE", Align::Right),
        ("LICENCE", Align::Left),
        ("ABOUT", Align::Left),
    ]);
    for row in rows {
        table.row(vec![
            row.name,
            row.state.to_owned(),
            row.size_bytes.map(store::human_bytes).unwrap_or_default(),
            row.licence.unwrap_or_default(),
            row.about,
        ]);
    }
    table.print()?;
    Ok(())
}
