"""Searches so small that everything about them is known: the metrics of every point, the true front."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nasflow import pareto
from nasflow.space import Choice, Point, Real, Scalar, Space
from nasflow.study import Metrics, Objective, Trial


@dataclass(frozen=True)
class Toy:
    """A space and the metrics of its points, by a formula that costs nothing.

    `unfinished` is what a training of no length at all would add to a point's error.
    """

    space: Space
    metrics: Callable[[Point], Metrics]
    unfinished: Callable[[Point], float] = lambda point: 0.0

    def train(self, trial: Trial) -> Metrics:
        """The metrics of a trial's point, its error as high as it is after the trial's share of a training."""
        metrics = dict(self.metrics(trial.point))
        if trial.fidelity < 1.0 and "error" in metrics:
            metrics["error"] += self.unfinished(trial.point) * (1.0 - trial.fidelity) ** 2
        return metrics

    def points(self) -> Iterator[Point]:
        """Every point once, of those that mean the same only the canonical one; no reals allowed."""
        seen = set()
        options = [p.options for p in self.space.parameters if isinstance(p, Choice)]
        for values in itertools.product(*options):
            point = self.space.canonical(
                {p.name: value for p, value in zip(self.space.parameters, values, strict=True)}
            )
            key = self.space.key(point)
            if key not in seen:
                seen.add(key)
                yield point

    def quality(self, trials: Sequence[Trial], objectives: Sequence[Objective]) -> float:
        """Hypervolume of what `trials` found, as a share of that of the true front (1 is all of it).

        Losses are scaled to the extent of the whole space, whose worst corner is the reference.
        """
        whole = np.array([[o.loss(self.metrics(point)) for o in objectives] for point in self.points()])
        found = np.array([[o.loss(trial.metrics) for o in objectives] for trial in trials])
        low, high = whole.min(axis=0), whole.max(axis=0)
        corner = np.full(len(objectives), 1.01)

        def volume(losses: pareto.Losses) -> float:
            return pareto.hypervolume((losses - low) / (high - low), corner)

        return volume(found.reshape(-1, len(objectives))) / volume(whole)


def networks() -> Toy:
    """96 points, 76 of them different: a network's second stage may vanish, and its choices with it.

    Metrics: error, flops, params (lower is better) and speed (higher is). Depth and width lower the error at a
    falling rate and cost flops; the kernel's best size depends on nothing; squeezing is free accuracy. Deeper
    networks learn more slowly, so that the shallow look better than they are after short trainings.
    """
    space = Space(
        (
            Choice("width", (8, 16, 24, 32), ordered=True),
            Choice("depth", (0, 1, 2, 3), ordered=True),
            Choice("kernel", (3, 5, 7), ordered=True),
            Choice("squeeze", (False, True)),
        ),
        (_vanish,),
    )
    return Toy(space, _network, _slowness)


def joint() -> Toy:
    """Architecture x bits x sparsity: the network toy times a precision and a share of weights to remove."""
    space = networks().space * Space((Choice("bits", (2, 4, 8, 32)),)) * Space((Real("sparsity", 0.0, 0.9),))
    return Toy(space, _compressed, _slowness)


def _vanish(point: Point) -> Point:
    return {**point, "kernel": 3, "squeeze": False} if point["depth"] == 0 else point


def _network(point: Point) -> dict[str, float]:
    point = _vanish(point)
    width, depth, kernel = (_number(point[name]) for name in ("width", "depth", "kernel"))
    squeeze = bool(point["squeeze"])
    flops = width * (9.0 + depth * (width + kernel**2))
    penalty = {3: 0.02, 5: 0.0, 7: 0.03}[int(kernel)] if depth else 0.0
    error = 0.02 + 0.5 / width + 0.2 / (1 + depth) + penalty - 0.015 * squeeze
    return {
        "error": error,
        "flops": flops,
        "params": width * (10.0 + depth * (width + kernel**2 + 4 * squeeze)),
        "speed": 1000.0 / (40.0 + flops**0.5 + 60.0 * depth),
    }


def _slowness(point: Point) -> float:
    point = _vanish(point)
    return 0.1 + 0.02 * _number(point["depth"]) + 0.01 * bool(point["squeeze"])


def _compressed(point: Point) -> dict[str, float]:
    metrics = _network(point)
    kept, bits = 1.0 - _number(point["sparsity"]), _number(point["bits"])
    metrics["error"] += 0.1 / bits**2 + 0.05 * (1.0 - kept) ** 3
    metrics["flops"] *= kept
    metrics["params"] *= kept * bits / 32.0
    return metrics


def _number(value: Scalar) -> float:
    assert isinstance(value, (int, float))
    return float(value)
