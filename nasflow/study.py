"""What is wanted, what was tried and what came of it: objectives, trials and the study that holds them.

A study lives in memory; given a `Record` (nasflow/record.py) every change is on disk before it is acted on.
"""

from __future__ import annotations

import math
from bisect import bisect, insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from nasflow import pareto
from nasflow.errors import NasflowError
from nasflow.space import Point, Space

Metrics = Mapping[str, float]
Goal = Literal["min", "max"]
State = Literal["pending", "done", "failed", "refused", "duplicate"]

TRAINED: tuple[State, ...] = ("done", "failed")
SMALLEST_LIMIT = 1e-12


class StudyError(NasflowError):
    """A study used against its rules, or a record that belongs to another one."""


@dataclass(frozen=True)
class Objective:
    """A metric that should be small (or large), and the hard limit on it if there is one.

    With `optimise=False` the metric only has to keep its limit: an upper bound for goal "min", a lower one
    for "max". Signs and units stop here: losses are lower-is-better everywhere else.
    """

    metric: str
    goal: Goal = "min"
    limit: float | None = None
    optimise: bool = True

    def loss(self, metrics: Metrics) -> float:
        """The metric with its sign turned so that lower is better."""
        return self._signed(metrics[self.metric])

    def violation(self, metrics: Metrics) -> float:
        """By which share of the limit the metric is over it; 0 if it holds, is absent or has no limit."""
        if self.limit is None or self.metric not in metrics:
            return 0.0
        over = self._signed(metrics[self.metric]) - self._signed(self.limit)
        return max(0.0, over / max(abs(self.limit), SMALLEST_LIMIT))

    def _signed(self, value: float) -> float:
        return value if self.goal == "min" else -value


@dataclass(frozen=True)
class Proposal:
    """What a strategy asks for. `fidelity` is the share of a full training in (0, 1]; `parent` the number of
    the trial whose weights are inherited."""

    point: Point
    fidelity: float = 1.0
    parent: int | None = None


@dataclass(frozen=True)
class Trial:
    """One numbered proposal and what became of it. `error` is the reason of a trial that is not done."""

    number: int
    point: Point
    fidelity: float = 1.0
    parent: int | None = None
    state: State = "pending"
    metrics: Metrics = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Ask:
    """One call of a strategy's `ask`: how many were asked for, and the numbers of the trials that came."""

    count: int
    numbers: tuple[int, ...]


class Record(Protocol):
    """Where a study is kept. Every method returns only when a killed process would not lose what it wrote."""

    def load(self) -> tuple[list[Trial], list[Ask]]: ...
    def add(self, trials: Sequence[Trial], ask: int, count: int) -> None: ...
    def note(self, number: int, metrics: Metrics) -> None: ...
    def finish(self, trial: Trial) -> None: ...


class Study:
    """The trials of one search, in the order of their numbers, and the front among them."""

    def __init__(self, space: Space, objectives: Sequence[Objective], record: Record | None = None) -> None:
        if not any(objective.optimise for objective in objectives):
            raise StudyError("a study needs at least one objective to optimise, got none")
        metrics = [objective.metric for objective in objectives]
        if len(set(metrics)) < len(metrics):
            raise StudyError(f"each metric may be an objective once, got {metrics}")
        self.space = space
        self.objectives = tuple(objectives)
        self._record = record
        self._trials, self._asks = record.load() if record is not None else ([], [])
        self._states = Counter(trial.state for trial in self._trials)
        self._costs = [trial.fidelity for trial in self._trials if trial.state in TRAINED]
        self._firsts: list[int] = []  # of each trial: the number of the first with its meaning and fidelity
        self._seen: dict[str, int] = {}
        for trial in self._trials:
            self._remember(trial)
        # Kept up to date trial by trial, so that asking for them costs as much in the last trial as in the first.
        self._finalists = [trial for trial in self._trials if self._is_finalist(trial)]
        self._front = _Front(self._finalists, self.losses(self._finalists))

    @property
    def trials(self) -> Sequence[Trial]:
        return self._trials

    @property
    def asks(self) -> Sequence[Ask]:
        return self._asks

    @property
    def pending(self) -> list[Trial]:
        return [trial for trial in self._trials if trial.state == "pending"]

    @property
    def spent(self) -> float:
        """What counts against the budget, in full trainings: a trial that was trained, whether that worked or not,
        counts as its fidelity."""
        return math.fsum(self._costs)

    @property
    def counts(self) -> dict[str, int]:
        """How many trials are in each state."""
        return {state: self._states[state] for state in get_args(State)}

    @property
    def finalists(self) -> list[Trial]:
        """Done at full fidelity and inside every limit."""
        return list(self._finalists)

    @property
    def front(self) -> list[Trial]:
        """The finalists that no other finalist dominates."""
        return list(self._front.members)

    def losses(self, trials: Iterable[Trial]) -> NDArray[np.float64]:
        """Array (trials, optimised objectives), lower is better."""
        optimised = [objective for objective in self.objectives if objective.optimise]
        rows = [[objective.loss(trial.metrics) for objective in optimised] for trial in trials]
        return np.array(rows, dtype=float).reshape(len(rows), len(optimised))

    def violation(self, metrics: Metrics) -> float:
        """Sum over the limits of how far, as a share of it, each is overstepped by the metrics known so far."""
        return sum(objective.violation(metrics) for objective in self.objectives)

    def overstepped(self, metrics: Metrics) -> str:
        """In words, which limits `metrics` do not keep."""
        return "; ".join(
            f"{o.metric} {metrics[o.metric]:.6g} is {'over' if o.goal == 'min' else 'under'} its limit {o.limit:.6g}"
            for o in self.objectives
            if o.limit is not None and o.violation(metrics) > 0
        )

    def obstacles(self) -> str:
        """In words, every limit that some trial overstepped, with the best value seen of its metric."""
        said = []
        for o in self.objectives:
            values = [trial.metrics[o.metric] for trial in self._trials if o.metric in trial.metrics]
            if any(o.violation({o.metric: value}) > 0 for value in values):
                bound, best = ("at most", min(values)) if o.goal == "min" else ("at least", max(values))
                said.append(f"{o.metric} must be {bound} {o.limit:.6g}, best seen {best:.6g}")
        return "; ".join(said)

    def add(self, proposals: Sequence[Proposal], count: int) -> list[Trial]:
        """Number the answer to one ask of `count` proposals and record it."""
        ask, numbers = len(self._asks), range(len(self._trials), len(self._trials) + len(proposals))
        self._asks.append(Ask(count, ()))
        return self._extend(
            ask,
            [Trial(n, dict(p.point), p.fidelity, p.parent) for n, p in zip(numbers, proposals, strict=True)],
        )

    def complete(self, ask: int, proposals: Sequence[Proposal]) -> list[Trial]:
        """Add the proposals of an ask that a kill kept from being recorded; the last ask only."""
        if ask != len(self._asks) - 1:
            raise StudyError(f"only the last ask can be completed, {len(self._asks) - 1}; got {ask}")
        start = len(self._trials)
        return self._extend(
            ask, [Trial(start + i, dict(p.point), p.fidelity, p.parent) for i, p in enumerate(proposals)]
        )

    def _extend(self, ask: int, trials: list[Trial]) -> list[Trial]:
        for trial in trials:
            self.space.check(trial.point)
        count, numbers = self._asks[ask].count, self._asks[ask].numbers
        if self._record is not None:
            self._record.add(trials, ask, count)
        self._asks[ask] = Ask(count, numbers + tuple(trial.number for trial in trials))
        for trial in trials:
            self._trials.append(trial)
            self._states[trial.state] += 1
            self._remember(trial)
        return trials

    def note(self, number: int, metrics: Metrics) -> Trial:
        """Add to what is known of a pending trial, so that a killed search need not find it out again."""
        trial = self._pending(number)
        trial = replace(trial, metrics={**trial.metrics, **metrics})
        if self._record is not None:
            self._record.note(number, trial.metrics)
        self._trials[number] = trial
        return trial

    def finish(self, trial: Trial) -> Trial:
        """Record the end of a pending trial."""
        self._pending(trial.number)
        if trial.state == "pending":
            raise StudyError(f"trial {trial.number}: a finished trial has another state than pending")
        if trial.state == "done":
            self._check_metrics(trial)
        if self._record is not None:
            self._record.finish(trial)
        self._trials[trial.number] = trial
        self._states["pending"] -= 1
        self._states[trial.state] += 1
        if trial.state in TRAINED:
            self._costs.append(trial.fidelity)
        if self._is_finalist(trial):
            insort(self._finalists, trial, key=_number)
            self._front.add(trial, self.losses([trial])[0])
        return trial

    def original(self, trial: Trial) -> Trial | None:
        """The earlier trial with the same meaning and fidelity, if there is one."""
        first = self._firsts[trial.number]
        return self._trials[first] if first < trial.number else None

    def _is_finalist(self, trial: Trial) -> bool:
        return trial.state == "done" and trial.fidelity >= 1.0 and not self.violation(trial.metrics)

    def _remember(self, trial: Trial) -> None:
        key = f"{self.space.key(trial.point)}@{trial.fidelity:.6g}"
        self._firsts.append(self._seen.setdefault(key, trial.number))

    def _pending(self, number: int) -> Trial:
        if not 0 <= number < len(self._trials):
            raise StudyError(f"no trial {number}: the study has {len(self._trials)}")
        trial = self._trials[number]
        if trial.state != "pending":
            raise StudyError(f"trial {number} is {trial.state} already; a trial ends once")
        return trial

    def _check_metrics(self, trial: Trial) -> None:
        for objective in self.objectives:
            value = trial.metrics.get(objective.metric)
            if value is None or not math.isfinite(value):
                raise StudyError(
                    f"trial {trial.number} is done but {objective.metric} is {value}: expected a finite number"
                )


class _Front:
    """The trials that no other one beats, in the order of their numbers, as trials are added one by one."""

    def __init__(self, trials: Sequence[Trial], losses: NDArray[np.float64]) -> None:
        keep = pareto.non_dominated(losses)
        self.members = [trial for trial, kept in zip(trials, keep, strict=True) if kept]
        self._losses = losses[keep]

    def add(self, trial: Trial, loss: NDArray[np.float64]) -> None:
        beating = (self._losses <= loss).all(axis=1) & (self._losses < loss).any(axis=1)
        if beating.any():
            return
        beaten = (self._losses >= loss).all(axis=1) & (self._losses > loss).any(axis=1)
        kept = np.flatnonzero(~beaten)
        self.members = [self.members[place] for place in kept]
        self._losses = self._losses[kept]
        at = bisect(self.members, trial.number, key=_number)
        self.members.insert(at, trial)
        self._losses = np.insert(self._losses, at, loss, axis=0)


def _number(trial: Trial) -> int:
    return trial.number
