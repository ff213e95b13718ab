//! From logits to a token.
//!
//! The steps, in this order: bias; repetition penalty (Keskar et al. 2019, arXiv:1909.05858); frequency and presence
//! penalties (as in OpenAI's API); then, unless the temperature is 0 (greedy), division by the temperature, top-k
//! (Fan et al. 2018), top-p (Holtzman et al. 2020, arXiv:1904.09751), min-p (Nguyen et al. 2024, arXiv:2407.01082),
//! and a draw. Ties go to the lower id. A seed gives the same tokens on every machine and at any number of threads,
//! because logits do, and the generator (ChaCha8) does.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::Error;

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// 0 is greedy; 1 leaves the model's probabilities as they are.
    pub temperature: f32,
    /// Only so many of the likeliest tokens; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the likeliest; 0 for all.
    pub min_p: f32,
    /// Divides positive logits of tokens seen before, multiplies negative ones; 1 for none.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit for each time it was seen.
    pub frequency_penalty: f32,
    /// Subtracted from the logit of a token that was seen.
    pub presence_penalty: f32,
    /// How many of the last tokens count as seen.
    pub penalty_window: usize,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same tokens.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> SamplerOptions {
        SamplerOptions {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Natural logarithm of its probability among those it was drawn from; 0 when greedy.
    pub log_probability: f32,
}

/// Chooses tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    rng: ChaCha8Rng,
    /// Logits under work: token and logit.
    candidates: Vec<(u32, f32)>,
    adjusted: Vec<f32>,
    /// Of the last draw: how many candidates it was made from, their largest logit, and the sum of their weights.
    drawn: Drawn,
}

/// See [`Sampler::drawn`].
#[derive(Clone, Copy, Debug, Default)]
struct Drawn {
    n_kept: usize,
    max: f32,
    sum: f64,
}

/// Candidates sorted at once while looking for the end of the top-p set.
const SORT_STEP: usize = 128;

impl Sampler {
    /// A sampler, its generator at the beginning.
    ///
    /// # Errors
    /// If an option is out of range.
    pub fn new(options: SamplerOptions) -> Result<Sampler, Error> {
        let o = &options;
        let checks = [
            (o.temperature >= 0.0 && o.temperature.is_finite(), "the temperature must be 0 or more"),
            (o.top_p > 0.0 && o.top_p <= 1.0, "top-p must be above 0 and at most 1"),
            ((0.0..=1.0).contains(&o.min_p), "min-p must be between 0 and 1"),
            (
                o.repetition_penalty > 0.0 && o.repetition_penalty.is_finite(),
                "the repetition penalty must be above 0",
            ),
            (o.frequency_penalty.is_finite() && o.presence_penalty.is_finite(), "penalties must be numbers"),
            (o.logit_bias.iter().all(|(_, bias)| !bias.is_nan()), "a logit bias must be a number"),
        ];
        if let Some((_, message)) = checks.into_iter().find(|(is_fine, _)| !is_fine) {
            return Err(Error::BadOption(message.to_owned()));
        }
        let rng = ChaCha8Rng::seed_from_u64(options.seed);
        Ok(Sampler { options, rng, candidates: Vec::new(), adjusted: Vec::new(), drawn: Drawn::default() })
    }

    /// Chooses the token to follow `history` from its logits.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Sampled {
        let mut adjusted = std::mem::take(&mut self.adjusted);
        let logits = if self.changes_logits() {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            self.adjust(&mut adjusted, history);
            &adjusted[..]
        } else {
            logits
        };
        let sampled = if self.options.temperature == 0.0 {
            let token = argmax(logits);
            self.candidates.clear();
            self.candidates.push((token, 0.0));
            self.drawn = Drawn { n_kept: 1, max: 0.0, sum: 1.0 };
            Sampled { token, log_probability: 0.0 }
        } else {
            self.draw(logits)
        };
        self.adjusted = adjusted;
        sampled
    }

    /// The `n` likeliest of the tokens from which the last was drawn, likeliest first, with the natural logarithms of their
    /// probabilities among these. What is too unlikely to have one is left out.
    pub fn last_candidates(&self, n: usize) -> Vec<(u32, f64)> {
        let Drawn { n_kept, max, sum } = self.drawn;
        let kept = &self.candidates[..n_kept.min(self.candidates.len())];
        let temperature = if self.options.temperature == 0.0 { 1.0 } else { self.options.temperature };
        kept.iter()
            .take(n)
            .map(|(token, logit)| (*token, f64::from(((logit - max) / temperature).exp()) / sum))
            .filter(|(_, probability)| *probability > 0.0)
            .map(|(token, probability)| (token, probability.ln()))
            .collect()
    }

    fn changes_logits(&self) -> bool {
        let o = &self.options;
        !o.logit_bias.is_empty()
            || o.repetition_penalty != 1.0
            || o.frequency_penalty != 0.0
            || o.presence_penalty != 0.0
    }

    fn adjust(&self, logits: &mut [f32], history: &[u32]) {
        let o = &self.options;
        for &(token, bias) in &o.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for &token in &history[history.len().saturating_sub(o.penalty_window)..] {
            *counts.entry(token).or_default() += 1;
        }
        for (token, count) in counts {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / o.repetition_penalty } else { *logit * o.repetition_penalty };
            *logit -= o.frequency_penalty * count as f32 + o.presence_penalty;
        }
    }

    fn draw(&mut self, logits: &[f32]) -> Sampled {
        let o = &self.options;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| ((logit - max) / o.temperature).exp();
        let by_logit = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));

        // The likeliest token has weight 1, so min-p is a bound on weights, and can be applied at once: what it
        // removes lies below everything it keeps. It counts only after top-p, though, whose total includes it.
        let candidates = &mut self.candidates;
        candidates.clear();
        // What a bias or a grammar has ruled out is no candidate, however the sums round.
        let possible = logits.iter().enumerate().filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        candidates.extend(possible.map(|(i, &logit)| (i as u32, logit)));
        if o.top_k > 0 && o.top_k < candidates.len() {
            candidates.select_nth_unstable_by(o.top_k - 1, by_logit);
            candidates.truncate(o.top_k);
        }
        let total: f64 = candidates.iter().map(|c| f64::from(weight(c.1))).sum();

        // Sorts from the top, a step at a time, until the kept set is complete.
        let mut n_sorted = 0;
        let mut n_kept = 0;
        let mut sum = 0.0;
        let is_all = o.top_p >= 1.0 && o.min_p <= 0.0;
        'steps: while n_sorted < candidates.len() {
            let rest = &mut candidates[n_sorted..];
            let step = if is_all { rest.len() } else { SORT_STEP.max(n_sorted).min(rest.len()) };
            if step < rest.len() {
                rest.select_nth_unstable_by(step - 1, by_logit);
            }
            rest[..step].sort_unstable_by(by_logit);
            n_sorted += step;
            while n_kept < n_sorted {
                let w = weight(candidates[n_kept].1);
                if n_kept > 0 && (w < o.min_p || (o.top_p < 1.0 && sum >= f64::from(o.top_p) * total)) {
                    break 'steps;
                }
                sum += f64::from(w);
                n_kept += 1;
            }
        }
        let kept = &candidates[..n_kept];
        self.drawn = Drawn { n_kept, max, sum };

        // 53 random bits: uniform in 0..1.
        let mut point = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * sum;
        let chosen = kept.iter().find(|c| {
            point -= f64::from(weight(c.1));
            point < 0.0
        });
        // Rounding may leave the point just beyond the last.
        let &(token, logit) = chosen.or(kept.last()).unwrap_or(&(0, max));
        Sampled { token, log_probability: (f64::from(weight(logit)) / sum).ln() as f32 }
    }
}

/// The token with the largest logit; the lowest id of several.
fn argmax(logits: &[f32]) -> u32 {
    // By blocks: the largest value of a block vectorises, the place is then found in one block alone.
    const BLOCK: usize = 256;
    let mut best = (0, f32::NEG_INFINITY);
    for (i, block) in logits.chunks(BLOCK).enumerate() {
        let max = block.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        if max > best.1 {
            best = (i, max);
        }
    }
    let (block, max) = best;
    let start = block * BLOCK;
    let rest = logits.get(start..).unwrap_or_default();
    (start + rest.iter().position(|&x| x == max).unwrap_or(0)) as u32
}

/// ln of the sum of e^logit.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from((x - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// Natural logarithm of the probability that the model gives to `token`.
///
/// # Panics
/// If `token` is out of range.
pub fn log_probability(logits: &[f32], token: u32) -> f64 {
    f64::from(logits[token as usize]) - log_sum_exp(logits)
}

/// The `n` likeliest tokens and the natural logarithms of their probabilities, likeliest first.
pub fn top_log_probabilities(logits: &[f32], n: usize) -> Vec<(u32, f64)> {
    let by_logit = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut all: Vec<(u32, f32)> = logits.iter().enumerate().map(|(i, &x)| (i as u32, x)).collect();
    if n == 0 || all.is_empty() {
        return Vec::new();
    }
    if n < all.len() {
        all.select_nth_unstable_by(n - 1, by_logit);
        all.truncate(n);
    }
    all.sort_unstable_by(by_logit);
    let total = log_sum_exp(logits);
    all.into_iter().map(|(token, logit)| (token, f64::from(logit) - total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    fn sampler(options: SamplerOptions) -> Sampler {
        Sampler::new(options).unwrap()
    }

    /// Frequencies of the tokens in many draws.
    fn frequencies(options: SamplerOptions) -> [f64; 5] {
        let mut sampler = sampler(options);
        let mut counts = [0.0; 5];
        for _ in 0..20_000 {
            counts[sampler.sample(&LOGITS, &[]).token as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn softmax(keep: &[usize], temperature: f64) -> [f64; 5] {
        let mut p = [0.0; 5];
        keep.iter().for_each(|&i| p[i] = (f64::from(LOGITS[i]) / temperature).exp());
        let total: f64 = p.iter().sum();
        p.map(|x| x / total)
    }

    fn assert_close(a: [f64; 5], b: [f64; 5]) {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.015), "{a:?} is not {b:?}");
    }

    #[test]
    fn what_was_drawn_from_is_told() {
        let base = SamplerOptions { temperature: 2.0, ..Default::default() };
        let told = |options: SamplerOptions, n: usize| {
            let mut sampler = sampler(options);
            let sampled = sampler.sample(&LOGITS, &[]);
            let told = sampler.last_candidates(n);
            if let Some((_, log)) = told.iter().find(|(token, _)| *token == sampled.token) {
                assert!((log - f64::from(sampled.log_probability)).abs() < 1e-6);
            }
            told.into_iter().map(|(token, log)| (token, log.exp())).collect::<Vec<_>>()
        };
        let check = |told: Vec<(u32, f64)>, keep: &[usize], tokens: &[u32]| {
            let p = softmax(keep, 2.0);
            assert_eq!(told.iter().map(|(token, _)| *token).collect::<Vec<_>>(), tokens);
            assert!(told.iter().all(|(token, share)| (share - p[*token as usize]).abs() < 1e-6), "{told:?}");
        };
        check(told(base.clone(), 9), &[0, 1, 2, 3, 4], &[1, 3, 2, 0, 4]);
        check(told(SamplerOptions { top_k: 3, ..base.clone() }, 9), &[1, 2, 3], &[1, 3, 2]);
        check(told(SamplerOptions { top_k: 3, ..base.clone() }, 2), &[1, 2, 3], &[1, 3]);
        check(told(SamplerOptions { min_p: 0.9, ..base }, 9), &[1, 3], &[1, 3]);
        assert_eq!(told(SamplerOptions::default(), 9), [(1, 1.0)], "greedy has no choice");
        assert!(sampler(SamplerOptions::default()).last_candidates(3).is_empty());
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(sampler(SamplerOptions::default()).sample(&LOGITS, &[]).token, 1);
        let mut long = vec![-1.0; 1000];
        long[777] = 0.5;
        assert_eq!(argmax(&long), 777);
        assert_eq!(argmax(&[]), 0);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let base = SamplerOptions { temperature: 1.0, ..Default::default() };
        assert_close(frequencies(base.clone()), softmax(&[0, 1, 2, 3, 4], 1.0));
        assert_close(
            frequencies(SamplerOptions { temperature: 2.0, ..base.clone() }),
            softmax(&[0, 1, 2, 3, 4], 2.0),
        );
        assert_close(frequencies(SamplerOptions { top_k: 3, ..base.clone() }), softmax(&[1, 2, 3], 1.0));
        // The two likeliest have 0.39 each.
        assert_close(frequencies(SamplerOptions { top_p: 0.7, ..base.clone() }), softmax(&[1, 3], 1.0));
        assert_close(frequencies(SamplerOptions { top_p: 0.8, ..base.clone() }), softmax(&[1, 2, 3], 1.0));
        // e^-1 = 0.37 of the likeliest is kept, e^-2 = 0.14 not.
        assert_close(frequencies(SamplerOptions { min_p: 0.2, ..base }), softmax(&[1, 2, 3], 1.0));
    }

    #[test]
    fn a_large_vocabulary_is_sorted_only_as_far_as_needed_and_right() {
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5000) as f32 / 1000.0).collect();
        let mut order: Vec<u32> = (0..5000).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        let total: f64 = logits.iter().map(|x| f64::from((x - 4.999).exp())).sum();
        let mut sum = 0.0;
        let n_kept = order
            .iter()
            .take_while(|i| {
                let is_in = sum < 0.5 * total;
                sum += f64::from((logits[**i as usize] - 4.999).exp());
                is_in
            })
            .count();
        let mut sampler = sampler(SamplerOptions { temperature: 1.0, top_p: 0.5, ..Default::default() });
        sampler.sample(&logits, &[]);
        for _ in 0..2000 {
            let token = sampler.sample(&logits, &[]).token;
            assert!(order[..n_kept].contains(&token));
        }
    }

    #[test]
    fn penalties_and_bias() {
        let sample =
            |options: SamplerOptions, history: &[u32]| sampler(options).sample(&LOGITS, history).token;
        let base = SamplerOptions::default();
        assert_eq!(sample(SamplerOptions { repetition_penalty: 1.5, ..base.clone() }, &[1]), 3);
        assert_eq!(sample(SamplerOptions { frequency_penalty: 0.6, ..base.clone() }, &[1, 1, 3]), 3);
        assert_eq!(sample(SamplerOptions { presence_penalty: 1.5, ..base.clone() }, &[1, 3]), 2);
        assert_eq!(sample(SamplerOptions { logit_bias: vec![(4, 10.0), (99, 1.0)], ..base.clone() }, &[]), 4);
        assert_eq!(sample(SamplerOptions { repetition_penalty: 1.5, penalty_window: 1, ..base }, &[1, 0]), 1);
    }

    #[test]
    fn a_seed_gives_the_same_tokens() {
        let run = |seed| {
            let mut s = sampler(SamplerOptions { temperature: 1.0, seed, ..Default::default() });
            (0..50).map(|_| s.sample(&LOGITS, &[]).token).collect::<Vec<_>>()
        };
        assert_eq!(run(42), run(42));
        assert_ne!(run(42), run(43));
        // Fixed for ever: a change here changes what users get for their seeds.
        assert_eq!(run(42)[..12], [3, 0, 3, 3, 1, 1, 1, 2, 3, 1, 3, 2]);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let base = SamplerOptions::default();
        for options in [
            SamplerOptions { temperature: -1.0, ..base.clone() },
            SamplerOptions { temperature: f32::NAN, ..base.clone() },
            SamplerOptions { top_p: 0.0, ..base.clone() },
            SamplerOptions { min_p: 1.5, ..base.clone() },
            SamplerOptions { repetition_penalty: 0.0, ..base },
        ] {
            assert!(matches!(Sampler::new(options), Err(Error::BadOption(_))));
        }
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let total: f64 = (0..5).map(|i| log_probability(&LOGITS, i).exp()).sum();
        assert!((total - 1.0).abs() < 1e-6);
        let top = top_log_probabilities(&LOGITS, 3);
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 2]);
        assert_eq!(top[0].1, log_probability(&LOGITS, 1));
        assert!(top_log_probabilities(&LOGITS, 0).is_empty());
    }
}
