"""The `nasbench201` space: one small cell, repeated along a fixed network (Dong and Yang, ICLR 2020, arXiv:2001.00326).

A cell has four nodes. Node 0 is its input, node 3 its output; a node is the sum of what the operations on the edges
from all earlier nodes make of them. The choices are these six operations, named `TO<-FROM`, in the order of the
published strings such as

    |nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|

and the settings of the network around the cells, each a choice with one option, so that a point is complete:

    cells       cells in a stage
    channels    of the first stage; each later one has twice as many, on half the height and width
    stages      parts of the network, with a residual block from each to the next

A space costs no torch: the networks are in nasbench201_network.py.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasflow.space import Choice, Point, Scalar, Space, SpaceError

if TYPE_CHECKING:
    from torch import nn

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4
EDGES = tuple((to, start) for to in range(1, NODES) for start in range(to))
NAMES = tuple(f"{to}<-{start}" for to, start in EDGES)

Cell = tuple[str, ...]  # the operations on EDGES


def space(
    shape: Sequence[int],
    classes: int,
    *,
    operations: Sequence[str] = OPERATIONS,
    cells: int = 5,
    channels: int = 16,
    stages: int = 3,
) -> Space:
    """The cells made of `operations`, in networks for images of `shape` (channels, height, width).

    The defaults are the published network, which has 15,625 cells.

    >>> space((3, 32, 32), 10).size
    15625
    """
    _check_task(shape, classes)
    unknown = [operation for operation in operations if operation not in OPERATIONS]
    if unknown or not operations:
        raise SpaceError(f"nasbench201 space: operations are among {list(OPERATIONS)}, got {operations!r}")
    offered = tuple(operation for operation in OPERATIONS if operation in operations)
    around = {"cells": cells, "channels": channels, "stages": stages}
    _check_around(around)
    choices = [Choice(name, offered) for name in NAMES]
    choices += [Choice(name, (value,)) for name, value in around.items()]
    return Space(tuple(choices), (Merged(offered),), (features,))


def build(point: Mapping[str, Scalar], shape: Sequence[int], classes: int) -> nn.Module:
    """The network of `point`: images (batch, *shape) in, logits (batch, classes) out.

    Edges that nothing can pass from the cell's input to its output are left out, which the published networks
    keep: their operations count there, and a convolution of nothing adds a constant. All else is as published.
    Weights are drawn from torch's global generator. Keys that are not of this space are ignored.
    """
    from nasflow.spaces.nasbench201_network import network

    _check_task(shape, classes)
    cell = representative(_cell(point))
    around = {name: point.get(name) for name in ("cells", "channels", "stages")}
    _check_around(around)
    return network(cell, shape[0], classes, **around)  # type: ignore[arg-type]


def arch_string(point: Mapping[str, Scalar]) -> str:
    """The published form of a point's cell.

    >>> point = from_arch_string("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    >>> arch_string(point)
    '|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|'
    """
    cell = _cell(point)
    nodes = [
        "".join(f"|{op}~{start}" for op, (to, start) in zip(cell, EDGES, strict=True) if to == node)
        for node in range(1, NODES)
    ]
    return "+".join(f"{node}|" for node in nodes)


def from_arch_string(text: str, *, cells: int = 5, channels: int = 16, stages: int = 3) -> Point:
    """The point whose cell is written as `text`, in the published network unless said otherwise."""
    found = re.findall(r"\|([^|~]+)~", text)
    point: Point = dict(zip(NAMES, found, strict=False))
    if len(found) != len(NAMES) or arch_string(point) != text:
        raise SpaceError(
            "expected a cell such as |none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|, "
            f"of the operations {', '.join(OPERATIONS)}; got {text!r}"
        )
    return {**point, "cells": cells, "channels": channels, "stages": stages}


# ---- cells that mean the same


@dataclass(frozen=True)
class Merged:
    """Fold: cells that compute the same become one of them, made of `operations` alone."""

    operations: tuple[str, ...]

    def __call__(self, point: Point) -> Point:
        cell = representative(_cell(point), self.operations)
        return {**point, **dict(zip(NAMES, cell, strict=True))}


@functools.lru_cache(maxsize=2**16)
def representative(cell: Cell, operations: tuple[str, ...] = OPERATIONS) -> Cell:
    """The cell that stands for all that compute the same: with the fewest edges, then first in the order of options.

    Two cells compute the same if they are the same graph of convolutions. Nodes have no names in it, skips pass
    on what they get, and pooling, which is linear and learns nothing, goes through sums; edges that nothing can
    pass from input to output are not in it. One convolution that is used twice is not two convolutions.

    >>> representative(("skip_connect", "none", "nor_conv_3x3", "none", "none", "skip_connect"))
    ('none', 'none', 'none', 'nor_conv_3x3', 'none', 'none')
    """
    return next(like for like in _alike()[cell] if set(like) <= set(operations))


@functools.cache
def _alike() -> Mapping[Cell, Sequence[Cell]]:
    """For every cell all that compute the same, the one that stands for them first. Takes about half a second."""
    found: dict[object, list[Cell]] = {}
    every = list(itertools.product(OPERATIONS, repeat=len(EDGES)))
    every.sort(key=lambda cell: len(EDGES) - cell.count("none"))  # stable: the order of options within
    for cell in every:
        found.setdefault(_graph(cell), []).append(cell)
    return {cell: like for like in found.values() for cell in like}


# What a node holds is a sum of terms (maker, times pooled), each so many times; the maker is a convolution, by its
# number, or the cell's input.
Sum = tuple[tuple[tuple[int, int], int], ...]
INPUT = -1


def _graph(cell: Cell) -> object:
    """What `cell` computes, equal where that is the same: its convolutions, what each is of, and the output."""
    sums: list[Counter[tuple[int, int]]] = [Counter({(INPUT, 0): 1})]
    convolutions: list[tuple[str, Sum]] = []
    for node in range(1, NODES):
        total: Counter[tuple[int, int]] = Counter()
        for (to, start), operation in zip(EDGES, cell, strict=True):
            if to != node or not sums[start]:
                continue
            if operation == "skip_connect":
                total.update(sums[start])
            elif operation == "avg_pool_3x3":
                total.update({(maker, pooled + 1): times for (maker, pooled), times in sums[start].items()})
            elif operation != "none":
                total[len(convolutions), 0] += 1
                convolutions.append((operation, _sorted(sums[start])))
        sums.append(total)
    output = _sorted(sums[-1])
    return _unnamed(_needed(convolutions, output), convolutions, output)


def _needed(convolutions: Sequence[tuple[str, Sum]], output: Sum) -> list[int]:
    """Numbers of the convolutions that reach the output."""
    needed: list[int] = []
    ahead = [maker for (maker, _), _ in output]
    while ahead:
        maker = ahead.pop()
        if maker != INPUT and maker not in needed:
            needed.append(maker)
            ahead += [before for (before, _), _ in convolutions[maker][1]]
    return sorted(needed)


def _unnamed(needed: Sequence[int], convolutions: Sequence[tuple[str, Sum]], output: Sum) -> object:
    """The graph with convolutions numbered in a way that does not depend on the numbers they had."""
    trees: dict[int, str] = {INPUT: ""}
    for number in needed:  # each is of earlier ones
        operation, of = convolutions[number]
        parts = sorted(f"({trees[maker]}){pooled}*{times}" for (maker, pooled), times in of)
        trees[number] = operation + "".join(parts)
    groups = [
        list(group)
        for _, group in itertools.groupby(sorted(needed, key=lambda n: (trees[n], n)), lambda n: trees[n])
    ]
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    return min(_numbered(list(itertools.chain(*order)), convolutions, output) for order in orders)


def _numbered(
    order: list[int], convolutions: Sequence[tuple[str, Sum]], output: Sum
) -> tuple[tuple[tuple[str, Sum], ...], Sum]:
    new = {number: place for place, number in enumerate(order)} | {INPUT: INPUT}

    def renamed(of: Sum) -> Sum:
        return tuple(sorted(((new[maker], pooled), times) for (maker, pooled), times in of))

    return tuple((convolutions[n][0], renamed(convolutions[n][1])) for n in order), renamed(output)


def _sorted(total: Counter[tuple[int, int]]) -> Sum:
    return tuple(sorted(total.items()))


# ---- what a model should know of a cell


def features(point: Mapping[str, Scalar]) -> list[float]:
    """Features of what a point means, equal for points that mean the same: see `cell_features`."""
    return cell_features(representative(_cell(point)))


def cell_features(operations: Sequence[str]) -> list[float]:
    """What is seen of a cell by following its paths from input to output, in 17 numbers, whatever its size.

    `operations` are those of all edges, in the order of the published strings. Their names say what they are: none
    or zero, skip or identity, pool, conv (1x1 or larger); all else is one more kind of layer. The numbers are

        edges on a path    skips, pools, 1x1 convolutions, larger ones, other layers                       5
        paths              all, those of skips alone, those of pools and skips                             3
        on a path          layers at least, on average and at most; larger convolutions at most;
                           pools at least and at most; each -1 if there is no path                         6
        all paths          layers, halved for every pool before or behind them                             1
        beside each other  1 if some path has layers and another has none                                  1
        connected          1 if there is a path                                                            1

    where layers are all that learn.

    >>> cell_features(["nor_conv_3x3", "none", "skip_connect"])[:8]
    [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    """
    kinds = [_kind(operation) for operation in operations]
    paths = [path for path in _paths(len(operations)) if "none" not in [kinds[edge] for edge in path]]
    live = sorted(set(itertools.chain(*paths)))
    on_edges = Counter(kinds[edge] for edge in live)
    on_paths = [Counter(kinds[edge] for edge in path) for path in paths]
    layers = [path["small"] + path["large"] + path["other"] for path in on_paths]
    pools = [path["pool"] for path in on_paths]
    found: list[float] = [on_edges[kind] for kind in ("skip", "pool", "small", "large", "other")]
    found.append(len(paths))
    found.append(sum(count == pooled == 0 for count, pooled in zip(layers, pools, strict=True)))
    found.append(sum(count == 0 < pooled for count, pooled in zip(layers, pools, strict=True)))
    found += [min(layers), sum(layers) / len(layers), max(layers)] if paths else [-1, -1, -1]
    found.append(max((path["large"] for path in on_paths), default=-1))
    found += [min(pools), max(pools)] if paths else [-1, -1]
    found.append(sum(count / 2**pooled for count, pooled in zip(layers, pools, strict=True)))
    found.append(0 in layers and max(layers) > 0)
    found.append(len(paths) > 0)
    return [float(value) for value in found]


def _kind(operation: str) -> str:
    if operation in ("none", "zero", "zeroize"):
        return "none"
    if "skip" in operation or "identity" in operation:
        return "skip"
    if "pool" in operation:
        return "pool"
    if "conv" in operation:
        return "small" if "1x1" in operation else "large"
    return "other"


@functools.cache
def _paths(edges: int) -> tuple[tuple[int, ...], ...]:
    """The paths from the first to the last node of a cell with so many edges, each the numbers of its edges."""
    nodes = next(n for n in itertools.count(2) if n * (n - 1) // 2 >= edges)
    if nodes * (nodes - 1) // 2 != edges:
        raise SpaceError(
            f"expected an operation for each edge of a cell: 1, 3, 6, 10, 15 or so of them, got {edges}"
        )
    number = {
        edge: at for at, edge in enumerate((to, start) for to in range(1, nodes) for start in range(to))
    }
    inner = [
        inside for count in range(nodes - 1) for inside in itertools.combinations(range(1, nodes - 1), count)
    ]
    return tuple(
        tuple(number[to, start] for start, to in itertools.pairwise((0, *inside, nodes - 1)))
        for inside in inner
    )


# ---- what a point says


def _cell(point: Mapping[str, Scalar]) -> Cell:
    missing = [name for name in NAMES if name not in point]
    if missing:
        raise SpaceError(f"point of the nasbench201 space: {missing} are missing, got only {sorted(point)}")
    cell = tuple(str(point[name]) for name in NAMES)
    for name, operation in zip(NAMES, cell, strict=True):
        if operation not in OPERATIONS:
            raise SpaceError(
                f"point of the nasbench201 space: {name} is one of {list(OPERATIONS)}, got {operation!r}"
            )
    return cell


def _check_around(around: Mapping[str, Scalar]) -> None:
    for name, value in around.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpaceError(f"nasbench201 space: {name} is a whole number of at least 1, got {value!r}")


def _check_task(shape: Sequence[int], classes: int) -> None:
    if len(shape) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise SpaceError(
            f"nasbench201 space: shape is (channels, height, width), all above 0, got {tuple(shape)}"
        )
    if classes < 2:
        raise SpaceError(f"nasbench201 space: expected at least 2 classes to tell apart, got {classes}")
