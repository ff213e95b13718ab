//! Attention over pages of keys and values.
//!
//! Positions are taken in chunks of [`CHUNK`]; a chunk's scores, weights and weighted values are computed together,
//! then merged into the running result (the online softmax of Milakov and Gimelshein 2018, arXiv:1805.02867, as in
//! FlashAttention). All query heads that share a key-value head are served by one pass over its keys and values.
//!
//! One token attends with its chunks spread over the threads, and whoever finishes last merges them in order; many
//! tokens attend block by block, each going through its chunks. The arithmetic is the same: a chunk's result and the
//! order of merging depend only on positions, so neither the number of threads nor the other tokens of a batch
//! change a bit.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::acts::{BLOCK, Form};
use crate::isa::{Isa, Kernel, LANES, Simd};
use crate::kv::{FloatSource, KvPage, KvShape, KvSource, KvType, PAGE_LEN, WidePage};
use crate::linear::{Activations, Rows, for_each_token};
use crate::math::{self, PrepareHead};
use crate::pool::{PerThread, Pool};

/// Positions whose weights are normalised together: two pages.
const CHUNK: usize = 2 * PAGE_LEN;
/// Tokens of a sequence that attend in one piece of work.
const TOKENS_PER_PIECE: usize = 64;
/// From this many query rows on, pages are widened to `f32` once and then read many times.
const WIDEN_ROWS: usize = 8;

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub n_heads: usize,
    /// Key-value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Coordinates of each.
    pub head_dim: usize,
    /// A position attends to itself and the `window_len - 1` before it; `None` for all before it.
    pub window_len: Option<usize>,
}

impl Heads {
    /// Values in a row of queries, keys and values.
    pub fn row_len(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }
    /// Query heads that share a key-value head.
    fn group_len(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }
    /// Positions that position `pos` attends to.
    fn visible(&self, pos: usize) -> Range<usize> {
        self.window_len.map_or(0, |len| (pos + 1).saturating_sub(len))..pos + 1
    }
}

/// What happens to queries and keys before they meet.
#[derive(Clone, Copy, Debug)]
pub struct Prepare<'a> {
    /// RMS norm weights of each query head and each key head, and epsilon.
    pub norms: Option<(&'a [f32], &'a [f32], f32)>,
    /// For each token of the batch, cosines then sines of its position: `[n_tokens][2][rotary_dim / 2]`.
    pub angles: &'a [f32],
    /// Pairs are neighbours (the paper's layout), not half a head apart.
    pub is_interleaved: bool,
    /// Multiplies the queries.
    pub scale: f32,
}

/// Norms and turns the queries and keys in the rows of `qkv`, `[n_tokens][queries | keys | values]`.
pub fn prepare(pool: &mut Pool, isa: Isa, heads: Heads, prepare: Prepare, qkv: &mut [f32]) {
    let row_len = heads.row_len();
    let n_tokens = qkv.len() / row_len;
    let angles_len = prepare.angles.len() / n_tokens.max(1);
    let rows = Rows::new(qkv, row_len);
    for_each_token(pool, n_tokens, |token| {
        // SAFETY: each row is touched by one piece.
        let row = unsafe { rows.row_mut(token, 0, (heads.n_heads + heads.n_kv_heads) * heads.head_dim) };
        for (i, head) in row.chunks_exact_mut(heads.head_dim).enumerate() {
            let is_query = i < heads.n_heads;
            isa.run(PrepareHead {
                head,
                norm: prepare.norms.map(|(q, k, eps)| (if is_query { q } else { k }, eps)),
                angles: &prepare.angles[token * angles_len..][..angles_len],
                is_interleaved: prepare.is_interleaved,
                scale: if is_query { prepare.scale } else { 1.0 },
            });
        }
    });
}

/// The new tokens of one sequence in a batch, and where its past is.
#[derive(Debug)]
pub struct Segment<'a> {
    /// Pages of the sequence, with room for the new tokens.
    pub pages: &'a mut [Arc<KvPage>],
    /// Position of its first new token.
    pub first_pos: usize,
    /// New tokens; they follow each other in the batch, after those of the segments before.
    pub n_tokens: usize,
}

/// Stores the keys and values of a batch, `[n_tokens][queries | keys | values]`, in the pages.
///
/// # Panics
/// If a page that is written is shared.
pub fn store(pool: &mut Pool, isa: Isa, layer: usize, heads: Heads, qkv: &[f32], segments: &mut [Segment]) {
    struct Job<'a> {
        page: *mut KvPage,
        slots: Range<usize>,
        rows: &'a [f32],
    }
    // SAFETY: the page is borrowed exclusively, by one job alone.
    unsafe impl Sync for Job<'_> {}

    let row_len = heads.row_len();
    let mut jobs = Vec::new();
    let mut rows = qkv;
    for segment in segments {
        let end = segment.first_pos + segment.n_tokens;
        for (i, page) in segment.pages.iter_mut().enumerate().skip(segment.first_pos / PAGE_LEN) {
            let slots = segment.first_pos.max(i * PAGE_LEN)..end.min((i + 1) * PAGE_LEN);
            if slots.is_empty() {
                break;
            }
            let (now, later) = rows.split_at(slots.len() * row_len);
            rows = later;
            let page = Arc::get_mut(page).expect("pages that are written belong to one sequence");
            jobs.push(Job { page, slots: slots.start - i * PAGE_LEN..slots.end - i * PAGE_LEN, rows: now });
        }
    }
    let (q_len, kv_len) = (heads.n_heads * heads.head_dim, heads.n_kv_heads * heads.head_dim);
    pool.run(jobs.len(), |_, i| {
        let job = &jobs[i];
        // SAFETY: see `Job`.
        let page = unsafe { &mut *job.page };
        for (slot, row) in job.slots.clone().zip(job.rows.chunks_exact(row_len)) {
            let (keys, values) = row[q_len..].split_at(kv_len);
            let both = keys.chunks_exact(heads.head_dim).zip(values.chunks_exact(heads.head_dim));
            for (head, (key, value)) in both.enumerate() {
                page.store(isa, (layer, head), slot, key, value);
            }
        }
    });
}

/// Memory for [`attend`], kept from call to call.
#[derive(Default)]
pub struct Scratch {
    workers: Option<PerThread<WorkerScratch>>,
    /// Results of single chunks that wait to be merged.
    partials: Vec<f32>,
}

#[derive(Default)]
struct WorkerScratch {
    /// `[n_rows][CHUNK]`: scores, then weights.
    scores: Vec<f32>,
    /// Of the chunk, and of all chunks so far.
    chunk: Vec<f32>,
    total: Vec<f32>,
    wide: [WidePage; 2],
}

/// The state of the online softmax of one query row: the largest score, the sum of weights, padding to a vector, then
/// the weighted sum of values, padded to vectors.
struct State;

impl State {
    fn row_len(heads: Heads) -> usize {
        heads.head_dim.next_multiple_of(LANES) + LANES
    }
}

/// One piece of work.
#[derive(Clone)]
struct Item {
    segment: usize,
    kv_head: usize,
    /// Tokens of the segment.
    tokens: Range<usize>,
    chunks: Range<usize>,
    /// For a single chunk of a token: which partial result, and which counter.
    partial: Option<(usize, usize)>,
}

/// For every token of a batch, the weighted sum of the values that it attends to; `out` gets
/// `[n_tokens][n_heads * head_dim]`, in the form that is asked for. `plan` is of these very heads and segments.
pub fn attend(
    pool: &mut Pool,
    isa: Isa,
    layer: usize,
    qkv: &[f32],
    (plan, segments): (&Plan, &[Segment]),
    (form, out): (Form, &mut Activations),
    scratch: &mut Scratch,
) {
    let Plan { heads, items, first_tokens, counters, n_partials, n_tokens } = plan;
    let (heads, n_tokens) = (*heads, *n_tokens);
    let group_len = heads.group_len();
    assert_eq!(qkv.len(), n_tokens * heads.row_len(), "the plan is of this batch");
    counters.iter().for_each(|counter| counter.n_done.store(0, Ordering::Relaxed));
    let partial_len = group_len * State::row_len(heads);
    scratch.partials.resize(n_partials * partial_len, 0.0);
    if scratch.workers.as_ref().is_none_or(|workers| workers.len() < pool.n_threads()) {
        scratch.workers = Some(PerThread::new(pool.n_threads()));
    }
    let workers = scratch.workers.as_ref().expect("just made");
    let partials = Rows::new(&mut scratch.partials, partial_len);

    out.resize(n_tokens, heads.n_heads * heads.head_dim, form);
    // A key-value head's share of a row is quantised by whoever completes it, if it is whole blocks.
    let quantizes_parts = form != Form::Float && (group_len * heads.head_dim).is_multiple_of(BLOCK);
    {
        let parts = out.parts();
        pool.run(items.len(), |thread, i| {
            let item = &items[i];
            let segment = &segments[item.segment];
            // SAFETY: this thread's own.
            let worker = unsafe { workers.get(thread) };
            let first_token = first_tokens[item.segment] + item.tokens.start;
            let mut work = Work {
                heads,
                layer,
                kv_head: item.kv_head,
                pages: segment.pages,
                first_pos: segment.first_pos + item.tokens.start,
                n_tokens: item.tokens.len(),
                qkv: &qkv[first_token * heads.row_len()..],
                worker,
            };
            let finish = |state: &[f32]| {
                for token in 0..item.tokens.len() {
                    let rows = &state[token * partial_len..][..partial_len];
                    let from = item.kv_head * group_len * heads.head_dim;
                    // SAFETY: this token's share of this head is written by this item alone.
                    unsafe {
                        let out = parts.part_mut(first_token + token, from, group_len * heads.head_dim);
                        isa.run(Finish { heads, rows, out });
                        if quantizes_parts {
                            parts.quantize(isa, first_token + token, from, group_len * heads.head_dim);
                        }
                    }
                }
            };
            isa.run(Attend { work: &mut work, chunks: item.chunks.clone() });
            match item.partial {
                None => finish(&work.worker.total),
                Some((partial, counter)) => {
                    // SAFETY: the partial result is this item's until the counter says that all are there.
                    unsafe { partials.row_mut(partial, 0, partial_len) }.copy_from_slice(&work.worker.total);
                    let counter = &counters[counter];
                    let n_done = counter.n_done.fetch_add(1, Ordering::AcqRel) + 1;
                    if n_done == counter.n_chunks {
                        let total = &mut work.worker.total;
                        for i in 0..counter.n_chunks as usize {
                            // SAFETY: all of them are complete, and nobody writes them any more.
                            let part = unsafe { partials.row_mut(counter.first_partial + i, 0, partial_len) };
                            if i == 0 {
                                total.copy_from_slice(part);
                            } else {
                                isa.run(Merge { heads, total, part });
                            }
                        }
                        finish(total);
                    }
                }
            }
        });
    }
    if form != Form::Float && !quantizes_parts {
        let parts = out.parts();
        for_each_token(pool, n_tokens, |token| {
            // SAFETY: each token's blocks are touched by one piece.
            unsafe { parts.quantize(isa, token, 0, heads.n_heads * heads.head_dim) };
        });
    }
}

struct Counter {
    n_done: AtomicU32,
    n_chunks: u32,
    first_partial: usize,
}

/// How a batch is cut into pieces: single tokens by chunks, many tokens by blocks of tokens. All layers with the same
/// heads share it.
pub struct Plan {
    heads: Heads,
    items: Vec<Item>,
    /// Index in the batch of each segment's first token.
    first_tokens: Vec<usize>,
    counters: Vec<Counter>,
    n_partials: usize,
    n_tokens: usize,
}

impl Plan {
    /// The plan for a batch of these segments, for a pool of `n_threads` threads.
    pub fn new(heads: Heads, segments: &[Segment], n_threads: usize) -> Plan {
        let mut plan = Plan {
            heads,
            items: Vec::new(),
            first_tokens: Vec::new(),
            counters: Vec::new(),
            n_partials: 0,
            n_tokens: 0,
        };
        for (i, segment) in segments.iter().enumerate() {
            plan.first_tokens.push(plan.n_tokens);
            plan.n_tokens += segment.n_tokens;
            for kv_head in 0..heads.n_kv_heads {
                if segment.n_tokens == 1 {
                    plan.add_token(i, kv_head, segment.first_pos);
                } else {
                    plan.add_blocks(i, kv_head, segment);
                }
            }
        }
        // Neighbours go to one thread: that suits single tokens, whose pieces are equal and lie side by side in memory.
        // Blocks of tokens see the more the later they are: dealt out in turn, the longest first, they make equal shares.
        if plan.items.iter().any(|item| item.tokens.len() > 1) {
            plan.items.sort_by_key(|item| std::cmp::Reverse(item.tokens.len() * item.chunks.len()));
            let dealt = (0..n_threads).flat_map(|thread| plan.items.iter().skip(thread).step_by(n_threads));
            plan.items = dealt.cloned().collect();
        }
        plan
    }

    fn add_token(&mut self, segment: usize, kv_head: usize, pos: usize) {
        let visible = self.heads.visible(pos);
        let chunks = visible.start / CHUNK..visible.end.div_ceil(CHUNK);
        if chunks.len() == 1 {
            self.items.push(Item { segment, kv_head, tokens: 0..1, chunks, partial: None });
            return;
        }
        for (i, chunk) in chunks.clone().enumerate() {
            let partial = Some((self.n_partials + i, self.counters.len()));
            self.items.push(Item { segment, kv_head, tokens: 0..1, chunks: chunk..chunk + 1, partial });
        }
        let (n_chunks, first_partial) = (chunks.len() as u32, self.n_partials);
        self.counters.push(Counter { n_done: AtomicU32::new(0), n_chunks, first_partial });
        self.n_partials += chunks.len();
    }

    fn add_blocks(&mut self, segment: usize, kv_head: usize, Segment { first_pos, n_tokens, .. }: &Segment) {
        for first in (0..*n_tokens).step_by(TOKENS_PER_PIECE) {
            let tokens = first..(*n_tokens).min(first + TOKENS_PER_PIECE);
            let start = self.heads.visible(first_pos + tokens.start).start;
            let chunks = start / CHUNK..(first_pos + tokens.end).div_ceil(CHUNK);
            self.items.push(Item { segment, kv_head, tokens, chunks, partial: None });
        }
    }
}

/// Some tokens of one sequence at one key-value head.
struct Work<'a> {
    heads: Heads,
    layer: usize,
    kv_head: usize,
    pages: &'a [Arc<KvPage>],
    /// Of the first token.
    first_pos: usize,
    n_tokens: usize,
    /// From the first token's row on.
    qkv: &'a [f32],
    worker: &'a mut WorkerScratch,
}

/// Attends over `chunks`; the state is left in `work.worker.total`.
struct Attend<'a, 'w> {
    work: &'a mut Work<'w>,
    chunks: Range<usize>,
}

impl Kernel for Attend<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let work = self.work;
        let heads = work.heads;
        let n_rows = work.n_tokens * heads.group_len();
        let row_len = State::row_len(heads);
        let WorkerScratch { scores, chunk: part, total, wide } = &mut *work.worker;
        scores.resize(n_rows * CHUNK, 0.0);
        part.resize(n_rows * row_len, 0.0);
        total.resize(n_rows * row_len, 0.0);
        let first_chunk = self.chunks.start;
        let last_page = (work.first_pos + work.n_tokens - 1) / PAGE_LEN;
        for chunk in self.chunks {
            let first_pos = chunk * CHUNK;
            let n_pos = (work.first_pos + work.n_tokens).min(first_pos + CHUNK) - first_pos;
            let into = if chunk == first_chunk { &mut *total } else { &mut *part };
            let mut kernel = ChunkKernel {
                heads,
                qkv: work.qkv,
                kv_head: work.kv_head,
                n_rows,
                n_pos,
                first_query: work.first_pos,
                first_pos,
                scores,
                state: into,
                next_keys: [std::ptr::null(); 2],
            };
            // Whoever finishes a chunk takes, most likely, the next one.
            let next = (chunk + 1) * CHUNK / PAGE_LEN;
            for (i, keys) in kernel.next_keys.iter_mut().enumerate() {
                let page = &work.pages[(next + i).min(last_page)];
                *keys = page.head(work.layer, work.kv_head).keys();
            }
            let pages = &work.pages[first_pos / PAGE_LEN..];
            // The second page, if the chunk has got that far.
            let second = (n_pos - 1) / PAGE_LEN;
            let pages = [&pages[0], &pages[second]].map(|page| page.head(work.layer, work.kv_head));
            let [a, b] = &pages;
            let shape = a.shape;
            // SAFETY: the sources are of pages that hold `n_pos` positions.
            unsafe {
                match (shape.kv_type, n_rows < WIDEN_ROWS) {
                    (KvType::F32, _) => kernel.run(s, [a.float_source(), b.float_source()]),
                    (KvType::F16, true) => kernel.run(s, [a.half_source(), b.half_source()]),
                    (KvType::Q8_0, true) => kernel.run(s, [a.byte_source(), b.byte_source()]),
                    (KvType::F16, false) => {
                        let sources = [a.half_source(), b.half_source()];
                        kernel.run(s, widen(s, sources, shape, n_pos, wide));
                    }
                    (KvType::Q8_0, false) => {
                        let sources = [a.byte_source(), b.byte_source()];
                        kernel.run(s, widen(s, sources, shape, n_pos, wide));
                    }
                }
            }
            if chunk != first_chunk {
                merge(s, heads, total, part);
            }
        }
    }
}

/// Copies of the pages of a chunk of `n_pos` positions, widened to `f32`.
///
/// # Safety
/// The sources are of pages of this shape.
#[inline(always)]
unsafe fn widen<S: Simd, K: KvSource>(
    s: S,
    sources: [K; 2],
    shape: KvShape,
    n_pos: usize,
    wide: &mut [WidePage; 2],
) -> [FloatSource; 2] {
    let [a, b] = wide;
    // SAFETY: the caller's.
    unsafe {
        let first = a.widen(s, sources[0], shape, n_pos.min(PAGE_LEN).div_ceil(LANES));
        if n_pos <= PAGE_LEN {
            return [first; 2];
        }
        [first, b.widen(s, sources[1], shape, (n_pos - PAGE_LEN).div_ceil(LANES))]
    }
}

/// Some query rows against one chunk.
struct ChunkKernel<'a> {
    heads: Heads,
    /// From the first token's row on.
    qkv: &'a [f32],
    kv_head: usize,
    /// Row `token * group_len + i` is query head `kv_head * group_len + i` of `token`.
    n_rows: usize,
    /// Positions of the chunk that any row may see.
    n_pos: usize,
    /// Position of the first token.
    first_query: usize,
    /// Position at which the chunk begins.
    first_pos: usize,
    /// `[n_rows][CHUNK]`
    scores: &'a mut [f32],
    /// `[n_rows]` of [`State`].
    state: &'a mut [f32],
    /// The keys that will be wanted next, of two pages, to be asked for while this chunk's values are read.
    next_keys: [*const u8; 2],
}

/// [`ChunkKernel::scores_of`] `R` rows.
struct Scores<'c, 'a, K, const R: usize> {
    chunk: &'c mut ChunkKernel<'a>,
    /// The chunk's two pages.
    sources: [K; 2],
    first: usize,
    row: usize,
}

impl<K: KvSource, const R: usize> Kernel for Scores<'_, '_, K, R> {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        // SAFETY: the chunk's run vouches for the sources and the rows.
        unsafe { self.chunk.scores_of::<S, K, R>(s, self.sources, self.first, self.row) }
    }
}

/// [`ChunkKernel::weights_and_values`] of `R` rows.
struct Values<'c, 'a, K, const R: usize> {
    chunk: &'c mut ChunkKernel<'a>,
    /// The chunk's two pages.
    sources: [K; 2],
    row: usize,
}

impl<K: KvSource, const R: usize> Kernel for Values<'_, '_, K, R> {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        // SAFETY: the chunk's run vouches for the sources and the rows.
        unsafe { self.chunk.weights_and_values::<S, K, R>(s, self.sources, self.row) }
    }
}

impl ChunkKernel<'_> {
    /// # Safety
    /// `sources` are the chunk's two pages, with `n_pos` positions.
    #[inline(always)]
    unsafe fn run<S: Simd, K: KvSource>(&mut self, s: S, sources: [K; 2]) {
        for first in (0..self.n_pos).step_by(S::SCORE_BLOCKS * LANES) {
            let mut row = 0;
            while row < self.n_rows {
                row += match self.n_rows - row {
                    6.. => s.call(Scores::<K, 6> { chunk: self, sources, first, row }),
                    4.. => s.call(Scores::<K, 4> { chunk: self, sources, first, row }),
                    3 => s.call(Scores::<K, 3> { chunk: self, sources, first, row }),
                    2 => s.call(Scores::<K, 2> { chunk: self, sources, first, row }),
                    _ => s.call(Scores::<K, 1> { chunk: self, sources, first, row }),
                };
            }
        }
        let mut row = 0;
        while row < self.n_rows {
            row += match self.n_rows - row {
                6.. => s.call(Values::<K, 6> { chunk: self, sources, row }),
                4.. => s.call(Values::<K, 4> { chunk: self, sources, row }),
                3 => s.call(Values::<K, 3> { chunk: self, sources, row }),
                2 => s.call(Values::<K, 2> { chunk: self, sources, row }),
                _ => s.call(Values::<K, 1> { chunk: self, sources, row }),
            };
        }
    }

    /// Positions of the chunk that query row `row` sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> Range<usize> {
        let visible = self.heads.visible(self.first_query + row / self.heads.group_len());
        let local = |pos: usize| pos.saturating_sub(self.first_pos).min(self.n_pos);
        local(visible.start)..local(visible.end)
    }

    /// Positions that any of `n_rows` rows sees, rounded to blocks of sixteen.
    #[inline(always)]
    fn seen(&self, row: usize, n_rows: usize) -> Range<usize> {
        let (start, end) = (self.visible(row).start, self.visible(row + n_rows - 1).end);
        start / LANES * LANES..end.next_multiple_of(LANES)
    }

    /// Scores of `R` rows from `row` with the positions from `first` on that they see, at most
    /// [`Simd::SCORE_BLOCKS`] blocks; `R`.
    ///
    /// # Safety
    /// As [`Self::run`], and there are `R` rows from `row`.
    #[inline(always)]
    unsafe fn scores_of<S: Simd, K: KvSource, const R: usize>(
        &mut self,
        s: S,
        sources: [K; 2],
        first: usize,
        row: usize,
    ) -> usize {
        let seen = self.seen(row, R);
        let end = seen.end.min(first + S::SCORE_BLOCKS * LANES);
        let mut at = seen.start.max(first);
        // SAFETY: the caller's.
        unsafe {
            while at < end {
                let n_blocks = (end - at) / LANES;
                at += LANES
                    * if const { S::SCORE_BLOCKS >= 4 } && n_blocks >= 4 {
                        self.scores_tile::<S, K, 4, R>(s, sources, at, row)
                    } else if const { S::SCORE_BLOCKS >= 2 } && n_blocks >= 2 {
                        self.scores_tile::<S, K, 2, R>(s, sources, at, row)
                    } else {
                        self.scores_tile::<S, K, 1, R>(s, sources, at, row)
                    };
            }
        }
        R
    }

    /// Scores of `R` rows with the `B` blocks of one page from position `at` on; `B`.
    ///
    /// # Safety
    /// As [`Self::scores_of`].
    #[inline(always)]
    unsafe fn scores_tile<S: Simd, K: KvSource, const B: usize, const R: usize>(
        &mut self,
        s: S,
        sources: [K; 2],
        at: usize,
        row: usize,
    ) -> usize {
        let (source, block) = (sources[at / PAGE_LEN], at % PAGE_LEN / LANES);
        let mut queries = [std::ptr::null(); R];
        for r in 0..R {
            queries[r] = self.query(row + r).as_ptr();
        }
        let mut sums = [[s.splat(0.0); B]; R];
        // SAFETY: the caller's; every query has `head_dim` values.
        unsafe {
            for dim in 0..self.heads.head_dim {
                if K::IS_COLD && row == 0 {
                    // The values of the same page are as many bytes, and come next.
                    let at = (block * self.heads.head_dim + dim * B) * LANES * K::ELEMENT_BYTES;
                    prefetch::<S, K, B>(s, source.values().wrapping_add(at));
                }
                let mut keys = [s.splat(0.0); B];
                for b in 0..B {
                    keys[b] = source.key(s, block + b, dim);
                }
                for r in 0..R {
                    let q = s.splat(*queries[r].add(dim));
                    for b in 0..B {
                        sums[r][b] = s.fma(q, keys[b], sums[r][b]);
                    }
                }
            }
            for r in 0..R {
                for b in 0..B {
                    let out = &mut self.scores[(row + r) * CHUNK + at + b * LANES..][..LANES];
                    s.store(out.as_mut_ptr(), sums[r][b]);
                }
            }
        }
        B
    }

    /// Turns the scores of `R` rows from `row` into weights, and sums the values by them; `R`.
    ///
    /// # Safety
    /// As [`Self::scores_of`], and the scores are there.
    #[inline(always)]
    unsafe fn weights_and_values<S: Simd, K: KvSource, const R: usize>(
        &mut self,
        s: S,
        sources: [K; 2],
        row: usize,
    ) -> usize {
        let row_len = State::row_len(self.heads);
        let seen = self.seen(row, R);
        for row in row..row + R {
            let visible = self.visible(row);
            let scores = &mut self.scores[row * CHUNK..][seen.clone()];
            let visible =
                visible.start.max(seen.start) - seen.start..visible.end.max(seen.start) - seen.start;
            let state = &mut self.state[row * row_len..][..2];
            (state[0], state[1]) = softmax(s, scores, visible);
        }
        let n_parts = self.heads.head_dim.div_ceil(LANES);
        let mut part = 0;
        // SAFETY: the caller's.
        unsafe {
            while part < n_parts {
                part += if const { S::SCORE_BLOCKS >= 4 } && n_parts - part >= 4 {
                    self.values_tile::<S, K, 4, R>(s, sources, seen.clone(), part, row)
                } else if const { S::SCORE_BLOCKS >= 2 } && n_parts - part >= 2 {
                    self.values_tile::<S, K, 2, R>(s, sources, seen.clone(), part, row)
                } else {
                    self.values_tile::<S, K, 1, R>(s, sources, seen.clone(), part, row)
                };
            }
        }
        R
    }

    /// The weighted sums of the values at positions `seen`, `C` vectors of coordinates from `part`; `C`.
    ///
    /// # Safety
    /// As [`Self::weights_and_values`], and there are these coordinates.
    #[inline(always)]
    unsafe fn values_tile<S: Simd, K: KvSource, const C: usize, const R: usize>(
        &mut self,
        s: S,
        sources: [K; 2],
        seen: Range<usize>,
        part: usize,
        row: usize,
    ) -> usize {
        let row_len = State::row_len(self.heads);
        // SAFETY: the caller's; the state has a row for each query row.
        unsafe {
            let weights = self.scores[row * CHUNK..][..R * CHUNK].as_ptr();
            let mut sums = [[s.splat(0.0); C]; R];
            for page in 0..2 {
                let start = page * PAGE_LEN;
                let source = sources[page];
                for pos in seen.start.max(start)..seen.end.min(start + PAGE_LEN) {
                    if K::IS_COLD && row == 0 {
                        let at = ((pos - start) * self.heads.head_dim + part * LANES) * K::ELEMENT_BYTES;
                        prefetch::<S, K, C>(s, self.next_keys[page].wrapping_add(at));
                    }
                    let mut values = [s.splat(0.0); C];
                    for c in 0..C {
                        values[c] = source.value(s, pos - start, part + c);
                    }
                    for r in 0..R {
                        let weight = s.splat(*weights.add(r * CHUNK + pos));
                        for c in 0..C {
                            sums[r][c] = s.fma(weight, values[c], sums[r][c]);
                        }
                    }
                }
            }
            let end = (R - 1) * row_len + C * LANES;
            let out = self.state[row * row_len + LANES + part * LANES..][..end].as_mut_ptr();
            for r in 0..R {
                for c in 0..C {
                    s.store(out.add(r * row_len + c * LANES), sums[r][c]);
                }
            }
        }
        C
    }

    #[inline(always)]
    fn query(&self, row: usize) -> &[f32] {
        let (token, i) = (row / self.heads.group_len(), row % self.heads.group_len());
        let head = self.kv_head * self.heads.group_len() + i;
        &self.qkv[token * self.heads.row_len() + head * self.heads.head_dim..][..self.heads.head_dim]
    }
}

/// Asks for as many bytes as `N` vectors of elements take.
#[inline(always)]
fn prefetch<S: Simd, K: KvSource, const N: usize>(s: S, src: *const u8) {
    for line in 0..(N * LANES * K::ELEMENT_BYTES).div_ceil(64) {
        s.prefetch(src.wrapping_add(64 * line));
    }
}

/// Scores to weights, e^(score - largest), within `visible`; zeros elsewhere. The largest score and the sum of
/// weights; minus infinity and zero if nothing is visible. The scores are whole vectors, those beyond `visible` are
/// not looked at.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32], visible: Range<usize>) -> (f32, f32) {
    scores[..visible.start].fill(f32::NEG_INFINITY);
    scores[visible.end..].fill(f32::NEG_INFINITY);
    if visible.is_empty() {
        scores.fill(0.0);
        return (f32::NEG_INFINITY, 0.0);
    }
    let vectors = scores.as_chunks_mut::<LANES>().0;
    let mut max = s.splat(f32::NEG_INFINITY);
    for scores in vectors.iter() {
        // SAFETY: sixteen values are readable.
        max = s.max(max, unsafe { s.load(scores.as_ptr()) });
    }
    let max = s.reduce_max(max);
    let mut sum = s.splat(0.0);
    for (i, scores) in vectors.iter_mut().enumerate() {
        let at = i * LANES;
        // SAFETY: sixteen values are readable.
        let mut weight = math::exp(s, s.sub(unsafe { s.load(scores.as_ptr()) }, s.splat(max)));
        // SAFETY: sixteen values are writable.
        unsafe { s.store(scores.as_mut_ptr(), weight) };
        if at < visible.start || at + LANES > visible.end {
            // Even e^-infinity came out as something: what is not visible weighs nothing.
            scores[..visible.start.saturating_sub(at).min(LANES)].fill(0.0);
            scores[visible.end.saturating_sub(at).min(LANES)..].fill(0.0);
            // SAFETY: sixteen values are readable.
            weight = unsafe { s.load(scores.as_ptr()) };
        }
        sum = s.add(sum, weight);
    }
    (max, s.reduce_add(sum))
}

struct Merge<'a> {
    heads: Heads,
    total: &'a mut [f32],
    part: &'a [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        merge(s, self.heads, self.total, self.part);
    }
}

/// Merges the states of `part`, a later chunk, into those of `total`, row by row.
#[inline(always)]
fn merge<S: Simd>(s: S, heads: Heads, total: &mut [f32], part: &[f32]) {
    let row_len = State::row_len(heads);
    for (total, part) in total.chunks_exact_mut(row_len).zip(part.chunks_exact(row_len)) {
        if part[1] == 0.0 {
            continue;
        }
        if total[1] == 0.0 {
            total.copy_from_slice(part);
            continue;
        }
        let max = total[0].max(part[0]);
        let a = math::exp(s, s.splat(total[0] - max));
        let b = math::exp(s, s.splat(part[0] - max));
        // The first vector holds the largest score and the sum; the sum is merged as the values are.
        for at in (0..row_len).step_by(LANES) {
            // SAFETY: rows are whole vectors.
            unsafe {
                let scaled = s.mul(s.load(total.as_ptr().add(at)), a);
                s.store(total.as_mut_ptr().add(at), s.fma(s.load(part.as_ptr().add(at)), b, scaled));
            }
        }
        total[0] = max;
    }
}

/// Divides the weighted sums of one token's rows by the sums of weights.
struct Finish<'a> {
    heads: Heads,
    rows: &'a [f32],
    /// `[group_len][head_dim]`
    out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.heads.head_dim;
        let rows = self.rows.chunks_exact(State::row_len(self.heads));
        for (row, out) in rows.zip(self.out.chunks_exact_mut(dim)) {
            let inverse = s.splat(1.0 / row[1]);
            for (values, out) in row[LANES..].as_chunks::<LANES>().0.iter().zip(out.chunks_mut(LANES)) {
                let mut scaled = [0.0; LANES];
                // SAFETY: both hold sixteen values.
                unsafe { s.store(scaled.as_mut_ptr(), s.mul(s.load(values.as_ptr()), inverse)) };
                let n = out.len();
                out.copy_from_slice(&scaled[..n]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
