//! Hugging Face's `tokenizer.json`, through the `tokenizers` crate.
//!
//! The crate encodes; the bytes of each token are worked out here once, from the decoder that the file names, because
//! its own `decode` works on whole texts and cannot say what one token stands for.

use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;

use serde::de::IgnoredAny;
use serde_json::Value;
use tokenizers::models::ModelWrapper;

use super::byte_level::Alphabet;
use super::sentencepiece::{parse_byte, push_unescaped};
use super::vocab::{TokenKind, Vocab};
use super::{AddSpecial, ParseSpecial, TokenizerError};

/// The special ids that `tokenizer.json` itself does not name; they come from `config.json` and
/// `generation_config.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonSpecials {
    /// `bos_token_id`
    pub bos: Option<u32>,
    /// `eos_token_id`, of which there may be several.
    pub eos: Vec<u32>,
    /// `pad_token_id`
    pub pad: Option<u32>,
}

pub(super) struct Json {
    parsing: tokenizers::Tokenizer,
    /// The same, but special tokens in the text are encoded as text. Made when first needed.
    literal: OnceLock<tokenizers::Tokenizer>,
    unk: Option<u32>,
    adds_space_prefix: bool,
}

impl Json {
    pub(super) fn new(json: &[u8]) -> Result<(Vocab, Json), TokenizerError> {
        serde_json::from_slice::<IgnoredAny>(json).map_err(|e| TokenizerError::Json(e.into()))?;
        let mut parsing = guarded(|| tokenizers::Tokenizer::from_bytes(json))?;
        // Settings of a training run: the caller decides how long a prompt may be.
        parsing.with_truncation(None).map_err(TokenizerError::Json)?;
        parsing.with_padding(None);
        let unk = match parsing.get_model() {
            ModelWrapper::BPE(bpe) => bpe.unk_token.as_deref().and_then(|token| parsing.token_to_id(token)),
            ModelWrapper::WordPiece(pieces) => parsing.token_to_id(&pieces.unk_token),
            ModelWrapper::WordLevel(_) => return Err(TokenizerError::UnknownModel("WordLevel".into())),
            ModelWrapper::Unigram(_) => return Err(TokenizerError::UnknownModel("Unigram".into())),
        };
        let decoder =
            serde_json::to_value(parsing.get_decoder()).map_err(|e| TokenizerError::Json(e.into()))?;
        let mut spelling = Spelling::default();
        spelling.read_decoder(&decoder)?;
        let vocab = vocab(&parsing, &spelling)?;
        let adds_space_prefix = spelling.adds_space_prefix;
        Ok((vocab, Json { parsing, literal: OnceLock::new(), unk, adds_space_prefix }))
    }

    pub(super) fn unk(&self) -> Option<u32> {
        self.unk
    }

    pub(super) fn adds_space_prefix(&self) -> bool {
        self.adds_space_prefix
    }

    pub(super) fn encode(
        &self,
        text: &str,
        add_special: AddSpecial,
        parse_special: ParseSpecial,
    ) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = match parse_special {
            ParseSpecial::Yes => &self.parsing,
            ParseSpecial::No => self.literal.get_or_init(|| {
                let mut literal = self.parsing.clone();
                literal.set_encode_special_tokens(true);
                literal
            }),
        };
        let encoding = guarded(|| tokenizer.encode_fast(text, add_special == AddSpecial::Yes))?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// Calls into the crate, which panics at some JSON that it did not expect: that is an error of the file.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
    // A tokenizer whose call has panicked is dropped or, by way of `&`, unchanged.
    match std::panic::catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(TokenizerError::Json),
        Err(_) => Err(TokenizerError::Json("its contents are not what they should be".into())),
    }
}

/// How the file writes the bytes of its normal tokens.
#[derive(Default)]
struct Spelling {
    byte_level: bool,
    /// "▁" is a space.
    metaspace: bool,
    /// `<0xNN>` is a byte.
    byte_fallback: bool,
    /// What tokens begin with that go on with a word; before all others is a space.
    continuation: Option<String>,
    adds_space_prefix: bool,
}

impl Spelling {
    fn read_decoder(&mut self, decoder: &Value) -> Result<(), TokenizerError> {
        let unknown = || Err(TokenizerError::UnknownDecoder(decoder.to_string()));
        match decoder["type"].as_str() {
            Some("ByteLevel") => self.byte_level = true,
            Some("Metaspace") if decoder["replacement"] == "▁" => {
                self.metaspace = true;
                self.adds_space_prefix = decoder["prepend_scheme"] != "never";
            }
            Some("ByteFallback") => self.byte_fallback = true,
            Some("Replace") if decoder["pattern"]["String"] == "▁" && decoder["content"] == " " => {
                self.metaspace = true;
            }
            Some("Strip") if decoder["content"] == " " && decoder["start"] == 1 && decoder["stop"] == 0 => {
                self.adds_space_prefix = true;
            }
            Some("WordPiece") if decoder["prefix"].is_string() => {
                self.continuation = decoder["prefix"].as_str().map(str::to_owned);
                self.adds_space_prefix = true;
            }
            Some("Fuse") => {}
            Some("Sequence") => match decoder["decoders"].as_array() {
                Some(decoders) => decoders.iter().try_for_each(|decoder| self.read_decoder(decoder))?,
                None => return unknown(),
            },
            _ => return unknown(),
        }
        Ok(())
    }
}

/// The arena of the file's tokens. Ids that the file skips decode to nothing.
fn vocab(tokenizer: &tokenizers::Tokenizer, spelling: &Spelling) -> Result<Vocab, TokenizerError> {
    let mut by_id: Vec<(u32, String)> =
        tokenizer.get_vocab(true).into_iter().map(|(text, id)| (id, text)).collect();
    by_id.sort_unstable();
    by_id.dedup_by_key(|&mut (id, _)| id);
    let vocab_size = by_id.last().map_or(0, |&(id, _)| id as usize + 1);
    // A few absurd ids must not become an allocation; real files leave out a few dozen.
    if vocab_size / 2 > by_id.len() + 1024 {
        return Err(TokenizerError::SparseIds { vocab_size, n_tokens: by_id.len() });
    }
    let added = tokenizer.get_added_tokens_decoder();
    let alphabet = Alphabet::new();
    let mut vocab = Vocab::with_capacity(vocab_size);
    for (id, text) in by_id {
        while vocab.len() < id as usize {
            vocab.push(TokenKind::Unused, |_| {})?;
        }
        let byte = if spelling.byte_fallback { parse_byte(&text) } else { None };
        match (added.get(&id), byte) {
            (Some(added), _) => {
                let kind = if added.special { TokenKind::Control } else { TokenKind::UserDefined };
                vocab.push(kind, |out| out.extend_from_slice(added.content.as_bytes()))?;
            }
            (None, Some(byte)) => vocab.push(TokenKind::Byte, |out| out.push(byte))?,
            (None, None) => vocab.push(TokenKind::Normal, |out| match spelling {
                Spelling { byte_level: true, .. } => alphabet.decode(&text, out),
                Spelling { metaspace: true, .. } => push_unescaped(&text, out),
                Spelling { continuation: Some(prefix), .. } => match text.strip_prefix(prefix.as_str()) {
                    Some(rest) => out.extend_from_slice(rest.as_bytes()),
                    None => out.extend([b" ", text.as_bytes()].concat()),
                },
                _ => out.extend_from_slice(text.as_bytes()),
            })?,
        }
    }
    Ok(vocab)
}
