"""Latency of candidates: each is exported, and its file measured on every device before any training is paid for.

Where a device has a predictor, its predictions are kept beside the measurements, and believed instead of them
where a `Foresight` says so. After every batch the predictor is refitted on what was measured.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from nasflow.errors import Unavailable
from nasflow.evaluators.foretold import Foresight, Record, Records, foretell
from nasflow.evaluators.measured import metrics_of, only_measured
from nasflow.export import to_onnx
from nasflow.files import FolderError, sha256
from nasflow.hardware import Device, DeviceError, Latency, Unreachable
from nasflow.hardware.device import Lost
from nasflow.space import Scalar
from nasflow.study import Metrics, Trial

SEED = 0  # of the weights, whose values do not move the time
MOST_LOST = 3  # batches in a row in which a device went away: it is then not waited for any more

Write = Callable[[nn.Module, Sequence[int], Path], object]
"""How a network for inputs of a shape becomes the file that is measured."""

log = logging.getLogger(__name__)


class Architecture(Protocol):
    """How points become networks for inputs of `shape` (channels, height, width)."""

    @property
    def shape(self) -> tuple[int, int, int]: ...
    def build(self, point: Mapping[str, Scalar]) -> nn.Module: ...


@dataclass(frozen=True)
class MeasuredLatency:
    """Measures a batch of trials together, and gives `latency_ms@<device>` (the p50) of each or why it has none; of
    the metrics `asked` also those that come with a measurement, such as energy.

    A trial's folder, `folder`/NNNNN, gets the exported candidate.onnx and, for each device, its whole latency
    with all samples; a trial that has them is not measured again. Raises Unavailable if a device is away. One that
    goes away while it is asked fails what is left of the batch, and is asked again for the next one; when that has
    happened in three batches in a row it counts as away.

    `foresight` has what is foretold of a device, by its name. A prediction that is believed spares the
    measurement; all predictions of a batch come from the predictor as refitted on the trials before it, so a search
    that is killed and goes on says the same. A device that is away then does not stop the search if predictions
    may stand for it at all (`Foresight.width`).

    `write` makes the file, in 32-bit floats if nothing else is said.
    """

    devices: Sequence[Device]
    architecture: Architecture
    folder: Path
    foresight: Mapping[str, Foresight] = field(default_factory=dict)
    asked: Collection[str] = ()
    write: Write = to_onnx
    _records: Records = field(init=False, repr=False, compare=False)
    _lost: Counter[str] = field(default_factory=Counter, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_records", Records(self.folder))

    def __call__(self, trials: Sequence[Trial]) -> list[Metrics | Exception]:
        files: dict[int, Path | Exception] = {}
        found: list[dict[str, float] | Exception] = [{} for _ in trials]
        for device in self.devices:
            for i, answer in enumerate(self._on(device, trials, files)):
                metrics = found[i]
                if isinstance(answer, Exception):
                    found[i] = answer
                elif not isinstance(metrics, Exception):
                    metrics.update(answer)
        return list(found)

    def _on(
        self, device: Device, trials: Sequence[Trial], files: dict[int, Path | Exception]
    ) -> list[Metrics | Exception]:
        """What one device says of each trial: from its record, believed, or measured now. `files` keeps the exports."""
        found: dict[int, Metrics | Exception] = {}
        known: dict[int, Record] = {}
        for trial in trials:
            record = self._records.read(trial, device.name)
            if record is None or (record.latency is None and not self._records.file(trial.number).exists()):
                if trial.number not in files:
                    files[trial.number] = self._export(trial)
                file = files[trial.number]
                if isinstance(file, Exception):
                    found[trial.number] = file
                    continue
                record = record or Record(trial.point, sha256(file))
            known[trial.number] = record
        self._foretell(device, known)
        asked = [number for number, record in known.items() if not self._settled(device, record)]
        answers = self._measure(device, asked, known)
        for number, record in known.items():
            answer = answers.get(number)
            if isinstance(answer, Exception):
                found[number] = answer
            elif (record := answer or record).latency is not None:
                found[number] = _metrics(record.latency, device, self.asked)
            else:
                assert record.predicted is not None
                found[number] = {f"latency_ms@{device.name}": record.predicted.p50_ms}
        return [found[trial.number] for trial in trials]

    def _foretell(self, device: Device, known: dict[int, Record]) -> None:
        """Predict what is neither predicted nor measured, and write that down before anything is measured."""
        foresight = self.foresight.get(device.name)
        new = [number for number, r in known.items() if r.predicted is None and r.latency is None]
        if foresight is None or not new:
            return
        predictor = foresight.predictor
        measured, noisy = self._records.measured(device.name, before=min(known))
        if measured:
            predictor = predictor.refitted(measured)
        if noisy:
            log.info(
                "the predictor of %s learned from %d measurements; %d more were too noisy to tell",
                device.name, len(measured), noisy,
            )  # fmt: skip
        for number, prediction in zip(
            new, foretell(predictor, [self._records.file(number) for number in new]), strict=True
        ):
            if prediction is not None:
                known[number] = known[number].foretold(prediction)
                self._records.write(number, device.name, known[number])

    def _settled(self, device: Device, record: Record) -> bool:
        """Whether a trial need not be measured: it was, or what is foretold of it is believed."""
        if record.latency is not None:
            return True
        foresight = self.foresight.get(device.name)
        if foresight is None or record.predicted is None:
            return False
        if only_measured(device.name, self.asked):
            return foresight.hopeless(record.predicted)
        return foresight.believes(record.predicted)

    def _measure(
        self, device: Device, numbers: Sequence[int], known: Mapping[int, Record]
    ) -> dict[int, Record | Exception]:
        """What measuring these trials gives. A trial without an answer has to do with its prediction."""
        foresight = self.foresight.get(device.name)
        believing = (
            foresight is not None and foresight.width > 0 and not only_measured(device.name, self.asked)
        )
        try:
            answers = self._answers(device, [self._records.file(number) for number in numbers])
        except Unavailable as away:
            if not believing:
                raise
            log.warning("%s; predictions stand for it meanwhile", away)
            return {number: away for number in numbers if known[number].predicted is None}
        found: dict[int, Record | Exception] = {}
        for number, answer in zip(numbers, answers, strict=True):
            if isinstance(answer, Lost) and believing and known[number].predicted is not None:
                log.warning("%s; its prediction stands for it", answer)
                continue
            if isinstance(answer, Exception):
                found[number] = answer
                continue
            found[number] = record = known[number].measured(answer)
            self._records.write(number, device.name, record)
        return found

    def _answers(self, device: Device, files: Sequence[Path]) -> list[Latency | Exception]:
        """What a device says of files. Raises Unreachable where it went away in too many batches in a row."""
        if not files:
            return []
        if self._lost[device.name] < MOST_LOST:
            answers = _measure(device, files)
            lost = any(isinstance(one, Lost) for one in answers)
            self._lost[device.name] = self._lost[device.name] + 1 if lost else 0
            if self._lost[device.name] < MOST_LOST:
                return answers
        raise Unreachable(
            f"{device.name}: went away in {MOST_LOST} batches in a row; start the run again when it answers, and it"
            " goes on from here"
        )

    def _export(self, trial: Trial) -> Path | Exception:
        """The trial's network, not trained yet, as a file."""
        file = self._records.file(trial.number)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                self.write(self.architecture.build(trial.point), self.architecture.shape, file)
        except FolderError:
            raise
        except Exception as error:  # a network that cannot be built or exported is a failed trial
            return error
        return file


def _metrics(latency: Latency, device: Device, asked: Collection[str]) -> Metrics | Exception:
    try:
        return metrics_of(latency, device.name, asked)
    except Unavailable as error:
        return error


def _measure(device: Device, files: Sequence[Path]) -> list[Latency | Exception]:
    """All files in turns; if that fails, one after the other, so that one bad file spoils no other's answer. A device
    that went away is not asked about the rest: it has been waited for long enough."""
    try:
        return list(device.latencies(files))
    except DeviceError as error:
        if len(files) == 1 or isinstance(error, Lost):
            return [error] * len(files)
    answers: list[Latency | Exception] = []
    for file in files:
        gone = answers[-1] if answers and isinstance(answers[-1], Lost) else None
        answers.append(gone or _measure(device, [file])[0])
    return answers


@dataclass(frozen=True)
class Fastest:
    """Measures a batch of trials in each of several forms, which differ in how the file is written: what counts is
    the one that is faster on the first device. A form that a network cannot take is left out."""

    forms: Sequence[MeasuredLatency]

    def __call__(self, trials: Sequence[Trial]) -> list[Metrics | Exception]:
        first = f"latency_ms@{self.forms[0].devices[0].name}"
        return [
            _fastest(answers, first) for answers in zip(*(form(trials) for form in self.forms), strict=True)
        ]


def _fastest(answers: Sequence[Metrics | Exception], metric: str) -> Metrics | Exception:
    for answer in answers:
        if isinstance(
            answer, Unavailable | Lost
        ):  # the other form's answer would stand for one that is not known
            return answer
    known = [answer for answer in answers if not isinstance(answer, Exception)]
    return min(known, key=lambda metrics: metrics[metric]) if known else answers[0]
