"""Where the time of one exported network goes: kernel by kernel, each with its work and the bytes that it moves.

On the machine that nasflow runs on ONNX Runtime tells what each kernel took; of other devices a predictor that adds up
kernels tells what it expects.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from nasflow.hardware.fusion import FusionRules, Kernel, kernels
from nasflow.hardware.graph import GraphError, Operator, operators
from nasflow.hardware.predictor import Predictor

ADDED = re.compile(r"(_nchwc|_token_\d+)+$")  # by the runtime to names of what it rewrote
RUNS = 50
WARM_UP = 10


@dataclass(frozen=True)
class Layer:
    """A kernel: what ran as one. `bytes` are read and written, weights included; with `macs` (multiply-adds) they are
    None where it is not known what the kernel is made of, or nothing is computed but bytes are reordered."""

    name: str
    kind: str
    ms: float
    macs: int | None = None
    bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def profiled(file: Path, threads: int = 1, batch: int = 1) -> list[Layer]:
    """The kernels of a file as ONNX Runtime runs them here, in their order, each with the mean of its fastest nine in
    ten runs, since its clock ticks in whole microseconds.

    What the runtime does between kernels is not in it, so they add up to less than the latency of the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        shape = [batch if not isinstance(size, int) else size for size in given.shape]
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        for _ in range(WARM_UP + RUNS):
            session.run(None, {given.name: x})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times.setdefault(name, []).append(event["dur"] / 1000)
            kinds[name] = event["args"]["op_name"]
    try:
        groups = _grouped(kinds, operators(file, batch))
    except GraphError:  # a network of the user's own whose sizes cannot be told still takes its time
        groups = {}
    return [_layer(name, kinds[name], _usual(times[name][WARM_UP:]), groups.get(name, ())) for name in times]


def foretold(file: Path, predictor: Predictor, batch: int = 1) -> list[Layer]:
    """The kernels of a file with the time that a predictor expects of each; none where it does not tell them apart."""
    parts = predictor.predict([file])[0].parts
    rules = getattr(predictor, "rules", None)
    groups = kernels(operators(file, batch), rules) if isinstance(rules, FusionRules) else []
    if len(groups) != len(parts):
        return [Layer(name, name, ms) for name, ms in parts]
    return [
        _layer(group.name, group.kind, ms, group.operators)
        for (_, ms), group in zip(parts, groups, strict=True)
    ]


def _usual(times: Sequence[float]) -> float:
    return statistics.fmean(sorted(times)[: math.ceil(0.9 * len(times))])


def _layer(name: str, kind: str, ms: float, group: Sequence[Operator]) -> Layer:
    if not group:
        return Layer(name, kind, ms)
    kernel = Kernel(tuple(group))
    return Layer(
        kernel.name, kernel.kind, ms, kernel.macs, kernel.bytes_in + kernel.bytes_out + kernel.bytes_weights
    )


def _grouped(kinds: Mapping[str, str], whole: Sequence[Operator]) -> dict[str, list[Operator]]:
    """Which operators each kernel of the runtime (by its name; the kind it says) stands for.

    It calls a kernel like one of its operators or like its result, or makes up a name where there is none. Operators
    that have no kernel run together with what reads them or with what they read.
    """
    by_name = {one.name: one.name for one in whole} | {
        output: one.name for one in whole for output in one.outputs
    }
    kernel_of = {by_name[base]: name for name in kinds if (base := ADDED.sub("", name)) in by_name}
    for name, kind in kinds.items():
        alike = (one.name for one in whole if one.kind == kind and one.name not in kernel_of)
        if ADDED.sub("", name) not in by_name and (first := next(alike, None)) is not None:
            kernel_of[first] = name
    readers = {name: one for one in whole for name in one.inputs}
    makers = {name: one for one in whole for name in one.outputs}
    for one in whole:  # a convolution that runs with the activation which reads it
        reader = readers.get(one.outputs[0])
        if one.name not in kernel_of and one.macs and reader is not None and reader.name in kernel_of:
            kernel_of[one.name] = kernel_of[reader.name]
    for one in whole:
        made = [makers[name] for name in one.inputs if name in makers and makers[name].name in kernel_of]
        if one.name not in kernel_of and made and not one.macs:
            kernel_of[one.name] = kernel_of[max(made, key=whole.index).name]
    groups: dict[str, list[Operator]] = {}
    for one in whole:
        if one.name in kernel_of:
            groups.setdefault(kernel_of[one.name], []).append(one)
    return groups
