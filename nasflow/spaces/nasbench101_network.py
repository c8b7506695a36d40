"""The networks of the `nasbench101` space, as published with it (Ying et al., ICML 2019, arXiv:1902.09635)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from nasflow.spaces.nasbench101 import Module


def network(graph: Module, inputs: int, classes: int, channels: int, stacks: int, modules: int) -> nn.Module:
    """Stem, `stacks` of `modules` like modules with max pooling between the stacks, and a linear classifier.

    The first stack has `channels`, each later one twice as many.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=_convolution(inputs, channels, 3))
    width = channels
    for stack in range(1, stacks + 1):
        outputs = channels * 2 ** (stack - 1)
        if stack > 1:
            layers[f"halve{stack}"] = nn.MaxPool2d(2, ceil_mode=True)
        for number in range(1, modules + 1):
            layers[f"stack{stack}_{number}"] = Cell(graph, width, outputs)
            width = outputs
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(width, classes)
    return nn.Sequential(layers)


class Cell(nn.Module):
    """One module. What leaves its input goes through a 1x1 convolution each time; what reaches its output is put side
    by side, and what comes there from the input itself is added to that."""

    def __init__(self, graph: Module, inputs: int, outputs: int) -> None:
        super().__init__()
        self.graph = graph
        self.channels = channels(graph, outputs)
        self.end = graph.vertices - 1
        self.projections = nn.ModuleDict(
            {str(vertex): _convolution(inputs, self.channels[vertex], 1) for vertex in graph.after(0)}
        )
        self.operations = nn.ModuleDict(
            {
                str(vertex): _operation(operation, self.channels[vertex])
                for vertex, operation in enumerate(graph.operations, start=1)
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        results: dict[int, torch.Tensor] = {}
        for vertex in range(1, self.end):
            terms = [self._narrowed(results[v], v, vertex) for v in self.graph.before(vertex) if v]
            results[vertex] = self.operations[str(vertex)](self._sum(x, vertex, terms))
        ends = [results[v] for v in self.graph.before(self.end) if v]
        return self._sum(x, self.end, [torch.cat(ends, 1)] if len(ends) > 1 else ends)

    def _narrowed(self, x: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Where the output's channels do not divide evenly, a vertex may have one more than those after it."""
        return x if self.channels[start] == self.channels[end] else x[:, : self.channels[end]]

    def _sum(self, x: torch.Tensor, vertex: int, terms: list[torch.Tensor]) -> torch.Tensor:
        if str(vertex) in self.projections:
            terms = [*terms, self.projections[str(vertex)](x)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


def channels(graph: Module, outputs: int) -> list[int]:
    """Channels that leave each vertex but the input, whose entry is 0, in a module that gives `outputs`.

    Vertices that feed the output share its channels, the first ones get what is left over; any other has as many
    as the widest that it feeds.

    >>> channels(Module(((0, 1), (0, 2), (1, 3), (2, 3)), ("conv3x3", "conv1x1")), 15)
    [0, 8, 7, 15]
    """
    end = graph.vertices - 1
    found = [0] * end + [outputs]
    feeding = [vertex for vertex in graph.before(end) if vertex]
    for place, vertex in enumerate(feeding):
        found[vertex] = outputs // len(feeding) + (place < outputs % len(feeding))
    for vertex in range(end - 1, 0, -1):
        if vertex not in feeding:
            found[vertex] = max(found[after] for after in graph.after(vertex))
    return found


def _operation(name: str, width: int) -> nn.Module:
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    return _convolution(width, width, 3 if name == "conv3x3" else 1)


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Module:
    """Convolution, normalisation, activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
