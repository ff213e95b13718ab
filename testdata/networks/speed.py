"""Measures `edgeward net bench` and LiteRT side by side: microseconds per run, on one core.

    python speed.py path/to/edgeward MODEL.tflite... [--threads 1] [--rounds 3] [--seconds 0.2]

Needs `ai-edge-litert`, `numpy` and `flatbuffers`. The two take turns, `--rounds` times; of each the smallest of its
rounds' medians counts, as other work on the machine only ever makes a run longer. LiteRT is called through Python's
binding without its wrapper; what that adds stays in.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np

from compare import interpreter, random_inputs, repaired


def litert_us(content, threads, seconds):
    made = interpreter(content, "xnnpack", threads)
    detail = made.get_input_details()[0]
    made.set_tensor(detail["index"], random_inputs(np.random.default_rng(1), detail, 1)[0])
    invoke, clock = made._interpreter.Invoke, time.perf_counter_ns
    end = clock() + int(seconds * 5e8)
    while clock() < end:
        invoke()
    times, end = [], clock() + int(seconds * 1e9)
    while clock() < end:
        start = clock()
        invoke()
        times.append(clock() - start)
    return float(np.median(times)) / 1e3


def edgeward_us(binary, model, threads, seconds):
    command = [binary, "--quiet", "net", "bench", model, "--json", "--threads", str(threads)]
    printed = subprocess.run([*command, "--seconds", str(seconds)], check=True, capture_output=True).stdout
    return json.loads(printed)[0]["us_per_run"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("edgeward")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.2)
    args = parser.parse_args()
    ratios = []
    print(f"{'model':32} {'LiteRT us':>10} {'edgeward us':>12} {'times as fast':>14}")
    for model in args.models:
        content = Path(model).read_bytes()
        try:
            interpreter(content, "xnnpack", 1)
        except ValueError:
            content = repaired(content)
        theirs, ours = [], []
        for _ in range(args.rounds):
            theirs.append(litert_us(content, args.threads, args.seconds))
            ours.append(edgeward_us(args.edgeward, model, args.threads, args.seconds))
        ratios.append(min(theirs) / min(ours))
        name = Path(model).name
        print(f"{name:32} {min(theirs):10.2f} {min(ours):12.2f} {ratios[-1]:14.2f}", flush=True)
    print(f"geometric mean {np.exp(np.mean(np.log(ratios))):.2f}")


if __name__ == "__main__":
    main()
