//! What is shown of whole and of broken models.

use super::*;
use crate::config::Family;
use crate::fixture::{self, GgufParts, Meta};
use crate::gguf::ArrayBuf;
use crate::layout::Naming;

const BUDGET: Budget =
    Budget { context_len: Some(64), kv_dtype: DType::F16, n_batch: 2, available_bytes: Some(1 << 20) };

fn inspect_gguf(edit: impl FnOnce(&mut GgufParts)) -> Inspection {
    let mut parts = GgufParts::of(Family::Llama);
    edit(&mut parts);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), parts.bytes()).unwrap();
    inspect(file.path(), &BUDGET).unwrap()
}

#[test]
fn a_gguf_file() {
    let tokens: Vec<String> = (0..24).map(|i| format!("t{i}")).collect();
    let inspection = inspect_gguf(|parts| {
        let tokens = ArrayBuf::strings(tokens.iter().map(String::as_str));
        parts.keys.push(("tokenizer.ggml.tokens".into(), Meta::Array(tokens)));
    });
    assert_eq!(inspection.format, Format::Gguf { version: 3 });
    let of = |key: &str| inspection.metadata.iter().find(|entry| entry.key == key).unwrap();
    let tokens = of("tokenizer.ggml.tokens");
    assert_eq!((tokens.value_type.as_str(), tokens.n_elements), ("array of string", Some(24)));
    assert_eq!(tokens.value, serde_json::json!(["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"]));
    let epsilon = of("llama.attention.layer_norm_rms_epsilon");
    assert_eq!((epsilon.value_type.as_str(), epsilon.value.to_string().as_str()), ("f32", "1e-6"));
    let embedding = &inspection.tensors[0];
    assert_eq!(
        (embedding.name.as_str(), &embedding.shape[..], embedding.size_bytes),
        ("token_embd.weight", &[24, 32][..], 3072)
    );
    let n_params: u64 =
        inspection.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
    assert_eq!(inspection.n_params, n_params);
    let [total] = &inspection.types[..] else { panic!("{:?}", inspection.types) };
    assert_eq!((total.dtype, total.n_params, total.size_bytes), ("F32", n_params, 4 * n_params));

    let Verdict::Runs { config, memory } = &inspection.verdict else { panic!("{:?}", inspection.verdict) };
    assert_eq!(**config, fixture::config(Family::Llama));
    assert_eq!(memory.weights_bytes, 4 * n_params);
    // Keys and values, 7 layers, 2 heads of 16, 64 tokens, 2 bytes.
    assert_eq!(memory.kv_cache_bytes, 2 * 7 * 2 * 16 * 64 * 2);
    // Two tokens: the residual stream thrice, q and its output, k and v, gate and up; one row of logits.
    assert_eq!(memory.activation_bytes, 4 * (2 * (3 * 32 + 2 * 64 + 2 * 32 + 2 * 48) + 24));
    assert_eq!(memory.total_bytes, memory.weights_bytes + memory.kv_cache_bytes + memory.activation_bytes);
    assert_eq!(memory.fits, Some(true));
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["verdict"]["runs"]["config"]["rope"]["layout"], "interleaved");
    assert_eq!(json["format"]["gguf"]["version"], 3);
}

#[test]
fn a_model_that_cannot_be_run_is_described_all_the_same() {
    let inspection = inspect_gguf(|parts| parts.keys[0].1 = Meta::Text("mamba".into()));
    assert_eq!(inspection.tensors.len(), 65);
    let Verdict::Refused { reason } = &inspection.verdict else { panic!("{:?}", inspection.verdict) };
    assert!(reason.contains("mamba") && reason.contains("llama"), "{reason}");
    let inspection = inspect_gguf(|parts| drop(parts.tensors.remove(5)));
    assert!(matches!(&inspection.verdict, Verdict::Refused { reason } if reason.contains("blk.0.")));
}

#[test]
fn a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = fixture::tensors(Naming::HuggingFace, &fixture::config(Family::Gemma3), false);
    fixture::write_folder(folder.path(), &fixture::config_json("Gemma3ForCausalLM"), &tensors);
    let inspection = inspect(folder.path(), &BUDGET).unwrap();
    assert_eq!(inspection.format, Format::Safetensors { n_files: 1 });
    assert_eq!(inspection.tensors.len(), tensors.len());
    let sizes = inspection.metadata.iter().find(|entry| entry.key == "config.hidden_size").unwrap();
    assert_eq!((sizes.value_type.as_str(), &sizes.value), ("number", &serde_json::json!(32)));
    assert!(matches!(inspection.verdict, Verdict::Runs { .. }));
}

#[test]
fn a_damaged_file_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"GGUF").unwrap();
    assert!(matches!(inspect(file.path(), &BUDGET), Err(LoadError::Gguf { .. })));
}

#[test]
fn memory_that_is_not_enough() {
    let config = fixture::config(Family::Llama);
    let budget = |context_len, available_bytes| Budget { context_len, available_bytes, ..BUDGET };
    let of = |budget: Budget| MemoryEstimate::new(&config, 1000, &budget);
    let known = of(budget(Some(10), Some(0)));
    assert_eq!((known.fits, known.longest_context_len), (Some(false), Some(0)));
    let exact = of(budget(Some(10), Some(known.total_bytes)));
    assert_eq!((exact.fits, exact.longest_context_len), (Some(true), Some(10)));
    let short = of(budget(Some(10), Some(known.total_bytes - 1)));
    assert_eq!((short.fits, short.longest_context_len), (Some(false), Some(9)));
    let unknown = of(budget(None, None));
    assert_eq!((unknown.context_len, unknown.fits, unknown.longest_context_len), (128, None, None));
    let absurd = of(budget(Some(usize::MAX), Some(1 << 40)));
    assert_eq!((absurd.total_bytes, absurd.fits), (u64::MAX, Some(false)));
}

#[test]
fn a_quantised_cache_is_smaller() {
    let config = fixture::config(Family::Llama);
    let of = |kv_dtype| MemoryEstimate::new(&config, 0, &Budget { kv_dtype, ..BUDGET }).kv_cache_bytes;
    // A head of 16 takes a whole block of 32.
    assert_eq!((of(DType::F16), of(DType::Q8_0)), (2 * 7 * 2 * 64 * 32, 2 * 7 * 2 * 64 * 34));
}
