"""Successive halving: train many points a little, and the better part of them longer and longer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nasflow.space import Point, Space
from nasflow.strategies.rungs import SAME, Draw, FidelityError, Fresh, Rungs, share, uniform
from nasflow.study import Objective, Proposal, Trial


@dataclass(frozen=True)
class Bracket:
    """How many points stand on each rung, from rung `start` up."""

    start: int
    sizes: tuple[int, ...]


def bracket(start: int, rungs: int, begin: int, eta: float) -> Bracket:
    """`begin` points on rung `start`, of which one in `eta` climbs at each step up to the last of `rungs`."""
    return Bracket(start, tuple(max(1, share(begin, eta, step)) for step in range(rungs - start)))


def check_eta(eta: float) -> None:
    if not eta > 1:
        raise FidelityError(f"eta: expected a number above 1, since one in eta is kept, got {eta}")


class Halving:
    """Brackets one after the other, over and over; a step up begins when all of the step before are trained.

    Refused points take no place in a bracket. With one objective the best of its members climb, as published. With
    several it is the best of all that ever reached the step and did not climb: a bracket sends up one or few, of which
    none may be of use to the front while another left two behind that are. When the space has no new points, those
    that wait climb, the best first.
    """

    def __init__(
        self, space: Space, rungs: Rungs, brackets: Sequence[Bracket], seed: int, draw: Draw
    ) -> None:
        self._space = space
        self._rungs = rungs
        self._brackets = brackets
        self._fresh = Fresh(space, seed)
        self._draw = draw
        self._begun = 0  # brackets
        self._step = 0  # of the present one
        self._members: list[str] = []  # of the present step, by meaning
        self._climbing: list[Point] = []  # those of them still to be asked for
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
            if self._climbing:
                return self._rungs.propose(self._climbing.pop(), self._rung)
            if self._step == 0 and len(self._trained()) + self._waiting < self._bracket.sizes[0]:
                point = self._fresh.point(lambda rng: self._draw(self._rungs, rng))
                if point is not None:
                    self._members.append(self._space.key(point))
                    return self._rungs.propose(point, self._rung)
            if self._waiting:
                return None
            if not self._trained():
                return self._rungs.leftover() or self._rungs.propose(self._fresh.any(), self._rung)
            self._climb()

    def _climb(self) -> None:
        """Go one step up with the best, or on to the next bracket."""
        able = self._able() if self._step + 1 < len(self._bracket.sizes) else []
        if able:
            told = self._rungs.told(self._rung)
            self._step += 1
            self._members = able[: self._bracket.sizes[self._step]]
            self._climbing = [told[key].point for key in reversed(self._members)]
        else:
            self._begun, self._step, self._members = self._begun + 1, 0, []

    def _able(self) -> list[str]:
        """Who may climb from the present step, the best first."""
        told = self._rungs.told(self._rung)
        among = told.keys() - self._rungs.asked(self._rung + 1) if self._rungs.several else self._trained()
        return [key for key in self._rungs.ranked(self._rung) if key in among and told[key].state == "done"]

    @property
    def _bracket(self) -> Bracket:
        return self._brackets[self._begun % len(self._brackets)]

    @property
    def _rung(self) -> int:
        return self._bracket.start + self._step

    def _trained(self) -> set[str]:
        """The members of the present step that were trained."""
        return self._rungs.told(self._rung).keys() & set(self._members)


def successive_halving(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    fidelities: Sequence[float] = (1 / 9, 1 / 3, 1.0),
    eta: float = 3.0,
) -> Halving:
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016): of every `eta` points one is trained longer.

    Begins with as many points as leave one for the full training, at random, and then again with others. A
    point that goes on is trained anew. With several objectives "better" is the order of `rungs.best_first`, and who
    was left behind by an earlier bracket may still climb.
    """
    check_eta(eta)
    rungs = Rungs(space, objectives, fidelities)
    begin = math.floor(eta**rungs.top + SAME)
    return Halving(space, rungs, [bracket(0, rungs.top + 1, begin, eta)], seed, uniform(space))
