"""`nasflow profile DEVICE --build METHOD`: a predictor of a device, built within some minutes and kept beside its
profile."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nasflow import hardware, terminal
from nasflow.errors import NasflowError
from nasflow.export import to_onnx
from nasflow.files import locked, write_json
from nasflow.hardware import build, store
from nasflow.hardware.predictor import Accuracy, Built
from nasflow.network import Architecture, Part
from nasflow.space import Space

CLASSES = 10  # of the networks that are measured; the last layer hardly moves the time
BUDGET_S = 0.4  # of measuring one file: many networks teach more than few that are known to the last percent
WORDS: Mapping[str, str] = {
    "within_5": "within 5 % of what was measured",
    "within_10": "within 10 %",
    "mape": "mean error",
    "spearman": "order told (Spearman)",
    "kendall": "order told (Kendall)",
}


@dataclass(frozen=True)
class Sampled:
    """Random networks of a space, for inputs of `shape` (channels, height, width)."""

    space: str
    shape: tuple[int, int, int]

    @property
    def name(self) -> str:
        return f"{self.space}, {'x'.join(map(str, self.shape))}"

    @property
    def architecture(self) -> Architecture:
        return Architecture((Part(self.space),), self.shape, CLASSES)

    def points(self) -> Space:
        return self.architecture.space()

    def write(self, number: int, file: Path) -> None:
        """Export network `number`: its point and weights are drawn from the number alone."""
        space = self.points()
        point = space.canonical(space.sample(np.random.default_rng([number, 0])))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            to_onnx(self.architecture.build(point), self.shape, file)


def build_command(
    device: str,
    method: str,
    minutes: float,
    space: str,
    shape: str,
    like: Sequence[str] = (),
    as_json: Path | None = None,
) -> Built:
    """Build a predictor, save it and say how good it is; few-shot after the predictors of the devices `like` it.

    What is said goes to `as_json` too: see `answer`.
    """
    console = terminal.console()
    profile = hardware.load_profile(device)
    known = [_known(one) for one in like]
    place = store.place(profile, Path(device))
    folder = place.with_suffix("")
    supply = Sampled(space, _shape(shape))
    supply.points()  # a slip in a name is told before anything is measured
    connected = hardware.connect(profile, budget_s=BUDGET_S, energy=False, again=False)

    def say(text: str) -> None:
        console.print(f"[dim]{text}[/]", highlight=False)

    with locked(folder / "lock"):
        built = build.build(
            connected, method, minutes, supply, folder, like=known, batch=profile.batch, say=say
        )
        store.save(built, place)
        shutil.rmtree(
            folder / "networks", ignore_errors=True
        )  # the measurements stay, the files are made anew
    console.print(
        f"[bold]{method}[/] predictor of {profile.name} for networks of {supply.name}: {place}",
        highlight=False,
    )
    for line in [*told(built.accuracy), counted(built)]:
        console.print(f"  {line}", highlight=False)
    if as_json is not None:
        write_json(as_json, answer(built, method, place))
        console.print(f"written: {as_json}", highlight=False)
    return built


def answer(built: Built, method: str, place: Path) -> dict[str, Any]:
    """What `nasflow profile --build --json` writes: what the predictor's file says of it, without the predictor
    itself, and where that file is."""
    said = store.to_json(built)
    del said["predictor"]
    return {"method": method, "file": str(place), **said}


def told(accuracy: Accuracy) -> list[str]:
    """An accuracy in words, with its intervals."""
    lines = [f"on {accuracy.count} networks that it was not shown, with 95 % intervals:"]
    for name, words in WORDS.items():
        one = getattr(accuracy, name)
        if name in ("spearman", "kendall"):
            lines.append(f"{one.value:6.3f}   {words}, {one.low:.3f} to {one.high:.3f}")
        else:
            lines.append(f"{100 * one.value:6.1f} % {words}, {100 * one.low:.1f} to {100 * one.high:.1f} %")
    return lines


def counted(built: Built) -> str:
    """How many measurements a predictor rests on, in words."""
    noisy = f"; {built.noisy} more on a machine too noisy to tell" if built.noisy else ""
    return f"from {built.measured} measurements{noisy}"


def _known(device: str) -> Built:
    """The predictor of a known device."""
    built = store.load(hardware.load_profile(device), Path(device))
    if built is None:
        raise NasflowError(
            f"--like {device}: expected a device that a predictor was built for, and there is none; first:"
            f" nasflow profile {device} --build network"
        )
    return built


def _shape(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise NasflowError(f"--input: expected channels, height and width such as 3x32x32, got {text!r}")
    channels, height, width = map(int, text.split("x"))
    return channels, height, width
