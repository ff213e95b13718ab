//! The checksums that a file must have before it is used.
//!
//! Two kinds, because Hugging Face gives two: SHA-256 for large files (Git LFS pointers), and for small ones the id
//! of the Git blob, which is SHA-1 over `"blob <size>\0"` and the content (Git's `hash-object`). Our own catalogue
//! and records use SHA-256 only.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256 of the content.
    Sha256([u8; 32]),
    /// SHA-1 of Git's blob header and the content.
    GitBlob([u8; 20]),
}

impl Digest {
    /// From 64 hexadecimal digits.
    pub fn sha256_from_hex(hex: &str) -> Option<Digest> {
        from_hex(hex).map(Digest::Sha256)
    }

    /// From 40 hexadecimal digits.
    pub fn git_blob_from_hex(hex: &str) -> Option<Digest> {
        from_hex(hex).map(Digest::GitBlob)
    }

    /// Lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        let bytes: &[u8] = match &self {
            Digest::Sha256(bytes) => bytes,
            Digest::GitBlob(bytes) => bytes,
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Digest::Sha256(_) => "sha256",
            Digest::GitBlob(_) => "git",
        };
        write!(f, "{kind}:{}", self.to_hex())
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digest = match text.split_once(':') {
            Some(("sha256", hex)) => Digest::sha256_from_hex(hex),
            Some(("git", hex)) => Digest::git_blob_from_hex(hex),
            _ => None,
        };
        digest.ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no checksum")))
    }
}

/// Computes a digest of the same kind as the one expected, piece by piece.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256 so far.
    Sha256(Box<sha2::Sha256>),
    /// SHA-1 so far, Git's header included.
    GitBlob(Box<sha1::Sha1>),
}

impl Hasher {
    /// For content of `size_bytes` whose digest should be `expected`.
    pub fn new(expected: Digest, size_bytes: u64) -> Hasher {
        match expected {
            Digest::Sha256(_) => Hasher::Sha256(Box::default()),
            Digest::GitBlob(_) => {
                let mut sha1 = Box::<sha1::Sha1>::default();
                sha1.update(format!("blob {size_bytes}\0").as_bytes());
                Hasher::GitBlob(sha1)
            }
        }
    }

    /// Takes the next piece in.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(sha256) => sha256.update(bytes),
            Hasher::GitBlob(sha1) => sha1.update(bytes),
        }
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(sha256) => Digest::Sha256(sha256.finalize().into()),
            Hasher::GitBlob(sha1) => Digest::GitBlob(sha1.finalize().into()),
        }
    }
}

fn from_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits = hex.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf abc | sha256sum` and `printf abc | git hash-object --stdin`.
    #[test]
    fn digests_of_abc() {
        for hex in [
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "git:f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f",
        ] {
            let expected: Digest = serde_json::from_value(hex.into()).unwrap();
            let mut hasher = Hasher::new(expected, 3);
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(hasher.finish(), expected);
            assert_eq!(expected.to_string(), hex);
        }
    }

    #[test]
    fn refuses_what_is_no_checksum() {
        for text in ["", "sha256:", "sha256:ba78", "md5:900150983cd24fb0d6963f7d28e17f72", "git:zz", "ß"] {
            assert!(serde_json::from_value::<Digest>(text.into()).is_err(), "{text}");
        }
        assert_eq!(Digest::sha256_from_hex(&"é".repeat(32)), None);
    }
}
