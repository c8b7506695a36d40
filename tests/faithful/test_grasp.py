"""GraSP (Wang et al., ICLR 2020) against its Hessian written out."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from nasflow.evaluators.zero_cost import grasp

torch.set_num_threads(1)

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
Y = torch.tensor([0, 1, 2, 2, 1, 0])
SIZES = ((2, 3), (3, 2))  # of the weights


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)).double()


def loss(model: nn.Module, flat: Tensor) -> Tensor:
    first, second = flat[:6].reshape(SIZES[0]), flat[6:].reshape(SIZES[1])
    return functional.cross_entropy(functional_call(model, {"0.weight": first, "2.weight": second}, X), Y)


def flow(model: nn.Module, flat: Tensor) -> Tensor:
    """Squared length of the gradient."""
    return torch.autograd.functional.jacobian(lambda w: loss(model, w), flat).square().sum()


def test_it_is_minus_weights_times_hessian_times_gradient() -> None:
    model = network()
    w = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach()
    hessian = torch.autograd.functional.hessian(lambda v: loss(model, v), w)
    gradient = torch.autograd.functional.jacobian(lambda v: loss(model, v), w)
    expected = -float((w * (hessian @ gradient)).sum())
    assert grasp(model, X, Y, 0) == pytest.approx(expected, rel=1e-9)


def test_it_is_half_of_what_removing_connections_adds_to_the_flow() -> None:
    """The sign: positive where weights a little nearer to zero have a longer gradient."""
    model, step = network(), 1e-6
    w = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach()
    gained = float(flow(model, w * (1 - step)) - flow(model, w * (1 + step))) / (2 * step)
    assert grasp(model, X, Y, 0) == pytest.approx(gained / 2, rel=1e-5)


def test_a_hard_sigmoid_is_differentiated_twice() -> None:
    """Torch has no second derivative of it as one step."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4), nn.Hardsigmoid(), nn.Linear(4, 3)).double()

    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x / 6 + 0.5).clamp(0, 1)

    expected = grasp(nn.Sequential(model[0], Steps(), model[2]), X, Y, 0)
    assert grasp(model, X, Y, 0) == pytest.approx(expected, rel=1e-9)
