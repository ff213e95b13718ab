//! What was learnt, with all that using it needs, as a file: JSON, so that everybody can look what is in it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Learner;
use crate::sensor::Preparation;
use crate::sound::Clip;
use crate::table::Window;
use crate::vision;

/// What the file calls itself.
const FORMAT: &str = "edgeward learner";
/// Numbers of features are bound to the program's recipe for them: another recipe is another version. Version 1 had no
/// preparation of tables, and is read as one that wants none.
const VERSION: u32 = 2;
/// Rows of the longest window.
pub const MAX_WINDOW: usize = 10_000;

/// A learner, and what its features are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    format: String,
    version: u32,
    /// What it looks at.
    pub input: Input,
    /// What it tells.
    pub answer: Answer,
    /// How.
    pub learner: Learner,
}

/// What features are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// [`vision::features()`] of an image.
    Image,
    /// [`Clip`] of a recording.
    Sound,
    /// The last rows of a table.
    Table {
        /// Names of the columns that are looked at.
        columns: Vec<String>,
        /// Rows of the [`Window`].
        window: usize,
        /// The column that tells series from each other.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        series: Option<String>,
        /// How its measurements are made ready.
        #[serde(skip_serializing_if = "Preparation::is_none", default)]
        preparation: Preparation,
    },
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// One of these classes.
    Class(Vec<String>),
    /// A number of this name.
    Number(String),
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    what: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this is no whole file of `edgeward fit`, make it anew: {}", self.what)
    }
}

impl std::error::Error for FileError {}

impl Input {
    /// Numbers of an example.
    pub fn n_features(&self) -> usize {
        match self {
            Input::Image => vision::features::N_FEATURES,
            Input::Sound => Clip::N_FEATURES,
            Input::Table { columns, window, .. } => Window::n_features(*window, columns.len()),
        }
    }
}

impl Fitted {
    /// What belongs together.
    ///
    /// # Panics
    /// If it does not.
    pub fn new(input: Input, answer: Answer, learner: Learner) -> Fitted {
        let fitted = Fitted { format: FORMAT.to_owned(), version: VERSION, input, answer, learner };
        fitted.check().expect("input, answer and learner belong together");
        fitted
    }

    fn check(&self) -> Result<(), FileError> {
        let wrong = |what: String| Err(FileError { what });
        if self.format != FORMAT {
            return wrong(format!("it calls itself {:?}", self.format));
        }
        if !(1..=VERSION).contains(&self.version) {
            return wrong(format!("it is of version {}, and this program reads {VERSION}", self.version));
        }
        if let Input::Table { columns, window, preparation, .. } = &self.input {
            if columns.is_empty() || !(1..=MAX_WINDOW).contains(window) {
                return wrong(format!("{} columns and {window} rows", columns.len()));
            }
            preparation.check(columns).map_err(|what| FileError { what })?;
        }
        self.learner.check().map_err(|what| FileError { what })?;
        let n_outputs = match &self.answer {
            Answer::Class(names) if names.len() < 2 => return wrong(format!("{} classes", names.len())),
            Answer::Class(names) => names.len(),
            Answer::Number(_) => 1,
        };
        let (n_features, learner) = (self.input.n_features(), &self.learner);
        if learner.n_features() != n_features || learner.n_outputs() != n_outputs {
            return wrong(format!("{n_features} features and {n_outputs} answers for another learner"));
        }
        Ok(())
    }

    /// As a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names are JSON")
    }

    /// From a file.
    ///
    /// # Errors
    /// If it is none, or damaged.
    pub fn from_json(bytes: &[u8]) -> Result<Fitted, FileError> {
        let fitted: Fitted =
            serde_json::from_slice(bytes).map_err(|error| FileError { what: error.to_string() })?;
        fitted.check()?;
        Ok(fitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::{Kind, Samples, Target};

    #[test]
    fn a_file_is_read_as_it_was_written_or_refused() {
        let mut samples = Samples::new(2);
        [[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.2]].iter().for_each(|row| samples.push(row));
        let target = Target::Classes { of: vec![0, 0, 1, 1], n_classes: 2 };
        let learner = Learner::fit(Kind::Linear, &samples, &target).unwrap();
        let preparation = Preparation { every_s: Some(60.0), hampel: Some(3), ..Preparation::default() };
        let input =
            Input::Table { columns: vec!["a".into(), "b".into()], window: 1, series: None, preparation };
        let fitted = Fitted::new(input, Answer::Class(vec!["no".into(), "yes".into()]), learner);
        let text = fitted.to_json();
        let again = Fitted::from_json(text.as_bytes()).unwrap();
        assert_eq!((&again.input, &again.answer), (&fitted.input, &fitted.answer));
        // Numbers come back to their last bit or so.
        let probability = |fitted: &Fitted| fitted.learner.probabilities(&[0.52, 0.5])[0];
        assert!((probability(&again) - probability(&fitted)).abs() < 1e-9);
        // What is left out is not wanted: files of version 1 say nothing of it.
        let old = text.replace("\"version\":2", "\"version\":1");
        let start = old.find(",\"preparation\"").unwrap();
        let end = start + old[start..].find('}').unwrap() + 1;
        let old = Fitted::from_json([&old[..start], &old[end..]].concat().as_bytes()).unwrap();
        assert!(matches!(old.input, Input::Table { preparation, .. } if preparation.is_none()));
        for n in 0..text.len() {
            assert!(Fitted::from_json(&text.as_bytes()[..n]).is_err(), "{n} bytes");
        }
        for (from, to) in [
            ("edgeward learner", "another"),
            ("\"version\":2", "\"version\":3"),
            ("\"every_s\":60.0", "\"every_s\":0.0"),
            ("\"hampel\":3", "\"hampel\":3000"),
            ("\"window\":1", "\"window\":0"),
            ("\"window\":1", "\"window\":4000000000"),
            ("[\"a\",\"b\"]", "[\"a\"]"),
            ("[\"no\",\"yes\"]", "[\"no\"]"),
            ("[\"no\",\"yes\"]", "[\"no\",\"yes\",\"perhaps\"]"),
            ("\"n_features\":2", "\"n_features\":3"),
        ] {
            let damaged = text.replace(from, to);
            assert_ne!(damaged, text);
            assert!(Fitted::from_json(damaged.as_bytes()).is_err(), "{to}");
        }
    }
}
