//! LoRA adapters beside a model's weights: `y += scale * B (A x)`, for whichever sequences ask for it.
//!
//! Weights stay as they are, so an adapter can come and go between two passes, sequences with other adapters and with none
//! share a pass, and a quantised model takes one made for its floats. What a sequence has is fixed when it begins, as its
//! keys and values depend on it.
//!
//! Invariant: a sequence's result does not depend on the others of a pass. Its adapters are added in its own order, one
//! after the other, each by float products that are the same for a token in any company.

use std::collections::BTreeMap;
use std::sync::Arc;

use edgeward_kernels::{
    Activations, FloatMatrix, Form, Isa, Linear, Matrix, Mode, Pool, SharedBytes, linear,
};
use edgeward_model::Config;
use edgeward_model::adapter::Factor;
use edgeward_model::tensor::{LayerSlot, Slot};

use crate::engine::Engine;
use crate::error::Error;
use crate::sequence::Sequence;

/// Matrices of a layer that can have a pair.
const N_LAYER_SLOTS: usize = 7;

/// An adapter, ready to compute with engines of the model that it was read for.
#[derive(Debug)]
pub struct Adapter {
    config: Config,
    n_bytes: usize,
    embedding: Option<Pair>,
    output: Option<Pair>,
    layers: Vec<[Option<Pair>; N_LAYER_SLOTS]>,
}

/// What is added to one matrix.
#[derive(Debug)]
pub(crate) struct Pair {
    /// `[rank, n_in]`; of the embedding `[vocab_size, rank]`.
    a: Linear,
    /// `[n_out, rank]`
    b: Linear,
    scale: f32,
}

fn idx_of(slot: LayerSlot) -> usize {
    use LayerSlot::{Down, Gate, K, O, Q, Up, V};
    let slots = [Q, K, V, O, Gate, Up, Down];
    slots.iter().position(|other| *other == slot).expect("a matrix of a layer")
}

impl Adapter {
    /// Makes an adapter ready that was read from its file.
    pub fn new(file: &edgeward_model::Adapter) -> Adapter {
        let mut pairs: BTreeMap<Slot, Pair> = file
            .pairs()
            .iter()
            .map(|pair| (pair.slot, Pair { a: map(&pair.a), b: map(&pair.b), scale: pair.scale }))
            .collect();
        let mut layers: Vec<[Option<Pair>; N_LAYER_SLOTS]> = Vec::new();
        layers.resize_with(file.config().n_layers, Default::default);
        let (embedding, output) = (pairs.remove(&Slot::TokenEmbedding), pairs.remove(&Slot::Output));
        for (slot, pair) in pairs {
            if let Slot::Layer(layer_idx, slot) = slot {
                layers[layer_idx][idx_of(slot)] = Some(pair);
            }
        }
        Adapter { config: file.config().clone(), n_bytes: file.n_bytes(), embedding, output, layers }
    }

    /// Bytes of its matrices.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Whether it was read for a model of these hyperparameters.
    pub(crate) fn fits(&self, config: &Config) -> bool {
        self.config == *config
    }

    fn pair(&self, layer_idx: usize, slot: LayerSlot) -> Option<&Pair> {
        self.layers[layer_idx][idx_of(slot)].as_ref()
    }
}

fn map(factor: &Factor) -> Linear {
    let data: SharedBytes = Arc::new(factor.data.clone());
    let matrix = FloatMatrix::new(factor.dtype, factor.n_rows, factor.n_cols, data);
    Linear { matrix: Matrix::Float(matrix.expect("checked when it was read")), bias: None }
}

/// An adapter and its strength.
type Weighted = (Arc<Adapter>, f32);

/// The adapters of a sequence, each with its strength; usually none.
#[derive(Clone, Debug, Default)]
pub struct Adapters(Option<Arc<[Weighted]>>);

impl Adapters {
    /// These, in this order, each with what its product is multiplied by besides what its file says. Those of 0 are left out.
    pub fn new(adapters: impl IntoIterator<Item = (Arc<Adapter>, f32)>) -> Adapters {
        let list: Vec<Weighted> = adapters.into_iter().filter(|(_, scale)| *scale != 0.0).collect();
        Adapters((!list.is_empty()).then(|| list.into()))
    }

    /// The adapters and their strengths, in order.
    pub fn list(&self) -> &[(Arc<Adapter>, f32)] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// The same adapters, not equal ones, in the same order and strength.
impl PartialEq for Adapters {
    fn eq(&self, other: &Adapters) -> bool {
        let (a, b) = (self.list(), other.list());
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(&a.0, &b.0) && a.1 == b.1)
    }
}

/// Tokens of a pass to which one adapter is applied.
pub(crate) struct Group {
    adapter: Arc<Adapter>,
    /// Rows, ascending, and the strength for each.
    rows: Vec<(usize, f32)>,
}

/// Which rows of a pass get which adapters; nothing for sequences without any. All sequences' first adapters come first,
/// then all second ones, so that each sequence's are added in its order.
pub(crate) fn groups(items: &[(&mut Sequence, &[u32])]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let n_levels = items.iter().map(|(sequence, _)| sequence.adapters().list().len()).max().unwrap_or(0);
    for level in 0..n_levels {
        let begin = groups.len();
        let mut row = 0;
        for (sequence, tokens) in items {
            let rows = row..row + tokens.len();
            row = rows.end;
            let Some((adapter, scale)) = sequence.adapters().list().get(level) else { continue };
            let known = groups[begin..].iter().position(|group| Arc::ptr_eq(&group.adapter, adapter));
            let idx = known.map_or(groups.len(), |idx| begin + idx);
            if known.is_none() {
                groups.push(Group { adapter: Arc::clone(adapter), rows: Vec::new() });
            }
            groups[idx].rows.extend(rows.map(|row| (row, *scale)));
        }
    }
    groups
}

/// Memory for what adapters compute, kept from pass to pass.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Inputs of the rows concerned, where that are not all.
    input: Activations,
    /// A x, of several maps side by side.
    narrow: Vec<f32>,
    /// Of one map, times the strength.
    scaled: Activations,
    /// B (A x).
    wide: Vec<f32>,
}

/// A map, and from which column on its rows lie in those that are added to.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub slot: LayerSlot,
    pub first_col: usize,
}

/// Whether any of the groups adds to one of these.
pub(crate) fn touches(groups: &[Group], layer_idx: usize, slots: &[LayerSlot]) -> bool {
    groups.iter().any(|group| slots.iter().any(|slot| group.adapter.pair(layer_idx, *slot).is_some()))
}

impl Scratch {
    /// Adds what the groups' adapters make of the input of some maps of a layer to these maps' outputs, which lie side by
    /// side in the rows of `out`.
    pub fn add(
        &mut self,
        (pool, isa): (&mut Pool, Isa),
        groups: &[Group],
        layer_idx: usize,
        targets: &[Target],
        input: &Activations,
        out: &mut [f32],
    ) {
        for group in groups {
            let pairs: Vec<(&Pair, usize)> = targets
                .iter()
                .filter_map(|target| Some((group.adapter.pair(layer_idx, target.slot)?, target.first_col)))
                .collect();
            self.add_pairs((&mut *pool, isa), &pairs, &group.rows, input, out);
        }
    }

    /// The same for the output, of which `rows` of the pass are computed.
    pub fn add_output(
        &mut self,
        (pool, isa): (&mut Pool, Isa),
        groups: &[Group],
        rows: &[usize],
        input: &Activations,
        out: &mut [f32],
    ) {
        for group in groups {
            let Some(pair) = &group.adapter.output else { continue };
            let scale = |row: usize| group.rows.binary_search_by_key(&row, |(row, _)| *row);
            let chosen: Vec<(usize, f32)> = rows
                .iter()
                .enumerate()
                .filter_map(|(i, row)| Some((i, group.rows[scale(*row).ok()?].1)))
                .collect();
            self.add_pairs((&mut *pool, isa), &[(pair, 0)], &chosen, input, out);
        }
    }

    /// The same for the embedding of these tokens.
    pub fn add_embedding(
        &mut self,
        (pool, isa): (&mut Pool, Isa),
        groups: &[Group],
        tokens: &[u32],
        embed_scale: f32,
        out: &mut [f32],
    ) {
        for group in groups {
            let Some(pair) = &group.adapter.embedding else { continue };
            let rank = pair.a.matrix.n_cols();
            self.narrow.resize(group.rows.len() * rank, 0.0);
            for ((row, _), narrow) in group.rows.iter().zip(self.narrow.chunks_exact_mut(rank)) {
                pair.a.matrix.dequantize_row(tokens[*row] as usize, narrow);
            }
            let row_len = out.len() / tokens.len();
            let shape = Shape { col: 0, n_cols: rank, first_col: 0, row_len, factor: embed_scale };
            self.widen((&mut *pool, isa), pair, &group.rows, shape, out);
        }
    }

    fn add_pairs(
        &mut self,
        (pool, isa): (&mut Pool, Isa),
        pairs: &[(&Pair, usize)],
        rows: &[(usize, f32)],
        input: &Activations,
        out: &mut [f32],
    ) {
        if pairs.is_empty() || rows.is_empty() {
            return;
        }
        let n_in = pairs[0].0.a.matrix.n_cols();
        let is_all = rows.len() == input.n_tokens();
        if !is_all {
            self.input.fill(pool, isa, (rows.len(), n_in), Form::Float, |i, row| {
                row.copy_from_slice(&input.rows()[rows[i].0 * n_in..][..n_in]);
            });
        }
        let chosen = if is_all { input } else { &self.input };
        let maps: Vec<&Linear> = pairs.iter().map(|(pair, _)| &pair.a).collect();
        let n_cols = maps.iter().map(|map| map.matrix.n_rows()).sum();
        self.narrow.resize(rows.len() * n_cols, 0.0);
        linear(pool, isa, &maps, chosen, Mode::Store, &mut self.narrow);
        let row_len = out.len() / input.n_tokens();
        let mut col = 0;
        for (pair, first_col) in pairs {
            let shape = Shape { col, n_cols, first_col: *first_col, row_len, factor: 1.0 };
            self.widen((&mut *pool, isa), pair, rows, shape, out);
            col += pair.a.matrix.n_rows();
        }
    }

    /// out += scale * B narrow
    fn widen(
        &mut self,
        (pool, isa): (&mut Pool, Isa),
        pair: &Pair,
        rows: &[(usize, f32)],
        shape: Shape,
        out: &mut [f32],
    ) {
        let Shape { col, n_cols, first_col, row_len, factor } = shape;
        let (n_out, rank) = (pair.b.matrix.n_rows(), pair.b.matrix.n_cols());
        let narrow = &self.narrow;
        self.scaled.fill(pool, isa, (rows.len(), rank), Form::Float, |i, row| {
            let scale = pair.scale * rows[i].1 * factor;
            row.iter_mut().zip(&narrow[i * n_cols + col..]).for_each(|(to, from)| *to = scale * from);
        });
        // The very sums that are made below, without a detour.
        if n_out == row_len && rows.len() * row_len == out.len() {
            return linear(pool, isa, &[&pair.b], &self.scaled, Mode::Add, out);
        }
        self.wide.resize(rows.len() * n_out, 0.0);
        linear(pool, isa, &[&pair.b], &self.scaled, Mode::Store, &mut self.wide);
        for ((row, _), wide) in rows.iter().zip(self.wide.chunks_exact(n_out)) {
            let to = &mut out[row * row_len + first_col..][..n_out];
            to.iter_mut().zip(wide).for_each(|(to, from)| *to += from);
        }
    }
}

/// How what is computed lies.
#[derive(Clone, Copy)]
struct Shape {
    /// Where in the narrow rows the pair's part begins, and how long they are.
    col: usize,
    n_cols: usize,
    /// The same of the output's rows.
    first_col: usize,
    row_len: usize,
    /// Besides the strength.
    factor: f32,
}

impl Engine {
    /// An empty sequence that is computed with these adapters, to its end and in all that begins as it does.
    ///
    /// # Errors
    /// If one of them was made for another model.
    pub fn new_adapted_sequence(&self, adapters: &Adapters) -> Result<Sequence, Error> {
        if adapters.list().iter().any(|(adapter, _)| !adapter.fits(self.config())) {
            return Err(Error::BadOption("the adapter was made for another model".to_owned()));
        }
        Ok(self.new_sequence().with_adapters(adapters.clone()))
    }
}
