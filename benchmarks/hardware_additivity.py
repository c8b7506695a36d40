"""Is a network as long as its kernels together? A lookup table against whole networks, with and without fusion.

    python benchmarks/hardware_additivity.py [--networks 24]

Samples networks of the `mobile` space for images of 32x32, exports them and measures each. Then it measures, once
each, every operator and every kernel that occurs in them (kernels as the device was found to fuse operators), sums
them up and states the mean error of the sums. Times are those of an undisturbed machine (nasflow/hardware/floor.py), of
parts and of whole networks alike. Takes less than ten minutes of an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import write

from nasflow.export import to_onnx
from nasflow.hardware import connect, floor, fusion, load_profile, table
from nasflow.hardware.fusion import UNFUSED, FusionRules
from nasflow.hardware.graph import operators
from nasflow.hardware.predictor import Accuracy, errors
from nasflow.spaces import mobile

SHAPE, CLASSES, NETWORKS = (3, 32, 32), 10, 24
AT_ONCE = 12
QUICK_S, WHOLE_S = 0.05, 0.4  # of measuring a kernel's file, of which there are many, and a network's


def networks(folder: Path, count: int) -> list[Path]:
    space, rng = mobile.space(SHAPE, CLASSES), np.random.default_rng(0)
    files = [folder / f"network{number:02d}.onnx" for number in range(count)]
    for file in files:
        to_onnx(mobile.build(space.sample(rng), SHAPE, CLASSES), SHAPE, file)
    return files


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", type=int, default=NETWORKS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device, quick = (
        connect(load_profile("local-cpu"), budget_s=seconds, energy=False, again=False)
        for seconds in (WHOLE_S, QUICK_S)
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files = networks(Path(folder), given.networks)
        rules = fusion.detect(device, fusion.pairs(map(operators, files)))
        print(f"fused: {rules.to_json()['pairs']}, {time.monotonic() - began:.0f} s", flush=True)
        told = [
            one for at in range(0, len(files), AT_ONCE) for one in device.latencies(files[at : at + AT_ONCE])
        ]
        measured = [floor.floor_ms(one) for one in told]
        ways: dict[str, tuple[FusionRules, bool]] = {
            "operators": (UNFUSED, False),
            "kernels": (rules, False),
            "kernels_inside_a_block": (rules, True),
        }
        found: dict[str, dict[str, Any]] = {}
        for name, (grouping, inside) in ways.items():
            entries = table.measured(quick, table.wanted(files, grouping), inside=inside)
            built = table.Table(device.name, entries.ms, entries.call_ms, grouping)
            sums = [one.p50_ms for one in built.predict(files)]
            accuracy = Accuracy.of(sums, measured)
            found[name] = {
                "mape_percent": 100 * accuracy.mape.value,
                "median_error_percent": 100 * float(np.median(errors(sums, measured))),
                "accuracy": accuracy.to_json(),
                "regression": asdict(table.additivity(built, list(zip(files, measured, strict=True)))),
                "entries": len(built.kernels),
                "entries_too_noisy": len(entries.unsure),
                "call_ms": built.call_ms,
                "sums_ms": sums,
            }
            error = f"mean error {100 * accuracy.mape.value:.1f} %"
            print(
                f"{name}: {len(built.kernels)} entries, {error}, {time.monotonic() - began:.0f} s", flush=True
            )
    write(
        "hardware-additivity",
        goal="stated: mean error (%) of the sum of kernels, grouped as the device fuses them, of the whole network",
        value=found["kernels_inside_a_block"]["mape_percent"],
        holds=None,
        mape_percent={name: one["mape_percent"] for name, one in found.items()},
        fused_pairs=rules.to_json()["pairs"],
        networks=len(files),
        minutes=(time.monotonic() - began) / 60,
        measured_ms=measured,
        p50_ms=[one.p50_ms for one in told],
        noisy=sum(bool(one.noisy) for one in told),
        ways=found,
        environment=dict(told[0].environment),
    )


if __name__ == "__main__":
    main()
