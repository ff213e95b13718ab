//! From samples to what networks were trained on: energies in bands as the ear has them, on a logarithmic scale.
//!
//! Two recipes are of the MLPerf Tiny benchmark (github.com/mlcommons/tiny, `benchmark/training`, `get_dataset.py` of
//! `streaming_wakeword` and of `keyword_spotting`), in double precision: the logarithm of a quiet band is as exact as that
//! of a loud one, and it is little beside the network's work. The third is TensorFlow Lite Micro's, to the bit (`micro.rs`).

use std::f64::consts::{PI, TAU};

use super::fft::Fft;
use super::micro::{self, MicroFrontend};

/// Samples per second that all recipes want.
const SAMPLE_RATE: u32 = 16_000;
/// Bands of all recipes.
pub(super) const N_BANDS: usize = 40;

/// How a network wants its sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Forty energies in decibels, 0 to 1, each 32 ms: MLPerf Tiny's streaming wake word.
    WakeWord,
    /// Ten cepstral coefficients each 20 ms, of a second that is scaled to a peak of 1: its keyword spotting.
    Keywords,
    /// Forty energies each 20 ms without steady noise and evened out, logarithms of 0 to 26: TensorFlow Lite Micro's
    /// `micro_speech`, in whole numbers.
    MicroSpeech,
}

impl Recipe {
    /// All of them.
    pub const ALL: [Recipe; 3] = [Recipe::WakeWord, Recipe::Keywords, Recipe::MicroSpeech];

    /// The recipe by which a network with inputs of this shape was probably trained: frames by features, or all of them
    /// in a row.
    pub fn of_shape(shape: &[usize]) -> Option<Recipe> {
        let dims: Vec<usize> = shape.iter().copied().filter(|dim| *dim != 1).collect();
        Recipe::ALL.into_iter().find(|recipe| {
            let (n_frames, n_features) = (recipe.n_frames(), recipe.n_features());
            dims == [n_frames, n_features] || dims == [n_frames * n_features]
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
            Recipe::MicroSpeech => micro::FRAME_LEN,
        }
    }

    /// Samples from one frame to the next.
    pub fn stride(self) -> usize {
        match self {
            Recipe::WakeWord => 512,
            Recipe::Keywords | Recipe::MicroSpeech => 320,
        }
    }

    /// Numbers for each frame.
    pub fn n_features(self) -> usize {
        match self {
            Recipe::WakeWord | Recipe::MicroSpeech => N_BANDS,
            Recipe::Keywords => 10,
        }
    }

    /// Frames that a network sees at once.
    pub fn n_frames(self) -> usize {
        match self {
            Recipe::WakeWord => 30,
            Recipe::Keywords | Recipe::MicroSpeech => 49,
        }
    }

    /// Samples that these frames reach over.
    pub fn clip_len(self) -> usize {
        (self.n_frames() - 1) * self.stride() + self.frame_len()
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
    front_end: FrontEnd,
}

#[derive(Clone, Debug)]
enum FrontEnd {
    Exact(Exact),
    Micro(Box<MicroFrontend>),
}

/// In double precision.
#[derive(Clone, Debug)]
struct Exact {
    /// Of each sample, the share of the one before is taken away.
    preemphasis: f64,
    /// `[frame_len]`
    window: Vec<f64>,
    fft: Fft,
    bands: Vec<Band>,
    /// `[n_features][N_BANDS]` of the cosine transform; without one, energies are told in decibels.
    cosines: Vec<f64>,
    /// Of the bins of one frame.
    spectrum: Vec<f64>,
}

impl Features {
    /// By this recipe.
    pub fn new(recipe: Recipe) -> Features {
        let len = recipe.frame_len() as f64;
        let front_end = match recipe {
            // Hamming's window reaches its ends; Hann's is periodic.
            Recipe::WakeWord => FrontEnd::Exact(Exact::new(
                1.0 - 1.0 / 32.0,
                (0..recipe.frame_len()).map(|i| 0.54 - 0.46 * (TAU * i as f64 / (len - 1.0)).cos()).collect(),
                (0.0, 8000.0),
                0,
            )),
            Recipe::Keywords => FrontEnd::Exact(Exact::new(
                0.0,
                (0..recipe.frame_len()).map(|i| 0.5 - 0.5 * (TAU * i as f64 / len).cos()).collect(),
                (20.0, 4000.0),
                recipe.n_features(),
            )),
            Recipe::MicroSpeech => FrontEnd::Micro(Box::new(MicroFrontend::new())),
        };
        Features { recipe, front_end }
    }

    /// Features of `samples`, `[frame_len]`, each multiplied by `scale`; `before` is the sample before them, 0 at the
    /// beginning. `out` is `[n_features]`. What [`Recipe::MicroSpeech`] takes for noise, it learns from the frames before.
    ///
    /// # Panics
    /// If lengths are others.
    pub fn frame(&mut self, before: f32, samples: &[f32], scale: f64, out: &mut [f32]) {
        assert!(samples.len() == self.recipe.frame_len() && out.len() == self.recipe.n_features());
        match &mut self.front_end {
            FrontEnd::Exact(exact) => exact.frame(before, samples, scale, out),
            FrontEnd::Micro(micro) => {
                let whole = |x: &f32| (scale * f64::from(*x) * 32768.0).round() as i16;
                for (out, feature) in out.iter_mut().zip(micro.frame(samples.iter().map(whole))) {
                    *out = f32::from(feature) / MICRO_UNITS;
                }
            }
        }
    }
}

/// Whole-number features of micro_speech in one of those that its network was trained on.
const MICRO_UNITS: f32 = 25.6;

/// Of bytes that hold 0 to 26 in 256 levels.
pub(super) const MICRO_SPEECH_SCALE: f32 = 26.0 / 256.0;

/// A feature of [`Recipe::MicroSpeech`] as such a byte, rounded as TensorFlow Lite Micro's front end rounds, which is not
/// quite how the network's own scale would.
pub(super) fn micro_speech_byte(feature: f32) -> i8 {
    let feature = (feature * MICRO_UNITS).round() as i32;
    let steps = (26.0 * MICRO_UNITS).round() as i32;
    ((feature * 256 + steps / 2) / steps - 128).clamp(-128, 127) as i8
}

impl Exact {
    fn new(preemphasis: f64, window: Vec<f64>, edges: (f64, f64), n_cosines: usize) -> Exact {
        let fft_len = window.len().next_power_of_two();
        let n = N_BANDS as f64;
        let cosine = |i: usize| {
            let (k, band) = ((i / N_BANDS) as f64, (i % N_BANDS) as f64);
            2.0 * (PI / n * (band + 0.5) * k).cos() / (2.0 * n).sqrt()
        };
        Exact {
            preemphasis,
            window,
            fft: Fft::new(fft_len),
            bands: bands(fft_len / 2 + 1, f64::from(SAMPLE_RATE) / 2.0, edges),
            cosines: (0..n_cosines * N_BANDS).map(cosine).collect(),
            spectrum: Vec::with_capacity(fft_len / 2 + 1),
        }
    }

    fn frame(&mut self, before: f32, samples: &[f32], scale: f64, out: &mut [f32]) {
        let Exact { preemphasis, window, fft, bands, cosines, spectrum } = self;
        let befores = std::iter::once(&before).chain(samples);
        let emphasised = samples.iter().zip(befores).zip(&*window).map(|((x, before), window)| {
            scale * (f64::from(*x) - *preemphasis * f64::from(*before)) * window
        });
        spectrum.clear();
        if cosines.is_empty() {
            let n = samples.len() as f64;
            spectrum.extend(fft.power(emphasised).map(|power| (power / n).max(1e-30)));
            for (out, band) in out.iter_mut().zip(bands) {
                let decibels = 10.0 * energy(spectrum, band).log10();
                *out = ((decibels + 52.0) / 64.0).clamp(0.0, 1.0) as f32;
            }
            return;
        }
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

pub(super) fn energy(spectrum: &[f64], band: &Band) -> f64 {
    spectrum[band.first..].iter().zip(&band.weights).map(|(bin, weight)| bin * weight).sum()
}
