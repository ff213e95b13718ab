//! No vector instructions: arrays and loops. Runs everywhere, and shows what each step means.

use half::{bf16, f16};

use super::{Kernel, LANES, Simd};

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn map<T: Copy, U>(a: [T; LANES], f: impl Fn(T) -> U) -> [U; LANES] {
    a.map(f)
}

#[inline(always)]
fn zip<T: Copy, U: Copy, V>(a: [T; LANES], b: [U; LANES], f: impl Fn(T, U) -> V) -> [V; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Scalar)
}

impl Simd for Scalar {
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        run(kernel)
    }

    const FLOAT_VECTORS: usize = 1;
    const FLOAT_SUMS: usize = 2;
    const BYTE_SUMS: usize = 2;
    const MAX_TOKENS: usize = 1;
    const BYTE_ZERO: i32 = 128;
    const SCORE_BLOCKS: usize = 1;
    const ACT_ZERO: i32 = 0;
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [u8; 64];

    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    fn abs(self, a: Self::F) -> Self::F {
        map(a, f32::abs)
    }
    fn reduce_add(self, mut a: Self::F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }
    fn reduce_max(self, a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    unsafe fn load(self, src: *const f32) -> Self::F {
        // SAFETY: the caller's: 16 elements are readable.
        unsafe { src.cast::<Self::F>().read_unaligned() }
    }
    unsafe fn store(self, dst: *mut f32, a: Self::F) {
        // SAFETY: the caller's: 16 elements are writable.
        unsafe { dst.cast::<Self::F>().write_unaligned(a) }
    }
    unsafe fn load_f16(self, src: *const u16) -> Self::F {
        // SAFETY: the caller's: 16 elements are readable.
        map(unsafe { src.cast::<[u16; LANES]>().read_unaligned() }, |x| f16::from_bits(x).to_f32())
    }
    unsafe fn store_f16(self, dst: *mut u16, a: Self::F) {
        // SAFETY: the caller's: 16 elements are writable.
        unsafe { dst.cast::<[u16; LANES]>().write_unaligned(map(a, |x| f16::from_f32(x).to_bits())) }
    }
    unsafe fn load_bf16(self, src: *const u16) -> Self::F {
        // SAFETY: the caller's: 16 elements are readable.
        map(unsafe { src.cast::<[u16; LANES]>().read_unaligned() }, |x| bf16::from_bits(x).to_f32())
    }
    unsafe fn load_i8(self, src: *const i8) -> Self::F {
        // SAFETY: the caller's: 16 elements are readable.
        map(unsafe { src.cast::<[i8; LANES]>().read_unaligned() }, f32::from)
    }
    unsafe fn load_u8(self, src: *const u8) -> Self::F {
        // SAFETY: the caller's: 16 elements are readable.
        map(unsafe { src.cast::<[u8; LANES]>().read_unaligned() }, f32::from)
    }

    fn splat_i(self, x: i32) -> Self::I {
        [x; LANES]
    }
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_add)
    }
    unsafe fn load_i(self, src: *const i32) -> Self::I {
        // SAFETY: the caller's: 16 elements are readable.
        unsafe { src.cast::<Self::I>().read_unaligned() }
    }
    unsafe fn store_i(self, dst: *mut i32, a: Self::I) {
        // SAFETY: the caller's: 16 elements are writable.
        unsafe { dst.cast::<Self::I>().write_unaligned(a) }
    }
    fn shl_i<const N: u32>(self, a: Self::I) -> Self::I {
        map(a, |x| x << N)
    }
    fn to_f(self, a: Self::I) -> Self::F {
        map(a, |x| x as f32)
    }
    fn round(self, a: Self::F) -> Self::I {
        map(a, |x| x.round_ties_even() as i32)
    }
    fn scale_by_pow2(self, a: Self::F, n: Self::I) -> Self::F {
        zip(a, n, |x, n| x * f32::from_bits(((n + 127) as u32) << 23))
    }
    fn reduce_add_i(self, a: Self::I) -> i32 {
        a.into_iter().fold(0, i32::wrapping_add)
    }
    unsafe fn store_i8(self, dst: *mut i8, a: Self::I) {
        // SAFETY: the caller's: 16 elements are writable.
        unsafe { dst.cast::<[i8; LANES]>().write_unaligned(map(a, |x| x as i8)) }
    }
    unsafe fn store_u8(self, dst: *mut u8, a: Self::I) {
        // SAFETY: the caller's: 16 elements are writable.
        unsafe { dst.cast::<[u8; LANES]>().write_unaligned(map(a, |x| x as u8)) }
    }

    unsafe fn load_bytes(self, src: *const u8) -> Self::B {
        // SAFETY: the caller's: 64 bytes are readable.
        unsafe { src.cast::<Self::B>().read_unaligned() }
    }
    fn low_nibbles(self, a: Self::B) -> Self::B {
        a.map(|x| x & 15)
    }
    fn high_nibbles(self, a: Self::B) -> Self::B {
        a.map(|x| x >> 4)
    }
    fn crumbs<const N: u32>(self, a: Self::B) -> Self::B {
        a.map(|x| (x >> (2 * N)) & 3)
    }
    fn add_shl4(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i] + (b[i] << 4))
    }
    unsafe fn add_where(self, a: Self::B, mask: *const u8, x: u8) -> Self::B {
        // SAFETY: the caller's: 8 bytes are readable.
        let mask = u64::from_le_bytes(unsafe { mask.cast::<[u8; 8]>().read_unaligned() });
        std::array::from_fn(|i| a[i] + if mask >> i & 1 == 1 { x } else { 0 })
    }
    fn lookup(self, a: Self::B, table: &[u8; 16]) -> Self::B {
        a.map(|x| table[usize::from(x)])
    }
    unsafe fn lookup_where(self, a: Self::B, mask: *const u8, codes: Self::B, table: &[u8; 16]) -> Self::B {
        // SAFETY: the caller's: 8 bytes are readable.
        let mask = u64::from_le_bytes(unsafe { mask.cast::<[u8; 8]>().read_unaligned() });
        std::array::from_fn(|i| if mask >> i & 1 == 1 { table[usize::from(codes[i])] } else { a[i] })
    }
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        mut acc: [Self::I; N],
        codes: &[Self::B; G],
        _bits: u32,
        x: [*const i8; N],
    ) -> [Self::I; N] {
        for (acc, x) in acc.iter_mut().zip(x) {
            // SAFETY: the caller's: a word for each of `codes` is readable.
            let x = unsafe { std::slice::from_raw_parts(x.cast::<[i8; 4]>(), G) };
            for (codes, x) in codes.iter().zip(x) {
                for (sum, codes) in acc.iter_mut().zip(codes.as_chunks::<4>().0) {
                    *sum += (0..4).map(|c| i32::from(codes[c]) * i32::from(x[c])).sum::<i32>();
                }
            }
        }
        acc
    }
    fn dot4_signed(self, acc: Self::I, x: Self::B, w: Self::B) -> Self::I {
        std::array::from_fn(|r| {
            let products = (4 * r..4 * r + 4).map(|i| i32::from(x[i]) * i32::from(w[i] as i8));
            products.fold(acc[r], i32::wrapping_add)
        })
    }
    fn splat_bytes(self, x: i32) -> Self::B {
        std::array::from_fn(|i| x.to_le_bytes()[i % 4])
    }
    fn interleave4(self, rows: [Self::B; 4]) -> [Self::B; 4] {
        std::array::from_fn(|v| {
            std::array::from_fn(|i| {
                let (quarter, lane, row) = (i / 16, i / 4 % 4, i % 4);
                rows[row][16 * quarter + 4 * v + lane]
            })
        })
    }
    fn pack_bytes(self, lanes: [Self::I; 4]) -> Self::B {
        std::array::from_fn(|i| lanes[i / 4 % 4][4 * (i / 16) + i % 4] as u8)
    }
    unsafe fn store_bytes(self, dst: *mut u8, a: Self::B) {
        // SAFETY: the caller's: 64 bytes are writable.
        unsafe { dst.cast::<Self::B>().write_unaligned(a) }
    }
    fn prefetch(self, _src: *const u8) {}
}
