//! Examples from tables, and rows of tables for what was learnt.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use edgeward_perceive::augment::series;
use edgeward_perceive::learner::Input;
use edgeward_perceive::table::{Record, Records, TableError, Window};

use super::Examples;
use super::augment::{Augmentation, JITTER, Plan, WARP};
use crate::commands::net::FileError;

/// Turns the rows of one table into features.
pub(in crate::commands) struct Reader {
    /// Places of the columns that are looked at.
    columns: Vec<usize>,
    series: Option<usize>,
    current: Option<String>,
    window: Window,
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
        let Input::Table { columns, window, series } = input else { panic!("a table's columns are needed") };
        Ok(Reader {
            columns: columns.iter().map(|name| records.column(name)).collect::<Result<_, _>>()?,
            series: series.as_deref().map(|name| records.column(name)).transpose()?,
            current: None,
            window: Window::new(*window, columns.len()),
        })
    }

    /// Of the next row, and those before it in its series; rows of a series come one after the other.
    pub(in crate::commands) fn features(&mut self, record: &Record) -> Result<Vec<f64>, TableError> {
        let row = self.row(record)?;
        Ok(self.window.push(&row))
    }

    /// The numbers of a row; the window is empty if it begins another series.
    fn row(&mut self, record: &Record) -> Result<Vec<f64>, TableError> {
        if let Some(series) = self.series
            && self.current.as_ref() != Some(&record.cells[series])
        {
            self.window.clear();
            self.current = Some(record.cells[series].clone());
        }
        self.columns.iter().map(|column| record.number(*column)).collect()
    }
}

/// Of the tables `paths`, whose column `target` is told by the others that are numbers.
pub(super) fn read(
    paths: &[PathBuf],
    target: &str,
    ignore: &[String],
    series: Option<&str>,
    window: usize,
    like: Option<&Input>,
    plan: impl FnOnce(&Input) -> Result<Option<Plan>, String>,
) -> Result<(Examples, Option<Plan>), Box<dyn std::error::Error>> {
    let mut examples: Option<Examples> = None;
    let mut all = Vec::new();
    for path in paths {
        let named = |error: TableError| FileError::new(path, error);
        let file = File::open(path).map_err(|error| FileError::new(path, error))?;
        let mut records = Records::new(BufReader::new(file)).map_err(named)?;
        let told = records.column(target).map_err(named)?;
        if examples.is_none() {
            let input = match like {
                Some(input) => input.clone(),
                None => {
                    let columns = numbers(&records, target, ignore, series).map_err(named)?;
                    if columns.is_empty() {
                        return Err(FileError::new(path, "no other column is a number").into());
                    }
                    Input::Table { columns, window, series: series.map(str::to_owned) }
                }
            };
            examples = Some(Examples::new(input, target));
        }
        let examples = examples.as_mut().expect("it was made of the first table");
        let mut reader = Reader::new(&records, &examples.input).map_err(named)?;
        let mut before = None;
        for record in records.by_ref() {
            let record = record.map_err(named)?;
            let row = reader.row(&record).map_err(named)?;
            let features = reader.window.push(&row);
            let answer = record.cells[told].trim();
            let example = (!answer.is_empty()).then_some(examples.samples.len());
            if example.is_some() {
                examples.samples.push(&features);
                examples.targets.push(answer.to_owned());
            }
            // A table that follows another, or another name, is another series.
            if before.replace(reader.current.clone()).as_ref() != Some(&reader.current) {
                all.push(Series { columns: vec![Vec::new(); row.len()], examples: Vec::new() });
            }
            if let Some(series) = all.last_mut() {
                series.columns.iter_mut().zip(row).for_each(|(column, x)| column.push(x));
                series.examples.push(example);
            }
        }
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
fn numbers<R: BufRead>(
    records: &Records<R>,
    target: &str,
    ignore: &[String],
    series: Option<&str>,
) -> Result<Vec<String>, TableError> {
    let told = records.column(target)?;
    let mut left_out = vec![told];
    for name in ignore.iter().map(String::as_str).chain(series) {
        left_out.push(records.column(name)?);
    }
    let Some(first) = records.first() else { return Ok(Vec::new()) };
    let is_number = |column: &usize| first.number(*column).is_ok();
    let columns = (0..records.names().len()).filter(|column| !left_out.contains(column)).filter(is_number);
    Ok(columns.map(|column| records.names()[column].clone()).collect())
}
