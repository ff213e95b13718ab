//! API keys: a file of names, scopes, limits and hashes.
//!
//! A key is `ew-` and 32 random bytes in hexadecimal. Only its SHA-256 is kept: a key has 256 bits of chance in it, so
//! a slow hash, which protects guessable passwords, would protect nothing here and cost time on each request. Hashes
//! are compared in constant time, with every key of the file.
//!
//! The file is replaced as a whole, by a rename, and readable by its owner alone. A running server reads it again when
//! it has changed, so a revoked key is refused from the next request on.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The longest file that is read, bytes: some thousands of keys.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Keys begin so, to be known for what they are wherever they turn up.
const PREFIX: &str = "ew-";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Answers.
    Chat,
    /// Embeddings and ranking.
    Embed,
    /// Metrics, and to go before others.
    Admin,
}

/// A key, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Key {
    /// By which people know it; unique in the file.
    pub name: String,
    /// SHA-256 of the key, hexadecimal.
    pub sha256: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// Seconds since 1970 after which it is good for nothing.
    pub expires_s: Option<u64>,
    /// Requests in a minute, at most.
    pub requests_per_minute: Option<u32>,
    /// Tokens in and out in a day, at most.
    pub tokens_per_day: Option<u64>,
}

impl Key {
    /// Whether it is no longer good.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        let now_s = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        self.expires_s.is_some_and(|expires_s| expires_s <= now_s)
    }
}

/// Why keys could not be read or changed.
#[derive(Debug)]
pub enum KeyError {
    /// The file could not be read or written.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is none of ours.
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// There is a key of that name.
    NameTaken(String),
    /// There is no key of that name.
    Unknown(String),
    /// A name must be readable in a list and a log.
    BadName(String),
    /// The system gives no random bytes.
    NoRandomness(getrandom::Error),
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeyError::Io { path, .. } => {
                write!(f, "the keys in {} cannot be read or written", path.display())
            }
            KeyError::Damaged { path, .. } => {
                write!(f, "{} is damaged: remove it, and make new keys", path.display())
            }
            KeyError::NameTaken(name) => {
                write!(f, "there is a key {name:?} already: revoke it first, or take another name")
            }
            KeyError::Unknown(name) => write!(f, "there is no key {name:?}; `edgeward keys list` shows all"),
            KeyError::BadName(name) => {
                write!(f, "{name:?} is no name for a key: use 1 to 64 letters, digits, '-', '_' and '.'")
            }
            KeyError::NoRandomness(_) => f.write_str("the system gives no random bytes to make a key of"),
        }
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            KeyError::Io { source, .. } => Some(source),
            KeyError::Damaged { source, .. } => Some(source),
            KeyError::NoRandomness(source) => Some(source),
            KeyError::NameTaken(_) | KeyError::Unknown(_) | KeyError::BadName(_) => None,
        }
    }
}

/// The file of keys.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// At this path, whether it is there yet or not.
    pub fn new(path: impl Into<PathBuf>) -> KeyFile {
        KeyFile { path: path.into() }
    }

    /// All keys; none if there is no file.
    ///
    /// # Errors
    /// If the file cannot be read or is none of ours.
    pub fn load(&self) -> Result<Vec<Key>, KeyError> {
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.len() > MAX_FILE_BYTES => {
                return Err(self.io(io::Error::other("it is too long")));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.io(error)),
        }
        let text = fs::read(&self.path).map_err(|error| self.io(error))?;
        serde_json::from_slice(&text).map_err(|source| KeyError::Damaged { path: self.path.clone(), source })
    }

    /// Makes a key with the rest of `key`'s fields, and gives it: it is told only this once.
    ///
    /// # Errors
    /// If the name is taken or none, or the file cannot be written.
    pub fn add(&self, key: Key) -> Result<String, KeyError> {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=64).contains(&key.name.len()) || !key.name.chars().all(is_fine) {
            return Err(KeyError::BadName(key.name));
        }
        let mut keys = self.load()?;
        if keys.iter().any(|other| other.name == key.name) {
            return Err(KeyError::NameTaken(key.name));
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(KeyError::NoRandomness)?;
        let secret = format!("{PREFIX}{}", hex(&bytes));
        keys.push(Key { sha256: hash(&secret), ..key });
        self.save(&keys)?;
        Ok(secret)
    }

    /// Removes the key of that name.
    ///
    /// # Errors
    /// If there is none, or the file cannot be written.
    pub fn revoke(&self, name: &str) -> Result<(), KeyError> {
        let mut keys = self.load()?;
        let n_before = keys.len();
        keys.retain(|key| key.name != name);
        if keys.len() == n_before {
            return Err(KeyError::Unknown(name.to_owned()));
        }
        self.save(&keys)
    }

    fn save(&self, keys: &[Key]) -> Result<(), KeyError> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let write = || {
            fs::create_dir_all(dir)?;
            // Readable by its owner alone, which is what temporary files are.
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(&serde_json::to_vec_pretty(keys)?)?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|error| self.io(error))
    }

    fn io(&self, source: io::Error) -> KeyError {
        KeyError::Io { path: self.path.clone(), source }
    }
}

/// Why a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such key, or none was given.
    Unknown,
    /// It was good once.
    Expired,
    /// Too many requests in this minute; seconds until the next.
    TooManyRequests(u64),
    /// Too many tokens today; seconds until there are more.
    TooManyTokens(u64),
}

/// Keys in use by a server: as the file has them, and how much each has been used.
#[derive(Debug)]
pub struct KeyRing {
    file: KeyFile,
    state: Mutex<RingState>,
}

#[derive(Debug)]
struct RingState {
    keys: Vec<Key>,
    /// When the file was changed last, as far as we know.
    modified: Option<SystemTime>,
    /// By name. Use is counted from the server's start: a limit is against excess, not an invoice.
    usage: HashMap<String, Usage>,
}

#[derive(Debug)]
struct Usage {
    minute: Instant,
    n_requests: u32,
    day: Instant,
    n_tokens: u64,
}

impl KeyRing {
    /// Keys of that file.
    ///
    /// # Errors
    /// As [`KeyFile::load`].
    pub fn open(file: KeyFile) -> Result<KeyRing, KeyError> {
        let modified = modified(&file.path);
        let state = RingState { keys: file.load()?, modified, usage: HashMap::new() };
        Ok(KeyRing { file, state: Mutex::new(state) })
    }

    /// Whether there is any key.
    pub fn is_empty(&self) -> bool {
        self.state().keys.is_empty()
    }

    /// The key that `secret` is, and counts a request for it.
    ///
    /// # Errors
    /// If it is none, or may not be used now.
    pub fn check(&self, secret: &str, now: Instant) -> Result<Key, Refusal> {
        let digest = hash(secret);
        let state = &mut *self.state();
        let mut found = None;
        for key in &state.keys {
            if bool::from(key.sha256.as_bytes().ct_eq(digest.as_bytes())) {
                found = Some(key.clone());
            }
        }
        let key = found.ok_or(Refusal::Unknown)?;
        if key.is_expired(SystemTime::now()) {
            return Err(Refusal::Expired);
        }
        let usage = state.usage(&key.name, now);
        let left = |since: Instant, span: Duration| span.saturating_sub(now - since).as_secs() + 1;
        if key.requests_per_minute.is_some_and(|most| usage.n_requests >= most) {
            return Err(Refusal::TooManyRequests(left(usage.minute, MINUTE)));
        }
        if key.tokens_per_day.is_some_and(|most| usage.n_tokens >= most) {
            return Err(Refusal::TooManyTokens(left(usage.day, DAY)));
        }
        usage.n_requests += 1;
        Ok(key)
    }

    /// Counts tokens for a key.
    pub fn charge(&self, name: &str, n_tokens: u64, now: Instant) {
        self.state().usage(name, now).n_tokens += n_tokens;
    }

    /// The state, after the file was read again if it has changed. If it cannot be read, the keys known last stand.
    fn state(&self) -> std::sync::MutexGuard<'_, RingState> {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let modified = modified(&self.file.path);
        if modified != state.modified
            && let Ok(keys) = self.file.load()
        {
            state.keys = keys;
            state.modified = modified;
        }
        state
    }
}

impl RingState {
    fn usage(&mut self, name: &str, now: Instant) -> &mut Usage {
        let new = Usage { minute: now, n_requests: 0, day: now, n_tokens: 0 };
        let usage = self.usage.entry(name.to_owned()).or_insert(new);
        if now - usage.minute >= MINUTE {
            (usage.minute, usage.n_requests) = (now, 0);
        }
        if now - usage.day >= DAY {
            (usage.day, usage.n_tokens) = (now, 0);
        }
        usage
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            name: name.to_owned(),
            sha256: String::new(),
            scopes: vec![Scope::Chat],
            expires_s: None,
            requests_per_minute: None,
            tokens_per_day: None,
        }
    }

    fn file() -> (tempfile::TempDir, KeyFile) {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::new(dir.path().join("below/keys.json"));
        (dir, file)
    }

    #[test]
    fn a_key_is_told_once_and_kept_as_a_hash() {
        let (_dir, file) = file();
        assert!(file.load().unwrap().is_empty());
        let secret = file.add(key("phone")).unwrap();
        assert!(secret.len() == 67 && secret.starts_with("ew-"));
        let text = fs::read_to_string(&file.path).unwrap();
        assert!(text.contains("phone") && !text.contains(&secret[3..]));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(matches!(file.add(key("phone")), Err(KeyError::NameTaken(_))));
        for name in ["", "a b", "../x", "\u{202e}x"] {
            assert!(matches!(file.add(key(name)), Err(KeyError::BadName(_))), "{name:?}");
        }
        assert_ne!(file.add(key("other")).unwrap(), secret);
        let ring = KeyRing::open(file).unwrap();
        let now = Instant::now();
        assert_eq!(ring.check(&secret, now).unwrap().name, "phone");
        for wrong in ["", "ew-", &secret[..66], &secret.to_uppercase(), &format!("{secret} ")] {
            assert_eq!(ring.check(wrong, now).unwrap_err(), Refusal::Unknown, "{wrong}");
        }
    }

    #[test]
    fn revoked_and_expired_keys_are_refused() {
        let (_dir, file) = file();
        let first = file.add(key("first")).unwrap();
        let old = file.add(Key { expires_s: Some(1), ..key("old") }).unwrap();
        let ring = KeyRing::open(file.clone()).unwrap();
        let now = Instant::now();
        assert_eq!(ring.check(&old, now).unwrap_err(), Refusal::Expired);
        assert!(ring.check(&first, now).is_ok());
        file.revoke("first").unwrap();
        // The clock of the file system may be coarse, and both changes fall into one tick.
        let later = SystemTime::now() + Duration::from_secs(5);
        fs::File::open(&file.path).unwrap().set_modified(later).unwrap();
        assert_eq!(ring.check(&first, now).unwrap_err(), Refusal::Unknown);
        assert!(matches!(file.revoke("first"), Err(KeyError::Unknown(_))));
    }

    #[test]
    fn quotas_run_out_and_come_back() {
        let (_dir, file) = file();
        let limits = Key { requests_per_minute: Some(2), tokens_per_day: Some(100), ..key("limited") };
        let secret = file.add(limits).unwrap();
        let ring = KeyRing::open(file).unwrap();
        let start = Instant::now();
        assert!(ring.check(&secret, start).is_ok() && ring.check(&secret, start).is_ok());
        let half = start + MINUTE / 2;
        assert_eq!(ring.check(&secret, half).unwrap_err(), Refusal::TooManyRequests(31));
        ring.charge("limited", 100, half);
        let later = start + MINUTE;
        assert!(matches!(ring.check(&secret, later).unwrap_err(), Refusal::TooManyTokens(86_000..)));
        assert!(ring.check(&secret, start + DAY).is_ok());
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let (dir, file) = file();
        file.add(key("a")).unwrap();
        fs::write(&file.path, "[{").unwrap();
        assert!(matches!(file.load(), Err(KeyError::Damaged { .. })));
        let blocked = KeyFile::new(dir.path().join("below/keys.json/keys.json"));
        assert!(matches!(blocked.add(key("a")), Err(KeyError::Io { .. })));
    }
}
