"""The roofline: no kernel is faster than its multiply-adds at the device's best rate, nor than its bytes at the best
bandwidth (Williams, Waterman and Patterson, 2009, https://doi.org/10.1145/1498765.1498785).

Both rates are measured with probe files through the device's own runtime, so this works on any board and needs some
seconds. The answer is a bound from below, not an estimate: overheads of kernels, cache misses and bad shapes come on
top.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nasflow.hardware import probes
from nasflow.hardware.device import Device
from nasflow.hardware.floor import floor_ms
from nasflow.hardware.fusion import UNFUSED, FusionRules, Kernel, kernels
from nasflow.hardware.graph import GraphError, operators
from nasflow.hardware.predictor import CannotPredict, Correction, Prediction

# Floats in each of three arrays, 96 MiB in all: beyond the last cache of what runs small networks. Larger ones take
# long to draw and to load again and again on a busy machine. Where a cache holds them, the bound is but lower.
STREAM = 2**23
NEAR = (2**13, 2**15)  # floats in arrays that stay in a core's own caches
DEVIATION = 1.0  # of a bound, as a share: how far above it the truth lies is not known


@dataclass(frozen=True)
class Roofline:
    """Rates of a device: `gmacs`, 10^9 multiply-adds of 32-bit floats a second; 10^9 bytes a second to memory
    (`memory_gbs`) and to the fastest caches (`cache_gbs`); `call_ms` is what a call costs that computes nothing.

    Data that fit into `STREAM` arrays may come from a cache, so `cache_gbs` bounds them. Refitted on measurements it
    is an estimate and no bound any more.
    """

    gmacs: float
    memory_gbs: float
    cache_gbs: float
    call_ms: float
    rules: FusionRules = UNFUSED
    batch: int = 1
    correction: Correction = field(default_factory=Correction)

    def __post_init__(self) -> None:
        rates = (self.gmacs, self.memory_gbs, self.cache_gbs, self.call_ms)
        if not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise ValueError(f"expected rates above 0, got {rates}")

    @property
    def kind(self) -> str:
        return "roofline"

    @property
    def ridge(self) -> float:
        """Multiply-adds per byte of memory from which on work bounds a kernel, and no longer its bytes.

        >>> Roofline(gmacs=100, memory_gbs=20, cache_gbs=200, call_ms=0.01).ridge
        5.0
        """
        return self.gmacs / self.memory_gbs

    def attainable(self, macs_per_byte: float) -> float:
        """The best rate, in 10^9 multiply-adds a second, of work that does so many per byte of memory."""
        return min(self.gmacs, self.memory_gbs * macs_per_byte)

    def kernel_ms(self, kernel: Kernel) -> float:
        """Milliseconds that a kernel takes at least."""
        moved = kernel.bytes_in + kernel.bytes_out + kernel.bytes_weights
        bandwidth = self.memory_gbs if moved >= 3 * 4 * STREAM else max(self.cache_gbs, self.memory_gbs)
        return max(kernel.macs / self.gmacs, moved / bandwidth) / 1e6

    def bound_ms(self, file: Path) -> float:
        """Milliseconds that a call of a file takes at least."""
        return self._bound(file).p50_ms

    def predict(self, files: Sequence[Path]) -> list[Prediction]:
        """The bound, until it is refitted."""
        return [self.correction(self._bound(file)) for file in files]

    def refitted(self, measured: Sequence[tuple[Path, float]]) -> Roofline:
        if not measured:
            return self
        now = [one.p50_ms for one in self.predict([file for file, _ in measured])]
        correction = Correction.of(now, [ms for _, ms in measured]).after(self.correction)
        return replace(self, correction=correction)

    def to_json(self) -> dict[str, Any]:
        return {
            "gmacs": self.gmacs,
            "memory_gbs": self.memory_gbs,
            "cache_gbs": self.cache_gbs,
            "call_ms": self.call_ms,
            "rules": self.rules.to_json(),
            "batch": self.batch,
            "correction": self.correction.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Roofline:
        """The opposite of `to_json`. ValueError, KeyError or TypeError where `value` is not that."""
        gmacs, memory, cache, call = (
            float(value[name]) for name in ("gmacs", "memory_gbs", "cache_gbs", "call_ms")
        )
        rules, correction = FusionRules.from_json(value["rules"]), Correction.from_json(value["correction"])
        return cls(gmacs, memory, cache, call, rules, int(value["batch"]), correction)

    def _bound(self, file: Path) -> Prediction:
        try:
            found = kernels(operators(file, self.batch), self.rules)
        except GraphError as error:
            raise CannotPredict(str(error)) from error
        parts = tuple((kernel.name, self.kernel_ms(kernel)) for kernel in found)
        p50_ms = self.call_ms + math.fsum(ms for _, ms in parts)
        # What the correction learned replaces the guess.
        return Prediction(p50_ms, 0.0 if self.correction.deviation else DEVIATION * p50_ms, parts)


def measured(device: Device, rules: FusionRules = UNFUSED, *, batch: int = 1) -> Roofline:
    """The roofline of a device, by five small files. Raises DeviceError or Unavailable.

    The best rate of work is that of a large matrix product or of a 3x3 convolution, whichever is higher; bandwidths are
    those of adding two arrays, within caches by how much longer larger ones take.
    """
    product = {"batch": 512.0, "channels_in": 1024.0, "channels_out": 512.0}
    convolution = {"height": 56.0, "channels_in": 128.0, "channels_out": 128.0}
    work = [("Gemm", product), ("Conv", convolution)]
    # Maps of one row, so that an array is as long as it is said to be.
    moves = [{"channels_in": 1.0, "height": 1.0, "width": float(n), "inputs": 2.0} for n in (*NEAR, STREAM)]
    kinds = [*work, *(("Add", sizes) for sizes in moves)]
    contents = [probes.nothing(), *(probes.probe(kind, sizes) for kind, sizes in kinds)]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"probe{number}.onnx" for number in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        # The largest alone, or it would empty the caches of all others.
        times = [floor_ms(one) for one in device.latencies(files[:-1])]
        stream_ms = floor_ms(device.latency(files[-1]))
        macs = [sum(one.macs for one in operators(file)) for file in files]
    call_ms, product_ms, convolution_ms, small_ms, large_ms = times
    # By differences, so that the constant of a call is out; where noise makes one senseless, by the whole time.
    near_bytes, near_ms = 3 * 4 * (NEAR[1] - NEAR[0]), large_ms - small_ms
    if near_ms <= 0:
        near_bytes, near_ms = 3 * 4 * NEAR[1], large_ms
    memory = 3 * 4 * STREAM / max(stream_ms - call_ms, 0.5 * stream_ms) / 1e6
    return Roofline(
        gmacs=max(
            count / max(ms - call_ms, 0.5 * ms) / 1e6
            for count, ms in zip(macs[1:3], (product_ms, convolution_ms), strict=True)
        ),
        memory_gbs=memory,
        cache_gbs=max(memory, near_bytes / near_ms / 1e6),
        call_ms=call_ms,
        rules=rules,
        batch=batch,
    )
