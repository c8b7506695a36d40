"""How well a predictor that was built in fifteen minutes foretells networks of the mobile space on this machine.

    python benchmarks/hardware_predictor.py [--minutes 15] [--networks 100] [--method network]

Builds the predictor as `nasflow profile local-cpu --build network` does, then exports networks that it has not seen
and measures their files. A line fitted to the multiply-adds of the same networks that the predictor learned from is
shown beside it. Networks are compared relative to the reference network that is timed along with each, so that the
clock of a shared machine, which drifts by some percent from minute to minute, is not taken for an error.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _results import write

from nasflow import hardware
from nasflow.cli_hardware import BUDGET_S, Sampled
from nasflow.hardware import build
from nasflow.hardware.graph import operators
from nasflow.hardware.predictor import Accuracy

UNSEEN = 10**6  # numbers of networks that no build comes near
WITHIN_10, KENDALL = 0.95, 0.93
AT_ONCE = 10


def macs(file: Path) -> float:
    return float(sum(one.macs for one in operators(file)))


def line(x: list[float], ms: list[float], new: list[float]) -> list[float]:
    """Predictions by the straight line over x with the least squared error as a share of the time."""
    rows = np.stack([np.ones(len(x)), np.array(x)], axis=1) / np.array(ms)[:, None]
    a, b = np.linalg.lstsq(rows, np.ones(len(x)), rcond=None)[0]
    return [max(a + b * one, min(ms) / 2) for one in new]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--method", choices=build.METHODS, default="network")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = hardware.connect(hardware.load_profile("local-cpu"), budget_s=BUDGET_S, energy=False)
    supply = Sampled("mobile", (3, 32, 32))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load, began = os.getloadavg()[0], time.monotonic()
        built = build.build(device, given.method, given.minutes, supply, folder, say=print)
        minutes = (time.monotonic() - began) / 60
        files = [folder / f"new{number}.onnx" for number in range(given.networks)]
        for number, file in enumerate(files):
            supply.write(UNSEEN + number, file)
        told = [
            one for at in range(0, len(files), AT_ONCE) for one in device.latencies(files[at : at + AT_ONCE])
        ]
        measured = [one.relative * built.reference_ms for one in told]
        accuracy = Accuracy.of([one.p50_ms for one in built.predictor.predict(files)], measured)
        raw = Accuracy.of(
            [one.p50_ms for one in built.predictor.predict(files)], [one.p50_ms for one in told]
        )
        state = {key: built.environment[key] for key in build.DECISIVE if key in built.environment}
        record = build.Record.open(folder, state, supply.name)
        known = {
            n: ms / ref * built.reference_ms for n, (ms, ref) in record.networks.items() if n % build.HELD
        }
        shown = [macs(folder / "networks" / f"{number:05d}.onnx") for number in known]
        by_macs = Accuracy.of(line(shown, list(known.values()), [macs(file) for file in files]), measured)
    write(
        "hardware-predictor",
        goal=f"local-cpu, {given.networks} unseen networks of the mobile space: at least {WITHIN_10:.0%} within 10 %,"
        f" Kendall's tau at least {KENDALL}, built within 15 minutes",
        value=accuracy.within_10.value,
        holds=accuracy.within_10.value >= WITHIN_10 and accuracy.kendall.value >= KENDALL and minutes <= 15,
        method=given.method,
        build_minutes=minutes,
        networks_measured=len(record.networks),
        accuracy=accuracy.to_json(),
        accuracy_not_relative_to_reference=raw.to_json(),
        accuracy_of_multiply_adds_alone=by_macs.to_json(),
        accuracy_told_by_the_build=built.accuracy.to_json(),
        median_ms=float(np.median(measured)),
        range_ms=[min(measured), max(measured)],
        load_average_before=load,
        environment=dict(built.environment),
    )


if __name__ == "__main__":
    main()
