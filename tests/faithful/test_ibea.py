"""IBEA against its paper (Zitzler and Künzli, 2004): the additive epsilon indicator and the fitness it gives."""

import math

import numpy as np
import pytest

from nasflow import pareto
from nasflow.strategies.ibea import epsilon, fitness

BY_HAND = np.array([(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (1.0, 1.0)])


def test_the_indicator_is_what_a_point_must_improve_to_be_as_good_as_another():
    indicators = epsilon(BY_HAND)
    assert indicators[0].tolist() == [0.0, 0.5, 1.0, 0.0]  # of the first point towards each
    assert indicators[1].tolist() == [0.5, 0.0, 0.5, -0.5]  # below 0 where it dominates
    assert (indicators.diagonal() == 0).all()


def test_fitness_by_hand():
    # the scale is 1, kappa .05; what is lost to the other three
    lost = fitness(BY_HAND, kappa=0.05)
    assert lost[1] == pytest.approx(math.exp(-0.5 / 0.05) * 2 + math.exp(-0.5 / 0.05))
    assert lost[3] == pytest.approx(math.exp(0.0) * 2 + math.exp(0.5 / 0.05))


def test_kappa_is_the_scale_of_the_exponent():
    for kappa in (0.05, 0.2, 1.0):
        two = fitness(np.array([(0.0, 1.0), (1.0, 0.0)]), kappa)
        assert two == pytest.approx([math.exp(-1 / kappa)] * 2)


def test_a_point_is_fitter_than_all_it_dominates():
    losses = np.random.default_rng(0).random((40, 3))
    judged = fitness(losses)
    for i, one in enumerate(losses):
        for j, other in enumerate(losses):
            if (one <= other).all() and (one < other).any():
                assert judged[i] < judged[j]


def test_units_of_the_objectives_make_no_difference():
    losses = np.random.default_rng(1).random((20, 2))
    assert fitness(losses * (1000.0, 0.01) + (5.0, -3.0)) == pytest.approx(fitness(losses))


def test_one_point_and_equal_points_have_a_fitness():
    assert fitness(np.array([(3.0, 4.0)])).tolist() == [0.0]
    assert fitness(np.full((3, 2), 7.0)).tolist() == [2.0] * 3
    assert pareto.normalised(np.full((3, 2), 7.0)).tolist() == [[0.0, 0.0]] * 3
