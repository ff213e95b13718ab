"""What a model's answers should be, by float32 torch on its dequantised weights (`gguf_torch.py`).

    python make_reference.py MODEL.gguf LLAMA_TOKENIZE text TEXT_FILE LOGITS_OUT [--windows N]
    python make_reference.py MODEL.gguf LLAMA_TOKENIZE greedy JSON_OUT [--prompts N]

LLAMA_TOKENIZE is llama.cpp's program of that name: the tokens do not come from what is being judged.

`text` prints the perplexity of the text and writes the scored positions' logits to LOGITS_OUT for `compare_logits.py`,
and the windows' token ids, as a JSON array of arrays, to LOGITS_OUT with `.ids.json` appended. The protocol is
llama-perplexity's: windows of 512 tokens (N of them, evenly spread, else all), logits at positions 256 to 510 of each
scored, a BOS token in the first place where the model wants one; what looks like a special token is text.

Format of a logits file, little-endian: u32 n_rows, u32 vocab_size, then n_rows * vocab_size f32 logits; the rows are the
scored positions, window after window.

`greedy` continues the prompts of `prompts.json` by the most likely token, 48 times or to the end token (included), and
writes for each: `prompt_ids` (with BOS where the model wants one, and the chat template applied), `ids` that follow,
and for each of those its `margins`: by how much its logit exceeds the second largest.
"""

import argparse
import json
import math
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

from gguf_torch import Reference, scored, windows

N_NEW = 48
WINDOWS_AT_ONCE = 2

SMOLLM2_CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
GEMMA3_CHAT = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"


def tokenize(program, model, *source):
    command = [program, "-m", model, *source, "--ids", "--no-escape", "--log-disable"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def spread(n_all, n_wanted):
    """`n_wanted` of the indices below `n_all`, evenly spread, as `edgeward perplexity --windows` chooses them."""
    if n_wanted == 1:
        return [0]
    if n_wanted >= n_all:
        return list(range(n_all))
    step = (n_all - 1) / (n_wanted - 1)
    return [round(i * step) for i in range(n_wanted)]


def text(model, ids, logits_path, n_windows):
    cut = windows(model, ids)
    cut = cut[spread(len(cut), n_windows or len(cut))]
    Path(logits_path + ".ids.json").write_text(json.dumps(cut.tolist()))
    where = scored()
    n_rows = len(cut) * (where.stop - where.start)
    nll = 0.0
    with open(logits_path, "wb") as out:
        out.write(struct.pack("<II", n_rows, model.vocab_size))
        for first in range(0, len(cut), WINDOWS_AT_ONCE):
            some = cut[first : first + WINDOWS_AT_ONCE]
            for window, hidden in zip(some, model.hidden(some)):
                logits = model.head(hidden[where])
                out.write(logits.numpy().astype("<f4").tobytes())
                following = window[where.start + 1 : where.stop + 1, None]
                nll -= logits.double().log_softmax(-1).gather(-1, following).sum().item()
    print(f"perplexity {math.exp(nll / n_rows):.5f} over {n_rows} positions of {len(cut)} windows")


def continue_greedily(model, prompt_ids, end_ids):
    cache, ids, margins = {}, [], []
    fed = torch.tensor([prompt_ids])
    for _ in range(N_NEW):
        logits = model.head(model.hidden(fed, cache)[:, -1:])[0, -1]
        top = logits.topk(2)
        ids.append(top.indices[0].item())
        margins.append(round((top.values[0] - top.values[1]).item(), 5))
        if ids[-1] in end_ids:
            break
        fed = torch.tensor([ids[-1:]])
    return ids, margins


def greedy(model, args):
    prompts = json.loads((Path(__file__).parent / "prompts.json").read_text())
    if args.prompts:
        prompts = [prompts[i] for i in np.linspace(0, len(prompts) - 1, args.prompts).round().astype(int)]
    template = GEMMA3_CHAT if model.is_gemma else SMOLLM2_CHAT
    # Gemma's turns end with token 106, <end_of_turn>.
    end_ids = {model.eos, 106} if model.is_gemma else {model.eos}
    made = []
    for prompt in prompts:
        words = template.format(prompt["chat"]) if "chat" in prompt else prompt["text"]
        prompt_ids = tokenize(args.tokenizer, args.model, "-p", words)
        ids, margins = continue_greedily(model, prompt_ids, end_ids)
        made.append({"name": prompt["name"], "prompt": words, "prompt_ids": prompt_ids, "ids": ids, "margins": margins})
    lines = ",\n".join(json.dumps(m, ensure_ascii=False) for m in made)
    Path(args.out).write_text(f"[\n{lines}\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tokenizer")
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("text")
    part.add_argument("text")
    part.add_argument("out")
    part.add_argument("--windows", type=int)
    part = parts.add_parser("greedy")
    part.add_argument("out")
    part.add_argument("--prompts", type=int)
    args = parser.parse_args()

    torch.set_num_threads(1)
    began = time.time()
    model = Reference(args.model)
    if args.part == "text":
        ids = tokenize(args.tokenizer, args.model, "-f", args.text, "--no-parse-special")
        text(model, ids, args.out, args.windows)
    else:
        greedy(model, args)
    print(f"{time.time() - began:.0f} s")


main()
