"""HypE: fitness as the share in the hypervolume that a point would take along if it and some others were dropped."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nasflow import pareto
from nasflow.space import Space
from nasflow.strategies.population import Evolution, Numbers, Scale
from nasflow.study import Objective

REFERENCE = 1.1
SAMPLES = 10_000


def hype(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    population: int = 20,
    samples: int = SAMPLES,
    scale: Scale = "places",
) -> Evolution:
    """HypE (Bader and Zitzler, Evolutionary Computation 2011): parents by the expected share in the hypervolume that is
    lost with them, survivors by what the last front loses with them.

    Losses count by their place among all that were seen, which makes it the hypervolume weighted by how many networks
    lie there (Zitzler, Brockhoff and Thiele, EMO 2007): the cheapest networks err so much that by value (`scale`)
    everything useful is a corner of the volume. Either is scaled to the members' extent and the reference lies a tenth
    beyond it. Volumes are exact while the coordinates of the points cut the space into at most `samples` cells, else
    from as many random positions.
    """
    return Evolution(
        space,
        objectives,
        seed,
        population,
        functools.partial(fitness, samples=samples),
        functools.partial(worst, samples=samples),
        scale,
    )


def fitness(losses: pareto.Losses, samples: int = SAMPLES) -> Numbers:
    """Minus the expected loss with each point, if any number of the others could be dropped too."""
    return -expected_loss(pareto.normalised(losses), len(losses), REFERENCE, samples)


def worst(losses: pareto.Losses, surplus: int, samples: int = SAMPLES) -> int:
    """The point of the last front with which the least is expected to be lost, when `surplus` points have to go."""
    fronts = pareto.ranks(losses)
    last = np.flatnonzero(fronts == fronts.max())
    lost = expected_loss(pareto.normalised(losses)[last], min(surplus, len(last)), REFERENCE, samples)
    return int(last[lost.argmin()])


def expected_loss(losses: pareto.Losses, dropped: int, reference: float, samples: int = SAMPLES) -> Numbers:
    """By how much the hypervolume is expected to fall with each point, if it and `dropped` - 1 others chosen at random
    are dropped, in equal parts to all that are dropped with it (definition 3.2 and theorem 3.3 of the paper).

    One dropped: the hypervolume that is the point's alone. `reference` is the same for all objectives.
    """
    count = len(losses)
    corners, volumes = _cells(losses, reference, samples)
    reached = (losses[:, None, :] <= corners).all(axis=2)
    shares = np.zeros(count + 1)  # by how many reach a cell
    chance = 1.0  # that all the others which reach it are dropped as well
    for sharing in range(1, dropped + 1):
        shares[sharing] = chance / sharing
        chance *= (dropped - sharing) / max(1, count - sharing)
    lost: Numbers = reached @ (shares[reached.sum(axis=0)] * volumes)
    return lost


def _cells(
    losses: pareto.Losses, reference: float, samples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower corners (cells, objectives) and volumes of cells that each are reached as a whole or not at all; of random
    positions instead if the cells would be more than `samples`."""
    low = losses.min(axis=0)
    sides = [np.append(np.unique(values[values < reference]), reference) for values in losses.T]
    if np.prod([len(side) - 1.0 for side in sides]) > samples:
        positions = np.random.default_rng(0).random((samples, losses.shape[1]))
        volume = np.prod(reference - low) / samples
        return low + positions * (reference - low), np.full(samples, volume)
    corners = np.stack(
        [axis.ravel() for axis in np.meshgrid(*[s[:-1] for s in sides], indexing="ij")], axis=1
    )
    lengths = np.stack(
        [axis.ravel() for axis in np.meshgrid(*[np.diff(s) for s in sides], indexing="ij")], axis=1
    )
    return corners, lengths.prod(axis=1)
