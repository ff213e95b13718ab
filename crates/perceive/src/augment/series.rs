//! Measurements, changed as another sensor at another pace would have taken them.

use super::Chance;

/// Stretches of time in which a series may be quicker or slower.
const N_KNOTS: usize = 6;

/// Adds noise of `deviation` to each value.
pub fn jitter(values: &mut [f64], deviation: f64, chance: &mut Chance) {
    values.iter_mut().for_each(|x| *x += deviation * chance.normal());
}

/// When the rows of a warped series were in the original one: `n` times from 0 to `n - 1`, which only rise. Nowhere is the
/// series more than `1 + strength` times as quick or as slow as before, for a strength that is not negative.
///
/// # Panics
/// If the strength is negative.
pub fn warp(n: usize, strength: f64, chance: &mut Chance) -> Vec<f64> {
    assert!(strength >= 0.0, "a series is warped or not");
    if n < 2 {
        return vec![0.0; n];
    }
    // Paces within half of what is allowed, by ratio, as their mean becomes 1.
    let most = (1.0 + strength).sqrt();
    let paces: [f64; N_KNOTS] = std::array::from_fn(|_| most.powf(chance.between(-1.0, 1.0)));
    let pace = |i: usize| {
        let at = (i as f64 - 0.5) / (n - 1) as f64 * (N_KNOTS - 1) as f64;
        at_time(&paces, at)
    };
    let mut times = Vec::with_capacity(n);
    let mut time = 0.0;
    times.push(time);
    for i in 1..n {
        time += pace(i);
        times.push(time);
    }
    let scale = (n - 1) as f64 / time;
    times.iter_mut().for_each(|time| *time *= scale);
    // Rounding does not move the end.
    times[n - 1] = (n - 1) as f64;
    times
}

/// The value at a time between two rows, on the line between them.
///
/// # Panics
/// If there are no values.
pub fn at_time(values: &[f64], time: f64) -> f64 {
    let last = values.len() - 1;
    let time = time.clamp(0.0, last as f64);
    let before = (time as usize).min(last);
    let share = time - before as f64;
    values[before] + share * (values[(before + 1).min(last)] - values[before])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_their_order_and_nothing_is_made_up() {
        let mut chance = Chance::new(1);
        for _ in 0..300 {
            let (n, strength) = (chance.below(200), chance.between(0.0, 1.0));
            let times = warp(n, strength, &mut chance);
            assert_eq!(times.len(), n);
            if n == 0 {
                continue;
            }
            assert_eq!((times[0], times[n - 1]), (0.0, (n - 1) as f64));
            for pair in times.windows(2) {
                let pace = pair[1] - pair[0];
                assert!(pace >= 1.0 / (1.0 + strength) - 1e-9 && pace <= 1.0 + strength + 1e-9, "{pace}");
            }
            let values: Vec<f64> = (0..n).map(|_| chance.normal()).collect();
            let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
            let warped: Vec<f64> = times.iter().map(|time| at_time(&values, *time)).collect();
            assert!(warped.iter().all(|x| (least..=most).contains(x)));
            // What rises all the time still does: the answer to "is it rising" stays true, and so does that to "how
            // much in all".
            let rising: Vec<f64> = (0..n).map(|i| (i * i) as f64).collect();
            let warped: Vec<f64> = times.iter().map(|time| at_time(&rising, *time)).collect();
            assert!(warped.is_sorted() && warped[n - 1] == rising[n - 1]);
        }
    }

    #[test]
    fn jitter_is_as_strong_as_was_asked_and_moves_no_mean() {
        let mut values = vec![7.0; 20_000];
        jitter(&mut values, 0.5, &mut Chance::new(2));
        let mean = values.iter().sum::<f64>() / 2e4;
        let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2e4).sqrt();
        assert!((mean - 7.0).abs() < 0.02 && (deviation - 0.5).abs() < 0.02, "{mean}, {deviation}");
        let mut same = [1.0, 2.0];
        jitter(&mut same, 0.0, &mut Chance::new(2));
        assert_eq!(same, [1.0, 2.0]);
    }
}
