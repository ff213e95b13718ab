//! One choice for each group, together within a budget, with the least sum of losses: the multiple-choice knapsack.
//!
//! Solved exactly by dynamic programming over the sizes in units of their greatest common divisor. Where that would
//! take too large a table, sizes are rounded up to a coarser unit: the result then still fits, and is at worst as far
//! from the best as the budget less one unit for each group.

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

/// The index of the item to take in each group; `None` if not even the smallest fit into `budget_bytes`, or a group is
/// empty.
///
/// # Panics
/// If a group has more than 256 items.
pub fn solve(groups: &[Vec<Item>], budget_bytes: u64) -> Option<Vec<usize>> {
    let smallest: Option<Vec<u64>> =
        groups.iter().map(|group| group.iter().map(|item| item.size_bytes).min()).collect();
    let smallest = smallest?;
    // What every solution takes is left out of the table.
    let rest = budget_bytes.checked_sub(smallest.iter().sum())?;
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
    let unit = extras().fold(0, gcd).max(1).max((rest * n_groups).div_ceil(MAX_CELLS));

    let n_units = (rest / unit) as usize;
    let width = n_units + 1;
    // best[u]: the least loss of the groups so far within u units.
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
    let mut units = n_units;
    let mut choice = vec![0; groups.len()];
    for g in (0..groups.len()).rev() {
        choice[g] = usize::from(taken[g][units]);
        units -= extra(g, &groups[g][choice[g]]).div_ceil(unit) as usize;
    }
    Some(choice)
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
