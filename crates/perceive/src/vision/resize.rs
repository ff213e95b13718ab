//! Images in another size, to the number as Pillow and as TensorFlow compute it.
//!
//! A network sees what its training's resizing gave it, and another convention costs accuracy without any error to be
//! seen. Two are common:
//!
//! - Pillow ([`pillow`]): pixels are areas, and where an image shrinks the filter is widened, so that every pixel counts.
//!   First rows, then columns; weights are whole numbers of 1/2^22, and results are rounded to bytes after each
//!   (Pillow's `Resample.c`). torchvision resizes PIL images by it. Pillow 13 takes columns first where that is faster, and
//!   then differs by one unit here and there.
//! - TensorFlow ([`tensorflow`]): pixels are points; bilinear looks at four of them however much an image shrinks, in
//!   single precision, and gives floats (`tf.image.resize` with its default `antialias=False`; also TFLite's
//!   `RESIZE_BILINEAR` with half-pixel centres). With `antialias=True` the filter is widened, like Pillow's.

use super::Image;

/// Weights of Pillow's filters are whole numbers of 2^-this.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// A filter of [`pillow`], by Pillow's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The pixel in the middle.
    Nearest,
    /// The mean of what a pixel covers.
    Box,
    /// A triangle.
    Bilinear,
    /// Hamming's window over one lobe of sinc.
    Hamming,
    /// Keys's cubic with a = -0.5.
    Bicubic,
    /// Lanczos with three lobes.
    Lanczos,
}

impl Filter {
    /// How far it reaches, in pixels of the smaller image.
    fn support(self) -> f64 {
        match self {
            Filter::Nearest | Filter::Box => 0.5,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| {
            if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) }
        };
        match self {
            // Open below, closed above: a pixel on the border of two counts once.
            Filter::Nearest | Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Filter::Bilinear => (1.0 - x.abs()).max(0.0),
            Filter::Hamming => match x.abs() {
                0.0 => 1.0,
                x if x >= 1.0 => 0.0,
                x => sinc(x) * (0.54 + 0.46 * (x * std::f64::consts::PI).cos()),
            },
            Filter::Bicubic => {
                const A: f64 = -0.5;
                match x.abs() {
                    x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                    x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                    _ => 0.0,
                }
            }
            Filter::Lanczos => {
                if (-3.0..3.0).contains(&x) {
                    sinc(x) * sinc(x / 3.0)
                } else {
                    0.0
                }
            }
        }
    }
}

/// How an image is brought to another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resizing {
    /// As Pillow's `Image.resize` with this filter: bytes.
    Pillow(Filter),
    /// As `tf.image.resize` with `nearest`.
    TensorFlowNearest,
    /// As `tf.image.resize` with `bilinear`: floats.
    TensorFlowBilinear,
    /// The same with `antialias=True`: floats.
    TensorFlowAntialias,
}

/// `image` in `width` by `height` pixels, `[height, width, n_channels]`, of 0 to 255.
///
/// # Panics
/// If a size is 0.
pub fn resize(image: &Image, width: usize, height: usize, how: Resizing) -> Vec<f32> {
    match how {
        Resizing::Pillow(filter) => {
            pillow(image, width, height, filter).data().iter().map(|byte| f32::from(*byte)).collect()
        }
        how => tensorflow(image, width, height, how),
    }
}

/// The pixels that one of the result is made from, and their weights.
struct Taps<T> {
    first: usize,
    weights: Vec<T>,
}

/// As Pillow's `Image.resize((width, height), filter)` up to version 12, to the bit.
///
/// # Panics
/// If a size is 0.
pub fn pillow(image: &Image, width: usize, height: usize, filter: Filter) -> Image {
    assert!(width > 0 && height > 0);
    if filter == Filter::Nearest {
        return pillow_nearest(image, width, height);
    }
    let n = image.n_channels;
    // Rows first: each is brought to its width; a size that stays is not touched.
    let wide = if width == image.width {
        image.data.clone()
    } else {
        let taps = pillow_taps(image.width, width, filter);
        let mut wide = Vec::with_capacity(width * image.height * n);
        for row in image.data.chunks_exact(image.width * n) {
            for tap in &taps {
                for channel in 0..n {
                    let pixels = row[tap.first * n + channel..].iter().step_by(n);
                    wide.push(weigh(pixels.zip(&tap.weights)));
                }
            }
        }
        wide
    };
    let data = if height == image.height {
        wide
    } else {
        let row_len = width * n;
        let mut data = Vec::with_capacity(row_len * height);
        let mut sums = vec![0i32; row_len];
        for tap in pillow_taps(image.height, height, filter) {
            sums.fill(1 << (PRECISION_BITS - 1));
            for (row, weight) in wide.chunks_exact(row_len).skip(tap.first).zip(&tap.weights) {
                for (sum, pixel) in sums.iter_mut().zip(row) {
                    *sum += i32::from(*pixel) * weight;
                }
            }
            data.extend(sums.iter().map(|sum| (sum >> PRECISION_BITS).clamp(0, 255) as u8));
        }
        data
    };
    Image { width, height, n_channels: n, data }
}

/// A sum of products, rounded to a byte. Weights add up to about 2^22, and their absolute values to less than twice
/// that: no sum leaves 32 bits.
fn weigh<'a>(products: impl Iterator<Item = (&'a u8, &'a i32)>) -> u8 {
    let sum =
        products.fold(1 << (PRECISION_BITS - 1), |sum, (pixel, weight)| sum + i32::from(*pixel) * weight);
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

fn pillow_taps(from: usize, to: usize, filter: Filter) -> Vec<Taps<i32>> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let taps = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        // Rounded towards zero, as C does; below zero that is 0 at least.
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5).max(0.0) as usize).min(from);
        let weights: Vec<f64> =
            (first..end).map(|x| filter.weight((x as f64 - center + 0.5) / stretch)).collect();
        let sum: f64 = weights.iter().sum();
        let whole = |weight: &f64| {
            let weight = if sum == 0.0 { *weight } else { weight / sum } * f64::from(1 << PRECISION_BITS);
            // Halves away from zero.
            (weight + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
        };
        Taps { first, weights: weights.iter().map(whole).collect() }
    };
    (0..to).map(taps).collect()
}

fn pillow_nearest(image: &Image, width: usize, height: usize) -> Image {
    // Added up, as Pillow does, and not multiplied: the last bit decides at borders.
    let at = |from: usize, to: usize| -> Vec<usize> {
        let scale = from as f64 / to as f64;
        let mut at = scale * 0.5;
        let next = |_| {
            let here = at as usize;
            at += scale;
            here.min(from - 1)
        };
        (0..to).map(next).collect()
    };
    let (columns, rows) = (at(image.width, width), at(image.height, height));
    let data = rows.iter().flat_map(|y| columns.iter().flat_map(|x| image.pixel(*x, *y))).copied();
    Image { width, height, n_channels: image.n_channels, data: data.collect() }
}

/// As `tf.image.resize(image, (height, width), method)`: `[height, width, n_channels]`, of 0 to 255.
fn tensorflow(image: &Image, width: usize, height: usize, how: Resizing) -> Vec<f32> {
    assert!(width > 0 && height > 0);
    let taps = match how {
        Resizing::TensorFlowNearest => nearest_taps,
        Resizing::TensorFlowAntialias => antialias_taps,
        _ => bilinear_taps,
    };
    let (columns, rows) = (taps(image.width, width), taps(image.height, height));
    let n = image.n_channels;
    // Every row that is looked at, in its new width: first along rows, as TensorFlow's bilinear does.
    let mut is_seen = vec![false; image.height];
    rows.iter().for_each(|tap| is_seen[tap.first..][..tap.weights.len()].fill(true));
    let mut wide = vec![0f32; image.height * width * n];
    let both = image.data.chunks_exact(image.width * n).zip(wide.chunks_exact_mut(width * n));
    for ((row, wide), _) in both.zip(is_seen).filter(|(_, is_seen)| *is_seen) {
        for (tap, pixel) in columns.iter().zip(wide.chunks_exact_mut(n)) {
            for (channel, value) in pixel.iter_mut().enumerate() {
                let pixels = row[tap.first * n + channel..].iter().step_by(n);
                *value = blend(pixels.map(|byte| f32::from(*byte)), &tap.weights);
            }
        }
    }
    let mut data = Vec::with_capacity(width * height * n);
    for tap in &rows {
        for i in 0..width * n {
            let pixels = wide[tap.first * width * n + i..].iter().step_by(width * n).copied();
            data.push(blend(pixels, &tap.weights));
        }
    }
    data
}

/// Two values are blended by the weight of the second, `a + (b - a) * w`; others are weighed and added.
fn blend(mut values: impl Iterator<Item = f32>, weights: &[f32]) -> f32 {
    if let [_, weight] = weights {
        let (a, b) = (values.next().unwrap_or(0.0), values.next().unwrap_or(0.0));
        return a + (b - a) * weight;
    }
    values.zip(weights).map(|(value, weight)| value * weight).sum()
}

fn nearest_taps(from: usize, to: usize) -> Vec<Taps<f32>> {
    let scale = from as f32 / to as f32;
    let at = |i: usize| (((i as f32 + 0.5) * scale).floor() as usize).min(from - 1);
    (0..to).map(|i| Taps { first: at(i), weights: vec![1.0] }).collect()
}

fn bilinear_taps(from: usize, to: usize) -> Vec<Taps<f32>> {
    let scale = from as f32 / to as f32;
    let taps = |i: usize| {
        let at = (i as f32 + 0.5) * scale - 0.5;
        let first = at.floor().max(0.0) as usize;
        let last = (at.ceil().max(0.0) as usize).min(from - 1);
        let weights = if last > first { vec![1.0 - (at - at.floor()), at - at.floor()] } else { vec![1.0] };
        Taps { first: first.min(from - 1), weights }
    };
    (0..to).map(taps).collect()
}

fn antialias_taps(from: usize, to: usize) -> Vec<Taps<f32>> {
    let scale = from as f32 / to as f32;
    let stretch = scale.max(1.0);
    let taps = |i: usize| {
        let center = (i as f32 + 0.5) * scale;
        let first = (center - stretch - 0.5).ceil().max(0.0) as usize;
        let end = ((center + stretch - 0.5).floor() as usize + 1).min(from);
        let weight = |x: usize| (1.0 - ((x as f32 + 0.5 - center) / stretch).abs()).max(0.0);
        let weights: Vec<f32> = (first..end).map(weight).collect();
        let sum: f32 = weights.iter().sum();
        // Exactly two are blended, whose weights add up to 1 here.
        Taps { first, weights: weights.iter().map(|weight| weight / sum).collect() }
    };
    (0..to).map(taps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_stays_changes_nothing() {
        let image = Image::new(5, 4, 3, (0..60).collect());
        for filter in [Filter::Nearest, Filter::Box, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            assert_eq!(pillow(&image, 5, 4, filter), image, "{filter:?}");
        }
        let floats: Vec<f32> = (0..60u8).map(f32::from).collect();
        for how in [Resizing::TensorFlowNearest, Resizing::TensorFlowBilinear, Resizing::TensorFlowAntialias]
        {
            assert_eq!(resize(&image, 5, 4, how), floats, "{how:?}");
        }
    }

    #[test]
    fn a_flat_image_stays_flat() {
        let image = Image::new(7, 3, 1, vec![201; 21]);
        for (width, height) in [(1, 1), (2, 9), (20, 2), (13, 17)] {
            for filter in [
                Filter::Nearest,
                Filter::Box,
                Filter::Bilinear,
                Filter::Hamming,
                Filter::Bicubic,
                Filter::Lanczos,
            ] {
                let resized = pillow(&image, width, height, filter);
                assert_eq!(resized.data(), vec![201; width * height], "{filter:?}");
            }
            for how in
                [Resizing::TensorFlowNearest, Resizing::TensorFlowBilinear, Resizing::TensorFlowAntialias]
            {
                let resized = resize(&image, width, height, how);
                assert_eq!(resized.len(), width * height);
                assert!(resized.iter().all(|value| (value - 201.0).abs() < 1e-4), "{how:?}: {resized:?}");
            }
        }
    }
}
