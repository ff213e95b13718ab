//! What a network's activations are like on examples, and which range of them eight bits should cover.

use edgeward_perceive::graph::{ElementType, TensorId};
use edgeward_perceive::{Error, Graph};

use super::{answer, network};

/// Bins of a histogram. A clipped range is found to within a thousandth of the whole.
const N_BINS: usize = 2048;
/// Steps of eight bits.
const N_STEPS: f64 = 255.0;
/// Candidates for each end of a range.
const N_CANDIDATES: usize = 100;
/// The least share of a range that is kept.
const LEAST_SHARE: f64 = 0.2;

/// How a range is taken from statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// From the smallest value to the largest.
    MinMax,
    /// Without so many of the values, a share, half of it at each end.
    Percentile {
        /// What is left out, 0 to 1.
        outside: f64,
    },
    /// Where the mean squared error of what is rounded and what is cut off is least.
    LeastSquares,
    /// Where the Kullback-Leibler divergence of the rounded values' distribution from the true one is least (Migacz 2017,
    /// "8-bit Inference with TensorRT").
    Divergence,
}

impl Method {
    /// Each of them; `outside` is what percentile leaves out.
    pub fn all(outside: f64) -> [Method; 4] {
        [Method::MinMax, Method::Percentile { outside }, Method::LeastSquares, Method::Divergence]
    }

    /// As reports and command lines call it.
    pub fn name(self) -> &'static str {
        match self {
            Method::MinMax => "min-max",
            Method::Percentile { .. } => "percentile",
            Method::LeastSquares => "least-squares",
            Method::Divergence => "kl",
        }
    }
}

/// Of one activation.
#[derive(Clone, Debug)]
struct Histogram {
    low: f32,
    high: f32,
    counts: Vec<u64>,
}

/// What each activation was like.
#[derive(Clone, Debug)]
pub struct Statistics {
    histograms: Vec<Option<Histogram>>,
}

/// Runs the float network `graph` on `examples`, each a list of inputs.
///
/// # Errors
/// If it cannot run, an example does not fit, there is none, or a value is no number.
pub fn calibrate(graph: &Graph, examples: &[Vec<Vec<f32>>]) -> Result<Statistics, Error> {
    if examples.is_empty() {
        return Err(Error::Mismatch { what: "there are no examples to calibrate on: give some".into() });
    }
    let ids = activations(graph);
    let observed = Graph { outputs: ids.clone(), ..graph.clone() };
    let mut network = network(&observed)?;
    let mut histograms: Vec<Option<Histogram>> = vec![None; graph.tensors.len()];
    let mut each = |f: &mut dyn FnMut(TensorId, &[f32])| -> Result<(), Error> {
        for example in examples {
            let answers = answer(&mut network, example)?;
            graph.inputs.iter().zip(example).for_each(|(id, values)| f(*id, values));
            ids.iter().zip(&answers).for_each(|(id, values)| f(*id, values));
        }
        Ok(())
    };
    // First how far they go, then how often each value comes.
    each(&mut |id, values| {
        let found = histograms[id].get_or_insert(Histogram {
            low: f32::MAX,
            high: f32::MIN,
            counts: vec![0; N_BINS],
        });
        for value in values {
            found.low = found.low.min(*value);
            found.high = found.high.max(*value);
        }
    })?;
    let is_bad = |found: &Histogram| !(found.low.is_finite() && found.high.is_finite());
    if let Some(id) = histograms.iter().position(|found| found.as_ref().is_some_and(is_bad)) {
        let what =
            format!("activation {} is not finite on the examples: give others", graph.tensors[id].name);
        return Err(Error::Mismatch { what });
    }
    each(&mut |id, values| {
        let Some(found) = &mut histograms[id] else { return };
        let per_bin = (found.high - found.low) / N_BINS as f32;
        for value in values {
            let bin = if per_bin > 0.0 { ((value - found.low) / per_bin) as usize } else { 0 };
            found.counts[bin.min(N_BINS - 1)] += 1;
        }
    })?;
    Ok(Statistics { histograms })
}

/// Floats that nodes compute.
fn activations(graph: &Graph) -> Vec<TensorId> {
    let ids = graph.nodes.iter().flat_map(|node| node.outputs.iter().copied());
    ids.filter(|id| graph.tensors[*id].element_type == ElementType::F32).collect()
}

impl Statistics {
    /// The range of tensor `id` that eight bits should cover; `None` if it was not seen.
    pub fn range(&self, id: TensorId, method: Method) -> Option<(f32, f32)> {
        let found = self.histograms.get(id)?.as_ref()?;
        let whole = (found.low, found.high);
        if found.high <= found.low {
            return Some(whole);
        }
        Some(match method {
            Method::MinMax => whole,
            Method::Percentile { outside } => found.percentile(outside),
            Method::LeastSquares => found.narrowed(Histogram::error),
            Method::Divergence => found.narrowed(Histogram::divergence),
        })
    }
}

impl Histogram {
    fn per_bin(&self) -> f64 {
        f64::from(self.high - self.low) / self.counts.len() as f64
    }

    fn percentile(&self, outside: f64) -> (f32, f32) {
        let n: u64 = self.counts.iter().sum();
        let most = n as f64 * outside / 2.0;
        let bins_cut = |counts: &mut dyn Iterator<Item = &u64>| {
            let mut sum = 0u64;
            counts
                .take_while(|count| {
                    sum += **count;
                    (sum as f64) <= most
                })
                .count()
        };
        let (below, above) = (bins_cut(&mut self.counts.iter()), bins_cut(&mut self.counts.iter().rev()));
        let cut = |bins: usize| (bins as f64 * self.per_bin()) as f32;
        (self.low + cut(below), self.high - cut(above))
    }

    /// The range with the least `loss`: one end after the other, twice, as they depend on each other but little.
    fn narrowed(&self, loss: impl Fn(&Histogram, (f64, f64)) -> f64) -> (f32, f32) {
        let mut range = (f64::from(self.low), f64::from(self.high));
        for _ in 0..2 {
            let candidates = |whole: f32| {
                (0..=N_CANDIDATES).map(move |i| {
                    f64::from(whole) * (1.0 - (1.0 - LEAST_SHARE) * i as f64 / N_CANDIDATES as f64)
                })
            };
            let best = |tried: &mut dyn Iterator<Item = (f64, f64)>| {
                let judged = tried.map(|range| (loss(self, range), range));
                judged.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, range)| range)
            };
            if self.high > 0.0 {
                range = best(&mut candidates(self.high).map(|high| (range.0, high))).unwrap_or(range);
            }
            if self.low < 0.0 {
                range = best(&mut candidates(self.low).map(|low| (low, range.1))).unwrap_or(range);
            }
        }
        (range.0 as f32, range.1 as f32)
    }

    /// The sum of squares of what is lost.
    fn error(&self, (low, high): (f64, f64)) -> f64 {
        // Zero is always a value of eight bits.
        let (low, high) = (low.min(0.0), high.max(0.0));
        let step = (high - low) / N_STEPS;
        let rounding = step * step / 12.0;
        let lost = |(bin, count): (usize, &u64)| {
            let value = f64::from(self.low) + (bin as f64 + 0.5) * self.per_bin();
            let cut = (low - value).max(value - high).max(0.0);
            *count as f64 * (cut * cut + rounding)
        };
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(lost).sum()
    }

    /// The Kullback-Leibler divergence, in nats, of what eight bits make of the values from what they are. Values that are cut
    /// off lie at the ends; a step's values are spread evenly over those of its bins in which there were any.
    fn divergence(&self, (low, high): (f64, f64)) -> f64 {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let middle = |bin: usize| f64::from(self.low) + (bin as f64 + 0.5) * self.per_bin();
        let step_of =
            |value: f64| ((value - low) / (high - low) * N_STEPS).round().clamp(0.0, N_STEPS) as usize;
        let is_inside = |bin: usize| (low..=high).contains(&middle(bin));
        let first = (0..self.counts.len()).find(|bin| is_inside(*bin));
        let last = (0..self.counts.len()).rev().find(|bin| is_inside(*bin));
        let (Some(first), Some(last)) = (first, last) else { return f64::INFINITY };
        let mut kept: Vec<f64> = self.counts[first..=last].iter().map(|count| *count as f64).collect();
        // What each step has of the values inside, and in how many bins. What was cut off is not part of it: a step that is
        // full of strangers must not look well matched.
        let mut steps = vec![(0f64, 0usize); N_STEPS as usize + 1];
        for (bin, count) in kept.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            let (sum, n_bins) = &mut steps[step_of(middle(first + bin))];
            (*sum, *n_bins) = (*sum + count, *n_bins + 1);
        }
        let n_kept: f64 = kept.iter().sum();
        let sum = |counts: &[u64]| counts.iter().sum::<u64>() as f64;
        kept[0] += sum(&self.counts[..first]);
        *kept.last_mut().expect("there is a bin") += sum(&self.counts[last + 1..]);
        let n: f64 = kept.iter().sum();
        let of_bin = |(bin, count): (usize, &f64)| {
            let (sum, n_bins) = steps[step_of(middle(first + bin))];
            // An end to which all were cut off, and where there was nothing: half a value stands for it.
            let made = if n_bins > 0 { sum / n_bins as f64 } else { 0.5 };
            count / n * (count / n / (made / n_kept)).ln()
        };
        kept.iter().enumerate().filter(|(_, count)| **count > 0.0).map(of_bin).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many values near zero and a few far out.
    fn tailed() -> Histogram {
        let mut counts = vec![0; N_BINS];
        counts[..200].fill(10_000);
        counts[N_BINS - 1] = 1;
        Histogram { low: 0.0, high: 100.0, counts }
    }

    #[test]
    fn ranges() {
        let statistics = Statistics { histograms: vec![Some(tailed()), None] };
        assert_eq!(statistics.range(0, Method::MinMax), Some((0.0, 100.0)));
        let (low, high) = statistics.range(0, Method::Percentile { outside: 1e-4 }).unwrap();
        assert!(low < 0.1 && (9.0..11.0).contains(&high), "{low} {high}");
        let (low, high) = statistics.range(0, Method::LeastSquares).unwrap();
        // Two million values of a tenth: what is cut off at the one is paid for by a finer step for all others.
        assert!(low == 0.0 && high < 60.0, "{low} {high}");
        assert!(tailed().error((0.0, f64::from(high))) < tailed().error((0.0, 100.0)));
        // A bell, of which steps over the whole range would see little.
        let bell = |bin: usize| (1e6 * (-(bin as f64 / 40.0).powi(2) / 2.0).exp()) as u64;
        let mut bell = Histogram { counts: (0..N_BINS).map(bell).collect(), ..tailed() };
        *bell.counts.last_mut().unwrap() = 1;
        let (low, high) = bell.narrowed(Histogram::divergence);
        assert!(low == 0.0 && (8.0..60.0).contains(&high), "{low} {high}");
        assert!(bell.divergence((0.0, 100.0)) > bell.divergence((0.0, f64::from(high))));
        assert_eq!(statistics.range(1, Method::MinMax), None);
    }
}
