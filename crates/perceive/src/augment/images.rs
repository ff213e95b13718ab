//! Images, changed as another look at the same thing would be.

use super::Chance;
use crate::vision::Image;

/// How far an image is changed; 0 is not at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Images {
    /// Whether half of them are mirrored, left to right: not where that makes something else of them, as of letters.
    pub flip: bool,
    /// Share of each side that may be cut off.
    pub crop: f64,
    /// By how much brightness, contrast and saturation may change, as a share.
    pub colour: f64,
    /// Standard deviation of noise in each pixel, of 1 for white.
    pub noise: f64,
}

impl Default for Images {
    fn default() -> Images {
        Images { flip: true, crop: 0.1, colour: 0.15, noise: 0.02 }
    }
}

/// Where the pixels of an image have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    is_flipped: bool,
    /// Of the corner of what is left, in the image before it was mirrored.
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl Moved {
    /// Where the pixel of column `x` in row `y` is now, if it was not cut off.
    pub fn pixel(&self, x: usize, y: usize) -> Option<(usize, usize)> {
        let (x, y) = (x.checked_sub(self.left)?, y.checked_sub(self.top)?);
        let is_there = x < self.width && y < self.height;
        is_there.then(|| (if self.is_flipped { self.width - 1 - x } else { x }, y))
    }

    /// What is left of a box of columns `left..right` and rows `top..bottom`, in this order; `None` if nothing is.
    pub fn area(&self, [left, top, right, bottom]: [usize; 4]) -> Option<[usize; 4]> {
        let inside = |at: usize, from: usize, len: usize| at.clamp(from, from + len) - from;
        let [left, right] = [left, right].map(|x| inside(x, self.left, self.width));
        let [top, bottom] = [top, bottom].map(|y| inside(y, self.top, self.height));
        let (left, right) =
            if self.is_flipped { (self.width - right, self.width - left) } else { (left, right) };
        (left < right && top < bottom).then_some([left, top, right, bottom])
    }
}

impl Images {
    /// Another look at `image`, and where its pixels are in it.
    pub fn augment(&self, image: &Image, chance: &mut Chance) -> (Image, Moved) {
        let mut part = |len: usize| {
            let most = (len as f64 * self.crop.clamp(0.0, 0.9)) as usize;
            let n_cut = chance.below(most + 1);
            (chance.below(n_cut + 1), len - n_cut)
        };
        let ((left, width), (top, height)) = (part(image.width()), part(image.height()));
        let is_flipped = self.flip && chance.unit() < 0.5;
        let moved = Moved { is_flipped, left, top, width, height };
        let image = image.crop(left, top, width, height);
        let n_channels = image.n_channels();
        let [brightness, contrast, saturation] =
            [(); 3].map(|()| 1.0 + self.colour * chance.between(-1.0, 1.0));
        let n = image.data().len() as f64;
        let mean = image.data().iter().map(|byte| f64::from(*byte)).sum::<f64>() / n;
        let mut data = vec![0; image.data().len()];
        for (i, pixel) in image.data().chunks_exact(n_channels).enumerate() {
            let (x, y) = (i % width, i / width);
            let x = if is_flipped { width - 1 - x } else { x };
            let out = &mut data[(y * width + x) * n_channels..][..n_channels];
            let grey = pixel.iter().map(|byte| f64::from(*byte)).sum::<f64>() / n_channels as f64;
            for (out, byte) in out.iter_mut().zip(pixel) {
                let value = grey + saturation * (f64::from(*byte) - grey);
                let value = brightness * (mean + contrast * (value - mean));
                let noise = if self.noise > 0.0 { 255.0 * self.noise * chance.normal() } else { 0.0 };
                *out = (value + noise).round().clamp(0.0, 255.0) as u8;
            }
        }
        (Image::new(width, height, n_channels, data), moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Images = Images { flip: false, crop: 0.0, colour: 0.0, noise: 0.0 };

    fn image(chance: &mut Chance, n_channels: usize) -> Image {
        let (width, height) = (1 + chance.below(30), 1 + chance.below(30));
        let data = (0..width * height * n_channels).map(|_| chance.below(256) as u8).collect();
        Image::new(width, height, n_channels, data)
    }

    #[test]
    fn every_pixel_is_where_it_is_said_to_be() {
        let mut chance = Chance::new(1);
        let mut n_flipped = 0;
        for i in 0..200 {
            let image = image(&mut chance, 1 + 2 * (i % 2));
            assert_eq!(NOTHING.augment(&image, &mut chance).0, image);
            let augment = Images { flip: true, crop: 0.4, ..NOTHING };
            let (out, moved) = augment.augment(&image, &mut chance);
            n_flipped += usize::from(moved.is_flipped);
            assert!(
                out.width() as f64 >= 0.6 * image.width() as f64
                    && out.height() as f64 >= 0.6 * image.height() as f64
            );
            let mut n_there = 0;
            for y in 0..image.height() {
                for x in 0..image.width() {
                    if let Some((to_x, to_y)) = moved.pixel(x, y) {
                        assert_eq!(image.pixel(x, y), out.pixel(to_x, to_y));
                        n_there += 1;
                        // A box around a pixel goes where the pixel goes.
                        assert_eq!(moved.area([x, y, x + 1, y + 1]), Some([to_x, to_y, to_x + 1, to_y + 1]));
                    } else {
                        assert_eq!(moved.area([x, y, x + 1, y + 1]), None);
                    }
                }
            }
            assert_eq!(n_there, out.width() * out.height());
            let all = moved.area([0, 0, image.width(), image.height()]);
            assert_eq!(all, Some([0, 0, out.width(), out.height()]));
        }
        assert!((60..140).contains(&n_flipped), "{n_flipped}");
    }

    #[test]
    fn colours_change_a_little_and_keep_their_order() {
        let mut chance = Chance::new(2);
        for _ in 0..100 {
            let image = image(&mut chance, 3);
            let (out, _) = Images { colour: 0.2, ..NOTHING }.augment(&image, &mut chance);
            let grey = |image: &Image, i: usize| {
                image.data()[3 * i..][..3].iter().map(|x| i32::from(*x)).sum::<i32>()
            };
            for i in 0..image.width() * image.height() {
                for channel in 3 * i..3 * i + 3 {
                    // Three changes of a fifth each.
                    let far = i32::from(image.data()[channel]) - i32::from(out.data()[channel]);
                    assert!(far.abs() <= 187, "{far}");
                }
                let is_grey =
                    |image: &Image| image.data()[3 * i..][..3].iter().all(|x| *x == image.data()[3 * i]);
                assert!(!is_grey(&image) || is_grey(&out));
                // The strongest of three colours stays the strongest.
                let of = |image: &Image| image.data()[3 * i..][..3].to_vec();
                let strongest = (0..3).max_by_key(|c| of(&image)[*c]).unwrap();
                assert_eq!(of(&out)[strongest], *of(&out).iter().max().unwrap());
            }
            let (a, b) =
                (chance.below(image.width() * image.height()), chance.below(image.width() * image.height()));
            let is_clipped = |i: usize| of_pixel(&out, i).iter().any(|x| matches!(x, 0 | 255));
            if grey(&image, a) > grey(&image, b) + 6 && !is_clipped(a) && !is_clipped(b) {
                assert!(grey(&out, a) >= grey(&out, b), "what is brighter stays brighter");
            }
        }
    }

    fn of_pixel(image: &Image, i: usize) -> &[u8] {
        &image.data()[3 * i..][..3]
    }

    #[test]
    fn noise_is_as_strong_as_was_asked() {
        let image = Image::new(100, 100, 1, vec![128; 10_000]);
        let (out, _) = Images { noise: 0.04, ..NOTHING }.augment(&image, &mut Chance::new(3));
        let differences: Vec<f64> = out.data().iter().map(|x| f64::from(*x) - 128.0).collect();
        let mean = differences.iter().sum::<f64>() / 1e4;
        let deviation = (differences.iter().map(|x| x * x).sum::<f64>() / 1e4).sqrt();
        assert!(mean.abs() < 0.4 && (deviation - 10.2).abs() < 0.5, "{mean}, {deviation}");
    }
}
