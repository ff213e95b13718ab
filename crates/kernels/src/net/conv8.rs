//! Convolution of eight-bit images with eight-bit weights, and with it fully connected layers.
//!
//! Sixteen output channels make a tile, one to a lane. The weights of a tile lie in the order in which a window is
//! walked, four inputs of all sixteen channels to a register; four neighbouring bytes of the image are broadcast and
//! meet them in one instruction. A block is a few pixels by a few tiles: each broadcast serves all tiles of the block,
//! each register of weights all its pixels.
//!
//! A window's columns and channels are one run of memory (unless columns are dilated), so an image with three channels
//! wastes no multiplications on filling each pixel up to four: only the end of a run is filled, by zero weights.

use std::ops::Range;

use super::{Pieces, Plane, Requant, Shared, Window, is_block, pixels_at_once, starts, tiles_at_once};
use crate::isa::{Isa, Kernel, LANES, Simd};
use crate::memory::Buffer;
use crate::pool::Pool;

/// Inputs that meet in one step.
const GROUP: usize = 4;
/// Bytes of weights that do.
const STEP_BYTES: usize = LANES * GROUP;

/// The weights of a convolution, laid out.
#[derive(Debug)]
pub struct Conv8 {
    window: Window,
    n_in: usize,
    n_out: usize,
    /// Runs of memory that a window looks at: down, across.
    n_runs: [usize; 2],
    /// Steps of a run.
    n_steps: usize,
    /// `[tile][down][across][step][LANES][GROUP]`, signed.
    weights: Buffer,
    /// `[n_out]` and zeros up to a whole tile.
    bias: Vec<i32>,
    /// Sums of each channel's weights, as `bias`.
    weight_sums: Vec<i32>,
}

/// Where the sums go.
pub enum Output8<'a> {
    /// Back to eight bits.
    Bytes {
        /// Rows of output pixels.
        data: &'a mut [u8],
        /// How they lie.
        plane: Plane,
        /// For each output channel.
        requant: &'a Requant,
    },
    /// To floats: `clamp(sum * scale * scales[channel] + bias[channel])`. The convolution's own bias is zero.
    Floats {
        /// Rows of output pixels.
        data: &'a mut [f32],
        /// How they lie.
        plane: Plane,
        /// Of the image.
        scale: f32,
        /// Of the weights, `[n_out]` and anything up to a whole tile.
        scales: &'a [f32],
        /// As `scales`.
        bias: &'a [f32],
        /// Bounds of results.
        range: (f32, f32),
    },
}

impl Conv8 {
    /// Lays out `weights`, `[n_out, rows, columns, n_in]`; `bias` is `[n_out]`.
    ///
    /// # Panics
    /// If lengths do not fit, or something is zero.
    pub fn new(window: Window, n_in: usize, n_out: usize, weights: &[i8], bias: &[i32]) -> Conv8 {
        let [rows, columns] = window.size;
        assert!(rows > 0 && columns > 0 && n_in > 0 && n_out > 0);
        assert!(weights.len() == n_out * rows * columns * n_in && bias.len() == n_out);
        let across = if window.dilation[1] == 1 { 1 } else { columns };
        let n_runs = [rows, across];
        let run_len = columns / across * n_in;
        let n_steps = run_len.div_ceil(GROUP);
        let n_tiles = n_out.div_ceil(LANES);
        let mut packed = Buffer::zeroed(Conv8::weight_bytes(window, n_in, n_out));
        let runs = packed.as_mut_slice().chunks_exact_mut(n_steps * STEP_BYTES);
        for (run_idx, packed) in runs.enumerate() {
            let (tile, run_idx) = (run_idx / (rows * across), run_idx % (rows * across));
            for lane in 0..LANES.min(n_out - tile * LANES) {
                let at = ((tile * LANES + lane) * rows * across + run_idx) * run_len;
                for (i, weight) in weights[at..][..run_len].iter().enumerate() {
                    packed[i / GROUP * STEP_BYTES + lane * GROUP + i % GROUP] = *weight as u8;
                }
            }
        }
        let mut bias = bias.to_vec();
        bias.resize(n_tiles * LANES, 0);
        let sums = weights.chunks_exact(rows * columns * n_in);
        let mut weight_sums: Vec<i32> = sums.map(|w| w.iter().map(|w| i32::from(*w)).sum()).collect();
        weight_sums.resize(n_tiles * LANES, 0);
        Conv8 { window, n_in, n_out, n_runs, n_steps, weights: packed, bias, weight_sums }
    }

    /// Bytes that the weights take, laid out.
    pub fn weight_bytes(window: Window, n_in: usize, n_out: usize) -> usize {
        let [rows, columns] = window.size;
        let across = if window.dilation[1] == 1 { 1 } else { columns };
        n_out.div_ceil(LANES) * rows * across * (columns / across * n_in).div_ceil(GROUP) * STEP_BYTES
    }

    /// Convolves `image`, whose zero point is `zero`.
    ///
    /// # Panics
    /// If shapes do not fit, or the image has no slack behind it.
    pub fn run(&self, pool: &mut Pool, isa: Isa, image: (&[u8], Plane), zero: u8, output: Output8<'_>) {
        let (image, mut from) = image;
        let (output_len, mut to) = match &output {
            Output8::Bytes { data, plane, .. } => (data.len(), *plane),
            Output8::Floats { data, plane, .. } => (data.len(), *plane),
        };
        assert!(from.channels == self.n_in && to.channels == self.n_out);
        self.window.check((image.len(), from), (output_len, to));
        if self.window.is_point() && from.is_dense() && to.is_dense() {
            (from, to) = (from.flattened(), to.flattened());
        }
        let sink = match output {
            Output8::Bytes { data, requant, .. } => {
                assert_eq!(requant.n_channels(), self.n_out);
                Sink::Bytes { data: Shared(data.as_mut_ptr()), requant }
            }
            Output8::Floats { data, scale, scales, bias, range, .. } => {
                assert!(scales.len() >= self.bias.len() && bias.len() >= self.bias.len());
                Sink::Floats { data: Shared(data.as_mut_ptr()), scale, scales, bias, range }
            }
        };
        Task { conv: self, image, from, to, zero: i32::from(zero), sink: &sink }.run(pool, isa);
    }
}

/// What becomes of sums, and where they go.
enum Sink<'a> {
    Bytes { data: Shared<u8>, requant: &'a Requant },
    Floats { data: Shared<f32>, scale: f32, scales: &'a [f32], bias: &'a [f32], range: (f32, f32) },
}

/// One convolution of one image.
#[derive(Clone, Copy)]
struct Task<'a> {
    conv: &'a Conv8,
    image: &'a [u8],
    from: Plane,
    to: Plane,
    zero: i32,
    sink: &'a Sink<'a>,
}

impl Task<'_> {
    fn run(self, pool: &mut Pool, isa: Isa) {
        let (conv, to) = (self.conv, self.to);
        let n_tiles = conv.n_out.div_ceil(LANES);
        let n_pixels = to.height * to.width;
        let all = Part { tiles: 0..n_tiles, rows: 0..to.height, columns: 0..to.width };
        // Few pixels are cut by tiles: each thread reads its own weights. Many are cut by rows, or one row by columns.
        let cut = if n_pixels < 2 * LANES {
            Cut::Tiles
        } else if to.height > 1 {
            Cut::Rows
        } else {
            Cut::Columns
        };
        let n_units = match cut {
            Cut::Tiles => n_tiles,
            Cut::Rows => to.height,
            Cut::Columns => to.width / LANES,
        };
        let pieces = Pieces::new(pool.n_threads(), n_units);
        pool.run(pieces.n_pieces, |_, piece| {
            let units = pieces.units(piece);
            let mut part = all.clone();
            match cut {
                Cut::Tiles => part.tiles = units,
                Cut::Rows => part.rows = units,
                Cut::Columns => {
                    let end = if units.end == n_units { to.width } else { units.end * LANES };
                    part.columns = units.start * LANES..end;
                }
            }
            isa.run(PartKernel { task: self, part });
        });
    }
}

#[derive(Clone, Copy)]
enum Cut {
    Tiles,
    Rows,
    Columns,
}

/// A part of the output.
#[derive(Clone)]
struct Part {
    tiles: Range<usize>,
    rows: Range<usize>,
    columns: Range<usize>,
}

struct PartKernel<'a> {
    task: Task<'a>,
    part: Part,
}

impl Kernel for PartKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n_pixels = self.part.rows.len() * self.part.columns.len();
        let mut tile = self.part.tiles.start;
        while tile < self.part.tiles.end {
            let n_tiles = tiles_at_once(S::BYTE_SUMS, self.part.tiles.end - tile, n_pixels);
            match n_tiles {
                8 if const { S::BYTE_SUMS >= 8 } => self.tiles::<S, 8>(s, tile),
                4 if const { S::BYTE_SUMS >= 4 } => self.tiles::<S, 4>(s, tile),
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
        let Task { conv, zero, to, .. } = self.task;
        let first = tile * LANES;
        let start = starts(S::ACT_ZERO - zero, &conv.bias[first..], &conv.weight_sums[first..]);
        // The last tile may have fewer channels than lanes.
        let n_channels = (T * LANES).min(to.channels - tile * LANES);
        let block = Block { tile, start: &start, n_channels };
        let columns = self.part.columns.clone();
        for y in self.part.rows.clone() {
            let mut x = columns.start;
            while x < columns.end {
                let n_pixels = pixels_at_once(S::BYTE_SUMS, T, columns.end - x, columns.len());
                // A block that reaches beyond the end steps back: pixels computed twice cost less than small blocks.
                let from = x.min(columns.end - n_pixels);
                match n_pixels {
                    8 if const { is_block(S::BYTE_SUMS, T, 8) } => self.block::<S, T, 8>(s, &block, y, from),
                    6 if const { is_block(S::BYTE_SUMS, T, 6) } => self.block::<S, T, 6>(s, &block, y, from),
                    4 if const { is_block(S::BYTE_SUMS, T, 4) } => self.block::<S, T, 4>(s, &block, y, from),
                    2 if const { is_block(S::BYTE_SUMS, T, 2) } => self.block::<S, T, 2>(s, &block, y, from),
                    _ => self.block::<S, T, 1>(s, &block, y, from),
                }
                x = from + n_pixels;
            }
        }
    }

    /// `P` pixels of `T` tiles.
    #[inline(always)]
    fn block<S: Simd, const T: usize, const P: usize>(&self, s: S, block: &Block<'_, T>, y: usize, x: usize) {
        let Task { conv, image, from, to, .. } = self.task;
        let [stride_y, stride_x] = conv.window.stride;
        let tile_bytes = conv.n_runs[0] * conv.n_runs[1] * conv.n_steps * STEP_BYTES;
        let pixel = stride_x * from.channels;
        let down = conv.window.dilation[0] * from.row_stride;
        let across = conv.window.dilation[1] * from.channels;
        // SAFETY: `run` has checked that windows lie in the image, that it has slack for the last step of a run, and
        // that the output has room; tiles are those of the layout; pixels and channels are in this part.
        unsafe {
            let mut weights = conv.weights.as_slice()[block.tile * tile_bytes..][..T * tile_bytes].as_ptr();
            let corner = image.as_ptr().add(y * stride_y * from.row_stride + x * pixel);
            let mut sums = [[s.splat_i(0); P]; T];
            for t in 0..T {
                sums[t] = [s.load_i(block.start[t].as_ptr()); P];
            }
            for row in 0..conv.n_runs[0] {
                for column in 0..conv.n_runs[1] {
                    let mut run = corner.add(row * down + column * across);
                    for _ in 0..conv.n_steps {
                        let mut w = [s.load_bytes(weights); T];
                        for t in 1..T {
                            w[t] = s.load_bytes(weights.add(t * tile_bytes));
                        }
                        for p in 0..P {
                            let bytes = s.splat_bytes(run.add(p * pixel).cast::<i32>().read_unaligned());
                            for t in 0..T {
                                sums[t][p] = s.dot4_signed(sums[t][p], bytes, w[t]);
                            }
                        }
                        weights = weights.add(STEP_BYTES);
                        run = run.add(GROUP);
                    }
                }
            }
            // Through memory: were they used below, in loops that are not written out, the compiler would keep them
            // in memory above, too.
            let mut finished = [[[0; LANES]; P]; T];
            for t in 0..T {
                for p in 0..P {
                    s.store_i(finished[t][p].as_mut_ptr(), sums[t][p]);
                }
            }
            let first = y * to.row_stride + x * to.channels;
            for t in 0..T {
                let channel = (block.tile + t) * LANES;
                let n = LANES.min(block.n_channels - t * LANES);
                self.store(s, first + channel, channel, n, &finished[t]);
            }
        }
    }

    /// Stores a tile's sums of some pixels, the first `n` of each; the first pixel's channel `channel` is element `at`.
    ///
    /// # Safety
    /// The elements are in range, and nobody else's.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self, s: S, mut at: usize, channel: usize, n: usize, sums: &[[i32; LANES]]) {
        let Task { to, sink, .. } = self.task;
        // SAFETY: the caller's; and sixteen sums, scales and biases are readable.
        unsafe {
            match sink {
                Sink::Bytes { data, requant } => {
                    let scales = requant.scales(s, channel);
                    let registers = requant.registers(s);
                    for sums in sums {
                        let dst = data.ptr().add(at);
                        match registers {
                            Some(registers) if n == LANES => {
                                s.store_u8(dst, registers.apply(s, s.load_i(sums.as_ptr()), scales));
                            }
                            Some(registers) => {
                                s.store_u8_part(dst, registers.apply(s, s.load_i(sums.as_ptr()), scales), n);
                            }
                            None => {
                                for (lane, sum) in sums.iter().enumerate().take(n) {
                                    *dst.add(lane) = requant.apply_ref(channel + lane, *sum);
                                }
                            }
                        }
                        at += to.channels;
                    }
                }
                Sink::Floats { data, scale, scales, bias, range } => {
                    let scales = s.load(scales[channel..][..LANES].as_ptr());
                    let bias = s.load(bias[channel..][..LANES].as_ptr());
                    for sums in sums {
                        let sums = s.mul(s.to_f(s.load_i(sums.as_ptr())), s.splat(*scale));
                        let value = s.fma(sums, scales, bias);
                        let value = s.min(s.max(value, s.splat(range.0)), s.splat(range.1));
                        s.store_part(data.ptr().add(at), value, n);
                        at += to.channels;
                    }
                }
            }
        }
    }
}

/// What is the same for all blocks of some tiles.
struct Block<'a, const T: usize> {
    /// The first.
    tile: usize,
    start: &'a [[i32; LANES]; T],
    /// Output channels of the tiles.
    n_channels: usize,
}

/// The sums of a convolution, in plain loops: `[rows, columns, n_out]` of the positions, row after row.
pub fn conv8_ref(
    window: Window,
    n_out: usize,
    weights: &[i8],
    bias: &[i32],
    image: (&[u8], Plane),
    zero: u8,
) -> Vec<i32> {
    let (image, plane) = image;
    let [rows, columns] = window.positions([plane.height, plane.width]);
    let n_in = plane.channels;
    let mut sums = Vec::with_capacity(rows * columns * n_out);
    for (y, x) in (0..rows * columns).map(|i| (i / columns, i % columns)) {
        for (out, bias) in bias.iter().enumerate().take(n_out) {
            let mut sum = *bias;
            for (row, column) in
                (0..window.size[0] * window.size[1]).map(|i| (i / window.size[1], i % window.size[1]))
            {
                let at = (y * window.stride[0] + row * window.dilation[0]) * plane.row_stride
                    + (x * window.stride[1] + column * window.dilation[1]) * n_in;
                for c in 0..n_in {
                    let weight = weights[((out * window.size[0] + row) * window.size[1] + column) * n_in + c];
                    sum += i32::from(weight) * (i32::from(image[at + c]) - i32::from(zero));
                }
            }
            sums.push(sum);
        }
    }
    sums
}
