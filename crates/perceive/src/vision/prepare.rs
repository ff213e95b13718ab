//! From an image to a network's input: cut or filled up to the input's proportions, resized, scaled.
//!
//! What the numbers of an input mean is not in a network's file. Of eight-bit networks the scale and zero point of the
//! input tell: its bytes are the pixels' bytes, which is how all of the image networks in `testdata` were trained. For
//! floats 0 to 1 is taken, unless [`Preparation::range`] says otherwise.

use super::resize::{self, Resizing};
use super::{Error, Filter, Image};
use crate::network::Port;

/// What becomes of an image whose proportions are not the network's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// It is stretched.
    #[default]
    Stretch,
    /// The largest part in its middle that has these proportions.
    Crop,
    /// It is filled up with the middle of the range, left and right or above and below.
    Pad,
}

/// How images become inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preparation {
    /// How proportions are made right.
    pub fit: Fit,
    /// How sizes are.
    pub resizing: Resizing,
    /// What black and white become; `None` is as the network's file tells.
    pub range: Option<(f32, f32)>,
}

impl Default for Preparation {
    /// Stretched, with Pillow's bilinear filter, in the range that the file tells.
    fn default() -> Preparation {
        Preparation { fit: Fit::Stretch, resizing: Resizing::Pillow(Filter::Bilinear), range: None }
    }
}

/// Where in the image the network's input lies, in pixels of the image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Its left edge; below zero where it was filled up.
    pub x: f32,
    /// Its upper edge.
    pub y: f32,
    /// Its width.
    pub width: f32,
    /// Its height.
    pub height: f32,
}

impl Placement {
    /// A point of the input, 0 to 1 from left to right and from top to bottom, in pixels of the image.
    pub fn to_image(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x + x * self.width, self.y + y * self.height)
    }
}

impl Preparation {
    /// `image` as the elements of `port`, an input of shape `[1, height, width, channels]` with one or three channels,
    /// or `[1, channels, height, width]`; and where in the image they lie.
    ///
    /// # Errors
    /// If the input has another shape.
    pub fn prepare(&self, image: &Image, port: &Port) -> Result<(Vec<f32>, Placement), Error> {
        let (height, width, n_channels, is_planar) = match *port.shape.as_slice() {
            [1, height, width, n_channels @ (1 | 3)] => (height, width, n_channels, false),
            [1, n_channels @ (1 | 3), height, width] => (height, width, n_channels, true),
            _ => {
                let what = format!(
                    "the network takes {:?} and no image, which would be [1, rows, columns, 1 or 3]: give another one",
                    port.shape
                );
                return Err(Error::Mismatch { what });
            }
        };
        let converted;
        let image = if image.n_channels() == n_channels {
            image
        } else {
            converted = if n_channels == 1 { image.to_grey() } else { image.to_rgb() };
            &converted
        };
        let (low, high) = self.range.unwrap_or_else(|| natural_range(port));
        let placement = self.place(image, width, height);
        let mut values = match self.fit {
            Fit::Stretch => resize::resize(image, width, height, self.resizing),
            Fit::Crop => {
                let Placement { x, y, width: w, height: h } = placement;
                let part = image.crop(x as usize, y as usize, w as usize, h as usize);
                resize::resize(&part, width, height, self.resizing)
            }
            Fit::Pad => self.pad(image, width, height),
        };
        for value in &mut values {
            *value = low + *value / 255.0 * (high - low);
        }
        if is_planar {
            let pixels = width * height;
            values = (0..values.len()).map(|i| values[i % pixels * n_channels + i / pixels]).collect();
        }
        Ok((values, placement))
    }

    /// Whole pixels where the image is cut or stretched.
    fn place(&self, image: &Image, width: usize, height: usize) -> Placement {
        let (w, h) = (image.width(), image.height());
        // The image's size in its other dimension that has the input's proportions, rounded, at least a pixel.
        let (fit_w, fit_h) = (proportional(h, width, height), proportional(w, height, width));
        match self.fit {
            Fit::Stretch => Placement { x: 0.0, y: 0.0, width: w as f32, height: h as f32 },
            Fit::Crop => {
                let (cut_w, cut_h) = (fit_w.min(w), fit_h.min(h));
                let (x, y) = ((w - cut_w) / 2, (h - cut_h) / 2);
                Placement { x: x as f32, y: y as f32, width: cut_w as f32, height: cut_h as f32 }
            }
            Fit::Pad => {
                let (in_w, in_h) = inner(image, width, height);
                let (left, top) = ((width - in_w) / 2, (height - in_h) / 2);
                let (across, down) = (w as f32 / in_w as f32, h as f32 / in_h as f32);
                Placement {
                    x: -(left as f32) * across,
                    y: -(top as f32) * down,
                    width: width as f32 * across,
                    height: height as f32 * down,
                }
            }
        }
    }

    fn pad(&self, image: &Image, width: usize, height: usize) -> Vec<f32> {
        const MIDDLE: f32 = 127.5;
        let n = image.n_channels();
        let (in_w, in_h) = inner(image, width, height);
        let (left, top) = ((width - in_w) / 2, (height - in_h) / 2);
        let resized = resize::resize(image, in_w, in_h, self.resizing);
        let mut values = vec![MIDDLE; width * height * n];
        for (y, row) in resized.chunks_exact(in_w * n).enumerate() {
            values[((top + y) * width + left) * n..][..in_w * n].copy_from_slice(row);
        }
        values
    }
}

/// `len * a / b`, rounded, at least 1.
fn proportional(len: usize, a: usize, b: usize) -> usize {
    ((len as f64 * a as f64 / b as f64).round() as usize).max(1)
}

/// The size of the whole image within an input.
fn inner(image: &Image, width: usize, height: usize) -> (usize, usize) {
    let (w, h) = (image.width(), image.height());
    (proportional(height, w, h).min(width), proportional(width, h, w).min(height))
}

/// What black and white are to a network: of bytes all that they can say, of floats 0 to 1.
fn natural_range(port: &Port) -> (f32, f32) {
    match port.quantization {
        Some((scale, zero)) => (scale * (-128 - zero) as f32, scale * (127 - zero) as f32),
        None => (0.0, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::ElementType;

    fn image() -> Image {
        // Columns of 0, 60, 120, 180.
        Image::new(4, 2, 1, vec![0, 60, 120, 180, 0, 60, 120, 180])
    }

    fn prepare(fit: Fit, shape: &[usize]) -> (Vec<f32>, Placement) {
        let resizing = Resizing::Pillow(Filter::Nearest);
        let preparation = Preparation { fit, resizing, range: Some((0.0, 255.0)) };
        let port = Port::for_tests(shape, ElementType::F32, None);
        preparation.prepare(&image(), &port).unwrap()
    }

    #[test]
    fn proportions_are_made_right() {
        let (values, placement) = prepare(Fit::Crop, &[1, 2, 2, 1]);
        assert_eq!(values, [60.0, 120.0, 60.0, 120.0]);
        assert_eq!(placement.to_image(0.5, 1.0), (2.0, 2.0));
        let (values, placement) = prepare(Fit::Pad, &[1, 4, 4, 1]);
        assert_eq!(values[..4], [127.5; 4]);
        assert_eq!(values[4..8], [0.0, 60.0, 120.0, 180.0]);
        assert_eq!(placement.to_image(0.0, 0.25), (0.0, 0.0));
        assert_eq!(placement.to_image(1.0, 0.75), (4.0, 2.0));
        let (values, placement) = prepare(Fit::Stretch, &[1, 1, 2, 3]);
        assert_eq!(values, [60.0, 60.0, 60.0, 180.0, 180.0, 180.0]);
        assert_eq!(placement.to_image(1.0, 1.0), (4.0, 2.0));
        let (values, _) = prepare(Fit::Stretch, &[1, 3, 1, 2]);
        assert_eq!(values, [60.0, 180.0, 60.0, 180.0, 60.0, 180.0]);
    }

    #[test]
    fn bytes_mean_bytes() {
        let port = Port::for_tests(&[1, 1, 4, 1], ElementType::I8, Some((0.5, -10)));
        let (values, _) = Preparation::default().prepare(&image().crop(0, 0, 4, 1), &port).unwrap();
        // 0.5 * (q + 10) with q = byte - 128.
        assert_eq!(values, [-59.0, -29.0, 1.0, 31.0]);
        let floats = Port::for_tests(&[1, 1, 4, 1], ElementType::F32, None);
        let (values, _) = Preparation::default().prepare(&image().crop(0, 0, 4, 1), &floats).unwrap();
        assert!((values[3] - 180.0 / 255.0).abs() < 1e-6);
    }

    #[test]
    fn an_input_that_is_no_image() {
        for shape in [&[1, 640][..], &[1, 2, 2, 2], &[2, 4, 4, 3]] {
            let port = Port::for_tests(shape, ElementType::F32, None);
            let error = Preparation::default().prepare(&image(), &port).unwrap_err();
            assert!(error.to_string().contains("no image"), "{error}");
        }
    }
}
