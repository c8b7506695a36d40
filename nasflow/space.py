"""What can be chosen: a space is an immutable product of named parameters, a point is one value for each.

Points are plain dictionaries of JSON scalars, so that a record, a report or another process can hold them.
Nothing here knows what a point means; `build(point)`, beside each space, does.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nasflow.errors import NasflowError

Scalar = str | int | float | bool | None
Point = dict[str, Scalar]
Fold = Callable[[Point], Point]
Features = Callable[[Mapping[str, Scalar]], Sequence[float]]

MUTATION_TRIES = 20


class SpaceError(NasflowError):
    """A space, or a point of one, that makes no sense."""


@dataclass(frozen=True)
class Choice:
    """One of a few `options`; `ordered` says that neighbours in the list are neighbours in meaning."""

    name: str
    options: tuple[Scalar, ...]
    ordered: bool = False

    def __post_init__(self) -> None:
        if not self.options:
            raise SpaceError(f"choice {self.name!r}: expected at least one option, got none")
        if len(set(self.options)) < len(self.options):  # 1, 1.0 and True are one value to most storages
            raise SpaceError(f"choice {self.name!r}: options must differ, got {self.options}")
        if not all(math.isfinite(option) for option in self.options if isinstance(option, float)):
            raise SpaceError(f"choice {self.name!r}: numbers must be finite, got {self.options}")

    def sample(self, rng: np.random.Generator) -> Scalar:
        return self.options[int(rng.integers(len(self.options)))]

    def mutate(self, value: Scalar, rng: np.random.Generator) -> Scalar:
        """Another option: a neighbour if ordered, any other one if not; the same value if there is no other."""
        if len(self.options) == 1:
            return value
        index = self.index(value)
        if self.ordered:
            near = [i for i in (index - 1, index + 1) if 0 <= i < len(self.options)]
            return self.options[near[int(rng.integers(len(near)))]]
        return self.options[(index + 1 + int(rng.integers(len(self.options) - 1))) % len(self.options)]

    def index(self, value: Scalar) -> int:
        """Position of `value`; True and 1 are different values, as they are in JSON's eyes."""
        for i, option in enumerate(self.options):
            if option == value and type(option) is type(value):
                return i
        raise SpaceError(f"{self.name}: expected one of {list(self.options)}, got {value!r}")

    def __contains__(self, value: object) -> bool:
        for option in self.options:
            if option == value:
                return type(option) is type(value)
        return False


@dataclass(frozen=True)
class Real:
    """A bounded real number from `low` to `high`, spread evenly over its logarithm if `log`."""

    name: str
    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise SpaceError(
                f"real {self.name!r}: expected finite low < high, got {self.low} and {self.high}"
            )
        if self.log and self.low <= 0:
            raise SpaceError(f"real {self.name!r}: a logarithmic range starts above 0, got {self.low}")

    def sample(self, rng: np.random.Generator) -> float:
        return self.at(float(rng.random()))

    def mutate(self, value: Scalar, rng: np.random.Generator) -> float:
        """A normal step of a tenth of the range, reflected at the bounds."""
        position = self.position(float(value or 0.0)) + float(rng.normal(0.0, 0.1))
        position = abs(position) % 2.0
        return self.at(2.0 - position if position > 1.0 else position)

    def at(self, position: float) -> float:
        """The value at `position` in [0, 1] of the range."""
        low, high = self._bounds
        value = low + position * (high - low)
        return min(self.high, max(self.low, math.exp(value) if self.log else value))

    def position(self, value: float) -> float:
        low, high = self._bounds
        return ((math.log(value) if self.log else value) - low) / (high - low)

    @property
    def _bounds(self) -> tuple[float, float]:
        return (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high
        )


Parameter = Choice | Real


@dataclass(frozen=True)
class Space:
    """A product of parameters. `folds` map each point to the one that stands for all that mean the same,
    for example by giving the choices of a stage with no layers one fixed value. `features` say in numbers what a
    point means beyond its parameters (how many convolutions are reached, say), for strategies that model.

    Two spaces with different names multiply: `architecture * training`.

    >>> space = Space((Choice("depth", (1, 2, 3), ordered=True), Choice("kernel", (3, 5))))
    >>> space.size
    6
    >>> {"depth": 2, "kernel": 5} in space
    True
    """

    parameters: tuple[Parameter, ...]
    folds: tuple[Fold, ...] = ()
    features: tuple[Features, ...] = ()

    def __post_init__(self) -> None:
        names = [parameter.name for parameter in self.parameters]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SpaceError(f"parameter names must differ; {', '.join(twice)} came more than once")

    @cached_property
    def _by_name(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters}

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    @property
    def size(self) -> float:
        """How many points there are before folding; infinite with any real parameter."""
        if any(isinstance(parameter, Real) for parameter in self.parameters):
            return math.inf
        return math.prod(len(p.options) for p in self.parameters if isinstance(p, Choice))

    def sample(self, rng: np.random.Generator) -> Point:
        """A point with every parameter drawn on its own."""
        return {parameter.name: parameter.sample(rng) for parameter in self.parameters}

    def mutate(self, point: Mapping[str, Scalar], rng: np.random.Generator) -> Point:
        """A point that differs from `point` in exactly one parameter, and in meaning too where a few tries
        can find that; the same point only if the space has no other."""
        free = [p for p in self.parameters if not (isinstance(p, Choice) and len(p.options) == 1)]
        child = dict(point)
        if not free:
            return child
        before = self.key(point)
        for _ in range(MUTATION_TRIES):
            parameter = free[int(rng.integers(len(free)))]
            child = {**point, parameter.name: parameter.mutate(point[parameter.name], rng)}
            if self.key(child) != before:
                break
        return child

    def crossover(self, a: Mapping[str, Scalar], b: Mapping[str, Scalar], rng: np.random.Generator) -> Point:
        """A child that takes each parameter from one of its two parents."""
        take = rng.random(len(self.parameters)) < 0.5
        return {p.name: (a if take[i] else b)[p.name] for i, p in enumerate(self.parameters)}

    def __contains__(self, point: object) -> bool:
        return (
            isinstance(point, Mapping)
            and point.keys() == self._by_name.keys()
            and all(point[p.name] in p for p in self.parameters)
        )

    def check(self, point: Mapping[str, Scalar]) -> None:
        """Raise a SpaceError that names what is missing, unknown or out of range in `point`."""
        missing, unknown = self._by_name.keys() - point.keys(), point.keys() - self._by_name.keys()
        if missing or unknown:
            raise SpaceError(
                f"not a point of this space: missing {sorted(missing) or 'nothing'}, "
                f"unknown {sorted(unknown) or 'nothing'}"
            )
        for p in self.parameters:
            if point[p.name] not in p:
                among = list(p.options) if isinstance(p, Choice) else f"a number in [{p.low}, {p.high}]"
                raise SpaceError(f"{p.name}: expected one of {among}, got {point[p.name]!r}")

    def canonical(self, point: Mapping[str, Scalar]) -> Point:
        """The point that stands for all points that mean the same."""
        folded = dict(point)
        for parameter in self.parameters:
            if isinstance(parameter, Real):  # 1 and 1.0 are the same number but different JSON
                folded[parameter.name] = float(folded[parameter.name] or 0.0)
        for fold in self.folds:
            folded = fold(folded)
        return folded

    @property
    def sha256(self) -> str:
        """Names what can be chosen: the same for the same parameters with the same options, in every process."""
        told = [
            [p.name, list(p.options)] if isinstance(p, Choice) else [p.name, p.low, p.high, p.log]
            for p in self.parameters
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def describe(self, point: Mapping[str, Scalar]) -> list[float]:
        """The features of `point`, one after the other; as many for every point."""
        return [float(value) for features in self.features for value in features(point)]

    def key(self, point: Mapping[str, Scalar]) -> str:
        """A short name of what the point means: equal for equal meaning, in every process."""
        return point_key(self.canonical(point))

    def __mul__(self, other: Space) -> Space:
        return Space(
            self.parameters + other.parameters, self.folds + other.folds, self.features + other.features
        )


def point_key(point: Mapping[str, Scalar]) -> str:
    """Sixteen hexadecimal digits that name a point, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:16]
