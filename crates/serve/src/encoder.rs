//! The thread of a model that makes vectors of texts, or scores of pairs of them, which are vectors of one number here.
//!
//! Texts of all requests share its passes: each pass takes a text of every request in turn until it is full, so that a
//! long list does not keep a short one waiting. A request whose client has left, or whose time is over, is dropped before
//! the next pass.

use std::collections::VecDeque;
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use edgeward_engine::Encoder;
use tokio::sync::oneshot;

use crate::error::ApiError;
use crate::scheduler::{Failure, Rejection, Snapshot};

/// A text, or two of which a model says how well they go together.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Tokens, those around the texts included.
    pub tokens: Vec<u32>,
    /// How many of them are the first text's.
    pub n_first: usize,
}

impl From<Vec<u32>> for Text {
    fn from(tokens: Vec<u32>) -> Text {
        Text { n_first: tokens.len(), tokens }
    }
}

/// Texts, and where their vectors go.
pub struct Job {
    /// One or more.
    pub texts: Vec<Text>,
    /// When nobody cares any more.
    pub deadline: Instant,
    /// One vector for each text.
    pub reply: oneshot::Sender<Result<Vec<Vec<f32>>, ApiError>>,
}

/// A job that is under way.
struct Active {
    job: Job,
    vectors: Vec<Vec<f32>>,
}

/// The thread: until no more jobs can come and all are done. At most `max_jobs` are taken on at once.
pub fn serve(
    mut encoder: Encoder,
    max_jobs: usize,
    receiver: &mpsc::Receiver<Job>,
    published: &Mutex<Snapshot>,
) {
    let mut active: VecDeque<Active> = VecDeque::new();
    let mut counters = Snapshot::default();
    loop {
        if active.is_empty() {
            match receiver.recv() {
                Ok(job) => take(&encoder, max_jobs, &mut active, job),
                Err(mpsc::RecvError) => return,
            }
        }
        while let Ok(job) = receiver.try_recv() {
            take(&encoder, max_jobs, &mut active, job);
        }
        step(&mut encoder, &mut active, &mut counters, Instant::now(), |counters| {
            *published.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = counters;
        });
    }
}

/// Takes a job on, or says why not.
fn take(encoder: &Encoder, max_jobs: usize, active: &mut VecDeque<Active>, job: Job) {
    let wrong =
        job.texts.iter().enumerate().find_map(|(i, text)| Some((i, encoder.check(&text.tokens).err()?)));
    let refusal = match wrong {
        Some((i, error)) => Some(ApiError::field("input", format!("text {i}: {error}"))),
        None if active.len() >= max_jobs => Some(ApiError::from(Rejection::QueueFull)),
        None => None,
    };
    match refusal {
        // Whoever asked may be gone already, here and below.
        Some(error) => drop(job.reply.send(Err(error))),
        None => active.push_back(Active { vectors: Vec::with_capacity(job.texts.len()), job }),
    }
}

/// One pass, and the answers that it makes whole. `publish` is told the counters before anybody is told an answer.
fn step(
    encoder: &mut Encoder,
    active: &mut VecDeque<Active>,
    counters: &mut Snapshot,
    now: Instant,
    publish: impl FnOnce(Snapshot),
) {
    active.retain(|Active { job, .. }| !job.reply.is_closed());
    for _ in 0..active.len() {
        let each = active.pop_front().expect("there are as many");
        if each.job.deadline <= now {
            drop(each.job.reply.send(Err(Failure::TimedOut.into())));
        } else {
            active.push_back(each);
        }
    }
    // How many texts of each job, and in which order they are computed.
    let mut shares = vec![0; active.len()];
    let mut order = Vec::new();
    let mut n_tokens = 0;
    'full: loop {
        let before = order.len();
        for (idx, Active { job, vectors }) in active.iter().enumerate() {
            let Some(text) = job.texts.get(vectors.len() + shares[idx]) else { continue };
            if n_tokens + text.tokens.len() > Encoder::PASS_TOKENS && n_tokens > 0 {
                break 'full;
            }
            n_tokens += text.tokens.len();
            shares[idx] += 1;
            order.push((idx, (&text.tokens[..], text.n_first)));
        }
        if order.len() == before {
            break;
        }
    }
    let texts: Vec<(&[u32], usize)> = order.iter().map(|(_, text)| *text).collect();
    let owners: Vec<usize> = order.iter().map(|(idx, _)| *idx).collect();
    let computed = match encoder.config().score {
        Some(_) => encoder.score(&texts).map(|scores| scores.into_iter().map(|score| vec![score]).collect()),
        None => encoder.embed(&texts.iter().map(|(tokens, _)| *tokens).collect::<Vec<_>>()),
    };
    counters.n_steps += 1;
    counters.n_prompt_tokens += n_tokens as u64;
    counters.n_active = shares.iter().filter(|share| **share > 0).count();
    counters.n_waiting = active.len() - counters.n_active;
    match computed {
        Ok(vectors) => {
            for (idx, vector) in owners.into_iter().zip(vectors) {
                active[idx].vectors.push(vector);
            }
            let is_whole = |each: &Active| each.vectors.len() == each.job.texts.len();
            let n_left = active.iter().filter(|each| !is_whole(each)).count();
            counters.n_active = counters.n_active.min(n_left);
            counters.n_waiting = n_left - counters.n_active;
            publish(*counters);
            for _ in 0..active.len() {
                let each = active.pop_front().expect("there are as many");
                if is_whole(&each) {
                    drop(each.job.reply.send(Ok(each.vectors)));
                } else {
                    active.push_back(each);
                }
            }
            // Whoever came first this time comes last the next, so that nobody's place depends on luck.
            active.rotate_left(usize::from(!active.is_empty()));
        }
        Err(error) => {
            // Which text it was is not known, and the same would happen again.
            let failure = Failure::Broken(error.to_string());
            for idx in (0..active.len()).rev().filter(|idx| shares[*idx] > 0) {
                let each = active.remove(idx).expect("it is there");
                drop(each.job.reply.send(Err(failure.clone().into())));
            }
            (counters.n_active, counters.n_waiting) = (0, active.len());
            publish(*counters);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use axum::http::StatusCode;
    use edgeward_engine::Isa;
    use edgeward_model::EncoderModel;

    fn tiny_encoder() -> Encoder {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/encoder/mean");
        Encoder::new(&Arc::new(EncoderModel::load(&path).unwrap()), 1, Isa::best()).unwrap()
    }

    fn text(len: usize, seed: usize) -> Vec<u32> {
        (0..len).map(|i| ((i * 7 + seed * 13) % 90 + 5) as u32).collect()
    }

    type Reply = oneshot::Receiver<Result<Vec<Vec<f32>>, ApiError>>;

    fn job(texts: Vec<Vec<u32>>) -> (Job, Reply) {
        let (reply, receiver) = oneshot::channel();
        let texts = texts.into_iter().map(Text::from).collect();
        (Job { texts, deadline: Instant::now() + Duration::from_secs(600), reply }, receiver)
    }

    /// Takes the jobs on and steps so often.
    fn run(jobs: Vec<Job>, max_jobs: usize, n_steps: usize) -> (VecDeque<Active>, Snapshot) {
        let mut encoder = tiny_encoder();
        let (mut active, mut counters) = (VecDeque::new(), Snapshot::default());
        jobs.into_iter().for_each(|job| take(&encoder, max_jobs, &mut active, job));
        for _ in 0..n_steps {
            if !active.is_empty() {
                step(&mut encoder, &mut active, &mut counters, Instant::now(), |_| {});
            }
        }
        (active, counters)
    }

    #[test]
    fn a_long_list_does_not_keep_a_short_one_waiting() {
        let long: Vec<Vec<u32>> = (0..100).map(|seed| text(40, seed)).collect();
        let short = vec![text(3, 7), text(64, 8)];
        let (first, mut first_reply) = job(long.clone());
        let (second, mut second_reply) = job(short.clone());
        let (active, counters) = run(vec![first, second], 8, 1);
        let mut alone = tiny_encoder();
        let mut expected = |texts: &[Vec<u32>]| {
            alone.embed(&texts.iter().map(|text| &text[..]).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(second_reply.try_recv().unwrap().unwrap(), expected(&short));
        assert!(first_reply.try_recv().is_err() && active.len() == 1);
        assert_eq!((counters.n_active, counters.n_waiting, counters.n_steps), (1, 0, 1));
        let (job, mut reply) = job(long.clone());
        let (active, counters) = run(vec![job], 8, 100);
        assert_eq!(reply.try_recv().unwrap().unwrap(), expected(&long));
        assert!(active.is_empty());
        // Six texts of 40 tokens are in a pass of 256.
        assert_eq!((counters.n_prompt_tokens, counters.n_steps), (4000, 17));
    }

    #[test]
    fn clients_that_leave_and_jobs_that_are_late_are_dropped() {
        let (left, reply) = job(vec![text(5, 1)]);
        drop(reply);
        let (mut late, mut late_reply) = job(vec![text(5, 1)]);
        late.deadline = Instant::now();
        let (good, mut good_reply) = job(vec![text(5, 1)]);
        let (active, counters) = run(vec![left, late, good], 8, 1);
        assert!(active.is_empty());
        assert_eq!(late_reply.try_recv().unwrap().unwrap_err().status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(good_reply.try_recv().unwrap().unwrap().len(), 1);
        assert_eq!(counters.n_prompt_tokens, 5);
    }

    #[test]
    fn jobs_are_checked_and_bounded() {
        let (long, mut long_reply) = job(vec![text(5, 1), text(65, 1)]);
        let (fits, _fits_reply) = job(vec![text(5, 1)]);
        let (beyond, mut beyond_reply) = job(vec![text(5, 1)]);
        run(vec![long, fits, beyond], 1, 0);
        let error = long_reply.try_recv().unwrap().unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
        assert!(error.message.contains("text 1") && error.message.contains("65 tokens"), "{}", error.message);
        let error = beyond_reply.try_recv().unwrap().unwrap_err();
        assert_eq!(error.status, StatusCode::TOO_MANY_REQUESTS);
    }
}
