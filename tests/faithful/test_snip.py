"""SNIP (Lee et al., ICLR 2019) and the norm of the gradient, on a layer whose gradient is written down."""

import pytest
import torch
from torch import Tensor, nn

from nasflow.evaluators.zero_cost import grad_norm, snip

torch.set_num_threads(1)

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)).double()
Y = torch.tensor([0, 1, 2, 2, 1, 0, 0])


def layer() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(4, 3).double()


def gradient(linear: nn.Linear) -> Tensor:
    """Of the mean cross-entropy: (softmax - one-hot)' x / images."""
    answers = torch.softmax(X @ linear.weight.T + linear.bias, 1)
    return ((answers - nn.functional.one_hot(Y, 3)).T @ X / len(X)).detach()


def test_snip_is_the_sum_of_weights_times_gradients() -> None:
    expected = float((layer().weight.detach() * gradient(layer())).abs().sum())
    assert snip(layer(), X, Y, 0) == pytest.approx(expected, rel=1e-12)


def test_snip_is_what_the_loss_feels_of_each_connection() -> None:
    """The definition: the derivative of the loss for a factor c = 1 on each weight."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    mask = [torch.ones_like(model[i].weight, requires_grad=True) for i in (0, 2)]
    hidden = torch.tanh(nn.functional.linear(X, mask[0] * model[0].weight, model[0].bias))
    answers = nn.functional.linear(hidden, mask[1] * model[2].weight, model[2].bias)
    felt = torch.autograd.grad(nn.functional.cross_entropy(answers, Y), mask)
    assert snip(model, X, Y, 0) == pytest.approx(float(sum(c.abs().sum() for c in felt)), rel=1e-12)


def test_grad_norm_is_the_length_of_the_gradient() -> None:
    assert grad_norm(layer(), X, Y, 0) == pytest.approx(float(gradient(layer()).norm()), rel=1e-12)


def test_grad_norm_adds_up_over_layers() -> None:
    """With an identity first, its gradient is that of the inputs, times the images."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), layer()).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
    answers = torch.softmax(X @ layer().weight.T + layer().bias, 1)
    first = (((answers - nn.functional.one_hot(Y, 3)) @ layer().weight).T @ X / len(X)).norm()
    expected = float(first.detach() + gradient(layer()).norm())
    assert grad_norm(model, X, Y, 0) == pytest.approx(expected, rel=1e-12)
