use super::*;

use serde_json::json;
use tempfile::TempDir;

use crate::tokenizer::{AddSpecial, ControlTokens, ParseSpecial};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/encoder/mean")
}

/// A copy of the tiny encoder, to be broken.
fn copy() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
    ] {
        std::fs::copy(source().join(file), dir.path().join(file)).unwrap();
    }
    dir
}

/// The error of a copy in which a key of a file is another.
fn refusal(file: &str, key: &str, value: Value) -> String {
    let dir = copy();
    let path = dir.path().join(file);
    let mut json: Value = read_json(&path).unwrap();
    json[key] = value;
    std::fs::write(&path, json.to_string()).unwrap();
    let error = EncoderModel::load(dir.path()).unwrap_err();
    let cause = std::error::Error::source(&error).map_or(String::new(), |cause| cause.to_string());
    format!("{error}: {cause}")
}

#[test]
fn the_files_are_read_together() {
    let model = EncoderModel::load(&source()).unwrap();
    let config = model.config();
    assert_eq!((config.n_layers, config.hidden_dim, config.ffn_dim, config.n_heads), (2, 36, 52, 3));
    assert_eq!((config.n_positions, config.max_tokens), (64, 64));
    assert_eq!((config.activation, config.pooling), (EncoderActivation::Gelu, Pooling::Mean));
    assert!(config.normalizes && !config.lowercases);
    let other = EncoderModel::load(&source().with_file_name("cls")).unwrap();
    assert_eq!(
        (other.config().activation, other.config().pooling),
        (EncoderActivation::GeluTanh, Pooling::Cls)
    );
    assert!(!other.config().normalizes && other.config().max_tokens == 24);
    assert!(EncoderModel::is_at(&source()) && !EncoderModel::is_at(&source().join("config.json")));
    assert!(!EncoderModel::is_at(&source().join("../../tiny/llama")));
}

#[test]
fn without_modules_the_mean_is_taken() {
    let dir = copy();
    std::fs::remove_file(dir.path().join("modules.json")).unwrap();
    let model = EncoderModel::load(dir.path()).unwrap();
    assert_eq!((model.config().pooling, model.config().normalizes), (Pooling::Mean, false));
}

#[test]
fn newer_files_name_the_pooling() {
    let dir = copy();
    std::fs::write(dir.path().join("1_Pooling/config.json"), r#"{"pooling_mode": "max"}"#).unwrap();
    assert_eq!(EncoderModel::load(dir.path()).unwrap().config().pooling, Pooling::Max);
}

#[test]
fn what_would_change_the_vectors_is_refused() {
    for (file, key, value, reason) in [
        ("config.json", "model_type", json!("roberta"), "roberta"),
        ("config.json", "hidden_act", json!("swish"), "swish"),
        ("config.json", "position_embedding_type", json!("relative_key"), "relative_key"),
        ("config.json", "is_decoder", json!(true), "is_decoder"),
        ("config.json", "architectures", json!(["BertForSequenceClassification"]), "head with 2 labels"),
        ("config.json", "architectures", json!(["BertForTokenClassification"]), "TokenClassification"),
        ("config.json", "num_attention_heads", json!(5), "divisor"),
        ("config.json", "num_hidden_layers", json!(1u64 << 40), "from 1 to 1024"),
        ("config.json", "layer_norm_eps", json!(0.0), "layer_norm_eps"),
        ("config.json", "num_hidden_layers", json!(3), "encoder.layer.2"),
        ("config.json", "num_hidden_layers", json!(1), "encoder.layer.1"),
        ("config.json", "vocab_size", json!(7), "word_embeddings"),
        ("1_Pooling/config.json", "pooling_mode_cls_token", json!(true), "pooling by"),
        ("1_Pooling/config.json", "pooling_mode_mean_tokens", json!(false), "pooling by"),
        ("1_Pooling/config.json", "pooling_mode_weightedmean_tokens", json!(true), "weightedmean"),
        ("sentence_bert_config.json", "max_seq_length", json!(2), "at least 3"),
    ] {
        let error = refusal(file, key, value);
        assert!(error.contains(reason), "{file} {key}: {error}");
    }
}

#[test]
fn a_head_with_one_label_is_a_score() {
    let rank = source().with_file_name("rank");
    let model = EncoderModel::load(&rank).unwrap();
    assert_eq!(model.config().score, Some(Score::Sigmoid));
    let shape = |slot| model.tensor(slot).map(|tensor| (tensor.n_rows, tensor.n_cols));
    assert_eq!(shape(EncoderSlot::Head(EncoderPart::Weight)), Some((1, 36)));
    assert_eq!(shape(EncoderSlot::Pooler(EncoderPart::Weight)), Some((36, 36)));
    assert_eq!(EncoderModel::load(&source()).unwrap().config().score, None);

    let load = |change: &dyn Fn(&mut Value)| {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(rank.join(file), dir.path().join(file)).unwrap();
        }
        let path = dir.path().join("config.json");
        let mut json: Value = read_json(&path).unwrap();
        change(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        EncoderModel::load(dir.path()).map(|model| model.config().score).map_err(|error| {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| cause.to_string());
            format!("{error}: {cause}")
        })
    };
    let identity = "torch.nn.modules.linear.Identity";
    let named = |name: &'static str| {
        move |json: &mut Value| json["sentence_transformers"] = json!({ "activation_fn": name })
    };
    assert_eq!(load(&named(identity)), Ok(Some(Score::Logit)));
    assert_eq!(load(&named("torch.nn.modules.activation.Sigmoid")), Ok(Some(Score::Sigmoid)));
    let old = |json: &mut Value| json["sbert_ce_default_activation_function"] = json!(identity);
    assert_eq!(load(&old), Ok(Some(Score::Logit)));
    for (change, reason) in [
        (&named("torch.nn.modules.activation.Tanh") as &dyn Fn(&mut Value), "Tanh"),
        (&|json| json["id2label"] = json!({ "0": "a", "1": "b" }), "head with 2 labels"),
        (&|json| json["type_vocab_size"] = json!(1), "type_vocab_size"),
        (&|json| json["sentence_transformers"] = json!({ "activation_fn": 1 }), "activation_fn"),
        // As an encoder of vectors it has a head too many.
        (&|json| json["architectures"] = json!(["BertModel"]), "classifier"),
    ] {
        let error = load(change).unwrap_err();
        assert!(error.contains(reason), "{reason}: {error}");
    }
    // A head that is said to be there must be.
    let error = refusal_of_missing_head();
    assert!(error.contains("pooler") || error.contains("classifier"), "{error}");
}

/// The error of the encoder of vectors if its configuration says that it scores pairs.
fn refusal_of_missing_head() -> String {
    let dir = copy();
    let path = dir.path().join("config.json");
    let mut json: Value = read_json(&path).unwrap();
    json["architectures"] = json!(["BertForSequenceClassification"]);
    json["id2label"] = json!({ "0": "LABEL_0" });
    std::fs::write(&path, json.to_string()).unwrap();
    EncoderModel::load(dir.path()).unwrap_err().to_string()
}

#[test]
fn modules_lead_nowhere_else() {
    for (modules, reason) in [
        (
            json!([{ "type": "a.Transformer" }, { "type": "a.Pooling", "path": "../1_Pooling" }]),
            "folder of the model",
        ),
        (
            json!([{ "type": "a.Transformer" }, { "type": "a.Pooling", "path": "/etc" }]),
            "folder of the model",
        ),
        (
            json!([{ "type": "a.Transformer" }, { "type": "a.Pooling", "path": "1_Pooling" }, { "type": "a.Dense" }]),
            "Dense",
        ),
        (json!([{ "type": "a.Transformer" }]), "Transformer"),
        (json!([]), "chain of modules"),
    ] {
        let dir = copy();
        std::fs::write(dir.path().join("modules.json"), modules.to_string()).unwrap();
        let error = EncoderModel::load(dir.path()).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(reason), "{modules}: {cause}");
    }
}

#[test]
fn word_pieces_come_back_as_words() {
    let tokenizer = EncoderModel::load(&source()).unwrap().tokenizer().unwrap();
    let ids = tokenizer.encode("The CAT rereads", AddSpecial::Yes, ParseSpecial::No).unwrap();
    assert_eq!(tokenizer.decode(&ids, ControlTokens::Show).unwrap(), "[CLS] the cat rereads[SEP]");
    assert_eq!(tokenizer.decode(&ids[1..ids.len() - 1], ControlTokens::Hide).unwrap(), "the cat rereads");
    let forged = tokenizer.encode("a[SEP]", AddSpecial::No, ParseSpecial::No).unwrap();
    let end = *ids.last().unwrap();
    assert!(!forged.contains(&end), "text from outside makes no control token");
}
