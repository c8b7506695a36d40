"""What the landscape of a table looks like, before anything is searched: how hard a front is to find, and why.

All statements about a column use its ranks, so that they stay what they are if the column is rescaled. Rows without a
number in a column are left out where it is spoken of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from nasflow.bench.neighbours import Ints, Neighbours, choices, codes, neighbours
from nasflow.bench.problem import BenchError, Judge, Problem
from nasflow.evaluators.tabular import Table, cell_operations
from nasflow.spaces import nasbench201
from nasflow.study import Objective

MOST = 12  # columns that are described if none is named
WALKERS, STEPS = 512, 32  # of random walks
PAIRS = 100_000  # random pairs of rows
FEW = 30  # pairs that are too few to speak of
CONTRIBUTIONS = 6  # objectives up to which each point's share of the hypervolume is worked out
SEED = re.compile(r"(?P<of>.+)_seed\d+")

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Front:
    """The true front of the named objectives, error first."""

    objectives: tuple[Objective, ...]
    rows: tuple[int, ...]  # one for each point of it, by the error
    ends: Mapping[str, str]  # objective: the architecture on the front that is best in it
    alone: (
        tuple[float, ...] | None
    )  # hypervolume that each point alone has, as a share of all; None: too many objectives
    local: float  # share of all (useful) rows that no neighbour dominates

    def to_json(self, table: Table) -> dict[str, Any]:
        return {
            "objectives": [{"column": o.metric, "goal": o.goal} for o in self.objectives],
            "points": [
                {
                    "architecture": table.architectures[row],
                    **{o.metric: float(table.values(o.metric)[row]) for o in self.objectives},
                    **({"hypervolume_alone": self.alone[place]} if self.alone else {}),
                }
                for place, row in enumerate(self.rows)
            ],
            "ends": dict(self.ends),
            "locally_non_dominated": self.local,
        }


@dataclass(frozen=True)
class Locality:
    """How far one look at a column foretells its surroundings. Correlations are of ranks, 0 being those of random rows.

    `by_edits` has the correlation of rows that differ in 1, 2, ... parameters, None where there are few; `walk` is a
    random walk's autocorrelation after 1, 2, ... steps and `length` the steps after which it is below 1/e, None if that
    takes longer than the walk. `optima` is the share of rows with no better neighbour, None if the goal is not known.
    """

    neighbours: float | None
    by_edits: tuple[float | None, ...]
    walk: tuple[float, ...]
    length: int | None
    optima: float | None


@dataclass(frozen=True)
class Noise:
    """What the same thing is twice: columns of several seeds, validation beside test, or rows of equal meaning.

    `spread` is the standard deviation around the mean of the same thing, in units of the column; `share` its variance
    as a share of all. `correlation` is that of the ranks of two columns (the mean over all pairs), None for rows.
    """

    what: str
    spread: float
    share: float
    correlation: float | None


@dataclass(frozen=True)
class Redundancy:
    """Rows that mean the same. `meanings` is None where the space cannot tell."""

    numbers: int  # rows with different numbers in the described columns
    meanings: int | None
    largest: int | None  # rows of the meaning that has most


@dataclass(frozen=True)
class Importance:
    """What decides a column: the share of the variance of its ranks that each parameter explains alone, and all of them
    by a sum of one term each. What is missing there to 1 is in how they act together, and noise."""

    alone: Mapping[str, float]
    together: float


@dataclass(frozen=True)
class Description:
    """All of it. `correlations` are (column, column, Spearman's, Kendall's)."""

    table: Table
    columns: tuple[str, ...]
    left_out: int  # columns that were not described, being too many
    options: int  # of all parameters
    mean_neighbours: float
    front: Front | None
    correlations: tuple[tuple[str, str, float, float], ...]
    locality: Mapping[str, Locality]
    noise: tuple[Noise, ...]
    redundancy: Redundancy
    importance: Mapping[str, Importance]

    def to_json(self) -> dict[str, Any]:
        table = self.table
        return {
            "table": table.name,
            "rows": len(table),
            "space": {
                "parameters": {choice.name: list(choice.options) for choice in choices(table)},
                "points": table.space.size,
                "mean_neighbours": self.mean_neighbours,
            },
            "columns": list(self.columns),
            "columns_left_out": self.left_out,
            "missing": {name: int(np.isnan(table.values(name)).sum()) for name in self.columns},
            "front": self.front and self.front.to_json(table),
            "correlations": [
                {"columns": [a, b], "spearman": rho, "kendall": tau} for a, b, rho, tau in self.correlations
            ],
            "locality": {name: asdict(locality) for name, locality in self.locality.items()},
            "noise": [asdict(noise) for noise in self.noise],
            "redundancy": asdict(self.redundancy),
            "importance": {name: asdict(importance) for name, importance in self.importance.items()},
        }


def describe(
    table: Table, objectives: Sequence[Objective] = (), *, useful_error: float | None = None
) -> Description:
    """What can be said of a table. `objectives` are columns, the error first; with two or more, their front too,
    which ends `useful_error` points from the best error.

    Without any, the first 12 columns that are not the same in all rows are described. Raises BenchError if there
    are none, TableError for a column that is not there.
    """
    named = {o.metric: o for o in objectives}
    varying = [name for name in table.columns if len(np.unique(_known(table.values(name)))) > 1]
    constant = [name for name in named if table.values(name) is not None and name not in varying]
    if constant or not varying:
        raise BenchError(f"{table.name}: {', '.join(constant) or 'every column'} is the same in all rows")
    columns = tuple(named or varying[:MOST])
    coded = codes(table)
    land = Landscape(table, coded, neighbours(table, coded))
    return Description(
        table=table,
        columns=columns,
        left_out=0 if named else len(varying) - len(columns),
        options=sum(len(choice.options) for choice in choices(table)),
        mean_neighbours=len(land.graph.ends) / len(table),
        front=land.front(tuple(objectives), useful_error) if len(objectives) > 1 else None,
        correlations=tuple(
            (a, b, *correlated(table.values(a), table.values(b))) for a, b in combinations(columns, 2)
        ),
        locality={name: land.locality(table.values(name), named.get(name)) for name in columns},
        noise=tuple(land.noise(columns)),
        redundancy=land.redundancy(columns),
        importance={name: land.importance(table.values(name)) for name in columns},
    )


def correlated(a: Values, b: Values) -> tuple[float, float]:
    """Rank correlations of two columns, Spearman's and Kendall's (tau b)."""
    known = np.isfinite(a) & np.isfinite(b)
    return _pearson(rankdata(a[known]), rankdata(b[known])), float(kendalltau(a[known], b[known]).statistic)


@dataclass(frozen=True)
class Landscape:
    """A table with its rows as points of a graph of edits."""

    table: Table
    coded: Ints
    graph: Neighbours

    def front(self, objectives: tuple[Objective, ...], useful_error: float | None) -> Front:
        judge = Problem(self.table, objectives, useful_error=useful_error).judge()
        place = {
            tuple(loss): row for row, loss in reversed(list(enumerate(judge.losses)))
        }  # the first of equal rows
        rows = [place[tuple(loss)] for loss in judge.front]
        losses = judge.losses[rows]
        return Front(
            objectives,
            tuple(rows),
            {
                o.metric: self.table.architectures[rows[int(losses[:, number].argmin())]]
                for number, o in enumerate(objectives)
            },
            _alone(judge) if len(objectives) <= CONTRIBUTIONS else None,
            self._unbeaten(judge.losses),
        )

    def locality(self, values: Values, objective: Objective | None) -> Locality:
        """Locality of a column; local optima if it is an objective."""
        ranks = _ranks(values)
        mean, variance = np.nanmean(ranks), np.nanvar(ranks)

        def correlation(a: Ints, b: Ints) -> float | None:
            products = (ranks[a] - mean) * (ranks[b] - mean)
            known = np.isfinite(products)
            return float(products[known].mean() / variance) if known.sum() >= FEW else None

        rng = np.random.default_rng(0)
        one, other = rng.integers(len(self.table), size=(2, PAIRS))
        edits = (self.coded[one] != self.coded[other]).sum(axis=1)
        path = self.graph.walk(STEPS, WALKERS, rng)
        walk = [
            correlation(path[:-lag].ravel(), path[lag:].ravel()) or 0.0 for lag in range(1, STEPS // 2 + 1)
        ]
        sign = 1 if objective is None or objective.goal == "min" else -1
        return Locality(
            correlation(self.graph.starts, self.graph.ends),
            tuple(
                correlation(one[edits == distance], other[edits == distance])
                for distance in range(1, self.coded.shape[1] + 1)
            ),
            tuple(walk),
            next((lag for lag, value in enumerate(walk, start=1) if value < 1 / np.e), None),
            self._unbeaten(sign * values[:, None]) if objective else None,
        )

    def noise(self, columns: Sequence[str]) -> list[Noise]:
        """Every way in which the table has the same thing twice."""
        found, seeds = [], dict[str, list[str]]()
        for name in self.table.columns:
            if match := SEED.fullmatch(name):
                seeds.setdefault(match["of"], []).append(name)
        for of, names in seeds.items():
            if len(names) > 1:
                found.append(self._between(f"{of}: {len(names)} seeds", names, centred=False))
        for name in self.table.columns:
            other = re.sub(r"(?<![A-Za-z])val(id|idation)?(?![A-Za-z])", "test", name)
            if other != name and other in self.table.columns:
                found.append(self._between(f"{name} and {other}", [name, other], centred=True))
        if self._meanings is not None:
            for name in columns:
                spread, share = _within(self.table.values(name), self._meanings)
                found.append(Noise(f"{name}: rows of equal meaning", spread, share, None))
        return found

    def redundancy(self, columns: Sequence[str]) -> Redundancy:
        numbers = np.column_stack([self.table.values(name) for name in columns])
        different = len(np.unique(numbers, axis=0))
        if self._meanings is None:
            return Redundancy(different, None, None)
        counts = np.bincount(self._meanings)
        return Redundancy(different, len(counts), int(counts.max()))

    def importance(self, values: Values) -> Importance:
        ranks = _ranks(values)
        known = np.isfinite(ranks)
        ranks, coded = ranks[known], self.coded[known]
        centred = ranks - ranks.mean()
        whole = float((centred**2).sum())
        alone, columns = {}, []
        for number, choice in enumerate(choices(self.table)):
            of = coded[:, number]
            counts = np.bincount(of, minlength=len(choice.options))
            sums = np.bincount(of, centred, minlength=len(choice.options))
            alone[choice.name] = float((sums**2 / np.maximum(counts, 1)).sum() / whole)
            columns += [of == option for option in range(1, len(choice.options))]
        design = np.column_stack([np.ones(len(ranks)), *columns]).astype(float)
        missed = centred - design @ np.linalg.lstsq(design, centred)[0]
        return Importance(alone, 1 - float((missed**2).sum()) / whole)

    @cached_property
    def _meanings(self) -> Ints | None:
        """A number for what each row means, None where nobody knows: of NAS-Bench-201 cells it is known."""
        cells = [tuple(cell_operations(architecture)) for architecture in self.table.architectures]
        if not all(
            len(cell) == len(nasbench201.EDGES) and set(cell) <= set(nasbench201.OPERATIONS) for cell in cells
        ):
            return None
        numbers: dict[tuple[str, ...], int] = {}
        return np.array(
            [numbers.setdefault(nasbench201.representative(cell), len(numbers)) for cell in cells]
        )

    def _unbeaten(self, losses: Values) -> float:
        """The share of rows that have numbers of which no neighbour is at least as good everywhere and better once."""
        known = np.isfinite(losses).all(axis=1)
        mine, theirs = losses[self.graph.starts], losses[self.graph.ends]
        beaten = (theirs <= mine).all(axis=1) & (theirs < mine).any(axis=1)
        beaten_rows = np.bincount(self.graph.starts, beaten, minlength=len(losses)) > 0
        return float(np.mean(~beaten_rows[known]))

    def _between(self, what: str, names: Sequence[str], *, centred: bool) -> Noise:
        """How columns that mean the same differ; `centred`, if they may by a constant."""
        values = np.column_stack([self.table.values(name) for name in names])
        values = values[np.isfinite(values).all(axis=1)]
        if centred:
            values = values - values.mean(axis=0)
        within = float(values.var(axis=1, ddof=1).mean())
        whole = float(values.var())
        pairs = [correlated(a, b)[0] for a, b in combinations(values.T, 2)]
        return Noise(what, within**0.5, within / whole if whole else 0.0, float(np.mean(pairs)))


def _alone(judge: Judge) -> tuple[float, ...]:
    contributions = moocore.hv_contributions(judge.front, ref=np.full(judge.front.shape[1], judge.reference))
    return tuple(float(share) for share in contributions / judge.hypervolume)


def _within(values: Values, groups: Ints) -> tuple[float, float]:
    """Pooled standard deviation within groups, and its variance as a share of the whole."""
    known = np.isfinite(values)
    values, groups = values[known], groups[known]
    counts = np.bincount(groups)
    means = np.bincount(groups, values) / np.maximum(counts, 1)
    freedom = int((counts[counts > 0] - 1).sum())
    variance = float(((values - means[groups]) ** 2).sum() / freedom) if freedom else 0.0
    return variance**0.5, variance / float(values.var())


def _known(values: Values) -> Values:
    return values[np.isfinite(values)]


def _ranks(values: Values) -> Values:
    ranks: Values = np.where(np.isfinite(values), rankdata(values, nan_policy="omit"), np.nan)
    return ranks


def _pearson(a: Values, b: Values) -> float:
    return float(np.corrcoef(a, b)[0, 1])
