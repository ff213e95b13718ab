#!/usr/bin/env python3
"""`edgeward serve` under the options of llama.cpp's `llama-server`, for that program's own tests, unchanged.

    EDGEWARD=target/release/edgeward EDGEWARD_MODEL=smollm2.gguf EDGEWARD_EMBEDDER=all-MiniLM-L6-v2 \\
        LLAMA_SERVER_BIN_PATH=testdata/llama_server.py pytest tools/server/tests/unit

Whatever model a test asks for, it gets the one of the environment, under the alias that it wants: theirs are on Hugging Face.
With `--embedding` or `--reranking` it is the embedder. Options that ours has under another name are translated; those that it does
not have are passed over with a word on standard error, and a test that needs one fails.
"""

import hashlib
import json
import os
import pathlib
import sys
import tempfile

TRANSLATED = {
    "--port": "--port", "--threads": "--threads", "--parallel": "--parallel", "--temp": "--temperature",
    "--seed": "--seed", "--n-predict": "--max-tokens", "--chat-template": "--chat-template",
    "--chat-template-file": "--chat-template", "--cors-origins": "--allow-origin",
}
# Parts that theirs can be without.
WITHOUT = {"--no-ui": "page", "--no-slots": "slots"}
# Options of theirs that stand alone; all others have a value.
ALONE = """--offline --cont-batching --embedding --embeddings --reranking --metrics --kv-unified --swa-full --slots --no-slots --verbose
    --context-shift --no-ui --no-models-autoload --jinja --no-jinja --no-mmproj --no-cache-idle-slots --ui-mcp-proxy --backend_sampling""".split()

# Theirs passes over the names of models.
options, values = ["--any-model-name"], {}
words = iter(sys.argv[1:])
for word in words:
    if word in ALONE:
        values[word] = None
    else:
        values[word] = next(words, None)
if "--metrics" not in values:
    options += ["--without", "metrics"]
for name, value in values.items():
    if name in TRANSLATED and not (name == "--n-predict" and int(value) < 1):
        options += [TRANSLATED[name], value]
    elif name == "--ctx-size":
        # Theirs is shared by all slots unless they are told to share it as they need it, ours is each answer's.
        n_slots = 1 if "--kv-unified" in values else int(values.get("--parallel", 1))
        options += ["--context", str(int(value) // n_slots)]
    elif name == "--host":
        options += [option for host in value.split(",") for option in ("--host", host)]
    elif name in WITHOUT:
        options += ["--without", WITHOUT[name]]
    elif name == "--reasoning":
        options += ["--chat-template-kwargs", json.dumps({"enable_thinking": value != "off"})]
    elif name not in ("--metrics", "--slots", "--alias", "--api-key", "--embedding", "--reranking", "--kv-unified"):
        print(f"passed over: {name} {value or ''}", file=sys.stderr)

home = pathlib.Path(tempfile.mkdtemp(prefix="edgeward-"))
wants_vectors = "--embedding" in values or "--reranking" in values
model = pathlib.Path(os.environ["EDGEWARD_EMBEDDER" if wants_vectors else "EDGEWARD_MODEL"]).resolve()
link = home / ((values.get("--alias") or "model").replace("/", "-") + ("" if wants_vectors else ".gguf"))
link.symlink_to(model)
environment = {**os.environ, "EDGEWARD_HOME": str(home)}
if values.get("--api-key"):
    digest = hashlib.sha256(values["--api-key"].encode()).hexdigest()
    key = {"name": "test", "sha256": digest, "scopes": ["chat", "embed", "admin"], "expires_s": None, "requests_per_minute": None, "tokens_per_day": None}
    (home / "keys.json").write_text(json.dumps([key]))
    (home / "keys.json").chmod(0o600)
    options.append("--require-keys")
os.execve(os.environ["EDGEWARD"], ["edgeward", "serve", str(link), *options], environment)
