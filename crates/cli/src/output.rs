//! How results and errors look.

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, IsTerminal, Write};

/// `text` without control characters but line breaks and tabs: a model, a file or a server must not be able to give
/// orders to the terminal.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_order = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(is_order) { Cow::Owned(text.replace(is_order, "\u{FFFD}")) } else { Cow::Borrowed(text) }
}

/// `error: what, and what to do: cause: cause's cause`, each said once.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let paint = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some libraries repeat their cause in their own words.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    let label = if paint { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    format!("{label} {}", printable(&text))
}

/// On which side a column's short cells are filled up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table for people: columns as wide as their widest cell, the header bold on a terminal.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headers and no rows.
    pub fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are columns.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells.iter().map(|cell| printable(cell).into_owned()).collect());
    }

    /// Writes it to standard output.
    pub fn print(&self) -> io::Result<()> {
        let stdout = io::stdout();
        let paint = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        self.write(&mut stdout.lock(), paint)
    }

    fn write(&self, out: &mut impl Write, paint: bool) -> io::Result<()> {
        let header: Vec<String> = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        let lines = || std::iter::once(&header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|idx| lines().map(|cells| cells[idx].chars().count()).max().unwrap_or(0))
            .collect();
        for (line_idx, cells) in lines().enumerate() {
            let mut line = String::new();
            for ((cell, width), (_, align)) in cells.iter().zip(&widths).zip(&self.columns) {
                let width = *width;
                match align {
                    Align::Left => line.push_str(&format!("{cell:<width$}  ")),
                    Align::Right => line.push_str(&format!("{cell:>width$}  ")),
                }
            }
            let line = line.trim_end();
            if paint && line_idx == 0 {
                writeln!(out, "\x1b[1m{line}\x1b[0m")?;
            } else {
                writeln!(out, "{line}")?;
            }
        }
        Ok(())
    }
}

/// Writes `value` to standard output as JSON, indented, with a newline.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Box<dyn Error>> {
    // JSON has its own escapes for control characters.
    print_line(&serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// Like `println!`, but a closed pipe is an error and not a panic.
pub fn print_line(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", printable(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("STATE", Align::Left)]);
        table.row(vec!["a".into(), "94 MiB".into(), "ready".into()]);
        table.row(vec!["longer".into(), "1 B".into(), String::new()]);
        let mut out = Vec::new();
        table.write(&mut out, false).unwrap();
        let expected = "NAME      SIZE  STATE\na       94 MiB  ready\nlonger     1 B\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn nobody_gives_orders_to_the_terminal() {
        assert_eq!(printable("naïve\t你好\n"), "naïve\t你好\n");
        assert_eq!(printable("a\x1b[2J\r\u{9b}2Jb\x07"), "a\u{FFFD}[2J\u{FFFD}\u{FFFD}2Jb\u{FFFD}");
    }

    #[test]
    fn an_error_is_one_line_and_repeats_nothing() {
        #[derive(Debug)]
        struct Outer(io::Error);
        impl std::fmt::Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("could not read x")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let text = error_chain(&Outer(io::Error::other("disk on fire")));
        assert!(text.ends_with("could not read x: disk on fire"), "{text}");
    }
}
