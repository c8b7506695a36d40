"""Fisher pruning's score (Theis et al., 2018; Turner et al., 2020) against derivatives written down."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasflow.evaluators.zero_cost import fisher

torch.set_num_threads(1)

Y = torch.tensor([0, 1, 2, 2, 1])


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()


def test_one_layer_by_hand() -> None:
    """Channel k of image n: a * (softmax - one-hot); half the mean of its square, summed over the channels."""
    x = normal(5, 4)
    torch.manual_seed(1)
    layer = nn.Linear(4, 3).double()
    a = (x @ layer.weight.T + layer.bias).detach()
    slope = torch.softmax(a, 1) - functional.one_hot(Y, 3)
    assert fisher(layer, x, Y, 0) == pytest.approx(float((a * slope).square().mean(0).sum() / 2), rel=1e-12)


def test_a_map_of_features_is_summed_before_it_is_squared() -> None:
    """A channel is removed as a whole: the derivative for a factor on it, of each image's loss."""
    x = normal(5, 2, 4, 4)
    torch.manual_seed(1)
    conv, last = nn.Conv2d(2, 3, 3).double(), nn.Linear(12, 3).double()
    model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten(), last)
    total = 0.0
    for image, label in zip(x, Y, strict=True):
        kept = torch.ones(3, 1, 1, dtype=torch.float64, requires_grad=True)
        answered = torch.ones(3, dtype=torch.float64, requires_grad=True)
        answer = last((conv(image[None]) * kept).relu().flatten(1)) * answered
        for slope in torch.autograd.grad(functional.cross_entropy(answer, label[None]), (kept, answered)):
            total += float(slope.square().sum()) / 2 / len(x)
    assert fisher(model, x, Y, 0) == pytest.approx(total, rel=1e-9)
