//! Least squares for a matrix that loses columns: which go, and what the others become.
//!
//! The rule and its sources: [`super`].

use edgeward_engine::Isa;
use edgeward_kernels::{Pool, Vectorized};

use crate::error::Error;
use crate::hessian::Factor;

use super::ROWS_AT_ONCE;

/// Rounds in which neurons go: after each, the others are solved anew.
const N_ROUNDS: usize = 2;

/// A matrix some of whose columns go, and what its inputs are.
pub(super) struct Problem {
    pub(super) n_cols: usize,
    /// H, damped, `[n_cols, n_cols]`.
    hessian: Vec<f64>,
    /// The matrix as it was times H, `[n_rows, n_cols]`.
    wanted: Vec<f64>,
    /// Columns that are left, ascending.
    pub(super) kept: Vec<usize>,
    /// `[n_rows, kept.len()]`: of all that have these columns alone, the matrix whose outputs are nearest to what they were.
    pub(super) weights: Vec<f64>,
}

impl Problem {
    pub(super) fn new(pool: &mut Pool, hessian: Vec<f64>, weights: Vec<f64>, n_cols: usize) -> Problem {
        let mut wanted = vec![0.0; weights.len()];
        let isa = Isa::best();
        pool.run_chunks(&mut wanted, ROWS_AT_ONCE * n_cols, |i, rows| {
            let weights = &weights[i * ROWS_AT_ONCE * n_cols..][..rows.len()];
            isa.vectorize(Multiply { weights, hessian: &hessian, n_cols, rows });
        });
        Problem { n_cols, hessian, wanted, kept: (0..n_cols).collect(), weights }
    }

    pub(super) fn factor(&self, pool: &mut Pool) -> Result<Factor, Error> {
        let part: Vec<f64> = self
            .kept
            .iter()
            .flat_map(|i| self.kept.iter().map(move |j| self.hessian[i * self.n_cols + j]))
            .collect();
        Factor::new(pool, Isa::best(), &part, self.kept.len())
            .ok_or(Error::BadCalibration { reason: "the model's activations on it are not finite" })
    }

    /// Solves the weights of the columns that are left; how much of the outputs' squares they explain.
    fn solve(&mut self, pool: &mut Pool, factor: &Factor) -> f64 {
        let wanted: Vec<f64> = self
            .wanted
            .chunks_exact(self.n_cols)
            .flat_map(|row| self.kept.iter().map(|col| row[*col]))
            .collect();
        self.weights.clone_from(&wanted);
        factor.solve(pool, Isa::best(), &mut self.weights);
        self.weights.iter().zip(&wanted).map(|(w, b)| w * b).sum()
    }

    /// Leaves all but `n_wanted` columns out, those first whose loss the others can make good.
    pub(super) fn drop_columns(&mut self, pool: &mut Pool, n_wanted: usize) -> Result<(), Error> {
        let n_before = self.kept.len();
        for round in 1..=N_ROUNDS {
            let n_left = n_before - (n_before - n_wanted) * round / N_ROUNDS;
            if n_left == self.kept.len() {
                continue;
            }
            let inverse = self.factor(pool)?.inverse_diagonal(pool, Isa::best());
            let n_kept = self.kept.len();
            let mut scores = vec![0.0; n_kept];
            for row in self.weights.chunks_exact(n_kept) {
                scores.iter_mut().zip(row).for_each(|(score, w)| *score += w * w);
            }
            scores.iter_mut().zip(inverse).for_each(|(score, inverse)| *score /= inverse);
            let mut order: Vec<usize> = (0..n_kept).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
            order.truncate(n_left);
            order.sort_unstable();
            self.kept = order.into_iter().map(|i| self.kept[i]).collect();
            let factor = self.factor(pool)?;
            self.solve(pool, &factor);
        }
        Ok(())
    }

    /// Leaves groups of columns out, the cheapest first, until `n_wanted` of `groups` are left.
    pub(super) fn drop_groups(
        &mut self,
        pool: &mut Pool,
        groups: &mut Vec<usize>,
        n_wanted: usize,
        columns: &dyn Fn(&[usize]) -> Vec<usize>,
    ) -> Result<(), Error> {
        while groups.len() > n_wanted {
            let mut best = (f64::NEG_INFINITY, 0);
            for i in 0..groups.len() {
                let mut left = groups.clone();
                left.remove(i);
                self.kept = columns(&left);
                let factor = self.factor(pool)?;
                let explained = self.solve(pool, &factor);
                if explained > best.0 {
                    best = (explained, i);
                }
            }
            groups.remove(best.1);
            self.kept = columns(groups);
            let factor = self.factor(pool)?;
            self.solve(pool, &factor);
        }
        Ok(())
    }
}

/// Some rows of W H.
struct Multiply<'a> {
    /// `[n, n_cols]`
    weights: &'a [f64],
    hessian: &'a [f64],
    n_cols: usize,
    rows: &'a mut [f64],
}

impl Vectorized for Multiply<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let Multiply { weights, hessian, n_cols, rows } = self;
        for (i, line) in hessian.chunks_exact(n_cols).enumerate() {
            for (row, weights) in rows.chunks_exact_mut(n_cols).zip(weights.chunks_exact(n_cols)) {
                row.iter_mut().zip(line).for_each(|(sum, h)| *sum = weights[i].mul_add(*h, *sum));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hessian::Hessian;
    use crate::hessian::tests::inputs;

    /// The x with x H = b, by elimination.
    fn solve_ref(hessian: &[f64], b: &[f64]) -> Vec<f64> {
        let n = b.len();
        let mut rows: Vec<Vec<f64>> =
            (0..n).map(|i| [&hessian[i * n..(i + 1) * n], &b[i..=i]].concat()).collect();
        for i in 0..n {
            let pivot = rows[i].clone();
            for (j, row) in rows.iter_mut().enumerate().filter(|(j, _)| *j != i) {
                let scale = row[i] / pivot[i];
                row.iter_mut().zip(&pivot).for_each(|(x, p)| *x -= scale * p);
                assert!(j < n);
            }
        }
        (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
    }

    fn problem(n_rows: usize, n_cols: usize) -> (Pool, Problem, Vec<f64>) {
        let mut pool = Pool::new(2);
        let mut hessian = Hessian::new(n_cols);
        hessian.add(&mut pool, Isa::best(), &inputs(600, n_cols));
        let weights: Vec<f64> = inputs(n_rows, n_cols).into_iter().map(f64::from).collect();
        let problem = Problem::new(&mut pool, hessian.damped(0.01), weights.clone(), n_cols);
        (pool, problem, weights)
    }

    /// (w - w') H (w - w')^T, summed over rows.
    fn loss(problem: &Problem, weights: &[f64]) -> f64 {
        let n = problem.n_cols;
        let mut total = 0.0;
        for (row, left) in weights.chunks(n).zip(problem.weights.chunks(problem.kept.len())) {
            let mut error = row.to_vec();
            problem.kept.iter().zip(left).for_each(|(col, w)| error[*col] -= w);
            for i in 0..n {
                for j in 0..n {
                    total += error[i] * problem.hessian[i * n + j] * error[j];
                }
            }
        }
        total
    }

    #[test]
    fn what_is_left_is_the_least_squares_solution() {
        let (mut pool, mut problem, weights) = problem(3, 24);
        problem.drop_columns(&mut pool, 13).unwrap();
        assert_eq!(problem.kept.len(), 13);
        let part: Vec<f64> = problem
            .kept
            .iter()
            .flat_map(|i| problem.kept.iter().map(|j| problem.hessian[i * 24 + j]).collect::<Vec<_>>())
            .collect();
        for (r, row) in problem.weights.chunks(13).enumerate() {
            let b: Vec<f64> = problem
                .kept
                .iter()
                .map(|j| (0..24).map(|i| weights[r * 24 + i] * problem.hessian[i * 24 + j]).sum())
                .collect();
            for (w, want) in row.iter().zip(solve_ref(&part, &b)) {
                assert!((w - want).abs() < 1e-3 * (1.0 + want.abs()), "{w} and {want}");
            }
        }
    }

    #[test]
    fn the_inverse_diagonal_is_that_of_the_inverse() {
        let (mut pool, problem, _) = problem(1, 50);
        let factor = problem.factor(&mut pool).unwrap();
        let diagonal = factor.inverse_diagonal(&mut pool, Isa::best());
        for i in [0, 1, 25, 49] {
            let unit: Vec<f64> = (0..50).map(|j| f64::from(u8::from(i == j))).collect();
            let want = solve_ref(&problem.hessian, &unit)[i];
            assert!((diagonal[i] - want).abs() < 1e-3 * want, "{} and {want}", diagonal[i]);
        }
    }

    #[test]
    fn columns_are_chosen_better_than_by_their_size() {
        let (mut pool, mut ours, weights) = problem(8, 40);
        ours.drop_columns(&mut pool, 24).unwrap();
        let (_, mut by_size, _) = problem(8, 40);
        let mut order: Vec<usize> = (0..40).collect();
        let size = |col: usize| weights.iter().skip(col).step_by(40).map(|w| w * w).sum::<f64>();
        order.sort_by(|a, b| size(*b).total_cmp(&size(*a)));
        order.truncate(24);
        order.sort_unstable();
        by_size.kept = order;
        let rows =
            weights.chunks(40).flat_map(|row| by_size.kept.iter().map(|col| row[*col]).collect::<Vec<_>>());
        by_size.weights = rows.collect();
        let not_repaired = loss(&by_size, &weights);
        let factor = by_size.factor(&mut pool).unwrap();
        by_size.solve(&mut pool, &factor);
        let (ours, repaired) = (loss(&ours, &weights), loss(&by_size, &weights));
        assert!(ours < repaired && repaired < 0.9 * not_repaired, "{ours}, {repaired}, {not_repaired}");
    }

    #[test]
    fn the_group_that_is_missed_least_goes() {
        let (mut pool, mut problem, weights) = problem(4, 24);
        let mut groups = vec![0, 1, 2, 3];
        let columns = |groups: &[usize]| groups.iter().flat_map(|g| g * 6..(g + 1) * 6).collect::<Vec<_>>();
        problem.drop_groups(&mut pool, &mut groups, 3, &columns).unwrap();
        let best = loss(&problem, &weights);
        for gone in 0..4 {
            let left: Vec<usize> = (0..4).filter(|g| *g != gone).collect();
            problem.kept = columns(&left);
            let factor = problem.factor(&mut pool).unwrap();
            problem.solve(&mut pool, &factor);
            assert!(loss(&problem, &weights) >= best * (1.0 - 1e-6), "{gone}");
        }
        assert_eq!(groups.len(), 3);
    }
}
