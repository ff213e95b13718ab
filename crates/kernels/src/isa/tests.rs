//! Every step of every instruction set of this CPU against scalar code, bit for bit.
//!
//! What is not compared, because a step does not promise it: which NaN an operation gives (an Arm's default NaN is
//! positive, an x86's negative), and the sign of zero in `reduce_max`. Arguments that a step excludes are not tried.

use super::*;
use crate::linear::tests::Rng;

/// Vectors of this crate are 64 bytes, lanes in order, whatever registers they are in.
fn lanes<V: Copy, T: Copy>(v: V) -> T {
    assert!(size_of::<V>() == 64 && size_of::<T>() == 64);
    // SAFETY: as long as each other, and any bits are a valid vector or array of numbers.
    unsafe { std::mem::transmute_copy(&v) }
}

/// Numbers at which something changes: zeros, subnormals, halves, ends of ranges, infinities, NaNs.
const SPECIAL: [f32; 32] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -3.5,
    127.5,
    0.49999997,
    8388607.5,
    -16777217.0,
    2147483520.0,
    -2147483648.0,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    1e-45,
    -1e-45,
    1e-40,
    5.960_464_5e-8,
    2.980_232_2e-8,
    6.1e-5,
    65504.0,
    65519.996,
    65520.0,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    -f32::NAN,
];

/// The special numbers, numbers of every exponent, and ordinary ones: whole vectors.
fn floats() -> Vec<f32> {
    let mut rng = Rng(11);
    let mut all = SPECIAL.to_vec();
    all.extend((0..256).map(|exponent| f32::from_bits(exponent << 23 | rng.next() as u32 & 0x807f_ffff)));
    all.extend((0..96).map(|_| rng.float() * 100.0));
    all
}

fn bytes(rng: &mut Rng, most: u8) -> [u8; 64] {
    std::array::from_fn(|_| (rng.next() % (u64::from(most) + 1)) as u8)
}

/// The bits of a vector.
type Bits = [u32; LANES];

/// What each step gave, in order: its name, the bits that it was given, and those of its result.
#[derive(Default)]
struct Results(Vec<(&'static str, [Bits; 3], Bits)>);

impl Results {
    /// Bits as they are.
    fn exact(&mut self, name: &'static str, given: [Bits; 3], bits: Bits) {
        self.0.push((name, given, bits));
    }

    /// Floats of which all NaNs count as the same.
    fn floats(&mut self, name: &'static str, given: [Bits; 3], values: [f32; LANES]) {
        self.exact(name, given, values.map(|x| if x.is_nan() { f32::NAN } else { x }.to_bits()));
    }
}

/// Runs a kernel on each instruction set of this CPU, and compares its results with scalar code's.
fn compare(kernel: impl Kernel<Output = Results> + Copy) {
    let expected = Isa(Kind::Scalar).run(kernel).0;
    assert!(!expected.is_empty());
    for isa in Isa::available() {
        let results = isa.run(kernel).0;
        assert_eq!(results.len(), expected.len());
        for (result, expected) in results.iter().zip(&expected) {
            let (name, given, bits) = result;
            assert!(
                result == expected,
                "{name} of {given:x?} on {} is {bits:x?}, not {:x?}",
                isa.name(),
                expected.2
            );
        }
    }
}

#[test]
fn float_arithmetic() {
    #[derive(Clone, Copy)]
    struct Steps<'a>(&'a [f32]);
    impl Kernel for Steps<'_> {
        type Output = Results;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Results {
            let mut results = Results::default();
            let all: Vec<[f32; LANES]> = self.0.chunks_exact(LANES).map(|x| x.try_into().unwrap()).collect();
            // Every special number meets every other one, and the rest meet some.
            for shift in 0..SPECIAL.len() {
                let at = |i: usize, step: usize| self.0[(i + step * shift) % SPECIAL.len()];
                let y: [f32; LANES] = std::array::from_fn(|i| at(i, 1));
                let z: [f32; LANES] = std::array::from_fn(|i| at(i, 5));
                for &x in &all {
                    let given = [lanes(x), lanes(y), lanes(z)];
                    let (a, b, c) = (lanes(x), lanes(y), lanes(z));
                    results.floats("add", given, lanes(s.add(a, b)));
                    results.floats("sub", given, lanes(s.sub(a, b)));
                    results.floats("mul", given, lanes(s.mul(a, b)));
                    results.floats("div", given, lanes(s.div(a, b)));
                    results.floats("fma", given, lanes(s.fma(a, b, c)));
                    results.exact("max", given, lanes(s.max(a, b)));
                    results.exact("min", given, lanes(s.min(a, b)));
                }
            }
            for &x in &all {
                let given = [lanes(x); 3];
                let a = lanes(x);
                results.exact("abs", given, lanes(s.abs(a)));
                results.exact("splat", given, lanes(s.splat(x[3])));
                results.floats("reduce_add", given, [s.reduce_add(a); LANES]);
                // Adding zero makes -0 a 0.
                let a = lanes(x.map(|x| if x.is_nan() { -1.0 } else { x }));
                results.floats("reduce_max", given, [s.reduce_max(a) + 0.0; LANES]);
            }
            results
        }
    }
    compare(Steps(&floats()));
}

#[test]
fn the_order_of_a_sum() {
    #[derive(Clone, Copy)]
    struct Sum;
    impl Kernel for Sum {
        type Output = (f32, i32);
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> (f32, i32) {
            // In any other order, something else is lost to rounding.
            let mut x = [1e-3f32; LANES];
            (x[3], x[11], x[7], x[15]) = (1e8, -1e8, 3e6, 5e6);
            (x[1], x[9], x[5], x[13]) = (3e5, 7e5, -8e6, 2.0);
            (s.reduce_add(lanes(x)), s.reduce_add_i(lanes([i32::MAX / 3; LANES])))
        }
    }
    let pairs = [0.002, 1e6, 0.002, 0.0, 0.002, -7999998.0, 0.002, 8e6f32];
    let sum =
        ((pairs[0] + pairs[4]) + (pairs[2] + pairs[6])) + ((pairs[1] + pairs[5]) + (pairs[3] + pairs[7]));
    for isa in Isa::available() {
        assert_eq!(isa.run(Sum), (sum, (i32::MAX / 3).wrapping_mul(16)), "{}", isa.name());
    }
}

#[test]
fn integers_and_conversions() {
    #[derive(Clone, Copy)]
    struct Steps<'a>(&'a [f32]);
    impl Kernel for Steps<'_> {
        type Output = Results;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Results {
            let mut results = Results::default();
            let mut rng = Rng(12);
            for x in self.0.chunks_exact(LANES) {
                let x: [f32; LANES] = x.try_into().unwrap();
                // What an `i32` holds; the largest float below 2^31 is 2^31 - 128.
                let in_range = x.map(|x| if (-2147483648.0..2147483648.0).contains(&x) { x } else { 7.5 });
                results.exact("round", [lanes(in_range); 3], lanes(s.round(lanes(in_range))));
                let n: [i32; LANES] = std::array::from_fn(|_| (rng.next() % 254) as i32 - 126);
                let scaled = s.scale_by_pow2(lanes(x), lanes(n));
                results.floats("scale_by_pow2", [lanes(x), lanes(n), lanes(n)], lanes(scaled));
            }
            for bits in [2, 8, 16, 24, 31, 32] {
                let mut integers =
                    || -> [i32; LANES] { std::array::from_fn(|_| rng.next() as i32 >> (32 - bits)) };
                for _ in 0..8 {
                    let (x, y) = (integers(), integers());
                    let given = [lanes(x), lanes(y), lanes(y)];
                    let (a, b) = (lanes(x), lanes(y));
                    results.exact("splat_i", given, lanes(s.splat_i(x[5])));
                    results.exact("add_i", given, lanes(s.add_i(a, b)));
                    results.exact("shl_i", given, lanes(s.shl_i::<2>(a)));
                    results.exact("shl_i", given, lanes(s.shl_i::<7>(a)));
                    results.floats("to_f", given, lanes(s.to_f(a)));
                    results.exact("reduce_add_i", given, [s.reduce_add_i(a) as u32; LANES]);
                }
            }
            results
        }
    }
    compare(Steps(&floats()));
}

#[test]
fn loads_and_stores() {
    #[derive(Clone, Copy)]
    struct Steps<'a>(&'a [u8]);
    impl Kernel for Steps<'_> {
        type Output = Results;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Results {
            let mut results = Results::default();
            // Windows of 64 bytes at every alignment.
            for window in self.0.windows(64).step_by(65) {
                let bytes: [u8; 64] = window.try_into().unwrap();
                let given = [lanes(bytes); 3];
                let src = window.as_ptr();
                // SAFETY: 64 bytes are readable, and no step below reads more.
                unsafe {
                    results.exact("load", given, lanes(s.load(src.cast())));
                    results.floats("load_f16", given, lanes(s.load_f16(src.cast())));
                    results.floats("load_bf16", given, lanes(s.load_bf16(src.cast())));
                    results.exact("load_i8", given, lanes(s.load_i8(src.cast())));
                    results.exact("load_u8", given, lanes(s.load_u8(src)));
                    results.exact("load_i", given, lanes(s.load_i(src.cast())));
                    results.exact("load_bytes", given, lanes(s.load_bytes(src)));
                }
                s.prefetch(src);
            }
            s.prefetch(std::ptr::null());
            s.prefetch(std::ptr::without_provenance(usize::MAX));
            results
        }
    }
    let mut rng = Rng(13);
    let random: Vec<u8> = (0..65 * 128 + 64).map(|_| rng.next() as u8).collect();
    compare(Steps(&random));

    struct Store;
    impl Kernel for Store {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let mut rng = Rng(14);
            for offset in 1..65 {
                let x: [f32; LANES] = std::array::from_fn(|_| rng.float());
                let mut dst = [0xa5u8; 256];
                // SAFETY: offset + 64 is below 256.
                unsafe { s.store(dst.as_mut_ptr().add(offset).cast(), lanes(x)) };
                let expected: [u8; 64] = lanes(x.map(f32::to_le_bytes));
                assert_eq!(dst[offset..][..64], expected);
                assert!(dst[..offset].iter().chain(&dst[offset + 64..]).all(|&byte| byte == 0xa5));

                let x: [i8; LANES] = std::array::from_fn(|i| [rng.next() as i8, -128, 127][i % 3]);
                let mut dst = [0xa5u8; 256];
                // SAFETY: as above.
                unsafe { s.store_i8(dst.as_mut_ptr().add(offset).cast(), lanes(x.map(i32::from))) };
                assert_eq!(dst[offset..][..LANES], x.map(|x| x as u8));
                assert!(dst[..offset].iter().chain(&dst[offset + LANES..]).all(|&byte| byte == 0xa5));

                let x: [u8; LANES] = x.map(|x| x as u8);
                let mut dst = [0xa5u8; 256];
                // SAFETY: as above.
                unsafe { s.store_u8(dst.as_mut_ptr().add(offset), lanes(x.map(i32::from))) };
                assert_eq!(dst[offset..][..LANES], x);
                assert!(dst[..offset].iter().chain(&dst[offset + LANES..]).all(|&byte| byte == 0xa5));

                let x = bytes(&mut rng, 255);
                let mut dst = [0xa5u8; 256];
                // SAFETY: as above.
                unsafe { s.store_bytes(dst.as_mut_ptr().add(offset), lanes(x)) };
                assert_eq!(dst[offset..][..64], x);
                assert!(dst[..offset].iter().chain(&dst[offset + 64..]).all(|&byte| byte == 0xa5));
                let mut dst = [0xa5u8; 256];
                // SAFETY: as above.
                unsafe { s.store_i(dst.as_mut_ptr().add(offset).cast(), lanes(x)) };
                assert_eq!(dst[offset..][..64], x);
            }
        }
    }
    for isa in Isa::available() {
        isa.run(Store);
    }
}

#[test]
fn every_half_float() {
    struct Widen;
    impl Kernel for Widen {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut all = vec![0.0; 1 << 16];
            for (i, wide) in all.chunks_exact_mut(LANES).enumerate() {
                let halves: [u16; LANES] = std::array::from_fn(|lane| (i * LANES + lane) as u16);
                // SAFETY: sixteen elements are readable, and sixteen writable.
                unsafe { s.store(wide.as_mut_ptr(), s.load_f16(halves.as_ptr())) };
            }
            all
        }
    }
    struct Narrow<'a>(&'a [f32]);
    impl Kernel for Narrow<'_> {
        type Output = Vec<u16>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<u16> {
            let mut all = vec![0; self.0.len()];
            for (wide, narrow) in self.0.chunks_exact(LANES).zip(all.chunks_exact_mut(LANES)) {
                // SAFETY: as above.
                unsafe { s.store_f16(narrow.as_mut_ptr(), s.load(wide.as_ptr())) };
            }
            all
        }
    }
    let expected: Vec<f32> = (0..=u16::MAX).map(|bits| half::f16::from_bits(bits).to_f32()).collect();
    // Every half, and what lies just below, at and just above the middle between it and the next: 65520 and above
    // become infinity.
    let mut floats = SPECIAL.to_vec();
    for bits in (0..0x7c00).chain(0x8000..0xfc00) {
        let (low, high) = (expected[bits], expected[bits + 1]);
        let middle = if high.is_infinite() { 65520f32.copysign(low) } else { (low + high) / 2.0 };
        let step = |n: i32| f32::from_bits((middle.to_bits() as i32 + n) as u32);
        floats.extend([low, step(-1), middle, step(1)]);
    }
    let narrow: Vec<u16> = floats.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect();
    for isa in Isa::available() {
        for (bits, (actual, expected)) in isa.run(Widen).into_iter().zip(&expected).enumerate() {
            let is_same = actual.to_bits() == expected.to_bits() || actual.is_nan() && expected.is_nan();
            assert!(is_same, "{}: {bits:#x} is {expected}, not {actual}", isa.name());
        }
        for ((x, actual), &expected) in floats.iter().zip(isa.run(Narrow(&floats))).zip(&narrow) {
            let is_nan = |bits: u16| half::f16::from_bits(bits).is_nan();
            let is_same = actual == expected || is_nan(actual) && is_nan(expected);
            assert!(is_same, "{}: {x} is {expected:#x}, not {actual:#x}", isa.name());
        }
    }
}

#[test]
fn bytes_apart_and_together() {
    #[derive(Clone, Copy)]
    struct Steps;
    impl Kernel for Steps {
        type Output = Results;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Results {
            let mut results = Results::default();
            let mut rng = Rng(15);
            for _ in 0..64 {
                let (x, low, high) = (bytes(&mut rng, 255), bytes(&mut rng, 15), bytes(&mut rng, 15));
                let table = bytes(&mut rng, 255);
                let given = [lanes(x), lanes(low), lanes(high)];
                let a = lanes(x);
                results.exact("low_nibbles", given, lanes(s.low_nibbles(a)));
                results.exact("high_nibbles", given, lanes(s.high_nibbles(a)));
                results.exact("crumbs 0", given, lanes(s.crumbs::<0>(a)));
                results.exact("crumbs 1", given, lanes(s.crumbs::<1>(a)));
                results.exact("crumbs 2", given, lanes(s.crumbs::<2>(a)));
                results.exact("crumbs 3", given, lanes(s.crumbs::<3>(a)));
                results.exact("add_shl4", given, lanes(s.add_shl4(lanes(low), lanes(high))));
                results.exact("lookup", given, lanes(s.lookup(lanes(low), table[..16].try_into().unwrap())));
                // SAFETY: eight bytes are readable.
                let added = unsafe { s.add_where(lanes(low), x.as_ptr().add(3), 16) };
                results.exact("add_where", given, lanes(added));
                let table = table[..16].try_into().unwrap();
                // SAFETY: eight bytes are readable.
                let found = unsafe { s.lookup_where(lanes(x), x.as_ptr().add(5), lanes(low), table) };
                results.exact("lookup_where", given, lanes(found));
            }
            // Layouts of channels, and signed products: the largest, then anything.
            for i in 0..64 {
                let extreme = |n: usize| [[0u8; 64], [255; 64], [128; 64], [127; 64]][n % 4];
                let x = if i < 16 { extreme(i) } else { bytes(&mut rng, 255) };
                let w = if i < 16 { extreme(i / 4) } else { bytes(&mut rng, 255) };
                let given = [lanes(x), lanes(w), lanes(w)];
                // `ACT_ZERO` times the sum of a lane's weights is what the step leaves out.
                let left_out: [i32; LANES] = std::array::from_fn(|lane| {
                    w[4 * lane..][..4].iter().map(|w| S::ACT_ZERO * i32::from(*w as i8)).sum()
                });
                let acc = s.add_i(s.splat_i(7), lanes(left_out));
                results.exact("dot4_signed", given, lanes(s.dot4_signed(acc, lanes(x), lanes(w))));
                let word = i32::from_le_bytes([x[0], x[1], w[2], w[3]]);
                results.exact("splat_bytes", given, lanes(s.splat_bytes(word)));
                let rows = s.interleave4([lanes(x), lanes(w), lanes(bytes(&mut rng, 255)), lanes([3u8; 64])]);
                for v in rows {
                    results.exact("interleave4", given, lanes(v));
                }
                let mut ints =
                    || -> S::I { lanes(std::array::from_fn::<i32, LANES, _>(|_| rng.next() as i32 & 255)) };
                results.exact("pack_bytes", given, lanes(s.pack_bytes([ints(), ints(), ints(), ints()])));
            }
            results
        }
    }
    compare(Steps);
}

#[test]
fn products_of_bytes() {
    struct Products;
    impl Kernel for Products {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let mut rng = Rng(16);
            for bits in [2, 3, 4, 5, 6, 8] {
                for round in 0..32 {
                    check_products::<S, 1, 8>(s, &mut rng, bits, round);
                    check_products::<S, 1, 4>(s, &mut rng, bits, round);
                    check_products::<S, 2, 8>(s, &mut rng, bits, round);
                    check_products::<S, 4, 4>(s, &mut rng, bits, round);
                    check_products::<S, 8, 8>(s, &mut rng, bits, round);
                    check_products::<S, 16, 4>(s, &mut rng, bits, round);
                }
            }
        }
    }
    for isa in Isa::available() {
        isa.run(Products);
    }
}

/// The products of `4 * G` columns with `N` tokens: in the first rounds the largest that there are, then any.
#[inline(always)]
fn check_products<S: Simd, const N: usize, const G: usize>(s: S, rng: &mut Rng, bits: u32, round: usize) {
    let largest = ((1 << bits) - 1) as u8;
    let mut codes = [[0; 64]; G];
    for codes in &mut codes {
        *codes = match round {
            0..8 => [largest; 64],
            8..12 => std::array::from_fn(|i| if i >> (round % 4) & 1 == 0 { largest } else { 0 }),
            _ => bytes(rng, largest),
        };
    }
    let mut x = [[0i8; 64]; N];
    for (t, x) in x.iter_mut().enumerate() {
        *x = match (round + t) % 4 {
            _ if round >= 16 => std::array::from_fn(|_| (rng.next() as i8).max(-127)),
            0 => [127; 64],
            1 => [-127; 64],
            2 => std::array::from_fn(|i| if i % 3 == 0 { 127 } else { -127 }),
            _ => std::array::from_fn(|i| i as i8 - 32),
        };
    }
    let before: [[i32; LANES]; N] = std::array::from_fn(|_| std::array::from_fn(|_| rng.next() as i32 >> 8));
    // Activations begin at every alignment.
    let first_byte = |t: usize| (5 * round + t) % 32;
    let mut acc = [s.splat_i(0); N];
    let mut pointers = [std::ptr::null(); N];
    for t in 0..N {
        (acc[t], pointers[t]) = (lanes(before[t]), x[t][first_byte(t)..].as_ptr());
    }
    let mut vectors = [lanes::<[u8; 64], S::B>(codes[0]); G];
    for g in 0..G {
        vectors[g] = lanes(codes[g]);
    }
    // SAFETY: 32 of 64 bytes are readable from any of the first 32 on.
    let acc = unsafe { s.dot(acc, &vectors, bits, pointers) };
    let zero = if bits == 8 { 128 - S::BYTE_ZERO } else { 0 };
    for t in 0..N {
        let x = &x[t][first_byte(t)..];
        let product = |r: usize, c: usize| (i32::from(codes[c / 4][4 * r + c % 4]) - zero) * i32::from(x[c]);
        let after: [i32; LANES] =
            std::array::from_fn(|r| before[t][r] + (0..4 * G).map(|c| product(r, c)).sum::<i32>());
        let name = std::any::type_name::<S>();
        assert_eq!(
            lanes::<_, [i32; LANES]>(acc[t]),
            after,
            "{name}, {bits} bits, token {t} of {N}, round {round}"
        );
    }
}
