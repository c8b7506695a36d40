"""Successive halving against its paper (Jamieson and Talwalkar, 2016), on learning curves that are known."""

from itertools import pairwise

import pytest

from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Space
from nasflow.strategies.rungs import FidelityError
from nasflow.strategies.successive_halving import successive_halving
from nasflow.study import Objective, Study, Trial

SPACE = Space((Choice("n", tuple(range(500))),))
ONE = (Objective("error"),)
LADDER = (1 / 27, 1 / 9, 1 / 3, 1.0)


def searched(train, trials, batch=1, fidelities=LADDER, **settings):
    study = Study(SPACE, ONE)
    run(
        study,
        successive_halving(SPACE, ONE, fidelities=fidelities, **settings),
        Evaluate(train),
        trials=trials,
        batch=batch,
    )
    return study


def monotone(trial):
    """Curves that fall with training and never cross."""
    return {"error": 1.0 / (1.0 + trial.point["n"]) + 0.1 / trial.fidelity}


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_a_bracket_keeps_a_third_of_a_third_and_returns_the_best(batch):
    study = searched(monotone, 4, batch)
    first = [[t.point["n"] for t in study.trials[:40] if t.fidelity == fidelity] for fidelity in LADDER]
    assert [len(rung) for rung in first] == [27, 9, 3, 1]
    for below, above in pairwise(first):
        assert set(above) == set(sorted(below)[-len(above) :])
    assert first[-1] == [max(first[0])]
    assert study.spent == pytest.approx(4)


def test_curves_that_cross_fool_it_as_they_must():
    def crossing(trial):
        late = trial.point["n"] % 2 == 0
        return {"error": 1.0 - trial.fidelity if late else 0.5}

    assert all(t.point["n"] % 2 == 1 for t in searched(crossing, 4).finalists)


def test_another_bracket_begins_with_other_points():
    study = searched(monotone, 8)
    assert len({t.point["n"] for t in study.trials if t.fidelity == LADDER[0]}) == 54


@pytest.mark.parametrize("several", [False, True])
def test_with_several_objectives_who_was_left_behind_may_climb_later(several):
    objectives = (Objective("error"), Objective("flops")) if several else ONE
    strategy = successive_halving(SPACE, objectives, fidelities=(1 / 3, 1.0))

    def bracket(*losses):
        begun = strategy.ask(len(losses))
        metrics = [{"error": error, "flops": flops} for error, flops in losses]
        strategy.tell(trials(begun, metrics))
        (climbed,) = strategy.ask(1)
        assert climbed.fidelity == 1.0
        strategy.tell(trials([climbed], [{"error": 0.0, "flops": 0.0}]))
        return [proposal.point for proposal in begun], climbed.point

    def trials(proposals, metrics):
        pairs = enumerate(zip(proposals, metrics, strict=True))
        return [Trial(i, p.point, p.fidelity, state="done", metrics=m) for i, (p, m) in pairs]

    first, best = bracket((1.0, 3.0), (2.0, 2.0), (3.0, 1.0))
    second, next_best = bracket((7.0, 7.0), (8.0, 8.0), (9.0, 9.0))
    if several:
        assert next_best in first and next_best != best  # nothing of the second bracket is as good
    else:
        assert (best, next_best) == (first[0], second[0])


def test_failures_and_refusals():
    objectives = (Objective("error"), Objective("n", limit=250.0, optimise=False))

    def train(trial):
        if trial.point["n"] % 3 == 0:
            raise RuntimeError("crashed")
        return monotone(trial)

    study = Study(SPACE, objectives)
    strategy = successive_halving(SPACE, objectives, fidelities=LADDER)
    evaluate = Evaluate(train, cheap=lambda point: {"n": float(point["n"])})
    run(study, strategy, evaluate, trials=4)
    lowest = [t for t in study.trials if t.fidelity == LADDER[0]]
    trained = [t for t in lowest if t.state in ("done", "failed")][:27]
    assert len(lowest) > 27 and len(trained) == 27  # refused points cost nothing and take no place
    best = sorted((t.point["n"] for t in trained if t.state == "done"), reverse=True)
    climbed = [t.point["n"] for t in study.trials if t.fidelity == LADDER[1]]
    assert sorted(climbed, reverse=True) == best[:9]


@pytest.mark.parametrize("eta", [1.0, 0.5, float("nan")])
def test_an_eta_that_keeps_all_is_refused(eta):
    with pytest.raises(FidelityError, match="eta: expected a number above 1"):
        successive_halving(SPACE, ONE, eta=eta)
