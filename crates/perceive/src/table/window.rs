//! The last rows of a series as numbers for a learner: how each column is, and where it is going.

use std::collections::VecDeque;

/// The last rows of one series.
#[derive(Clone, Debug)]
pub struct Window {
    rows: VecDeque<Vec<f64>>,
    capacity: usize,
    n_columns: usize,
    n_seen: u64,
}

/// Numbers of a column in a window of several rows.
const PER_COLUMN: usize = 6;

impl Window {
    /// Of at most `capacity` rows with `n_columns` numbers.
    ///
    /// # Panics
    /// If either is 0.
    pub fn new(capacity: usize, n_columns: usize) -> Window {
        assert!(capacity > 0 && n_columns > 0, "a window holds something");
        Window { rows: VecDeque::with_capacity(capacity), capacity, n_columns, n_seen: 0 }
    }

    /// Numbers that a window of `capacity` rows gives.
    pub fn n_features(capacity: usize, n_columns: usize) -> usize {
        if capacity == 1 { n_columns } else { n_columns * PER_COLUMN + 1 }
    }

    /// Forgets all rows: another series begins.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.n_seen = 0;
    }

    /// Takes the next row and gives the window's numbers. Of one row these are its own. Of several they are, for each
    /// column, the last value, mean, standard deviation, smallest, largest, and slope over as many rows as the window can
    /// hold; and how many rows the series has had.
    ///
    /// # Panics
    /// If the row has another length.
    pub fn push(&mut self, row: &[f64]) -> Vec<f64> {
        assert_eq!(row.len(), self.n_columns, "rows are of one length");
        if self.rows.len() == self.capacity {
            self.rows.pop_front();
        }
        self.rows.push_back(row.to_vec());
        self.n_seen += 1;
        if self.capacity == 1 {
            return row.to_vec();
        }
        let n = self.rows.len() as f64;
        let middle = (n - 1.0) / 2.0;
        let spread: f64 = (0..self.rows.len()).map(|i| (i as f64 - middle).powi(2)).sum();
        let mut features = Vec::with_capacity(Window::n_features(self.capacity, self.n_columns));
        for (column, last) in row.iter().enumerate() {
            let values = || self.rows.iter().map(|row| row[column]);
            let mean = values().sum::<f64>() / n;
            let deviation = (values().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
            let (least, most) = values()
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), x| (least.min(x), most.max(x)));
            let course: f64 = values().enumerate().map(|(i, x)| (i as f64 - middle) * (x - mean)).sum();
            let slope = if spread > 0.0 { course / spread * self.capacity as f64 } else { 0.0 };
            features.extend([*last, mean, deviation, least, most, slope]);
        }
        features.push(self.n_seen as f64);
        features
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_slope() {
        let mut window = Window::new(4, 1);
        assert_eq!(window.push(&[5.0]), [5.0, 5.0, 0.0, 5.0, 5.0, 0.0, 1.0]);
        for value in [1.0, 3.0, 5.0, 7.0] {
            window.push(&[value]);
        }
        let features = window.push(&[9.0]);
        assert_eq!(features, [9.0, 6.0, 5f64.sqrt(), 3.0, 9.0, 8.0, 6.0]);
        assert_eq!(features.len(), Window::n_features(4, 1));
        window.clear();
        assert_eq!(window.push(&[2.0])[6], 1.0);
        assert_eq!(Window::new(1, 2).push(&[3.0, 4.0]), [3.0, 4.0]);
    }
}
