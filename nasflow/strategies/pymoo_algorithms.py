"""pymoo's algorithms as strategies: one adapter, and one function for each algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling

from nasflow.space import Choice, Parameter, Point, Space
from nasflow.study import Objective, Proposal, Trial

STEPS = 1000
UNKNOWN = 1e12


class PymooAlgorithm:
    """Any pymoo algorithm, fed generation by generation and handed out in batches of any size.

    Every parameter is an integer to pymoo (the index of a choice, one of 1001 positions of a real); limits are
    its constraints. What a refused or failed trial does not know is worse than anything real. The search ends
    when pymoo finds no point that is not in its population already.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], algorithm: Any, seed: int) -> None:
        self._space = space
        self._optimised = [objective for objective in objectives if objective.optimise]
        self._limited = [objective for objective in objectives if objective.limit is not None]
        upper = [len(p.options) - 1 if isinstance(p, Choice) else STEPS for p in space.parameters]
        problem = Problem(
            n_var=len(upper),
            n_obj=len(self._optimised),
            n_ieq_constr=len(self._limited),
            xl=np.zeros(len(upper)),
            xu=np.array(upper),
            vtype=int,
        )
        self._algorithm = algorithm
        self._algorithm.setup(problem, termination=NoTermination(), seed=seed, verbose=False)
        self._generation: Any = None
        self._points: list[Point] = []  # the members of this generation that were handed out
        self._told: dict[int, Trial] = {}

    def ask(self, count: int) -> list[Proposal]:
        """The next members of this generation; none while its last ones are not told yet."""
        if self._generation is None:
            self._generation = self._algorithm.ask()
        if self._generation is None:
            return []
        start = len(self._points)
        self._points += [self._decode(member.X) for member in self._generation[start : start + count]]
        return [Proposal(point) for point in self._points[start:]]

    def tell(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._place(trial)
        if self._generation is None or len(self._told) < len(self._generation):
            return
        told = [self._told[member] for member in range(len(self._generation))]
        self._generation.set("F", np.array([self._losses(trial) for trial in told]))
        if self._limited:
            self._generation.set("G", np.array([self._violations(trial) for trial in told]))
        self._algorithm.tell(infills=self._generation)
        self._generation, self._points, self._told = None, [], {}

    def _place(self, trial: Trial) -> None:
        """Note what became of a member. One that was asked otherwise in the record takes another's place."""
        waiting = [member for member in range(len(self._points)) if member not in self._told]
        mine = [member for member in waiting if self._points[member] == trial.point]
        if mine:
            self._told[mine[0]] = trial
        elif waiting:
            self._told[waiting[0]] = trial
            self._generation[waiting[0]].X = self._encode(trial.point)

    def _decode(self, x: Any) -> Point:
        return {
            p.name: p.options[int(i)] if isinstance(p, Choice) else p.at(int(i) / STEPS)
            for p, i in zip(self._space.parameters, x, strict=True)
        }

    def _encode(self, point: Point) -> Any:
        def position(p: Parameter) -> int:
            value = point[p.name]
            return p.index(value) if isinstance(p, Choice) else round(p.position(float(value or 0.0)) * STEPS)

        return np.array([position(p) for p in self._space.parameters])

    def _losses(self, trial: Trial) -> list[float]:
        known = {} if trial.state == "failed" else trial.metrics
        return [o.loss(known) if o.metric in known else UNKNOWN for o in self._optimised]

    def _violations(self, trial: Trial) -> list[float]:
        """Constraints of pymoo; a trial that failed keeps none, or it would be preferred to one that oversteps."""
        if UNKNOWN in self._losses(trial) and not any(o.violation(trial.metrics) for o in self._limited):
            return [UNKNOWN] * len(self._limited)
        return [o.violation(trial.metrics) for o in self._limited]


def nsga2(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, population: int = 20
) -> PymooAlgorithm:
    """NSGA-II (Deb et al., IEEE TEC 2002) by pymoo: simulated binary crossover and polynomial mutation on rounded
    integers, duplicates within a generation removed."""
    algorithm = NSGA2(
        pop_size=population,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    return PymooAlgorithm(space, objectives, algorithm, seed)
