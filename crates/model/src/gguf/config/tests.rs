//! Keys that are read, keys that are refused.

use super::*;
use crate::fixture::{self, FAMILIES, GgufParts, Meta};
use crate::gguf::{ArrayBuf, ValueType};

fn read(family: Family, edit: impl FnOnce(&mut GgufParts)) -> Result<Config, ConfigError> {
    let mut parts = GgufParts::of(family);
    edit(&mut parts);
    config_of(&parts.gguf())
}

/// Asserts that setting `key` to `value` makes a file of every family that is refused as not supported, by its name.
fn assert_unsupported(key: &str, value: Meta, name: &str) {
    for family in FAMILIES {
        let error = read(family, |parts| parts.set(key, value.clone())).unwrap_err();
        assert!(
            matches!(&error, ConfigError::Unsupported { what } if what.contains(name)),
            "{key}: {error:?}"
        );
    }
}

fn bools(values: [bool; 7]) -> Meta {
    Meta::Array(ArrayBuf::new(ValueType::Bool, values.map(Value::Bool)))
}

#[test]
fn every_family_is_read() {
    for family in FAMILIES {
        assert_eq!(read(family, |_| ()), Ok(fixture::config(family)));
    }
}

#[test]
fn what_may_be_left_out() {
    let config = read(Family::Llama, |parts| {
        ["attention.key_length", "attention.value_length", "rope.freq_base"]
            .into_iter()
            .for_each(|key| parts.unset(key));
    });
    // 32 over 4 heads; the base of the first Llama.
    let config = config.unwrap();
    assert_eq!((config.head_dim, config.rope.rotary_dim, config.rope.theta), (8, 8, 1e4));
    assert_eq!(read(Family::Llama, |parts| parts.unset("attention.head_count_kv")).unwrap().n_kv_heads, 4);
    assert_eq!(
        read(Family::Gemma3, |parts| parts.unset("attention.sliding_window")).unwrap().sliding_window,
        None
    );
    let stated = read(Family::Qwen2, |parts| parts.set("vocab_size", Meta::U32(24))).unwrap();
    assert_eq!(stated.vocab_size, 24);
    let rotary = read(Family::Llama, |parts| parts.set("rope.dimension_count", Meta::U32(4))).unwrap();
    assert_eq!(rotary.rope.rotary_dim, 4);
}

#[test]
fn what_may_not() {
    for family in FAMILIES {
        for key in [
            "block_count",
            "context_length",
            "embedding_length",
            "feed_forward_length",
            "attention.head_count",
            "attention.layer_norm_rms_epsilon",
        ] {
            let error = read(family, |parts| parts.unset(key)).unwrap_err();
            assert!(
                matches!(&error, ConfigError::Missing { key: missing } if missing.ends_with(key)),
                "{error:?}"
            );
        }
    }
    let error = read(Family::Qwen3, |parts| parts.unset("rope.freq_base")).unwrap_err();
    assert_eq!(error, ConfigError::Missing { key: "qwen3.rope.freq_base".into() });
    let error = read(Family::Llama, |parts| parts.keys.clear()).unwrap_err();
    assert_eq!(error, ConfigError::Missing { key: "general.architecture".into() });
}

#[test]
fn unknown_architecture_lists_those_supported() {
    let error = read(Family::Llama, |parts| parts.keys[0].1 = Meta::Text("mamba".repeat(99))).unwrap_err();
    let sentence = error.to_string();
    assert!(matches!(error, ConfigError::UnknownArchitecture { .. }));
    for name in ["mamba", "llama", "qwen2", "qwen3", "gemma3"] {
        assert!(sentence.contains(name));
    }
    assert!(sentence.len() < 300);
    let error = read(Family::Llama, |parts| parts.keys[0].1 = Meta::U32(1)).unwrap_err();
    assert!(matches!(error, ConfigError::Invalid { .. }));
}

#[test]
fn values_of_the_wrong_type() {
    for (key, value) in [
        ("block_count", Meta::Text("7".into())),
        ("block_count", Meta::F32(7.0)),
        ("rope.freq_base", Meta::Text("1e6".into())),
        ("rope.scaling.type", Meta::U32(1)),
        ("attention.sliding_window", Meta::F32(8.0)),
    ] {
        let error = read(Family::Gemma3, |parts| parts.set(key, value)).unwrap_err();
        assert!(
            matches!(&error, ConfigError::Invalid { key: wrong, .. } if wrong.ends_with(key)),
            "{error:?}"
        );
    }
}

#[test]
fn absurd_values() {
    for (key, value) in [
        ("block_count", Meta::U32(0)),
        ("block_count", Meta::U32(u32::MAX)),
        ("context_length", Meta::U32(0)),
        ("context_length", Meta::U32(u32::MAX)),
        ("embedding_length", Meta::U32(u32::MAX)),
        ("feed_forward_length", Meta::U32(0)),
        ("attention.head_count", Meta::U32(0)),
        ("attention.head_count", Meta::U32(1 << 20)),
        ("attention.head_count_kv", Meta::U32(0)),
        ("attention.head_count_kv", Meta::U32(3)),
        ("vocab_size", Meta::U32(u32::MAX)),
        ("rope.dimension_count", Meta::U32(18)),
        ("rope.dimension_count", Meta::U32(3)),
        ("rope.dimension_count", Meta::U32(0)),
        ("rope.freq_base", Meta::F32(0.0)),
        ("rope.freq_base", Meta::F32(f32::NAN)),
        ("rope.scaling.factor", Meta::F32(0.5)),
        ("rope.scaling.factor", Meta::F32(f32::INFINITY)),
        ("attention.layer_norm_rms_epsilon", Meta::F32(-1.0)),
    ] {
        for family in FAMILIES {
            let error = read(family, |parts| parts.set(key, value.clone())).unwrap_err();
            assert!(matches!(error, ConfigError::Invalid { .. }), "{key}: {error:?}");
        }
    }
    let odd = read(Family::Llama, |parts| {
        parts.set("attention.key_length", Meta::U32(15));
        parts.set("attention.value_length", Meta::U32(15));
    });
    assert!(matches!(odd, Err(ConfigError::Invalid { .. })), "{odd:?}");
}

#[test]
fn unsupported_settings_are_refused_by_name() {
    assert_unsupported("rope.scaling.type", Meta::Text("yarn".into()), "yarn");
    assert_unsupported("rope.scaling.type", Meta::Text("longrope".into()), "longrope");
    assert_unsupported("rope.scaling.attn_factor", Meta::F32(1.2), "rope.scaling.attn_factor");
    assert_unsupported("attn_logit_softcapping", Meta::F32(50.0), "attn_logit_softcapping");
    assert_unsupported("final_logit_softcapping", Meta::F32(30.0), "final_logit_softcapping");
    assert_unsupported("expert_count", Meta::U32(8), "expert_count");
    assert_unsupported("attention.causal", Meta::Bool(false), "attention.causal");
    assert_unsupported("attention.value_length", Meta::U32(8), "value length");
    assert_unsupported("attention.head_count", Meta::Array(ArrayBuf::i32s([4; 7])), "head_count");
    assert_unsupported("something.new", Meta::U32(1), "something.new");
    assert_unsupported(&"x".repeat(10_000), Meta::U32(1), "xxx");
}

#[test]
fn settings_that_are_off_are_no_matter() {
    for family in FAMILIES {
        let config = read(family, |parts| {
            parts.set("expert_count", Meta::U32(0));
            parts.set("attention.causal", Meta::Bool(true));
            parts.set("final_logit_softcapping", Meta::F32(0.0));
            parts.set("rope.scaling.type", Meta::Text("none".into()));
            parts.set("tensor_data_layout", Meta::Text("Meta AI original pth".into()));
            parts.keys.push(("another.rope.scaling.type".into(), Meta::Text("yarn".into())));
        });
        assert_eq!(config, Ok(fixture::config(family)));
    }
}

#[test]
fn rope_scaling() {
    for family in FAMILIES {
        let by_factor = read(family, |parts| parts.set("rope.scaling.factor", Meta::F32(8.0)));
        assert_eq!(by_factor.unwrap().rope.scaling, RopeScaling::Linear { factor: 8.0 });
        let by_both = read(family, |parts| {
            parts.set("rope.scaling.type", Meta::Text("linear".into()));
            parts.set("rope.scaling.factor", Meta::F32(8.0));
        });
        assert_eq!(by_both.unwrap().rope.scaling, RopeScaling::Linear { factor: 8.0 });
        let error =
            read(family, |parts| parts.set("rope.scaling.type", Meta::Text("linear".into()))).unwrap_err();
        assert!(matches!(error, ConfigError::Missing { .. }));
    }
}

#[test]
fn rope_frequencies_of_their_own() {
    let divisors = [1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0];
    let config = read(Family::Llama, |parts| parts.rope_freqs = divisors.to_vec()).unwrap();
    assert_eq!(config.rope.scaling, RopeScaling::PerFrequency(divisors.to_vec()));
    for wrong in [&divisors[1..], &[f32::NAN; 8], &[0.0; 8], &[-1.0; 8], &[f32::INFINITY; 8]] {
        let error = read(Family::Llama, |parts| parts.rope_freqs = wrong.to_vec()).unwrap_err();
        assert!(matches!(error, ConfigError::Invalid { .. }), "{error:?}");
    }
    let both = read(Family::Llama, |parts| {
        parts.rope_freqs = divisors.to_vec();
        parts.set("rope.scaling.factor", Meta::F32(2.0));
    });
    assert!(matches!(both, Err(ConfigError::Unsupported { .. })));
}

#[test]
fn windows() {
    let layers =
        |config: Result<Config, ConfigError>| config.unwrap().sliding_window.unwrap().layer_is_windowed;
    let set = |key: &'static str, value: Meta| move |parts: &mut GgufParts| parts.set(key, value);
    const PATTERN: &str = "attention.sliding_window_pattern";
    let every_third = [true, true, false, true, true, false, true];
    assert_eq!(layers(read(Family::Gemma3, set(PATTERN, Meta::U32(3)))), every_third);
    let listed = [false, true, true, false, false, true, false];
    assert_eq!(layers(read(Family::Gemma3, set(PATTERN, bools(listed)))), listed);
    // A Mistral in llama's clothes: all layers.
    assert_eq!(layers(read(Family::Llama, set("attention.sliding_window", Meta::U32(16)))), [true; 7]);
    assert_eq!(
        read(Family::Llama, set("attention.sliding_window", Meta::U32(0))),
        Ok(fixture::config(Family::Llama))
    );
    let scaled = read(Family::Llama, |parts| {
        parts.set("attention.sliding_window", Meta::U32(16));
        parts.set("rope.scaling.factor", Meta::F32(2.0));
    });
    assert!(matches!(scaled, Err(ConfigError::Unsupported { .. })));
    for wrong in
        [Meta::Text("6".into()), Meta::Array(ArrayBuf::i32s([1; 7])), Meta::Array(ArrayBuf::i32s([1; 6]))]
    {
        let error = read(Family::Gemma3, set(PATTERN, wrong)).unwrap_err();
        assert!(matches!(error, ConfigError::Invalid { .. }), "{error:?}");
    }
    let local = read(Family::Gemma3, set("rope.freq_base_swa", Meta::F32(5e3))).unwrap();
    assert_eq!((local.rope.theta, local.rope.theta_local), (1e6, 5e3));
}

#[test]
fn gemma3_27b_scales_attention_by_its_width() {
    let config = read(Family::Gemma3, |parts| {
        parts.set("block_count", Meta::U32(62));
        parts.set("embedding_length", Meta::U32(36));
    });
    // 36 over 4 heads, not the 16 of a head.
    assert_eq!(config.unwrap().attn_scale, 1.0 / 3.0);
}

#[test]
fn a_vocabulary_larger_than_the_embedding() {
    let check = |tokens: Meta| {
        let mut parts = GgufParts::of(Family::Llama);
        parts.keys.push(("tokenizer.ggml.tokens".into(), tokens));
        check_vocabulary(&parts.gguf(), &fixture::config(Family::Llama))
    };
    assert_eq!(check(Meta::Array(ArrayBuf::strings(["t"; 24]))), Ok(()));
    assert_eq!(check(Meta::Array(ArrayBuf::strings(["t"; 20]))), Ok(()));
    assert!(check(Meta::Array(ArrayBuf::strings(["t"; 25]))).is_err());
    assert!(check(Meta::Text("t".into())).is_err());
}
