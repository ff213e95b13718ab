//! Which steps are handed out to other threads.
//!
//! Handing out costs what the machine makes it cost: a signal goes from core to core and back, and so does what a step reads
//! and writes. A step that is over sooner is faster alone. So when a network is made ready, each step is timed on the
//! calling thread, and handing out on all; and then whole runs, so that many threads are never asked where they gain
//! nothing. Results do not depend on who computes them.

use std::time::{Duration, Instant};

use edgeward_kernels::{Isa, Pool};

use super::Step;
use super::memory::Memory;

/// Times that each step is run: the shortest counts, as other work can only make it longer.
const ROUNDS: usize = 5;
/// After so long no more is timed. What was not reached is a part of a network that takes longer than anything saved here:
/// it is handed out.
const MOST: Duration = Duration::from_millis(2);
/// What handing out costs where it could not be measured, as other work has the cores.
const USUAL_COST: Duration = Duration::from_micros(2);
/// How many times its cost handing out must save: bytes that go from cache to cache come on top of the signals
/// (`docs/benchmarks/2026-11-29-perceive.md`).
const WORTHWHILE: f64 = 2.0;
/// For so long whole runs are tried, on the calling thread and as chosen, in turn: longer than threads that were late are left
/// alone ([`Pool`]).
const TRIAL: Duration = Duration::from_millis(12);
/// Of that, one turn of each; a core that slept may take half a millisecond to wake.
const TURN: Duration = Duration::from_micros(1500);
/// What all threads together must save of a run: less is lost again, with interest, whenever other work takes a core.
const LEAST_SAVED: f64 = 0.1;

/// The threads that run a network.
pub struct Threads {
    pool: Pool,
    /// The caller's thread.
    alone: Pool,
    /// Of each step, whether all threads take part in it.
    is_shared: Vec<bool>,
}

impl Threads {
    /// Threads for `steps`, the caller's included. Runs the steps, so what is in the memory is of no use before and after.
    pub fn new(n_threads: usize, steps: &[Box<dyn Step>], memory: &mut Memory, isa: Isa) -> Threads {
        let mut threads =
            Threads { pool: Pool::new(n_threads), alone: Pool::new(1), is_shared: vec![false; steps.len()] };
        if threads.pool.n_threads() > 1 {
            let chosen = threads.choose(steps, memory, isa);
            if threads.is_faster(&chosen, steps, memory, isa) {
                threads.is_shared = chosen;
            }
        }
        threads
    }

    /// Runs the steps.
    pub fn run(&mut self, steps: &[Box<dyn Step>], memory: &mut Memory, isa: Isa) {
        for (step, is_shared) in steps.iter().zip(&self.is_shared) {
            let pool = if *is_shared { &mut self.pool } else { &mut self.alone };
            step.run(memory, pool, isa);
        }
    }

    /// Of each step, whether it is long enough for all threads.
    fn choose(&mut self, steps: &[Box<dyn Step>], memory: &mut Memory, isa: Isa) -> Vec<bool> {
        let cost = self.pool.handing_out().unwrap_or(USUAL_COST);
        let mut shortest = vec![None; steps.len()];
        let start = Instant::now();
        'rounds: for _ in 0..ROUNDS {
            for (step, shortest) in steps.iter().zip(&mut shortest) {
                if start.elapsed() > MOST {
                    break 'rounds;
                }
                let time = timed(|| step.run(memory, &mut self.alone, isa));
                *shortest = Some(shortest.map_or(time, |shortest| time.min(shortest)));
            }
        }
        let n_threads = self.pool.n_threads();
        shortest.into_iter().map(|time| time.is_none_or(|time| pays(time, cost, n_threads))).collect()
    }

    /// Whether whole runs with the steps `chosen` on all threads are faster than with none, by enough. A run too long to be
    /// tried takes longer than anything that is lost by this.
    fn is_faster(&mut self, chosen: &[bool], steps: &[Box<dyn Step>], memory: &mut Memory, isa: Isa) -> bool {
        if !chosen.contains(&true) {
            return false;
        }
        // Each of a few runs: one may be long because of other work.
        if (0..3).all(|_| timed(|| self.run(steps, memory, isa)) > MOST) {
            return true;
        }
        let nothing = vec![false; chosen.len()];
        // Of the best turn: other work only ever makes them longer.
        let (mut alone, mut shared) = (Duration::MAX, Duration::MAX);
        let start = Instant::now();
        while start.elapsed() < TRIAL {
            for (is_shared, best) in [(&nothing[..], &mut alone), (chosen, &mut shared)] {
                self.is_shared.copy_from_slice(is_shared);
                *best = self.turn(steps, memory, isa).min(*best);
            }
        }
        self.is_shared.fill(false);
        shared <= alone.mul_f64(1.0 - LEAST_SAVED)
    }

    /// The median of the runs in the second half of a turn.
    fn turn(&mut self, steps: &[Box<dyn Step>], memory: &mut Memory, isa: Isa) -> Duration {
        let (start, mut times) = (Instant::now(), Vec::new());
        while start.elapsed() < TURN {
            times.push(timed(|| self.run(steps, memory, isa)));
        }
        let mut late = times.split_off(times.len() / 2);
        late.sort_unstable();
        late[late.len() / 2]
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

/// Whether a step that takes `time` alone is faster on all threads.
fn pays(time: Duration, cost: Duration, n_threads: usize) -> bool {
    let saved = time.mul_f64(1.0 - 1.0 / n_threads as f64);
    saved >= cost.mul_f64(WORTHWHILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Network, Options};

    #[test]
    fn short_steps_stay_here() {
        let us = Duration::from_micros;
        assert!(!pays(us(2), us(1), 2) && pays(us(4), us(1), 2));
        // More threads save more, and never all of it.
        assert!(pays(us(3), us(1), 4) && !pays(us(1), us(1), 256));
        assert!(!pays(us(0), us(1), 2));
    }

    /// A step that is long enough to be handed out, whatever that costs, and that other threads can take nothing of.
    struct Indivisible;

    impl Step for Indivisible {
        fn run(&self, _: &mut Memory, _: &mut Pool, _: Isa) {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(400) {}
        }
    }

    #[test]
    fn threads_that_gain_nothing_are_not_asked() {
        let steps: Vec<Box<dyn Step>> = vec![Box::new(Indivisible)];
        let mut memory = Memory::new(&[], Vec::new(), 0);
        let mut threads = Threads::new(2, &steps, &mut memory, Isa::best());
        assert_eq!(threads.choose(&steps, &mut memory, Isa::best()), [true]);
        // Where other work stretches the times of one kind alone, they may say otherwise; not twenty times.
        let is_left_alone = |_| Threads::new(2, &steps, &mut memory, Isa::best()).is_shared == [false];
        assert!((0..20).any(is_left_alone));
    }

    /// Whatever was chosen, the answers are the same.
    #[test]
    fn answers_do_not_depend_on_the_choice() {
        for name in ["mnist_resnet_q", "kws_ref_model", "kws_ref_model_float32", "mnist_valid_f"] {
            let path = format!("{}/../../testdata/networks/models/{name}.tflite", env!("CARGO_MANIFEST_DIR"));
            let graph = crate::tflite::read(std::fs::read(path).unwrap().into()).unwrap();
            let options = Options { n_threads: 3, ..Options::default() };
            let mut network = Network::new(&graph, &options).unwrap();
            let input: Vec<f32> = (0..network.inputs()[0].n_elements())
                .map(|i| (i * 7919 % 251) as f32 / 125.0 - 1.0)
                .collect();
            let mut answers = [false, true].map(|is_shared| {
                network.threads.is_shared.fill(is_shared);
                network.set_input(0, &input).unwrap();
                network.run();
                let mut output = vec![0.0; network.outputs()[0].n_elements()];
                network.output(0, &mut output).unwrap();
                output
            });
            assert!(answers[0] == answers[1], "{name}");
            assert!(answers[0].iter_mut().any(|x| *x != 0.0), "{name}");
        }
    }
}
