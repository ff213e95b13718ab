"""PIQA and ARC-easy scored by lm-evaluation-harness itself, on a GGUF file's dequantised weights in float32, with the
questions of local files: what `edgeward eval --tasks` is compared with.

    python harness.py MODEL.gguf piqa/valid.jsonl arc_easy.jsonl 300

Needs `lm-eval[hf]` (with it `accelerate`), `transformers`, `torch`, `gguf`. The harness's own task definitions are used, with another source of the
same data: PIQA as its authors publish it (labels in valid-labels.lst), ARC-easy as JSON lines with query, choices, gold.
"""

import json
import sys
import tempfile
from pathlib import Path

import lm_eval
import yaml
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer


def piqa(path, n):
    labels = path.with_name(path.stem + "-labels.lst").read_text().split()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [dict(goal=r["goal"], sol1=r["sol1"], sol2=r["sol2"], label=int(l)) for r, l in zip(rows, labels)][:n]


def arc(path, n):
    rows = [json.loads(line) for line in path.read_text().splitlines()][:n]
    letters = lambda choices: [chr(ord("A") + i) for i in range(len(choices))]
    return [
        dict(
            id=str(i),
            question=r["query"].removeprefix("Question: ").strip(),
            choices=dict(text=r["choices"], label=letters(r["choices"])),
            answerKey=letters(r["choices"])[r["gold"]],
        )
        for i, r in enumerate(rows)
    ]


def main():
    model, piqa_path, arc_path, n = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    load = dict(pretrained_model_name_or_path=str(model.parent), gguf_file=model.name)
    network = AutoModelForCausalLM.from_pretrained(**load, dtype="float32")
    harness = HFLM(pretrained=network, tokenizer=AutoTokenizer.from_pretrained(**load), batch_size=8)
    definitions = Path(lm_eval.__file__).parent / "tasks"
    with tempfile.TemporaryDirectory() as folder:
        tasks = []
        for name, definition, rows in [
            ("piqa_local", "piqa/piqa.yaml", piqa(piqa_path, n)),
            ("arc_easy_local", "arc/arc_easy.yaml", arc(arc_path, n)),
        ]:
            data = Path(folder) / f"{name}.jsonl"
            data.write_text("".join(json.dumps(row) + "\n" for row in rows))
            task = yaml.safe_load((definitions / definition).read_text())
            task.update(task=name, dataset_path="json", dataset_name=None, training_split=None, test_split=None)
            task.update(dataset_kwargs=dict(data_files=dict(validation=str(data))), validation_split="validation")
            task.pop("tag", None)
            tasks.append(task)
        results = lm_eval.simple_evaluate(model=harness, tasks=tasks, num_fewshot=0, bootstrap_iters=0)
    for name, result in results["results"].items():
        print(name, json.dumps({k: v for k, v in result.items() if k.startswith(("acc", "acc_norm"))}))


main()
