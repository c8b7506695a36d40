"""Racing: drop what a rank test says is worse, as soon as it says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nasflow.space import Point, Space
from nasflow.strategies.rungs import FidelityError, Fresh, Rungs
from nasflow.study import Objective, Proposal, Trial

FEWEST_BLOCKS = 2  # results of each racer before the first test


def survivors(ranks: NDArray[np.float64], alpha: float, least: int) -> list[int]:
    """Rows of `ranks` (racers, blocks; 0 is best in a block, and some may be alike) that stay, the best first.

    If the Friedman test at `alpha` finds a difference, all go whose sum of ranks is further from the best than
    Conover's comparison (1999) allows, but `least` stay.
    """
    count, blocks = ranks.shape
    if count <= max(2, least) or blocks < FEWEST_BLOCKS or (ranks == ranks[0]).all():
        return [int(i) for i in np.argsort(ranks.sum(axis=1), kind="stable")]
    own = stats.rankdata(ranks, axis=0)
    sums = own.sum(axis=1)
    order = [int(i) for i in np.argsort(sums, kind="stable")]
    if stats.friedmanchisquare(*ranks).pvalue >= alpha:
        return order
    freedom = (blocks - 1) * (count - 1)
    spread = max(0.0, blocks * float((own**2).sum()) - float((sums**2).sum()))
    allowed = stats.t.ppf(1 - alpha / 2, freedom) * math.sqrt(2 * spread / freedom)
    stay = [i for i in order if sums[i] - sums[order[0]] <= allowed]
    return stay if len(stay) >= least else order[:least]


class Racing:
    """Races one after the other: all racers are trained for the first fidelity, then for the next, and so on, and
    after each the survivors go on. The survivors of a race start in the next one beside new points near them."""

    def __init__(self, space: Space, rungs: Rungs, size: int, alpha: float, least: int, seed: int) -> None:
        self._space = space
        self._rungs = rungs
        self._size = size
        self._alpha = alpha
        self._least = least
        self._fresh = Fresh(space, seed)
        self._races = 0
        self._rung = 0
        self._elite: list[Point] = []  # survivors of the race before, the best first
        self._racers: dict[str, Point] = {}  # by meaning
        self._left: list[Point] = []  # racers still to be asked for on this rung
        self._waiting = 0  # trials that were asked for and not told

    def ask(self, count: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        while len(proposals) < count:
            proposal = self._next()
            if proposal is None:
                break
            self._waiting += 1
            proposals.append(proposal)
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        self._waiting = max(0, self._waiting - len(trials))
        for trial in trials:
            self._fresh.see(trial.point)
            self._rungs.tell(trial)

    def _next(self) -> Proposal | None:
        """What comes next; None if that depends on what is not told yet."""
        while True:
            if self._left:
                return self._rungs.propose(self._left.pop(), self._rung)
            if self._rung == 0 and len(self._running()) + self._waiting < self._size:
                point = self._fresh.point(self._draw)
                if point is not None:
                    self._racers[self._space.key(point)] = point
                    return self._rungs.propose(point, 0)
            if self._waiting:
                return None
            if self._rung == 0 and self._running().keys() <= {self._space.key(p) for p in self._elite}:
                return self._rungs.leftover() or self._rungs.propose(self._fresh.any(), 0)
            self._advance()

    def _advance(self) -> None:
        """End a block: drop the worse, then train the others for longer, or begin the next race."""
        stay = self._survivors()
        if self._rung == self._rungs.top or not stay:
            self._begin(stay)
            return
        self._rung += 1
        self._racers = {self._space.key(point): point for point in stay}
        known = self._rungs.told(self._rung)
        self._left = [point for key, point in reversed(self._racers.items()) if key not in known]

    def _begin(self, elite: list[Point]) -> None:
        self._races += 1
        self._rung = 0
        self._elite = elite[: self._size // 2]
        self._racers = {self._space.key(point): point for point in self._elite}

    def _survivors(self) -> list[Point]:
        """Those that go on from the present rung, the best there first; who failed does not."""
        blocks = range(self._rung + 1)
        running = self._running()
        racers = [
            key
            for key in self._rungs.ranked(self._rung)
            if key in running and all(key in self._rungs.told(block) for block in blocks)
        ]
        ranks = np.array([self._rungs.levels(block, racers) for block in blocks], dtype=float).T
        stay = survivors(ranks, self._alpha, self._least)
        return [running[racers[i]] for i in sorted(stay)]

    def _running(self) -> dict[str, Point]:
        """The racers that were trained for the present rung and did not fail."""
        told = self._rungs.told(self._rung)
        return {
            key: point for key, point in self._racers.items() if key in told and told[key].state == "done"
        }

    def _draw(self, rng: np.random.Generator) -> Point:
        """At random in the first race; then near a survivor, with half as many changes from race to race."""
        if not self._elite:
            return self._space.sample(rng)
        point = self._elite[int(rng.integers(len(self._elite)))]
        for _ in range(max(1, round(len(self._space.parameters) * 0.5**self._races))):
            point = self._space.mutate(point, rng)
        return point


def racing(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    fidelities: Sequence[float] = (1 / 9, 1 / 3, 1.0),
    size: int = 12,
    alpha: float = 0.05,
    least: int = 3,
) -> Racing:
    """Races after the pattern of irace (López-Ibáñez et al., Operations Research Perspectives 2016): `size` racers,
    a Friedman test at `alpha` on their ranks, at least `least` survivors, new racers ever nearer to them.

    The great difference: irace races over many instances of a problem, and a training has none, so the blocks
    are trainings of rising length, few and not independent; the test comes after two of them, and how many
    survive and start are settings instead of formulas. With several objectives the rank in a block is the number of
    the front among the racers, so that nobody is dropped for one who is better in one objective and worse in another,
    which in a total order ends with the like of one network.
    """
    if not (size >= 2 and 1 <= least <= size and 0 < alpha < 1):
        raise FidelityError(
            "racing: expected a size of at least 2, least from 1 to size and alpha between 0 and 1, "
            f"got {size}, {least} and {alpha}"
        )
    return Racing(space, Rungs(space, objectives, fidelities), size, alpha, least, seed)
