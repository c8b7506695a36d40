"""IBEA: fitness from comparing every point with every other by an indicator, without fronts or crowding."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from nasflow import pareto
from nasflow.space import Space
from nasflow.strategies.population import Evolution, Numbers, Scale
from nasflow.study import Objective

KAPPA = 0.05


def ibea(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    population: int = 20,
    kappa: float = KAPPA,
    scale: Scale = "places",
) -> Evolution:
    """IBEA with the additive epsilon indicator (Zitzler and Künzli, PPSN 2004), its adaptive version: losses are
    scaled to the members' extent and indicators by their largest. A small `kappa` lets domination decide almost alone.

    Losses count by their place among all that were seen, where the paper's count by value (`scale`): the cheapest
    networks err so much that by value the useful ones are all the same. Both scales are found anew after each member
    that is dropped; the paper keeps them for a generation.
    """
    return Evolution(
        space, objectives, seed, population, functools.partial(fitness, kappa=kappa), scale=scale
    )


def fitness(losses: pareto.Losses, kappa: float = KAPPA) -> Numbers:
    """What the other points make each lose: the sum of exp(-I(other, it) / (kappa c)), c being the largest |I|."""
    indicators = epsilon(pareto.normalised(losses))
    scale = np.abs(indicators).max() or 1.0
    lost = np.exp(-indicators / (scale * kappa))
    np.fill_diagonal(lost, 0.0)
    total: Numbers = lost.sum(axis=0)
    return total


def epsilon(losses: pareto.Losses) -> Numbers:
    """Array (points, points): by how much the first has to improve in every objective to be as good as the second."""
    gaps: Numbers = (losses[:, None, :] - losses[None, :, :]).max(axis=2)
    return gaps
