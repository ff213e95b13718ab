//! What the sum of the measured losses missed, found out on the result.
//!
//! A search adds up losses that were measured one matrix at a time and carried from one type to the others. Where the
//! result loses something else than that sum, each type is tried alone: its matrices of the result stand in the teacher,
//! and what that costs, held against what was expected, corrects all choices of that type. A second search then knows
//! better.

use std::collections::BTreeMap;

use edgeward_engine::Isa;
use edgeward_kernels::DType;
use edgeward_model::Model;
use edgeward_model::tensor::Slot;

use crate::compress::{Compressor, embed_all, matrix};
use crate::error::Error;
use crate::eval::{Divergence, Windows, compare_rows};
use crate::search::{Measured, Solution};

/// A measured loss is as expected up to this factor, either way: sums that are so near are as good as any.
pub const TOLERANCE: f64 = 1.25;
/// Positions whose logits are in memory at once.
const POSITIONS: usize = 64;

/// Whether a result loses so much else than was expected that a correction may pay.
pub fn is_wrong(expected: f64, measured: f64) -> bool {
    let ratio = measured / expected.max(f64::MIN_POSITIVE);
    !(1.0 / TOLERANCE..=TOLERANCE).contains(&ratio)
}

impl Compressor<'_> {
    /// By how much each type of `result`, which was made by `solution`, loses more than was expected, measured on
    /// `windows`: 1 where it was right.
    ///
    /// # Errors
    /// Those of reading and computing.
    pub fn factors(
        &mut self,
        solution: &Solution,
        result: &Model,
        windows: &Windows,
    ) -> Result<BTreeMap<DType, f64>, Error> {
        let mut expected: BTreeMap<DType, (f64, Vec<Slot>)> = BTreeMap::new();
        for (slot, dtype) in &solution.assignment.0 {
            let (sum, slots) = expected.entry(*dtype).or_default();
            *sum += solution.losses.get(self.tensor(*slot)?.name).copied().unwrap_or(0.0);
            slots.push(*slot);
        }
        let mut engine = self.eight_bit_engine()?;
        let tokens: Vec<Vec<u32>> = (0..windows.len()).map(|idx| windows.window(idx)).collect();
        let streams = embed_all(&engine, &tokens)?;
        let layers = 0..self.teacher.config().n_layers;
        let before = self.last_rows(&mut engine, streams, layers.clone())?;
        // The teacher's logits are computed again for each type: to keep them would take more than the model.
        let mut factors = BTreeMap::new();
        let n_types = expected.len();
        let hidden_dim = self.teacher.config().hidden_dim;
        for (i, (dtype, (sum, slots))) in expected.into_iter().enumerate() {
            self.tell("finding out what was misjudged", i, n_types)?;
            if sum <= 0.0 {
                continue;
            }
            let mut old = Vec::new();
            for &slot in &slots {
                let kept = engine.matrix(slot).ok_or(edgeward_engine::Error::MissingTensor(slot))?.clone();
                let tensor = result.tensor(slot).ok_or(edgeward_engine::Error::MissingTensor(slot))?;
                engine.set_matrix(slot, matrix(&tensor, tensor.dtype, tensor.data.to_vec())?)?;
                old.push((slot, kept));
            }
            let streams = embed_all(&engine, &tokens)?;
            let after = self.last_rows(&mut engine, streams, layers.clone())?;
            // The output matrix may be among those that changed: the student's logits while it is there, the teacher's
            // after.
            let mut student_logits = Vec::new();
            for rows in after.chunks(POSITIONS * hidden_dim) {
                self.check()?;
                student_logits.push(engine.logits(rows)?.into_vec());
            }
            for (slot, kept) in old {
                engine.set_matrix(slot, kept)?;
            }
            let mut divergence = Divergence::default();
            for (rows, student) in before.chunks(POSITIONS * hidden_dim).zip(&student_logits) {
                self.check()?;
                let teacher = engine.logits(rows)?.into_vec();
                let vocab_size = self.teacher.config().vocab_size;
                compare_rows(engine.pool(), Isa::best(), &teacher, student, vocab_size, &mut divergence);
            }
            factors.insert(dtype, divergence.mean() / sum);
        }
        self.tell("finding out what was misjudged", n_types, n_types)?;
        Ok(factors)
    }
}

/// The measurements, with each type's losses times its factor; those of types that were not tried times the mean of
/// the others.
pub fn corrected(measured: &[Measured], factors: &BTreeMap<DType, f64>) -> Vec<Measured> {
    let logarithms: f64 = factors.values().map(|factor| factor.max(1e-6).ln()).sum();
    let mean = (logarithms / factors.len().max(1) as f64).exp();
    let mut measured = measured.to_vec();
    for choice in measured.iter_mut().flat_map(|of| &mut of.choices) {
        let factor = factors.iter().find(|(dtype, _)| dtype.name() == choice.dtype);
        choice.loss *= factor.map_or(mean, |(_, factor)| *factor);
    }
    measured
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::Choice;

    #[test]
    fn types_that_were_misjudged_are_corrected_and_others_by_the_mean() {
        let choice = |dtype: DType| Choice { dtype: dtype.name().to_owned(), size_bytes: 1, loss: 2.0 };
        let choices = [DType::EW3, DType::EW4, DType::Q8_0].map(choice).to_vec();
        let measured = [Measured { tensor: "blk.0.attn_q.weight".to_owned(), choices }];
        let factors = BTreeMap::from([(DType::EW3, 4.0), (DType::EW4, 1.0)]);
        let losses: Vec<f64> = corrected(&measured, &factors)[0].choices.iter().map(|c| c.loss).collect();
        assert_eq!(losses[..2], [8.0, 2.0]);
        assert!((losses[2] - 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_quarter_more_or_less_is_no_matter() {
        assert!(!is_wrong(0.02, 0.024) && !is_wrong(0.02, 0.0165));
        assert!(is_wrong(0.006, 0.224) && is_wrong(0.02, 0.015) && is_wrong(0.02, f64::NAN));
    }
}
