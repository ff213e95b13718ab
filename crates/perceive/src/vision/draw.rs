//! Boxes and words in an image, and the image as a PNG file.

use std::io::Cursor;

use font8x8::UnicodeFonts;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::Image;

/// Rows and columns of a letter, before it is enlarged.
const LETTER: usize = 8;
/// Rows of an image for which letters are not enlarged; with twice as many they are twice as large.
const ROWS_PER_SCALE: usize = 300;
const INK: [u8; 3] = [255, 255, 255];
/// Behind letters, so that they can be read on anything.
const GROUND: [u8; 3] = [20, 20, 20];

/// Colours of classes: as far apart as ten can be, also for those who do not see all colours (Okabe and Ito 2008, with
/// two more).
const COLOURS: [[u8; 3]; 10] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
    [148, 103, 189],
    [127, 127, 127],
    [23, 190, 207],
];

/// The colour of class `class`.
pub fn colour(class: usize) -> [u8; 3] {
    COLOURS[class % COLOURS.len()]
}

/// An image in colour that is drawn into.
#[derive(Clone, Debug)]
pub struct Canvas {
    image: Image,
    /// How much larger letters and lines are made.
    scale: usize,
}

impl Canvas {
    /// A copy of `image`.
    pub fn new(image: &Image) -> Canvas {
        let scale = (image.height().min(image.width()) / ROWS_PER_SCALE).max(1);
        Canvas { image: image.to_rgb(), scale }
    }

    /// What was drawn.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Rows that a line of text takes.
    pub fn line_height(&self) -> usize {
        (LETTER + 2) * self.scale
    }

    fn fill(&mut self, (x, y): (i64, i64), (width, height): (i64, i64), colour: [u8; 3]) {
        let clip = |at: i64, len: usize| at.clamp(0, len as i64) as usize;
        let (columns, rows) = (self.image.width, self.image.height);
        let (left, right) = (clip(x, columns), clip(x + width, columns));
        let (top, bottom) = (clip(y, rows), clip(y + height, rows));
        for row in top..bottom {
            let start = row * columns * 3;
            self.image.data[start + left * 3..start + right * 3].as_chunks_mut().0.fill(colour);
        }
    }

    /// The outline of a box from `(left, top)` to `(right, bottom)`, pixels; what lies outside the image is cut off.
    pub fn outline(&mut self, (left, top): (f32, f32), (right, bottom): (f32, f32), colour: [u8; 3]) {
        // Far outside is outside.
        let [left, top, right, bottom] =
            [left, top, right, bottom].map(|at| at.round().clamp(-1e9, 1e9) as i64);
        let line = self.scale as i64 * 2;
        let (width, height) = (right - left, bottom - top);
        self.fill((left, top), (width, line), colour);
        self.fill((left, bottom - line), (width, line), colour);
        self.fill((left, top), (line, height), colour);
        self.fill((right - line, top), (line, height), colour);
    }

    /// A line of text on a dark ground, its corner at column `x` of row `y`. Letters beyond Latin are boxes.
    pub fn text(&mut self, x: f32, y: f32, text: &str) {
        // Far outside is outside.
        let [x, y] = [x, y].map(|at| at.round().clamp(-1e9, 1e9) as i64);
        let scale = self.scale as i64;
        let n_letters = text.chars().count() as i64;
        let (letter, line) = (LETTER as i64 * scale, self.line_height() as i64);
        self.fill((x, y), (n_letters * letter + 2 * scale, line), GROUND);
        for (i, c) in text.chars().enumerate() {
            let rows =
                [font8x8::BASIC_FONTS.get(c), font8x8::LATIN_FONTS.get(c)].into_iter().flatten().next();
            let rows = rows.unwrap_or([0x7e, 0x42, 0x42, 0x42, 0x42, 0x42, 0x7e, 0]);
            let left = x + scale + i as i64 * letter;
            for (row, bits) in rows.into_iter().enumerate() {
                for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                    let at = (left + column as i64 * scale, y + (row as i64 + 1) * scale);
                    self.fill(at, (scale, scale), INK);
                }
            }
        }
    }

    /// As a PNG file.
    pub fn to_png(&self) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let (width, height) = (self.image.width as u32, self.image.height as u32);
        PngEncoder::new(&mut bytes)
            .write_image(&self.image.data, width, height, ExtendedColorType::Rgb8)
            .expect("memory takes any number of bytes, and sizes fit");
        bytes.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::{Limits, decode};

    #[test]
    fn what_is_drawn_is_there() {
        let mut canvas = Canvas::new(&Image::new(40, 30, 1, vec![90; 1200]));
        canvas.outline((5.0, 4.0), (20.0, 14.0), colour(0));
        canvas.text(5.0, 16.0, "i");
        let image = decode(&canvas.to_png(), &Limits::default()).unwrap();
        assert_eq!(&image, canvas.image());
        assert_eq!(image.pixel(5, 4), colour(0));
        assert_eq!(image.pixel(19, 13), colour(0));
        assert_eq!(image.pixel(12, 9), [90; 3]);
        assert_eq!(image.pixel(20, 14), [90; 3]);
        let n_ink = image.data().as_chunks::<3>().0.iter().filter(|pixel| **pixel == INK).count();
        assert!((5..30).contains(&n_ink), "{n_ink}");
    }

    #[test]
    fn nothing_is_drawn_outside() {
        let blank = Image::new(16, 16, 3, vec![1; 768]);
        let mut canvas = Canvas::new(&blank);
        canvas.outline((-90.0, -90.0), (-50.0, -50.0), colour(1));
        canvas.outline((f32::NEG_INFINITY, 20.0), (f32::INFINITY, 1e30), colour(1));
        canvas.text(16.0, 0.0, "outside");
        canvas.text(-1e30, -100.0, "outside");
        assert_eq!(canvas.image(), &blank);
    }
}
