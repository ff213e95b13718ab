"""A shared beginning before and after a restart: `serve_restart.py EDGEWARD MODEL.gguf TEXT [--beginnings 3] [--at-once]`.

Starts `edgeward serve` with a disk cache of its own. For each of several beginnings of 1,000 tokens, pieces of TEXT, it asks twice,
with other 20 tokens behind each time, and takes the time to the first token; then it stops the server, starts it anew, and asks
a third time: after a second, in which the cache is read back, or with `--at-once` as soon as the server answers.
"""

import argparse
import asyncio
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from serve_load import N_PREFIX, Prompts, ask

N_OTHER = 20
PORT = 8191
URL = f"http://127.0.0.1:{PORT}"


def start(edgeward, model, folder):
    server = subprocess.Popen(
        [edgeward, "serve", model, "--threads", "2", "--port", str(PORT), "--disk-cache", folder], stdout=subprocess.DEVNULL
    )
    while True:
        try:
            urllib.request.urlopen(f"{URL}/ready")
            return server
        except urllib.error.URLError:
            time.sleep(0.01)


def stop(server):
    server.terminate()
    server.wait()


def first_token_ms(prompt):
    times = []
    asyncio.run(ask(URL, prompt, 4, 1, times))
    return (times[1] - times[0]) * 1e3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("edgeward")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--beginnings", type=int, default=3)
    parser.add_argument("--at-once", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = start(args.edgeward, args.model, folder)
        prompts = Prompts(URL, open(args.text).read())
        # Pages of the model itself come from the disk with the first request.
        first_token_ms(prompts.next(N_OTHER))
        beginnings = [prompts.next(N_PREFIX) for _ in range(args.beginnings)]
        before = [[first_token_ms(beginning + prompts.next(N_OTHER)) for _ in range(2)] for beginning in beginnings]
        stop(server)
        server = start(args.edgeward, args.model, folder)
        if not args.at_once:
            time.sleep(1)
        after = [first_token_ms(beginning + prompts.next(N_OTHER)) for beginning in beginnings]
        stop(server)
    for (first, second), third in zip(before, after):
        print(f"first {first:.0f} ms, second {second:.0f} ms ({second / first:.1%}), after the restart {third:.0f} ms ({third / first:.1%})")


main()
