"""Aging evolution: whoever is oldest dies, however fit; and AREA, which starts it from points with good scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from nasflow.errors import NasflowError
from nasflow.space import Point, Space
from nasflow.strategies import nsga2
from nasflow.strategies.population import Member, Numbers, Unseen, constrained, members
from nasflow.study import Metrics, Objective, Proposal, Trial


class ScoreError(NasflowError):
    """A search that begins with the best by a score, without that score."""


class AgingEvolution:
    """The last `population` points evaluated; the fittest of `sample` of them, drawn with replacement, is changed in
    one parameter to become the next.

    The first `population` points are those that `begin` gives, or random. Fitness is the number of a point's front
    in the population and then its crowding distance: with one objective, the loss. Without `aging` the least fit
    dies instead of the oldest. What oversteps a limit is a member only while nothing else is.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        seed: int,
        population: int,
        sample: int,
        aging: bool = True,
        begin: Callable[[], Sequence[Point]] = tuple,
    ) -> None:
        self.members: list[Member] = []
        self._space, self._objectives = space, objectives
        self._population, self._sample, self._aging, self._begin = population, sample, aging, begin
        self._unseen = Unseen(space, seed)
        self._judged = np.zeros(0)

    def ask(self, count: int) -> list[Proposal]:
        return [self._unseen.propose(self._draw) for _ in range(count)]

    def tell(self, trials: Sequence[Trial]) -> None:
        self._unseen.note(trials)
        for member in members(trials, self._objectives):
            if member.violation and any(not other.violation for other in self.members):
                continue
            self.members.append(member)
            if len(self.members) > self._population:
                del self.members[0 if self._aging else int(self._fitness().argmax())]
        self._judged = self._fitness()

    def _draw(self, rng: np.random.Generator) -> Point:
        asked = self._unseen.asked
        if asked < len(self._first):
            return self._first[asked]
        if asked < self._population or not self.members:
            return self._space.sample(rng)
        drawn = rng.integers(len(self.members), size=self._sample)
        parent = self.members[int(drawn[self._judged[drawn].argmin()])]
        return self._space.mutate(parent.point, rng)

    @cached_property
    def _first(self) -> Sequence[Point]:
        return self._begin()[: self._population]

    def _fitness(self) -> Numbers:
        return constrained(self.members, nsga2.fitness)


def aging_evolution(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    population: int = 20,
    sample: int = 10,
    aging: bool = True,
) -> AgingEvolution:
    """Regularized evolution (Real et al., AAAI 2019), with a population for hundreds of trials instead of the paper's
    100 and samples of 25 for 20,000. No point is evaluated twice, so there is no identity mutation.
    `aging=False` removes the worst instead of the oldest, to see what aging does."""
    return AgingEvolution(space, objectives, seed, population, sample, aging)


def area(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    population: int = 20,
    sample: int = 10,
    pool: int = 200,
    score: str = "naswot",
    cheap: Callable[[Point], Metrics] | None = None,
) -> AgingEvolution:
    """Assisted regularized evolution (Mellor et al., ICML 2021): aging evolution that begins with the `population` best
    of `pool` random points by a zero-cost score, the metric `score` of `cheap(point)`, higher is better."""
    if cheap is None:
        raise ScoreError(
            f"area begins with the best points by the score {score!r} of untrained networks, which nothing here knows: "
            "give `cheap`, a function of a point whose metrics it is among, or search by aging-evolution"
        )

    def value(point: Point) -> float:
        known = cheap(point)
        if score not in known:
            raise ScoreError(
                f"area: no score {score!r} among what is known before training, which is "
                f"{', '.join(sorted(known)) or 'nothing'}; name one of these by `score`, or have that one computed"
            )
        return -math.inf if math.isnan(known[score]) else known[score]

    def begin() -> list[Point]:
        rng = np.random.default_rng((seed, 0, 1))  # not what the search itself draws from
        drawn = [space.sample(rng) for _ in range(pool)]
        different = list({space.key(point): point for point in drawn}.values())
        return sorted(different, key=value, reverse=True)

    return AgingEvolution(space, objectives, seed, population, sample, begin=begin)
