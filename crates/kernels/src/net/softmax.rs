//! Softmax: exponentials of a row, divided by their sum.

use crate::isa::{Isa, Kernel, LANES, Simd};
use crate::math;

/// `out = softmax(beta * row)`.
///
/// # Panics
/// If lengths differ, or the row is empty.
pub fn softmax32(isa: Isa, row: &[f32], beta: f32, out: &mut [f32]) {
    struct Softmax<'a>(&'a [f32], f32, &'a mut [f32]);
    impl Kernel for Softmax<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Softmax(row, beta, out) = self;
            let mut max = row[0];
            for x in row {
                max = if *x > max { *x } else { max };
            }
            let mut sum = s.splat(0.0);
            for at in (0..row.len()).step_by(LANES) {
                let x = s.mul(s.sub(math::load_part(s, row, at), s.splat(max)), s.splat(beta));
                math::store_part(s, out, at, math::exp(s, x));
                // Read back, so that lanes beyond the row count as zeros.
                sum = s.add(sum, math::load_part(s, out, at));
            }
            let scale = s.splat(1.0 / s.reduce_add(sum));
            for at in (0..row.len()).step_by(LANES) {
                math::store_part(s, out, at, s.mul(math::load_part(s, out, at), scale));
            }
        }
    }
    assert!(row.len() == out.len() && !row.is_empty());
    isa.run(Softmax(row, beta, out));
}

/// Softmax of eight bits, as TFLite's kernel with a table of exponentials computes it: all in floats, summed in order.
#[derive(Clone, Debug)]
pub struct Softmax8 {
    /// `exp(-scale * beta * i)`.
    exponentials: Box<[f32; 256]>,
}

impl Softmax8 {
    /// Steps of the output from 0 to 1: its scale is 1 / 256 and its zero point 0.
    pub const STEPS: f32 = 256.0;

    /// For an input of this scale.
    pub fn new(scale: f32, beta: f32) -> Softmax8 {
        let factor = -scale * beta;
        let mut exponentials = Box::new([0.0; 256]);
        for (i, exponential) in exponentials.iter_mut().enumerate() {
            // In double precision, so that it is the nearest float on every system.
            *exponential = f64::from(factor * i as f32).exp() as f32;
        }
        Softmax8 { exponentials }
    }

    /// `out = softmax(row)`.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn run(&self, isa: Isa, row: &[u8], out: &mut [u8]) {
        struct Run<'a>(&'a Softmax8, &'a [u8], &'a mut [u8]);
        impl Kernel for Run<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, _: S) {
                let Run(softmax, row, out) = self;
                let max = row.iter().copied().max().unwrap_or(0);
                let exponential = |x: u8| softmax.exponentials[usize::from(max - x)];
                let sum = row.iter().fold(0.0, |sum: f32, x| sum + exponential(*x));
                let inverse = 1.0 / (sum * (1.0 / Softmax8::STEPS));
                for (x, out) in row.iter().zip(out) {
                    let value = exponential(*x) * inverse;
                    // To nearest, ties up; exact, as no number here is negative or large.
                    let whole = value as i32;
                    *out = (whole + i32::from(value - whole as f32 >= 0.5)).min(255) as u8;
                }
            }
        }
        assert_eq!(row.len(), out.len());
        isa.run(Run(self, row, out));
    }
}
