//! `edgeward compress --vocab-from`: the model with the tokens that a corpus needs.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use edgeward_compress::certificate::{FileId, VocabularyRecord};
use edgeward_compress::compress::Step;
use edgeward_compress::eval::{PassageScores, Windows};
use edgeward_compress::vocabulary::{self, Demand, Kept, Limit, MISSING_SHARE};
use edgeward_engine::{CancelToken, Engine, EngineOptions};
use edgeward_model::Model;
use edgeward_model::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use super::temporary::Temporary;
use super::{Job, Outcome};
use crate::resume::Resume;
use crate::store::human_bytes;

/// Shares of such a text's tokens that may be missing, among which a search chooses.
const MISSING_SHARES: [f64; 5] = [0.0003, MISSING_SHARE, 0.003, 0.01, 0.03];

/// A vocabulary that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vocabulary {
    /// By which it was chosen.
    pub missing_share: f64,
    pub n_tokens: usize,
    /// Nats by token of the teacher.
    pub loss: f64,
}

/// A corpus, and what it needs.
pub struct Trimming<'a> {
    pub text: &'a str,
    pub id: FileId,
    /// Tokens of a window in which the model is asked for what it expects, and how many of these.
    pub window_len: usize,
    pub n_windows: usize,
    /// Found out when it is first asked for.
    pub demand: OnceCell<Demand<'a>>,
}

impl<'a> Trimming<'a> {
    /// What the choice of tokens depends on, besides how many they may be.
    pub fn describe(&self) -> String {
        format!("{} {} {}", self.id.sha256, self.window_len, self.n_windows)
    }

    /// Chooses the tokens, as the teacher expects them, and writes `model` with these to `path`.
    pub fn trim(
        &self,
        job: &Job<'a>,
        limit: Limit,
        model: &Model,
        path: &Path,
        watch: &mut dyn FnMut(Step),
    ) -> Outcome<Kept> {
        let kept = self.demand(job, watch)?.keep(model, limit)?;
        vocabulary::write(model, &kept.ids, path)?;
        Ok(kept)
    }

    fn demand(&self, job: &Job<'a>, watch: &mut dyn FnMut(Step)) -> Outcome<&Demand<'a>> {
        if let Some(demand) = self.demand.get() {
            return Ok(demand);
        }
        let (deciding, _, _) = vocabulary::split(self.text);
        let mut demand = Demand::new(job.tokenizer, deciding.iter().copied())?;
        let windows = Windows::new(job.tokenizer, &deciding.concat(), self.window_len)?.part(self.n_windows);
        demand.foresee(&mut engine(job.teacher, job.n_threads)?, &windows, job.cancel, watch)?;
        Ok(self.demand.get_or_init(|| demand))
    }

    /// Vocabularies of different sizes, the largest first, and what having no more tokens costs the teacher.
    pub fn choices(&self, job: &Job<'a>, watch: &mut dyn FnMut(Step)) -> Outcome<Vec<Vocabulary>> {
        let mut resume = Resume::new("vocabularies", &[job.ids.0.sha256.clone(), self.describe()])?;
        let mut choices: Vec<Vocabulary> = resume.load().unwrap_or_default();
        let mut teacher = engine(job.teacher, job.n_threads)?;
        for missing_share in MISSING_SHARES.into_iter().skip(choices.len()) {
            let path = Temporary::beside(&job.args.output, "tried");
            let kept = self.trim(job, Limit::MissingShare(missing_share), job.teacher, &path.0, watch)?;
            let model = Arc::new(Model::load(&path.0)?);
            let (mut result, tokenizer) = (engine(&model, job.n_threads)?, model.tokenizer()?);
            let (result, teacher) = ((&mut result, &tokenizer), (&mut teacher, job.tokenizer));
            let record = self.certify(&kept, result, teacher, job.cancel, watch)?;
            // What fewer tokens cost cannot be less: where it seems so, that is chance.
            let before = choices.last().map_or(0.0, |larger| larger.loss);
            let loss = record.perplexity_increase.ln_1p().max(before);
            choices.push(Vocabulary { missing_share, n_tokens: kept.ids.len(), loss });
            resume.save(&choices)?;
        }
        choices.dedup_by_key(|choice| choice.n_tokens);
        Ok(choices)
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
