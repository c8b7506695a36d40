"""What is foretold of a trial's latency beside what was measured of it, how far it is believed, and where both are
kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nasflow.files import FolderError, read_json, write_json
from nasflow.hardware import Latency
from nasflow.hardware.predictor import CannotPredict, Prediction, Predictor
from nasflow.space import Scalar, point_key
from nasflow.study import Trial

DEVIATIONS = 2.0  # of a prediction's error, on both sides of it: some 95 % of what is measured lies inside
LEARNT = 200  # measurements, the latest, that a predictor is refitted on


@dataclass(frozen=True)
class Foresight:
    """The predictor of a device as the run began with it, and how far it is believed instead of asking the device.

    An interval of two deviations on both sides is believed if it is narrower than `width` on each (a share of the
    prediction; 0 for never) and lies on one side of the limit. Where all of it is over the limit it is always believed.
    """

    predictor: Predictor
    limit_ms: float | None = None
    width: float = 0.0

    def hopeless(self, prediction: Prediction) -> bool:
        """Whether even the most favourable end of the interval is over the limit."""
        return self.limit_ms is not None and interval(prediction)[0] > self.limit_ms

    def believes(self, prediction: Prediction) -> bool:
        if self.hopeless(prediction):
            return True
        high = interval(prediction)[1]
        safe = self.limit_ms is None or high <= self.limit_ms
        return safe and high - prediction.p50_ms < self.width * prediction.p50_ms


def interval(prediction: Prediction) -> tuple[float, float]:
    """Where the measurement is expected, in milliseconds."""
    away = DEVIATIONS * prediction.deviation_ms
    return prediction.p50_ms - away, prediction.p50_ms + away


def foretell(predictor: Predictor, files: Sequence[Path]) -> list[Prediction | None]:
    """A prediction for each file; None for one that the predictor knows too little about, which is then measured."""
    if not files:
        return []
    try:
        return list(predictor.predict(files))
    except CannotPredict:
        if len(files) == 1:
            return [None]
        return [foretell(predictor, [file])[0] for file in files]


@dataclass(frozen=True)
class Record:
    """What is known of the latency of one trial on one device. `predicted` is what was foretold before it was
    measured, so it tells how good predictions are; `sha256` is that of the exported file."""

    point: Mapping[str, Scalar]
    sha256: str
    predicted: Prediction | None = None
    latency: Latency | None = None

    def foretold(self, prediction: Prediction) -> Record:
        return replace(self, predicted=prediction)

    def measured(self, latency: Latency) -> Record:
        return replace(self, latency=latency)

    def to_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"point": dict(self.point), "sha256": self.sha256}
        said["source"] = "measured" if self.latency else "predicted"
        if self.predicted is not None:
            said["predicted"] = asdict(self.predicted)
        if self.latency is not None:
            said["latency"] = self.latency.to_json()
        return said

    @classmethod
    def from_json(cls, said: Any) -> Record:
        """The opposite of `to_json`. ValueError, KeyError, TypeError or AttributeError where `said` is not that."""
        predicted, latency = said.get("predicted"), said.get("latency")
        return cls(
            point=dict(said["point"]),
            sha256=str(said["sha256"]),
            predicted=_prediction(predicted) if predicted else None,
            latency=Latency.from_json(latency) if latency else None,
        )


def _teaching(latency: Latency) -> float | None:
    """What a predictor may learn from a measurement; None where that was too noisy."""
    return None if latency.noisy else latency.p50_ms


def _prediction(said: Mapping[str, Any]) -> Prediction:
    parts = tuple((str(name), float(ms)) for name, ms in said["parts"])
    return Prediction(float(said["p50_ms"]), float(said["deviation_ms"]), parts)


@dataclass(frozen=True)
class Records:
    """The records of a search: `folder`/NNNNN/latency@<device>.json, beside the candidate.onnx that they are about."""

    folder: Path
    _times: dict[str, dict[int, float | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def file(self, number: int) -> Path:
        """Where the trial's exported network lies, or will."""
        return self.folder / f"{number:05d}" / "candidate.onnx"

    def read(self, trial: Trial, device: str) -> Record | None:
        """The record of this very trial; None if there is none, or what is there is another's or broken."""
        record = self._read(trial.number, device)
        same = record is not None and point_key(record.point) == point_key(trial.point)
        return record if same else None

    def write(self, number: int, device: str, record: Record) -> None:
        write_json(self._path(number, device), record.to_json())
        if record.latency is not None and device in self._times:
            self._times[device][number] = _teaching(record.latency)

    def measured(self, device: str, before: float = math.inf) -> tuple[list[tuple[Path, float]], int]:
        """The latest measurements of trials with a number below `before`: file and p50 in milliseconds. Noisy ones
        are left out, from which a predictor would learn who else was at work, and counted."""
        if device not in self._times:
            numbers = sorted(int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdecimal())
            records = ((number, self._read(number, device)) for number in numbers)
            self._times[device] = {
                number: _teaching(record.latency) for number, record in records if record and record.latency
            }
        earlier = [(number, ms) for number, ms in sorted(self._times[device].items()) if number < before]
        known = [(self.file(number), ms) for number, ms in earlier if ms is not None]
        return known[-LEARNT:], len(earlier) - len(known)

    def _read(self, number: int, device: str) -> Record | None:
        path = self._path(number, device)
        if not path.exists():
            return None
        try:
            return Record.from_json(read_json(path))
        except (FolderError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _path(self, number: int, device: str) -> Path:
        return self.folder / f"{number:05d}" / f"latency@{device}.json"
