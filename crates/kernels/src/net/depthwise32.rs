//! Depthwise convolution of float images: each channel with a window of its own, sixteen channels at a time. With 1,
//! 2, 4 or 8 channels a vector covers several pixels of a row, whose weights repeat.

use std::ops::Range;

use super::{Pieces, Plane, Shared, Window};
use crate::isa::{Isa, Kernel, LANES, Simd};
use crate::pool::Pool;

/// The weights of a depthwise convolution, laid out.
#[derive(Debug)]
pub struct Depthwise32 {
    window: Window,
    n_channels: usize,
    /// `[block][column][row][LANES]`, channels in order, repeated where they divide a vector. Column by column, as
    /// XNNPACK adds them up: then sums are equal to the last bit.
    weights: Vec<f32>,
    /// `[block][LANES]`, as above.
    bias: Vec<f32>,
    /// Bounds of results.
    range: (f32, f32),
}

impl Depthwise32 {
    /// Lays out `weights`, `[rows, columns, n_channels]`; `bias` is `[n_channels]`; results are kept in `range`.
    ///
    /// # Panics
    /// If lengths do not fit, or something is zero.
    pub fn new(
        window: Window,
        n_channels: usize,
        weights: &[f32],
        bias: &[f32],
        range: (f32, f32),
    ) -> Depthwise32 {
        let [rows, columns] = window.size;
        assert!(rows > 0 && columns > 0 && n_channels > 0);
        assert!(weights.len() == rows * columns * n_channels && bias.len() == n_channels);
        let repeats = LANES.is_multiple_of(n_channels);
        let n_lanes = n_channels.next_multiple_of(LANES);
        let lane = |values: &[f32], lane: usize| {
            if repeats { values[lane % n_channels] } else { values.get(lane).copied().unwrap_or(0.0) }
        };
        let mut packed = Vec::with_capacity(n_lanes * rows * columns);
        for block in (0..n_lanes).step_by(LANES) {
            for position in 0..rows * columns {
                let (column, row) = (position / rows, position % rows);
                let weights = &weights[(row * columns + column) * n_channels..][..n_channels];
                packed.extend((block..block + LANES).map(|i| lane(weights, i)));
            }
        }
        let bias = (0..n_lanes).map(|i| lane(bias, i)).collect();
        Depthwise32 { window, n_channels, weights: packed, bias, range }
    }

    /// Bytes that the weights take, laid out.
    pub fn weight_bytes(window: Window, n_channels: usize) -> usize {
        n_channels.next_multiple_of(LANES) * window.size[0] * window.size[1] * size_of::<f32>()
    }

    /// Convolves `image`.
    ///
    /// # Panics
    /// If shapes do not fit, or the image has no slack behind it.
    pub fn run(&self, pool: &mut Pool, isa: Isa, image: (&[f32], Plane), output: (&mut [f32], Plane)) {
        let ((image, from), (output, to)) = (image, output);
        assert!(from.channels == self.n_channels && to.channels == self.n_channels);
        self.window.check((image.len(), from), (output.len(), to));
        let pieces = Pieces::new(pool.n_threads(), to.height);
        let output = Shared(output.as_mut_ptr());
        pool.run(pieces.n_pieces, |_, piece| {
            isa.run(PartKernel { layer: self, image, from, to, output: &output, rows: pieces.units(piece) });
        });
    }
}

/// Some rows of the output.
struct PartKernel<'a> {
    layer: &'a Depthwise32,
    image: &'a [f32],
    from: Plane,
    to: Plane,
    output: &'a Shared<f32>,
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
        let PartKernel { layer, image, from, to, output, rows } = self;
        let n_channels = layer.n_channels;
        let [stride_y, stride_x] = layer.window.stride;
        let n_rows = if ROWS > 0 { ROWS } else { layer.window.size[0] };
        let n_columns = if COLUMNS > 0 { COLUMNS } else { layer.window.size[1] };
        let down = layer.window.dilation[0] * from.row_stride;
        let across = layer.window.dilation[1] * n_channels;
        let block_len = n_rows * n_columns * LANES;
        let (low, high) = (s.splat(layer.range.0), s.splat(layer.range.1));
        // Neighbouring pixels share a vector where neighbours are wanted and the weights repeat.
        let is_flat = stride_x == 1 && LANES.is_multiple_of(n_channels);
        let (n_pixels, pixel_len) = if is_flat { (1, to.width * n_channels) } else { (to.width, n_channels) };
        for block in 0..pixel_len.div_ceil(LANES) {
            // A flat row has one block of weights; its last block steps back, which keeps channels in their lanes.
            let weight_block = if is_flat { 0 } else { block };
            let offset =
                if is_flat { (block * LANES).min(pixel_len.saturating_sub(LANES)) } else { block * LANES };
            let n = LANES.min(pixel_len - offset);
            let weights = layer.weights[weight_block * block_len..][..block_len].as_ptr();
            // SAFETY: sixteen elements are readable.
            let bias = unsafe { s.load(layer.bias[weight_block * LANES..][..LANES].as_ptr()) };
            for y in rows.clone() {
                for x in 0..n_pixels {
                    // SAFETY: `run` has checked that windows lie in the image and that it has slack for the last
                    // block of a pixel or row, and that the output has room; the rows are this piece's own.
                    unsafe {
                        let corner =
                            image.as_ptr().add(y * stride_y * from.row_stride + x * stride_x * n_channels);
                        let corner = corner.add(offset);
                        let mut sum = bias;
                        let mut weights = weights;
                        for column in 0..n_columns {
                            for row in 0..n_rows {
                                let value = s.load(corner.add(row * down + column * across));
                                sum = s.fma(value, s.load(weights), sum);
                                weights = weights.add(LANES);
                            }
                        }
                        let value = s.min(s.max(sum, low), high);
                        let dst = output.ptr().add(y * to.row_stride + x * n_channels + offset);
                        if n == LANES {
                            s.store(dst, value);
                        } else {
                            s.store_part(dst, value, n);
                        }
                    }
                }
            }
        }
    }
}

/// The same in plain loops, summed in `f64`: `[rows, columns, n_channels]` of the positions, before bounds.
pub fn depthwise32_ref(window: Window, weights: &[f32], bias: &[f32], image: (&[f32], Plane)) -> Vec<f64> {
    let (image, plane) = image;
    let [rows, columns] = window.positions([plane.height, plane.width]);
    let n_channels = plane.channels;
    let mut sums = Vec::with_capacity(rows * columns * n_channels);
    for (y, x) in (0..rows * columns).map(|i| (i / columns, i % columns)) {
        for (channel, bias) in bias.iter().enumerate() {
            let mut sum = f64::from(*bias);
            for (row, column) in
                (0..window.size[0] * window.size[1]).map(|i| (i / window.size[1], i % window.size[1]))
            {
                let at = (y * window.stride[0] + row * window.dilation[0]) * plane.row_stride
                    + (x * window.stride[1] + column * window.dilation[1]) * n_channels;
                let weight = weights[(row * window.size[1] + column) * n_channels + channel];
                sum += f64::from(weight) * f64::from(image[at + channel]);
            }
            sums.push(sum);
        }
    }
    sums
}
