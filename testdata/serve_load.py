"""Load on a server of OpenAI's API, and how it bears it: `serve_load.py URL TEXT OUT.json [--streams 1 4 8 32]`.

The same for any server that has `/v1/completions` with token ids, `ignore_eos` and `/tokenize`, as ours and llama.cpp's
have. Prompts are pieces of TEXT, each 200 tokens by the server's own tokenizer and unlike any other, so that no cache
can help; answers are 128 tokens at temperature 0.8, always of the same seeds.

- `streams`: so many clients at once, each with one request; all of them begin at the same time.
- `long`: 8 clients with answers of 400 tokens; when all of them have 60, a prompt of 4,000 tokens arrives. The times
  between tokens are told apart: before it came, and until its first token.
- `prefix`: twice a prompt that begins with the same 1,000 tokens and ends differently; the time to the first token.

Times are the client's. One process with one thread reads all streams, and takes what it needs of the same processors.
"""

import argparse
import asyncio
import json
import time
import urllib.parse
import urllib.request

N_PROMPT = 200
N_ANSWER = 128
N_LONG = 4000
N_PREFIX = 1000


class Prompts:
    """Pieces of a text, in order."""

    def __init__(self, url, text):
        words = text.split()
        self.url, self.tokens, self.at = url, [], 0
        while len(self.tokens) < 40_000 and words:
            part, words = words[:5000], words[5000:]
            body = json.dumps({"content": " ".join(part), "add_special": False}).encode()
            request = urllib.request.Request(f"{url}/tokenize", body, {"content-type": "application/json"})
            self.tokens += json.load(urllib.request.urlopen(request))["tokens"]

    def next(self, n_tokens):
        self.at += n_tokens
        return self.tokens[self.at - n_tokens : self.at]


async def ask(url, prompt, n_answer, seed, times):
    """Streams an answer; puts the time of the request and of each token into `times`, seconds."""
    place = urllib.parse.urlsplit(url)
    fields = {"prompt": prompt, "max_tokens": n_answer, "stream": True, "ignore_eos": True, "temperature": 0.8, "seed": seed}
    body = json.dumps(fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    times.append(time.perf_counter())
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(head.encode() + body)
    while True:
        line = await reader.readline()
        if not line or line.startswith(b"data: [DONE]"):
            break
        if line.startswith(b"data: {") and b'"finish_reason":null' in line:
            times.append(time.perf_counter())
    writer.close()


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def gaps(times):
    return [later - earlier for earlier, later in zip(times[1:], times[2:])]


async def streams(url, prompts, n):
    times = [[] for _ in range(n)]
    await asyncio.gather(*(ask(url, prompts.next(N_PROMPT), N_ANSWER, seed, times[seed]) for seed in range(n)))
    took_s = max(each[-1] for each in times) - min(each[0] for each in times)
    n_events = sum(len(each) - 1 for each in times)
    first = [each[1] - each[0] for each in times]
    between = [gap for each in times for gap in gaps(each)]
    return {
        "streams": n, "answer_tokens_per_s": n * N_ANSWER / took_s, "all_tokens_per_s": n * (N_PROMPT + N_ANSWER) / took_s,
        "ttft_ms_p50": 1e3 * quantile(first, 0.5), "ttft_ms_p95": 1e3 * quantile(first, 0.95),
        "gap_ms_p50": 1e3 * quantile(between, 0.5), "gap_ms_p95": 1e3 * quantile(between, 0.95), "gap_ms_max": 1e3 * max(between),
        "events": n_events,
    }


async def long_prompt(url, prompts):
    times = [[] for _ in range(8)]
    answers = [asyncio.create_task(ask(url, prompts.next(N_PROMPT), 400, seed, each)) for seed, each in enumerate(times)]
    while min(map(len, times)) < 60:
        await asyncio.sleep(0.005)
    all_running = max(each[1] for each in times)
    guest = []
    await ask(url, prompts.next(N_LONG), 2, 99, guest)
    came, served = guest[0], guest[1]
    await asyncio.gather(*answers)
    pairs = [(earlier, later - earlier) for each in times for earlier, later in zip(each[1:], each[2:])]
    before = [gap for at, gap in pairs if all_running <= at and at + gap < came]
    during = [gap for at, gap in pairs if came <= at + gap and at < served]
    ratio = quantile(during, 0.95) / quantile(before, 0.95)
    return {
        "gap_ms_p95_before": 1e3 * quantile(before, 0.95), "gap_ms_p95_during": 1e3 * quantile(during, 0.95), "ratio": ratio,
        "gap_ms_max_during": 1e3 * max(during), "n_gaps_during": len(during), "ttft_of_the_long_s": served - came,
    }


async def shared_prefix(url, prompts):
    prefix = prompts.next(N_PREFIX)
    first = []
    for seed in range(2):
        times = []
        await ask(url, prefix + prompts.next(20), 2, seed, times)
        first.append(1e3 * (times[1] - times[0]))
    return {"ttft_ms_first": first[0], "ttft_ms_second": first[1], "share": first[1] / first[0]}


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("text")
    parser.add_argument("out")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 4, 8, 32])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--skip", nargs="*", default=[], choices=["long", "prefix"])
    args = parser.parse_args()
    prompts = Prompts(args.url, open(args.text, encoding="utf-8").read())
    # What is made at the first request is not what is measured.
    await ask(args.url, prompts.next(50), 8, 0, [])
    result = {"streams": [await streams(args.url, prompts, n) for n in args.streams for _ in range(args.rounds)]}
    if "long" not in args.skip:
        result["long"] = await long_prompt(args.url, prompts)
    if "prefix" not in args.skip:
        result["prefix"] = await shared_prefix(args.url, prompts)
    with open(args.out, "w", encoding="utf-8") as out:
        json.dump(result, out, indent=1)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
