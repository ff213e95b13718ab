//! AVX-512 with VNNI (Ice Lake, Zen 4 and later): one register for each value.

// One reason covers every intrinsic below: an `Avx512` exists only inside `run`, which is called only where
// `is_available` said so; loads and stores pass their caller's promise on.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

use super::{Kernel, Simd, unroll};

/// Proof of AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
}

/// # Safety
/// [`is_available`] returned true.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma,avx2")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

impl Simd for Avx512 {
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { run(kernel) }
    }

    const FLOAT_VECTORS: usize = 32;
    const FLOAT_SUMS: usize = 16;
    const BYTE_SUMS: usize = 16;
    const MAX_TOKENS: usize = 8;
    const BYTE_ZERO: i32 = 128;
    const SCORE_BLOCKS: usize = 4;
    const ACT_ZERO: i32 = 0;
    type F = __m512;
    type I = __m512i;
    type B = __m512i;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn reduce_add(self, a: __m512) -> f32 {
        unsafe {
            let a = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    unsafe fn load(self, src: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(src) }
    }
    #[inline(always)]
    unsafe fn store(self, dst: *mut f32, a: __m512) {
        unsafe { _mm512_storeu_ps(dst, a) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, src: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(src.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, dst: *mut u16, a: __m512) {
        unsafe { _mm256_storeu_si256(dst.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, src: *const u16) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(src.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, src: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(src.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, src: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(src.cast()))) }
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn add_i(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn load_i(self, src: *const i32) -> __m512i {
        unsafe { _mm512_loadu_si512(src.cast()) }
    }
    #[inline(always)]
    unsafe fn store_i(self, dst: *mut i32, a: __m512i) {
        unsafe { _mm512_storeu_si512(dst.cast(), a) }
    }
    #[inline(always)]
    fn shl_i<const N: u32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn to_f(self, a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512i {
        unsafe { _mm512_cvtps_epi32(a) }
    }
    #[inline(always)]
    fn scale_by_pow2(self, a: __m512, n: __m512i) -> __m512 {
        unsafe { _mm512_scalef_ps(a, _mm512_cvtepi32_ps(n)) }
    }
    #[inline(always)]
    fn reduce_add_i(self, a: __m512i) -> i32 {
        unsafe { _mm512_reduce_add_epi32(a) }
    }
    #[inline(always)]
    unsafe fn store_i8(self, dst: *mut i8, a: __m512i) {
        unsafe { _mm_storeu_si128(dst.cast(), _mm512_cvtepi32_epi8(a)) }
    }
    #[inline(always)]
    unsafe fn store_u8(self, dst: *mut u8, a: __m512i) {
        unsafe { _mm_storeu_si128(dst.cast(), _mm512_cvtepi32_epi8(a)) }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, src: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(src.cast()) }
    }
    #[inline(always)]
    fn low_nibbles(self, a: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    fn high_nibbles(self, a: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(a), _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    fn crumbs<const N: u32>(self, a: __m512i) -> __m512i {
        unsafe {
            let shifted = match N {
                0 => a,
                1 => _mm512_srli_epi16::<2>(a),
                2 => _mm512_srli_epi16::<4>(a),
                _ => _mm512_srli_epi16::<6>(a),
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(3))
        }
    }
    #[inline(always)]
    fn add_shl4(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, _mm512_slli_epi16::<4>(b)) }
    }
    #[inline(always)]
    unsafe fn add_where(self, a: __m512i, mask: *const u8, x: u8) -> __m512i {
        unsafe { _mm512_mask_add_epi8(a, mask.cast::<u64>().read_unaligned(), a, _mm512_set1_epi8(x as i8)) }
    }
    #[inline(always)]
    fn lookup(self, a: __m512i, table: &[u8; 16]) -> __m512i {
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, a)
        }
    }
    #[inline(always)]
    unsafe fn lookup_where(self, a: __m512i, mask: *const u8, codes: __m512i, table: &[u8; 16]) -> __m512i {
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_mask_shuffle_epi8(a, mask.cast::<u64>().read_unaligned(), table, codes)
        }
    }
    #[inline(always)]
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        mut acc: [__m512i; N],
        codes: &[__m512i; G],
        _bits: u32,
        x: [*const i8; N],
    ) -> [__m512i; N] {
        unroll!(t in 0..N {
            for g in 0..G {
                unsafe {
                    let x = _mm512_set1_epi32(x[t].cast::<i32>().add(g).read_unaligned());
                    acc[t] = _mm512_dpbusd_epi32(acc[t], codes[g], x);
                }
            }
        });
        acc
    }
    #[inline(always)]
    fn dot4_signed(self, acc: __m512i, x: __m512i, w: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, x, w) }
    }
    #[inline(always)]
    fn splat_bytes(self, x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn interleave4(self, rows: [__m512i; 4]) -> [__m512i; 4] {
        unsafe {
            // Within each 128-bit quarter: bytes of two rows, then pairs of two pairs of rows.
            let [a, b, c, d] = rows;
            let (ab_low, ab_high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
            [
                _mm512_unpacklo_epi16(ab_low, cd_low),
                _mm512_unpackhi_epi16(ab_low, cd_low),
                _mm512_unpacklo_epi16(ab_high, cd_high),
                _mm512_unpackhi_epi16(ab_high, cd_high),
            ]
        }
    }
    #[inline(always)]
    fn pack_bytes(self, lanes: [__m512i; 4]) -> __m512i {
        unsafe {
            let low = _mm512_packs_epi32(lanes[0], lanes[1]);
            _mm512_packus_epi16(low, _mm512_packs_epi32(lanes[2], lanes[3]))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, dst: *mut u8, a: __m512i) {
        unsafe { _mm512_storeu_si512(dst.cast(), a) }
    }
    #[inline(always)]
    unsafe fn store_bytes_part(self, dst: *mut u8, a: __m512i, n: usize) {
        unsafe { _mm512_mask_storeu_epi8(dst.cast(), u64::MAX >> (64 - n), a) }
    }
    #[inline(always)]
    unsafe fn store_part(self, dst: *mut f32, a: __m512, n: usize) {
        unsafe { _mm512_mask_storeu_ps(dst, u16::MAX >> (16 - n), a) }
    }
    #[inline(always)]
    unsafe fn store_u8_part(self, dst: *mut u8, a: __m512i, n: usize) {
        unsafe { _mm_mask_storeu_epi8(dst.cast(), u16::MAX >> (16 - n), _mm512_cvtepi32_epi8(a)) }
    }
    #[inline(always)]
    fn prefetch(self, src: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(src.cast()) }
    }
}
