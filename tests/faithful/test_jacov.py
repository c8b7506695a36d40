"""jacov, the score of version 1 of "Neural Architecture Search without Training" (Mellor et al., 2020)."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasflow.evaluators.zero_cost import SCORES, jacov

torch.set_num_threads(1)

LABELS = torch.zeros(5, dtype=torch.int64)


def images() -> Tensor:
    return torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 30), nn.ReLU(), nn.Linear(30, 3)).double()


def test_by_hand_with_numpy() -> None:
    """Of a network whose gradients are written down: those of the units that an image lights, times the sums of
    the weights that follow."""
    model = network()
    first, last = model[1], model[3]
    x = images().flatten(1)
    lit = (x @ first.weight.T + first.bias > 0).double()
    rows = ((lit * last.weight.sum(0)) @ first.weight).detach().numpy()
    values = np.linalg.eigvalsh(np.corrcoef(rows)) + 1e-5
    expected = -float(np.sum(np.log(values) + 1 / values))
    assert jacov(model, images(), LABELS, 0) == pytest.approx(expected, rel=1e-9)


def test_identical_images_are_the_worst_but_for_broken_networks() -> None:
    """All correlations are 1: one eigenvalue is 5, four are 0."""
    same = images()[:1].expand(5, -1, -1, -1)
    value = jacov(network(), same, LABELS, 0)
    expected = -(math.log(5 + 1e-5) + 1 / (5 + 1e-5) + 4 * (math.log(1e-5) + 1e5))
    assert value == pytest.approx(expected, rel=1e-6)
    assert value < jacov(network(), images(), LABELS, 0)


def test_gradients_that_do_not_correlate_are_the_best() -> None:
    """Each image lights one unit, which looks at a pattern of its own: the best possible."""
    patterns = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).double()
    model = nn.Sequential(
        nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False), nn.Flatten()
    ).double()
    with torch.no_grad():
        model[0].weight.copy_(patterns)
        model[2].weight.fill_(1)
    best = -3 * (math.log(1 + 1e-5) + 1 / (1 + 1e-5))
    assert jacov(model, patterns, LABELS[:3], 0) == pytest.approx(best)


def test_a_network_that_ignores_the_images_is_broken() -> None:
    model = network()
    with torch.no_grad():
        model[3].weight.zero_()
    assert jacov(model, images(), LABELS, 0) == -math.inf


def test_it_is_the_first_version_of_naswot_by_another_name() -> None:
    assert SCORES["naswot-v1"] is SCORES["jacov"]
    assert SCORES["naswot-v1"] is not SCORES["naswot"]
