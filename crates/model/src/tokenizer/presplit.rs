//! Cuts text into the words that byte-level BPE never merges across.
//!
//! Models define this by a regular expression. Compiling one with Unicode classes takes longer than reading the rest
//! of the vocabulary, so the four that we know are written out as scanners; the tests hold them against the
//! expressions themselves, which are the published ones of each model's `tokenizer.json`:
//!
//! - GPT-2: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
//! - SmolLM: every `\p{N}` alone, and what lies between as GPT-2
//! - Llama 3: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
//! - Qwen2: as Llama 3 with `\p{N}` in place of `\p{N}{1,3}`
//!
//! Every character matches one of the alternatives, so the words are the whole text.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// One of the known ways to cut text into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presplit {
    Gpt2,
    SmolLm,
    Llama3,
    Qwen2,
}

impl Presplit {
    /// Names in `tokenizer.ggml.pre` that are understood.
    pub(super) const NAMES: [&str; 6] = ["gpt-2", "smollm", "llama-bpe", "llama-v3", "llama3", "qwen2"];

    pub(super) fn from_name(name: &str) -> Option<Presplit> {
        Some(match name {
            "gpt-2" => Presplit::Gpt2,
            "smollm" => Presplit::SmolLm,
            "llama-bpe" | "llama-v3" | "llama3" => Presplit::Llama3,
            "qwen2" => Presplit::Qwen2,
            _ => return None,
        })
    }

    /// Length in bytes of the first word of `text`, which must not be empty.
    pub(super) fn first_word_len(self, text: &str) -> usize {
        match self {
            Presplit::Gpt2 => gpt2(text, |_| false),
            Presplit::SmolLm => smollm(text),
            Presplit::Llama3 => llama3(text, 3),
            Presplit::Qwen2 => llama3(text, 1),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    /// `[^\s\p{L}\p{N}]`
    Other,
}

fn class(c: char) -> Class {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            ' ' | '\t'..='\r' => Class::Space,
            _ => Class::Other,
        };
    }
    match c.general_category_group() {
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Number,
        _ if c.is_whitespace() => Class::Space,
        _ => Class::Other,
    }
}

/// Bytes of the longest beginning of `text` whose characters all satisfy `wanted`.
fn run_len(text: &str, wanted: impl Fn(char) -> bool) -> usize {
    text.find(|c| !wanted(c)).unwrap_or(text.len())
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// `'s|'t|'re|'ve|'m|'ll|'d`; 0 if there is none. `fold` maps a character to the one it is compared as.
fn contraction(text: &str, fold: impl Fn(char) -> char) -> usize {
    let Some(rest) = text.strip_prefix('\'') else { return 0 };
    let mut chars = rest.chars();
    let Some(first) = chars.next() else { return 0 };
    match (fold(first), chars.next().map(fold)) {
        ('s' | 't' | 'm' | 'd', _) => 1 + first.len_utf8(),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => 3,
        _ => 0,
    }
}

/// Case folding where it matters to `contraction`: U+017F is the only character beyond ASCII that folds to one of its
/// letters.
fn fold_case(c: char) -> char {
    if c == '\u{17f}' { 's' } else { c.to_ascii_lowercase() }
}

/// `\s+(?!\S)|\s+`: white space, but for its last character if a word follows. `is_end`: characters that are like the
/// end of the text.
fn spaces(text: &str, is_end: impl Fn(char) -> bool) -> usize {
    let len = run_len(text, |c| class(c) == Class::Space);
    let (white, rest) = text.split_at(len);
    match (white.chars().next_back(), rest.chars().next()) {
        (Some(last), Some(next)) if len > last.len_utf8() && !is_end(next) => len - last.len_utf8(),
        _ => len,
    }
}

/// `is_end`: characters that are like the end of the text.
fn gpt2(text: &str, is_end: impl Fn(char) -> bool) -> usize {
    let len = contraction(text, |c| c);
    if len > 0 {
        return len;
    }
    let word = text.strip_prefix(' ').unwrap_or(text);
    match word.chars().next().filter(|&c| !is_end(c)).map(class) {
        Some(Class::Space) | None => spaces(text, is_end),
        Some(first) => text.len() - word.len() + run_len(word, |c| class(c) == first),
    }
}

/// The numbers are cut out first, so to GPT-2's expression the text ends before each.
fn smollm(text: &str) -> usize {
    let is_number = |c| class(c) == Class::Number;
    match text.chars().next() {
        Some(c) if is_number(c) => c.len_utf8(),
        _ => gpt2(text, is_number),
    }
}

fn llama3(text: &str, max_digits: usize) -> usize {
    let len = contraction(text, fold_case);
    if len > 0 {
        return len;
    }
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    let second = chars.next().map(class);
    let after_first = &text[first.len_utf8()..];
    let letters = |text: &str| run_len(text, |c| class(c) == Class::Letter);
    match class(first) {
        Class::Letter => letters(text),
        Class::Number => {
            let digits = text.chars().take(max_digits).take_while(|&c| class(c) == Class::Number);
            digits.map(char::len_utf8).sum()
        }
        Class::Space | Class::Other if !is_newline(first) && second == Some(Class::Letter) => {
            first.len_utf8() + letters(after_first)
        }
        Class::Other => symbols(text),
        Class::Space if first == ' ' && second == Some(Class::Other) => 1 + symbols(after_first),
        Class::Space => {
            let white = &text[..run_len(text, |c| class(c) == Class::Space)];
            match white.rfind(is_newline) {
                Some(last_newline) => last_newline + 1,
                None => spaces(text, |_| false),
            }
        }
    }
}

/// `[^\s\p{L}\p{N}]+[\r\n]*`
fn symbols(text: &str) -> usize {
    let len = run_len(text, |c| class(c) == Class::Other);
    len + run_len(&text[len..], is_newline)
}
