//! Token after token, until a stop.

use crate::engine::{CancelToken, Engine};
use crate::error::Error;
use crate::sampler::{Sampled, Sampler};
use crate::sequence::Sequence;

/// When to stop.
#[derive(Clone, Debug, Default)]
pub struct GeneratorOptions {
    /// Tokens at most; 0 for as many as the context holds.
    pub max_tokens: usize,
    /// Tokens that end the answer (end of text, end of turn). They are not given out.
    pub stop_tokens: Vec<u32>,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model gave a stop token.
    StopToken(u32),
    /// The limit was reached.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The caller cancelled.
    Cancelled,
}

/// Continues one sequence.
pub struct Generator<'a> {
    engine: &'a mut Engine,
    sequence: &'a mut Sequence,
    sampler: &'a mut Sampler,
    options: GeneratorOptions,
    cancel: CancelToken,
    /// Logits after the last token of the sequence.
    logits: Vec<f32>,
    /// Chosen, but not yet in the sequence.
    pending: Option<u32>,
    n_generated: usize,
    stop: Option<StopReason>,
}

impl<'a> Generator<'a> {
    /// Makes the sequence hold `prompt` (computing only what it does not hold already), ready to continue it.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub fn new(
        engine: &'a mut Engine,
        sequence: &'a mut Sequence,
        sampler: &'a mut Sampler,
        prompt: &[u32],
        options: GeneratorOptions,
        cancel: CancelToken,
    ) -> Result<Generator<'a>, Error> {
        let logits = engine.prefill_to(sequence, prompt, &cancel)?;
        Ok(Generator {
            engine,
            sequence,
            sampler,
            options,
            cancel,
            logits,
            pending: None,
            n_generated: 0,
            stop: None,
        })
    }

    /// The next token; `None` at a stop.
    ///
    /// # Errors
    /// If the model gives something that is not a number.
    pub fn next_token(&mut self) -> Result<Option<Sampled>, Error> {
        if self.stop.is_some() {
            return Ok(None);
        }
        self.stop = self.limit();
        if self.stop.is_some() {
            return Ok(None);
        }
        if let Some(token) = self.pending.take() {
            self.logits = self.engine.decode(&mut [(self.sequence, token)])?.into_vec();
        }
        let sampled = self.sampler.sample(&self.logits, self.sequence.tokens());
        if self.options.stop_tokens.contains(&sampled.token) {
            self.stop = Some(StopReason::StopToken(sampled.token));
            return Ok(None);
        }
        self.pending = Some(sampled.token);
        self.n_generated += 1;
        Ok(Some(sampled))
    }

    fn limit(&self) -> Option<StopReason> {
        let n_positions = self.sequence.len() + usize::from(self.pending.is_some());
        if self.cancel.is_cancelled() {
            Some(StopReason::Cancelled)
        } else if self.options.max_tokens > 0 && self.n_generated >= self.options.max_tokens {
            Some(StopReason::MaxTokens)
        } else if n_positions >= self.engine.context_len() {
            Some(StopReason::ContextFull)
        } else {
            None
        }
    }

    /// Why generation ended, once it has.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stop
    }

    /// Tokens generated so far.
    pub fn n_generated(&self) -> usize {
        self.n_generated
    }

    /// The logits from which the last token was chosen.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }
}
