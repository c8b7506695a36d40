"""Which rows of a table are one edit apart: that is what makes a landscape of it.

Two rows are neighbours if they differ in one parameter, and there by one step if it is ordered. Rows in between that
the table lacks are stepped over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasflow.evaluators.tabular import Table
from nasflow.space import Choice

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """Neighbours as a graph: those of row `i` are `ends[first[i] : first[i + 1]]`, and `starts` says whose each is."""

    starts: Ints
    ends: Ints
    first: Ints

    def walk(self, steps: int, walkers: int, rng: np.random.Generator) -> Ints:
        """Rows that random walks come through: array (steps + 1, walkers). A row without neighbours is not left."""
        at = rng.integers(len(self.first) - 1, size=walkers)
        path = [at]
        counts = np.diff(self.first)
        for _ in range(steps):
            lonely = counts[at] == 0
            pick = self.first[at] + (rng.random(walkers) * counts[at]).astype(np.int64)
            at = np.where(lonely, at, self.ends[np.where(lonely, 0, pick)]) if len(self.ends) else at
            path.append(at)
        return np.array(path)


def codes(table: Table) -> Ints:
    """Every row's options by their number: array (rows, parameters)."""
    points = [table.at(row) for row in range(len(table))]
    columns = []
    for choice in choices(table):
        place = {option: number for number, option in enumerate(choice.options)}
        columns.append([place[point[choice.name]] for point in points])
    return np.array(columns, dtype=np.int64).T


def choices(table: Table) -> Sequence[Choice]:
    return [parameter for parameter in table.space.parameters if isinstance(parameter, Choice)]


def neighbours(table: Table, coded: Ints) -> Neighbours:
    """The graph of a table whose rows are `coded` (see `codes`)."""
    pairs: list[Ints] = []
    for number, choice in enumerate(choices(table)):
        group = np.unique(np.delete(coded, number, axis=1), axis=0, return_inverse=True)[1].ravel()
        order = np.lexsort((coded[:, number], group))
        for apart in range(1, 2 if choice.ordered else len(choice.options)):
            one, other = order[:-apart], order[apart:]
            alike = group[one] == group[other]
            pairs.append(np.column_stack([one[alike], other[alike]]))
    found = np.concatenate([*pairs, np.zeros((0, 2), dtype=np.int64)])
    both = np.concatenate([found, found[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    first = np.searchsorted(both[:, 0], np.arange(len(coded) + 1))
    return Neighbours(both[:, 0], both[:, 1], first)
