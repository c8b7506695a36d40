"""Devices: how a board or processor is asked how long a network takes on it."""

from __future__ import annotations

import base64
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nasflow.errors import NasflowError, Unavailable
from nasflow.files import locked
from nasflow.hardware import runner, timing
from nasflow.hardware.profile import Profile
from nasflow.hardware.timing import Comparison, Latency

LOADS = (3, 200)  # of every file; between them, precision and budget decide
LOADS_COMPARED = (8, 16)  # eight is the least of which a test can say anything at 1 %
DEADLINE_S = 120.0  # a device that takes this much longer than its budget has hung


class DeviceError(NasflowError):
    """A device that was asked about a file and could not tell; others it may still tell about."""


class Unreachable(Unavailable):
    """A device that does not answer at all."""


class Device(Protocol):
    """Something that can be asked how long files take on it. One caller at a time; the next ones wait.

    Raises DeviceError where it cannot tell about a file, Unreachable where it does not answer.
    """

    @property
    def name(self) -> str: ...
    def check(self) -> None:
        """Raise Unreachable unless the device answers now."""

    def latency(self, file: Path) -> Latency: ...
    def latencies(self, files: Sequence[Path]) -> list[Latency]:
        """Measure files in turns, so that the machine's drift meets all of them alike."""

    def compare(self, a: Path, b: Path) -> Comparison:
        """Whether b is faster or slower than a."""


def connect(profile: Profile, *, budget_s: float = 0.6, precision: float = 0.01) -> Device:
    """The device of a profile; it is first asked when it is used.

    A file is measured until its p50 is known to within `precision` (a share), at most for `budget_s` seconds
    unless a single look takes longer.
    """
    return Local(profile, budget_s, precision) if profile.reach.backend == "local" else Absent(profile)


@dataclass(frozen=True)
class Absent:
    """A device that is described but not at hand. It never guesses."""

    profile: Profile

    @property
    def name(self) -> str:
        return self.profile.name

    def check(self) -> None:
        raise self._away

    def latency(self, file: Path) -> Latency:
        raise self._away

    def latencies(self, files: Sequence[Path]) -> list[Latency]:
        raise self._away

    def compare(self, a: Path, b: Path) -> Comparison:
        raise self._away

    @property
    def _away(self) -> Unreachable:
        return Unreachable(
            f"{self.name} ({self.profile.description}) is described but not connected (its profile says"
            " `backend: none`); leave it out of the devices, or use one that answers, such as local-cpu"
        )


@dataclass(frozen=True)
class Local:
    """The processor that nasflow itself runs on; files are timed in a process of their own (runner.py)."""

    profile: Profile
    budget_s: float
    precision: float

    @property
    def name(self) -> str:
        return self.profile.name

    def check(self) -> None:
        try:
            self._ask([], LOADS, self.precision)
        except DeviceError as error:
            raise Unreachable(str(error)) from error

    def latency(self, file: Path) -> Latency:
        return self.latencies([file])[0]

    def latencies(self, files: Sequence[Path]) -> list[Latency]:
        if not files:
            return []
        told = self._ask(files, LOADS, self.precision)
        return [timing.latency(samples, told.reference, told.environment) for samples in told.samples]

    def compare(self, a: Path, b: Path) -> Comparison:
        told = self._ask([a, b], LOADS_COMPARED, precision=0.0)  # the more loads, the more the test can tell
        of_a, of_b = (timing.latency(one, told.reference, told.environment) for one in told.samples)
        return timing.compare(told.samples[0], told.samples[1], of_a, of_b)

    def _ask(self, files: Sequence[Path], loads: tuple[int, int], precision: float) -> _Answer:
        for file in files:
            if not file.is_file():
                raise DeviceError(f"{self.name}: no file {file} to measure")
        reach = self.profile.reach
        spec = {
            "models": [str(file.resolve()) for file in files],
            "reference": base64.b64encode(reference_network()).decode(),
            "batch": self.profile.batch,
            "threads": reach.threads,
            "core": reach.core,
            "loads": loads,
            "budget_s": self.budget_s,
            "precision": precision,
            "seed": 0,
        }
        deadline_s = DEADLINE_S + 2 * self.budget_s * len(files)
        with _held(f"{reach.backend}-{socket.gethostname()}"):
            return _read_answer(self.name, _run(self.name, reach.python or sys.executable, spec, deadline_s))


@dataclass(frozen=True)
class _Answer:
    """What the runner told, checked."""

    samples: list[timing.Samples]
    reference: timing.Samples
    environment: dict[str, Any]


def _run(name: str, python: str, spec: dict[str, Any], deadline_s: float) -> str:
    """What the runner prints for a spec."""
    try:
        done = subprocess.run(
            [python, runner.__file__],
            input=json.dumps(spec),
            capture_output=True,
            text=True,
            timeout=deadline_s,
            # Or Python looks for modules in the runner's folder first, which is full of nasflow's.
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{name}: no answer within {deadline_s:.0f} s for {_shown(spec)}") from error
    except OSError as error:
        raise Unreachable(
            f"{name}: cannot start {python}: {error.strerror}; see `python` in its profile"
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DeviceError(f"{name}: measuring {_shown(spec)} ended with exit code {done.returncode}: {last}")
    return done.stdout


def _read_answer(name: str, text: str) -> _Answer:
    try:
        told = json.loads(text)
        if "error" in told:
            raise DeviceError(f"{name}: cannot run {told['model']}: {told['error']}")
        samples = [one["samples_ns"] for one in told.get("models", [])]
        return _Answer(samples, told.get("reference", {}).get("samples_ns", []), told["environment"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeviceError(f"{name}: expected the runner's answer, got {text[:80]!r}") from error


def _shown(spec: dict[str, Any]) -> str:
    return ", ".join(spec["models"]) or "nothing"


@contextmanager
def _held(device: str) -> Iterator[None]:
    """Be the only one of this user's processes to use a device; the system frees it if this one dies."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "nasflow" / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.gettempdir()) / f"nasflow-{os.getuid()}"
    with locked(folder / f"{device}.lock", wait=True, poll_s=0.05):
        yield


@functools.cache
def reference_network() -> bytes:
    """The network that is timed along with every file: a convolution, a depthwise one and a 1x1 one,
    some 50 microseconds on a fast core. An ONNX file that is the same, byte for byte, wherever it is made;
    its weights are one number, since time does not depend on them.
    """
    from onnx import TensorProto, helper

    nodes, last = [], "input"
    for number, (shape, groups) in enumerate([((32, 3, 3, 3), 1), ((32, 1, 3, 3), 32), ((64, 32, 1, 1), 1)]):
        weight, output = f"weight{number}", f"map{number}"
        size = helper.make_tensor(f"size{number}", TensorProto.INT64, [4], shape)
        value = helper.make_tensor(f"value{number}", TensorProto.FLOAT, [1], [0.01])
        nodes += [
            helper.make_node("Constant", [], [size.name], value=size),
            helper.make_node("ConstantOfShape", [size.name], [weight], value=value),
            helper.make_node("Conv", [last, weight], [output], group=groups, pads=[shape[2] // 2] * 4),
            helper.make_node("Relu", [output], [f"{output}.positive"]),
        ]
        last = f"{output}.positive"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 64, 1, 1])],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="nasflow"
    )
    content: bytes = model.SerializeToString()
    return content
