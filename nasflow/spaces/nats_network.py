"""The networks of the `nats-size` space, as published with it (Dong et al., TPAMI 2021, arXiv:2009.00437)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from nasflow.spaces.nasbench201_network import Halve


def network(widths: Sequence[int], inputs: int, classes: int) -> nn.Module:
    """Stem, three cells with a halving residual block between them, and a linear classifier."""
    first, *_, last = widths
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = nn.Sequential(nn.Conv2d(inputs, first, 3, padding=1, bias=False), nn.BatchNorm2d(first))
    before = first
    for number, (name, width) in enumerate(
        zip(("cell1", "halve2", "cell3", "halve4", "cell5"), widths, strict=True)
    ):
        layers[name] = Halve(before, width) if number % 2 else Cell(before, width)
        before = width
    layers["last"] = nn.Sequential(nn.BatchNorm2d(last), nn.ReLU())
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(last, classes)
    return nn.Sequential(layers)


class Cell(nn.Module):
    """The one cell, here named by node and what it is made of. Where channels change, its skip is a 1x1 convolution
    with normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.one_of_input = _convolution(inputs, outputs)
        self.two_of_input = _convolution(inputs, outputs)
        self.two_of_one = _convolution(outputs, outputs)
        self.three_of_one = _convolution(outputs, outputs)
        self.three_of_two = _convolution(outputs, outputs)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.one_of_input(x)
        two = self.two_of_input(x) + self.two_of_one(one)
        three: torch.Tensor = self.skip(x) + self.three_of_one(one) + self.three_of_two(two)
        return three


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Activation, 3x3 convolution, normalisation."""
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
    )
