//! SentencePiece's BPE (Kudo and Richardson 2018, arXiv:1808.06226) with byte fallback: symbols are characters, any
//! two neighbours join if what they spell is a token, and the one with the highest score goes first.
//!
//! In files a space is written "▁" (U+2581). The arena holds it as a space, and "▁" in a text is read as one, so that
//! the text need not be rewritten. A token that is not `Normal` is never the outcome of joining: text cannot spell a
//! control token or, as `<0x0A>` would in llama.cpp, a byte token.
//!
//! A place before a space that no token spans is a wall: what is left of it and what is right of it join
//! independently. Nearly all spaces are, so the text is cut there and each word merged alone, in the cache.

use std::borrow::Cow;

use super::merge::{Join, Merger, NO_TOKEN};
use super::vocab::{TokenKind, Vocab};
use super::{GgufVocab, TokenizerError};

/// How files write a space.
const SPACE: &str = "\u{2581}";

pub(super) struct SentencePiece {
    /// For each token, its place in the order of joining: the least goes first.
    priorities: Vec<u32>,
    /// The token of each byte, or the unknown token.
    byte_ids: [u32; 256],
    adds_space_prefix: bool,
    /// Whether, within a token, a space follows this byte: such a place is no wall.
    joins_space: [bool; 256],
    /// Bytes of the longest token that can be joined.
    max_token_len: u32,
}

impl SentencePiece {
    pub(super) fn new(gguf: &GgufVocab) -> Result<(Vocab, SentencePiece), TokenizerError> {
        let mut vocab = Vocab::with_capacity(gguf.tokens.len());
        let mut byte_ids = [gguf.unk.unwrap_or(NO_TOKEN); 256];
        let mut joins_space = [false; 256];
        let mut max_token_len = 0;
        for (id, token) in (0u32..).zip(gguf.tokens) {
            match gguf.kind(id as usize)? {
                TokenKind::Normal => {
                    vocab.push(TokenKind::Normal, |out| push_unescaped(token, out))?;
                    let bytes = vocab.bytes(id);
                    max_token_len = max_token_len.max(bytes.len() as u32);
                    for pair in bytes.windows(2).filter(|pair| pair[1] == b' ') {
                        joins_space[usize::from(pair[0])] = true;
                    }
                }
                TokenKind::Byte => {
                    let byte = parse_byte(token).ok_or(TokenizerError::BadByteToken { id })?;
                    byte_ids[usize::from(byte)] = id;
                    vocab.push(TokenKind::Byte, |out| out.push(byte))?;
                }
                kind => vocab.push(kind, |out| out.extend_from_slice(token.as_bytes()))?,
            }
        }
        if byte_ids.contains(&NO_TOKEN) {
            return Err(TokenizerError::NoFallback);
        }
        // A run of spaces is one word, even where no token has two.
        joins_space[usize::from(b' ')] = true;
        let mut priorities = Vec::with_capacity(gguf.scores.len());
        for (id, &score) in (0u32..).zip(gguf.scores) {
            priorities.push(priority(score).ok_or(TokenizerError::BadScore { id })?);
        }
        let adds_space_prefix = gguf.add_space_prefix.unwrap_or(true);
        Ok((vocab, SentencePiece { priorities, byte_ids, adds_space_prefix, joins_space, max_token_len }))
    }

    pub(super) fn adds_space_prefix(&self) -> bool {
        self.adds_space_prefix
    }

    /// Appends the tokens of `text`, in which there are no special tokens.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        let mut text = Cow::Borrowed(text);
        if text.contains(SPACE) {
            text = Cow::Owned(text.replace(SPACE, " "));
        }
        if self.adds_space_prefix {
            text = Cow::Owned(format!(" {text}"));
        }
        let mut rest = &*text;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(self.first_word_len(rest.as_bytes()));
            rest = after;
            self.encode_word(vocab, word, merger, ids);
        }
    }

    /// Bytes up to the first wall.
    fn first_word_len(&self, text: &[u8]) -> usize {
        let is_wall = |pair: &[u8]| pair[1] == b' ' && !self.joins_space[usize::from(pair[0])];
        text.windows(2).position(is_wall).map_or(text.len(), |position| position + 1)
    }

    /// Appends the tokens of what lies between two walls, or of any text as if it did.
    pub(super) fn encode_word(&self, vocab: &Vocab, word: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        merger.clear();
        for c in word.chars() {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            merger.push(bytes.len(), vocab.find(bytes).unwrap_or(NO_TOKEN));
        }
        let word = word.as_bytes();
        let symbols = merger.merge(|left, right| {
            if left.len + right.len > self.max_token_len {
                return None;
            }
            let id = vocab.find(&word[left.start as usize..right.end() as usize])?;
            Some(Join { priority: self.priorities[id as usize], id })
        });
        for symbol in symbols {
            if symbol.id != NO_TOKEN {
                ids.push(symbol.id);
            } else {
                let bytes = &word[symbol.start as usize..symbol.end() as usize];
                ids.extend(bytes.iter().map(|&byte| self.byte_ids[usize::from(byte)]));
            }
        }
    }
}

/// Appends `token` with every "▁" as a space.
pub(super) fn push_unescaped(token: &str, out: &mut Vec<u8>) {
    let mut rest = token.as_bytes();
    // Looking for one byte is faster, and few other characters begin with it.
    while let Some(position) = rest.iter().position(|&byte| byte == SPACE.as_bytes()[0]) {
        out.extend_from_slice(&rest[..position]);
        rest = &rest[position..];
        if let Some(after) = rest.strip_prefix(SPACE.as_bytes()) {
            out.push(b' ');
            rest = after;
        } else {
            out.push(rest[0]);
            rest = &rest[1..];
        }
    }
    out.extend_from_slice(rest);
}

/// The byte of a token written `<0xNN>`.
pub(super) fn parse_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// Maps scores to integers in descending order, equal ones to equal ones; `None` for NaN.
fn priority(score: f32) -> Option<u32> {
    if score.is_nan() {
        return None;
    }
    // -0 becomes 0.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    Some(!ascending)
}
