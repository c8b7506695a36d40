"""The whole chain in one call, for scripts and notebooks: `nasflow.fit(data, devices=[...], limits={...})`."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from nasflow import runs, stages
from nasflow.data import DataError, Preprocess
from nasflow.data.pixels import channels_first, storable, with_channels
from nasflow.data.source import as_labels
from nasflow.errors import NasflowError
from nasflow.experiment import Experiment, from_mapping
from nasflow.export import predict as run_file
from nasflow.files import read_json, replacing
from nasflow.network import Make

Model = str | Mapping[str, Any] | nn.Module | Make
Images = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True)
class Deployed:
    """One network as an exported file, with what its certificate says."""

    file: Path
    certificate: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.certificate["name"])

    @property
    def classes(self) -> tuple[str, ...]:
        """What the class numbers mean."""
        return tuple(self.certificate["classes"])

    def predict(self, x: ArrayLike) -> NDArray[np.int64]:
        """The class number of each image in `x`, a batch of images as they were given to `fit`: pixels are
        scaled and normalised here."""
        said = self.certificate["preprocess"]
        preprocess = Preprocess(
            said["scale"],
            tuple(said["mean"]),
            tuple(said["std"]),
            tuple(said["resize"]) if said["resize"] else None,
        )
        wanted = tuple(self.certificate["input"]["shape"][1:])
        images = preprocess(with_channels(_images(x), wanted[0]))
        if images.shape[1:] != wanted:
            raise NasflowError(
                f"expected images of {_by(wanted)}, as in training, got {_by(images.shape[1:])}"
            )
        if not len(images):
            return np.empty(0, np.int64)
        classes: NDArray[np.int64] = run_file(self.file, images).argmax(axis=1)
        return classes

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Copy the ONNX file to `path`, its certificate beside it."""
        target = Path(path)
        for source, place in (
            (self.file, target),
            (self.file.with_name("certificate.json"), target.with_suffix(".certificate.json")),
        ):
            with replacing(place) as part:
                shutil.copyfile(source, part)
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
        """The network that ships; with `device`, the fastest there of those that are as good on the validation
        images and keep every limit."""
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
        """Copy the shipped network's ONNX file to `path`, its certificate beside it."""
        return self.best().export(path)

    def report(self) -> Path:
        """The report, a page that opens in any browser."""
        return self.folder / "report.html"


def fit(
    data: str | Mapping[str, Any] | Sequence[ArrayLike] = "digits",
    *,
    devices: str | Sequence[str] = ("local-cpu",),
    limits: Mapping[str, float] | None = None,
    model: Model | None = None,
    trials: int = 24,
    epochs: int = 8,
    folder: str | os.PathLike[str] = "runs/fit",
    settings: Mapping[str, Any] | None = None,
    fresh: bool = False,
    notify: Callable[[str, int, int, str], None] = stages.silent,
) -> Fit:
    """Search, compress, retrain and certify networks for `data` on `devices`; called again, it goes on or returns.

    `data`: a data set's name, its settings as in an experiment file, or arrays `(images, labels)`, to which
    `(..., test images, test labels)` may be added; images are (n, height, width), (n, height, width, channels) or
    (n, channels, height, width). `limits` are hard: `{"latency_ms": 0.1}`.

    `model` is compressed instead of searched for: a torch module, which counts as trained and is judged and pruned
    with the weights that it has; or a function or class that gives one, or the name of one (`my_file.py:make`), which
    is trained first.

    `settings` holds anything else an experiment file may say, by section: `{"retrain": {"epochs": 10}}`. `fresh`
    forgets what is in `folder`. `notify=print` shows how far it is.

    Warns if what ships breaks a limit. Raises NasflowError for what the caller can mend.

    >>> result = fit("digits", trials=4)  # doctest: +SKIP
    >>> result.best().name  # doctest: +SKIP
    'trial-2'
    """
    place = Path(folder)
    asked: dict[str, Any] = {
        "name": place.name,
        "data": _data(data, place),
        "devices": [devices] if isinstance(devices, str) else list(devices),
        "limits": dict(limits or {}),
    }
    make: Make | None = None
    if model is not None:
        asked["model"], make = _model(model, place)
    for section, given in (settings or {}).items():
        asked[section] = {**asked[section], **given} if isinstance(asked.get(section), dict) else given
    asked["search"] = {"trials": trials, "epochs": epochs, **asked.get("search", {})}
    experiment: Experiment = from_mapping(asked, "fit()")
    summary = None if fresh else runs.finished(experiment, place)
    if summary is None:
        with stages.open_run(experiment, place, fresh=fresh, notify=notify, make=make) as run:
            summary = stages.pipeline(run)
    if summary["status"] != "done":
        warnings.warn(f"what ships breaks a limit: {summary['choice']['why']}", stacklevel=2)
    return Fit(place, summary)


# ---- data


def _data(data: str | Mapping[str, Any] | Sequence[ArrayLike], folder: Path) -> dict[str, Any]:
    if isinstance(data, str):
        return {"name": data}
    if isinstance(data, Mapping):
        return dict(data)
    if not isinstance(data, Sequence) or len(data) not in (2, 4):
        raise DataError(
            "fit(): data: expected a data set's name, its settings, or arrays (images, labels) or (images, labels, "
            f"test images, test labels), got {_kind(data)}"
        )
    arrays: dict[str, Any] = {}
    for name, given in zip(("x", "y", "x_test", "y_test"), data, strict=False):
        arrays[name] = _images(given) if name.startswith("x") else as_labels(np.asarray(given), "fit()")
    content = hashlib.sha256()
    for name, array in arrays.items():
        content.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        content.update(array.tobytes())
    # The name tells other images from these, as an experiment's settings must.
    file = folder.parent / f"{folder.name}-data-{content.hexdigest()[:8]}.npz"
    if not file.exists():
        with replacing(file) as part, part.open("wb") as out:
            np.savez(out, **arrays)
    return {"name": "npz", "path": str(file)}


def _images(x: ArrayLike) -> Images:
    try:
        return storable(channels_first(np.asarray(x)))
    except ValueError as error:
        raise DataError(f"fit(): {error}") from error


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _kind(value: object) -> str:
    return f"{len(value)} of them" if isinstance(value, Sequence) else type(value).__name__


# ---- a network of the caller's own


def _model(model: Model, folder: Path) -> tuple[str | dict[str, Any], Make | None]:
    """What an experiment says of a model, and the function that makes it where no name leads there."""
    if isinstance(model, str):
        return model, None
    if isinstance(model, Mapping):
        return dict(model), None
    if isinstance(model, nn.Module):
        still = copy.deepcopy(model).cpu()
        file = folder.parent / f"{folder.name}-weights-{_digest(still)}.pt"
        if not file.exists():
            with replacing(file) as part:
                torch.save(still.state_dict(), part)
        return {"name": _said(type(model), still), "weights": str(file)}, partial(copy.deepcopy, still)
    if not callable(model):
        raise NasflowError(
            "fit(): model: expected a torch.nn.Module, a function that returns one, or the name of such a function, "
            f"got {type(model).__name__}"
        )
    if _importable(model):
        return f"{model.__module__}:{model.__qualname__}", None
    with torch.random.fork_rng(devices=[]):
        made = model()
    if not isinstance(made, nn.Module):
        raise NasflowError(
            f"fit(): model: expected a function that returns a torch.nn.Module, got {type(made).__name__} from it"
        )
    return _said(model, made), model


def _importable(model: Make) -> bool:
    """Whether other processes find this function or class by its name."""
    module, name = getattr(model, "__module__", "__main__"), getattr(model, "__qualname__", "")
    return module != "__main__" and getattr(sys.modules.get(module), name, None) is model


def _said(what: object, network: nn.Module) -> str:
    """What an experiment calls something that has no name other processes could import: where it was written, and
    a digest, so that a search does not go on with a network that was changed in between."""
    called = getattr(what, "__qualname__", type(what).__qualname__)
    return f"__main__:{called}#{_digest(network, weights=False)}"


def _digest(network: nn.Module, *, weights: bool = True) -> str:
    """Eight hexadecimal digits of what a network is made of and computes and, if asked, of its weights."""
    content = hashlib.sha256(repr(network).encode())
    for kind in sorted({type(module) for module in network.modules()}, key=lambda kind: kind.__qualname__):
        with contextlib.suppress(OSError, TypeError):  # the code of a plain prompt cannot be read
            content.update(inspect.getsource(kind.forward).encode())
    for name, value in network.state_dict().items():
        content.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        if weights:
            content.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:8]
