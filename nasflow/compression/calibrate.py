"""Which range of numbers few bits should cover: values that were seen in, limits out.

A range that holds everything makes coarse steps, a narrow one cuts off what is large; the methods differ in how they
weigh the two. All of them are used alike for simulated bits (fakequant.py) and for int8 files (quantize.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nasflow.errors import NasflowError

Method = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)

PERCENTILE = 99.99  # of the values, on either side
SHARES = np.linspace(0.04, 1.0, 49)  # of the widest range, tried by `mse`
BINS = 2048  # of the histogram of `entropy`
STRIDE = 16  # of the bins at which `entropy` tries to cut
SAMPLE = 1 << 16  # values kept of a tensor
FEW = 1 << 13  # of those that `mse` looks at
TINY = 1e-12  # no step is smaller, else zero would be divided by

Values = npt.NDArray[np.floating]


class CalibrationError(NasflowError):
    """Data that tell no range, or a method that there is not."""


@dataclass(frozen=True)
class Grid:
    """The whole numbers from `low` to `high`, zero among them: what is left of values divided by a step."""

    low: int
    high: int

    @property
    def top(self) -> int:
        """The largest number, Q_P in the papers; of a grid with none above zero the farthest from it."""
        return self.high or -self.low

    @classmethod
    def signed(cls, bits: int) -> Grid:
        """All numbers of so many bits, of which one more is below zero than above.

        >>> Grid.signed(4)
        Grid(low=-8, high=7)
        """
        return cls(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    @classmethod
    def symmetric(cls, bits: int) -> Grid:
        """As many below zero as above.

        >>> Grid.symmetric(4)
        Grid(low=-7, high=7)
        """
        return cls(1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)

    @classmethod
    def covering(cls, low: float, high: float, bits: int) -> tuple[Grid, float]:
        """The grid of so many bits for values from `low` to `high`, and its step. Unsigned where none is negative.

        >>> Grid.covering(0.0, 7.5, 4), Grid.covering(-1.0, 2.0, 2)
        ((Grid(low=0, high=15), 0.5), (Grid(low=-1, high=2), 1.0))
        """
        low, high = min(low, 0.0), max(high, 0.0)
        step = max((high - low) / (2**bits - 1), TINY)
        below = round(-low / step)
        return cls(-below, 2**bits - 1 - below), step


class Seen:
    """What is remembered of a tensor's values over several batches: the extremes, and a sample of the rest."""

    def __init__(self, batches: int) -> None:
        self.low, self.high = math.inf, -math.inf
        self._share = max(SAMPLE // max(batches, 1), 1)
        self._sample: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """Remember another batch of the tensor."""
        flat = values.detach().flatten()
        low, high = (float(extreme) for extreme in flat.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CalibrationError(
                "expected finite values to calibrate with, got NaN or infinity in the network"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        if len(flat) > self._share:
            picked = torch.randint(len(flat), (self._share,), generator=torch.Generator().manual_seed(0))
            flat = flat[picked.to(flat.device)]
        self._sample.append(flat.cpu().clone())

    @property
    def sample(self) -> Values:
        """Some of the values, drawn evenly."""
        drawn: Values = torch.cat(self._sample).double().numpy()
        return drawn


def limits(seen: Seen, method: Method, bits: int) -> tuple[float, float]:
    """The range that so many bits should cover, from what was `seen` of a tensor.

    minmax: all of it. percentile: all but the outermost 0.01 % on either side. mse: the share of it whose rounding
    errs least in squares. entropy: the share in which the rounded values tell most about the values (least
    Kullback-Leibler divergence between their histograms; Migacz, 2017, "8-bit inference with TensorRT").
    """
    check(method)
    if method == "minmax" or seen.low == seen.high:
        return seen.low, seen.high
    if method == "percentile":
        low, high = np.percentile(seen.sample, [100 - PERCENTILE, PERCENTILE])
        return min(float(low), 0.0), max(float(high), 0.0)
    share = _least_error(seen, bits) if method == "mse" else _least_divergence(seen, bits)
    return share * min(seen.low, 0.0), share * max(seen.high, 0.0)


def weight_shares(weights: Tensor, method: Method, grid: Grid) -> Tensor:
    """Of each channel's largest magnitude, the share that the grid should cover: (channels, weights) -> (channels,).

    All of it, but for mse the share of least squared error. A channel has too few weights for a percentile or a
    histogram to say anything.
    """
    check(method)
    best = torch.ones(len(weights), dtype=weights.dtype, device=weights.device)
    if method != "mse":
        return best
    top = weights.abs().amax(1, keepdim=True).clamp_min(TINY)
    least = torch.full_like(best, math.inf)
    for share in SHARES[::-1]:
        step = float(share) * top / grid.high
        error = ((weights / step).round().clamp(grid.low, grid.high) * step - weights).square().sum(1)
        best = torch.where(error < least, float(share), best)
        least = torch.minimum(error, least)
    return best


def check(method: str) -> None:
    """Raise CalibrationError for a method that there is not."""
    if method not in METHODS:
        raise CalibrationError(f"expected one of the calibrations {', '.join(METHODS)}, got {method!r}")


def _least_error(seen: Seen, bits: int) -> float:
    sample = seen.sample
    if len(sample) > FEW:
        sample = np.random.default_rng(0).choice(sample, FEW)

    def error(share: float) -> float:
        grid, step = Grid.covering(share * seen.low, share * seen.high, bits)
        rounded = np.clip(np.rint(sample / step), grid.low, grid.high) * step
        return float(np.square(rounded - sample).sum())

    return float(min(SHARES[::-1], key=error))


def _least_divergence(seen: Seen, bits: int) -> float:
    """The share of the largest magnitude at which cutting loses least of the histogram of magnitudes."""
    top = max(abs(seen.low), abs(seen.high))
    counts = np.histogram(np.abs(seen.sample), BINS, (0.0, top))[0].astype(float)
    counts[0] = counts[1]  # zeros cost nothing, as zero is on every grid
    levels = 2 ** (bits - (seen.low < 0))

    def divergence(kept: int) -> float:
        whole = counts[:kept].copy()
        whole[-1] += counts[kept:].sum()
        level = np.arange(kept) * levels // kept
        used = counts[:kept] > 0
        mass = np.bincount(level, counts[:kept], levels)
        width = np.bincount(level, used, levels)
        merged = np.where(used, (mass / np.maximum(width, 1))[level], 0.0)
        p, q = whole / whole.sum(), merged / max(merged.sum(), 1.0)
        there = p > 0
        return float((p[there] * np.log(p[there] / np.maximum(q[there], TINY))).sum())

    return min(range(BINS, max(levels, STRIDE) - 1, -STRIDE), key=divergence) / BINS
