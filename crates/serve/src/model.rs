//! A model that serves: the thread that computes, and the handle by which requests reach it. What is said here of
//! schedulers is of models that answer; those that make vectors have a simpler thread ([`crate::encoder`]).
//!
//! The thread owns the [`Scheduler`], takes requests from a bounded channel between two passes, and sends each request's
//! events to whoever asked. Nobody waits for a slow reader: a request's events are kept until they are read, and they
//! are at most as many as its answers have tokens. A reader that is gone is noticed before the next pass.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use edgeward_engine::{Adapter, Encoder, Engine};
use edgeward_model::Config;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::adapters::AdapterList;
use crate::encoder::{self, Job, Text};
use crate::error::ApiError;
use crate::metrics::Histograms;
use crate::replies::{self, ReplyCache};
use crate::routes::adapters::unknown;
use crate::scheduler::disk::DiskCache;
use crate::scheduler::{
    Event, Failure, FinishReason, Limits, Rejection, Request, RequestId, Scheduler, Snapshot, TokenLogprob,
};
use crate::telemetry::Work;
use crate::text::ModelText;

/// Requests on their way to the thread; more find the queue full.
const CHANNEL_LEN: usize = 64;

/// What clients may know of a model.
#[derive(Clone, Debug, Default)]
pub struct ModelInfo {
    /// Its name in requests.
    pub name: String,
    /// Positions of its context.
    pub context_len: usize,
    /// Ids of its vocabulary.
    pub vocab_size: usize,
    /// Width of its states, and so of embeddings.
    pub hidden_dim: usize,
    /// The name of its file or folder, without where that is.
    pub file_name: String,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Numbers that it is made of.
    pub n_params: u64,
    /// What most of them are stored as.
    pub quantization: String,
    /// Its family.
    pub family: String,
    /// What it is good for.
    pub kind: ModelKind,
    /// Seconds since 1970 when it was loaded.
    pub loaded_s: u64,
}

/// What a model is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelKind {
    /// It answers, and its states serve as embeddings.
    #[default]
    Generator,
    /// It makes embeddings.
    Encoder,
    /// It says how well two texts go together.
    Ranker,
}

/// A model that serves.
pub struct ServedModel {
    /// What clients may know.
    pub info: ModelInfo,
    /// Its words.
    pub text: ModelText,
    /// Times, for whoever watches.
    pub histograms: Histograms,
    /// What requests may have added to it.
    pub adapters: AdapterList,
    /// Of a model that answers.
    config: Option<Config>,
    sender: Mutex<Option<Sender>>,
    snapshot: Arc<Mutex<Snapshot>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Microseconds since 1970.
    last_used: AtomicU64,
    /// Answers or requests at once, at most.
    n_places: usize,
    replies: Option<ReplyCache>,
}

/// The way to the thread.
#[derive(Clone)]
enum Sender {
    Generator(mpsc::SyncSender<Message>),
    Encoder(mpsc::SyncSender<Job>),
}

/// What the thread of a model that answers is told.
enum Message {
    Submit(Box<Submission>),
    /// An adapter is not listed any more.
    Forget(Arc<Adapter>),
}

struct Submission {
    request: Request,
    reply: oneshot::Sender<Result<(), Rejection>>,
    events: UnboundedSender<Event>,
}

/// Tokens that a client's request has used so far, for whoever keeps accounts.
#[derive(Debug, Default)]
pub struct Tally {
    /// Of prompts.
    pub n_prompt: AtomicU64,
    /// Of answers.
    pub n_generated: AtomicU64,
    /// What was computed, where that is to be told in detail.
    pub works: Option<Mutex<Vec<Work>>>,
}

impl ServedModel {
    /// Starts the thread; with `disk`, prompts outlive it.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        info: ModelInfo,
        text: ModelText,
        engine: Engine,
        limits: Limits,
        disk: Option<DiskCache>,
    ) -> std::io::Result<ServedModel> {
        let (sender, receiver) = mpsc::sync_channel(CHANNEL_LEN);
        let n_places = limits.max_active;
        let replies = (limits.reply_bytes > 0).then(|| ReplyCache::new(limits.reply_bytes));
        let config = engine.config().clone();
        let scheduler = Scheduler::new(engine, Arc::clone(text.tokenizer()), limits, disk);
        let run = move |published: &Mutex<Snapshot>| serve(scheduler, &receiver, published);
        let model = ServedModel::spawn(info, text, Sender::Generator(sender), run)?;
        Ok(ServedModel { n_places, replies, config: Some(config), ..model })
    }

    /// Starts the thread of a model that makes vectors; `max_waiting` requests wait for it at most.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start_encoder(
        info: ModelInfo,
        text: ModelText,
        encoder: Encoder,
        max_waiting: usize,
    ) -> std::io::Result<ServedModel> {
        let (sender, receiver) = mpsc::sync_channel(CHANNEL_LEN);
        let run = move |published: &Mutex<Snapshot>| {
            encoder::serve(encoder, max_waiting.max(1), &receiver, published);
        };
        ServedModel::spawn(info, text, Sender::Encoder(sender), run)
    }

    fn spawn(
        info: ModelInfo,
        text: ModelText,
        sender: Sender,
        run: impl FnOnce(&Mutex<Snapshot>) + Send + 'static,
    ) -> std::io::Result<ServedModel> {
        let snapshot = Arc::new(Mutex::new(Snapshot::default()));
        let published = Arc::clone(&snapshot);
        let thread = std::thread::Builder::new()
            .name(format!("model {}", info.name))
            .spawn(move || run(&published))?;
        Ok(ServedModel {
            info,
            text,
            histograms: Histograms::default(),
            adapters: AdapterList::default(),
            config: None,
            sender: Mutex::new(Some(sender)),
            snapshot,
            thread: Mutex::new(Some(thread)),
            last_used: AtomicU64::new(0),
            n_places: 1,
            replies: None,
        })
    }

    /// What the scheduler was doing after the last pass.
    pub fn snapshot(&self) -> Snapshot {
        *lock(&self.snapshot)
    }

    /// Its hyperparameters, if it answers.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// Answers that it computes at once, at most.
    pub fn n_places(&self) -> usize {
        self.n_places
    }

    /// Answers that are kept for requests that ask the same again, if any are.
    pub fn replies(&self) -> Option<&ReplyCache> {
        self.replies.as_ref()
    }

    /// It is asked now.
    pub(crate) fn touch(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_used.store(now.as_micros() as u64, Ordering::Relaxed);
    }

    /// When it was asked last, in microseconds since 1970; 0 if never.
    pub(crate) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// Whether nothing was under way or waiting after the last pass.
    pub(crate) fn is_idle(&self) -> bool {
        let snapshot = self.snapshot();
        snapshot.n_active + snapshot.n_waiting == 0
    }

    /// Hands a request to the thread.
    ///
    /// # Errors
    /// If it is not taken on.
    pub async fn submit(
        self: &Arc<Self>,
        mut request: Request,
        tally: &Arc<Tally>,
    ) -> Result<Answers, ApiError> {
        self.touch();
        // As the list is now; what becomes of it later is nothing to this request.
        let (adapters, scales) =
            self.adapters.chosen(request.lora.as_ref()).map_err(|id| unknown("lora", id))?;
        request.adapters = adapters;
        request.lora = Some(scales);
        let Sender::Generator(sender) = lock(&self.sender).clone().ok_or_else(stopping)? else {
            return Err(self.only_encodes());
        };
        let (reply, accepted) = oneshot::channel();
        let (events, receiver) = unbounded_channel();
        let n_choices = request.n_choices;
        let n_prompt = request.prompt.len();
        let wants_progress = request.wants_progress;
        let submitted = Instant::now();
        let key = self.replies.as_ref().and_then(|_| replies::key(&request));
        let known = self.replies.as_ref().zip(key).and_then(|(replies, key)| replies.find(&key));
        let is_known = known.is_some();
        match known {
            // The receiver is there, so all of them arrive.
            Some(known) => known.iter().for_each(|event| drop(events.send(event.clone()))),
            None => {
                let submission = Submission { request, reply, events };
                sender.try_send(Message::Submit(Box::new(submission))).map_err(refused)?;
                accepted.await.map_err(|_| stopping())??;
            }
        }
        tally.n_prompt.fetch_add(n_prompt as u64, Ordering::Relaxed);
        Ok(Answers {
            events: receiver,
            model: Arc::clone(self),
            tally: Arc::clone(tally),
            n_prompt,
            n_cached: 0,
            n_choices,
            wants_progress,
            n_left: n_choices,
            submitted,
            started: submitted,
            first_token: None,
            last_token: None,
            n_generated: 0,
            record: key.filter(|_| !is_known).map(|key| (key, Vec::new())),
        })
    }

    /// The vectors of texts, by a model that makes them; as the model makes them, of any length. Of one that scores pairs,
    /// these are vectors of one number.
    ///
    /// # Errors
    /// If the texts are not taken on, or something goes wrong.
    pub async fn encode(
        &self,
        texts: Vec<Text>,
        deadline: Instant,
        tally: &Tally,
    ) -> Result<Vec<Vec<f32>>, ApiError> {
        self.touch();
        let Some(Sender::Encoder(sender)) = lock(&self.sender).clone() else {
            return Err(stopping());
        };
        let n_prompt: usize = texts.iter().map(|text| text.tokens.len()).sum();
        let (reply, vectors) = oneshot::channel();
        sender.try_send(Job { texts, deadline, reply }).map_err(refused)?;
        let vectors = vectors.await.map_err(|_| stopping())??;
        tally.n_prompt.fetch_add(n_prompt as u64, Ordering::Relaxed);
        Ok(vectors)
    }

    /// Lets go of what was computed with an adapter that is not listed any more. Waits while the thread has too much to do.
    pub fn forget(&self, adapter: Arc<Adapter>) {
        // A clone, as others must get at it meanwhile.
        let sender = lock(&self.sender).clone();
        if let Some(Sender::Generator(sender)) = sender {
            // One that is gone keeps nothing.
            let _ = sender.send(Message::Forget(adapter));
        }
    }

    /// What is said to who wants something else of a model that makes vectors or scores.
    pub fn only_encodes(&self) -> ApiError {
        let message = match self.info.kind {
            ModelKind::Ranker => "this model ranks only: use /v1/rerank, or another model",
            _ => "this model makes embeddings only: use /v1/embeddings or /v1/rerank, or another model",
        };
        ApiError::field("model", message)
    }

    /// Takes no more requests, and waits until those that were accepted are done.
    pub fn stop(&self) {
        drop(lock(&self.sender).take());
        if let Some(thread) = lock(&self.thread).take() {
            // A panic has been printed when it happened.
            let _ = thread.join();
        }
    }
}

fn stopping() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
}

/// The channel does not take it.
fn refused<T>(error: mpsc::TrySendError<T>) -> ApiError {
    match error {
        mpsc::TrySendError::Full(_) => ApiError::from(Rejection::QueueFull),
        mpsc::TrySendError::Disconnected(_) => stopping(),
    }
}

/// A panic elsewhere leaves nothing half done that is behind one of these.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The thread: until no more requests can come and all are done.
fn serve(mut scheduler: Scheduler, receiver: &mpsc::Receiver<Message>, published: &Mutex<Snapshot>) {
    let mut listeners: HashMap<RequestId, UnboundedSender<Event>> = HashMap::new();
    *lock(published) = scheduler.snapshot();
    loop {
        if scheduler.is_idle() {
            // Between two requests; a page takes a millisecond or two.
            let next = match receiver.try_recv() {
                Err(mpsc::TryRecvError::Empty) if scheduler.restore() => {
                    *lock(published) = scheduler.snapshot();
                    continue;
                }
                Err(mpsc::TryRecvError::Empty) => receiver.recv().ok(),
                other => other.ok(),
            };
            match next {
                Some(message) => take(&mut scheduler, &mut listeners, message),
                None => return,
            }
        }
        while let Ok(message) = receiver.try_recv() {
            take(&mut scheduler, &mut listeners, message);
        }
        listeners.retain(|id, listener| {
            if listener.is_closed() {
                scheduler.cancel(*id);
            }
            !listener.is_closed()
        });
        let start = Instant::now();
        let events = scheduler.step(start);
        scheduler.took(start.elapsed());
        // Before the events: whoever has read an answer finds it counted.
        *lock(published) = scheduler.snapshot();
        for (id, event) in events {
            if let Some(listener) = listeners.get(&id) {
                // One that is gone is forgotten before the next pass.
                let _ = listener.send(event);
            }
        }
        // Those whose last event was sent have dropped their receiver, or will once they have read it.
    }
}

fn take(
    scheduler: &mut Scheduler,
    listeners: &mut HashMap<RequestId, UnboundedSender<Event>>,
    message: Message,
) {
    let Submission { request, reply, events } = match message {
        Message::Submit(submission) => *submission,
        Message::Forget(adapter) => return scheduler.forget(&adapter),
    };
    let outcome = scheduler.submit(request);
    if let Ok(id) = outcome {
        listeners.insert(id, events);
    }
    // Whoever asked may be gone already; then the listener is closed, too.
    let _ = reply.send(outcome.map(|_| ()));
}

/// The events of one request, as they come. Dropping it cancels what is not done.
pub struct Answers {
    events: UnboundedReceiver<Event>,
    model: Arc<ServedModel>,
    tally: Arc<Tally>,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Of these, known from before; told by the first event.
    pub n_cached: usize,
    n_choices: usize,
    wants_progress: bool,
    n_left: usize,
    submitted: Instant,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    n_generated: usize,
    /// What is to be kept once it is whole, and as what.
    record: Option<(replies::Key, Vec<Event>)>,
}

/// Where a request's time has gone so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokens of the prompt that were known from before.
    pub n_cached: usize,
    /// The others.
    pub n_prompt: usize,
    /// From when its computation began until the first token.
    pub prompt: Duration,
    /// Tokens of all its answers.
    pub n_generated: usize,
    /// From the first token to the last.
    pub generation: Duration,
}

/// How far the prompt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its tokens.
    pub n_prompt: usize,
    /// Of these, known from before.
    pub n_cached: usize,
    /// Of these, computed by now, the former included.
    pub n_processed: usize,
    /// Since its computation began.
    pub time: Duration,
}

/// One whole answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Of each token, if asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Why it ended.
    pub reason: Option<FinishReason>,
    /// The stop text that ended it.
    pub stop_string: Option<String>,
    /// How many tokens it has.
    pub n_generated: usize,
    /// Its tokens.
    pub tokens: Vec<u32>,
}

impl Answers {
    /// The model that answers.
    pub fn model(&self) -> &Arc<ServedModel> {
        &self.model
    }

    /// Answers that were asked for.
    pub fn n_choices(&self) -> usize {
        self.n_choices
    }

    /// Where the time has gone.
    pub fn timings(&self) -> Timings {
        let first = self.first_token.unwrap_or(self.started);
        Timings {
            n_cached: self.n_cached,
            n_prompt: self.n_prompt.saturating_sub(self.n_cached),
            prompt: first.saturating_duration_since(self.started),
            n_generated: self.n_generated,
            generation: self.last_token.map_or(Duration::ZERO, |last| last.saturating_duration_since(first)),
        }
    }

    /// From the request until its computation began.
    pub fn waited(&self) -> Duration {
        self.started - self.submitted
    }

    /// Since the request was made.
    pub fn elapsed(&self) -> Duration {
        self.submitted.elapsed()
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        if self.n_left == 0 {
            return None;
        }
        let broken =
            || Event::Failed(Failure::Broken("the model's thread has ended: restart the server".into()));
        let event = self.events.recv().await.unwrap_or_else(broken);
        // How it came about is another time another.
        let is_kept = !matches!(event, Event::Progress { .. });
        if let Some((_, events)) = self.record.as_mut().filter(|_| is_kept) {
            events.push(event.clone());
        }
        match &event {
            Event::Started { n_cached, at } => {
                self.n_cached = *n_cached;
                // An answer that is told once more began another time.
                self.started = self.submitted.max(*at);
            }
            Event::Progress { .. } => {}
            Event::Token { .. } => self.time_token(),
            Event::Finished { .. } => self.n_left -= 1,
            Event::Embedded(_) | Event::Failed(_) => {
                self.n_left = 0;
                self.record = None;
            }
        }
        if self.n_left == 0
            && let (Some((key, events)), Some(replies)) = (self.record.take(), &self.model.replies)
        {
            replies.keep(key, events, self.n_prompt);
        }
        Some(event)
    }

    /// How far the prompt was at this event, if it tells and that was asked for.
    pub fn progress(&self, event: &Event) -> Option<Progress> {
        let Answers { n_prompt, n_cached, started, .. } = *self;
        let (n_processed, time) = match event {
            Event::Started { .. } => (n_cached, Duration::ZERO),
            Event::Progress { n_processed } => (*n_processed, started.elapsed()),
            _ => return None,
        };
        self.wants_progress.then_some(Progress { n_prompt, n_cached, n_processed, time })
    }

    fn time_token(&mut self) {
        let now = Instant::now();
        self.n_generated += 1;
        self.first_token.get_or_insert(now);
        self.tally.n_generated.fetch_add(1, Ordering::Relaxed);
        let histograms = &self.model.histograms;
        match self.last_token.replace(now) {
            None => {
                histograms.ttft.observe(now - self.submitted);
                histograms.prompt.observe(now - self.started);
            }
            Some(last) => histograms.inter_token.observe(now - last),
        }
    }

    /// All answers, once they are whole.
    ///
    /// # Errors
    /// If the request failed.
    pub async fn collect(&mut self) -> Result<Vec<Answer>, ApiError> {
        let mut answers = vec![Answer::default(); self.n_left];
        while let Some(event) = self.next().await {
            match event {
                Event::Started { .. } | Event::Progress { .. } | Event::Embedded(_) => {}
                Event::Token { choice_idx, text, logprob, token } => {
                    answers[choice_idx].text.push_str(&text);
                    answers[choice_idx].tokens.push(token);
                    answers[choice_idx].logprobs.extend(logprob);
                }
                Event::Finished { choice_idx, text, reason, stop_string, n_generated } => {
                    let answer = &mut answers[choice_idx];
                    answer.text.push_str(&text);
                    answer.reason = Some(reason);
                    answer.stop_string = stop_string;
                    answer.n_generated = n_generated;
                }
                Event::Failed(failure) => return Err(failure.into()),
            }
        }
        Ok(answers)
    }

    /// The mean state that was asked for.
    ///
    /// # Errors
    /// If the request failed.
    pub async fn embedding(&mut self) -> Result<Vec<f32>, ApiError> {
        while let Some(event) = self.next().await {
            match event {
                Event::Embedded(state) => return Ok(state),
                Event::Failed(failure) => return Err(failure.into()),
                _ => {}
            }
        }
        Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the request has ended without a state"))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if let Some(works) = &self.tally.works {
            lock(works).push(Work {
                model: self.model.info.name.clone(),
                submitted: self.submitted,
                started: self.started,
                tokens: self.first_token.zip(self.last_token),
                n_prompt: self.n_prompt,
                n_cached: self.n_cached,
                n_generated: self.n_generated,
            });
        }
    }
}
