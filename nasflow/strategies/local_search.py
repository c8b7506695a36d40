"""Pareto local search: everything that is one step away from the front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nasflow import pareto
from nasflow.space import Choice, Point, Scalar, Space
from nasflow.strategies.population import Member, Unseen, constrained, members
from nasflow.study import Objective, Proposal, Trial


class LocalSearch:
    """After `start` random points, the neighbours of the front's points that were not tried yet, in random order: each
    time one of the front's least explored point, so what has just reached the front comes first. When the front has
    no more, those of the front behind it, and so on through the whole space.
    """

    def __init__(
        self, space: Space, objectives: Sequence[Objective], seed: int, start: int, steps: int
    ) -> None:
        self._space, self._objectives, self._start, self._steps = space, objectives, start, steps
        self._unseen = Unseen(space, seed)
        self._members: list[Member] = []
        self._fronts = np.zeros(0)
        self._around: dict[int, list[Point]] = {}  # by member: the neighbours not known to be tried

    def ask(self, count: int) -> list[Proposal]:
        return [self._unseen.propose(self._draw) for _ in range(count)]

    def tell(self, trials: Sequence[Trial]) -> None:
        self._unseen.note(trials)
        self._members += members(trials, self._objectives)
        self._fronts = constrained(self._members, lambda losses: pareto.ranks(losses).astype(float))

    def _draw(self, rng: np.random.Generator) -> Point:
        if self._unseen.asked < self._start:
            return self._space.sample(rng)
        for front in np.unique(self._fronts):
            left = [self._untried(int(member), rng) for member in np.flatnonzero(self._fronts == front)]
            most = max(len(points) for points in left)
            if most:
                least_explored = [points for points in left if len(points) == most]
                return least_explored[int(rng.integers(len(least_explored)))].pop()
        return self._space.sample(rng)

    def _untried(self, member: int, rng: np.random.Generator) -> list[Point]:
        """The neighbours of a member that are left, the next one last."""
        if member not in self._around:
            near = neighbours(self._space, self._members[member].point, self._steps, rng)
            self._around[member] = [near[int(i)] for i in rng.permutation(len(near))]
        left = self._around[member]
        while left and left[-1] not in self._unseen:
            left.pop()
        return left


def neighbours(space: Space, point: Point, steps: int, rng: np.random.Generator) -> list[Point]:
    """All points that differ from `point` in one parameter and in meaning, each meaning once: any other option of a
    choice, the one before and after of an ordered one, `steps` random mutations of a real."""
    found: dict[str, Point] = {}
    for p in space.parameters:
        value = point[p.name]
        values: list[Scalar]
        if not isinstance(p, Choice):
            values = [p.mutate(value, rng) for _ in range(steps)]
        elif p.ordered:
            at = p.index(value)
            values = [*p.options[max(0, at - 1) : at], *p.options[at + 1 : at + 2]]
        else:
            values = [option for option in p.options if option != value]
        for other in values:
            near = {**point, p.name: other}
            found.setdefault(space.key(near), near)
    found.pop(space.key(point), None)
    return list(found.values())


def local_search(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, start: int = 10, steps: int = 4
) -> LocalSearch:
    """Pareto local search (Paquete, Chiarandini and Stützle, 2004), which explores one point of the archive at a time
    where this one takes turns, and ends where this one goes on behind the front. A real has `steps` neighbours."""
    return LocalSearch(space, objectives, seed, start, steps)
