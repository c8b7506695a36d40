"""Every built-in strategy keeps the contract of strategies."""

import functools
import inspect

import pytest

from nasflow import names
from nasflow.strategies import optuna_samplers, pymoo_algorithms
from nasflow.strategies.random import random_search
from nasflow.testing import StrategyContract, StrategyUnderTest

STRATEGIES = {
    "optuna-nsga2": StrategyUnderTest(
        functools.partial(optuna_samplers.nsga2, population=8), other={"population": 5}
    ),
    "optuna-tpe": StrategyUnderTest(functools.partial(optuna_samplers.tpe, startup=6), other={"startup": 9}),
    "pymoo-nsga2": StrategyUnderTest(
        functools.partial(pymoo_algorithms.nsga2, population=8), other={"population": 5}
    ),
    "random": StrategyUnderTest(random_search, learns=False),
}


def factory(strategy: StrategyUnderTest) -> object:
    return strategy.make.func if isinstance(strategy.make, functools.partial) else strategy.make


def test_no_built_in_strategy_is_missing_from_the_table():
    held = {factory(strategy) for strategy in STRATEGIES.values()}
    assert {names.resolve("strategy", name) for name in names.TABLES["strategy"]} <= held


def test_every_entry_of_the_table_is_what_its_name_stands_for():
    for name, strategy in STRATEGIES.items():
        assert names.resolve("strategy", name) is factory(strategy)


def test_every_built_in_strategy_takes_space_objectives_and_a_seed():
    for strategy in STRATEGIES.values():
        parameters = inspect.signature(factory(strategy)).parameters
        assert list(parameters)[:3] == ["space", "objectives", "seed"]


class TestStrategies(StrategyContract):
    @pytest.fixture(params=sorted(STRATEGIES))
    def strategy(self, request: pytest.FixtureRequest) -> StrategyUnderTest:
        return STRATEGIES[request.param]
