//! Text to token ids and back.
//!
//! [`Tokenizer`] is built from the vocabulary inside a GGUF file ([`GgufVocab`], plain data) or from a Hugging Face
//! `tokenizer.json`. [`TextStream`] turns generated tokens into text as they come and watches for stop strings.
//!
//! GGUF vocabularies have encoders of our own, the JSON file goes through the `tokenizers` crate. The reason is time:
//! that crate clones every string into hash maps and needs 15 to 24 ms for 49 thousand tokens before it has compiled
//! a single regular expression, a quarter of all the time between the start of the process and the first token; and
//! it knows no merging by score, so the merges of SentencePiece vocabularies (262 thousand tokens for Gemma) would
//! have to be derived first. Ours is ready in a fraction of that, and the tests hold one against the other.
//!
//! | module | what |
//! |---|---|
//! | `vocab` | the tokens' bytes in one arena, and the way back from bytes to id |
//! | `special` | finds tokens like `<\|im_start\|>` in the text before anything else |
//! | `presplit` | cuts text into words as the GPT-2, Llama 3, Qwen2 and SmolLM regular expressions do |
//! | `merge` | joins neighbouring symbols, best pair first: the heart of both kinds of BPE |
//! | `byte_level` | BPE over bytes by a list of merges (GPT-2, Llama 3, Qwen, SmolLM) |
//! | `sentencepiece` | BPE over characters by the tokens' scores, with byte fallback (Llama 2, Mistral, Gemma) |
//! | `json` | `tokenizer.json` |
//! | `stream` | text as it comes |

mod byte_level;
mod json;
mod merge;
mod presplit;
mod sentencepiece;
mod special;
mod stream;
mod vocab;

use std::borrow::Cow;
use std::fmt;

pub use json::JsonSpecials;
pub use stream::TextStream;
pub use vocab::TokenKind;

use byte_level::ByteLevel;
use json::Json;
use sentencepiece::SentencePiece;
use special::SpecialMatcher;
use vocab::Vocab;

/// The vocabulary of a GGUF file (`tokenizer.ggml.*`), borrowed from it.
///
/// `None` and empty slices stand for keys that the file lacks.
#[derive(Clone, Copy, Debug, Default)]
pub struct GgufVocab<'a> {
    /// `model`: "gpt2" for byte-level BPE, "llama" for SentencePiece.
    pub model: &'a str,
    /// `pre`: which regular expression cuts the text into words. "gpt-2" if the file does not say.
    pub pre: Option<&'a str>,
    /// `tokens`: the text of each token, byte-level or SentencePiece encoded.
    pub tokens: &'a [&'a str],
    /// `scores`: one per token; needed for SentencePiece.
    pub scores: &'a [f32],
    /// `token_type`: one per token (see [`TokenKind`]); empty means that all are normal.
    pub token_types: &'a [i32],
    /// `merges`: "left right", best first; needed for byte-level BPE.
    pub merges: &'a [&'a str],
    /// `bos_token_id`
    pub bos: Option<u32>,
    /// `eos_token_id`
    pub eos: Option<u32>,
    /// `eot_token_id`
    pub eot: Option<u32>,
    /// `unknown_token_id`
    pub unk: Option<u32>,
    /// `padding_token_id`
    pub pad: Option<u32>,
    /// `add_bos_token`
    pub add_bos: Option<bool>,
    /// `add_eos_token`
    pub add_eos: Option<bool>,
    /// `add_space_prefix`: whether SentencePiece text gets a space before its first word.
    pub add_space_prefix: Option<bool>,
}

impl GgufVocab<'_> {
    fn kind(&self, token_idx: usize) -> Result<TokenKind, TokenizerError> {
        let Some(&token_type) = self.token_types.get(token_idx) else { return Ok(TokenKind::Normal) };
        TokenKind::from_gguf(token_type)
            .ok_or(TokenizerError::UnknownTokenType { id: token_idx as u32, token_type })
    }
}

/// Whether the model's own beginning (and end) tokens are put around the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddSpecial {
    /// As the model file wants it.
    Yes,
    /// Only what is in the text.
    No,
}

/// Whether control tokens written out in the text, such as `<|im_end|>`, become those tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseSpecial {
    /// For text that a chat template rendered.
    Yes,
    /// For text from outside: it cannot end a turn or forge a role.
    No,
}

/// Whether [`Tokenizer::decode`] writes control tokens out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlTokens {
    /// Written as their text.
    Show,
    /// Left out.
    Hide,
}

/// Text that ends an answer whatever the file's `eos_token_id` says: the names that published models give to the end
/// of a turn, a message or a text.
const END_TOKENS: [&str; 8] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "</s>",
];

/// The longest text, bytes: positions and lengths fit 32 bits, with room for a space before it.
const MAX_TEXT_BYTES: usize = 1 << 31;

/// Put into a control token that a message spells, behind its first character: then it is none.
const GUARD: char = '\u{fdd0}';

/// Encodes text into token ids and decodes them.
///
/// Its tokens are llama.cpp's for GGUF vocabularies and Hugging Face's for `tokenizer.json`. From llama.cpp it differs
/// in that `</s>`, which ends a strike-through for Gemma, is that also in text from outside, and in that joining
/// never makes a control or byte token.
pub struct Tokenizer {
    vocab: Vocab,
    encoder: Encoder,
    /// Finds user-defined tokens only, and these with control tokens. Unused by `Json`.
    user_defined: SpecialMatcher,
    all_special: SpecialMatcher,
    /// Finds control tokens only.
    control: SpecialMatcher,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    pad: Option<u32>,
    /// Sorted, without duplicates.
    end_ids: Vec<u32>,
    /// Put before and after the text.
    prefix: Option<u32>,
    suffix: Option<u32>,
}

enum Encoder {
    ByteLevel(Box<ByteLevel>),
    SentencePiece(Box<SentencePiece>),
    Json(Box<Json>),
}

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file.
    ///
    /// # Errors
    /// Models and pre-tokenizers that are not known are refused by name; lists of different lengths, ids outside the
    /// vocabulary, merges of unknown tokens and the like are errors of the file.
    pub fn from_gguf(gguf: &GgufVocab) -> Result<Tokenizer, TokenizerError> {
        let n_tokens = gguf.tokens.len();
        check_len("token_type", gguf.token_types.len(), n_tokens, gguf.token_types.is_empty())?;
        for (name, id) in [
            ("bos_token_id", gguf.bos),
            ("eos_token_id", gguf.eos),
            ("eot_token_id", gguf.eot),
            ("unknown_token_id", gguf.unk),
            ("padding_token_id", gguf.pad),
        ] {
            if let Some(id) = id.filter(|&id| id as usize >= n_tokens) {
                return Err(TokenizerError::SpecialIdOutOfRange { name, id, vocab_size: n_tokens });
            }
        }
        let (vocab, encoder, add_bos) = match gguf.model {
            "gpt2" => {
                let (vocab, bpe) = ByteLevel::new(gguf)?;
                // Llama 3 files of the first weeks lack `add_bos_token`, and all want it.
                let add_bos = bpe.wants_bos();
                (vocab, Encoder::ByteLevel(Box::new(bpe)), add_bos)
            }
            "llama" => {
                check_len("scores", gguf.scores.len(), n_tokens, false)?;
                let (vocab, spm) = SentencePiece::new(gguf)?;
                (vocab, Encoder::SentencePiece(Box::new(spm)), true)
            }
            other => return Err(TokenizerError::UnknownModel(other.into())),
        };
        let prefix = if gguf.add_bos.unwrap_or(add_bos) { gguf.bos } else { None };
        let suffix = if gguf.add_eos.unwrap_or(false) { gguf.eos } else { None };
        let mut tokenizer = Tokenizer {
            user_defined: SpecialMatcher::new(&vocab, |kind| kind == TokenKind::UserDefined),
            all_special: SpecialMatcher::new(&vocab, |kind| {
                matches!(kind, TokenKind::UserDefined | TokenKind::Control | TokenKind::Unknown)
            }),
            control: SpecialMatcher::new(&vocab, |kind| {
                matches!(kind, TokenKind::Control | TokenKind::Unknown)
            }),
            vocab,
            encoder,
            bos: gguf.bos,
            eos: gguf.eos,
            unk: gguf.unk,
            pad: gguf.pad,
            end_ids: Vec::new(),
            prefix,
            suffix,
        };
        tokenizer.set_end_ids(gguf.eos.into_iter().chain(gguf.eot));
        Ok(tokenizer)
    }

    /// Builds a tokenizer from the bytes of a Hugging Face `tokenizer.json`.
    ///
    /// # Errors
    /// If the file is not understood, or its decoder is of a kind that is not known (refused by name).
    pub fn from_json(json: &[u8], specials: &JsonSpecials) -> Result<Tokenizer, TokenizerError> {
        let (vocab, json) = Json::new(json)?;
        let vocab_size = vocab.len();
        let named = [("bos_token_id", specials.bos), ("pad_token_id", specials.pad)];
        let ends = specials.eos.iter().map(|&id| ("eos_token_id", Some(id)));
        for (name, id) in named.into_iter().chain(ends) {
            if let Some(id) = id.filter(|&id| id as usize >= vocab_size) {
                return Err(TokenizerError::SpecialIdOutOfRange { name, id, vocab_size });
            }
        }
        let mut tokenizer = Tokenizer {
            user_defined: SpecialMatcher::none(),
            all_special: SpecialMatcher::new(&vocab, |kind| kind == TokenKind::Control),
            control: SpecialMatcher::new(&vocab, |kind| kind == TokenKind::Control),
            vocab,
            bos: specials.bos,
            eos: specials.eos.first().copied(),
            unk: json.unk(),
            pad: specials.pad,
            encoder: Encoder::Json(Box::new(json)),
            end_ids: Vec::new(),
            prefix: None,
            suffix: None,
        };
        tokenizer.set_end_ids(specials.eos.iter().copied());
        Ok(tokenizer)
    }

    fn set_end_ids(&mut self, ids: impl Iterator<Item = u32>) {
        let named = END_TOKENS.iter().filter_map(|name| self.control_token(name));
        self.end_ids = ids.chain(named).collect();
        self.end_ids.sort_unstable();
        self.end_ids.dedup();
    }

    /// Token ids of `text`.
    ///
    /// # Errors
    /// If the text is longer than 2 GiB, or the `tokenizers` crate refuses it.
    pub fn encode(
        &self,
        text: &str,
        add_special: AddSpecial,
        parse_special: ParseSpecial,
    ) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { len_bytes: text.len() });
        }
        if let Encoder::Json(json) = &self.encoder {
            return json.encode(text, add_special, parse_special);
        }
        let (prefix, suffix) = match add_special {
            AddSpecial::Yes => (self.prefix, self.suffix),
            AddSpecial::No => (None, None),
        };
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        ids.extend(prefix);
        self.encode_with(text, parse_special, &mut merge::Merger::default(), &mut ids);
        ids.extend(suffix);
        Ok(ids)
    }

    /// Appends the tokens of `text`; of GGUF vocabularies only.
    fn encode_with(
        &self,
        text: &str,
        parse_special: ParseSpecial,
        merger: &mut merge::Merger,
        ids: &mut Vec<u32>,
    ) {
        let matcher = match parse_special {
            ParseSpecial::Yes => &self.all_special,
            ParseSpecial::No => &self.user_defined,
        };
        let mut rest = text;
        while !rest.is_empty() {
            let (plain, special) = matcher.find(&self.vocab, rest);
            if !plain.is_empty() {
                match &self.encoder {
                    Encoder::ByteLevel(bpe) => bpe.encode(&self.vocab, plain, merger, ids),
                    Encoder::SentencePiece(spm) => spm.encode(&self.vocab, plain, merger, ids),
                    Encoder::Json(_) => unreachable!("its text is encoded elsewhere"),
                }
            }
            if let Some(id) = special {
                merger.note(id);
                ids.push(id);
            }
            let special_len = special.map_or(0, |id| self.vocab.bytes(id).len());
            rest = &rest[plain.len() + special_len..];
        }
    }

    /// Every token that encoding `text` makes, those too that are then joined into longer ones. A vocabulary that has
    /// them all, in the same order, encodes the text to the same tokens: what is never made is never missed.
    ///
    /// # Errors
    /// If the text is longer than 2 GiB, or the vocabulary is not a GGUF file's.
    pub fn made_by(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.refuse_json()?;
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { len_bytes: text.len() });
        }
        let mut merger = merge::Merger::tracing();
        self.encode_with(text, ParseSpecial::No, &mut merger, &mut Vec::new());
        Ok(merger.into_made())
    }

    /// Every token that is made on the way to token `id`, itself included if joining reaches it. None for a token that
    /// is not made by joining, such as a control token.
    ///
    /// # Errors
    /// If the id is outside the vocabulary, or this is not a GGUF file's.
    pub fn parts_of(&self, id: u32) -> Result<Vec<u32>, TokenizerError> {
        self.refuse_json()?;
        let bytes = self.token_bytes(id)?;
        let mut merger = merge::Merger::tracing();
        if self.vocab.kind(id) == TokenKind::Normal {
            match (&self.encoder, std::str::from_utf8(bytes)) {
                (Encoder::ByteLevel(bpe), _) => bpe.encode_word(bytes, &mut merger, &mut Vec::new()),
                (Encoder::SentencePiece(spm), Ok(text)) => {
                    spm.encode_word(&self.vocab, text, &mut merger, &mut Vec::new());
                }
                _ => {}
            }
        }
        Ok(merger.into_made())
    }

    fn refuse_json(&self) -> Result<(), TokenizerError> {
        match self.encoder {
            Encoder::Json(_) => Err(TokenizerError::UnknownModel("tokenizer.json".into())),
            _ => Ok(()),
        }
    }

    /// Token ids of a conversation that a chat template wrote: control tokens are parsed, and the beginning token that
    /// the model wants is put before the text unless the template has written it. What a message spells is parsed too,
    /// unless it went through [`guard`](Tokenizer::guard) on its way into the template.
    ///
    /// # Errors
    /// As [`encode`](Tokenizer::encode).
    pub fn encode_chat(&self, rendered: &str) -> Result<Vec<u32>, TokenizerError> {
        let starts_with_bos = self.bos.is_some_and(|bos| {
            rendered.as_bytes().starts_with(self.vocab.bytes(bos)) && self.is_control(bos)
        });
        let add_special = if starts_with_bos { AddSpecial::No } else { AddSpecial::Yes };
        if rendered.contains(GUARD) {
            self.encode_guarded(rendered, add_special)
        } else {
            self.encode(rendered, add_special, ParseSpecial::Yes)
        }
    }

    /// A message's text on its way into a chat template: [`encode_chat`](Tokenizer::encode_chat) will read the control
    /// tokens that it spells as text, so that it cannot end its turn or forge another. The text in between is
    /// unchanged, so a template may trim, split and search it.
    pub fn guard<'t>(&self, text: &'t str) -> Cow<'t, str> {
        // A character that stands in no text (Unicode 16, section 23.7), so whoever sends it does not mean well.
        let text = if text.contains(GUARD) {
            Cow::Owned(text.replace(GUARD, "\u{fffd}"))
        } else {
            Cow::Borrowed(text)
        };
        let mut guarded = String::new();
        let mut n_copied = 0;
        for (start, c) in text.char_indices() {
            // At every place, as one may begin within another.
            if self.control.is_at(&self.vocab, &text.as_bytes()[start..]) {
                let end = start + c.len_utf8();
                guarded.push_str(&text[n_copied..end]);
                guarded.push(GUARD);
                n_copied = end;
            }
        }
        if n_copied == 0 {
            return text;
        }
        guarded.push_str(&text[n_copied..]);
        Cow::Owned(guarded)
    }

    /// A text without its guards: for people to read, not to be encoded.
    pub fn unguard(text: &str) -> String {
        text.replace(GUARD, "")
    }

    /// Control tokens between which there is text: those with a guard in them are text.
    fn encode_guarded(&self, rendered: &str, add_special: AddSpecial) -> Result<Vec<u32>, TokenizerError> {
        let (prefix, suffix) = match (add_special, &self.encoder) {
            (AddSpecial::No, _) => (None, None),
            (AddSpecial::Yes, Encoder::Json(json)) => {
                (json.encode("", AddSpecial::Yes, ParseSpecial::No)?.first().copied(), None)
            }
            (AddSpecial::Yes, _) => (self.prefix, self.suffix),
        };
        let mut ids = Vec::with_capacity(rendered.len() / 4 + 2);
        ids.extend(prefix);
        let mut rest = rendered;
        while !rest.is_empty() {
            let (plain, special) = self.all_special.find(&self.vocab, rest);
            if !plain.is_empty() {
                ids.extend(self.encode(&plain.replace(GUARD, ""), AddSpecial::No, ParseSpecial::No)?);
            }
            ids.extend(special);
            let special_len = special.map_or(0, |id| self.vocab.bytes(id).len());
            rest = &rest[plain.len() + special_len..];
        }
        ids.extend(suffix);
        Ok(ids)
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD. If encoding puts a space before the first word, it is
    /// taken away again.
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32], control_tokens: ControlTokens) -> Result<String, TokenizerError> {
        let mut bytes = Vec::new();
        for &id in ids {
            let token = self.token_bytes(id)?;
            if control_tokens == ControlTokens::Show || !self.is_control(id) {
                bytes.extend_from_slice(token);
            }
        }
        let adds_space = match &self.encoder {
            Encoder::SentencePiece(spm) => spm.adds_space_prefix(),
            Encoder::Json(json) => json.adds_space_prefix(),
            Encoder::ByteLevel(_) => false,
        };
        let text = match bytes.strip_prefix(b" ") {
            Some(stripped) if adds_space => stripped,
            _ => &bytes,
        };
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// The exact bytes that a token stands for: perhaps part of a character, perhaps empty.
    ///
    /// # Errors
    /// If the id is outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8], TokenizerError> {
        if (id as usize) < self.vocab.len() {
            Ok(self.vocab.bytes(id))
        } else {
            Err(TokenizerError::IdOutOfRange { id, vocab_size: self.vocab.len() })
        }
    }

    /// What kind of token `id` is; `None` outside the vocabulary.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        ((id as usize) < self.vocab.len()).then(|| self.vocab.kind(id))
    }

    /// Whether `id` steers the model and is no part of an answer's text.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// The control token written `text`, such as `<|im_end|>`.
    pub fn control_token(&self, text: &str) -> Option<u32> {
        self.all_special.exact(&self.vocab, text.as_bytes()).filter(|&id| self.is_control(id))
    }

    /// Number of ids; every id below it decodes.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that the model file calls the end of a text; generation ends with any of
    /// [`end_ids`](Tokenizer::end_ids).
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The text of a control token, for a chat template; empty if there is none.
    pub fn text_of(&self, id: Option<u32>) -> &str {
        let bytes = id.and_then(|id| self.token_bytes(id).ok()).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The token for what has no other.
    pub fn unk(&self) -> Option<u32> {
        self.unk
    }

    /// The token that fills batches up.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Tokens after which the model has nothing more to say (end of text, of turn, of message), sorted.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// Whether generation ends with `id`.
    pub fn is_end(&self, id: u32) -> bool {
        self.end_ids.binary_search(&id).is_ok()
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoder = match self.encoder {
            Encoder::ByteLevel(_) => "byte-level BPE",
            Encoder::SentencePiece(_) => "SentencePiece BPE",
            Encoder::Json(_) => "tokenizer.json",
        };
        f.debug_struct("Tokenizer")
            .field("encoder", &encoder)
            .field("vocab_size", &self.vocab_size())
            .field("end_ids", &self.end_ids)
            .finish_non_exhaustive()
    }
}

fn check_len(name: &'static str, len: usize, n_tokens: usize, allowed: bool) -> Result<(), TokenizerError> {
    if len == n_tokens || allowed {
        return Ok(());
    }
    Err(TokenizerError::LengthMismatch { name, len, n_tokens })
}

/// Why a tokenizer could not be built, or could not do its work.
#[derive(Debug)]
#[non_exhaustive]
pub enum TokenizerError {
    /// `tokenizer.ggml.model` is none that is known.
    UnknownModel(String),
    /// `tokenizer.ggml.pre` is none that is known.
    UnknownPreTokenizer(String),
    /// `tokenizer.json` decodes in a way that is not known.
    UnknownDecoder(String),
    /// A list has not one entry per token.
    LengthMismatch {
        /// Key of the list.
        name: &'static str,
        /// Its entries.
        len: usize,
        /// Tokens in the vocabulary.
        n_tokens: usize,
    },
    /// A token type is none that is known.
    UnknownTokenType {
        /// The token.
        id: u32,
        /// Its type in the file.
        token_type: i32,
    },
    /// A byte token is not written `<0xNN>`.
    BadByteToken {
        /// The token.
        id: u32,
    },
    /// A score is not a number.
    BadScore {
        /// The token.
        id: u32,
    },
    /// A merge is not two tokens that join into a third.
    BadMerge {
        /// Its place in the list.
        merge_idx: usize,
    },
    /// The vocabulary can encode nothing: neither byte tokens nor an unknown token.
    NoFallback,
    /// More tokens or more bytes of text than 32 bits count.
    VocabTooLarge,
    /// The ids of `tokenizer.json` leave out more than they name.
    SparseIds {
        /// One more than the highest.
        vocab_size: usize,
        /// Tokens that there are.
        n_tokens: usize,
    },
    /// The id of a special token is outside the vocabulary.
    SpecialIdOutOfRange {
        /// Key of the id.
        name: &'static str,
        /// The id.
        id: u32,
        /// Tokens in the vocabulary.
        vocab_size: usize,
    },
    /// A token id is outside the vocabulary.
    IdOutOfRange {
        /// The id.
        id: u32,
        /// Tokens in the vocabulary.
        vocab_size: usize,
    },
    /// A text is longer than 2 GiB.
    TextTooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// `tokenizer.json` was not understood or refused a text.
    Json(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownModel(name) => write!(
                f,
                "tokenizer model {name:?} is not supported; use a model file with \"gpt2\" or \"llama\""
            ),
            Self::UnknownPreTokenizer(name) => write!(
                f,
                "pre-tokenizer {name:?} is not supported; use a model file with one of {}",
                presplit::Presplit::NAMES.join(", ")
            ),
            Self::UnknownDecoder(name) => write!(
                f,
                "decoder {name:?} of tokenizer.json is not supported; use a byte-level or SentencePiece BPE model"
            ),
            Self::LengthMismatch { name, len, n_tokens } => write!(
                f,
                "the vocabulary has {n_tokens} tokens but {len} entries of {name}; get an intact model file"
            ),
            Self::UnknownTokenType { id, token_type } => {
                write!(f, "token {id} has unknown type {token_type}; get an intact model file")
            }
            Self::BadByteToken { id } => {
                write!(f, "byte token {id} is not written <0xNN>; get an intact model file")
            }
            Self::BadScore { id } => {
                write!(f, "the score of token {id} is not a number; get an intact model file")
            }
            Self::BadMerge { merge_idx } => {
                write!(f, "merge {merge_idx} does not join two tokens into a third; get an intact model file")
            }
            Self::NoFallback => write!(
                f,
                "the vocabulary has neither byte tokens nor an unknown token; get an intact model file"
            ),
            Self::VocabTooLarge => {
                write!(f, "the vocabulary has more than 4 GiB of text; get an intact model file")
            }
            Self::SparseIds { vocab_size, n_tokens } => write!(
                f,
                "tokenizer.json has only {n_tokens} tokens for {vocab_size} ids; get an intact model file"
            ),
            Self::SpecialIdOutOfRange { name, id, vocab_size } => write!(
                f,
                "{name} is {id} but the vocabulary has only {vocab_size} tokens; get an intact model file"
            ),
            Self::IdOutOfRange { id, vocab_size } => {
                write!(f, "token id {id} is out of range; ids of this model are below {vocab_size}")
            }
            Self::TextTooLong { len_bytes } => {
                write!(f, "a text of {len_bytes} bytes is too long; split it into parts below 2 GiB")
            }
            Self::Json(_) => write!(f, "tokenizer.json cannot be used; get an intact one made by tokenizers"),
        }
    }
}

impl std::error::Error for TokenizerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(source) => Some(source.as_ref()),
            _ => None,
        }
    }
}
