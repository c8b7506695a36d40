"""Pareto local search against its definition (Paquete et al., 2004): all that is one step from the front, once."""

import numpy as np

from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Real, Space
from nasflow.strategies.local_search import local_search, neighbours
from nasflow.study import Objective, Study, Trial
from nasflow.testing import networks

CELL = Space(tuple(Choice(f"edge{i}", ("none", "skip", "conv1", "conv3", "pool")) for i in range(6)))
ONE = (Objective("loss"),)


def steps(a, b):
    return sum(a[name] != b[name] for name in a)


def test_the_neighbours_of_a_cell_are_its_24_one_edge_changes():
    point = CELL.sample(np.random.default_rng(0))
    near = neighbours(CELL, point, 4, np.random.default_rng(0))
    assert len({tuple(other.values()) for other in near}) == 24
    assert all(steps(point, other) == 1 for other in near)


def test_ordered_choices_have_the_one_before_and_the_one_after_and_reals_a_few_steps():
    space = Space((Choice("width", (1, 2, 3, 4), ordered=True), Real("rate", 0.0, 1.0)))
    rng = np.random.default_rng(0)
    near = neighbours(space, {"width": 1, "rate": 0.5}, 3, rng)
    assert sorted(other["width"] for other in near if other["rate"] == 0.5) == [2]
    assert len({other["rate"] for other in near if other["width"] == 1}) == 3
    near = neighbours(space, {"width": 3, "rate": 0.5}, 0, rng)
    assert sorted(other["width"] for other in near) == [2, 4]


def test_neighbours_that_mean_the_same_are_one():
    space = networks().space
    vanished = {"width": 8, "depth": 0, "kernel": 3, "squeeze": False}
    near = neighbours(space, vanished, 4, np.random.default_rng(0))
    assert sorted((other["width"], other["depth"]) for other in near) == [(8, 1), (16, 0)]


def test_every_neighbour_of_a_point_that_stays_the_best_is_visited_exactly_once():
    strategy = local_search(CELL, ONE, start=1)
    (best,) = strategy.ask(1)
    strategy.tell([Trial(0, best.point, state="done", metrics={"loss": 0.0})])
    visited = []
    for number in range(1, 25):
        (proposal,) = strategy.ask(1)
        visited.append(proposal.point)
        strategy.tell([Trial(number, proposal.point, state="done", metrics={"loss": 1.0})])
    assert {tuple(point.values()) for point in visited} == {
        tuple(point.values()) for point in neighbours(CELL, best.point, 0, np.random.default_rng(0))
    }
    (further,) = strategy.ask(1)
    assert steps(best.point, further.point) == 2  # the front is explored: what lies around the next


def test_a_better_neighbour_is_explored_at_once():
    strategy = local_search(CELL, ONE, start=1)
    (start,) = strategy.ask(1)
    strategy.tell([Trial(0, start.point, state="done", metrics={"loss": 0.0})])
    (better,) = strategy.ask(1)
    strategy.tell([Trial(1, better.point, state="done", metrics={"loss": -1.0})])
    assert all(steps(better.point, proposal.point) == 1 for proposal in strategy.ask(20))


def test_of_a_front_the_least_explored_point_comes_first():
    strategy = local_search(CELL, (Objective("a"), Objective("b")), start=2)
    points = [proposal.point for proposal in strategy.ask(2)]
    strategy.tell(
        [
            Trial(i, point, state="done", metrics={"a": float(i), "b": -float(i)})
            for i, point in enumerate(points)
        ]
    )
    nearest = [[steps(point, proposal.point) == 1 for point in points] for proposal in strategy.ask(20)]
    assert [sum(near) for near in zip(*nearest, strict=True)] == [10, 10]


def test_it_covers_a_whole_space_before_anything_comes_twice():
    toy = networks()
    study, different = Study(toy.space, (Objective("error"), Objective("flops"))), len(list(toy.points()))
    run(study, local_search(toy.space, study.objectives), Evaluate(toy.train), trials=different, batch=3)
    assert study.counts["done"] == len(study.trials) == different
