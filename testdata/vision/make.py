"""Makes the goldens in this folder: images as Pillow and TensorFlow resize and decode them.

    python make.py

Needs `Pillow` below 13, `numpy` and `tensorflow-cpu`. Pillow 13 resizes columns before rows where it finds that faster,
which moves some results by one unit.

`no_person.bmp` is an unchanged file. `person.bmp`, beside it where it comes from, holds the network's signed bytes: its
dark half is bright and its bright half dark. `--person PATH` makes `person.png` of it, with 128 added to each. Writes

- `noise.png`: 61 x 47 pixels of a gradient, shapes and noise, from a fixed seed;
- `resize.json`: a list of cases, each with method, width, height and where in the two files below its result lies;
- `resize.u8`: Pillow's results, bytes, `[height, width, 3]` each;
- `resize.f32`: TensorFlow's, little-endian floats;
- `upright_N.jpg`: the same scene in 40 x 28 pixels as a camera saves it that was held in orientation N of EXIF;
- `upright.u8`: what Pillow makes of each (`ImageOps.exif_transpose`), one after the other.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

SIZES = [(30, 20), (48, 40), (61, 13), (7, 90), (100, 9)]
PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
TENSORFLOW = {
    "tf-nearest": ("nearest", False),
    "tf-bilinear": ("bilinear", False),
    "tf-antialias": ("bilinear", True),
}
# From upright to how the sensor saw it, by the value of EXIF's orientation.
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def scene(width, height, noise):
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([255 * x / width, 255 * y / height, 128 + 90 * np.sin(x / 5) * np.cos(y / 7)], -1)
    image[height // 4 : height // 2, width // 5 : width // 3] = (250, 10, 20)
    image[y > 1.2 * x + height / 3] = (0, 255, 60)
    return np.clip(image + noise * rng.standard_normal(image.shape), 0, 255).astype(np.uint8)


def main():
    folder = Path(__file__).parent
    if sys.argv[1:2] == ["--person"]:
        wrapped = np.asarray(Image.open(sys.argv[2]))
        Image.fromarray(wrapped ^ 128).save(folder / "person.png", optimize=True)
        return
    noise = scene(61, 47, 40)
    Image.fromarray(noise).save(folder / "noise.png", optimize=True)
    cases, bytes_, floats = [], [], []
    for width, height in SIZES:
        size = height * width * 3
        for name, method in PILLOW.items():
            cases.append({"method": name, "width": width, "height": height, "at": size_of(bytes_)})
            bytes_.append(np.asarray(Image.fromarray(noise).resize((width, height), method)).ravel())
            assert bytes_[-1].size == size
        for name, (method, antialias) in TENSORFLOW.items():
            cases.append({"method": name, "width": width, "height": height, "at": size_of(floats)})
            resized = tf.image.resize(noise, (height, width), method, antialias=antialias)
            floats.append(resized.numpy().astype("<f4").ravel())
            assert floats[-1].size == size
    (folder / "resize.json").write_text(json.dumps(cases, indent=0) + "\n")
    np.concatenate(bytes_).tofile(folder / "resize.u8")
    np.concatenate(floats).tofile(folder / "resize.f32")

    upright = Image.fromarray(scene(40, 28, 0))
    results = []
    for orientation, turn in TURNS.items():
        seen = upright if turn is None else upright.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = folder / f"upright_{orientation}.jpg"
        seen.save(path, quality=92, subsampling=0, exif=exif)
        with Image.open(path) as saved:
            results.append(np.asarray(ImageOps.exif_transpose(saved).convert("RGB")).ravel())
    np.concatenate(results).tofile(folder / "upright.u8")


def size_of(parts):
    return int(sum(part.size for part in parts))


if __name__ == "__main__":
    main()
