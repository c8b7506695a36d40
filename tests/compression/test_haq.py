"""The strategy HAQ: what every strategy promises, on a network whose error is a formula."""

from typing import Any

import pytest
import torch
from networks import NETWORKS, SHAPE, trained

from nasflow.compression import haq, precision
from nasflow.compression.assign import Limit
from nasflow.compression.layers import layers
from nasflow.compression.precision import PrecisionError
from nasflow.loop import Evaluate, run
from nasflow.space import Space
from nasflow.study import Metrics, Objective, Study, Trial

torch.set_num_threads(1)

MODEL = trained(NETWORKS["chain"])
LAYERS = layers(MODEL, SHAPE)
SPACE = precision.space(MODEL, SHAPE)
LIMIT = Limit("bitops", precision.layer_bitops, precision.bitops(LAYERS, precision.uniform(SPACE, 4)))
ERROR = [Objective("error_simulated")]


def judged(trial: Trial) -> Metrics:
    """Errs more the fewer bits there are, in the second layer most."""
    return {
        "error_simulated": sum(
            weight * 2.0 ** -(w + a)
            for weight, layer in zip((0.0, 1.0, 9.0, 0.0), LAYERS, strict=True)
            for w, a in [precision.bits_of(layer.name, trial.point)]
        )
    }


def search(
    trials: int = 30, batch: int = 1, study: Study | None = None, space: Space = SPACE, **settings: Any
) -> Study:
    study = study or Study(space, ERROR)
    given: dict[str, Any] = {"warm_up": 5, "limit": LIMIT, **settings}
    strategy = haq.haq(study.space, ERROR, layers=LAYERS, **given)
    run(study, strategy, Evaluate(judged), trials=trials, batch=batch)
    return study


def points(study: Study) -> list[dict[str, Any]]:
    return [trial.point for trial in study.trials]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_fills_the_budget_within_the_limit(batch: int) -> None:
    study = search(12, batch)
    assert study.spent == 12
    assert all(point in SPACE and precision.bitops(LAYERS, point) <= LIMIT.most for point in points(study))


def test_the_same_seed_is_the_same_search_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    assert points(search(10)) == points(search(10))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"warm_up": 2},
        {"noise": 0.2},
        {"decay": 0.5},
        {"limit": Limit("b", LIMIT.cost, 0.9 * LIMIT.most)},
    ],
)
def test_every_setting_matters(change: dict[str, Any]) -> None:
    assert points(search(12, **change)) != points(search(12))


def test_resumes_as_if_never_stopped() -> None:
    half = search(8)
    assert points(search(16, study=half)) == points(search(16))


def test_beats_uniform_bits() -> None:
    best = min(trial.metrics["error_simulated"] for trial in search(60).trials)
    uniform = judged(Trial(0, precision.uniform(SPACE, 4)))["error_simulated"]
    assert best < uniform


def test_failed_trials_teach_nothing_and_stop_nothing() -> None:
    def fails(trial: Trial) -> Metrics:
        if trial.number % 3 == 0:
            raise RuntimeError("out of memory")
        return judged(trial)

    study = Study(SPACE, ERROR)
    run(study, haq.haq(SPACE, ERROR, layers=LAYERS, limit=LIMIT, warm_up=3), Evaluate(fails), trials=12)
    assert study.counts["done"] == 8


def test_bits_of_another_network_and_bits_without_choice_are_refused() -> None:
    other = precision.space(trained(NETWORKS["residual"]), SHAPE)
    with pytest.raises(PrecisionError, match="the space offers no bits"):
        haq.haq(other, ERROR, layers=LAYERS, limit=LIMIT)
    fixed = precision.space(MODEL, SHAPE, bits=(2,))
    with pytest.raises(PrecisionError, match="all have one option"):
        haq.haq(fixed, ERROR, layers=LAYERS, limit=LIMIT)
