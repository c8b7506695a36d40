"""NSGA-II against its paper (Deb et al., 2002): ranks, crowding, constrained domination, and how parents are chosen."""

import numpy as np
import pytest

from nasflow import pareto
from nasflow.strategies.nsga2 import crowding, fitness, nsga2
from nasflow.strategies.population import Member, constrained
from nasflow.study import Objective, Trial
from nasflow.testing import networks

#                 0 and 1, 2, 5 form the first front, 3 and 6 the second, 4 the third
BY_HAND = np.array([(1.0, 9.0), (2.0, 6.0), (5.0, 3.0), (6.0, 7.0), (8.0, 9.5), (9.0, 1.0), (7.0, 4.0)])


def test_ranks_of_a_list_by_hand():
    assert pareto.ranks(BY_HAND).tolist() == [0, 0, 0, 1, 2, 0, 1]


def test_crowding_by_hand():
    distances = crowding(BY_HAND)
    # within the first front: extents 8 and 8; the second has only ends
    assert distances == pytest.approx([np.inf, 4 / 8 + 6 / 8, 7 / 8 + 5 / 8, np.inf, np.inf, np.inf, np.inf])


def test_the_crowded_comparison_takes_the_better_front_and_then_the_roomier_place():
    order = np.argsort(fitness(BY_HAND), kind="stable")
    assert order.tolist() == [0, 5, 2, 1, 3, 6, 4]


def test_equal_points_crowd_each_other_out():
    distances = crowding(np.array([(0.0, 3.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (3.0, 0.0)]))
    assert distances[2] == 0.0 and np.isinf(distances[[0, 4]]).all()


def test_with_one_objective_fitness_is_the_order_of_the_losses():
    losses = np.random.default_rng(0).random((30, 1))
    assert np.argsort(fitness(losses)).tolist() == np.argsort(losses[:, 0]).tolist()


def test_limits_come_before_fronts():
    trials = [Member({}, (3.0,), 0.0), Member({}, (), 0.2), Member({}, (1.0,), 0.0), Member({}, (), 0.1)]
    judged = constrained(trials, fitness)
    assert np.argsort(judged).tolist() == [2, 0, 3, 1]
    nothing_within = constrained(trials[1::2], fitness)
    assert np.argsort(nothing_within).tolist() == [1, 0]


def test_survivors_are_the_first_fronts_and_the_roomiest_of_the_last():
    toy = networks()
    objectives = (Objective("a"), Objective("b"))
    strategy = nsga2(toy.space, objectives, population=5)
    points = [proposal.point for proposal in strategy.ask(7)]
    strategy.tell(
        [
            Trial(i, point, state="done", metrics={"a": float(a), "b": float(b)})
            for i, (point, (a, b)) in enumerate(zip(points, BY_HAND, strict=True))
        ]
    )
    kept = [member.losses for member in strategy.members]
    assert set(map(tuple, BY_HAND[[0, 1, 2, 5]])) < set(kept) and len(kept) == 5
    assert kept[4] in (tuple(BY_HAND[3]), tuple(BY_HAND[6]))


def test_parents_win_binary_tournaments():
    """The chance of the k-th best of n, drawn twice with replacement, to win is (2 (n - k) + 1) / n^2."""
    toy = networks()
    strategy = nsga2(toy.space, (Objective("a"),), population=4)
    points = [proposal.point for proposal in strategy.ask(4)]
    strategy.tell([Trial(i, point, state="done", metrics={"a": float(i)}) for i, point in enumerate(points)])
    rng = np.random.default_rng(0)
    chosen = [points.index(strategy._parent(rng)) for _ in range(4000)]
    assert np.bincount(chosen) / 4000 == pytest.approx([7 / 16, 5 / 16, 3 / 16, 1 / 16], abs=0.03)
