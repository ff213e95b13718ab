//! Every kernel at odd shapes, on every instruction set of this CPU, with one thread and several, against plain loops.

use super::*;
use crate::isa::Isa;
use crate::linear::tests::Rng;
use crate::pool::Pool;

/// Height, width, channels in, channels out; window; extra elements between rows of the input, of the output.
type Case = (usize, usize, usize, usize, Window, usize, usize);

const ROUNDINGS: [Rounding; 3] = [Rounding::Float, Rounding::FixedPoint, Rounding::FixedPointOnce];

fn window(size: [usize; 2], stride: [usize; 2], dilation: [usize; 2]) -> Window {
    Window { size, stride, dilation }
}

/// Shapes at which something changes: tiles of 16 channels, blocks of 64, pixels by 1 to 16, work for several threads.
fn cases() -> Vec<Case> {
    let three = window([3, 3], [1, 1], [1, 1]);
    vec![
        (1, 1, 1, 1, Window::POINT, 0, 0),
        (1, 1, 7, 130, Window::POINT, 0, 0),
        (1, 1, 300, 1100, Window::POINT, 0, 0),
        (5, 3, 8, 16, Window::POINT, 0, 0),
        (25, 5, 64, 64, Window::POINT, 0, 0),
        (40, 40, 17, 33, Window::POINT, 0, 0),
        (12, 13, 5, 17, Window::POINT, 3, 5),
        (6, 7, 3, 8, three, 0, 0),
        (34, 34, 16, 16, three, 0, 32),
        (10, 10, 32, 48, three, 8, 0),
        (9, 11, 3, 10, window([3, 3], [2, 2], [1, 1]), 0, 0),
        (30, 12, 1, 64, window([10, 4], [2, 2], [1, 1]), 0, 0),
        (9, 9, 4, 20, window([3, 2], [1, 2], [2, 3]), 0, 7),
        (17, 1, 40, 40, window([15, 1], [1, 1], [1, 1]), 0, 0),
    ]
}

/// For depthwise windows: the same, and channels that divide a block.
fn depthwise_cases() -> Vec<Case> {
    let three = window([3, 3], [1, 1], [1, 1]);
    let two = window([3, 3], [2, 2], [1, 1]);
    let mut all: Vec<Case> = cases().into_iter().filter(|case| case.2 < 300).collect();
    for channels in [1, 2, 8, 16, 24, 32, 64, 100, 128, 200] {
        all.push((9, 10, channels, channels, three, 0, 0));
        all.push((9, 10, channels, channels, two, 5, 3));
    }
    all.push((50, 50, 8, 8, three, 0, 0));
    all.push((4, 3, 8, 8, three, 0, 0));
    all.push((9, 9, 64, 64, window([2, 5], [1, 1], [3, 1]), 0, 0));
    // Two rows of output at once, in a window that is not three columns wide, and a last row alone.
    all.push((9, 9, 64, 64, window([3, 5], [1, 2], [1, 1]), 0, 0));
    all.push((3, 20, 16, 16, window([3, 5], [1, 1], [1, 2]), 0, 9));
    all
}

fn bytes(rng: &mut Rng, n: usize) -> Vec<u8> {
    // Extremes are likely.
    (0..n).map(|_| [0, 255, rng.next() as u8, rng.next() as u8][rng.next() as usize % 4]).collect()
}

fn signed(rng: &mut Rng, n: usize) -> Vec<i8> {
    bytes(rng, n).into_iter().map(|byte| byte.wrapping_sub(128) as i8).collect()
}

struct Shapes {
    from: Plane,
    to: Plane,
    input_len: usize,
}

fn shapes(case: Case, n_out: usize) -> Shapes {
    let (height, width, n_in, _, window, gap_in, gap_out) = case;
    let mut from = Plane::dense(height, width, n_in);
    from.row_stride += gap_in;
    let [rows, columns] = window.positions([height, width]);
    let mut to = Plane::dense(rows, columns, n_out);
    to.row_stride += gap_out;
    Shapes { from, to, input_len: from.len() + SLACK }
}

fn requant(rng: &mut Rng, rounding: Rounding, n: usize) -> Requant {
    let factors: Vec<f32> = (0..n).map(|_| (rng.float() + 1.5) * 3e-4).collect();
    let double: Vec<f64> = factors.iter().map(|x| f64::from(*x)).collect();
    Requant::new(rounding, (&factors, &double), 131, (9, 250))
}

/// Each output element once, in order, and what lies between the rows untouched.
fn expect<T: PartialEq + Copy + std::fmt::Debug>(
    out: &[T],
    to: Plane,
    untouched: T,
    message: &str,
    is_right: impl Fn(usize, T) -> bool,
) {
    for (i, value) in out.iter().enumerate() {
        let (y, at) = (i / to.row_stride, i % to.row_stride);
        if at < to.width * to.channels && y < to.height {
            let index = y * to.width * to.channels + at;
            assert!(is_right(index, *value), "{message}: element {index} of {to:?} is {value:?}");
        } else {
            assert_eq!(*value, untouched, "{message}: {i} is no element of {to:?}");
        }
    }
}

#[test]
fn convolutions_in_eight_bits() {
    let mut rng = Rng(21);
    let mut pools = [Pool::new(1), Pool::new(3)];
    for case in cases() {
        let (_, _, n_in, n_out, window, ..) = case;
        let Shapes { from, to, input_len } = shapes(case, n_out);
        let image = bytes(&mut rng, input_len);
        let weights = signed(&mut rng, n_out * window.size[0] * window.size[1] * n_in);
        let bias: Vec<i32> = (0..n_out).map(|_| rng.next() as i32 >> 16).collect();
        let zero = rng.next() as u8;
        let sums = conv8_ref(window, n_out, &weights, &bias, (&image, from), zero);
        let conv = Conv8::new(window, n_in, n_out, &weights, &bias);
        for rounding in ROUNDINGS {
            let requant = requant(&mut rng, rounding, n_out);
            for isa in Isa::available() {
                for pool in &mut pools {
                    let mut data = vec![77; to.len() + to.row_stride];
                    let output = Output8::Bytes { data: &mut data, plane: to, requant: &requant };
                    conv.run(pool, isa, (&image, from), zero, output);
                    let message = format!("{case:?} on {}, {rounding:?}", isa.name());
                    expect(&data, to, 77, &message, |i, value| {
                        value == requant.apply_ref(i % n_out, sums[i])
                    });
                }
            }
        }
        // To floats: a plain multiplication and addition.
        let scales: Vec<f32> = rng.floats(n_out.next_multiple_of(16));
        let float_bias = rng.floats(scales.len());
        for isa in Isa::available() {
            let mut data = vec![7.5; to.len() + to.row_stride];
            let output = Output8::Floats {
                data: &mut data,
                plane: to,
                scale: 0.25,
                scales: &scales,
                bias: &float_bias,
                range: (-1e4, 1e4),
            };
            conv.run(&mut pools[0], isa, (&image, from), zero, output);
            expect(&data, to, 7.5, &format!("{case:?} on {}", isa.name()), |i, value| {
                let channel = i % n_out;
                // The convolution's own bias is counted in, as any sum.
                value
                    == (sums[i] as f32 * 0.25).mul_add(scales[channel], float_bias[channel]).clamp(-1e4, 1e4)
            });
        }
    }
}

#[test]
fn depthwise_convolutions_in_eight_bits() {
    let mut rng = Rng(22);
    let mut pools = [Pool::new(1), Pool::new(3)];
    for case in depthwise_cases() {
        let (_, _, n_channels, _, window, ..) = case;
        let Shapes { from, to, input_len } = shapes(case, n_channels);
        let image = bytes(&mut rng, input_len);
        let weights = signed(&mut rng, window.size[0] * window.size[1] * n_channels);
        let bias: Vec<i32> = (0..n_channels).map(|_| rng.next() as i32 >> 16).collect();
        let zero = rng.next() as u8;
        let sums = depthwise8_ref(window, &weights, &bias, (&image, from), zero);
        for rounding in ROUNDINGS {
            let requant = requant(&mut rng, rounding, n_channels);
            let layer = Depthwise8::new(window, n_channels, &weights, &bias, &requant);
            for isa in Isa::available() {
                for pool in &mut pools {
                    let mut data = vec![77; to.len() + to.row_stride];
                    layer.run(pool, isa, (&image, from), zero, (&mut data, to));
                    let message = format!("{case:?} on {}, {rounding:?}", isa.name());
                    expect(&data, to, 77, &message, |i, value| {
                        value == requant.apply_ref(i % n_channels, sums[i])
                    });
                }
            }
        }
    }
}

/// Runs a float kernel on every instruction set, with one thread and several: near the reference, and the same bits.
fn floats(
    case: Case,
    to: Plane,
    (reference, bound): (&[f64], f64),
    mut run: impl FnMut(&mut Pool, Isa, &mut [f32]),
) {
    let mut pools = [Pool::new(1), Pool::new(3)];
    let mut first: Option<Vec<f32>> = None;
    for isa in Isa::available() {
        for pool in &mut pools {
            let mut data = vec![7.5; to.len() + to.row_stride];
            run(pool, isa, &mut data);
            let message = format!("{case:?} on {}", isa.name());
            expect(&data, to, 7.5, &message, |i, value| {
                (f64::from(value) - reference[i].clamp(-1.5, 2.0)).abs() <= bound
            });
            assert!(*first.get_or_insert_with(|| data.clone()) == data, "{message}: other bits");
        }
    }
}

#[test]
fn convolutions_of_floats() {
    let mut rng = Rng(23);
    for case in cases() {
        let (_, _, n_in, n_out, window, ..) = case;
        let Shapes { from, to, input_len } = shapes(case, n_out);
        let n = window.size[0] * window.size[1] * n_in;
        let (image, weights) = (rng.floats(input_len), rng.floats(n_out * n));
        let bias = rng.floats(n_out);
        let conv = Conv32::new(window, n_in, n_out, &weights, &bias, (-1.5, 2.0));
        let reference = conv32_ref(window, &weights, &bias, (&image, from));
        // n additions of products below 1 in magnitude.
        let bound = (n + 1) as f64 * n as f64 * f64::from(f32::EPSILON) / 2.0 + 1e-6;
        floats(case, to, (&reference, bound), |pool, isa, data| {
            conv.run(pool, isa, (&image, from), (data, to))
        });
    }
}

#[test]
fn depthwise_convolutions_of_floats() {
    let mut rng = Rng(24);
    for case in depthwise_cases() {
        let (_, _, n_channels, _, window, ..) = case;
        let Shapes { from, to, input_len } = shapes(case, n_channels);
        let n = window.size[0] * window.size[1];
        let (image, weights) = (rng.floats(input_len), rng.floats(n_channels * n));
        let bias = rng.floats(n_channels);
        let layer = Depthwise32::new(window, n_channels, &weights, &bias, (-1.5, 2.0));
        let reference = depthwise32_ref(window, &weights, &bias, (&image, from));
        let bound = (n + 1) as f64 * n as f64 * f64::from(f32::EPSILON) / 2.0 + 1e-6;
        floats(case, to, (&reference, bound), |pool, isa, data| {
            layer.run(pool, isa, (&image, from), (data, to))
        });
    }
}

#[test]
fn sums_of_bytes() {
    let all: Vec<u8> = (0..=255).collect();
    let a: Vec<u8> = all.iter().flat_map(|a| [*a; 256]).chain([3, 4, 5]).collect();
    let b: Vec<u8> = (0..256).flat_map(|_| all.clone()).chain([9, 8, 7]).collect();
    let (scales, zeros) = ([0.04f32, 0.1, 0.05], [0u8, 132, 17]);
    for rounding in [Rounding::Float, Rounding::FixedPoint] {
        let add = Add8::new(rounding, scales, zeros, (17, 255)).unwrap();
        for isa in Isa::available() {
            let mut out = vec![0; a.len()];
            add.run(isa, &a, &b, &mut out);
            for ((a, b), out) in a.iter().zip(&b).zip(out) {
                assert_eq!(out, add.apply_ref(*a, *b), "{a} + {b} on {}", isa.name());
                let real = |q: u8, i: usize| f64::from(scales[i]) * (f64::from(q) - f64::from(zeros[i]));
                let exact = (real(*a, 0) + real(*b, 1)) / f64::from(scales[2]) + f64::from(zeros[2]);
                assert!(
                    (f64::from(out) - exact.clamp(17.0, 255.0)).abs() <= 0.501,
                    "{a} + {b} is {out}, {exact}"
                );
            }
        }
    }
    assert!(Add8::new(Rounding::Float, [1.0, 1e-4, 1.0], [0; 3], (0, 255)).is_none());
    assert!(Add8::new(Rounding::Float, [256.0, 1.0, 1.0], [0; 3], (0, 255)).is_none());
}

#[test]
fn floats_become_bytes() {
    let values = [0.0, 0.5, 1.5, -0.5, 1e9, -1e9, f32::NAN, f32::INFINITY, 100.4, -3.6];
    for isa in Isa::available() {
        let mut out = [0; 10];
        quantize(isa, &values, 1.0, 100, &mut out);
        assert_eq!(out, [100, 100, 102, 100, 255, 0, 100, 255, 200, 96], "{}", isa.name());
        let mut sums = [0.0; 3];
        add32(isa, &[1.0, 2.0, -9.0], &[1.0, 5.0, 1.0], (-6.0, 6.0), &mut sums);
        assert_eq!(sums, [2.0, 6.0, -6.0], "{}", isa.name());
    }
}

#[test]
fn padding_goes_around() {
    let mut to = Plane::dense(4, 3, 2);
    to.row_stride = 7;
    let mut out = [9u8; 28];
    pad((&[1, 2, 3, 4], Plane::dense(2, 1, 2)), 0, (1, 1), (&mut out, to));
    let expected = [
        [0, 0, 0, 0, 0, 0, 9], //
        [0, 0, 1, 2, 0, 0, 9],
        [0, 0, 3, 4, 0, 0, 9],
        [0, 0, 0, 0, 0, 0, 9],
    ];
    assert_eq!(out, expected.concat()[..]);
}

#[test]
fn means_of_windows() {
    let mut rng = Rng(25);
    // Whole images and windows that hang over the edge, at few and at many channels.
    let pooling = |size, stride, before| Pooling { size, stride, before };
    for (height, width, channels, pooling, [rows, columns]) in [
        (8, 8, 64, pooling([8, 8], [8, 8], [0, 0]), [1, 1]),
        (25, 5, 130, pooling([25, 5], [25, 5], [0, 0]), [1, 1]),
        (5, 5, 3, pooling([3, 3], [2, 2], [1, 1]), [3, 3]),
        (3, 4, 9, pooling([2, 3], [1, 2], [0, 1]), [2, 2]),
    ] {
        let (from, to) = (Plane::dense(height, width, channels), Plane::dense(rows, columns, channels));
        let image = bytes(&mut rng, from.len());
        let floats: Vec<f32> = image.iter().map(|x| f32::from(*x)).collect();
        let factors = vec![0.013f32; channels];
        let double: Vec<f64> = factors.iter().map(|x| f64::from(*x)).collect();
        let requant = Requant::new(Rounding::Float, (&factors, &double), 7, (0, 255));
        for isa in Isa::available() {
            let (mut rounded, mut requantised) = (vec![0; to.len()], vec![0; to.len()]);
            let mut means = vec![0.0; to.len()];
            mean8(isa, (&image, from), pooling, Mean8::Rounded { range: (5, 250) }, (&mut rounded, to));
            let mean = Mean8::Requantised { zero: 33, requant: &requant };
            mean8(isa, (&image, from), pooling, mean, (&mut requantised, to));
            mean32(isa, (&floats, from), pooling, (5.0, 250.0), (&mut means, to));
            for i in 0..to.len() {
                let (y, x, c) = (i / (columns * channels), i / channels % columns, i % channels);
                let (mut sum, mut n) = (0, 0);
                for row in 0..pooling.size[0] {
                    for column in 0..pooling.size[1] {
                        let row = (y * pooling.stride[0] + row).wrapping_sub(pooling.before[0]);
                        let column = (x * pooling.stride[1] + column).wrapping_sub(pooling.before[1]);
                        if row < height && column < width {
                            sum += i32::from(image[(row * width + column) * channels + c]);
                            n += 1;
                        }
                    }
                }
                let exact = f64::from(sum) / f64::from(n);
                assert!((f64::from(means[i]) - exact.clamp(5.0, 250.0)).abs() < 1e-4);
                // `f64::round` takes ties away from zero, too.
                let expected = ((exact - 128.0).round() + 128.0).clamp(5.0, 250.0);
                assert_eq!(f64::from(rounded[i]), expected, "{sum} / {n} on {}", isa.name());
                assert_eq!(requantised[i], requant.apply_ref(c, sum - 33 * n));
            }
        }
    }
}

#[test]
fn softmax_of_floats_and_bytes() {
    let mut rng = Rng(26);
    for n in [1, 2, 10, 16, 1000] {
        let row: Vec<f32> = rng.floats(n).iter().map(|x| x * 9.0).collect();
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f64> = row.iter().map(|x| (1.5 * f64::from(x - max)).exp()).collect();
        let sum: f64 = exps.iter().sum();
        let quantised = bytes(&mut rng, n);
        let softmax = Softmax8::new(0.05, 1.0);
        let mut first = None;
        for isa in Isa::available() {
            let mut out = vec![0.0; n];
            softmax32(isa, &row, 1.5, &mut out);
            for (out, exp) in out.iter().zip(&exps) {
                assert!((f64::from(*out) - exp / sum).abs() < 1e-6);
            }
            assert!(*first.get_or_insert_with(|| out.clone()) == out);
            let mut out = vec![0; n];
            softmax.run(isa, &quantised, &mut out);
            let exps: Vec<f64> = quantised.iter().map(|x| (0.05 * f64::from(*x)).exp()).collect();
            let sum: f64 = exps.iter().sum();
            for (out, exp) in out.iter().zip(&exps) {
                let exact = (256.0 * exp / sum).min(255.0);
                assert!((f64::from(*out) - exact).abs() <= 0.5001, "{out} and not {exact}");
            }
        }
    }
}
