//! Elementwise mathematics: exponential, gates, RMS norm, rotary embedding.
//!
//! Every function runs on vectors of sixteen lanes in a fixed order of operations, so that all instruction sets
//! give the same bits.

use crate::isa::{Isa, Kernel, LANES, Simd};
use crate::linear::{Rows, for_each_token};
use crate::pool::Pool;

/// Activation functions of gated feed-forward networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    /// GELU by its tanh approximation: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))).
    GeluTanh,
}

/// e^x to within 1.5 units in the last place on [-87, 88]; smaller x give a number below 2^-125 (never negative),
/// larger x are cut to 88.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, Cody and Waite 1980), e^r by the polynomial 1 + r + ... of
/// degree 6 whose largest relative error there is least, 2^-28 (found by Lawson's iteration, Lawson 1961).
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.min(s.max(x, s.splat(-87.0)), s.splat(88.0));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let n_f = s.to_f(n);
    let r = s.fma(n_f, s.splat(-0.693_359_4), x);
    let r = s.fma(n_f, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(0.001_381_453_5);
    for c in [0.008_368_745, 0.041_668_393, 0.166_665_21, 0.499_999_94, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    // n reaches 127 at x = 88, which is still a finite exponent.
    s.scale_by_pow2(p, n)
}

/// 1 / (1 + e^-x).
#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// activation(x) * up.
#[inline(always)]
pub(crate) fn gate<S: Simd>(s: S, activation: Activation, x: S::F, up: S::F) -> S::F {
    let y = match activation {
        Activation::Silu => s.mul(x, sigmoid(s, x)),
        Activation::GeluTanh => {
            // (1 + tanh(u)) / 2 = sigmoid(2 u)
            let inner = s.fma(s.mul(x, x), s.splat(0.044715), s.splat(1.0));
            s.mul(x, sigmoid(s, s.mul(s.mul(x, s.splat(1.595_769)), inner)))
        }
    };
    s.mul(y, up)
}

/// out = activation(gate) * up, as [`crate::gated_linear`] does it of the products of its maps. All of one length.
pub fn gated(isa: Isa, activation: Activation, gates: &[f32], ups: &[f32], out: &mut [f32]) {
    struct Gated<'a> {
        activation: Activation,
        gates: &'a [f32],
        ups: &'a [f32],
        out: &'a mut [f32],
    }
    impl Kernel for Gated<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for at in (0..self.out.len()).step_by(LANES) {
                let (g, u) = (load_part(s, self.gates, at), load_part(s, self.ups, at));
                store_part(s, self.out, at, gate(s, self.activation, g, u));
            }
        }
    }
    assert!(gates.len() == out.len() && ups.len() == out.len());
    isa.run(Gated { activation, gates, ups, out });
}

/// Loads `x[at..]`, at most sixteen values, the rest zeros.
#[inline(always)]
pub(crate) fn load_part<S: Simd>(s: S, x: &[f32], at: usize) -> S::F {
    let rest = &x[at..];
    if rest.len() >= LANES {
        // SAFETY: sixteen values are readable.
        unsafe { s.load(rest.as_ptr()) }
    } else {
        let mut padded = [0.0; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        // SAFETY: as above.
        unsafe { s.load(padded.as_ptr()) }
    }
}

/// Stores at most sixteen values to `x[at..]`.
#[inline(always)]
pub(crate) fn store_part<S: Simd>(s: S, x: &mut [f32], at: usize, value: S::F) {
    let rest = &mut x[at..];
    if rest.len() >= LANES {
        // SAFETY: sixteen values are writable.
        unsafe { s.store(rest.as_mut_ptr(), value) }
    } else {
        let mut padded = [0.0; LANES];
        // SAFETY: as above.
        unsafe { s.store(padded.as_mut_ptr(), value) };
        let n = rest.len();
        rest.copy_from_slice(&padded[..n]);
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RmsNorm { x, weight, eps, out } = self;
        assert!(weight.len() == x.len() && out.len() == x.len());
        let scale = s.splat(inverse_rms(s, x, eps));
        for at in (0..x.len()).step_by(LANES) {
            let y = s.mul(s.mul(load_part(s, x, at), scale), load_part(s, weight, at));
            store_part(s, out, at, y);
        }
    }
}

/// 1 / sqrt(mean(x^2) + eps).
#[inline(always)]
fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    let mut sum = s.splat(0.0);
    for at in (0..x.len()).step_by(LANES) {
        let x = load_part(s, x, at);
        sum = s.fma(x, x, sum);
    }
    1.0 / (s.reduce_add(sum) / x.len() as f32 + eps).sqrt()
}

/// out = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv:1910.07467). All of one length.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    isa.run(RmsNorm { x, weight, eps, out });
}

/// In place: RMS norm of one head with `weight` if there is one, then the rotary embedding, then times `scale`.
pub(crate) struct PrepareHead<'a> {
    /// `[head_dim]`.
    pub head: &'a mut [f32],
    pub norm: Option<(&'a [f32], f32)>,
    /// Cosines, then sines, of one position: `[2][rotary_dim / 2]`.
    pub angles: &'a [f32],
    pub is_interleaved: bool,
    pub scale: f32,
}

impl Kernel for PrepareHead<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let head = self.head;
        if let Some((weight, eps)) = self.norm {
            let scale = s.splat(inverse_rms(s, head, eps));
            for at in (0..head.len()).step_by(LANES) {
                let y = s.mul(s.mul(load_part(s, head, at), scale), load_part(s, weight, at));
                store_part(s, head, at, y);
            }
        }
        let half = self.angles.len() / 2;
        let (cos, sin) = self.angles.split_at(half);
        if self.is_interleaved {
            for (i, pair) in head[..2 * half].chunks_exact_mut(2).enumerate() {
                (pair[0], pair[1]) = rotate(pair[0], pair[1], cos[i], sin[i]);
            }
        } else {
            let (low, high) = head[..2 * half].split_at_mut(half);
            for i in 0..half {
                (low[i], high[i]) = rotate(low[i], high[i], cos[i], sin[i]);
            }
        }
        for x in head.iter_mut() {
            *x *= self.scale;
        }
    }
}

/// Two products and one sum for each, rounded each time: what every instruction set does alike.
#[inline(always)]
fn rotate(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a * cos - b * sin, a * sin + b * cos)
}

/// For each row, x += rms_norm(y) * weight. `x` and `y` are `[n_rows, weight.len()]`.
pub fn add_rms_norm(pool: &mut Pool, isa: Isa, x: &mut [f32], y: &[f32], weight: &[f32], eps: f32) {
    struct AddNorm<'a> {
        x: &'a mut [f32],
        y: &'a [f32],
        weight: &'a [f32],
        eps: f32,
    }
    impl Kernel for AddNorm<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let scale = s.splat(inverse_rms(s, self.y, self.eps));
            for at in (0..self.y.len()).step_by(LANES) {
                let y = s.mul(s.mul(load_part(s, self.y, at), scale), load_part(s, self.weight, at));
                let sum = s.add(load_part(s, self.x, at), y);
                store_part(s, self.x, at, sum);
            }
        }
    }
    assert!(x.len() == y.len() && x.len().is_multiple_of(weight.len()));
    let n_rows = x.len() / weight.len();
    let x = Rows::new(x, weight.len());
    for_each_token(pool, n_rows, |row| {
        // SAFETY: each row is touched by one piece.
        let x = unsafe { x.row_mut(row, 0, weight.len()) };
        isa.run(AddNorm { x, y: &y[row * weight.len()..][..weight.len()], weight, eps });
    });
}
