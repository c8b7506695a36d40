"""Given points first: each once and in order, then whatever another strategy asks for."""

import functools

import pytest

from nasflow.loop import Evaluate, run
from nasflow.space import Choice
from nasflow.strategies import optuna_samplers, pymoo_algorithms
from nasflow.strategies.listed import Listed
from nasflow.study import Objective, Study
from nasflow.testing import StrategyContract, StrategyUnderTest, networks

ONE = (Objective("error"),)


def first_corner_then(make, space, objectives, *, seed=0):
    corner = {p.name: p.options[0] if isinstance(p, Choice) else p.low for p in space.parameters}
    return Listed([corner], make(space, objectives, seed=seed, population=8))


AFTERWARDS = {"optuna": optuna_samplers.nsga2, "pymoo": pymoo_algorithms.nsga2}


class TestListedThenAnother(StrategyContract):
    @pytest.fixture(params=sorted(AFTERWARDS))
    def strategy(self, request: pytest.FixtureRequest) -> StrategyUnderTest:
        return StrategyUnderTest(functools.partial(first_corner_then, AFTERWARDS[request.param]))


def test_a_list_is_trained_once_in_order_and_that_is_all():
    toy = networks()
    points = list(toy.points())[5:10]
    study = Study(toy.space, ONE)
    outcome = run(study, Listed(points), Evaluate(toy.train), trials=50, batch=3)
    assert [trial.point for trial in study.trials] == points
    assert outcome.complete and [ask.count for ask in study.asks] == [3, 3]


def test_the_points_stay_the_callers():
    points = [{"a": 1}]
    Listed(points).ask(1)[0].point["a"] = 2
    assert points == [{"a": 1}]
