"""The default: models what is expensive, and trains what is expected to enlarge the front most.

Each objective is learned by a Gaussian process (gaussian.py) from what was told; of some hundred points, random ones
and neighbours of the front, the one with the highest expected hypervolume improvement (improvement.py) times its
chance to keep all limits and not to fail is asked for. Nothing has to be set:

- Losses are compared on a logarithmic scale that starts at the best seen and whose unit is the distance from there to
  the median of the first trials, so it does not matter in which unit or with which sign a metric comes.
- What counts as useful ends, for the first objective (the error), at what the median of all networks is believed to
  reach, and for the others at the worst of the front that is then believed to remain. When next to nothing is left to
  gain there, the whole front counts.
- When next to nothing is expected anywhere, or nothing came of what was expected, what is left to gain is what the
  models cannot foretell: neighbours of the front are then asked for as well (local_search.py), and the more often
  the more they bring.
- Metrics that `cheap` gives are modelled too, and found out exactly for the best few candidates.
- With a fidelity below 1 every point is looked at before it is trained in full (the first objective alone is believed
  to depend on the fidelity), and what a look says, or is believed to say, is one more number about a point, as in
  Kennedy and O'Hagan, Biometrika 2000.
- What is asked for in one batch after the first is chosen as if the first had come out as believed
  (Ginsbourger, Le Riche and Carraro, 2010).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from nasflow import pareto
from nasflow.space import Point, Scalar, Space
from nasflow.strategies.encoding import Encoded, Encoder, Numbers
from nasflow.strategies.gaussian import Gaussian, Model
from nasflow.strategies.improvement import expected_improvement
from nasflow.strategies.local_search import LocalSearch
from nasflow.strategies.population import Unseen
from nasflow.study import Metrics, Objective, Proposal, Trial

START = 8  # trainings in full before anything is modelled
PATIENCE = 2  # failures at the start, the extremes of the space, before random points are tried
CROWD = 20  # random points of which the farthest is a start
LOOKS = 3.0  # what the first looks may cost, in full trainings
MOST_LOOKS = 60
RANDOM, NEAR = 300, 300  # points that are weighed for each proposal
EXACT = 64  # the best of them by what is believed, of which what is cheap is found out
MOST = 400  # trials that a model learns from
FIRST = 10  # trials whose median is the unit of a loss
LITTLE = 5e-4  # expected gain, as a share of the useful hypervolume, that is next to nothing
IDLE = 16  # the last trainings, by which it is told whether they bring something
TRIES = 8  # neighbours of the front that may be known or asked for already
SMALLEST = 1e-9

Cheap = Callable[[Point], Metrics]


class Auto:
    """See the module."""

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        seed: int,
        cheap: Cheap | None,
        fidelities: Sequence[float],
    ) -> None:
        self._space, self._cheap, self._seed = space, cheap, seed
        self._optimised = [objective for objective in objectives if objective.optimise]
        self._limited = [objective for objective in objectives if objective.limit is not None]
        self._look = min(fidelities, default=1.0)
        self._encoder = Encoder(space, seed)
        self._sample = self._encoder.encode(self._encoder.sample)
        self._models: dict[str, Model] = {}
        self._told: dict[str, Trial] = {}  # by meaning: trained in full, refused or failed
        self._looks: dict[str, Trial] = {}  # the same at the lowest fidelity
        self._open: dict[str, Proposal] = {}  # asked for in full and not told yet
        self._looked: dict[str, Point] = {}  # all that were asked for as looks
        self._known: dict[str, tuple[Point, Metrics]] = {}  # what `cheap` said
        self._unseen = Unseen(space, seed)
        self._around = LocalSearch(space, objectives, seed, start=0, steps=4)
        self._neighbours: set[str] = set()  # what was asked for because it is near the front
        self._stuck = False  # nothing is expected to enlarge the front
        self._pay = np.inf  # how much surer, in nats a network, looks make what is foretold
        self._since = 0  # looks asked for after the last full training was
        self._start = self._spread(_looks(self._look) if self._look < 1 else START)

    def ask(self, count: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        while len(proposals) < count:
            proposal = self._next(bool(proposals))
            if proposal is None:
                break
            key = self._space.key(proposal.point)
            if proposal.fidelity < 1:
                self._looked[key] = proposal.point
                self._since += 1
            else:
                self._open[key] = proposal
                self._since = 0
            proposals.append(proposal)
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            key = self._space.key(trial.point)
            if trial.fidelity < 1:
                self._looked[key] = trial.point
                if trial.state != "duplicate":
                    self._looks[key] = trial
            if trial.fidelity >= 1 or trial.state in ("failed", "refused"):
                self._open.pop(key, None)
                self._unseen.note([trial])
                if trial.state != "duplicate":
                    self._told[key] = trial
        self._around.tell([trial for trial in trials if trial.fidelity >= 1])

    # ---- choosing

    def _next(self, waiting: bool) -> Proposal | None:
        """What to ask for next; None to wait for what was asked for before."""
        failed = sum(t.state == "failed" for t in (self._told | self._looks).values())
        worked = any(t.state == "done" for t in (self._told | self._looks).values())
        if self._start and (worked or failed < PATIENCE):
            return Proposal(self._start.pop(), self._look)
        done = [trial for trial in self._told.values() if trial.state == "done"]
        looks = [trial for trial in self._looks.values() if trial.state == "done"]
        if self._look < 1 and len(done) + len(self._open) < START // 2 and looks:
            return self._unseen.propose(lambda rng: self._promising(looks, rng))
        if not done:
            return None if waiting else self._unseen.propose(self._space.sample)
        return self._best(done)

    def _best(self, done: Sequence[Trial]) -> Proposal:
        """The candidate that is expected to be worth most, looked at first if it was not."""
        rng = np.random.default_rng((self._seed, len(self._told) + len(self._open), len(self._looked)))
        within = [t for t in done if not sum(o.violation(t.metrics) for o in self._optimised + self._limited)]
        candidates = self._candidates(within or done, rng)
        enough_looks = self._since >= max(1, int(0.5 / self._look)) or self._pay < self._look
        if self._look < 1 and enough_looks:
            candidates = [
                point for point in candidates if self._space.key(point) in self._looked
            ] or candidates
        if not candidates:
            return self._unseen.propose(self._space.sample)
        worth = self._worth(candidates, within, exactly=False)
        if self._cheap is not None:
            candidates = [candidates[index] for index in np.argsort(-worth, kind="stable")[:EXACT]]
            worth = self._worth(candidates, within, exactly=True)
        if rng.random() < self._share_of_neighbours(within):
            asked = (self._around.ask(1)[0].point for _ in range(TRIES))
            near = next((point for point in asked if point in self._unseen), None)
            if near is not None:
                self._neighbours.add(self._space.key(near))
                return self._unseen.propose(lambda rng: near)
        point = candidates[int(np.argmax(worth))]
        if self._look < 1 and not enough_looks and self._space.key(point) not in self._looked:
            return Proposal(point, self._look)
        return self._unseen.propose(lambda rng: point)

    def _share_of_neighbours(self, within: Sequence[Trial]) -> float:
        """How often to ask for a neighbour of the front: never while the models bring something, else in proportion to
        how many of the last trainings of either kind nothing beats."""
        losses = np.array([[o.loss(trial.metrics) for o in self._optimised] for trial in within])
        kept: list[bool] = pareto.non_dominated(losses).tolist() if within else []
        brought: dict[bool, list[bool]] = {True: [], False: []}
        for trial, keep in zip(within, kept, strict=True):
            brought[self._space.key(trial.point) in self._neighbours].append(keep)
        near, modelled = sum(brought[True][-IDLE:]), sum(brought[False][-IDLE:])
        if not self._stuck and (modelled or len(brought[False]) < START + IDLE):
            return 0.0
        return (1 + near) / (2 + near + modelled)

    def _candidates(self, parents: Sequence[Trial], rng: np.random.Generator) -> list[Point]:
        """Points that were not asked for: random ones, neighbours of the front, and what was only looked at."""
        losses = np.array([[o.loss(t.metrics) for o in self._optimised] for t in parents])
        kept = pareto.non_dominated(losses)
        front = [trial.point for trial, keep in zip(parents, kept, strict=True) if keep]
        points = [self._space.sample(rng) for _ in range(RANDOM)]
        for number in range(NEAR):
            point = self._space.mutate(front[int(rng.integers(len(front)))], rng)
            points.append(self._space.mutate(point, rng) if number % 3 == 0 else point)
        points += list(self._looked.values())[-NEAR:]
        named = {self._space.key(point): point for point in points}
        return [point for point in named.values() if point in self._unseen]

    def _worth(self, candidates: Sequence[Point], within: Sequence[Trial], *, exactly: bool) -> Numbers:
        """Expected hypervolume improvement of each candidate, times its chances; with what is cheap as it is if
        `exactly`, else as the models have it."""
        points = self._encoder.encode(candidates)
        chance = self._chances(candidates, points, exactly)
        if not within:
            return chance
        means, deviations, fronts = [], [], []
        limits: list[float] = []
        for objective in self._optimised:
            belief = self._belief(objective, points, candidates, exactly)
            means.append(belief.mean)
            deviations.append(belief.deviation)
            scaled = belief.scale.apply(np.array([objective.loss(trial.metrics) for trial in within]))
            fronts.append(np.concatenate([scaled, belief.open]))
            limits.append(belief.usual)
        mean, deviation = np.column_stack(means), np.column_stack(deviations)
        front = np.column_stack(fronts)
        corner = _reference(mean, front, limits[0])
        worth = expected_improvement(mean, deviation, front, corner) * chance
        if worth.max() < LITTLE * pareto.hypervolume(front, corner):
            corner = _reference(mean, front, np.inf)
            worth = expected_improvement(mean, deviation, front, corner) * chance
        self._stuck = bool(worth.max() < LITTLE * pareto.hypervolume(front, corner))
        return worth

    def _chances(self, candidates: Sequence[Point], points: Encoded, exactly: bool) -> Numbers:
        """The chance (points,) that a candidate trains well and keeps every limit."""
        chance = np.ones(len(candidates))
        told = list(self._told.values())
        if any(trial.state == "failed" for trial in told):
            works = np.array([float(trial.state != "failed") for trial in told])
            known = self._encoder.encode([trial.point for trial in told])
            mean, _ = self._model("works").learn(known, works).predict(points)
            chance *= np.clip(mean, 0.01, 1.0)
        for objective in self._limited:
            assert objective.limit is not None
            bound = objective.loss({objective.metric: objective.limit})
            exact = self._exactly(objective, candidates) if exactly else None
            if exact is not None:
                chance *= exact <= bound
                continue
            rows = self._rows(objective)
            if len(rows) > 1:
                losses = np.array([objective.loss(trial.metrics) for trial in rows])
                model = self._model(f"limit of {objective.metric}")
                process = model.learn(self._encoder.encode([trial.point for trial in rows]), losses)
                mean, deviation = process.predict(points)
                chance *= ndtr((bound - mean) / np.maximum(deviation, SMALLEST))
        return np.maximum(chance, SMALLEST)

    # ---- believing

    def _belief(
        self, objective: Objective, points: Encoded, candidates: Sequence[Point], exactly: bool
    ) -> _Belief:
        rows = self._rows(objective)
        losses = np.array([objective.loss(trial.metrics) for trial in rows])
        scale = _Scale.of(losses)
        waiting = [proposal.point for proposal in self._open.values()]
        exact = self._exactly(objective, candidates) if exactly else None
        if exact is not None:
            already = self._exactly(objective, waiting)
            assert already is not None
            return _Belief(scale.apply(exact), np.zeros(len(exact)), scale.apply(already), np.inf, scale)
        chosen = self._chosen(rows)
        scaled = scale.apply(losses)[chosen]
        told = _Looked(self._encoder.encode([trial.point for trial in rows]))
        pending, asked, sample = (
            _Looked(self._encoder.encode(waiting)),
            _Looked(points),
            _Looked(self._sample),
        )
        process = self._model(objective.metric).learn(told.points[chosen], scaled)
        if self._look < 1 and objective is self._optimised[0]:
            looked = self._with_looks(
                (told.points, [trial.point for trial in rows]),
                (pending.points, waiting),
                (points, candidates),
                (self._sample, self._encoder.sample),
            )
            if looked is not None:
                after = self._model(f"{objective.metric} after looks").learn(looked[0].points[chosen], scaled)
                self._pay = (after.left_out() - process.left_out()) / len(scaled)
                if self._pay > 0:
                    process, (told, pending, asked, sample) = after, looked
        usual = float(np.median(process.predict(sample.points)[0]))
        believed = process.predict(pending.points)[0] if waiting else np.zeros(0)
        if waiting:
            process = process.believing(pending.points, believed)
        mean, deviation = asked.predicted(process)
        return _Belief(mean, deviation, believed, usual, scale)

    def _with_looks(self, *asked: tuple[Encoded, Sequence[Point]]) -> list[_Looked] | None:
        """Points with what a look at them says, or is believed to say, as one more number; None without looks."""
        looks = [trial for trial in self._looks.values() if self._optimised[0].metric in trial.metrics]
        if len(looks) < 2:
            return None
        losses = np.array([self._optimised[0].loss(trial.metrics) for trial in looks])
        said = _Scale.of(losses).apply(losses)
        known = dict(zip((self._space.key(trial.point) for trial in looks), said, strict=True))
        rows = self._encoder.encode([trial.point for trial in looks])
        recent = np.arange(max(0, len(looks) - MOST), len(looks))
        process = self._model("look").learn(rows[recent], said[recent])
        found = []
        for encoded, points in asked:
            values, unsure = process.predict(encoded) if points else (np.zeros(0), np.zeros(0))
            for index, point in enumerate(points):
                key = self._space.key(point)
                if key in known:
                    values[index], unsure[index] = known[key], 0.0
            unit = said.std() or 1.0
            found.append(_Looked(encoded.beside((values - said.mean()) / unit), unsure / unit))
        return found

    def _rows(self, objective: Objective) -> list[Trial]:
        """Trials that tell about an objective, and what is cheap and was found out about others; its value at a low
        fidelity counts for all but the first."""
        rows = {key: Trial(-1, point, metrics=told) for key, (point, told) in self._known.items()}
        rows |= self._told
        if objective is not self._optimised[0]:
            rows |= {key: trial for key, trial in self._looks.items() if key not in self._told}
        return [t for t in rows.values() if t.state != "failed" and objective.metric in t.metrics]

    def _chosen(self, rows: Sequence[Trial]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The rows that a model learns from: all, or if they are too many those nearest to the front, and the last."""
        if len(rows) <= MOST:
            return np.arange(len(rows))
        worst = len(rows)
        ranks = np.full(len(rows), worst)
        full = [i for i, t in enumerate(rows) if all(o.metric in t.metrics for o in self._optimised)]
        losses = np.array([[o.loss(rows[i].metrics) for o in self._optimised] for i in full])
        ranks[full] = pareto.ranks(losses)
        return np.sort(np.lexsort((-np.arange(len(rows)), ranks))[:MOST])

    def _exactly(self, objective: Objective, points: Sequence[Point]) -> Numbers | None:
        """The losses of points as `cheap` gives them; None if it does not."""
        if self._cheap is None:
            return None
        found = []
        for point in points:
            key = self._space.key(point)
            if key not in self._known:
                self._known[key] = point, self._cheap(point)
            if objective.metric not in self._known[key][1]:
                return None
            found.append(objective.loss(self._known[key][1]))
        return np.array(found)

    def _model(self, name: str) -> Model:
        if name not in self._models:
            self._models[name] = Model(self._encoder.described, self._seed)
        return self._models[name]

    # ---- starting

    def _spread(self, count: int) -> list[Point]:
        """Points far apart, each the farthest from those before it of a few random ones (Mitchell's best candidate,
        SIGGRAPH 1991); the last is to be asked for first."""
        pool = [self._space.sample(np.random.default_rng((self._seed, 0, n))) for n in range(count * CROWD)]
        encoded = self._encoder.encode(pool)
        chosen = [0]
        nearest = _distances(encoded, 0)
        for number in range(1, count):
            crowd = nearest[number * CROWD : (number + 1) * CROWD]
            farthest = int(np.argmax(crowd))
            if crowd[farthest] > 0:
                chosen.append(number * CROWD + farthest)
                nearest = np.minimum(nearest, _distances(encoded, chosen[-1]))
        return [pool[index] for index in reversed(chosen)]

    def _promising(self, looks: Sequence[Trial], rng: np.random.Generator) -> Point:
        """One of the front of what was looked at."""
        losses = np.array([[o.loss(trial.metrics) for o in self._optimised] for trial in looks])
        front = np.flatnonzero(pareto.non_dominated(losses))
        return looks[int(front[int(rng.integers(len(front)))])].point


@dataclass(frozen=True)
class _Scale:
    """Losses on a scale that is logarithmic above the best and linear below it."""

    best: float
    unit: float

    @classmethod
    def of(cls, losses: Numbers) -> _Scale:
        best = float(losses.min())
        unit = float(np.median(losses[:FIRST])) - best
        return cls(best, unit if unit > 0 else float(np.ptp(losses)) or max(abs(best), 1.0))

    def apply(self, losses: Numbers) -> Numbers:
        above = (losses - self.best) / self.unit
        return np.where(above > 0, np.log1p(np.maximum(above, 0.0)), above)


@dataclass(frozen=True)
class _Looked:
    """Points of which the last number is what a look says, `unsure` (points,) by that standard deviation; None if
    they have no such number."""

    points: Encoded
    unsure: Numbers | None = None

    def predicted(self, process: Gaussian) -> tuple[Numbers, Numbers]:
        """Mean and deviation (points,), to which a look that has not been taken adds what it might change."""
        mean, deviation = process.predict(self.points)
        if self.unsure is not None:
            numbers = self.points.numbers.copy()
            numbers[:, -1] += self.unsure
            higher, _ = process.predict(Encoded(self.points.categories, numbers, self.points.counts))
            deviation = np.hypot(deviation, higher - mean)
        return mean, deviation


@dataclass(frozen=True)
class _Belief:
    """What one objective of the candidates is believed to be: `mean` and `deviation`, that of the points `open`, and
    what is `usual` in the space, all on one `scale`."""

    mean: Numbers
    deviation: Numbers
    open: Numbers
    usual: float
    scale: _Scale


def _reference(mean: Numbers, front: Numbers, usual: float) -> Numbers:
    """The corner (objectives,) up to which gains count."""
    believed = np.vstack([front, mean])
    believed = believed[pareto.non_dominated(believed)]
    if front.shape[1] > 1:
        first = np.sort(front[:, 0])
        usual = max(usual, float(first[min(1, len(first) - 1)]) + SMALLEST)
        useful = believed[believed[:, 0] <= usual]
        believed = useful if len(useful) else believed
    corner = believed.max(axis=0) + 0.1 * np.ptp(believed, axis=0) + SMALLEST
    if front.shape[1] > 1 and np.isfinite(usual):
        corner[0] = usual
    return np.asarray(corner)


def _distances(points: Encoded, index: int) -> Numbers:
    differing = (points.categories != points.categories[index]).sum(axis=1)
    apart = np.sqrt(((points.numbers - points.numbers[index]) ** 2).sum(axis=1))
    return np.asarray(differing + 0.3 * apart)


def _looks(fidelity: float) -> int:
    return max(START, min(MOST_LOOKS, int(LOOKS / fidelity)))


def auto(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    cheap: Callable[[Mapping[str, Scalar]], Metrics] | None = None,
    fidelities: Sequence[float] = (),
) -> Auto:
    """Expected hypervolume improvement on Gaussian processes of what is expensive; nothing to set. `cheap` gives
    metrics of any point by arithmetic, `fidelities` are the shares of a training that can be asked for."""
    return Auto(space, objectives, seed, cheap, fidelities)
