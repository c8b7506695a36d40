"""How an algorithm of pymoo becomes a strategy: what it sees of a space, and what it is told."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM

from nasflow.space import Choice, Parameter, Point, Space
from nasflow.study import Objective, Proposal, Trial

STEPS = 1000
FAILED = 1e6  # overstepping of a trial that gave nothing: more than any real one
PATIENCE = 50  # generations without anything new
PENALTY = 1e12  # a loss that is worse than anything real
# How many unordered choices mutation changes in each child, on average: few, as rounding does where there is an order.
# One for each child, as in the textbook, makes short searches worse.
RESET = 1 / 3
SPREAD = 3.0  # distribution index of both operators: wide enough that a step rarely rounds to nothing


class PymooAlgorithm:
    """Any pymoo algorithm, fed generation by generation and handed out in batches of any size.

    Every parameter is an integer to pymoo: the index of a choice, or one of 1001 positions of a real. Limits are its
    constraints, and to have failed is one more, so that nothing depends on losses that nobody knows; where they
    have to be numbers, they are the worst seen. An algorithm that minds no constraints (`constrained=False`) is told
    a loss worse than anything real instead, the worse the further the limits are overstepped. Losses are scaled,
    since some algorithms measure angles between them before they know their extent: by the extent of the first
    generation, or with `by_place` so that its members lie evenly (`Places`), for those to which angles are everything.

    What was told once is not asked again: where pymoo breeds a known point again, it is answered from memory. The
    search ends when fifty generations hold nothing new.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        algorithm: Any,
        seed: int,
        *,
        constrained: bool = True,
        termination: Any = None,
        by_place: bool = False,
    ) -> None:
        self._space = space
        self._optimised = [objective for objective in objectives if objective.optimise]
        self._limited = [objective for objective in objectives if objective.limit is not None]
        self._constrained = constrained
        upper = [len(p.options) - 1 if isinstance(p, Choice) else STEPS for p in space.parameters]
        problem = Problem(
            n_var=len(upper),
            n_obj=len(self._optimised),
            n_ieq_constr=len(self._limited) + 1 if constrained else 0,
            xl=np.zeros(len(upper)),
            xu=np.array(upper),
            vtype=int,
        )
        self._algorithm = algorithm
        self._algorithm.setup(problem, termination=termination or NoTermination(), seed=seed, verbose=False)
        self._generation: Any = None
        self._keys: list[str] = []  # what the members of this generation mean
        self._left: dict[str, Point] = {}  # by key: those that nobody was asked for yet
        self._open: list[str] = []  # those that were asked for and not told yet
        self._memory: dict[str, Trial] = {}
        self._worst = np.zeros(len(self._optimised))  # losses, scaled
        self._scaling: type[Extent | Places] = Places if by_place else Extent
        self._scales: list[Extent | Places] | None = None

    def ask(self, count: int) -> list[Proposal]:
        """The next members of this generation; none while its last ones are not told yet."""
        for _ in range(PATIENCE):
            if self._generation is None and not self._breed():
                return []
            if self._left or self._open:
                break
            self._finish()
        asked = [(key, self._left.pop(key)) for key in list(self._left)[:count]]
        self._open += [key for key, _ in asked]
        return [Proposal(point) for _, point in asked]

    def tell(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            key = self._space.key(trial.point)
            self._memory.setdefault(key, trial)
            if key not in self._open and self._open:
                self._replace(self._open[0], key, trial.point)
            if key in self._open:
                self._open.remove(key)
        if self._generation is not None and not self._left and not self._open:
            self._finish()

    def _breed(self) -> bool:
        """Whether pymoo has another generation."""
        with _quiet():
            self._generation = self._algorithm.ask()
        if self._generation is None:
            return False
        points = [self._decode(member.X) for member in self._generation]
        self._keys = [self._space.key(point) for point in points]
        bred = dict(zip(reversed(self._keys), reversed(points), strict=True))
        self._left = {key: bred[key] for key in self._keys if key not in self._memory}
        return True

    def _replace(self, old: str, new: str, point: Point) -> None:
        """Give what the record holds instead of a member, as one of another version may, the place of that member."""
        for member, key in zip(self._generation, self._keys, strict=True):
            if key == old:
                member.X = self._encode(point)
        self._keys = [new if key == old else key for key in self._keys]
        self._open[self._open.index(old)] = new

    def _finish(self) -> None:
        """Tell pymoo about the whole generation."""
        told = [self._memory[key] for key in self._keys]
        losses, violations = self._losses(told), self._violations(told)
        if self._constrained:
            self._generation.set("F", losses, "G", violations)
        else:
            over = violations.sum(axis=1, keepdims=True)
            self._generation.set("F", np.where(over > 0, PENALTY * (1.0 + over), losses))
        with _quiet():
            self._algorithm.tell(infills=self._generation)
        self._generation = None

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

    def _losses(self, trials: Sequence[Trial]) -> NDArray[np.float64]:
        """Array (trials, objectives), scaled by the first generation of which anything is known."""
        rows = [[o.loss(t.metrics) if _knows(t, o) else np.nan for o in self._optimised] for t in trials]
        losses = np.array(rows, dtype=float)
        if self._scales is None and np.isfinite(np.fmax.reduce(losses, axis=0)).all():
            self._scales = [self._scaling.of(values) for values in losses.T]
        if self._scales is not None:
            scaled = [scale(values) for scale, values in zip(self._scales, losses.T, strict=True)]
            losses = np.column_stack(scaled)
            self._worst = np.fmax(self._worst, np.fmax.reduce(losses, axis=0))
        return np.where(np.isnan(losses), self._worst, losses)

    def _violations(self, trials: Sequence[Trial]) -> NDArray[np.float64]:
        """Array (trials, limits and one more): by which share each limit is overstepped; the last says who failed."""
        limits = [[o.violation(trial.metrics) for o in self._limited] for trial in trials]
        silent = [any(not _knows(trial, o) for o in self._optimised) for trial in trials]
        failed = [FAILED * (lacks and not any(over)) for lacks, over in zip(silent, limits, strict=True)]
        return np.column_stack([np.array(limits).reshape(len(trials), -1), failed])


@dataclass(frozen=True)
class Extent:
    """Scales losses so that the best of some was 0 and the worst 1."""

    best: float
    span: float

    @classmethod
    def of(cls, losses: NDArray[np.float64]) -> Extent:
        best, worst = float(np.nanmin(losses)), float(np.nanmax(losses))
        return cls(best, worst - best if worst > best else 1.0)

    def __call__(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        return (losses - self.best) / self.span


@dataclass(frozen=True)
class Places:
    """Scales losses so that some lay evenly between 0 and 1; between two of them it is linear, and beyond the best and
    the worst as steep as in that half. By their extent, a few networks that learned nothing would put all the others
    in one direction as seen from the ideal."""

    known: NDArray[np.float64]  # different losses, ascending

    @classmethod
    def of(cls, losses: NDArray[np.float64]) -> Places:
        return cls(np.unique(losses[np.isfinite(losses)]))

    def __call__(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        count = len(self.known)
        if count == 1:
            return np.asarray(losses - self.known[0], dtype=float)
        low, middle, high = self.known[[0, count // 2, -1]]
        half = (count // 2) / (count - 1)
        below = (losses - low) * half / (middle - low)
        above = 1.0 + (losses - high) * (
            (1.0 - half) / (high - middle) if high > middle else half / (high - low)
        )
        within = np.interp(losses, self.known, np.linspace(0.0, 1.0, count))
        return np.where(losses < low, below, np.where(losses > high, above, within))


def _knows(trial: Trial, objective: Objective) -> bool:
    return trial.state != "failed" and objective.metric in trial.metrics


@contextmanager
def _quiet() -> Iterator[None]:
    """pymoo divides by the extent of fronts of one point, and changes the process's warning filters as it does."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        yield


class Crossover:
    """Simulated binary crossover (Deb and Agrawal, 1995) of what is ordered, rounded; unordered choices are each
    taken from one parent or the other. `n_offsprings` of each two parents, 1 or 2."""

    n_parents = 2

    def __init__(self, space: Space, n_offsprings: int = 2) -> None:
        self.n_offsprings = n_offsprings
        self._categories = _categories(space)
        self._binary = SBX(prob=1.0, eta=SPREAD)

    def __call__(self, problem: Any, parents: Any, *, random_state: Any, **kwargs: Any) -> Any:
        children = np.around(self._binary.do(problem, parents, random_state=random_state).get("X"))
        one, other = (np.array([pair[side].X for pair in parents])[:, self._categories] for side in (0, 1))
        swapped = random_state.random(one.shape) < 0.5
        both = np.concatenate([np.where(swapped, other, one), np.where(swapped, one, other)])
        children[:, self._categories] = both
        return Population.new("X", children.astype(int)[: len(parents) * self.n_offsprings])


class Mutation:
    """Polynomial mutation (Deb and Goyal, 1996) of what is ordered, rounded; an unordered choice becomes any other of
    its options. Few children change more than one parameter."""

    def __init__(self, space: Space) -> None:
        self._categories = _categories(space)
        self._polynomial = PM(prob=1.0, eta=SPREAD)

    def __call__(self, problem: Any, children: Any, *, random_state: Any, **kwargs: Any) -> Any:
        before = children.get("X")[:, self._categories]
        after = np.around(self._polynomial.do(problem, children, random_state=random_state).get("X"))
        options = problem.xu[self._categories].astype(int) + 1
        step = random_state.integers(0, np.maximum(options - 1, 1), size=before.shape) + 1
        changed = random_state.random(before.shape) < RESET / problem.n_var
        after[:, self._categories] = np.where(changed, (before + step) % options, before)
        return Population.new("X", after.astype(int))


def _categories(space: Space) -> NDArray[np.bool_]:
    return np.array([isinstance(p, Choice) and not p.ordered for p in space.parameters])
