"""A predictor in the place of a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasflow.hardware.device import DeviceError, Follow
from nasflow.hardware.predictor import Built, CannotPredict
from nasflow.hardware.profile import Profile
from nasflow.hardware.timing import Comparison, Latency

NORMAL_95 = 1.96


@dataclass(frozen=True)
class Predicting:
    """Answers for a device from the predictor that was built for it; the device itself is never asked.

    Its latencies have `source` "predicted", no samples, the predictor's own 95 % interval, and the p50 for a p90,
    since how single calls scatter is not predicted. It compares nothing: whether one file is faster than another is
    told by a test on measurements.
    """

    profile: Profile
    built: Built

    @property
    def name(self) -> str:
        return self.profile.name

    def check(self) -> None:
        """It always answers."""

    def latency(self, file: Path) -> Latency:
        return self.latencies([file])[0]

    def latencies(self, files: Sequence[Path], watch: Callable[[Any], None] | None = None) -> list[Latency]:
        """Predictions, all at once: `watch` is not called."""
        for file in files:
            if not file.is_file():
                raise DeviceError(f"{self.name}: no file {file} to predict")
        try:
            found = self.built.predictor.predict(files)
        except CannotPredict as error:
            raise DeviceError(f"{self.name}: {error}") from error
        return [
            Latency(
                p50_ms=one.p50_ms,
                p90_ms=one.p50_ms,
                ci=(
                    max(0.0, one.p50_ms - NORMAL_95 * one.deviation_ms),
                    one.p50_ms + NORMAL_95 * one.deviation_ms,
                ),
                samples_ms=(),
                loads=(),
                outliers=0,
                reference_ms=None,
                noise=0.0,
                source="predicted",
                date=self.built.date,
                environment=self.built.environment,
            )
            for one in found
        ]

    def compare(self, a: Path, b: Path, watch: Follow | None = None) -> Comparison:
        raise DeviceError(
            f"{self.name}: predictions cannot tell which of two files is faster, only measurements can;"
            f" connect the device, then: nasflow profile {self.name} --compare {a} {b}"
        )
