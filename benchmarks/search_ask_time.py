"""How long `auto` takes to propose a batch when it knows of a thousand trials.

    python benchmarks/search_ask_time.py

A space of 20 choices of 4 options, two objectives; asked after 1,000 told random trials, a few times with one more
batch of 8 told in between. Seconds are those of one core.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from _results import write

from nasflow.space import Choice, Point, Space
from nasflow.strategies.auto import auto
from nasflow.study import Objective, Trial

TRIALS, BATCH, ROUNDS = 1_000, 8, 7
MOST_S = 1.0
OPTIONS = (0, 1, 2, 3)
SPACE = Space(tuple(Choice(f"c{i}", OPTIONS) for i in range(20)))
OBJECTIVES = (Objective("error"), Objective("latency"))


def told(number: int, point: Point) -> Trial:
    values = np.array([float(value or 0) for value in point.values()])
    error = 1.0 / (1.0 + values.sum()) + 0.01 * float(np.sin(7 * values).sum() % 1)
    metrics = {"error": error, "latency": float((values**2).sum())}
    return Trial(number, point, state="done", metrics=metrics)


def main() -> None:
    rng = np.random.default_rng(0)
    strategy = auto(SPACE, OBJECTIVES)
    strategy.tell([told(number, SPACE.sample(rng)) for number in range(TRIALS)])
    strategy.ask(BATCH)  # what is fitted once in a while is fitted here
    taken: dict[str, list[float]] = {"one": [], "batch": []}
    for _ in range(ROUNDS):
        for name, count in (("one", 1), ("batch", BATCH)):
            begin = time.process_time()
            proposals = strategy.ask(count)
            taken[name].append(time.process_time() - begin)
            strategy.tell([told(0, proposal.point) for proposal in proposals])
    value = statistics.median(taken["batch"])
    write(
        "search-ask_time",
        goal=f"processor seconds for a batch of {BATCH} at {TRIALS:,} trials, at most {MOST_S:g}",
        value=value,
        holds=value <= MOST_S,
        seconds=taken,
    )


if __name__ == "__main__":
    main()
