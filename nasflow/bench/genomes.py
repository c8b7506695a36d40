"""Genomes of EvoXBench (Lu et al., IEEE TEVC 2023, arXiv:2208.04321), and the points of our spaces that they mean.

A genome is a row of whole numbers, the form in which its evolutionary algorithms see an architecture:

    nasbench101      26    21 bits for the edges, row by row, then 5 operations of conv3x3, conv1x1, maxpool3x3
    nasbench201       6    operations of none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3
    nats-size         5    channels of 8, 16, ..., 64
    darts            32    for each node of both cells operation, input, operation, input
    ofa-mobilenetv3  21    resolution, then for each of 4 blocks in 5 stages 1 + 3 * expansion + kernel, or 0 if it is
                           not there

In the first three, genomes and points are one to one. In `darts` a node's two inputs have no order, so the lower one
comes first in what `encode` gives, and genomes in which both are the same mean no point. In `ofa-mobilenetv3` a fourth
block without a third becomes the third (EvoXBench then keeps three blocks, too, but draws the third by chance).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasflow import names
from nasflow.bench.problem import BenchError
from nasflow.space import Point, Scalar
from nasflow.spaces import darts, nasbench101, nasbench201, nats, ofa

Genome = tuple[int, ...]

DARTS_OPERATIONS = (
    "skip_connect",
    "avg_pool_3x3",
    "max_pool_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
EXPANSIONS, KERNELS, BLOCKS, WIDTH = (3, 4, 6), (3, 5, 7), 4, 1.2
WIDE = ofa.space((3, 224, 224), 1000, widths=(WIDTH,))


@dataclass(frozen=True)
class Encoding:
    """The genomes of one space: gene `i` is a whole number from `low[i]` to `high[i]`."""

    space: str  # as nasflow names it
    low: Genome
    high: Genome
    _decode: Callable[[Genome], Point]
    _encode: Callable[[Mapping[str, Scalar]], Genome]

    def __len__(self) -> int:
        return len(self.low)

    def sample(self, rng: np.random.Generator) -> Genome:
        """A genome with every gene drawn on its own."""
        return tuple(int(gene) for gene in rng.integers(self.low, self.high, endpoint=True))

    def decode(self, genome: Sequence[int]) -> Point:
        """The point that a genome means, in the published network. Raises BenchError if it means none."""
        genes = tuple(int(gene) for gene in genome)
        if len(genes) != len(self) or any(
            not low <= gene <= high for low, gene, high in zip(self.low, genes, self.high, strict=True)
        ):
            raise BenchError(
                f"a genome of {self.space} is {len(self)} whole numbers from {list(self.low)} to {list(self.high)}, "
                f"got {list(genome)}"
            )
        return self._decode(genes)

    def encode(self, point: Mapping[str, Scalar]) -> Genome:
        """The genome of a point of the space. What it says of the network around is not in a genome."""
        return self._encode(point)


def encoding(space: str) -> Encoding:
    """The genomes of the space of this name.

    >>> encoding("nats-size").decode([1, 3, 3, 7, 7])
    {'width1': 16, 'width2': 32, 'width3': 32, 'width4': 64, 'width5': 64}
    """
    if space not in ENCODINGS:
        raise BenchError(f"no genomes of the space {space!r}: {names.nearest(space, ENCODINGS)}")
    return ENCODINGS[space]


# ---- a choice for each gene


def _plain(space: str, options: Mapping[str, Sequence[Scalar]], around: Mapping[str, Scalar]) -> Encoding:
    """Genes that are numbers of options, and what surrounds them in the published network."""

    def decode(genome: Genome) -> Point:
        return {name: of[gene] for (name, of), gene in zip(options.items(), genome, strict=True)} | dict(
            around
        )

    def encode(point: Mapping[str, Scalar]) -> Genome:
        return tuple(_place(of, point, name) for name, of in options.items())

    return Encoding(space, (0,) * len(options), tuple(len(of) - 1 for of in options.values()), decode, encode)


def _place(options: Sequence[Any], point: Mapping[str, Scalar], name: str) -> int:
    if point.get(name) not in options:
        raise BenchError(f"{name} has no gene unless it is one of {list(options)}, got {point.get(name)!r}")
    return options.index(point[name])


# ---- darts


def _decode_darts(genome: Genome) -> Point:
    edges = [(DARTS_OPERATIONS[genome[i]], genome[i + 1]) for i in range(0, len(genome), 2)]
    for (_, a), (_, b) in zip(edges[::2], edges[1::2], strict=True):
        if a == b:
            raise BenchError(
                f"a node of the darts space has two different inputs, got {a} twice in {list(genome)}"
            )
    half = len(edges) // 2
    cells = dict(zip(darts.CELLS, (edges[:half], edges[half:]), strict=True))
    return darts.from_genotype(cells)


def _encode_darts(point: Mapping[str, Scalar]) -> Genome:
    cells = darts.genotype(point)
    edges = [edge for cell in darts.CELLS for edge in cells[cell]]
    return tuple(gene for operation, start in edges for gene in (DARTS_OPERATIONS.index(operation), start))


# ---- ofa-mobilenetv3


def _decode_ofa(genome: Genome) -> Point:
    point = {parameter.name: parameter.options[0] for parameter in WIDE.parameters}  # type: ignore[union-attr]
    point["resolution"] = ofa.RESOLUTIONS[genome[0]]
    for stage in ofa.STAGES:
        slots = genome[1 + (stage - 1) * BLOCKS : 1 + stage * BLOCKS]
        there = [gene for gene in slots if gene]
        point[f"stage{stage}.depth"] = len(there)
        for block, gene in enumerate(there, start=1):
            expansion, kernel = divmod(gene - 1, len(KERNELS))
            point[f"stage{stage}.block{block}.expansion"] = EXPANSIONS[expansion]
            point[f"stage{stage}.block{block}.kernel"] = KERNELS[kernel]
    return point


def _encode_ofa(point: Mapping[str, Scalar]) -> Genome:
    genes = [_place(ofa.RESOLUTIONS, point, "resolution")]
    for stage in ofa.STAGES:
        depth = _place(range(BLOCKS + 1), point, f"stage{stage}.depth")
        for block in range(1, depth + 1):
            name = f"stage{stage}.block{block}"
            expansion = _place(EXPANSIONS, point, f"{name}.expansion")
            genes.append(1 + len(KERNELS) * expansion + _place(KERNELS, point, f"{name}.kernel"))
        genes += [0] * (BLOCKS - depth)
    return tuple(genes)


_NODES = [(6, node - 1, 6, node - 1) for node in darts.NODES]
_DARTS_HIGH = tuple(gene for node in _NODES for gene in node) * len(darts.CELLS)
_EDGES = {f"edge{a}{b}": (False, True) for a in range(7) for b in range(a + 1, 7)}
_OPERATIONS = {f"op{vertex}": nasbench101.OPERATIONS for vertex in range(1, 6)}

ENCODINGS = {
    encoding.space: encoding
    for encoding in (
        _plain("nasbench101", {**_EDGES, **_OPERATIONS}, {"channels": 128, "stacks": 3, "modules": 3}),
        _plain(
            "nasbench201",
            dict.fromkeys(nasbench201.NAMES, nasbench201.OPERATIONS),
            {"cells": 5, "channels": 16, "stages": 3},
        ),
        _plain("nats-size", dict.fromkeys(nats.NAMES, nats.WIDTHS), {}),
        Encoding("darts", (0,) * 32, _DARTS_HIGH, _decode_darts, _encode_darts),
        Encoding(
            "ofa-mobilenetv3",
            (0, *(1, 1, 0, 0) * len(ofa.STAGES)),
            (len(ofa.RESOLUTIONS) - 1, *(9,) * (BLOCKS * len(ofa.STAGES))),
            _decode_ofa,
            _encode_ofa,
        ),
    )
}
