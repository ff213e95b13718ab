//! Chat templates against what Hugging Face transformers makes of them (`testdata/chat/make_goldens.py`).

use std::path::Path;

use edgeward_model::chat::{ChatError, ChatOptions, ChatTemplate, GenerationPrompt, Message};
use serde_json::Value;

fn testdata() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/chat")
}

fn message(value: &Value) -> Message {
    let mut extra = value.as_object().unwrap().clone();
    let mut take = |key: &str| extra.shift_remove(key).unwrap().as_str().unwrap().to_owned();
    Message { role: take("role"), content: take("content"), extra }
}

#[test]
fn equals_transformers() {
    let goldens: Value =
        serde_json::from_str(&std::fs::read_to_string(testdata().join("goldens.json")).unwrap()).unwrap();
    let mut n_checked = 0;
    for case in goldens["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let template = match name.split_once(':') {
            Some(("builtin", name)) => ChatTemplate::builtin(name).unwrap(),
            // The model's own template is checked where there is a model file.
            Some(_) => continue,
            None => {
                let source = std::fs::read_to_string(testdata().join(format!("{name}.jinja"))).unwrap();
                ChatTemplate::new(&source).unwrap()
            }
        };
        let conversation = &goldens["conversations"][case["conversation"].as_str().unwrap()];
        let messages: Vec<Message> = conversation.as_array().unwrap().iter().map(message).collect();
        let options = ChatOptions {
            generation_prompt: match case["add_generation_prompt"].as_bool().unwrap() {
                true => GenerationPrompt::Add,
                false => GenerationPrompt::Omit,
            },
            bos_token: "<s>",
            eos_token: "</s>",
            tools: case["tools"].as_bool().unwrap().then_some(&goldens["tools"]),
            variables: case["variables"].as_object(),
            now_s: goldens["now_s"].as_i64().unwrap(),
        };
        let what = format!("{name}, {}, tools {}", case["conversation"], case["tools"]);
        match (template.apply(&messages, &options), case["text"].as_str()) {
            (Ok(text), Some(expected)) => assert_eq!(text, expected, "{what}"),
            (Err(ChatError::Refused(message)), None) => {
                assert_eq!(message, case["refused"].as_str().unwrap(), "{what}");
            }
            (result, _) => panic!("{what}: {result:?}"),
        }
        n_checked += 1;
    }
    assert!(n_checked > 200, "only {n_checked} cases");
}
