//! Speed of the matrix products on every instruction set of this CPU, one thread.
//!
//! `cargo run --release -p edgeward-kernels --example gemm_speed [TYPE...]` prints, for each type, shape (rows x
//! columns, those of SmolLM2-135M; columns rounded up to whole blocks) and number of tokens, 10^9 multiplications and
//! additions per second, each counting as one. The best of several runs counts: other work on the machine can only
//! make a run slower.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeward_kernels::acts::Form;
use edgeward_kernels::{
    Activations, DType, FloatMatrix, Isa, Linear, Matrix, Mode, PackedMatrix, Pool, linear,
};

const SHAPES: [(usize, usize); 3] = [(576, 576), (1536, 576), (576, 1536)];
const N_TOKENS: [usize; 3] = [1, 8, 512];
/// Time for each figure.
const BUDGET: Duration = Duration::from_millis(100);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let default = [DType::Q4_1, DType::Q4_0, DType::Q8_0, DType::Q6_K, DType::Q4_K];
    let dtypes = DType::ALL.into_iter().filter(|dtype| match wanted.is_empty() {
        true => default.contains(dtype),
        false => wanted.iter().any(|name| name == dtype.name()),
    });
    let mut pool = Pool::new(1);
    println!(
        "{:28}{}",
        "",
        Isa::available().iter().map(|isa| format!("{:>13}", isa.name())).collect::<String>()
    );
    for dtype in dtypes {
        for (n_rows, n_cols) in SHAPES {
            let map = random_map(dtype, n_rows, n_cols.next_multiple_of(dtype.block_len()));
            for n_tokens in N_TOKENS {
                let shape = format!("{} x {}", n_rows, map.matrix.n_cols());
                print!("{dtype:6}{shape:>13}{n_tokens:>8} ");
                for isa in Isa::available() {
                    print!("{:>13.1}", speed(&mut pool, isa, &map, n_tokens) / 1e9);
                }
                println!();
            }
        }
    }
}

fn random_map(dtype: DType, n_rows: usize, n_cols: usize) -> Linear {
    let n_bytes = dtype.row_bytes(n_cols).expect("columns are whole blocks") * n_rows;
    // Bytes below 64: whichever two of them are a scale, it is finite. The constants are Knuth's (MMIX).
    let mut state = 1u64;
    let bytes: Vec<u8> = (0..n_bytes)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 58) as u8
        })
        .collect();
    let matrix = match dtype.is_quantized() {
        true => PackedMatrix::pack(dtype, n_rows, n_cols, &bytes).ok().map(Matrix::Packed),
        false => FloatMatrix::new(dtype, n_rows, n_cols, Arc::new(bytes)).map(Matrix::Float),
    };
    Linear { matrix: matrix.expect("the bytes are valid blocks"), bias: None }
}

/// Operations per second.
fn speed(pool: &mut Pool, isa: Isa, map: &Linear, n_tokens: usize) -> f64 {
    let (n_rows, n_cols) = (map.matrix.n_rows(), map.matrix.n_cols());
    let form = if map.matrix.is_quantized() { Form::Int8 } else { Form::Float };
    let mut input = Activations::default();
    input.fill(pool, isa, (n_tokens, n_cols), form, |token, row| {
        row.iter_mut().enumerate().for_each(|(i, x)| *x = ((token * 31 + i * 17) % 101) as f32 - 50.0);
    });
    let mut out = vec![0.0; n_tokens * n_rows];
    let mut best = f64::MAX;
    let start = Instant::now();
    while start.elapsed() < BUDGET {
        let run = Instant::now();
        linear(pool, isa, &[map], &input, Mode::Store, &mut out);
        best = best.min(run.elapsed().as_secs_f64());
    }
    (2 * n_rows * n_cols * n_tokens) as f64 / best
}
