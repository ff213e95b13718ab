//! Numbers that tell how the last values of a sensor are: what vibration and current are judged by.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::sound::Fft;

/// A number that is made of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// The mean.
    Mean,
    /// The standard deviation.
    Deviation,
    /// The effective value: the root of the mean square.
    Rms,
    /// The largest less the smallest.
    Range,
    /// Change from one value to the next, on the line through all by least squares.
    Slope,
    /// The largest distance from the mean, in standard deviations; 0 if all are equal.
    Crest,
    /// The fourth moment by the square of the second: 3 for a normal distribution, more where there are knocks.
    Kurtosis,
    /// How often it goes through its mean, from value to value: 0 to 1.
    Crossings,
    /// Hertz of the strongest frequency, of values that have an even rate; without one, in cycles from value to value.
    Frequency,
}

/// The last values.
#[derive(Clone, Debug)]
pub struct Features {
    values: VecDeque<f64>,
    capacity: usize,
    rate: f64,
}

impl Features {
    /// Of windows of `capacity` values, of which there are `rate` a second, if that is known.
    ///
    /// # Panics
    /// If the capacity is below 2.
    pub fn new(capacity: usize, rate: Option<f64>) -> Features {
        assert!(capacity >= 2, "one value has no features");
        Features { values: VecDeque::with_capacity(capacity), capacity, rate: rate.unwrap_or(1.0) }
    }

    /// Takes the next value; the oldest goes.
    pub fn push(&mut self, value: f64) {
        if self.values.len() == self.capacity {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// Of the window, once it is full.
    pub fn get(&self, feature: Feature) -> Option<f64> {
        if self.values.len() < self.capacity {
            return None;
        }
        let n = self.capacity as f64;
        let values = || self.values.iter().copied();
        let mean = values().sum::<f64>() / n;
        let moment = |power| values().map(|x| (x - mean).powi(power)).sum::<f64>() / n;
        let ratio = |above: f64, below: f64| if below > 0.0 { above / below } else { 0.0 };
        Some(match feature {
            Feature::Mean => mean,
            Feature::Deviation => moment(2).sqrt(),
            Feature::Rms => (values().map(|x| x * x).sum::<f64>() / n).sqrt(),
            Feature::Range => {
                values().fold(f64::NEG_INFINITY, f64::max) - values().fold(f64::INFINITY, f64::min)
            }
            Feature::Slope => {
                let middle = (n - 1.0) / 2.0;
                let course: f64 = values().enumerate().map(|(i, x)| (i as f64 - middle) * (x - mean)).sum();
                course / (n * (n * n - 1.0) / 12.0)
            }
            Feature::Crest => ratio(values().map(|x| (x - mean).abs()).fold(0.0, f64::max), moment(2).sqrt()),
            Feature::Kurtosis => ratio(moment(4), moment(2).powi(2)),
            Feature::Crossings => {
                let n_crossings =
                    values().zip(values().skip(1)).filter(|(a, b)| (*a > mean) != (*b > mean)).count();
                n_crossings as f64 / (n - 1.0)
            }
            Feature::Frequency => self.frequency(mean),
        })
    }

    /// The strongest bin of the spectrum, and where between its neighbours it is, by a parabola through their logarithms.
    fn frequency(&self, mean: f64) -> f64 {
        let n = self.capacity;
        let hann = |i: usize| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / n as f64).cos();
        // Zeros behind the window make bins narrower, which the parabola likes.
        let len = (2 * n).next_power_of_two();
        let windowed = self.values.iter().enumerate().map(|(i, x)| (x - mean) * hann(i));
        let spectrum: Vec<f64> = Fft::new(len).power(windowed).collect();
        let strongest = (1..spectrum.len()).max_by(|a, b| spectrum[*a].total_cmp(&spectrum[*b])).unwrap_or(0);
        if spectrum[strongest] <= 0.0 {
            return 0.0;
        }
        let mut bin = strongest as f64;
        if strongest + 1 < spectrum.len() {
            let [a, b, c] = [strongest - 1, strongest, strongest + 1].map(|i| spectrum[i].max(1e-300).ln());
            let bend = a - 2.0 * b + c;
            if bend < 0.0 {
                bin += 0.5 * (a - c) / bend;
            }
        }
        bin / len as f64 * self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64], feature: Feature, rate: Option<f64>) -> f64 {
        let mut features = Features::new(values.len(), rate);
        for value in values {
            assert_eq!(features.get(feature), None);
            features.push(*value);
        }
        features.get(feature).unwrap()
    }

    #[test]
    fn known_windows() {
        let values = [1.0, 2.0, 3.0, 6.0];
        for (feature, expected) in [
            (Feature::Mean, 3.0),
            (Feature::Deviation, 3.5f64.sqrt()),
            (Feature::Rms, 12.5f64.sqrt()),
            (Feature::Range, 5.0),
            (Feature::Slope, 1.6),
            (Feature::Crest, 3.0 / 3.5f64.sqrt()),
            (Feature::Kurtosis, 24.5 / 12.25),
            (Feature::Crossings, 1.0 / 3.0),
        ] {
            assert!((of(&values, feature, None) - expected).abs() < 1e-12, "{feature:?}");
            assert!(of(&[5.0; 6], feature, None).is_finite(), "{feature:?} of equal values");
        }
        assert!(of(&[5.0; 6], Feature::Frequency, None).is_finite());
    }

    #[test]
    fn the_frequency_of_a_machine() {
        for hertz in [20.0, 49.7, 100.3, 230.0] {
            let values: Vec<f64> = (0..256)
                .map(|i| {
                    let t = f64::from(i) / 1000.0;
                    7.0 + (std::f64::consts::TAU * hertz * t).sin()
                        + 0.2 * (std::f64::consts::TAU * 333.0 * t).sin()
                })
                .collect();
            let got = of(&values, Feature::Frequency, Some(1000.0));
            assert!((got - hertz).abs() < 0.3, "{hertz}: {got}");
        }
    }
}
