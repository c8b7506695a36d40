"""Optuna's samplers as strategies: one adapter, and one line for each sampler."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState

from nasflow.space import Choice, Parameter, Point, Scalar, Space
from nasflow.study import Objective, Proposal, Trial


class OptunaSampler:
    """Any Optuna sampler, asked and told through a study of its own in memory.

    Ordered choices are integers to the sampler, the others categories. Limits are Optuna's constraints. A refused
    trial, whose training was never paid for, is told with its violation and, for the objectives nobody knows,
    the worst loss seen: a sampler that minds constraints never ranks it above a feasible one.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], sampler: BaseSampler) -> None:
        self._space = space
        self._optimised = [objective for objective in objectives if objective.optimise]
        self._limited = [objective for objective in objectives if objective.limit is not None]
        self._distributions = {p.name: _distribution(p) for p in space.parameters}
        self._asked: dict[frozenset[tuple[str, Scalar]], list[optuna.Trial]] = {}
        with _quiet():
            self._study = optuna.create_study(directions=["minimize"] * len(self._optimised), sampler=sampler)
        self._worst = [0.0] * len(self._optimised)

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
        losses = self._losses(trial)
        asked = self._asked.get(frozenset(trial.point.items()))
        if not asked:
            if losses is not None:  # asked by an earlier run that this one did not repeat exactly
                self._study.add_trial(
                    optuna.trial.create_trial(
                        params=_encoded(self._space, trial.point),
                        distributions=self._distributions,
                        values=losses,
                        constraints={o.metric: o.violation(trial.metrics) for o in self._limited},
                    )
                )
            return
        mine = asked.pop(0)
        if losses is None:
            self._study.tell(mine, state=TrialState.FAIL)
            return
        for objective in self._limited:
            mine.set_constraint(objective.metric, objective.violation(trial.metrics))
        self._study.tell(mine, losses)

    def _losses(self, trial: Trial) -> list[float] | None:
        """What the sampler is told; None for a failure, which says nothing about the objectives."""
        known = [o.metric in trial.metrics for o in self._optimised]
        over = any(o.violation(trial.metrics) > 0 for o in self._limited)
        if trial.state == "failed" or not (all(known) or over):
            return None
        losses = [
            o.loss(trial.metrics) if o.metric in trial.metrics else self._worst[i]
            for i, o in enumerate(self._optimised)
        ]
        self._worst = [max(a, b) for a, b in zip(self._worst, losses, strict=True)]
        return losses


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna tells of every study and of experimental features; its user here did not ask for either."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


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


def nsga2(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, population: int = 20
) -> OptunaSampler:
    """NSGA-II (Deb et al., IEEE TEC 2002) by Optuna, uniform crossover, constrained domination for limits.

    The population is 20, not Optuna's 50, since a training costs enough for most searches to be short.
    """
    with _quiet():
        return OptunaSampler(space, objectives, NSGAIISampler(population_size=population, seed=seed))


def tpe(space: Space, objectives: Sequence[Objective], *, seed: int = 0, startup: int = 10) -> OptunaSampler:
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), multivariate, multi-objective
    (Ozaki et al., GECCO 2020), by Optuna; `startup` random trials first."""
    with _quiet():
        return OptunaSampler(
            space, objectives, TPESampler(n_startup_trials=startup, multivariate=True, seed=seed)
        )
