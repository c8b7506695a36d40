"""Networks in integers: how their files are written, and that error and latency are those of the int8 file."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nasflow.compression import quantize
from nasflow.compression.calibrate import Method
from nasflow.compression.joint import in_integers
from nasflow.data import Data
from nasflow.evaluators.accuracy import WEIGHTS
from nasflow.evaluators.latency import MeasuredLatency
from nasflow.export import predict, to_onnx
from nasflow.network import Architecture, load_weights
from nasflow.pool import Train
from nasflow.space import Point
from nasflow.stages.run import Run
from nasflow.study import Metrics, Trial

CALIBRATION_IMAGES = 256
ONLY_TIMED = 32  # images, for files that are only timed: ranges do not move the time


@dataclass(frozen=True)
class Integers:
    """Writes networks as int8 files: `calibration` holds preprocessed images (n, channels, height, width), from which
    `method` reads ranges."""

    calibration: NDArray[np.float32]
    reduce_range: bool
    method: Method = "minmax"

    @classmethod
    def of(cls, run: Run, images: int = CALIBRATION_IMAGES) -> Integers:
        """Activations' ranges from training images of the run, weights as its first device multiplies them."""
        x = calibration(run.folds[0], run.experiment.seed, images)
        return cls(
            x, run.reduces_range, run.experiment.compress.calibration if images > ONLY_TIMED else "minmax"
        )

    def __call__(self, model: nn.Module, shape: Sequence[int], path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            to_onnx(model, shape, file)
            quantize.int8(file, self.calibration, path, reduce_range=self.reduce_range, method=self.method)


@dataclass(frozen=True)
class Quantised:
    """Trains by `train`, which keeps weights in `folder`; where a trial's point asks for integers, `error` is that of
    the int8 file on the validation images, and `error_fp32` what it was before."""

    train: Train
    architecture: Architecture
    data: Data
    folder: Path
    write: Integers

    def __call__(self, trial: Trial) -> Metrics:
        metrics = self.train(trial)
        if not in_integers(trial.point):
            return metrics
        place = self.folder / f"{trial.number:05d}"
        model = self.architecture.build(trial.point)
        load_weights(model, place / WEIGHTS)
        self.write(model, self.architecture.shape, place / "int8.onnx")
        error = validation_error(self.data, place / "int8.onnx")
        return {**metrics, "error": error, "error_fp32": metrics["error"]}


@dataclass(frozen=True)
class AsAsked:
    """Measures each trial in the form that its point asks for."""

    floats: MeasuredLatency
    integers: MeasuredLatency

    def __call__(self, trials: Sequence[Trial]) -> list[Metrics | Exception]:
        found: dict[int, Metrics | Exception] = {}
        for measure, whole in ((self.floats, False), (self.integers, True)):
            mine = [trial for trial in trials if in_integers(trial.point) is whole]
            answers = measure(mine) if mine else []
            found |= {trial.number: answer for trial, answer in zip(mine, answers, strict=True)}
        return [found[trial.number] for trial in trials]


def stored(point: Point, metrics: Metrics) -> Metrics:
    """What is counted of a point's network in 32-bit floats, with bytes as they are stored: a quarter in integers.

    >>> stored({"compression.int8": True}, {"flops": 8.0, "size_kb": 8.0})
    {'flops': 8.0, 'size_kb': 2.0}
    """
    if not in_integers(point):
        return metrics
    return {
        name: value / 4 if name in ("size_kb", "peak_memory_kb") else value for name, value in metrics.items()
    }


def quantised(run: Run, data: Data, file: Path, out: Path, keep: Collection[str] = ()) -> Path:
    """Write `file` in int8 to `out`, but for the nodes to keep: activations' ranges from training images, weights as
    the device's processor multiplies them."""
    x = calibration(data, run.experiment.seed, CALIBRATION_IMAGES)
    method = run.experiment.compress.calibration
    return quantize.int8(file, x, out, reduce_range=run.reduces_range, keep=keep, method=method)


def calibration(data: Data, seed: int, count: int) -> NDArray[np.float32]:
    """Training images, preprocessed, that say which values a network's activations take."""
    chosen = np.random.default_rng(seed).permutation(len(data.train.y))[:count]
    return data.preprocess(data.train.x[np.sort(chosen)])


def validation_error(data: Data, file: Path) -> float:
    """Share of validation images that an exported file answers wrongly."""
    logits = predict(file, data.preprocess(data.validation.x))
    return float(np.mean(logits.argmax(axis=1) != data.validation.y))
