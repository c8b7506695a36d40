"""pymoo's NSGA-III behind the adapter against its paper (Deb and Jain, 2014): directions and their niches."""

import math

import numpy as np
import pytest
from pymoo.algorithms.moo.nsga3 import associate_to_niches

from nasflow import pareto
from nasflow.space import Real, Space
from nasflow.strategies.pymoo_algorithms import directions, nsga3
from nasflow.study import Objective, Trial

THREE = tuple(Objective(name) for name in "xyz")


@pytest.mark.parametrize(("objectives", "steps"), [(2, 19), (3, 5)])
def test_the_directions_are_the_lattice_of_das_and_dennis(objectives, steps):
    found = directions(20, objectives)
    assert len(found) == math.comb(steps + objectives - 1, steps)
    assert (found * steps) == pytest.approx(np.round(found * steps))


def test_a_second_layer_lies_inside_where_one_layer_has_no_inside():
    """Halfway from the corners to the centre, as the paper has it for eight objectives and more."""
    found = directions(20, 8)
    inner = found[(found > 0).all(axis=1)]
    assert len(found) == math.comb(9, 2) + 8 and len(inner) == 8
    assert np.sort(inner, axis=1)[0] == pytest.approx([1 / 16] * 7 + [9 / 16])


def test_a_niche_that_was_reached_is_kept():
    """On a sphere's octant, where every point is on the front, a direction that has someone near it keeps someone."""
    space = Space((Real("one", 0.0, 1.0), Real("other", 0.0, 1.0)))

    def octant(point):
        a, b = (math.pi / 2 * point[name] for name in ("one", "other"))
        return {"x": math.cos(a) * math.cos(b), "y": math.cos(a) * math.sin(b), "z": math.sin(a)}

    one, filled = nsga3(space, THREE, population=20), []
    for _ in range(12):
        one.tell([Trial(0, p.point, state="done", metrics=octant(p.point)) for p in one.ask(50)])
        losses = one._algorithm.pop.get("F")
        assert pareto.non_dominated(losses).all()
        normal = one._algorithm.survival.norm
        niches, _, _ = associate_to_niches(losses, directions(20, 3), normal.ideal_point, normal.nadir_point)
        filled.append(len(set(niches)))
    assert filled[-1] >= 0.9 * 21 > filled[0]
