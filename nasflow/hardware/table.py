"""A lookup table: every kernel is measured once, and a network takes as long as its kernels together.

That a network does is an assumption, which `additivity` checks on whole networks: caches, layouts that are changed
between kernels and branches that run side by side break it. The tables of once-for-all and ProxylessNAS (Cai et al.,
arXiv:1908.09791, arXiv:1812.00332) are of this kind; kernels instead of operators are nn-Meter's idea.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nasflow.hardware import probes
from nasflow.hardware.device import Device
from nasflow.hardware.fusion import UNFUSED, FusionRules, Kernel, kernels
from nasflow.hardware.graph import GraphError, operators
from nasflow.hardware.predictor import CannotPredict, Correction, Prediction

ADDITIVE = 0.05  # mean error, as a share, up to which a device's times are called additive
DEVIATION = 0.1  # expected of a sum of kernels before any network was measured, as a share


@dataclass(frozen=True)
class Table:
    """Milliseconds of kernels by their keys, on one device. `call_ms` is what any call costs besides its kernels."""

    device: str
    kernels: Mapping[str, float]
    call_ms: float
    rules: FusionRules = UNFUSED
    batch: int = 1
    correction: Correction = field(default_factory=Correction)

    def __post_init__(self) -> None:
        times = [*self.kernels.values(), self.call_ms]
        if not all(math.isfinite(ms) and ms >= 0 for ms in times) or self.call_ms == 0:
            raise ValueError("expected times of at least 0 ms, and of a call above 0")

    @property
    def kind(self) -> str:
        return "table"

    def predict(self, files: Sequence[Path]) -> list[Prediction]:
        """Raises CannotPredict, naming the first kernel that was not measured."""
        return [self.correction(self._sum(file)) for file in files]

    def refitted(self, measured: Sequence[tuple[Path, float]]) -> Table:
        if not measured:
            return self
        now = [one.p50_ms for one in self.predict([file for file, _ in measured])]
        correction = Correction.of(now, [ms for _, ms in measured]).after(self.correction)
        return replace(self, correction=correction)

    def missing(self, files: Sequence[Path]) -> list[str]:
        """Keys of the kernels of `files` that were not measured, those that occur most often first."""
        return wanted(files, self.rules, self.batch, known=self.kernels)

    def extended(self, kernels: Mapping[str, float]) -> Table:
        """The table with more kernels measured."""
        return replace(self, kernels={**self.kernels, **kernels})

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "kernels": dict(self.kernels),
            "call_ms": self.call_ms,
            "rules": self.rules.to_json(),
            "batch": self.batch,
            "correction": self.correction.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Table:
        """The opposite of `to_json`. ValueError, KeyError or TypeError where `value` is not that."""
        return cls(
            str(value["device"]),
            {str(key): float(ms) for key, ms in value["kernels"].items()},
            float(value["call_ms"]),
            FusionRules.from_json(value["rules"]),
            int(value["batch"]),
            Correction.from_json(value["correction"]),
        )

    def _sum(self, file: Path) -> Prediction:
        parts = []
        for kernel in _kernels(file, self.rules, self.batch):
            name = key(kernel.kind, kernel.features)
            if name not in self.kernels:
                raise CannotPredict(
                    f"{file}: the table of {self.device} has no kernel {name!r}; measure it:"
                    f" nasflow profile {self.device} --build table"
                )
            parts.append((kernel.name, self.kernels[name]))
        p50_ms = self.call_ms + math.fsum(ms for _, ms in parts)
        return Prediction(p50_ms, DEVIATION * p50_ms, tuple(parts))


def key(kind: str, features: Mapping[str, float]) -> str:
    """A kernel's name in the table, from which it can be measured.

    >>> key("Conv+Relu", {"channels_in": 16.0, "batch": 1.0})
    'Conv+Relu batch=1 channels_in=16'
    """
    return " ".join([kind, *(f"{name}={value:g}" for name, value in sorted(features.items()))])


def parsed(text: str) -> tuple[str, dict[str, float]]:
    """The kind and features that a key names. Raises ValueError.

    >>> parsed("Conv+Relu batch=1 channels_in=16")
    ('Conv+Relu', {'batch': 1.0, 'channels_in': 16.0})
    """
    kind, *features = text.split(" ")
    pairs = (one.partition("=") for one in features)
    return kind, {name: float(value) for name, _, value in pairs}


def wanted(
    files: Sequence[Path], rules: FusionRules, batch: int = 1, known: Collection[str] = ()
) -> list[str]:
    """Keys of the kernels that occur in `files`, those that occur most often first. Raises CannotPredict."""
    counts = Counter(
        key(kernel.kind, kernel.features) for file in files for kernel in _kernels(file, rules, batch)
    )
    return [name for name, _ in counts.most_common() if name not in known]


class Entries(NamedTuple):
    """Milliseconds of kernels by their keys, and of a call with none; those of a machine too noisy to tell."""

    ms: dict[str, float]
    call_ms: float
    unsure: set[str]


def measured(device: Device, keys: Sequence[str], *, inside: bool = True) -> Entries:
    """What each kernel takes; see `probes.kernel_ms`."""
    told = probes.kernel_ms(device, [parsed(name) for name in keys], inside=inside)
    return Entries(dict(zip(keys, told.ms, strict=True)), told.call_ms, {keys[i] for i in told.unsure})


def build(
    device: Device,
    files: Sequence[Path],
    rules: FusionRules = UNFUSED,
    *,
    batch: int = 1,
    inside: bool = True,
) -> Table:
    """The table of all kernels of `files`."""
    told = measured(device, wanted(files, rules, batch), inside=inside)
    return Table(device.name, told.ms, told.call_ms, rules, batch)


@dataclass(frozen=True)
class Additivity:
    """How well whole networks are the sum of their kernels: T = intercept + sum.

    `intercept_ms` is the median of what is left when the sum is taken from the measured time. `r2` is the share of
    the variance of times that sum and intercept explain, `mape` the mean error as a share of what was measured.
    """

    intercept_ms: float
    r2: float
    mape: float
    count: int

    @property
    def holds(self) -> bool:
        return self.mape <= ADDITIVE


def additivity(table: Table, measured: Sequence[tuple[Path, float]]) -> Additivity:
    """Check a table on whole networks that were measured (milliseconds). Raises ValueError for fewer than three."""
    if len(measured) < 3:
        raise ValueError(f"expected at least three measured networks to tell, got {len(measured)}")
    raw = replace(table, correction=Correction())
    sums = np.array([one.p50_ms - raw.call_ms for one in raw.predict([file for file, _ in measured])])
    times = np.array([ms for _, ms in measured])
    intercept = float(np.median(times - sums))
    left = times - sums - intercept
    spread = float(((times - times.mean()) ** 2).sum())
    r2 = 1 - float((left**2).sum()) / spread if spread else 0.0
    return Additivity(intercept, r2, float(np.abs(left / times).mean()), len(times))


def _kernels(file: Path, rules: FusionRules, batch: int) -> list[Kernel]:
    try:
        return kernels(operators(file, batch), rules)
    except GraphError as error:
        raise CannotPredict(str(error)) from error
