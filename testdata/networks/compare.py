"""Compares `edgeward net run` with LiteRT on random inputs: the larger check, outside of the tests.

    python compare.py path/to/edgeward MODEL.tflite... [--n 200] [--threads 1]

Needs `ai-edge-litert` and `numpy`. For each model, `--n` pseudo-random inputs go through

- LiteRT with XNNPACK (its default),
- LiteRT without XNNPACK (its optimised kernels), and with its reference kernels,
- edgeward with --arithmetic xnnpack and with --arithmetic reference,

and a line says how many outputs differ, and by how much at most: bytes in units, floats absolute.

Some files give the biases of convolutions a quantised dimension that they do not have, which LiteRT refuses. Such a file
is compared with that number set to 0; the line says so.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

WAYS = {
    "xnnpack": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


def repaired(content):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for tensor in model.subgraphs[0].tensors:
        if tensor.quantization is not None and tensor.quantization.quantizedDimension >= len(tensor.shape):
            tensor.quantization.quantizedDimension = 0
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def interpreter(content, way, threads):
    made = Interpreter(
        model_content=content,
        num_threads=threads,
        experimental_op_resolver_type=WAYS[way],
    )
    made.allocate_tensors()
    return made


def litert(content, way, inputs, threads, n_outputs=1):
    """Answers to each input: of the first outputs, or with None of all, one after the other."""
    made = interpreter(content, way, threads)
    into = made.get_input_details()[0]["index"]
    out = [detail["index"] for detail in made.get_output_details()[:n_outputs]]
    outputs = []
    for x in inputs:
        made.set_tensor(into, x)
        made.invoke()
        outputs.append(np.concatenate([made.get_tensor(index).ravel() for index in out]))
    return np.stack(outputs)


def edgeward(binary, model, arithmetic, inputs, dtype, threads):
    with tempfile.TemporaryDirectory() as folder:
        given, got = Path(folder) / "inputs", Path(folder) / "outputs"
        inputs.tofile(given)
        command = [binary, "net", "run", model, given, "--output", got, "--arithmetic", arithmetic]
        subprocess.run([*command, "--threads", str(threads)], check=True)
        return np.fromfile(got, dtype)


def random_inputs(rng, detail, n):
    shape = (n, *detail["shape"])
    if detail["dtype"] == np.int8:
        return rng.integers(-128, 128, shape, dtype=np.int8)
    return rng.standard_normal(shape, dtype=np.float32)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("edgeward")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for model in args.models:
        content, note = Path(model).read_bytes(), ""
        try:
            made = interpreter(content, "xnnpack", 1)
        except ValueError:
            content, note = repaired(content), " (LiteRT given a repaired file)"
            made = interpreter(content, "xnnpack", 1)
        inputs = random_inputs(np.random.default_rng(1), made.get_input_details()[0], args.n)
        theirs = {way: litert(content, way, inputs, 1, None) for way in WAYS}
        dtype = theirs["xnnpack"].dtype
        ours = {
            arithmetic: edgeward(args.edgeward, model, arithmetic, inputs, dtype, args.threads)
            for arithmetic in ("xnnpack", "reference")
        }
        wide = {way: out.reshape(args.n, -1).astype(np.float64) for way, out in theirs.items()}
        parts = [f"{Path(model).name}{note}, {theirs['xnnpack'].size} outputs of {args.n} inputs:"]
        for arithmetic, way in (("xnnpack", "xnnpack"), ("reference", "reference"), ("reference", "builtin")):
            difference = np.abs(ours[arithmetic].reshape(args.n, -1).astype(np.float64) - wide[way])
            parts.append(f"{arithmetic}/{way} {np.count_nonzero(difference)} differ, at most {difference.max():.3g};")
        for a, b in (("xnnpack", "builtin"), ("builtin", "reference")):
            difference = np.abs(wide[a] - wide[b])
            parts.append(f"LiteRT's {a}/{b} {np.count_nonzero(difference)}, {difference.max():.3g};")
        print(" ".join(parts), flush=True)


if __name__ == "__main__":
    main()
