//! How measurements are made ready, said once: a [`Preparation`] is what a person asks for when watching or learning, is
//! kept in the file of what was learnt, and makes the pipelines of whoever reads such measurements later.

use serde::{Deserialize, Serialize};

use super::{Conversion, Feature, Features, Gaps, Grid, GridError, Hampel, Pipeline, Point, UnitError};
use crate::table::Row;

/// Outliers are as many standard deviations from the median.
const HAMPEL_THRESHOLD: f64 = 3.0;
/// Values on either side of one that [`Hampel`]'s filter judges, at most.
pub const MAX_HAMPEL: u16 = 1000;
/// Values that a feature may be of.
pub const FEATURE_LENS: std::ops::RangeInclusive<u32> = 2..=65_536;

/// The steps of a [`Pipeline`], each if it is wanted; without any, measurements stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preparation {
    /// Changes of unit. Of several for one column the last counts.
    pub units: Vec<UnitChange>,
    /// Seconds from one value to the next on an even grid of time.
    pub every_s: Option<f64>,
    /// Seconds of a gap beyond which measurements are refused, if there is a grid.
    pub max_gap_s: Option<f64>,
    /// Values on either side by which single wild ones are found, and replaced.
    pub hampel: Option<u16>,
    /// A feature of so many values in place of each value.
    pub feature: Option<(Feature, u32)>,
}

/// Another unit for a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitChange {
    /// Its name; none means all columns.
    pub column: Option<String>,
    /// The unit of the measurements.
    pub from: String,
    /// The unit that is wanted.
    pub to: String,
}

impl Preparation {
    /// Whether measurements stay as they are.
    pub fn is_none(&self) -> bool {
        *self == Preparation::default()
    }

    /// The steps for one column.
    ///
    /// # Errors
    /// If a unit is not known, or does not become the other.
    ///
    /// # Panics
    /// If numbers are out of their ranges, which [`Preparation::check`] looks for.
    pub fn pipeline(&self, column: &str) -> Result<Pipeline, UnitError> {
        let unit = self.units.iter().rfind(|unit| unit.column.as_deref().is_none_or(|name| name == column));
        let gaps = self.max_gap_s.map_or(Gaps::Fill, Gaps::Refuse);
        Ok(Pipeline::new(
            unit.map(|unit| Conversion::between(&unit.from, &unit.to)).transpose()?,
            self.hampel.map(|half| Hampel::new(half.into(), HAMPEL_THRESHOLD)),
            self.every_s.map(|step_s| Grid::new(step_s, gaps)),
            self.feature.map(|(feature, len)| {
                (feature, Features::new(len as usize, self.every_s.map(|step_s| 1.0 / step_s)))
            }),
        ))
    }

    /// Whether this can be done with columns of these names.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, columns: &[String]) -> Result<(), String> {
        let is_duration = |seconds: f64| seconds > 0.0 && seconds.is_finite();
        if !self.every_s.into_iter().chain(self.max_gap_s).all(is_duration) {
            return Err(format!("steps of {:?} and gaps of {:?} seconds", self.every_s, self.max_gap_s));
        }
        if self.hampel.is_some_and(|half| !(1..=MAX_HAMPEL).contains(&half)) {
            return Err(format!("{:?} values on either side", self.hampel));
        }
        if self.feature.is_some_and(|(_, len)| !FEATURE_LENS.contains(&len)) {
            return Err(format!("a feature of {:?}", self.feature));
        }
        for UnitChange { column, from, to } in &self.units {
            Conversion::between(from, to).map_err(|error| error.to_string())?;
            if let Some(name) = column.as_ref().filter(|name| !columns.contains(name)) {
                return Err(format!("there is no column {name} for a unit in {columns:?}"));
            }
        }
        Ok(())
    }
}

/// Rows of several columns, made ready together: the same steps for each, so that a row stays a row.
#[derive(Clone, Debug)]
pub struct Columns(Vec<Pipeline>);

/// A row that is ready.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadyRow {
    /// Where it comes from and when, as of a [`Point`]; its value is that of the first column.
    pub point: Point,
    /// Of each column.
    pub values: Vec<f64>,
}

impl Columns {
    /// For columns of these names.
    ///
    /// # Errors
    /// As [`Preparation::pipeline`].
    ///
    /// # Panics
    /// As [`Preparation::pipeline`], and if there is no column.
    pub fn new(preparation: &Preparation, names: &[String]) -> Result<Columns, UnitError> {
        assert!(!names.is_empty(), "a row has columns");
        Ok(Columns(names.iter().map(|name| preparation.pipeline(name)).collect::<Result<_, _>>()?))
    }

    /// Takes a row, with its line and its time if it has one, and adds to `ready` what is ready by it.
    ///
    /// # Errors
    /// As [`Pipeline::push`].
    ///
    /// # Panics
    /// If there are not as many values as columns.
    pub fn push(
        &mut self,
        line: u64,
        time: Option<&str>,
        values: &[f64],
        ready: &mut Vec<ReadyRow>,
    ) -> Result<(), GridError> {
        assert_eq!(values.len(), self.0.len(), "rows are of one length");
        let start = ready.len();
        for (pipeline, value) in self.0.iter_mut().zip(values) {
            let row = Row { line, label: time.map(str::to_owned), value: *value };
            let mut at = start;
            pipeline.push(&row, |point| join(ready, &mut at, point))?;
        }
        Ok(())
    }

    /// Adds to `ready` what has waited for rows that do not come.
    pub fn finish(&mut self, ready: &mut Vec<ReadyRow>) {
        let start = ready.len();
        for pipeline in &mut self.0 {
            let mut at = start;
            pipeline.finish(|point| join(ready, &mut at, point));
        }
    }
}

/// The next column's value of the row at `at`; the first column begins it.
fn join(ready: &mut Vec<ReadyRow>, at: &mut usize, point: Point) {
    match ready.get_mut(*at) {
        Some(row) => row.values.push(point.value),
        None => ready.push(ReadyRow { values: vec![point.value], point }),
    }
    *at += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["heat", "light"].map(str::to_owned).to_vec()
    }

    fn unit(column: Option<&str>, from: &str, to: &str) -> UnitChange {
        UnitChange { column: column.map(str::to_owned), from: from.into(), to: to.into() }
    }

    #[test]
    fn columns_stay_in_step() {
        let preparation = Preparation {
            units: vec![unit(Some("heat"), "degF", "degC")],
            every_s: Some(60.0),
            hampel: Some(1),
            feature: Some((Feature::Mean, 2)),
            ..Preparation::default()
        };
        let mut columns = Columns::new(&preparation, &names()).unwrap();
        let mut ready = Vec::new();
        for i in 0..10u32 {
            // Each half minute, and five minutes later again.
            let time = f64::from(i * 30 + if i >= 6 { 300 } else { 0 });
            columns.push(u64::from(i) + 2, Some(&time.to_string()), &[50.0, time], &mut ready).unwrap();
        }
        columns.finish(&mut ready);
        // Cells 0 to 9 are whole; a mean takes two.
        let times: Vec<f64> =
            ready.iter().map(|row| row.point.label.as_ref().unwrap().parse().unwrap()).collect();
        assert_eq!(times, [1, 2, 3, 4, 5, 6, 7, 8, 9].map(|i| f64::from(i) * 60.0));
        assert!(ready.iter().all(|row| (row.values[0] - 10.0).abs() < 1e-9), "{ready:?}");
        // A line leads over the gap, and the mean of two cells is half a cell late.
        for (row, time) in ready.iter().zip(&times).skip(1) {
            assert!((row.values[1] - (time - 30.0)).abs() < 1e-9, "{row:?}");
        }
        // The row nearest to each cell's middle, and none in the gap.
        let stands_for: Vec<u64> = ready.iter().map(|row| row.point.stands_for.unwrap_or(0)).collect();
        assert_eq!(stands_for, [4, 6, 7, 0, 0, 0, 0, 8, 10]);
        assert!(columns.push(20, Some("0"), &[1.0, 2.0], &mut ready).is_err());
    }

    #[test]
    fn nothing_wanted_changes_nothing() {
        let mut columns = Columns::new(&Preparation::default(), &names()).unwrap();
        let mut ready = Vec::new();
        columns.push(7, None, &[1.0, 2.0], &mut ready).unwrap();
        columns.finish(&mut ready);
        let point = Point { line: 7, stands_for: Some(7), label: None, value: 1.0 };
        assert_eq!(ready, [ReadyRow { point, values: vec![1.0, 2.0] }]);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let of = |change: &dyn Fn(&mut Preparation)| {
            let mut preparation = Preparation::default();
            change(&mut preparation);
            preparation.check(&names())
        };
        assert_eq!(of(&|_| ()), Ok(()));
        assert_eq!(
            of(&|p| p.units = vec![unit(None, "degF", "K"), unit(Some("light"), "klx", "lx")]),
            Ok(())
        );
        assert!(of(&|p| p.units = vec![unit(Some("none"), "degF", "K")]).is_err());
        assert!(of(&|p| p.units = vec![unit(None, "degF", "bar")]).is_err());
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(of(&|p| p.every_s = Some(seconds)).is_err());
            assert!(of(&|p| p.max_gap_s = Some(seconds)).is_err());
        }
        assert!(of(&|p| p.hampel = Some(0)).is_err() && of(&|p| p.hampel = Some(1001)).is_err());
        assert!(of(&|p| p.feature = Some((Feature::Rms, 1))).is_err());
    }
}
