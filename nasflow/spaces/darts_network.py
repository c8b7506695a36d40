"""The networks of the `darts` space, as published with it (Liu, Simonyan and Yang, ICLR 2019, arXiv:1806.09055)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from nasflow.spaces.darts import NODES, Edge, Genotype

STEM = 3  # times the channels of the first cell leave the stem for small images


def network(genotype: Genotype, inputs: int, classes: int, cells: int, channels: int, stem: str) -> nn.Module:
    """Stem, `cells` of which that at one and that at two thirds reduce, and a linear classifier."""
    return Network(genotype, inputs, classes, cells, channels, stem)


class Network(nn.Module):
    """Every cell takes what the two before it gave; the stem stands for those that are not there."""

    def __init__(
        self, genotype: Genotype, inputs: int, classes: int, cells: int, channels: int, stem: str
    ) -> None:
        super().__init__()
        self.stem: nn.Module
        self.stem2: nn.Module
        if stem == "cifar":
            first = last = STEM * channels
            self.stem = nn.Sequential(
                nn.Conv2d(inputs, first, 3, padding=1, bias=False), nn.BatchNorm2d(first)
            )
            self.stem2 = nn.Identity()
        else:
            first = last = channels
            self.stem = nn.Sequential(
                _halving(inputs, channels // 2), nn.ReLU(), _halving(channels // 2, channels)
            )
            self.stem2 = nn.Sequential(nn.ReLU(), _halving(channels, channels))
        self.cells = nn.ModuleList()
        halved = stem == "imagenet"
        for number in range(cells):
            reduces = number in (cells // 3, 2 * cells // 3)
            channels *= 1 + reduces
            cell = Cell(genotype["reduce" if reduces else "normal"], first, last, channels, reduces, halved)
            self.cells.append(cell)
            first, last, halved = last, len(NODES) * channels, reduces
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.stem(x)
        now = self.stem2(before)
        for cell in self.cells:
            before, now = now, cell(before, now)
        logits: torch.Tensor = self.classifier(self.flatten(self.pool(now)))
        return logits


class Cell(nn.Module):
    """`halved` says that the second input is on half the height and width of the first."""

    def __init__(
        self, edges: Sequence[Edge], first: int, last: int, channels: int, reduces: bool, halved: bool
    ) -> None:
        super().__init__()
        self.starts = [start for _, start in edges]
        self.first = Halve(first, channels) if halved else _point_convolution(first, channels)
        self.last = _point_convolution(last, channels)
        self.operations = nn.ModuleList(
            operation(name, channels, stride=2 if reduces and start < 2 else 1) for name, start in edges
        )

    def forward(self, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        states = [self.first(first), self.last(last)]
        for node in range(len(NODES)):
            a, b = (self.operations[i](states[self.starts[i]]) for i in (2 * node, 2 * node + 1))
            states.append(a + b)
        return torch.cat(states[2:], 1)


def operation(name: str, channels: int, stride: int) -> nn.Module:
    """One of OPERATIONS on images of so many channels; pooling is not normalised, as it is in the search alone."""
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else Halve(channels, channels)
    kernel = int(name[-1])
    if name.startswith("dil_conv"):
        return _separable(channels, kernel, stride, dilation=2)
    return nn.Sequential(_separable(channels, kernel, stride), _separable(channels, kernel, 1))


class Halve(nn.Module):
    """Half the height and width, rounded up: one 1x1 convolution sees the even pixels, another the odd ones."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(x)
        shifted = functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        y: torch.Tensor = self.norm(torch.cat([self.even(x), self.odd(shifted)], 1))
        return y


def _separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> nn.Sequential:
    """Activation, depthwise and 1x1 convolution, normalisation."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(
            channels, channels, kernel, stride, padding=dilation * (kernel // 2), dilation=dilation,
            groups=channels, bias=False,
        ),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )  # fmt: skip


def _point_convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs)
    )
