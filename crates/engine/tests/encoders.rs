//! Encoders against sentence-transformers: two random ones that are kept here, and all-MiniLM-L6-v2 where its folder is
//! told (`testdata/encoder/make.py` made the vectors).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_engine::{Encoder, Error, Isa};
use edgeward_model::EncoderModel;
use edgeward_model::tokenizer::{AddSpecial, ParseSpecial};
use serde::Deserialize;

/// How far a coordinate may be from sentence-transformers', of vectors whose length is 1.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Golden {
    text: String,
    ids: Vec<u32>,
    vector: Vec<f32>,
}

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/encoder").join(name)
}

fn goldens(name: &str) -> Vec<Golden> {
    serde_json::from_slice(&std::fs::read(testdata(name)).unwrap()).unwrap()
}

fn open(folder: &Path) -> Arc<EncoderModel> {
    Arc::new(EncoderModel::load(folder).unwrap())
}

/// The largest difference of a coordinate, relative to the vector's length.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let norm = b.iter().map(|x| x * x).sum::<f32>().sqrt();
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / norm
}

fn check(folder: &Path, goldens: &[Golden]) {
    let model = open(folder);
    let tokenizer = model.tokenizer().unwrap();
    assert!(goldens.len() >= 6);
    for golden in goldens {
        let ids = tokenizer.encode(&golden.text, AddSpecial::Yes, ParseSpecial::No).unwrap();
        assert_eq!(ids, golden.ids, "{:?}", golden.text);
    }
    let texts: Vec<&[u32]> = goldens.iter().map(|golden| &golden.ids[..]).collect();
    let mut encoder = Encoder::new(&model, 2, Isa::best()).unwrap();
    let vectors = encoder.embed(&texts).unwrap();
    let mut worst = 0.0f32;
    for (golden, vector) in goldens.iter().zip(&vectors) {
        let difference = difference(vector, &golden.vector);
        assert!(difference < TOLERANCE, "{:?}: {difference}", golden.text);
        worst = worst.max(difference);
    }
    eprintln!("{}: the largest difference is {worst:e}", folder.display());
}

#[test]
fn tiny_encoders_agree() {
    check(&testdata("mean"), &goldens("mean/goldens.json"));
    check(&testdata("cls"), &goldens("cls/goldens.json"));
}

#[derive(Deserialize)]
struct Pair {
    query: String,
    text: String,
    ids: Vec<u32>,
    n_first: usize,
    logit: f64,
    score: f32,
}

#[test]
fn scores_of_pairs_agree() {
    let model = open(&testdata("rank"));
    let tokenizer = model.tokenizer().unwrap();
    let goldens: Vec<Pair> =
        serde_json::from_slice(&std::fs::read(testdata("rank/goldens.json")).unwrap()).unwrap();
    assert!(goldens.len() > 20);
    for Pair { query, text, ids, n_first, .. } in &goldens {
        let encode = |text| tokenizer.encode(text, AddSpecial::Yes, ParseSpecial::No).unwrap();
        let first = encode(query);
        assert_eq!(first.len(), *n_first);
        assert_eq!([&first[..], &encode(text)[1..]].concat(), *ids, "{query:?} {text:?}");
    }
    let pairs: Vec<(&[u32], usize)> = goldens.iter().map(|pair| (&pair.ids[..], pair.n_first)).collect();
    for isa in Isa::available() {
        let mut encoder = Encoder::new(&model, 2, isa).unwrap();
        let scores = encoder.score(&pairs).unwrap();
        let mut worst = 0.0f64;
        for (pair, score) in goldens.iter().zip(&scores) {
            assert!((score - pair.score).abs() < TOLERANCE, "{:?} {:?}: {score}", pair.query, pair.text);
            // The head's number, back from its sigmoid.
            let logit = (f64::from(*score) / (1.0 - f64::from(*score))).ln();
            worst = worst.max((logit - pair.logit).abs());
        }
        assert!(worst < 1e-4, "{}: {worst}", isa.name());
        assert_eq!(encoder.score(&pairs[3..4]).unwrap(), scores[3..4], "company changes nothing");
    }
    // The second text's tokens are of another kind.
    let mut encoder = Encoder::new(&model, 1, Isa::best()).unwrap();
    assert_ne!(encoder.score(&[pairs[0], (pairs[0].0, pairs[0].0.len())]).unwrap()[1], goldens[0].score);
    let long = [5; 65];
    assert!(matches!(encoder.score(&[(&long, 3)]), Err(Error::TextTooLong { .. })));
    let mut other = Encoder::new(&open(&testdata("mean")), 1, Isa::best()).unwrap();
    assert!(matches!(other.score(&pairs), Err(Error::BadOption(_))));
}

#[test]
#[ignore = "needs a model of 91 MB: CONTRIBUTING.md says how to get it"]
fn minilm_agrees() {
    let folder =
        std::env::var_os("EDGEWARD_TEST_MINILM").expect("EDGEWARD_TEST_MINILM is the model's folder");
    check(Path::new(&folder), &goldens("minilm.json"));
}

#[test]
fn neither_company_nor_threads_nor_instructions_change_a_vector() {
    let model = open(&testdata("mean"));
    // More than a pass holds, of all lengths.
    let texts: Vec<Vec<u32>> = (1..=64)
        .flat_map(|len| [1, 2].map(|seed| (0..len).map(|i| (i * 7 + seed * 13) % 90 + 5).collect()))
        .collect();
    let texts: Vec<&[u32]> = texts.iter().map(|text| &text[..]).collect();
    assert!(texts.iter().map(|text| text.len()).sum::<usize>() > 4 * Encoder::PASS_TOKENS);
    let mut alone = Encoder::new(&model, 1, Isa::best()).unwrap();
    let expected: Vec<Vec<f32>> = texts.iter().map(|text| alone.embed(&[text]).unwrap().remove(0)).collect();
    for isa in Isa::available() {
        for n_threads in [1, 3] {
            let mut encoder = Encoder::new(&model, n_threads, isa).unwrap();
            assert_eq!(encoder.embed(&texts).unwrap(), expected, "{} {n_threads}", isa.name());
        }
    }
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let mut encoder = Encoder::new(&open(&testdata("cls")), 1, Isa::best()).unwrap();
    assert!(matches!(encoder.embed(&[&[]]), Err(Error::NoTokens)));
    assert!(matches!(encoder.embed(&[&[2, 60_000]]), Err(Error::TokenOutOfRange { token: 60_000, .. })));
    let long = [5; 25];
    let error = encoder.embed(&[&[2, 3], &long]).unwrap_err();
    assert!(matches!(error, Error::TextTooLong { n_tokens: 25, max_tokens: 24 }), "{error}");
    assert_eq!(encoder.embed(&[]).unwrap(), Vec::<Vec<f32>>::new());
}
