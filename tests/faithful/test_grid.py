"""Grid search: as many points as the product says, each once, whoever asks how often, and an end."""

import math

import pytest

from nasflow.space import Choice, Real, Space
from nasflow.strategies.grid import grid
from nasflow.study import Objective

SPACE = Space(
    (Choice("a", (1, 2, 3), ordered=True), Choice("b", ("x", "y")), Real("c", 0.0, 1.0), Choice("d", (0,)))
)
ONE = (Objective("error"),)


@pytest.mark.parametrize("batch", [1, 4, 7, 100])
def test_the_product_is_asked_for_once_each_in_batches_of_any_size_and_then_it_ends(batch):
    one, points = grid(SPACE, ONE, positions=7), []
    while proposals := one.ask(batch):
        assert len(proposals) <= batch
        points += [tuple(proposal.point.values()) for proposal in proposals]
    assert len(points) == len(set(points)) == 3 * 2 * 7 * 1 == one.size
    assert one.ask(batch) == []


def test_each_parameter_has_few_values_in_many_points():
    """The argument of Bergstra and Bengio (2012) for random search: n points have n^(1/d) values of a parameter."""
    space = Space(tuple(Real(name, 0.0, 1.0) for name in "abcd"))
    points = [proposal.point for proposal in grid(space, ONE, positions=3).ask(81)]
    assert {len({point[name] for point in points}) for name in "abcd"} == {round(81 ** (1 / 4))}


def test_a_part_of_a_shuffled_grid_is_spread_over_it():
    space = Space(tuple(Choice(name, tuple(range(10))) for name in "abc"))
    points = [proposal.point for proposal in grid(space, ONE, seed=1).ask(200)]
    for name in "abc":
        counts = [sum(point[name] == value for point in points) for value in range(10)]
        assert sum((count - 20) ** 2 / 20 for count in counts) < 27.9, "chi-squared of 9, one in a thousand"
    order = [sum(10**i * int(point[name] or 0) for i, name in enumerate("abc")) for point in points]
    assert abs(math.fsum(order) / 200 - 499.5) < 3 * 289 / math.sqrt(200)
