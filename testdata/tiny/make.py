"""Makes the tiny random models and their goldens.

    python make.py [OUT_DIR]        (torch, transformers, tokenizers, safetensors, gguf; deterministic)

For each model:
    NAME/            a Hugging Face folder, written by transformers
    NAME.gguf        the same weights in float32, laid out as llama.cpp's converter does
    NAME.logits.bin  the logits of every position of `ids.json`, by transformers in float32 on one thread:
                     u32 n_rows, u32 vocab_size, n_rows * vocab_size f32, all little-endian
and for all of them `ids.json`, the tokens fed, and one byte-level BPE tokenizer trained on the lines below.

The weights are drawn so that every part is felt in the logits: matrices keep the variance of their input, norms and
biases are away from 1 and 0, and the small bases make the rotary frequencies turn far within the sequence.
"""

import json
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

VOCAB_SIZE = 320
SEQ_LEN = 40
CONTEXT_LEN = 128
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "Pack my box with five dozen liquor jugs, then send it on to the next town.",
    "There is nothing that the other model and the weather have in common.",
    "for i in range(10): print(i, i * i)",
    "In 1969 there were 3 of them; now there are 12,345.",
]

COMMON = dict(
    vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=CONTEXT_LEN, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2, pad_token_id=None,
)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)


def plain_rope(theta):
    return dict(rope_type="default", rope_theta=theta)


# name -> configuration, element type of the folder, largest shard, keys of the old style if the folder is to have those.
MODELS = {
    # Grouped queries, output tied to the embedding.
    "llama": (LlamaConfig(**COMMON | dict(hidden_size=64, intermediate_size=96), tie_word_embeddings=True,
                          rope_parameters=plain_rope(10000.0)), torch.float32, None, dict(rope_theta=10000.0)),
    # Frequencies below, within and above Llama 3's ramp; output of its own.
    "llama3": (LlamaConfig(**COMMON, tie_word_embeddings=False, rope_parameters=LLAMA3 | dict(rope_theta=500.0)),
               torch.float32, None, dict(rope_theta=500.0, rope_scaling=LLAMA3)),
    # Heads together wider than the residual stream, as in Mistral Nemo.
    "mistral": (MistralConfig(**COMMON, tie_word_embeddings=False, sliding_window=None,
                              rope_parameters=plain_rope(10000.0)), torch.bfloat16, None, dict(rope_theta=10000.0)),
    "qwen2": (Qwen2Config(**{k: v for k, v in COMMON.items() if k != "head_dim"} | dict(num_attention_heads=2,
                          num_key_value_heads=1), tie_word_embeddings=False, rope_parameters=plain_rope(1000.0)),
              torch.float16, None, dict(rope_theta=1000.0)),
    # In shards, and with transformers 5's own keys.
    "qwen3": (Qwen3Config(**COMMON, tie_word_embeddings=True, rope_parameters=plain_rope(1000.0)),
              torch.float32, "60KB", None),
    # Layer 5 is global, the rest see 8 positions.
    "gemma3": (Gemma3TextConfig(**COMMON | dict(num_hidden_layers=7, num_attention_heads=2, num_key_value_heads=1),
                                sliding_window=8, query_pre_attn_scalar=16, tie_word_embeddings=True,
                                rope_parameters=dict(full_attention=plain_rope(1000.0),
                                                     sliding_attention=plain_rope(10000.0))),
               torch.float32, None, dict(rope_theta=1000.0, rope_local_base_freq=10000.0)),
}

# Hugging Face's names of a block's tensors -> GGUF's. Gemma has two norms more and the third one's name differs.
BLOCK = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
GEMMA_BLOCK = BLOCK | {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def train_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    # SmolLM's: each digit by itself, then GPT-2's split.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=SPECIALS, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(LINES, trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return tokenizer


def randomize(model, rng):
    """Overwrites every weight; the draws do not depend on torch's version."""
    is_gemma = model.config.model_type == "gemma3_text"
    for name, weight in model.named_parameters():
        draw = rng.standard_normal(tuple(weight.shape), dtype=np.float32)
        if "norm" in name:
            # Gemma's files hold what is added to 1.
            draw = 0.2 * draw + (0.0 if is_gemma else 1.0)
        elif name.endswith("bias"):
            draw = 0.5 * draw
        elif "embed" in name:
            draw = 0.3 * draw
        elif "q_proj" in name or "k_proj" in name:
            # Sharper attention: which positions are seen must matter.
            draw = 2.0 * draw / weight.shape[1] ** 0.5
        else:
            draw = draw / weight.shape[1] ** 0.5
        weight.data.copy_(torch.from_numpy(draw))


def restyle_config(path, keys):
    """config.json as published folders of this family have it, before transformers 5."""
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps(config | keys, indent=2, sort_keys=True) + "\n")


def write_folder(folder, model, tokenizer, dtype, shard, old_keys):
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if old_keys is not None:
        restyle_config(folder / "config.json", old_keys)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIALS[1], "eos_token": SPECIALS[2],
                "add_bos_token": False, "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def interleave(weight, n_heads):
    """Rows of each head from halves (0, n/2), (1, n/2 + 1)... to pairs (0, 1), (2, 3)...: how llama's GGUF files lie."""
    rows, cols = weight.shape
    return weight.reshape(n_heads, 2, rows // n_heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def llama3_divisors(config):
    """What each frequency is divided by, [head_dim / 2]; the ramp of Llama 3.1's reference code."""
    rope = config.rope_parameters
    n, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    freqs = rope["rope_theta"] ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    turns = n * freqs / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    divisors = 1 / ((1 - smooth) / rope["factor"] + smooth)
    assert 1.0 in divisors and rope["factor"] in divisors and np.unique(divisors).size > 2
    return divisors.astype(np.float32)


def write_gguf(path, model, tokenizer):
    config = model.config
    kind = config.model_type
    arch = {"mistral": "llama", "gemma3_text": "gemma3"}.get(kind, kind)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    out = gguf.GGUFWriter(path, arch)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_key_length(head_dim)
    out.add_value_length(head_dim)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base((rope["full_attention"] if arch == "gemma3" else rope)["rope_theta"])
    if arch == "llama":
        out.add_vocab_size(config.vocab_size)
        out.add_rope_dimension_count(head_dim)
    if arch == "gemma3":
        out.add_sliding_window(config.sliding_window)
    out.add_file_type(gguf.LlamaFileType.ALL_F32)

    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(tokens)
    out.add_token_types([gguf.TokenType.CONTROL if t in SPECIALS else gguf.TokenType.NORMAL for t in tokens])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    out.add_token_merges([" ".join(pair) for pair in merges])
    out.add_bos_token_id(config.bos_token_id)
    out.add_eos_token_id(config.eos_token_id)
    out.add_add_bos_token(False)
    out.add_chat_template(CHAT_TEMPLATE)

    if rope.get("rope_type") == "llama3":
        out.add_tensor("rope_freqs.weight", llama3_divisors(config))
    block = GEMMA_BLOCK if arch == "gemma3" else BLOCK
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = weight.float().numpy()
        stem, suffix = name.rsplit(".", 1)
        if arch == "llama" and stem.endswith("q_proj"):
            weight = interleave(weight, config.num_attention_heads)
        if arch == "llama" and stem.endswith("k_proj"):
            weight = interleave(weight, config.num_key_value_heads)
        if arch == "gemma3" and "norm" in stem:
            weight = weight + np.float32(1)
        if stem in OUTSIDE:
            new = OUTSIDE[stem]
        else:
            _, _, layer_idx, part = stem.split(".", 3)
            new = f"blk.{layer_idx}.{block[part]}"
        out.add_tensor(f"{new}.{suffix}", np.ascontiguousarray(weight))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


@torch.inference_mode()
def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0].float().numpy()


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    tokenizer = train_tokenizer()
    ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, SEQ_LEN).tolist()
    (out / "ids.json").write_text(json.dumps(ids) + "\n")
    for seed, (name, (config, dtype, shard, old_keys)) in enumerate(MODELS.items(), 1):
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        randomize(model, np.random.default_rng(seed))
        write_folder(out / name, model, tokenizer, dtype, shard, old_keys)
        # From the folder, so that what is judged is what the file says, in whatever style and precision.
        model = AutoModelForCausalLM.from_pretrained(out / name, dtype=torch.float32, attn_implementation="eager")
        write_gguf(out / f"{name}.gguf", model.eval(), tokenizer)
        logits = logits_of(model, ids)
        header = np.array(logits.shape, "<u4").tobytes()
        (out / f"{name}.logits.bin").write_bytes(header + logits.astype("<f4").tobytes())
        print(f"{name}: logits from {logits.min():.2f} to {logits.max():.2f}")


main()
