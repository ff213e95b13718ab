//! Dequantisation of every element type against the `gguf` package's, on random blocks
//! (`testdata/blocks`, made by the `make.py` beside them).

use edgeward_kernels::block::{Block, shape, steps};
use edgeward_kernels::{DType, dequantize};

/// Parts of the largest value in its block: numpy may round a product in another order.
const TOLERANCE: f32 = 1e-6;

#[test]
fn every_type_is_dequantised_as_gguf_does() {
    for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_own()) {
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
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantized() && !dtype.is_own()) {
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

/// A number of eight bits by the specification's table, NaN for its only special value.
fn e4m3(bits: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

#[test]
fn our_own_types_are_what_their_layout_says() {
    let own: Vec<DType> = DType::ALL.into_iter().filter(|dtype| dtype.is_own()).collect();
    assert_eq!(own.len(), 5);
    for dtype in own {
        let shape = shape(dtype);
        let n_bytes = dtype.block_bytes();
        assert_eq!(8 * (n_bytes - 1), 32 * shape.bits as usize, "{dtype} has a scale of one byte");
        for scale in 0..=u8::MAX {
            // A different byte in each place.
            let mut bytes: Vec<u8> = (0..n_bytes).map(|i| (i * 73 + usize::from(scale) * 11) as u8).collect();
            bytes[0] = scale;
            let d = e4m3(scale) / if dtype == DType::EW6 { 1024.0 } else { 4096.0 };
            let bit = |at: usize, i: usize| u32::from(bytes[at + i / 8] >> (i % 8) & 1);
            let half = |at: usize, i: usize| u32::from(bytes[at + i % 16] >> (4 * (i / 16)) & 15);
            // Weights 4 i + 8 j ..+4 are bits 2 j ..+2 of the bytes of word i.
            let quarter = |at: usize, i: usize| u32::from(bytes[at + i % 8] >> (2 * (i / 8)) & 3);
            let mut weights = [0.0f32; 32];
            dequantize(dtype, &bytes, &mut weights);
            for (i, weight) in weights.into_iter().enumerate() {
                let code = match shape.bits {
                    2 => quarter(1, i),
                    3 => quarter(1, i) | bit(9, i) << 2,
                    4 => half(1, i),
                    5 => half(1, i) | bit(17, i) << 4,
                    _ => half(1, i) | quarter(17, i) << 4,
                };
                let level = match shape.table.get(code as usize) {
                    Some(level) => f64::from(*level),
                    None => f64::from(code) - 32.0,
                };
                let expected = (d * level) as f32;
                let is_same = weight == expected || weight.is_nan() && expected.is_nan();
                assert!(is_same, "{dtype}, scale {scale:#x}, weight {i}: {weight}, expected {expected}");
            }
            let mut again = vec![0xff; n_bytes];
            Block::parse(dtype, &bytes).write(dtype, &mut again);
            assert_eq!(again, bytes, "{dtype}");
        }
    }
}

#[test]
fn the_nearest_scale_is_found() {
    assert_eq!(shape(DType::EW4).reach(), 448.0 / 4096.0 * 127.0);
    assert_eq!(shape(DType::EW6).reach(), 448.0 / 1024.0 * 32.0);
    assert_eq!(shape(DType::Q4_0).reach(), 65_504.0 * 8.0);
    for (dtype, unit) in [(DType::EW4, 4096.0), (DType::EW6, 1024.0)] {
        let scales: Vec<f32> = (0..=u8::MAX).map(|bits| (e4m3(bits) / unit) as f32).collect();
        for i in -3000i32..3000 {
            // From far below the smallest to beyond the largest.
            let d = 2f32.powf(i.abs() as f32 / 100.0 - 24.0).copysign(i as f32);
            let got = shape(dtype).nearest_scale(d);
            let distance = |scale: f32| if scale.is_nan() { f32::INFINITY } else { (scale - d).abs() };
            assert!(scales.contains(&got), "{dtype}, {d}: {got} is no scale");
            assert!(
                scales.iter().all(|scale| distance(got) <= distance(*scale)),
                "{dtype}: {d} is not nearest to {got}"
            );
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
