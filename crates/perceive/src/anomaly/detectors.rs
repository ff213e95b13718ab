//! Detectors.

use std::collections::VecDeque;

use super::Detector;
use super::window::Window;

/// Values that a detector must have seen before it judges.
const MIN_SEEN: usize = 100;

/// How improbable a value is under a normal distribution fitted to a window: 1 - Q, the tail's probability.
///
/// Numenta's `windowedGaussian` (NAB, `nab/detectors/gaussian`), row for row: the window grows with each value until it
/// is full, and then moves in steps.
#[derive(Clone, Debug)]
pub struct WindowedGaussian {
    size: usize,
    step: usize,
    window: VecDeque<f64>,
    /// Values since the last step.
    n_waiting: usize,
    mean: f64,
    deviation: f64,
    /// Sum of squared differences from the mean, while the window grows (Welford 1962).
    sum_of_squares: f64,
}

impl WindowedGaussian {
    /// A window of `size` values that moves by `step`. NAB uses 6400 and 100.
    ///
    /// # Panics
    /// If `step` is not in `1..=size`.
    pub fn new(size: usize, step: usize) -> WindowedGaussian {
        assert!((1..=size).contains(&step), "a step is in the window");
        let window = VecDeque::with_capacity(size + step);
        WindowedGaussian { size, step, window, n_waiting: 0, mean: 0.0, deviation: 1.0, sum_of_squares: 0.0 }
    }

    /// Of a window of equal values.
    const LEAST_DEVIATION: f64 = 1e-6;

    fn fit(&mut self) {
        let n = self.window.len() as f64;
        self.mean = self.window.iter().sum::<f64>() / n;
        let squares = self.window.iter().map(|x| (x - self.mean).powi(2)).sum::<f64>();
        self.set_deviation((squares / n).sqrt());
    }

    fn set_deviation(&mut self, deviation: f64) {
        self.deviation = if deviation == 0.0 { WindowedGaussian::LEAST_DEVIATION } else { deviation };
    }
}

impl Detector for WindowedGaussian {
    fn score(&mut self, value: f64) -> f64 {
        let z = (value - self.mean).abs() / self.deviation;
        let score =
            if self.window.is_empty() { 0.0 } else { 1.0 - 0.5 * libm::erfc(z / std::f64::consts::SQRT_2) };
        self.window.push_back(value);
        if self.window.len() <= self.size {
            let n = self.window.len() as f64;
            let difference = value - self.mean;
            self.mean = if n == 1.0 { value } else { self.mean + difference / n };
            self.sum_of_squares =
                if n == 1.0 { 0.0 } else { self.sum_of_squares + difference * (value - self.mean) };
            self.set_deviation((self.sum_of_squares / n).sqrt());
        } else {
            self.n_waiting += 1;
            if self.n_waiting == self.step {
                self.n_waiting = 0;
                self.window.drain(..self.step);
                self.fit();
            }
        }
        score
    }
}

/// How far a value is from the median of the values before it, in standard deviations as the median of the distances
/// tells them (Hampel 1974). A few wild values in the window change nothing.
#[derive(Clone, Debug)]
pub struct RobustZ {
    window: Window,
    /// Of the window, sorted.
    sorted: Vec<f64>,
}

impl RobustZ {
    /// With the last `size` values.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn new(size: usize) -> RobustZ {
        RobustZ { window: Window::new(size), sorted: Vec::with_capacity(size) }
    }

    /// Standard deviations in a median distance, of a normal distribution.
    const DEVIATIONS: f64 = 1.482_602_218_505_602;
    /// Beside the median, so that a constant stream has some width.
    const LEAST_SHARE: f64 = 1e-6;

    fn median(values: &mut [f64]) -> f64 {
        let middle = values.len() / 2;
        let (before, high, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
        let high = *high;
        match before.iter().copied().max_by(f64::total_cmp) {
            Some(low) if values.len().is_multiple_of(2) => (low + high) / 2.0,
            _ => high,
        }
    }
}

impl Detector for RobustZ {
    fn score(&mut self, value: f64) -> f64 {
        let mut score = 0.0;
        if self.window.len() >= MIN_SEEN {
            self.sorted.clear();
            self.sorted.extend(self.window.values());
            let median = RobustZ::median(&mut self.sorted);
            self.sorted.iter_mut().for_each(|x| *x = (*x - median).abs());
            let width = RobustZ::DEVIATIONS * RobustZ::median(&mut self.sorted);
            score = (value - median).abs()
                / width.max(RobustZ::LEAST_SHARE * median.abs()).max(f64::MIN_POSITIVE);
        }
        self.window.push(value);
        score
    }
}

/// How much larger the error of a forecast is than errors were: the forecast is an exponentially weighted moving average
/// (Roberts 1959), the score the error's distance from the mean of the last errors, in their standard deviations.
///
/// With a weight of 1 the forecast is the last value, and the score is that of a jump.
#[derive(Clone, Debug)]
pub struct Ewma {
    weight: f64,
    level: Option<f64>,
    errors: Window,
}

impl Ewma {
    /// A forecast that moves by `weight` of each error; judged by the last `size` errors.
    ///
    /// # Panics
    /// If `weight` is not above 0 and at most 1, or `size` is 0.
    pub fn new(weight: f64, size: usize) -> Ewma {
        assert!(weight > 0.0 && weight <= 1.0, "a weight is a share");
        Ewma { weight, level: None, errors: Window::new(size) }
    }

    /// Errors of a stream that is always forecast exactly.
    const LEAST_DEVIATION: f64 = 1e-6;
}

impl Detector for Ewma {
    fn score(&mut self, value: f64) -> f64 {
        let level = self.level.unwrap_or(value);
        let error = (value - level).abs();
        self.level = Some(level + self.weight * (value - level));
        self.errors.push(error);
        if self.errors.len() < MIN_SEEN {
            return 0.0;
        }
        let (mean, deviation) = self.errors.moments();
        ((error - mean) / deviation.max(Ewma::LEAST_DEVIATION)).max(0.0)
    }
}

/// Another detector's score, but 0 for the first values: what a detector makes of two of them is no judgement.
#[derive(Clone, Debug)]
pub struct Settled<D> {
    detector: D,
    n_left: usize,
}

impl<D: Detector> Settled<D> {
    /// Scores count after `n` values.
    pub fn new(detector: D, n: usize) -> Settled<D> {
        Settled { detector, n_left: n }
    }
}

impl<D: Detector> Detector for Settled<D> {
    fn score(&mut self, value: f64) -> f64 {
        let score = self.detector.score(value);
        if self.n_left == 0 {
            return score;
        }
        self.n_left -= 1;
        0.0
    }
}

/// Another detector's score where it is the largest of the last ones, else 0.
#[derive(Clone, Debug)]
pub struct Peaks<D> {
    detector: D,
    hold: usize,
    /// Rows and scores, rows rising, scores falling: the front is the largest of the last `hold`.
    candidates: VecDeque<(u64, f64)>,
    row: u64,
}

impl<D: Detector> Peaks<D> {
    /// A score passes if none of the last `hold` was larger.
    pub fn new(detector: D, hold: usize) -> Peaks<D> {
        Peaks { detector, hold, candidates: VecDeque::new(), row: 0 }
    }
}

impl<D: Detector> Detector for Peaks<D> {
    fn score(&mut self, value: f64) -> f64 {
        let score = self.detector.score(value);
        let first = self.row.saturating_sub(self.hold as u64);
        while self.candidates.front().is_some_and(|(row, _)| *row < first) {
            self.candidates.pop_front();
        }
        let is_largest = self.candidates.front().is_none_or(|(_, largest)| score >= *largest);
        while self.candidates.back().is_some_and(|(_, smaller)| *smaller <= score) {
            self.candidates.pop_back();
        }
        self.candidates.push_back((self.row, score));
        self.row += 1;
        if is_largest { score } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sine with some noise, and a disturbance at one row.
    fn stream(n: usize, disturbed: usize, by: f64) -> impl Iterator<Item = f64> {
        let mut state = 1u64;
        (0..n).map(move |i| {
            // Knuth's MMIX generator.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let noise = (state >> 40) as f64 / f64::from(1 << 24) - 0.5;
            (i as f64 / 40.0).sin() + 0.3 * noise + if i == disturbed { by } else { 0.0 }
        })
    }

    #[test]
    fn a_spike_has_the_largest_score() {
        let detectors: [Box<dyn Detector>; 4] = [
            Box::new(WindowedGaussian::new(400, 10)),
            Box::new(RobustZ::new(300)),
            Box::new(Ewma::new(0.3, 300)),
            Box::new(Peaks::new(Ewma::new(1.0, 300), 50)),
        ];
        for mut detector in detectors {
            let scores: Vec<f64> = stream(1000, 700, 3.0).map(|x| detector.score(x)).collect();
            // Until a window has seen a whole period, the sine itself is news.
            let largest = (400..1000).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
            assert_eq!(largest, 700);
            assert!(scores.iter().all(|score| score.is_finite() && *score >= 0.0));
        }
    }

    #[test]
    fn a_constant_stream_is_not_unusual_until_it_changes() {
        for mut detector in [
            Box::new(WindowedGaussian::new(400, 10)) as Box<dyn Detector>,
            Box::new(RobustZ::new(300)),
            Box::new(Ewma::new(0.3, 300)),
        ] {
            let quiet: Vec<f64> = (0..500).map(|_| detector.score(7.0)).collect();
            let alarm = detector.score(8.0);
            assert!(quiet.iter().all(|score| *score <= 0.5) && alarm > 0.99, "{alarm}");
        }
    }

    #[test]
    fn medians() {
        assert_eq!(RobustZ::median(&mut [3.0]), 3.0);
        assert_eq!(RobustZ::median(&mut [4.0, 1.0, 2.0]), 2.0);
        assert_eq!(RobustZ::median(&mut [4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    struct Given;

    impl Detector for Given {
        fn score(&mut self, value: f64) -> f64 {
            value
        }
    }

    #[test]
    fn the_first_values_are_not_judged() {
        let mut settled = Settled::new(Given, 2);
        assert_eq!([5.0, 4.0, 3.0].map(|x| settled.score(x)), [0.0, 0.0, 3.0]);
        // Two values tell a normal distribution nothing.
        let mut gaussian = Settled::new(WindowedGaussian::new(400, 10), 100);
        assert_eq!([20.0, 20.4, 19.9].map(|x| gaussian.score(x)), [0.0; 3]);
    }

    #[test]
    fn peaks_are_the_largest_of_a_while() {
        let mut peaks = Peaks::new(Given, 3);
        let given = [1.0, 5.0, 4.0, 5.0, 2.0, 3.0, 4.0, 4.5, 1.0];
        let passed: Vec<f64> = given.iter().map(|x| peaks.score(*x)).collect();
        assert_eq!(passed, [1.0, 5.0, 0.0, 5.0, 0.0, 0.0, 0.0, 4.5, 0.0]);
    }
}
