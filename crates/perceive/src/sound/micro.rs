//! The front end of TensorFlow Lite Micro's micro_speech, in whole numbers as microcontrollers compute it: every bit is the
//! same, so a network hears what it was trained on.
//!
//! A frame of 30 ms goes through a Hann window, is scaled up to use all of sixteen bits, transformed, summed in 40 triangles
//! on the mel scale, rooted, freed from steady noise, which is estimated from frame to frame, evened out by per-channel
//! amplitude normalisation (Wang, Getreuer, Hughes, Lyon and Saurous 2017, "Trainable Frontend For Robust and Far-Field
//! Keyword Spotting"), and its logarithm taken. Constants and the order of operations are those of the program's
//! `signal/src` and `examples/micro_speech/audio_preprocessor.py`; `testdata/sound/micro_speech.py` asks it what is right.
//! Where a sum does not fit its type there it wraps, and so it does here.

use std::f64::consts::{PI, TAU};

/// Samples of a frame, at 16,000 a second.
pub(super) const FRAME_LEN: usize = 480;
/// Bands.
const N_BANDS: usize = 40;
/// Samples of the transform: zeros follow a frame.
const FFT_LEN: usize = 512;
/// Real samples are transformed as half as many complex ones.
const N_COMPLEX: usize = FFT_LEN / 2;
/// Hertz from one bin to the next.
const HERTZ_PER_BIN: f32 = 16_000.0 / FFT_LEN as f32;
/// Hertz of the lowest band's lower edge and of the highest band's upper one.
const EDGES: (f32, f32) = (125.0, 7500.0);
/// Fractional bits of the window, and of the bands' weights.
const WEIGHT_BITS: u32 = 12;
/// Of the shares by which noise is estimated and taken away.
const NOISE_BITS: u32 = 14;
/// Of the estimate itself.
const SMOOTHING_BITS: u32 = 10;
/// How far an estimate follows each frame, in even and odd bands: 0.025 and 0.06.
const SMOOTHING: [u64; 2] = [409, 983];
/// What is left of a band at least: 0.05.
const LEAST_SIGNAL: u64 = 819;
/// Gain is (noise + offset)^-strength.
const STRENGTH: f32 = 0.95;
const OFFSET: f32 = 80.0;
/// Fractional bits of gain, and of the noise it depends on.
const GAIN_BITS: u32 = 21;
const GAIN_INPUT_BITS: u32 = 7;
/// Fractional bits of signal by noise, and of what comes of it.
const SNR_BITS: u32 = 12;
const OUTPUT_BITS: u32 = 6;
/// Signal times gain, to the former: a root has three bits less than it would have after a transform without scaling.
const SNR_SHIFT: u32 = GAIN_BITS - CORRECTION_BITS - SNR_BITS;
const CORRECTION_BITS: u32 = 3;
/// Fractional bits, and number, of the pieces that a logarithm is interpolated on.
const LOG_BITS: u32 = 16;
const N_LOG_PIECES: usize = 128;
/// Units of a feature in one of the natural logarithm.
const LOG_UNITS: u32 = 64;

/// Real and imaginary part.
type Complex = (i16, i16);

/// A bin's shares: in whole 4096ths, of the band that rises there, and of that before it, which falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// From 0; the highest one, which only falls, would be the 41st.
    band: usize,
    rising: u64,
    falling: u64,
}

/// Computes features frame by frame.
#[derive(Clone, Debug)]
pub(super) struct MicroFrontend {
    window: Vec<i16>,
    /// `[N_COMPLEX]` of the transform.
    twiddles: Vec<Complex>,
    /// `[N_COMPLEX / 2]` of what makes a transform of real samples of it.
    real_twiddles: Vec<Complex>,
    /// Of bins from `first_bin`.
    shares: Vec<Share>,
    first_bin: usize,
    /// Parabolas, four numbers each.
    gains: Vec<i16>,
    /// `[N_LOG_PIECES + 1]`: log2(1 + x) - x.
    logs: Vec<i32>,
    /// Steady noise in each band, with `SMOOTHING_BITS`.
    noise: [u32; N_BANDS],
}

impl MicroFrontend {
    pub(super) fn new() -> MicroFrontend {
        let hann = |i: usize| 0.5 - 0.5 * (TAU / FRAME_LEN as f64 * (i as f64 + 0.5)).cos();
        let (first_bin, shares) = shares();
        let log = |i: usize| {
            let x = i as f64 / N_LOG_PIECES as f64;
            (((1.0 + x).log2() - x) * f64::from(1 << LOG_BITS)).round() as i32
        };
        MicroFrontend {
            window: (0..FRAME_LEN).map(|i| (hann(i) * f64::from(1 << WEIGHT_BITS)).round() as i16).collect(),
            twiddles: (0..N_COMPLEX).map(|i| unit(-TAU * i as f64 / N_COMPLEX as f64)).collect(),
            real_twiddles: (1..=N_COMPLEX / 2)
                .map(|i| unit(-PI * (i as f64 / N_COMPLEX as f64 + 0.5)))
                .collect(),
            shares,
            first_bin,
            gains: gains(),
            logs: (0..=N_LOG_PIECES).map(log).collect(),
            noise: [0; N_BANDS],
        }
    }

    /// Features of a frame: 64 for one of the natural logarithm, mostly 0 to 670. The estimate of noise goes on from the
    /// frames before.
    ///
    /// # Panics
    /// If there are not as many samples as a frame has.
    pub(super) fn frame(&mut self, samples: impl ExactSizeIterator<Item = i16>) -> [i16; N_BANDS] {
        assert_eq!(samples.len(), FRAME_LEN);
        let mut windowed = [0i16; FFT_LEN];
        for ((out, x), weight) in windowed.iter_mut().zip(samples).zip(&self.window) {
            *out = ((i32::from(x) * i32::from(*weight)) >> WEIGHT_BITS) as i16;
        }
        let n_scale_bits = scale_up(&mut windowed);
        let spectrum = self.transform(&windowed);
        let mut sums = [0u64; N_BANDS + 2];
        for (share, (re, im)) in self.shares.iter().zip(&spectrum[self.first_bin..]) {
            let [re, im] = [re, im].map(|x| u64::from(x.unsigned_abs()));
            let energy = re * re + im * im;
            sums[share.band] += share.rising * energy;
            sums[share.band + 1] += share.falling * energy;
        }
        // The first sum is of what rises before the first band.
        std::array::from_fn(|band| {
            let signal = root(sums[band + 1]) >> n_scale_bits;
            let signal = self.take_noise(band, signal);
            let signal = self.even_out(band, signal);
            self.log(signal)
        })
    }

    /// `[N_COMPLEX + 1]` bins: Cooley and Tukey's transform with radix four, divided by its length on the way.
    fn transform(&self, samples: &[i16; FFT_LEN]) -> Vec<Complex> {
        let pairs = samples.as_chunks::<2>().0;
        // Samples go where the digits of their number to base four, read backwards, say.
        let reversed = |i: usize| (0..4).fold(0, |r, digit| r << 2 | (i >> (2 * digit) & 3));
        let mut values: Vec<Complex> =
            (0..N_COMPLEX).map(|i| (pairs[reversed(i)][0], pairs[reversed(i)][1])).collect();
        let mut len = 1;
        while len < N_COMPLEX {
            let stride = N_COMPLEX / (4 * len);
            for block in values.chunks_exact_mut(4 * len) {
                for i in 0..len {
                    let [a, b, c, d] = [0, 1, 2, 3].map(|k| divide(block[i + k * len], 4));
                    let [b, c, d] =
                        [(b, 1), (c, 2), (d, 3)].map(|(x, k)| multiply(x, self.twiddles[k * i * stride]));
                    let (even, odd) = (add(a, c), subtract(a, c));
                    let (sum, difference) = (add(b, d), subtract(b, d));
                    // Times -i.
                    let turned = (difference.1, difference.0.wrapping_neg());
                    block[i] = add(even, sum);
                    block[i + len] = add(odd, turned);
                    block[i + 2 * len] = subtract(even, sum);
                    block[i + 3 * len] = subtract(odd, turned);
                }
            }
            len *= 4;
        }
        let mut bins = vec![(0, 0); N_COMPLEX + 1];
        let (re, im) = divide(values[0], 2);
        bins[0] = (re.wrapping_add(im), 0);
        bins[N_COMPLEX] = (re.wrapping_sub(im), 0);
        let half = |x: i32| (x >> 1) as i16;
        for k in 1..=N_COMPLEX / 2 {
            let (re, im) = values[N_COMPLEX - k];
            let (a, b) = (divide(values[k], 2), divide((re, im.wrapping_neg()), 2));
            let sum = add(a, b);
            let turned = multiply(subtract(a, b), self.real_twiddles[k - 1]);
            let [sum, turned] = [sum, turned].map(|(re, im)| (i32::from(re), i32::from(im)));
            bins[k] = (half(sum.0 + turned.0), half(sum.1 + turned.1));
            bins[N_COMPLEX - k] = (half(sum.0 - turned.0), half(turned.1 - sum.1));
        }
        bins
    }

    fn take_noise(&mut self, band: usize, signal: u32) -> u32 {
        let share = SMOOTHING[band % 2];
        let scaled = signal << SMOOTHING_BITS;
        let noise = &mut self.noise[band];
        *noise = ((u64::from(scaled) * share + u64::from(*noise) * ((1 << NOISE_BITS) - share)) >> NOISE_BITS)
            as u32;
        let least = (u64::from(signal) * LEAST_SIGNAL) >> NOISE_BITS;
        (scaled.saturating_sub(*noise) >> SMOOTHING_BITS).max(least as u32)
    }

    fn even_out(&self, band: usize, signal: u32) -> u32 {
        let gain = self.gain(self.noise[band]);
        let snr = ((u64::from(signal) * gain as u64) >> SNR_SHIFT) as u32;
        if snr < 2 << SNR_BITS {
            (snr * snr) >> (2 + 2 * SNR_BITS - OUTPUT_BITS)
        } else {
            (snr >> (SNR_BITS - OUTPUT_BITS)) - (1 << OUTPUT_BITS)
        }
    }

    /// A parabola for each power of two.
    fn gain(&self, noise: u32) -> i16 {
        if noise <= 2 {
            return self.gains[noise as usize];
        }
        let n_bits = u32::BITS - noise.leading_zeros();
        let at = 4 * n_bits as usize - 6;
        let [start, slope, bend] = [0, 1, 2].map(|i| i32::from(self.gains[at + i]));
        let shifted = if n_bits < 11 { noise << (11 - n_bits) } else { noise >> (n_bits - 11) };
        let x = (shifted & 0x3ff) as i32;
        let change = (((bend * x) >> 5) + (slope << 5)) * x;
        (((change + (1 << 14)) >> 15) + start) as i16
    }

    fn log(&self, signal: u32) -> i16 {
        let signal = signal << CORRECTION_BITS;
        if signal <= 1 {
            return 0;
        }
        let exponent = signal.ilog2();
        let fraction = signal - (1 << exponent);
        let fraction = if exponent < LOG_BITS {
            fraction << (LOG_BITS - exponent)
        } else {
            fraction >> (exponent - LOG_BITS)
        };
        let piece_len = (1 << LOG_BITS) / N_LOG_PIECES;
        let (piece, rest) = (fraction as usize / piece_len, fraction as usize % piece_len);
        let rise = ((self.logs[piece + 1] - self.logs[piece]) * rest as i32) >> LOG_BITS;
        let log2 = (exponent << LOG_BITS) + fraction.wrapping_add_signed(self.logs[piece] + rise);
        let half = 1 << (LOG_BITS - 1);
        // The natural logarithm of 2.
        let log = ((45426 * u64::from(log2) + half) >> LOG_BITS) as u32;
        ((LOG_UNITS * log + half as u32) >> LOG_BITS).min(i16::MAX as u32) as i16
    }
}

/// A point on the unit circle.
fn unit(angle: f64) -> Complex {
    let part = |x: f64| (0.5 + f64::from(i16::MAX) * x).floor() as i16;
    (part(angle.cos()), part(angle.sin()))
}

fn round_product(x: i32) -> i16 {
    ((x + (1 << 14)) >> 15) as i16
}

fn multiply(a: Complex, b: Complex) -> Complex {
    let product = |x: i16, y: i16| i32::from(x) * i32::from(y);
    (
        round_product(product(a.0, b.0) - product(a.1, b.1)),
        round_product(product(a.0, b.1) + product(a.1, b.0)),
    )
}

fn divide(a: Complex, by: i16) -> Complex {
    let share = i32::from(i16::MAX / by);
    (round_product(i32::from(a.0) * share), round_product(i32::from(a.1) * share))
}

fn add(a: Complex, b: Complex) -> Complex {
    (a.0.wrapping_add(b.0), a.1.wrapping_add(b.1))
}

fn subtract(a: Complex, b: Complex) -> Complex {
    (a.0.wrapping_sub(b.0), a.1.wrapping_sub(b.1))
}

/// Shifts samples as far as the largest allows, and says how far.
fn scale_up(samples: &mut [i16]) -> u32 {
    let mut largest = 0i16;
    for x in samples.iter().copied() {
        // The lowest number has no opposite: it wraps to itself, below every other, and the search begins anew.
        if x > largest {
            largest = x;
        } else if -i32::from(x) > i32::from(largest) {
            largest = x.wrapping_neg();
        }
    }
    let n_bits = match largest {
        0 => 0,
        largest => (largest as u16).leading_zeros().saturating_sub(1),
    };
    samples.iter_mut().for_each(|x| *x <<= n_bits);
    n_bits
}

/// Rounded, but for the two largest.
fn root(x: u64) -> u32 {
    let floor = x.isqrt();
    let largest = if x >> 32 == 0 { u64::from(u16::MAX) } else { u64::from(u32::MAX) };
    (floor + u64::from(x - floor * floor > floor && floor != largest)) as u32
}

/// HTK's scale of pitch, in single precision.
fn mel(hertz: f32) -> f32 {
    1127.0 * (f64::from(hertz / 700.0).ln_1p() as f32)
}

/// The first bin, and the shares of those from it on.
fn shares() -> (usize, Vec<Share>) {
    let (low, high) = (mel(EDGES.0), mel(EDGES.1));
    let spacing = (high - low) / (N_BANDS + 1) as f32;
    let centre = |band: usize| low + spacing * (band + 1) as f32;
    let first = 1 + (EDGES.0 / HERTZ_PER_BIN).round() as usize;
    let mut shares = Vec::new();
    let mut band = 0;
    for bin in first.. {
        let pitch = mel(bin as f32 * HERTZ_PER_BIN);
        while band <= N_BANDS && pitch > centre(band) {
            band += 1;
        }
        if band > N_BANDS {
            break;
        }
        let before = if band == 0 { low } else { centre(band - 1) };
        let falling = (centre(band) - pitch) / (centre(band) - before);
        let whole = |share: f32| (share * (1 << WEIGHT_BITS) as f32) as u64;
        shares.push(Share { band, rising: whole(falling), falling: whole(1.0 - falling) });
    }
    (first, shares)
}

/// Of noise 0, of 1, and for each further power of two where its parabola begins, how it goes on, and a zero.
fn gains() -> Vec<i16> {
    let gain = |noise: u32| {
        let noise = noise as f32 / (1 << GAIN_INPUT_BITS) as f32;
        let power = f64::from(noise + OFFSET).powf(f64::from(-STRENGTH)) as f32;
        // Larger ones become the largest.
        ((1 << GAIN_BITS) as f32 * power + 0.5) as i16
    };
    let mut gains = vec![gain(0), gain(1)];
    for n_bits in 2..=u32::BITS {
        let from = 1u32 << (n_bits - 1);
        let to = from.saturating_mul(2);
        let [start, middle, end] = [from, from + from / 2, to].map(|x| i32::from(gain(x)));
        let slope = 4 * (middle - start) - (end - start);
        gains.extend([start as i16, slope as i16, (end - start - slope) as i16, 0]);
    }
    gains
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_as_they_are_known() {
        let front_end = MicroFrontend::new();
        assert_eq!(
            (front_end.window[0], front_end.window[240], front_end.twiddles[64]),
            (0, 4096, (0, -32767))
        );
        assert_eq!((front_end.first_bin, front_end.shares.len()), (5, 236));
        // Shares of a bin are all of it, but for rounding.
        assert!(front_end.shares.iter().all(|share| (4095..=4096).contains(&(share.rising + share.falling))));
        assert_eq!(front_end.logs[..4], [0, 224, 442, 654]);
        assert_eq!(front_end.gains.len(), 4 * 32 - 2);
    }

    #[test]
    fn a_tone_is_in_its_band() {
        let mut front_end = MicroFrontend::new();
        let tone = (0..FRAME_LEN).map(|i| (8000.0 * (TAU * 1000.0 * i as f64 / 16_000.0).sin()) as i16);
        let features = front_end.frame(tone.collect::<Vec<_>>().into_iter());
        let loudest = (0..N_BANDS).max_by_key(|band| features[*band]).unwrap();
        let centre = |band: usize| {
            let (low, high) = (mel(EDGES.0), mel(EDGES.1));
            700.0 * (((low + (high - low) * (band + 1) as f32 / 41.0) / 1127.0).exp() - 1.0)
        };
        assert!((centre(loudest) - 1000.0).abs() < 100.0, "{loudest}: {features:?}");
        assert_eq!(MicroFrontend::new().frame([0; FRAME_LEN].into_iter()), [0; N_BANDS]);
    }
}
