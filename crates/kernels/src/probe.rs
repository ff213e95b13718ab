//! What this machine can do at most: the limits against which speed is judged.
//!
//! Peaks are of the instructions that the kernels themselves are made of, run from registers; bandwidth is that of
//! reading memory far larger than any cache, on huge pages, as weights are.

use std::time::{Duration, Instant};

use crate::isa::{Isa, Kernel, LANES, Simd};
use crate::memory::Buffer;
use crate::pool::Pool;

/// Rounds of the peak loops per piece of work.
const ROUNDS: usize = 4096;
/// Bytes that one thread reads at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Limits of this machine for a number of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Threads that they were measured with.
    pub n_threads: usize,
    /// Bytes per second read from memory.
    pub read_bytes_per_s: f64,
    /// 8-bit multiplications and additions per second, each counting as one.
    pub int8_ops_per_s: f64,
    /// The same in 32-bit floating point.
    pub f32_ops_per_s: f64,
}

/// Measures the limits with the threads of `pool`; takes about a second, and `buffer_bytes` of memory.
///
/// The best of several runs counts: other work on the machine can only make a run slower.
pub fn measure(pool: &mut Pool, isa: Isa, buffer_bytes: usize) -> Limits {
    let n_pieces = pool.n_threads() * 4;
    let (int8_ops, f32_ops) = (isa.run(Int8Peak(1)), isa.run(F32Peak(1)));
    let best_of = |pool: &mut Pool, ops: f64, work: &(dyn Fn(usize) + Sync)| {
        let mut best = f64::MAX;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(250) {
            let run = Instant::now();
            pool.run(n_pieces, |_, i| work(i));
            best = best.min(run.elapsed().as_secs_f64());
        }
        ops * n_pieces as f64 / best
    };
    let int8_ops_per_s = best_of(pool, int8_ops * ROUNDS as f64, &|_| {
        isa.run(Int8Peak(ROUNDS));
    });
    let f32_ops_per_s = best_of(pool, f32_ops * ROUNDS as f64, &|_| {
        isa.run(F32Peak(ROUNDS));
    });

    let mut buffer = Buffer::zeroed(buffer_bytes.next_multiple_of(PIECE_BYTES * n_pieces));
    buffer.as_mut_slice().fill(1);
    let data = buffer.as_slice();
    let share = data.len() / n_pieces;
    let read_bytes_per_s = best_of(pool, share as f64, &|i| {
        for piece in data[i * share..][..share].chunks(PIECE_BYTES) {
            isa.run(Read(piece));
        }
    });
    Limits { n_threads: pool.n_threads(), read_bytes_per_s, int8_ops_per_s, f32_ops_per_s }
}

/// Operations per round are the result; the number of rounds is the field.
struct Int8Peak(usize);

impl Kernel for Int8Peak {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        // As many sums as hide the latency, and as registers hold beside the codes.
        if S::MAX_TOKENS >= 8 { self.dots::<S, 12>(s) } else { self.dots::<S, 4>(s) }
    }
}

impl Int8Peak {
    #[inline(always)]
    fn dots<S: Simd, const N: usize>(self, s: S) -> f64 {
        // Four-bit codes of eight columns.
        const G: usize = 2;
        let bytes = [3u8; 64];
        // SAFETY: sixty-four bytes are readable.
        let codes = [unsafe { s.load_bytes(bytes.as_ptr()) }; G];
        let x = [[1i8; 4 * G]; N];
        let mut sums = [s.splat_i(0); N];
        for _ in 0..self.0 {
            // Only the address goes through the black box: the bytes stay where they are, in the first cache.
            let x = std::hint::black_box(&x);
            let mut tokens = [x[0].as_ptr(); N];
            for t in 0..N {
                tokens[t] = x[t].as_ptr();
            }
            // SAFETY: eight bytes are readable for each token.
            sums = unsafe { s.dot(sums, &codes, 4, tokens) };
        }
        for sum in sums {
            std::hint::black_box(s.reduce_add_i(sum));
        }
        (N * LANES * 4 * G * 2) as f64
    }
}

/// As [`Int8Peak`].
struct F32Peak(usize);

impl Kernel for F32Peak {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let a = s.splat(std::hint::black_box(0.5));
        let mut sums = [s.splat(0.0); 12];
        for round in 0..self.0 {
            let x = s.splat(std::hint::black_box(round as f32));
            for sum in &mut sums {
                *sum = s.fma(a, x, *sum);
            }
        }
        for sum in sums {
            std::hint::black_box(s.reduce_add(sum));
        }
        (sums.len() * LANES * 2) as f64
    }
}

/// Reads every byte.
struct Read<'a>(&'a [u8]);

impl Kernel for Read<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sums = [s.splat(0.0); 4];
        for chunk in self.0.chunks_exact(4 * 4 * LANES) {
            s.prefetch(chunk.as_ptr().wrapping_add(4096));
            s.prefetch(chunk.as_ptr().wrapping_add(4096 + 64));
            s.prefetch(chunk.as_ptr().wrapping_add(4096 + 128));
            s.prefetch(chunk.as_ptr().wrapping_add(4096 + 192));
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: sixteen elements are readable.
                *sum = s.max(*sum, unsafe { s.load(chunk.as_ptr().cast::<f32>().add(i * LANES)) });
            }
        }
        for sum in sums {
            std::hint::black_box(s.reduce_max(sum));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_plausible() {
        let limits = measure(&mut Pool::new(2), Isa::best(), 16 << 20);
        assert_eq!(limits.n_threads, 2);
        for rate in [limits.read_bytes_per_s, limits.int8_ops_per_s, limits.f32_ops_per_s] {
            assert!(rate > 1e7 && rate < 1e16, "{rate}");
        }
    }
}
