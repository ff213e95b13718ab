//! Boxes: what a detector says, as places in the image.
//!
//! A single-shot detector (Liu et al. 2016, "SSD") has anchors, points all over the image, and says for each how far from
//! it a box is and how sure it is of that; what it says several times is said once, by non-maximum suppression. The
//! detector that is known here is MediaPipe's for faces at short range (Bazarevsky et al. 2019, "BlazeFace"), found by
//! the shapes of its input and outputs as sounds' recipes are; other networks get classes.

use super::Placement;
use crate::network::Network;

/// Something in an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Its left edge, pixels of the image; may lie outside.
    pub left: f32,
    /// Its upper edge.
    pub top: f32,
    /// Its right edge.
    pub right: f32,
    /// Its lower edge.
    pub bottom: f32,
    /// What it is.
    pub class: usize,
    /// How sure the network is, 0 to 1.
    pub score: f32,
}

impl Detection {
    fn area(&self) -> f32 {
        (self.right - self.left).max(0.0) * (self.bottom - self.top).max(0.0)
    }

    /// What two boxes share, as a share of what they cover together.
    fn overlap(&self, other: &Detection) -> f32 {
        let width = (self.right.min(other.right) - self.left.max(other.left)).max(0.0);
        let height = (self.bottom.min(other.bottom) - self.top.max(other.top)).max(0.0);
        let shared = width * height;
        shared / (self.area() + other.area() - shared).max(f32::MIN_POSITIVE)
    }
}

/// How a network's outputs are boxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// MediaPipe's BlazeFace at short range: one class, 896 anchors.
    BlazeFace,
}

/// Side of BlazeFace's input, pixels; its outputs are in these.
const BLAZE_FACE_SIDE: f32 = 128.0;
/// Sides of its grids, and anchors at each of their points.
const BLAZE_FACE_GRIDS: [(usize, usize); 2] = [(16, 2), (8, 6)];
/// Numbers for each anchor: a box's middle and size, and six points of a face.
const BLAZE_FACE_NUMBERS: usize = 16;
/// Boxes that overlap more are one thing; MediaPipe's value for this detector.
const MAX_OVERLAP: f32 = 0.3;

impl Detector {
    /// The detector that `network` is, if it is one.
    pub fn of(network: &Network) -> Option<Detector> {
        let ([input], [boxes, scores]) = (network.inputs(), network.outputs()) else { return None };
        let shapes = [&input.shape, &boxes.shape, &scores.shape].map(Vec::as_slice);
        (shapes == [&[1, 128, 128, 3][..], &[1, 896, BLAZE_FACE_NUMBERS], &[1, 896, 1]])
            .then_some(Detector::BlazeFace)
    }

    /// Names of its classes.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Detector::BlazeFace => &["face"],
        }
    }

    /// What black and white are to it.
    pub fn range(self) -> (f32, f32) {
        match self {
            Detector::BlazeFace => (-1.0, 1.0),
        }
    }

    /// What `network` has found in its last run, surest first; `placement` is where in the image its input lay, and what it
    /// is less sure of than `threshold` is left out.
    pub fn detections(self, network: &Network, placement: &Placement, threshold: f32) -> Vec<Detection> {
        let mut outputs: [Vec<f32>; 2] = [0, 1].map(|port| vec![0.0; network.outputs()[port].n_elements()]);
        for (port, values) in outputs.iter_mut().enumerate() {
            network.output(port, values).expect("there are two outputs of these lengths");
        }
        let anchors = BLAZE_FACE_GRIDS.iter().flat_map(|(side, n)| {
            (0..side * side * n).map(move |i| {
                let at = |cell: usize| (cell as f32 + 0.5) / *side as f32;
                (at(i / n % side), at(i / n / side))
            })
        });
        let [boxes, scores] = outputs;
        let numbers = boxes.chunks_exact(BLAZE_FACE_NUMBERS);
        let found = anchors.zip(numbers).zip(&scores).filter_map(|(((x, y), numbers), score)| {
            let score = 1.0 / (1.0 + (-score).exp());
            let [dx, dy, width, height] = [0, 1, 2, 3].map(|i| numbers[i] / BLAZE_FACE_SIDE);
            let (x, y) = (x + dx, y + dy);
            let (left, top) = placement.to_image(x - width / 2.0, y - height / 2.0);
            let (right, bottom) = placement.to_image(x + width / 2.0, y + height / 2.0);
            (score >= threshold).then_some(Detection { left, top, right, bottom, class: 0, score })
        });
        suppress(found.collect())
    }
}

/// Each thing once: of boxes of one class that overlap, their mean, weighed by their scores, with the best score.
fn suppress(mut found: Vec<Detection>) -> Vec<Detection> {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept = Vec::new();
    while let Some(best) = found.first().copied() {
        // The best is there in any case, even where it covers nothing.
        let (mut same, others): (Vec<Detection>, Vec<Detection>) = found
            .drain(1..)
            .partition(|other| other.class == best.class && best.overlap(other) > MAX_OVERLAP);
        same.insert(0, best);
        found = others;
        let weight: f32 = same.iter().map(|other| other.score).sum();
        let mean = |edge: fn(&Detection) -> f32| {
            if weight > 0.0 {
                same.iter().map(|other| edge(other) * other.score).sum::<f32>() / weight
            } else {
                edge(&best)
            }
        };
        kept.push(Detection {
            left: mean(|d| d.left),
            top: mean(|d| d.top),
            right: mean(|d| d.right),
            bottom: mean(|d| d.bottom),
            ..best
        });
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(left: f32, side: f32, class: usize, score: f32) -> Detection {
        Detection { left, top: 0.0, right: left + side, bottom: side, class, score }
    }

    #[test]
    fn each_thing_once() {
        let found = vec![
            square(0.0, 10.0, 0, 0.6),
            square(1.0, 10.0, 0, 0.9),
            square(30.0, 10.0, 0, 0.5),
            square(1.0, 10.0, 1, 0.7),
            square(50.0, 0.0, 0, 0.4),
        ];
        let kept = suppress(found);
        assert_eq!(kept.iter().map(|kept| kept.score).collect::<Vec<_>>(), [0.9, 0.7, 0.5, 0.4]);
        assert!((kept[0].left - 0.6).abs() < 1e-6, "{kept:?}");
        assert_eq!(suppress(vec![]), []);
    }
}
