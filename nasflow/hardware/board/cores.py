"""Which cores the process keeps to: as many as there are threads, the least busy of the fastest."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable

from .machine import THIS, Machine


def settle(threads: int, core: int | None, meanwhile: Callable[[], object]) -> None:
    """Keep to as many cores as there are threads, before others if the system allows it.

    Imports the runtime `meanwhile`, since how busy the cores are takes a while to see.
    """
    for name in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    with contextlib.suppress(OSError):  # only administrators may; the environment tells
        os.setpriority(os.PRIO_PROCESS, 0, -20)  # a neighbour then costs its share of caches, not of time
        with contextlib.suppress(PermissionError):  # it leads a session already
            os.setsid()  # Linux weighs sessions first, then the processes in them
        with open("/proc/self/autogroup", "w") as file:
            file.write("-20")
    pinning = hasattr(os, "sched_setaffinity")
    allowed = os.sched_getaffinity(0) if pinning else set()
    if core is not None and core not in allowed:
        sys.exit(f"cannot run on core {core}, only on {sorted(allowed) or 'those the system picks'}")
    cores = fast_cores(THIS, sorted(allowed)) if pinning else []
    before, own = busy_ticks(THIS), time.process_time()
    if pinning:
        os.sched_setaffinity(0, cores[-1:])
    meanwhile()
    if pinning:
        spent = (time.process_time() - own) * os.sysconf("SC_CLK_TCK")
        idlest = least_busy(before, busy_ticks(THIS), {cores[-1]: spent}, cores)
        os.sched_setaffinity(0, idlest[:threads] if core is None else [core])


def busy_ticks(machine: Machine) -> dict[int, int]:
    """What each core has worked since it was started, in the kernel's ticks; empty where that is not told."""
    cores = {}
    for line in machine.read("/proc/stat").splitlines():
        found = re.match(r"cpu(\d+) (.*)", line)
        if found:
            ticks = [int(text) for text in found[2].split()]
            cores[int(found[1])] = sum(ticks) - sum(ticks[3:5])  # idle and waiting for a disk
    return cores


def fast_cores(machine: Machine, cores: list[int]) -> list[int]:
    """Those of `cores` that are as fast as the fastest of them (boards mix fast and slow)."""
    folder = "/sys/devices/system/cpu"
    speeds = {
        core: machine.number(f"{folder}/cpu{core}/cpu_capacity")
        or machine.number(f"{folder}/cpu{core}/cpufreq/cpuinfo_max_freq")
        or 0
        for core in cores
    }
    return [core for core in cores if speeds[core] == max(speeds.values())]


def least_busy(
    before: dict[int, int], after: dict[int, int], own: dict[int, float], cores: list[int]
) -> list[int]:
    """`cores`, the idlest in between first; of equals the last, since the first serves the interrupts.

    `own` are the ticks that this process itself spent on a core.
    """

    def load_of(core: int) -> float:
        return round(max(0.0, after.get(core, 0) - before.get(core, 0) - own.get(core, 0.0)), 1)

    return sorted(cores, key=lambda core: (load_of(core), -core))
