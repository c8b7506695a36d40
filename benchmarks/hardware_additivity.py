"""Is a network as long as its kernels together? A lookup table against whole networks, with and without fusion.

    python benchmarks/hardware_additivity.py

Samples networks of the `mobile` space for images of 32x32, exports them and measures each. Then it measures, once
each, every operator and every kernel that occurs in them (kernels as the device was found to fuse operators), sums
them up and states the mean error of both sums. Takes some ten minutes of an otherwise idle machine.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import write

from nasflow.export import to_onnx
from nasflow.hardware import connect, fusion, load_profile, table
from nasflow.hardware.fusion import UNFUSED, FusionRules
from nasflow.hardware.graph import operators
from nasflow.hardware.predictor import Accuracy
from nasflow.spaces import mobile

SHAPE, CLASSES, NETWORKS = (3, 32, 32), 10, 30


def networks(folder: Path) -> list[Path]:
    space, rng = mobile.space(SHAPE, CLASSES), np.random.default_rng(0)
    files = [folder / f"network{number:02d}.onnx" for number in range(NETWORKS)]
    for file in files:
        to_onnx(mobile.build(space.sample(rng), SHAPE, CLASSES), SHAPE, file)
    return files


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device, quick = (connect(load_profile("local-cpu"), budget_s=seconds) for seconds in (0.6, 0.1))
    with tempfile.TemporaryDirectory() as folder:
        files = networks(Path(folder))
        rules = fusion.detect(device, fusion.pairs(map(operators, files)))
        told = device.latencies(files)
        unit = float(np.median([one.p50_ms / one.relative for one in told]))
        measured = [one.relative * unit for one in told]
        ways: dict[str, tuple[FusionRules, bool]] = {
            "operators": (UNFUSED, False),
            "kernels": (rules, False),
            "kernels_inside_a_block": (rules, True),
        }
        found: dict[str, dict[str, Any]] = {}
        for name, (grouping, inside) in ways.items():
            built = table.build(quick, files, grouping, inside=inside)
            sums = [one.p50_ms for one in built.predict(files)]
            accuracy = Accuracy.of(sums, measured)
            found[name] = {
                "mape_percent": 100 * accuracy.mape.value,
                "accuracy": accuracy.to_json(),
                "regression": asdict(table.additivity(built, list(zip(files, measured, strict=True)))),
                "entries": len(built.kernels),
                "call_ms": built.call_ms,
                "sums_ms": sums,
            }
    write(
        "hardware-additivity",
        goal="stated: mean error (%) of the sum of kernels, grouped as the device fuses them, of the whole network",
        value=found["kernels_inside_a_block"]["mape_percent"],
        holds=None,
        mape_percent={name: one["mape_percent"] for name, one in found.items()},
        fused_pairs=rules.to_json()["pairs"],
        measured_ms=measured,
        ways=found,
        environment=dict(told[0].environment),
    )


if __name__ == "__main__":
    main()
