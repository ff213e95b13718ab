//! A network that listens: a window slides over the sound, and what the network says of it becomes events.

use super::features::{MICRO_SPEECH_SCALE, micro_speech_byte};
use super::{Features, Recipe};
use crate::anomaly::{Alarm, Change};
use crate::error::Error;
use crate::network::Network;

/// When a class counts as heard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Smoothing {
    /// Answers that are averaged: one alone may be chance.
    pub n_answers: usize,
    /// Mean probability at which a class is heard.
    pub on: f32,
    /// Below it, for as many answers, it is over, and may be heard again.
    pub off: f32,
}

impl Default for Smoothing {
    fn default() -> Smoothing {
        Smoothing { n_answers: 4, on: 0.7, off: 0.5 }
    }
}

/// A class that was heard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heard {
    /// Seconds from the beginning to the end of the window that decided.
    pub time_s: f64,
    /// Its number.
    pub class: usize,
    /// Mean probability of the last answers.
    pub probability: f32,
}

/// Runs a network on sound as it comes.
#[derive(Debug)]
pub struct Listener {
    network: Network,
    recipe: Recipe,
    /// Whether the network takes bytes as TensorFlow Lite Micro's front end makes them.
    is_micro_speech: bool,
    features: Features,
    smoothing: Smoothing,
    /// The last samples: one before the oldest frame that is still needed, and all after it.
    samples: Vec<f32>,
    /// Samples that were there before these.
    n_gone: u64,
    /// `[n_frames, n_features]`, oldest first.
    input: Vec<f32>,
    n_frames: usize,
    /// `[n_answers, n_classes]`, the last answers in a ring.
    answers: Vec<f32>,
    n_answers: usize,
    /// For each class.
    alarms: Vec<Alarm>,
}

/// Strides between two answers of a network whose window is scaled as a whole, so that all its frames change.
const STRIDES_OF_WHOLE: usize = 5;

impl Listener {
    /// With a network of one input and one output.
    ///
    /// # Errors
    /// If the network has more of them, or another input than any recipe gives.
    ///
    /// # Panics
    /// If the smoothing is over no answers, or `off` is above `on`.
    pub fn new(network: Network, smoothing: Smoothing) -> Result<Listener, Error> {
        let ([input], [output]) = (network.inputs(), network.outputs()) else {
            return Err(Error::unsupported("the network", "more than one input or output"));
        };
        let recipe = Recipe::of_shape(&input.shape).ok_or_else(|| {
            let shapes = Recipe::ALL.map(|r| format!("{} x {}", r.n_frames(), r.n_features()));
            let what =
                format!("an input of shape {:?}: sound is turned into {}", input.shape, shapes.join(" or "));
            Error::unsupported("the network", what)
        })?;
        assert!(smoothing.n_answers > 0);
        let n_classes = output.n_elements();
        let has_its_scale =
            |(scale, zero): (f32, i32)| zero == -128 && (scale / MICRO_SPEECH_SCALE - 1.0).abs() < 0.01;
        let is_micro_speech = recipe == Recipe::MicroSpeech && input.quantization.is_some_and(has_its_scale);
        let (on, off) = (f64::from(smoothing.on), f64::from(smoothing.off));
        Ok(Listener {
            recipe,
            is_micro_speech,
            features: Features::new(recipe),
            samples: vec![0.0],
            n_gone: 0,
            input: vec![0.0; recipe.n_frames() * recipe.n_features()],
            n_frames: 0,
            answers: vec![0.0; smoothing.n_answers * n_classes],
            n_answers: 0,
            alarms: vec![Alarm::new(on, off, smoothing.n_answers); n_classes],
            network,
            smoothing,
        })
    }

    /// How the network wants its sound.
    pub fn recipe(&self) -> Recipe {
        self.recipe
    }

    /// Classes that the network tells apart.
    pub fn n_classes(&self) -> usize {
        self.alarms.len()
    }

    /// Takes the next samples, -1 to 1, and calls `on_heard` for each class that is heard in them.
    ///
    /// # Errors
    /// If a sample is no number.
    pub fn push(&mut self, samples: &[f32], mut on_heard: impl FnMut(Heard)) -> Result<(), Error> {
        if let Some(at) = samples.iter().position(|sample| !sample.is_finite()) {
            return Err(Error::Mismatch { what: format!("sample {at} is not a number") });
        }
        self.samples.extend_from_slice(samples);
        let (n_wanted, n_moved) = match self.recipe {
            Recipe::WakeWord | Recipe::MicroSpeech => (self.recipe.frame_len(), self.recipe.stride()),
            Recipe::Keywords => (self.recipe.clip_len(), STRIDES_OF_WHOLE * self.recipe.stride()),
        };
        let mut first = 0;
        while self.samples.len() - first > n_wanted {
            let is_full = match self.recipe {
                Recipe::WakeWord | Recipe::MicroSpeech => self.take_frame(first),
                Recipe::Keywords => self.take_clip(first),
            };
            if is_full {
                let end = self.n_gone + (first + n_wanted) as u64;
                self.answer(end as f64 / f64::from(self.recipe.sample_rate()), &mut on_heard)?;
            }
            first += n_moved;
        }
        self.samples.drain(..first);
        self.n_gone += first as u64;
        Ok(())
    }

    /// Says that the sound is over, and calls `on_heard` for what only its end decides: a recording with fewer answers than
    /// are averaged is judged by those that it has, and one shorter than a window is followed by silence.
    ///
    /// # Errors
    /// None but those of [`Listener::push`].
    pub fn finish(&mut self, mut on_heard: impl FnMut(Heard)) -> Result<(), Error> {
        let n_heard = self.n_gone as usize + self.samples.len() - 1;
        if self.n_answers == 0 && n_heard > 0 {
            self.push(&vec![0.0; self.recipe.clip_len().saturating_sub(n_heard)], &mut on_heard)?;
        }
        let n_answers = self.n_answers;
        if n_answers == 0 || n_answers >= self.smoothing.n_answers {
            return Ok(());
        }
        let n_samples = self.n_gone + self.samples.len() as u64 - 1;
        let time_s = n_samples as f64 / f64::from(self.recipe.sample_rate());
        self.decide(time_s, n_answers, &mut on_heard);
        Ok(())
    }

    /// Moves the frames by one; whether there are enough.
    fn take_frame(&mut self, first: usize) -> bool {
        let n_features = self.recipe.n_features();
        self.input.rotate_left(n_features);
        let at = self.input.len() - n_features;
        let frame = &self.samples[first..][..self.recipe.frame_len() + 1];
        self.features.frame(frame[0], &frame[1..], 1.0, &mut self.input[at..]);
        self.n_frames += 1;
        self.n_frames >= self.recipe.n_frames()
    }

    /// All frames of a clip, scaled to its largest sample.
    fn take_clip(&mut self, first: usize) -> bool {
        let clip = &self.samples[first..][..self.recipe.clip_len() + 1];
        let peak = clip[1..].iter().copied().fold(0f32, f32::max);
        let scale = if peak > 0.0 { 1.0 / f64::from(peak) } else { 0.0 };
        for (i, out) in self.input.chunks_exact_mut(self.recipe.n_features()).enumerate() {
            let frame = &clip[i * self.recipe.stride()..][..self.recipe.frame_len() + 1];
            self.features.frame(frame[0], &frame[1..], scale, out);
        }
        true
    }

    fn answer(&mut self, time_s: f64, on_heard: &mut impl FnMut(Heard)) -> Result<(), Error> {
        let n_classes = self.alarms.len();
        let slot = self.n_answers % self.smoothing.n_answers;
        if self.is_micro_speech {
            let bytes: Vec<i8> = self.input.iter().map(|feature| micro_speech_byte(*feature)).collect();
            self.network.set_input_bytes(0, &bytes)?;
        } else {
            self.network.set_input(0, &self.input)?;
        }
        self.network.run();
        self.network.output(0, &mut self.answers[slot * n_classes..][..n_classes])?;
        self.n_answers += 1;
        // Before there are enough answers, those that are missing count as 0.
        self.decide(time_s, self.smoothing.n_answers, on_heard);
        Ok(())
    }

    /// By the mean of the last answers, of which there are `n_answers`.
    fn decide(&mut self, time_s: f64, n_answers: usize, on_heard: &mut impl FnMut(Heard)) {
        let n_classes = self.alarms.len();
        for (class, alarm) in self.alarms.iter_mut().enumerate() {
            let sum: f32 = self.answers.iter().skip(class).step_by(n_classes).sum();
            let probability = sum / n_answers as f32;
            if alarm.update(f64::from(probability)) == Change::Raised {
                on_heard(Heard { time_s, class, probability });
            }
        }
    }
}
