"""Scalarisations against their definitions: weighted sum, augmented Tchebycheff (Knowles, 2006), penalised boundary
intersection (Zhang and Li, 2007), the simplex lattice (Das and Dennis, 1998)."""

import math

import numpy as np
import pytest

from nasflow import pareto
from nasflow.scalarise import lattice, pbi, tchebycheff, weighted_sum

IDEAL = (0.0, 0.0)
LOSSES = np.random.default_rng(0).random((50, 2))


def test_with_all_weight_on_one_objective_tchebycheff_is_that_objective_and_a_twentieth():
    assert tchebycheff(LOSSES, (1.0, 0.0), IDEAL) == pytest.approx(1.05 * LOSSES[:, 0])


def test_values_by_hand():
    point, weights = [(0.6, 0.8)], (0.25, 0.75)
    assert weighted_sum(point, weights, IDEAL) == pytest.approx([0.75])
    assert tchebycheff(point, weights, IDEAL) == pytest.approx([0.6 + 0.05 * 0.75])
    assert tchebycheff(point, weights, (0.6, 0.0), rho=0.0) == pytest.approx([0.6])
    # 0.6 and 0.8 from the ideal, along (1, 0): 0.6 along and 0.8 aside
    assert pbi(point, (1.0, 0.0), IDEAL) == pytest.approx([0.6 + 5 * 0.8])
    assert pbi(point, (1.0, 0.0), IDEAL, theta=0.0) == pytest.approx([0.6])


def test_a_point_in_the_direction_of_the_weights_costs_its_distance_by_pbi_whatever_the_penalty():
    for theta in (0.0, 5.0, 100.0):
        assert pbi([(0.3, 0.6)], (1 / 3, 2 / 3), IDEAL, theta) == pytest.approx([math.hypot(0.3, 0.6)])


def test_only_the_weighted_sum_misses_the_concave_part_of_a_front():
    front = np.array([(0.0, 1.0), (0.6, 0.6), (1.0, 0.0)])
    weights = lattice(101, 2)
    assert {int(weighted_sum(front, w, IDEAL).argmin()) for w in weights} == {0, 2}
    for scalar in (tchebycheff, pbi):
        assert {int(scalar(front, w, IDEAL).argmin()) for w in weights} == {0, 1, 2}


def test_the_augmentation_prefers_a_dominating_point_among_equal_maxima():
    losses = [(0.5, 0.5), (0.5, 0.1)]
    assert tchebycheff(losses, (0.5, 0.5), IDEAL, rho=0.0).tolist() == [0.25, 0.25]
    assert tchebycheff(losses, (0.5, 0.5), IDEAL).argmin() == 1


def test_the_best_by_positive_weights_is_never_dominated():
    kept = pareto.non_dominated(LOSSES)
    for weights in lattice(20, 2)[1:-1]:
        assert kept[weighted_sum(LOSSES, weights, IDEAL).argmin()]
        assert kept[tchebycheff(LOSSES, weights, IDEAL).argmin()]


@pytest.mark.parametrize(("steps", "objectives"), [(10, 2), (4, 3), (5, 4)])
def test_the_lattice_holds_every_vector_of_multiples_once(steps, objectives):
    size = math.comb(steps + objectives - 1, objectives - 1)
    weights = lattice(size, objectives)
    assert weights.shape == (size, objectives) == np.unique(weights, axis=0).shape
    assert weights.sum(axis=1) == pytest.approx(1.0) and (weights >= 0).all()
    assert (weights * steps) == pytest.approx(np.round(weights * steps))
    assert len(lattice(size + 1, objectives)) == math.comb(steps + objectives, objectives - 1)


def test_the_lattice_of_one_objective_is_one():
    assert lattice(10, 1).tolist() == [[1.0]]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(points, objectives\)"):
        weighted_sum([0.1, 0.2], (0.5, 0.5), IDEAL)
    with pytest.raises(ValueError, match="at least one weight and one objective, got 0 and 2"):
        lattice(0, 2)
