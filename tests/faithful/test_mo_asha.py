"""Multi-objective ASHA: its order of promotion by hand, and that with one objective it is ASHA."""

import statistics

import numpy as np
import pytest

from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Space
from nasflow.strategies.asha import asha, evolution, mo_asha
from nasflow.strategies.nsga2 import nsga2
from nasflow.strategies.rungs import FidelityError, Rungs
from nasflow.study import Objective, Study, Trial
from nasflow.testing import joint, networks
from nasflow.testing.strategies import TWO, history

ONE = (Objective("error"),)


def test_with_one_objective_it_is_asha():
    toy, studies = joint(), []
    for make, settings in ((asha, {}), (mo_asha, {"eta": 3.0, "rungs": 3, "sampler": "random"})):
        study = Study(toy.space, ONE)
        run(study, make(toy.space, ONE, seed=1, **settings), Evaluate(toy.train), trials=20, batch=3)
        studies.append(history(study))
    assert studies[0] == studies[1]


def test_promotions_by_hand():
    space = Space((Choice("n", tuple(range(100))),))
    strategy = mo_asha(space, TWO, fidelities=(0.5, 1.0), sampler="random")
    asked = strategy.ask(8)
    # The first four form the front; their places are (0, 7), (1, 3), (3, 2) and (6, 0), of 6 and 7. With reference 1.1
    # they add .1/6, 2/6 * 4/7, 3/6 * 1/7 and .1 * 2/7 to its volume.
    losses = [(0.0, 1.0), (0.2, 0.4), (0.5, 0.3), (1.0, 0.0), (0.6, 0.6), (1.0, 0.2), (0.35, 0.7), (0.8, 0.9)]
    strategy.tell(
        [
            Trial(i, p.point, p.fidelity, state="done", metrics={"error": error, "flops": flops})
            for i, (p, (error, flops)) in enumerate(zip(asked, losses, strict=True))
        ]
    )
    climbing = strategy.ask(5)  # one in two, as a full training is twice as long
    assert [p.fidelity for p in climbing] == [1.0] * 4 + [0.5]
    assert [asked.index(next(a for a in asked if a.point == p.point)) for p in climbing[:4]] == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("rungs", "used"), [(1, {1.0}), (2, {0.1, 1.0}), (3, {0.1, 0.4, 1.0}), (9, {0.1, 0.2, 0.4, 0.6, 1.0})]
)
def test_it_uses_the_shortest_the_full_and_some_between(rungs, used):
    toy = joint()
    study = Study(toy.space, TWO)
    strategy = mo_asha(toy.space, TWO, fidelities=(0.1, 0.2, 0.4, 0.6, 1.0), rungs=rungs)
    run(study, strategy, Evaluate(toy.train), trials=20, batch=4)
    assert {trial.fidelity for trial in study.trials} == used


def test_new_points_are_children_of_the_best_of_the_longest_trainings_that_some_had():
    space = Space(tuple(Choice(f"c{i}", tuple(range(12))) for i in range(6)))
    rungs, draw = Rungs(space, ONE, (0.1, 1.0)), evolution(space)

    def stand(fidelity, numbers, sign):
        for n in numbers:
            point, metrics = {p.name: n for p in space.parameters}, {"error": float(sign * n)}
            rungs.tell(Trial(n, point, fidelity, state="done", metrics=metrics))

    def parents():
        children = [draw(rungs, np.random.default_rng(seed)) for seed in range(20)]
        assert all(
            max(sum(v in pair for v in c.values()) for pair in ((0, 1), (10, 11))) >= 5 for c in children
        )
        return {
            value for child in children for value in child.values() if list(child.values()).count(value) > 1
        }

    stand(0.1, range(12), 1)  # the least error is that of 0
    assert parents() == {0, 1}
    stand(1.0, range(3, 12), -1)  # nine are too few to believe
    assert parents() == {0, 1}
    stand(1.0, [2], -1)  # after a full training, the least is that of 11
    assert parents() == {10, 11}


def test_all_rungs_cost_the_same():
    toy = joint()
    study = Study(toy.space, TWO)
    run(study, mo_asha(toy.space, TWO), Evaluate(toy.train), trials=60, batch=4)
    rungs = sorted({trial.fidelity for trial in study.trials})
    assert len(rungs) == 3
    for rung in rungs:
        cost = sum(trial.fidelity for trial in study.trials if trial.fidelity == rung)
        assert 0.27 < cost / study.spent < 0.4


def test_it_needs_less_training_than_nsga2_for_the_same_front():
    toy = networks()

    def searched(make, trials, seed):
        study = Study(toy.space, TWO)
        run(study, make(toy.space, TWO, seed=seed), Evaluate(toy.train), trials=trials, batch=4)
        return toy.quality(study.front, TWO)

    full = statistics.median(searched(nsga2, 32, seed) for seed in range(7))
    assert statistics.median(searched(mo_asha, 24, seed) for seed in range(7)) >= full


def test_settings_that_make_no_sense_are_refused():
    toy = networks()
    with pytest.raises(FidelityError, match="at least one rung, got 0"):
        mo_asha(toy.space, TWO, rungs=0)
    with pytest.raises(FidelityError, match="sampler is evolution or random, got 'tpe'"):
        mo_asha(toy.space, TWO, sampler="tpe")
