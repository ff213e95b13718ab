//! Alarms: on above one threshold, off only after a while below a lower one.

/// What a score changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The alarm goes on.
    Raised,
    /// It goes off.
    Cleared,
}

/// An alarm with hysteresis.
#[derive(Clone, Debug)]
pub struct Alarm {
    on: f64,
    off: f64,
    calm: usize,
    /// Scores below `off` since the last above it; `None` while it is off.
    n_calm: Option<usize>,
}

impl Alarm {
    /// On at a score of `on` and above; off after `calm` scores in a row below `off`.
    ///
    /// # Panics
    /// If `off` is above `on`.
    pub fn new(on: f64, off: f64, calm: usize) -> Alarm {
        assert!(off <= on, "an alarm goes off below where it goes on");
        Alarm { on, off, calm, n_calm: None }
    }

    /// Takes the next score.
    pub fn update(&mut self, score: f64) -> Change {
        match self.n_calm {
            None if score >= self.on => {
                self.n_calm = Some(0);
                Change::Raised
            }
            None => Change::None,
            Some(_) if score >= self.off => {
                self.n_calm = Some(0);
                Change::None
            }
            Some(n) if n + 1 >= self.calm => {
                self.n_calm = None;
                Change::Cleared
            }
            Some(n) => {
                self.n_calm = Some(n + 1);
                Change::None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_does_not_flutter() {
        let mut alarm = Alarm::new(5.0, 3.0, 2);
        let scores = [4.9, 5.0, 9.0, 2.0, 4.0, 2.0, 2.9, 1.0, 6.0];
        let changes = scores.map(|score| alarm.update(score));
        use Change::{Cleared, None, Raised};
        assert_eq!(changes, [None, Raised, None, None, None, None, Cleared, None, Raised]);
    }
}
