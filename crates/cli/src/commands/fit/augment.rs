//! More examples to learn from: changed copies of those that there are, and never of those that judge.

use clap::ValueEnum;
use edgeward_perceive::augment::{Chance, Images, Masks, Sounds, mask, mix};
use edgeward_perceive::learner::{Input, Samples, Target};
use edgeward_perceive::sound::Clip;
use edgeward_perceive::vision::Image;

/// Of the beta distribution that mixtures' shares are drawn from (Zhang et al. 2018 have 0.1 to 0.4).
const MIX_ALPHA: f64 = 0.4;
/// Noise of measurements, of their column's standard deviation.
pub(super) const JITTER: f64 = 0.03;
/// How much quicker or slower a series may be somewhere.
pub(super) const WARP: f64 = 0.2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Augmentation {
    /// What suits the examples: of images all but `mix`, of recordings too, of tables `jitter`
    Auto,
    /// Images mirrored, left to right
    Flip,
    /// Images without a part of their edges
    Crop,
    /// Images in other light and colours
    Colour,
    /// Images and recordings with noise
    Noise,
    /// Recordings moved in time, within the silence around them
    Shift,
    /// Recordings without some bands and moments (SpecAugment)
    Mask,
    /// Rows of tables with noise
    Jitter,
    /// Series of tables, somewhere quicker and somewhere slower
    Warp,
    /// Two examples mixed: of one class, or with their numbers mixed too
    Mix,
}

/// What is done to which examples.
pub(super) struct Plan {
    kinds: Vec<Augmentation>,
    pub(super) n_copies: usize,
    seed: u64,
}

impl Plan {
    /// For examples of this kind.
    pub(super) fn new(
        wanted: &[Augmentation],
        n_copies: usize,
        seed: u64,
        input: &Input,
    ) -> Result<Plan, String> {
        use Augmentation::{Auto, Colour, Crop, Flip, Jitter, Mask, Mix, Noise, Shift, Warp};
        let (what, usual, others): (&str, &[_], &[_]) = match input {
            Input::Image => ("images", &[Flip, Crop, Colour, Noise], &[Mix]),
            Input::Sound => ("recordings", &[Shift, Noise, Mask], &[Mix]),
            Input::Table { .. } => ("tables", &[Jitter], &[Warp, Mix]),
        };
        let mut kinds = Vec::new();
        for kind in wanted {
            match kind {
                Auto => kinds.extend(usual),
                kind if usual.contains(kind) || others.contains(kind) => kinds.push(*kind),
                kind => {
                    let fit: Vec<String> = usual.iter().chain(others).map(name).collect();
                    return Err(format!("{} is not for {what}: take {}", name(kind), fit.join(", ")));
                }
            }
        }
        Ok(Plan { kinds, n_copies, seed })
    }

    pub(super) fn has(&self, kind: Augmentation) -> bool {
        self.kinds.contains(&kind)
    }

    /// Copies that are made of the examples themselves, and not of their features.
    pub(super) fn n_changed(&self) -> usize {
        if self.kinds.iter().all(|kind| *kind == Augmentation::Mix) { 0 } else { self.n_copies }
    }

    /// For a copy of an example.
    pub(super) fn chance(&self, example: usize, copy: usize) -> Chance {
        Chance::of_example(self.seed, (example * self.n_copies + copy) as u64)
    }

    pub(super) fn image(&self, image: &Image, chance: &mut Chance) -> Image {
        let usual = Images::default();
        let amount = |kind, amount| if self.has(kind) { amount } else { 0.0 };
        let images = Images {
            flip: self.has(Augmentation::Flip),
            crop: amount(Augmentation::Crop, usual.crop),
            colour: amount(Augmentation::Colour, usual.colour),
            noise: amount(Augmentation::Noise, usual.noise),
        };
        images.augment(image, chance).0
    }

    /// Features of a changed recording.
    pub(super) fn recording(&self, clip: &mut Clip, samples: &[f32], chance: &mut Chance) -> Vec<f64> {
        let usual = Sounds::default();
        let sounds = Sounds {
            shift: if self.has(Augmentation::Shift) { usual.shift } else { 0.0 },
            noise: if self.has(Augmentation::Noise) { usual.noise } else { 0.0 },
        };
        let samples = sounds.augment(samples, chance).0;
        let hide = |spectrum: &mut [f64]| {
            if self.has(Augmentation::Mask) {
                mask(spectrum, Clip::N_BANDS, Masks::default(), chance);
            }
        };
        clip.features_of(&samples, hide).to_vec()
    }

    /// Adds mixtures, if they are wanted.
    pub(super) fn mix(&self, samples: &mut Samples, target: &mut Target, n_examples: usize) {
        if !self.has(Augmentation::Mix) {
            return;
        }
        let mut chance = Chance::of_example(self.seed, u64::MAX);
        let n_known = samples.len();
        let members: Vec<Vec<usize>> = match &*target {
            Target::Numbers(_) => Vec::new(),
            Target::Classes { of, n_classes } => {
                let mut members = vec![Vec::new(); *n_classes];
                of.iter().enumerate().for_each(|(i, class)| members[*class].push(i));
                members
            }
        };
        for _ in 0..n_examples * self.n_copies {
            let a = chance.below(n_known);
            let b = match &*target {
                Target::Numbers(_) => chance.below(n_known),
                Target::Classes { of, .. } => {
                    let members = &members[of[a]];
                    members[chance.below(members.len())]
                }
            };
            let share = chance.beta(MIX_ALPHA);
            let mixed = mix(samples.row(a), samples.row(b), share);
            samples.push(&mixed);
            match target {
                Target::Classes { of, .. } => of.push(of[a]),
                Target::Numbers(of) => of.push(share * of[a] + (1.0 - share) * of[b]),
            }
        }
    }
}

fn name(kind: &Augmentation) -> String {
    kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}
