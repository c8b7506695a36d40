"""A table as a search problem: what a search sees of it, and how what it found is judged.

The two sides are apart. A search gets the space, the objectives and an `Evaluate` that looks up rows; the true
front, the scale of the objectives and the window of useful errors belong to the `Judge` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from nasflow import names, pareto
from nasflow.errors import NasflowError
from nasflow.evaluators.tabular import Table
from nasflow.loop import Evaluate
from nasflow.space import Point
from nasflow.study import Metrics, Objective, Trial

REFERENCE = 1.1

Losses = NDArray[np.float64]


class BenchError(NasflowError):
    """A comparison that cannot be made as it was asked for."""


@dataclass(frozen=True)
class Problem:
    """Columns of a table that should be small (or large), the first of `objectives` being the error.

    `seen` is the column that the search gets as its error instead, for example validation where the judged error is
    test. `cheap` names objectives that cost nothing to know, `low_fidelities` columns that stand for the error at a
    share of the cost, as {column: cost}; strategies that can use them are told so when asked to.
    `useful_error` ends the front that counts, so many points (in the column's unit) from the best error; `reference`
    is that of the hypervolume in each scaled objective, 1 being the nadir point.
    """

    table: Table
    objectives: tuple[Objective, ...]
    seen: str | None = None
    cheap: tuple[str, ...] = ()
    low_fidelities: Mapping[str, float] = field(default_factory=dict)
    useful_error: float | None = None
    reference: float = REFERENCE

    def __post_init__(self) -> None:
        metrics = [objective.metric for objective in self.objectives]
        if sum(objective.optimise for objective in self.objectives) < 2:
            raise BenchError(f"a front needs at least two objectives, the error and a cost; got {metrics}")
        if not self.objectives[0].optimise or len(set(metrics)) < len(metrics):
            raise BenchError(f"the error comes first and each column is an objective once; got {metrics}")
        for column in (*metrics, *self.low_fidelities, *([self.seen] if self.seen else [])):
            self.table.values(column)  # says which columns there are
        for column in self.cheap:
            if column not in metrics[1:]:
                raise BenchError(f"{column!r} cannot be cheap: {names.nearest(column, metrics[1:])}")
        if self.cheap and len(self.table) < self.table.space.size:
            raise BenchError(
                f"{', '.join(self.cheap)} cannot be cheap: that is asked of any point, and {self.table.name} has only "
                f"{len(self.table):,} of {self.table.space.size:,.0f}"
            )
        for column, cost in self.low_fidelities.items():
            if not 0 < cost < 1:
                raise BenchError(
                    f"{column}: a low fidelity costs more than 0 and less than 1 evaluation, got {cost}"
                )
        if len(set(map(_key, self.low_fidelities.values()))) < len(self.low_fidelities):
            raise BenchError(f"low fidelities are told apart by their costs; got {dict(self.low_fidelities)}")
        if self.useful_error is not None and self.useful_error <= 0:
            raise BenchError(
                f"the useful errors lie within more than 0 points of the best, got {self.useful_error}"
            )

    @property
    def searched(self) -> tuple[Objective, ...]:
        """The objectives as the search sees them."""
        if self.seen is None:
            return self.objectives
        return (replace(self.objectives[0], metric=self.seen), *self.objectives[1:])

    @property
    def fidelities(self) -> tuple[float, ...]:
        """The shares of a full training that can be asked for, ascending, ending with 1."""
        return (*sorted(self.low_fidelities.values()), 1.0)

    def evaluate(self, *, cheap: bool = False) -> Evaluate:
        """How the search gets metrics; with `cheap`, the cheap ones before the others."""
        return Evaluate(self.look_up, self.look_up_cheap) if cheap else Evaluate(self.look_up)

    def look_up(self, trial: Trial) -> Metrics:
        """The metrics of a trial; at a low fidelity the error is what that column says."""
        error, *others = self.searched
        column = self._columns.get(_key(trial.fidelity))
        if column is None:
            raise BenchError(
                f"there is no fidelity {trial.fidelity:g}; expected one of {list(self.fidelities)}"
            )
        row = self.table.row(trial.point)
        found = {objective.metric: float(self.table.values(objective.metric)[row]) for objective in others}
        return {error.metric: float(self.table.values(column)[row]), **found}

    def look_up_cheap(self, point: Point) -> Metrics:
        """The metrics of any point that cost nothing to know."""
        row = self.table.row(point)
        return {column: float(self.table.values(column)[row]) for column in self.cheap}

    def judge(self) -> Judge:
        """Who knows the true front."""
        optimised = [objective for objective in self.objectives if objective.optimise]
        losses = np.column_stack(
            [(1 if o.goal == "min" else -1) * self.table.values(o.metric) for o in optimised]
        )
        counts = np.asarray(np.isfinite(losses).all(axis=1))
        for o in self.objectives:
            if o.limit is not None:
                values = self.table.values(o.metric)
                counts &= values <= o.limit if o.goal == "min" else values >= o.limit
        if not counts.any():
            raise BenchError(f"{self.table.name}: no architecture has all objectives and keeps every limit")
        if self.useful_error is not None:
            counts &= losses[:, 0] <= losses[counts, 0].min() + self.useful_error
        return Judge(np.where(counts[:, None], losses, np.inf), self.reference)

    @property
    def _columns(self) -> dict[str, str]:
        """The column that a search sees as the error, by fidelity."""
        columns = {_key(cost): column for column, cost in self.low_fidelities.items()}
        return {**columns, _key(1.0): self.searched[0].metric}


class Judge:
    """Says how much of the true front's hypervolume some rows have.

    Objectives are scaled by the ideal and the nadir point of the true front, `reference` is then that of the
    hypervolume in each. Rows of `losses` that count nothing, being no use, are infinite.
    """

    def __init__(self, losses: Losses, reference: float = REFERENCE) -> None:
        self.reference = reference
        useful = losses[np.isfinite(losses).all(axis=1)]
        front = np.unique(useful[pareto.non_dominated(useful)], axis=0)
        self.ideal, self.nadir = front.min(axis=0), front.max(axis=0)
        if len(front) < 2:
            raise BenchError(
                f"the true front is the single architecture with losses {front[0].tolist()}: there is nothing to "
                "trade off; choose other objectives or a larger --useful-error"
            )
        span = np.where(self.nadir > self.ideal, self.nadir - self.ideal, 1.0)
        self.losses: Losses = (losses - self.ideal) / span
        self.front: Losses = (front - self.ideal) / span
        self.hypervolume = self._hypervolume(self.front)

    def share(self, rows: Sequence[int]) -> float:
        """Hypervolume of these rows, as a share of the true front's."""
        return self._hypervolume(self.losses[list(rows)]) / self.hypervolume

    def found(self, rows: Sequence[int]) -> Losses:
        """The front of these rows in scaled objectives, what is no use left out: array (points, objectives)."""
        losses = self.losses[list(rows)]
        useful = losses[np.isfinite(losses).all(axis=1)]
        return useful[pareto.non_dominated(useful)]

    def _hypervolume(self, losses: Losses) -> float:
        inside = losses[(losses < self.reference).all(axis=1)]
        front = inside[pareto.non_dominated(inside)]  # many dominated points slow down many objectives
        return pareto.hypervolume(front, np.full(losses.shape[1], self.reference))


def _key(fidelity: float) -> str:
    return f"{fidelity:.6g}"
