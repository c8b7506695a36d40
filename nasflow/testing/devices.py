"""Devices whose latency is a formula of the file's operators, so that what is foretold of them can be checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nasflow.hardware import Comparison, Latency, Profile, Reach, timing
from nasflow.hardware.device import Follow
from nasflow.hardware.fusion import UNFUSED, FusionRules, Kernel, kernels
from nasflow.hardware.graph import operators

REFERENCE_MS = 0.05

Formula = Callable[[Kernel], float]
"""Milliseconds of a kernel."""

# What processors with vector units commonly run together with a convolution.
FUSING = FusionRules(
    frozenset(
        (first, second)
        for first in ("Conv", "DepthwiseConv", "GroupedConv", "Gemm")
        for second in ("Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid")
    )
)


@dataclass(frozen=True)
class Speeds:
    """A formula: a kernel takes its multiply-adds over `gmacs` (10^9 a second) plus its bytes over `gbytes`
    (10^9 a second), plus `start_us` microseconds."""

    gmacs: float = 10.0
    gbytes: float = 20.0
    start_us: float = 1.0

    def __call__(self, kernel: Kernel) -> float:
        moved = kernel.bytes_in + kernel.bytes_out + kernel.bytes_weights
        return kernel.macs / self.gmacs / 1e6 + moved / self.gbytes / 1e6 + self.start_us / 1e3


@dataclass(frozen=True)
class Staircase:
    """A formula: as `speeds`, but channels that come out are computed `step` at a time, whether needed or not."""

    step: int = 8
    speeds: Speeds = field(default_factory=Speeds)

    def __call__(self, kernel: Kernel) -> float:
        channels = kernel.features["channels_out"]
        return self.speeds(kernel) * self.step * math.ceil(channels / self.step) / channels


@dataclass
class Simulated:
    """A device that computes the latency of a file: `call_ms`, and for each of its kernels what `formula` says.

    Its kernels are what `rules` group, so without rules it is additive in the operators. Measurements are off by
    `noise` (a standard deviation, as a share), the same one every time for the same seed and order of questions.
    `asked` counts the files that were measured.
    """

    formula: Formula = field(default_factory=Speeds)
    rules: FusionRules = UNFUSED
    call_ms: float = 0.005
    noise: float = 0.0
    seed: int = 0
    name: str = "simulated"
    environment: Mapping[str, Any] = field(default_factory=lambda: {"runtime": "simulated 1.0", "threads": 1})
    asked: int = 0
    _draws: np.random.Generator = field(init=False, repr=False)
    _exact: Latency | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._draws = np.random.default_rng(self.seed)

    @property
    def profile(self) -> Profile:
        return Profile(name=self.name, description="a formula", reach=Reach(backend="none"))

    def check(self) -> None:
        """It always answers."""

    def true_ms(self, file: Path) -> float:
        """The latency without noise."""
        return self.call_ms + sum(map(self.formula, kernels(operators(file), self.rules)))

    def latency(self, file: Path) -> Latency:
        return self.latencies([file])[0]

    def latencies(self, files: Sequence[Path], watch: Callable[[Any], None] | None = None) -> list[Latency]:
        """Nobody watches a formula being computed: `watch` is not called."""
        self.asked += len(files)
        return [self._latency(self.true_ms(file)) for file in files]

    def compare(self, a: Path, b: Path, watch: Follow | None = None) -> Comparison:
        samples = [self._samples(self.true_ms(file), loads=8) for file in (a, b)]
        of_a, of_b = (timing.latency(one, samples[0], self._environment) for one in samples)
        return timing.compare(samples[0], samples[1], of_a, of_b)

    def _latency(self, ms: float) -> Latency:
        if self.noise:
            return timing.latency(self._samples(ms, 3), self._samples(REFERENCE_MS, 3), self._environment)
        if self._exact is None:
            self._exact = timing.latency(
                self._samples(REFERENCE_MS, 3), self._samples(REFERENCE_MS, 3), self._environment
            )
        return replace(
            self._exact,
            p50_ms=ms,
            p90_ms=ms,
            p99_ms=ms,
            ci=(ms, ms),
            samples_ms=(ms,) * sum(self._exact.loads),
        )

    def _samples(self, ms: float, loads: int) -> list[list[list[int]]]:
        drawn = np.exp(self.noise * self._draws.standard_normal((loads, 4, 3)))
        return np.maximum(1, np.rint(1e6 * ms * drawn)).astype(int).tolist()  # type: ignore[no-any-return]

    @property
    def _environment(self) -> dict[str, Any]:
        return {"date": "2026-01-01T00:00:00Z", **self.environment}
