"""Latency of candidates: each is exported, and its file measured on every device before any training is paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from nasflow.export import to_onnx
from nasflow.files import FolderError, read_json, sha256, write_json
from nasflow.hardware import Device, DeviceError, Latency
from nasflow.space import Scalar, point_key
from nasflow.study import Metrics, Trial

SEED = 0  # of the weights, whose values do not move the time


class Architecture(Protocol):
    """How points become networks for inputs of `shape` (channels, height, width)."""

    @property
    def shape(self) -> tuple[int, int, int]: ...
    def build(self, point: Mapping[str, Scalar]) -> nn.Module: ...


@dataclass(frozen=True)
class MeasuredLatency:
    """Measures a batch of trials together, and gives `latency_ms@<device>` (the p50) of each or why it has none.

    A trial's folder, `folder`/NNNNN, gets the exported candidate.onnx and, for each device, its whole latency
    with all samples; a trial that has them is not measured again. Raises Unavailable if a device is away.
    """

    devices: Sequence[Device]
    architecture: Architecture
    folder: Path

    def __call__(self, trials: Sequence[Trial]) -> list[Metrics | Exception]:
        files: dict[int, Path | Exception] = {}
        found: list[dict[str, float] | Exception] = [{} for _ in trials]
        for device in self.devices:
            for i, answer in enumerate(self._on(device, trials, files)):
                metrics = found[i]
                if isinstance(answer, Exception):
                    found[i] = answer
                elif not isinstance(metrics, Exception):
                    metrics[f"latency_ms@{device.name}"] = answer.p50_ms
        return list(found)

    def _on(
        self, device: Device, trials: Sequence[Trial], files: dict[int, Path | Exception]
    ) -> list[Latency | Exception]:
        """The latency of each trial on one device, from its folder or measured now. `files` keeps the exports."""
        found: dict[int, Latency | Exception] = {}
        for trial in trials:
            recorded = _read(self._record(trial, device), trial)
            if recorded is not None:
                found[trial.number] = recorded
                continue
            if trial.number not in files:
                files[trial.number] = self._export(trial)
            file = files[trial.number]
            if isinstance(file, Exception):
                found[trial.number] = file
        new = [trial for trial in trials if trial.number not in found]
        asked = [file for trial in new if isinstance(file := files[trial.number], Path)]
        for trial, file, answer in zip(new, asked, _measure(device, asked), strict=True):
            found[trial.number] = answer
            if isinstance(answer, Latency):
                record = {"point": trial.point, "sha256": sha256(file), "latency": answer.to_json()}
                write_json(self._record(trial, device), record)
        return [found[trial.number] for trial in trials]

    def _export(self, trial: Trial) -> Path | Exception:
        """The trial's network, not trained yet, as a file."""
        file = self._folder(trial) / "candidate.onnx"
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                to_onnx(self.architecture.build(trial.point), self.architecture.shape, file)
        except FolderError:
            raise
        except Exception as error:  # a network that cannot be built or exported is a failed trial
            return error
        return file

    def _record(self, trial: Trial, device: Device) -> Path:
        return self._folder(trial) / f"latency@{device.name}.json"

    def _folder(self, trial: Trial) -> Path:
        return self.folder / f"{trial.number:05d}"


def _measure(device: Device, files: Sequence[Path]) -> list[Latency | Exception]:
    """All files in turns; if that fails, one after the other, so that one bad file spoils no other's answer."""
    try:
        return list(device.latencies(files))
    except DeviceError as error:
        if len(files) == 1:
            return [error]
        return [_measure(device, [file])[0] for file in files]


def _read(record: Path, trial: Trial) -> Latency | None:
    """The latency kept for this very trial; None if there is none, or what is there is another's or broken."""
    if not record.exists():
        return None
    try:
        kept = read_json(record)
        if point_key(kept["point"]) == point_key(trial.point):
            return Latency.from_json(kept["latency"])
    except (FolderError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None
