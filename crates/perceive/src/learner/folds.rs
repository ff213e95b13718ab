//! Cross-validation: every example is judged once, by a learner that has not seen it.

/// Which examples are judged, and which are learnt from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Learnt from.
    pub train: Vec<usize>,
    /// Judged.
    pub test: Vec<usize>,
}

/// `n` folds in which classes are mixed as in all: of each class, examples are dealt out in turn, in an order that `seed`
/// shuffles. An example may be learnt from while one much like it is judged; where that is not wanted, [`by_group`].
///
/// # Panics
/// If `n` is below 2.
pub fn stratified(classes: &[usize], n: usize, seed: u64) -> Vec<Fold> {
    assert!(n >= 2, "one part is left out, and the others are learnt from");
    let mut of = vec![0; classes.len()];
    let mut state = seed;
    let n_classes = classes.iter().max().map_or(0, |most| most + 1);
    let mut dealt = 0;
    for class in 0..n_classes {
        let mut members: Vec<usize> = (0..classes.len()).filter(|i| classes[*i] == class).collect();
        for i in (1..members.len()).rev() {
            members.swap(i, (split_mix(&mut state) % (i as u64 + 1)) as usize);
        }
        for member in members {
            of[member] = dealt % n;
            dealt += 1;
        }
    }
    split(&of, n)
}

/// A fold for each group: all of its examples are judged by a learner that knows none of them. Groups are numbered from 0.
pub fn by_group(groups: &[usize]) -> Vec<Fold> {
    split(groups, groups.iter().max().map_or(0, |most| most + 1))
}

fn split(of: &[usize], n: usize) -> Vec<Fold> {
    let fold = |fold: usize| {
        let (test, train) = (0..of.len()).partition(|i| of[*i] == fold);
        Fold { train, test }
    };
    (0..n).map(fold).filter(|fold| !fold.test.is_empty()).collect()
}

/// Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators".
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_judged_once_by_a_stranger() {
        let classes: Vec<usize> = (0..50).map(|i| i % 3).collect();
        let groups: Vec<usize> = (0..50).map(|i| i / 7).collect();
        for folds in [stratified(&classes, 5, 1), by_group(&groups)] {
            let mut judged: Vec<usize> = folds.iter().flat_map(|fold| fold.test.clone()).collect();
            judged.sort_unstable();
            assert_eq!(judged, (0..50).collect::<Vec<_>>());
            for fold in &folds {
                assert_eq!(fold.train.len() + fold.test.len(), 50);
                assert!(fold.test.iter().all(|i| !fold.train.contains(i)));
            }
        }
        for fold in stratified(&classes, 5, 1) {
            for class in 0..3 {
                let n = fold.test.iter().filter(|i| classes[**i] == class).count();
                assert!((3..=4).contains(&n), "{n}");
            }
        }
        assert_eq!(stratified(&classes, 5, 1), stratified(&classes, 5, 1));
        assert_ne!(stratified(&classes, 5, 1), stratified(&classes, 5, 2));
        assert!(
            by_group(&groups).iter().all(|fold| fold.test.iter().all(|i| groups[*i] == groups[fold.test[0]]))
        );
    }
}
