"""Optuna's samplers behind the adapter against their papers, as far as what they ask for shows it."""

import numpy as np
import pytest
from scipy import stats

from nasflow.space import Choice, Real, Space
from nasflow.strategies.optuna_samplers import gp, nsga2, nsga3, qmc, tpe, tpe_univariate
from nasflow.strategies.random import random_search
from nasflow.study import Objective, Trial

ONE, TWO = (Objective("x"),), (Objective("x"), Objective("y"))
SQUARE = Space((Real("a", 0.0, 1.0), Real("b", 0.0, 1.0)))


def unevenness(points):
    return stats.qmc.discrepancy([[point["a"], point["b"]] for point in points])


@pytest.mark.parametrize("sequence", ["sobol", "halton"])
def test_quasi_random_points_fill_a_square_more_evenly_than_random_ones(sequence):
    """From the second point on: Optuna draws the first one by itself, since it does not know the space before."""
    one, points = qmc(SQUARE, ONE, sequence=sequence), []
    for _ in range(129):
        (proposal,) = one.ask(1)
        one.tell([Trial(0, proposal.point, state="done", metrics={"x": 0.5})])
        points.append(proposal.point)
    random = [stats.qmc.discrepancy(np.random.default_rng(seed).random((128, 2))) for seed in range(20)]
    assert unevenness(points[1:]) < 0.2 * np.median(random)


def test_scrambled_sobol_points_hit_every_cell_of_an_elementary_grid_once():
    """A (0, 4, 2)-net in base 2: of 16 points one in each of 2^i x 2^(4 - i) boxes (Owen, 1998)."""
    one, points = qmc(SQUARE, ONE, seed=5), []
    for _ in range(17):
        (proposal,) = one.ask(1)
        one.tell([Trial(0, proposal.point, state="done", metrics={"x": 0.5})])
        points.append([proposal.point["a"], proposal.point["b"]])
    for i in range(5):
        boxes = {tuple(np.floor(np.array(point) * (2**i, 2 ** (4 - i)))) for point in points[1:]}
        assert len(boxes) == 16


@pytest.mark.parametrize(("make", "together"), [(tpe, True), (tpe_univariate, False)])
def test_only_the_multivariate_estimator_sees_that_two_choices_belong_together(make, together):
    space = Space((Choice("a", tuple("0123")), Choice("b", tuple("0123"))))
    one = make(space, ONE, seed=1)
    rng = np.random.default_rng(0)
    record = [space.sample(rng) for _ in range(120)]
    one.tell([Trial(0, p, state="done", metrics={"x": float(p["a"] != p["b"])}) for p in record])
    asked = []
    for _ in range(60):
        (proposal,) = one.ask(1)
        one.tell([Trial(0, proposal.point, state="failed")])
        asked.append(proposal.point["a"] == proposal.point["b"])
    assert (np.mean(asked) > 0.6) == together


def bred(make, losses_of, population, generations):
    """The losses of each generation."""
    space = Space((Real("a", 0.0, 1.0), Real("b", 0.0, 1.0)))
    one, found = make(space, TWO, population=population), []
    for _ in range(generations):
        proposals = one.ask(population)
        metrics = [dict(zip("xy", losses_of(p.point), strict=True)) for p in proposals]
        one.tell(
            [Trial(0, p.point, state="done", metrics=m) for p, m in zip(proposals, metrics, strict=True)]
        )
        found.append([[m["x"], m["y"]] for m in metrics])
    return one, np.array(found)


@pytest.mark.parametrize("make", [nsga2, nsga3])
def test_parents_and_children_compete_for_the_next_generation(make):
    """(mu + lambda): values of the best are inherited for ever, since crossover swaps whole parameters."""
    one, found = bred(make, lambda p: (p["a"], p["b"]), 20, 8)
    medians = np.median(found, axis=1)
    assert (medians[-1] < 0.5 * medians[0]).all()
    lowest = [trial.params["a"] for trial in one._study.trials]
    assert min(lowest[:20]) in lowest[140:]


@pytest.mark.long
def test_gaussian_processes_beat_random_search_on_forresters_function():
    """Fifteen points of a function of one number with two valleys, the wider one the higher."""
    space = Space((Real("u", 0.0, 1.0),))

    def best(make, seed, **settings):
        one, lowest = make(space, ONE, seed=seed, **settings), np.inf
        for _ in range(15):
            (proposal,) = one.ask(1)
            u = proposal.point["u"]
            loss = (6 * u - 2) ** 2 * np.sin(12 * u - 4)
            one.tell([Trial(0, proposal.point, state="done", metrics={"x": loss})])
            lowest = min(lowest, loss)
        return lowest

    ours = [best(gp, seed, startup=5) for seed in range(5)]
    assert np.median(ours) < np.median([best(random_search, seed) for seed in range(10)])
    assert np.median(ours) == pytest.approx(-6.0207, abs=0.01)
