"""Expected hypervolume improvement: models every loss and asks for what is expected to enlarge the front most.

`ehvi` takes the losses seen for what they are (Emmerich, Deutz and Klinkenberg, CEC 2011), `nehvi` for noisy
observations of what counts (Daulton, Balandat and Bakshy, NeurIPS 2021). Both stand on the Gaussian processes of
gaussian.py and the formulas of improvement.py and need no further package.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nasflow import pareto
from nasflow.errors import NasflowError
from nasflow.space import Space
from nasflow.strategies.bayesian import Bayesian, Gain, Seen, believe
from nasflow.strategies.encoding import Encoded, Numbers
from nasflow.strategies.gaussian import Gaussian
from nasflow.strategies.improvement import expected_improvement
from nasflow.study import Objective

BEYOND = 0.1  # how far behind the worst seen the reference is, as a share of the extent of what was seen


class DrawsError(NasflowError, ValueError):
    """Fewer than one draw of the front."""


class EHVI(Bayesian):
    """One Gaussian process for each loss; `draws` fronts as they may be without noise, or, if that is 0, the front
    that was seen."""

    def __init__(
        self, space: Space, objectives: Sequence[Objective], seed: int, start: int, draws: int
    ) -> None:
        super().__init__(space, objectives, seed, start)
        self._draws = draws

    def _aim(self, seen: Seen, rng: np.random.Generator) -> tuple[NDArray[np.int64], Gain]:
        spread = seen.losses.std(axis=0)
        losses = (seen.losses - seen.losses.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        pairs = [
            believe(self._model(objective.metric).learn(seen.points, values), seen.open)
            for objective, values in zip(self._optimised, losses.T, strict=True)
        ]
        processes = [process for process, _ in pairs]
        within = np.flatnonzero(seen.within)
        best = within[pareto.non_dominated(losses[within])]
        counted = Encoded.join([seen.points[within], seen.open])
        if self._draws:
            fronts = drawn(processes, counted, self._draws, rng)
        else:
            fronts = [np.vstack([losses[within], np.column_stack([believed for _, believed in pairs])])]

        def gain(candidates: Encoded) -> Numbers:
            predicted = [process.predict(candidates, noise=False) for process in processes]
            mean, deviation = (np.column_stack(values) for values in zip(*predicted, strict=True))
            gains = [expected_improvement(mean, deviation, front, reference(front)) for front in fronts]
            return np.asarray(np.mean(gains, axis=0))

        return best, gain


def reference(losses: Numbers) -> Numbers:
    """The corner (objectives,) up to which gains count: a tenth beyond the worst of all `losses` (points, objectives),
    as in the curves of a report. The worst of the front alone would make what extends it worth nothing."""
    extent = np.ptp(losses, axis=0)
    return np.asarray(losses.max(axis=0) + BEYOND * np.where(extent > 0, extent, 1.0))


def drawn(
    processes: Sequence[Gaussian], points: Encoded, draws: int, rng: np.random.Generator
) -> list[Numbers]:
    """`draws` times what the losses (points, objectives) may be without noise."""
    values = [process.draw(points, draws, rng) for process in processes]
    return [np.column_stack([of_one[number] for of_one in values]) for number in range(draws)]


def ehvi(space: Space, objectives: Sequence[Objective], *, seed: int = 0, start: int = 10) -> EHVI:
    """Expected hypervolume improvement after `start` random points; exact for one and two objectives."""
    return EHVI(space, objectives, seed, start, 0)


def nehvi(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, start: int = 10, draws: int = 8
) -> EHVI:
    """Noisy expected hypervolume improvement: its mean over `draws` fronts, drawn from what is believed of the points
    seen. The paper draws the candidate's losses together with the front and has derivatives to climb; here the
    improvement over each drawn front is the closed formula, and the best of some hundred candidates is taken."""
    if draws < 1:
        raise DrawsError(f"draws: expected at least 1, got {draws}; without draws it is the strategy ehvi")
    return EHVI(space, objectives, seed, start, draws)
