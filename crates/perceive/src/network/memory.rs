//! One block of memory for all activations, planned before the first run.
//!
//! A value lives from the step that first touches it to the one that last does; values that never live at once may
//! share bytes. Placing them is done largest first, each at the lowest gap that is free for its whole life ("greedy by
//! size", Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference", section 5.2).
//!
//! Invariant: each place begins at a multiple of 64 and ends in the slack that kernels may read.

use std::ops::{Range, RangeInclusive};

use edgeward_kernels::Buffer;
use edgeward_kernels::net::SLACK;

/// Places begin at multiples of this: cache lines, and alignment for any element.
const ALIGNMENT: usize = 64;

/// Index of a value.
pub type ValueId = usize;

/// What a step reads or writes.
#[derive(Clone, Debug)]
pub struct Value {
    pub size_bytes: usize,
    /// Bytes of an element.
    pub element_bytes: usize,
    /// Steps from first to last; `None` is never touched.
    pub life: Option<RangeInclusive<usize>>,
}

impl Value {
    /// Counts step `step` into its life.
    pub fn touch(&mut self, step: usize) {
        let life = self.life.take().unwrap_or(step..=step);
        self.life = Some(step.min(*life.start())..=step.max(*life.end()));
    }

    /// Bytes that it takes, slack and all.
    fn room_bytes(&self) -> usize {
        (self.size_bytes + SLACK * self.element_bytes).next_multiple_of(ALIGNMENT)
    }
}

/// Where each value lies, and how many bytes all take.
pub fn plan(values: &[Value]) -> (Vec<Range<usize>>, usize) {
    let mut order: Vec<ValueId> = (0..values.len()).filter(|id| values[*id].life.is_some()).collect();
    order.sort_by_key(|id| std::cmp::Reverse(values[*id].room_bytes()));
    let mut places = vec![0..0; values.len()];
    let mut placed: Vec<ValueId> = Vec::new();
    let mut total = 0;
    for id in order {
        let lives_with = |other: &ValueId| match (&values[id].life, &values[*other].life) {
            (Some(a), Some(b)) => a.start() <= b.end() && b.start() <= a.end(),
            _ => false,
        };
        // `placed` is in the order of places.
        let mut start = 0;
        for other in placed.iter().filter(|other| lives_with(other)) {
            if start + values[id].room_bytes() <= places[*other].start {
                break;
            }
            start = start.max(places[*other].end);
        }
        places[id] = start..start + values[id].room_bytes();
        total = total.max(places[id].end);
        let at = placed.partition_point(|other| places[*other].start <= start);
        placed.insert(at, id);
    }
    (places, total)
}

/// The block, and where values lie in it.
pub struct Memory {
    buffer: Buffer,
    /// With slack.
    places: Vec<Range<usize>>,
    sizes: Vec<usize>,
}

impl Memory {
    pub fn new(values: &[Value], places: Vec<Range<usize>>, size_bytes: usize) -> Memory {
        let sizes = values.iter().map(|value| value.size_bytes).collect();
        Memory { buffer: Buffer::zeroed(size_bytes), places, sizes }
    }

    pub fn size_bytes(&self) -> usize {
        self.buffer.as_slice().len()
    }

    fn exact(&self, id: ValueId) -> Range<usize> {
        self.places[id].start..self.places[id].start + self.sizes[id]
    }

    /// A value.
    pub fn get(&self, id: ValueId) -> &[u8] {
        &self.buffer.as_slice()[self.exact(id)]
    }

    /// A value, to write.
    pub fn get_mut(&mut self, id: ValueId) -> &mut [u8] {
        let range = self.exact(id);
        &mut self.buffer.as_mut_slice()[range]
    }

    /// A value with the slack behind it, and another one to write.
    ///
    /// # Panics
    /// If they share bytes: the plan keeps apart what one step touches.
    pub fn pair(&mut self, input: ValueId, output: ValueId) -> (&[u8], &mut [u8]) {
        let ranges = [self.places[input].clone(), self.exact(output)];
        let [input, output] = self.buffer.as_mut_slice().get_disjoint_mut(ranges).expect("values lie apart");
        (input, output)
    }

    /// Two values without slack, which may be the same, and one to write.
    ///
    /// # Panics
    /// As [`Memory::pair`].
    pub fn three(&mut self, inputs: [ValueId; 2], output: ValueId) -> ([&[u8]; 2], &mut [u8]) {
        let [a, b] = inputs.map(|id| self.exact(id));
        let output = self.exact(output);
        let bytes = self.buffer.as_mut_slice();
        if a == b {
            let [a, output] = bytes.get_disjoint_mut([a, output]).expect("values lie apart");
            return ([a, a], output);
        }
        let [a, b, output] = bytes.get_disjoint_mut([a, b, output]).expect("values lie apart");
        ([a, b], output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(size_bytes: usize, life: RangeInclusive<usize>) -> Value {
        Value { size_bytes, element_bytes: 1, life: Some(life) }
    }

    #[test]
    fn what_lives_at_once_lies_apart() {
        // A chain of layers, with a branch that outlives two of them.
        let values = [
            value(3000, 0..=1),
            value(16000, 1..=4),
            value(16000, 2..=3),
            value(16000, 3..=4),
            value(16000, 4..=5),
            value(10, 5..=6),
            Value { size_bytes: 1 << 40, element_bytes: 4, life: None },
        ];
        let (places, total) = plan(&values);
        for (a, life_a) in values.iter().enumerate().filter_map(|(id, v)| Some((id, v.life.clone()?))) {
            assert!(places[a].start.is_multiple_of(64) && places[a].len() >= values[a].size_bytes + SLACK);
            assert!(places[a].end <= total);
            for (b, life_b) in
                values[..a].iter().enumerate().filter_map(|(id, v)| Some((id, v.life.clone()?)))
            {
                if life_a.start() <= life_b.end() && life_b.start() <= life_a.end() {
                    assert!(places[a].end <= places[b].start || places[b].end <= places[a].start, "{a} {b}");
                }
            }
        }
        // Three of the large ones live at once, and no more is needed.
        assert_eq!(total, 3 * 16064);
    }
}
