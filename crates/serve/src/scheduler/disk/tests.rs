use super::*;

use edgeward_engine::CancelToken;
use tempfile::TempDir;

use crate::scheduler::tests::tiny_engine;

const MODEL: [u8; 32] = [7; 32];
/// Of a file of the tiny model's.
fn file_bytes(engine: &Engine) -> u64 {
    (HEAD_LEN + TOKENS_LEN + engine.kv_bytes(1) + CHACHA20_POLY1305.tag_len()) as u64
}

fn tokens(n: usize, from: usize, seed: u32) -> Vec<u32> {
    (0..n).map(|i| (i as u32 * 7 + if i < from { 0 } else { seed }) % 200 + 10).collect()
}

fn sequence(engine: &mut Engine, tokens: &[u32]) -> Sequence {
    let mut sequence = engine.new_sequence();
    engine.prefill(&mut sequence, tokens, &CancelToken::new()).unwrap();
    sequence
}

fn try_open(
    dir: &Path,
    model: [u8; 32],
    max_bytes: u64,
    max_restored: usize,
) -> Result<DiskCache, DiskError> {
    let page_bytes = tiny_engine().kv_bytes(1);
    DiskCache::open(&dir.join("cache"), &dir.join("key"), model, max_bytes, (page_bytes, max_restored))
}

fn open(dir: &TempDir) -> DiskCache {
    try_open(dir.path(), MODEL, 1 << 30, 1000).unwrap()
}

/// All that is read back.
fn restored(mut cache: DiskCache) -> Vec<Sequence> {
    let mut engine = tiny_engine();
    std::iter::from_fn(|| cache.restore(&mut engine)).collect()
}

/// Its files with pages.
fn pages(dir: &TempDir) -> Vec<PathBuf> {
    let folders = fs::read_dir(dir.path().join("cache")).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    files.filter(|path| name_of(path).is_some()).collect()
}

#[test]
fn what_was_kept_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = tiny_engine();
    let prompt = tokens(200, 0, 0);
    let mut before = sequence(&mut engine, &prompt);
    let cache = open(&dir);
    cache.keep(&before);
    cache.keep(&sequence(&mut engine, &tokens(150, 100, 1)));
    drop(cache);
    // Three whole pages, and the second and the end of the other: the first is the same, and 8 tokens are too few to be kept.
    assert_eq!(pages(&dir).len(), 5);
    let cache = open(&dir);
    assert_eq!(cache.size_bytes(), 5 * file_bytes(&engine));
    let mut all = restored(cache);
    let lens: Vec<usize> = all.iter().map(Sequence::len).collect();
    assert_eq!(lens.iter().sum::<usize>(), (1 + 2 + 2 + 3) * PAGE_LEN + 150, "{lens:?}");
    // What has only been begun goes on, too.
    let mut end = all.remove(lens.iter().position(|len| *len == 150).unwrap());
    let lens: Vec<usize> = all.iter().map(Sequence::len).collect();
    let mut alone = sequence(&mut engine, &tokens(150, 100, 1));
    let expected = engine.decode(&mut [(&mut alone, 20)]).unwrap();
    assert_eq!(tiny_engine().decode(&mut [(&mut end, 20)]).unwrap().row(0), expected.row(0));
    let mut longest = all.remove(lens.iter().position(|len| *len == 3 * PAGE_LEN).unwrap());
    assert_eq!(longest.tokens(), &prompt[..3 * PAGE_LEN]);
    // It goes on as if it had never been away.
    let mut elsewhere = tiny_engine();
    elsewhere.prefill(&mut longest, &prompt[3 * PAGE_LEN..], &CancelToken::new()).unwrap();
    let expected = engine.decode(&mut [(&mut before, 20)]).unwrap();
    assert_eq!(elsewhere.decode(&mut [(&mut longest, 20)]).unwrap().row(0), expected.row(0));
}

#[test]
fn a_prompt_brings_its_own_pages_back_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = tiny_engine();
    let cache = open(&dir);
    let prompts = [0, 1, 2].map(|seed| tokens(200, 0, seed));
    prompts.iter().for_each(|prompt| cache.keep(&sequence(&mut engine, prompt)));
    drop(cache);
    let mut cache = open(&dir);
    let found = cache.restore_prompt(&mut engine, &tokens(400, 150, 9));
    // The page that goes on differently comes along: its beginning is the same.
    let found: Vec<&[u32]> = found.iter().map(Sequence::tokens).collect();
    assert_eq!(found, [&prompts[0][..2 * PAGE_LEN], &prompts[0][..3 * PAGE_LEN]]);
    assert!(cache.restore_prompt(&mut engine, &prompts[0]).is_empty(), "it is there already");
    let found = cache.restore_prompt(&mut engine, &prompts[1]);
    assert_eq!(found[0].tokens(), &prompts[1][..3 * PAGE_LEN]);
    assert!(cache.restore_prompt(&mut engine, &tokens(400, 0, 9)).is_empty());
    // The last comes as before.
    assert_eq!(restored(cache).len(), 3);
}

#[test]
fn damaged_and_foreign_files_are_removed() {
    let mut engine = tiny_engine();
    let prompt = sequence(&mut engine, &tokens(70, 0, 0));
    let file_len = file_bytes(&engine) as usize;
    type Damage<'a> = &'a dyn Fn(&Path);
    let flip = |at: usize| {
        move |path: &Path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
        }
    };
    let (magic, parent, nonce, token) = (flip(0), flip(10), flip(25), flip(HEAD_LEN));
    let (page, tag) = (flip(HEAD_LEN + TOKENS_LEN + 99), flip(file_len - 1));
    let cut = |path: &Path| fs::write(path, &fs::read(path).unwrap()[..file_len - 1]).unwrap();
    let empty = |path: &Path| fs::write(path, b"").unwrap();
    let longer = |path: &Path| fs::write(path, [fs::read(path).unwrap(), vec![0]].concat()).unwrap();
    let renamed = |path: &Path| fs::rename(path, path.with_file_name("00".repeat(16) + ".page")).unwrap();
    let damages: [Damage; 10] =
        [&magic, &parent, &nonce, &token, &page, &tag, &cut, &empty, &longer, &renamed];
    for (case, damage) in damages.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(&dir);
        cache.keep(&prompt);
        drop(cache);
        let [file] = pages(&dir).try_into().unwrap();
        damage(&file);
        assert!(restored(open(&dir)).is_empty(), "case {case}");
        assert!(pages(&dir).is_empty(), "case {case}");
    }
}

#[test]
fn other_models_and_keys_find_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = tiny_engine();
    let cache = open(&dir);
    cache.keep(&sequence(&mut engine, &tokens(70, 0, 0)));
    drop(cache);
    let [file] = pages(&dir).try_into().unwrap();
    assert!(restored(try_open(dir.path(), [8; 32], 1 << 30, 1000).unwrap()).is_empty());
    // Even where somebody has put it into their folder.
    let other = fs::read_dir(dir.path().join("cache")).unwrap().map(|entry| entry.unwrap().path());
    let other = other.into_iter().find(|folder| *folder != file.parent().unwrap()).unwrap();
    fs::copy(&file, other.join(file.file_name().unwrap())).unwrap();
    assert!(restored(try_open(dir.path(), [8; 32], 1 << 30, 1000).unwrap()).is_empty());
    assert_eq!(pages(&dir), std::slice::from_ref(&file));
    assert_eq!(restored(open(&dir)).len(), 1);
    fs::remove_file(dir.path().join("key")).unwrap();
    assert!(restored(open(&dir)).is_empty());
}

#[test]
fn files_are_bounded_and_a_beginning_outlives_what_goes_on_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = tiny_engine();
    let max_bytes = 4 * file_bytes(&engine) + 10;
    let cache = try_open(dir.path(), MODEL, max_bytes, 1000).unwrap();
    let old = sequence(&mut engine, &tokens(3 * PAGE_LEN, 0, 0));
    cache.keep(&old);
    cache.keep(&sequence(&mut engine, &tokens(3 * PAGE_LEN, 0, 1)));
    drop(cache);
    assert_eq!(pages(&dir).len(), 4);
    let mut lens: Vec<(u32, usize)> = restored(try_open(dir.path(), MODEL, max_bytes, 1000).unwrap())
        .iter()
        .map(|sequence| (sequence.tokens()[0], sequence.len() / PAGE_LEN))
        .collect();
    lens.sort_unstable();
    assert_eq!(lens, [(10, 1), (11, 1), (11, 2), (11, 3)]);
    // As many as memory has room for, and a smaller bound the next time.
    assert_eq!(restored(try_open(dir.path(), MODEL, max_bytes, 2).unwrap()).len(), 2);
    drop(try_open(dir.path(), MODEL, max_bytes / 2, 1000).unwrap());
    assert_eq!(pages(&dir).len(), 2);
}

#[test]
fn nothing_of_a_prompt_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = tiny_engine();
    let prompt = tokens(PAGE_LEN, 0, 0);
    let cache = open(&dir);
    cache.keep(&sequence(&mut engine, &prompt));
    drop(cache);
    let [file] = pages(&dir).try_into().unwrap();
    let bytes = fs::read(&file).unwrap();
    for token in prompt.chunks(3) {
        let needle = to_bytes(token);
        assert!(!bytes.windows(needle.len()).any(|window| window == needle));
    }
    // Keys and values have runs of zeros; a cipher has none so long.
    assert!(!bytes[HEAD_LEN..].windows(8).any(|window| window == [0; 8]));
    #[cfg(unix)]
    for path in [&file, &dir.path().join("key")] {
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).unwrap());
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}

#[test]
fn bad_keys_and_folders_in_use_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let error = try_open(dir.path(), MODEL, 1, 1).err().unwrap();
    assert!(matches!(error, DiskError::InUse { .. }), "{error}");
    drop(cache);
    let key = dir.path().join("key");
    let length = fs::read(&key).unwrap().len();
    assert_eq!(length, KEY_LEN);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let error = try_open(dir.path(), MODEL, 1, 1).err().unwrap();
        assert!(error.to_string().contains("can be read by others"), "{error}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    for content in [&b""[..], &[1; 31], &[1; 33]] {
        fs::write(&key, content).unwrap();
        let error = try_open(dir.path(), MODEL, 1, 1).err().unwrap();
        assert!(error.to_string().contains("has not 32 bytes"), "{error}");
    }
}

#[test]
fn only_old_pages_of_others_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let (theirs, old, mixed) =
        (cache.join("photos"), cache.join("0a".repeat(16)), cache.join("0b".repeat(16)));
    for folder in [&theirs, &old, &mixed] {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("lock"), b"").unwrap();
        let page = folder.join("0c".repeat(16) + ".page");
        fs::write(&page, b"x").unwrap();
        let long_ago = SystemTime::now() - FOREIGN_AGE - Duration::from_secs(1);
        File::options().append(true).open(&page).unwrap().set_modified(long_ago).unwrap();
    }
    fs::write(mixed.join("letter.txt"), b"x").unwrap();
    fs::write(mixed.join("0d".repeat(16) + ".page"), b"x").unwrap();
    drop(open(&dir));
    assert!(theirs.join("0c".repeat(16) + ".page").exists());
    assert!(!old.exists());
    assert!(!mixed.join("0c".repeat(16) + ".page").exists());
    assert!(mixed.join("letter.txt").exists() && mixed.join("0d".repeat(16) + ".page").exists());
}
