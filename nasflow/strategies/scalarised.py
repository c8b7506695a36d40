"""Evolution towards one point of the front at a time: weights drawn for each proposal make several losses one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from nasflow import scalarise
from nasflow.pareto import Losses, places, ranks
from nasflow.scalarise import AUGMENTATION, PENALTY
from nasflow.space import Point, Space
from nasflow.strategies.population import Member, Numbers, Unseen, child, constrained, members
from nasflow.study import Objective, Proposal, Trial

WEIGHTS = 100
Scalar = Callable[[Losses, Numbers, Numbers], Numbers]
"""Losses (points, objectives), weights and ideal to one number for each point, lower is better."""


class Scalarised:
    """After `start` random points, children of two of the `parents` points that are best by weights drawn for each
    child from a simplex lattice. A loss counts by its place among all that were seen, 0 the best and 1 the worst, since
    a few useless points would squeeze all that matter into a corner if losses were scaled by their range.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        seed: int,
        start: int,
        parents: int,
        scalar: Scalar,
    ) -> None:
        self._space, self._objectives, self._start, self._parents = space, objectives, start, parents
        self._scalar = scalar
        self._weights = scalarise.lattice(WEIGHTS, sum(objective.optimise for objective in objectives))
        self._unseen = Unseen(space, seed)
        self._members: list[Member] = []

    def ask(self, count: int) -> list[Proposal]:
        return [self._unseen.propose(self._draw) for _ in range(count)]

    def tell(self, trials: Sequence[Trial]) -> None:
        self._unseen.note(trials)
        self._members += members(trials, self._objectives)

    def _draw(self, rng: np.random.Generator) -> Point:
        if self._unseen.asked < self._start or not self._members:
            return self._space.sample(rng)
        weights = self._weights[int(rng.integers(len(self._weights)))]
        ideal = np.zeros(len(weights))
        judged = constrained(self._members, lambda losses: self._scalar(places(losses), weights, ideal))
        best = np.argsort(judged, kind="stable")[: self._parents]
        one, other = (self._members[int(best[i])].point for i in rng.integers(len(best), size=2))
        return child(self._space, one, other, rng)


def weighted_sum(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, start: int = 10, parents: int = 2
) -> Scalarised:
    """Evolution by weighted sums, which cannot aim at the concave parts of a front."""
    return Scalarised(space, objectives, seed, start, parents, scalarise.weighted_sum)


def tchebycheff(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    start: int = 10,
    parents: int = 2,
    rho: float = AUGMENTATION,
) -> Scalarised:
    """Evolution by augmented Tchebycheff distances with weights drawn as ParEGO does (Knowles, IEEE TEC 2006)."""
    return Scalarised(
        space, objectives, seed, start, parents, functools.partial(scalarise.tchebycheff, rho=rho)
    )


def pbi(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    start: int = 10,
    parents: int = 2,
    theta: float = PENALTY,
) -> Scalarised:
    """Evolution by penalised boundary intersection (Zhang and Li, IEEE TEC 2007).

    The nearest to a direction may well be dominated, since all that was seen competes for it and not one point for
    each as in the paper; such a point comes after all of the fronts before its own.
    """
    return Scalarised(
        space, objectives, seed, start, parents, fronts_first(functools.partial(scalarise.pbi, theta=theta))
    )


def fronts_first(scalar: Scalar) -> Scalar:
    """The order by a formula among points of one front, of which the better fronts come first, as numbers from 0."""

    def ordered(losses: Losses, weights: Numbers, ideal: Numbers) -> Numbers:
        order = np.lexsort((scalar(losses, weights, ideal), ranks(losses)))
        numbers = np.empty(len(order))
        numbers[order] = np.arange(len(order))
        return numbers

    return ordered
