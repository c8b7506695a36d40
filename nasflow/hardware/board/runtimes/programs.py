"""Runtimes as benchmark programs: the real command lines, and what the programs say.

A program warms itself up and is started anew for every block of calls, which counts as a load. Some tell every
call's time, others only a mean or a median; what they tell is kept, never spread over calls that were not told.
None of them has been run by this project on a board: `untried on hardware`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..machine import THIS, Machine
from ..measuring import Pace
from ..network import CannotRun, Network

WARM = 5  # calls of a start that are not told
WARM_MS = 200  # where warming up is counted in time

ONE_START = Pace(rounds=1, block_ns=100_000_000, fewest=10, most=200, windows=(0, 0), between=0)


class Job(NamedTuple):
    """One start: `model` called `calls` times; `result` and `engine` are files that the program may write."""

    program: list[str]
    model: str
    threads: int
    batch: int
    calls: int
    result: str
    engine: str
    built: bool


class Tool(NamedTuple):
    """A program: its usual name, the files it reads, its command line, and the milliseconds in what it says and in
    the result file. `any_batch` says whether it can be told the batch; `memory_kb` what it says of its memory."""

    program: str
    reads: tuple[str, ...]
    command: Callable[[Job], list[str]]
    times_ms: Callable[[str, str], list[float]]
    any_batch: bool = False
    memory_kb: Callable[[str], float | None] = lambda text: None


def _benchmark_model(job: Job) -> list[str]:
    """https://github.com/tensorflow/tensorflow/blob/v2.16.1/tensorflow/lite/tools/benchmark/README.md"""
    return [
        *job.program, f"--graph={job.model}", f"--num_threads={job.threads}", f"--num_runs={job.calls}",
        "--min_secs=0", f"--warmup_runs={WARM}", f"--warmup_min_secs={WARM_MS / 1000}",
    ]  # fmt: skip


def _benchmark_model_ms(text: str, result: str) -> list[float]:
    """`count=50 first=.. curr=.. min=.. max=.. avg=266473 std=419`, in microseconds; newer ones add a median.
    The first such line is of the warm-up."""
    lines = re.findall(r"^count=\d+ .*$", text, re.MULTILINE)
    if len(lines) < 2:
        return []
    found = re.search(r"\bmedian=([\d.e+]+)", lines[-1]) or re.search(r"\bavg=([\d.e+]+)", lines[-1])
    return [float(found[1]) / 1000] if found else []


def _benchmark_model_kb(text: str) -> float | None:
    """`Memory footprint delta from the start of the tool (MB): init=6.70312 overall=63.4023`"""
    found = re.search(r"Memory footprint delta from the start of the tool \(MB\):.*\boverall=([\d.]+)", text)
    return 1024 * float(found[1]) if found else None


def _perf_test(job: Job) -> list[str]:
    """https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/test/perftest/README.md: -I draws inputs, -f
    sets a free axis by its name, which is `batch` in the files that nasflow exports."""
    return [
        *job.program, "-e", "cpu", "-I", "-m", "times", "-r", str(job.calls + WARM), "-x", str(job.threads), "-y", "1",
        "-f", f"batch:{job.batch}", job.model, job.result,
    ]  # fmt: skip


def _perf_test_ms(text: str, result: str) -> list[float]:
    """Lines of `model,seconds,peak working set,share of the processor,number` (performance_runner.h)."""
    rows = [line.rsplit(",", 4) for line in result.splitlines() if line.count(",") >= 4]
    return [1000 * float(row[1]) for row in rows][WARM:]


def _executor_runner(job: Job) -> list[str]:
    """The flags of executorch/examples/portable/executor_runner/executor_runner.cpp"""
    return [
        *job.program, f"--model_path={job.model}", f"--num_executions={job.calls + WARM}",
        f"--cpu_threads={job.threads}",
    ]  # fmt: skip


def _executor_runner_ms(text: str, result: str) -> list[float]:
    """`Iteration 1 of 10: 5.123 ms`; older ones only say `Model executed successfully 10 time(s) in 51.2 ms.`"""
    each = re.findall(r"Iteration \d+ of \d+: ([\d.]+) ms", text)
    if each:
        return [float(ms) for ms in each][WARM:]
    found = re.search(r"Model executed successfully (\d+) time\(s\) in ([\d.]+) ms", text)
    return [float(found[2]) / int(found[1])] if found else []


def _trtexec(job: Job) -> list[str]:
    """https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/command-line-programs.html: the first start
    builds the engine, which the later ones read; a free axis is 1 without --shapes."""
    source = (
        [f"--loadEngine={job.engine}"] if job.built else [f"--onnx={job.model}", f"--saveEngine={job.engine}"]
    )
    return [
        *job.program, *source, f"--warmUp={WARM_MS}", "--duration=0", f"--iterations={job.calls}", "--useCudaGraph",
        "--noDataTransfers", "--useSpinWait", f"--exportTimes={job.result}",
    ]  # fmt: skip


def _trtexec_ms(text: str, result: str) -> list[float]:
    """A list of traces (samples/common/sampleReporting.cpp); those that began while it warmed up are not counted."""
    try:
        traces = json.loads(result)
        return [float(one["computeMs"]) for one in traces if float(one["startComputeMs"]) >= WARM_MS]
    except (ValueError, KeyError, TypeError):
        return []


def _ais_bench(job: Job) -> list[str]:
    """https://gitee.com/ascend/tools/tree/master/ais-bench_workload/tool/ais_bench"""
    return [*job.program, "--model", job.model, "--loop", str(job.calls), "--warmup_count", str(WARM)]


def _ais_bench_ms(text: str, result: str) -> list[float]:
    """`[INFO] NPU_compute_time (ms): min = 8.6, max = 9.0, mean = 8.7, median = 8.6, percentile(99%) = 8.9`"""
    found = re.search(r"NPU_compute_time \(ms\):.*?\bmedian = ([\d.]+)", text)
    return [float(found[1])] if found else []


def _msame(job: Job) -> list[str]:
    """https://gitee.com/ascend/tools/tree/master/msame"""
    return [
        *job.program,
        "--model",
        job.model,
        "--output",
        os.path.dirname(job.result),
        "--loop",
        str(job.calls + WARM),
    ]


def _msame_ms(text: str, result: str) -> list[float]:
    """`Inference time: 105.365ms`, once a call."""
    return [float(ms) for ms in re.findall(r"^\s*Inference time: ([\d.]+) ?ms", text, re.MULTILINE)][WARM:]


TOOLS: dict[str, tuple[Tool, ...]] = {
    "litert": (
        Tool("benchmark_model", (".tflite",), _benchmark_model, _benchmark_model_ms, memory_kb=_benchmark_model_kb),
    ),
    "onnxruntime": (Tool("onnxruntime_perf_test", (".onnx",), _perf_test, _perf_test_ms, True),),
    "executorch": (Tool("executor_runner", (".pte",), _executor_runner, _executor_runner_ms),),
    "tensorrt": (Tool("trtexec", (".onnx",), _trtexec, _trtexec_ms),),
    "ascend-acl": (
        Tool("python3 -m ais_bench", (".om",), _ais_bench, _ais_bench_ms),
        Tool("msame", (".om",), _msame, _msame_ms),
    ),
}  # fmt: skip
"""For each runtime its programs, the usual one first; another is taken if its name is in the one that is asked for."""


class CommandLine:
    """A runtime as a program. `program` is where it is, with what has to stand before its own arguments."""

    tried = False
    pace = ONE_START

    def __init__(
        self, name: str, program: str | None = None, machine: Machine = THIS, core: int | None = None
    ) -> None:
        tools = TOOLS[name]
        self.name = name
        self._tool = next((tool for tool in tools if program and tool.program in program), tools[0])
        self._program = shlex.split(program or self._tool.program)
        self._machine, self._core = machine, core
        self._folder = ""
        self._numbers: Iterator[int] = itertools.count()
        self._built: set[str] = set()

    @property
    def reads(self) -> tuple[str, ...]:
        return self._tool.reads

    def version(self) -> str:
        """The program's name and the first digits of its hash, since most do not tell a version."""
        text = " ".join(self._program)
        where = self._program[0] if self._machine.shell else shutil.which(self._program[0])
        if where is None:
            raise CannotRun(f"no program {self._program[0]}; say where it is: `program` in the profile")
        if len(self._program) > 1:  # python3 -m ...: the hash of python3 would say nothing
            return text
        if self._machine.shell:
            return f"{text} sha256:{self._machine.run(['sha256sum', where])[:12]}"
        with open(where, "rb") as file:
            return f"{os.path.basename(text)} sha256:{hashlib.sha256(file.read()).hexdigest()[:12]}"

    def smallest(self) -> bytes | None:
        return None

    def load(self, model: str | bytes, threads: int, batch: int, draw: Any) -> Network:
        if batch != 1 and not self._tool.any_batch:
            raise CannotRun(
                f"{self._tool.program} takes a file's batch as it is: expected batch 1, got {batch}"
            )
        if isinstance(model, bytes):
            if self._machine.shell:
                raise CannotRun(f"expected a file on the device for {self._tool.program}, got its content")
            content, model = (
                model,
                os.path.join(self._scratch(), f"content{next(self._numbers)}{self.reads[0]}"),
            )
            with open(model, "wb") as file:
                file.write(content)
        elif not self._machine.shell and not os.path.isfile(model):
            raise CannotRun(f"no file {model}")
        path, said = model, [""]

        def block(calls: int) -> list[int]:
            times, said[0] = self._start(path, threads, batch, calls)
            return [round(1e6 * ms) for ms in times]

        return Network(
            block, batch, f"timed by {self._tool.program}", memory_kb=lambda: self._tool.memory_kb(said[0])
        )

    def _start(self, model: str, threads: int, batch: int, calls: int) -> tuple[list[float], str]:
        """The milliseconds of the calls of one start, and what the program said."""
        folder = os.path.dirname(model) if self._machine.shell else self._scratch()
        result = os.path.join(folder, f"result{next(self._numbers)}")
        engine = os.path.join(folder, f"{os.path.basename(model)}.{len(model)}.engine")
        job = Job(self._program, model, threads, batch, calls, result, engine, model in self._built)
        # On this machine the process itself keeps to its core, and what it starts with it.
        pinned = ["taskset", f"{1 << self._core:x}"] if self._machine.shell and self._core is not None else []
        text = self._machine.run([*pinned, *self._tool.command(job)])
        self._built.add(model)
        times = self._tool.times_ms(text, self._machine.read(result))
        if not times or not all(ms > 0 for ms in times):
            last = (text.strip().splitlines() or ["nothing"])[-1]
            raise CannotRun(f"expected times from {self._tool.program}, it said: {last}")
        return times, text

    def _scratch(self) -> str:
        if not self._folder:
            self._folder = tempfile.mkdtemp(prefix="nasflow-")
            weakref.finalize(
                self, shutil.rmtree, self._folder, ignore_errors=True
            )  # at the end of it or of all
        return self._folder
