//! Byte-pair encoding's inner loop (Sennrich et al. 2016, arXiv:1508.07909): join the best pair of neighbours, again
//! and again, until none joins.
//!
//! A heap holds the pairs that can be joined; a pair whose symbols have changed since is recognised and dropped. So a
//! word of n symbols costs O(n log n), whatever it looks like.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The id of a symbol that is no token.
pub(super) const NO_TOKEN: u32 = u32::MAX;

const NONE: u32 = u32::MAX;

/// A piece of the word on its way to becoming a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// First byte in the word.
    pub start: u32,
    /// Bytes; 0 once it has been joined to the symbol before it.
    pub len: u32,
    /// Its token, or `NO_TOKEN`.
    pub id: u32,
    prev: u32,
    next: u32,
}

impl Symbol {
    /// One past its last byte in the word.
    pub(super) fn end(&self) -> u32 {
        self.start + self.len
    }
}

/// What two neighbours become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Join {
    /// The least goes first; among equals, the leftmost.
    pub priority: u32,
    /// The token of the joined symbol.
    pub id: u32,
}

/// A pair waiting to be joined, ordered by `priority` and then by `left`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    priority: u32,
    left: u32,
    right: u32,
    /// Bytes of both when this was found.
    len: u32,
    id: u32,
}

/// Working space, kept from word to word.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
    /// Tokens as they are made, over all words, if anyone wants to know.
    made: Option<Vec<u32>>,
}

impl Merger {
    /// One that writes down every token that it makes, on the way to longer ones too.
    pub(super) fn tracing() -> Merger {
        Merger { made: Some(Vec::new()), ..Merger::default() }
    }

    /// Writes down a token that was found without joining.
    pub(super) fn note(&mut self, id: u32) {
        if let Some(made) = self.made.as_mut().filter(|_| id != NO_TOKEN) {
            made.push(id);
        }
    }

    /// What has been written down.
    pub(super) fn into_made(self) -> Vec<u32> {
        self.made.unwrap_or_default()
    }

    /// Begins a new word.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends a symbol of `len` bytes to the word.
    pub(super) fn push(&mut self, len: usize, id: u32) {
        let start = self.symbols.last().map_or(0, Symbol::end);
        let idx = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = idx;
        }
        let prev = idx.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol { start, len: len as u32, id, prev, next: NONE });
        self.note(id);
    }

    /// Joins neighbours as long as `join` says that they can be, and returns what remains.
    pub(super) fn merge(
        &mut self,
        join: impl Fn(&Symbol, &Symbol) -> Option<Join>,
    ) -> impl Iterator<Item = &Symbol> {
        let mut candidates = std::mem::take(&mut self.queue).into_vec();
        candidates
            .extend((1..self.symbols.len()).filter_map(|right| self.candidate(right - 1, right, &join)));
        self.queue = BinaryHeap::from(candidates);
        while let Some(Reverse(best)) = self.queue.pop() {
            let (left, right) = (best.left as usize, best.right as usize);
            let joined = self.symbols[right];
            let symbol = &mut self.symbols[left];
            if symbol.next != best.right || symbol.len + joined.len != best.len {
                continue;
            }
            symbol.len = best.len;
            symbol.id = best.id;
            symbol.next = joined.next;
            let (prev, next) = (symbol.prev, symbol.next);
            self.note(best.id);
            // Without a `next` no candidate of its own is taken for alive.
            self.symbols[right] = Symbol { len: 0, next: NONE, ..joined };
            if next != NONE {
                self.symbols[next as usize].prev = best.left;
                self.queue.extend(self.candidate(left, next as usize, &join));
            }
            if prev != NONE {
                self.queue.extend(self.candidate(prev as usize, left, &join));
            }
        }
        self.symbols.iter().filter(|symbol| symbol.len > 0)
    }

    fn candidate(
        &self,
        left: usize,
        right: usize,
        join: impl Fn(&Symbol, &Symbol) -> Option<Join>,
    ) -> Option<Reverse<Candidate>> {
        let (l, r) = (&self.symbols[left], &self.symbols[right]);
        let Join { priority, id } = join(l, r)?;
        Some(Reverse(Candidate { priority, left: left as u32, right: right as u32, len: l.len + r.len, id }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Joins `text` by `rules`, best first, in the plainest way: look at all pairs, join the best, begin again.
    fn merge_ref(text: &str, rules: &[(&str, &str)]) -> Vec<String> {
        let mut pieces: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let rank = |i: usize| rules.iter().position(|&(l, r)| pieces[i] == l && pieces[i + 1] == r);
            let best = (0..pieces.len().saturating_sub(1)).filter_map(|i| Some((rank(i)?, i))).min();
            let Some((_, i)) = best else { return pieces };
            let right = pieces.remove(i + 1);
            pieces[i].push_str(&right);
        }
    }

    #[test]
    fn equals_the_plain_method_on_all_short_words() {
        let rules = [
            ("b", "a"),
            ("a", "a"),
            ("a", "b"),
            ("ab", "ab"),
            ("aa", "a"),
            ("c", "ba"),
            ("aa", "aa"),
            ("a", "ba"),
        ];
        let mut merger = Merger::default();
        for len in 0..=7u32 {
            for number in 0..3u32.pow(len) {
                let text: String =
                    (0..len).map(|i| ['a', 'b', 'c'][(number / 3u32.pow(i) % 3) as usize]).collect();
                merger.clear();
                text.chars().for_each(|_| merger.push(1, NO_TOKEN));
                let slice = |s: &Symbol| &text[s.start as usize..s.end() as usize];
                let join = |l: &Symbol, r: &Symbol| {
                    let rank = rules.iter().position(|&rule| rule == (slice(l), slice(r)))?;
                    Some(Join { priority: rank as u32, id: rank as u32 })
                };
                let got: Vec<String> = merger.merge(join).map(|s| slice(s).to_owned()).collect();
                assert_eq!(got, merge_ref(&text, &rules), "{text}");
            }
        }
    }
}
