"""A run folder: what it is to do, what is done, and the lock that keeps it to one process.

    experiment.yaml          what was asked for, every default spelt out
    study.journal            every trial of the search (an Optuna journal)
    trials/NNNNN/            exported candidate, its latency, its trained weights
    stages/<stage>.json      the result of each finished stage
    compress/, retrain/      networks on their way
    choice.json              what is shipped and why, written before the test data is opened
    models/<name>/           model.onnx, certificate.json
    summary.json, report.html

Every file is whole or absent, so whatever is there can be trusted and whatever is not is done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from nasflow import data as datasets
from nasflow import hardware
from nasflow.compression import quantize
from nasflow.errors import NasflowError
from nasflow.evaluators.measured import ONLY_MEASURED
from nasflow.experiment import Experiment, differences, dump, objectives
from nasflow.files import FolderError, locked, read_json, sha256, sweep, write_json, write_text
from nasflow.hardware.device import reference_network
from nasflow.network import Architecture, Make, Part
from nasflow.record import open_record
from nasflow.study import Objective, Study

STAGES = ("define", "search", "compress", "retrain", "deploy", "report")
TRAINING_MEMORY = "training_memory_mb"

Notify = Callable[[str, int, int, str], None]
"""Called with a stage, how much of it is done, of how much, and a few words."""


Share = Callable[[hardware.Device], hardware.Device]
"""Wraps a device into one that runs take in turns."""


def alone(device: hardware.Device) -> hardware.Device:
    """A Share of nobody else's."""
    return device


def silent(stage: str, done: int, total: int, message: str) -> None:
    """A Notify that says nothing."""


class RunError(NasflowError):
    """A run that cannot be carried out in this folder."""


class Infeasible(NasflowError):
    """Nothing keeps all limits; the message names the limit in the way and the best seen."""


@dataclass(frozen=True)
class Run:
    """One experiment in one folder, held by this process. `make`: see Architecture; `share`: how devices are shared
    with other runs."""

    experiment: Experiment
    folder: Path
    notify: Notify = silent
    make: Make | None = None
    share: Share = alone

    @cached_property
    def data(self) -> datasets.Data:
        """Train and validation data; the test data is not here."""
        loaded = datasets.load(self.experiment.data, cache=self.cache)
        self._check_unchanged("data", loaded.sha256)
        return loaded

    @cached_property
    def folds(self) -> tuple[datasets.Data, ...]:
        """The data by which candidates are judged: one holdout, or as many folds as the experiment says."""
        k = self.experiment.data.folds
        return (self.data,) if k == 1 else tuple(self.data.folds(k, self.experiment.seed))

    @property
    def cache(self) -> Path:
        """Where decoded data sets are kept, shared by all runs side by side."""
        return self.folder.parent / "cache"

    @cached_property
    def architecture(self) -> Architecture:
        own = self.experiment.model
        weights = Path(own.weights) if own and own.weights else None
        if weights is not None and weights.is_file():
            self._check_unchanged("weights", sha256(weights))
        return Architecture(
            parts=tuple(Part(part.name, dict(part.arguments)) for part in self.experiment.space),
            shape=self.data.shape,
            classes=len(self.data.classes),
            model=Part(own.name, dict(own.arguments)) if own else None,
            weights=weights,
            make=self.make,
            point=self.experiment.point,
        )

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """The experiment's objectives and limits, and that a training must fit into a worker's memory."""
        cap = Objective(TRAINING_MEMORY, limit=float(self.memory_mb), optimise=False)
        return (*objectives(self.experiment), cap)

    @property
    def asked(self) -> frozenset[str]:
        """The names of the metrics that are optimised or limited."""
        return frozenset(objective.metric for objective in self.objectives)

    @cached_property
    def devices(self) -> list[hardware.Device]:
        """The experiment's devices, which measure energy and throughput only where that is asked for."""
        found = []
        for profile in map(hardware.load_profile, self.experiment.devices):
            energy, throughput = (f"{metric}@{profile.name}" in self.asked for metric in ONLY_MEASURED)
            found.append(self.share(hardware.connect(profile, energy=energy, throughput=throughput)))
        return found

    @cached_property
    def reduces_range(self) -> bool:
        """Whether int8 weights leave one bit unused, for the processor of the first device."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "reference.onnx"
            file.write_bytes(reference_network())
            flags = self.devices[0].latency(file).environment.get("flags") or ()
        return quantize.needs_reduced_range(flags)

    @property
    def workers(self) -> int:
        asked = self.experiment.search.workers
        return cores() if asked == "auto" else asked

    @property
    def memory_mb(self) -> int:
        """What one worker may hold: an equal share of most of the machine's memory, if nothing else was asked."""
        asked = self.experiment.search.memory_mb
        if asked != "auto":
            return asked
        return int(0.8 * psutil.virtual_memory().total / 2**20 / self.workers)

    def _check_unchanged(self, what: str, now: str) -> None:
        """Raise RunError if the sha256 of what the run rests on is not that with which it began."""
        defined = self.done("define")
        if defined is not None and (then := defined[what]["sha256"]) != now:
            raise RunError(
                f"{self.folder}: the {what} have changed since this run began "
                f"(sha256 {then[:12]} then, {now[:12]} now). "
                f"Bring the old {what} back, use --fresh to start anew or --out for another folder"
            )

    def study(self) -> Study:
        """The search's study, opened from its record."""
        space = self.architecture.space()
        # Neither the experiment's name nor the memory of this machine is part of what was searched for.
        record = open_record(self.folder / "study.journal", "search", space, objectives(self.experiment))
        return Study(space, self.objectives, record)

    def settings(self, stage: str) -> dict[str, Any]:
        """What a stage's result depends on: its own settings, and those of all stages before it."""
        whole = self.experiment.model_dump(mode="json")
        parts = {
            "define": ["data", "space", "model", "point", "devices", "objectives", "limits", "seed"],
            "search": ["search"],
            "compress": ["compress"],
            "retrain": ["retrain"],
            "deploy": ["deploy"],
            "report": [],
        }
        until = STAGES.index(stage) + 1
        found = {key: whole[key] for one in STAGES[:until] for key in parts[one]}
        if "search" in found:
            machine = ("workers", "deadline_s", "memory_mb")  # where it runs does not change what comes out
            found["search"] = {key: value for key, value in found["search"].items() if key not in machine}
        return found

    def key(self, stage: str) -> str:
        """Eight hexadecimal digits that name the settings of a stage: folders carry them, so that a result
        of other settings is never taken for this one's."""
        return hashlib.sha256(json.dumps(self.settings(stage), sort_keys=True).encode()).hexdigest()[:8]

    def done(self, stage: str) -> dict[str, Any] | None:
        """The result of a finished stage; None if it is still to be done, or was done with other settings."""
        file = self.folder / "stages" / f"{stage}.json"
        if not file.exists():
            return None
        result: dict[str, Any] = read_json(file)
        return result if result.get("key") == self.key(stage) else None

    def result(self, stage: str) -> dict[str, Any]:
        """The result of a stage that this one rests on."""
        found = self.done(stage)
        if found is None:
            raise RunError(f"{self.folder}: {stage} comes first; run the whole pipeline, or nasflow {stage}")
        return found

    def carry_out(self, stage: str, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Do the work of a stage unless it is done, and write down its result.

        `work` returns the result, with a `message` in a user's words. A stage that fails leaves its reason in
        failure.json for `summary`.
        """
        found = self.done(stage)
        if found is not None:
            self.notify(stage, 1, 1, found["message"])
            return found
        failure = self.folder / "failure.json"
        if failure.exists() and (stage != "report" or read_json(failure)["stage"] == stage):
            failure.unlink()  # the report tells of other stages' failures and mends none
        start = time.perf_counter()
        self.notify(stage, 0, 1, "")
        try:
            result = dict(work())
        except NasflowError as error:
            said = {"stage": stage, "message": str(error), "infeasible": isinstance(error, Infeasible)}
            with contextlib.suppress(FolderError):  # on a full disk the error itself matters more
                write_json(failure, said)
            raise
        seconds = time.perf_counter() - start
        result = {"key": self.key(stage), "seconds": seconds, **result}
        write_json(self.folder / "stages" / f"{stage}.json", result)
        self.notify(stage, 1, 1, result["message"])
        return result


@contextlib.contextmanager
def open_run(
    experiment: Experiment,
    folder: Path,
    *,
    fresh: bool = False,
    wait: bool = False,
    notify: Notify = silent,
    make: Make | None = None,
    share: Share = alone,
) -> Iterator[Run]:
    """Hold `folder` for this experiment. `fresh` empties it first; `wait` waits for another process to leave it.

    Settings of later stages may change between runs: those stages are done again. A search cannot be continued
    with other settings than it began with, except for more trials.
    """
    with locked(folder / "lock", wait=wait):
        _empty(folder, fresh)
        sweep(folder)
        run = Run(experiment, folder, notify, make, share)
        _check_same_search(run)
        write_text(folder / "experiment.yaml", dump(experiment))
        yield run


def _empty(folder: Path, fresh: bool) -> None:
    """Empty a run's folder if that is asked for, or was asked for and cut short: what is left of a run that was
    half removed cannot be trusted."""
    begun, kept = folder / ".emptying", ("lock", ".emptying")
    if fresh and not begun.exists():
        others = [path.name for path in folder.iterdir() if path.name not in kept]
        if others and not (folder / "experiment.yaml").exists():
            raise RunError(
                f"{folder} is to be emptied, but it holds no run: {', '.join(sorted(others)[:5])}. "
                "Choose another folder with --out"
            )
        begun.touch()
    if begun.exists():
        for path in folder.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        begun.unlink()


def _check_same_search(run: Run) -> None:
    """A recorded search goes on only with the settings it began with; more trials are welcome."""
    began = run.folder / "stages" / "begun.json"
    now = run.settings("search")
    now["search"] = {key: value for key, value in now["search"].items() if key != "trials"}
    if not began.exists():
        write_json(began, now)
        return
    then = read_json(began)
    if then != now:
        differing = sorted(key for key in now if now[key] != then.get(key))
        raise RunError(
            f"{run.folder} holds a search with other settings for {', '.join(differing)}. "
            f"Use --fresh to start anew or --out for another folder. It had {'; '.join(differences(then, now))}"
        )


def cores() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
