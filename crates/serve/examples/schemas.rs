//! Every schema of a folder, followed by a speaker who says whatever is allowed:
//! `cargo run --release -p edgeward-serve --example schemas -- MODEL FOLDER > OUT.jsonl`.
//!
//! What a model would say costs seconds for each of ten thousand schemas; what the grammar allows is the same for a speaker
//! by chance, and harder: a model seldom says what is odd. Tokens are drawn evenly from those allowed, with a liking for
//! those that close something, so that most texts come to an end. A line of JSON for each file, in order of the names:
//! `{"file", "kind", "text"}`, where `kind` is `refused` (`text` is the reason), `whole`, `cut` at the limit of tokens,
//! `failed`, or `unread`: the file is no JSON. `testdata/serve_schemas.py --judge` compares the texts with the schemas.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use edgeward_model::Model;
use edgeward_model::tokenizer::Tokenizer;
use edgeward_serve::grammar::{Grammar, GrammarFactory};
use serde_json::{Value, json};

/// Tokens of a text, at most.
const MAX_TOKENS: usize = 2000;
/// Of this many choices, how many are of a token that closes something if one is allowed.
const CLOSING: (u64, u64) = (1, 3);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, folder] = args.as_slice() else { return Err("two arguments: MODEL FOLDER".into()) };
    let tokenizer = Model::load(Path::new(model))?.tokenizer()?;
    let grammars = GrammarFactory::new(&tokenizer)?;
    let vocab_size = tokenizer.vocab_size();
    let closes: Vec<bool> = (0..vocab_size as u32)
        .map(|id| {
            matches!(
                tokenizer.token_bytes(id).unwrap_or_default(),
                b"\"" | b"}" | b"]" | b"\"}" | b"\"," | b"\"]"
            )
        })
        .collect();
    let mut files = json_files(Path::new(folder))?;
    files.sort();
    let mut out = std::io::stdout().lock();
    for (nth, file) in files.iter().enumerate() {
        let schema = serde_json::from_slice::<Value>(&std::fs::read(file)?);
        let (kind, text) = match schema.map(|schema| grammars.json_schema(&schema)) {
            Err(error) => ("unread", error.to_string()),
            Ok(Err(error)) => ("refused", error.to_string()),
            Ok(Ok(grammar)) => speak(grammar, &tokenizer, &closes, nth as u64 + 1),
        };
        let name = file.strip_prefix(folder)?.display().to_string();
        writeln!(out, "{}", json!({ "file": name, "kind": kind, "text": text }))?;
    }
    Ok(())
}

fn json_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(json_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    Ok(files)
}

fn speak(
    mut grammar: Grammar,
    tokenizer: &Tokenizer,
    closes: &[bool],
    mut chance: u64,
) -> (&'static str, String) {
    let mut next = move || {
        // xorshift64 (Marsaglia 2003).
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        chance
    };
    let mut said = Vec::new();
    let mut logits = vec![0.0; closes.len()];
    while said.len() < MAX_TOKENS {
        if grammar.is_complete() {
            return ("whole", text(tokenizer, &said));
        }
        logits.fill(0.0);
        if let Err(error) = grammar.restrict(&mut logits) {
            return ("failed", format!("{error} after {}", text(tokenizer, &said)));
        }
        let allowed: Vec<u32> = (0..closes.len() as u32).filter(|id| logits[*id as usize] == 0.0).collect();
        if allowed.iter().any(|id| tokenizer.is_end(*id)) {
            return ("whole", text(tokenizer, &said));
        }
        let closing: Vec<u32> = allowed.iter().copied().filter(|id| closes[*id as usize]).collect();
        let among = if next() % CLOSING.1 < CLOSING.0 && !closing.is_empty() { &closing } else { &allowed };
        let Some(token) = among.get((next() % among.len().max(1) as u64) as usize) else {
            return ("failed", format!("nothing is allowed after {}", text(tokenizer, &said)));
        };
        said.push(*token);
        if let Err(error) = grammar.accept(*token) {
            return ("failed", format!("{error} after {}", text(tokenizer, &said)));
        }
    }
    ("cut", String::new())
}

fn text(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let bytes: Vec<u8> =
        tokens.iter().flat_map(|id| tokenizer.token_bytes(*id).unwrap_or_default()).copied().collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
