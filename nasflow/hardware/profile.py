"""Profiles: what is known about a board or processor, and how it is reached.

A profile is a YAML file: facts with unit, source and date, and how the device is reached. Those that come with
nasflow lie in hardware_profiles/; one of your own is given by its path, and may be `like` one of nasflow's.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nasflow import yamlfile
from nasflow.names import UnknownName, nearest

Runtime = Literal[
    "onnxruntime", "torch", "torch-compiled", "openvino", "executorch", "litert", "tensorrt", "ascend-acl"
]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
ON_CUDA: tuple[Runtime, ...] = ("onnxruntime", "torch", "torch-compiled", "tensorrt")

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


# What a fact can be about, with its unit: one vocabulary, so that two devices can be compared.
QUANTITIES: Mapping[str, tuple[str, str]] = {
    "cpu": ("text", "the processor cores, by name"),
    "cpu_cores": ("cores", "how many there are"),
    "cpu_clock": ("GHz", "the highest of the fastest cores"),
    "gpu": ("text", "the graphics processor, by name"),
    "gpu_cores": ("cores", "as its maker counts them"),
    "gpu_clock": ("GHz", "its highest"),
    "memory": ("GB", "main memory"),
    "on_chip_memory": ("MB", "memory of an accelerator that holds weights and results"),
    "memory_transfer_rate": ("MT/s", "of main memory"),
    "peak_memory_bandwidth": ("GB/s", "of main memory, on paper"),
    "memcpy_bandwidth": ("GB/s", "copied by one CPU thread (tinymembench)"),
    "memset_bandwidth": ("GB/s", "written by one CPU thread (tinymembench)"),
    "stream_copy_bandwidth": ("GB/s", "read and written by all CPU cores (STREAM copy)"),
    "host_bandwidth": ("GB/s", "between an accelerator and the computer it is plugged into"),
    "peak_fp32": ("GFLOP/s", "of all CPU cores with 32-bit floats, on paper"),
    "gpu_peak_fp32": ("GFLOP/s", "of the GPU with 32-bit floats, on paper"),
    "gpu_peak_fp16": ("GFLOP/s", "of the GPU with 16-bit floats, on paper"),
    "gpu_peak_int8_sparse": ("TOP/s", "of the GPU with 8-bit integers and half of the weights 0, on paper"),
    "npu_peak_fp16": ("GFLOP/s", "of the neural accelerator with 16-bit floats, on paper"),
    "npu_peak_int8": ("TOP/s", "of the neural accelerator with 8-bit integers, on paper"),
    "npu_peak": ("TOP/s", "of the neural accelerator where no precision is told, on paper"),
    "hpl_fp64": ("GFLOP/s", "reached in High-Performance Linpack by all CPU cores with 64-bit floats"),
    "power": ("W", "at most, of the whole module"),
    "thermal_design_power": ("W", "that the chip's cooling is laid out for"),
    "power_under_hpl": ("W", "of the whole board while it runs High-Performance Linpack"),
}


class Fact(_Settings):
    """One thing known about a device: a quantity of QUANTITIES in its unit. `date` is the day it was noted.

    `kind`: vendor (the maker says so), measured (somebody did), derived (computed from other facts, `note` says
    how) or secondary (a page that quotes the maker).
    """

    quantity: str
    value: int | float | str
    unit: str
    kind: Literal["vendor", "measured", "derived", "secondary"]
    source: str = Field(min_length=1)
    date: datetime.date
    note: str = ""

    @model_validator(mode="after")
    def _is_comparable(self) -> Self:
        if self.quantity not in QUANTITIES:
            meant = nearest(self.quantity, QUANTITIES)
            raise ValueError(
                f"quantity: unknown quantity {self.quantity!r}: {meant}; what has none goes into a note"
            )
        unit = QUANTITIES[self.quantity][0]
        if self.unit != unit:
            raise ValueError(f"unit: expected {unit} for {self.quantity}, got {self.unit!r}")
        known = bool(self.value) if isinstance(self.value, str) else self.value > 0
        if isinstance(self.value, str) != (unit == "text") or not known:
            wanted = "a text" if unit == "text" else f"a number of {unit} above 0"
            raise ValueError(f"value: expected {wanted}, got {self.value!r}; what is unknown is left out")
        if self.kind == "derived" and not self.note:
            raise ValueError("note: expected how a derived value was computed, got nothing")
        return self


class Reach(_Settings):
    """How a device is asked: `local` is the machine that nasflow runs on, `ssh` and `adb` are boards that a command
    can be run on, `none` is not at hand.

    `host` is what the system's ssh is given, `pi@board` or an alias of ~/.ssh/config; `port` where the two do not say
    it. `serial` is the adb device, without it the only one attached. `core` is the one that calls run on; without it,
    the least busy of the fastest. `python` is the interpreter that has the runtime; without it, the one that nasflow
    runs in, or a board's `python3`. `program` is the runtime's benchmark program on the device, with what has to stand
    before its arguments; a phone needs no Python then. `device` is what the runtime calculates on.
    """

    backend: Literal["local", "ssh", "adb", "none"]
    runtime: Runtime = "onnxruntime"
    device: Literal["cpu", "cuda"] = "cpu"
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
        if self.device == "cuda" and self.runtime not in ON_CUDA:
            raise ValueError(
                f"device: expected cuda with {', '.join(ON_CUDA)} only, got it with {self.runtime}"
            )
        for key, backend in (("host", "ssh"), ("port", "ssh"), ("serial", "adb")):
            if getattr(self, key) is not None and self.backend not in (backend, "none"):
                raise ValueError(
                    f"{key}: expected it with backend {backend} only, got it with {self.backend}"
                )
        return self


class Profile(_Settings):
    """What a device is, what is known about it and how it is reached. Its name is that of its file.

    `batch` is how many images one call has where latency is measured, `throughput_batch` where throughput is.
    """

    name: str
    description: str
    facts: tuple[Fact, ...] = ()
    reach: Reach
    batch: int = Field(default=1, ge=1)
    throughput_batch: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _says_a_thing_once(self) -> Self:
        told = [fact.quantity for fact in self.facts]
        if twice := sorted({quantity for quantity in told if told.count(quantity) > 1}):
            raise ValueError(
                f"facts: expected each quantity once, got {', '.join(twice)} twice; a range goes into a note"
            )
        return self

    def value(self, quantity: str) -> float | None:
        """A fact's number in its unit, None where it is not known."""
        found = (fact.value for fact in self.facts if fact.quantity == quantity)
        return next((float(value) for value in found if not isinstance(value, str)), None)


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
    raw, here = yamlfile.read(file), yamlfile.shown_path(file)
    if "name" in raw:
        raise yamlfile.FileError(f"{here}: name: expected none, a device is called as its file")
    if "like" in raw:
        raw = _like(raw, here)
    return yamlfile.check(Profile, {**raw, "name": file.stem}, here)


def _like(raw: Mapping[str, Any], here: str) -> dict[str, Any]:
    """What a profile says on top of nasflow's that it is `like`; of the same quantity its own fact counts."""
    model = raw["like"]
    if model not in profiles():
        known = nearest(str(model), profiles())
        raise yamlfile.FileError(
            f"{here}: like: expected a device that nasflow describes, got {model!r}: {known}"
        )
    described = yamlfile.read(_shelf() / f"{model}.yaml")
    merged = {**described, **{key: value for key, value in raw.items() if key != "like"}}
    own = raw.get("facts", [])
    if isinstance(own, list):
        told = {fact.get("quantity") for fact in own if isinstance(fact, Mapping)}
        merged["facts"] = [
            *own,
            *(fact for fact in described.get("facts", ()) if fact["quantity"] not in told),
        ]
    return merged


def _shelf() -> Path:
    """The folder of profiles: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "hardware_profiles"
    return inside if inside.is_dir() else package.parent / "hardware_profiles"
