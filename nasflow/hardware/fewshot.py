"""From devices on which many architectures were measured to a new one on which ten were.

The new device's times are a Gaussian process over architectures, in milliseconds and not their logarithms, because
times of parts add up. Before anything is measured there, two architectures are believed to be alike as far as

    the known devices take alike times for both: a product of what each of them, standardised, is foretold to take
    their encodings are alike: a linear and a Gaussian kernel of the standardised columns, half each

of which the first counts 95 %, so that the new device is mostly a mixture of known ones, and what no mixture
explains is learned from the encoding. This is the covariance between tasks of Bonilla, Chai and Williams ("Multi-task
Gaussian process prediction", NIPS 2007) with the known devices as the tasks; what is measured gives the scale. The
architectures to measure are those that leave the least variance, which needs nothing of the new device.

What a known device takes for an architecture that was not measured there comes from kernel ridge regression on those
that were, with the same kernel. The few constants were chosen on benchmarks/hardware_few_shot.py, which says how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

from nasflow.hardware.graph import GraphError, operators
from nasflow.hardware.predictor import CannotPredict, Correction, Prediction

Floats = NDArray[np.float64]

SHARED = 0.95  # of the prior variance is that of mixtures of known devices
NOISE = 0.02  # variance of what is measured on the new device, as a share of that between architectures
RIDGE = 0.01  # the same on known devices
LEVEL = (
    10.0  # variance of the new device's mean, as a multiple of that between architectures: next to unknown
)
LEAST = 0.5  # of the shortest time that was measured; no file is predicted to be faster
ROWS = 2048  # architectures that are predicted at a time, for memory


# ---- what is known


@dataclass(frozen=True)
class Known:
    """Devices that many architectures were measured on, as functions of an architecture's encoding.

    `encodings` (architectures, columns) are what they were fitted on; `coefficients` (devices, architectures) are
    those of kernel ridge regression; `mean_ms` and `spread_ms` are what each device's times were standardised by.
    """

    encodings: Floats
    coefficients: Floats
    mean_ms: Floats
    spread_ms: Floats

    @classmethod
    def of(cls, encodings: ArrayLike, others: ArrayLike) -> Known:
        """Fit `others` (devices, architectures), in milliseconds, NaN where something was not measured.

        Time grows with the cube of the number of architectures, and memory with its square: a thousand are plenty.
        """
        x = _matrix(encodings)
        times = np.asarray(others, dtype=np.float64)
        if times.ndim != 2 or not len(times) or times.shape[1] != len(x):
            raise ValueError(
                f"expected others as (devices, {len(x)} architectures), one column for each row of encodings,"
                f" got an array of shape {times.shape}"
            )
        there = ~np.isnan(times)
        if not (np.isfinite(times[there]).all() and (times[there] > 0).all()):
            raise ValueError("expected times above 0 in milliseconds, or NaN where nothing was measured")
        for device, row in enumerate(times):
            if len(np.unique(row[there[device]])) < 2:
                raise ValueError(
                    f"device {device} of others: expected at least two architectures that take different times,"
                    " or nothing can be learned from it; leave it out"
                )
        mean_ms, spread_ms = np.nanmean(times, axis=1), np.nanstd(times, axis=1)
        standard = (times - mean_ms[:, None]) / spread_ms[:, None]
        like = _kernel(*_standardised(x, x, x))
        coefficients = np.zeros_like(times)
        for mask in np.unique(there, axis=0):  # devices that were asked about the same are fitted together
            devices = np.flatnonzero((there == mask).all(axis=1))
            at = np.flatnonzero(mask)
            gram = like[np.ix_(at, at)] + RIDGE * np.eye(len(at))
            coefficients[np.ix_(devices, at)] = cho_solve(cho_factor(gram), standard[np.ix_(devices, at)].T).T
        return cls(x, coefficients, mean_ms, spread_ms)

    def predict(self, encodings: ArrayLike) -> Floats:
        """What each known device is foretold to take for some architectures: (devices, architectures), ms."""
        standard = self._functions(_matrix(encodings, self.encodings.shape[1]))
        return standard.T * self.spread_ms[:, None] + self.mean_ms[:, None]

    def prior(self, a: Floats, b: Floats) -> tuple[Floats, Floats]:
        """What is believed of a new device's times before it was asked, in units of their variance between
        architectures: the covariance of each of `a` with each of `b`, and the variance of each of `a`."""
        at_a, at_b = self._functions(a), self._functions(b)
        own_a, own_b = _standardised(a, b, self.encodings)
        covariance = SHARED * at_a @ at_b.T / at_a.shape[1] + (1 - SHARED) * _kernel(own_a, own_b)
        own = ((own_a**2).mean(axis=1) + 1) / 2
        variance = SHARED * (at_a**2).mean(axis=1) + (1 - SHARED) * own
        return covariance + LEVEL, variance + LEVEL

    def choose(self, count: int) -> list[int]:
        """Which `count` of the architectures to measure on a new device, the most telling first: each is the one
        after which the least variance is left over all of them together."""
        total = len(self.encodings)
        if not 1 <= count <= total:
            raise ValueError(f"expected to choose 1 to {total} of {total} architectures, got {count}")
        left, _ = self.prior(self.encodings, self.encodings)
        chosen: list[int] = []
        for _ in range(count):
            gain = (left**2).sum(axis=0) / (left.diagonal() + NOISE)
            gain[chosen] = -1
            best = int(np.argmax(gain))
            chosen.append(best)
            left -= np.outer(left[best], left[best]) / (left[best, best] + NOISE)
        return chosen

    def transfer(self, measured: Mapping[int, float]) -> Posterior:
        """What is to be expected of a new device that takes `measured` milliseconds, by number of architecture."""
        unknown = [number for number in measured if not 0 <= number < len(self.encodings)]
        if unknown:
            raise ValueError(
                f"expected numbers of architectures, 0 to {len(self.encodings) - 1}, in measured, got {unknown}"
            )
        return Posterior(self, self.encodings[list(measured)], np.array(list(measured.values()), dtype=float))

    def _functions(self, a: Floats) -> Floats:
        """Standardised times on the known devices: (architectures, devices)."""
        return _kernel(*_standardised(a, self.encodings, self.encodings)) @ self.coefficients.T


def choose(encodings: ArrayLike, others: ArrayLike, count: int) -> list[int]:
    """Which `count` architectures to measure on a new device: see `Known.choose`. `others` as in `Known.of`."""
    return Known.of(encodings, others).choose(count)


# ---- what is foretold


@dataclass(frozen=True)
class Posterior:
    """What is believed of a new device after architectures with the encodings `seen` took `ms` milliseconds on it."""

    known: Known
    seen: Floats
    ms: Floats

    def __post_init__(self) -> None:
        if len(self.ms) != len(self.seen) or not (np.isfinite(self.ms).all() and (self.ms > 0).all()):
            raise ValueError(
                "expected a time above 0, in milliseconds, for each architecture that was measured"
            )
        if len(self.ms) < 2 or np.ptp(self.ms) == 0:
            raise ValueError(
                "expected at least two architectures that take different times on the new device, got"
                f" {sorted(set(self.ms.tolist()))} ms; measure more, as chosen by `choose`"
            )

    def predict(self, encodings: ArrayLike) -> tuple[Floats, Floats]:
        """The time of each architecture and the standard deviation of what would be measured, both in milliseconds.

        Far from everything that was measured, a time may come out below 0.
        """
        asked = _matrix(encodings, self.known.encodings.shape[1])
        middle = self.ms.mean()
        among, _ = self.known.prior(self.seen, self.seen)
        factor = cho_factor(among + NOISE * np.eye(len(self.ms)))
        weights = cho_solve(factor, self.ms - middle)
        scale = np.sqrt((self.ms - middle) @ weights / (len(self.ms) - 1))
        mean, variance = np.empty(len(asked)), np.empty(len(asked))
        for start in range(0, len(asked), ROWS):
            part = slice(start, start + ROWS)
            across, before = self.known.prior(asked[part], self.seen)
            mean[part] = middle + across @ weights
            variance[part] = before - (across * cho_solve(factor, across.T).T).sum(axis=1) + NOISE
        return mean, scale * np.sqrt(np.maximum(variance, NOISE))

    def refitted(self, encodings: ArrayLike, ms: Sequence[float]) -> Posterior:
        """The same after more was measured, of these or any other architectures."""
        more = _matrix(encodings, self.seen.shape[1])
        return replace(self, seen=np.vstack([self.seen, more]), ms=np.concatenate([self.ms, ms]))


def transfer(encodings: ArrayLike, others: ArrayLike, measured: Mapping[int, float]) -> Posterior:
    """What is to be expected of a new device of which little was measured.

    `encodings` (architectures, columns) say what each architecture is; `others` (devices, architectures) how many
    milliseconds it takes on known devices, NaN where nobody measured; `measured` how many on the new one, by the
    number of the architecture: some ten of them, at best those that `choose` names.

    >>> sizes = [[float(n)] for n in range(1, 21)]
    >>> known = [[2.0 * n for n in range(1, 21)]]
    >>> mean, deviation = transfer(sizes, known, {0: 11.0, 19: 30.0}).predict([[10.0]])
    >>> round(float(mean[0]), 1)
    20.0
    """
    return Known.of(encodings, others).transfer(measured)


@dataclass(frozen=True)
class Affine:
    """The simplest transfer: the new device takes offset + slope * what one known device, its proxy, takes.

    The order of architectures is that on the proxy (Lu et al., "One proxy device is enough for hardware-aware neural
    architecture search", SIGMETRICS 2022).
    """

    slope: float
    offset_ms: float

    @classmethod
    def of(cls, proxy_ms: ArrayLike, measured_ms: ArrayLike) -> Affine:
        """Least squares over architectures that were measured on both; exact for two.

        >>> Affine.of([1, 3], [11, 31])
        Affine(slope=10.0, offset_ms=1.0)
        """
        x, y = np.asarray(proxy_ms, dtype=np.float64), np.asarray(measured_ms, dtype=np.float64)
        if x.ndim != 1 or x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError(
                f"expected as many times on the proxy as on the new device, got {x.shape} and {y.shape}"
            )
        if len(np.unique(x)) < 2:
            raise ValueError("expected at least two architectures that take different times on the proxy")
        slope = float((x - x.mean()) @ (y - y.mean()) / ((x - x.mean()) ** 2).sum())
        if slope <= 0:
            raise ValueError(
                "expected a proxy on which slow architectures are those that are slow on the new device, got a"
                f" slope of {slope:.3g}; take another device as the proxy"
            )
        return cls(slope, float(y.mean() - slope * x.mean()))

    def __call__(self, proxy_ms: ArrayLike) -> Floats:
        return np.asarray(self.offset_ms + self.slope * np.asarray(proxy_ms, dtype=np.float64))


# ---- files


@dataclass(frozen=True)
class Transfer:
    """A predictor of files, whose encodings are the `columns` of `encoded`, when asked about `batch` samples."""

    posterior: Posterior
    columns: tuple[str, ...]
    batch: int = 1

    @property
    def kind(self) -> str:
        return "transfer"

    @classmethod
    def of(
        cls, files: Sequence[Path], others: ArrayLike, measured: Mapping[int, float], batch: int = 1
    ) -> Transfer:
        """As `transfer`, with files for encodings."""
        columns, encodings = encoded(files, batch)
        return cls(transfer(encodings, others, measured), columns, batch)

    def predict(self, files: Sequence[Path]) -> list[Prediction]:
        floor_ms = LEAST * float(self.posterior.ms.min())
        found = []
        for file in files:  # one by one, since a product of larger matrices differs in the last digit
            [p50_ms], [deviation_ms] = self.posterior.predict(self._encoded([file]))
            found.append(Prediction(max(float(p50_ms), floor_ms), float(deviation_ms)))
        return found

    def refitted(self, measured: Sequence[tuple[Path, float]]) -> Transfer:
        """What was measured before is first brought to where the device is now: its clock or its neighbours may have
        changed since, and then old and new times would contradict each other."""
        if not measured:
            return self
        files, ms = [file for file, _ in measured], [ms for _, ms in measured]
        now = Correction.of([one.p50_ms for one in self.predict(files)], ms)
        moved = replace(self.posterior, ms=now.factor * self.posterior.ms**now.power)
        return replace(self, posterior=moved.refitted(self._encoded(files), ms))

    def _encoded(self, files: Sequence[Path]) -> Floats:
        columns, encodings = encoded(files, self.batch)
        kinds = {column.partition(".")[0] for column in self.columns}
        new = {column.partition(".")[0] for column in columns} - kinds
        if new:
            raise CannotPredict(
                f"no file with an operator {', '.join(sorted(new))} was measured on the known devices, only with"
                f" {', '.join(sorted(kinds))}; measure files of the kind that is asked about"
            )
        found = np.zeros((len(files), len(self.columns)))
        found[:, [self.columns.index(column) for column in columns]] = encodings
        return found

    def to_json(self) -> dict[str, Any]:
        known = self.posterior.known
        return {
            "columns": list(self.columns),
            "batch": self.batch,
            "encodings": known.encodings.tolist(),
            "coefficients": known.coefficients.tolist(),
            "mean_ms": known.mean_ms.tolist(),
            "spread_ms": known.spread_ms.tolist(),
            "seen": self.posterior.seen.tolist(),
            "ms": self.posterior.ms.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Transfer:
        """The opposite of `to_json`. ValueError, KeyError or TypeError where `value` is not that."""
        columns = tuple(map(str, value["columns"]))
        encodings, seen = _matrix(value["encodings"], len(columns)), _matrix(value["seen"], len(columns))
        coefficients = _matrix(value["coefficients"], len(encodings))
        devices = (len(coefficients),)
        mean_ms, spread_ms, ms = (
            np.asarray(value[name], dtype=np.float64) for name in ("mean_ms", "spread_ms", "ms")
        )
        if mean_ms.shape != devices or spread_ms.shape != devices or ms.shape != (len(seen),):
            raise ValueError(
                f"expected a mean and a spread of each of {devices[0]} devices, and {len(seen)} times"
            )
        if not (np.isfinite(mean_ms).all() and np.isfinite(spread_ms).all() and (spread_ms > 0).all()):
            raise ValueError("expected finite means, and spreads above 0, of the known devices' times")
        known = Known(encodings, coefficients, mean_ms, spread_ms)
        return cls(Posterior(known, seen, ms), columns, int(value["batch"]))


def encoded(files: Sequence[Path], batch: int = 1) -> tuple[tuple[str, ...], Floats]:
    """Names of columns, and encodings (files, columns) of exported networks: for each kind of operator in them how
    many there are, their multiply-adds, the bytes that they move and those of their weights.

    Raises CannotPredict for a file that is no network.
    """
    rows: list[dict[str, float]] = []
    for file in files:
        row: dict[str, float] = {}
        try:
            found = operators(file, batch)
        except GraphError as error:
            raise CannotPredict(str(error)) from error
        for one in found:
            amounts = {
                "count": 1,
                "macs": one.macs,
                "bytes": one.bytes_in + one.bytes_out,
                "weights": one.bytes_weights,
            }
            for name, amount in amounts.items():
                row[f"{one.kind}.{name}"] = row.get(f"{one.kind}.{name}", 0.0) + amount
        rows.append(row)
    columns = tuple(sorted({name for row in rows for name in row}))
    return columns, np.array([[row.get(name, 0.0) for name in columns] for row in rows])


# ---- kernels


def _kernel(a: Floats, b: Floats) -> Floats:
    """How alike standardised rows are, 1 on average for a row and itself: half linear, half Gaussian."""
    linear = a @ b.T / a.shape[1]
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
    apart = np.maximum(squares / a.shape[1] - 2 * linear, 0)
    return np.asarray((linear + np.exp(-apart / 2)) / 2)


def _standardised(a: Floats, b: Floats, fitted: Floats) -> tuple[Floats, Floats]:
    """Rows in units of the `fitted` ones' standard deviations, without the columns in which those are all alike."""
    mean, spread = fitted.mean(axis=0), fitted.std(axis=0)
    differ = spread > 1e-12 * (1 + np.abs(mean))
    if not differ.any():
        raise ValueError("expected encodings that differ between architectures, got the same for all")
    return (a[:, differ] - mean[differ]) / spread[differ], (b[:, differ] - mean[differ]) / spread[differ]


def _matrix(rows: ArrayLike, columns: int | None = None) -> Floats:
    found = np.asarray(rows, dtype=np.float64)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise ValueError(
            f"expected finite numbers, a row for each of them and as many in each, got an array of shape {found.shape}"
            + (" with NaN or infinity in it" if found.size and not np.isfinite(found).all() else "")
        )
    if columns is not None and found.shape[1] != columns:
        raise ValueError(f"expected rows of {columns} numbers, got {found.shape[1]}")
    return found
