"""Random search: without repetition while that is easy, and the same for ever."""

import pytest

from nasflow.loop import Evaluate, run
from nasflow.strategies.grid import grid
from nasflow.strategies.optuna_samplers import qmc
from nasflow.strategies.random import random_search
from nasflow.study import Objective, Study
from nasflow.testing import networks

ONE = (Objective("error"),)


def test_nothing_comes_twice_while_there_is_more():
    toy = networks()
    different = len(list(toy.points()))
    strategy = random_search(toy.space, ONE)
    keys = [toy.space.key(proposal.point) for proposal in strategy.ask(60)]
    assert len(set(keys)) == 60 < different


def test_a_used_up_space_repeats_itself_and_ends():
    toy = networks()
    keys = {toy.space.key(proposal.point) for proposal in random_search(toy.space, ONE).ask(300)}
    assert len(keys) == len(list(toy.points()))


def test_how_many_are_asked_for_at_once_makes_no_difference():
    toy = networks()
    one, other = random_search(toy.space, ONE, seed=3), random_search(toy.space, ONE, seed=3)
    assert [*one.ask(2), *one.ask(5), *one.ask(1)] == other.ask(8)


@pytest.mark.parametrize("make", [random_search, grid, qmc])
def test_what_it_is_told_makes_no_difference(make):
    """Why a grid and a low-discrepancy sequence do not beat random search on a table: none of the three learns."""
    toy, study = networks(), Study(networks().space, ONE)
    run(study, make(toy.space, ONE), Evaluate(toy.train), trials=6, batch=2)
    untold = make(toy.space, ONE)
    assert [trial.point for trial in study.trials] == [
        proposal.point for _ in study.trials for proposal in untold.ask(1)
    ]


def test_seed_0_asks_for_these_for_ever():
    """A golden trajectory: if it changes, searches that were begun with an older version cannot be resumed."""
    asked = [tuple(proposal.point.values()) for proposal in random_search(networks().space, ONE).ask(6)]
    assert asked == [
        (32, 2, 5, False),
        (24, 3, 7, True),
        (32, 0, 3, False),
        (24, 1, 5, False),
        (16, 3, 5, False),
        (24, 1, 7, True),
    ]
