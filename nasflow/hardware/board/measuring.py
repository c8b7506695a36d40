"""How networks are timed: loads in random order, rounds there and back, warm-up until time stands still.

Where in memory a load happens to put a network moves its time by more than many repetitions can tell, so every
file is loaded again and again, all files in a random order, and each load is timed in a few rounds of short
blocks of calls, forwards and backwards through the files, so that drift of the machine meets all alike. Before
that the load is warmed up until its time stands still. Nothing is thrown away. Loading goes on until the medians
of the loads agree within `precision`, or the budget is spent.

Between any two blocks the reference is called a few times: a block lies between two looks at the machine itself.
"""

from __future__ import annotations

import functools
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
    calls of a warm-up's window in the first load and in later ones, 0 where the network warms itself up. The reference
    is called `between` blocks so often; 0 where that takes long: then it is timed in turns with the files."""

    rounds: int = 4  # forwards, backwards, forwards, backwards
    block_ns: int = 500_000  # few enough calls to meet the same machine as the block before
    fewest: int = 3
    most: int = 20
    windows: tuple[int, int] = (5, 2)
    between: int = 5

    def calls(self, ns: float) -> int:
        """How many calls of `ns` make a block."""
        return min(self.most, max(self.fewest, round(self.block_ns / max(1.0, ns))))


HERE = Pace()  # of networks that are called in this process


class Warmup(NamedTuple):
    """How a load was warmed up: in how many calls, whether its time came to stand still, and at what."""

    calls: int
    still: bool
    ns: float


class Taken(NamedTuple):
    """What was timed of each file: its samples, its warm-ups, and around each block what a call of the reference took
    before and after it, in nanoseconds, as [load][round][2]; nothing without a reference or where it took turns."""

    samples: list[Samples]
    warmups: list[list[Warmup]]
    around: list[Samples]


def measure(
    loads: Sequence[Load],
    plan: Plan,
    order: random.Random,
    clock: Callable[[], int] = time.perf_counter_ns,
    alive: Callable[[], bool] = lambda: True,
    pace: Pace = HERE,
    watch: Callable[[int, int, list[list[int]]], None] = lambda load, file, rounds: None,
    reference: Load | None = None,
) -> Taken:
    """Time what each of `loads` gives, and the `reference`, which comes last in the answer. Raises Orphaned.

    `watch` gets the number of the load, that of the file and its samples, after every load.
    """
    every = [*loads, reference] if reference is not None else list(loads)
    apart = reference is not None and pace.between > 0
    turns = len(loads) if apart else len(every)
    taken = Taken([[] for _ in every], [[] for _ in every], [[] for _ in loads])
    samples, warmups, around = taken
    end = clock() + plan.budget_ns
    for turn in range(plan.most):
        settled = all(_settled(one, plan.precision) for one in samples[: len(loads)])
        if turn >= plan.least and (clock() >= end or settled):
            break
        line = order.sample(range(turns), turns)
        blocks = {i: every[i]().block for i in [*line, *range(turns, len(every))]}
        for i, block in blocks.items():
            warmups[i].append(warm_up(block, clock, pace.windows[0 if turn == 0 else 1]))
            samples[i].append([])
        for one in around:
            one.append([])
        look = functools.partial(_look, blocks[turns], pace.between, samples[-1][-1]) if apart else None
        before = look() if look else 0
        for number in range(pace.rounds):
            for i in line if number % 2 == 0 else reversed(line):
                if not alive():
                    raise Orphaned
                # As many calls in every load, so that each load weighs the same.
                samples[i][-1].append(blocks[i](pace.calls(warmups[i][0].ns)))
                if look:
                    around[i][-1].append([before, before := look()])
        for i in blocks:
            watch(turn, i, samples[i][-1])
    return taken


def _look(reference: Block, calls: int, seen: list[list[int]]) -> int:
    """What a call of the reference takes now, which is added to what was `seen`."""
    seen.append(reference(calls))
    return round(statistics.median(seen[-1]))


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
