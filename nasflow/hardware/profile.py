"""Profiles: what is known about a board or processor, and how it is reached.

A profile is a YAML file: facts with unit, source and date, and how the device is reached. Those that come with
nasflow lie in hardware_profiles/; one of your own is given by its path.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nasflow import yamlfile
from nasflow.names import UnknownName, nearest

Runtime = Literal[
    "onnxruntime", "torch", "torch-compiled", "openvino", "executorch", "litert", "tensorrt", "ascend-acl"
]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

# An argument of a command on its own: it cannot be taken for an option, nor for two.
Word = Annotated[
    str,
    Field(
        pattern=r"^[^-\s]\S*$",
        json_schema_extra={"expected": "a text without spaces that does not begin with -"},
    ),
]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Fact(_Settings):
    """One thing known about a device. `date` is the day its source was read.

    `kind`: vendor (the maker says so), measured (somebody did), derived (computed from other facts, `note` says
    how) or secondary (a page that quotes the maker).
    """

    quantity: str
    value: int | float | str
    unit: str
    kind: Literal["vendor", "measured", "derived", "secondary"]
    source: str
    date: datetime.date
    note: str = ""


class Reach(_Settings):
    """How a device is asked: `local` is the machine that nasflow runs on, `ssh` and `adb` are boards that a command
    can be run on, `none` is not at hand.

    `host` is what the system's ssh is given, `pi@board` or an alias of ~/.ssh/config; `port` where the two do not say
    it. `serial` is the adb device, without it the only one attached. `core` is the one that calls run on; without it,
    the least busy of the fastest. `python` is the interpreter that has the runtime; without it, the one that nasflow
    runs in, or a board's `python3`. `program` is the benchmark program of a runtime that is a command on the device.
    """

    backend: Literal["local", "ssh", "adb", "none"]
    runtime: Runtime = "onnxruntime"
    threads: int = Field(default=1, ge=1)
    core: int | None = Field(default=None, ge=0)
    python: str | None = Field(default=None, min_length=1)
    host: Word | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    serial: Word | None = None
    program: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.backend == "ssh" and self.host is None:
            raise ValueError(
                "host: expected the board's address for backend ssh, such as pi@192.168.1.20 or an alias of"
                " ~/.ssh/config, got nothing"
            )
        if self.host is not None and (colon := re.fullmatch(r"[^:]+:(\d+)", self.host)):
            raise ValueError(
                f"host: expected an address without its port, got {self.host!r}; add: port: {colon[1]}"
            )
        for key, backend in (("host", "ssh"), ("port", "ssh"), ("serial", "adb")):
            if getattr(self, key) is not None and self.backend not in (backend, "none"):
                raise ValueError(
                    f"{key}: expected it with backend {backend} only, got it with {self.backend}"
                )
        return self


class Profile(_Settings):
    """What a device is, what is known about it and how it is reached. Its name is that of its file."""

    name: str
    description: str
    facts: tuple[Fact, ...] = ()
    reach: Reach
    batch: int = Field(default=1, ge=1)


def profiles() -> list[str]:
    """The names of the profiles that come with nasflow."""
    return sorted(file.stem for file in _shelf().glob("*.yaml"))


def load_profile(name: str | Path) -> Profile:
    """The profile with this name, or in this file. Raises UnknownName or FileError."""
    file = Path(name)
    if file.suffix not in (".yaml", ".yml"):
        file = _shelf() / f"{name}.yaml"
        if not file.is_file():
            raise UnknownName(
                f"unknown device {str(name)!r}: {nearest(str(name), profiles())};"
                " a profile of your own is given by its file: boards/my-board.yaml"
            )
    raw = yamlfile.read(file)
    if "name" in raw:
        raise yamlfile.FileError(
            f"{yamlfile.shown_path(file)}: name: expected none, a device is called as its file"
        )
    return yamlfile.check(Profile, {**raw, "name": file.stem}, yamlfile.shown_path(file))


def _shelf() -> Path:
    """The folder of profiles: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "hardware_profiles"
    return inside if inside.is_dir() else package.parent / "hardware_profiles"
