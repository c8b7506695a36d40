"""Random search: the baseline that every other strategy has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nasflow.space import Space
from nasflow.study import Objective, Proposal, Trial

REDRAWS = 50


@dataclass
class RandomSearch:
    """Draws points on their own, passing over meanings it has drawn before as long as new ones are easy to find."""

    space: Space
    seed: int = 0
    _asked: int = 0
    _seen: set[str] = field(default_factory=set)

    def ask(self, count: int) -> list[Proposal]:
        return [self._next() for _ in range(count)]

    def tell(self, trials: Sequence[Trial]) -> None:
        pass

    def _next(self) -> Proposal:
        rng = np.random.default_rng((self.seed, self._asked))
        self._asked += 1
        point = self.space.sample(rng)
        for _ in range(REDRAWS):
            if self.space.key(point) not in self._seen:
                break
            point = self.space.sample(rng)
        self._seen.add(self.space.key(point))
        return Proposal(point)


def random_search(space: Space, objectives: Sequence[Objective], *, seed: int = 0) -> RandomSearch:
    """Uniform random search without repetition (Bergstra and Bengio, JMLR 2012; Li and Talwalkar, UAI 2019)."""
    return RandomSearch(space, seed)
