"""pymoo's algorithms behind the adapter: generations in batches, constraints, failures, drifted records."""

import statistics

import numpy as np
import pytest

from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Real, Space
from nasflow.strategies.pymoo_algorithms import UNKNOWN, nsga2
from nasflow.strategies.random import random_search
from nasflow.study import Objective, Study, Trial
from nasflow.testing import joint, networks

TWO = (Objective("error"), Objective("flops"))
LIMITED = (Objective("error"), Objective("flops", limit=100.0))


def finished(proposals, **metrics):
    return [Trial(n, p.point, state="done", metrics=metrics) for n, p in enumerate(proposals)]


def test_a_generation_is_handed_out_in_batches_and_the_next_waits_for_all_of_it():
    toy = networks()
    one = nsga2(toy.space, TWO, population=8)
    first, second = one.ask(5), one.ask(5)
    assert (len(first), len(second)) == (5, 3)
    assert one.ask(5) == []
    one.tell(finished(second, error=0.5, flops=1.0))
    assert one.ask(5) == [], "five are not told yet"
    one.tell(finished(first, error=0.5, flops=1.0))
    assert len(one.ask(5)) == 5


def test_the_order_of_telling_makes_no_difference():
    toy, histories = networks(), []
    for order in (1, -1):
        one, asked = nsga2(toy.space, TWO, population=8), []
        for _ in range(4):
            proposals = one.ask(8)
            trials = [
                Trial(n, p.point, state="done", metrics=toy.metrics(p.point)) for n, p in enumerate(proposals)
            ]
            one.tell(trials[::order])
            asked.append([proposal.point for proposal in proposals])
        histories.append(asked)
    assert histories[0] == histories[1]


def test_within_a_generation_nothing_comes_twice():
    toy = networks()
    one = nsga2(toy.space, TWO, population=20)
    for _ in range(3):
        proposals = one.ask(20)
        assert len({tuple(p.point.values()) for p in proposals}) == len(proposals)
        one.tell(
            [Trial(n, p.point, state="done", metrics=toy.metrics(p.point)) for n, p in enumerate(proposals)]
        )


class Spy:
    """What pymoo's algorithm is told, instead of the algorithm."""

    def __init__(self, one):
        self.told = []
        tell = one._algorithm.tell
        one._algorithm.tell = lambda infills: (self.told.append(infills), tell(infills=infills))


@pytest.mark.parametrize("objectives", [TWO, LIMITED])
def test_what_is_not_known_is_worse_than_anything_real(objectives):
    toy = networks()
    one = nsga2(toy.space, objectives, population=4)
    spy, proposals = Spy(one), one.ask(4)
    states = [("done", {"error": 0.5, "flops": 150.0}), ("refused", {"flops": 400.0})]
    states += [("failed", {"flops": 1.0}), ("duplicate", {"flops": 1.0})]
    one.tell(
        [
            Trial(n, p.point, state=s, metrics=m)
            for n, (p, (s, m)) in enumerate(zip(proposals, states, strict=True))
        ]
    )
    (infills,) = spy.told
    assert infills.get("F").tolist() == [[0.5, 150.0], [UNKNOWN, 400.0], [UNKNOWN, UNKNOWN], [UNKNOWN, 1.0]]
    if objectives is LIMITED:
        assert infills.get("G").tolist() == [[0.5], [3.0], [UNKNOWN], [UNKNOWN]]


def test_a_point_that_was_asked_otherwise_takes_a_place_in_the_generation():
    """That is how a record of another version is learnt from instead of stalling the search."""
    space = Space((Choice("a", tuple(range(50))), Real("c", 1.0, 100.0, log=True)))
    one = nsga2(space, TWO, population=4)
    spy, proposals = Spy(one), one.ask(4)
    foreign = {"a": 49, "c": 10.0}
    one.tell(finished(proposals[1:], error=0.5, flops=1.0))
    one.tell([Trial(9, foreign, state="done", metrics={"error": 0.1, "flops": 2.0})])
    (infills,) = spy.told
    assert infills[0].X.tolist() == [49, 500] and infills[0].F.tolist() == [0.1, 2.0]
    assert len(one.ask(4)) == 4


def test_points_told_before_it_asked_for_anything_are_passed_over():
    toy = networks()
    one, other = nsga2(toy.space, TWO), nsga2(toy.space, TWO)
    one.tell([Trial(0, next(toy.points()), state="done", metrics={"error": 0.1, "flops": 1.0})])
    assert one.ask(3) == other.ask(3)


def test_reals_are_encoded_and_decoded_alike():
    space = Space((Real("c", 1e-4, 1.0, log=True), Choice("a", ("x", "y"))))
    one = nsga2(space, TWO)
    for x in ([0, 0], [1000, 1], [333, 1]):
        point = one._decode(np.array(x))
        assert point in space
        assert one._encode(point).tolist() == x


def test_limits_are_learnt():
    """After a while it asks for less that must be refused than random search does."""
    toy = joint()
    objectives = (Objective("error"), Objective("flops", limit=500.0))

    def refused(made) -> float:
        shares = []
        for seed in range(5):
            study = Study(toy.space, objectives)
            evaluate = Evaluate(toy.train, lambda point: {"flops": toy.metrics(point)["flops"]})
            run(study, made(toy.space, objectives, seed=seed), evaluate, trials=30, batch=2)
            late = study.trials[20:]
            shares.append(sum(trial.state == "refused" for trial in late) / len(late))
        return statistics.median(shares)

    assert refused(nsga2) < 0.7 * refused(random_search)
