"""Optuna's samplers behind the adapter: what they are told about limits, failures and others' trials."""

import statistics

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Real, Space
from nasflow.strategies.optuna_samplers import OptunaSampler, gp, nsga2, nsga3, qmc, tpe, tpe_univariate
from nasflow.strategies.random import random_search
from nasflow.study import Objective, Study, Trial
from nasflow.testing import joint, networks

TWO = (Objective("error"), Objective("flops"))
SPACE = Space((Choice("a", (1, 2, 3), ordered=True), Choice("b", ("x", "y")), Real("c", 0.1, 10.0, log=True)))


class Recorder(optuna.samplers.RandomSampler):
    """Optuna's random sampler, with a view of the study it is asked with."""

    study: optuna.Study

    def before_trial(self, study, trial):
        self.study = study


def strategy(space=SPACE, objectives=TWO):
    sampler = Recorder(seed=0)
    return OptunaSampler(space, objectives, sampler), sampler


def tell(one, state, **metrics):
    (proposal,) = one.ask(1)
    one.tell([Trial(0, proposal.point, state=state, metrics=metrics)])


def told(sampler):
    return [(trial.state.name, trial.values, trial.constraints) for trial in sampler.study.trials]


def test_ordered_choices_are_integers_others_categories_reals_floats():
    one, sampler = strategy()
    (proposal,) = one.ask(1)
    assert proposal.point in SPACE
    (trial,) = sampler.study.trials
    assert trial.distributions == {
        "a": IntDistribution(0, 2),
        "b": CategoricalDistribution((0, 1)),
        "c": FloatDistribution(0.1, 10.0, log=True),
    }


def test_losses_are_minimised_whatever_the_goal():
    one, sampler = strategy(objectives=(Objective("error"), Objective("speed", "max")))
    tell(one, "done", error=0.5, speed=9.0)
    assert [direction.name for direction in sampler.study.directions] == ["MINIMIZE"] * 2
    assert told(sampler) == [("COMPLETE", [0.5, -9.0], {})]


def test_limits_are_told_as_violations_and_the_unknown_of_a_refused_trial_as_the_worst_seen():
    one, sampler = strategy(objectives=(Objective("error"), Objective("flops", limit=100.0)))
    tell(one, "done", error=0.3, flops=50.0)
    tell(one, "done", error=0.2, flops=150.0)
    tell(one, "refused", flops=400.0)
    tell(one, "duplicate", flops=400.0)
    assert told(sampler) == [
        ("COMPLETE", [0.3, 50.0], {"flops": 0.0}),
        ("COMPLETE", [0.2, 150.0], {"flops": 0.5}),
        ("COMPLETE", [0.3, 400.0], {"flops": 3.0}),
        ("COMPLETE", [0.3, 400.0], {"flops": 3.0}),
    ]


def test_a_failed_trial_is_the_worst_of_all_once_anything_is_known():
    one, sampler = strategy(objectives=(Objective("error"), Objective("flops", limit=100.0)))
    tell(one, "failed", flops=1.0)
    tell(one, "done", error=0.3, flops=50.0)
    tell(one, "refused", flops=400.0)
    tell(one, "failed", flops=1.0)
    tell(one, "duplicate", flops=1.0)  # of a failed one
    assert told(sampler)[0] == ("FAIL", None, {})
    assert told(sampler)[3:] == [("COMPLETE", [0.3, 400.0], {"flops": 3.0})] * 2


def test_points_it_never_asked_for_are_learnt_from_too():
    one, sampler = strategy(objectives=(Objective("error"), Objective("flops", limit=100.0)))
    one.tell([Trial(0, {"a": 3, "b": "y", "c": 1.0}, state="failed")])  # says nothing
    one.tell([Trial(0, {"a": 3, "b": "y", "c": 1.0}, state="done", metrics={"error": 0.5, "flops": 150.0})])
    one.ask(1)
    first = sampler.study.trials[0]
    assert first.params == {"a": 2, "b": 1, "c": 1.0}
    assert (first.values, first.constraints) == ([0.5, 150.0], {"flops": 0.5})


def test_the_same_point_asked_twice_is_told_twice():
    space = Space((Choice("a", (1,)),))
    one, sampler = strategy(space, (Objective("error"),))
    proposals = one.ask(2)
    one.tell([Trial(n, p.point, state="done", metrics={"error": 0.5}) for n, p in enumerate(proposals)])
    assert [trial.state.name for trial in sampler.study.trials] == ["COMPLETE"] * 2


def test_optunas_loudness_is_left_as_it_was():
    before = optuna.logging.get_verbosity()
    for make in (gp, nsga2, nsga3, qmc, tpe, tpe_univariate):
        make(SPACE, TWO).ask(3)
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize("make", [nsga2, nsga3, tpe, tpe_univariate])
def test_limits_are_learnt(make):
    """After a while it asks for less that must be refused than random search does."""
    toy = joint()
    objectives = (Objective("error"), Objective("flops", limit=500.0))

    def refused(made) -> float:
        shares = []
        for seed in range(5):
            study = Study(toy.space, objectives)
            evaluate = Evaluate(toy.train, lambda point: {"flops": toy.metrics(point)["flops"]})
            settings = {"population": 8} if made in (nsga2, nsga3) else {}
            run(study, made(toy.space, objectives, seed=seed, **settings), evaluate, trials=30, batch=2)
            late = study.trials[20:]
            shares.append(sum(trial.state == "refused" for trial in late) / len(late))
        return statistics.median(shares)

    assert refused(make) < 0.7 * refused(random_search)


@pytest.mark.long
def test_the_gaussian_process_minds_a_limit():
    toy = networks()
    objectives = (Objective("error"), Objective("flops", limit=1000.0))
    study = Study(toy.space, objectives)
    run(study, gp(toy.space, objectives, startup=12), Evaluate(toy.train), trials=18)
    asked = [toy.metrics(trial.point)["flops"] <= 1000.0 for trial in study.trials if trial.state == "done"]
    assert sum(asked[12:]) >= 5 > sum(asked[:12]) / 2


def test_tpe_avoids_what_fails():
    toy = networks()

    def train(trial):
        if trial.point["kernel"] == 7:
            raise MemoryError
        return toy.train(trial)

    failed = []
    for seed in range(5):
        study = Study(toy.space, TWO)
        run(study, tpe(toy.space, TWO, seed=seed), Evaluate(train), trials=30)
        failed.append(study.counts["failed"])
    assert statistics.median(failed) < 8, "chance is 30 / 3 less those that vanish"
