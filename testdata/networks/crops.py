"""Crops of photographs, to calibrate networks on and to compare them: `crops.py PLANTVILLAGE OUT`.

    OUT/calibration/*.png     450 crops
    OUT/comparison/*.png      2000 crops, of other photographs

of 96 x 96 pixels each, half of them mirrored, with other contrast and brightness; the same each time. Needs `scikit-image`,
`Pillow` and `numpy`. Half of each comes from the photographs that scikit-image brings along, the other half from PLANTVILLAGE, a
folder of folders of leaves (`plantvillage-apple` of the benchmarks): every fourth to calibrate on, every twelfth of the others
to compare on.
"""

import sys
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

PIXELS = 96
CALIBRATION = ["astronaut.png", "coffee.png", "hubble_deep_field.jpg", "motorcycle_left.png", "rocket.jpg", "ihc.png", "gravel.png"]
COMPARISON = ["chelsea.png", "retina.jpg", "camera.png", "coins.png", "moon.png", "brick.png", "grass.png", "page.png", "text.png"]


def crop(rng, path):
    """A square of random place and size of a picture, changed a little."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    side = int(rng.integers(PIXELS, min(image.size) + 1)) if min(image.size) > PIXELS else min(image.size)
    left, top = (int(rng.integers(0, n - side + 1)) for n in image.size)
    image = image.crop((left, top, left + side, top + side)).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float64)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    pixels = (pixels - 127.5) * rng.uniform(0.7, 1.3) + 127.5 + rng.uniform(-30, 30)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def main():
    leaves, out = Path(sys.argv[1]), Path(sys.argv[2])
    photographs = Path(skimage.__file__).parent / "data"
    leaves = sorted(path for path in leaves.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    to_calibrate = leaves[::4]
    to_compare = [path for i, path in enumerate(leaves) if i % 4][::12]
    rng = np.random.default_rng(1)
    for name, n_crops, files, leaves in [
        ("calibration", 450, CALIBRATION, to_calibrate), ("comparison", 2000, COMPARISON, to_compare),
    ]:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        files = [photographs / file for file in files]
        for i in range(n_crops):
            half, i_file = i % 2, i // 2
            path = (files, leaves)[half][i_file % len((files, leaves)[half])]
            crop(rng, path).save(folder / f"{i:04}.png")


main()
