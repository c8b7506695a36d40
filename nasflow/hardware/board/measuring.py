"""How networks are timed: loads in random order, rounds there and back, warm-up until time stands still.

Where in memory a load happens to put a network moves its time by more than many repetitions can tell, so every
file is loaded again and again, all files in a random order, and each load is timed in a few rounds of short
blocks of calls, forwards and backwards through the files, so that drift of the machine meets all alike. Before
that the load is warmed up until its time stands still. Nothing is thrown away. Loading goes on until the medians
of the loads agree within `precision`, or the budget is spent.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .network import Block, Network

STILL = 0.02  # a warm-up ends when two windows in a row differ by less
SETTLED_LOADS = 8  # fewer cannot show how much loads differ

Load = Callable[[], Network]
Samples = list[list[list[int]]]
"""Nanoseconds of every call, as [load][round][call]."""


class Orphaned(Exception):
    """Whoever asked is gone, so nobody waits for the answer."""


class Plan(NamedTuple):
    """When to stop: after `most` loads, or after `least` once `precision` or the budget is reached."""

    least: int
    most: int
    precision: float
    budget_ns: int


class Pace(NamedTuple):
    """How long a look at one load is. Blocks are of `block_ns`, but of `fewest` to `most` calls; `windows` are the
    calls of a warm-up's window in the first load and in later ones, 0 where the network warms itself up."""

    rounds: int = 4  # forwards, backwards, forwards, backwards
    block_ns: int = 500_000  # few enough calls to meet the same machine as the block before
    fewest: int = 3
    most: int = 20
    windows: tuple[int, int] = (5, 2)

    def calls(self, ns: float) -> int:
        """How many calls of `ns` make a block."""
        return min(self.most, max(self.fewest, round(self.block_ns / max(1.0, ns))))


HERE = Pace()  # of networks that are called in this process


class Warmup(NamedTuple):
    """How a load was warmed up: in how many calls, whether its time came to stand still, and at what."""

    calls: int
    still: bool
    ns: float


def measure(
    loads: Sequence[Load],
    plan: Plan,
    order: random.Random,
    clock: Callable[[], int] = time.perf_counter_ns,
    alive: Callable[[], bool] = lambda: True,
    pace: Pace = HERE,
    watch: Callable[[int, int, list[list[int]]], None] = lambda load, file, rounds: None,
) -> tuple[list[Samples], list[list[Warmup]]]:
    """Time what each of `loads` gives; both results are per file, then per load. Raises Orphaned.

    `watch` gets the number of the load, that of the file and its samples, after every load.
    """
    samples: list[Samples] = [[] for _ in loads]
    warmups: list[list[Warmup]] = [[] for _ in loads]
    end = clock() + plan.budget_ns
    for turn in range(plan.most):
        if turn >= plan.least and (clock() >= end or all(_settled(one, plan.precision) for one in samples)):
            break
        line = order.sample(range(len(loads)), len(loads))
        blocks = {i: loads[i]().block for i in line}
        for i in line:
            warmups[i].append(warm_up(blocks[i], clock, pace.windows[0 if turn == 0 else 1]))
            samples[i].append([])
        for number in range(pace.rounds):
            for i in line if number % 2 == 0 else reversed(line):
                if not alive():
                    raise Orphaned
                # As many calls in every load, so that each load weighs the same.
                samples[i][-1].append(blocks[i](pace.calls(warmups[i][0].ns)))
        for i in line:
            watch(turn, i, samples[i][-1])
    return samples, warmups


def warm_up(block: Block, clock: Callable[[], int], window: int, most_ns: int = 2_000_000_000) -> Warmup:
    """Call until the medians of two windows in a row differ by less than 2 %, at most ten times that long.

    What warms itself up (window 0) is called once, to know how long that takes.
    """
    times = block(1)
    start = clock()
    if window == 0:
        return Warmup(1, True, statistics.median(times))
    while len(times) < 20 * window and not (len(times) >= 3 and clock() - start > most_ns):
        times += block(1)
        if len(times) >= 2 * window:
            now, before = statistics.median(times[-window:]), statistics.median(times[-2 * window : -window])
            if abs(now - before) <= STILL * before:
                return Warmup(len(times), True, now)
    return Warmup(len(times), False, statistics.median(times[-window:]))


def _settled(samples: Samples, precision: float) -> bool:
    """Whether the 95 % interval of the mean over loads is within `precision` to either side."""
    if len(samples) < SETTLED_LOADS:
        return False
    medians = [statistics.median(ns for block in load for ns in block) for load in samples]
    error = statistics.stdev(medians) / math.sqrt(len(medians))
    return 2.4 * error <= precision * statistics.mean(medians)  # 2.4: Student's t for eight loads
