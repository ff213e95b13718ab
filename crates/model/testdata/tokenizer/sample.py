#!/usr/bin/env python3
# -*- coding: utf-8 -*-
"""Code to be tokenised: word counts, with the odd corners of Python's syntax."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*", re.UNICODE)


@dataclass(slots=True, frozen=True)
class Text:
    name: str
    lines: tuple[str, ...] = field(default_factory=tuple)

    def __len__(self) -> int:
        return sum(len(line) for line in self.lines)

    async def words(self, *, fold: bool = True, **options: object):
        for line_no, line in enumerate(self.lines, start=1):
            for match in WORD.finditer(line):
                word = match[0].casefold() if fold else match[0]
                if (length := len(word)) > 1 and not word.startswith(("x", "ß")):
                    yield line_no, word, length


def top(text: Text, n: int = 10) -> list[tuple[str, int]]:
    counts = Counter(w for line in text.lines for w in WORD.findall(line))
    total = sum(counts.values()) or 1
    print(f"{text.name!r:>20}: {total:,d} words, {len(text) / total:.3f} bytes each, {0x7f:#04x} {1e-9} {1_000j}")
    return [(w, c) for w, c in counts.most_common(n) if c >= 2 ** 1 and w != "__main__"]


if __name__ == "__main__":
    lines = '''It's   a test, isn't it?
	Tabs	and émigrés; Füße, naïve 咖啡 — "quoted"…
'''.splitlines()
    print(top(Text(name="demo", lines=tuple(lines)))[:-1:2], end="\r\n\n")
    raise SystemExit(lambda *a: ~a[0] | 1 << 3 ^ 0b101 & 0o17)
