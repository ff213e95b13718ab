//! Recordings, changed as another recording of the same sound would be.

use std::ops::Range;

use super::Chance;

/// Samples that are quieter than this share of the loudest are silence, and may be lost.
const SILENT: f32 = 0.03;

/// How far a recording is changed; 0 is not at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sounds {
    /// Share of its length by which it may move, but no further than the silence around it allows.
    pub shift: f64,
    /// Noise that may be added, of the recording's own effective value.
    pub noise: f64,
}

impl Default for Sounds {
    fn default() -> Sounds {
        Sounds { shift: 0.2, noise: 0.1 }
    }
}

impl Sounds {
    /// Another recording of the same, as long as before, and by how many samples it was moved.
    pub fn augment(&self, samples: &[f32], chance: &mut Chance) -> (Vec<f32>, isize) {
        let peak = samples.iter().map(|x| x.abs()).fold(0.0, f32::max);
        let is_loud = |x: &f32| x.abs() > SILENT * peak;
        let before = samples.iter().position(is_loud).unwrap_or(samples.len());
        let after = samples.len() - samples.iter().rposition(is_loud).map_or(0, |last| last + 1);
        let most = (samples.len() as f64 * self.shift) as usize;
        let (earlier, later) = (before.min(most), after.min(most));
        let by = chance.below(earlier + later + 1) as isize - earlier as isize;
        let mut moved = shift(samples, by);
        if self.noise > 0.0 && !samples.is_empty() {
            let power = samples.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / samples.len() as f64;
            let deviation = power.sqrt() * chance.between(0.0, self.noise);
            moved.iter_mut().for_each(|x| *x += (deviation * chance.normal()) as f32);
        }
        (moved, by)
    }
}

/// Moves samples by `by` places, to the back if it is positive; silence comes in, and what leaves is gone.
pub fn shift(samples: &[f32], by: isize) -> Vec<f32> {
    let at = |i: usize| i.checked_add_signed(-by).and_then(|from| samples.get(from)).copied().unwrap_or(0.0);
    (0..samples.len()).map(at).collect()
}

/// What of a spectrum is hidden.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masks {
    /// Runs of frames, and the largest share of all frames in each.
    pub of_frames: (usize, f64),
    /// Runs of bands, and the largest share of all bands in each.
    pub of_bands: (usize, f64),
}

impl Default for Masks {
    fn default() -> Masks {
        Masks { of_frames: (1, 0.15), of_bands: (1, 0.15) }
    }
}

/// Runs that were hidden; some may be empty, or overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// Of frames, whose bands are all hidden.
    pub frames: Vec<Range<usize>>,
    /// Of bands, in all frames.
    pub bands: Vec<Range<usize>>,
}

/// Hides runs of frames and of bands of `spectrum`, `[n_frames, n_bands]`, behind each band's mean, and returns the runs.
///
/// # Panics
/// If the spectrum is not of whole frames.
pub fn mask(spectrum: &mut [f64], n_bands: usize, masks: Masks, chance: &mut Chance) -> Hidden {
    assert!(n_bands > 0 && spectrum.len().is_multiple_of(n_bands), "frames are whole");
    let n_frames = spectrum.len() / n_bands;
    let mean =
        |band: usize| spectrum.iter().skip(band).step_by(n_bands).sum::<f64>() / n_frames.max(1) as f64;
    let means: Vec<f64> = (0..n_bands).map(mean).collect();
    let mut runs = |(n_runs, share): (usize, f64), of: usize| -> Vec<Range<usize>> {
        let most = (of as f64 * share.clamp(0.0, 1.0)) as usize;
        let mut run = || {
            let len = chance.below(most + 1);
            let first = chance.below(of - len + 1);
            first..first + len
        };
        (0..n_runs).map(|_| run()).collect()
    };
    let hidden = Hidden { frames: runs(masks.of_frames, n_frames), bands: runs(masks.of_bands, n_bands) };
    for (frame, bands) in spectrum.chunks_exact_mut(n_bands).enumerate() {
        for (band, value) in bands.iter_mut().enumerate() {
            if hidden.hides(frame, band) {
                *value = means[band];
            }
        }
    }
    hidden
}

impl Hidden {
    /// Whether this band of this frame is.
    pub fn hides(&self, frame: usize, band: usize) -> bool {
        let is_in = |runs: &[Range<usize>], i: usize| runs.iter().any(|run| run.contains(&i));
        is_in(&self.frames, frame) || is_in(&self.bands, band)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_word_is_whole_and_where_it_is_said_to_be() {
        let mut chance = Chance::new(1);
        let mut moves = Vec::new();
        for _ in 0..300 {
            let (before, len, after) = (chance.below(400), 1 + chance.below(500), chance.below(400));
            let word: Vec<f32> = (0..len).map(|_| chance.between(-1.0, 1.0) as f32).collect();
            let hum = |n: usize| (0..n).map(|i| if i % 2 == 0 { 0.001 } else { -0.001 });
            let samples: Vec<f32> = hum(before).chain(word.iter().copied()).chain(hum(after)).collect();
            let (out, by) = Sounds { shift: 0.3, noise: 0.0 }.augment(&samples, &mut chance);
            assert_eq!(out.len(), samples.len());
            assert!(by.unsigned_abs() as f64 <= 0.3 * samples.len() as f64);
            for (i, x) in samples.iter().enumerate() {
                match i.checked_add_signed(by).filter(|to| *to < out.len()) {
                    Some(to) => assert_eq!(out[to], *x),
                    None => assert!(x.abs() <= SILENT, "only silence is lost"),
                }
            }
            moves.push(by);
        }
        assert!(moves.iter().any(|by| *by > 50) && moves.iter().any(|by| *by < -50));
        assert_eq!(shift(&[1.0, 2.0, 3.0], 1), [0.0, 1.0, 2.0]);
        assert_eq!(shift(&[1.0, 2.0, 3.0], -5), [0.0; 3]);
    }

    #[test]
    fn a_word_stays_louder_than_its_noise() {
        let mut chance = Chance::new(2);
        for _ in 0..50 {
            let loudness = chance.between(0.01, 0.9);
            let samples: Vec<f32> =
                (0..3000).map(|i| (loudness * (f64::from(i) / 7.0).sin()) as f32).collect();
            let (out, by) = Sounds { shift: 0.0, noise: 0.2 }.augment(&samples, &mut chance);
            assert_eq!(by, 0);
            let power = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
            let noise = power(&mut out.iter().zip(&samples).map(|(a, b)| a - b));
            // A fifth of the effective value at most: 14 dB below, give or take chance.
            assert!(noise <= 0.045 * power(&mut samples.iter().copied()), "{noise}");
        }
        assert!(Sounds::default().augment(&[], &mut chance).0.is_empty());
    }

    #[test]
    fn what_is_not_hidden_is_as_it_was() {
        let mut chance = Chance::new(3);
        for _ in 0..200 {
            let (n_frames, n_bands) = (chance.below(60), 1 + chance.below(50));
            let spectrum: Vec<f64> = (0..n_frames * n_bands).map(|_| chance.normal()).collect();
            let mut out = spectrum.clone();
            let masks = Masks { of_frames: (2, 0.2), of_bands: (2, 0.1) };
            let hidden = mask(&mut out, n_bands, masks, &mut chance);
            // Most of it can be heard, so it is what it was.
            let n_hidden = |runs: &[Range<usize>]| runs.iter().map(|run| run.len()).sum::<usize>();
            assert!(n_hidden(&hidden.frames) as f64 <= 0.4 * n_frames as f64);
            assert!(n_hidden(&hidden.bands) as f64 <= 0.2 * n_bands as f64);
            for (i, (before, after)) in spectrum.iter().zip(&out).enumerate() {
                assert!(before == after || hidden.hides(i / n_bands, i % n_bands));
            }
        }
    }
}
