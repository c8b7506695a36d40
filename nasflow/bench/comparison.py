"""Strategies beside each other on one problem: the same budget, the same seeds, one judge."""

from __future__ import annotations

import contextlib
import os
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasflow.bench import indicators
from nasflow.bench.problem import BenchError, Judge, Problem
from nasflow.bench.runs import Run, contenders, searches
from nasflow.loop import WHOLE
from nasflow.pool import InProcess, Processes
from nasflow.study import Trial

TARGETS = (0.90, 0.95, 0.98, 0.99)  # shares of the true front's hypervolume
COUNTS = (50, 100, 200, 500)  # evaluations after which the hypervolume is told
CURVE = 120  # at most so many counts of evaluations in a curve

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """What all runs of one contender came to; every list has one value for each seed."""

    contender: str
    reached: Mapping[float, list[float | None]]  # target: evaluations until it, None if never
    shares: Mapping[int, list[float]]  # evaluations: share of the true front's hypervolume
    curve: Values  # array (seeds, counts): the same at the counts of the comparison's curve
    final: Mapping[str, list[float]]  # indicators of what was found in the end
    seconds: list[float]
    thinking: list[float]  # seconds per proposal

    def counted(self, target: float, evals: int) -> Values:
        """Evaluations to a target, a run that does not get there counting as its budget."""
        return np.array(
            [evals if reached is None else reached for reached in self.reached[target]], dtype=float
        )

    def median(self, target: float) -> float | None:
        """Median of the evaluations to a target, None if it is not half of the runs that get there."""
        got = sorted(reached for reached in self.reached[target] if reached is not None)
        missing = len(self.reached[target]) - len(got)
        if missing >= len(got):
            return None
        return float(np.median([*got, *[got[-1]] * missing]))

    def to_json(self, evals: int) -> dict[str, Any]:
        def said(values: Sequence[float]) -> dict[str, Any]:
            finite = [value if np.isfinite(value) else None for value in values]
            middle = float(np.median(values))
            return {"median": middle if np.isfinite(middle) else None, "each": finite}

        return {
            "evaluations_to": {
                f"{target:.0%}": {
                    "median": self.median(target),
                    "median_counted": float(np.median(self.counted(target, evals))),
                    "runs": sum(reached is not None for reached in each),
                    "each": each,
                }
                for target, each in self.reached.items()
            },
            "hypervolume_at": {str(count): said(shares) for count, shares in self.shares.items()},
            "final": {name: said(values) for name, values in self.final.items()},
            "seconds": said(self.seconds),
            "seconds_per_proposal": said(self.thinking),
            "curve": {
                name: [round(float(share), 6) for share in np.quantile(self.curve, q, axis=0)]
                for name, q in (("lower", 0.25), ("median", 0.5), ("upper", 0.75))
            },
        }


@dataclass(frozen=True)
class Paired:
    """Two contenders over the same seeds: how often each is better, and how likely so clear a difference is by chance
    (Wilcoxon's signed rank test, two-sided, ties left out; not corrected for the number of tests)."""

    measure: str
    a: str
    b: str
    wins: int  # of a
    losses: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """Everything a comparison found. Hypervolumes are shares of the true front's."""

    problem: Problem
    judge: Judge
    evals: int
    batch: int
    seeds: tuple[int, ...]
    counts: tuple[int, ...]  # of evaluations, at which the curves are told
    results: tuple[Result, ...]

    @cached_property
    def tests(self) -> list[Paired]:
        """Every pair in every measure; the smaller value is the better one in all."""
        measures: dict[str, Callable[[Result], Values]] = {
            "evaluations to 90 %": lambda result: result.counted(0.90, self.evals),
            "evaluations to 95 %": lambda result: result.counted(0.95, self.evals),
            "hypervolume at the end": lambda result: -np.array(result.final["hypervolume"]),
        }
        return [
            paired(name, (a.contender, b.contender), measure(a), measure(b))
            for name, measure in measures.items()
            for a, b in combinations(self.results, 2)
        ]

    def to_json(self) -> dict[str, Any]:
        problem, judge = self.problem, self.judge
        return {
            "table": problem.table.name,
            "rows": len(problem.table),
            "objectives": [
                {"column": o.metric, "goal": o.goal, "limit": o.limit} for o in problem.objectives
            ],
            "seen": problem.seen,
            "cheap": list(problem.cheap),
            "low_fidelities": dict(problem.low_fidelities),
            "useful_error": problem.useful_error,
            "true_front": {
                "points": len(judge.front),
                "ideal": judge.ideal.tolist(),
                "nadir": judge.nadir.tolist(),
                "reference": judge.reference,
                "hypervolume": judge.hypervolume,
            },
            "evals": self.evals,
            "batch": self.batch,
            "seeds": list(self.seeds),
            "curve_evaluations": list(self.counts),
            "strategies": {result.contender: result.to_json(self.evals) for result in self.results},
            "tests": [vars(test) for test in self.tests],
        }


def compare(
    problem: Problem,
    strategies: Sequence[str],
    *,
    evals: int = 500,
    seeds: int = 20,
    batch: int = 1,
    workers: int | None = None,
    folder: Path | None = None,
    fresh: bool = False,
    observer: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Let every strategy search once for each seed, 0 to `seeds` - 1, and judge what it found.

    `strategies` are written as in the command line; one that can use cheap objectives or low fidelities comes with
    and without those of the problem. Finished runs are kept in `folder` and not made again, unless `fresh` or what
    they depend on has changed. `observer` is told how many runs of how many are finished. `workers` processes
    (default: one for each core) search at a time; with 1, this one does.

    Raises BenchError when a strategy fails; the runs that are finished are kept.
    """
    judge = problem.judge()  # says first if there is nothing to find
    runs = searched(
        problem,
        strategies,
        evals=evals,
        seeds=seeds,
        batch=batch,
        workers=workers,
        folder=folder,
        fresh=fresh,
        observer=observer,
    )
    counts = tuple(int(c) for c in np.unique(np.geomspace(1, evals, min(CURVE, evals)).round()))
    results = tuple(judged(judge, of_one, evals, counts) for of_one in runs.values())
    return Comparison(problem, judge, evals, batch, tuple(range(seeds)), counts, results)


def searched(
    problem: Problem,
    strategies: Sequence[str],
    *,
    evals: int,
    seeds: int,
    batch: int = 1,
    workers: int | None = None,
    folder: Path | None = None,
    fresh: bool = False,
    observer: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[Run]]:
    """The runs of each contender, by its label, that `compare` judges; arguments as there."""
    if evals < 1 or seeds < 1 or batch < 1 or (workers is not None and workers < 1):
        raise BenchError("expected at least one evaluation, seed, proposal in a batch, and worker")
    made = contenders(strategies, problem)
    with _folder(folder) as kept:
        todo = searches(problem, made, range(seeds), evals, batch, kept)
        numbers = range(len(todo.order))
        if fresh:
            todo.forget()
        missing = [number for number in numbers if todo.kept(number) is None]
        done = len(numbers) - len(missing)
        observer(done, len(numbers))
        workers = min(workers or len(os.sched_getaffinity(0)), len(missing))
        pool = InProcess() if workers <= 1 else Processes(workers)
        try:
            for result in pool.results(todo, [Trial(number, {}) for number in missing]):
                if result.error is not None:
                    contender, seed = todo.order[result.number]
                    raise BenchError(f"{contender.label}, seed {seed}: {result.error}")
                done += 1
                observer(done, len(numbers))
        finally:
            pool.close()
        runs = [run for run in map(todo.kept, numbers) if run is not None]
    return {contender.label: [run for run in runs if run.contender == contender.label] for contender in made}


def judged(judge: Judge, runs: Sequence[Run], evals: int, counts: Sequence[int]) -> Result:
    """What the runs of one contender came to."""
    trails = [Trail(judge, run, evals) for run in runs]
    fronts = [judge.found(run.rows[: trail.trials(evals)]) for run, trail in zip(runs, trails, strict=True)]
    return Result(
        contender=runs[0].contender,
        reached={target: [trail.reaching(target) for trail in trails] for target in TARGETS},
        shares={count: [trail.at(count) for trail in trails] for count in COUNTS if count <= evals},
        curve=np.array([[trail.at(count) for count in counts] for trail in trails]),
        final={
            "hypervolume": [trail.at(evals) for trail in trails],
            "igd": [indicators.igd(front, judge.front) for front in fronts],
            "igd_plus": [indicators.igd_plus(front, judge.front) for front in fronts],
            "epsilon": [indicators.epsilon(front, judge.front) for front in fronts],
            "coverage": [indicators.coverage(front, judge.front) for front in fronts],
            "r2": [indicators.r2(front, np.zeros_like(judge.ideal)) for front in fronts],
            "spread": [indicators.spread(front, judge.front) for front in fronts],
        },
        seconds=[run.seconds for run in runs],
        thinking=[run.thinking / max(1, run.proposals) for run in runs],
    )


class Trail:
    """The hypervolume of a run along its evaluations, worked out where it is asked for: it never falls, so that
    halving finds where a share was reached."""

    def __init__(self, judge: Judge, run: Run, evals: int) -> None:
        self._run, self._evals = run, evals
        self._after = cache(lambda trials: judge.share(run.rows[:trials]))

    def trials(self, evaluations: float) -> int:
        """How many trials at full fidelity were done when so many evaluations were spent."""
        return bisect_right(self._run.spent, evaluations + WHOLE)

    def at(self, evaluations: float) -> float:
        """Share of the true front's hypervolume after so many evaluations."""
        return self._after(self.trials(evaluations))

    def reaching(self, share: float) -> float | None:
        """Evaluations spent when a share was reached, None if that was not within the budget."""
        enough = range(1, self.trials(self._evals) + 1)
        first = bisect_right(enough, False, key=lambda trials: self._after(trials) >= share - WHOLE)
        return self._run.spent[first] if first < len(enough) else None


def paired(measure: str, names: tuple[str, str], a: Values, b: Values) -> Paired:
    """Two contenders' values over the same seeds, lower being better."""
    from scipy.stats import wilcoxon  # slow to import, and no worker needs it

    gaps = a - b
    gaps = gaps[gaps != 0]
    p = float(wilcoxon(gaps).pvalue) if len(gaps) else 1.0
    return Paired(measure, *names, wins=int((gaps < 0).sum()), losses=int((gaps > 0).sum()), p=p)


@contextlib.contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    """Where runs are kept; if nowhere, until the comparison is made."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    yield folder
