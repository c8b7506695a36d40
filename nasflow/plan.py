"""What an experiment would do and about how long it would take, found out by trying a little of it.

Data are read, devices asked, and a few networks of the space counted, trained on a few batches, exported and
measured; nothing of that is kept.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasflow import training
from nasflow.data import Split
from nasflow.evaluators.counts import Counts
from nasflow.evaluators.measured import metrics_of
from nasflow.experiment import Experiment
from nasflow.export import to_onnx
from nasflow.hardware import Device
from nasflow.space import Point
from nasflow.spaces import training as training_space
from nasflow.stages import Run, predictors
from nasflow.stages.search import recipe, strategy

SAMPLED = 12  # networks that are counted, to see how many keep the limits
TIMED = 3  # of those, which are trained for a moment and measured
BATCHES = 8  # of which a moment consists


@dataclass(frozen=True)
class Step:
    """One stage: what it would do, and about how many seconds that takes."""

    stage: str
    what: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The steps of an experiment in their order, and what else is worth knowing before it starts."""

    name: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)


@dataclass(frozen=True)
class Cost:
    """Seconds to train a network on all training images once (`epoch`), and to export and measure it (`measure`)."""

    epoch: float
    measure: float


def plan(experiment: Experiment, folder: Path) -> Plan:
    """Try a little of everything. Raises what the run itself would raise for settings that cannot work."""
    run = Run(experiment, folder)
    space = run.architecture.space()
    strategy(run, space, run.objectives)
    predictors.predictors(run)
    devices = predictors.answering(run)
    rng = np.random.default_rng(experiment.seed)
    points = [space.sample(rng) for _ in range(SAMPLED if space.size > 1 else 1)]
    counts = Counts(run.architecture, recipe(run, "search").batch_size)
    allowed = [point for point in points if _within(run, counts(point))]
    notes = [
        f"Estimated from {min(TIMED, len(points))} networks; half of it, or twice, would be no surprise."
    ]
    if len(allowed) < len(points):
        some = f"{len(allowed)} of {len(points)}" if allowed else f"None of {len(points)}"
        notes.append(f"{some} random networks keep the limits; the others are refused before training.")
    cost = _cost(run, (allowed or points)[:TIMED], devices)
    return Plan(experiment.name, _steps(run, space.size, cost), tuple(notes))


def _within(run: Run, metrics: dict[str, float]) -> bool:
    return not any(objective.violation(metrics) for objective in run.objectives)


def _steps(run: Run, size: float, cost: Cost) -> tuple[Step, ...]:
    """One step for every stage that would do something."""
    experiment, data, workers = run.experiment, run.data, run.workers
    search, compress, retrain = experiment.search, experiment.compress, experiment.retrain
    trials = search.trials if size > 1 else 1
    networks = f"{size:.3g} networks to choose from" if size > 1 else "one network"
    devices = ", ".join(device.name for device in run.devices)
    steps = [
        Step(
            "define",
            f"{data.name}: {len(data.train):,} images to train on, {len(data.validation):,} to judge by; {networks}",
            0.0,
        ),
        Step(
            "search",
            f"{trials} trainings of {search.epochs} epochs by {search.strategy.name}, {workers} at once;"
            f" {'the front of them' if predictors.predicts(run) else 'each'} measured on {devices}",
            trials * (search.epochs * experiment.data.folds * cost.epoch / workers + cost.measure),
        ),
    ]
    picked = len(compress.pick) if isinstance(compress.pick, tuple) else 1
    if compress.enabled:
        before = compress.sparse.epochs if compress.sparse else 0
        epochs = compress.steps * max(1, round(compress.epochs / compress.steps))
        steps.append(
            Step(
                "compress",
                f"{'each network of the front' if compress.pick == 'front' else f'{picked} network'}:"
                f"{f' {before} epochs with a penalty,' if before else ''}"
                f" {compress.trials} prunings{f' in {compress.steps} steps' if compress.steps > 1 else ''}"
                f" trained for {epochs} epochs{', int8' if compress.int8 else ''}",
                picked
                * (before * cost.epoch + compress.trials * (epochs * cost.epoch / workers + cost.measure)),
            )
        )
    survivors = (retrain.networks if size > 1 else 1) + compress.enabled
    trainings = survivors * retrain.seeds
    times = f", {retrain.seeds} times each" if retrain.seeds > 1 else ""
    steps += [
        Step(
            "retrain",
            f"up to {survivors} networks, {retrain.epochs} epochs{times}",
            -(-trainings // workers) * retrain.epochs * cost.epoch,
        ),
        Step(
            "deploy",
            f"export, check, measure on {devices}; ship by: {experiment.deploy.ship}",
            2 * survivors * cost.measure,
        ),
    ]
    return tuple(steps)


def _cost(run: Run, points: Sequence[Point], devices: Sequence[Device]) -> Cost:
    """The medians over a few networks; the first is done twice, since the first time of anything is slow."""
    settings = recipe(run, "search")
    data = run.data
    images = min(len(data.train), BATCHES * settings.batch_size)
    some = dataclasses.replace(data, train=_first(data.train, images), validation=_first(data.validation, 1))
    moment = dataclasses.replace(settings, epochs=1)
    epochs, measures = [], []
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "network.onnx"
        for point in [points[0], *points]:
            network = run.architecture.build(point)
            start = time.perf_counter()
            training.train(network, some, training_space.recipe(point, moment), seed=run.experiment.seed)
            trained = time.perf_counter()
            to_onnx(network, data.shape, file)
            for device in devices:
                metrics_of(device.latency(file), device.name, run.asked)
            epochs.append((trained - start) * len(data.train) / images)
            measures.append(time.perf_counter() - trained)
    return Cost(statistics.median(epochs[1:]), statistics.median(measures[1:]))


def _first(split: Split, images: int) -> Split:
    """So many of the images, a fair sample since their order is random."""
    return Split(split.x[:images], split.y[:images])
