"""How far one program's logits are from the reference's.

    python compare_logits.py REFERENCE DUMP        (numpy)

Both in the format of `make_reference.py text`, e.g. DUMP by `edgeward perplexity MODEL TEXT --dump-logits DUMP`;
REFERENCE.ids.json, which that script writes too, tells which tokens came. Prints both perplexities, the mean
Kullback-Leibler divergence KL(reference || dump) with its standard error, its 99 % quantile, and how often the most
likely token is the same. All in float64.
"""

import json
import math
import sys

import numpy as np

ROWS_AT_ONCE = 64


def open_logits(path):
    n_rows, vocab_size = np.fromfile(path, "<u4", 2)
    rows = np.memmap(path, "<f4", "r", offset=8)
    if rows.size != int(n_rows) * int(vocab_size):
        raise SystemExit(f"{path}: {rows.size} logits, its header promises {n_rows} x {vocab_size}")
    return rows.reshape(int(n_rows), int(vocab_size))


def log_softmax(logits):
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    reference, dump = map(open_logits, sys.argv[1:])
    if reference.shape != dump.shape:
        raise SystemExit(f"the reference is {reference.shape}, the dump {dump.shape}; dump the same text and windows")
    ids = np.array(json.load(open(sys.argv[1] + ".ids.json")))
    window_len = ids.shape[1]
    targets = ids[:, window_len // 2 + 1 :].reshape(-1)
    if len(targets) != len(reference):
        raise SystemExit(f"{len(reference)} rows for {len(targets)} tokens; make the reference anew")

    n = len(targets)
    nll = np.zeros(2)
    divergence = np.empty(n)
    n_same = 0
    for at in range(0, n, ROWS_AT_ONCE):
        part = slice(at, min(at + ROWS_AT_ONCE, n))
        p, q = log_softmax(reference[part]), log_softmax(dump[part])
        rows = np.arange(p.shape[0])
        nll -= [p[rows, targets[part]].sum(), q[rows, targets[part]].sum()]
        divergence[part] = (np.exp(p) * (p - q)).sum(-1)
        n_same += int((p.argmax(-1) == q.argmax(-1)).sum())
    ours, theirs = math.exp(nll[1] / n), math.exp(nll[0] / n)
    print(f"positions            {n}")
    print(f"perplexity           {ours:.4f}, reference {theirs:.4f} ({100 * (ours / theirs - 1):+.3f} %)")
    print(f"mean KL divergence   {divergence.mean():.6f} +- {divergence.std() / math.sqrt(n):.6f}")
    print(f"99 % quantile of KL  {np.quantile(divergence, 0.99):.6f}")
    print(f"same top token       {100 * n_same / n:.2f} %")


main()
