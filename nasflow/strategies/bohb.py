"""BOHB: Hyperband whose new points come from densities of good and bad ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from nasflow.space import Choice, Parameter, Point, Scalar, Space
from nasflow.strategies.hyperband import brackets
from nasflow.strategies.rungs import FidelityError, Rungs
from nasflow.strategies.successive_halving import Halving
from nasflow.study import Objective

GOOD = 0.15  # share of the points that the density of good ones is made of
SAMPLES = 64
WIDER = 3.0  # times the bandwidth that samples are drawn with
NARROWEST = 1e-3
TINY = 1e-32  # density of what was never seen near


@dataclass(frozen=True)
class Density:
    """A product kernel density over `parameters` from `data` (points, parameters), with a bandwidth each.

    Reals and ordered choices are positions in [0, 1] under Gaussian kernels; other choices are numbers of options
    under the kernel of Aitchison and Aitken (1976), whose bandwidth is the chance of another option.
    """

    parameters: tuple[Parameter, ...]
    data: NDArray[np.float64]
    bandwidths: NDArray[np.float64]

    @classmethod
    def of(cls, parameters: tuple[Parameter, ...], data: NDArray[np.float64]) -> Density:
        """With bandwidths by the normal reference rule: 1.06 times the spread times n**(-1/(4+d)).

        The spread is the standard deviation, or for options without order the chance that two of the data differ.
        """
        spread = [
            1.0 - sum(float((column == option).mean()) ** 2 for option in range(count))
            if (count := categories(parameter))
            else float(column.std())
            for parameter, column in zip(parameters, data.T, strict=True)
        ]
        widths = 1.06 * np.array(spread) * len(data) ** (-1 / (4 + data.shape[1]))
        most = [1 - 1 / count if (count := categories(p)) else np.inf for p in parameters]
        return cls(parameters, data, np.clip(widths, NARROWEST, most))

    def at(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The density at each of `x` (points, parameters)."""
        kernels = np.ones((len(x), len(self.data)))
        for column, (parameter, width) in enumerate(zip(self.parameters, self.bandwidths, strict=True)):
            here, there, count = x[:, column, None], self.data[:, column], categories(parameter)
            if count:
                kernels *= np.where(here == there, 1 - width, width / max(1, count - 1))
            else:
                kernels *= np.exp(-(((here - there) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))
        return np.asarray(kernels.mean(axis=1), dtype=float)

    def samples(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draws (count, parameters) around the data, with Gaussian kernels widened and kept to the range."""
        x: NDArray[np.float64] = self.data[rng.integers(len(self.data), size=count)]
        for column, (parameter, width) in enumerate(zip(self.parameters, self.bandwidths, strict=True)):
            here, options, chance = x[:, column], categories(parameter), rng.random(count)
            if options:
                x[:, column] = np.where(chance < width, rng.integers(options, size=count), here)
            else:
                scale = WIDER * width
                low, high = ndtr(-here / scale), ndtr((1 - here) / scale)
                x[:, column] = np.clip(here + scale * ndtri(low + chance * (high - low)), 0, 1)
        return x


def categories(parameter: Parameter) -> int:
    """How many options without an order a parameter has; 0 for one with an order."""
    return len(parameter.options) if isinstance(parameter, Choice) and not parameter.ordered else 0


def position(parameter: Parameter, value: Scalar) -> float:
    """Where a value lies: in [0, 1], or the number of an option without order."""
    if not isinstance(parameter, Choice):
        return parameter.position(float(value or 0.0))
    index = parameter.index(value)
    return float(index) if categories(parameter) else (index + 0.5) / len(parameter.options)


def value_at(parameter: Parameter, x: float) -> Scalar:
    """The value at a position."""
    if not isinstance(parameter, Choice):
        return parameter.at(min(1.0, max(0.0, x)))
    count = len(parameter.options)
    return parameter.options[int(x) if categories(parameter) else min(count - 1, max(0, int(x * count)))]


class Densities:
    """Draws new points by the densities of the highest rung that has enough points; `random_fraction` of them, and
    all before that, at random."""

    def __init__(self, space: Space, random_fraction: float) -> None:
        self._space = space
        self._random_fraction = random_fraction
        self._free = tuple(p for p in space.parameters if not (isinstance(p, Choice) and len(p.options) == 1))
        self._fixed = {p.name: p.options[0] for p in space.parameters if isinstance(p, Choice)}
        self._fitted: tuple[Density, Density] | None = None
        self._fitted_to = (0, 0)  # rung, and how many points stood there

    def __call__(self, rungs: Rungs, rng: np.random.Generator) -> Point:
        least = len(self._free) + 1
        enough = [rung for rung in range(rungs.top + 1) if len(rungs.told(rung)) >= least + 2]
        if rng.random() < self._random_fraction or not enough or not self._free:
            return self._space.sample(rng)
        better, worse = self._fit(rungs, enough[-1], least)
        samples = better.samples(SAMPLES, rng)
        x = samples[np.argmax(better.at(samples) / np.maximum(TINY, worse.at(samples)))]
        return {
            **self._fixed,
            **{p.name: value_at(p, float(at)) for p, at in zip(self._free, x, strict=True)},
        }

    def _fit(self, rungs: Rungs, rung: int, least: int) -> tuple[Density, Density]:
        """The densities of the good and of the bad points, each of at least `least`; the last ones are kept."""
        told = rungs.told(rung)
        if self._fitted is None or self._fitted_to != (rung, len(told)):
            points = [told[key].point for key in rungs.ranked(rung)]
            data = np.array([[position(p, point[p.name]) for p in self._free] for point in points])
            good = max(least, int(GOOD * len(data)))
            bad = max(least, len(data) - good)
            self._fitted = Density.of(self._free, data[:good]), Density.of(self._free, data[-bad:])
            self._fitted_to = (rung, len(told))
        return self._fitted


def bohb(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    fidelities: Sequence[float] = (1 / 9, 1 / 3, 1.0),
    eta: float = 3.0,
    random_fraction: float = 1 / 3,
) -> Halving:
    """BOHB (Falkner et al., ICML 2018): Hyperband by the table of HpBandSter, new points where good ones are dense
    and bad ones are not.

    The best 15 % are good; a rung is modelled when it has three points more than there are parameters to choose;
    64 samples are drawn from the density of the good, three times as wide. Ordered choices count as numbers. For
    options without order the bandwidth follows from how often two points differ, where HpBandSter takes the
    standard deviation of the options' numbers, which depends on how they are numbered. With several objectives
    "better" is the order of `rungs.best_first`, and who was left behind by an earlier bracket may still climb; over a
    limit or failed is worst.
    """
    if not 0 <= random_fraction <= 1:
        raise FidelityError(f"random_fraction: expected 0 to 1, got {random_fraction}")
    rungs = Rungs(space, objectives, fidelities)
    draw = Densities(space, random_fraction)
    return Halving(space, rungs, brackets(rungs.top + 1, eta, "iclr"), seed, draw)
