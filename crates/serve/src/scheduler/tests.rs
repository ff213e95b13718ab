//! The scheduler as a plain struct, on a tiny random model.

use std::path::Path;

use edgeward_engine::{EngineOptions, Generator, GeneratorOptions, KvType};
use edgeward_model::Model;
use edgeward_model::tokenizer::{AddSpecial, ParseSpecial};

use super::*;
use crate::adapters::tests::tiny_adapter;
use crate::grammar::GrammarFactory;

fn tiny_model() -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny/llama.gguf");
    Arc::new(Model::load(&path).unwrap())
}

pub(super) fn tiny_engine() -> Engine {
    let options =
        EngineOptions { n_threads: 1, kv_type: KvType::F32, context_len: 1024, ..EngineOptions::default() };
    Engine::new(&tiny_model(), options).unwrap()
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(tiny_model().tokenizer().unwrap())
}

fn scheduler(limits: Limits) -> Scheduler {
    Scheduler::new(tiny_engine(), tokenizer(), limits, None)
}

fn encode(text: &str) -> Vec<u32> {
    tokenizer().encode(text, AddSpecial::Yes, ParseSpecial::No).unwrap()
}

fn prompt(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 7 + seed * 13) % 200 + 10).collect()
}

fn ask(prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request { prompt, max_tokens, ignores_end: true, ..Request::default() }
}

/// Steps until nothing is left to do; at most so many times.
fn run(scheduler: &mut Scheduler) -> Vec<(RequestId, Event)> {
    let mut events = Vec::new();
    for _ in 0..10_000 {
        if scheduler.is_idle() {
            return events;
        }
        events.extend(scheduler.step(Instant::now()));
    }
    panic!("the scheduler does not come to an end");
}

fn tokens(events: &[(RequestId, Event)], wanted: RequestId, choice: usize) -> Vec<u32> {
    events
        .iter()
        .filter_map(|(id, event)| match event {
            Event::Token { choice_idx, token, .. } if *id == wanted && *choice_idx == choice => Some(*token),
            _ => None,
        })
        .collect()
}

fn text(events: &[(RequestId, Event)], wanted: RequestId) -> String {
    let texts = events.iter().filter(|(id, _)| *id == wanted).filter_map(|(_, event)| match event {
        Event::Token { text, .. } | Event::Finished { text, .. } => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn finish(events: &[(RequestId, Event)], wanted: RequestId) -> Vec<FinishReason> {
    let reasons = events.iter().filter(|(id, _)| *id == wanted).filter_map(|(_, event)| match event {
        Event::Finished { reason, .. } => Some(*reason),
        _ => None,
    });
    reasons.collect()
}

/// What the engine says with nobody else there.
fn alone(request: &Request) -> Vec<u32> {
    let mut engine = tiny_engine();
    let mut sequence = engine.new_adapted_sequence(&request.adapters).unwrap();
    let mut sampler = Sampler::new(request.sampling.clone()).unwrap();
    let options = GeneratorOptions { max_tokens: request.max_tokens, stop_tokens: Vec::new() };
    let cancel = CancelToken::new();
    let mut generator =
        Generator::new(&mut engine, &mut sequence, &mut sampler, &request.prompt, options, cancel).unwrap();
    let mut tokens = Vec::new();
    while let Some(sampled) = generator.next_token().unwrap() {
        tokens.push(sampled.token);
    }
    tokens
}

#[test]
fn nobodys_answer_depends_on_the_others() {
    let mut scheduler = scheduler(Limits { max_active: 3, ..Limits::default() });
    let hot =
        SamplerOptions { temperature: 1.5, seed: 7, repetition_penalty: 1.2, ..SamplerOptions::default() };
    let requests = [
        ask(prompt(300, 1), 40),
        Request { sampling: hot.clone(), ..ask(prompt(5, 2), 60) },
        ask(prompt(5, 2), 100),
        Request { sampling: hot, ..ask([prompt(200, 1), prompt(90, 3)].concat(), 30) },
        ask(prompt(300, 1), 40),
        ask(prompt(1, 4), 1),
    ];
    let mut events = Vec::new();
    let ids: Vec<RequestId> = requests
        .iter()
        .map(|request| {
            let id = scheduler.submit(request.clone()).unwrap();
            // The next comes while this one is under way.
            (0..3).for_each(|_| events.extend(scheduler.step(Instant::now())));
            id
        })
        .collect();
    events.extend(run(&mut scheduler));
    for (id, request) in ids.iter().zip(&requests) {
        assert_eq!(tokens(&events, *id, 0), alone(request), "{id:?}");
        assert_eq!(finish(&events, *id), [FinishReason::Length]);
    }
    // The fifth has the first one's prompt, the fourth most of it.
    let n_cached = |wanted: RequestId| {
        events.iter().find_map(|(id, event)| match event {
            Event::Started { n_cached, .. } if *id == wanted => Some(*n_cached),
            _ => None,
        })
    };
    assert_eq!([ids[0], ids[3], ids[4]].map(|id| n_cached(id).unwrap()), [0, 200, 299]);
}

#[test]
fn a_long_prompt_stalls_nobody() {
    let mut scheduler = scheduler(Limits::default());
    let short = scheduler.submit(ask(prompt(4, 1), 200)).unwrap();
    scheduler.step(Instant::now());
    let long = scheduler.submit(ask(prompt(800, 2), 4)).unwrap();
    let mut n_mixed = 0;
    loop {
        let events = scheduler.step(Instant::now());
        if !tokens(&events, long, 0).is_empty() {
            break;
        }
        assert!(!tokens(&events, short, 0).is_empty(), "everybody gets a token in each pass");
        n_mixed += 1;
    }
    assert_eq!(n_mixed, 800 / pace::MIN_PROMPT_TOKENS - 1, "nothing is known of the pace in this test");
}

#[test]
fn guesses_change_no_answer_and_save_passes() {
    // The same few tokens again and again: something to guess from.
    let repetitive: Vec<u32> = (0..120).map(|i| [20, 30, 40, 50][i % 4]).collect();
    let stubborn = SamplerOptions { logit_bias: vec![(30, 1000.0)], ..SamplerOptions::default() };
    for sampling in [
        stubborn.clone(),
        SamplerOptions::default(),
        SamplerOptions { temperature: 0.7, seed: 3, ..SamplerOptions::default() },
        SamplerOptions { frequency_penalty: 0.1, ..SamplerOptions::default() },
    ] {
        let request = Request { sampling, ..ask(repetitive.clone(), 300) };
        let mut scheduler = scheduler(Limits::default());
        let id = scheduler.submit(request.clone()).unwrap();
        let events = run(&mut scheduler);
        assert_eq!(tokens(&events, id, 0), alone(&request));
        let Snapshot { n_steps, n_drafted_tokens, .. } = scheduler.snapshot();
        if request.sampling == stubborn {
            // Nine tokens in a pass, once the first three have been seen.
            assert!(n_steps < 50, "{n_steps} passes, {n_drafted_tokens} guesses");
        } else {
            // Each guess that comes true saves a pass; those that do not are given up before they are many.
            let n_wasted = (n_drafted_tokens + n_steps).saturating_sub(300);
            assert!(n_wasted < 150, "{n_steps} passes, {n_drafted_tokens} guesses");
        }
    }
}

#[test]
fn choices_share_the_prompt_and_differ_by_their_seeds() {
    let mut scheduler = scheduler(Limits::default());
    let sampling = SamplerOptions { temperature: 1.0, seed: 5, ..SamplerOptions::default() };
    let request = Request { sampling, n_choices: 3, ..ask(prompt(100, 1), 20) };
    let id = scheduler.submit(request.clone()).unwrap();
    let events = run(&mut scheduler);
    for choice in 0..3 {
        let sampling = SamplerOptions { seed: 5 + choice as u64, ..request.sampling.clone() };
        assert_eq!(tokens(&events, id, choice), alone(&Request { sampling, ..request.clone() }));
    }
    assert_eq!(scheduler.snapshot().n_prompt_tokens, 100);
}

#[test]
fn the_queue_is_bounded_and_goes_by_priority() {
    let limits = Limits { max_active: 1, max_waiting: 2, ..Limits::default() };
    let mut scheduler = scheduler(limits);
    let first = scheduler.submit(ask(prompt(4, 1), 8)).unwrap();
    scheduler.step(Instant::now());
    let late = scheduler.submit(Request { priority: 5, ..ask(prompt(4, 2), 4) }).unwrap();
    let urgent = scheduler.submit(Request { priority: -5, ..ask(prompt(4, 3), 4) }).unwrap();
    assert_eq!(scheduler.submit(ask(prompt(4, 4), 4)), Err(Rejection::QueueFull));
    assert_eq!((scheduler.snapshot().n_waiting, scheduler.snapshot().n_active), (2, 1));
    let events = run(&mut scheduler);
    let order: Vec<RequestId> = events
        .iter()
        .filter(|(_, event)| matches!(event, Event::Finished { .. }))
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(order, [first, urgent, late]);
    assert!(scheduler.submit(ask(prompt(4, 4), 4)).is_ok(), "there is room again");
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let engine = tiny_engine();
    let limits = Limits { kv_bytes: engine.kv_bytes(300), max_active: 2, ..Limits::default() };
    let mut scheduler = scheduler(limits);
    let mut refusal = |request| scheduler.submit(request).unwrap_err();
    assert!(matches!(refusal(ask(Vec::new(), 1)), Rejection::BadOption(_)));
    assert!(matches!(refusal(ask(vec![u32::MAX], 1)), Rejection::BadOption(_)));
    let too_long = Rejection::PromptTooLong { n_prompt: 1024, context_len: 1024 };
    assert_eq!(refusal(ask(prompt(1024, 1), 1)), too_long);
    assert!(matches!(refusal(ask(prompt(100, 1), 500)), Rejection::TooLarge { .. }));
    assert!(matches!(
        refusal(Request { n_choices: 3, ..ask(prompt(1, 1), 1) }),
        Rejection::TooManyChoices { .. }
    ));
    let sampling = SamplerOptions { top_p: 2.0, ..SamplerOptions::default() };
    assert!(matches!(refusal(Request { sampling, ..ask(prompt(1, 1), 1) }), Rejection::BadOption(_)));
    assert!(scheduler.is_idle());
}

#[test]
fn only_those_fail_whose_numbers_overflow() {
    let [all, few] = ["all", "few"].map(tiny_adapter);
    let with = |adapter: &Arc<Adapter>, scale: f32, request: Request| Request {
        adapters: Adapters::new([(Arc::clone(adapter), scale)]),
        ..request
    };
    // The same adapter, so much stronger that nothing is finite after it.
    let explodes = |request: Request| with(&all, 1e38, request);
    let healthy = [
        ask(prompt(5, 1), 40),
        with(&few, 1.0, ask(prompt(5, 1), 40)),
        with(&all, 1.0, ask(prompt(70, 2), 40)),
        Request { n_choices: 2, ..ask(prompt(3, 3), 40) },
    ];
    let mut scheduler = scheduler(Limits::default());
    let mut events = Vec::new();
    let submit = |scheduler: &mut Scheduler, request: Request| scheduler.submit(request).unwrap();
    let first = submit(&mut scheduler, explodes(ask(prompt(5, 1), 40)));
    let ids = healthy.clone().map(|request| submit(&mut scheduler, request));
    let text = submit(&mut scheduler, Request { task: Task::Embed, ..ask(prompt(300, 4), 1) });
    (0..3).for_each(|_| events.extend(scheduler.step(Instant::now())));
    // Two more, while the others' answers are under way.
    let late = [5, 200].map(|n| submit(&mut scheduler, explodes(ask(prompt(n, 5), 40))));
    events.extend(run(&mut scheduler));
    let failed: Vec<RequestId> = events
        .iter()
        .filter(|(_, event)| matches!(event, Event::Failed(Failure::Broken(_))))
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(failed, [first, late[0], late[1]]);
    for (id, request) in ids.iter().zip(&healthy) {
        assert_eq!(tokens(&events, *id, 0), alone(request), "{id:?}");
        assert_eq!(finish(&events, *id), vec![FinishReason::Length; request.n_choices]);
    }
    assert!(events.iter().any(|(id, event)| *id == text && matches!(event, Event::Embedded(_))));
}

#[test]
fn memory_is_promised_before_it_is_used() {
    let engine = tiny_engine();
    // Room for one of these at a time.
    let limits = Limits { kv_bytes: engine.kv_bytes(400), ..Limits::default() };
    let mut scheduler = scheduler(limits);
    let ids = [1, 2].map(|seed| scheduler.submit(ask(prompt(100, seed), 100)).unwrap());
    let mut events = scheduler.step(Instant::now());
    assert_eq!((scheduler.snapshot().n_active, scheduler.snapshot().n_waiting), (1, 1));
    events.extend(run(&mut scheduler));
    assert!(ids.iter().all(|id| tokens(&events, *id, 0).len() == 100));
}

#[test]
fn deadlines_and_cancellation_free_the_place() {
    let mut scheduler = scheduler(Limits { max_active: 1, ..Limits::default() });
    let now = Instant::now();
    let soon = Some(now + Duration::from_secs(1));
    let running = scheduler.submit(Request { deadline: soon, ..ask(prompt(4, 1), 500) }).unwrap();
    let waiting = scheduler.submit(Request { deadline: soon, ..ask(prompt(4, 2), 500) }).unwrap();
    let cancelled = scheduler.submit(ask(prompt(4, 3), 500)).unwrap();
    let last = scheduler.submit(ask(prompt(4, 4), 3)).unwrap();
    scheduler.step(now);
    assert_eq!(scheduler.next_deadline(), soon);
    scheduler.cancel(cancelled);
    let mut events = scheduler.step(now + Duration::from_secs(2));
    for id in [running, waiting] {
        assert!(events.contains(&(id, Event::Failed(Failure::TimedOut))));
    }
    events.extend(run(&mut scheduler));
    assert_eq!(finish(&events, last), [FinishReason::Length]);
    assert!(events.iter().all(|(id, _)| *id != cancelled));
    assert_eq!(scheduler.snapshot().kv_reserved_bytes, 0);
}

#[test]
fn stop_texts_end_an_answer_and_are_no_part_of_it() {
    let mut scheduler = scheduler(Limits::default());
    let request = ask(encode("Hello"), 60);
    let id = scheduler.submit(request.clone()).unwrap();
    let events = run(&mut scheduler);
    let whole = text(&events, id);
    let stop: String = whole.chars().skip(10).take(3).collect();
    let id = scheduler.submit(Request { stop_strings: vec![stop.clone()], ..request }).unwrap();
    let events = run(&mut scheduler);
    assert_eq!(text(&events, id), whole.split(&stop).next().unwrap());
    assert_eq!(finish(&events, id), [FinishReason::Stop]);
}

#[test]
fn log_probabilities_are_the_models() {
    let mut scheduler = scheduler(Limits::default());
    let id = scheduler.submit(Request { n_logprobs: Some(3), ..ask(prompt(4, 1), 5) }).unwrap();
    let events = run(&mut scheduler);
    let logprobs: Vec<&TokenLogprob> = events
        .iter()
        .filter_map(|(other, event)| match event {
            Event::Token { logprob, .. } if *other == id => logprob.as_ref(),
            _ => None,
        })
        .collect();
    assert_eq!(logprobs.len(), 5);
    for logprob in logprobs {
        // Greedy: the likeliest was chosen.
        assert_eq!(logprob.top[0], (logprob.token, logprob.logprob));
        assert!(logprob.top.len() == 3 && logprob.top.is_sorted_by(|a, b| a.1 >= b.1));
    }
}

#[test]
fn a_grammar_is_followed_in_company() {
    let mut scheduler = scheduler(Limits::default());
    let grammars = GrammarFactory::new(&tokenizer()).unwrap();
    let schema = serde_json::json!({
        "type": "object",
        "properties": { "colour": { "enum": ["red", "green"] }, "n": { "type": "integer", "minimum": 3, "maximum": 5 } },
        "required": ["colour", "n"],
        "additionalProperties": false,
    });
    let grammar = Some(grammars.json_schema(&schema).unwrap());
    let sampling = SamplerOptions { temperature: 1.0, seed: 1, ..SamplerOptions::default() };
    let request = Request { grammar, sampling, ignores_end: false, ..ask(prompt(9, 1), 200) };
    let other = scheduler.submit(ask(prompt(9, 1), 100)).unwrap();
    let id = scheduler.submit(request).unwrap();
    let events = run(&mut scheduler);
    let value: serde_json::Value = serde_json::from_str(&text(&events, id)).unwrap();
    assert!(["red", "green"].contains(&value["colour"].as_str().unwrap()), "{value}");
    assert!((3..=5).contains(&value["n"].as_i64().unwrap()), "{value}");
    assert_eq!(finish(&events, id), [FinishReason::Stop]);
    assert_eq!(tokens(&events, other, 0), alone(&ask(prompt(9, 1), 100)));
}

#[test]
fn schemas_that_cannot_be_enforced_are_refused() {
    let grammars = GrammarFactory::new(&tokenizer()).unwrap();
    for schema in [
        serde_json::json!({ "type": "string", "pattern": "(?=lookahead)x" }),
        serde_json::json!({ "type": "array", "uniqueItems": true }),
        serde_json::json!({ "type": "no such type" }),
        serde_json::json!({ "not": { "type": "string" } }),
    ] {
        let error = grammars.json_schema(&schema).err();
        assert!(error.is_some_and(|error| !error.to_string().is_empty()), "{schema}");
    }
}

#[test]
fn mean_states_are_the_same_in_pieces_and_in_company() {
    let mut engine = tiny_engine();
    let mut sequence = engine.new_sequence();
    let text = prompt(400, 1);
    let whole = engine.mean_state(&mut sequence, &text, &CancelToken::new()).unwrap();
    let mut scheduler = scheduler(Limits::default());
    let talk = scheduler.submit(ask(prompt(9, 2), 100)).unwrap();
    let mut events = scheduler.step(Instant::now());
    let request = Request { task: Task::Embed, ..ask(text, 1) };
    let id = scheduler.submit(request).unwrap();
    events.extend(run(&mut scheduler));
    let pieces = events.iter().find_map(|(other, event)| match event {
        Event::Embedded(state) if *other == id => Some(state),
        _ => None,
    });
    let worst = pieces.unwrap().iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-6, "{worst}");
    assert_eq!(tokens(&events, talk, 0).len(), 100);
}
