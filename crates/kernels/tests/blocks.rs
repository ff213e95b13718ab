//! Dequantisation of every element type against the `gguf` package's, on random blocks
//! (`testdata/blocks`, made by the `make.py` beside them).

use edgeward_kernels::block::{Block, steps};
use edgeward_kernels::{DType, dequantize};

/// Parts of the largest value in its block: numpy may round a product in another order.
const TOLERANCE: f32 = 1e-6;

#[test]
fn every_type_is_dequantised_as_gguf_does() {
    for dtype in DType::ALL {
        let path = format!("{}/../../testdata/blocks/{dtype}.bin", env!("CARGO_MANIFEST_DIR"));
        let file = std::fs::read(&path).unwrap_or_else(|err| panic!("{path}: {err}"));
        let bytes_with_values = dtype.block_bytes() + 4 * dtype.block_len();
        assert!(
            !file.is_empty() && file.len().is_multiple_of(bytes_with_values),
            "{dtype}: {} bytes",
            file.len()
        );
        let n_blocks = file.len() / bytes_with_values;
        let (stored, expected) = file.split_at(n_blocks * dtype.block_bytes());

        let mut values = vec![f32::NAN; n_blocks * dtype.block_len()];
        dequantize(dtype, stored, &mut values);

        let expected: Vec<f32> = expected.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        for (block_idx, (got, want)) in
            values.chunks(dtype.block_len()).zip(expected.chunks(dtype.block_len())).enumerate()
        {
            let largest = want.iter().fold(0.0_f32, |max, w| max.max(w.abs()));
            for (i, (g, w)) in got.iter().zip(want).enumerate() {
                assert!(
                    (g - w).abs() <= TOLERANCE * largest,
                    "{dtype}, block {block_idx}, weight {i}: {g}, gguf has {w}"
                );
            }
        }
    }
}

#[test]
fn a_block_taken_apart_and_put_together_is_the_same() {
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantized()) {
        let path = format!("{}/../../testdata/blocks/{dtype}.bin", env!("CARGO_MANIFEST_DIR"));
        let file = std::fs::read(&path).unwrap();
        let n_blocks = file.len() / (dtype.block_bytes() + 4 * dtype.block_len());
        assert!(n_blocks > 0);
        for bytes in file.chunks(dtype.block_bytes()).take(n_blocks) {
            let mut again = vec![0xff; bytes.len()];
            Block::parse(dtype, bytes).write(dtype, &mut again);
            assert_eq!(again, bytes, "{dtype}");
        }
    }
}

#[test]
fn a_step_leads_to_the_next_value_of_a_block() {
    for (dtype, table) in
        [(DType::Q4_1, false), (DType::Q6_K, false), (DType::Q2_K, false), (DType::IQ4_XS, true)]
    {
        // The first weight has code 1, then code 2.
        let mut block = Block { d: 0x3c00, m: 0x3c00, scales: [3; 16], mins: [1; 16], ..Block::ZERO };
        let mut values = Vec::new();
        let mut step = vec![0.0; dtype.block_len()];
        for code in [1, 2] {
            block.codes[0][0] = code;
            let mut bytes = vec![0; dtype.block_bytes()];
            block.write(dtype, &mut bytes);
            let mut weights = vec![0.0; dtype.block_len()];
            dequantize(dtype, &bytes, &mut weights);
            steps(dtype, &bytes, &mut step);
            values.push(weights[0]);
        }
        // The table's third value is 21 from the second and 18 from the fourth.
        let expected = if table { 3.0 * 19.5 } else { values[1] - values[0] };
        assert_eq!(step[0], expected, "{dtype}");
    }
}
