"""What the default strategy does beyond the contract of all: scales, limits, cheap metrics, looks, batches."""

from collections.abc import Mapping

import numpy as np
import pytest

from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Point, Space
from nasflow.strategies.auto import START, auto
from nasflow.study import Objective, Study, Trial

SPACE = Space(tuple(Choice(f"c{i}", (0, 1, 2, 3, 4, 5), ordered=True) for i in range(4)))
TWO = (Objective("error"), Objective("latency"))


def metrics(point: Mapping[str, object]) -> dict[str, float]:
    values = np.array([float(str(value)) for value in point.values()])
    return {
        "error": 1.0 / (1.0 + values @ [1.0, 2.0, 0.5, 1.5]) + 0.02 * abs(values[0] - values[1]),
        "latency": float(values @ [4.0, 1.0, 2.0, 0.5]) + 3.0,
    }


def search(objectives=TWO, *, train=None, trials=24, batch=1, seed=0, **known) -> Study:
    study = Study(SPACE, objectives)
    strategy = auto(SPACE, objectives, seed=seed, **known)
    run(study, strategy, Evaluate(train or (lambda trial: metrics(trial.point))), trials=trials, batch=batch)
    return study


def points(study: Study) -> list[Point]:
    return [trial.point for trial in study.trials]


@pytest.mark.parametrize(("factor", "goal"), [(1000.0, "min"), (0.001, "min"), (-1.0, "max")])
def test_units_and_signs_of_metrics_do_not_matter(factor, goal):
    def train(trial: Trial) -> dict[str, float]:
        found = metrics(trial.point)
        return {"error": factor * found["error"], "latency": found["latency"]}

    scaled = search((Objective("error", goal), TWO[1]), train=train)
    assert points(scaled) == points(search())


def test_what_it_trains_is_mostly_worth_it():
    study = search(trials=30)
    later = {trial.number for trial in study.trials[START:]}
    assert len(later & {trial.number for trial in study.front}) >= 8


def test_a_batch_holds_different_points():
    study = search(trials=24, batch=8)
    assert len({SPACE.key(point) for point in points(study)}) == 24


def test_a_limit_on_what_is_cheap_is_kept_before_anything_is_trained():
    limited = (TWO[0], Objective("latency", limit=20.0))

    def cheap(point):
        return {"latency": metrics(point)["latency"]}

    study = search(limited, cheap=cheap)
    model_led = study.trials[START:]
    assert all(metrics(trial.point)["latency"] <= 20.0 for trial in model_led)


def test_cheap_metrics_are_asked_for_a_few_candidates_only():
    asked: list[Point] = []

    def cheap(point):
        asked.append(point)
        return {"latency": metrics(point)["latency"]}

    search(trials=START + 4, cheap=cheap)
    assert 0 < len(asked) <= 4 * 64


def test_it_looks_before_it_trains_in_full():
    def train(trial: Trial) -> dict[str, float]:
        found = metrics(trial.point)
        return {**found, "error": found["error"] + 0.05 * (1.0 - trial.fidelity)}

    study = search(train=train, trials=16, fidelities=(0.1, 1.0))
    looked, full = [], []
    for trial in study.trials:
        if trial.fidelity < 1.0:
            looked.append(SPACE.key(trial.point))
        else:
            full.append(trial)
            assert SPACE.key(trial.point) in looked
    assert len(full) >= 6 and len(looked) > len(full)
    assert {trial.fidelity for trial in study.trials} == {0.1, 1.0}


def test_where_the_first_points_fail_it_tries_others():
    def train(trial: Trial) -> dict[str, float]:
        if trial.point["c0"] in (0, 5) or trial.point["c1"] in (0, 5):
            raise RuntimeError("the corners of this space do not train")
        return metrics(trial.point)

    study = search(train=train, trials=40, seed=3)
    late = study.trials[20:]
    assert sum(trial.state == "failed" for trial in late) <= len(late) // 3


def test_one_objective_is_expected_improvement():
    study = search((Objective("error"),), trials=30)
    every = [
        metrics({"c0": a, "c1": b, "c2": c, "c3": d})["error"]
        for a in range(6)
        for b in range(6)
        for c in range(6)
        for d in range(6)
    ]
    best = min(trial.metrics["error"] for trial in study.trials)
    assert np.mean(np.array(every) < best) < 0.005
