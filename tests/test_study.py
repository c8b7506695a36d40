"""Studies: objectives with limits, the states of trials, what counts, what is on the front."""

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from nasflow.space import Choice, Space, SpaceError
from nasflow.study import Ask, Objective, Proposal, Study, StudyError, Trial

SPACE = Space(
    (Choice("a", (0, 1, 2, 3)), Choice("b", (0, 1))),
    (lambda point: {**point, "b": 0} if point["a"] == 0 else point,),
)
TWO = (Objective("error"), Objective("speed", "max"))


def propose(study: Study, *values: tuple[int, int]) -> list[Trial]:
    return study.add([Proposal({"a": a, "b": b}) for a, b in values], len(values))


def done(study: Study, trial: Trial, **metrics: float) -> Trial:
    return study.finish(replace(trial, state="done", metrics=metrics))


def test_lower_losses_are_better_whatever_the_goal():
    assert Objective("error").loss({"error": 0.2}) == 0.2
    assert Objective("speed", "max").loss({"speed": 5.0}) == -5.0


@pytest.mark.parametrize(
    ("objective", "value", "violation"),
    [
        (Objective("m"), 9e9, 0.0),
        (Objective("m", limit=10.0), 10.0, 0.0),
        (Objective("m", limit=10.0), 15.0, 0.5),
        (Objective("m", limit=10.0), -15.0, 0.0),
        (Objective("m", "max", limit=10.0), 10.0, 0.0),
        (Objective("m", "max", limit=10.0), 5.0, 0.5),
        (Objective("m", limit=-10.0), -5.0, 0.5),
    ],
)
def test_a_violation_is_the_overstepped_share_of_the_limit(objective, value, violation):
    assert objective.violation({"m": value}) == pytest.approx(violation)
    assert objective.violation({}) == 0.0


def test_a_limit_of_zero_can_be_overstepped():
    assert Objective("m", limit=0.0).violation({"m": 0.0}) == 0.0
    assert math.isfinite(Objective("m", limit=0.0).violation({"m": 1.0}))
    assert Objective("m", limit=0.0).violation({"m": 1.0}) > 1.0


def test_values_cannot_be_changed():
    for value in (Objective("m"), Proposal({}), Trial(0, {}), Ask(1, ())):
        with pytest.raises(FrozenInstanceError):
            value.number = 3


def test_trials_are_numbered_in_the_order_of_asking():
    study = Study(SPACE, TWO)
    assert [trial.number for trial in propose(study, (1, 0), (2, 0))] == [0, 1]
    assert [trial.number for trial in propose(study, (3, 0))] == [2]
    assert study.asks == [Ask(2, (0, 1)), Ask(1, (2,))]
    assert study.pending == study.trials


def test_an_ask_cut_short_can_be_completed_but_only_the_last():
    study = Study(SPACE, TWO)
    study.add([Proposal({"a": 1, "b": 0})], 3)
    study.complete(0, [Proposal({"a": 2, "b": 0}), Proposal({"a": 3, "b": 0})])
    assert study.asks == [Ask(3, (0, 1, 2))]
    propose(study, (0, 0))
    with pytest.raises(StudyError, match="only the last ask can be completed, 1; got 0"):
        study.complete(0, [])


def test_only_points_of_the_space_enter():
    with pytest.raises(SpaceError, match="a: expected one of"):
        propose(Study(SPACE, TWO), (9, 0))


def test_what_was_trained_counts_against_the_budget():
    study = Study(SPACE, TWO)
    trials = propose(study, (0, 0), (1, 0), (2, 0), (3, 0), (3, 0))
    for trial, state in zip(trials, ("done", "failed", "refused", "duplicate"), strict=False):
        study.finish(replace(trial, state=state, metrics={"error": 0.1, "speed": 1.0}))
    assert study.counts == {"pending": 1, "done": 1, "failed": 1, "refused": 1, "duplicate": 1}
    assert study.spent == 2


def test_the_front_is_what_nothing_dominates_within_the_limits():
    study = Study(SPACE, (Objective("error"), Objective("speed", "max"), Objective("size", limit=10.0)))
    trials = propose(study, (0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0))
    done(study, trials[0], error=0.3, speed=9.0, size=5.0)
    done(study, trials[1], error=0.1, speed=1.0, size=5.0)
    done(study, trials[2], error=0.3, speed=8.0, size=6.0)  # dominated
    done(study, trials[3], error=0.0, speed=99.0, size=11.0)  # too large
    study.finish(replace(trials[4], state="failed", error="crashed", metrics={"size": 1.0}))
    done(study, replace(trials[5], fidelity=0.5), error=0.0, speed=99.0, size=1.0)  # trained by half
    assert [trial.number for trial in study.finalists] == [0, 1, 2]
    assert [trial.number for trial in study.front] == [0, 1]


def test_a_metric_that_only_has_a_limit_dominates_nothing():
    study = Study(SPACE, (Objective("error"), Objective("size", limit=10.0, optimise=False)))
    for trial, size in zip(propose(study, (1, 0), (2, 0)), (1.0, 9.0), strict=True):
        done(study, trial, error=0.1, size=size)
    assert len(study.front) == 2, "equal in all that is optimised"
    assert study.losses(study.trials).tolist() == [[0.1], [0.1]]


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_right_after_every_trial_in_whatever_order_they_end(seed):
    rng = np.random.default_rng(seed)
    objectives = (Objective("error"), Objective("speed", "max", limit=1.0))
    study = Study(SPACE, objectives)
    waiting = propose(study, *((int(rng.integers(4)), int(rng.integers(2))) for _ in range(40)))
    for trial in rng.permutation(np.array(waiting, dtype=object)):
        ended = replace(trial, fidelity=float(rng.choice([0.5, 1.0, 1.0])))
        done(study, ended, error=float(rng.integers(8)), speed=float(rng.integers(8)))
        allowed = [
            t for t in study.trials if t.state == "done" and t.fidelity == 1.0 and t.metrics["speed"] >= 1
        ]
        beaten = [
            any(
                b.metrics["error"] <= a.metrics["error"]
                and b.metrics["speed"] >= a.metrics["speed"]
                and (b.metrics["error"], b.metrics["speed"]) != (a.metrics["error"], a.metrics["speed"])
                for b in allowed
            )
            for a in allowed
        ]
        assert study.finalists == allowed
        assert study.front == [t for t, worse in zip(allowed, beaten, strict=True) if not worse]


def test_the_front_belongs_to_who_asked_for_it():
    study = Study(SPACE, TWO)
    done(study, propose(study, (1, 0))[0], error=1.0, speed=1.0)
    study.front.clear()
    study.finalists.clear()
    assert len(study.front) == len(study.finalists) == 1


def test_a_study_without_trials_has_an_empty_front():
    assert Study(SPACE, TWO).front == []
    assert Study(SPACE, TWO).losses([]).shape == (0, 2)


def test_the_same_meaning_and_fidelity_make_a_duplicate():
    study = Study(SPACE, TWO)
    first, second, other = propose(study, (0, 1), (0, 0), (1, 0))
    assert study.original(first) is None and study.original(other) is None
    assert study.original(second) == first
    (half,) = study.add([Proposal({"a": 0, "b": 0}, fidelity=0.5)], 1)
    assert study.original(half) is None


def test_limits_are_spoken_of_in_words():
    study = Study(SPACE, (Objective("size", limit=10.0), Objective("speed", "max", limit=2.0)))
    assert study.overstepped({"size": 12.0, "speed": 1.0}) == (
        "size 12 is over its limit 10; speed 1 is under its limit 2"
    )
    assert study.overstepped({"size": 1.0}) == ""
    for trial, size in zip(propose(study, (1, 0), (2, 0)), (12.0, 14.0), strict=True):
        study.finish(replace(trial, state="refused", metrics={"size": size, "speed": 3.0}))
    assert study.obstacles() == "size must be at most 10, best seen 12"


def test_a_trial_ends_once_and_in_another_state_than_pending():
    study = Study(SPACE, TWO)
    (trial,) = propose(study, (0, 0))
    with pytest.raises(StudyError, match="trial 0: a finished trial has another state"):
        study.finish(trial)
    done(study, trial, error=0.1, speed=1.0)
    with pytest.raises(StudyError, match="trial 0 is done already; a trial ends once"):
        done(study, trial, error=0.2, speed=1.0)
    with pytest.raises(StudyError, match="trial 0 is done already"):
        study.note(0, {"size": 1.0})
    with pytest.raises(StudyError, match="no trial 7: the study has 1"):
        study.note(7, {})


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_done_trial_has_a_finite_number_for_every_objective(value):
    study = Study(SPACE, TWO)
    (trial,) = propose(study, (0, 0))
    with pytest.raises(StudyError, match=f"trial 0 is done but speed is {value}: expected a finite number"):
        study.finish(replace(trial, state="done", metrics={"error": 0.1, "speed": value}))
    assert study.pending == [trial]


def test_notes_add_up():
    study = Study(SPACE, TWO)
    propose(study, (0, 0))
    study.note(0, {"speed": 1.0})
    assert study.note(0, {"size": 2.0}).metrics == {"speed": 1.0, "size": 2.0}
    assert study.trials[0].metrics == {"speed": 1.0, "size": 2.0}


def test_objectives_make_sense_together():
    with pytest.raises(StudyError, match="at least one objective to optimise"):
        Study(SPACE, [Objective("size", limit=1.0, optimise=False)])
    with pytest.raises(StudyError, match="each metric may be an objective once"):
        Study(SPACE, [Objective("size"), Objective("size", limit=3.0, optimise=False)])
