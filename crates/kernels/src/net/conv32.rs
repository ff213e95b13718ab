//! Convolution of float images, and with it fully connected layers.
//!
//! Laid out as in eight bits (`conv8.rs`): sixteen output channels to a tile, one input broadcast to all of them.

use std::ops::Range;

use super::{Pieces, Plane, Shared, Window, is_block, pixels_at_once, tiles_at_once};
use crate::isa::{Isa, Kernel, LANES, Simd};
use crate::pool::Pool;

/// The weights of a convolution, laid out.
#[derive(Debug)]
pub struct Conv32 {
    window: Window,
    n_in: usize,
    n_out: usize,
    /// Runs of memory that a window looks at: down, across.
    n_runs: [usize; 2],
    /// Elements of a run.
    run_len: usize,
    /// `[tile][down][across][element of a run][LANES]`.
    weights: Vec<f32>,
    /// `[n_out]` and zeros up to a whole tile.
    bias: Vec<f32>,
    /// Bounds of results.
    range: (f32, f32),
}

impl Conv32 {
    /// Lays out `weights`, `[n_out, rows, columns, n_in]`; `bias` is `[n_out]`; results are kept in `range`.
    ///
    /// # Panics
    /// If lengths do not fit, or something is zero.
    pub fn new(
        window: Window,
        n_in: usize,
        n_out: usize,
        weights: &[f32],
        bias: &[f32],
        range: (f32, f32),
    ) -> Conv32 {
        let [rows, columns] = window.size;
        assert!(rows > 0 && columns > 0 && n_in > 0 && n_out > 0);
        assert!(weights.len() == n_out * rows * columns * n_in && bias.len() == n_out);
        let across = if window.dilation[1] == 1 { 1 } else { columns };
        let n_tiles = n_out.div_ceil(LANES);
        let window_len = rows * columns * n_in;
        let mut packed = vec![0.0; n_tiles * window_len * LANES];
        for (out, weights) in weights.chunks_exact(window_len).enumerate() {
            let tile = &mut packed[out / LANES * window_len * LANES..][..window_len * LANES];
            for (packed, weight) in tile.chunks_exact_mut(LANES).zip(weights) {
                packed[out % LANES] = *weight;
            }
        }
        let mut bias = bias.to_vec();
        bias.resize(n_tiles * LANES, 0.0);
        let n_runs = [rows, across];
        Conv32 { window, n_in, n_out, n_runs, run_len: columns / across * n_in, weights: packed, bias, range }
    }

    /// Bytes that the weights take, laid out.
    pub fn weight_bytes(window: Window, n_in: usize, n_out: usize) -> usize {
        n_out.next_multiple_of(LANES) * window.size[0] * window.size[1] * n_in * size_of::<f32>()
    }

    /// Convolves `image`.
    ///
    /// # Panics
    /// If shapes do not fit, or the image has no slack behind it.
    pub fn run(&self, pool: &mut Pool, isa: Isa, image: (&[f32], Plane), output: (&mut [f32], Plane)) {
        let ((image, mut from), (output, mut to)) = (image, output);
        assert!(from.channels == self.n_in && to.channels == self.n_out);
        self.window.check((image.len(), from), (output.len(), to));
        if self.window.is_point() && from.is_dense() && to.is_dense() {
            (from, to) = (from.flattened(), to.flattened());
        }
        let n_tiles = self.n_out.div_ceil(LANES);
        let n_pixels = to.height * to.width;
        let by_tiles = n_pixels < 2 * LANES;
        let by_rows = !by_tiles && to.height > 1;
        let n_units = if by_tiles {
            n_tiles
        } else if by_rows {
            to.height
        } else {
            to.width / LANES
        };
        let pieces = Pieces::new(pool.n_threads(), n_units);
        let output = Shared(output.as_mut_ptr());
        pool.run(pieces.n_pieces, |_, piece| {
            let units = pieces.units(piece);
            let (mut tiles, mut rows, mut columns) = (0..n_tiles, 0..to.height, 0..to.width);
            if by_tiles {
                tiles = units;
            } else if by_rows {
                rows = units;
            } else {
                let end = if units.end == n_units { to.width } else { units.end * LANES };
                columns = units.start * LANES..end;
            }
            isa.run(PartKernel { conv: self, image, from, to, output: &output, tiles, rows, columns });
        });
    }
}

/// A part of one convolution's output.
struct PartKernel<'a> {
    conv: &'a Conv32,
    image: &'a [f32],
    from: Plane,
    to: Plane,
    output: &'a Shared<f32>,
    tiles: Range<usize>,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Kernel for PartKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n_pixels = self.rows.len() * self.columns.len();
        let mut tile = self.tiles.start;
        while tile < self.tiles.end {
            let n_tiles = tiles_at_once(S::FLOAT_SUMS, self.tiles.end - tile, n_pixels);
            match n_tiles {
                8 if const { S::FLOAT_SUMS >= 8 } => self.tiles::<S, 8>(s, tile),
                4 if const { S::FLOAT_SUMS >= 4 } => self.tiles::<S, 4>(s, tile),
                2 => self.tiles::<S, 2>(s, tile),
                _ => self.tiles::<S, 1>(s, tile),
            }
            tile += n_tiles;
        }
    }
}

impl PartKernel<'_> {
    /// All pixels of `T` tiles.
    #[inline(always)]
    fn tiles<S: Simd, const T: usize>(&self, s: S, tile: usize) {
        for y in self.rows.clone() {
            let mut x = self.columns.start;
            while x < self.columns.end {
                let n_pixels = pixels_at_once(S::FLOAT_SUMS, T, self.columns.end - x, self.columns.len());
                // A block that reaches beyond the end steps back: pixels computed twice cost less than small blocks.
                let from = x.min(self.columns.end - n_pixels);
                match n_pixels {
                    8 if const { is_block(S::FLOAT_SUMS, T, 8) } => self.block::<S, T, 8>(s, tile, y, from),
                    6 if const { is_block(S::FLOAT_SUMS, T, 6) } => self.block::<S, T, 6>(s, tile, y, from),
                    4 if const { is_block(S::FLOAT_SUMS, T, 4) } => self.block::<S, T, 4>(s, tile, y, from),
                    2 if const { is_block(S::FLOAT_SUMS, T, 2) } => self.block::<S, T, 2>(s, tile, y, from),
                    _ => self.block::<S, T, 1>(s, tile, y, from),
                }
                x = from + n_pixels;
            }
        }
    }

    /// `P` pixels of `T` tiles.
    #[inline(always)]
    fn block<S: Simd, const T: usize, const P: usize>(&self, s: S, tile: usize, y: usize, x: usize) {
        let PartKernel { conv, image, from, to, output, .. } = self;
        let [stride_y, stride_x] = conv.window.stride;
        let tile_len = conv.n_runs[0] * conv.n_runs[1] * conv.run_len * LANES;
        let pixel = stride_x * from.channels;
        let down = conv.window.dilation[0] * from.row_stride;
        let across = conv.window.dilation[1] * from.channels;
        let (low, high) = (s.splat(conv.range.0), s.splat(conv.range.1));
        // SAFETY: `run` has checked that windows lie in the image and that the output has room; tiles are those of
        // the layout.
        unsafe {
            let mut weights = conv.weights[tile * tile_len..][..T * tile_len].as_ptr();
            let corner = image.as_ptr().add(y * stride_y * from.row_stride + x * pixel);
            let mut sums = [[low; P]; T];
            for t in 0..T {
                sums[t] = [s.load(conv.bias[(tile + t) * LANES..][..LANES].as_ptr()); P];
            }
            for row in 0..conv.n_runs[0] {
                for column in 0..conv.n_runs[1] {
                    let mut run = corner.add(row * down + column * across);
                    for _ in 0..conv.run_len {
                        let mut w = [s.load(weights); T];
                        for t in 1..T {
                            w[t] = s.load(weights.add(t * tile_len));
                        }
                        for p in 0..P {
                            let value = s.splat(*run.add(p * pixel));
                            for t in 0..T {
                                sums[t][p] = s.fma(value, w[t], sums[t][p]);
                            }
                        }
                        weights = weights.add(LANES);
                        run = run.add(1);
                    }
                }
            }
            // Through memory, as in eight bits.
            let mut finished = [[[0.0; LANES]; P]; T];
            for t in 0..T {
                for p in 0..P {
                    s.store(finished[t][p].as_mut_ptr(), s.min(s.max(sums[t][p], low), high));
                }
            }
            for t in 0..T {
                let channel = (tile + t) * LANES;
                let n = LANES.min(to.channels - channel);
                for p in 0..P {
                    let dst = output.ptr().add(y * to.row_stride + (x + p) * to.channels + channel);
                    if n == LANES {
                        s.store(dst, s.load(finished[t][p].as_ptr()));
                    } else {
                        std::ptr::copy_nonoverlapping(finished[t][p].as_ptr(), dst, n);
                    }
                }
            }
        }
    }
}

/// The same in plain loops, summed in `f64`: `[rows, columns, n_out]` of the positions, row after row, before bounds.
pub fn conv32_ref(window: Window, weights: &[f32], bias: &[f32], image: (&[f32], Plane)) -> Vec<f64> {
    let (image, plane) = image;
    let [rows, columns] = window.positions([plane.height, plane.width]);
    let n_in = plane.channels;
    let mut sums = Vec::with_capacity(rows * columns * bias.len());
    for (y, x) in (0..rows * columns).map(|i| (i / columns, i % columns)) {
        for (out, bias) in bias.iter().enumerate() {
            let mut sum = f64::from(*bias);
            for (row, column) in
                (0..window.size[0] * window.size[1]).map(|i| (i / window.size[1], i % window.size[1]))
            {
                let at = (y * window.stride[0] + row * window.dilation[0]) * plane.row_stride
                    + (x * window.stride[1] + column * window.dilation[1]) * n_in;
                for c in 0..n_in {
                    let weight = weights[((out * window.size[0] + row) * window.size[1] + column) * n_in + c];
                    sum += f64::from(weight) * f64::from(image[at + c]);
                }
            }
            sums.push(sum);
        }
    }
    sums
}
