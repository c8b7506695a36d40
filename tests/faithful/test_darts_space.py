"""The cells of DARTS and their networks are as published (Liu, Simonyan and Yang, ICLR 2019)."""

import itertools
from collections.abc import Iterator

import pytest

from nasflow.evaluators import counts
from nasflow.spaces import darts, published

CIFAR = (3, 32, 32)


def topologies() -> Iterator[list[darts.Edge]]:
    for pairs in itertools.product(*(itertools.combinations(range(node), 2) for node in darts.NODES)):
        yield [("skip_connect", start) for pair in pairs for start in pair]


def test_there_are_as_many_cells_as_published() -> None:
    assert len(list(topologies())) == 180
    assert darts.space(CIFAR, 10).size == (180 * 7**8) ** 2


def test_widths_and_depths_of_all_topologies_are_as_computed() -> None:
    """Of Shu, Wang and Cai (ICLR 2020): popular cells are wide and shallow."""
    found = [darts.width_depth(edges) for edges in topologies()]
    widths, depths = zip(*found, strict=True)
    assert sum(widths) / 180 == pytest.approx(2.5667, abs=1e-4)
    assert sum(depths) / 180 == pytest.approx(3.7722, abs=1e-4)
    assert [pair for pair in found if pair[0] == max(widths)] == [(4.0, 2)]
    assert sum(width >= 3.5 for width in widths) == 13


@pytest.mark.parametrize("name", ["darts-v1", "darts-v2"])
def test_the_found_cells_are_as_wide_and_deep_as_published(name: str) -> None:
    cells = darts.genotype(published.points("darts")[name])
    assert darts.width_depth(cells["normal"]) == (3.5, 3)


def test_the_network_for_imagenet_has_its_published_number_of_weights() -> None:
    point = published.points("darts")["darts-v2"] | {"cells": 14, "channels": 48, "stem": "imagenet"}
    assert counts.params(darts.build(point, (3, 224, 224), 1000)) == pytest.approx(4.719e6, abs=500)


def test_a_network_of_pools_has_the_weights_that_evoxbench_gives_to_what_is_around_the_operations() -> None:
    """Lu et al. (IEEE TEVC 2023): 8 cells, 32 channels; the lowest end of its fixed range."""
    cell = [("max_pool_3x3", 0), ("avg_pool_3x3", 1)] * 4
    point = darts.from_genotype({"normal": cell, "reduce": cell}, cells_count=8, channels=32)
    assert counts.params(darts.build(point, CIFAR, 10)) == 392_426
