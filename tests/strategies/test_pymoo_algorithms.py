"""pymoo's algorithms: directions, limits, and what they are with one objective."""

import importlib.util
import statistics

import numpy as np
import pytest

from nasflow.loop import Evaluate, run
from nasflow.strategies import pymoo_algorithms
from nasflow.strategies.pymoo_algorithms import (
    MissingExtra,
    agemoea,
    directions,
    moead,
    nsga2,
    nsga3,
    rvea,
    smsemoa,
)
from nasflow.strategies.random import random_search
from nasflow.study import Objective, Study
from nasflow.testing import joint, networks

TWO = (Objective("error"), Objective("flops"))
ALL = [
    nsga2,
    nsga3,
    moead,
    rvea,
    smsemoa,
    pytest.param(agemoea, marks=pytest.mark.long),
]  # it is compiled first


@pytest.mark.parametrize("objectives", range(1, 9))
def test_directions_are_few_different_and_reach_inside(objectives):
    found = directions(20, objectives)
    assert len(np.unique(found, axis=0)) == len(found) and (len(found) == 1 or 20 <= len(found) <= 50)
    assert found.sum(axis=1) == pytest.approx(1.0) and (found >= 0).all()
    assert (found > 0).all(axis=1).any(), "none is inside"
    assert all((found == corner).all(axis=1).any() for corner in np.eye(objectives)), "a corner is missing"


@pytest.mark.parametrize("make", [nsga3, moead, rvea, agemoea])
def test_with_one_objective_those_that_spread_are_the_plain_genetic_algorithm(make):
    toy, histories = networks(), []
    for one in (make, nsga3):
        study = Study(toy.space, (Objective("error"),))
        run(study, one(toy.space, study.objectives, population=5), Evaluate(toy.train), trials=20)
        histories.append([trial.point for trial in study.trials])
    assert histories[0] == histories[1]


@pytest.mark.parametrize("make", ALL)
def test_fronts_of_one_point_and_losses_that_are_all_equal_are_survived(make):
    toy = joint()
    for flat in (lambda trial: {"error": 1.0, "flops": 1.0}, lambda trial: {"error": 0.0, "flops": 0.0}):
        study = Study(toy.space, TWO)
        outcome = run(study, make(toy.space, TWO, population=5), Evaluate(flat), trials=30)
        assert outcome.complete and study.counts["done"] == 30


@pytest.mark.parametrize("make", ALL)
def test_limits_are_learnt(make):
    """After a while it asks for less that must be refused than random search does."""
    toy = joint()
    objectives = (Objective("error"), Objective("flops", limit=500.0))

    def refused(made, **settings) -> float:
        shares = []
        for seed in range(5):
            study = Study(toy.space, objectives)
            evaluate = Evaluate(toy.train, lambda point: {"flops": toy.metrics(point)["flops"]})
            run(study, made(toy.space, objectives, seed=seed, **settings), evaluate, trials=30, batch=2)
            late = study.trials[20:]
            shares.append(sum(trial.state == "refused" for trial in late) / len(late))
        return statistics.median(shares)

    assert refused(make, population=8) < 0.7 * refused(random_search)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'nasflow\[agemoea\]'"):
        agemoea(networks().space, TWO)
    assert pymoo_algorithms.agemoea(networks().space, TWO[:1]).ask(1), "one objective needs no numba"
