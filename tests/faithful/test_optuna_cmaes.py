"""CMA-ES against what Hansen and Ostermeier (2001) promise: it knows losses by their order alone."""

import math

from nasflow.loop import Evaluate, run
from nasflow.space import Real, Space
from nasflow.strategies.optuna_cmaes import cmaes
from nasflow.study import Objective, Study

SPACE = Space(tuple(Real(name, -1.0, 1.0) for name in "abc"))


def searched(transform, weights=(1.0, 1.0, 1.0)):
    study = Study(SPACE, (Objective("loss"),))

    def loss(trial):
        squares = zip(weights, trial.point.values(), strict=True)
        return {"loss": transform(sum(weight * (float(value) - 0.2) ** 2 for weight, value in squares))}

    run(study, cmaes(SPACE, study.objectives), Evaluate(loss), trials=120)
    return study


def test_any_rising_function_of_the_loss_gives_the_same_search():
    plain, bent = searched(lambda loss: loss), searched(lambda loss: math.log(loss + 1e-9) * 1e3 + 5.0)
    assert [trial.point for trial in plain.trials] == [trial.point for trial in bent.trials]


def test_steps_learn_the_shape_of_the_valley():
    """Along the flat axis the late points are spread more widely than along the steep one."""
    late = searched(lambda loss: loss, weights=(100.0, 1.0, 1.0)).trials[60:]
    spread = {name: max(t.point[name] for t in late) - min(t.point[name] for t in late) for name in "ab"}
    assert spread["b"] > 2 * spread["a"]
