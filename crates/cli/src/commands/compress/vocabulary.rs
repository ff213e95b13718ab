//! `edgeward compress --vocab-from`: the model with the tokens that a corpus needs.

use std::path::Path;
use std::sync::Arc;

use edgeward_compress::certificate::{FileId, VocabularyRecord};
use edgeward_compress::compress::Step;
use edgeward_compress::eval::{PassageScores, Windows};
use edgeward_compress::vocabulary::{self, Demand, Kept, Limit};
use edgeward_engine::{CancelToken, Engine, EngineOptions};
use edgeward_model::Model;
use edgeward_model::tokenizer::Tokenizer;

use crate::store::human_bytes;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A corpus, and what is asked of it.
pub struct Trimming<'a> {
    pub text: &'a str,
    pub id: FileId,
    pub limit: Limit,
    /// Tokens of a window in which the model is asked for what it expects, and how many of these.
    pub window_len: usize,
    pub n_windows: usize,
}

impl Trimming<'_> {
    /// What the choice of tokens depends on.
    pub fn describe(&self) -> String {
        format!("{} {:?} {} {}", self.id.sha256, self.limit, self.window_len, self.n_windows)
    }

    /// Chooses the tokens, as the teacher expects them, and writes `model` with these to `path`.
    pub fn trim(
        &self,
        (teacher, model): (&Arc<Model>, &Model),
        tokenizer: &Tokenizer,
        path: &Path,
        n_threads: usize,
        cancel: &CancelToken,
        watch: &mut dyn FnMut(Step),
    ) -> Outcome<Kept> {
        let (deciding, _, _) = vocabulary::split(self.text);
        let mut demand = Demand::new(tokenizer, deciding.iter().copied())?;
        let windows = Windows::new(tokenizer, &deciding.concat(), self.window_len)?.part(self.n_windows);
        demand.foresee(&mut engine(teacher, n_threads)?, &windows, cancel, watch)?;
        let kept = demand.keep(model, self.limit)?;
        vocabulary::write(model, &kept.ids, path)?;
        Ok(kept)
    }

    /// What the passages that were held out cost the finished model, and the teacher.
    pub fn certify(
        &self,
        kept: &Kept,
        result: (&mut Engine, &Tokenizer),
        teacher: (&mut Engine, &Tokenizer),
        cancel: &CancelToken,
        watch: &mut dyn FnMut(Step),
    ) -> Outcome<VocabularyRecord> {
        let (_, measured, is_held_out) = vocabulary::split(self.text);
        let mut scores = PassageScores::default();
        for (n_done, passage) in measured.iter().enumerate() {
            watch(Step { what: "reading what was held out", n_done, n_all: measured.len() });
            scores.read(passage, (&mut *result.0, result.1), (&mut *teacher.0, teacher.1), cancel)?;
        }
        let n_tokens_before = teacher.1.vocab_size();
        Ok(VocabularyRecord::new(self.id.clone(), n_tokens_before, kept, is_held_out, &scores))
    }
}

/// An engine with weights as they are.
pub fn engine(model: &Arc<Model>, n_threads: usize) -> Result<Engine, edgeward_engine::Error> {
    Engine::new(model, EngineOptions { n_threads, ..EngineOptions::default() })
}

/// What became of a vocabulary, for people.
pub fn sentence(record: &VocabularyRecord) -> String {
    format!(
        "{} of {} tokens; on {} of the corpus {:.4} bits by byte, before {:.4} (perplexity {:+.2} +/- {:.2} %)",
        record.n_tokens,
        record.n_tokens_before,
        human_bytes(record.n_bytes as u64),
        record.bits_per_byte,
        record.bits_per_byte_before,
        record.perplexity_increase * 100.0,
        record.perplexity_increase_stderr * 100.0
    )
}
