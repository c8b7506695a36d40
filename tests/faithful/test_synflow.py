"""SynFlow against its paper: Tanaka et al., NeurIPS 2020."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from nasflow.evaluators.zero_cost import synflow
from nasflow.evaluators.zero_cost.synflow import saliencies

torch.set_num_threads(1)

IMAGES, LABELS = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(2).long()


def chain(*between: nn.Module) -> nn.Sequential:
    """Layers without biases one after the other, with `between` after the first."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False),
        *between,
        nn.Conv2d(5, 7, 3, bias=False),
        nn.Flatten(),
        nn.Linear(28, 9, bias=False),
        nn.Linear(9, 4, bias=False),
    )


@pytest.mark.parametrize("between", [(), (nn.ReLU(),), (nn.BatchNorm2d(5), nn.ReLU())])
def test_flow_is_conserved_from_layer_to_layer(between: tuple[nn.Module, ...]) -> None:
    """Theorem of the paper: every layer of a chain without biases has the same sum, which is R itself."""
    sums = [float(values.sum()) for values in saliencies(chain(*between), (3, 6, 6))]
    assert len(sums) == 4
    assert sums == pytest.approx([sums[0]] * 4, rel=1e-12)
    assert synflow(chain(*between), IMAGES, LABELS, 0) == pytest.approx(math.log(sum(sums)))


def test_one_layer_by_hand() -> None:
    """R of a linear layer and ones is the sum of its weights' magnitudes; so is each saliency's."""
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
    (values,) = saliencies(copy.deepcopy(layer), (2,))
    assert torch.equal(values, torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double())
    assert synflow(layer, torch.zeros(1, 2), LABELS[:1], 0) == pytest.approx(math.log(10))


def test_it_looks_at_neither_images_nor_signs() -> None:
    negative = chain()
    with torch.no_grad():
        for weight in negative.parameters():
            weight.neg_()
    expected = synflow(chain(), IMAGES, LABELS, 0)
    assert synflow(negative, -IMAGES, LABELS + 1, 1) == expected


def test_a_deep_network_leaves_no_range() -> None:
    """Eighty wide layers: the sum is about 1e61, beyond single precision."""
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Flatten(), *(nn.Linear(108, 108, bias=False) for _ in range(80)))
    assert math.log(torch.finfo(torch.float32).max) < synflow(deep, IMAGES, LABELS, 0) < 200


def test_a_network_that_nothing_gets_through_is_the_worst() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = chain()

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.layers(x * 0)
            return answer

    assert synflow(Cut(), IMAGES, LABELS, 0) == -math.inf
