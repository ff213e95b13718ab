//! One answer under way: from logits to tokens, text and an end.

use std::collections::HashMap;

use edgeward_engine::{Sampled, Sampler, SamplerOptions, Sequence, log_probability, top_log_probabilities};
use edgeward_model::tokenizer::{TextStream, Tokenizer};

use super::{Event, FinishReason, LogprobsOf, Request, TokenLogprob};
use crate::grammar::{Grammar, GrammarError};

/// Tokens that must repeat for what followed them to be taken for what will follow.
const NGRAM_LEN: usize = 3;
/// Tokens drafted at once, at most.
const MAX_DRAFT: usize = 8;
/// Drafts are judged by a running mean of the share of their tokens that came true; below this they cost more than
/// they save, and stop for a while.
const MIN_ACCEPTED_SHARE: f64 = 0.3;
/// Tokens without drafts after they have been found not to pay.
const REST_TOKENS: usize = 64;

/// One answer of a request.
pub(super) struct Choice {
    pub idx: usize,
    pub sequence: Sequence,
    /// To be computed next: the token chosen last, and after it what is guessed to follow.
    pub feed: Vec<u32>,
    pub n_generated: usize,
    /// Guesses that have come true; whoever counts them takes them off.
    pub n_accepted: usize,
    sampler: Sampler,
    grammar: Option<Grammar>,
    text: TextStream,
    drafter: Drafter,
    /// Logits while a grammar restricts them.
    restricted: Vec<f32>,
    pub is_finished: bool,
}

impl Choice {
    /// The `idx`-th answer to a request whose prompt is in `sequence`.
    pub fn new(idx: usize, request: &Request, sequence: Sequence) -> Choice {
        let options = SamplerOptions {
            // Answers to one request differ, and each is the same every time.
            seed: request.sampling.seed.wrapping_add(idx as u64),
            ..request.sampling.clone()
        };
        Choice {
            idx,
            sequence,
            feed: Vec::new(),
            n_generated: 0,
            n_accepted: 0,
            sampler: Sampler::new(options).expect("options were checked when the request came"),
            grammar: request.grammar.clone(),
            text: TextStream::new(request.stop_strings.iter().map(String::as_str)),
            drafter: Drafter::default(),
            restricted: Vec::new(),
            is_finished: false,
        }
    }

    /// Takes the logits after each token of `feed` (or after the prompt), and leaves the next to be computed in it.
    pub fn advance(
        &mut self,
        request: &Request,
        tokenizer: &Tokenizer,
        rows: &[&[f32]],
        events: &mut Vec<Event>,
    ) -> Result<(), GrammarError> {
        let fed = std::mem::take(&mut self.feed);
        // All fed tokens are in the sequence; guesses that do not come true leave it again.
        let n_before = self.sequence.len() - fed.len().saturating_sub(1);
        let mut history_len = n_before;
        let mut n_true = 0;
        for (i, logits) in rows.iter().enumerate() {
            let sampled = self.choose(logits, history_len)?;
            let token = sampled.token;
            self.take(request, tokenizer, sampled, logits, events)?;
            if self.is_finished {
                self.sequence.truncate(history_len);
                return Ok(());
            }
            let was_guessed = fed.get(i + 1) == Some(&token);
            if !was_guessed {
                self.feed.push(token);
                break;
            }
            n_true += 1;
            self.n_accepted += 1;
            history_len += 1;
        }
        if fed.len() > 1 {
            self.sequence.truncate(history_len);
            self.drafter.judge(n_true, fed.len() - 1);
        }
        Ok(())
    }

    /// Guesses what follows the token to be computed, from where the same tokens came before: prompt look-up (Saxena
    /// 2023), a kind of speculative decoding (Leviathan et al. 2023, arXiv:2211.17192). Guesses are checked against
    /// the very logits and random numbers that would choose without them, so no answer ever changes.
    pub fn draft(&mut self, max_draft: usize, request: &Request) {
        let left = request.max_tokens.saturating_sub(self.n_generated + 1);
        let max_draft = max_draft.min(left).min(MAX_DRAFT);
        if self.feed.len() == 1 && max_draft > 0 {
            self.drafter.extend(self.sequence.tokens(), &mut self.feed, max_draft);
        }
    }

    fn choose(&mut self, logits: &[f32], history_len: usize) -> Result<Sampled, GrammarError> {
        let history = &self.sequence.tokens()[..history_len];
        let Some(grammar) = &mut self.grammar else {
            return Ok(self.sampler.sample(logits, history));
        };
        self.restricted.clear();
        self.restricted.extend_from_slice(logits);
        grammar.restrict(&mut self.restricted)?;
        Ok(self.sampler.sample(&self.restricted, history))
    }

    fn take(
        &mut self,
        request: &Request,
        tokenizer: &Tokenizer,
        sampled: Sampled,
        logits: &[f32],
        events: &mut Vec<Event>,
    ) -> Result<(), GrammarError> {
        let token = sampled.token;
        if tokenizer.is_end(token) && !request.ignores_end {
            self.finish(FinishReason::Stop, events);
            return Ok(());
        }
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token)?;
        }
        self.n_generated += 1;
        // Every id that the model computes logits for need not be in the vocabulary; what is not has no text.
        let bytes =
            if tokenizer.is_control(token) { &[] } else { tokenizer.token_bytes(token).unwrap_or_default() };
        let text = self.text.push(bytes);
        let logprob = request.n_logprobs.map(|n| match request.logprobs_of {
            LogprobsOf::Model => TokenLogprob {
                token,
                logprob: log_probability(logits, token),
                top: top_log_probabilities(logits, n),
            },
            LogprobsOf::Sampler => TokenLogprob {
                token,
                logprob: sampled.log_probability.into(),
                top: self.sampler.last_candidates(n),
            },
        });
        events.push(Event::Token { choice_idx: self.idx, token, text, logprob });
        if self.text.stop_hit().is_some() || self.grammar.as_ref().is_some_and(Grammar::is_complete) {
            self.finish(FinishReason::Stop, events);
        } else if self.n_generated >= request.max_tokens {
            self.finish(FinishReason::Length, events);
        }
        Ok(())
    }

    fn finish(&mut self, reason: FinishReason, events: &mut Vec<Event>) {
        self.is_finished = true;
        let stop_string = self.text.stop_hit().map(str::to_owned);
        let text = self.text.finish();
        events.push(Event::Finished {
            choice_idx: self.idx,
            text,
            reason,
            stop_string,
            n_generated: self.n_generated,
        });
    }
}

/// Where each run of [`NGRAM_LEN`] tokens was seen last, and whether guessing from it pays.
#[derive(Default)]
struct Drafter {
    /// The position after the run.
    seen: HashMap<[u32; NGRAM_LEN], usize>,
    n_indexed: usize,
    accepted_share: Option<f64>,
    n_rest: usize,
}

impl Drafter {
    /// `feed` holds the token that follows `tokens`; puts guesses after it.
    fn extend(&mut self, tokens: &[u32], feed: &mut Vec<u32>, max_draft: usize) {
        if self.n_rest > 0 {
            self.n_rest -= 1;
            return;
        }
        for end in (self.n_indexed + 1).max(NGRAM_LEN)..=tokens.len() {
            let run: [u32; NGRAM_LEN] = tokens[end - NGRAM_LEN..end].try_into().expect("its length");
            self.seen.insert(run, end);
        }
        self.n_indexed = tokens.len();
        let Some(start) = tokens.len().checked_sub(NGRAM_LEN - 1) else { return };
        let mut run = [0; NGRAM_LEN];
        run[..NGRAM_LEN - 1].copy_from_slice(&tokens[start..]);
        run[NGRAM_LEN - 1] = feed[0];
        if let Some(&at) = self.seen.get(&run) {
            for idx in at..at + max_draft {
                // Beyond what is known, it goes on with what has just been guessed.
                let token = tokens.get(idx).copied().unwrap_or_else(|| feed[idx - tokens.len()]);
                feed.push(token);
            }
        }
    }

    fn judge(&mut self, n_true: usize, n_guessed: usize) {
        let share = n_true as f64 / n_guessed as f64;
        let mean = self.accepted_share.map_or(share, |mean| mean + 0.25 * (share - mean));
        self.accepted_share = Some(mean);
        if mean < MIN_ACCEPTED_SHARE {
            self.n_rest = REST_TOKENS;
            // The next guess is judged on its own.
            self.accepted_share = None;
        }
    }
}
