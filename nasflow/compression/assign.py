"""One option for each layer, the best together within budgets: solved exactly, not by trial.

The integer program of HAWQ-V3 (Yao et al., 2021, arXiv:2011.10680): least total sensitivity under limits on size,
bit operations and latency, tied layers alike; and the cheapest path through the precisions that a runtime runs,
where each change between two layers costs a conversion.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from nasflow.compression.layers import Layer
from nasflow.compression.precision import ACTIVATION, FLOAT, WEIGHT, Cost, offered
from nasflow.errors import NasflowError
from nasflow.space import Point, Space

Edge = tuple[int, int]
Row = Sequence[float]
Sensitivity = Mapping[tuple[str, int], float]
"""(entry of a policy, bits) -> what it costs to round so: any unit in which layers add up, lower is better."""

SCALE = 1e3  # of the objective, whose optimum the solver proves to 1e-6
RETRIES = 100


class AssignError(NasflowError):
    """Budgets that nothing keeps, or tables that do not fit each other."""


@dataclass(frozen=True)
class Table:
    """What options cost: `own[i][j]` if layer i takes option j, and on top `between[i, k][j][l]` if layer i takes
    option j and layer k option l. Infinity forbids."""

    own: Sequence[Row]
    between: Mapping[Edge, Sequence[Row]] = field(default_factory=dict)

    def total(self, options: Sequence[int]) -> float:
        """Of one option for each layer."""
        own = [row[option] for row, option in zip(self.own, options, strict=True)]
        return math.fsum([*own, *(table[options[i]][options[k]] for (i, k), table in self.between.items())])


@dataclass(frozen=True)
class Budget:
    """`table` may cost at most `most`; `name` is what messages call it, with its unit."""

    name: str
    table: Table
    most: float


@dataclass(frozen=True)
class Assignment:
    """The number of each layer's option, what that costs in all, and what it takes of each budget."""

    options: tuple[int, ...]
    total: float
    spent: Mapping[str, float]


def best(
    objective: Table, budgets: Sequence[Budget] = (), *, ties: Sequence[Sequence[int]] = ()
) -> Assignment:
    """The options with the least `objective` of all that keep every budget and give tied layers the same option.

    A chain (costs only between neighbours) without budgets takes dynamic programming; all else mixed-integer
    linear programming. The optimum is proven to a billionth of what a single layer can change.

    >>> best(Table([[5, 1], [9, 2]]), [Budget("bytes", Table([[1, 3], [1, 3]]), 4)]).options
    (0, 1)

    Raises:
        AssignError: nothing keeps the budgets; it tells the least possible.
    """
    groups = _groups(len(objective.own), ties)
    for name, table in (("objective", objective), *((budget.name, budget.table) for budget in budgets)):
        _check(name, table, objective)
    merged = _merged(objective, groups)
    limits = [(_merged(budget.table, groups), budget.most) for budget in budgets]
    if not limits and all(k == i + 1 for i, k in merged.between):
        chosen = _shortest_path(merged)
    else:
        chosen = _solved(merged, limits)
    if chosen is None:
        raise AssignError(_why_nothing(budgets, limits))
    options = [0] * len(objective.own)
    for members, option in zip(groups, chosen, strict=True):
        for layer in members:
            options[layer] = option
    spent = {budget.name: budget.table.total(options) for budget in budgets}
    return Assignment(tuple(options), objective.total(options), spent)


@dataclass(frozen=True)
class Limit:
    """A policy's `cost`, summed over layers, may be at most `most`; see precision.Cost."""

    name: str
    cost: Cost
    most: float


def policy(
    space: Space,
    layers: Sequence[Layer],
    sensitivity: Sensitivity,
    limits: Sequence[Limit],
    *,
    ties: Sequence[Sequence[str]] = (),
) -> Point:
    """The bits in `space` (see precision.space) with the least total sensitivity within all limits.

    `ties` names layers that get the same bits. An entry with a single option needs no sensitivity,
    and being left alone costs none.
    """
    pairs = {layer.name: _pairs(space, layer) for layer in layers}
    places = {layer.name: i for i, layer in enumerate(layers)}
    unknown = [name for tied in ties for name in tied if name not in places]
    if unknown:
        raise AssignError(f"cannot tie {unknown[0]}: no such layer among {', '.join(places)}")

    def told(entry: str, bits: int) -> float:
        options = offered(space, entry)
        if len(options) == 1 or bits == FLOAT:
            return 0.0
        if (entry, bits) not in sensitivity:
            raise AssignError(f"{entry}: no sensitivity for {bits} bits; offered are {options}")
        return sensitivity[entry, bits]

    objective = Table(
        [
            [told(WEIGHT + layer.name, w) + told(ACTIVATION + layer.name, a) for w, a in pairs[layer.name]]
            for layer in layers
        ]
    )
    budgets = [
        Budget(
            limit.name,
            Table([[limit.cost(layer, w, a) for w, a in pairs[layer.name]] for layer in layers]),
            limit.most,
        )
        for limit in limits
    ]
    found = best(objective, budgets, ties=[[places[name] for name in tied] for tied in ties])
    chosen: Point = {}
    for layer, option in zip(layers, found.options, strict=True):
        chosen[WEIGHT + layer.name], chosen[ACTIVATION + layer.name] = pairs[layer.name][option]
    return chosen


def _pairs(space: Space, layer: Layer) -> list[tuple[int, int]]:
    return list(
        itertools.product(offered(space, WEIGHT + layer.name), offered(space, ACTIVATION + layer.name))
    )


# ---- the problem without ties


def _groups(count: int, ties: Sequence[Sequence[int]]) -> list[list[int]]:
    """Layers that take the same option, in the order of the first of each."""
    root = list(range(count))
    for tied in ties:
        if not all(0 <= layer < count for layer in tied):
            raise AssignError(f"expected tied layers among 0 to {count - 1}, got {tuple(tied)}")
        joined = {root[layer] for layer in tied}
        root = [min(joined) if r in joined else r for r in root]
    return [[layer for layer in range(count) if root[layer] == first] for first in sorted(set(root))]


def _merged(table: Table, groups: Sequence[Sequence[int]]) -> Table:
    """The same costs with each group as one layer."""
    place = {layer: number for number, members in enumerate(groups) for layer in members}
    own = []
    for members in groups:
        sizes = {len(table.own[layer]) for layer in members}
        if len(sizes) > 1:
            raise AssignError(f"tied layers {tuple(members)} have different numbers of options")
        own.append(np.sum([table.own[layer] for layer in members], axis=0))
    between: dict[Edge, NDArray[np.float64]] = {}
    for (i, k), costs in table.between.items():
        first, second, matrix = place[i], place[k], np.asarray(costs, float)
        if first == second:
            own[first] = own[first] + matrix.diagonal()
            continue
        if first > second:
            first, second, matrix = second, first, matrix.T
        between[first, second] = between.get((first, second), 0.0) + matrix
    return Table([row.tolist() for row in own], {edge: matrix.tolist() for edge, matrix in between.items()})


def _check(name: str, table: Table, like: Table) -> None:
    sizes = [len(row) for row in like.own]
    if [len(row) for row in table.own] != sizes or 0 in sizes:
        raise AssignError(f"{name}: expected a cost for each option, {sizes} of them by layer")
    for (i, k), matrix in table.between.items():
        if not (0 <= i < len(sizes) and 0 <= k < len(sizes)) or i == k:
            raise AssignError(f"{name}: no two layers {i} and {k}")
        if np.shape(matrix) != (sizes[i], sizes[k]):
            raise AssignError(
                f"{name}: between layers {i} and {k} expected costs ({sizes[i]}, {sizes[k]}), "
                f"got {np.shape(matrix)}"
            )
    for cost in itertools.chain(*table.own, *(row for matrix in table.between.values() for row in matrix)):
        if math.isnan(cost) or cost == -math.inf:
            raise AssignError(f"{name}: costs are numbers or infinity, got {cost}")


# ---- chains


def _shortest_path(table: Table) -> list[int] | None:
    """Viterbi: the best way to each option of a layer goes on from the best ways to those of the layer before."""
    cost = np.asarray(table.own[0], float)
    came_from = []
    for i, row in enumerate(table.own[1:], start=1):
        steps = np.asarray(table.between.get((i - 1, i), np.zeros((len(cost), len(row)))), float)
        through = cost[:, None] + steps
        came_from.append(through.argmin(0))
        cost = through.min(0) + np.asarray(row, float)
    if not np.isfinite(cost).any():
        return None
    path = [int(cost.argmin())]
    for before in reversed(came_from):
        path.append(int(before[path[-1]]))
    return path[::-1]


# ---- everything else


def _solved(objective: Table, limits: Sequence[tuple[Table, float]]) -> list[int] | None:
    """The best options within the limits; None if there are none."""
    program = _Program(objective, limits)
    for _ in range(RETRIES):
        options = program.solve()
        if options is None or all(table.total(options) <= most for table, most in limits):
            return options
        program.forbid(options)  # over a limit by less than the solver's tolerance
    raise AssignError(f"{RETRIES} assignments in turn were within rounding of a budget; change it a little")


class _Program:
    """The integer program: a variable for each option of each layer, and one for each pair at an edge."""

    def __init__(self, objective: Table, limits: Sequence[tuple[Table, float]]) -> None:
        self._sizes = [len(row) for row in objective.own]
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)]).astype(int)
        tables = [objective, *(table for table, _ in limits)]
        self._edges = sorted({edge for table in tables for edge in table.between})
        self._count = int(self._starts[-1]) + sum(self._sizes[i] * self._sizes[k] for i, k in self._edges)
        costs = np.array([self._coefficients(table) for table in tables])
        self._allowed = np.isfinite(costs).all(0)
        costs = np.where(self._allowed, costs, 0.0)
        self._objective = self._scaled(costs[0])
        self._rows: list[NDArray[np.float64]] = []
        self._low: list[float] = []
        self._high: list[float] = []
        for row, (_, most) in zip(costs[1:], limits, strict=True):
            unit = max(np.abs(row).max(), abs(most)) or 1.0
            self._add(row / unit, -np.inf, most / unit)
        self._one_each()

    def solve(self) -> list[int] | None:
        """Options within the limits, give or take the solver's tolerance."""
        integral = np.arange(self._count) < self._starts[-1]
        answer = optimize.milp(
            self._objective,
            integrality=integral.astype(int),
            bounds=optimize.Bounds(0, self._allowed.astype(float)),
            constraints=optimize.LinearConstraint(
                sparse.csr_array(np.array(self._rows)), self._low, self._high
            ),
            options={"mip_rel_gap": 0.0},
        )
        if answer.status == 2:
            return None
        if answer.x is None:
            raise AssignError(f"the solver found no assignment: {answer.message}")
        return [
            int(answer.x[start : start + size].argmax())
            for start, size in zip(self._starts, self._sizes, strict=False)
        ]

    def forbid(self, options: Sequence[int]) -> None:
        """Never again exactly these."""
        row = np.zeros(self._count)
        row[self._starts[:-1] + np.asarray(options)] = 1.0
        self._add(row, -np.inf, len(self._sizes) - 1)

    def _add(self, row: NDArray[np.float64], low: float, high: float) -> None:
        self._rows.append(row)
        self._low.append(low)
        self._high.append(high)

    def _coefficients(self, table: Table) -> NDArray[np.float64]:
        parts = [np.asarray(row, float) for row in table.own]
        for i, k in self._edges:
            matrix = table.between.get((i, k), np.zeros((self._sizes[i], self._sizes[k])))
            parts.append(np.asarray(matrix, float).flatten())
        return np.concatenate(parts)

    def _scaled(self, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """From 0 for the least of each layer's allowed options, so that only differences count, to SCALE."""
        shifted = costs.copy()
        for start, size in zip(self._starts, self._sizes, strict=False):
            part = slice(start, start + size)
            if self._allowed[part].any():
                shifted[part] -= costs[part][self._allowed[part]].min()
        shifted[~self._allowed] = 0.0
        widest = np.abs(shifted).max()
        return shifted * (SCALE / widest) if widest else shifted

    def _one_each(self) -> None:
        """Each layer takes one option; a pair at an edge is taken when both of its options are."""
        for start, size in zip(self._starts, self._sizes, strict=False):
            row = np.zeros(self._count)
            row[start : start + size] = 1.0
            self._add(row, 1.0, 1.0)
        at = int(self._starts[-1])
        for i, k in self._edges:
            pairs = np.arange(at, at + self._sizes[i] * self._sizes[k]).reshape(self._sizes[i], -1)
            at += pairs.size
            for layer, lines in ((i, pairs), (k, pairs.T)):
                for option, line in enumerate(lines):
                    row = np.zeros(self._count)
                    row[line] = 1.0
                    row[self._starts[layer] + option] = -1.0
                    self._add(row, 0.0, 0.0)


def _why_nothing(budgets: Sequence[Budget], limits: Sequence[tuple[Table, float]]) -> str:
    """Which budgets cannot be kept, with the least that each can be: alone, or else beside the others."""

    def least(number: int, others: Iterable[int]) -> float:
        options = _solved(limits[number][0], [limits[other] for other in others])
        return math.inf if options is None else limits[number][0].total(options)

    alone = [least(number, ()) for number in range(len(limits))]
    broken = [
        f"{budget.name} of at most {budget.most:.6g}: the least possible is {value:.6g}"
        for budget, value in zip(budgets, alone, strict=True)
        if value > budget.most
    ]
    if not broken and len(budgets) > 1:
        beside = [least(n, (other for other in range(len(limits)) if other != n)) for n in range(len(limits))]
        broken = [
            f"{budget.name} of at most {budget.most:.6g}: beside the other budgets the least possible is {value:.6g}"
            for budget, value in zip(budgets, beside, strict=True)
        ]
    return "nothing keeps " + ("; ".join(broken) or "what is forbidden between the layers")
