//! A conversation with a model: messages in, streamed text out, in whatever way the model was taught to converse.

use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edgeward_engine::{
    Adapters, CancelToken, Engine, Generator, GeneratorOptions, Sampler, Sequence, StopReason,
};
use edgeward_model::Model;
use edgeward_model::chat::{ChatOptions, ChatTemplate, Message};
use edgeward_model::tokenizer::{AddSpecial, ParseSpecial, TextStream, Tokenizer};

/// Positions that are kept free for an answer when old messages must go, as a share of the context: a quarter.
const ANSWER_SHARE: usize = 4;

type Error = Box<dyn std::error::Error>;

/// How prompts reach the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptStyle {
    /// As messages, by the model's chat template; as they are if it has none.
    Chat,
    /// As they are: the model continues the text.
    Raw,
}

/// What limits an answer.
#[derive(Clone, Debug, Default)]
pub struct AnswerLimits {
    /// Tokens at most; 0 for as many as the context holds.
    pub max_tokens: usize,
    /// Texts that end the answer; they are not part of it.
    pub stop_strings: Vec<String>,
}

/// How an answer came about.
#[derive(Clone, Copy, Debug)]
pub struct AnswerStats {
    /// Tokens of everything before the answer.
    pub n_prompt: usize,
    /// Of these, tokens that were computed before and kept.
    pub n_reused: usize,
    /// Tokens of the answer.
    pub n_generated: usize,
    /// Until all of the prompt was computed.
    pub prefill: Duration,
    /// From then on.
    pub decode: Duration,
    /// Why it ended.
    pub end: AnswerEnd,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerEnd {
    /// The model had said what it wanted, or a stop text came.
    Complete,
    /// The limit of tokens was reached.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// Somebody cancelled, or nobody listens any more.
    Cancelled,
}

impl AnswerStats {
    /// "19 tokens of prompt at 1230 tokens/s, 57 of answer at 310 tokens/s".
    pub fn sentence(&self) -> String {
        let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
        let n_computed = self.n_prompt - self.n_reused;
        let mut sentence = format!("{} tokens of prompt", self.n_prompt);
        if self.n_reused > 0 {
            sentence.push_str(&format!(" ({} kept)", self.n_reused));
        }
        sentence.push_str(&format!(" at {:.0} tokens/s", rate(n_computed, self.prefill)));
        // The first token comes out of the prompt's own computation.
        if self.n_generated > 1 {
            let rate = rate(self.n_generated - 1, self.decode);
            sentence.push_str(&format!(", {} of answer at {rate:.0} tokens/s", self.n_generated));
        }
        match self.end {
            AnswerEnd::Complete => {}
            AnswerEnd::MaxTokens => sentence.push_str(", cut off by --max-tokens"),
            AnswerEnd::ContextFull => sentence.push_str(", cut off because the context is full"),
            AnswerEnd::Cancelled => sentence.push_str(", stopped"),
        }
        sentence
    }
}

/// A model that answers, and what has been said so far.
pub struct Conversation {
    engine: Engine,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    sampler: Sampler,
    sequence: Sequence,
    limits: AnswerLimits,
    system: Option<String>,
    /// Alternately the user's and the model's.
    messages: Vec<Message>,
    bos_text: String,
    eos_text: String,
}

impl Conversation {
    /// A conversation in which nothing has been said.
    pub fn new(
        model: &Model,
        engine: Engine,
        sampler: Sampler,
        style: PromptStyle,
        limits: AnswerLimits,
    ) -> Result<Conversation, Error> {
        let tokenizer = model.tokenizer()?;
        let template = match style {
            PromptStyle::Chat => model.chat_template()?,
            PromptStyle::Raw => None,
        };
        let text_of = |id: Option<u32>| -> Result<String, Error> {
            match id {
                Some(id) => Ok(String::from_utf8_lossy(tokenizer.token_bytes(id)?).into_owned()),
                None => Ok(String::new()),
            }
        };
        let bos_text = text_of(tokenizer.bos())?;
        let eos_text = text_of(tokenizer.eos())?;
        let sequence = engine.new_sequence();
        Ok(Conversation {
            engine,
            tokenizer,
            template,
            sampler,
            sequence,
            limits,
            system: None,
            messages: Vec::new(),
            bos_text,
            eos_text,
        })
    }

    /// The same with adapters.
    pub fn with_adapters(self, adapters: &Adapters) -> Result<Conversation, Error> {
        let sequence = self.engine.new_adapted_sequence(adapters)?;
        Ok(Conversation { sequence, ..self })
    }

    /// Whether the model was taught to converse, and is asked in that way.
    pub fn is_chat(&self) -> bool {
        self.template.is_some()
    }

    /// Sets what the model is told before everything else, and begins anew.
    pub fn set_system(&mut self, system: Option<String>) {
        self.system = system;
        self.reset();
    }

    /// Forgets what has been said.
    pub fn reset(&mut self) {
        self.messages.clear();
    }

    /// Positions in use, and how many there are.
    pub fn context_use(&self) -> (usize, usize) {
        (self.sequence.len(), self.engine.context_len())
    }

    /// Says `prompt` and hands the answer to `write` piece by piece, as it comes.
    ///
    /// If this fails, or the answer is cancelled, the conversation goes on from before the prompt, or from the part
    /// of the answer that there is.
    pub fn answer(
        &mut self,
        prompt: &str,
        cancel: &CancelToken,
        mut write: impl FnMut(&str) -> std::io::Result<()>,
    ) -> Result<AnswerStats, Error> {
        self.messages.push(Message::new("user", prompt));
        let said = self.messages.len();
        let mut answer = String::new();
        let outcome = self.generate(cancel, &mut |text| {
            answer.push_str(text);
            write(text)
        });
        if outcome.is_ok() && !answer.is_empty() {
            self.messages.push(Message::new("assistant", answer));
        } else {
            // A template may insist that user and assistant take turns.
            self.messages.truncate(said - 1);
        }
        outcome
    }

    fn generate(
        &mut self,
        cancel: &CancelToken,
        write: &mut dyn FnMut(&str) -> std::io::Result<()>,
    ) -> Result<AnswerStats, Error> {
        let prompt = self.prompt_tokens()?;
        let n_reused = self.sequence.common_prefix_len(&prompt).min(prompt.len().saturating_sub(1));
        let options = GeneratorOptions {
            max_tokens: self.limits.max_tokens,
            stop_tokens: self.tokenizer.end_ids().to_vec(),
        };
        let mut stats = AnswerStats {
            n_prompt: prompt.len(),
            n_reused,
            n_generated: 0,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
            end: AnswerEnd::Complete,
        };
        let start = Instant::now();
        let generator = Generator::new(
            &mut self.engine,
            &mut self.sequence,
            &mut self.sampler,
            &prompt,
            options,
            cancel.clone(),
        );
        let mut generator = match generator {
            Ok(generator) => generator,
            Err(edgeward_engine::Error::Cancelled) => {
                stats.end = AnswerEnd::Cancelled;
                stats.prefill = start.elapsed();
                return Ok(stats);
            }
            Err(error) => return Err(error.into()),
        };
        stats.prefill = start.elapsed();
        let mut stream = TextStream::new(self.limits.stop_strings.iter().map(String::as_str));
        let mut hand_out = |text: &str| -> Result<ControlFlow<()>, Error> {
            match if text.is_empty() { Ok(()) } else { write(text) } {
                Ok(()) => Ok(ControlFlow::Continue(())),
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
                Err(error) => Err(error.into()),
            }
        };
        let start = Instant::now();
        let mut is_heard = true;
        while let Some(sampled) = generator.next_token()? {
            stats.n_generated += 1;
            // Control tokens steer; they are no text, even those that do not end the answer.
            if self.tokenizer.is_control(sampled.token) {
                continue;
            }
            let text = stream.push(self.tokenizer.token_bytes(sampled.token)?);
            is_heard = hand_out(&text)?.is_continue();
            if !is_heard || stream.stop_hit().is_some() {
                break;
            }
        }
        stats.decode = start.elapsed();
        stats.end = match generator.stop_reason() {
            _ if !is_heard => AnswerEnd::Cancelled,
            Some(StopReason::Cancelled) => AnswerEnd::Cancelled,
            Some(StopReason::MaxTokens) => AnswerEnd::MaxTokens,
            Some(StopReason::ContextFull) => AnswerEnd::ContextFull,
            Some(StopReason::StopToken(_)) | None => AnswerEnd::Complete,
        };
        if is_heard {
            let _ = hand_out(&stream.finish())?;
        }
        Ok(stats)
    }

    /// Everything said so far, as tokens. What was said first is left out if it would leave no room for an answer.
    fn prompt_tokens(&mut self) -> Result<Vec<u32>, Error> {
        let context_len = self.engine.context_len();
        let room = context_len - context_len / ANSWER_SHARE;
        loop {
            let tokens = self.render()?;
            // A question and its answer go together; the last question stays whatever its length.
            if tokens.len() <= room || self.messages.len() <= 2 {
                return Ok(tokens);
            }
            self.messages.drain(..2);
        }
    }

    fn render(&self) -> Result<Vec<u32>, Error> {
        let Some(template) = &self.template else {
            // Only the text itself: a model that merely continues knows no turns.
            let prompt = self.messages.last().map(|message| message.content.as_str()).unwrap_or_default();
            let text = match &self.system {
                Some(system) => format!("{system}\n\n{prompt}"),
                None => prompt.to_owned(),
            };
            return Ok(self.tokenizer.encode(&text, AddSpecial::Yes, ParseSpecial::No)?);
        };
        let system = self.system.iter().map(|system| Message::new("system", system.as_str()));
        // What is said may quote a control token, and must not become one.
        let all = system.chain(self.messages.iter().cloned());
        let messages: Vec<Message> = all.map(|message| message.guarded(&self.tokenizer)).collect();
        let options = ChatOptions {
            bos_token: &self.bos_text,
            eos_token: &self.eos_text,
            now_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64),
            ..ChatOptions::default()
        };
        let text = template.apply(&messages, &options)?;
        Ok(self.tokenizer.encode_chat(&text)?)
    }
}
