"""Built predictors as files beside the profile of their device, and whether one still fits the device as it is now.

A file is JSON: numbers and names, nothing that is run when it is read, so that it may be passed on.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from nasflow.files import read_json, write_json
from nasflow.hardware.predictor import Accuracy, Built, Predictor
from nasflow.hardware.profile import Profile
from nasflow.names import nearest
from nasflow.yamlfile import FileError

FORMAT = 1
KINDS = {
    "kernels": "nasflow.hardware.kernels:Kernels",
    "network": "nasflow.hardware.networks:Networks",
    "roofline": "nasflow.hardware.roofline:Roofline",
    "table": "nasflow.hardware.table:Table",
    "transfer": "nasflow.hardware.fewshot:Transfer",
}
# What times depend on besides the file. Another of these, and a predictor foretells another machine's times.
DECISIVE = ("cpu", "machine", "runtime", "threads", "governor", "quota_cores", "flags", "gpu", "power_mode")


def place(profile: Profile, file: Path | None = None) -> Path:
    """Where the predictor of a device lies: beside its profile's `file`, or among the user's own data for one of the
    profiles that come with nasflow."""
    if file is not None and file.suffix in (".yaml", ".yml"):
        return file.with_name(f"{file.stem}.predictor.json")
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return home / "nasflow" / "devices" / f"{profile.name}.predictor.json"


def save(built: Built, path: Path) -> None:
    write_json(path, to_json(built))


def load(profile: Profile, file: Path | None = None) -> Built | None:
    """The predictor that was built for a device; None if none was. `file` is the profile's, if it is one's own.

    Raises FileError if what is there is no predictor.
    """
    path = place(profile, file)
    return read(path) if path.is_file() else None


def read(path: Path) -> Built:
    """The predictor in a file. Raises FileError if it holds none."""
    value = read_json(path)
    try:
        return from_json(value)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FileError(
            f"{path}: expected a predictor as nasflow writes it: {why}; build it anew:"
            " nasflow profile DEVICE --build network"
        ) from error


def to_json(built: Built) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": built.predictor.kind,
        "device": built.device,
        "date": built.date,
        "networks": built.networks,
        "measured": built.measured,
        "noisy": built.noisy,
        "reference_ms": built.reference_ms,
        "accuracy": built.accuracy.to_json(),
        "environment": dict(built.environment),
        "predictor": built.predictor.to_json(),
    }


def from_json(value: Any) -> Built:
    """The opposite of `to_json`. ValueError, KeyError, TypeError or AttributeError where `value` is not that."""
    if value["format"] != FORMAT:
        raise ValueError(f"format {FORMAT} is read, this is {value['format']}")
    if value["kind"] not in KINDS:
        raise ValueError(f"unknown kind {value['kind']!r}: {nearest(str(value['kind']), KINDS)}")
    reference_ms = float(value["reference_ms"])
    if not (math.isfinite(reference_ms) and reference_ms > 0):
        raise ValueError("reference_ms is a time above 0")
    return Built(
        predictor=_class(value["kind"]).from_json(value["predictor"]),
        device=str(value["device"]),
        environment=dict(value["environment"]),
        date=str(value["date"]),
        accuracy=Accuracy.from_json(value["accuracy"]),
        reference_ms=reference_ms,
        networks=str(value["networks"]),
        measured=int(value.get("measured", 0)),
        noisy=int(value.get("noisy", 0)),
    )


def stale(built: Built, environment: Mapping[str, Any]) -> list[str]:
    """What has changed since a predictor was built, such as "runtime was onnxruntime 1.30.0, is onnxruntime 1.31.1".

    Only what both environments tell is compared.
    """
    return [
        f"{key} was {_shown(built.environment[key])}, is {_shown(environment[key])}"
        for key in DECISIVE
        if key in built.environment and key in environment and built.environment[key] != environment[key]
    ]


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _class(kind: str) -> type[Predictor]:
    module, _, name = KINDS[kind].partition(":")
    return cast("type[Predictor]", getattr(importlib.import_module(module), name))
