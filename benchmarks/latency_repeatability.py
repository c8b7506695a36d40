"""Does a latency measured again come out the same, is a file never told from itself, is a real difference found?

    python benchmarks/latency_repeatability.py

Measures two small networks in ten processes each, in turns; compares one with a copy of itself forty times; and
with a network of a tenth more layers twenty times. Takes a minute or two and writes its result beside this file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import write
from torch import nn

from nasflow.export import to_onnx
from nasflow.hardware import Device, Latency, connect, load_profile

PROCESSES, SAME, DIFFERENT = 10, 40, 20
MOST_CV, MOST_ALARMS = 3, 5  # percent


def network(channels: int, blocks: int) -> nn.Sequential:
    """A stem and `blocks` alike, each a depthwise and a 1x1 convolution, so that a tenth more is a tenth more."""
    body = [
        layer
        for _ in range(blocks)
        for layer in (
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), *body, *head)


def spread(values: list[float]) -> float:
    """Coefficient of variation, in percent."""
    return float(100 * np.std(values, ddof=1) / np.mean(values))


def repeatability(device: Device, files: list[Path]) -> dict[str, dict[str, Any]]:
    taken: dict[str, list[Latency]] = {file.stem: [] for file in files}
    for _ in range(PROCESSES):
        for file in files:  # every call of `latency` starts a process of its own
            taken[file.stem].append(device.latency(file))
    return {
        name: {
            "p50_ms": [one.p50_ms for one in many],
            "cv_percent": spread([one.p50_ms for one in many]),
            "cv_percent_relative_to_reference": spread([one.relative for one in many]),
            "within_own_interval_percent": float(
                np.mean(
                    [100 * (one.ci[0] <= np.median([o.p50_ms for o in many]) <= one.ci[1]) for one in many]
                )
            ),
            "noise_percent": [100 * one.noise for one in many],
        }
        for name, many in taken.items()
    }


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = connect(load_profile("local-cpu"))
    with tempfile.TemporaryDirectory() as folder:
        small, twin, tenth, large = (
            Path(folder) / f"{name}.onnx" for name in ("small", "twin", "tenth", "large")
        )
        to_onnx(network(16, 10), (1, 14, 14), small)
        to_onnx(network(16, 11), (1, 14, 14), tenth)
        to_onnx(network(32, 20), (1, 28, 28), large)
        shutil.copy(small, twin)
        load_before = os.getloadavg()[0]
        repeated = repeatability(device, [small, large])
        same = [device.compare(small, twin) for _ in range(SAME)]
        different = [device.compare(small, tenth) for _ in range(DIFFERENT)]
        environment = device.latency(small).environment
    details = {"environment": environment, "load_average_before": load_before}
    worst = max(float(one["cv_percent"]) for one in repeated.values())
    write(
        "main_job-latency_repeatability",
        goal=f"p50 of a file in {PROCESSES} processes, in turns with another: coefficient of variation <= {MOST_CV} %",
        value=worst,
        holds=worst <= MOST_CV,
        files=repeated,
        **details,
    )
    alarms = 100 * float(np.mean([one.verdict != "cannot tell" for one in same]))
    write(
        "main_job-latency_false_alarms",
        goal=f"a file compared with its copy is called different in <= {MOST_ALARMS} % of {SAME} tries",
        value=alarms,
        holds=alarms <= MOST_ALARMS,
        tenth_more_layers_found_percent=100 * float(np.mean([one.verdict == "slower" for one in different])),
        ratios={"same": [one.ratio for one in same], "tenth_more_layers": [one.ratio for one in different]},
        **details,
    )


if __name__ == "__main__":
    main()
