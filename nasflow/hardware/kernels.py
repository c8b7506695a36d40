"""A predictor that adds up kernels, each foretold from its sizes, and that measures where it errs while it learns.

After nn-Meter (Zhang et al., 2021, https://doi.org/10.1145/3458864.3467882). For each kind of kernel a forest says by
what factor kernels of some sizes are slower or faster than a straight line through work and bytes. Kernels to measure
are drawn from networks; of those that are measured a fifth is held out, and around each of them that is predicted more
than 10 % off, kernels of nearly its sizes are measured too: channels from half to 1.2 times as many.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from nasflow.hardware import probes, trees
from nasflow.hardware.fusion import UNFUSED, FusionRules, Kernel, kernels
from nasflow.hardware.graph import GraphError, operators
from nasflow.hardware.predictor import CannotPredict, Correction, Prediction
from nasflow.hardware.table import key, parsed
from nasflow.hardware.trees import Forest

Floats = NDArray[np.float64]
Measure = Callable[[Sequence[str]], Mapping[str, float]]
"""Milliseconds of kernels by their keys; those that could not be measured are left out."""

ROUNDS = 3
HELD = 5  # one in this many measured kernels is held out
BAD = 0.1  # error, as a share, beyond which kernels of nearly these sizes are measured
NEIGHBOURS = 20  # of each
CHANNELS = (0.5, 1.2)  # times as many
LEAST_MS = 1e-5  # ten nanoseconds; a kernel that seems to take less is too short to tell
TREES = 32
AMOUNTS = ("macs", "bytes", "bytes_weights")
MIXING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}  # as many channels out as one likes


@dataclass(frozen=True)
class Kind:
    """What kernels of one kind take: a straight line in one, and in millions of multiply-adds, bytes and bytes of
    weights, times what the `forest` says to their sizes (in logarithms)."""

    line: tuple[float, ...]
    forest: Forest

    def __call__(self, known: Sequence[Kernel]) -> tuple[Floats, Floats]:
        """Milliseconds of kernels, and the standard deviation of each error."""
        off, deviation = self.forest(np.array([_sizes(one, self.forest.columns) for one in known]))
        ms = np.array([_amounts(one) for one in known]) @ np.array(self.line) * np.exp(off)
        return ms, ms * deviation

    def to_json(self) -> dict[str, Any]:
        return {"line": list(self.line), "forest": self.forest.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Kind:
        line = tuple(map(float, value["line"]))
        if len(line) != 1 + len(AMOUNTS) or not all(0 <= one < math.inf for one in line) or not any(line):
            raise ValueError("expected a line: four finite numbers of at least 0, and one above")
        return cls(line, Forest.from_json(value["forest"]))


@dataclass(frozen=True)
class Kernels:
    """The sum of kernels, foretold by their kinds, and of what a call costs besides."""

    kinds: Mapping[str, Kind]
    call_ms: float
    rules: FusionRules = UNFUSED
    batch: int = 1
    correction: Correction = field(default_factory=Correction)

    @property
    def kind(self) -> str:
        return "kernels"

    def predict(self, files: Sequence[Path]) -> list[Prediction]:
        return [self.correction(self._sum(file)) for file in files]

    def refitted(self, measured: Sequence[tuple[Path, float]]) -> Kernels:
        if not measured:
            return self
        now = [one.p50_ms for one in self.predict([file for file, _ in measured])]
        return replace(self, correction=Correction.of(now, [ms for _, ms in measured]).after(self.correction))

    def _sum(self, file: Path) -> Prediction:
        try:
            found = kernels(operators(file, self.batch), self.rules)
        except GraphError as error:
            raise CannotPredict(str(error)) from error
        times, variances = np.zeros(len(found)), np.zeros(len(found))
        for name in {kernel.kind for kernel in found}:
            if name not in self.kinds:
                raise CannotPredict(
                    f"{file}: no kernel {name!r} was measured, only {', '.join(sorted(self.kinds))};"
                    " build the predictor on networks of the kind that it is asked about"
                )
            at = [i for i, kernel in enumerate(found) if kernel.kind == name]
            times[at], deviations = self.kinds[name]([found[i] for i in at])
            variances[at] = deviations**2
        p50_ms = self.call_ms + float(times.sum())
        parts = tuple((kernel.name, float(ms)) for kernel, ms in zip(found, times, strict=True))
        return Prediction(p50_ms, math.sqrt(float(variances.sum())), parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "kinds": {name: one.to_json() for name, one in self.kinds.items()},
            "call_ms": self.call_ms,
            "rules": self.rules.to_json(),
            "batch": self.batch,
            "correction": self.correction.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Kernels:
        """The opposite of `to_json`. ValueError, KeyError or TypeError where `value` is not that."""
        call_ms = float(value["call_ms"])
        if not 0 < call_ms < math.inf:
            raise ValueError("expected call_ms above 0")
        return cls(
            {str(name): Kind.from_json(one) for name, one in value["kinds"].items()},
            call_ms,
            FusionRules.from_json(value["rules"]),
            int(value["batch"]),
            Correction.from_json(value["correction"]),
        )


def fit(
    measured: Mapping[str, float], call_ms: float, rules: FusionRules = UNFUSED, *, batch: int = 1
) -> Kernels:
    """The predictor of kernels that were measured (milliseconds, by key). Raises ValueError without any."""
    if not measured:
        raise ValueError("expected kernels that were measured, got none")
    return Kernels(_kinds(measured), call_ms, rules, batch)


def sample(
    prior: Sequence[str],
    measure: Measure,
    *,
    rounds: int = ROUNDS,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
) -> dict[str, float]:
    """Milliseconds of the kernels of `prior` and, round by round, of others near those that are predicted badly."""
    draw = np.random.default_rng(seed)
    measured = dict(measure(prior))
    for _ in range(rounds):
        bad = badly_predicted(measured, draw)
        near = [one for name in bad for one in (neighbour(name, draw) for _ in range(neighbours))]
        new = [name for name in dict.fromkeys(near) if name not in measured]
        if not new:
            break
        measured |= measure(new)
    return measured


def badly_predicted(measured: Mapping[str, float], draw: np.random.Generator) -> list[str]:
    """Kernels out of a fifth held out that the others predict more than 10 % off."""
    order = [str(name) for name in draw.permutation(sorted(measured))]
    held, shown = order[::HELD], {name: measured[name] for name in order if name not in set(order[::HELD])}
    kinds = _kinds(shown) if shown else {}
    bad = []
    for name in held:
        kernel = sized(name)
        if kernel.kind in kinds:
            told = float(kinds[kernel.kind]([kernel])[0][0])
            if abs(told / max(measured[name], LEAST_MS) - 1) > BAD:
                bad.append(name)
    return bad


def neighbour(name: str, draw: np.random.Generator) -> str:
    """The key of a kernel with other numbers of channels."""
    kind, features = parsed(name)
    first = kind.partition("+")[0].partition("(")[0]
    groups = int(features.get("groups", 1))
    factors = draw.uniform(*CHANNELS, size=2)
    entering = int(features.get("channels_in", 1))
    scaled = max(1, round(entering * factors[0]))
    if first in MIXING and groups == 1:
        leaving = max(1, round(int(features.get("channels_out", entering)) * factors[1]))
        return key(kind, features | {"channels_in": float(scaled), "channels_out": float(leaving)})
    if first == "GroupedConv":
        scaled = max(1, round(scaled / groups)) * groups
    elif first == "DepthwiseConv":
        features["groups"] = float(scaled)
    if features.get("channels_out", entering) != entering:
        return name  # such as a Concat, whose channels follow from each other
    return key(kind, features | {"channels_in": float(scaled), "channels_out": float(scaled)})


@functools.lru_cache(maxsize=65536)
def sized(name: str) -> Kernel:
    """The kernel of a key with its work and bytes, as its probe file has them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe.onnx"
        file.write_bytes(probes.probe(*parsed(name)))
        return Kernel(tuple(operators(file, int(parsed(name)[1].get("batch", 1)))))


def _kinds(measured: Mapping[str, float]) -> dict[str, Kind]:
    found: dict[str, list[tuple[Kernel, float]]] = {}
    for name, ms in measured.items():
        found.setdefault(parsed(name)[0], []).append((sized(name), max(ms, LEAST_MS)))
    return {
        kind: _kind([one for one, _ in many], [ms for _, ms in many]) for kind, many in sorted(found.items())
    }


def _kind(known: Sequence[Kernel], ms: Sequence[float]) -> Kind:
    times = np.array(ms)
    amounts = np.array([_amounts(one) for one in known])
    line, _ = nnls(amounts / times[:, None], np.ones(len(times)))  # the least error as a share of the time
    if not line.any():
        line[0] = float(np.median(times))
    names = (*sorted({name for one in known for name in one.features}), *AMOUNTS)
    x = np.array([_sizes(one, names) for one in known])
    forest = trees.fit(x, np.log(times / (amounts @ line)), names, trees=TREES)
    return Kind(tuple(map(float, line)), forest)


def _amounts(kernel: Kernel) -> Floats:
    """One, and millions of multiply-adds, of bytes that move and of bytes of weights."""
    moved = kernel.bytes_in + kernel.bytes_out
    return np.array([1.0, kernel.macs / 1e6, moved / 1e6, kernel.bytes_weights / 1e6])


def _sizes(kernel: Kernel, names: Sequence[str]) -> Floats:
    """The features of a kernel, its work and its bytes, by name; 0 for what it does not have."""
    told = {**kernel.features, **dict(zip(AMOUNTS, _amounts(kernel)[1:], strict=True))}
    return np.array([told.get(name, 0.0) for name in names])
