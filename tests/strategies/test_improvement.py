"""Expected improvement of a front against what it is by definition: a mean over draws of the hypervolume gained."""

import numpy as np
import pytest
from scipy.special import ndtr

from nasflow import pareto
from nasflow.strategies.improvement import below, expected_improvement

DRAWS = 50_000


def gain(front, reference, losses):
    """The hypervolume that one more point adds."""
    return pareto.hypervolume(np.vstack([front, losses]), reference) - pareto.hypervolume(front, reference)


def case(objectives, candidates, seed):
    """Random means, deviations, front and reference."""
    rng = np.random.default_rng(seed)
    front = rng.random((6, objectives))
    mean = rng.random((candidates, objectives)) * 1.2 - 0.1
    return mean, rng.uniform(0.05, 0.4, (candidates, objectives)), front, np.full(objectives, 1.1)


def monte_carlo(mean, deviation, front, reference):
    """The share of random places of a box that the front does not reach but a point does, in the mean over what it
    may be; times the box's volume."""
    low = (mean - 4 * deviation).min(axis=0)
    places = np.random.default_rng(99).uniform(low, reference, (DRAWS, len(reference)))
    places = places[~(front[None] <= places[:, None]).all(axis=2).any(axis=1)]
    reached = ndtr((places[:, None] - mean) / deviation).prod(axis=2)
    return reached.sum(axis=0) / DRAWS * np.prod(reference - low)


def test_one_objective_is_expected_improvement():
    mean, deviation, front, reference = case(1, 20, seed=0)
    found = expected_improvement(mean, deviation, front, reference)
    normal = np.random.default_rng(1).normal(size=200_000)
    best = front.min()
    expected = [
        np.maximum(best - (m + s * normal), 0).mean()
        for m, s in zip(mean[:, 0], deviation[:, 0], strict=True)
    ]
    assert found == pytest.approx(expected, abs=1e-2 * deviation.max())
    assert found == pytest.approx(expected, rel=0.05, abs=1e-4)


def test_it_is_never_negative_and_nothing_where_nothing_can_be_gained():
    rng = np.random.default_rng(0)
    for objectives in (1, 2, 3, 4):
        mean, deviation, front, reference = case(objectives, 50, seed=objectives)
        mean += rng.normal(size=mean.shape)
        assert (expected_improvement(mean, deviation, front, reference) >= 0).all()
        observed = expected_improvement(front, np.zeros_like(front), front, reference)
        assert observed == pytest.approx(0.0, abs=1e-7)


def test_below_is_the_mean_distance_under_a_level():
    assert below(1.0, np.array([0.0, 3.0]), np.array([1e-9, 1e-9])) == pytest.approx([1.0, 0.0])
    assert below(0.0, np.zeros(1), np.ones(1)) == pytest.approx([1 / np.sqrt(2 * np.pi)])


def test_two_objectives_are_the_mean_of_the_gain_over_draws():
    mean, deviation, front, reference = case(2, 3, seed=0)
    normal = np.random.default_rng(99).normal(size=(1000, 2))
    drawn = [
        [gain(front, reference, m + s * one) for one in np.vstack([normal, -normal])]
        for m, s in zip(mean, deviation, strict=True)
    ]
    found = expected_improvement(mean, deviation, front, reference)
    assert found == pytest.approx(np.mean(drawn, axis=1), rel=0.05, abs=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_two_objectives_are_exact(seed):
    mean, deviation, front, reference = case(2, 12, seed)
    found = expected_improvement(mean, deviation, front, reference)
    assert found == pytest.approx(monte_carlo(mean, deviation, front, reference), rel=0.02, abs=1e-3)


def test_without_deviation_it_is_the_gain_itself():
    mean, _, front, reference = case(2, 100, seed=4)
    expected = [gain(front, reference, point) for point in mean]
    assert expected_improvement(mean, np.zeros_like(mean), front, reference) == pytest.approx(
        expected, abs=1e-7
    )


def test_points_behind_the_reference_count_for_nothing_in_the_front():
    mean, deviation, front, reference = case(2, 20, seed=5)
    behind = np.vstack([front, [(0.01, 5.0), (5.0, 0.01)]])
    assert expected_improvement(mean, deviation, behind, reference) == pytest.approx(
        expected_improvement(mean, deviation, front, reference)
    )


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_with_no_front_it_is_the_whole_volume(objectives):
    reference = np.ones(objectives)
    mean = np.full((1, objectives), 0.25)
    found = expected_improvement(mean, np.full_like(mean, 1e-6), np.zeros((0, objectives)), reference)
    assert found == pytest.approx(0.75**objectives, rel=0.1)


@pytest.mark.parametrize(("objectives", "alike", "tolerance"), [(3, 0.99, 0.12), (4, 0.98, 0.2)])
def test_more_objectives_are_nearly_exact(objectives, alike, tolerance):
    for seed in range(2):
        mean, deviation, front, reference = case(objectives, 25, seed)
        found = expected_improvement(mean, deviation, front, reference)
        expected = monte_carlo(mean, deviation, front, reference)
        assert np.corrcoef(found, expected)[0, 1] > alike
        assert found.sum() == pytest.approx(expected.sum(), rel=tolerance)
