//! Windows over images, forward and backward: what candle lacks for images with their channels last.
//!
//! Candle convolves images with their channels first, and the graph here has them last, as the devices do. So a
//! convolution is a copy of its windows ([`Patches`]) times its weights, whose derivative candle knows; the copy's own is
//! the sum of what goes back to each pixel. Depthwise convolutions ([`Depthwise`]) and pooling ([`Pooled`]) are loops over
//! the same windows. All tensors are floats `[images, rows, columns, channels]`.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// Where windows lie on images; pairs are vertical, horizontal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Images.
    pub n: usize,
    /// Rows and columns of an image.
    pub image: [usize; 2],
    /// Of an image.
    pub channels: usize,
    /// Rows and columns of a window.
    pub size: [usize; 2],
    /// From one window to the next.
    pub stride: [usize; 2],
    /// Distance of neighbours in a window.
    pub dilation: [usize; 2],
    /// Rows above and columns left of the image.
    pub before: [usize; 2],
    /// How many windows there are.
    pub positions: [usize; 2],
}

impl Windows {
    /// Pixels of a window.
    pub fn len(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Calls `f` for each pixel of each window that lies on the image: index of the window, of the pixel in the window,
    /// and of the pixel in all images.
    #[inline(always)]
    fn each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let [rows, columns] = self.image;
        let at = |axis: usize, position: usize, tap: usize| {
            (position * self.stride[axis] + tap * self.dilation[axis]).wrapping_sub(self.before[axis])
        };
        let mut window = 0;
        for image in 0..self.n {
            for y in 0..self.positions[0] {
                for x in 0..self.positions[1] {
                    for row_tap in 0..self.size[0] {
                        let row = at(0, y, row_tap);
                        // What lies before the image has wrapped around.
                        if row >= rows {
                            continue;
                        }
                        for column_tap in 0..self.size[1] {
                            let column = at(1, x, column_tap);
                            if column < columns {
                                let tap = row_tap * self.size[1] + column_tap;
                                f(window, tap, (image * rows + row) * columns + column);
                            }
                        }
                    }
                    window += 1;
                }
            }
        }
    }

    fn n_windows(&self) -> usize {
        self.n * self.positions[0] * self.positions[1]
    }

    fn image_shape(&self) -> Shape {
        (self.n, self.image[0], self.image[1], self.channels).into()
    }

    fn output_shape(&self, channels: usize) -> Shape {
        (self.n, self.positions[0], self.positions[1], channels).into()
    }
}

/// The floats of a contiguous tensor.
pub fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a tensor that is not contiguous") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// Images as rows of their windows: `[windows, pixels of a window * channels]`, 0 outside of the image.
pub struct Patches(pub Windows);

impl CustomOp1 for Patches {
    fn name(&self) -> &'static str {
        "patches"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (windows, images) = (self.0, floats(storage, layout)?);
        let channels = windows.channels;
        let row_len = windows.len() * channels;
        let mut rows = vec![0f32; windows.n_windows() * row_len];
        windows.each(|window, tap, pixel| {
            let to = &mut rows[window * row_len + tap * channels..][..channels];
            to.copy_from_slice(&images[pixel * channels..][..channels]);
        });
        Ok((CpuStorage::F32(rows), (windows.n_windows(), row_len).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.contiguous()?.apply_op1_no_bwd(&Spread(self.0)).map(Some)
    }
}

/// The reverse: what belongs to one pixel is added up.
struct Spread(Windows);

impl CustomOp1 for Spread {
    fn name(&self) -> &'static str {
        "spread"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (windows, rows) = (self.0, floats(storage, layout)?);
        let channels = windows.channels;
        let row_len = windows.len() * channels;
        let mut images = vec![0f32; windows.image_shape().elem_count()];
        windows.each(|window, tap, pixel| {
            let from = &rows[window * row_len + tap * channels..][..channels];
            add(&mut images[pixel * channels..][..channels], from);
        });
        Ok((CpuStorage::F32(images), windows.image_shape()))
    }
}

/// Each channel by its own windows: images and weights `[rows, columns, channels * multiplier]`.
#[derive(Clone, Copy)]
pub struct Depthwise {
    /// Over the images.
    pub windows: Windows,
    /// Output channels for each input channel.
    pub multiplier: usize,
}

impl Depthwise {
    fn n_outputs(&self) -> usize {
        self.windows.channels * self.multiplier
    }

    /// Calls `f` with indices of an output, a weight and an input that belong together.
    #[inline(always)]
    fn each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let (channels, n) = (self.windows.channels, self.n_outputs());
        self.windows.each(|window, tap, pixel| {
            for channel in 0..channels {
                for m in 0..self.multiplier {
                    let output = channel * self.multiplier + m;
                    f(window * n + output, tap * n + output, pixel * channels + channel);
                }
            }
        });
    }
}

impl CustomOp2 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(
        &self,
        images: &CpuStorage,
        images_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (images, weights) = (floats(images, images_layout)?, floats(weights, weights_layout)?);
        let shape = self.windows.output_shape(self.n_outputs());
        let mut outputs = vec![0f32; shape.elem_count()];
        self.each(|output, weight, input| outputs[output] += weights[weight] * images[input]);
        Ok((CpuStorage::F32(outputs), shape))
    }

    fn bwd(
        &self,
        images: &Tensor,
        weights: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let of_images =
            gradient.apply_op2_no_bwd(weights, &DepthwiseBack { forward: *self, of_images: true })?;
        let of_weights =
            gradient.apply_op2_no_bwd(images, &DepthwiseBack { forward: *self, of_images: false })?;
        Ok((Some(of_images), Some(of_weights.reshape(weights.shape())?)))
    }
}

/// What a depthwise convolution's gradient is to its images, given its weights, or the other way round.
struct DepthwiseBack {
    forward: Depthwise,
    of_images: bool,
}

impl CustomOp2 for DepthwiseBack {
    fn name(&self) -> &'static str {
        "depthwise-back"
    }

    fn cpu_fwd(
        &self,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        other: &CpuStorage,
        other_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gradient, other) = (floats(gradient, gradient_layout)?, floats(other, other_layout)?);
        let Depthwise { windows, .. } = self.forward;
        let shape = if self.of_images {
            windows.image_shape()
        } else {
            (windows.len(), self.forward.n_outputs()).into()
        };
        let mut result = vec![0f32; shape.elem_count()];
        if self.of_images {
            self.forward.each(|output, weight, input| result[input] += gradient[output] * other[weight]);
        } else {
            self.forward.each(|output, weight, input| result[weight] += gradient[output] * other[input]);
        }
        Ok((CpuStorage::F32(result), shape))
    }
}

/// How a window's pixels become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The largest.
    Max,
    /// The mean of those on the image.
    Mean,
}

/// Windows of each channel as one.
#[derive(Clone, Copy)]
pub struct Pooled {
    /// Over the images.
    pub windows: Windows,
    /// How.
    pub pooling: Pooling,
}

impl Pooled {
    /// How many pixels of each window are on the image.
    fn counts(&self) -> Vec<f32> {
        let mut counts = vec![0f32; self.windows.n_windows()];
        self.windows.each(|window, _, _| counts[window] += 1.0);
        counts
    }
}

impl CustomOp1 for Pooled {
    fn name(&self) -> &'static str {
        "pooled"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (windows, images) = (self.windows, floats(storage, layout)?);
        let channels = windows.channels;
        let shape = windows.output_shape(channels);
        let start = if self.pooling == Pooling::Max { f32::NEG_INFINITY } else { 0.0 };
        let mut outputs = vec![start; shape.elem_count()];
        windows.each(|window, _, pixel| {
            let output = &mut outputs[window * channels..][..channels];
            let input = &images[pixel * channels..][..channels];
            match self.pooling {
                Pooling::Max => output.iter_mut().zip(input).for_each(|(a, b)| *a = a.max(*b)),
                Pooling::Mean => add(output, input),
            }
        });
        if self.pooling == Pooling::Mean {
            for (output, count) in outputs.chunks_exact_mut(channels).zip(self.counts()) {
                output.iter_mut().for_each(|x| *x /= count);
            }
        }
        Ok((CpuStorage::F32(outputs), shape))
    }

    fn bwd(&self, images: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.contiguous()?.apply_op2_no_bwd(images, &PooledBack(*self)).map(Some)
    }
}

/// The largest pixel gets a window's gradient, the first of equals; of a mean, each its share.
struct PooledBack(Pooled);

impl CustomOp2 for PooledBack {
    fn name(&self) -> &'static str {
        "pooled-back"
    }

    fn cpu_fwd(
        &self,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        images: &CpuStorage,
        images_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gradient, images) = (floats(gradient, gradient_layout)?, floats(images, images_layout)?);
        let Pooled { windows, pooling } = self.0;
        let channels = windows.channels;
        let mut result = vec![0f32; images.len()];
        match pooling {
            Pooling::Max => {
                // For each output, where its largest input is.
                let mut largest = vec![usize::MAX; gradient.len()];
                windows.each(|window, _, pixel| {
                    for channel in 0..channels {
                        let (best, input) =
                            (&mut largest[window * channels + channel], pixel * channels + channel);
                        if *best == usize::MAX || images[input] > images[*best] {
                            *best = input;
                        }
                    }
                });
                for (at, gradient) in largest.into_iter().zip(gradient) {
                    // A window that lies wholly outside has none.
                    if at != usize::MAX {
                        result[at] += gradient;
                    }
                }
            }
            Pooling::Mean => {
                let counts = self.0.counts();
                windows.each(|window, _, pixel| {
                    let from = &gradient[window * channels..][..channels];
                    let to = &mut result[pixel * channels..][..channels];
                    to.iter_mut().zip(from).for_each(|(to, from)| *to += from / counts[window]);
                });
            }
        }
        Ok((CpuStorage::F32(result), windows.image_shape()))
    }
}
