//! An image as numbers for a learner: its colours, and how it is textured.
//!
//! Histograms of hue, saturation and value, and of red, green and blue together; uniform local binary patterns at three
//! distances (Ojala, Pietikäinen and Mäenpää 2002, "Multiresolution Gray-Scale and Rotation Invariant Texture
//! Classification"), which say what edges, corners and spots there are, however an image is turned or lit; and how
//! much neighbours differ, near and far. Shares enter as square roots, which makes their chance alike for rare and common
//! ones.

use super::{Filter, Image, resize};

/// Side that every image is brought to, pixels.
const SIDE: usize = 128;
/// Bins of hue, of saturation, of value.
const N_SHADES: usize = 16;
/// Levels of red, of green, of blue, in the histogram of all three.
const N_LEVELS: usize = 4;
/// Distances of the neighbours of a local binary pattern, pixels.
const PATTERN_DISTANCES: [usize; 3] = [1, 2, 4];
/// Kinds of patterns: as many as neighbours can be brighter in one run, and one for the others.
const N_PATTERNS: usize = 10;
/// Distances at which neighbours are compared.
const DISTANCES: [usize; 4] = [1, 2, 4, 8];

/// Numbers of an image.
pub const N_FEATURES: usize =
    3 * N_SHADES + N_LEVELS.pow(3) + PATTERN_DISTANCES.len() * N_PATTERNS + 6 + DISTANCES.len() * 6;

/// Of an image of any size.
pub fn features(image: &Image) -> Vec<f64> {
    let image = resize::pillow(&image.to_rgb(), SIDE, SIDE, Filter::Bilinear);
    let pixels = image.data().as_chunks::<3>().0;
    let mut features = Vec::with_capacity(N_FEATURES);
    let mut shades = [[0u32; N_SHADES]; 3];
    let mut colours = [0u32; N_LEVELS.pow(3)];
    for pixel in pixels {
        for (shades, value) in shades.iter_mut().zip(hue_saturation_value(*pixel)) {
            shades[((value * N_SHADES as f64) as usize).min(N_SHADES - 1)] += 1;
        }
        let [r, g, b] = pixel.map(|byte| usize::from(byte) * N_LEVELS / 256);
        colours[(r * N_LEVELS + g) * N_LEVELS + b] += 1;
    }
    shades.iter().for_each(|counts| features.extend(shares(counts)));
    features.extend(shares(&colours));
    let grey = image.to_grey();
    PATTERN_DISTANCES.iter().for_each(|distance| features.extend(shares(&patterns(&grey, *distance))));
    let n = pixels.len() as f64;
    let channel = |c: usize| pixels.iter().map(move |pixel| f64::from(pixel[c]) / 255.0);
    for c in 0..3 {
        let mean = channel(c).sum::<f64>() / n;
        let variance = channel(c).map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        features.extend([mean, variance.sqrt()]);
    }
    for distance in DISTANCES {
        for c in 0..3 {
            features.extend(contrasts(&image, c, distance).map(f64::ln_1p));
        }
    }
    debug_assert_eq!(features.len(), N_FEATURES);
    features
}

/// Square roots of shares.
fn shares(counts: &[u32]) -> impl Iterator<Item = f64> {
    let n: u32 = counts.iter().sum();
    counts.iter().map(move |count| (f64::from(*count) / f64::from(n)).sqrt())
}

/// Each 0 to 1 (Smith 1978); grey has the hue 0.
fn hue_saturation_value(rgb: [u8; 3]) -> [f64; 3] {
    let [r, g, b] = rgb.map(f64::from);
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    let sixths = match range {
        0.0 => 0.0,
        _ if most == r => (g - b) / range,
        _ if most == g => 2.0 + (b - r) / range,
        _ => 4.0 + (r - g) / range,
    };
    [(sixths / 6.0).rem_euclid(1.0), if most > 0.0 { range / most } else { 0.0 }, most / 255.0]
}

/// How often which kind of pattern occurs: of eight neighbours, how many are brighter, if these are in one run.
fn patterns(grey: &Image, distance: usize) -> [u32; N_PATTERNS] {
    const AROUND: [(isize, isize); 8] =
        [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)];
    let mut counts = [0; N_PATTERNS];
    let at = |x: usize, y: usize| grey.data()[y * SIDE + x];
    for y in distance..SIDE - distance {
        for x in distance..SIDE - distance {
            let middle = at(x, y);
            let brighter = AROUND.iter().enumerate().fold(0u8, |bits, (i, (dx, dy))| {
                let (x, y) = (
                    x.wrapping_add_signed(dx * distance as isize),
                    y.wrapping_add_signed(dy * distance as isize),
                );
                bits | u8::from(at(x, y) > middle) << i
            });
            let is_run = (brighter ^ brighter.rotate_left(1)).count_ones() <= 2;
            counts[if is_run { brighter.count_ones() as usize } else { N_PATTERNS - 1 }] += 1;
        }
    }
    counts
}

/// Mean differences of channel `c`, from row to row and from column to column of every `distance`-th.
fn contrasts(image: &Image, c: usize, distance: usize) -> [f64; 2] {
    let at = |x: usize, y: usize| f64::from(image.data()[(y * SIDE + x) * 3 + c]);
    let places = || (0..SIDE).step_by(distance);
    let mean = |difference: &dyn Fn(usize, usize) -> f64| {
        let (mut sum, mut n) = (0.0, 0);
        for along in places() {
            for across in places().take_while(|across| across + distance < SIDE) {
                sum += difference(along, across).abs();
                n += 1;
            }
        }
        sum / f64::from(n)
    };
    [mean(&|x, y| at(x, y + distance) - at(x, y)), mean(&|y, x| at(x + distance, y) - at(x, y))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_where_they_belong() {
        for (rgb, expected) in [
            ([255, 0, 0], [0.0, 1.0, 1.0]),
            ([0, 255, 0], [1.0 / 3.0, 1.0, 1.0]),
            ([0, 0, 51], [2.0 / 3.0, 1.0, 0.2]),
            ([255, 0, 255], [5.0 / 6.0, 1.0, 1.0]),
            ([128, 128, 128], [0.0, 0.0, 128.0 / 255.0]),
            ([0, 0, 0], [0.0, 0.0, 0.0]),
        ] {
            let got = hue_saturation_value(rgb);
            assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{rgb:?}: {got:?}");
        }
    }

    #[test]
    fn a_turned_image_has_the_same_patterns() {
        let mut state = 1;
        let noise: Vec<u8> =
            (0..SIDE * SIDE).map(|_| (crate::learner::folds::split_mix(&mut state) >> 56) as u8).collect();
        let turned: Vec<u8> =
            (0..SIDE * SIDE).map(|i| noise[(SIDE - 1 - i % SIDE) * SIDE + i / SIDE]).collect();
        let [noise, turned] = [noise, turned].map(|data| Image::new(SIDE, SIDE, 1, data));
        for distance in PATTERN_DISTANCES {
            assert_eq!(patterns(&noise, distance), patterns(&turned, distance));
        }
        let flat = Image::new(SIDE, SIDE, 1, vec![9; SIDE * SIDE]);
        assert_eq!(patterns(&flat, 1)[0] as usize, (SIDE - 2) * (SIDE - 2));
    }

    #[test]
    fn every_image_gives_as_many_numbers() {
        for image in [Image::new(1, 1, 1, vec![0]), Image::new(2, 3, 3, (0..18).collect())] {
            let features = features(&image);
            assert_eq!(features.len(), N_FEATURES);
            assert!(features.iter().all(|x| x.is_finite()));
        }
    }
}
