//! Whole answers for requests that ask the same again, in every detail that an answer depends on; off unless asked for.
//!
//! Only what does not depend on chance is kept: greedy answers, and those whose seed was given. As an answer is the same
//! bit by bit in any company, one that is kept is the one that would be computed. It is kept as the events of which it was
//! made, so every API replays it in its own words, whole or piece by piece. Whoever has a key and asks what another has
//! asked is answered sooner, and may learn from it that it was asked.
//!
//! Invariants: what is kept takes at most `max_bytes`, by an estimate that errs upwards; whatever was unused longest goes first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use crate::model::lock;
use crate::scheduler::{Event, Request, Task};

/// Names a request by all that its answer depends on, but for the model: each has a cache of its own.
pub type Key = [u8; 32];

/// Of a request that may be answered by an answer that is kept; none of others.
pub fn key(request: &Request) -> Option<Key> {
    if !request.is_repeatable || request.task != Task::Generate {
        return None;
    }
    let mut sampling = request.sampling.clone();
    if sampling.temperature == 0.0 {
        // Nothing is drawn.
        sampling.seed = 0;
    }
    let source = request.grammar.as_ref().map(|grammar| grammar.source());
    // Everything else: the priority and the deadline change no answer.
    let details = format!(
        "{:?}",
        (
            &request.prompt,
            request.n_choices,
            sampling,
            request.max_tokens,
            &request.stop_strings,
            request.ignores_end,
            (request.n_logprobs, request.logprobs_of),
            source,
            &request.lora
        )
    );
    Some(Sha256::digest(details).into())
}

/// See the [module's text](self).
pub struct ReplyCache {
    max_bytes: usize,
    n_hits: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    replies: HashMap<Key, Reply>,
    n_bytes: usize,
    /// Grows with every use.
    clock: u64,
}

struct Reply {
    events: Arc<[Event]>,
    n_bytes: usize,
    last_used: u64,
}

impl ReplyCache {
    /// An empty one.
    pub fn new(max_bytes: usize) -> ReplyCache {
        ReplyCache { max_bytes, n_hits: AtomicU64::new(0), kept: Mutex::default() }
    }

    /// Requests that were answered from it.
    pub fn n_hits(&self) -> u64 {
        self.n_hits.load(Ordering::Relaxed)
    }

    /// Bytes of what it keeps.
    pub fn size_bytes(&self) -> usize {
        lock(&self.kept).n_bytes
    }

    /// The events of a request that is answered already.
    pub fn find(&self, key: &Key) -> Option<Arc<[Event]>> {
        let mut kept = lock(&self.kept);
        kept.clock += 1;
        let clock = kept.clock;
        let reply = kept.replies.get_mut(key)?;
        reply.last_used = clock;
        self.n_hits.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(&reply.events))
    }

    /// Keeps the events of a request with `n_prompt` tokens, all of which will then have been known.
    pub fn keep(&self, key: Key, mut events: Vec<Event>, n_prompt: usize) {
        for event in &mut events {
            if let Event::Started { n_cached, .. } = event {
                *n_cached = n_prompt;
            }
        }
        let n_bytes = events.iter().map(size_bytes).sum::<usize>() + size_of::<(Key, Reply)>();
        if n_bytes > self.max_bytes {
            return;
        }
        let mut kept = lock(&self.kept);
        kept.clock += 1;
        let reply = Reply { events: events.into(), n_bytes, last_used: kept.clock };
        if let Some(old) = kept.replies.insert(key, reply) {
            kept.n_bytes -= old.n_bytes;
        }
        kept.n_bytes += n_bytes;
        while kept.n_bytes > self.max_bytes {
            let oldest = kept.replies.iter().min_by_key(|(_, reply)| reply.last_used).map(|(key, _)| *key);
            let reply = oldest.and_then(|oldest| kept.replies.remove(&oldest)).expect("there is one");
            kept.n_bytes -= reply.n_bytes;
        }
    }
}

/// Memory of an event, with what it points to.
fn size_bytes(event: &Event) -> usize {
    let more = match event {
        Event::Token { text, logprob, .. } => {
            text.capacity() + logprob.as_ref().map_or(0, |logprob| logprob.top.capacity() * 16)
        }
        Event::Finished { text, stop_string, .. } => {
            text.capacity() + stop_string.as_ref().map_or(0, String::capacity)
        }
        Event::Started { .. } | Event::Progress { .. } | Event::Embedded(_) | Event::Failed(_) => 0,
    };
    size_of::<Event>() + more
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::scheduler::LogprobsOf;
    use edgeward_engine::SamplerOptions;

    fn request() -> Request {
        Request { prompt: vec![1, 2], is_repeatable: true, ..Request::default() }
    }

    #[test]
    fn whatever_an_answer_depends_on_makes_another_key() {
        let sampling = |change: fn(&mut SamplerOptions)| {
            let mut request = request();
            request.sampling.temperature = 1.0;
            change(&mut request.sampling);
            request
        };
        let others = [
            request(),
            Request { prompt: vec![1, 3], ..request() },
            Request { prompt: vec![12], ..request() },
            Request { n_choices: 2, ..request() },
            Request { max_tokens: 3, ..request() },
            Request { stop_strings: vec!["x".into()], ..request() },
            Request { ignores_end: true, ..request() },
            Request { n_logprobs: Some(0), ..request() },
            Request { n_logprobs: Some(0), logprobs_of: LogprobsOf::Sampler, ..request() },
            Request { lora: Some(vec![(0, 1.0)]), ..request() },
            sampling(|_| {}),
            sampling(|sampling| sampling.seed = 7),
            sampling(|sampling| sampling.top_p = 0.5),
            sampling(|sampling| sampling.logit_bias = vec![(1, 0.5)]),
        ];
        let keys: std::collections::HashSet<Key> =
            others.iter().map(|request| key(request).unwrap()).collect();
        assert_eq!(keys.len(), others.len());
        let mut greedy = Request { priority: 5, ..request() };
        greedy.sampling.seed = 9;
        assert_eq!(key(&greedy), key(&request()));
        assert_eq!(key(&Request { is_repeatable: false, ..request() }), None);
        assert_eq!(key(&Request { task: Task::Embed, ..request() }), None);
    }

    #[test]
    fn it_is_bounded_and_forgets_what_was_unused_longest() {
        let at = Instant::now();
        let started = || vec![Event::Started { n_cached: 0, at }];
        let one = size_of::<Event>() + size_of::<(Key, Reply)>();
        let cache = ReplyCache::new(2 * one);
        for name in [1, 2] {
            cache.keep([name; 32], started(), 5);
        }
        assert_eq!(*cache.find(&[1; 32]).unwrap(), [Event::Started { n_cached: 5, at }]);
        cache.keep([3; 32], started(), 5);
        assert!(cache.find(&[2; 32]).is_none());
        assert!(cache.find(&[1; 32]).is_some() && cache.find(&[3; 32]).is_some());
        cache.keep([3; 32], started(), 5);
        assert_eq!((cache.size_bytes(), cache.n_hits()), (2 * one, 3));
        cache.keep([4; 32], vec![Event::Started { n_cached: 0, at }; 9], 5);
        assert!(cache.find(&[4; 32]).is_none(), "too large");
    }
}
