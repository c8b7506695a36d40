"""What a run knows of its devices beside what it measures: the predictors that were built for them.

    stages/predictors.json    for each device the predictor that the search began with, or null

A predictor that is built or built anew meanwhile is for the next run: a search that goes on says the same as one
that was never stopped.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from nasflow.errors import Unavailable
from nasflow.evaluators.foretold import Foresight
from nasflow.files import read_json, write_json
from nasflow.hardware import Device, DeviceError, load_profile, store
from nasflow.hardware.device import reference_network
from nasflow.hardware.predictor import Built
from nasflow.stages.run import Run, RunError
from nasflow.study import Objective

WIDTH = 0.1  # of an interval to each side, as a share: wider ones are measured where latency is predicted

log = logging.getLogger(__name__)


def predicts(run: Run) -> bool:
    """Whether predictions may stand for measurements while the search goes on."""
    return run.experiment.search.latency == "predicted"


def predictors(run: Run) -> dict[str, Built]:
    """The predictor of each device that has one, by the device's name: those the search began with, else those that
    there are now. Raises RunError if the experiment wants predictions and one is missing."""
    file = run.folder / "stages" / "predictors.json"
    if file.exists():
        kept: Mapping[str, object] = read_json(file)
        return {device: store.from_json(said) for device, said in kept.items() if said is not None}
    found = {}
    for name in run.experiment.devices:
        profile = load_profile(name)
        built = store.load(profile, Path(name))
        if built is not None:
            found[profile.name] = built
        elif predicts(run):
            raise RunError(
                f"search.latency: predicted expects a predictor of every device, got none of {profile.name}; build it:"
                f" nasflow profile {name} --build network --minutes 15 (or leave latency: measured)"
            )
    return found


def keep(run: Run) -> dict[str, Built]:
    """The predictors, written down as those that the search began with."""
    found, file = predictors(run), run.folder / "stages" / "predictors.json"
    if not file.exists():
        names = [device.name for device in run.devices]
        write_json(file, {name: store.to_json(found[name]) if name in found else None for name in names})
    return found


def foresight(
    run: Run, found: Mapping[str, Built], objectives: Sequence[Objective] | None = None
) -> dict[str, Foresight]:
    """What is foretold of each device in this run, and how far it is believed. `objectives`: the run's, or others
    whose limits count."""
    limits = {o.metric: o.limit for o in objectives or run.objectives if o.goal == "min"}
    return {
        device: Foresight(
            built.predictor, limits.get(f"latency_ms@{device}"), WIDTH if predicts(run) else 0.0
        )
        for device, built in found.items()
    }


def answering(run: Run) -> list[Device]:
    """The devices that answer. One that does not raises Unavailable, unless predictions may stand for it."""
    found = []
    for device in run.devices:
        try:
            device.check()
            found.append(device)
        except Unavailable as away:
            if not predicts(run):
                raise
            log.warning("%s; its latency is predicted, and nothing is shipped before it is measured", away)
    return found


def warn_of_stale(run: Run, found: Mapping[str, Built]) -> None:
    """Say so where a device is no longer what it was when its predictor was built."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reference.onnx"
        file.write_bytes(reference_network())
        for device in run.devices:
            if device.name not in found:
                continue
            try:
                now = device.latency(file).environment
            except (DeviceError, Unavailable):
                continue  # whatever is measured later tells
            for change in store.stale(found[device.name], now):
                log.warning("%s", outdated(device.name, change))


def outdated(device: str, change: str) -> str:
    """In words, what makes a predictor doubtful, and what to do."""
    return (
        f"the predictor of {device} was built for other circumstances: its {change};"
        f" build it anew: nasflow profile {device} --build network"
    )
