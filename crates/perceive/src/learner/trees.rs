//! Gradient boosting: each tree learns what those before it have got wrong.
//!
//! Friedman 2001, "Greedy Function Approximation: A Gradient Boosting Machine", with what made it fast and steady since:
//! features in at most 64 bins of equally many examples, so that a split is found in a histogram, and trees that grow
//! where that helps most, with leaves by Newton's step (Chen and Guestrin 2016, "XGBoost"; Ke et al. 2017, "LightGBM").
//! For a number the loss is squared error; for classes it is cross-entropy, with a tree for each class in each round.

use serde::{Deserialize, Serialize};

use super::{Samples, Target, softmax};

/// How trees are grown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TreesOptions {
    /// Trees, for each class.
    pub n_rounds: usize,
    /// Leaves of a tree, at most.
    pub n_leaves: usize,
    /// Examples of a leaf, at least.
    pub min_leaf: usize,
    /// Share of what a tree has learnt that is taken over from it.
    pub learning_rate: f64,
}

impl Default for TreesOptions {
    /// What does well on tables of thousands of rows without tuning.
    fn default() -> TreesOptions {
        TreesOptions { n_rounds: 200, n_leaves: 15, min_leaf: 20, learning_rate: 0.05 }
    }
}

/// Bins of a feature.
const MAX_BINS: usize = 64;
/// Added to second derivatives: leaves of few examples say less.
const REGULARISATION: f64 = 1.0;
/// Nodes of a file's tree, at most.
const MAX_NODES: usize = 1 << 20;

/// Boosted trees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trees {
    n_features: usize,
    /// `[n_outputs]`, what is said before any tree.
    offsets: Vec<f64>,
    /// One for each output in turn, round by round.
    trees: Vec<Tree>,
}

/// Nodes in the order in which they were made; the first is the root.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Tree {
    /// The feature that a node asks for; -1 is a leaf.
    features: Vec<i32>,
    /// The largest value that goes to the first child; of a leaf what it says.
    numbers: Vec<f32>,
    /// The first child; the second comes after it. Of a leaf 0.
    children: Vec<u32>,
}

impl Tree {
    fn push(&mut self) -> usize {
        self.features.push(-1);
        self.numbers.push(0.0);
        self.children.push(0);
        self.features.len() - 1
    }

    fn output(&self, features: &[f64]) -> f64 {
        let mut node = 0;
        while let Ok(feature) = usize::try_from(self.features[node]) {
            let is_second = features[feature] as f32 > self.numbers[node];
            node = self.children[node] as usize + usize::from(is_second);
        }
        f64::from(self.numbers[node])
    }

    fn check(&self, n_features: usize) -> Result<(), String> {
        let n = self.features.len();
        if n == 0 || n > MAX_NODES || self.numbers.len() != n || self.children.len() != n {
            return Err(format!(
                "a tree has {n} nodes, {} numbers and {} children",
                self.numbers.len(),
                self.children.len()
            ));
        }
        for node in 0..n {
            let (feature, child) = (self.features[node], self.children[node] as usize);
            // Children come after their parents: no way leads in a circle.
            let is_sound = match usize::try_from(feature) {
                Ok(feature) => feature < n_features && child > node && child + 1 < n,
                Err(_) => feature == -1,
            };
            if !is_sound || !self.numbers[node].is_finite() {
                return Err(format!("node {node} of a tree leads nowhere"));
            }
        }
        Ok(())
    }
}

impl Trees {
    pub(super) fn fit(samples: &Samples, target: &Target, options: &TreesOptions) -> Trees {
        let n = samples.len();
        let n_outputs = target.n_outputs();
        let offsets = match target {
            Target::Numbers(of) => vec![of.iter().sum::<f64>() / n as f64],
            Target::Classes { of, n_classes } => (0..*n_classes)
                .map(|class| (of.iter().filter(|other| **other == class).count() as f64 / n as f64).ln())
                .collect(),
        };
        let binned = Binned::new(samples);
        // `[n, n_outputs]`.
        let mut outputs: Vec<f64> = (0..n).flat_map(|_| offsets.iter().copied()).collect();
        let mut slopes = vec![Slope::default(); n];
        let mut trees = Vec::with_capacity(options.n_rounds * n_outputs);
        let mut probabilities = Vec::new();
        for _ in 0..options.n_rounds {
            if let Target::Classes { .. } = target {
                // Those of before the round: its trees know nothing of each other.
                probabilities.clone_from(&outputs);
                probabilities.chunks_exact_mut(n_outputs).for_each(softmax);
            }
            for output in 0..n_outputs {
                for (i, slope) in slopes.iter_mut().enumerate() {
                    *slope = match target {
                        Target::Numbers(of) => Slope { first: outputs[i] - of[i], second: 1.0 },
                        Target::Classes { of, .. } => {
                            let p = probabilities[i * n_outputs + output];
                            Slope { first: p - f64::from(u8::from(of[i] == output)), second: p * (1.0 - p) }
                        }
                    };
                }
                let tree = Grower { binned: &binned, slopes: &slopes, options }.grow(|members, value| {
                    members.iter().for_each(|i| outputs[*i as usize * n_outputs + output] += value);
                });
                trees.push(tree);
            }
        }
        Trees { n_features: samples.n_features(), offsets, trees }
    }

    pub(super) fn n_features(&self) -> usize {
        self.n_features
    }

    pub(super) fn n_outputs(&self) -> usize {
        self.offsets.len()
    }

    pub(super) fn outputs(&self, features: &[f64]) -> Vec<f64> {
        let mut outputs = self.offsets.clone();
        for round in self.trees.chunks_exact(self.offsets.len()) {
            outputs.iter_mut().zip(round).for_each(|(output, tree)| *output += tree.output(features));
        }
        outputs
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.n_features == 0
            || self.offsets.is_empty()
            || !self.trees.len().is_multiple_of(self.offsets.len())
        {
            return Err(format!("{} trees for {} outputs", self.trees.len(), self.offsets.len()));
        }
        if !self.offsets.iter().all(|x| x.is_finite()) {
            return Err("an offset is no number".to_owned());
        }
        self.trees.iter().try_for_each(|tree| tree.check(self.n_features))
    }
}

/// First and second derivative of the loss by an example's output.
#[derive(Clone, Copy, Debug, Default)]
struct Slope {
    first: f64,
    second: f64,
}

/// Examples, each feature as the number of its bin.
struct Binned {
    n: usize,
    /// `[n_features, n]`.
    bins: Vec<u8>,
    /// Of each feature the largest value of each bin but the last.
    edges: Vec<Vec<f32>>,
}

impl Binned {
    fn new(samples: &Samples) -> Binned {
        let n = samples.len();
        let mut bins = Vec::with_capacity(samples.n_features() * n);
        let mut edges = Vec::new();
        for feature in 0..samples.n_features() {
            let values: Vec<f32> = samples.rows().map(|row| row[feature] as f32).collect();
            let mut sorted = values.clone();
            sorted.sort_by(f32::total_cmp);
            let quantile = |i: usize| sorted[i * n / MAX_BINS];
            let mut inner: Vec<f32> = (1..MAX_BINS).map(quantile).collect();
            inner.dedup();
            // Nothing lies beyond the largest.
            inner.retain(|edge| *edge < sorted[n - 1]);
            bins.extend(values.iter().map(|value| inner.partition_point(|edge| edge < value) as u8));
            edges.push(inner);
        }
        Binned { n, bins, edges }
    }

    fn of(&self, feature: usize) -> &[u8] {
        &self.bins[feature * self.n..][..self.n]
    }
}

/// Where a leaf would be split, and how much that helps.
struct Split {
    gain: f64,
    feature: usize,
    /// The last bin of the first child.
    bin: usize,
}

/// A leaf that may be split.
struct Open {
    node: usize,
    members: Vec<u32>,
    /// Of the members' slopes.
    sum: Slope,
    split: Option<Split>,
}

struct Grower<'a> {
    binned: &'a Binned,
    slopes: &'a [Slope],
    options: &'a TreesOptions,
}

impl Grower<'_> {
    /// A tree; `on_leaf` hears of each leaf's members, and what it says.
    fn grow(&self, mut on_leaf: impl FnMut(&[u32], f64)) -> Tree {
        let mut tree = Tree::default();
        let root = self.open(tree.push(), (0..self.binned.n as u32).collect());
        let mut leaves = vec![root];
        while leaves.len() < self.options.n_leaves {
            let gain = |open: &Open| open.split.as_ref().map_or(0.0, |split| split.gain);
            let best = (0..leaves.len()).max_by(|a, b| gain(&leaves[*a]).total_cmp(&gain(&leaves[*b])));
            let Some(best) = best else { break };
            let Some(Split { feature, bin, .. }) = leaves[best].split else { break };
            let Open { node, members, .. } = leaves.swap_remove(best);
            let bins = self.binned.of(feature);
            let (first, second) = members.into_iter().partition(|i| usize::from(bins[*i as usize]) <= bin);
            let child = tree.push();
            let other = tree.push();
            tree.features[node] = feature as i32;
            tree.numbers[node] = self.binned.edges[feature][bin];
            tree.children[node] = child as u32;
            leaves.push(self.open(child, first));
            leaves.push(self.open(other, second));
        }
        for Open { node, members, sum, .. } in leaves {
            let value = (-sum.first / (sum.second + REGULARISATION) * self.options.learning_rate) as f32;
            tree.numbers[node] = value;
            on_leaf(&members, f64::from(value));
        }
        tree
    }

    fn sum(&self, members: &[u32]) -> Slope {
        let mut sum = Slope::default();
        for slope in members.iter().map(|i| self.slopes[*i as usize]) {
            sum.first += slope.first;
            sum.second += slope.second;
        }
        sum
    }

    fn open(&self, node: usize, members: Vec<u32>) -> Open {
        let sum = self.sum(&members);
        let Slope { first, second } = sum;
        let worth = |first: f64, second: f64| first * first / (second + REGULARISATION);
        let mut best: Option<Split> = None;
        for (feature, edges) in self.binned.edges.iter().enumerate() {
            let bins = self.binned.of(feature);
            let mut histogram = [(0.0f64, 0.0f64, 0usize); MAX_BINS];
            for i in &members {
                let (slope, (a, b, n)) =
                    (self.slopes[*i as usize], &mut histogram[usize::from(bins[*i as usize])]);
                *a += slope.first;
                *b += slope.second;
                *n += 1;
            }
            let (mut a, mut b, mut n) = (0.0, 0.0, 0);
            for (bin, of_bin) in histogram[..edges.len()].iter().enumerate() {
                a += of_bin.0;
                b += of_bin.1;
                n += of_bin.2;
                if n < self.options.min_leaf || members.len() - n < self.options.min_leaf {
                    continue;
                }
                let gain = worth(a, b) + worth(first - a, second - b) - worth(first, second);
                // More than rounding.
                if gain > 1e-9 && best.as_ref().is_none_or(|best| gain > best.gain) {
                    best = Some(Split { gain, feature, bin });
                }
            }
        }
        Open { node, members, sum, split: best }
    }
}
