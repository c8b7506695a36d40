"""ParEGO against its paper (Knowles, 2006): the formula, the weights, and that it needs few evaluations."""

import math

import numpy as np
import pytest

from nasflow import pareto
from nasflow.loop import Evaluate, run
from nasflow.scalarise import lattice
from nasflow.space import Real, Space
from nasflow.strategies.ehvi import ehvi
from nasflow.strategies.parego import parego, scalarised
from nasflow.strategies.random import random_search
from nasflow.study import Objective, Study

LINE = Space((Real("x", 0.0, 1.0),))


def test_with_all_weight_on_one_loss_it_ranks_by_that_loss_times_1_plus_rho():
    losses = np.random.default_rng(0).random((30, 2)) * (5.0, 100.0) - 3.0
    low, high = losses[:, 0].min(), losses[:, 0].max()
    expected = (losses[:, 0] - low) / (high - low) * 1.05
    assert scalarised(losses, np.array([1.0, 0.0])) == pytest.approx(expected)


def test_losses_count_by_the_range_that_was_seen():
    losses = np.random.default_rng(1).random((20, 3))
    weights = np.array([0.2, 0.3, 0.5])
    assert scalarised(losses * (1.0, 1e6, 1e-3) + 7.0, weights) == pytest.approx(scalarised(losses, weights))


def test_the_formula_by_hand():
    """Scaled losses (0, 1), (1, 0) and (0.5, 0.5): largest weighted one plus a twentieth of the sum."""
    losses = np.array([(0.0, 10.0), (4.0, 0.0), (2.0, 5.0)])
    expected = [0.75 + 0.05 * 0.75, 0.25 + 0.05 * 0.25, 0.375 + 0.05 * 0.5]
    assert scalarised(losses, np.array([0.25, 0.75])) == pytest.approx(expected)


def test_weights_are_all_of_a_simplex_lattice():
    for objectives in (2, 3):
        weights = lattice(100, objectives)
        steps = round(1 / np.min(weights[weights > 0]))
        assert len(weights) == math.comb(steps + objectives - 1, objectives - 1)
        assert weights.sum(axis=1) == pytest.approx(1.0)


def forrester(x):
    """Forrester, Sobester and Keane, Engineering Design via Surrogate Modelling, 2008: least is -6.0207 at 0.7572."""
    return (6 * x - 2) ** 2 * math.sin(12 * x - 4)


@pytest.mark.parametrize("strategy", [parego, ehvi])
def test_fifteen_evaluations_of_one_loss_beat_random_search(strategy):
    def best(make, seed):
        study = Study(LINE, (Objective("loss"),))
        evaluate = Evaluate(lambda trial: {"loss": forrester(float(trial.point["x"]))})
        run(study, make(LINE, study.objectives, seed=seed), evaluate, trials=15)
        return min(trial.metrics["loss"] for trial in study.finalists)

    random = np.median([best(random_search, seed) for seed in range(10)])
    found = [best(strategy, seed) for seed in range(10)]
    assert sum(one < random for one in found) >= 9
    assert np.median(found) < -6.0


def test_it_needs_fewer_evaluations_than_random_search_for_a_curved_front():
    """VLMOP2 (Van Veldhuizen and Lamont, 1999): two losses whose front is concave, in two dimensions."""
    space = Space((Real("x", -2.0, 2.0), Real("y", -2.0, 2.0)))
    two = (Objective("first"), Objective("second"))
    corner = 1 / math.sqrt(2)

    def losses(trial):
        x, y = float(trial.point["x"]), float(trial.point["y"])
        return {
            "first": 1 - math.exp(-((x - corner) ** 2) - (y - corner) ** 2),
            "second": 1 - math.exp(-((x + corner) ** 2) - (y + corner) ** 2),
        }

    def volume(make, seed):
        study = Study(space, two)
        run(study, make(space, two, seed=seed), Evaluate(losses), trials=30)
        return pareto.hypervolume(study.losses(study.front), [1.0, 1.0])

    random = [volume(random_search, seed) for seed in range(9)]
    assert min(volume(parego, seed) for seed in range(3)) > np.median(random)
