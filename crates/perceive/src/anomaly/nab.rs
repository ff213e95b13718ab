//! The scoring of the Numenta Anomaly Benchmark, standard profile.
//!
//! Source: Lavin and Ahmad 2015, "Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly Benchmark"
//! (section III), and NAB's own `nab/sweeper.py`. A series has windows around its anomalies. The earliest detection in a
//! window earns up to 1, more the earlier it is; a window without one costs 1; a detection outside costs up to 0.11, less
//! the nearer it is behind a window. What comes in the first 15 % of a series (of at most 5000 rows) does not count.

use std::ops::RangeInclusive;

/// Cost of a detection outside of all windows.
const FALSE_ALARM: f64 = 0.11;
/// Share of a series, of at most so many rows, in which detectors may still learn.
const PROBATION: (f64, usize) = (0.15, 5000);

/// A series: its detector's scores, and the rows of its windows, in order and apart.
#[derive(Clone, Debug)]
pub struct Series {
    /// One for each row.
    pub scores: Vec<f64>,
    /// First and last row.
    pub windows: Vec<RangeInclusive<usize>>,
}

/// 1 far before, 0 at, -1 far behind `y = 0`.
fn scaled_sigmoid(y: f64) -> f64 {
    if y > 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * y).exp()) - 1.0 }
}

impl Series {
    /// What detections at scores of `threshold` and above are worth.
    pub fn worth(&self, threshold: f64) -> f64 {
        let (share, most) = PROBATION;
        let probation = (share * self.scores.len().min(most) as f64) as usize;
        let mut is_found = vec![false; self.windows.len()];
        let mut worth = -(self.windows.len() as f64);
        for (row, _) in
            self.scores.iter().enumerate().skip(probation).filter(|(_, score)| **score >= threshold)
        {
            // The first window that ends here or later; the one before it is the last that is over.
            let next = self.windows.partition_point(|window| *window.end() < row);
            let inside = self.windows.get(next).filter(|window| window.contains(&row));
            if let Some(window) = inside {
                if !std::mem::replace(&mut is_found[next], true) {
                    let len = (window.end() - window.start() + 1) as f64;
                    let position = -((window.end() - row + 1) as f64) / len;
                    worth += 1.0 + scaled_sigmoid(position) / scaled_sigmoid(-1.0);
                }
            } else if let Some(window) = next.checked_sub(1).map(|last| &self.windows[last]) {
                let width = (window.end() - window.start()) as f64;
                let position = if width > 0.0 { (row - window.end()) as f64 / width } else { 1.0 };
                worth += FALSE_ALARM * scaled_sigmoid(position);
            } else {
                worth -= FALSE_ALARM;
            }
        }
        worth
    }
}

/// The benchmark's score of several series at one threshold: 0 is what a detector without detections gets, 100 a perfect
/// one.
pub fn score(series: &[Series], threshold: f64) -> f64 {
    let n_windows: usize = series.iter().map(|series| series.windows.len()).sum();
    let worth: f64 = series.iter().map(|series| series.worth(threshold)).sum();
    100.0 * (worth + n_windows as f64) / (2 * n_windows) as f64
}

/// Thresholds that are tried: the largest scores of each series.
const N_TRIED: usize = 200;

/// The best threshold and its [`score`], as the benchmark picks it: one for all series.
pub fn best(series: &[Series]) -> (f64, f64) {
    let mut thresholds = Vec::new();
    for series in series {
        let mut scores = series.scores.clone();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores.dedup();
        thresholds.extend(scores.into_iter().take(N_TRIED));
    }
    thresholds.sort_by(f64::total_cmp);
    thresholds.dedup();
    let all = thresholds.into_iter().map(|threshold| (threshold, score(series, threshold)));
    all.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((f64::INFINITY, 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_detections_are_worth() {
        let series = |rows: &[usize]| {
            let mut scores = vec![0.0; 1000];
            rows.iter().for_each(|row| scores[*row] = 1.0);
            Series { scores, windows: vec![300..=399, 700..=799] }
        };
        let worth = |rows: &[usize]| series(rows).worth(0.5);
        assert_eq!(worth(&[]), -2.0);
        // At once, twice: perfect, and what comes second in a window changes nothing.
        assert!((worth(&[300, 301, 390, 700]) - 2.0).abs() < 1e-12);
        // Late is worth less, down to nothing at the window's end.
        assert!(worth(&[399]) < -0.9 && worth(&[350]) > worth(&[380]));
        // Before all windows, in probation, just behind one, far behind one.
        assert!((worth(&[200]) - -2.11).abs() < 1e-12);
        assert_eq!(worth(&[149]), -2.0);
        assert!(worth(&[401]) > -2.01);
        assert!((worth(&[698]) - -2.11).abs() < 1e-6);
        assert!((score(&[series(&[300, 700])], 0.5) - 100.0).abs() < 1e-9);
        assert_eq!(best(&[series(&[300, 700])]).0, 1.0);
    }
}
