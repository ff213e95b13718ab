"""A llama or gemma3 model out of a GGUF file as plain float32 torch: every weight dequantised with the `gguf`
package, every product and sum in float32. The yardstick that the engine is measured with; made to be read.

Needs torch, numpy and gguf. Shapes: b windows, s positions, h query heads, g key-value heads, d per head.
Sources: Touvron et al. 2023 (arXiv:2302.13971) for llama, Gemma Team 2025 (arXiv:2503.19786) for gemma3.
"""

import math

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


class Gguf:
    """Metadata and tensors of a GGUF file."""

    def __init__(self, path):
        self.reader = GGUFReader(path)
        self.by_name = {t.name: t for t in self.reader.tensors}

    def get(self, key, default=None):
        field = self.reader.fields.get(key)
        return default if field is None else field.contents()

    def tensor(self, name):
        """Float32, rows first; None if the file has no such tensor."""
        t = self.by_name.get(name)
        if t is None:
            return None
        return torch.from_numpy(np.array(dequantize(t.data, t.tensor_type), dtype=np.float32))


class Reference:
    """`logits(ids)` of a llama or gemma3 model.

    `hook(kind, x)` sees the input of every matrix product and may return another in its place; kinds are "qkv", "o",
    "gate_up", "down", "head", and within attention "q", "k", "v" (after the rotation) and "p". The reference itself
    has no hook.
    """

    def __init__(self, path):
        file = Gguf(path)
        arch = file.get("general.architecture")
        if arch not in ("llama", "gemma3"):
            raise SystemExit(f"{path}: {arch} is not known here; give a llama or gemma3 file")
        self.is_gemma = arch == "gemma3"
        get = lambda key, default=None: file.get(f"{arch}.{key}", default)
        self.n_layers = get("block_count")
        self.hidden_dim = get("embedding_length")
        self.n_heads = get("attention.head_count")
        self.n_kv_heads = get("attention.head_count_kv", self.n_heads)
        self.head_dim = get("attention.key_length", self.hidden_dim // self.n_heads)
        self.eps = get("attention.layer_norm_rms_epsilon")
        self.theta = get("rope.freq_base", 10000.0)
        self.window_len = get("attention.sliding_window", 0)
        self.add_bos = bool(file.get("tokenizer.ggml.add_bos_token", False))
        self.bos = file.get("tokenizer.ggml.bos_token_id")
        self.eos = file.get("tokenizer.ggml.eos_token_id")
        self.rope_divisors = file.tensor("rope_freqs.weight")
        self.embedding = file.tensor("token_embd.weight")
        self.vocab_size = self.embedding.shape[0]
        self.output_norm = file.tensor("output_norm.weight")
        output = file.tensor("output.weight")
        self.output = self.embedding if output is None else output
        names = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "attn_q_norm", "attn_k_norm",
                 "post_attention_norm", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm"]
        self.layers = [{n: file.tensor(f"blk.{i}.{n}.weight") for n in names} for i in range(self.n_layers)]
        self.hook = None

    def _hooked(self, kind, x):
        return x if self.hook is None else self.hook(kind, x)

    def _is_windowed(self, layer_idx):
        # Gemma 3: five windowed layers, then a global one.
        return self.is_gemma and (layer_idx + 1) % 6 != 0

    def _rotation(self, positions, layer_idx):
        """cos and sin, [s, d / 2]."""
        theta = 10000.0 if self._is_windowed(layer_idx) else self.theta
        freqs = theta ** (-torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim)
        if self.rope_divisors is not None:
            freqs = freqs / self.rope_divisors.double()
        angles = torch.outer(positions.double(), freqs)
        return angles.cos().float(), angles.sin().float()

    def _rotate(self, x, cos, sin):
        """x: [b, heads, s, d]. llama's GGUF files pair (0, 1), (2, 3), ...; gemma's pair (0, d/2), (1, d/2 + 1), ..."""
        out = torch.empty_like(x)
        if self.is_gemma:
            half = self.head_dim // 2
            a, b, at_a, at_b = x[..., :half], x[..., half:], out[..., :half], out[..., half:]
        else:
            a, b, at_a, at_b = x[..., 0::2], x[..., 1::2], out[..., 0::2], out[..., 1::2]
        at_a.copy_(a * cos - b * sin)
        at_b.copy_(a * sin + b * cos)
        return out

    @torch.inference_mode()
    def hidden(self, ids, cache=None):
        """ids: [b, s] -> normalised states before the output matrix, [b, s, hidden].

        `cache`: a dict of this sequence's keys and values; ids go on where it ends.
        """
        b, s = ids.shape
        n_past = 0 if not cache else cache[0][0].shape[2]
        x = self.embedding[ids]
        if self.is_gemma:
            x = x * math.sqrt(self.hidden_dim)
        here = torch.arange(n_past, n_past + s)
        there = torch.arange(n_past + s)
        for i, w in enumerate(self.layers):
            y = self._hooked("qkv", rms_norm(x, w["attn_norm"], self.eps))
            heads = lambda m, n: (y @ m.T).view(b, s, n, self.head_dim).transpose(1, 2)
            q, k = heads(w["attn_q"], self.n_heads), heads(w["attn_k"], self.n_kv_heads)
            v = heads(w["attn_v"], self.n_kv_heads)
            if w["attn_q_norm"] is not None:
                q, k = rms_norm(q, w["attn_q_norm"], self.eps), rms_norm(k, w["attn_k_norm"], self.eps)
            cos, sin = self._rotation(here, i)
            q = self._hooked("q", self._rotate(q, cos, sin))
            k, v = self._hooked("k", self._rotate(k, cos, sin)), self._hooked("v", v)
            if cache is not None:
                if n_past:
                    k, v = torch.cat([cache[i][0], k], 2), torch.cat([cache[i][1], v], 2)
                cache[i] = (k, v)
            group = self.n_heads // self.n_kv_heads
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            distance = here[:, None] - there[None, :]
            hidden_from = distance < 0
            if self._is_windowed(i):
                hidden_from |= distance >= self.window_len
            scores = (q @ k.transpose(-1, -2)) / math.sqrt(self.head_dim)
            p = self._hooked("p", scores.masked_fill(hidden_from, -math.inf).softmax(-1))
            y = (p @ v).transpose(1, 2).reshape(b, s, self.n_heads * self.head_dim)
            y = self._hooked("o", y) @ w["attn_output"].T
            if w["post_attention_norm"] is not None:
                y = rms_norm(y, w["post_attention_norm"], self.eps)
            x = x + y
            y = self._hooked("gate_up", rms_norm(x, w["ffn_norm"], self.eps))
            gate, up = y @ w["ffn_gate"].T, y @ w["ffn_up"].T
            if self.is_gemma:
                gate = torch.nn.functional.gelu(gate, approximate="tanh")
            else:
                gate = torch.nn.functional.silu(gate)
            y = self._hooked("down", gate * up) @ w["ffn_down"].T
            if w["post_ffw_norm"] is not None:
                y = rms_norm(y, w["post_ffw_norm"], self.eps)
            x = x + y
        return rms_norm(x, self.output_norm, self.eps)

    @torch.inference_mode()
    def head(self, hidden):
        return self._hooked("head", hidden) @ self.output.T

    def logits(self, ids, cache=None):
        return self.head(self.hidden(ids, cache))


def windows(model, ids, window_len=512):
    """Windows as llama-perplexity cuts them: the remainder is dropped, and where the model wants a BOS token it takes
    the place of each window's first. [n, window_len]."""
    n = len(ids) // window_len
    out = torch.tensor(ids[: n * window_len]).view(n, window_len).clone()
    if model.add_bos:
        out[:, 0] = model.bos
    return out


def scored(window_len=512):
    """Positions whose logits are scored: from the middle, all that have a successor within the window."""
    return slice(window_len // 2, window_len - 1)
