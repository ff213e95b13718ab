//! Asking a network without waiting for it, and many inputs at a time.
//!
//! Each worker is a thread with a network of its own, so that inputs do not share anything: two workers answer twice as many
//! inputs in the time, however small the network, where two threads within one run have to wait for each other at every
//! layer. What is asked stands in a queue of limited length: whoever asks faster than is answered waits, or is told.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};

use crate::error::Error;
use crate::graph::Graph;
use crate::network::{Network, Options, Port};

/// Questions that may wait for each worker, so that none waits for its next one.
const N_WAITING: usize = 2;

type Job = Box<dyn FnOnce(&mut Network) + Send>;

/// Workers, each with the same network, and what they are asked.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use edgeward_perceive::queue::Queue;
/// use edgeward_perceive::{Options, tflite};
///
/// let graph = tflite::read(std::fs::read("keyword.tflite")?.into())?;
/// let queue = Queue::new(&graph, &Options::default(), 2)?;
/// let pending = queue.submit(|network| {
///     network.set_input(0, &[0.0; 490])?;
///     network.run();
///     let mut probabilities = vec![0.0; 12];
///     network.output(0, &mut probabilities)?;
///     Ok::<_, edgeward_perceive::Error>(probabilities)
/// });
/// // Something else, and then, here or by `.await`:
/// let probabilities = pending.wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Queue {
    /// `None` only while it is dropped.
    jobs: Option<SyncSender<Job>>,
    workers: Vec<JoinHandle<()>>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Queue {
    /// Makes `n_workers` networks of `graph` ready, each on a thread of its own; one at least.
    ///
    /// # Errors
    /// As [`Network::new`]; the limit of `options` is for each network.
    ///
    /// # Panics
    /// If the system refuses to start a thread.
    pub fn new(graph: &Graph, options: &Options, n_workers: usize) -> Result<Queue, Error> {
        let n_workers = n_workers.max(1);
        let networks = (0..n_workers).map(|_| Network::new(graph, options));
        let networks = networks.collect::<Result<Vec<Network>, Error>>()?;
        let (inputs, outputs) = (networks[0].inputs().to_vec(), networks[0].outputs().to_vec());
        let (jobs, waiting) = sync_channel(n_workers * N_WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        let start = |(i, network): (usize, Network)| {
            let waiting = Arc::clone(&waiting);
            let thread = thread::Builder::new().name(format!("edgeward-network-{i}"));
            thread.spawn(move || work(network, &waiting)).expect("the system starts a thread")
        };
        let workers = networks.into_iter().enumerate().map(start).collect();
        Ok(Queue { jobs: Some(jobs), workers, inputs, outputs })
    }

    /// What the network is to be given.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// What it gives.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Has a worker do `ask`, which gives its network inputs, runs it and takes what it wants. Waits while the queue is full.
    pub fn submit<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Network) -> T + Send + 'static,
    ) -> Pending<T> {
        let (job, pending) = job(ask);
        self.jobs().send(job).expect("workers live as long as the queue");
        pending
    }

    /// As [`Queue::submit`], but `None` at once if the queue is full: for measurements of which only the newest count.
    pub fn try_submit<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Network) -> T + Send + 'static,
    ) -> Option<Pending<T>> {
        let (job, pending) = job(ask);
        match self.jobs().try_send(job) {
            Ok(()) => Some(pending),
            Err(TrySendError::Full(_)) => None,
            Err(TrySendError::Disconnected(_)) => unreachable!("workers live as long as the queue"),
        }
    }

    fn jobs(&self) -> &SyncSender<Job> {
        self.jobs.as_ref().expect("it is not being dropped")
    }
}

impl Drop for Queue {
    /// What was asked is answered first.
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // Panics of what was asked are its asker's.
            let _ = worker.join();
        }
    }
}

fn work(mut network: Network, waiting: &Mutex<Receiver<Job>>) {
    loop {
        let next = lock(waiting).recv();
        let Ok(job) = next else { return };
        job(&mut network);
    }
}

/// `ask` for a worker, and where its answer will be.
fn job<T: Send + 'static>(ask: impl FnOnce(&mut Network) -> T + Send + 'static) -> (Job, Pending<T>) {
    let slot = Arc::new(Slot { state: Mutex::new(State::Empty(None)), is_there: Condvar::new() });
    let pending = Pending(Arc::clone(&slot));
    let job = move |network: &mut Network| {
        // Whatever the network holds then, the next one sets its inputs anew.
        let answer = catch_unwind(AssertUnwindSafe(|| ask(network)));
        let before = std::mem::replace(&mut *lock(&slot.state), State::There(answer));
        slot.is_there.notify_one();
        if let State::Empty(Some(waker)) = before {
            waker.wake();
        }
    };
    (Box::new(job), pending)
}

enum State<T> {
    /// And who is to be woken.
    Empty(Option<Waker>),
    There(Result<T, Box<dyn Any + Send>>),
}

struct Slot<T> {
    state: Mutex<State<T>>,
    is_there: Condvar,
}

/// An answer that a worker of a [`Queue`] gives or has given: to be waited for, also by `.await`. Who drops it is not waited
/// for; what was asked is done all the same.
pub struct Pending<T>(Arc<Slot<T>>);

impl<T> Pending<T> {
    /// Waits for the answer.
    ///
    /// # Panics
    /// If what was asked did.
    pub fn wait(self) -> T {
        let mut state = lock(&self.0.state);
        while matches!(*state, State::Empty(_)) {
            state = self.0.is_there.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.take().expect("the answer is there")
    }

    /// Whether [`Pending::wait`] returns at once.
    pub fn is_ready(&self) -> bool {
        matches!(*lock(&self.0.state), State::There(_))
    }
}

impl<T> State<T> {
    /// The answer, if it is there.
    ///
    /// # Panics
    /// If what was asked did.
    fn take(&mut self) -> Option<T> {
        match std::mem::replace(self, State::Empty(None)) {
            State::Empty(_) => None,
            State::There(Ok(answer)) => Some(answer),
            State::There(Err(panic)) => resume_unwind(panic),
        }
    }
}

impl<T> Future for Pending<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = lock(&self.0.state);
        match state.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                *state = State::Empty(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending(ready: {})", self.is_ready())
    }
}

/// Nobody panics with one of these locks in hand.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;

    fn graph() -> Graph {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/networks/models/mnist_valid_q.tflite");
        crate::tflite::read(std::fs::read(path).unwrap().into()).unwrap()
    }

    fn input(i: usize) -> Vec<f32> {
        (0..784).map(|at| ((at * 7919 + i * 31) % 251) as f32 / 250.0).collect()
    }

    fn answer(network: &mut Network, i: usize) -> Vec<f32> {
        network.set_input(0, &input(i)).unwrap();
        network.run();
        let mut output = vec![0.0; network.outputs()[0].n_elements()];
        network.output(0, &mut output).unwrap();
        output
    }

    #[test]
    fn answers_are_those_of_one_network() {
        let graph = graph();
        let mut network = Network::new(&graph, &Options::default()).unwrap();
        let queue = Queue::new(&graph, &Options::default(), 3).unwrap();
        assert_eq!(queue.inputs(), network.inputs());
        let pending: Vec<Pending<Vec<f32>>> =
            (0..100).map(|i| queue.submit(move |network| answer(network, i))).collect();
        drop(queue);
        for (i, pending) in pending.into_iter().enumerate() {
            assert!(pending.is_ready(), "a queue answers before it goes");
            assert_eq!(pending.wait(), answer(&mut network, i));
        }
    }

    #[test]
    fn a_full_queue_says_so() {
        let queue = Queue::new(&graph(), &Options::default(), 1).unwrap();
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        let wait_at = |gate: &Arc<Mutex<()>>| {
            let gate = Arc::clone(gate);
            move |_: &mut Network| drop(gate.lock().unwrap())
        };
        let mut pending = vec![queue.submit(wait_at(&gate))];
        while let Some(one) = queue.try_submit(wait_at(&gate)) {
            pending.push(one);
            assert!(pending.len() <= 2 + N_WAITING);
        }
        drop(closed);
        pending.into_iter().for_each(Pending::wait);
        assert_eq!(queue.try_submit(|_| 7).map(Pending::wait), Some(7));
    }

    #[test]
    fn a_panic_is_its_askers() {
        let queue = Queue::new(&graph(), &Options::default(), 1).unwrap();
        let bad = queue.submit(|_| panic!("asked for"));
        let good = queue.submit(|network| answer(network, 1));
        assert!(catch_unwind(AssertUnwindSafe(|| bad.wait())).is_err());
        assert_eq!(good.wait().len(), 10);
    }

    #[test]
    fn it_can_be_awaited() {
        struct Flag(AtomicBool);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Release);
            }
        }
        let queue = Queue::new(&graph(), &Options::default(), 1).unwrap();
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        let mut pending = {
            let gate = Arc::clone(&gate);
            queue.submit(move |network| {
                drop(gate.lock().unwrap());
                answer(network, 2)
            })
        };
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut pending).poll(&mut context).is_pending());
        assert!(!flag.0.load(Ordering::Acquire));
        drop(closed);
        while !flag.0.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let Poll::Ready(found) = Pin::new(&mut pending).poll(&mut context) else { panic!("it was woken") };
        assert_eq!(found.len(), 10);
    }
}
