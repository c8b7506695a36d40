"""NSGA-II: fronts first, and within a front whoever has the most room around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nasflow import pareto
from nasflow.space import Space
from nasflow.strategies.population import Evolution, Numbers
from nasflow.study import Objective


def nsga2(space: Space, objectives: Sequence[Objective], *, seed: int = 0, population: int = 20) -> Evolution:
    """NSGA-II (Deb et al., IEEE TEC 2002) with constrained domination, uniform crossover and the space's mutations.

    Survivors are chosen whenever trials are told, instead of once per generation (steady state; Durillo et al.,
    EMO 2009), and crowding is found anew after each that is dropped (Kukkonen and Deb, CEC 2006).
    """
    return Evolution(space, objectives, seed, population, fitness)


def fitness(losses: pareto.Losses) -> Numbers:
    """The number of a point's front, plus at most a half that falls as its crowding distance rises."""
    return pareto.ranks(losses) + 1.0 / (2.0 + crowding(losses))


def crowding(losses: pareto.Losses) -> Numbers:
    """Crowding distance of each point within its front: per objective the gap between its two neighbours as a share
    of the front's extent, summed; infinite for the best and worst of an objective."""
    distances = np.zeros(len(losses))
    fronts = pareto.ranks(losses)
    for values in losses.T:
        order = np.lexsort((values, fronts))
        ordered, first = values[order], np.diff(fronts[order], prepend=-1) > 0
        starts = np.flatnonzero(first)
        extents = np.maximum.reduceat(ordered, starts) - np.minimum.reduceat(ordered, starts)
        before = np.where(first, np.inf, np.diff(ordered, prepend=0.0))
        after = np.append(before[1:], np.inf)
        distances[order] += (before + after) / np.where(extents > 0, extents, 1.0)[np.cumsum(first) - 1]
    return distances
