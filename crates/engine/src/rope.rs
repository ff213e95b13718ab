//! Angles of the rotary position embedding (Su et al. 2021, arXiv:2104.09864).

use edgeward_model::config::{Rope, RopeScaling};

/// Cosines and sines of every position so far, computed when first needed.
pub(crate) struct RopeTable {
    /// Radians per position, one for each pair of coordinates.
    frequencies: Vec<f32>,
    /// `[n_positions][2][rotary_dim / 2]`: cosines, then sines.
    angles: Vec<f32>,
}

impl RopeTable {
    /// The table of global layers, or of sliding-window ones.
    pub fn new(rope: &Rope, is_local: bool) -> RopeTable {
        let theta = if is_local { rope.theta_local } else { rope.theta };
        let half = rope.rotary_dim / 2;
        let base = (0..half).map(|i| {
            // As the models were trained: the power, and each angle, rounded to f32.
            (1.0 / f64::from(theta).powf(2.0 * i as f64 / rope.rotary_dim as f64)) as f32
        });
        let frequencies = if is_local {
            base.collect()
        } else {
            base.enumerate().map(|(i, frequency)| scale(&rope.scaling, i, frequency)).collect()
        };
        RopeTable { frequencies, angles: Vec::new() }
    }

    /// Appends the angles of `positions` to `out`.
    pub fn extend(&mut self, positions: std::ops::Range<usize>, out: &mut Vec<f32>) {
        let row_len = 2 * self.frequencies.len();
        for pos in self.angles.len() / row_len.max(1)..positions.end {
            let angle = |frequency: &f32| f64::from(pos as f32 * frequency);
            self.angles.extend(self.frequencies.iter().map(|f| angle(f).cos() as f32));
            self.angles.extend(self.frequencies.iter().map(|f| angle(f).sin() as f32));
        }
        out.extend_from_slice(&self.angles[positions.start * row_len..positions.end * row_len]);
    }
}

fn scale(scaling: &RopeScaling, i: usize, frequency: f32) -> f32 {
    match *scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::PerFrequency(ref factors) => frequency / factors[i],
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_len } => {
            let context = original_context_len as f32;
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            if wavelength < context / high_freq_factor {
                frequency
            } else if wavelength > context / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeward_model::config::RopeLayout;

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { theta: 10_000.0, theta_local: 100.0, rotary_dim: 8, layout: RopeLayout::Halves, scaling }
    }

    #[test]
    fn frequencies_are_a_geometric_series() {
        let table = RopeTable::new(&rope(RopeScaling::None), false);
        assert_eq!(table.frequencies, [1.0, 0.1, 0.01, 0.001]);
        let local = RopeTable::new(&rope(RopeScaling::Linear { factor: 4.0 }), true);
        assert_eq!(local.frequencies[2], 0.1);
        let factors = vec![1.0, 2.0, 4.0, 8.0];
        let scaled = RopeTable::new(&rope(RopeScaling::PerFrequency(factors)), false);
        assert_eq!(scaled.frequencies[3], 0.001 / 8.0);
    }

    #[test]
    fn llama_3_scaling_keeps_short_waves_and_stretches_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context_len: 1000,
        };
        let table = RopeTable::new(&rope(scaling), false);
        assert_eq!(table.frequencies[0], 1.0);
        assert_eq!(table.frequencies[3], 0.001 / 8.0);
        // Wavelength 628.3 of 1000: smooth = (1.5915 - 1) / 3.
        let smooth = (1000.0 * 0.01 / (2.0 * std::f32::consts::PI) - 1.0) / 3.0;
        let expected = 0.01 / 8.0 * (1.0 - smooth) + 0.01 * smooth;
        assert!((table.frequencies[2] - expected).abs() < 1e-8);
    }

    #[test]
    fn positions_may_come_in_any_order() {
        let mut table = RopeTable::new(&rope(RopeScaling::None), false);
        let (mut late, mut early) = (Vec::new(), Vec::new());
        table.extend(5..7, &mut late);
        table.extend(0..7, &mut early);
        assert_eq!(early[5 * 8..], late);
        assert_eq!(early[..8], [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
