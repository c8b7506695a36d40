"""Networks partly in 8-bit integers and partly in floats: whichever the device computes faster, found by measuring.

Between integers and floats tensors are converted, which costs time, so what is tried are segments: stretches of the
network that one tensor enters and one leaves. The search begins with the faster of the two uniform files, flips
segments and keeps a flip only if the file is measurably faster with it. So the result is never slower than the best
uniform file, but for noise.

A segment may also go back to floats because integers cost it too many right answers.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from nasflow.compression.quantize import QuantizeError, in_integers, prepared
from nasflow.hardware import Device

SEGMENTS = 8  # at most, so that all single flips are measured within some seconds
ROUNDS = 3  # of flips; each begins with what the one before found
WORTH = 0.01  # of the time, that a flip has to promise to be tried
LAYERS = ("Conv", "Gemm", "MatMul")

Precision = Literal["fp32", "int8"]
Quantise = Callable[[Collection[str], Path], object]
"""Writes the file with these nodes in floats and the others in integers to a path."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a network that one tensor enters and one leaves: its nodes in their order, and which of them are
    convolutions and matrix products."""

    nodes: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Mixed:
    """What was found: the fastest file, its nodes in floats, and what every segment was measured to be worth.

    `integers` is the file with all in integers. `flips_ms` holds the p50 of the file with this segment alone in the
    other precision, as measured beside `ms`, the p50 of the best uniform file (`uniform`). `ratio` is the time of the
    result over that file's, 1 where it is that file. `ran` names the layers that ONNX Runtime computes in integers.
    """

    file: Path
    integers: Path
    keep: tuple[str, ...]
    segments: tuple[Segment, ...]
    uniform: Precision
    ms: float
    flips_ms: tuple[float, ...]
    ratio: float = 1.0
    ran: tuple[str, ...] = ()

    def to_json(self, folder: Path) -> dict[str, Any]:
        """With files as seen from `folder`, which may then be moved."""
        files = {"file": self.file, "integers": self.integers}
        return {**asdict(self), **{name: os.path.relpath(path, folder) for name, path in files.items()}}

    @classmethod
    def from_json(cls, told: Mapping[str, Any], folder: Path) -> Mixed:
        return cls(
            file=Path(os.path.normpath(folder / told["file"])),
            integers=Path(os.path.normpath(folder / told["integers"])),
            keep=tuple(told["keep"]),
            segments=tuple(Segment(tuple(one["nodes"]), tuple(one["layers"])) for one in told["segments"]),
            uniform=told["uniform"],
            ms=float(told["ms"]),
            flips_ms=tuple(map(float, told["flips_ms"])),
            ratio=float(told["ratio"]),
            ran=tuple(told["ran"]),
        )

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Of each segment."""
        return tuple("fp32" if set(one.nodes) <= set(self.keep) else "int8" for one in self.segments)

    @property
    def policy(self) -> dict[str, str]:
        """`precision.<layer>`: int8 or fp32, for every convolution and matrix product, as it runs."""
        named = [name for one in self.segments for name in one.layers]
        return {f"precision.{layer_of(name)}": "int8" if name in self.ran else "fp32" for name in named}

    @property
    def words(self) -> str:
        """What runs in integers, and where floats are kept."""
        floats = [name.removeprefix("precision.") for name, how in self.policy.items() if how == "fp32"]
        if not floats:
            return f"int8 in all {len(self.policy)} layers"
        if len(floats) == len(self.policy):
            return "fp32 in all layers: int8 does not pay in any"
        listed = ", ".join(floats[:4]) + (f" and {len(floats) - 4} more" if len(floats) > 4 else "")
        counted = f"int8 in {len(self.policy) - len(floats)} of {len(self.policy)} layers"
        return f"{counted}, fp32 kept where int8 does not pay: {listed}"


def layer_of(node: str) -> str:
    """The path of the module that a node of an exported file computes, read off its name; else the name itself.

    >>> layer_of("/features/features.0/conv/Conv"), layer_of("/3/conv1/Conv"), layer_of("node_linear")
    ('features.0.conv', '3.conv1', 'node_linear')
    """
    if not node.startswith("/"):
        return node
    path: list[str] = []
    for scope in node.strip("/").split("/")[:-1]:
        if path and scope.startswith(f"{path[-1]}."):  # a child of a sequence is called after it
            path[-1] = scope
        else:
            path.append(scope)
    return ".".join(path) or node


def segments(file: Path, most: int = SEGMENTS) -> tuple[Segment, ...]:
    """The network of `file` cut into at most `most` segments of about as many layers, in the order of execution.

    Raises QuantizeError where there is no layer at all.
    """
    pieces = _pieces(prepared(file).graph)
    total = sum(len(piece.layers) for piece in pieces)
    if not total:
        raise QuantizeError(f"{file}: expected convolutions or matrix products, got none")
    merged: dict[int, Segment] = {}
    before = 0  # layers in the pieces so far
    for piece in pieces:
        at = before * most // total
        known = merged.get(at, Segment((), ()))
        merged[at] = Segment(known.nodes + piece.nodes, known.layers + piece.layers)
        before += len(piece.layers)
    return tuple(merged.values())


def fastest(
    file: Path,
    quantise: Quantise,
    device: Device,
    folder: Path,
    *,
    error: Callable[[Path], float] | None = None,
    allowed: float = float("inf"),
    most: int = SEGMENTS,
) -> Mixed:
    """Choose each segment's precision for a device, by measuring exported files; they are written to `folder`.

    `error` tells the share of wrong answers of a file: beyond `allowed`, segments return to floats, first the ones
    that win back most, until it is kept or nothing is left in integers.
    """
    return _Search(file, quantise, device, folder, segments(file, most)).found(error, allowed)


@dataclass
class _Search:
    file: Path
    quantise: Quantise
    device: Device
    folder: Path
    segments: tuple[Segment, ...]
    written: dict[frozenset[int], Path] = field(default_factory=dict)

    def found(self, error: Callable[[Path], float] | None, allowed: float) -> Mixed:
        everywhere = frozenset(range(len(self.segments)))
        whole = self.device.compare(self.file, self.write(frozenset()))
        start = frozenset() if whole.verdict == "faster" else everywhere
        uniform: Precision = "int8" if whole.verdict == "faster" else "fp32"
        floats = start
        base = Mixed(self.file, self.write(frozenset()), (), self.segments, uniform, 0.0, ())
        for _ in range(ROUNDS):
            here, times = self.flips(floats)
            if not base.flips_ms:
                base = replace(base, ms=here, flips_ms=times)
            promising = [
                i for i in sorted(everywhere, key=lambda i: times[i]) if times[i] < here * (1 - WORTH)
            ]
            better = self.accepted(floats, promising)
            if better == floats:
                break
            floats = better
        if error is not None and error(self.write(floats)) > allowed:
            floats = self.accurate(floats, error, allowed, base)
        ratio = 1.0 if floats == start else self.device.compare(self.write(start), self.write(floats)).ratio
        keep = tuple(node for i in sorted(floats) for node in self.segments[i].nodes)
        ran = tuple(sorted(in_integers(self.write(floats))))
        return replace(base, file=self.write(floats), keep=keep, ratio=ratio, ran=ran)

    def flips(self, floats: frozenset[int]) -> tuple[float, tuple[float, ...]]:
        """The time of a file, and that with each segment alone flipped, all measured in turns."""
        files: dict[int, Path] = {}
        for i in range(len(self.segments)):
            with contextlib.suppress(QuantizeError):  # a segment that has no form in integers has only one
                files[i] = self.write(floats ^ {i})
        here, *measured = (one.p50_ms for one in self.device.latencies([self.write(floats), *files.values()]))
        times = dict(zip(files, measured, strict=True))
        return here, tuple(times.get(i, math.inf) for i in range(len(self.segments)))

    def accepted(self, floats: frozenset[int], promising: Sequence[int]) -> frozenset[int]:
        """All promising flips at once if that is faster; else one after the other, those that are."""
        if len(promising) > 1 and self.faster(floats, together := floats ^ frozenset(promising)):
            return together
        for i in promising:
            if self.faster(floats, flipped := floats ^ {i}):
                floats = flipped
        return floats

    def faster(self, before: frozenset[int], after: frozenset[int]) -> bool:
        """Whether the device computes the second file faster, beyond noise."""
        return self.device.compare(self.write(before), self.write(after)).verdict == "faster"

    def accurate(
        self, floats: frozenset[int], error: Callable[[Path], float], allowed: float, base: Mixed
    ) -> frozenset[int]:
        """More segments in floats, until the error is allowed: the next is the one that wins back most answers."""
        while len(floats) < len(self.segments):
            others = [i for i in range(len(self.segments)) if i not in floats]
            errors = {i: error(self.write(floats | {i})) for i in others}
            best = min(others, key=lambda i: (errors[i], base.flips_ms[i]))
            floats = floats | {best}
            if errors[best] <= allowed:
                break
        return floats

    def write(self, floats: frozenset[int]) -> Path:
        """The file with these segments in floats; one that cannot be quantised any further is the original."""
        if len(floats) == len(self.segments):
            return self.file
        if floats not in self.written:
            name = "".join("f" if i in floats else "i" for i in range(len(self.segments)))
            out = self.folder / f"mixed-{name}.onnx"
            if not out.exists():
                self.quantise([node for i in sorted(floats) for node in self.segments[i].nodes], out)
            self.written[floats] = out
        return self.written[floats]


# ---- cutting


def _pieces(graph: onnx.GraphProto) -> list[Segment]:
    """The graph cut wherever a single tensor is alive; pieces without layers belong to the one before."""
    constants = {tensor.name for tensor in graph.initializer}
    last = {name: at for at, node in enumerate(graph.node) for name in node.input if name not in constants}
    last |= {value.name: len(graph.node) for value in graph.output}
    alive = {value.name for value in graph.input if value.name not in constants}
    pieces: list[Segment] = []
    nodes: list[onnx.NodeProto] = []
    for at, node in enumerate(graph.node):
        nodes.append(node)
        alive |= {name for name in node.output if name in last}
        alive = {name for name in alive if last[name] > at}
        if len(alive) > 1 and at + 1 < len(graph.node):
            continue
        layers = tuple(one.name for one in nodes if one.op_type in LAYERS)
        names = tuple(one.name for one in nodes)
        if pieces and not (layers and pieces[-1].layers):
            pieces[-1] = Segment(pieces[-1].nodes + names, pieces[-1].layers + layers)
        else:
            pieces.append(Segment(names, layers))
        nodes = []
    return pieces
