//! Anomalies in streams of measurements: a score for each value as it comes, and alarms from scores.
//!
//! A [`Detector`] sees one value after the other and keeps a bounded window of the past; it never looks ahead. Scores
//! say how unusual a value is, each detector on a scale of its own. [`Peaks`] lets only the largest score of a while
//! through, so that one disturbance is one event; [`Alarm`] turns scores into alarms with hysteresis.

mod alarm;
mod detectors;
pub mod nab;
mod window;

pub use alarm::{Alarm, Change};
pub use detectors::{Ewma, Peaks, RobustZ, Settled, WindowedGaussian};

/// Says how unusual each value of a stream is.
pub trait Detector {
    /// The score of the next value, at least 0; larger is more unusual. `value` is finite.
    fn score(&mut self, value: f64) -> f64;
}

impl<D: Detector + ?Sized> Detector for Box<D> {
    fn score(&mut self, value: f64) -> f64 {
        (**self).score(value)
    }
}
