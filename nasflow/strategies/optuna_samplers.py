"""Optuna's samplers as strategies: one adapter, and one function for each sampler. CMA-ES is in optuna_cmaes.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    TPESampler,
)
from optuna.trial import TrialState

from nasflow.record import quiet_optuna
from nasflow.scalarise import lattice
from nasflow.space import Choice, Parameter, Point, Scalar, Space
from nasflow.study import Objective, Proposal, Trial


class OptunaSampler:
    """Any Optuna sampler, asked and told through a study of its own in memory.

    Ordered choices are integers to the sampler, the others categories. Limits are Optuna's constraints. What
    nobody knows of a refused trial is told as the worst loss seen: a sampler that minds constraints never ranks
    it above a feasible one. So is all of a failed trial, with the worst overstepping of limits too, since
    samplers forget what Optuna calls failed and would propose it again and again.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], sampler: BaseSampler) -> None:
        self._space = space
        self._optimised = [objective for objective in objectives if objective.optimise]
        self._limited = [objective for objective in objectives if objective.limit is not None]
        self._distributions = {p.name: _distribution(p) for p in space.parameters}
        self._asked: dict[frozenset[tuple[str, Scalar]], list[optuna.Trial]] = {}
        with quiet_optuna():
            self._study = optuna.create_study(directions=["minimize"] * len(self._optimised), sampler=sampler)
        self._worst: dict[str, float] = {}  # losses by metric
        self._worst_violation = 1.0

    def ask(self, count: int) -> list[Proposal]:
        proposals = []
        for _ in range(count):
            trial = self._study.ask()
            point = {p.name: _suggest(trial, p) for p in self._space.parameters}
            self._asked.setdefault(frozenset(point.items()), []).append(trial)
            proposals.append(Proposal(point))
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        asked = self._asked.get(frozenset(trial.point.items()))
        mine = asked.pop(0) if asked else None
        judged = self._judged(trial)
        if judged is None:
            if mine is not None:
                self._study.tell(mine, state=TrialState.FAIL)
            return
        losses, violations = judged
        if mine is None:  # asked by an earlier run that this one did not repeat exactly, or by nobody
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=_encoded(self._space, trial.point),
                    distributions=self._distributions,
                    values=losses,
                    constraints=violations,
                )
            )
            return
        for metric, violation in violations.items():
            mine.set_constraint(metric, violation)
        self._study.tell(mine, losses)

    def _judged(self, trial: Trial) -> tuple[list[float], dict[str, float]] | None:
        """Losses and violations that the sampler is told; None for a failure before anything else is known."""
        known = {} if trial.state == "failed" else trial.metrics
        for o in self._optimised:
            if o.metric in known:
                self._worst[o.metric] = max(o.loss(known), self._worst.get(o.metric, -math.inf))
        violations = {o.metric: o.violation(known) for o in self._limited}
        self._worst_violation = max([self._worst_violation, *violations.values()])
        if any(o.metric not in known for o in self._optimised) and not any(violations.values()):
            if not self._worst:
                return None
            known, violations = {}, dict.fromkeys(violations, self._worst_violation)
        losses = [
            o.loss(known) if o.metric in known else self._worst.get(o.metric, 0.0) for o in self._optimised
        ]
        return losses, violations


def _distribution(parameter: Parameter) -> BaseDistribution:
    if not isinstance(parameter, Choice):
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    if parameter.ordered:
        return IntDistribution(0, len(parameter.options) - 1)
    return CategoricalDistribution(tuple(range(len(parameter.options))))


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Scalar:
    if not isinstance(parameter, Choice):
        return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)
    count = len(parameter.options)
    if parameter.ordered:
        return parameter.options[trial.suggest_int(parameter.name, 0, count - 1)]
    return parameter.options[trial.suggest_categorical(parameter.name, range(count))]


def _encoded(space: Space, point: Point) -> dict[str, Scalar]:
    return {
        p.name: p.index(point[p.name]) if isinstance(p, Choice) else point[p.name] for p in space.parameters
    }


def tpe(space: Space, objectives: Sequence[Objective], *, seed: int = 0, startup: int = 10) -> OptunaSampler:
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), multivariate, multi-objective
    (Ozaki et al., GECCO 2020); `startup` random trials first."""
    with quiet_optuna():
        sampler = TPESampler(n_startup_trials=startup, multivariate=True, seed=seed)
    return OptunaSampler(space, objectives, sampler)


def tpe_univariate(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, startup: int = 10
) -> OptunaSampler:
    """The same, with a model of its own for each parameter: Optuna's default."""
    with quiet_optuna():
        sampler = TPESampler(n_startup_trials=startup, multivariate=False, seed=seed)
    return OptunaSampler(space, objectives, sampler)


def gp(space: Space, objectives: Sequence[Objective], *, seed: int = 0, startup: int = 10) -> OptunaSampler:
    """Gaussian processes and the logarithm of the expected (hypervolume) improvement (Ament et al., NeurIPS 2023;
    Daulton et al., NeurIPS 2020), times the probability of keeping every limit; `startup` random trials first."""
    with quiet_optuna():
        sampler = GPSampler(n_startup_trials=startup, seed=seed)
    return OptunaSampler(space, objectives, sampler)


def qmc(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, sequence: str = "sobol"
) -> OptunaSampler:
    """Points that fill the space more evenly than random ones: the scrambled `sequence` of Sobol ("sobol"; Owen, 1998)
    or Halton ("halton"). It does not learn."""
    with quiet_optuna():
        sampler = QMCSampler(qmc_type=sequence, scramble=True, seed=seed, warn_independent_sampling=False)
    return OptunaSampler(space, objectives, sampler)


def nsga2(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, population: int = 50
) -> OptunaSampler:
    """NSGA-II (Deb et al., IEEE TEC 2002), uniform crossover, constrained domination for limits."""
    with quiet_optuna():
        return OptunaSampler(space, objectives, NSGAIISampler(population_size=population, seed=seed))


def nsga3(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, population: int = 20
) -> OptunaSampler:
    """NSGA-III (Deb and Jain, IEEE TEC 2014): as NSGA-II, but the last front is thinned out by niches around
    directions, at least `population` of them. That is 20, not Optuna's 50, so that a short search has generations."""
    count = sum(objective.optimise for objective in objectives)
    with quiet_optuna():
        sampler = NSGAIIISampler(
            population_size=population, reference_points=lattice(population, count), seed=seed
        )
    return OptunaSampler(space, objectives, sampler)
