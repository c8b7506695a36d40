"""Times ONNX files where it runs: one file that needs Python 3.9, NumPy and ONNX Runtime, so that a board can get it.

`python runner.py < spec.json > answer.json`, or `python runner.py spec.json`. The spec:

    models       paths of the files to time; none: only tell the environment
    reference    a small ONNX file in base64, timed along with the others: what moves it is the machine
    batch        samples per call, for files whose first axis is free
    threads      threads of one call; core: the core to run on, null to take the least busy fast one
    loads        [least, most] times that every file is loaded; budget_s, precision: when to stop in between
    seed         of the inputs and of the order

How it times. Where in memory a load happens to put a network moves its time by more than many repetitions
can tell, so every file is loaded again and again, all files in a random order, and each load is timed in a few
rounds of short blocks of calls, forwards and backwards through the files, so that drift of the machine meets
all alike. Before that the load is warmed up until its time stands still. Nothing is thrown away. Loading goes
on until the medians of the loads agree within `precision`, or the budget is spent.

The answer has `samples_ns[load][round][call]` for every file, the environment, and `error` where it failed.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gc
import json
import math
import os
import platform
import random
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

ROUNDS = 4  # per load: forwards, backwards, forwards, backwards
BLOCK_NS = 500_000  # of calls in a row, few enough to meet the same machine as the block before
CALLS = (3, 20)  # least and most calls of a block
STILL = 0.02  # a warm-up ends when two windows in a row differ by less
SETTLED_LOADS = 8  # fewer cannot show how much loads differ
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "fma", "f16c",
         "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve")  # fmt: skip

Run = Callable[[], object]
Load = Callable[[], Run]
Samples = list[list[list[int]]]
"""Nanoseconds of every call, as [load][round][call]."""


class CannotRun(Exception):
    """A file that this runtime cannot run, and why."""


class Orphaned(Exception):
    """Whoever asked is gone, so nobody waits for the answer."""


class Plan(NamedTuple):
    """When to stop: after `most` loads, or after `least` once `precision` or the budget is reached."""

    least: int
    most: int
    precision: float
    budget_ns: int


class Warmup(NamedTuple):
    """How a load was warmed up: in how many calls, whether its time came to stand still, and at what."""

    calls: int
    still: bool
    ns: float


def measure(
    loads: Sequence[Load],
    plan: Plan,
    order: random.Random,
    clock: Callable[[], int] = time.perf_counter_ns,
    alive: Callable[[], bool] = lambda: True,
) -> tuple[list[Samples], list[list[Warmup]]]:
    """Time what each of `loads` gives; both results are per file, then per load. Raises Orphaned."""
    samples: list[Samples] = [[] for _ in loads]
    warmups: list[list[Warmup]] = [[] for _ in loads]
    end = clock() + plan.budget_ns
    for turn in range(plan.most):
        if turn >= plan.least and (clock() >= end or all(_settled(one, plan.precision) for one in samples)):
            break
        line = order.sample(range(len(loads)), len(loads))
        runs: dict[int, Run] = {i: loads[i]() for i in line}
        for i in line:
            warmups[i].append(warm_up(runs[i], clock, window=5 if turn == 0 else 2))
            samples[i].append([])
        for number in range(ROUNDS):
            for i in line if number % 2 == 0 else reversed(line):
                if not alive():
                    raise Orphaned
                # As many calls in every load, so that each load weighs the same.
                calls = min(CALLS[1], max(CALLS[0], round(BLOCK_NS / max(1.0, warmups[i][0].ns))))
                samples[i][-1].append(_block(runs[i], calls, clock))
    return samples, warmups


def warm_up(run: Run, clock: Callable[[], int], window: int, most_ns: int = 2_000_000_000) -> Warmup:
    """Call until the medians of two windows in a row differ by less than 2 %, at most ten times that long."""
    times: list[int] = []
    start = clock()
    while len(times) < 20 * window and not (len(times) >= 3 and clock() - start > most_ns):
        times += _block(run, 1, clock)
        if len(times) >= 2 * window:
            now, before = statistics.median(times[-window:]), statistics.median(times[-2 * window : -window])
            if abs(now - before) <= STILL * before:
                return Warmup(len(times), True, now)
    return Warmup(len(times), False, statistics.median(times[-window:]))


def _block(run: Run, calls: int, clock: Callable[[], int]) -> list[int]:
    times = []
    for _ in range(calls):
        start = clock()
        run()
        times.append(clock() - start)
    return times


def _settled(samples: Samples, precision: float) -> bool:
    """Whether the 95 % interval of the mean over loads is within `precision` to either side."""
    if len(samples) < SETTLED_LOADS:
        return False
    medians = [statistics.median(ns for block in load for ns in block) for load in samples]
    error = statistics.stdev(medians) / math.sqrt(len(medians))
    return 2.4 * error <= precision * statistics.mean(medians)  # 2.4: Student's t for eight loads


def open_session(model: str | bytes, threads: int = 1, *, flush_denormals: bool = False) -> Any:
    """An ONNX Runtime session on the processor. Raises CannotRun, naming the operator that the runtime lacks.

    `flush_denormals` makes tiny numbers zero, as fast as all others, but for good and in all of this process.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its complaints come back as exceptions
    options.add_session_config_entry("session.set_denormal_as_zero", str(int(flush_denormals)))
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions share no other base
        raise CannotRun(explain(str(error), f"ONNX Runtime {onnxruntime.__version__}")) from error


def explain(error: str, runtime: str) -> str:
    """What ONNX Runtime means when it refuses a file.

    >>> explain("Error No Op registered for Frob with domain_version of 17", "ONNX Runtime 1.31.1")
    'ONNX Runtime 1.31.1 has no operator Frob; replace it in the network, or use a runtime that has it'
    """
    for pattern in (
        r"No Op registered for (\S+) with domain_version",
        r"(?:Fatal error: )?(\S+?)\(-?\d+\) is not a registered function/op",
        r"Could not find an implementation for (\S+?)\(",
    ):
        found = re.search(pattern, error)
        if found:
            return f"{runtime} has no operator {found[1]}; replace it in the network, or use a runtime that has it"
    found = re.search(r"Type '(\S+)' of input parameter .*? of operator \((\S+)\)", error)
    if found:
        return f"{runtime} has no operator {found[2]} for {found[1]}; replace it in the network"
    found = re.search(r"Opset (\d+) is under development.*?till opset (\d+)", error, re.DOTALL)
    if found:
        return f"{runtime} knows operators up to opset {found[2]}, the file needs {found[1]}; use a newer runtime"
    return f"{runtime}: {error.partition(' : ')[2].strip() or error}"


def load(model: str | bytes, threads: int, batch: int, draw: Any) -> Run:
    """A fresh session with random inputs already bound, as a call. `draw` is a NumPy generator."""
    session = open_session(model, threads, flush_denormals=True)
    binding = session.io_binding()
    for one in session.get_inputs():
        binding.bind_cpu_input(one.name, random_input(one.name, one.shape, one.type, batch, draw))
    for one in session.get_outputs():
        binding.bind_output(one.name)
    return functools.partial(session.run_with_iobinding, binding)


def random_input(name: str, shape: Sequence[object], kind: str, batch: int, draw: Any) -> Any:
    """A normal (or 0/1) array for an input; a free first axis gets `batch` samples. Raises CannotRun."""
    sizes = [batch if axis == 0 and not isinstance(size, int) else size for axis, size in enumerate(shape)]
    if not all(isinstance(size, int) for size in sizes):
        raise CannotRun(f"input {name!r}: expected fixed sizes but for the first axis, got {list(shape)}")
    types = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}
    kind = kind[len("tensor(") : -1]
    if kind in types:
        return draw.standard_normal(sizes).astype(types[kind])
    if kind.lstrip("u") in ("int8", "int16", "int32", "int64"):
        return draw.integers(0, 2, sizes).astype(kind)  # small enough to be an index into any table
    raise CannotRun(f"input {name!r}: expected numbers, got {kind}")


def busy_ticks() -> dict[int, int]:
    """What each core has worked since it was started, in the kernel's ticks; empty where that is not told."""
    cores = {}
    for line in _read("/proc/stat").splitlines():
        found = re.match(r"cpu(\d+) (.*)", line)
        if found:
            ticks = [int(text) for text in found[2].split()]
            cores[int(found[1])] = sum(ticks) - sum(ticks[3:5])  # idle and waiting for a disk
    return cores


def fast_cores() -> list[int]:
    """The cores this process may use that are as fast as the fastest of them (boards mix fast and slow)."""
    cores = sorted(os.sched_getaffinity(0))
    speeds = {core: _speed(core) for core in cores}
    return [core for core in cores if speeds[core] == max(speeds.values())]


def _speed(core: int) -> int:
    folder = f"/sys/devices/system/cpu/cpu{core}"
    return int(_read(f"{folder}/cpu_capacity") or _read(f"{folder}/cpufreq/cpuinfo_max_freq") or 0)


def least_busy(
    before: dict[int, int], after: dict[int, int], own: dict[int, float], cores: list[int]
) -> list[int]:
    """`cores`, the idlest in between first; of equals the last, since the first serves the interrupts.

    `own` are the ticks that this process itself spent on a core.
    """

    def load_of(core: int) -> float:
        return round(max(0.0, after.get(core, 0) - before.get(core, 0) - own.get(core, 0.0)), 1)

    return sorted(cores, key=lambda core: (load_of(core), -core))


def environment(threads: int) -> dict[str, Any]:
    """What a time depends on besides the file; what cannot be told is left out."""
    import numpy as np
    import onnxruntime

    cpuinfo = _read("/proc/cpuinfo")
    flags = set((_field(cpuinfo, "flags") or _field(cpuinfo, "Features") or "").split())
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    folder = f"/sys/devices/system/cpu/cpu{cores[0] if cores else 0}/cpufreq"
    limit = _quota()
    temperatures = [_read(f"/sys/class/thermal/{zone}/temp") for zone in _list("/sys/class/thermal")]
    degrees = [int(text) / 1000 for text in temperatures if text.lstrip("-").isdigit()]
    told: dict[str, Any] = {
        "cpu": _field(cpuinfo, "model name")
        or _read("/proc/device-tree/model").strip("\0")
        or platform.processor(),
        "flags": [flag for flag in FLAGS if flag in flags] or None,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "affinity": cores or None,
        "threads": threads,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "governor": _read(f"{folder}/scaling_governor") or None,
        "frequency_khz": int(_read(f"{folder}/scaling_cur_freq") or 0) or None,
        "quota_cores": limit,
        "load_average": list(os.getloadavg()),
        "temperature_c": max(degrees) if degrees else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return {key: value for key, value in told.items() if value is not None and value != ""}


def _quota() -> float | None:
    """How many cores' worth of time the control group allows; None without a limit."""
    limit = (_read("/sys/fs/cgroup/cpu.max") or "max 1").split()
    if limit[0] == "max":
        limit = [_read(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") or "-1" for name in ("quota", "period")]
    return int(limit[0]) / int(limit[1]) if int(limit[0]) > 0 else None


def _interruptions() -> dict[str, int]:
    """How often others took the core from this process, and the ticks that other machines took from this one."""
    taken = {"preemptions": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw}
    whole = _read("/proc/stat").split("\n", 1)[0].split()
    if len(whole) > 8:
        taken["stolen_ticks"] = int(whole[8])
    return taken


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _list(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _field(text: str, name: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None


def settle(threads: int, core: int | None) -> None:
    """Keep to as many cores as there are threads, before others if the system allows it.

    Imports NumPy and ONNX Runtime meanwhile, since how busy the cores are takes a while to see.
    """
    for name in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    with contextlib.suppress(OSError):  # only administrators may; the environment tells
        os.setpriority(os.PRIO_PROCESS, 0, -20)  # a neighbour then costs its share of caches, not of time
        os.setsid()  # Linux weighs sessions first, then the processes in them
        with open("/proc/self/autogroup", "w") as file:
            file.write("-20")
    pinning = hasattr(os, "sched_setaffinity")
    allowed = os.sched_getaffinity(0) if pinning else set()
    if core is not None and core not in allowed:
        sys.exit(f"cannot run on core {core}, only on {sorted(allowed) or 'those the system picks'}")
    cores = fast_cores() if pinning else []
    before, own = busy_ticks(), time.process_time()
    if pinning:
        os.sched_setaffinity(0, cores[-1:])
    import numpy  # noqa: F401
    import onnxruntime  # noqa: F401

    if pinning:
        spent = (time.process_time() - own) * os.sysconf("SC_CLK_TCK")
        idlest = least_busy(before, busy_ticks(), {cores[-1]: spent}, cores)
        os.sched_setaffinity(0, idlest[:threads] if core is None else [core])


def answer(spec: dict[str, Any]) -> dict[str, Any]:
    """Time the files of a spec."""
    parent = os.getppid()
    threads, batch = int(spec["threads"]), int(spec["batch"])
    settle(threads, spec["core"])
    import numpy as np

    told: dict[str, Any] = {"environment": environment(threads)}
    models = [base64.b64decode(spec["reference"]), *spec["models"]]
    draw = np.random.default_rng(spec["seed"])
    for model in models:  # before any time is spent on the others
        try:
            load(model, threads, batch, draw)()
        except Exception as error:  # a file can be wrong in ways that only show when it is run
            return {**told, "error": str(error), "model": model if isinstance(model, str) else "reference"}
    if not spec["models"]:
        return told
    least, most = spec["loads"]
    plan = Plan(least, most, spec["precision"], int(1e9 * spec["budget_s"] * len(spec["models"])))
    gc.collect()
    gc.disable()
    before, worked, began = _interruptions(), time.process_time(), time.perf_counter()
    samples, warmups = measure(
        [functools.partial(load, model, threads, batch, draw) for model in models],
        plan,
        random.Random(spec["seed"]),
        alive=lambda: os.getppid() == parent,
    )
    seconds = time.perf_counter() - began
    told["environment"].update({key: count - before[key] for key, count in _interruptions().items()})
    told["environment"]["seconds"] = round(seconds, 3)
    # Much below 1: others had the core for the rest of the time, and long calls look longer than they are.
    told["environment"]["core_share"] = round((time.process_time() - worked) / seconds / threads, 3)
    results = [
        {"samples_ns": samples[i], "warmups": [[one.calls, one.still] for one in warmups[i]]}
        for i in range(len(models))
    ]
    return {**told, "reference": results[0], "models": results[1:]}


def main() -> None:
    """Read a spec, write the answer: alone on stdout, whatever libraries print."""
    out = os.dup(1)
    os.dup2(2, 1)
    with open(sys.argv[1], "rb") if len(sys.argv) > 1 else sys.stdin.buffer as file:
        spec = json.load(file)
    with os.fdopen(out, "w") as file:
        json.dump(answer(spec), file)


if __name__ == "__main__":
    main()
