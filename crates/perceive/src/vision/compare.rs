//! What differs between an image and how it should look: defects of printed boards, of labels, of whatever a camera always
//! sees from the same place.
//!
//! The reference is moved by the few pixels that make it fit best; both become black and white; what differs is cleaned of
//! lines thinner than three pixels, which edges give that lie half a pixel beside each other (opening, in the sense of
//! mathematical morphology: Serra 1982); and what is left is gathered into boxes. Nothing is learnt, so one image of a
//! faultless piece is enough.

use super::{Error, Image};

/// How images are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Grey from which a pixel is white.
    pub threshold: u8,
    /// Pixels by which the reference is moved at most, each way.
    pub max_shift: usize,
    /// Side of the smallest square that is a difference, pixels.
    pub min_side: usize,
    /// Differences that are nearer to each other are one, pixels.
    pub join: usize,
    /// Pixels of a difference, at least.
    pub min_area: usize,
    /// Pixels that boxes are made wider on each side: people draw them so.
    pub margin: usize,
}

impl Default for Comparison {
    /// Of boards of about 50 pixels to a millimetre (DeepPCB).
    fn default() -> Comparison {
        Comparison { threshold: 128, max_shift: 2, min_side: 3, join: 5, min_area: 10, margin: 10 }
    }
}

/// Something that is not as in the reference; edges in pixels, right and bottom exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Left edge.
    pub left: usize,
    /// Upper edge.
    pub top: usize,
    /// Right edge.
    pub right: usize,
    /// Lower edge.
    pub bottom: usize,
    /// Pixels that differ.
    pub area: usize,
}

/// Black and white: `[height, width]`.
#[derive(Clone, Debug)]
struct Mask {
    width: usize,
    height: usize,
    bits: Vec<bool>,
}

impl Mask {
    /// Each pixel as the `all` or any of those in a square of `side` about it, which begins `before` pixels earlier.
    /// Outside there is nothing to find.
    fn over_squares(&self, side: usize, before: usize, all: bool) -> Mask {
        let Mask { width, height, .. } = *self;
        let line = |of: &[bool], len: usize, stride: usize, start: usize, into: &mut [bool]| {
            for i in 0..len {
                let from = i.saturating_sub(before);
                let to = (i + side).saturating_sub(before).min(len);
                // A square that reaches beyond the edge is not whole.
                let is_whole = i >= before && i + side - before <= len;
                let mut at = (from..to).map(|k| of[start + k * stride]);
                into[start + i * stride] =
                    if all { is_whole && at.all(|bit| bit) } else { at.any(|bit| bit) };
            }
        };
        let mut rows = vec![false; self.bits.len()];
        (0..height).for_each(|y| line(&self.bits, width, 1, y * width, &mut rows));
        let mut bits = vec![false; self.bits.len()];
        (0..width).for_each(|x| line(&rows, height, width, x, &mut bits));
        Mask { width, height, bits }
    }

    /// What is left of squares of `side` that fit in.
    fn opened(&self, side: usize) -> Mask {
        self.over_squares(side, 0, true).over_squares(side, side - 1, false)
    }
}

impl Comparison {
    /// What differs in `image` from `reference`, largest first.
    ///
    /// # Errors
    /// If they are not of one size.
    ///
    /// # Panics
    /// If `min_side` is 0.
    pub fn differences(&self, reference: &Image, image: &Image) -> Result<Vec<Difference>, Error> {
        assert!(self.min_side > 0, "a difference is at least a pixel");
        let (width, height) = (image.width(), image.height());
        if (reference.width(), reference.height()) != (width, height) {
            let what = format!(
                "the reference has {} x {} pixels and the image {width} x {height}: take both from the same place",
                reference.width(),
                reference.height()
            );
            return Err(Error::Mismatch { what });
        }
        let white = |image: &Image| -> Vec<bool> {
            image.to_grey().data().iter().map(|grey| *grey >= self.threshold).collect()
        };
        let (reference, image) = (white(reference), white(image));
        let most = self.max_shift.min((width.min(height) - 1) / 2) as isize;
        let shifts = (-most..=most).flat_map(|dy| (-most..=most).map(move |dx| (dx, dy)));
        // Calls `found` for each pixel that differs; what the moved reference does not cover does not.
        let differ = |(dx, dy): (isize, isize), found: &mut dyn FnMut(usize)| {
            let kept =
                |len: usize, by: isize| by.max(0) as usize..len.saturating_sub(by.min(0).unsigned_abs());
            for y in kept(height, dy) {
                let from = y.wrapping_add_signed(-dy) * width;
                for x in kept(width, dx) {
                    if reference[from + x.wrapping_add_signed(-dx)] != image[y * width + x] {
                        found(y * width + x);
                    }
                }
            }
        };
        // Of equally good ones the shortest way.
        let cost = |shift: &(isize, isize)| {
            let mut n = 0usize;
            differ(*shift, &mut |_| n += 1);
            (n, shift.0.abs() + shift.1.abs())
        };
        let shift = shifts.min_by_key(cost).unwrap_or((0, 0));
        let mut mask = Mask { width, height, bits: vec![false; width * height] };
        differ(shift, &mut |at| mask.bits[at] = true);
        let found = mask.opened(self.min_side);
        Ok(self.gather(&found))
    }

    fn gather(&self, found: &Mask) -> Vec<Difference> {
        let Mask { width, height, .. } = *found;
        let mut joined = found.over_squares(2 * self.join + 1, self.join, false);
        let mut differences = Vec::new();
        let mut to_do = Vec::new();
        for start in 0..joined.bits.len() {
            if !std::mem::take(&mut joined.bits[start]) {
                continue;
            }
            to_do.push(start);
            let mut box_of = Difference { left: width, top: height, right: 0, bottom: 0, area: 0 };
            while let Some(at) = to_do.pop() {
                let (x, y) = (at % width, at / width);
                if found.bits[at] {
                    box_of.left = box_of.left.min(x);
                    box_of.top = box_of.top.min(y);
                    box_of.right = box_of.right.max(x + 1);
                    box_of.bottom = box_of.bottom.max(y + 1);
                    box_of.area += 1;
                }
                for y in y.saturating_sub(1)..(y + 2).min(height) {
                    for x in x.saturating_sub(1)..(x + 2).min(width) {
                        if std::mem::take(&mut joined.bits[y * width + x]) {
                            to_do.push(y * width + x);
                        }
                    }
                }
            }
            if box_of.area >= self.min_area.max(1) {
                differences.push(Difference {
                    left: box_of.left.saturating_sub(self.margin),
                    top: box_of.top.saturating_sub(self.margin),
                    right: (box_of.right + self.margin).min(width),
                    bottom: (box_of.bottom + self.margin).min(height),
                    ..box_of
                });
            }
        }
        differences.sort_by_key(|difference| std::cmp::Reverse(difference.area));
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// White, with black boxes.
    fn image(boxes: &[(usize, usize, usize, usize)]) -> Image {
        let mut data = vec![255; 60 * 50];
        for (x, y, width, height) in boxes {
            (*y..y + height).for_each(|y| data[y * 60 + x..][..*width].fill(0));
        }
        Image::new(60, 50, 1, data)
    }

    #[test]
    fn what_is_new_and_what_is_missing() {
        let comparison = Comparison { margin: 1, ..Comparison::default() };
        let reference = image(&[(5, 5, 20, 4), (5, 30, 20, 4)]);
        // Moved by a pixel each way; one line has a hole of 4 x 4, and there is a spot of 5 x 3.
        let seen = image(&[(6, 6, 8, 4), (18, 6, 8, 4), (6, 31, 20, 4), (40, 40, 5, 3)]);
        let found = comparison.differences(&reference, &seen).unwrap();
        let expected = [(13, 5, 19, 11, 16), (39, 39, 46, 44, 15)];
        let found: Vec<_> = found.iter().map(|d| (d.left, d.top, d.right, d.bottom, d.area)).collect();
        assert_eq!(found, expected);
        assert_eq!(comparison.differences(&reference, &reference).unwrap(), []);
    }

    #[test]
    fn thin_lines_and_far_shifts() {
        let comparison = Comparison::default();
        let reference = image(&[(5, 5, 20, 10)]);
        // An edge two pixels farther out, which is not enough.
        assert_eq!(comparison.differences(&reference, &image(&[(5, 5, 22, 10)])).unwrap(), []);
        // Near each other is one, far is two.
        let near = image(&[(5, 5, 20, 10), (40, 10, 4, 4), (48, 10, 4, 4)]);
        assert_eq!(comparison.differences(&reference, &near).unwrap().len(), 1);
        let far = image(&[(5, 5, 20, 10), (32, 10, 4, 4), (52, 40, 4, 4)]);
        assert_eq!(comparison.differences(&reference, &far).unwrap().len(), 2);
        let small = Image::new(1, 1, 1, vec![0]);
        assert_eq!(comparison.differences(&small, &small).unwrap(), []);
        assert!(comparison.differences(&reference, &small).is_err());
    }
}
