//! Byte-level BPE, as GPT-2 introduced it (Radford et al. 2019): symbols are bytes, and a list of merges says which
//! pairs join, the earlier the sooner.
//!
//! In files each byte of a token is written as a printable character: those that are printable in Latin-1 as
//! themselves, the others as U+0100 and following, in order. So "Ġthe" is " the".

use hashbrown::HashMap;

use super::merge::{Join, Merger, NO_TOKEN};
use super::presplit::Presplit;
use super::vocab::{TokenKind, Vocab};
use super::{GgufVocab, TokenizerError};

pub(super) struct ByteLevel {
    presplit: Presplit,
    /// The token of each single byte, or `NO_TOKEN`: no text in UTF-8 has all 256.
    byte_ids: [u32; 256],
    /// By the tokens left and right.
    merges: HashMap<(u32, u32), Join>,
}

impl ByteLevel {
    pub(super) fn new(gguf: &GgufVocab) -> Result<(Vocab, ByteLevel), TokenizerError> {
        let name = gguf.pre.unwrap_or("gpt-2");
        let presplit =
            Presplit::from_name(name).ok_or_else(|| TokenizerError::UnknownPreTokenizer(name.into()))?;
        let alphabet = Alphabet::new();
        let mut vocab = Vocab::with_capacity(gguf.tokens.len());
        for (token_idx, token) in gguf.tokens.iter().enumerate() {
            match gguf.kind(token_idx)? {
                TokenKind::Normal => vocab.push(TokenKind::Normal, |out| alphabet.decode(token, out))?,
                kind => vocab.push(kind, |out| out.extend_from_slice(token.as_bytes()))?,
            }
        }
        let byte_ids = std::array::from_fn(|byte| vocab.find(&[byte as u8]).unwrap_or(NO_TOKEN));
        let mut merges = HashMap::with_capacity(gguf.merges.len());
        let mut bytes = Vec::new();
        for (priority, merge) in (0u32..).zip(gguf.merges) {
            let ids = merge.split_once(' ').and_then(|(left, right)| {
                bytes.clear();
                alphabet.decode(left, &mut bytes);
                let left_len = bytes.len();
                alphabet.decode(right, &mut bytes);
                let (left, right) = bytes.split_at(left_len);
                Some((vocab.find(left)?, vocab.find(right)?, vocab.find(&bytes)?))
            });
            let (left, right, id) = ids.ok_or(TokenizerError::BadMerge { merge_idx: priority as usize })?;
            // A pair that is listed twice keeps its first, better place.
            merges.entry((left, right)).or_insert(Join { priority, id });
        }
        Ok((vocab, ByteLevel { presplit, byte_ids, merges }))
    }

    /// Whether models with this pre-tokenizer want a beginning token even if the file does not say so.
    pub(super) fn wants_bos(&self) -> bool {
        self.presplit == Presplit::Llama3
    }

    /// Appends the tokens of `text`, in which there are no special tokens. Bytes that have no token are left out, as
    /// in llama.cpp and Hugging Face.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        let mut rest = text;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(self.presplit.first_word_len(rest));
            rest = after;
            // Llama 3 was trained with `ignore_merges`: a word that is a token is not put together from its parts.
            if self.presplit == Presplit::Llama3
                && let Some(id) = vocab.find(word.as_bytes())
            {
                merger.note(id);
                ids.push(id);
                continue;
            }
            self.encode_word(word.as_bytes(), merger, ids);
        }
    }

    /// Appends the tokens of one word, or of any bytes as if they were one.
    pub(super) fn encode_word(&self, word: &[u8], merger: &mut Merger, ids: &mut Vec<u32>) {
        merger.clear();
        for &byte in word {
            merger.push(1, self.byte_ids[usize::from(byte)]);
        }
        let symbols = merger.merge(|left, right| self.merges.get(&(left.id, right.id)).copied());
        ids.extend(symbols.map(|symbol| symbol.id).filter(|&id| id != NO_TOKEN));
    }
}

/// The printable characters that stand for bytes.
pub(super) struct Alphabet {
    /// Indexed by the character; the last one used is U+0143.
    bytes: [Option<u8>; 0x144],
}

impl Alphabet {
    pub(super) fn new() -> Alphabet {
        let mut bytes = [None; 0x144];
        let mut next = 0x100;
        for byte in 0..=255u8 {
            if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
                bytes[usize::from(byte)] = Some(byte);
            } else {
                bytes[next] = Some(byte);
                next += 1;
            }
        }
        Alphabet { bytes }
    }

    /// Appends the bytes that `token` stands for; a character outside the alphabet stands for itself.
    pub(super) fn decode(&self, token: &str, out: &mut Vec<u8>) {
        for c in token.chars() {
            match self.bytes.get(c as usize) {
                Some(&Some(byte)) => out.push(byte),
                _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}
