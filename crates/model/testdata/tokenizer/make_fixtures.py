"""Trains small vocabularies on the texts beside this script and tokenises the texts with them.

    python make_fixtures.py

writes byte_level.json (Hugging Face tokenizers: one vocabulary, four pre-tokenizers) and sentencepiece.json (Google's
sentencepiece: one vocabulary as Gemma's is made, one as Llama 2's, and that as a tokenizer.json too).
"""

import hashlib
import json
import pathlib
import struct
import tempfile

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
TEXTS = ["torture.txt", "sample.c", "sample.py", "sample.rs"]
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
LLAMA3 = (
    r"(?i:" + CONTRACTIONS + r")|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def text(name):
    return (HERE / name).read_bytes().decode()


def golden(name, ids, **case):
    digest = hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()
    return {**case, "text": name, "n_ids": len(ids), "sha256": digest, "ids": ids[:32]}


def write(name, value):
    # One line for each entry of the two upper levels: short, and a change shows where it is.
    def entry(item, depth):
        if depth == 2 or not isinstance(item, (dict, list)) or not item:
            return json.dumps(item, ensure_ascii=False)
        pad = "\n" + " " * (depth + 1)
        if isinstance(item, list):
            return "[" + ",".join(pad + entry(v, depth + 1) for v in item) + "\n]"
        return "{" + ",".join(f"{pad}{json.dumps(k)}: {entry(v, depth + 1)}" for k, v in item.items()) + "\n}"

    (HERE / name).write_text(entry(value, 0) + "\n")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


PRE_TOKENIZERS = {
    "gpt-2": byte_level(True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "llama-bpe": pre_tokenizers.Sequence([split(LLAMA3), byte_level(False)]),
    "qwen2": pre_tokenizers.Sequence([split(LLAMA3.replace("{1,3}", "")), byte_level(False)]),
}


def make_byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE_TOKENIZERS["gpt-2"]
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    # Some bytes have no token, as in real vocabularies: F1 and F3 begin characters that no training text has.
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {chr(0xF1), chr(0xF3)})
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet)
    corpus = "\n".join(map(text, TEXTS))
    tokenizer.train_from_iterator(["".join(c for c in corpus if ord(c) < 0x40000)], trainer)
    spec = json.loads(tokenizer.to_str())
    # Words that are tokens but that no merges make: found only where merges are ignored for whole words.
    vocab = spec["model"]["vocab"]
    for word in ["Ġsamples", "Ġtokenised", "Ġqueue"]:
        vocab.setdefault(word, len(vocab))
        spec["model"]["merges"] = [m for m in spec["model"]["merges"] if word not in (*m, "".join(m))]
    spec["added_tokens"].append(
        {**spec["added_tokens"][0], "id": len(vocab), "content": "<table>", "special": False, "normalized": False}
    )
    cases, pres = [], {}
    for name, pre in PRE_TOKENIZERS.items():
        spec["model"]["ignore_merges"] = name == "llama-bpe"
        variant = Tokenizer.from_str(json.dumps(spec))
        variant.pre_tokenizer = pre
        pres[name] = json.loads(variant.to_str())["pre_tokenizer"]
        for literal in [False, True]:
            variant.encode_special_tokens = literal
            for file in TEXTS:
                ids = variant.encode(text(file), add_special_tokens=False).ids
                cases.append(golden(file, ids, pre=name, parse_special=not literal))
    spec["model"]["ignore_merges"] = False
    made_by = f"make_fixtures.py, tokenizers {tokenizers.__version__}"
    write("byte_level.json", {"made_by": made_by, "tokenizer": spec, "pre_tokenizers": pres, "cases": cases})


def train(**options):
    with tempfile.TemporaryDirectory() as folder:
        corpus = pathlib.Path(folder) / "corpus.txt"
        # Not the torture: its characters are to be missing from the vocabulary.
        corpus.write_text("\n".join(map(text, TEXTS[1:])))
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=f"{folder}/m",
            model_type="bpe",
            vocab_size=640,
            byte_fallback=True,
            character_coverage=0.99,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            minloglevel=2,
            **options,
        )
        return sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model")


def pieces(spm):
    tokens, scores, types = [], [], []
    user_defined = spm_user_defined(spm)
    for id in range(spm.get_piece_size()):
        piece = spm.id_to_piece(id)
        kind = 1
        if spm.is_unknown(id):
            kind = 2
        elif spm.is_control(id):
            kind = 3
        elif piece in user_defined:
            # Converters to GGUF write the spaces of these as spaces.
            kind, piece = 4, piece.replace("▁", " ")
        elif spm.is_unused(id):
            kind = 5
        elif spm.is_byte(id):
            kind = 6
        tokens.append(piece)
        scores.append(spm.get_score(id))
        types.append(kind)
    return {"tokens": tokens, "scores": scores, "token_types": types}


def spm_user_defined(spm):
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(spm.serialized_model_proto())
    return {p.piece for p in model.pieces if p.type == p.USER_DEFINED}


def merges(tokens, scores, token_types):
    """Every pair of tokens that spells a third, in the order in which sentencepiece would join them."""
    ids = {token: id for id, token in enumerate(tokens) if token_types[id] == 1}
    found = []
    for token, id in ids.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                found.append((-scores[id], ids[left], ids[right], [left, right]))
    return [pair for *_, pair in sorted(found)]


def llama_json(vocab):
    tokens, types = vocab["tokens"], vocab["token_types"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: id for id, token in enumerate(tokens)},
            merges=[tuple(pair) for pair in merges(**vocab)],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bos = tokens.index("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", bos)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t, kind in zip(tokens, types) if kind in (2, 3)]
    )
    return tokenizer


def make_sentencepiece():
    user_defined = ["\n" * n for n in range(1, 8)] + ["▁" * n for n in range(2, 8)] + ["\t", "<table>"]
    vocabularies = {
        "gemma": train(add_dummy_prefix=False, user_defined_symbols=user_defined, allow_whitespace_only_pieces=True),
        "llama": train(add_dummy_prefix=True),
    }
    cases, out = [], {}
    for name, spm in vocabularies.items():
        out[name] = pieces(spm)
        for file in TEXTS:
            # Without "▁": to sentencepiece a run of it is a run of spaces, and so a user-defined token; to llama.cpp not.
            cases.append(golden(file, spm.encode(text(file).replace("▁", "_")), vocab=name))
    tokenizer = llama_json(out["llama"])
    for file in TEXTS:
        cases.append(golden(file, tokenizer.encode(text(file)).ids, vocab="llama.json"))
    made_by = f"make_fixtures.py, sentencepiece {sentencepiece.__version__}, tokenizers {tokenizers.__version__}"
    write(
        "sentencepiece.json",
        {"made_by": made_by, **out, "llama.json": json.loads(tokenizer.to_str()), "cases": cases},
    )


make_byte_level()
make_sentencepiece()
