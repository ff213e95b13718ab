//! AVX2 with FMA and F16C (Haswell, Zen and later): two registers for each value.

// One reason covers every intrinsic below: an `Avx2` exists only inside `run`, which is called only where
// `is_available` said so; loads and stores pass their caller's promise on.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Sixteen `f32`: lanes 0..8, lanes 8..16.
type F = [__m256; 2];
/// Sixteen `i32`, or sixty-four bytes: rows 0..8, rows 8..16.
type I = [__m256i; 2];

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// # Safety
/// [`is_available`] returned true.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// Sum over each lane's four bytes of `codes * x`; no pair may exceed 32767 in magnitude.
#[inline(always)]
fn dot(codes: __m256i, x: __m256i) -> __m256i {
    unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1)) }
}

/// acc + the same for codes of any size.
///
/// code * x = (code - 128) * x + 128 * x. The first as |code - 128| * (x with its sign): at most 128 * 127 * 2 = 32512
/// for a pair; the second as 64 * x, twice: 64 * 127 * 2 = 16256. No pair saturates.
#[inline(always)]
fn dot_wide(acc: __m256i, codes: __m256i, x: __m256i) -> __m256i {
    unsafe {
        let signed = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
        let magnitude = dot(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed));
        let offset = _mm256_slli_epi32::<1>(dot(_mm256_set1_epi8(64), x));
        _mm256_add_epi32(acc, _mm256_add_epi32(magnitude, offset))
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

#[inline(always)]
fn add_where_half(a: __m256i, mask: i32, x: u8) -> __m256i {
    unsafe {
        // Byte j of the mask to the eight bytes it speaks of, then each its own bit.
        let spread = _mm256_shuffle_epi8(
            _mm256_set1_epi32(mask),
            _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303),
        );
        let bits = _mm256_set1_epi64x(0x8040201008040201u64 as i64);
        let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bits), bits);
        _mm256_add_epi8(a, _mm256_and_si256(is_set, _mm256_set1_epi8(x as i8)))
    }
}

impl Simd for Avx2 {
    const MAX_TOKENS: usize = 4;
    const SCORE_BLOCKS: usize = 1;
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
    fn dot4(self, acc: I, codes: I, x: i32) -> I {
        // 127 * 127 * 2 = 32258: no pair saturates.
        unsafe {
            let x = _mm256_set1_epi32(x);
            [_mm256_add_epi32(acc[0], dot(codes[0], x)), _mm256_add_epi32(acc[1], dot(codes[1], x))]
        }
    }
    #[inline(always)]
    fn dot4_wide(self, acc: I, codes: I, x: i32) -> I {
        let x = unsafe { _mm256_set1_epi32(x) };
        [dot_wide(acc[0], codes[0], x), dot_wide(acc[1], codes[1], x)]
    }
    #[inline(always)]
    fn prefetch(self, src: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(src.cast()) }
    }
}
