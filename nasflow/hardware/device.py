"""Devices: how a board or processor is asked how long a network takes on it."""

from __future__ import annotations

import base64
import calendar
import dataclasses
import functools
import json
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from nasflow.errors import Passing
from nasflow.files import locked
from nasflow.hardware import bundle, timing
from nasflow.hardware.profile import Profile, Reach
from nasflow.hardware.timing import Comparison, Latency
from nasflow.hardware.transport import (
    Absent,
    Adb,
    DeviceError,
    Here,
    Refused,
    Ssh,
    Transport,
    Unreachable,
    Watch,
)

__all__ = ["Device", "DeviceError", "Lost", "Measured", "Missing", "Profile", "Progress", "Unreachable", "connect",
           "program", "reference_network", "transport"]  # fmt: skip

LOADS = (3, 200)  # of every file; between them, precision and budget decide
LOADS_COMPARED = (8, 16)  # eight is the least of which a test can say anything at 1 %
DEADLINE_S = 120.0  # a device that takes this much longer than its budget has hung
EXTRAS_S = 5.0  # a file, for energy and throughput
PAUSES_S = (2.0, 10.0)  # before a device that went away is asked again
APART_S = 60.0  # two clocks that differ by less show the same time
AMOUNTS = ("core_share", "cores", "preemptions", "seconds", "stolen_ticks", "threads")  # of the environment
RUNNER, SPEC = "runner.pyz", "spec.json"

log = logging.getLogger(__name__)


class Lost(DeviceError, Passing):
    """A device that went away while it was asked, and did not come back in time. It may yet."""


@dataclass(frozen=True)
class Progress:
    """What one more load of a file took, while it is measured. `file` is None for the reference network."""

    file: Path | None
    load: int
    samples_ms: tuple[float, ...]


Follow = Callable[[Progress], None]


class Device(Protocol):
    """Something that can be asked how long files take on it. One caller at a time; the next ones wait.

    Raises DeviceError where it cannot tell about a file, Unreachable where it does not answer.
    """

    @property
    def name(self) -> str: ...
    @property
    def profile(self) -> Profile: ...
    def check(self) -> None:
        """Raise Unreachable unless the device answers now."""

    def latency(self, file: Path) -> Latency: ...
    def latencies(self, files: Sequence[Path], watch: Follow | None = None) -> list[Latency]:
        """Measure files in turns, so that the machine's drift meets all of them alike; `watch` sees it done."""

    def compare(self, a: Path, b: Path, watch: Follow | None = None) -> Comparison:
        """Whether b is faster or slower than a."""


def connect(
    profile: Profile,
    *,
    budget_s: float = 0.6,
    precision: float = 0.01,
    energy: bool = True,
    throughput: bool = False,
    again: bool = True,
) -> Device:
    """The device of a profile; it is first asked when it is used.

    A file is measured until its p50 is known to within `precision` (a share), at most for `budget_s` seconds
    unless a single look takes longer. `energy` takes about a second more a file where the device can tell it;
    `throughput` asks for that too, at the profile's `throughput_batch`. What was noisy is measured once more if
    `again`, which is in vain where only the quickest call counts.
    """
    if profile.reach.backend == "none":
        return Missing(profile)
    way = transport(profile.reach)
    return Measured(profile, way, budget_s, precision, energy=energy, throughput=throughput, again=again)


def transport(reach: Reach) -> Transport:
    """How commands get to a device. The file that NASFLOW_SSH_CONFIG names is read instead of ~/.ssh/config."""
    if reach.backend == "ssh":
        assert reach.host is not None  # a profile's promise
        config = os.environ.get("NASFLOW_SSH_CONFIG")
        return Ssh(reach.host, reach.port, Path(config) if config else None)
    return Adb(reach.serial) if reach.backend == "adb" else Here()


def program() -> bytes:
    """What is sent to a device to measure there: one file that its Python runs."""
    return bundle.bundle()


@dataclass(frozen=True)
class Missing:
    """A device that is described but not at hand. It never guesses."""

    profile: Profile

    @property
    def name(self) -> str:
        return self.profile.name

    def check(self) -> None:
        raise self._away

    def latency(self, file: Path) -> Latency:
        raise self._away

    def latencies(self, files: Sequence[Path], watch: Follow | None = None) -> list[Latency]:
        raise self._away

    def compare(self, a: Path, b: Path, watch: Follow | None = None) -> Comparison:
        raise self._away

    @property
    def _away(self) -> Unreachable:
        return Unreachable(
            f"{self.name} ({self.profile.description}) is described but not connected (its profile says"
            " `backend: none`); leave it out of the devices, or use one that answers, such as local-cpu"
        )


@dataclass(frozen=True)
class Measured:
    """A device that is measured: files and a program are sent to it, timed there, and removed again.

    A connection that breaks is made again after each of `pauses_s`; then the files asked about have no answer
    (Lost), and others may be asked about. An answer that cannot be right is none.
    """

    profile: Profile
    transport: Transport
    budget_s: float
    precision: float
    energy: bool = True
    throughput: bool = False
    again: bool = True
    pauses_s: tuple[float, ...] = PAUSES_S
    _first: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

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

    def latencies(self, files: Sequence[Path], watch: Follow | None = None) -> list[Latency]:
        if not files:
            return []
        batch = self.profile.throughput_batch if self.throughput else None
        more = {"energy": self.energy, "throughput_batch": batch}
        told = self._ask(files, LOADS, self.precision, watch, more).latencies()
        noisy = [number for number, latency in enumerate(told) if latency.noisy]
        if noisy and self.again:  # others may have gone meanwhile; what is noisy still says so
            try:
                again = self._ask([files[i] for i in noisy], LOADS, self.precision, watch, more).latencies()
            except Lost as gone:
                log.warning("%s; what is noisy is not measured once more", gone)
                return told
            for number, latency in zip(noisy, again, strict=True):
                told[number] = timing.steadier(told[number], latency)
        return told

    def compare(self, a: Path, b: Path, watch: Follow | None = None) -> Comparison:
        # The more loads, the more the test can tell.
        told = self._ask([a, b], LOADS_COMPARED, 0.0, watch)
        of_a, of_b = told.latencies()
        return timing.compare(told.samples[0], told.samples[1], of_a, of_b)

    def _ask(
        self,
        files: Sequence[Path],
        loads: tuple[int, int],
        precision: float,
        watch: Follow | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> _Answer:
        for file in files:
            if not file.is_file():
                raise DeviceError(f"{self.name}: no file {file} to measure")
        reach = self.profile.reach
        named = {f"{number}/{file.name}": file for number, file in enumerate(files)}
        spec = {
            "models": list(named),
            "reference": base64.b64encode(reference_network()).decode(),
            "batch": self.profile.batch,
            "threads": reach.threads,
            "core": reach.core,
            "loads": loads,
            "budget_s": self.budget_s,
            "precision": precision,
            "seed": 0,
            "runtime": reach.runtime,
            "program": reach.program,
            "device": reach.device,
            "progress": watch is not None,
            **(more or {}),
        }
        hear = functools.partial(_hear, watch=watch, files=files) if watch is not None else None
        about = ", ".join(map(str, files)) or "nothing"
        text = self._asked_until_answered(lambda: self._run(spec, named, hear), about)
        try:
            told = _read_answer(text, spec, named)
            self._compare_with_first(told.environment)
        except DeviceError as error:
            raise DeviceError(f"{self.name}: {error}") from error
        if not told.reference:
            return told
        # Who disturbs a whole measurement is seen beside those that nobody disturbed.
        now = timing.quickest(told.reference)
        self._first["quickest_ns"] = min(now, self._first.get("quickest_ns", now))
        return dataclasses.replace(told, quickest_ns=self._first["quickest_ns"])

    def _asked_until_answered(self, ask: Callable[[], str], about: str) -> str:
        """Ask, and ask again where the connection broke. Every error says which device and what about."""
        reach = self.profile.reach
        for pause_s in (*self.pauses_s, None):
            try:
                with _held(f"{reach.backend}-{reach.host or reach.serial or socket.gethostname()}"):
                    return ask()
            except Refused as error:
                raise Refused(f"{self.name}: {error}") from error
            except Unreachable as error:
                if pause_s is None:
                    times = len(self.pauses_s) + 1
                    raise Lost(f"{self.name}: does not answer, asked {times} times: {error}") from error
                time.sleep(pause_s)
            except DeviceError as error:
                raise type(error)(f"{self.name}: {error}, measuring {about}") from error
        raise AssertionError("the last try returns or raises")

    def _run(self, spec: Mapping[str, Any], named: Mapping[str, Path], hear: Watch | None) -> str:
        """What the runner prints for a spec: on the device, or here for one that has no Python."""
        reach, files = self.profile.reach, dict[str, Path | bytes](named)
        for name, file in named.items():
            for beside in weights_beside(file):
                files[str(PurePosixPath(name).parent / beside)] = file.parent / beside
        deadline_s = DEADLINE_S + (2 * self.budget_s + EXTRAS_S) * len(named)
        python = reach.python or (sys.executable if reach.backend == "local" else "python3")
        sent = {**files, RUNNER: program(), SPEC: json.dumps(spec).encode()}
        try:
            return self.transport.run([python, RUNNER, SPEC], files=sent, deadline_s=deadline_s, watch=hear)
        except Absent as error:
            if reach.program is None or isinstance(self.transport, Here):
                raise Absent(f"{error}; see `python` in its profile") from error
        return self._run_from_here(spec, files, deadline_s, hear)

    def _run_from_here(
        self,
        spec: Mapping[str, Any],
        files: Mapping[str, Path | bytes],
        deadline_s: float,
        hear: Watch | None,
    ) -> str:
        """The runner on this machine, which starts the device's own benchmark program there: all that is needed
        of it is a shell. The files lie on the device meanwhile."""
        assert isinstance(self.transport, Ssh | Adb)
        prefix, told = self.transport.prefix, ""

        def measure(folder: str) -> None:
            nonlocal told
            models = [f"{folder}/{name}" for name in spec["models"]]
            changed = {**spec, "models": models, "shell": prefix, "reference": None}
            sent: dict[str, Path | bytes] = {RUNNER: program(), SPEC: json.dumps(changed).encode()}
            with tempfile.TemporaryDirectory() as here:  # which is not what is measured: it need not be free
                command = [sys.executable, RUNNER, SPEC]
                told = Here(here).run(command, files=sent, deadline_s=deadline_s, watch=hear)
            raise _Enough

        waiting = ["sh", "-c", "pwd >&2; exec sleep 100000"]
        try:
            self.transport.run(waiting, files=files, deadline_s=2 * deadline_s, watch=measure)
        except _Enough:
            return told
        raise Unreachable("the connection was cut before it said where its files are")

    def _compare_with_first(self, environment: Mapping[str, Any]) -> None:
        """Refuse an answer from another runtime or processor than the first one's: times would not compare."""
        for key in ("runtime", "cpu", "machine"):
            before, now = self._first.setdefault(key, environment.get(key)), environment.get(key)
            if now != before:
                raise DeviceError(
                    f"its {key} was {before} and is {now} now: times of the two cannot be compared;"
                    " go back to the first, or begin a new run"
                )


class _Enough(Exception):
    """What was to be done while the device waits is done."""


@dataclass(frozen=True)
class _Answer:
    """What the runner told, checked."""

    models: list[dict[str, Any]]
    reference: timing.Samples
    environment: dict[str, Any]
    quickest_ns: float | None = None

    @property
    def samples(self) -> list[timing.Samples]:
        return [one["samples_ns"] for one in self.models]

    def latencies(self) -> list[Latency]:
        found = []
        for one in self.models:
            # Where the runtime cannot run the reference, the file itself shows how steady the machine is.
            reference = self.reference or one["samples_ns"]
            told = timing.latency(
                one["samples_ns"],
                reference,
                self.environment,
                around=one.get("around_ns"),
                quickest_ns=self.quickest_ns,
            )
            found.append(
                dataclasses.replace(
                    told,
                    peak_memory_kb=one.get("peak_memory_kb"),
                    energy_mj=one.get("energy_mj"),
                    energy_source=one.get("energy_source") or "unavailable",
                    throughput_per_s=one.get("throughput_per_s"),
                    throughput_batch=one.get("throughput_batch"),
                )
            )
        return found


def _read_answer(text: str, spec: Mapping[str, Any], named: Mapping[str, Path]) -> _Answer:
    """The runner's answer. Raises DeviceError for what is none, and for what cannot be right."""
    try:
        told = json.loads(text)
        if "error" in told:
            model = PurePosixPath(told["model"])
            meant = next((str(file) for name, file in named.items() if model.match(name)), str(model))
            raise DeviceError(f"cannot run {meant}: {told['error']}")
        environment = dict(told["environment"])
        models, reference = told.get("models", []), (told.get("reference") or {}).get("samples_ns", [])
        wrong = _wrong_about(environment) or (_wrong(models, reference, spec) if named else None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DeviceError(f"expected the runner's answer, got {text[:80]!r}") from error
    if wrong is not None:
        raise DeviceError(f"its answer cannot be right: {wrong}")
    now = time.gmtime()
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", now)
    if (shown := environment.get("date")) is not None and not _alike(str(shown), now):
        environment["device_date"] = shown  # a board without a battery wakes up in the past
    return _Answer(models, reference, {**environment, "date": date})


def _wrong(models: list[dict[str, Any]], reference: Any, spec: Mapping[str, Any]) -> str | None:
    """What is wrong with an answer; None if nothing is."""
    if len(models) != len(spec["models"]):
        return f"expected {len(spec['models'])} models, got {len(models)}"
    least, most = spec["loads"]
    every = [one["samples_ns"] for one in models] + ([reference] if reference else [])
    for samples in every:
        if not least <= len(samples) <= most or len(samples) != len(every[0]):
            return (
                f"expected {least} to {most} loads, as many of every model, got {[len(one) for one in every]}"
            )
        for block in (block for load in samples for block in load or [[]]):
            if not block or not all(_is_amount(ns) and ns > 0 for ns in block):
                return f"expected times above 0 ns, got {str(block)[:60]}"
    for one in models:
        if (around := one.get("around_ns")) is not None and not _are_around(around, one["samples_ns"]):
            return f"expected two times above 0 ns around each of its rounds, got {str(around)[:60]}"
        for key in ("peak_memory_kb", "energy_mj", "throughput_per_s", "throughput_batch"):
            if one.get(key) is not None and not (_is_amount(one[key]) and one[key] >= 0):
                return f"expected an amount for {key} or nothing, got {one[key]!r}"
    return None


def _are_around(around: Any, samples: timing.Samples) -> bool:
    """Whether there are two times for each round."""
    return [len(load) for load in around] == [len(load) for load in samples] and all(
        len(pair) == 2 and all(_is_amount(ns) and ns > 0 for ns in pair) for load in around for pair in load
    )


def _wrong_about(environment: Mapping[str, Any]) -> str | None:
    """What is wrong with what a device tells of itself, as far as something is concluded from it."""
    for key in AMOUNTS:
        if key in environment and not (_is_amount(environment[key]) and environment[key] >= 0):
            return f"expected an amount for {key} or nothing, got {str(environment[key])[:60]!r}"
    return None


def _is_amount(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # not math.isfinite, which cannot take every whole number


def _alike(shown: str, now: time.struct_time) -> bool:
    """Whether a device's clock shows the time that it is."""
    try:
        there = time.strptime(shown, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return False
    return abs(calendar.timegm(there) - calendar.timegm(now)) < APART_S


def _hear(line: str, watch: Follow, files: Sequence[Path]) -> None:
    """Pass a line on if it tells of progress; the runtime's own complaints are none."""
    if not line.startswith('{"progress"'):
        return
    try:
        told = json.loads(line)["progress"]
        file = None if told["model"] < 0 else files[told["model"]]
        samples = tuple(ns / 1e6 for block in told["samples_ns"] for ns in block)
        progress = Progress(file, int(told["load"]), samples)
        if not samples or not all(_is_amount(ms) and ms > 0 for ms in samples):
            raise ValueError("no times")
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise DeviceError(f"expected the runner's progress, got {line[:80]!r}") from error
    watch(progress)


def weights_beside(file: Path) -> list[str]:
    """The files, relative to its folder, in which an ONNX file keeps its weights if not in itself."""
    if file.suffix != ".onnx":
        return []
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(str(file), load_external_data=False).graph
    except DecodeError:
        return []  # the runtime says better what is wrong with it
    places = {
        entry.value for one in graph.initializer for entry in one.external_data if entry.key == "location"
    }
    inside = (
        place for place in places if not place.startswith("/") and ".." not in PurePosixPath(place).parts
    )
    return sorted(place for place in inside if (file.parent / place).is_file())


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
