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
        // Nearly all windows have three rows and columns; their loops are written out.
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
        let PartKernel { layer, to, rows, .. } = self;
        let n_channels = layer.n_channels;
        // Neighbouring pixels share a vector where neighbours are wanted and the weights repeat: a row is one pixel then.
        let is_flat = layer.window.stride[1] == 1 && LANES.is_multiple_of(n_channels);
        let pixel_len = if is_flat { to.width * n_channels } else { n_channels };
        let (n_blocks, n_places) =
            if is_flat { (1, pixel_len.div_ceil(LANES)) } else { (n_channels.div_ceil(LANES), to.width) };
        for block in 0..n_blocks {
            let block = Block { idx: block, is_flat, pixel_len };
            for y in rows.clone() {
                let mut place = 0;
                while place < n_places {
                    // Several places at once read the weights once.
                    if const { S::FLOAT_SUMS >= 4 } && n_places >= 4 {
                        // The last ones step back.
                        self.places::<S, ROWS, COLUMNS, 4>(s, &block, y, place.min(n_places - 4));
                        place += 4;
                    } else {
                        self.places::<S, ROWS, COLUMNS, 1>(s, &block, y, place);
                        place += 1;
                    }
                }
            }
        }
    }

    /// A block of `P` places of row `y` of the output, from place `first` on.
    #[inline(always)]
    fn places<S: Simd, const ROWS: usize, const COLUMNS: usize, const P: usize>(
        &self,
        s: S,
        block: &Block,
        y: usize,
        first: usize,
    ) {
        let PartKernel { layer, image, from, to, output, .. } = self;
        let n_channels = layer.n_channels;
        let [stride_y, stride_x] = layer.window.stride;
        let n_rows = if ROWS > 0 { ROWS } else { layer.window.size[0] };
        let n_columns = if COLUMNS > 0 { COLUMNS } else { layer.window.size[1] };
        let down = layer.window.dilation[0] * from.row_stride;
        let across = layer.window.dilation[1] * n_channels;
        let block_len = n_rows * n_columns * LANES;
        let (low, high) = (s.splat(layer.range.0), s.splat(layer.range.1));
        let mut weights = layer.weights[block.idx * block_len..][..block_len].as_ptr();
        // SAFETY: `run` has checked that windows lie in the image and that it has slack for the last block of a pixel or
        // row, and that the output has room; the rows are this piece's own. Sixteen biases are readable.
        unsafe {
            let bias = s.load(layer.bias[block.idx * LANES..][..LANES].as_ptr());
            let row = image.as_ptr().add(y * stride_y * from.row_stride);
            let mut sums = [bias; P];
            for column in 0..n_columns {
                for window_row in 0..n_rows {
                    let corner = row.add(window_row * down + column * across);
                    let weight = s.load(weights);
                    for p in 0..P {
                        let value = s.load(corner.add(block.at(first + p, stride_x * n_channels)));
                        sums[p] = s.fma(value, weight, sums[p]);
                    }
                    weights = weights.add(LANES);
                }
            }
            let row = output.ptr().add(y * to.row_stride);
            for p in 0..P {
                let value = s.min(s.max(sums[p], low), high);
                let dst = row.add(block.at(first + p, n_channels));
                let n = block.n_elements(first + p);
                if n == LANES {
                    s.store(dst, value);
                } else {
                    s.store_part(dst, value, n);
                }
            }
        }
    }
}

/// Sixteen channels of pixels, or sixteen elements of flat rows.
struct Block {
    idx: usize,
    is_flat: bool,
    /// Elements of a pixel, or of a flat row.
    pixel_len: usize,
}

impl Block {
    /// Where place `place` begins in a row whose pixels are `stride` apart.
    #[inline(always)]
    fn at(&self, place: usize, stride: usize) -> usize {
        if self.is_flat {
            // The last place steps back, which keeps channels in their lanes.
            (place * LANES).min(self.pixel_len.saturating_sub(LANES))
        } else {
            place * stride + self.idx * LANES
        }
    }

    /// Elements of the output at `place`.
    #[inline(always)]
    fn n_elements(&self, place: usize) -> usize {
        let begin = if self.is_flat { self.at(place, 0) } else { self.idx * LANES };
        LANES.min(self.pixel_len - begin)
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
