//! Second moments of a matrix's inputs, and what rounding needs of them.
//!
//! When a row w of a matrix becomes q, its output on inputs x changes by (w - q) x, in the mean of the squares by
//! (w - q) H (w - q)^T with H the mean of x x^T: the Hessian of the layer's squared error. H is summed in double
//! precision from single-precision products of a few hundred rows.
//!
//! [`Factor`] is H = M D M^T with M unit upper triangular and D diagonal: rounding column after column, what columns
//! before have done wrong is made good, as far as it can be, by adding their errors times M to the column, and D is
//! what a wrong column then still costs (Chee et al. 2023, arXiv:2307.13304, "LDLQ"; it is the rounding of GPTQ,
//! Frantar et al. 2022, arXiv:2210.17323, which finds the same numbers by inverting H).

use edgeward_kernels::{Isa, Pool, Vectorized};

/// Rows whose products are summed in single precision.
const ROWS_PER_SUM: usize = 256;
/// Columns of a tile of H.
const TILE_COLS: usize = 32;
/// Rows of a tile of H; a part of its columns.
const TILE_ROWS: usize = 8;
/// Columns that a step of the factorisation takes at a time.
const PANEL: usize = 48;
/// Right-hand sides that are solved for at a time: each row of M is read once for all.
const SOLVED_ROWS: usize = 8;
/// Floats of a vector in double precision.
const LANES_F64: usize = 8;

/// Mean of x x^T over inputs x, as it is being summed.
#[derive(Clone, Debug)]
pub struct Hessian {
    n_cols: usize,
    n_rows: usize,
    /// `[n_cols, n_cols]`; only where column >= row is it kept up.
    sums: Vec<f64>,
}

impl Hessian {
    /// Of inputs of `n_cols` values, none of which has been seen.
    pub fn new(n_cols: usize) -> Hessian {
        Hessian { n_cols, n_rows: 0, sums: vec![0.0; n_cols * n_cols] }
    }

    /// Values of an input.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Inputs seen.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Adds inputs, `[n, n_cols]`.
    pub fn add(&mut self, pool: &mut Pool, isa: Isa, rows: &[f32]) {
        let n_cols = self.n_cols;
        let mut panels = vec![[[0.0; TILE_COLS]; ROWS_PER_SUM]; n_cols.div_ceil(TILE_COLS)];
        for rows in rows.chunks(ROWS_PER_SUM * n_cols) {
            let n_rows = rows.len() / n_cols;
            self.n_rows += n_rows;
            for (i, row) in rows.chunks_exact(n_cols).enumerate() {
                for (panel, values) in panels.iter_mut().zip(row.chunks(TILE_COLS)) {
                    panel[i][..values.len()].copy_from_slice(values);
                }
            }
            let panels = &panels;
            pool.run_chunks(&mut self.sums, TILE_ROWS * n_cols, |i, strip| {
                isa.vectorize(AddStrip { panels, n_rows, n_cols, first_row: i * TILE_ROWS, strip });
            });
        }
    }

    /// The mean, `[n_cols, n_cols]`, symmetric, with `damping` times the mean of the diagonal added to the diagonal:
    /// directions that the inputs do not show are not free.
    pub fn damped(&self, damping: f64) -> Vec<f64> {
        let n = self.n_cols;
        let scale = 1.0 / self.n_rows.max(1) as f64;
        let mut mean: Vec<f64> = self.sums.iter().map(|sum| sum * scale).collect();
        for i in 0..n {
            for j in 0..i {
                mean[i * n + j] = mean[j * n + i];
            }
        }
        let trace: f64 = (0..n).map(|i| mean[i * n + i]).sum();
        // Inputs that are all zero still make a matrix that can be factorised.
        let extra = (damping * trace / n as f64).max(1e-12);
        for i in 0..n {
            mean[i * n + i] += extra;
        }
        mean
    }
}

/// Columns of a few hundred rows, one row after the other: so a tile reads memory in order, and from the nearest cache.
type Panel = [[f32; TILE_COLS]; ROWS_PER_SUM];

struct AddStrip<'a> {
    panels: &'a [Panel],
    n_rows: usize,
    n_cols: usize,
    first_row: usize,
    strip: &'a mut [f64],
}

impl Vectorized for AddStrip<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let AddStrip { panels, n_rows, n_cols, first_row, strip } = self;
        let (first_panel, at) = (first_row / TILE_COLS, first_row % TILE_COLS);
        let of_rows = &panels[first_panel][..n_rows];
        let mut tiles = vec![[[0.0f32; TILE_COLS]; TILE_ROWS]; panels.len() - first_panel];
        for (panel, tile) in panels[first_panel..].iter().zip(&mut tiles) {
            // One name for each row: indexed by a loop, the compiler would keep them in memory, at a hundredth of the
            // speed.
            let [mut s0, mut s1, mut s2, mut s3, mut s4, mut s5, mut s6, mut s7] = *tile;
            for (x, y) in panel.iter().zip(of_rows) {
                let y: &[f32; TILE_ROWS] = y[at..].first_chunk().expect("strips divide panels");
                add_scaled(&mut s0, x, y[0]);
                add_scaled(&mut s1, x, y[1]);
                add_scaled(&mut s2, x, y[2]);
                add_scaled(&mut s3, x, y[3]);
                add_scaled(&mut s4, x, y[4]);
                add_scaled(&mut s5, x, y[5]);
                add_scaled(&mut s6, x, y[6]);
                add_scaled(&mut s7, x, y[7]);
            }
            *tile = [s0, s1, s2, s3, s4, s5, s6, s7];
        }
        for (tile, first_col) in tiles.iter().zip((first_panel * TILE_COLS..).step_by(TILE_COLS)) {
            for (sums, strip) in tile.iter().zip(strip.chunks_exact_mut(n_cols)) {
                for (total, sum) in strip[first_col..].iter_mut().zip(sums) {
                    *total += f64::from(*sum);
                }
            }
        }
    }
}

#[inline(always)]
fn add_scaled(sums: &mut [f32; TILE_COLS], x: &[f32; TILE_COLS], factor: f32) {
    for c in 0..TILE_COLS {
        sums[c] = x[c].mul_add(factor, sums[c]);
    }
}

/// H = M D M^T, and H itself, in single precision, as rounding reads them.
#[derive(Clone, Debug)]
pub struct Factor {
    n_cols: usize,
    /// `[n_cols, n_cols]`: M, unit upper triangular; zeros below.
    pub(crate) unit_upper: Vec<f32>,
    /// D, `[n_cols]`, positive.
    pub(crate) diagonal: Vec<f32>,
    /// H, `[n_cols, n_cols]`, symmetric.
    pub(crate) hessian: Vec<f32>,
}

impl Factor {
    /// Factorises the symmetric positive definite `hessian`, `[n_cols, n_cols]`; `None` if it is not that.
    pub fn new(pool: &mut Pool, isa: Isa, hessian: &[f64], n_cols: usize) -> Option<Factor> {
        assert_eq!(hessian.len(), n_cols * n_cols, "H is square");
        // From the last column to the first: C with H = C C^T, upper triangular, row i in place of H's.
        let mut c = hessian.to_vec();
        let mut end = n_cols;
        while end > 0 {
            let start = end.saturating_sub(PANEL);
            // The block on the diagonal.
            for j in (start..end).rev() {
                let row_j = &c[j * n_cols..(j + 1) * n_cols];
                let d = row_j[j] - row_j[j + 1..end].iter().map(|x| x * x).sum::<f64>();
                if !(d > 0.0 && d.is_finite()) {
                    return None;
                }
                let d = d.sqrt();
                c[j * n_cols + j] = d;
                for i in start..j {
                    let (upper, lower) = c.split_at_mut(j * n_cols);
                    let (row_i, row_j) = (&mut upper[i * n_cols..(i + 1) * n_cols], &lower[..n_cols]);
                    let dot: f64 = row_i[j + 1..end].iter().zip(&row_j[j + 1..end]).map(|(a, b)| a * b).sum();
                    row_i[j] = (row_i[j] - dot) / d;
                }
            }
            // The rows above, each on its own; then what they take from H further left.
            let (above, below) = c.split_at_mut(start * n_cols);
            pool.run_chunks(above, n_cols, |_, row| {
                for j in (start..end).rev() {
                    let row_j = &below[(j - start) * n_cols..(j - start + 1) * n_cols];
                    let dot: f64 = row[j + 1..end].iter().zip(&row_j[j + 1..end]).map(|(a, b)| a * b).sum();
                    row[j] = (row[j] - dot) / row_j[j];
                }
            });
            let panel: Vec<f64> =
                above.chunks(n_cols).flat_map(|row| row[start..end].iter().copied()).collect();
            pool.run_chunks(above, n_cols, |i, row| {
                isa.vectorize(Subtract {
                    panel: &panel,
                    width: end - start,
                    row_idx: i,
                    row: &mut row[i..start],
                });
            });
            end = start;
        }
        let mut factor = Factor {
            n_cols,
            unit_upper: vec![0.0; n_cols * n_cols],
            diagonal: (0..n_cols).map(|j| (c[j * n_cols + j] * c[j * n_cols + j]) as f32).collect(),
            hessian: hessian.iter().map(|&x| x as f32).collect(),
        };
        for i in 0..n_cols {
            for j in i..n_cols {
                factor.unit_upper[i * n_cols + j] = (c[i * n_cols + j] / c[j * n_cols + j]) as f32;
            }
        }
        Some(factor)
    }

    /// Inputs.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Replaces each row b of `rows`, `[n, n_cols]`, by the x with x H = b.
    pub fn solve(&self, pool: &mut Pool, isa: Isa, rows: &mut [f64]) {
        pool.run_chunks(rows, SOLVED_ROWS * self.n_cols, |_, rows| {
            isa.vectorize(Solve { factor: self, rows });
        });
    }

    /// The diagonal of the inverse of H, `[n_cols]`.
    pub fn inverse_diagonal(&self, pool: &mut Pool, isa: Isa) -> Vec<f64> {
        let mut diagonal = vec![0.0; self.n_cols];
        pool.run_chunks(&mut diagonal, 1, |i, entry| {
            entry[0] = isa.vectorize(InverseEntry { factor: self, idx: i });
        });
        diagonal
    }
}

/// x H = b, that is M D M^T x = b: from the last entry to the first, divided by D, and back.
struct Solve<'a> {
    factor: &'a Factor,
    /// `[n, n_cols]`
    rows: &'a mut [f64],
}

impl Vectorized for Solve<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Solve { factor: Factor { n_cols, unit_upper, diagonal, .. }, rows } = self;
        let after = |i: usize| &unit_upper[i * n_cols + i + 1..(i + 1) * n_cols];
        for i in (0..*n_cols).rev() {
            for row in rows.chunks_exact_mut(*n_cols) {
                row[i] -= dot(&row[i + 1..], after(i));
            }
        }
        for row in rows.chunks_exact_mut(*n_cols) {
            row.iter_mut().zip(diagonal).for_each(|(x, d)| *x /= f64::from(*d));
        }
        for i in 0..*n_cols {
            for row in rows.chunks_exact_mut(*n_cols) {
                let (x, others) = row[i..].split_first_mut().expect("i is a column");
                others.iter_mut().zip(after(i)).for_each(|(y, m)| *y -= *x * f64::from(*m));
            }
        }
    }
}

/// Entry `idx` of the inverse's diagonal. As H^-1 = M^-T D^-1 M^-1, it is the sum of (M^-1)_{i,idx}^2 / D_i over i up to
/// `idx`; the column of M^-1 comes from its last entry to its first.
struct InverseEntry<'a> {
    factor: &'a Factor,
    idx: usize,
}

impl Vectorized for InverseEntry<'_> {
    type Output = f64;
    #[inline(always)]
    fn run(self) -> f64 {
        let InverseEntry { factor: Factor { n_cols, unit_upper, diagonal, .. }, idx } = self;
        let mut column = vec![0.0f64; idx + 1];
        column[idx] = 1.0;
        let mut entry = 1.0 / f64::from(diagonal[idx]);
        for i in (0..idx).rev() {
            let m = &unit_upper[i * n_cols + i + 1..i * n_cols + idx + 1];
            column[i] = -dot(&column[i + 1..], m);
            entry += column[i] * column[i] / f64::from(diagonal[i]);
        }
        entry
    }
}

#[inline(always)]
fn dot(a: &[f64], b: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES_F64];
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<LANES_F64>(), b.as_chunks::<LANES_F64>());
    for (a, b) in whole_a.iter().zip(whole_b) {
        for l in 0..LANES_F64 {
            sums[l] = a[l].mul_add(f64::from(b[l]), sums[l]);
        }
    }
    let rest: f64 = rest_a.iter().zip(rest_b).map(|(a, b)| a * f64::from(*b)).sum();
    sums.iter().sum::<f64>() + rest
}

/// row[j] -= panel[row_idx] . panel[row_idx + j], for the columns from the row's own on.
struct Subtract<'a> {
    panel: &'a [f64],
    width: usize,
    row_idx: usize,
    row: &'a mut [f64],
}

impl Vectorized for Subtract<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Subtract { panel, width, row_idx, row } = self;
        let mine = &panel[row_idx * width..(row_idx + 1) * width];
        for (x, other) in row.iter_mut().zip(panel[row_idx * width..].chunks_exact(width)) {
            let mut sums = [0.0f64; LANES_F64];
            let (whole_a, rest_a) = mine.as_chunks::<LANES_F64>();
            let (whole_b, rest_b) = other.as_chunks::<LANES_F64>();
            for (a, b) in whole_a.iter().zip(whole_b) {
                for l in 0..LANES_F64 {
                    sums[l] = a[l].mul_add(b[l], sums[l]);
                }
            }
            let rest: f64 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
            *x -= sums.iter().sum::<f64>() + rest;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Correlated inputs, `[n_rows, n_cols]`.
    pub(crate) fn inputs(n_rows: usize, n_cols: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut rows = Vec::with_capacity(n_rows * n_cols);
        for _ in 0..n_rows {
            let shared = uniform();
            let mut last = 0.0;
            for col in 0..n_cols {
                last = 0.6 * last + uniform() * (1.0 + (col % 7) as f32) + shared;
                rows.push(last);
            }
        }
        rows
    }

    #[test]
    fn sums_are_those_of_the_definition() {
        for n_cols in [1, 5, 32, 33, 70] {
            let n_rows = 300;
            let rows = inputs(n_rows, n_cols);
            let mut results = Vec::new();
            for isa in Isa::available() {
                let mut hessian = Hessian::new(n_cols);
                let mut pool = Pool::new(2);
                hessian.add(&mut pool, isa, &rows[..7 * n_cols]);
                hessian.add(&mut pool, isa, &rows[7 * n_cols..]);
                assert_eq!(hessian.n_rows(), n_rows);
                let mean = hessian.damped(0.0);
                for i in 0..n_cols {
                    for j in 0..n_cols {
                        let want: f64 = rows.chunks(n_cols).map(|x| f64::from(x[i]) * f64::from(x[j])).sum();
                        let want = want / n_rows as f64;
                        assert!(
                            (mean[i * n_cols + j] - want).abs() < 1e-5 * (1.0 + want.abs()) + 1e-11,
                            "{i} {j}"
                        );
                    }
                }
                results.push(mean);
            }
            assert!(results.iter().all(|mean| *mean == results[0]), "instruction sets differ");
        }
    }

    #[test]
    fn factors_multiply_to_the_matrix() {
        for n in [1, 2, 47, 48, 49, 130] {
            let mut pool = Pool::new(2);
            let mut hessian = Hessian::new(n);
            hessian.add(&mut pool, Isa::best(), &inputs(400, n));
            let mean = hessian.damped(0.01);
            let factor = Factor::new(&mut pool, Isa::best(), &mean, n).unwrap();
            for i in 0..n {
                assert_eq!(factor.unit_upper[i * n + i], 1.0);
                for j in 0..n {
                    let product: f64 = (0..n)
                        .map(|k| {
                            let (a, b) = (factor.unit_upper[i * n + k], factor.unit_upper[j * n + k]);
                            f64::from(a) * f64::from(b) * f64::from(factor.diagonal[k])
                        })
                        .sum();
                    assert!(
                        (product - mean[i * n + j]).abs() < 1e-4 * mean[i * n + i].max(mean[j * n + j]),
                        "{i} {j}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_is_refused() {
        let mut pool = Pool::new(1);
        for bad in [[1.0, 2.0, 2.0, 1.0], [0.0, 0.0, 0.0, 1.0], [f64::NAN, 0.0, 0.0, 1.0]] {
            assert!(Factor::new(&mut pool, Isa::best(), &bad, 2).is_none());
        }
        // Inputs of nothing but zeros.
        let mut hessian = Hessian::new(4);
        hessian.add(&mut pool, Isa::best(), &[0.0; 8]);
        assert!(Factor::new(&mut pool, Isa::best(), &hessian.damped(0.01), 4).is_some());
    }
}
