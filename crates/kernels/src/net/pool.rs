//! Means over windows of an image, and over all of it.

use super::{Plane, Requant};
use crate::isa::{Isa, Kernel, Simd};

/// Channels that are summed side by side: as many as make whole vectors on every instruction set.
const CHUNK: usize = 64;

/// A window that may hang over the image's edge; what is outside does not count. Each pair is vertical, horizontal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooling {
    /// Rows and columns.
    pub size: [usize; 2],
    /// Steps from one position to the next.
    pub stride: [usize; 2],
    /// Rows above and columns left of the image, where the first position begins.
    pub before: [usize; 2],
}

impl Pooling {
    /// Rows or columns of the image in the window at position `position`.
    fn span(&self, axis: usize, position: usize, len: usize) -> std::ops::Range<usize> {
        let start = position * self.stride[axis];
        let end = (start + self.size[axis]).saturating_sub(self.before[axis]).min(len);
        start.saturating_sub(self.before[axis]).min(end)..end
    }
}

/// How a sum of `n` bytes becomes a byte.
#[derive(Clone, Copy, Debug)]
pub enum Mean8<'a> {
    /// Divided by `n`, rounded to nearest, ties away from 128 (the zero of signed bytes), then kept in a range.
    Rounded {
        /// Bounds of results.
        range: (u8, u8),
    },
    /// Less `n` times the zero point, then requantised.
    Requantised {
        /// The input's zero point.
        zero: u8,
        /// For each channel; the factor includes 1 / n.
        requant: &'a Requant,
    },
}

/// Means of the windows of an eight-bit image.
///
/// # Panics
/// If shapes do not fit, or a window lies wholly outside.
pub fn mean8(
    isa: Isa,
    (image, from): (&[u8], Plane),
    pooling: Pooling,
    mean: Mean8<'_>,
    (out, to): (&mut [u8], Plane),
) {
    check(image.len(), from, out.len(), to);
    isa.run(MeanKernel {
        image,
        from,
        pooling,
        to,
        out,
        finish: |channel: usize, sum: i32, n: usize| match mean {
            Mean8::Rounded { range } => {
                let (sum, n) = (sum - 128 * n as i32, n as i32);
                let half = if sum > 0 { n / 2 } else { -n / 2 };
                ((sum + half) / n + 128).clamp(i32::from(range.0), i32::from(range.1)) as u8
            }
            Mean8::Requantised { zero, requant } => {
                requant.apply_ref(channel, sum - n as i32 * i32::from(zero))
            }
        },
    });
}

/// Means of the windows of a float image, kept in `range`.
///
/// # Panics
/// If shapes do not fit, or a window lies wholly outside.
pub fn mean32(
    isa: Isa,
    (image, from): (&[f32], Plane),
    pooling: Pooling,
    range: (f32, f32),
    (out, to): (&mut [f32], Plane),
) {
    check(image.len(), from, out.len(), to);
    isa.run(MeanKernel {
        image,
        from,
        pooling,
        to,
        out,
        finish: |_: usize, sum: f32, n: usize| (sum / n as f32).max(range.0).min(range.1),
    });
}

fn check(input_len: usize, from: Plane, output_len: usize, to: Plane) {
    assert!(from.channels == to.channels && input_len >= from.len() && output_len >= to.len());
}

/// Elements that can be summed.
trait Summand: Copy {
    type Sum: Copy + Default;
    fn add(sum: Self::Sum, element: Self) -> Self::Sum;
}

impl Summand for u8 {
    type Sum = i32;
    #[inline(always)]
    fn add(sum: i32, element: u8) -> i32 {
        sum + i32::from(element)
    }
}

impl Summand for f32 {
    type Sum = f32;
    #[inline(always)]
    fn add(sum: f32, element: f32) -> f32 {
        sum + element
    }
}

struct MeanKernel<'a, T, F> {
    image: &'a [T],
    from: Plane,
    pooling: Pooling,
    to: Plane,
    out: &'a mut [T],
    finish: F,
}

impl<T: Summand, F: Fn(usize, T::Sum, usize) -> T> Kernel for MeanKernel<'_, T, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let MeanKernel { image, from, pooling, to, out, finish } = self;
        for y in 0..to.height {
            let rows = pooling.span(0, y, from.height);
            for x in 0..to.width {
                let columns = pooling.span(1, x, from.width);
                let n = rows.len() * columns.len();
                assert!(n > 0, "a window has pixels");
                for first in (0..from.channels).step_by(CHUNK) {
                    let len = CHUNK.min(from.channels - first);
                    let mut sums = [T::Sum::default(); CHUNK];
                    for row in rows.clone() {
                        for column in columns.clone() {
                            let at = row * from.row_stride + column * from.channels + first;
                            let pixel = &image[at..][..len];
                            // A constant length becomes vectors.
                            if let Ok(pixel) = <&[T; CHUNK]>::try_from(pixel) {
                                for i in 0..CHUNK {
                                    sums[i] = T::add(sums[i], pixel[i]);
                                }
                            } else {
                                for (sum, element) in sums.iter_mut().zip(pixel) {
                                    *sum = T::add(*sum, *element);
                                }
                            }
                        }
                    }
                    let at = y * to.row_stride + x * to.channels + first;
                    for (i, out) in out[at..][..len].iter_mut().enumerate() {
                        *out = finish(first + i, sums[i], n);
                    }
                }
            }
        }
    }
}
