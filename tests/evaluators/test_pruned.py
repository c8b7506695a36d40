"""What judging a policy without training promises."""

import copy
import functools
import pickle

import numpy as np
import torch
from torch import nn

from nasflow.compression import prune
from nasflow.data import Data, Preprocess, Split, digest
from nasflow.evaluators.pruned import Pruned
from nasflow.study import Trial
from nasflow.training import error

torch.set_num_threads(1)


def noise(count=40):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (count, 3, 8, 8), dtype=np.uint8)
    y = np.arange(count, dtype=np.int64) % 4
    splits = Split(x[:8], y[:8]), Split(x[8:], y[8:])
    return Data(
        "noise",
        *splits,
        tuple("abcd"),
        Preprocess(1 / 255, (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)),
        (),
        {},
        digest(*splits),
    )


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    )


def test_the_error_is_that_of_the_pruned_network_on_the_validation_images():
    model, data = network(), noise()
    evaluate = Pruned(functools.partial(prune.apply, model=model, shape=data.shape), data)
    before = copy.deepcopy(model.state_dict())
    for share in (1.0, 0.5):
        policy = {"channels.0": share}
        pruned = prune.apply(policy, model, data.shape)
        assert evaluate(Trial(0, policy)) == {"error": error(pruned, data.validation, data.preprocess)}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_workers_get_it_whole():
    model, data = network(), noise()
    evaluate = Pruned(functools.partial(prune.apply, model=model, shape=data.shape), data)
    trial = Trial(0, {"channels.0": 0.5})
    assert pickle.loads(pickle.dumps(evaluate))(trial) == evaluate(trial)


def test_it_may_be_judged_after_a_little_training():
    model, data = network(), noise()

    def silence(pruned: nn.Module) -> None:
        nn.init.zeros_(pruned[-1].weight)
        nn.init.constant_(pruned[-1].bias, 0.0)
        pruned[-1].bias.data[2] = 1.0  # always the third class

    evaluate = Pruned(functools.partial(prune.apply, model=model, shape=data.shape), data, silence)
    assert evaluate(Trial(0, {"channels.0": 0.5})) == {"error": 0.75}
