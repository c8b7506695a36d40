"""The cells of NAS-Bench-201 (Dong and Yang, ICLR 2020, arXiv:2001.00326) against its published counts, its way to
tell cells apart, and networks that are given each other's weights."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.evaluators import counts
from nasflow.spaces import nasbench201
from nasflow.spaces.nasbench201 import EDGES, OPERATIONS, from_arch_string, representative
from nasflow.spaces.nasbench201_network import Cell

torch.set_num_threads(1)

NONE, SKIP, SMALL, LARGE, POOL = OPERATIONS
TABLE = Path(__file__).parents[2] / "../shared/data/nasbench201_hardware.parquet"


def every_cell() -> Iterator[tuple[str, ...]]:
    return itertools.product(OPERATIONS, repeat=6)


# ---- published counts


def counted(cell: str, classes: int) -> tuple[float, float]:
    """Millions of multiply-adds and of parameters for images of 3x32x32. The published count of multiply-adds has
    one more for each class: the bias of the last layer."""
    network = nasbench201.build(from_arch_string(cell), (3, 32, 32), classes)
    return (counts.flops(network, (3, 32, 32)) + classes) / 1e6, counts.params(network) / 1e6


def written(*cell: str) -> str:
    return nasbench201.arch_string(dict(zip(nasbench201.NAMES, cell, strict=True)))


@pytest.mark.parametrize(
    ("cell", "classes", "flops", "params"),
    [
        (written(*(NONE,) * 6), 10, 7.78305, 0.073306),
        (written(*(NONE,) * 6), 100, 7.7889, 0.079156),
        (written(*(LARGE,) * 6), 10, 220.11969, 1.531546),
        (written(*(LARGE,) * 6), 100, 220.12554, 1.537396),
        ("|avg_pool_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
         10, 113.95137, 0.802426),
        ("|nor_conv_1x1~0|+|nor_conv_1x1~0|nor_conv_1x1~1|+|skip_connect~0|nor_conv_3x3~1|avg_pool_3x3~2|",
         10, 54.96897, 0.400346),
    ],
)  # fmt: skip
def test_networks_cost_what_was_published(cell, classes, flops, params):
    assert counted(cell, classes) == (pytest.approx(flops, abs=1e-9), pytest.approx(params, abs=1e-9))


@pytest.mark.skipif(
    not TABLE.exists(), reason=f"needs {TABLE.name} in the folder shared/ beside the checkout"
)
def test_networks_cost_what_the_table_of_all_cells_says():
    import pyarrow.parquet as pq

    columns = ["arch_str", "cifar10_flops_M", "cifar10_params_M"]
    table = pq.read_table(TABLE, columns=columns).to_pylist()
    compared = 0
    for i in np.random.default_rng(0).permutation(len(table)):
        text, flops, params = (table[i][name] for name in columns)
        cell = tuple(str(from_arch_string(text)[name]) for name in nasbench201.NAMES)
        if learned(cell) != learned(representative(cell)):
            continue  # the published network has a convolution that nothing can pass, which ours leaves out
        assert counted(text, 10) == (pytest.approx(flops, abs=1e-9), pytest.approx(params, abs=1e-9)), text
        compared += 1
        if compared == 10:
            return
    raise AssertionError(f"only {compared} cells to compare")


def learned(cell: tuple[str, ...]) -> Counter[str]:
    return Counter(operation for operation in cell if "conv" in operation)


# ---- which cells are the same


def published_name(cell: tuple[str, ...]) -> str:
    """The way the paper's authors tell cells apart: what the output is, spelt out down to the input."""
    nodes = ["0"]
    for node in range(1, 4):
        terms = []
        for (to, start), operation in zip(EDGES, cell, strict=True):
            if to == node:
                if operation == "none" or nodes[start] == "#":
                    terms.append("#")
                else:
                    terms.append(nodes[start] if operation == SKIP else f"({nodes[start]})@{operation}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def test_there_are_as_many_cells_as_published_and_fewer_that_differ():
    cells = list(every_cell())
    assert len(cells) == 15_625
    assert len({published_name(cell) for cell in cells}) == 6_466
    assert len({representative(cell) for cell in cells}) == 5_044
    without_pools = [cell for cell in cells if POOL not in cell]
    assert len({representative(cell) for cell in without_pools}) == 1_011


def test_what_the_published_names_put_together_stays_so_but_for_convolutions_used_twice():
    names: dict[str, set[tuple[str, ...]]] = {}
    for cell in every_cell():
        names.setdefault(published_name(cell), set()).add(representative(cell))
    for name, different in names.items():
        learnt = {tuple(sorted(learned(cell).items())) for cell in different}
        assert len(different) == 1 or len(learnt) > 1 or POOL in name or shared(different), name


def shared(cells: set[tuple[str, ...]]) -> bool:
    """Whether in one of the cells a node that holds a convolution's output is used twice."""
    for cell in cells:
        used = Counter(start for (_, start), operation in zip(EDGES, cell, strict=True) if operation != NONE)
        if any(used[start] > 1 for start in (1, 2)):
            return True
    return False


CHANNELS = 3


def randomised(cell: tuple[str, ...]) -> Cell:
    """As it is written, edges that lead nowhere and all, with nothing in it that a wrong graph could hide behind."""
    made = Cell(cell, CHANNELS).double().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
    return made


def can_be_made_equal(cell: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether `other` answers like `cell` with the convolutions of that one, dealt out in some way."""
    x = torch.randn(1, CHANNELS, 5, 4, dtype=torch.float64)
    one, two = randomised(cell), randomised(other)
    expected = one(x)
    places = {op: [name for name, kind in kinds(other) if kind == op] for op in (SMALL, LARGE)}
    stock = {op: [one.edges[name] for name, kind in kinds(cell) if kind == op] for op in (SMALL, LARGE)}
    for small in itertools.permutations(stock[SMALL], len(places[SMALL])):
        for large in itertools.permutations(stock[LARGE], len(places[LARGE])):
            for name, module in zip(places[SMALL] + places[LARGE], small + large, strict=True):
                two.edges[name] = module
            if torch.allclose(two(x), expected, rtol=1e-9, atol=1e-9):
                return True
    return False


def kinds(cell: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(zip(nasbench201.NAMES, cell, strict=True))


def few_convolutions(cell: tuple[str, ...]) -> bool:
    return max(learned(cell).values(), default=0) <= 3


def test_a_cell_and_the_one_that_stands_for_it_compute_the_same():
    torch.manual_seed(0)
    cells = [cell for cell in every_cell() if representative(cell) != cell and few_convolutions(cell)]
    with torch.no_grad():
        for i in np.random.default_rng(0).permutation(len(cells))[:150]:
            assert can_be_made_equal(cells[i], representative(cells[i])), cells[i]


def test_cells_that_stand_for_themselves_compute_different_things():
    torch.manual_seed(0)
    found: dict[object, list[tuple[str, ...]]] = {}
    for cell in every_cell():
        if representative(cell) == cell and few_convolutions(cell):
            found.setdefault(tuple(sorted(learned(cell).items())), []).append(cell)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for alike in found.values():  # no other pairs could be made equal anyway
            for _ in range(12 if len(alike) > 1 else 0):
                a, b = rng.choice(len(alike), 2, replace=False)
                assert not can_be_made_equal(alike[a], alike[b]), (alike[a], alike[b])
