"""How well a predictor that was built within fifteen minutes foretells networks of the mobile space on this machine.

    python benchmarks/hardware_predictor.py [--minutes 15] [--networks 100] [--method network]

Builds the predictor as `nasflow profile local-cpu --build network` does, then exports networks that it has not seen
and measures their files. A line fitted to the multiply-adds of the same networks that the predictor learned from is
shown beside it.

What is foretold is the p50 of an undisturbed machine, so the bar is about the p50 that nasflow reports: of the rounds
between two looks at the reference that found the machine as quick as it can be. Beside it stand the p50 of all calls,
whoever disturbed them, which is the same on a quiet machine; and what the quickest calls show of the undisturbed
machine (nasflow/hardware/floor.py), relative to the anchors, which is how the predictor learned. Networks are measured
again that are too noisy to tell, whose quickest call stands alone, or whose batch was disturbed throughout, at most
ROUNDS times; what is left then counts as it is.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import write

from nasflow import hardware
from nasflow.cli_hardware import BUDGET_S, Sampled
from nasflow.hardware import Device, Latency, build, floor, store
from nasflow.hardware.graph import operators
from nasflow.hardware.predictor import Accuracy, errors

UNSEEN = 10**6  # numbers of networks that no build comes near
WITHIN_10, KENDALL = 0.95, 0.93
ROUNDS = 4
SPACE, SHAPE = "mobile", (3, 32, 32)


@dataclass(frozen=True)
class Checked:
    """A network's measurement, and what its quickest call shows of the undisturbed machine."""

    latency: Latency
    from_floor_ms: float
    pace: float
    sure: bool


def macs(file: Path) -> float:
    return float(sum(one.macs for one in operators(file)))


def all_ms(measured: Latency) -> float:
    """The p50 of all calls."""
    return float(np.median(measured.samples_ms))


def line(x: Sequence[float], ms: Sequence[float], new: Sequence[float]) -> list[float]:
    """Predictions by the straight line over x with the least squared error as a share of the time."""
    rows = np.stack([np.ones(len(x)), np.array(x)], axis=1) / np.array(ms)[:, None]
    a, b = np.linalg.lstsq(rows, np.ones(len(x)), rcond=None)[0]
    return [max(a + b * one, min(ms) / 2) for one in new]


def check(device: Device, folder: Path, files: Sequence[Path], record: build.Record) -> list[Checked]:
    """Measure files in turns with the anchors of the build."""
    anchors, usual = record.anchors, floor.stretch(record.stretches)
    beside = [folder / "networks" / f"{number:05d}.onnx" for number in anchors]
    found: dict[Path, Checked] = {}
    left = list(files)
    for _ in range(ROUNDS):
        for at in range(0, len(left), build.AT_ONCE):
            some = left[at : at + build.AT_ONCE]
            told = device.latencies([*beside, *some])
            now = build.pace(dict(zip(anchors, map(floor.floor_ms, told), strict=False)), anchors)
            for file, one in zip(some, told[len(anchors) :], strict=True):
                sure = not one.noisy and not floor.unsure(one) and abs(now - 1) <= build.DISTURBED
                found[file] = Checked(one, usual * floor.floor_ms(one) / now, now, sure)
        left = [file for file in files if not found[file].sure]
    return [found[file] for file in files]


def beside_each_other(
    predicted: Sequence[float], by_macs: Sequence[float], measured: Sequence[float]
) -> dict[str, Any]:
    """The accuracy of the predictor and of multiply-adds alone, and to which side the predictor errs."""
    off = errors(predicted, measured)
    return {
        "networks": len(measured),
        "accuracy": Accuracy.of(predicted, measured).to_json(),
        "accuracy_of_multiply_adds_alone": Accuracy.of(by_macs, measured).to_json(),
        "median_error": float(np.median(off)),
        "share_foretold_too_long": float((off > 0).mean()),
        "median_ms": float(np.median(measured)),
        "range_ms": [min(measured), max(measured)],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument(
        "--method", choices=[one for one in build.METHODS if one != "few-shot"], default="network"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = hardware.connect(
        hardware.load_profile("local-cpu"), budget_s=BUDGET_S, energy=False, again=False
    )
    supply = Sampled(SPACE, SHAPE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load, began = os.getloadavg()[0], time.monotonic()
        built = build.build(device, given.method, given.minutes, supply, folder, say=print)
        minutes = (time.monotonic() - began) / 60
        files = [folder / f"new{number}.onnx" for number in range(given.networks)]
        for number, file in enumerate(files):
            supply.write(UNSEEN + number, file)
        state = {key: built.environment[key] for key in store.DECISIVE if key in built.environment}
        record = build.Record.open(folder, state, supply.name)
        checked = check(device, folder, files, record)
        predicted = [one.p50_ms for one in built.predictor.predict(files)]
        known = {number: ms for number, ms in record.times.items() if number % build.HELD}
        shown = [macs(folder / "networks" / f"{number:05d}.onnx") for number in known]
        by_macs = line(shown, list(known.values()), [macs(file) for file in files])
    undisturbed = beside_each_other(predicted, by_macs, [one.latency.p50_ms for one in checked])
    all_calls = beside_each_other(predicted, by_macs, [all_ms(one.latency) for one in checked])
    from_floors = beside_each_other(predicted, by_macs, [one.from_floor_ms for one in checked])
    within, tau = (undisturbed["accuracy"][figure]["value"] for figure in ("within_10", "kendall"))
    write(
        "hardware-predictor",
        goal=f"local-cpu, {given.networks} unseen networks of the mobile space: at least"
        f" {WITHIN_10:.0%} within 10 % of the undisturbed p50, Kendall's tau at least {KENDALL}, built in 15 minutes",
        value=within,
        holds=within >= WITHIN_10 and tau >= KENDALL and minutes <= 15,
        method=given.method,
        build_minutes=minutes,
        measured=built.measured,
        left_out_as_too_noisy=built.noisy,
        undisturbed=undisturbed,
        all_calls=all_calls,
        from_floors=from_floors,
        unsure_in_the_check=sum(not one.sure for one in checked),
        noisy_in_the_check=sum(bool(one.latency.noisy) for one in checked),
        p50_over_floor={
            "build": floor.stretch(record.stretches),
            "check": float(np.median([one.latency.p50_ms / floor.floor_ms(one.latency) for one in checked])),
        },
        pace_of_the_anchors=sorted({one.pace for one in checked}),
        accuracy_told_by_the_build=built.accuracy.to_json(),
        load_average_before=load,
        networks=[
            {
                "foretold_ms": ms,
                "p50_ms": one.latency.p50_ms,
                "all_calls_ms": all_ms(one.latency),
                "from_floor_ms": one.from_floor_ms,
                "disturbed": one.latency.disturbed,
                "noisy": one.latency.noisy,
                "sure": one.sure,
            }
            for ms, one in zip(predicted, checked, strict=True)
        ],
        environment=dict(built.environment),
    )


if __name__ == "__main__":
    main()
