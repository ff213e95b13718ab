//! AVX2 with FMA and F16C: two registers for each value, and two ways to multiply bytes.
//!
//! - [`Vnni`]: `vpdpbusd` (AVX-VNNI: Alder Lake, Sierra Forest, Zen 5 and later);
//! - [`Base`]: sums of pairs in sixteen bits, widened (Haswell, Zen and later).
//!
//! Everything else is the same code.

// One reason covers every intrinsic below: an `Avx2<D>` exists only inside `run_base` and `run_vnni`, which are called
// only where `is_available` and `has_vnni` said so; loads and stores pass their caller's promise on.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Kernel, Simd, unroll};

/// Proof of AVX2, FMA and F16C, and of what `D` needs.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<D>(D);

/// Sixteen `f32`: lanes 0..8, lanes 8..16.
type F = [__m256; 2];
/// Sixteen `i32`, or sixty-four bytes: rows 0..8, rows 8..16.
type I = [__m256i; 2];

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

pub(super) fn has_vnni() -> bool {
    is_available() && is_x86_feature_detected!("avxvnni")
}

/// # Safety
/// [`is_available`] returned true.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_base<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(Base(())))
}

/// # Safety
/// [`has_vnni`] returned true.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn run_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(Vnni(())))
}

/// One half of a value for each of `N` tokens.
type Halves<const N: usize> = [__m256i; N];

/// How bytes are multiplied.
pub(crate) trait Dot: Copy + Send + Sync + 'static {
    /// See [`Simd::BYTE_ZERO`].
    const BYTE_ZERO: i32;
    /// Half of [`Simd::dot4_signed`].
    fn dot4_signed(self, acc: __m256i, x: __m256i, w: __m256i) -> __m256i;
    /// See [`Simd::call`].
    fn call<K: Kernel>(self, kernel: K) -> K::Output;
    /// [`Simd::dot`], with the low and the high halves of the sums apart.
    ///
    /// # Safety
    /// As there.
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        acc: [Halves<N>; 2],
        codes: &[I; G],
        bits: u32,
        x: [*const i8; N],
    ) -> [Halves<N>; 2];
}

/// The compiler computes `sums` before what follows.
///
/// Left alone, it takes one token after the other, and for that keeps more in registers than there are: half of the
/// instructions then move things to the stack and back. A single token is better left to it.
#[inline]
#[target_feature(enable = "avx")]
fn in_order<const N: usize>(mut sums: Halves<N>) -> Halves<N> {
    if N > 1 {
        unroll!(t in 0..N {
            unsafe { asm!("/* {0} */", inout(ymm_reg) sums[t], options(nomem, nostack, preserves_flags)) };
        });
    }
    sums
}

/// Word `g` of the bytes at `x`, in all lanes.
///
/// # Safety
/// It is readable.
#[inline(always)]
unsafe fn broadcast(x: *const i8, g: usize) -> __m256i {
    unsafe { _mm256_set1_epi32(x.cast::<i32>().add(g).read_unaligned()) }
}

/// Nothing but AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Base(());

impl Base {
    /// # Safety
    /// As [`Simd::dot`].
    #[inline(always)]
    unsafe fn dot_half<const HALF: usize, const N: usize, const G: usize>(
        self,
        mut acc: Halves<N>,
        codes: &[I; G],
        bits: u32,
        x: [*const i8; N],
    ) -> Halves<N> {
        // Words whose products may be added up in sixteen bits: a pair is at most 2 * 127 * the largest code.
        let run = if bits == 8 { 1 } else { (32767 / (2 * 127 * ((1 << bits) - 1))).min(G) };
        let mut first = 0;
        while first < G {
            unsafe {
                let mut sums = [_mm256_setzero_si256(); N];
                for g in first..first + run {
                    let codes = codes[g][HALF];
                    if bits == 8 {
                        // As |code - 128| * (x with its sign): at most 2 * 128 * 127 for a pair.
                        let signed = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
                        let magnitude = _mm256_abs_epi8(signed);
                        unroll!(t in 0..N {
                            sums[t] = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(broadcast(x[t], g), signed));
                        });
                    } else {
                        unroll!(t in 0..N {
                            sums[t] = _mm256_add_epi16(sums[t], _mm256_maddubs_epi16(codes, broadcast(x[t], g)));
                        });
                        sums = in_order(sums);
                    }
                }
                unroll!(t in 0..N {
                    acc[t] = _mm256_add_epi32(acc[t], _mm256_madd_epi16(sums[t], _mm256_set1_epi16(1)));
                });
                acc = in_order(acc);
            }
            first += run;
        }
        acc
    }
}

impl Dot for Base {
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { run_base(kernel) }
    }
    const BYTE_ZERO: i32 = 0;

    #[inline(always)]
    fn dot4_signed(self, acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // Even and odd bytes widened to words, so nothing saturates.
        unsafe {
            let x_even = _mm256_and_si256(x, _mm256_set1_epi16(255));
            let x_odd = _mm256_srli_epi16::<8>(x);
            let w_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w));
            let w_odd = _mm256_srai_epi16::<8>(w);
            let sum = _mm256_add_epi32(_mm256_madd_epi16(x_even, w_even), _mm256_madd_epi16(x_odd, w_odd));
            _mm256_add_epi32(acc, sum)
        }
    }

    #[inline(always)]
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        [low, high]: [Halves<N>; 2],
        codes: &[I; G],
        bits: u32,
        x: [*const i8; N],
    ) -> [Halves<N>; 2] {
        // One half after the other: with both, there would be too few registers again.
        unsafe {
            [self.dot_half::<0, N, G>(low, codes, bits, x), self.dot_half::<1, N, G>(high, codes, bits, x)]
        }
    }
}

/// Proof of AVX-VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Vnni(());

impl Dot for Vnni {
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { run_vnni(kernel) }
    }
    const BYTE_ZERO: i32 = 128;

    #[inline(always)]
    fn dot4_signed(self, acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(acc, x, w) }
    }
    #[inline(always)]
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        [mut low, mut high]: [Halves<N>; 2],
        codes: &[I; G],
        _bits: u32,
        x: [*const i8; N],
    ) -> [Halves<N>; 2] {
        for g in 0..G {
            unsafe {
                unroll!(t in 0..N {
                    let x = broadcast(x[t], g);
                    low[t] = _mm256_dpbusd_avx_epi32(low[t], codes[g][0], x);
                    high[t] = _mm256_dpbusd_avx_epi32(high[t], codes[g][1], x);
                });
                (low, high) = (in_order(low), in_order(high));
            }
        }
        [low, high]
    }
}

/// Within each 128-bit half: bytes of two rows, then pairs of two pairs of rows.
#[inline(always)]
fn interleave_half(rows: [__m256i; 4]) -> [__m256i; 4] {
    unsafe {
        let [a, b, c, d] = rows;
        let (ab_low, ab_high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
        [
            _mm256_unpacklo_epi16(ab_low, cd_low),
            _mm256_unpackhi_epi16(ab_low, cd_low),
            _mm256_unpacklo_epi16(ab_high, cd_high),
            _mm256_unpackhi_epi16(ab_high, cd_high),
        ]
    }
}

#[inline(always)]
fn pack_half(lanes: [__m256i; 4]) -> __m256i {
    unsafe {
        let low = _mm256_packs_epi32(lanes[0], lanes[1]);
        _mm256_packus_epi16(low, _mm256_packs_epi32(lanes[2], lanes[3]))
    }
}

#[inline(always)]
fn scale_half(a: __m256, n: __m256i) -> __m256 {
    unsafe {
        let bits = _mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)));
        _mm256_mul_ps(a, _mm256_castsi256_ps(bits))
    }
}

#[inline(always)]
fn crumbs_half<const N: u32>(a: __m256i) -> __m256i {
    unsafe {
        let shifted = match N {
            0 => a,
            1 => _mm256_srli_epi16::<2>(a),
            2 => _mm256_srli_epi16::<4>(a),
            _ => _mm256_srli_epi16::<6>(a),
        };
        _mm256_and_si256(shifted, _mm256_set1_epi8(3))
    }
}

/// All bits of byte i where bit i of `mask` is set.
#[inline(always)]
fn spread_mask(mask: i32) -> __m256i {
    unsafe {
        // Byte j of the mask to the eight bytes it speaks of, then each its own bit.
        let spread = _mm256_shuffle_epi8(
            _mm256_set1_epi32(mask),
            _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303),
        );
        let bits = _mm256_set1_epi64x(0x8040201008040201u64 as i64);
        _mm256_cmpeq_epi8(_mm256_and_si256(spread, bits), bits)
    }
}

#[inline(always)]
fn add_where_half(a: __m256i, mask: i32, x: u8) -> __m256i {
    unsafe { _mm256_add_epi8(a, _mm256_and_si256(spread_mask(mask), _mm256_set1_epi8(x as i8))) }
}

impl<D: Dot> Simd for Avx2<D> {
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        self.0.call(kernel)
    }

    const FLOAT_VECTORS: usize = 8;
    const FLOAT_SUMS: usize = 6;
    const BYTE_SUMS: usize = 6;
    const MAX_TOKENS: usize = 4;
    const BYTE_ZERO: i32 = D::BYTE_ZERO;
    const SCORE_BLOCKS: usize = 1;
    const ACT_ZERO: i32 = 0;
    type F = F;
    type I = I;
    type B = I;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [unsafe { _mm256_set1_ps(x) }; 2]
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        unsafe {
            [_mm256_andnot_ps(_mm256_set1_ps(-0.0), a[0]), _mm256_andnot_ps(_mm256_set1_ps(-0.0), a[1])]
        }
    }
    #[inline(always)]
    fn reduce_add(self, a: F) -> f32 {
        unsafe {
            let a = _mm256_add_ps(a[0], a[1]);
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, a: F) -> f32 {
        unsafe {
            let a = _mm256_max_ps(a[0], a[1]);
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
        }
    }
    #[inline(always)]
    unsafe fn load(self, src: *const f32) -> F {
        unsafe { [_mm256_loadu_ps(src), _mm256_loadu_ps(src.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(self, dst: *mut f32, a: F) {
        unsafe {
            _mm256_storeu_ps(dst, a[0]);
            _mm256_storeu_ps(dst.add(8), a[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, src: *const u16) -> F {
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(src.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(src.add(8).cast())),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, dst: *mut u16, a: F) {
        unsafe {
            _mm_storeu_si128(dst.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[0]));
            _mm_storeu_si128(dst.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[1]));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, src: *const u16) -> F {
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(src.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(src.add(8).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, src: *const i8) -> F {
        unsafe {
            let bytes = _mm_loadu_si128(src.cast());
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, src: *const u8) -> F {
        unsafe {
            let bytes = _mm_loadu_si128(src.cast());
            [
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))),
            ]
        }
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> I {
        [unsafe { _mm256_set1_epi32(x) }; 2]
    }
    #[inline(always)]
    fn add_i(self, a: I, b: I) -> I {
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn load_i(self, src: *const i32) -> I {
        unsafe { [_mm256_loadu_si256(src.cast()), _mm256_loadu_si256(src.add(8).cast())] }
    }
    #[inline(always)]
    unsafe fn store_i(self, dst: *mut i32, a: I) {
        unsafe {
            _mm256_storeu_si256(dst.cast(), a[0]);
            _mm256_storeu_si256(dst.add(8).cast(), a[1]);
        }
    }
    #[inline(always)]
    fn shl_i<const N: u32>(self, a: I) -> I {
        unsafe {
            [
                _mm256_sll_epi32(a[0], _mm_cvtsi32_si128(N as i32)),
                _mm256_sll_epi32(a[1], _mm_cvtsi32_si128(N as i32)),
            ]
        }
    }
    #[inline(always)]
    fn to_f(self, a: I) -> F {
        unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }
    #[inline(always)]
    fn round(self, a: F) -> I {
        unsafe { [_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])] }
    }
    #[inline(always)]
    fn scale_by_pow2(self, a: F, n: I) -> F {
        [scale_half(a[0], n[0]), scale_half(a[1], n[1])]
    }
    #[inline(always)]
    fn reduce_add_i(self, a: I) -> i32 {
        unsafe {
            let a = _mm256_add_epi32(a[0], a[1]);
            let a = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let a = _mm_add_epi32(a, _mm_shuffle_epi32::<0b01_00_11_10>(a));
            _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32::<0b10_11_00_01>(a)))
        }
    }
    #[inline(always)]
    unsafe fn store_i8(self, dst: *mut i8, a: I) {
        unsafe {
            // Both packs work within 128-bit halves; the permutation puts the four quarters in order.
            let words = _mm256_packs_epi32(a[0], a[1]);
            let bytes = _mm256_packs_epi16(words, words);
            let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
            _mm_storeu_si128(dst.cast(), _mm256_castsi256_si128(bytes));
        }
    }
    #[inline(always)]
    unsafe fn store_u8(self, dst: *mut u8, a: I) {
        unsafe {
            let words = _mm256_packs_epi32(a[0], a[1]);
            let bytes = _mm256_packus_epi16(words, words);
            let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
            _mm_storeu_si128(dst.cast(), _mm256_castsi256_si128(bytes));
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, src: *const u8) -> I {
        unsafe { [_mm256_loadu_si256(src.cast()), _mm256_loadu_si256(src.add(32).cast())] }
    }
    #[inline(always)]
    fn low_nibbles(self, a: I) -> I {
        unsafe {
            [_mm256_and_si256(a[0], _mm256_set1_epi8(15)), _mm256_and_si256(a[1], _mm256_set1_epi8(15))]
        }
    }
    #[inline(always)]
    fn high_nibbles(self, a: I) -> I {
        unsafe {
            [
                _mm256_and_si256(_mm256_srli_epi16::<4>(a[0]), _mm256_set1_epi8(15)),
                _mm256_and_si256(_mm256_srli_epi16::<4>(a[1]), _mm256_set1_epi8(15)),
            ]
        }
    }
    #[inline(always)]
    fn crumbs<const N: u32>(self, a: I) -> I {
        [crumbs_half::<N>(a[0]), crumbs_half::<N>(a[1])]
    }
    #[inline(always)]
    fn add_shl4(self, a: I, b: I) -> I {
        unsafe {
            [
                _mm256_or_si256(a[0], _mm256_slli_epi16::<4>(b[0])),
                _mm256_or_si256(a[1], _mm256_slli_epi16::<4>(b[1])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn add_where(self, a: I, mask: *const u8, x: u8) -> I {
        let halves = unsafe { mask.cast::<[i32; 2]>().read_unaligned() };
        [add_where_half(a[0], halves[0], x), add_where_half(a[1], halves[1], x)]
    }
    #[inline(always)]
    fn lookup(self, a: I, table: &[u8; 16]) -> I {
        let table = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) };
        unsafe { [_mm256_shuffle_epi8(table, a[0]), _mm256_shuffle_epi8(table, a[1])] }
    }
    #[inline(always)]
    unsafe fn lookup_where(self, a: I, mask: *const u8, codes: I, table: &[u8; 16]) -> I {
        let halves = unsafe { mask.cast::<[i32; 2]>().read_unaligned() };
        let found = self.lookup(codes, table);
        unsafe {
            [
                _mm256_blendv_epi8(a[0], found[0], spread_mask(halves[0])),
                _mm256_blendv_epi8(a[1], found[1], spread_mask(halves[1])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        mut acc: [I; N],
        codes: &[I; G],
        bits: u32,
        x: [*const i8; N],
    ) -> [I; N] {
        let (mut low, mut high) = ([acc[0][0]; N], [acc[0][1]; N]);
        unroll!(t in 0..N {
            [low[t], high[t]] = acc[t];
        });
        [low, high] = unsafe { self.0.dot([low, high], codes, bits, x) };
        unroll!(t in 0..N {
            acc[t] = [low[t], high[t]];
        });
        acc
    }
    #[inline(always)]
    fn dot4_signed(self, acc: I, x: I, w: I) -> I {
        [self.0.dot4_signed(acc[0], x[0], w[0]), self.0.dot4_signed(acc[1], x[1], w[1])]
    }
    #[inline(always)]
    fn splat_bytes(self, x: i32) -> I {
        self.splat_i(x)
    }
    #[inline(always)]
    fn interleave4(self, rows: [I; 4]) -> [I; 4] {
        let [a, b, c, d] = rows;
        let low = interleave_half([a[0], b[0], c[0], d[0]]);
        let high = interleave_half([a[1], b[1], c[1], d[1]]);
        [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
    }
    #[inline(always)]
    fn pack_bytes(self, lanes: [I; 4]) -> I {
        let [a, b, c, d] = lanes;
        [pack_half([a[0], b[0], c[0], d[0]]), pack_half([a[1], b[1], c[1], d[1]])]
    }
    #[inline(always)]
    unsafe fn store_bytes(self, dst: *mut u8, a: I) {
        unsafe {
            _mm256_storeu_si256(dst.cast(), a[0]);
            _mm256_storeu_si256(dst.add(32).cast(), a[1]);
        }
    }
    #[inline(always)]
    fn prefetch(self, src: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(src.cast()) }
    }
}
