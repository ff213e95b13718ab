//! `edgeward keys`: who may use the server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use edgeward_serve::keys::{Key, KeyFile, Scope};
use serde::Serialize;

use crate::Outcome;
use crate::output::{self, Align, Table};
use crate::store::{Progress, Store, Verbosity};

/// Make, list and revoke the keys of `edgeward serve`
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward keys add phone
  edgeward keys add kiosk --scope chat --expires-days 30 --requests-per-minute 20 --tokens-per-day 50000
  edgeward keys list
  edgeward keys revoke phone

A key is shown once, when it is made; only its SHA-256 is kept. A running server notices changes at once.")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make a key, and print it
    Add {
        /// By which you will know it
        name: String,
        /// What it is good for
        #[arg(long, value_delimiter = ',', default_values = ["chat", "embed"])]
        scope: Vec<ScopeArg>,
        /// Days for which it is good [default: for ever]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        expires_days: Option<u32>,
        /// Requests in a minute, at most
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        requests_per_minute: Option<u32>,
        /// Tokens of prompts and answers in a day, at most
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        tokens_per_day: Option<u64>,
    },
    /// Show names, scopes and limits of all keys
    List {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Make a key useless
    Revoke {
        /// Its name
        name: String,
    },
}

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScopeArg {
    /// Answers
    Chat,
    /// Embeddings and ranking
    Embed,
    /// Metrics, and to go before others
    Admin,
}

impl From<ScopeArg> for Scope {
    fn from(scope: ScopeArg) -> Scope {
        match scope {
            ScopeArg::Chat => Scope::Chat,
            ScopeArg::Embed => Scope::Embed,
            ScopeArg::Admin => Scope::Admin,
        }
    }
}

/// A key without its hash.
#[derive(Serialize)]
struct Row {
    name: String,
    scopes: Vec<Scope>,
    is_expired: bool,
    /// Seconds since 1970.
    expires_s: Option<u64>,
    requests_per_minute: Option<u32>,
    tokens_per_day: Option<u64>,
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let file = KeyFile::new(Store::open()?.keys_path());
    let progress = Progress::new(verbosity);
    match &args.action {
        Action::Add { name, scope, expires_days, requests_per_minute, tokens_per_day } => {
            let expires = |days: u32| SystemTime::now() + Duration::from_secs(u64::from(days) * 86_400);
            let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            let mut scopes: Vec<Scope> = Vec::new();
            for scope in scope.iter().map(|scope| Scope::from(*scope)) {
                if !scopes.contains(&scope) {
                    scopes.push(scope);
                }
            }
            let secret = file.add(Key {
                name: name.clone(),
                sha256: String::new(),
                scopes,
                expires_s: expires_days.map(|days| seconds(expires(days))),
                requests_per_minute: *requests_per_minute,
                tokens_per_day: *tokens_per_day,
            })?;
            output::print_line(&secret)?;
            progress.note("This is the only time that the key is shown.");
        }
        Action::List { json } => list(&file, *json)?,
        Action::Revoke { name } => {
            file.revoke(name)?;
            progress.note(&format!("Revoked {name}"));
        }
    }
    Ok(())
}

fn list(file: &KeyFile, json: bool) -> Outcome {
    let now = SystemTime::now();
    let rows: Vec<Row> = file
        .load()?
        .into_iter()
        .map(|key| Row {
            is_expired: key.is_expired(now),
            name: key.name,
            scopes: key.scopes,
            expires_s: key.expires_s,
            requests_per_minute: key.requests_per_minute,
            tokens_per_day: key.tokens_per_day,
        })
        .collect();
    if json {
        return output::print_json(&rows);
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("SCOPES", Align::Left),
        ("EXPIRES", Align::Left),
        ("REQUESTS/MIN", Align::Right),
        ("TOKENS/DAY", Align::Right),
    ]);
    let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    for row in rows {
        let expires = match row.expires_s {
            None => "never".to_owned(),
            Some(_) if row.is_expired => "expired".to_owned(),
            Some(expires_s) => format!("in {} days", (expires_s - now_s).div_ceil(86_400)),
        };
        let scopes: Vec<String> =
            row.scopes.iter().map(|scope| format!("{scope:?}").to_lowercase()).collect();
        let limit = |limit: Option<u64>| limit.map_or("-".to_owned(), |limit| limit.to_string());
        table.row(vec![
            row.name,
            scopes.join(","),
            expires,
            limit(row.requests_per_minute.map(u64::from)),
            limit(row.tokens_per_day),
        ]);
    }
    table.print()?;
    Ok(())
}
