//! Instruction sets, described as registers: sixteen `f32`, sixteen `i32`, sixty-four bytes.
//!
//! Every kernel is written once, generically over [`Simd`], and compiled once per instruction set. An instruction
//! set is a file here that says how to do each step on its registers; a narrower machine uses several registers
//! for one value. Because the lanes and the order of every floating-point operation are the same on all of them,
//! **all instruction sets give bit-identical results**; the tests hold them to that.
//!
//! A value of a type that implements [`Simd`] exists only if the CPU has the instructions: holding one is the
//! proof that its methods may be called, which is why those that touch no memory are safe. The idea is
//! rten-simd's and pulp's.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;

/// Rows of a weight tile, and lanes of every vector.
pub(crate) const LANES: usize = 16;

/// A loop over at most 16 numbers, written out: only then does every element of an array of vectors have a register
/// of its own. (`const` conditions, here and in the kernels: what is not needed is then not even translated. The plain one
/// shows the compiler's lints that indices beyond are not used.)
macro_rules! unroll {
    ($t:ident in 0..$n:ident $body:block) => {
        crate::isa::unroll!(@ $t $n $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $t:ident $n:ident $body:block $($i:literal)*) => {
        $(if const { $i < $n } && $i < $n {
            let $t = $i;
            $body
        })*
    };
}
pub(crate) use unroll;

/// The steps that kernels are made of, on one instruction set.
///
/// `unsafe` methods read or write memory; the caller guarantees that the pointed-to elements are in bounds.
/// No alignment is required.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Runs a kernel as a function of its own. For kernels with so many variants that all in one function would take the
    /// compiler minutes.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    /// Vectors of sixteen floats that the registers hold.
    const FLOAT_VECTORS: usize;
    /// Vectors of sums of floats that a convolution keeps in registers, beside its weights and inputs.
    const FLOAT_SUMS: usize;
    /// The same of [`Simd::dot4_signed`], beside what that needs.
    const BYTE_SUMS: usize;
    /// Tokens that the integer matrix kernel keeps in registers at once: 1, 2, 4, 8 or 16.
    const MAX_TOKENS: usize;
    /// What [`Simd::dot`] leaves to be subtracted from codes of eight bits, whose zero point is 128: 128 where bytes
    /// are multiplied as unsigned ones, 0 where as signed ones.
    const BYTE_ZERO: i32;
    /// Independent blocks of 16 positions that attention scores at once (to hide the latency of the adder).
    const SCORE_BLOCKS: usize;

    /// What [`Simd::dot4_signed`] takes from each byte of `x`: 0, or 128 where only signed bytes can be multiplied.
    const ACT_ZERO: i32;

    /// Sixteen `f32`.
    type F: Copy;
    /// Sixteen `i32`.
    type I: Copy;
    /// Sixty-four `u8`: four consecutive weights of each of sixteen rows.
    type B: Copy;

    fn splat(self, x: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of each pair; where either is NaN, `b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of each pair; where either is NaN, `b`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// Sum of the lanes: lane i and i + 8, then i and i + 4, i + 2, i + 1.
    fn reduce_add(self, a: Self::F) -> f32;
    /// [`Simd::reduce_add`] of each of several.
    #[inline(always)]
    fn reduce_add_each<const N: usize>(self, a: [Self::F; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        unroll!(i in 0..N {
            sums[i] = self.reduce_add(a[i]);
        });
        sums
    }
    /// Largest lane; no lane is NaN.
    fn reduce_max(self, a: Self::F) -> f32;
    unsafe fn load(self, src: *const f32) -> Self::F;
    unsafe fn store(self, dst: *mut f32, a: Self::F);
    /// Sixteen IEEE half floats, widened exactly.
    unsafe fn load_f16(self, src: *const u16) -> Self::F;
    /// Rounded to nearest, ties to even; overflow gives infinity.
    unsafe fn store_f16(self, dst: *mut u16, a: Self::F);
    /// Sixteen bfloat16, widened exactly.
    unsafe fn load_bf16(self, src: *const u16) -> Self::F;
    unsafe fn load_i8(self, src: *const i8) -> Self::F;
    unsafe fn load_u8(self, src: *const u8) -> Self::F;

    fn splat_i(self, x: i32) -> Self::I;
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    unsafe fn load_i(self, src: *const i32) -> Self::I;
    unsafe fn store_i(self, dst: *mut i32, a: Self::I);
    /// Shifted left by `N` bits.
    fn shl_i<const N: u32>(self, a: Self::I) -> Self::I;
    fn to_f(self, a: Self::I) -> Self::F;
    /// Rounded to nearest, ties to even. Values beyond `i32` are the caller's mistake.
    fn round(self, a: Self::F) -> Self::I;
    /// a * 2^n for n in -126..=127, by the exponent's bits.
    fn scale_by_pow2(self, a: Self::F, n: Self::I) -> Self::F;
    /// Sum of the lanes.
    fn reduce_add_i(self, a: Self::I) -> i32;
    /// Lanes, each in -128..=127, as bytes.
    unsafe fn store_i8(self, dst: *mut i8, a: Self::I);
    /// Lanes, each in 0..=255, as bytes.
    unsafe fn store_u8(self, dst: *mut u8, a: Self::I);

    unsafe fn load_bytes(self, src: *const u8) -> Self::B;
    /// Bits 0..=3 of each byte.
    fn low_nibbles(self, a: Self::B) -> Self::B;
    /// Bits 4..=7 of each byte.
    fn high_nibbles(self, a: Self::B) -> Self::B;
    /// Bits `2 * N` and `2 * N + 1` of each byte.
    fn crumbs<const N: u32>(self, a: Self::B) -> Self::B;
    /// a + (b << 4), for bytes below 16.
    fn add_shl4(self, a: Self::B, b: Self::B) -> Self::B;
    /// Adds `x` to byte i where bit i of the eight bytes at `mask` is set.
    unsafe fn add_where(self, a: Self::B, mask: *const u8, x: u8) -> Self::B;
    /// table[a] for bytes below 16.
    fn lookup(self, a: Self::B, table: &[u8; 16]) -> Self::B;
    /// a, but table[codes], for bytes below 16, where bit i of the eight bytes at `mask` is set.
    unsafe fn lookup_where(self, a: Self::B, mask: *const u8, codes: Self::B, table: &[u8; 16]) -> Self::B;
    /// Dot products with `N` tokens: lane r of `acc[t]` gains that of row r's `4 * G` codes, of which `codes[g]` holds
    /// columns `4g..4g + 4`, with the bytes at `x[t]`, which are signed and at least -127. `codes` are unsigned and of
    /// `bits` bits; those of eight count as `code - 128 + BYTE_ZERO`. `G` is 4 or 8.
    unsafe fn dot<const N: usize, const G: usize>(
        self,
        acc: [Self::I; N],
        codes: &[Self::B; G],
        bits: u32,
        x: [*const i8; N],
    ) -> [Self::I; N];
    /// Lane r gains the dot product of its four bytes of `x` (unsigned, less [`Simd::ACT_ZERO`]) with its four bytes
    /// of `w` (signed), all of any size.
    fn dot4_signed(self, acc: Self::I, x: Self::B, w: Self::B) -> Self::I;
    /// The four bytes of `x` in every lane.
    fn splat_bytes(self, x: i32) -> Self::B;
    /// Four rows of 64 channels, transposed: lane 4 j + e of vector v holds the bytes of channel 16 j + 4 v + e, one
    /// from each row.
    fn interleave4(self, rows: [Self::B; 4]) -> [Self::B; 4];
    /// Lanes, each in 0..=255, as bytes, in the order that undoes [`Simd::interleave4`]: byte 16 j + 4 v + e is lane
    /// 4 j + e of vector v.
    fn pack_bytes(self, lanes: [Self::I; 4]) -> Self::B;
    unsafe fn store_bytes(self, dst: *mut u8, a: Self::B);
    /// The first `n` bytes, at most 64.
    #[inline(always)]
    unsafe fn store_bytes_part(self, dst: *mut u8, a: Self::B, n: usize) {
        // SAFETY: the caller's: `n` bytes are writable.
        unsafe {
            if n == 64 {
                self.store_bytes(dst, a);
            } else {
                let mut bytes = [0; 64];
                self.store_bytes(bytes.as_mut_ptr(), a);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), dst, n);
            }
        }
    }
    /// The first `n` lanes, at most 16.
    #[inline(always)]
    unsafe fn store_part(self, dst: *mut f32, a: Self::F, n: usize) {
        // SAFETY: the caller's: `n` elements are writable.
        unsafe {
            if n == LANES {
                self.store(dst, a);
            } else {
                let mut lanes = [0.0; LANES];
                self.store(lanes.as_mut_ptr(), a);
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), dst, n);
            }
        }
    }
    /// As [`Simd::store_u8`], the first `n` lanes, at most 16.
    #[inline(always)]
    unsafe fn store_u8_part(self, dst: *mut u8, a: Self::I, n: usize) {
        // SAFETY: the caller's: `n` elements are writable.
        unsafe {
            if n == LANES {
                self.store_u8(dst, a);
            } else {
                let mut lanes = [0; LANES];
                self.store_u8(lanes.as_mut_ptr(), a);
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), dst, n);
            }
        }
    }
    /// Asks for the cache line at `src` to be brought near; any address will do.
    fn prefetch(self, src: *const u8);
}

/// A kernel that [`Isa::run`] compiles for each instruction set. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// A computation in plain Rust that is compiled anew for each instruction set, so that its loops over arrays of
/// sixteen floats become vector instructions. `run`, and what it calls, must be `#[inline(always)]`.
///
/// For arithmetic outside this crate, which is without `unsafe`. Rust keeps the order of floating-point operations, so
/// results do not depend on the instruction set; write `mul_add` where one rounding is wanted.
pub trait Vectorized {
    /// What is computed.
    type Output;
    /// Computes it.
    fn run(self) -> Self::Output;
}

struct Plain<V>(V);

impl<V: Vectorized> Kernel for Plain<V> {
    type Output = V::Output;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> V::Output {
        self.0.run()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
    #[cfg(target_arch = "aarch64")]
    NeonDotProd,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// An instruction set that this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

impl Isa {
    /// Every instruction set of this CPU, best first; the last is scalar code.
    pub fn available() -> Vec<Isa> {
        let mut kinds = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if avx512::is_available() {
                kinds.push(Kind::Avx512);
            }
            if avx2::has_vnni() {
                kinds.push(Kind::AvxVnni);
            }
            if avx2::is_available() {
                kinds.push(Kind::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            if neon::has_i8mm() {
                kinds.push(Kind::NeonI8mm);
            }
            if neon::has_dotprod() {
                kinds.push(Kind::NeonDotProd);
            }
            kinds.push(Kind::Neon);
        }
        kinds.push(Kind::Scalar);
        kinds.into_iter().map(Isa).collect()
    }

    /// The best instruction set of this CPU.
    pub fn best() -> Isa {
        Isa::available()[0]
    }

    /// The instruction set of that name, if this CPU has it.
    pub fn by_name(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name)
    }

    /// "avx512", "avx_vnni", "avx2", "neon_i8mm", "neon_dotprod", "neon" or "scalar".
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => "avx_vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::NeonI8mm => "neon_i8mm",
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDotProd => "neon_dotprod",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
        }
    }

    /// Runs a computation in plain Rust, compiled for this instruction set.
    pub fn vectorize<V: Vectorized>(self, computation: V) -> V::Output {
        self.run(Plain(computation))
    }

    /// Runs `kernel` compiled for this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Kind::Scalar => scalar::run(kernel),
            // SAFETY: this `Isa` exists, so the CPU has the instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::run_base(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => unsafe { avx2::run_vnni(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::NeonI8mm => unsafe { neon::run_i8mm(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDotProd => unsafe { neon::run_dotprod(kernel) },
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => neon::run_base(kernel),
        }
    }
}

#[cfg(test)]
mod tests;
