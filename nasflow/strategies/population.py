"""What strategies that breed share: members, what limits do to their fitness, points not asked for before, and the
loop of evolution itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nasflow import pareto
from nasflow.errors import NasflowError
from nasflow.pareto import Losses
from nasflow.space import Point, Scalar, Space
from nasflow.study import Objective, Proposal, Trial

REDRAWS = 10
WALK = 200
CROSSOVER = 0.9

Numbers = NDArray[np.float64]
Fitness = Callable[[Losses], Numbers]
"""Losses (points, objectives) of points within all limits to one number each, lower is better."""
Worst = Callable[[Losses, int], int]
"""The index of the point to drop next, of losses (points, objectives) that are `int` points too many."""
Scale = Literal["places", "values"]


class ScaleError(NasflowError, ValueError):
    """A scale of losses that there is not."""


def check_scale(scale: Scale) -> Scale:
    """The scale itself, if there is one of its name."""
    if scale not in get_args(Scale):
        raise ScaleError(f"scale: expected {' or '.join(get_args(Scale))}, got {scale!r}")
    return scale


@dataclass(frozen=True)
class Member:
    """A point that may be a parent. `violation` is the sum of its overstepped limits, as shares of them; if that is
    not 0, nothing else counts and it has no `losses`."""

    point: Point
    losses: tuple[float, ...]
    violation: float


def members(trials: Iterable[Trial], objectives: Sequence[Objective]) -> list[Member]:
    """Those of `trials` that may be parents: not what failed, nor duplicates of what was told before."""
    able = []
    for trial in trials:
        if trial.state not in ("done", "refused"):
            continue
        violation = sum(objective.violation(trial.metrics) for objective in objectives)
        losses = () if violation else tuple(o.loss(trial.metrics) for o in objectives if o.optimise)
        able.append(Member(trial.point, losses, violation))
    return able


def constrained(population: Sequence[Member], fitness: Fitness) -> Numbers:
    """The fitness of each member; those that overstep limits are worse than all that do not, in the order of their
    violations (constrained domination; Deb et al., IEEE TEC 2002, section VI)."""
    judged = np.array([1.0 + member.violation for member in population])
    within = np.array([not member.violation for member in population], dtype=bool)
    if within.any():
        values = fitness(np.array([member.losses for member in population if not member.violation]))
        judged[within] = values
        judged[~within] += values.max()
    return judged


class Unseen:
    """Proposals whose meaning was not asked for before, as long as such ones are easy to find; each is drawn with
    a generator of its own, so that a search does not depend on how many are asked for at once."""

    def __init__(self, space: Space, seed: int) -> None:
        self.asked = 0
        self._space, self._seed = space, seed
        self._seen: set[str] = set()

    def __contains__(self, point: Mapping[str, Scalar]) -> bool:
        return self._space.key(point) not in self._seen

    def propose(self, draw: Callable[[np.random.Generator], Point]) -> Proposal:
        """What `draw` gives; if that is known, what it gives next; if it gives nothing new at all, a walk of
        mutations away from it."""
        rng = np.random.default_rng((self._seed, self.asked))
        point = draw(rng)
        for attempt in range(REDRAWS + WALK):
            if point in self:
                break
            point = draw(rng) if attempt < REDRAWS else self._space.mutate(point, rng)
        self.asked += 1
        self._seen.add(self._space.key(point))
        return Proposal(point)

    def note(self, trials: Iterable[Trial]) -> None:
        """Count what was told as known, whoever asked for it."""
        self._seen.update(self._space.key(trial.point) for trial in trials)


def child(space: Space, a: Mapping[str, Scalar], b: Mapping[str, Scalar], rng: np.random.Generator) -> Point:
    """Of two parents: crossed nine times of ten, then every parameter mutated with a chance of one in their number."""
    point = space.crossover(a, b, rng) if rng.random() < CROSSOVER else dict(a)
    count = len(space.parameters)
    for _ in range(int(rng.binomial(count, 1.0 / count))):
        point = space.mutate(point, rng)
    return point


class Evolution:
    """A population that keeps the best of itself and its children.

    The first `population` points are random. Then parents win binary tournaments by `fitness`, and whenever trials
    are told, the members that are too many are dropped one by one: the one that oversteps limits most, or else the
    `worst`, which is the least fit unless something else is said. How many children share their parents is decided
    by who asks: one in a search without batches (steady state), a generation if batches are as large as that.

    With the scale "places" both are told each loss as its place among all that were seen, 0 the best and 1 the worst,
    instead of its value.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        seed: int,
        population: int,
        fitness: Fitness,
        worst: Worst | None = None,
        scale: Scale = "values",
    ) -> None:
        check_scale(scale)
        self.members: list[Member] = []
        self._space, self._objectives, self._population = space, objectives, population
        self._fitness = fitness
        self._worst = worst or (lambda losses, surplus: int(fitness(losses).argmax()))
        self._scale = scale
        self._unseen = Unseen(space, seed)
        self._seen: list[tuple[float, ...]] = []  # losses of all that were members
        self._judged = np.zeros(0)

    def ask(self, count: int) -> list[Proposal]:
        return [self._unseen.propose(self._draw) for _ in range(count)]

    def tell(self, trials: Sequence[Trial]) -> None:
        self._unseen.note(trials)
        new = members(trials, self._objectives)
        self.members += new
        self._seen += [member.losses for member in new if not member.violation]
        while len(self.members) > self._population:
            del self.members[self._least()]
        self._judged = constrained(self.members, lambda losses: self._fitness(self._scaled(losses)))

    def _draw(self, rng: np.random.Generator) -> Point:
        if self._unseen.asked < self._population or not self.members:
            return self._space.sample(rng)
        return child(self._space, self._parent(rng), self._parent(rng), rng)

    def _parent(self, rng: np.random.Generator) -> Point:
        one, other = (int(index) for index in rng.integers(len(self.members), size=2))
        return self.members[one if self._judged[one] <= self._judged[other] else other].point

    def _least(self) -> int:
        violations = np.array([member.violation for member in self.members])
        if violations.any():
            return int(violations.argmax())
        losses = np.array([member.losses for member in self.members])
        return self._worst(self._scaled(losses), len(losses) - self._population)

    def _scaled(self, losses: Losses) -> Losses:
        return losses if self._scale == "values" else pareto.places(losses, np.array(self._seen))
