//! LoRA adapters on tiny random models against peft's logits, from peft's folders and from llama.cpp's conversion of them.
//!
//! See `testdata/adapter/make.py` for what they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_engine::{
    Adapter, Adapters, CancelToken, Engine, EngineOptions, Error, Isa, KvType, Sequence, StepPart,
};
use edgeward_model::Model;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn ids() -> Vec<u32> {
    serde_json::from_slice(&std::fs::read(data("tiny/ids.json")).unwrap()).unwrap()
}

/// Logits of every position, row by row.
fn golden(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(data(&format!("{name}.logits.bin"))).unwrap();
    bytes.as_chunks::<4>().0[2..].iter().map(|word| f32::from_le_bytes(*word)).collect()
}

fn model(name: &str) -> Arc<Model> {
    Arc::new(Model::load(&data(&format!("tiny/{name}"))).unwrap())
}

fn engine(model: &Arc<Model>, isa: Isa) -> Engine {
    let options = EngineOptions { n_threads: 2, kv_type: KvType::F32, isa, ..EngineOptions::default() };
    Engine::new(model, options).unwrap()
}

fn adapter(name: &str, model: &Model) -> Arc<Adapter> {
    let file = edgeward_model::Adapter::load(&data(&format!("adapter/{name}")), model.config()).unwrap();
    assert!(file.n_bytes() > 0);
    Arc::new(Adapter::new(&file))
}

/// Logits of every token, which go in by the given steps.
fn logits(engine: &mut Engine, sequence: &mut Sequence, steps: &[usize]) -> Vec<f32> {
    let (ids, mut all, mut at) = (ids(), Vec::new(), 0);
    for &n in steps {
        let row = |_: usize, logits: &[f32]| all.extend_from_slice(logits);
        engine.score(sequence, &ids[at..at + n], 0, &CancelToken::new(), row).unwrap();
        at += n;
    }
    all
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_are_pefts() {
    // Rows of queries and keys lie differently in llama's two formats: every file of weights with every adapter.
    let cases: [(&str, &[&str], &[f32], &str); 4] = [
        ("llama", &["all", "all.gguf"], &[1.0], "all"),
        ("llama.gguf", &["all", "all.gguf"], &[1.0], "all"),
        ("gemma3", &["gemma3"], &[1.0], "gemma3"),
        ("gemma3.gguf", &["gemma3"], &[1.0], "gemma3"),
    ];
    for (name, adapters, scales, expected) in cases {
        let model = model(name);
        let expected = golden(&format!("adapter/{expected}"));
        for file in adapters {
            let adapters = Adapters::new([(adapter(file, &model), scales[0])]);
            for isa in Isa::available() {
                let mut engine = engine(&model, isa);
                let mut first: Option<Vec<f32>> = None;
                for steps in [vec![40], vec![1; 40], vec![7, 1, 20, 12]] {
                    let mut sequence = engine.new_adapted_sequence(&adapters).unwrap();
                    let got = logits(&mut engine, &mut sequence, &steps);
                    let worst = worst(&got, &expected);
                    assert!(worst < 1e-4, "{file} on {name}, {}: {worst}", isa.name());
                    assert!(*first.get_or_insert_with(|| got.clone()) == got, "steps change the bits");
                }
            }
        }
    }
}

#[test]
fn several_at_once_with_strengths() {
    let expected = golden("adapter/both");
    for (name, all, few) in [("llama", "all", "few.gguf"), ("llama.gguf", "all.gguf", "few")] {
        let model = model(name);
        let mut engine = engine(&model, Isa::best());
        let (all, few) = (adapter(all, &model), adapter(few, &model));
        let both = Adapters::new([(Arc::clone(&all), 0.5), (Arc::clone(&few), 1.5)]);
        let mut sequence = engine.new_adapted_sequence(&both).unwrap();
        let got = logits(&mut engine, &mut sequence, &[40]);
        assert!(worst(&got, &expected) < 1e-4);
        assert!(worst(&got, &golden("adapter/all")) > 0.1, "the strengths are felt");
    }
}

#[test]
fn a_strength_of_nothing_is_no_adapter() {
    let model = model("llama.gguf");
    let mut engine = engine(&model, Isa::best());
    let none = Adapters::new([(adapter("all", &model), 0.0)]);
    assert!(none.is_empty() && none == Adapters::default());
    let mut sequence = engine.new_adapted_sequence(&none).unwrap();
    let got = logits(&mut engine, &mut sequence, &[40]);
    assert!(worst(&got, &golden("tiny/llama")) < 1e-4);
}

#[test]
fn sequences_of_a_pass_do_not_touch_each_other() {
    let ids = ids();
    let model = model("llama.gguf");
    let (all, few) = (adapter("all", &model), adapter("few", &model));
    let mixes = [
        Adapters::new([(Arc::clone(&few), 1.5), (Arc::clone(&all), 0.5)]),
        Adapters::default(),
        Adapters::new([(Arc::clone(&all), 0.5), (Arc::clone(&few), 1.5)]),
        Adapters::new([(all, 1.0)]),
        Adapters::new([(few, -2.0)]),
    ];
    let mut engine = engine(&model, Isa::best());
    let vocab_size = engine.config().vocab_size;
    let alone: Vec<Vec<f32>> = mixes
        .iter()
        .map(|mix| {
            let mut sequence = engine.new_adapted_sequence(mix).unwrap();
            logits(&mut engine, &mut sequence, &[ids.len()])
        })
        .collect();
    assert!(alone.iter().enumerate().all(|(i, a)| alone[i + 1..].iter().all(|b| a != b)));
    // Some are at their prompts while others are being decoded.
    let mut sequences: Vec<Sequence> =
        mixes.iter().map(|mix| engine.new_adapted_sequence(mix).unwrap()).collect();
    while sequences.iter().any(|sequence| sequence.len() < ids.len()) {
        let mut parts: Vec<StepPart> = sequences
            .iter_mut()
            .enumerate()
            .filter(|(_, sequence)| sequence.len() < ids.len())
            .map(|(i, sequence)| {
                let start = sequence.len();
                let n = (1 + i * 4).min(ids.len() - start);
                StepPart { sequence, tokens: &ids[start..start + n], n_logits: 1 }
            })
            .collect();
        let got = engine.step(&mut parts).unwrap();
        for (row, part) in parts.iter().enumerate() {
            let i = mixes.iter().position(|mix| mix == part.sequence.adapters()).unwrap();
            let pos = part.sequence.len() - 1;
            assert!(got.row(row) == &alone[i][pos * vocab_size..][..vocab_size], "sequence {i} at {pos}");
        }
    }
    // A fork goes on with the same adapters.
    let mut fork = sequences[3].fork();
    fork.truncate(20);
    let again = engine.prefill(&mut fork, &ids[20..], &CancelToken::new()).unwrap();
    assert!(again == alone[3][39 * vocab_size..]);
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let gemma = model("gemma3");
    let adapters = Adapters::new([(adapter("gemma3", &gemma), 1.0)]);
    let engine = engine(&model("llama"), Isa::best());
    assert!(matches!(engine.new_adapted_sequence(&adapters), Err(Error::BadOption(_))));
}

#[test]
fn a_pass_that_overflows_leaves_everybody_as_they_were() {
    let ids = ids();
    let model = model("llama.gguf");
    let mut engine = engine(&model, Isa::best());
    let mut plain = engine.new_sequence();
    let mad = Adapters::new([(adapter("all", &model), 1e38)]);
    let mut mad = engine.new_adapted_sequence(&mad).unwrap();
    let mut parts = [
        StepPart { sequence: &mut plain, tokens: &ids, n_logits: 1 },
        StepPart { sequence: &mut mad, tokens: &ids, n_logits: 1 },
    ];
    assert!(matches!(engine.step(&mut parts), Err(Error::NotFinite)));
    assert!(plain.is_empty() && mad.is_empty());
    let got = logits(&mut engine, &mut plain, &[40]);
    assert!(worst(&got, &golden("tiny/llama")) < 1e-4);
}
