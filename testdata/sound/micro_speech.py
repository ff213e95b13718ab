"""Makes the goldens of micro_speech's front end: what TensorFlow Lite Micro itself computes.

    python micro_speech.py

Needs `numpy` and `tflite-micro` (0.dev20261023182759 was used). `audio_preprocessor_int8.tflite` and its twin for floats are the
front end as networks, whose operators are that program's own C++. One after the other, each from a state without noise:
the clips `yes`, `no`, `noise` and `silence` of a second, the recording of ten seconds, and two seconds of random samples
from the faintest to the loudest.

- `micro_speech.f32`: `[frames, 40]`, features as floats, frames of all of these one after the other;
- `micro_speech.i8`: the same in bytes, as the network takes them;
- `micro_speech_random.i16`: the random samples;
- `micro_speech.json`: the network's answers to the four clips, in bytes.
"""

import json
import wave
from pathlib import Path

import numpy as np
from tflite_micro.python.tflite_micro import runtime

FRAME, STRIDE = 480, 320
CLIPS = ["yes", "no", "noise", "silence"]


def samples(path):
    with wave.open(str(path)) as file:
        data = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        mean = data.reshape(-1, file.getnchannels()).mean(1)
        # Halves away from zero, as the program rounds.
        return np.trunc(mean + np.copysign(0.5, mean)).astype(np.int16)


def features(interpreter, x):
    interpreter.reset()
    rows = []
    for at in range(0, len(x) - FRAME + 1, STRIDE):
        interpreter.set_input(x[at : at + FRAME].reshape(1, FRAME), 0)
        interpreter.invoke()
        rows.append(interpreter.get_output(0).ravel().copy())
    return np.stack(rows)


def random_samples():
    chance = np.random.default_rng(1)
    x = chance.uniform(-1, 1, 32000)
    loudness = 2.0 ** np.linspace(0, 15, len(x))
    x = np.clip(np.round(x * loudness), -32768, 32767)
    # Two frames with the lowest number, which has no opposite, and one of a square wave as loud as can be.
    x[4040:4060] = -32768
    x[9000:9640] = np.where(np.arange(640) // 20 % 2, 32767, -32768)
    return x.astype(np.int16)


def main():
    folder = Path(__file__).parent
    random = random_samples()
    random.tofile(folder / "micro_speech_random.i16")
    all_samples = [samples(folder / f"{clip}_1000ms.wav") for clip in CLIPS]
    all_samples += [samples(folder / "short_wav_easy10s.wav"), random]
    for kind, name in [("int8", "micro_speech.i8"), ("float", "micro_speech.f32")]:
        interpreter = runtime.Interpreter.from_file(str(folder / f"audio_preprocessor_{kind}.tflite"))
        rows = [features(interpreter, x) for x in all_samples]
        np.concatenate(rows).tofile(folder / name)
        if kind == "int8":
            model = folder.parent / "networks/models/micro_speech_quantized.tflite"
            network = runtime.Interpreter.from_file(str(model))
            answers = {}
            for clip, row in zip(CLIPS, rows):
                network.set_input(row.reshape(1, -1), 0)
                network.invoke()
                answers[clip] = network.get_output(0).ravel().tolist()
            (folder / "micro_speech.json").write_text(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
