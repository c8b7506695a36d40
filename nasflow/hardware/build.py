"""Building a predictor of a device within some minutes, from measurements that are kept as they come.

    measurements.jsonl   a line for every measurement: of a kernel, of a network, and the seconds it took
    networks/            the files of the networks; made anew if they are gone

A build that was stopped goes on where it was: what the folder holds is not measured again, and its seconds count.
Measurements of another state of the device (runtime, governor, threads, ...) are left aside.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nasflow.errors import NasflowError
from nasflow.files import FolderError
from nasflow.hardware import kernels, networks, probes, roofline, table
from nasflow.hardware.device import Device, DeviceError
from nasflow.hardware.fusion import UNFUSED
from nasflow.hardware.fusion import kernels as grouped
from nasflow.hardware.graph import operators
from nasflow.hardware.predictor import Accuracy, Built, CannotPredict, Predictor
from nasflow.hardware.store import DECISIVE
from nasflow.hardware.timing import Latency
from nasflow.names import UnknownName, nearest

METHODS = ("roofline", "table", "kernels", "network")
HELD = 5  # every fifth network is held out, for the accuracy alone
LEAST = 10  # networks; with fewer nothing can be said about accuracy
AT_ONCE = 10  # networks measured in turns
KERNELS_AT_ONCE = 12
FOR_KERNELS = 0.6  # share of the time that goes to kernels where a method wants them; networks get the rest
MEASURING = 0.97  # share of the time; fitting gets the rest
NEIGHBOURS = kernels.NEIGHBOURS
PRIOR = 100  # networks whose kernels are measured
CORRECTING = (
    60  # networks, at most, that a method which does not learn from networks is corrected and judged by
)

Say = Callable[[str], None]


class BuildError(NasflowError):
    """A predictor that cannot be built, and what would help."""


class Supply(Protocol):
    """Networks of the kind that a predictor is for."""

    @property
    def name(self) -> str:
        """In words: "mobile, 3x32x32"."""

    def write(self, number: int, file: Path) -> None:
        """Export network `number`, the same one every time."""


@dataclass
class Record:
    """The measurements in a folder, in one state of the device. Times are in milliseconds."""

    file: Path
    networks: dict[int, tuple[float, float]] = field(
        default_factory=dict
    )  # p50 and the reference's meanwhile
    kernels: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    call_ms: float | None = None
    seconds: float = 0.0
    longest: float = 0.0  # seconds of a batch of networks

    @classmethod
    def open(cls, folder: Path, state: Mapping[str, Any], supply: str) -> Record:
        """What was measured before in this state, of these networks; a cut-off last line is as if never written."""
        folder.mkdir(parents=True, exist_ok=True)
        record = cls(folder / "measurements.jsonl")
        fitting, lines = False, record._lines()
        for line in lines:
            if "state" in line:
                fitting = line == _begun(state, supply)
            elif fitting:
                record._read(line)
        if not lines or not fitting:
            record._write(_begun(state, supply))
        return record

    def add(self, line: dict[str, Any]) -> None:
        self._read(line)
        self._write(line)

    def _read(self, line: Mapping[str, Any]) -> None:
        self.seconds += float(line["seconds"])
        self.networks |= {
            int(number): (float(ms), float(ref)) for number, ms, ref in line.get("networks", [])
        }
        self.kernels |= {str(name): float(ms) for name, ms in line.get("kernels", {}).items()}
        self.failed |= set(map(str, line.get("failed", [])))
        self.call_ms = line.get("call_ms", self.call_ms)

    def _lines(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for text in self.file.read_text().split("\n") if self.file.exists() else []:
            try:
                found.append(json.loads(text))
            except ValueError:
                continue  # a line that a kill cut off
        return found

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            with self.file.open("a") as file:
                file.write("\n" * (file.tell() > 0 and not self._whole()) + json.dumps(line) + "\n")
        except OSError as error:
            raise FolderError(f"cannot write {self.file}: {error.strerror}") from error

    def _whole(self) -> bool:
        with self.file.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"


def build(
    device: Device,
    method: str,
    minutes: float,
    supply: Supply,
    folder: Path,
    *,
    batch: int = 1,
    say: Say = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> Built:
    """Measure for at most so many `minutes`, those that `folder` tells of included, and fit a predictor.

    Raises UnknownName, BuildError if the time was too short, DeviceError or Unavailable.
    """
    if method not in METHODS:
        raise UnknownName(f"unknown method {method!r}: {nearest(method, METHODS)}")
    if not minutes > 0:
        raise BuildError(f"expected more than 0 minutes to measure in, got {minutes:g}")
    folder.mkdir(parents=True, exist_ok=True)
    now = _asked_for_nothing(device, folder)
    building = _Building(device, supply, folder, batch, say, clock, 60 * minutes, now.environment)
    predictor = building.predictor(method)
    return building.judged(predictor, learns=method == "network", date=now.date)


@dataclass
class _Building:
    device: Device
    supply: Supply
    folder: Path
    batch: int
    say: Say
    clock: Callable[[], float]
    limit_s: float
    environment: Mapping[str, Any]

    def __post_init__(self) -> None:
        state = {name: self.environment[name] for name in DECISIVE if name in self.environment}
        self.record = Record.open(self.folder, state, self.supply.name)
        self.last = self.clock()
        (self.folder / "networks").mkdir(exist_ok=True)
        if self.record.seconds:
            self.say(f"going on after {self.record.seconds / 60:.1f} minutes")

    def predictor(self, method: str) -> Predictor:
        """The predictor by a method, from measurements that leave time for networks where it needs any."""
        if method == "network":
            self.measure_networks(until_s=MEASURING * self.limit_s, most=None)
            shown = [(number, ms) for number, ms in self.times().items() if number % HELD]
            known = [grouped(operators(self.file(number), self.batch), UNFUSED) for number, _ in shown]
            return networks.fit(known, [ms for _, ms in shown], UNFUSED, batch=self.batch)
        if method == "roofline":
            return roofline.measured(self.device, UNFUSED, batch=self.batch)
        files = [self.file(number) for number in range(PRIOR)]
        keys = table.wanted(files, UNFUSED, self.batch)
        if method == "table":
            self.measure_kernels(keys)
        else:
            kernels.sample(keys, self.measure_kernels, neighbours=NEIGHBOURS)
        if not self.record.kernels or self.record.call_ms is None:
            raise BuildError(
                f"no kernel was measured in time; give more than {self.limit_s / 60:g} --minutes"
            )
        call_ms = max(self.record.call_ms, kernels.LEAST_MS)
        if method == "table":
            return table.Table(self.device.name, self.record.kernels, call_ms, UNFUSED, self.batch)
        return kernels.fit(self.record.kernels, call_ms, UNFUSED, batch=self.batch)

    def measure_kernels(self, keys: Sequence[str]) -> Mapping[str, float]:
        """Milliseconds of those of `keys` that can be measured while there is time."""
        left = [name for name in keys if name not in self.record.kernels and name not in self.record.failed]
        until_s = FOR_KERNELS * self.limit_s
        while left and self.spent() < until_s:
            some, left = left[:KERNELS_AT_ONCE], left[KERNELS_AT_ONCE:]
            self.note(self._kernels(some))
            self.say(
                f"{len(self.record.kernels)} kernels, {self.spent() / 60:.1f} of {self.limit_s / 60:g} minutes"
            )
        return {name: self.record.kernels[name] for name in keys if name in self.record.kernels}

    def _kernels(self, keys: Sequence[str]) -> dict[str, Any]:
        try:
            found, call_ms = table.measured(self.device, keys)
            return {"kernels": found, "call_ms": call_ms}
        except (DeviceError, probes.CannotProbe):
            if len(keys) == 1:
                return {"failed": list(keys)}
        told = [self._kernels([name]) for name in keys]  # so that one bad file spoils no other's answer
        found = {name: ms for one in told for name, ms in one.get("kernels", {}).items()}
        failed = [name for one in told for name in one.get("failed", [])]
        call = [one["call_ms"] for one in told if "call_ms" in one]
        return {"kernels": found, "failed": failed} | ({"call_ms": statistics.median(call)} if call else {})

    def measure_networks(self, *, until_s: float, most: int | None) -> None:
        """Measure networks in turns while there is time for another batch."""
        number = max(self.record.networks, default=-1) + 1
        while self.spent() + self.record.longest < until_s and (most is None or number < most):
            some = range(number, number + AT_ONCE)
            number = some.stop
            self.note({"networks": self._networks(some)})
            self.say(
                f"{len(self.record.networks)} networks, {self.spent() / 60:.1f} of {self.limit_s / 60:g} minutes"
            )

    def _networks(self, numbers: Sequence[int]) -> list[tuple[int, float, float]]:
        try:
            told = self.device.latencies([self.file(number) for number in numbers])
        except DeviceError:
            if len(numbers) == 1 and not self.record.networks and numbers[0] % AT_ONCE == 0:
                raise  # the very first: the device can run none of them
            if len(numbers) == 1:
                return []
            return [row for number in numbers for row in self._networks([number])]
        return [
            (number, one.p50_ms, one.reference_ms or 1.0) for number, one in zip(numbers, told, strict=True)
        ]

    def judged(self, predictor: Predictor, *, learns: bool, date: str) -> Built:
        """The predictor with its accuracy on networks held out; one that does not learn from networks is first
        corrected by the others."""
        if not learns:
            self.measure_networks(until_s=MEASURING * self.limit_s, most=CORRECTING)
        times = self.times()
        if not learns:
            predictor = predictor.refitted(self._predictable(predictor, [n for n in times if n % HELD]))
        held = self._predictable(predictor, [number for number in times if number % HELD == 0])
        if not held:
            raise BuildError("no network that was held out can be predicted; give more --minutes")
        predicted = [one.p50_ms for one in predictor.predict([file for file, _ in held])]
        accuracy = Accuracy.of(predicted, [ms for _, ms in held])
        return Built(
            predictor=predictor,
            device=self.device.name,
            environment=dict(self.environment),
            date=date,
            accuracy=accuracy,
            reference_ms=self.reference_ms(),
            networks=self.supply.name,
        )

    def _predictable(self, predictor: Predictor, numbers: Sequence[int]) -> list[tuple[Path, float]]:
        """Files and times of those networks that the predictor knows enough about."""
        times, found = self.times(), []
        for number in numbers:
            try:
                predictor.predict([self.file(number)])
            except CannotPredict:
                continue
            found.append((self.file(number), times[number]))
        return found

    def times(self) -> dict[int, float]:
        """Milliseconds of the networks, as if the machine had been all along as it was in the median.

        Raises BuildError if they are too few.
        """
        if len(self.record.networks) < LEAST:
            raise BuildError(
                f"expected at least {LEAST} networks to be measured, to learn from and to judge by, got"
                f" {len(self.record.networks)} in {self.limit_s / 60:g} minutes; give more --minutes"
            )
        unit = self.reference_ms()
        return {
            number: ms / reference * unit for number, (ms, reference) in sorted(self.record.networks.items())
        }

    def reference_ms(self) -> float:
        return statistics.median(reference for _, reference in self.record.networks.values())

    def file(self, number: int) -> Path:
        """The exported network, made now if it is not there."""
        file = self.folder / "networks" / f"{number:05d}.onnx"
        if not file.exists():
            self.supply.write(number, file)
        return file

    def spent(self) -> float:
        """Seconds of this and earlier builds."""
        return self.record.seconds + self.clock() - self.last

    def note(self, line: Mapping[str, Any]) -> None:
        now = self.clock()
        taken, self.last = now - self.last, now
        self.record.add({**line, "seconds": round(taken, 3)})


def _asked_for_nothing(device: Device, folder: Path) -> Latency:
    """A measurement of no work, which tells the state of the device."""
    file = folder / "nothing.onnx"
    file.write_bytes(probes.nothing())
    try:
        return device.latency(file)
    finally:
        file.unlink()


def _begun(state: Mapping[str, Any], supply: str) -> dict[str, Any]:
    """The line before measurements in a state, as it comes back from JSON."""
    line: dict[str, Any] = json.loads(json.dumps({"state": dict(state), "networks_of": supply}))
    return line
