"""The networks of the front are measured, whatever was foretold of them: later stages, the choice and the report go
by what was measured.

    stages/finalists.json    the trials that were measured in each round, written before they are

Measurements may push a network off the front and let in others that were only predicted, so there are rounds: the
front is measured, the predictors are refitted on all that was measured, the front is found anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nasflow.errors import Unavailable
from nasflow.evaluators.foretold import Records, foretell
from nasflow.evaluators.latency import MeasuredLatency
from nasflow.files import read_json, write_json
from nasflow.hardware.device import Lost
from nasflow.stages.run import Run
from nasflow.study import Ask, Metrics, Study, StudyError, Trial

ROUNDS = 10

Known = dict[str, dict[str, dict[str, Any]]]
"""By device and trial number (as JSON has it, in words): {"p50_ms": ..., "source": "measured" | "predicted"}, or
{"error": why it could not be measured}."""


def found(run: Run) -> Study:
    """The search's study with the latencies that count: for a search by predictions those that were measured
    afterwards, and predictions refitted on them."""
    study, result = run.study(), run.done("search")
    return corrected(study, result.get("latency") or {}) if result else study


def settle(run: Run, study: Study, latency: MeasuredLatency) -> Known:
    """Measure the front until nothing on it is only predicted; what is known then of every network that was trained.

    A device that is away leaves predictions.
    """
    trained = [trial for trial in study.trials if trial.state == "done" and trial.fidelity >= 1.0]
    rounds = _Rounds(run, len(study.trials))
    errors: dict[tuple[str, int], str] = {}
    away: set[str] = set()

    def measure(numbers: Sequence[int]) -> None:
        members = [study.trials[number] for number in numbers]
        for device in latency.devices:
            try:
                answers = replace(latency, devices=[device], foresight={})(members)
            except Unavailable:
                away.add(device.name)
                continue
            for trial, answer in zip(members, answers, strict=True):
                if isinstance(answer, Lost):
                    away.add(device.name)
                elif isinstance(answer, Exception):
                    errors[device.name, trial.number] = str(answer)

    for numbers in rounds.numbers:
        measure(numbers)
    while True:
        known = {device.name: _known(latency, device.name, trained, errors) for device in latency.devices}
        here = [device.name for device in latency.devices if device.name not in away]
        front = corrected(study, known).front
        new = [t.number for t in front if any(known[d][str(t.number)]["source"] == "predicted" for d in here)]
        if not new or len(rounds.numbers) >= ROUNDS:
            return known
        run.notify("search", len(trained) - 1, len(trained), f"measuring {len(new)} networks of the front")
        rounds.add(new)
        measure(new)


def unmeasured(
    known: Mapping[str, Mapping[str, Mapping[str, Any]]], front: Sequence[Trial]
) -> dict[str, list[int]]:
    """By device, the members of the front of which it has only a prediction."""
    return {
        device: missing
        for device, trials in known.items()
        if (missing := [t.number for t in front if trials[str(t.number)].get("source") == "predicted"])
    }


def corrected(study: Study, known: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Study:
    """The study, to be read only, with latencies as they are known."""
    trials = [_corrected(trial, known) for trial in study.trials] if known else list(study.trials)
    return Study(study.space, study.objectives, _Copy(trials, list(study.asks))) if known else study


def _corrected(trial: Trial, known: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Trial:
    told = {
        device: trials[str(trial.number)] for device, trials in known.items() if str(trial.number) in trials
    }
    for device, one in told.items():
        if "error" in one:
            return replace(trial, state="failed", error=f"on {device}: {one['error']}")
    return replace(
        trial,
        metrics={**trial.metrics, **{f"latency_ms@{device}": one["p50_ms"] for device, one in told.items()}},
    )


def _known(
    latency: MeasuredLatency, device: str, trained: Sequence[Trial], errors: Mapping[tuple[str, int], str]
) -> dict[str, dict[str, Any]]:
    """What one device is known, or now believed, to take for every trained network."""
    kept = Records(latency.folder)  # read anew: there are more measurements than when the search ended
    records = {trial.number: kept.read(trial, device) for trial in trained}
    told: dict[str, dict[str, Any]] = {}
    others: list[Trial] = []
    for trial in trained:
        record = records[trial.number]
        if (device, trial.number) in errors:
            told[str(trial.number)] = {"source": "measured", "error": errors[device, trial.number]}
        elif record is not None and record.latency is not None:
            told[str(trial.number)] = {"source": "measured", "p50_ms": record.latency.p50_ms}
        else:
            others.append(trial)
    measured, _ = kept.measured(device)
    predictor = latency.foresight[device].predictor
    predictor = predictor.refitted(measured) if measured else predictor
    predictions = foretell(predictor, [kept.file(trial.number) for trial in others])
    for trial, prediction in zip(others, predictions, strict=True):
        ms = prediction.p50_ms if prediction else trial.metrics[f"latency_ms@{device}"]
        told[str(trial.number)] = {"source": "predicted", "p50_ms": ms}
    return told


class _Rounds:
    """Which trials were measured in each round; those of a shorter search do not count."""

    def __init__(self, run: Run, trials: int) -> None:
        self._file = run.folder / "stages" / "finalists.json"
        self._trials = trials
        kept = read_json(self._file) if self._file.exists() else {}
        self.numbers: list[list[int]] = kept["rounds"] if kept.get("trials") == trials else []

    def add(self, numbers: Sequence[int]) -> None:
        self.numbers.append(list(numbers))
        write_json(self._file, {"trials": self._trials, "rounds": self.numbers})


@dataclass(frozen=True)
class _Copy:
    """A record that is only read."""

    trials: list[Trial]
    asks: list[Ask]

    def load(self) -> tuple[list[Trial], list[Ask]]:
        return self.trials, self.asks

    def add(self, trials: Sequence[Trial], ask: int, count: int) -> None:
        raise StudyError("this study is a copy to be read; the search's own is Run.study()")

    def note(self, number: int, metrics: Metrics) -> None:
        self.add((), 0, 0)

    def finish(self, trial: Trial) -> None:
        self.add((), 0, 0)
