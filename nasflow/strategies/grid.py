"""Grid search: every point of a grid exactly once, in an order that is no order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from nasflow.errors import NasflowError
from nasflow.space import Choice, Parameter, Point, Scalar, Space
from nasflow.study import Objective, Proposal, Trial

ROUNDS = 4


class GridError(NasflowError, ValueError):
    """A grid that makes no sense."""


@dataclass
class Grid:
    """The product of all options and of `positions` values of each real, shuffled by the seed.

    It keeps nothing but how many points it has asked for, so the grid may be of any size.
    """

    space: Space
    seed: int
    positions: int
    _asked: int = 0

    @property
    def size(self) -> int:
        return math.prod(self._count(parameter) for parameter in self.space.parameters)

    def ask(self, count: int) -> list[Proposal]:
        numbers = range(self._asked, min(self._asked + count, self.size))
        self._asked = numbers.stop
        return [Proposal(self._point(shuffled(number, self.size, self.seed))) for number in numbers]

    def tell(self, trials: Sequence[Trial]) -> None:
        pass

    def _point(self, number: int) -> Point:
        point = {}
        for parameter in self.space.parameters:
            number, position = divmod(number, self._count(parameter))
            point[parameter.name] = self._value(parameter, position)
        return point

    def _count(self, parameter: Parameter) -> int:
        return len(parameter.options) if isinstance(parameter, Choice) else self.positions

    def _value(self, parameter: Parameter, position: int) -> Scalar:
        if isinstance(parameter, Choice):
            return parameter.options[position]
        return parameter.at(position / (self.positions - 1))


def grid(space: Space, objectives: Sequence[Objective], *, seed: int = 0, positions: int = 5) -> Grid:
    """Grid search with a ledger of its own: Optuna's GridSampler may repeat points when several train at once.

    Reals have `positions` values from end to end, evenly spread over the logarithm where the real is. Raises GridError
    for less than two.
    """
    if positions < 2:
        raise GridError(f"grid: expected at least 2 positions of a real, its ends, got {positions}")
    return Grid(space, seed, positions)


def shuffled(number: int, size: int, seed: int) -> int:
    """Where `number` is in a permutation of range(size): a Feistel network (Luby and Rackoff, 1988) over the next even
    number of bits, applied again for as long as it leads outside (Black and Rogaway, 2002)."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    while True:
        left, right = number >> half, number & ((1 << half) - 1)
        for turn in range(ROUNDS):
            left, right = right, left ^ _noise(f"{seed} {turn} {right}", half)
        number = left << half | right
        if number < size:
            return number


def _noise(text: str, bits: int) -> int:
    digest = hashlib.shake_128(text.encode()).digest((bits + 7) // 8)
    return int.from_bytes(digest, "big") & ((1 << bits) - 1)
