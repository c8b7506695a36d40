"""The whole chain in one call, for scripts and notebooks: `nasflow.fit(data, devices=[...], limits={...})`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nasflow import stages
from nasflow.data import Preprocess
from nasflow.errors import NasflowError
from nasflow.experiment import Experiment, from_mapping
from nasflow.export import predict as run_file
from nasflow.files import read_json, replacing

Arrays = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class Deployed:
    """One network as an exported file, with what its certificate says."""

    file: Path
    certificate: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.certificate["name"])

    def predict(self, x: ArrayLike) -> NDArray[np.int64]:
        """The class number of each image in `x`, shape (images, channels, height, width), as they were given
        to `fit`: the preprocessing is done here."""
        said = self.certificate["preprocess"]
        preprocess = Preprocess(
            said["scale"],
            tuple(said["mean"]),
            tuple(said["std"]),
            tuple(said["resize"]) if said["resize"] else None,
        )
        images = np.asarray(x)
        if images.ndim == 3:
            images = images[:, None]
        classes: NDArray[np.int64] = run_file(self.file, preprocess(images)).argmax(axis=1)
        return classes

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Copy the ONNX file to `path`, its certificate beside it."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.file, target)
        shutil.copyfile(self.file.with_name("certificate.json"), target.with_suffix(".certificate.json"))
        return target


@dataclass(frozen=True)
class Fit:
    """What a finished run holds: the front, the files, the report."""

    folder: Path
    summary: Mapping[str, Any]

    @property
    def front(self) -> list[Mapping[str, Any]]:
        """The networks that no other beats in every objective: trial number, point and metrics of each."""
        return list(self.summary["front"])

    @property
    def deployed(self) -> list[Deployed]:
        """Every network that was trained in full and exported."""
        return [
            Deployed(self.folder / one["file"], read_json(self.folder / one["certificate"]))
            for one in self.summary["deployed"]
        ]

    def best(self, device: str | None = None) -> Deployed:
        """The network that ships; with `device`, the fastest there of those with at most its validation error."""
        shipped = next(one for one in self.deployed if one.certificate["shipped"])
        if device is None:
            return shipped
        known = sorted(shipped.certificate["latency"])
        if device not in known:
            raise NasflowError(f"nothing was measured on {device!r}; this run measured on {', '.join(known)}")
        good = [
            one
            for one in self.deployed
            if one.certificate["validation_error"] <= shipped.certificate["validation_error"]
            and all(limit["holds"] for limit in one.certificate["limits"])
        ]
        return min(good or [shipped], key=lambda one: float(one.certificate["latency"][device]["p50_ms"]))

    def predict(self, x: ArrayLike) -> NDArray[np.int64]:
        """What the shipped network says: see `Deployed.predict`."""
        return self.best().predict(x)

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Copy the shipped network's ONNX file to `path`."""
        return self.best().export(path)

    def report(self) -> Path:
        """The report, a page that opens in any browser."""
        return self.folder / "report.html"


def fit(
    data: str | Arrays | Mapping[str, Any] = "digits",
    *,
    devices: Sequence[str] = ("local-cpu",),
    limits: Mapping[str, float] | None = None,
    model: str | Mapping[str, Any] | None = None,
    trials: int = 24,
    epochs: int = 8,
    folder: str | os.PathLike[str] = "runs/fit",
    settings: Mapping[str, Any] | None = None,
    notify: Callable[[str, int, int, str], None] = stages.silent,
) -> Fit:
    """Search, compress, retrain and certify networks for `data` on `devices`; run again, it goes on or returns.

    `data` is a data set's name, its settings as in an experiment file, or arrays (images, labels) with images of
    shape (n, height, width) or (n, channels, height, width). `limits` are hard: `{"latency_ms": 0.1}`. `model`
    names a function of yours that returns a torch module, which is then compressed instead of searched for.
    `settings` holds anything else an experiment file may say, by section: `{"retrain": {"epochs": 10}}`.

    >>> result = fit("digits", trials=4)  # doctest: +SKIP
    >>> result.best().name  # doctest: +SKIP
    'trial-2'
    """
    place = Path(folder)
    asked: dict[str, Any] = {
        "name": place.name,
        "data": _data(data, place),
        "devices": list(devices),
        "limits": dict(limits or {}),
        **({"model": model} if model is not None else {}),
    }
    for section, given in (settings or {}).items():
        asked[section] = {**asked[section], **given} if isinstance(asked.get(section), dict) else given
    asked["search"] = {"trials": trials, "epochs": epochs, **asked.get("search", {})}
    experiment: Experiment = from_mapping(asked, "fit()")
    with stages.open_run(experiment, place, notify=notify) as run:
        return Fit(place, stages.pipeline(run))


def _data(data: str | Arrays | Mapping[str, Any], folder: Path) -> dict[str, Any]:
    if isinstance(data, str):
        return {"name": data}
    if isinstance(data, Mapping):
        return dict(data)
    x, y = (np.asarray(part) for part in data)
    file = folder.parent / f"{folder.name}-data.npz"
    with replacing(file) as part, part.open("wb") as out:
        np.savez(out, x=x, y=y)
    return {"name": "npz", "path": str(file)}
