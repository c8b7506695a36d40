"""CMA-ES: choices as numbers, fronts as ranks, a fresh start when nothing new comes."""

import statistics

import numpy as np
import pytest

from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Real, Space
from nasflow.strategies.optuna_cmaes import CmaEs, cmaes
from nasflow.strategies.random import random_search
from nasflow.study import Objective, Study, Trial
from nasflow.testing import Toy, joint

TWO = (Objective("error"), Objective("flops"))
LIMITED = (Objective("error"), Objective("flops", limit=100.0))
SPACE = Space((Choice("a", tuple(range(50)), ordered=True),))


def ranks(objectives, *ends):
    """The rank of each of some ends, after all of them were told."""
    one = CmaEs(SPACE, objectives, 0, None, True)
    trials = [Trial(n, {"a": n}, state=state, metrics=metrics) for n, (state, metrics) in enumerate(ends)]
    one.tell(trials)
    return [one._rank(one._row(trial)) for trial in trials]


def test_the_rank_is_the_share_that_is_better_weighted_evenly_at_first():
    assert ranks(
        TWO,
        ("done", {"error": 1.0, "flops": 4.0}),
        ("done", {"error": 2.0, "flops": 2.0}),
        ("done", {"error": 3.0, "flops": 3.0}),
        ("done", {"error": 4.0, "flops": 4.0}),
        ("duplicate", {"error": 2.0, "flops": 2.0}),
    ) == pytest.approx([0.3, 0.1, 0.5, 0.7, 0.1])


def test_within_the_limits_comes_before_outside_and_failures_come_last():
    assert ranks(
        LIMITED,
        ("failed", {"flops": 1.0}),
        ("refused", {"flops": 300.0}),
        ("done", {"error": 0.1, "flops": 200.0}),
        ("done", {"error": 0.9, "flops": 100.0}),
    ) == [1.75, 1.5, 1.25, 0.0]


def test_each_beginning_has_other_weights_the_most_even_first():
    one = cmaes(SPACE, TWO)
    first = one._weights.tolist()
    one._begin()
    assert first == [0.5, 0.5] and one._weights == pytest.approx([1 / 3, 2 / 3])


def test_the_largest_of_its_numbers_says_which_option_of_an_unordered_choice():
    space = Space((Choice("kind", tuple("abc")), Real("rate", 1e-4, 1.0, log=True)))
    one = cmaes(space, TWO)
    proposals = one.ask(30)
    assert {proposal.point["kind"] for proposal in proposals} == set("abc")
    names = {name for trial in one._study.trials for name in trial.params}
    assert names == {"kind=0", "kind=1", "kind=2", "rate"}


def test_it_finds_the_minimum_of_a_sphere():
    space = Space(tuple(Real(name, -1.0, 1.0) for name in "xyz"))

    def loss(trial):
        return {"loss": sum((float(value) - 0.3) ** 2 for value in trial.point.values())}

    def best(made) -> float:
        study = Study(space, (Objective("loss"),))
        run(study, made(space, study.objectives), Evaluate(loss), trials=150)
        return min(trial.metrics["loss"] for trial in study.trials)

    assert best(cmaes) < 1e-3 < best(random_search)


def test_it_starts_anew_rather_than_repeat_itself_and_ends_when_little_is_new():
    toy = Toy(Space((Choice("a", (1, 2, 3, 4, 5, 6)), Choice("b", (1, 2, 3, 4)))), dict)
    one, keys = cmaes(toy.space, (Objective("a"), Objective("b"))), []
    while proposals := one.ask(1):
        keys += [toy.space.key(proposal.point) for proposal in proposals]
        one.tell([Trial(0, p.point, state="done", metrics=toy.metrics(p.point)) for p in proposals])
    assert len(keys) == len(set(keys)) >= 20 and one._runs > 2


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

    assert refused(cmaes) < 0.7 * refused(random_search)


@pytest.mark.parametrize("seed", range(3))
def test_what_it_asks_for_is_in_the_space(seed):
    space = joint().space
    assert all(proposal.point in space for proposal in cmaes(space, TWO, seed=seed).ask(40))
    assert np.isfinite([p.point["sparsity"] for p in cmaes(space, TWO, seed=seed).ask(5)]).all()
