"""Makes LoRA adapters for two of the tiny models, and what they make of these.

    python make.py path/to/llama.cpp        (torch, transformers, peft, gguf; deterministic)

    NAME/                 an adapter as peft saves it; the weights are drawn here, so that every part is felt
    NAME.gguf             the same by llama.cpp's own `convert_lora_to_gguf.py`
    CASE.logits.bin       logits of every position of `../tiny/ids.json` by transformers and peft, as in `../tiny`:
        all               `all` on llama
        both              `all` at half and `few` at one and a half times their strength, at once
        gemma3            `gemma3` on gemma3
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
TINY = HERE.parent / "tiny"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "all": ("llama", dict(r=4, lora_alpha=8, target_modules=ATTENTION + MLP)),
    # Only some of the matrices, and not in every layer.
    "few": ("llama", dict(r=2, lora_alpha=3, target_modules=["q_proj", "up_proj"], layers_to_transform=[1])),
    # Scaled by the root of the rank; one projection by itself; the embedding, which this family scales.
    "gemma3": ("gemma3", dict(r=4, lora_alpha=6, use_rslora=True, target_modules=ATTENTION + MLP + ["embed_tokens"],
                              rank_pattern={"v_proj": 6}, alpha_pattern={"v_proj": 9, "layers.2.mlp.up_proj": 5})),
}


def randomize(model, rng):
    for name, weight in model.named_parameters():
        if "lora_" in name:
            # B is wide or tall; either way the product is about a third of the weights it is added to.
            draw = rng.standard_normal(tuple(weight.shape), dtype=np.float32)
            is_a = "lora_A" in name or "lora_embedding_A" in name
            n_in = 1 if "embedding_A" in name else weight.shape[1]
            weight.data.copy_(torch.from_numpy(draw * (0.6 if is_a else 0.25) / n_in**0.5))


def logits(model, path):
    ids = json.loads((TINY / "ids.json").read_text())
    with torch.no_grad():
        out = model(torch.tensor([ids])).logits[0].to(torch.float32).numpy()
    with open(path, "wb") as file:
        file.write(np.array(out.shape, "<u4").tobytes())
        file.write(out.astype("<f4").tobytes())
    return out


def base(name):
    return AutoModelForCausalLM.from_pretrained(TINY / name, dtype=torch.float32, attn_implementation="eager").eval()


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(7)
    for name, (model_name, settings) in ADAPTERS.items():
        model = get_peft_model(base(model_name), LoraConfig(task_type="CAUSAL_LM", **settings))
        randomize(model, rng)
        shutil.rmtree(HERE / name, ignore_errors=True)
        model.save_pretrained(HERE / name, save_embedding_layers=False)
        (HERE / name / "README.md").unlink()
        config_path = HERE / name / "adapter_config.json"
        config = json.loads(config_path.read_text())
        config["base_model_name_or_path"] = f"tiny/{model_name}"
        # A set, whose order changes from run to run.
        config["target_modules"].sort()
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        plain = logits(base(model_name), "/dev/null")
        if name != "few":
            adapted = logits(PeftModel.from_pretrained(base(model_name), HERE / name).eval(), HERE / f"{name}.logits.bin")
            print(name, "moves the logits by", abs(adapted - plain).mean(), "of", abs(plain).mean())
        if model_name == "llama":
            subprocess.run([sys.executable, Path(sys.argv[1]) / "convert_lora_to_gguf.py", "--base", TINY / model_name,
                            "--outfile", HERE / f"{name}.gguf", HERE / name], check=True)
    model = PeftModel.from_pretrained(base("llama"), HERE / "all", adapter_name="all")
    model.load_adapter(HERE / "few", adapter_name="few")
    model.base_model.set_adapter(["all", "few"])
    for module in model.modules():
        if hasattr(module, "scale_layer") and hasattr(module, "lora_A"):
            module.set_scale("all", 0.5)
            module.set_scale("few", 1.5)
    logits(model.eval(), HERE / "both.logits.bin")


main()
