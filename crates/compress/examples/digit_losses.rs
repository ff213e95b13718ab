//! Which loss teaches best: squared differences, divergence, right classes, and mixes of them, on handwritten digits.
//!
//!     cargo run --release -p edgeward-compress --example digit_losses -- digits-all.png [SEEDS]
//!
//! Each line is one student of one teacher: how many of the held-out digits it names right, in floats and in eight bits,
//! and in eight bits without having learnt to bear them. The table is in docs/benchmarks.

use std::error::Error;
use std::ops::ControlFlow;

use edgeward_compress::networks::train::{self, Answers, Lesson, Loss, divergence, train};
use edgeward_compress::networks::{
    Classifier, Method, Options, Plan, accuracy, calibrate, distill, quantize,
};

#[path = "../../../examples/digits.rs"]
#[allow(dead_code, reason = "the walk itself is not needed here")]
mod digits;

/// A third of the multiplications.
const SHARE: f64 = 1.0 / 3.0;
const N_EPOCHS: usize = 6;
/// What right classes weigh beside the teacher's answers.
const HARD: f64 = 0.5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let sheet = args.next().ok_or("give a sheet of digits (testdata/digits/make.py)")?;
    let n_seeds: u64 = args.next().map_or(Ok(2), |n| n.parse())?;
    let (seen, held_out) = digits::read(&std::fs::read(sheet)?)?;
    let losses = [
        ("squared", Loss::SQUARED),
        ("kl", Loss::KL),
        ("squared, hard", Loss { hard: HARD, ..Loss::SQUARED }),
        ("kl, hard", Loss { hard: HARD, ..Loss::KL }),
        ("hard", Loss::HARD),
    ];
    let right = |graph: &_| accuracy(graph, &held_out.images, &held_out.labels).map(|share| share * 100.0);
    let go_on = |_| ControlFlow::Continue(());
    for seed in 1..=n_seeds {
        let teacher = digits::taught(&digits::untrained(seed)?, &seen, 8, seed)?;
        println!("seed {seed}: teacher {:.2} %", right(&teacher)?);
        let answers = Answers::of(&teacher, &held_out.images)?;
        for (name, loss) in losses {
            let mut plan = Plan { input_range: Some((0.0, 1.0)), ..Plan::new(SHARE, loss) };
            (plan.training.n_epochs, plan.training.seed) = (N_EPOCHS, seed);
            let labels = loss.needs_labels().then_some(seen.labels.as_slice());
            let made = distill(&teacher, None, (&seen.images, labels), &plan, &mut |_, _| go_on(()))?;
            let eight = made.eight_bits.expect("the plan says so");
            let some: Vec<Vec<Vec<f32>>> = seen.images.iter().step_by(16).cloned().collect();
            let options = Options {
                method: Method::LeastSquares,
                input_range: plan.input_range,
                corrects_bias: true,
                floats: vec![],
            };
            let rounded = quantize(&made.float, &calibrate(&made.float, &some)?, &some, &options)?;
            println!(
                "{name:14} float {:.2} %, eight bits {:.2} %, unlearnt {:.2} %, KL {:.4}",
                right(&made.float)?,
                right(&eight)?,
                right(&rounded)?,
                divergence(&eight, &held_out.images, &answers)?
            );
        }
        // As large as the students, from nothing, with the right classes only.
        let network = Classifier { input: [28, 28, 1], filters: vec![16, 32], n_classes: 10 }.graph(seed)?;
        let lesson = Lesson { examples: &seen.images, labels: Some(&seen.labels), answers: None };
        let options = train::Options { n_epochs: N_EPOCHS, seed, ..train::Options::new(Loss::HARD) };
        let alone = train(&network, &lesson, &options, None, &mut |_| go_on(()))?;
        println!("{:14} float {:.2} %", "from nothing", right(&alone)?);
    }
    Ok(())
}
