"""The networks of the `nasbench201` space, as published with it (Dong and Yang, ICLR 2020, arXiv:2001.00326)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn

from nasflow.spaces.nasbench201 import EDGES, NODES


def network(
    operations: Sequence[str], inputs: int, classes: int, cells: int, channels: int, stages: int
) -> nn.Module:
    """Stem, `stages` of `cells` like cells with a halving residual block between them, and a linear classifier.

    `operations` are those of the cell's edges. The first stage has `channels`, each later one twice as many.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    width = channels
    for stage in range(1, stages + 1):
        if stage > 1:
            blocks[f"halve{stage}"] = Halve(width, 2 * width)
            width *= 2
        for number in range(1, cells + 1):
            blocks[f"stage{stage}_{number}"] = Cell(operations, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = nn.Sequential(
        nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
    )
    layers["blocks"] = nn.Sequential(blocks)
    layers["last"] = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(width, classes)
    return nn.Sequential(layers)


class Cell(nn.Module):
    """A node is the sum of what the operations make of earlier nodes; the last one is the output, zero if nothing
    reaches it."""

    def __init__(self, operations: Sequence[str], channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {
                f"{to}<-{start}": MAKE[operation](channels)
                for (to, start), operation in zip(EDGES, operations, strict=True)
                if operation != "none"
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes: list[torch.Tensor | None] = [x]
        for node in range(1, NODES):
            total: torch.Tensor | None = None
            for start, value in enumerate(nodes):
                if value is not None and f"{node}<-{start}" in self.edges:
                    term: torch.Tensor = self.edges[f"{node}<-{start}"](value)
                    total = term if total is None else total + term
            nodes.append(total)
        return x * 0.0 if nodes[-1] is None else nodes[-1]


class Halve(nn.Module):
    """Twice the channels on half the height and width, rounded up: two convolutions, and a 1x1 one around them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _convolution(inputs, outputs, 3, stride=2), _convolution(outputs, outputs, 3)
        )
        self.around = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.around(x) + self.convolutions(x)
        return y


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    """Activation, convolution, normalisation, in this order."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


MAKE: dict[str, Callable[[int], nn.Module]] = {
    "skip_connect": lambda channels: nn.Identity(),
    "nor_conv_1x1": lambda channels: _convolution(channels, channels, 1),
    "nor_conv_3x3": lambda channels: _convolution(channels, channels, 3),
    "avg_pool_3x3": lambda channels: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
}
