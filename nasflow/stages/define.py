"""The first stage: data read and counted, space opened, devices asked whether they answer."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nasflow.compression import prune
from nasflow.evaluators.counts import Counts
from nasflow.evaluators.measured import metrics_of, only_measured
from nasflow.files import sha256
from nasflow.hardware import Device
from nasflow.hardware.device import reference_network
from nasflow.space import Choice, Point
from nasflow.stages import predictors
from nasflow.stages.run import Run, RunError
from nasflow.training import seeded


def define(run: Run) -> dict[str, Any]:
    """Find out whether the run is possible before anything is trained, and write down what it is about."""
    return run.carry_out("define", lambda: _define(run))


def _define(run: Run) -> dict[str, Any]:
    data, space = run.data, run.architecture.space()
    predictors.predictors(run)
    check_metrics(run, predictors.answering(run))
    corners: list[Point] = [
        {p.name: p.options[at] if isinstance(p, Choice) else p.at(-at) for p in space.parameters}
        for at in (0, -1)
    ]
    for point in corners:
        _check_answer(run, point)
    _check_parts(run)
    smallest, largest = (Counts(run.architecture)(point) for point in corners)
    size = space.size
    points = "infinitely many points" if math.isinf(size) else f"{int(size):,} points"
    return {
        "message": f"{len(data.train.y):,} training images of {'x'.join(map(str, data.shape))}, {points}",
        "data": {
            "name": data.name,
            "sha256": data.sha256,
            "shape": list(data.shape),
            "classes": len(data.classes),
            "train": len(data.train.y),
            "validation": len(data.validation.y),
            "skipped": dict(data.skipped),
        },
        "weights": {"sha256": sha256(weights) if (weights := run.architecture.weights) else None},
        "space": {
            "size": None if math.isinf(size) else int(size),
            "parameters": len(space.parameters),
            "sha256": space.sha256,
            "first": dict(smallest),
            "last": dict(largest),
        },
    }


def check_metrics(run: Run, devices: Sequence[Device]) -> None:
    """Raise Unavailable unless each device can tell the energy or throughput that is asked of it."""
    wanting = [device for device in devices if only_measured(device.name, run.asked)]
    if not wanting:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reference.onnx"
        file.write_bytes(reference_network())
        for device in wanting:
            metrics_of(device.latency(file), device.name, run.asked)


def _check_parts(run: Run) -> None:
    """Raise PruneError if compression is to spare, or to change, a part that a user's own network does not have."""
    settings = run.experiment.compress
    if run.architecture.model is not None and settings.enabled:
        with seeded(0):
            prune.check_modules(run.architecture.build({}), (*settings.protect, *settings.only))


def _check_answer(run: Run, point: Point) -> None:
    """Raise RunError unless the network of a point takes the images and tells the classes apart."""
    images = torch.zeros(2, *run.architecture.shape)
    expected = f"expected a network that takes images of {tuple(images.shape)} and gives logits "
    expected += f"(2, {run.architecture.classes}), one number for each class"
    with seeded(0):
        network = run.architecture.build(point).eval()
    try:
        with torch.no_grad():
            answer = network(images)
    except Exception as error:  # the network may be the user's, and raise anything
        raise RunError(f"{expected}; it fails with {type(error).__name__}: {error}") from error
    if not isinstance(answer, torch.Tensor) or tuple(answer.shape) != (2, run.architecture.classes):
        got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else f"a {type(answer).__name__}"
        raise RunError(f"{expected}; it gives {got}")
