//! How much of a prompt may be computed beside running answers.
//!
//! A prompt's tokens share a pass with the answers' next tokens, and make it longer. The bound is a share of time: a
//! pass with answers in it takes at most twice as long as it would without the prompt, whatever the device's speed, so
//! nobody's stream stalls because somebody else sends a long prompt. Times are measured and handed in.

use std::time::Duration;

/// Prompt tokens of a mixed pass, at least: fewer would waste most of a weight's way through the cache. Far into a long
/// prompt, where attention costs as much as all matrices, twice as many already took longer than the answers beside them.
pub const MIN_PROMPT_TOKENS: usize = 8;
/// Time of a pass that a prompt may take, as a share of what its answers take. One would double the mean; as single
/// passes differ from it, and attention costs more towards a long prompt's end, less keeps nearly all within the double.
const PROMPT_SHARE: f64 = 0.75;
/// Share of a new measurement in the running mean.
const SHARE: f64 = 0.2;

/// Running means of what passes cost.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Seconds of a pass without prompts, by the binary logarithm of its number of answers.
    decode_s: [Option<f64>; 9],
    /// Seconds of a token of a prompt.
    prompt_token_s: Option<f64>,
}

impl Pace {
    /// Prompt tokens for a pass with `n_decode` tokens of answers, of `room` that fit.
    pub fn prompt_tokens(&self, n_decode: usize, room: usize) -> usize {
        if n_decode == 0 {
            return room;
        }
        let tokens = match (self.decode_s(n_decode), self.prompt_token_s) {
            (Some(decode_s), Some(token_s)) => (PROMPT_SHARE * decode_s / token_s) as usize,
            _ => MIN_PROMPT_TOKENS,
        };
        tokens.max(MIN_PROMPT_TOKENS).min(room)
    }

    /// A pass of so many tokens took `time`.
    pub fn took(&mut self, n_decode: usize, n_prompt: usize, time: Duration) {
        let time_s = time.as_secs_f64();
        if n_prompt == 0 {
            blend(&mut self.decode_s[bucket(n_decode)], time_s);
        } else if n_prompt >= MIN_PROMPT_TOKENS {
            let rest_s = if n_decode == 0 { Some(0.0) } else { self.decode_s(n_decode) };
            if let Some(rest_s) = rest_s.filter(|rest_s| *rest_s < time_s) {
                blend(&mut self.prompt_token_s, (time_s - rest_s) / n_prompt as f64);
            }
        }
    }

    /// Of this many answers, else of the next fewer that have been measured.
    fn decode_s(&self, n_decode: usize) -> Option<f64> {
        self.decode_s[..=bucket(n_decode)].iter().rev().find_map(|time_s| *time_s)
    }
}

fn bucket(n_decode: usize) -> usize {
    (n_decode.max(1).ilog2() as usize).min(8)
}

fn blend(mean: &mut Option<f64>, value: f64) {
    *mean = Some(mean.map_or(value, |mean| mean + SHARE * (value - mean)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_prompt_takes_no_more_time_than_the_answers_beside_it() {
        let mut pace = Pace::default();
        assert_eq!(pace.prompt_tokens(0, 256), 256, "nobody waits");
        assert_eq!(pace.prompt_tokens(4, 252), MIN_PROMPT_TOKENS, "nothing is known yet");
        pace.took(0, 200, 100 * MS);
        pace.took(4, 0, 40 * MS);
        // 0.5 ms for a token of a prompt, 40 ms for the answers.
        assert_eq!(pace.prompt_tokens(4, 252), 60);
        assert_eq!(pace.prompt_tokens(9, 247), 60, "more answers: no less");
        assert_eq!(pace.prompt_tokens(2, 254), MIN_PROMPT_TOKENS, "fewer: not measured");
        assert_eq!(pace.prompt_tokens(4, 10), 10, "no more than fits");
    }

    #[test]
    fn means_follow_the_device() {
        let mut pace = Pace::default();
        pace.took(0, 100, 100 * MS);
        pace.took(1, 0, 10 * MS);
        for _ in 0..50 {
            pace.took(1, 100, 210 * MS);
        }
        assert_eq!(pace.prompt_tokens(1, 255), MIN_PROMPT_TOKENS);
        for _ in 0..50 {
            pace.took(1, 0, 200 * MS);
        }
        assert!((71..=79).contains(&pace.prompt_tokens(1, 255)));
    }
}
