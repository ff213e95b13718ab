//! Depthwise convolution in eight bits: each channel with a window of its own.
//!
//! There is no sum over channels to broadcast into. Instead the bytes of four rows of the window are interleaved, so
//! that one instruction multiplies four rows of sixteen channels; a block of 64 channels is four registers of sums
//! ([`Simd::interleave4`]), and packing them to bytes puts the channels back in order for free.
//!
//! Windows of three rows leave a fourth byte unused. Where they go down one row at a time, their weights are laid out
//! twice, the second time one row lower: four rows of the image, interleaved once, serve two rows of the output.
//!
//! With 8, 16 or 32 channels a block covers several pixels of a row, whose weights repeat.

use std::ops::Range;

use super::requant::Registers;
use super::{Pieces, Plane, Requant, Shared, Window, starts};
use crate::isa::{Isa, Kernel, LANES, Simd};
use crate::memory::Buffer;
use crate::pool::Pool;

/// Channels of a block, and bytes of a register.
const BLOCK: usize = 64;
/// Registers of sums of a block.
const QUARTERS: usize = 4;
/// Rows of a window that meet in one step.
const GROUP: usize = 4;
/// Bytes of weights that do: four registers.
const STEP_BYTES: usize = BLOCK * GROUP;

/// A loop over the quarters of a block, written out, so that each has registers of its own.
macro_rules! quarters {
    ($v:ident $body:block) => {
        quarters!(@ $v $body 0 1 2 3)
    };
    (@ $v:ident $body:block $($i:literal)*) => {
        $({
            let $v = $i;
            $body
        })*
    };
}

/// The weights of a depthwise convolution, laid out.
#[derive(Debug)]
pub struct Depthwise8 {
    window: Window,
    n_channels: usize,
    /// `[rows of output at once][block][column][group of rows][4][LANES][GROUP]`, signed, the channels as `interleave4`
    /// gives them.
    weights: Buffer,
    /// `[block][4][LANES]`, channels as above.
    bias: Vec<i32>,
    /// Sums of each channel's weights, as `bias`.
    weight_sums: Vec<i32>,
    /// For the channels as above.
    requant: Requant,
}

impl Depthwise8 {
    /// Lays out `weights`, `[rows, columns, n_channels]`; `bias` is `[n_channels]`.
    ///
    /// # Panics
    /// If lengths do not fit, or something is zero.
    pub fn new(
        window: Window,
        n_channels: usize,
        weights: &[i8],
        bias: &[i32],
        requant: &Requant,
    ) -> Depthwise8 {
        let [rows, columns] = window.size;
        assert!(rows > 0 && columns > 0 && n_channels > 0);
        assert!(weights.len() == rows * columns * n_channels && bias.len() == n_channels);
        assert_eq!(requant.n_channels(), n_channels);
        let order = order(n_channels);
        let n_groups = rows.div_ceil(GROUP);
        let mut packed = Buffer::zeroed(Depthwise8::weight_bytes(window, n_channels));
        let n_steps = n_channels.div_ceil(BLOCK) * columns * n_groups;
        for (step, packed) in packed.as_mut_slice().chunks_exact_mut(STEP_BYTES).enumerate() {
            let (lower, step) = (step / n_steps, step % n_steps);
            let (block, column, group) =
                (step / n_groups / columns, step / n_groups % columns, step % n_groups);
            let order = &order[block * BLOCK..][..BLOCK];
            for (packed, from) in packed.chunks_exact_mut(GROUP).zip(order) {
                let Some(channel) = from else { continue };
                for (i, packed) in packed.iter_mut().skip(lower).enumerate().take(rows - group * GROUP) {
                    let at = ((group * GROUP + i) * columns + column) * n_channels + channel;
                    *packed = weights[at] as u8;
                }
            }
        }
        let sum = |channel: usize| weights[channel..].iter().step_by(n_channels).map(|w| i32::from(*w)).sum();
        Depthwise8 {
            window,
            n_channels,
            weights: packed,
            bias: order.iter().map(|from| from.map_or(0, |channel| bias[channel])).collect(),
            weight_sums: order.iter().map(|from| from.map_or(0, sum)).collect(),
            requant: requant.reordered(&order),
        }
    }

    /// Bytes that the weights take, laid out.
    pub fn weight_bytes(window: Window, n_channels: usize) -> usize {
        let n_steps = n_channels.div_ceil(BLOCK) * window.size[1] * window.size[0].div_ceil(GROUP);
        rows_at_once(window) * n_steps * STEP_BYTES
    }

    /// Convolves `image`, whose zero point is `zero`.
    ///
    /// # Panics
    /// If shapes do not fit, or the image has no slack behind it.
    pub fn run(
        &self,
        pool: &mut Pool,
        isa: Isa,
        image: (&[u8], Plane),
        zero: u8,
        output: (&mut [u8], Plane),
    ) {
        let ((image, from), (output, to)) = (image, output);
        assert!(from.channels == self.n_channels && to.channels == self.n_channels);
        self.window.check((image.len(), from), (output.len(), to));
        let pieces = Pieces::new(pool.n_threads(), to.height);
        let output = Shared(output.as_mut_ptr());
        pool.run(pieces.n_pieces, |_, piece| {
            let rows = pieces.units(piece);
            isa.run(PartKernel {
                layer: self,
                image,
                from,
                to,
                zero: i32::from(zero),
                output: &output,
                rows,
            });
        });
    }
}

/// Rows of the output that one step serves.
fn rows_at_once(window: Window) -> usize {
    if window.size[0] + 1 == GROUP && window.stride[0] == 1 && window.dilation[0] == 1 { 2 } else { 1 }
}

/// For each lane of all blocks, whose channel it is.
fn order(n_channels: usize) -> Vec<Option<usize>> {
    let n_lanes = n_channels.next_multiple_of(BLOCK);
    let repeats = BLOCK.is_multiple_of(n_channels);
    let channel = |lane: usize| {
        let (block, v, quarter, e) = (lane / BLOCK, lane / LANES % 4, lane % LANES / 4, lane % 4);
        let channel = block * BLOCK + 16 * quarter + 4 * v + e;
        if repeats { Some(channel % n_channels) } else { (channel < n_channels).then_some(channel) }
    };
    (0..n_lanes).map(channel).collect()
}

/// Some rows of the output.
struct PartKernel<'a> {
    layer: &'a Depthwise8,
    image: &'a [u8],
    from: Plane,
    to: Plane,
    zero: i32,
    output: &'a Shared<u8>,
    rows: Range<usize>,
}

impl Kernel for PartKernel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Nearly all windows have three rows and columns; then their weights stay in registers.
        if self.layer.window.size == [3, 3] {
            self.rows::<S, 3, 3>(s);
        } else {
            self.rows::<S, 0, 0>(s);
        }
    }
}

impl PartKernel<'_> {
    /// All rows, with a window of `ROWS` by `COLUMNS`, or of any size if these are 0.
    #[inline(always)]
    fn rows<S: Simd, const ROWS: usize, const COLUMNS: usize>(&self, s: S) {
        let PartKernel { layer, from, to, zero, .. } = self;
        let n_channels = layer.n_channels;
        let stride_x = layer.window.stride[1];
        let rows_at_once = rows_at_once(layer.window);
        let n_columns = if COLUMNS > 0 { COLUMNS } else { layer.window.size[1] };
        let block_bytes = n_columns * layer.window.size[0].div_ceil(GROUP) * STEP_BYTES;
        // Neighbouring pixels share a block where neighbours are wanted and the weights repeat.
        let is_flat = stride_x == 1 && BLOCK.is_multiple_of(n_channels);
        let (n_pixels, pixel_len) = if is_flat { (1, to.width * n_channels) } else { (to.width, n_channels) };
        for block in 0..pixel_len.div_ceil(BLOCK) {
            // A flat row has one block of weights; its last block steps back, which keeps channels in their lanes.
            let weight_block = if is_flat { 0 } else { block };
            let offset =
                if is_flat { (block * BLOCK).min(pixel_len.saturating_sub(BLOCK)) } else { block * BLOCK };
            let lanes = weight_block * BLOCK;
            let start: [_; QUARTERS] =
                starts(S::ACT_ZERO - zero, &layer.bias[lanes..], &layer.weight_sums[lanes..]);
            let (mut sums, mut scales) = ([s.splat_i(0); QUARTERS], [s.splat(0.0); QUARTERS]);
            quarters!(v {
                // SAFETY: sixteen sums are readable.
                sums[v] = unsafe { s.load_i(start[v].as_ptr()) };
                scales[v] = layer.requant.scales(s, lanes + v * LANES);
            });
            let block = Block {
                lanes,
                offset,
                n: BLOCK.min(pixel_len - offset),
                start: sums,
                scales,
                registers: layer.requant.registers(s),
                weights: layer.weights.as_slice()[weight_block * block_bytes..][..block_bytes].as_ptr(),
            };
            let mut y = self.rows.start;
            while y < self.rows.end {
                debug_assert!(y * to.row_stride + offset < to.len() && from.channels == n_channels);
                if rows_at_once == 2 && y + 1 < self.rows.end {
                    self.pixels::<S, ROWS, COLUMNS, 2>(s, &block, y, n_pixels);
                    y += 2;
                } else {
                    self.pixels::<S, ROWS, COLUMNS, 1>(s, &block, y, n_pixels);
                    y += 1;
                }
            }
        }
    }

    /// One block of each pixel of row `y`, and of the row below if `R` is 2.
    #[inline(always)]
    fn pixels<S: Simd, const ROWS: usize, const COLUMNS: usize, const R: usize>(
        &self,
        s: S,
        block: &Block<S>,
        y: usize,
        n_pixels: usize,
    ) {
        let PartKernel { layer, image, from, to, output, .. } = self;
        let n_channels = layer.n_channels;
        let [stride_y, stride_x] = layer.window.stride;
        let n_rows = if ROWS > 0 { ROWS } else { layer.window.size[0] };
        let n_columns = if COLUMNS > 0 { COLUMNS } else { layer.window.size[1] };
        let down = layer.window.dilation[0] * from.row_stride;
        let across = layer.window.dilation[1] * n_channels;
        let lower = layer.weights.as_slice().len() / 2;
        // SAFETY: `run` has checked that windows lie in the image and that it has slack for the last block of a pixel
        // or row, and that the output has room; the rows are this piece's own.
        unsafe {
            let mut corner = image.as_ptr().add(y * stride_y * from.row_stride + block.offset);
            let mut dst = output.ptr().add(y * to.row_stride + block.offset);
            for _ in 0..n_pixels {
                let (mut sums, mut lower_sums) = (block.start, block.start);
                let mut weights = block.weights;
                for column in 0..n_columns {
                    let mut row = corner.add(column * across);
                    let mut n_left = n_rows + R - 1;
                    while n_left > 0 {
                        // Rows that are not there meet zero weights: any bytes will do.
                        let mut group = [s.load_bytes(row); GROUP];
                        if n_left > 1 {
                            group[1] = s.load_bytes(row.add(down));
                        }
                        if n_left > 2 {
                            group[2] = s.load_bytes(row.add(2 * down));
                        }
                        if n_left > 3 {
                            group[3] = s.load_bytes(row.add(3 * down));
                        }
                        let bytes = s.interleave4(group);
                        quarters!(v {
                            sums[v] = s.dot4_signed(sums[v], bytes[v], s.load_bytes(weights.add(v * BLOCK)));
                        });
                        if R == 2 {
                            quarters!(v {
                                let weights = s.load_bytes(weights.add(lower + v * BLOCK));
                                lower_sums[v] = s.dot4_signed(lower_sums[v], bytes[v], weights);
                            });
                        }
                        weights = weights.add(STEP_BYTES);
                        n_left -= GROUP.min(n_left);
                        row = row.wrapping_add(GROUP * down);
                    }
                }
                self.store(s, block, sums, dst);
                if R == 2 {
                    self.store(s, block, lower_sums, dst.add(to.row_stride));
                }
                corner = corner.wrapping_add(stride_x * n_channels);
                dst = dst.wrapping_add(n_channels);
            }
        }
    }

    /// Stores the sums of a block.
    ///
    /// # Safety
    /// `block.n` bytes are writable.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self, s: S, block: &Block<S>, sums: [S::I; QUARTERS], dst: *mut u8) {
        // SAFETY: the caller's.
        unsafe {
            if let Some(registers) = block.registers {
                let bytes = registers.pack(s, sums, block.scales);
                if block.n == BLOCK {
                    s.store_bytes(dst, bytes);
                } else {
                    s.store_bytes_part(dst, bytes, block.n);
                }
            } else {
                self.store_slowly(s, block, &sums, dst);
            }
        }
    }

    /// Stores sums rounded in another way than the fast one.
    ///
    /// # Safety
    /// `block.n` bytes are writable.
    #[inline(always)]
    unsafe fn store_slowly<S: Simd>(&self, s: S, block: &Block<S>, sums: &[S::I; QUARTERS], dst: *mut u8) {
        let mut values = [[0; LANES]; QUARTERS];
        for v in 0..QUARTERS {
            // SAFETY: sixteen sums are writable.
            unsafe { s.store_i(values[v].as_mut_ptr(), sums[v]) };
        }
        for i in 0..block.n {
            let (v, lane) = (i / 4 % QUARTERS, i / 16 * 4 + i % 4);
            let value = self.layer.requant.apply_ref(block.lanes + v * LANES + lane, values[v][lane]);
            // SAFETY: the caller's.
            unsafe { *dst.add(i) = value };
        }
    }
}

/// Sixty-four channels, or some pixels with fewer, and all that is the same wherever they are.
struct Block<S: Simd> {
    /// Where its channels begin in the layer's constants.
    lanes: usize,
    /// Where it begins in a pixel, or row.
    offset: usize,
    /// Bytes of it that there are.
    n: usize,
    /// What sums start from.
    start: [S::I; QUARTERS],
    /// Of its channels.
    scales: [S::F; QUARTERS],
    /// How sums are rounded, if in the fast way.
    registers: Option<Registers<S>>,
    /// Its own, of the upper row of output; those of the lower row are half of all weights further.
    weights: *const u8,
}

/// The sums of a depthwise convolution, in plain loops: `[rows, columns, n_channels]` of the positions.
pub fn depthwise8_ref(
    window: Window,
    weights: &[i8],
    bias: &[i32],
    image: (&[u8], Plane),
    zero: u8,
) -> Vec<i32> {
    let (image, plane) = image;
    let [rows, columns] = window.positions([plane.height, plane.width]);
    let n_channels = plane.channels;
    let mut sums = Vec::with_capacity(rows * columns * n_channels);
    for (y, x) in (0..rows * columns).map(|i| (i / columns, i % columns)) {
        for (channel, bias) in bias.iter().enumerate() {
            let mut sum = *bias;
            for (row, column) in
                (0..window.size[0] * window.size[1]).map(|i| (i / window.size[1], i % window.size[1]))
            {
                let at = (y * window.stride[0] + row * window.dilation[0]) * plane.row_stride
                    + (x * window.stride[1] + column * window.dilation[1]) * n_channels;
                let weight = weights[(row * window.size[1] + column) * n_channels + channel];
                sum += i32::from(weight) * (i32::from(image[at + channel]) - i32::from(zero));
            }
            sums.push(sum);
        }
    }
    sums
}
