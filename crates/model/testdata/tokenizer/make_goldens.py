"""Tokenises texts with llama.cpp and writes what comes out to goldens.json.

    python make_goldens.py LLAMA_TOKENIZE MODEL_DIR TEXT_DIR

LLAMA_TOKENIZE is llama.cpp's program of that name; MODEL_DIR has smollm2.gguf and gemma3.gguf; TEXT_DIR has the
larger texts below: WikiText-2's raw test split and the sentences of Universal Dependencies' Chinese-GSDSimp. For each
text, model and treatment of special tokens: the number of ids, the SHA-256 of the ids as little-endian 32-bit
numbers, and the first of them, or all for the texts beside this script.
"""

import hashlib
import json
import pathlib
import struct
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
LARGE = ["wikitext-2/test.txt", "zh-gsdsimp/zh_gsdsimp-test.txt", "zh-gsdsimp/zh_gsdsimp-ud-test.conllu"]
SMALL = ["torture.txt", "sample.c", "sample.py", "sample.rs"]


def main():
    program, models, texts = sys.argv[1:]
    cases = []
    for model in ["smollm2", "gemma3"]:
        for parse_special in [True, False]:
            for name in SMALL + LARGE:
                path = HERE / name if name in SMALL else pathlib.Path(texts) / name
                command = [program, "-m", f"{models}/{model}.gguf", "-f", path, "--ids", "--no-escape"]
                command += ["--log-disable"] + ([] if parse_special else ["--no-parse-special"])
                ids = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                case = {
                    "model": model,
                    "text": name,
                    "text_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "parse_special": parse_special,
                    "n_ids": len(ids),
                    "sha256": hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest(),
                    "ids": ids if name in SMALL else ids[:32],
                }
                cases.append(case)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "goldens.json").write_text(f"[\n{lines}\n]\n")


main()
