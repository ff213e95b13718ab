//! An even grid of time under measurements that come when they come.
//!
//! The value of a cell is the mean, over the cell, of the line through the measurements: where they are dense it is their
//! average, so that nothing is folded into a slower grid, and where they are sparse it lies between them. A line stays a
//! line, and the sum of all cells times their width is the area under the measurements.

use std::fmt;

/// Cells that one gap may fill.
const MAX_FILLED: f64 = 1e6;

/// What happens where measurements are missing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gaps {
    /// A line leads over them.
    Fill,
    /// A longer one, in seconds, is an error.
    Refuse(f64),
}

/// Why a measurement has no place on the grid.
#[derive(Clone, Debug, PartialEq)]
pub enum GridError {
    /// It has no time.
    NoTime {
        /// What it has instead.
        text: String,
    },
    /// It comes after a later one.
    Backwards {
        /// Seconds by which it is too early.
        by_s: f64,
    },
    /// It comes too long after the last.
    Gap {
        /// Seconds between both.
        gap_s: f64,
    },
}

impl fmt::Display for GridError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GridError::NoTime { text } => write!(
                f,
                "{text:?} is no time: give seconds or 2026-11-28 10:15:30 in the first column, or do without a grid"
            ),
            GridError::Backwards { by_s } => {
                write!(f, "it is {by_s} s before the row before it: sort the rows by time")
            }
            GridError::Gap { gap_s } => {
                write!(f, "nothing was measured for {gap_s} s before it: cut the table there, or fill gaps")
            }
        }
    }
}

impl std::error::Error for GridError {}

/// A value of the grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Its middle, seconds.
    pub time_s: f64,
    /// The mean.
    pub value: f64,
    /// The line of the measurement nearest to the middle, if there was any in the cell.
    pub nearest: Option<u64>,
}

/// Measurements in, values at even times out.
#[derive(Clone, Debug)]
pub struct Grid {
    step_s: f64,
    gaps: Gaps,
    /// Time of the last measurement that was accepted.
    accepted_s: Option<f64>,
    /// Time and value of the last that was added.
    last: Option<(f64, f64)>,
    /// Time of the first measurement, the middle of cell 0.
    origin_s: f64,
    /// The cell that is being filled: its number, its area so far, and the seconds that this covers.
    cell: u64,
    area: f64,
    covered_s: f64,
    /// Of the measurements in that cell the nearest to its middle: how far, and its line.
    nearest: Option<(f64, u64)>,
}

impl Grid {
    /// With cells of `step_s` seconds, the first around the first measurement.
    ///
    /// # Panics
    /// If the step, or the longest gap, is not above 0.
    pub fn new(step_s: f64, gaps: Gaps) -> Grid {
        assert!(step_s > 0.0 && !matches!(gaps, Gaps::Refuse(longest) if longest <= 0.0));
        Grid {
            step_s,
            gaps,
            accepted_s: None,
            last: None,
            origin_s: 0.0,
            cell: 0,
            area: 0.0,
            covered_s: 0.0,
            nearest: None,
        }
    }

    /// Takes the next measurement, with its line, and adds to `ready` each cell that is known by it. Of several measurements
    /// at one time the last counts.
    ///
    /// # Errors
    /// If its time is before the last one's, or too long after it. It is left out then, and the next may follow.
    pub fn push(
        &mut self,
        line: u64,
        time_s: f64,
        value: f64,
        ready: &mut Vec<Cell>,
    ) -> Result<(), GridError> {
        self.accept(time_s)?;
        self.add(line, time_s, value, ready);
        Ok(())
    }

    /// Whether the next measurement may be of this time; the one after it must follow it.
    ///
    /// # Errors
    /// As [`Grid::push`].
    pub fn accept(&mut self, time_s: f64) -> Result<(), GridError> {
        let gap_s = time_s - self.accepted_s.unwrap_or(time_s);
        if gap_s < 0.0 {
            return Err(GridError::Backwards { by_s: -gap_s });
        }
        let longest_s = match self.gaps {
            Gaps::Fill => MAX_FILLED * self.step_s,
            Gaps::Refuse(longest_s) => longest_s.min(MAX_FILLED * self.step_s),
        };
        if gap_s > longest_s {
            return Err(GridError::Gap { gap_s });
        }
        self.accepted_s = Some(time_s);
        Ok(())
    }

    /// Takes a measurement whose time was accepted, in the order in which they were.
    pub fn add(&mut self, line: u64, time_s: f64, value: f64, ready: &mut Vec<Cell>) {
        let Some((before_s, before)) = self.last else {
            self.origin_s = time_s;
            self.last = Some((time_s, value));
            self.nearest = Some((0.0, line));
            return;
        };
        let gap_s = time_s - before_s;
        let at = |time: f64| before + (value - before) * ((time - before_s) / gap_s);
        let mut from_s = before_s;
        loop {
            let middle_s = self.origin_s + self.cell as f64 * self.step_s;
            let end_s = middle_s + self.step_s / 2.0;
            let to_s = end_s.min(time_s);
            if to_s > from_s {
                // The area under a line is its middle times its length.
                self.area += at((from_s + to_s) / 2.0) * (to_s - from_s);
                self.covered_s += to_s - from_s;
                from_s = to_s;
            }
            if time_s < end_s {
                let distance_s = (time_s - middle_s).abs();
                if self.nearest.is_none_or(|(nearest_s, _)| distance_s <= nearest_s) {
                    self.nearest = Some((distance_s, line));
                }
                break;
            }
            let nearest = self.nearest.take().map(|(_, line)| line);
            if self.covered_s > 0.0 {
                ready.push(Cell { time_s: middle_s, value: self.area / self.covered_s, nearest });
            }
            self.cell += 1;
            (self.area, self.covered_s) = (0.0, 0.0);
        }
        self.last = Some((time_s, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::Chance;

    fn grid(step_s: f64, samples: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let (mut grid, mut ready) = (Grid::new(step_s, Gaps::Fill), Vec::new());
        samples.iter().for_each(|(time, value)| grid.push(1, *time, *value, &mut ready).unwrap());
        ready.iter().map(|cell| (cell.time_s, cell.value)).collect()
    }

    #[test]
    fn a_line_stays_a_line_and_areas_are_kept() {
        let mut chance = Chance::new(1);
        for step in [0.1, 1.0, 7.0] {
            let mut time = 100.0;
            let line: Vec<(f64, f64)> = (0..400)
                .map(|_| {
                    time += chance.between(0.01, 2.0);
                    (time, 3.0 * time - 50.0)
                })
                .collect();
            let ready = grid(step, &line);
            assert!(ready.len() as f64 >= (line[399].0 - line[0].0) / step - 1.0);
            for (i, (time, value)) in ready.iter().enumerate() {
                assert!((time - (line[0].0 + i as f64 * step)).abs() < 1e-9);
                // The first cell has only its second half.
                let expected = if i == 0 { 3.0 * (time + step / 4.0) } else { 3.0 * time } - 50.0;
                assert!((value - expected).abs() < 1e-6, "{step}, {i}: {value}, {expected}");
            }
            // What swings quickly is averaged, not folded.
            let wave: Vec<(f64, f64)> =
                (0..20_000).map(|i| (f64::from(i) * 0.01, (f64::from(i) * 0.01 * 40.0).sin())).collect();
            let loudest = grid(7.0, &wave).iter().skip(1).map(|(_, x)| x.abs()).fold(0.0, f64::max);
            assert!(loudest < 0.01, "{loudest}");
        }
        let even: Vec<(f64, f64)> = (0..50).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let area: f64 = grid(2.0, &even).iter().skip(1).map(|(_, x)| x * 2.0).sum();
        assert!((area - 48.0 / 2.0).abs() < 1e-9, "{area}");
    }

    #[test]
    fn gaps_are_filled_or_refused() {
        let samples = [(0.0, 0.0), (1.0, 1.0), (11.0, 11.0), (12.0, 12.0)];
        assert_eq!(grid(1.0, &samples).len(), 12);
        let (mut refusing, mut ready) = (Grid::new(1.0, Gaps::Refuse(5.0)), Vec::new());
        refusing.push(1, 0.0, 0.0, &mut ready).unwrap();
        refusing.push(1, 1.0, 1.0, &mut ready).unwrap();
        let error = refusing.push(1, 11.0, 11.0, &mut ready).unwrap_err();
        assert_eq!(error, GridError::Gap { gap_s: 10.0 });
        assert!(refusing.push(1, 0.5, 0.0, &mut ready).unwrap_err().to_string().contains("0.5 s before"));
        refusing.push(1, 1.0, 5.0, &mut ready).unwrap();
        refusing.push(1, 2.0, 5.0, &mut ready).unwrap();
        assert_eq!(ready.len(), 2);
        let mut filling = Grid::new(1e-9, Gaps::Fill);
        filling.push(1, 0.0, 0.0, &mut ready).unwrap();
        assert!(filling.push(1, 1.0, 0.0, &mut ready).is_err(), "a gap of a billion cells");
    }
}
