"""Makes the goldens in this folder: what LiteRT answers to pseudo-random inputs.

    python make.py

Needs `ai-edge-litert` and `numpy`; `models/` holds the networks. For each, N_INPUTS inputs from the generator below, as
`crates/perceive/tests/litert.rs` makes them, give two files of raw outputs in the network's own type, one input's after
the other:

- `NAME.xnnpack`: LiteRT as it is by default, with XNNPACK;
- `NAME.reference`: with its reference kernels.
"""

from pathlib import Path

import numpy as np

from compare import interpreter, litert, repaired

N_INPUTS = 4


def generate(n):
    """Knuth's MMIX generator, upper 24 bits of each state."""
    state, out = 1, []
    for _ in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append(state >> 40)
    return np.array(out, np.int64)


def inputs_for(detail):
    shape = (N_INPUTS, *detail["shape"])
    bits = generate(int(np.prod(shape))).reshape(shape)
    if detail["dtype"] == np.int8:
        return ((bits >> 16) - 128).astype(np.int8)
    # -1 to 1, exact.
    return (bits.astype(np.float64) / 2**23 - 1).astype(np.float32)


def main():
    folder = Path(__file__).parent
    for model in sorted((folder / "models").glob("*.tflite")):
        content = model.read_bytes()
        try:
            made = interpreter(content, "xnnpack", 1)
        except ValueError:
            content = repaired(content)
            made = interpreter(content, "xnnpack", 1)
        inputs = inputs_for(made.get_input_details()[0])
        for way in ("xnnpack", "reference"):
            litert(content, way, inputs, 1).tofile(folder / f"{model.stem}.{way}")


if __name__ == "__main__":
    main()
