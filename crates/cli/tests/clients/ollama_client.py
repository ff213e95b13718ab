"""Ollama's own Python client against a server of ours: `ollama_client.py URL KEY`."""

import json
import sys

import ollama

url, key = sys.argv[1:]
client = ollama.Client(host=url, headers={"Authorization": f"Bearer {key}"})
HELLO = [{"role": "user", "content": "Hello"}]
OPTIONS = {"temperature": 0, "num_predict": 8, "ignore_eos": True}

assert [model.model for model in client.list().models] == ["llama"]
assert [model.model for model in client.ps().models] == ["llama"]
assert client.show("llama").details.family == "llama"

whole = client.chat("llama", HELLO, options=OPTIONS)
assert whole.done and whole.done_reason == "length" and whole.eval_count == 8 and whole.prompt_eval_count > 0
pieces = list(client.chat("llama:latest", HELLO, options=OPTIONS, stream=True))
assert "".join(piece.message.content for piece in pieces) == whole.message.content
assert pieces[-1].done and pieces[-1].eval_count == 8 and pieces[-1].total_duration > 0

generated = client.generate("llama", "Hello", options=OPTIONS)
assert generated.response == whole.message.content
pieces = client.generate("llama", "Hello", options=OPTIONS, stream=True)
assert "".join(piece.response for piece in pieces) == generated.response
assert client.generate("llama", "Hello", raw=True, options=OPTIONS).response
assert client.generate("llama", "").done_reason == "load"
seeded = [client.generate("llama", "Hello", options=OPTIONS | {"temperature": 2, "seed": 4}).response for _ in range(2)]
assert seeded[0] == seeded[1]

schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
answer = client.chat("llama", HELLO, format=schema, options={"num_predict": 50})
assert json.loads(answer.message.content)["ok"] in (True, False)

vectors = client.embed("llama", ["one", "two", "one"]).embeddings
assert len(vectors) == 3 and vectors[0] == vectors[2] != vectors[1]
assert abs(sum(x * x for x in vectors[0]) - 1) < 1e-4

for call in [lambda: client.chat("absent", HELLO), lambda: client.chat("llama", HELLO, options={"temperature": -1})]:
    try:
        call()
    except ollama.ResponseError as error:
        assert error.status_code in (400, 404) and error.error
    else:
        raise AssertionError("it was not refused")
print("all is well")
