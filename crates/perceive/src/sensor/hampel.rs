//! Single wild values, replaced by the median around them (Hampel 1974; Davies and Gather 1993).

use std::collections::VecDeque;

/// What makes the median of absolute distances a standard deviation, for a normal distribution.
const DEVIATION: f64 = 1.482_602_218_505_602;

/// A filter over `2 * half + 1` values, of which the middle one is judged: it says what a value is `half` values later.
#[derive(Clone, Debug)]
pub struct Hampel {
    half: usize,
    threshold: f64,
    window: VecDeque<f64>,
    /// Of the window, the value that is judged next.
    next: usize,
    sorted: Vec<f64>,
}

impl Hampel {
    /// Values further than `threshold` standard deviations from the median are replaced; 3 is usual. Where all values but
    /// a few are equal, every other value is an outlier.
    ///
    /// # Panics
    /// If `half` is 0, or the threshold is negative or no number.
    pub fn new(half: usize, threshold: f64) -> Hampel {
        assert!(half > 0 && threshold >= 0.0, "a value is judged by its neighbours");
        Hampel { half, threshold, window: VecDeque::new(), next: 0, sorted: Vec::new() }
    }

    /// Takes the next value, and adds to `ready` what is known by it: a value, and whether it replaces another. At the
    /// beginning and the end a value has neighbours on one side only.
    pub fn push(&mut self, value: f64, ready: &mut Vec<(f64, bool)>) {
        self.window.push_back(value);
        if self.window.len() > self.next + self.half {
            self.judge(ready);
        }
    }

    /// Adds the last values to `ready`.
    pub fn finish(&mut self, ready: &mut Vec<(f64, bool)>) {
        while self.next < self.window.len() {
            self.judge(ready);
        }
    }

    fn judge(&mut self, ready: &mut Vec<(f64, bool)>) {
        let value = self.window[self.next];
        let until = (self.next + self.half + 1).min(self.window.len());
        let median = self.median_of(until, |x| x);
        let deviation = DEVIATION * self.median_of(until, |x| (x - median).abs());
        let is_outlier = (value - median).abs() > self.threshold * deviation;
        ready.push(if is_outlier { (median, true) } else { (value, false) });
        if self.next == self.half {
            self.window.pop_front();
        } else {
            self.next += 1;
        }
    }

    fn median_of(&mut self, until: usize, f: impl Fn(f64) -> f64) -> f64 {
        self.sorted.clear();
        self.sorted.extend(self.window.iter().take(until).map(|x| f(*x)));
        self.sorted.sort_unstable_by(f64::total_cmp);
        let n = self.sorted.len();
        (self.sorted[(n - 1) / 2] + self.sorted[n / 2]) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::Chance;

    fn filter(half: usize, values: &[f64]) -> Vec<(f64, bool)> {
        let (mut hampel, mut ready) = (Hampel::new(half, 3.0), Vec::new());
        for (i, value) in values.iter().enumerate() {
            hampel.push(*value, &mut ready);
            assert_eq!(ready.len(), (i + 1).saturating_sub(half), "half a window late");
        }
        hampel.finish(&mut ready);
        ready
    }

    #[test]
    fn as_the_definition_says() {
        let mut chance = Chance::new(1);
        for half in [1, 2, 5] {
            let values: Vec<f64> =
                (0..100).map(|i| chance.normal() + if i % 17 == 8 { 30.0 } else { 0.0 }).collect();
            for (i, got) in filter(half, &values).iter().enumerate() {
                let around = &values[i.saturating_sub(half)..(i + half + 1).min(100)];
                let median = |mut of: Vec<f64>| {
                    of.sort_by(f64::total_cmp);
                    (of[(of.len() - 1) / 2] + of[of.len() / 2]) / 2.0
                };
                let middle = median(around.to_vec());
                let spread = 1.4826 * median(around.iter().map(|x| (x - middle).abs()).collect());
                let is_outlier = (values[i] - middle).abs() > 3.0 * spread;
                assert_eq!(*got, if is_outlier { (middle, true) } else { (values[i], false) });
            }
        }
        assert_eq!(filter(3, &[1.0, 2.0]), [(1.0, false), (2.0, false)]);
        assert_eq!(filter(3, &[]), []);
    }

    #[test]
    fn wild_values_go_and_steps_stay() {
        let values: Vec<f64> = (0..60)
            .map(|i| if i == 20 { 1e9 } else { f64::from(i % 3) + if i >= 40 { 100.0 } else { 0.0 } })
            .collect();
        let out = filter(5, &values);
        assert!(out[20].1 && out[20].0 <= 2.0);
        assert_eq!(out.iter().filter(|(_, is_replaced)| *is_replaced).count(), 1);
        assert!(out[40].0 >= 100.0 && out[39].0 < 3.0);
    }
}
