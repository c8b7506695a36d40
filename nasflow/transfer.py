"""A network that was found is taken elsewhere: to other data, or to a larger stack, as an experiment of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nasflow import experiment as experiments
from nasflow import names, runs, yamlfile
from nasflow.errors import NasflowError
from nasflow.experiment import Experiment


class NoPoint(NasflowError):
    """What was named holds no network that could be built again."""


def experiment(
    point: str, data: str, *, width: float = 1.0, depth: int = 0, overrides: Iterable[str] = ()
) -> Experiment:
    """The experiment that trains one known network in full on other data and deploys it.

    `point` is a run (what it ships), `run:12` (a trial of its front), or a YAML or JSON file with a point or a
    certificate. `data` is the name of a data set, or an experiment file whose data and settings are taken. `width`
    and `depth` make the network larger, see `larger` of its space. Limits of the run it comes from are dropped,
    since they were meant for other data.
    """
    found, origin, base = _read_point(point)
    if Path(data).suffix in (".yaml", ".yml"):
        other = yamlfile.read(experiments.find(data))
        base, named = {**other, "space": other.get("space") or base["space"]}, Path(data).stem
    else:
        base, named = {**base, "data": {"name": data}, "limits": {}}, data
    base = {**base, "space": base["space"], "name": re.sub(r"[^A-Za-z0-9._-]+", "-", f"{origin}-on-{named}")}
    if (width, depth) != (1.0, 0):
        found = _larger(base["space"], found, width, depth)
    raw = {**base, "point": found, "model": None, "compress": {"enabled": False}}
    texts = list(overrides)
    for text in texts:
        yamlfile.override(raw, text)
    return experiments.from_mapping(raw, f"{point} on {data}", texts)


def _read_point(text: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """A point, what to call it, and the settings it was found with (its space at least)."""
    if Path(text).is_file():
        said = yamlfile.read(Path(text))
        for key in ("network", "point"):  # a certificate holds a network, which holds a point
            said = said[key] if isinstance(said.get(key), dict) else said
        return _checked(said, text), Path(text).stem, {"space": "mobile"}
    run, number = re.fullmatch(r"(.*?)(?::(\d+))?", text).groups()  # type: ignore[union-attr] # matches anything
    folder = runs.find(run)
    summary = runs.summary(folder)
    base = {key: value for key, value in summary["experiment"].items() if key != "name"}
    if number is not None:
        front = {str(entry["trial"]): entry["point"] for entry in summary["front"]}
        if number not in front:
            raise NoPoint(
                f"{text}: expected a trial on the front of {folder}, got {number}: {names.nearest(number, front)}"
            )
        return _checked(front[number], text), f"{folder.name}-{number}", base
    shipped = [entry for entry in summary["deployed"] if entry["shipped"]]
    if not shipped:
        raise NoPoint(f"{text}: this run ships nothing (yet); name a trial of its front, such as {run}:12")
    return _checked(shipped[0]["network"]["point"], text), folder.name, base


def _checked(point: Any, source: str) -> dict[str, Any]:
    scalar = str | int | float | bool | None
    if not isinstance(point, Mapping) or not point or not all(isinstance(v, scalar) for v in point.values()):
        raise NoPoint(
            f"{source}: expected a point, a value for the name of every choice, got {str(point)[:80]}"
        )
    return dict(point)


def _larger(space: Any, point: dict[str, Any], width: float, depth: int) -> dict[str, Any]:
    parts = experiments.from_mapping({"name": "any", "data": "digits", "space": space}, "space").space
    for part in parts:
        module = names.resolve("space", part.name)
        if hasattr(module, "larger"):
            return dict(module.larger(point, width=width, depth=depth))
    raise NoPoint(f"--width and --depth: the space {parts[0].name!r} has no `larger` that would know how")
