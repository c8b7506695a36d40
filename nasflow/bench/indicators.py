"""How good a found front is beside the true one, in one number each.

All take arrays (points, objectives), lower is better, in the same units. `found` may hold dominated points; a
found front without points is infinitely far away, and covers and spreads nothing.
"""

from __future__ import annotations

import math

import moocore
import numpy as np
from numpy.typing import NDArray

from nasflow.scalarise import lattice

Losses = NDArray[np.float64]
DIRECTIONS = 100  # of R2, at least


def igd(found: Losses, true: Losses) -> float:
    """Mean distance from a true point to the nearest found one (inverted generational distance; Coello Coello and
    Reyes Sierra, MICAI 2004). 0 if and only if all true points were found."""
    return float(moocore.igd(found, ref=true)) if len(found) else math.inf


def igd_plus(found: Losses, true: Losses) -> float:
    """IGD in which being better than a true point costs nothing, so that a better front never has a worse value
    (Ishibuchi et al., EMO 2015)."""
    return float(moocore.igd_plus(found, ref=true)) if len(found) else math.inf


def epsilon(found: Losses, true: Losses) -> float:
    """The least amount by which all found points must improve in every objective to be at least as good as every true
    one (additive; Zitzler et al., IEEE TEC 2003)."""
    return float(moocore.epsilon_additive(found, ref=true)) if len(found) else math.inf


def coverage(a: Losses, b: Losses) -> float:
    """The share of `b` that some point of `a` equals or dominates (Zitzler and Thiele, IEEE TEC 1999)."""
    if not len(a):
        return 0.0
    covered: NDArray[np.bool_] = np.array([(a <= point).all(axis=1).any() for point in b])
    return float(covered.mean())


def r2(found: Losses, ideal: Losses) -> float:
    """Mean over evenly spread weights of the least weighted Tchebycheff distance to the ideal point (Brockhoff,
    Wagner and Trautmann, GECCO 2012). Lower is better."""
    if not len(found):
        return math.inf
    weights = lattice(DIRECTIONS, found.shape[1])
    distances = (weights[:, None] * (found - ideal)[None]).max(axis=2)
    return float(distances.min(axis=1).mean())


def spread(found: Losses, true: Losses) -> float:
    """How unevenly the points lie, 0 being even and reaching to the ends of the true front: the generalised spread
    (Zhou et al., CEC 2006) for any number of objectives, with plain distances.

    The ends are the true points that are worst in each objective. The distance of a found point is to its nearest
    neighbour.
    """
    points = np.unique(found, axis=0)
    if not len(points):
        return math.inf
    ends = np.unique(true[true.argmax(axis=0)], axis=0)
    to_ends = _distances(ends, points).min(axis=1).sum()
    between = _distances(points, points) + np.diag(np.full(len(points), math.inf))
    nearest = between.min(axis=1) if len(points) > 1 else np.zeros(1)
    whole = to_ends + nearest.sum()
    return float((to_ends + np.abs(nearest - nearest.mean()).sum()) / whole) if whole else 0.0


def _distances(a: Losses, b: Losses) -> Losses:
    gaps: Losses = np.linalg.norm(a[:, None] - b[None], axis=2)
    return gaps
