//! Which steps are handed out to other threads.
//!
//! Handing out costs what the machine makes it cost: a signal goes from core to core and back, and so does what a step reads
//! and writes. A step that is over sooner is faster alone. So when a network is made ready, each step is timed on the
//! calling thread, and handing out on all; results do not depend on who computes them.

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

/// For each step, whether all threads of `pool` take part in it. Runs the steps, so what is in the memory is of no use
/// before and after.
pub fn choose(
    steps: &[Box<dyn Step>],
    memory: &mut Memory,
    (pool, alone): (&mut Pool, &mut Pool),
    isa: Isa,
) -> Vec<bool> {
    if pool.n_threads() == 1 {
        return vec![false; steps.len()];
    }
    let cost = pool.handing_out().unwrap_or(USUAL_COST);
    let mut shortest = vec![None; steps.len()];
    let start = Instant::now();
    'rounds: for _ in 0..ROUNDS {
        for (step, shortest) in steps.iter().zip(&mut shortest) {
            if start.elapsed() > MOST {
                break 'rounds;
            }
            let start = Instant::now();
            step.run(memory, alone, isa);
            let time = start.elapsed();
            *shortest = Some(shortest.map_or(time, |shortest| time.min(shortest)));
        }
    }
    shortest.into_iter().map(|time| time.is_none_or(|time| pays(time, cost, pool.n_threads()))).collect()
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
                network.is_shared.fill(is_shared);
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
