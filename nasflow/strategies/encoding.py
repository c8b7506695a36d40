"""Points as numbers, for strategies that model: categories that are equal or not, and numbers near or far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasflow.space import Choice, Point, Scalar, Space

SAMPLE = 256
SMALLEST_SPREAD = 1e-9

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Encoded:
    """Some points of one space: `categories` (points, unordered choices) holds which option each takes, `numbers`
    (points, numbers) what is near or far, `counts` (points, options) how often an option is taken by choices that
    offer the same ones. Numbers and counts have mean 0 and deviation 1 over the space."""

    categories: NDArray[np.int64]
    numbers: Numbers
    counts: Numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, which: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Encoded:
        return Encoded(self.categories[which], self.numbers[which], self.counts[which])

    def beside(self, number: Numbers) -> Encoded:
        """The same points with one more number each."""
        return Encoded(self.categories, np.column_stack([self.numbers, number]), self.counts)

    @staticmethod
    def join(parts: Sequence[Encoded]) -> Encoded:
        """All of them, one after the other."""
        return Encoded(
            np.concatenate([part.categories for part in parts]),
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.counts for part in parts]),
        )


class Encoder:
    """Encodes points of a space by their meaning. Ordered choices, reals and the space's own features are numbers,
    scaled by a sample of the space; those that never differ in it are left out.

    >>> encoder = Encoder(Space((Choice("a", (1, 2, 3), ordered=True), Choice("b", ("x", "y")))), seed=0)
    >>> encoder.encode([{"a": 1, "b": "y"}]).categories
    array([[1]])
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.described = bool(space.features)
        self._unordered = [p for p in space.parameters if isinstance(p, Choice) and not p.ordered]
        self._others = [p for p in space.parameters if not (isinstance(p, Choice) and not p.ordered)]
        groups: dict[tuple[Scalar, ...], list[int]] = {}
        for column, choice in enumerate(self._unordered):
            groups.setdefault(choice.options, []).append(column)
        self._groups = [(columns, len(options)) for options, columns in groups.items() if len(columns) > 1]
        self._rows: dict[str, tuple[list[int], list[float]]] = {}
        rng = np.random.default_rng(seed)
        self._scales = [(np.zeros(1), np.ones(1), np.ones(1, dtype=bool))] * 2
        self.sample = [space.sample(rng) for _ in range(SAMPLE)]
        categories, numbers = self._raw(self.sample)
        self._scales = [_scale(numbers), _scale(self._count(categories))]

    def encode(self, points: Sequence[Mapping[str, Scalar]]) -> Encoded:
        categories, numbers = self._raw(points)
        scaled = []
        for values, (mean, spread, keep) in zip(
            (numbers, self._count(categories)), self._scales, strict=True
        ):
            scaled.append(((values - mean) / spread)[:, keep])
        return Encoded(categories, scaled[0], scaled[1])

    def _raw(self, points: Sequence[Mapping[str, Scalar]]) -> tuple[NDArray[np.int64], Numbers]:
        rows = [self._row(point) for point in points]
        width = len(rows[0][1]) if rows else len(self._scales[0][0])
        return (
            np.array([row[0] for row in rows], dtype=np.int64).reshape(len(rows), len(self._unordered)),
            np.array([row[1] for row in rows], dtype=np.float64).reshape(len(rows), width),
        )

    def _row(self, point: Mapping[str, Scalar]) -> tuple[list[int], list[float]]:
        meaning: Point = self.space.canonical(point)
        name = str(meaning)
        if name not in self._rows:
            numbers = [
                p.index(meaning[p.name]) / (len(p.options) - 1 or 1)
                if isinstance(p, Choice)
                else p.position(float(meaning[p.name] or 0.0))
                for p in self._others
            ]
            self._rows[name] = (
                [p.index(meaning[p.name]) for p in self._unordered],
                numbers + self.space.describe(meaning),
            )
        return self._rows[name]

    def _count(self, categories: NDArray[np.int64]) -> Numbers:
        counts = [
            (categories[:, columns] == option).sum(axis=1)
            for columns, options in self._groups
            for option in range(options)
        ]
        return np.array(counts, dtype=np.float64).reshape(len(counts), len(categories)).T


def _scale(values: Numbers) -> tuple[Numbers, Numbers, NDArray[np.bool_]]:
    spread = values.std(axis=0)
    keep = spread > SMALLEST_SPREAD
    return values.mean(axis=0), np.where(keep, spread, 1.0), keep
