"""Mixed load for a long time, on a server of ours: `serve_soak.py URL MINUTES OUT.json [--rate N] [--encoder NAME]`.

About `--rate` clients come each second, at times by chance (seed 1), each of one kind:

- `whole`, `streamed`: an answer of up to 48 tokens, to prompts that begin alike or not, some with a schema; read to the end.
- `slow`: the same, read a few bytes at a time.
- `vanishing`: closes its connection before the answer begins, or in the middle of it.
- `malformed`: no JSON, half a body, wrong fields, a head that is none, 200 headers.
- `dawdling`: sends its head byte by byte and gives up.
- `embedding`: a few texts, if there is an encoder or the model talks only.

Every client of the first two rows must get a whole answer, or be told to come back later (429). Every minute the server is asked
for its memory and for what is under way. At the end no client is left; then nothing may be under way, waiting or promised
(a stuck slot), and memory of the last quarter of the time is compared with that of the second: in the first, caches fill.
"""

import argparse
import asyncio
import collections
import json
import random
import sys
import time
import urllib.parse

TIMEOUT_S = 300


class Soak:
    def __init__(self, args):
        self.args = args
        self.place = urllib.parse.urlsplit(args.url)
        self.chance = random.Random(1)
        self.counts = collections.Counter()
        self.failures = []
        self.samples = []

    async def connect(self):
        return await asyncio.open_connection(self.place.hostname, self.place.port)

    def head(self, path, n_bytes, more=""):
        return f"POST {path} HTTP/1.1\r\nHost: {self.place.netloc}\r\nContent-Type: application/json\r\nConnection: close\r\n{more}Content-Length: {n_bytes}\r\n\r\n".encode()

    def chat(self, stream):
        start = self.chance.choice(["You answer in one sentence. ", "You are a poet. " * 40, ""])
        body = {
            "messages": [{"role": "system", "content": start}, {"role": "user", "content": f"What is {self.chance.randrange(10**6)} good for?"}],
            "max_tokens": self.chance.randrange(1, 48), "stream": stream, "seed": 1,
        }
        if self.chance.random() < 0.2:
            schema = {"type": "object", "properties": {"use": {"enum": ["none", "some"]}}, "required": ["use"], "additionalProperties": False}
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "use", "schema": schema}}
        return json.dumps(body).encode()

    async def send(self, path, body):
        reader, writer = await self.connect()
        writer.write(self.head(path, len(body)) + body)
        return reader, writer

    def judge(self, kind, answer, is_whole):
        """Counts a whole answer, or one that says why there is none."""
        status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
        if status == 200 and is_whole(answer):
            self.counts[f"{kind} answered"] += 1
        elif status == 429:
            self.counts[f"{kind} told to come back"] += 1
        else:
            self.counts[f"{kind} FAILED"] += 1
            self.failures.append([kind, answer[:300].decode("utf-8", "replace"), answer[-200:].decode("utf-8", "replace")])

    async def whole(self):
        reader, writer = await self.send("/v1/chat/completions", self.chat(False))
        answer = await reader.read()
        writer.close()
        self.judge("whole", answer, lambda answer: b'"finish_reason"' in answer)

    async def streamed(self):
        reader, writer = await self.send("/v1/chat/completions", self.chat(True))
        answer = await reader.read()
        writer.close()
        self.judge("streamed", answer, lambda answer: b"data: [DONE]" in answer)

    async def slow(self):
        reader, writer = await self.send("/v1/chat/completions", self.chat(True))
        answer = b""
        while piece := await reader.read(64):
            answer += piece
            await asyncio.sleep(0.05)
        writer.close()
        self.judge("slow", answer, lambda answer: b"data: [DONE]" in answer)

    async def vanishing(self):
        reader, writer = await self.send("/v1/chat/completions", self.chat(True).replace(b'"max_tokens"', b'"ignore_eos": true, "x"'))
        if self.chance.random() < 0.5:
            await asyncio.sleep(self.chance.random())
        else:
            await reader.read(self.chance.randrange(1, 2000))
        writer.transport.abort()
        self.counts["vanished"] += 1

    async def malformed(self):
        body = self.chat(False)
        reader, writer = await self.connect()
        writer.write(
            self.chance.choice([
                self.head("/v1/chat/completions", 9) + b'{"messag}',
                self.head("/v1/chat/completions", len(body) + 50) + body,
                self.head("/v1/chat/completions", 30) + b'{"messages": 7, "max_tokens":1}',
                self.head("/v1/chat/completions", 10**9) + body,
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
                self.head("/v1/completions", 2, "X: y\r\n" * 200) + b"{}",
            ])
        )
        if writer.can_write_eof():
            writer.write_eof()
        answer = await reader.read()
        writer.close()
        status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
        if 200 <= status < 300 or status >= 500:
            self.counts["malformed FAILED"] += 1
            self.failures.append(["malformed", answer[:300].decode("utf-8", "replace")])
        else:
            self.counts["malformed refused"] += 1

    async def dawdling(self):
        _, writer = await self.connect()
        for byte in self.head("/v1/chat/completions", 5)[: self.chance.randrange(20, 80)]:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.2)
        writer.close()
        self.counts["dawdled"] += 1

    async def embedding(self):
        body = {"input": [f"text {self.chance.randrange(10**6)} " * self.chance.randrange(1, 30) for _ in range(self.chance.randrange(1, 6))]}
        if self.args.encoder:
            body["model"] = self.args.encoder
        reader, writer = await self.send("/v1/embeddings", json.dumps(body).encode())
        answer = await reader.read()
        writer.close()
        self.judge("embedding", answer, lambda answer: answer.count(b'"embedding":') == len(body["input"]))

    async def client(self, kind):
        try:
            await asyncio.wait_for(getattr(self, kind)(), TIMEOUT_S)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            # The server may close before a malformed request has been sent.
            name = f"{kind} cut off"
            self.counts[name] += 1
            if kind not in ("malformed", "dawdling", "vanishing"):
                self.failures.append([name, repr(error)])
        except TimeoutError:
            self.counts[f"{kind} FAILED"] += 1
            self.failures.append([kind, "no answer in time"])

    async def metrics(self):
        reader, writer = await self.connect()
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: {self.place.netloc}\r\nConnection: close\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        found = collections.Counter()
        for line in text.splitlines():
            if line.startswith("edgeward_") and "_bucket" not in line:
                name, value = line.rsplit(" ", 1)
                found[name.split("{")[0].removeprefix("edgeward_")] += float(value)
        return found

    async def watch(self, started):
        while True:
            found = await self.metrics()
            sample = {"minute": round((time.time() - started) / 60, 1)}
            for name in ["resident_bytes", "requests_active", "requests_waiting", "kv_reserved_bytes", "cache_bytes", "generated_tokens_total"]:
                sample[name] = int(found[name])
            self.samples.append(sample)
            print(json.dumps(sample), file=sys.stderr, flush=True)
            self.write(started)
            await asyncio.sleep(60)

    def write(self, started, **more):
        result = {"minutes": round((time.time() - started) / 60, 1), "counts": dict(sorted(self.counts.items())), "failures": self.failures[:50], "samples": self.samples}
        with open(self.args.out, "w", encoding="utf-8") as out:
            json.dump({**result, **more}, out, indent=1)
        return {**result, **more}

    async def run(self):
        started = time.time()
        watcher = asyncio.create_task(self.watch(started))
        clients = set()
        kinds = ["whole"] * 3 + ["streamed"] * 3 + ["slow", "vanishing", "vanishing", "malformed", "malformed", "dawdling", "embedding"]
        while time.time() - started < 60 * self.args.minutes:
            task = asyncio.create_task(self.client(self.chance.choice(kinds)))
            clients.add(task)
            task.add_done_callback(clients.discard)
            self.counts["clients"] += 1
            await asyncio.sleep(self.chance.expovariate(self.args.rate))
        await asyncio.gather(*clients)
        watcher.cancel()
        await asyncio.sleep(5)
        last = await self.metrics()
        left = {name: int(last[name]) for name in ["requests_active", "requests_waiting", "kv_reserved_bytes"]}
        memory = [sample["resident_bytes"] for sample in self.samples]
        second, fourth = memory[len(memory) // 4 : len(memory) // 2], memory[3 * len(memory) // 4 :]
        drift = max(fourth) / max(second) - 1 if second and fourth else None
        result = self.write(started, left=left, memory_drift=drift)
        print(json.dumps({key: value for key, value in result.items() if key != "samples"}, indent=1))
        return not self.failures and not any(left.values())


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("minutes", type=float)
    parser.add_argument("out")
    parser.add_argument("--rate", type=float, default=2)
    parser.add_argument("--encoder")
    sys.exit(0 if await Soak(parser.parse_args()).run() else 1)


asyncio.run(main())
