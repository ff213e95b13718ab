//! What this machine can do at most: the limits against which speed is judged.
//!
//! Peaks are of the instructions that the kernels themselves are made of, run from registers and the nearest cache;
//! bandwidth is that of reading memory far larger than any cache, on huge pages, as weights are.

use std::time::{Duration, Instant};

use crate::isa::{Isa, Kernel, LANES, Simd, unroll};
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

/// Measures the limits with the threads of `pool`; takes somewhat more than a second, and `buffer_bytes` of memory.
///
/// The best of several runs counts: other work on the machine can only make a run slower.
pub fn measure(pool: &mut Pool, isa: Isa, buffer_bytes: usize) -> Limits {
    // How many sums hide the latency, and still fit into registers, is the processor's matter.
    let int8_ops_per_s =
        [peak(pool, isa, Int8Peak::<4>), peak(pool, isa, Int8Peak::<8>), peak(pool, isa, Int8Peak::<12>)]
            .into_iter()
            .fold(0.0, f64::max);
    let f32_ops_per_s = peak(pool, isa, F32Peak);

    let n_pieces = n_pieces(pool);
    let mut buffer = Buffer::zeroed(buffer_bytes.next_multiple_of(PIECE_BYTES * n_pieces));
    buffer.as_mut_slice().fill(1);
    let data = buffer.as_slice();
    let share = data.len() / n_pieces;
    let read_bytes_per_s = best_of(pool, share as f64, |i| {
        for piece in data[i * share..][..share].chunks(PIECE_BYTES) {
            isa.run(Read(piece));
        }
    });
    Limits { n_threads: pool.n_threads(), read_bytes_per_s, int8_ops_per_s, f32_ops_per_s }
}

fn n_pieces(pool: &Pool) -> usize {
    pool.n_threads() * 4
}

/// Operations per second, of `ops` in each piece of `work`.
fn best_of(pool: &mut Pool, ops: f64, work: impl Fn(usize) + Sync) -> f64 {
    let n_pieces = n_pieces(pool);
    let mut best = f64::MAX;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(250) {
        let run = Instant::now();
        pool.run(n_pieces, |_, piece| work(piece));
        best = best.min(run.elapsed().as_secs_f64());
    }
    ops * n_pieces as f64 / best
}

/// Operations per second of the kernel that `of_rounds` makes.
fn peak<K: Kernel<Output = f64>>(pool: &mut Pool, isa: Isa, of_rounds: fn(usize) -> K) -> f64 {
    let ops = isa.run(of_rounds(1)) * ROUNDS as f64;
    best_of(pool, ops, |_| {
        isa.run(of_rounds(ROUNDS));
    })
}

/// Products of 32 columns of four-bit codes, which stay in registers, with `N` tokens. Operations per round are the
/// result; the number of rounds is the field.
struct Int8Peak<const N: usize>(usize);

impl<const N: usize> Kernel for Int8Peak<N> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        const N_COLS: usize = 32;
        let bytes = [3u8; 64];
        // SAFETY: sixty-four bytes are readable.
        let codes = [unsafe { s.load_bytes(bytes.as_ptr()) }; N_COLS / 4];
        let x = [[1i8; N_COLS]; N];
        let mut sums = [s.splat_i(0); N];
        for _ in 0..self.0 {
            // Read anew in each round, as a matrix kernel does.
            let x = std::hint::black_box(&x);
            let mut tokens = [x[0].as_ptr(); N];
            unroll!(t in 0..N {
                tokens[t] = x[t].as_ptr();
            });
            // SAFETY: thirty-two bytes are readable for each token.
            sums = unsafe { s.dot(sums, &codes, 4, tokens) };
        }
        for sum in sums {
            std::hint::black_box(s.reduce_add_i(sum));
        }
        (N * LANES * N_COLS * 2) as f64
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
