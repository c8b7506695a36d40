"""What strategies that model share: start, batches, limits, failures."""

import numpy as np
import pytest

from nasflow.space import Real, Space
from nasflow.strategies.ehvi import ehvi, nehvi
from nasflow.strategies.parego import parego
from nasflow.study import Objective, Trial
from nasflow.testing import joint

SQUARE = Space((Real("x", 0.0, 1.0), Real("y", 0.0, 1.0)))
ALL = pytest.mark.parametrize("make", [parego, ehvi, nehvi])


def told(strategy, metrics, points, state="done"):
    strategy.tell([Trial(i, p, state=state, metrics=metrics(p)) for i, p in enumerate(points)])


def sampled(space, count):
    rng = np.random.default_rng(5)
    return [space.sample(rng) for _ in range(count)]


def bowl(point):
    return {"loss": (point["x"] - 0.3) ** 2 + (point["y"] - 0.7) ** 2}


@ALL
def test_after_the_start_it_goes_where_the_loss_is_least(make):
    strategy = make(SQUARE, (Objective("loss"),))
    told(strategy, bowl, sampled(SQUARE, 20))
    point = strategy.ask(1)[0].point
    assert point["x"] == pytest.approx(0.3, abs=0.1) and point["y"] == pytest.approx(0.7, abs=0.1)


@ALL
def test_points_of_one_batch_differ(make):
    toy, two = joint(), (Objective("error"), Objective("flops"))
    strategy = make(toy.space, two)
    told(strategy, toy.metrics, sampled(toy.space, 12))
    keys = [toy.space.key(proposal.point) for proposal in strategy.ask(6)]
    assert len(set(keys)) == 6


@ALL
def test_it_stays_within_a_limit_that_is_learned(make):
    """The least loss is out of bounds; most of what is asked for is not."""

    def metrics(point):
        return {**bowl(point), "size": point["y"]}

    strategy = make(SQUARE, (Objective("loss"), Objective("size", limit=0.5, optimise=False)))
    told(strategy, metrics, sampled(SQUARE, 20))
    asked = [proposal.point for proposal in strategy.ask(4)]
    assert sum(point["y"] <= 0.52 for point in asked) >= 3
    assert asked[0]["x"] == pytest.approx(0.3, abs=0.25) and asked[0]["y"] > 0.35


@ALL
def test_it_looks_for_a_limit_that_was_never_kept(make):
    strategy = make(SQUARE, (Objective("loss"), Objective("size", limit=0.01, optimise=False)))
    told(strategy, lambda point: {"size": point["x"] + point["y"]}, sampled(SQUARE, 15), state="refused")
    point = strategy.ask(1)[0].point
    assert point["x"] + point["y"] < 0.25


@ALL
def test_it_avoids_where_trials_failed(make):
    strategy = make(SQUARE, (Objective("loss"),))
    points = sampled(SQUARE, 40)
    strategy.tell(
        [
            Trial(i, p, state="failed") if p["x"] < 0.5 else Trial(i, p, state="done", metrics=bowl(p))
            for i, p in enumerate(points)
        ]
    )
    asked = [proposal.point for proposal in strategy.ask(4)]
    assert sum(point["x"] > 0.4 for point in asked) >= 3


@ALL
def test_with_nothing_told_it_goes_on_at_random(make):
    strategy = make(SQUARE, (Objective("loss"),), start=3)
    assert len({SQUARE.key(proposal.point) for proposal in strategy.ask(8)}) == 8
