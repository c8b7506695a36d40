"""What a time depends on besides the file: the machine, its clocks, its temperature, and who else was at work."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from collections.abc import Sequence
from typing import Any

from .machine import Machine

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "fma", "f16c",
         "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve")  # fmt: skip
CHANGED = 0.05  # a clock that differs by more is another clock
CPU = "/sys/devices/system/cpu"

Facts = dict[str, Any]


def environment(machine: Machine, threads: int, runtime: str) -> Facts:
    """Before anything is timed; what cannot be told is left out. A phone's own Python, if any, is not asked."""
    here = not machine.shell
    cpuinfo = machine.read("/proc/cpuinfo")
    flags = set((_field(cpuinfo, "flags") or _field(cpuinfo, "Features") or "").split())
    cores = own_cores(machine)
    load = machine.read("/proc/loadavg").split()[:3]
    told: Facts = {
        "cpu": _field(cpuinfo, "model name")
        or machine.read("/proc/device-tree/model").strip("\0")
        or _field(cpuinfo, "Hardware")
        or (platform.processor() if here else None),
        "flags": [flag for flag in FLAGS if flag in flags] or None,
        "machine": platform.machine() if here else None,
        "cores": os.cpu_count() if here else len(cores) or None,
        "affinity": cores if here else None,
        "threads": threads,
        "nice": os.getpriority(os.PRIO_PROCESS, 0) if here else None,
        "governor": machine.read(f"{CPU}/cpu{cores[0] if cores else 0}/cpufreq/scaling_governor"),
        "turbo": turbo(machine),
        "quota_cores": quota(machine),
        "load_average": [float(text) for text in load] if load else list(os.getloadavg()) if here else None,
        "system": f"{platform.system()} {platform.release()}" if here else machine.read("/proc/version"),
        "python": platform.python_version() if here else None,
        "numpy": _numpy() if here else None,
        "runtime": runtime,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "temperatures_c": temperatures(machine),
        "frequencies_khz": frequencies(machine, cores),
    }
    told["temperature_c"] = max(told["temperatures_c"].values(), default=None)
    told["frequency_khz"] = next(iter(told["frequencies_khz"].values()), None)
    return {key: value for key, value in told.items() if value not in (None, "", {}, [])}


def afterwards(machine: Machine) -> Facts:
    """The clocks and temperatures at the end; what cannot be told is left out."""
    told: Facts = {
        "temperatures_c_after": temperatures(machine),
        "frequencies_khz_after": frequencies(machine, own_cores(machine)),
    }
    return {key: value for key, value in told.items() if value}


def interruptions(machine: Machine) -> dict[str, int]:
    """Counts that only grow: how often others took the core from this process, the ticks that other machines took
    from this one, how often the control group's quota stopped it, and how often heat or low voltage slowed it."""
    counts: dict[str, int | None] = {}
    if not machine.shell:
        counts["preemptions"] = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    whole = machine.read("/proc/stat").split("\n", 1)[0].split()
    counts["stolen_ticks"] = int(whole[8]) if len(whole) > 8 else None
    found = re.search(r"^nr_throttled (\d+)$", machine.read("/sys/fs/cgroup/cpu.stat"), re.MULTILINE)
    counts["quota_throttled"] = int(found[1]) if found else None
    slowed = [
        machine.number(f"{CPU}/cpu{core}/thermal_throttle/core_throttle_count") for core in own_cores(machine)
    ]
    known = [count for count in slowed if count is not None]
    counts["heat_throttled"] = sum(known) if known else None
    return {key: count for key, count in counts.items() if count is not None}


class Clocks:
    """Counts how often a core's clock was found changed by more than 5 % from one look to the next."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._cores = machine, own_cores(machine)
        self._last = frequencies(machine, self._cores)
        self.changes = 0

    def look(self) -> None:
        now = frequencies(self._machine, self._cores) if self._last else {}
        for core, khz in now.items():
            if abs(khz - self._last.get(core, khz)) > CHANGED * self._last.get(core, khz):
                self.changes += 1
        self._last = now

    def told(self) -> Facts:
        return {"clock_changes": self.changes} if self._last else {}


def own_cores(machine: Machine) -> list[int]:
    """The cores this process may use; all of another machine."""
    if not machine.shell and hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    found = (re.fullmatch(r"cpu(\d+)", name) for name in machine.names(CPU))
    return sorted(int(one[1]) for one in found if one)


def frequencies(machine: Machine, cores: Sequence[int]) -> dict[str, int]:
    """What each core's clock is now, in kHz, by the core's number."""
    now = {str(core): machine.number(f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq") for core in cores}
    return {core: khz for core, khz in now.items() if khz}


def temperatures(machine: Machine) -> dict[str, float]:
    """Degrees Celsius by the name of the zone; of zones with one name the hottest."""
    found: dict[str, float] = {}
    for zone in machine.names("/sys/class/thermal"):
        folder = f"/sys/class/thermal/{zone}"
        thousandths = machine.number(f"{folder}/temp") if zone.startswith("thermal_zone") else None
        if thousandths is not None:
            name = machine.read(f"{folder}/type") or zone
            found[name] = max(found.get(name, -273.15), thousandths / 1000)
    return found


def turbo(machine: Machine) -> bool | None:
    """Whether the clock may rise above its nominal one; None where that is not told."""
    off = machine.number(f"{CPU}/intel_pstate/no_turbo")
    boost = machine.number(f"{CPU}/cpufreq/boost")
    return not off if off is not None else bool(boost) if boost is not None else None


def quota(machine: Machine) -> float | None:
    """How many cores' worth of time the control group allows; None without a limit."""
    limit = (machine.read("/sys/fs/cgroup/cpu.max") or "max 1").split()
    if limit[0] == "max":
        limit = [
            machine.read(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") or "-1" for name in ("quota", "period")
        ]
    return int(limit[0]) / int(limit[1]) if int(limit[0]) > 0 else None


def _numpy() -> str:
    import numpy

    return numpy.__version__


def _field(text: str, name: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None
