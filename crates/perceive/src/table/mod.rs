//! Measurements from text, row by row: CSV, or JSON lines.
//!
//! A CSV row is a line; cells are separated by commas, semicolons or tabs, whichever the first line has, and may be
//! quoted (RFC 4180, without line breaks in cells). The first line is a header if the wanted column has no number there.
//! A JSON line is an object. Nothing is guessed: a row with other columns, or without a number where one is wanted, is an
//! error with its line. Only one line is held at a time, of at most [`MAX_LINE_BYTES`].

mod records;
mod window;

pub use records::{Record, Records};
pub use window::Window;

use std::fmt;
use std::io::{self, BufRead};

/// Longer lines are no measurements.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// Names that times have in JSON lines, the first of them that is there.
pub const TIMES: [&str; 3] = ["timestamp", "time", "ts"];

/// What is wrong, and where.
#[derive(Debug)]
pub enum TableError {
    /// Reading failed.
    Io(io::Error),
    /// A line is not what it should be.
    Line {
        /// From 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableError::Io(_) => f.write_str("the measurements could not be read"),
            TableError::Line { line, what } => {
                write!(f, "line {line} of the measurements must be mended: {what}")
            }
        }
    }
}

impl std::error::Error for TableError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TableError::Io(error) => Some(error),
            TableError::Line { .. } => None,
        }
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its line, from 1.
    pub line: u64,
    /// The first cell, if that is not the value: mostly a time.
    pub label: Option<String>,
    /// A finite number.
    pub value: f64,
}

/// The rows of a table, as they come.
pub struct Rows<R> {
    source: R,
    /// By name, or from 1.
    column: Option<String>,
    line: u64,
    text: Vec<u8>,
    layout: Option<Layout>,
    is_over: bool,
}

/// What the first line has told.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Csv { separator: char, n_columns: usize, column: usize },
    JsonLines,
}

impl<R: BufRead> Rows<R> {
    /// The column named `column`, or of that number, from 1; otherwise the last.
    pub fn new(source: R, column: Option<&str>) -> Rows<R> {
        let column = column.map(str::to_owned);
        Rows { source, column, line: 0, text: Vec::new(), layout: None, is_over: false }
    }

    /// The next line that is not empty; `None` at the end.
    fn read_line(&mut self) -> Result<Option<String>, TableError> {
        loop {
            self.text.clear();
            let mut limited = io::Read::take(&mut self.source, MAX_LINE_BYTES as u64 + 1);
            let n_read = limited.read_until(b'\n', &mut self.text).map_err(TableError::Io)?;
            if n_read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if n_read > MAX_LINE_BYTES {
                return Err(self.wrong(format!("it is longer than {MAX_LINE_BYTES} bytes")));
            }
            let text =
                std::str::from_utf8(&self.text).map_err(|_| self.wrong("it is not UTF-8".to_owned()))?;
            // Some programs begin with a byte order mark.
            let text = text.trim_start_matches('\u{feff}').trim_end_matches(['\n', '\r']);
            if !text.trim().is_empty() {
                return Ok(Some(text.to_owned()));
            }
        }
    }

    fn wrong(&self, what: String) -> TableError {
        TableError::Line { line: self.line, what }
    }

    fn next_row(&mut self) -> Result<Option<Row>, TableError> {
        let Some(text) = self.read_line()? else { return Ok(None) };
        match self.layout {
            None if text.trim_start().starts_with('{') => {
                self.layout = Some(Layout::JsonLines);
                self.json_row(&text).map(Some)
            }
            None => {
                let separator =
                    [',', ';', '\t'].into_iter().find(|separator| text.contains(*separator)).unwrap_or(',');
                let cells = self.cells(&text, separator)?;
                let column = self.find_column(&cells)?;
                self.layout = Some(Layout::Csv { separator, n_columns: cells.len(), column });
                // A header has no number where the values are.
                if cells[column].trim().parse::<f64>().is_err() {
                    return self.next_row();
                }
                self.csv_row(cells, column).map(Some)
            }
            Some(Layout::JsonLines) => self.json_row(&text).map(Some),
            Some(Layout::Csv { separator, n_columns, column }) => {
                let cells = self.cells(&text, separator)?;
                if cells.len() != n_columns {
                    let what = format!("it has {} columns, and the first line {n_columns}", cells.len());
                    return Err(self.wrong(what));
                }
                self.csv_row(cells, column).map(Some)
            }
        }
    }

    fn find_column(&self, cells: &[String]) -> Result<usize, TableError> {
        let Some(wanted) = &self.column else { return Ok(cells.len() - 1) };
        if let Some(column) = cells.iter().position(|cell| cell.trim() == wanted) {
            return Ok(column);
        }
        match wanted.parse::<usize>() {
            Ok(number) if (1..=cells.len()).contains(&number) => Ok(number - 1),
            _ => Err(self.wrong(format!("there is no column {wanted} in {cells:?}"))),
        }
    }

    fn csv_row(&self, mut cells: Vec<String>, column: usize) -> Result<Row, TableError> {
        let value = self.number(cells[column].trim())?;
        let label = (column > 0).then(|| cells.swap_remove(0));
        Ok(Row { line: self.line, label, value })
    }

    fn json_row(&self, text: &str) -> Result<Row, TableError> {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
            .map_err(|error| self.wrong(format!("it is no JSON object: {error}")))?;
        let wanted = self.column.as_deref().unwrap_or("value");
        let value = match object.get(wanted) {
            Some(serde_json::Value::Number(number)) => number.as_f64().unwrap_or(f64::NAN),
            Some(other) => return Err(self.wrong(format!("{wanted} is {other}, and must be a number"))),
            None => return Err(self.wrong(format!("it has no {wanted}"))),
        };
        let label = TIMES.into_iter().find_map(|key| object.get(key)).map(|label| match label {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        Ok(Row { line: self.line, label, value })
    }

    fn number(&self, cell: &str) -> Result<f64, TableError> {
        match cell.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(self.wrong(format!("{cell:?} is not a finite number"))),
        }
    }

    /// The cells of a line.
    fn cells(&self, text: &str, separator: char) -> Result<Vec<String>, TableError> {
        let mut cells = vec![String::new()];
        let mut chars = text.chars().peekable();
        let mut is_quoted = false;
        while let Some(c) = chars.next() {
            let cell = cells.last_mut().expect("there is a cell from the start");
            match c {
                '"' if is_quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    cell.push('"');
                }
                '"' if is_quoted || cell.is_empty() => is_quoted = !is_quoted,
                c if c == separator && !is_quoted => cells.push(String::new()),
                c => cell.push(c),
            }
        }
        if is_quoted { Err(self.wrong("a quoted cell does not end".to_owned())) } else { Ok(cells) }
    }
}

impl<R: BufRead> Iterator for Rows<R> {
    type Item = Result<Row, TableError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let row = self.next_row().transpose();
        self.is_over = !matches!(row, Some(Ok(_)));
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, column: Option<&str>) -> Result<Vec<(Option<String>, f64)>, String> {
        let rows = Rows::new(text.as_bytes(), column);
        rows.map(|row| row.map(|row| (row.label, row.value)).map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn tables_of_all_kinds() {
        let label = |text: &str| Some(text.to_owned());
        let plain = rows("1\n2.5\n\n-3e2", None).unwrap();
        assert_eq!(plain, [(None, 1.0), (None, 2.5), (None, -300.0)]);
        let header = rows("\u{feff}time,value\r\n10:00,1\r\n10:05,2\r\n", None).unwrap();
        assert_eq!(header, [(label("10:00"), 1.0), (label("10:05"), 2.0)]);
        let named = rows("t;a;b\n1;2;3\n", Some("a")).unwrap();
        assert_eq!(named, [(label("1"), 2.0)]);
        assert_eq!(rows("t\ta\tb\n1\t2\t3\n", Some("1")).unwrap(), [(None, 1.0)]);
        let quoted = rows("\"a \"\"b\"\", c\",v\n\"x,y\",\"4\"", Some("v")).unwrap();
        assert_eq!(quoted, [(label("x,y"), 4.0)]);
        let json = rows("{\"time\":\"now\",\"value\":1}\n{\"ts\":5,\"value\":2.5}", None).unwrap();
        assert_eq!(json, [(label("now"), 1.0), (label("5"), 2.5)]);
        assert_eq!(rows("{\"deep\":{},\"x\":3}", Some("x")).unwrap(), [(None, 3.0)]);
        assert_eq!(rows("", None).unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, column, expected) in [
            ("t,v\n1,2\n3\n", None, "line 3"),
            ("t,v\n1,2,3\n", None, "3 columns, and the first line 2"),
            ("t,v\n1,NaN\n", None, "\"NaN\" is not a finite number"),
            ("t,v\n1,inf\n", None, "not a finite number"),
            ("t,v\n1,1e999\n", None, "not a finite number"),
            ("t,v\n1,\n", None, "\"\" is not a finite number"),
            ("t,v\n1,two\n", None, "\"two\" is not"),
            ("t,v\n1,2\n", Some("w"), "no column w"),
            ("t,v\n1,2\n", Some("3"), "no column 3"),
            ("t,v\n\"1,2\n", None, "does not end"),
            ("{\"value\":\"x\"}", None, "must be a number"),
            ("{\"value\":1}\n{\"v\":1}", None, "line 2"),
            ("{\"value\":1}\nvalue", None, "no JSON object"),
        ] {
            let error = rows(text, column).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let mut rows = Rows::new(&b"v\n\xff\xfe\n1\n"[..], None);
        assert!(rows.next().unwrap().unwrap_err().to_string().contains("UTF-8"));
        assert!(rows.next().is_none());
    }

    #[test]
    fn a_line_without_end_is_not_held() {
        let endless = io::BufReader::new(io::Read::take(io::repeat(b'7'), 1 << 40));
        let mut rows = Rows::new(endless, None);
        assert!(rows.next().unwrap().unwrap_err().to_string().contains("longer than"));
        assert!(rows.text.capacity() <= 4 * MAX_LINE_BYTES);
    }
}
