//! One sequence of tokens, and the keys and values that the model has computed for it.

use std::sync::Arc;

use edgeward_kernels::attention::Segment;
use edgeward_kernels::kv::{KvPage, KvPages, KvShape, PAGE_LEN};

use crate::adapter::Adapters;

/// Tokens seen so far, with their keys and values.
///
/// Sequences share pages: [`Sequence::fork`] copies none, and whoever writes to a shared page first gets a copy.
#[derive(Clone, Debug)]
pub struct Sequence {
    shape: KvShape,
    adapters: Adapters,
    tokens: Vec<u32>,
    pages: Vec<Arc<KvPage>>,
}

impl Sequence {
    pub(crate) fn new(shape: KvShape) -> Sequence {
        Sequence { shape, adapters: Adapters::default(), tokens: Vec::new(), pages: Vec::new() }
    }

    /// An empty sequence with these adapters.
    pub(crate) fn with_adapters(self, adapters: Adapters) -> Sequence {
        debug_assert!(self.is_empty(), "keys and values depend on the adapters");
        Sequence { adapters, ..self }
    }

    /// The adapters that it is computed with.
    pub fn adapters(&self) -> &Adapters {
        &self.adapters
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// A sequence that begins as this one, and shares its memory until either goes on.
    pub fn fork(&self) -> Sequence {
        self.clone()
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.pages.truncate(self.tokens.len().div_ceil(PAGE_LEN));
    }

    /// How many of `tokens`, from the first, are this sequence's beginning.
    pub fn common_prefix_len(&self, tokens: &[u32]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    /// Bytes of keys and values, shared ones included.
    pub fn kv_bytes(&self) -> usize {
        self.pages.len() * self.shape.page_bytes()
    }

    /// Keys and values of the positions from `idx * PAGE_LEN` on; complete if there are as many.
    ///
    /// # Panics
    /// If the sequence is not so long.
    pub fn page(&self, idx: usize) -> &Arc<KvPage> {
        &self.pages[idx]
    }

    /// Appends a page and its tokens; the sequence has whole pages only.
    pub(crate) fn push_page(&mut self, tokens: &[u32], page: KvPage) {
        debug_assert!(self.tokens.len() == self.pages.len() * PAGE_LEN && tokens.len() <= PAGE_LEN);
        self.tokens.extend_from_slice(tokens);
        self.pages.push(Arc::new(page));
    }

    pub(crate) fn shape(&self) -> KvShape {
        self.shape
    }

    /// Makes room for `n_tokens` more, in pages of its own from the first that will be written.
    pub(crate) fn reserve(&mut self, n_tokens: usize, pages: &mut KvPages) {
        let n_pages = (self.len() + n_tokens).div_ceil(PAGE_LEN);
        while self.pages.len() < n_pages {
            self.pages.push(Arc::new(pages.page()));
        }
        for page in &mut self.pages[self.tokens.len() / PAGE_LEN..] {
            Arc::make_mut(page);
        }
    }

    /// The view that the kernels work on; room must have been made.
    pub(crate) fn segment(&mut self, n_tokens: usize) -> Segment<'_> {
        Segment { first_pos: self.tokens.len(), pages: &mut self.pages, n_tokens }
    }

    /// The keys and values of these tokens are in the pages.
    pub(crate) fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Gives back pages that were reserved and not used.
    pub(crate) fn shrink(&mut self) {
        self.truncate(self.len());
    }
}
