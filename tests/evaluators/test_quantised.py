"""What judging simulated bits promises."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.compression.fakequant import simulate
from nasflow.data import Data, Preprocess, Split, digest
from nasflow.evaluators.quantised import Simulated
from nasflow.study import Trial
from nasflow.training import Recipe, error, seeded, train

torch.set_num_threads(1)

FEW = {"weight_bits.0": 2, "activation_bits.0": 2, "weight_bits.3": 2, "activation_bits.3": 2}


def halves(count: int = 240) -> Data:
    """Images of 8x8 that are brighter on the left, on the right or alike."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 100, (count, 1, 8, 8), dtype=np.uint8)
    y = np.arange(count, dtype=np.int64) % 3
    x[y == 0, :, :, :4] += 30
    x[y == 1, :, :, 4:] += 30
    cut = count // 2
    splits = Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:])
    return Data(
        "halves", *splits, ("l", "r", "n"), Preprocess(1 / 255, (0.3,), (0.2,)), (), {}, digest(*splits)
    )


def trained(data: Data) -> nn.Module:
    with seeded(0):
        model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    train(model, data, Recipe(epochs=6, batch_size=16), seed=0)
    return model


def evaluator(recipe: Recipe | None = None, seed: int = 0, teacher: nn.Module | None = None) -> Simulated:
    data = halves()
    model = trained(data)
    calibration = torch.from_numpy(data.preprocess(data.train.x[:64]))
    build = partial(simulate, model=model, shape=data.shape, calibration=calibration)
    return Simulated(build, data, recipe, seed, teacher)


def judged(evaluate: Simulated, policy: dict[str, int], fidelity: float = 1.0, number: int = 0) -> float:
    metrics = evaluate(Trial(number, dict(policy), fidelity))
    assert list(metrics) == ["error_simulated"]
    return metrics["error_simulated"]


def test_left_alone_it_is_the_error_of_the_network() -> None:
    data = halves()
    expected = error(trained(data), data.validation, data.preprocess)
    assert judged(evaluator(), {}) == expected
    assert judged(evaluator(), dict.fromkeys(FEW, 32)) == expected


def test_few_bits_err_and_training_mends_it() -> None:
    recipe = Recipe(epochs=4, batch_size=16)
    rounded, mended = judged(evaluator(), FEW), judged(evaluator(recipe), FEW)
    assert rounded > judged(evaluator(), {}) + 0.05
    assert mended < rounded - 0.05


def test_the_same_point_gives_the_same_error_whenever_it_is_tried() -> None:
    evaluate = evaluator(Recipe(epochs=2, batch_size=16))
    assert judged(evaluate, FEW, number=0) == judged(evaluate, FEW, number=7)


def test_every_setting_matters() -> None:
    recipe = Recipe(epochs=4, batch_size=16, learning_rate=0.003)
    found = {
        "usual": judged(evaluator(recipe), FEW),
        "seed": judged(evaluator(recipe, seed=3), FEW),
        "fidelity": judged(evaluator(recipe), FEW, fidelity=0.25),
        "teacher": judged(evaluator(recipe, teacher=trained(halves())), FEW),
    }
    assert len(set(found.values())) == len(found), found


def test_reaches_workers() -> None:
    evaluate = evaluator()
    assert judged(pickle.loads(pickle.dumps(evaluate)), FEW) == judged(evaluate, FEW)


def test_a_policy_for_another_network_fails_with_the_layer() -> None:
    with pytest.raises(Exception, match=r"weight_bits\.9"):
        judged(evaluator(), {"weight_bits.9": 4})
