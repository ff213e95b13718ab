//! One choice for each group, together within a budget, with the least sum of losses: the multiple-choice knapsack.
//!
//! Solved exactly by dynamic programming over the sizes in units of their greatest common divisor. Where that would
//! take too large a table, sizes are rounded up to a coarser unit: the result then still fits, and is at worst as far
//! from the best as the budget less one unit for each group. One [`Table`] answers for every budget, and for every
//! loss that may be borne.
//!
//! Several budgets at once ([`solve_all`]) become one, a weighted sum of them, whose weights are raised where a budget
//! is exceeded: a surrogate relaxation (Glover 1975, "Surrogate constraint duality in mathematical programming").

/// One way to store a part of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Item {
    /// What it takes.
    pub size_bytes: u64,
    /// What it costs.
    pub loss: f64,
}

/// Cells of the table at most: some hundred megabytes would be too much beside a model.
const MAX_CELLS: u64 = 32 << 20;
/// Weights of several budgets that are tried.
const N_ROUNDS: usize = 24;
/// By which part of the limits each round keeps farther from them.
const ROUND_SHRINKS: f64 = 0.001;
/// Units that a weighted sum of budgets is counted in: coarse enough for many tables, fine enough for one in a
/// thousand to be no matter.
const SURROGATE_UNITS: f64 = 50_000.0;

/// The best choices for every budget up to a largest.
pub struct Table<'a> {
    groups: &'a [Vec<Item>],
    /// Of each group's smallest item, which every solution takes: they are left out of the table.
    smallest: Vec<u64>,
    unit: u64,
    /// `best[u]`: the least loss within `u` units.
    best: Vec<f64>,
    /// `taken[group][u]`: the item that is taken there.
    taken: Vec<Vec<u8>>,
}

impl<'a> Table<'a> {
    /// Of `groups`; `None` if not even the smallest items fit into `largest_budget`, or a group is empty.
    ///
    /// # Panics
    /// If a group has more than 256 items.
    pub fn new(groups: &'a [Vec<Item>], largest_budget: u64) -> Option<Table<'a>> {
        let smallest: Option<Vec<u64>> =
            groups.iter().map(|group| group.iter().map(|item| item.size_bytes).min()).collect();
        let smallest = smallest?;
        let rest = largest_budget.checked_sub(smallest.iter().sum())?;
        let extra = |group_idx: usize, item: &Item| item.size_bytes - smallest[group_idx];
        let extras =
            || groups.iter().enumerate().flat_map(|(g, group)| group.iter().map(move |item| extra(g, item)));
        let largest_sum: u64 = groups
            .iter()
            .enumerate()
            .map(|(g, group)| group.iter().map(|item| extra(g, item)).max().unwrap_or(0))
            .sum();
        let rest = rest.min(largest_sum);
        let n_groups = groups.len().max(1) as u64;
        let unit = extras().fold(0, gcd).max(1).max((rest.saturating_mul(n_groups)).div_ceil(MAX_CELLS));

        let width = (rest / unit) as usize + 1;
        let mut best = vec![0.0f64; width];
        let mut taken = Vec::with_capacity(groups.len());
        for (g, group) in groups.iter().enumerate() {
            assert!(group.len() <= 256, "an index fits a byte");
            let mut next = vec![f64::INFINITY; width];
            let mut row = vec![0u8; width];
            for (i, item) in group.iter().enumerate() {
                let size = extra(g, item).div_ceil(unit) as usize;
                for u in size..width {
                    let loss = best[u - size] + item.loss;
                    if loss < next[u] {
                        (next[u], row[u]) = (loss, i as u8);
                    }
                }
            }
            best = next;
            taken.push(row);
        }
        Some(Table { groups, smallest, unit, best, taken })
    }

    /// The index of the item to take in each group; `None` if not even the smallest fit.
    pub fn choose(&self, budget_bytes: u64) -> Option<Vec<usize>> {
        let rest = budget_bytes.checked_sub(self.smallest.iter().sum())?;
        let n_units = (rest / self.unit).min(self.best.len() as u64 - 1);
        let mut units = n_units as usize;
        let mut choice = vec![0; self.groups.len()];
        for g in (0..self.groups.len()).rev() {
            choice[g] = usize::from(self.taken[g][units]);
            let extra = self.groups[g][choice[g]].size_bytes - self.smallest[g];
            units -= extra.div_ceil(self.unit) as usize;
        }
        Some(choice)
    }

    /// The smallest budget whose best choices lose no more than `loss`; `None` if those of the largest do.
    pub fn smallest_within(&self, loss: f64) -> Option<u64> {
        // Rounding errors of the sums shall not decide.
        let n_units = self.best.partition_point(|best| *best > loss * (1.0 + 1e-12));
        (n_units < self.best.len()).then(|| self.smallest.iter().sum::<u64>() + n_units as u64 * self.unit)
    }
}

/// The index of the item to take in each group; `None` if not even the smallest fit into `budget_bytes`, or a group is
/// empty.
///
/// # Panics
/// If a group has more than 256 items.
pub fn solve(groups: &[Vec<Item>], budget_bytes: u64) -> Option<Vec<usize>> {
    Table::new(groups, budget_bytes)?.choose(budget_bytes)
}

/// Something that there is only so much of.
#[derive(Clone, Debug)]
pub struct Limit {
    /// What each item of each group takes of it.
    pub costs: Vec<Vec<f64>>,
    /// How much there is.
    pub at_most: f64,
}

impl Limit {
    /// What a choice takes.
    pub fn cost(&self, choice: &[usize]) -> f64 {
        self.costs.iter().zip(choice).map(|(costs, i)| costs[*i]).sum()
    }
}

/// The index of the item to take in each group so that every limit is kept; `None` if none was found. `losses` are
/// those of each group's items. With one limit the result is the best but for rounding to a fifty-thousandth of it; with
/// several it is near it.
pub fn solve_all(losses: &[Vec<f64>], limits: &[Limit]) -> Option<Vec<usize>> {
    let loss = |choice: &[usize]| -> f64 { losses.iter().zip(choice).map(|(l, i)| l[*i]).sum() };
    let mut weights = vec![1.0 / limits.len().max(1) as f64; limits.len()];
    let mut best: Option<(f64, Vec<usize>)> = None;
    for round in 0..if limits.len() > 1 { N_ROUNDS } else { 1 } {
        let cost = |g: usize, i: usize| -> f64 {
            let weighted = limits.iter().zip(&weights).map(|(l, w)| w * l.costs[g][i] / l.at_most);
            weighted.sum()
        };
        let groups: Vec<Vec<Item>> = losses
            .iter()
            .enumerate()
            .map(|(g, losses)| {
                let item = |(i, loss): (usize, &f64)| Item {
                    size_bytes: (cost(g, i) * SURROGATE_UNITS).ceil() as u64,
                    loss: *loss,
                };
                losses.iter().enumerate().map(item).collect()
            })
            .collect();
        // A sum that is used up mostly means one limit just kept and another just not: so it shrinks a little.
        let budget = SURROGATE_UNITS * (1.0 - ROUND_SHRINKS * round as f64);
        let Some(choice) = solve(&groups, budget as u64) else { break };
        let shares: Vec<f64> = limits.iter().map(|limit| limit.cost(&choice) / limit.at_most).collect();
        if shares.iter().all(|share| *share <= 1.0) {
            let loss = loss(&choice);
            if best.as_ref().is_none_or(|(other, _)| loss < *other) {
                best = Some((loss, choice));
            }
        }
        for (weight, share) in weights.iter_mut().zip(&shares) {
            *weight *= share.powi(2).max(1e-3);
        }
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    best.map(|(_, choice)| choice)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brute_force(groups: &[Vec<Item>], budget: u64) -> Option<f64> {
        let n: usize = groups.iter().map(Vec::len).product();
        (0..n)
            .filter_map(|mut index| {
                let (mut size, mut loss) = (0, 0.0);
                for group in groups {
                    let item = group[index % group.len()];
                    index /= group.len();
                    size += item.size_bytes;
                    loss += item.loss;
                }
                (size <= budget).then_some(loss)
            })
            .min_by(f64::total_cmp)
    }

    #[test]
    fn is_as_good_as_trying_everything() {
        let mut state = 3u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let mut n_solved = 0;
        for case in 0..300 {
            let unit = [1, 18, 1000][case % 3];
            let groups: Vec<Vec<Item>> = (0..1 + random(5))
                .map(|_| {
                    let n_items = 1 + random(5);
                    let item = |_| Item { size_bytes: unit * random(20), loss: random(1000) as f64 / 7.0 };
                    (0..n_items).map(item).collect()
                })
                .collect();
            let budget = unit * random(70) + random(unit);
            let found = solve(&groups, budget);
            let expected = brute_force(&groups, budget);
            assert_eq!(found.is_some(), expected.is_some());
            if let (Some(choice), Some(expected)) = (found, expected) {
                let items = || choice.iter().zip(&groups).map(|(i, group)| group[*i]);
                assert!(items().map(|item| item.size_bytes).sum::<u64>() <= budget);
                assert!((items().map(|item| item.loss).sum::<f64>() - expected).abs() < 1e-9);
                n_solved += 1;
            }
        }
        assert!(n_solved > 100);
    }

    #[test]
    fn one_table_answers_for_every_budget_and_loss() {
        let item = |size_bytes, loss| Item { size_bytes, loss };
        let group = vec![item(2, 9.0), item(3, 4.0), item(5, 1.0)];
        let groups = vec![group; 3];
        let table = Table::new(&groups, 100).unwrap();
        for budget in 6..18 {
            assert_eq!(table.choose(budget), solve(&groups, budget), "{budget}");
            let loss: f64 = table.choose(budget).unwrap().iter().map(|i| groups[0][*i].loss).sum();
            // The smallest budget for that loss is no larger, and gives it.
            let smallest = table.smallest_within(loss).unwrap();
            assert!(smallest <= budget, "{smallest} {budget}");
            assert_eq!(brute_force(&groups, smallest), Some(loss));
            assert!(brute_force(&groups, smallest - 1).is_none_or(|larger| larger > loss));
        }
        assert_eq!(table.choose(5), None);
        assert_eq!(table.smallest_within(2.9), None);
        assert_eq!(table.smallest_within(1e9), Some(6));
    }

    #[test]
    fn several_limits_are_kept_at_once() {
        let mut state = 9u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / 2f64.powi(31)
        };
        // Like matrices: finer types take more of both, but not in the same ratio.
        let (mut losses, mut sizes, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..100 {
            let (weight, n) = (0.1 + random(), 1.0 + 9.0 * random());
            losses.push((2..8).map(|bits| weight / 4f64.powi(bits)).collect::<Vec<_>>());
            sizes.push((2..8).map(|bits| n * f64::from(bits)).collect::<Vec<_>>());
            times.push((2..8).map(|bits| n * (1.0 + f64::from(bits % 3))).collect::<Vec<_>>());
        }
        let range = |costs: &[Vec<f64>]| -> f64 {
            costs.iter().map(|c| c.iter().fold(f64::MAX, |a, b| a.min(*b))).sum()
        };
        let (least_size, least_time) = (range(&sizes), range(&times));
        for (size, time) in [(1.5, 3.0), (1.35, 1.9), (3.0, 1.2), (1.6, 1.4)] {
            let limits = [
                Limit { costs: sizes.clone(), at_most: least_size * size },
                Limit { costs: times.clone(), at_most: least_time * time },
            ];
            let choice = solve_all(&losses, &limits).expect("there is one");
            assert!(limits.iter().all(|limit| limit.cost(&choice) <= limit.at_most));
            let loss: f64 = losses.iter().zip(&choice).map(|(l, i)| l[*i]).sum();
            // The Lagrangian's value at any multipliers is below that of every choice that keeps the limits.
            let mut bound = 0.0f64;
            for (a, b) in (0..40).flat_map(|a| (0..40).map(move |b| (a, b))) {
                let (a, b) = (1e-6 * 1.4f64.powi(a) - 1e-6, 1e-6 * 1.4f64.powi(b) - 1e-6);
                let least = |g: usize| {
                    let value = |i: usize| losses[g][i] + a * sizes[g][i] + b * times[g][i];
                    (0..6).map(value).fold(f64::MAX, f64::min)
                };
                let value = (0..100).map(least).sum::<f64>() - a * limits[0].at_most - b * limits[1].at_most;
                bound = bound.max(value);
            }
            assert!(loss <= bound * 1.1, "{size} {time}: {loss}, and nothing is below {bound}");
        }
        let limits =
            [Limit { costs: sizes, at_most: least_size * 0.99 }, Limit { costs: times, at_most: 1e9 }];
        assert_eq!(solve_all(&losses, &limits), None);
    }

    #[test]
    fn sizes_without_a_common_unit_still_fit() {
        let item = |size_bytes, loss| Item { size_bytes, loss };
        // Primes far apart: the table would have billions of cells.
        let group = vec![item(1_000_000_007, 9.0), item(2_000_000_011, 4.0), item(3_000_000_019, 1.0)];
        let groups = vec![group; 40];
        let budget = 80_000_000_440;
        let choice = solve(&groups, budget).unwrap();
        let size: u64 = choice.iter().zip(&groups).map(|(i, group)| group[*i].size_bytes).sum();
        let loss: f64 = choice.iter().zip(&groups).map(|(i, group)| group[*i].loss).sum();
        assert!(size <= budget && loss <= 40.0 * 4.0 + 15.0, "{size} {loss}");
    }

    #[test]
    fn what_cannot_fit_is_told() {
        assert_eq!(solve(&[vec![Item { size_bytes: 5, loss: 0.0 }]], 4), None);
        assert_eq!(solve(&[vec![]], 4), None);
        assert_eq!(solve(&[], 4), Some(vec![]));
    }
}
