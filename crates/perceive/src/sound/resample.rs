//! Another rate for a sound that comes in pieces: a windowed sinc, one set of weights for each place between two samples.
//!
//! Smith 1984, "A Flexible Sampling-Rate Conversion Method", with a Kaiser window. All that both rates can hold up to 0.91
//! of the lower one's highest frequency passes, what is above that frequency is 100 dB down, and nothing is delayed: the
//! first sample stays where it is. Samples are the same however the sound is cut. `testdata/sound/coded.py` compares with
//! scipy and soxr.

use std::f64::consts::PI;

/// Zero crossings of the sinc on either side, for -100 dB with the transition from 0.91 to 1.
const HALF_TAPS: usize = 72;
/// Middle of the transition, in the lower rate's highest frequency.
const MIDDLE: f64 = 0.955;
/// Kaiser's for -100 dB.
const BETA: f64 = 10.06;
/// Places between two samples for which weights are kept. Rates whose ratio has more get theirs from the two next to them,
/// which adds an error of -118 dB.
const MAX_PHASES: usize = 1024;

/// Changes the rate of samples.
#[derive(Clone, Debug)]
pub struct Resampler {
    /// Of the rates, without common factors.
    up: u64,
    down: u64,
    /// `[n_phases + 1][2 * half]`
    weights: Vec<f32>,
    n_phases: u64,
    half: usize,
    /// Samples that are still needed, from that of number `first` on; those before 0 are silence.
    samples: Vec<f32>,
    first: i64,
    /// Samples that were given, and made.
    n_in: u64,
    n_out: u64,
}

impl Resampler {
    /// From one number of samples a second to another.
    ///
    /// # Panics
    /// If either is 0.
    pub fn new(from: u32, to: u32) -> Resampler {
        assert!(from > 0 && to > 0, "a sound has samples");
        let divisor = greatest_common_divisor(from, to);
        let (up, down) = (to / divisor, from / divisor);
        let scale = (f64::from(to) / f64::from(from)).min(1.0);
        let half = (HALF_TAPS as f64 / scale).ceil() as usize;
        let n_phases = (up as usize).min(MAX_PHASES);
        let cutoff = MIDDLE * scale;
        let of_middle = bessel(BETA);
        let weight = |i: usize| {
            let (phase, tap) = (i / (2 * half), i % (2 * half));
            let at = phase as f64 / n_phases as f64 + (half - 1) as f64 - tap as f64;
            let inside = 1.0 - (at / half as f64).powi(2);
            let window = bessel(BETA * inside.max(0.0).sqrt()) / of_middle;
            let angle = PI * cutoff * at;
            let sinc = if angle == 0.0 { 1.0 } else { angle.sin() / angle };
            (cutoff * sinc * window) as f32
        };
        Resampler {
            up: u64::from(up),
            down: u64::from(down),
            weights: (0..(n_phases + 1) * 2 * half).map(weight).collect(),
            n_phases: n_phases as u64,
            half,
            samples: vec![0.0; half],
            first: -(half as i64),
            n_in: 0,
            n_out: 0,
        }
    }

    /// Takes the next samples, and adds to `out` those at the other rate that need no later ones.
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.samples.extend_from_slice(samples);
        self.n_in += samples.len() as u64;
        self.resample(self.n_in as i64 - self.half as i64, out);
    }

    /// Adds the last samples to `out`, as if silence followed: as many in all as the sound is long.
    pub fn finish(&mut self, out: &mut Vec<f32>) {
        self.samples.resize(self.samples.len() + self.half, 0.0);
        self.resample(self.n_in as i64, out);
    }

    /// Those that lie before sample `end`.
    fn resample(&mut self, end: i64, out: &mut Vec<f32>) {
        loop {
            let at = self.n_out * self.down;
            let (before, rest) = ((at / self.up) as i64, at % self.up);
            if before >= end {
                break;
            }
            let n_taps = 2 * self.half;
            let window = &self.samples[(before - self.half as i64 + 1 - self.first) as usize..][..n_taps];
            let place = rest * self.n_phases;
            let (phase, share) = (place / self.up, (place % self.up) as f64 / self.up as f64);
            let weights = &self.weights[phase as usize * n_taps..];
            let mut sample = sum(window, weights);
            if share > 0.0 {
                sample += share * (sum(window, &weights[n_taps..]) - sample);
            }
            out.push(sample as f32);
            self.n_out += 1;
        }
        let next = (self.n_out * self.down / self.up) as i64 - self.half as i64 + 1;
        let n_gone = ((next - self.first).max(0) as usize).min(self.samples.len());
        self.samples.drain(..n_gone);
        self.first += n_gone as i64;
    }
}

/// Products of as many as there are samples, summed in four parts, which the processor does at once.
fn sum(samples: &[f32], weights: &[f32]) -> f64 {
    let mut sums = [0.0; 4];
    for (samples, weights) in samples.as_chunks::<4>().0.iter().zip(weights.as_chunks::<4>().0) {
        for (sum, (x, weight)) in sums.iter_mut().zip(samples.iter().zip(weights)) {
            *sum += f64::from(*x) * f64::from(*weight);
        }
    }
    let n_rest = samples.len() % 4;
    let rest = samples.iter().zip(weights).skip(samples.len() - n_rest);
    sums.iter().sum::<f64>() + rest.map(|(x, weight)| f64::from(*x) * f64::from(*weight)).sum::<f64>()
}

/// The modified Bessel function of the first kind and order 0, by its series.
fn bessel(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..100 {
        term *= quarter / f64::from(k * k);
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resample(from: u32, to: u32, samples: &[f32], piece_len: usize) -> Vec<f32> {
        let (mut resampler, mut out) = (Resampler::new(from, to), Vec::new());
        samples.chunks(piece_len).for_each(|piece| resampler.push(piece, &mut out));
        resampler.finish(&mut out);
        out
    }

    fn tone(rate: u32, hertz: f64, n: usize) -> Vec<f32> {
        (0..n).map(|i| (0.5 * (2.0 * PI * hertz * i as f64 / f64::from(rate)).sin()) as f32).collect()
    }

    #[test]
    fn a_sound_is_as_long_as_before_and_cut_as_one_likes() {
        for (from, to) in
            [(44_100, 16_000), (8000, 16_000), (16_000, 16_000), (44_056, 16_000), (11_025, 8000)]
        {
            for n in [0, 1, 5, 4000] {
                let samples = tone(from, 700.0, n);
                let whole = resample(from, to, &samples, n.max(1));
                assert_eq!(whole.len(), (n * to as usize).div_ceil(from as usize), "{from} to {to}");
                assert_eq!(resample(from, to, &samples, 7), whole);
            }
        }
        let same = tone(16_000, 1000.0, 2000);
        let out = resample(16_000, 16_000, &same, 100);
        let far = same.iter().zip(&out).skip(100).take(1800).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "{far}");
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_gone() {
        for from in [44_100, 48_000, 32_000, 96_001] {
            let out = resample(from, 16_000, &tone(from, 8100.0, from as usize / 5), 1000);
            let loudest = out[200..out.len() - 200].iter().map(|x| x.abs()).fold(0.0, f32::max);
            assert!(loudest < 1e-5, "{from}: {loudest}");
            let out = resample(from, 16_000, &tone(from, 7200.0, from as usize / 5), 1000);
            let expected = tone(16_000, 7200.0, out.len());
            let far = out.iter().zip(&expected).skip(200).take(2800).map(|(a, b)| (a - b).abs());
            let far = far.fold(0.0, f32::max);
            assert!(far < 1e-4, "{from}: {far}");
        }
    }
}
