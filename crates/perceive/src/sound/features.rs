//! From samples to what networks were trained on: energies in bands as the ear has them, on a logarithmic scale.
//!
//! Two recipes, both of the MLPerf Tiny benchmark (github.com/mlcommons/tiny, `benchmark/training`, `get_dataset.py` of
//! `streaming_wakeword` and of `keyword_spotting`). All in double precision: the logarithm of a quiet band is as exact as
//! that of a loud one, and it is little beside the network's work.

use std::f64::consts::{PI, TAU};

use super::fft::Fft;

/// Samples per second that both recipes want.
const SAMPLE_RATE: u32 = 16_000;
/// Bands of both recipes.
pub(super) const N_BANDS: usize = 40;

/// How a network wants its sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Forty energies in decibels, 0 to 1, each 32 ms: MLPerf Tiny's streaming wake word.
    WakeWord,
    /// Ten cepstral coefficients each 20 ms, of a second that is scaled to a peak of 1: its keyword spotting.
    Keywords,
}

impl Recipe {
    /// The recipe by which a network with inputs of this shape was probably trained.
    pub fn of_shape(shape: &[usize]) -> Option<Recipe> {
        [Recipe::WakeWord, Recipe::Keywords].into_iter().find(|recipe| {
            let dims: Vec<usize> = shape.iter().copied().filter(|dim| *dim != 1).collect();
            dims == [recipe.n_frames(), recipe.n_features()]
        })
    }

    /// Samples per second.
    pub fn sample_rate(self) -> u32 {
        SAMPLE_RATE
    }

    /// Samples of a frame.
    pub fn frame_len(self) -> usize {
        match self {
            Recipe::WakeWord => 1024,
            Recipe::Keywords => 480,
        }
    }

    /// Samples from one frame to the next.
    pub fn stride(self) -> usize {
        match self {
            Recipe::WakeWord => 512,
            Recipe::Keywords => 320,
        }
    }

    /// Numbers for each frame.
    pub fn n_features(self) -> usize {
        match self {
            Recipe::WakeWord => N_BANDS,
            Recipe::Keywords => 10,
        }
    }

    /// Frames that a network sees at once.
    pub fn n_frames(self) -> usize {
        match self {
            Recipe::WakeWord => 30,
            Recipe::Keywords => 49,
        }
    }

    /// Samples that these frames reach over.
    pub fn clip_len(self) -> usize {
        (self.n_frames() - 1) * self.stride() + self.frame_len()
    }

    /// Of each sample, the share of the one before is taken away.
    fn preemphasis(self) -> f64 {
        match self {
            Recipe::WakeWord => 1.0 - 1.0 / 32.0,
            Recipe::Keywords => 0.0,
        }
    }

    /// `[frame_len]`. Hamming's window reaches its ends; Hann's is periodic.
    fn window(self) -> Vec<f64> {
        let n = self.frame_len() as f64;
        let value = |i: usize| match self {
            Recipe::WakeWord => 0.54 - 0.46 * (TAU * i as f64 / (n - 1.0)).cos(),
            Recipe::Keywords => 0.5 - 0.5 * (TAU * i as f64 / n).cos(),
        };
        (0..self.frame_len()).map(value).collect()
    }

    /// Hertz of the lowest band's lower edge and of the highest band's upper one.
    fn edges(self) -> (f64, f64) {
        match self {
            Recipe::WakeWord => (0.0, 8000.0),
            Recipe::Keywords => (20.0, 4000.0),
        }
    }
}

/// A band: a triangle over neighbouring bins.
#[derive(Clone, Debug)]
pub(super) struct Band {
    first: usize,
    weights: Vec<f64>,
}

/// HTK's scale of pitch.
fn mel(hertz: f64) -> f64 {
    1127.0 * (hertz / 700.0).ln_1p()
}

/// Triangles on the mel scale, as TensorFlow's `linear_to_mel_weight_matrix` makes them: bin 0 is in none.
pub(super) fn bands(n_bins: usize, nyquist: f64, (low, high): (f64, f64)) -> Vec<Band> {
    let edge = |i: usize| mel(low) + (mel(high) - mel(low)) * i as f64 / (N_BANDS + 1) as f64;
    let pitch = |bin: usize| mel(nyquist * bin as f64 / (n_bins - 1) as f64);
    let band = |i: usize| {
        let [lower, center, upper] = [edge(i), edge(i + 1), edge(i + 2)];
        let weight = |bin: usize| {
            let pitch = pitch(bin);
            ((pitch - lower) / (center - lower)).min((upper - pitch) / (upper - center))
        };
        let first = (1..n_bins).find(|bin| weight(*bin) > 0.0).unwrap_or(n_bins);
        Band { first, weights: (first..n_bins).map(weight).take_while(|weight| *weight > 0.0).collect() }
    };
    (0..N_BANDS).map(band).collect()
}

/// Computes the features of frames.
#[derive(Clone, Debug)]
pub struct Features {
    recipe: Recipe,
    window: Vec<f64>,
    fft: Fft,
    bands: Vec<Band>,
    /// `[n_features][N_BANDS]` of the cosine transform, where there is one.
    cosines: Vec<f64>,
    /// Of the bins of one frame.
    spectrum: Vec<f64>,
}

impl Features {
    /// By this recipe.
    pub fn new(recipe: Recipe) -> Features {
        let fft_len = recipe.frame_len().next_power_of_two();
        let cosines = match recipe {
            Recipe::WakeWord => Vec::new(),
            Recipe::Keywords => {
                let n = N_BANDS as f64;
                let cosine = |i: usize| {
                    let (k, band) = ((i / N_BANDS) as f64, (i % N_BANDS) as f64);
                    2.0 * (PI / n * (band + 0.5) * k).cos() / (2.0 * n).sqrt()
                };
                (0..recipe.n_features() * N_BANDS).map(cosine).collect()
            }
        };
        Features {
            recipe,
            window: recipe.window(),
            fft: Fft::new(fft_len),
            bands: bands(fft_len / 2 + 1, f64::from(SAMPLE_RATE) / 2.0, recipe.edges()),
            cosines,
            spectrum: Vec::with_capacity(fft_len / 2 + 1),
        }
    }

    /// Features of `samples`, `[frame_len]`, each multiplied by `scale`; `before` is the sample before them, 0 at the
    /// beginning. `out` is `[n_features]`.
    ///
    /// # Panics
    /// If lengths are others.
    pub fn frame(&mut self, before: f32, samples: &[f32], scale: f64, out: &mut [f32]) {
        let Features { recipe, window, fft, bands, cosines, spectrum } = self;
        assert!(samples.len() == recipe.frame_len() && out.len() == recipe.n_features());
        let preemphasis = recipe.preemphasis();
        let befores = std::iter::once(&before).chain(samples);
        let emphasised =
            samples.iter().zip(befores).zip(&*window).map(|((x, before), window)| {
                scale * (f64::from(*x) - preemphasis * f64::from(*before)) * window
            });
        spectrum.clear();
        match recipe {
            Recipe::WakeWord => {
                let n = samples.len() as f64;
                spectrum.extend(fft.power(emphasised).map(|power| (power / n).max(1e-30)));
                for (out, band) in out.iter_mut().zip(bands) {
                    let decibels = 10.0 * energy(spectrum, band).log10();
                    *out = ((decibels + 52.0) / 64.0).clamp(0.0, 1.0) as f32;
                }
            }
            Recipe::Keywords => {
                spectrum.extend(fft.power(emphasised).map(f64::sqrt));
                let mut logs = [0.0; N_BANDS];
                for (log, band) in logs.iter_mut().zip(bands) {
                    *log = (energy(spectrum, band) + 1e-6).ln();
                }
                for (out, cosines) in out.iter_mut().zip(cosines.chunks_exact(N_BANDS)) {
                    *out = logs.iter().zip(cosines).map(|(log, cosine)| log * cosine).sum::<f64>() as f32;
                }
            }
        }
    }
}

pub(super) fn energy(spectrum: &[f64], band: &Band) -> f64 {
    spectrum[band.first..].iter().zip(&band.weights).map(|(bin, weight)| bin * weight).sum()
}
