//! Who computes what next: requests in, events out. No sockets, no threads, no clock: time is handed in.
//!
//! Requests wait in a bounded queue, by priority and then in order of arrival, until there is a place and memory for
//! them. All that are active share each pass of the model (continuous batching, Yu et al. 2022, "Orca"): every answer
//! gets its next token, and prompts get what room is left, piece by piece (Agrawal et al. 2023, arXiv:2308.16369), so
//! that nobody's answer stalls for somebody's prompt. Answers do not depend on any of this: the engine gives the same
//! logits for a sequence in any company.
//!
//! Invariants: at most `max_active` answers are under way and `max_waiting` requests wait; keys and values of all that
//! is admitted fit `kv_bytes`, to their longest possible end; every request that was accepted ends with
//! [`Event::Finished`] for each of its answers, [`Event::Embedded`], [`Event::Failed`], or its cancellation.

mod cache;
mod choice;
pub mod disk;
mod pace;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeward_engine::{
    Adapter, Adapters, CancelToken, Engine, Error, Logits, PAGE_LEN, Sampler, SamplerOptions, Sequence,
    StepPart,
};
use edgeward_model::tokenizer::Tokenizer;

use crate::adapters::Scales;
use crate::grammar::{Grammar, GrammarError};
use cache::PrefixCache;
use choice::Choice;
use disk::DiskCache;
use pace::Pace;

/// Answers at once up to which guesses at following tokens are worth a try: with more, the processor is busy anyway.
const MAX_DRAFTING: usize = 4;

/// How much is taken on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Answers computed at once; at most [`Limits::MAX_ACTIVE`].
    pub max_active: usize,
    /// Requests that wait, beyond those.
    pub max_waiting: usize,
    /// Bytes of keys and values of everything active.
    pub kv_bytes: usize,
    /// Bytes of keys and values that are kept for requests to come.
    pub cache_bytes: usize,
    /// Bytes of whole answers that are kept for requests that ask the same again; 0 to keep none.
    pub reply_bytes: usize,
}

impl Limits {
    /// The largest `max_active`: half of a pass, so that prompts always get on.
    pub const MAX_ACTIVE: usize = Engine::MAX_STEP_TOKENS / 2;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_active: 32, max_waiting: 64, kv_bytes: 1 << 30, cache_bytes: 256 << 20, reply_bytes: 0 }
    }
}

/// Names a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// At least one token.
    pub prompt: Vec<u32>,
    /// What is to be made of it.
    pub task: Task,
    /// Lower is earlier.
    pub priority: i32,
    /// When nobody cares any more.
    pub deadline: Option<Instant>,
    /// Answers to the prompt; each counts as one of [`Limits::max_active`].
    pub n_choices: usize,
    /// How tokens are chosen.
    pub sampling: SamplerOptions,
    /// Whether the same request may be answered by the same answer: its choices do not depend on chance.
    pub is_repeatable: bool,
    /// Tokens of an answer, at most; no more than the context holds are given.
    pub max_tokens: usize,
    /// Texts that end an answer, and are no part of it.
    pub stop_strings: Vec<String>,
    /// Whether the model's own end is passed over.
    pub ignores_end: bool,
    /// Whether the log probability of each token is wanted, and of how many that were likely instead.
    pub n_logprobs: Option<usize>,
    /// Whose probabilities these are.
    pub logprobs_of: LogprobsOf,
    /// Whether each pass with a piece of the prompt is told of.
    pub wants_progress: bool,
    /// What an answer must look like.
    pub grammar: Option<Grammar>,
    /// Ids of adapters and their strengths; none for what the model's list says. Once the model has it, those that are on.
    pub lora: Option<Scales>,
    /// The adapters themselves, which the model finds.
    pub adapters: Adapters,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            prompt: Vec::new(),
            task: Task::Generate,
            priority: 0,
            deadline: None,
            n_choices: 1,
            sampling: SamplerOptions::default(),
            is_repeatable: false,
            max_tokens: usize::MAX,
            stop_strings: Vec::new(),
            ignores_end: false,
            n_logprobs: None,
            logprobs_of: LogprobsOf::Model,
            wants_progress: false,
            grammar: None,
            lora: None,
            adapters: Adapters::default(),
        }
    }
}

/// Whose probabilities are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogprobsOf {
    /// The model's own.
    #[default]
    Model,
    /// Those that were drawn by, after temperature, penalties, grammars and what was cut off.
    Sampler,
}

/// What is to be made of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Answers.
    Generate,
    /// The mean of the states of its tokens.
    Embed,
}

/// A token's probability, and others'.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Natural logarithm of what the model gave it.
    pub logprob: f64,
    /// The likeliest, likeliest first.
    pub top: Vec<(u32, f64)>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model had said all, its grammar allowed no more, or a stop text came.
    Stop,
    /// The limit of tokens or the end of the context was reached.
    Length,
}

/// What a request has come to.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Its computation has begun.
    Started {
        /// Tokens of the prompt that had been computed before.
        n_cached: usize,
        /// When the pass began, which the event is told after.
        at: Instant,
    },
    /// The prompt goes on, if that was to be told.
    Progress {
        /// Tokens of the prompt that have been computed, now or before.
        n_processed: usize,
    },
    /// An answer goes on.
    Token {
        /// Which answer.
        choice_idx: usize,
        /// The token.
        token: u32,
        /// Text that is now certain; often none.
        text: String,
        /// If asked for.
        logprob: Option<TokenLogprob>,
    },
    /// An answer has ended.
    Finished {
        /// Which answer.
        choice_idx: usize,
        /// Its last text.
        text: String,
        /// Why.
        reason: FinishReason,
        /// The stop text, if one ended it.
        stop_string: Option<String>,
        /// Its tokens.
        n_generated: usize,
    },
    /// The mean state, `[hidden_dim]`. The request is done.
    Embedded(Vec<f32>),
    /// There is no answer. The request is done.
    Failed(Failure),
}

/// Why an accepted request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its deadline passed.
    TimedOut,
    /// The engine or the grammar failed.
    Broken(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::TimedOut => {
                f.write_str("the request took longer than allowed: ask for less, or allow more")
            }
            Failure::Broken(why) => f.write_str(why),
        }
    }
}

/// Why a request is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// There are too many before it.
    QueueFull,
    /// The prompt leaves no room for an answer.
    PromptTooLong {
        /// Its tokens.
        n_prompt: usize,
        /// What the context holds.
        context_len: usize,
    },
    /// It would never fit the memory, however long it waited.
    TooLarge {
        /// Bytes of keys and values it may need.
        needed_bytes: usize,
        /// Bytes there are.
        kv_bytes: usize,
    },
    /// More answers than can be computed at once.
    TooManyChoices {
        /// What can be.
        max_active: usize,
    },
    /// An option is out of its range.
    BadOption(String),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::QueueFull => f.write_str("too many requests are waiting: try again a little later"),
            Rejection::PromptTooLong { n_prompt, context_len } => write!(
                f,
                "the prompt has {n_prompt} tokens, which with an answer exceeds the available context size of \
                 {context_len}: shorten it"
            ),
            Rejection::TooLarge { needed_bytes, kv_bytes } => write!(
                f,
                "the request may need {needed_bytes} bytes for keys and values where there are {kv_bytes}: ask for \
                 fewer tokens or answers"
            ),
            Rejection::TooManyChoices { max_active } => {
                write!(f, "at most {max_active} answers can be computed at once")
            }
            Rejection::BadOption(what) => f.write_str(what),
        }
    }
}

/// What the scheduler is doing, for whoever watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Requests that wait.
    pub n_waiting: usize,
    /// Requests under way.
    pub n_active: usize,
    /// Bytes of keys and values that these may come to need.
    pub kv_reserved_bytes: usize,
    /// Bytes of keys and values kept for requests to come.
    pub cache_bytes: usize,
    /// Bytes of such files.
    pub disk_bytes: u64,
    /// Tokens of prompts computed, ever.
    pub n_prompt_tokens: u64,
    /// Tokens of prompts that need not be computed, ever.
    pub n_cached_tokens: u64,
    /// Tokens of answers, ever.
    pub n_generated_tokens: u64,
    /// Guesses at several tokens ahead, ever.
    pub n_drafts: u64,
    /// Guessed tokens, ever.
    pub n_drafted_tokens: u64,
    /// Guessed tokens that came true, ever.
    pub n_accepted_tokens: u64,
    /// The most tokens that a prompt had with its answer.
    pub longest: usize,
    /// Passes of the model, ever.
    pub n_steps: u64,
}

/// See the [module's text](self).
pub struct Scheduler {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    limits: Limits,
    /// By priority, then by id.
    waiting: Vec<(RequestId, Request)>,
    /// In order of admission.
    active: Vec<Active>,
    cache: PrefixCache,
    disk: Option<DiskCache>,
    pace: Pace,
    /// Tokens of answers and of prompts in the last pass.
    last_step: (usize, usize),
    next_id: u64,
    counters: Snapshot,
}

struct Active {
    id: RequestId,
    request: Request,
    reserved_bytes: usize,
    phase: Phase,
}

enum Phase {
    /// The prompt is being computed; so much of it is in the sequence.
    Prefill(Sequence),
    /// All answers begin with the prompt.
    Decode(Vec<Choice>),
    /// Sum of the states of the tokens in the sequence.
    Embed(Sequence, Vec<f64>),
}

type Events = Vec<(RequestId, Event)>;

impl Scheduler {
    /// A scheduler with nothing to do.
    ///
    /// # Panics
    /// If `limits.max_active` is 0 or more than [`Limits::MAX_ACTIVE`].
    pub fn new(
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        limits: Limits,
        disk: Option<DiskCache>,
    ) -> Scheduler {
        assert!((1..=Limits::MAX_ACTIVE).contains(&limits.max_active));
        let cache = PrefixCache::new(limits.cache_bytes, engine.kv_bytes(1));
        Scheduler {
            engine,
            tokenizer,
            limits,
            waiting: Vec::new(),
            active: Vec::new(),
            cache,
            disk,
            pace: Pace::default(),
            last_step: (0, 0),
            next_id: 0,
            counters: Snapshot::default(),
        }
    }

    /// Takes a request on.
    ///
    /// # Errors
    /// If it cannot be answered, or not now; nothing has changed then.
    pub fn submit(&mut self, mut request: Request) -> Result<RequestId, Rejection> {
        let context_len = self.engine.context_len();
        let n_prompt = request.prompt.len();
        let vocab_size = self.engine.config().vocab_size;
        if n_prompt == 0 {
            return Err(Rejection::BadOption("the prompt is empty: give at least one token".into()));
        }
        if request.prompt.iter().any(|token| *token as usize >= vocab_size) {
            return Err(Rejection::BadOption(format!("token ids must be below {vocab_size}")));
        }
        let room = match request.task {
            Task::Generate => context_len.saturating_sub(n_prompt),
            Task::Embed => usize::from(n_prompt <= context_len),
        };
        if room == 0 {
            return Err(Rejection::PromptTooLong { n_prompt, context_len });
        }
        request.max_tokens = request.max_tokens.min(room).max(1);
        if request.n_choices == 0 || request.n_choices > self.limits.max_active {
            return Err(Rejection::TooManyChoices { max_active: self.limits.max_active });
        }
        if let Err(error) = Sampler::new(request.sampling.clone()) {
            return Err(Rejection::BadOption(error.to_string()));
        }
        let needed_bytes = self.needed_bytes(&request);
        if needed_bytes > self.limits.kv_bytes {
            return Err(Rejection::TooLarge { needed_bytes, kv_bytes: self.limits.kv_bytes });
        }
        // One that can begin at once does not count as waiting.
        let begins = self.waiting.is_empty() && self.fits(&request);
        if !begins && self.waiting.len() >= self.limits.max_waiting {
            return Err(Rejection::QueueFull);
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let at = self.waiting.partition_point(|(_, other)| other.priority <= request.priority);
        self.waiting.insert(at, (id, request));
        Ok(id)
    }

    /// Forgets a request. Nothing more is heard of it.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|(other, _)| *other != id);
        if let Some(idx) = self.active.iter().position(|active| active.id == id) {
            let active = self.active.remove(idx);
            self.keep(&active);
        }
    }

    /// Keeps nothing that is computed with this adapter, from now on.
    pub fn forget(&mut self, adapter: &Arc<Adapter>) {
        self.cache.forget(adapter);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    /// When the next deadline is.
    pub fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().map(|(_, request)| request);
        waiting
            .chain(self.active.iter().map(|active| &active.request))
            .filter_map(|request| request.deadline)
            .min()
    }

    /// What is going on.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            n_waiting: self.waiting.len(),
            n_active: self.active.len(),
            kv_reserved_bytes: self.reserved_bytes(),
            cache_bytes: self.cache.size_bytes(),
            disk_bytes: self.disk.as_ref().map_or(0, DiskCache::size_bytes),
            ..self.counters
        }
    }

    /// The model's engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Reads a page of a prompt back that was computed before the last start; false if there is none left.
    pub fn restore(&mut self) -> bool {
        let page = self.disk.as_mut().and_then(|disk| disk.restore(&mut self.engine));
        page.map(|page| self.cache.insert(&page)).is_some()
    }

    /// One pass of the model for everybody, and what came of it.
    pub fn step(&mut self, now: Instant) -> Vec<(RequestId, Event)> {
        let mut events = Events::new();
        self.expire(now, &mut events);
        self.admit(now, &mut events);
        self.last_step = (0, 0);
        self.generate(&mut events);
        self.embed(&mut events);
        events
    }

    /// How long the last [`Scheduler::step`] took.
    pub fn took(&mut self, time: Duration) {
        let (n_decode, n_prompt) = self.last_step;
        if n_decode + n_prompt > 0 {
            self.pace.took(n_decode, n_prompt, time);
        }
    }

    fn expire(&mut self, now: Instant, events: &mut Events) {
        let is_late = |request: &Request| request.deadline.is_some_and(|deadline| deadline <= now);
        let waiting = self.waiting.iter().filter(|(_, request)| is_late(request)).map(|(id, _)| *id);
        let active = self.active.iter().filter(|active| is_late(&active.request)).map(|active| active.id);
        let late: Vec<RequestId> = waiting.chain(active).collect();
        for id in late {
            self.cancel(id);
            events.push((id, Event::Failed(Failure::TimedOut)));
        }
    }

    /// Begins what is first in the queue, as long as there is room for it. What is behind it waits, even if smaller:
    /// else a large request might never begin.
    fn admit(&mut self, now: Instant, events: &mut Events) {
        while self.waiting.first().is_some_and(|(_, request)| self.fits(request)) {
            let (id, request) = self.waiting.remove(0);
            let fresh = match self.engine.new_adapted_sequence(&request.adapters) {
                Ok(sequence) => sequence,
                Err(error) => {
                    events.push((id, Event::Failed(Failure::Broken(error.to_string()))));
                    continue;
                }
            };
            let (phase, n_cached) = match request.task {
                Task::Generate => {
                    // On the disk there is only what has no adapters.
                    let disk = self.disk.as_mut().filter(|_| request.adapters.is_empty());
                    let kept = disk.map(|disk| disk.restore_prompt(&mut self.engine, &request.prompt));
                    kept.iter().flatten().for_each(|kept| self.cache.insert(kept));
                    // The last token is computed in any case: its logits are wanted.
                    let max_len = request.prompt.len() - 1;
                    let found = self.cache.find(&request.prompt, max_len, &request.adapters);
                    let sequence = found.unwrap_or(fresh);
                    let n_cached = sequence.len();
                    (Phase::Prefill(sequence), n_cached)
                }
                Task::Embed => {
                    let sum = vec![0.0; self.engine.config().hidden_dim];
                    (Phase::Embed(fresh, sum), 0)
                }
            };
            self.counters.n_cached_tokens += n_cached as u64;
            events.push((id, Event::Started { n_cached, at: now }));
            let reserved_bytes = self.needed_bytes(&request);
            self.active.push(Active { id, request, reserved_bytes, phase });
        }
    }

    fn fits(&self, request: &Request) -> bool {
        let n_choices: usize = self.active.iter().map(|active| active.request.n_choices).sum();
        n_choices + request.n_choices <= self.limits.max_active
            && self.reserved_bytes() + self.needed_bytes(request) <= self.limits.kv_bytes
    }

    fn reserved_bytes(&self) -> usize {
        self.active.iter().map(|active| active.reserved_bytes).sum()
    }

    /// Keys and values to the longest possible end. Answers share the prompt's whole pages, and each begins with a copy
    /// of its last.
    fn needed_bytes(&self, request: &Request) -> usize {
        let n_prompt = request.prompt.len();
        let all =
            |n_choices: usize| n_choices.saturating_mul(self.engine.kv_bytes(PAGE_LEN + request.max_tokens));
        match request.task {
            Task::Generate => self.engine.kv_bytes(n_prompt).saturating_add(all(request.n_choices)),
            Task::Embed => self.engine.kv_bytes(n_prompt),
        }
    }

    /// The pass for prompts and answers.
    fn generate(&mut self, events: &mut Events) {
        let n_decode = self.plan_decode();
        let shares = self.plan_prefill(n_decode);
        self.last_step = (n_decode, shares.iter().sum());
        self.counters.n_prompt_tokens += self.last_step.1 as u64;
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        let everybody = 0..self.active.len();
        let mut groups = vec![everybody];
        while let Some(group) = groups.pop() {
            match self.pass(group.clone(), &shares) {
                Ok(Some(logits)) => self.advance(group, &shares, &logits, events, &mut done),
                Ok(None) => {}
                // Some sequence's numbers overflow, as an adapter makes them that is too strong. The engine does not tell whose;
                // but nothing has changed, and a sequence's numbers do not depend on the others. So halves go on by themselves,
                // until those fail alone whose numbers they are.
                Err(Error::NotFinite) if group.len() > 1 => {
                    let middle = group.start + group.len() / 2;
                    groups.extend([middle..group.end, group.start..middle]);
                }
                // The same would happen again.
                Err(error) => {
                    let concerned =
                        self.active[group].iter().filter(|active| !matches!(active.phase, Phase::Embed(..)));
                    for active in concerned {
                        events.push((active.id, Event::Failed(Failure::Broken(error.to_string()))));
                        failed.push(active.id);
                    }
                }
            }
        }
        done.into_iter().for_each(|id| self.cancel(id));
        self.active.retain(|active| !failed.contains(&active.id));
    }

    /// Computes what these want next; with `shares` of all prompts. After an error no sequence has changed.
    fn pass(&mut self, group: Range<usize>, shares: &[usize]) -> Result<Option<Logits>, Error> {
        let mut parts = Vec::new();
        for (active, &share) in self.active[group.clone()].iter_mut().zip(&shares[group]) {
            match &mut active.phase {
                Phase::Prefill(sequence) if share > 0 => {
                    let start = sequence.len();
                    let tokens = &active.request.prompt[start..start + share];
                    let n_logits = usize::from(start + share == active.request.prompt.len());
                    parts.push(StepPart { sequence, tokens, n_logits });
                }
                Phase::Decode(choices) => {
                    parts.extend(choices.iter_mut().filter(|choice| !choice.is_finished).map(|choice| {
                        StepPart {
                            n_logits: choice.feed.len(),
                            sequence: &mut choice.sequence,
                            tokens: &choice.feed,
                        }
                    }))
                }
                Phase::Prefill(_) | Phase::Embed(..) => {}
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        self.counters.n_steps += 1;
        self.engine.step(&mut parts).map(Some)
    }

    /// Takes what a pass has computed; those that have come to their end go to `done`.
    fn advance(
        &mut self,
        group: Range<usize>,
        shares: &[usize],
        logits: &Logits,
        events: &mut Events,
        done: &mut Vec<RequestId>,
    ) {
        let mut rows = (0..logits.n_rows()).map(|i| logits.row(i));
        for (active, &share) in self.active[group.clone()].iter_mut().zip(&shares[group]) {
            let rows: Vec<&[f32]> = rows.by_ref().take(active.n_rows(share)).collect();
            if let Phase::Prefill(sequence) = &active.phase
                && share > 0
                && active.request.wants_progress
            {
                events.push((active.id, Event::Progress { n_processed: sequence.len() }));
            }
            let advanced = active.advance(&self.tokenizer, &rows, &mut self.cache, self.disk.as_ref());
            self.counters.n_accepted_tokens += active.n_accepted();
            self.counters.longest = self.counters.longest.max(active.longest());
            match advanced {
                Ok(news) => {
                    let n_tokens = news.iter().filter(|event| matches!(event, Event::Token { .. })).count();
                    self.counters.n_generated_tokens += n_tokens as u64;
                    events.extend(news.into_iter().map(|event| (active.id, event)));
                    if active.is_done() {
                        done.push(active.id);
                    }
                }
                Err(error) => {
                    events.push((active.id, Event::Failed(Failure::Broken(error.to_string()))));
                    done.push(active.id);
                }
            }
        }
    }

    /// Lets answers guess ahead where that may pay. Tokens of all of them in this pass.
    fn plan_decode(&mut self) -> usize {
        let prefills = self.active.iter().any(|active| matches!(active.phase, Phase::Prefill(_)));
        let n_answers: usize = self.active.iter().map(Active::n_decoding).sum();
        // Beside prompts, guesses would only take their room.
        let max_draft = if prefills || n_answers > MAX_DRAFTING { 0 } else { usize::MAX };
        let mut n_decode = 0;
        for Active { phase, request, .. } in &mut self.active {
            let Phase::Decode(choices) = phase else { continue };
            for choice in choices.iter_mut().filter(|choice| !choice.is_finished) {
                choice.draft(max_draft, request);
                self.counters.n_drafts += u64::from(choice.feed.len() > 1);
                self.counters.n_drafted_tokens += choice.feed.len() as u64 - 1;
                n_decode += choice.feed.len();
            }
        }
        n_decode
    }

    /// Tokens of each active request's prompt in this pass: of the more urgent, then of the older first.
    fn plan_prefill(&self, n_decode: usize) -> Vec<usize> {
        let mut room = self.pace.prompt_tokens(n_decode, Engine::MAX_STEP_TOKENS - n_decode);
        let mut order: Vec<usize> = (0..self.active.len()).collect();
        order.sort_by_key(|idx| self.active[*idx].request.priority);
        let mut shares = vec![0; self.active.len()];
        for idx in order {
            let Active { phase: Phase::Prefill(sequence), request, .. } = &self.active[idx] else { continue };
            shares[idx] = (request.prompt.len() - sequence.len()).min(room);
            room -= shares[idx];
        }
        shares
    }

    /// A piece of the first text that waits for its mean state.
    fn embed(&mut self, events: &mut Events) {
        let room = self.pace.prompt_tokens(self.last_step.0, Engine::MAX_STEP_TOKENS);
        let is_embedding = |active: &Active| matches!(active.phase, Phase::Embed(..));
        let Some(idx) = self.active.iter().position(is_embedding) else { return };
        let Active { id, request, phase: Phase::Embed(sequence, sum), .. } = &mut self.active[idx] else {
            return;
        };
        let start = sequence.len();
        let tokens = &request.prompt[start..(start + room).min(request.prompt.len())];
        self.last_step.1 += tokens.len();
        self.counters.n_prompt_tokens += tokens.len() as u64;
        let event = match self.engine.mean_state(sequence, tokens, &CancelToken::new()) {
            Ok(mean) => {
                let weight = tokens.len() as f64;
                sum.iter_mut().zip(&mean).for_each(|(sum, x)| *sum += weight * f64::from(*x));
                if sequence.len() < request.prompt.len() {
                    return;
                }
                let n_tokens = request.prompt.len() as f64;
                Event::Embedded(sum.iter().map(|sum| (sum / n_tokens) as f32).collect())
            }
            Err(error) => Event::Failed(Failure::Broken(error.to_string())),
        };
        events.push((*id, event));
        self.active.remove(idx);
    }

    /// Keeps what has been computed for a request for those to come.
    fn keep(&mut self, active: &Active) {
        match &active.phase {
            Phase::Prefill(sequence) => self.cache.insert(sequence),
            Phase::Decode(choices) => choices.iter().for_each(|choice| self.cache.insert(&choice.sequence)),
            Phase::Embed(..) => {}
        }
    }
}

impl Active {
    fn n_decoding(&self) -> usize {
        match &self.phase {
            Phase::Decode(choices) => choices.iter().filter(|choice| !choice.is_finished).count(),
            Phase::Prefill(_) | Phase::Embed(..) => 0,
        }
    }

    /// Guesses of its answers that have come true since this was asked last.
    fn n_accepted(&mut self) -> u64 {
        match &mut self.phase {
            Phase::Decode(choices) => {
                choices.iter_mut().map(|choice| std::mem::take(&mut choice.n_accepted) as u64).sum()
            }
            Phase::Prefill(_) | Phase::Embed(..) => 0,
        }
    }

    /// Tokens of its longest sequence.
    fn longest(&self) -> usize {
        match &self.phase {
            Phase::Prefill(sequence) | Phase::Embed(sequence, _) => sequence.len(),
            Phase::Decode(choices) => choices.iter().map(|choice| choice.sequence.len()).max().unwrap_or(0),
        }
    }

    fn is_done(&self) -> bool {
        match &self.phase {
            Phase::Decode(choices) => choices.iter().all(|choice| choice.is_finished),
            Phase::Prefill(_) | Phase::Embed(..) => false,
        }
    }

    /// Positions of which it had asked the logits in a pass with `share` tokens of its prompt.
    fn n_rows(&self, share: usize) -> usize {
        match &self.phase {
            Phase::Prefill(sequence) => usize::from(share > 0 && sequence.len() == self.request.prompt.len()),
            Phase::Decode(choices) => choices.iter().map(|choice| choice.feed.len()).sum(),
            Phase::Embed(..) => 0,
        }
    }

    /// Goes on by the logits that it had asked for.
    fn advance(
        &mut self,
        tokenizer: &Tokenizer,
        rows: &[&[f32]],
        cache: &mut PrefixCache,
        disk: Option<&DiskCache>,
    ) -> Result<Vec<Event>, GrammarError> {
        let mut events = Vec::new();
        let request = &self.request;
        match &mut self.phase {
            Phase::Prefill(sequence) if !rows.is_empty() => {
                cache.insert(sequence);
                // Answers are not: a prompt that goes on from one brings it along.
                disk.into_iter().for_each(|disk| disk.keep(sequence));
                let mut choices: Vec<Choice> =
                    (0..request.n_choices).map(|idx| Choice::new(idx, request, sequence.fork())).collect();
                for choice in &mut choices {
                    choice.advance(request, tokenizer, rows, &mut events)?;
                }
                self.phase = Phase::Decode(choices);
            }
            Phase::Decode(choices) => {
                let mut rows = rows;
                for choice in choices.iter_mut().filter(|choice| !choice.is_finished) {
                    let (own, rest) = rows.split_at(choice.feed.len());
                    choice.advance(request, tokenizer, own, &mut events)?;
                    rows = rest;
                }
            }
            Phase::Prefill(_) | Phase::Embed(..) => {}
        }
        Ok(events)
    }
}
