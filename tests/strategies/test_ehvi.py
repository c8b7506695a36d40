"""Expected hypervolume improvement as a strategy: its reference, drawn fronts and settings."""

import numpy as np
import pytest

from nasflow.strategies.ehvi import DrawsError, drawn, ehvi, nehvi, reference
from nasflow.strategies.encoding import Encoder
from nasflow.strategies.gaussian import ADDITIVE, Gaussian
from nasflow.study import Objective, Trial
from nasflow.testing import joint, networks

TWO = (Objective("error"), Objective("flops"))


def test_the_reference_is_a_tenth_beyond_the_worst_seen():
    losses = np.array([(0.0, 5.0), (1.0, 3.0), (2.0, 4.0)])
    assert reference(losses) == pytest.approx([2.2, 5.2])


def test_a_loss_that_never_differs_still_has_a_reference_beyond_it():
    assert (reference(np.array([(1.0, 2.0), (1.0, 3.0)])) > (1.0, 3.0)).all()


def test_drawn_fronts_are_near_what_was_seen_and_differ():
    toy = networks()
    encoder = Encoder(toy.space, seed=0)
    points = encoder.encode(list(toy.points())[::4])
    losses = np.array([[o.loss(toy.metrics(p)) for o in TWO] for p in list(toy.points())[::4]])
    losses = (losses - losses.mean(axis=0)) / losses.std(axis=0)
    processes = [Gaussian(ADDITIVE, points, column) for column in losses.T]
    fronts = drawn(processes, points, 5, np.random.default_rng(0))
    assert len(fronts) == 5 and fronts[0].shape == losses.shape
    assert np.mean(fronts, axis=0) == pytest.approx(losses, abs=0.5)
    assert (fronts[0] != fronts[1]).any()


@pytest.mark.parametrize("make", [ehvi, nehvi])
def test_units_and_signs_of_metrics_do_not_matter(make):
    toy = joint()

    def asked(objectives, change):
        strategy = make(toy.space, objectives)
        rng = np.random.default_rng(1)
        points = [toy.space.sample(rng) for _ in range(14)]
        strategy.tell(
            [Trial(i, p, state="done", metrics=change(toy.metrics(p))) for i, p in enumerate(points)]
        )
        return strategy.ask(1)[0].point

    usual = asked(TWO, lambda metrics: metrics)
    turned = (Objective("accuracy", "max"), Objective("flops"))
    assert usual == asked(
        turned, lambda metrics: {"accuracy": 64.0 - 64.0 * metrics["error"], "flops": metrics["flops"] / 1024}
    )


def test_no_draws_at_all_are_an_error_that_says_what_to_take_instead():
    with pytest.raises(DrawsError, match="expected at least 1, got 0; without draws it is the strategy ehvi"):
        nehvi(networks().space, TWO, draws=0)
