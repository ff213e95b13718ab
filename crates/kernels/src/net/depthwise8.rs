//! Depthwise convolution in eight bits: each channel with a window of its own.
//!
//! There is no sum over channels to broadcast into. Instead the bytes of four rows of the window are interleaved, so
//! that one instruction multiplies four rows of sixteen channels; a block of 64 channels is four registers of sums
//! ([`Simd::interleave4`]), and packing them to bytes puts the channels back in order for free.
//!
//! With 8, 16 or 32 channels a block covers several pixels of a row, whose weights repeat.

use std::ops::Range;

use super::{Pieces, Plane, Requant, Shared, Window};
use crate::isa::{Isa, Kernel, LANES, Simd};
use crate::memory::Buffer;
use crate::pool::Pool;

/// Channels of a block, and bytes of a register.
const BLOCK: usize = 64;
/// Rows of a window that meet in one step.
const GROUP: usize = 4;
/// Bytes of weights that do: four registers.
const STEP_BYTES: usize = BLOCK * GROUP;

/// The weights of a depthwise convolution, laid out.
#[derive(Debug)]
pub struct Depthwise8 {
    window: Window,
    n_channels: usize,
    /// `[block][column][group of rows][4][LANES][GROUP]`, signed, the channels as `interleave4` gives them.
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
        for (step, packed) in packed.as_mut_slice().chunks_exact_mut(STEP_BYTES).enumerate() {
            let (block, column, group) =
                (step / n_groups / columns, step / n_groups % columns, step % n_groups);
            let order = &order[block * BLOCK..][..BLOCK];
            for (packed, from) in packed.chunks_exact_mut(GROUP).zip(order) {
                let Some(channel) = from else { continue };
                for (i, packed) in packed.iter_mut().enumerate().take(rows - group * GROUP) {
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
        n_channels.div_ceil(BLOCK) * window.size[1] * window.size[0].div_ceil(GROUP) * STEP_BYTES
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
        let macs = to.height * to.width * self.weights.as_slice().len();
        let pieces = Pieces::new(pool.n_threads(), to.height, macs);
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
        let PartKernel { layer, image, from, to, zero, output, rows } = self;
        let n_channels = layer.n_channels;
        let [stride_y, stride_x] = layer.window.stride;
        let [n_rows, n_columns] = layer.window.size;
        let down = layer.window.dilation[0] * from.row_stride;
        let across = layer.window.dilation[1] * n_channels;
        let n_groups = n_rows.div_ceil(GROUP);
        let block_bytes = n_columns * n_groups * STEP_BYTES;
        // Neighbouring pixels share a block where neighbours are wanted and the weights repeat.
        let is_flat = stride_x == 1 && BLOCK.is_multiple_of(n_channels);
        let (n_pixels, pixel_len) = if is_flat { (1, to.width * n_channels) } else { (to.width, n_channels) };
        let n_blocks = pixel_len.div_ceil(BLOCK);
        for block in 0..n_blocks {
            // A flat row has one block of weights; its last block steps back, which keeps channels in their lanes.
            let weight_block = if is_flat { 0 } else { block };
            let offset =
                if is_flat { (block * BLOCK).min(pixel_len.saturating_sub(BLOCK)) } else { block * BLOCK };
            let n = BLOCK.min(pixel_len - offset);
            let weights = layer.weights.as_slice()[weight_block * block_bytes..][..block_bytes].as_ptr();
            let lanes = weight_block * BLOCK;
            let mut start = [s.splat_i(0); 4];
            for v in 0..4 {
                let mut values = [0; LANES];
                for lane in 0..LANES {
                    let at = lanes + v * LANES + lane;
                    let shift = (S::ACT_ZERO - zero).wrapping_mul(layer.weight_sums[at]);
                    values[lane] = layer.bias[at].wrapping_add(shift);
                }
                // SAFETY: sixteen elements are readable.
                start[v] = unsafe { s.load_i(values.as_ptr()) };
            }
            for y in rows.clone() {
                for x in 0..n_pixels {
                    // SAFETY: `run` has checked that windows lie in the image and that it has slack for the last
                    // block of a pixel or row, and that the output has room; the rows are this piece's own.
                    unsafe {
                        let corner =
                            image.as_ptr().add(y * stride_y * from.row_stride + x * stride_x * n_channels);
                        let corner = corner.add(offset);
                        let mut sums = start;
                        let mut weights = weights;
                        for column in 0..n_columns {
                            let mut row = corner.add(column * across);
                            let mut n_left = n_rows;
                            while n_left > 0 {
                                // Rows that are not there meet zero weights: any bytes will do.
                                let first = s.load_bytes(row);
                                let mut group = [first; GROUP];
                                if n_left >= GROUP {
                                    group[1] = s.load_bytes(row.add(down));
                                    group[2] = s.load_bytes(row.add(2 * down));
                                    group[3] = s.load_bytes(row.add(3 * down));
                                } else if n_left == 3 {
                                    group[1] = s.load_bytes(row.add(down));
                                    group[2] = s.load_bytes(row.add(2 * down));
                                } else if n_left == 2 {
                                    group[1] = s.load_bytes(row.add(down));
                                }
                                let bytes = s.interleave4(group);
                                for v in 0..4 {
                                    let w = s.load_bytes(weights.add(v * BLOCK));
                                    sums[v] = s.dot4_signed(sums[v], bytes[v], w);
                                }
                                weights = weights.add(STEP_BYTES);
                                n_left -= GROUP.min(n_left);
                                row = row.wrapping_add(GROUP * down);
                            }
                        }
                        let mut values = sums;
                        for v in 0..4 {
                            values[v] = layer.requant.apply(s, lanes + v * LANES, sums[v]);
                        }
                        let bytes = s.pack_bytes(values);
                        let at = y * to.row_stride + x * n_channels + offset;
                        s.store_bytes_part(output.ptr().add(at), bytes, n);
                    }
                }
            }
        }
    }
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
