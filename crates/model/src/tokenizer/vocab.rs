//! The tokens of a vocabulary: their decoded bytes end to end in one arena, their kinds, and the way back.
//!
//! Invariants: `ends` is ascending and its last entry is `bytes.len()`, which fits 32 bits; `kinds` has one entry per
//! token; `by_bytes` holds only ids below `len()`, at most one for any bytes.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::TokenizerError;

/// What a token is for; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// 1: a piece of text.
    Normal,
    /// 2: stands for what cannot be encoded.
    Unknown,
    /// 3: steers the model, no text.
    Control,
    /// 4: a piece of text that is never split or merged.
    UserDefined,
    /// 5: reserved.
    Unused,
    /// 6: one byte of a character that has no token.
    Byte,
}

impl TokenKind {
    pub(super) fn from_gguf(token_type: i32) -> Option<TokenKind> {
        Some(match token_type {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => return None,
        })
    }
}

/// The tokens by id, and the normal ones also by their bytes.
#[derive(Default)]
pub(super) struct Vocab {
    bytes: Vec<u8>,
    /// Where each token's bytes end; they begin where the ones before end.
    ends: Vec<u32>,
    kinds: Vec<TokenKind>,
    /// Ids of `Normal` tokens. The hasher is seeded at random: a file cannot be made to collide.
    by_bytes: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Vocab {
    /// An empty vocabulary with room for `n_tokens`.
    pub(super) fn with_capacity(n_tokens: usize) -> Vocab {
        Vocab {
            // Tokens average 6 to 8 bytes.
            bytes: Vec::with_capacity(n_tokens * 8),
            ends: Vec::with_capacity(n_tokens),
            kinds: Vec::with_capacity(n_tokens),
            by_bytes: HashTable::with_capacity(n_tokens),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Adds the next token, whose bytes are what `write` appends. Of normal tokens with the same bytes, the last is
    /// found by them.
    pub(super) fn push(
        &mut self,
        kind: TokenKind,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), TokenizerError> {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let id = u32::try_from(self.ends.len()).map_err(|_| TokenizerError::VocabTooLarge)?;
        self.ends.push(u32::try_from(self.bytes.len()).map_err(|_| TokenizerError::VocabTooLarge)?);
        self.kinds.push(kind);
        if kind == TokenKind::Normal && self.bytes.len() > start {
            let Vocab { bytes, ends, by_bytes, hasher, .. } = self;
            let of = |id: &u32| token(bytes, ends, *id);
            let new = of(&id);
            let rehash = |id: &u32| hasher.hash_one(token(bytes, ends, *id));
            match by_bytes.entry(hasher.hash_one(new), |old| of(old) == new, rehash) {
                hashbrown::hash_table::Entry::Occupied(mut entry) => *entry.get_mut() = id,
                hashbrown::hash_table::Entry::Vacant(entry) => {
                    entry.insert(id);
                }
            }
        }
        Ok(())
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of token `id`, which must be below `len()`.
    #[inline]
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        token(&self.bytes, &self.ends, id)
    }

    /// The kind of token `id`, which must be below `len()`.
    pub(super) fn kind(&self, id: u32) -> TokenKind {
        self.kinds[id as usize]
    }

    /// The normal token with these bytes.
    #[inline]
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        self.by_bytes.find(self.hasher.hash_one(bytes), |&id| self.bytes(id) == bytes).copied()
    }

    /// Ids of the tokens of some kinds.
    pub(super) fn ids_of(&self, wanted: impl Fn(TokenKind) -> bool) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.kinds).filter(move |&(_, &kind)| wanted(kind)).map(|(id, _)| id)
    }
}

#[inline]
fn token<'a>(bytes: &'a [u8], ends: &[u32], id: u32) -> &'a [u8] {
    let idx = id as usize;
    let start = if idx == 0 { 0 } else { ends[idx - 1] as usize };
    &bytes[start..ends[idx] as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_normal_tokens_are_found_by_their_bytes_and_the_last_of_equals_wins() {
        let mut vocab = Vocab::with_capacity(0);
        for (kind, text) in [
            (TokenKind::Normal, "a"),
            (TokenKind::Control, "<s>"),
            (TokenKind::Normal, ""),
            (TokenKind::Normal, "a"),
            (TokenKind::UserDefined, "b"),
        ] {
            vocab.push(kind, |out| out.extend(text.bytes())).unwrap();
        }
        assert_eq!(vocab.len(), 5);
        assert_eq!(vocab.find(b"a"), Some(3));
        assert_eq!([vocab.find(b"<s>"), vocab.find(b""), vocab.find(b"b")], [None; 3]);
        assert_eq!((vocab.bytes(1), vocab.kind(1)), (&b"<s>"[..], TokenKind::Control));
        assert_eq!(vocab.ids_of(|kind| kind != TokenKind::Normal).collect::<Vec<_>>(), [1, 4]);
    }
}
