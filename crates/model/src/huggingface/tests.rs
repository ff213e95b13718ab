//! Both spellings of config.json, and what is refused in it.

use serde_json::{Value as Json, json};

use super::*;
use crate::fixture;

const CLASSES: [(&str, Family); 5] = [
    ("LlamaForCausalLM", Family::Llama),
    ("MistralForCausalLM", Family::Llama),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen3ForCausalLM", Family::Qwen3),
    ("Gemma3ForCausalLM", Family::Gemma3),
];

fn read(class: &str, edit: impl FnOnce(&mut Json)) -> Result<Config, ConfigError> {
    let mut json = fixture::config_json(class);
    edit(&mut json);
    config_of(json.as_object().unwrap()).map(|(config, _)| config)
}

fn remove(json: &mut Json, key: &str) {
    assert!(json.as_object_mut().unwrap().remove(key).is_some(), "{key} was not there");
}

/// As GGUF says it, but for what differs between the formats.
fn expected(family: Family) -> Config {
    let mut config = fixture::config(family);
    config.rope.layout = RopeLayout::Halves;
    config.norm_weight_offset = if family == Family::Gemma3 { 1.0 } else { 0.0 };
    config
}

#[test]
fn the_old_spelling() {
    for (class, family) in CLASSES {
        assert_eq!(read(class, |_| ()), Ok(expected(family)), "{class}");
    }
}

#[test]
fn the_new_spelling() {
    for (class, family) in CLASSES {
        let config = read(class, |json| {
            remove(json, "rope_theta");
            remove(json, "rope_scaling");
            json["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 1e6 });
            if family == Family::Gemma3 {
                remove(json, "rope_local_base_freq");
                remove(json, "sliding_window_pattern");
                json["rope_parameters"] = json!({
                    "full_attention": { "rope_type": "default", "rope_theta": 1e6 },
                    "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 },
                });
                let window = expected(family).sliding_window.unwrap();
                let kind = |&w: &bool| if w { "sliding_attention" } else { "full_attention" };
                json["layer_types"] = window.layer_is_windowed.iter().map(kind).collect();
            }
        });
        assert_eq!(config, Ok(expected(family)), "{class}");
    }
}

#[test]
fn what_may_be_left_out() {
    let llama = read("LlamaForCausalLM", |json| {
        ["num_key_value_heads", "head_dim", "rope_theta"].into_iter().for_each(|key| remove(json, key));
    });
    let llama = llama.unwrap();
    assert_eq!((llama.n_kv_heads, llama.head_dim, llama.rope.theta), (4, 8, 1e4));
    let mistral = read("MistralForCausalLM", |json| remove(json, "sliding_window")).unwrap();
    assert_eq!(mistral.sliding_window.unwrap().window_len, 4096);
    let gemma = read("Gemma3ForCausalLM", |json| {
        remove(json, "rope_local_base_freq");
        remove(json, "sliding_window_pattern");
    });
    assert_eq!(gemma, Ok(expected(Family::Gemma3)));
}

#[test]
fn what_may_not() {
    let everywhere = [
        "architectures",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
    ];
    let cases = CLASSES.iter().flat_map(|(class, _)| everywhere.map(|key| (*class, key)));
    for (class, key) in cases.chain([
        ("Qwen2ForCausalLM", "rope_theta"),
        ("Qwen3ForCausalLM", "rope_theta"),
        ("Qwen3ForCausalLM", "head_dim"),
        ("Qwen2ForCausalLM", "num_key_value_heads"),
        ("LlamaForCausalLM", "hidden_act"),
        ("Gemma3ForCausalLM", "head_dim"),
        ("Gemma3ForCausalLM", "query_pre_attn_scalar"),
        ("Gemma3ForCausalLM", "sliding_window"),
        ("Gemma3ForCausalLM", "hidden_activation"),
    ]) {
        let error = read(class, |json| remove(json, key)).unwrap_err();
        assert_eq!(error, ConfigError::Missing { key: key.into() }, "{class}");
    }
}

#[test]
fn values_of_the_wrong_type() {
    for (key, value) in [
        ("architectures", json!("LlamaForCausalLM")),
        ("architectures", json!([])),
        ("hidden_size", json!("32")),
        ("hidden_size", json!(-32)),
        ("hidden_size", json!(1e300)),
        ("num_hidden_layers", json!(u64::MAX)),
        ("rms_norm_eps", json!([1])),
        ("rope_scaling", json!(8.0)),
        ("tie_word_embeddings", json!("yes")),
        ("hidden_act", json!(1)),
        ("rms_norm_eps", json!(1e300)),
    ] {
        let error = read("LlamaForCausalLM", |json| json[key] = value.clone()).unwrap_err();
        assert!(
            matches!(error, ConfigError::Invalid { .. } | ConfigError::Missing { .. }),
            "{key} {value}: {error:?}"
        );
    }
}

#[test]
fn unknown_architecture_lists_those_supported() {
    let error = read("MambaForCausalLM", |_| ()).unwrap_err();
    assert_eq!(error, ConfigError::UnknownArchitecture { found: "MambaForCausalLM".into() });
    assert!(error.to_string().contains("qwen3"));
}

#[test]
fn unsupported_settings_are_refused_by_name() {
    for (key, value) in [
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("attn_logit_softcapping", json!(50.0)),
        ("final_logit_softcapping", json!(30.0)),
        ("use_bidirectional_attention", json!(true)),
        ("partial_rotary_factor", json!(0.5)),
        ("rope_interleaved", json!(true)),
        ("quantization_config", json!({ "quant_method": "awq" })),
        ("num_local_experts", json!(8)),
    ] {
        for (class, _) in CLASSES {
            let error = read(class, |json| json[key] = value.clone()).unwrap_err();
            assert!(matches!(&error, ConfigError::Unsupported { what } if what.contains(key)), "{error:?}");
            read(class, |json| json[key] = Json::Null).unwrap();
        }
    }
    for (class, key) in [("LlamaForCausalLM", "hidden_act"), ("Gemma3ForCausalLM", "hidden_activation")] {
        let error = read(class, |json| json[key] = "relu".into()).unwrap_err();
        assert!(matches!(&error, ConfigError::Unsupported { what } if what.contains("relu")), "{error:?}");
    }
    for kind in ["yarn", "dynamic", "longrope", "su"] {
        for spelling in ["rope_type", "type"] {
            for under in ["rope_scaling", "rope_parameters"] {
                let scaling = json!({ spelling: kind, "factor": 4.0, "rope_theta": 1e6 });
                let error = read("Qwen2ForCausalLM", |json| json[under] = scaling).unwrap_err();
                assert!(
                    matches!(&error, ConfigError::Unsupported { what } if what.contains(kind)),
                    "{error:?}"
                );
            }
        }
    }
}

#[test]
fn rope_scaling() {
    let scaling =
        |class: &str, json: Json, under: &str| read(class, |all| all[under] = json).map(|c| c.rope.scaling);
    let linear = json!({ "type": "linear", "factor": 2 });
    assert_eq!(scaling("LlamaForCausalLM", linear, "rope_scaling"), Ok(RopeScaling::Linear { factor: 2.0 }));
    let mut llama3 = json!({
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    let expected = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context_len: 64,
    };
    assert_eq!(scaling("LlamaForCausalLM", llama3.clone(), "rope_scaling"), Ok(expected.clone()));
    assert_eq!(scaling("LlamaForCausalLM", llama3.clone(), "rope_parameters"), Ok(expected));
    llama3["factor"] = Json::Null;
    let error = scaling("LlamaForCausalLM", llama3.clone(), "rope_scaling").unwrap_err();
    assert_eq!(error, ConfigError::Missing { key: "rope_scaling.factor".into() });
    llama3["factor"] = json!(0.1);
    let error = scaling("LlamaForCausalLM", llama3, "rope_scaling").unwrap_err();
    assert!(matches!(error, ConfigError::Invalid { .. }));

    let by_layer = json!({
        "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 },
        "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 },
    });
    let gemma = scaling("Gemma3ForCausalLM", by_layer.clone(), "rope_parameters");
    assert_eq!(gemma, Ok(RopeScaling::Linear { factor: 8.0 }));
    let mut local = by_layer;
    local["sliding_attention"] = local["full_attention"].clone();
    let error = scaling("Gemma3ForCausalLM", local, "rope_parameters").unwrap_err();
    assert!(matches!(error, ConfigError::Unsupported { .. }));
    let old = json!({ "rope_type": "linear", "factor": 8.0 });
    assert_eq!(
        scaling("Gemma3ForCausalLM", old.clone(), "rope_scaling"),
        Ok(RopeScaling::Linear { factor: 8.0 })
    );

    let windowed = read("MistralForCausalLM", |json| {
        json["sliding_window"] = 16.into();
        json["rope_scaling"] = old;
    });
    assert!(matches!(windowed, Err(ConfigError::Unsupported { .. })));
}

#[test]
fn windows() {
    let window = |class: &str, edit: fn(&mut Json)| read(class, edit).unwrap().sliding_window;
    let of =
        |window_len, layers: [bool; 7]| Some(SlidingWindow { window_len, layer_is_windowed: layers.into() });
    assert_eq!(window("MistralForCausalLM", |json| json["sliding_window"] = 16.into()), of(16, [true; 7]));
    // Qwen states a length even where it is not used.
    assert_eq!(window("Qwen2ForCausalLM", |json| json["sliding_window"] = 16.into()), None);
    let from_the_third = window("Qwen2ForCausalLM", |json| {
        json["sliding_window"] = 16.into();
        json["use_sliding_window"] = true.into();
        json["max_window_layers"] = 2.into();
    });
    assert_eq!(from_the_third, of(16, [false, false, true, true, true, true, true]));
    let every_second = window("Gemma3ForCausalLM", |json| json["sliding_window_pattern"] = 2.into());
    assert_eq!(every_second, of(8, [true, false, true, false, true, false, true]));
    for wrong in [
        json!(["full_attention"]),
        json!(vec!["chunked_attention"; 7]),
        json!("full_attention"),
        json!(vec![0; 7]),
    ] {
        let error = read("Gemma3ForCausalLM", |json| json["layer_types"] = wrong).unwrap_err();
        assert!(matches!(error, ConfigError::Invalid { .. }), "{error:?}");
    }
}

#[test]
fn attention_of_gemma3_is_scaled_as_the_file_says() {
    let config = read("Gemma3ForCausalLM", |json| json["query_pre_attn_scalar"] = 168.into()).unwrap();
    assert_eq!(config.attn_scale, 1.0 / 168f32.sqrt());
}

#[test]
fn heads_are_tied_by_the_class_unless_the_file_says() {
    let head = |class: &str, tied: Json| {
        let mut json = fixture::config_json(class);
        json["tie_word_embeddings"] = tied;
        config_of(json.as_object().unwrap()).unwrap().1
    };
    for (class, family) in CLASSES {
        let default = if family == Family::Gemma3 { OutputHead::Tied } else { OutputHead::Own };
        assert_eq!(head(class, Json::Null), default);
        assert_eq!(head(class, true.into()), OutputHead::Tied);
        assert_eq!(head(class, false.into()), OutputHead::Own);
    }
}
