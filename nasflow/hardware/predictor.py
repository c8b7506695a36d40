"""What foretells how long a file takes on a device without running it there, and how well it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nasflow.errors import NasflowError

Floats = NDArray[np.float64]

RESAMPLES = 1000
SLOPE_FROM = 8  # measurements; with fewer, a correction only scales
SLOPES = (0.8, 1.25)  # of a correction: a predictor that is further off than this needs to be built anew
ROBUST = 1.4826  # a median absolute deviation times this is the standard deviation of normal errors


class CannotPredict(NasflowError):
    """A file that a predictor knows too little about. The message names the missing entry and says what to do."""


@dataclass(frozen=True)
class Prediction:
    """How long one call of a file is expected to take, in milliseconds.

    `deviation_ms` is the standard deviation of the error that the predictor expects of itself. `parts` are the
    kernels of the file, in the order they run, and the time of each; empty where the method has none.
    """

    p50_ms: float
    deviation_ms: float
    parts: tuple[tuple[str, float], ...] = ()


class Predictor(Protocol):
    """Foretells the p50 of files on the one device that it was built for."""

    @property
    def kind(self) -> str:
        """roofline, table, kernels, network or transfer."""

    def predict(self, files: Sequence[Path]) -> list[Prediction]:
        """One prediction per file, each positive and finite. Raises CannotPredict, never answers 0 for what it
        does not know."""

    def refitted(self, measured: Sequence[tuple[Path, float]]) -> Self:
        """The same, corrected by what was measured (milliseconds of p50)."""

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The opposite of `to_json`. ValueError, KeyError or TypeError where `value` is not that."""


@dataclass(frozen=True)
class Correction:
    """What is done to a prediction after measurements showed how it errs: ms -> factor * ms ** power.

    `deviation` is what it errs by even then, as a share; 0 where nothing was measured.
    """

    factor: float = 1.0
    power: float = 1.0
    deviation: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.factor < math.inf and 0 < self.power < math.inf and 0 <= self.deviation < math.inf):
            raise ValueError(f"expected a finite correction with a factor and a power above 0, got {self}")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Parts are scaled so that they still add up to the same share of the whole."""
        p50_ms = self.factor * prediction.p50_ms**self.power
        scale = p50_ms / prediction.p50_ms
        return Prediction(
            p50_ms,
            max(scale * prediction.deviation_ms, self.deviation * p50_ms),
            tuple((name, scale * ms) for name, ms in prediction.parts),
        )

    def after(self, first: Correction) -> Correction:
        """The correction that does `first` and then this one."""
        return Correction(
            self.factor * first.factor**self.power,
            self.power * first.power,
            self.deviation or first.deviation,
        )

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Correction:
        """The opposite of `to_json`. ValueError, KeyError or TypeError where `value` is not that."""
        return cls(*(float(value[name]) for name in ("factor", "power", "deviation")))

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Correction:
        """What brings `predicted` to `measured`: the median ratio, from eight measurements on with the slope that
        Theil and Sen give, so that a few bad ones change little. Few measurements move it part of the way: one
        by half, n by n / (n + 1), since a network's own error is not that of all.

        >>> round(Correction.of([1.0] * 99, [2.0] * 99).factor, 2)
        1.99
        """
        if not len(predicted):
            return cls()
        x, y = np.log(_positive(predicted)), np.log(_positive(measured))
        power = 1.0
        if len(x) >= SLOPE_FROM and np.ptp(x) > 0:
            power = float(np.clip(stats.theilslopes(y, x).slope, *SLOPES))
        trust = len(x) / (len(x) + 1)
        power = 1 + trust * (power - 1)
        shift = trust * float(np.median(y - power * x))
        errors = y - power * x - shift
        deviation = ROBUST * float(np.median(np.abs(errors))) if len(x) > 1 else float(np.abs(errors[0]))
        return cls(math.exp(shift), power, math.expm1(deviation))


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """How well `count` networks that a predictor had not seen were predicted; each figure with its interval.

    `within_5` and `within_10` are the shares of networks whose prediction is off by at most 5 and 10 % of what was
    measured, `mape` the mean absolute error as a share of what was measured, `spearman` and `kendall` (tau-b) say
    how well the order is told: 1 all of it, 0 nothing.
    """

    count: int
    within_5: Estimate
    within_10: Estimate
    mape: Estimate
    spearman: Estimate
    kendall: Estimate

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float], seed: int = 0) -> Accuracy:
        """The accuracy of predictions of measured times. Intervals are those of a bootstrap over networks."""
        p, m = _positive(predicted), _positive(measured)
        if len(p) != len(m) or not len(p):
            raise ValueError(f"expected as many predictions as measurements, got {len(p)} and {len(m)}")
        draws = np.random.default_rng(seed).integers(len(p), size=(RESAMPLES, len(p)))
        whole = _figures(p, m)
        low, high = np.percentile([_figures(p[draw], m[draw]) for draw in draws], [2.5, 97.5], axis=0)
        estimates = (Estimate(*map(float, three)) for three in zip(whole, low, high, strict=True))
        return cls(len(p), *estimates)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Accuracy:
        """The opposite of `to_json`. KeyError, TypeError or ValueError where `value` is not that."""
        names = ("within_5", "within_10", "mape", "spearman", "kendall")
        return cls(
            int(value["count"]),
            *(Estimate(*(float(value[name][part]) for part in ("value", "low", "high"))) for name in names),
        )


@dataclass(frozen=True)
class Built:
    """A predictor with what is known of its making.

    `environment` is that of the measurements it was built from, `reference_ms` what the reference network took then
    (its predictions are for a machine in that state), `networks` says in words which networks it was built for, and
    `accuracy` is that on networks of the kind which it was not shown. `measured` counts the networks and kernels that
    it rests on, `noisy` those that were measured on a machine too noisy to tell: such networks do not count, such
    kernels only in a table.
    """

    predictor: Predictor
    device: str
    environment: Mapping[str, Any]
    date: str
    accuracy: Accuracy
    reference_ms: float
    networks: str = ""
    measured: int = 0
    noisy: int = 0


def errors(predicted: Sequence[float], measured: Sequence[float]) -> Floats:
    """By what share of the measured time each prediction is off; above 0 where it is too long."""
    p, m = _positive(predicted), _positive(measured)
    return p / m - 1


def kendall(a: Floats, b: Floats) -> float:
    """Kendall's tau-b; 0 where either is all alike, since that tells nothing of the order."""
    of_a, of_b = (np.sign(one[:, None] - one[None, :]) for one in (a, b))
    ties = math.sqrt(float((of_a != 0).sum()) * float((of_b != 0).sum()))
    return float((of_a * of_b).sum()) / ties if ties else 0.0


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation; 0 where either is all alike."""
    of_a, of_b = (stats.rankdata(one) - (len(one) + 1) / 2 for one in (a, b))
    size = math.sqrt(float((of_a**2).sum()) * float((of_b**2).sum()))
    return float((of_a * of_b).sum()) / size if size else 0.0


def _figures(p: Floats, m: Floats) -> tuple[float, float, float, float, float]:
    off = np.abs(p / m - 1)
    five, ten = (float((off <= share).mean()) for share in (0.05, 0.1))
    return five, ten, float(off.mean()), spearman(p, m), kendall(p, m)


def _positive(values: Sequence[float]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError("expected times above 0, in milliseconds")
    return array
