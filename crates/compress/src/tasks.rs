//! Questions with known answers, scored as lm-evaluation-harness scores them.
//!
//! A task is a file of JSON lines; what kind it is shows in the keys of its first line:
//!
//! | kind | keys | asked | figures |
//! |---|---|---|---|
//! | PIQA | `goal`, `sol1`, `sol2`, `label` (or a file of labels beside it) | which solution is likelier after `Question: GOAL\nAnswer:` | acc, acc_norm |
//! | multiple choice (ARC, OpenBookQA) | `query`, `choices`, `gold` | which choice is likelier after the query | acc, acc_norm |
//! | schema (WSC) | `context_options`, `continuation`, `gold` | after which context the continuation is likelier | acc |
//! | last word (LAMBADA) | `text` | whether the last word is what the model would say, token by token | acc, perplexity |
//!
//! A query that begins with `Question:` is followed by `\nAnswer:`, as the harness does for ARC. A continuation is
//! joined to its context by one space, and its tokens are those of the whole text beyond as many as the context alone
//! has. `acc` takes the highest sum of log-probabilities, `acc_norm` the highest per character of the choice. Standard
//! errors are those of a mean, by the sample's standard deviation.

use std::fs;
use std::path::Path;

use edgeward_engine::{CancelToken, Engine, log_probability};
use edgeward_model::tokenizer::{AddSpecial, ParseSpecial, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::error::Error;
use crate::eval::{Perplexity, Sums};

/// A task's file is at most so long, bytes: the largest in use have a few million.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Choices of one question at most.
const MAX_CHOICES: usize = 64;

/// A context and what may follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    context: String,
    /// Begins with the space that joins it.
    continuation: String,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Example {
    candidates: Vec<Candidate>,
    gold: usize,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `acc` and `acc_norm`.
    Choice,
    /// `acc`.
    Schema,
    /// `acc` of the greedy answer, and perplexity.
    LastWord,
}

/// A file of questions.
#[derive(Clone, Debug)]
pub struct Task {
    kind: Kind,
    examples: Vec<Example>,
}

/// What a task has shown so far: can be kept, and gone on with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskScores {
    /// Questions answered.
    pub n: usize,
    acc: Sums,
    acc_norm: Sums,
    perplexity: Perplexity,
}

/// A task's figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSummary {
    /// Questions answered.
    pub n: usize,
    /// Share of right answers.
    pub acc: f64,
    /// Of that share.
    pub acc_stderr: f64,
    /// Share of right answers when likelihoods are divided by the choices' lengths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acc_norm: Option<f64>,
    /// Of that share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acc_norm_stderr: Option<f64>,
    /// e to the mean negative log-probability of the right answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
}

impl Task {
    /// Reads a task's file.
    ///
    /// # Errors
    /// If it cannot be read, or a line is not of the kind that the first one is.
    pub fn load(path: &Path) -> Result<Task, Error> {
        let text = read(path)?;
        let bad = |line, reason: String| Error::BadExample { path: path.to_owned(), line, reason };
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let mut labels: Option<Vec<usize>> = None;
        let mut task: Option<Task> = None;
        for (n_before, (line_idx, line)) in lines.enumerate() {
            let at = |reason| bad(line_idx + 1, reason);
            let json: Json =
                serde_json::from_str(line).map_err(|error| at(format!("it is no JSON: {error}")))?;
            if n_before == 0 && json.get("goal").is_some() && json.get("label").is_none() {
                labels = Some(load_labels(path)?);
            }
            let label = labels.as_ref().and_then(|labels| labels.get(n_before).copied());
            let (kind, example) = parse(&json, label).map_err(at)?;
            let task = task.get_or_insert(Task { kind, examples: Vec::new() });
            if task.kind != kind {
                return Err(at("it is of another kind than the first line".to_owned()));
            }
            task.examples.push(example);
        }
        task.ok_or_else(|| bad(0, "there is no question in it: give a file of JSON lines".to_owned()))
    }

    /// Questions.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Asks question `idx` and adds the outcome to `scores`. On an error nothing is added.
    ///
    /// # Errors
    /// Those of the engine and the tokenizer.
    ///
    /// # Panics
    /// If there is no such question.
    pub fn ask(
        &self,
        idx: usize,
        engine: &mut Engine,
        tokenizer: &Tokenizer,
        cancel: &CancelToken,
        scores: &mut TaskScores,
    ) -> Result<(), Error> {
        let example = &self.examples[idx];
        // What candidates have in common is computed once.
        let mut sequence = engine.new_sequence();
        let mut answers = Vec::with_capacity(example.candidates.len());
        for candidate in &example.candidates {
            let (tokens, n_context) = encode(tokenizer, candidate, engine.context_len())?;
            let n_kept = sequence.common_prefix_len(&tokens).min(n_context - 1);
            sequence.truncate(n_kept);
            let (mut log_likelihood, mut is_greedy) = (0.0, true);
            let new = &tokens[n_kept..tokens.len() - 1];
            engine.score(&mut sequence, new, n_context - 1 - n_kept, cancel, |i, logits| {
                let next = tokens[n_kept + i + 1];
                log_likelihood += log_probability(logits, next);
                let logit = logits[next as usize];
                is_greedy &= logits.iter().all(|other| *other <= logit);
            })?;
            answers.push((log_likelihood, is_greedy));
        }
        let best = |score: &dyn Fn(usize) -> f64| {
            let mut best = 0;
            for i in 1..answers.len() {
                if score(i) > score(best) {
                    best = i;
                }
            }
            f64::from(u8::from(best == example.gold))
        };
        scores.n += 1;
        match self.kind {
            Kind::Choice => {
                scores.acc.push(best(&|i| answers[i].0));
                // Characters of the choice itself, without the space that joins it.
                let length =
                    |i: usize| example.candidates[i].continuation.chars().count().saturating_sub(1).max(1);
                scores.acc_norm.push(best(&|i| answers[i].0 / length(i) as f64));
            }
            Kind::Schema => scores.acc.push(best(&|i| answers[i].0)),
            Kind::LastWord => {
                let (log_likelihood, is_greedy) = answers[0];
                scores.acc.push(f64::from(u8::from(is_greedy)));
                scores.perplexity.push(log_likelihood);
            }
        }
        Ok(())
    }
}

impl TaskScores {
    /// The figures so far.
    pub fn summary(&self) -> TaskSummary {
        let has_norm = self.acc_norm.n > 0;
        TaskSummary {
            n: self.n,
            acc: self.acc.mean(),
            acc_stderr: self.acc.standard_error(),
            acc_norm: has_norm.then(|| self.acc_norm.mean()),
            acc_norm_stderr: has_norm.then(|| self.acc_norm.standard_error()),
            perplexity: (self.perplexity.n() > 0).then(|| self.perplexity.value()),
        }
    }
}

/// Tokens of a candidate, and how many of them are the context's: at least one, the beginning of a text if need be.
/// Of what is longer than the context the beginning is left out.
fn encode(
    tokenizer: &Tokenizer,
    candidate: &Candidate,
    context_len: usize,
) -> Result<(Vec<u32>, usize), Error> {
    // Spaces at the end of a context belong to what follows, as tokens are cut before spaces.
    let context = candidate.context.trim_end();
    let whole = format!("{}{}", candidate.context, candidate.continuation);
    let mut tokens = tokenizer.encode(&whole, AddSpecial::Yes, ParseSpecial::No)?;
    let mut n_context = tokenizer.encode(context, AddSpecial::Yes, ParseSpecial::No)?.len();
    // Where context and continuation merge into one token, that one is scored.
    n_context = n_context.min(tokens.len().saturating_sub(1));
    if n_context == 0 {
        tokens.insert(0, tokenizer.bos().or(tokenizer.eos()).unwrap_or_default());
        n_context = 1;
    }
    let n_cut = tokens.len().saturating_sub(context_len + 1).min(n_context - 1);
    tokens.drain(..n_cut);
    Ok((tokens, n_context - n_cut))
}

fn parse(json: &Json, label: Option<usize>) -> Result<(Kind, Example), String> {
    let text = |key: &str| {
        let value = json.get(key).and_then(Json::as_str);
        value.map(str::to_owned).ok_or_else(|| format!("its {key:?} is no text"))
    };
    let texts = |key: &str| {
        let values = json.get(key).and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        let texts: Option<Vec<&str>> = values.iter().map(Json::as_str).collect();
        let texts = texts.filter(|texts| (2..=MAX_CHOICES).contains(&texts.len()));
        texts.ok_or_else(|| format!("its {key:?} are no texts, 2 to {MAX_CHOICES} of them"))
    };
    let gold = |key: &str, n: usize| {
        let gold = json.get(key).and_then(Json::as_u64).map(|gold| gold as usize);
        let gold = gold.or(label).filter(|gold| *gold < n);
        gold.ok_or_else(|| format!("its {key:?} is not the number of an answer"))
    };
    let choice = |context: &str, choices: &[&str]| -> Vec<Candidate> {
        let candidate =
            |choice: &&str| Candidate { context: context.to_owned(), continuation: format!(" {choice}") };
        choices.iter().map(candidate).collect()
    };
    if json.get("goal").is_some() {
        let solutions = [text("sol1")?, text("sol2")?];
        let context = format!("Question: {}\nAnswer:", text("goal")?);
        let candidates = choice(&context, &[&solutions[0], &solutions[1]]);
        return Ok((Kind::Choice, Example { candidates, gold: gold("label", 2)? }));
    }
    if json.get("query").is_some() {
        let mut context = text("query")?;
        if context.starts_with("Question:") {
            context.push_str("\nAnswer:");
        }
        let candidates = choice(&context, &texts("choices")?);
        let gold = gold("gold", candidates.len())?;
        return Ok((Kind::Choice, Example { candidates, gold }));
    }
    if json.get("context_options").is_some() {
        let continuation = format!(" {}", text("continuation")?);
        let candidates: Vec<Candidate> = texts("context_options")?
            .into_iter()
            .map(|context| Candidate { context: context.to_owned(), continuation: continuation.clone() })
            .collect();
        let gold = gold("gold", candidates.len())?;
        return Ok((Kind::Schema, Example { candidates, gold }));
    }
    if json.get("text").is_some() {
        let text = text("text")?;
        let (context, word) = text.rsplit_once(' ').ok_or("its \"text\" has only one word")?;
        let candidate = Candidate { context: context.to_owned(), continuation: format!(" {word}") };
        return Ok((Kind::LastWord, Example { candidates: vec![candidate], gold: 0 }));
    }
    Err("it has none of the keys goal, query, context_options and text".to_owned())
}

/// PIQA's labels come in a file of their own: `valid.jsonl` has `valid-labels.lst`.
fn load_labels(path: &Path) -> Result<Vec<usize>, Error> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let path = path.with_file_name(format!("{stem}-labels.lst"));
    let text = read(&path)?;
    let label = |(i, line): (usize, &str)| {
        line.trim().parse().map_err(|_| Error::BadExample {
            path: path.clone(),
            line: i + 1,
            reason: format!("{line:?} is no label"),
        })
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(label).collect()
}

fn read(path: &Path) -> Result<String, Error> {
    let at = |source| Error::Io { path: path.to_owned(), source };
    let n_bytes = fs::metadata(path).map_err(at)?.len();
    if n_bytes > MAX_FILE_BYTES {
        let reason = format!("it has {n_bytes} bytes, more than {MAX_FILE_BYTES}: is it a task's file?");
        return Err(Error::BadExample { path: path.to_owned(), line: 0, reason });
    }
    fs::read_to_string(path).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, text: &str) -> Result<Task, Error> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), text).unwrap();
        fs::write(dir.path().join("piqa-labels.lst"), "1\n0\n").unwrap();
        Task::load(&dir.path().join(name))
    }

    fn candidates(task: &Task, idx: usize) -> Vec<(&str, &str)> {
        task.examples[idx].candidates.iter().map(|c| (&c.context[..], &c.continuation[..])).collect()
    }

    #[test]
    fn the_kinds_are_told_by_their_keys() {
        let piqa = load(
            "piqa.jsonl",
            "{\"goal\":\"g\",\"sol1\":\"a\",\"sol2\":\"b\"}\n\n{\"goal\":\"h\",\"sol1\":\"c\",\"sol2\":\"d\"}\n",
        );
        let piqa = piqa.unwrap();
        assert_eq!((piqa.kind, piqa.len()), (Kind::Choice, 2));
        assert_eq!(candidates(&piqa, 0), [("Question: g\nAnswer:", " a"), ("Question: g\nAnswer:", " b")]);
        assert_eq!((piqa.examples[0].gold, piqa.examples[1].gold), (1, 0));
        let labelled = load("x.jsonl", "{\"goal\":\"g\",\"sol1\":\"a\",\"sol2\":\"b\",\"label\":1}").unwrap();
        assert_eq!(labelled.examples[0].gold, 1);

        let arc = load("arc.jsonl", r#"{"query":"Question: q","choices":["a","b","c"],"gold":2}"#).unwrap();
        assert_eq!(candidates(&arc, 0)[2], ("Question: q\nAnswer:", " c"));
        let open = load("open.jsonl", r#"{"query":"Predators eat","choices":["a","b"],"gold":0}"#).unwrap();
        assert_eq!(candidates(&open, 0)[1], ("Predators eat", " b"));

        let wsc = load("wsc.jsonl", r#"{"context_options":["x","y"],"continuation":"z.","gold":1}"#).unwrap();
        assert_eq!((wsc.kind, candidates(&wsc, 0)), (Kind::Schema, vec![("x", " z."), ("y", " z.")]));
        let lambada = load("lambada.jsonl", r#"{"text":"one two three"}"#).unwrap();
        assert_eq!((lambada.kind, candidates(&lambada, 0)), (Kind::LastWord, vec![("one two", " three")]));
    }

    #[test]
    fn what_is_no_question_is_refused_with_its_line() {
        for (text, said) in [
            ("", "no question"),
            ("\n \n", "no question"),
            ("{\"text\":\"a b\"}\nx", "line 2: it is no JSON"),
            ("{}", "line 1: it has none of the keys"),
            (r#"{"text":"a"}"#, "only one word"),
            (r#"{"query":"q","choices":["a"],"gold":0}"#, "2 to 64"),
            (r#"{"query":"q","choices":["a","b"],"gold":2}"#, "not the number of an answer"),
            (r#"{"query":"q","choices":["a","b"],"gold":-1}"#, "not the number of an answer"),
            (r#"{"query":1,"choices":["a","b"],"gold":0}"#, "is no text"),
            ("{\"text\":\"a b\"}\n{\"query\":\"q\",\"choices\":[\"a\",\"b\"],\"gold\":0}", "another kind"),
            (r#"{"goal":"g","sol1":"a","sol2":"b"}"#, "could not use"),
        ] {
            let error = load("bad.jsonl", text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
