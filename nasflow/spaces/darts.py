"""The `darts` space: two cells, stacked (Liu, Simonyan and Yang, ICLR 2019, arXiv:1806.09055).

A cell has two inputs, 0 (the output of the cell before the last) and 1 (that of the last), and four nodes, 2 to 5. A
node is the sum of what two operations make of two different earlier ones; the nodes side by side are the output.
A `reduce` cell, whose operations on the cell's inputs halve the image, comes after one and after two thirds of all
cells; the others are `normal`. A point says

    CELL.nodeN.inputs    the two that node N takes, such as 0+2
    CELL.nodeN.first     what is done to the first of them; CELL.nodeN.second to the other
    cells, channels      of the network; each reduction doubles the channels
    stem                 cifar: one convolution; imagenet: three that halve the image

so every point is a cell, written once, and none fold. The last four are settings, each a choice with one option. The
search's `none` is not offered: a cell never keeps it.

A space costs no torch: the networks are in darts_network.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nasflow.space import Choice, Point, Scalar, Space, SpaceError
from nasflow.spaces import checks

if TYPE_CHECKING:
    from torch import nn

OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
CELLS = ("normal", "reduce")
NODES = (2, 3, 4, 5)
STEMS = ("cifar", "imagenet")
LARGE = 112  # pixels of the shorter side from which on the imagenet stem is the default
SPACE, POINT = "darts space", "point of the darts space"

Edge = tuple[str, int]  # an operation and the number of what it is done to
Genotype = Mapping[str, Sequence[Edge]]


def space(
    shape: Sequence[int],
    classes: int,
    *,
    operations: Sequence[str] = OPERATIONS,
    cells: int = 20,
    channels: int = 36,
    stem: str | None = None,
) -> Space:
    """The cells made of `operations`, in networks for images of `shape` (channels, height, width).

    The defaults are the published network for CIFAR-10; that for ImageNet has 14 cells and 48 channels. The stem
    follows the image if it is not given.

    >>> space((3, 32, 32), 10).size == (180 * 7**8) ** 2
    True
    """
    checks.task(SPACE, shape, classes)
    offered = checks.among(SPACE, "operations", operations, OPERATIONS)
    if stem is None:
        stem = STEMS[min(shape[1:]) >= LARGE]
    choices = []
    for cell, node in itertools.product(CELLS, NODES):
        choices.append(Choice(f"{cell}.node{node}.inputs", _pairs(node)))
        choices += [Choice(f"{cell}.node{node}.{which}", offered) for which in ("first", "second")]
    choices += [Choice(name, (value,)) for name, value in _around(cells, channels, stem).items()]
    return Space(tuple(choices), features=(features,))


def build(point: Mapping[str, Scalar], shape: Sequence[int], classes: int) -> nn.Module:
    """The network of `point`, as it is evaluated: images (batch, *shape) in, logits (batch, classes) out.

    Without the auxiliary classifier and the dropping of paths, which are means of training. Weights are drawn from
    torch's global generator. Keys that are not of this space are ignored.
    """
    from nasflow.spaces.darts_network import network

    checks.task(POINT, shape, classes)
    return network(
        genotype(point),
        shape[0],
        classes,
        cells=checks.said_whole(POINT, point, "cells", 3),
        channels=checks.said_whole(POINT, point, "channels", 2),
        stem=str(checks.said_option(POINT, point, "stem", STEMS)),
    )


def genotype(point: Mapping[str, Scalar]) -> dict[str, list[Edge]]:
    """A point's cells in the published form: for each cell eight operations, two for each node, with what they are
    done to, where 0 is the cell before the last and 1 the last."""
    cells: dict[str, list[Edge]] = {}
    for cell in CELLS:
        cells[cell] = []
        for node in NODES:
            name = f"{cell}.node{node}"
            pair = str(checks.said_option(POINT, point, f"{name}.inputs", _pairs(node)))
            for which, start in zip(("first", "second"), pair.split("+"), strict=True):
                operation = checks.said_option(POINT, point, f"{name}.{which}", OPERATIONS)
                cells[cell].append((str(operation), int(start)))
    return cells


def from_genotype(
    cells: Genotype, *, cells_count: int = 20, channels: int = 36, stem: str = "cifar"
) -> Point:
    """The point of cells in the published form, in the published network for CIFAR-10 unless said otherwise.

    >>> cell = [("skip_connect", 1), ("sep_conv_3x3", 0)] * 4
    >>> point = from_genotype({"normal": cell, "reduce": cell})
    >>> point["normal.node2.inputs"], point["normal.node2.first"], point["normal.node2.second"]
    ('0+1', 'sep_conv_3x3', 'skip_connect')
    """
    point: Point = {}
    for cell in CELLS:
        edges = list(cells.get(cell, ()))
        if len(edges) != 2 * len(NODES):
            raise SpaceError(f"{SPACE}: a genotype has 8 operations in its {cell} cell, got {edges}")
        for node, pair in zip(NODES, zip(edges[::2], edges[1::2], strict=True), strict=True):
            (first, a), (second, b) = sorted(pair, key=lambda edge: edge[1])
            point |= {
                f"{cell}.node{node}.inputs": f"{a}+{b}",
                f"{cell}.node{node}.first": first,
                f"{cell}.node{node}.second": second,
            }
    point |= _around(cells_count, channels, stem)
    genotype(point)  # raises for what no cell has
    return point


def features(point: Mapping[str, Scalar]) -> list[float]:
    """What is seen of the two cells: for each how often each operation is there (7), its width and its depth."""
    found: list[float] = []
    for edges in genotype(point).values():
        names = [operation for operation, _ in edges]
        found += [float(names.count(operation)) for operation in OPERATIONS]
        found += width_depth(edges)
    return found


def width_depth(edges: Sequence[Edge]) -> tuple[float, int]:
    """A cell's width, in units of its channels, and depth (Shu, Wang and Cai, ICLR 2020, arXiv:1909.09569).

    Each node is as wide as the share of its edges that come from the cell's inputs. The depth is the number of edges
    on the longest path from an input to the output, the last one, to the output, included.
    """
    depth = {0: 0, 1: 0}
    width = 0.0
    for node, pair in zip(NODES, zip(edges[::2], edges[1::2], strict=True), strict=True):
        starts = [start for _, start in pair]
        width += sum(start < 2 for start in starts) / 2
        depth[node] = 1 + max(depth[start] for start in starts)
    return width, 1 + max(depth.values())


def _pairs(node: int) -> tuple[str, ...]:
    return tuple(f"{a}+{b}" for a, b in itertools.combinations(range(node), 2))


def _around(cells: int, channels: int, stem: str) -> Point:
    return {
        "cells": checks.whole(SPACE, "cells", cells, 3),
        "channels": checks.whole(SPACE, "channels", channels, 2),
        "stem": checks.among(SPACE, "stem", [stem], STEMS)[0],
    }
