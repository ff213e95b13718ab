//! Finds special tokens in text.
//!
//! The leftmost wins, then the longest, as in Hugging Face's `tokenizers`. llama.cpp looks for the longest in the
//! whole text first; that differs only where one special token ends as another begins, which no vocabulary that we
//! know has.
//!
//! The tokens are sorted by their bytes; reading the text narrows the range of those that begin alike, so a place in
//! the text costs a few binary searches, whatever their number, and building costs one sort.

use super::vocab::{TokenKind, Vocab};

/// Some of a vocabulary's tokens, ready to be found in text.
pub(super) struct SpecialMatcher {
    /// Ids, sorted by their tokens' bytes; no empty token.
    sorted: Vec<u32>,
    /// For each byte, the range in `sorted` of tokens that begin with it.
    by_first_byte: [(u32, u32); 256],
}

impl SpecialMatcher {
    /// Finds nothing.
    pub(super) fn none() -> SpecialMatcher {
        SpecialMatcher { sorted: Vec::new(), by_first_byte: [(0, 0); 256] }
    }

    /// Finds all tokens of some kinds.
    pub(super) fn new(vocab: &Vocab, wanted: impl Fn(TokenKind) -> bool) -> SpecialMatcher {
        let mut sorted: Vec<u32> = vocab.ids_of(wanted).filter(|&id| !vocab.bytes(id).is_empty()).collect();
        sorted.sort_unstable_by_key(|&id| (vocab.bytes(id), id));
        let mut by_first_byte = [(0, 0); 256];
        for (position, &id) in (0u32..).zip(&sorted) {
            let range = &mut by_first_byte[usize::from(vocab.bytes(id)[0])];
            if range.1 == 0 {
                range.0 = position;
            }
            range.1 = position + 1;
        }
        SpecialMatcher { sorted, by_first_byte }
    }

    /// The text before the first special token, and that token.
    pub(super) fn find<'t>(&self, vocab: &Vocab, text: &'t str) -> (&'t str, Option<u32>) {
        if self.sorted.is_empty() {
            return (text, None);
        }
        for (start, &byte) in text.as_bytes().iter().enumerate() {
            if self.by_first_byte[usize::from(byte)].1 == 0 {
                continue;
            }
            // A token is whole characters: it can begin and end only between characters.
            if let Some(id) = self.longest_at(vocab, &text.as_bytes()[start..]) {
                return (&text[..start], Some(id));
            }
        }
        (text, None)
    }

    /// The special token that is exactly `bytes`.
    pub(super) fn exact(&self, vocab: &Vocab, bytes: &[u8]) -> Option<u32> {
        self.longest_at(vocab, bytes).filter(|&id| vocab.bytes(id).len() == bytes.len())
    }

    /// Whether `text` begins with a special token.
    pub(super) fn is_at(&self, vocab: &Vocab, text: &[u8]) -> bool {
        self.longest_at(vocab, text).is_some()
    }

    /// The longest special token that `text` begins with; of equal ones, that with the lowest id.
    fn longest_at(&self, vocab: &Vocab, text: &[u8]) -> Option<u32> {
        let (start, end) = self.by_first_byte[usize::from(*text.first()?)];
        let mut candidates = &self.sorted[start as usize..end as usize];
        let mut longest = None;
        // All candidates agree with the text in its first `n_matched` bytes; a token no longer than that sorts first.
        for n_matched in 1.. {
            let Some(&first) = candidates.first() else { break };
            if vocab.bytes(first).len() == n_matched {
                longest = Some(first);
            }
            let Some(&next) = text.get(n_matched) else { break };
            let byte_at = |id: &u32| vocab.bytes(*id).get(n_matched).copied();
            let below = candidates.partition_point(|id| byte_at(id) < Some(next));
            let above = candidates.partition_point(|id| byte_at(id) <= Some(next));
            candidates = &candidates[below..above];
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab(tokens: &[&str]) -> Vocab {
        let mut vocab = Vocab::with_capacity(tokens.len());
        for token in tokens {
            vocab.push(TokenKind::Control, |out| out.extend(token.bytes())).unwrap();
        }
        vocab
    }

    #[test]
    fn finds_the_leftmost_then_longest() {
        let vocab = vocab(&["<a>", "\n", "\n\n", "", "<a><b>", "é", "<a>"]);
        let matcher = SpecialMatcher::new(&vocab, |_| true);
        let cases = [
            ("", "", None),
            ("plain", "plain", None),
            ("x<a>y", "x", Some(0)),
            ("x<a><", "x", Some(0)),
            ("x<a><b>", "x", Some(4)),
            ("x\n\n\n<a>", "x", Some(2)),
            ("<a", "<a", None),
            ("caf\u{e9}", "caf", Some(5)),
            ("\u{e8}", "\u{e8}", None),
        ];
        for (text, before, id) in cases {
            assert_eq!(matcher.find(&vocab, text), (before, id), "{text:?}");
        }
        assert_eq!(matcher.exact(&vocab, b"<a>"), Some(0));
        assert_eq!(matcher.exact(&vocab, b"<a>y"), None);
        assert_eq!(matcher.exact(&vocab, b""), None);
        assert_eq!(SpecialMatcher::none().find(&vocab, "<a>"), ("<a>", None));
    }
}
