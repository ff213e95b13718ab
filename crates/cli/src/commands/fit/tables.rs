//! Examples from tables, and rows of tables for what was learnt.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use edgeward_perceive::augment::series;
use edgeward_perceive::learner::Input;
use edgeward_perceive::sensor::{Columns, Preparation, ReadyRow};
use edgeward_perceive::table::{Record, Records, TableError, Window};

use super::Examples;
use super::augment::{Augmentation, JITTER, Plan, WARP};
use crate::commands::net::FileError;

/// Turns the rows of one table into features, made ready as it was asked for when it was learnt.
pub(in crate::commands) struct Reader {
    /// Places of the columns that are looked at, and their names.
    columns: Vec<(usize, String)>,
    preparation: Preparation,
    /// Where times are, if there is a grid.
    time: Option<usize>,
    series: Option<usize>,
    current: Option<String>,
    n_series: usize,
    steps: Columns,
    window: Window,
}

/// A row that is ready to be judged.
pub(in crate::commands) struct ReadyExample {
    pub row: ReadyRow,
    /// Of it and those before it in its series.
    pub features: Vec<f64>,
    /// Which series of the table, from 0.
    pub series: usize,
}

impl Reader {
    /// For a table with `records`' columns.
    ///
    /// # Panics
    /// If `input` is no table.
    pub(in crate::commands) fn new<R: BufRead>(
        records: &Records<R>,
        input: &Input,
    ) -> Result<Reader, TableError> {
        let Input::Table { columns, window, series, preparation } = input else {
            panic!("a table's columns are needed")
        };
        let place = |name: &String| Ok((records.column(name)?, name.clone()));
        Ok(Reader {
            columns: columns.iter().map(place).collect::<Result<_, TableError>>()?,
            time: records.time_column().filter(|_| preparation.every_s.is_some()),
            series: series.as_deref().map(|name| records.column(name)).transpose()?,
            current: None,
            n_series: 0,
            steps: steps(preparation, columns),
            window: Window::new(*window, columns.len()),
            preparation: preparation.clone(),
        })
    }

    /// Takes the next row, and adds to `ready` what is ready by it; rows of a series come one after the other. On a grid,
    /// a row that lacks a number is a gap.
    pub(in crate::commands) fn push(
        &mut self,
        record: &Record,
        ready: &mut Vec<ReadyExample>,
    ) -> Result<(), TableError> {
        if let Some(name) = self.series.map(|series| &record.cells[series])
            && self.current.as_ref() != Some(name)
        {
            if self.current.replace(name.clone()).is_some() {
                self.finish(ready);
                self.n_series += 1;
            }
            let names: Vec<String> = self.columns.iter().map(|(_, name)| name.clone()).collect();
            self.steps = steps(&self.preparation, &names);
            self.window.clear();
        }
        let cells = || self.columns.iter().map(|(column, _)| *column);
        if self.preparation.every_s.is_some() && cells().any(|cell| record.cells[cell].trim().is_empty()) {
            return Ok(());
        }
        let values: Vec<f64> = cells().map(|column| record.number(column)).collect::<Result<_, _>>()?;
        let time = self.time.map(|column| record.cells[column].as_str());
        let mut rows = Vec::new();
        self.steps
            .push(record.line, time, &values, &mut rows)
            .map_err(|error| TableError::Line { line: record.line, what: error.to_string() })?;
        self.judge(rows, ready);
        Ok(())
    }

    /// Says that nothing follows: adds what has waited for it.
    pub(in crate::commands) fn finish(&mut self, ready: &mut Vec<ReadyExample>) {
        let mut rows = Vec::new();
        self.steps.finish(&mut rows);
        self.judge(rows, ready);
    }

    fn judge(&mut self, rows: Vec<ReadyRow>, ready: &mut Vec<ReadyExample>) {
        for row in rows {
            let features = self.window.push(&row.values);
            ready.push(ReadyExample { row, features, series: self.n_series });
        }
    }
}

/// The steps for a series.
fn steps(preparation: &Preparation, columns: &[String]) -> Columns {
    Columns::new(preparation, columns).expect("units were checked when it was asked for, or the file read")
}

/// What is to be learnt of tables.
pub(super) struct Wanted<'a> {
    /// The column that is told by the others that are numbers.
    pub target: &'a str,
    pub ignore: &'a [String],
    pub series: Option<&'a str>,
    pub window: usize,
    pub preparation: Preparation,
}

/// Of the tables `paths`.
pub(super) fn read(
    paths: &[PathBuf],
    wanted: &Wanted<'_>,
    like: Option<&Input>,
    plan: impl FnOnce(&Input) -> Result<Option<Plan>, String>,
) -> Result<(Examples, Option<Plan>), Box<dyn std::error::Error>> {
    let mut examples: Option<Examples> = None;
    let mut all = Vec::new();
    for path in paths {
        let named = |error: TableError| FileError::new(path, error);
        let file = File::open(path).map_err(|error| FileError::new(path, error))?;
        let mut records = Records::new(BufReader::new(file)).map_err(named)?;
        let told = records.column(wanted.target).map_err(named)?;
        if examples.is_none() {
            let input = match like {
                Some(input) => input.clone(),
                None => {
                    let columns = numbers(&records, wanted).map_err(named)?;
                    if columns.is_empty() {
                        return Err(FileError::new(path, "no other column is a number").into());
                    }
                    let preparation = wanted.preparation.clone();
                    preparation.check(&columns).map_err(|what| FileError::new(path, what))?;
                    let series = wanted.series.map(str::to_owned);
                    Input::Table { columns, window: wanted.window, series, preparation }
                }
            };
            examples = Some(Examples::new(input, wanted.target));
        }
        let examples = examples.as_mut().expect("it was made of the first table");
        let mut reader = Reader::new(&records, &examples.input).map_err(named)?;
        // Of rows that are not ready yet, by their lines.
        let mut targets = BTreeMap::new();
        let mut before = None;
        let mut learn = |ready: Vec<ReadyExample>, targets: &mut BTreeMap<u64, String>| {
            for ReadyExample { row, features, series } in ready {
                let target = row.point.stands_for.and_then(|line| {
                    *targets = targets.split_off(&line);
                    targets.remove(&line)
                });
                let example = target.is_some().then_some(examples.samples.len());
                if let Some(target) = target {
                    examples.samples.push(&features);
                    examples.targets.push(target);
                }
                // A table that follows another is another series.
                if before.replace(series) != Some(series) {
                    all.push(Series { columns: vec![Vec::new(); row.values.len()], examples: Vec::new() });
                }
                if let Some(series) = all.last_mut() {
                    series.columns.iter_mut().zip(row.values).for_each(|(column, x)| column.push(x));
                    series.examples.push(example);
                }
            }
        };
        for record in records.by_ref() {
            let record = record.map_err(named)?;
            let answer = record.cells[told].trim();
            if !answer.is_empty() {
                targets.insert(record.line, answer.to_owned());
            }
            let mut ready = Vec::new();
            reader.push(&record, &mut ready).map_err(named)?;
            learn(ready, &mut targets);
        }
        let mut ready = Vec::new();
        reader.finish(&mut ready);
        learn(ready, &mut targets);
    }
    let mut examples = examples.ok_or("there is no table")?;
    let plan = plan(&examples.input)?;
    if let Some(plan) = &plan {
        for copy in 0..plan.n_changed() {
            copy_series(&mut examples, &all, plan, copy);
        }
    }
    Ok((examples, plan))
}

/// Rows that follow each other.
struct Series {
    columns: Vec<Vec<f64>>,
    /// The example that a row is, if it has a target.
    examples: Vec<Option<usize>>,
}

/// Adds a changed copy of each example, in a changed copy of its series.
fn copy_series(examples: &mut Examples, all: &[Series], plan: &Plan, copy: usize) {
    let Input::Table { window, columns, .. } = &examples.input else { return };
    let n_rows = all.iter().map(|series| series.examples.len()).sum::<usize>() as f64;
    let deviation = |column: usize| {
        let values = || all.iter().flat_map(|series| &series.columns[column]);
        let mean = values().sum::<f64>() / n_rows;
        (values().map(|x| (x - mean).powi(2)).sum::<f64>() / n_rows).sqrt()
    };
    let deviations: Vec<f64> = (0..columns.len()).map(deviation).collect();
    for (i, series) in all.iter().enumerate() {
        let mut chance = plan.chance(i, copy);
        let warp = if plan.has(Augmentation::Warp) { WARP } else { 0.0 };
        let times = series::warp(series.examples.len(), warp, &mut chance);
        let mut rows = Window::new(*window, columns.len());
        for time in times {
            let mut row: Vec<f64> =
                series.columns.iter().map(|column| series::at_time(column, time)).collect();
            if plan.has(Augmentation::Jitter) {
                for (x, deviation) in row.iter_mut().zip(&deviations) {
                    series::jitter(std::slice::from_mut(x), JITTER * deviation, &mut chance);
                }
            }
            let features = rows.push(&row);
            // What the nearest row was.
            if let Some(example) = series.examples[time.round() as usize] {
                examples.copies.push(&features);
                examples.copy_of.push(example);
            }
        }
    }
}

/// Columns whose cell is a number in the first row.
fn numbers<R: BufRead>(records: &Records<R>, wanted: &Wanted<'_>) -> Result<Vec<String>, TableError> {
    let mut left_out = vec![records.column(wanted.target)?];
    for name in wanted.ignore.iter().map(String::as_str).chain(wanted.series) {
        left_out.push(records.column(name)?);
    }
    // A time is no measurement.
    left_out.extend(records.time_column().filter(|_| wanted.preparation.every_s.is_some()));
    let Some(first) = records.first() else { return Ok(Vec::new()) };
    let is_number = |column: &usize| first.number(*column).is_ok();
    let columns = (0..records.names().len()).filter(|column| !left_out.contains(column)).filter(is_number);
    Ok(columns.map(|column| records.names()[column].clone()).collect())
}
