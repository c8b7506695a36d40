"""What the search loop itself costs, with an evaluator that costs nothing, and Optuna's own loop beside it.

    python benchmarks/loop_overhead.py

A space of 25 choices of 4 options, two objectives, NSGA-II with a population of 20: Optuna's in Optuna's loop,
Optuna's in ours (the bar of the main job), our own in ours (that of search), all in memory, in turns. Times are
processor seconds of this process, so that neighbours do not count.
Ours trains no point twice, so it asks for some more than it trains. Takes some twenty seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import optuna
from _results import write

from nasflow.loop import Evaluate, Strategy, run
from nasflow.space import Choice, Point, Space
from nasflow.strategies import nsga2 as own
from nasflow.strategies import optuna_samplers
from nasflow.strategies.random import random_search
from nasflow.study import Objective, Study

TRIALS, ROUNDS, POPULATION = 300, 21, 20
CHOICES, OPTIONS = 25, (0, 1, 2, 3)
LEAST_PER_S, MOST_RATIO = 300.0, 1.5
SPACE = Space(tuple(Choice(f"c{i}", OPTIONS) for i in range(CHOICES)))
OBJECTIVES = (Objective("sum"), Objective("squares"))


def metrics(point: Point) -> dict[str, float]:
    values = [int(value or 0) for value in point.values()]
    return {"sum": float(sum(values)), "squares": float(sum((3 - value) ** 2 for value in values))}


def ours() -> None:
    in_our_loop(optuna_samplers.nsga2(SPACE, OBJECTIVES, population=POPULATION))


def all_ours() -> None:
    in_our_loop(own.nsga2(SPACE, OBJECTIVES, population=POPULATION))


def in_our_loop(strategy: Strategy) -> None:
    study = Study(SPACE, OBJECTIVES)
    run(study, strategy, Evaluate(lambda trial: metrics(trial.point)), trials=TRIALS)
    assert study.counts["done"] == TRIALS


def loop_alone() -> None:
    study = Study(SPACE, OBJECTIVES)
    strategy = random_search(SPACE, OBJECTIVES)
    run(study, strategy, Evaluate(lambda trial: metrics(trial.point)), trials=TRIALS)


def optunas() -> None:
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=0)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        point = {f"c{i}": trial.suggest_categorical(f"c{i}", OPTIONS) for i in range(CHOICES)}
        found = metrics(dict(point))
        return found["sum"], found["squares"]

    study.optimize(objective, n_trials=TRIALS)


def seconds(search: Callable[[], None]) -> float:
    begin = time.process_time()
    search()
    return time.process_time() - begin


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searches = {"ours": ours, "all_ours": all_ours, "optunas": optunas, "loop_alone": loop_alone}
    for search in searches.values():
        search()
    taken: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(ROUNDS):
        for name, search in searches.items():
            taken[name].append(seconds(search))
    median = {name: statistics.median(values) for name, values in taken.items()}
    rate = TRIALS / median["ours"]
    ratio = statistics.median(a / b for a, b in zip(taken["ours"], taken["optunas"], strict=True))
    write(
        "main_job-loop_overhead",
        goal=f"time of {TRIALS} trials at most {MOST_RATIO} times that of Optuna's own loop, and at least"
        f" {LEAST_PER_S:g} trials/s (medians of {ROUNDS} in turns)",
        value=ratio,
        holds=ratio <= MOST_RATIO and rate >= LEAST_PER_S,
        trials_per_s=rate,
        optunas_trials_per_s=TRIALS / median["optunas"],
        loop_with_random_search_trials_per_s=TRIALS / median["loop_alone"],
        seconds={name: values for name, values in taken.items() if name != "all_ours"},
    )
    ratio = statistics.median(a / b for a, b in zip(taken["all_ours"], taken["optunas"], strict=True))
    write(
        "search-loop_overhead",
        goal=f"time of {TRIALS} trials of our own NSGA-II in our loop at most {MOST_RATIO} times that of Optuna's own"
        f" (medians of {ROUNDS} in turns)",
        value=ratio,
        holds=ratio <= MOST_RATIO,
        trials_per_s=TRIALS / median["all_ours"],
        optunas_trials_per_s=TRIALS / median["optunas"],
        seconds={name: taken[name] for name in ("all_ours", "optunas")},
    )


if __name__ == "__main__":
    main()
