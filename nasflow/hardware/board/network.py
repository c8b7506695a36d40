"""A network that is loaded and ready to be called, and the random inputs it is called with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Block = Callable[[int], list[int]]
"""Makes so many calls in a row; the nanoseconds that each took, or one mean of all where no more is known."""


class CannotRun(Exception):
    """A file that this runtime cannot run, and why."""


class Network(NamedTuple):
    """`block` calls it, `batch` are the samples of one call, `how` what is worth knowing about the timing, and
    `memory_kb` the peak memory of the last block where it was told by whoever ran it."""

    block: Block
    batch: int
    how: str = ""
    memory_kb: Callable[[], float | None] = lambda: None


def timed(run: Callable[[], object], clock: Callable[[], int] = time.perf_counter_ns) -> Block:
    """Calls of `run`, timed from outside."""

    def block(calls: int) -> list[int]:
        times = []
        for _ in range(calls):
            start = clock()
            run()
            times.append(clock() - start)
        return times

    return block


def random_input(name: str, shape: Sequence[object], kind: str, batch: int, draw: Any) -> Any:
    """A normal (or 0/1) array of NumPy's type `kind`; a free first axis gets `batch` samples. Raises CannotRun.

    An axis is free if its size is no number, or below 0. `draw` is a NumPy generator.
    """
    free = [not isinstance(size, int) or size < 0 for size in shape]
    if any(free[1:]):
        raise CannotRun(f"input {name!r}: expected fixed sizes but for the first axis, got {list(shape)}")
    sizes: list[Any] = [batch, *shape[1:]] if free[:1] == [True] else list(shape)
    if kind in ("float16", "float32", "float64", "bool"):
        return draw.standard_normal(sizes).astype(kind)
    if kind.lstrip("u") in ("int8", "int16", "int32", "int64"):
        return draw.integers(0, 2, sizes).astype(kind)  # small enough to be an index into any table
    raise CannotRun(f"input {name!r}: expected numbers, got {kind}")


def samples(arrays: Sequence[Any]) -> int:
    """How many samples a call with these inputs takes."""
    return int(arrays[0].shape[0]) if arrays and arrays[0].shape else 1
