"""pymoo's SMS-EMOA behind the adapter against its paper (Beume et al., 2007): who leaves adds least hypervolume."""

import numpy as np
import pytest

from nasflow import pareto
from nasflow.space import Choice, Space
from nasflow.strategies.pymoo_algorithms import smsemoa
from nasflow.study import Objective, Trial

TWO = (Objective("x"), Objective("y"))
SPACE = Space((Choice("a", tuple(range(400)), ordered=True),))


def line(point):
    share = float(point["a"]) / 399
    return {"x": share, "y": (1.0 - share) ** 2}


def test_who_leaves_a_front_adds_least_to_its_hypervolume():
    one = smsemoa(SPACE, TWO, population=8, children=1)
    one.tell([Trial(0, p.point, state="done", metrics=line(p.point)) for p in one.ask(8)])
    for _ in range(30):
        parents = one._algorithm.pop.get("F")
        (proposal,) = one.ask(5)
        one.tell([Trial(0, proposal.point, state="done", metrics=line(proposal.point))])
        low, extent = (np.array([getattr(s, name) for s in one._scales]) for name in ("best", "span"))
        child = (np.array([line(proposal.point)["x"], line(proposal.point)["y"]]) - low) / extent
        candidates = np.vstack([parents, child])
        scaled = (candidates - parents.min(axis=0)) / (parents.max(axis=0) - parents.min(axis=0))
        corner = np.full(2, 11.0)
        without = [pareto.hypervolume(np.delete(scaled, i, axis=0), corner) for i in range(9)]
        kept = one._algorithm.pop.get("F")
        gone = [i for i in range(9) if not np.isclose(kept, candidates[i]).all(axis=1).any()]
        assert len(gone) == 1
        assert without[gone[0]] == pytest.approx(max(without))
