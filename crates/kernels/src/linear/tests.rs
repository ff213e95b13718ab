//! Every type, on every instruction set of this CPU, against plain loops in `f64`.

use super::*;
use crate::block::dequantize;

/// A small generator (xorshift64*, Vigna 2016): tests must not depend on anything outside.
pub(crate) struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// Uniform in -1..1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// Random blocks: any bytes, but scales of moderate size.
pub(crate) fn random_weights(rng: &mut Rng, dtype: DType, n: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..dtype.row_bytes(n).unwrap()).map(|_| rng.next() as u8).collect();
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
    let halves_at: &[usize] = match dtype {
        DType::Q2_K => &[80, 82],
        DType::Q3_K => &[108],
        DType::Q6_K => &[208],
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::F32 | DType::F16 | DType::BF16 => &[],
        _ if dtype.is_own() => &[],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in halves_at {
            block[at..at + 2].copy_from_slice(&half(rng.float() * 0.1));
        }
        match dtype {
            DType::F32 => block.copy_from_slice(&rng.float().to_le_bytes()),
            DType::F16 => block.copy_from_slice(&half(rng.float())),
            DType::BF16 => block.copy_from_slice(&half::bf16::from_f32(rng.float()).to_le_bytes()),
            // The exponent's highest bit.
            _ if dtype.is_own() => block[0] &= !0x40,
            _ => {}
        }
    }
    bytes
}

fn matrix(dtype: DType, n_rows: usize, n_cols: usize, bytes: &[u8]) -> Matrix {
    if dtype.is_quantized() {
        Matrix::Packed(PackedMatrix::pack(dtype, n_rows, n_cols, bytes).unwrap())
    } else {
        Matrix::Float(FloatMatrix::new(dtype, n_rows, n_cols, Arc::new(bytes.to_vec())).unwrap())
    }
}

fn activations(
    rng: &mut Rng,
    pool: &mut Pool,
    isa: Isa,
    n_tokens: usize,
    n_cols: usize,
    form: Form,
) -> Activations {
    let x = rng.floats(n_tokens * n_cols);
    let mut input = Activations::default();
    input.fill(pool, isa, (n_tokens, n_cols), form, |t, row| row.copy_from_slice(&x[t * n_cols..][..n_cols]));
    input
}

#[test]
fn packing_keeps_every_weight() {
    let mut rng = Rng(1);
    for dtype in DType::ALL.into_iter().filter(|d| d.is_quantized()) {
        for n_rows in [1, 16, 37] {
            let n_cols = dtype.block_len() * 3;
            let bytes = random_weights(&mut rng, dtype, n_rows * n_cols);
            let packed = matrix(dtype, n_rows, n_cols, &bytes);
            let mut expected = vec![0.0; n_rows * n_cols];
            dequantize(dtype, &bytes, &mut expected);
            let mut row = vec![0.0; n_cols];
            for (i, expected) in expected.chunks_exact(n_cols).enumerate() {
                packed.dequantize_row(i, &mut row);
                assert!(row == expected, "{dtype}, row {i} of {n_rows}");
            }
        }
    }
}

#[test]
fn products_match_the_reference_and_each_other() {
    let mut rng = Rng(2);
    let mut pool = Pool::new(2);
    for dtype in DType::ALL {
        for (n_rows, n_tokens, form) in [
            (1, 1, Form::Int8),
            (16, 2, Form::Int16),
            (50, 3, Form::Int8),
            (33, 16, Form::Int16),
            (64, 23, Form::Peak),
            (17, 40, Form::Int16),
            (17, 5, Form::Peak),
        ] {
            let form = if dtype.is_quantized() { form } else { Form::Float };
            let n_cols = if dtype.is_quantized() { dtype.block_len() * 3 } else { 45 };
            let bytes = random_weights(&mut rng, dtype, n_rows * n_cols);
            let map =
                Linear { matrix: matrix(dtype, n_rows, n_cols, &bytes), bias: Some(rng.floats(n_rows)) };
            let mut w = vec![0.0; n_rows * n_cols];
            dequantize(dtype, &bytes, &mut w);
            let seed = rng.next() | 1;
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let input = activations(&mut Rng(seed), &mut pool, isa, n_tokens, n_cols, form);
                let x = if dtype.is_quantized() { input.acts.dequantize() } else { input.rows().to_vec() };
                let mut y = vec![0.5; n_tokens * n_rows];
                linear(&mut pool, isa, &[&map], &input, Mode::Add, &mut y);
                for t in 0..n_tokens {
                    for r in 0..n_rows {
                        let products =
                            (0..n_cols).map(|c| f64::from(w[r * n_cols + c]) * f64::from(x[t * n_cols + c]));
                        let size: f64 = products.clone().map(f64::abs).sum::<f64>() + 1.0;
                        let expected = products.sum::<f64>() + f64::from(map.bias.as_ref().unwrap()[r]) + 0.5;
                        let error = (f64::from(y[t * n_rows + r]) - expected).abs();
                        // Minima are summed apart and cancel against the rest: their size counts too.
                        assert!(error < 2e-5 * size, "{dtype} on {}: {error} of {size}", isa.name());
                    }
                }
                let same = first.get_or_insert_with(|| y.clone());
                assert!(
                    same.iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{dtype} on {}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn a_token_does_not_depend_on_its_neighbours() {
    let mut rng = Rng(3);
    let mut pool = Pool::new(2);
    for dtype in DType::ALL {
        let (n_rows, n_cols, n_tokens) = (40, 512, 29);
        let map = Linear {
            matrix: matrix(dtype, n_rows, n_cols, &random_weights(&mut rng, dtype, n_rows * n_cols)),
            bias: None,
        };
        let isa = Isa::best();
        let input = activations(&mut rng, &mut pool, isa, n_tokens, n_cols, Form::Peak);
        let mut all = vec![0.0; n_tokens * n_rows];
        linear(&mut pool, isa, &[&map], &input, Mode::Store, &mut all);
        for t in 0..n_tokens {
            let mut alone = Activations::default();
            alone.fill(&mut pool, isa, (1, n_cols), Form::Peak, |_, row| {
                row.copy_from_slice(&input.rows()[t * n_cols..][..n_cols]);
            });
            let mut y = vec![0.0; n_rows];
            linear(&mut pool, isa, &[&map], &alone, Mode::Store, &mut y);
            assert_eq!(y, all[t * n_rows..][..n_rows], "{dtype}, token {t}");
        }
    }
}

#[test]
fn maps_side_by_side_and_gated() {
    let mut rng = Rng(4);
    let mut pool = Pool::new(3);
    let (n_cols, n_tokens) = (256, 19);
    let mut map = |dtype, n_rows| Linear {
        matrix: matrix(dtype, n_rows, n_cols, &random_weights(&mut rng, dtype, n_rows * n_cols)),
        bias: None,
    };
    let (a, b, c) = (map(DType::Q5_0, 96), map(DType::Q8_0, 33), map(DType::BF16, 96));
    for isa in Isa::available() {
        let input = activations(&mut Rng(5), &mut pool, isa, n_tokens, n_cols, Form::Int8);
        let mut apart = Vec::new();
        for map in [&a, &b, &c] {
            let mut y = vec![0.0; n_tokens * map.matrix.n_rows()];
            linear(&mut pool, isa, &[map], &input, Mode::Store, &mut y);
            apart.push(y);
        }
        let mut together = vec![0.0; n_tokens * 225];
        linear(&mut pool, isa, &[&a, &b, &c], &input, Mode::Store, &mut together);
        for t in 0..n_tokens {
            let expected =
                [&apart[0][t * 96..][..96], &apart[1][t * 33..][..33], &apart[2][t * 96..][..96]].concat();
            assert_eq!(together[t * 225..][..225], expected);
        }

        let mut out = Activations::default();
        gated_linear(&mut pool, isa, (&a, &c), math::Activation::Silu, &input, Form::Int8, &mut out);
        for (i, (g, u)) in apart[0].iter().zip(&apart[2]).enumerate() {
            let expected = g / (1.0 + (-g).exp()) * u;
            assert!((out.rows()[i] - expected).abs() <= 1e-5 * expected.abs().max(1.0));
        }
        let mut again = Activations::default();
        again.fill(&mut pool, isa, (n_tokens, 96), Form::Int8, |t, row| {
            row.copy_from_slice(&out.rows()[t * 96..][..96])
        });
        assert_eq!(again.acts.dequantize(), out.acts.dequantize());
    }
}

#[test]
fn fifteen_bits_are_128_times_finer_than_eight() {
    let error = |form| {
        let mut rng = Rng(6);
        let x = rng.floats(640);
        let mut input = Activations::default();
        input.fill(&mut Pool::new(1), Isa::best(), (1, 640), form, |_, row| row.copy_from_slice(&x));
        let largest = |errors: &mut dyn Iterator<Item = f32>| errors.fold(0.0, f32::max);
        largest(&mut input.acts.dequantize().iter().zip(&x).map(|(a, b)| (a - b).abs()))
    };
    // Half a step of the largest block's scale.
    assert!(error(Form::Int8) < 0.5 / 127.0 + 1e-6);
    assert!(error(Form::Int16) < 0.5 / 127.0 / 128.0 + 1e-6);
}

#[test]
fn the_block_with_the_largest_value_has_fifteen_bits() {
    let mut x = Rng(7).floats(640);
    x[333] = -700.0;
    let mut input = Activations::default();
    input.fill(&mut Pool::new(1), Isa::best(), (1, 640), Form::Peak, |_, row| row.copy_from_slice(&x));
    let rounded = input.acts.dequantize();
    let peak = 333 / BLOCK * BLOCK..(333 / BLOCK + 1) * BLOCK;
    for i in 0..640 {
        let largest = if peak.contains(&i) { 0.5 * 700.0 / 127.0 / 128.0 } else { 0.5 / 127.0 };
        assert!((x[i] - rounded[i]).abs() < largest + 1e-6, "value {i}");
    }
}
