//! What a user calls a model, and what may become a file name.

use std::fmt;
use std::path::PathBuf;

use super::error::StoreError;

/// The name of a model in the store, and of its folder there: 1 to 100 of `A-Z a-z 0-9 . _ -`, the first a letter or
/// a digit. So it is never hidden, an option, a path or a way out of the store, on any system.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelName(String);

impl ModelName {
    /// Checks `name`.
    pub fn new(name: &str) -> Result<ModelName, StoreError> {
        let bytes = name.as_bytes();
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if (1..=100).contains(&bytes.len())
            && bytes[0].is_ascii_alphanumeric()
            && bytes.iter().all(is_allowed)
        {
            Ok(ModelName(name.to_owned()))
        } else {
            Err(StoreError::BadName { name: name.to_owned() })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `name` is one step of a path that goes down: no separator, no `..`, nothing hidden, nothing unprintable.
pub fn is_plain_file_name(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && !name.starts_with('.')
        && !name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\' | ':'))
}

/// A model as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A name, of the store or of the catalogue.
    Name(ModelName),
    /// `hf:org/repo`, or with `/file` one file of it.
    Hub {
        /// `org/repo`.
        repo: String,
        /// The file's path in the repository.
        file: Option<String>,
    },
    /// A file or folder on this machine.
    Path(PathBuf),
}

impl Reference {
    /// `hf:...` is Hugging Face; what has a separator or ends like a model file is a path; all else is a name.
    pub fn parse(text: &str) -> Result<Reference, StoreError> {
        let bad =
            |reason: &str| StoreError::BadReference { reference: text.to_owned(), reason: reason.to_owned() };
        if let Some(hub) = text.strip_prefix("hf:") {
            let steps: Vec<&str> = hub.split('/').collect();
            if !steps.iter().all(|step| is_plain_file_name(step)) {
                return Err(bad("a part of it is empty, hidden or contains '\\', ':' or control characters"));
            }
            return match steps.as_slice() {
                [] | [_] => Err(bad("it names no repository")),
                [org, repo] => Ok(Reference::Hub { repo: format!("{org}/{repo}"), file: None }),
                [org, repo, file @ ..] => {
                    Ok(Reference::Hub { repo: format!("{org}/{repo}"), file: Some(file.join("/")) })
                }
            };
        }
        let is_path = text.contains(std::path::is_separator)
            || [".gguf", ".safetensors"].iter().any(|ending| text.ends_with(ending))
            || matches!(text, "." | "..");
        if is_path {
            return Ok(Reference::Path(PathBuf::from(text)));
        }
        // Whatever cannot be a name may still be a file here ("my model"); a folder without separator can be
        // given as "./folder".
        ModelName::new(text).map(Reference::Name).or_else(|error| {
            let path = PathBuf::from(text);
            if !text.is_empty() && path.exists() { Ok(Reference::Path(path)) } else { Err(error) }
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Name(name) => write!(f, "{name}"),
            Reference::Hub { repo, file: None } => write!(f, "hf:{repo}"),
            Reference::Hub { repo, file: Some(file) } => write!(f, "hf:{repo}/{file}"),
            Reference::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_store() {
        for name in ["smollm2-135m", "Qwen2.5-0.5B_x", "7b"] {
            assert_eq!(ModelName::new(name).unwrap().as_str(), name);
        }
        let long = "a".repeat(101);
        for name in ["", ".", "..", ".hidden", "-rf", "a/b", "a\\b", "a b", "a\0", "é", "a:b", long.as_str()]
        {
            assert!(ModelName::new(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn references() {
        let hub = |repo: &str, file: Option<&str>| Reference::Hub {
            repo: repo.into(),
            file: file.map(str::to_owned),
        };
        assert_eq!(Reference::parse("hf:a/b").unwrap(), hub("a/b", None));
        assert_eq!(Reference::parse("hf:a/b/c.gguf").unwrap(), hub("a/b", Some("c.gguf")));
        assert_eq!(Reference::parse("hf:a/b/c/d.gguf").unwrap(), hub("a/b", Some("c/d.gguf")));
        assert_eq!(Reference::parse("./x").unwrap(), Reference::Path("./x".into()));
        assert_eq!(Reference::parse("x.gguf").unwrap(), Reference::Path("x.gguf".into()));
        assert_eq!(Reference::parse("x").unwrap(), Reference::Name(ModelName::new("x").unwrap()));
        for text in [
            "",
            "hf:",
            "hf:a",
            "hf:a/",
            "hf:/b",
            "hf:a/b/",
            "hf:a/b/../c",
            "hf:a/..",
            "hf:a/b/.git",
            "hf:a/b\\c",
            "a b",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }
}
