"""Makes `bytes.json`: what LiteRT's functions of eight bits give for each of the 256 bytes.

    python bytes.py

Needs `ai-edge-litert` and `numpy`. For each function and several scales and zero points, a list of objects:

- `function`: TFLite's name; `alpha`: the slope of LEAKY_RELU;
- `from`, `to`: scale and zero point of the input and of the output;
- `xnnpack`, `reference`: the results for -128 to 127, with XNNPACK and with LiteRT's reference kernels.
"""

import json
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from compare import interpreter

OPERATORS, OPTIONS = schema.BuiltinOperator, schema.BuiltinOptions
# Name, number, kind of options, version.
FUNCTIONS = [
    ("LOGISTIC", OPERATORS.LOGISTIC, OPTIONS.NONE, 2),
    ("TANH", OPERATORS.TANH, OPTIONS.NONE, 2),
    ("LEAKY_RELU", OPERATORS.LEAKY_RELU, OPTIONS.LeakyReluOptions, 2),
    ("HARD_SWISH", OPERATORS.HARD_SWISH, OPTIONS.NONE, 1),
    ("GELU", OPERATORS.GELU, OPTIONS.GeluOptions, 2),
    ("RELU", OPERATORS.RELU, OPTIONS.NONE, 2),
    ("RELU6", OPERATORS.RELU6, OPTIONS.NONE, 2),
    ("QUANTIZE", OPERATORS.QUANTIZE, OPTIONS.NONE, 2),
]
# What LiteRT wants of their results.
FIXED = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}
N_CASES = 6


def model(number, kind, version, alpha, scales):
    def tensor(name, scale, zero):
        made = schema.TensorT()
        made.name, made.shape, made.type = name, [1, 256], schema.TensorType.INT8
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [scale], [zero]
        return made

    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
    operator.inputs, operator.outputs, operator.builtinOptionsType = [0], [1], kind
    if kind == OPTIONS.LeakyReluOptions:
        operator.builtinOptions = schema.LeakyReluOptionsT()
        operator.builtinOptions.alpha = alpha
    elif kind == OPTIONS.GeluOptions:
        operator.builtinOptions = schema.GeluOptionsT()
    graph, made = schema.SubGraphT(), schema.ModelT()
    graph.tensors = [tensor("x", *scales[0]), tensor("y", *scales[1])]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    made.version, made.operatorCodes, made.subgraphs, made.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def answers(content, way):
    made = interpreter(content, way, 1)
    made.set_tensor(made.get_input_details()[0]["index"], np.arange(-128, 128, dtype=np.int8)[None])
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"])[0].tolist()


def main():
    rng, cases = np.random.default_rng(1), []
    for name, number, kind, version in FUNCTIONS:
        for _ in range(N_CASES):
            source = (float(np.float32(10 ** rng.uniform(-2.5, -0.5))), int(rng.integers(-128, 128)))
            # Up to five times finer or coarser.
            to = (float(np.float32(source[0] * 5 ** rng.uniform(-1, 1))), int(rng.integers(-128, 128)))
            to, alpha = FIXED.get(name, to), float(np.float32(rng.uniform(0.01, 0.5)))
            content = model(number, kind, version, alpha, (source, to))
            case = {"function": name, **({"alpha": alpha} if name == "LEAKY_RELU" else {}), "from": source, "to": to}
            cases.append({**case, **{way: answers(content, way) for way in ("xnnpack", "reference")}})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (Path(__file__).parent / "bytes.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
