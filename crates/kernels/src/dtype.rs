//! Element types of weights: plain floats and ggml's quantised blocks.
//!
//! A quantised type stores `block_len` consecutive weights of one row in `block_bytes` bytes; rows are a whole
//! number of blocks. Names and byte layouts are ggml's (`ggml-common.h`, `ggml-quants.c`), but for the EW types, which
//! are Edgeward's own ([`crate::block`] tells their layout and why they are there); the numeric type ids of the GGUF
//! format are not known here but in `model`.

/// Element type of a weight tensor.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 4 bits, one scale: w = d * (q - 8).
    Q4_0,
    /// 4 bits, scale and minimum: w = d * q + m.
    Q4_1,
    /// 5 bits, one scale: w = d * (q - 16).
    Q5_0,
    /// 5 bits, scale and minimum: w = d * q + m.
    Q5_1,
    /// 8 bits, one scale: w = d * q.
    Q8_0,
    /// 2 bits, 16 sub-blocks of 16 with 4-bit scales and minima.
    Q2_K,
    /// 3 bits, 16 sub-blocks of 16 with 6-bit scales.
    Q3_K,
    /// 4 bits, 8 sub-blocks of 32 with 6-bit scales and minima.
    Q4_K,
    /// 5 bits, 8 sub-blocks of 32 with 6-bit scales and minima.
    Q5_K,
    /// 6 bits, 16 sub-blocks of 16 with 8-bit scales.
    Q6_K,
    /// 4 bits into a table of 16 unevenly spaced values, one scale per 32.
    IQ4_NL,
    /// 4 bits into the same table, 8 sub-blocks of 32 with 6-bit scales.
    IQ4_XS,
    /// 2 bits into a table of 4 values, one 8-bit scale per 32: 2.25 bits in all.
    EW2,
    /// 3 bits into a table of 8 values, one 8-bit scale per 32: 3.25 bits in all.
    EW3,
    /// 4 bits into a table of 16 values, one 8-bit scale per 32: 4.25 bits in all.
    EW4,
    /// 5 bits into a table of 32 values, one 8-bit scale per 32: 5.25 bits in all.
    EW5,
    /// 6 bits, one 8-bit scale per 32: w = d * (q - 32), 6.25 bits in all.
    EW6,
}

impl DType {
    /// Every type that is read, written and computed on.
    pub const ALL: [DType; 20] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2_K,
        DType::Q3_K,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
        DType::IQ4_NL,
        DType::IQ4_XS,
        DType::EW2,
        DType::EW3,
        DType::EW4,
        DType::EW5,
        DType::EW6,
    ];

    /// The name that ggml gives this type, and we those of our own.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q8_0 => "Q8_0",
            DType::Q2_K => "Q2_K",
            DType::Q3_K => "Q3_K",
            DType::Q4_K => "Q4_K",
            DType::Q5_K => "Q5_K",
            DType::Q6_K => "Q6_K",
            DType::IQ4_NL => "IQ4_NL",
            DType::IQ4_XS => "IQ4_XS",
            DType::EW2 => "EW2",
            DType::EW3 => "EW3",
            DType::EW4 => "EW4",
            DType::EW5 => "EW5",
            DType::EW6 => "EW6",
        }
    }

    /// Weights per block; 1 for plain floats.
    pub const fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 | DType::IQ4_NL => 32,
            DType::EW2 | DType::EW3 | DType::EW4 | DType::EW5 | DType::EW6 => 32,
            DType::Q2_K | DType::Q3_K | DType::Q4_K | DType::Q5_K | DType::Q6_K | DType::IQ4_XS => 256,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q4_0 | DType::IQ4_NL => 2 + 16,
            DType::Q4_1 => 2 + 2 + 16,
            DType::Q5_0 => 2 + 4 + 16,
            DType::Q5_1 => 2 + 2 + 4 + 16,
            DType::Q8_0 => 2 + 32,
            DType::Q2_K => 16 + 64 + 2 + 2,
            DType::Q3_K => 32 + 64 + 12 + 2,
            DType::Q4_K => 2 + 2 + 12 + 128,
            DType::Q5_K => 2 + 2 + 12 + 32 + 128,
            DType::Q6_K => 128 + 64 + 16 + 2,
            DType::IQ4_XS => 2 + 2 + 4 + 128,
            DType::EW2 => 1 + 8,
            DType::EW3 => 1 + 8 + 4,
            DType::EW4 => 1 + 16,
            DType::EW5 => 1 + 16 + 4,
            DType::EW6 => 1 + 16 + 8,
        }
    }

    /// Bytes of a row of `n_cols` weights; `None` if that is no whole number of blocks, or overflows.
    pub const fn row_bytes(self, n_cols: usize) -> Option<usize> {
        if !n_cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (n_cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether the type is Edgeward's own, unknown to other programs that read GGUF files.
    pub const fn is_own(self) -> bool {
        matches!(self, DType::EW2 | DType::EW3 | DType::EW4 | DType::EW5 | DType::EW6)
    }

    /// Whether weights are stored in quantised blocks (as opposed to plain floats).
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
