//! Images: files in, what a network was trained on out, and what it says drawn into the image again.
//!
//! [`decode`] reads PNG, JPEG and BMP into an [`Image`], upright; [`Preparation`] cuts, resizes and scales it as a
//! network's input wants it; [`top`] ranks the classes that come out, [`boxes`] are what a
//! detector finds; [`draw`] marks boxes and words. [`features()`] are for learners, [`compare`] needs only a faultless piece.

pub mod boxes;
pub mod compare;
pub mod draw;
pub mod features;
pub mod resize;

mod decode;
mod prepare;

pub use decode::{Limits, decode};
pub use features::features;
pub use prepare::{Fit, Placement, Preparation};
pub use resize::{Filter, Resizing};

use std::fmt;

/// Pixels of eight bits: rows from the top, in each pixels from the left, in each its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    n_channels: usize,
    data: Vec<u8>,
}

impl Image {
    /// An image of `[height, width, n_channels]` bytes: one channel is grey, three are red, green and blue.
    ///
    /// # Panics
    /// If a size is 0, there are other than one or three channels, or not as many bytes.
    pub fn new(width: usize, height: usize, n_channels: usize, data: Vec<u8>) -> Image {
        assert!(width > 0 && height > 0 && matches!(n_channels, 1 | 3));
        assert_eq!(Some(data.len()), width.checked_mul(height).and_then(|n| n.checked_mul(n_channels)));
        Image { width, height, n_channels, data }
    }

    /// Pixels of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// 1 for grey, 3 for red, green and blue.
    pub fn n_channels(&self) -> usize {
        self.n_channels
    }

    /// `[height, width, n_channels]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The pixel in row `y`, column `x`.
    ///
    /// # Panics
    /// If it lies outside.
    pub fn pixel(&self, x: usize, y: usize) -> &[u8] {
        assert!(x < self.width && y < self.height);
        &self.data[(y * self.width + x) * self.n_channels..][..self.n_channels]
    }

    /// In one channel, as Pillow's `convert("L")`: the luma of ITU-R BT.601, weights in 1/65536, rounded.
    pub fn to_grey(&self) -> Image {
        if self.n_channels == 1 {
            return self.clone();
        }
        let luma = |rgb: &[u8; 3]| {
            let [r, g, b] = rgb.map(u32::from);
            ((r * 19595 + g * 38470 + b * 7471 + (1 << 15)) >> 16) as u8
        };
        let data = self.data.as_chunks::<3>().0.iter().map(luma).collect();
        Image { n_channels: 1, data, ..*self }
    }

    /// In three channels; grey is three times the same.
    pub fn to_rgb(&self) -> Image {
        if self.n_channels == 3 {
            return self.clone();
        }
        let data = self.data.iter().flat_map(|grey| [*grey; 3]).collect();
        Image { n_channels: 3, data, ..*self }
    }

    /// The part of `width` by `height` pixels whose corner is at column `x` of row `y`.
    ///
    /// # Panics
    /// If it is empty, or lies outside.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Image {
        assert!(width > 0 && height > 0 && x + width <= self.width && y + height <= self.height);
        let rows = self.data.chunks_exact(self.width * self.n_channels).skip(y).take(height);
        let data = rows.flat_map(|row| &row[x * self.n_channels..][..width * self.n_channels]).copied();
        Image { width, height, n_channels: self.n_channels, data: data.collect() }
    }
}

/// Why an image could not be read or used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file is damaged, or of another kind.
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// The image is larger than is allowed.
    TooLarge {
        /// Its size, and what is allowed.
        what: String,
    },
    /// The network takes no images, or none of this kind.
    Mismatch {
        /// What was expected.
        what: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Malformed { what } => {
                write!(f, "this is no whole PNG, JPEG or BMP image, get it anew or convert it: {what}")
            }
            Error::TooLarge { what } => write!(f, "the image is too large, make it smaller first: {what}"),
            Error::Mismatch { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

/// The `n` largest of `scores`, largest first, with their index; of equal ones the first comes first. What is not a
/// number comes last.
pub fn top(scores: &[f32], n: usize) -> Vec<(usize, f32)> {
    let key = |score: f32| if score.is_nan() { f32::NEG_INFINITY } else { score };
    let mut order: Vec<(usize, f32)> = scores.iter().copied().enumerate().collect();
    order.sort_by(|a, b| key(b.1).total_cmp(&key(a.1)));
    order.truncate(n);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first() {
        let scores = [0.1, f32::NAN, 0.7, 0.1, -3.0];
        assert_eq!(top(&scores, 3), [(2, 0.7), (0, 0.1), (3, 0.1)]);
        assert_eq!(top(&scores, 9).len(), 5);
        assert!(top(&scores, 9)[3].1 == -3.0 || top(&scores, 9)[3].1.is_nan());
        assert_eq!(top(&[], 3), []);
    }

    #[test]
    fn parts_and_colours() {
        let image = Image::new(3, 2, 3, (0..18).collect());
        let part = image.crop(1, 1, 2, 1);
        assert_eq!(part.data(), [12, 13, 14, 15, 16, 17]);
        assert_eq!(part.pixel(1, 0), [15, 16, 17]);
        let white = Image::new(1, 1, 3, vec![255; 3]);
        assert_eq!(white.to_grey().data(), [255]);
        // Pillow: Image.new("RGB", (1, 1), (200, 30, 90)).convert("L").getpixel((0, 0)) is 88.
        assert_eq!(Image::new(1, 1, 3, vec![200, 30, 90]).to_grey().data(), [88]);
        assert_eq!(Image::new(1, 1, 1, vec![7]).to_rgb().data(), [7; 3]);
    }
}
