"""Building a predictor of a device within some minutes, from measurements that are kept as they come.

    measurements.jsonl   a line for every measurement: of kernels, of networks, and the seconds it took
    networks/            the files of the networks; made anew if they are gone

A build that was stopped goes on where it was: what the folder holds is not measured again, and its seconds count.
Measurements of another state of the device (runtime, governor, threads, ...) are left aside.

Times are floors (nasflow/hardware/floor.py), stretched to what the p50 is where nobody disturbs. Some networks, the
anchors, are measured again with every batch of others: what their floors moved by is the machine's clock, which is
taken out, or, if it is much, a batch that somebody disturbed from its beginning to its end, which is left out.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nasflow.errors import NasflowError
from nasflow.files import FolderError
from nasflow.hardware import fewshot, floor, fusion, kernels, networks, probes, roofline, table
from nasflow.hardware.device import Device, DeviceError, Lost
from nasflow.hardware.fusion import UNFUSED, FusionRules
from nasflow.hardware.graph import operators
from nasflow.hardware.predictor import Accuracy, Built, CannotPredict, Predictor
from nasflow.hardware.store import DECISIVE
from nasflow.hardware.timing import Latency
from nasflow.names import UnknownName, nearest

METHODS = ("roofline", "table", "kernels", "network", "few-shot")
HELD = 5  # every fifth network is held out, for the accuracy alone
LEAST = 10  # networks; with fewer nothing can be said about accuracy
AT_ONCE = 12  # networks measured in turns, besides the anchors
ANCHORS = 3
DISTURBED = 0.15  # by which the anchors' floors are off; more than any clock changes within minutes of work
KERNELS_AT_ONCE, PAIRS_AT_ONCE = 12, 4  # of a pair three are measured: each of the two, and both
FOR_KERNELS = 0.6  # share of the time that goes to kernels where a method wants them; networks get the rest
MEASURING = 0.97  # share of the time; fitting gets the rest
NEIGHBOURS = kernels.NEIGHBOURS
PRIOR = 100  # networks whose kernels are measured, and among which the few of few-shot are chosen
FEW, JUDGING = 10, 20  # networks that few-shot is told of, and is judged by
# Networks, at most, that a method which does not learn from networks is corrected and judged by.
CORRECTING = 60

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
    """The measurements in a folder, in one state of the device. Times are in milliseconds.

    `batches` are the floors of networks that were measured in turns, by number, without the `unsure`; `stretches` are
    their p50 as multiples of floors, and whether each was without noise. `refused` are networks that the device cannot
    run, `references` what the reference network took with each batch. `shaky` are those of `kernels` that are unsure.
    `together` says of pairs of operators whether they run as one, `rules` what follows when all were tried.
    """

    file: Path
    batches: list[dict[int, float]] = field(default_factory=list)
    stretches: list[tuple[float, bool]] = field(default_factory=list)
    unsure: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    references: list[float] = field(default_factory=list)
    kernels: dict[str, float] = field(default_factory=dict)
    shaky: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    call_ms: float | None = None
    together: dict[tuple[str, str], bool] = field(default_factory=dict)
    rules: FusionRules | None = None
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

    @property
    def anchors(self) -> dict[int, float]:
        """What the networks that were measured first, and again with every batch, took in the median."""
        first = list(dict.fromkeys(number for batch in self.batches for number in batch))[:ANCHORS]
        return {
            number: statistics.median(batch[number] for batch in self.batches if number in batch)
            for number in first
        }

    @property
    def times(self) -> dict[int, float]:
        """The p50 of the networks on an undisturbed machine, as if it had been all along as it was in the median."""
        anchors, found = self.anchors, dict[int, float]()
        for batch in self.batches:
            now = pace(batch, anchors)
            if abs(now - 1) <= DISTURBED:
                found |= {number: ms / now for number, ms in batch.items()}
        usual = floor.stretch(self.stretches)
        return {number: usual * ms for number, ms in sorted((found | anchors).items())}

    @property
    def noisy(self) -> int:
        """How many networks were measured on a machine too noisy to tell."""
        return len(set().union(self.unsure, *self.batches) - set(self.times))

    @property
    def steady(self) -> dict[str, float]:
        """The kernels without the shaky ones."""
        return {name: ms for name, ms in self.kernels.items() if name not in self.shaky}

    def asked(self, number: int) -> bool:
        """Whether a network need not be measured any more."""
        return number in self.unsure or number in self.refused or any(number in one for one in self.batches)

    def add(self, line: dict[str, Any]) -> None:
        self._read(line)
        self._write(line)

    def _read(self, line: Mapping[str, Any]) -> None:
        self.seconds += float(line["seconds"])
        if rows := [*line.get("anchors", []), *line.get("networks", [])]:
            self.batches.append({int(number): float(ms) for number, ms, *_ in rows})
            self.stretches += [(float(times), bool(without_noise)) for *_, times, without_noise in rows]
            self.longest = max(self.longest, float(line["seconds"]))
        if line.get("reference_ms"):
            self.references.append(float(line["reference_ms"]))
        self.unsure |= set(map(int, line.get("unsure", [])))
        self.refused |= set(map(int, line.get("refused", [])))
        told = {str(name): float(ms) for name, ms in line.get("kernels", {}).items()}
        self.kernels |= told
        self.shaky = self.shaky - set(told) | set(map(str, line.get("shaky", [])))
        self.failed |= set(map(str, line.get("failed", [])))
        self.call_ms = line.get("call_ms", self.call_ms)
        self.together |= {(first, second): bool(fused) for first, second, fused in line.get("together", [])}
        if "rules" in line:
            self.rules = FusionRules.from_json(line["rules"])

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
    like: Sequence[Built] = (),
    batch: int = 1,
    say: Say = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> Built:
    """Measure for at most so many `minutes`, those that `folder` tells of included, and fit a predictor.

    `like` are predictors of other devices, from which few-shot learns how networks differ.
    Raises UnknownName, BuildError if the time was too short, DeviceError or Unavailable.
    """
    if method not in METHODS:
        raise UnknownName(f"unknown method {method!r}: {nearest(method, METHODS)}")
    if not minutes > 0:
        raise BuildError(f"expected more than 0 minutes to measure in, got {minutes:g}")
    if (method == "few-shot") != bool(like):
        raise BuildError(
            "few-shot, and no other method, learns from known devices: --build few-shot --like DEVICE"
        )
    folder.mkdir(parents=True, exist_ok=True)
    now = _asked_for_nothing(device, folder)
    building = _Building(device, supply, folder, batch, say, clock, 60 * minutes, now.environment)
    if method == "few-shot":
        return building.judged(building.few_shot([one.predictor for one in like]), date=now.date)
    predictor = building.predictor(method)
    if method != "network":
        predictor = building.corrected(predictor)
    return building.judged(predictor, date=now.date)


def pace(measured: Mapping[int, float], anchors: Mapping[int, float]) -> float:
    """How many times as long as usual networks took, by those of them whose usual times (`anchors`) are known.

    >>> round(pace({0: 2.4, 1: 6.0, 2: 9.0}, {0: 2.0, 1: 5.0}), 6)
    1.2
    """
    return statistics.median(measured[number] / ms for number, ms in anchors.items() if number in measured)


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
            self.measure_networks(itertools.count())
            shown = [(number, ms) for number, ms in self.times().items() if number % HELD]
            known = [fusion.kernels(operators(self.file(number), self.batch), UNFUSED) for number, _ in shown]
            return networks.fit(known, [ms for _, ms in shown], UNFUSED, batch=self.batch)
        rules = self.rules()
        if method == "roofline":
            self.leave_time("the rates of arithmetic and of memory were not measured")
            return roofline.measured(self.device, rules, batch=self.batch)
        keys = table.wanted([self.file(number) for number in range(PRIOR)], rules, self.batch)
        if method == "table":
            self.measure_kernels(keys)
        else:
            kernels.sample(keys, self.measure_kernels, neighbours=NEIGHBOURS)
        # A table lacks a network for want of one kernel, so it takes shaky ones too; what is learned can do without.
        told = self.record.kernels if method == "table" else self.record.steady
        if not told or self.record.call_ms is None:
            raise BuildError(
                f"no kernel was measured in time, {len(self.record.shaky)} on a machine too noisy to tell;"
                f" give more than {self.limit_s / 60:g} --minutes, at best on a quieter machine"
            )
        call_ms = max(self.record.call_ms, kernels.LEAST_MS)
        if method == "table":
            return table.Table(self.device.name, told, call_ms, rules, self.batch)
        return kernels.fit(told, call_ms, rules, batch=self.batch)

    def few_shot(self, like: Sequence[Predictor]) -> Predictor:
        """The predictor from the few networks that tell most, after known devices; the networks to judge it by are
        measured too."""
        numbers = [number for number in range(PRIOR) if number % HELD]
        files = [self.file(number) for number in numbers]
        others = [[one.p50_ms for one in known.predict(files)] for known in like]
        chosen = fewshot.choose(fewshot.encoded(files, self.batch)[1], others, FEW)
        judging = range(0, HELD * JUDGING, HELD)
        self.measure_networks([*(numbers[i] for i in chosen), *judging])
        times = self.times()
        told = {i: times[numbers[i]] for i in chosen if numbers[i] in times}
        if len(told) < 2:
            raise BuildError(
                f"expected at least two of the {FEW} most telling networks to be measured, got {len(told)};"
                " give more --minutes, at best on a quieter machine"
            )
        return fewshot.Transfer.of(files, others, told, self.batch)

    def rules(self) -> FusionRules:
        """What the device runs as one, found by measuring it once."""
        record = self.record
        if record.rules is None:
            files = (self.file(number) for number in range(PRIOR))
            asked = fusion.pairs([operators(file, self.batch) for file in files])
            left = [pair for pair in asked if pair not in record.together]
            while left:
                self.leave_time(f"{len(asked) - len(left)} of {len(asked)} pairs of operators were tried")
                some, left = left[:PAIRS_AT_ONCE], left[PAIRS_AT_ONCE:]
                fused = fusion.detect(self.device, some).pairs
                self.note({"together": [[*pair, pair in fused] for pair in some]})
            rules = FusionRules(frozenset(pair for pair in asked if record.together[pair]))
            self.note({"rules": rules.to_json()})
            self.say(f"runs {len(rules.pairs)} of {len(asked)} pairs of operators as one")
            return rules
        return record.rules

    def leave_time(self, so_far: str) -> None:
        """Raise BuildError if what is not about networks has had its share of the time."""
        if self.spent() >= FOR_KERNELS * self.limit_s:
            raise BuildError(
                f"{so_far} when {FOR_KERNELS:.0%} of {self.limit_s / 60:g} minutes were spent, and networks need the"
                " rest; give more --minutes: what was measured is kept"
            )

    def measure_kernels(self, keys: Sequence[str]) -> Mapping[str, float]:
        """Milliseconds of those of `keys` that can be measured while there is time, without the shaky ones."""
        record, until_s = self.record, FOR_KERNELS * self.limit_s
        for _ in range(2):  # shaky ones once more, since others may have gone meanwhile
            left = [
                name
                for name in keys
                if name not in record.failed and (name not in record.kernels or name in record.shaky)
            ]
            while left and self.spent() < until_s:
                some, left = left[:KERNELS_AT_ONCE], left[KERNELS_AT_ONCE:]
                self.note(self._kernels(some))
                self._tell(f"{len(record.kernels)} kernels", len(record.shaky))
        steady = record.steady
        return {name: steady[name] for name in keys if name in steady}

    def _kernels(self, keys: Sequence[str]) -> dict[str, Any]:
        try:
            told = table.measured(self.device, keys)
            return {"kernels": told.ms, "call_ms": told.call_ms, "shaky": sorted(told.unsure)}
        except Lost:
            raise
        except (DeviceError, probes.CannotProbe):
            if len(keys) == 1:
                return {"failed": list(keys)}
        each = [self._kernels([name]) for name in keys]  # so that one bad file spoils no other's answer
        found = {name: ms for one in each for name, ms in one.get("kernels", {}).items()}
        listed = {what: [name for one in each for name in one.get(what, [])] for what in ("shaky", "failed")}
        call = [one["call_ms"] for one in each if "call_ms" in one]
        return {"kernels": found, **listed} | ({"call_ms": statistics.median(call)} if call else {})

    def measure_networks(self, numbers: Iterable[int]) -> None:
        """Measure networks in turns while there is time for another batch."""
        left = (number for number in numbers if not self.record.asked(number))
        until_s = MEASURING * self.limit_s
        while self.spent() + self.record.longest < until_s and (
            some := list(itertools.islice(left, AT_ONCE))
        ):
            self._networks(some)
            self._tell(f"{len(self.record.times)} networks", self.record.noisy)

    def _networks(self, numbers: Sequence[int]) -> None:
        anchors = list(self.record.anchors)
        try:
            told = self.device.latencies([self.file(number) for number in (*anchors, *numbers)])
        except Lost:
            raise  # it may come back, and the build goes on then
        except DeviceError:
            if len(numbers) > 1:
                for number in numbers:
                    self._networks([number])
            elif self.record.batches or self.record.unsure or self.record.refused:
                self.note({"refused": list(numbers)})
            else:
                raise  # the very first: the device can run none of them
            return
        known: list[tuple[int, float, float, bool]] = []
        new: list[tuple[int, float, float, bool]] = []
        lost: list[int] = []
        for number, one in zip((*anchors, *numbers), told, strict=True):
            if floor.unsure(one):
                lost += [number] if number in numbers else []
                continue
            least_ms = floor.floor_ms(one)
            row = (number, least_ms, one.p50_ms / least_ms, not one.noisy)
            (known if number in anchors else new).append(row)
        if anchors and not known:
            new, lost = [], list(numbers)
        reference_ms = told[0].reference_ms
        self.note({"networks": new, "anchors": known, "unsure": lost, "reference_ms": reference_ms})

    def corrected(self, predictor: Predictor) -> Predictor:
        """A predictor that did not learn from networks, corrected by some; others are measured to judge it by."""
        self.measure_networks(range(CORRECTING))
        return predictor.refitted(self._predictable(predictor, [n for n in self.times() if n % HELD]))

    def judged(self, predictor: Predictor, *, date: str) -> Built:
        """The predictor with its accuracy on networks held out."""
        held = self._predictable(predictor, [number for number in self.times() if number % HELD == 0])
        if not held:
            raise BuildError("no network that was held out can be predicted; give more --minutes")
        predicted = [one.p50_ms for one in predictor.predict([file for file, _ in held])]
        record = self.record
        return Built(
            predictor=predictor,
            device=self.device.name,
            environment=dict(self.environment),
            date=date,
            accuracy=Accuracy.of(predicted, [ms for _, ms in held]),
            reference_ms=statistics.median(record.references or [1.0]),
            networks=self.supply.name,
            measured=len(record.times) + len(record.kernels),
            noisy=record.noisy + len(record.shaky),
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
        """Milliseconds of the networks; see `Record.times`. Raises BuildError if they are too few."""
        times = self.record.times
        if len(times) < LEAST:
            raise BuildError(
                f"expected at least {LEAST} networks to be measured, to learn from and to judge by, got"
                f" {len(times)} in {self.limit_s / 60:g} minutes, and {self.record.noisy} on a machine too"
                " noisy to tell; give more --minutes, at best on a quieter machine"
            )
        return times

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

    def _tell(self, what: str, noisy: int) -> None:
        spent = f"{self.spent() / 60:.1f} of {self.limit_s / 60:g} minutes"
        self.say(f"{what}, {spent}" + (f"; {noisy} too noisy to count" if noisy else ""))


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
    begun = {"state": dict(state), "networks_of": supply, "anchored": ANCHORS}
    line: dict[str, Any] = json.loads(json.dumps(begun))
    return line
