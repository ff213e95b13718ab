//! Computed prompts on the disk, so that they are there after a restart: a file for each page of keys and values, encrypted.
//!
//! Pages of prompts are handed to a thread that writes them; answers wait for no disk. After a start they are read back
//! one by one while nobody wants anything else, as many as memory keeps ([`DiskCache::restore`]).
//!
//! A file is
//!
//! ```text
//! magic        8 bytes
//! parent      16 bytes   name of the page before, zeros for the first
//! nonce       12 bytes   chance
//! ciphertext             tokens of the page, u32 little-endian each (all ones where there is none), then its keys and
//!                        values
//! tag         16 bytes
//! ```
//!
//! by ChaCha20-Poly1305 (RFC 8439), which is fast on processors without instructions for ciphers, too. A file's name is a keyed
//! hash of the model, of all tokens up to the page's end and so of the page before; name, parent and model are
//! authenticated with the content. So a file that was damaged, renamed, or written for another model, another kind of keys
//! and values, another version of this program or with another key is found out when it is read, and removed. Without the
//! key one can see how long prompts are, when they were used, and which begin alike; neither their tokens nor whether a
//! guess at them is right.
//!
//! Invariants: the files have at most `max_bytes` together but for one that is being written; what was unused longest goes
//! first, and no page before those that go on from it; one process at a time uses a folder.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use edgeward_engine::{Engine, KvPage, PAGE_LEN, Sequence};
use edgeward_model::Model;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"EWPAGE1\0";
const NAME_LEN: usize = 16;
const HEAD_LEN: usize = MAGIC.len() + NAME_LEN + NONCE_LEN;
const TOKENS_LEN: usize = 4 * PAGE_LEN;
/// Stands in a file where a page that is only begun has no token.
const NO_TOKEN: u32 = u32::MAX;
/// The last page of a prompt is kept if it has so many tokens: fewer are computed as fast as read.
const MIN_END: usize = 16;
/// Ends read for one prompt, at most; which of them it begins with is only known when they have been.
const MAX_ENDS: usize = 4;
const KEY_LEN: usize = 32;
/// Pages on their way to the disk, bytes: those beyond are not kept. They are in memory anyway, unless the memory's cache
/// has forgotten them meanwhile.
const MAX_QUEUED_BYTES: usize = 128 << 20;
/// A page's time of use is not written anew within this time.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);
/// Pages of models that are not served any more are kept so long.
const FOREIGN_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Names a page by everything up to its end.
type Name = [u8; NAME_LEN];

/// Why the disk cannot be used.
#[derive(Debug)]
pub enum DiskError {
    /// A file or folder could not be read or written.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key is not one, or others can read it.
    BadKey {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another process uses the folder.
    InUse {
        /// Which.
        path: PathBuf,
    },
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::Io { path, source } => {
                write!(f, "could not keep prompts on the disk: {}: {source}", path.display())
            }
            DiskError::BadKey { path, reason } => write!(
                f,
                "the key {} {reason}: remove it, and a new one is made; what was kept with it is lost",
                path.display()
            ),
            DiskError::InUse { path } => write!(
                f,
                "another server keeps its prompts in {}: give this one another folder with --disk-cache",
                path.display()
            ),
        }
    }
}

impl std::error::Error for DiskError {}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { path, source }
}

/// What pages depend on besides tokens: the weights, the hyperparameters, how keys and values are kept, and the arithmetic
/// of this version. Reads the whole model.
pub fn model_id(model: &Model, engine: &Engine) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(format!("{:?} {}", model.config(), engine.kv_id()));
    for (slot, tensor) in model.tensors() {
        hash.update(format!("{slot:?} {:?} {} {}", tensor.dtype, tensor.n_rows, tensor.n_cols));
        hash.update(tensor.data);
    }
    hash.finalize().into()
}

/// See the [module's text](self).
pub struct DiskCache {
    seal: Arc<Seal>,
    dir: PathBuf,
    sender: Option<SyncSender<Order>>,
    writer: Option<JoinHandle<()>>,
    n_bytes: Arc<AtomicU64>,
    /// To be read back, the next last; a page after the one before it.
    pending: Vec<(Name, Name)>,
    /// What has been read back, while there is more to come that may go on from it.
    restored: HashMap<Name, Sequence>,
    /// Held while the folder is in use.
    _lock: File,
}

enum Order {
    Keep { name: Name, parent: Name, tokens: Vec<u32>, page: Arc<KvPage> },
    Remove(Name),
}

impl DiskCache {
    /// Opens, or makes, the part of the folder `dir` that belongs to this model. Files take at most `max_bytes`, pages have
    /// `page_bytes`, and `max_restored` of them will be read back, those used last. The key is read from `key_path`, or
    /// made there.
    ///
    /// # Errors
    /// If the folder or the key cannot be used.
    pub fn open(
        dir: &Path,
        key_path: &Path,
        model_id: [u8; 32],
        max_bytes: u64,
        (page_bytes, max_restored): (usize, usize),
    ) -> Result<DiskCache, DiskError> {
        let seal = Arc::new(Seal::new(&key(key_path)?, model_id));
        make_private_dir(dir)?;
        let own = dir.join(hex(&seal.folder_name()));
        make_private_dir(&own)?;
        let lock_path = own.join("lock");
        let lock = File::create(&lock_path).map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DiskError::InUse { path: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(DiskError::Io { path: lock_path, source }),
        }
        remove_old_folders(dir, &own);
        let mut index = Index::read(&own, max_bytes).map_err(failed(&own))?;
        index.evict();
        let n_bytes = Arc::new(AtomicU64::new(index.n_bytes));
        let pending = index.restored(max_restored);
        let (sender, receiver) = sync_channel((MAX_QUEUED_BYTES / page_bytes.max(1)).clamp(16, 1024));
        let (writer_seal, writer_bytes) = (Arc::clone(&seal), Arc::clone(&n_bytes));
        let writer = std::thread::Builder::new()
            .name("disk cache".into())
            .spawn(move || write_all(index, &writer_seal, &receiver, &writer_bytes))
            .map_err(failed(&own))?;
        Ok(DiskCache {
            seal,
            dir: own,
            sender: Some(sender),
            writer: Some(writer),
            n_bytes,
            pending,
            restored: HashMap::new(),
            _lock: lock,
        })
    }

    /// Bytes of its files.
    pub fn size_bytes(&self) -> u64 {
        self.n_bytes.load(Ordering::Relaxed)
    }

    /// Hands the pages of a sequence to the disk; those that are there already count as used.
    /// Only those of the model itself: adapters come and go.
    pub fn keep(&self, sequence: &Sequence) {
        let Some(sender) = self.sender.as_ref().filter(|_| sequence.adapters().is_empty()) else { return };
        let mut parent = Name::default();
        for (idx, tokens) in sequence.tokens().chunks(PAGE_LEN).enumerate() {
            if tokens.len() < MIN_END {
                return;
            }
            let tokens = padded(tokens);
            let name = self.seal.name(&parent, &tokens);
            let page = Arc::clone(sequence.page(idx));
            // A disk that is slower than the prompts come keeps fewer of them.
            if sender.try_send(Order::Keep { name, parent, tokens: tokens.to_vec(), page }).is_err() {
                return;
            }
            parent = name;
        }
    }

    /// Reads one page back; none, once all have been.
    pub fn restore(&mut self, engine: &mut Engine) -> Option<Sequence> {
        while let Some((name, parent)) = self.pending.pop() {
            if let Some(sequence) = self.read(engine, name, parent) {
                self.restored.insert(name, sequence.fork());
                return Some(sequence);
            }
            // Not ours, or damaged, or what it goes on from was.
            if let Some(sender) = &self.sender {
                let _ = sender.try_send(Order::Remove(name));
            }
        }
        self.restored.clear();
        None
    }

    /// Reads those pages back that a prompt begins with, if they have not been yet: who asks soon after the start need not
    /// wait until all are there. The beginnings that could be read.
    pub fn restore_prompt(&mut self, engine: &mut Engine, prompt: &[u32]) -> Vec<Sequence> {
        let mut longest = None;
        let mut parent = Name::default();
        for tokens in prompt.as_chunks::<PAGE_LEN>().0 {
            if self.pending.is_empty() {
                break;
            }
            let name = self.seal.name(&parent, tokens);
            if !self.restored.contains_key(&name) {
                // What is not there, or cannot be read, is computed; `restore` sees to a damaged file.
                let Some(sequence) = self.take(engine, name, parent) else { break };
                longest = Some(sequence);
            }
            parent = name;
        }
        let mut found: Vec<Sequence> = longest.into_iter().collect();
        if parent != Name::default() {
            let ends: Vec<(Name, Name)> =
                self.pending.iter().filter(|(_, before)| *before == parent).take(MAX_ENDS).copied().collect();
            found.extend(ends.into_iter().filter_map(|(name, parent)| self.take(engine, name, parent)));
        }
        found
    }

    /// A page that waits to be restored, with all before it.
    fn take(&mut self, engine: &mut Engine, name: Name, parent: Name) -> Option<Sequence> {
        let at = self.pending.iter().position(|(pending, _)| *pending == name)?;
        let sequence = self.read(engine, name, parent)?;
        self.pending.remove(at);
        self.restored.insert(name, sequence.fork());
        Some(sequence)
    }

    fn read(&self, engine: &mut Engine, name: Name, parent: Name) -> Option<Sequence> {
        let mut sequence = match parent == Name::default() {
            true => engine.new_sequence(),
            false => self.restored.get(&parent)?.fork(),
        };
        let file_len = HEAD_LEN + TOKENS_LEN + engine.kv_bytes(1) + CHACHA20_POLY1305.tag_len();
        let mut file = File::open(path_of(&self.dir, &name)).ok()?;
        if file.metadata().ok()?.len() != file_len as u64 {
            return None;
        }
        let mut bytes = Vec::with_capacity(file_len);
        file.read_to_end(&mut bytes).ok()?;
        let (tokens, page) = self.seal.open(&name, &parent, &mut bytes)?;
        let len = tokens.iter().position(|token| *token == NO_TOKEN).unwrap_or(PAGE_LEN);
        engine.restore_page(&mut sequence, &tokens[..len], page).ok()?;
        Some(sequence)
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        // What has been handed over is written first.
        drop(self.sender.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// The keys of one model's files.
struct Seal {
    cipher: LessSafeKey,
    name_key: [u8; 32],
    model_id: [u8; 32],
}

impl Seal {
    fn new(key: &[u8; KEY_LEN], model_id: [u8; 32]) -> Seal {
        // One secret, a key for each purpose.
        let derive = |purpose: &str| -> [u8; 32] {
            Sha256::new().chain_update(key).chain_update(purpose).finalize().into()
        };
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, &derive("content")).expect("32 bytes are a key");
        Seal { cipher: LessSafeKey::new(unbound), name_key: derive("name"), model_id }
    }

    fn hash(&self, purpose: &[u8], parts: &[&[u8]]) -> Name {
        let mut hash =
            Sha256::new().chain_update(self.name_key).chain_update(purpose).chain_update(self.model_id);
        parts.iter().for_each(|part| hash.update(part));
        *hash.finalize().first_chunk().expect("a hash has 32 bytes")
    }

    fn folder_name(&self) -> Name {
        self.hash(b"folder", &[])
    }

    fn name(&self, parent: &Name, tokens: &[u32; PAGE_LEN]) -> Name {
        self.hash(b"page  ", &[parent, &to_bytes(tokens)])
    }

    fn bound_to(&self, name: &Name, parent: &Name) -> Aad<Vec<u8>> {
        Aad::from([&MAGIC[..], &self.model_id, name, parent].concat())
    }

    /// The file of a page; none if the system gives no chance.
    fn seal(&self, name: &Name, parent: &Name, tokens: &[u32], page: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let mut content = Vec::with_capacity(TOKENS_LEN + page.len() + CHACHA20_POLY1305.tag_len());
        content.extend(to_bytes(tokens));
        content.extend_from_slice(page);
        let bound = self.bound_to(name, parent);
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        self.cipher.seal_in_place_append_tag(nonce_used, bound, &mut content).ok()?;
        Some([&MAGIC[..], parent, &nonce, &content].concat())
    }

    /// Tokens and page of a file, which is decrypted in place; none if it is not what it should be.
    fn open<'a>(
        &self,
        name: &Name,
        parent: &Name,
        file: &'a mut [u8],
    ) -> Option<([u32; PAGE_LEN], &'a [u8])> {
        let (head, content) = file.split_at_mut_checked(HEAD_LEN)?;
        let nonce = head.last_chunk::<NONCE_LEN>()?;
        if !head.starts_with(MAGIC) || head[MAGIC.len()..][..NAME_LEN] != *parent {
            return None;
        }
        let bound = self.bound_to(name, parent);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let content: &[u8] = self.cipher.open_in_place(nonce, bound, content).ok()?;
        let (tokens, page) = content.split_at_checked(TOKENS_LEN)?;
        let mut ids = [0; PAGE_LEN];
        ids.iter_mut().zip(tokens.as_chunks().0).for_each(|(id, bytes)| *id = u32::from_le_bytes(*bytes));
        (self.name(parent, &ids) == *name).then_some((ids, page))
    }
}

/// A page's tokens as they stand in its file.
fn padded(tokens: &[u32]) -> [u32; PAGE_LEN] {
    let mut padded = [NO_TOKEN; PAGE_LEN];
    padded[..tokens.len()].copy_from_slice(tokens);
    padded
}

fn to_bytes(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Name> {
    let mut name = Name::default();
    if text.len() != 2 * NAME_LEN || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (i, byte) in name.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(name)
}

fn path_of(dir: &Path, name: &Name) -> PathBuf {
    dir.join(hex(name)).with_extension("page")
}

/// The name that a page's file has; none of other files.
fn name_of(path: &Path) -> Option<Name> {
    let is_page = path.extension().is_some_and(|extension| extension == "page");
    path.file_stem().and_then(|stem| stem.to_str()).and_then(from_hex).filter(|_| is_page)
}

/// The key at `path`; a new one if there is none.
fn key(path: &Path) -> Result<[u8; KEY_LEN], DiskError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed(parent))?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(mut file) => {
            let mut key = [0; KEY_LEN];
            getrandom::fill(&mut key).map_err(|error| failed(path)(io::Error::other(error)))?;
            file.write_all(&key).and_then(|()| file.sync_all()).map_err(failed(path))?;
            return Ok(key);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(path)(error)),
    }
    let file = File::open(path).map_err(failed(path))?;
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata().map_err(failed(path))?);
        if mode & 0o077 != 0 {
            return Err(DiskError::BadKey { path: path.to_owned(), reason: "can be read by others" });
        }
    }
    let mut bytes = Vec::new();
    file.take(KEY_LEN as u64 + 1).read_to_end(&mut bytes).map_err(failed(path))?;
    let wrong = |_| DiskError::BadKey { path: path.to_owned(), reason: "has not 32 bytes" };
    bytes.try_into().map_err(wrong)
}

fn make_private_dir(path: &Path) -> Result<(), DiskError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(failed(path))
}

/// Removes pages of other models that have been unused for long. Nothing but pages, wherever the folder may be.
fn remove_old_folders(dir: &Path, own: &Path) {
    let others = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_other =
        |path: &PathBuf| path != own && path.file_name().and_then(|name| from_hex(name.to_str()?)).is_some();
    for folder in others.filter(is_other) {
        for file in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let used = file.metadata().and_then(|metadata| metadata.modified());
            let age = used.ok().and_then(|used| used.elapsed().ok()).unwrap_or_default();
            if name_of(&file.path()).is_some() && age > FOREIGN_AGE {
                let _ = fs::remove_file(file.path());
            }
        }
        if fs::read_dir(&folder).is_ok_and(|rest| rest.flatten().all(|file| file.file_name() == "lock")) {
            let _ = fs::remove_file(folder.join("lock"));
            let _ = fs::remove_dir(&folder);
        }
    }
}

/// What is on the disk, and which goes first.
struct Index {
    dir: PathBuf,
    max_bytes: u64,
    n_bytes: u64,
    entries: HashMap<Name, Entry>,
    /// Grows with every use.
    clock: u64,
}

struct Entry {
    parent: Name,
    n_bytes: u64,
    /// By the index's clock; of a page no earlier than of those that go on from it.
    last_used: u64,
    /// When the file's time was set.
    touched: SystemTime,
}

impl Index {
    /// Of the files in `dir`. What is none of ours by its first bytes, or goes on from nothing, is removed.
    fn read(dir: &Path, max_bytes: u64) -> io::Result<Index> {
        let mut index =
            Index { dir: dir.to_owned(), max_bytes, n_bytes: 0, entries: HashMap::new(), clock: 0 };
        for file in fs::read_dir(dir)? {
            let path = file?.path();
            let Some(name) = name_of(&path) else {
                if path.extension().is_some_and(|extension| extension == "new") {
                    // It was being written when the process ended.
                    let _ = fs::remove_file(&path);
                }
                continue;
            };
            match head(&path) {
                Ok(Some(entry)) => {
                    index.n_bytes += entry.n_bytes;
                    index.entries.insert(name, entry);
                }
                _ => drop(fs::remove_file(&path)),
            }
        }
        loop {
            let is_lost =
                |entry: &Entry| entry.parent != Name::default() && !index.entries.contains_key(&entry.parent);
            let lost: Vec<Name> =
                index.entries.iter().filter(|(_, entry)| is_lost(entry)).map(|(name, _)| *name).collect();
            if lost.is_empty() {
                break;
            }
            lost.iter().for_each(|name| index.remove(name));
        }
        let mut by_age: Vec<(SystemTime, Name)> =
            index.entries.iter().map(|(name, entry)| (entry.touched, *name)).collect();
        by_age.sort_unstable();
        by_age.iter().for_each(|(_, name)| index.use_it(name));
        Ok(index)
    }

    /// Names and parents of the `n_pages` pages used last, and of no page without the one before it; the next to be read
    /// last. Those used first are read first, as memory's cache forgets what was put there first.
    fn restored(&self, n_pages: usize) -> Vec<(Name, Name)> {
        let mut all: Vec<(&Name, &Entry)> = self.entries.iter().collect();
        // A page was used no earlier than those that go on from it.
        all.sort_unstable_by_key(|(_, entry)| std::cmp::Reverse(entry.last_used));
        all.truncate(n_pages);
        let chosen: HashSet<Name> = all.iter().map(|(name, _)| **name).collect();
        let (mut order, mut done) = (Vec::new(), HashSet::new());
        for (name, _) in all.into_iter().rev() {
            let mut chain = Vec::new();
            let mut at = *name;
            while chosen.contains(&at) && done.insert(at) {
                let parent = self.entries[&at].parent;
                chain.push((at, parent));
                at = parent;
            }
            order.extend(chain.into_iter().rev());
        }
        order.reverse();
        order
    }

    /// This page has been used, and so have those before it.
    fn use_it(&mut self, name: &Name) {
        let mut at = *name;
        // Names are hashes of those before them, so there is no circle; a file may claim one all the same.
        for _ in 0..=self.entries.len() {
            self.clock += 1;
            let Some(entry) = self.entries.get_mut(&at) else { break };
            entry.last_used = self.clock;
            at = entry.parent;
        }
    }

    fn remove(&mut self, name: &Name) {
        if let Some(entry) = self.entries.remove(name) {
            self.n_bytes -= entry.n_bytes;
        }
        // What cannot be removed is found again at the next start.
        let _ = fs::remove_file(path_of(&self.dir, name));
    }

    fn evict(&mut self) {
        while self.n_bytes > self.max_bytes {
            let Some((&oldest, _)) = self.entries.iter().min_by_key(|(_, entry)| entry.last_used) else {
                return;
            };
            self.remove(&oldest);
        }
    }

    /// Writes a page, or counts it as used.
    fn keep(&mut self, seal: &Seal, (name, parent): (Name, Name), tokens: &[u32], page: &[u8]) {
        let now = SystemTime::now();
        let path = path_of(&self.dir, &name);
        if let Some(entry) = self.entries.get_mut(&name) {
            if now.duration_since(entry.touched).is_ok_and(|age| age > TOUCH_INTERVAL) {
                entry.touched = now;
                let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(now));
            }
        } else {
            // One whose beginning has not been kept is of no use.
            let has_parent = parent == Name::default() || self.entries.contains_key(&parent);
            let file = seal.seal(&name, &parent, tokens, page).filter(|_| has_parent);
            let Some(file) = file.filter(|file| file.len() as u64 <= self.max_bytes) else { return };
            if write_whole(&path, &file).is_err() {
                // A full disk must not end the service: there are fewer pages then.
                return;
            }
            let n_bytes = file.len() as u64;
            self.n_bytes += n_bytes;
            self.entries.insert(name, Entry { parent, n_bytes, last_used: 0, touched: now });
        }
        self.use_it(&name);
        self.evict();
    }
}

/// What the first bytes of a file say; none if it is not one of ours.
fn head(path: &Path) -> io::Result<Option<Entry>> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut head = [0; HEAD_LEN];
    if !metadata.is_file() || metadata.len() < HEAD_LEN as u64 {
        return Ok(None);
    }
    file.read_exact(&mut head)?;
    let parent = *head[MAGIC.len()..].first_chunk().expect("a head is longer");
    let entry = Entry { parent, n_bytes: metadata.len(), last_used: 0, touched: metadata.modified()? };
    Ok(head.starts_with(MAGIC).then_some(entry))
}

/// A file appears whole or not at all. After a power cut it may be damaged; then it is found out when it is read.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&new).and_then(|mut file| file.write_all(bytes));
    let renamed = written.and_then(|()| fs::rename(&new, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&new);
    }
    renamed
}

/// The thread: until nobody can send any more.
fn write_all(mut index: Index, seal: &Seal, receiver: &Receiver<Order>, n_bytes: &AtomicU64) {
    for order in receiver {
        match order {
            Order::Keep { name, parent, tokens, page } => {
                index.keep(seal, (name, parent), &tokens, page.bytes());
            }
            Order::Remove(name) => index.remove(&name),
        }
        n_bytes.store(index.n_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
