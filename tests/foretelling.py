"""A predictor for the tiny run: it knows how long files take on the scripted device, but for a factor."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, replace

import tiny

from nasflow.hardware.predictor import Accuracy, Built, Prediction


@dataclass(frozen=True)
class BySize:
    """`factor` times the truth, unsure of itself by `deviation` (a share). Large files take `large` times that."""

    factor: float = 1.0
    deviation: float = 0.02
    large: float = 1.0
    kind: str = "fake"

    def predict(self, files):
        times = [
            tiny.by_size(file) * self.factor * (self.large if self._large(file) else 1) for file in files
        ]
        return [Prediction(ms, self.deviation * ms, (("Conv+Relu", ms),)) for ms in times]

    def refitted(self, measured):
        ratios = {
            large: [ms / self.predict([f])[0].p50_ms for f, ms in measured if self._large(f) is large]
            for large in (False, True)
        }
        # Where large files are as far off as small ones, either tells of both.
        both = [ratio for group in ratios.values() for ratio in group] if self.large == 1.0 else []
        small, off = (statistics.median(ratios[large] or both or [1.0]) for large in (False, True))
        return replace(self, factor=self.factor * small, large=self.large * off / small)

    def to_json(self):
        return asdict(self)

    @classmethod
    def from_json(cls, value):
        return cls(**value)

    @staticmethod
    def _large(file):
        return file.stat().st_size > 13000


def built(predictor, **environment):
    accuracy = Accuracy.of([1.0, 2.0, 3.0], [1.0, 2.1, 3.0])
    return Built(predictor, "local-cpu", environment, "2026-11-22", accuracy, 0.05, "tiny ones")
