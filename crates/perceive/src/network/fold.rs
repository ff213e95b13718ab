//! Integers that are known before the first run: shapes, and what is cut out of them and put together again.
//!
//! Shapes are fixed here, so chains of SHAPE, STRIDED_SLICE and PACK, by which converters compute the argument of a
//! RESHAPE, have their result before anything runs.

use crate::error::Error;
use crate::graph::{Node, Op};
use crate::network::lower::Lowering;

/// Integers with a shape.
#[derive(Clone, Debug)]
pub struct Known {
    pub shape: Vec<usize>,
    pub values: Vec<i32>,
}

/// Elements of a known tensor: shapes and axes are short.
const MAX_KNOWN: usize = 1024;

/// Computes a node whose result is integers. Its inputs are known, or the node is refused.
pub fn fold(lowering: &Lowering<'_>, node: &Node, place: &str) -> Result<Known, Error> {
    let known = |input: usize| -> Result<Known, Error> {
        let id = node.inputs[input].ok_or_else(|| Error::malformed(place, "an input is left out"))?;
        let known =
            lowering.known(id).ok_or_else(|| Error::unsupported(place, "integers computed while it runs"))?;
        Ok(known)
    };
    match &node.op {
        Op::Shape => {
            let id = node.inputs[0].ok_or_else(|| Error::malformed(place, "its input is left out"))?;
            let shape = lowering.shape(id, place)?;
            Ok(Known { shape: vec![shape.len()], values: shape.iter().map(|dim| *dim as i32).collect() })
        }
        Op::StridedSlice { begin_mask, end_mask, shrink_mask } => {
            let (input, begin, end, strides) = (known(0)?, known(1)?, known(2)?, known(3)?);
            let one = |known: &Known| match known.values.as_slice() {
                [value] => Ok(i64::from(*value)),
                _ => Err(Error::unsupported(place, "more than one dimension")),
            };
            let (begin, end, stride) = (one(&begin)?, one(&end)?, one(&strides)?);
            if input.shape.len() != 1 || stride != 1 {
                return Err(Error::unsupported(place, "more than one dimension, or a stride other than 1"));
            }
            let len = input.values.len() as i64;
            let from_end = |at: i64| if at < 0 { at + len } else { at };
            let start = if begin_mask & 1 == 1 { 0 } else { from_end(begin).clamp(0, len) };
            let stop = match (shrink_mask & 1 == 1, end_mask & 1 == 1) {
                (true, _) => start + 1,
                (false, true) => len,
                (false, false) => from_end(end).clamp(start, len),
            };
            let values = input.values.get(start as usize..stop as usize);
            let values = values.ok_or_else(|| Error::malformed(place, "the slice lies outside"))?.to_vec();
            let shape = if shrink_mask & 1 == 1 { vec![] } else { vec![values.len()] };
            Ok(Known { shape, values })
        }
        Op::Pack { axis } => {
            let parts: Vec<Known> = (0..node.inputs.len()).map(known).collect::<Result<_, _>>()?;
            if parts.iter().any(|part| !part.shape.is_empty())
                || !matches!(axis, 0 | -1)
                || parts.len() > MAX_KNOWN
            {
                return Err(Error::unsupported(place, "other than single integers"));
            }
            let values: Vec<i32> = parts.iter().flat_map(|part| part.values.clone()).collect();
            Ok(Known { shape: vec![values.len()], values })
        }
        _ => Err(Error::unsupported(place, "integers")),
    }
}

/// A constant tensor of integers, if it is short enough to be a shape.
pub fn constant(shape: &[usize], values: impl ExactSizeIterator<Item = i32>) -> Option<Known> {
    (values.len() <= MAX_KNOWN).then(|| Known { shape: shape.to_vec(), values: values.collect() })
}
