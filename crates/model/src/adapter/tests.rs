//! One test for each attack, and for what would change the answers.

use super::*;
use crate::fixture;
use crate::gguf::{GgufWriter, Value as Meta};

fn config() -> Config {
    fixture::config(Family::Llama)
}

/// A GGUF file of these keys and tensors, whose elements are all `value`.
fn gguf(keys: &[(&str, Meta<'_>)], tensors: &[(&str, usize, usize)], value: f32) -> Gguf {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.gguf");
    let mut writer = GgufWriter::new();
    for (key, value) in keys {
        writer.key(key, *value).unwrap();
    }
    for (name, n_rows, n_cols) in tensors {
        writer.tensor(name, &[*n_cols, *n_rows], DType::F32).unwrap();
    }
    writer
        .write_file(&path, |name, out| {
            let (_, n_rows, n_cols) = tensors.iter().find(|(other, ..)| *other == name).unwrap();
            (0..n_rows * n_cols).try_for_each(|_| out.write_all(&value.to_le_bytes()))
        })
        .unwrap();
    Gguf::from_bytes(std::fs::read(&path).unwrap()).unwrap()
}

fn keys() -> Vec<(&'static str, Meta<'static>)> {
    vec![
        ("general.type", Meta::String("adapter")),
        ("general.architecture", Meta::String("llama")),
        ("adapter.type", Meta::String("lora")),
        ("adapter.lora.alpha", Meta::F32(8.0)),
    ]
}

/// With one of the keys as given.
fn keys_with(key: &'static str, value: Meta<'static>) -> Vec<(&'static str, Meta<'static>)> {
    let mut keys = keys();
    keys.retain(|(other, _)| *other != key);
    keys.push((key, value));
    keys
}

fn read(gguf: &Gguf) -> Result<Adapter, AdapterError> {
    Adapter::from_gguf(gguf, Path::new("adapter.gguf"), &config())
}

fn refused(gguf: &Gguf, part: &str) {
    let error = read(gguf).expect_err("this adapter must be refused");
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        text = format!("{text}: {source}");
    }
    assert!(text.contains(part), "{text}");
}

const PAIR: [(&str, usize, usize); 2] =
    [("blk.0.attn_q.weight.lora_a", 4, 32), ("blk.0.attn_q.weight.lora_b", 64, 4)];

#[test]
fn a_pair_is_read_with_its_strength() {
    let adapter = read(&gguf(&keys(), &PAIR, 0.5)).unwrap();
    let [pair] = adapter.pairs() else { panic!("one pair") };
    assert_eq!(pair.slot, Slot::Layer(0, LayerSlot::Q));
    assert_eq!((pair.a.n_rows, pair.a.n_cols, pair.b.n_rows, pair.b.n_cols), (4, 32, 64, 4));
    assert_eq!((pair.scale, adapter.n_bytes()), (2.0, 4 * (4 * 32 + 64 * 4)));
    let mut without = keys();
    without.pop();
    assert_eq!(read(&gguf(&without, &PAIR, 0.5)).unwrap().pairs()[0].scale, 1.0);
}

#[test]
fn files_that_are_no_adapters() {
    refused(&gguf(&keys_with("general.type", Meta::String("model")), &PAIR, 0.5), "general.type");
    refused(&gguf(&keys_with("adapter.type", Meta::String("control_vector")), &PAIR, 0.5), "another kind");
    refused(&gguf(&keys_with("general.architecture", Meta::String("qwen3")), &PAIR, 0.5), "Qwen3");
    refused(&gguf(&keys_with("general.architecture", Meta::String("bert")), &PAIR, 0.5), "bert");
    refused(&gguf(&keys(), &[], 0.5), "no tensors");
    let alora = keys_with("adapter.alora.invocation_tokens", Meta::U32(1));
    refused(&gguf(&alora, &PAIR, 0.5), "aLoRA");
}

#[test]
fn tensors_that_fit_nowhere() {
    let [a, b] = PAIR;
    for (name, part) in [
        ("blk.0.attn_norm.weight", "attn_norm"),
        ("blk.7.attn_q.weight.lora_a", "blk.7"),
        ("blk.0.attn_norm.weight.lora_a", "attn_norm"),
        ("output_norm.weight.lora_a", "output_norm"),
        ("blk.0.ffn_gate_exps.weight.lora_a", "exps"),
        ("nonsense", "nonsense"),
    ] {
        refused(&gguf(&keys(), &[a, b, (name, 4, 32)], 0.5), part);
    }
    let long = "x".repeat(50) + ".lora_a";
    refused(&gguf(&keys(), &[(&long, 1, 1)], 0.5), "xxx");
}

#[test]
fn pairs_that_are_none() {
    let [a, b] = PAIR;
    refused(&gguf(&keys(), &[a], 0.5), "only one of its two");
    refused(&gguf(&keys(), &[b], 0.5), "only one of its two");
    refused(&gguf(&keys(), &[(a.0, 4, 31), b], 0.5), "a rank by 32");
    refused(&gguf(&keys(), &[a, (b.0, 63, 4)], 0.5), "64 by a rank");
    refused(&gguf(&keys(), &[a, (b.0, 64, 5)], 0.5), "rank 4");
    let [embedding_a, embedding_b] = ["token_embd.weight.lora_a", "token_embd.weight.lora_b"];
    refused(&gguf(&keys(), &[(embedding_a, 4, 24), (embedding_b, 32, 4)], 0.5), "24 by a rank");
    refused(&gguf(&keys(), &[(embedding_a, 24, 4), (embedding_b, 4, 32)], 0.5), "32 by a rank");
    assert!(read(&gguf(&keys(), &[(embedding_a, 24, 4), (embedding_b, 32, 4)], 0.5)).is_ok());
}

#[test]
fn numbers_that_are_none() {
    refused(&gguf(&keys(), &PAIR, f32::NAN), "not a finite number");
    refused(&gguf(&keys(), &PAIR, f32::INFINITY), "not a finite number");
    refused(&gguf(&keys_with("adapter.lora.alpha", Meta::F32(f32::NAN)), &PAIR, 0.5), "strength");
    refused(&gguf(&keys_with("adapter.lora.alpha", Meta::String("8")), &PAIR, 0.5), "strength");
}

/// A folder of peft's with this configuration, and one pair of these names in halves of 0.5.
fn folder(config: &str, names: [&str; 2]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), config).unwrap();
    let (a_bytes, b_bytes) = (4 * 4 * 32, 4 * 64 * 4);
    let header = format!(
        r#"{{"{}":{{"dtype":"F32","shape":[4,32],"data_offsets":[0,{a_bytes}]}},"{}":{{"dtype":"F32","shape":[64,4],"data_offsets":[{a_bytes},{}]}}}}"#,
        names[0],
        names[1],
        a_bytes + b_bytes
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend((0..(a_bytes + b_bytes) / 4).flat_map(|_| 0.5f32.to_le_bytes()));
    std::fs::write(dir.path().join("adapter_model.safetensors"), file).unwrap();
    dir
}

const NAMES: [&str; 2] = [
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
];

#[test]
fn settings_of_peft() {
    let scale = |settings: &str| {
        let dir = folder(&format!(r#"{{"peft_type": "LORA", "lora_alpha": 6{settings}}}"#), NAMES);
        let by_folder = Adapter::load(dir.path(), &config()).unwrap();
        let by_file = Adapter::load(&dir.path().join("adapter_model.safetensors"), &config()).unwrap();
        assert_eq!(by_folder, by_file);
        by_folder.pairs()[0].scale
    };
    assert_eq!(scale(""), 1.5);
    assert_eq!(scale(r#", "use_rslora": true"#), 3.0);
    assert_eq!(scale(r#", "alpha_pattern": {"q_proj": 2, "k_proj": 9}"#), 0.5);
    assert_eq!(scale(r#", "alpha_pattern": {"proj": 2, "layers.1.self_attn.q_proj": 9}"#), 1.5);
    assert_eq!(
        scale(r#", "use_dora": false, "modules_to_save": null, "bias": "none", "kasa_config": {}"#),
        1.5
    );

    for (settings, part) in [
        (r#"{"lora_alpha": 6}"#, "peft_type"),
        (r#"{"peft_type": "IA3", "lora_alpha": 6}"#, "peft_type"),
        (r#"{"peft_type": "LORA"}"#, "lora_alpha"),
        (r#"{"peft_type": "LORA", "lora_alpha": "x"}"#, "lora_alpha"),
        (r#"{"peft_type": "LORA", "lora_alpha": 1e300}"#, "strength"),
        (r#"{"peft_type": "LORA", "lora_alpha": 6, "use_dora": true}"#, "use_dora"),
        (r#"{"peft_type": "LORA", "lora_alpha": 6, "bias": "all"}"#, "bias"),
        (r#"{"peft_type": "LORA", "lora_alpha": 6, "modules_to_save": ["lm_head"]}"#, "modules_to_save"),
        (r#"{"peft_type": "LORA", "lora_alpha": 6, "alora_invocation_tokens": [1]}"#, "alora"),
        (r#"{"peft_type": "LORA", "lora_alpha": 6, "alpha_pattern": {"[qk]_proj": 1}}"#, "alpha_pattern"),
        (r#"{"peft_type": "LORA", "lora_alpha": 6, "alpha_pattern": {"q_proj": "1"}}"#, "alpha_pattern"),
        ("[]", "JSON object"),
    ] {
        let error = Adapter::load(folder(settings, NAMES).path(), &config()).unwrap_err();
        let source = std::error::Error::source(&error).map_or(String::new(), |source| source.to_string());
        assert!(format!("{error}: {source}").contains(part), "{error}: {source}");
    }
}

#[test]
fn folders_that_are_no_adapters() {
    let good = r#"{"peft_type": "LORA", "lora_alpha": 6}"#;
    for names in [
        [NAMES[0], "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"],
        [NAMES[0], "model.layers.0.self_attn.q_proj.lora_B.weight"],
        [NAMES[0], "base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight"],
        [NAMES[0], "base_model.model.lm_head.weight"],
    ] {
        let error = Adapter::load(folder(good, names).path(), &config()).unwrap_err();
        assert!(matches!(*error.reason, Reason::NoPlace { .. }), "{error}");
    }
    let dir = folder(good, NAMES);
    std::fs::remove_file(dir.path().join("adapter_config.json")).unwrap();
    assert!(Adapter::load(dir.path(), &config()).unwrap_err().to_string().contains("adapter_config.json"));
    let dir = folder(good, NAMES);
    std::fs::write(dir.path().join("adapter_model.safetensors"), [0; 4]).unwrap();
    assert!(matches!(*Adapter::load(dir.path(), &config()).unwrap_err().reason, Reason::Safetensors(_)));
    assert!(Adapter::load(Path::new("/nowhere.gguf"), &config()).is_err());
}

#[test]
fn rows_of_heads_lie_as_the_models_do() {
    // A head of four rows: in halves 0 1 | 2 3, in pairs 0 2 | 1 3.
    let values = |rows: [f32; 4]| Factor {
        dtype: DType::F32,
        n_rows: 4,
        n_cols: 1,
        data: rows.iter().flat_map(|row| row.to_le_bytes()).collect(),
    };
    let mut config = Config { head_dim: 4, ..config() };
    let (halves, pairs) = (values([0.0, 1.0, 2.0, 3.0]), values([0.0, 2.0, 1.0, 3.0]));
    assert_eq!(halves.clone().laid_out(RopeLayout::Halves, &config), pairs);
    assert_eq!(pairs.clone().laid_out(RopeLayout::Interleaved, &config), pairs);
    config.rope.layout = RopeLayout::Halves;
    assert_eq!(pairs.laid_out(RopeLayout::Interleaved, &config), halves);
}
