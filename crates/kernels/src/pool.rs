//! A thread pool for hundreds of short parallel regions per token.
//!
//! A region is a number of pieces. Each thread has a share of them, which it takes one by one, in order: so it reads
//! memory in order too, and what it asks for ahead of time is its own next piece. Whoever is through with its share
//! takes from the ends of the others', so a thread that the system has put aside holds up at most the piece that it
//! holds. Between regions threads spin for a few tens of microseconds, then park, so that nobody burns a core that
//! other work could use.
//!
//! Beside other work a helper may lose its core in the middle of a piece, for milliseconds. The caller then stops
//! offering work for a while and does all pieces itself ([`Backoff`]): one thread that runs beats two of which
//! one is asleep.
//!
//! Invariants:
//! - a [`Share`] packs the region's number, the next piece to take and the end of the share. A piece belongs to the
//!   thread whose `compare_exchange` took it off, in the region that the same value names. When a region is over, all
//!   shares are empty.
//! - `piece` is written only by the caller, while no piece of any region is outstanding: it returns from
//!   [`Pool::run`] only after `n_done` has reached the number of pieces, and nobody reads `piece` without having
//!   taken a piece that is not done.
//! - `region` changes after all shares are filled, so a worker that has seen it finds all pieces.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Pieces of the longest region: a share has 16 bits for each of its ends.
const MAX_PIECES: usize = (1 << 16) - 1;
/// Threads of the largest pool.
pub const MAX_THREADS: usize = 256;
/// How long a thread spins before it parks. A region of decoding lasts about as long.
const SPIN: Duration = Duration::from_micros(40);
/// Spins between two looks at the clock.
const SPINS_PER_LOOK: u32 = 32;

/// What a piece does: called with the number of the thread and of the piece.
type Piece<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// On cache lines of its own, so that threads writing neighbouring fields do not slow each other.
#[repr(align(128))]
struct Padded<T>(T);

/// The pieces of a region that are left of a thread's share.
#[derive(Clone, Copy)]
struct Share(u64);

impl Share {
    fn new(region: u32, pieces: Range<usize>) -> Share {
        Share(u64::from(region) << 32 | (pieces.start as u64) << 16 | pieces.end as u64)
    }
    fn start(self) -> usize {
        (self.0 >> 16 & 0xffff) as usize
    }
    fn end(self) -> usize {
        (self.0 & 0xffff) as usize
    }
    /// Its first piece, and what is left without it.
    fn first(self) -> (usize, Share) {
        (self.start(), Share(self.0 + (1 << 16)))
    }
    /// Its last piece, and what is left without it.
    fn last(self) -> (usize, Share) {
        (self.end() - 1, Share(self.0 - 1))
    }
}

struct Shared {
    /// The number of the region that was opened last.
    region: Padded<AtomicU32>,
    /// Of each thread, the caller's first.
    shares: Vec<Padded<AtomicU64>>,
    n_done: Padded<AtomicU32>,
    n_pieces: AtomicU32,
    piece: Padded<UnsafeCell<*const Piece<'static>>>,
    /// The caller sleeps until the last piece is done.
    is_caller_parked: Padded<AtomicBool>,
    /// Who sleeps. Written and read only where somebody does: the count of a handle that every piece took would go from
    /// cache to cache with each.
    caller: Mutex<Option<Thread>>,
    is_worker_parked: Vec<Padded<AtomicBool>>,
    is_stopping: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `piece` is written by the caller alone and read only as the invariants above say; the closure it leads to is
// `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    /// Takes a piece off a share, by `take`; `None` if it is empty.
    fn take(&self, share_idx: usize, take: impl Fn(Share) -> (usize, Share)) -> Option<usize> {
        let share = &self.shares[share_idx].0;
        let mut seen = Share(share.load(Ordering::Acquire));
        while seen.start() < seen.end() {
            let (piece, rest) = take(seen);
            match share.compare_exchange_weak(seen.0, rest.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(piece),
                Err(now) => seen = Share(now),
            }
        }
        None
    }

    /// Takes and does one piece; false if none was left.
    fn take_piece(&self, thread_idx: usize) -> bool {
        let n_threads = self.shares.len();
        let others = (1..n_threads).map(|i| (thread_idx + i) % n_threads);
        let taken = self
            .take(thread_idx, Share::first)
            .or_else(|| others.into_iter().find_map(|other| self.take(other, Share::last)));
        let Some(piece_idx) = taken else { return false };
        // SAFETY: the piece is ours and not done, so the region it belongs to lives, and `piece` is its.
        let piece = unsafe { &**self.piece.0.get() };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| piece(thread_idx, piece_idx))) {
            *self.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(panic);
        }
        let n_pieces = self.n_pieces.load(Ordering::Relaxed);
        let n_done = self.n_done.0.fetch_add(1, Ordering::SeqCst) + 1;
        if n_done == n_pieces && self.is_caller_parked.0.swap(false, Ordering::SeqCst) {
            // The caller may have woken by itself, and another sleep here by now: it wakes for nothing, and sleeps again.
            if let Some(caller) = &*self.caller.lock().unwrap_or_else(|e| e.into_inner()) {
                caller.unpark();
            }
        }
        true
    }

    fn worker(&self, thread_idx: usize) {
        let is_parked = &self.is_worker_parked[thread_idx - 1].0;
        let mut seen = 0;
        while !self.is_stopping.load(Ordering::Relaxed) {
            let has_work =
                || self.region.0.load(Ordering::SeqCst) != seen || self.is_stopping.load(Ordering::Relaxed);
            if !spin_until(has_work) {
                is_parked.store(true, Ordering::SeqCst);
                while is_parked.load(Ordering::SeqCst) && !has_work() {
                    thread::park();
                }
                is_parked.store(false, Ordering::SeqCst);
            }
            seen = self.region.0.load(Ordering::SeqCst);
            while self.take_piece(thread_idx) {}
        }
    }
}

/// Spins until `done`, for at most [`SPIN`]; whether it was.
fn spin_until(done: impl Fn() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..SPINS_PER_LOOK {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() > SPIN {
            return false;
        }
    }
}

/// When to offer work to the other threads, and when not.
///
/// A helper that loses its core holds up everybody for a time slice of the system, some milliseconds. What counts is
/// how long all went well before: long, and the loss is small change; not much longer than the stall, and two threads
/// are no faster than one. Then the caller works alone for a while, and for longer each time.
struct Backoff {
    solo_until: Option<Instant>,
    solo_len: Duration,
    /// Since when work has been offered, without a stall.
    good_since: Instant,
}

impl Backoff {
    /// A wait that is longer than this, and than the caller's own part of the region, is a helper without a core.
    const STALL: Duration = Duration::from_micros(100);
    const SOLO_MIN: Duration = Duration::from_millis(4);
    const SOLO_MAX: Duration = Duration::from_millis(64);
    /// How many times longer than a stall the good time before it must be for the stall to be borne.
    const WORTHWHILE: u32 = 4;

    fn new() -> Backoff {
        Backoff { solo_until: None, solo_len: Backoff::SOLO_MIN, good_since: Instant::now() }
    }

    fn is_solo(&mut self) -> bool {
        let Some(until) = self.solo_until else { return false };
        let now = Instant::now();
        if now >= until {
            (self.solo_until, self.good_since) = (None, now);
        }
        self.solo_until.is_some()
    }

    /// In a region that began at `start`, the caller waited from `work_end` on, until now.
    fn observe(&mut self, start: Instant, work_end: Instant) {
        let now = Instant::now();
        let wait = now - work_end;
        if wait <= Backoff::STALL || wait <= work_end - start {
            return;
        }
        if work_end.saturating_duration_since(self.good_since) >= wait * Backoff::WORTHWHILE {
            self.solo_len = Backoff::SOLO_MIN;
        } else {
            self.solo_until = Some(now + self.solo_len);
            self.solo_len = (self.solo_len * 2).min(Backoff::SOLO_MAX);
        }
        self.good_since = now;
    }
}

/// A fixed set of threads, the caller's among them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    region: u32,
    backoff: Backoff,
}

impl Pool {
    /// A pool of `n_threads` threads, the caller's included; 1 to [`MAX_THREADS`] (others are brought in range).
    ///
    /// # Panics
    /// If the system refuses to start a thread.
    pub fn new(n_threads: usize) -> Pool {
        let n_workers = n_threads.clamp(1, MAX_THREADS) - 1;
        let nothing: *const Piece<'static> = &|_, _| {};
        let shared = Arc::new(Shared {
            region: Padded(AtomicU32::new(0)),
            shares: (0..=n_workers).map(|_| Padded(AtomicU64::new(0))).collect(),
            n_done: Padded(AtomicU32::new(0)),
            n_pieces: AtomicU32::new(0),
            piece: Padded(UnsafeCell::new(nothing)),
            is_caller_parked: Padded(AtomicBool::new(false)),
            caller: Mutex::new(None),
            is_worker_parked: (0..n_workers).map(|_| Padded(AtomicBool::new(false))).collect(),
            is_stopping: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let workers = (1..=n_workers)
            .map(|thread_idx| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("edgeward-{thread_idx}"))
                    .spawn(move || shared.worker(thread_idx))
                    .expect("the system starts a thread")
            })
            .collect();
        Pool { shared, workers, region: 0, backoff: Backoff::new() }
    }

    /// Threads, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `piece(thread, i)` once for each `i` in `0..n_pieces`, on all threads, and returns when all are done.
    /// `thread` is below [`Pool::n_threads`], and no two calls with the same thread overlap.
    ///
    /// # Panics
    /// If a piece does, after the others are done.
    pub fn run(&mut self, n_pieces: usize, piece: impl Fn(usize, usize) + Sync) {
        if self.workers.is_empty() || n_pieces <= 1 || self.backoff.is_solo() {
            (0..n_pieces).for_each(|i| piece(0, i));
            return;
        }
        let piece: &Piece = &piece;
        let mut at = 0;
        while at < n_pieces {
            let n = (n_pieces - at).min(MAX_PIECES);
            self.run_region(n, &|thread, i| piece(thread, at + i));
            at += n;
        }
    }

    /// What handing out work costs here: the shortest of many regions in which each thread has a piece and nothing to do but
    /// to see that the others have theirs. `None` if they have not all come, however often, as where other work has their
    /// cores. Takes a few milliseconds at most.
    pub fn handing_out(&mut self) -> Option<Duration> {
        const ENOUGH: usize = 100;
        const MOST: Duration = Duration::from_millis(3);
        let n_threads = self.n_threads();
        let (start, mut times) = (Instant::now(), Vec::with_capacity(ENOUGH));
        while times.len() < ENOUGH && start.elapsed() < MOST {
            let n_begun = AtomicUsize::new(0);
            let region = Instant::now();
            self.run(n_threads, |_, _| {
                n_begun.fetch_add(1, Ordering::Relaxed);
                spin_until(|| n_begun.load(Ordering::Relaxed) == n_threads);
            });
            let time = region.elapsed();
            // Whoever waited in vain has done the others' pieces itself.
            if time < SPIN {
                times.push(time);
            }
        }
        times.into_iter().min()
    }

    /// Calls `piece(i, chunk)` once for each chunk of `chunk_len` elements of `data`, the last perhaps shorter, as
    /// [`Pool::run`] does.
    ///
    /// # Panics
    /// As [`Pool::run`], and if `chunk_len` is 0.
    pub fn run_chunks<T: Send>(
        &mut self,
        data: &mut [T],
        chunk_len: usize,
        piece: impl Fn(usize, &mut [T]) + Sync,
    ) {
        // Each lock is taken once, by whoever does that piece.
        let chunks: Vec<Mutex<&mut [T]>> = data.chunks_mut(chunk_len).map(Mutex::new).collect();
        self.run(chunks.len(), |_, i| piece(i, &mut chunks[i].lock().unwrap_or_else(|e| e.into_inner())));
    }

    fn run_region(&mut self, n_pieces: usize, piece: &Piece) {
        let shared = &*self.shared;
        let start = Instant::now();
        self.region = self.region.wrapping_add(1);
        shared.n_done.0.store(0, Ordering::Relaxed);
        shared.n_pieces.store(n_pieces as u32, Ordering::Relaxed);
        // SAFETY: no piece is outstanding, so nobody reads `piece`. Its true lifetime ends after this function has waited
        // for all pieces.
        unsafe {
            *shared.piece.0.get() = std::mem::transmute::<*const Piece<'_>, *const Piece<'static>>(piece);
        }
        for (i, share) in shared.shares.iter().enumerate() {
            let share_start = |i| i * n_pieces / shared.shares.len();
            let pieces = Share::new(self.region, share_start(i)..share_start(i + 1));
            share.0.store(pieces.0, Ordering::Release);
        }
        shared.region.0.store(self.region, Ordering::SeqCst);
        for (worker, is_parked) in self.workers.iter().zip(&shared.is_worker_parked).take(n_pieces - 1) {
            if is_parked.0.load(Ordering::SeqCst) && is_parked.0.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        while shared.take_piece(0) {}
        let is_done = || shared.n_done.0.load(Ordering::SeqCst) as usize == n_pieces;
        if !is_done() {
            let work_end = Instant::now();
            while !spin_until(is_done) {
                *shared.caller.lock().unwrap_or_else(|e| e.into_inner()) = Some(thread::current());
                shared.is_caller_parked.0.store(true, Ordering::SeqCst);
                while shared.is_caller_parked.0.load(Ordering::SeqCst) && !is_done() {
                    thread::park();
                }
                shared.is_caller_parked.0.store(false, Ordering::SeqCst);
            }
            self.backoff.observe(start, work_end);
        }
        if let Some(panic) = shared.panic.lock().unwrap_or_else(|e| e.into_inner()).take() {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker that panicked outside a piece has said so already.
            let _ = worker.join();
        }
    }
}

/// A value for each thread of a pool, to be used by the pieces that the thread does.
pub struct PerThread<T>(Vec<Padded<UnsafeCell<T>>>);

// SAFETY: a value is used by one thread at a time, as `get` demands.
unsafe impl<T: Send> Sync for PerThread<T> {}

impl<T: Default> PerThread<T> {
    /// Default values for `n_threads` threads.
    pub fn new(n_threads: usize) -> PerThread<T> {
        PerThread((0..n_threads).map(|_| Padded(UnsafeCell::new(T::default()))).collect())
    }

    /// Threads it has values for.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value of thread `thread`.
    ///
    /// # Safety
    /// No other reference to this thread's value is alive: within a piece, call it once.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn get(&self, thread: usize) -> &mut T {
        // SAFETY: the caller's.
        unsafe { &mut *self.0[thread].0.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_exactly_once() {
        for n_threads in [1, 2, 5] {
            let mut pool = Pool::new(n_threads);
            for n_pieces in [0, 1, 2, 3, 64, 1000, MAX_PIECES + 7] {
                let counts: Vec<AtomicUsize> = (0..n_pieces).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n_pieces, |thread, i| {
                    assert!(thread < n_threads);
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn regions_follow_each_other_with_and_without_pauses() {
        let mut pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        for round in 0..20_000 {
            pool.run(4, |_, i| {
                total.fetch_add(i, Ordering::Relaxed);
            });
            if round % 4_000 == 0 {
                // Long enough for the workers to park.
                thread::sleep(SPIN * 4);
            }
        }
        assert_eq!(total.into_inner(), 20_000 * 6);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(2);
        let n_done = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, |_, i| {
                assert_ne!(i, 3, "piece three");
                n_done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        assert!(result.is_err());
        assert_eq!(n_done.load(Ordering::Relaxed), 7);
        pool.run(8, |_, _| {
            n_done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(n_done.into_inner(), 15);
    }

    #[test]
    fn chunks_are_whole_but_the_last() {
        let mut data = vec![0; 103];
        Pool::new(3).run_chunks(&mut data, 10, |i, chunk| {
            assert_eq!(chunk.len(), if i == 10 { 3 } else { 10 });
            chunk.iter_mut().for_each(|x| *x += i);
        });
        assert!(data.iter().enumerate().all(|(at, x)| *x == at / 10));
    }

    #[test]
    fn handing_out_takes_time() {
        // Where the other core is busy nobody comes.
        for n_threads in [1, 2, 3] {
            let cost = Pool::new(n_threads).handing_out();
            assert!(cost.is_none_or(|cost| cost < SPIN), "{cost:?}");
        }
        assert!(Pool::new(1).handing_out().is_some());
    }

    #[test]
    fn another_thread_may_call() {
        let mut pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..1000 {
                    pool.run(2, |_, _| {
                        total.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        });
        assert_eq!(total.into_inner(), 2000);
    }
}
