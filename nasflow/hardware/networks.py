"""A predictor that learns from whole networks that were measured what their kernels take in them.

A network's time is taken as the sum over its kernels of a function of their sizes, plus a constant of each call. That
function is, for each kind of kernel, a weighted sum of: one, the multiply-adds, the bytes that move, the bytes of
weights, and how near it lies to some typical kernels. So a network is a row of sums over its kernels, and the weights
come from ridge regression on measured networks, each counted by its error as a share of its time.

The regression is repeated on networks drawn with replacement (bagging; Breiman, Machine Learning 24, 1996). The
spread of the members tells how sure a prediction is, and the networks that a member was not shown how strong the
ridge has to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasflow.hardware.fusion import FusionRules, Kernel, kernels
from nasflow.hardware.graph import GraphError, operators
from nasflow.hardware.predictor import CannotPredict, Correction, Prediction
from nasflow.hardware.trees import calibrated

Floats = NDArray[np.float64]

MEMBERS = 24
TYPICAL = 12  # kernels of a kind, at most, that others are compared with
NEAR = 1.5  # doublings of sizes over which kernels are alike
APART = 0.5  # doublings between two typical kernels, at least
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
LEAST = 0.5  # of the shortest time that was measured; no prediction is shorter


@dataclass(frozen=True)
class Basis:
    """How kernels become numbers: `typical` are, for each kind, sizes (kernels, names) by the `names` of features."""

    names: Mapping[str, tuple[str, ...]]
    typical: Mapping[str, Floats]

    @classmethod
    def of(cls, networks: Sequence[Sequence[Kernel]]) -> Basis:
        """The kinds that occur in `networks`, each with kernels that lie as far apart as there are."""
        found: dict[str, list[Kernel]] = {}
        for network in networks:
            for kernel in network:
                found.setdefault(kernel.kind, []).append(kernel)
        names = {
            kind: tuple(sorted({name for one in many for name in one.features}))
            for kind, many in sorted(found.items())
        }
        sizes = {kind: np.array([_sizes(one, names[kind]) for one in found[kind]]) for kind in names}
        return cls(names, {kind: _spread_out(np.unique(many, axis=0)) for kind, many in sizes.items()})

    def __call__(self, network: Sequence[Kernel]) -> Floats:
        """The row of a network: a constant, then the sums over its kernels. Raises CannotPredict for other kinds."""
        sums = {kind: np.zeros(4 + len(typical)) for kind, typical in self.typical.items()}
        for kernel in network:
            if kernel.kind not in sums:
                raise CannotPredict(
                    f"no network with a kernel {kernel.kind!r} was measured, only with {', '.join(self.names)};"
                    " build the predictor on networks of the kind that it is asked about"
                )
            amounts = _amounts(kernel)
            away = self.typical[kernel.kind] - _sizes(kernel, self.names[kernel.kind])
            near = np.exp(-(away**2).sum(axis=1) / (2 * NEAR**2))
            sums[kernel.kind] += np.concatenate([amounts, near * amounts.sum()])
        return np.concatenate([[1.0], *sums.values()])

    def to_json(self) -> dict[str, Any]:
        return {
            kind: {"names": list(self.names[kind]), "typical": self.typical[kind].tolist()}
            for kind in self.names
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Basis:
        names = {str(kind): tuple(map(str, one["names"])) for kind, one in value.items()}
        typical = {kind: np.asarray(one["typical"], dtype=np.float64) for kind, one in value.items()}
        for kind, sizes in typical.items():
            if sizes.ndim != 2 or sizes.shape[1] != len(names[kind]) or not np.isfinite(sizes).all():
                raise ValueError(
                    f"expected sizes of typical kernels {kind}: {len(names[kind])} finite numbers each"
                )
        return cls(names, typical)


@dataclass(frozen=True)
class Networks:
    """Predicts networks made of kinds of kernels that occur in the ones it was fitted on.

    `weights` (members, columns of the basis) are milliseconds. `scale` and `least` make the members' spread the
    deviation of an error, as a share; `floor_ms` is the shortest time that is believed.
    """

    basis: Basis
    weights: Floats
    scale: float
    least: float
    floor_ms: float
    rules: FusionRules
    batch: int = 1
    correction: Correction = field(default_factory=Correction)

    @property
    def kind(self) -> str:
        return "network"

    def predict(self, files: Sequence[Path]) -> list[Prediction]:
        return [self.correction(self._predict(file)) for file in files]

    def refitted(self, measured: Sequence[tuple[Path, float]]) -> Networks:
        if not measured:
            return self
        now = [one.p50_ms for one in self.predict([file for file, _ in measured])]
        return replace(self, correction=Correction.of(now, [ms for _, ms in measured]).after(self.correction))

    def _predict(self, file: Path) -> Prediction:
        answers = np.maximum(self.weights @ self.basis(_kernels(file, self.batch, self.rules)), self.floor_ms)
        p50_ms = float(answers.mean())
        share = max(self.scale * float(np.log(answers).std()), self.least)
        return Prediction(p50_ms, share * p50_ms)

    def to_json(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "rules": self.rules.to_json(),
            "basis": self.basis.to_json(),
            "weights": self.weights.tolist(),
            "scale": self.scale,
            "least": self.least,
            "floor_ms": self.floor_ms,
            "correction": self.correction.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Networks:
        """The opposite of `to_json`. ValueError, KeyError or TypeError where `value` is not that."""
        basis = Basis.from_json(value["basis"])
        weights = np.asarray(value["weights"], dtype=np.float64)
        scale, least, floor_ms = (float(value[name]) for name in ("scale", "least", "floor_ms"))
        columns = 1 + sum(4 + len(typical) for typical in basis.typical.values())
        if (
            weights.ndim != 2
            or not len(weights)
            or weights.shape[1] != columns
            or not np.isfinite(weights).all()
        ):
            raise ValueError(f"expected members of {columns} finite weights, got an array of {weights.shape}")
        if not (0 <= scale < math.inf and 0 < least < math.inf and 0 < floor_ms < math.inf):
            raise ValueError("expected a finite scale, and a least deviation and a shortest time above 0")
        rules, correction = FusionRules.from_json(value["rules"]), Correction.from_json(value["correction"])
        return cls(basis, weights, scale, least, floor_ms, rules, int(value["batch"]), correction)


def fit(
    networks: Sequence[Sequence[Kernel]],
    ms: Sequence[float],
    rules: FusionRules,
    *,
    batch: int = 1,
    seed: int = 0,
) -> Networks:
    """The predictor that fits the measured p50 of networks best. Raises ValueError without any."""
    times = np.asarray(ms, dtype=np.float64)
    if len(networks) != len(times) or not len(times):
        raise ValueError(f"expected as many networks as times, got {len(networks)} and {len(times)}")
    basis = Basis.of(networks)
    rows = np.array([basis(network) for network in networks])
    draws = np.random.default_rng(seed).integers(len(times), size=(MEMBERS, len(times)))
    unseen = np.array([~np.isin(np.arange(len(times)), draw) for draw in draws])
    floor_ms = LEAST * float(times.min())

    def tried(ridge: float) -> tuple[float, Floats, Floats]:
        """The error on networks not shown, the members' weights, and their answers in logarithms."""
        weights = np.array([_ridge(rows[draw], times[draw], ridge) for draw in draws])
        answers = np.log(np.maximum(weights @ rows.T, floor_ms))
        told = unseen.any(axis=0)
        if not told.any():
            return ridge, weights, answers
        mean = np.where(unseen, answers, 0.0).sum(axis=0)[told] / unseen.sum(axis=0)[told]
        return float(np.abs(mean - np.log(times[told])).mean()), weights, answers

    _, weights, answers = min((tried(ridge) for ridge in RIDGES), key=lambda one: one[0])
    scale, least = calibrated(answers, unseen, np.log(times))
    return Networks(basis, weights, scale, least, floor_ms, rules, batch)


def _kernels(file: Path, batch: int, rules: FusionRules) -> list[Kernel]:
    try:
        return kernels(operators(file, batch), rules)
    except GraphError as error:
        raise CannotPredict(str(error)) from error


def _ridge(rows: Floats, ms: Floats, ridge: float) -> Floats:
    """Weights with the least squared error as a share of the time, plus `ridge` per row times their own squares, as
    counted after every column was brought to the same size."""
    shares = rows / ms[:, None]
    size = np.sqrt((shares**2).mean(axis=0))
    size[size == 0] = 1.0  # a kind that none of these networks has
    shares = shares / size
    left = shares.T @ shares + ridge * np.eye(shares.shape[1])
    weights: Floats = np.linalg.solve(left, shares.sum(axis=0)) / size
    return weights


def _amounts(kernel: Kernel) -> Floats:
    """One, and the work and bytes of a kernel in units that make them about as large."""
    return np.array(
        [1.0, kernel.macs / 1e6, (kernel.bytes_in + kernel.bytes_out) / 1e5, kernel.bytes_weights / 1e5]
    )


def _sizes(kernel: Kernel, names: Sequence[str]) -> Floats:
    """The features of a kernel as doublings, so that alike means: nearly as large."""
    return np.array([math.log2(1 + max(0.0, kernel.features.get(name, 0.0))) for name in names])


def _spread_out(sizes: Floats) -> Floats:
    """At most TYPICAL of the rows: the first, then always the one that is farthest from all chosen."""
    chosen = [0]
    away = np.linalg.norm(sizes - sizes[0], axis=1)
    while len(chosen) < TYPICAL and away.max() > APART:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.linalg.norm(sizes - sizes[chosen[-1]], axis=1))
    return sizes[chosen]
