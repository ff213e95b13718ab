//! From a network in the cloud to one on the device, in one short program: handwritten digits.
//!
//!     python testdata/digits/make.py --all digits-all.png
//!     cargo run --release -p edgeward-compress --example digits -- digits-all.png FOLDER
//!
//! 1. A teacher: convolutions of 32 and 64 filters and ten classes, from nothing, trained on digits.
//! 2. Conversion: channels are left out until a third of the multiplications is left, what remains is taught by the teacher,
//!    learns to bear eight bits, and becomes a TFLite file.
//! 3. Preprocessing and inference, as on a device: pixels in, probabilities out.
//! 4. Comparison with the teacher on digits that neither has seen.
//! 5. One step of improvement: a student is hardly better than its teacher, so the teacher goes on learning, now also from
//!    digits moved by a pixel, which are the same digits, and teaches another student.
//!
//! Without a file it takes the small sheet that comes with the tests; in the folder, if one is named, it leaves the networks.

use std::error::Error;
use std::ops::ControlFlow;
use std::time::Instant;

use edgeward_compress::networks::train::{self, Lesson, Loss, train};
use edgeward_compress::networks::{Classifier, Plan, accuracy, distill, multiplications};
use edgeward_perceive::vision::{Limits, decode};
use edgeward_perceive::{Graph, Network, Options, tflite};

/// Rows and columns of a digit.
const SIZE: usize = 28;
/// One digit of so many is kept to compare on.
const HELD_OUT: usize = 5;

/// Images as a network takes them, and what they are.
#[derive(Clone, Default)]
pub struct Digits {
    /// Of each a list of inputs, of which there is one.
    pub images: Vec<Vec<Vec<f32>>>,
    /// 0 to 9.
    pub labels: Vec<usize>,
}

/// What came of a walk.
pub struct Walk {
    /// The large network, in floats.
    pub teacher: Measured,
    /// A third of it, in eight bits.
    pub student: Measured,
    /// The teacher after the step of improvement.
    pub better: Measured,
    /// Its student.
    pub improved: Measured,
}

/// Of one network.
pub struct Measured {
    /// Share of the held-out digits that it names right.
    pub right: f64,
    /// TFLite.
    pub file: Vec<u8>,
    /// Of a run.
    pub multiplications: u64,
    /// On one thread.
    pub us_per_run: f64,
}

/// Cuts a sheet into digits: row d holds digits d. Those to learn from, and those to compare on.
pub fn read(png: &[u8]) -> Result<(Digits, Digits), Box<dyn Error>> {
    let sheet = decode(png, &Limits::default())?.to_grey();
    let (mut seen, mut held_out) = (Digits::default(), Digits::default());
    for label in 0..sheet.height() / SIZE {
        for i in 0..sheet.width() / SIZE {
            let digit = sheet.crop(i * SIZE, label * SIZE, SIZE, SIZE);
            // Rows are filled up with black.
            if digit.data().iter().all(|pixel| *pixel == 0) {
                continue;
            }
            let part = if i % HELD_OUT == HELD_OUT - 1 { &mut held_out } else { &mut seen };
            // Preprocessing: black is 0 and white is 1.
            part.images.push(vec![digit.data().iter().map(|pixel| f32::from(*pixel) / 255.0).collect()]);
            part.labels.push(label);
        }
    }
    Ok((seen, held_out))
}

/// Each digit moved by one pixel up, down, left or right, in turn.
pub fn moved(images: &[Vec<Vec<f32>>]) -> Vec<Vec<Vec<f32>>> {
    let at = |image: &[f32], row: isize, column: isize| {
        let inside = |x: isize| usize::try_from(x).ok().filter(|x| *x < SIZE);
        inside(row).zip(inside(column)).map_or(0.0, |(row, column)| image[row * SIZE + column])
    };
    let shifts = [(1, 0), (-1, 0), (0, 1), (0, -1)].into_iter().cycle();
    let one = |(image, (down, right)): (&Vec<Vec<f32>>, (isize, isize))| {
        let pixels = (0..(SIZE * SIZE) as isize)
            .map(|i| at(&image[0], i / SIZE as isize - down, i % SIZE as isize - right));
        vec![pixels.collect()]
    };
    images.iter().zip(shifts).map(one).collect()
}

/// The large network, untrained.
pub fn untrained(seed: u64) -> Result<Graph, Box<dyn Error>> {
    Ok(Classifier { input: [SIZE, SIZE, 1], filters: vec![32, 64], n_classes: 10 }.graph(seed)?)
}

/// A network taught the right classes of digits.
pub fn taught(network: &Graph, digits: &Digits, n_epochs: usize, seed: u64) -> Result<Graph, Box<dyn Error>> {
    let lesson = Lesson { examples: &digits.images, labels: Some(&digits.labels), answers: None };
    let options = train::Options { n_epochs, seed, ..train::Options::new(Loss::HARD) };
    Ok(train(network, &lesson, &options, None, &mut |_| ControlFlow::Continue(()))?)
}

/// How a network does on digits that it has not seen; it goes through a file, as to a device.
pub fn measure(network: &Graph, held_out: &Digits) -> Result<Measured, Box<dyn Error>> {
    let file = tflite::write(network)?;
    let graph = tflite::read(file.clone().into())?;
    let right = accuracy(&graph, &held_out.images, &held_out.labels)?;
    let mut device = Network::new(&graph, &Options::default())?;
    let mut probabilities = [0.0; 10];
    let mut times = Vec::new();
    for image in &held_out.images {
        device.set_input(0, &image[0])?;
        let start = Instant::now();
        device.run();
        times.push(start.elapsed().as_secs_f64() * 1e6);
        device.output(0, &mut probabilities)?;
    }
    times.sort_by(f64::total_cmp);
    let us_per_run = times[times.len() / 2];
    Ok(Measured { right, file, multiplications: multiplications(&graph), us_per_run })
}

/// The whole way.
pub fn walk(seen: &Digits, held_out: &Digits, n_epochs: usize) -> Result<Walk, Box<dyn Error>> {
    let teacher = taught(&untrained(1)?, seen, n_epochs, 1)?;
    let mut plan = Plan { input_range: Some((0.0, 1.0)), ..Plan::new(1.0 / 3.0, Loss::KL) };
    plan.training.n_epochs = n_epochs;
    let student_of = |teacher: &Graph, digits: &Digits| -> Result<Graph, Box<dyn Error>> {
        // It is not told the right classes.
        let lesson = (digits.images.as_slice(), None);
        let made = distill(teacher, None, lesson, &plan, &mut |_, _| ControlFlow::Continue(()))?;
        Ok(made.eight_bits.expect("the plan says so"))
    };
    let student = student_of(&teacher, seen)?;
    let more =
        Digits { images: [seen.images.clone(), moved(&seen.images)].concat(), labels: seen.labels.repeat(2) };
    let better = taught(&teacher, &more, n_epochs, 2)?;
    let improved = student_of(&better, &more)?;
    Ok(Walk {
        teacher: measure(&teacher, held_out)?,
        student: measure(&student, held_out)?,
        better: measure(&better, held_out)?,
        improved: measure(&improved, held_out)?,
    })
}

#[allow(dead_code, reason = "the tests take this file for what is above")]
fn main() -> Result<(), Box<dyn Error>> {
    let small = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/digits/digits.png");
    let sheet = std::env::args().nth(1).unwrap_or_else(|| small.to_owned());
    let (seen, held_out) = read(&std::fs::read(sheet)?)?;
    println!("{} digits to learn from, {} to compare on", seen.images.len(), held_out.images.len());
    let Walk { teacher, student, better, improved } = walk(&seen, &held_out, 8)?;
    println!("{:10} {:>8} {:>9} {:>16} {:>10}", "", "right", "bytes", "multiplications", "us");
    for (name, it) in [("teacher", teacher), ("student", student), ("better", better), ("improved", improved)]
    {
        let right = it.right * 100.0;
        let (bytes, n, us) = (it.file.len(), it.multiplications, it.us_per_run);
        println!("{name:10} {right:>6.2} % {bytes:>9} {n:>16} {us:>10.1}");
        if let Some(folder) = std::env::args().nth(2) {
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.tflite")), it.file)?;
        }
    }
    Ok(())
}
