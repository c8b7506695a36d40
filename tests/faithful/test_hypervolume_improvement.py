"""EHVI and its noisy form against their papers: what the strategies ask for is what the definition says."""

import numpy as np
import pytest

from nasflow import pareto
from nasflow.strategies.bayesian import Seen
from nasflow.strategies.ehvi import ehvi, nehvi, reference
from nasflow.study import Objective
from nasflow.testing import networks

TWO = (Objective("error"), Objective("flops"))
TOY = networks()


def seen_and_rest(strategy, noise=0.0):
    """A third of the toy as what was trained, and all the others."""
    points = list(TOY.points())
    losses = np.array([[o.loss(TOY.metrics(p)) for o in TWO] for p in points])
    losses = (losses - losses.mean(axis=0)) / losses.std(axis=0)
    losses += noise * np.random.default_rng(8).normal(size=losses.shape)
    encoded = strategy._encoder.encode(points)
    some = np.arange(len(points)) % 3 == 0
    nothing = encoded[:0]
    return (
        Seen(encoded[some], losses[some], np.ones(some.sum(), dtype=bool), nothing),
        encoded[~some],
        losses[~some],
    )


@pytest.mark.parametrize("make", [ehvi, nehvi])
def test_the_highest_gains_are_of_points_that_really_add_much(make):
    strategy = make(TOY.space, TWO)
    seen, rest, truth = seen_and_rest(strategy)
    _, gain = strategy._aim(seen, np.random.default_rng(0))
    corner = reference(seen.losses)
    before = pareto.hypervolume(seen.losses, corner)
    added = np.array([pareto.hypervolume(np.vstack([seen.losses, one]), corner) - before for one in truth])
    highest = np.argsort(gain(rest))[-5:]
    assert added[highest].mean() > 3 * added.mean()


def test_the_noisy_form_is_the_plain_one_where_there_is_no_noise():
    plain, noisy = ehvi(TOY.space, TWO), nehvi(TOY.space, TWO)
    seen, rest, _ = seen_and_rest(plain)
    one, other = (s._aim(seen, np.random.default_rng(0))[1](rest) for s in (plain, noisy))
    assert np.corrcoef(one, other)[0, 1] > 0.95


def test_where_there_is_noise_a_lucky_observation_does_not_hide_what_is_better():
    """The plain form takes the luckiest of noisy losses for the front, and so expects less of all others."""
    plain, noisy = ehvi(TOY.space, TWO), nehvi(TOY.space, TWO)
    seen, rest, _ = seen_and_rest(plain, noise=0.5)
    one, other = (s._aim(seen, np.random.default_rng(0))[1](rest) for s in (plain, noisy))
    assert other.sum() > one.sum()
