"""Answers a spec, which is JSON:

    models       paths of the files to time; none: only tell the environment
    reference    a small ONNX file in base64, timed along with the others: what moves it is the machine; null for none,
                 and not used with a runtime that does not read ONNX
    batch        samples per call, for files whose first axis is free
    threads      threads of one call; core: the core to run on, null to take the least busy fast one
    loads        [least, most] times that every file is loaded; budget_s, precision: when to stop in between
    seed         of the inputs and of the order

and may have

    runtime      one of RUNTIMES, onnxruntime if not given; program: the benchmark program to use instead; device: cpu
                 or cuda; shell: what to put before every command, for a phone without Python: ["adb", "shell"]
    progress     true: after each load a line on stderr, {"progress": {"load": 3, "model": 0, "samples_ns": [[..]]}},
                 model -1 being the reference
    energy       true: measure energy too, which takes a second more and then a second a model
    throughput_batch  samples of one call for throughput, which is measured if this is given

The answer has the `environment`, and, unless there is only an `error` with the `model` that cannot be run, for the
`reference` (null without one) and each of `models`:

    samples_ns   [load][round][call]; warmups: [calls, whether time came to stand still] of each load
    around_ns    [load][round][2] of a model: what a call of the reference took just before and after that round; not
                 with runtimes that start a program for each, and then the reference has as many rounds as a model
    how          what is worth knowing about the timing, such as "CUDA events, graph replay"
    peak_memory_kb    peak resident set of running it above the idle runtime, null where it is not known
    energy_mj    millijoules above idle of one call, null where unavailable; energy_source says of what, or why not;
                 energy: idle_w, active_w, hz, seconds, calls
    throughput_per_s  samples a second with calls of `throughput_batch`, if asked for; null with throughput_why
"""

from __future__ import annotations

import base64
import functools
import gc
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import power
from .cores import settle
from .environment import Clocks, afterwards, environment, interruptions
from .machine import Machine
from .measuring import Load, Plan, measure
from .memory import trial
from .network import Network
from .runtimes import Runtime, open_runtime
from .runtimes.programs import CommandLine

THROUGHPUT_NS = 300_000_000
REFERENCE = "reference"

Spec = dict[str, Any]


def answer(spec: Spec) -> dict[str, Any]:
    """Time the files of a spec."""
    parent = os.getppid()
    threads, core, device = int(spec["threads"]), spec["core"], spec.get("device") or "cpu"
    machine = Machine(shell=tuple(spec.get("shell") or ()))
    runtime = open_runtime(
        spec.get("runtime") or "onnxruntime",
        spec.get("program"),
        device,
        machine,
        core if machine.shell else None,
    )
    if (
        not machine.shell
    ):  # or the cores are another machine's, and whoever runs programs there keeps them to one
        settle(threads, core, meanwhile=lambda: (_draw(spec), runtime.version()))
    draw = _draw(spec)
    told: dict[str, Any] = {"environment": environment(machine, threads, runtime.version())}
    if not runtime.tried:
        told["environment"]["untried"] = f"{runtime.name} is untried on hardware"

    reference = _reference(spec, runtime, machine)
    models = [*reference, *spec["models"]]

    def load(model: str | bytes, batch: int = int(spec["batch"])) -> Network:
        return runtime.load(model, threads, batch, draw)

    smallest = runtime.smallest() if spec["models"] and not reference else None

    def idle() -> None:
        for one in [smallest] if smallest is not None else reference:
            load(one, 1).block(1)

    apart = device == "cpu" and not isinstance(runtime, CommandLine)
    results: list[dict[str, Any]] = []
    for model in models:  # before any time is spent on the others
        tried = trial(functools.partial(load, model), idle, apart)
        if tried.error is not None:
            return {**told, "error": tried.error, "model": model if isinstance(model, str) else REFERENCE}
        results.append(
            {
                "peak_memory_kb": tried.peak_kb,
                "energy_mj": None,
                "energy_source": "unavailable: not asked for",
            }
        )
    if not spec["models"]:
        return told
    gc.collect()
    gc.disable()
    clocks = Clocks(machine)
    before, worked, began = interruptions(machine), time.process_time(), time.perf_counter()
    _time(
        spec,
        runtime,
        [functools.partial(load, model) for model in models],
        results,
        len(reference),
        clocks,
        parent,
    )
    seconds = time.perf_counter() - began
    facts = told["environment"]
    facts.update({key: count - before.get(key, 0) for key, count in interruptions(machine).items()})
    facts["seconds"] = round(seconds, 3)
    if apart:
        # Much below 1: others had the core for the rest of the time, and long calls look longer than they are.
        facts["core_share"] = round((time.process_time() - worked) / seconds / threads, 3)
    own = results[len(reference) :]
    if spec.get("throughput_batch"):
        for model, result in zip(spec["models"], own):  # noqa: B905 (strict= is younger than Python 3.9)
            result.update(throughput(functools.partial(load, model, int(spec["throughput_batch"]))))
    if spec.get("energy"):
        loads = [functools.partial(load, model) for model in spec["models"]]
        found = _energies(lambda: power.find(machine, device), apart or device != "cpu", loads, own)
        for result, energy in zip(own, found):  # noqa: B905
            result.update(energy)
    facts.update(afterwards(machine), **clocks.told())
    return {**told, "reference": results[0] if reference else None, "models": own}


def throughput(load: Load, clock: Callable[[], int] = time.perf_counter_ns) -> dict[str, Any]:
    """Samples a second of calls back to back, for at least 0.3 s; why there are none if it cannot be told."""
    try:
        network = load()
        network.block(2)
    except Exception as error:  # a batch can be wrong for a file in ways that only show when it is run
        return {"throughput_per_s": None, "throughput_why": str(error)}
    calls, spent, start = 0, 0, clock()
    while clock() - start < THROUGHPUT_NS:
        times = network.block(5)
        calls, spent = calls + len(times), spent + sum(times)
    return {"throughput_per_s": 1e9 * calls * network.batch / spent, "throughput_batch": network.batch}


def _time(
    spec: Spec,
    runtime: Runtime,
    loads: Sequence[Load],
    results: Sequence[dict[str, Any]],
    references: int,
    clocks: Clocks,
    parent: int,
) -> None:
    """Add samples, warm-ups and how they were taken to `results`. The references, one or none, come first."""

    def remembered(load: Load, result: dict[str, Any]) -> Network:
        network = load()
        result["how"] = network.how
        return network

    def watch(turn: int, file: int, rounds: list[list[int]]) -> None:
        if file == 0:
            clocks.look()
        if spec.get("progress"):
            progress = {"load": turn, "model": file if file < files else -1, "samples_ns": rounds}
            print(json.dumps({"progress": progress}), file=sys.stderr, flush=True)

    least, most = spec["loads"]
    files = len(spec["models"])
    plan = Plan(least, most, spec["precision"], int(1e9 * spec["budget_s"] * files))
    own = [functools.partial(remembered, load, result) for load, result in zip(loads, results)]  # noqa: B905
    taken = measure(
        own[references:],
        plan,
        random.Random(spec["seed"]),
        alive=lambda: os.getppid() == parent,
        pace=runtime.pace,
        watch=watch,
        reference=own[0] if references else None,
    )
    in_order = [*results[references:], *results[:references]]
    for result, samples, warmed in zip(in_order, taken.samples, taken.warmups):  # noqa: B905
        result["samples_ns"] = samples
        result["warmups"] = [[one.calls, one.still] for one in warmed]
    for result, around in zip(in_order, taken.around):  # noqa: B905
        if any(around):
            result["around_ns"] = around


def _energies(
    find: Callable[[], power.Meter], steady: bool, loads: Sequence[Load], results: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """For each model what its result gets to know of energy. `steady` is whether calls can follow one another."""

    def unavailable(reason: object) -> dict[str, Any]:
        return {"energy_mj": None, "energy_source": f"unavailable: {reason}"}

    if not steady:
        return [unavailable("a program is started for every block, and its start would count") for _ in loads]
    try:
        meter = find()
    except power.Unavailable as reason:
        return [unavailable(reason) for _ in loads]
    found = []
    try:
        rest = power.idle(meter)
        for load, result in zip(loads, results):  # noqa: B905
            ns = statistics.median(ns for taken in result["samples_ns"] for block in taken for ns in block)
            try:
                one = power.energy(load().block, ns, meter, rest)
            except power.Unavailable as reason:
                found.append(unavailable(reason))
                continue
            details = {key: value for key, value in one._asdict().items() if key not in ("mj", "source")}
            found.append({"energy_mj": one.mj, "energy_source": one.source, "energy": details})
    except power.Unavailable as reason:  # of idling
        return [unavailable(reason) for _ in loads]
    finally:
        meter.close()
    return found


def _reference(spec: Spec, runtime: Runtime, machine: Machine) -> list[bytes]:
    """The reference's content, if there is one and this runtime can be given it."""
    if not spec.get("reference") or ".onnx" not in runtime.reads or machine.shell:
        return []
    return [base64.b64decode(spec["reference"])]


def _draw(spec: Spec) -> Any:
    import numpy as np

    return np.random.default_rng(spec["seed"])
