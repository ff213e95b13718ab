//! Text, made ready for whatever counts or compares it: in one form, in sentences, in words; English, Chinese and both mixed.
//!
//! [`normalize`] is Unicode's (UAX #15), sentences and words are those of UAX #29, with two additions: a full stop behind a
//! usual English abbreviation ends no sentence, and Chinese characters become words by a [`Dictionary`]. Without one each is
//! a word of its own, as UAX #29 has it.

mod dictionary;

pub use dictionary::{Dictionary, DictionaryError};

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// Unicode's normal forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Composed: an accent and its letter are one character where there is one.
    Nfc,
    /// Decomposed.
    Nfd,
    /// Composed, and what only looks different is the same: full-width letters, ligatures, circled digits.
    Nfkc,
    /// Decomposed, in the same way.
    Nfkd,
}

/// The text in this form.
pub fn normalize(text: &str, form: Form) -> String {
    match form {
        Form::Nfc => text.nfc().collect(),
        Form::Nfd => text.nfd().collect(),
        Form::Nfkc => text.nfkc().collect(),
        Form::Nfkd => text.nfkd().collect(),
    }
}

/// What is written with a full stop and goes on, in lower case.
const ABBREVIATIONS: [&str; 20] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "e.g", "i.e", "no", "fig", "eq", "cf",
    "approx", "dept", "inc", "ltd",
];

/// What opens, and belongs to the next sentence.
const OPENING: [char; 8] = ['“', '‘', '「', '『', '《', '（', '(', '['];

/// Its sentences, without the space around them.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut begin = 0;
    for (at, piece) in text.split_sentence_bound_indices() {
        let mut end = at + piece.len();
        if end < text.len() {
            // To UAX #29 a quotation mark that opens is like one that closes.
            end = at + piece.trim_end_matches(OPENING).len();
        }
        // The last word, if it ends in a full stop and the line goes on.
        let stem = piece.trim_end_matches(' ').strip_suffix('.').filter(|_| !piece.ends_with('\n'));
        let last = stem.and_then(|stem| stem.split(|c: char| c.is_whitespace() || c == '(').next_back());
        let goes_on = last.is_some_and(|last| {
            let is_initial = last.len() == 1 && last.starts_with(|c: char| c.is_ascii_uppercase());
            is_initial || ABBREVIATIONS.contains(&last.to_lowercase().as_str())
        });
        if goes_on && end < text.len() {
            continue;
        }
        let sentence = text[begin..end].trim();
        if !sentence.is_empty() {
            sentences.push(sentence);
        }
        begin = end;
    }
    sentences
}

/// Its words, without spaces and punctuation.
pub fn words<'a>(text: &'a str, dictionary: Option<&Dictionary>) -> Vec<&'a str> {
    let mut words = Vec::new();
    // Where Chinese characters have begun that are not yet cut.
    let mut chinese = None;
    let cut = |words: &mut Vec<&'a str>, from: usize, to: usize| match dictionary {
        Some(dictionary) => words.extend(dictionary.cut(&text[from..to])),
        None => words.extend(text[from..to].graphemes(true)),
    };
    for (at, piece) in text.split_word_bound_indices() {
        if piece.chars().all(is_chinese) {
            chinese.get_or_insert(at);
            continue;
        }
        if let Some(from) = chinese.take() {
            cut(&mut words, from, at);
        }
        if piece.chars().any(char::is_alphanumeric) {
            words.push(piece);
        }
    }
    if let Some(from) = chinese {
        cut(&mut words, from, text.len());
    }
    words
}

/// A character of the Chinese script.
fn is_chinese(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden<T: serde::de::DeserializeOwned>(name: &str) -> T {
        let path = format!("{}/../../testdata/text/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn normal_forms_are_pythons() {
        let goldens: Vec<[String; 5]> = golden("normal.json");
        assert!(goldens.len() > 10);
        for [text, nfc, nfd, nfkc, nfkd] in goldens {
            let forms = [Form::Nfc, Form::Nfd, Form::Nfkc, Form::Nfkd].map(|form| normalize(&text, form));
            assert_eq!(forms, [nfc, nfd, nfkc, nfkd]);
            assert!(
                forms
                    .iter()
                    .zip([Form::Nfc, Form::Nfd, Form::Nfkc, Form::Nfkd])
                    .all(|(t, f)| normalize(t, f) == *t)
            );
        }
    }

    #[test]
    fn chinese_words_are_jiebas() {
        #[derive(serde::Deserialize)]
        struct Segmented {
            text: String,
            words: Vec<String>,
        }
        let path = format!("{}/../../testdata/text/words.txt", env!("CARGO_MANIFEST_DIR"));
        let dictionary =
            Dictionary::read(std::io::BufReader::new(std::fs::File::open(path).unwrap())).unwrap();
        let goldens: Vec<Segmented> = golden("segmented.json");
        assert_eq!(goldens.len(), 8);
        for Segmented { text, words: expected } in goldens {
            assert_eq!(words(&text, Some(&dictionary)), expected, "{text}");
        }
        let mixed = "把模型tiny-model压缩到3.5 MB，don't panic！";
        assert_eq!(
            words(mixed, Some(&dictionary)),
            ["把", "模型", "tiny", "model", "压缩", "到", "3.5", "MB", "don't", "panic"]
        );
        assert_eq!(words("模型 x", None), ["模", "型", "x"]);
        assert!(words(" ,。", Some(&dictionary)).is_empty());
    }

    #[test]
    fn sentences_end_where_they_end() {
        let text = "Dr. Smith measured 3.5 V, i.e. too much. Why? \"Nobody knows!\" He left.\nA new line";
        assert_eq!(
            sentences(text),
            [
                "Dr. Smith measured 3.5 V, i.e. too much.",
                "Why?",
                "\"Nobody knows!\"",
                "He left.",
                "A new line"
            ]
        );
        assert_eq!(
            sentences("温度很高。请检查！好吗？“没事。”他说"),
            ["温度很高。", "请检查！", "好吗？", "“没事。”", "他说"]
        );
        assert!(sentences(" \n ").is_empty());
        // Nothing is lost but space.
        let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        assert_eq!(letters(&sentences(text).concat()), letters(text));
    }
}
