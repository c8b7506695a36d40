"""Do both forms of `nasflow profile --json` write what programs need, and is it what was measured?

    python benchmarks/hardware_json.py

Runs the two commands as a person would, on networks made here, and looks into what they wrote.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _results import write
from torch import nn

from nasflow.export import to_onnx

KEYS = ("p50_ms", "p90_ms", "interval", "samples", "environment", "verdict")
VERDICTS = {"one": ("steady", "too noisy"), "two": ("faster", "slower", "cannot tell")}


def profiled(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """What the command wrote."""
    nasflow = str(Path(sys.executable).with_name("nasflow"))
    command = [nasflow, "profile", "local-cpu", *arguments, "--json", f"{name}.json"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    told: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return told


def wrong(name: str, told: dict[str, Any]) -> list[str]:
    """What is missing or contradicts itself."""
    found = [f"{name}: no {key}" for key in KEYS if not told.get(key)]
    if told["verdict"] not in VERDICTS[name]:
        found.append(f"{name}: verdict {told['verdict']!r}")
    ones = [told] if name == "one" else [{key: told[key][one] for key in KEYS[:4]} for one in ("a", "b")]
    for one in ones:
        low, high = one["interval"]
        if not low <= one["p50_ms"] <= high or not 0 < one["p50_ms"] <= one["p90_ms"]:
            found.append(f"{name}: p50 {one['p50_ms']} outside its interval {low} to {high} or above its p90")
        if sorted(one["samples"])[len(one["samples"]) // 2] > 1.05 * one["p50_ms"]:
            found.append(f"{name}: the samples have another median")
    return found


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, layers in (("a.onnx", 8), ("b.onnx", 16)):
            body = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(layers)]
            to_onnx(nn.Sequential(*body), (16, 14, 14), folder / file)
        one = profiled(folder, "one", "a.onnx")
        two = profiled(folder, "two", "--compare", "a.onnx", "b.onnx")
    faults = wrong("one", one) + wrong("two", two)
    write(
        "hardware-json",
        goal=f"{', '.join(KEYS)} are written by both forms, and fit: faults found",
        value=len(faults),
        holds=not faults,
        faults=faults,
        verdicts={"one": one["verdict"], "two": two["verdict"]},
        environment=one["environment"],
    )


if __name__ == "__main__":
    main()
