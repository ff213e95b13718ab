//! A short recording as a whole, as numbers for a learner: how its timbre changes from beginning to end.
//!
//! Mel-frequency cepstral coefficients (Davis and Mermelstein 1980) of frames of 25 ms each 10 ms, from the first frame to
//! the last that is not silent, averaged over eight parts of equal length: a slow word and a quick one look alike then.
//! How loud it is counts only from part to part. Bands end at 4 kHz, so that recordings of 8,000 samples a second and of
//! more give the same.

use std::f64::consts::PI;

use super::features::{Band, N_BANDS, bands, energy};
use super::fft::Fft;

/// Milliseconds of a frame, and from one to the next.
const FRAME_MS: (usize, usize) = (25, 10);
/// Cepstral coefficients.
const N_COEFFICIENTS: usize = 13;
/// Parts of a recording.
const N_PARTS: usize = 8;
/// Hertz of the lowest band's lower edge and the highest band's upper one.
const EDGES: (f64, f64) = (20.0, 4000.0);
/// Decibels below the loudest frame at which a frame is silent.
const SILENT: f64 = 25.0;
/// Least energy of a band and of a frame: the logarithm of nothing has no end.
const FLOOR: f64 = 1e-10;

/// Makes numbers of recordings with one sample rate.
#[derive(Clone, Debug)]
pub struct Clip {
    frame_len: usize,
    stride: usize,
    window: Vec<f64>,
    fft: Fft,
    bands: Vec<Band>,
    /// Of the cosine transform, for each coefficient.
    cosines: [[f64; N_BANDS]; N_COEFFICIENTS],
}

impl Clip {
    /// Numbers of a recording.
    pub const N_FEATURES: usize = N_PARTS * N_COEFFICIENTS + 1;
    /// Bands of its spectrum.
    pub const N_BANDS: usize = N_BANDS;
    /// Fewer samples a second lack the upper bands.
    pub const MIN_SAMPLE_RATE: u32 = 8000;
    /// Seconds of the longest recording: a learner hears it as one thing.
    pub const MAX_SECONDS: u32 = 60;

    /// For recordings of `sample_rate` samples a second; `None` if these are too few.
    pub fn new(sample_rate: u32) -> Option<Clip> {
        if sample_rate < Clip::MIN_SAMPLE_RATE {
            return None;
        }
        let [frame_len, stride] = [FRAME_MS.0, FRAME_MS.1].map(|ms| sample_rate as usize * ms / 1000);
        let fft_len = frame_len.next_power_of_two();
        let cosine = |k: usize, i: usize| (PI / N_BANDS as f64 * (i as f64 + 0.5) * k as f64).cos();
        let value = |i: usize| 0.5 - 0.5 * (2.0 * PI * i as f64 / (frame_len - 1) as f64).cos();
        Some(Clip {
            frame_len,
            stride,
            window: (0..frame_len).map(value).collect(),
            fft: Fft::new(fft_len),
            bands: bands(fft_len / 2 + 1, f64::from(sample_rate) / 2.0, EDGES),
            cosines: std::array::from_fn(|k| std::array::from_fn(|i| cosine(k, i))),
        })
    }

    /// Of all its samples, -1 to 1; a recording shorter than a frame is filled up with silence.
    pub fn features(&mut self, samples: &[f32]) -> [f64; Clip::N_FEATURES] {
        self.features_of(samples, |_| ())
    }

    /// Of samples whose spectrum is changed before: logarithms of `[n_frames, N_BANDS]` energies.
    pub fn features_of(
        &mut self,
        samples: &[f32],
        change: impl FnOnce(&mut [f64]),
    ) -> [f64; Clip::N_FEATURES] {
        let n_frames = samples.len().saturating_sub(self.frame_len) / self.stride + 1;
        let mut logs: Vec<f64> = Vec::with_capacity(n_frames * N_BANDS);
        let mut loudness = Vec::with_capacity(n_frames);
        for i in 0..n_frames {
            let frame = samples[i * self.stride..].iter().take(self.frame_len).map(|x| f64::from(*x));
            let spectrum: Vec<f64> = self.fft.power(frame.zip(&self.window).map(|(x, w)| x * w)).collect();
            loudness.push(10.0 * (spectrum.iter().sum::<f64>() + FLOOR).log10());
            logs.extend(self.bands.iter().map(|band| (energy(&spectrum, band) + FLOOR).ln()));
        }
        let loudest = loudness.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let is_loud = |frame: &f64| *frame > loudest - SILENT;
        let first = loudness.iter().position(is_loud).unwrap_or(0);
        let last = loudness.iter().rposition(is_loud).unwrap_or(n_frames - 1);
        let logs = &mut logs[first * N_BANDS..(last + 1) * N_BANDS];
        change(logs);
        let coefficients =
            |logs: &[f64]| std::array::from_fn(|k| cosine(logs, &self.cosines[k]) * orthonormal(k));
        let frames: Vec<[f64; N_COEFFICIENTS]> = logs.chunks_exact(N_BANDS).map(coefficients).collect();
        let mut features = [0.0; Clip::N_FEATURES];
        let (parts, rest) = features.as_chunks_mut::<N_COEFFICIENTS>();
        for (i, part) in parts.iter_mut().enumerate() {
            // Of fewer frames than parts, some count more than once.
            let from = i * frames.len() / N_PARTS;
            let to = ((i + 1) * frames.len()).div_ceil(N_PARTS).max(from + 1);
            let of_part = &frames[from..to];
            for (k, mean) in part.iter_mut().enumerate() {
                *mean = of_part.iter().map(|frame| frame[k]).sum::<f64>() / of_part.len() as f64;
            }
        }
        // The first coefficient is loudness: only its course counts.
        let mean = parts.iter().map(|part| part[0]).sum::<f64>() / N_PARTS as f64;
        parts.iter_mut().for_each(|part| part[0] -= mean);
        rest[0] = (frames.len() as f64).ln();
        features
    }
}

fn cosine(logs: &[f64], cosines: &[f64; N_BANDS]) -> f64 {
    logs.iter().zip(cosines).map(|(x, cosine)| x * cosine).sum()
}

/// What makes coefficient `k` of the cosine transform that of the orthonormal one.
fn orthonormal(k: usize) -> f64 {
    let n = N_BANDS as f64;
    if k == 0 { (1.0 / n).sqrt() } else { (2.0 / n).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tone, and a little noise.
    fn tone(sample_rate: u32, hertz: f64, seconds: f64) -> Vec<f32> {
        let n = (f64::from(sample_rate) * seconds) as usize;
        let mut state = 3;
        let mut noise =
            || (crate::learner::folds::split_mix(&mut state) >> 40) as f64 / f64::from(1 << 24) - 0.5;
        let angle = |i: usize| 2.0 * PI * hertz * i as f64 / f64::from(sample_rate);
        (0..n).map(|i| (0.3 * angle(i).sin() + 0.02 * noise()) as f32).collect()
    }

    #[test]
    fn loudness_and_silence_around_change_nothing() {
        let mut clip = Clip::new(8000).unwrap();
        let word = [tone(8000, 400.0, 0.3), tone(8000, 1500.0, 0.2)].concat();
        let features = clip.features(&word);
        let quiet: Vec<f32> = word.iter().map(|x| x * 0.25).collect();
        let padded = [vec![0.0; 800], word.clone(), vec![0.0; 1600]].concat();
        for (other, tolerance) in [(quiet, 1e-3), (padded, 4.0)] {
            let other = clip.features(&other);
            let far = features.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(far < tolerance, "{far}");
        }
        let other = clip.features(&[tone(8000, 1500.0, 0.2), tone(8000, 400.0, 0.3)].concat());
        let far = features.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far > 8.0, "{far}");
    }

    #[test]
    fn whatever_is_recorded_gives_numbers() {
        assert!(Clip::new(4000).is_none());
        let mut clip = Clip::new(44_100).unwrap();
        for samples in [vec![], vec![0.0; 10], vec![0.5; 1103], vec![0.0; 5000], tone(44_100, 3000.0, 0.1)] {
            assert!(clip.features(&samples).iter().all(|x| x.is_finite()));
        }
    }
}
