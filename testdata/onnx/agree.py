"""Compares onnxruntime with Edgeward on ONNX files that Edgeward has written.

    EDGEWARD_TEST_WRITTEN=FOLDER cargo test -p edgeward-perceive --test onnx_written
    python agree.py FOLDER [--most 1]

Needs `onnx`, `onnxruntime` and `numpy`. For each `NAME.onnx` of the folder, `NAME.inputs` holds inputs, one after the other, as
`edgeward net run` takes them, and `NAME.outputs` what Edgeward answers to them. The file is checked by ONNX's own checker, and
a line says how many answers of onnxruntime differ, and by how much at most: bytes in units, floats in parts of the largest;
once optimised, and once without its optimisations, so operator by operator, in floats. On x86 processors without VNNI it saturates
sums of bytes unless `session.x64quantprecision` is 1, which it is here. Ends with an error where both ways a byte differs by more
than `--most` units, or a float by more than 1e-4.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

LEVELS = {
    "optimised": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "as written": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
TYPES = {"tensor(int8)": np.int8, "tensor(float)": np.float32}


def sizes(ports):
    """Of inputs or outputs: types, shapes, and bytes of all of them."""
    ports = [(np.dtype(TYPES[port.type]), tuple(port.shape)) for port in ports]
    return ports, sum(kind.itemsize * int(np.prod(shape)) for kind, shape in ports)


def split(content, ports):
    arrays, at = [], 0
    for kind, shape in ports:
        n = int(np.prod(shape))
        arrays.append(np.frombuffer(content, kind, n, at).reshape(shape))
        at += n * kind.itemsize
    return arrays


def compare(path, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given, expected = path.with_suffix(".inputs").read_bytes(), path.with_suffix(".outputs").read_bytes()
    (into, n_in), (out, n_out) = sizes(session.get_inputs()), sizes(session.get_outputs())
    names = [port.name for port in session.get_inputs()]
    n_runs = len(given) // n_in
    assert n_runs > 0 and len(expected) == n_runs * n_out, f"{path}: {len(expected)} bytes of answers"
    n_all, n_different, bytes_apart, floats_apart = 0, 0, 0, 0.0
    for run in range(n_runs):
        inputs = split(given[run * n_in : (run + 1) * n_in], into)
        ours = split(expected[run * n_out : (run + 1) * n_out], out)
        for a, b in zip(session.run(None, dict(zip(names, inputs))), ours):
            apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
            n_all, n_different = n_all + a.size, n_different + np.count_nonzero(apart)
            if a.dtype == np.int8:
                bytes_apart = max(bytes_apart, int(apart.max()))
            else:
                floats_apart = max(floats_apart, float(apart.max() / max(np.abs(b).max(), 1e-3)))
    return n_all, n_different, bytes_apart, floats_apart


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=1)
    args = parser.parse_args()
    is_good = True
    for path in sorted(args.folder.glob("*.onnx")):
        onnx.checker.check_model(str(path), full_check=True)
        parts, is_near = [], False
        for level in LEVELS:
            n_all, n_different, bytes_apart, floats_apart = compare(path, level)
            parts.append(f"{level} {n_different} differ, by {bytes_apart} units, {floats_apart:.1e}")
            is_near |= bytes_apart <= args.most and floats_apart <= 1e-4
        is_good &= is_near
        print(f"{path.stem}, {n_all} answers: {'; '.join(parts)}", flush=True)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
