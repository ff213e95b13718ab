//! What a sensor says, made ready to be judged: units, an even grid of time, outliers, features; value by value, as it comes.
//!
//! A [`Pipeline`] is these steps in this order, each if it is wanted: a [`Conversion`] to another unit, [`Hampel`]'s filter
//! against single wild values, a [`Grid`] of even steps of time, and a [`Feature`] of the last values. Wild values go before
//! the grid, which would lead a line from them to their neighbours, over a gap perhaps. None looks further ahead than it says, and none keeps more than a window. Which steps are wanted is a [`Preparation`]; [`Columns`] takes
//! whole rows through them.

mod features;
mod grid;
mod hampel;
mod preparation;
mod time;
mod units;

pub use features::{Feature, Features};
pub use grid::{Cell, Gaps, Grid, GridError};
pub use hampel::Hampel;
pub use preparation::{Columns, FEATURE_LENS, MAX_HAMPEL, Preparation, ReadyRow, UnitChange};
pub use time::{Style, format_time, parse_duration, parse_time};
pub use units::{Conversion, UnitError};

use std::collections::VecDeque;

use crate::table::Row;

/// A measurement on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The last line of the table that it is made of.
    pub line: u64,
    /// The line of the measurement that it stands for: itself, or on a grid the one nearest to the cell's middle. None
    /// where nothing was measured in a cell.
    pub stands_for: Option<u64>,
    /// When, as the table says it, or as the grid does, in the table's way.
    pub label: Option<String>,
    /// What.
    pub value: f64,
}

/// Steps from what was measured to what is judged.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    conversion: Option<Conversion>,
    hampel: Option<Hampel>,
    grid: Option<Grid>,
    features: Option<(Feature, Features)>,
    /// Of values that wait in the filter, the latest last.
    waiting: VecDeque<Waiting>,
    n_replaced: u64,
}

/// A measurement whose value is being filtered.
#[derive(Clone, Debug)]
struct Waiting {
    line: u64,
    label: Option<String>,
    /// When, and how the table writes it, if there is a grid.
    time: Option<(f64, Style)>,
}

impl Pipeline {
    /// Of those steps that are wanted; of a feature, with the window that it is made of.
    pub fn new(
        conversion: Option<Conversion>,
        hampel: Option<Hampel>,
        grid: Option<Grid>,
        features: Option<(Feature, Features)>,
    ) -> Pipeline {
        Pipeline { conversion, hampel, grid, features, ..Pipeline::default() }
    }

    /// Takes a row, and calls `on_point` for each value that is ready by it.
    ///
    /// # Errors
    /// If the row has no time where one is needed, or its time does not follow the last.
    pub fn push(&mut self, row: &Row, mut on_point: impl FnMut(Point)) -> Result<(), GridError> {
        let value = self.conversion.as_ref().map_or(row.value, |conversion| conversion.apply(row.value));
        let mut time = None;
        if let Some(grid) = &mut self.grid {
            let label = row.label.as_deref().unwrap_or_default();
            let parsed = parse_time(label).ok_or_else(|| GridError::NoTime { text: label.to_owned() })?;
            // Now, so that an error is of this row; its value may have to wait.
            grid.accept(parsed.0)?;
            time = Some(parsed);
        }
        self.waiting.push_back(Waiting { line: row.line, label: row.label.clone(), time });
        let mut ready = Vec::new();
        match &mut self.hampel {
            Some(hampel) => hampel.push(value, &mut ready),
            None => ready.push((value, false)),
        }
        self.forward(ready, &mut on_point);
        Ok(())
    }

    /// Says that nothing follows: what has waited for it is ready.
    pub fn finish(&mut self, mut on_point: impl FnMut(Point)) {
        // The grid's last cell is not whole, and is left out.
        let mut ready = Vec::new();
        if let Some(hampel) = &mut self.hampel {
            hampel.finish(&mut ready);
        }
        self.forward(ready, &mut on_point);
    }

    /// Outliers that were replaced.
    pub fn n_replaced(&self) -> u64 {
        self.n_replaced
    }

    /// Takes filtered values on.
    fn forward(&mut self, ready: Vec<(f64, bool)>, on_point: &mut impl FnMut(Point)) {
        for (value, is_replaced) in ready {
            self.n_replaced += u64::from(is_replaced);
            let Some(Waiting { line, label, time }) = self.waiting.pop_front() else { return };
            let (Some(grid), Some((time_s, style))) = (&mut self.grid, time) else {
                self.judge(Point { line, stands_for: Some(line), label, value }, on_point);
                continue;
            };
            let mut cells = Vec::new();
            grid.add(line, time_s, value, &mut cells);
            for Cell { time_s, value, nearest } in cells {
                let label = Some(format_time(time_s, style));
                self.judge(Point { line, stands_for: nearest, label, value }, on_point);
            }
        }
    }

    fn judge(&mut self, point: Point, on_point: &mut impl FnMut(Point)) {
        let value = match &mut self.features {
            Some((feature, features)) => {
                features.push(point.value);
                features.get(*feature)
            }
            None => Some(point.value),
        };
        if let Some(value) = value {
            on_point(Point { value, ..point });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_steps_one_after_the_other() {
        let mut pipeline = Pipeline::new(
            Some(Conversion::between("degF", "degC").unwrap()),
            Some(Hampel::new(2, 3.0)),
            Some(Grid::new(60.0, Gaps::Fill)),
            Some((Feature::Mean, Features::new(3, None))),
        );
        let mut points = Vec::new();
        for i in 0..20u32 {
            // Each half minute, 68 to 69.9 degrees Fahrenheit, with one wild value.
            let value = if i == 9 { 500.0 } else { 68.0 + f64::from(i) / 10.0 };
            let label = format!("2026-11-28T10:{:02}:{:02}Z", i / 2, i % 2 * 30);
            let row = Row { line: u64::from(i) + 2, label: Some(label), value };
            pipeline.push(&row, |point| points.push(point)).unwrap();
        }
        pipeline.finish(|point| points.push(point));
        // Ten whole cells, of which each mean takes three.
        assert_eq!(points.len(), 8, "{points:?}");
        assert!(points.iter().all(|point| (19.9..21.2).contains(&point.value)), "{points:?}");
        assert_eq!(points[0].label.as_deref(), Some("2026-11-28T10:02:00Z"));
        assert_eq!(pipeline.n_replaced(), 1);
        let row = Row { line: 30, label: Some("noon".into()), value: 1.0 };
        assert!(pipeline.push(&row, |_| ()).unwrap_err().to_string().contains("\"noon\""));
    }

    #[test]
    fn nothing_wanted_changes_nothing() {
        let mut pipeline = Pipeline::default();
        let row = Row { line: 3, label: None, value: 5.0 };
        let mut points = Vec::new();
        pipeline.push(&row, |point| points.push(point)).unwrap();
        pipeline.finish(|point| points.push(point));
        assert_eq!(points, [Point { line: 3, stands_for: Some(3), label: None, value: 5.0 }]);
    }
}
