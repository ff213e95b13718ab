//! Examples from tables, and rows of tables for what was learnt.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use edgeward_perceive::learner::{Input, Samples};
use edgeward_perceive::table::{Record, Records, TableError, Window};

use super::Examples;
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
        if let Some(series) = self.series
            && self.current.as_ref() != Some(&record.cells[series])
        {
            self.window.clear();
            self.current = Some(record.cells[series].clone());
        }
        let row: Vec<f64> =
            self.columns.iter().map(|column| record.number(*column)).collect::<Result<_, _>>()?;
        Ok(self.window.push(&row))
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
) -> Result<Examples, Box<dyn std::error::Error>> {
    let mut examples: Option<Examples> = None;
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
            examples = Some(Examples {
                samples: Samples::new(input.n_features()),
                input,
                targets: Vec::new(),
                groups: Vec::new(),
                name: target.to_owned(),
            });
        }
        let examples = examples.as_mut().expect("it was made of the first table");
        let mut reader = Reader::new(&records, &examples.input).map_err(named)?;
        for record in records.by_ref() {
            let record = record.map_err(named)?;
            let features = reader.features(&record).map_err(named)?;
            let answer = record.cells[told].trim();
            if !answer.is_empty() {
                examples.samples.push(&features);
                examples.targets.push(answer.to_owned());
            }
        }
    }
    examples.ok_or_else(|| "there is no table".into())
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
