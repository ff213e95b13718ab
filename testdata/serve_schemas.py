"""JSON schemas on a server: `serve_schemas.py URL FOLDER OUT.json [--every N] [--streams N] [--max-tokens N]`; or
`serve_schemas.py --judge OUT.jsonl FOLDER OUT.json` of what `crates/serve/examples/schemas.rs` has said.

FOLDER has a folder of `*.json` schemas for each category, as JSONSchemaBench's `data` has
(https://github.com/guidance-ai/jsonschemabench, Geng et al. 2025, arXiv:2501.10868). Each schema, or each N-th of a category
in order of its name, is asked for as `response_format` of `/v1/chat/completions`. What can come of it:

- `valid`: the answer has come to its end, is JSON, and fulfils the schema by the package `jsonschema`.
- `cut`: the answer says that it has reached its limit of tokens.
- `refused`: 400, and the message says why.
- `slow`: no answer within ten minutes, or an error that says that following the schema became too costly.
- `invalid`: everything else; there must be none. They are listed.

Schemas that are none by their own metaschema are left out and counted (`no schema`).
"""

import argparse
import asyncio
import collections
import json
import pathlib
import sys
import time
import urllib.parse

import jsonschema

TIMEOUT_S = 600


async def post(url, body):
    place = urllib.parse.urlsplit(url)
    body = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(head.encode() + body)
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def validate(schema, text):
    """Why the text is no answer to the schema; None if it is one."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    error = jsonschema.exceptions.best_match(kind(schema).iter_errors(value))
    return None if error is None else f"{error.message[:200]} at {list(error.path)}"


async def outcome(args, schema):
    request = {
        "messages": [{"role": "user", "content": "Give one short example as JSON."}], "temperature": 0.8, "seed": 1, "max_tokens": args.max_tokens,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    }
    try:
        status, body = await asyncio.wait_for(post(args.url, request), TIMEOUT_S)
    except TimeoutError:
        return "slow", "no answer in time"
    if status == 400:
        return ("refused", body["error"]["message"]) if body["error"].get("message") else ("invalid", "refused without a reason")
    if status != 200:
        message = str(body)
        return ("slow" if "too costly" in message or "limit" in message or "too complex" in message else "invalid"), f"{status}: {message[:300]}"
    choice = body["choices"][0]
    text = choice["message"]["content"] or ""
    if choice["finish_reason"] == "length":
        return "cut", ""
    try:
        wrong = validate(schema, text)
    except Exception as error:  # jsonschema cannot follow a reference, say: then the schema is not one that stands alone.
        return "not judged", f"{type(error).__name__}: {str(error)[:200]}"
    return ("valid", "") if wrong is None else ("invalid", f"{wrong}: {text[:300]}")


def is_schema(schema):
    if not isinstance(schema, dict):
        return False
    try:
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError:
        return False
    return True


def judged(schema, line):
    """As `outcome`, of a line of the example's."""
    if line["kind"] == "refused":
        return ("refused", line["text"]) if line["text"] else ("invalid", "refused without a reason")
    if line["kind"] == "cut":
        return "cut", ""
    if line["kind"] == "failed":
        return "slow", line["text"][:300]
    try:
        wrong = validate(schema, line["text"])
    except Exception as error:
        return "not judged", f"{type(error).__name__}: {str(error)[:200]}"
    return ("valid", "") if wrong is None else ("invalid", f"{wrong}: {line['text'][:300]}")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("url")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=600)
    args = parser.parse_args()
    lines = {}
    if args.judge:
        lines = {line["file"]: line for line in map(json.loads, open(args.url, encoding="utf-8"))}
    files = [file for folder in sorted(args.folder.iterdir()) if folder.is_dir() for file in sorted(folder.glob("*.json"))[:: args.every]]
    counts = collections.defaultdict(collections.Counter)
    reasons = collections.Counter()
    notes = []
    waiting = iter(files)
    started = time.time()

    async def work():
        for file in waiting:
            try:
                schema = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                schema = None
            if schema is None or not is_schema(schema):
                kind, note = "no schema", ""
            elif args.judge:
                line = lines.get(str(file.relative_to(args.folder)))
                if line is None:
                    continue
                kind, note = judged(schema, line)
            else:
                kind, note = await outcome(args, schema)
            counts[file.parent.name][kind] += 1
            if kind == "refused":
                reasons[note[:80]] += 1
            if kind in ("invalid", "slow", "not judged"):
                notes.append([str(file.relative_to(args.folder)), kind, note])
                print(*notes[-1], file=sys.stderr, flush=True)

    await asyncio.gather(*(work() for _ in range(args.streams)))
    result = {"counts": counts, "reasons": reasons.most_common(), "notes": notes, "took_s": time.time() - started}
    args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    kinds = ["valid", "cut", "refused", "slow", "not judged", "no schema", "invalid"]
    print("| category | schemas |", " | ".join(kinds), "|")
    print("|---" * (len(kinds) + 2) + "|")
    total = sum(counts.values(), collections.Counter())
    for name, count in [*sorted(counts.items()), ("together", total)]:
        print(f"| {name} | {sum(count.values())} |", " | ".join(str(count[kind]) for kind in kinds), "|")
    sys.exit(1 if total["invalid"] else 0)


asyncio.run(main())
