"""Makes this folder from the Numenta Anomaly Benchmark: values without times, windows as rows, published scores.

    python make.py path/to/NAB

- `NAME.txt`: the values of a series, a line each, as its CSV file has them.
- `NAME.windowed_gaussian`: for two series, the scores that NAB publishes for its detector windowedGaussian.
- `windows.json`: for each series the first and last row of each labelled window.
"""

import csv
import json
import sys
from pathlib import Path

SERIES = [
    "artificialNoAnomaly/art_daily_small_noise",
    "artificialWithAnomaly/art_daily_jumpsup",
    "realKnownCause/ambient_temperature_system_failure",
    "realKnownCause/cpu_utilization_asg_misconfiguration",
    "realKnownCause/ec2_request_latency_system_failure",
    "realKnownCause/machine_temperature_system_failure",
    "realKnownCause/nyc_taxi",
    "realKnownCause/rogue_agent_key_hold",
    "realKnownCause/rogue_agent_key_updown",
]
PUBLISHED = ["ambient_temperature_system_failure", "nyc_taxi"]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def main():
    nab, here = Path(sys.argv[1]), Path(__file__).parent
    labelled = json.loads((nab / "labels/combined_windows.json").read_text())
    windows = {}
    for series in SERIES:
        name = Path(series).name
        records = rows(nab / "data" / f"{series}.csv")
        (here / f"{name}.txt").write_text("".join(f"{record['value']}\n" for record in records))
        # Times are in a form that sorts; labels have fractions of seconds behind it.
        times = [record["timestamp"] for record in records]
        inside = lambda first, last: [i for i, time in enumerate(times) if first[:19] <= time <= last[:19]]
        spans = [inside(first, last) for first, last in labelled[f"{series}.csv"]]
        windows[name] = [[span[0], span[-1]] for span in spans]
        if name in PUBLISHED:
            results = rows(nab / f"results/windowedGaussian/{Path(series).parent}/windowedGaussian_{name}.csv")
            text = "".join(f"{result['anomaly_score']}\n" for result in results)
            (here / f"{name}.windowed_gaussian").write_text(text)
    (here / "windows.json").write_text(json.dumps(windows, indent=1) + "\n")


if __name__ == "__main__":
    main()
