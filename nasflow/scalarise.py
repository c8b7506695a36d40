"""Several losses as one number, by weights: three formulas, and the lattice that weights are drawn from.

`losses` is an array (points, objectives), lower is better, scaled to [0, 1] by what was seen; `weights` are
non-negative and sum to 1; `ideal` is the best loss seen of each objective. The result has one number per point,
lower is better.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scalars = NDArray[np.float64]

AUGMENTATION = 0.05
PENALTY = 5.0


def weighted_sum(losses: ArrayLike, weights: ArrayLike, ideal: ArrayLike) -> Scalars:
    """Distance to the ideal, summed by weight. Its minima all lie on the convex parts of a front."""
    scalars: Scalars = _gaps(losses, ideal) @ np.asarray(weights, dtype=float)
    return scalars


def tchebycheff(
    losses: ArrayLike, weights: ArrayLike, ideal: ArrayLike, rho: float = AUGMENTATION
) -> Scalars:
    """The largest weighted distance to the ideal, which reaches every part of a front, plus `rho` times their sum,
    which prefers a point that dominates another with the same largest one (Knowles, IEEE TEC 2006)."""
    weighted = _gaps(losses, ideal) * np.asarray(weights, dtype=float)
    scalars: Scalars = weighted.max(axis=1) + rho * weighted.sum(axis=1)
    return scalars


def pbi(losses: ArrayLike, weights: ArrayLike, ideal: ArrayLike, theta: float = PENALTY) -> Scalars:
    """Distance from the ideal along the direction of the weights, plus `theta` times the distance from that direction
    (penalised boundary intersection; Zhang and Li, IEEE TEC 2007)."""
    gaps, direction = _gaps(losses, ideal), np.asarray(weights, dtype=float)
    direction = direction / np.linalg.norm(direction)
    along = gaps @ direction
    aside = np.linalg.norm(gaps - along[:, None] * direction, axis=1)
    scalars: Scalars = along + theta * aside
    return scalars


def lattice(count: int, objectives: int) -> Scalars:
    """The coarsest simplex lattice of at least `count` weights (Das and Dennis, 1998): all vectors of multiples of
    1/s that sum to 1, C(s + objectives - 1, objectives - 1) of them; array (weights, objectives)."""
    if count < 1 or objectives < 1:
        raise ValueError(f"expected at least one weight and one objective, got {count} and {objectives}")
    if objectives == 1:
        return np.ones((1, 1))
    steps = 1
    while math.comb(steps + objectives - 1, objectives - 1) < count:
        steps += 1
    bars = itertools.combinations(range(steps + objectives - 1), objectives - 1)
    edges = np.array([(-1, *bar, steps + objectives - 1) for bar in bars])
    return (np.diff(edges, axis=1) - 1) / steps


def _gaps(losses: ArrayLike, ideal: ArrayLike) -> Scalars:
    gaps: Scalars = np.asarray(losses, dtype=float) - np.asarray(ideal, dtype=float)
    if gaps.ndim != 2:
        raise ValueError(f"expected losses of shape (points, objectives), got {gaps.shape}")
    return gaps
