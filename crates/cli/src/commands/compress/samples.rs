//! What people look at first: answers before and after, and scores of tasks.

use std::cell::OnceCell;
use std::sync::Arc;

use edgeward_compress::certificate::{Answer, TaskRecord};
use edgeward_compress::compress::Step;
use edgeward_compress::tasks::{Task, TaskScores, TaskSummary};
use edgeward_engine::{CancelToken, Engine, EngineOptions, KvType, Sampler, SamplerOptions};
use edgeward_kernels::memory::give_back_freed;
use edgeward_model::Model;
use edgeward_model::tokenizer::Tokenizer;

use super::Outcome;
use crate::conversation::{AnswerLimits, Conversation, PromptStyle};

/// Asked if nothing else is.
pub const PROMPTS: [&str; 3] = [
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short note asking a colleague to check the pump in hall 3.",
];
/// Tokens of an answer at most.
const ANSWER_TOKENS: usize = 48;

/// A model and its tokenizer.
pub struct Asked<'a> {
    pub model: &'a Arc<Model>,
    pub tokenizer: &'a Tokenizer,
    pub kv_type: KvType,
}

/// What both models are asked.
pub struct Samples<'a> {
    pub tasks: &'a [(String, Task)],
    /// Questions of each task at most.
    pub n_examples: Option<u32>,
    pub prompts: &'a [String],
    pub n_threads: usize,
    /// What the teacher said, once it has been asked: the same for every result.
    pub before: OnceCell<Said>,
}

/// Scores of the tasks, and answers to the prompts.
type Said = (Vec<TaskSummary>, Vec<String>);

impl Samples<'_> {
    /// Asks the teacher and the result.
    pub fn ask(
        &self,
        teacher: &Asked,
        result: &Asked,
        cancel: &CancelToken,
        watch: &mut dyn FnMut(Step),
    ) -> Outcome<(Vec<TaskRecord>, Vec<Answer>)> {
        let before = match self.before.get() {
            Some(before) => before,
            None => {
                let said = self.ask_one(teacher, "asking the teacher", cancel, watch)?;
                // It took all of the teacher, which nobody needs as a whole from here on.
                teacher.model.release_all();
                self.before.get_or_init(|| said)
            }
        };
        let after = self.ask_one(result, "asking the result", cancel, watch)?;
        let tasks =
            self.tasks.iter().zip(before.0.iter().zip(after.0)).map(|((name, _), (before, after))| {
                TaskRecord { name: name.clone(), before: before.clone(), after }
            });
        let answers =
            self.prompts.iter().zip(before.1.iter().zip(after.1)).map(|(prompt, (before, after))| Answer {
                prompt: prompt.clone(),
                before: before.clone(),
                after,
            });
        Ok((tasks.collect(), answers.collect()))
    }

    fn ask_one(
        &self,
        asked: &Asked,
        what: &'static str,
        cancel: &CancelToken,
        watch: &mut dyn FnMut(Step),
    ) -> Outcome<Said> {
        give_back_freed();
        let engine = || -> Result<Engine, edgeward_engine::Error> {
            let options = EngineOptions {
                n_threads: self.n_threads,
                kv_type: asked.kv_type,
                ..EngineOptions::default()
            };
            Engine::new(asked.model, options)
        };
        let n_asked = |task: &Task| self.n_examples.map_or(task.len(), |n| task.len().min(n as usize));
        let n_all = self.prompts.len() + self.tasks.iter().map(|(_, task)| n_asked(task)).sum::<usize>();
        let mut n_done = 0;
        let mut tell = || {
            watch(Step { what, n_done, n_all });
            n_done += 1;
        };
        let sampler = Sampler::new(SamplerOptions::default())?;
        let limits = AnswerLimits { max_tokens: ANSWER_TOKENS, ..AnswerLimits::default() };
        let mut conversation = Conversation::new(asked.model, engine()?, sampler, PromptStyle::Chat, limits)?;
        let mut answers = Vec::new();
        for prompt in self.prompts {
            tell();
            let mut answer = String::new();
            conversation.reset();
            conversation.answer(prompt, cancel, |text| {
                answer.push_str(text);
                Ok(())
            })?;
            if cancel.is_cancelled() {
                return Err(edgeward_engine::Error::Cancelled.into());
            }
            answers.push(answer);
        }
        drop(conversation);
        let mut summaries = Vec::new();
        if !self.tasks.is_empty() {
            let mut engine = engine()?;
            for (_, task) in self.tasks {
                let mut scores = TaskScores::default();
                for idx in 0..n_asked(task) {
                    tell();
                    task.ask(idx, &mut engine, asked.tokenizer, cancel, &mut scores)?;
                }
                summaries.push(scores.summary());
            }
        }
        watch(Step { what, n_done: n_all, n_all });
        Ok((summaries, answers))
    }
}
