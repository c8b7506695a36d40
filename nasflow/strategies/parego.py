"""ParEGO (Knowles, IEEE TEC 2006): each proposal aims at one point of the front, by the expected improvement of all
losses made one by weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nasflow import pareto, scalarise
from nasflow.scalarise import AUGMENTATION
from nasflow.space import Space
from nasflow.strategies.bayesian import Bayesian, Gain, Seen, believe
from nasflow.strategies.encoding import Encoded, Numbers
from nasflow.strategies.gaussian import Model
from nasflow.strategies.improvement import below
from nasflow.strategies.population import Scale, check_scale
from nasflow.strategies.scalarised import WEIGHTS
from nasflow.study import Objective

PARENTS = 5  # best points whose neighbours are weighed


class ParEGO(Bayesian):
    """Draws weights from a simplex lattice for each proposal, makes the losses seen, scaled to [0, 1], one number
    by the augmented Tchebycheff formula, and fits a Gaussian process to it."""

    def __init__(
        self, space: Space, objectives: Sequence[Objective], seed: int, start: int, rho: float, scale: Scale
    ) -> None:
        super().__init__(space, objectives, seed, start)
        self._rho = rho
        self._scale = check_scale(scale)
        self._weights = scalarise.lattice(WEIGHTS, len(self._optimised))

    def _aim(self, seen: Seen, rng: np.random.Generator) -> tuple[NDArray[np.int64], Gain]:
        weights = self._weights[int(rng.integers(len(self._weights)))]
        scalars = scalarised(seen.losses, weights, self._rho, self._scale)
        process = Model(self._encoder.described, self._seed).learn(seen.points, scalars)
        process, believed = believe(process, seen.open)
        least = np.concatenate([scalars[seen.within], believed]).min()

        def gain(candidates: Encoded) -> Numbers:
            mean, deviation = process.predict(candidates, noise=False)
            return below(least, mean, deviation)

        within = np.flatnonzero(seen.within)
        return within[np.argsort(scalars[within], kind="stable")[:PARENTS]], gain


def scalarised(
    losses: Numbers, weights: Numbers, rho: float = AUGMENTATION, scale: Scale = "values"
) -> Numbers:
    """Losses (points, objectives), scaled by their own range or by their places in it, as one number each, lower is
    better. A single objective keeps its values, which say more than places and compete with no others."""
    by_place = scale == "places" and losses.shape[1] > 1
    scaled = pareto.places(losses) if by_place else pareto.normalised(losses)
    return scalarise.tchebycheff(scaled, weights, np.zeros(len(weights)), rho)


def parego(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    start: int = 10,
    rho: float = AUGMENTATION,
    scale: Scale = "places",
) -> ParEGO:
    """ParEGO. The paper starts with 11 d - 1 points of a Latin hypercube for d parameters, more than a short search
    has in all: here with `start` random ones. It breeds the point of highest expected improvement: here that is the
    best of some hundred, random ones and neighbours of those that are best by the same weights. Several losses
    count by their places among all that were seen, where the paper's count by value (`scale`): the cheapest networks
    err so much that by value the useful ones are all the same. Limits, failures and batches are no part of it."""
    return ParEGO(space, objectives, seed, start, rho, scale)
