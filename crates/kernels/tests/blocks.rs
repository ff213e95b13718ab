//! Dequantisation of every element type against the `gguf` package's, on random blocks
//! (`testdata/blocks`, made by the `make.py` beside them).

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
