//! Real models' most likely tokens against float32 torch on the same weights
//! (`testdata/references/*_greedy.json`, made by the `make_reference.py` beside them).
//!
//! The reference's own tokens are fed, so that each of its steps is compared, also those after a difference.
//! `cargo xtask test` fetches the models and says where they are; see CONTRIBUTING.md.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_engine::{CancelToken, Engine, EngineOptions};
use edgeward_model::Model;
use serde::Deserialize;

#[derive(Deserialize)]
struct Continuation {
    name: String,
    prompt_ids: Vec<u32>,
    /// What follows.
    ids: Vec<u32>,
    /// By how much each one's logit exceeds the second largest.
    margins: Vec<f32>,
}

/// Activations rounded to 8 bits move the difference of two logits by less than this; measured, with room.
const ROUNDING: f32 = 0.5;

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

fn check(model: &Path, reference: &str) {
    let path = format!("{}/../../testdata/references/{reference}_greedy.json", env!("CARGO_MANIFEST_DIR"));
    let continuations: Vec<Continuation> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let model = Arc::new(Model::load(model).unwrap());
    let mut engine = Engine::new(&model, EngineOptions { context_len: 512, ..Default::default() }).unwrap();

    let (mut n_steps, mut n_differ, mut failures) = (0, 0, Vec::new());
    for continuation in &continuations {
        let Continuation { name, prompt_ids, ids, margins } = continuation;
        assert!(!ids.is_empty() && ids.len() == margins.len(), "{name}");
        let mut sequence = engine.new_sequence();
        let mut next = argmax(&engine.prefill(&mut sequence, prompt_ids, &CancelToken::new()).unwrap());
        for (step, (&id, &margin)) in ids.iter().zip(margins).enumerate() {
            n_steps += 1;
            if next != id {
                n_differ += 1;
                eprintln!("{reference}, {name}, step {step}: the reference leads by {margin}");
                if margin > ROUNDING {
                    failures.push(format!(
                        "{name}, step {step}: {next} instead of {id}, which leads by {margin}"
                    ));
                }
            }
            next = argmax(engine.decode(&mut [(&mut sequence, id)]).unwrap().row(0));
        }
    }
    eprintln!("{reference}: {n_differ} of {n_steps} tokens differ");
    assert!(failures.is_empty(), "{reference}: {failures:#?}");
}

#[test]
fn most_likely_tokens_are_the_references() {
    for (reference, variable) in
        [("smollm2", "EDGEWARD_TEST_SMOLLM2_135M"), ("gemma3", "EDGEWARD_TEST_GEMMA3_270M")]
    {
        match std::env::var_os(variable).map(PathBuf::from) {
            Some(model) => check(&model, reference),
            None => {
                eprintln!("{reference} is not checked: run `cargo xtask test`, or set {variable} to its path")
            }
        }
    }
}
