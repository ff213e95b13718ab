//! What follows a layer's sums: bias and bounds in one pass, and the rounding that eight bits will do.
//!
//! Rounding has no derivative. The straight-through estimator passes gradients as if there were no rounding, and none where
//! a value is cut off (Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons"; Jacob et al.
//! 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference").

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::windows::floats;

/// Sums `[.., channels]` plus a bias `[channels]`, kept between two bounds.
pub struct Finish {
    /// The least and the largest result.
    pub range: (f32, f32),
}

impl CustomOp2 for Finish {
    fn name(&self) -> &'static str {
        "finish"
    }

    fn cpu_fwd(
        &self,
        sums: &CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (sums, bias) = (floats(sums, layout)?, floats(bias, bias_layout)?);
        let mut outputs = Vec::with_capacity(sums.len());
        for pixel in sums.chunks_exact(bias.len()) {
            outputs.extend(pixel.iter().zip(bias).map(|(x, b)| (x + b).clamp(self.range.0, self.range.1)));
        }
        Ok((CpuStorage::F32(outputs), layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        bias: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?.apply_op2_no_bwd(result, &Inside(self.range))?;
        let of_bias = gradient.apply_op1_no_bwd(&ColumnSums(bias.elem_count()))?;
        Ok((Some(gradient), Some(of_bias)))
    }
}

/// Gradients where results lie between two bounds, else 0.
struct Inside((f32, f32));

impl CustomOp2 for Inside {
    fn name(&self) -> &'static str {
        "inside"
    }

    fn cpu_fwd(
        &self,
        gradient: &CpuStorage,
        layout: &Layout,
        result: &CpuStorage,
        result_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gradient, result) = (floats(gradient, layout)?, floats(result, result_layout)?);
        let (low, high) = self.0;
        let kept = |(g, x): (&f32, &f32)| if *x > low && *x < high { *g } else { 0.0 };
        Ok((CpuStorage::F32(gradient.iter().zip(result).map(kept).collect()), layout.shape().clone()))
    }
}

/// `[.., columns]` to `[columns]`.
struct ColumnSums(usize);

impl CustomOp1 for ColumnSums {
    fn name(&self) -> &'static str {
        "column-sums"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut sums = vec![0f32; self.0];
        for row in floats(storage, layout)?.chunks_exact(self.0) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        Ok((CpuStorage::F32(sums), self.0.into()))
    }
}

/// How far below a half is a half still, after a multiplication by a scale and a division.
const HALF_SLACK: f32 = 1e-4;

/// Activations as eight bits hold them: `scale * (q - zero)`, q from -128 to 127.
#[derive(Clone, Copy)]
pub struct RoundActivations {
    /// Above 0.
    pub scale: f32,
    /// -128 to 127.
    pub zero: i32,
}

impl CustomOp1 for RoundActivations {
    fn name(&self) -> &'static str {
        "round-activations"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let zero = self.zero as f32;
        let round = |x: &f32| {
            let q = x / self.scale + zero;
            // Halves, of which means of whole numbers are many, away from 0, whatever dividing by the scale has done to them.
            (q + HALF_SLACK.copysign(q)).round().clamp(-128.0, 127.0)
        };
        let rounded = floats(storage, layout)?.iter().map(|x| self.scale * (round(x) - zero));
        Ok((CpuStorage::F32(rounded.collect()), layout.shape().clone()))
    }

    fn bwd(&self, values: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let bound = |q: f32| self.scale * (q - self.zero as f32);
        let inside = Inside((bound(-128.5), bound(127.5)));
        gradient.contiguous()?.apply_op2_no_bwd(&values.contiguous()?, &inside).map(Some)
    }
}

/// Weights as eight bits hold them: by channel, symmetric, as far as the channel's largest reaches.
pub struct RoundWeights {
    /// Elements from one channel to the next.
    pub n_inner: usize,
    /// Channels.
    pub n: usize,
    /// The largest weight's number.
    pub steps: f32,
}

impl CustomOp1 for RoundWeights {
    fn name(&self) -> &'static str {
        "round-weights"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let weights = floats(storage, layout)?;
        let channel = |i: usize| i / self.n_inner % self.n;
        let mut scales = vec![0f32; self.n];
        for (i, weight) in weights.iter().enumerate() {
            scales[channel(i)] = scales[channel(i)].max(weight.abs() / self.steps);
        }
        scales.iter_mut().filter(|scale| **scale < f32::MIN_POSITIVE).for_each(|scale| *scale = 1.0);
        let round = |(i, weight): (usize, &f32)| {
            let scale = scales[channel(i)];
            scale * (weight / scale).round().clamp(-self.steps, self.steps)
        };
        let rounded = weights.iter().enumerate().map(round).collect();
        Ok((CpuStorage::F32(rounded), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(gradient.clone()))
    }
}
