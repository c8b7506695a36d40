"""Indicators against values worked out by hand, and against what defines them."""

from math import inf, sqrt

import numpy as np
import pytest
from numpy.testing import assert_allclose

from nasflow import pareto
from nasflow.bench import indicators


def line(steps: int) -> np.ndarray:
    """Points on f2 = 1 - f1, equally spaced."""
    x = np.linspace(0, 1, steps + 1)
    return np.column_stack([x, 1 - x])


@pytest.fixture
def true() -> np.ndarray:
    return np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_hypervolume_of_equally_spaced_points(steps: int) -> None:
    assert_allclose(pareto.hypervolume(line(steps), (1, 1)), (1 - 1 / steps) / 2)


def test_hypervolume_grows_with_points_that_are_not_dominated_and_with_no_others() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((8, 3))
    before = pareto.hypervolume(points, (1, 1, 1))
    assert pareto.hypervolume([*points, [0.01, 0.01, 0.01]], (1, 1, 1)) > before
    assert_allclose(pareto.hypervolume([*points, points.max(axis=0)], (1, 1, 1)), before)


def test_distances_to_the_true_front_by_hand(true: np.ndarray) -> None:
    found = np.array([[0.5, 0.7]])
    # to (0, 1): sqrt(.25 + .09); to (.5, .5): .2; to (1, 0): sqrt(.25 + .49)
    assert_allclose(indicators.igd(found, true), (sqrt(0.34) + 0.2 + sqrt(0.74)) / 3)
    # worse only in f1 by .5, only in f2 by .2, only in f2 by .7
    assert_allclose(indicators.igd_plus(found, true), (0.5 + 0.2 + 0.7) / 3)
    assert_allclose(indicators.epsilon(found, true), 0.7)


def test_igd_is_zero_only_if_every_true_point_was_found(true: np.ndarray) -> None:
    assert indicators.igd(np.vstack([true, [[2, 2]]]), true) == 0
    assert indicators.igd(true[:2], true) > 0
    better = true - [0.1, 0.1]
    assert indicators.igd(better, true) > 0 and indicators.igd_plus(better, true) == 0


@pytest.mark.parametrize("shift", [0.25, -0.125])
def test_epsilon_of_a_shifted_front_is_the_shift(true: np.ndarray, shift: float) -> None:
    assert_allclose(indicators.epsilon(true + shift, true), shift)


def test_coverage(true: np.ndarray) -> None:
    assert indicators.coverage(true, true) == 1
    a, b = np.array([[0.2, 0.6]]), np.array([[0.2, 0.6], [0.3, 0.7], [0.1, 0.9], [0.5, 0.5]])
    assert indicators.coverage(a, b) == 0.5 and indicators.coverage(b, a) == 1


def test_r2_by_hand_and_by_its_order(true: np.ndarray) -> None:
    ideal = np.zeros(2)
    # One point (1, 1): each of the 100 weights (k/99, 1 - k/99) sees its larger component
    weights = np.arange(100) / 99
    assert_allclose(indicators.r2(np.ones((1, 2)), ideal), np.maximum(weights, 1 - weights).mean())
    assert indicators.r2(np.zeros((1, 2)), ideal) == 0
    values = [indicators.r2(front, ideal) for front in (true[:1], true[:2], true, line(10))]
    assert values == sorted(values, reverse=True) and len(set(values)) == 4


def test_spread_is_zero_for_an_even_front_to_the_ends(true: np.ndarray) -> None:
    assert_allclose(indicators.spread(true, true), 0, atol=1e-12)
    assert_allclose(indicators.spread(line(10), true), 0, atol=1e-12)
    assert indicators.spread(true[[0]], true) == 1  # only an end: nothing between, the other end far away


def test_spread_by_hand(true: np.ndarray) -> None:
    # Along the line at 0, 1/4 and 1 (times sqrt 2): nearest neighbours 1/4, 1/4, 3/4, mean 5/12; both ends are found
    uneven = np.array([[0.0, 1.0], [0.25, 0.75], [1.0, 0.0]])
    assert_allclose(indicators.spread(uneven, true), (1 / 6 + 1 / 6 + 1 / 3) / (5 / 4))
    # Without its last point: 3/4 to that end; two neighbours 1/4 apart
    assert_allclose(indicators.spread(uneven[:2], true), (3 / 4) / (3 / 4 + 2 / 4))


def test_a_front_without_points_is_the_worst(true: np.ndarray) -> None:
    none = np.zeros((0, 2))
    for indicator in (indicators.igd, indicators.igd_plus, indicators.epsilon, indicators.spread):
        assert indicator(none, true) == inf
    assert indicators.r2(none, np.zeros(2)) == inf and indicators.coverage(none, true) == 0
