"""Draws sizes of files against their divergence from the teacher, as SVG.

    edgeward eval A.gguf B.gguf ... --vs TEACHER.gguf --text TEXT --json > measured.json
    python testdata/plot_divergence.py measured.json OUT.svg "LABEL=A.gguf,B.gguf" ["LABEL=C.gguf,..." ...]

A label's files are found beside the working folder by the names that `measured.json` has; points of one label are joined.
"""

import json
import math
import os
import sys

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 50
COLOURS = ["#0b6e4f", "#3a86c8", "#c8553d", "#7a5195"]


def main(measured, out, *groups):
    rows = {os.path.basename(row["model"]): row for row in json.load(open(measured))}
    series = []
    for group in groups:
        label, names = group.split("=")
        points = sorted((os.path.getsize(rows[name]["model"]) / 1e6, rows[name]["kl_divergence"]) for name in names.split(","))
        series.append((label, points))
    sizes = [size for _, points in series for size, _ in points]
    losses = [loss for _, points in series for _, loss in points]
    x_min, x_max = math.floor(min(sizes) / 10) * 10, math.ceil(max(sizes) / 10) * 10
    y_min, y_max = math.floor(math.log10(min(losses))), math.ceil(math.log10(max(losses)))

    def x(size):
        return LEFT + (size - x_min) / (x_max - x_min) * (WIDTH - LEFT - RIGHT)

    def y(loss):
        return HEIGHT - BOTTOM - (math.log10(loss) - y_min) / (y_max - y_min) * (HEIGHT - TOP - BOTTOM)

    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for size in range(x_min, x_max + 1, 10):
        svg.append(f'<path d="M{x(size):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        svg.append(f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{size}</text>')
    for power in range(y_min, y_max + 1):
        for part in range(1, 10 if power < y_max else 2):
            loss = part * 10.0**power
            svg.append(f'<path d="M{LEFT} {y(loss):.1f}H{WIDTH - RIGHT}" stroke="{"#bbb" if part == 1 else "#eee"}"/>')
        svg.append(f'<text x="{LEFT - 8}" y="{y(10.0**power) + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    svg.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">size of the file, MB</text>')
    svg.append(
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        "mean divergence from the teacher, nats</text>"
    )
    for i, (label, points) in enumerate(series):
        colour = COLOURS[i % len(COLOURS)]
        line = " ".join(f"{x(size):.1f},{y(loss):.1f}" for size, loss in points)
        svg.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        svg += [f'<circle cx="{x(size):.1f}" cy="{y(loss):.1f}" r="4" fill="{colour}"/>' for size, loss in points]
        at = TOP + 18 + 20 * i
        svg.append(f'<path d="M{WIDTH - 300} {at - 4}h24" stroke="{colour}" stroke-width="3"/>')
        svg.append(f'<text x="{WIDTH - 268}" y="{at}">{label}</text>')
    svg.append("</svg>")
    open(out, "w").write("\n".join(svg) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
