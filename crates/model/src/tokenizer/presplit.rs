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
    pub(super) const NAMES: [&str; 7] =
        ["gpt-2", "smollm", "llama-bpe", "llama-v3", "llama3", "qwen2", "deepseek-r1-qwen"];

    pub(super) fn from_name(name: &str) -> Option<Presplit> {
        Some(match name {
            "gpt-2" => Presplit::Gpt2,
            "smollm" => Presplit::SmolLm,
            "llama-bpe" | "llama-v3" | "llama3" => Presplit::Llama3,
            "qwen2" | "deepseek-r1-qwen" => Presplit::Qwen2,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

#[cfg(test)]
mod tests {
    use fancy_regex::Regex;
    use proptest::prelude::*;

    use super::*;

    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const LLAMA3: &str = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    );

    fn words(presplit: Presplit, text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(presplit.first_word_len(rest));
            words.push(word);
            rest = after;
        }
        words
    }

    fn matches<'t>(regex: &Regex, text: &'t str) -> Vec<&'t str> {
        regex.find_iter(text).map(|found| found.unwrap().as_str()).collect()
    }

    fn smollm_ref<'t>(gpt2: &Regex, text: &'t str) -> Vec<&'t str> {
        let numbers = Regex::new(r"\p{N}|\P{N}+").unwrap();
        let parts = matches(&numbers, text);
        parts.into_iter().flat_map(|part| matches(gpt2, part)).collect()
    }

    /// Every combination of characters that the expressions tell apart, up to a length.
    #[test]
    fn equals_the_expressions() {
        let gpt2 = Regex::new(GPT2).unwrap();
        let llama3 = Regex::new(LLAMA3).unwrap();
        let qwen2 = Regex::new(&LLAMA3.replace("{1,3}", "")).unwrap();
        let check = |text: &str| {
            assert_eq!(words(Presplit::Gpt2, text), matches(&gpt2, text), "gpt-2 {text:?}");
            assert_eq!(words(Presplit::SmolLm, text), smollm_ref(&gpt2, text), "smollm {text:?}");
            assert_eq!(words(Presplit::Llama3, text), matches(&llama3, text), "llama-bpe {text:?}");
            assert_eq!(words(Presplit::Qwen2, text), matches(&qwen2, text), "qwen2 {text:?}");
        };
        // The longer the text, the fewer of them: those first that matter more.
        let alphabet = [' ', '\n', 'a', '1', '.', '\'', '\t', '\r', '\u{3000}', 'é', '½', '\u{301}'];
        for (len, n_chars) in [(0, 1), (1, 12), (2, 12), (3, 12), (4, 6), (5, 4)] {
            for number in 0..usize::pow(n_chars, len) {
                let char_at = |i| alphabet[number / n_chars.pow(i) % n_chars];
                check(&(0..len).map(char_at).collect::<String>());
            }
        }
        for contraction in
            ["s", "t", "re", "ve", "m", "ll", "d", "S", "T", "rE", "VE", "M", "lL", "D", "ſ", "r", "l", "ß"]
        {
            for after in ["", "x", " ", "'", "1", "é"] {
                check(&format!("'{contraction}{after}"));
                check(&format!("a 'a'{contraction}{after}'"));
            }
        }
    }

    #[test]
    fn classes_of_all_characters() {
        let classes = [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Space)];
        let classes = classes.map(|(pattern, class)| (Regex::new(pattern).unwrap(), class));
        // Characters that the expressions' engine does not know yet are no letters to it.
        let unassigned = Regex::new(r"\p{Cn}").unwrap();
        for c in '\0'..=char::MAX {
            let text = c.to_string();
            let expected = classes.iter().find(|(regex, _)| regex.is_match(&text).unwrap());
            let expected = expected.map_or(Class::Other, |&(_, class)| class);
            assert!(class(c) == expected || unassigned.is_match(&text).unwrap(), "U+{:04X}", c as u32);
        }
    }

    proptest! {
        #[test]
        fn words_are_the_whole_text(text in "\\PC*") {
            for presplit in [Presplit::Gpt2, Presplit::SmolLm, Presplit::Llama3, Presplit::Qwen2] {
                prop_assert_eq!(words(presplit, &text).concat(), text.as_str());
            }
        }
    }
}
