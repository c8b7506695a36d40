"""Rungs of trainings of rising length: who stands on each, in which order, and who may climb.

What all multi-fidelity strategies share. A point climbs by being trained anew for longer, with the schedule of its
learning rate stretched to that length, so what it cost below is spent; each step is a trial of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from nasflow import pareto
from nasflow.errors import NasflowError
from nasflow.space import Point, Space
from nasflow.study import Objective, Proposal, Trial

REDRAWS = 30
CORNER = 1.1  # the reference of hypervolumes, with the places of those that are compared from 0 to 1
EXACT = 4  # objectives up to which hypervolumes are computed; beyond they are estimated
SAMPLES = 4096
SAME = 1e-6  # fidelities nearer than this are one


class FidelityError(NasflowError):
    """Fidelities or shares of promotion that make no ladder."""


def best_first(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[int]:
    """Indices of `trials` (all of one fidelity), the most promising first.

    Those that keep every limit come first, front after front (non-dominated sorting), and within a front by
    what each adds to its hypervolume; for one objective that is the order of losses. Then those over a limit,
    the least so first; last those that failed. Ties stay in the order given.

    Hypervolumes are of the losses' places among all that keep the limits: the cheapest networks err so much that by
    value a front's useless end would climb first.
    """
    level, worth = levels(trials, objectives), np.zeros(len(trials))
    inside = [i for i in range(len(trials)) if level[i] < len(trials)]
    if inside and sum(objective.optimise for objective in objectives) > 1:
        scaled = pareto.places(_losses([trials[i] for i in inside], objectives))
        fronts = level[inside]
        for front in range(fronts.max() + 1):
            members = fronts == front
            worth[np.array(inside)[members]] = contributions(scaled[members])
    return [int(i) for i in np.lexsort((-worth, level))]


def levels(trials: Sequence[Trial], objectives: Sequence[Objective]) -> NDArray[np.int64]:
    """Array (trials,): of those that keep every limit the number of the front, 0 the best; larger ones, at least as
    large as there are trials, for those over a limit, the least so first, and the largest for those that failed."""
    over = [
        sum(o.violation(trial.metrics) for o in objectives) if trial.state == "done" else np.inf
        for trial in trials
    ]
    level = np.asarray(len(trials) + np.unique(over, return_inverse=True)[1], dtype=np.int64)
    inside = [i for i, violation in enumerate(over) if not violation]
    level[inside] = pareto.ranks(_losses([trials[i] for i in inside], objectives))
    return level


def _losses(trials: Sequence[Trial], objectives: Sequence[Objective]) -> pareto.Losses:
    optimised = [objective for objective in objectives if objective.optimise]
    losses = np.array([[o.loss(trial.metrics) for o in optimised] for trial in trials], dtype=float)
    return losses.reshape(len(trials), len(optimised))


def contributions(front: pareto.Losses) -> NDArray[np.float64]:
    """What each of some points (points, objectives), all in [0, 1], adds to the hypervolume of the others."""
    count = front.shape[1]
    if count <= EXACT:
        return np.asarray(moocore.hv_contributions(front, ref=np.full(count, CORNER)), dtype=float)
    samples = CORNER * np.random.default_rng(0).random((SAMPLES, count))
    covers = (front[:, None, :] <= samples[None, :, :]).all(axis=2)
    return np.asarray((covers & (covers.sum(axis=0) == 1)).mean(axis=1), dtype=float)


def share(count: int, eta: float, steps: int = 1) -> int:
    """The `eta`**-`steps` part of `count`, rounded down; 81 / 3 is 27 whatever floating point thinks of it."""
    return math.floor(count * eta**-steps + SAME)


class Rungs:
    """What is known at each of the `fidelities`, lowest first, by the meaning of points."""

    def __init__(self, space: Space, objectives: Sequence[Objective], fidelities: Sequence[float]) -> None:
        ascending = all(a < b for a, b in itertools.pairwise(fidelities))
        if not fidelities or not ascending or fidelities[0] <= 0 or fidelities[-1] != 1.0:
            raise FidelityError(
                f"fidelities: expected rising shares of a full training above 0, the last 1, got {list(fidelities)}"
            )
        self.fidelities = tuple(fidelities)
        self.several = sum(objective.optimise for objective in objectives) > 1
        self._space = space
        self._objectives = objectives
        self._told: list[dict[str, Trial]] = [{} for _ in fidelities]
        self._asked: list[set[str]] = [set() for _ in fidelities]
        self._orders: list[list[str] | None] = [None for _ in fidelities]

    @property
    def top(self) -> int:
        return len(self.fidelities) - 1

    def propose(self, point: Point, rung: int) -> Proposal:
        """Ask for `point` on `rung`; it is not to be promoted there again."""
        self._asked[rung].add(self._space.key(point))
        return Proposal(point, self.fidelities[rung])

    def tell(self, trial: Trial) -> None:
        """Learn of a trial. Those refused cost nothing and stand nowhere, copies stand where their original does."""
        rungs = [i for i, fidelity in enumerate(self.fidelities) if abs(fidelity - trial.fidelity) < SAME]
        if rungs:
            key = self._space.key(trial.point)
            self._asked[rungs[0]].add(key)
            if trial.state in ("done", "failed"):
                self._told[rungs[0]][key] = trial
                self._orders[rungs[0]] = None

    def asked(self, rung: int) -> set[str]:
        """The meanings of all points that were asked for on a rung."""
        return self._asked[rung]

    def told(self, rung: int) -> dict[str, Trial]:
        """Trials that were trained for this rung, by the meaning of their points, in the order they ended."""
        return self._told[rung]

    def ranked(self, rung: int) -> list[str]:
        """The meanings of the points on a rung, the most promising first."""
        order = self._orders[rung]
        if order is None:
            keys = list(self._told[rung])
            order = [keys[i] for i in best_first(list(self._told[rung].values()), self._objectives)]
            self._orders[rung] = order
        return order

    def levels(self, rung: int, keys: Sequence[str]) -> NDArray[np.int64]:
        """How good each of some points on a rung is among them (`levels`), lower is better."""
        return levels([self._told[rung][key] for key in keys], self._objectives)

    def waiting(self, rung: int, among: int | None = None) -> Trial | None:
        """The best on `rung` (of its first `among`) that did not fail and was not asked for on the next one yet."""
        for key in self.ranked(rung)[:among]:
            trial = self._told[rung][key]
            if trial.state == "done" and key not in self._asked[rung + 1]:
                return trial
        return None

    def leftover(self) -> Proposal | None:
        """A step up for the best of the highest rung where one waits: what is left to do in a space used up."""
        for rung in reversed(range(self.top)):
            trial = self.waiting(rung)
            if trial is not None:
                return self.propose(trial.point, rung + 1)
        return None


Draw = Callable[[Rungs, np.random.Generator], Point]


def uniform(space: Space) -> Draw:
    """New points drawn at random, whatever is known."""
    return lambda rungs, rng: space.sample(rng)


class Fresh:
    """Draws points of a space, new in meaning as long as new ones are easy to find."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed
        self._draws = 0
        self._seen: set[str] = set()

    def point(self, draw: Callable[[np.random.Generator], Point]) -> Point | None:
        """The first new one of what `draw` gives in some tries, or a random one in some more; None if all are old."""
        rng = np.random.default_rng((self._seed, self._draws))
        self._draws += 1
        for source in (draw, self._space.sample):
            for _ in range(REDRAWS):
                point = source(rng)
                if self.see(point):
                    return point
        return None

    def any(self) -> Point:
        """A random point, new or not."""
        rng = np.random.default_rng((self._seed, self._draws))
        self._draws += 1
        return self._space.sample(rng)

    def see(self, point: Point) -> bool:
        """Note that a point is no longer new; whether it was."""
        key = self._space.key(point)
        new = key not in self._seen
        self._seen.add(key)
        return new
