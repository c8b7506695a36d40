"""Runs beside each other: whether they may be compared, whose front is larger, and who is best for whom.

Everything is read from the runs' folders, whatever state they are in: summary.json, and the search's record where
the search still goes on. The numbers are those of the searches, all on validation data; what a run ships comes
beside them as it was certified.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasflow import pareto
from nasflow.bench.indicators import coverage
from nasflow.errors import NasflowError
from nasflow.files import read_json
from nasflow.report import facts
from nasflow.report.facts import Metric, Summary

BEYOND = 0.1  # how far past the worst of all fronts the reference of the hypervolume lies, as a share of their span
CURVE = 40  # budgets at which the hypervolume is told on the way
CERTAIN = 1.96  # standard errors by which two shares differ but once in twenty times by chance
# What times depend on besides the file; nasflow.hardware.store has the same list, and takes seconds to import.
DECISIVE = ("cpu", "machine", "runtime", "threads", "governor", "quota_cores", "flags", "gpu", "power_mode")
TOLD = ("name", "seed", "mlflow", "space", "devices", "objectives", "limits", "search.strategy", "search.trials",
        "search.workers", "search.batch", "search.deadline_s", "search.memory_mb", "compress", "retrain",
        "deploy")  # fmt: skip  # settings that have a line of their own, or do not change what a search finds
TRAINING = {
    "data": "so their errors are not on the same images, or not after the same training",
    "search.epochs": "so their errors are not after the same training",
    "search.recipe": "so their errors are not after the same training",
}

Losses = NDArray[np.float64]


class CompareError(NasflowError):
    """Runs that cannot be compared at all."""


@dataclass(frozen=True)
class Member:
    """A network of a front, with the metrics that are compared."""

    name: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Side:
    """One of the runs: how it was searched, what that cost, what it found and what it ships.

    `spent` counts full trainings, shorter ones as their share; `curve` has the hypervolume after so many of them.
    """

    name: str
    folder: Path
    status: str
    strategy: str
    space: str
    seed: int
    budget: int
    spent: float
    trials: Mapping[str, int]
    seconds: float
    front: tuple[Member, ...]
    hypervolume: float
    curve: tuple[tuple[float, float], ...]
    shipped: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Region:
    """A part of the trade-off: what each run's best network reaches within `bound` (None: whatever it costs).

    `best` has a member or None for each run, `winner` its place among the runs, None if no front reaches there or
    several are equally good. `certain` says whether the winner's lead over the next is more than chance would
    give on so many validation images; None where that cannot be told.
    """

    bound: float | None
    best: tuple[Member | None, ...]
    winner: int | None
    certain: bool | None


@dataclass(frozen=True)
class Comparison:
    """What can be said of runs beside each other.

    `metrics` are those that all of them optimise and that mean the same in each; `apart` says in sentences why
    others are left out, and `differences` what else the runs did not have in common. `coverage[i][j]` is the share of
    j's front that a network of i's front equals or beats in everything. `ideal` and `reference` are the corners
    between which hypervolume is counted, in the metrics' own units. `along` is the metric that parts the regions,
    `judged` the one that is compared in them.
    """

    runs: tuple[Side, ...]
    metrics: tuple[Metric, ...]
    apart: tuple[str, ...]
    differences: tuple[str, ...]
    coverage: tuple[tuple[float | None, ...], ...]
    ideal: Mapping[str, float]
    reference: Mapping[str, float]
    along: Metric | None
    judged: Metric | None
    regions: tuple[Region, ...]
    images: int | None

    def to_json(self) -> dict[str, Any]:
        """As plain values, for programs."""
        found = asdict(self)
        for side in found["runs"]:
            side["folder"] = str(side["folder"])
        return found


@dataclass(frozen=True)
class _Trial:
    """A trial as far as a comparison needs it."""

    number: int
    state: str
    fidelity: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class _Found:
    """What a run's folder says."""

    name: str
    folder: Path
    summary: Summary
    trials: tuple[_Trial, ...]

    def setting(self, *path: str) -> Any:
        value: Any = self.summary.get("experiment")
        for key in path:
            value = facts.table(value).get(key)
        return value

    @property
    def goals(self) -> dict[str, Metric]:
        """What was optimised, in order."""
        return {
            str(one["metric"]): facts.metric(str(one["metric"]), str(one.get("goal") or "min"))
            for one in facts.rows(self.summary.get("objectives"))
            if one.get("metric") and one.get("optimise", True)
        }

    @property
    def limits(self) -> dict[str, Metric]:
        """What had to be kept, whether it was optimised or not."""
        return {
            str(one["metric"]): facts.metric(str(one["metric"]), str(one.get("goal") or "min"), limit)
            for one in facts.rows(self.summary.get("objectives"))
            if one.get("metric") and (limit := facts.number(one.get("limit"))) is not None
        }

    def finalists(self, metrics: Sequence[Metric]) -> list[_Trial]:
        """Trained in full, inside every limit of the run, with these metrics."""
        limits = list(self.limits.values())
        return [
            trial
            for trial in self.trials
            if trial.state == "done"
            and trial.fidelity >= 1.0
            and not any(over(limit, trial.metrics) for limit in limits)
            and all(one.name in trial.metrics for one in metrics)
        ]


def compare(folders: Sequence[Path], at: Sequence[float] = ()) -> Comparison:
    """Compare the runs in `folders`, two at least. `at` are bounds of regions, in units of the metric that parts
    them, else that metric's terciles over all fronts. Raises CompareError where there is nothing to compare."""
    if len(folders) < 2:
        raise CompareError(f"expected at least two runs to compare, got {len(folders)}")
    found = [_read(name, folder) for name, folder in zip(_names(folders), folders, strict=True)]
    metrics, apart = _comparable(found)
    fronts = [_front(one, metrics) for one in found]
    ideal, reference = _corners([_losses(front, metrics) for front in fronts], len(metrics))

    def volume(losses: Losses) -> float:
        """The share of the box between the corners that is dominated."""
        if not len(losses) or not metrics:
            return 0.0
        span = reference - ideal
        return pareto.hypervolume((losses - ideal) / span, np.ones(len(metrics)))

    along, judged = _axes(metrics)
    images = _images(found)
    return Comparison(
        runs=tuple(_side(one, front, metrics, volume) for one, front in zip(found, fronts, strict=True)),
        metrics=metrics,
        apart=apart,
        differences=_differences(found),
        coverage=_coverage([_losses(front, metrics) for front in fronts]),
        ideal=_in_units(ideal, metrics),
        reference=_in_units(reference, metrics),
        along=along,
        judged=judged,
        regions=_regions(fronts, along, judged, at, images) if along and judged else (),
        images=images,
    )


def over(limit: Metric, metrics: Mapping[str, float]) -> bool:
    """Whether a limit is broken by what is known."""
    assert limit.limit is not None
    return limit.name in metrics and limit.better(limit.limit, metrics[limit.name])


# ---- what the folders say


def _names(folders: Sequence[Path]) -> list[str]:
    """What to call the runs: the names of their folders where those differ, else their paths."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _read(name: str, folder: Path) -> _Found:
    from nasflow import runs

    summary = runs.summary(folder)
    journal = folder / "study.journal"
    searched = facts.table(facts.table(summary.get("stages")).get("search")).get("status") == "done"
    if searched or not journal.is_file():
        trials = tuple(
            _Trial(
                int(facts.number(one.get("trial")) or 0),
                str(one.get("state")),
                facts.number(one.get("fidelity", 1.0)) or 0.0,
                facts.numbers(one.get("metrics")),
            )
            for one in facts.rows(summary.get("points"))
        )
        return _Found(name, folder, summary, trials)
    from nasflow import record  # a second of imports that finished runs do without

    recorded = record.read(journal)
    counts: dict[str, int] = {}
    for trial in recorded:
        counts[trial.state] = counts.get(trial.state, 0) + 1
    return _Found(
        name,
        folder,
        {**summary, "trials": counts},
        tuple(_Trial(t.number, t.state, t.fidelity, facts.numbers(dict(t.metrics))) for t in recorded),
    )


def _side(
    found: _Found, front: Sequence[Member], metrics: Sequence[Metric], volume: Callable[[Losses], float]
) -> Side:
    strategy = found.setting("search", "strategy")
    space = found.setting("space")
    parts = space if isinstance(space, list) else [space]
    trained = [trial for trial in found.trials if trial.state in ("done", "failed")]
    counts = facts.numbers(found.summary.get("trials"))
    failed = counts.get("failed", 0.0) - sum(trial.state == "failed" for trial in trained)  # without metrics
    return Side(
        name=found.name,
        folder=found.folder,
        status=str(found.summary.get("status")),
        strategy=_named(strategy),
        space=" * ".join(_named(part) for part in parts if part) or str(_named(found.setting("model"))),
        seed=int(facts.number(found.setting("seed")) or 0),
        budget=int(facts.number(found.setting("search", "trials")) or 0),
        spent=round(math.fsum(trial.fidelity for trial in trained) + max(0.0, failed), 6),
        trials={state: int(count) for state, count in counts.items()},
        seconds=facts.number(found.summary.get("seconds")) or 0.0,
        front=tuple(front),
        hypervolume=volume(_losses(front, metrics)),
        curve=_curve(found, trained, metrics, volume),
        shipped=next((one for one in facts.rows(found.summary.get("deployed")) if one.get("shipped")), {}),
    )


def _named(value: object) -> str:
    """How a strategy or a part of a space is called: by its name, or by itself."""
    return str(facts.table(value).get("name") or ("" if isinstance(value, dict) else value or ""))


def _front(found: _Found, metrics: Sequence[Metric]) -> list[Member]:
    """The finalists that no other one of the run beats in these metrics."""
    finalists = found.finalists(metrics)
    if not metrics or not finalists:
        return []
    losses = _matrix([trial.metrics for trial in finalists], metrics)
    kept = [trial for trial, keep in zip(finalists, pareto.non_dominated(losses), strict=True) if keep]
    return [
        Member(f"trial-{trial.number}", {one.name: trial.metrics[one.name] for one in metrics})
        for trial in sorted(kept, key=lambda trial: trial.metrics[metrics[0].name])
    ]


def _curve(
    found: _Found,
    trained: Sequence[_Trial],
    metrics: Sequence[Metric],
    volume: Callable[[Losses], float],
) -> tuple[tuple[float, float], ...]:
    """(full trainings, hypervolume) on the way, in at most CURVE steps."""
    good = {trial.number for trial in found.finalists(metrics)}
    if not good or not metrics:
        return ()
    spent = np.cumsum([trial.fidelity for trial in trained])
    steps = np.unique(np.linspace(1, len(trained), min(CURVE, len(trained))).astype(int))
    reached = _matrix([], metrics)
    curve = [(0.0, 0.0)]
    last = 0
    for step in steps:
        new = [trial.metrics for trial in trained[last:step] if trial.number in good]
        reached = np.vstack([reached, _matrix(new, metrics)])
        reached = reached[pareto.non_dominated(reached)]
        curve.append((round(float(spent[step - 1]), 6), volume(reached)))
        last = step
    return tuple(curve)


# ---- what may be compared


def _comparable(found: Sequence[_Found]) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """The metrics that every run optimises and that mean the same in all, and why others are left out."""
    apart = []
    shared = []
    for name in dict.fromkeys(name for one in found for name in one.goals):
        having = [one for one in found if name in one.goals]
        label = facts.metric(name).label
        if len(having) < len(found):
            lacking = [one.name for one in found if name not in one.goals]
            apart.append(f"{_capital(label)} is left out: {_listed(lacking)} did not optimise it.")
        elif len({one.goals[name].goal for one in having}) > 1:
            apart.append(f"{_capital(label)} is left out: some runs want more of it, others less.")
        elif facts.metric(name).device and (why := _other_machine(found, name.partition("@")[2])):
            apart.append(f"{_capital(label)} is left out: it was measured on other machines; {why}.")
        else:
            shared.append(found[0].goals[name])
    if len(hashes := {_digest(one) for one in found}) > 1 and "" not in hashes:
        told = "; ".join(f"{one.name}: {_digest(one)[:12]}" for one in found)
        return (), (*apart, f"The fronts are not compared: the runs saw other data (sha256 {told}).")
    if any("error" in one.goals for one in found) and "error" not in [one.name for one in shared]:
        return (), (*apart, "The fronts are not compared: without the error the cheapest network would win.")
    if not shared:
        return (), (*apart, "The fronts are not compared: no metric was optimised by all runs.")
    return tuple(shared), tuple(apart)


def _digest(found: _Found) -> str:
    return str(facts.table(found.summary.get("data")).get("sha256") or "")


def _other_machine(found: Sequence[_Found], device: str) -> str:
    """In what the machines differ that a device's times come from, in words; "" if in nothing that is known."""
    known = [(one.name, place) for one in found if (place := _environment(one, device))]
    for key in DECISIVE:
        values = {name: str(place[key]) for name, place in known if key in place}
        if len(set(values.values())) > 1:
            return f"{key} is " + ", ".join(f"{value} in {name}" for name, value in values.items())
    return ""


def _environment(found: _Found, device: str) -> dict[str, Any]:
    """What was noted of a machine when something was measured on it: with a deployed file, else with a trial."""
    for one in facts.rows(found.summary.get("deployed")):
        told = facts.table(facts.table(facts.table(one.get("latency")).get(device)).get("environment"))
        if told:
            return told
    for trial in found.trials:
        file = found.folder / "trials" / f"{trial.number:05d}" / f"latency@{device}.json"
        if file.is_file():
            return facts.table(facts.table(facts.table(read_json(file)).get("latency")).get("environment"))
    return {}


def _differences(found: Sequence[_Found]) -> tuple[str, ...]:
    """In sentences, what the runs did not have in common besides strategy, seed, budget and space."""
    told = []
    for name in dict.fromkeys(name for one in found for name in one.limits):
        bounds = [one.limits[name].limit if name in one.limits else None for one in found]
        if len(set(bounds)) > 1:
            shown = (f"{'none' if bound is None else f'{bound:g}'}" for bound in bounds)
            told.append(f"The limit on {facts.metric(name).label}: {_each(found, shown)}.")
    settings = [dict(_leaves(one.setting())) for one in found]
    for key in dict.fromkeys(key for one in settings for key in one):
        values = [one.get(key) for one in settings]
        if _within(key, TOLD) or all(value == values[0] for value in values):
            continue
        notes = [f", {note}" for name, note in TRAINING.items() if _within(key, [name])]
        told.append(f"The setting {key}: {_each(found, map(str, values))}{''.join(notes)}.")
    versions = [str(one.summary.get("nasflow")) for one in found]
    if len(set(versions)) > 1:
        told.append(f"The version of nasflow: {_each(found, versions)}.")
    going = [one.name for one in found if one.summary.get("status") == "running"]
    if going:
        told.append(f"Not finished, and compared as far as it is: {_listed(going)}.")
    return tuple(told)


def _within(key: str, sections: Iterable[str]) -> bool:
    """Whether a setting is one of these, or inside one of them."""
    return any(key == name or key.startswith(f"{name}.") for name in sections)


def _each(found: Sequence[_Found], values: Iterable[str]) -> str:
    return ", ".join(f"{value} in {one.name}" for one, value in zip(found, values, strict=True))


def _leaves(value: object, key: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


# ---- the fronts beside each other


def _corners(fronts: Sequence[Losses], width: int) -> tuple[Losses, Losses]:
    """The best of each loss over all fronts, and the reference beyond the worst."""
    whole = np.vstack([np.zeros((0, width)), *fronts])
    if not len(whole):
        return np.zeros(width), np.ones(width)
    low, high = whole.min(axis=0), whole.max(axis=0)
    span = np.where(high > low, high - low, np.maximum(np.abs(high), 1e-12))
    return low, high + BEYOND * span


def _coverage(fronts: Sequence[Losses]) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(coverage(a, b) if len(b) else None for b in fronts) for a in fronts)


def _axes(metrics: Sequence[Metric]) -> tuple[Metric | None, Metric | None]:
    """What parts the regions (a latency, else the first cost) and what is judged in them (the error)."""
    judged = next((one for one in metrics if one.name == "error"), metrics[0] if metrics else None)
    costs = [one for one in metrics if one is not judged]
    latencies = (one for one in costs if one.name.startswith("latency_ms"))
    return next(latencies, costs[0] if costs else None), judged


def _regions(
    fronts: Sequence[Sequence[Member]],
    along: Metric,
    judged: Metric,
    at: Sequence[float],
    images: int | None,
) -> tuple[Region, ...]:
    """Within each bound, the best network of every run and the run that it decides for."""
    sign = _sign(along)
    costs = sorted(sign * member.metrics[along.name] for front in fronts for member in front)
    if not costs:
        return ()
    thirds = [float(f"{value:.3g}") for value in np.quantile(costs, [1 / 3, 2 / 3])]
    bounds = sorted({sign * value for value in at} or set(thirds))
    found = []
    for bound in [*bounds, None]:
        inside = [
            [m for m in front if bound is None or sign * m.metrics[along.name] <= bound] for front in fronts
        ]
        best = tuple(_best(members, judged, along) for members in inside)
        found.append(Region(None if bound is None else sign * bound, best, *_winner(best, judged, images)))
    return tuple(found)


def _best(members: Sequence[Member], judged: Metric, along: Metric) -> Member | None:
    """The best in one metric; of equals, the cheapest."""

    def key(member: Member) -> tuple[float, float]:
        return _sign(judged) * member.metrics[judged.name], _sign(along) * member.metrics[along.name]

    return min(members, key=key, default=None)


def _winner(
    best: Sequence[Member | None], judged: Metric, images: int | None
) -> tuple[int | None, bool | None]:
    """Who is best, and whether that is more than chance on so many validation images."""
    sign = _sign(judged)
    ranked = sorted(
        (sign * member.metrics[judged.name], place) for place, member in enumerate(best) if member is not None
    )
    if not ranked or (len(ranked) > 1 and ranked[0][0] == ranked[1][0]):
        return None, None
    winner = ranked[0][1]
    if len(ranked) == 1 or images is None or judged.name != "error":
        return winner, None
    low, high = ranked[0][0], ranked[1][0]
    chance = math.sqrt((low * (1 - low) + high * (1 - high)) / images)
    return winner, high - low > CERTAIN * chance


def _images(found: Sequence[_Found]) -> int | None:
    """How many validation images the errors are counted on, the fewest of all runs."""
    counts = [facts.number(facts.table(one.summary.get("data")).get("validation")) for one in found]
    known = [int(count) for count in counts if count]
    return min(known) if len(known) == len(found) else None


def _losses(front: Sequence[Member], metrics: Sequence[Metric]) -> Losses:
    return _matrix([member.metrics for member in front], metrics)


def _matrix(rows: Sequence[Mapping[str, float]], metrics: Sequence[Metric]) -> Losses:
    """Array (rows, metrics), lower is better."""
    signs = np.array([_sign(one) for one in metrics])
    values = np.array([[row[one.name] for one in metrics] for row in rows], dtype=float)
    losses: Losses = values.reshape(len(rows), len(metrics)) * signs
    return losses


def _in_units(losses: Losses, metrics: Sequence[Metric]) -> dict[str, float]:
    return {one.name: float(_sign(one) * value) for one, value in zip(metrics, losses, strict=True)}


def _sign(metric: Metric) -> float:
    """What turns a metric into a loss."""
    return -1.0 if metric.goal == "max" else 1.0


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
