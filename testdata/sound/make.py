"""Makes the goldens in this folder: features of sound in double precision, written from the recipes' definitions.

    python make.py

Needs `numpy`. For two seconds of `short_wav_easy10s.wav`, from 0.5 s:

- `wake_word.f64`: `[frames, 40]`, the streaming wake word's log energies;
- `keywords.f64`: `[frames, 10]`, the cepstral coefficients of keyword spotting, without scaling to a peak.
"""

import wave
from pathlib import Path

import numpy as np

RATE = 16000


def samples(path):
    with wave.open(str(path)) as file:
        data = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        return data.reshape(-1, file.getnchannels()).mean(1) / 32768


def frames(x, length, stride):
    return np.stack([x[at : at + length] for at in range(0, len(x) - length + 1, stride)])


def mel_weights(n_bins, low, high, n_bands=40):
    """As TensorFlow's linear_to_mel_weight_matrix, in double precision: [bins, bands]."""

    def mel(hertz):
        return 1127 * np.log1p(np.asarray(hertz, np.float64) / 700)

    pitch = mel(np.linspace(0, RATE / 2, n_bins)[1:])[:, None]
    edges = np.linspace(mel(low), mel(high), n_bands + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((pitch - lower) / (center - lower), (upper - pitch) / (upper - center))
    return np.concatenate([np.zeros((1, n_bands)), np.maximum(0, triangles)])


def wake_word(x):
    emphasised = x - (1 - 2**-5) * np.concatenate([[0], x[:-1]])
    windowed = frames(emphasised, 1024, 512) * np.hamming(1024)
    power = np.maximum(np.abs(np.fft.rfft(windowed)) ** 2 / 1024, 1e-30)
    decibels = 10 * np.log10(power @ mel_weights(513, 0, RATE / 2))
    return np.clip((decibels + 52) / 64, 0, 1)


def keywords(x):
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(480) / 480)
    magnitudes = np.abs(np.fft.rfft(frames(x, 480, 320) * hann, 512))
    logs = np.log(magnitudes @ mel_weights(257, 20, 4000) + 1e-6)
    k, n = np.arange(10)[:, None], np.arange(40)
    dct = 2 * np.cos(np.pi / 40 * (n + 0.5) * k)
    return logs @ dct.T / np.sqrt(2 * 40)


def main():
    folder = Path(__file__).parent
    x = samples(folder / "short_wav_easy10s.wav")[RATE // 2 :][: 2 * RATE]
    wake_word(x).tofile(folder / "wake_word.f64")
    keywords(x).tofile(folder / "keywords.f64")


if __name__ == "__main__":
    main()
