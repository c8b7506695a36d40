"""Is a network hardly ever told from itself, and a network of a twentieth more work nearly always from the other?

    python benchmarks/hardware_ab.py [TRIES]

Two networks of 40 and 42 equal convolutions are made. One long measurement says how far apart their times truly
are; then the first is compared with its copy, and with the second, TRIES times each (40 without a number), every
time in a process of its own. Takes some three minutes on a quiet machine; writes its results beside this file.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _results import write
from torch import nn

from nasflow.export import to_onnx
from nasflow.hardware import Comparison, connect, load_profile

TRIES, LAYERS, MORE = 40, 40, 42
MOST_ALARMS, LEAST_FOUND = 5, 90  # percent
TRUTH_S = 15.0  # for each network, once
ABOUT_5 = (1.035, 1.065)  # the ratio of times that still is a difference of 5 %


def network(layers: int) -> nn.Sequential:
    """`layers` convolutions alike, so that a twentieth more of them is a twentieth more work."""
    body = [layer for _ in range(layers) for layer in (nn.Conv2d(24, 24, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*body)


def main() -> None:
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else TRIES
    torch.set_num_threads(1)
    torch.manual_seed(0)
    profile = load_profile("local-cpu")
    device = connect(profile)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        plain, twin, more = (Path(folder) / f"{name}.onnx" for name in ("plain", "twin", "more"))
        to_onnx(network(LAYERS), (24, 14, 14), plain)
        to_onnx(network(MORE), (24, 14, 14), more)
        shutil.copy(plain, twin)
        one, other = connect(profile, budget_s=TRUTH_S, precision=0.0).latencies([plain, more])
        true_ratio = other.p50_ms / one.p50_ms
        began = time.perf_counter()
        same: list[Comparison] = []
        different: list[Comparison] = []
        for number in range(tries):
            same.append(device.compare(plain, twin))
            # Which of them comes first must not matter.
            first, second = (plain, more) if number % 2 == 0 else (more, plain)
            different.append(device.compare(first, second))
        seconds = time.perf_counter() - began
    details = {
        "tries": tries,
        "p50_ms": {"40 layers": one.p50_ms, "42 layers": other.p50_ms},
        "true_ratio": true_ratio,
        "seconds_a_comparison": seconds / (2 * tries),
        "loads": sorted({len(found.a.loads) for found in same + different}),
        "load_average_before": load_before,
        "core_share": [found.a.environment.get("core_share") for found in same + different],
        "environment": one.environment,
    }
    alarms = 100 * float(np.mean([found.verdict != "cannot tell" for found in same]))
    write(
        "hardware-aa_false_alarms",
        goal=f"a file compared with its copy is called different in <= {MOST_ALARMS} % of {TRIES} tries",
        value=alarms,
        holds=alarms <= MOST_ALARMS if tries >= TRIES else None,
        ratios=[found.ratio for found in same],
        spread_percent=_spread(same),
        **details,
    )
    wanted = ["slower" if number % 2 == 0 else "faster" for number in range(tries)]
    found_percent = 100 * float(
        np.mean([f.verdict == want for f, want in zip(different, wanted, strict=True)])
    )
    about_5 = ABOUT_5[0] <= true_ratio <= ABOUT_5[1]
    write(
        "hardware-ab_found",
        goal=f"a true difference of 5 % is found, and its sign, in >= {LEAST_FOUND} % of {TRIES} tries",
        value=found_percent,
        holds=found_percent >= LEAST_FOUND and about_5 if tries >= TRIES else None,
        ratios=[
            f.ratio if want == "slower" else 1 / f.ratio for f, want in zip(different, wanted, strict=True)
        ],
        p_values=[found.p_value for found in different],
        **details,
    )


def _spread(found: list[Comparison]) -> float:
    """The standard deviation of the ratios, in percent."""
    return float(100 * np.std([math.log(one.ratio) for one in found], ddof=1))


if __name__ == "__main__":
    main()
