//! What a student is to be taught: the teacher's probabilities, its certainties, the right classes, or a mix of these.

use candle_core::{D, Device, Tensor};

use super::Error;
use super::model::log_softmax;

/// Weights of the parts of a loss; what weighs 0 is not computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Of `sum (P_e - P)^2`, P being the teacher's outputs and `P_e` the student's: of probabilities, or of whatever numbers
    /// a network without a softmax gives.
    pub squared: f64,
    /// Of the Kullback-Leibler divergence of the student's probabilities from the teacher's, both at `temperature`, times
    /// the temperature's square, so that gradients stay of one size (Hinton et al. 2015, "Distilling the Knowledge in a
    /// Neural Network").
    pub kl: f64,
    /// Of the cross-entropy of the right classes.
    pub hard: f64,
    /// By which logits are divided in `kl`; above 1 lets small probabilities count more.
    pub temperature: f64,
}

impl Loss {
    /// Squared differences from the teacher's outputs.
    pub const SQUARED: Loss = Loss { squared: 1.0, kl: 0.0, hard: 0.0, temperature: 1.0 };
    /// The divergence from the teacher, at temperature 4.
    pub const KL: Loss = Loss { squared: 0.0, kl: 1.0, hard: 0.0, temperature: 4.0 };
    /// The right classes: training without a teacher.
    pub const HARD: Loss = Loss { squared: 0.0, kl: 0.0, hard: 1.0, temperature: 1.0 };

    /// Whether there must be a teacher.
    pub fn needs_teacher(&self) -> bool {
        self.squared > 0.0 || self.kl > 0.0
    }

    /// Whether there must be right classes.
    pub fn needs_labels(&self) -> bool {
        self.hard > 0.0
    }
}

/// `(P_e - P)^2`, element by element: what the squared loss adds up.
///
/// For the teacher's P = [.5, .3, .2] and the student's P_e = [.6, .3, .1] that is [.01, 0, .01], in sum .02. (The article
/// in which this example is found has other numbers there; they are wrong.)
pub fn squared_errors(student: &[f32], teacher: &[f32]) -> Vec<f32> {
    student.iter().zip(teacher).map(|(e, p)| (e - p).powi(2)).collect()
}

/// What examples of a batch should give.
pub struct Targets<'a> {
    /// Of each example, what the teacher gives before its softmax, times that one's factor.
    pub logits: Option<Vec<&'a [f32]>>,
    /// Of each example, what it gives.
    pub outputs: Option<Vec<&'a [f32]>>,
    /// Of each example, the right class.
    pub labels: Option<Vec<usize>>,
}

/// `[examples, outputs]`.
fn rows(rows: &[&[f32]]) -> Result<Tensor, Error> {
    let width = rows.first().map_or(0, |row| row.len());
    Ok(Tensor::from_vec(rows.concat(), (rows.len(), width), &Device::Cpu)?)
}

impl Loss {
    /// The mean over a batch. `logits` are the student's, `[examples, classes]`; `has_softmax` says whether its outputs are
    /// their softmax.
    pub(super) fn of(
        &self,
        logits: &Tensor,
        has_softmax: bool,
        targets: &Targets<'_>,
    ) -> Result<Tensor, Error> {
        let n = logits.dim(0)? as f64;
        let mut sum = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?;
        if let Some(teacher) = targets.outputs.as_ref().filter(|_| self.squared > 0.0) {
            let student = if has_softmax { log_softmax(logits)?.exp()? } else { logits.clone() };
            let squared = (student - rows(teacher)?)?.sqr()?.sum_all()?;
            sum = (sum + (squared * (self.squared / n))?)?;
        }
        if let Some(teacher) = targets.logits.as_ref().filter(|_| self.kl > 0.0) {
            let soft = 1.0 / self.temperature;
            let teacher = log_softmax(&(rows(teacher)? * soft)?)?;
            let student = log_softmax(&(logits * soft)?)?;
            let divergence = (teacher.exp()? * (teacher - student)?)?.sum_all()?;
            sum = (sum + (divergence * (self.kl * self.temperature.powi(2) / n))?)?;
        }
        if let Some(labels) = targets.labels.as_ref().filter(|_| self.hard > 0.0) {
            let n_classes = logits.dim(D::Minus1)?;
            let mut chosen = vec![0f32; labels.len() * n_classes];
            labels.iter().enumerate().for_each(|(i, label)| chosen[i * n_classes + label] = 1.0);
            let chosen = Tensor::from_vec(chosen, (labels.len(), n_classes), &Device::Cpu)?;
            let likelihood = (log_softmax(logits)? * chosen)?.sum_all()?;
            sum = (sum - (likelihood * (self.hard / n))?)?;
        }
        Ok(sum)
    }
}
