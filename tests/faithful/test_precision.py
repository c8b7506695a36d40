"""Mixed precision against its sources: bit operations (survey of Rakka et al., 2022, arXiv:2208.06064), the integer
program of HAWQ-V3 (Yao et al., 2021, arXiv:2011.10680), precisions of a chain with conversions between them."""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from nasflow.compression import precision
from nasflow.compression.assign import Budget, Table, best
from nasflow.compression.layers import layers

torch.set_num_threads(1)


def brute_force(
    objective: Table, budgets: list[Budget], ties: list[tuple[int, ...]]
) -> tuple[float, tuple[int, ...]]:
    """The best of all combinations, each summed up."""
    sizes = [len(row) for row in objective.own]
    options = np.indices(sizes).reshape(len(sizes), -1)

    def totals(table: Table) -> NDArray[np.float64]:
        total = sum(np.asarray(row, float)[taken] for row, taken in zip(table.own, options, strict=True))
        for (i, k), matrix in table.between.items():
            total = total + np.asarray(matrix, float)[options[i], options[k]]
        return np.asarray(total)

    kept = np.ones(options.shape[1], dtype=bool)
    for tied in ties:
        kept &= (options[list(tied)] == options[tied[0]]).all(0)
    for budget in budgets:
        kept &= totals(budget.table) <= budget.most
    losses = np.where(kept, totals(objective), np.inf)
    at = int(losses.argmin())
    return float(losses[at]), tuple(int(option) for option in options[:, at])


def hawq_instance(seed: int) -> tuple[Table, list[Budget]]:
    """Twelve layers of random shapes at 2, 4 or 8 bits: sensitivity falls with bits as squared errors do."""
    rng = np.random.default_rng(seed)
    bits = np.array([2, 4, 8])
    traces = 10.0 ** rng.uniform(-3, 1, 12)
    size = rng.integers(100, 40_000, 12)
    macs = size * rng.integers(1, 1025, 12)
    objective = Table((traces[:, None] * 4.0**-bits * rng.uniform(0.5, 2, (12, 3))).tolist())
    tables = [Table((size[:, None] * bits / 8).tolist()), Table((macs[:, None] * bits**2).tolist())]
    shares = rng.uniform(0.25, 0.75, 2)
    budgets = []
    for name, table, share in zip(("bytes", "bitops"), tables, shares, strict=True):
        least, most = table.total([0] * 12), table.total([2] * 12)
        budgets.append(Budget(name, table, least + share * (most - least)))
    return objective, budgets


def test_bit_operations_of_the_published_layer() -> None:
    """64 to 64 channels, 3x3, 56x56, weights in 4 and activations in 8 bits: 3.70 G."""
    (layer,) = layers(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False)), (64, 56, 56))
    policy = {"weight_bits.0": 4, "activation_bits.0": 8}
    assert precision.bitops([layer], policy) == 115_605_504 * 32
    assert round(precision.bitops([layer], policy) / 1e9, 2) == 3.70


@pytest.mark.parametrize("seed", range(4))
def test_the_program_equals_brute_force_with_tied_pairs(seed: int) -> None:
    objective, budgets = hawq_instance(seed)
    rng = np.random.default_rng((seed, 1))
    ties = [tuple(int(i) for i in pair) for pair in rng.permutation(12)[:4].reshape(2, 2)]
    expected = brute_force(objective, budgets, ties)
    found = best(objective, budgets, ties=ties)
    assert found.options == expected[1]
    assert found.total == pytest.approx(expected[0], rel=1e-12)


def test_a_larger_budget_is_never_worse() -> None:
    objective, (size, operations) = hawq_instance(9)
    totals = []
    for share in np.linspace(0.02, 1.0, 12):
        least, most = size.table.total([0] * 12), size.table.total([2] * 12)
        budget = Budget("bytes", size.table, least + share * (most - least))
        totals.append(best(objective, [budget, operations]).total)
    assert all(later <= earlier for earlier, later in itertools.pairwise(totals))
    assert totals[-1] < totals[0]


def test_greedy_is_not_optimal() -> None:
    """A knapsack of three: the best value for its weight goes in first and keeps the other two out."""
    gains, weights, room = [60.0, 50.0, 50.0], [6.0, 5.0, 5.0], 10.0
    left, taken = room, set()
    for item in sorted(range(3), key=lambda i: (-gains[i] / weights[i], -gains[i])):
        if weights[item] <= left:
            taken.add(item)
            left -= weights[item]
    greedy = sum(gains) - sum(gains[item] for item in taken)
    found = best(Table([[g, 0] for g in gains]), [Budget("room", Table([[0, w] for w in weights]), room)])
    assert found.options == (0, 1, 1)
    assert found.total == 60 < greedy


# ---- chains of precisions


def chain(seed: int, boundary: float | None = None) -> Table:
    """Eight layers in three precisions, with random conversions or all the same ones."""
    rng = np.random.default_rng(seed)
    own = rng.random((8, 3)).tolist()
    between = {}
    for i in range(7):
        matrix = rng.random((3, 3)) if boundary is None else np.full((3, 3), boundary)
        np.fill_diagonal(matrix, 0.0)
        between[i, i + 1] = matrix.tolist()
    return Table(own, between)


@pytest.mark.parametrize("seed", range(5))
def test_dynamic_programming_equals_enumeration(seed: int) -> None:
    table = chain(seed)
    expected = brute_force(table, [], [])
    assert best(table).options == expected[1]


@pytest.mark.parametrize("seed", range(3))
def test_the_program_agrees_with_dynamic_programming(seed: int) -> None:
    table = chain(seed)
    idle = Budget("nothing", Table([[0.0] * 3] * 8), 1.0)
    assert best(table, [idle]).options == best(table).options


def test_free_conversions_leave_each_layer_its_own_minimum() -> None:
    table = chain(0, boundary=0.0)
    assert best(table).options == tuple(int(np.argmin(row)) for row in table.own)


def test_endless_conversions_leave_the_best_uniform() -> None:
    table = chain(0, boundary=math.inf)
    uniform = int(np.sum(table.own, axis=0).argmin())
    assert best(table).options == (uniform,) * 8
