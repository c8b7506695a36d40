"""ASHA against its paper (Li et al., 2020): who is promoted, when, and how many."""

import pytest

from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Space
from nasflow.strategies.asha import asha
from nasflow.strategies.rungs import FidelityError
from nasflow.study import Objective, Study, Trial

SPACE = Space((Choice("n", tuple(range(2000))),))
ONE = (Objective("error"),)
LADDER = (1 / 9, 1 / 3, 1.0)


def told(strategy, proposals, errors):
    strategy.tell(
        [
            Trial(i, p.point, p.fidelity, state="done", metrics={"error": error})
            for i, (p, error) in enumerate(zip(proposals, errors, strict=True))
        ]
    )


def test_by_hand():
    strategy = asha(SPACE, ONE)
    first = strategy.ask(3)
    assert [p.fidelity for p in first] == [LADDER[0]] * 3
    told(strategy, first, [0.3, 0.1, 0.2])
    second = strategy.ask(3)  # one of three may climb, the rest are new
    assert second[0].point == first[1].point
    assert [p.fidelity for p in second] == [LADDER[1], LADDER[0], LADDER[0]]
    told(strategy, second, [0.1, 0.4, 0.5])
    third = strategy.ask(2)  # five at the bottom: a third of them is still one
    assert [p.fidelity for p in third] == [LADDER[0]] * 2
    told(strategy, third, [0.05, 0.25])
    fourth = strategy.ask(2)  # seven at the bottom: two may be promoted, and one was
    assert fourth[0].point == third[0].point and [p.fidelity for p in fourth] == [LADDER[1], LADDER[0]]


@pytest.mark.parametrize("eta", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("falling", [True, False])
def test_never_more_than_one_in_eta_are_promoted(eta, falling):
    """Also where each new point is better than all before, so that the paper's rule would promote them all."""
    study = Study(SPACE, ONE)

    def train(trial):
        rungs = [sum(t.fidelity == f and t.state != "pending" for t in study.trials) for f in LADDER]
        assert rungs[1] <= rungs[0] / eta + 1 and rungs[2] <= rungs[1] / eta + 1
        return {"error": -float(trial.number) if falling else float(trial.point["n"])}

    run(study, asha(SPACE, ONE, eta=eta), Evaluate(train), trials=20)
    counts = [sum(t.fidelity == f for t in study.trials) for f in LADDER]
    assert 0 < counts[1] <= counts[0] / eta and 0 < counts[2] <= counts[1] / eta


def test_whoever_climbs_is_among_the_best_of_its_rung():
    study = Study(SPACE, ONE)

    def train(trial):
        if trial.fidelity > LADDER[0]:
            below = LADDER[LADDER.index(trial.fidelity) - 1]
            rung = sorted(t.point["n"] for t in study.trials if t.fidelity == below and t.state == "done")
            assert trial.point["n"] in rung[: len(rung) // 3]
        return {"error": float(trial.point["n"])}

    run(study, asha(SPACE, ONE), Evaluate(train), trials=20)
    assert study.counts["failed"] == 0


def test_it_never_waits():
    strategy = asha(SPACE, ONE)
    assert all(len(strategy.ask(4)) == 4 for _ in range(10))  # with nothing told at all


@pytest.mark.parametrize("eta", [1.0, 0.0])
def test_an_eta_that_promotes_all_is_refused(eta):
    with pytest.raises(FidelityError, match="eta: expected a number above 1"):
        asha(SPACE, ONE, eta=eta)
