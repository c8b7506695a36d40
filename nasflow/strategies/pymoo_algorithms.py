"""pymoo's algorithms as strategies: one function for each. All share pymoo_adapter.py's operators.

Those that spread a front along directions (NSGA-III, MOEA/D, RVEA) or by its shape (AGE-MOEA) have nothing to
spread with one objective, and are pymoo's plain genetic algorithm then, with the same operators.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.moead import ParallelMOEAD
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.moo.rvea import RVEA, APDSurvival
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.termination.max_gen import MaximumGenerationTermination

from nasflow.errors import NasflowError
from nasflow.scalarise import lattice
from nasflow.space import Space
from nasflow.strategies.pymoo_adapter import Crossover, Mutation, PymooAlgorithm
from nasflow.study import Objective


class MissingExtra(NasflowError, ImportError):
    """A strategy that rests on a package which is not installed."""


def nsga2(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, population: int = 20
) -> PymooAlgorithm:
    """NSGA-II (Deb et al., IEEE TEC 2002): non-dominated sorting, then crowding distance."""
    algorithm = NSGA2(pop_size=population, eliminate_duplicates=True, **_operators(space))
    return PymooAlgorithm(space, objectives, algorithm, seed)


def nsga3(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, population: int = 20
) -> PymooAlgorithm:
    """NSGA-III (Deb and Jain, IEEE TEC 2014): non-dominated sorting, then niches around directions.

    There are as many members as directions, and at least `population` of them.
    """
    if _count(objectives) == 1:
        return _genetic(space, objectives, seed, population)
    algorithm = NSGA3(
        directions(population, _count(objectives)),
        selection=TournamentSelection(func_comp=_by_violation),
        **_operators(space),
    )
    return PymooAlgorithm(space, objectives, algorithm, seed)


def moead(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    population: int = 20,
    neighbours: int = 20,
) -> PymooAlgorithm:
    """MOEA/D (Zhang and Li, IEEE TEC 2007): each of at least `population` directions is a problem of its own, by
    Tchebycheff's formula for two objectives and by penalised boundary intersection for more, and breeds with its
    `neighbours`.

    Here a generation is bred at once, where the paper goes direction by direction. It knows no constraints: a
    trial that oversteps a limit, or failed, is worse than any that does not.
    """
    if _count(objectives) == 1:
        return _genetic(space, objectives, seed, population)
    weights = directions(population, _count(objectives))
    algorithm = ParallelMOEAD(
        weights,
        n_neighbors=min(neighbours, len(weights)),
        **_operators(space, children=1),
    )
    return PymooAlgorithm(space, objectives, algorithm, seed, constrained=False)


def rvea(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    population: int = 10,
    generations: int = 25,
) -> PymooAlgorithm:
    """RVEA (Cheng et al., IEEE TEC 2016): one survivor for each of at least `population` directions, by a distance
    to the ideal that minds the angle the more, the nearer the search is to its end after `generations`.

    A generation is as large as there are directions: few, so that a search of some hundred trainings gets to that
    end; a longer one goes on as it ended. Only trainings bring the end nearer, not generations bred of known points
    alone. Losses count by their place among the first generation: by value all useful networks lie in few directions,
    and one of each survives.
    """
    if _count(objectives) == 1:
        return _genetic(space, objectives, seed, population)
    aims = directions(population, _count(objectives))
    algorithm = RVEA(aims, survival=Paced(aims, planned=generations * len(aims)), **_operators(space))
    end = MaximumGenerationTermination(generations)
    return PymooAlgorithm(space, objectives, algorithm, seed, termination=end, by_place=True)


class Paced(APDSurvival):  # type: ignore[misc]
    """RVEA's choice of survivors, told as its time the share of the `planned` trainings that were made, at most 1.
    By pymoo's count of generations, the angle would soon be all that counts where many children are known points."""

    def __init__(self, aims: NDArray[np.float64], planned: int) -> None:
        super().__init__(aims)
        self._planned = planned
        self._trained: set[tuple[float, ...]] = set()  # losses

    def _do(self, problem: Any, pop: Any, n_survive: Any, **kwargs: Any) -> Any:
        self._trained.update(map(tuple, pop.get("F").tolist()))
        time = {"n_gen": min(len(self._trained), self._planned), "n_max_gen": self._planned}
        return super()._do(problem, pop, n_survive, **{**kwargs, **time})


def smsemoa(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    population: int = 20,
    children: int = 5,
) -> PymooAlgorithm:
    """SMS-EMOA (Beume et al., EJOR 2007): who adds least to the hypervolume of the last front goes.

    As many `children` are bred at once; one in the paper, more here to keep several trainings busy.
    """
    algorithm = SMSEMOA(pop_size=population, n_offsprings=children, **_operators(space))
    return PymooAlgorithm(space, objectives, algorithm, seed)


def agemoea(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, population: int = 20
) -> PymooAlgorithm:
    """AGE-MOEA (Panichella, GECCO 2019): crowding by a distance that suits the shape of the front.

    Needs the extra `agemoea`; raises MissingExtra without it.
    """
    if _count(objectives) == 1:
        return _genetic(space, objectives, seed, population)
    if importlib.util.find_spec("numba") is None:
        raise MissingExtra(
            "pymoo-agemoea needs numba, which is not installed: pip install 'nasflow[agemoea]'"
        )
    from pymoo.algorithms.moo.age import AGEMOEA

    return PymooAlgorithm(space, objectives, AGEMOEA(pop_size=population, **_operators(space)), seed)


def directions(count: int, objectives: int) -> NDArray[np.float64]:
    """At least `count` directions in the positive orthant, array (directions, objectives); rows sum to 1.

    The simplex lattice of Das and Dennis (1998). If it is so coarse that it has no inside, a second layer goes there,
    halfway between each corner and the centre (Deb and Jain, 2014).
    """
    outer = lattice(count, objectives)
    if (outer > 0).all(axis=1).any():
        return outer
    return np.concatenate([outer, (np.eye(objectives) + 1 / objectives) / 2])


def _genetic(space: Space, objectives: Sequence[Objective], seed: int, population: int) -> PymooAlgorithm:
    return PymooAlgorithm(space, objectives, GA(pop_size=population, **_operators(space)), seed)


def _operators(space: Space, children: int = 2) -> dict[str, Any]:
    return {
        "sampling": IntegerRandomSampling(),
        "crossover": Crossover(space, children),
        "mutation": Mutation(space),
    }


def _count(objectives: Sequence[Objective]) -> int:
    return sum(objective.optimise for objective in objectives)


def _by_violation(pop: Any, P: Any, random_state: Any, **kwargs: Any) -> Any:
    """The tournament of NSGA-III: who oversteps limits less, else by lot. pymoo's own cannot draw between two that
    overstep equally."""
    lots = random_state.random(P.shape)
    winners = [
        min(zip(pair, lot, strict=True), key=lambda one: (pop[one[0]].CV[0], one[1]))[0]
        for pair, lot in zip(P, lots, strict=True)
    ]
    return np.array(winners, dtype=int)[:, None]
