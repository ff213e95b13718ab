"""NASA's C-MAPSS FD001 as two tables for `edgeward fit`: cmapss.py FOLDER OUT.

FOLDER has train_FD001.txt, test_FD001.txt and RUL_FD001.txt. The column `remaining` is how many cycles an engine still
has, 125 at most, as is customary: an engine that is well does not show for how long. In the test table only the last row
of each engine has it, which is where the benchmark asks. Given `--uncapped` the test's is not cut off at 125.
"""

import csv
import sys
from pathlib import Path

CAP = 125
NAMES = ["engine", "cycle", "setting1", "setting2", "setting3"] + [f"sensor{i}" for i in range(1, 22)]


def rows(path):
    engines = {}
    for line in path.read_text().splitlines():
        cells = line.split()
        if cells:
            engines.setdefault(cells[0], []).append(cells[: len(NAMES)])
    return engines


def main():
    uncapped = "--uncapped" in sys.argv
    folder, out = (Path(arg) for arg in sys.argv[1:] if not arg.startswith("--"))
    out.mkdir(exist_ok=True)
    left = [int(line) for line in (folder / "RUL_FD001.txt").read_text().split()]
    for name in ("train", "test"):
        with open(out / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(NAMES + ["remaining"])
            for engine, cycles in rows(folder / f"{name}_FD001.txt").items():
                for i, cells in enumerate(cycles, 1):
                    if name == "train":
                        remaining = min(CAP, len(cycles) - i)
                    elif i < len(cycles):
                        remaining = ""
                    else:
                        remaining = left[int(engine) - 1]
                        remaining = remaining if uncapped else min(CAP, remaining)
                    writer.writerow(cells + [remaining])


main()
