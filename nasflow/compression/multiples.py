"""Which multiples of channels a device likes, found by measuring: runtimes compute channels in blocks, and a layer
with one channel more than a full block takes as long as the next full one.

A step pays if networks whose channels are its multiples are faster, for each channel, than those in between.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasflow.export import to_onnx
from nasflow.hardware import Device

STEPS = (4, 8, 16, 32)
BASE = 64  # channels; more steps than one fit below it
SIDE = 16  # pixels of the inputs
LAYERS = 3
WORTH = 0.05  # of the time, that a full block has to save for each channel beside a block just begun


@dataclass(frozen=True)
class Multiples:
    """The step that pays on a device, and what was measured for it: channels -> milliseconds."""

    step: int
    times_ms: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "times_ms": {str(count): ms for count, ms in self.times_ms.items()}}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Multiples:
        return cls(int(said["step"]), {int(count): float(ms) for count, ms in said["times_ms"].items()})


def measure(device: Device) -> Multiples:
    """Measure small convolutional networks with full blocks of channels and with half-filled ones, in turns."""
    counts = sorted({count for step in STEPS for count in (BASE, BASE - step, BASE - step // 2)})
    with tempfile.TemporaryDirectory(prefix="nasflow-multiples-") as folder:
        files = [_write(count, Path(folder) / f"{count}.onnx") for count in counts]
        times = [one.p50_ms for one in device.latencies(files)]
    known = dict(zip(counts, times, strict=True))
    return Multiples(step(known), known)


def step(times: Mapping[int, float], steps: Sequence[int] = STEPS, base: int = BASE) -> int:
    """The largest step whose half-filled block takes about as long as the full one; the smallest if none does.

    Between `base - step` and `base` channels time may grow evenly, as it does where blocks are smaller than the step,
    or all at once. It grew at once if the network half-way between is nearer to the slower end than the even growth
    would have it, by a share WORTH of the slower end's time.

    >>> blocks = {60: 4.0, 62: 4.0, 56: 3.5, 64: 4.0, 48: 3.0, 32: 2.0}  # of eight: 60 costs what 64 does, 56 less
    >>> step(blocks, (4, 8, 16, 32))
    8
    """
    found = min(steps)
    for one in sorted(steps):
        low, middle, high = times[base - one], times[base - one // 2], times[base]
        if middle - (low + high) / 2 > WORTH * high:
            found = one
    return found


def _write(channels: int, file: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for _ in range(LAYERS):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))
        to_onnx(nn.Sequential(*layers, head), (channels, SIDE, SIDE), file)
    return file
