//! Hugging Face: what a repository holds, what its cache on this machine already has, and the bytes of a file.
//!
//! `hf-hub` knows where the cache and the token are and how the cache is laid out; see `http` for why the bytes are
//! fetched by ourselves. Variables honoured, as in Hugging Face's own tools: `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`,
//! `HF_ENDPOINT`, and the token that `huggingface-cli login` stores.
//!
//! Source of the answer's fields: <https://huggingface.co/docs/hub/api>, `/api/models/{repo}/revision/{revision}`.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use super::digest::Digest;
use super::error::{Attempt, StoreError};
use super::http::{Http, Token, escape};
use super::name::is_plain_file_name;
use super::part::{PartFile, Wanted};
use super::progress::Progress;

/// Where Hugging Face is unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// Largest number of files that one model is made of; the largest models have about 200 shards.
const MAX_MODEL_FILES: usize = 2000;

/// A connection to Hugging Face, not opened before it is needed.
pub struct Hub {
    http: Http,
    endpoint: String,
    cache: Option<Cache>,
}

/// A file of a repository that is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// Its path in the repository.
    pub path: String,
    /// What it must become in the store.
    pub wanted: Wanted,
}

/// What makes up a model in a repository.
#[derive(Debug)]
pub struct HubModel {
    /// The commit, so that all files are of one state of the repository.
    pub revision: String,
    /// As the repository declares it.
    pub licence: Option<String>,
    /// The files.
    pub files: Vec<HubFile>,
}

/// A repository's files.
struct Listing {
    revision: String,
    licence: Option<String>,
    files: Vec<ListedFile>,
}

struct ListedFile {
    path: String,
    size_bytes: Option<u64>,
    digest: Option<Digest>,
}

#[derive(Deserialize)]
struct RawListing {
    sha: String,
    #[serde(default)]
    tags: Vec<String>,
    siblings: Vec<RawSibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<RawLfs>,
}

#[derive(Deserialize)]
struct RawLfs {
    sha256: String,
    size: u64,
}

impl Hub {
    /// As the environment says.
    pub fn from_env() -> Hub {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        // Without a home directory `hf-hub` would panic.
        let home_cache =
            (variable("HF_HOME").is_some() || std::env::home_dir().is_some()).then(Cache::from_env);
        let token = variable("HF_TOKEN")
            .or_else(|| home_cache.as_ref().and_then(Cache::token))
            .and_then(|token| Token::new(&token));
        let cache = variable("HF_HUB_CACHE").map(|dir| Cache::new(dir.into())).or(home_cache);
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Hub { http: Http::new(token), endpoint: endpoint.trim_end_matches('/').to_owned(), cache }
    }

    /// What to fetch to have the model in `repo`, or just its `file`. Without a network, what the cache holds.
    pub fn find(&self, repo: &str, file: Option<&str>) -> Result<HubModel, StoreError> {
        let listing = match self.list(repo) {
            Err(error @ StoreError::Network { .. }) => self.list_cached(repo).ok_or_else(|| {
                let attempts = vec![Attempt { source: "Hugging Face".into(), error }];
                StoreError::AllSourcesFailed { name: format!("hf:{repo}"), attempts }
            })?,
            listing => listing?,
        };
        choose(repo, file, listing)
    }

    fn list(&self, repo: &str) -> Result<Listing, StoreError> {
        let url = format!("{}/api/models/{}/revision/main?blobs=true", self.endpoint, escape_path(repo));
        let raw: RawListing = self.http.get_json(&url)?;
        // It becomes part of an address and of a path into the cache.
        if !is_plain_file_name(&raw.sha) {
            return Err(StoreError::Response { url, reason: "its commit is not one".into() });
        }
        let licence = raw.tags.iter().find_map(|tag| tag.strip_prefix("license:")).map(str::to_owned);
        let files = raw
            .siblings
            .into_iter()
            .map(|sibling| match sibling.lfs {
                Some(lfs) => ListedFile {
                    path: sibling.rfilename,
                    size_bytes: Some(lfs.size),
                    digest: Digest::sha256_from_hex(&lfs.sha256),
                },
                None => ListedFile {
                    path: sibling.rfilename,
                    size_bytes: sibling.size,
                    digest: sibling.blob_id.as_deref().and_then(Digest::git_blob_from_hex),
                },
            })
            .collect();
        Ok(Listing { revision: raw.sha, licence, files })
    }

    /// The same from the cache. A blob there is named after its checksum, so it can be checked all the same.
    fn list_cached(&self, repo: &str) -> Option<Listing> {
        let cache = self.cache.as_ref()?;
        let repo = Repo::model(repo.to_owned());
        let refs = cache.path().join(repo.folder_name()).join("refs").join(repo.revision());
        let revision = fs::read_to_string(refs).ok()?.trim().to_owned();
        if !is_plain_file_name(&revision) {
            return None;
        }
        let snapshot = cache.repo(repo).pointer_path(&revision);
        let mut files = Vec::new();
        collect_cached(&snapshot, "", &mut files);
        Some(Listing { revision, licence: None, files })
    }

    /// Brings one file to `part`'s folder: from the cache if it is there and sound, else over the network.
    pub fn fetch(
        &self,
        repo: &str,
        revision: &str,
        path: &str,
        part: &mut PartFile<'_>,
        progress: &mut Progress,
    ) -> Result<(), StoreError> {
        if let Some(cached) = self.cached(repo, revision, path)
            && part.wanted().verify(&cached).is_ok()
        {
            progress.note(&format!("{path} is in Hugging Face's cache"));
            part.restart()?;
            progress.restart();
            let mut file = fs::File::open(&cached).map_err(StoreError::io("open", &cached))?;
            part.append_all(&mut file, progress)?;
            return Ok(());
        }
        let url = format!(
            "{}/{}/resolve/{}/{}",
            self.endpoint,
            escape_path(repo),
            escape(revision),
            escape_path(path)
        );
        self.http.fetch(&url, part, progress)
    }

    fn cached(&self, repo: &str, revision: &str, path: &str) -> Option<PathBuf> {
        let cache = self.cache.as_ref()?;
        let repo = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
        let by_branch = cache.repo(repo.clone()).get(path);
        by_branch.or_else(|| {
            let by_commit = cache.repo(repo).pointer_path(revision).join(path);
            by_commit.is_file().then_some(by_commit)
        })
    }
}

fn escape_path(path: &str) -> String {
    path.split('/').map(escape).collect::<Vec<_>>().join("/")
}

/// Files below `dir`, with their paths relative to it, prefixed by `prefix`. At most two levels: models lie flat.
fn collect_cached(dir: &Path, prefix: &str, files: &mut Vec<ListedFile>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().take(MAX_MODEL_FILES) {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{prefix}{name}");
        let Ok(blob) = entry.path().canonicalize() else { continue };
        if blob.is_dir() {
            if prefix.is_empty() {
                collect_cached(&blob, &format!("{path}/"), files);
            }
            continue;
        }
        let hex = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        files.push(ListedFile {
            path,
            size_bytes: blob.metadata().ok().map(|metadata| metadata.len()),
            digest: Digest::sha256_from_hex(hex).or_else(|| Digest::git_blob_from_hex(hex)),
        });
    }
}

/// Whether a file beside the weights is needed: configuration, tokenizer, chat template.
pub fn is_companion(file: &str) -> bool {
    matches!(
        file,
        "config.json"
            | "generation_config.json"
            | "tokenizer.json"
            | "tokenizer_config.json"
            | "special_tokens_map.json"
            | "chat_template.jinja"
    )
}

/// The weights among the safetensors files `names`: `model.safetensors`, else the shards `model-*` with their index,
/// else whatever there is. Repositories carry the same weights in other layouts too (`consolidated.safetensors`).
pub fn choose_weights<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let pick = |is_wanted: &dyn Fn(&str) -> bool| -> Vec<&'a str> {
        names.iter().copied().filter(|name| is_wanted(name)).collect()
    };
    let single = pick(&|name| name == "model.safetensors");
    if !single.is_empty() {
        return single;
    }
    let is_shard = |name: &str| name.starts_with("model-") && name.ends_with(".safetensors");
    if names.iter().any(|name| is_shard(name)) {
        return pick(&|name| is_shard(name) || name == "model.safetensors.index.json");
    }
    pick(&|name| name.ends_with(".safetensors"))
}

fn choose(repo: &str, file: Option<&str>, listing: Listing) -> Result<HubModel, StoreError> {
    let refuse = |reason: String| StoreError::NoModelInRepo { repo: repo.to_owned(), reason };
    let ggufs: Vec<&str> =
        listing.files.iter().map(|file| file.path.as_str()).filter(|path| path.ends_with(".gguf")).collect();
    let choices = || {
        let shown: Vec<String> =
            ggufs.iter().take(40).map(|path| format!("\n  edgeward pull hf:{repo}/{path}")).collect();
        shown.concat()
    };
    let names: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
    let paths: Vec<&str> = if let Some(file) = file {
        if !file.ends_with(".gguf") {
            return Err(refuse(format!("{file} is not a .gguf file; for safetensors give just hf:{repo}")));
        }
        if !names.contains(&file) {
            return Err(refuse(format!("it has no file {file}; its .gguf files:{}", choices())));
        }
        vec![file]
    } else {
        let weights = choose_weights(&names);
        if names.contains(&"config.json") && !weights.is_empty() {
            names.iter().copied().filter(|name| is_companion(name)).chain(weights).collect()
        } else {
            match ggufs.as_slice() {
                [] => {
                    return Err(refuse(
                        "it has neither a .gguf file nor config.json with .safetensors".into(),
                    ));
                }
                [only] => vec![only],
                _ => return Err(refuse(format!("it has several models; choose one:{}", choices()))),
            }
        }
    };
    if paths.len() > MAX_MODEL_FILES {
        return Err(refuse(format!("it has more than {MAX_MODEL_FILES} files of weights")));
    }
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let listed = listing.files.iter().find(|file| file.path == path).expect("chosen from this list");
        let name = path.rsplit('/').next().expect("split gives at least one part");
        if !path.split('/').all(is_plain_file_name) {
            return Err(refuse(format!("it has a file with the unsafe name {path:?}")));
        }
        let (Some(size_bytes), Some(digest)) = (listed.size_bytes, listed.digest) else {
            return Err(refuse(format!("no size or checksum is known for {path}, so it cannot be verified")));
        };
        files.push(HubFile {
            path: path.to_owned(),
            wanted: Wanted { file: name.to_owned(), size_bytes, digest },
        });
    }
    Ok(HubModel { revision: listing.revision, licence: listing.licence, files })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(paths: &[&str]) -> Listing {
        let files = paths
            .iter()
            .map(|path| ListedFile {
                path: (*path).to_owned(),
                size_bytes: Some(1),
                digest: Some(Digest::GitBlob([0; 20])),
            })
            .collect();
        Listing { revision: "c0ffee".into(), licence: None, files }
    }

    fn chosen(paths: &[&str], file: Option<&str>) -> Result<Vec<String>, String> {
        choose("org/repo", file, listing(paths))
            .map(|model| model.files.into_iter().map(|file| file.path).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn chooses_what_makes_up_a_model() {
        assert_eq!(chosen(&["README.md", "a.gguf"], None).unwrap(), ["a.gguf"]);
        assert_eq!(chosen(&["a.gguf", "q/b.gguf"], Some("q/b.gguf")).unwrap(), ["q/b.gguf"]);
        assert_eq!(
            chosen(
                &["config.json", "pytorch_model.bin", "tokenizer.json", "model.safetensors", "onnx/x.onnx"],
                None
            )
            .unwrap(),
            ["config.json", "tokenizer.json", "model.safetensors"]
        );
        assert_eq!(
            chosen(
                &[
                    "config.json",
                    "consolidated.safetensors",
                    "model-00001-of-00002.safetensors",
                    "model-00002-of-00002.safetensors",
                    "model.safetensors.index.json"
                ],
                None
            )
            .unwrap(),
            [
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json"
            ]
        );
    }

    #[test]
    fn says_what_to_choose() {
        let error = chosen(&["a.gguf", "b.gguf"], None).unwrap_err();
        assert!(error.contains("edgeward pull hf:org/repo/b.gguf"), "{error}");
        let error = chosen(&["a.gguf"], Some("c.gguf")).unwrap_err();
        assert!(error.contains("no file c.gguf") && error.contains("a.gguf"), "{error}");
        assert!(chosen(&["model.safetensors"], None).is_err());
        assert!(chosen(&["config.json", "model.safetensors"], Some("model.safetensors")).is_err());
    }

    #[test]
    fn refuses_unsafe_names_and_files_without_checksum() {
        for path in ["../a.gguf", "/a.gguf", "x/../../a.gguf", "x\\..\\a.gguf", "C:a.gguf", ".a.gguf"] {
            assert!(chosen(&[path], None).unwrap_err().contains("unsafe name"), "{path}");
        }
        let mut unverifiable = listing(&["a.gguf"]);
        unverifiable.files[0].digest = None;
        assert!(
            choose("org/repo", None, unverifiable).unwrap_err().to_string().contains("cannot be verified")
        );
    }
}
