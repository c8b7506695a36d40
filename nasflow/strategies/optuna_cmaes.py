"""CMA-ES by Optuna, which knows numbers and one objective: how choices become numbers, and a front one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import CmaEsSampler

from nasflow.record import quiet_optuna
from nasflow.scalarise import lattice
from nasflow.space import Choice, Parameter, Scalar, Space
from nasflow.study import Objective, Proposal, Trial

CONVERGED = 20  # known points one after the other
PATIENCE = 100  # known points one after the other, restarts and all
WEIGHTS = 7


class CmaEs:
    """CMA-ES through a study of its own, begun anew from another seed when it proposes nothing but known points.

    An ordered choice is an integer. An unordered one is as many numbers in [0, 1] as it has options, of which the
    largest says which. What is minimised is the place of a trial among all so far, summed over the objectives by
    weights that change with each beginning; one that oversteps the limits, or fails, comes after all that do not.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        seed: int,
        population: int | None,
        separable: bool,
    ) -> None:
        self._space = space
        self._optimised = [objective for objective in objectives if objective.optimise]
        self._limited = [objective for objective in objectives if objective.limit is not None]
        self._seed = seed
        self._population = population
        self._separable = separable and sum(_numbers(p) for p in space.parameters) > 1  # Optuna warns of one
        self._lattice = lattice(WEIGHTS, len(self._optimised))
        self._runs = 0
        self._asked: dict[str, list[optuna.Trial]] = {}
        self._rows: dict[str, NDArray[np.float64]] = {}  # by key: overstepping, then losses
        self._begin()

    def ask(self, count: int) -> list[Proposal]:
        """Points that are not known; fewer than `count` once they are hard to find."""
        proposals: list[Proposal] = []
        known = 0
        while len(proposals) < count and known < PATIENCE:
            trial = self._study.ask()
            point = {p.name: _suggest(trial, p) for p in self._space.parameters}
            key = self._space.key(point)
            if key in self._rows:
                known += 1
                self._study.tell(trial, self._rank(self._rows[key]))
                if known % CONVERGED == 0:
                    self._begin()
                continue
            known = 0
            self._asked.setdefault(key, []).append(trial)
            proposals.append(Proposal(point))
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._rows.setdefault(self._space.key(trial.point), self._row(trial))
        for trial in trials:
            key = self._space.key(trial.point)
            for mine in self._asked.pop(key, []):
                self._study.tell(mine, self._rank(self._rows[key]))

    def _begin(self) -> None:
        with quiet_optuna():
            seed = int(np.random.default_rng((self._seed, self._runs)).integers(2**31))
            sampler = CmaEsSampler(
                seed=seed,
                popsize=self._population,
                use_separable_cma=self._separable,
                warn_independent_sampling=False,
            )
            self._study = optuna.create_study(sampler=sampler)
        self._weights = by_turns(self._lattice)[self._runs % len(self._lattice)]
        self._asked = {}
        self._runs += 1

    def _row(self, trial: Trial) -> NDArray[np.float64]:
        """How far limits are overstepped, infinitely if nothing came of the trial; then the losses, if by nothing."""
        over = sum(o.violation(trial.metrics) for o in self._limited)
        known = trial.state != "failed" and all(o.metric in trial.metrics for o in self._optimised)
        if not known:
            over = over or np.inf
        losses = [o.loss(trial.metrics) if known and not over else 0.0 for o in self._optimised]
        return np.array([over, *losses])

    def _rank(self, row: NDArray[np.float64]) -> float:
        """The weighted share of trials so far that are better; those outside the limits begin at 1."""
        rows = np.array(list(self._rows.values()))
        if row[0] > 0:
            return 1.0 + float((rows[:, 0] < row[0]).mean())
        within = rows[rows[:, 0] == 0, 1:]
        return float((within < row[1:]).mean(axis=0) @ self._weights)


def by_turns(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (weights, objectives), the most even first."""
    return weights[np.argsort(weights.max(axis=1), kind="stable")]


def cmaes(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    population: int | None = None,
    separable: bool = True,
) -> CmaEs:
    """CMA-ES (Hansen and Ostermeier, Evolutionary Computation 2001), begun anew when it has converged (Auger and
    Hansen, CEC 2005, without their growing population). The `population` is 4 + 3 ln(numbers) unless given.

    `separable` adapts a step for each number and not for each two of them (Ros and Hansen, PPSN 2008), which takes as
    many times fewer evaluations to learn; choices become so many numbers that a short search learns nothing else."""
    return CmaEs(space, objectives, seed, population, separable)


def _numbers(parameter: Parameter) -> int:
    """How many numbers `_suggest` asks for that can vary."""
    if not isinstance(parameter, Choice):
        return 1
    return min(1, len(parameter.options) - 1) if parameter.ordered else len(parameter.options)


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Scalar:
    if not isinstance(parameter, Choice):
        return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)
    options = range(len(parameter.options))
    if parameter.ordered:
        return parameter.options[trial.suggest_int(parameter.name, 0, options[-1])]
    weights = [trial.suggest_float(f"{parameter.name}={option}", 0.0, 1.0) for option in options]
    return parameter.options[int(np.argmax(weights))]
