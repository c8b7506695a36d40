"""HypE against its paper (Bader and Zitzler, 2011): what is expected to be lost with each point."""

import itertools
import math

import numpy as np
import pytest

from nasflow import pareto
from nasflow.strategies.hype import expected_loss, fitness, worst

LOSSES = np.random.default_rng(0).random((6, 2))
REFERENCE = 1.1


def volume(losses):
    return pareto.hypervolume(losses, np.full(losses.shape[1], REFERENCE))


def contribution(losses, index):
    """The hypervolume that is gone without the point."""
    return volume(losses) - volume(np.delete(losses, index, axis=0))


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_with_one_to_drop_it_is_the_contribution_to_the_hypervolume(objectives):
    losses = np.random.default_rng(objectives).random((6, objectives))
    expected = [contribution(losses, i) for i in range(len(losses))]
    assert expected_loss(losses, 1, REFERENCE) == pytest.approx(expected)


@pytest.mark.parametrize("dropped", [2, 3, 6])
def test_with_more_it_is_the_mean_over_all_that_can_be_dropped_together(dropped):
    """The loss of each set, of which every point in it bears what it reaches divided by how many of the set do so."""
    count = len(LOSSES)
    expected = np.zeros(count)
    for gone in itertools.combinations(range(count), dropped):
        left = np.delete(LOSSES, gone, axis=0)
        for point in gone:
            for size in range(dropped):
                for along in itertools.combinations([i for i in gone if i != point], size):
                    expected[point] += only_by((point, *along), left, gone) / (size + 1)
    expected /= math.comb(count - 1, dropped - 1)
    assert expected_loss(LOSSES, dropped, REFERENCE) == pytest.approx(expected)


def only_by(group, left, gone):
    """The volume reached by every point of `group`, and by no other of those gone or left (inclusion-exclusion)."""
    corner = LOSSES[list(group)].max(axis=0)
    others = np.vstack([left, LOSSES[[i for i in gone if i not in group]]])
    return volume(np.array([corner])) - volume(np.maximum(others, corner))


def test_with_all_to_drop_the_parts_sum_to_the_hypervolume():
    assert expected_loss(LOSSES, 6, REFERENCE).sum() == pytest.approx(volume(LOSSES))


def test_random_positions_come_close_to_the_exact_volumes():
    losses = np.random.default_rng(3).random((8, 3))
    exact, estimated = (expected_loss(losses, 8, REFERENCE, samples) for samples in (10_000, 500))
    assert not np.array_equal(exact, estimated)
    assert estimated == pytest.approx(exact, abs=0.05)
    assert np.argmax(exact) == np.argmax(estimated)


def test_the_first_to_go_is_of_the_last_front_and_contributes_least_to_it():
    losses = np.array([(0.0, 0.5), (0.5, 0.0), (0.2, 1.0), (0.6, 0.95), (1.0, 0.1)])
    assert pareto.ranks(losses).tolist() == [0, 0, 1, 1, 1]
    assert worst(losses, 1) == 3
    assert worst(losses, 5) in (2, 3, 4)  # more to go than the last front holds


def test_a_point_beyond_the_reference_contributes_nothing():
    assert expected_loss(np.array([(0.5, 0.5), (1.2, 0.0)]), 2, REFERENCE) == pytest.approx([0.36, 0.0])


def test_eight_objectives_are_judged_too():
    losses = np.random.default_rng(4).random((21, 8))
    judged = fitness(losses)
    assert judged.shape == (21,) and np.isfinite(judged).all() and (judged <= 0).all()
