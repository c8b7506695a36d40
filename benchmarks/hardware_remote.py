"""Does a measurement through ssh say what a local one says, and what does the way cost?

    python benchmarks/hardware_remote.py

Measures a small network through ssh on the loopback and locally, in turns, and compares each pair; takes a minute.
Every pair meets the same machine, so the median of the ratios is what the way itself changes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from _results import write

from nasflow.hardware import load_profile
from nasflow.hardware.device import Measured, reference_network
from nasflow.hardware.transport import Here, Ssh
from nasflow.testing import loopback

PAIRS, FILES = 10, 4
MOST_APART, MOST_OVERHEAD_S = 5.0, 2.0  # percent; seconds a model


def main() -> None:
    kind = next(kind for kind, why in loopback.servers().items() if not why)
    profile = load_profile("local-cpu")
    with tempfile.TemporaryDirectory() as folder, loopback.serving(kind, Path(folder) / "board") as board:
        files = [Path(folder) / f"{number}.onnx" for number in range(FILES)]
        for file in files:
            file.write_bytes(reference_network())
        ways = {"local": Here(), "ssh": Ssh(board.host, config=board.config)}
        devices = {
            name: Measured(profile, way, budget_s=0.3, precision=0.01, energy=False)
            for name, way in ways.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        p50_ms: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(PAIRS):
            for name in sorted(devices, reverse=turn % 2 == 1):
                start = time.perf_counter()
                told = devices[name].latencies(files)
                spent = time.perf_counter() - start - told[0].environment["seconds"]
                seconds[name].append(spent / FILES)
                p50_ms[name].append(float(np.median([one.p50_ms for one in told])))
    logs = np.log(np.array(p50_ms["ssh"]) / np.array(p50_ms["local"]))
    apart = 100 * abs(float(np.expm1(np.median(logs))))
    write(
        "hardware-remote",
        goal=f"p50 through ssh on the loopback within {MOST_APART:.0f} % of the local one (median of {PAIRS} pairs in"
        f" turns), and less than {MOST_OVERHEAD_S:.0f} s a model on top of the timing",
        value=apart,
        holds=apart <= MOST_APART and float(np.median(seconds["ssh"])) < MOST_OVERHEAD_S,
        server=kind,
        p50_ms=p50_ms,
        overhead_s_a_model=seconds,
    )


if __name__ == "__main__":
    main()
