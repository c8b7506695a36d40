"""A whole run that takes seconds: pictures that tiny networks learn at once, and a device that answers by a formula."""

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from nasflow import data as datasets
from nasflow import hardware, stages
from nasflow.experiment import Experiment, from_mapping
from nasflow.hardware import Comparison, Latency
from nasflow.pool import InProcess
from nasflow.stages import Run

torch.set_num_threads(1)

# What nasflow searches and trains by when nothing is said may change.
STRATEGY = "optuna-nsga2"
RECIPE = {
    "learning_rate": 0.01,
    "weight_decay": 0.02,
    "batch_size": 16,
    "label_smoothing": 0.05,
    "optimizer": "adamw",
    "warmup": 0.1,
    "clip": 5.0,
    "distillation": 0.5,
    "temperature": 2.0,
}
SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "space": {
        "name": "mobile",
        "strides": [1, 2],
        "widths": [[8, 16], [16, 24]],
        "depths": [1, 2],
        "stems": [8],
        "resolutions": [1.0],
        "kernels": [3],
        "expansions": [1, 2],
        "activations": ["relu"],
        "squeezes": [False],
        "heads": [0],
    },
    "limits": {"flops": 1.5e5, "latency_ms": 1.0},
    "search": {
        "strategy": STRATEGY,
        "trials": 5,
        "epochs": 3,
        "workers": 1,
        "batch": 2,
        "recipe": RECIPE,
    },
    "compress": {"trials": 3, "epochs": 2, "max_error_increase": 0.5, "round_to": 8, "mixed": False},
    "retrain": {"networks": 2, "epochs": 6, "seeds": 2},
    "deploy": {"int8_agreement": 0.5},
}
POOLED = [
    importlib.import_module(f"nasflow.stages.{stage}") for stage in ("search", "compress", "steps", "retrain")
]


def images(count: int = 320, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey images (count, 8, 8), bytes, of four classes: a bright bar at one of four heights, in noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 4
    x = rng.integers(0, 120, (count, 8, 8))
    for image, label in zip(x, y, strict=True):
        image[2 * label : 2 * label + 2] += rng.integers(20, 90)
    return x.astype(np.uint8), y


def write_images(file: Path, count: int = 320, seed: int = 0) -> Path:
    x, y = images(count, seed)
    np.savez(file, x=x, y=y)
    return file


def experiment(data: Path, **changes: Any) -> Experiment:
    """The tiny experiment on the images in `data`, with changes such as `search={"trials": 6}`, `space=None`."""
    raw = {**json.loads(json.dumps(SETTINGS)), "data": {"name": "npz", "path": str(data)}}
    for key, value in changes.items():
        whole = key == "space" or not isinstance(value, dict)
        raw[key] = value if whole else {**raw.get(key, {}), **value}
    return from_mapping({key: value for key, value in raw.items() if value is not None}, "tiny")


def by_size(file: Path) -> float:
    """Milliseconds that grow with the file; integers are three times as fast."""
    content = file.read_bytes()
    return (0.01 + len(content) / 1e6) / (3 if b"QuantizeLinear" in content else 1)


@dataclass(frozen=True)
class Scripted:
    """A Device that takes as long for a file as `cost` says, in milliseconds, at every time of day.

    Where it is asked, it answers many at once four times as fast, and, if it has a `meter`, tells that it takes two
    watts.
    """

    name: str = "local-cpu"
    cost: Callable[[Path], float] = by_size
    energy: bool = False
    throughput: bool = False
    meter: bool = True

    def check(self) -> None:
        pass

    def latency(self, file: Path) -> Latency:
        ms = self.cost(file)
        return Latency(
            p50_ms=ms,
            p90_ms=1.1 * ms,
            ci=(0.99 * ms, 1.01 * ms),
            samples_ms=(0.99 * ms, ms, 1.1 * ms),
            loads=(3,),
            outliers=0,
            reference_ms=0.05,
            noise=0.01,
            source="measured",
            date="2025-01-01T00:00:00+00:00",
            environment={"date": "2025-01-01T00:00:00+00:00"},
            energy_mj=2 * ms if self.energy and self.meter else None,
            energy_source="a formula" if self.energy and self.meter else "unavailable: no meter here",
            throughput_per_s=4000 / ms if self.throughput else None,
        )

    def latencies(self, files: Sequence[Path]) -> list[Latency]:
        return [self.latency(file) for file in files]

    def compare(self, a: Path, b: Path, watch: Any = None) -> Comparison:
        of_a, of_b = self.latency(a), self.latency(b)
        ratio = of_b.p50_ms / of_a.p50_ms
        verdict = "faster" if ratio < 0.99 else "slower" if ratio > 1.01 else "cannot tell"
        return Comparison(verdict, ratio, (0.99 * ratio, 1.01 * ratio), 0.001, of_a, of_b)


@contextlib.contextmanager
def world(
    cost: Callable[[Path], float] = by_size, *, processes: bool = False, meter: bool = True
) -> Iterator[None]:
    """Within, devices are `Scripted`, and networks are trained in this process unless `processes`."""

    def connect(profile: hardware.Profile, **asked: Any) -> Scripted:
        return Scripted(profile.name, cost, meter=meter, **asked)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(hardware, "connect", connect))
        for module in () if processes else POOLED:
            stack.enter_context(mock.patch.object(module, "Processes", lambda *_, **__: InProcess()))
        yield


@contextlib.contextmanager
def opened(
    wanted: Experiment,
    folder: Path,
    *,
    cost: Callable[[Path], float] = by_size,
    processes: bool = False,
    meter: bool = True,
    **options: Any,
) -> Iterator[Run]:
    with world(cost, processes=processes, meter=meter), stages.open_run(wanted, folder, **options) as run:
        yield run


def run(wanted: Experiment, folder: Path, **options: Any) -> dict[str, Any]:
    """Carry out the whole chain; returns the summary. Options are those of `opened`."""
    with opened(wanted, folder, **options) as run:
        return stages.pipeline(run)


@dataclass(frozen=True)
class Finished:
    """A run that was carried out from its beginning to its end, and what it said on the way.

    `tested` holds, for every time that the test data was opened, the stage at work and whether the choice was on
    disk by then.
    """

    experiment: Experiment
    data: Path
    folder: Path
    summary: dict[str, Any]
    told: list[tuple[str, int, int, str]]
    tested: list[tuple[str, bool]]

    @property
    def front(self) -> list[str]:
        """The names of the networks on the front, the knee first."""
        front = sorted(self.summary["front"], key=lambda entry: not entry["knee"])
        return [f"trial-{entry['trial']}" for entry in front]


def finish(folder: Path) -> Finished:
    data = write_images(folder / "images.npz")
    wanted, place = experiment(data), folder / "tiny"
    told: list[tuple[str, int, int, str]] = []
    tested: list[tuple[str, bool]] = []
    real = datasets.load_test

    def load_test(*given: Any, **more: Any) -> Any:
        tested.append((told[-1][0], (place / "choice.json").exists()))
        return real(*given, **more)

    with mock.patch.object(datasets, "load_test", load_test):
        summary = run(wanted, place, notify=lambda *event: told.append(event))
    return Finished(wanted, data, place, summary, told, tested)
