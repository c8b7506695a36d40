"""Scalarised evolution: losses by their places, weights anew for each child, the best by these as parents."""

import numpy as np

from nasflow import scalarise
from nasflow.strategies.scalarised import fronts_first, tchebycheff, weighted_sum
from nasflow.study import Objective, Trial
from nasflow.testing import networks

TWO = (Objective("error"), Objective("flops"))


def test_with_one_objective_parents_are_the_best_of_all():
    toy = networks()
    strategy = weighted_sum(toy.space, TWO[:1], start=30, parents=1)
    asked = [proposal.point for proposal in strategy.ask(30)]
    strategy.tell([Trial(i, p, state="done", metrics=toy.metrics(p)) for i, p in enumerate(asked)])
    best = min(asked, key=lambda point: toy.metrics(point)["error"])
    children = [proposal.point for proposal in strategy.ask(10)]
    near = [sum(child[name] != best[name] for name in best) for child in children]
    assert np.median(near) <= 2


def test_different_weights_favour_different_parents():
    toy = networks()
    strategy = tchebycheff(toy.space, TWO, start=60, parents=1)
    asked = [proposal.point for proposal in strategy.ask(60)]
    strategy.tell([Trial(i, p, state="done", metrics=toy.metrics(p)) for i, p in enumerate(asked)])
    widths = {proposal.point["width"] for proposal in strategy.ask(15)}
    assert {8, 32} <= widths


def test_pbi_breeds_from_nobody_dominated_while_others_are_left():
    losses, weights, ideal = np.array([(0.4, 0.1), (0.1, 0.45), (0.5, 0.5)]), np.full(2, 0.5), np.zeros(2)
    assert (
        scalarise.pbi(losses, weights, ideal).argmin() == 2
    )  # on the ray, and worse than the first in everything
    assert fronts_first(scalarise.pbi)(losses, weights, ideal).tolist() == [0, 1, 2]
