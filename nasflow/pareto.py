"""Which of several losses are worth having: domination, hypervolume and the knee of a front.

All functions take an array (points, objectives) in which lower is better.
"""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Losses = NDArray[np.float64]


def non_dominated(losses: ArrayLike) -> NDArray[np.bool_]:
    """True for each point that no other is at least as good as everywhere and better than somewhere.
    Equal points are all kept."""
    points = _as_points(losses)
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(points, keep_weakly=True), dtype=bool)


def ranks(losses: ArrayLike) -> NDArray[np.int64]:
    """Number of the front that each point belongs to, 0 for the non-dominated ones."""
    points = _as_points(losses)
    if len(points) == 0:
        return np.zeros(0, dtype=np.int64)
    if points.shape[1] == 1:
        return np.unique(points[:, 0], return_inverse=True)[1].astype(np.int64)
    return np.asarray(moocore.pareto_rank(points), dtype=np.int64)


def hypervolume(losses: ArrayLike, reference: ArrayLike) -> float:
    """Volume between the points and `reference` (one number per objective); points beyond it add nothing."""
    points, corner = _as_points(losses), np.asarray(reference, dtype=float)
    points = points[(points < corner).all(axis=1)]
    return float(moocore.hypervolume(points, ref=corner)) if len(points) else 0.0


def normalised(losses: ArrayLike) -> Losses:
    """Each objective scaled so that the best value is 0 and the worst 1; one that is constant becomes 0."""
    points = _as_points(losses)
    low, high = points.min(axis=0), points.max(axis=0)
    scaled: Losses = (points - low) / np.where(high > low, high - low, 1.0)
    return scaled


def places(losses: ArrayLike, among: ArrayLike | None = None) -> Losses:
    """Each loss as its place among those of its objective in `among` (points, objectives), from 0 for the least to 1
    for the largest; by default among `losses` themselves. Equal losses share a place, which does not count twice."""
    points = _as_points(losses)
    others = points if among is None else _as_points(among)
    different = [np.unique(values) for values in others.T]
    columns = [np.searchsorted(d, p) / max(1, len(d) - 1) for d, p in zip(different, points.T, strict=True)]
    return np.stack(columns, axis=1)


def knee(losses: ArrayLike) -> int:
    """Index of the point of a front nearest to its ideal corner after scaling each objective to [0, 1]:
    the compromise past which gaining in one objective costs more in the others."""
    points = _as_points(losses)
    if len(points) == 0:
        raise ValueError("the knee of an empty front was asked for; expected at least one point")
    return int(np.argmin(np.linalg.norm(normalised(points), axis=1)))


def hypervolume_curve(losses: ArrayLike) -> tuple[list[float], list[float]]:
    """Hypervolume after each point in turn, as a share of the box from the ideal of all points to a reference
    a tenth beyond their worst; also the reference, in the units of the losses."""
    points = _as_points(losses)
    if len(points) == 0:
        return [], []
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    reference = high + 0.1 * span
    scaled = (points - low) / span
    curve: list[float] = []
    front = np.zeros((0, points.shape[1]))
    for point in scaled:
        if (front <= point).all(axis=1).any():  # nothing new is dominated
            curve.append(curve[-1])
            continue
        front = np.vstack([front, point])
        front = front[non_dominated(front)]
        curve.append(hypervolume(front, np.full(points.shape[1], 1.1)) / 1.1 ** points.shape[1])
    return curve, [float(value) for value in reference]


def _as_points(losses: ArrayLike) -> Losses:
    points = np.ascontiguousarray(losses, dtype=float)
    if points.ndim != 2:
        raise ValueError(f"expected losses of shape (points, objectives), got {points.shape}")
    return points
