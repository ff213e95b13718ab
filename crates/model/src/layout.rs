//! Which tensors a model of a family has, their shapes, and what the file formats call them.

use crate::config::{Config, Family};
use crate::tensor::{LayerSlot, Slot};

/// The tensors of one transformer block of that family, all of which must be there.
pub const fn layer_slots(family: Family) -> &'static [LayerSlot] {
    use LayerSlot::*;
    match family {
        Family::Llama => &[AttnNorm, Q, K, V, O, FfnNorm, Gate, Up, Down],
        Family::Qwen2 => &[AttnNorm, Q, K, V, QBias, KBias, VBias, O, FfnNorm, Gate, Up, Down],
        Family::Qwen3 => &[AttnNorm, Q, K, V, QNorm, KNorm, O, FfnNorm, Gate, Up, Down],
        Family::Gemma3 => {
            &[AttnNorm, Q, K, V, QNorm, KNorm, O, PostAttnNorm, FfnNorm, Gate, Up, Down, PostFfnNorm]
        }
    }
}

/// Rows and columns of a tensor; a vector has one row.
pub const fn shape(config: &Config, slot: Slot) -> (usize, usize) {
    use LayerSlot::*;
    let Config { hidden_dim, ffn_dim, head_dim, vocab_size, .. } = *config;
    let q_dim = config.n_heads * head_dim;
    let kv_dim = config.n_kv_heads * head_dim;
    match slot {
        Slot::TokenEmbedding | Slot::Output => (vocab_size, hidden_dim),
        Slot::OutputNorm => (1, hidden_dim),
        Slot::Layer(_, slot) => match slot {
            AttnNorm | PostAttnNorm | FfnNorm | PostFfnNorm => (1, hidden_dim),
            Q => (q_dim, hidden_dim),
            K | V => (kv_dim, hidden_dim),
            QBias => (1, q_dim),
            KBias | VBias => (1, kv_dim),
            QNorm | KNorm => (1, head_dim),
            O => (hidden_dim, q_dim),
            Gate | Up => (ffn_dim, hidden_dim),
            Down => (hidden_dim, ffn_dim),
        },
    }
}

/// Whose names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    Gguf,
    HuggingFace,
}

impl Naming {
    const fn of_layers(self) -> &'static str {
        match self {
            Naming::Gguf => "blk.",
            Naming::HuggingFace => "model.layers.",
        }
    }

    const fn of_globals(self) -> [(Slot, &'static str); 3] {
        match self {
            Naming::Gguf => [
                (Slot::TokenEmbedding, "token_embd.weight"),
                (Slot::OutputNorm, "output_norm.weight"),
                (Slot::Output, "output.weight"),
            ],
            Naming::HuggingFace => [
                (Slot::TokenEmbedding, "model.embed_tokens.weight"),
                (Slot::OutputNorm, "model.norm.weight"),
                (Slot::Output, "lm_head.weight"),
            ],
        }
    }

    /// What follows `blk.7.` or `model.layers.7.`
    const fn of(self, family: Family, slot: LayerSlot) -> &'static str {
        use LayerSlot::*;
        let (gguf, hugging_face) = match slot {
            AttnNorm => ("attn_norm.weight", "input_layernorm.weight"),
            Q => ("attn_q.weight", "self_attn.q_proj.weight"),
            K => ("attn_k.weight", "self_attn.k_proj.weight"),
            V => ("attn_v.weight", "self_attn.v_proj.weight"),
            QBias => ("attn_q.bias", "self_attn.q_proj.bias"),
            KBias => ("attn_k.bias", "self_attn.k_proj.bias"),
            VBias => ("attn_v.bias", "self_attn.v_proj.bias"),
            QNorm => ("attn_q_norm.weight", "self_attn.q_norm.weight"),
            KNorm => ("attn_k_norm.weight", "self_attn.k_norm.weight"),
            O => ("attn_output.weight", "self_attn.o_proj.weight"),
            PostAttnNorm => ("post_attention_norm.weight", "post_attention_layernorm.weight"),
            // Hugging Face names llama's norm for where it stands in the code, Gemma's for what it is for.
            FfnNorm => match family {
                Family::Gemma3 => ("ffn_norm.weight", "pre_feedforward_layernorm.weight"),
                _ => ("ffn_norm.weight", "post_attention_layernorm.weight"),
            },
            Gate => ("ffn_gate.weight", "mlp.gate_proj.weight"),
            Up => ("ffn_up.weight", "mlp.up_proj.weight"),
            Down => ("ffn_down.weight", "mlp.down_proj.weight"),
            PostFfnNorm => ("post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
        };
        match self {
            Naming::Gguf => gguf,
            Naming::HuggingFace => hugging_face,
        }
    }

    /// What a file of these names calls a tensor.
    pub(crate) fn name_of(self, family: Family, slot: Slot) -> String {
        match slot {
            Slot::Layer(layer_idx, slot) => {
                format!("{}{layer_idx}.{}", self.of_layers(), self.of(family, slot))
            }
            global => {
                let named = self.of_globals().into_iter().find(|(slot, _)| *slot == global);
                named.expect("every slot that is not a layer's is listed").1.to_owned()
            }
        }
    }

    /// Where the tensor of that name belongs, if anywhere. No two names belong to one place.
    pub(crate) fn slot_of(self, family: Family, name: &str) -> Option<Slot> {
        if let Some((slot, _)) = self.of_globals().iter().find(|(_, global)| *global == name) {
            return Some(*slot);
        }
        let (layer_idx, suffix) = name.strip_prefix(self.of_layers())?.split_once('.')?;
        let canonical = layer_idx == "0" || layer_idx.starts_with(|c: char| ('1'..='9').contains(&c));
        let layer_idx = layer_idx.parse().ok().filter(|_| canonical)?;
        let slot = layer_slots(family).iter().find(|&&slot| self.of(family, slot) == suffix)?;
        Some(Slot::Layer(layer_idx, *slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_slots_are_one_to_one() {
        for naming in [Naming::Gguf, Naming::HuggingFace] {
            for family in [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Gemma3] {
                let layers =
                    [0, 7, 10, 4095].map(|i| layer_slots(family).iter().map(move |&s| Slot::Layer(i, s)));
                let globals = [Slot::TokenEmbedding, Slot::OutputNorm, Slot::Output];
                let mut names = std::collections::BTreeSet::new();
                for slot in globals.into_iter().chain(layers.into_iter().flatten()) {
                    let name = naming.name_of(family, slot);
                    assert_eq!(naming.slot_of(family, &name), Some(slot), "{name}");
                    assert!(names.insert(name));
                }
            }
        }
    }

    #[test]
    fn a_layer_has_one_spelling() {
        let slot_of = |name| Naming::Gguf.slot_of(Family::Llama, name);
        assert_eq!(slot_of("blk.10.attn_q.weight"), Some(Slot::Layer(10, LayerSlot::Q)));
        for name in [
            "blk.010.attn_q.weight",
            "blk.+1.attn_q.weight",
            "blk..attn_q.weight",
            "blk.1x.attn_q.weight",
            "blk.99999999999999999999.attn_q.weight",
            "blk.1.attn_q.bias",
            "blk.1.attn_q_norm.weight",
            "blk.1",
            "",
        ] {
            assert_eq!(slot_of(name), None, "{name}");
        }
    }
}
