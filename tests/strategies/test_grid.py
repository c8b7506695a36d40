"""Grid search: what its points are, and that no grid is too large."""

import pytest

from nasflow.space import Choice, Real, Space
from nasflow.strategies.grid import GridError, grid, shuffled
from nasflow.study import Objective
from nasflow.testing import networks

ONE = (Objective("error"),)


def test_reals_have_positions_from_end_to_end():
    space = Space((Real("rate", 1e-4, 1.0, log=True), Real("share", 0.0, 0.9)))
    points = [proposal.point for proposal in grid(space, ONE, positions=3).ask(100)]
    assert sorted({point["rate"] for point in points}) == pytest.approx([1e-4, 1e-2, 1.0])
    assert sorted({point["share"] for point in points}) == pytest.approx([0.0, 0.45, 0.9])
    assert all(point in space for point in points)


def test_a_real_has_two_ends():
    with pytest.raises(GridError, match="at least 2 positions"):
        grid(networks().space, ONE, positions=1)


def test_a_huge_grid_costs_nothing():
    space = Space(tuple(Choice(f"c{i}", tuple(range(9))) for i in range(200)))
    one = grid(space, ONE)
    assert one.size == 9**200
    points = [tuple(proposal.point.values()) for proposal in one.ask(100)]
    assert len(set(points)) == 100 and all(len(set(point)) > 3 for point in points)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 1000])
def test_shuffled_is_a_permutation_that_depends_on_the_seed(size):
    for seed in (0, 1):
        assert sorted(shuffled(n, size, seed) for n in range(size)) == list(range(size))
    if size > 4:
        assert len({tuple(shuffled(n, size, seed) for n in range(size)) for seed in range(5)}) == 5


def test_seed_0_asks_for_these_for_ever():
    """A golden trajectory: if it changes, searches that were begun with an older version cannot be resumed."""
    asked = [tuple(proposal.point.values()) for proposal in grid(networks().space, ONE).ask(4)]
    assert asked == [(16, 2, 5, False), (16, 0, 5, True), (8, 1, 5, True), (24, 1, 5, True)]
