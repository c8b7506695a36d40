"""The runtimes that can run a network, under one contract. nasflow/testing/runtimes.py holds them to it."""

from __future__ import annotations

from typing import Any, Protocol

from ..machine import THIS, Machine
from ..measuring import Pace
from ..network import CannotRun, Network
from .executorch import ExecuTorch
from .litert import LiteRT
from .onnxruntime import OnnxRuntime
from .openvino import OpenVino
from .programs import TOOLS, CommandLine
from .torch import Torch

RUNTIMES = (
    "onnxruntime",
    "torch",
    "torch-compiled",
    "openvino",
    "executorch",
    "litert",
    "tensorrt",
    "ascend-acl",
)


class Runtime(Protocol):
    """What loads a file and calls it. `reads` are the endings of its files, `pace` how it is best looked at, and
    `tried` whether this project has run it on the hardware it is for."""

    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def pace(self) -> Pace: ...
    @property
    def tried(self) -> bool: ...
    def version(self) -> str:
        """Its name and version; what a time depends on besides the file and the machine. Raises CannotRun."""

    def smallest(self) -> bytes | None:
        """A network that does next to nothing, to see what this runtime takes for any; None where it makes none."""

    def load(self, model: str | bytes, threads: int, batch: int, draw: Any) -> Network:
        """A file, or its content, as a network that is ready to be called with random inputs.

        `threads` is how many a call may use, `batch` the samples of a call, for files whose first axis is free,
        `draw` a NumPy generator. Raises CannotRun, saying what stands in the way.
        """


def open_runtime(
    name: str,
    program: str | None = None,
    device: str = "cpu",
    machine: Machine = THIS,
    core: int | None = None,
) -> Runtime:
    """The runtime with this name; with a `program`, or for one that only is a program, as a command line.

    `device` is cpu or cuda; `core` is the one that a program is kept to on another machine. Raises CannotRun.
    """
    if name not in RUNTIMES:
        raise CannotRun(f"expected a runtime of {', '.join(RUNTIMES)}, got {name!r}")
    if device not in ("cpu", "cuda"):
        raise CannotRun(f"expected device cpu or cuda, got {device!r}")
    if program is not None or name in ("tensorrt", "ascend-acl"):
        if name not in TOOLS:
            raise CannotRun(
                f"no program is known that runs files of {name}; leave `program` out of the profile"
            )
        return CommandLine(name, program, machine, core)
    if name == "onnxruntime":
        return OnnxRuntime(device)
    if name in ("torch", "torch-compiled"):
        return Torch(device, "inductor" if name == "torch-compiled" else None)
    if device != "cpu":
        raise CannotRun(
            f"{name} is run on the cpu only; use onnxruntime, torch, torch-compiled or tensorrt for cuda"
        )
    if name == "openvino":
        return OpenVino()
    return LiteRT() if name == "litert" else ExecuTorch()
