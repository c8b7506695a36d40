"""pymoo's NSGA-II behind the adapter against its paper (Deb et al., 2002): ranks of a list by hand, elitism."""

import numpy as np
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from nasflow import pareto
from nasflow.strategies.pymoo_algorithms import nsga2
from nasflow.study import Objective, Trial
from nasflow.testing import networks

TWO = (Objective("error"), Objective("flops"))
BY_HAND = np.array([[1.0, 5.0], [2.0, 3.0], [4.0, 1.0], [3.0, 4.0], [5.0, 5.0], [2.0, 3.5], [4.5, 2.0]])


def test_ranks_of_a_list_by_hand():
    population = Population.new("X", np.arange(7)[:, None], "F", BY_HAND)
    RankAndCrowding().do(Problem(n_var=1, n_obj=2, xl=0, xu=6), population, n_survive=7)
    assert population.get("rank").tolist() == [0, 0, 0, 2, 3, 1, 1] == pareto.ranks(BY_HAND).tolist()


def test_parents_and_children_compete_so_that_nothing_in_the_population_is_lost_to_something_worse():
    """(mu + lambda): while the whole first front fits, the population holds the front of all that was ever tried."""
    toy = networks()
    one, seen = nsga2(toy.space, TWO, population=20), np.empty((0, 2))
    for _ in range(3):
        trials = [Trial(0, p.point, state="done", metrics=toy.metrics(p.point)) for p in one.ask(20)]
        one.tell(trials)
        seen = np.vstack([seen, [[o.loss(t.metrics) for o in TWO] for t in trials]])
        low, extent = (np.array([getattr(s, name) for s in one._scales]) for name in ("best", "span"))
        held = one._algorithm.pop.get("F") * extent + low
        front = seen[pareto.non_dominated(seen)]
        if len(front) <= 20:
            assert all(np.isclose(held, loss).all(axis=1).any() for loss in front)
        lost = [not np.isclose(held, loss).all(axis=1).any() for loss in seen]
        worst = pareto.ranks(seen)[np.logical_not(lost)].max()
        assert (pareto.ranks(seen)[lost] >= worst).all(), "who left ranks no better than anyone who stayed"
