"""Random search: repeatable, all over its support, and as lucky as Bergstra and Bengio (JMLR 2012) say."""

import numpy as np
import pytest
from scipy import stats

from nasflow.space import Choice, Real, Space
from nasflow.strategies.random import random_search
from nasflow.study import Objective

ONE = (Objective("error"),)
SPACE = Space((Real("rate", 1e-5, 1e-1, log=True), Real("share", 0.2, 0.8), Choice("kind", tuple("abcd"))))


def drawn(count, seed=0, space=SPACE):
    return [proposal.point for proposal in random_search(space, ONE, seed=seed).ask(count)]


def test_a_seed_repeats_itself_and_differs_from_others():
    assert drawn(20, seed=3) == drawn(20, seed=3) != drawn(20, seed=4)


def test_reals_are_uniform_over_their_range_or_over_its_logarithm():
    points = drawn(500)
    exponents = [np.log10(point["rate"]) for point in points]
    assert stats.kstest(exponents, stats.uniform(-5.0, 4.0).cdf).pvalue > 0.01
    assert stats.kstest([point["share"] for point in points], stats.uniform(0.2, 0.6).cdf).pvalue > 0.01


def test_every_option_is_as_likely():
    kinds = [point["kind"] for point in drawn(1000)]
    assert stats.chisquare([kinds.count(kind) for kind in "abcd"]).pvalue > 0.01


def test_the_best_of_59_is_among_the_top_twentieth_in_19_of_20_searches():
    """P = 1 - (1 - q)^n = 1 - 0.95^59 = 0.9515."""
    expected = 1 - 0.95**59
    assert expected == pytest.approx(0.9515, abs=1e-4)
    space = Space((Real("x", 0.0, 1.0),))
    lucky = sum(min(point["x"] for point in drawn(59, seed, space)) < 0.05 for seed in range(400))
    assert stats.binomtest(lucky, 400, expected).pvalue > 0.01
