"""Asynchronous successive halving (ASHA), for one objective and for several."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from nasflow.space import Point, Space
from nasflow.strategies.rungs import Draw, FidelityError, Fresh, Rungs, share, uniform
from nasflow.study import Objective, Proposal, Trial

RANDOM_FIRST = 10  # points that stand on a rung before new ones are made from its best
PARENTS = 0.2  # share of a rung that new points are made from


class Asha:
    """Promotes whoever is among the best of a rung, from the highest rung down; where nobody is, a new point starts
    at the bottom. Nothing ever waits for a rung to fill.

    `promoted[rung]` says that one in so many is promoted from there, which bounds both who may be and how
    many are in all. When the space has no new points, those that wait climb, the best first.
    """

    def __init__(self, space: Space, rungs: Rungs, promoted: Sequence[float], seed: int, draw: Draw) -> None:
        if not all(eta > 1 for eta in promoted):
            raise FidelityError(
                f"eta: expected a number above 1, since one in eta is promoted, got {list(promoted)}"
            )
        self._rungs = rungs
        self._promoted = promoted
        self._fresh = Fresh(space, seed)
        self._draw = draw

    def ask(self, count: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        while len(proposals) < count:
            proposal = self._promotion() or self._beginning() or self._rungs.leftover()
            if proposal is None:
                if proposals:
                    break  # what was asked for may be worth promoting once it is told
                proposal = self._rungs.propose(self._fresh.any(), 0)
            proposals.append(proposal)
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._fresh.see(trial.point)
            self._rungs.tell(trial)

    def _promotion(self) -> Proposal | None:
        for rung in reversed(range(self._rungs.top)):
            among = share(len(self._rungs.told(rung)), self._promoted[rung])
            if len(self._rungs.asked(rung + 1)) < among:
                trial = self._rungs.waiting(rung, among)
                if trial is not None:
                    return self._rungs.propose(trial.point, rung + 1)
        return None

    def _beginning(self) -> Proposal | None:
        point = self._fresh.point(lambda rng: self._draw(self._rungs, rng))
        return None if point is None else self._rungs.propose(point, 0)


def asha(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    fidelities: Sequence[float] = (1 / 9, 1 / 3, 1.0),
    eta: float = 3.0,
) -> Asha:
    """Asynchronous successive halving (Li et al., MLSys 2020): one in `eta` is promoted, new points are random.

    Two things differ from the paper: a promoted point is trained anew, and never more than one in `eta` of a
    rung are promoted in all, where the paper's rule promotes more when better ones come later. With several
    objectives a rung is ordered as `mo_asha` orders it.
    """
    rungs = Rungs(space, objectives, fidelities)
    return Asha(space, rungs, [eta] * rungs.top, seed, uniform(space))


def mo_asha(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    fidelities: Sequence[float] = (1 / 9, 1 / 3, 1.0),
    eta: float | None = None,
    rungs: int = 3,
    sampler: Literal["evolution", "random"] = "evolution",
) -> Asha:
    """ASHA for several objectives: a rung is ordered by non-dominated sorting and, within a front, by what each
    point adds to its hypervolume.

    The idea of sorting rungs by fronts is that of Schmucker et al. (2021, arXiv:2106.12639), who order within
    a front otherwise. Three more things are not of ASHA, and each can be set back: at most the shortest, the full and
    one training between are used (`rungs` of the fidelities); without `eta`, one in as many is promoted as the training
    is longer, so that all rungs cost the same; and new points are children of the best of the longest trainings of
    which there are some (`sampler="evolution"`). With all of them set back and one objective it is `asha`.
    """
    if rungs < 1:
        raise FidelityError(f"mo-asha: expected at least one rung, got {rungs}")
    if sampler not in ("evolution", "random"):
        raise FidelityError(f"mo-asha: sampler is evolution or random, got {sampler!r}")
    kept = np.linspace(len(fidelities) - 1, 0, min(rungs, len(fidelities))).round().astype(int)
    used = Rungs(space, objectives, [fidelities[i] for i in reversed(kept)])
    longer = [b / a for a, b in itertools.pairwise(used.fidelities)]
    draw = evolution(space) if sampler == "evolution" else uniform(space)
    return Asha(space, used, longer if eta is None else [eta] * used.top, seed, draw)


def evolution(space: Space) -> Draw:
    """Children of the best on the highest rung that has some points, since short trainings foretell little: one parent
    or a cross of two, one parameter changed."""

    def draw(rungs: Rungs, rng: np.random.Generator) -> Point:
        enough = [rung for rung in range(rungs.top + 1) if len(rungs.told(rung)) >= RANDOM_FIRST]
        if not enough:
            return space.sample(rng)
        told, best = rungs.told(enough[-1]), rungs.ranked(enough[-1])
        parents = max(2, int(PARENTS * len(best)))

        def parent() -> Point:
            return told[best[int(rng.integers(parents, size=2).min())]].point

        child = parent()
        if rng.random() < 0.5:
            child = space.crossover(child, parent(), rng)
        return space.mutate(child, rng)

    return draw
