//! Nested loops over tensors of any number of dimensions, without allocation while running.
//!
//! A walk visits an output's elements in order, row by row, and says where in each input a row begins and how far apart
//! its elements lie there: 0 apart is a number that serves a whole row. Neighbouring dimensions that all inputs walk alike
//! become one, so that most walks are a few long rows.

use crate::graph::MAX_DIMS;

/// How an output's elements are found in `K` inputs.
#[derive(Clone, Debug)]
pub struct Walk<const K: usize> {
    /// Outer dimensions, then the length of a row.
    dims: Vec<usize>,
    /// For each dimension, the distance of neighbours in each input.
    strides: Vec<[usize; K]>,
}

impl<const K: usize> Walk<K> {
    /// A walk over an output of shape `shape`; `strides` of each input, one for each dimension.
    pub fn new(shape: &[usize], strides: &[Vec<usize>; K]) -> Walk<K> {
        let (mut dims, mut merged): (Vec<usize>, Vec<[usize; K]>) = (Vec::new(), Vec::new());
        for (axis, dim) in shape.iter().copied().enumerate().filter(|(_, dim)| *dim != 1) {
            let here = std::array::from_fn(|k| strides[k][axis]);
            match (dims.last_mut(), merged.last_mut()) {
                (Some(last), Some(outer)) if (0..K).all(|k| outer[k] == here[k] * dim) => {
                    *last *= dim;
                    *outer = here;
                }
                _ => {
                    dims.push(dim);
                    merged.push(here);
                }
            }
        }
        if dims.is_empty() {
            dims.push(1);
            merged.push([0; K]);
        }
        Walk { dims, strides: merged }
    }

    /// Elements of a row.
    pub fn row_len(&self) -> usize {
        self.dims[self.dims.len() - 1]
    }

    /// Distance of a row's elements in each input.
    pub fn row_strides(&self) -> [usize; K] {
        self.strides[self.strides.len() - 1]
    }

    /// Calls `f` for each row, in order, with the place of its first element in each input.
    pub fn rows(&self, mut f: impl FnMut([usize; K])) {
        let n_outer = self.dims.len() - 1;
        let mut at = [0usize; MAX_DIMS];
        let mut offsets = [0usize; K];
        loop {
            f(offsets);
            let mut axis = n_outer;
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                at[axis] += 1;
                for (offset, stride) in offsets.iter_mut().zip(&self.strides[axis]) {
                    *offset += stride;
                }
                if at[axis] < self.dims[axis] {
                    break;
                }
                for (offset, stride) in offsets.iter_mut().zip(&self.strides[axis]) {
                    *offset -= stride * self.dims[axis];
                }
                at[axis] = 0;
            }
        }
    }
}

/// Distances of neighbours in a tensor without gaps.
pub fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Distances in a tensor of shape `from` as it is repeated to shape `to`, its dimensions being the last ones there.
///
/// # Panics
/// If it cannot be repeated so.
pub fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let (dense, missing) = (dense_strides(from), to.len() - from.len());
    let stride = |axis: usize| {
        let axis = axis.checked_sub(missing)?;
        assert!(from[axis] == to[axis + missing] || from[axis] == 1);
        (from[axis] != 1).then_some(dense[axis])
    };
    (0..to.len()).map(|axis| stride(axis).unwrap_or(0)).collect()
}

/// The shape of two tensors' elements met by broadcasting (ONNX, "Broadcasting"; NumPy); `None` if they do not fit.
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let n = a.len().max(b.len());
    let dim = |shape: &[usize], axis: usize| axis.checked_sub(n - shape.len()).map_or(1, |axis| shape[axis]);
    let meet = |axis: usize| match (dim(a, axis), dim(b, axis)) {
        (a, b) if a == b => Some(a),
        (1, b) => Some(b),
        (a, 1) => Some(a),
        _ => None,
    };
    (0..n).map(meet).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visited<const K: usize>(walk: &Walk<K>) -> Vec<[usize; K]> {
        let mut all = Vec::new();
        walk.rows(|offsets| {
            for i in 0..walk.row_len() {
                all.push(std::array::from_fn(|k| offsets[k] + i * walk.row_strides()[k]));
            }
        });
        all
    }

    #[test]
    fn broadcasting() {
        assert_eq!(broadcast(&[2, 1, 3], &[4, 1]), Some(vec![2, 4, 3]));
        assert_eq!(broadcast(&[], &[4]), Some(vec![4]));
        assert_eq!(broadcast(&[2], &[3]), None);
        let shape = [2, 2, 3];
        let walk =
            Walk::new(&shape, &[broadcast_strides(&[2, 1, 3], &shape), broadcast_strides(&[2, 1], &shape)]);
        let (a, b): (Vec<usize>, Vec<usize>) = visited(&walk).iter().map(|[a, b]| (*a, *b)).unzip();
        assert_eq!(a, [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        assert_eq!(b, [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn dimensions_that_are_walked_alike_become_one() {
        let walk = Walk::new(&[2, 3, 4], &[dense_strides(&[2, 3, 4])]);
        assert_eq!((walk.dims.as_slice(), walk.row_len()), (&[24][..], 24));
        // A transposition.
        let walk = Walk::new(&[3, 2], &[vec![1, 3]]);
        assert_eq!(visited(&walk), [[0], [3], [1], [4], [2], [5]]);
        assert_eq!(visited(&Walk::new(&[], &[vec![]])), [[0]]);
    }
}
