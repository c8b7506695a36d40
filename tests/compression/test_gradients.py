import copy
import dataclasses

import numpy as np
import pytest
import torch
from networks import SHAPE, normalised, residual, trained
from torch import nn
from torch.nn import functional

from nasflow.compression.gradients import fisher, gather, hutchinson
from nasflow.compression.groups import PruneError
from nasflow.data import Data, Preprocess, Split, digest

torch.set_num_threads(1)


def noise(count: int = 40, shape: tuple[int, int, int] = SHAPE, classes: int = 5) -> Data:
    """Images of nothing, with labels."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (count, *shape), dtype=np.uint8)
    splits = Split(x, np.arange(count) % classes), Split(x[:5], np.arange(5) % classes)
    preprocess = Preprocess(1 / 255, (0.5,) * shape[0], (0.3,) * shape[0])
    return Data("noise", *splits, tuple("abcde"[:classes]), preprocess, ("flip",), {}, digest(*splits))


def _loss(model: nn.Module, data: Data) -> torch.Tensor:
    x, y = data.preprocess(data.train.x), data.train.y
    return functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))


def test_one_batch_of_all_images_has_the_gradient_of_the_loss():
    model, data = trained(residual), noise()
    (known,) = gather(model, data, images=40, batch=40)
    _loss(model, data).backward()
    assert known.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(known[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_batches_are_gradients_of_their_own_and_together_those_of_all():
    model, data = trained(residual), noise()
    (whole,) = gather(model, data, images=40, batch=40)
    parts = gather(model, data, images=40, batch=10)
    assert len(parts) == 4
    name = "1.first.0.weight"
    assert not torch.equal(parts[0][name], parts[1][name])
    together = torch.stack([part[name] for part in parts]).mean(0)
    torch.testing.assert_close(together, whole[name], rtol=1e-3, atol=1e-5)


def test_fisher_is_the_mean_square_of_single_images_gradients():
    model, data = trained(residual), noise(6)
    singles = gather(model, data, images=6, batch=1)
    for name, values in fisher(model, data, images=6).items():
        torch.testing.assert_close(values, torch.stack([single[name].square() for single in singles]).mean(0))


def test_hutchinson_finds_the_diagonal_of_the_hessian():
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), noise(8, (1, 2, 2), 3)
    found = hutchinson(model, data, images=8, batch=8, probes=3000)
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    x, y = torch.from_numpy(data.preprocess(data.train.x)).flatten(1), torch.from_numpy(data.train.y)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional.linear(x, flat[:12].reshape(3, 4), flat[12:]), y)

    exact = torch.autograd.functional.hessian(loss, torch.cat([weight.flatten(), bias])).diag()
    estimated = torch.cat([found["1.weight"].flatten(), found["1.bias"]])
    torch.testing.assert_close(estimated, exact, rtol=0.2, atol=0.01)


def test_hutchinson_averages_batches_of_unequal_size_by_their_images():
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)), noise(8, (1, 2, 2), 3)

    def squared(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 0.5 * answers.square().sum(1).mean()

    found = hutchinson(model, data, images=8, batch=3, probes=4000, loss=squared)["1.weight"]
    x = torch.from_numpy(data.preprocess(data.train.x)).flatten(1)
    torch.testing.assert_close(found, x.square().mean(0).expand(3, 4), rtol=0.1, atol=0.02)


@pytest.mark.parametrize("ask", [gather, fisher, hutchinson])
@pytest.mark.parametrize("make", [residual, normalised])
def test_the_network_is_left_as_it_was(ask, make):
    model, data = trained(make).train(), noise(8)
    next(model.parameters()).requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    ask(model, data, images=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("ask", [gather, fisher, hutchinson])
def test_the_seed_decides_which_images_are_asked(ask):
    model, data = trained(residual), noise()
    name = "0.0.weight"

    def asked(seed: int) -> torch.Tensor:
        found = ask(model, data, images=4, seed=seed)
        return (found[0] if isinstance(found, tuple) else found)[name]

    assert torch.equal(asked(0), asked(0))
    assert not torch.equal(asked(0), asked(1))


def test_the_loss_can_be_another():
    model, data = trained(residual), noise()
    (usual,), (other,) = (
        gather(model, data, images=8, **extra)
        for extra in ({}, {"loss": lambda answers, labels: answers.square().mean()})
    )
    assert not torch.allclose(usual["0.0.weight"], other["0.0.weight"])


def test_impossible_questions_are_told():
    with pytest.raises(PruneError, match="at least one image in batches of at least one, got 0 and 64"):
        gather(residual(), noise(), images=0)
    with pytest.raises(PruneError, match="network with parameters, Flatten has none"):
        gather(nn.Flatten(), noise())


def test_only_training_images_are_asked():
    model, data = trained(residual), noise()
    other = dataclasses.replace(data, validation=Split(255 - data.validation.x, data.validation.y))
    (a,), (b,) = gather(model, data, images=8), gather(model, other, images=8)
    assert torch.equal(a["0.0.weight"], b["0.0.weight"])
