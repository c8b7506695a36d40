"""By how much a point that is only foretold would enlarge a front, on average: expected hypervolume improvement.

One objective: expected improvement (Jones, Schonlau and Welch, J. Global Optimization 1998). Two: exact, strip by
strip (Emmerich, Deutz and Klinkenberg, CEC 2011). More: the hypervolume is an integral over directions of how far the
front reaches along each (Deng and Zhang, IEEE TEC 2019; Zhang and Golovin, ICML 2020); the improvement along a
direction is an integral too, and both are sums here.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr

from nasflow import pareto
from nasflow.strategies.encoding import Numbers

DIRECTIONS = 64
NODES, SHARES = np.polynomial.legendre.leggauss(6)
FAR = 4.0  # deviations beyond which nothing is expected
SMALLEST = 1e-9


def expected_improvement(mean: Numbers, deviation: Numbers, front: Numbers, reference: Numbers) -> Numbers:
    """Expected gain of hypervolume (points,) by losses with independent normal distributions.

    `mean` and `deviation` have shape (points, objectives), `front` (members, objectives), `reference` (objectives,).
    """
    deviation = np.maximum(deviation, SMALLEST)
    inside = front[(front < reference).all(axis=1)]
    inside = inside[pareto.non_dominated(inside)] if len(inside) else inside
    objectives = len(reference)
    if objectives == 1:
        best = inside[:, 0].min() if len(inside) else reference[0]
        return below(best, mean[:, 0], deviation[:, 0])
    if objectives == 2:
        return _strips(mean, deviation, inside, reference)
    return _directions(mean, deviation, inside, reference)


def below(level: Numbers | float, mean: Numbers, deviation: Numbers) -> Numbers:
    """How far below `level` a normal variable is expected to be, 0 where it is above."""
    z = (level - mean) / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    return np.asarray(deviation * density + (level - mean) * ndtr(z))


def _strips(mean: Numbers, deviation: Numbers, front: Numbers, reference: Numbers) -> Numbers:
    front = front[np.argsort(front[:, 0])]
    levels = np.concatenate([[reference[1]], front[:, 1]])  # of the second objective, left to right
    ends = np.concatenate([front[:, 0], [reference[0]]])
    first, second = mean[:, :1], mean[:, 1:]
    reached = below(ends[None, :], first, deviation[:, :1])
    widths = np.diff(reached, axis=1, prepend=0.0)
    heights = below(levels[None, :], second, deviation[:, 1:])
    return np.asarray(np.sum(np.maximum(widths, 0.0) * heights, axis=1))


def _directions(mean: Numbers, deviation: Numbers, front: Numbers, reference: Numbers) -> Numbers:
    objectives = len(reference)
    rng = np.random.default_rng(0)
    along = np.abs(rng.normal(size=(DIRECTIONS, objectives)))
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    along = np.maximum(along, SMALLEST)
    gaps = (reference - front)[:, None, :] / along[None, :, :]  # members, directions, objectives
    start = gaps.min(axis=2).max(axis=0) if len(front) else np.zeros(DIRECTIONS)
    hope = (reference - mean + FAR * deviation)[:, None, :] / along[None, :, :]
    end = np.maximum(hope.min(axis=2), start)  # points, directions
    half = 0.5 * (end - start)
    total = np.zeros(len(mean))
    for node, share in zip(NODES, SHARES, strict=True):
        reach = start + half * (1.0 + node)
        level = reference - reach[:, :, None] * along[None, :, :]
        chance = ndtr((level - mean[:, None, :]) / deviation[:, None, :]).prod(axis=2)
        total += (share * half * objectives * reach ** (objectives - 1) * chance).mean(axis=1)
    ball = math.pi ** (objectives / 2) / math.gamma(objectives / 2 + 1)
    return np.asarray(total * ball / 2**objectives)
