"""The one search loop: ask, refuse what arithmetic can tell, measure, train, record, tell.

Flows, tests and benchmarks all search through `run`. It can be killed at any moment: run again with the same
arguments, it replays the recorded history into a fresh strategy, finishes what was pending and goes on.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from nasflow.errors import NasflowError, Passing, Unavailable
from nasflow.pool import InProcess, Pool, Result, Train, attempt
from nasflow.space import Point, point_key
from nasflow.study import Metrics, Proposal, Study, Trial

PROPOSALS_PER_TRIAL = 20
WHOLE = 1e-9  # what is left of a budget by the rounding of fidelities is nothing
HOPELESS = 5

log = logging.getLogger(__name__)


class SearchError(NasflowError):
    """A search that cannot go on, for a reason that its user can mend."""


class Strategy(Protocol):
    """The only thing that chooses. A deterministic function of its arguments, its seed and what it was told.

    `ask(count)` gives up to `count` proposals; none, with nothing pending, ends the search. `tell` gets every
    trial that was asked for, finished: done, failed, refused, or duplicate (with the metrics of the original).
    """

    def ask(self, count: int) -> Sequence[Proposal]: ...
    def tell(self, trials: Sequence[Trial]) -> None: ...


def no_metrics(_: object) -> Metrics:
    """For an evaluation that has nothing cheap, or nothing to measure."""
    return {}


@dataclass(frozen=True)
class Evaluate:
    """How a trial gets its metrics, cheapest first; a limit broken by one step saves the next.

    `cheap(point)` is arithmetic; `measure(trials)` asks devices, called in this process for a whole batch while
    nothing trains, and gives metrics or the exception of each trial; `train(trial)` runs in the pool.
    """

    train: Train
    cheap: Callable[[Point], Metrics] = no_metrics
    measure: Callable[[Sequence[Trial]], Sequence[Metrics | Exception]] | None = None


@dataclass(frozen=True)
class Outcome:
    """Why a search ended, in words; `complete` if its budget was spent or the strategy had nothing more to ask."""

    complete: bool
    message: str


Observer = Callable[[Trial], None]


def run(
    study: Study,
    strategy: Strategy,
    evaluate: Evaluate,
    pool: Pool | None = None,
    *,
    trials: int,
    batch: int = 1,
    observers: Sequence[Observer] = (),
) -> Outcome:
    """Search until the budget of `trials` full trainings is spent; one at a lower fidelity counts as that share of
    one, and the last may overstep. Proposals are bounded at 20 for each trial of the budget.

    `batch` trials are asked for, measured and trained together. Every finished trial is recorded, then given
    to the observers. Raises SearchError when the first trials fail one and all, Unavailable when a device does
    not answer; both leave the study ready to go on.
    """
    pool = pool or InProcess()
    if batch < 1 or trials < 1:
        raise ValueError(f"expected at least one trial and a batch of at least one, got {trials} and {batch}")
    batch_numbers = _replay(study, strategy)
    failed_before = study.counts["failed"]
    while True:
        failed_before += _finish(study, batch_numbers, evaluate, pool, observers)
        if batch_numbers:
            strategy.tell([study.trials[number] for number in batch_numbers])
        _give_up_if_hopeless(study, failed_before, trials)
        left = trials - study.spent
        if left < WHOLE:
            return Outcome(True, f"{study.spent:.6g} trials trained")
        room = PROPOSALS_PER_TRIAL * trials - len(study.trials)
        if room <= 0:
            return Outcome(False, _standing_in_the_way(study, trials))
        count = min(batch, math.ceil(left - WHOLE), room)
        proposals = strategy.ask(count)
        if len(proposals) > count:
            raise SearchError(f"the strategy gave {len(proposals)} proposals when asked for {count}")
        if not proposals:
            return Outcome(True, f"the strategy has nothing more to ask after {study.spent:.6g} trials")
        batch_numbers = tuple(trial.number for trial in study.add(proposals, count))


def _replay(study: Study, strategy: Strategy) -> tuple[int, ...]:
    """Bring a fresh strategy to where the record ends; returns the numbers of the last, perhaps unfinished, ask.

    Asking again is part of the replay: strategies that draw from a generator, as Optuna's and pymoo's do, are
    then in the state they were in.
    """
    drifted = False
    for index, ask in enumerate(study.asks):
        proposals = strategy.ask(ask.count)
        recorded = [study.trials[number] for number in ask.numbers]
        same = [point_key(a.point) == point_key(b.point) for a, b in zip(proposals, recorded, strict=False)]
        drifted = drifted or not all(same) or len(proposals) < len(recorded)
        last, surplus = index == len(study.asks) - 1, proposals[len(recorded) :]
        if surplus and last and all(same):  # a kill came between two of its records
            study.complete(index, surplus)
        elif surplus:  # all that is asked must be told; what the record lacks, as failed
            strategy.tell([Trial(-1, proposal.point, state="failed") for proposal in surplus])
        if not last:
            strategy.tell(recorded)
    if drifted:
        log.warning(
            "the strategy asked otherwise when the record was replayed (another version or machine?); "
            "everything recorded is kept and the search goes on from it"
        )
    return study.asks[-1].numbers if study.asks else ()


def _finish(
    study: Study,
    numbers: Sequence[int],
    evaluate: Evaluate,
    pool: Pool,
    observers: Sequence[Observer],
) -> int:
    """Bring every pending trial of a batch to its end; returns how many failed of what may pass."""

    def end(trial: Trial) -> None:
        study.finish(trial)
        for observer in observers:
            observer(trial)

    known: dict[int, Trial] = {}  # trials still to be trained, with the metrics known so far
    copies: list[tuple[Trial, int]] = []  # duplicates, and the number of their original in this same batch

    def learn(trial: Trial, result: Result) -> None:
        trial = _judged(study, trial, result)
        if trial.state == "pending":
            known[trial.number] = trial
        else:
            known.pop(trial.number, None)
            end(trial)

    for trial in (study.trials[number] for number in numbers):
        if trial.state != "pending":
            continue
        original = study.original(trial)
        if original is not None and original.state == "pending":
            copies.append((trial, original.number))
        elif original is not None:
            end(_duplicate(trial, original))
        else:
            learn(trial, attempt(lambda trial: evaluate.cheap(trial.point), trial))
    passing = 0
    if evaluate.measure is not None:
        fresh = [trial for trial in known.values() if not study.trials[trial.number].metrics]
        start = time.perf_counter()
        answers = evaluate.measure(fresh) if fresh else ()
        seconds = (time.perf_counter() - start) / max(1, len(fresh))
        away = [answer for answer in answers if isinstance(answer, Unavailable)]
        for trial, answer in zip(fresh, answers, strict=True):
            if isinstance(answer, Unavailable):
                continue
            if isinstance(answer, Exception):
                learn(trial, Result(trial.number, None, f"{type(answer).__name__}: {answer}", seconds))
                passing += isinstance(answer, Passing)
                continue
            study.note(trial.number, {**trial.metrics, **answer})
            learn(trial, Result(trial.number, answer, None, seconds))
        if away:
            raise away[0]
    for result in pool.results(evaluate.train, list(known.values())):
        end(_judged(study, known[result.number], result, trained=True))
    for trial, number in copies:
        end(_duplicate(trial, study.trials[number]))
    return passing


def _judged(study: Study, trial: Trial, result: Result, *, trained: bool = False) -> Trial:
    """The trial with what one more step found out: still pending if that was neither the end of it nor the last."""
    trial = replace(trial, seconds=trial.seconds + result.seconds)
    if result.metrics is None:
        return replace(trial, state="failed", error=result.error)
    metrics = {**trial.metrics, **result.metrics}
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    trial = replace(trial, metrics=finite)
    wanted = [o.metric for o in study.objectives if trained or o.metric in metrics]
    broken = [f"{name} is {metrics.get(name, 'missing')}" for name in wanted if name not in finite]
    if broken:
        return replace(trial, state="failed", error=", ".join(broken))
    if trained:
        return replace(trial, state="done")
    if study.violation(finite):
        return replace(trial, state="refused", error=study.overstepped(finite))
    return trial


def _duplicate(trial: Trial, original: Trial) -> Trial:
    reason = f"the same as trial {original.number}"
    if original.state in ("failed", "refused"):
        reason += f", which {'failed' if original.state == 'failed' else 'was refused'}: {original.error}"
    return replace(trial, state="duplicate", metrics=original.metrics, error=reason)


def _give_up_if_hopeless(study: Study, failed_before: int, trials: int) -> None:
    """Raise if nothing ever worked: every run that goes on with such a study gets a few tries of its own."""
    tries = study.counts["failed"] - failed_before
    if study.counts["done"] == 0 and (tries >= HOPELESS or study.spent >= trials):
        failed = [trial.error or "" for trial in study.trials if trial.state == "failed"]
        reason, times = Counter(failed).most_common(1)[0]
        raise SearchError(f"all {len(failed)} trials so far failed, {times} of them with: {reason}")


def _standing_in_the_way(study: Study, trials: int) -> str:
    """Which limit or what else kept the budget from being spent, and the best seen of it."""
    counts = study.counts
    head = (
        f"{study.spent:.6g} of {trials} trials were trained when {len(study.trials)} had been proposed "
        f"({counts['refused']} refused, {counts['duplicate']} duplicates)"
    )
    if counts["refused"] < counts["duplicate"]:
        return f"{head}: the space holds few other points"
    return f"{head}: {study.obstacles()}. Loosen a limit or widen the space"
