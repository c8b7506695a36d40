"""Small ONNX files for one kernel of given sizes, to be measured on a device: an operator, a pair, a fused block.

Weights are one number that the runtime repeats, since time does not depend on them, so a file has some hundred
bytes; inputs come from outside, so nothing that is to be timed can be computed beforehand. The same sizes give the
same bytes.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from onnx import NodeProto, TensorProto, helper

from nasflow.errors import NasflowError
from nasflow.hardware.device import Device
from nasflow.hardware.floor import floor_ms, unsure
from nasflow.hardware.graph import CLAMPS, CONVOLUTIONS, POOLS, PRODUCTS
from nasflow.hardware.timing import Latency

OPSET = 17
AT_ONCE = 24  # files measured in turns; a device holds all of them in memory
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.UINT8}
VALUE = 0.01  # of all weights: neither 0 nor 1, which are optimised away, nor so small that it is not a normal number
SCALE = 0.02  # of all quantised tensors

ALONE = {
    "Abs", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu", "LogSoftmax", "Neg", "Reciprocal", "Relu",
    "Selu", "Sigmoid", "Softmax", "Softplus", "Softsign", "Sqrt", "Tanh",
}  # fmt: skip
TOGETHER = {"Add", "Div", "Max", "Min", "Mul", "Pow", "PRelu", "Sub", "Sum"}
MEANS = {"ReduceMax", "ReduceMean", "ReduceMin"}
RESHAPES = {"Reshape", "Squeeze", "Unsqueeze"}
ORDERS = {0: "nearest", 1: "linear", 3: "cubic"}


class CannotProbe(NasflowError):
    """An operator that no file can be written for."""


class Timed(NamedTuple):
    """Milliseconds of each kernel and of a call that computes nothing, and the numbers of the kernels that were
    measured on a machine too noisy to tell (see nasflow/hardware/floor.py)."""

    ms: list[float]
    call_ms: float
    unsure: set[int]


def probe(kind: str, features: Mapping[str, float]) -> bytes:
    """The file that computes one kernel, as `fusion.Kernel` calls it: kind "Conv+Relu" and its features.

    What is not given follows: batch and stride 1, kernel 3, a square map of 28, 64 channels, as many out as in, outputs
    as large as inputs over the stride. Raises CannotProbe.
    """
    writer = _Writer()
    steps = expanded(kind, features)
    return writer.file(_written(writer, steps))


def block(kind: str, features: Mapping[str, float]) -> bytes:
    """The file that computes one kernel as it is inside a network: a convolution of one channel makes its input, and
    a convolution that reads one place takes its result. So the layout that a runtime prefers for its maps is the one
    it has there, and is not made and undone for this kernel alone. `around` is to be subtracted.
    """
    return _surrounded(expanded(kind, features), leave_out=False)


def around(kind: str, features: Mapping[str, float]) -> bytes:
    """The file of `block` without the kernel."""
    return _surrounded(expanded(kind, features), leave_out=True)


def known(label: str) -> bool:
    """Whether a file can be written for an operator of this label."""
    name, _, dtype = label.rstrip(")").partition("(")
    return name in KINDS and (dtype or "float32") in TYPES


def within(kind: str) -> bool:
    """Whether a kernel works on maps of floats from its first operator to its last, so that a block can hold it."""
    return not any(
        name in (*PRODUCTS, *RESHAPES, "Flatten") or name.endswith("Linear") or dtype != "float32"
        for name, dtype, _ in expanded(kind, {})
    )


def nothing() -> bytes:
    """The file that computes nothing: what any call costs, whatever is in it."""
    writer = _Writer()
    return writer.file(writer.node("Identity", [writer.input((1, 1), "float32")]))


def kernel_ms(
    device: Device, kernels: Sequence[tuple[str, Mapping[str, float]]], *, inside: bool = True
) -> Timed:
    """How long each kernel (kind and features) takes.

    A kernel's time is that of a file with it minus that of a file without: with `inside`, both have around them what
    a network has (`block`), where the kernel allows; else there is nothing else in the file. What comes out below
    nothing by chance is 0. Times are floors, so that a machine that is slower for a while does not move them.
    Raises DeviceError, Unavailable or CannotProbe.
    """
    pairs = [
        (block(kind, features), around(kind, features))
        if inside and within(kind)
        else (probe(kind, features), nothing())
        for kind, features in kernels
    ]
    contents = list(dict.fromkeys([nothing(), *(content for pair in pairs for content in pair)]))
    told = dict(zip(contents, _measured(device, contents), strict=True))
    times = {content: floor_ms(one) for content, one in told.items()}
    return Timed(
        [max(0.0, times[whole] - times[rest]) for whole, rest in pairs],
        times[nothing()],
        {number for number, pair in enumerate(pairs) if any(unsure(told[content]) for content in pair)},
    )


def _measured(device: Device, contents: Sequence[bytes]) -> list[Latency]:
    told: list[Latency] = []
    with tempfile.TemporaryDirectory() as folder:
        for at in range(0, len(contents), AT_ONCE):
            files = []
            for number, content in enumerate(contents[at : at + AT_ONCE], start=at):
                files.append(Path(folder) / f"probe{number}.onnx")
                files[-1].write_bytes(content)
            told += device.latencies(files)
    return told


def expanded(kind: str, features: Mapping[str, float]) -> list[Step]:
    """Operator, type and complete features of each operator of a kernel."""
    found: list[Step] = []
    for number, label in enumerate(kind.split("+")):
        parsed = re.fullmatch(r"(\w+?)(?:\((\w+)\))?", label)
        if parsed is None:
            raise CannotProbe(f"expected a kernel such as 'Conv+Relu' or 'Conv(int8)', got {kind!r}")
        if (parsed[2] or "float32") not in TYPES:
            raise CannotProbe(f"{parsed[1]} of {parsed[2]}: expected one of {sorted(TYPES)}")
        if number:
            prefix = f"{number}."
            given = {key[len(prefix) :]: value for key, value in features.items() if key.startswith(prefix)}
            before = found[-1][2]
            given = {
                "batch": before["batch"], "channels_in": before["channels_out"], "height": before["height_out"],
                "width": before["width_out"], **given,
            }  # fmt: skip
        else:
            given = {key: value for key, value in features.items() if "." not in key}
        found.append((parsed[1], parsed[2] or "float32", _complete(parsed[1], given)))
    return found


def _complete(kind: str, given: Mapping[str, float]) -> dict[str, float]:
    """The features of an operator with what was not said."""
    if unfit := {key: value for key, value in given.items() if not 0 <= value < math.inf or value % 1}:
        raise CannotProbe(f"sizes of {kind}: expected whole numbers of at least 0, got {unfit}")
    windowed = kind in CONVOLUTIONS or kind in POOLS
    told = {
        "batch": 1.0,
        "channels_in": 64.0,
        "height": 1.0 if kind in PRODUCTS else 28.0,
        "inputs": 1.0,
    } | dict(given)
    if windowed:
        told = {"kernel": 3.0, "stride": 1.0, "dilation": 1.0} | told
    told = {"width": 1.0 if kind in PRODUCTS else told["height"], "channels_out": told["channels_in"]} | told
    if kind in CONVOLUTIONS:
        told = {"groups": told["channels_in"] if kind == "DepthwiseConv" else 1.0} | told
    alone = kind.startswith("Global") or kind in MEANS
    for side in ("height", "width"):
        stride = told.get(f"stride_{side}", told.get("stride", 1.0)) if windowed else 1.0
        grown = told[side] * stride if kind == "ConvTranspose" else math.ceil(told[side] / stride)
        told = {f"{side}_out": 1.0 if alone else float(grown)} | told
    return told


# ---- one operator

Step = tuple[str, str, dict[str, float]]


def _surrounded(kernel: Sequence[Step], *, leave_out: bool) -> bytes:
    kind, dtype, first = kernel[0]
    shape = {name: first[name] for name in ("batch", "height", "width")}
    wide = {**shape, "channels_in": 1.0, "channels_out": first["channels_in"], "kernel": 1.0}
    steps = [("Conv", dtype, _complete("Conv", wide))]
    if kind not in CONVOLUTIONS:  # or it might run together with the one before it
        same = {**shape, "channels_in": first["channels_in"], "kernel": 1.0}
        steps.append(("MaxPool", dtype, _complete("MaxPool", same)))
    shared = len(steps) - 1
    steps += [] if leave_out else kernel
    last = steps[-1][2]
    one_place = {
        "batch": last["batch"], "channels_in": last["channels_out"], "channels_out": 8.0, "kernel": 1.0,
        "height": last["height_out"], "stride": last["height_out"],
        "width": last["width_out"], "stride_width": last["width_out"],
    }  # fmt: skip
    steps.append(("Conv", dtype, _complete("Conv", one_place)))
    writer = _Writer()
    return writer.file(_written(writer, steps, shared))


def _written(writer: _Writer, steps: Sequence[Step], shared: int | None = None) -> str:
    """Write operators one after the other; the name of the last result. The result of the step `shared` is also what
    later ones read besides the one before, where its shape fits."""
    kind, dtype, sizes = steps[0]
    last = writer.input(_inputs(kind, sizes), dtype)
    for number, (kind, dtype, sizes) in enumerate(steps):
        stays = number + 1 < len(steps) and steps[number + 1][0] in CLAMPS
        last = _step(writer, kind, dtype, sizes, last, quantise=not stays)
        if number == shared:
            writer.at_hand = {_inputs(*steps[number + 1][::2]): last}
    return last


def _step(
    writer: _Writer, kind: str, dtype: str, sizes: Mapping[str, float], x: str, *, quantise: bool
) -> str:
    """Write one operator that reads x; an integer one between its conversions, as files spell it."""
    size = {name: int(value) for name, value in sizes.items()}
    if kind == "QuantizeLinear":
        return writer.quantised(x)
    if kind == "DequantizeLinear":
        return writer.dequantised(x)
    tools = _Integers(writer) if dtype == "int8" else _Floats(writer, dtype)
    made = _node(tools, kind, size, tools.read(x))
    return tools.made(made) if quantise else made


def _node(tools: _Floats, kind: str, size: Mapping[str, int], x: str) -> str:
    """Write the nodes of one operator on data; the name of its result."""
    node, weights = tools.writer.node, tools.weights
    channels = size["channels_out"]
    if kind in CONVOLUTIONS:
        groups, kernel = size["groups"], _sides(size, "kernel", 3)
        between = (size["channels_in"], channels // groups) if kind == "ConvTranspose" else (
            channels, size["channels_in"] // groups
        )  # fmt: skip
        window = {"strides": _sides(size, "stride", 1), "dilations": _sides(size, "dilation", 1)}
        return node(
            "ConvTranspose" if kind == "ConvTranspose" else "Conv",
            [x, weights((*between, *kernel)), weights((channels,), bias=True)],
            group=groups, **window, **_pads(kind, size),
        )  # fmt: skip
    if kind == "Gemm":
        return node(
            "Gemm",
            [x, weights((channels, size["channels_in"])), weights((channels,), bias=True)],
            transB=1,
        )
    if kind == "MatMul":
        if size["inputs"] == 1:
            return node(kind, [x, weights((size["channels_in"], channels))])
        return node(
            kind, [x, tools.input((size["batch"], size.get("heads", 1), size["channels_in"], channels))]
        )
    if kind in POOLS:
        window = {"kernel_shape": _sides(size, "kernel", 3), "strides": _sides(size, "stride", 1)}
        return node(kind, [x], **window, **_pads(kind, size))
    if kind in ("GlobalAveragePool", "GlobalMaxPool") or kind in ALONE:
        return node(kind, [x], **({"axis": size["axis"]} if "axis" in size else {}))
    if kind in TOGETHER:
        shape = _together(size)
        others = [tools.input(shape) for _ in range(size["inputs"] - 1)]
        return node(kind, [x, *(others or [weights((1,))])])
    if kind in ("Swish", "HardSwishInParts"):
        return node("Mul", [x, node("Sigmoid" if kind == "Swish" else "HardSigmoid", [x])])
    if kind == "HardSigmoidInParts":
        clipped = node("Clip", [node("Add", [x, weights((), 3.0)]), weights((), 0.0), weights((), 6.0)])
        return node("Div", [clipped, weights((), 6.0)])
    if kind == "Clip":
        return node(kind, [x, weights((), 0.0), weights((), 6.0)])
    if kind in MEANS:
        axes = [axis for axis, name in ((1, "channels"), (2, "height"), (3, "width")) if _reduced(size, name)]
        return node(kind, [x], axes=axes or [2, 3])
    if kind == "BatchNormalization":
        return node(kind, [x, *(weights((channels,), value) for value in (0.5, VALUE, VALUE, 0.5))])
    if kind == "LayerNormalization":
        axis = size.get("axis", 1)
        return node(
            kind, [x, *(weights(_inputs(kind, size)[axis:], value) for value in (0.5, VALUE))], axis=axis
        )
    if kind == "Resize":
        sizes = tools.writer.integers((size["batch"], channels, size["height_out"], size["width_out"]))
        order = ORDERS[size.get("order", 1)]
        rounding = {"nearest_mode": "floor"} if order == "nearest" else {}
        return node(kind, [x, "", "", sizes], mode=order, **rounding)
    if kind == "Concat":
        return node(kind, [x, *map(tools.input, _joined(size))], axis=size.get("axis", 1))
    if kind == "Flatten":
        return node(kind, [x], axis=size.get("axis", 1))
    if kind in RESHAPES:
        shape = (size["batch"], channels, size["height_out"], size["width_out"])
        return node("Reshape", [x, tools.writer.integers(shape)])
    raise CannotProbe(
        f"no file can be written for the operator {kind}; expected one of"
        f" {', '.join(sorted(KINDS))}; measure files that have others as a whole"
    )


KINDS = {
    *CONVOLUTIONS, *PRODUCTS, *POOLS, *ALONE, *TOGETHER, *MEANS, *RESHAPES, "BatchNormalization", "Clip", "Concat",
    "DequantizeLinear", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoidInParts", "HardSwishInParts",
    "LayerNormalization", "QuantizeLinear", "Resize", "Swish",
}  # fmt: skip


def _inputs(kind: str, size: Mapping[str, float]) -> tuple[int, ...]:
    """The shape of an operator's first input."""
    batch, channels, height, width = (int(size[name]) for name in ("batch", "channels_in", "height", "width"))
    if kind == "Gemm":
        return height * batch, channels
    if kind == "MatMul":
        return batch, int(size.get("heads", 1)), height, channels
    return batch, channels, height, width


def _sides(size: Mapping[str, int], name: str, default: int) -> list[int]:
    height = size.get(name, default)
    return [height, size.get(f"{name}_width", height)]


def _pads(kind: str, size: Mapping[str, int]) -> dict[str, list[int]]:
    """The padding that makes an output of the wanted size, as even as it can be."""
    begins, ends, more = [], [], []
    for side, kernel, stride, dilation in zip(
        ("height", "width"),
        _sides(size, "kernel", 3), _sides(size, "stride", 1), _sides(size, "dilation", 1), strict=True,
    ):  # fmt: skip
        whole, wanted, extent = size[side], size[f"{side}_out"], dilation * (kernel - 1) + 1
        if kind == "ConvTranspose":
            total = (whole - 1) * stride + extent - wanted
        else:
            total = (wanted - 1) * stride + extent - whole
        more.append(max(0, -total) if kind == "ConvTranspose" else 0)
        begin = max(0, math.ceil(total / 2))
        fits = kind != "ConvTranspose" and (whole + 2 * begin - extent) // stride + 1 == wanted
        begins.append(begin)
        ends.append(begin if fits else max(0, total - begin))
    return {"pads": begins + ends} | ({"output_padding": more} if any(more) else {})


def _together(size: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of the other inputs of an elementwise operator."""
    out = tuple(size[name] for name in ("batch", "channels_out", "height_out", "width_out"))
    whole = out == tuple(size[name] for name in ("batch", "channels_in", "height", "width"))
    return (*out[:2], 1, 1) if size.get("broadcast") and whole else out


def _joined(size: Mapping[str, int]) -> list[tuple[int, ...]]:
    """The shapes of the other inputs of a Concat, which share what the first leaves."""
    axis, others = size.get("axis", 1), size["inputs"] - 1
    shape = [size[name] for name in ("batch", "channels_in", "height", "width")]
    left = (size["batch"], size["channels_out"], size["height_out"], size["width_out"])[axis] - shape[axis]
    shares = [left // others + (i < left % others) for i in range(others)] if others else []
    return [(*shape[:axis], share, *shape[axis + 1 :]) for share in shares]


def _reduced(size: Mapping[str, int], name: str) -> bool:
    whole = size["channels_in" if name == "channels" else name]
    return whole > 1 and size[f"{name}_out"] == 1


# ---- writing


@dataclass
class _Writer:
    """Collects the nodes and inputs of a file."""

    nodes: list[NodeProto] = field(default_factory=list)
    inputs: list[tuple[str, int, tuple[int, ...]]] = field(default_factory=list)
    at_hand: dict[tuple[int, ...], str] = field(default_factory=dict)  # results that may serve as inputs

    def name(self, of: str) -> str:
        return f"{of}{len(self.nodes)}"

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        made = self.name(kind)
        self.nodes.append(helper.make_node(kind, inputs, [made], name=made, **attributes))
        return made

    def input(self, shape: Sequence[int], dtype: str) -> str:
        name = f"input{len(self.inputs)}" if self.inputs else "input"
        self.inputs.append((name, TYPES[dtype], tuple(shape)))
        return name

    def integers(self, values: Sequence[int]) -> str:
        made = self.name("sizes")
        tensor = helper.make_tensor(made, TensorProto.INT64, [len(values)], values)
        self.nodes.append(helper.make_node("Constant", [], [made], value=tensor))
        return made

    def constant(self, shape: Sequence[int], value: float, element: int) -> str:
        """One number repeated to a shape."""
        if math.prod(shape) == 1:
            made = self.name("number")
            tensor = helper.make_tensor(made, element, list(shape), [value])
            self.nodes.append(helper.make_node("Constant", [], [made], value=tensor))
            return made
        size = self.integers(shape)
        return self.node("ConstantOfShape", [size], value=helper.make_tensor("value", element, [1], [value]))

    def quantised(self, x: str) -> str:
        return self.node("QuantizeLinear", [x, self.constant((), SCALE, TensorProto.FLOAT), self._zero()])

    def dequantised(self, x: str) -> str:
        return self.node("DequantizeLinear", [x, self.constant((), SCALE, TensorProto.FLOAT), self._zero()])

    def _zero(self) -> str:
        return self.constant((), 0, TensorProto.UINT8)  # so that a clamp at 0 is already done

    def file(self, output: str) -> bytes:
        quantised = output.startswith("QuantizeLinear")
        floats = {kind for _, kind, _ in self.inputs} - {TensorProto.UINT8} or {TensorProto.FLOAT}
        kind = TensorProto.UINT8 if quantised else floats.pop()
        graph = helper.make_graph(
            self.nodes,
            "probe",
            [helper.make_tensor_value_info(*one) for one in self.inputs],
            [helper.make_tensor_value_info(output, kind, None)],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="nasflow"
        )
        content: bytes = model.SerializeToString()
        return content


@dataclass
class _Floats:
    """How an operator on floats gets at its inputs and weights."""

    writer: _Writer
    dtype: str

    def read(self, x: str) -> str:
        return x

    def made(self, x: str) -> str:
        return x

    def input(self, shape: Sequence[int]) -> str:
        return self.writer.at_hand.get(tuple(shape)) or self.writer.input(shape, self.dtype)

    def weights(self, shape: Sequence[int], value: float = VALUE, *, bias: bool = False) -> str:
        return self.writer.constant(shape, value, TYPES[self.dtype])


class _Integers(_Floats):
    """The same for an operator that is computed in 8-bit integers: everything between conversions."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__(writer, "int8")

    def read(self, x: str) -> str:
        return x if _is_float(x) else self.writer.dequantised(x)

    def made(self, x: str) -> str:
        return self.writer.quantised(x)

    def input(self, shape: Sequence[int]) -> str:
        return self.writer.dequantised(self.writer.input(shape, "int8"))

    def weights(self, shape: Sequence[int], value: float = VALUE, *, bias: bool = False) -> str:
        if not shape:  # a bound, which stays a float
            return self.writer.constant(shape, value, TensorProto.FLOAT)
        element, scale = (TensorProto.INT32, SCALE * SCALE) if bias else (TensorProto.INT8, SCALE)
        stored = self.writer.constant(shape, 1, element)
        zero = self.writer.constant((), 0, element)
        return self.writer.node(
            "DequantizeLinear", [stored, self.writer.constant((), scale, TensorProto.FLOAT), zero]
        )


def _is_float(name: str) -> bool:
    """Whether a tensor between integer operators is not quantised: the result of one that a clamp follows."""
    return not name.startswith(("input", "QuantizeLinear"))
