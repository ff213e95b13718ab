//! Chinese words by a list of them with how often they occur: of all ways to cut, the one whose words are likeliest together.
//!
//! That is what jieba does without its model for unknown words, and its list can be given as it is. None is part of the
//! program: the usual one has five megabytes, more than many a device has room for, and each trade has words of its own.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead};

/// Bytes of a line, and of all lines.
const MAX_LINE_BYTES: usize = 4096;
const MAX_BYTES: usize = 64 << 20;

/// Words and the logarithms of their shares.
#[derive(Clone, Debug)]
pub struct Dictionary {
    logs: HashMap<Box<str>, f64>,
    /// Of a character that is in no word.
    log_of_unknown: f64,
    /// Bytes of the longest word.
    longest: usize,
}

/// Why a list is none.
#[derive(Debug)]
pub enum DictionaryError {
    /// Reading failed.
    Io(io::Error),
    /// A line is not what it should be.
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

impl fmt::Display for DictionaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DictionaryError::Io(_) => f.write_str("the list of words could not be read"),
            DictionaryError::Line { line, what } => {
                write!(f, "line {line} of the list of words must be a word and how often it occurs: {what}")
            }
        }
    }
}

impl std::error::Error for DictionaryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DictionaryError::Io(error) => Some(error),
            DictionaryError::Line { .. } => None,
        }
    }
}

impl Dictionary {
    /// Of lines with a word, a space, and how often it occurs; what follows, as the kind of word, is not looked at.
    ///
    /// # Errors
    /// If a line is something else, or there are none, or more than 64 MiB.
    pub fn read(mut source: impl BufRead) -> Result<Dictionary, DictionaryError> {
        let mut counts: HashMap<Box<str>, u64> = HashMap::new();
        let (mut line, mut n_bytes, mut text) = (0, 0, Vec::new());
        loop {
            text.clear();
            let mut limited = io::Read::take(&mut source, MAX_LINE_BYTES as u64 + 1);
            let n_read = limited.read_until(b'\n', &mut text).map_err(DictionaryError::Io)?;
            if n_read == 0 {
                break;
            }
            line += 1;
            n_bytes += n_read;
            let wrong = |what: &str| DictionaryError::Line { line, what: what.to_owned() };
            if n_read > MAX_LINE_BYTES || n_bytes > MAX_BYTES {
                return Err(wrong("it is too long, or too many lines are before it"));
            }
            let text = std::str::from_utf8(&text).map_err(|_| wrong("it is not UTF-8"))?;
            let mut cells = text.trim_start_matches('\u{feff}').split_whitespace();
            let Some(word) = cells.next() else { continue };
            let count = cells.next().and_then(|cell| cell.parse().ok());
            let count: u64 = count.ok_or_else(|| wrong(&format!("behind {word} there is no number")))?;
            if count > 0 {
                counts.insert(word.into(), count);
            }
        }
        let total = counts.values().map(|count| *count as f64).sum::<f64>();
        if total == 0.0 {
            return Err(DictionaryError::Line { line: line.max(1), what: "there are no words".to_owned() });
        }
        let longest = counts.keys().map(|word| word.len()).max().unwrap_or(0);
        let logs = counts.into_iter().map(|(word, count)| (word, (count as f64).ln() - total.ln())).collect();
        Ok(Dictionary { logs, log_of_unknown: -total.ln(), longest })
    }

    /// The words of a text without spaces. Of two ways that are as likely, the one with the longer first word.
    pub fn cut<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let ends: Vec<usize> = text.char_indices().map(|(at, c)| at + c.len_utf8()).collect();
        let n = ends.len();
        let begin = |i: usize| if i == 0 { 0 } else { ends[i - 1] };
        // From each character on: the likeliest way's logarithm, and after how many characters its first word ends.
        let mut ways = vec![(0.0, n); n + 1];
        for i in (0..n).rev() {
            let mut best = (f64::NEG_INFINITY, i + 1);
            for j in i + 1..=n {
                let word = &text[begin(i)..ends[j - 1]];
                if word.len() > self.longest && j > i + 1 {
                    break;
                }
                let log = match self.logs.get(word) {
                    Some(log) => *log,
                    None if j == i + 1 => self.log_of_unknown,
                    None => continue,
                };
                let way = log + ways[j].0;
                if way >= best.0 {
                    best = (way, j);
                }
            }
            ways[i] = best;
        }
        let mut words = Vec::new();
        let mut i = 0;
        while i < n {
            let j = ways[i].1;
            words.push(&text[begin(i)..ends[j - 1]]);
            i = j;
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_cut_wins() {
        let read = |text: &str| Dictionary::read(text.as_bytes());
        let dictionary = read("ab 10 n\nabc 1\nc 20\nbc 15\na 5\n\n").unwrap();
        assert_eq!(dictionary.cut("abc"), ["ab", "c"]);
        assert_eq!(dictionary.cut("xbcy"), ["x", "bc", "y"]);
        assert_eq!(dictionary.cut(""), Vec::<&str>::new());
        for (text, expected) in [
            ("", "no words"),
            ("a", "no number"),
            ("a b", "line 1"),
            ("a 1\nb -1", "line 2"),
            ("a 0", "no words"),
        ] {
            assert!(read(text).unwrap_err().to_string().contains(expected), "{text}");
        }
        assert!(read(&"x".repeat(5000)).unwrap_err().to_string().contains("too long"));
    }
}
