//! Models whole and broken, in both formats.

use std::error::Error;

use super::*;
use crate::config::Family;
use crate::fixture::{self, FAMILIES, GgufParts, Meta, Zeros};
use crate::tensor::LayerSlot;

fn gguf_of(family: Family, edit: impl FnOnce(&mut GgufParts)) -> Result<Model, LoadError> {
    let mut parts = GgufParts::of(family);
    edit(&mut parts);
    Model::from_gguf(parts.gguf(), Path::new("tiny.gguf"))
}

/// A folder whose head is tied or not, with those tensors.
fn folder_of(tied: bool, edit: impl FnOnce(&mut Vec<Zeros>)) -> Result<Model, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let mut json = fixture::config_json("LlamaForCausalLM");
    json["tie_word_embeddings"] = tied.into();
    let mut tensors = fixture::tensors(Naming::HuggingFace, &fixture::config(Family::Llama), !tied);
    edit(&mut tensors);
    fixture::write_folder(folder.path(), &json, &tensors);
    Model::load(folder.path())
}

#[test]
fn every_family_in_gguf() {
    for family in FAMILIES {
        let model = gguf_of(family, |_| ()).unwrap();
        assert_eq!(model.config(), &fixture::config(family));
        assert_eq!(model.tensors().len(), 2 + 7 * layout::layer_slots(family).len());
        for (slot, tensor) in model.tensors() {
            assert_eq!((tensor.n_rows, tensor.n_cols), layout::shape(model.config(), slot));
            assert_eq!(model.tensor(slot).unwrap().name, tensor.name);
            model.release(&tensor);
        }
        assert!(model.tensor(Slot::Output).is_none());
        assert!(model.tensor(Slot::Layer(7, LayerSlot::Q)).is_none());
        assert!(matches!(model.source(), Source::Gguf(_)) && model.gguf().is_some());
        assert!(model.file_bytes() > 0);
    }
}

#[test]
fn every_class_in_a_folder() {
    for (class, family) in [
        ("LlamaForCausalLM", Family::Llama),
        ("MistralForCausalLM", Family::Llama),
        ("Qwen2ForCausalLM", Family::Qwen2),
        ("Qwen3ForCausalLM", Family::Qwen3),
        ("Gemma3ForCausalLM", Family::Gemma3),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let tensors = fixture::tensors(Naming::HuggingFace, &fixture::config(family), false);
        fixture::write_folder(folder.path(), &fixture::config_json(class), &tensors);
        for path in [folder.path(), &folder.path().join("model.safetensors")] {
            let model = Model::load(path).unwrap();
            assert_eq!(model.config().family, family);
            assert_eq!(model.tensors().len(), tensors.len());
            assert!(matches!(model.source(), Source::Folder(at) if at == folder.path()));
            assert_eq!(model.path(), folder.path());
        }
    }
}

#[test]
fn files_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, GgufParts::of(Family::Qwen3).bytes()).unwrap();
    let model = Model::load(&path).unwrap();
    assert_eq!(model.path(), path);
    let before: Vec<Vec<u8>> = model.tensors().map(|(_, tensor)| tensor.data.to_vec()).collect();
    model.tensors().for_each(|(_, tensor)| model.release(&tensor));
    assert!(model.tensors().zip(before).all(|((_, tensor), before)| tensor.data == before));

    std::fs::write(&path, b"no model").unwrap();
    let error = Model::load(&path).unwrap_err();
    assert!(matches!(error, LoadError::Gguf { .. }) && error.source().is_some());
    assert!(matches!(Model::load(folder.path()), Err(LoadError::NoWeights { .. })));
    assert!(matches!(Model::load(&folder.path().join("none.gguf")), Err(LoadError::Gguf { .. })));
    assert!(matches!(
        Model::load(&folder.path().join("none.safetensors")),
        Err(LoadError::Safetensors { .. })
    ));
    let tensors = fixture::tensors(Naming::HuggingFace, &fixture::config(Family::Llama), false);
    fixture::write_folder(folder.path(), &serde_json::json!([]), &tensors);
    assert!(matches!(Model::load(folder.path()), Err(LoadError::Json { .. })));
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    assert!(matches!(Model::load(folder.path()), Err(LoadError::Io { .. })));
}

#[test]
fn a_tensor_is_missing() {
    for family in FAMILIES {
        let n_tensors = GgufParts::of(family).tensors.len();
        for idx in 0..n_tensors {
            let mut removed = String::new();
            let error = gguf_of(family, |parts| {
                removed = parts.tensors.remove(idx).name;
                // Without the embedding nothing else would say how large the vocabulary is.
                parts.set("vocab_size", Meta::U32(24));
            });
            match error {
                Err(LoadError::MissingTensor { name }) => assert_eq!(name, removed),
                other => panic!("{removed}: {other:?}"),
            }
        }
    }
    match folder_of(true, |tensors| drop(tensors.remove(1))) {
        Err(LoadError::MissingTensor { name }) => assert_eq!(name, "model.norm.weight"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tensor_of_another_shape() {
    for family in FAMILIES {
        for idx in 0..GgufParts::of(family).tensors.len() {
            let error = gguf_of(family, |parts| {
                parts.tensors[idx].n_cols += 1;
                parts.set("vocab_size", Meta::U32(24));
            });
            match error {
                Err(LoadError::WrongShape { expected, found, .. }) => {
                    assert_eq!(found, (expected.0, expected.1 + 1))
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_tensor_without_a_place() {
    for name in [
        "blk.0.attn_q.lora",
        "blk.7.attn_q.weight",
        "blk.0.ffn_gate_exps.weight",
        "blk.0.attn_output.bias",
        "v.patch_embd.weight",
    ] {
        for family in FAMILIES {
            let stray = Zeros { name: name.into(), n_rows: 1, n_cols: 32 };
            match gguf_of(family, |parts| parts.tensors.push(stray)) {
                Err(LoadError::UnknownTensor { name: found }) => assert_eq!(found, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
    // Frequencies of their own are llama's alone.
    assert!(gguf_of(Family::Llama, |parts| parts.rope_freqs = vec![1.0; 8]).is_ok());
    let error = gguf_of(Family::Qwen2, |parts| parts.rope_freqs = vec![1.0; 8]);
    assert!(matches!(error, Err(LoadError::UnknownTensor { .. })));
}

#[test]
fn heads_tied_and_not() {
    let head = || Zeros { name: "lm_head.weight".into(), n_rows: 24, n_cols: 32 };
    let has_head = |model: Result<Model, LoadError>| model.unwrap().tensor(Slot::Output).is_some();
    assert!(!has_head(folder_of(true, |_| ())));
    assert!(has_head(folder_of(false, |_| ())));
    assert!(!has_head(folder_of(true, |tensors| tensors.push(head()))), "tied: the copy is not used");
    match folder_of(false, |tensors| tensors.retain(|tensor| tensor.name != "lm_head.weight")) {
        Err(LoadError::MissingTensor { name }) => assert_eq!(name, "lm_head.weight"),
        other => panic!("{other:?}"),
    }
    let gguf_head = Zeros { name: "output.weight".into(), ..head() };
    assert!(has_head(gguf_of(Family::Llama, |parts| parts.tensors.push(gguf_head))));
}

#[test]
fn stored_rotary_frequencies_have_no_place_and_need_none() {
    let old = Zeros { name: "model.layers.0.self_attn.rotary_emb.inv_freq".into(), n_rows: 1, n_cols: 8 };
    assert!(folder_of(true, |tensors| tensors.push(old)).is_ok());
}

#[test]
fn a_part_of_a_split_model() {
    let of = |n| gguf_of(Family::Llama, |parts| parts.keys.push(("split.count".into(), Meta::U32(n))));
    assert!(matches!(of(2), Err(LoadError::SplitGguf { .. })));
    assert!(of(1).is_ok());
}

#[test]
fn every_error_says_what_to_do() {
    for error in [
        folder_of(true, |tensors| drop(tensors.remove(0))).unwrap_err(),
        gguf_of(Family::Llama, |parts| parts.set("vocab_size", Meta::U32(25))).unwrap_err(),
        gguf_of(Family::Llama, |parts| parts.keys.push(("split.count".into(), Meta::U32(2)))).unwrap_err(),
    ] {
        assert!(error.to_string().contains(": "), "{error}");
    }
}
