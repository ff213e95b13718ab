"""Writes one file per element type: random blocks as a GGUF file stores them, and the float32 values that the `gguf`
package's numpy dequantisation gives for them.

    python make.py [OUT_DIR]        (numpy and gguf; deterministic)

FILE = n * block_bytes bytes of blocks, then n * block_len little-endian float32 values; n is 8 for blocks of 32 weights
and 4 for blocks of 256, and 256 for plain floats. It follows from the file's size.
Every bit of a quantised block is random but for the half-precision scales: a zero, a subnormal and a negative one occur,
and none is infinite or NaN (of those, a file's reader has to make an error).
"""

import sys
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# Where a block's half-precision numbers are, in bytes from its start.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0],
}


def quantized(dtype, rng):
    block_len, block_bytes = GGML_QUANT_SIZES[dtype]
    n = 8 if block_len == 32 else 4
    blocks = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    for at in HALVES[dtype]:
        d = rng.normal(0, 0.02, n).astype(np.float16)
        d[0] = abs(d[0])
        d[1] = -abs(d[1])
        d[2] = 0.0 if at == HALVES[dtype][0] else d[2]
        d[3] = np.float16(3e-6)
        blocks[:, at : at + 2] = d.view(np.uint8).reshape(n, 2)
    return blocks.tobytes(), dequantize(blocks, dtype)


def plain(dtype, rng):
    values = rng.normal(0, 1, 256).astype(np.float32)
    values[:6] = [0.0, -0.0, 3e-6, -3e-6, 65504.0, -1.0]
    if dtype == T.F32:
        return values.tobytes(), values
    if dtype == T.F16:
        return values.astype(np.float16).tobytes(), values.astype(np.float16).astype(np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    return upper.tobytes(), (upper.astype(np.uint32) << 16).view(np.float32)


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for dtype in [T.F32, T.F16, T.BF16, *HALVES]:
        rng = np.random.default_rng(int(dtype))
        stored, values = (quantized if dtype in HALVES else plain)(dtype, rng)
        assert np.isfinite(values).all()
        (out / f"{dtype.name}.bin").write_bytes(stored + values.astype("<f4").tobytes())


main()
