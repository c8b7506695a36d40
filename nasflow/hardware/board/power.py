"""What an inference takes of energy: E = integral of (P - P_idle) dt over at least a second of calls, per call.

Meters read what the machine has: the processor's own counters (RAPL), the sensors of a Jetson, a graphics card's, a
phone's battery. Where there is none, or it cannot tell the calls from idling, energy is unavailable, never 0.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from .machine import Machine
from .network import Block

SECONDS = 1.0  # of idling, and of calls, at the least
EVERY_S = 0.02  # a meter is asked about this often
PARTS = 5  # of the idle time, whose power is compared to see how much it varies
RISE = 0.01  # of the idle power; less than this the calls cannot be told from idling

Clock = Callable[[], int]


class Unavailable(Exception):
    """Why there is no energy to be told."""


class Meter(Protocol):
    """`source` says what is measured, and by what."""

    @property
    def source(self) -> str: ...
    def joules(self) -> float:
        """The energy since some moment in the past."""

    def close(self) -> None: ...


class Idle(NamedTuple):
    """The mean power while nothing runs, and by how much it varies from fifth to fifth of that time, in watts."""

    watts: float
    spread: float


class Energy(NamedTuple):
    """`mj` are millijoules above idle per call. `hz` is how often the meter was asked."""

    mj: float
    source: str
    idle_w: float
    active_w: float
    hz: float
    seconds: float
    calls: int


def find(machine: Machine, device: str = "cpu", clock: Clock = time.perf_counter_ns) -> Meter:
    """The best meter of a machine, for what runs on its processor (`device` cpu) or graphics card (cuda).

    Raises Unavailable with what was looked for.
    """
    reasons = []
    for look in (tegra, nvidia) if device == "cuda" else (rapl, tegra, battery):
        try:
            return look(machine, clock)
        except Unavailable as reason:
            reasons.append(str(reason))
    raise Unavailable("; ".join(reasons))


def idle(
    meter: Meter,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
    seconds: float = SECONDS,
) -> Idle:
    """What the machine takes while this process does nothing."""
    watts = []
    for _ in range(PARTS):
        start, before = clock(), meter.joules()
        while clock() - start < 1e9 * seconds / PARTS:
            sleep(EVERY_S)
            after = meter.joules()
        watts.append(1e9 * (after - before) / (clock() - start))
    return Idle(statistics.mean(watts), statistics.stdev(watts))


def energy(
    block: Block,
    ns: float,
    meter: Meter,
    rest: Idle,
    clock: Clock = time.perf_counter_ns,
    seconds: float = SECONDS,
) -> Energy:
    """The energy of calls that take about `ns` each, back to back. Raises Unavailable if it is too little to tell."""
    at_once = max(1, round(1e9 * EVERY_S / max(1.0, ns)))
    calls = asked = 0
    start, before = clock(), meter.joules()
    while clock() - start < 1e9 * seconds:
        block(at_once)
        after = meter.joules()
        calls, asked = calls + at_once, asked + 1
    elapsed = (clock() - start) / 1e9
    active = (after - before) / elapsed
    rise, least = active - rest.watts, max(RISE * rest.watts, 3 * rest.spread)
    if rise <= least:
        raise Unavailable(
            f"{meter.source} rose by {rise:.3g} W over {rest.watts:.3g} W of idling, which is told from noise above"
            f" {least:.2g} W only"
        )
    return Energy(
        1000 * rise * elapsed / calls, meter.source, rest.watts, active, asked / elapsed, elapsed, calls
    )


class Counters:
    """Counters of microjoules that begin again at 0 after their range (RAPL)."""

    def __init__(self, source: str, read: Callable[[], Sequence[int]], ranges: Sequence[int]) -> None:
        self.source = source
        self._read, self._ranges = read, ranges
        self._last, self._total = read(), 0

    def joules(self) -> float:
        now = self._read()
        for i, span in enumerate(self._ranges):
            self._total += (now[i] - self._last[i]) % span
        self._last = now
        return self._total / 1e6

    def close(self) -> None: ...


class Watts:
    """A sensor of power, summed up by trapezoids between the moments it is asked."""

    def __init__(
        self, source: str, read: Callable[[], float], clock: Clock, close: Callable[[], None] = lambda: None
    ) -> None:
        self.source, self.close = source, close
        self._read, self._clock = read, clock
        self._at, self._last, self._total = clock(), read(), 0.0

    def joules(self) -> float:
        at, now = self._clock(), self._read()
        self._total += (now + self._last) / 2 * (at - self._at) / 1e9
        self._at, self._last = at, now
        return self._total


def rapl(machine: Machine, clock: Clock) -> Meter:
    """The counters of an Intel or AMD processor: its packages, and memory where it has a counter of its own.

    https://www.kernel.org/doc/html/latest/power/powercap/powercap.html
    """
    folder = "/sys/class/powercap"
    zones = []
    for zone in machine.names(folder):
        name = machine.read(f"{folder}/{zone}/name")
        if zone.startswith("intel-rapl:") and (name.startswith("package") or name == "dram"):
            zones.append((f"{folder}/{zone}", name))
    if not zones:
        raise Unavailable("no RAPL counters")
    spans = [machine.number(f"{zone}/max_energy_range_uj") for zone, _ in zones]

    def read() -> list[int]:
        counts = [machine.number(f"{zone}/energy_uj") for zone, _ in zones]
        if None in counts:
            raise Unavailable(
                f"RAPL: only administrators may read {zones[0][0]}/energy_uj (chmod a+r lets others)"
            )
        return [count for count in counts if count is not None]

    return Counters(f"RAPL {'+'.join(name for _, name in zones)}", read, [span or 2**32 for span in spans])


def tegra(machine: Machine, clock: Clock) -> Meter:
    """The INA3221 sensors of a Jetson: what goes into the whole module, or the sum of the rails where that is not told.

    https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/SD/PlatformPowerAndPerformance.html (hwmon, mV and
    mA); the driver before JetPack 5 has in_power0_input in mW.
    """
    rails: dict[str, tuple[str, ...]] = {}
    for chip in machine.names("/sys/class/hwmon"):
        folder = f"/sys/class/hwmon/{chip}"
        if machine.read(f"{folder}/name") == "ina3221":
            for i in (1, 2, 3):
                label = machine.read(f"{folder}/in{i}_label")
                if label not in ("", "NC"):
                    rails[label] = (f"{folder}/in{i}_input", f"{folder}/curr{i}_input")
    drivers = "/sys/bus/i2c/drivers/ina3221x"
    for chip in machine.names(drivers):
        for part in machine.names(f"{drivers}/{chip}"):
            folder = f"{drivers}/{chip}/{part}"
            for i in (0, 1, 2) if part.startswith("iio:device") else ():
                label = machine.read(f"{folder}/rail_name_{i}")
                if label:
                    rails[label] = (f"{folder}/in_power{i}_input",)
    if not rails:
        return _tegrastats(machine, clock)
    whole = [label for label in ("VDD_IN", "POM_5V_IN") if label in rails]
    chosen: list[str] = list(whole[:1]) or sorted(rails)

    def read() -> float:
        watts = 0.0
        for label in chosen:
            values = [machine.number(path) for path in rails[label]]
            if None in values:
                raise Unavailable(f"INA3221: {rails[label][0]} cannot be read")
            known = [value for value in values if value is not None]
            watts += known[0] * known[1] / 1e6 if len(known) == 2 else known[0] / 1e3
        return watts

    return Watts(f"INA3221 {'+'.join(chosen)}", read, clock)


def _tegrastats(machine: Machine, clock: Clock) -> Meter:
    """`... VDD_IN 4220mW/4220mW ...`, `POM_5V_IN 2532/2532` before JetPack 5."""

    def watts(line: str) -> float | None:
        found = re.search(r"\b(?:VDD_IN|POM_5V_IN) (\d+)(?:mW)?/\d+", line)
        return int(found[1]) / 1000 if found else None

    return _stream(machine, clock, "tegrastats", ["tegrastats", "--interval", "50"], watts, "no INA3221")


def nvidia(machine: Machine, clock: Clock) -> Meter:
    """A graphics card alone, without the computer it is in.

    https://docs.nvidia.com/deploy/nvidia-smi/index.html (power.draw: the last second's mean on newer cards)
    """
    command = [
        "nvidia-smi",
        "--id=0",
        "--query-gpu=power.draw",
        "--format=csv,noheader,nounits",
        "--loop-ms=20",
    ]

    def watts(line: str) -> float | None:
        return float(line) if re.fullmatch(r"\s*[\d.]+\s*", line) else None

    return _stream(machine, clock, "nvidia-smi power.draw", command, watts, "no nvidia-smi")


def battery(machine: Machine, clock: Clock) -> Meter:
    """The battery of a phone or laptop that is not being charged; it takes in everything, the screen too.

    https://www.kernel.org/doc/html/latest/power/power_supply_class.html (microvolts, microamperes, of either sign);
    where Android forbids the shell to read that, what some makers add to `dumpsys battery` (mV, mA).
    """
    for supply in machine.names("/sys/class/power_supply"):
        folder = f"/sys/class/power_supply/{supply}"
        if machine.read(f"{folder}/type") != "Battery":
            continue
        if machine.read(f"{folder}/status") != "Discharging":
            raise Unavailable("battery: it is being charged, which hides what is taken from it; unplug it")

        def read(folder: str = folder) -> float:
            volts, amperes = (machine.number(f"{folder}/{name}_now") for name in ("voltage", "current"))
            watts = machine.number(f"{folder}/power_now")
            if volts is not None and amperes is not None:
                return abs(volts * amperes) / 1e12
            if watts is None:
                raise Unavailable(f"battery: neither power_now nor current_now of {folder} can be read")
            return abs(watts) / 1e6

        return Watts("battery", read, clock)
    if not machine.shell:
        raise Unavailable("no battery")

    def dumped() -> float:
        text = subprocess.run([*machine.shell, "dumpsys", "battery"], stdout=subprocess.PIPE).stdout.decode()
        values = dict(re.findall(r"^\s*(status|voltage|current now): (-?\d+)\s*$", text, re.MULTILINE))
        if values.get("status") != "3":
            raise Unavailable(
                "battery: it is being charged, which hides what is taken from it; use adb over Wi-Fi"
            )
        if "current now" not in values or "voltage" not in values:
            raise Unavailable("battery: this phone does not tell the current")
        return abs(int(values["current now"]) * int(values["voltage"])) / 1e6

    return Watts("battery (dumpsys)", dumped, clock)


def _stream(
    machine: Machine,
    clock: Clock,
    source: str,
    command: Sequence[str],
    watts: Callable[[str], float | None],
    missing: str,
) -> Meter:
    """A program that prints the power again and again; what it said last counts."""
    try:
        talking = subprocess.Popen(
            [*machine.shell, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise Unavailable(missing) from error
    assert talking.stdout is not None
    pipe = talking.stdout
    rest = ""

    def close() -> None:
        talking.terminate()
        talking.wait()
        pipe.close()

    last: float | None = None
    for raw in pipe:  # until it has said the power once
        last = watts(raw.decode(errors="replace"))
        if last is not None:
            break
    if last is None:
        close()
        raise Unavailable(f"{source} tells no power")
    os.set_blocking(pipe.fileno(), False)

    def read() -> float:
        nonlocal last, rest
        said = pipe.read() or b""
        lines = (rest + said.decode(errors="replace")).split("\n")
        rest = lines.pop()
        for line in lines:
            now = watts(line)
            last = last if now is None else now
        if talking.poll() is not None:
            raise Unavailable(f"{source} has stopped telling the power")
        assert last is not None
        return last

    try:
        return Watts(source, read, clock, close)
    except Unavailable:
        close()
        raise
