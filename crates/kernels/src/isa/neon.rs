//! NEON of 64-bit Arm: four registers for each value, and three ways to multiply bytes.
//!
//! - [`I8mm`]: `usmmla`, two rows by two tokens in one instruction (FEAT_I8MM: Neoverse V1, Cortex-A510 and A710,
//!   Apple M2 and later);
//! - [`DotProd`]: `sdot` (FEAT_DotProd: Cortex-A55 and A76, Raspberry Pi 5, Apple M1 and later);
//! - [`Base`]: widening multiplications, which every 64-bit Arm has (Cortex-A53 and A72, Raspberry Pi 3 and 4).
//!
//! Everything else is the same code. The byte products are written in assembly, because their intrinsics are not
//! in stable Rust yet; `.arch_extension` makes them assemble in whichever function the compiler puts them. That they
//! are not declared pure keeps them in the order in which they are written, which is the one that needs no more than
//! the 32 registers: half a tile, which is two registers of each value, at a time.

// One reason covers every intrinsic below: a `Neon<D>` exists only inside `run_base`, `run_dotprod` and `run_i8mm`,
// which are called only where `has_dotprod` and `has_i8mm` said so (NEON itself is part of every aarch64 target);
// loads and stores pass their caller's promise on.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::array::from_fn;

use super::{Kernel, Simd, unroll};

/// Proof of NEON, and of what `D` needs.
#[derive(Clone, Copy)]
pub(crate) struct Neon<D>(D);

/// Sixteen `f32`: element i has lanes 4i..4i+4.
type F = [float32x4_t; 4];
/// Sixteen `i32`, as above.
type I = [int32x4_t; 4];
/// Sixty-four bytes: element i has rows 4i..4i+4.
type B = [uint8x16_t; 4];

pub(super) fn has_dotprod() -> bool {
    is_aarch64_feature_detected!("dotprod")
}

pub(super) fn has_i8mm() -> bool {
    has_dotprod() && is_aarch64_feature_detected!("i8mm")
}

#[inline(never)]
pub(super) fn run_base<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(Base(())))
}

/// # Safety
/// [`has_dotprod`] returned true.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run_dotprod<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(DotProd(())))
}

/// # Safety
/// [`has_i8mm`] returned true.
#[inline(never)]
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) unsafe fn run_i8mm<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(I8mm(())))
}

/// Halves of a tile.
const HALVES: usize = 2;

/// How bytes are multiplied.
pub(crate) trait Dot: Copy + Send + Sync + 'static {
    /// See [`Simd::MAX_TOKENS`].
    const MAX_TOKENS: usize;
    /// See [`Simd::BYTE_ZERO`].
    const BYTE_ZERO: i32;
    /// See [`Simd::ACT_ZERO`].
    const ACT_ZERO: i32;
    /// Unsigned bytes of `x`, less `ACT_ZERO`, times signed bytes of `w`.
    fn dot4_signed(self, acc: int32x4_t, x: uint8x16_t, w: int8x16_t) -> int32x4_t;
    /// See [`Simd::call`].
    fn call<K: Kernel>(self, kernel: K) -> K::Output;
    /// See [`Simd::dot`].
    ///
    /// # Safety
    /// As there.
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        acc: [I; N],
        codes: &[B; G],
        bits: u32,
        x: [*const i8; N],
    ) -> [I; N];
}

/// Codes of eight bits less 128, as signed bytes.
#[inline(always)]
fn minus_128<const G: usize>(mut codes: [B; G]) -> [B; G] {
    for codes in &mut codes {
        *codes = codes.map(|codes| unsafe { veorq_u8(codes, vdupq_n_u8(128)) });
    }
    codes
}

/// Unsigned bytes less 128.
#[inline(always)]
fn signed(x: uint8x16_t) -> int8x16_t {
    unsafe { vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(128))) }
}

/// Nothing but NEON.
#[derive(Clone, Copy)]
pub(crate) struct Base(());

impl Dot for Base {
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        run_base(kernel)
    }
    const MAX_TOKENS: usize = 4;
    const BYTE_ZERO: i32 = 0;
    const ACT_ZERO: i32 = 128;

    #[inline(always)]
    fn dot4_signed(self, acc: int32x4_t, x: uint8x16_t, w: int8x16_t) -> int32x4_t {
        unsafe {
            // Two products of -128 by -128 would overflow sixteen bits: pairs are added in 32.
            let x = signed(x);
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(w)));
            vaddq_s32(acc, vpaddq_s32(low, vpaddlq_s16(vmull_high_s8(x, w))))
        }
    }
    #[inline(always)]
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        mut acc: [I; N],
        codes: &[B; G],
        bits: u32,
        x: [*const i8; N],
    ) -> [I; N] {
        let codes = if bits == 8 { minus_128(*codes) } else { *codes };
        // Words whose products may be added up in sixteen bits: a pair is at most 2 * 127 * the largest code.
        let run = if bits == 8 { 1 } else { (32767 / (2 * 127 * ((1 << bits) - 1))).min(G) };
        unroll!(half in 0..HALVES {
            let mut first = 0;
            while first < G {
                // Rows 0 and 1, 2 and 3, of each register.
                let mut sums = [[unsafe { vdupq_n_s16(0) }; 4]; N];
                for g in first..first + run {
                    let [a, b] = [2 * half, 2 * half + 1].map(|i| unsafe { vreinterpretq_s8_u8(codes[g][i]) });
                    unroll!(t in 0..N {
                        let [a0, a1, b0, b1] = sums[t];
                        sums[t] = unsafe {
                            let x = vdupq_n_s32(x[t].cast::<i32>().add(g).read_unaligned());
                            let x = vreinterpretq_s8_s32(x);
                            [
                                vmlal_s8(a0, vget_low_s8(a), vget_low_s8(x)),
                                vmlal_high_s8(a1, a, x),
                                vmlal_s8(b0, vget_low_s8(b), vget_low_s8(x)),
                                vmlal_high_s8(b1, b, x),
                            ]
                        };
                    });
                    sums = in_order(sums);
                }
                unroll!(t in 0..N {
                    let [a0, a1, b0, b1] = sums[t];
                    unsafe {
                        acc[t][2 * half] = vpadalq_s16(acc[t][2 * half], vpaddq_s16(a0, a1));
                        acc[t][2 * half + 1] = vpadalq_s16(acc[t][2 * half + 1], vpaddq_s16(b0, b1));
                    }
                });
                first += run;
            }
        });
        acc
    }
}

/// The compiler computes `sums` before what follows; see the module's last paragraph.
#[inline(always)]
fn in_order<const N: usize>(mut sums: [[int16x8_t; 4]; N]) -> [[int16x8_t; 4]; N] {
    unroll!(t in 0..N {
        let [a, b, c, d] = &mut sums[t];
        unsafe {
            asm!(
                "/* {a:v} {b:v} {c:v} {d:v} */",
                a = inout(vreg) *a, b = inout(vreg) *b, c = inout(vreg) *c, d = inout(vreg) *d,
                options(nomem, nostack, preserves_flags),
            );
        }
    });
    sums
}

/// Instructions that multiply each lane's four codes with the same four activations, of sixteen.
trait LaneDot: Copy {
    /// Each lane gains the dot product of its four bytes of `codes` and of bytes `4 * LANE..4 * LANE + 4` of `x`.
    fn dot_lane<const LANE: usize>(self, acc: int32x4_t, codes: uint8x16_t, x: int8x16_t) -> int32x4_t;

    /// [`Dot::dot`] by lanes.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn dot_by_lanes<const N: usize, const G: usize>(
        self,
        mut acc: [I; N],
        codes: &[B; G],
        x: [*const i8; N],
    ) -> [I; N] {
        const { assert!(G.is_multiple_of(4)) };
        unroll!(half in 0..HALVES {
            for quad in 0..G / 4 {
                let mut sixteen = [unsafe { vdupq_n_s8(0) }; N];
                unroll!(t in 0..N {
                    sixteen[t] = unsafe { vld1q_s8(x[t].add(16 * quad)) };
                });
                macro_rules! word {
                    ($lane:literal) => {
                        let codes = codes[4 * quad + $lane];
                        unroll!(t in 0..N {
                            for i in [2 * half, 2 * half + 1] {
                                acc[t][i] = self.dot_lane::<$lane>(acc[t][i], codes[i], sixteen[t]);
                            }
                        });
                    };
                }
                word!(0);
                word!(1);
                word!(2);
                word!(3);
            }
        });
        acc
    }
}

/// Proof of FEAT_DotProd.
#[derive(Clone, Copy)]
pub(crate) struct DotProd(());

impl LaneDot for DotProd {
    #[inline(always)]
    fn dot_lane<const LANE: usize>(self, mut acc: int32x4_t, codes: uint8x16_t, x: int8x16_t) -> int32x4_t {
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {acc:v}.4s, {codes:v}.16b, {x:v}.4b[{lane}]",
                acc = inout(vreg) acc, codes = in(vreg) codes, x = in(vreg) x, lane = const LANE,
                options(nomem, nostack, preserves_flags),
            );
        }
        acc
    }
}

impl Dot for DotProd {
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { run_dotprod(kernel) }
    }
    const MAX_TOKENS: usize = 8;
    const BYTE_ZERO: i32 = 0;
    const ACT_ZERO: i32 = 128;

    #[inline(always)]
    fn dot4_signed(self, mut acc: int32x4_t, x: uint8x16_t, w: int8x16_t) -> int32x4_t {
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {acc:v}.4s, {x:v}.16b, {w:v}.16b",
                acc = inout(vreg) acc, x = in(vreg) signed(x), w = in(vreg) w,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        acc
    }
    #[inline(always)]
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        acc: [I; N],
        codes: &[B; G],
        bits: u32,
        x: [*const i8; N],
    ) -> [I; N] {
        let codes = if bits == 8 { minus_128(*codes) } else { *codes };
        unsafe { self.dot_by_lanes(acc, &codes, x) }
    }
}

/// Proof of FEAT_DotProd and FEAT_I8MM.
#[derive(Clone, Copy)]
pub(crate) struct I8mm(());

impl I8mm {
    /// Two rows of eight codes by two tokens' eight activations: `[row 0 token 0, row 0 token 1, row 1 ...]` gains
    /// their dot products.
    #[inline(always)]
    fn usmmla(self, mut acc: int32x4_t, codes: uint8x16_t, x: int8x16_t) -> int32x4_t {
        unsafe {
            asm!(
                ".arch_extension i8mm",
                "usmmla {acc:v}.4s, {codes:v}.16b, {x:v}.16b",
                acc = inout(vreg) acc, codes = in(vreg) codes, x = in(vreg) x,
                options(nomem, nostack, preserves_flags),
            );
        }
        acc
    }
}

impl LaneDot for I8mm {
    #[inline(always)]
    fn dot_lane<const LANE: usize>(self, mut acc: int32x4_t, codes: uint8x16_t, x: int8x16_t) -> int32x4_t {
        unsafe {
            asm!(
                ".arch_extension i8mm",
                "usdot {acc:v}.4s, {codes:v}.16b, {x:v}.4b[{lane}]",
                acc = inout(vreg) acc, codes = in(vreg) codes, x = in(vreg) x, lane = const LANE,
                options(nomem, nostack, preserves_flags),
            );
        }
        acc
    }
}

impl Dot for I8mm {
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { run_i8mm(kernel) }
    }
    const MAX_TOKENS: usize = 8;
    const BYTE_ZERO: i32 = 128;
    const ACT_ZERO: i32 = 0;

    #[inline(always)]
    fn dot4_signed(self, mut acc: int32x4_t, x: uint8x16_t, w: int8x16_t) -> int32x4_t {
        unsafe {
            asm!(
                ".arch_extension i8mm",
                "usdot {acc:v}.4s, {x:v}.16b, {w:v}.16b",
                acc = inout(vreg) acc, x = in(vreg) x, w = in(vreg) w,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        acc
    }
    #[inline(always)]
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        mut acc: [I; N],
        codes: &[B; G],
        _bits: u32,
        x: [*const i8; N],
    ) -> [I; N] {
        if const { N % 2 != 0 } {
            return unsafe { self.dot_by_lanes(acc, codes, x) };
        }
        unroll!(half in 0..HALVES {
            let (a, b) = (2 * half, 2 * half + 1);
            // For each pair of tokens, `t` and `t + 1`, at `t`: the four pairs of rows.
            let mut sums = acc;
            unroll!(t in 0..N {
                if t % 2 == 0 {
                    let (x, y) = (acc[t], acc[t + 1]);
                    sums[t] = unsafe {
                        [vzip1q_s32(x[a], y[a]), vzip2q_s32(x[a], y[a]), vzip1q_s32(x[b], y[b]), vzip2q_s32(x[b], y[b])]
                    };
                }
            });
            for pair in 0..G / 2 {
                let (left, right) = (codes[2 * pair], codes[2 * pair + 1]);
                let codes = [zip1(left[a], right[a]), zip2(left[a], right[a]), zip1(left[b], right[b]), zip2(left[b], right[b])];
                unroll!(t in 0..N {
                    if t % 2 == 0 {
                        let x = unsafe {
                            vcombine_s8(vld1_s8(x[t].add(8 * pair)), vld1_s8(x[t + 1].add(8 * pair)))
                        };
                        for i in 0..4 {
                            sums[t][i] = self.usmmla(sums[t][i], codes[i], x);
                        }
                    }
                });
            }
            unroll!(t in 0..N {
                if t % 2 == 0 {
                    let [p, q, r, s] = sums[t];
                    unsafe {
                        (acc[t][a], acc[t][b]) = (vuzp1q_s32(p, q), vuzp1q_s32(r, s));
                        (acc[t + 1][a], acc[t + 1][b]) = (vuzp2q_s32(p, q), vuzp2q_s32(r, s));
                    }
                }
            });
        });
        acc
    }
}

/// Columns of `left` beside those of `right`: of the first two rows.
#[inline(always)]
fn zip1(left: uint8x16_t, right: uint8x16_t) -> uint8x16_t {
    unsafe { vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(left), vreinterpretq_u32_u8(right))) }
}

/// The same of the last two rows.
#[inline(always)]
fn zip2(left: uint8x16_t, right: uint8x16_t) -> uint8x16_t {
    unsafe { vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(left), vreinterpretq_u32_u8(right))) }
}

/// All bits of byte i where bit i of the eight bytes at `mask` is set.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn spread_mask(mask: *const u8) -> B {
    unsafe {
        let mask = vcombine_u8(vld1_u8(mask), vdup_n_u8(0));
        // Byte j of the mask to the eight bytes it speaks of, then each its own bit.
        let first_bytes = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
        let bits = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
        from_fn(|i| {
            let spread = vqtbl1q_u8(mask, vaddq_u8(first_bytes, vdupq_n_u8(2 * i as u8)));
            vtstq_u8(spread, bits)
        })
    }
}

impl<D: Dot> Simd for Neon<D> {
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        self.0.call(kernel)
    }

    const FLOAT_VECTORS: usize = 8;
    const FLOAT_SUMS: usize = 6;
    const BYTE_SUMS: usize = 4;
    const MAX_TOKENS: usize = D::MAX_TOKENS;
    const BYTE_ZERO: i32 = D::BYTE_ZERO;
    const SCORE_BLOCKS: usize = 1;
    const ACT_ZERO: i32 = D::ACT_ZERO;
    type F = F;
    type I = I;
    type B = B;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [unsafe { vdupq_n_f32(x) }; 4]
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        from_fn(|i| unsafe { vaddq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        from_fn(|i| unsafe { vsubq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        from_fn(|i| unsafe { vmulq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        from_fn(|i| unsafe { vdivq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        from_fn(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        // Not `fmax`, which answers NaN if either is, and takes 0 over -0.
        from_fn(|i| unsafe { vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]) })
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        from_fn(|i| unsafe { vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]) })
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        a.map(|a| unsafe { vabsq_f32(a) })
    }
    #[inline(always)]
    fn reduce_add(self, a: F) -> f32 {
        unsafe {
            let a = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            vpadds_f32(vadd_f32(vget_low_f32(a), vget_high_f32(a)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, a: F) -> f32 {
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(a[0], a[1]), vmaxq_f32(a[2], a[3]))) }
    }
    #[inline(always)]
    unsafe fn load(self, src: *const f32) -> F {
        from_fn(|i| unsafe { vld1q_f32(src.add(4 * i)) })
    }
    #[inline(always)]
    unsafe fn store(self, dst: *mut f32, a: F) {
        for (i, a) in a.into_iter().enumerate() {
            unsafe { vst1q_f32(dst.add(4 * i), a) }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, src: *const u16) -> F {
        from_fn(|i| unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(src.add(4 * i)))) })
    }
    #[inline(always)]
    unsafe fn store_f16(self, dst: *mut u16, a: F) {
        for (i, a) in a.into_iter().enumerate() {
            unsafe { vst1_u16(dst.add(4 * i), vreinterpret_u16_f16(vcvt_f16_f32(a))) }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, src: *const u16) -> F {
        from_fn(|i| unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(src.add(4 * i)))) })
    }
    #[inline(always)]
    unsafe fn load_i8(self, src: *const i8) -> F {
        unsafe {
            let bytes = vld1q_s8(src);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            let wide = [vget_low_s16(low), vget_high_s16(low), vget_low_s16(high), vget_high_s16(high)];
            wide.map(|wide| vcvtq_f32_s32(vmovl_s16(wide)))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, src: *const u8) -> F {
        unsafe {
            let bytes = vld1q_u8(src);
            let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
            let wide = [vget_low_u16(low), vget_high_u16(low), vget_low_u16(high), vget_high_u16(high)];
            wide.map(|wide| vcvtq_f32_u32(vmovl_u16(wide)))
        }
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> I {
        [unsafe { vdupq_n_s32(x) }; 4]
    }
    #[inline(always)]
    fn add_i(self, a: I, b: I) -> I {
        from_fn(|i| unsafe { vaddq_s32(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn load_i(self, src: *const i32) -> I {
        from_fn(|i| unsafe { vld1q_s32(src.add(4 * i)) })
    }
    #[inline(always)]
    unsafe fn store_i(self, dst: *mut i32, a: I) {
        for (i, a) in a.into_iter().enumerate() {
            unsafe { vst1q_s32(dst.add(4 * i), a) }
        }
    }
    #[inline(always)]
    fn shl_i<const N: u32>(self, a: I) -> I {
        a.map(|a| unsafe { vshlq_s32(a, vdupq_n_s32(N as i32)) })
    }
    #[inline(always)]
    fn to_f(self, a: I) -> F {
        a.map(|a| unsafe { vcvtq_f32_s32(a) })
    }
    #[inline(always)]
    fn round(self, a: F) -> I {
        a.map(|a| unsafe { vcvtnq_s32_f32(a) })
    }
    #[inline(always)]
    fn scale_by_pow2(self, a: F, n: I) -> F {
        from_fn(|i| unsafe {
            let bits = vshlq_n_s32::<23>(vaddq_s32(n[i], vdupq_n_s32(127)));
            vmulq_f32(a[i], vreinterpretq_f32_s32(bits))
        })
    }
    #[inline(always)]
    fn reduce_add_i(self, a: I) -> i32 {
        unsafe { vaddvq_s32(vaddq_s32(vaddq_s32(a[0], a[1]), vaddq_s32(a[2], a[3]))) }
    }
    #[inline(always)]
    unsafe fn store_i8(self, dst: *mut i8, a: I) {
        unsafe {
            let low = vmovn_high_s32(vmovn_s32(a[0]), a[1]);
            let high = vmovn_high_s32(vmovn_s32(a[2]), a[3]);
            vst1q_s8(dst, vmovn_high_s16(vmovn_s16(low), high));
        }
    }
    #[inline(always)]
    unsafe fn store_u8(self, dst: *mut u8, a: I) {
        unsafe { self.store_i8(dst.cast(), a) }
    }

    #[inline(always)]
    unsafe fn load_bytes(self, src: *const u8) -> B {
        from_fn(|i| unsafe { vld1q_u8(src.add(16 * i)) })
    }
    #[inline(always)]
    fn low_nibbles(self, a: B) -> B {
        a.map(|a| unsafe { vandq_u8(a, vdupq_n_u8(15)) })
    }
    #[inline(always)]
    fn high_nibbles(self, a: B) -> B {
        a.map(|a| unsafe { vshrq_n_u8::<4>(a) })
    }
    #[inline(always)]
    fn crumbs<const N: u32>(self, a: B) -> B {
        a.map(|a| unsafe {
            match N {
                0 => vandq_u8(a, vdupq_n_u8(3)),
                1 => vandq_u8(vshrq_n_u8::<2>(a), vdupq_n_u8(3)),
                2 => vandq_u8(vshrq_n_u8::<4>(a), vdupq_n_u8(3)),
                _ => vshrq_n_u8::<6>(a),
            }
        })
    }
    #[inline(always)]
    fn add_shl4(self, a: B, b: B) -> B {
        from_fn(|i| unsafe { vsliq_n_u8::<4>(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn add_where(self, a: B, mask: *const u8, x: u8) -> B {
        unsafe {
            let is_set = spread_mask(mask);
            from_fn(|i| vaddq_u8(a[i], vandq_u8(is_set[i], vdupq_n_u8(x))))
        }
    }
    #[inline(always)]
    fn lookup(self, a: B, table: &[u8; 16]) -> B {
        let table = unsafe { vld1q_u8(table.as_ptr()) };
        a.map(|a| unsafe { vqtbl1q_u8(table, a) })
    }
    #[inline(always)]
    unsafe fn lookup_where(self, a: B, mask: *const u8, codes: B, table: &[u8; 16]) -> B {
        let found = self.lookup(codes, table);
        unsafe {
            let is_set = spread_mask(mask);
            from_fn(|i| vbslq_u8(is_set[i], found[i], a[i]))
        }
    }
    #[inline(always)]
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        acc: [I; N],
        codes: &[B; G],
        bits: u32,
        x: [*const i8; N],
    ) -> [I; N] {
        unsafe { self.0.dot(acc, codes, bits, x) }
    }
    #[inline(always)]
    fn dot4_signed(self, acc: I, x: B, w: B) -> I {
        from_fn(|i| self.0.dot4_signed(acc[i], x[i], unsafe { vreinterpretq_s8_u8(w[i]) }))
    }
    #[inline(always)]
    fn splat_bytes(self, x: i32) -> B {
        [unsafe { vreinterpretq_u8_s32(vdupq_n_s32(x)) }; 4]
    }
    #[inline(always)]
    fn interleave4(self, rows: [B; 4]) -> [B; 4] {
        // Bytes of two rows, then pairs of two pairs of rows: quarter j of vector v.
        let quarters: [[uint8x16_t; 4]; 4] = from_fn(|j| unsafe {
            let [a, b, c, d] = [rows[0][j], rows[1][j], rows[2][j], rows[3][j]];
            let words = |a| vreinterpretq_u16_u8(a);
            let (ab_low, ab_high) = (words(vzip1q_u8(a, b)), words(vzip2q_u8(a, b)));
            let (cd_low, cd_high) = (words(vzip1q_u8(c, d)), words(vzip2q_u8(c, d)));
            [
                vreinterpretq_u8_u16(vzip1q_u16(ab_low, cd_low)),
                vreinterpretq_u8_u16(vzip2q_u16(ab_low, cd_low)),
                vreinterpretq_u8_u16(vzip1q_u16(ab_high, cd_high)),
                vreinterpretq_u8_u16(vzip2q_u16(ab_high, cd_high)),
            ]
        });
        from_fn(|v| from_fn(|j| quarters[j][v]))
    }
    #[inline(always)]
    fn pack_bytes(self, lanes: [I; 4]) -> B {
        from_fn(|j| unsafe {
            let low = vmovn_high_s32(vmovn_s32(lanes[0][j]), lanes[1][j]);
            let high = vmovn_high_s32(vmovn_s32(lanes[2][j]), lanes[3][j]);
            vreinterpretq_u8_s8(vmovn_high_s16(vmovn_s16(low), high))
        })
    }
    #[inline(always)]
    unsafe fn store_bytes(self, dst: *mut u8, a: B) {
        for (i, a) in a.into_iter().enumerate() {
            unsafe { vst1q_u8(dst.add(16 * i), a) }
        }
    }
    #[inline(always)]
    fn prefetch(self, src: *const u8) {
        // `_prefetch` is not in stable Rust. A prefetch never faults, whatever the address.
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) src, options(nostack, preserves_flags, readonly)) }
    }
}
