"""Makes the goldens in this folder: small ONNX networks, and what onnxruntime answers to pseudo-random inputs.

    python make.py [path/to/libonnx-testdata/data/node]

Needs `onnx`, `onnxruntime` and `numpy`. Writes

- `image.onnx`: convolutions, ordinary, depthwise and in groups, batch normalisation, pooling, a sum, a dense layer;
- `image_qdq.onnx`, `image_qlinear.onnx`: the same in eight bits, by onnxruntime's own quantisation, in both forms;
- `recurrent.onnx`: slices, convolutions of one dimension, an LSTM, a branch on an integer input;
- `attention.onnx`: products of computed matrices, layer normalisation, GELU by the error function;
- `normalised.onnx`: batch normalisation, factors and shifts of channels before and behind all kinds of layers;
- `sentence.onnx`: words by their numbers, a mask of integers, choices by truth values, as exporters write text encoders;
- `joined.onnx`: activations of all kinds that eight bits have, and what they make side by side;
- `NAME.json`: inputs and outputs of each, by name: shape and values;
- `cases/`: with a path, a few of the operators' cases that come with ONNX, unchanged.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization as quant

FOLDER = Path(__file__).parent
CASES = """
test_averagepool_2d_ceil test_averagepool_2d_same_lower test_basic_conv_with_padding test_batchnorm_example
test_clip_default_max test_concat_3d_axis_negative_2 test_conv_with_autopad_same test_depthtospace_crd_mode_example
test_dequantizelinear test_expand_dim_changed test_flatten_negative_axis1 test_gather_1 test_gathernd_example_float32 test_gemm_all_attributes
test_greater_equal_bcast test_if test_layer_normalization_3d_axis1_epsilon test_logsoftmax_axis_1 test_lstm_with_initial_bias test_matmul_4d
test_mod_mixed_sign_int64 test_not_3d test_where_example
test_maxpool_2d_ceil test_pow_bcast_array test_prelu_broadcast test_qlinearconv test_qlinearmatmul_2D test_quantizelinear
test_reduce_l2_negative_axes_keep_dims_example test_constant_pad test_reshape_negative_extended_dims test_slice_neg_steps
test_softmax_axis_0 test_split_variable_parts_2d test_transpose_all_permutations_3 test_unsqueeze_two_axes
""".split()


class Maker:
    def __init__(self, seed):
        self.rng, self.nodes, self.weights = np.random.default_rng(seed), [], []

    def weight(self, *shape, scale=None):
        scale = scale or 1 / np.sqrt(np.prod(shape[1:]) or 1)
        return self.constant((scale * self.rng.standard_normal(shape)).astype(np.float32))

    def constant(self, values):
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, op, *inputs, n_outputs=1, **attributes):
        names = [f"t{len(self.nodes)}_{i}" for i in range(n_outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if n_outputs == 1 else names

    def norm(self, x, n):
        spread = lambda: self.constant(self.rng.uniform(0.5, 1.5, n).astype(np.float32))
        return self.add("BatchNormalization", x, spread(), self.weight(n, scale=0.1), self.weight(n, scale=0.1), spread())

    def save(self, name, inputs, outputs, opset=13):
        info = lambda name, shape, kind=TensorProto.FLOAT: helper.make_tensor_value_info(name, kind, shape)
        graph = helper.make_graph(self.nodes, name, [info(*i) for i in inputs], [info(*o) for o in outputs], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, FOLDER / f"{name}.onnx")


def image():
    m = Maker(1)
    x = m.add("Conv", "image", m.weight(8, 3, 3, 3), m.weight(8, scale=0.1), pads=[1, 1, 1, 1], strides=[2, 2])
    x = m.add("Relu", m.norm(x, 8))
    y = m.add("Conv", x, m.weight(8, 1, 3, 3), m.weight(8, scale=0.1), group=8, pads=[1, 1, 1, 1])
    y = m.add("Clip", y, m.constant(np.float32(0)), m.constant(np.float32(6)))
    y = m.add("Conv", y, m.weight(8, 8, 1, 1), m.weight(8, scale=0.1))
    x = m.add("Relu", m.add("Add", x, y))
    x = m.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    x = m.add("Relu", m.add("Conv", x, m.weight(16, 4, 3, 3), m.weight(16, scale=0.1), group=2, auto_pad="SAME_UPPER"))
    x = m.add("Flatten", m.add("GlobalAveragePool", x))
    x = m.add("Gemm", x, m.weight(5, 16), m.weight(5, scale=0.1), transB=1)
    m.add("Softmax", x, axis=1)
    m.nodes[-1].output[0] = "classes"
    m.save("image", [("image", [1, 3, 20, 17])], [("classes", [1, 5])])


def normalised():
    m = Maker(5)
    x = m.add("Conv", m.norm("image", 3), m.weight(8, 3, 3, 3))
    x = m.add("Relu", m.norm(x, 8))
    # Zeros around what is shifted: this one stays a step of its own.
    x = m.add("Conv", m.norm(x, 8), m.weight(8, 1, 3, 3), group=8, pads=[1, 1, 1, 1])
    x = m.add("Relu", m.norm(x, 8))
    x = m.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = m.add("Conv", x, m.weight(12, 8, 1, 1), m.weight(12, scale=0.1))
    x = m.add("Mul", x, m.constant(m.rng.uniform(0.5, 1.5, (12, 1, 1)).astype(np.float32)))
    x = m.add("Sub", m.weight(1, 12, 1, 1, scale=0.1), x)
    x = m.add("Div", x, m.constant(np.float32(1.5)))
    # Two channels for each; and nothing around it.
    x = m.add("Conv", m.norm(x, 12), m.weight(24, 1, 2, 2), group=12)
    x = m.add("Relu", m.norm(x, 24))
    x = m.add("Flatten", m.add("GlobalAveragePool", x))
    x = m.add("Relu", m.norm(m.add("Gemm", m.norm(x, 24), m.weight(9, 24), m.weight(9, scale=0.1), transB=1), 9))
    x = m.add("Add", m.add("MatMul", m.norm(x, 9), m.weight(9, 5)), m.weight(5, scale=0.1))
    m.nodes.append(helper.make_node("Softmax", [x], ["classes"], axis=-1))
    m.save("normalised", [("image", [1, 3, 20, 17])], [("classes", [1, 5])])


def joined():
    m = Maker(6)
    conv = lambda x, n_out, n_in, size: m.add("Conv", x, m.weight(n_out, n_in, size, size), m.weight(n_out, scale=0.1),
                                              pads=[size // 2] * 4)
    x = m.add("Conv", "image", m.weight(8, 3, 3, 3), m.weight(8, scale=0.1), pads=[1, 1, 1, 1], strides=[2, 2])
    x = m.add("HardSwish", x)
    parts = [
        m.add("LeakyRelu", conv(x, 8, 8, 1), alpha=0.1),
        m.add("Sigmoid", conv(x, 6, 8, 3)),
        m.add("Tanh", conv(x, 6, 8, 1)),
        m.add("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    x = m.add("Concat", *parts, axis=1)
    x = m.add("Gelu", conv(x, 12, 28, 3))
    x = m.add("Flatten", m.add("GlobalAveragePool", x))
    m.nodes.append(helper.make_node("Gemm", [x, m.weight(5, 12), m.weight(5, scale=0.1)], ["classes"], transB=1))
    m.save("joined", [("image", [1, 3, 20, 17])], [("classes", [1, 5])], opset=20)


def recurrent():
    m = Maker(2)
    x = m.add("Unsqueeze", "sound", m.constant(np.array([1], np.int64)))
    x = m.add("Pad", x, m.constant(np.array([0, 0, 0, 0, 0, 4], np.int64)), mode="reflect")
    x = m.add("Conv", x, m.weight(18, 1, 16), strides=[8])
    part = lambda start, end: m.add("Slice", x, *(m.constant(np.array([i], np.int64)) for i in (start, end, 1)))
    two = m.constant(np.float32(2))
    x = m.add("Sqrt", m.add("Add", m.add("Pow", part(0, 9), two), m.add("Pow", part(9, 2**62), two)))
    x = m.add("Relu", m.add("Conv", x, m.weight(12, 9, 3), m.weight(12, scale=0.1), pads=[1, 1]))
    steps = m.add("Transpose", x, perm=[2, 0, 1])
    _, h, c = m.add("LSTM", steps, m.weight(1, 40, 12), m.weight(1, 40, 10), m.weight(1, 80, scale=0.1), "", "state",
                    "cell", hidden_size=10, n_outputs=3)
    x = m.add("Relu", m.add("Squeeze", h, m.constant(np.array([0], np.int64))))
    x = m.add("Sigmoid", m.add("MatMul", x, m.weight(10, 1)))
    # A branch that is known once the rate is.
    fast = helper.make_graph([helper.make_node("Identity", [x], ["then"])], "then", [],
                             [helper.make_tensor_value_info("then", TensorProto.FLOAT, None)])
    slow = helper.make_graph([helper.make_node("Neg", [x], ["else"])], "else", [],
                             [helper.make_tensor_value_info("else", TensorProto.FLOAT, None)])
    is_fast = m.add("Equal", "rate", m.constant(np.array(16000, np.int64)))
    m.nodes.append(helper.make_node("If", [is_fast], ["speech"], then_branch=fast, else_branch=slow))
    m.nodes.append(helper.make_node("Identity", [h], ["state_out"]))
    m.nodes.append(helper.make_node("Identity", [c], ["cell_out"]))
    state = ["batch", 10]
    m.save("recurrent",
           [("sound", ["batch", 132]), ("state", [1, *state]), ("cell", [1, *state]), ("rate", [], TensorProto.INT64)],
           [("speech", ["batch", 1]), ("state_out", [1, *state]), ("cell_out", [1, *state])])


def attention():
    m = Maker(3)

    def norm(x):
        axes = {"axes": [-1]}
        centred = m.add("Sub", x, m.add("ReduceMean", x, **axes))
        variance = m.add("ReduceMean", m.add("Mul", centred, centred), **axes)
        deviation = m.add("Sqrt", m.add("Add", variance, m.constant(np.float32(1e-5))))
        return m.add("Add", m.add("Mul", m.add("Div", centred, deviation), m.weight(16)), m.weight(16, scale=0.1))

    def heads(x):
        x = m.add("Add", m.add("MatMul", x, m.weight(16, 16)), m.weight(16, scale=0.1))
        shape = m.add("Shape", x)
        length = m.add("Gather", shape, m.constant(np.array(1, np.int64)))
        length = m.add("Unsqueeze", length, m.constant(np.array([0], np.int64)))
        shape = m.add("Concat", m.constant(np.array([1], np.int64)), length, m.constant(np.array([4, 4], np.int64)), axis=0)
        return m.add("Reshape", x, shape)

    x = norm("x")
    q, k, v = (m.add("Transpose", heads(x), perm=p) for p in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    scores = m.add("Div", m.add("MatMul", q, k), m.constant(np.float32(2)))
    mixed = m.add("MatMul", m.add("Softmax", scores, axis=-1), v)
    mixed = m.add("Reshape", m.add("Transpose", mixed, perm=[0, 2, 1, 3]), m.constant(np.array([0, 0, 16], np.int64)))
    x = m.add("Add", "x", m.add("MatMul", mixed, m.weight(16, 16)))
    y = m.add("MatMul", norm(x), m.weight(16, 32))
    half = m.add("Add", m.add("Erf", m.add("Div", y, m.constant(np.float32(np.sqrt(2))))), m.constant(np.float32(1)))
    y = m.add("Mul", m.add("Mul", y, half), m.constant(np.float32(0.5)))
    m.add("Add", x, m.add("MatMul", y, m.weight(32, 16)))
    m.nodes[-1].output[0] = "y"
    m.save("attention", [("x", [1, 7, 16])], [("y", [1, 7, 16])])


def sentence():
    m = Maker(4)
    ints = lambda *values: m.constant(np.array(values, np.int64))
    words = m.add("Gather", m.weight(50, 16, scale=1), "words")
    kinds = m.add("Gather", m.weight(2, 16, scale=1), "kinds")
    x = m.add("Add", m.add("Add", words, kinds), m.weight(1, 12, 16, scale=1))
    x = m.add("LayerNormalization", x, m.weight(16, scale=1), m.weight(16, scale=0.1), axis=-1)
    # What the mask covers, once as a sum and once as a choice.
    floats = m.add("Cast", "mask", to=TensorProto.FLOAT)
    away = m.add("Mul", m.add("Sub", m.constant(np.float32(1)), floats), m.constant(np.float32(np.finfo(np.float32).min)))
    truth = m.add("Cast", "mask", to=TensorProto.BOOL)
    seen = m.add("And", m.add("GreaterOrEqual", "mask", ints(1)), m.add("Not", m.add("Less", "words", ints(0))))
    seen = m.add("And", m.add("Unsqueeze", truth, ints(1)), m.add("Unsqueeze", seen, ints(1)))
    for i in range(2):
        q, k, v = (m.add("MatMul", x, m.weight(16, 16)) for _ in range(3))
        scores = m.add("MatMul", q, m.add("Transpose", k, perm=[0, 2, 1]))
        if i:
            scores = m.add("Where", seen, scores, m.constant(np.float32(-np.inf)))
        else:
            scores = m.add("Add", scores, m.add("Unsqueeze", away, ints(1)))
        share = m.add("Softmax", scores, axis=-1)
        share = m.add("Where", m.add("IsNaN", share), m.constant(np.float32(0)), share)
        x = m.add("Add", x, m.add("MatMul", share, v))
        x = m.add("Add", x, m.add("MatMul", m.add("Gelu", m.add("MatMul", x, m.weight(16, 32))), m.weight(32, 16)))
    total = m.add("ReduceSum", m.add("Mul", x, m.add("Unsqueeze", floats, ints(-1))), ints(1), keepdims=0)
    mean = m.add("Div", total, m.add("ReduceSum", floats, ints(1)))
    m.nodes.append(helper.make_node("Gelu", [mean], ["sentence"], approximate="tanh"))
    # Integers in and out.
    m.nodes.append(helper.make_node("Div", [m.add("Sub", "words", ints(9)), ints(4)], ["quarters"]))
    m.nodes.append(helper.make_node("Mod", [m.add("Sub", "words", ints(9)), ints(4)], ["rests"]))
    whole = lambda name: (name, ["batch", 12], TensorProto.INT64)
    m.save("sentence", [whole("words"), whole("mask"), whole("kinds")],
           [("sentence", ["batch", 16]), whole("quarters"), whole("rests")], opset=20)


def inputs_for(name, seed):
    rng = np.random.default_rng(seed)
    noise = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    if name == "sentence":
        mask = np.ones((1, 12), np.int64)
        mask[0, 4 + 2 * seed :] = 0
        return {"words": rng.integers(0, 50, (1, 12)), "mask": mask, "kinds": rng.integers(0, 2, (1, 12))}
    if name in ("image", "image_qdq", "image_qlinear", "normalised", "joined"):
        return {"image": noise(1, 3, 20, 17)}
    if name == "recurrent":
        return {"sound": noise(1, 132), "state": noise(1, 1, 10), "cell": noise(1, 1, 10),
                "rate": np.array(16000, np.int64)}
    return {"x": noise(1, 7, 16)}


class Reader(quant.CalibrationDataReader):
    def __init__(self):
        self.left = iter([inputs_for("image", 100 + i) for i in range(32)])

    def get_next(self):
        return next(self.left, None)


def quantise():
    for name, form in (("image_qdq", quant.QuantFormat.QDQ), ("image_qlinear", quant.QuantFormat.QOperator)):
        # Signed activations in one, unsigned in the other.
        kind = quant.QuantType.QInt8 if form == quant.QuantFormat.QDQ else quant.QuantType.QUInt8
        quant.quantize_static(FOLDER / "image.onnx", FOLDER / f"{name}.onnx", Reader(), quant_format=form, per_channel=True,
                              activation_type=kind, weight_type=quant.QuantType.QInt8,
                              op_types_to_quantize=["Conv", "Gemm", "Add"] if form == quant.QuantFormat.QDQ else ["Conv"])


def golden(name):
    # As the file says: no fusing, which rounds elsewhere.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(FOLDER / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
    as_json = lambda tensor: {"shape": list(tensor.shape), "values": [float(f"{x:.9g}") for x in tensor.ravel().tolist()]}
    runs = []
    for seed in range(4):
        inputs = inputs_for(name, seed)
        outputs = session.run(None, inputs)
        names = [output.name for output in session.get_outputs()]
        runs.append({
            "inputs": {key: as_json(value) for key, value in inputs.items()},
            "outputs": {key: as_json(value) for key, value in zip(names, outputs)},
        })
    (FOLDER / f"{name}.json").write_text(json.dumps(runs) + "\n")


def main():
    image(), recurrent(), attention(), sentence(), normalised(), joined(), quantise()
    for path in sorted(FOLDER.glob("*.onnx")):
        golden(path.stem)
    if len(sys.argv) > 1:
        shutil.rmtree(FOLDER / "cases", ignore_errors=True)
        for case in CASES:
            shutil.copytree(Path(sys.argv[1]) / case, FOLDER / "cases" / case)


if __name__ == "__main__":
    main()
