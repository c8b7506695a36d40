"""Every built-in strategy keeps the contract of strategies."""

import functools
import inspect

import pytest

from nasflow import names
from nasflow.space import Point
from nasflow.strategies import (
    asha,
    auto,
    bohb,
    ehvi,
    evolution,
    grid,
    hype,
    hyperband,
    ibea,
    local_search,
    nsga2,
    optuna_cmaes,
    optuna_samplers,
    parego,
    pymoo_algorithms,
    racing,
    scalarised,
    successive_halving,
)
from nasflow.strategies.random import random_search
from nasflow.testing import StrategyContract, StrategyUnderTest
from nasflow.testing.toys import joint


def scores(point: Point) -> dict[str, float]:
    """Two stand-ins for zero-cost scores, of any toy's points."""
    numbers = [float(value) for value in point.values() if isinstance(value, (int, float))]
    return {"alike": -abs(sum(numbers) - 20.0), "unlike": sum(numbers)}


STRATEGIES = {
    "aging-evolution": StrategyUnderTest(
        functools.partial(evolution.aging_evolution, population=8, sample=4),
        other={"population": 5, "sample": 7, "aging": False},
    ),
    "area": StrategyUnderTest(
        functools.partial(evolution.area, population=8, sample=4, pool=24, score="alike", cheap=scores),
        other={
            "population": 5,
            "sample": 7,
            "pool": 40,
            "score": "unlike",
            "cheap": lambda point: {"alike": -scores(point)["alike"]},
        },
    ),
    "asha": StrategyUnderTest(asha.asha, other={"eta": 2.0, "fidelities": (0.25, 1.0)}),
    "auto": StrategyUnderTest(
        auto.auto,
        other={
            "cheap": lambda point: {"flops": joint().metrics(point)["flops"]},
            "fidelities": (0.25, 1.0),
        },
    ),
    "bohb": StrategyUnderTest(
        bohb.bohb, other={"eta": 2.0, "fidelities": (0.25, 1.0), "random_fraction": 1.0}
    ),
    "ehvi": StrategyUnderTest(ehvi.ehvi, other={"start": 6}),
    "hype": StrategyUnderTest(
        functools.partial(hype.hype, population=8), other={"population": 5, "samples": 10, "scale": "values"}
    ),
    "hyperband": StrategyUnderTest(
        hyperband.hyperband, other={"eta": 2.0, "fidelities": (0.25, 1.0), "table": "iclr"}
    ),
    "ibea": StrategyUnderTest(
        functools.partial(ibea.ibea, population=8), other={"population": 5, "kappa": 1.0, "scale": "values"}
    ),
    "localsearch": StrategyUnderTest(local_search.local_search, other={"start": 5, "steps": 1}),
    "mo-asha": StrategyUnderTest(
        asha.mo_asha, other={"eta": 4.0, "fidelities": (0.25, 1.0), "rungs": 2, "sampler": "random"}
    ),
    "nehvi": StrategyUnderTest(ehvi.nehvi, other={"start": 6, "draws": 2}),
    "nsga2": StrategyUnderTest(functools.partial(nsga2.nsga2, population=8), other={"population": 5}),
    "optuna-cmaes": StrategyUnderTest(
        functools.partial(optuna_cmaes.cmaes, population=6), other={"population": 9, "separable": False}
    ),
    "optuna-gp": StrategyUnderTest(functools.partial(optuna_samplers.gp, startup=18), other={"startup": 10}),
    "optuna-grid": StrategyUnderTest(grid.grid, other={"positions": 3}, learns=False),
    "optuna-nsga2": StrategyUnderTest(
        functools.partial(optuna_samplers.nsga2, population=8), other={"population": 5}
    ),
    "optuna-nsga3": StrategyUnderTest(
        functools.partial(optuna_samplers.nsga3, population=8), other={"population": 5}
    ),
    "optuna-qmc": StrategyUnderTest(optuna_samplers.qmc, other={"sequence": "halton"}, learns=False),
    "optuna-tpe": StrategyUnderTest(
        functools.partial(optuna_samplers.tpe_univariate, startup=6), other={"startup": 9}
    ),
    "optuna-tpe-mv": StrategyUnderTest(
        functools.partial(optuna_samplers.tpe, startup=6), other={"startup": 9}
    ),
    "parego": StrategyUnderTest(parego.parego, other={"start": 6, "rho": 1.0, "scale": "values"}),
    "pbi": StrategyUnderTest(scalarised.pbi, other={"start": 5, "parents": 5, "theta": 0.1}),
    "pymoo-agemoea": StrategyUnderTest(
        functools.partial(pymoo_algorithms.agemoea, population=5), other={"population": 8}
    ),
    "pymoo-moead": StrategyUnderTest(
        functools.partial(pymoo_algorithms.moead, population=5), other={"population": 8, "neighbours": 2}
    ),
    "pymoo-nsga2": StrategyUnderTest(
        functools.partial(pymoo_algorithms.nsga2, population=5), other={"population": 8}
    ),
    "pymoo-nsga3": StrategyUnderTest(
        functools.partial(pymoo_algorithms.nsga3, population=5), other={"population": 8}
    ),
    "pymoo-rvea": StrategyUnderTest(
        functools.partial(pymoo_algorithms.rvea, population=5), other={"population": 8, "generations": 2}
    ),
    "pymoo-smsemoa": StrategyUnderTest(
        functools.partial(pymoo_algorithms.smsemoa, population=5), other={"population": 8, "children": 2}
    ),
    "racing": StrategyUnderTest(
        functools.partial(racing.racing, size=10),
        other={"fidelities": (0.25, 1.0), "size": 14, "alpha": 0.5, "least": 6},
    ),
    "random": StrategyUnderTest(random_search, learns=False),
    "successive-halving": StrategyUnderTest(
        successive_halving.successive_halving, other={"eta": 2.0, "fidelities": (0.25, 1.0)}
    ),
    "tchebycheff": StrategyUnderTest(scalarised.tchebycheff, other={"start": 5, "parents": 5, "rho": 1.0}),
    "weighted-sum": StrategyUnderTest(scalarised.weighted_sum, other={"start": 5, "parents": 5}),
}

SLOW = {
    "optuna-gp",  # to fit and search its models takes a second for each point
    "pymoo-agemoea",  # is compiled anew in each process
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
    @pytest.fixture(
        params=[
            pytest.param(name, marks=[pytest.mark.long] if name in SLOW else [])
            for name in sorted(STRATEGIES)
        ]
    )
    def strategy(self, request: pytest.FixtureRequest) -> StrategyUnderTest:
        return STRATEGIES[request.param]
