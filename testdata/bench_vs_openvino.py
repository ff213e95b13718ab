"""OpenVINO GenAI and Edgeward in turn, on the same GGUF file with two threads: tokens per second.

    python bench_vs_openvino.py MODEL.gguf EDGEWARD        (openvino-genai, numpy)

Prefill of 512 random tokens, others each time because OpenVINO keeps prefixes; then decode of 64. The first round is not
counted; ratios are pair by pair, of which the median is printed.
"""

import json
import statistics
import subprocess
import sys

import numpy as np
import openvino as ov
import openvino_genai as genai

N_ROUNDS = 6


def edgeward(program, model):
    options = ["--threads", "2", "--prompt", "512", "--gen", "64", "--depth", "512", "--repeat", "1", "--json"]
    done = subprocess.run([program, "bench", model, *options], check=True, capture_output=True, text=True)
    return [row["tokens_per_s"] for row in json.loads(done.stdout)]


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    model, program = sys.argv[1:]
    pipeline = genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=2)
    config = genai.GenerationConfig(max_new_tokens=65, ignore_eos=True, do_sample=False)
    random = np.random.default_rng(1)
    rounds = []
    for _ in range(N_ROUNDS + 1):
        tokens = random.integers(1000, 40000, (1, 512), dtype=np.int64)
        metrics = pipeline.generate(ov.Tensor(tokens), config).perf_metrics
        theirs = [512e3 / metrics.get_ttft().mean, 1e3 / metrics.get_tpot().mean]
        rounds.append((theirs, edgeward(program, model)))
    for i, name in enumerate(["prefill 512", "decode after 512"]):
        pairs = [(theirs[i], ours[i]) for theirs, ours in rounds[1:]]
        ratio = statistics.median(ours / theirs for theirs, ours in pairs)
        print(name, "OpenVINO", [round(a) for a, _ in pairs], "ours", [round(b) for _, b in pairs], f"ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
