//! What of a layer may go, and which lines of its tensors that is.

use edgeward_model::Config;
use edgeward_model::tensor::LayerSlot;

/// What of each layer stays, by its old number; units by theirs, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// Neurons.
    pub neurons: Vec<usize>,
    /// Key-value heads.
    pub kv_heads: Vec<usize>,
}

/// Along which side a tensor has the units that may go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Rows,
    Cols,
}

/// What a tensor of a layer has a part for each of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Neurons(Side),
    /// Key-value heads; whether with the query heads of each.
    Heads(Side, HeadKind),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadKind {
    Query,
    KeyValue,
}

impl Part {
    pub(super) fn of(slot: LayerSlot) -> Part {
        match slot {
            LayerSlot::Gate | LayerSlot::Up => Part::Neurons(Side::Rows),
            LayerSlot::Down => Part::Neurons(Side::Cols),
            LayerSlot::Q => Part::Heads(Side::Rows, HeadKind::Query),
            LayerSlot::K | LayerSlot::V => Part::Heads(Side::Rows, HeadKind::KeyValue),
            LayerSlot::O | LayerSlot::QBias => Part::Heads(Side::Cols, HeadKind::Query),
            LayerSlot::KBias | LayerSlot::VBias => Part::Heads(Side::Cols, HeadKind::KeyValue),
            _ => Part::Whole,
        }
    }
}

/// The rows or columns that heads have in a matrix.
pub(super) fn head_lines(config: &Config, kind: HeadKind, kv_heads: &[usize]) -> Vec<usize> {
    let n_each = match kind {
        HeadKind::Query => config.n_heads / config.n_kv_heads * config.head_dim,
        HeadKind::KeyValue => config.head_dim,
    };
    kv_heads.iter().flat_map(|head| head * n_each..(head + 1) * n_each).collect()
}

impl Units {
    /// All of a layer.
    pub fn all(config: &Config) -> Units {
        Units { neurons: (0..config.ffn_dim).collect(), kv_heads: (0..config.n_kv_heads).collect() }
    }

    /// The lines of a tensor that stay, and along which side they are; `None` if it stays whole.
    pub(super) fn lines(&self, config: &Config, slot: LayerSlot) -> Option<(Side, Vec<usize>)> {
        match Part::of(slot) {
            Part::Neurons(side) if self.neurons.len() < config.ffn_dim => Some((side, self.neurons.clone())),
            Part::Heads(side, kind) if self.kv_heads.len() < config.n_kv_heads => {
                Some((side, head_lines(config, kind, &self.kv_heads)))
            }
            _ => None,
        }
    }
}
