"""pymoo's MOEA/D behind the adapter against its paper (Zhang and Li, 2007): neighbours, and whom a child replaces."""

import numpy as np
import pytest
from pymoo.decomposition.tchebicheff import Tchebicheff

from nasflow.space import Choice, Space
from nasflow.strategies.pymoo_algorithms import directions, moead
from nasflow.study import Objective, Trial

TWO = (Objective("x"), Objective("y"))
SPACE = Space((Choice("a", tuple(range(100)), ordered=True), Choice("b", tuple(range(100)), ordered=True)))


def advance(one):
    proposals = one.ask(100)
    metrics = [{"x": float(p.point["a"]), "y": (100.0 - p.point["a"]) + p.point["b"]} for p in proposals]
    one.tell([Trial(0, p.point, state="done", metrics=m) for p, m in zip(proposals, metrics, strict=True)])


def test_neighbours_have_the_nearest_weights_and_a_direction_is_its_own_first():
    one = moead(SPACE, TWO, population=20, neighbours=5)
    weights, neighbours = directions(20, 2), one._algorithm.neighbors
    assert neighbours.shape == (20, 5) and (neighbours[:, 0] == np.arange(20)).all()
    assert sorted(neighbours[0]) == [0, 1, 2, 3, 4] and sorted(neighbours[10]) == [8, 9, 10, 11, 12]
    assert one._algorithm.ref_dirs == pytest.approx(weights)


def test_the_holder_of_a_direction_never_gets_worse_for_it():
    one = moead(SPACE, TWO, population=20, neighbours=5)
    advance(one)
    algorithm = one._algorithm
    for _ in range(15):
        before = algorithm.pop.get("F").copy()
        advance(one)
        after = algorithm.pop.get("F")
        scalars = [
            Tchebicheff().do(
                losses, weights=algorithm.ref_dirs, ideal_point=algorithm.ideal, _type="one_to_one"
            )
            for losses in (before, after)
        ]
        assert (scalars[1] <= scalars[0] + 1e-12).all() and (algorithm.ideal <= after.min(axis=0)).all()


def test_children_descend_from_the_neighbourhood_whose_place_they_compete_for():
    """What pymoo breeds in one go it deals out in this order; a child of two is its first."""
    one = moead(SPACE, TWO, population=20, neighbours=2)
    advance(one)
    algorithm = one._algorithm
    one.ask(1)
    parents = algorithm.pop.get("X").astype(float)
    distances = []
    for index, child in zip(algorithm.indices, one._generation.get("X"), strict=True):
        around = parents[algorithm.neighbors[index]]
        distances.append(np.abs(child - around).max(axis=1).min())
    strangers = [
        np.abs(child - parents[algorithm.neighbors[index]]).max(axis=1).min()
        for index, child in zip(np.roll(algorithm.indices, 7), one._generation.get("X"), strict=True)
    ]
    assert np.median(distances) < 0.5 * np.median(strangers)
