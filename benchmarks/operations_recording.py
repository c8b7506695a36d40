"""Bar: the driver of a search is blocked by recording for at most 30 ms a trial, as long in trial 5,000 as in trial 10.

    python benchmarks/operations_recording.py                      # the default files
    python benchmarks/operations_recording.py --postgres URL       # Optuna and MLflow in databases of a server

Runs the flow `search` as it is, under a Prefect server of its own, with networks that are neither built nor trained:
their metrics are given at once, so nothing that is recorded in the background has a training's time to be done in.
Blocked is what the driver spends in the study's record (Optuna), in handing trials to MLflow's and in telling Prefect
of them, by the clock, waiting for locks, disk and other threads included. What MLflow takes in its thread for each of
those that it got to meanwhile is told beside it (the next run writes the others), and how long a run that has all those
trials takes to begin again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _results import write

MOST_MS, MOST_RATIO, FIRST, WINDOW = 30.0, 1.3, 10, 100
OVERRIDES = ("search.strategy=random", "search.workers=2", "data.train_limit=200")


class Clock:
    """What each trial cost in the methods and functions it is given: seconds by the clock, and of this thread's
    processor, which neighbours make no longer by keeping it waiting."""

    def __init__(self) -> None:
        self.spent: dict[int, float] = {}
        self.worked: dict[int, float] = {}

    def around(self, inner: Callable[..., Any], numbers: Callable[..., Sequence[int]]) -> Callable[..., Any]:
        """`inner`, timed; what it takes is shared by the trials whose numbers `numbers(*args)` gives."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start, busy = time.perf_counter(), time.thread_time()
            try:
                return inner(*args, **kwargs)
            finally:
                taken, worked, told = time.perf_counter() - start, time.thread_time() - busy, numbers(*args)
                for number in told:
                    self.spent[number] = self.spent.get(number, 0.0) + taken / len(told)
                    self.worked[number] = self.worked.get(number, 0.0) + worked / len(told)

        return call

    def milliseconds(self) -> list[float]:
        return [1000 * self.spent[number] for number in sorted(self.spent)]

    def processor_milliseconds(self) -> list[float]:
        return [1000 * self.worked[number] for number in sorted(self.worked)]


def free(experiment: Any) -> Any:
    """An evaluation whose metrics cost nothing: sums over what a point chose."""
    from nasflow.loop import Evaluate

    def share(point: Any, salt: int) -> float:
        values = [hash((salt, name, value)) % 1000 for name, value in sorted(point.items(), key=str)]
        return sum(values) / 1000 / len(values)

    return Evaluate(
        train=lambda trial: {"error": share(trial.point, 1)},
        cheap=lambda point: {
            "flops": 1e6 * share(point, 2),
            "params": 1e5 * share(point, 3),
            "training_memory_mb": 1.0,
        },
        measure=lambda trials: [{"latency_ms@local-cpu": share(trial.point, 4)} for trial in trials],
    )


def search(folder: Path, trials: int, uri: str | None, record: str | None) -> dict[str, Any]:
    """Search and record; what each trial cost the driver and MLflow's thread, in ms."""
    from prefect.settings import PREFECT_HOME, temporary_settings

    import flows
    from flows import server, tracking
    from flows.session import session
    from flows.stages import FLOWS
    from nasflow import experiment as experiments
    from nasflow import pool, study
    from nasflow.stages import run

    stage = sys.modules["nasflow.stages.search"]
    assert flows
    blocked, behind = Clock(), Clock()
    loop, put, opened = stage.search_loop, tracking.Mirror.put, run.open_record
    stage.evaluation, stage.Processes = free, lambda *_, **__: pool.InProcess()
    stage.search_loop = lambda *args, observers, **kwargs: loop(
        *args, observers=[blocked.around(one, lambda trial: [trial.number]) for one in observers], **kwargs
    )
    if record is not None:
        run.open_record = lambda _, name, *about: opened(record, f"{name}-{uuid.uuid4().hex}", *about)
    methods = {
        "add": lambda self, proposals, count: [t.number for t in self.trials[-len(proposals) :]],
        "note": lambda self, number, metrics: [number],
        "finish": lambda self, trial: [trial.number],
    }
    for name, numbers in methods.items():
        setattr(study.Study, name, blocked.around(getattr(study.Study, name), numbers))
    tracking.Mirror.put = behind.around(
        put, lambda self, entry: [int(entry.key[6:])] if entry.key.startswith("trial-") else [-1]
    )
    overrides = [*OVERRIDES, f"search.trials={trials}", *([f"mlflow.uri={uri}"] if uri else [])]
    experiment = experiments.load("digits", overrides)
    with temporary_settings({PREFECT_HOME: folder / "prefect"}), server.reachable():
        start = time.perf_counter()
        with session(experiment, folder / "run") as held:
            given = {"experiment": str(folder / "run" / "experiment.yaml"), "folder": str(folder / "run")}
            state = FLOWS["search"](**given, return_state=True)
            searched = time.perf_counter() - start
            assert state.is_completed(), state
            kept = len(held.trials())
    tracking.Mirror.keep = lambda *_: None  # which writes in the background what MLflow has not got yet
    start = time.perf_counter()
    with session(experiment, folder / "run"):
        began = time.perf_counter() - start
    behind.spent.pop(-1, None)
    return {
        "blocked_ms": blocked.milliseconds(),
        "processor_ms": blocked.processor_milliseconds(),
        "mlflow_thread_ms": behind.milliseconds(),
        "trials": kept,
        "search_s": searched,
        "begin_again_s": began,
    }


def told(values: Sequence[float]) -> dict[str, Any]:
    """The distribution of what a trial costs, its first and last hundred, and how they compare."""
    first, last = values[FIRST : FIRST + WINDOW], values[-WINDOW:]
    return {
        "median_ms": statistics.median(values),
        "p99_ms": sorted(values)[int(0.99 * len(values))],
        "most_ms": max(values),
        "first_hundred_ms": statistics.median(first),
        "last_hundred_ms": statistics.median(last),
        "ratio": statistics.median(last) / statistics.median(first),
        "by_thousand_ms": [statistics.median(values[at : at + 1000]) for at in range(0, len(values), 1000)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--postgres", metavar="URL", help="such as postgresql+psycopg://me@127.0.0.1/name")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = search(Path(place), asked.trials, asked.postgres, asked.postgres)
    written = found.pop("mlflow_thread_ms")
    blocked = told(found.pop("blocked_ms"))
    behind = {"trials": len(written), **(told(written) if len(written) > FIRST else {})}
    processor = told(found.pop("processor_ms"))
    write(
        f"operations-recording{'-postgresql' if asked.postgres else ''}",
        goal=f"the driver blocked by recording at most {MOST_MS:g} ms per trial (median of all, and of the last"
        f" hundred), and in the last hundred trials at most {MOST_RATIO} times as long as in those after the tenth",
        value=blocked["median_ms"],
        holds=max(blocked["median_ms"], blocked["last_hundred_ms"]) <= MOST_MS
        and blocked["ratio"] <= MOST_RATIO,
        **found,
        blocked=blocked,
        processor=processor,
        mlflow_thread=behind,
    )


if __name__ == "__main__":
    main()
