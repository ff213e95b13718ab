//! `edgeward run`: ask a model.
//!
//! The answer goes to standard output and nothing else does. Ctrl-C stops an answer; in a chat the program goes on,
//! and a second Ctrl-C before the answer has stopped ends it.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use edgeward_engine::{CancelToken, Sampler, SamplerOptions};
use rustyline::error::ReadlineError;

use super::tokenize::read_standard_input;
use crate::Outcome;
use crate::conversation::{AnswerEnd, AnswerLimits, AnswerStats, Conversation, PromptStyle};
use crate::engine_args::{self, EngineArgs, LoraArg};
use crate::output::{error_chain, printable};
use crate::store::{Progress, Store, Verbosity};

/// Exit status of a program that Ctrl-C ended, by the shells' convention: 128 and the signal's number.
const INTERRUPTED: i32 = 130;
/// Lines of history that are kept.
const MAX_HISTORY_LINES: usize = 1000;

const HELP: &str = "\
/help           this list
/reset          forget what has been said
/system TEXT    tell the model how to behave, and begin anew; without TEXT, nothing
/stats          how fast the last answer was, and how full the context is
/quit           end (also Ctrl-D)
A line that ends in \\ goes on in the next. Ctrl-C stops an answer.";

/// Ask a model: one prompt, piped text, or a chat
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  edgeward run smollm2-135m \"Why is the sky blue?\"
  edgeward run smollm2-135m
  echo \"Write a haiku about rain\" | edgeward run smollm2-135m --temperature 0.8 --seed 7
  edgeward run gemma3-270m --raw \"Once upon a time\" --max-tokens 100

Without PROMPT, text that is piped in is the prompt; on a terminal a chat begins (/help there).")]
pub struct Args {
    /// Name, hf:org/repo[/file.gguf] or path; pulled first if it is not here
    model: String,
    /// What to ask
    prompt: Option<String>,
    /// What the model is told before everything else
    #[arg(long)]
    system: Option<String>,
    /// Tokens of an answer at most; 0 for as many as the context holds
    #[arg(long, short = 'n', default_value_t = 1024)]
    max_tokens: usize,
    /// How freely words are chosen; 0 always takes the likeliest
    #[arg(long, default_value_t = 0.2)]
    temperature: f32,
    /// Only the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 0.9)]
    top_p: f32,
    /// Only so many of the likeliest tokens; 0 for all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Only tokens at least this many times as likely as the likeliest
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Makes tokens that were used less likely; 1 for no effect
    #[arg(long, default_value_t = 1.1)]
    repetition_penalty: f32,
    /// Lowers a token's logit for each time it was used
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Lowers the logit of tokens that were used
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Adds to the logit of a token: ID=BIAS
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias, allow_hyphen_values = true)]
    logit_bias: Vec<(u32, f32)>,
    /// Same seed, same answer [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Text that ends an answer (may be given several times)
    #[arg(long)]
    stop: Vec<String>,
    /// Let the model continue the prompt as it is, without its chat template
    #[arg(long)]
    raw: bool,
    /// Add this LoRA adapter, a GGUF file or a folder of peft's, perhaps not at its full strength (may be given several
    /// times)
    #[arg(long, value_name = "FILE[=SCALE]")]
    lora: Vec<LoraArg>,
    #[command(flatten)]
    engine: EngineArgs,
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "write a token id and a number, as 42=-1.5".to_owned())
}

/// Runs the command.
pub fn run(args: &Args, verbosity: Verbosity) -> Outcome {
    let mut progress = Progress::new(verbosity);
    // What is wrong with the arguments is said before a model is fetched.
    let sampler = Sampler::new(sampler_options(args))?;
    let prompt = match &args.prompt {
        Some(prompt) => Some(prompt.clone()),
        None if !io::stdin().is_terminal() => Some(read_standard_input(&progress)?),
        None => None,
    };
    if prompt.as_ref().is_some_and(|prompt| prompt.trim().is_empty()) {
        return Err("the prompt is empty: give one after the model's name, or pipe it in".into());
    }
    let model = engine_args::open(&args.model, &mut progress)?;
    let adapters = engine_args::adapters(&args.lora, &model)?;
    let engine = args.engine.engine(&model, &progress)?;
    let style = if args.raw { PromptStyle::Raw } else { PromptStyle::Chat };
    let limits = AnswerLimits { max_tokens: args.max_tokens, stop_strings: args.stop.clone() };
    let conversation = Conversation::new(&model, engine, sampler, style, limits)?;
    let mut conversation = conversation.with_adapters(&adapters)?;
    conversation.set_system(args.system.clone());
    let interrupt = Interrupt::install()?;
    match prompt {
        Some(prompt) => answer_one(&mut conversation, &prompt, &interrupt, &progress),
        None => chat(&mut conversation, &interrupt, &progress),
    }
}

fn sampler_options(args: &Args) -> SamplerOptions {
    let any_seed = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    SamplerOptions {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        frequency_penalty: args.frequency_penalty,
        presence_penalty: args.presence_penalty,
        logit_bias: args.logit_bias.clone(),
        seed: args.seed.unwrap_or_else(any_seed),
        ..SamplerOptions::default()
    }
}

fn answer_one(
    conversation: &mut Conversation,
    prompt: &str,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Outcome {
    let stats = stream_answer(conversation, prompt, interrupt)?;
    progress.note(&stats.sentence());
    if stats.end == AnswerEnd::Cancelled && interrupt.cancel.is_cancelled() {
        std::process::exit(INTERRUPTED);
    }
    Ok(())
}

/// Prints the answer as it comes, and a line break at its end.
fn stream_answer(
    conversation: &mut Conversation,
    prompt: &str,
    interrupt: &Interrupt,
) -> Result<AnswerStats, Box<dyn std::error::Error>> {
    let mut out = io::stdout().lock();
    // A file gets what the model says; a terminal would obey it.
    let is_terminal = out.is_terminal();
    let stats = interrupt.during(|cancel| {
        conversation.answer(prompt, cancel, |text| {
            let text = if is_terminal { printable(text) } else { text.into() };
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        })
    })?;
    match writeln!(out) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(stats),
    }
}

fn chat(conversation: &mut Conversation, interrupt: &Interrupt, progress: &Progress) -> Outcome {
    let history_path = Store::open()?.history_path();
    let config =
        rustyline::Config::builder().max_history_size(MAX_HISTORY_LINES)?.auto_add_history(true).build();
    let mut editor = rustyline::DefaultEditor::with_config(config)?;
    // The first time there is none, and one that cannot be read is not worth an error.
    let _ = editor.load_history(&history_path);
    if !conversation.is_chat() {
        progress.note("This model continues text; it was not made to converse.");
    }
    progress.note("Type a message, or /help. Ctrl-D ends.");
    let mut last: Option<AnswerStats> = None;
    while let Some(message) = read_message(&mut editor)? {
        match Input::parse(&message) {
            Input::Nothing => {}
            Input::Help => eprintln!("{HELP}"),
            Input::Quit => break,
            Input::Reset => {
                conversation.reset();
                progress.note("Forgotten.");
            }
            Input::System(text) => {
                conversation.set_system((!text.is_empty()).then(|| text.to_owned()));
                progress.note("Begun anew.");
            }
            Input::Stats => {
                let (used, all) = conversation.context_use();
                let speed = last.map_or("nothing has been said yet".to_owned(), |stats| stats.sentence());
                eprintln!("{speed}; {used} of {all} positions of the context in use");
            }
            Input::Unknown(command) => {
                eprintln!("There is no command {command}; /help lists those that there are.")
            }
            Input::Message(text) => match stream_answer(conversation, text, interrupt) {
                Ok(stats) => {
                    progress.note(&format!("[{}]", stats.sentence()));
                    last = Some(stats);
                }
                // The conversation stands as before; what is wrong with one message need not end it.
                Err(error) => eprintln!("{}", error_chain(&*error)),
            },
        }
    }
    if let Some(dir) = history_path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    editor.save_history(&history_path)?;
    Ok(())
}

/// A message, perhaps of several lines; `None` at the end of the chat.
fn read_message(editor: &mut rustyline::DefaultEditor) -> Result<Option<String>, ReadlineError> {
    let mut message = String::new();
    loop {
        match editor.readline(if message.is_empty() { "> " } else { "... " }) {
            Ok(line) => match line.strip_suffix('\\') {
                Some(begun) => {
                    message.push_str(begun);
                    message.push('\n');
                }
                None => return Ok(Some(message + &line)),
            },
            // Throws away what was typed, as in a shell.
            Err(ReadlineError::Interrupted) => message.clear(),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// What a line of a chat asks for.
#[derive(Debug, PartialEq, Eq)]
enum Input<'a> {
    Nothing,
    Message(&'a str),
    Help,
    Reset,
    System(&'a str),
    Stats,
    Quit,
    Unknown(&'a str),
}

impl Input<'_> {
    fn parse(line: &str) -> Input<'_> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match word {
            "" => Input::Nothing,
            "/help" | "/?" => Input::Help,
            "/reset" | "/clear" => Input::Reset,
            "/system" => Input::System(rest.trim()),
            "/stats" => Input::Stats,
            "/quit" | "/exit" | "/bye" => Input::Quit,
            // A path or a comment in code begins with a slash too, but goes on otherwise.
            _ if word.starts_with('/') && word[1..].chars().all(char::is_alphabetic) => Input::Unknown(word),
            _ => Input::Message(line),
        }
    }
}

/// Turns Ctrl-C into the cancellation of the answer under way.
struct Interrupt {
    cancel: CancelToken,
    is_answering: Arc<AtomicBool>,
}

impl Interrupt {
    fn install() -> Result<Interrupt, Box<dyn std::error::Error>> {
        let interrupt =
            Interrupt { cancel: CancelToken::new(), is_answering: Arc::new(AtomicBool::new(false)) };
        let cancel = interrupt.cancel.clone();
        let is_answering = Arc::clone(&interrupt.is_answering);
        ctrlc::set_handler(move || {
            // Outside of an answer, or when the first Ctrl-C has not helped, it ends the program as ever.
            if !is_answering.load(Ordering::SeqCst) || cancel.is_cancelled() {
                std::process::exit(INTERRUPTED);
            }
            cancel.cancel();
        })?;
        Ok(interrupt)
    }

    /// Runs `answer` so that Ctrl-C cancels it.
    fn during<T>(&self, answer: impl FnOnce(&CancelToken) -> T) -> T {
        self.cancel.reset();
        self.is_answering.store(true, Ordering::SeqCst);
        let result = answer(&self.cancel);
        self.is_answering.store(false, Ordering::SeqCst);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_chat() {
        for (line, input) in [
            ("", Input::Nothing),
            ("  ", Input::Nothing),
            (" hello there ", Input::Message("hello there")),
            ("/help", Input::Help),
            ("/reset", Input::Reset),
            ("/system Be brief. ", Input::System("Be brief.")),
            ("/system", Input::System("")),
            ("/stats", Input::Stats),
            ("/quit", Input::Quit),
            ("/frobnicate now", Input::Unknown("/frobnicate")),
            ("/usr/bin is what?", Input::Message("/usr/bin is what?")),
            ("// a comment", Input::Message("// a comment")),
        ] {
            assert_eq!(Input::parse(line), input, "{line}");
        }
    }

    #[test]
    fn biases() {
        assert_eq!(parse_bias("42=-1.5"), Ok((42, -1.5)));
        for text in ["", "42", "=1", "x=1", "-1=1", "42=x"] {
            assert!(parse_bias(text).is_err(), "{text}");
        }
    }
}
