//! Weights onto the grid of a block format, so that the matrix's output changes as little as possible.
//!
//! For a row w that becomes q the loss is (w - q) H (w - q)^T, with H the second moments of the inputs
//! ([`crate::hessian`]). Three steps, on strips of thirty-two rows side by side:
//!
//! 1. Column after column from the left, each weight is rounded after the errors of those before it have been made
//!    good ("LDLQ", see there). At the beginning of each block its scale is chosen: every candidate is tried with the
//!    rounding of the whole block, and what costs least is kept.
//! 2. Sweeps of coordinate descent: each weight moves to the value that is best given all others (as in QuantEase,
//!    Behdin et al. 2023, arXiv:2309.01885), and
//! 3. each block's scale, and minimum, to what is best given all codes, by least squares.
//!
//! The loss never rises in 2 and 3 but by rounding errors. Scales are always what the format can hold.

use std::sync::Mutex;

use edgeward_kernels::block::{Block, Shape, shape};
use edgeward_kernels::{DType, Isa, Pool, Vectorized};
use half::f16;

use crate::hessian::Factor;

/// Rows that are rounded side by side.
const ROWS: usize = 32;
/// Weights that share a scale.
const BLOCK: usize = 32;
/// Columns whose sums are in registers at once.
const COLS_AT_ONCE: usize = 4;

/// One number for each row of a strip.
type Lane = [f32; ROWS];

/// How much care is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Sweeps of coordinate descent.
    pub n_sweeps: usize,
    /// Scales that each block tries, each twice: at most 8.
    pub n_shrinks: usize,
}

impl Effort {
    /// Enough to compare types with each other.
    pub const QUICK: Effort = Effort { n_sweeps: 0, n_shrinks: 3 };
}

impl Default for Effort {
    /// The fourth sweep of SmolLM2's matrices still gains one part in a hundred, the fifth hardly anything.
    fn default() -> Effort {
        Effort { n_sweeps: 4, n_shrinks: SHRINKS.len() }
    }
}

/// A matrix in a block format.
#[derive(Clone, Debug)]
pub struct Rounded {
    /// Its blocks, row after row.
    pub bytes: Vec<u8>,
    /// (w - q) H (w - q)^T, summed over the rows.
    pub loss: f64,
}

/// The formats that [`round`] rounds to: those with one level of scales.
pub const FORMATS: [DType; 11] = [
    DType::Q4_0,
    DType::IQ4_NL,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::EW2,
    DType::EW3,
    DType::EW4,
    DType::EW5,
    DType::EW6,
];

/// Rounds `weights`, `[n_rows, factor.n_cols()]`, to `dtype`.
///
/// # Panics
/// If the type is none of [`FORMATS`], or the number of columns is no multiple of 32.
pub fn round(
    pool: &mut Pool,
    isa: Isa,
    dtype: DType,
    weights: &[f32],
    factor: &Factor,
    effort: Effort,
) -> Rounded {
    assert!(FORMATS.contains(&dtype), "{dtype} is no format that can be rounded to");
    let n_cols = factor.n_cols();
    assert!(n_cols.is_multiple_of(BLOCK) && weights.len().is_multiple_of(n_cols), "rows are whole blocks");
    let row_bytes = dtype.row_bytes(n_cols).expect("rows are whole blocks");
    let n_rows = weights.len() / n_cols;
    let mut bytes = vec![0; n_rows * row_bytes];
    let strips: Vec<Mutex<(&mut [u8], f64)>> =
        bytes.chunks_mut(ROWS * row_bytes).map(|bytes| Mutex::new((bytes, 0.0))).collect();
    pool.run(strips.len(), |_, i| {
        let mut strip = strips[i].lock().unwrap_or_else(|e| e.into_inner());
        let rows = &weights[i * ROWS * n_cols..][..strip.0.len() / row_bytes * n_cols];
        let shape = shape(dtype);
        let done = match shape.table.len() {
            0 => {
                let levels = Uniform {
                    // One code less than there is, so that the largest magnitudes are the same on both sides.
                    low: if shape.bits == 8 { -127.0 } else { -(shape.zero as f32) },
                    high: ((1 << shape.bits) - 1 - shape.zero) as f32,
                };
                isa.vectorize(RoundStrip { levels, rows, factor, effort, shape })
            }
            4 => isa.vectorize(RoundStrip { levels: Table::<4>::of(shape), rows, factor, effort, shape }),
            8 => isa.vectorize(RoundStrip { levels: Table::<8>::of(shape), rows, factor, effort, shape }),
            16 => isa.vectorize(RoundStrip { levels: Table::<16>::of(shape), rows, factor, effort, shape }),
            _ => isa.vectorize(RoundStrip { levels: Table::<32>::of(shape), rows, factor, effort, shape }),
        };
        for (row_idx, row) in strip.0.chunks_exact_mut(row_bytes).enumerate() {
            for (block_idx, out) in row.chunks_exact_mut(dtype.block_bytes()).enumerate() {
                done.block(shape, row_idx, block_idx).write(dtype, out);
            }
        }
        strip.1 = done.loss;
    });
    let loss = strips.iter().map(|strip| strip.lock().unwrap_or_else(|e| e.into_inner()).1).sum();
    drop(strips);
    Rounded { bytes, loss }
}

/// Weights in Q8_0, each to the nearest: `max |w| / 127` is the scale of 32.
///
/// # Panics
/// If their number is no multiple of 32.
pub fn to_eight_bits(weights: &[f32]) -> Vec<u8> {
    let (blocks, rest) = weights.as_chunks::<BLOCK>();
    assert!(rest.is_empty(), "whole blocks");
    let mut bytes = Vec::with_capacity(blocks.len() * DType::Q8_0.block_bytes());
    for block in blocks {
        let largest = block.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        let d = f16::from_f32(largest / 127.0);
        let inverse = if d.to_f32() > 0.0 { 1.0 / d.to_f32() } else { 0.0 };
        bytes.extend(d.to_le_bytes());
        bytes.extend(block.iter().map(|w| (w * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8));
    }
    bytes
}

/// The values that codes stand for, before scale and minimum.
trait Levels: Copy {
    /// The smallest.
    fn low(self) -> f32;
    /// The largest.
    fn high(self) -> f32;
    /// The nearest to `x`.
    fn nearest(self, x: f32) -> f32;
}

/// Whole numbers.
#[derive(Clone, Copy)]
struct Uniform {
    low: f32,
    high: f32,
}

impl Levels for Uniform {
    #[inline(always)]
    fn low(self) -> f32 {
        self.low
    }
    #[inline(always)]
    fn high(self) -> f32 {
        self.high
    }
    #[inline(always)]
    fn nearest(self, x: f32) -> f32 {
        // Added and subtracted, 1.5 * 2^23 leaves the nearest integer.
        const ROUND: f32 = 12_582_912.0;
        let x = if x < self.low { self.low } else { x };
        let x = if x > self.high { self.high } else { x };
        (x + ROUND) - ROUND
    }
}

/// Uneven values, ascending.
#[derive(Clone, Copy)]
struct Table<const N: usize> {
    values: [f32; N],
    /// Between each value and the one below.
    middles: [f32; N],
}

impl<const N: usize> Table<N> {
    fn of(shape: Shape) -> Table<N> {
        let values: [f32; N] = std::array::from_fn(|i| f32::from(shape.table[i]));
        Table { values, middles: std::array::from_fn(|i| (values[i.saturating_sub(1)] + values[i]) / 2.0) }
    }
}

impl<const N: usize> Levels for Table<N> {
    #[inline(always)]
    fn low(self) -> f32 {
        self.values[0]
    }
    #[inline(always)]
    fn high(self) -> f32 {
        self.values[N - 1]
    }
    #[inline(always)]
    fn nearest(self, x: f32) -> f32 {
        let mut value = self.values[0];
        for i in 1..N {
            value = if x > self.middles[i] { self.values[i] } else { value };
        }
        value
    }
}

/// Scale and minimum of one block in each row.
#[derive(Clone, Copy)]
struct Scales {
    d: Lane,
    m: Lane,
    /// 1 / d, or 0.
    inverse: Lane,
}

impl Scales {
    const ZERO: Scales = Scales { d: [0.0; ROWS], m: [0.0; ROWS], inverse: [0.0; ROWS] };

    /// With what the format can hold.
    #[inline(always)]
    fn new(shape: Shape, d: &Lane, m: &Lane) -> Scales {
        let mut scales = Scales::ZERO;
        for l in 0..ROWS {
            scales.d[l] = shape.nearest_scale(d[l]);
            scales.m[l] = shape.nearest_scale(m[l]);
            scales.inverse[l] = if scales.d[l] == 0.0 { 0.0 } else { 1.0 / scales.d[l] };
        }
        scales
    }
}

/// A strip of rows, rounded.
struct Strip {
    /// Of each block.
    scales: Vec<Scales>,
    /// What the codes stand for, before scale and minimum, of each column.
    levels: Vec<Lane>,
    loss: f64,
}

impl Strip {
    /// One row's block, ready to be written.
    fn block(&self, shape: Shape, row: usize, block_idx: usize) -> Block {
        let scales = &self.scales[block_idx];
        let m = if shape.has_min { f16::from_f32(scales.m[row]).to_bits() } else { 0 };
        let mut block = Block { d: f16::from_f32(scales.d[row]).to_bits(), m, ..Block::ZERO };
        for (i, levels) in self.levels[block_idx * BLOCK..][..BLOCK].iter().enumerate() {
            block.put_code(i, shape.code(levels[row]).expect("levels are the format's"));
        }
        block
    }
}

struct RoundStrip<'a, L> {
    levels: L,
    /// Up to [`ROWS`] rows.
    rows: &'a [f32],
    factor: &'a Factor,
    effort: Effort,
    shape: Shape,
}

impl<L: Levels> Vectorized for RoundStrip<'_, L> {
    type Output = Strip;
    #[inline(always)]
    fn run(self) -> Strip {
        let RoundStrip { levels, rows, factor, effort, shape } = self;
        let n_cols = factor.n_cols();
        // Columns of lanes, rows that are not there being zeros.
        let mut weights = vec![[0.0; ROWS]; n_cols];
        for (l, row) in rows.chunks_exact(n_cols).enumerate() {
            for (lane, w) in weights.iter_mut().zip(row) {
                lane[l] = *w;
            }
        }
        let mut work = Work {
            levels,
            shape,
            n_shrinks: effort.n_shrinks,
            factor,
            strip: Strip { scales: Vec::new(), levels: vec![[0.0; ROWS]; n_cols], loss: 0.0 },
            errors: vec![[0.0; ROWS]; n_cols],
        };
        work.round_in_order(&weights);
        let mut gradient = work.gradient();
        for _ in 0..effort.n_sweeps {
            work.sweep(&mut gradient);
        }
        // Sums of what the sweeps changed carry their rounding errors: the loss is taken afresh.
        let gradient = work.gradient();
        work.strip.loss = work.errors.iter().zip(&gradient).map(|(e, g)| dot(e, g)).sum();
        work.strip
    }
}

#[inline(always)]
fn dot(a: &Lane, b: &Lane) -> f64 {
    let mut sum = 0.0;
    for l in 0..ROWS {
        sum += f64::from(a[l]) * f64::from(b[l]);
    }
    sum
}

/// A strip in the making.
struct Work<'a, L> {
    levels: L,
    shape: Shape,
    n_shrinks: usize,
    factor: &'a Factor,
    strip: Strip,
    /// w - q, of each column.
    errors: Vec<Lane>,
}

impl<L: Levels> Work<'_, L> {
    /// Step 1: rounds from left to right and chooses the scales.
    #[inline(always)]
    fn round_in_order(&mut self, weights: &[Lane]) {
        let n_cols = weights.len();
        // Weights, with the errors before them made good.
        let mut targets = weights.to_vec();
        for start in (0..n_cols).step_by(BLOCK) {
            let block = InOrder::new(self.levels, self.factor, start, &weights[start..], &targets[start..]);
            let scales = block.best_scales(self.shape, self.n_shrinks);
            let (q, _) = block.round(&scales);
            for i in 0..BLOCK {
                for l in 0..ROWS {
                    self.strip.levels[start + i][l] = q[i][l];
                    let value = q[i][l].mul_add(scales.d[l], scales.m[l]);
                    self.errors[start + i][l] = weights[start + i][l] - value;
                }
            }
            self.strip.scales.push(scales);
            let errors = &self.errors[start..start + BLOCK];
            add_products(errors, &self.factor.unit_upper, n_cols, start, start + BLOCK..n_cols, &mut targets);
        }
    }

    /// errors * H: half the gradient of the loss with respect to the errors.
    #[inline(always)]
    fn gradient(&self) -> Vec<Lane> {
        let n_cols = self.errors.len();
        let mut gradient = vec![[0.0; ROWS]; n_cols];
        for start in (0..n_cols).step_by(BLOCK) {
            let errors = &self.errors[start..start + BLOCK];
            add_products(errors, &self.factor.hessian, n_cols, start, 0..n_cols, &mut gradient);
        }
        gradient
    }

    /// Steps 2 and 3, once over all blocks.
    #[inline(always)]
    fn sweep(&mut self, gradient: &mut [Lane]) {
        let n_cols = self.errors.len();
        for (block_idx, start) in (0..n_cols).step_by(BLOCK).enumerate() {
            let cols = start..start + BLOCK;
            let mut h = [[0.0f32; BLOCK]; BLOCK];
            for (i, h) in h.iter_mut().enumerate() {
                h.copy_from_slice(&self.factor.hessian[(start + i) * n_cols + start..][..BLOCK]);
            }
            let before: [Lane; BLOCK] = std::array::from_fn(|i| self.errors[start + i]);
            let mut g: [Lane; BLOCK] = std::array::from_fn(|i| gradient[start + i]);
            let mut e = before;
            let levels: &mut [Lane; BLOCK] =
                (&mut self.strip.levels[cols.clone()]).try_into().expect("a block's columns");
            let scales = &mut self.strip.scales[block_idx];
            refit(&h, levels, scales, &mut e, &mut g, self.shape);
            move_codes(self.levels, &h, levels, scales, &mut e, &mut g);

            self.errors[cols.clone()].copy_from_slice(&e);
            let mut change = [[0.0f32; ROWS]; BLOCK];
            let mut is_changed = false;
            for i in 0..BLOCK {
                for l in 0..ROWS {
                    change[i][l] = e[i][l] - before[i][l];
                    is_changed |= change[i][l] != 0.0;
                }
            }
            if is_changed {
                add_products(&change, &self.factor.hessian, n_cols, start, 0..n_cols, gradient);
            }
        }
    }
}

/// sums[j] += the products of a block of lanes with rows `first_row..` of a matrix, for columns j of `cols`.
#[inline(always)]
fn add_products(
    lanes: &[Lane],
    matrix: &[f32],
    n_cols: usize,
    first_row: usize,
    cols: std::ops::Range<usize>,
    sums: &mut [Lane],
) {
    for col in cols.step_by(COLS_AT_ONCE) {
        let out: &mut [Lane; COLS_AT_ONCE] = sums[col..].first_chunk_mut().expect("columns are whole blocks");
        let mut acc = *out;
        for (i, lane) in lanes.iter().enumerate() {
            let factors: &[f32; COLS_AT_ONCE] =
                matrix[(first_row + i) * n_cols + col..].first_chunk().expect("columns are whole blocks");
            for c in 0..COLS_AT_ONCE {
                for l in 0..ROWS {
                    acc[c][l] = lane[l].mul_add(factors[c], acc[c][l]);
                }
            }
        }
        *out = acc;
    }
}

/// Step 3 for one block: the scale (and minimum) that is best given the codes.
#[inline(always)]
fn refit(
    h: &[[f32; BLOCK]; BLOCK],
    levels: &[Lane; BLOCK],
    scales: &mut Scales,
    e: &mut [Lane; BLOCK],
    g: &mut [Lane; BLOCK],
    shape: Shape,
) {
    // Moving d by a and m by b changes the loss by -2 a gl - 2 b g1 + a^2 hll + 2 a b hl1 + b^2 h11.
    let (mut gl, mut g1, mut hll, mut hl1) = ([0.0f32; ROWS], [0.0f32; ROWS], [0.0f32; ROWS], [0.0f32; ROWS]);
    let mut h11 = 0.0f32;
    for i in 0..BLOCK {
        let mut hl = [0.0f32; ROWS];
        let mut h1 = 0.0;
        for j in 0..BLOCK {
            h1 += h[i][j];
            for l in 0..ROWS {
                hl[l] = levels[j][l].mul_add(h[i][j], hl[l]);
            }
        }
        h11 += h1;
        for l in 0..ROWS {
            gl[l] = g[i][l].mul_add(levels[i][l], gl[l]);
            g1[l] += g[i][l];
            hll[l] = hl[l].mul_add(levels[i][l], hll[l]);
            hl1[l] = h1.mul_add(levels[i][l], hl1[l]);
        }
    }
    let (mut d, mut m) = (scales.d, scales.m);
    for l in 0..ROWS {
        let determinant = hll[l] * h11 - hl1[l] * hl1[l];
        // With all codes alike scale and minimum do the same: then the minimum stays.
        if shape.has_min && determinant > 1e-4 * hll[l] * h11 {
            d[l] += (gl[l] * h11 - g1[l] * hl1[l]) / determinant;
            m[l] += (g1[l] * hll[l] - gl[l] * hl1[l]) / determinant;
        } else if hll[l] > 0.0 {
            d[l] += gl[l] / hll[l];
        }
    }
    let new = Scales::new(shape, &d, &m);
    let (mut a, mut b) = ([0.0f32; ROWS], [0.0f32; ROWS]);
    for l in 0..ROWS {
        let (da, db) = (new.d[l] - scales.d[l], new.m[l] - scales.m[l]);
        let gain =
            2.0 * (da * gl[l] + db * g1[l]) - da * da * hll[l] - 2.0 * da * db * hl1[l] - db * db * h11;
        // A scale of zero would be for ever.
        if gain > 0.0 && new.d[l] != 0.0 {
            (a[l], b[l]) = (da, db);
            (scales.d[l], scales.m[l], scales.inverse[l]) = (new.d[l], new.m[l], new.inverse[l]);
        }
    }
    let mut change = [[0.0f32; ROWS]; BLOCK];
    for i in 0..BLOCK {
        for l in 0..ROWS {
            change[i][l] = -a[l].mul_add(levels[i][l], b[l]);
            e[i][l] += change[i][l];
        }
    }
    for i in 0..BLOCK {
        for j in 0..BLOCK {
            for l in 0..ROWS {
                g[i][l] = change[j][l].mul_add(h[i][j], g[i][l]);
            }
        }
    }
}

/// Step 2 for one block: each code to what is best given all others.
#[inline(always)]
fn move_codes<L: Levels>(
    grid: L,
    h: &[[f32; BLOCK]; BLOCK],
    levels: &mut [Lane; BLOCK],
    scales: &Scales,
    e: &mut [Lane; BLOCK],
    g: &mut [Lane; BLOCK],
) {
    for i in 0..BLOCK {
        let inverse_h = 1.0 / h[i][i];
        let mut change = [0.0f32; ROWS];
        for l in 0..ROWS {
            // The level at which this column's gradient would be zero.
            let best = (g[i][l] * inverse_h).mul_add(scales.inverse[l], levels[i][l]);
            let level = grid.nearest(best);
            change[l] = (levels[i][l] - level) * scales.d[l];
            levels[i][l] = level;
            e[i][l] += change[l];
        }
        for j in 0..BLOCK {
            for l in 0..ROWS {
                g[j][l] = change[l].mul_add(h[i][j], g[j][l]);
            }
        }
    }
}

/// One block, to be rounded from left to right with any scales.
struct InOrder<'a, L> {
    grid: L,
    weights: &'a [Lane; BLOCK],
    /// Weights, with the errors before this block made good.
    targets: &'a [Lane; BLOCK],
    /// The block of M transposed: what column j takes of the errors of the columns before it.
    feedback: [[f32; BLOCK]; BLOCK],
    diagonal: &'a [f32; BLOCK],
}

impl<'a, L: Levels> InOrder<'a, L> {
    #[inline(always)]
    fn new(
        grid: L,
        factor: &'a Factor,
        start: usize,
        weights: &'a [Lane],
        targets: &'a [Lane],
    ) -> InOrder<'a, L> {
        let n_cols = factor.n_cols();
        let mut feedback = [[0.0; BLOCK]; BLOCK];
        for (k, j) in (0..BLOCK).flat_map(|j| (0..j).map(move |k| (k, j))) {
            feedback[j][k] = factor.unit_upper[(start + k) * n_cols + start + j];
        }
        InOrder {
            grid,
            weights: weights.first_chunk().expect("columns are whole blocks"),
            targets: targets.first_chunk().expect("columns are whole blocks"),
            feedback,
            diagonal: factor.diagonal[start..].first_chunk().expect("columns are whole blocks"),
        }
    }

    /// The levels of the block under these scales, and what they cost.
    #[inline(always)]
    fn round(&self, scales: &Scales) -> ([Lane; BLOCK], Lane) {
        let mut levels = [[0.0f32; ROWS]; BLOCK];
        let mut errors = [[0.0f32; ROWS]; BLOCK];
        let mut loss = [0.0f32; ROWS];
        for j in 0..BLOCK {
            let mut target = self.targets[j];
            for (error, feedback) in errors.iter().zip(&self.feedback[j]).take(j) {
                for l in 0..ROWS {
                    target[l] = error[l].mul_add(*feedback, target[l]);
                }
            }
            for l in 0..ROWS {
                let level = self.grid.nearest((target[l] - scales.m[l]) * scales.inverse[l]);
                let value = level.mul_add(scales.d[l], scales.m[l]);
                levels[j][l] = level;
                errors[j][l] = self.weights[j][l] - value;
                let missed = target[l] - value;
                loss[l] = (missed * missed).mul_add(self.diagonal[j], loss[l]);
            }
        }
        (levels, loss)
    }

    /// The best of the candidates, row by row.
    #[inline(always)]
    fn best_scales(&self, shape: Shape, n_shrinks: usize) -> Scales {
        let (low, high) = (self.grid.low(), self.grid.high());
        let (mut min, mut max) = ([f32::INFINITY; ROWS], [f32::NEG_INFINITY; ROWS]);
        for target in self.targets {
            for l in 0..ROWS {
                min[l] = if target[l] < min[l] { target[l] } else { min[l] };
                max[l] = if target[l] > max[l] { target[l] } else { max[l] };
            }
        }
        let mut best = Scales::ZERO;
        let mut best_loss = [f32::INFINITY; ROWS];
        // With 255 levels there is nothing to be gained by cutting.
        let shrinks =
            if high - low == 254.0 { &[1.0][..] } else { &SHRINKS[..n_shrinks.clamp(1, SHRINKS.len())] };
        for shrink in shrinks {
            for turn in 0..2 {
                let (mut d, mut m) = ([0.0; ROWS], [0.0; ROWS]);
                for l in 0..ROWS {
                    if shape.has_min {
                        // Around the middle of the range, or from its lower end, where the weights may lie denser.
                        d[l] = (max[l] - min[l]) / (high - low) * shrink;
                        m[l] = if turn == 0 { (max[l] + min[l] - d[l] * (high + low)) * 0.5 } else { min[l] };
                    } else {
                        // The weight of the largest magnitude goes to the one end of the levels or to the other.
                        let extreme = if max[l] > -min[l] { max[l] } else { min[l] };
                        d[l] = extreme / if turn == 0 { low } else { high } * shrink;
                    }
                }
                let scales = Scales::new(shape, &d, &m);
                let (_, loss) = self.round(&scales);
                for l in 0..ROWS {
                    if loss[l] < best_loss[l] {
                        best_loss[l] = loss[l];
                        best.d[l] = scales.d[l];
                        best.m[l] = scales.m[l];
                        best.inverse[l] = scales.inverse[l];
                    }
                }
            }
        }
        best
    }
}

/// Parts of the range that the levels span: what lies beyond is cut, what lies within is finer. The likeliest first.
const SHRINKS: [f32; 8] = [0.96, 0.88, 1.0, 0.8, 0.92, 0.84, 0.75, 0.7];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hessian::Hessian;
    use crate::hessian::tests::inputs;
    use edgeward_kernels::dequantize;

    fn hessian(n_cols: usize) -> Vec<f64> {
        let mut hessian = Hessian::new(n_cols);
        hessian.add(&mut Pool::new(1), Isa::best(), &inputs(500, n_cols));
        hessian.damped(0.01)
    }

    fn factor(n_cols: usize) -> Factor {
        Factor::new(&mut Pool::new(1), Isa::best(), &hessian(n_cols), n_cols).unwrap()
    }

    fn weights(n_rows: usize, n_cols: usize) -> Vec<f32> {
        inputs(n_rows, n_cols).iter().map(|x| x * 0.01).collect()
    }

    /// (w - q) H (w - q)^T from the definition.
    fn loss_ref(weights: &[f32], values: &[f32], h: &[f64], n_cols: usize) -> f64 {
        let rows = weights.chunks(n_cols).zip(values.chunks(n_cols));
        rows.map(|(w, q)| {
            let e: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(*w) - f64::from(*q)).collect();
            (0..n_cols)
                .map(|i| (0..n_cols).map(|j| e[i] * h[i * n_cols + j] * e[j]).sum::<f64>())
                .sum::<f64>()
        })
        .sum()
    }

    fn values(dtype: DType, rounded: &Rounded, n: usize) -> Vec<f32> {
        let mut values = vec![0.0; n];
        dequantize(dtype, &rounded.bytes, &mut values);
        values
    }

    /// GPTQ as its paper has it, in double precision: the inverse of H, its upper Cholesky factor, and after each
    /// column all later ones move against the error. `quantize(column, weight)` is the grid.
    fn gptq_ref(row: &[f32], h: &[f64], n: usize, quantize: impl Fn(usize, f64) -> f64) -> Vec<f64> {
        // Gauss-Jordan.
        let mut a = h.to_vec();
        let mut inverse: Vec<f64> = (0..n * n).map(|i| f64::from(u8::from(i % (n + 1) == 0))).collect();
        for p in 0..n {
            let pivot = a[p * n + p];
            for j in 0..n {
                a[p * n + j] /= pivot;
                inverse[p * n + j] /= pivot;
            }
            for i in (0..n).filter(|i| *i != p) {
                let factor = a[i * n + p];
                for j in 0..n {
                    a[i * n + j] -= factor * a[p * n + j];
                    inverse[i * n + j] -= factor * inverse[p * n + j];
                }
            }
        }
        // inverse = U^T U, U upper triangular.
        let mut u = vec![0.0; n * n];
        for i in 0..n {
            for j in i..n {
                let sum: f64 = (0..i).map(|k| u[k * n + i] * u[k * n + j]).sum();
                let rest = inverse[i * n + j] - sum;
                u[i * n + j] = if i == j { rest.sqrt() } else { rest / u[i * n + i] };
            }
        }
        let mut w: Vec<f64> = row.iter().map(|w| f64::from(*w)).collect();
        for j in 0..n {
            let q = quantize(j, w[j]);
            let error = (w[j] - q) / u[j * n + j];
            w[j] = q;
            for k in j + 1..n {
                w[k] -= error * u[j * n + k];
            }
        }
        w
    }

    #[test]
    fn rounding_in_order_is_gptq() {
        let n_cols = 96;
        let (h, factor) = (hessian(n_cols), factor(n_cols));
        let weights = weights(40, n_cols);
        for dtype in [DType::Q4_0, DType::Q5_1, DType::IQ4_NL, DType::EW3] {
            let effort = Effort { n_sweeps: 0, ..Effort::default() };
            let rounded = round(&mut Pool::new(2), Isa::best(), dtype, &weights, &factor, effort);
            let values = values(dtype, &rounded, weights.len());
            let row_bytes = dtype.row_bytes(n_cols).unwrap();
            let shape = shape(dtype);
            let (mut n_other, mut loss) = (0, 0.0);
            for (i, row) in weights.chunks(n_cols).enumerate() {
                // Under the scales that were chosen.
                let blocks: Vec<Block> = rounded.bytes[i * row_bytes..][..row_bytes]
                    .chunks(dtype.block_bytes())
                    .map(|bytes| Block::parse(dtype, bytes))
                    .collect();
                let grid = |col: usize, w: f64| -> f64 {
                    let block = &blocks[col / BLOCK];
                    let (d, m) = (f64::from(f16::from_bits(block.d)), f64::from(f16::from_bits(block.m)));
                    let values =
                        (0..1u16 << shape.bits).map(|code| d * f64::from(shape.level(code as u8)) + m);
                    values.min_by(|a, b| (a - w).abs().total_cmp(&(b - w).abs())).unwrap()
                };
                let expected: Vec<f32> = gptq_ref(row, &h, n_cols, grid).iter().map(|q| *q as f32).collect();
                let got = &values[i * n_cols..][..n_cols];
                // A tie that single precision breaks otherwise changes what comes after it in the row.
                n_other += usize::from(got.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-6));
                loss += loss_ref(row, &expected, &h, n_cols);
            }
            assert!(n_other <= 2, "{dtype}: {n_other} rows differ from the reference");
            assert!((rounded.loss - loss).abs() < 0.01 * loss, "{dtype}: {} and {loss}", rounded.loss);
        }
    }

    #[test]
    fn every_step_pays_and_the_loss_is_what_it_says() {
        let (n_rows, n_cols) = (70, 160);
        let (h, factor) = (hessian(n_cols), factor(n_cols));
        let identity = {
            let identity: Vec<f64> =
                (0..n_cols * n_cols).map(|i| f64::from(u8::from(i % (n_cols + 1) == 0))).collect();
            Factor::new(&mut Pool::new(1), Isa::best(), &identity, n_cols).unwrap()
        };
        let weights = weights(n_rows, n_cols);
        let pool = &mut Pool::new(2);
        for dtype in FORMATS {
            let mut rounded = |factor: &Factor, n_sweeps| {
                round(pool, Isa::best(), dtype, &weights, factor, Effort { n_sweeps, ..Effort::default() })
            };
            let (plain, ordered, swept) = (rounded(&identity, 0), rounded(&factor, 0), rounded(&factor, 4));
            let loss =
                |rounded: &Rounded| loss_ref(&weights, &values(dtype, rounded, weights.len()), &h, n_cols);
            for rounded in [&ordered, &swept] {
                let want = loss(rounded);
                assert!((rounded.loss - want).abs() < 1e-3 * want, "{dtype}: {} and {want}", rounded.loss);
            }
            assert!(ordered.loss < 0.8 * loss(&plain), "{dtype}: {} and {}", ordered.loss, loss(&plain));
            assert!(swept.loss < ordered.loss, "{dtype}: {} and {}", swept.loss, ordered.loss);
        }
    }

    #[test]
    fn instruction_sets_and_threads_agree() {
        let (n_rows, n_cols) = (33, 64);
        let (factor, weights) = (factor(n_cols), weights(n_rows, n_cols));
        for dtype in [DType::Q4_1, DType::IQ4_NL, DType::EW5] {
            let results: Vec<Vec<u8>> = Isa::available()
                .into_iter()
                .flat_map(|isa| [1, 3].map(|n_threads| (isa, n_threads)))
                .map(|(isa, n_threads)| {
                    round(&mut Pool::new(n_threads), isa, dtype, &weights, &factor, Effort::default()).bytes
                })
                .collect();
            assert!(results.iter().all(|bytes| *bytes == results[0]), "{dtype}");
        }
    }

    #[test]
    fn each_bit_more_makes_the_error_smaller() {
        let n_cols = 160;
        let (factor, weights) = (factor(n_cols), weights(64, n_cols));
        let loss =
            |dtype| round(&mut Pool::new(2), Isa::best(), dtype, &weights, &factor, Effort::QUICK).loss;
        let losses = [DType::Q4_0, DType::Q5_0, DType::Q8_0].map(loss);
        assert!(losses[0] > 2.5 * losses[1] && losses[1] > 30.0 * losses[2], "{losses:?}");
    }

    #[test]
    fn eight_bits_are_near() {
        let weights = weights(4, 64);
        let bytes = to_eight_bits(&weights);
        let mut values = vec![0.0; weights.len()];
        dequantize(DType::Q8_0, &bytes, &mut values);
        for (weights, values) in weights.chunks(32).zip(values.chunks(32)) {
            let largest = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
            // Half a step, and the scale's own rounding.
            assert!(
                weights.iter().zip(values).all(|(w, v)| (w - v).abs() <= largest * (0.5 / 127.0 + 0.0005))
            );
        }
        assert_eq!(to_eight_bits(&[0.0; 32])[..2], [0, 0]);
    }

    #[test]
    fn zeros_and_extremes_survive() {
        let n_cols = 32;
        let factor = factor(n_cols);
        let mut weights = vec![0.0f32; 3 * n_cols];
        weights[n_cols..2 * n_cols].fill(1.5);
        weights[2 * n_cols] = 1e9;
        for dtype in FORMATS {
            let rounded = round(&mut Pool::new(1), Isa::best(), dtype, &weights, &factor, Effort::default());
            let values = values(dtype, &rounded, weights.len());
            assert!(values.iter().all(|v| v.is_finite()), "{dtype}");
            assert!(values[..n_cols].iter().all(|v| *v == 0.0), "{dtype}: zeros stay zeros");
            assert!(values[n_cols..2 * n_cols].iter().all(|v| (v - 1.5).abs() < 0.02), "{dtype}");
        }
    }
}
