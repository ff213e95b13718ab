//! Whole rows of a table: all of their columns by name.

use std::io::BufRead;

use super::{Rows, TIMES, TableError};

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its line, from 1.
    pub line: u64,
    /// As many as there are names.
    pub cells: Vec<String>,
}

impl Record {
    /// The number in cell `column`.
    ///
    /// # Errors
    /// If there is none, or it is not finite.
    pub fn number(&self, column: usize) -> Result<f64, TableError> {
        let cell = self.cells[column].trim();
        match cell.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(TableError::Line { line: self.line, what: format!("{cell:?} is not a finite number") }),
        }
    }
}

/// The rows of a table with a header, as they come: CSV, columns separated by spaces, or JSON lines, whose names are those
/// of the first object.
///
/// A header with one name less than there are cells in the first row is R's: the first cell of each row is its name,
/// and is left out. A table without a header has the numbers of its columns, from 1, as names.
pub struct Records<R> {
    rows: Rows<R>,
    layout: Layout,
    names: Vec<String>,
    /// The first row, read already.
    first: Option<Record>,
    is_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Csv { separator: char, has_row_names: bool },
    Spaces,
    JsonLines,
}

impl<R: BufRead> Records<R> {
    /// Reads as far as the first row.
    ///
    /// # Errors
    /// If there are no two lines, or the first is damaged.
    pub fn new(source: R) -> Result<Records<R>, TableError> {
        let rows = Rows::new(source, None);
        let layout = Layout::JsonLines;
        let mut records = Records { rows, layout, names: Vec::new(), first: None, is_over: false };
        let Some(head) = records.rows.read_line()? else {
            return Err(records.rows.wrong("there are no measurements".to_owned()));
        };
        if head.trim_start().starts_with('{') {
            let object = records.object(&head)?;
            records.names = object.keys().cloned().collect();
            let line = records.rows.line;
            records.first = Some(Record { line, cells: records.json_cells(&object)? });
            return Ok(records);
        }
        let separator = [',', ';', '\t'].into_iter().find(|separator| head.contains(*separator));
        records.layout = match separator {
            Some(separator) => Layout::Csv { separator, has_row_names: false },
            None => Layout::Spaces,
        };
        let cells = records.cells(&head)?;
        if cells.iter().any(|cell| cell.trim().parse::<f64>().is_ok()) {
            records.names = (1..=cells.len()).map(|number| number.to_string()).collect();
            records.first = Some(Record { line: records.rows.line, cells });
            return Ok(records);
        }
        records.names = cells.iter().map(|name| name.trim().to_owned()).collect();
        if let Some(text) = records.rows.read_line()? {
            let mut cells = records.cells(&text)?;
            if let (Layout::Csv { separator, .. }, true) =
                (records.layout, cells.len() == records.names.len() + 1)
            {
                records.layout = Layout::Csv { separator, has_row_names: true };
                cells.remove(0);
            }
            let record = records.record(cells)?;
            records.first = Some(record);
        }
        Ok(records)
    }

    /// Of the columns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The first row, as long as nothing has been read.
    pub fn first(&self) -> Option<&Record> {
        self.first.as_ref()
    }

    /// The column of this name, or of this number, from 1.
    ///
    /// # Errors
    /// If there is none.
    pub fn column(&self, name: &str) -> Result<usize, TableError> {
        let by_name = self.names.iter().position(|other| other == name);
        let by_number = || {
            name.parse().ok().filter(|number| (1..=self.names.len()).contains(number)).map(|n: usize| n - 1)
        };
        by_name.or_else(by_number).ok_or_else(|| TableError::Line {
            line: 1,
            what: format!("there is no column {name} in {:?}", self.names),
        })
    }

    /// The column that says when a row was measured, if there is to be one: the first, in JSON lines that of [`TIMES`].
    pub fn time_column(&self) -> Option<usize> {
        match self.layout {
            Layout::JsonLines => {
                TIMES.iter().find_map(|time| self.names.iter().position(|name| name == time))
            }
            _ => Some(0),
        }
    }

    fn cells(&self, text: &str) -> Result<Vec<String>, TableError> {
        match self.layout {
            Layout::Csv { separator, .. } => self.rows.cells(text, separator),
            _ => Ok(text.split_whitespace().map(str::to_owned).collect()),
        }
    }

    fn object(&self, text: &str) -> Result<serde_json::Map<String, serde_json::Value>, TableError> {
        serde_json::from_str(text).map_err(|error| self.rows.wrong(format!("it is no JSON object: {error}")))
    }

    fn json_cells(
        &self,
        object: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Vec<String>, TableError> {
        let cell = |name: &String| match object.get(name) {
            Some(serde_json::Value::String(text)) => Ok(text.clone()),
            Some(serde_json::Value::Null) => Ok(String::new()),
            Some(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => {
                Ok(value.to_string())
            }
            Some(_) => Err(self.rows.wrong(format!("{name} is neither a number nor a text"))),
            None => Err(self.rows.wrong(format!("it has no {name}"))),
        };
        self.names.iter().map(cell).collect()
    }

    fn record(&self, cells: Vec<String>) -> Result<Record, TableError> {
        if cells.len() != self.names.len() {
            let what = format!("it has {} columns, and the first line {}", cells.len(), self.names.len());
            return Err(self.rows.wrong(what));
        }
        Ok(Record { line: self.rows.line, cells })
    }

    fn next_record(&mut self) -> Result<Option<Record>, TableError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some(text) = self.rows.read_line()? else { return Ok(None) };
        if self.layout == Layout::JsonLines {
            let cells = self.json_cells(&self.object(&text)?)?;
            return Ok(Some(Record { line: self.rows.line, cells }));
        }
        let mut cells = self.cells(&text)?;
        if matches!(self.layout, Layout::Csv { has_row_names: true, .. }) {
            cells.remove(0);
        }
        self.record(cells).map(Some)
    }
}

impl<R: BufRead> Iterator for Records<R> {
    type Item = Result<Record, TableError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let record = self.next_record().transpose();
        self.is_over = !matches!(record, Some(Ok(_)));
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Vec<String>, Vec<Vec<String>>), String> {
        let records = Records::new(text.as_bytes()).map_err(|error| error.to_string())?;
        let names = records.names().to_vec();
        let rows: Result<_, _> = records.map(|record| record.map(|record| record.cells)).collect();
        rows.map(|rows| (names, rows)).map_err(|error: TableError| error.to_string())
    }

    #[test]
    fn tables_of_all_kinds() {
        let expected =
            (vec!["a".into(), "b".into()], vec![vec!["1".into(), "x".into()], vec!["2".into(), "y".into()]]);
        for text in [
            "a,b\n1,x\n2,y\n",
            "a;b\n1;x\n\n2;y",
            "\"a\",\"b\"\n\"1\",1,x\n\"2\",2,y\n",
            "a b\n1 x\n2   y\n",
            "{\"a\":1,\"b\":\"x\"}\n{\"b\":\"y\",\"a\":2}\n",
        ] {
            assert_eq!(read(text).as_ref(), Ok(&expected), "{text}");
        }
        assert_eq!(read("1 2.5\n3 4").unwrap().0, ["1", "2"]);
        assert_eq!(read("1 2.5\n3 4").unwrap().1.len(), 2);
        let records = Records::new(&b"a,b\n1,x\n"[..]).unwrap();
        assert_eq!((records.column("b").unwrap(), records.column("1").unwrap()), (1, 0));
        assert!(records.column("c").is_err() && records.column("3").is_err());
        assert_eq!(records.time_column(), Some(0));
        let time_column = |text: &[u8]| Records::new(text).unwrap().time_column();
        assert_eq!(time_column(b"{\"a\":1,\"time\":2}"), Some(1));
        assert_eq!(time_column(b"{\"a\":1}"), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, expected) in [
            ("", "no measurements"),
            ("a,b\n1,2\n3\n", "line 3"),
            ("a,b\n1\n", "line 2"),
            ("a,b\n1,2,3,4\n", "4 columns"),
            ("{\"a\":1}\n{\"b\":1}\n", "no a"),
            ("{\"a\":[1]}\n", "neither"),
            ("{\"a\":1}\na\n", "no JSON object"),
            ("a,b\n\"1,2\n", "does not end"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let record = Record { line: 7, cells: vec!["inf".into()] };
        assert!(record.number(0).unwrap_err().to_string().contains("line 7"));
    }
}
