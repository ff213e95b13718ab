//! Beginnings of sequences that have been computed before: a radix tree over the tokens, a node for each page of keys
//! and values.
//!
//! A node holds a [`Sequence`] up to its end, and so shares the pages of the nodes above it and of the sequences it came
//! from; whoever goes on from it copies the last page only, and only on writing. A look-up may end in the middle of a
//! page. The pages of all nodes together have at most a given number of bytes; whatever was unused longest goes first.
//!
//! A sequence is found by who has the same adapters, in the same strengths. Those with an adapter that was forgotten are
//! not kept.
//!
//! Invariants: a node's tokens are at most a page, and exactly one if it has children; no two children of a node begin
//! with all of each other's tokens; a node was used no earlier than those below it.

use std::sync::{Arc, Weak};

use edgeward_engine::{Adapter, Adapters, PAGE_LEN, Sequence};

/// See the [module's text](self).
#[derive(Default)]
pub struct PrefixCache {
    roots: Vec<Node>,
    max_bytes: usize,
    page_bytes: usize,
    n_nodes: usize,
    /// Grows with every use.
    clock: u64,
    /// Adapters that are used to the end of what has begun, and never again.
    forgotten: Vec<Weak<Adapter>>,
}

struct Node {
    tokens: Vec<u32>,
    /// Everything from the beginning to these tokens.
    sequence: Sequence,
    last_used: u64,
    children: Vec<Node>,
}

impl PrefixCache {
    /// An empty cache for sequences whose pages have `page_bytes`; it keeps nothing if `max_bytes` is less.
    pub fn new(max_bytes: usize, page_bytes: usize) -> PrefixCache {
        PrefixCache { max_bytes, page_bytes, ..PrefixCache::default() }
    }

    /// Bytes of keys and values that it keeps.
    pub fn size_bytes(&self) -> usize {
        self.n_nodes * self.page_bytes
    }

    /// A sequence with these adapters that is the longest known beginning of `tokens`, at most `max_len` of them; `None` if
    /// nothing is.
    pub fn find(&mut self, tokens: &[u32], max_len: usize, adapters: &Adapters) -> Option<Sequence> {
        self.clock += 1;
        let clock = self.clock;
        let wanted = &tokens[..max_len.min(tokens.len())];
        let mut nodes = &mut self.roots;
        let mut best = None;
        let mut len = 0;
        loop {
            let rest = &wanted[len..];
            let usable = nodes.iter_mut().filter(|node| node.sequence.adapters() == adapters);
            let nearest = usable.max_by_key(|node| common_len(&node.tokens, rest))?;
            let n_common = common_len(&nearest.tokens, rest);
            if n_common > 0 {
                nearest.last_used = clock;
                let mut sequence = nearest.sequence.fork();
                sequence.truncate(len + n_common);
                best = Some(sequence);
            }
            len += n_common;
            if n_common < PAGE_LEN || nearest.children.is_empty() {
                return best;
            }
            nodes = &mut nearest.children;
        }
    }

    /// Keeps a sequence.
    pub fn insert(&mut self, sequence: &Sequence) {
        if self.max_bytes < self.page_bytes || self.is_forgotten(sequence) {
            return;
        }
        self.clock += 1;
        let tokens = sequence.tokens();
        let mut nodes = &mut self.roots;
        let mut end = 0;
        for page in tokens.chunks(PAGE_LEN) {
            end += page.len();
            // What is already there, or a shorter end that this one goes on from.
            let known = nodes.iter().position(|node| {
                (node.tokens.starts_with(page) || page.starts_with(&node.tokens))
                    && node.sequence.adapters() == sequence.adapters()
            });
            let idx = known.unwrap_or_else(|| {
                nodes.push(Node {
                    tokens: Vec::new(),
                    sequence: sequence.fork(),
                    last_used: 0,
                    children: Vec::new(),
                });
                self.n_nodes += 1;
                nodes.len() - 1
            });
            let node = &mut nodes[idx];
            node.last_used = self.clock;
            if node.tokens.len() < page.len() {
                node.tokens = page.to_vec();
                node.sequence = sequence.fork();
                node.sequence.truncate(end);
            }
            nodes = &mut nodes[idx].children;
        }
        while self.size_bytes() > self.max_bytes {
            remove_oldest(&mut self.roots);
            self.n_nodes -= 1;
        }
    }

    /// Lets go of all sequences with this adapter, and keeps none that come later.
    pub fn forget(&mut self, adapter: &Arc<Adapter>) {
        self.forgotten.retain(|forgotten| forgotten.strong_count() > 0);
        self.forgotten.push(Arc::downgrade(adapter));
        let mut roots = std::mem::take(&mut self.roots);
        // What goes on from a sequence has its adapters.
        roots.retain(|node| !self.is_forgotten(&node.sequence));
        self.n_nodes = roots.iter().map(n_nodes).sum();
        self.roots = roots;
    }

    fn is_forgotten(&self, sequence: &Sequence) -> bool {
        let mut adapters = sequence.adapters().list().iter();
        adapters.any(|(adapter, _)| {
            self.forgotten.iter().any(|forgotten| std::ptr::eq(forgotten.as_ptr(), Arc::as_ptr(adapter)))
        })
    }
}

/// Removes the leaf that was unused longest. There is one.
fn remove_oldest(nodes: &mut Vec<Node>) {
    let mut path_nodes = nodes;
    loop {
        // A node is as young as its youngest child, so the oldest leaf is where the oldest leaves are, not the oldest
        // nodes: every subtree is asked.
        let (idx, _) = path_nodes
            .iter()
            .enumerate()
            .map(|(idx, node)| (idx, oldest_leaf(node)))
            .min_by_key(|(_, used)| *used)
            .expect("the cache is not empty");
        if path_nodes[idx].children.is_empty() {
            path_nodes.swap_remove(idx);
            return;
        }
        path_nodes = &mut path_nodes[idx].children;
    }
}

/// With those below it.
fn n_nodes(node: &Node) -> usize {
    1 + node.children.iter().map(n_nodes).sum::<usize>()
}

fn oldest_leaf(node: &Node) -> u64 {
    node.children.iter().map(oldest_leaf).min().unwrap_or(node.last_used)
}

fn common_len(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::tests::tiny_adapter;
    use crate::scheduler::tests::tiny_engine;
    use edgeward_engine::{CancelToken, Engine};

    fn sequence(engine: &mut Engine, tokens: &[u32]) -> Sequence {
        let mut sequence = engine.new_sequence();
        engine.prefill(&mut sequence, tokens, &CancelToken::new()).unwrap();
        sequence
    }

    fn cache(engine: &Engine, n_pages: usize) -> PrefixCache {
        let page_bytes = engine.kv_bytes(1);
        PrefixCache::new(n_pages * page_bytes, page_bytes)
    }

    /// `n` tokens that depend on `seed` from position `from` on.
    fn tokens(n: usize, from: usize, seed: u32) -> Vec<u32> {
        (0..n).map(|i| (i as u32 * 7 + if i < from { 0 } else { seed }) % 200 + 10).collect()
    }

    fn found_len(cache: &mut PrefixCache, wanted: &[u32]) -> usize {
        let found = cache.find(wanted, wanted.len(), &Adapters::default());
        if let Some(found) = &found {
            assert_eq!(found.tokens(), &wanted[..found.len()]);
        }
        found.map_or(0, |found| found.len())
    }

    #[test]
    fn finds_the_longest_common_beginning() {
        let mut engine = tiny_engine();
        let mut cache = cache(&engine, 100);
        assert_eq!(found_len(&mut cache, &tokens(10, 0, 0)), 0);
        cache.insert(&sequence(&mut engine, &tokens(150, 0, 0)));
        cache.insert(&sequence(&mut engine, &tokens(200, 100, 1)));
        assert_eq!(found_len(&mut cache, &tokens(150, 0, 0)), 150);
        assert_eq!(found_len(&mut cache, &tokens(300, 0, 0)), 150);
        assert_eq!(found_len(&mut cache, &tokens(70, 0, 0)), 70);
        assert_eq!(found_len(&mut cache, &tokens(300, 100, 1)), 200);
        assert_eq!(found_len(&mut cache, &tokens(300, 110, 2)), 110);
        assert_eq!(found_len(&mut cache, &tokens(300, 0, 3)), 0);
        let found = cache.find(&tokens(150, 0, 0), 149, &Adapters::default()).unwrap();
        assert_eq!(found.len(), 149);
    }

    #[test]
    fn shared_pages_count_once_and_a_longer_end_replaces_a_shorter() {
        let mut engine = tiny_engine();
        let mut cache = cache(&engine, 100);
        let page_bytes = engine.kv_bytes(1);
        cache.insert(&sequence(&mut engine, &tokens(150, 0, 0)));
        assert_eq!(cache.size_bytes(), 3 * page_bytes);
        cache.insert(&sequence(&mut engine, &tokens(160, 0, 0)));
        cache.insert(&sequence(&mut engine, &tokens(140, 0, 0)));
        assert_eq!(cache.size_bytes(), 3 * page_bytes);
        assert_eq!(found_len(&mut cache, &tokens(160, 0, 0)), 160);
        cache.insert(&sequence(&mut engine, &tokens(160, 100, 1)));
        assert_eq!(cache.size_bytes(), 5 * page_bytes);
    }

    #[test]
    fn what_was_unused_longest_goes_first() {
        let mut engine = tiny_engine();
        let mut cache = cache(&engine, 4);
        let [a, b, c] = [1, 2, 3].map(|seed| tokens(100, 0, seed));
        cache.insert(&sequence(&mut engine, &a));
        cache.insert(&sequence(&mut engine, &b));
        assert_eq!(found_len(&mut cache, &a), 100);
        cache.insert(&sequence(&mut engine, &c));
        assert_eq!(cache.size_bytes(), 4 * engine.kv_bytes(1));
        assert_eq!([a, b, c].map(|tokens| found_len(&mut cache, &tokens)), [100, 0, 100]);
    }

    #[test]
    fn adapters_keep_sequences_apart_and_those_forgotten_are_not_kept() {
        let mut engine = tiny_engine();
        let mut cache = cache(&engine, 100);
        let tokens = tokens(150, 0, 0);
        let [all, few] = ["all", "few"].map(tiny_adapter);
        let strong = Adapters::new([(Arc::clone(&all), 1.0)]);
        let weak = Adapters::new([(Arc::clone(&all), 0.5)]);
        let other = Adapters::new([(Arc::clone(&few), 1.0)]);
        let mut kept = Vec::new();
        for adapters in [&Adapters::default(), &strong, &other] {
            let mut sequence = engine.new_adapted_sequence(adapters).unwrap();
            engine.prefill(&mut sequence, &tokens, &CancelToken::new()).unwrap();
            cache.insert(&sequence);
            kept.push(sequence);
        }
        assert_eq!(cache.size_bytes(), 9 * engine.kv_bytes(1));
        let mut found = |adapters: &Adapters| cache.find(&tokens, 150, adapters).map(|found| found.len());
        assert_eq!([&Adapters::default(), &strong, &other].map(&mut found), [Some(150); 3]);
        assert_eq!(found(&weak), None);
        cache.forget(&all);
        assert_eq!(cache.size_bytes(), 6 * engine.kv_bytes(1));
        cache.insert(&kept[1]);
        let mut found = |adapters: &Adapters| cache.find(&tokens, 150, adapters).map(|found| found.len());
        assert_eq!([&Adapters::default(), &strong, &other].map(&mut found), [Some(150), None, Some(150)]);
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let mut engine = tiny_engine();
        let mut cache = cache(&engine, 0);
        cache.insert(&sequence(&mut engine, &tokens(100, 0, 0)));
        assert_eq!((cache.size_bytes(), found_len(&mut cache, &tokens(100, 0, 0))), (0, 0));
    }
}
