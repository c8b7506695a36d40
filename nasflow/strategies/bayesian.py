"""What searches share that model losses and ask for the point that promises most: which points they weigh, and how
likely those are to train well and to keep the limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nasflow.space import Point, Space
from nasflow.strategies.encoding import Encoded, Encoder, Numbers
from nasflow.strategies.gaussian import Gaussian, Model
from nasflow.strategies.population import Unseen
from nasflow.study import Objective, Proposal, Trial

RANDOM, NEAR = 200, 200  # points that are weighed for each proposal
LEAST_CHANCE = 0.01

Gain = Callable[[Encoded], Numbers]
"""How much each point (points,) is expected to be worth if it keeps all limits, higher is better."""


@dataclass(frozen=True)
class Seen:
    """What was trained: `points`, their `losses` (points, objectives), and which are `within` all limits, of which
    there is at least one; also the points `open`, asked for but not told yet."""

    points: Encoded
    losses: Numbers
    within: NDArray[np.bool_]
    open: Encoded


class Bayesian(ABC):
    """After `start` random points, whichever has the highest gain times its chances among some random points and
    some neighbours of the best."""

    def __init__(self, space: Space, objectives: Sequence[Objective], seed: int, start: int) -> None:
        self._space, self._objectives, self._seed, self._start = space, objectives, seed, start
        self._optimised = [objective for objective in objectives if objective.optimise]
        self._encoder = Encoder(space, seed)
        self._unseen = Unseen(space, seed)
        self._models: dict[str, Model] = {}
        self._told: dict[str, Trial] = {}  # by meaning
        self._open: dict[str, Point] = {}

    def ask(self, count: int) -> list[Proposal]:
        proposals = []
        for _ in range(count):
            proposal = self._unseen.propose(self._draw)
            self._open[self._space.key(proposal.point)] = proposal.point
            proposals.append(proposal)
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        self._unseen.note(trials)
        for trial in trials:
            key = self._space.key(trial.point)
            self._open.pop(key, None)
            if trial.state != "duplicate":
                self._told[key] = trial

    @abstractmethod
    def _aim(self, seen: Seen, rng: np.random.Generator) -> tuple[NDArray[np.int64], Gain]:
        """The indices of the points that are best, and what others would be worth."""

    def _model(self, name: str) -> Model:
        if name not in self._models:
            self._models[name] = Model(self._encoder.described, self._seed)
        return self._models[name]

    def _draw(self, rng: np.random.Generator) -> Point:
        known = [trial for trial in self._told.values() if trial.state != "failed"]
        if len(self._told) + len(self._open) < self._start or len(known) < 2:
            return self._space.sample(rng)
        parents, gain = self._plan(known, rng)
        points = [self._space.sample(rng) for _ in range(RANDOM)]
        for number in range(NEAR):
            point = self._space.mutate(parents[int(rng.integers(len(parents)))], rng)
            points.append(self._space.mutate(point, rng) if number % 3 == 0 else point)
        points = [point for point in points if point in self._unseen]
        if not points:
            return self._space.sample(rng)
        candidates = self._encoder.encode(points)
        return points[int(np.argmax(gain(candidates) * self._chances(known, candidates)))]

    def _plan(self, known: Sequence[Trial], rng: np.random.Generator) -> tuple[list[Point], Gain]:
        """Whose neighbours to weigh, and by what; as long as limits were never kept, by nothing but chances."""
        done = [trial for trial in known if trial.state == "done"]
        if not any(self._violation(trial) == 0 for trial in done):
            nearest = min(known, key=self._violation)
            return [nearest.point], lambda candidates: np.ones(len(candidates))
        seen = Seen(
            self._encoder.encode([trial.point for trial in done]),
            np.array([[o.loss(trial.metrics) for o in self._optimised] for trial in done]),
            np.array([self._violation(trial) == 0 for trial in done]),
            self._encoder.encode(list(self._open.values())),
        )
        best, gain = self._aim(seen, rng)
        return [done[index].point for index in best], gain

    def _violation(self, trial: Trial) -> float:
        return sum(objective.violation(trial.metrics) for objective in self._objectives)

    def _chances(self, known: Sequence[Trial], candidates: Encoded) -> Numbers:
        """The chance (points,) that a point trains well and keeps every limit, each by a process of its own."""
        chance = np.ones(len(candidates))
        told = list(self._told.values())
        if len(known) < len(told):
            works = np.array([float(trial.state != "failed") for trial in told])
            points = self._encoder.encode([trial.point for trial in told])
            mean, _ = self._model("works").learn(points, works).predict(candidates)
            chance *= np.clip(mean, LEAST_CHANCE, 1.0)
        for objective in self._objectives:
            rows = [trial for trial in known if objective.metric in trial.metrics]
            if objective.limit is not None and len(rows) > 1:
                bound = objective.loss({objective.metric: objective.limit})
                losses = np.array([objective.loss(trial.metrics) for trial in rows])
                points = self._encoder.encode([trial.point for trial in rows])
                process = self._model(f"limit of {objective.metric}").learn(points, losses)
                mean, deviation = process.predict(candidates)
                chance *= ndtr((bound - mean) / deviation)
        return chance


def believe(process: Gaussian, open: Encoded) -> tuple[Gaussian, Numbers]:
    """The process if what is `open` came out as it believes, and these losses (points,), so that what is asked for
    in one batch differs (the Kriging believer; Ginsbourger, Le Riche and Carraro, 2010)."""
    if not len(open):
        return process, np.zeros(0)
    believed, _ = process.predict(open)
    return process.believing(open, believed), believed
