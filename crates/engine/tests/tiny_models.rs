//! Tiny random models of every family against torch's logits, from Hugging Face folders and from GGUF files.
//!
//! See `testdata/README.md` for what they are and which script made them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeward_engine::{
    CancelToken, Engine, EngineOptions, Error, Generator, GeneratorOptions, Isa, KvType, MatrixInput,
    Sampler, SamplerOptions, Sequence, StopReason,
};
use edgeward_kernels::{DType, FloatMatrix, Matrix, SharedBytes};
use edgeward_model::Model;
use edgeward_model::tensor::{LayerSlot, Slot};

const FAMILIES: [&str; 6] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma3"];

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny").join(name)
}

fn ids() -> Vec<u32> {
    let text = std::fs::read_to_string(tiny("ids.json")).unwrap();
    text.trim().trim_matches(['[', ']']).split(',').map(|id| id.trim().parse().unwrap()).collect()
}

/// Logits of every position, row by row.
fn golden(family: &str) -> Vec<f32> {
    let bytes = std::fs::read(tiny(&format!("{family}.logits.bin"))).unwrap();
    let words = bytes.as_chunks::<4>().0;
    let (n_rows, vocab_size) = (u32::from_le_bytes(words[0]), u32::from_le_bytes(words[1]));
    let logits: Vec<f32> = words[2..].iter().map(|word| f32::from_le_bytes(*word)).collect();
    assert_eq!(logits.len(), (n_rows * vocab_size) as usize);
    logits
}

fn engine(path: &Path, options: EngineOptions) -> Engine {
    Engine::new(&Arc::new(Model::load(path).unwrap()), options).unwrap()
}

fn exact() -> EngineOptions {
    EngineOptions { n_threads: 2, kv_type: KvType::F32, ..EngineOptions::default() }
}

/// Logits of every token of `tokens`, which go in by the given steps.
fn logits(engine: &mut Engine, sequence: &mut Sequence, tokens: &[u32], steps: &[usize]) -> Vec<f32> {
    let mut all = Vec::new();
    let mut at = 0;
    for &n in steps {
        let row = |_: usize, logits: &[f32]| all.extend_from_slice(logits);
        engine.score(sequence, &tokens[at..at + n], 0, &CancelToken::new(), row).unwrap();
        at += n;
    }
    all
}

#[test]
fn logits_are_torchs() {
    let ids = ids();
    for family in FAMILIES {
        let expected = golden(family);
        for path in [tiny(family), tiny(&format!("{family}.gguf"))] {
            for isa in Isa::available() {
                let mut engine = engine(&path, EngineOptions { isa, ..exact() });
                let mut sequence = engine.new_sequence();
                let got = logits(&mut engine, &mut sequence, &ids, &[ids.len()]);
                assert_eq!(got.len(), expected.len());
                let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{} on {}: {worst}", path.display(), isa.name());
            }
        }
    }
}

#[test]
fn half_precision_keys_and_values_move_the_logits_little() {
    let ids = ids();
    for family in FAMILIES {
        let mut engine = engine(&tiny(family), EngineOptions { kv_type: KvType::F16, ..exact() });
        let mut sequence = engine.new_sequence();
        let got = logits(&mut engine, &mut sequence, &ids, &[ids.len()]);
        let worst = got.iter().zip(golden(family)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-2, "{family}: {worst}");
    }
}

#[test]
fn logits_do_not_depend_on_steps_threads_or_instruction_set() {
    let ids = ids();
    for family in FAMILIES {
        let path = tiny(&format!("{family}.gguf"));
        let mut first: Option<Vec<f32>> = None;
        for (n_threads, isa) in
            [1, 2, 5].into_iter().flat_map(|n| Isa::available().into_iter().map(move |i| (n, i)))
        {
            let mut engine = engine(&path, EngineOptions { n_threads, isa, ..EngineOptions::default() });
            for steps in [vec![ids.len()], vec![1; ids.len()], vec![7, 1, 20, 12]] {
                let mut sequence = engine.new_sequence();
                let got = logits(&mut engine, &mut sequence, &ids, &steps);
                let same = first.get_or_insert_with(|| got.clone());
                assert!(*same == got, "{family}: {n_threads} threads, {}, {} steps", isa.name(), steps.len());
            }
        }
    }
}

#[test]
fn sequences_of_a_batch_do_not_touch_each_other() {
    let ids = ids();
    let mut engine = engine(&tiny("gemma3.gguf"), EngineOptions::default());
    let mut alone = engine.new_sequence();
    let expected = logits(&mut engine, &mut alone, &ids, &[ids.len()]);
    let vocab_size = engine.config().vocab_size;
    // Three sequences, each some tokens ahead of the next, in every batch.
    let mut sequences: Vec<Sequence> = (0..3).map(|_| engine.new_sequence()).collect();
    for (i, sequence) in sequences.iter_mut().enumerate() {
        engine.prefill(sequence, &ids[..1 + 3 * i], &CancelToken::new()).unwrap();
    }
    for _ in 0..20 {
        let positions: Vec<usize> = sequences.iter().map(Sequence::len).collect();
        let mut batch: Vec<(&mut Sequence, u32)> =
            sequences.iter_mut().zip(&positions).map(|(sequence, &pos)| (sequence, ids[pos])).collect();
        let got = engine.decode(&mut batch).unwrap();
        for (i, pos) in positions.into_iter().enumerate() {
            assert!(got.row(i) == &expected[pos * vocab_size..][..vocab_size]);
        }
    }
}

#[test]
fn a_prefix_is_kept_and_shared() {
    let ids = ids();
    let mut engine = engine(&tiny("llama.gguf"), EngineOptions::default());
    let cancel = CancelToken::new();
    let mut first = engine.new_sequence();
    engine.prefill(&mut first, &ids, &cancel).unwrap();
    let mut other = first.fork();
    let mut changed = ids.clone();
    changed[30] = 1;
    let reused = engine.prefill_to(&mut other, &changed, &cancel).unwrap();
    assert_eq!(other.tokens(), changed);
    assert_eq!(first.tokens(), ids);
    let mut fresh = engine.new_sequence();
    assert!(reused == engine.prefill(&mut fresh, &changed, &cancel).unwrap());
    // The first sequence's keys and values are untouched by what the fork wrote.
    let mut again = engine.new_sequence();
    let expected = logits(&mut engine, &mut again, &[&ids[..], &[5]].concat(), &[ids.len() + 1]);
    let got = engine.decode(&mut [(&mut first, 5)]).unwrap();
    assert!(got.row(0) == &expected[expected.len() - engine.config().vocab_size..]);
}

#[test]
fn bad_calls_are_refused_and_change_nothing() {
    let mut engine =
        engine(&tiny("qwen3.gguf"), EngineOptions { context_len: 16, ..EngineOptions::default() });
    let cancel = CancelToken::new();
    let mut sequence = engine.new_sequence();
    engine.prefill(&mut sequence, &[1, 2, 3], &cancel).unwrap();
    let vocab_size = engine.config().vocab_size;
    let too_large = engine.prefill(&mut sequence, &[1, vocab_size as u32], &cancel);
    assert!(matches!(too_large, Err(Error::TokenOutOfRange { .. })));
    let too_long = engine.prefill(&mut sequence, &[1; 14], &cancel);
    assert!(matches!(too_long, Err(Error::ContextFull { needed: 17, context_len: 16 })));
    assert!(matches!(engine.prefill(&mut sequence, &[], &cancel), Err(Error::NoTokens)));
    assert!(matches!(engine.decode(&mut []), Err(Error::NoTokens)));
    cancel.cancel();
    assert!(matches!(engine.prefill(&mut sequence, &[1], &cancel), Err(Error::Cancelled)));
    assert_eq!(sequence.tokens(), [1, 2, 3]);

    let model = Arc::new(Model::load(&tiny("qwen3.gguf")).unwrap());
    let no_threads = Engine::new(&model, EngineOptions { n_threads: 0, ..EngineOptions::default() });
    assert!(matches!(no_threads, Err(Error::BadOption(_))));
}

#[test]
fn generation_stops_for_every_reason() {
    let mut engine =
        engine(&tiny("llama.gguf"), EngineOptions { context_len: 24, ..EngineOptions::default() });
    let prompt = &ids()[..4];
    let mut run = |max_tokens, stop_tokens: Vec<u32>, cancel: &CancelToken| {
        let mut sequence = engine.new_sequence();
        let options = SamplerOptions { temperature: 1.0, seed: 3, ..SamplerOptions::default() };
        let mut sampler = Sampler::new(options).unwrap();
        let options = GeneratorOptions { max_tokens, stop_tokens };
        let mut generator =
            Generator::new(&mut engine, &mut sequence, &mut sampler, prompt, options, cancel.clone())
                .unwrap();
        let mut tokens = Vec::new();
        while let Some(sampled) = generator.next_token().unwrap() {
            tokens.push(sampled.token);
            if tokens.len() == 9 && max_tokens == 1000 {
                cancel.cancel();
            }
        }
        assert!(generator.next_token().unwrap().is_none());
        (tokens, generator.stop_reason().unwrap())
    };
    let (all, reason) = run(0, vec![], &CancelToken::new());
    assert_eq!((all.len(), reason), (20, StopReason::ContextFull));
    let (five, reason) = run(5, vec![], &CancelToken::new());
    assert_eq!((&five[..], reason), (&all[..5], StopReason::MaxTokens));
    let stop = all[7];
    let first = all.iter().position(|&token| token == stop).unwrap();
    let (until, reason) = run(0, vec![stop], &CancelToken::new());
    assert_eq!((&until[..], reason), (&all[..first], StopReason::StopToken(stop)));
    let (nine, reason) = run(1000, vec![], &CancelToken::new());
    assert_eq!((&nine[..], reason), (&all[..9], StopReason::Cancelled));
}

#[test]
fn layer_by_layer_gives_the_same_logits() {
    let ids = ids();
    for family in FAMILIES {
        let mut engine = engine(&tiny(&format!("{family}.gguf")), exact());
        let mut sequence = engine.new_sequence();
        let whole = logits(&mut engine, &mut sequence, &ids, &[ids.len()]);
        let mut x = engine.embed(&ids).unwrap();
        let mut seen = Vec::new();
        for layer_idx in 0..engine.config().n_layers {
            let n_tokens = ids.len();
            engine
                .run_layer(layer_idx, &mut x, &mut |input, rows| seen.push((input, rows.len() / n_tokens)))
                .unwrap();
        }
        assert_eq!(engine.logits(&x).unwrap().into_vec(), whole, "{family}");
        let config = engine.config();
        let widths = [config.hidden_dim, config.n_heads * config.head_dim, config.hidden_dim, config.ffn_dim];
        let inputs = [MatrixInput::Qkv, MatrixInput::O, MatrixInput::GateUp, MatrixInput::Down];
        assert_eq!(seen[..4], std::array::from_fn::<_, 4, _>(|i| (inputs[i], widths[i])), "{family}");
        assert_eq!(seen.len(), 4 * config.n_layers);
        let missing = engine.run_layer(config.n_layers.max(99), &mut x, &mut |_, _| {});
        assert!(matches!(missing, Err(Error::BadOption(_))));
    }
}

#[test]
fn another_matrix_in_a_place_changes_the_answer_and_can_be_taken_back() {
    let ids = ids();
    let mut engine = engine(&tiny("llama.gguf"), exact());
    let answer = |engine: &mut Engine| {
        let mut sequence = engine.new_sequence();
        engine.prefill(&mut sequence, &ids, &CancelToken::new()).unwrap()
    };
    let before = answer(&mut engine);
    let slot = Slot::Layer(0, LayerSlot::Up);
    let old = engine.matrix(slot).unwrap().clone();
    let zeros: SharedBytes = Arc::new(vec![0u8; 4 * old.n_rows() * old.n_cols()]);
    let zeros = FloatMatrix::new(DType::F32, old.n_rows(), old.n_cols(), zeros).unwrap();
    engine.set_matrix(slot, Matrix::Float(zeros.clone())).unwrap();
    assert_ne!(answer(&mut engine), before);
    engine.set_matrix(slot, old).unwrap();
    assert_eq!(answer(&mut engine), before);
    let wrong = engine.set_matrix(Slot::TokenEmbedding, Matrix::Float(zeros.clone()));
    assert!(matches!(wrong, Err(Error::BadOption(_))));
    let none = engine.set_matrix(Slot::Layer(0, LayerSlot::AttnNorm), Matrix::Float(zeros));
    assert!(matches!(none, Err(Error::MissingTensor(_))));
}
