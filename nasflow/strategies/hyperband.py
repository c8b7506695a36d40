"""Hyperband: successive halving at all trades between many short trainings and few long ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from nasflow.space import Space
from nasflow.strategies.rungs import SAME, FidelityError, Rungs, uniform
from nasflow.strategies.successive_halving import Bracket, Halving, bracket, check_eta
from nasflow.study import Objective

Table = Literal["jmlr", "iclr"]


def brackets(rungs: int, eta: float, table: Table) -> list[Bracket]:
    """The brackets of one round over so many rungs, the one that tries most points first.

    With s the steps that a bracket has and S the most: it begins with ceil((S+1)/(s+1) * eta**s) points as in the
    article ("jmlr"), or with floor((S+1)/(s+1)) * eta**s as in the authors' first code and HpBandSter ("iclr").
    """
    check_eta(eta)
    if table not in ("jmlr", "iclr"):
        raise FidelityError(f"table: expected jmlr or iclr, got {table!r}")
    most, made = rungs - 1, []
    for steps in reversed(range(rungs)):
        if table == "jmlr":
            begin = math.ceil((most + 1) / (steps + 1) * eta**steps - SAME)
        else:
            begin = math.floor((most + 1) // (steps + 1) * eta**steps + SAME)
        made.append(bracket(most - steps, rungs, begin, eta))
    return made


def hyperband(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    fidelities: Sequence[float] = (1 / 9, 1 / 3, 1.0),
    eta: float = 3.0,
    table: Table = "jmlr",
) -> Halving:
    """Hyperband (Li et al., JMLR 2018), with the `table` of brackets of the article or of the code (ICLR 2017).

    A point that goes on is trained anew. With several objectives "better" is the order of `rungs.best_first`, and who
    was left behind by an earlier bracket may still climb.
    """
    rungs = Rungs(space, objectives, fidelities)
    return Halving(space, rungs, brackets(rungs.top + 1, eta, table), seed, uniform(space))
