"""Makes coded recordings, and goldens of resampling.

    python coded.py

Needs `numpy`, `scipy`, `soxr` and `soundfile` (whose libsndfile brings LAME and mpg123).

- `yes_16000.flac` (16 bits), `yes_44100_stereo.flac` (24 bits), `yes_22050.mp3`, `yes_48000_stereo.mp3`: the clip `yes`;
- `yes_22050.f32`, `yes_48000_stereo.f32`: what mpg123 decodes of the two MP3 files, channels averaged;
- `resampled.json`: for some pairs of rates, a tenth of a second of a sweep from 100 Hz up to 0.8 of the lower rate's
  highest frequency, resampled by `scipy.signal.resample_poly` with the filter that `resample.rs` has, and by soxr.
"""

import json
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import soxr

PAIRS = [(44100, 16000), (48000, 16000), (22050, 16000), (11025, 16000), (8000, 16000), (44056, 16000)]
HALF_TAPS, MIDDLE, BETA = 72, 0.955, 10.06


def sweep(rate, to):
    t = np.arange(rate // 10) / rate
    top = 0.8 * min(rate, to) / 2
    return 0.5 * np.sin(2 * np.pi * (100 * t + (top - 100) / 2 * t * t / 0.1))


def by_scipy(x, rate, to):
    ratio = Fraction(to, rate)
    up, down = ratio.numerator, ratio.denominator
    scale = min(1, to / rate)
    half = ceil(HALF_TAPS / scale)
    at = np.arange(-half * up, half * up + 1) / up
    cutoff = MIDDLE * scale
    taps = cutoff * np.sinc(cutoff * at) * np.kaiser(len(at), BETA)
    return scipy.signal.resample_poly(x, up, down, window=taps / up)


def main():
    folder = Path(__file__).parent
    yes, rate = soundfile.read(folder / "yes_1000ms.wav")
    soundfile.write(folder / "yes_16000.flac", yes, rate, subtype="PCM_16")
    for rate_to, n_channels, kind in [(44100, 2, "flac"), (22050, 1, "mp3"), (48000, 2, "mp3")]:
        x = soxr.resample(yes, rate, rate_to, quality="VHQ")
        # The second channel is quieter, so that a mean is not one of both.
        x = np.stack([x, 0.5 * x], 1) if n_channels == 2 else x
        name = f"yes_{rate_to}{'_stereo' if n_channels == 2 else ''}"
        options = {"subtype": "PCM_24"} if kind == "flac" else {"compression_level": 0.3}
        soundfile.write(folder / f"{name}.{kind}", x, rate_to, **options)
        if kind == "mp3":
            decoded, _ = soundfile.read(folder / f"{name}.mp3", dtype="float32", always_2d=True)
            decoded.mean(1).astype(np.float32).tofile(folder / f"{name}.f32")
    resampled = []
    for rate, to in PAIRS:
        x = sweep(rate, to)
        row = {"from": rate, "to": to}
        for name, y in [("scipy", by_scipy(x, rate, to)), ("soxr", soxr.resample(x, rate, to, quality="VHQ"))]:
            row[name] = [float(f"{value:.7f}") for value in y]
        resampled.append(row)
    (folder / "resampled.json").write_text(json.dumps(resampled, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
