//! A vocabulary of the tokens that a language or a domain needs, and a model with these alone.
//!
//! In a small model the embedding is most of the bytes, and most of its rows are of words that a device never meets. Rows
//! are copied, not rounded again, so what remains is the teacher given that no other token comes.
//!
//! **Which tokens stay.** Encoding joins neighbours, and so makes tokens on the way to longer ones. [`Demand`] counts how
//! often a corpus makes each. Kept with all its parts, a token is made from the same text as before: a removed token can
//! only take a join away that was never carried out. So a text whose tokens have all stayed is encoded as it was.
//!
//! A corpus has never all words of its domain. Which others belong there, the model knows: the probability that it gives to
//! a token, summed over the places of the corpus, is how often it expects the token in such a text. Tokens are kept in
//! the order of what was counted and expected, until what is missing is expected to be rare enough.
//!
//! Tokens of one byte, and all that are not joined from text (bytes, control tokens), stay in any case: so every text can
//! still be encoded, and decoded again. Only places held for control tokens that nobody has named yet go.

use std::collections::BTreeSet;
use std::path::Path;

use edgeward_engine::{CancelToken, Engine, Isa};
use edgeward_kernels::Vectorized;
use edgeward_model::gguf::{ArrayBuf, Gguf, GgufWriter, Value};
use edgeward_model::tensor::Slot;
use edgeward_model::tokenizer::{TokenKind, Tokenizer};
use edgeward_model::{Model, Source};

use crate::compress::Step;
use crate::error::Error;
use crate::eval::{Windows, exp, passages};

/// Where a GGUF file keeps its vocabulary.
const VOCABULARY: &str = "tokenizer.ggml.";
/// A tokenizer of another kind, whole: it would contradict the trimmed one.
const FOREIGN_TOKENIZER: &str = "tokenizer.huggingface.json";
/// A vocabulary is filled up to a multiple of this: kernels here and elsewhere work on as many rows at once.
const ROWS_AT_ONCE: usize = 64;
/// Positions of a window that are not asked for expectations: with little before them, models expect all kinds of text.
const N_WARM_UP: usize = 64;
/// What text of the corpus's kind may miss, share of its tokens, unless a size is asked for. A missing token is spelt with
/// two or three others.
pub const MISSING_SHARE: f64 = 0.001;

/// What a corpus needs of a vocabulary.
pub struct Demand<'a> {
    tokenizer: &'a Tokenizer,
    /// How often encoding makes each token, `[vocab_size]`.
    made: Vec<u64>,
    /// Tokens of the corpus.
    n_tokens: u64,
    /// The model's mean probability for each token, `[vocab_size]`; zeros before [`Demand::foresee`].
    expected: Vec<f64>,
}

/// How many tokens stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// At most so many.
    Tokens(usize),
    /// As few as will do for missing at most this share of the tokens of such a text.
    MissingShare(f64),
}

/// Every so many passages of a corpus one is held out.
const HOLD_OUT_EVERY: usize = 20;
/// Passages that are held out at most.
const MAX_HELD_OUT: usize = 24;

/// Passages of a corpus: those that decide which tokens stay, those that the loss is measured on, and whether the latter
/// are none of the former, as is so unless the corpus is very short. The same corpus always gives the same.
pub fn split(corpus: &str) -> (Vec<&str>, Vec<&str>, bool) {
    let all = passages(corpus);
    let every = HOLD_OUT_EVERY.max(all.len().div_ceil(MAX_HELD_OUT));
    if all.len() < every {
        let measured = all.iter().copied().take(MAX_HELD_OUT).collect();
        return (all, measured, false);
    }
    let (held_out, others): (Vec<_>, Vec<_>) =
        all.into_iter().enumerate().partition(|(idx, _)| idx % every == every - 1);
    let texts = |passages: Vec<(usize, _)>| passages.into_iter().map(|(_, text)| text).collect();
    (texts(others), texts(held_out), true)
}

/// The tokens that stay.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Their ids, ascending.
    pub ids: Vec<u32>,
    /// Tokens that the corpus makes.
    pub n_seen: usize,
    /// Expected share of tokens that a text of the corpus's kind will miss.
    pub missing_share: f64,
}

impl<'a> Demand<'a> {
    /// Of a corpus in pieces.
    ///
    /// # Errors
    /// Those of the tokenizer, or if there is nothing in the corpus.
    pub fn new<'t>(
        tokenizer: &'a Tokenizer,
        corpus: impl IntoIterator<Item = &'t str>,
    ) -> Result<Demand<'a>, Error> {
        let vocab_size = tokenizer.vocab_size();
        let mut demand =
            Demand { tokenizer, made: vec![0; vocab_size], n_tokens: 0, expected: vec![0.0; vocab_size] };
        for text in corpus {
            demand.n_tokens += encode(tokenizer, text)?.len() as u64;
            for id in tokenizer.made_by(text)? {
                demand.made[id as usize] += 1;
            }
        }
        if demand.n_tokens == 0 {
            return Err(Error::BadCorpus { reason: "it is empty" });
        }
        Ok(demand)
    }

    /// Lets the model say what it expects at the places of `windows`.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn foresee(
        &mut self,
        engine: &mut Engine,
        windows: &Windows,
        cancel: &CancelToken,
        watch: &mut dyn FnMut(Step),
    ) -> Result<(), Error> {
        let first = N_WARM_UP.min(windows.window_len() / 2);
        let mut sums = vec![0.0f32; engine.config().vocab_size];
        let mut scratch = sums.clone();
        let isa = Isa::best();
        for idx in 0..windows.len() {
            watch(Step { what: "asking for expected tokens", n_done: idx, n_all: windows.len() });
            let mut sequence = engine.new_sequence();
            engine.score(&mut sequence, &windows.window(idx), first, cancel, |_, logits| {
                isa.vectorize(AddProbabilities { logits, scratch: &mut scratch, sums: &mut sums });
            })?;
        }
        watch(Step { what: "asking for expected tokens", n_done: windows.len(), n_all: windows.len() });
        let n_rows = (windows.len() * (windows.window_len() - first)) as f64;
        // Rows of the embedding that no token has are left out.
        self.expected.iter_mut().zip(&sums).for_each(|(mean, &sum)| *mean = f64::from(sum) / n_rows);
        Ok(())
    }

    /// The tokens to keep of the vocabulary of `model`.
    ///
    /// # Errors
    /// If those that must stay are more than the limit.
    pub fn keep(&self, model: &Model, limit: Limit) -> Result<Kept, Error> {
        let tokenizer = self.tokenizer;
        let vocab_size = tokenizer.vocab_size();
        let mut is_kept = vec![false; vocab_size];
        for id in required(model, tokenizer) {
            is_kept[id as usize] = true;
        }
        let mut n_kept = is_kept.iter().filter(|kept| **kept).count();
        if let Limit::Tokens(max) = limit
            && n_kept > max
        {
            return Err(Error::VocabularyTooSmall { wanted: max, needed: n_kept });
        }
        let share_of = |id: usize| (self.made[id] as f64 / self.n_tokens as f64).max(self.expected[id]);
        let mut order: Vec<u32> = (0..vocab_size as u32).filter(|id| !is_kept[*id as usize]).collect();
        // Of equals the earlier, which is the more frequent in all vocabularies in use.
        order.sort_by(|a, b| share_of(*b as usize).total_cmp(&share_of(*a as usize)).then(a.cmp(b)));
        let mut missing: f64 = order.iter().map(|id| self.expected[*id as usize]).sum();
        for id in order {
            let is_enough = match limit {
                Limit::Tokens(max) => n_kept >= max,
                Limit::MissingShare(share) => {
                    missing <= share && self.made[id as usize] == 0 && n_kept.is_multiple_of(ROWS_AT_ONCE)
                }
            };
            if is_enough {
                break;
            }
            let mut new = tokenizer.parts_of(id)?;
            // What joining does not reach, only a corpus that has it can need.
            if !new.contains(&id) {
                if self.made[id as usize] == 0 {
                    continue;
                }
                new.push(id);
            }
            new.sort_unstable();
            new.dedup();
            new.retain(|id| !is_kept[*id as usize]);
            if matches!(limit, Limit::Tokens(max) if n_kept + new.len() > max) {
                continue;
            }
            n_kept += new.len();
            for id in new {
                is_kept[id as usize] = true;
                missing -= self.expected[id as usize];
            }
        }
        Ok(Kept {
            ids: (0..vocab_size as u32).filter(|id| is_kept[*id as usize]).collect(),
            n_seen: self.made.iter().filter(|made| **made > 0).count(),
            missing_share: missing.max(0.0),
        })
    }
}

/// Adds softmax(logits) to `sums`.
struct AddProbabilities<'a> {
    logits: &'a [f32],
    scratch: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Vectorized for AddProbabilities<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        const LANES: usize = 16;
        let max = self.logits.iter().fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max });
        let mut total = [0.0f32; LANES];
        for (p, x) in self.scratch.chunks_mut(LANES).zip(self.logits.chunks(LANES)) {
            for ((p, x), total) in p.iter_mut().zip(x).zip(&mut total) {
                *p = exp(*x - max);
                *total += *p;
            }
        }
        let scale = total.iter().sum::<f32>().recip();
        for (sum, p) in self.sums.iter_mut().zip(&*self.scratch) {
            *sum += p * scale;
        }
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, Error> {
    use edgeward_model::tokenizer::{AddSpecial, ParseSpecial};
    Ok(tokenizer.encode(text, AddSpecial::No, ParseSpecial::No)?)
}

/// Ids of the tokens that stay whatever the corpus says.
fn required(model: &Model, tokenizer: &Tokenizer) -> BTreeSet<u32> {
    let gguf = model.gguf();
    let template = gguf.and_then(|gguf| gguf.get("tokenizer.chat_template")?.as_str()).unwrap_or_default();
    let is_required = |id: u32| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        match tokenizer.kind(id) {
            Some(TokenKind::Normal) => bytes.len() == 1,
            Some(TokenKind::Unused) | None => false,
            Some(TokenKind::Control) => {
                std::str::from_utf8(bytes).is_ok_and(|text| !is_placeholder(text) || template.contains(text))
            }
            Some(TokenKind::Unknown | TokenKind::UserDefined | TokenKind::Byte) => true,
        }
    };
    let named =
        gguf.into_iter().flat_map(|gguf| gguf.metadata()).flat_map(|(key, value)| special_ids(key, &value));
    let vocab_size = tokenizer.vocab_size() as u32;
    (0..vocab_size).filter(|id| is_required(*id)).chain(named.filter(|id| *id < vocab_size)).collect()
}

/// Whether a control token is a place held for one that nobody has named yet: `<unused7>`, `<|reserved_special_token_7|>`.
fn is_placeholder(text: &str) -> bool {
    let text = text.trim_end_matches(|c: char| !c.is_alphanumeric());
    let name = text.trim_end_matches(|c: char| c.is_ascii_digit());
    name.len() < text.len() && (name.contains("unused") || name.contains("reserved"))
}

/// The ids in a key such as `tokenizer.ggml.eos_token_id`, or `..._ids`.
fn special_ids(key: &str, value: &Value) -> Vec<u32> {
    let id = |number: i64| u32::try_from(number).ok();
    match (key.strip_prefix(VOCABULARY), value) {
        (Some(name), Value::Array(array)) if name.ends_with("_token_ids") => {
            array.integers().into_iter().flatten().filter_map(id).collect()
        }
        (Some(name), value) if name.ends_with("_token_id") => {
            value.as_i64().and_then(id).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Writes `model` with the tokens `kept` alone to `path`: their rows of the embedding and the output as they are, all
/// other tensors too. Nothing is at `path` on an error that was not there before.
///
/// # Errors
/// If the model is no GGUF file; those of reading and writing.
///
/// # Panics
/// If `kept` is not ascending or an id has no row.
pub fn write(model: &Model, kept: &[u32], path: &Path) -> Result<(), Error> {
    let Source::Gguf(gguf) = model.source() else {
        return Err(Error::NotGguf { path: model.path().to_owned() });
    };
    assert!(kept.is_sorted_by(|a, b| a < b), "ids are ascending");
    let mut writer = GgufWriter::new();
    trim_metadata(gguf, kept, &mut writer)?;
    let of_vocabulary =
        [Slot::TokenEmbedding, Slot::Output].map(|slot| model.tensor(slot).map(|tensor| tensor.name));
    let is_trimmed = |name: &str| of_vocabulary.contains(&Some(name));
    for tensor in gguf.tensors() {
        let mut dims = tensor.dims.to_vec();
        if is_trimmed(tensor.name) {
            dims[1] = kept.len();
        }
        writer.tensor(tensor.name, &dims, tensor.dtype)?;
    }
    writer.write_file(path, |name, out| {
        let tensor = gguf.tensor(name).expect("tensors of the writer are those of the file");
        if !is_trimmed(name) {
            return out.write_all(tensor.data);
        }
        let row_bytes = tensor.data.len() / tensor.as_matrix().n_rows;
        kept.iter().try_for_each(|id| out.write_all(&tensor.data[*id as usize * row_bytes..][..row_bytes]))
    })?;
    Ok(())
}

fn trim_metadata(gguf: &Gguf, kept: &[u32], writer: &mut GgufWriter) -> Result<(), Error> {
    let new_id = |old: i64| {
        let old = u32::try_from(old).ok()?;
        kept.binary_search(&old).ok().map(|new| new as u32)
    };
    let n_tokens =
        gguf.get("tokenizer.ggml.tokens").and_then(|v| v.as_array()).map_or(0, |tokens| tokens.len());
    for (key, value) in gguf.metadata() {
        let name = key.strip_prefix(VOCABULARY);
        match (name, value) {
            _ if key == "general.alignment" || key == FOREIGN_TOKENIZER => {}
            (None, _) if key.ends_with(".vocab_size") => {
                writer.key(key, Value::U32(kept.len() as u32))?;
            }
            (Some("merges"), Value::Array(merges)) => {
                let merges = merges.strings().into_iter().flatten().collect::<Result<Vec<_>, _>>()?;
                let tokens = gguf.get("tokenizer.ggml.tokens").and_then(|v| v.as_array());
                let tokens = tokens.and_then(|tokens| tokens.strings()).into_iter().flatten();
                let tokens = tokens.collect::<Result<Vec<&str>, _>>()?;
                let kept: BTreeSet<&str> = kept.iter().map(|id| tokens[*id as usize]).collect();
                let is_possible = |merge: &&str| {
                    merge.split_once(' ').is_some_and(|(left, right)| {
                        kept.contains(left)
                            && kept.contains(right)
                            && kept.contains(&*format!("{left}{right}"))
                    })
                };
                writer.key(key, ArrayBuf::strings(merges.into_iter().filter(is_possible)).value())?;
            }
            // Whatever else has an entry for each token: texts, scores, types.
            (Some(_), Value::Array(array)) if array.len() == n_tokens => {
                let mut kept = kept.iter().map(|id| *id as usize).peekable();
                let mut values = Vec::new();
                for (id, value) in array.values().enumerate() {
                    if kept.next_if_eq(&id).is_some() {
                        values.push(value?);
                    }
                }
                writer.key(key, ArrayBuf::new(array.element_type(), values).value())?;
            }
            (Some(name), Value::Array(array)) if name.ends_with("_token_ids") => {
                let ids = array.integers().into_iter().flatten().filter_map(new_id);
                writer.key(key, ArrayBuf::i32s(ids.map(|id| id as i32)).value())?;
            }
            (Some(name), value) if name.ends_with("_token_id") => {
                if let Some(id) = value.as_i64().and_then(new_id) {
                    writer.key(key, Value::U32(id))?;
                }
            }
            (_, value) => {
                writer.key(key, value)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    use edgeward_model::tokenizer::ControlTokens;

    const TEXT: &str = include_str!("../../../LICENSE-APACHE");
    /// What the texts of a device may bring that its corpus had not.
    const FOREIGN: [&str; 6] = [
        "你好，世界",
        "😀 👩‍💻 🏳️‍🌈",
        "naïve Ωmega \u{301}",
        "\t\t  \n\n\n x",
        "fn main() { println!(\"{}\", 1e-9); }",
        "▁ ￿",
    ];

    fn tiny(name: &str) -> Model {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny");
        Model::load(&folder.join(name)).unwrap()
    }

    /// Keeps what `text` needs; the trimmed model, its file and the ids.
    fn trimmed(model: &Model, text: &str, limit: Limit) -> (tempfile::TempDir, Model, Kept) {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("trimmed.gguf");
        let kept = Demand::new(&model.tokenizer().unwrap(), [text]).unwrap().keep(model, limit).unwrap();
        write(model, &kept.ids, &path).unwrap();
        (dir, Model::load(&path).unwrap(), kept)
    }

    /// What trimming promises of the tokenizer, for all texts.
    fn check_tokenizers(model: &Model, text: &str, limit: Limit) -> Kept {
        let (_dir, trimmed, kept) = trimmed(model, text, limit);
        let (old, new) = (model.tokenizer().unwrap(), trimmed.tokenizer().unwrap());
        assert_eq!(new.vocab_size(), kept.ids.len());
        assert_eq!(trimmed.config().vocab_size, kept.ids.len());
        for (id, &old_id) in (0u32..).zip(&kept.ids) {
            assert_eq!(new.token_bytes(id).unwrap(), old.token_bytes(old_id).unwrap());
            assert_eq!(new.kind(id), old.kind(old_id));
        }
        let id = |new: Option<u32>| new.map(|id| kept.ids[id as usize]);
        assert_eq!((id(new.bos()), id(new.eos()), id(new.unk())), (old.bos(), old.eos(), old.unk()));
        let ends: Vec<u32> = new.end_ids().iter().map(|end| kept.ids[*end as usize]).collect();
        assert_eq!(ends, old.end_ids());

        let mut n_same = 0;
        for line in text.lines().chain(FOREIGN).chain(include_str!("vocabulary.rs").lines()) {
            let (before, after) = (encode(&old, line).unwrap(), encode(&new, line).unwrap());
            // What the old vocabulary can say of the text, the new one can.
            let said = old.decode(&before, ControlTokens::Show).unwrap();
            assert_eq!(new.decode(&after, ControlTokens::Show).unwrap(), said, "{line:?}");
            if before.iter().all(|id| kept.ids.binary_search(id).is_ok()) {
                let after: Vec<u32> = after.iter().map(|id| kept.ids[*id as usize]).collect();
                assert_eq!(after, before, "{line:?}");
                n_same += 1;
            }
        }
        assert!(n_same > 0);
        kept
    }

    #[test]
    fn texts_whose_tokens_stay_are_encoded_as_before_and_all_others_can_be() {
        for name in ["llama.gguf", "llama3.gguf", "qwen2.gguf", "gemma3.gguf"] {
            let model = tiny(name);
            let n_required = required(&model, &model.tokenizer().unwrap()).len();
            let some = check_tokenizers(&model, "a text of few words", Limit::MissingShare(1.0));
            let all = check_tokenizers(&model, TEXT, Limit::Tokens(usize::MAX));
            assert!(n_required < some.ids.len() && some.ids.len() <= all.ids.len(), "{name}");
            let between = n_required + 5;
            let limited = check_tokenizers(&model, TEXT, Limit::Tokens(between));
            assert!(limited.ids.len() <= between && limited.ids.len() > n_required, "{name}");
            let tokenizer = model.tokenizer().unwrap();
            let refused =
                Demand::new(&tokenizer, [TEXT]).unwrap().keep(&model, Limit::Tokens(3)).unwrap_err();
            assert!(refused.to_string().contains(&format!("alone are {n_required}")), "{refused}");
        }
    }

    /// The same on the models that people use, if they are there; see CONTRIBUTING.md.
    #[test]
    fn real_vocabularies_too() {
        for variable in ["EDGEWARD_TEST_SMOLLM2_135M", "EDGEWARD_TEST_GEMMA3_270M"] {
            let Some(path) = std::env::var_os(variable) else { continue };
            let model = Model::load(Path::new(&path)).unwrap();
            let kept = check_tokenizers(&model, TEXT, Limit::MissingShare(1.0));
            assert!(kept.ids.len() < 5000, "{}", kept.ids.len());
            let tokenizer = model.tokenizer().unwrap();
            let named = kept.ids.iter().filter(|id| tokenizer.is_control(**id)).count();
            assert!((5..100).contains(&named), "{named}");
        }
    }

    #[test]
    fn the_result_predicts_as_the_teacher_given_that_a_kept_token_comes() {
        let cancel = CancelToken::new();
        for name in ["qwen3.gguf", "gemma3.gguf"] {
            let model = std::sync::Arc::new(tiny(name));
            let (_dir, trimmed, kept) = trimmed(&model, "some words and their letters", Limit::Tokens(300));
            assert!(kept.ids.len() < model.config().vocab_size);
            let engine = |model: &std::sync::Arc<Model>| {
                Engine::new(model, edgeward_engine::EngineOptions::default()).unwrap()
            };
            let (mut old, mut new) = (engine(&model), engine(&std::sync::Arc::new(trimmed)));
            let tokens: Vec<u32> = (0..20).map(|i| i * 5 % kept.ids.len() as u32).collect();
            let old_tokens: Vec<u32> = tokens.iter().map(|id| kept.ids[*id as usize]).collect();
            let mut rows = Vec::new();
            let mut sequence = new.new_sequence();
            new.score(&mut sequence, &tokens, 0, &cancel, |_, logits| rows.push(logits.to_vec())).unwrap();
            let mut sequence = old.new_sequence();
            old.score(&mut sequence, &old_tokens, 0, &cancel, |i, logits| {
                let left: Vec<f32> = kept.ids.iter().map(|id| logits[*id as usize]).collect();
                assert_eq!(left, rows[i], "{name}, position {i}");
            })
            .unwrap();
        }
    }

    #[test]
    fn expectations_are_probabilities() {
        let model = std::sync::Arc::new(tiny("llama.gguf"));
        let tokenizer = model.tokenizer().unwrap();
        let mut demand = Demand::new(&tokenizer, [TEXT]).unwrap();
        let mut engine = Engine::new(&model, edgeward_engine::EngineOptions::default()).unwrap();
        let windows = Windows::new(&tokenizer, TEXT, 64).unwrap().part(3);
        demand.foresee(&mut engine, &windows, &CancelToken::new(), &mut |_| {}).unwrap();
        let total: f64 = demand.expected.iter().sum();
        assert!((total - 1.0).abs() < 1e-4 && demand.expected.iter().all(|p| *p >= 0.0), "{total}");
        // The more may be missing, the fewer tokens stay.
        let sizes = [0.5, 0.05, 0.0].map(|share| {
            let kept = demand.keep(&model, Limit::MissingShare(share)).unwrap();
            assert!(kept.missing_share <= share + 1e-9, "{}", kept.missing_share);
            kept.ids.len()
        });
        assert!(sizes.is_sorted(), "{sizes:?}");
    }

    #[test]
    fn a_corpus_is_split_into_what_decides_and_what_measures() {
        let (all, measured, is_held_out) = split(&TEXT[..5000]);
        assert_eq!((all.concat(), is_held_out), (TEXT[..5000].to_owned(), false));
        assert_eq!(measured, all);
        let long = TEXT.repeat(20);
        let (deciding, measured, is_held_out) = split(&long);
        assert!(is_held_out && (5..=MAX_HELD_OUT).contains(&measured.len()), "{}", measured.len());
        assert_eq!(deciding.iter().chain(&measured).map(|text| text.len()).sum::<usize>(), long.len());
        assert!(deciding.len() > 10 * measured.len());
    }

    #[test]
    fn placeholders_are_known_by_their_names() {
        for name in ["<unused0>", "<unused6241>", "<|reserved_special_token_7|>", "[unused12]"] {
            assert!(is_placeholder(name), "{name}");
        }
        for name in ["<|im_end|>", "<unk>", "<|fim_prefix|>", "<mask1>", "<unused>", ""] {
            assert!(!is_placeholder(name), "{name}");
        }
    }
}
