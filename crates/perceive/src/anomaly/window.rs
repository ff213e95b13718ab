//! The last values of a stream, with their mean and spread.

use std::collections::VecDeque;

/// At most `capacity` values, the oldest of which go.
///
/// Sums are kept, relative to a reference near the values so that little is lost to cancellation, and computed anew
/// each time the window has been replaced once, so that rounding errors do not add up.
#[derive(Clone, Debug)]
pub struct Window {
    values: VecDeque<f64>,
    capacity: usize,
    reference: f64,
    sum: f64,
    sum_of_squares: f64,
    n_until_renewal: usize,
}

impl Window {
    /// An empty window.
    ///
    /// # Panics
    /// If `capacity` is 0.
    pub fn new(capacity: usize) -> Window {
        assert!(capacity > 0, "a window holds something");
        let values = VecDeque::with_capacity(capacity);
        Window { values, capacity, reference: 0.0, sum: 0.0, sum_of_squares: 0.0, n_until_renewal: 0 }
    }

    /// Adds a value.
    pub fn push(&mut self, value: f64) {
        if self.values.len() == self.capacity {
            let gone = self.values.pop_front().unwrap_or(0.0) - self.reference;
            self.sum -= gone;
            self.sum_of_squares -= gone * gone;
        }
        self.values.push_back(value);
        if self.n_until_renewal == 0 {
            self.n_until_renewal = self.values.len();
            self.reference = value;
            (self.sum, self.sum_of_squares) = (0.0, 0.0);
            for value in &self.values {
                let value = value - self.reference;
                self.sum += value;
                self.sum_of_squares += value * value;
            }
        } else {
            self.n_until_renewal -= 1;
            let value = value - self.reference;
            self.sum += value;
            self.sum_of_squares += value * value;
        }
    }

    /// Values in it.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// The oldest first.
    pub fn values(&self) -> impl ExactSizeIterator<Item = f64> {
        self.values.iter().copied()
    }

    /// Mean and standard deviation (of the values themselves, not of what they are a sample of). The window is not
    /// empty.
    pub fn moments(&self) -> (f64, f64) {
        let n = self.values.len() as f64;
        let mean = self.sum / n;
        (self.reference + mean, (self.sum_of_squares / n - mean * mean).max(0.0).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_stay_exact_far_from_zero() {
        let mut window = Window::new(50);
        let mut all = Vec::new();
        for i in 0..5000u32 {
            // A level that is large beside its variation, and moves.
            let value = 1e9 + f64::from(i) * 10.0 + f64::from(i * 7919 % 101);
            window.push(value);
            all.push(value);
            let last = &all[all.len().saturating_sub(50)..];
            let n = last.len() as f64;
            let mean = last.iter().sum::<f64>() / n;
            let variance = last.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let (got_mean, got_deviation) = window.moments();
            assert!((got_mean - mean).abs() < 1e-5 && (got_deviation - variance.sqrt()).abs() < 1e-5, "{i}");
            assert_eq!(window.len(), last.len());
        }
        assert!(window.values().eq(all[4950..].iter().copied()));
    }
}
