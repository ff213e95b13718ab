//! Arithmetic of small networks: convolutions, in eight bits and in floats, on images in memory.
//!
//! Images are NHWC, one at a time: rows of pixels, a pixel being its channels side by side ([`Plane`]). Windows never
//! leave their image; whoever wants padding makes the image larger first ([`pad`]).
//!
//! Eight-bit activations are unsigned bytes with a zero point, weights signed ones without: what TFLite calls int8 is
//! the same with 128 added to the bytes and to the zero point. A sum over a window is exact in 32 bits, and goes back
//! to eight by a [`Requant`].
//!
//! Kernels read whole vectors: [`SLACK`] elements behind an input must be there, whatever their values. Results depend
//! neither on the instruction set nor on the number of threads: integer sums are exact, and a float sum is one chain
//! of fused multiply-adds over rows, columns and channels of the window, in this order (a depthwise one over columns and
//! rows). The `_ref` functions say the same in plain loops, and the tests hold the kernels to them.

mod conv32;
mod conv8;
mod depthwise32;
mod depthwise8;
mod pointwise;
mod pool;
mod requant;
mod softmax;
mod table;

pub use conv8::{Conv8, Output8, conv8_ref};
pub use conv32::{Conv32, conv32_ref};
pub use depthwise8::{Depthwise8, depthwise8_ref};
pub use depthwise32::{Depthwise32, depthwise32_ref};
pub use pointwise::{Add8, add32, pad, quantize};
pub use pool::{Mean8, Pooling, mean8, mean32};
pub use requant::{Requant, Rounding};
pub use softmax::{Softmax8, softmax32};
pub use table::{Function8, Table8};

use std::ops::Range;

use crate::isa::LANES;

/// Elements that must be readable behind an input.
pub const SLACK: usize = 64;

/// Where the rows of an image lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// Rows.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Elements of a pixel.
    pub channels: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
}

impl Plane {
    /// Rows that follow each other without a gap.
    pub fn dense(height: usize, width: usize, channels: usize) -> Plane {
        Plane { height, width, channels, row_stride: width * channels }
    }

    /// Elements from the first to the last, gaps included.
    pub fn len(&self) -> usize {
        if self.height == 0 { 0 } else { (self.height - 1) * self.row_stride + self.width * self.channels }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn is_dense(&self) -> bool {
        self.row_stride == self.width * self.channels
    }

    /// The same pixels as a single row; the plane is dense.
    fn flattened(&self) -> Plane {
        Plane::dense(1, self.height * self.width, self.channels)
    }
}

/// A window that slides over an image; each pair is vertical, horizontal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Rows and columns that it looks at.
    pub size: [usize; 2],
    /// Steps from one position to the next.
    pub stride: [usize; 2],
    /// Distance of the rows and of the columns that it looks at.
    pub dilation: [usize; 2],
}

impl Window {
    /// A window of one pixel.
    pub const POINT: Window = Window { size: [1, 1], stride: [1, 1], dilation: [1, 1] };

    /// Rows and columns from its first to its last.
    pub fn extent(&self) -> [usize; 2] {
        [0, 1].map(|axis| (self.size[axis] - 1) * self.dilation[axis] + 1)
    }

    /// Its positions in an image of this size: all at which it lies inside.
    pub fn positions(&self, size: [usize; 2]) -> [usize; 2] {
        let extent = self.extent();
        [0, 1].map(|axis| match size[axis].checked_sub(extent[axis]) {
            Some(room) => room / self.stride[axis] + 1,
            None => 0,
        })
    }

    fn is_point(&self) -> bool {
        self.size == [1, 1] && self.stride == [1, 1]
    }

    /// # Panics
    /// If `output` is not the positions in `input`, or the slices are too short for the planes.
    fn check(&self, input: (usize, Plane), output: (usize, Plane)) {
        let ((input_len, input), (output_len, output)) = (input, output);
        assert!(self.size != [0, 0] && self.stride.iter().chain(&self.dilation).all(|n| *n > 0));
        assert_eq!([output.height, output.width], self.positions([input.height, input.width]));
        assert!(input.row_stride >= input.width * input.channels);
        assert!(output.row_stride >= output.width * output.channels);
        assert!(input_len >= input.len() + SLACK, "an input has slack behind it");
        assert!(output_len >= output.len());
    }
}

/// What the sums of `N` vectors of channels start from: the bias, and `shift`, which all inputs are off by, times the sum
/// of the weights.
///
/// Whole arrays, so that this becomes vectors: a small layer has little else to do.
#[inline(always)]
fn starts<const N: usize>(shift: i32, bias: &[i32], weight_sums: &[i32]) -> [[i32; LANES]; N] {
    let (bias, weight_sums) = (bias.as_chunks::<LANES>().0, weight_sums.as_chunks::<LANES>().0);
    let mut starts = [[0; LANES]; N];
    for i in 0..N {
        let (start, bias, weight_sums) = (&mut starts[i], &bias[i], &weight_sums[i]);
        for lane in 0..LANES {
            start[lane] = bias[lane].wrapping_add(shift.wrapping_mul(weight_sums[lane]));
        }
    }
    starts
}

/// Whether a convolution computes so many tiles of so many pixels at once, where registers hold the sums of `n_sums`.
const fn is_block(n_sums: usize, n_tiles: usize, n_pixels: usize) -> bool {
    // Six pixels are for machines without room for eight.
    n_tiles * n_pixels <= n_sums && (n_pixels != 6 || n_sums < 8)
}

/// How many of `n_left` tiles of `n_pixels` pixels a convolution computes at once, where registers hold `n_sums`: 8, 4, 2 or 1.
#[inline(always)]
fn tiles_at_once(n_sums: usize, n_left: usize, n_pixels: usize) -> usize {
    // With few pixels more tiles keep as many sums in flight; of many, narrow machines have registers for one tile.
    let is_wide = n_sums >= 8;
    let most = match n_pixels {
        1 => n_sums,
        2..4 => {
            if is_wide {
                4
            } else {
                2
            }
        }
        4..8 if is_wide => 4,
        _ if is_wide => 2,
        _ => 1,
    };
    [8, 4, 2].into_iter().find(|n| *n <= most.min(n_left)).unwrap_or(1)
}

/// How many of `n_left` pixels of a row of `n_all` a convolution computes at once, of so many tiles: the most that are a block
/// ([`is_block`]) of which more than half is left.
#[inline(always)]
fn pixels_at_once(n_sums: usize, n_tiles: usize, n_left: usize, n_all: usize) -> usize {
    let fits = |n: &usize| is_block(n_sums, n_tiles, *n) && n_left > n / 2 && n_all >= *n;
    [8, 6, 4, 2].into_iter().find(fits).unwrap_or(1)
}

/// How one layer's output is cut into pieces of work.
#[derive(Clone, Copy)]
struct Pieces {
    n_pieces: usize,
    n_units: usize,
}

impl Pieces {
    /// `n_units` that each thread may take some of.
    fn new(n_threads: usize, n_units: usize) -> Pieces {
        // Pieces of equal work, one for each thread: a network's layers are too short for finer ones to pay. Whether
        // handing out pays at all, the caller decides by the pool that it gives.
        let n_pieces = n_threads.min(n_units).max(1);
        Pieces { n_pieces, n_units }
    }

    fn units(&self, piece: usize) -> Range<usize> {
        let at = |piece: usize| piece * self.n_units / self.n_pieces;
        at(piece)..at(piece + 1)
    }
}

/// Elements that several threads write at once, each its own.
struct Shared<T>(*mut T);

// SAFETY: pieces write disjoint elements, as their makers see to.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// A method, so that closures capture the whole, which is `Sync`, and not the pointer in it.
    #[inline(always)]
    fn ptr(&self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
mod tests;
